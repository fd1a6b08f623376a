"""Reloads: settings are read in a thread, and changed in the main one."""

import logging
from typing import Any, Callable, Dict, List, Optional

from minisocks.errors import ServiceError
from minisocks.net.threads import start_thread
from minisocks.quoting import reason_of
from minisocks.service.commands import change_told
from minisocks.service.control import Answer
from minisocks.service.signals import Order

__all__ = ["Change", "Reloads"]

log = logging.getLogger("minisocks")

#: Makes settings that have been read those in force, and waits for no file.  Returns lists:
#: "changed", "read" (files) and "restart" (what changes only then).
Change = Callable[[], Dict[str, List[str]]]


class Reloads:
    """One after the other, each for all that have asked until it begins to read.

    A class because of those that ask while one is being read.  A list of a million names takes
    seconds to read, and a file on a network may never come: the main thread, which follows
    orders to stop, waits for neither.  Main thread.

    Args:
        read: reads the settings.  Any thread.
        give: has the main thread carry out an order.
    """

    def __init__(self, read: Callable[[], Change], give: Callable[[Order], None]) -> None:
        self._read, self._give = read, give
        self._is_due = self._is_reading = False
        self._asking: List[Answer] = []

    def ask(self, answer: Optional[Answer]) -> None:
        """Have one made that begins to read after this call; *answer* is told how it went."""
        self._is_due = True
        if answer is not None:
            self._asking.append(answer)
        self._go_on()

    def _go_on(self) -> None:
        if self._is_reading or not self._is_due:
            return
        asking, self._asking = self._asking, []
        self._is_due, self._is_reading = False, True

        def read() -> None:
            try:
                change = self._read()
            except BaseException as exc:  # noqa: BLE001  # the main thread raises it again
                change = _raiser(exc)
            self._give(lambda: self._finish(change, asking))

        try:
            start_thread(read, "reload")
        except (OSError, RuntimeError):
            read()  # no thread can be had: for once an order to stop waits

    def _finish(self, change: Change, asking: List[Answer]) -> None:
        """Go by what has been read, or tell what is wrong with it."""
        try:
            told: Dict[str, Any] = dict(change(), ok=True)
        except (OSError, RuntimeError, ValueError, ServiceError) as exc:
            sentence = getattr(exc, "sentence", None) or reason_of(exc)
            log.error("not reloaded, the old settings stay: %s", sentence)
            told = {"error": sentence}
        else:
            log.info("reloaded, %s", change_told(told["changed"], told["read"]))
            if told["restart"]:
                log.warning("needs a restart: %s", ", ".join(told["restart"]))
        for answer in asking:
            answer(told)
        self._is_reading = False
        self._go_on()


def _raiser(exc: BaseException) -> Change:
    def fail() -> Dict[str, List[str]]:
        raise exc

    return fail
