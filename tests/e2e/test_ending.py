"""TERM: what ends at once, what has its grace, and that it is over before a manager kills."""

import contextlib
import os
import shutil
import signal
import subprocess
import threading

import pytest

from kit.bind_client import Waiting
from kit.identd import identd
from kit.support import (
    GREETING,
    TIMEOUT,
    CommandLine,
    FakeTarget,
    Talk,
    run_proxy,
    socks4,
    swallow,
)
from kit.udp_client import Associated

#: In seconds: docker waits for 10, if nothing else is said, before it kills.
MOST_SECONDS = 8 * TIMEOUT / 20


@pytest.mark.parametrize("way", ["4", "4a", "5"])
def test_a_bind_that_waits_ends_at_once(way, target):
    """Its peer would be a new connection; a relayed pair has its grace meanwhile."""
    with CommandLine("-l", "0", "--grace", "600") as command, Talk.to(command.ports[0]) as pair:
        pair.connect5("127.0.0.1", target.port)
        with Waiting(command.ports[0], "127.0.0.2", way) as client:
            command.process.send_signal(signal.SIGTERM)
            client.talk.expect_eof()
        pair.send(b"still here").expect(b"still here").finish().expect_eof()
        assert 0 == command.end(None)
        assert 1 == len([line for line in command.lines if "cmd=BIND" in line])
        assert any("cmd=BIND" in line and "end=shutdown" in line for line in command.lines)


def test_a_client_whose_identd_is_asked_is_closed_at_once(monkeypatch, target, access_log):
    """It is not a connection yet, so it has no grace."""
    asked, over = threading.Event(), threading.Event()

    def hangs(talk, theirs, ours):
        asked.set()
        assert over.wait(TIMEOUT)

    with identd(monkeypatch, hangs), run_proxy(ident=True) as proxy, Talk.to(proxy.port) as talk:
        talk.send(socks4("127.0.0.1", target.port, b"ann"))
        assert asked.wait(TIMEOUT)
        proxy.stop_listening()
        talk.expect_eof()
        over.set()
        access_log.wait_for("end=shutdown")


@pytest.fixture
def first_process():
    """Return the words that make what they start the first process of a container."""
    words = ["unshare", "--pid", "--fork"] + ["--user"] * bool(os.geteuid())
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here")
    if subprocess.run([*words, "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("no pid namespaces here")
    return words


def child_of(pid):
    """Return the only child of process *pid*."""
    with open("/proc/%d/task/%d/children" % (pid, pid)) as file:
        (child,) = map(int, file.read().split())
    return child


@pytest.mark.limits
def test_docker_need_not_kill_it(first_process):
    """As its first process, whatever is open, it has ended by itself when docker would kill.

    The signal goes to the first process, for which the kernel does nothing by default.
    """
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(FakeTarget(swallow))
        command = stack.enter_context(CommandLine("-l", "0", prefix=first_process))
        port = command.ports[0]
        silent, unfinished = [stack.enter_context(Talk.to(port)) for _ in range(2)]
        unfinished.send(GREETING).expect(b"\x05\x00")
        pair = stack.enter_context(Talk.to(port))
        pair.connect5("127.0.0.1", target.port)
        associated = Associated(port)
        stack.callback(associated.close)
        waiting = stack.enter_context(Waiting(port, "127.0.0.2"))

        pid = child_of(command.process.pid)
        os.kill(pid, signal.SIGTERM)
        for talk in (silent, unfinished, waiting.talk):
            talk.expect_eof()
        try:
            assert 0 == command.process.wait(MOST_SECONDS)
        except subprocess.TimeoutExpired:
            os.kill(pid, signal.SIGKILL)
            raise
        pair.expect_reset()
        command.end(None)
        ended = [line for line in command.lines if "end=shutdown" in line and "cmd=" in line]
        assert 3 == len(ended)
