"""``--rate``: pairs that are read no faster than their client may send and receive.

A token bucket for each client and direction, shared by all its pairs.  Without tokens
a socket is simply not read, and TCP has its sender wait.  Where there is no rate, pairs
are plain ones and nothing of this is there.
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

#: What a bucket holds: so many seconds' worth, in which a loop that is late catches up...
DEPTH_SECONDS = 0.1
#: ...and a message of this size at once, whatever the rate.
LEAST_DEPTH = 2048
#: Nobody is read for less than this; it is also how long tokens are waited for.
TURN_SECONDS = 0.02
LEAST_TURN = 512


class Bucket:
    """Tokens, one a byte, that come at a rate and are kept up to a depth.

    A class because rate, tokens and the time of the last look belong together.
    """

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock()
        self.change(rate)
        self._tokens = self._depth

    def change(self, rate: int) -> None:
        """Have tokens come at *rate* a second from now on."""
        self._rate = rate
        self._depth = max(float(LEAST_DEPTH), rate * DEPTH_SECONDS)
        self._turn = min(self._depth / 2, max(float(LEAST_TURN), rate * TURN_SECONDS))

    def available(self) -> int:
        """Return how many bytes may be read now; 0 as long as it is not worth a call."""
        now = self._clock()
        self._tokens = min(self._depth, self._tokens + (now - self._at) * self._rate)
        self._at = now
        return int(self._tokens) if self._tokens >= self._turn else 0

    def spend(self, count: int) -> None:
        """Take so many tokens, which are available."""
        self._tokens -= count

    def full_in(self) -> float:
        """Return the seconds until it holds all it can."""
        self.available()
        return (self._depth - self._tokens) / self._rate

    def wait_seconds(self) -> float:
        """Return how long until some are available, as of the last look."""
        return max(0.0, (self._turn - self._tokens) / self._rate)


class _RatedFlow(Flow):
    """A direction that is not read while it ``waits`` for its turn."""

    __slots__ = ("waits",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.waits = False

    def wants_read(self) -> bool:
        return not self.waits and super().wants_read()


class Lane:
    """One direction of a client: its bucket, and who waits for it, in turn.

    Who waits is a job with ``take_turn``, and one of its directions that ``waits``.
    """

    def __init__(self, loop: Loop, job: Job, rate: int) -> None:
        self._loop = loop
        self._job = job
        self.bucket = Bucket(rate)
        self._waiting: Deque[Tuple[Any, Any]] = collections.deque()
        self._timer: Optional[Timer] = None

    def available(self) -> int:
        """Return how much may be read by who has no turn: nothing if others wait for theirs."""
        return 0 if self._waiting else self.bucket.available()

    def wait(self, job: Any, flow: Any) -> None:
        """Have *flow* of *job* be read again when its turn comes."""
        flow.waits = True
        self._waiting.append((job, flow))
        if self._timer is None:
            self._start_timer()

    def change(self, rate: int) -> None:
        """Go by another rate."""
        self.bucket.available()  # what has come by the old one
        self.bucket.change(rate)
        if self._timer is not None:
            self._timer.cancel()
            self._start_timer()

    def cancel(self) -> None:
        """Wait no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _start_timer(self) -> None:
        # Not 0: what is left of a token may be too little for the clock to show.
        seconds = max(0.001, self.bucket.wait_seconds())
        self._timer = self._loop.call_later(seconds, self._job, self._give_turns)

    def _give_turns(self) -> None:
        """Let as many go on as there are reads' worth of tokens."""
        self._timer = None
        left = self.bucket.available()
        while self._waiting and left > 0:
            job, flow = self._waiting.popleft()
            if flow.waits:
                flow.waits = False
                left -= BUFFER_BYTES
                # Each by itself: what fails there is that job's own.
                self._loop.call_soon(job, job.take_turn, flow)
        if self._waiting:
            self._start_timer()


class Throttle(Background):
    """What one client has, for as long as it has pairs.  A job for the sake of its timers."""

    def __init__(self, loop: Loop, rate: int) -> None:
        self._loop = loop
        self.pairs = 0
        #: Whether it is seen to already that it ends.
        self.is_ending = False
        self.up = Lane(loop, self, rate)
        self.down = Lane(loop, self, rate)

    def change(self, rate: int) -> None:
        """Go by another rate, each direction."""
        self.up.change(rate)
        self.down.change(rate)

    def abort(self, why: str) -> None:
        """Give no more turns."""
        self.up.cancel()
        self.down.cancel()
        self._loop.done(self)


class Rates:
    """The throttles of one loop, by client.  Loop thread, but for its making."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._throttles: Dict[bytes, Throttle] = {}

    def __len__(self) -> int:
        """Return how many clients have one."""
        return len(self._throttles)

    def share_of(self, client: Client, rate: Optional[int]) -> "Optional[Share]":
        """Return what *client* has of *rate*; None: nothing slows it down.

        Any thread.
        """
        key = client.key
        return None if rate is None or key is None else Share(self, key, rate)

    def join(self, place: bytes, rate: int) -> Throttle:
        """Return the throttle of a client, *place*, for one pair more; *rate* is for a new one."""
        throttle = self._throttles.get(place)
        if throttle is None:
            throttle = self._throttles[place] = Throttle(self._loop, rate)
            self._loop.submit(throttle)
        throttle.pairs += 1
        return throttle

    def leave(self, place: bytes) -> None:
        """Count out one of the client's pairs; the throttle stays until it is full again.

        Else who opens one connection after the other would begin each with a full one.
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
        """Have all go by another rate; None: those that have one keep it."""
        if rate is not None:
            for throttle in self._throttles.values():
                throttle.change(rate)


class Share(NamedTuple):
    """Whose share of what a pair has: ``Client.key`` is its *place*."""

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
        #: What came behind the request and has not had its turn.
        self._early = memoryview(early)
        self._share: Share = share
        self._throttle: Optional[Throttle] = None

    def begin(self) -> None:
        """Take both sockets in; what came behind the request counts as any other byte."""
        share = self._share
        self._throttle = share.rates.join(share.place, share.rate)
        super().begin()
        if self._early:
            lane = self._throttle.up
            self._read(self._up, lane, lane.available())
            self._update()

    def is_held_back(self) -> bool:
        """Return whether bytes are there that wait for their turn."""
        return self._up.waits or self._down.waits

    def on_ready(self, fd: int, mask: int) -> None:
        """Do as a pair does; who has to wait now is not watched for reading."""
        super().on_ready(fd, mask)
        if self._early and self._up.wants_read() and self._throttle is not None:
            self._throttle.up.wait(self, self._up)  # its receiver takes some again
        for flow in (self._up, self._down):
            if flow.waits and not flow.eof:
                self._update()
                return

    def take_turn(self, flow: _RatedFlow) -> None:
        """Read some of *flow*, which has waited."""
        if flow.eof:
            return  # something has ended it meanwhile
        lane = self._lane(flow)
        if flow.wants_read():
            # No event has told whether the urgent byte has come.
            self._read(flow, lane, lane.bucket.available(), may_be_urgent=True)
        self._update()

    def _pump(self, flow: Flow) -> None:
        assert isinstance(flow, _RatedFlow)
        if not flow.waits:
            lane = self._lane(flow)
            self._read(flow, lane, lane.available())

    def _pump_urgent(self, flow: Flow) -> None:
        assert isinstance(flow, _RatedFlow)
        if not flow.waits:
            lane = self._lane(flow)
            self._read(flow, lane, lane.available(), may_be_urgent=True)

    def _read(self, flow: _RatedFlow, lane: Lane, most: int, may_be_urgent: bool = False) -> None:
        """Read once, at most so much, and send what that gave; wait if no more may be read."""
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
        self._up.waits = self._down.waits = False  # whoever gives turns passes it over
        self._early = memoryview(b"")
        if self._throttle is not None:
            self._throttle = None
            self._share.rates.leave(self._share.place)
        super()._close()
