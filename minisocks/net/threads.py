"""Threads of a proxy: daemons without signals, with stacks of a size of their own."""

import os
import signal
import sys
import threading
import time
from typing import Callable

__all__ = ["STACK_BYTES", "is_own_thread", "start_thread"]

# 3.8 warns about the numbers that the C library keeps for itself; 3.6 skips them.
_ALL_SIGNALS = getattr(signal, "valid_signals", lambda: range(1, signal.NSIG))()

#: How the threads of every proxy are called.
THREAD_PREFIX = "minisocks-"


def is_own_thread() -> bool:
    """Say whether this is a thread of a proxy, and not the program's."""
    return threading.current_thread().name.startswith(THREAD_PREFIX)


#: The first thread that ends in these Pythons has the C library load another one, and if no
#: descriptor is left just then, that aborts the whole process.
_MUST_END_ONE = sys.version_info < (3, 9, 6)


def _end_one() -> None:
    """Have a thread end while there are descriptors."""
    global _MUST_END_ONE
    os.close(os.open(os.devnull, os.O_RDONLY))
    _MUST_END_ONE = False
    before = _kernels_threads()
    thread = threading.Thread(target=int, daemon=True)
    thread.start()
    thread.join()
    for _ in range(100):  # to ``join`` it has ended before it has, to the C library
        if _kernels_threads() <= before:
            break
        time.sleep(0.001)


def _kernels_threads() -> int:
    """Return a number that grows by one with each thread there is, without a descriptor."""
    try:
        return os.stat("/proc/self/task").st_nlink
    except OSError:
        return 0


#: Of threads that run only our code.  The system's default of 8 MiB is address space that small
#: machines count: 256 threads would have 2 GiB of it.
STACK_BYTES = 256 * 1024
#: How long the start of a thread waits for that of another one.
START_SECONDS = 1.0
#: The size of the stack is one for all that starts threads: one of ours at a time changes it.
_starting = threading.Lock()


def _forked() -> None:
    """Let a forked child start threads, whatever its parent was at."""
    global _starting
    _starting = threading.Lock()


_at_fork = getattr(os, "register_at_fork", None)  # since Python 3.7
if _at_fork is not None:
    _at_fork(after_in_child=_forked)


def start_thread(
    target: Callable[[], None], name: str, runs_hooks: bool = False
) -> threading.Thread:
    """Start a daemon thread that no signal will ever be delivered to.

    Daemon, because a resolver thread inside ``getaddrinfo`` cannot be ended and
    must not keep the process.  Signals belong to the main thread: delivered to
    another one, they would interrupt nothing that waits for them.

    Args:
        runs_hooks: whether *target* may call the embedding program's code.  Its stack then is
            what other threads of the program have.  Code that calls itself without end needs
            up to 4 MiB until Python raises RecursionError (measured on 3.6 to 3.13); with less
            it ends the whole process.

    Raises:
        RuntimeError: the system has no room for another thread.
        OSError: the first one of the process only: there is no descriptor left.
    """
    if _MUST_END_ONE:
        _end_one()
    thread = threading.Thread(target=target, name=THREAD_PREFIX + name, daemon=True)
    # A start waits for the new thread's first step.  That never comes if there is no memory for
    # it, and then no other start may wait behind this one for ever.
    lock = _starting
    if not lock.acquire(timeout=START_SECONDS):
        raise RuntimeError("can't start new thread: one that is being started hangs")
    try:
        stack_bytes = threading.stack_size(STACK_BYTES)  # without a size it would set 0
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
    # A thread of ours takes no signals, and what it starts has its mask.  To read the mask back
    # is 64 look-ups of names, a twentieth of what a connection costs when many come at once.
    if is_own_thread() or not hasattr(signal, "pthread_sigmask"):
        thread.start()
        return
    # Blocked here and not in the new thread, which a signal could hit first.
    old = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)
    try:
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
