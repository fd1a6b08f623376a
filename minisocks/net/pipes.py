"""Pipes through which the kernel moves bytes from socket to socket (``os.splice``).

Bytes in a pipe are never copied: the kernel moves their pages.  A pipe is borrowed while bytes
are in it, so a few serve any number of connections.  Where there is no ``os.splice`` (before
Python 3.10, not Linux) or no free pipe, ``borrow`` returns None, and the caller uses ``recv`` and
``send``.
"""

import errno
import os
import time
from typing import Any, List, Optional

from minisocks.compat import CAPACITY_ERRORS, closed_on_error

__all__ = ["CANNOT_SPLICE", "GO_BY_BUFFER", "PIPE_BYTES", "Pipe", "Pipes"]

#: Size of a pipe.  Compared with 64 KiB, a byte takes a sixth of the processor time, because the
#: receiver is woken a sixteenth as often (measured).
PIPE_BYTES = 1 << 20
#: An unprivileged user has 64 MiB of pipes (pipe-user-pages-soft), for other programs, too; further
#: pipes have 8 KiB.
MAX_PIPES = 32
#: Most bytes, altogether, that are moved from pipes to memory because others need the pipes.
MAX_KEPT_BYTES = 16 << 20
#: Seconds until the next try where there was no descriptor or pipe.
RETRY_SECONDS = 1.0

#: Errors of a kernel that does not splice: an old one, one with a filter, not Linux.
CANNOT_SPLICE = (errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP)
#: The same, and errors of one without memory for it just now: send and recv may work.
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
        with closed_on_error(self):
            fcntl.fcntl(self._writer, _F_SETPIPE_SZ, PIPE_BYTES)

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
        """Empty the pipe and return the bytes."""
        parts = []
        while self.held:
            parts.append(os.read(self._reader, self.held))
            self.held -= len(parts[-1])
        return b"".join(parts)

    def close(self) -> None:
        """Close it; bytes in it are lost."""
        os.close(self._reader)
        os.close(self._writer)


class Pipes:
    """The pipes of one loop, at most ``MAX_PIPES``.  Thread: loop only."""

    def __init__(self) -> None:
        self._spare: List[Pipe] = []
        self._all: List[Pipe] = []
        self._kept_bytes = 0
        #: Bytes that wait in memory for receivers that take no more, from pipes or not.
        self.pending_bytes = 0
        self._most = MAX_PIPES if _splice is not None else 0
        self._retry_at = 0.0

    @property
    def count(self) -> int:
        """The number of pipes, also of those in use."""
        return len(self._all)

    @property
    def held_bytes(self) -> int:
        """The bytes in them.  Any thread."""
        return sum([pipe.held for pipe in self._all])

    @property
    def lent(self) -> int:
        """The number of pipes in use."""
        return self.count - len(self._spare)

    def borrow(self) -> Optional[Pipe]:
        """Return an empty pipe; None: all are in use, or none can be made now."""
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
        """Take *pipe* back and return its bytes; None: there is no room for so many.

        Call ``forget`` when they are sent.  *must*: also without room.
        """
        if not must and self._kept_bytes + pipe.held > MAX_KEPT_BYTES:
            return None
        data = pipe.read()
        self._kept_bytes += len(data)
        self.give_back(pipe)
        return data

    def forget(self, size: int) -> None:
        """Count out *size* bytes that ``keep`` has returned."""
        self._kept_bytes -= size

    def refuse(self) -> None:
        """Lend no pipes any more: this kernel does not splice our sockets."""
        self._most = 0
        self.close_spare()

    def close_spare(self) -> bool:
        """Close pipes that are not in use, for their descriptors; return whether there were any."""
        closed = bool(self._spare)
        while self._spare:
            self._close(self._spare.pop())
        return closed

    def _close(self, pipe: Pipe) -> None:
        self._all.remove(pipe)
        pipe.close()
