"""``--idle-timeout``: connections without bytes end, and no others."""

import threading

import pytest

from kit import inside
from kit.support import TIMEOUT, Talk, run_proxy, wait_until
from minisocks.policy.client import Client
from minisocks.record import Record
from minisocks.relay.watches import Idle


class FakeLoop:
    """A loop whose timers a test fires by hand."""

    def __init__(self):
        self.timers = []

    def call_later(self, seconds, job, callback):
        self.timers.append((seconds, callback))
        return self

    def cancel(self):
        self.timers.clear()

    def pass_quarter(self):
        ((seconds, callback),) = self.timers
        self.timers.clear()
        callback()
        return seconds


class FakeJob:
    end = None
    held_back = False

    def is_held_back(self):
        return self.held_back

    def abort(self, why):
        self.end = why


@pytest.fixture
def watched():
    """Return a loop, a job, its record, and the watch that ends it after 100 s."""
    loop, job, record = FakeLoop(), FakeJob(), Record(Client(("10.0.0.1", 1)))
    idle = Idle(loop, job, record, 100.0, lambda: job.abort("idle"))
    idle.begin()
    return loop, job, record, idle


def test_silence_ends_it(watched):
    """A job without a byte from the start ends after exactly the time."""
    loop, job, _record, _idle = watched
    assert 100 == sum(loop.pass_quarter() for _ in range(4))
    assert ("idle", []) == (job.end, loop.timers)


def test_a_connection_that_waits_for_tokens_is_not_idle(watched):
    """Its bytes are there, and --rate does not let them through yet."""
    loop, job, _record, _idle = watched
    job.held_back = True
    for _ in range(20):
        loop.pass_quarter()
    assert job.end is None
    job.held_back = False
    for _ in range(4):
        loop.pass_quarter()
    assert "idle" == job.end


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_byte_starts_it_anew(watched, direction):
    """A byte in either direction does; the end is between 1 and 1.25 times the time after it."""
    loop, job, record, _idle = watched
    for _ in range(20):
        for _ in range(3):
            loop.pass_quarter()
        setattr(record, direction, getattr(record, direction) + 1)
    assert job.end is None
    for _ in range(4):
        loop.pass_quarter()
        assert job.end is None
    loop.pass_quarter()
    assert "idle" == job.end


def test_it_can_be_called_off(watched):
    """No timer is left of it."""
    loop, job, _record, idle = watched
    idle.cancel()
    assert (None, []) == (job.end, loop.timers)


@pytest.mark.parametrize("half_closed", [False, True], ids=["open", "half-closed"])
def test_a_silent_connection_is_reset_at_both_ends(target, access_log, half_closed):
    """Neither end takes it for a normal end, and the log has the reason."""
    over = threading.Event()

    def script(talk):
        talk.sock.sendall(talk.sock.recv(1))
        if half_closed:
            talk.rest()
        assert over.wait(TIMEOUT)
        if not half_closed:  # else it has heard the end already
            talk.expect_reset()

    target.script = script
    with run_proxy(idle_timeout=1.0) as proxy, Talk.to(proxy.port) as talk:
        talk.connect5("127.0.0.1", target.port)
        talk.send(b"x").expect(b"x")
        if half_closed:
            talk.finish()
        talk.expect_reset()
        over.set()
        assert "up=1B down=1B" in access_log.wait_for("end=idle")
        wait_until(lambda: len(proxy) == 0)


def test_a_pair_that_ends_leaves_no_timer(target):
    """However long the time is, nothing of a pair stays for it."""
    with run_proxy(idle_timeout=3600.0) as proxy:
        for _ in range(3):
            with Talk.to(proxy.port) as talk:
                talk.connect5("127.0.0.1", target.port)
                talk.send(b"x").expect(b"x").finish().expect_eof()
        wait_until(lambda: len(proxy) == 0)
        timers = inside.timers(proxy.services.loop)
        # But for the one that looks after all of them, once more.
        assert [] == [t for t in timers if t.job not in (None, proxy.services.vanished)]


def test_a_reload_is_for_connections_that_come_next(target):
    """A pair goes by the time that was set when it began."""
    with run_proxy() as proxy, Talk.to(proxy.port) as first, Talk.to(proxy.port) as second:
        first.connect5("127.0.0.1", target.port)
        first.send(b"x").expect(b"x")
        proxy.reload(proxy.config._replace(idle_timeout=1.0))
        second.connect5("127.0.0.1", target.port)
        second.send(b"x").expect(b"x").expect_reset()
        first.send(b"x").expect(b"x")
