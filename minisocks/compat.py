"""What differs between systems and versions of Python, each gap closed once."""

import errno
import logging
import os
import select
import socket
import sys
import traceback
from typing import Any, Callable, Dict, List, Sequence, Tuple

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
    "connect_result",
    "hang_up",
    "is_at_mark",
    "log_bug",
    "send_now",
    "tame_traceback",
    "tell",
    "tune",
    "unblock",
    "unsent_bytes",
]

log = logging.getLogger("minisocks")

#: accept, socket or a thread could not be had: a matter of waiting, not of giving up.
CAPACITY_ERRORS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

_IS_LINUX = sys.platform.startswith("linux")
#: Whether an accepted socket has the options that its listener has.
ACCEPTED_INHERIT = _IS_LINUX
_PENDING = frozenset((errno.EINPROGRESS, errno.EALREADY, errno.EWOULDBLOCK))

#: Masks of Poller.  A wait for neither still reports that the peer is gone for
#: good (reset, or both directions shut), except on systems with only select().
READ, WRITE = 1, 4
#: In masks and events: TCP's urgent byte has come.  It may wait for bytes before it that have not.
URGENT = getattr(select, "POLLPRI", 0)
#: For sockets whose urgent byte is passed on.  Not for others: it is reported until it is read.
READ_URGENT = READ | URGENT
#: For READ alone, but events say more than READ: they are no ordinary ones.
READ_MARKED = READ | getattr(select, "POLLRDNORM", 0)
#: What events have of all these.
READS = READ_URGENT | READ_MARKED
#: Neither readable nor writable nor dead: no poller knows the descriptor.
UNWATCHED = -1
#: Mask of PlainPoller: the peer has sent FIN, or we have shut our reading side down (Linux).
PEER_CLOSED = getattr(select, "POLLRDHUP", 0x2000 if _IS_LINUX else 0)


class _SelectPoll:
    """The part of epoll's interface that Poller uses, on top of select()."""

    def __init__(self) -> None:
        self._masks: Dict[int, int] = {}

    def register(self, fd: int, mask: int) -> None:
        self._masks[fd] = mask

    modify = register

    def unregister(self, fd: int) -> None:
        del self._masks[fd]

    def poll(self, timeout: float = -1, maxevents: int = -1) -> List[Tuple[int, int]]:
        # Of *maxevents* no notice is taken: the first would always be the same ones.
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
    """epoll's interface on top of poll(), which wants milliseconds."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self.register = self._poll.register
        self.modify = self._poll.modify
        self.unregister = self._poll.unregister

    def poll(self, timeout: float = -1, maxevents: int = -1) -> List[Tuple[int, int]]:
        return self._poll.poll(None if timeout < 0 else int(timeout * 1000) + 1)

    def close(self) -> None:
        pass


#: Needs no descriptor, and a forked child shares nothing of it: epoll's registrations it does.
PlainPoller: Callable[[], Any] = _Poll if hasattr(select, "poll") else _SelectPoll
#: For many descriptors.
Poller: Callable[[], Any] = select.epoll if hasattr(select, "epoll") else PlainPoller
#: Pollers of which a thread may register no descriptors while another thread waits with them.
UNSHARED_POLLERS = (_Poll, _SelectPoll)


class Waker:
    """A descriptor that another thread, or a signal's handler, can make readable.

    A socket pair and not a pipe, because Windows can wait only for sockets.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor to wait on for reading."""
        return self._reader.fileno()

    def wake(self) -> None:
        """Make it readable.  Any thread, and a signal's handler."""
        try:
            self._writer.send(b"\0")
        except OSError:
            pass  # full: it is readable already; or closed: nobody waits any more

    def drain(self) -> bool:
        """Take what makes it readable; return whether there was any."""
        try:
            return bool(self._reader.recv(4096))
        except OSError:
            return False

    def close(self) -> None:
        """Close both ends."""
        self._reader.close()
        self._writer.close()


def tame_traceback(record: logging.LogRecord) -> bool:
    """Write the traceback of *record* so that no line of it looks like another record.

    A filter of our logger.  An exception's text may quote a client, line breaks and
    all: a program's hook has raised it, say.
    """
    if record.exc_info and not record.exc_text:
        text = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        record.exc_text = "\n".join("    " + shown(line) for line in text.split("\n"))
    return True


def log_bug(message: str, *args: object) -> None:
    """Log the exception that is being handled, and raise nothing whatever the log does.

    For the last resort of threads that have to live: a program's log handler may
    raise, too (a disk is full, say).
    """
    try:
        log.exception(message, *args)
    except Exception:  # noqa: BLE001, S110  # nobody is left to tell
        pass


def tell(level: int, message: str, *args: object) -> None:
    """Log it, and raise nothing whatever the log does: for those who have others to serve."""
    try:
        log.log(level, message, *args)
    except Exception:  # noqa: BLE001, S110  # a program's log may fail
        pass


_KEEPALIVE = [getattr(socket, "TCP_KEEP" + name, None) for name in ("IDLE", "INTVL", "CNT")]


def tune(sock: socket.socket, keepalive: Sequence[int] = ()) -> None:
    """Set what every relayed TCP connection gets; of a unix socket what it knows.

    No delay for small messages, and a peer that vanished is noticed.  An urgent byte stays in its
    place among the others, for any kind of socket: the kernel would else take it out of the stream.

    Args:
        keepalive: after how many seconds of silence, how many apart and how often the peer is
            asked; empty: as the system does.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in zip(_KEEPALIVE, keepalive):
            if option is not None:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
    except OSError:
        pass  # a unix socket; or the peer has gone, which the next call tells


def set_up_listener(sock: socket.socket) -> None:
    """Set what a TCP socket needs before it is bound to listen.

    A port of which connections have just ended can be had again, but never one of which
    another program has a socket.
    """
    if os.name == "nt":
        sock.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_EXCLUSIVEADDRUSE", -5), 1)
    else:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sock.family == socket.AF_INET6:
        # Its own socket for each family: no client arrives as ::ffff:a.b.c.d.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


def send_now(sock: socket.socket, data: bytes) -> int:
    """Send what *sock* takes at once; return how much that is.

    If *sock* has a timeout, ``send`` first asks whether it may: one system call more, for a few
    bytes that there always is room for.

    Raises:
        OSError: as ``send`` of a socket that does not block.
    """
    return sock.send(data) if os.name == "nt" else os.write(sock.fileno(), data)


def unblock(sock: socket.socket) -> None:
    """Make *sock* non-blocking, unless it is: telling it is a system call."""
    if sock.gettimeout() != 0.0:
        sock.setblocking(False)


#: What has no name in older Pythons: choose the port at connect, when the
#: target is known, so that one port serves many targets.
_LATE_PORT = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24 if _IS_LINUX else None)


def bind_late(sock: socket.socket, address: Tuple[Any, ...]) -> None:
    """Have *sock* connect from *address*, of which the port is 0.

    Raises:
        OSError: it cannot.
    """
    if _LATE_PORT is not None:
        try:
            sock.setsockopt(socket.IPPROTO_IP, _LATE_PORT, 1)
        except OSError:
            pass  # an old kernel: the port is chosen now
    sock.bind(address)


def connect_result(sock: socket.socket, sockaddr: Any) -> int:
    """Return how a non-blocking connect goes: 0 done, EINPROGRESS, or its errno."""
    if _IS_LINUX:
        # Asking again is one call and returns the outcome; other systems may
        # start anew after a failure.
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
    """Return how many bytes the peer has not acknowledged yet; 0 where unknown."""
    return 0


def is_at_mark(sock: socket.socket) -> bool:
    """Return whether the next byte to be read is the urgent one; False where unknown."""
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
                    return 0  # what it still counts will never be delivered
        except OSError:
            return 0
        return int.from_bytes(unsent, sys.byteorder)

    unsent_bytes = _unsent_bytes

    #: Python has no name for it, and systems have different numbers.
    _SIOCATMARK = 0x8905
    if not _IS_LINUX or os.uname().machine.startswith(("mips", "alpha")):
        _SIOCATMARK = 0x40047307

    def _is_at_mark(sock: socket.socket) -> bool:
        try:
            return fcntl.ioctl(sock.fileno(), _SIOCATMARK, b"\0\0\0\0") != b"\0\0\0\0"
        except OSError:
            return False  # a unix socket of a kernel where those have none

    is_at_mark = _is_at_mark


def hang_up(sock: socket.socket) -> None:
    """Close so that the peer gets a RST: its stream did not end, it broke."""
    try:
        linger = b"\1\0\0\0" if os.name == "nt" else b"\1\0\0\0\0\0\0\0"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    except OSError:
        pass  # a unix socket, or gone already
    close_quietly(sock)


def close_quietly(sock: socket.socket) -> None:
    """Close; what the system may still say about a dead connection is no news."""
    try:
        sock.close()
    except OSError:
        pass
