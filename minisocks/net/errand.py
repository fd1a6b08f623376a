"""Have the loop do something, and wait for it."""

import threading
from typing import Callable, List, Optional, TypeVar

from minisocks.net.job import Job
from minisocks.net.loop import Loop

__all__ = ["have_done", "run_in"]

_T = TypeVar("_T")


class _Errand(Job):
    """One of them; no connection, and never longer in the loop than it takes."""

    counts = False

    def __init__(self, loop: Loop, work: Callable[[], None]) -> None:
        self._loop, self._work = loop, work
        self.done = threading.Event()

    def begin(self) -> None:
        try:
            self._work()
        finally:
            self.abort("")

    def abort(self, why: str) -> None:
        self._loop.done(self)
        self.done.set()


def have_done(loop: Loop, work: Callable[[], None]) -> None:
    """Have *loop* do *work*, unless it ends before.  Any thread; does not wait for it."""
    loop.submit(_Errand(loop, work))


def run_in(loop: Loop, work: Callable[[], _T]) -> Optional[_T]:
    """Return what *work* returns once *loop* has done it; None if the loop has ended without.

    Thread: any; in the loop's own it is done at once.
    """
    results: List[_T] = []
    errand = _Errand(loop, lambda: results.append(work()))
    loop.submit(errand)
    errand.done.wait()
    return results[0] if results else None
