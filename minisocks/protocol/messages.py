"""The messages of SOCKS4, SOCKS4a and SOCKS5: parse requests, encode replies.

SOCKS5 (RFC 1928, RFC 1929)::

    greeting  VER 05 | NMETHODS 1 | METHODS 1-255        choice  VER 05 | METHOD 1
    auth      VER 01 | ULEN | UNAME | PLEN | PASSWD      status  VER 01 | STATUS 1
    request   VER 05 | CMD | RSV 00 | ATYP | DST.ADDR | DST.PORT 2
    reply     VER 05 | REP | RSV 00 | ATYP | BND.ADDR | BND.PORT 2

The reply to RESOLVE has the address of the name in BND.ADDR, that to RESOLVE_PTR the name.
SOCKS4; DOMAIN follows if DSTIP is 0.0.0.x with x not 0 (SOCKS4a)::

    request   VER 04 | CD 1 | DSTPORT 2 | DSTIP 4 | USERID .. | 00 [| DOMAIN .. | 00]
    reply     VN 00  | CD 1 | DSTPORT 2 | DSTIP 4

A parser is a generator that reads as if all bytes were there.  ``yield from
stream.read_exact(n)`` gives it *n* bytes; while they are missing it yields, and is stepped again
when more have been appended.  So it has no states, no byte is parsed twice, and the bytes after the
message stay in the stream.  No socket, no clock.
"""

import socket
import struct
from typing import Generator, NamedTuple

from minisocks.errors import ProtocolError, UnsupportedAddressType
from minisocks.wire import MAX_FIELD_BYTES, Address, Atyp, Cd, Rep, Ver

__all__ = [
    "Credentials",
    "Request4",
    "Request5",
    "Stream",
    "encode_reply4",
    "encode_reply5",
    "parse_address",
    "parse_credentials",
    "parse_methods",
    "parse_request4",
    "parse_request5",
]

#: One step of parsing: it yields while bytes are missing.
_Bytes = Generator[None, None, bytes]


class Stream(bytearray):
    """Bytes received and not yet consumed.

    The caller appends bytes as they come, and limits them; a parser never waits for more than
    the longest message.
    """

    __slots__ = ()

    def take(self) -> bytes:
        """Remove and return all that is left."""
        rest = bytes(self)
        self.clear()
        return rest

    def read_exact(self, size: int) -> _Bytes:
        """Read exactly *size* bytes."""
        while len(self) < size:
            yield
        data = bytes(self[:size])
        del self[:size]
        return data

    def read_string(self, limit: int, what: str) -> _Bytes:
        """Read up to a NUL byte, which is consumed but not returned.

        Raises:
            ProtocolError: more than *limit* bytes and no NUL.
        """
        while True:
            end = self.find(0, 0, limit + 1)
            if end >= 0:
                break
            if len(self) > limit:
                raise ProtocolError("%s is longer than %d bytes" % (what, limit))
            yield
        data = bytes(self[:end])
        del self[: end + 1]
        return data


class Request4(NamedTuple):
    """A SOCKS4 or SOCKS4a request; ``cmd`` is the byte as it came."""

    cmd: int
    dst: Address
    userid: bytes


def parse_request4(stream: Stream) -> Generator[None, None, Request4]:
    """Parse what follows VER in a SOCKS4 or SOCKS4a request.

    0.0.0.0 is a plain SOCKS4 address: a server that expects a name behind it waits for ever.

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


def encode_reply4(
    rep: Rep, bnd_ip: bytes = b"", bnd_port: int = 0, failure: Cd = Cd.REJECTED
) -> bytes:
    """Encode a SOCKS4 reply; *failure* is the CD of every *rep* but success.

    SOCKS4 can only send 4 bytes as *bnd_ip*; others become 0.0.0.0 (an IPv6 target reached by
    name, which RFC 3089 relies on).
    """
    cd = Cd.GRANTED if rep == Rep.SUCCEEDED else failure
    ip = bnd_ip if len(bnd_ip) == 4 else b"\0\0\0\0"
    return struct.pack("!BBH4s", 0, cd, bnd_port, ip)


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


def parse_methods(stream: Stream) -> _Bytes:
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


def parse_request5(stream: Stream) -> Generator[None, None, Request5]:
    """Parse a SOCKS5 request (RFC 1928 section 4).  RSV may be anything.

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
    if atyp == Atyp.DOMAINNAME:
        (size,) = yield from stream.read_exact(1)
    elif atyp in (Atyp.IPV4, Atyp.IPV6):
        size = 4 if atyp == Atyp.IPV4 else 16
    else:
        raise UnsupportedAddressType("unknown address type, ATYP 0x%02x" % atyp)
    data = yield from stream.read_exact(size + 2)
    host, port = data[:size], int.from_bytes(data[size:], "big")
    if atyp != Atyp.DOMAINNAME:
        return Address.of_ip(host, port)
    # Checked only after the whole message is consumed, so that the reply answers all of it.
    if not host:
        raise ProtocolError("the name in DST.ADDR is empty")
    if b"\0" in host:
        raise ProtocolError("the name in DST.ADDR holds a NUL byte")
    return Address.of_name(host, port)


def encode_reply5(rep: Rep, bnd_ip: bytes = b"", bnd_port: int = 0, bnd_name: bytes = b"") -> bytes:
    """Encode a SOCKS5 reply (RFC 1928 section 6).

    *bnd_ip* is 4 or 16 bytes, or empty for 0.0.0.0 in failure replies.  *bnd_name*, 1 to 255
    bytes, stands in its place in the reply to RESOLVE_PTR.
    """
    if bnd_name:
        size = len(bnd_name)
        return bytes((Ver.SOCKS5, rep, 0, Atyp.DOMAINNAME, size)) + bnd_name + bytes(2)
    atyp = Atyp.IPV6 if len(bnd_ip) == 16 else Atyp.IPV4
    ip = bnd_ip or b"\0\0\0\0"
    return bytes((Ver.SOCKS5, rep, 0, atyp)) + ip + bnd_port.to_bytes(2, "big")
