"""Requests to a running minisocks, by the control socket beside its pidfile.

Apart from ``control``, because commands do without the loop.
"""

import json
import os
import socket
import struct
from typing import Any, Dict, Optional

from minisocks.net.opening import demand_trusted

__all__ = ["MAX_LINE_BYTES", "fits", "request"]

#: The longest answer: the table of 65 536 clients.
MAX_LINE_BYTES = 16 << 20


def request(
    path: str, asked: Dict[str, Any], seconds: float, owner: Optional[int] = None
) -> Dict[str, Any]:
    """Send *asked* to the process that listens at *path*; return its answer.

    Args:
        seconds: the limit for each step.
        owner: the uid whose process is trusted, too, besides those of root and of this user.

    Raises:
        OSError: no process is there, or it takes too long.
        ValueError: it is no minisocks, or that of another user.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(seconds)
        demand_trusted(path, owner)
        sock.connect(path)
        _demand_trusted(sock, owner)
        sock.sendall(json.dumps(asked).encode("ascii") + b"\n")
        line = bytearray()
        while not line.endswith(b"\n"):
            data = sock.recv(65536)
            if not data or len(line) > MAX_LINE_BYTES:
                raise ValueError("no answer of a minisocks")
            line += data
    try:
        answer = json.loads(line.decode("ascii"))
    except RecursionError:
        answer = None
    if not isinstance(answer, dict):
        raise ValueError("no answer of a minisocks")
    return answer


def fits(value: Any, shape: Any) -> bool:
    """Return whether a *value* from an answer has this *shape*.

    Args:
        shape: ``str``, ``bool``, ``int`` or ``float`` (a finite number); a list of one shape; a
            dict of shapes by key, where *value* may lack keys or have None; or a dict of
            ``str`` to the shape of all values.
    """
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(one, shape[0]) for one in value)
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return False
        if str in shape:
            return all(fits(one, shape[str]) for one in value.values())
        return all(value.get(k) is None or fits(value[k], s) for k, s in shape.items())
    if shape in (int, float):
        is_number = isinstance(value, (int, shape)) and not isinstance(value, bool)
        return is_number and abs(value) < 1 << 63  # neither infinite nor NaN
    return isinstance(value, shape)


def _demand_trusted(sock: socket.socket, owner: Optional[int]) -> None:
    """Refuse an answer from the socket of another user.

    Raises:
        ValueError: the user is neither root nor this one nor *owner*.
    """
    peers = getattr(socket, "SO_PEERCRED", None)  # Linux
    if peers is not None:
        _pid, uid, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, peers, 12))
        if uid not in (0, os.geteuid(), owner):
            raise ValueError("user %d answers there" % uid)
