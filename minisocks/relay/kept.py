"""Pipes that are kept by receivers which take nothing of what is in them."""

from typing import Optional, Tuple

from minisocks.net.job import Job, Timer
from minisocks.net.loop import Loop
from minisocks.net.pipes import Pipe
from minisocks.record import Record
from minisocks.relay.flow import Flow

__all__ = ["Kept"]

#: How long a receiver may keep a pipe and take nothing of what is in it.
PIPE_SECONDS = 1.0


class Kept:
    """Has bytes wait in memory instead of in a pipe that others need.  Loop thread.

    A class because its timer lives as long as *job*.

    Args:
        flows: the directions of *job*, up and down.
    """

    __slots__ = ("_flows", "_job", "_loop", "_record", "_timer")

    def __init__(self, loop: Loop, job: Job, record: Record, flows: Tuple[Flow, Flow]) -> None:
        self._loop = loop
        self._job = job
        self._record = record
        self._flows = flows
        self._timer: Optional[Timer] = None

    def expect(self) -> None:
        """See in a while whether the receiver of a pipe has taken some of it."""
        if self._timer is None:
            before = (self._record.up, self._record.down)
            self._timer = self._loop.call_later(
                PIPE_SECONDS, self._job, lambda: self.check(*before)
            )

    def cancel(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def check(self, *before: int) -> None:
        """Take what is in a pipe out of it if the counts are still those of *before*."""
        self._timer = None
        now = (self._record.up, self._record.down)
        for flow, then, count in zip(self._flows, before, now):
            if isinstance(flow.pending, Pipe):
                if then == count:
                    flow.take_out(flow.pending, self._loop.pipes)
                if isinstance(flow.pending, Pipe):
                    self.expect()
