"""Pairs: bytes both ways between a client and its target, until both are done.

It never blocks, and holds at most one read for a slow receiver.

The fast path is ``Pair.on_ready`` and what it calls:

* A message is read into the loop's one buffer and sent at once.  Most are sent whole, with no
  system call but ``recv`` and ``send``.
* A read that fills the buffer is a sign of bulk: that direction goes through a pipe from then on
  (``pipes.Pipe``), a MiB with two system calls and nothing copied.  A direction that brings little
  goes back to the buffer: for short messages a pipe takes 1.4 times the processor time.
* The poller is called when the wanted events change.
"""

import socket
from typing import Dict, Optional, Union

from minisocks.compat import READ, READ_URGENT, READS, UNWATCHED, URGENT, WRITE, unblock
from minisocks.net.job import Job
from minisocks.net.loop import BUFFER_BYTES, Loop
from minisocks.net.pipes import CANNOT_SPLICE, GO_BY_BUFFER, Pipe
from minisocks.record import Record
from minisocks.relay.flow import LITTLE_TIMES, SHORT_TURNS, Flow, wanted_events, word_of
from minisocks.relay.rate import Budget, Share
from minisocks.relay.watches import Delivery, Idle, Kept, has_vanished

__all__ = ["Pair"]

#: A read that is a sign of bulk, because it fills the buffer; and the longest short message.
BULK_BYTES, MESSAGE_BYTES = BUFFER_BYTES, 4096


class Pair(Job):
    """A client, its target and the bytes between them.

    ::

        client --up--> upstream      open -> eof -> done   (FIN passed on)
        client <-down- upstream      open -> eof -> done
        both done: close.  One end is reset: the bytes it had sent are delivered,
        then the other end is reset, too.

    Args:
        early: bytes that the client sent behind its request; the target's first ones.
        client_mask: the events for which the loop watches the client already.
        share: the client's, in what ``--rate`` allows; None: there is no limit.
    """

    __slots__ = (
        *("_client_mask", "_delivery", "_down", "_early", "_end", "_kept", "_loop", "_record"),
        *("_share", "_up", "_upstream_mask", "idle"),
    )

    #: Whether bytes may go through pipes, and ``begin`` may do nothing but watch.
    may_splice = True

    def __init__(
        self,
        loop: Loop,
        client: socket.socket,
        upstream: socket.socket,
        record: Record,
        early: bytes,
        client_mask: int = UNWATCHED,
        share: Optional[Share] = None,
    ) -> None:
        self._loop = loop
        self._record = record
        self._early = early
        self._share = share
        self._up = Flow(client, upstream, share.up if share else None)
        self._down = Flow(upstream, client, share.down if share else None)
        # The events that the loop watches for: a change is a system call.
        self._client_mask = client_mask
        self._upstream_mask = UNWATCHED
        self._end = ""
        #: For ``--idle-timeout``.
        self.idle: Optional[Idle] = None
        #: Once a receiver has kept a pipe.
        self._kept: Optional[Kept] = None
        #: Of a broken pair only.
        self._delivery: Optional[Delivery] = None

    def begin(self) -> None:
        """Watch both sockets; a FIN or bytes that are there already come as events."""
        unblock(self._up.src)
        unblock(self._down.src)
        if self._client_mask != UNWATCHED:
            self._loop.reassign(self._up.src.fileno(), self)
        if self._share is not None:
            self._share.join()
        if self._early:
            self._read(self._up)
        if self.idle is not None:
            self.idle.begin()
        self._update()

    def watched_at_once(self) -> Optional[Dict[int, int]]:
        """Return both ends, for reading: most pairs begin with nothing else."""
        is_plain = self.idle is None and self._share is None and not self._early
        if not self.may_splice or not is_plain or self._client_mask != UNWATCHED:
            return None
        for sock in (self._up.src, self._down.src):
            unblock(sock)
        # The client last, because it often sends first.
        return {self._down.src.fileno(): READ_URGENT, self._up.src.fileno(): READ_URGENT}

    def watched(self) -> None:
        """Note that both ends are watched."""
        self._client_mask = self._upstream_mask = READ_URGENT

    @property
    def held(self) -> int:
        """Bytes that wait for receivers which take no more."""
        return self._up.held + self._down.held

    def shed(self, why: str) -> None:
        """Reset both ends, because memory is short."""
        self._record.why = why
        self.abort("memory-limit")

    def on_ready(self, fd: int, mask: int) -> None:
        """Write what waits for *fd* and read what it has: each once at most."""
        if fd == self._up.src.fileno():
            outgoing, incoming = self._up, self._down
        else:
            outgoing, incoming = self._down, self._up
        if mask == READ and not outgoing.budget and outgoing.pending is None and not outgoing.eof:
            self._pump(outgoing, self._loop.buffer)
            if outgoing.pending is None and not outgoing.eof:
                return  # the wanted events are the same
        else:
            wanted = incoming.pending is not None or outgoing.wants_read()
            if not wanted and mask & ~(READS | WRITE):
                self._dead(outgoing, incoming)
            if incoming.pending is not None and mask & ~READS:
                self._push(incoming, incoming.pending)
                if self._early and self._up.wants_read():
                    self._read(self._up)
            if outgoing.wants_read() and mask & ~(WRITE | URGENT):
                self._read(outgoing, may_be_urgent=bool(mask & READS & ~READ))
        # URGENT alone: it cannot be read yet, for a segment before it is lost.
        self._update(outgoing if mask == URGENT else None)

    def on_bulk(self, fd: int, mask: int) -> None:
        """Do the same; carry no more bulk if neither direction does."""
        self.on_ready(fd, mask)
        if not self._up.bulk and not self._down.bulk:
            self._set_bulk(False)

    def _set_bulk(self, is_bulk: bool) -> None:
        self._loop.set_bulk(self._up.src.fileno(), self._client_mask, is_bulk)
        self._loop.set_bulk(self._up.dst.fileno(), self._upstream_mask, is_bulk)

    def look_after_peers(self) -> None:
        """Reset the pair if an end has vanished and all its bytes are read."""
        for flow in (self._up, self._down):
            if has_vanished(flow.src) and flow.is_dry():
                self._reset(flow, "lost")
                self._update()

    def abort(self, why: str) -> None:
        """Reset both ends, because a FIN would say that the streams are complete."""
        self._up.broken = self._down.broken = True
        self._end = why
        self._close()

    def is_held_back(self) -> bool:
        """Return whether a direction waits for tokens."""
        return self._share is not None and self._share.waits

    def read_on(self, budget: Budget) -> None:
        """Read in the direction of *budget*, which has waited, unless it has ended meanwhile."""
        flow = self._up if budget is self._up.budget else self._down
        if flow.wants_read():
            # No event says whether the urgent byte has come.
            self._read(flow, may_be_urgent=True, has_waited=True)
            self._update()

    def _read(self, flow: Flow, may_be_urgent: bool = False, has_waited: bool = False) -> None:
        """Send what comes first: early bytes, TCP's urgent byte, or what can be read.

        As much at once as the budget allows; the flow waits if that is used up.
        """
        budget, size = flow.budget, 0
        most = None if budget is None else budget.available(has_waited)
        if most == 0:
            pass
        elif flow is self._up and self._early:
            size = min(most or len(self._early), len(self._early))
            data, self._early = self._early[:size], self._early[size:]
            self._push(flow, memoryview(data))
        elif may_be_urgent and self._pass_urgent(flow):
            size = 1
        else:
            size = self._pump(flow, self._loop.buffer[:most] if most else self._loop.buffer)
        if budget is None or (most and not size):
            return  # an event says when there is more
        budget.spend(size)
        is_early = flow is self._up and self._early
        if flow.wants_read() and (is_early or not budget.available()):
            budget.wait(self)

    def _pump(self, flow: Flow, space: memoryview) -> int:
        """Read into *space* once and send the bytes; return how many, 0 for those in a pipe."""
        if flow.bulk:
            pipe = self._loop.pipes.borrow()
            if pipe is not None:
                self._pump_bulk(flow, pipe)
                return 0
        try:
            size = flow.src.recv_into(space)
        except BlockingIOError:
            return 0
        except OSError as exc:
            self._reset(flow, word_of(exc.errno))
            return 0
        if size:
            if size <= MESSAGE_BYTES:
                self._loop.short_turns = SHORT_TURNS
                flow.bulk -= flow.bulk > 0  # as with a pipe, of which there was none
            if size >= BULK_BYTES and self.may_splice and flow.budget is None:
                if not flow.bulk:
                    self._set_bulk(True)
                flow.bulk = LITTLE_TIMES
            self._push(flow, space[:size])
        else:
            self._over(flow)
        return size

    def _pass_urgent(self, flow: Flow) -> bool:
        """Send the next byte as the urgent one, if it is; return whether it is."""
        try:
            sent = flow.pass_urgent(self._loop.pipes)
        except OSError as exc:
            self._lose_receiver(flow, exc)
            return True
        if flow is self._up:
            self._record.up += sent or 0
        else:
            self._record.down += sent or 0
        return sent is not None

    def _pump_bulk(self, flow: Flow, pipe: Pipe) -> None:
        """Do the same through *pipe*, which the flow keeps if not all can be sent."""
        try:
            size = flow.fill(pipe, self._loop)
        except OSError as exc:
            self._reset(flow, word_of(exc.errno))
            return
        if size:
            self._push(flow, pipe)
        elif size is not None:
            self._pump(flow, self._loop.buffer)  # the end or a reset: recv() tells which

    def _push(self, flow: Flow, data: Union[memoryview, Pipe]) -> None:
        """Send *data*; what is not sent becomes, or stays, ``flow.pending``."""
        try:
            if isinstance(data, Pipe):
                sent = data.empty(flow.dst.fileno())
                left = data.held
            else:
                sent = flow.dst.send(data)
                left = len(data) - sent
        except BlockingIOError:
            sent, left = 0, 1
        except OSError as exc:
            if isinstance(data, Pipe) and exc.errno in GO_BY_BUFFER:
                flow.take_out(data, self._loop.pipes, must=True)
                self._loop.stalls(self)
                if exc.errno in CANNOT_SPLICE:
                    self._loop.pipes.refuse()
                return
            self._lose_receiver(flow, exc)
            return
        if flow is self._up:
            self._record.up += sent
        else:
            self._record.down += sent
        if not left:
            if flow.pending is not None:
                flow.clear(self._loop.pipes)
            if flow.eof:
                self._finish_if_drained(flow)
        elif isinstance(data, Pipe):
            if self._kept is None:
                self._kept = Kept(self._loop, self, self._record, (self._up, self._down))
            self._kept.expect()
            self._loop.stalls(self)
        elif data is flow.pending:
            flow.pending = data[sent:]
        else:
            flow.hold(bytes(data[sent:]), self._loop.pipes)  # all pairs share the buffer
            self._loop.stalls(self)

    def _over(self, flow: Flow) -> None:
        """Note that the stream of ``flow.src`` has ended."""
        if flow.died:
            self._reset(flow, word_of(flow.died))
        else:
            flow.eof = True
            self._note(flow.src, "fin")
            self._finish_if_drained(flow)

    def _finish_if_drained(self, flow: Flow) -> None:
        if not flow.eof or flow.pending is not None or flow.done:
            return
        flow.done = True
        if self._is_broken():
            return  # a RST follows, not a FIN
        try:
            flow.dst.shutdown(socket.SHUT_WR)
        except OSError:
            self._break(flow)  # reset in the meantime

    def _lose_receiver(self, flow: Flow, exc: OSError) -> None:
        # The bytes it had sent may still wait in the kernel: the other direction reads on.
        self._break(flow)
        self._note(flow.dst, word_of(exc.errno))

    def _break(self, flow: Flow) -> None:
        """End *flow*: its ``dst`` takes nothing any more."""
        flow.clear(self._loop.pipes)
        flow.eof = flow.done = flow.broken = True

    def _reset(self, flow: Flow, how: str) -> None:
        """End both directions: ``flow.src`` is dead."""
        self._note(flow.src, how)
        self._break(self._down if flow is self._up else self._up)
        flow.eof = True
        self._finish_if_drained(flow)

    def _dead(self, outgoing: Flow, incoming: Flow) -> None:
        """Note that an end of which nothing is wanted just now is dead."""
        code = outgoing.died = outgoing.src.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code and outgoing.eof:
            self._reset(outgoing, word_of(code))
        elif code:
            # Its bytes wait for a slow receiver, which gets all of them first.
            self._note(outgoing.src, word_of(code))
            self._break(incoming)
        elif outgoing.eof:
            # A unix socket that was closed: nothing is lost, but nothing is received either.
            incoming.clear(self._loop.pipes)
            incoming.eof = incoming.done = True

    def _is_broken(self) -> bool:
        """Return whether an end is dead, so that the other one is to be reset."""
        return self._up.broken or self._down.broken

    def _note(self, sock: socket.socket, how: str) -> None:
        """Keep which end ended it: the first FIN, unless a reset came later."""
        if not self._end or (how != "fin" and self._end.endswith("fin")):
            self._end = ("client-" if sock is self._up.src else "target-") + how

    def _update(self, waits_behind: Optional[Flow] = None) -> None:
        """Watch for the events that are wanted now, or end the pair.

        *waits_behind*: the direction of which the urgent byte has come, but not all before it.
        """
        up, down = self._up, self._down
        is_over = up.done and down.done
        if self._is_broken():
            if self._delivery is None:
                self._delivery = Delivery(self._loop, self, self._record, (up, down), self._close)
            self._delivery.expect(is_over)
        elif is_over:
            self._close()
        if is_over:
            return
        mask = wanted_events(up, down, waits_behind)
        if mask != self._client_mask:
            self._client_mask = mask
            self._watch(up.src, mask)
        mask = wanted_events(down, up, waits_behind)
        if mask != self._upstream_mask:
            self._upstream_mask = mask
            self._watch(up.dst, mask)

    def _watch(self, sock: socket.socket, mask: int) -> None:
        if mask == UNWATCHED:
            self._loop.unwatch(sock.fileno())
        else:
            self._loop.watch(sock.fileno(), mask, self)

    def _close(self) -> None:
        loop = self._loop
        if self._record.end is not None:
            return
        for timer in (self._kept, self._delivery, self.idle):
            if timer is not None:
                timer.cancel()
        if self._share is not None:
            self._share.leave()
        for flow in (self._up, self._down):
            flow.clear(loop.pipes)
            loop.close_later(flow.src, reset=self._is_broken())
        self._record.finish(self._end)
        loop.done(self)
