"""What is known of the targets of one association, while there is room for it."""

from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple

from minisocks.policy.client import Client
from minisocks.udp.table import AssociationTable
from minisocks.wire import Address, packed_ip, scope_of

__all__ = ["Mappings", "Way", "contact_key"]

#: One part of so many is younger contacts, when older ones are forgotten.  More would leave no
#: room to become as many; fewer would forget targets that have not answered yet.
YOUNG_PART = 4
#: Of a header, and of the name in it once more: so many count as one entry.
WEIGHED_BYTES = 64

#: How to send to a target: a function of the datagram and of something; which.
Way = Tuple[Callable[[Any, Any], int], Any]


class Contact(NamedTuple):
    """As what a client has written to a target; and which of the client's ports did so last."""

    dst: Address
    writer: Any


#: Nothing is ever put into an older one, so that all associations can share this.
_NOTHING: Dict[Any, Contact] = {}


class Mappings:
    """Whom a client has written to, how that is sent, and what comes back is headed with.

    A class because what is known is counted together, and forgotten together.  Loop thread.

    Attributes:
        ways: by the header that a client writes: how to send what is behind it.
        headers: by the sockaddr of a target: the header of what comes from it.
    """

    __slots__ = ("_client", "_table", "_new", "_old", "entries", "headers", "ways")

    def __init__(self, table: AssociationTable, client: Client) -> None:
        self._table = table
        self._client = client
        self.ways: Dict[bytes, Way] = {}
        self.headers: Dict[Any, bytes] = {}
        #: Whom the client has written to, by address and by address and port; what was not
        #: used for long is in the older one, and goes first.
        self._new: Dict[Any, Contact] = {}
        self._old = _NOTHING
        #: How much that is, as the exchange counts it.
        self.entries = 0

    def contact(self, what: Any) -> Optional[Contact]:
        """Return how the client has written to *what*; None: it has not.

        Args:
            what: the bytes of an address, or those and a port.
        """
        found = self._new.get(what)
        if found is None:
            found = self._old.pop(what, None)
            if found is not None:
                self._new[what] = found
        return found

    def add_contact(self, dst: Address, ip: bytes, writer: Any) -> None:
        """Remember that the client has written to *dst*, which is at *ip*, from *writer*."""
        self._make_room()
        self._put(Contact(dst, writer), ip)

    def written(self, place: Any, writer: Any) -> None:
        """Take note that *writer* has now sent something to *place*, a contact's sockaddr."""
        ip = contact_key(place, packed_ip(place[0]) or b"")
        contact = self.contact((ip, place[1]))
        if contact is not None:
            self._put(contact._replace(writer=writer), ip)

    def writer_to(self, source: Any) -> Any:
        """Return which of the client's ports has sent something to *source* last, if any."""
        ip = contact_key(source, packed_ip(source[0]) or b"")
        contact = self.contact((ip, source[1])) or self.contact(ip)
        return None if contact is None else contact.writer

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
        self._new, self._old = {}, _NOTHING

    def _put(self, contact: Contact, ip: bytes) -> None:
        for what in ((ip, contact.dst.port), ip):
            if what not in self._new:
                self._count(1 if self._old.pop(what, None) is None else 0)
            self._new[what] = contact

    def _make_room(self) -> None:
        """Forget what was not used for longest, if there is no room."""
        if self._table.has_room_for_target(self._client):
            return
        least = self._table.least_of(self._client)
        if self.entries >= least:
            # A target that was written to only now may not have answered yet.
            self.forget_some(least=max(least // 2, self.entries // YOUNG_PART))

    def forget_some(self, least: int = 0) -> None:
        """Forget what was not used for longest, if more than so many contacts are younger."""
        self.forget_decisions()
        if len(self._new) >= least:
            self._count(-len(self._old))
            self._old, self._new = self._new, {}

    def _count(self, change: int) -> None:
        if change:
            self.entries += change
            self._table.remember(self, self._client, change)


def contact_key(sockaddr: Any, ip: bytes) -> bytes:
    """Return *ip*, with its scope where there is one: fe80::7 may be there on each link."""
    scope = scope_of(sockaddr)
    return ip + scope.to_bytes(4, "big") if scope else ip


def _weight(key: bytes) -> int:
    """Return as how many entries a way counts: what is headed by a long name takes more."""
    return 1 + len(key) // WEIGHED_BYTES
