"""NAT state of one association: the ports of its client, peers written to, routes, reply headers."""

import errno
import socket
from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple

from minisocks.net.ports import connect_quietly
from minisocks.policy.client import Client
from minisocks.record import Drop
from minisocks.udp.table import AssociationTable
from minisocks.wire import Address, packed_ip, scope_of, unmapped

__all__ = [
    "ClientPorts",
    "FOR_ALL_ADDRESSES",
    "Mappings",
    "NotSent",
    "Way",
    "contact_key",
    "drop_of",
]

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


#: A NAT forgets the port of a client whose datagrams had no answer for so long (conntrack).
SILENCE_SECONDS = 30.0


class ClientPorts:
    """Says which datagrams to a relay socket are the client's.

    A class because what is taken depends on what was taken before.  Loop thread.

    Args:
        relay: the relay socket.  It is connected, so that the kernel keeps out what would
            never be taken.
        ip: the address that the client's TCP connection comes from.
        named: the port that the request names, 0 for none.  It is a hint, until a datagram
            comes from it: clients name the port of their target, too.
        wanted: ``--udp-clients``: same-port, any-port or auto.
        has_password: the client has shown a password: the port is all that tells its datagrams
            from those of other programs at its address.

    Attributes:
        last: the sockaddr that has written last; None before the first datagram.
        heard: when that was, monotonic.
        is_connected: the relay socket is, to ``last``: nothing else is taken any more.
        are_several: datagrams from every port of the address are taken, so that an answer goes
            to the port that has written to that target last.
    """

    __slots__ = ("_ip", "_is_fixed", "_named", "_relay", "are_several", "heard", "is_connected",
                 "last")  # fmt: skip

    def __init__(
        self, relay: socket.socket, ip: bytes, named: int, wanted: str, has_password: bool
    ) -> None:
        self._relay = relay
        self._ip = ip
        self._named = named
        self._is_fixed = wanted == "same-port" or (wanted == "auto" and has_password)
        self.is_connected = False
        self.are_several = wanted == "any-port"
        self.heard = 0.0
        self.last: Any = None

    def take(self, peer: Any, now: float) -> bool:
        """Return whether a datagram from *peer*, which is not ``last``, is the client's."""
        if unmapped(packed_ip(peer[0]) or b"") != self._ip:
            return False
        if self.last is None or peer[1] == self._named != 0:
            self._connect(peer)
        elif not self.are_several:
            if self._is_fixed or now - self.heard < SILENCE_SECONDS:
                return False
            self.are_several = True
        self.last, self.heard = peer, now
        return True

    def _connect(self, peer: Any) -> None:
        """Have the kernel keep out what *peer* leaves to keep out."""
        if self._named == peer[1]:
            self._named = 0
        if self._is_fixed and not self._named:
            self.is_connected = connect_quietly(self._relay, peer)
        elif self.last is None:
            # Port 0 is every port of that address on Linux; other systems refuse it.
            connect_quietly(self._relay, (peer[0], 0) + peer[2:])


#: Another address of the same name would not take it, either.
FOR_ALL_ADDRESSES = (errno.EMSGSIZE, errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS)


class NotSent(OSError):
    """A datagram is not sent; ``drop`` says why."""

    def __init__(self, drop: str) -> None:
        super().__init__(drop)
        self.drop = drop


def drop_of(exc: OSError) -> str:
    """Return as what a datagram counts that could not be sent."""
    if isinstance(exc, NotSent):
        return exc.drop
    if exc.errno == errno.EMSGSIZE:
        return Drop.TOO_LARGE
    return Drop.NO_ROOM if exc.errno in FOR_ALL_ADDRESSES else Drop.NOT_SENT
