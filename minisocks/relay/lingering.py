"""Refused clients that are read until they have our reply."""

import socket
from typing import Optional

from minisocks.compat import READ, close_quietly, unblock
from minisocks.net.job import Job, Timer
from minisocks.net.loop import Loop
from minisocks.policy.client import THIS_HOST, Groups
from minisocks.policy.quota import Quota

__all__ = ["Lingering", "LingeringClients"]

#: A refused client is read until EOF, or one of these.
LINGER_SECONDS = 2.0
LINGER_BYTES = 256 * 1024


class Lingering(Job):
    """A refused client, to which the reply and our FIN were sent.

    A close with unread bytes would send a RST, which destroys the reply on its way.  So its bytes
    are read and discarded until EOF, 256 KiB or 2 s.
    """

    __slots__ = ("_left", "_lingering", "_loop", "_sock", "_timer", "groups")

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
        self._lingering = lingering
        #: Of the client.
        self.groups = groups

    def begin(self) -> None:
        """Start to read, and the timer."""
        unblock(self._sock)
        self._timer = self._loop.call_later(LINGER_SECONDS, self, self._close)
        self._loop.watch(self._sock.fileno(), READ, self)
        if self._lingering is not None:
            self._lingering.enter(self)

    def on_ready(self, fd: int, mask: int) -> None:
        """Discard bytes; close at EOF, at an error, or after 256 KiB."""
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
        """Close at once, not at the end of the round, because the descriptor is needed."""
        self._loop.unwatch(self._sock.fileno())
        close_quietly(self._sock)
        self.abort("")

    def _close(self) -> None:
        if self._lingering is not None:
            self._lingering.leave(self)
        self._loop.close_later(self._sock)
        self._loop.done(self)


class LingeringClients:
    """The refused clients of one proxy, and the limit of their number.

    Without a limit, clients that are refused and stay could take all descriptors.  Loop thread.

    Args:
        room: so many at most.
    """

    def __init__(self, room: int) -> None:
        self._quota: Quota[Lingering] = Quota(room, fewer=1)

    def __len__(self) -> int:
        return len(self._quota)

    def resize(self, room: int) -> None:
        """Allow so many from now on."""
        self._quota.most = room

    def enter(self, one: Lingering) -> None:
        """Count *one* in; another one may be closed for it."""
        if self._quota.make_room(one.groups, lambda victim: victim.abort("no room")):
            self._quota.add(one, one.groups)
        else:
            one.abort("no room")

    def take_back(self) -> bool:
        """Close one of the largest network now; return whether there was one."""
        victim = self._quota.victim(())
        if victim is not None:
            victim.close_now()
        return victim is not None

    def leave(self, one: Lingering) -> None:
        """Count *one* out."""
        self._quota.remove(one, one.groups)
