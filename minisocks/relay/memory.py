"""``--memory-limit``: when it is reached, somebody has to go, and never the process.

Counted is what clients can make grow: connections, each with an estimate, and what
waits in them because its receiver takes no more.
"""

import heapq
import time
from typing import List, Optional, Sized, Tuple

from minisocks.errors import LimitReached
from minisocks.net.loop import BUFFER_BYTES, Background, Loop, run_in
from minisocks.net.job import Background
from minisocks.net.loop import BUFFER_BYTES, Loop
from minisocks.relay.pair import SHORT_TURNS, Pair
from minisocks.values import shown_bytes

__all__ = ["Memory"]

#: What a connection has of Python's, in whatever state (measured: tests/e2e/test_costs.py).
BYTES_EACH = 1640
#: So many of those who hold most are remembered; who has ended since is kept by that.
FOUND_AT_ONCE = 256
#: Who was stalled only since then may be no more the next moment, and goes last.
PATIENCE_SECONDS = 1.0
#: So many events a round of the loop has, because it sheds between rounds, and each event may
#: have another 64 KiB wait: with hundreds in one round, 6 MiB waited where 2 MiB may.
ROUND_EVENTS = 32


class Memory(Background):
    """Keeps the connections of a loop below a limit.

    A class because it remembers whom it found: in a flood of those who take nothing it
    does not look at all of them for each.  Loop thread, except ``admit``.

    Args:
        pending: the handshakes that are not finished, each counted as a connection.
    """

    def __init__(self, loop: Loop, pending: Sized) -> None:
        self._loop = loop
        self._pending = pending
        self._limit: Optional[int] = None
        #: Whoever was stalled when it looked last and has not been shed, the greediest last.
        self._found: List[Pair] = []
        self._is_called = False

    @property
    def used(self) -> int:
        """How many bytes are counted.  Any thread."""
        loop = self._loop
        waiting = loop.pipes.pending_bytes + loop.pipes.held_bytes
        return BUFFER_BYTES + (len(loop) + len(self._pending)) * BYTES_EACH + waiting

    def change(self, limit: Optional[int]) -> None:
        """Go by *limit* from now on; None: there is none."""
        loop, self._limit = self._loop, limit
        if limit is None:
            self._found = []
            loop.on_stalled, loop.most_events = _nothing, -1
            loop.done(self)
        else:
            loop.most_events = ROUND_EVENTS
            loop.submit(self)
            loop.on_stalled = self._check

    def begin(self) -> None:
        """See whether it is reached already."""
        self._is_called = False
        self._check()

    def abort(self, why: str) -> None:
        """Leave them all alone; the proxy ends."""
        self.change(None)

    def admit(self) -> None:
        """See whether there is room for a connection whose handshake is pending.  Any thread.

        Raises:
            LimitReached: no, and nothing is stalled that could be shed for it.
        """
        limit = self._limit
        if limit is None or self.used <= limit:
            return
        # The loop's own word: a moment later a flow may hold more, for a moment.
        if not run_in(self._loop, self._make_room):
            raise LimitReached(
                "there is no memory for more connections (--memory-limit %s)" % shown_bytes(limit)
            )

    def _check(self) -> None:
        if self._limit is not None and not self._is_called and self.used > self._limit:
            # Not at once: whoever stalls is in the middle of something.
            self._is_called = True
            # Of who is shed for others, nobody should hold more because he flows fast.
            self._loop.short_turns = SHORT_TURNS
            self._loop.call_soon(self, self._shed)

    def _make_room(self) -> bool:
        """Shed what must be; return whether there is room then."""
        self._shed()
        return self._limit is None or self.used <= self._limit

    def _shed(self) -> None:
        """Reset one after the other until it is enough, or none is left that is stalled."""
        self._is_called = False
        while self._limit is not None and self.used > self._limit:
            pair = self._greediest()
            if pair is None:
                return
            pair.shed(
                "shed: it held most of what its receiver does not take (--memory-limit %s)"
                % shown_bytes(self._limit)
            )

    def _greediest(self) -> Optional[Pair]:
        while True:
            if not self._found:
                self._found = self._look()[::-1]
                if not self._found:
                    return None
            pair = self._found.pop()
            if pair in self._loop.stalled and pair.held:
                return pair

    def _look(self) -> List[Pair]:
        """Return those who hold most, the greediest first."""
        stalled = self._loop.stalled
        ranks: List[Tuple[bool, int, int, Pair]] = []
        before = time.monotonic() - PATIENCE_SECONDS
        for job, since in list(stalled.items()):
            if isinstance(job, Pair) and job.held:
                # Who flows holds something, too, for a moment at a time.
                ranks.append((since < before, job.held, len(ranks), job))
            else:
                del stalled[job]  # it flows again: noticed here, it costs nothing there
        return [rank[-1] for rank in heapq.nlargest(FOUND_AT_ONCE, ranks)]


def _nothing() -> None:
    pass
