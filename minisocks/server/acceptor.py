"""Handler threads, of which one at a time, the leader, waits for clients."""

import threading
import time
from typing import Any, Callable, Optional, Sequence, Set

from minisocks.compat import log_bug
from minisocks.net.capacity import Edge
from minisocks.net.threads import start_thread
from minisocks.server.accepting import RETRY_SECONDS, Accepted, Listeners
from minisocks.server.services import Services

__all__ = ["Acceptor"]

#: Idle threads that stay.
MAX_FOLLOWERS = 4
#: Threads with quick clients.  More compete for the interpreter: with 32 of them each connection
#: took 1.3 times the processor time.
MAX_FRESH = 3
#: Seconds after which the clients of these threads count as slow.  Halved each time, so that many
#: silent clients are accepted quickly.
PATIENCE_SECONDS = 0.002
#: Longest wait of ``stop`` for threads, which may be in hooks.
STOP_SECONDS = 5.0
#: Longest wait of ``change`` for a leader, because all threads may be in hooks.
CHANGE_SECONDS = 5.0


class Acceptor:
    """Threads that accept and serve the clients of some ``SocksServer``.

    A thread that has accepted a client lets another thread lead, and then serves the client
    itself, so no client changes thread.  There is a thread for each handshake, and one more than
    ``--max-handshakes`` at most: that one can always accept, and ends a pending handshake
    (``Pending``).  Thread: any.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lead = threading.Condition(threading.Lock())  # the leader's; guards all below
        self._stopping = threading.Event()
        self._listeners = Listeners(services, self._stopping)
        self._patience = PATIENCE_SECONDS
        self._guard = threading.Lock()  # guards all below
        self._threads: Set[threading.Thread] = set()
        #: How many threads there are or are being started.
        self._thread_count = 0
        #: How many threads lead or wait to lead.
        self._followers = 0
        #: Number of the last client, and of the last one that counts as slow.
        self._count = self._slow_count = 0
        #: How many later clients are being served.
        self._fresh = 0
        self._thread_supply = Edge("threads can be had again")
        self._stopped = threading.Event()

    @property
    def threads(self) -> int:
        """How many threads there are."""
        return self._thread_count

    def start(self, servers: Sequence[Any]) -> None:
        """Start to serve *servers*; their loop must run.

        Raises:
            RuntimeError, OSError: no thread can be started.
        """
        with self._guard:
            self._listeners.change(servers, ())
            self._expect_thread(1)
        try:
            self._start_thread()
        except BaseException:
            with self._guard:
                self._expect_thread(-1)
            raise

    def change(self, added: Sequence[Any], removed: Sequence[Any]) -> None:
        """Serve *added* as well, and of *removed* only the clients that wait there already.

        Returns when *removed* may be closed.  Thread: any but the loop's, because the leader may
        wait for the loop.
        """
        with self._guard:
            is_adopted = self._listeners.change(added, removed)
        _wait_until(
            lambda seconds: self._stopping.is_set() or is_adopted.wait(seconds), CHANGE_SECONDS
        )

    def wait(self) -> None:
        """Return when ``stop`` has been called."""
        self._stopped.wait()

    def stop(self) -> None:
        """Accept no more and end handshakes; returns when threads have ended, or after 5 s.

        A hook may call it: the calling thread is not waited for.
        """
        self._stopping.set()
        self._listeners.waker.wake()  # never drained again, so that each leader sees it
        self._services.pending.close()
        with self._guard:
            threads = self._threads.difference([threading.current_thread()])
        _wait_until(lambda seconds: _join(threads, seconds), STOP_SECONDS)
        if self._lead.acquire(timeout=1.0):  # else a leader hangs, and uses the waker
            self._listeners.waker.close()
            self._lead.release()
        self._stopped.set()

    # A handler thread

    def _work(self) -> None:
        """Lead, serve and follow, until there are enough threads without this one."""
        is_following = True
        try:
            while True:
                self._services.processor.keep()
                accepted = self._next()
                if accepted is None:
                    return
                is_following = False
                number = self._leave_lead()
                _serve(*accepted)
                accepted = None  # frees the socket
                is_following = self._follow(number)
                if not is_following:
                    return
        finally:
            with self._guard:
                self._threads.discard(threading.current_thread())
                self._followers -= is_following
                self._thread_count -= 1
                was_last = not self._followers and not self._stopping.is_set()
                self._expect_thread(was_last)
            if was_last:  # our bug has ended it
                self._start_thread()

    def _leave_lead(self) -> int:
        """Let another thread lead; return the number of this thread's client."""
        with self._guard:
            self._followers -= 1
            self._fresh += 1
            self._count += 1
            number = self._count
            if self._followers or self._stopping.is_set() or self._is_full():
                return number
            self._expect_thread(1)
        # Without the lock, because without memory the start of a thread may never return.
        try:
            self._start_thread()
        except (RuntimeError, OSError, MemoryError) as exc:
            with self._guard:
                self._expect_thread(-1)
                # One handshake less than threads, so that one thread can always lead.
                count = self._thread_count
                self._services.pending.have_threads(max(1, count - 1))
                self._thread_supply.reached("no new thread: %s; going on with %d", exc, count)
        else:
            with self._guard:
                self._services.pending.have_threads(None)
                self._thread_supply.passed()
        return number

    def _is_full(self) -> bool:
        """Return whether there are as many threads as allowed: one more than handshakes.

        Twice as many while fewer than half of these handshakes are pending, because threads in the
        code of a subclass cannot be ended.
        """
        most = self._services.access.config.max_handshakes
        spare = 1 if len(self._services.pending) * 2 >= most else most
        return self._thread_count >= most + spare

    def _follow(self, number: int) -> bool:
        """Return whether this thread, which has served client *number*, stays."""
        with self._guard:
            if number > self._slow_count:
                self._fresh -= 1
                self._patience = PATIENCE_SECONDS
            stays = self._followers < MAX_FOLLOWERS and not self._stopping.is_set()
            self._followers += stays
            return stays

    def _expect_thread(self, change: int) -> None:
        """Count a thread that will be started, or one less if that failed.  With the lock."""
        self._thread_count += change
        self._followers += change

    def _start_thread(self) -> None:
        hooks = self._services.hooks
        runs_hooks = hooks.authenticate is not None or hooks.authorize is not None
        thread = start_thread(self._work, "handler", runs_hooks)
        with self._guard:
            if thread.is_alive():
                self._threads.add(thread)

    # The leader

    def _next(self) -> Optional[Accepted]:
        """Return a client that has been accepted; None: the acceptor stops."""
        with self._lead:
            while not self._stopping.is_set():
                try:
                    if self._fresh >= MAX_FRESH:
                        self._wait_for_quick_clients()
                        continue
                    accepted = self._listeners.accept()
                except Exception:  # noqa: BLE001  # no memory, or our bug: other threads must lead
                    log_bug("accepting failed")
                    self._stopping.wait(RETRY_SECONDS)
                else:
                    if accepted is not None:
                        return accepted
        return None

    def _wait_for_quick_clients(self) -> None:
        """Let a thread that has served its client lead; if none comes, the clients are slow."""
        count, fresh = self._count, self._fresh
        self._lead.wait(self._patience)
        with self._guard:
            if (count, fresh) == (self._count, self._fresh):
                self._slow_count, self._fresh = count, 0
                self._patience /= 2


def _serve(server: Any, request: Any, address: Any) -> None:
    """Serve one client, as ``BaseServer`` does.  Raises nothing, because the thread goes on."""
    is_served = False
    try:
        if server.verify_request(request, address):
            is_served = True  # ``process_request`` closes the socket
            server.process_request(request, address)
    except Exception:  # noqa: BLE001  # as BaseServer does
        _guarded(server.handle_error, request, address)
    except BaseException:  # noqa: BLE001  # of a subclass: SystemExit would end this thread
        log_bug("serving %r failed", address)
    if not is_served:
        _guarded(server.shutdown_request, request)


def _guarded(call: Callable[..., None], *args: Any) -> None:
    try:
        call(*args)
    except BaseException:  # noqa: BLE001  # of a subclass, as above
        log_bug("%s failed", call.__name__)


def _wait_until(wait: Callable[[float], bool], seconds: float) -> None:
    """Return when *wait* returns True, or after *seconds*.

    In steps of a second, because before Python 3.11 waits use the wall clock.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until and not wait(min(1.0, max(0.0, until - time.monotonic()))):
        pass


def _join(threads: Set[threading.Thread], seconds: float) -> bool:
    """Return whether all *threads* have ended; wait for one of them for at most *seconds*."""
    for thread in threads:
        thread.join(seconds)
        if thread.is_alive():
            return False
    return True
