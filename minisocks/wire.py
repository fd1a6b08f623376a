"""Names and numbers of the protocols, spelled as their documents spell them.

RFC 1928 (SOCKS5), RFC 1929 (username/password), and the SOCKS4 and SOCKS4a memos.  All other
modules take their numbers from here.  Pure.
"""

import enum
import re
import socket
from typing import Any, NamedTuple, Optional

from minisocks.quoting import MOST_TOLD, quoted

__all__ = [
    "Address",
    "Atyp",
    "Cd",
    "Cmd",
    "LOOK_UPS",
    "Method",
    "Rep",
    "Ver",
    "as_text",
    "is_host_name",
    "packed_ip",
    "plain_ip",
    "scope_of",
    "text_ip",
    "unmapped",
]

#: Prefix of an IPv4 address in IPv6: ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2).
MAPPED_PREFIX = b"\0" * 10 + b"\xff\xff"

#: Longest USERID, DOMAIN (SOCKS4a), UNAME, PASSWD and DST.ADDR name, in bytes.  SOCKS5 has one
#: byte for the length; the SOCKS4 memos set no limit.
MAX_FIELD_BYTES = 255

_HOST_NAME = re.compile(rb"[A-Za-z0-9._-]{1,255}\Z")


class Ver(enum.IntEnum):
    """VER, the first byte a client sends."""

    SOCKS4 = 4
    SOCKS5 = 5


class Cmd(enum.IntEnum):
    """CMD of a request; SOCKS4 calls it CD and has the first two.

    The last two are Tor's (https://spec.torproject.org/socks-extensions): the address of a name,
    and the name of an address.
    """

    CONNECT = 1
    BIND = 2
    UDP_ASSOCIATE = 3
    RESOLVE = 0xF0
    RESOLVE_PTR = 0xF1


#: They open no connection, and are judged as a CONNECT to the same name or address.
LOOK_UPS = frozenset({Cmd.RESOLVE, Cmd.RESOLVE_PTR})


class Atyp(enum.IntEnum):
    """ATYP: the type of DST.ADDR or BND.ADDR."""

    IPV4 = 1
    DOMAINNAME = 3
    IPV6 = 4


class Method(enum.IntEnum):
    """METHOD of the SOCKS5 negotiation (RFC 1928 section 3)."""

    NO_AUTHENTICATION = 0x00
    USERNAME_PASSWORD = 0x02
    NO_ACCEPTABLE = 0xFF


class Cd(enum.IntEnum):
    """CD of a SOCKS4 reply."""

    GRANTED = 90
    REJECTED = 91
    NO_IDENTD = 92
    IDENTD_MISMATCH = 93


class Rep(enum.IntEnum):
    """REP of a SOCKS5 reply (RFC 1928 section 6)."""

    SUCCEEDED = 0x00
    GENERAL_FAILURE = 0x01
    NOT_ALLOWED = 0x02
    NETWORK_UNREACHABLE = 0x03
    HOST_UNREACHABLE = 0x04
    CONNECTION_REFUSED = 0x05
    TTL_EXPIRED = 0x06
    COMMAND_NOT_SUPPORTED = 0x07
    ADDRESS_TYPE_NOT_SUPPORTED = 0x08

    @classmethod
    def _missing_(cls, value: object) -> Any:
        """Return a member for a REP that no RFC has, which another proxy has sent."""
        if not isinstance(value, int) or not 0 <= value <= 0xFF:
            return None
        member = int.__new__(cls, value)
        member._name_, member._value_ = "REP_%02X" % value, value
        return member

    @property
    def phrase(self) -> str:
        """The words of the RFC for this reply, for logs."""
        return _PHRASES.get(self) or "REP 0x%02x" % self


_PHRASES = {
    Rep.SUCCEEDED: "succeeded",
    Rep.GENERAL_FAILURE: "general SOCKS server failure",
    Rep.NOT_ALLOWED: "connection not allowed by ruleset",
    Rep.NETWORK_UNREACHABLE: "network unreachable",
    Rep.HOST_UNREACHABLE: "host unreachable",
    Rep.CONNECTION_REFUSED: "connection refused",
    Rep.TTL_EXPIRED: "TTL expired",
    Rep.COMMAND_NOT_SUPPORTED: "command not supported",
    Rep.ADDRESS_TYPE_NOT_SUPPORTED: "address type not supported",
}


class Address(NamedTuple):
    """DST.ADDR and DST.PORT of a request.

    ``host`` is bytes, because a name goes to the resolver as it came.  A binary address is kept
    as its usual text, so ``b"127.0.0.1"`` means the same in both forms; ``atyp`` is the form.
    """

    host: bytes
    port: int
    atyp: int

    @classmethod
    def of_ip(cls, ip: bytes, port: int) -> "Address":
        """Return the address of 4 or 16 bytes; ``::ffff:a.b.c.d`` is a.b.c.d."""
        ip = _plain(ip)
        return cls(text_ip(ip).encode("ascii"), port, Atyp.IPV4 if len(ip) == 4 else Atyp.IPV6)

    @classmethod
    def of_name(cls, name: bytes, port: int) -> "Address":
        """Return the address for a name, which may be an IP address in any notation.

        ``[::1]``, as in a URL, is ::1, and ``::ffff:a.b.c.d`` is a.b.c.d.
        """
        if b":" in name:
            inner = name[1:-1] if name[:1] + name[-1:] == b"[]" else name
            ip = packed_ip(as_text(inner))
            if ip is not None:
                plain = _plain(ip)
                name = inner if plain is ip else text_ip(plain).encode("ascii")
        return cls(name, port, Atyp.DOMAINNAME)

    @property
    def is_any_peer(self) -> bool:
        """Whether it is literally 0.0.0.0 or ``::``: for BIND that means any peer."""
        return self.name in ("0.0.0.0", "::")

    @property
    def name(self) -> str:
        """``host`` as text that can be compared: a name in lower case, without a final dot."""
        text = as_text(self.host)
        if self.atyp != Atyp.DOMAINNAME:
            return text
        # ASCII letters only, because DNS ignores the case of no others (RFC 4343).
        return as_text(self.host.lower()).rstrip(".") or text

    def __str__(self) -> str:
        """Return text that is safe in a log line and not too long, whatever the client sent."""
        return self.told(MOST_TOLD)

    def told(self, most: int = MAX_FIELD_BYTES) -> str:
        """Return that text with at most *most* bytes of a name."""
        if self.atyp == Atyp.DOMAINNAME:
            return "%s:%d" % (quoted(self.host, most), self.port)
        shape = "[%s]:%d" if self.atyp == Atyp.IPV6 else "%s:%d"
        return shape % (self.host.decode("ascii"), self.port)


def as_text(data: bytes) -> str:
    """Return the bytes of a client as text; other than UTF-8 becomes surrogates (PEP 383)."""
    return data.decode("utf-8", "surrogateescape")


def is_host_name(name: bytes) -> bool:
    """Return whether *name* has the characters and the length of a name of a host."""
    return _HOST_NAME.match(name) is not None


def packed_ip(text: str) -> Optional[bytes]:
    """Return the 4 or 16 bytes of an address in its usual text form, else None.

    A scope (``fe80::1%eth0``) is ignored, because it names a link and not an address.
    """
    try:
        if ":" not in text:
            return socket.inet_pton(socket.AF_INET, text)
        return _packed_ipv6(text.partition("%")[0])
    except (OSError, ValueError):
        return None


def unmapped(ip: bytes) -> bytes:
    """Return the IPv4 address in ``::ffff:a.b.c.d``, else *ip*."""
    return ip[12:] if len(ip) == 16 and ip.startswith(MAPPED_PREFIX) else ip


def _plain(ip: bytes) -> bytes:
    """Return ``unmapped(ip)``, except for ``::ffff:0.0.0.0``.

    That does not mean any peer of a BIND, as 0.0.0.0 does.
    """
    plain = unmapped(ip)
    return plain if any(plain) else ip


def plain_ip(text: str) -> bytes:
    """Return the bytes of an address, ``unmapped``; empty if *text* is no address."""
    return unmapped(packed_ip(text) or b"")


def scope_of(sockaddr: Any) -> int:
    """Return the number of the link of the address in *sockaddr*; 0: none.

    The kernel ignores the scope of other than link-local addresses (RFC 4007 section 6), so
    decisions must ignore it, too: 2001:db8::1%7 is 2001:db8::1.
    """
    if len(sockaddr) < 4 or not sockaddr[3]:
        return 0
    first, second = (packed_ip(sockaddr[0]) or b"\0\0")[:2]
    is_of_link = (first, second & 0xC0) == (0xFE, 0x80) or (first == 0xFF and second & 15 in (1, 2))
    return int(sockaddr[3]) if is_of_link else 0


def text_ip(packed: bytes) -> str:
    """Return the usual text form of the 4 or 16 bytes of an address."""
    return socket.inet_ntoa(packed) if len(packed) == 4 else _text_ipv6(packed)


if socket.has_ipv6:

    def _packed_ipv6(text: str) -> bytes:
        return socket.inet_pton(socket.AF_INET6, text)

    def _text_ipv6(packed: bytes) -> str:
        return socket.inet_ntop(socket.AF_INET6, packed)

else:  # small systems build Python without IPv6; clients may still send IPv6 addresses
    import ipaddress

    def _packed_ipv6(text: str) -> bytes:
        return ipaddress.IPv6Address(text).packed

    def _text_ipv6(packed: bytes) -> str:
        return str(ipaddress.IPv6Address(packed))
