"""The listeners that are polled, and how soon accept is tried again after a failure."""

import errno
import time
from typing import Any, Dict, List

from minisocks.compat import READ, PlainPoller
from minisocks.net.capacity import Edge
from minisocks.quoting import reason_of
from minisocks.values import ListenAddress

__all__ = ["Failures", "Polled"]

#: Seconds from a failure to the next accept.  On some systems a client that has left the queue is a
#: failure, too, and must not delay those behind it.
SHORT_SECONDS = 0.001
#: The same after so many failures in a row, which no client causes.
MANY, LONG_SECONDS = 100, 0.05

#: Errors of accept about a client that has left.
_CLIENT_LEFT = (errno.ECONNABORTED, errno.ECONNRESET, errno.EPROTO, errno.EINTR)


class Failures:
    """Failures of accept in a row at one listener; one line in the log when they begin or end.

    One thread at a time.

    Args:
        address: where it listens, for the log.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._count = 0
        self._edge = Edge("accept on %s works again" % address, "")

    def failed(self, exc: OSError) -> float:
        """Note *exc*; return the seconds after which accept is to be tried again."""
        self._count += 1
        is_many = self._count >= MANY
        if is_many or exc.errno not in _CLIENT_LEFT:
            what = "accept on %s fails: %s; trying again"
            self._edge.reached(what, self._address, reason_of(exc))
        return LONG_SECONDS if is_many else SHORT_SECONDS

    def passed(self) -> None:
        """Note that accept has succeeded."""
        if self._count:
            self._count = 0
            self._edge.passed()


class Polled:
    """The listeners that the leader polls, by their descriptors.

    A listener at which accept fails is not polled for a while, because it would be ready again at
    once.  One thread at a time.

    Args:
        waker: a descriptor that is polled, too.
    """

    def __init__(self, waker: int) -> None:
        #: poll, because a forked child would keep the registrations of epoll.
        self._poller = PlainPoller()
        self._poller.register(waker, READ)
        #: The server of each listener.
        self.servers: Dict[int, Any] = {}
        self._failures: Dict[int, Failures] = {}
        #: Those that are not polled, and until which monotonic seconds.
        self._resting: Dict[int, float] = {}

    def add(self, server: Any) -> None:
        """Poll the listener of *server*, too."""
        fd = server.fileno()
        self._poller.register(fd, READ)
        self.servers[fd] = server
        self._failures[fd] = Failures(_spelled(server.server_address))

    def forget(self, fd: int) -> None:
        """Poll the listener *fd* no more."""
        del self.servers[fd], self._failures[fd]
        if self._resting.pop(fd, None) is None:
            self._poller.unregister(fd)

    def wait(self) -> List[int]:
        """Wait; return the descriptors that are ready, none if a listener is to be polled again."""
        if not self._resting:
            return [fd for fd, _mask in self._poller.poll(-1)]
        now = time.monotonic()
        for fd in [fd for fd, until in self._resting.items() if until <= now]:
            del self._resting[fd]
            self._poller.register(fd, READ)
        left = min(self._resting.values()) - now if self._resting else -1
        return [fd for fd, _mask in self._poller.poll(left)]

    def failed(self, fd: int, exc: OSError) -> None:
        """Poll the listener *fd* no more for a while, because accept there has failed."""
        if fd not in self._resting:
            self._poller.unregister(fd)
        self._resting[fd] = time.monotonic() + self._failures[fd].failed(exc)

    def passed(self, fd: int) -> None:
        """Note that accept at the listener *fd* has succeeded."""
        self._failures[fd].passed()


def _spelled(address: Any) -> str:
    """Return the *address* of a listener as text for ``--listen``."""
    if isinstance(address, tuple):
        return str(ListenAddress(address[0], address[1]))
    return "unix:%s" % address
