"""What was measured, as saved: its medians and ratios, the table, and where we are behind.

A run is what --json saves: "columns" (name and version), "figures" (test, figure, and a list
of values for each column, one a round), "missing" (what gave no figure, and why), "machine",
"date", "command", "rounds", "seconds".  Pure: no clock, no processes.
"""

import statistics
import textwrap
from typing import NamedTuple, Optional


class Kind(NamedTuple):
    """What a figure is called, and which way is good."""

    label: str
    #: True: more is better; False: less is; None: neither.
    more: Optional[bool]


KINDS = {
    "start_ms": Kind("ms", False),
    "start_kib": Kind("KiB then", False),
    "gb_per_s": Kind("GB/s", True),
    "cpu_s_per_gb": Kind("cpu s/GB", False),
    "per_s": Kind("per s", True),
    "us_p50": Kind("us p50", False),
    "us_p99": Kind("us p99", False),
    "cpu_us": Kind("cpu us each", False),
    "kib_each": Kind("KiB each", False),
    "us_p99_alone": Kind("us p99 alone", False),
    "us_p99_beside": Kind("us p99 beside", False),
    "gb_per_s_beside": Kind("GB/s beside", True),
    "switches": Kind("per 10 s", False),
    "failed": Kind("failed", None),
}

#: Tests of bytes in bulk: their figures are compared with this column too.
BULK = ("down", "up", "both")
ALSO = "dante"

#: Better by less than this is not called better: two runs differ by as much.
MARGIN = 0.02

#: Width of the label of a row.
LABEL = 26


def names(run):
    """Return the columns of a run."""
    return [column["name"] for column in run["columns"]]


def medians(entry):
    """Return one number for each column that has values: the median; of failures the sum."""
    pick = sum if entry["figure"] == "failed" else statistics.median
    return {name: pick(values) for name, values in entry["values"].items() if values}


def ratios(values, base):
    """Return the values as multiples of one column's; none if that has no value, or 0."""
    if not values.get(base):
        return {}
    return {name: value / values[base] for name, value in values.items()}


def number(value):
    """Return a number as text: three digits or more, no exponent."""
    size = abs(value)
    if size >= 100 or value == int(value):
        return "%.0f" % value
    return "%.1f" % value if size >= 10 else "%.2f" % value if size >= 0.1 else "%.3f" % value


def is_shown(entry):
    """Whether a figure has a row: failures only where there are any."""
    return entry["figure"] != "failed" or any(medians(entry).values())


def table(run):
    """Return the lines of the table: each figure, and below it the ratio to the first column."""
    widths = [max(max(map(len, heading(name))) + 1, 8) for name in names(run)]
    lines = headings(run, widths)
    for test, entry in shown(run):
        lines += rows(entry, test, names(run), widths)
    return [line.rstrip() for line in lines]


def short_table(run):
    """Return the lines of the table without ratios.

    A star is behind what a peer does better than minisocks; of several columns of minisocks,
    better than one of them.
    """
    widths = [max(max(map(len, heading(name))) + 2, 9) for name in names(run)]
    lines = headings(run, widths)
    for test, entry in shown(run):
        values, better = medians(entry), {peer for _, peer in beaten(entry, peers_in(run))}
        cells = [
            cell(values, name, number) + ("*" if name in better else " ") for name in names(run)
        ]
        lines.append(row("%-11s %s" % (test, KINDS[entry["figure"]].label), cells, widths))
    return [line.rstrip() for line in lines]


def shown(run):
    """Yield the figures that have a row, each with its test, which is "" where it is repeated."""
    test = None
    for entry in filter(is_shown, run["figures"]):
        yield entry["test"] if entry["test"] != test else "", entry
        test = entry["test"]


def heading(name):
    """Return a name in pieces, so that columns stay narrow."""
    return name.replace("-", "-\n").replace("+", "\n+").split("\n")


def headings(run, widths):
    """Return the lines above the table."""
    pieces = [heading(name) for name in names(run)]
    height = max(map(len, pieces))
    pieces = [[""] * (height - len(piece)) + piece for piece in pieces]
    labels = [""] * (height - 1) + ["median of %d" % run["rounds"] if run["rounds"] > 1 else ""]
    return [row(labels[at], [piece[at] for piece in pieces], widths) for at in range(height)]


def row(label, cells, widths):
    """Return one line."""
    return label.ljust(LABEL) + "".join(map(str.rjust, cells, widths))


def rows(entry, test, columns, widths):
    """Return the lines of one figure: values, and the ratios that make sense of them."""
    kind, values = KINDS[entry["figure"]], medians(entry)
    label = "%-11s %s" % (test, kind.label)
    lines = [row(label, [cell(values, name, number) for name in columns], widths)]
    if kind.more is None:
        return lines
    bases = [columns[0]]
    if entry["test"].partition(":")[0] in BULK and ALSO in columns[1:]:
        bases.append(ALSO)
    for base in bases:
        found = ratios(values, base)
        if len(found) > 1:
            label = " " * 12 + "/ " + base
            lines.append(row(label, [cell(found, name, times) for name in columns], widths))
    return lines


def cell(values, name, show):
    """Return what stands in a cell: "-" where nothing was measured."""
    return show(values[name]) if name in values else "-"


def times(ratio):
    """Return a ratio as text."""
    return "x" + (number(ratio) if ratio >= 10 else "%.2f" % ratio)


def is_ours(name):
    """Whether a column is minisocks as it is compared: quiet, as the peers are."""
    return name.startswith("minisocks") and "+" not in name


def is_better(value, other, more):
    """Whether a value beats another by more than the margin."""
    return value > other * (1 + MARGIN) if more else other > value * (1 + MARGIN)


def peers_in(run):
    """Return the columns that minisocks is compared with."""
    return [name for name in names(run) if name != "direct" and not name.startswith("minisocks")]


def beaten(entry, peers):
    """Return (column of minisocks, peer) for each of *peers* that is better in this figure."""
    more, values = KINDS[entry["figure"]].more, medians(entry)
    if more is None:
        return []
    return [
        (ours, peer)
        for ours in filter(is_ours, values)
        for peer in peers
        if peer in values and is_better(values[peer], values[ours], more)
    ]


def behind(run):
    """Return a line for each figure in which a peer is better than minisocks."""
    peers = peers_in(run)
    found = []
    for entry in run["figures"]:
        kind, values = KINDS[entry["figure"]], medians(entry)
        pairs = beaten(entry, peers)
        if pairs:
            found.append(
                "%s, %s: %s; better: %s"
                % (
                    entry["test"],
                    kind.label,
                    listed(values, [ours for ours, _ in pairs]),
                    listed(values, sorted((peer for _, peer in pairs), key=peers.index)),
                )
            )
    return found


def listed(values, columns):
    """Return columns with their values, each once."""
    return ", ".join("%s %s" % (name, number(values[name])) for name in dict.fromkeys(columns))


def facts(run):
    """Return where, when and with what a run was made."""
    about = run["machine"]
    rounds = "%d rounds" % run["rounds"] if run["rounds"] > 1 else "1 round"
    made_with = ["%(name)s: %(version)s" % column for column in run["columns"]]
    return "%s, %s cores, %s, TCP congestion control %s; %s; %s of %g s. %s." % (
        about["cpu"],
        about["cores"],
        about["kernel"],
        about["congestion"],
        run["date"],
        rounds,
        run["seconds"],
        "; ".join(made_with),
    )


def text(run):
    """Return all there is to say about a run, for a terminal."""
    lines = textwrap.wrap(facts(run), 98) + ["", "    " + run["command"], ""] + table(run)
    if peers_in(run):
        lines += ["", "A peer is better by more than %d %%:" % (MARGIN * 100)]
        lines += ["  " + line for line in behind(run) or ["in nothing"]]
    if run["missing"]:
        lines += ["", "No figure:"] + ["  " + line for line in run["missing"]]
    return "\n".join(lines)
