"""Jobs of the loop, and their timers."""

import heapq
import itertools
import threading
import time
from typing import Callable, Dict, Iterator, List, Optional, Tuple

__all__ = ["Background", "Job", "Task", "Timer", "Timers"]


class Job:
    """Something the loop does.  Methods are called in its thread, if nothing else is said.

    A job owns its sockets from ``Loop.submit`` on.  It calls ``Loop.done`` when it has given them
    to ``Loop.close_later`` or to another job.
    """

    __slots__ = ()

    #: Whether ``len`` of the loop includes it, and a graceful end waits for it.
    counts = True

    def begin(self) -> None:
        """Watch descriptors and set timers.  Events come from the next round on."""
        raise NotImplementedError

    def on_ready(self, fd: int, mask: int) -> None:
        """Act on *fd*, which is ready or dead: a bounded amount of work, without waiting."""
        raise NotImplementedError

    def on_bulk(self, fd: int, mask: int) -> None:
        """Act as ``on_ready``; *fd* was given to ``Loop.set_bulk``."""
        self.on_ready(fd, mask)

    def abort(self, why: str) -> None:
        """Release everything at once; also before ``begin``.  Must not raise."""
        raise NotImplementedError

    def ask_again(self) -> None:
        """Note that a reload has changed users or rules."""

    def stop_listening(self) -> None:
        """End if it only waits for a connection: the proxy listens no more."""

    def look_after_peers(self) -> None:
        """End what a vanished peer keeps; called once a minute."""

    def watched_at_once(self) -> Optional[Dict[int, int]]:
        """Return the masks by descriptor if ``begin`` would watch them and do nothing else.

        ``begin`` is not called then.  Thread: that which submits it; so for ``watched``.
        """
        return None

    def watched(self) -> None:
        """Note that all of them are watched; no event comes before."""

    def is_held_back(self) -> bool:
        """Return whether it waits for tokens (``--rate``), so that it is not idle."""
        return False


class Background(Job):
    """A job that is no connection and watches no descriptor: what it does is due to timers."""

    __slots__ = ()

    counts = False

    def begin(self) -> None:
        """Do nothing yet."""

    def on_ready(self, fd: int, mask: int) -> None:
        """Never called."""

    def abort(self, why: str) -> None:
        """Do nothing: the proxy ends."""


class Task(Background):
    """One call in the loop's thread; ``ended`` is set when it is done or the loop has ended.

    Args:
        done: the loop's.
    """

    __slots__ = ("_done", "_work", "ended")

    def __init__(self, work: Callable[[], None], done: Callable[[Job], None]) -> None:
        self._work, self._done = work, done
        self.ended = threading.Event()

    def begin(self) -> None:
        """Do it."""
        try:
            self._work()
        finally:
            self.abort("")

    def abort(self, why: str) -> None:
        """End it."""
        self._done(self)
        self.ended.set()


class Timer:
    """A callback of a job at a time; ``cancel`` it when it is not wanted any more."""

    __slots__ = ("_cancelled", "callback", "job")

    def __init__(
        self, job: Job, callback: Callable[[], None], cancelled: Callable[[], None]
    ) -> None:
        self._cancelled = cancelled
        self.job: Optional[Job] = job
        self.callback: Optional[Callable[[], None]] = callback

    def cancel(self) -> None:
        """Do not call back; any number of times."""
        if self.callback is not None:
            self._forget()
            self._cancelled()

    def take(self) -> "Tuple[Optional[Job], Optional[Callable[[], None]]]":
        """Return job and callback, once: the timer is due."""
        taken = self.job, self.callback
        self._forget()
        return taken

    def _forget(self) -> None:
        # Else timer and job would keep each other in memory, and the job its session.
        self.job = self.callback = None


class Timers:
    """The timers of one loop.  Its thread only.

    Cancelled ones stay until they are due, or until they are more than the others: most timers
    are cancelled (a dial that succeeds cancels its limit of 120 s).
    """

    def __init__(self) -> None:
        #: A heap of rows: monotonic seconds, a number that keeps the order, the timer.
        self.entries: List[Tuple[float, int, Timer]] = []
        self._ids = itertools.count()
        #: The number of cancelled ones.
        self.cancelled = 0

    def add(self, seconds: float, job: Job, callback: Callable[[], None]) -> Timer:
        """Return a new timer, which is due in *seconds*."""
        timer = Timer(job, callback, self._note_cancelled)
        heapq.heappush(self.entries, (time.monotonic() + seconds, next(self._ids), timer))
        return timer

    def seconds_left(self) -> float:
        """Return the seconds until the next one is due, below 0 if there is none."""
        entries = self.entries
        while entries and entries[0][2].callback is None:
            heapq.heappop(entries)
            self.cancelled -= 1
        if not entries:
            return -1.0
        return max(0.0, entries[0][0] - time.monotonic())

    def due(self) -> Iterator[Tuple[Job, Callable[[], None]]]:
        """Iterate over jobs and callbacks that are due; a callback may cancel others."""
        entries, now = self.entries, time.monotonic() if self.entries else 0.0
        while entries and entries[0][0] <= now:
            job, callback = heapq.heappop(entries)[2].take()
            if job is None or callback is None:
                self.cancelled -= 1
            else:
                yield job, callback

    def _note_cancelled(self) -> None:
        self.cancelled += 1
        if self.cancelled > 64 and self.cancelled * 2 > len(self.entries):
            # In place: a timer that is run just now may call this.
            self.entries[:] = [entry for entry in self.entries if entry[2].callback is not None]
            heapq.heapify(self.entries)
            self.cancelled = 0
