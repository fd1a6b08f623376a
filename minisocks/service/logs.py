"""The log of the command line: lines are made and written by a thread of its own.

So nobody waits for a disk that is full, a pipe that nobody reads or a syslog that is
gone, the loop least of all.  What cannot be written is counted, and told when it can.
"""

import collections
import logging
import threading
import time
from typing import Callable, Deque, List, Optional, Sequence

from minisocks.config.settings import Config
from minisocks.net.processor import release_thread
from minisocks.net.threads import start_thread
from minisocks.quoting import reason_of
from minisocks.record import access_log, granted_log
from minisocks.service.lines import FORMATS, Entry
from minisocks.service.outputs import Destination, LogFile, Stderr, Syslog
from minisocks.service.repeats import Suppression

__all__ = ["Log", "destinations"]

log = logging.getLogger("minisocks")

#: Entries that wait to be written, about a MiB. Beyond it new ones are dropped.
MAX_WAITING = 1000
#: Lines that come within so many seconds are written together.
PAUSE_SECONDS = 0.05
#: How long the end waits for the last lines to be taken.
CLOSE_SECONDS = 2.0
#: It is told so often that lines are lost.
EDGE_SECONDS = 10.0


def destinations(config: Config) -> List[Destination]:
    """Open where the settings want the log to be.

    Raises:
        ConfigError: the file cannot be opened.
    """
    found: List[Destination] = []
    if config.log_file:
        found.append(LogFile(config.log_file))
    if config.syslog or (config.daemon and not found):
        found.append(Syslog(config.syslog or "local"))
    return found or [Stderr()]


class Log(logging.Handler):
    """Takes records from any thread, and has one thread of its own write them.

    A class because handler, queue and thread live and end together.

    Raises:
        ConfigError: the file cannot be opened.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._waiting: Deque[Entry] = collections.deque()
        #: Not with --verbose: who asks for it is looking for something.
        self._suppresses = not config.verbose
        self._changed = threading.Condition()
        self._sleeping = self._closed = False
        self._thread: Optional[threading.Thread] = None
        #: What is to be done before the next lines are written.
        self._wishes: Deque[Callable[[], None]] = collections.deque()
        self._dropped = 0
        # The log's thread only
        self._suppression = Suppression()
        self._destinations = destinations(config)
        self._format = FORMATS[config.log_format]()
        self._lost, self._why_lost = 0, ""
        self._told_at = -EDGE_SECONDS

    def handle(self, record: logging.LogRecord) -> bool:
        """Take *record* without the lock of other handlers: a deque needs none."""
        is_wanted = bool(self.filter(record))
        if is_wanted:
            self.emit(record)
        return is_wanted

    @property
    def problem(self) -> str:
        """Why lines would be lost, as far as can be told before there are any."""
        return "; ".join(filter(None, [item.problem() for item in self._destinations]))

    def start(self, config: Config) -> None:
        """Take what our loggers have from now on, and write it.

        Raises:
            RuntimeError: there is no room for a thread.
        """
        # What no line shows need not be asked of the system for each.
        logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
        logging.raiseExceptions = False
        # Nor from which line of ours it comes; logging's HOWTO names this way.
        logging._srcfile = None
        self._thread = start_thread(self._work, "log")
        logging.getLogger("minisocks").addHandler(self)
        _set_levels(config)

    def change(self, config: Config, opened: Optional[Sequence[Destination]] = None) -> None:
        """Log as *config* says from now on, and to what ``destinations`` has *opened* for it."""
        _set_levels(config)
        self._suppresses = not config.verbose
        if opened is None:
            return

        def do() -> None:
            old, self._destinations = self._destinations, list(opened or ())
            self._format = FORMATS[config.log_format]()
            for destination in old:
                destination.close()

        self._wish(do)

    def reopen(self) -> None:
        """Have its files opened anew."""

        def do() -> None:
            for destination in self._destinations:
                try:
                    destination.reopen()
                except OSError as exc:
                    told = "the log cannot be opened anew, going on with the old one: %s"
                    log.warning(told, reason_of(exc))

        self._wish(do)

    def emit(self, record: logging.LogRecord) -> None:
        """Have *record* written soon.  Never waits."""
        waiting, entry = len(self._waiting), Entry(record)
        if waiting >= MAX_WAITING // 2 and self._suppresses and entry.is_refusal:
            # The other half is for what clients cannot have for nothing.
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
        """Write what is left, unless that takes too long.  Any number of times."""
        logging.getLogger("minisocks").removeHandler(self)
        if self._closed:
            return  # logging closes it once more at exit
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)
        super().close()

    def _wish(self, wish: Callable[[], None]) -> None:
        with self._changed:
            self._wishes.append(wish)
            self._changed.notify()

    def _work(self) -> None:
        release_thread()
        while self._wait():
            try:
                self._take()
            except Exception as exc:  # noqa: BLE001  # our bug: a line pays for it, the log lives on
                self._lost_some(1, "internal error: %r" % exc)
            with self._changed:
                if not self._closed and len(self._waiting) < MAX_WAITING // 2:
                    self._changed.wait(PAUSE_SECONDS)
        self._told_at = -EDGE_SECONDS  # or never
        try:
            self._take()
            self._write(self._suppression.rest())
        except Exception:  # noqa: BLE001, S110  # our bug: nobody is left to tell
            pass
        for destination in self._destinations:
            destination.close()

    def _wait(self) -> bool:
        """Return when there is something to do; False at the end."""
        with self._changed:
            # Before it looks: who appends looks at the flag behind that.
            self._sleeping = True
            while not (self._waiting or self._wishes or self._closed):
                seconds = self._suppression.seconds()
                if seconds == 0:
                    break
                self._changed.wait(seconds)
            self._sleeping = False
            return not self._closed

    def _take(self) -> None:
        """Write what waits, and what is due."""
        while self._wishes:
            self._wishes.popleft()()
        entries = self._suppression.due()
        for _ in range(len(self._waiting)):
            entry = self._waiting.popleft()
            entries += self._suppression.take(entry) if self._suppresses else [entry]
        dropped, self._dropped = self._dropped, 0
        if dropped:
            self._lost_some(dropped, "they are not taken fast enough")
        self._write(entries)

    def _write(self, entries: Sequence[Entry]) -> None:
        now = time.monotonic()
        telling = 0
        if self._why_lost and now >= self._told_at + EDGE_SECONDS:
            telling = self._lost
            self._told_at = now
            entries = [self._loss(), *entries]
            self._why_lost = ""
        if not entries:
            return
        why, lost = "", 0
        for destination in self._destinations:
            has_time = destination.has_time
            lines = [(entry.severity, self._format(entry, has_time)) for entry in entries]
            problem = destination.write(lines)
            if problem:
                why, lost = problem, max(lost, destination.lost)
        if lost < len(entries):
            self._lost -= telling  # that line, the first one, is written
        elif telling:
            lost -= 1
        if why:
            self._lost_some(lost, why)

    def _lost_some(self, count: int, why: str) -> None:
        self._lost += count
        self._why_lost = why

    def _loss(self) -> Entry:
        text = "%d lines of the log are lost: %s" % (self._lost, self._why_lost)
        record = logging.makeLogRecord({"msg": text, "levelno": logging.WARNING})
        record.name = "minisocks"
        return Entry(record)


def _set_levels(config: Config) -> None:
    level = logging.DEBUG if config.verbose else logging.INFO
    logging.getLogger("minisocks").setLevel(level)
    for logger, times in ((access_log, 2), (granted_log, 1)):
        logger.setLevel(logging.WARNING if config.quiet >= times else logging.NOTSET)
