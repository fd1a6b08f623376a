"""What the process is told to do, by signals and by the control channel."""

import collections
import os
import signal
from typing import Any, Callable, Deque, List, Mapping, Optional, Set

from minisocks.compat import READ, Poller, Waker

__all__ = ["Order", "Orders", "hangs_on"]

#: What a signal means, where the system has it.  What is to end the process comes first.
_MEANINGS = {"SIGTERM": "stop", "SIGINT": "stop", "SIGHUP": "reload", "SIGUSR1": "report"}

#: On Windows a Ctrl-C ends no wait, and is noticed at its end.
WINDOWS_SECONDS = 1.0

#: Called by the main thread, once.
Order = Callable[[], None]


class Orders:
    """From ``with`` on: kept until ``wait`` returns them.

    A class because the handlers have to be there before the process can be found (a signal
    right after its first line must not kill it), with all else that waiting needs: once it
    serves, clients may have every descriptor there is.

    A handler marks its signal, makes one descriptor readable, and has further signals of that
    kind wait in the kernel, which keeps one of them.  So a storm of signals costs one call of a
    handler for each ``wait``.  No ``signal.set_wakeup_fd``: Python writes each signal to that
    descriptor, complains when it is full, and 3.6 cannot be told not to.  Nothing is logged in a
    handler.

    After ``with`` the process ends, so these signals do nothing any more.  Main thread, but
    for ``give`` and ``wake``.

    Args:
        steps: the order for "stop", "reload" and "report".
    """

    def __init__(self, steps: Mapping[str, Order]) -> None:
        numbers = {getattr(signal, name, None): what for name, what in _MEANINGS.items()}
        self._steps = {int(n): steps[what] for n, what in numbers.items() if n is not None}
        self._stops = {int(n) for n, what in numbers.items() if n is not None and what == "stop"}
        self._arrived: Set[int] = set()
        self._given: Deque[Order] = collections.deque()
        self._serves = False

    def __enter__(self) -> "Orders":
        self._poller = Poller()  # not select(): the descriptor may be above 1023
        self._waker = Waker()
        self._poller.register(self._waker.fileno(), READ)
        for number in self._steps:
            signal.signal(number, self._note)
        return self

    def __exit__(self, *exc: Any) -> None:
        for number in self._steps:
            signal.signal(number, signal.SIG_IGN)
        self._let_come(self._arrived)
        self._poller.close()
        self._waker.close()

    def serve(self) -> None:
        """Keep orders to stop from now on, too.  Before, they end the process at once.

        A start may read a long list, or a file that does not come.
        """
        self._serves = True

    def give(self, order: Order) -> None:
        """Have *order* carried out.  Any thread."""
        self._given.append(order)
        self._waker.wake()

    def wake(self) -> None:
        """Have ``wait`` return.  Any thread."""
        self._waker.wake()

    def wait(self, seconds: Optional[float]) -> List[Order]:
        """Wait for orders, a ``wake`` or so many seconds; return the orders, to stop first."""
        if os.name == "nt":
            seconds = WINDOWS_SECONDS if seconds is None else min(seconds, WINDOWS_SECONDS)
        self._poller.poll(-1 if seconds is None else seconds)
        self._waker.drain()
        arrived, self._arrived = self._arrived, set()
        orders = [step for number, step in self._steps.items() if number in arrived]
        self._let_come(arrived)
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

    def _let_come(self, numbers: Set[int]) -> None:
        if _set_mask is not None:
            _set_mask(signal.SIG_UNBLOCK, numbers)


#: Not on Windows.
_set_mask = getattr(signal, "pthread_sigmask", None)


def hangs_on() -> bool:
    """Return whether this process was started so that it outlives its terminal, as by nohup."""
    return hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
