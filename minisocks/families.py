"""The system's resolver, asked for no family of addresses in vain."""

import _socket
import socket
from typing import Any, List

from minisocks.interfaces import only_family

__all__ = ["FAMILY_NAMES", "system_getaddrinfo"]

FAMILY_NAMES = {int(socket.AF_INET): "IPv4", int(socket.AF_INET6): "IPv6"}

#: The one that ``socket.getaddrinfo`` calls.  That makes a second list of what this returns, in
#: Python: of long answers, threads that are at it at the same time have two MiB each, and the
#: C library keeps those.
_getaddrinfo = getattr(_socket, "getaddrinfo", socket.getaddrinfo)

#: There is such a name, but no address of the family that was asked for.
_NO_DATA = getattr(socket, "EAI_NODATA", None)

#: What is called so, or ends so, is loopback, of which a host has both families (RFC 6761 section
#: 6.3; the others are in the hosts file of many systems).
_LOOPBACK = (b"localhost", b"localhost6", b"ip6-localhost", b"ip6-loopback")


def system_getaddrinfo(host: bytes, port: int, family: int, *how: int) -> List[Any]:
    """Ask the system's resolver; takes and returns what ``socket.getaddrinfo`` does.

    Where *family* is 0 and this host has addresses of one family only, no other is asked for: a
    name server that does not answer for one family makes each name take 15 s.  Waits; any thread.

    Raises:
        OSError, UnicodeError, LookupError: there is no such name, or that cannot be told.
    """
    is_loopback = host.lower().rstrip(b".").rpartition(b".")[2] in _LOOPBACK
    asked = family or (0 if is_loopback else only_family())
    try:
        rows: List[Any] = _getaddrinfo(host, port, asked, *how)
    except socket.gaierror as exc:
        if not asked or exc.errno != _NO_DATA:
            raise
        why = "it has no %s address" % FAMILY_NAMES[asked]
        if not family:
            why += ", and this host has none of another family to reach it from"
        raise socket.gaierror(exc.errno, why) from exc
    return rows
