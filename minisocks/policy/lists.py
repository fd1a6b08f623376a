"""Lists in files that rules name: lines to networks and names.  Pure.

A line is a network or a name.  Lists for other programs are understood, too, as far as they say
which names to deny::

    0.0.0.0 ads.example         hosts file: these names, but not their subdomains
    ||ads.example^              Adblock: the name and its subdomains
    address=/ads.example/       dnsmasq, also local=/ads.example/: the same

Other lines of such lists (an exception, a part of a page) have no meaning here: they are skipped,
and reported with their line numbers.
"""

import re
from typing import Dict, List, NamedTuple, Optional, Tuple

from minisocks.errors import RuleError
from minisocks.policy.addresssets import SETS, check_name, is_name
from minisocks.policy.networks import Row, parse_networks
from minisocks.wire import packed_ip

__all__ = ["Lines", "parse_lines"]

#: How many numbers of skipped lines a note names, for each reason.
MOST_NUMBERS = 5

#: The addresses that such lists give a name to deny it; dnsmasq also has "#" and nothing.
_NOWHERE = ("0.0.0.0", "127.0.0.1", "::", "::1")
#: Entries for the host itself in a hosts file: names without a dot, these, and those addresses.
_OF_THIS_HOST = re.compile(r"[^.]*\.?\Z|(.*\.)?localhost\d?(\.localdomain\d?)?\Z", re.I)
#: Checked first, because a list may have a million lines.
_IS_OURS = re.compile(r"[\w.*:-]+(/\d+)?\Z")
_DNSMASQ = re.compile(r"(address|local|server)=((?:/[^/\s]+)+)/(\S*)(\s+#.*)?\Z")
_ADBLOCK = re.compile(r"\|\|([^\s^/$*|]+)\^\Z")
_OF_PAGES = re.compile(r"#[@?$%]*#")


class Lines(NamedTuple):
    """The list of one file.

    ``foreign`` is an error that shows its first line for another program; ``notes`` are
    sentences about skipped lines.
    """

    rows: List[Row]
    names: List[str]
    foreign: Optional[RuleError] = None
    notes: Tuple[str, ...] = ()


def parse_lines(text: str, name: str) -> Lines:
    """Return the list in the file called *name*: a network or a name a line, # and ! comments.

    Raises:
        RuleError: a line is neither, nor for another program; with file, line and column.
    """
    rows: List[Row] = []
    names: List[str] = []
    foreign: Optional[RuleError] = None
    left_out: Dict[str, List[int]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        word = line.strip()
        if not word or word[0] in "#!" or word.startswith("[Adblock"):
            continue
        words, why = None, ""
        if not _IS_OURS.match(word):
            words, why = _foreign(word)
            word = word.partition("#")[0].rstrip()
        try:
            if words is None:
                _add(word, rows, names)
                continue
            for one in words:
                _add(one, rows, names)
        except ValueError as exc:
            if words is None:
                raise _wrong(str(exc), line, word, name, number) from None
            why = _NO_NAME
        if why:
            left_out.setdefault(why, []).append(number)
        foreign = foreign or _wrong(_ONLY_DENY, line, word, name, number)
    return Lines(rows, names, foreign, tuple(_note(name, *item) for item in left_out.items()))


def _wrong(message: str, line: str, word: str, name: str, number: int) -> RuleError:
    place = "%s, line %d" % (name, number)
    return RuleError(message, line.rstrip(), line.index(word) + 1, place)


_ONLY_DENY = "only the to of a deny takes lines of this kind; write a network or a name a line"
_NO_NAME = "a name that no host can have"


def _foreign(line: str) -> Tuple[Optional[List[str]], str]:
    """Return the names that a line for another program denies, or why it is skipped.

    (None, ""): it is no such line.
    """
    head = re.split(r"[\s#]", line, maxsplit=1)[0]
    if line.startswith("@@"):
        return [], "an exception (@@)"
    if _OF_PAGES.match(line, len(head)) and is_name(head):
        return [], "a part of a page (##)"
    dnsmasq = _DNSMASQ.match(line)
    if dnsmasq:
        blocks = ("", "#", *_NOWHERE) if dnsmasq.group(1) == "address" else ("",)
        if dnsmasq.group(3) not in blocks:
            return [], "an address, or a name server, for a name"
        return [_and_below(name) for name in dnsmasq.group(2)[1:].split("/")], ""
    if "$" in head:
        return [], "an option behind $"
    if line.startswith("|") or (line.startswith("/") and line.endswith("/")):
        adblock = _ADBLOCK.match(head)
        return ([_and_below(adblock.group(1))], "") if adblock else ([], "a pattern for addresses")
    address, *names = line.partition("#")[0].split() or [""]
    if not names or packed_ip(address) is None:
        return None, ""
    names = [name for name in names if name not in _NOWHERE and not _OF_THIS_HOST.match(name)]
    if names and address not in _NOWHERE:
        return [], "a name for an address other than %s" % ", ".join(_NOWHERE)
    return (names, "") if all(map(is_name, names)) else ([], _NO_NAME)


def _and_below(name: str) -> str:
    return "." + name if is_name(name) else name


def _note(name: str, what: str, numbers: List[int]) -> str:
    told = ", ".join(map(str, numbers[:MOST_NUMBERS]))
    if len(numbers) > MOST_NUMBERS:
        told += " and %d more" % (len(numbers) - MOST_NUMBERS)
    lines = "line" if len(numbers) == 1 else "lines"
    return "%s, %s %s: %s is not understood, and denies nothing" % (name, lines, told, what)


def _add(word: str, rows: List[Row], names: List[str]) -> None:
    """Add *word* to *rows* or *names*.

    Raises:
        ValueError: it is neither a network nor a name.
    """
    if word.lower() in SETS:
        raise ValueError("%s is a set: write it in the rule itself" % word)
    if is_name(word):
        check_name(word)
        names.append(word)
    else:
        rows += parse_networks(word)
