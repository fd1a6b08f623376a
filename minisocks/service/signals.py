"""Orders to the process, by signals and from other threads.  The main thread waits for them."""

import collections
import contextlib
import os
import select
import signal
import sys
from typing import Any, Callable, Deque, Dict, List, Mapping, Optional, Set, Tuple

from minisocks.compat import READ, Poller, Waker

__all__ = ["Order", "Signals", "ignores_hangup"]

#: What a signal means, where the system has it.  Those that end the process come first.
#: SIGIO: a file was removed from a folder of a pidfile (see ``presence``).
_MEANINGS = {
    "SIGTERM": "stop",
    "SIGINT": "stop",
    "SIGHUP": "reload",
    "SIGUSR1": "report",
    "SIGIO": "look",
}

#: Whether a wait can end because of a pipe.  On Windows it cannot, and a Ctrl-C is noticed only
#: when the wait is over, so that it is short.
_CAN_WAIT_FOR_PIPES = hasattr(select, "poll")
WINDOWS_SECONDS = 1.0

#: For ``signal.set_wakeup_fd``: a full pipe is no fault.
_QUIETLY: Dict[str, Any] = {} if sys.version_info < (3, 7) else {"warn_on_full_buffer": False}

#: Called by the main thread, once.
Order = Callable[[], None]


class Signals:
    """Signals and other orders, kept until ``wait`` returns them.

    A class because ``with`` prepares all that waiting needs: the handlers before other processes
    can find this one, because a signal right after its first line must not kill it; and the
    descriptors, because clients may have all others once it serves.

    A handler notes its signal and blocks it, so the kernel keeps one more of that kind.  A flood
    of signals thus costs one call of a handler for each ``wait``.  Handlers log nothing.

    A handler runs between two steps of Python.  A signal after the last step before ``poll``
    would end no wait, so Python also writes each signal to a pipe (``signal.set_wakeup_fd``).
    Python 3.6 complains when that is full, after 65 536 signals.

    After ``with`` the process ends, and these signals do nothing.  A SIGINT that the process was
    started to ignore stays ignored.  Main thread, but for ``give`` and ``wake``.

    Args:
        steps: the order for "stop", "reload", "report" and "look".
    """

    def __init__(self, steps: Mapping[str, Order]) -> None:
        numbers = {getattr(signal, name, None): what for name, what in _MEANINGS.items()}
        if _ignores(signal.SIGINT):
            # A shell makes jobs in the background ignore Ctrl-C, which is for the one in front.
            del numbers[signal.SIGINT]
        self._steps = {int(n): steps[what] for n, what in numbers.items() if n is not None}
        self._stops = {int(n) for n, what in numbers.items() if n is not None and what == "stop"}
        self._arrived: Set[int] = set()
        self._given: Deque[Order] = collections.deque()
        self._serves = False
        #: Both ends of the pipe; () on Windows.
        self._pipe: Tuple[int, ...] = ()

    def __enter__(self) -> "Signals":
        self._poller = Poller()  # not select(): the descriptor may be above 1023
        self._waker = Waker()
        self._poller.register(self._waker.fileno(), READ)
        if _CAN_WAIT_FOR_PIPES:
            self._pipe = os.pipe()
            for fd in self._pipe:
                os.set_blocking(fd, False)
            self._poller.register(self._pipe[0], READ)
            self._program_fd = signal.set_wakeup_fd(self._pipe[1], **_QUIETLY)
        for number in self._steps:
            signal.signal(number, self._note)
        return self

    def __exit__(self, *exc: Any) -> None:
        # Blocked first: Python looks for signals and then sets SIG_IGN. One that came between the
        # two would make it call SIG_IGN: a TypeError of Python 3.6, a line in stderr of later ones.
        mask = _set_mask(signal.SIG_BLOCK, self._steps) if _set_mask is not None else set()
        for number in self._steps:
            signal.signal(number, signal.SIG_IGN)
        if _set_mask is not None:
            _set_mask(signal.SIG_SETMASK, mask - self._arrived)
        self._poller.close()
        self._waker.close()
        if self._pipe:
            signal.set_wakeup_fd(self._program_fd)
        for fd in self._pipe:
            os.close(fd)

    def serve(self) -> None:
        """Keep signals to stop for ``wait``, too.  Before, they end the process at once.

        A start may read a long list, or wait for a file.
        """
        self._serves = True

    def give(self, order: Order) -> None:
        """Make ``wait`` return *order*.  Any thread."""
        self._given.append(order)
        self._waker.wake()

    def wake(self) -> None:
        """Make ``wait`` return.  Any thread."""
        self._waker.wake()

    def wait(self, seconds: Optional[float]) -> List[Order]:
        """Wait for orders, ``wake`` or *seconds*; return the orders, those to stop first."""
        if not _CAN_WAIT_FOR_PIPES:
            seconds = WINDOWS_SECONDS if seconds is None else min(seconds, WINDOWS_SECONDS)
        self._poller.poll(-1 if seconds is None else seconds)
        self._waker.drain()
        if self._pipe:
            with contextlib.suppress(BlockingIOError):
                os.read(self._pipe[0], 1 << 16)
        arrived, self._arrived = self._arrived, set()
        orders = [step for number, step in self._steps.items() if number in arrived]
        if _set_mask is not None:
            _set_mask(signal.SIG_UNBLOCK, arrived)
        while self._given:
            orders.append(self._given.popleft())
        return orders

    def _note(self, number: int, _frame: Any) -> None:
        if number in self._stops and not self._serves:
            os._exit(0)
        self._arrived.add(number)
        self._waker.wake()
        if _set_mask is not None:
            _set_mask(signal.SIG_BLOCK, [number])


#: None on Windows.
_set_mask = getattr(signal, "pthread_sigmask", None)


def ignores_hangup() -> bool:
    """Return whether this process was started so that it outlives its terminal, as by nohup."""
    return hasattr(signal, "SIGHUP") and _ignores(signal.SIGHUP)


def _ignores(number: int) -> bool:
    return signal.getsignal(number) == signal.SIG_IGN
