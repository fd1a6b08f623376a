"""Peers that have vanished while bytes for them were under way.

Keepalive asks after a peer that is silent while nothing waits to be acknowledged.  While bytes
wait, the kernel sends them again instead, for a quarter of an hour.  TCP_USER_TIMEOUT would end
that in time, but also a connection to a peer that is there and only takes no bytes for a while.
So the kernel is asked what it knows.
"""

import socket
import struct
import sys
from typing import List

from minisocks.net.job import Background, Job
from minisocks.net.loop import Loop

__all__ = ["VanishedPeers", "has_vanished"]

#: How often is looked, while there are connections.
LOOK_SECONDS = 60.0
#: So many in a round of the loop, which takes a third of a millisecond.
AT_ONCE = 100
#: A peer that is there may not have answered once: its answer is on the way.
UNANSWERED = 2

#: Linux's ``struct tcp_info``, which grows at its end only: what was sent again and what was asked
#: without an answer, as octets; then milliseconds since data and an acknowledgement came.
_TCP_INFO = getattr(socket, "TCP_INFO", None) if sys.platform.startswith("linux") else None
_RETRANSMITS, _PROBES = 2, 3
_SILENT = struct.Struct("=52x2I")


def has_vanished(sock: socket.socket) -> bool:
    """Return whether the peer of *sock* has not answered for as long as its keepalive allows.

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
    """Has the jobs of a loop look after their peers once a minute.

    A class because it is asked for by any thread, and does nothing while there is no connection:
    an idle process is not woken up.
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
        """Start the clock."""
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
        """Have some of *jobs* look, and the others in the rounds behind this one."""
        for job in jobs[:AT_ONCE]:
            self._loop.call_soon(job, job.look_after_peers)
        if jobs[AT_ONCE:]:
            self._loop.call_soon(self, self._go_on, jobs[AT_ONCE:])
