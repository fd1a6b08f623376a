"""One thread that does what takes long for a password, one after another.

One, so that whoever guesses passwords takes one processor at most, and so that
a machine of one processor goes on relaying.  It is there only while it is needed.
"""

import threading
import time
from typing import Callable, Optional, Tuple

from minisocks.compat import log_bug, start_thread

__all__ = ["Deriver"]

#: How long the thread stays without work.
IDLE_SECONDS = 10.0
#: How long others run when it makes a pause: a tenth of a millisecond, about.
PAUSE_SECONDS = 0.00005
#: How long ``join`` waits. OpenSSL cannot be interrupted; the thread is a daemon.
JOIN_SECONDS = 0.25

#: Works, calling what it is given now and then, and says yes or no.
Work = Callable[[Callable[[], None]], bool]
#: Gets the answer; None: the work failed.  In the deriver's thread.
OnAnswer = Callable[[Optional[bool]], None]


class _Closed(Exception):
    """Nobody waits for the answer any more."""


class Deriver:
    """The thread, and its one place for work.

    A class because thread and place begin and end together.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards all below
        self._work: Optional[Tuple[Work, OnAnswer]] = None
        self._thread: Optional[threading.Thread] = None
        self._closed = False

    def submit(self, work: Work, on_answer: OnAnswer) -> None:
        """Have *work* done.  Once the last answer has come; any thread.

        Raises:
            RuntimeError: there is no thread to be had.
        """
        with self._changed:
            assert self._work is None
            if self._thread is None and not self._closed:
                self._thread = start_thread(self._run, "password")
            self._work = work, on_answer
            self._changed.notify()

    def close(self) -> None:
        """Call nobody back any more, and end the thread; does not wait for that."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def join(self) -> None:
        """Wait for the thread's end, but not for what OpenSSL is at."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(JOIN_SECONDS)

    def _run(self) -> None:
        for work, on_answer in iter(self._next, None):
            answer = self._answer(work)
            with self._changed:
                self._work = None
            if not self._closed:
                on_answer(answer)

    def _next(self) -> Optional[Tuple[Work, OnAnswer]]:
        """Return what is to be done next; None if nothing came for a while, or it is closed."""
        with self._changed:
            if self._work is None and not self._closed:
                self._changed.wait(IDLE_SECONDS)
            if self._closed:
                return None
            if self._work is None:
                # In the same breath, or work would count on this thread.
                self._thread = None
            return self._work

    def _answer(self, work: Work) -> Optional[bool]:
        try:
            return work(self._pause)
        except _Closed:
            return None
        except BaseException:  # noqa: BLE001  # out of memory, or our bug: one client pays for it
            log_bug("checking a password failed")
            return None

    def _pause(self) -> None:
        if self._closed:
            raise _Closed
        time.sleep(PAUSE_SECONDS)
