"""The ``from`` and ``to`` of a rule: networks, named sets, host names.  Pure.

An address is compared in all its forms: ``::ffff:10.0.0.7`` is 10.0.0.7, and ``2002:a00:7::1``
may be.  A rule that denies one of the forms denies the address.  A rule that allows must contain
the address itself, and every other form that is not public.

Addresses that give out credentials (``metadata``) are allowed by that set or one by one, but by no
network or other set that contains them.
"""

import re
from typing import Callable, Dict, FrozenSet, Iterable, List, Optional, Set, Tuple

from minisocks.policy.networks import (
    LINK_LOCAL,
    LOOPBACK,
    METADATA,
    MULTICAST,
    NOT_PUBLIC,
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

#: What an address may stand for: size in bytes and value of each form.
Forms = Tuple[Tuple[int, int], ...]
#: Called with the bytes of an address, perhaps also the number of its link: whether this host has
#: the address now; None: not known.
IsOwn = Callable[..., Optional[bool]]

_STATIC = {networks.name: networks for networks in NOT_PUBLIC}


def _all_of(sets: Iterable[Networks]) -> Networks:
    return Networks("", "", [row for networks in sets for row in networks.rows()])


_ANY_SET = _all_of(NOT_PUBLIC)
#: For clients: a metadata address counts like its network, because only targets give credentials.
_ANY_OF_CLIENTS = _all_of(networks for networks in NOT_PUBLIC if networks is not METADATA)
#: Addresses that every host has: ``to self`` does not open them to clients.
_NOT_OPENED = _all_of((LOOPBACK, UNSPECIFIED, LINK_LOCAL, METADATA, MULTICAST))
#: Addresses that always mean this host: a rule that contains them names this host.
_ALWAYS_OWN = _all_of((LOOPBACK, UNSPECIFIED))
#: Free bits of the widest private networks, by size: 10.0.0.0/8 and fc00::/7.
_WIDEST = {4: 24, 16: 121}
#: The forms of an unknown address.
_SOMEWHERE: Forms = ((1, 0),)
#: The sets that rules may name.  ``public`` is what no other set contains, ``remote`` what is not
#: loopback, ``self`` the addresses that this host has at the time.
SETS = (*sorted(_STATIC), "public", "remote", "self")


def forms_of(ip: bytes) -> Forms:
    """Return the forms of an address, itself first.

    Empty (a unix socket) is loopback.  One byte is a client behind a forwarder, which is remote,
    public, and in no network but those that contain everything.
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


class AddressSet:
    """The addresses and names of one clause.  Immutable.

    Args:
        rows: its networks.
        names: its host names; only in ``to``.
        sets: the members of ``SETS`` that it names.
        are_clients: whether it is a ``from``.
        opens: whether it is the ``to`` of a rule that allows: ``self`` excludes loopback then.
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
        self._alone = Networks("", "", single)
        #: Whether it has a network that is too wide to mean each address: 0.0.0.0/0, ::/1.
        self.has_everything = any(shift > _WIDEST[size] for size, shift, _prefix in rows)
        named = METADATA.rows() if are_clients or "metadata" in sets else single
        #: What an ``allow`` excludes even if one of its networks contains it.
        self._not_meant = Networks("", "", set(METADATA.rows()).difference(named))
        for name in sets.intersection(_STATIC):
            rows += _STATIC[name].rows()
        self.networks = Networks("", "", rows)
        self._sets = sets
        #: What is not public in this clause.
        self._known = _ANY_OF_CLIENTS if are_clients else _ANY_SET
        self._opens = opens
        #: Whether ``networks`` has all its addresses.
        self.is_static = sets.isdisjoint(("public", "remote", "self")) and not any(
            self.networks.holds(size, number) for size, _bits, number in self._not_meant.rows()
        )
        if are_clients and self.has_everything:
            self.is_static = False  # it also contains clients without a known address
        self.names = Names(names)

    @property
    def is_lasting(self) -> bool:
        """Whether it always has the same addresses: those of this host change."""
        return "self" not in self._sets

    @property
    def has_addresses(self) -> bool:
        """Whether it has any addresses, not only names."""
        return not self.is_static or bool(self.networks)

    def touch(self, forms: Forms, is_own: IsOwn, in_doubt: bool = True) -> bool:
        """Return whether it contains any of the *forms*: for rules that deny.

        Args:
            in_doubt: the answer if it is not known whether an address is this host's.
        """
        for size, number in forms:
            if self.networks.holds(size, number):
                return True
            if not self.is_static and self._in_dynamic(size, number, is_own, in_doubt):
                return True
        return False

    def cover(self, forms: Forms, is_own: IsOwn) -> bool:
        """Return whether it contains all *forms* that are not public: for rules that allow."""
        for form in forms:
            if form is not forms[0] and is_public(*form):
                continue
            if self._not_meant.holds(*form) or not self.touch((form,), is_own, False):
                return False
        return True

    def match(self, forms: Forms, allows: bool, is_own: IsOwn) -> bool:
        """Return whether a rule that *allows* (or denies) is about the address."""
        if len(forms) == 1 and self.is_static:
            return self.networks.holds(*forms[0])
        return (self.cover if allows else self.touch)(forms, is_own)

    def spare(self, forms: Forms, is_own: IsOwn) -> bool:
        """Return whether the address is this host's, but neither itself nor ``self`` is named.

        A rule that allows a network, or all public addresses, does not mean this host in it.
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
    """A cache of ``IsOwn`` for one decision, which may ask for several rules."""

    __slots__ = ("_answers", "_is_own", "_scope")

    def __init__(self, is_own: IsOwn, scope: int) -> None:
        self._is_own = is_own
        self._scope = scope
        self._answers: Dict[bytes, Optional[bool]] = {}

    def __call__(self, ip: bytes) -> Optional[bool]:
        """Return the first answer about *ip*."""
        if ip not in self._answers:
            has_scope = self._scope and len(ip) == 16
            self._answers[ip] = self._is_own(ip, self._scope) if has_scope else self._is_own(ip)
        return self._answers[ip]


def named_set(forms: Forms) -> str:
    """Return the name of the set that contains one of the *forms*; "" for none."""
    for size, number in forms:
        for name, networks in _STATIC.items():
            if networks.holds(size, number):
                return name
    return ""


_NAME = re.compile(r"(\*?\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?\Z", re.I)
#: Most programs take these for addresses: 127.1, 10.0.0.300, 0x7f000001.
_ALMOST_NUMERIC = re.compile(r"(.*\.)?(\d+|0x[0-9a-f]*)\.?\Z|\d+\.[\dx.*-]*\Z", re.I)


def check_name(text: str) -> None:
    """Accept ``example.org``, ``*.example.org`` (what is below it) or ``.example.org`` (both).

    Raises:
        ValueError: *text* is none of them; the message is for people.
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
        # It is probably a mistyped set; as a name it would match nothing.
        raise ValueError("%s is no set; a host that is called so is written %s." % (text, text))


def is_name(text: str) -> bool:
    """Return whether *text* is meant as a name, and not as a network."""
    return not (":" in text or "/" in text or _ALMOST_NUMERIC.match(text))


class Names:
    """An immutable set of host names; ``name in names`` asks it.

    It takes one look for each label of the longest name, however many names there are.
    """

    __slots__ = ("above", "depth", "whole")

    def __init__(self, texts: Iterable[str] = ()) -> None:
        """*texts* are names that ``check_name`` accepts."""
        #: Names as they are, and names whose subdomains are all meant.
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
        #: The most labels of a name in ``above``.
        self.depth = max((name.count(b".") + 1 for name in self.above), default=0)

    def __contains__(self, name: bytes) -> bool:
        """*name* is in lower case and without a final dot."""
        return name in self.whole or not self.above.isdisjoint(parents_of(name, self.depth))

    def __bool__(self) -> bool:
        return bool(self.whole or self.above)


def parents_of(name: bytes, most: int) -> FrozenSet[bytes]:
    """Return the parent domains of *name* with at most *most* labels: of a.b.c, b.c and c."""
    parents: List[bytes] = []
    dot = name.rfind(b".")
    while dot >= 0 and len(parents) < most:
        parents.append(name[dot + 1 :])
        dot = name.rfind(b".", 0, dot)
    return frozenset(parents)
