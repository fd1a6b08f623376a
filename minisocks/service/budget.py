"""How many lines about refusals all clients together may have written.

They come from clients that may do nothing here, and cost them nothing: a disk must not be
theirs to fill.  What is not written is counted by why.
"""

import threading
import time
from typing import Callable, Dict, Hashable, Optional, Set

__all__ = ["Budget"]

#: So many at once, and so many a second in the long run.
BURST = 50
LINES_PER_SECOND = 3.0
#: In each window the first line of so many sites is written in any case: behind a flood from
#: one place the others still show.
MAX_SITES = 64
WINDOW_SECONDS = 60.0


class Budget:
    """Says which lines may be written, and sums the others up.

    A class because it remembers.  One thread, but for ``skip``.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lines = float(BURST)
        self._filled_at = self._began = clock()
        self._sites: Set[Hashable] = set()
        self._lock = threading.Lock()
        self._skipped: Dict[str, int] = {}

    def is_first(self, site: Hashable) -> bool:
        """Return whether a line from *site* is its first one in this window; such are free."""
        now = self._clock()
        if now >= self._began + WINDOW_SECONDS and not self._skipped:
            self._begin(now)
        if site in self._sites or len(self._sites) >= MAX_SITES:
            return False
        self._sites.add(site)
        return True

    def allows(self) -> bool:
        """Return whether one more line may be written."""
        now = self._clock()
        self._lines += LINES_PER_SECOND * (now - self._filled_at)
        self._lines, self._filled_at = min(self._lines, float(BURST)), now
        if self._lines < 1:
            return False
        self._lines -= 1
        return True

    def skip(self, why: str, count: int = 1) -> None:
        """Count so many as not written.  Any thread."""
        with self._lock:
            self._skipped[why] = self._skipped.get(why, 0) + count

    def due(self) -> Optional[Dict[str, int]]:
        """Return how many have not been written, by why, when the window is over, else None."""
        now = self._clock()
        return self.rest() if now >= self._began + WINDOW_SECONDS else None

    def rest(self) -> Optional[Dict[str, int]]:
        """Return the same now; None: all have been written."""
        self._begin(self._clock())
        with self._lock:
            skipped, self._skipped = self._skipped, {}
        return skipped or None

    def seconds(self) -> Optional[float]:
        """Return how long until ``due`` has something to say; None: nothing is skipped."""
        if not self._skipped:
            return None
        return max(0.0, self._began + WINDOW_SECONDS - self._clock())

    def _begin(self, now: float) -> None:
        self._began = now
        self._sites.clear()
