"""The commands that speak to a running minisocks: stop, drain, reload, status.  No click."""

import os
import time
from typing import Any, Dict

from minisocks.errors import NotRunning, ServiceError
from minisocks.quoting import as_json, reason_of, shown_in
from minisocks.service.console import clear_screen, flush_stdout, print_line, say
from minisocks.service.pidfile import Pidfile, control_path
from minisocks.service.remote import fits, request
from minisocks.service.status import SHAPE, as_prometheus, as_text, change_told

__all__ = ["drain", "reload", "status", "stop"]

#: How long a process may take for an answer.
ANSWER_SECONDS = 10.0
#: What it may take to end, beyond the grace of its connections.
END_SECONDS = 15.0
#: And without any, once it speaks to nobody any more.
ENDING_SECONDS = 1.0
#: Between two looks at the lock.
LOOK_SECONDS = 0.05
#: Between two tables of ``status --watch``.
WATCH_SECONDS = 2.0
#: Of an error that the process tells, so many characters: mistakes in settings can be long.
MOST_TOLD = 2000

_MISSHAPEN = "the process that has %s answers, but not as this minisocks does"


def stop(path: str) -> None:
    """Return when the process that has the pidfile *path* has ended.

    Raises:
        NotRunning: there is none.
        ServiceError: it does not end.
    """
    pidfile = Pidfile(path)
    pid = pidfile.holder()  # another one may follow it at once
    try:
        grace = float(_ask(path, "stop", grace=float)["grace"])
    except _HasEnded:
        return
    until = time.monotonic() + grace + END_SECONDS
    while not pidfile.is_free() and pidfile.holder() == pid:
        if time.monotonic() > until:
            raise ServiceError("process %s has not ended yet" % pidfile.holder())
        time.sleep(LOOK_SECONDS)


def drain(path: str) -> None:
    """Have it accept no more, and end with its last connection.

    Raises:
        NotRunning, ServiceError: as ``stop``.
    """
    answer = _ask(path, "drain", open=int)
    say("draining:", "%d connections are open; it ends with the last one" % answer["open"])


def reload(path: str) -> None:
    """Have it read its settings anew.

    Raises:
        NotRunning: there is none.
        ServiceError: they cannot be used; the old ones stay.
    """
    answer = _ask(path, "reload", changed=[str], restart=[str])
    # An older process may not tell.
    read = answer["read"] if fits(answer.get("read"), [str]) else []
    say("reloaded,", change_told(answer["changed"], read))
    if answer["restart"]:
        say("needs a restart:", ", ".join(answer["restart"]))


def status(path: str, form: str = "text", watch: bool = False) -> None:
    """Show what it says of itself, as text, json or prometheus.

    Raises:
        NotRunning, ServiceError: as ``stop``.
        OSError: stdout is closed, or full.
        KeyboardInterrupt: somebody has watched enough.
    """
    while True:
        answer = shown_in(_ask(path, "status", ok=bool))
        del answer["ok"]
        try:
            if not fits(answer, SHAPE):
                raise ServiceError(_MISSHAPEN % path)
            if form == "json":
                lines = as_json(answer, indent=None if watch else 2).split("\n")
            else:
                lines = (as_prometheus if form == "prometheus" else as_text)(answer)
        except (LookupError, TypeError, ValueError, AttributeError):
            raise ServiceError(_MISSHAPEN % path) from None
        if watch and form == "text":
            clear_screen()
        for line in lines:
            print_line(line)
        if not watch:
            return
        flush_stdout()
        time.sleep(WATCH_SECONDS)


class _HasEnded(NotRunning):
    """It did run when it was asked."""


def _ask(path: str, what: str, **parts: Any) -> Dict[str, Any]:
    """Return the answer of the process that has *path*.

    Args:
        parts: what has to be in it, and of which shape; see ``remote.fits``.

    Raises:
        NotRunning, ServiceError: as ``stop``.
    """
    pidfile = Pidfile(path)
    try:
        if pidfile.is_free():
            raise NotRunning("not running: no process has %s" % path)
        owner = os.stat(path).st_uid
    except OSError as exc:
        raise ServiceError("cannot read the pidfile %s: %s" % (path, reason_of(exc))) from exc
    where = control_path(path)
    try:
        answer = request(where, {"do": what}, ANSWER_SECONDS, owner)
    except (OSError, ValueError) as exc:
        if _ends(pidfile):
            raise _HasEnded("not running: it has just ended") from exc
        raise ServiceError(
            "process %s cannot be spoken to at %s: %s"
            % (pidfile.holder() or "(starting)", where, reason_of(exc))
        ) from exc
    if "error" in answer:
        raise ServiceError(str(answer["error"])[:MOST_TOLD])
    if not all(fits(answer.get(name), shape) for name, shape in parts.items()):
        raise ServiceError(_MISSHAPEN % path)
    return answer


def _ends(pidfile: Pidfile) -> bool:
    """Return whether the process that has *pidfile* lets go of it in a moment."""
    until = time.monotonic() + ENDING_SECONDS
    while not pidfile.is_free():
        if time.monotonic() > until:
            return False
        time.sleep(LOOK_SECONDS)
    return True
