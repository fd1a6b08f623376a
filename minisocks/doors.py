"""The listeners, in the loop: accept whoever comes, wait when there is no room."""

import errno
import logging
import os
import time
from typing import Any, Dict, Optional, Sequence

from minisocks.compat import CAPACITY_ERRORS, READ, tell
from minisocks.loop import Job, Loop, Timer

__all__ = ["Doors"]

#: So many clients of a listener are served in a round; those who are connected
#: already have their turn in between.
BATCH = 8
#: So many who wait at a listener that is to be closed are still let in.
MAX_WAITING = 64
#: With no descriptor left, how long until accept is tried again.
RETRY_SECONDS = 1.0
#: "At capacity" and its end are told once in so many seconds.
EDGE_SECONDS = 10.0

#: What accept says of a listener that somebody shut down or closed, for ever.
_LISTENER_IS_DEAD = (errno.EINVAL, errno.EBADF, errno.ENOTSOCK)


class Doors(Job):
    """Accepts for some servers, each a ``SocksServer`` that listens.

    A class because they close together: when one of them finds no descriptor for
    a client, none of them would.
    """

    counts = False

    def __init__(self, loop: Loop, servers: Sequence[Any]) -> None:
        self._loop = loop
        self._servers: Dict[int, Any] = {server.fileno(): server for server in servers}
        self._timer: Optional[Timer] = None
        self._paused = False
        self._edge_told = True
        self._edge_told_at = -EDGE_SECONDS
        loop.on_closed = self._descriptors_freed

    def begin(self) -> None:
        """Let clients in."""
        for fd, server in list(self._servers.items()):
            if server.fileno() == fd:
                self._loop.watch(fd, READ, self)
            else:  # who gave it to us has closed it
                self._drop(fd, OSError(errno.EBADF, os.strerror(errno.EBADF)))

    def on_ready(self, fd: int, mask: int) -> None:
        """Accept and serve some of those who wait at *fd*."""
        server = self._servers[fd]
        for _ in range(BATCH):
            try:
                request, address = server.get_request()
            except BlockingIOError:
                self._unpause()  # nobody waits, and there was a descriptor for him
                return
            except MemoryError:
                self._pause("out of memory")
                return
            except OSError as exc:
                if exc.errno in CAPACITY_ERRORS:
                    self._pause(exc.strerror or str(exc))
                    return
                if exc.errno in _LISTENER_IS_DEAD:
                    self._drop(fd, exc)
                    return
                # Else this client left before we came to it.
            else:
                server.process_request(request, address)

    def change(self, added: Sequence[Any], removed: Sequence[Any]) -> None:
        """Accept for *added* from now on; for *removed* only those who wait already."""
        for server in removed:
            fd = server.fileno()
            if self._servers.get(fd) is server:
                self._loop.unwatch(fd, self)
                del self._servers[fd]
                self._serve_waiting(server)
        for server in added:
            self._servers[server.fileno()] = server
            if self._timer is None:  # else it waits for descriptors, as the others
                self._loop.watch(server.fileno(), READ, self)

    def _serve_waiting(self, server: Any) -> None:
        for _ in range(MAX_WAITING):
            try:
                request, address = server.get_request()
            except OSError:
                return
            server.process_request(request, address)

    def abort(self, why: str) -> None:
        """Let nobody in any more."""
        self._watch_none()
        self._servers = {}  # their numbers may be somebody else's when it is called again
        self._loop.on_closed = _nothing
        self._loop.done(self)

    def _watch_none(self) -> None:
        for fd in self._servers:
            self._loop.unwatch(fd, self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _pause(self, reason: str) -> None:
        """Wait for descriptors, not for clients: accept would fail at once, for ever."""
        self._watch_none()
        if self._loop.pipes.close_spare():
            self._loop.call_soon(self, self._retry)  # there is room now
            return
        self._timer = self._loop.call_later(RETRY_SECONDS, self, self._retry)
        if not self._paused:
            self._paused = True
            # Where descriptors come and go, the edge is crossed all the time.
            self._edge_told = time.monotonic() >= self._edge_told_at + EDGE_SECONDS
            if self._edge_told:
                self._edge_told_at = time.monotonic()
                told = "at capacity: accept: %s; waiting for connections to end"
                tell(logging.WARNING, told, reason)

    def _descriptors_freed(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._loop.call_soon(self, self._retry)

    def _retry(self) -> None:
        if self._timer is not None:
            self._timer.cancel()  # another listener has asked for one meanwhile
            self._timer = None
        self.begin()
        for fd in list(self._servers):
            self.on_ready(fd, READ)  # also where nobody waits: that it can be done is news

    def _unpause(self) -> None:
        if self._paused:
            self._paused = False
            if self._edge_told:
                tell(logging.WARNING, "accepting again")

    def _drop(self, fd: int, exc: OSError) -> None:
        """Accept no more from a listener that will never have a client again."""
        tell(logging.ERROR, "a listener is dead: accept: %s; going on without it", exc.strerror)
        self._loop.unwatch(fd, self)  # if somebody has closed it, the number may be another's
        del self._servers[fd]


def _nothing() -> None:
    """Nobody waits for descriptors."""
