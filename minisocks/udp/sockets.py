"""The sockets of an association beside its relay socket: to targets, and to relays of hops."""

import socket
from typing import Any, Callable, Optional, Tuple

from minisocks.compat import close_quietly
from minisocks.exits.hops import egress_of
from minisocks.policy.exits import Exit
from minisocks.udp.table import AssociationTable

__all__ = ["SocketKey", "Sockets", "key_of", "open_socket"]

#: Which socket: the bytes of the addresses that it is for, 4 or 16, or 0 for the relay of a hop;
#: and the name of the exit, empty for none.
SocketKey = Tuple[int, str]
#: Those without an exit, which most associations have.
_PLAIN = {4: (4, ""), 16: (16, "")}


class Sockets:
    """What the exits of an association need of it.

    Args:
        add: takes a socket over, and reads it from then on.
        close: closes one: at once, or at the end of the round.
        ours: returns the sockaddr that the client has connected to.
        used: returns monotonic seconds of the last datagram.
    """

    __slots__ = ("add", "close", "ours", "used")

    def __init__(
        self,
        add: Callable[[SocketKey, Any], None],
        close: Callable[[SocketKey, bool], None],
        ours: Callable[[], Any],
        used: Callable[[], float],
    ) -> None:
        self.add = add
        self.close = close
        self.ours = ours
        self.used = used


def key_of(size: int, exit: Optional[Exit]) -> SocketKey:
    """Return the key of the socket for addresses of *size* bytes, by *exit*."""
    return _PLAIN[size] if exit is None else (size, exit.name)


def open_socket(
    table: AssociationTable, size: int, exit: Optional[Exit], ours: Callable[[], Any]
) -> socket.socket:
    """Return a new socket for targets whose address has *size* bytes, 4 or 16, by *exit*.

    Raises:
        DialError, OSError: it cannot be opened.
    """
    family = socket.AF_INET if size == 4 else socket.AF_INET6
    sock = table.ports.new_socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        egress = table.access.egress
        (egress if exit is None else egress_of(exit, egress, ours())).prepare(sock)
    except BaseException:
        close_quietly(sock)
        raise
    return sock
