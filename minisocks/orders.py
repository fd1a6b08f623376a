"""What the process is told to do, by signals and by the control channel."""

import collections
import signal
from typing import Any, Deque, Dict, List, Optional, Tuple

from minisocks.compat import READ, Poller, Waker
from minisocks.control import Answer

__all__ = ["Orders", "hangs_on"]

#: What a signal means, where the system has it.
_MEANINGS = {"SIGINT": "stop", "SIGTERM": "stop", "SIGHUP": "reload", "SIGUSR1": "report"}

#: A note of the waker that is no signal's.
_GIVEN = b"\xff"

#: An order, and who is to be told how it went.
Order = Tuple[str, Optional[Answer]]


class Orders:
    """From ``with`` on: kept until somebody waits for them.

    A class because the handlers have to be there before the proxy starts (a
    signal right after its first line must not kill it) and are put back after.
    So is all else that waiting needs: once it serves, clients may have every
    descriptor there is.
    They do nothing and log nothing: the interpreter writes the signal's number
    to a descriptor, and that is what is waited for.  Main thread, but for ``give``.
    """

    def __enter__(self) -> "Orders":
        self._given: Deque[Order] = collections.deque()
        self._poller = Poller()  # not select(): the descriptor may be above 1023
        self._waker = Waker()
        self._poller.register(self._waker.fileno(), READ)
        self._old_fd = signal.set_wakeup_fd(self._waker.writer_fileno())
        numbers = {getattr(signal, name, None): what for name, what in _MEANINGS.items()}
        self._meanings = {int(n): what for n, what in numbers.items() if n is not None}
        self._old: Dict[int, Any] = {n: signal.signal(n, _ignore) for n in self._meanings}
        return self

    def __exit__(self, *exc: Any) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        self._poller.close()
        self._waker.close()

    def give(self, what: str, answer: Optional[Answer]) -> None:
        """Have *what* carried out, and *answer* told how it went.  Any thread."""
        self._given.append((what, answer))
        self._waker.wake(_GIVEN)

    def wake(self) -> None:
        """Have ``wait`` return.  Any thread."""
        self._waker.wake()

    def wait(self, seconds: Optional[float]) -> List[Order]:
        """Wait for orders, a ``wake`` or so many seconds; return the orders."""
        self._poller.poll(-1 if seconds is None else seconds)
        notes = self._waker.drain()
        orders: List[Order] = [(self._meanings[n], None) for n in notes if n in self._meanings]
        while self._given:
            orders.append(self._given.popleft())
        return orders


def hangs_on() -> bool:
    """Return whether this process was started so that it outlives its terminal, as by nohup."""
    return hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def _ignore(_number: int, _frame: Any) -> None:
    """Take the signal's default action away; see ``Orders``."""
