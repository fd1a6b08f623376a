"""The header that a datagram has between client and proxy (RFC 1928 section 7).

::

    RSV 2 | FRAG 1 | ATYP 1 | DST.ADDR | DST.PORT 2 | DATA
"""

import struct
from typing import NamedTuple

from minisocks.errors import ProtocolError
from minisocks.protocol.socks5 import parse_address
from minisocks.protocol.stream import Stream
from minisocks.wire import Address, Atyp

__all__ = ["Header", "decode_header", "encode_header"]

#: RSV, FRAG and ATYP of a header that stands alone.
_IPV4, _IPV6 = bytes((0, 0, 0, Atyp.IPV4)), bytes((0, 0, 0, Atyp.IPV6))
#: What is in front of DST.ADDR.
_FIXED_BYTES = 3
#: No header is longer: a name of 255 bytes.
_MOST_BYTES = 4 + 1 + 255 + 2

_PORT = struct.Struct("!H")


class Header(NamedTuple):
    """FRAG as it came, what the datagram is for, and how many bytes all that took."""

    frag: int
    dst: Address
    size: int


def decode_header(data: bytes) -> Header:
    """Return the header that *data* begins with.  RSV may be anything.

    Raises:
        ProtocolError: it is cut off, or the name cannot be one.
        UnsupportedAddressType: ATYP is unknown.
    """
    stream = Stream()
    stream.feed(data[_FIXED_BYTES:_MOST_BYTES])
    fed = len(stream.buffer)
    steps = parse_address(stream)
    try:
        next(steps)
    except StopIteration as done:
        return Header(data[2], done.value, _FIXED_BYTES + fed - len(stream.buffer))
    raise ProtocolError("a datagram of %d bytes, which end within its header" % len(data))


def encode_header(ip: bytes, port: int) -> bytes:
    """Return the header that says where a datagram comes from: 4 or 16 bytes, and a port."""
    return (_IPV4 if len(ip) == 4 else _IPV6) + ip + _PORT.pack(port)
