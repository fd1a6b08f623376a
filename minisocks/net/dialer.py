"""Dials: connect to a target that has several addresses, in steps that never wait.

The first step is made at once, because a connect on loopback or a LAN is often done by then; the
loop makes the others.  Addresses are tried in parallel, each 250 ms before the next one, and the
families alternate (RFC 8305).
"""

import errno
import os
import socket
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from minisocks.compat import CAPACITY_ERRORS, close_quietly, connect_result, tune
from minisocks.errors import DialError
from minisocks.net.capacity import descriptors_to_spare, with_room
from minisocks.net.egress import Egress
from minisocks.net.job import Background, Timer
from minisocks.net.loop import Loop
from minisocks.policy.networks import Sockaddr
from minisocks.wire import Rep

__all__ = ["MAX_ADDRESSES", "Dial", "ExtraAttempts", "interleaved", "rep_of"]

HEAD_START_SECONDS = 0.25
#: More addresses of one target are not tried.
MAX_ADDRESSES = 16
#: Attempts at once, because each takes a descriptor; for one more, the oldest is given up if it is
#: older than so many seconds.
MAX_ATTEMPTS = 4
ATTEMPT_SECONDS = 5.0
#: Failures that are described in an error: it is a line for people.
MAX_TOLD = 4
#: Seconds until the next try where there was no descriptor to spare.
RETRY_SECONDS = 1.0

_ANY_EGRESS = Egress()

#: Where there is such a flag, a socket is made non-blocking by the same system call.
_NONBLOCK = getattr(socket, "SOCK_NONBLOCK", 0)
_KIND = socket.SOCK_STREAM | _NONBLOCK

_REPS = {
    errno.ECONNREFUSED: Rep.CONNECTION_REFUSED,
    errno.ECONNRESET: Rep.CONNECTION_REFUSED,
    errno.ENETUNREACH: Rep.NETWORK_UNREACHABLE,
    errno.ENETDOWN: Rep.NETWORK_UNREACHABLE,
    errno.EHOSTUNREACH: Rep.HOST_UNREACHABLE,
    errno.ETIMEDOUT: Rep.TTL_EXPIRED,
    errno.EAFNOSUPPORT: Rep.ADDRESS_TYPE_NOT_SUPPORTED,
    errno.EPROTONOSUPPORT: Rep.ADDRESS_TYPE_NOT_SUPPORTED,
    errno.EACCES: Rep.NOT_ALLOWED,
    errno.EPERM: Rep.NOT_ALLOWED,
}
if hasattr(errno, "EHOSTDOWN"):
    _REPS[errno.EHOSTDOWN] = Rep.HOST_UNREACHABLE


def rep_of(exc: OSError) -> Rep:
    """Return the REP for *exc* (RFC 1928 section 6)."""
    return _REPS.get(exc.errno or 0, Rep.GENERAL_FAILURE)


def interleaved(addresses: Sequence[Sockaddr]) -> List[Sockaddr]:
    """Return *addresses* in their order, but with alternating families (RFC 8305 section 4)."""
    if len(addresses) == 1:
        return list(addresses)
    first = [a for a in addresses if a[0] == addresses[0][0]]
    other = [a for a in addresses if a[0] != addresses[0][0]]
    mixed: List[Sockaddr] = []
    while first or other:
        mixed += first[:1] + other[:1]
        first, other = first[1:], other[1:]
    return mixed


class Dial:
    """Attempts to connect to one target.

    Call ``step`` until it returns a socket or raises; in between, wait until one of ``attempts``
    is writable or ``wait_seconds`` have passed.  One thread at a time.

    Args:
        make_room: called when there is no descriptor for the only attempt; returns whether it has
            closed one.
        may_add: returns whether there may be one more attempt beside others.  If not, addresses
            are tried one after another, each for ``ATTEMPT_SECONDS``.

    Attributes:
        attempts: by descriptor, oldest first: the socket, its sockaddr, and since when.
        discarded: sockets that failed or are not needed; the caller of ``step`` closes them,
            because a poller may still know their descriptors.
    """

    __slots__ = (
        *("_clock", "_egress", "_failures", "_make_room", "_may_add", "_next_at", "_waiting"),
        *("attempts", "bnd", "discarded", "via"),
    )

    def __init__(
        self,
        addresses: Sequence[Sockaddr],
        clock: Callable[[], float] = time.monotonic,
        egress: Egress = _ANY_EGRESS,
        make_room: Callable[[], bool] = lambda: False,
        may_add: Callable[[], bool] = lambda: True,
    ) -> None:
        self._egress = egress
        self._make_room = make_room
        self._may_add = may_add
        self._waiting = interleaved(egress.ordered(addresses))[:MAX_ADDRESSES]
        self._clock = clock
        self._next_at = 0.0
        self._failures: List[Tuple[Any, OSError]] = []
        self.attempts: Dict[int, Tuple[socket.socket, Any, float]] = {}
        self.discarded: List[socket.socket] = []
        #: The sockaddr that was connected to, and the one of our end.
        self.via: Any = None
        self.bnd: Any = None

    def step(self) -> Optional[socket.socket]:
        """Go on as far as is possible now.

        Returns:
            The connected socket, non-blocking, which the caller owns; the other attempts are in
            ``discarded``.  None: not yet.

        Raises:
            DialError: every address failed.  Its REP is that of the last one, or "refused" if one
                was refused, which proves that there is a host.
        """
        for fd in list(self.attempts):
            sock, sockaddr, _since = self.attempts[fd]
            if self._has_connected(fd, sock, sockaddr):
                return sock
        while self.wait_seconds() == 0.0:
            if self.attempts and (len(self.attempts) == MAX_ATTEMPTS or not self._may_add()):
                self._end_oldest()
                continue
            family, sockaddr = self._waiting.pop(0)
            started = self._start(family, sockaddr)
            if started is not None and self._has_connected(started.fileno(), started, sockaddr):
                return started
        if not self.attempts:
            raise self._all_failed()
        return None

    def wait_seconds(self) -> Optional[float]:
        """Return the seconds until the next address is due, None if none is left."""
        if not self._waiting:
            return None
        if not self.attempts:
            return 0.0
        due = self._next_at
        if len(self.attempts) == MAX_ATTEMPTS:
            _sock, _sockaddr, since = next(iter(self.attempts.values()))
            due = max(due, since + ATTEMPT_SECONDS)
        return max(0.0, due - self._clock())

    def take_back(self) -> Optional[socket.socket]:
        """Give up the second oldest attempt; its address is tried again later.

        Returns:
            Its socket, which the caller owns; None: there are fewer than two attempts.
        """
        if len(self.attempts) < 2:
            return None
        sock, sockaddr, _since = self.attempts.pop(list(self.attempts)[1])
        self._put_off(sock.family, sockaddr)
        return sock

    @property
    def addresses(self) -> List[Sockaddr]:
        """The addresses that are tried, and those that will be."""
        return [(a[0].family, a[1]) for a in self.attempts.values()] + self._waiting

    def keep(self, addresses: Sequence[Sockaddr]) -> None:
        """Go on with *addresses* only; sockets to others go to ``discarded``."""
        self._waiting = [address for address in self._waiting if address in addresses]
        for fd, (sock, sockaddr, _since) in list(self.attempts.items()):
            if (sock.family, sockaddr) not in addresses:
                self.discarded.append(self.attempts.pop(fd)[0])

    def give_up(self) -> DialError:
        """Discard every attempt; return the error for the end of the time."""
        addresses = [sockaddr for _sock, sockaddr, _since in self.attempts.values()]
        late = OSError(errno.ETIMEDOUT, "no answer in time")
        self.discard_all()
        self._failures += [(sockaddr, late) for sockaddr in addresses]
        return DialError(_tell(self._failures), Rep.TTL_EXPIRED, self._failures)

    def close_discarded(self) -> None:
        """Close what is in ``discarded``; for callers that have no poller."""
        while self.discarded:
            close_quietly(self.discarded.pop())

    def _start(self, family: int, sockaddr: Any) -> Optional[socket.socket]:
        try:
            sock = self._socket(family)
        except OSError as exc:
            if self.attempts and exc.errno in CAPACITY_ERRORS:
                self._put_off(family, sockaddr)
                return None
            self._failures.append((sockaddr, exc))
            if exc.errno in CAPACITY_ERRORS:
                self._waiting = []  # the next one would fail the same way
            return None
        try:
            self._egress.prepare(sock)
        except OSError as exc:
            self.discarded.append(sock)
            self._failures.append((sockaddr, exc))
            return None
        if not _NONBLOCK:
            sock.setblocking(False)
        tune(sock, self._egress.keepalive)
        now = self._clock()
        self._next_at = now + HEAD_START_SECONDS
        self.attempts[sock.fileno()] = (sock, sockaddr, now)
        try:
            code = sock.connect_ex(sockaddr)
        except (OSError, OverflowError) as exc:
            code = getattr(exc, "errno", None) or errno.EINVAL
        # A unix socket whose queue is full is not pending: it would be writable all the time.
        pending = () if isinstance(sockaddr, str) else (errno.EINPROGRESS, errno.EWOULDBLOCK)
        if code and code not in pending:
            self._fail(sock.fileno(), code)
            return None
        return sock

    def _socket(self, family: int) -> socket.socket:
        if self.attempts:
            return socket.socket(family, _KIND)  # nothing is closed for one more
        return with_room(self._make_room, socket.socket, family, _KIND)

    def _put_off(self, family: int, sockaddr: Any) -> None:
        """Make an address the next one, for when there may be a descriptor."""
        self._waiting.insert(0, (family, sockaddr))
        self._next_at = self._clock() + RETRY_SECONDS

    def _end_oldest(self) -> None:
        """Give the oldest attempt up if its time is over; else check again later."""
        fd, (_sock, _sockaddr, since) = next(iter(self.attempts.items()))
        now = self._clock()
        if now >= since + ATTEMPT_SECONDS:
            self._fail(fd, errno.ETIMEDOUT)
        else:
            self._next_at = now + RETRY_SECONDS

    def _has_connected(self, fd: int, sock: socket.socket, sockaddr: Any) -> bool:
        # A unix socket has connected at once.  A second call would say EAGAIN, as long as the queue
        # of the listener is full, and the socket is writable all the time.
        code = 0 if isinstance(sockaddr, str) else connect_result(sock, sockaddr)
        if code == 0:
            code = self._settle(sock, sockaddr)
        if code == errno.EINPROGRESS:
            return False
        if code:
            self._fail(fd, code)
            return False
        self.via = sockaddr
        del self.attempts[fd]
        self.discard_all()
        return True

    def _settle(self, sock: socket.socket, sockaddr: Any) -> int:
        """Note the address of our end; return 0, or the errno if this is no connection."""
        try:
            self.bnd = sock.getsockname()
            if isinstance(sockaddr, str):
                return 0  # a unix socket
            if self.bnd[1] != sockaddr[1] or self.bnd != sock.getpeername():
                return 0
        except OSError as exc:
            return exc.errno or errno.EINVAL  # it has ended already
        # A port of this host without a listener was our own ephemeral port, too: the kernel has
        # connected the socket to itself.
        return errno.ECONNREFUSED

    def _fail(self, fd: int, code: int) -> None:
        sock, sockaddr, _since = self.attempts.pop(fd)
        self.discarded.append(sock)
        self._failures.append((sockaddr, OSError(code, os.strerror(code))))

    def discard_all(self) -> None:
        """Try no more; sockets of attempts go to ``discarded``."""
        self.discarded += [attempt[0] for attempt in self.attempts.values()]
        self.attempts.clear()
        self._waiting = []

    def _all_failed(self) -> DialError:
        reps = [rep_of(exc) for _, exc in self._failures]
        rep = Rep.CONNECTION_REFUSED if Rep.CONNECTION_REFUSED in reps else reps[-1]
        return DialError(_tell(self._failures), rep, self._failures)


def _tell(failures: Sequence[Tuple[Any, OSError]]) -> str:
    told = ["%s: %s" % (_host(sockaddr), exc.strerror) for sockaddr, exc in failures[:MAX_TOLD]]
    more = len(failures) - len(told)
    return "; ".join(told + ["and %d more" % more] * bool(more))


def _host(sockaddr: Any) -> str:
    return sockaddr if isinstance(sockaddr, str) else str(sockaddr[0])


#: Seconds for which the number of free descriptors is kept.  Counting takes 4 us; before Linux
#: 6.2 it takes a millisecond for 2500 (measured).
COUNT_SECONDS = 0.25
#: Seconds from one check that there are still enough to the next, while there are extra attempts.
LOOK_SECONDS = 1.0


class ExtraAttempts(Background):
    """The second to fourth attempts of all dials: how many there are, and which is the oldest.

    They are made only while there are descriptors, and given up first: a connection is promised
    two descriptors, for its client and its target, and a dial that tries several addresses at
    once takes up to five.  Loop thread, except ``has_room``.

    Args:
        room: returns how many descriptors may be opened before fewer than a quarter are free,
            less than 0 if fewer are; None: any number.
    """

    def __init__(
        self,
        loop: Loop,
        room: Callable[[], Optional[int]] = descriptors_to_spare,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = loop
        self._room = room
        self._clock = clock
        #: How many each dial has, by its function that gives one up.  The oldest first.
        self._held: Dict[Callable[[], bool], int] = {}
        self._total = 0
        #: How many there may be, and until when that number is kept.
        self._most: Optional[int] = 0
        self._count_at = 0.0
        self._timer: Optional[Timer] = None
        loop.submit(self)

    def __len__(self) -> int:
        """Return how many there are."""
        return self._total

    def has_room(self) -> bool:
        """Return whether there may be one more.  Any thread."""
        self._count()
        return self._most is None or self._total < self._most

    def hold(self, give_up: Callable[[], bool], count: int) -> None:
        """Note that a dial has *count* of them now.

        Args:
            give_up: ends the oldest of them and closes its descriptor at once; returns whether
                there was one.
        """
        self._total += count - self._held.get(give_up, 0)
        if count:
            self._held[give_up] = count
            if self._timer is None:
                self._timer = self._loop.call_later(LOOK_SECONDS, self, self._look)
        else:
            self._held.pop(give_up, None)

    def take_back(self) -> bool:
        """Give up the oldest one, for its descriptor; return whether there was one."""
        while self._held:
            give_up = next(iter(self._held))
            if give_up():
                return True
            self.hold(give_up, 0)  # they have failed, which was not noted yet
        return False

    def _look(self) -> None:
        """Give up those for which there is no room any more."""
        self._timer = None
        self._count()
        while self._most is not None and self._total > self._most and self.take_back():
            pass
        if self._total:
            self._timer = self._loop.call_later(LOOK_SECONDS, self, self._look)

    def _count(self) -> None:
        now = self._clock()
        if now >= self._count_at:
            room = self._room()
            self._most = None if room is None else self._total + room
            self._count_at = now + COUNT_SECONDS
