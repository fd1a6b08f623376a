"""Whether an address is this host's own, as the kernel says (Linux: netlink, RTM_GETROUTE).

A connection to such an address comes in over loopback, past the firewall that protects this
host.  So the question is not which addresses interfaces have, but where the connection would
go: with the scope, and with ``--interface``, ``--mark`` and ``--source``.  An answer is kept until
the kernel reports that an address, a route, a rule or an interface has changed.  An answer may
be None, "in doubt", which is not a no.

Where there is no netlink, a UDP socket is connected instead, which sends nothing: to one of its
own addresses this host goes from that address.
"""

import errno
import os
import socket
import struct
import threading
from typing import Any, Dict, Iterable, Iterator, NamedTuple, Optional, Tuple

from minisocks.compat import CAPACITY_ERRORS
from minisocks.net.egress import Egress
from minisocks.net.netlink import ROUTE, Attribute, Netlink, attribute
from minisocks.policy.networks import disguises
from minisocks.wire import packed_ip, plain_ip, text_ip, unmapped

__all__ = ["KernelRoutes", "OwnAddresses", "OwnListeners"]

#: Most answers that are kept.
MAX_ANSWERS = 2048
#: Any port, because no packet is sent.
PROBE_PORT = 9

#: Errors of addresses to which there is no connection, so none to this host.  A blackhole gives
#: EINVAL, which is not among them, because a question that is not understood gives it, too.
_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES)
#: The question could not be asked now.
_IN_DOUBT = CAPACITY_ERRORS | {errno.EAGAIN, errno.EINTR, errno.EBADF}


class KernelRoutes:
    """The netlink sockets of each process, in the network namespace of the first question.

    They are opened at the first question, and again in a process that was forked since, because
    each report would reach only one of the two processes.  ``close`` it.  Any thread.
    """

    def __init__(self) -> None:
        self._by_process: Dict[int, Netlink] = {}
        self._has_netlink = hasattr(socket, "AF_NETLINK")
        self._is_closed = False

    def changes(self) -> Optional[int]:
        """Return the number of changes; None: unknown, or unknown now.

        Decisions that are kept hold while it stays the same.  Opens nothing: before the first
        question nothing has changed.
        """
        if not self._by_process:
            return 0 if self._has_netlink else None
        try:
            netlink = self._by_process.get(os.getpid())
            return None if netlink is None else netlink.answers().number
        except OSError:
            return None

    def netlink(self) -> Optional[Netlink]:
        """Return the sockets of this process; None: there is no netlink here.

        Raises:
            OSError: no descriptor, or it is closed.
        """
        netlink = self._by_process.get(os.getpid())
        if netlink is None and self._has_netlink:
            return self._opened()
        return netlink

    def _opened(self) -> Optional[Netlink]:
        if self._is_closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        try:
            mine = Netlink()
        except OSError as exc:
            if exc.errno in _IN_DOUBT:
                raise
            self._has_netlink = False  # a sandbox forbids it for good
            return None
        kept = self._by_process.setdefault(os.getpid(), mine)  # atomic: no lock survives a fork
        if kept is not mine or self._is_closed:
            mine.close()
        return kept

    def close(self) -> None:
        """Close the sockets; all answers are in doubt from now on."""
        self._is_closed = True
        for netlink in list(self._by_process.values()):
            netlink.close()

    def __enter__(self) -> "KernelRoutes":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _never_told() -> Optional[int]:
    return None


class OwnAddresses:
    """Says of an address whether a connection there would end on this host.  Any thread.

    Args:
        kernel: the caller closes it.
        egress: how the connection would leave.
        public: addresses, as text, that a NAT has for this host: they are ours, too.
    """

    def __init__(
        self,
        kernel: Optional[KernelRoutes] = None,
        egress: Optional[Egress] = None,
        public: Iterable[str] = (),
    ) -> None:
        self._kernel = kernel
        #: ``KernelRoutes.changes``.
        self.changes = _never_told if kernel is None else kernel.changes
        self._egress = egress or Egress()
        #: Addresses of a NAT for this host, as bytes.
        self.public = frozenset(unmapped(packed_ip(text) or b"") for text in public)

    def __call__(self, ip: bytes, scope: int = 0) -> Optional[bool]:
        """Return whether the 4 or 16 bytes of *ip* are ours now; None: in doubt.

        Args:
            scope: the number of the link of a link-local address; 0: unknown.
        """
        try:
            netlink = self._kernel.netlink() if self._kernel is not None else None
            if netlink is None:
                return self._ask(None, unmapped(ip), scope)
            answers = netlink.answers()
            own = answers.get((ip, scope, self))
            if own is None:
                own = self._ask(netlink, unmapped(ip), scope)
                if own is not None:
                    if len(answers) >= MAX_ANSWERS:
                        answers.clear()
                    answers[ip, scope, self] = own
            return own
        except OSError:
            return None

    def _ask(self, netlink: Optional[Netlink], ip: bytes, scope: int) -> Optional[bool]:
        if ip in self.public:
            return True
        if netlink is None:
            return self._by_connect(ip, scope)
        try:
            return any(self._answers_of(netlink, ip, scope))
        except OSError as exc:
            if exc.errno in _NO_WAY:
                return False
            if exc.errno in _IN_DOUBT:
                return None
        # A blackhole, an interface or a source that is not there, a kernel that does not
        # understand the question: a socket gives the same error as the connection would.
        return self._by_connect(ip, scope)

    def _answers_of(self, netlink: Netlink, ip: bytes, scope: int) -> Iterator[bool]:
        """Yield whether *ip* is ours, for each way in which the kernel may look up its route."""
        family = socket.AF_INET if len(ip) == 4 else socket.AF_INET6
        fixed = packed_ip(self._egress.sources.get(family, "")) or b""
        # Routing rules may depend on the protocol.
        for proto in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
            is_own, source = netlink.ask(self._question(ip, scope, fixed, proto))
            yield is_own
            if source and source != fixed:
                # A connected socket looks its route up again with that source, and a routing
                # rule may depend on it.
                yield netlink.ask(self._question(ip, scope, source, proto))[0]

    def _question(self, ip: bytes, scope: int, source: bytes, proto: int) -> bytes:
        family = socket.AF_INET if len(ip) == 4 else socket.AF_INET6
        if self._egress.interface and not scope:
            scope = socket.if_nametoindex(self._egress.interface)
        parts = [ROUTE.pack(family, len(ip) * 8, len(source) * 8, 0, 0, 0, 0, 0, 0)]
        parts.append(attribute(Attribute.DST, ip))
        for kind, number in ((Attribute.OIF, scope), (Attribute.MARK, self._egress.mark)):
            if number:
                parts.append(attribute(kind, struct.pack("=I", number)))
        if source:
            parts.append(attribute(Attribute.SRC, source))
        # Before Linux 4.18 there are no such rules, and it is ignored.
        parts.append(attribute(Attribute.IP_PROTO, bytes([proto])))
        return b"".join(parts)

    def _by_connect(self, ip: bytes, scope: int) -> Optional[bool]:
        """Return the same by the source address that a connected UDP socket gets."""
        family = socket.AF_INET if len(ip) == 4 else socket.AF_INET6
        host = text_ip(ip)
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                self._egress.confine(probe)
                probe.connect((host, PROBE_PORT, 0, scope)[: 2 if len(ip) == 4 else 4])
                source = packed_ip(probe.getsockname()[0])
                return source == ip or (len(ip) == 4 and host.startswith("127."))
        except OSError as exc:
            # No client can be connected there, either.
            return None if exc.errno in _IN_DOUBT else False


class _Row(NamedTuple):
    """A listener: its address; or, if it takes all addresses of a family, their sizes in bytes."""

    sock: socket.socket
    ip: bytes
    sizes: Tuple[int, ...]


class OwnListeners:
    """The TCP listeners of one proxy, by port.  Any thread.

    No client is connected to one of them, whatever the rules say: it would be a client on this
    host from then on, which no rule's ``from``, limit, penalty or log line would meet, and each
    level of a thousand takes more descriptors.

    Ports of BIND, sockets of associations and listeners of another ``Proxy`` in the same program
    are not among them: proxies may be chained.  No request can name a unix socket.

    A listener is in it from the time its server is made until it is closed, which this finds
    out by itself.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # for changes; the dict is replaced as a whole
        self._by_port: Dict[int, Tuple[_Row, ...]] = {}

    def add(self, sock: socket.socket) -> None:
        """Add *sock*, which is bound."""
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
            own: called only if a listener with this port takes all addresses.
        """
        rows = self._by_port.get(port)
        return rows is not None and any(
            row.sock.fileno() >= 0 and _leads_to(row, form, own, scope if form == ip else 0)
            for row in rows
            for form in disguises(ip)
        )


def _leads_to(row: _Row, ip: bytes, own: OwnAddresses, scope: int) -> bool:
    if not any(ip) or ip in own.public or ip == row.ip:
        # 0.0.0.0 and :: mean the address that the connection comes from.
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
