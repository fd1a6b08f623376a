"""The last bytes of a pair that broke.

A RST overtakes and destroys what the kernel has not delivered yet.  So whoever still
listens gets all of it first, as long as he takes some of it now and then.
"""

from typing import Callable, Optional, Tuple

from minisocks.compat import unsent_bytes
from minisocks.net.job import Job, Timer
from minisocks.net.loop import Loop
from minisocks.record import Record
from minisocks.relay.flow import Flow

__all__ = ["Delivery", "is_undelivered"]

#: A receiver that takes nothing for so long does not keep the pair.
STANDSTILL_SECONDS = 10.0
#: How soon, and how seldom at the end, the kernel is asked what is left.
FIRST_LOOK_SECONDS, LAST_LOOK_SECONDS = 0.01, 1.0

#: How far each direction is whose receiver lives: bytes sent, and of them unacknowledged.
_Progress = Tuple[Tuple[int, int], ...]


def is_undelivered(flows: Tuple[Flow, Flow]) -> bool:
    """Return whether a receiver that lives has not acknowledged all bytes yet."""
    return any(unsent_bytes(flow.dst) for flow in flows if not flow.broken)


class Delivery:
    """Ends *job* when its last bytes are delivered, or nobody takes them.  Loop thread.

    Args:
        flows: its directions, up and down.
        end: called once.
    """

    __slots__ = ("_end", "_flows", "_job", "_look_again", "_loop", "_record", "_standstill")

    def __init__(
        self,
        loop: Loop,
        job: Job,
        record: Record,
        flows: Tuple[Flow, Flow],
        end: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._job = job
        self._record = record
        self._flows = flows
        self._end = end
        self._look_again: Optional[Timer] = None
        self._standstill: Optional[Timer] = None
        self._expect_progress(self._progress())

    def finish(self, seconds: float = FIRST_LOOK_SECONDS) -> None:
        """End as soon as all is delivered; nothing more will be sent."""
        if is_undelivered(self._flows):
            again = min(LAST_LOOK_SECONDS, seconds * 2)
            self._look_again = self._loop.call_later(seconds, self._job, lambda: self.finish(again))
        else:
            self._end()

    def cancel(self) -> None:
        """Wait no more."""
        for timer in (self._standstill, self._look_again):
            if timer is not None:
                timer.cancel()  # else it would keep the job until its time

    def _expect_progress(self, before: _Progress) -> None:
        self._standstill = self._loop.call_later(
            STANDSTILL_SECONDS, self._job, lambda: self._check(before)
        )

    def _check(self, before: _Progress) -> None:
        now = self._progress()
        if now == before:
            self._end()
        else:
            self._expect_progress(now)

    def _progress(self) -> _Progress:
        counts = self._record.up, self._record.down
        ways = zip(counts, self._flows)
        return tuple((count, unsent_bytes(flow.dst)) for count, flow in ways if not flow.broken)
