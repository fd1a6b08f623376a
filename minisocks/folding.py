"""Fold log lines that say the same again and again, so that a scan fills no RAM disk."""

import time
from typing import Callable, Dict, Generic, Hashable, List, Optional, TypeVar

__all__ = ["BURST", "WINDOW_SECONDS", "Folding"]

#: So many of a kind are written in a window; of the rest, how many there were, and the last one.
BURST = 10
WINDOW_SECONDS = 60.0
#: Kinds remembered at once; the oldest makes room.
MAX_KINDS = 256

Line = TypeVar("Line")


class _Kind(Generic[Line]):
    __slots__ = ("began", "count", "last")

    def __init__(self, began: float) -> None:
        self.began = began
        self.count = 0
        self.last: Optional[Line] = None


class Folding(Generic[Line]):
    """Lets the first of a kind through, and sums the rest up at the end of a window.

    A class because it remembers.  One thread.

    Args:
        sum_up: returns the line that says that so many more were like this last one.
    """

    def __init__(
        self,
        sum_up: Callable[[Line, int], Line],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sum_up = sum_up
        self._clock = clock
        self._kinds: Dict[Hashable, _Kind[Line]] = {}  # oldest first

    def take(self, kind: Hashable, line: Line) -> List[Line]:
        """Return what is to be written now that *line* has come."""
        lines = self.due()
        known = self._kinds.get(kind)
        if known is None:
            if len(self._kinds) >= MAX_KINDS:
                lines += self._end(next(iter(self._kinds)))
            known = self._kinds[kind] = _Kind(self._clock())
        known.count += 1
        if known.count <= BURST:
            lines.append(line)
        else:
            known.last = line
        return lines

    def due(self) -> List[Line]:
        """Return the sums of the windows that are over."""
        lines: List[Line] = []
        until = self._clock() - WINDOW_SECONDS
        while self._kinds:
            kind = next(iter(self._kinds))
            if self._kinds[kind].began > until:
                break
            lines += self._end(kind)
        return lines

    def rest(self) -> List[Line]:
        """Return all sums, because this is the end."""
        lines: List[Line] = []
        for kind in list(self._kinds):
            lines += self._end(kind)
        return lines

    def seconds(self) -> Optional[float]:
        """Return how long until ``due`` has something to say; None: nothing is folded."""
        folded = [kind.began for kind in self._kinds.values() if kind.last is not None]
        return max(0.0, min(folded) + WINDOW_SECONDS - self._clock()) if folded else None

    def _end(self, kind: Hashable) -> List[Line]:
        known = self._kinds.pop(kind)
        return [] if known.last is None else [self._sum_up(known.last, known.count - BURST)]
