"""The resolver: look-ups of names in threads of their own, which may hang.

``getaddrinfo`` can neither be cancelled nor given a time limit.  So it runs in a few daemon
threads, and each caller keeps a deadline of its own.  They are no executor, because that joins
its threads at exit.

Clients share the threads and the queue (``policy.quota``): one that asks for a thousand names
whose name server is gone delays only its own look-ups.
"""

import functools
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from minisocks.compat import log_bug
from minisocks.errors import DialError, HandshakeError
from minisocks.net.lookup import Outcome, look_up, name_of, numeric_addresses, system_getaddrinfo
from minisocks.net.threads import Workers
from minisocks.policy.client import THIS_HOST, Groups
from minisocks.policy.networks import Sockaddr
from minisocks.policy.quota import Allowance, Queue, Quota
from minisocks.quoting import quoted
from minisocks.wire import Rep

__all__ = ["Lookup", "Resolver", "ReverseLookup"]


MAX_THREADS = 64
#: A group of clients has less than this part of the free ones.
THREADS_FACTOR = 0.25
#: Names that may wait for a thread.  Each has a client, which takes a descriptor.
MAX_WAITING = 1024
#: After so many seconds no name server of a look-up answers: where one answers for one family
#: only, the C library ends after 15 s.
STUCK_SECONDS = 16.0
#: Seconds that a thread waits for work until it ends.
IDLE_SECONDS = 10.0
#: Seconds that ``close`` waits for code of the embedding program.
CLOSE_SECONDS = 5.0

_TOO_MANY = "too many names are being looked up"


class Lookup:
    """The look-up of one name.  ``cancel`` it when its outcome is not wanted any more.

    Args:
        callback: gets the addresses or the error; called at most once, in a thread of the
            resolver; or in the thread of a later ``submit``, if the look-up is ended for that one.
        groups: of the client, by which it shares threads and the queue.
        first: called before, in the same thread; it may take long, and raises a
            ``HandshakeError`` if nothing is to be looked up.
        family: of the addresses, as ``Egress.only``; 0: both.
    """

    __slots__ = ("callback", "family", "first", "groups", "host", "port")

    def __init__(
        self,
        host: bytes,
        port: int,
        callback: Callable[[Outcome], None],
        groups: Groups = THIS_HOST,
        first: Optional[Callable[[], Any]] = None,
        family: int = 0,
    ) -> None:
        self.host = host
        self.family = family
        self.port = port
        self.first = first
        self.groups = groups
        self.callback: Optional[Callable[[Outcome], None]] = callback

    def cancel(self) -> None:
        """Do not call back, and do not begin if it has not.  Any thread."""
        self.callback = None

    def carry_out(self, getaddrinfo: Callable[..., Any]) -> List[Sockaddr]:
        """Return the addresses.  Waits; a thread of the resolver.

        Raises:
            DialError: there are none.
        """
        return look_up(getaddrinfo, self.host, self.port, self.family)


class ReverseLookup(Lookup):
    """The look-up of the name of an address; the system is asked, and no program's resolver.

    Args:
        address: the one to look up.
        callback, groups: as for ``Lookup``; the callback gets *address* again, or the error.

    Attributes:
        name: the name, before *callback* is called.
    """

    __slots__ = ("_address", "name")

    def __init__(
        self, address: Sockaddr, callback: Callable[[Outcome], None], groups: Groups
    ) -> None:
        super().__init__(address[1][0].encode("ascii"), 0, callback, groups)
        self._address = address
        self.name = b""

    def carry_out(self, getaddrinfo: Callable[..., Any]) -> List[Sockaddr]:
        """Set ``name``, and return the address.  Waits; a thread of the resolver.

        Raises:
            DialError: the address has no name.
        """
        self.name = name_of(self._address[1])
        return [self._address]


class Resolver:
    """Threads that look names up, 64 at most.

    Args:
        getaddrinfo: called instead of ``system_getaddrinfo``, with the same arguments.
        waits_when_closed: ``close`` waits 5 s for look-ups that have begun, because code of the
            embedding program runs in them.
    """

    def __init__(
        self,
        getaddrinfo: Callable[..., Any] = system_getaddrinfo,
        waits_when_closed: bool = False,
    ) -> None:
        self._getaddrinfo = getaddrinfo
        self._waits = waits_when_closed
        self._queue: Queue[Lookup] = Queue(Allowance(MAX_THREADS, THREADS_FACTOR))
        self._waiting: Quota[Lookup] = Quota(MAX_WAITING)
        runs_hooks = waits_when_closed or getaddrinfo is not system_getaddrinfo
        self._workers = Workers("resolver", self._take_work, IDLE_SECONDS, runs_hooks)
        #: Threads that there may be; fewer than MAX_THREADS when one could not be started.
        self._most_threads = MAX_THREADS
        #: By thread: since when, and for which client.
        self._busy: Dict[int, Tuple[float, Groups]] = {}

    def submit(self, lookup: Lookup) -> Lookup:
        """Carry *lookup* out, and return it.  Any thread.

        Raises:
            DialError: no thread will be free soon (REP 01).
        """
        workers, groups = self._workers, lookup.groups
        with workers.changed:
            victim = self._make_room(groups)
            self._waiting.add(lookup, groups)
            self._queue.add(lookup, groups)
            threads = len(workers.threads)
            may_begin = self._queue.has_room(groups)
            is_short = len(self._waiting) > threads - len(self._busy)
            if may_begin and is_short and threads < MAX_THREADS:
                self._start_thread(lookup)
            if may_begin:
                workers.changed.notify()
        if victim is not None and victim.callback is not None:
            victim.callback(DialError(_TOO_MANY, Rep.GENERAL_FAILURE))
        return lookup

    def close(self) -> None:
        """End the threads, but do not wait for one that hangs in the C library: it is a daemon.

        Called in one of them, it does not wait for that one.
        """
        me, workers = threading.get_ident(), self._workers
        with workers.changed:
            for lookup in self._waiting.items():
                self._forget(lookup)
            workers.close(CLOSE_SECONDS, lambda: 0 if self._waits else len(set(self._busy) - {me}))
            ended = workers.ended
        for thread in ended:
            thread.join()  # it is at its last line

    def _make_room(self, groups: Groups) -> Optional[Lookup]:
        """Make room for one more of *groups*; return the look-up that was removed for it, if any.

        Raises:
            DialError: there is no room.
        """
        self._check_threads(groups)
        if self._waiting.is_full:
            for lookup in self._waiting.items():  # first those whose clients have left
                if lookup.callback is None:
                    self._forget(lookup)
        victim = self._waiting.victim(groups) if self._waiting.is_full else None
        if self._workers.is_closed or (victim is None and self._waiting.is_full):
            raise DialError(_TOO_MANY, Rep.GENERAL_FAILURE)
        if victim is not None:
            self._forget(victim)
        return victim

    def _check_threads(self, groups: Groups) -> None:
        """Check that a thread will be free for one of *groups* soon.

        Raises:
            DialError: all threads that it may have wait for name servers that do not answer.
        """
        has_room = self._queue.has_room(groups)
        if has_room and len(self._busy) < self._most_threads:
            return
        before = time.monotonic() - STUCK_SECONDS
        stuck = [theirs[0] == groups[0] for since, theirs in self._busy.values() if since < before]
        if len(stuck) >= self._most_threads:
            text = "all %d resolver threads wait for name servers that do not answer" % len(stuck)
            raise DialError(text, Rep.GENERAL_FAILURE)
        running = sum(theirs[0] == groups[0] for _since, theirs in self._busy.values())
        if running and sum(stuck) >= running and not has_room:
            text = "all resolver threads that this client may have wait for silent name servers"
            raise DialError(text, Rep.GENERAL_FAILURE)

    def _forget(self, lookup: Lookup) -> None:
        """Remove *lookup* from the queue."""
        self._waiting.remove(lookup, lookup.groups)
        self._queue.remove(lookup, lookup.groups)

    def _start_thread(self, lookup: Optional[Lookup]) -> None:
        try:
            self._workers.start()
        except RuntimeError as exc:
            self._most_threads = len(self._workers.threads)
            if lookup is not None and not self._most_threads:
                self._forget(lookup)
                raise DialError(
                    "no thread to look a name up: %s" % exc, Rep.GENERAL_FAILURE
                ) from exc
        else:
            self._most_threads = MAX_THREADS

    def _take_work(self) -> Optional[Callable[[], None]]:
        """Return the next look-up, if one may begin, as work for the calling thread."""
        taken = self._queue.take()
        if taken is None:
            return None
        self._waiting.remove(*taken)
        if self._queue.has_next:
            # After the end of one look-up several may begin: those of this host when no others
            # wait. So another thread takes the next one.
            threads = len(self._workers.threads)
            if threads - len(self._busy) > 1:
                self._workers.changed.notify()
            elif threads < MAX_THREADS:
                self._start_thread(None)
        lookup = taken[0]
        self._busy[threading.get_ident()] = (time.monotonic(), lookup.groups)
        return functools.partial(self._do, lookup)

    def _do(self, lookup: Lookup) -> None:
        outcome: Optional[Outcome] = None
        try:
            if lookup.callback is not None:
                outcome = self._resolve(lookup)
        except BaseException:  # noqa: BLE001  # the program's own bug, whatever it raises
            log_bug("looking a name up failed")
            outcome = DialError("the resolver failed", Rep.GENERAL_FAILURE)
        finally:
            with self._workers.changed:
                # Before the callback, which may lead to ``close``: this thread will end, too.
                self._queue.done(self._busy.pop(threading.get_ident())[1])
        callback = lookup.callback  # None if it was cancelled meanwhile
        if callback is not None and outcome is not None:
            callback(outcome)

    def _resolve(self, lookup: Lookup) -> Outcome:
        if lookup.first is not None:
            try:
                lookup.first()
            except HandshakeError as exc:
                return exc
            found = numeric_addresses(lookup.host, lookup.port)
            if found:
                return found
        try:
            return lookup.carry_out(self._getaddrinfo)
        except DialError as exc:
            return exc
        except Exception as exc:  # noqa: BLE001  # the bug of a program's own resolver
            log_bug("looking %s up failed", quoted(lookup.host))
            return DialError("the resolver failed: %s" % exc, Rep.GENERAL_FAILURE)
