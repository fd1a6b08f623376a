"""One time budget for many waits."""

import time

from minisocks.errors import HandshakeTimeout

__all__ = ["Deadline"]


class Deadline:
    """A moment by which everything together has to be done.

    A class so that each wait gets what is left and none of them starts anew:
    a client that sends a byte every 29 s has 30 s altogether.  Monotonic
    seconds; any thread.
    """

    __slots__ = ("at",)

    def __init__(self, seconds: float) -> None:
        self.at = time.monotonic() + seconds

    def extend(self, seconds: float) -> None:
        """Give so many seconds back: they were not the client's."""
        self.at += seconds

    def remaining(self) -> float:
        """Return the seconds left, more than 0.

        Raises:
            HandshakeTimeout: none are left.
        """
        left = self.at - time.monotonic()
        if left <= 0:
            raise HandshakeTimeout("the handshake took too long (--handshake-timeout)")
        return left
