"""One direction of a pair: its state, and the bytes that wait in it."""

import errno
import socket
from typing import Optional, Union

from minisocks.compat import READ_MARKED, READ_URGENT, UNWATCHED, WRITE, is_at_mark
from minisocks.net.loop import BUFFER_BYTES, Loop
from minisocks.net.pipes import CANNOT_SPLICE, GO_BY_BUFFER, PIPE_BYTES, Pipe, Pipes
from minisocks.relay.rate import Budget

__all__ = ["SHORT_TURNS", "Flow", "wanted_events", "word_of"]

#: A direction goes back to the buffer when its pipe brings less than this so many times in a row.
LITTLE_BYTES, LITTLE_TIMES = 32 * 1024, 8
#: Bytes that a pipe takes at once behind a short message, for so many reads: other pairs wait
#: meanwhile, and a MiB for each of 8 downloads made the p99 of 64 of them eight times as long.
TURN_BYTES, SHORT_TURNS = 64 * 1024, 500


class Flow:
    """One direction of a pair: bytes read from ``src``, not yet taken by ``dst``.

    ::

        open      reading, unless ``pending`` waits for ``dst``
        eof       ``src`` has sent FIN or is dead; ``pending`` is still sent
        done      nothing more to do: FIN was sent once, after the last byte
        broken    done, because ``dst`` is dead; the bytes for it are lost

    and beside those, about its ``src``:

        bulk      a read filled the buffer: pipes are used until so many bring little
        died      its error, which the kernel reports only once; 0: without one.  It is
                  watched only if its bytes are wanted, some of which may still be
                  unread, because the kernel would report it dead for ever
        budget    what it may read, and whether it waits for that; None: no limit
    """

    __slots__ = ("broken", "budget", "bulk", "died", "done", "dst", "eof", "pending", "src")

    def __init__(
        self, src: socket.socket, dst: socket.socket, budget: Optional[Budget] = None
    ) -> None:
        self.src = src
        self.dst = dst
        self.budget = budget
        self.pending: Union[None, memoryview, Pipe] = None
        self.eof = False
        self.done = False
        self.broken = False
        self.bulk = 0
        self.died: Optional[int] = None

    def wants_read(self) -> bool:
        """Return whether ``src`` is to be read now."""
        is_open = self.pending is None and not self.eof
        return is_open and (self.budget is None or not self.budget.waits)

    def is_dry(self) -> bool:
        """Return whether the kernel has no more bytes of ``src``."""
        try:
            return not self.src.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False  # this error is still to be read

    @property
    def held(self) -> int:
        """Bytes that it has in memory or in a pipe."""
        pending = self.pending
        if pending is None:
            return 0
        if isinstance(pending, Pipe):
            return pending.held
        return memoryview(pending.obj).nbytes  # a view of a part keeps the whole

    def hold(self, data: bytes, pipes: Pipes) -> None:
        """Keep *data* pending, because its receiver takes no more."""
        self.pending = memoryview(data)
        pipes.pending_bytes += len(data)

    def clear(self, pipes: Pipes) -> None:
        """Drop what is pending; a pipe with bytes in it is closed."""
        pending, self.pending = self.pending, None
        if isinstance(pending, Pipe):
            pipes.give_back(pending)
        elif pending is not None:
            size = memoryview(pending.obj).nbytes
            pipes.pending_bytes -= size
            if size > BUFFER_BYTES:
                pipes.forget(size)

    def fill(self, pipe: Pipe, loop: Loop) -> Optional[int]:
        """Read into *pipe* once; it is pending then, or is given back because nothing came.

        Returns:
            The bytes read.  0: ``src`` has ended or is dead.  None: nothing is there yet.

        Raises:
            OSError: ``src`` is dead.
        """
        most = PIPE_BYTES
        if loop.short_turns:
            loop.short_turns -= 1
            most = TURN_BYTES
        try:
            size = pipe.fill(self.src.fileno(), most)
        except OSError as exc:
            loop.pipes.give_back(pipe)
            # Nothing is there, although there was an event: recv() tells why.
            self.bulk = 0
            if exc.errno in CANNOT_SPLICE:
                loop.pipes.refuse()
            elif not isinstance(exc, BlockingIOError) and exc.errno not in GO_BY_BUFFER:
                raise
            return None
        if size:
            self.bulk = LITTLE_TIMES if size >= LITTLE_BYTES else self.bulk - 1
            self.pending = pipe
        else:
            loop.pipes.give_back(pipe)
            self.bulk = 0
        return size

    def take_out(self, pipe: Pipe, pipes: Pipes, must: bool = False) -> None:
        """Move what is pending in *pipe* to memory, if there is room: others need the pipe.

        *must*: also without room, because the pipe is of no use.
        """
        data = pipes.keep(pipe, must)
        if data is not None:
            self.bulk = 0
            self.hold(data, pipes)
            if len(data) <= BUFFER_BYTES:
                pipes.forget(len(data))  # as much as every slow receiver may have

    def pass_urgent(self, pipes: Pipes) -> Optional[int]:
        """Send the next byte of ``src`` as TCP's urgent one, if it is.

        It stays in ``src`` until ``dst`` takes it, so nothing that is pending is urgent.  A unix
        socket gets it as any other byte, because not all kernels have urgent ones there.

        Returns:
            The bytes sent: 1, or 0 if ``dst`` takes no more now.  None: it is not urgent.

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
    """Return the mask of an end, given the flows out of it and into it.

    *waits_behind*: a flow of which the urgent byte waits for bytes before it.
    """
    mask = 0
    if outgoing.wants_read():
        mask = READ_MARKED if outgoing is waits_behind else READ_URGENT
    if incoming.pending is not None:
        mask |= WRITE
    if not mask and (outgoing.died is not None or (outgoing.eof and incoming.done)):
        return UNWATCHED  # dead, or shut both ways: it would be reported for ever
    # Else mask 0, which still reports a reset: an end that has half-closed may vanish
    # while the other one sends nothing, and the pair would never end.
    return mask


#: Errors of a peer that has not answered for long: why the last packet to it came back, if so.
_LOST = [
    getattr(errno, name, None)
    for name in ("ETIMEDOUT", "EHOSTUNREACH", "EHOSTDOWN", "ENETUNREACH", "ENETDOWN", "ENONET")
]


def word_of(code: Optional[int]) -> str:
    """Return the word for the end of a connection with this errno: "lost" or "reset"."""
    return "lost" if code and code in _LOST else "reset"
