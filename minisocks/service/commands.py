"""The commands that speak to a running minisocks: stop, drain, reload, status.  No click.

Status has three forms, and ``collect`` is how the running process makes it.
"""

import os
import time
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence

from minisocks import __version__
from minisocks.config.settings import SETTINGS
from minisocks.errors import NotRunning, ServiceError
from minisocks.quoting import as_json, reason_of, shown_in
from minisocks.service.console import clear_screen, flush_stdout, print_line, say
from minisocks.service.pidfile import Pidfile, control_path
from minisocks.service.remote import fits, request

if TYPE_CHECKING:  # the commands do without the proxy
    from minisocks.proxy import Proxy

__all__ = [
    "as_prometheus",
    "as_text",
    "change_told",
    "collect",
    "drain",
    "reload",
    "status",
    "stop",
]

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
#: So many clients are in the table: those that have most connections.
MAX_CLIENTS = 1000

Status = Dict[str, Any]

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


def collect(proxy: "Proxy", state: str) -> Status:
    """Return the figures of *proxy*, ready for JSON.  Any thread."""
    stats, services = proxy.stats(), proxy.services
    processor = services.processor if services is not None else None
    return {
        "version": __version__,
        "pid": os.getpid(),
        "state": state,
        "addresses": proxy.addresses,
        "uptime": round(stats.uptime, 3),
        "open": stats.open,
        "total": stats.total,
        "succeeded": stats.succeeded,
        "refused": stats.refused,
        "up": stats.up,
        "down": stats.down,
        "handshakes": stats.handshakes,
        "threads": stats.threads,
        "associations": stats.associations,
        "checks": stats.checks,
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
    """Return who is connected: each client's connections and their bytes, busiest first."""
    table: Dict[str, Status] = {}
    for record in proxy.live:
        host = record.client.host
        row = table.setdefault(host, {"client": host, "open": 0, "up": 0, "down": 0})
        row["open"] += 1
        row["up"] += record.up
        row["down"] += record.down
    rows = sorted(table.values(), key=lambda row: (-row["open"], row["client"]))
    return rows[:MAX_CLIENTS]


#: What has to be in an answer, if it is there; see ``remote.fits``.
SHAPE = dict(
    dict.fromkeys(("open", "total", "succeeded", "up", "down", "handshakes", "threads"), int),
    version=str,
    pid=int,
    state=str,
    addresses=[str],
    uptime=float,
    associations=int,
    checks=int,
    processor=int,
    processor_wanted=str,
    refused={str: int},
    limits={str: float},
    ports={str: str},
    clients=[{"client": str, "open": int, "up": int, "down": int}],
)


def change_told(changed: Sequence[str], read: Sequence[str]) -> str:
    """Return in words what a reload has changed, and which files it has read."""
    text = "changed: %s" % (", ".join(changed) or "nothing")
    return "%s; read anew: %s" % (text, ", ".join(read)) if read else text


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
    if "processor" in status:  # an older process may not know of it
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
    text = "%d:%02d:%02d" % (hours, minutes, left)
    return "%d days, %s" % (days, text) if days else text


#: Name, type, help, and where it is in the status.
_METRICS = (
    ("uptime_seconds", "gauge", "Seconds since the start.", "uptime"),
    ("connections_open", "gauge", "Connections now, in whatever state.", "open"),
    ("associations_open", "gauge", "UDP associations now.", "associations"),
    ("connections_total", "counter", "Connections with a request, or that ended before.", "total"),
    ("connections_succeeded_total", "counter", "Those whose target was connected.", "succeeded"),
    ("health_checks_total", "counter", "Clients that greeted, heard 05 00 and left.", "checks"),
    ("handshakes_unfinished", "gauge", "Handshakes that wait for their client.", "handshakes"),
    ("handler_threads", "gauge", "Threads that accept clients and speak with them.", "threads"),
    ("processor", "gauge", "The processor that serving threads keep to.", "processor"),
)


def as_prometheus(status: Status) -> List[str]:
    """Return the lines in Prometheus' text format, for a textfile collector."""
    lines = _head("info", "gauge", "What runs.")
    lines.append(
        "minisocks_info%s 1" % _labels(version=str(status["version"]), state=status["state"])
    )
    for name, kind, text, key in _METRICS:
        if status.get(key) is not None:  # an older process may not know of it
            lines += _head(name, kind, text) + ["minisocks_%s %s" % (name, status[key])]
    lines += _head("bytes_total", "counter", "Bytes relayed; up is from clients to targets.")
    for direction in ("up", "down"):
        value = status[direction]
        lines.append("minisocks_bytes_total%s %d" % (_labels(direction=direction), value))
    lines += _head("refused_total", "counter", "Connections without success, by why.")
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
