"""What is known of the targets of one association, up to a bound."""

from typing import Any, Callable, Dict, Optional, Tuple

from minisocks.client import Client
from minisocks.exchange import Exchange
from minisocks.wire import Address

__all__ = ["Known", "Way"]

#: What is remembered for one association.
MAX_ENTRIES = 2048
#: Of a header, and of the name in it once more: so many count as one entry.
WEIGHED_BYTES = 64

#: How to send to a target: a function of the datagram and of something; which.
Way = Tuple[Callable[[Any, Any], int], Any]


class Known:
    """Whom a client has written to, how that is sent, and what comes back is headed with.

    A class because what is known is counted together, and forgotten together.  Loop thread.

    Attributes:
        ways: by the header that a client writes: how to send what is behind it.
        headers: by the sockaddr of a target: the header of what comes from it.
    """

    __slots__ = ("_client", "_exchange", "_new", "_old", "entries", "headers", "ways")

    def __init__(self, exchange: Exchange, client: Client) -> None:
        self._exchange = exchange
        self._client = client
        self.ways: Dict[bytes, Way] = {}
        self.headers: Dict[Any, bytes] = {}
        #: Whom the client has written to, by address and by address and port; what was not
        #: used for long is in the older one, and goes first.
        self._new: Dict[Any, Address] = {}
        self._old: Dict[Any, Address] = {}
        #: How much that is, as the exchange counts it.
        self.entries = 0

    def contact(self, what: Any) -> Optional[Address]:
        """Return as what the client has written to *what*; None: it has not.

        Args:
            what: the bytes of an address, or those and a port.
        """
        dst = self._new.get(what)
        if dst is None:
            dst = self._old.pop(what, None)
            if dst is not None:
                self._new[what] = dst
        return dst

    def add_contact(self, dst: Address, ip: bytes) -> None:
        """Remember that the client has written to *dst*, which is at *ip*."""
        self._make_room()
        for what in ((ip, dst.port), ip):
            if what not in self._new:
                self._count(1 if self._old.pop(what, None) is None else 0)
            self._new[what] = dst

    def add_way(self, key: bytes, way: Way) -> None:
        """Remember how to send what is headed *key*."""
        if key not in self.ways:
            self._make_room()
            self._count(_weight(key))
        self.ways[key] = way

    def add_header(self, source: Any, header: bytes) -> None:
        """Remember the header of what comes from *source*."""
        self._make_room()
        self.headers[source] = header
        self._count(1)

    def forget_ways(self, which: Callable[[bytes, Way], bool]) -> None:
        """Forget those of which *which* says so."""
        keys = [key for key, way in self.ways.items() if which(key, way)]
        for key in keys:
            del self.ways[key]
        self._count(-sum(map(_weight, keys)))

    def forget_decisions(self) -> None:
        """Forget all but whom the client has written to."""
        self._count(-sum(map(_weight, self.ways)) - len(self.headers))
        # In place: the association may be looking at them just now.
        self.ways.clear()
        self.headers.clear()

    def forget(self) -> None:
        """Forget all."""
        self.forget_decisions()
        self._count(-self.entries)
        self._new, self._old = {}, {}

    def _make_room(self) -> None:
        """Forget what was not used for longest, if there is too much."""
        has_room = self._exchange.has_room_for_target(self._client)
        least = self._exchange.least_of(self._client)
        if self.entries < (MAX_ENTRIES if has_room else least):
            return
        # Who was written to only now may not have answered yet.
        self.forget_some(least=0 if has_room else least // 2)

    def forget_some(self, least: int = 0) -> None:
        """Forget what was not used for longest, if more than so many contacts are younger."""
        self.forget_decisions()
        if len(self._new) >= least:
            self._count(-len(self._old))
            self._old, self._new = self._new, {}

    def _count(self, change: int) -> None:
        if change:
            self.entries += change
            self._exchange.remember(self, self._client, change)


def _weight(key: bytes) -> int:
    """Return as how many entries a way counts: what is headed by a long name takes more."""
    return 1 + len(key) // WEIGHED_BYTES
