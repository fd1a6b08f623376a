"""One direction of a pair: where it stands, and what waits in it."""

import errno
import socket
from typing import Optional, Union

from minisocks.compat import READ_MARKED, READ_URGENT, UNWATCHED, WRITE, is_at_mark
from minisocks.net.loop import BUFFER_BYTES
from minisocks.net.pipes import Pipe, Pipes

__all__ = ["Flow", "wanted_events", "word_of"]


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

    def is_dry(self) -> bool:
        """Return whether the kernel has nothing more of ``src`` to be read."""
        try:
            return not self.src.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False  # what is to be read is this error

    @property
    def held(self) -> int:
        """How many bytes it has in memory, or in a pipe."""
        pending = self.pending
        if pending is None:
            return 0
        if isinstance(pending, Pipe):
            return pending.held
        return memoryview(pending.obj).nbytes  # a view of a part of it keeps the whole

    def hold(self, data: bytes, pipes: Pipes) -> None:
        """Have *data* pending: its receiver takes no more."""
        self.pending = memoryview(data)
        pipes.pending_bytes += len(data)

    def clear(self, pipes: Pipes) -> None:
        """Have nothing pending; a pipe with bytes in it is lost with them."""
        pending, self.pending = self.pending, None
        if isinstance(pending, Pipe):
            pipes.give_back(pending)
        elif pending is not None:
            size = memoryview(pending.obj).nbytes
            pipes.pending_bytes -= size
            if size > BUFFER_BYTES:
                pipes.forget(size)

    def take_out(self, pipe: Pipe, pipes: Pipes, must: bool = False) -> None:
        """Keep in memory what is pending in *pipe*, if there is room: others need it.

        *must*: also without room, for the pipe is of no use.
        """
        data = pipes.keep(pipe, must)
        if data is not None:
            self.bulk = 0
            self.hold(data, pipes)
            if len(data) <= BUFFER_BYTES:
                pipes.forget(len(data))  # so much may wait for every slow receiver

    def pass_urgent(self, pipes: Pipes) -> Optional[int]:
        """Have ``dst`` take the next byte as TCP's urgent one, if that is what it is.

        It stays in ``src`` until then, so what is pending never has to be known as urgent.  A unix
        socket takes it as any other byte: not all kernels have urgent ones there.

        Returns:
            How many bytes that were; 0: there is no room, which is waited for.  None: it is not.

        Raises:
            OSError: ``dst`` is dead.
        """
        byte = self.src.recv(1, socket.MSG_PEEK) if is_at_mark(self.src) else b""
        if not byte:
            return None
        is_unix = self.dst.family == getattr(socket, "AF_UNIX", None)
        try:
            self.dst.send(byte, 0 if is_unix else socket.MSG_OOB)
        except BlockingIOError:
            self.hold(b"", pipes)
            return 0
        self.src.recv(1)
        return 1


def wanted_events(outgoing: Flow, incoming: Flow, waits_behind: Optional[Flow] = None) -> int:
    """Return what is wanted of an end, given the flows out of it and into it.

    *waits_behind*: a flow of which the urgent byte waits for bytes before it.
    """
    mask = 0
    if outgoing.wants_read():
        mask = READ_MARKED if outgoing is waits_behind else READ_URGENT
    if incoming.pending is not None:
        mask |= WRITE
    if not mask and (outgoing.died is not None or (outgoing.eof and incoming.done)):
        return UNWATCHED  # dead, or shut both ways: it would say so for ever
    # Else mask 0 still tells of a reset: who has half-closed may vanish
    # while the other end says nothing, and the pair would never end.
    return mask


#: What the kernel says of a peer that has not answered for long: why the last packet for it came
#: back, if one did.
_LOST = [
    getattr(errno, name, None)
    for name in ("ETIMEDOUT", "EHOSTUNREACH", "EHOSTDOWN", "ENETUNREACH", "ENETDOWN", "ENONET")
]


def word_of(code: Optional[int]) -> str:
    """Return how an end has died, by its errno."""
    return "lost" if code and code in _LOST else "reset"
