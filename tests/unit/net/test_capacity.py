"""How many connections fit, and the log lines of a shortage."""

import resource
import socket
import subprocess
import sys

import pytest

import minisocks.net.capacity
from kit import inside
from kit.support import ROOT, Clock, log_kept, no_descriptor_left
from minisocks.net import capacity
from minisocks.net.capacity import Edge, find_room


@pytest.mark.parametrize(
    "descriptors, memory, connections",
    [
        (1032, None, 500),
        (1033, None, 500),
        (10, None, 0),
        (None, 1 << 20, 102),
        (1032, 1 << 20, 102),
        (1032, 1 << 30, 500),
        (None, None, None),
    ],
)
def test_the_scarcest_counts(monkeypatch, descriptors, memory, connections):
    """Descriptors or memory, whichever runs out first, says how many fit."""
    inside.set_available_memory(monkeypatch, memory)

    room = find_room(descriptors)

    assert (connections, descriptors, memory) == room[:3]
    assert ("about %s connections" % connections in str(room)) == (connections is not None)
    assert ("%s descriptors" % descriptors in str(room)) == (descriptors is not None)
    assert ("MiB of memory" in str(room)) == (memory is not None)


@pytest.mark.parametrize(
    "descriptors, handshakes, kept, limit",
    [
        (1024, 256, 248, 372),
        (4096, 256, 256, 1904),
        (1024, 64, 64, 464),
        # However few there are, some are for connections and some for refusals.
        (256, 256, 56, 84),
        (48, 256, 4, 6),
        (16, 256, 0, 4),
        (None, 256, 0, None),
    ],
)
def test_descriptors_are_left_for_handshakes(monkeypatch, descriptors, handshakes, kept, limit):
    """Connections leave alone the descriptors that handshakes and refusals need."""
    inside.set_available_memory(monkeypatch, 0)

    room = find_room(descriptors, handshakes)

    assert (0, kept, limit) == (room.connections or 0, room.for_handshakes, room.limit)
    assert ("and %d for handshakes" % kept in str(room)) == bool(kept)


def test_memory_is_what_the_kernel_says():
    """The figure is no more than /proc/meminfo has available."""
    with open("/proc/meminfo") as file:
        total = int(file.readline().split()[1]) * 1024

    assert 0 < find_room(None).memory_bytes < total


@pytest.mark.parametrize(
    "files, expected",
    [
        ({"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   4 kB\n"}, 4096),
        # A container's own limit, in both kinds of cgroup.
        (
            {
                "/proc/meminfo": "MemAvailable: 4 kB\n",
                "/sys/fs/cgroup/memory.max": "3000\n",
                "/sys/fs/cgroup/memory.current": "1000\n",
            },
            2000,
        ),
        (
            {
                "/proc/meminfo": "MemAvailable: 4 kB\n",
                "/sys/fs/cgroup/memory.max": "max\n",
                "/sys/fs/cgroup/memory.current": "1000\n",
            },
            4096,
        ),
        (
            {
                "/sys/fs/cgroup/memory/memory.limit_in_bytes": "500",
                "/sys/fs/cgroup/memory/memory.usage_in_bytes": "900",
            },
            0,
        ),
        # Old kernels do not say what is available; other systems say nothing.
        ({"/proc/meminfo": "MemTotal: 9 kB\n"}, None),
        ({}, None),
    ],
)
def test_memory_of_machine_and_container(monkeypatch, tmp_path, files, expected):
    """What is left of the machine's memory and of the container's, the smaller one."""

    def opened(path, *args, **kwargs):
        if path not in files:
            raise FileNotFoundError(path)
        copy = tmp_path / "file"
        copy.write_text(files[path])
        return copy.open()

    monkeypatch.setattr(capacity, "open", opened, raising=False)

    assert expected == find_room(None).memory_bytes


@pytest.mark.parametrize("soft, hard", [(64, 80), (64, 64)])
def test_descriptor_limit_is_raised(soft, hard):
    """The soft limit becomes the hard one, and that is what is reported."""
    code = (
        "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (%d, %d));"
        "from minisocks.net.capacity import raise_descriptor_limit as f;"
        "print(f(), *r.getrlimit(r.RLIMIT_NOFILE))"
    )
    out = subprocess.check_output([sys.executable, "-c", code % (soft, hard)], cwd=ROOT)

    assert [hard] * 3 == [int(word) for word in out.split()]


def test_no_limit_is_no_number(monkeypatch):
    """Where descriptors have no limit, none is reported."""
    monkeypatch.setattr(resource, "getrlimit", lambda which: (64, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: None)

    assert capacity.raise_descriptor_limit() is None


@pytest.mark.parametrize("how", ["told", "listed", "by a number"])
def test_descriptors_to_spare(monkeypatch, how):
    """Of the limit a quarter less than are open; each that is opened is one less."""
    if how != "told":
        monkeypatch.setattr(capacity.os, "stat", lambda path: Unknown)
    if how == "by a number":
        monkeypatch.setattr(capacity.os, "listdir", not_there)
    limit, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = capacity.descriptors_to_spare()
    fillers = [socket.socket() for _ in range(10)]
    try:
        assert before - 10 == capacity.descriptors_to_spare()
        assert before <= limit - limit // 4
    finally:
        for filler in fillers:
            filler.close()
    assert before == capacity.descriptors_to_spare()


class Unknown:
    """What a kernel before Linux 6.2 says of /proc/self/fd."""

    st_size = 0


def not_there(path):
    """Have no /proc."""
    raise FileNotFoundError(path)


def test_without_a_descriptor_there_is_none_to_spare(monkeypatch):
    """There is none either where it takes one to count them."""
    monkeypatch.setattr(capacity.os, "stat", lambda path: Unknown)
    with no_descriptor_left():
        limit, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert -(limit // 4) == capacity.descriptors_to_spare()


def test_without_a_limit_all_are_to_spare(monkeypatch):
    """None is no number, here as well."""
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY,) * 2)
    assert capacity.descriptors_to_spare() is None


# Shortages: one line when they begin, one when they are over, and no flood of lines


@pytest.fixture
def edge(monkeypatch):
    """An edge with a clock and its lines."""
    edge = Edge("over")
    edge.clock = Clock()
    monkeypatch.setattr(minisocks.net.capacity.time, "monotonic", edge.clock)
    with log_kept("minisocks") as log:
        edge.lines = log.lines
        yield edge


def test_each_edge_is_logged_once(edge):
    """A shortage is logged once, however often it is reached meanwhile."""
    for _ in range(3):
        edge.reached("%s", "nothing left")
    for _ in range(3):
        edge.passed()
    assert ["at capacity: nothing left", "over"] == edge.lines


def test_one_that_comes_and_goes_is_logged_once_in_a_while(edge):
    """A shortage that stays is logged later, if it came too soon after another one."""
    for _ in range(5):
        edge.reached("nothing left")
        edge.passed()
    edge.reached("nothing left")
    assert ["at capacity: nothing left", "over"] == edge.lines
    edge.clock.now += minisocks.net.capacity.EDGE_SECONDS
    edge.reached("nothing left")
    assert ["at capacity: nothing left", "over", "at capacity: nothing left"] == edge.lines
