"""Pairs: bytes both ways between a client and its target, until both are done.

Lives in the loop.  Never blocks; holds at most one read's worth of bytes for a
direction whose receiver is slow (and then reads no more from its sender).
"""

import errno
import socket
from typing import Optional, Tuple

from minisocks.compat import READ, WRITE, unblock, unsent_bytes
from minisocks.loop import Job, Loop
from minisocks.record import Record

__all__ = ["Lingering", "Pair"]

#: Neither readable nor writable nor dead: the loop does not know the descriptor.
UNWATCHED = -1
#: Bytes received before a reset are delivered first; but a receiver that takes
#: none of them for so long does not keep the pair.
STANDSTILL_SECONDS = 10.0
#: A refused client is listened to until EOF, or one of these.
LINGER_SECONDS = 2.0
LINGER_BYTES = 256 * 1024


class Flow:
    """One direction of a pair: bytes read from ``src``, not yet taken by ``dst``.

    ::

        open      reading, unless ``pending`` waits for ``dst``
        eof       ``src`` has said FIN or is dead; ``pending`` goes out
        done      nothing more to do: FIN passed on once, after the last byte
        broken    done, because ``dst`` is dead; what was meant for it is lost

    and beside those, of its ``src``:

        hung_up   the kernel reports it dead for ever, so it is not watched
                  unless wanted: what it had said may still be unread
        died      with this error, which the kernel tells only once
    """

    __slots__ = ("broken", "died", "done", "dst", "eof", "hung_up", "pending", "src")

    def __init__(self, src: socket.socket, dst: socket.socket, pending: bytes) -> None:
        self.src = src
        self.dst = dst
        self.pending: Optional[memoryview] = memoryview(pending) if pending else None
        self.eof = False
        self.done = False
        self.broken = False
        self.hung_up = False
        self.died = 0

    def wants_read(self) -> bool:
        return self.pending is None and not self.eof


class Pair(Job):
    """A client, its target and what flows between them.

    ::

        client --up--> upstream      open -> eof -> done   (FIN passed on)
        client <-down- upstream      open -> eof -> done
        both done: close.  A reset end: what it had sent is delivered first,
        then the other end is reset too.

    Args:
        early: what the client sent behind its request; the target's first bytes.
    """

    __slots__ = (
        "_broken",
        "_client_fd",
        "_client_mask",
        "_closed",
        "_down",
        "_end",
        "_loop",
        "_record",
        "_up",
        "_upstream_fd",
        "_upstream_mask",
    )

    def __init__(
        self,
        loop: Loop,
        client: socket.socket,
        upstream: socket.socket,
        record: Record,
        early: bytes,
    ) -> None:
        self._loop = loop
        self._record = record
        self._up = Flow(client, upstream, early)
        self._down = Flow(upstream, client, b"")
        self._client_fd = client.fileno()
        self._upstream_fd = upstream.fileno()
        # What the loop was last told to wait for. Telling it is a system call.
        self._client_mask = self._upstream_mask = UNWATCHED
        self._end = ""
        self._broken = False
        self._closed = False

    def begin(self) -> None:
        """Take both sockets in; a FIN or bytes that are there come as events."""
        unblock(self._up.src)
        unblock(self._down.src)
        if self._up.pending is not None:
            self._push(self._up, self._up.pending)
        self._update()

    def on_ready(self, fd: int, mask: int) -> None:
        """Write what waits for *fd*, or read what it has: one of each at most."""
        if fd == self._client_fd:
            outgoing, incoming = self._up, self._down
        else:
            outgoing, incoming = self._down, self._up
        wanted = incoming.pending is not None or outgoing.wants_read()
        if not wanted and mask & ~(READ | WRITE):
            self._dead(outgoing, incoming)
        if incoming.pending is not None and mask & ~READ:
            self._push(incoming, incoming.pending)
        if outgoing.wants_read() and mask & ~WRITE:
            self._pump(outgoing)
        self._update()

    def abort(self, why: str) -> None:
        """Reset both ends: a FIN would pass a torn stream off as complete."""
        self._broken = True
        self._end = why
        self._close()

    def _pump(self, flow: Flow) -> None:
        buffer = self._loop.buffer
        try:
            size = flow.src.recv_into(buffer)
        except BlockingIOError:
            return
        except OSError as exc:
            self._reset(flow, flow.src.fileno(), exc.errno or 0)
            return
        if size:
            self._push(flow, buffer[:size])
        elif flow.died:
            self._reset(flow, flow.src.fileno(), flow.died)
        else:
            flow.eof = True
            self._note(flow.src.fileno(), "fin")
            self._finish_if_drained(flow)

    def _push(self, flow: Flow, data: memoryview) -> None:
        try:
            sent = flow.dst.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            # Its receiver is gone, but what the receiver had sent before may
            # still wait in the kernel: the other direction reads on to its end.
            self._break(flow)
            self._note(flow.dst.fileno(), _word(exc.errno or 0))
            return
        if flow is self._up:
            self._record.up += sent
        else:
            self._record.down += sent
        if sent == len(data):
            flow.pending = None
            self._finish_if_drained(flow)
        elif data is flow.pending:
            flow.pending = data[sent:]
        else:
            flow.pending = memoryview(bytes(data[sent:]))  # the buffer is everybody's

    def _finish_if_drained(self, flow: Flow) -> None:
        if not flow.eof or flow.pending is not None or flow.done:
            return
        flow.done = True
        if self._broken:
            return  # a RST follows, not a FIN
        try:
            flow.dst.shutdown(socket.SHUT_WR)
        except OSError:
            self._break(flow)  # reset in the meantime

    def _break(self, flow: Flow) -> None:
        """Give *flow* up: its ``dst`` takes nothing any more."""
        flow.pending = None
        flow.eof = flow.done = flow.broken = True
        if not self._broken:
            self._broken = True
            self._expect_delivery(())

    def _reset(self, flow: Flow, fd: int, code: int) -> None:
        """``flow.src`` is dead: nothing comes from it and nothing goes to it."""
        self._note(fd, _word(code))
        self._break(self._down if flow is self._up else self._up)
        flow.eof = True
        self._finish_if_drained(flow)

    def _dead(self, outgoing: Flow, incoming: Flow) -> None:
        """An end of which nothing is wanted just now is gone."""
        outgoing.hung_up = True
        code = outgoing.src.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code and outgoing.eof:
            self._reset(outgoing, outgoing.src.fileno(), code)
        elif code:
            # It waits for a slow reader, who first gets all that it had said.
            outgoing.died = code
            self._note(outgoing.src.fileno(), _word(code))
            self._break(incoming)
        elif outgoing.eof:
            # A unix socket closed in good order: no break, but nobody there.
            incoming.pending = None
            incoming.eof = incoming.done = True

    def _note(self, fd: int, how: str) -> None:
        """Remember who ended it: the first FIN, unless a reset came later."""
        if not self._end or (how != "fin" and self._end.endswith("fin")):
            self._end = ("client-" if fd == self._client_fd else "target-") + how

    def _update(self) -> None:
        """Tell the loop what this pair waits for now, or end it."""
        up, down = self._up, self._down
        if up.done and down.done:
            self._end_when_delivered()
            return
        mask = self._wish(up, down)
        if mask != self._client_mask:
            self._client_mask = mask
            self._watch(self._client_fd, mask)
        mask = self._wish(down, up)
        if mask != self._upstream_mask:
            self._upstream_mask = mask
            self._watch(self._upstream_fd, mask)

    @staticmethod
    def _wish(outgoing: Flow, incoming: Flow) -> int:
        """Return what is wanted of an end, given the flows out of it and into it."""
        mask = READ if outgoing.wants_read() else 0
        if incoming.pending is not None:
            mask |= WRITE
        if not mask and (outgoing.hung_up or (outgoing.eof and incoming.done)):
            return UNWATCHED  # dead, or shut both ways: it would say so for ever
        # Else mask 0 still tells of a reset: who has half-closed may vanish
        # while the other end says nothing, and the pair would never end.
        return mask

    def _watch(self, fd: int, mask: int) -> None:
        if mask == UNWATCHED:
            self._loop.unwatch(fd)
        else:
            self._loop.watch(fd, mask, self)

    def _end_when_delivered(self) -> None:
        if not self._broken:
            self._close()
            return
        # A RST overtakes and destroys what the kernel has not delivered yet.
        # Whoever still listens gets all of it first.
        self._loop.unwatch(self._client_fd)
        self._loop.unwatch(self._upstream_fd)
        self._wait_for_delivery(0.01)

    def _wait_for_delivery(self, seconds: float) -> None:
        if any(unsent for _count, unsent in self._undelivered()):
            again = min(1.0, seconds * 2)
            self._loop.call_later(seconds, self, lambda: self._wait_for_delivery(again))
        else:
            self._close()

    def _undelivered(self) -> Tuple[Tuple[int, int], ...]:
        """Return how far each direction is whose receiver still lives."""
        record = self._record
        flows = ((self._up, record.up), (self._down, record.down))
        return tuple((count, unsent_bytes(flow.dst)) for flow, count in flows if not flow.broken)

    def _expect_delivery(self, before: Tuple[Tuple[int, int], ...]) -> None:
        """Of a broken pair: close it when its last bytes are at a standstill."""
        now = self._undelivered()
        if now == before:
            self._close()
        else:
            self._loop.call_later(STANDSTILL_SECONDS, self, lambda: self._expect_delivery(now))

    def _close(self) -> None:
        loop = self._loop
        if self._closed:
            return
        self._closed = True
        loop.close_later(self._up.src, reset=self._broken)
        loop.close_later(self._up.dst, reset=self._broken)
        self._record.finish(self._end)
        loop.done(self)


def _word(code: int) -> str:
    return "lost" if code == errno.ETIMEDOUT else "reset"


class Lingering(Job):
    """A refused client: has its reply and our FIN, and is heard out.

    Closing at once with unread bytes would send a RST, which destroys the
    reply that is on its way.  So read and discard until EOF, a bound or 2 s.
    """

    __slots__ = ("_left", "_loop", "_sock", "_timer")

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        self._loop = loop
        self._sock = sock
        self._left = LINGER_BYTES

    def begin(self) -> None:
        """Start listening, and the clock."""
        unblock(self._sock)
        self._timer = self._loop.call_later(LINGER_SECONDS, self, self._close)
        self._loop.watch(self._sock.fileno(), READ, self)

    def on_ready(self, fd: int, mask: int) -> None:
        """Discard what came; close at EOF, at an error, or at the bound."""
        try:
            size = self._sock.recv_into(self._loop.buffer)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        self._left -= size
        if not size or self._left <= 0:
            self._timer.cancel()
            self._close()

    def abort(self, why: str) -> None:
        """Close now."""
        self._close()

    def _close(self) -> None:
        self._loop.close_later(self._sock)
        self._loop.done(self)
