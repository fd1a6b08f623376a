"""Threads of a proxy: daemons without signals, and with small stacks."""

import os
import signal
import sys
import threading
import time
from typing import Callable, List, Optional

from minisocks.net.processor import release_thread

__all__ = ["STACK_BYTES", "Workers", "is_own_thread", "start_thread"]

# 3.8 warns about the numbers that the C library keeps for itself; 3.6 skips them.
_ALL_SIGNALS = getattr(signal, "valid_signals", lambda: range(1, signal.NSIG))()

#: The names of the threads of every proxy begin so.
THREAD_PREFIX = "minisocks-"


def is_own_thread() -> bool:
    """Return whether the calling thread is one of a proxy, and not of the program."""
    return threading.current_thread().name.startswith(THREAD_PREFIX)


#: In these Pythons, the first thread that ends makes the C library load another one, which aborts
#: the whole process if no descriptor is left.
_MUST_END_ONE = sys.version_info < (3, 9, 6)


def _end_one() -> None:
    """End one thread while there are descriptors."""
    global _MUST_END_ONE
    os.close(os.open(os.devnull, os.O_RDONLY))
    _MUST_END_ONE = False
    before = _kernels_threads()
    thread = threading.Thread(target=int, daemon=True)
    thread.start()
    thread.join()
    for _ in range(100):  # ``join`` returns before the thread has ended for the C library
        if _kernels_threads() <= before:
            break
        time.sleep(0.001)


def _kernels_threads() -> int:
    """Return a number that grows by one with each thread; needs no descriptor."""
    try:
        return os.stat("/proc/self/task").st_nlink
    except OSError:
        return 0


#: Stack of a thread that runs only our code.  With the system's 8 MiB, 256 threads would take
#: 2 GiB of address space, which small machines limit.
STACK_BYTES = 256 * 1024
#: Seconds that the start of a thread waits for that of another one.
START_SECONDS = 1.0
#: The size of stacks is one setting of the process: only one thread of ours at a time changes it.
_starting = threading.Lock()


def _forked() -> None:
    """Make a new lock in a forked child: its parent may have held the old one."""
    global _starting
    _starting = threading.Lock()


_at_fork = getattr(os, "register_at_fork", None)  # since Python 3.7
if _at_fork is not None:
    _at_fork(after_in_child=_forked)


def start_thread(
    target: Callable[[], None], name: str, runs_hooks: bool = False
) -> threading.Thread:
    """Start a daemon thread that receives no signals.

    Daemon, because a resolver thread inside ``getaddrinfo`` cannot be ended and must not keep the
    process.  Signals are for the main thread, which waits for them.

    Args:
        runs_hooks: whether *target* may call code of the embedding program.  Its stack then has
            the size of the program's threads: endless recursion needs up to 4 MiB until Python
            raises RecursionError (measured on 3.6 to 3.13), and a smaller stack ends the process.

    Raises:
        RuntimeError: the system has no room for another thread.
        OSError: no descriptor is left; only at the first thread of the process.
    """
    if _MUST_END_ONE:
        _end_one()
    thread = threading.Thread(target=target, name=THREAD_PREFIX + name, daemon=True)
    # A start waits for the first step of the new thread, which never comes if there is no memory.
    # Then other starts must not wait for this one for ever.
    lock = _starting
    if not lock.acquire(timeout=START_SECONDS):
        raise RuntimeError("can't start new thread: one that is being started hangs")
    try:
        stack_bytes = threading.stack_size(STACK_BYTES)  # a call without a size sets 0
        if runs_hooks:
            threading.stack_size(stack_bytes)
        try:
            _start_without_signals(thread)
        finally:
            threading.stack_size(stack_bytes)
    finally:
        lock.release()
    return thread


def _start_without_signals(thread: threading.Thread) -> None:
    # A thread of ours takes no signals, and the threads that it starts inherit its mask.  To read
    # the mask is 64 look-ups of names, a twentieth of a connection's cost when many come at once.
    if is_own_thread() or not hasattr(signal, "pthread_sigmask"):
        thread.start()
        return
    # Blocked here, because a signal could reach the new thread first.
    old = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)
    try:
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


class Workers:
    """Daemon threads that do one piece of work after another, and end when there is none.

    A caller of the methods has to hold their lock, ``changed``.

    Args:
        name: of the threads.
        take: returns the next piece of work; None: there is none now.  Called with ``changed``
            held, by the thread that is to do it.
        idle_seconds: the time that a thread waits for work until it ends; None: until ``close``.
        runs_hooks: as of ``start_thread``.
    """

    def __init__(
        self,
        name: str,
        take: Callable[[], Optional[Callable[[], None]]],
        idle_seconds: Optional[float],
        runs_hooks: bool,
    ) -> None:
        self._name = name
        self._take = take
        self._idle_seconds = idle_seconds
        self._runs_hooks = runs_hooks
        #: Notify it when there is more work.
        self.changed = threading.Condition()
        self.is_closed = False
        #: Those that have not begun to end.
        self.threads: List[threading.Thread] = []
        #: Those that are about to end, or have ended.
        self.ended: List[threading.Thread] = []

    def start(self) -> None:
        """Start one more thread.

        Raises:
            RuntimeError, OSError: as ``start_thread``.
        """
        self.threads.append(start_thread(self._work, self._name, self._runs_hooks))

    def close(self, seconds: float, may_stay: Callable[[], int] = lambda: 0) -> None:
        """Have threads without work end, and wait for it.

        Args:
            seconds: at most.
            may_stay: returns how many threads, beside the calling one, are not waited for.
        """
        until = time.monotonic() + seconds
        self.is_closed = True
        self.changed.notify_all()
        while True:
            # A forked child has none of its parent's threads.
            living = {thread for thread in self.threads if thread.is_alive()}
            left = until - time.monotonic()
            if len(living - {threading.current_thread()}) <= may_stay() or left <= 0:
                return
            self.changed.wait(left)

    def _work(self) -> None:
        release_thread()
        has_left = False
        try:
            while True:
                with self.changed:
                    work = self._next()
                    if work is None:
                        self._leave()  # under the same lock, or new work would count on this thread
                        has_left = True
                        return
                work()
        finally:
            if not has_left:
                with self.changed:
                    self._leave()

    def _next(self) -> Optional[Callable[[], None]]:
        work, may_wait = self._take(), True
        while work is None and may_wait and not self.is_closed:
            self.changed.wait(self._idle_seconds)
            may_wait = self._idle_seconds is None
            work = self._take()
        return work

    def _leave(self) -> None:
        me = threading.current_thread()
        self.threads.remove(me)
        self.ended = [thread for thread in self.ended if thread.is_alive()] + [me]
        self.changed.notify_all()
