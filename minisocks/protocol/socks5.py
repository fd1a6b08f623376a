"""SOCKS5 messages (RFC 1928, RFC 1929): parse requests, encode replies.

::

    greeting  VER 05 | NMETHODS 1 | METHODS 1-255        choice  VER 05 | METHOD 1
    auth      VER 01 | ULEN | UNAME | PLEN | PASSWD      status  VER 01 | STATUS 1
    request   VER 05 | CMD | RSV 00 | ATYP | DST.ADDR | DST.PORT 2
    reply     VER 05 | REP | RSV 00 | ATYP | BND.ADDR | BND.PORT 2
"""

import struct
from typing import Generator, NamedTuple

from minisocks.errors import ProtocolError, UnsupportedAddressType
from minisocks.protocol.stream import Parser, Stream
from minisocks.wire import Address, Atyp, Rep, Ver

__all__ = [
    "Credentials",
    "Request5",
    "encode_reply",
    "parse_address",
    "parse_credentials",
    "parse_methods",
    "parse_request",
]

#: VER of the username/password negotiation (RFC 1929 section 2).
AUTH_VERSION = 1


class Credentials(NamedTuple):
    """UNAME and PASSWD, opaque bytes of 0 to 255."""

    user: bytes
    password: bytes

    def __repr__(self) -> str:
        """Keep the password out of logs and tracebacks."""
        return "Credentials(user=%r, password=...)" % (self.user,)


class Request5(NamedTuple):
    """A SOCKS5 request; ``cmd`` is the byte as it came."""

    cmd: int
    dst: Address


def parse_methods(stream: Stream) -> Parser:
    """Parse NMETHODS and METHODS, one byte each method (RFC 1928 section 3)."""
    (count,) = yield from stream.read_exact(1)
    return (yield from stream.read_exact(count))


def parse_credentials(stream: Stream) -> Generator[None, None, Credentials]:
    """Parse a username/password message (RFC 1929 section 2).

    RFC 1929 wants 1 to 255 bytes each.  Some clients send empty fields: these are accepted here
    and match no user of the settings.

    Raises:
        ProtocolError: VER is not 1.
    """
    (version,) = yield from stream.read_exact(1)
    if version != AUTH_VERSION:
        raise ProtocolError("VER 0x%02x in the password message" % version)
    (length,) = yield from stream.read_exact(1)
    user = yield from stream.read_exact(length)
    (length,) = yield from stream.read_exact(1)
    password = yield from stream.read_exact(length)
    return Credentials(user, password)


def parse_request(stream: Stream) -> Generator[None, None, Request5]:
    """Parse a request (RFC 1928 section 4).  RSV may be anything.

    Raises:
        ProtocolError: VER is not 5, or the name is not valid.
        UnsupportedAddressType: ATYP is unknown, and so is the length of the address.
    """
    version, cmd, _rsv = yield from stream.read_exact(3)
    if version != Ver.SOCKS5:
        raise ProtocolError("the request begins with VER 0x%02x, not with 0x05" % version)
    dst = yield from parse_address(stream)
    return Request5(cmd, dst)


def parse_address(stream: Stream) -> Generator[None, None, Address]:
    """Parse ATYP, DST.ADDR and DST.PORT (RFC 1928 section 5).

    Raises:
        ProtocolError: the name is empty or contains a NUL.
        UnsupportedAddressType: ATYP is none of 0x01, 0x03, 0x04.
    """
    (atyp,) = yield from stream.read_exact(1)
    if atyp in (Atyp.IPV4, Atyp.IPV6):
        host = yield from stream.read_exact(4 if atyp == Atyp.IPV4 else 16)
    elif atyp == Atyp.DOMAINNAME:
        (length,) = yield from stream.read_exact(1)
        host = yield from stream.read_exact(length)
    else:
        raise UnsupportedAddressType("unknown address type, ATYP 0x%02x" % atyp)
    (port,) = struct.unpack("!H", (yield from stream.read_exact(2)))
    if atyp != Atyp.DOMAINNAME:
        return Address.of_ip(host, port)
    # Checked only after the whole message is consumed, so that the reply answers all of it.
    if not host:
        raise ProtocolError("the name in DST.ADDR is empty")
    if b"\0" in host:
        raise ProtocolError("the name in DST.ADDR holds a NUL byte")
    return Address.of_name(host, port)


def encode_reply(rep: Rep, bnd_ip: bytes = b"", bnd_port: int = 0) -> bytes:
    """Encode a reply (RFC 1928 section 6).

    *bnd_ip* is 4 or 16 bytes, or empty for 0.0.0.0 in failure replies.
    """
    atyp = Atyp.IPV6 if len(bnd_ip) == 16 else Atyp.IPV4
    ip = bnd_ip or b"\0\0\0\0"
    return bytes((Ver.SOCKS5, rep, 0, atyp)) + ip + bnd_port.to_bytes(2, "big")
