"""What name servers have said of late: one table for all look-ups, bounded in bytes."""

import collections
import time
from typing import Callable, List, Optional, Tuple

from minisocks.errors import DialError
from minisocks.net.job import Background, Timer
from minisocks.net.loop import Loop
from minisocks.net.resolver import Outcome
from minisocks.policy.addresses import MAX_ADDRESSES, Sockaddr
from minisocks.wire import Rep

__all__ = ["NAME_SECONDS", "Answers"]

#: How long a name's addresses are used, and how long it has none; no TTL is known here.
NAME_SECONDS = 30.0
NO_NAME_SECONDS = 5.0
#: What is too old is looked for so often, while there is anything.
SWEEP_SECONDS = 5.0
#: Names at once, and the bytes that they take; of ``--memory-limit`` this part, if that is less.
MAX_NAMES = 512
MAX_BYTES = 2 << 20
LIMIT_SHARE = 8
#: What a name takes beside its own length (an error says the name, four characters for each
#: byte), and each of its addresses (tests/unit/net/test_answers.py measures both).
NAME_BYTES = 1024
LENGTH_FACTOR = 5
ADDRESS_BYTES = 256


class Answers(Background):
    """Names, and what came of them, for a while.

    A class because all that is in it is counted as memory, and leaves it again, in one place.
    It is a job so that it has a timer, which runs only while there is something that can become
    too old: an idle process sleeps.  Loop thread, but for its making.
    """

    def __init__(self, loop: Loop, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._clock = clock
        self._known: "collections.OrderedDict[bytes, Tuple[float, int, Outcome]]"
        self._known = collections.OrderedDict()  # by name: until when, and how many bytes
        self._timer: Optional[Timer] = None
        self._most = MAX_BYTES
        #: What all of them take; the loop's memory has it, too.
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._known)

    def change(self, limit: Optional[int]) -> None:
        """Go by this ``--memory-limit`` from now on, and forget all."""
        self._most = MAX_BYTES if limit is None else min(MAX_BYTES, limit // LIMIT_SHARE)
        self.clear()

    def add(self, name: bytes, outcome: Outcome) -> None:
        """Remember what came of *name*; of too many the oldest are forgotten."""
        self._forget(name)
        seconds, size = NAME_SECONDS, NAME_BYTES + LENGTH_FACTOR * len(name)
        if isinstance(outcome, list):
            size += ADDRESS_BYTES * len(outcome)
        else:
            seconds = NO_NAME_SECONDS
            # Not as it came: that has all that was there when it was raised, and what caused it.
            outcome = DialError(str(outcome), outcome.rep or Rep.HOST_UNREACHABLE)
        self._known[name] = (self._clock() + seconds, size, outcome)
        self._count(size)
        while self.bytes > self._most or len(self._known) > MAX_NAMES:
            self._forget(next(iter(self._known)))
        if self._timer is None and self._known:
            self._loop.submit(self)

    def get(self, name: bytes) -> Optional[Outcome]:
        """Return what came of *name*; None if that is not known, or too old."""
        until, _, outcome = self._known.get(name, (0.0, 0, None))
        if self._clock() < until:
            return outcome
        self._forget(name)
        return None

    def long_one(self, name: bytes, port: int) -> Optional[List[Sockaddr]]:
        """Return the addresses of *name*, with *port*, if so many came that they were cut."""
        found = self.get(name)
        if not isinstance(found, list) or len(found) < MAX_ADDRESSES:
            return None
        return [(family, (one[0], port) + one[2:]) for family, one in found]

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()
        self._count(-self.bytes)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._loop.done(self)

    def begin(self) -> None:
        """Look in a while for what is too old then."""
        if self._timer is None:
            self._timer = self._loop.call_later(SWEEP_SECONDS, self, self._sweep)

    def abort(self, why: str) -> None:
        """Forget all; the proxy ends."""
        self.clear()

    def _sweep(self) -> None:
        self._timer = None
        now = self._clock()
        for name in [name for name, known in self._known.items() if known[0] <= now]:
            self._forget(name)
        if self._known:
            self.begin()
        else:
            self._loop.done(self)

    def _forget(self, name: bytes) -> None:
        known = self._known.pop(name, None)
        if known is not None:
            self._count(-known[1])

    def _count(self, change: int) -> None:
        self.bytes += change
        self._loop.pipes.pending_bytes += change
