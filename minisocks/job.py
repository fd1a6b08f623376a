"""What the loop does: jobs, and their timers."""

from typing import Callable, Dict, Optional, Tuple

__all__ = ["Job", "Timer"]


class Job:
    """Something the loop does.  Methods are called in the loop's thread, unless they say so.

    A job owns its sockets from ``Loop.submit`` on, and says ``Loop.done`` once
    when it has given them to ``Loop.close_later`` or to another job.
    """

    __slots__ = ()

    #: Whether ``len`` of the loop counts it, and its end is waited for.
    counts = True

    def begin(self) -> None:
        """Register what it waits for.  Events come from the next round on."""
        raise NotImplementedError

    def on_ready(self, fd: int, mask: int) -> None:
        """Act: *fd* is ready, or dead.  A bounded amount of work, no waiting."""
        raise NotImplementedError

    def abort(self, why: str) -> None:
        """Release everything at once; also before ``begin``.  Must not raise."""
        raise NotImplementedError

    def watched_at_once(self) -> Optional[Dict[int, int]]:
        """Return what ``begin`` would watch, by descriptor, if it would do nothing else.

        It is not called then.  Thread: the one that submits it, as for ``watched``.
        """
        return None

    def watched(self) -> None:
        """Take note that all of that is watched; nothing is reported before."""

    def is_held_back(self) -> bool:
        """Return whether it is kept from going on, so that its silence is not its own."""
        return False


class Timer:
    """A job's callback at a time; ``cancel`` it when it is no longer wanted."""

    __slots__ = ("_cancelled", "callback", "job")

    def __init__(
        self, job: Job, callback: Callable[[], None], cancelled: Callable[[], None]
    ) -> None:
        self._cancelled = cancelled
        self.job: Optional[Job] = job
        self.callback: Optional[Callable[[], None]] = callback

    def cancel(self) -> None:
        """Forget it; any number of times."""
        if self.callback is not None:
            self._forget()
            self._cancelled()

    def take(self) -> "Tuple[Optional[Job], Optional[Callable[[], None]]]":
        """Return job and callback, once: its time has come."""
        taken = self.job, self.callback
        self._forget()
        return taken

    def _forget(self) -> None:
        # Else timer and job would keep each other, and the job its session.
        self.job = self.callback = None
