"""The log of the command line: lines are made and written by a thread of its own.

So nobody waits for a disk that is full, a pipe that nobody reads or a syslog that is
gone, the loop least of all.  What cannot be written is counted, and told when it can.
"""

import collections
import json
import logging
import threading
import time
from typing import Any, Callable, Deque, Dict, Hashable, List, Optional, Sequence

from minisocks.client import neighbourhood
from minisocks.destinations import Destination, LogFile, Stderr, Syslog
from minisocks.folding import Folding
from minisocks.processor import release_thread
from minisocks.record import LIMIT_ENDS, Record
from minisocks.settings import Config
from minisocks.threads import start_thread

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

#: Python's levels in syslog's numbers (RFC 5424 section 6.2.1).
_SEVERITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))


class _Entry:
    """One line to be, as text only when it is written: many are folded, or dropped."""

    __slots__ = ("connection", "created", "kind", "level", "name", "repeats", "text", "trace")

    def __init__(self, record: logging.LogRecord) -> None:
        self.name = record.name
        self.level = record.levelno
        self.created = record.created
        #: The record of a connection, which seldom changes before it is written.
        self.connection: Optional[Record] = None
        self.text = self.trace = ""
        self.repeats = 0
        args = record.args
        if isinstance(args, tuple) and len(args) == 1 and isinstance(args[0], Record):
            self.connection = args[0]
        else:
            self.text = record.getMessage()
            self.trace = record.exc_text or ""  # tame_traceback has made it
        self.kind = self._kind(record.msg)

    def _kind(self, template: str) -> Optional[Hashable]:
        """Return what lines of the same kind have in common; None: each is wanted."""
        if self.level < logging.INFO:
            return None
        record = self.connection
        if record is None:
            return (self.name, self.level, self.text if template == "%s" else template)
        if record.end in LIMIT_ENDS:
            # Each limit by itself: behind other refusals none would be told.
            whose = b"" if "(--max-connections " in record.why else record.client.ip
            return (neighbourhood(whose), record.end, record.why)
        if record.via is not None:
            return None  # it went well: there is but one of it
        return (neighbourhood(record.client.ip), record.end, record.rep)

    @property
    def message(self) -> str:
        """What it says."""
        text = self.text if self.connection is None else str(self.connection)
        return "last message %d times: %s" % (self.repeats, text) if self.repeats else text

    @property
    def severity(self) -> int:
        """Its level, as syslog counts."""
        return next(number for level, number in _SEVERITIES if self.level >= level)


def _sum_up(entry: _Entry, count: int) -> _Entry:
    entry.repeats = count
    return entry


class _Text:
    """Makes lines for people."""

    _second = -1
    _head = ""

    def __call__(self, entry: _Entry, has_time: bool) -> str:
        """Return its line, without the time if the destination has that."""
        text = "%s: %s" % (entry.name, entry.message)
        if entry.trace:
            text += "\n" + entry.trace
        return text if has_time else "%s %s" % (self._time(entry.created), text)

    def _time(self, created: float) -> str:
        # A sixth of the work for a line, and under load there are thousands in a second.
        second = int(created)
        if second != self._second:
            self._second = second
            self._head = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
        return "%s,%03d" % (self._head, (created - second) * 1000)


def _json(entry: _Entry, has_time: bool) -> str:
    """Return the line of *entry* for programs."""
    second = int(entry.created)
    data: Dict[str, Any] = {
        "time": "%s.%03dZ"
        % (
            time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)),
            (entry.created - second) * 1000,
        ),
        "level": logging.getLevelName(entry.level).lower(),
        "logger": entry.name,
    }
    if entry.connection is None:
        data["message"] = entry.text
    else:
        data.update(entry.connection.as_data())
    if entry.trace:
        data["traceback"] = entry.trace
    if entry.repeats:
        data["repeats"] = entry.repeats
    return json.dumps(data)


_FORMATS: Dict[str, Callable[[], Callable[[_Entry, bool], str]]] = {
    "text": _Text,
    "json": lambda: _json,
}


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
        self._waiting: Deque[_Entry] = collections.deque()
        #: Not with --verbose: who asks for it is looking for something.
        self._folds = not config.verbose
        self._changed = threading.Condition()
        self._sleeping = self._closed = False
        self._thread: Optional[threading.Thread] = None
        #: What is to be done before the next lines are written.
        self._wishes: Deque[Callable[[], None]] = collections.deque()
        self._dropped = 0
        # The log's thread only
        self._folding: Folding[_Entry] = Folding(_sum_up)
        self._destinations = destinations(config)
        self._format = _FORMATS[config.log_format]()
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
        self._folds = not config.verbose
        if opened is None:
            return

        def do() -> None:
            old, self._destinations = self._destinations, list(opened or ())
            self._format = _FORMATS[config.log_format]()
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
                    log.warning(told, exc.strerror or exc)

        self._wish(do)

    def emit(self, record: logging.LogRecord) -> None:
        """Have *record* written soon.  Never waits."""
        if len(self._waiting) >= MAX_WAITING:
            self._dropped += 1
            return
        self._waiting.append(_Entry(record))
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
            self._write(self._folding.rest())
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
                seconds = self._folding.seconds()
                if seconds == 0:
                    break
                self._changed.wait(seconds)
            self._sleeping = False
            return not self._closed

    def _take(self) -> None:
        """Write what waits, and what is due."""
        while self._wishes:
            self._wishes.popleft()()
        entries = self._folding.due()
        for _ in range(len(self._waiting)):
            entry = self._waiting.popleft()
            if entry.kind is None or not self._folds:
                entries.append(entry)
            else:
                entries += self._folding.take(entry.kind, entry)
        dropped, self._dropped = self._dropped, 0
        if dropped:
            self._lost_some(dropped, "they are not taken fast enough")
        self._write(entries)

    def _write(self, entries: Sequence[_Entry]) -> None:
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

    def _loss(self) -> _Entry:
        text = "%d lines of the log are lost: %s" % (self._lost, self._why_lost)
        record = logging.makeLogRecord({"msg": text, "levelno": logging.WARNING})
        record.name = "minisocks"
        return _Entry(record)


def _set_levels(config: Config) -> None:
    level = logging.DEBUG if config.verbose else logging.INFO
    logging.getLogger("minisocks").setLevel(level)
    quiet = logging.WARNING if config.quiet else logging.NOTSET
    logging.getLogger("minisocks.access").setLevel(quiet)
