"""The addresses that this host's interfaces have.  Linux; elsewhere none are known."""

import array
import os
import socket
import struct
import sys
from typing import List, Tuple

__all__ = ["only_family", "own_ipv4"]

_SIOCGIFCONF = 0x8912
#: ``struct ifconf``: room in bytes, and where it is.
_IFCONF = "iP"
#: ``struct ifreq``: a name, and the largest of what a union has, ``struct ifmap``.
_NAME_BYTES = 16
_IFREQ_BYTES = _NAME_BYTES + struct.calcsize("LLHBBB0L")
#: In it, of ``struct sockaddr_in``, the address behind family and port.
_ADDRESS = slice(_NAME_BYTES + 4, _NAME_BYTES + 8)
#: More are not looked at; they are only told to people.
MAX_ADDRESSES = 256

#: Lines of an address, an interface, the length of its network, a scope and more; where these
#: scopes are loopback's and link-local ones.
_IPV6_ADDRESSES = "/proc/net/if_inet6"
_OF_HOST_OR_LINK = ("10", "20")


def own_ipv4() -> List[Tuple[str, bytes]]:
    """Return interfaces with their addresses: a name and 4 bytes each.  Thread: any."""
    try:
        return _ipv4() if sys.platform.startswith("linux") else []
    except OSError:
        return []  # no descriptor, or no IPv4


def only_family() -> int:
    """Return the one family of which this host has addresses for other hosts; 0: both, or unknown.

    Loopback and link-local addresses are not counted.  Routes are not asked about: a network that
    has only fd00::/8 has no default route.  Thread: any.
    """
    if not sys.platform.startswith("linux"):
        return 0
    try:
        found = [socket.AF_INET] * _has_ipv4() + [socket.AF_INET6] * _has_ipv6()
    except OSError:
        return 0  # no descriptor, or no /proc
    return int(found[0]) if len(found) == 1 else 0


def _has_ipv4() -> bool:
    return any(ip[0] != 127 and ip[:2] != b"\xa9\xfe" for _name, ip in _ipv4())


def _has_ipv6() -> bool:
    try:
        with open(_IPV6_ADDRESSES, encoding="ascii") as file:
            return any(line.split()[3] not in _OF_HOST_OR_LINK for line in file)
    except FileNotFoundError:
        if os.path.exists(os.path.dirname(_IPV6_ADDRESSES)):
            return False  # the kernel has no IPv6
        raise


def _ipv4() -> List[Tuple[str, bytes]]:
    import fcntl

    room = array.array("B", bytes(MAX_ADDRESSES * _IFREQ_BYTES))
    question = struct.pack(_IFCONF, len(room), room.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, _SIOCGIFCONF, question)
    found = []
    for start in range(0, struct.unpack(_IFCONF, answer)[0], _IFREQ_BYTES):
        row = room[start : start + _IFREQ_BYTES].tobytes()
        name = row[:_NAME_BYTES].split(b"\0")[0].decode("ascii", "replace")
        found.append((name, row[_ADDRESS]))
    return found
