"""Pending handshakes: each has a handler thread, so there is a bound, and no client has all."""

import contextlib
import threading
from typing import Dict, Iterator, List, Optional

from minisocks.client import neighbourhood
from minisocks.clientsocket import ClientSocket
from minisocks.edge import Edge
from minisocks.errors import HandshakeError, LimitReached, ProxyStops
from minisocks.processor import Processor

__all__ = ["Pending"]

#: Handshakes of one address, the oldest first.
_Handshakes = Dict[ClientSocket, None]


class Pending:
    """All handshakes that are not finished, by client address.

    A class because of the bound.  When there are too many, the oldest handshake of the address
    that has most is ended, so that a scanner is only in its own way.  No address has more than
    half of them, so that the first client does not have all; except for this host's own
    addresses, which all its programs share.

    Ended can be a handshake whose thread waits: for its client, for its turn to check a
    password, for an identd.  Not one whose thread checks a password just now, or is in a hook
    of the embedding program.

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
        self._count = 0
        self._by_address: Dict[bytes, _Handshakes] = {}
        self._is_closed = False
        self._edge = Edge("handshakes can be taken on again")

    def __len__(self) -> int:
        """Return how many there are."""
        return self._count

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
        client = conn.client
        address = neighbourhood(client.ip)
        with self._lock:
            if self._is_closed:
                raise ProxyStops("shutdown")
            self._by_address.setdefault(address, {})[conn] = None
            self._count += 1
            here = self._by_address[address]
            share = (self._room + 1) // 2
            if len(here) > share and not client.is_local:
                why = "%s has %d unfinished handshakes (--max-handshakes %d: half of them)"
                self._make_room(conn, [here], why % (client.place, share, self._room))
            elif self._count > self._most():
                why = "there are too many unfinished handshakes (--max-handshakes %d)"
                most_first = sorted(self._by_address.values(), key=len, reverse=True)
                self._make_room(conn, most_first, why % self._room)
            else:
                self._edge.passed()

    def leave(self, conn: ClientSocket) -> None:
        """Count *conn* out; nothing if it has been ended."""
        with self._lock:
            self._take_out(conn)

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
        conn.check()

    def keep(self, conn: ClientSocket) -> None:
        """Have *conn* not be ended for others any more.

        Raises:
            HandshakeError: it has been ended already.
        """
        with self._lock:
            conn.check()
            conn.may_end = False

    def close(self) -> None:
        """End all handshakes, and those to come."""
        with self._lock:
            self._is_closed = True
            for here in list(self._by_address.values()):
                for conn in list(here):
                    if conn.may_end:
                        self._end(conn, ProxyStops("shutdown"))
                    else:
                        # Behind a hook it is looked at; a client that is about to be relayed is.
                        conn.ended = ProxyStops("shutdown")

    def _most(self) -> int:
        return self._room if self._threads is None else min(self._room, self._threads)

    def _make_room(self, newcomer: ClientSocket, groups: List[_Handshakes], why: str) -> None:
        error = LimitReached(why)
        for here in groups:
            for conn in here:
                if conn.may_end and conn is not newcomer:
                    self._end(conn, error)
                    return
        self._take_out(newcomer)
        self._edge.reached("hooks hold %d handler threads; clients are refused", self._count)
        raise error

    def _end(self, conn: ClientSocket, why: HandshakeError) -> None:
        self._take_out(conn)
        conn.end(why)

    def _take_out(self, conn: ClientSocket) -> None:
        address = neighbourhood(conn.client.ip)
        here = self._by_address.get(address, {})
        if conn in here:
            del here[conn]
            self._count -= 1
            if not here:
                del self._by_address[address]
