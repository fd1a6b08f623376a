"""The addresses that a name has: how many of them count, and for what."""

import socket
from typing import Any, Dict, Iterable, List, Tuple

from minisocks.errors import DialError
from minisocks.wire import Rep, Ver, plain_ip, text_ip

__all__ = ["MAX_ADDRESSES", "Sockaddr", "first_addresses", "of_peers"]

#: Family and what ``connect`` takes.
Sockaddr = Tuple[int, Any]

#: Addresses of one name, an even number: a name server may answer with 4000 by TCP, and all
#: that looks at them later would take as long.
MAX_ADDRESSES = 64


def first_addresses(rows: Iterable[Any]) -> List[Sockaddr]:
    """Return the different IPv4 and IPv6 addresses among the first *rows*, in their order.

    ``::ffff:a.b.c.d`` is the IPv4 address a.b.c.d: no packet of IPv6 goes there, and the system
    may have none.  At most 64.  Of more, each family keeps its first 32 and what the other one
    leaves: an answer full of one family hides no address of the other.  Any thread.

    Args:
        rows: what ``getaddrinfo`` returns.
    """
    found: Dict[Sockaddr, int] = {}  # which of its family it is, from 1
    counts = {int(socket.AF_INET): 0, int(socket.AF_INET6): 0}
    for family, _type, _proto, _name, sockaddr in rows:
        # As the C library writes it: to parse all would take long, for there may be 4000.
        if family == socket.AF_INET6 and str(sockaddr[0]).startswith("::ffff:"):
            plain = text_ip(plain_ip(sockaddr[0]))
            if ":" not in plain:
                family, sockaddr = socket.AF_INET, (plain, sockaddr[1])
        if counts.get(family, MAX_ADDRESSES) == MAX_ADDRESSES or (family, sockaddr) in found:
            continue
        # A Python built without IPv6 has bytes instead of an address.
        if isinstance(sockaddr[0], str):
            counts[family] += 1
            found[family, sockaddr] = counts[family]
    last = sorted(found.values())[:MAX_ADDRESSES][-1:]
    # As many are there as are told, because their number is even and families go in pairs.
    return [address for address, number in found.items() if [number] <= last]


def of_peers(ver: int, addresses: List[Sockaddr]) -> List[Sockaddr]:
    """Return those of *addresses* that a peer of BIND by SOCKS *ver* may connect from.

    A reply of SOCKS4 has no room for the address that an IPv6 peer would connect to.  What a
    name resolves to, or is but another spelling of, never means any peer.

    Raises:
        DialError: none.
    """
    may = [one for one in addresses if any(plain_ip(one[1][0]))]
    if ver == Ver.SOCKS4:
        may = [one for one in may if one[0] == socket.AF_INET]
    if not may:
        raise DialError("no address that a peer could connect from", Rep.HOST_UNREACHABLE)
    return may
