"""The status of a running minisocks: collected by its process, and shown in three forms."""

import os
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional

from minisocks import __version__
from minisocks.config.settings import SETTINGS
from minisocks.policy.exits import DIRECT
from minisocks.record import ExitFigures

if TYPE_CHECKING:  # the command does without the proxy
    from minisocks.proxy import Proxy

__all__ = ["SHAPE", "Status", "as_prometheus", "as_text", "collect"]

#: Clients in the table: those that have most connections.
MAX_CLIENTS = 1000

Status = Dict[str, Any]
#: Fields of ``Stats`` that are in a status under the same names.
_FIGURES = (
    *("open", "total", "succeeded", "refused", "up", "down", "handshakes", "threads"),
    *("associations", "checks", "upstreams"),
)

#: States: it has led to a target, and has not failed since; it has failed; it has led to no target
#: yet; a reload has removed it, but connections still use it.
WORKS, FAILED, UNUSED, REMOVED = "works", "failed", "not used yet", "removed"


def collect(proxy: "Proxy", state: str) -> Status:
    """Return the status of *proxy* as data for JSON.  Any thread."""
    stats, services = proxy.stats(), proxy.services
    processor = services.processor if services is not None else None
    exits = _exits(proxy)
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
        **({"exits": exits} if exits else {}),
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


def _exits(proxy: "Proxy") -> List[Status]:
    """Return a row for each exit, ``direct`` the last; none where there are no exits."""
    services = proxy.services
    exits = {} if services is None else services.access.exits
    if services is None or not exits:
        return []
    figures = services.journal.by_exit()
    rows = []
    for name in exits:
        known, failure = figures.pop(name, ExitFigures()), services.exits.last_failure(name)
        row = _exit_row(name, WORKS if known.total else UNUSED, known)
        if failure is not None:
            row["state"] = WORKS if failure.is_over else FAILED
            row.update(error=failure.error, seconds=round(failure.seconds, 3))
        rows.append(row)
    direct = figures.pop(DIRECT)
    rows += [
        _exit_row(name, REMOVED, known) for name, known in sorted(figures.items()) if known.open
    ]
    return [*rows, _exit_row(DIRECT, WORKS if direct.total else UNUSED, direct)]


def _exit_row(name: str, state: str, figures: ExitFigures) -> Status:
    return dict(figures._asdict(), name=name, state=state)


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
    exits=[
        dict(
            dict.fromkeys(("name", "state", "error"), str),
            **dict.fromkeys(("open", "total", "up", "down"), int),
            seconds=float,
        )
    ],
)


def as_text(status: Status) -> List[str]:
    """Return the lines for people."""
    threads = "1 thread" if status["threads"] == 1 else "%d threads" % status["threads"]
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
        ("handshakes", "%d unfinished; %s" % (status["handshakes"], threads)),
    ]
    if status.get("associations"):
        by_hops = (
            ", with %d at hops of exits" % status["upstreams"] if status.get("upstreams") else ""
        )
        rows.insert(4, ("of these", "%d by UDP%s" % (status["associations"], by_hops)))
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
    if status.get("exits"):
        lines += ["", *_table_of_exits(status["exits"])]
    if status["clients"]:
        lines += ["", "%-39s %6s %10s %10s" % ("client", "open", "up", "down")]
    for row in status["clients"]:
        cells = (row["client"], row["open"], _size(row["up"]), _size(row["down"]))
        lines.append("%-39s %6d %10s %10s" % cells)
    return lines


def _table_of_exits(rows: List[Status]) -> Iterator[str]:
    width = max(map(len, [*(row["name"] for row in rows), "exit"]))
    yield "%-*s %6s %10s %10s  %s" % (width, "exit", "open", "up", "down", "state")
    for row in rows:
        state = row["state"]
        if row.get("error"):
            when = "%s ago: %s" % (_duration(row["seconds"]), row["error"])
            state += " " + when if state == FAILED else "; it failed " + when
        cells = row["name"], row["open"], _size(row["up"]), _size(row["down"])
        yield "%-*s %6d %10s %10s  %s" % (width, *cells, state)


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
    word = "day" if days == 1 else "days"
    return ("%d %s, " % (days, word) if days else "") + "%d:%02d:%02d" % (hours, minutes, left)


#: Name, type, and key of the status; help.
_METRICS = (
    ("uptime_seconds gauge uptime", "Seconds since the start."),
    ("connections_open gauge open", "Connections that are open, in any state."),
    ("associations_open gauge associations", "UDP associations that are open."),
    ("upstreams_open gauge upstreams", "UDP associations at hops of exits, one for each hop."),
    ("connections_total counter total", "Connections that sent a request, or ended before it."),
    ("connections_succeeded_total counter succeeded", "Connections whose target was reached."),
    ("health_checks_total counter checks", "Clients that checked for an answer and left."),
    ("handshakes_unfinished gauge handshakes", "Handshakes that have not finished."),
    ("handler_threads gauge threads", "Threads that accept clients and do handshakes."),
    ("processor gauge processor", "Number of the processor of the serving threads."),
)
#: The same for each exit.
_EXIT_METRICS = (
    ("exit_connections_open", "gauge", "Connections that use the exit.", "open"),
    ("exit_connections_total", "counter", "Connections that the exit led to a target.", "total"),
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
    return [*lines, *(_of_exits(status["exits"]) if status.get("exits") else ())]


def _of_exits(rows: List[Status]) -> Iterator[str]:
    for name, kind, text, key in _EXIT_METRICS:
        yield from _head(name, kind, text)
        for row in rows:
            yield "minisocks_%s%s %d" % (name, _labels(exit=row["name"]), row[key])
    yield from _head("exit_bytes_total", "counter", "Bytes relayed by the exit.")
    for row in rows:
        for direction in ("up", "down"):
            labels = _labels(exit=row["name"], direction=direction)
            yield "minisocks_exit_bytes_total%s %d" % (labels, row[direction])
    yield from _head("exit_failed", "gauge", "1 if the exit has failed since it last worked.")
    for row in rows:
        failed = row["state"] == FAILED
        yield "minisocks_exit_failed%s %d" % (_labels(exit=row["name"]), failed)


def _head(name: str, kind: str, text: str) -> List[str]:
    return ["# HELP minisocks_%s %s" % (name, text), "# TYPE minisocks_%s %s" % (name, kind)]


def _labels(**labels: str) -> str:
    pairs = []
    for name, value in sorted(labels.items()):
        value = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        pairs.append('%s="%s"' % (name, value))
    return "{%s}" % ",".join(pairs)
