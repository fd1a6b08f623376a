"""Serve in the foreground until a signal says to end: for the command line."""

import select
import signal
import time
from typing import Any, Optional

from minisocks.compat import Waker
from minisocks.proxy import Proxy

__all__ = ["serve_until_signal"]

_ENDING = [signal.SIGINT, signal.SIGTERM]


def serve_until_signal(proxy: Proxy, grace: float) -> None:
    """Wait for TERM or INT, then end *proxy*, which has been started.

    Connections get *grace* seconds; a second signal ends them at once.
    Handlers do nothing and log nothing: the interpreter writes the signal's
    number to a descriptor, and that is what is waited for.  Main thread.
    """
    waker = Waker()
    old = {number: signal.signal(number, _ignore) for number in _ENDING}
    old_fd = signal.set_wakeup_fd(waker.writer_fileno())
    try:
        _wait(waker, None)
        proxy.stop_listening()
        proxy.notify_when_empty(waker.wake)
        _wait(waker, time.monotonic() + grace)
        proxy.stop()
    finally:
        signal.set_wakeup_fd(old_fd)
        for number, handler in old.items():
            signal.signal(number, handler)
        waker.close()


def _wait(waker: Waker, until: Optional[float]) -> None:
    """Wait for a signal or, with *until* given, for a wake-up or that moment."""
    while True:
        left = None if until is None else until - time.monotonic()
        if left is not None and left <= 0:
            return
        if not select.select([waker.fileno()], [], [], left)[0]:
            return
        notes = waker.drain()
        if until is not None or any(notes):
            return


def _ignore(_number: int, _frame: Any) -> None:
    """Take the signal's default action away; see above."""
