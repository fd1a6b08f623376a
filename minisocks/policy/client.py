"""The client of a connection: one object, made once at accept."""

import functools
from typing import Any, NamedTuple, Optional, Tuple

from minisocks.policy.networks import LOOPBACK
from minisocks.wire import plain_ip, text_ip

__all__ = [
    "FORWARDED",
    "THIS_HOST",
    "Client",
    "Groups",
    "group_text",
    "groups_of",
    "is_client",
    "client_key",
    "site_of",
]

#: The groups of a client, the widest first; the last is its address.
Groups = Tuple[Any, ...]

#: The groups of a client on this host: all its addresses and unix sockets are one client.
THIS_HOST: Groups = (b"",)

#: The groups of a client behind a forwarder: nothing distinguishes it from the others there.
FORWARDED: Groups = (b"\0",)


class Listener(NamedTuple):
    """An address that clients connect to.  In a rule, no ``ip`` is any; ``path``: a unix socket."""

    ip: bytes
    port: int
    path: str = ""

    @classmethod
    def of(cls, sockaddr: Any) -> "Listener":
        """Return that of *sockaddr*, what ``getsockname`` of a connection returns."""
        if not isinstance(sockaddr, tuple):
            return cls(b"", 0, str(sockaddr))
        return cls(plain_ip(sockaddr[0]), sockaddr[1])


class Client:
    """The client of one connection, as rules, limits and logs know it.

    They never ask the socket, so only this class would change if an address arrived another way
    (in the header of a balancer).

    Attributes:
        ip: 4 or 16 bytes; ``::ffff:a.b.c.d`` is a.b.c.d.  Empty for a client on a unix socket,
            which is on this host.  One byte, which is no address, for a client behind a
            forwarder.
        port: TCP port, that of the forwarder if there is one; 0 on a unix socket.
        is_local: it is on this host: loopback or a unix socket.
        is_forwarded: it is behind a forwarder, so it counts as a client from a public address.
        user: the user whose password was right, or that ident confirmed; None before that or
            without either.
        is_unproven: only ident names its user, though there are passwords.
        key: what one client is for limits by client: this host, an address, or a /64.  None:
            that cannot be known, so such limits do not apply.
        groups: its groups, for limits that clients share.
    """

    __slots__ = (
        "_scoped",
        "groups",
        "ip",
        "is_forwarded",
        "is_local",
        "is_unproven",
        "key",
        "listener",
        "port",
        "user",
    )

    def __init__(self, peer: Any, is_forwarded: bool = False) -> None:
        """Make the client of *peer*, the address that ``accept`` returned.

        Args:
            is_forwarded: the address is that of a forwarder (``--forwarded``).

        Raises:
            ValueError: *peer* has no IP address.
        """
        self.user: Optional[bytes] = None
        self.is_unproven = False
        #: The address that it has connected to, as the rules compare it; None: no rule asks.
        self.listener: Optional[Listener] = None
        #: The text of an address with a scope: fe80::7%eth0.
        self._scoped: Optional[str] = None
        self.is_forwarded = is_forwarded
        self.port = peer[1] if isinstance(peer, tuple) else 0
        if is_forwarded:
            self.ip, self.groups = FORWARDED[0], FORWARDED
        elif not isinstance(peer, tuple):
            self.ip, self.groups = b"", THIS_HOST
        else:
            self.ip = plain_ip(peer[0])
            if not self.ip:
                # Must not count as a unix socket, because those clients are trusted.
                raise ValueError("no address in %r" % (peer,))
            if len(self.ip) == 16 and "%" in peer[0]:
                self._scoped = peer[0]
            self.groups = groups_of(self.ip)
        self.is_local = self.groups == THIS_HOST
        # Kept, because a connection asks eight times.
        self.key = None if is_forwarded else THIS_HOST[0] if self.is_local else client_key(self.ip)

    @property
    def has_address(self) -> bool:
        """Whether its address is known: not on a unix socket, nor behind a forwarder."""
        return len(self.ip) > 1

    @property
    def alike(self) -> str:
        """The words for all clients with its address, for a sentence."""
        return "clients " + ("behind a forwarder" if self.is_forwarded else "from " + self.host)

    @property
    def host(self) -> str:
        """The address as text; not kept, to save the memory of idle connections."""
        if not self.has_address:
            return "forwarder" if self.is_forwarded else "unix"
        return self._scoped or text_ip(self.ip)

    @property
    def place(self) -> str:
        """What counts as one client, as text: its IPv4 address, or its IPv6 /64."""
        if len(self.ip) == 16:
            return text_ip(client_key(self.ip) + bytes(8)) + "/64"
        return self.host

    def __str__(self) -> str:
        """Return ``10.0.0.7:50122``, ``[2001:db8::7]:50122``, ``forwarder:50122`` or ``unix``."""
        if not self.port and not self.has_address:
            return self.host
        return ("[%s]:%d" if ":" in self.host else "%s:%d") % (self.host, self.port)


def client_key(ip: bytes) -> bytes:
    """Return what identifies a client by its address: an IPv6 client has a whole /64."""
    return ip[:8] if len(ip) == 16 else ip


@functools.lru_cache(maxsize=1024)  # one tuple for all connections of a client
def groups_of(ip: bytes) -> Groups:
    """Return the groups of an address: ``THIS_HOST``, or networks as providers assign them.

    IPv4: /16, /24, the address.  IPv6: /32, /40, /48, /56, /64, the address.  On each level the
    groups of the two families have different lengths, so they are never equal.
    """
    if ip in LOOPBACK:
        return THIS_HOST
    if len(ip) == 4:
        return ip[:2], ip[:3], ip
    return ip[:4], ip[:5], ip[:6], ip[:7], ip[:8], ip


def group_text(groups: Groups, level: int) -> str:
    """Return one of the *groups* as text: a network, or the address on the last level."""
    group, length = groups[level], len(groups[-1])
    if not group:
        return "this host"
    if groups == FORWARDED:
        return "behind a forwarder"
    text = text_ip(group + bytes(length - len(group)))
    return text if len(group) == length else "%s/%d" % (text, 8 * len(group))


def is_client(groups: Groups) -> bool:
    """Return whether the last of *groups* is one client: an IPv4 address or an IPv6 /64."""
    return (len(groups), len(groups[-1])) in ((3, 4), (5, 8))


def site_of(groups: Groups) -> bytes:
    """Return the group that is probably the network of one customer: IPv4 /24, IPv6 /48."""
    site: bytes = groups[len(groups) // 3]
    return site
