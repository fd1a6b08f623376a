"""From which ports of its address a client sends datagrams."""

import socket
from typing import Any

from minisocks.net.ports import connect_quietly
from minisocks.wire import packed_ip, unmapped

__all__ = ["ClientPorts"]

#: A NAT forgets the port of a client whose datagrams had no answer for so long (conntrack).
SILENCE_SECONDS = 30.0


class ClientPorts:
    """Says which datagrams to a relay socket are the client's.

    A class because what is taken depends on what was taken before.  Loop thread.

    Args:
        relay: the relay socket.  It is connected, so that the kernel keeps out what would
            never be taken.
        ip: the address that the client's TCP connection comes from.
        named: the port that the request names, 0 for none.  It is a hint, until a datagram
            comes from it: clients name the port of their target, too.
        wanted: ``--udp-clients``: same-port, any-port or auto.
        has_password: the client has shown a password: the port is all that tells its datagrams
            from those of other programs at its address.

    Attributes:
        last: the sockaddr that has written last; None before the first datagram.
        heard: when that was, monotonic.
        is_connected: the relay socket is, to ``last``: nothing else is taken any more.
        are_several: datagrams from every port of the address are taken, so that an answer goes
            to the port that has written to that target last.
    """

    __slots__ = ("_ip", "_is_fixed", "_named", "_relay", "are_several", "heard", "is_connected",
                 "last")  # fmt: skip

    def __init__(
        self, relay: socket.socket, ip: bytes, named: int, wanted: str, has_password: bool
    ) -> None:
        self._relay = relay
        self._ip = ip
        self._named = named
        self._is_fixed = wanted == "same-port" or (wanted == "auto" and has_password)
        self.is_connected = False
        self.are_several = wanted == "any-port"
        self.heard = 0.0
        self.last: Any = None

    def take(self, peer: Any, now: float) -> bool:
        """Return whether a datagram from *peer*, which is not ``last``, is the client's."""
        if unmapped(packed_ip(peer[0]) or b"") != self._ip:
            return False
        if self.last is None or peer[1] == self._named != 0:
            self._connect(peer)
        elif not self.are_several:
            if self._is_fixed or now - self.heard < SILENCE_SECONDS:
                return False
            self.are_several = True
        self.last, self.heard = peer, now
        return True

    def _connect(self, peer: Any) -> None:
        """Have the kernel keep out what *peer* leaves to keep out."""
        if self._named == peer[1]:
            self._named = 0
        if self._is_fixed and not self._named:
            self.is_connected = connect_quietly(self._relay, peer)
        elif self.last is None:
            # Port 0 is every port of that address on Linux; other systems refuse it.
            connect_quietly(self._relay, (peer[0], 0) + peer[2:])
