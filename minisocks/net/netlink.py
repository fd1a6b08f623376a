"""Netlink (Linux, NETLINK_ROUTE): questions to the kernel about routes, and reports of changes."""

import errno
import os
import socket
import struct
import threading
from typing import Any, Dict, Tuple

from minisocks.compat import close_quietly, closed_on_error

__all__ = ["ROUTE", "Answers", "Attribute", "Netlink", "attribute"]

# linux/netlink.h and linux/rtnetlink.h; Python has no names for most of it.
_HEADER = struct.Struct("=IHHII")  # length, type, flags, number, port
ROUTE = struct.Struct("=8BI")  # struct rtmsg
_ERROR = struct.Struct("=i")
_NLM_F_REQUEST, _NLMSG_ERROR, _RTM_NEWROUTE, _RTM_GETROUTE = 1, 2, 24, 26
#: Where ``rtm_type`` is in an answer, and its values for addresses of this host.
_TYPE_AT = _HEADER.size + 7
_LOCAL_BROADCAST_ANYCAST = (2, 3, 4)
#: Links; IPv4 addresses, routes, rules; IPv6 addresses, routes, rules (RTNLGRP_IPV6_RULE).
_GROUPS = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18
_ANSWER_BYTES = 4096
#: asm-generic/socket.h; its first number is SK_MEMINFO_RMEM_ALLOC, the bytes to be received.
_SO_MEMINFO = 55


class Attribute:
    """Kinds of attributes of a route (RTA_...)."""

    DST, SRC, OIF, PREFSRC, MARK, IP_PROTO = 1, 2, 4, 7, 16, 27


class Answers(Dict[Any, bool]):
    """Answers, and the number of changes before them."""

    def __init__(self, number: int = 0) -> None:
        super().__init__()
        self.number = number


class Netlink:
    """Two netlink sockets of one process: one asks, the other one receives reports of changes.

    Answers hold until a change is reported.  Any thread.

    Raises:
        OSError: there is no netlink, or no descriptor.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the number, and reading
        self._number = 0
        self._answers = Answers()
        self._asker = _open(0)
        with closed_on_error(self._asker):
            self._news = _open(_GROUPS)

    def answers(self) -> Answers:
        """Return the answers that still hold, in a dict to which more may be added.

        After a change there is another dict, so an answer from before it can be added safely.

        Raises:
            OSError: it is unknown whether there was a change.
        """
        # Not with ``recv``: that releases the interpreter's lock, and a connection took a tenth
        # more time.
        try:
            if not self._news.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO):
                return self._answers
        except OSError:
            pass  # Linux before 4.12
        with self._lock:
            self._take_reports()
        return self._answers

    def _take_reports(self) -> None:
        """Receive all reports; drop the answers before each is received, so that none is stale."""
        while True:
            try:
                self._news.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return
            except OSError as exc:
                self._answers = Answers(self._answers.number + 1)
                if exc.errno != errno.ENOBUFS:  # so many that the kernel has lost some
                    raise
            else:
                self._answers = Answers(self._answers.number + 1)
                self._news.recv(1)

    def ask(self, question: bytes) -> Tuple[bool, bytes]:
        """Return whether the address in *question* is this host's, and the source address to it.

        Args:
            question: a ``struct rtmsg`` and attributes.

        Raises:
            OSError: there is no route to it; or the question could not be asked.
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
    with closed_on_error(sock):
        sock.setblocking(False)
        sock.bind((0, groups))
    return sock


def attribute(kind: int, value: bytes) -> bytes:
    """Return the bytes of an attribute, to go behind a ``struct rtmsg``."""
    # Each begins at a multiple of four bytes.
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _source_in(data: bytes) -> bytes:
    """Return the RTA_PREFSRC of an answer; b"": it has none."""
    at = _HEADER.size + ROUTE.size
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if kind == Attribute.PREFSRC:
            return data[at + 4 : at + size]
        at += max(4, size + 3 & ~3)
    return b""
