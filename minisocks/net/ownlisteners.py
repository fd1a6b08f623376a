"""Where this proxy itself listens: no client of it, wherever it is, is connected there.

A client that is connected to the proxy by the proxy is one on this host from then on: no
rule's ``from``, limit, penalty or log line would meet it, and each level of a thousand takes
more descriptors.  So this holds whatever the rules say.

Ports of BIND and sockets of associations are no listeners in this sense, nor are those of
another ``Proxy`` in the same program: proxies may be chained.  A unix socket is none that a
request can name.
"""

import socket
import threading
from typing import Any, Dict, NamedTuple, Tuple

from minisocks.net.ownaddress import OwnAddresses
from minisocks.policy.networks import disguises
from minisocks.wire import plain_ip

__all__ = ["OwnListeners"]


class _Row(NamedTuple):
    """A listener: its address, and of which sizes it takes all addresses of this host."""

    sock: socket.socket
    ip: bytes
    sizes: Tuple[int, ...]


class OwnListeners:
    """The TCP listeners of one proxy, by port.  Any thread.

    A listener is in it from the time its server is made until it is closed, which it
    finds out by itself.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # for changes; the dict is replaced as a whole
        self._by_port: Dict[int, Tuple[_Row, ...]] = {}

    def add(self, sock: socket.socket) -> None:
        """Take note of *sock*, which is bound."""
        where: Any = sock.getsockname()
        if not isinstance(where, tuple):
            return
        ip = plain_ip(where[0])
        row = _Row(sock, ip, () if any(ip) else _sizes(sock))
        with self._lock:
            rows = [known for kept in self._by_port.values() for known in kept]
            by_port: Dict[int, Tuple[_Row, ...]] = {}
            for known in rows:
                if known.sock.fileno() >= 0 and known.sock is not sock:
                    port = known.sock.getsockname()[1]
                    by_port[port] = (*by_port.get(port, ()), known)
            by_port[where[1]] = (*by_port.get(where[1], ()), row)
            self._by_port = by_port

    def have(self, ip: bytes, port: int, own: OwnAddresses, scope: int = 0) -> bool:
        """Return whether a connection to *ip*, 4 or 16 bytes, and *port* would end at one.

        Args:
            own: asked only where a listener has the port and takes all addresses.
        """
        rows = self._by_port.get(port)
        return rows is not None and any(
            row.sock.fileno() >= 0 and _leads_to(row, form, own, scope if form == ip else 0)
            for row in rows
            for form in disguises(ip)
        )


def _leads_to(row: _Row, ip: bytes, own: OwnAddresses, scope: int) -> bool:
    if not any(ip) or ip in own.public or ip == row.ip:
        # 0.0.0.0 and :: are whatever address the connection comes from.
        return True
    return len(ip) in row.sizes and own(ip, scope) is not False


def _sizes(sock: socket.socket) -> Tuple[int, ...]:
    """Return the sizes of the addresses that a listener for all of them takes."""
    if sock.family == socket.AF_INET:
        return (4,)
    try:
        only = sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    except (OSError, AttributeError):
        only = 0  # in doubt both
    return (16,) if only else (4, 16)
