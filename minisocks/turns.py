"""Derivations of passwords: one at a time, and addresses take turns."""

import threading
from typing import Callable, Dict, List, Optional

__all__ = ["Turns"]


class _Waiter:
    """A handler thread that waits for its turn, or for the answer of one that asks the same."""

    __slots__ = ("alarm", "answer", "has_turn", "mark")

    def __init__(self, alarm: threading.Event, mark: bytes) -> None:
        self.alarm = alarm
        self.mark = mark
        self.has_turn = False
        self.answer: Optional[bool] = None


class Turns:
    """Which handler thread may derive next.

    A class because of the queue: an address that wants five hundred derivations delays the
    others by the one that is under way.  Those of one address that ask about the same name and
    password get one answer, so that fifty connections of a browser are one derivation.

    Thread: handlers.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all below
        self._is_taken = False
        #: By address, the next one first.
        self._waiting: Dict[bytes, List[_Waiter]] = {}

    def __len__(self) -> int:
        """Return how many threads wait, the one whose turn it is left out."""
        with self._lock:
            return sum(map(len, self._waiting.values()))

    def wait(
        self, alarm: threading.Event, address: bytes, mark: bytes, pause: Callable[[], None]
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
                self._waiting.setdefault(address, []).append(waiter)
                self._next()
            while True:
                # Also if it has its turn at once: the client may have left already.
                pause()
                if waiter.has_turn or waiter.answer is not None:
                    return waiter.answer
        except BaseException:
            self._give_up(address, waiter)
            raise

    def pass_on(self, address: bytes, mark: bytes, answer: Optional[bool]) -> None:
        """Let the next thread have its turn; those that wait for the same get *answer*, if any."""
        with self._lock:
            try:
                if answer is not None:
                    self._tell(address, mark, answer)
            finally:  # also without the memory for that: all would wait for this turn's end
                self._end_turn(address)

    def _tell(self, address: bytes, mark: bytes, answer: bool) -> None:
        for waiter in list(self._waiting.get(address, ())):
            if waiter.mark == mark:
                waiter.answer = answer
                self._take_out(address, waiter)
                waiter.alarm.set()

    def _end_turn(self, address: bytes) -> None:
        self._is_taken = False
        if address in self._waiting:
            # Now, not when its turn began: others may have come since, which go first.
            self._waiting[address] = self._waiting.pop(address)
        self._next()

    def _next(self) -> None:
        if self._is_taken or not self._waiting:
            return
        address = next(iter(self._waiting))
        waiter = self._waiting[address][0]
        self._take_out(address, waiter)
        self._is_taken = waiter.has_turn = True
        waiter.alarm.set()

    def _take_out(self, address: bytes, waiter: _Waiter) -> None:
        here = self._waiting.get(address, [])
        if waiter in here:
            here.remove(waiter)
        if not here:
            self._waiting.pop(address, None)

    def _give_up(self, address: bytes, waiter: _Waiter) -> None:
        with self._lock:
            if waiter.has_turn:
                self._end_turn(address)
            else:
                self._take_out(address, waiter)
