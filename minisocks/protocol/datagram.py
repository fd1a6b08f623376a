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
from minisocks.protocol.messages import Stream, parse_address
from minisocks.wire import Address, Atyp

__all__ = ["Header", "LAST", "REASSEMBLY_SECONDS", "Reassembly", "decode_header", "encode_header"]

#: RSV, FRAG and ATYP of a datagram without fragments.
_IPV4, _IPV6 = bytes((0, 0, 0, Atyp.IPV4)), bytes((0, 0, 0, Atyp.IPV6))
#: RSV and FRAG.
_FIXED_BYTES = 3
#: The longest header, with a name of 255 bytes.
_MOST_BYTES = 4 + 1 + 255 + 2

_PORT = struct.Struct("!H")


class Header(NamedTuple):
    """FRAG as it came, the target, and the size of the header in bytes."""

    frag: int
    dst: Address
    size: int


def decode_header(data: bytes) -> Header:
    """Return the header that *data* begins with.  RSV may be anything.

    Raises:
        ProtocolError: it is cut off, or the name is not valid.
        UnsupportedAddressType: ATYP is unknown.
    """
    stream = Stream(data[_FIXED_BYTES:_MOST_BYTES])
    size = len(stream)
    steps = parse_address(stream)
    try:
        next(steps)
    except StopIteration as done:
        return Header(data[2], done.value, _FIXED_BYTES + size - len(stream))
    raise ProtocolError("a datagram of %d bytes, which end within its header" % len(data))


def encode_header(ip: bytes, port: int) -> bytes:
    """Return the header with the source of a datagram: 4 or 16 bytes, and a port."""
    return (_IPV4 if len(ip) == 4 else _IPV6) + ip + _PORT.pack(port)


#: The bit of FRAG that marks the last fragment.
LAST = 0x80
#: A sequence without a new fragment for so long is abandoned.  The RFC wants at least 5 s.
REASSEMBLY_SECONDS = 10.0
#: All fragments of one datagram together; no IP packet holds more.
MAX_BYTES = 65535


class Reassembly:
    """The reassembly queue of one client: one sequence at a time, because they have no numbers.

    By the RFC the queue starts anew when a FRAG is lower than the highest so far.  So a sequence
    out of order never becomes complete, and is abandoned as soon as that is certain.  Fragments
    that may be of different sequences are never joined.
    """

    __slots__ = ("_key", "_parts", "held", "lost")

    def __init__(self) -> None:
        self._key = b""
        self._parts: List[bytes] = []
        #: Bytes in the queue.
        self.held = 0
        #: Fragments dropped since the last ``take_lost``.
        self.lost = 0

    def __bool__(self) -> bool:
        """Return whether a sequence has begun."""
        return bool(self._parts)

    def add(self, frag: int, key: bytes, data: bytes) -> Optional[bytes]:
        """Add a fragment; return the complete datagram if it was the last one.

        Args:
            frag: FRAG, not 0.
            key: the bytes of the target, which are the same in all fragments of a sequence.
        """
        place, have = frag & ~LAST, len(self._parts)
        if place == have > 1 and key == self._key and data == self._parts[-1]:
            self.lost += 1  # the network has duplicated it
            return None
        if place == 1:
            self.abandon()
            self._key = key
        elif place != have + 1 or key != self._key or self.held + len(data) > MAX_BYTES:
            # One is missing, or this is of another sequence.  Only FRAG 1 begins one.
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
        """Drop the fragments of the current sequence."""
        self.lost += len(self._parts)
        self._parts, self.held = [], 0

    def take_lost(self) -> int:
        """Return how many fragments were dropped since the last call."""
        lost, self.lost = self.lost, 0
        return lost
