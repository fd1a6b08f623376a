"""The loop: descriptors, timers and jobs; each of its rules has a test that fails without it."""

import functools
import socket
import threading
import time

import pytest

import minisocks.net.loop
from kit import inside
from kit.support import TIMEOUT, CountingPoller, open_descriptors, wait_until
from minisocks import compat
from minisocks.compat import READ, WRITE
from minisocks.net.job import Job
from minisocks.net.loop import Loop

Poll, SelectPoll = compat.UNSHARED_POLLERS
POLLERS = [
    pytest.param(compat.Poller, id="default"),
    pytest.param(SelectPoll, id="select"),
    pytest.param(
        Poll,
        id="poll",
        marks=pytest.mark.skipif(not hasattr(compat.select, "poll"), reason="no poll() here"),
    ),
]


@pytest.fixture(params=POLLERS)
def loop(request, monkeypatch):
    """A running loop, with each kind of poller one after the other."""
    monkeypatch.setattr(minisocks.net.loop, "Poller", request.param)
    running = Loop()
    running.start()
    yield running
    running.stop()


class Scripted(Job):
    """A job whose methods are functions given to it; it notes what happens to it."""

    def __init__(self, loop, begin=None, ready=None, abort=None):
        self.loop = loop
        self._begin, self._ready, self._abort = begin, ready, abort
        self.begun = threading.Event()
        self.events = []
        self.aborted = []

    def begin(self):
        self.begun.set()
        if self._begin is not None:
            self._begin(self)

    def on_ready(self, fd, mask):
        self.events.append((fd, mask))
        if self._ready is not None:
            self._ready(self, fd)

    def abort(self, why):
        self.aborted.append(why)
        if self._abort is not None:
            self._abort(self)

    def submit(self):
        self.loop.submit(self)
        return self


def run_in(loop, function):
    """Run *function* in the loop's thread, in a job of its own; return its result."""
    done, results = threading.Event(), []

    def begin(job):
        results.append(function(job))
        loop.done(job)
        done.set()

    Scripted(loop, begin).submit()
    assert done.wait(TIMEOUT)
    return results[0]


def is_alive(loop):
    """Return whether the loop still makes calls."""
    return run_in(loop, lambda job: True)


@pytest.fixture
def pairs():
    """Makes socket pairs that are closed after the test."""
    made = []

    def make():
        made.extend(socket.socketpair())
        return made[-2:]

    yield make
    for sock in made:
        sock.close()


def fail(*args):
    raise ZeroDivisionError("on purpose")


def test_a_job_hears_of_its_descriptors(loop, pairs):
    """A job is called in the loop's thread when what it watches is ready, until it is not."""
    ours, theirs = pairs()
    heard = threading.Event()

    def ready(job, fd):
        job.thread = threading.current_thread()
        job.data = ours.recv(10)
        heard.set()

    job = Scripted(loop, lambda job: loop.watch(ours.fileno(), READ, job), ready).submit()
    theirs.send(b"hello")
    assert heard.wait(TIMEOUT)
    assert (b"hello", "minisocks-loop") == (job.data, job.thread.name)

    run_in(loop, lambda _: loop.unwatch(ours.fileno()))
    theirs.send(b"unheard")
    assert is_alive(loop)
    assert is_alive(loop)
    assert 1 == len(job.events)


def test_watching_again_changes_the_mask(loop, pairs):
    """A second watch replaces the first: a writable socket is reported only when wanted."""
    ours, _ = pairs()
    heard = threading.Event()

    def ready(job, fd):
        loop.unwatch(fd)
        heard.set()

    job = Scripted(loop, lambda job: loop.watch(ours.fileno(), READ, job), ready).submit()
    assert is_alive(loop)
    assert is_alive(loop)
    assert [] == job.events
    run_in(loop, lambda _: loop.watch(ours.fileno(), READ | WRITE, job))
    assert heard.wait(TIMEOUT)


@pytest.mark.parametrize("moment", ["begin", "ready", "timer", "call"])
def test_a_job_that_raises_is_aborted_and_the_others_live_on(loop, pairs, bugs, moment):
    """Nothing that a job does raises out of the loop: it is aborted once, and logged."""
    ours, theirs = pairs()
    theirs.send(b"x")

    def begin(job):
        if moment == "begin":
            fail()
        elif moment == "ready":
            loop.watch(ours.fileno(), READ, job)
        elif moment == "timer":
            loop.call_later(0.0, job, fail)
        else:
            loop.call_soon(job, fail)

    job = Scripted(loop, begin, fail, lambda job: loop.unwatch(ours.fileno())).submit()
    wait_until(lambda: job.aborted)
    assert is_alive(loop)
    assert (["internal error"], ["Scripted failed"]) == (job.aborted, bugs)
    assert 0 == len(loop)


def test_a_job_that_cannot_even_be_aborted_does_not_stop_the_loop(loop, bugs):
    """A job that raises twice is dropped, logged twice, and the others live on."""
    Scripted(loop, fail, abort=fail).submit()
    wait_until(lambda: len(bugs) == 2)
    assert is_alive(loop)
    assert ["Scripted failed", "Scripted could not be aborted"] == bugs
    assert 0 == len(loop)


def test_what_is_unwatched_is_not_reported_even_in_this_round(loop, pairs):
    """An event of this round is dropped if an earlier one had its descriptor unwatched."""
    socks = [pairs() for _ in range(2)]
    fds = [ours.fileno() for ours, _ in socks]
    for _, theirs in socks:
        theirs.send(b"x")

    def begin(job):
        for fd in fds:
            loop.watch(fd, READ, job)

    def ready(job, _):
        for fd in fds:
            loop.unwatch(fd)

    job = Scripted(loop, begin, ready).submit()
    wait_until(lambda: job.events)
    assert is_alive(loop)
    assert 1 == len(job.events)


def test_an_event_never_meets_a_descriptor_that_was_given_out_again(loop, pairs):
    """Sockets close at the end of a round, so no stale event reaches their successors."""
    socks = [socket.socketpair() for _ in range(2)]
    for _, theirs in socks:
        theirs.send(b"x")
    newcomers = []
    newcomer_job = Scripted(loop)
    loop.submit(newcomer_job)

    def begin(job):
        for ours, _ in socks:
            loop.watch(ours.fileno(), READ, job)

    def ready(job, fd):
        # The first to be called closes both and has their numbers filled again.
        for ours, _ in socks:
            loop.close_later(ours)
        for _ in range(50):
            pair = pairs()
            newcomers.extend(sock.fileno() for sock in pair)
            for sock in pair:
                loop.watch(sock.fileno(), READ, newcomer_job)

    job = Scripted(loop, begin, ready).submit()
    wait_until(lambda: job.events)
    assert is_alive(loop)
    assert ([], 1) == (newcomer_job.events, len(job.events))
    wait_until(lambda: [-1, -1] == [ours.fileno() for ours, _ in socks])

    def cleanup(_):
        for fd in newcomers:
            loop.unwatch(fd)
        loop.done(newcomer_job)

    run_in(loop, cleanup)
    for _, theirs in socks:
        theirs.close()


def test_closing_tells_the_peer(loop):
    """``close_later`` closes by itself."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.settimeout(TIMEOUT)
        run_in(loop, lambda _: loop.close_later(ours))
        assert b"" == theirs.recv(1)


def test_timers_run_in_the_order_of_their_times(loop):
    """Timers run by time, those of one moment as they were made, and none before its time."""
    ran, last = [], threading.Event()
    started = time.monotonic()

    def begin(job):
        for name, seconds in (("d", 0.06), ("a", 0.0), ("b", 0.0), ("e", 0.08), ("c", 0.03)):
            note = functools.partial(
                lambda *what: ran.append(what + (time.monotonic(),)), name, seconds
            )
            loop.call_later(seconds, job, note)
        loop.call_later(0.1, job, last.set)

    job = Scripted(loop, begin).submit()
    assert last.wait(TIMEOUT)
    assert "abcde" == "".join(name for name, _, _ in ran)
    assert all(started + seconds <= at for _, seconds, at in ran)
    run_in(loop, lambda _: loop.done(job))


def test_a_cancelled_timer_does_not_run(loop):
    """A timer that was cancelled, even by one of the same moment, is not called."""
    ran, last = [], threading.Event()

    def begin(job):
        timers = []
        loop.call_later(0.0, job, lambda: [timer.cancel() for timer in timers])
        for seconds in (0.0, 0.01):
            timers.append(
                loop.call_later(seconds, job, lambda seconds=seconds: ran.append(seconds))
            )
        timers[1].cancel()
        timers[1].cancel()
        loop.call_later(0.03, job, last.set)

    job = Scripted(loop, begin).submit()
    assert last.wait(TIMEOUT)
    assert [] == ran
    run_in(loop, lambda _: loop.done(job))


def test_a_job_that_is_done_is_called_no_more(loop, pairs):
    """Neither timers nor calls nor events reach a job that has said ``done``."""
    ran = []
    ours, theirs = pairs()
    theirs.send(b"x")

    def begin(job):
        loop.call_later(0.0, job, lambda: ran.append("timer"))
        loop.call_soon(job, ran.append, "call")
        loop.watch(ours.fileno(), READ, job)
        loop.done(job)

    job = Scripted(loop, begin).submit()
    assert job.begun.wait(TIMEOUT)
    last = threading.Event()
    waiting = Scripted(loop, lambda job: loop.call_later(0.02, job, last.set)).submit()
    assert last.wait(TIMEOUT)
    assert ([], [], 1) == (ran, job.events, len(loop))
    run_in(loop, lambda _: (loop.unwatch(ours.fileno()), loop.done(waiting)))


def test_cancelled_timers_do_not_pile_up(loop):
    """A hundred thousand limits of 120 s that were cancelled leave next to nothing."""

    def churn(job):
        kept = loop.call_later(120, job, fail)
        for _ in range(100000):
            loop.call_later(120, job, fail).cancel()
        left = len(inside.timers(loop))
        kept.cancel()
        return left

    assert run_in(loop, churn) < 1000


def test_sweeping_while_timers_run_keeps_the_count_right(loop):
    """A timer that cancels many others leaves the count of cancelled ones true."""
    last, ran = threading.Event(), []

    def begin(job):
        far = [loop.call_later(60, job, fail) for _ in range(200)]
        loop.call_later(0.0, job, lambda: [timer.cancel() for timer in far])
        for i in range(50):
            loop.call_later(0.0, job, lambda i=i: ran.append(i))
        loop.call_later(0.01, job, last.set)

    job = Scripted(loop, begin).submit()
    assert last.wait(TIMEOUT)
    cancelled, counted = run_in(loop, lambda _: inside.cancelled_timers(loop))
    assert cancelled == counted
    assert list(range(50)) == ran
    run_in(loop, lambda _: loop.done(job))


def test_no_call_from_another_thread_is_lost(loop):
    """Each of thousands of calls from idle and busy times is made, in its thread's order."""
    made = [[] for _ in range(4)]
    job = Scripted(loop).submit()

    def busy(mine):
        for i in range(1000):
            loop.call_soon(job, mine.append, i)

    def alternating(mine):
        for i in range(300):
            done = threading.Event()
            loop.call_soon(job, lambda i=i, done=done: (mine.append(i), done.set()))
            assert done.wait(TIMEOUT), "call %d was lost" % i

    threads = [
        threading.Thread(target=caller, args=(mine,))
        for caller, mine in zip((busy, busy, alternating, alternating), made)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run_in(loop, lambda _: loop.done(job))
    assert [list(range(n)) for n in (1000, 1000, 300, 300)] == made


def test_a_loop_without_work_makes_no_rounds(loop):
    """A loop that waits does not wake up, with jobs and cancelled timers in it."""
    job = Scripted(loop, lambda job: loop.call_later(0.05, job, fail).cancel()).submit()
    counting = inside.wrap_poller(loop, CountingPoller)
    is_alive(loop)
    wait_until(lambda: inside.sleeps(loop))
    before = counting.rounds
    assert not threading.Event().wait(0.3)
    assert counting.rounds - before <= 1
    run_in(loop, lambda _: loop.done(job))


def test_stop_aborts_what_is_left_and_later_what_comes_late(loop):
    """``shutdown`` is called once of jobs that are left, and of later ones."""
    begun, fresh = Scripted(loop).submit(), Scripted(loop)
    assert begun.begun.wait(TIMEOUT)
    loop.stop()
    loop.submit(fresh)
    loop.call_soon(begun, fail)
    inside.wake(loop)
    loop.stop()
    assert [["shutdown"]] * 2 == [begun.aborted, fresh.aborted]
    assert not fresh.begun.is_set()
    assert 0 == len(loop)


def test_stop_aborts_all_though_one_of_them_raises(loop, bugs):
    """A job that fails to abort does not keep the loop from its end."""
    jobs = [Scripted(loop, abort=fail if i % 2 else None).submit() for i in range(6)]
    loop.stop()
    assert [["shutdown"]] * 6 == [job.aborted for job in jobs]
    assert 3 == len(bugs)


@pytest.mark.parametrize("attempt", range(20))
def test_jobs_that_come_while_the_loop_ends_are_begun_or_aborted(attempt):
    """Of jobs submitted at the moment of ``stop``, each is aborted exactly once."""
    loop = Loop()
    loop.start()
    jobs = [Scripted(loop) for _ in range(200)]
    halfway = threading.Event()

    def submit():
        for i, job in enumerate(jobs):
            if i == 50:
                halfway.set()
            loop.submit(job)

    thread = threading.Thread(target=submit)
    thread.start()
    assert halfway.wait(TIMEOUT)
    loop.stop()
    thread.join()
    assert [["shutdown"]] * 200 == [job.aborted for job in jobs]


def test_a_loop_that_never_started_leaves_no_descriptor():
    """``stop`` closes what a loop has, started or not, any number of times."""
    before = open_descriptors()
    for start in (False, True):
        loop = Loop()
        if start:
            loop.start()
        loop.stop()
        loop.stop()
    assert before == open_descriptors()


def test_emptiness_calls_back(loop):
    """``notify_when_empty`` calls once no job is left, and not before."""
    job = Scripted(loop).submit()
    empty = threading.Event()
    loop.notify_when_empty(empty.set)
    inside.wake(loop)
    second = Scripted(loop).submit()
    assert second.begun.wait(TIMEOUT)
    assert not empty.is_set()
    loop.call_soon(job, lambda: (loop.done(job), loop.done(second)))
    assert empty.wait(TIMEOUT)


def test_a_timer_that_is_over_keeps_nothing(loop):
    """Neither a cancelled timer nor one that ran keeps its job, and the job its session."""
    kept, ran = [], threading.Event()

    def begin(job):
        kept.append(loop.call_later(60, job, fail))
        kept.append(loop.call_later(0.0, job, ran.set))
        kept[0].cancel()

    Scripted(loop, begin).submit()
    assert ran.wait(TIMEOUT)
    assert [(None, None)] * 2 == [(timer.job, timer.callback) for timer in kept]


def test_a_callback_that_raises_or_stops_does_not_break_the_loop(bugs):
    """A callback at the end may have bugs, or call stop: the loop ends in order."""
    loop = Loop()
    loop.start()
    told = threading.Event()
    for callback in (lambda: 1 / 0, loop.stop, told.set):
        loop.notify_when_empty(callback)
    inside.wake(loop)
    assert told.wait(TIMEOUT)
    loop.stop()
    assert ["a callback failed"] == sorted(set(bugs))
