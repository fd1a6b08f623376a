"""Watches: what looks at a connection now and then, and ends what makes no progress.

Bytes that are relayed cost nothing more: a watch has a timer and looks at the counts of the record.
"""

import socket
import struct
import sys
from typing import Callable, List, Optional, Tuple

from minisocks.compat import unsent_bytes
from minisocks.net.job import Background, Job, Timer
from minisocks.net.loop import Loop
from minisocks.net.pipes import Pipe
from minisocks.record import Record
from minisocks.relay.flow import Flow

__all__ = ["Delivery", "Idle", "Kept", "VanishedPeers", "has_vanished"]

#: An idle connection is looked at so often within its time, so it ends at most a quarter late.
LOOKS = 4
#: Seconds that a receiver may keep a pipe and take nothing of what is in it.
PIPE_SECONDS = 1.0
#: Seconds after which the last bytes of a broken pair are given up if nothing of them was taken.
STANDSTILL_SECONDS = 10.0
#: Seconds from one question to the kernel what is left to the next: at first, and at most.
FIRST_LOOK_SECONDS, LAST_LOOK_SECONDS = 0.01, 1.0
#: Seconds from one search for vanished peers to the next, while there are connections.
LOOK_SECONDS = 60.0
#: Connections that are searched in a round of the loop, which takes a third of a millisecond.
AT_ONCE = 100
#: Packets without an answer.  One is not enough: its answer may be on the way.
UNANSWERED = 2

#: Linux's ``struct tcp_info``, which grows at its end only: retransmissions and probes without an
#: answer, an octet each; then milliseconds since data and since an acknowledgement came.
_TCP_INFO = getattr(socket, "TCP_INFO", None) if sys.platform.startswith("linux") else None
_RETRANSMITS, _PROBES = 2, 3
_SILENT = struct.Struct("=52x2I")


class _Watch:
    """A timer of *job*, and the record that it looks at.  Loop thread."""

    __slots__ = ("_job", "_loop", "_record", "_timer")

    def __init__(self, loop: Loop, job: Job, record: Record) -> None:
        self._loop = loop
        self._job = job
        self._record = record
        self._timer: Optional[Timer] = None

    def cancel(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()  # else it would keep the job until its time


class Idle(_Watch):
    """Calls *end* when the record of *job* counts no byte and no datagram for *seconds*."""

    __slots__ = ("_end", "_quiet", "_seconds", "_seen")

    def __init__(
        self, loop: Loop, job: Job, record: Record, seconds: float, end: Callable[[], None]
    ) -> None:
        super().__init__(loop, job, record)
        self._seconds = seconds
        self._end = end
        self._seen = self._quiet = 0

    def begin(self) -> None:
        """Start the timer."""
        self._timer = self._loop.call_later(self._seconds / LOOKS, self._job, self._look)

    def _look(self) -> None:
        record = self._record
        now = record.up + record.down
        if record.datagrams is not None:  # of which some are empty
            now += record.datagrams.up + record.datagrams.down
        is_quiet = now == self._seen and not self._job.is_held_back()
        self._quiet = self._quiet + 1 if is_quiet else 0
        self._seen = now
        if self._quiet < LOOKS:
            self.begin()
        else:
            self._end()


class Kept(_Watch):
    """Moves bytes to memory from a pipe whose receiver takes nothing: others need the pipe.

    Args:
        flows: the directions of *job*, up and down.
    """

    __slots__ = ("_flows",)

    def __init__(self, loop: Loop, job: Job, record: Record, flows: Tuple[Flow, Flow]) -> None:
        super().__init__(loop, job, record)
        self._flows = flows

    def expect(self) -> None:
        """Look after ``PIPE_SECONDS`` whether the receiver of a pipe has taken some of it."""
        if self._timer is None:
            before = (self._record.up, self._record.down)
            self._timer = self._loop.call_later(
                PIPE_SECONDS, self._job, lambda: self.check(*before)
            )

    def check(self, *before: int) -> None:
        """Move what is in a pipe to memory if the counts are still those of *before*."""
        self._timer = None
        now = (self._record.up, self._record.down)
        for flow, then, count in zip(self._flows, before, now):
            if isinstance(flow.pending, Pipe):
                if then == count:
                    flow.take_out(flow.pending, self._loop.pipes)
                if isinstance(flow.pending, Pipe):
                    self.expect()


#: For each direction whose receiver lives: bytes sent, and how many of them are unacknowledged.
_Progress = Tuple[Tuple[int, int], ...]


class Delivery(_Watch):
    """Ends *job*, a broken pair, when its last bytes are delivered or no more of them are taken.

    A RST overtakes and destroys what the kernel has not delivered yet.  So a receiver that lives
    gets all of it first, if it takes some of it every 10 s.

    Args:
        flows: the directions of *job*, up and down.
        end: called once.
    """

    __slots__ = ("_end", "_flows", "_look_again")

    def __init__(
        self,
        loop: Loop,
        job: Job,
        record: Record,
        flows: Tuple[Flow, Flow],
        end: Callable[[], None],
    ) -> None:
        super().__init__(loop, job, record)
        self._flows = flows
        self._end = end
        self._look_again: Optional[Timer] = None

    def expect(self, is_over: bool) -> None:
        """Expect progress from now on; *is_over*: all is sent, so end when it is delivered."""
        if is_over:
            for flow in self._flows:
                self._loop.unwatch(flow.src.fileno())
            self._finish()
        elif self._timer is None:
            self._expect_progress(self._progress())

    def _finish(self, seconds: float = FIRST_LOOK_SECONDS) -> None:
        """End if all is delivered; else look again later."""
        now = self._progress()
        if any(unsent for _sent, unsent in now):
            if self._timer is None:
                self._expect_progress(now)
            again = min(LAST_LOOK_SECONDS, seconds * 2)
            self._look_again = self._loop.call_later(
                seconds, self._job, lambda: self._finish(again)
            )
        else:
            self._end()

    def cancel(self) -> None:
        """Look no more."""
        super().cancel()
        if self._look_again is not None:
            self._look_again.cancel()

    def _expect_progress(self, before: _Progress) -> None:
        self._timer = self._loop.call_later(
            STANDSTILL_SECONDS, self._job, lambda: self._check(before)
        )

    def _check(self, before: _Progress) -> None:
        now = self._progress()
        if now == before:
            self._end()
        else:
            self._expect_progress(now)

    def _progress(self) -> _Progress:
        counts = self._record.up, self._record.down
        ways = zip(counts, self._flows)
        return tuple((count, unsent_bytes(flow.dst)) for count, flow in ways if not flow.broken)


def has_vanished(sock: socket.socket) -> bool:
    """Return whether the peer of *sock* has not answered for as long as its keepalive allows.

    Keepalive itself sends probes only while no bytes wait for an acknowledgement.  While bytes
    wait, the kernel sends them again for a quarter of an hour.  TCP_USER_TIMEOUT would end that in
    time, but also a connection to a peer that lives and takes no bytes for a while.

    False where that is unknown, as of a unix socket.  A peer that takes no bytes just now is
    asked for room every two minutes at least, and answers.
    """
    if _TCP_INFO is None:
        return False
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _SILENT.size)
        if len(info) < _SILENT.size or info[_RETRANSMITS] + info[_PROBES] < UNANSWERED:
            return False
        idle, interval, count = (
            sock.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
    except OSError:
        return False
    silent: int = min(_SILENT.unpack(info))
    return silent > 1000 * (idle + interval * count)


class VanishedPeers(Background):
    """Has the jobs of a loop look for vanished peers once a minute.

    It does nothing while there is no connection: an idle process is not woken up.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._is_expected = self._has_timer = False

    def expect(self) -> None:
        """Look from now on, as long as there are connections.  Any thread; behind ``submit``."""
        if not self._is_expected:
            self._is_expected = True
            self._loop.submit(self)

    def begin(self) -> None:
        """Start the timer."""
        if not self._has_timer:
            self._has_timer = True
            self._loop.call_later(LOOK_SECONDS, self, self._look)

    def _look(self) -> None:
        # First: a thread that has submitted a connection by then expects it once more.
        self._is_expected = self._has_timer = False
        if len(self._loop):
            self.expect()
            self._go_on(self._loop.jobs())

    def _go_on(self, jobs: List[Job]) -> None:
        """Have some of *jobs* look, and the others in later rounds."""
        for job in jobs[:AT_ONCE]:
            self._loop.call_soon(job, job.look_after_peers)
        if jobs[AT_ONCE:]:
            self._loop.call_soon(self, self._go_on, jobs[AT_ONCE:])
