"""Sets of networks, the IPv4 forms of addresses, and which addresses of a name count.  Pure.

Own tables instead of ``ipaddress.is_private``, which changed its meaning in maintenance releases
of Python: an update of Python must not change which clients are admitted.  Addresses are 4 or 16
bytes.
"""

import socket
from typing import Any, Dict, Iterable, List, NamedTuple, Set, Tuple

from minisocks.errors import DialError
from minisocks.wire import MAPPED_PREFIX, Rep, Ver, packed_ip, plain_ip, text_ip

__all__ = [
    "InRange",
    "LINK_LOCAL",
    "LOOPBACK",
    "MAX_ADDRESSES",
    "METADATA",
    "MULTICAST",
    "NOT_PUBLIC",
    "Networks",
    "PRIVATE",
    "RESERVED",
    "Row",
    "Sockaddr",
    "UNSPECIFIED",
    "disguises",
    "first_addresses",
    "of_peers",
    "parse_networks",
]

#: One network: size of an address in bytes, free bits, and its other bits as a number.
Row = Tuple[int, int, int]


class InRange(NamedTuple):
    """A ``Row`` that is part of a range; a range names no single address."""

    size: int
    shift: int
    prefix: int


class Networks:
    """An immutable set of networks; ``ip in networks`` asks it.

    It takes one look for each length of prefix, however many networks there are.
    """

    __slots__ = ("name", "rows4", "rows6")

    def __init__(self, name: str, cidrs: str = "", rows: Iterable[Row] = ()) -> None:
        """*cidrs* are networks such as ``10.0.0.0/8``, separated by blanks.

        Raises:
            ValueError: one of them is not valid.
        """
        self.name = name
        by_shift: Dict[Tuple[int, int], Set[int]] = {}
        for cidr in cidrs.split():
            rows = [*rows, *parse_networks(cidr)]
        for size, shift, prefix in rows:
            by_shift.setdefault((size, shift), set()).add(prefix)
        #: By family: the number of free bits, and the prefixes of such networks.
        self.rows4, self.rows6 = (
            tuple((s, frozenset(known)) for (n, s), known in sorted(by_shift.items()) if n == size)
            for size in (4, 16)
        )

    def __contains__(self, ip: bytes) -> bool:
        return self.holds(len(ip), int.from_bytes(ip, "big"))

    def holds(self, size: int, number: int) -> bool:
        """Return whether it contains the address of *size* bytes that form *number*."""
        for shift, prefixes in self.rows4 if size == 4 else self.rows6 if size == 16 else ():
            if number >> shift in prefixes:  # any() with a generator takes twice as long
                return True
        return False

    def rows(self) -> List[Row]:
        """Return its networks, for another set that includes them."""
        both = ((4, self.rows4), (16, self.rows6))
        return [(size, s, p) for size, rows in both for s, known in rows for p in known]

    def __bool__(self) -> bool:
        return bool(self.rows4 or self.rows6)

    def __repr__(self) -> str:
        return "Networks(%r)" % self.name


_WRITE_IT = "%.60s is no network; write it as 10.0.0.0/8, 10.0.0.7 or fd00::/8"


def parse_networks(text: str) -> List[Row]:
    """Return the networks of ``10.0.0.0/8``, ``10.0.0.7`` or ``10.0.0.7-10.0.0.9``.

    Raises:
        ValueError: *text* is none of these; the message is for people.
    """
    first, dash, last = text.partition("-")
    if dash and "/" not in text:
        return _range(_number(first, text), _number(last, text))
    host, slash, length = text.partition("/")
    size, number = _number(host, text)
    if not slash:
        return [(size, 0, number)]
    # Not str.isdigit, which accepts digits of other scripts.
    if not length or len(length) > 3 or any(c not in "0123456789" for c in length):
        raise ValueError(_WRITE_IT % text)
    shift = size * 8 - int(length)
    if shift < 0:
        raise ValueError("%s: a prefix has at most %d bits" % (text, size * 8))
    prefix = number >> shift
    if prefix << shift != number:
        right = text_ip((prefix << shift).to_bytes(size, "big"))
        sentence = "%s has bits behind its prefix; did you mean %s/%s?"
        raise ValueError(sentence % (text, right, length))
    return [(size, shift, prefix)]


def _number(text: str, whole: str) -> Tuple[int, int]:
    """Return the size of the address *text*, a part of *whole*, and its bytes as a number.

    Raises:
        ValueError: it is no address in its usual form.
    """
    ip = None if "%" in text else packed_ip(text)
    if ip is None:
        raise ValueError(_WRITE_IT % whole)
    if len(ip) == 16 and ip.startswith(MAPPED_PREFIX):
        raise ValueError("%s is an IPv4 address: write %s" % (text, text_ip(ip[12:])))
    return len(ip), int.from_bytes(ip, "big")


def _range(first: Tuple[int, int], last: Tuple[int, int]) -> List[Row]:
    """Return the networks that cover the addresses from *first* to *last* exactly."""
    (size, number), (other_size, end) = first, last
    if size != other_size or number > end:
        raise ValueError("a range goes from a lower to a higher address of its family")
    if number == end:
        return [(size, 0, number)]
    rows: List[Row] = []
    while number <= end:
        # The largest network that begins here and does not exceed the end.
        free = (number & -number).bit_length() - 1 if number else size * 8
        free = min(free, (end - number + 1).bit_length() - 1)
        rows.append(InRange(size, free, number >> free))
        number += 1 << free
    return rows


#: This host itself.
LOOPBACK = Networks("loopback", "127.0.0.0/8 ::1/128")
#: "This network" (RFC 1122 3.2.1.3): Linux connects 0.0.0.0 and :: to itself.
UNSPECIFIED = Networks("unspecified", "0.0.0.0/8 ::/128")
LINK_LOCAL = Networks("linklocal", "169.254.0.0/16 fe80::/10")
#: Addresses where cloud providers give the credentials of a machine to every program that
#: connects.  Single addresses, from the provider's document or program; all but 168.63.129.16
#: are in other sets, too.
METADATA = Networks(
    "metadata",
    # AWS, "Access instance metadata for an EC2 instance"; the IPv4 address also by Google, "About
    # VM metadata"; Azure, "Azure Instance Metadata Service"; Oracle, "Getting Instance Metadata";
    # OpenStack, "Metadata service"; DigitalOcean, Hetzner, IBM, Huawei, UpCloud, Vultr and others.
    "169.254.169.254 fd00:ec2::254 "
    # AWS, "Amazon ECS task IAM role"; "Set up the Amazon EKS Pod Identity Agent".
    "169.254.170.2 169.254.170.23 fd00:ec2::23 "
    # Google, "About VM metadata" (IPv6 only); GKE's "metadata server" on each of its nodes.
    "fd20:ce::254 169.254.169.252 "
    # Azure, "What is IP address 168.63.129.16?"
    "168.63.129.16 "
    # Oracle's SDK for Python, instance principals; "Retrieve Predefined Instance Metadata".
    "fd00:c1::a9fe:a9fe 192.0.0.192 "
    # OpenStack Nova, "Metadata service"; Akamai, "Use the Metadata service API" has both.
    "fe80::a9fe:a9fe fd00:a9fe:a9fe::1 "
    # Scaleway, as cloud-init's document "Scaleway" has them.
    "169.254.42.42 fd00:42::42 "
    # Alibaba Cloud, "Instance metadata"; for IPv6 cloud-init's data source "AliYun".
    "100.100.100.200 fd00:100::100:200 "
    # Tencent Cloud, "Querying Instance Metadata": metadata.tencentyun.com.
    "169.254.0.23 "
    # UCloud, "metadata-server"; Volcano Engine, the credentials of its container network Cello.
    "100.80.80.80 100.96.0.96",
)
#: RFC 1918, RFC 6598 (carrier NAT), RFC 4193, and the old site-local range.
PRIVATE = Networks(
    "private", "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 fc00::/7 fec0::/10"
)
#: Neither public nor private by the RFCs: RFC 1112 section 4 (class E, which Linux connects to),
#: RFC 2544 (benchmarks), RFC 6890 (protocol assignments, as between a router and DS-Lite of its
#: provider).  A client from there is trusted like one from a public address.
RESERVED = Networks("reserved", "240.0.0.0/4 198.18.0.0/15 192.0.0.0/24")
#: RFC 5771, RFC 4291 section 2.7, and the broadcast address.
MULTICAST = Networks("multicast", "224.0.0.0/4 255.255.255.255/32 ff00::/8")
#: An address that is in none of these is public.  Messages name the first that contains it.
NOT_PUBLIC = (METADATA, LINK_LOCAL, LOOPBACK, MULTICAST, PRIVATE, RESERVED, UNSPECIFIED)

_ZERO16 = b"\0" * 16
_LOOPBACK4, _LOOPBACK6 = b"\x7f\0\0\1", _ZERO16[:15] + b"\1"
_TRANSLATED = b"\0" * 8 + b"\xff\xff\0\0"  # ::ffff:0:a.b.c.d, RFC 2765
_NAT64 = b"\0\x64\xff\x9b" + b"\0" * 8  # 64:ff9b::/96, RFC 6052
_NAT64_LOCAL = _NAT64[:4] + b"\0\1"  # 64:ff9b:1::/48, RFC 8215
_6TO4 = b"\x20\x02"  # 2002:a.b.c.d::, RFC 3056
_TEREDO = b"\x20\x01\0\0"  # RFC 4380: server, and the client with its bits flipped
_ISATAP = (b"\0\0\x5e\xfe", b"\x02\0\x5e\xfe")  # RFC 5214, any prefix


def disguises(ip: bytes) -> Iterable[bytes]:
    """Yield *ip* and every IPv4 address that it may stand for.

    A rule that denies one of them denies *ip*, because this host, its kernel or a gateway may
    unwrap the address.
    """
    yield ip
    for inner in (ip,) if len(ip) == 4 else _ipv4_within(ip):
        if inner != ip:
            yield inner
        if not inner[0]:
            yield _LOOPBACK4  # 0.0.0.0, and what is like it, is this host
    if ip == _ZERO16:
        yield _LOOPBACK6


def _ipv4_within(ip: bytes) -> Iterable[bytes]:
    last = ip[12:]
    if ip[:12] in (MAPPED_PREFIX, _TRANSLATED, _NAT64) or ip[8:12] in _ISATAP:
        yield last
    if ip[:12] == _ZERO16[:12] and last not in (b"\0\0\0\0", b"\0\0\0\1"):
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
    """Return the IPv4 address by RFC 6052 section 2.2 for /48, /56, /64, /96."""
    parts = [ip[6:8] + ip[9:11], ip[7:8] + ip[9:12], ip[9:13], ip[12:]]
    # The wrong ones of the four are mostly zeros and would mean 0.0.0.0.
    return [part for part in parts if part[0]] or parts


#: Family, and the argument of ``connect``.
Sockaddr = Tuple[int, Any]

#: Addresses of one name that are used, an even number.  A name server may return 4000 by TCP,
#: which would slow down every later step.
MAX_ADDRESSES = 64


def first_addresses(rows: Iterable[Any]) -> List[Sockaddr]:
    """Return the first 64 different IPv4 and IPv6 addresses of *rows*, in their order.

    ``::ffff:a.b.c.d`` becomes the IPv4 address, because no IPv6 packet goes there.  Each family
    has its first 32 and what the other leaves, so many addresses of one family do not displace
    the other.  Any thread.

    Args:
        rows: the result of ``getaddrinfo``.
    """
    found: Dict[Sockaddr, int] = {}  # its number in its family, from 1
    counts = {int(socket.AF_INET): 0, int(socket.AF_INET6): 0}
    for family, _type, _proto, _name, sockaddr in rows:
        # Compared as the C library writes it, because it takes long to parse 4000 addresses.
        if family == socket.AF_INET6 and str(sockaddr[0]).startswith("::ffff:"):
            plain = text_ip(plain_ip(sockaddr[0]))
            if ":" not in plain:
                family, sockaddr = socket.AF_INET, (plain, sockaddr[1])
        if counts.get(family, MAX_ADDRESSES) == MAX_ADDRESSES or (family, sockaddr) in found:
            continue
        # Python without IPv6 returns bytes for an IPv6 address.
        if isinstance(sockaddr[0], str):
            counts[family] += 1
            found[family, sockaddr] = counts[family]
    last = sorted(found.values())[:MAX_ADDRESSES][-1:]
    # At most MAX_ADDRESSES have such a number: it is even, and each number is there twice.
    return [address for address, number in found.items() if [number] <= last]


def of_peers(ver: int, addresses: List[Sockaddr]) -> List[Sockaddr]:
    """Return the *addresses* that a peer of BIND by SOCKS *ver* may connect from.

    A reply of SOCKS4 cannot hold the address that an IPv6 peer would connect to.  An unspecified
    address that a name resolves to never means any peer.

    Raises:
        DialError: there are none.
    """
    may = [one for one in addresses if any(plain_ip(one[1][0]))]
    if ver == Ver.SOCKS4:
        may = [one for one in may if one[0] == socket.AF_INET]
    if not may:
        raise DialError("no address that a peer could connect from", Rep.HOST_UNREACHABLE)
    return may
