"""Refused clients, heard out."""

import socket
from typing import Dict, List, Optional

from minisocks.compat import READ, unblock
from minisocks.loop import Job, Loop, Timer

__all__ = ["Lingering", "Porch"]

#: A refused client is listened to until EOF, or one of these.
LINGER_SECONDS = 2.0
LINGER_BYTES = 256 * 1024


class Lingering(Job):
    """A refused client: has its reply and our FIN, and is heard out.

    Closing at once with unread bytes would send a RST, which destroys the
    reply that is on its way.  So read and discard until EOF, a bound or 2 s.
    """

    __slots__ = ("_left", "_loop", "_porch", "_sock", "_timer", "address")

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        porch: "Optional[Porch]" = None,
        address: bytes = b"",
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._left = LINGER_BYTES
        self._timer: Optional[Timer] = None
        self._porch = porch
        #: Whose it is (of IPv6: the /64).
        self.address = address

    def begin(self) -> None:
        """Start listening, and the clock."""
        unblock(self._sock)
        self._timer = self._loop.call_later(LINGER_SECONDS, self, self._close)
        self._loop.watch(self._sock.fileno(), READ, self)
        if self._porch is not None:
            self._porch.enter(self)

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
            self.abort("")

    def abort(self, why: str) -> None:
        """Close now."""
        if self._timer is not None:
            self._timer.cancel()
        self._close()

    def _close(self) -> None:
        if self._porch is not None:
            self._porch.leave(self)
        self._loop.close_later(self._sock)
        self._loop.done(self)


class Porch:
    """Where refused clients are heard out: so many of them, and of an address half of that.

    A class because of the bound: somebody who is refused and stays would else have all
    descriptors.  The one who has been there for longest goes.  Loop thread.
    """

    def __init__(self, room: int) -> None:
        #: How many are heard out at once.
        self.room = room
        self._count = 0
        self._here: Dict[bytes, List[Lingering]] = {}

    def __len__(self) -> int:
        return self._count

    def enter(self, one: Lingering) -> None:
        """Count *one* in; somebody may have to go."""
        here = self._here.setdefault(one.address, [])
        here.append(one)
        self._count += 1
        if self._count > self.room:
            here = max(self._here.values(), key=len)
        if self._count > self.room or len(here) > max(1, self.room // 2):
            here[0].abort("no room")

    def leave(self, one: Lingering) -> None:
        """Count *one* out."""
        here = self._here.get(one.address, [])
        if one in here:
            here.remove(one)
            self._count -= 1
            if not here:
                del self._here[one.address]
