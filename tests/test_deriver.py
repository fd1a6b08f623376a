"""One thread for what takes long: it comes when it is needed, and goes."""

import queue
import threading

import pytest

from minisocks import deriver
from minisocks.deriver import Deriver
from support import TIMEOUT, wait_until


def password_threads():
    """Those of derivers; other tests may have left a lookup of the system's behind."""
    return [t for t in threading.enumerate() if t.name == "minisocks-password"]


@pytest.fixture
def answers():
    """What was answered."""
    return queue.Queue()


@pytest.fixture
def one():
    """A deriver, ended after the test."""
    made = Deriver()
    yield made
    made.close()
    made.join()
    assert [] == password_threads()


@pytest.mark.parametrize("says", [True, False])
def test_the_answer_comes_from_its_thread(one, answers, says):
    """Work is done elsewhere, one after another, by one thread."""
    names = []
    for _ in range(3):
        one.submit(lambda pause: names.append(threading.current_thread().name) or says, answers.put)
        assert says is answers.get(timeout=TIMEOUT)

    assert ["minisocks-password"] * 3 == names
    assert 1 == len(password_threads())


def test_there_is_no_thread_without_work(one, answers, monkeypatch):
    """It ends after a while, and the next work has another one."""
    assert [] == password_threads()
    monkeypatch.setattr(deriver, "IDLE_SECONDS", 0.001)
    for _ in range(2):
        one.submit(lambda pause: True, answers.put)
        assert answers.get(timeout=TIMEOUT)
        wait_until(lambda: not password_threads(), "the end of the thread")


def test_work_that_fails_is_answered(one, answers, bugs):
    """With None, and the next work is done all the same."""
    one.submit(lambda pause: 1 // 0, answers.put)
    assert answers.get(timeout=TIMEOUT) is None
    one.submit(lambda pause: True, answers.put)
    assert answers.get(timeout=TIMEOUT)
    assert ["checking a password failed"] == bugs


def test_no_thread_is_an_error(one, answers, monkeypatch):
    """The caller hears of it, and may try again."""

    def fail(target, name):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(deriver, "start_thread", fail)
        with pytest.raises(RuntimeError, match="can't start"):
            one.submit(lambda pause: True, answers.put)
    one.submit(lambda pause: True, answers.put)
    assert answers.get(timeout=TIMEOUT)


def test_close_ends_work_at_its_next_pause(one, answers):
    """Nobody is called back, and the thread does not go on to the end."""
    begun = threading.Event()

    def work(pause):
        begun.set()
        while True:
            pause()

    one.submit(work, answers.put)
    assert begun.wait(TIMEOUT)
    one.close()
    wait_until(lambda: not password_threads(), "the end of the thread")
    assert answers.empty()


def test_join_does_not_wait_for_what_cannot_be_interrupted(one, answers, monkeypatch):
    """OpenSSL is left alone; what it says then is for nobody."""
    monkeypatch.setattr(deriver, "JOIN_SECONDS", 0.001)
    begun, go_on = threading.Event(), threading.Event()
    one.submit(lambda pause: begun.set() or go_on.wait(TIMEOUT), answers.put)
    assert begun.wait(TIMEOUT)
    one.close()
    one.join()
    assert 1 == len(password_threads())
    go_on.set()
    wait_until(lambda: not password_threads(), "the end of the thread")
    assert answers.empty()
