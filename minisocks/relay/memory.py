"""``--memory-limit``: memory for connections and their buffered data.

Above it, the connection with most undelivered data is reset.  Connections count with an
estimate each; buffered data is what waits because its receiver takes no more.
"""

import heapq
import time
from typing import List, Optional, Sized, Tuple

from minisocks.errors import LimitReached
from minisocks.net.job import Background
from minisocks.net.loop import BUFFER_BYTES, Loop, run_in
from minisocks.relay.flow import SHORT_TURNS
from minisocks.relay.pair import Pair
from minisocks.values import shown_bytes

__all__ = ["Memory"]

#: Python's memory for a connection, in any state (measured: tests/e2e/test_costs.py).
BYTES_EACH = 1640
#: So many connections with most data are kept in a list; it also keeps those that have ended.
FOUND_AT_ONCE = 256
#: A connection that is stalled for less may go on the next moment, and is reset last.
PATIENCE_SECONDS = 1.0
#: Events of a round, because connections are reset between rounds, and after each event 64 KiB
#: more may wait: with hundreds of events, 6 MiB waited where 2 MiB may.
ROUND_EVENTS = 32


class Memory(Background):
    """Keeps the memory of a loop's connections below a limit.  Loop thread, except ``admit``.

    It keeps a list of what to reset next, because many connections may be stalled.

    Args:
        pending: the handshakes that are not finished, each counted as a connection.
    """

    def __init__(self, loop: Loop, pending: Sized) -> None:
        self._loop = loop
        self._pending = pending
        self._limit: Optional[int] = None
        #: Pairs that were stalled at the last look and were not reset since; most data last.
        self._found: List[Pair] = []
        self._is_called = False

    @property
    def used(self) -> int:
        """The bytes that are counted.  Any thread."""
        loop = self._loop
        waiting = loop.pipes.pending_bytes + loop.pipes.held_bytes
        return BUFFER_BYTES + (len(loop) + len(self._pending)) * BYTES_EACH + waiting

    def change(self, limit: Optional[int]) -> None:
        """Use *limit*, in bytes, from now on; None: there is none."""
        loop, self._limit = self._loop, limit
        if limit is None:
            self._found = []
            loop.on_stalled, loop.most_events = lambda: None, -1
            loop.done(self)
        else:
            loop.most_events = ROUND_EVENTS
            loop.submit(self)
            loop.on_stalled = self._check

    def begin(self) -> None:
        """Check whether the limit is reached already."""
        self._is_called = False
        self._check()

    def abort(self, why: str) -> None:
        """Check no more; the proxy ends."""
        self.change(None)

    def admit(self) -> None:
        """Check that there is room for a connection whose handshake is pending.  Any thread.

        Raises:
            LimitReached: there is none, and no stalled connection could be reset for it.
        """
        limit = self._limit
        if limit is None or self.used <= limit:
            return
        # Asked in the loop's thread: elsewhere, a flow may just hold more for a moment.
        if not run_in(self._loop, self._make_room):
            raise LimitReached(
                "there is no memory for more connections (--memory-limit %s)" % shown_bytes(limit)
            )

    def _check(self) -> None:
        if self._limit is not None and not self._is_called and self.used > self._limit:
            # Not at once: the connection that stalls is being served just now.
            self._is_called = True
            # Short reads: a fast connection must not hold more than others only for a moment.
            self._loop.short_turns = SHORT_TURNS
            self._loop.call_soon(self, self._shed)

    def _make_room(self) -> bool:
        """Reset as many as needed; return whether there is room then."""
        self._shed()
        return self._limit is None or self.used <= self._limit

    def _shed(self) -> None:
        """Reset connections until it is enough, or none is stalled."""
        self._is_called = False
        while self._limit is not None and self.used > self._limit:
            pair = self._largest()
            if pair is None:
                return
            pair.shed(
                "shed: it held most of what its receiver does not take (--memory-limit %s)"
                % shown_bytes(self._limit)
            )

    def _largest(self) -> Optional[Pair]:
        while True:
            if not self._found:
                self._found = self._look()[::-1]
                if not self._found:
                    return None
            pair = self._found.pop()
            if pair in self._loop.stalled and pair.held:
                return pair

    def _look(self) -> List[Pair]:
        """Return the stalled pairs, those with most data first."""
        stalled = self._loop.stalled
        ranks: List[Tuple[bool, int, int, Pair]] = []
        before = time.monotonic() - PATIENCE_SECONDS
        for job, since in list(stalled.items()):
            if isinstance(job, Pair) and job.held:
                # One that is not stalled holds something, too, for a moment at a time.
                ranks.append((since < before, job.held, len(ranks), job))
            else:
                del stalled[job]  # it goes on again: to note it here costs a pair nothing
        return [rank[-1] for rank in heapq.nlargest(FOUND_AT_ONCE, ranks)]
