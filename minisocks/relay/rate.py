"""``--rate``: a connection is read no faster than its client may send and receive.

Each client has a token bucket for each direction, which all its connections share.  Without
tokens a socket is not read: TCP makes its sender wait, and datagrams that come faster are lost in
the kernel's buffer, as on any slow link.  Where there is no rate, nothing of this is used.
"""

import collections
import time
from typing import Any, Callable, Deque, Dict, Optional, Tuple

from minisocks.net.job import Background, Job, Timer
from minisocks.net.loop import BUFFER_BYTES, Loop
from minisocks.policy.client import Client

__all__ = ["Bucket", "Budget", "Lane", "Rates", "Share", "Throttle"]

#: Most tokens of a bucket: those of so many seconds, within which a late loop catches up; ...
DEPTH_SECONDS = 0.1
#: ... and at least these bytes, for one message at any rate.
LEAST_DEPTH = 2048
#: Fewest tokens for a read: those of so many seconds, and at least these bytes.
READ_SECONDS = 0.02
LEAST_READ = 512


class Bucket:
    """Tokens, one a byte, which come at a rate, in bytes a second, and are kept up to a depth."""

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock()
        self.change(rate)
        self._tokens = self._depth

    def change(self, rate: int) -> None:
        """Use *rate* from now on."""
        self._rate = rate
        self._depth = max(float(LEAST_DEPTH), rate * DEPTH_SECONDS)
        self._least = min(self._depth / 2, max(float(LEAST_READ), rate * READ_SECONDS))

    def available(self) -> int:
        """Return how many bytes may be read now; 0 if they are too few for a read."""
        now = self._clock()
        self._tokens = min(self._depth, self._tokens + (now - self._at) * self._rate)
        self._at = now
        return int(self._tokens) if self._tokens >= self._least else 0

    def spend(self, count: int) -> None:
        """Remove *count* tokens, which are available."""
        self._tokens -= count

    def full_in(self) -> float:
        """Return the seconds until it is full."""
        self.available()
        return (self._depth - self._tokens) / self._rate

    def wait_seconds(self) -> float:
        """Return the seconds until some are available, as of the last look."""
        return max(0.0, (self._least - self._tokens) / self._rate)


class Lane:
    """One direction of a client: its bucket, and the queue of what waits for tokens.

    In the queue are jobs that have ``read_on``, each with one of its budgets that ``waits``.
    """

    def __init__(self, loop: Loop, job: Job, rate: int) -> None:
        self._loop = loop
        self._job = job
        self.bucket = Bucket(rate)
        self._waiting: "Deque[Tuple[Any, Budget]]" = collections.deque()
        self._timer: Optional[Timer] = None

    def available(self) -> int:
        """Return how many bytes may be read without waiting: none if others wait."""
        return 0 if self._waiting else self.bucket.available()

    def wait(self, job: Any, budget: "Budget") -> None:
        """Have *job* read on in the direction of *budget* when there are tokens."""
        budget.waits = True
        self._waiting.append((job, budget))
        if self._timer is None:
            self._start_timer()

    def change(self, rate: int) -> None:
        """Use another rate."""
        self.bucket.available()  # adds what has come at the old one
        self.bucket.change(rate)
        if self._timer is not None:
            self._timer.cancel()
            self._start_timer()

    def cancel(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _start_timer(self) -> None:
        # Not 0: the time for a part of a token may be too short for the clock.
        seconds = max(0.001, self.bucket.wait_seconds())
        self._timer = self._loop.call_later(seconds, self._job, self._resume)

    def _resume(self) -> None:
        """Have as many read on as there are tokens for."""
        self._timer = None
        left = self.bucket.available()
        while self._waiting and left > 0:
            job, budget = self._waiting.popleft()
            if budget.waits:
                budget.waits = False
                left -= BUFFER_BYTES
                # Each by itself, so that only a job that fails is aborted.
                self._loop.call_soon(job, job.read_on, budget)
        if self._waiting:
            self._start_timer()


class Throttle(Background):
    """Both directions of one client, as long as it has connections."""

    def __init__(self, loop: Loop, rate: int) -> None:
        self._loop = loop
        self.pairs = 0
        #: Whether a timer is set that ends it.
        self.is_ending = False
        self.up = Lane(loop, self, rate)
        self.down = Lane(loop, self, rate)

    def change(self, rate: int) -> None:
        """Use another rate for each direction."""
        self.up.change(rate)
        self.down.change(rate)

    def abort(self, why: str) -> None:
        """Stop both directions."""
        self.up.cancel()
        self.down.cancel()
        self._loop.done(self)


class Rates:
    """The throttles of one loop, by client.  Any thread may make it; then the loop's."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._throttles: Dict[bytes, Throttle] = {}

    def __len__(self) -> int:
        """Return how many clients have one."""
        return len(self._throttles)

    def share_of(self, client: Client, rate: Optional[int]) -> "Optional[Share]":
        """Return the share of *client* in *rate*; None: it has no limit.  Any thread."""
        key = client.key
        return None if rate is None or key is None else Share(self, key, rate)

    def join(self, place: bytes, rate: int) -> Throttle:
        """Return the throttle of the client *place* for one more pair; *rate* is for a new one."""
        throttle = self._throttles.get(place)
        if throttle is None:
            throttle = self._throttles[place] = Throttle(self._loop, rate)
            self._loop.submit(throttle)
        throttle.pairs += 1
        return throttle

    def leave(self, place: bytes) -> None:
        """Count out one of the client's pairs; the throttle stays until it is full again.

        Otherwise a client could begin each of its connections with a full one.
        """
        throttle = self._throttles[place]
        throttle.pairs -= 1
        if not throttle.pairs and not throttle.is_ending:
            throttle.is_ending = True
            self._end_when_full(place, throttle)

    def _end_when_full(self, place: bytes, throttle: Throttle) -> None:
        seconds = max(throttle.up.bucket.full_in(), throttle.down.bucket.full_in())
        if throttle.pairs:
            throttle.is_ending = False
        elif seconds > 0:
            again = max(0.01, seconds)
            self._loop.call_later(again, throttle, lambda: self._end_when_full(place, throttle))
        else:
            del self._throttles[place]
            throttle.abort("no pair is left")

    def change(self, rate: Optional[int]) -> None:
        """Have all use another rate; None: those that have one keep it."""
        if rate is not None:
            for throttle in self._throttles.values():
                throttle.change(rate)


class Budget:
    """One direction of a connection: what it may read of the tokens in its client's lane."""

    __slots__ = ("_paid", "lane", "waits")

    def __init__(self) -> None:
        #: While its ``Share`` has joined.
        self.lane: Optional[Lane] = None
        #: Whether it is not read, because it waits for tokens.
        self.waits = False
        self._paid = 0

    def available(self, has_waited: bool = False) -> int:
        """Return how many bytes may be read now: none if others wait, unless it *has_waited*."""
        assert self.lane is not None
        return self.lane.bucket.available() if has_waited else self.lane.available()

    def spend(self, count: int) -> None:
        """Pay for *count* bytes."""
        assert self.lane is not None
        self.lane.bucket.spend(count)

    def pay_up_to(self, total: int) -> None:
        """Pay for what is not paid for of *total* bytes; nothing while it has no lane."""
        if self.lane is not None:
            self.spend(total - self._paid)
            self._paid = total

    def wait(self, job: Any) -> None:
        """Have *job* read on, by ``read_on`` with this budget, when there are tokens; once."""
        assert self.lane is not None
        if not self.waits:
            self.lane.wait(job, self)


class Share:
    """Both directions of one connection, in what its client's rate allows.

    Any thread may make it; then the loop's.

    Args:
        place: the client's ``Client.key``.
        rate: in bytes a second.
    """

    __slots__ = ("_place", "_rate", "_rates", "down", "up")

    def __init__(self, rates: Rates, place: bytes, rate: int) -> None:
        self._rates, self._place, self._rate = rates, place, rate
        self.up, self.down = Budget(), Budget()

    @property
    def waits(self) -> bool:
        """Whether a direction waits for tokens."""
        return self.up.waits or self.down.waits

    def join(self) -> None:
        """Share the client's lanes with its other connections from now on."""
        throttle = self._rates.join(self._place, self._rate)
        self.up.lane, self.down.lane = throttle.up, throttle.down

    def leave(self) -> None:
        """Share them no more, if it has joined."""
        self.up.waits = self.down.waits = False  # a lane leaves it out then
        if self.up.lane is not None:
            self.up.lane = self.down.lane = None
            self._rates.leave(self._place)
