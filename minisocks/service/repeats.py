"""Suppress log lines that repeat, and refusals beyond a rate, so that clients fill no disk.

To be refused costs a client nothing.  Lines that are not written are counted, and the counts
are written.
"""

import threading
import time
from typing import Callable, Dict, Generic, Hashable, List, Optional, Sequence, Set, TypeVar

from minisocks.service.lines import Entry, skipped_entry, sum_up

__all__ = ["Suppression"]

#: Lines of one kind written in a window. Of the rest the last one is written, with their number.
BURST = 10
WINDOW_SECONDS = 60.0
#: Groups within one group that are counted each by itself; further ones are counted together.
MAX_PARTS = 64
#: Groups remembered at once, in all kinds.
MAX_GROUPS = 1024
#: Lines about refusals: at most so many at once, and so many a second in the long run.
REFUSAL_BURST = 50
REFUSALS_PER_SECOND = 3.0
#: Sites whose first line in a window is always written, so that a flood hides no other site.
MAX_SITES = 64

Line = TypeVar("Line")


class Suppression:
    """Which entries of the log are written: repeats are summed up, then refusals have a rate.

    Thread: one, except ``skip``.
    """

    def __init__(self) -> None:
        self._repeats: RepeatFilter[Entry] = RepeatFilter(sum_up)
        self._budget = Budget()

    def take(self, entry: Entry) -> List[Entry]:
        """Return the entries to write now that *entry* has come."""
        if entry.path is None:
            return [entry]
        is_first = entry.is_refusal and self._budget.is_first(entry.site)
        entries = self._repeats.take(entry.path, entry, is_first)
        return self._affordable(entries, entry if is_first else None)

    def skip(self, entry: Entry) -> None:
        """Count *entry*, a refusal, as not written.  Any thread."""
        self._budget.skip(entry.why, entry.repeats or 1)

    def due(self) -> List[Entry]:
        """Return the sums of the windows that have ended."""
        return self._affordable(self._repeats.due()) + self._skipped(self._budget.due())

    def rest(self) -> List[Entry]:
        """Return all sums now."""
        return self._affordable(self._repeats.rest()) + self._skipped(self._budget.rest())

    def seconds(self) -> Optional[float]:
        """Return the seconds until ``due`` returns a sum; None: nothing is suppressed."""
        waits = (self._repeats.seconds(), self._budget.seconds())
        return min((wait for wait in waits if wait is not None), default=None)

    def _affordable(self, entries: List[Entry], free: Optional[Entry] = None) -> List[Entry]:
        """Return *free* and the entries that the rate allows; count the others."""
        written = []
        for entry in entries:
            if entry is free or not entry.is_refusal or self._budget.allows():
                written.append(entry)
            else:
                self.skip(entry)
        return written

    def _skipped(self, refused: Optional[Dict[str, int]]) -> List[Entry]:
        return [skipped_entry(refused)] if refused else []


class _Group(Generic[Line]):
    """Lines of one kind, or of one group of clients within it."""

    __slots__ = ("count", "last", "parts")

    def __init__(self) -> None:
        self.count = 0
        self.last: Optional[Line] = None
        self.parts: Dict[Hashable, "_Group[Line]"] = {}


class _Kind(_Group[Line]):
    __slots__ = ("began", "has_repeats", "size")

    def __init__(self, began: float) -> None:
        super().__init__()
        self.began = began
        self.has_repeats = False
        self.size = 1


class RepeatFilter(Generic[Line]):
    """The first lines of a kind are written, the rest are counted until a window ends.

    A kind has groups, and these have groups, as networks have.  A noisy group has a sum of its
    own; where many are noisy, the group around them has one.  Thread: one.

    Args:
        sum_up: makes the line for a sum, of the last line, how many more there were, and the
            depth of their group; 0 is the kind.
    """

    def __init__(
        self,
        sum_up: Callable[[Line, int, int], Line],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sum_up = sum_up
        self._clock = clock
        self._kinds: Dict[Hashable, _Kind[Line]] = {}  # oldest first
        self._size = 0

    def take(self, path: Sequence[Hashable], line: Line, always: bool = False) -> List[Line]:
        """Return the lines to write now that *line* has come.

        Args:
            path: the kind of the line, and the groups that it is in, the widest first.
            always: write the line in any case.
        """
        lines = self.due()
        kind = self._kinds.get(path[0])
        if kind is None:
            if self._size >= MAX_GROUPS:
                lines += self._end(next(iter(self._kinds)))
            kind = self._kinds[path[0]] = _Kind(self._clock())
            self._size += 1
        group: _Group[Line] = kind
        for name in path[1:]:
            part = group.parts.get(name)
            if part is None:
                if len(group.parts) >= MAX_PARTS or self._size >= MAX_GROUPS:
                    break
                part = group.parts[name] = _Group()
                kind.size += 1
                self._size += 1
            group = part
        if group.count < BURST:
            group.count += 1
            lines.append(line)
        elif always:
            lines.append(line)
        else:
            group.count += 1
            group.last = line
            kind.has_repeats = True
        return lines

    def due(self) -> List[Line]:
        """Return the sums of the windows that have ended."""
        lines: List[Line] = []
        until = self._clock() - WINDOW_SECONDS
        while self._kinds:
            name, kind = next(iter(self._kinds.items()))
            if kind.began > until:
                break
            lines += self._end(name)
        return lines

    def rest(self) -> List[Line]:
        """Return all sums now."""
        return [line for name in list(self._kinds) for line in self._end(name)]

    def seconds(self) -> Optional[float]:
        """Return the seconds until ``due`` returns a sum; None: there are no repeats."""
        began = min((k.began for k in self._kinds.values() if k.has_repeats), default=None)
        return None if began is None else max(0.0, began + WINDOW_SECONDS - self._clock())

    def _end(self, name: Hashable) -> List[Line]:
        kind = self._kinds.pop(name)
        self._size -= kind.size
        return self._sums(kind, 0) if kind.has_repeats else []

    def _sums(self, group: _Group[Line], depth: int) -> List[Line]:
        lines: List[Line] = []
        if group.last is not None:
            lines.append(self._sum_up(group.last, group.count - BURST, depth))
        for part in group.parts.values():
            lines += self._sums(part, depth + 1)
        return lines


class Budget:
    """Rate of the lines about refusals, for all clients together; counts what exceeds it.

    Thread: one, except ``skip``.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lines = float(REFUSAL_BURST)
        self._filled_at = self._began = clock()
        self._sites: Set[Hashable] = set()
        self._lock = threading.Lock()
        self._skipped: Dict[str, int] = {}

    def is_first(self, site: Hashable) -> bool:
        """Return whether a line from *site* is its first one in this window: it is written."""
        now = self._clock()
        if now >= self._began + WINDOW_SECONDS and not self._skipped:
            self._begin(now)
        if site in self._sites or len(self._sites) >= MAX_SITES:
            return False
        self._sites.add(site)
        return True

    def allows(self) -> bool:
        """Return whether one more line may be written, and take it from the rate."""
        now = self._clock()
        came = REFUSALS_PER_SECOND * (now - self._filled_at)
        self._lines, self._filled_at = min(self._lines + came, float(REFUSAL_BURST)), now
        if self._lines < 1:
            return False
        self._lines -= 1
        return True

    def skip(self, why: str, count: int = 1) -> None:
        """Count lines that are not written, by reason.  Any thread."""
        with self._lock:
            self._skipped[why] = self._skipped.get(why, 0) + count

    def due(self) -> Optional[Dict[str, int]]:
        """Return the counts by reason if the window has ended, else None."""
        return self.rest() if self._clock() >= self._began + WINDOW_SECONDS else None

    def rest(self) -> Optional[Dict[str, int]]:
        """Return the counts by reason now, None if there are none, and begin a window."""
        self._begin(self._clock())
        with self._lock:
            skipped, self._skipped = self._skipped, {}
        return skipped or None

    def seconds(self) -> Optional[float]:
        """Return the seconds until ``due`` returns counts; None: there are none."""
        if not self._skipped:
            return None
        return max(0.0, self._began + WINDOW_SECONDS - self._clock())

    def _begin(self, now: float) -> None:
        self._began = now
        self._sites.clear()
