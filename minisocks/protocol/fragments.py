"""Datagrams that come in fragments, put together (RFC 1928 section 7).

::

    FRAG   0         stands alone: not of any sequence
           1 to 127  its place in a sequence
           bit 7     set: it is the last one

No clock: who owns a ``Reassembly`` calls ``abandon`` when its time is over.
"""

from typing import List, Optional

__all__ = ["LAST", "REASSEMBLY_SECONDS", "Reassembly"]

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
