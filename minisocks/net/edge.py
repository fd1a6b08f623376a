"""Shortages and failures, told once when they begin and once when they are over."""

import logging
import time

from minisocks.compat import tell

__all__ = ["Edge"]

#: Where descriptors or threads come and go, the edge is crossed all the time: it is told once
#: in so many seconds.
EDGE_SECONDS = 10.0


class Edge:
    """Whether something has run out, and whether the operator has been told.

    A class because the end of a shortage is told only if its beginning was.  One thread at a
    time.

    Args:
        over: the line that tells the end.
        what: what the line about the beginning starts with.
    """

    def __init__(self, over: str, what: str = "at capacity: ") -> None:
        self._over, self._what = over, what
        self._is_short = self._is_told = False
        self._told_at = -EDGE_SECONDS

    def reached(self, message: str, *args: object) -> None:
        """Take note that something has run out."""
        self._is_short = True
        if self._is_told:
            return
        now = time.monotonic()
        self._is_told = now >= self._told_at + EDGE_SECONDS
        if self._is_told:
            self._told_at = now
            tell(logging.WARNING, self._what + message, *args)

    def passed(self) -> None:
        """Take note that it can be had; nothing if it never ran out."""
        if self._is_short:
            self._is_short = False
            if self._is_told:
                self._is_told = False
                tell(logging.WARNING, self._over)
