"""Exits as the operator sees them: hops in words, and as data for JSON; never a password."""

from typing import Any, Dict, Iterator, List, Mapping

from minisocks.policy.exits import Exit, Hop
from minisocks.quoting import MOST_TOLD, quoted

__all__ = ["as_data", "hops_told", "table", "way_told"]


def way_told(exit: Exit) -> str:
    """Return in one line how connections leave by *exit*."""
    words = [str(exit._replace(hops=()))] if exit.has_egress or not exit.hops else []
    return ", then ".join(words + hops_told(exit))


def hops_told(exit: Exit) -> List[str]:
    """Return the hops of *exit* in words."""
    return list(map(_told, exit.hops))


def _told(hop: Hop) -> str:
    if hop.isolates:
        return "%s with a login for each client" % (hop,)
    return "%s as %s" % (hop, quoted(hop.user, MOST_TOLD)) if hop.user else str(hop)


def table(exits: Mapping[str, Exit]) -> Iterator[str]:
    """Yield the lines of a table of *exits*; none if there are none."""
    if not exits:
        return
    yield "exits, and where they have names looked up:"
    width = max(map(len, exits))
    for name, exit in exits.items():
        where = "here" if exit.resolves_here else "by the last hop"
        yield "  %-*s  %s  (%s)" % (width, name, way_told(exit), where)


def as_data(exit: Exit) -> Dict[str, Any]:
    """Return *exit* for JSON."""
    return {
        "name": exit.name,
        "way": way_told(exit),
        "hops": hops_told(exit),
        "resolves_here": exit.resolves_here,
    }
