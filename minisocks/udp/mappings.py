"""NAT state of an association: whose datagrams are the client's, peers written to, headers."""

import errno
import socket
from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple

from minisocks.net.ports import connect_quietly
from minisocks.policy.client import Client
from minisocks.record import Drop
from minisocks.udp.table import AssociationTable
from minisocks.values import encode
from minisocks.wire import Address, Atyp, packed_ip, scope_of, unmapped

__all__ = [
    "ClientPorts",
    "FOR_ALL_ADDRESSES",
    "Mappings",
    "NotSent",
    "NotYet",
    "Way",
    "answering",
    "contact_key",
    "drop_of",
    "may_change",
    "refuse",
]

#: The older contacts are removed when the younger ones are one part of so many.  A larger part
#: would leave little room for new ones; a smaller one would lose targets that have not answered.
YOUNG_PART = 4
#: Bytes of a header that count as one entry.
WEIGHED_BYTES = 64

#: How to send to a target: a function, and its second argument; the first one is the datagram.
Way = Tuple[Callable[[Any, Any], int], Any]


class Contact(NamedTuple):
    """The address to which a client has written, and the client's port that did so last."""

    dst: Address
    writer: Any


#: Older contacts are only removed, so all associations can share this empty dict.
_NOTHING: Dict[Any, Contact] = {}


class Mappings:
    """Peers that the client has written to, the ways to them, and the headers of their answers.

    A class because all of this counts together against one limit.  Loop thread.

    Attributes:
        ways: by the header of a datagram from the client: how to send its data.
        headers: by the sockaddr of a target: the header of datagrams from it; by the exit and the
            header of a datagram that a hop sends: what is known of its source.
    """

    __slots__ = ("_client", "_table", "_new", "_old", "entries", "headers", "ways")

    def __init__(self, table: AssociationTable, client: Client) -> None:
        self._table = table
        self._client = client
        self.ways: Dict[bytes, Way] = {}
        self.headers: Dict[Any, Any] = {}
        #: Contacts by address, and by address and port.  Those that were not used for long are
        #: in the older dict, which is removed first.
        self._new: Dict[Any, Contact] = {}
        self._old = _NOTHING
        #: How many entries the association table counts.
        self.entries = 0

    def contact(self, what: Any) -> Optional[Contact]:
        """Return the contact for *what*; None: the client has not written to it.

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
        """Add a contact: the client has written from *writer* to *dst*, which is at *ip*."""
        self._make_room()
        self._put(Contact(dst, writer), ip)

    def written(self, place: Any, writer: Any) -> None:
        """Note that *writer* is the last to have written to *place*, a contact's sockaddr."""
        ip = self.key_of(place)
        contact = self.contact((ip, place[1]))
        if contact is not None:
            self._put(contact._replace(writer=writer), ip)

    def writer_to(self, source: Any) -> Any:
        """Return the client's port that has written to *source* last, if there is one."""
        ip = self.key_of(source)
        contact = self.contact((ip, source[1])) or self.contact(ip)
        return None if contact is None else contact.writer

    @staticmethod
    def key_of(place: Any) -> bytes:
        """Return what contacts at *place* are kept by: its address, or what stands for that."""
        return contact_key(place, packed_ip(place[0]) or encode(place[0]))

    def add_way(self, key: bytes, way: Way) -> None:
        """Keep the way for datagrams with the header *key*."""
        if key not in self.ways:
            self._make_room()
            self._count(_weight(key))
        self.ways[key] = way

    def add_header(self, source: Any, header: Any) -> None:
        """Keep the header of datagrams from *source*."""
        self._make_room()
        self.headers[source] = header
        self._count(1)

    def forget_ways(self, predicate: Callable[[bytes, Way], bool]) -> None:
        """Remove the ways for which *predicate* is true."""
        keys = [key for key, way in self.ways.items() if predicate(key, way)]
        for key in keys:
            del self.ways[key]
        self._count(-sum(map(_weight, keys)))

    def forget_decisions(self) -> None:
        """Remove all but the contacts."""
        self._count(-sum(map(_weight, self.ways)) - len(self.headers))
        # In place: the association may be using them just now.
        self.ways.clear()
        self.headers.clear()

    def forget(self) -> None:
        """Remove everything."""
        self.forget_decisions()
        self._count(-self.entries)
        self._new, self._old = {}, _NOTHING

    def _put(self, contact: Contact, ip: bytes) -> None:
        for what in ((ip, contact.dst.port), ip):
            if what not in self._new:
                self._count(1 if self._old.pop(what, None) is None else 0)
            self._new[what] = contact

    def _make_room(self) -> None:
        """Remove what was not used for longest, if there is no room."""
        if self._table.has_room_for_target(self._client):
            return
        least = self._table.least_of(self._client)
        if self.entries >= least:
            # A target that was written to just now may not have answered yet.
            self.forget_some(least=max(least // 2, self.entries // YOUNG_PART))

    def forget_some(self, least: int = 0) -> None:
        """Remove what was not used for longest, if at least so many contacts are younger."""
        self.forget_decisions()
        if len(self._new) >= least:
            self._count(-len(self._old))
            self._old, self._new = self._new, {}

    def _count(self, change: int) -> None:
        if change:
            self.entries += change
            self._table.remember(self, self._client, change)


_LOOPBACK = {4: bytes((127, 0, 0, 1)), 16: bytes(15) + b"\1"}


def answering(ip: bytes) -> bytes:
    """Return the address from which *ip* answers: 0.0.0.0 and :: are this host's loopback."""
    return ip if any(ip) else _LOOPBACK[len(ip)]


def contact_key(sockaddr: Any, ip: bytes) -> bytes:
    """Return *ip*, with its scope if it has one: each link may have its own fe80::7."""
    scope = scope_of(sockaddr)
    return ip + scope.to_bytes(4, "big") if scope else ip


def _weight(key: bytes) -> int:
    """Return how many entries a way counts: one with a long name in its header takes more."""
    return 1 + len(key) // WEIGHED_BYTES


#: A NAT drops the mapping of a client whose datagrams had no answer for so long (conntrack).
SILENCE_SECONDS = 30.0


class ClientPorts:
    """Says which datagrams to a relay socket are the client's.

    A class because the answer depends on earlier datagrams.  Loop thread.

    Args:
        relay: the relay socket.  It is connected, so that the kernel drops what is never taken.
        ip: the address that the client's TCP connection comes from.
        named: DST.PORT of the request, 0: none.  It is a hint until a datagram comes from it,
            because some clients name the port of their target.
        wanted: ``--udp-clients``: same-port, any-port or auto.
        has_password: the client has shown a password: only the port tells its datagrams from
            those of other programs at its address.

    Attributes:
        last: the sockaddr of the last datagram; None before the first one.
        heard: monotonic seconds of that datagram.
        is_connected: the relay socket is connected to ``last``, and no other port is taken.
        are_several: every port of the address is taken; an answer goes to the port that has
            written to that target last.
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
        """Have the kernel drop datagrams that are not from *peer*, or not from its address."""
        if self._named == peer[1]:
            self._named = 0
        if self._is_fixed and not self._named:
            self.is_connected = connect_quietly(self._relay, peer)
        elif self.last is None:
            # Port 0 is every port of that address on Linux; other systems refuse it.
            connect_quietly(self._relay, (peer[0], 0) + peer[2:])


#: Errors that another address of the same name would give, too.
FOR_ALL_ADDRESSES = (errno.EMSGSIZE, errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS)


class NotSent(OSError):
    """A datagram was not sent; ``drop`` says why."""

    def __init__(self, drop: str) -> None:
        super().__init__(drop)
        self.drop = drop


class NotYet(NotSent):
    """All exits of a datagram failed a moment ago, and are tried again at *at*, monotonic."""

    def __init__(self, at: float) -> None:
        super().__init__(Drop.NOT_SENT)
        self.at = at


def drop_of(exc: OSError) -> str:
    """Return the ``Drop`` under which an unsent datagram is counted."""
    if isinstance(exc, NotSent):
        return exc.drop
    if exc.errno == errno.EMSGSIZE:
        return Drop.TOO_LARGE
    return Drop.NO_ROOM if exc.errno in FOR_ALL_ADDRESSES else Drop.NOT_SENT


def refuse(data: Any, drop: str) -> int:
    """Stand for the way of a target that is refused: raise ``NotSent`` with *drop*."""
    raise NotSent(drop)


def may_change(key: bytes, way: Way) -> bool:
    """Return whether *way* must be decided anew now and then: it is by name, or refused."""
    return key[3] == Atyp.DOMAINNAME or way[0] is refuse
