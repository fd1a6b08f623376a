"""The language of rules: one line to one ``Rule``.  Pure.

::

    allow|deny [from NETS] [to HOSTS|NETS] [port PORTS] [command connect|bind|udp]
               [version 4|5] [user NAMES|none|any|none any] [listener ADDRESSES]
               [via EXIT [or EXIT ...]]

Clauses stand in any order; the values of a clause have blanks or commas between them.
``@FILE`` stands for the lines of a file; if its name has blanks, ``@"FILE"``.  A user name that
is a word of the language, or has blanks, is written in double quotes.  ``via`` names the exits
(``policy.exits``) by which an allowed connection leaves: the first one that works.
"""

import re
from typing import (
    Any,
    Callable,
    Dict,
    FrozenSet,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Set,
    Tuple,
)

from minisocks.errors import ConfigError, RefusedByRules, RuleError
from minisocks.guesses import closest
from minisocks.policy.addresssets import SETS, AddressSet, check_name, is_name
from minisocks.policy.client import Listener
from minisocks.policy.lists import Lines
from minisocks.policy.networks import Row, parse_networks
from minisocks.values import ListenAddress, encode
from minisocks.wire import LOOK_UPS, Cmd, plain_ip

__all__ = [
    "Decision",
    "Rule",
    "WORDS",
    "check_rule",
    "no_lines",
    "parse_rule",
    "with_files",
]

#: Returns the list in a file, or raises ``ConfigError``.
ReadLines = Callable[[str], Lines]

_WORD = re.compile(r'@?"[^"]*"?|[^\s,"]+')
#: A file name that needs no quotes.
_PLAIN = re.compile(r'[^\s,"]+\Z')
COMMANDS = {"connect": Cmd.CONNECT, "bind": Cmd.BIND, "udp": Cmd.UDP_ASSOCIATE}
_CLAUSES = ("from", "to", "port", "command", "version", "user", "listener", "via")
#: The words of the language, which are no names of exits.
WORDS = ("allow", "deny", "any", "none", "or", *_CLAUSES)


class Rule(NamedTuple):
    """One rule.  The field of a clause that is not there is None.

    ``users`` has the names of users, and None for clients without a password; ``any_user``
    stands for every user.
    """

    allows: bool
    text: str
    sources: Optional[AddressSet] = None
    targets: Optional[AddressSet] = None
    ports: Optional[Tuple[Tuple[int, int], ...]] = None
    commands: Optional[FrozenSet[int]] = None
    versions: Optional[FrozenSet[int]] = None
    users: Optional[FrozenSet[Optional[bytes]]] = None
    any_user: bool = False
    is_built_in: bool = False
    #: The exits to try, in this order; none: connections leave this host directly.
    exits: Tuple[str, ...] = ()
    #: The addresses of ours that clients have connected to.
    listeners: Optional[Tuple[Listener, ...]] = None

    def is_at(self, place: Optional[Listener]) -> bool:
        """Return whether it is about clients that have connected to *place*."""
        if self.listeners is None:
            return True
        any_ip = None if place is None else place._replace(ip=b"")
        return place in self.listeners or any_ip in self.listeners


class Decision(NamedTuple):
    """Whether a request is allowed; if not, why, and what the operator can do.

    ``number`` is the number of the rule that decided, from 1, among all in force; 0 if none did.
    Messages name it by its ``label``.  ``exits`` are those of that rule.
    """

    allowed: bool
    reason: str = ""
    number: int = 0
    exits: Tuple[str, ...] = ()

    def raise_if_denied(self) -> None:
        """Raise if it is not allowed.

        Raises:
            RefusedByRules: with ``reason``.
        """
        if not self.allowed:
            raise RefusedByRules(self.reason)


class _Word(NamedTuple):
    text: str
    column: int

    @property
    def is_quoted(self) -> bool:
        return self.text.startswith('"')


class _Line:
    """The text of one rule, for errors with a column."""

    def __init__(self, text: str) -> None:
        self.text = text

    def wrong(self, message: str, word: Optional[_Word] = None) -> RuleError:
        column = word.column if word else len(self.text.rstrip()) + 1
        return RuleError(message, self.text.rstrip(), column)


def check_rule(text: str) -> None:
    """Accept a rule, without reading the files that it names.

    Raises:
        RuleError: it is not valid.
    """
    parse_rule(text, no_lines)


def no_lines(path: str) -> Lines:
    """Return an empty list for any file."""
    return Lines([], [])


def parse_rule(text: str, read: ReadLines) -> Rule:
    """Return the rule *text*.

    Raises:
        RuleError: it is not valid; with the column.
        ConfigError: from *read*.
    """
    line = _Line(text)
    words = [_Word(found.group(), found.start() + 1) for found in _WORD.finditer(text)]
    if not words or words[0].text.lower() not in ("allow", "deny"):
        hint = closest(words[0].text.lower(), ("allow", "deny")) if words else ""
        raise line.wrong("a rule begins with allow or deny%s" % hint, words[0] if words else None)
    rule = Rule(words[0].text.lower() == "allow", " ".join(word.text for word in words))
    fields: Dict[str, Any] = {}
    for clause, values in _clauses(line, words[1:]):
        name = clause.text.lower()
        if name in ("from", "to"):
            found = _address_set(line, name, values, read, rule.allows)
            fields["sources" if name == "from" else "targets"] = found
        elif name == "port":
            fields["ports"] = tuple(_ports(line, word) for word in values)
        elif name == "command":
            cmds = frozenset(_choice(line, word, COMMANDS) for word in values)
            fields["commands"] = cmds | LOOK_UPS if Cmd.CONNECT in cmds else cmds
        elif name == "version":
            fields["versions"] = frozenset(_choice(line, word, {"4": 4, "5": 5}) for word in values)
        elif name == "listener":
            fields["listeners"] = tuple(_listener(line, word) for word in values)
        elif name == "via":
            if not rule.allows:
                raise line.wrong("a rule that denies has no exit: leave via out", clause)
            fields["exits"] = _exits(line, values)
        else:
            fields["users"], fields["any_user"] = _users(line, values)
    return rule._replace(**fields)


def _clauses(line: _Line, words: List[_Word]) -> Iterator[Tuple[_Word, List[_Word]]]:
    seen: Set[str] = set()
    while words:
        clause = words[0]
        name = clause.text.lower()
        if name not in _CLAUSES:
            what = closest(name, _CLAUSES) or "; the words are %s" % ", ".join(_CLAUSES)
            raise line.wrong("%s has no meaning here%s" % (clause.text, what), clause)
        if name in seen:
            raise line.wrong("%s is there twice; write its values behind one" % name, clause)
        seen.add(name)
        end = 1
        while end < len(words) and words[end].text.lower() not in _CLAUSES:
            end += 1
        values, words = words[1:end], words[end:]
        if not values:
            raise line.wrong("%s needs a value behind it" % name, words[0] if words else None)
        yield clause, values


def _address_set(
    line: _Line, clause: str, words: List[_Word], read: ReadLines, allows: bool
) -> AddressSet:
    rows: List[Row] = []
    names: List[str] = []
    sets: Set[str] = set()
    for word in words:
        text = word.text.lower()
        if text == "remote" and clause == "to":
            # It would contain other addresses of this host, and 169.254.169.254.
            raise line.wrong("remote is about clients; to has public, private and so on", word)
        if text in SETS:
            sets.add(text)
        elif text in ("any", "all", "*", "everything"):
            raise line.wrong("this means every address: leave %s out" % clause, word)
        elif text.startswith("@"):
            path = word.text[1:].strip('"')
            if text.count('"') == 1:
                raise line.wrong("the quote is not closed", word)
            if not path:
                raise line.wrong("@ needs the name of a file behind it", word)
            lines = read(path)
            if lines.foreign is not None and (allows or clause == "from"):
                raise lines.foreign
            rows += lines.rows
            names += lines.names
            if clause == "from" and lines.names:
                raise line.wrong(_NO_NAMES % lines.names[0], word)
        elif not is_name(text):
            try:
                rows += parse_networks(text)
            except ValueError as exc:
                raise line.wrong(str(exc), word) from None
        else:
            names.append(_name(line, clause, word))
    return AddressSet(rows, names, frozenset(sets), clause == "from", allows and clause == "to")


_NO_NAMES = "from takes networks, and %s is none: names of clients cannot be verified"


def _name(line: _Line, clause: str, word: _Word) -> str:
    text = word.text.lower()
    if clause == "to" and "." not in text and closest(text, SETS):
        raise line.wrong("%.60s is no set%s" % (text, closest(text, SETS)), word)
    try:
        check_name(text)
    except ValueError as exc:
        raise line.wrong(str(exc), word) from None
    if clause == "from":
        raise line.wrong(_NO_NAMES % text, word)
    return text


def _ports(line: _Line, word: _Word) -> Tuple[int, int]:
    first, dash, last = word.text.partition("-")
    ends = [first, last if dash else first]
    if not all(end and len(end) <= 5 and all(c in "0123456789" for c in end) for end in ends):
        raise line.wrong("%s is no port; write 443 or 8000-8999" % word.text, word)
    low, high = map(int, ends)
    if high > 65535 or low > high:
        raise line.wrong("ports go from 0 to 65535, the lower one first", word)
    return low, high


def _choice(line: _Line, word: _Word, known: Mapping[str, int]) -> int:
    if word.text.lower() not in known:
        raise line.wrong("%s is none of %s" % (word.text, ", ".join(known)), word)
    return int(known[word.text.lower()])


def _listener(line: _Line, word: _Word) -> Listener:
    try:
        place = ListenAddress.parse(word.text)
    except ConfigError as exc:
        raise line.wrong(str(exc), word) from None
    ip = plain_ip(place.host)
    if (place.host and not ip) or not (place.port or place.path):
        raise line.wrong("listener takes ADDRESS:PORT, :PORT (any address) or unix:PATH", word)
    return Listener(ip, place.port, place.path)


def _exits(line: _Line, words: List[_Word]) -> Tuple[str, ...]:
    """Return the names in ``A or B or C``."""
    for word in words[1::2]:
        if word.text.lower() != "or":
            raise line.wrong("between two exits stands or: via office or direct", word)
    if not len(words) % 2:
        raise line.wrong("or needs the name of an exit behind it")
    names = [word.text for word in words[::2]]
    for word in words[::2]:
        if word.text.lower() in ("or", "same") or word.is_quoted or names.count(word.text) > 1:
            raise line.wrong("via takes names of exits, each once", word)
    return () if names == ["direct"] else tuple(names)


def _users(line: _Line, words: List[_Word]) -> Tuple[FrozenSet[Optional[bytes]], bool]:
    names: Set[Optional[bytes]] = set()
    any_user: Optional[_Word] = None
    for word in words:
        text = word.text
        if word.is_quoted:
            if len(text) < 2 or not text.endswith('"'):
                raise line.wrong("the quote is not closed", word)
            text = text[1:-1]
        elif text.startswith("@"):
            raise line.wrong("user takes names and no file (a name like this: in quotes)", word)
        elif text.lower() == "none":
            names.add(None)
            continue
        elif text.lower() == "any":
            any_user = word
            continue
        names.add(encode(text))
    if any_user and names - {None}:
        raise line.wrong("any is every user: leave it out, or the names", any_user)
    return frozenset(names), any_user is not None


def with_files(text: str, rename: Callable[[str], str]) -> str:
    """Return the rule *text* with *rename* applied to its file names."""

    def renamed(found: Any) -> str:
        # In quotes without "@" it is a user name.
        word = str(found.group())
        if not word.startswith("@"):
            return word
        path = rename(word[1:].strip('"'))
        return "@" + path if _PLAIN.match(path) else '@"%s"' % path

    return _WORD.sub(renamed, text)
