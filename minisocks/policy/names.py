"""Sets of names of hosts, however long.  Pure."""

import re
from typing import FrozenSet, Iterable, List, Set

__all__ = ["Names", "check_name", "is_name", "parents_of"]

_NAME = re.compile(r"(\*?\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?\Z", re.I)
#: Would be an address to everybody else: 127.1, 10.0.0.300, 0x7f000001.
_ALMOST_NUMERIC = re.compile(r"(.*\.)?(\d+|0x[0-9a-f]*)\.?\Z|\d+\.[\dx.*-]*\Z", re.I)


def check_name(text: str) -> None:
    """Accept ``example.org``, ``*.example.org`` (what is below it) or ``.example.org`` (both).

    Raises:
        ValueError: it is none of them; with a sentence that says why.
    """
    if any(ord(c) > 127 for c in text):
        raise ValueError("write the name %.60r as it goes over the wire, in its xn-- form" % text)
    labels = text.rstrip(".").split(".")
    if not _NAME.match(text) or len(text) > 255 or max(map(len, labels)) > 63:
        raise ValueError(
            "%.60r is neither a network nor the name of a host; names are written as example.org, "
            "*.example.org or .example.org" % text
        )
    if len(labels) == 1 and not text.endswith(".") and text.lower() != "localhost":
        # It may be meant as a set, or as anything; as a name it would quietly match nothing.
        raise ValueError("%s is no set; a host that is called so is written %s." % (text, text))


def is_name(text: str) -> bool:
    """Return whether *text* is meant as a name, and not as a network."""
    return not (":" in text or "/" in text or _ALMOST_NUMERIC.match(text))


class Names:
    """An immutable set of names; ``name in names`` asks it.

    However many there are, it takes one look for each label that their names have at most.
    """

    __slots__ = ("above", "depth", "whole")

    def __init__(self, texts: Iterable[str] = ()) -> None:
        """*texts* are such as ``check_name`` accepts."""
        #: Names as they are, and those below which all are meant.
        self.whole: Set[bytes] = set()
        self.above: Set[bytes] = set()
        for text in texts:
            name = text.lower().rstrip(".").encode("ascii")
            if name.startswith(b"*."):
                self.above.add(name[2:])
            elif name.startswith(b"."):
                self.above.add(name[1:])
                self.whole.add(name[1:])
            else:
                self.whole.add(name)
        #: How many labels those have at most below which all are meant.
        self.depth = max((name.count(b".") + 1 for name in self.above), default=0)

    def __contains__(self, name: bytes) -> bool:
        """*name* is in small letters and without a final dot."""
        return name in self.whole or not self.above.isdisjoint(parents_of(name, self.depth))

    def __bool__(self) -> bool:
        return bool(self.whole or self.above)


def parents_of(name: bytes, most: int) -> FrozenSet[bytes]:
    """Return what *name* is below, of at most so many labels: of a.b.c, b.c and c."""
    parents: List[bytes] = []
    dot = name.rfind(b".")
    while dot >= 0 and len(parents) < most:
        parents.append(name[dot + 1 :])
        dot = name.rfind(b".", 0, dot)
    return frozenset(parents)
