"""What a proxy has done so far, in numbers."""

from typing import Dict, NamedTuple

__all__ = ["Stats"]


class Stats(NamedTuple):
    """The figures of one run of a proxy, from ``start`` on; all zero before it.

    ``total`` is ``succeeded`` plus all of ``refused`` plus those whose target
    is still being dialed.  Connections whose client asked for nothing (health
    checks, scanners) are in ``open`` and ``checks`` only, unless a limit refused them.
    """

    #: Seconds since the start, or from start to stop.
    uptime: float
    #: Connections now, in whatever state.
    open: int
    #: Connections with a request, or that ended before they had one.
    total: int
    #: Those of them whose target was connected.
    succeeded: int
    #: Those of them that ended before that, by why: ``Rep.phrase`` where there is a
    #: REP, else "client gone", "not SOCKS", "shutdown" or "internal error"; "limit" where
    #: a limit was reached.
    refused: Dict[str, int]
    #: Bytes relayed from clients to targets, those of open connections included.
    up: int
    #: Bytes relayed from targets to clients, likewise.
    down: int
    #: Unfinished handshakes that wait for their client without a thread.
    handshakes: int
    #: Handler threads.
    threads: int
    #: UDP associations now; they are in ``open``, too.
    associations: int
    #: Clients that greeted, were answered with 05 00 (RFC 1928 section 3) and left: health checks.
    checks: int
