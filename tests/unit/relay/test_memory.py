"""``--memory-limit``: the greediest that is stalled is shed, and never the process."""

import contextlib
import hashlib
import os
import random
import socket
import sys
import threading

import pytest

import minisocks.net.pipes
from kit import inside
from kit.relaying import ENDS, Relayed
from kit.support import (
    GREETING,
    REJECTED4,
    CommandLine,
    FakeTarget,
    Talk,
    echo,
    failure5,
    run_proxy,
    socks4,
    socks5,
    wait_until,
)
from minisocks.errors import LimitReached
from minisocks.net.loop import Loop, run_in
from minisocks.relay.memory import BYTES_EACH, Memory
from minisocks.relay.pair import Pair

MIB = 1 << 20


class Stub(Pair):
    """A pair that holds as much as ``size``, and notes when it is shed."""

    __slots__ = ("loop", "order", "size")

    def __init__(self, loop, order, size):
        self.loop, self.order, self.size = loop, order, 0
        inside.add_job(loop, self)
        self.grow(size)

    def grow(self, size):
        self.size += size
        self.loop.pipes.pending_bytes += size
        self.loop.stalls(self)

    @property
    def held(self):
        return self.size

    def shed(self, why):
        self.order.append((self.size, why))
        self.loop.pipes.pending_bytes -= self.size
        self.size = 0
        self.loop.done(self)


@pytest.fixture
def loop():
    """A loop that does not run: its memory is looked at by hand."""
    made = Loop()
    yield made
    inside.forget_jobs(made)
    made.stop()


def test_the_greediest_go_first_and_no_more_than_must(loop):
    """They go in the order of what they hold, until it is under the limit."""
    seed = random.randrange(1 << 30)
    print("seed %d" % seed)
    rng, order = random.Random(seed), []
    sizes = rng.sample(range(1000, 60000), 600)
    memory = Memory(loop, ())
    pairs = [Stub(loop, order, size) for size in sizes]
    memory.change(memory.used - 100000)
    inside.shed(memory)
    shed = [size for size, _why in order]
    assert sorted(sizes, reverse=True)[: len(shed)] == shed
    assert sum(shed) + len(shed) * BYTES_EACH >= 100000
    assert sum(shed[:-1]) + (len(shed) - 1) * BYTES_EACH < 100000
    assert 1 == len({why for _size, why in order})
    assert "--memory-limit" in order[0][1]
    assert len(pairs) == len(set(inside.jobs(loop)) - {memory}) + len(shed)


def test_a_pair_long_stalled_is_shed_before_one_that_flows(loop):
    """A fast transfer holds much for a moment at a time, and is not shed for that."""
    order = []
    memory = Memory(loop, ())
    for size in (1000, 3000, 2000):
        loop.stalled[Stub(loop, order, size)] -= 60
    Stub(loop, order, MIB)
    memory.change(memory.used - 3 * BYTES_EACH - 6000)
    inside.shed(memory)
    assert [3000, 2000, 1000] == [size for size, _why in order]


def test_many_more_than_are_remembered_can_be_shed(loop):
    """Pairs that flow again are left alone, also where all must go."""
    order = []
    memory = Memory(loop, ())
    pairs = [Stub(loop, order, 5000) for _ in range(1000)]
    flowing = pairs[::2]
    for pair in flowing:
        loop.pipes.pending_bytes -= pair.size
        pair.size = 0
    memory.change(1)
    inside.shed(memory)
    assert [5000] * 500 == [size for size, _why in order]
    assert set(flowing) == set(inside.jobs(loop)) - {memory}
    assert {} == loop.stalled


def test_off_it_is_not_even_asked(loop):
    """Without a limit nothing is looked at when a pair stalls, and with one each time."""
    memory = Memory(loop, ())
    assert not inside.looks_for_stalled(memory, loop)
    memory.change(10 * MIB)
    assert inside.looks_for_stalled(memory, loop)
    memory.change(None)
    assert not inside.looks_for_stalled(memory, loop)
    assert memory not in inside.jobs(loop)


def test_what_is_counted(loop):
    """The loop's buffer, each connection and pending handshake, and what waits."""
    pending = []
    memory = Memory(loop, pending)
    empty = memory.used
    Stub(loop, [], 70000)
    assert empty + 70000 + BYTES_EACH == memory.used
    pending.append("a handshake")
    assert empty + 70000 + 2 * BYTES_EACH == memory.used


def test_a_handshake_is_admitted_if_there_is_room_or_room_is_made():
    """With nothing stalled that could be shed it is refused; and each one counts itself."""
    running, pending, order = Loop(), ["this handshake"], []
    memory = Memory(running, pending)
    running.start()
    try:
        size = memory.used
        run_in(running, lambda: memory.change(size))
        memory.admit()
        run_in(running, lambda: Stub(running, order, 70000))
        memory.admit()
        assert [70000] == [size for size, _why in order]
        pending.append("another one")
        with pytest.raises(LimitReached, match="no memory for more connections"):
            memory.admit()
    finally:
        inside.forget_jobs(running)
        running.stop()


@pytest.fixture
def relayed(monkeypatch):
    """Makes relayed connections in a loop with a limit of memory."""
    monkeypatch.setattr(minisocks.net.pipes, "MAX_PIPES", 0)
    running = Loop()
    running.start()
    made = []

    def make(**kwargs):
        made.append(Relayed(running, small=ENDS, **kwargs))
        return made[-1].start()

    yield make
    running.stop()
    for each in made:
        each.close()


@pytest.mark.parametrize("first", ENDS)
def test_what_is_counted_is_what_is_held(relayed, first):
    """Bytes that wait are counted while they wait, and not when they have been taken."""
    pair = relayed()
    one, other = pair.ends(first)
    sent = pair.fill(one)
    pipes = pair.loop.pipes
    assert 0 < pair.pair.held == pipes.pending_bytes <= 65536
    one.finish()
    other.expect(sent).expect_eof()
    wait_until(lambda: (0, 0) == (pair.pair.held, pipes.pending_bytes))


@pytest.mark.parametrize("leave", ["reset", "abort"])
def test_a_pair_that_goes_is_not_counted(relayed, leave):
    """However a stalled pair ends, what it held is given back."""
    pair = relayed(early=b"x" * 5000)
    pair.fill(pair.client)
    pair.fill(pair.target)
    assert pair.loop.pipes.pending_bytes
    if leave == "abort":
        pair.loop.call_soon(pair.pair, pair.pair.abort, "test")
    else:
        pair.client.reset()
        pair.target.reset()
    pair.wait_closed()
    wait_until(lambda: (0, {}) == (pair.loop.pipes.pending_bytes, pair.loop.stalled))


def test_a_stalled_pair_is_shed_and_others_live(relayed, access_log):
    """Both its ends are reset, the log has the reason; a pair that flows notices nothing."""
    quiet, stalled = relayed(), relayed()
    stalled.fill(stalled.target)
    memory = Memory(quiet.loop, ())
    quiet.loop.call_soon(quiet.pair, memory.change, memory.used - 1)
    stalled.wait_closed()
    why = "why='shed: it held most of what its receiver does not take (--memory-limit "
    assert why in access_log.wait_for("end=memory-limit")
    stalled.target.expect_reset()
    quiet.client.send(b"x")
    quiet.target.expect(b"x")


# In a proxy


@pytest.mark.parametrize(
    "message, refusal",
    [
        (lambda port: socks4("127.0.0.1", port), REJECTED4),
        (lambda port: GREETING + socks5("127.0.0.1", port), b"\x05\x00" + failure5(2)),
    ],
    ids=["socks4", "socks5"],
)
def test_with_none_to_shed_new_ones_are_refused(target, access_log, message, refusal):
    """Idle connections keep their places; a reload makes room, or takes it."""
    with run_proxy(memory_limit=MIB) as proxy, Talk.to(proxy.port) as first:
        assert 0 == first.connect5("127.0.0.1", target.port)[0]
        first.send(b"x").expect(b"x")
        inside.set_memory_limit(proxy.services.memory, 65536 + BYTES_EACH + 10)
        with Talk.to(proxy.port) as talk:
            talk.send(message(target.port)).expect(refusal).expect_eof()
        line = access_log.wait_for("end=limit")
        assert "why='there is no memory for more connections (--memory-limit " in line
        first.send(b"x").expect(b"x")
        proxy.reload(proxy.config._replace(memory_limit=None))
        with Talk.to(proxy.port) as talk:
            assert 0 == talk.connect5("127.0.0.1", target.port)[0]
        proxy.reload(proxy.config._replace(memory_limit=2 * MIB))
        assert 2 * MIB == inside.memory_limit(proxy.services.memory)


def kilobytes(pid):
    """Return the resident memory of a process, in KiB."""
    with open("/proc/%d/status" % pid) as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["VmRSS"].split()[0])


def small(port):
    """Return a client whose kernel buffers little."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    return Talk(sock)


@pytest.mark.soak
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc of the process")
@pytest.mark.parametrize("limit, most", [("2MiB", 5120), ("none", None)])
def test_the_process_stays_small_when_clients_do_not_read(limit, most):
    """Hundreds of clients do not read their downloads; another has all its bytes meanwhile."""
    stop, stalled = threading.Event(), 500

    def pour(talk):
        if talk.sock.recv(1) == b"e":
            echo(talk)
            return
        talk.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        talk.sock.settimeout(0.1)
        while not stop.is_set():
            try:
                talk.sock.send(bytes(65536))
            except socket.timeout:
                pass

    with contextlib.ExitStack() as stack:
        target = stack.enter_context(FakeTarget(pour))
        command = stack.enter_context(CommandLine("-l", "0", "--memory-limit", limit))
        stack.callback(stop.set)
        pid, port = command.process.pid, command.ports[0]

        def honest():
            data = os.urandom(300000)
            with Talk.to(port) as talk:
                assert 0 == talk.connect5("127.0.0.1", target.port)[0]
                talk.send(b"e")
                sender = threading.Thread(target=lambda: talk.send(data).finish())
                sender.start()
                got = talk.rest()
                sender.join()
            return hashlib.sha256(got).digest() == hashlib.sha256(data).digest()

        assert honest()
        before = kilobytes(pid)
        talks = []
        for number in range(stalled):
            talk = stack.enter_context(small(port))
            talks.append(talk)
            if talk.connect5("127.0.0.1", target.port)[0] == 0:
                talk.send(b"x")
            if number % 50 == 0:
                assert honest()
        if most is None:
            print("%d KiB more" % (kilobytes(pid) - before))
            wait_until(lambda: kilobytes(pid) - before > 6144, "a process that grows")
        else:
            command.wait_for_line("end=memory-limit")
            for _ in range(5):
                assert honest()
                grown = kilobytes(pid) - before
                print("%d KiB more" % grown)
                assert grown < most
            command.wait_for_line("--memory-limit 2MiB")
        stop.set()
        for talk in talks:
            talk.close()
        assert 0 == command.end()
        assert [] == [line for line in command.lines if "Trace" in line]
