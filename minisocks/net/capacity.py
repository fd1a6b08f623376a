"""What this machine has room for: descriptors and memory; and how a shortage is logged."""

import errno
import logging
import os
import socket
import time
from typing import Any, Callable, Iterable, List, NamedTuple, Optional, TypeVar

from minisocks.compat import CAPACITY_ERRORS, tell
from minisocks.quoting import reason_of

__all__ = [
    "Edge",
    "Failures",
    "Room",
    "descriptors_to_spare",
    "find_room",
    "raise_descriptor_limit",
    "with_room",
]

#: Descriptors for the listeners, the loop, the threads, the log, and whatever else is open.
SPARE_DESCRIPTORS = 32
#: Of a connection: to the client and to the target.
DESCRIPTORS_EACH = 2
#: The least ``--max-connections``, however few descriptors there are.
LEAST_CONNECTIONS = 4
#: An idle connection: about 2 KiB of ours (scripts/bench/crowd measures it), and
#: what the kernel needs for two sockets.
BYTES_EACH = 10 * 1024


class Room(NamedTuple):
    """How many connections fit into descriptors and memory; None: unknown."""

    connections: Optional[int]
    descriptors: Optional[int]
    memory_bytes: Optional[int]
    #: Descriptors that are left for handshakes and refused clients.
    for_handshakes: int = 0
    #: Connections that fit into the descriptors: the default of ``--max-connections``.
    limit: Optional[int] = None

    def __str__(self) -> str:
        """Return one sentence for people."""
        if self.connections is None:
            return "it is unknown how many connections fit here"
        reasons = []
        if self.descriptors is not None:
            reason = "%d descriptors, %d each" % (self.descriptors, DESCRIPTORS_EACH)
            if self.for_handshakes:
                reason += " and %d for handshakes" % self.for_handshakes
            reasons.append(reason)
        if self.memory_bytes is not None:
            reasons.append(
                "%d MiB of memory free, %d KiB each idle"
                % (self.memory_bytes >> 20, BYTES_EACH >> 10)
            )
        return "about %d connections (%s)" % (self.connections, "; ".join(reasons))


def find_room(descriptors: Optional[int], max_handshakes: int = 0) -> Room:
    """Return what fits with so many *descriptors*, beside all that is open now.

    Args:
        max_handshakes: so many descriptors are left for them, but a quarter at most.
    """
    memory = _available_memory()
    fits = []
    kept, limit = 0, None
    if descriptors is not None:
        usable = max(0, descriptors - SPARE_DESCRIPTORS)
        kept = min(max_handshakes, usable // 4)
        fits.append((usable - kept) // DESCRIPTORS_EACH)
        limit = max(LEAST_CONNECTIONS, fits[0])
    if memory is not None:
        fits.append(memory // BYTES_EACH)
    return Room(min(fits) if fits else None, descriptors, memory, kept, limit)


def raise_descriptor_limit() -> Optional[int]:
    """Raise the soft limit of descriptors to the hard one; return it, None: no limit."""
    try:
        import resource
    except ImportError:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        limit = hard
    except (OSError, ValueError):
        limit = soft
    return limit if limit > 0 else None  # -1 is "no limit"


def descriptors_to_spare() -> Optional[int]:
    """Return how many descriptors may be opened before fewer than a quarter are free.

    Less than 0 if fewer are.  None: there is no limit.  Any thread.
    """
    try:
        import resource
    except ImportError:
        return None
    limit, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit - limit // 4 - _open_descriptors(limit) if limit > 0 else None


def _open_descriptors(limit: int) -> int:
    """Return how many descriptors this process has open; *limit* if not one more can be had."""
    try:
        # Linux 6.2 and later; before, it is 0.
        return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))
    except OSError:
        pass  # another system, or no descriptor is left to list them with
    try:
        with socket.socket() as probe:
            return probe.fileno()  # all below it are in use
    except OSError:
        return limit


def _available_memory() -> Optional[int]:
    """Return the free bytes: of the machine or of the cgroup, whichever are fewer."""
    known = [
        amount
        for amount in (
            _number("/proc/meminfo", "MemAvailable:", 1024),
            _left("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
            _left(
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.usage_in_bytes",
            ),
        )
        if amount is not None
    ]
    return min(known) if known else None


def _left(limit_file: str, used_file: str) -> Optional[int]:
    limit, used = _number(limit_file), _number(used_file)
    return None if limit is None or used is None else max(0, limit - used)


def _number(path: str, label: str = "", unit: int = 1) -> Optional[int]:
    """Return the number behind *label* (the file's first word without one)."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            words = _words_behind(file, label)
            return int(words[0]) * unit
    except (OSError, ValueError, IndexError):
        return None  # not Linux, no such limit ("max"), or an unknown format


def _words_behind(lines: Iterable[str], label: str) -> List[str]:
    for line in lines:
        if line.startswith(label):
            return line[len(label) :].split()
    return []


_T = TypeVar("_T")


def with_room(make_room: Callable[[], bool], make: Callable[..., _T], *args: Any) -> _T:
    """Return what *make* returns; it is called again if *make_room* has closed descriptors.

    Raises:
        OSError: from *make*.
    """
    try:
        return make(*args)
    except OSError as exc:
        if exc.errno not in CAPACITY_ERRORS or not make_room():
            raise
    return make(*args)


#: Where descriptors or threads come and go, they run out often: that is logged once in so many
#: seconds.
EDGE_SECONDS = 10.0


class Edge:
    """Whether something has run out, and whether that was logged.

    A class because the end of a shortage is logged only if its beginning was.  One thread at a
    time.

    Args:
        over: the line about the end.
        what: the first words of the line about the beginning.
    """

    def __init__(self, over: str, what: str = "at capacity: ") -> None:
        self._over, self._what = over, what
        self._is_short = self._is_told = False
        self._told_at = -EDGE_SECONDS

    def reached(self, message: str, *args: object) -> None:
        """Note that something has run out; log *message* unless one was logged of late."""
        self._is_short = True
        if self._is_told:
            return
        now = time.monotonic()
        self._is_told = now >= self._told_at + EDGE_SECONDS
        if self._is_told:
            self._told_at = now
            tell(logging.WARNING, self._what + message, *args)

    def passed(self) -> None:
        """Note that it can be had again; nothing if it never ran out."""
        if self._is_short:
            self._is_short = False
            if self._is_told:
                self._is_told = False
                tell(logging.WARNING, self._over)


#: Seconds from a failure to the next accept.  On some systems a client that has left the queue is a
#: failure, too, and must not delay those behind it.
SHORT_SECONDS = 0.001
#: The same after so many failures in a row, which no client causes.
MANY, LONG_SECONDS = 100, 0.05

#: Errors of accept about a client that has left.
_CLIENT_LEFT = (errno.ECONNABORTED, errno.ECONNRESET, errno.EPROTO, errno.EINTR)


class Failures:
    """Failures of accept in a row at one listener; one line in the log when they begin or end.

    One thread at a time.

    Args:
        address: where it listens, for the log.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._count = 0
        self._edge = Edge("accept on %s works again" % address, "")

    def failed(self, exc: OSError) -> float:
        """Note *exc*; return the seconds after which accept is to be tried again."""
        self._count += 1
        is_many = self._count >= MANY
        if is_many or exc.errno not in _CLIENT_LEFT:
            what = "accept on %s fails: %s; trying again"
            self._edge.reached(what, self._address, reason_of(exc))
        return LONG_SECONDS if is_many else SHORT_SECONDS

    def passed(self) -> None:
        """Note that accept has succeeded."""
        if self._count:
            self._count = 0
            self._edge.passed()
