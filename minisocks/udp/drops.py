"""Datagrams that cannot be sent, and as what they count."""

import errno

from minisocks.record import Drop

__all__ = ["FOR_ALL_ADDRESSES", "NotSent", "drop_of"]

#: Another address of the same name would not take it, either.
FOR_ALL_ADDRESSES = (errno.EMSGSIZE, errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS)


class NotSent(OSError):
    """A datagram is not sent; ``drop`` says why."""

    def __init__(self, drop: str) -> None:
        super().__init__(drop)
        self.drop = drop


def drop_of(exc: OSError) -> str:
    """Return as what a datagram counts that could not be sent."""
    if isinstance(exc, NotSent):
        return exc.drop
    if exc.errno == errno.EMSGSIZE:
        return Drop.TOO_LARGE
    return Drop.NO_ROOM if exc.errno in FOR_ALL_ADDRESSES else Drop.NOT_SENT
