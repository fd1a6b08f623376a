"""What a running minisocks says of itself: collected, and shown in three ways."""

import os
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence

from minisocks import __version__
from minisocks.config.settings import SETTINGS

if TYPE_CHECKING:  # who only shows what another process says does without
    from minisocks.proxy import Proxy

__all__ = ["SHAPE", "as_prometheus", "as_text", "change_told", "collect"]

#: So many clients are in the table: those that have most connections.
MAX_CLIENTS = 1000

Status = Dict[str, Any]


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
