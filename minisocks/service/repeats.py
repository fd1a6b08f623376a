"""Fold log lines that say the same again and again, so that a scan fills no RAM disk."""

import time
from typing import Callable, Dict, Generic, Hashable, List, Optional, Sequence, TypeVar

__all__ = ["BURST", "WINDOW_SECONDS", "Folding"]

#: So many of a kind are written in a window; of the rest, how many there were, and the last one.
BURST = 10
WINDOW_SECONDS = 60.0
#: So many groups of one group are folded each by itself; the others all together.
MAX_PARTS = 64
#: Groups remembered at once, of all kinds.
MAX_GROUPS = 1024

Line = TypeVar("Line")


class _Group(Generic[Line]):
    """What is known of the lines of one kind, or of one group of clients in it."""

    __slots__ = ("count", "last", "parts")

    def __init__(self) -> None:
        self.count = 0
        self.last: Optional[Line] = None
        self.parts: Dict[Hashable, "_Group[Line]"] = {}


class _Kind(_Group[Line]):
    __slots__ = ("began", "is_folded", "size")

    def __init__(self, began: float) -> None:
        super().__init__()
        self.began = began
        self.is_folded = False
        self.size = 1


class Folding(Generic[Line]):
    """Lets the first of a kind through, and sums the rest up at the end of a window.

    A kind has groups, these have groups in turn, as networks have: where few are noisy each
    is folded by itself, and where many are, the group that they are in.

    A class because it remembers.  One thread.

    Args:
        sum_up: returns the line that says that so many more were like this last one.  The
            last argument is how far down their group is: 0 is the kind.
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
        """Return what is to be written now that *line* has come.

        Args:
            path: its kind, and the groups that it is in, the widest first.
            always: the line is to be written in any case.
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
            kind.is_folded = True
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
        folded = [kind.began for kind in self._kinds.values() if kind.is_folded]
        return max(0.0, min(folded) + WINDOW_SECONDS - self._clock()) if folded else None

    def _end(self, name: Hashable) -> List[Line]:
        kind = self._kinds.pop(name)
        self._size -= kind.size
        return self._sums(kind, 0) if kind.is_folded else []

    def _sums(self, group: _Group[Line], depth: int) -> List[Line]:
        lines: List[Line] = []
        if group.last is not None:
            lines.append(self._sum_up(group.last, group.count - BURST, depth))
        for part in group.parts.values():
            lines += self._sums(part, depth + 1)
        return lines
