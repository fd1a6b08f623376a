"""Reach a target that has several addresses: one dial, steppable, never waiting.

It is stepped once at the start (a loopback or LAN connect is often done by then), and
by the loop after.  Addresses are tried in parallel, each with a head
start of 250 ms before the next, families in turn (RFC 8305).
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
from minisocks.policy.addresses import Sockaddr
from minisocks.wire import Rep

__all__ = ["Dial", "ExtraAttempts", "interleaved", "rep_of"]

HEAD_START_SECONDS = 0.25
#: More addresses of one target are not tried.
MAX_ADDRESSES = 16
#: So many are tried at once, since each costs a descriptor; then the oldest is
#: given up, once it has had its time.
MAX_ATTEMPTS = 4
ATTEMPT_SECONDS = 5.0
#: So many failures are told in words: a line of the log is for people.
MAX_TOLD = 4
#: Where there was no descriptor to spare for one more, it is looked again after so long.
RETRY_SECONDS = 1.0

_ANY_ROAD = Egress()

#: Made non-blocking with the same system call, where that can be.
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
    """Return the REP that says what happened (RFC 1928 section 6)."""
    return _REPS.get(exc.errno or 0, Rep.GENERAL_FAILURE)


def interleaved(addresses: Sequence[Sockaddr]) -> List[Sockaddr]:
    """Order as the resolver did, but with the families taking turns."""
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

    A class because its attempts outlive a step: ``step`` until it returns a
    socket or raises, waiting in between for one of ``attempts`` to become
    writable or for ``wait_seconds`` to pass.  One thread at a time.

    Args:
        make_room: called when there is no descriptor for an attempt while there is no other;
            whether it has closed some.
        may_add: whether there may be one more attempt beside others.  Where not, addresses are
            tried one after another, each for ``ATTEMPT_SECONDS``.

    Attributes:
        attempts: sockets on their way, by descriptor, oldest first; with where
            to and since when.
        discarded: sockets that failed or lost; whoever steps closes them, since
            a poller may still know their descriptors.
    """

    __slots__ = (
        "_clock",
        "_failures",
        "_make_room",
        "_may_add",
        "_next_at",
        "_road",
        "_waiting",
        "attempts",
        "bnd",
        "discarded",
        "via",
    )

    def __init__(
        self,
        addresses: Sequence[Sockaddr],
        clock: Callable[[], float] = time.monotonic,
        egress: Egress = _ANY_ROAD,
        make_room: Callable[[], bool] = lambda: False,
        may_add: Callable[[], bool] = lambda: True,
    ) -> None:
        self._road = egress
        self._make_room = make_room
        self._may_add = may_add
        self._waiting = interleaved(egress.ordered(addresses))[:MAX_ADDRESSES]
        self._clock = clock
        self._next_at = 0.0
        self._failures: List[Tuple[Any, OSError]] = []
        self.attempts: Dict[int, Tuple[socket.socket, Any, float]] = {}
        self.discarded: List[socket.socket] = []
        #: The sockaddr that was connected to, and the one of our own end.
        self.via: Any = None
        self.bnd: Any = None

    def step(self) -> Optional[socket.socket]:
        """Go on as far as is possible now.

        Returns:
            The connected socket, non-blocking, which is the caller's then; the
            other attempts are in ``discarded``.  None: not yet.

        Raises:
            DialError: every address failed; the REP is the last one's, but
                "refused", which proves a host, wins over "unreachable".
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
        """Give up the oldest attempt but the first; its address is tried again later.

        Returns:
            Its socket, which is the caller's then; None: there is one attempt at most.
        """
        if len(self.attempts) < 2:
            return None
        sock, sockaddr, _since = self.attempts.pop(list(self.attempts)[1])
        self._put_off(sock.family, sockaddr)
        return sock

    @property
    def addresses(self) -> List[Sockaddr]:
        """Those that are tried, and those that will be."""
        return [(a[0].family, a[1]) for a in self.attempts.values()] + self._waiting

    def keep(self, addresses: Sequence[Sockaddr]) -> None:
        """Go on with those of *addresses* only; the others go to ``discarded``."""
        self._waiting = [address for address in self._waiting if address in addresses]
        for fd, (sock, sockaddr, _since) in list(self.attempts.items()):
            if (sock.family, sockaddr) not in addresses:
                self.discarded.append(self.attempts.pop(fd)[0])

    def give_up(self) -> DialError:
        """Discard every attempt; return the error for having run out of time."""
        addresses = [sockaddr for _sock, sockaddr, _since in self.attempts.values()]
        late = OSError(errno.ETIMEDOUT, "no answer in time")
        self.discard_all()
        self._failures += [(sockaddr, late) for sockaddr in addresses]
        return DialError(_tell(self._failures), Rep.TTL_EXPIRED, self._failures)

    def close_discarded(self) -> None:
        """Close what failed; for callers that have told no poller about it."""
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
            self._road.prepare(sock)
        except OSError as exc:
            self.discarded.append(sock)
            self._failures.append((sockaddr, exc))
            return None
        if not _NONBLOCK:
            sock.setblocking(False)
        tune(sock, self._road.keepalive)
        now = self._clock()
        self._next_at = now + HEAD_START_SECONDS
        self.attempts[sock.fileno()] = (sock, sockaddr, now)
        try:
            code = sock.connect_ex(sockaddr)
        except (OSError, OverflowError) as exc:
            code = getattr(exc, "errno", None) or errno.EINVAL
        if code not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
            self._fail(sock.fileno(), code)
            return None
        return sock

    def _socket(self, family: int) -> socket.socket:
        if self.attempts:
            return socket.socket(family, _KIND)  # nothing is closed for one more
        return with_room(lambda: socket.socket(family, _KIND), self._make_room)

    def _put_off(self, family: int, sockaddr: Any) -> None:
        """Have an address be the next one, when there may be a descriptor for it."""
        self._waiting.insert(0, (family, sockaddr))
        self._next_at = self._clock() + RETRY_SECONDS

    def _end_oldest(self) -> None:
        """Give the oldest attempt up if it has had its time; else look again later."""
        fd, (_sock, _sockaddr, since) = next(iter(self.attempts.items()))
        now = self._clock()
        if now >= since + ATTEMPT_SECONDS:
            self._fail(fd, errno.ETIMEDOUT)
        else:
            self._next_at = now + RETRY_SECONDS

    def _has_connected(self, fd: int, sock: socket.socket, sockaddr: Any) -> bool:
        code = connect_result(sock, sockaddr)
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
        """Take note of our end; return 0, or why this is no connection after all."""
        try:
            self.bnd = sock.getsockname()
            if self.bnd[1] != sockaddr[1] or self.bnd != sock.getpeername():
                return 0
        except OSError as exc:
            return exc.errno or errno.EINVAL  # gone already
        # A port of this host that nobody listens on, hit by our own ephemeral
        # port: the kernel has connected the socket to itself.
        return errno.ECONNREFUSED

    def _fail(self, fd: int, code: int) -> None:
        sock, sockaddr, _since = self.attempts.pop(fd)
        self.discarded.append(sock)
        self._failures.append((sockaddr, OSError(code, os.strerror(code))))

    def discard_all(self) -> None:
        """Try no more; what is on its way goes to ``discarded``."""
        self.discarded += [attempt[0] for attempt in self.attempts.values()]
        self.attempts.clear()
        self._waiting = []

    def _all_failed(self) -> DialError:
        reps = [rep_of(exc) for _, exc in self._failures]
        rep = Rep.CONNECTION_REFUSED if Rep.CONNECTION_REFUSED in reps else reps[-1]
        return DialError(_tell(self._failures), rep, self._failures)


def _tell(failures: Sequence[Tuple[Any, OSError]]) -> str:
    told = ["%s: %s" % (sockaddr[0], exc.strerror) for sockaddr, exc in failures[:MAX_TOLD]]
    more = len(failures) - len(told)
    return "; ".join(told + ["and %d more" % more] * bool(more))


#: So long the number of free descriptors is taken for known.  Counting takes 4 us, on a kernel
#: before Linux 6.2 a millisecond for 2500 (measured).
COUNT_SECONDS = 0.25
#: How often it is seen whether there are still enough, while there are extra attempts.
LOOK_SECONDS = 1.0


class ExtraAttempts(Background):
    """The second to fourth attempts of all dials: how many there are, and which is the oldest.

    They are made only while there are descriptors, and given up first: a connection is promised
    two descriptors, for its client and its target, and a dial that tries several addresses at
    once takes up to five.  A class because what one dial may have depends on all others.  Loop
    thread, except ``has_room``.

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
        #: By what gives one of them up: how many.  The oldest first.
        self._held: Dict[Callable[[], bool], int] = {}
        self._total = 0
        #: How many there may be, and until when that is taken for known.
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
        """Take note that a dial has *count* of them now.

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
        """Have the oldest be given up, for its descriptor; return whether there was one."""
        while self._held:
            give_up = next(iter(self._held))
            if give_up():
                return True
            self.hold(give_up, 0)  # they have failed, and that is not noted yet
        return False

    def _look(self) -> None:
        """Take back those that there is no room for any more."""
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
