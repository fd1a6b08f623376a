"""Handler threads: leader and followers.

One thread at a time, the leader, waits for clients and serves them.  Before it
waits for one of them, or calls a hook that may take long, it passes the lead
on: no hand-over for a client that is quick, no new thread for each connection.
Four threads do, unless hooks hold them; then more are made, and leave again.
"""

import collections
import errno
import functools
import logging
import threading
import time
from typing import Any, Callable, Deque, Dict, List, Optional, Sequence

from minisocks.client import Client
from minisocks.compat import CAPACITY_ERRORS, READ, Poller, Waker, log_bug, start_thread
from minisocks.errors import HookFailed
from minisocks.lobby import Lobby
from minisocks.negotiate import Turn, negotiate
from minisocks.session import Services, Session

__all__ = ["HandlerPool"]

log = logging.getLogger("minisocks")

#: Threads that stay. Waiting for clients takes no more: waits are short, and a
#: client that is slow waits in the loop. Only hooks make the pool larger.
CORE_THREADS = 4
#: How long a thread beyond those stays without work.
IDLE_SECONDS = 10.0
#: With no descriptor left, how long until accept is tried again.
RETRY_SECONDS = 1.0
#: How long a thread waits for its client's next bytes before it parks the
#: session. Most answer within a round trip.
PATIENCE_SECONDS = 0.02
#: How long ``stop`` waits for threads that a hook may hold.
STOP_SECONDS = 5.0

#: "At capacity" and its end are told once in so many seconds.
EDGE_SECONDS = 10.0

#: What accept says of a listener that somebody shut down or closed, for ever.
_LISTENER_IS_DEAD = (errno.EINVAL, errno.EBADF, errno.ENOTSOCK)

_Work = Callable[[], None]


class HandlerPool(Turn):
    """The threads that serve some listeners, and resume parked sessions.

    Args:
        max_threads: more are not made, however many clients wait.
    """

    def __init__(self, services: Services, max_threads: int) -> None:
        self._lobby = Lobby(services.loop, services.config.max_handshakes)
        services.park = self._lobby.park
        services.resume = self.resume
        services.loop.on_closed = self._descriptors_freed
        self._max_threads = max_threads
        self._servers: Dict[int, Any] = {}
        self._ready: Deque[Any] = collections.deque()
        self._resumed: Deque[Session] = collections.deque()
        self._waker = Waker()
        self._pollers: List[Any] = []
        try:
            for _ in range(2):
                self._pollers.append(Poller())
                self._pollers[-1].register(self._waker.fileno(), READ)
        except BaseException:
            self._close()
            raise
        self._listening, self._pausing = self._pollers
        self._lead = threading.Lock()
        self._mutex = threading.Lock()  # guards _threads and _followers
        self._threads: List[threading.Thread] = []
        self._this_thread = threading.local()
        self._followers = 0
        self._short_of_threads = False
        self._paused = False
        self._edge_told = True
        self._edge_told_at = self._busy_told_at = -EDGE_SECONDS
        #: Threads that run hooks, by client address (of IPv6: the /64).
        self._hooks: Dict[bytes, int] = {}
        self._stopping = False

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
        with self._mutex:
            return sum(self._hooks.values())

    def start(self, servers: Sequence[Any]) -> None:
        """Start serving *servers*, each a ``SocksServer`` that listens.

        Raises:
            RuntimeError: there is no room for a thread.
        """
        for server in servers:
            self._servers[server.fileno()] = server
            self._listening.register(server.fileno(), READ)
        with self._mutex:
            self._add_thread()

    def resume(self, session: Session) -> None:
        """Have a thread go on with *session*, which was parked.  Any thread."""
        self._resumed.append(session)
        self._waker.wake()
        if self._stopping:
            self._abort_resumed()

    def before_wait(self) -> float:
        """Return how many seconds this thread may wait for its client now.

        Passes the lead on.  None, if no thread can take it: while one of them
        waits for clients that are new, all others may wait for slow ones.
        """
        return PATIENCE_SECONDS if self._pass_lead_on(CORE_THREADS) else 0.0

    def before_hook(self, client: Client) -> None:
        """Let another thread lead, a new one if need be: this one may be long.

        Raises:
            HookFailed: then nobody would be left to accept; or this client's
                address has half of the threads already.
        """
        here = self._this_thread
        address = client.ip[:8] if len(client.ip) == 16 else client.ip
        with self._mutex:
            if here.hook_for is None:
                fits = self._hooks.get(address, 0) < max(1, self._max_threads // 2)
                if fits:
                    self._hooks[address] = self._hooks.get(address, 0) + 1
                    here.hook_for = address
            else:
                fits = True  # the second hook for the same client
        # Where the system has no thread for us, the one there is runs hooks, too.
        full = not self._pass_lead_on(self._max_threads) and len(self._threads) >= self._max_threads
        if full or not fits:
            self._tell_busy(client)
            raise HookFailed("too many hooks run already")

    def wait(self) -> None:
        """Return when every thread has ended."""
        for thread in iter(lambda: next(iter(self._threads), None), None):
            thread.join()

    def stop(self) -> None:
        """Accept no more; returns when the threads have ended, or after a while.

        A hook may call it: its own thread is not waited for.
        """
        with self._mutex:
            self._stopping = True  # and no thread is made from now on
            threads = list(self._threads)
        self._waker.wake()
        until = time.monotonic() + STOP_SECONDS
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))
        self._abort_resumed()
        self._lobby.close()
        with self._mutex:
            self._close_if_over()

    def _after_hooks(self) -> None:
        """Give back what ``before_hook`` has taken for this thread's client."""
        here = self._this_thread
        if here.hook_for is None:
            return
        with self._mutex:
            left = self._hooks.pop(here.hook_for) - 1
            if left:
                self._hooks[here.hook_for] = left
        here.hook_for = None

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

    def _close_if_over(self) -> None:
        """Close our descriptors once no thread is left, however late a hook lets one go."""
        if self._stopping and not self._threads:
            self._close()

    def _close(self) -> None:
        for poller in self._pollers:
            poller.close()
        self._waker.close()

    def _abort_resumed(self) -> None:
        while self._resumed:
            try:
                self._resumed.popleft().abort("shutdown")
            except IndexError:
                return  # another thread took the last one

    def _add_thread(self) -> None:
        self._threads.append(start_thread(self._work, "handler"))

    def _work(self) -> None:
        here = self._this_thread
        here.leads = False
        here.hook_for = None
        try:
            while self._take_lead():
                try:
                    work = self._wait_for_work()
                    if work is None:
                        break
                    work()
                except MemoryError:
                    # Of all that may run out, the thread that leads must not.
                    time.sleep(RETRY_SECONDS)
                except Exception:  # noqa: BLE001  # our bug: this client pays, the thread lives on
                    log_bug("a handler failed")
                self._after_hooks()
        finally:
            if here.leads:
                self._lead.release()
            with self._mutex:
                self._threads.remove(threading.current_thread())
                self._close_if_over()

    def _take_lead(self) -> bool:
        """Wait to become the leader; False if this thread is one too many."""
        if self._this_thread.leads:
            return True
        with self._mutex:
            self._followers += 1
        while True:
            spare = len(self._threads) > CORE_THREADS
            if self._lead.acquire(timeout=IDLE_SECONDS if spare else -1):
                self._this_thread.leads = True
                with self._mutex:
                    self._followers -= 1
                return True
            with self._mutex:
                # The last follower stays: who leads now counts on it.
                if self._followers > 1 and len(self._threads) > CORE_THREADS:
                    self._followers -= 1
                    return False

    def _pass_lead_on(self, most_threads: int) -> bool:
        """Give the lead to a follower; make one if there is none, up to a bound.

        Returns whether another thread leads now, or will in a moment.
        """
        if self._this_thread.leads:
            with self._mutex:
                if not self._followers and not self._make_follower(most_threads):
                    return False
            self._this_thread.leads = False
            self._lead.release()
        return True

    def _make_follower(self, most_threads: int) -> bool:
        if self._stopping or len(self._threads) >= most_threads:
            return False
        try:
            self._add_thread()
        except RuntimeError as exc:
            # Served all the same, by this thread when it has finished.
            if not self._short_of_threads:
                log.warning(
                    "at capacity: no new thread: %s; going on with %d", exc, len(self._threads)
                )
            self._short_of_threads = True
            return False
        if self._short_of_threads:
            log.warning("threads can be had again")
        self._short_of_threads = False
        return True

    def _wait_for_work(self) -> Optional[_Work]:
        """Return what is to be done next; None when the pool stops."""
        while not self._stopping:
            work = self._accept()
            if work is not None:
                return work
            # One parked session, then new clients again: neither starves.
            self._poll()
            if self._resumed:
                session = self._resumed.popleft()
                return functools.partial(negotiate, session, self)
        return None

    def _poll(self) -> None:
        """Wait for a client, a parked session or ``stop``."""
        if self._paused:
            events = self._pausing.poll(0 if self._resumed else RETRY_SECONDS)
            self._ready.extend(self._servers.values())
        else:
            events = self._listening.poll(0 if self._resumed else -1)
        for fd, _mask in events:
            if fd == self._waker.fileno():
                self._waker.drain()
            elif fd in self._servers:
                self._ready.append(self._servers[fd])

    def _accept(self) -> Optional[_Work]:
        while self._ready:
            server = self._ready.popleft()
            try:
                request, address = server.get_request()
            except BlockingIOError:
                self._unpause()  # nobody waits, and there was a descriptor for him
            except OSError as exc:
                if exc.errno in CAPACITY_ERRORS:
                    self._pause(exc)
                    return None
                if exc.errno in _LISTENER_IS_DEAD:
                    self._drop(server, exc)
                # Else this client left before we came to it.
            else:
                if self._paused:
                    self._ready.append(server)  # go on until nobody waits
                return functools.partial(server.process_request, request, address)
        return None

    def _pause(self, exc: OSError) -> None:
        """Wait for descriptors, not for clients: accept would fail at once, for ever."""
        self._ready.clear()
        if not self._paused:
            self._paused = True
            # Where descriptors come and go, the edge is crossed all the time.
            self._edge_told = time.monotonic() >= self._edge_told_at + EDGE_SECONDS
            if self._edge_told:
                self._edge_told_at = time.monotonic()
                log.warning("at capacity: accept: %s; waiting for connections to end", exc.strerror)

    def _unpause(self) -> None:
        if self._paused:
            self._paused = False
            if self._edge_told:
                log.warning("accepting again")

    def _drop(self, server: Any, exc: OSError) -> None:
        """Accept no more from a listener that will never have a client again."""
        log.error("a listener is dead: accept: %s; going on without it", exc.strerror)
        for fd, known in list(self._servers.items()):
            if known is server:
                del self._servers[fd]
                self._listening.unregister(fd)

    def _descriptors_freed(self) -> None:
        if self._paused:
            self._waker.wake()
