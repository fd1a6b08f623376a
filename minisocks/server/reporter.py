"""Tell the embedding program of connections that have ended, at its own pace."""

import collections
import logging
import threading
import time
from typing import Callable, Deque, Optional

from minisocks.compat import log_bug
from minisocks.net.processor import release_thread
from minisocks.net.threads import start_thread
from minisocks.record import Record

__all__ = ["Reporter"]

log = logging.getLogger("minisocks")

#: Records that may wait for the hook; about 8 MB. The oldest make room.
MAX_WAITING = 10000
#: How long ``close`` waits for the hook to take what is left.
CLOSE_SECONDS = 5.0


class Reporter:
    """One thread that calls ``on_connection``, and the queue before it.

    A class because neither the loop nor a client may wait for the program's
    code, and the program wants its records one after another, in order.  The
    thread is made for the first record.
    """

    def __init__(self, hook: Callable[[Record], None]) -> None:
        self._hook = hook
        self._waiting: Deque[Record] = collections.deque()
        self._changed = threading.Condition()
        self._thread: Optional[threading.Thread] = None
        self._closed = False
        self._told = False
        #: How many were dropped because the hook was too slow.
        self.dropped = 0

    def report(self, record: Record) -> None:
        """Have the hook called with *record*, soon.  Any thread; never waits for the hook."""
        with self._changed:
            if self._closed and self._thread is None:
                return  # nobody is there any more
            if len(self._waiting) >= MAX_WAITING:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(record)
            problem = self._ensure_thread() if self._thread is None else ""
            self._changed.notify()
            if self.dropped:
                problem = "on_connection is too slow: %d records wait" % MAX_WAITING
            tell, self._told = problem and not self._told, self._told or bool(problem)
        if tell:
            log.warning("%s; the oldest are dropped", problem)

    def close(self) -> None:
        """Return when the hook has had all records, or after ``CLOSE_SECONDS``.

        Called by the hook itself it cannot wait, and does not; the rest is
        delivered behind that call.  Any thread, any number of times.
        """
        until = time.monotonic() + CLOSE_SECONDS
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            if self._thread is threading.current_thread():
                return
            # In a forked child it does not live.
            while self._thread is not None and self._thread.is_alive():
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            lost = len(self._waiting)
            self._waiting.clear()
        if lost:
            log.warning("on_connection is too slow: the last %d records are dropped", lost)

    def _ensure_thread(self) -> str:
        try:
            self._thread = start_thread(self._work, "reporter", True)
        except RuntimeError as exc:
            return "no thread for on_connection: %s" % exc  # the next record tries again
        return ""

    def _work(self) -> None:
        release_thread()
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    self._thread = None
                    self._changed.notify_all()
                    return
                record = self._waiting.popleft()
            try:
                self._hook(record)
            except BaseException:  # noqa: BLE001  # the program's bug: it loses this one and hears the next
                log_bug("id=%d the on_connection hook failed", record.id)
