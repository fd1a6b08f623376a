"""The last bytes of a pair that broke.

A RST overtakes and destroys what the kernel has not delivered yet.  So whoever still
listens gets all of it first, as long as he takes some of it now and then.
"""

from typing import Callable, Optional, Tuple

from minisocks.loop import Job, Loop, Timer

__all__ = ["Delivery", "Progress"]

#: A receiver that takes nothing for so long does not keep the pair.
STANDSTILL_SECONDS = 10.0
#: How soon, and how seldom at the end, the kernel is asked what is left.
FIRST_LOOK_SECONDS, LAST_LOOK_SECONDS = 0.01, 1.0

#: How far each direction is whose receiver lives: bytes sent, and of them unacknowledged.
Progress = Tuple[Tuple[int, int], ...]


class Delivery:
    """Ends *job* when its last bytes are delivered, or nobody takes them.  Loop thread.

    Args:
        look: returns how far they are.
        end: called once.
    """

    __slots__ = ("_end", "_job", "_look", "_look_again", "_loop", "_standstill")

    def __init__(
        self, loop: Loop, job: Job, look: Callable[[], Progress], end: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._job = job
        self._look = look
        self._end = end
        self._look_again: Optional[Timer] = None
        self._standstill: Optional[Timer] = None
        self._expect_progress(look())

    def finish(self, seconds: float = FIRST_LOOK_SECONDS) -> None:
        """End as soon as all is delivered; nothing more will be sent."""
        if any(unsent for _count, unsent in self._look()):
            again = min(LAST_LOOK_SECONDS, seconds * 2)
            self._look_again = self._loop.call_later(
                seconds, self._job, lambda: self.finish(again)
            )
        else:
            self._end()

    def cancel(self) -> None:
        """Wait no more."""
        for timer in (self._standstill, self._look_again):
            if timer is not None:
                timer.cancel()  # else it would keep the job until its time

    def _expect_progress(self, before: Progress) -> None:
        self._standstill = self._loop.call_later(
            STANDSTILL_SECONDS, self._job, lambda: self._check(before)
        )

    def _check(self, before: Progress) -> None:
        now = self._look()
        if now == before:
            self._end()
        else:
            self._expect_progress(now)
