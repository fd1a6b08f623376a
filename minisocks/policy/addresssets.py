"""What the ``from`` and ``to`` of a rule name: networks, named sets, names of hosts.  Pure.

An address is held against them in all its forms: ``::ffff:10.0.0.7`` is 10.0.0.7, and
``2002:a00:7::1`` may be.  What denies one of the forms denies the address.  What allows it has
to name the address itself; and of what else it may stand for all that is not public.

Addresses that hand out credentials (``metadata``) are allowed by that set or by themselves, one
by one, and by no network or other set that they happen to be in.
"""

import re
from typing import Callable, Dict, FrozenSet, Iterable, List, Optional, Set, Tuple

from minisocks.policy.networks import (
    LINK_LOCAL,
    LOOPBACK,
    METADATA,
    MULTICAST,
    NOT_PUBLIC,
    PRIVATE,
    RESERVED,
    UNSPECIFIED,
    InRange,
    Networks,
    Row,
    disguises,
)
from minisocks.wire import MAPPED_PREFIX

__all__ = [
    "AddressSet",
    "AskedOnce",
    "Forms",
    "IsOwn",
    "Names",
    "SETS",
    "check_name",
    "forms_of",
    "is_name",
    "named_set",
    "parents_of",
]

#: What an address may stand for: of each the bytes it has, and the number they make.
Forms = Tuple[Tuple[int, int], ...]
#: Says of the bytes of an address whether it is this host's, now; None: that cannot be told.
#: The number of a link may stand behind them.
IsOwn = Callable[..., Optional[bool]]

_STATIC = {
    networks.name: networks
    for networks in (
        *(METADATA, LINK_LOCAL, LOOPBACK, MULTICAST),  # the first that has it is the one told
        *(PRIVATE, RESERVED, UNSPECIFIED),
    )
}
#: What all hosts have in common: to call it this one's own does not open it to others.
_NOT_OPENED = Networks(
    "",
    "",
    [
        row
        for networks in (LOOPBACK, UNSPECIFIED, LINK_LOCAL, METADATA, MULTICAST)
        for row in networks.rows()
    ],
)
#: This host under names that no other host has: a rule that has them means it.
_ALWAYS_OWN = Networks("", "", LOOPBACK.rows() + UNSPECIFIED.rows())
#: Bits that are free in the widest networks of their kind: 10.0.0.0/8 and fc00::/7.
_WIDEST = {4: 24, 16: 121}
#: The forms of an address that is not known.
_SOMEWHERE: Forms = ((1, 0),)
#: The sets that rules may name.  ``public`` is what is in none of the others; ``remote``,
#: what is not loopback; ``self``, the addresses that this host has at the time.
SETS = (*sorted(_STATIC), "public", "remote", "self")


def forms_of(ip: bytes) -> Forms:
    """Return the forms of an address, itself first.

    None, a unix socket, is loopback.  One byte is a client behind a forwarder: it is remote and
    public, and in no network but those that have everything.
    """
    if len(ip) < 2:
        return ((4, 0x7F000001),) if not ip else _SOMEWHERE
    if len(ip) == 16 and ip.startswith(MAPPED_PREFIX):
        ip = ip[12:]
    if len(ip) == 4 and ip[0]:
        return ((4, int.from_bytes(ip, "big")),)
    return tuple((len(form), int.from_bytes(form, "big")) for form in disguises(ip))


def is_public(size: int, number: int) -> bool:
    """Return whether an address is in none of the sets."""
    return not _ANY_SET.holds(size, number)


def _all_of(sets: Iterable[Networks]) -> Networks:
    return Networks("", "", [row for networks in sets for row in networks.rows()])


_ANY_SET = _all_of(NOT_PUBLIC)
#: For clients: one whose address hands out credentials elsewhere is what its network is.
_ANY_OF_CLIENTS = _all_of(networks for networks in NOT_PUBLIC if networks is not METADATA)


class AddressSet:
    """What one clause names.  Immutable.

    Args:
        rows: its networks.
        names: its names of hosts; only in ``to``.
        sets: those of ``SETS`` that it names.
        are_clients: it is a ``from``.
        opens: whether it says what clients may reach: ``self`` is without loopback then.
    """

    __slots__ = (
        "_alone",
        "_known",
        "_not_meant",
        "_opens",
        "_sets",
        "has_everything",
        "is_static",
        "names",
        "networks",
    )

    def __init__(
        self,
        rows: Iterable[Row] = (),
        names: Iterable[str] = (),
        sets: FrozenSet[str] = frozenset(),
        are_clients: bool = False,
        opens: bool = False,
    ) -> None:
        rows = list(rows)
        single = [row for row in rows if not row[1] and not isinstance(row, InRange)]
        alone = Networks("", "", single)
        #: Whether it has a network so wide that not all in it can be meant: 0.0.0.0/0, ::/1.
        self.has_everything = any(shift > _WIDEST[size] for size, shift, _prefix in rows)
        named = METADATA.rows() if are_clients or "metadata" in sets else single
        #: What an ``allow`` leaves out, though one of its networks has it.
        self._not_meant = Networks("", "", set(METADATA.rows()).difference(named))
        for name in sets.intersection(_STATIC):
            rows += _STATIC[name].rows()
        self.networks = Networks("", "", rows)
        self._sets = sets
        #: What is not public, as far as this clause is concerned.
        self._known = _ANY_OF_CLIENTS if are_clients else _ANY_SET
        self._alone = alone
        self._opens = opens
        #: Whether ``networks`` tells all about addresses.
        self.is_static = sets.isdisjoint(("public", "remote", "self")) and not any(
            self.networks.holds(size, number) for size, _bits, number in self._not_meant.rows()
        )
        if are_clients and self.has_everything:
            self.is_static = False  # it has clients whose address is not known, too
        self.names = Names(names)

    @property
    def is_lasting(self) -> bool:
        """Whether an address that is in stays in: this host's own come and go."""
        return "self" not in self._sets

    @property
    def has_addresses(self) -> bool:
        """Whether it names any: whether one is in may have to wait until it is known."""
        return not self.is_static or bool(self.networks)

    def touch(self, forms: Forms, is_own: IsOwn, in_doubt: bool = True) -> bool:
        """Return whether any of the *forms* is in: for what denies.

        Args:
            in_doubt: whether one is in of which nobody knows whether it is this host's.
        """
        for size, number in forms:
            if self.networks.holds(size, number):
                return True
            if not self.is_static and self._in_dynamic(size, number, is_own, in_doubt):
                return True
        return False

    def cover(self, forms: Forms, is_own: IsOwn) -> bool:
        """Return whether the address is in, and what else it may stand for: for what allows."""
        for form in forms:
            if form is not forms[0] and is_public(*form):
                continue
            if self._not_meant.holds(*form) or not self.touch((form,), is_own, False):
                return False
        return True

    def match(self, forms: Forms, allows: bool, is_own: IsOwn) -> bool:
        """Return whether a rule that *allows*, or denies, is about the address."""
        if len(forms) == 1 and self.is_static:
            return self.networks.holds(*forms[0])
        return (self.cover if allows else self.touch)(forms, is_own)

    def spare(self, forms: Forms, is_own: IsOwn) -> bool:
        """Return whether the address is this host's and in by chance: not named, nor ``self``.

        Who allows a network, or all that is public, has not named this host in it.
        """
        if "self" in self._sets:
            return False
        for size, number in forms:
            if self._alone.holds(size, number) or _ALWAYS_OWN.holds(size, number):
                continue
            if is_own(number.to_bytes(size, "big")) is not False:
                return True
        return False

    def _in_dynamic(self, size: int, number: int, is_own: IsOwn, in_doubt: bool) -> bool:
        sets = self._sets
        if size == 1:
            return self.has_everything or not sets.isdisjoint(("public", "remote"))
        if "self" in sets and not (self._opens and _NOT_OPENED.holds(size, number)):
            answer = is_own(number.to_bytes(size, "big"))
            if answer or (answer is None and in_doubt):
                return True
        if "public" in sets and not self._known.holds(size, number):
            return True
        return "remote" in sets and not LOOPBACK.holds(size, number)


class AskedOnce:
    """Asks about each address once, however many rules of a decision want to know."""

    __slots__ = ("_answers", "_is_own", "_scope")

    def __init__(self, is_own: IsOwn, scope: int) -> None:
        self._is_own = is_own
        self._scope = scope
        self._answers: Dict[bytes, Optional[bool]] = {}

    def __call__(self, ip: bytes) -> Optional[bool]:
        """Return what it was told about *ip* at first."""
        if ip not in self._answers:
            has_scope = self._scope and len(ip) == 16
            self._answers[ip] = self._is_own(ip, self._scope) if has_scope else self._is_own(ip)
        return self._answers[ip]


def named_set(forms: Forms) -> str:
    """Return the set that one of the *forms* is in, for people; "" for none."""
    for size, number in forms:
        for name, networks in _STATIC.items():
            if networks.holds(size, number):
                return name
    return ""


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
