"""An incremental reader: a parser reads as if all bytes were there.

A parser is a generator.  ``yield from stream.read_exact(n)`` gives it *n* bytes; while they are
missing it yields, and is stepped again after the next ``feed``.  So it has no states, no byte is
parsed twice, and the bytes after the message stay in the stream.  No socket, no clock.
"""

from typing import Generator

from minisocks.errors import ProtocolError

__all__ = ["Parser", "Stream"]

#: One step of parsing: it yields while bytes are missing.
Parser = Generator[None, None, bytes]


class Stream:
    """Bytes received and not yet consumed.

    The caller limits what it feeds; a parser never waits for more than the longest message.
    """

    __slots__ = ("buffer",)

    def __init__(self) -> None:
        self.buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Append bytes as they came from the network."""
        self.buffer += data

    def take(self) -> bytes:
        """Remove and return all that is left."""
        rest = bytes(self.buffer)
        self.buffer = bytearray()
        return rest

    def read_exact(self, size: int) -> Parser:
        """Read exactly *size* bytes."""
        while len(self.buffer) < size:
            yield
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    def read_string(self, limit: int, what: str) -> Parser:
        """Read up to a NUL byte, which is consumed but not returned.

        Raises:
            ProtocolError: more than *limit* bytes and no NUL.
        """
        while True:
            end = self.buffer.find(0, 0, limit + 1)
            if end >= 0:
                break
            if len(self.buffer) > limit:
                raise ProtocolError("%s is longer than %d bytes" % (what, limit))
            yield
        data = bytes(self.buffer[:end])
        del self.buffer[: end + 1]
        return data
