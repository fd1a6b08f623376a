"""The commands that speak to a running minisocks: stop, drain, reload, status.  No click."""

import errno
import os
import time
from typing import Any, Dict, Sequence

from minisocks.errors import ListenError, NotRunning, ServiceError
from minisocks.quoting import as_json, reason_of, shown_in
from minisocks.service.console import clear_screen, flush_stdout, print_line, say
from minisocks.service.location import locate
from minisocks.service.pidfile import Pidfile, control_path
from minisocks.service.remote import fits, request
from minisocks.service.status import SHAPE, as_prometheus, as_text
from minisocks.values import ListenAddress

__all__ = ["ask", "change_told", "drain", "explained_by_process", "reload", "status", "stop"]

#: Seconds in which a process has to answer.
ANSWER_SECONDS = 10.0
#: The same, where only a better message depends on the answer.
LISTENS_SECONDS = 2.0
#: Seconds in which it has to end, beyond the grace of its connections.
END_SECONDS = 15.0
#: Seconds in which a process that answers no more has to end.
ENDING_SECONDS = 1.0
#: Seconds between two looks at the lock.
LOOK_SECONDS = 0.05
#: Seconds between two tables of ``status --watch``.
WATCH_SECONDS = 2.0
#: Most characters shown of an error of the process.
MOST_TOLD = 2000

_MISSHAPEN = "the process that has %s gave an answer that this version does not understand"
_STILL_RUNS = "process %s has not ended yet, %d s after stop; to end it at once: kill -KILL %s"


def stop(path: str) -> None:
    """End the process that has the pidfile *path*; return when it has ended.

    Raises:
        NotRunning: no process has the pidfile.
        ServiceError: the process does not answer, or does not end in time.
    """
    pidfile = Pidfile(path)
    pid = pidfile.holder()  # another process may follow it at once
    try:
        grace = float(ask(path, "stop", grace=float)["grace"])
    except _HasEnded:
        return
    seconds = grace + END_SECONDS
    until = time.monotonic() + seconds
    while not pidfile.is_free() and pidfile.holder() == pid:
        if time.monotonic() > until:
            raise ServiceError(_STILL_RUNS % (pid, seconds, pid))
        time.sleep(LOOK_SECONDS)


def drain(path: str) -> None:
    """Have the process accept no more clients, and end with its last connection.

    Raises:
        NotRunning, ServiceError: as ``stop``.
    """
    answer = ask(path, "drain", open=int, grace=float)
    state, end = "draining", "it ends with the last one"
    if answer.get("state") == "stopping":  # an older process does not tell its state
        state = "stopping"
        end += ", or %g s after the stop that came before this" % answer["grace"]
    say(state + ":", "connections that are open: %d; %s" % (answer["open"], end))


def reload(path: str) -> None:
    """Have the process read its settings again.

    Raises:
        NotRunning, ServiceError: as ``stop``; or the settings cannot be used, and the old ones
            stay.
    """
    answer = ask(path, "reload", changed=[str], restart=[str])
    # The process may be older than this answer.
    read = answer["read"] if fits(answer.get("read"), [str]) else []
    say("reloaded,", change_told(answer["changed"], read))
    if answer["restart"]:
        say("needs a restart:", ", ".join(answer["restart"]))


def status(path: str, form: str = "text", watch: bool = False) -> None:
    """Print the status of the process as text, json or prometheus.

    Raises:
        NotRunning, ServiceError: as ``stop``.
        OSError: stdout is closed or full.
        KeyboardInterrupt: Ctrl-C, with *watch*.
    """
    while True:
        answer = shown_in(ask(path, "status", ok=bool))
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


def explained_by_process(exc: ListenError, listen: str) -> ListenError:
    """Return *exc*, or one that names the minisocks that listens there already.

    Args:
        listen: the first address to listen on, which says where that process has its pidfile.
    """
    if exc.errno != errno.EADDRINUSE:
        return exc
    what = reason_of(exc).partition(": ")[0]
    try:
        path, _address = locate({"listen": listen}, {})
        if Pidfile(path).holder() == os.getpid():
            return exc  # this process has it, so the port is another program's
        answer = ask(path, "status", LISTENS_SECONDS, pid=int, addresses=[str])
        # After a reload it may listen elsewhere, and keeps the pidfile; after stop, nowhere.
        ports = [ListenAddress.parse(text).port for text in answer["addresses"]]
        if ListenAddress.parse(what.rpartition(" on ")[2]).port not in ports:
            return exc
    except (OSError, ServiceError, ValueError):
        return exc
    told = "%s: minisocks runs there already: process %d has %s"
    return ListenError(exc.errno, told % (what, answer["pid"], path))


class _HasEnded(NotRunning):
    """The process ran when the request was sent."""


def ask(path: str, what: str, seconds: float = ANSWER_SECONDS, **parts: Any) -> Dict[str, Any]:
    """Return the answer of the process that has the pidfile *path*.

    Args:
        parts: keys that the answer must have, and their shapes; see ``remote.fits``.

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
        answer = request(where, {"do": what}, seconds, owner)
    except (OSError, ValueError) as exc:
        if _ends(pidfile):
            raise _HasEnded("not running: it has just ended") from exc
        pid = pidfile.holder()
        process = "process %d" % pid if pid else "the process that has %s" % path
        sentence = "%s does not answer at %s: %s" % (process, where, reason_of(exc))
        if pid is None:  # it has not written its number yet
            sentence += "; if it is just starting, try again in a few seconds"
        raise ServiceError(sentence) from exc
    if "error" in answer:
        raise ServiceError(str(answer["error"])[:MOST_TOLD])
    if not all(fits(answer.get(name), shape) for name, shape in parts.items()):
        raise ServiceError(_MISSHAPEN % path)
    return answer


def _ends(pidfile: Pidfile) -> bool:
    """Return whether the process that has *pidfile* ends within ``ENDING_SECONDS``."""
    until = time.monotonic() + ENDING_SECONDS
    while not pidfile.is_free():
        if time.monotonic() > until:
            return False
        time.sleep(LOOK_SECONDS)
    return True


def change_told(changed: Sequence[str], read: Sequence[str]) -> str:
    """Return a sentence about what a reload has changed, and which files it has read."""
    text = "changed: %s" % (", ".join(changed) or "nothing")
    return "%s; read again: %s" % (text, ", ".join(read)) if read else text
