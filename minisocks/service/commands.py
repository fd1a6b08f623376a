"""The commands that speak to a running minisocks: stop, drain, reload, status.  No click.

Status has three forms, and ``collect`` is how the running process makes it.
"""

import errno
import os
import time
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence

from minisocks import __version__
from minisocks.config.settings import SETTINGS
from minisocks.errors import ListenError, NotRunning, ServiceError
from minisocks.quoting import as_json, reason_of, shown_in
from minisocks.service.console import clear_screen, flush_stdout, print_line, say
from minisocks.service.location import locate
from minisocks.service.pidfile import Pidfile, control_path
from minisocks.service.remote import fits, request

if TYPE_CHECKING:  # the commands do without the proxy
    from minisocks.proxy import Proxy

__all__ = [
    "as_prometheus",
    "as_text",
    "ask",
    "change_told",
    "collect",
    "drain",
    "explained_by_process",
    "reload",
    "status",
    "stop",
]

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
#: Clients in the table: those that have most connections.
MAX_CLIENTS = 1000

Status = Dict[str, Any]
#: Fields of ``Stats`` that are in a status under the same names.
_FIGURES = (
    *("open", "total", "succeeded", "refused", "up", "down", "handshakes", "threads"),
    *("associations", "checks"),
)

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
    try:
        path, _address = locate({"listen": listen}, {})
        if Pidfile(path).holder() == os.getpid():
            return exc  # this process has it, so the port is another program's
        answer = ask(path, "status", LISTENS_SECONDS, pid=int, addresses=[str])
    except (ServiceError, ValueError):
        return exc
    if not answer["addresses"]:
        return exc  # it ends, and has closed its listeners
    what = "%s: minisocks runs there already: process %d has %s"
    return ListenError(exc.errno, what % (reason_of(exc).partition(": ")[0], answer["pid"], path))


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


def collect(proxy: "Proxy", state: str) -> Status:
    """Return the status of *proxy* as data for JSON.  Any thread."""
    stats, services = proxy.stats(), proxy.services
    processor = services.processor if services is not None else None
    return {
        "version": __version__,
        "pid": os.getpid(),
        "state": state,
        "addresses": proxy.addresses,
        "uptime": round(stats.uptime, 3),
        **{name: getattr(stats, name) for name in _FIGURES},
        "processor": processor and processor.number,
        "processor_wanted": processor and processor.wanted,
        "limits": _limits(proxy),
        "ports": {s.key: getattr(proxy.config, s.name) for s in SETTINGS if s.kind == "ports"},
        "clients": _clients(proxy),
    }


def _limits(proxy: "Proxy") -> Dict[str, Any]:
    """Return the limits in force, by their keys in the ini file."""
    values = ((s.key, getattr(proxy.config, s.name)) for s in SETTINGS if s.is_limit)
    limits = {key: value for key, value in values if value is not None}
    limits["max-associations"] = proxy.config.most_associations()[0]
    return limits


def _clients(proxy: "Proxy") -> List[Status]:
    table: Dict[str, Status] = {}
    for record in proxy.live:
        host = record.client.host
        row = table.setdefault(host, {"client": host, "open": 0, "up": 0, "down": 0})
        row["open"] += 1
        row["up"] += record.up
        row["down"] += record.down
    rows = sorted(table.values(), key=lambda row: (-row["open"], row["client"]))
    return rows[:MAX_CLIENTS]


#: The shapes of the parts of a status, where they are present; see ``remote.fits``.
SHAPE = dict(
    dict.fromkeys(_FIGURES, int),
    version=str,
    pid=int,
    state=str,
    addresses=[str],
    uptime=float,
    processor=int,
    processor_wanted=str,
    refused={str: int},
    limits={str: float},
    ports={str: str},
    clients=[{"client": str, "open": int, "up": int, "down": int}],
)


def change_told(changed: Sequence[str], read: Sequence[str]) -> str:
    """Return a sentence about what a reload has changed, and which files it has read."""
    text = "changed: %s" % (", ".join(changed) or "nothing")
    return "%s; read again: %s" % (text, ", ".join(read)) if read else text


def as_text(status: Status) -> List[str]:
    """Return the lines for people."""
    rows = [
        ("minisocks", "%s, process %d, %s" % (status["version"], status["pid"], status["state"])),
        ("listening on", ", ".join(status["addresses"]) or "nothing any more"),
        ("up", _duration(status["uptime"])),
        (
            "connections",
            "%d open; %d in all, %d of them connected"
            % (status["open"], status["total"], status["succeeded"]),
        ),
        ("bytes", "%s up, %s down" % (_size(status["up"]), _size(status["down"]))),
        ("handshakes", "%d unfinished; %d threads" % (status["handshakes"], status["threads"])),
    ]
    if status.get("associations"):
        rows.insert(4, ("of these", "%d by UDP" % status["associations"]))
    if "processor" in status:  # an older process has none
        rows.append(("processor", _processor(status["processor"], status.get("processor_wanted"))))
    refused = sorted(status["refused"].items(), key=lambda item: (-item[1], item[0]))
    if refused:
        rows.append(("refused", ", ".join("%s: %d" % item for item in refused)))
    if status.get("checks"):
        rows.append(("health checks", "%d" % status["checks"]))
    in_force = dict(status.get("ports", {}), **status.get("limits", {}))
    limits = [(s, in_force.get(s.key)) for s in SETTINGS]
    limits = [(s, value) for s, value in limits if value not in (None, "")]
    if limits:
        rows.append(("limits", ", ".join("%s %s" % (s.key, s.with_unit(v)) for s, v in limits)))
    lines = ["%-14s%s" % row for row in rows]
    if status["clients"]:
        lines += ["", "%-39s %6s %10s %10s" % ("client", "open", "up", "down")]
    for row in status["clients"]:
        cells = (row["client"], row["open"], _size(row["up"]), _size(row["down"]))
        lines.append("%-39s %6d %10s %10s" % cells)
    return lines


def _processor(number: Optional[int], wanted: Optional[str]) -> str:
    text = "none" if number is None else "%d" % number
    return "%s (%s)" % (text, wanted) if wanted not in (None, text) else text


def _size(count: int) -> str:
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            break
        amount /= 1024
    return "%d B" % count if unit == "B" else "%.1f %s" % (amount, unit)


def _duration(seconds: float) -> str:
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return ("%d days, " % days if days else "") + "%d:%02d:%02d" % (hours, minutes, left)


#: Name, type, and key of the status; help.
_METRICS = (
    ("uptime_seconds gauge uptime", "Seconds since the start."),
    ("connections_open gauge open", "Connections that are open, in any state."),
    ("associations_open gauge associations", "UDP associations that are open."),
    ("connections_total counter total", "Connections that sent a request, or ended before it."),
    ("connections_succeeded_total counter succeeded", "Connections whose target was reached."),
    ("health_checks_total counter checks", "Clients that checked for an answer and left."),
    ("handshakes_unfinished gauge handshakes", "Handshakes that have not finished."),
    ("handler_threads gauge threads", "Threads that accept clients and do handshakes."),
    ("processor gauge processor", "Number of the processor of the serving threads."),
)


def as_prometheus(status: Status) -> List[str]:
    """Return the lines of Prometheus' text format, for a textfile collector."""
    lines = _head("info", "gauge", "Version and state of the process.")
    lines.append(
        "minisocks_info%s 1" % _labels(version=str(status["version"]), state=status["state"])
    )
    for what, text in _METRICS:
        name, kind, key = what.split()
        if status.get(key) is not None:  # an older process has fewer
            lines += _head(name, kind, text) + ["minisocks_%s %s" % (name, status[key])]
    lines += _head("bytes_total", "counter", "Bytes relayed; up is from clients to targets.")
    for direction in ("up", "down"):
        value = status[direction]
        lines.append("minisocks_bytes_total%s %d" % (_labels(direction=direction), value))
    lines += _head("refused_total", "counter", "Connections without success, by reason.")
    for reason, count in sorted(status["refused"].items()):
        lines.append("minisocks_refused_total%s %d" % (_labels(reason=reason), count))
    return lines


def _head(name: str, kind: str, text: str) -> List[str]:
    return ["# HELP minisocks_%s %s" % (name, text), "# TYPE minisocks_%s %s" % (name, kind)]


def _labels(**labels: str) -> str:
    pairs = []
    for name, value in sorted(labels.items()):
        value = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        pairs.append('%s="%s"' % (name, value))
    return "{%s}" % ",".join(pairs)
