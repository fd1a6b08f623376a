"""Accept clients, one at a time, from the listeners of several servers."""

import collections
import errno
import logging
import os
import threading
import time
from typing import Any, Deque, Dict, List, NamedTuple, Optional, Sequence, Tuple

from minisocks.compat import CAPACITY_ERRORS, READ, PlainPoller, Waker, tell
from minisocks.net.capacity import Edge, Failures
from minisocks.quoting import reason_of
from minisocks.server.services import Services
from minisocks.values import ListenAddress

__all__ = ["Accepted", "Listeners", "RETRY_SECONDS"]

#: Clients that are still accepted from a listener before it is closed.
MAX_WAITING = 64
#: Seconds until the next accept when no descriptor is left,
RETRY_SECONDS = 0.05
#: and when handshakes have been ended to free some.
END_SECONDS = 0.01

#: Errors of accept that do not end: another process has shut the listener down, say.
_LISTENER_IS_DEAD = (errno.EINVAL, errno.EBADF, errno.ENOTSOCK)

#: A server, and the socket and address that its ``get_request`` returned.
Accepted = Tuple[Any, Any, Any]


class _ServerSet(NamedTuple):
    """The servers to accept for, and an event that the leader sets when it does."""

    servers: Tuple[Any, ...]
    is_adopted: threading.Event


class Listeners:
    """The listeners of some ``SocksServer``, which one thread, the leader, polls.

    A listener at which accept fails is not polled for a while, because it would be ready again at
    once.  Thread: the leader's, except ``change``.

    Args:
        services: asked to make room when no descriptor is left.
        stopping: set, and the waker woken, when no more clients are accepted.

    Attributes:
        servers: those that are polled, by descriptor.
        waker: ends the wait of ``accept``.
    """

    def __init__(self, services: Services, stopping: threading.Event) -> None:
        self._services = services
        self._stopping = stopping
        self.waker = Waker()
        #: poll, because a forked child would keep the registrations of epoll.
        self._poller = PlainPoller()
        self._poller.register(self.waker.fileno(), READ)
        self.servers: Dict[int, Any] = {}
        self._failures: Dict[int, Failures] = {}
        #: Those that are not polled, and until which monotonic seconds.
        self._resting: Dict[int, float] = {}
        self._ready: Deque[int] = collections.deque()
        #: Removed servers, and how many clients are still accepted from each.
        self._leaving: List[Tuple[Any, int]] = []
        self._wanted = self._adopted = _ServerSet((), threading.Event())
        self._descriptors = Edge("accepting again")

    def change(self, added: Sequence[Any], removed: Sequence[Any]) -> threading.Event:
        """Poll *added* as well, and of *removed* only accept the clients that wait there already.

        Returns an event that is set when *removed* may be closed.  Thread: any, one at a time.
        """
        stay = tuple(server for server in self._wanted.servers if server not in removed)
        wanted = self._wanted = _ServerSet(stay + tuple(added), threading.Event())
        self.waker.wake()
        return wanted.is_adopted

    def accept(self) -> Optional[Accepted]:
        """Return a client, and wait for it if necessary; None: call again."""
        if self._wanted is not self._adopted:
            self._adopt(self._wanted)
        while self._leaving:
            accepted = self._accept_last()
            if accepted is not None:
                return accepted
        self._adopted.is_adopted.set()
        while self._ready:
            accepted = self._accept_from(self._ready.popleft())
            if accepted is not None:
                return accepted
        for fd in self._wait():
            if fd in self.servers:
                self._ready.append(fd)
            elif not self._stopping.is_set():
                self.waker.drain()
        return None

    def _wait(self) -> List[int]:
        """Wait; return the descriptors that are ready, none if a listener is to be polled again."""
        if not self._resting:
            return [fd for fd, _mask in self._poller.poll(-1)]
        now = time.monotonic()
        for fd in [fd for fd, until in self._resting.items() if until <= now]:
            del self._resting[fd]
            self._poller.register(fd, READ)
        left = min(self._resting.values()) - now if self._resting else -1
        return [fd for fd, _mask in self._poller.poll(left)]

    def _adopt(self, wanted: _ServerSet) -> None:
        """Accept from the servers of *wanted* from now on."""
        for fd, server in list(self.servers.items()):
            if server not in wanted.servers:
                self._forget(fd)
                self._leaving.append((server, MAX_WAITING))
        for server in wanted.servers:
            fd = server.fileno()
            if fd < 0:
                _tell_dead(OSError(errno.EBADF, os.strerror(errno.EBADF)))
            elif fd not in self.servers:
                self._poller.register(fd, READ)
                self.servers[fd] = server
                self._failures[fd] = Failures(_spelled(server.server_address))
        self._adopted = wanted

    def _forget(self, fd: int) -> None:
        """Poll the listener *fd* no more."""
        del self.servers[fd], self._failures[fd]
        if self._resting.pop(fd, None) is None:
            self._poller.unregister(fd)

    def _accept_last(self) -> Optional[Accepted]:
        """Return a client that waits at a removed server; None: none waits there."""
        server, left = self._leaving.pop()
        accepted = None
        try:
            accepted = (server, *server.get_request())
        except BlockingIOError:
            return None
        except OSError:
            pass  # perhaps that client has left; others may wait
        if left > 1:
            self._leaving.append((server, left - 1))
        return accepted

    def _accept_from(self, fd: int) -> Optional[Accepted]:
        """Return a client that waits at the listener *fd*; None: none, or no descriptor for it."""
        server = self.servers.get(fd)
        if server is None:
            return None
        try:
            request, address = server.get_request()
        except BlockingIOError:
            self._descriptors.passed()  # accept would have failed before without a descriptor
            return None
        except MemoryError:
            self._pause("out of memory")
            return None
        except OSError as exc:
            if exc.errno in CAPACITY_ERRORS:
                self._pause(reason_of(exc))
            elif exc.errno in _LISTENER_IS_DEAD:
                _tell_dead(exc)
                self._forget(fd)
            else:
                self._rest(fd, exc)
            return None
        self._descriptors.passed()
        self._failures[fd].passed()
        return server, request, address

    def _rest(self, fd: int, exc: OSError) -> None:
        """Poll the listener *fd* no more for a while, because accept there has failed."""
        if fd not in self._resting:
            self._poller.unregister(fd)
        self._resting[fd] = time.monotonic() + self._failures[fd].failed(exc)

    def _pause(self, reason: str) -> None:
        """Wait for descriptors, because accept would fail again at once."""
        if not self._services.make_room():
            self._descriptors.reached("accept: %s; waiting for connections to end", reason)
            has_ended = self._services.pending.end_some()
            self._stopping.wait(END_SECONDS if has_ended else RETRY_SECONDS)


def _tell_dead(exc: OSError) -> None:
    tell(logging.ERROR, "a listener is dead: accept: %s; going on without it", exc.strerror)


def _spelled(address: Any) -> str:
    """Return the *address* of a listener as text for ``--listen``."""
    if isinstance(address, tuple):
        return str(ListenAddress(address[0], address[1]))
    return "unix:%s" % address
