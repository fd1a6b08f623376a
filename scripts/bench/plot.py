"""A plot of one run, as SVG: for each figure a bar for each server, as a ratio to one of them.

The axis is logarithmic: half and twice are equally far from 1, where the bars begin.  The
reference has no bar, its value stands below the name of the figure.  "direct" is not drawn:
it is no server.  The background is white, in dark pages too.
"""

import math
from xml.sax.saxutils import escape

import figures

#: What is drawn: title of the panel, and (test, figure) as far as a run has them.
PANELS = (
    (
        "more is better",
        ("down", "gb_per_s"),
        ("up", "gb_per_s"),
        ("both", "gb_per_s"),
        ("ping", "per_s"),
        ("conn", "per_s"),
        ("name", "per_s"),
        ("udp", "per_s"),
    ),
    (
        "less is better",
        ("down", "cpu_s_per_gb"),
        ("ping", "cpu_us"),
        ("conn", "cpu_us"),
        ("udp", "cpu_us"),
        ("idle", "kib_each"),
        ("idle-udp", "kib_each"),
        ("start", "start_ms"),
        ("start", "start_kib"),
        ("mixed", "us_p99_beside"),
        ("crowd", "us_p99_beside"),
        ("wakeups", "switches"),
    ),
)

TITLES = {
    "down": "download, %s connections",
    "up": "upload, %s connections",
    "both": "both ways, %s connections",
    "ping": "ping-pong, %s connections",
    "conn": "connect and close, %s clients",
    "name": "the same by name, %s clients",
    "udp": "datagrams, %s associations",
    "idle": "memory, %s idle connections",
    "idle-udp": "memory, %s idle associations",
    "start": "start",
    "mixed": "ping-pong beside 8 downloads",
    "crowd": "ping-pong beside %s idle",
    "wakeups": "context switches when idle",
}

#: Distinct also for people who see no red or green (Okabe and Ito).
COLOURS = ("#999999", "#56b4e9", "#d55e00", "#e69f00", "#009e73", "#cc79a7", "#0072b2", "#f0e442")

WIDTH, LEFT, RIGHT = 900, 270, 130
BAR, GAP, PANEL = 12, 14, 44
TOP = 96

STYLE = (
    "text{font:12px sans-serif;fill:#222}.title{font-size:17px;font-weight:bold}"
    ".panel{font-size:14px;font-weight:bold}.small{font-size:11px;fill:#555}"
    ".grid{stroke:#ddd}.one{stroke:#222}"
)


def draw(run, base):
    """Return the SVG.

    Args:
        base: the column that ratios are given to.
    """
    columns = [name for name in figures.names(run) if name != "direct"]
    shown = [name for name in columns if name != base]
    colours = dict(zip(columns, COLOURS * (len(columns) // len(COLOURS) + 1)))
    panels = [(title, groups(run, base, wanted)) for title, *wanted in PANELS]
    panels = [(title, found) for title, found in panels if found]
    scale = Scale([ratio for _, found in panels for group in found for ratio in group[3].values()])
    parts, top = [], TOP
    for title, found in panels:
        parts += panel(title, found, base, shown, colours, scale, top)
        top += PANEL + len(found) * height(shown)
    return "\n".join(head(top + 20, base) + legend(shown, colours) + parts + ["</svg>", ""])


def groups(run, base, wanted):
    """Return test, figure, values, ratios and failures of what a panel shows, in its order."""
    failed = {e["test"]: figures.medians(e) for e in run["figures"] if e["figure"] == "failed"}
    found = []
    for name, figure in wanted:
        for entry in run["figures"]:
            if entry["test"].partition(":")[0] == name and entry["figure"] == figure:
                values = figures.medians(entry)
                values.pop("direct", None)
                ratios = figures.ratios(values, base)
                if len(ratios) > 1:
                    failures = failed.get(entry["test"], {})
                    found.append((entry["test"], figure, values, ratios, failures))
    return found


class Scale:
    """The axis: from ratios to pixels."""

    def __init__(self, ratios):
        logs = [math.log2(ratio) for ratio in ratios if ratio > 0] + [-1, 1]
        self.low, self.high = math.floor(min(logs)), math.ceil(max(logs))

    def x(self, ratio):
        """Return where a ratio is; 0 is at the left edge."""
        share = (math.log2(ratio) - self.low) / (self.high - self.low) if ratio > 0 else 0
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def ticks(self):
        """Return ratio and text of each grid line, few enough to be read."""
        step = math.ceil((self.high - self.low) / 12)
        for power in range(self.low, self.high + 1):
            if power % step == 0:
                yield 2.0**power, "%d" % 2**power if power >= 0 else "1/%d" % 2**-power


def height(shown):
    """Return the height of one group."""
    return len(shown) * BAR + GAP


def head(bottom, base):
    """Return what every SVG begins with, and the title."""
    return [
        '<svg xmlns="http://www.w3.org/2000/svg" role="img" width="%d" height="%d" '
        'viewBox="0 0 %d %d">' % (WIDTH, bottom, WIDTH, bottom),
        "<title>%s</title>" % escape("SOCKS5 servers compared with " + base),
        "<style>%s</style>" % STYLE,
        '<rect width="100%" height="100%" fill="#fff"/>',
        words(20, 28, "SOCKS5 servers, as multiples of " + base, "title"),
        words(
            20,
            48,
            "Logarithmic axis; bars begin at 1, where %s is; behind each, its value." % base,
            "small",
        ),
    ]


def legend(shown, colours):
    """Return the names of the servers with their colours."""
    parts, x = [], 20
    for name in shown:
        parts.append(box(x, 62, 12, colours[name]))
        parts.append(words(x + 17, 72, name))
        x += 34 + 7 * len(name)
    return parts


def panel(title, found, base, shown, colours, scale, top):
    """Return one panel: its axis, and its groups of bars."""
    bottom = top + PANEL - GAP + len(found) * height(shown)
    parts = [words(20, top + 20, title, "panel")]
    for ratio, text in scale.ticks():
        kind = "one" if ratio == 1 else "grid"
        x = scale.x(ratio)
        parts.append('<path class="%s" d="M%.1f %dV%d"/>' % (kind, x, top + 26, bottom))
        parts.append(words(x, top + 20, text, "small", "middle"))
    parts.append(words(WIDTH - 8, top + 20, "times " + base, "small", "end"))
    for at, group in enumerate(found):
        parts += bars(group, base, shown, colours, scale, top + 32 + at * height(shown))
    return parts


def bars(group, base, shown, colours, scale, top):
    """Return one group: what it is, what the reference has, and the bars of the others."""
    test, figure, values, ratios, failures = group
    kind = figures.KINDS[figure].label
    name, _, n = test.partition(":")
    title = TITLES[name] % n if "%" in TITLES[name] else TITLES[name]
    title = title.replace(" 1 connections", " 1 connection").replace(" 1 clients", " 1 client")
    reference = "%s; %s: %s" % (kind, base, figures.number(values[base]))
    parts = [words(20, top + 11, title), words(20, top + 24, reference, "small")]
    for at, column in enumerate(shown):
        if column in ratios:
            text = "%s (%s)" % (figures.number(values[column]), figures.times(ratios[column]))
            if failures.get(column):
                text += ", %d failed" % failures[column]
            parts += bar(ratios[column], text, colours[column], scale, top + at * BAR)
    return parts


def bar(ratio, text, colour, scale, top):
    """Return one bar, with a text behind it."""
    one, x = scale.x(1), scale.x(ratio)
    left, right = min(one, x), max(one, x)
    return [
        box(left, top, max(right - left, 1), colour, BAR - 2),
        words(right + 4, top + BAR - 3, text, "small"),
    ]


def box(x, y, width, colour, tall=12):
    """Return a rectangle."""
    form = '<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>'
    return form % (x, y, width, tall, colour)


def words(x, y, text, kind="", anchor="start"):
    """Return a text."""
    form = '<text x="%.1f" y="%d" class="%s" text-anchor="%s">%s</text>'
    return form % (x, y, kind, anchor, escape(text))
