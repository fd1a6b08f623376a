"""The reporter alone: bounded, in order, and it ends on request."""

import threading

import pytest

import minisocks.net.threads
import minisocks.server.journal
from kit import inside
from kit.support import TIMEOUT, wait_until
from minisocks.policy.client import Client
from minisocks.record import Record
from minisocks.server.journal import Reporter


def records(first, last):
    return [Record(Client(""), number) for number in range(first, last + 1)]


class Held:
    """A hook that notes the ids it gets, each only when it may."""

    def __init__(self):
        self.heard = []
        self.entered, self.go_on = threading.Event(), threading.Event()

    def __call__(self, record):
        self.entered.set()
        assert self.go_on.wait(TIMEOUT)
        self.heard.append(record.id)


@pytest.fixture
def held():
    hook = Held()
    yield hook
    hook.go_on.set()


def test_the_oldest_make_room_and_that_is_logged_once(monkeypatch, caplog, held):
    """Beyond the bound the oldest that wait are dropped and counted, with one warning."""
    monkeypatch.setattr(minisocks.server.journal, "MAX_WAITING", 3)
    reporter = Reporter(held)
    for record in records(1, 1):
        reporter.report(record)
    assert held.entered.wait(TIMEOUT)
    for record in records(2, 10):
        reporter.report(record)

    assert 6 == reporter.dropped
    held.go_on.set()
    reporter.close()
    assert [1, 8, 9, 10] == held.heard
    assert 1 == caplog.text.count("the oldest are dropped")


def test_close_delivers_what_waits():
    """When ``close`` returns the hook has had everything, in order, and the thread has ended."""
    heard = []
    reporter = Reporter(lambda record: heard.append(record.id))
    for record in records(1, 1000):
        reporter.report(record)
    reporter.close()

    assert list(range(1, 1001)) == heard
    assert not inside.has_thread(reporter)
    reporter.close()
    reporter.report(*records(1001, 1001))
    assert 1000 == len(heard)
    assert not inside.has_thread(reporter)


def test_close_does_not_wait_for_ever(monkeypatch, caplog, held):
    """A hook that hangs keeps ``close`` for a while only; what it did not take is dropped."""
    monkeypatch.setattr(minisocks.server.journal, "CLOSE_SECONDS", 0.05)
    reporter = Reporter(held)
    for record in records(1, 5):
        reporter.report(record)
    assert held.entered.wait(TIMEOUT)
    reporter.close()

    assert "the last 4 records are dropped" in caplog.text
    held.go_on.set()
    wait_until(lambda: not inside.has_thread(reporter))
    assert [1] == held.heard


def test_close_from_the_hook_delivers_the_rest_behind_it(held):
    """The hook may end it: it hears what is still there, and then the thread ends."""
    heard = []

    def hook(record):
        held(record)
        reporter.close()
        heard.append(record.id)

    reporter = Reporter(hook)
    for record in records(1, 3):
        reporter.report(record)
    held.go_on.set()
    wait_until(lambda: heard == [1, 2, 3])
    wait_until(lambda: not inside.has_thread(reporter))


def test_no_room_for_a_thread_is_logged_and_tried_again(monkeypatch, caplog):
    """Records wait for a thread; the next record tries again to have one."""
    real, tries = minisocks.net.threads.start_thread, []

    def start_thread(*args):
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("can't start new thread")
        return real(*args)

    monkeypatch.setattr(minisocks.net.threads, "start_thread", start_thread)
    heard = []
    reporter = Reporter(lambda record: heard.append(record.id))
    for record in records(1, 3):
        reporter.report(record)
    reporter.close()

    assert [1, 2, 3] == heard
    assert 1 == caplog.text.count("no thread for on_connection")
