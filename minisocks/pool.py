"""Who serves clients: the loop, and handler threads where a client's turn may take long.

The loop accepts and has the handshakes, since a thread for them costs more than it
gains: threads that are all quick fight for the interpreter at every system call
(measured with four of them: 2.6 times the processor time for each connection, and
half as many in a second).  A thread is for what the loop must not wait for, the
embedding program's hooks.  There are none until a hook is to be called, as many as
hooks run at once, and none again a while after.
"""

import collections
import logging
import threading
import time
from typing import Any, Deque, Dict, List, Optional, Sequence

from minisocks.client import Client, neighbourhood
from minisocks.compat import log_bug, start_thread
from minisocks.doors import Doors
from minisocks.errand import run_in
from minisocks.errors import HookFailed
from minisocks.lobby import Lobby
from minisocks.negotiate import Turn, negotiate
from minisocks.session import Services, Session

__all__ = ["HandlerPool"]

log = logging.getLogger("minisocks")

#: How long a thread stays without work.
IDLE_SECONDS = 10.0
#: How long ``stop`` waits for threads that a hook may hold.
STOP_SECONDS = 5.0
#: "At capacity" is told once in so many seconds.
EDGE_SECONDS = 10.0


class HandlerPool(Turn):
    """Serves the clients of some listeners, and is the loop's turn with each of them.

    Args:
        max_threads: more are not made, however many clients wait for hooks.
    """

    def __init__(self, services: Services, max_threads: int) -> None:
        self._loop = services.loop
        self._logins = services.logins
        self._lobby = Lobby(services.loop, services.config.max_handshakes)
        services.park = self._lobby.park
        services.resume = self._resume
        self._max_threads = max_threads
        self._doors: Optional[Doors] = None
        self._changed = threading.Condition()  # guards all below
        self._waiting: Deque[Session] = collections.deque()
        self._threads: List[threading.Thread] = []
        self._idle = 0
        #: Sessions that have a thread or wait for one, by client address (of IPv6: the /64).
        self._hooks: Dict[bytes, int] = {}
        self._short_of_threads = False
        self._busy_told_at = -EDGE_SECONDS
        self._stopping = False
        self._stopped = threading.Event()

    @property
    def parked(self) -> int:
        """How many unfinished handshakes wait without a thread."""
        return len(self._lobby)

    @property
    def threads(self) -> int:
        """How many threads there are."""
        return len(self._threads)

    @property
    def in_hooks(self) -> int:
        """How many clients are waited for by hooks."""
        with self._changed:
            return sum(self._hooks.values())

    @property
    def open(self) -> int:
        """How many connections there are: those in the loop, and those that hooks hold."""
        with self._changed:  # so that none is missed on its way to a hook
            return len(self._loop) + self.in_hooks

    def start(self, servers: Sequence[object]) -> None:
        """Start serving *servers*, each a ``SocksServer`` that listens, in a loop that runs."""
        self._doors = Doors(self._loop, servers)
        self._loop.submit(self._doors)

    def resize(self, max_threads: int) -> None:
        """Have so many threads, and unfinished handshakes, at most.  Those there are stay."""
        self._max_threads = self._lobby.room = max_threads

    def change_servers(self, added: Sequence[Any], removed: Sequence[Any]) -> None:
        """Accept for *added*, too, and no more for *removed*.  Loop thread."""
        if self._doors is not None:
            self._doors.change(added, removed)

    def hand_over(self, session: Session) -> None:
        """Have a thread go on with *session*; see ``Turn``.  Loop thread."""
        address = neighbourhood(session.client.ip)
        with self._changed:
            here = self._hooks.get(address, 0)
            # Half of them for each address: nobody keeps all others out.
            fits = here < max(1, self._max_threads // 2)
            if not fits or not self._find_thread():
                self._tell_busy(session.client)
                raise HookFailed("too many hooks run already")
            self._hooks[address] = here + 1
            session.unpark()
            session.unwatch()
            self._waiting.append(session)
            self._changed.notify()

    def wait(self) -> None:
        """Return when ``stop`` has been called."""
        self._stopped.wait()

    def stop(self) -> None:
        """Accept no more and end handshakes; returns when threads have ended, or after a while.

        A hook may call it: its own thread is not waited for.
        """
        with self._changed:
            self._stopping = True  # and no thread is made from now on
            waiting, threads = list(self._waiting), list(self._threads)
            self._waiting.clear()
            self._changed.notify_all()
        # In a forked child nobody would do it, and the parent goes on.
        if self._doors is not None and self._loop.is_running():
            run_in(self._loop, self._close)
        for session in waiting:
            self._abort(session)
        until = time.monotonic() + STOP_SECONDS
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))
        self._stopped.set()

    def _close(self) -> None:
        """Let nobody in any more.  Loop thread."""
        assert self._doors is not None
        self._doors.abort("shutdown")
        self._lobby.close()
        self._logins.close()

    def _resume(self, session: Session) -> None:
        negotiate(session, self)

    def _find_thread(self) -> bool:
        """See to it that a thread will come to one session more; False if none can."""
        if self._stopping:
            return False
        if self._idle > len(self._waiting):
            return True
        if len(self._threads) < self._max_threads:
            try:
                self._threads.append(start_thread(self._work, "handler"))
            except RuntimeError as exc:
                if not self._short_of_threads:
                    log.warning(
                        "at capacity: no new thread: %s; going on with %d", exc, len(self._threads)
                    )
                self._short_of_threads = True
            else:
                if self._short_of_threads:
                    log.warning("threads can be had again")
                self._short_of_threads = False
                return True
        if sum(self._hooks.values()) < len(self._threads):
            return True  # one of them has let its session go, and is about to come for more
        # Where the system has no thread more for us, those there are take turns.
        return self._short_of_threads and bool(self._threads)

    def _tell_busy(self, client: Client) -> None:
        now = time.monotonic()
        if now >= self._busy_told_at + EDGE_SECONDS:
            self._busy_told_at = now
            log.warning(
                "at capacity: hooks hold %d threads, or half of those there may be for %s; "
                "clients are refused",
                len(self._threads),
                client.host,
            )

    def _work(self) -> None:
        """Take one session after another.  A handler thread."""
        try:
            while True:
                session = self._next_session()
                if session is None:
                    return
                turn = _ThreadsTurn(self)
                try:
                    negotiate(session, turn)
                except Exception:  # noqa: BLE001  # our bug: this client pays, the thread lives on
                    log_bug("a handler failed")
                turn.let_go(session)
        finally:
            with self._changed:
                if threading.current_thread() in self._threads:
                    self._threads.remove(threading.current_thread())

    def _next_session(self) -> Optional[Session]:
        """Return the next one; None if none came for a while, or the pool stops."""
        with self._changed:
            self._idle += 1
            try:
                if not self._waiting and not self._stopping:
                    self._changed.wait(IDLE_SECONDS)
                if self._waiting:
                    return self._waiting.popleft()
                # In the same breath, so that nobody counts on it any more.
                self._threads.remove(threading.current_thread())
                return None
            finally:
                self._idle -= 1

    def _abort(self, session: Session) -> None:
        session.abort("shutdown")
        self.let_go(session)

    def let_go(self, session: Session) -> None:
        """Count *session* out, which has no thread any more.  Any thread."""
        address = neighbourhood(session.client.ip)
        with self._changed:
            left = self._hooks.pop(address) - 1
            if left:
                self._hooks[address] = left


class _ThreadsTurn(Turn):
    """A handler thread's turn with one session: it has nothing else to do."""

    may_wait = True

    def __init__(self, pool: HandlerPool) -> None:
        self._pool = pool
        self._has_it = True

    def park(self, session: Session) -> None:
        # Before: as soon as it is parked its client may be handed over again, which
        # would count it twice.
        self.let_go(session)
        super().park(session)

    def let_go(self, session: Session) -> None:
        """Give the thread back, once."""
        if self._has_it:
            self._has_it = False
            self._pool.let_go(session)
