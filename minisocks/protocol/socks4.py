"""SOCKS4 and SOCKS4a messages: parse requests, encode replies.

::

    request  VER 04 | CD 1 | DSTPORT 2 | DSTIP 4 | USERID .. | 00 [| DOMAIN .. | 00]
    reply    VN 00  | CD 1 | DSTPORT 2 | DSTIP 4

DOMAIN follows if DSTIP is 0.0.0.x with x not 0 (SOCKS4a).  0.0.0.0 is a plain SOCKS4 address: a
server that expects a name behind it waits for ever.
"""

import socket
import struct
from typing import Generator, NamedTuple

from minisocks.errors import ProtocolError
from minisocks.protocol.stream import Stream
from minisocks.wire import MAX_FIELD_BYTES, Address, Atyp, Cd, Rep

__all__ = ["Request4", "encode_reply", "parse_request"]


class Request4(NamedTuple):
    """A SOCKS4 or SOCKS4a request; ``cmd`` is the byte as it came."""

    cmd: int
    dst: Address
    userid: bytes


def parse_request(stream: Stream) -> Generator[None, None, Request4]:
    """Parse what follows VER in a SOCKS4 or SOCKS4a request.

    Raises:
        ProtocolError: USERID or DOMAIN is longer than 255 bytes, or DOMAIN is empty.
    """
    cmd, port, ip = struct.unpack("!BH4s", (yield from stream.read_exact(7)))
    userid = yield from stream.read_string(MAX_FIELD_BYTES, "USERID")
    if ip[:3] != b"\0\0\0" or ip[3] == 0:
        host = socket.inet_ntoa(ip).encode("ascii")
        return Request4(cmd, Address(host, port, Atyp.IPV4), userid)
    name = yield from stream.read_string(MAX_FIELD_BYTES, "DOMAIN")
    if not name:
        raise ProtocolError("DOMAIN is empty")
    return Request4(cmd, Address.of_name(name, port), userid)


def encode_reply(
    rep: Rep, bnd_ip: bytes = b"", bnd_port: int = 0, failure: Cd = Cd.REJECTED
) -> bytes:
    """Encode a reply; *failure* is the CD of every *rep* but success.

    SOCKS4 can only send 4 bytes as *bnd_ip*; others become 0.0.0.0 (an IPv6 target reached by
    name, which RFC 3089 relies on).
    """
    cd = Cd.GRANTED if rep == Rep.SUCCEEDED else failure
    ip = bnd_ip if len(bnd_ip) == 4 else b"\0\0\0\0"
    return struct.pack("!BBH4s", 0, cd, bnd_port, ip)
