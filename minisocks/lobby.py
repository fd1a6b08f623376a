"""Where unfinished handshakes wait: in the loop, without a thread.

A session is put here when its client has not said all yet, and goes on when it
says more; at its deadline it is refused.  Five hundred clients that say nothing
cost their descriptors and no thread, and an honest one does not notice them.
"""

from typing import Dict, Optional, Set

from minisocks.client import neighbourhood
from minisocks.compat import READ
from minisocks.errors import HandshakeError, HandshakeTimeout, LimitReached
from minisocks.loop import Job, Loop, Timer
from minisocks.session import Seat, Session

__all__ = ["Lobby"]


class Parked(Job, Seat):
    """One session that waits for its client; it stays until the handshake is over."""

    __slots__ = ("_lobby", "_timer", "session")

    def __init__(self, lobby: "Lobby", session: Session) -> None:
        self._lobby = lobby
        self._timer: Optional[Timer] = None
        self.session = session

    def begin(self) -> None:
        """Wait for bytes, EOF or the deadline, whichever is first."""
        session = self.session
        if self._lobby.closed:
            self.abort("shutdown")
            return
        try:
            left = session.deadline.remaining()
        except HandshakeTimeout:
            left = 0.0
        self._timer = self._lobby.loop.call_later(left, self, self._too_late)
        session.parked = self
        session.watch(READ, self)
        self._lobby.enter(self)

    def on_ready(self, fd: int, mask: int) -> None:
        """Have the session go on."""
        self.session.services.resume(self.session)

    def leave(self) -> None:
        """Let the session go, which is watched as before."""
        if self._timer is not None:
            self._timer.cancel()
        self.session.parked = None
        self._lobby.leave(self)
        self._lobby.loop.done(self)

    def evict(self, error: HandshakeError) -> None:
        """Refuse the client, because time or room has run out."""
        self.session.refuse(error)

    def abort(self, why: str) -> None:
        """Close; the proxy ends."""
        self.leave()
        self.session.abort(why)

    def _too_late(self) -> None:
        self.evict(HandshakeTimeout("the handshake took too long (--handshake-timeout)"))


class Lobby:
    """All parked sessions, counted by client address.

    A class because of the bound: when there are too many, the oldest of the
    address that has most makes room, so that one scanner is only in its own
    way.  And no address has more than half of the room, so that who comes first
    does not have it all; but for this host's own, which all its programs share.
    Loop thread, but for ``park``.
    """

    def __init__(self, loop: Loop, room: int) -> None:
        self.loop = loop
        #: How many may be parked.
        self.room = room
        self._parked = 0
        #: True once the proxy takes no handshakes any more.
        self.closed = False
        self._by_address: Dict[bytes, Set[Parked]] = {}

    def __len__(self) -> int:
        """Return how many sessions are parked.  Any thread."""
        return self._parked

    def park(self, session: Session) -> None:
        """Put *session* aside until its client says more.  Any thread."""
        self.loop.submit(Parked(self, session))

    def close(self) -> None:
        """Close every session that is parked or will be."""
        self.closed = True
        self.abort_all()

    def abort_all(self) -> None:
        """Close every session that is parked."""
        for here in list(self._by_address.values()):
            for parked in list(here):
                parked.abort("shutdown")

    def enter(self, parked: Parked) -> None:
        """Count *parked* in; somebody may have to leave for it."""
        client = parked.session.client
        here = self._by_address.setdefault(neighbourhood(client.ip), set())
        here.add(parked)
        self._parked += 1
        share = (self.room + 1) // 2
        if len(here) > share and not client.is_local:
            why = "%s has %d unfinished handshakes (--max-handshakes %d: half of them)"
            self._evict_oldest(here, why % (client.place, share, self.room))
        elif self._parked > self.room:
            why = "there are too many unfinished handshakes (--max-handshakes %d)" % self.room
            self._evict_oldest(max(self._by_address.values(), key=len), why)

    def _evict_oldest(self, here: Set[Parked], why: str) -> None:
        # By when it came, not by when it was parked: after a hook it is parked anew.
        oldest = min(here, key=lambda parked: parked.session.record.id)
        oldest.evict(LimitReached(why))

    def leave(self, parked: Parked) -> None:
        """Count *parked* out."""
        key = neighbourhood(parked.session.client.ip)
        here = self._by_address.get(key, set())
        if parked not in here:
            return  # aborted before it had begun
        here.remove(parked)
        if not here:
            del self._by_address[key]
        self._parked -= 1
