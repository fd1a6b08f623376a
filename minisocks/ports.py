"""Sockets that clients of a proxy send to: where they are, and where they seem to be."""

import errno
import os
import socket
from typing import Any, Callable, Iterable, Optional, Set, Tuple

from minisocks.client import Client
from minisocks.compat import CAPACITY_ERRORS, close_quietly
from minisocks.errors import DialError, LimitReached
from minisocks.settings import Config
from minisocks.values import PortRange
from minisocks.wire import Address, Atyp, Rep, packed_ip, text_ip, unmapped

__all__ = ["Ports", "public_address"]

#: So many ports of a range that others have are tried; ours are known.
MAX_TRIES = 64

#: Made non-blocking with the same system call, where that can be.
_NONBLOCK = getattr(socket, "SOCK_NONBLOCK", 0)


class Ports:
    """Opens them, each with a port of its own, of a range where there is one.

    A class because it remembers which ports of the range it has.  Loop thread.

    Args:
        option: what set the range, for who is told that it is used up.
        make_room: called when there is no descriptor; whether it has closed some.
    """

    def __init__(self, option: str, make_room: Callable[[], bool] = lambda: False) -> None:
        self._option = option
        self._make_room = make_room
        self._range: Optional[PortRange] = None
        self._used: Set[Tuple[bytes, int]] = set()

    def change(self, text: str) -> None:
        """Take ports of the range *text* from now on; "": any."""
        self._range = PortRange.parse(self._option, text) if text else None

    @property
    def count(self) -> Optional[int]:
        """How many ports the range has; None: any port will do."""
        return None if self._range is None else self._range.high - self._range.low + 1

    def __str__(self) -> str:
        return str(self._range or "")

    def open(self, kind: int, reached: Any) -> Tuple[socket.socket, bytes]:
        """Open a socket on the address that a client has reached; return it and that address.

        Args:
            kind: SOCK_DGRAM or SOCK_STREAM.
            reached: the sockaddr of our end of the client's connection.

        Raises:
            LimitReached: the range has no free port.
            DialError: there can be no socket there.
        """
        ip = unmapped(packed_ip(reached[0]) or b"")
        if len(ip) == 4:
            sockaddr: Tuple[Any, ...] = (text_ip(ip),)
            family, rest = socket.AF_INET, ()
        else:
            # With its scope: a link-local address is one only with that.
            sockaddr, family, rest = (reached[0].partition("%")[0],), socket.AF_INET6, reached[2:]
        try:
            sock = self.new_socket(family, kind)
            try:
                self._bind(sock, ip, sockaddr, rest)
            except BaseException:
                close_quietly(sock)
                raise
        except OSError as exc:
            why = "no socket for the client's datagrams: %s" % (exc.strerror or exc)
            raise DialError(why, Rep.GENERAL_FAILURE) from exc
        return sock, ip

    def new_socket(self, family: int, kind: int) -> socket.socket:
        """Return a socket that does not block.

        Raises:
            OSError: there can be none.
        """
        try:
            sock = socket.socket(family, kind | _NONBLOCK)
        except OSError as exc:
            if exc.errno not in CAPACITY_ERRORS or not self._make_room():
                raise
            sock = socket.socket(family, kind | _NONBLOCK)
        sock.setblocking(False)
        return sock

    def closed(self, ip: bytes, port: int) -> None:
        """Take note that one of them is closed."""
        self._used.discard((ip, port))

    def _bind(
        self, sock: socket.socket, ip: bytes, host: Tuple[Any, ...], rest: Tuple[Any, ...]
    ) -> None:
        if self._range is None:
            sock.bind(host + (0,) + rest)
            return
        low, high = self._range
        count, tries = high - low + 1, 0
        # From anywhere: a port that was somebody's a moment ago may still be written to.
        first = int.from_bytes(os.urandom(4), "big") % count
        for step in range(count):
            port = low + (first + step) % count
            if (ip, port) in self._used:
                continue
            tries += 1
            if tries > MAX_TRIES:
                break
            try:
                sock.bind(host + (port,) + rest)
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE:
                    raise
            else:
                self._used.add((ip, port))
                return
        raise LimitReached("no port is free (%s %s)" % (self._option, self._range))


def connect_quietly(sock: socket.socket, peer: Any) -> None:
    """Have the kernel take datagrams from *peer* only; where it cannot, we ourselves look."""
    try:
        sock.connect(peer)
    except OSError:
        pass  # there is no way to it, for now


def public_address(config: Config, ip: bytes, client: Client) -> bytes:
    """Return the address that *client* is told instead of ours, *ip*."""
    known: Iterable[Optional[bytes]] = ()
    if not client.is_local and client.ip != ip:  # else nothing is in between
        known = map(packed_ip, config.public_address)
    return next((public for public in known if public and len(public) == len(ip)), ip)


def address_of(ip: bytes, port: int) -> Address:
    """Return the 4 or 16 bytes of an address, and a port, as one."""
    return Address(text_ip(ip).encode(), port, Atyp.IPV4 if len(ip) == 4 else Atyp.IPV6)
