"""Whether an address is this host's own, as the kernel says (Linux: netlink, RTM_GETROUTE).

A connection to such an address comes in over loopback, past the firewall that keeps others
from this host.  So the question is not which addresses interfaces have, but where the
connection would go: with the scope, and with ``--interface``, ``--mark`` and ``--source``.
An answer is kept until the kernel reports that an address, a route, a rule or an interface
has changed.  Whatever cannot be answered is None, "in doubt", which is not a no.

Where there is no netlink, a UDP socket is connected instead, which sends nothing: to one of
its own addresses this host goes from that address.
"""

import errno
import os
import socket
import struct
import threading
import time
from typing import Any, Dict, Iterable, Iterator, Optional, Tuple

from minisocks.compat import CAPACITY_ERRORS, close_quietly
from minisocks.road import Road
from minisocks.wire import packed_ip, text_ip, unmapped

__all__ = ["KernelRoutes", "OwnAddresses"]

#: Answers that are kept.
MAX_ANSWERS = 2048
#: For so long it is not looked whether something has changed: a system call for each request
#: gives the interpreter's lock away once more, and made a decision cost 4.3 us, now 2.6.
GLANCE_SECONDS = 0.001
#: Any one: no packet goes there.
PROBE_PORT = 9

# linux/netlink.h and linux/rtnetlink.h; Python has no names for most of it.
_HEADER = struct.Struct("=IHHII")  # length, type, flags, number, port
_ROUTE = struct.Struct("=8BI")  # struct rtmsg
_ERROR = struct.Struct("=i")
_NLM_F_REQUEST, _NLMSG_ERROR, _RTM_NEWROUTE, _RTM_GETROUTE = 1, 2, 24, 26
_RTA_DST, _RTA_SRC, _RTA_OIF, _RTA_PREFSRC, _RTA_MARK, _RTA_IP_PROTO = 1, 2, 4, 7, 16, 27
#: Where ``rtm_type`` is in an answer, and those of its values that are ours.
_TYPE_AT = _HEADER.size + 7
_LOCAL_BROADCAST_ANYCAST = (2, 3, 4)
#: Links; IPv4 addresses, routes, rules; IPv6 addresses, routes, rules (RTNLGRP_IPV6_RULE).
_GROUPS = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18
_ANSWER_BYTES = 4096

#: No connection can be made there, and so none to ourselves.  EINVAL, which a blackhole gives,
#: is not among them, because a question that is not understood gives it, too.
_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES)
#: The question could not be asked now.
_IN_DOUBT = CAPACITY_ERRORS | {errno.EAGAIN, errno.EINTR, errno.EBADF}


class _Answers(Dict[Any, bool]):
    """Answers, and how often something had changed before them."""

    def __init__(self, number: int = 0) -> None:
        super().__init__()
        self.number = number


class _Netlink:
    """Two netlink sockets of one process: one asks, one hears what changes.

    A class because the answers hold for as long as nothing is heard.  Any thread.

    Raises:
        OSError: there is no netlink, or no descriptor.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the number, and reading
        self._number = 0
        self._answers = _Answers()
        self._asker = _open(0)
        try:
            self._news = _open(_GROUPS)
        except BaseException:
            close_quietly(self._asker)
            raise

    def answers(self) -> _Answers:
        """Return the answers that still hold, in a dict to which more may be added.

        What is added to it after a change was heard is in no other thread's way: there is
        another dict by then.

        Raises:
            OSError: that cannot be told.
        """
        try:
            self._news.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return self._answers
        except OSError as exc:
            self._answers = _Answers(self._answers.number + 1)
            if exc.errno != errno.ENOBUFS:  # so many changes that the kernel counts them no more
                raise
        with self._lock:
            self._drain()
        return self._answers

    def _drain(self) -> None:
        """Take what has been heard; the answers go before each, so that none is found after."""
        try:
            while self._news.recv(1, socket.MSG_PEEK):
                self._answers = _Answers(self._answers.number + 1)
                self._news.recv(1)
        except BlockingIOError:
            pass

    def ask(self, question: bytes) -> Tuple[bool, bytes]:
        """Return whether what *question* is about, a ``struct rtmsg`` and more, is ours.

        And from which address it would go there; of none, none.

        Raises:
            OSError: there is no way there; or it cannot be told.
        """
        with self._lock:
            number = self._number = (self._number + 1) & 0xFFFFFFFF
            size = _HEADER.size + len(question)
            self._asker.send(
                _HEADER.pack(size, _RTM_GETROUTE, _NLM_F_REQUEST, number, 0) + question
            )
            # The kernel has answered before send returns.
            while True:
                data, (sender, _groups) = self._asker.recvfrom(_ANSWER_BYTES)
                _size, kind, _flags, about, _port = _HEADER.unpack_from(data)
                if about == number and sender == 0:
                    break
        if kind == _RTM_NEWROUTE:
            return data[_TYPE_AT] in _LOCAL_BROADCAST_ANYCAST, _source_in(data)
        code = -_ERROR.unpack_from(data, _HEADER.size)[0] if kind == _NLMSG_ERROR else 0
        raise OSError(code or errno.EINVAL, os.strerror(code or errno.EINVAL))

    def close(self) -> None:
        """Close both."""
        close_quietly(self._asker)
        close_quietly(self._news)


def _open(groups: int) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)  # NETLINK_ROUTE
    try:
        sock.setblocking(False)
        sock.bind((0, groups))
    except BaseException:
        close_quietly(sock)
        raise
    return sock


class KernelRoutes:
    """What the kernel says about routes, in the network namespace of the first question.

    Opens its two descriptors at the first question, and anew in a process that was forked
    since: the sockets of the parent would hear for both, and each answer reach only one.
    ``close`` it.  Any thread.
    """

    def __init__(self) -> None:
        self._by_process: Dict[int, _Netlink] = {}
        self._has_netlink = hasattr(socket, "AF_NETLINK")
        self._is_closed = False
        #: The answers that hold, and until when that need not be looked at.
        self._kept: Tuple[float, _Answers] = (0.0, _Answers())

    def answers(self) -> Optional[_Answers]:
        """Return the answers that hold, for more to be added; None: none can be kept here.

        None of them is older than the last change, but for ``GLANCE_SECONDS``.

        Raises:
            OSError: that cannot be told.
        """
        now = time.monotonic()
        until, answers = self._kept
        if now < until:
            return answers
        netlink = self.netlink()
        if netlink is None:
            return None
        answers = netlink.answers()
        self._kept = (now + GLANCE_SECONDS, answers)
        return answers

    def changes(self) -> Optional[int]:
        """Return how often answers may have changed; None: that cannot be told.

        Opens nothing: where nothing was asked yet, as of clients on this host, nothing has changed.

        Raises:
            OSError: that cannot be told now.
        """
        if self._has_netlink and os.getpid() not in self._by_process:
            return 0
        answers = self.answers()
        return None if answers is None else answers.number

    def netlink(self) -> Optional[_Netlink]:
        """Return the sockets of this process; None: there is no netlink here.

        Raises:
            OSError: no descriptor, or it is closed.
        """
        netlink = self._by_process.get(os.getpid())
        if netlink is None and self._has_netlink:
            return self._opened()
        return netlink

    def _opened(self) -> Optional[_Netlink]:
        if self._is_closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        try:
            mine = _Netlink()
        except OSError as exc:
            if exc.errno in _IN_DOUBT:
                raise
            self._has_netlink = False  # a sandbox keeps us from it, for good
            return None
        kept = self._by_process.setdefault(os.getpid(), mine)  # atomic: no lock survives a fork
        if kept is not mine or self._is_closed:
            mine.close()
        return kept

    def close(self) -> None:
        """Close what is open; questions are in doubt from now on."""
        self._is_closed = True
        self._kept = (0.0, _Answers())
        for netlink in list(self._by_process.values()):
            netlink.close()

    def __enter__(self) -> "KernelRoutes":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class OwnAddresses:
    """Says of an address whether a connection there would end on this host.  Any thread.

    Args:
        kernel: stays the caller's.
        road: how the connection would leave.
        public: addresses that a NAT in front has for this host, as text: they are ours, too.
    """

    def __init__(
        self,
        kernel: Optional[KernelRoutes] = None,
        road: Optional[Road] = None,
        public: Iterable[str] = (),
    ) -> None:
        self._kernel = kernel
        self._road = road or Road()
        #: Those of a NAT, as bytes.
        self.public = frozenset(unmapped(packed_ip(text) or b"") for text in public)

    def __call__(self, ip: bytes, scope: int = 0) -> Optional[bool]:
        """Return whether the 4 or 16 bytes of *ip* are ours now; None: in doubt.

        Args:
            scope: the number of the link that a link-local address is on; 0: none is said.
        """
        try:
            answers = self._kernel.answers() if self._kernel is not None else None
            if answers is None:
                return self._ask(None, unmapped(ip), scope)
            own = answers.get((ip, scope, self))
            if own is None:
                own = self._ask(self._kernel, unmapped(ip), scope)
                if own is not None:
                    if len(answers) >= MAX_ANSWERS:
                        answers.clear()
                    answers[ip, scope, self] = own
            return own
        except OSError:
            return None

    def changes(self) -> Optional[int]:
        """Return how often answers may have changed; None: that cannot be told.

        For decisions that are kept: they hold while this stays the same.
        """
        try:
            return self._kernel.changes() if self._kernel is not None else None
        except OSError:
            return None

    def _ask(self, kernel: Optional[KernelRoutes], ip: bytes, scope: int) -> Optional[bool]:
        if ip in self.public:
            return True
        netlink = kernel.netlink() if kernel is not None else None
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
        # understand: as the connection itself fares.
        return self._by_connect(ip, scope)

    def _answers_of(self, netlink: _Netlink, ip: bytes, scope: int) -> Iterator[bool]:
        """Yield whether *ip* is ours, for all ways in which a socket of ours asks for the route."""
        family = socket.AF_INET if len(ip) == 4 else socket.AF_INET6
        fixed = packed_ip(self._road.sources.get(family, "")) or b""
        # Rules of routing may choose by protocol.
        for proto in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
            is_own, source = netlink.ask(self._question(ip, scope, fixed, proto))
            yield is_own
            if source and source != fixed:
                # A connected socket goes on from the address that was chosen, and a rule of
                # routing may be about that.
                yield netlink.ask(self._question(ip, scope, source, proto))[0]

    def _question(self, ip: bytes, scope: int, source: bytes, proto: int) -> bytes:
        family = socket.AF_INET if len(ip) == 4 else socket.AF_INET6
        if self._road.interface and not scope:
            scope = socket.if_nametoindex(self._road.interface)
        parts = [_ROUTE.pack(family, len(ip) * 8, len(source) * 8, 0, 0, 0, 0, 0, 0)]
        parts.append(_attribute(_RTA_DST, ip))
        for kind, number in ((_RTA_OIF, scope), (_RTA_MARK, self._road.mark)):
            if number:
                parts.append(_attribute(kind, struct.pack("=I", number)))
        if source:
            parts.append(_attribute(_RTA_SRC, source))
        # Kernels before Linux 4.18, which have no such rules, take no notice of it.
        parts.append(_attribute(_RTA_IP_PROTO, bytes([proto])))
        return b"".join(parts)

    def _by_connect(self, ip: bytes, scope: int) -> Optional[bool]:
        """Ask by which address of this host it would go there."""
        family = socket.AF_INET if len(ip) == 4 else socket.AF_INET6
        host = text_ip(ip)
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                self._road.confine(probe)
                probe.connect((host, PROBE_PORT, 0, scope)[: 2 if len(ip) == 4 else 4])
                source = packed_ip(probe.getsockname()[0])
                return source == ip or (len(ip) == 4 and host.startswith("127."))
        except OSError as exc:
            # What cannot be connected to cannot be reached by a client, either.
            return None if exc.errno in _IN_DOUBT else False


def _attribute(kind: int, value: bytes) -> bytes:
    # Each begins at a multiple of four bytes.
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _source_in(data: bytes) -> bytes:
    """Return the RTA_PREFSRC of an answer; b"": it has none."""
    at = _HEADER.size + _ROUTE.size
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if kind == _RTA_PREFSRC:
            return data[at + 4 : at + size]
        at += max(4, size + 3 & ~3)
    return b""
