"""Serve in the foreground until a signal says to end: for the command line."""

import signal
from typing import Any, Dict, Optional

from minisocks.compat import READ, Poller, Waker
from minisocks.proxy import Proxy

__all__ = ["Signals"]

_ENDING = [signal.SIGINT, signal.SIGTERM]


class Signals:
    """TERM and INT, from ``with`` on: kept until somebody waits for them.

    A class because the handlers have to be there before the proxy starts (a
    signal right after its first line must not kill it) and are put back after.
    So is all else that waiting needs: once it serves, clients may have every
    descriptor there is.
    They do nothing and log nothing: the interpreter writes the signal's number
    to a descriptor, and that is what is waited for.  Main thread only.
    """

    def __enter__(self) -> "Signals":
        self._poller = Poller()  # not select(): the descriptor may be above 1023
        self._waker = Waker()
        self._poller.register(self._waker.fileno(), READ)
        self._old_fd = signal.set_wakeup_fd(self._waker.writer_fileno())
        self._old: Dict[int, Any] = {n: signal.signal(n, _ignore) for n in _ENDING}
        return self

    def __exit__(self, *exc: Any) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        self._poller.close()
        self._waker.close()

    def serve(self, proxy: Proxy, grace: float) -> None:
        """Wait for a signal, then end *proxy*, which has been started.

        Its connections get *grace* seconds; a second signal ends them at once.
        """
        signals = 0
        while not signals:
            signals = self._wait(None)
        proxy.stop_listening()
        if signals == 1:
            proxy.notify_when_empty(self._waker.wake)
            self._wait(grace)
        proxy.stop()

    def _wait(self, seconds: Optional[float]) -> int:
        """Wait for a signal, a wake-up or so many seconds; return how many signals."""
        self._poller.poll(-1 if seconds is None else seconds)
        return sum(note != 0 for note in self._waker.drain())


def _ignore(_number: int, _frame: Any) -> None:
    """Take the signal's default action away; see ``Signals``."""
