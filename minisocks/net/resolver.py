"""Names to addresses, in threads that may hang without anybody hanging with them.

``getaddrinfo`` can neither be cancelled nor given a time limit.  So it runs in
a few daemon threads of its own; whoever waits keeps its own deadline and walks
away.  Daemon threads and no executor: that one joins its threads at exit.

Clients share the threads and the places to wait (``quota``): one that asks for a thousand
names whose server is gone is only in its own way.
"""

import functools
import threading
import time
from typing import Any, Callable, Dict, Optional, Tuple

from minisocks.compat import log_bug
from minisocks.errors import DialError, HandshakeError
from minisocks.net.lookup import Outcome, look_up, numeric_addresses, system_getaddrinfo
from minisocks.net.threads import Workers
from minisocks.policy.client import THIS_HOST, Groups
from minisocks.policy.quota import Allowance, Queue, Quota
from minisocks.quoting import quoted
from minisocks.wire import Rep

__all__ = ["Lookup", "Resolver"]


MAX_THREADS = 64
#: Of those that are free a group of clients has less than this part.
THREADS_FACTOR = 0.25
#: Names that may wait for a thread. Each costs one descriptor of a client anyway.
MAX_WAITING = 1024
#: A lookup that takes this long waits for name servers none of which answers: where one answers
#: for one family only, the C library gives up after 15 s.
STUCK_SECONDS = 16.0
#: How long a thread without work stays.
IDLE_SECONDS = 10.0
#: How long ``close`` waits for lookups that are the program's own code.
CLOSE_SECONDS = 5.0

_TOO_MANY = "too many names are being looked up"


class Lookup:
    """One name being looked up.  ``cancel`` it when nobody waits any more."""

    __slots__ = ("callback", "family", "first", "groups", "host", "port")

    def __init__(
        self,
        host: bytes,
        port: int,
        callback: Callable[[Outcome], None],
        groups: Groups = THIS_HOST,
        first: Optional[Callable[[], None]] = None,
        family: int = 0,
    ) -> None:
        self.host = host
        self.family = family
        self.port = port
        self.first = first
        self.groups = groups
        self.callback: Optional[Callable[[Outcome], None]] = callback

    def cancel(self) -> None:
        """Do not call back, and do not start if not begun.  Any thread."""
        self.callback = None


class Resolver:
    """A bounded set of threads that look names up.

    Args:
        getaddrinfo: what to ask; for tests, and for hosts with their own ways.  It takes what
            ``system_getaddrinfo`` does.
        waits_when_closed: ``close`` waits 5 s for lookups under way, because the
            program's own code runs in them.
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

    def submit(
        self,
        host: bytes,
        port: int,
        callback: Callable[[Outcome], None],
        groups: Groups = THIS_HOST,
        first: Optional[Callable[[], None]] = None,
        family: int = 0,
    ) -> Lookup:
        """Look *host* up; *callback* gets the addresses or the error.

        It is called in a thread of the resolver, at most once; or in the thread of a later
        call, when the lookup has to make room for that one.  Any thread.

        Args:
            groups: those of the client, which shares threads and places with others.
            first: called before, in that thread; it may take long, and raises a
                ``HandshakeError`` if nothing is to be looked up.
            family: of the addresses, as ``Egress.only`` says; 0: both.

        Raises:
            DialError: no thread can take it now, nor soon (REP 01).
        """
        lookup = Lookup(host, port, callback, groups, first, family)
        workers = self._workers
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
        """End the threads.  One that hangs in the C library is left behind: it is a daemon.

        Called by a lookup of its own it does not wait for that.
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
        """Return the lookup that was taken out for one of *groups*, if one had to be.

        Raises:
            DialError: there is no room.
        """
        self._check_threads(groups)
        if self._waiting.is_full:
            for lookup in self._waiting.items():  # those whose clients have left go first
                if lookup.callback is None:
                    self._forget(lookup)
        victim = self._waiting.victim(groups) if self._waiting.is_full else None
        if self._workers.is_closed or (victim is None and self._waiting.is_full):
            raise DialError(_TOO_MANY, Rep.GENERAL_FAILURE)
        if victim is not None:
            self._forget(victim)
        return victim

    def _check_threads(self, groups: Groups) -> None:
        """Go on if a thread will be free for one of *groups* soon.

        Raises:
            DialError: all that there can be wait for name servers that do not answer.
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
        """Have *lookup* wait no more."""
        self._waiting.remove(lookup, lookup.groups)
        self._queue.remove(lookup, lookup.groups)

    def _take(self) -> Optional[Lookup]:
        """Return the lookup that goes next, if any may."""
        taken = self._queue.take()
        if taken is None:
            return None
        self._waiting.remove(*taken)
        if self._queue.has_next:
            self._find_another()
        return taken[0]

    def _find_another(self) -> None:
        """Have another thread than this one take what is next.

        The end of one lookup may let several begin: this host's, when no other has any left.
        """
        threads = len(self._workers.threads)
        if threads - len(self._busy) > 1:
            self._workers.changed.notify()
        elif threads < MAX_THREADS:
            self._start_thread(None)

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
        """Return the next look-up as work for the calling thread."""
        lookup = self._take()
        if lookup is None:
            return None
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
            return look_up(self._getaddrinfo, lookup.host, lookup.port, lookup.family)
        except DialError as exc:
            return exc
        except Exception as exc:  # noqa: BLE001  # a resolver of somebody's own may have bugs
            log_bug("looking %s up failed", quoted(lookup.host))
            return DialError("the resolver failed: %s" % exc, Rep.GENERAL_FAILURE)
