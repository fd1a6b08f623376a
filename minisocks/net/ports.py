"""Sockets for UDP and BIND: their ports, and the address that clients receive for them."""

import errno
import os
import socket
from typing import Any, Callable, Optional, Set, Tuple

from minisocks.compat import closed_on_error, set_up_listener
from minisocks.config.settings import Config
from minisocks.errors import DialError, LimitReached
from minisocks.net.capacity import with_room
from minisocks.policy.networks import LOOPBACK
from minisocks.quoting import reason_of
from minisocks.values import PortRange
from minisocks.wire import Rep, packed_ip, plain_ip, text_ip

__all__ = ["Ports", "public_address"]

#: Ports of a range that other programs may have and that are tried; ours are known.
MAX_TRIES = 64

#: Where there is such a flag, a socket is made non-blocking by the same system call.
_NONBLOCK = getattr(socket, "SOCK_NONBLOCK", 0)


class Ports:
    """Opens sockets, each with a port of its own: of a range, if one is set.  Loop thread.

    Args:
        option: the one that sets the range, for errors.
        make_room: called when there is no descriptor; returns whether it has closed one.
    """

    def __init__(self, option: str, make_room: Callable[[], bool] = lambda: False) -> None:
        self._option = option
        self._make_room = make_room
        self._range: Optional[PortRange] = None
        self._used: Set[Tuple[bytes, int]] = set()

    def change(self, text: str) -> None:
        """Use ports of the range *text* from now on; "": any."""
        self._range = PortRange.parse(self._option, text) if text else None

    @property
    def count(self) -> Optional[int]:
        """The number of ports in the range; None: there is no range."""
        return None if self._range is None else self._range.high - self._range.low + 1

    def __str__(self) -> str:
        return str(self._range or "")

    def open(
        self, kind: int, where: Any, prepare: Callable[[socket.socket], None] = lambda sock: None
    ) -> Tuple[socket.socket, bytes]:
        """Open a socket on an address of ours; return it and the address as bytes.

        Args:
            kind: SOCK_DGRAM; or SOCK_STREAM, which listens.
            where: the sockaddr of another socket of ours with that address.
            prepare: called with the socket before it is bound; may raise OSError.

        Raises:
            LimitReached: the range has no free port.
            DialError: the socket cannot be opened or bound.
        """
        ip = plain_ip(where[0])
        if len(ip) == 4:
            sockaddr: Tuple[Any, ...] = (text_ip(ip),)
            family, rest = socket.AF_INET, ()
        else:
            # With its scope, without which a link-local address is none.
            sockaddr, family, rest = (where[0].partition("%")[0],), socket.AF_INET6, where[2:]
        try:
            sock = self.new_socket(family, kind)
            with closed_on_error(sock):
                if kind == socket.SOCK_STREAM:
                    set_up_listener(sock)
                prepare(sock)
                self._bind(sock, ip, sockaddr, rest)
        except OSError as exc:
            why = "no socket on %s: %s" % (text_ip(ip), reason_of(exc))
            raise DialError(why, Rep.GENERAL_FAILURE) from exc
        return sock, ip

    def new_socket(self, family: int, kind: int) -> socket.socket:
        """Return a new socket that does not block.

        Raises:
            OSError: it cannot be opened.
        """
        sock = with_room(self._make_room, socket.socket, family, kind | _NONBLOCK)
        sock.setblocking(False)
        return sock

    def closed(self, ip: bytes, port: int) -> None:
        """Note that the socket with this address and port is closed."""
        self._used.discard((ip, port))

    def _bind(
        self, sock: socket.socket, ip: bytes, host: Tuple[Any, ...], rest: Tuple[Any, ...]
    ) -> None:
        if self._range is None:
            _bind_to(sock, host + (0,) + rest)
            return
        low, high = self._range
        count, tries = high - low + 1, 0
        # From a random one: peers may still send to a port that was closed a moment ago.
        first = int.from_bytes(os.urandom(4), "big") % count
        for step in range(count):
            port = low + (first + step) % count
            if (ip, port) in self._used:
                continue
            tries += 1
            if tries > MAX_TRIES:
                break
            try:
                _bind_to(sock, host + (port,) + rest)
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE:
                    raise
            else:
                self._used.add((ip, port))
                return
        raise LimitReached("no port is free (%s %s)" % (self._option, self._range))


def _bind_to(sock: socket.socket, sockaddr: Any) -> None:
    """Bind *sock*, and listen if it is for connections: only then the port surely is ours."""
    sock.bind(sockaddr)
    if sock.type & ~_NONBLOCK == socket.SOCK_STREAM:
        sock.listen(1)


def connect_quietly(sock: socket.socket, peer: Any) -> bool:
    """Have the kernel drop datagrams that are not from *peer*; return whether it does."""
    try:
        sock.connect(peer)
    except OSError:
        return False  # there is no route to it just now
    return True


def public_address(config: Config, ip: bytes, other: bytes) -> bytes:
    """Return the address that a client or peer at *other* receives instead of ours, *ip*.

    An empty *other* is any one on another host.
    """
    if ip in LOOPBACK or other in LOOPBACK or other == ip:
        return ip  # there is no NAT in between
    known = map(packed_ip, config.public_address)
    return next((public for public in known if public and len(public) == len(ip)), ip)
