"""All records of one proxy: the last ones kept, all of them counted and reported."""

import collections
import threading
import time
from typing import Callable, Deque, Dict, List, Optional, Set

from minisocks.record import Record, Witness
from minisocks.server.reporter import Reporter
from minisocks.stats import Stats

__all__ = ["Journal"]


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
