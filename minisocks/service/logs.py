"""The log of the command line: a thread of its own makes the lines and writes them.

So no other thread waits for a full disk, an unread pipe or an ended syslog.  Lines that are lost
are counted, and their number is written as soon as possible.
"""

import collections
import contextlib
import logging
import threading
import time
from typing import Callable, Deque, List, Optional, Sequence

from minisocks.config.settings import Config
from minisocks.net.processor import release_thread
from minisocks.net.threads import start_thread
from minisocks.quoting import reason_of
from minisocks.record import access_log, granted_log
from minisocks.service.lines import FORMATS, Entry, own_entry
from minisocks.service.outputs import LogFile, Output, Stderr, Syslog
from minisocks.service.repeats import Suppression

__all__ = ["Log", "open_outputs"]

log = logging.getLogger("minisocks")

#: Entries that may wait to be written, about a MiB; further ones are dropped.
MAX_WAITING = 1000
#: Seconds in which lines are collected, to be written together.
PAUSE_SECONDS = 0.05
#: Seconds that the last lines may take at the end.
CLOSE_SECONDS = 2.0
#: Seconds between two lines about lines that are lost.
EDGE_SECONDS = 10.0


def open_outputs(config: Config) -> List[Output]:
    """Open the outputs that the settings name: a file, syslog or stderr.

    Raises:
        ConfigError: the log file cannot be opened.
    """
    found: List[Output] = []
    if config.log_file:
        found.append(LogFile(config.log_file))
    if config.syslog or (config.daemon and not found):
        found.append(Syslog(config.syslog or "local"))
    return found or [Stderr()]


class Log(logging.Handler):
    """Logging handler that queues records of any thread, for its own thread to write.

    Not the handlers of ``logging.handlers``: their queue makes each connection's text in the
    thread that logs, and their files and sockets wait, or follow another user's links.

    Raises:
        ConfigError: the log file cannot be opened.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._waiting: Deque[Entry] = collections.deque()
        #: Not with --verbose, whose operator looks for single lines.
        self._suppresses = not config.verbose
        self._changed = threading.Condition()
        self._sleeping = self._closed = False
        self._thread: Optional[threading.Thread] = None
        #: Tasks for the log's thread before it writes the next lines.
        self._tasks: Deque[Callable[[], None]] = collections.deque()
        self._dropped = 0
        # The log's thread only
        self._suppression = Suppression()
        self._outputs = open_outputs(config)
        self._format = FORMATS[config.log_format]
        self._lost, self._why_lost = 0, ""
        self._told_at = -EDGE_SECONDS

    def handle(self, record: logging.LogRecord) -> bool:
        """Take *record* without the lock of ``logging.Handler``: a deque needs none."""
        is_wanted = bool(self.filter(record))
        if is_wanted:
            self.emit(record)
        return is_wanted

    def problem(self) -> str:
        """Return why lines would be lost now; "" if no reason is known.

        Waits for a name server for some seconds.  Thread: any.
        """
        return "; ".join(filter(None, [item.problem() for item in self._outputs]))

    def start(self, config: Config) -> None:
        """Take records from the loggers of minisocks from now on, and write them.

        Raises:
            RuntimeError: the system has no room for another thread.
        """
        # No line shows these, so logging need not find them for each record.
        logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
        logging.raiseExceptions = False
        # Nor the line of code that logs; logging's HOWTO names this way.
        logging._srcfile = None
        self._thread = start_thread(self._work, "log")
        logging.getLogger("minisocks").addHandler(self)
        _set_levels(config)

    def change(self, config: Config, opened: Optional[Sequence[Output]] = None) -> None:
        """Log as *config* says from now on, and to *opened*, made by ``open_outputs``."""
        _set_levels(config)
        self._suppresses = not config.verbose
        if opened is None:
            return

        def do() -> None:
            old, self._outputs = self._outputs, list(opened or ())
            self._format = FORMATS[config.log_format]
            for output in old:
                output.close()

        self._add_task(do)

    def reopen(self) -> None:
        """Open the outputs again by their names.  Any thread."""

        def do() -> None:
            for output in self._outputs:
                try:
                    output.reopen()
                except OSError as exc:
                    told = "the log cannot be opened again, so the file that is open is used: %s"
                    log.warning(told, reason_of(exc))

        self._add_task(do)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue *record* to be written soon.  Any thread; never waits."""
        waiting, entry = len(self._waiting), Entry(record)
        if waiting >= MAX_WAITING // 2 and self._suppresses and entry.is_refusal:
            # The other half is for lines that a client cannot cause without being admitted.
            self._suppression.skip(entry)
            return
        if waiting >= MAX_WAITING:
            self._dropped += 1
            return
        self._waiting.append(entry)
        if self._sleeping or len(self._waiting) == MAX_WAITING // 2:
            with self._changed:
                self._changed.notify()

    def close(self) -> None:
        """Write the lines that are left, within ``CLOSE_SECONDS``.  May be called again."""
        logging.getLogger("minisocks").removeHandler(self)
        if self._closed:
            return  # logging closes each handler at exit, too
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)
        super().close()

    def _add_task(self, task: Callable[[], None]) -> None:
        with self._changed:
            self._tasks.append(task)
            self._changed.notify()

    def _work(self) -> None:
        release_thread()
        while self._wait():
            try:
                self._work_once()
            except Exception as exc:  # noqa: BLE001  # our bug: one line is lost, the log goes on
                self._count_lost(1, "internal error: %r" % exc)
            with self._changed:
                if not self._closed and len(self._waiting) < MAX_WAITING // 2:
                    self._changed.wait(PAUSE_SECONDS)
        self._told_at = -EDGE_SECONDS  # this is the last chance
        with contextlib.suppress(Exception):  # our bug, and there is no log to write it to
            self._work_once()
            self._write(self._suppression.rest())
        for output in self._outputs:
            output.close()

    def _wait(self) -> bool:
        """Wait for work; return False when the log is closed."""
        with self._changed:
            # Set before the queue is looked at, because ``emit`` appends before it looks.
            self._sleeping = True
            while not (self._waiting or self._tasks or self._closed):
                seconds = self._suppression.seconds()
                if seconds == 0:
                    break
                self._changed.wait(seconds)
            self._sleeping = False
            return not self._closed

    def _work_once(self) -> None:
        """Carry out the tasks, then write the sums that are due and the queued entries."""
        while self._tasks:
            self._tasks.popleft()()
        entries = self._suppression.due()
        for _ in range(len(self._waiting)):
            entry = self._waiting.popleft()
            entries += self._suppression.take(entry) if self._suppresses else [entry]
        dropped, self._dropped = self._dropped, 0
        if dropped:
            self._count_lost(dropped, "they came faster than they could be written")
        self._write(entries)

    def _write(self, entries: Sequence[Entry]) -> None:
        now = time.monotonic()
        telling = 0
        if self._why_lost and now >= self._told_at + EDGE_SECONDS:
            telling = self._lost
            self._told_at = now
            entries = [self._lost_entry(), *entries]
            self._why_lost = ""
        if not entries:
            return
        why, lost = "", 0
        for output in self._outputs:
            has_time = output.has_time
            lines = [(entry.severity, self._format(entry, has_time)) for entry in entries]
            problem = output.write(lines)
            if problem:
                why, lost = problem, max(lost, output.lost)
        if lost < len(entries):
            self._lost -= telling  # their line is the first one, and is written
        elif telling:
            lost -= 1
        if why:
            self._count_lost(lost, why)

    def _count_lost(self, count: int, why: str) -> None:
        self._lost += count
        self._why_lost = why

    def _lost_entry(self) -> Entry:
        lost = self._lost
        lines = "1 line of the log is" if lost == 1 else "%d lines of the log are" % lost
        text = "%s lost: %s" % (lines, self._why_lost)
        return own_entry("minisocks", logging.WARNING, text)


def _set_levels(config: Config) -> None:
    level = logging.DEBUG if config.verbose else logging.INFO
    logging.getLogger("minisocks").setLevel(level)
    for logger, times in ((access_log, 2), (granted_log, 1)):
        logger.setLevel(logging.WARNING if config.quiet >= times else logging.NOTSET)
