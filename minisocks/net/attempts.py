"""The second to fourth attempts of all dials: only while there are descriptors, and given up first.

A connection is promised two descriptors, for its client and its target.  A dial that tries
several addresses at once takes up to five, which others may not miss.
"""

import time
from typing import Callable, Dict, Optional

from minisocks.net.capacity import descriptors_to_spare
from minisocks.net.loop import Job, Loop, Timer

__all__ = ["ExtraAttempts"]

#: So long the number of free descriptors is taken for known.  Counting takes 4 us, on a kernel
#: before Linux 6.2 a millisecond for 2500 (measured).
COUNT_SECONDS = 0.25
#: How often it is seen whether there are still enough, while there are extra attempts.
LOOK_SECONDS = 1.0


class ExtraAttempts(Job):
    """How many attempts all dials have beside their first ones, and which is the oldest.

    A class because what one dial may have depends on all others.  Loop thread, except
    ``has_room``.

    Args:
        room: returns how many descriptors may be opened before fewer than a quarter are free,
            less than 0 if fewer are; None: any number.
    """

    counts = False

    def __init__(
        self,
        loop: Loop,
        room: Callable[[], Optional[int]] = descriptors_to_spare,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = loop
        self._room = room
        self._clock = clock
        #: By what gives one of them up: how many.  The oldest first.
        self._held: Dict[Callable[[], bool], int] = {}
        self._total = 0
        #: How many there may be, and until when that is taken for known.
        self._most: Optional[int] = 0
        self._count_at = 0.0
        self._timer: Optional[Timer] = None
        loop.submit(self)

    def __len__(self) -> int:
        """Return how many there are."""
        return self._total

    def begin(self) -> None:
        """Nothing is to be done yet."""

    def on_ready(self, fd: int, mask: int) -> None:
        """Never called: it watches nothing."""

    def abort(self, why: str) -> None:
        """Nothing is to be closed: the attempts are their dials'."""

    def has_room(self) -> bool:
        """Return whether there may be one more.  Any thread."""
        self._count()
        return self._most is None or self._total < self._most

    def hold(self, give_up: Callable[[], bool], count: int) -> None:
        """Take note that a dial has *count* of them now.

        Args:
            give_up: ends the oldest of them and closes its descriptor at once; returns whether
                there was one.
        """
        self._total += count - self._held.get(give_up, 0)
        if count:
            self._held[give_up] = count
            if self._timer is None:
                self._timer = self._loop.call_later(LOOK_SECONDS, self, self._look)
        else:
            self._held.pop(give_up, None)

    def take_back(self) -> bool:
        """Have the oldest be given up, for its descriptor; return whether there was one."""
        while self._held:
            give_up = next(iter(self._held))
            if give_up():
                return True
            self.hold(give_up, 0)  # they have failed, and that is not noted yet
        return False

    def _look(self) -> None:
        """Take back those that there is no room for any more."""
        self._timer = None
        self._count()
        while self._most is not None and self._total > self._most and self.take_back():
            pass
        if self._total:
            self._timer = self._loop.call_later(LOOK_SECONDS, self, self._look)

    def _count(self) -> None:
        now = self._clock()
        if now >= self._count_at:
            room = self._room()
            self._most = None if room is None else self._total + room
            self._count_at = now + COUNT_SECONDS
