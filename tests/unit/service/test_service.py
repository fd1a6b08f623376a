"""Reloads: one at a time, each for all that have asked before it reads."""

import collections

import pytest

from kit.support import wait_until
from minisocks.errors import ConfigError
from minisocks.service.service import Reloads

CHANGED = {"changed": ["quiet"], "read": [], "restart": []}


class Main:
    """The main thread's part: the calls that it has to make."""

    def __init__(self):
        self.calls = collections.deque()

    def follow(self):
        """Wait for a call, and make it."""
        wait_until(lambda: self.calls)
        self.calls.popleft()()


@pytest.fixture
def main():
    return Main()


def test_all_that_ask_before_it_reads_hear_of_it_and_no_others(main):
    """A request while settings are read belongs to the next reload, which reads them anew."""
    told = []
    reloads = Reloads(lambda: lambda: CHANGED, main.calls.append)
    for n in range(4):
        reloads.ask(lambda answer, n=n: told.append((n, answer["ok"], answer["changed"])))
    main.follow()
    assert [(0, True, ["quiet"])] == told
    main.follow()
    assert [(n, True, ["quiet"]) for n in range(4)] == told
    assert not main.calls


@pytest.mark.parametrize("when", ["read", "changed"])
@pytest.mark.parametrize("exc", [ConfigError("--grace", "no number"), OSError(2, "gone")])
def test_what_is_wrong_is_reported_and_the_next_one_goes_on(main, when, exc):
    """Whether it was found while reading or while changing."""
    told = []

    def fail():
        raise exc

    reloads = Reloads(fail if when == "read" else lambda: fail, main.calls.append)
    reloads.ask(told.append)
    main.follow()
    reloads.ask(told.append)
    main.follow()
    sentence = getattr(exc, "sentence", None) or exc.strerror
    assert [{"error": sentence}] * 2 == told


def test_a_bug_is_the_main_thread_s(main):
    """An unforeseen error while reading ends the process as before, with a traceback."""

    def fail():
        raise ZeroDivisionError

    Reloads(fail, main.calls.append).ask(None)
    with pytest.raises(ZeroDivisionError):
        main.follow()


def test_without_a_thread_it_is_done_all_the_same(main, monkeypatch):
    """Where there is no room for one."""

    def no_thread(*args):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("minisocks.service.service.start_thread", no_thread)
    told = []
    Reloads(lambda: lambda: CHANGED, main.calls.append).ask(told.append)
    main.follow()
    assert [dict(CHANGED, ok=True)] == told
