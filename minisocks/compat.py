"""Differences between systems and Python versions, each solved once."""

import contextlib
import errno
import logging
import os
import select
import socket
import sys
import traceback
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

from minisocks.quoting import shown

__all__ = [
    "ACCEPTED_INHERIT",
    "CAPACITY_ERRORS",
    "PEER_CLOSED",
    "READ",
    "READ_MARKED",
    "READ_URGENT",
    "READS",
    "UNSHARED_POLLERS",
    "UNWATCHED",
    "URGENT",
    "WRITE",
    "PlainPoller",
    "Poller",
    "Waker",
    "bind_late",
    "close_quietly",
    "closed_on_error",
    "connect_result",
    "hang_up",
    "is_at_mark",
    "log_bug",
    "tame_traceback",
    "tell",
    "tune",
    "unblock",
    "unsent_bytes",
]

log = logging.getLogger("minisocks")

#: No resources now for accept, a socket or a thread: wait and retry.
CAPACITY_ERRORS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

_IS_LINUX = sys.platform.startswith("linux")
#: Whether an accepted socket has the options that its listener has.
ACCEPTED_INHERIT = _IS_LINUX
_PENDING = frozenset((errno.EINPROGRESS, errno.EALREADY, errno.EWOULDBLOCK))

#: Masks of Poller.  A mask of neither still reports the end of the connection (reset, or both
#: directions closed), except on systems with only select().
READ, WRITE = 1, 4
#: In masks and events: an urgent byte of TCP is announced; bytes before it may still be missing.
URGENT = getattr(select, "POLLPRI", 0)
#: For sockets whose urgent byte is relayed; it is reported until it is read.
READ_URGENT = READ | URGENT
#: As READ, but its events differ from those of READ.
READ_MARKED = READ | getattr(select, "POLLRDNORM", 0)
#: All bits of these in events.
READS = READ_URGENT | READ_MARKED
#: The descriptor is in no poller.
UNWATCHED = -1
#: Mask of PlainPoller: the peer has sent FIN, or our reading side is shut down (Linux).
PEER_CLOSED = getattr(select, "POLLRDHUP", 0x2000 if _IS_LINUX else 0)


class _SelectPoll:
    """The interface of epoll that Poller uses, on top of select()."""

    def __init__(self) -> None:
        self._masks: Dict[int, int] = {}

    def register(self, fd: int, mask: int) -> None:
        self._masks[fd] = mask

    modify = register

    def unregister(self, fd: int) -> None:
        del self._masks[fd]

    def poll(self, timeout: float = -1, maxevents: int = -1) -> List[Tuple[int, int]]:
        # *maxevents* is ignored, because the first events would always be the same ones.
        readers = [fd for fd, mask in self._masks.items() if mask & READ]
        writers = [fd for fd, mask in self._masks.items() if mask & WRITE]
        # Windows reports a failed connect in the third set only.
        ready = select.select(readers, writers, writers, None if timeout < 0 else timeout)
        events: Dict[int, int] = {}
        for fds, bit in zip(ready, (READ, WRITE, WRITE)):
            for fd in fds:
                events[fd] = events.get(fd, 0) | bit
        return list(events.items())

    def close(self) -> None:
        self._masks.clear()


class _Poll:
    """The interface of epoll on top of poll(), which takes milliseconds."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self.register = self._poll.register
        self.modify = self._poll.modify
        self.unregister = self._poll.unregister

    def poll(self, timeout: float = -1, maxevents: int = -1) -> List[Tuple[int, int]]:
        return self._poll.poll(None if timeout < 0 else int(timeout * 1000) + 1)

    def close(self) -> None:
        pass


#: Without a descriptor, and not shared with a forked child, as the registrations of epoll are.
PlainPoller: Callable[[], Any] = _Poll if hasattr(select, "poll") else _SelectPoll
#: For many descriptors.
Poller: Callable[[], Any] = select.epoll if hasattr(select, "epoll") else PlainPoller
#: Pollers that a thread must not change while another thread waits with them.
UNSHARED_POLLERS = (_Poll, _SelectPoll)


class Waker:
    """A descriptor that another thread, or the handler of a signal, can make readable.

    A socket pair instead of a pipe, because Windows can wait only for sockets.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor to wait on for reading."""
        return self._reader.fileno()

    def wake(self) -> None:
        """Make it readable.  Any thread, and the handler of a signal."""
        try:
            self._writer.send(b"\0")
        except OSError:
            pass  # full, so it is readable already; or closed

    def drain(self) -> bool:
        """Make it unreadable; return whether it was readable."""
        try:
            return bool(self._reader.recv(4096))
        except OSError:
            return False

    def close(self) -> None:
        """Close both ends."""
        self._reader.close()
        self._writer.close()


def tame_traceback(record: logging.LogRecord) -> bool:
    """Format the traceback of *record* so that no line of it looks like another record.

    A filter of our logger.  An exception, of a hook for example, may contain text of a client
    with line breaks.
    """
    if record.exc_info and not record.exc_text:
        text = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        record.exc_text = "\n".join("    " + shown(line) for line in text.split("\n"))
    return True


def log_bug(message: str, *args: object) -> None:
    """Log the current exception; never raise.

    For threads that must not end: the log handler of a program may raise, too (a full disk).
    """
    with contextlib.suppress(Exception):  # there is no other place to report it
        log.exception(message, *args)


def tell(level: int, message: str, *args: object) -> None:
    """Log a message; never raise, because the thread has other clients to serve."""
    with contextlib.suppress(Exception):  # the log of a program may fail
        log.log(level, message, *args)


_KEEPALIVE = [getattr(socket, "TCP_KEEP" + name, None) for name in ("IDLE", "INTVL", "CNT")]


def tune(sock: socket.socket, keepalive: Sequence[int] = ()) -> None:
    """Set the options of a relayed connection; a unix socket gets those that it has.

    Small messages are not delayed, a vanished peer is noticed, and an urgent byte stays in the
    stream.

    Args:
        keepalive: the fields of ``values.Keepalive``; empty: the defaults of the system.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in zip(_KEEPALIVE, keepalive):
            if option is not None:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
    except OSError:
        pass  # a unix socket; or the connection has ended, which the next call reports


def set_up_listener(sock: socket.socket) -> None:
    """Set the options of a TCP socket before it is bound to listen.

    It can have a port whose connections have just ended, but no port of another program.
    """
    if os.name == "nt":
        sock.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_EXCLUSIVEADDRUSE", -5), 1)
    else:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sock.family == socket.AF_INET6:
        # A socket for each family, so that no client has an address ::ffff:a.b.c.d.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


def unblock(sock: socket.socket) -> None:
    """Make *sock* non-blocking, unless it is, because that is a system call."""
    if sock.gettimeout() != 0.0:
        sock.setblocking(False)


#: Choose the port at connect, when the target is known, so that one port serves many targets.
#: Older Pythons have no name for it.
_LATE_PORT = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24 if _IS_LINUX else None)


def bind_late(sock: socket.socket, address: Tuple[Any, ...]) -> None:
    """Bind *sock* to *address*, whose port is 0; the port is chosen at connect.

    Raises:
        OSError: as ``bind``.
    """
    if _LATE_PORT is not None:
        try:
            sock.setsockopt(socket.IPPROTO_IP, _LATE_PORT, 1)
        except OSError:
            pass  # an old kernel, which chooses the port now
    sock.bind(address)


def connect_result(sock: socket.socket, sockaddr: Any) -> int:
    """Return the state of a non-blocking connect: 0 done, EINPROGRESS, or its errno."""
    if _IS_LINUX:
        # A second connect returns the result in one call; other systems may start anew.
        result = sock.connect_ex(sockaddr)
    else:
        result = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if result == 0:
            try:
                sock.getpeername()
            except OSError:
                return errno.EINPROGRESS
    if result == errno.EISCONN:
        return 0
    return errno.EINPROGRESS if result in _PENDING else result


def unsent_bytes(sock: socket.socket) -> int:
    """Return how many bytes the peer has not acknowledged yet; 0 if unknown."""
    return 0


def is_at_mark(sock: socket.socket) -> bool:
    """Return whether the next byte to read is the urgent one; False if unknown."""
    return False


try:
    import fcntl
    import termios
except ImportError:
    pass  # not Unix
else:
    #: tcpi_state of a connection that a reset has ended.
    _TCP_CLOSE = 7

    def _unsent_bytes(sock: socket.socket) -> int:
        try:
            unsent = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
            if unsent == b"\0\0\0\0":
                return 0
            if sock.family != getattr(socket, "AF_UNIX", None) and hasattr(socket, "TCP_INFO"):
                state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
                if state[0] == _TCP_CLOSE:
                    return 0  # the bytes that it still counts will never be delivered
        except OSError:
            return 0
        return int.from_bytes(unsent, sys.byteorder)

    unsent_bytes = _unsent_bytes

    #: Without a name in Python; its number depends on the system.
    _SIOCATMARK = 0x8905
    if not _IS_LINUX or os.uname().machine.startswith(("mips", "alpha")):
        _SIOCATMARK = 0x40047307

    def _is_at_mark(sock: socket.socket) -> bool:
        try:
            return fcntl.ioctl(sock.fileno(), _SIOCATMARK, b"\0\0\0\0") != b"\0\0\0\0"
        except OSError:
            return False  # a unix socket without urgent bytes

    is_at_mark = _is_at_mark


def hang_up(sock: socket.socket) -> None:
    """Close so that the peer gets a RST instead of FIN."""
    try:
        linger = b"\1\0\0\0" if os.name == "nt" else b"\1\0\0\0\0\0\0\0"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    except OSError:
        pass  # a unix socket, or closed already
    close_quietly(sock)


def close_quietly(sock: socket.socket) -> None:
    """Close, and ignore errors of a connection that has ended."""
    try:
        sock.close()
    except OSError:
        pass


@contextlib.contextmanager
def closed_on_error(thing: Any) -> Iterator[None]:
    """Close *thing*, a socket say, if the context raises."""
    try:
        yield
    except BaseException:
        close_quietly(thing)
        raise
