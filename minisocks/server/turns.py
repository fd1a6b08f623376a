"""Turns: handler threads that wait until they may do what cannot be ended."""

import contextlib
import threading
from typing import Callable, Iterator, Optional

from minisocks.policy.client import Groups
from minisocks.policy.queues import Queue
from minisocks.policy.quota import Allowance
from minisocks.server.clientsocket import ClientSocket

__all__ = ["Turns"]

#: Of the turns that are free a group of clients has less than this part, but one at least.
FACTOR = 0.25


class _Waiter:
    """A handler thread that waits for its turn, or for the answer of one that asks the same."""

    __slots__ = ("alarm", "answer", "has_turn", "mark")

    def __init__(self, alarm: threading.Event, mark: bytes) -> None:
        self.alarm = alarm
        self.mark = mark
        self.has_turn = False
        self.answer: Optional[bool] = None


class Turns:
    """Which handler threads may derive a password, or ask the program's hook.

    A class because of the queue: a client that wants five hundred derivations delays the
    others by the one that is under way.  Those of one row that ask about the same name and
    password get one answer, so that fifty connections of a browser are one derivation.

    A row is what *groups* is below: those of a client, and what else tells logins apart.

    Args:
        most: how many may have their turn at once.
        rank: as ``Queue`` takes it.

    Thread: handlers.
    """

    def __init__(self, most: int, rank: Optional[Callable[[Groups], float]] = None) -> None:
        self._lock = threading.Lock()  # guards all below
        self._running = Allowance(most, FACTOR)
        self._queue: Queue[_Waiter] = Queue(self._running, rank)

    def resize(self, most: int) -> None:
        """Let so many have their turn at once from now on."""
        with self._lock:
            self._running.most = most
            self._next()

    def __len__(self) -> int:
        """Return how many threads wait, those that have their turn left out."""
        return len(self._queue)

    def questions_before(self, groups: Groups, mark: bytes) -> int:
        """Return how many questions of this row come before *mark*, which a new thread asks.

        Threads that wait for one answer are one question; what is under way is not counted.
        """
        with self._lock:
            marks = [waiter.mark for waiter in self._queue.waiting(groups)]
        return len(set(marks[: marks.index(mark)] if mark in marks else marks))

    def wait(
        self, alarm: threading.Event, groups: Groups, mark: bytes, pause: Callable[[], None]
    ) -> Optional[bool]:
        """Return the answer for *mark* that another thread got; None: it is this thread's turn.

        After its turn the thread calls ``pass_on``.  What *pause* raises ends the wait.

        Args:
            alarm: is set when there is something new.
            pause: returns then, or earlier; it clears *alarm*.
        """
        waiter = _Waiter(alarm, mark)
        try:
            with self._lock:
                self._queue.add(waiter, groups)
                self._next()
            while True:
                # Also if it has its turn at once: the client may have left already.
                pause()
                if waiter.has_turn or waiter.answer is not None:
                    return waiter.answer
        except BaseException:
            with self._lock:
                if waiter.has_turn:
                    self._end_turn(groups)
                else:
                    self._queue.remove(waiter, groups)
            raise

    def pass_on(self, groups: Groups, mark: bytes, answer: Optional[bool]) -> None:
        """Let the next thread have its turn; those that wait for the same get *answer*, if any."""
        with self._lock:
            try:
                if answer is not None:
                    self._tell(groups, mark, answer)
            finally:  # also without the memory for that: all would wait for this turn's end
                self._end_turn(groups)

    @contextlib.contextmanager
    def turn(self, conn: ClientSocket, pause: Callable[[], None]) -> Iterator[None]:
        """Have a turn of the client's inside; raises what *pause* raises, see ``wait``."""
        groups = conn.client.groups
        self.wait(conn.alarm(), groups, b"", pause)
        try:
            yield
        finally:
            self.pass_on(groups, b"", None)

    def _tell(self, groups: Groups, mark: bytes, answer: bool) -> None:
        for waiter in self._queue.waiting(groups):
            if waiter.mark == mark:
                waiter.answer = answer
                self._queue.remove(waiter, groups)
                waiter.alarm.set()

    def _end_turn(self, groups: Groups) -> None:
        self._queue.done(groups)
        self._next()

    def _next(self) -> None:
        while True:
            taken = self._queue.take()
            if taken is None:
                return
            waiter, _groups = taken
            waiter.has_turn = True
            waiter.alarm.set()
