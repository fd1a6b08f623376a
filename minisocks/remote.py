"""Speak to a running minisocks by the socket beside its pidfile."""

import json
import socket
from typing import Any, Dict

__all__ = ["MAX_LINE_BYTES", "request"]

#: The longest answer: the table of 65 536 clients.
MAX_LINE_BYTES = 16 << 20


def request(path: str, wish: Dict[str, Any], seconds: float) -> Dict[str, Any]:
    """Send *wish* to the process that listens at *path*; return its answer.

    Args:
        seconds: how long each step may take.

    Raises:
        OSError: nobody is there, or it takes too long.
        ValueError: that is no minisocks.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(seconds)
        sock.connect(path)
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
