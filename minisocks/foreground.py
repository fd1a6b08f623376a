"""Serve in the foreground until a signal says to end: for the command line."""

import select
import signal
import time
from typing import Any, Dict, Optional

from minisocks.compat import Waker
from minisocks.proxy import Proxy

__all__ = ["Signals"]

_ENDING = [signal.SIGINT, signal.SIGTERM]


class Signals:
    """TERM and INT, from ``with`` on: kept until somebody waits for them.

    A class because the handlers have to be there before the proxy starts (a
    signal right after its first line must not kill it) and are put back after.
    They do nothing and log nothing: the interpreter writes the signal's number
    to a descriptor, and that is what is waited for.  Main thread only.
    """

    def __enter__(self) -> "Signals":
        self._waker = Waker()
        self._old_fd = signal.set_wakeup_fd(self._waker.writer_fileno())
        self._old: Dict[int, Any] = {n: signal.signal(n, _ignore) for n in _ENDING}
        return self

    def __exit__(self, *exc: Any) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        self._waker.close()

    def serve(self, proxy: Proxy, grace: float) -> None:
        """Wait for a signal, then end *proxy*, which has been started.

        Its connections get *grace* seconds; a second signal ends them at once.
        """
        self._wait(None)
        proxy.stop_listening()
        proxy.notify_when_empty(self._waker.wake)
        self._wait(time.monotonic() + grace)
        proxy.stop()

    def _wait(self, until: Optional[float]) -> None:
        """Wait for a signal or, with *until* given, for a wake-up or that moment."""
        while True:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not select.select([self._waker.fileno()], [], [], left)[0]:
                return
            notes = self._waker.drain()
            if until is not None or any(notes):
                return


def _ignore(_number: int, _frame: Any) -> None:
    """Take the signal's default action away; see ``Signals``."""
