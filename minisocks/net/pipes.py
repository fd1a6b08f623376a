"""Pipes through which the kernel moves bytes from socket to socket (``os.splice``).

What goes through a pipe never becomes Python's: pages change their owner, and
nothing is copied.  A pipe is borrowed for as long as bytes are in it, so a few
of them serve any number of connections.  Where there is no ``os.splice`` (before
Python 3.10, not Linux) or no pipe to be had, ``borrow`` returns None and the
caller reads and sends as ever.
"""

import errno
import os
import time
from typing import Any, List, Optional

from minisocks.compat import CAPACITY_ERRORS

__all__ = ["CANNOT_SPLICE", "GO_BY_BUFFER", "PIPE_BYTES", "Pipe", "Pipes"]

#: What one pipe takes.  Measured against 64 KiB: a sixth of the processor time
#: for a byte, because the receiver is woken a sixteenth as often.
PIPE_BYTES = 1 << 20
#: An unprivileged user has 64 MiB of pipes (pipe-user-pages-soft); who goes over
#: that is given pipes of 8 KiB, and other programs of the user want some, too.
MAX_PIPES = 32
#: What may be kept in memory, altogether, of what was in pipes that others need more.
MAX_KEPT_BYTES = 16 << 20
#: With no descriptor or pipe left, how long until it is tried again.
RETRY_SECONDS = 1.0

#: What a kernel says that does not splice here: an old one, a filter's, not a Linux.
CANNOT_SPLICE = (errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP)
#: And one that has no memory for it just now, which send and recv may do without.
GO_BY_BUFFER = CAPACITY_ERRORS.union(CANNOT_SPLICE)

#: None before Python 3.10, and elsewhere than on Linux.
_splice: Any = getattr(os, "splice", None)
_F_SETPIPE_SZ = 1031  # fcntl has the name from 3.10 on, on some systems
_FLAGS = 3  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK


class Pipe:
    """One pipe.  ``held`` bytes are in it."""

    __slots__ = ("_reader", "_writer", "held")

    def __init__(self) -> None:
        """Make one of full size.

        Raises:
            OSError: no descriptor, no memory, or not of this size.
        """
        import fcntl

        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.held = 0
        try:
            fcntl.fcntl(self._writer, _F_SETPIPE_SZ, PIPE_BYTES)
        except BaseException:
            self.close()
            raise

    def fill(self, fd: int, most: int) -> int:
        """Move up to *most* bytes from *fd* into the pipe; return how many, 0 at the end.

        Raises:
            OSError: as ``recv``.
        """
        moved: int = _splice(fd, self._writer, most, flags=_FLAGS)
        self.held += moved
        return moved

    def empty(self, fd: int) -> int:
        """Move what is in the pipe to *fd*; return how much of it went.

        Raises:
            OSError: as ``send``.
        """
        moved: int = _splice(self._reader, fd, self.held, flags=_FLAGS)
        self.held -= moved
        return moved

    def read(self) -> bytes:
        """Return what is in the pipe, which is empty then."""
        parts = []
        while self.held:
            parts.append(os.read(self._reader, self.held))
            self.held -= len(parts[-1])
        return b"".join(parts)

    def close(self) -> None:
        """Close it; what is in it is lost."""
        os.close(self._reader)
        os.close(self._writer)


class Pipes:
    """The pipes of one loop, at most ``MAX_PIPES``.  Thread: loop only."""

    def __init__(self) -> None:
        self._spare: List[Pipe] = []
        self._all: List[Pipe] = []
        self._kept_bytes = 0
        #: What waits in memory for receivers that take no more, from pipes or not.
        self.pending_bytes = 0
        self._most = MAX_PIPES if _splice is not None else 0
        self._retry_at = 0.0

    @property
    def count(self) -> int:
        """How many there are, lent ones included."""
        return len(self._all)

    @property
    def held_bytes(self) -> int:
        """What is in them.  Any thread."""
        return sum([pipe.held for pipe in self._all])

    @property
    def lent(self) -> int:
        """How many are in use."""
        return self.count - len(self._spare)

    def borrow(self) -> Optional[Pipe]:
        """Return an empty pipe, or None: all are in use, or none can be had now."""
        if self._spare:
            return self._spare.pop()
        if self.count >= self._most or (self._retry_at and time.monotonic() < self._retry_at):
            return None
        try:
            pipe = Pipe()
        except OSError:
            self._retry_at = time.monotonic() + RETRY_SECONDS
            return None
        self._retry_at = 0.0
        self._all.append(pipe)
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """Take *pipe* back; one with bytes in it is closed, and they are lost."""
        if pipe.held or not self._most:
            self._close(pipe)
        else:
            self._spare.append(pipe)

    def keep(self, pipe: Pipe, must: bool = False) -> Optional[bytes]:
        """Take *pipe* back and return what was in it; None: there is no room for so much.

        ``forget`` it when it is gone.  *must*: room or not.
        """
        if not must and self._kept_bytes + pipe.held > MAX_KEPT_BYTES:
            return None
        data = pipe.read()
        self._kept_bytes += len(data)
        self.give_back(pipe)
        return data

    def forget(self, size: int) -> None:
        """Make room for other bytes: *size* of those that ``keep`` returned are gone."""
        self._kept_bytes -= size

    def refuse(self) -> None:
        """Lend no pipes any more: this kernel does not splice what we have."""
        self._most = 0
        self.close_spare()

    def close_spare(self) -> bool:
        """Close those that are not in use: their descriptors are wanted elsewhere.

        Returns:
            Whether there were any.
        """
        closed = bool(self._spare)
        while self._spare:
            self._close(self._spare.pop())
        return closed

    def _close(self, pipe: Pipe) -> None:
        self._all.remove(pipe)
        pipe.close()
