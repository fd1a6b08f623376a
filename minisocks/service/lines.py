"""One line of the log: its kind and groups, and its text or JSON."""

import functools
import logging
import time
from typing import Any, Callable, Dict, Hashable, Optional, Tuple

from minisocks.policy.client import THIS_HOST, group_text, site_of
from minisocks.quoting import as_json, shown
from minisocks.record import LIMIT_ENDS, Record

__all__ = ["FORMATS", "Entry", "own_entry", "skipped_entry", "sum_up"]

#: Python's levels and the severities of syslog (RFC 5424 section 6.2.1).
_SEVERITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))


class Entry:
    """One line, made into text only when it is written: many are suppressed before."""

    __slots__ = (
        "connection",
        "created",
        "level",
        "name",
        "path",
        "refused",
        "repeats",
        "text",
        "trace",
        "whence",
    )

    def __init__(self, record: logging.LogRecord) -> None:
        self.name = record.name
        self.level = record.levelno
        self.created = record.created
        #: The record of a connection; it seldom changes before the line is written.
        self.connection: Optional[Record] = None
        self.text = self.trace = ""
        #: In a sum: how many lines were like this one, and their network.
        self.repeats, self.whence = 0, ""
        #: In a sum of refusals without a line: how many there were, by reason.
        self.refused: Optional[Dict[str, int]] = None
        args = record.args
        if isinstance(args, tuple) and len(args) == 1 and isinstance(args[0], Record):
            self.connection = args[0]
        else:
            self.text = record.getMessage()
            self.trace = record.exc_text or ""  # tame_traceback has made it
        #: Its kind and its groups, for ``RepeatFilter``; None: the line is always written.
        self.path = self._path(record.msg)

    def _path(self, template: str) -> Optional[Tuple[Hashable, ...]]:
        if self.level < logging.INFO:
            return None
        record = self.connection
        if record is None:
            return ((self.name, self.level, self.text if template == "%s" else template),)
        if record.went_well:
            return None  # each granted connection has its line
        kind: Hashable = (record.end, record.rep)
        if record.end in LIMIT_ENDS:
            # Each limit is a kind of its own, so that other refusals do not hide it.
            limit = (record.end, record.why.rpartition("(")[2])
            if limit[1].startswith("--max-connections "):
                return (limit,)
            kind = limit
        return (kind, *record.client.groups)

    @property
    def is_refusal(self) -> bool:
        """Whether it is about a client that the proxy connected to no target."""
        return self.connection is not None and self.connection.via is None

    @property
    def site(self) -> Hashable:
        """The network that its client is unlikely to share; None: no connection."""
        return None if self.connection is None else site_of(self.connection.client.groups)

    @property
    def why(self) -> str:
        """The reason of a refusal, in few words; "" for other lines."""
        return "" if self.connection is None else self.connection.reason

    @property
    def message(self) -> str:
        """The text of the line, without time and logger."""
        text = shown(self.text) if self.connection is None else str(self.connection)
        if not self.repeats:
            return text
        return "last message %d times%s: %s" % (self.repeats, self.whence, text)

    @property
    def severity(self) -> int:
        """Its level as a severity of syslog."""
        return next(number for level, number in _SEVERITIES if self.level >= level)


def sum_up(entry: Entry, count: int, depth: int) -> Entry:
    """Make *entry* the sum of *count* lines, of which it was the last, and return it.

    Args:
        depth: how many of the client's groups, from the widest on, all these lines share.
    """
    entry.repeats = count
    if entry.path is not None and 1 < len(entry.path) > depth + 1:
        groups = entry.connection.client.groups if entry.connection is not None else THIS_HOST
        entry.whence = " from %s" % (group_text(groups, depth - 1) if depth else "many networks")
    return entry


def skipped_entry(refused: Dict[str, int]) -> Entry:
    """Return the sum of the refusals without a line, by reason."""
    sums = ", ".join("%s: %d" % item for item in sorted(refused.items()))
    text = "%d more refusals, too many to write one by one: %s" % (sum(refused.values()), sums)
    entry = own_entry("minisocks.access", logging.INFO, text)
    entry.path, entry.refused = None, refused
    return entry


def own_entry(logger: str, level: int, text: str) -> Entry:
    """Return the entry of a line that the log itself adds, such as a sum."""
    return Entry(logging.makeLogRecord({"name": logger, "levelno": level, "msg": text}))


def _text(entry: Entry, has_time: bool) -> str:
    """Return the line of *entry* for people, without the time if the output adds one."""
    text = "%s: %s" % (entry.name, entry.message)
    if entry.trace:
        text += "\n" + entry.trace
    if has_time:
        return text
    second = int(entry.created)
    return "%s,%03d %s" % (_time_of(second), (entry.created - second) * 1000, text)


# strftime is a sixth of the work for a line; under load a second has thousands of lines.
@functools.lru_cache(maxsize=1)
def _time_of(second: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))


def _json(entry: Entry, has_time: bool) -> str:
    """Return the line of *entry* as JSON, for programs."""
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
    if entry.whence:
        data["from"] = entry.whence[len(" from ") :]
    if entry.refused:
        data["refused"] = entry.refused
    return as_json(data)


FORMATS: Dict[str, Callable[[Entry, bool], str]] = {"text": _text, "json": _json}
