"""The addresses of a name: how many of them count, and which are usable.  Pure."""

import socket
from typing import Any, Dict, Iterable, List, Tuple

from minisocks.errors import DialError
from minisocks.wire import Rep, Ver, plain_ip, text_ip

__all__ = ["MAX_ADDRESSES", "Sockaddr", "first_addresses", "of_peers"]

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
