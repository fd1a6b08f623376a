"""Threads that wait to derive passwords: one runs at a time, addresses one after the other."""

import contextlib
import random
import sys
import threading

import pytest

from kit.support import TIMEOUT, wait_until
from minisocks.errors import LimitReached
from minisocks.policy.client import Client
from minisocks.server.limits import HandlerQueue

A, B, C = (Client(("192.%d.2.1" % i, 1)).groups for i in (1, 2, 3))


class Handler(threading.Thread):
    """A thread that waits to run, and runs until a test lets it finish.

    ``said`` is the answer that it got, "ran" when it has run itself, or what was raised.
    """

    def __init__(self, queue, address, mark, alarm=None):
        super().__init__(daemon=True)
        self.said = None
        self.pauses = 0
        self._queue = queue
        self._address, self._mark = address, mark
        self.alarm = alarm or threading.Event()
        self.why = None
        self._answer = None
        self.go_on = threading.Event()
        self.start()

    def pause(self):
        """Wait as a client's socket does."""
        self.pauses += 1
        if self.alarm.wait(TIMEOUT):
            self.alarm.clear()
        if self.why is not None:
            raise self.why

    def end(self, why):
        """Have its wait end with an exception."""
        self.why = why
        self.alarm.set()
        return self

    def let_finish(self, answer):
        """Have its run end with an answer, and do not wait for that."""
        self._answer = answer
        self.go_on.set()

    def finish(self, answer=None):
        """Have its run end with an answer."""
        self.let_finish(answer)
        assert "ran" == self.result()

    def result(self):
        """Return what came of it, waiting for that."""
        self.join(TIMEOUT)
        assert not self.is_alive(), "it waits for ever"
        return self.said

    def run(self):
        try:
            self.said = self._queue.places.wait(self.alarm, self._address, self._mark, self.pause)
            if self.said is None:
                self._hold()
                self.said = "ran"
        except Exception as exc:  # noqa: BLE001  # the test looks at it
            self.said = exc

    def _hold(self):
        queue = self._queue
        queue.at_once += 1
        queue.most = max(queue.most, queue.at_once)
        queue.ran.append(self)
        assert self.go_on.wait(TIMEOUT)
        queue.at_once -= 1
        queue.places.finish(self._address, self._mark, self._answer)


class Queue:
    """``HandlerQueue``, and the threads that have run, in their order."""

    def __init__(self):
        self.places = HandlerQueue(1)
        self.ran = []
        self.at_once = self.most = 0
        self._handlers = []

    def enter(self, address, mark=b""):
        """Return a thread that runs or waits to; *mark*: unlike all others."""
        count = len(self.places)
        handler = Handler(self, address, mark or b"%d" % len(self._handlers))
        self._handlers.append(handler)
        wait_until(lambda: handler in self.ran or len(self.places) > count, "its place")
        return handler

    def runner(self, number):
        """Return the thread that runs when *number* others have run, waiting for it."""
        wait_until(lambda: len(self.ran) > number, "run %d" % number)
        return self.ran[number]

    def close(self):
        """Let all run; demand that one ran at a time and that nothing is left."""
        for handler in self._handlers:
            handler.go_on.set()
        for handler in self._handlers:
            handler.result()
        assert 1 == self.most
        assert 0 == len(self.places)
        self.enter(A).finish()  # whatever there was before, the next one runs


@pytest.fixture
def queue():
    """A queue in which none waits."""
    made = Queue()
    yield made
    made.close()


def test_the_first_one_runs_at_once(queue):
    """So does the next one after it."""
    for _ in range(3):
        queue.enter(A).finish()

    assert 3 == len(queue.ran)


def test_one_at_a_time(queue):
    """In the order in which they came, where they have one address."""
    handlers = [queue.enter(A) for _ in range(5)]
    assert handlers[:1] == queue.ran
    assert 4 == len(queue.places)
    for number, handler in enumerate(handlers):
        assert handler is queue.runner(number)
        assert number + 1 == len(queue.ran)
        handler.finish()


@pytest.mark.parametrize(
    "hosts, order",
    [
        (["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1"], [0, 3, 1, 2]),
        (["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1", "192.0.2.2"], [0, 3, 1, 2]),
        (["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.1"], [0, 1, 2, 3]),
        (["", "", "192.0.2.2", ""], [0, 2, 1, 3]),
    ],
)
def test_addresses_run_one_after_the_other(queue, hosts, order):
    """A /64 is one address, and so are all clients of unix sockets."""
    handlers = []
    for host in hosts:
        handlers.append(queue.enter(Client((host, 1) if host else "").groups))
    for number, which in enumerate(order):
        assert handlers[which] is queue.runner(number)
        handlers[which].finish()


def test_one_that_wants_a_hundred_delays_the_others_by_one(queue):
    """The one that is under way; and it goes on when each of them has run once."""
    many = [queue.enter(A) for _ in range(100)]
    others = [queue.enter(B), queue.enter(C), queue.enter(B)]
    order = [many[0], others[0], others[1], many[1], others[2], *many[2:]]
    for number, handler in enumerate(order):
        assert handler is queue.runner(number)
        handler.finish()


@pytest.mark.parametrize("answer", [True, False])
def test_equal_marks_get_one_answer(queue, answer):
    """Of one address, wherever they stand; those of other addresses and other marks do not."""
    first = queue.enter(A, b"same")
    equal = [queue.enter(A, b"same")]
    others = [queue.enter(A, b"other"), queue.enter(B, b"same")]
    equal.append(queue.enter(A, b"same"))
    first.finish(answer)

    assert [answer, answer] == [handler.result() for handler in equal]
    queue.runner(1).finish()
    queue.runner(2).finish()
    assert {first, *others} == set(queue.ran)


def test_without_an_answer_equals_run_themselves(queue):
    """A derivation that was broken off answers nothing."""
    handlers = [queue.enter(A, b"same") for _ in range(3)]
    for number, handler in enumerate(handlers):
        assert handler is queue.runner(number)
        handler.finish(None)


def test_one_that_comes_after_the_answer_runs_itself(queue):
    """What was answered before is not kept here."""
    queue.enter(A, b"same").finish(True)
    last = queue.enter(A, b"same")

    assert last is queue.runner(1)


ENDS = [LimitReached("ended for another"), ConnectionResetError("the client left"), MemoryError()]


@pytest.mark.parametrize("why", ENDS)
@pytest.mark.parametrize("which", [0, 1, 2])
def test_one_that_is_ended_gives_its_place_back(queue, why, which):
    """Whether it is ended for another, its client leaves, or memory is short."""
    first = queue.enter(A)
    waiting = [queue.enter(A), queue.enter(B), queue.enter(B)]
    gone = waiting.pop(which)
    assert why is gone.end(why).result()
    assert 2 == len(queue.places)
    first.finish()
    queue.runner(1).finish()
    queue.runner(2).finish()

    assert {first, *waiting} == set(queue.ran)


@pytest.mark.parametrize("why", ENDS)
def test_one_that_is_ended_when_it_may_run_lets_the_next_one_run(queue, why):
    """It was allowed to run already, and had not noticed."""
    first, gone, last = queue.enter(A), queue.enter(A), queue.enter(A)
    gone.why = why
    first.finish()

    assert why is gone.result()
    assert last is queue.runner(1)


def test_one_that_is_ended_when_it_is_answered_leaves_the_others_theirs(queue):
    """It is out of the queue already."""
    first = queue.enter(A, b"same")
    gone, other = queue.enter(A, b"same"), queue.enter(A, b"same")
    gone.why = LimitReached("ended for another")
    first.finish(True)

    assert gone.result() is gone.why
    assert other.result() is True


def test_all_that_wait_may_be_ended_at_once(queue):
    """The next one that comes runs when the first has finished."""
    first = queue.enter(A)
    others = [queue.enter(address) for address in (A, B, C, A)]
    for handler in others:
        handler.end(LimitReached("shutdown"))
    assert {LimitReached} == {type(handler.result()) for handler in others}
    assert 0 == len(queue.places)
    last = queue.enter(B)
    first.finish()

    assert last is queue.runner(1)


class Broken(threading.Event):
    """An alarm for which there is no memory."""

    def set(self):
        raise MemoryError


def test_one_that_cannot_be_woken_to_run_lets_the_next_one_run(queue):
    """Out of memory: its wait ends with that error, and the next one runs."""
    gone = Handler(queue, A, b"", Broken())
    assert isinstance(gone.result(), MemoryError)
    last = queue.enter(A)

    assert last is queue.runner(0)


def test_one_that_cannot_hand_out_its_answer_lets_the_next_one_run(queue):
    """Out of memory: others do not wait for ever; the one that was not woken finds its answer."""
    first = queue.enter(A, b"same")
    equal = Handler(queue, A, b"same", Broken())
    wait_until(lambda: equal.pauses, "its place")
    last = queue.enter(A)
    first.let_finish(True)

    assert last is queue.runner(1)
    assert isinstance(first.result(), MemoryError)
    threading.Event.set(equal.alarm)  # as after a second
    assert equal.result() is True


def test_an_alarm_that_was_set_before_means_nothing(queue):
    """A thread that wakes up looks whether it may run, and waits on."""
    first, second = queue.enter(A), queue.enter(A)
    for _ in range(3):
        pauses = second.pauses
        second.alarm.set()
        wait_until(lambda: second.pauses > pauses, "another pause")  # noqa: B023
    assert [first] == queue.ran
    first.finish()

    assert second is queue.runner(1)


@contextlib.contextmanager
def hasty_switches():
    """Have Python switch threads as often as it can, so that races show."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_whatever_threads_do_none_waits_for_ever():
    """They come, get answers, leave, are ended and raise, all at once and at any moment."""
    seed = random.randrange(1 << 32)
    print("seed %d" % seed)
    places, inside, had = HandlerQueue(1), [], []
    crowd = []

    class Visitor(threading.Thread):
        """Waits and runs many times, and is ended in the middle again and again."""

        def __init__(self, rng):
            super().__init__(daemon=True)
            self.rng = rng
            self.alarm = threading.Event()
            self.why = None
            self.bug = None

        def pause(self):
            if self.alarm.wait(TIMEOUT):
                self.alarm.clear()
            else:
                raise AssertionError("none woke it up")
            why, self.why = self.why, None
            if why is not None or self.rng.random() < 0.1:
                raise ConnectionResetError

        def run(self):
            try:
                for _ in range(200):
                    self.visit(self.rng.choice((A, B, C)), self.rng.choice((b"x", b"y", b"z")))
            except BaseException as exc:  # noqa: BLE001  # the test looks at it
                self.bug = exc

        def visit(self, address, mark):
            with contextlib.suppress(ConnectionResetError):
                if places.wait(self.alarm, address, mark, self.pause) is None:
                    inside.append(self)
                    had.append(len(inside))
                    self.end_another()
                    inside.remove(self)
                    places.finish(address, mark, self.rng.choice((None, True, False)))
            self.end_another()

        def end_another(self):
            other = self.rng.choice(crowd)
            other.why = ConnectionResetError()
            other.alarm.set()

    with hasty_switches():
        crowd += [Visitor(random.Random(seed + i)) for i in range(16)]
        for visitor in crowd:
            visitor.start()
        for visitor in crowd:
            visitor.join(TIMEOUT)
    assert [None] * 16 == [visitor.bug for visitor in crowd]
    assert not any(visitor.is_alive() for visitor in crowd)
    assert {1} == set(had)
    assert 0 == len(places)
    last = Visitor(random.Random(1))
    assert places.wait(last.alarm, A, b"", last.pause) is None


class Waiting:
    """A client's handler thread that runs until it may end."""

    def __init__(self, peer):
        self.client = Client(peer)
        self.runs = False
        self.may_end = threading.Event()
        self._alarm = threading.Event()

    def alarm(self):
        return self._alarm

    def pause(self):
        assert self._alarm.wait(TIMEOUT)
        self._alarm.clear()

    def begin(self, places):
        """Return the thread."""
        thread = threading.Thread(target=self.run, args=(places,), daemon=True)
        thread.start()
        return thread

    def run(self, places):
        with places.place(self, self.pause):
            self.runs = True
            assert self.may_end.wait(TIMEOUT)


def test_one_client_leaves_places_to_others():
    """However long its hooks take: of sixteen it has two, and others run at once.

    A client of another network, and one of its own, which has four at most.
    """
    places, threads = HandlerQueue(16), []
    holders = contextlib.ExitStack()
    conns = [Waiting(("192.0.2.1", 1)) for _ in range(16)]
    others = [Waiting((host, 1)) for host in ("198.51.100.1", "192.0.2.2")]
    with holders:
        for conn in conns:
            threads.append(conn.begin(places))
        wait_until(lambda: 14 == len(places), "those that wait")

        assert 2 == sum(conn.runs for conn in conns)
        for other in others:
            threads.append(other.begin(places))
            wait_until(lambda other=other: other.runs, "its run")
        for conn in (*conns, *others):
            holders.callback(conn.may_end.set)
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    assert 0 == len(places)
