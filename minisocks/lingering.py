"""Refused clients, heard out."""

import socket

from minisocks.compat import READ, unblock
from minisocks.loop import Job, Loop

__all__ = ["Lingering"]

#: A refused client is listened to until EOF, or one of these.
LINGER_SECONDS = 2.0
LINGER_BYTES = 256 * 1024


class Lingering(Job):
    """A refused client: has its reply and our FIN, and is heard out.

    Closing at once with unread bytes would send a RST, which destroys the
    reply that is on its way.  So read and discard until EOF, a bound or 2 s.
    """

    __slots__ = ("_left", "_loop", "_sock", "_timer")

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        self._loop = loop
        self._sock = sock
        self._left = LINGER_BYTES

    def begin(self) -> None:
        """Start listening, and the clock."""
        unblock(self._sock)
        self._timer = self._loop.call_later(LINGER_SECONDS, self, self._close)
        self._loop.watch(self._sock.fileno(), READ, self)

    def on_ready(self, fd: int, mask: int) -> None:
        """Discard what came; close at EOF, at an error, or at the bound."""
        try:
            size = self._sock.recv_into(self._loop.buffer)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        self._left -= size
        if not size or self._left <= 0:
            self._timer.cancel()
            self._close()

    def abort(self, why: str) -> None:
        """Close now."""
        self._close()

    def _close(self) -> None:
        self._loop.close_later(self._sock)
        self._loop.done(self)
