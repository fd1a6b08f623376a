"""Refused clients, heard out."""

import socket
from typing import Optional

from minisocks.compat import READ, close_quietly, unblock
from minisocks.net.job import Job, Timer
from minisocks.net.loop import Loop
from minisocks.policy.client import THIS_HOST, Groups
from minisocks.policy.quota import Quota

__all__ = ["Lingering", "LingeringClients"]

#: A refused client is listened to until EOF, or one of these.
LINGER_SECONDS = 2.0
LINGER_BYTES = 256 * 1024


class Lingering(Job):
    """A refused client: has its reply and our FIN, and is heard out.

    Closing at once with unread bytes would send a RST, which destroys the
    reply that is on its way.  So read and discard until EOF, a bound or 2 s.
    """

    __slots__ = ("_left", "_loop", "_porch", "_sock", "_timer", "groups")

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        lingering: "Optional[LingeringClients]" = None,
        groups: Groups = THIS_HOST,
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._left = LINGER_BYTES
        self._timer: Optional[Timer] = None
        self._porch = lingering
        #: Those of the client.
        self.groups = groups

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

    def close_now(self) -> None:
        """Close, because the descriptor is wanted at once, and not at the end of the round."""
        self._loop.unwatch(self._sock.fileno())
        close_quietly(self._sock)
        self.abort("")

    def _close(self) -> None:
        if self._porch is not None:
            self._porch.leave(self)
        self._loop.close_later(self._sock)
        self._loop.done(self)


class LingeringClients:
    """Where refused clients are heard out: so many of them.

    A class because of the bound: a client that is refused and stays would else have all
    descriptors.  Loop thread.
    """

    def __init__(self, room: int) -> None:
        self._quota: Quota[Lingering] = Quota(room, fewer=1)

    def __len__(self) -> int:
        return len(self._quota)

    def resize(self, room: int) -> None:
        """Have so many at most from now on."""
        self._quota.most = room

    def enter(self, one: Lingering) -> None:
        """Count *one* in; another may have to go."""
        if self._quota.make_room(one.groups, lambda victim: victim.abort("no room")):
            self._quota.add(one, one.groups)
        else:
            one.abort("no room")

    def take_back(self) -> bool:
        """Close one of the largest network now, for its descriptor; return whether there was one.

        It has had its reply.
        """
        victim = self._quota.victim(())
        if victim is not None:
            victim.close_now()
        return victim is not None

    def leave(self, one: Lingering) -> None:
        """Count *one* out."""
        self._quota.remove(one, one.groups)
