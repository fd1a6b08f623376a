"""The IPv4 addresses that this host's interfaces have.  Linux; elsewhere none are known."""

import array
import socket
import struct
import sys
from typing import List, Tuple

__all__ = ["own_ipv4"]

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


def own_ipv4() -> List[Tuple[str, bytes]]:
    """Return interfaces with their addresses: a name and 4 bytes each.  Thread: any."""
    if not sys.platform.startswith("linux"):
        return []
    import fcntl

    room = array.array("B", bytes(MAX_ADDRESSES * _IFREQ_BYTES))
    question = struct.pack(_IFCONF, len(room), room.buffer_info()[0])
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            answer = fcntl.ioctl(sock, _SIOCGIFCONF, question)
    except OSError:
        return []  # no descriptor, or no IPv4
    found = []
    for start in range(0, struct.unpack(_IFCONF, answer)[0], _IFREQ_BYTES):
        row = room[start : start + _IFREQ_BYTES].tobytes()
        name = row[:_NAME_BYTES].split(b"\0")[0].decode("ascii", "replace")
        found.append((name, row[_ADDRESS]))
    return found
