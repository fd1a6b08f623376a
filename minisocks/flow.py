"""One direction of a pair: where it stands, and what waits in it."""

import socket
from typing import Optional, Union

from minisocks.loop import BUFFER_BYTES
from minisocks.pipes import Pipe, Pipes

__all__ = ["Flow"]


class Flow:
    """One direction of a pair: bytes read from ``src``, not yet taken by ``dst``.

    ::

        open      reading, unless ``pending`` waits for ``dst``
        eof       ``src`` has said FIN or is dead; ``pending`` goes out
        done      nothing more to do: FIN passed on once, after the last byte
        broken    done, because ``dst`` is dead; what was meant for it is lost

    and beside those, of its ``src``:

        bulk      a read filled the buffer: through pipes, until so many bring little
        died      the kernel reports it dead for ever, so it is not watched
                  unless wanted: what it had said may still be unread.  With
                  this error, which the kernel tells only once; 0: with none
    """

    __slots__ = ("broken", "bulk", "died", "done", "dst", "eof", "pending", "src")

    def __init__(self, src: socket.socket, dst: socket.socket, pending: bytes) -> None:
        self.src = src
        self.dst = dst
        self.pending: Union[None, memoryview, Pipe] = memoryview(pending) if pending else None
        self.eof = False
        self.done = False
        self.broken = False
        self.bulk = 0
        self.died: Optional[int] = None

    def wants_read(self) -> bool:
        """Return whether more of ``src`` would be of use now."""
        return self.pending is None and not self.eof

    def clear(self, pipes: Pipes) -> None:
        """Have nothing pending; a pipe with bytes in it is lost with them."""
        pending, self.pending = self.pending, None
        if isinstance(pending, Pipe):
            pipes.give_back(pending)
        elif pending is not None:
            # A view of a part of it keeps the whole.
            size = memoryview(pending.obj).nbytes
            if size > BUFFER_BYTES:
                pipes.forget(size)

    def take_out(self, pipe: Pipe, pipes: Pipes, must: bool = False) -> None:
        """Keep in memory what is pending in *pipe*, if there is room: others need it.

        *must*: also without room, for the pipe is of no use.
        """
        data = pipes.keep(pipe, must)
        if data is not None:
            self.bulk = 0
            self.pending = memoryview(data)
            if len(data) <= BUFFER_BYTES:
                pipes.forget(len(data))  # so much may wait for every slow receiver
