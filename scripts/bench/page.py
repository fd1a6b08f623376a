"""The generated part of docs/performance.rst."""

import os
import re
import textwrap

import figures
from servers import ROOT

PAGE = os.path.join(ROOT, "docs", "performance.rst")
PLOT = os.path.join(ROOT, "docs", "performance.svg")
PART = re.compile(r"(\.\. figures begin\n).*?(\.\. figures end)", re.S)


def write(tables):
    """Put the tables into the page.

    Args:
        tables: pairs of a label and a run, in the order of the page.
    """
    with open(PAGE) as file:
        text = file.read()
    if not PART.search(text):
        raise SystemExit("peers: %s lacks its lines '.. figures begin' and '.. figures end'" % PAGE)
    part = "\n".join("\n".join(section(label, run)) for label, run in tables)
    text = PART.sub(lambda match: match.group(1) + "\n" + part + "\n" + match.group(2), text)
    with open(PAGE, "w") as file:
        file.write(text)


def section(label, run):
    """Return the lines of one table with what belongs to it."""
    lines = [label, "-" * len(label), ""]
    lines += textwrap.wrap(escaped(figures.facts(run)), 88, break_on_hyphens=False)
    lines += ["", "::", "", "    " + run["command"], "", "::", ""]
    lines += ["    " + line if line else "" for line in figures.short_table(run)]
    return lines + [""] + gaps(run)


def gaps(run):
    """Return the paragraphs that say what could not be measured."""
    return ["No figure came from:", ""] + items(run["missing"]) if run["missing"] else []


def items(lines):
    """Return a bulleted list."""
    found = []
    for line in lines:
        found += textwrap.wrap(
            escaped(line), 88, initial_indent="* ", subsequent_indent="  ", break_on_hyphens=False
        )
    return found + [""]


def escaped(text):
    """Return text that reStructuredText takes for what it is."""
    return re.sub(r"([\\*`|_])", r"\\\1", text)
