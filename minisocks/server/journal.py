"""All records of one proxy: the last ones kept, all of them counted and reported."""

import collections
import logging
import threading
import time
from typing import Callable, Deque, Dict, List, Optional, Set

from minisocks.compat import log_bug
from minisocks.net.processor import release_thread
from minisocks.net.threads import start_thread
from minisocks.record import Record, Witness
from minisocks.stats import Stats

__all__ = ["Journal", "Reporter"]

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


class Journal(Witness):
    """What the records of one run of a proxy add up to.

    A class because one lock makes the figures agree with each other: a
    connection is in the total before its client hears of success, and its bytes
    are counted once while it ends.  Any thread.

    Args:
        keep_records: how many of the last ``records`` holds.
        on_connection: called with each record that has ended, in a thread of
            its own.
    """

    def __init__(
        self, keep_records: int = 0, on_connection: Optional[Callable[[Record], None]] = None
    ) -> None:
        self._lock = threading.Lock()
        self._records: Deque[Record] = collections.deque(maxlen=keep_records)
        #: Those that are connected; their bytes are not yet in the sums.
        self._live: Set[Record] = set()
        self._total = self._succeeded = self._up = self._down = 0
        self._refused: Dict[str, int] = {}
        self._checks = 0
        self._reporter = Reporter(on_connection) if on_connection is not None else None
        self._started_at = time.monotonic()
        self._closed_at: Optional[float] = None

    @property
    def records(self) -> List[Record]:
        """The last records, oldest first; a list of the caller's own."""
        with self._lock:
            return list(self._records)

    @property
    def live(self) -> List[Record]:
        """Those that are connected now, oldest first; a list of the caller's own."""
        with self._lock:
            return sorted(self._live, key=lambda record: record.id)

    def stats(
        self, open: int = 0, handshakes: int = 0, threads: int = 0, associations: int = 0
    ) -> Stats:
        """Return the figures; those that only others know are given."""
        with self._lock:
            until = time.monotonic() if self._closed_at is None else self._closed_at
            return Stats(
                uptime=until - self._started_at,
                open=open,
                total=self._total,
                succeeded=self._succeeded,
                refused=dict(self._refused),
                up=self._up + sum(record.up for record in self._live),
                down=self._down + sum(record.down for record in self._live),
                handshakes=handshakes,
                threads=threads,
                associations=associations,
                checks=self._checks,
            )

    def close(self) -> None:
        """Stop the clock; return when all has been reported, or it took too long."""
        if self._closed_at is None:
            self._closed_at = time.monotonic()
        if self._reporter is not None:
            self._reporter.close()

    def asked(self, record: Record) -> None:
        """Take *record* in."""
        with self._lock:
            self._enter(record)

    def granted(self, record: Record) -> None:
        """Count a success, and its bytes from now on."""
        with self._lock:
            self._succeeded += 1
            self._live.add(record)

    def ended(self, record: Record) -> None:
        """Add *record* up, and have it reported."""
        with self._lock:
            if record.request is None:
                self._enter(record)
            if record in self._live:
                self._live.remove(record)
                self._up += record.up
                self._down += record.down
            else:
                why = record.reason
                self._refused[why] = self._refused.get(why, 0) + 1
        if self._reporter is not None:
            self._reporter.report(record)

    def checked(self) -> None:
        """Count a health check."""
        with self._lock:
            self._checks += 1

    def _enter(self, record: Record) -> None:
        self._total += 1
        self._records.append(record)
