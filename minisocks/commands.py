"""The commands that speak to a running minisocks: stop, drain, reload, status.  No click."""

import json
import os
import time
from typing import Any, Dict, Tuple

from minisocks.console import flush_stdout, print_line, say
from minisocks.errors import NotRunning, ServiceError
from minisocks.pidfile import Pidfile, control_path
from minisocks.remote import request
from minisocks.status import as_prometheus, as_text, change_told

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

_MISSHAPEN = "the process that has %s answers, but not as this minisocks does"

#: To the upper left corner, and away with all below.
_CLEAR = "\x1b[H\x1b[2J\x1b[3J"


def stop(path: str) -> None:
    """Return when the process that has the pidfile *path* has ended.

    Raises:
        NotRunning: there is none.
        ServiceError: it does not end.
    """
    pidfile = Pidfile(path)
    pid = pidfile.holder()  # another one may follow it at once
    try:
        grace = float(_ask(path, "stop", grace=(int, float))["grace"])
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
    answer = _ask(path, "drain", open=(int,))
    say("draining:", "%d connections are open; it ends with the last one" % answer["open"])


def reload(path: str) -> None:
    """Have it read its settings anew.

    Raises:
        NotRunning: there is none.
        ServiceError: they cannot be used; the old ones stay.
    """
    answer = _ask(path, "reload", changed=(list,), restart=(list,))
    say("reloaded,", change_told(answer["changed"], answer.get("read", ())))
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
        answer = _ask(path, "status", ok=(bool,))
        del answer["ok"]
        try:
            if form == "json":
                text = json.dumps(answer, indent=None if watch else 2)
            else:
                text = "\n".join((as_prometheus if form == "prometheus" else as_text)(answer))
        except (LookupError, TypeError, ValueError, AttributeError):
            raise ServiceError(_MISSHAPEN % path) from None
        print_line(_CLEAR + text if watch and form == "text" else text)
        if not watch:
            return
        flush_stdout()
        time.sleep(WATCH_SECONDS)


class _HasEnded(NotRunning):
    """It did run when it was asked."""


def _ask(path: str, what: str, **parts: Tuple[type, ...]) -> Dict[str, Any]:
    """Return the answer of the process that has *path*; *parts* are what has to be in it.

    Raises:
        NotRunning, ServiceError: as ``stop``.
    """
    pidfile = Pidfile(path)
    try:
        if pidfile.is_free():
            raise NotRunning("not running: no process has %s" % path)
        owner = os.stat(path).st_uid
    except OSError as exc:
        raise ServiceError("cannot read the pidfile %s: %s" % (path, exc.strerror or exc)) from exc
    where = control_path(path)
    try:
        answer = request(where, {"do": what}, ANSWER_SECONDS, owner)
    except (OSError, ValueError) as exc:
        if _ends(pidfile):
            raise _HasEnded("not running: it has just ended") from exc
        raise ServiceError(
            "process %s cannot be spoken to at %s: %s"
            % (pidfile.holder() or "(starting)", where, getattr(exc, "strerror", None) or exc)
        ) from exc
    if "error" in answer:
        raise ServiceError(str(answer["error"]))
    if not all(isinstance(answer.get(name), kinds) for name, kinds in parts.items()):
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
