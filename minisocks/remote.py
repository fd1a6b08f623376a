"""Speak to a running minisocks by the socket beside its pidfile."""

import json
import os
import socket
import struct
from typing import Any, Dict, Optional

__all__ = ["MAX_LINE_BYTES", "request"]

#: The longest answer: the table of 65 536 clients.
MAX_LINE_BYTES = 16 << 20


def request(
    path: str, wish: Dict[str, Any], seconds: float, owner: Optional[int] = None
) -> Dict[str, Any]:
    """Send *wish* to the process that listens at *path*; return its answer.

    Args:
        seconds: how long each step may take.
        owner: whose process, by his number, is believed besides root's and this user's own.

    Raises:
        OSError: nobody is there, or it takes too long.
        ValueError: that is no minisocks, or another user's.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(seconds)
        sock.connect(path)
        _demand_trusted(sock, owner)
        sock.sendall(json.dumps(wish).encode("ascii") + b"\n")
        line = bytearray()
        while not line.endswith(b"\n"):
            data = sock.recv(65536)
            if not data or len(line) > MAX_LINE_BYTES:
                raise ValueError("no answer of a minisocks")
            line += data
    answer = json.loads(line.decode("ascii"))
    if not isinstance(answer, dict):
        raise ValueError("no answer of a minisocks")
    return answer


def _demand_trusted(sock: socket.socket, owner: Optional[int]) -> None:
    """Refuse to be spoken to by somebody who has put his own socket there.

    Raises:
        ValueError: he has.
    """
    peers = getattr(socket, "SO_PEERCRED", None)  # Linux
    if peers is not None:
        _pid, uid, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, peers, 12))
        if uid not in (0, os.geteuid(), owner):
            raise ValueError("user %d answers there" % uid)
