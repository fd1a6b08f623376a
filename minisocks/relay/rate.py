"""``--rate``: pairs that are read no faster than their client may send and receive.

Each client has a token bucket for each direction, which all its connections share.  Without
tokens a socket is not read, and TCP makes its sender wait.  Where there is no rate, pairs are plain
ones and nothing of this is used.
"""

import collections
import time
from typing import Any, Callable, Deque, Dict, NamedTuple, Optional, Tuple

from minisocks.net.job import Background, Job, Timer
from minisocks.net.loop import BUFFER_BYTES, Loop
from minisocks.policy.client import Client
from minisocks.relay.flow import Flow, word_of
from minisocks.relay.pair import Pair

__all__ = ["Bucket", "Lane", "RatedPair", "Rates", "Share", "Throttle"]

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


class _RatedFlow(Flow):
    """A direction that is not read while it ``waits`` for tokens."""

    __slots__ = ("waits",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.waits = False

    def wants_read(self) -> bool:
        return not self.waits and super().wants_read()


class Lane:
    """One direction of a client: its bucket, and the queue of what waits for tokens.

    In the queue are jobs that have ``read_on``, each with one of its directions that ``waits``.
    """

    def __init__(self, loop: Loop, job: Job, rate: int) -> None:
        self._loop = loop
        self._job = job
        self.bucket = Bucket(rate)
        self._waiting: Deque[Tuple[Any, Any]] = collections.deque()
        self._timer: Optional[Timer] = None

    def available(self) -> int:
        """Return how many bytes may be read without waiting: none if others wait."""
        return 0 if self._waiting else self.bucket.available()

    def wait(self, job: Any, flow: Any) -> None:
        """Have *job* read on in the direction *flow* when there are tokens."""
        flow.waits = True
        self._waiting.append((job, flow))
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
            job, flow = self._waiting.popleft()
            if flow.waits:
                flow.waits = False
                left -= BUFFER_BYTES
                # Each by itself, so that only a job that fails is aborted.
                self._loop.call_soon(job, job.read_on, flow)
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


class Share(NamedTuple):
    """A client's share: *place* is its ``Client.key``, *rate* in bytes a second."""

    rates: Rates
    place: bytes
    rate: int


class RatedPair(Pair):
    """A pair that shares its client's rate, by *share* behind what a ``Pair`` takes."""

    __slots__ = ("_early", "_share", "_throttle")

    may_splice = False  # tokens are counted by the byte
    flow_type = _RatedFlow
    _up: _RatedFlow
    _down: _RatedFlow

    def __init__(self, *args: Any) -> None:
        loop, client, upstream, record, early, client_mask, share = args
        super().__init__(loop, client, upstream, record, b"", client_mask)
        #: Bytes that came behind the request and were not paid for yet.
        self._early = memoryview(early)
        self._share: Share = share
        self._throttle: Optional[Throttle] = None

    def begin(self) -> None:
        """Watch both sockets; bytes behind the request need tokens as any others."""
        share = self._share
        self._throttle = share.rates.join(share.place, share.rate)
        super().begin()
        if self._early:
            lane = self._throttle.up
            self._read(self._up, lane, lane.available())
            self._update()

    def is_held_back(self) -> bool:
        """Return whether a direction waits for tokens."""
        return self._up.waits or self._down.waits

    def on_ready(self, fd: int, mask: int) -> None:
        """Do as a pair does; a direction that waits is not watched for reading."""
        super().on_ready(fd, mask)
        if self._early and self._up.wants_read() and self._throttle is not None:
            self._throttle.up.wait(self, self._up)  # its receiver takes more now
        for flow in (self._up, self._down):
            if flow.waits and not flow.eof:
                self._update()
                return

    def read_on(self, flow: _RatedFlow) -> None:
        """Read some of *flow*, which has waited."""
        if flow.eof:
            return  # it has ended meanwhile
        lane = self._lane(flow)
        if flow.wants_read():
            # No event says whether the urgent byte has come.
            self._read(flow, lane, lane.bucket.available(), may_be_urgent=True)
        self._update()

    def _pump(self, flow: Flow, may_be_urgent: bool = False) -> None:
        assert isinstance(flow, _RatedFlow)
        if not flow.waits:
            lane = self._lane(flow)
            self._read(flow, lane, lane.available(), may_be_urgent)

    def _pump_urgent(self, flow: Flow) -> None:
        self._pump(flow, may_be_urgent=True)

    def _read(self, flow: _RatedFlow, lane: Lane, most: int, may_be_urgent: bool = False) -> None:
        """Read *most* bytes at most, once, and send them; wait if no more may be read."""
        if most and flow is self._up and self._early:
            size = min(most, len(self._early))
            data, self._early = self._early[:size], self._early[size:]
            lane.bucket.spend(size)
            self._push(flow, data)
        elif most and may_be_urgent and self._pass_urgent(flow):
            lane.bucket.spend(1)
        elif most:
            buffer = self._loop.buffer
            try:
                size = flow.src.recv_into(buffer, min(most, BUFFER_BYTES))
            except BlockingIOError:
                return
            except OSError as exc:
                self._reset(flow, word_of(exc.errno))
                return
            if size:
                lane.bucket.spend(size)
                self._push(flow, buffer[:size])
            else:
                self._over(flow)
        has_more = flow is self._up and bool(self._early)
        if flow.wants_read() and (has_more or not lane.available()):
            lane.wait(self, flow)

    def _lane(self, flow: Flow) -> Lane:
        assert self._throttle is not None
        return self._throttle.up if flow is self._up else self._throttle.down

    def _close(self) -> None:
        self._up.waits = self._down.waits = False  # a lane leaves it out then
        self._early = memoryview(b"")
        if self._throttle is not None:
            self._throttle = None
            self._share.rates.leave(self._share.place)
        super()._close()
