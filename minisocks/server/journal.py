"""The records of one proxy: all are counted and reported, the last ones kept."""

import collections
import functools
import logging
import threading
import time
from typing import Callable, Deque, Dict, List, Optional, Set

from minisocks.compat import log_bug
from minisocks.net.threads import Workers
from minisocks.policy.exits import DIRECT
from minisocks.record import ExitFigures, Observer, Record, Stats

__all__ = ["Journal", "Reporter"]

log = logging.getLogger("minisocks")

#: Most records that wait for the hook, about 8 MB; then the oldest are dropped.
MAX_WAITING = 10000
#: Longest wait of ``close`` for the hook.
CLOSE_SECONDS = 5.0

_NONE = ExitFigures()


class Reporter:
    """One thread that calls ``on_connection``, and the queue before it.

    So neither the loop nor a client waits for the program's code, and the program gets its
    records one after another.  The thread is started for the first record.
    """

    def __init__(self, hook: Callable[[Record], None]) -> None:
        self._hook = hook
        self._waiting: Deque[Record] = collections.deque()
        self._workers = Workers("reporter", self._take, None, True)
        self._told = False
        #: How many records were dropped because the hook was too slow.
        self.dropped = 0

    def report(self, record: Record) -> None:
        """Have the hook called with *record* soon.  Does not wait for it.  Thread: any."""
        workers = self._workers
        with workers.changed:
            if workers.is_closed and not workers.threads:
                return  # the thread has ended
            if len(self._waiting) >= MAX_WAITING:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(record)
            problem = "" if workers.threads else self._start_thread()
            workers.changed.notify()
            if self.dropped:
                problem = "on_connection is too slow: %d records wait" % MAX_WAITING
            tell, self._told = problem and not self._told, self._told or bool(problem)
        if tell:
            log.warning("%s; the oldest are dropped", problem)

    def close(self) -> None:
        """Return when the hook has got all records, or after ``CLOSE_SECONDS``.

        If the hook itself calls it, it returns at once, and the rest is delivered after that
        call.  Thread: any; any number of times.
        """
        workers = self._workers
        with workers.changed:
            workers.close(CLOSE_SECONDS)
            if threading.current_thread() in workers.threads:
                return
            lost = len(self._waiting)
            self._waiting.clear()
        if lost:
            log.warning("on_connection is too slow: the last %d records are dropped", lost)

    def _start_thread(self) -> str:
        try:
            self._workers.start()
        except RuntimeError as exc:
            return "no thread for on_connection: %s" % exc  # tried again at the next record
        return ""

    def _take(self) -> Optional[Callable[[], None]]:
        return functools.partial(self._call, self._waiting.popleft()) if self._waiting else None

    def _call(self, record: Record) -> None:
        try:
            self._hook(record)
        except BaseException:  # noqa: BLE001  # the program's bug costs it this record only
            log_bug("id=%d the on_connection hook failed", record.id)


class Journal(Observer):
    """The figures of one run of a proxy, and its last records.  Thread: any.

    One lock makes the figures agree: a connection is in the total before its client gets the
    reply, and its bytes are counted once while it ends.

    Args:
        keep_records: how many records ``records`` holds.
        on_connection: called with each record that has ended, in a thread of its own.
    """

    def __init__(
        self, keep_records: int = 0, on_connection: Optional[Callable[[Record], None]] = None
    ) -> None:
        self._lock = threading.Lock()
        self._records: Deque[Record] = collections.deque(maxlen=keep_records)
        #: Records of connected clients; their bytes are not yet in the sums.
        self._live: Set[Record] = set()
        self._total = self._succeeded = self._up = self._down = 0
        self._refused: Dict[str, int] = {}
        #: By exit, the sums of the records that have ended; without those of direct connections.
        self._exits: Dict[str, ExitFigures] = {}
        self._checks = 0
        self._reporter = Reporter(on_connection) if on_connection is not None else None
        self._started_at = time.monotonic()
        self._closed_at: Optional[float] = None

    @property
    def records(self) -> List[Record]:
        """The last records, oldest first; a new list."""
        with self._lock:
            return list(self._records)

    @property
    def live(self) -> List[Record]:
        """The records of clients that are connected now, oldest first; a new list."""
        with self._lock:
            return sorted(self._live, key=lambda record: record.id)

    def stats(
        self,
        open: int = 0,
        handshakes: int = 0,
        threads: int = 0,
        associations: int = 0,
        upstreams: int = 0,
    ) -> Stats:
        """Return the figures; the arguments are those that the journal does not know."""
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
                upstreams=upstreams,
            )

    def by_exit(self) -> Dict[str, ExitFigures]:
        """Return the figures of each exit that has led to a target, and of ``direct``."""
        with self._lock:
            found = self._exits.copy()
            _open, total, up, down = map(sum, zip(*found.values(), _NONE))
            ended = self._succeeded - len(self._live)
            found[DIRECT] = ExitFigures(0, ended - total, self._up - up, self._down - down)
            for record in self._live:
                _add(found, record, 1)
            return found

    def close(self) -> None:
        """Stop the clock, and close the ``Reporter``, which may wait."""
        if self._closed_at is None:
            self._closed_at = time.monotonic()
        if self._reporter is not None:
            self._reporter.close()

    def asked(self, record: Record) -> None:
        """Count *record*, and keep it."""
        with self._lock:
            self._enter(record)

    def granted(self, record: Record) -> None:
        """Count a success, and the bytes of *record* from now on."""
        with self._lock:
            self._succeeded += 1
            self._live.add(record)

    def ended(self, record: Record) -> None:
        """Add the bytes of *record* to the sums, and have it reported."""
        with self._lock:
            if record.request is None:
                self._enter(record)
            if record in self._live:
                self._live.remove(record)
                self._up += record.up
                self._down += record.down
                if _exit_of(record) != DIRECT:
                    _add(self._exits, record, 0)
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


def _exit_of(record: Record) -> str:
    """Return the exit that *record* counts for: of an association with several, the first one.

    Else one client could have sums kept for each order of all exits.
    """
    return (record.exit or DIRECT).partition(",")[0]


def _add(sums: Dict[str, ExitFigures], record: Record, open: int) -> None:
    """Add *record* to the *sums* of its exit."""
    name = _exit_of(record)
    known = sums.get(name, _NONE)
    sums[name] = ExitFigures(
        known.open + open, known.total + 1, known.up + record.up, known.down + record.down
    )
