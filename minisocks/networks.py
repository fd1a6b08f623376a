"""Sets of networks, and every disguise of an IPv4 address in IPv6.

Own tables and not ``ipaddress.is_private``: that one changed its meaning within
Python's maintenance releases, and a proxy must not change whom it lets in with
a patch of the interpreter.  Addresses are 4 or 16 bytes.  Pure.
"""

from typing import Iterable, List, Tuple

from minisocks.wire import MAPPED_PREFIX, packed_ip

__all__ = ["LINK_LOCAL", "LOOPBACK", "METADATA", "PRIVATE", "UNSPECIFIED", "Networks", "disguises"]


class Networks:
    """An immutable set of networks; ``ip in networks`` asks it."""

    __slots__ = ("_rows", "name")

    def __init__(self, name: str, cidrs: str) -> None:
        """*cidrs* are networks such as ``10.0.0.0/8``, separated by blanks."""
        self.name = name
        self._rows = tuple(_parse_cidr(cidr) for cidr in cidrs.split())

    def __contains__(self, ip: bytes) -> bool:
        size, number = len(ip), int.from_bytes(ip, "big")
        for width, shift, prefix in self._rows:  # any() with a generator takes twice as long
            if size == width and number >> shift == prefix:
                return True
        return False

    def __repr__(self) -> str:
        return "Networks(%r)" % self.name


def _parse_cidr(cidr: str) -> Tuple[int, int, int]:
    host, _, length = cidr.partition("/")
    ip = packed_ip(host)
    if ip is None:
        raise ValueError("not a network: %r" % cidr)
    shift = len(ip) * 8 - int(length)
    return len(ip), shift, int.from_bytes(ip, "big") >> shift


#: This host itself.
LOOPBACK = Networks("loopback", "127.0.0.0/8 ::1/128")
#: "This network" (RFC 1122 3.2.1.3): Linux connects 0.0.0.0 and :: to itself.
UNSPECIFIED = Networks("unspecified", "0.0.0.0/8 ::/128")
LINK_LOCAL = Networks("linklocal", "169.254.0.0/16 fe80::/10")
#: Where cloud providers hand out a machine's credentials, as far as the
#: address is not link-local: AWS, Google, Alibaba, Oracle, Azure.
METADATA = Networks(
    "metadata",
    "fd00:ec2::254/128 fd20:ce::254/128 100.100.100.200/32 192.0.0.192/32 168.63.129.16/32",
)
#: RFC 1918, RFC 6598 (carrier NAT), RFC 4193, and the old site-local range.
PRIVATE = Networks(
    "private", "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 fc00::/7 fec0::/10"
)

_ZERO12 = b"\0" * 12
_TRANSLATED = b"\0" * 8 + b"\xff\xff\0\0"  # ::ffff:0:a.b.c.d, RFC 2765
_NAT64 = b"\0\x64\xff\x9b" + b"\0" * 8  # 64:ff9b::/96, RFC 6052
_NAT64_LOCAL = _NAT64[:4] + b"\0\1"  # 64:ff9b:1::/48, RFC 8215
_6TO4 = b"\x20\x02"  # 2002:a.b.c.d::, RFC 3056
_TEREDO = b"\x20\x01\0\0"  # RFC 4380: server, and the client with its bits flipped
_ISATAP = (b"\0\0\x5e\xfe", b"\x02\0\x5e\xfe")  # RFC 5214, any prefix


def disguises(ip: bytes) -> Iterable[bytes]:
    """Yield *ip* and every IPv4 address that it may stand for.

    A rule that denies one of them denies *ip*: whether the host, its kernel or
    a gateway unwraps the address is not for the client to choose.
    """
    yield ip
    if len(ip) != 16:
        return
    last = ip[12:]
    if ip[:12] in (MAPPED_PREFIX, _TRANSLATED, _NAT64) or ip[8:12] in _ISATAP:
        yield last
    if ip[:12] == _ZERO12 and last not in (b"\0\0\0\0", b"\0\0\0\1"):
        yield last  # ::a.b.c.d, deprecated; :: and ::1 are themselves
    if ip.startswith(_NAT64_LOCAL):
        for part in _rfc6052_positions(ip):
            yield part
    elif ip.startswith(_6TO4):
        yield ip[2:6]
    elif ip.startswith(_TEREDO):
        yield ip[4:8]
        yield bytes(b ^ 0xFF for b in last)


def _rfc6052_positions(ip: bytes) -> List[bytes]:
    """Where RFC 6052 section 2.2 puts the IPv4 address for /48, /56, /64, /96."""
    parts = [ip[6:8] + ip[9:11], ip[7:8] + ip[9:12], ip[9:13], ip[12:]]
    # The wrong ones of the four are mostly zeros, which would read as 0.0.0.0.
    return [part for part in parts if part[0]] or parts
