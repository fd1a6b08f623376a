"""The end of connections on which nothing is said."""

from typing import Optional

from minisocks.net.job import Job, Timer
from minisocks.net.loop import Loop
from minisocks.record import Record

__all__ = ["Idle"]

#: It is looked so often within the time, hence it ends at most a quarter of it late.
LOOKS = 4


class Idle:
    """Aborts *job* as "idle" when its record counts no byte for *seconds*.  Loop thread.

    A class because it remembers what it saw.  It looks now and then, so that a byte
    that is relayed costs nothing.
    """

    __slots__ = ("_job", "_loop", "_quiet", "_record", "_seconds", "_seen", "_timer")

    def __init__(self, loop: Loop, job: Job, record: Record, seconds: float) -> None:
        self._loop = loop
        self._job = job
        self._record = record
        self._seconds = seconds
        self._seen = self._quiet = 0
        self._timer: Optional[Timer] = None

    def begin(self) -> None:
        """Start the clock."""
        self._timer = self._loop.call_later(self._seconds / LOOKS, self._job, self._look)

    def cancel(self) -> None:
        """Wait no more."""
        if self._timer is not None:
            self._timer.cancel()

    def count(self) -> int:
        """Return what grows when something is said."""
        return self._record.up + self._record.down

    def over(self) -> None:
        """End what was silent for so long."""
        self._job.abort("idle")

    def _look(self) -> None:
        now = self.count()
        is_quiet = now == self._seen and not self._job.is_held_back()
        self._quiet = self._quiet + 1 if is_quiet else 0
        self._seen = now
        if self._quiet < LOOKS:
            self.begin()
        else:
            self.over()
