"""UDP datagrams between client and proxy (RFC 1928 section 7): header and fragments.

::

    RSV 2 | FRAG 1 | ATYP 1 | DST.ADDR | DST.PORT 2 | DATA

    FRAG   0         not part of a sequence
           1 to 127  position in a sequence
           bit 7     set: the last fragment of the sequence

No clock: the owner of a ``Reassembly`` calls ``abandon`` when its time is over.
"""

import struct
from typing import List, NamedTuple, Optional

from minisocks.errors import ProtocolError
from minisocks.protocol.socks5 import parse_address
from minisocks.protocol.stream import Stream
from minisocks.wire import Address, Atyp

__all__ = ["Header", "LAST", "REASSEMBLY_SECONDS", "Reassembly", "decode_header", "encode_header"]

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


#: The bit of FRAG that says: the last one.
LAST = 0x80
#: A sequence of which nothing came for so long is abandoned.  The RFC wants 5 at least.
REASSEMBLY_SECONDS = 10.0
#: All fragments of one datagram together; no IP packet holds more.
MAX_BYTES = 65535


class Reassembly:
    """The queue of one client: one sequence at a time, for they have no numbers.

    A class because a fragment means something only by those before it.  The RFC has the
    queue begin anew when a FRAG comes that is lower than the highest so far; so a sequence
    whose fragments are not in their order never becomes whole, and is abandoned as soon as
    that is certain.  What may be of another sequence is never put together.
    """

    __slots__ = ("_key", "_parts", "held", "lost")

    def __init__(self) -> None:
        self._key = b""
        self._parts: List[bytes] = []
        #: Bytes in the queue.
        self.held = 0
        #: Fragments that came to nothing so far.
        self.lost = 0

    def __bool__(self) -> bool:
        """Return whether a sequence is under way."""
        return bool(self._parts)

    def add(self, frag: int, key: bytes, data: bytes) -> Optional[bytes]:
        """Take a fragment; return the whole datagram if it was the last one missing.

        Args:
            frag: FRAG, not 0.
            key: what is the same for all of a sequence: the bytes that say where to.
        """
        place, have = frag & ~LAST, len(self._parts)
        if place == have > 1 and key == self._key and data == self._parts[-1]:
            self.lost += 1  # the network has doubled it
            return None
        if place == 1:
            self.abandon()
            self._key = key
        elif place != have + 1 or key != self._key or self.held + len(data) > MAX_BYTES:
            # One is missing, or it is of another sequence.  A lower one that is not the
            # first begins none: those before it have gone.
            self.abandon()
            self.lost += 1
            return None
        self._parts.append(data)
        self.held += len(data)
        if not frag & LAST:
            return None
        whole = b"".join(self._parts)
        self._parts, self.held = [], 0
        return whole

    def abandon(self) -> None:
        """Forget the sequence that is under way."""
        self.lost += len(self._parts)
        self._parts, self.held = [], 0
