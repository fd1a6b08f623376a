"""Pending handshakes: each has a handler thread, so there is a bound, which clients share."""

import contextlib
import threading
from typing import Dict, Iterator, Optional

from minisocks.errors import HandshakeError, LimitReached, ProxyStops
from minisocks.net.edge import Edge
from minisocks.net.processor import Processor
from minisocks.policy.client import Groups
from minisocks.policy.quota import Quota
from minisocks.server.clientsocket import ClientSocket

__all__ = ["Pending"]

#: Without a descriptor, one handshake of so many is ended at once: one alone would leave others
#: behind those that come faster.
ENDED_PART = 8
_NO_DESCRIPTOR = "there are too many unfinished handshakes for the descriptors that there are"


class Pending:
    """All handshakes that are not finished.

    A class because of the bound.  When there are too many, one makes room (``quota``).  Ended can
    be a handshake whose thread waits: for its client, for its turn to check a password or to
    ask the program, for an identd.  Not one whose thread checks a password just now, or is in a
    hook of the embedding program.

    Args:
        room: how many there may be.

    Thread: any.  One lock covers entering, leaving and ending: a socket that is shut down is
    still that client's.
    """

    def __init__(self, room: int, processor: Processor) -> None:
        self._processor = processor
        self._lock = threading.Lock()  # guards all below
        self._room = room
        self._threads: Optional[int] = None
        #: Those that can be ended, and those that cannot.
        self._quota: Quota[ClientSocket] = Quota(room, fewer=1)
        self._kept: Dict[ClientSocket, None] = {}
        self._is_closed = False
        self._edge = Edge("handshakes can be taken on again")

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._quota) + len(self._kept)

    def resize(self, room: int) -> None:
        """Have so many at most from now on; those that are there stay."""
        with self._lock:
            self._room = room

    def have_threads(self, threads: Optional[int]) -> None:
        """Go by the number of threads that there can be, if that is less; None: it is not."""
        with self._lock:
            self._threads = threads

    def enter(self, conn: ClientSocket) -> None:
        """Count *conn* in; another handshake may be ended for it.

        Raises:
            LimitReached: there is no room, and none can be made.
            ProxyStops: there will be no more.
        """
        with self._lock:
            if self._is_closed:
                raise ProxyStops("shutdown")
            groups, quota = conn.client.groups, self._quota
            quota.most = self._most() - len(self._kept)
            if quota.is_full:
                self._make_room(groups)
            else:
                self._edge.passed()
            quota.add(conn, groups)

    def leave(self, conn: ClientSocket) -> None:
        """Count *conn* out; nothing if it has been ended."""
        with self._lock:
            if conn.may_end:
                self._quota.remove(conn, conn.client.groups)
            else:
                self._kept.pop(conn, None)

    @contextlib.contextmanager
    def busy(self, conn: ClientSocket) -> Iterator[None]:
        """Let the handler thread do what takes long inside, on whatever processor.

        Raises:
            HandshakeError: the handshake has been ended, before or meanwhile.
        """
        self.keep(conn)
        try:
            with self._processor.released():
                yield
        finally:
            with self._lock:
                conn.may_end = True
                if conn in self._kept:
                    del self._kept[conn]
                    self._quota.add(conn, conn.client.groups)
        conn.check()

    def keep(self, conn: ClientSocket) -> None:
        """Have *conn* not be ended for others any more.

        Raises:
            HandshakeError: it has been ended already.
        """
        with self._lock:
            conn.check()
            if conn.may_end:
                conn.may_end = False
                if self._quota.remove(conn, conn.client.groups):
                    self._kept[conn] = None

    def end_some(self) -> bool:
        """End an eighth of them, because no descriptor is left; return whether there were any.

        One of the largest network after the other, as for a newcomer that has nothing yet.
        Their threads close their sockets, a moment later.
        """
        with self._lock:
            count = max(1, len(self._quota) // ENDED_PART)
            for done in range(count):
                victim = self._quota.victim(())
                if victim is None:
                    return done > 0
                self._end(victim, LimitReached(_NO_DESCRIPTOR))
            return True

    def close(self) -> None:
        """End all handshakes, and those to come."""
        with self._lock:
            self._is_closed = True
            for conn in self._quota.items():
                self._end(conn, ProxyStops("shutdown"))
            for conn in self._kept:
                # Behind a hook it is looked at; a client that is about to be relayed is.
                conn.ended = ProxyStops("shutdown")

    def _most(self) -> int:
        return self._room if self._threads is None else min(self._room, self._threads)

    def _make_room(self, groups: Groups) -> None:
        victim = self._quota.victim(groups)
        why = "there are too many unfinished handshakes (--max-handshakes %d)" % self._room
        if victim is not None:
            self._end(victim, LimitReached(why))
            return
        if not len(self._quota):  # else its network has as many as each other one
            text = "hooks hold %d handler threads; clients are refused"
            self._edge.reached(text, len(self._kept))
        raise LimitReached(why)

    def _end(self, conn: ClientSocket, why: HandshakeError) -> None:
        self._quota.remove(conn, conn.client.groups)
        conn.end(why)
