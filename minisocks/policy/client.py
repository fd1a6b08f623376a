"""Who connected to us: one object, made once at accept."""

import functools
from typing import Any, Optional, Tuple

from minisocks.policy.networks import LOOPBACK
from minisocks.wire import packed_ip, text_ip, unmapped

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

#: The groups that a client is in, the widest first; the last is its address.
Groups = Tuple[Any, ...]

#: The groups of a client on this host: all of its addresses and unix sockets are one client.
THIS_HOST: Groups = (b"",)

#: The groups of a client behind a forwarder: nothing tells it from the others there.
FORWARDED: Groups = (b"\0",)


class Client:
    """The client of one connection, as rules, limits and logs see it.

    They ask this object and never the socket, so that an address that arrives
    another way (a balancer's header, inetd) needs one change, here.

    Attributes:
        ip: 4 or 16 bytes; ``::ffff:a.b.c.d`` is a.b.c.d.  Empty for a client
            on a unix socket, which is on this host.  One byte, which is no address, for a
            client behind a forwarder.
        port: TCP port, behind a forwarder that one's; 0 on a unix socket.
        is_local: it is on this host: loopback or a unix socket.
        is_forwarded: it is behind a forwarder: a stranger from a public address, whatever the
            socket says.
        user: who gave the right password, or whom ident confirmed; None before that or
            without either.
        is_unproven: its user is only what its own host says, where others show passwords.
        key: what is one client for a limit of each client: this host, an address, or a /64.
            None: nothing tells what is one client, so no such limit holds.
        groups: the groups that it is in, for limits that clients share.
    """

    __slots__ = (
        "_scoped",
        "groups",
        "ip",
        "is_forwarded",
        "is_local",
        "is_unproven",
        "key",
        "port",
        "user",
    )

    def __init__(self, peer: Any, is_forwarded: bool = False) -> None:
        """Make one of *peer*, what ``accept`` returned as the address.

        Args:
            is_forwarded: the address is that of a forwarder (``--forwarded``).
        """
        self.user: Optional[bytes] = None
        self.is_unproven = False
        #: The text of an address that its bytes do not tell all of: fe80::7%eth0.
        self._scoped: Optional[str] = None
        self.is_forwarded = is_forwarded
        self.key: Optional[bytes]
        self.groups: Groups
        if is_forwarded:
            self.ip, self.port = FORWARDED[0], peer[1] if isinstance(peer, tuple) else 0
            self.is_local = False
            self.key, self.groups = None, FORWARDED
            return
        if not isinstance(peer, tuple):
            self.ip, self.port = b"", 0
            self.is_local = True
            self.key, self.groups = THIS_HOST[0], THIS_HOST
            return
        host, self.port = peer[0], peer[1]
        ip = packed_ip(host)
        if ip is None:
            # Must not pass for a unix socket: that would open every door.
            raise ValueError("no address in %r" % (peer,))
        self.ip = ip = unmapped(ip)
        if len(ip) == 16 and "%" in host:
            self._scoped = host
        self.is_local = ip in LOOPBACK
        if self.is_local:
            self.key, self.groups = THIS_HOST[0], THIS_HOST
        else:
            # Kept: a connection asks eight times.
            self.key, self.groups = client_key(ip), groups_of(ip)

    @property
    def has_address(self) -> bool:
        """Whether it is known where it is: not on a unix socket, nor behind a forwarder."""
        return len(self.ip) > 1

    @property
    def alike(self) -> str:
        """Clients that have the same address, in the words of a sentence."""
        return "clients " + ("behind a forwarder" if self.is_forwarded else "from " + self.host)

    @property
    def host(self) -> str:
        """The address as text, made when asked for: a connection that is idle needs it no more."""
        if not self.has_address:
            return "forwarder" if self.is_forwarded else "unix"
        return self._scoped or text_ip(self.ip)

    @property
    def place(self) -> str:
        """Whose limits it comes under, as text: its address, of IPv6 the /64."""
        if len(self.ip) == 16:
            return text_ip(client_key(self.ip) + bytes(8)) + "/64"
        return self.host

    def __str__(self) -> str:
        """Return ``10.0.0.7:50122``, ``[2001:db8::7]:50122``, ``forwarder:50122`` or ``unix``."""
        if not self.port and not self.has_address:
            return self.host
        return ("[%s]:%d" if ":" in self.host else "%s:%d") % (self.host, self.port)


def client_key(ip: bytes) -> bytes:
    """Return whose an address is: one IPv6 client has a whole /64."""
    return ip[:8] if len(ip) == 16 else ip


@functools.lru_cache(maxsize=1024)  # one tuple for all connections of a client
def groups_of(ip: bytes) -> Groups:
    """Return the groups of an address: networks as providers give them to one client.

    IPv4: /16, /24, the address.  IPv6: /32, /40, /48, /56, /64, the address.  On one level,
    groups of the two families have different lengths, so that they never are the same.
    """
    if len(ip) == 4:
        return ip[:2], ip[:3], ip
    return ip[:4], ip[:5], ip[:6], ip[:7], ip[:8], ip


def group_text(groups: Groups, level: int) -> str:
    """Return the network that is one of the *groups* as text, of the last one the address."""
    group, length = groups[level], len(groups[-1])
    if not group:
        return "this host"
    if groups == FORWARDED:
        return "behind a forwarder"
    text = text_ip(group + bytes(length - len(group)))
    return text if len(group) == length else "%s/%d" % (text, 8 * len(group))


def is_client(groups: Groups) -> bool:
    """Return whether the last of *groups* is what is one client: an IPv4 address, an IPv6 /64."""
    return (len(groups), len(groups[-1])) in ((3, 4), (5, 8))


def site_of(groups: Groups) -> bytes:
    """Return the group that is likely to be one customer's network: IPv4 /24, IPv6 /48."""
    site: bytes = groups[len(groups) // 3]
    return site
