"""Warnings about exits: rules that they pass over, hops on this host, exits without use."""

import os
from typing import Any, Dict, Iterator, List, Optional, Sequence, Set

from minisocks.access import Access
from minisocks.net.lookup import numeric_addresses
from minisocks.policy.addresssets import AddressSet
from minisocks.policy.client import Listener
from minisocks.policy.exits import DIRECT, Exit, Hop
from minisocks.policy.networks import LOOPBACK, UNSPECIFIED
from minisocks.policy.rulelines import Rule
from minisocks.values import ListenAddress, encode
from minisocks.wire import packed_ip, unmapped

__all__ = ["advice"]

#: Rules or exits in a sentence; of further ones only the number is given.
MOST_TOLD = 6
#: So many rules with such exits are looked at, because each is compared with all before it.
MOST_RULES = 50
#: Networks of a set up to which it is asked whether it has addresses of another one.
MOST_NETWORKS = 1000

_SKIPPED = (
    "names that leave by %s are looked up elsewhere, so %s, which %s before %s and name addresses, "
    "cannot be asked about them; to have all rules asked, write resolve here behind the URL of the "
    "last hop"
)
_ON_THIS_HOST = (
    "%s %s names looked up by %s, which is on this host: a name that means 127.0.0.1 there "
    "leads to services of this host that trust it, past the rules. Have that proxy refuse such "
    "addresses, or write resolve here behind its URL"
)
_OURSELVES = (
    "exit %s leads back to this proxy, which listens on %s: each connection by it comes in again, "
    "and may go round until a limit is reached; name another proxy"
)
_UNUSED = "no rule names exit %s, so no connection leaves by it; write via %s behind a rule"


def advice(access: Access) -> Iterator[str]:
    """Yield the warnings about the exits of *access*.  Any thread."""
    exits = access.exits
    if not exits:
        return
    yield from _skipped(access)
    used = {name for rule in access.rules.rules for name in rule.exits}
    used.update(part for text in access.config.exit for part in _parts_of(text))
    #: Last hops on this host that look names up, and their exits.
    lookers: Dict[str, List[str]] = {}
    for name, exit in exits.items():
        here = list(_hops_here(access, exit))
        own = [text for hop in here for text in access.config.listen if _is_at(hop, text)]
        if own:
            yield _OURSELVES % (name, own[0])
        elif exit.hops and not exit.resolves_here and exit.hops[-1] in here:
            lookers.setdefault(str(exit.hops[-1]), []).append(name)
        if name not in used:
            yield _UNUSED % (name, name)
    for hop, names in lookers.items():
        yield _ON_THIS_HOST % (_listed("exit", names), "have" if len(names) > 1 else "has", hop)


def _parts_of(text: str) -> List[str]:
    """Return the first word of each part of the line *text*: another exit, or no name."""
    parts = text.partition("=")[2].split(",")
    return [part.split()[0] for part in parts if part.strip()]


def _skipped(access: Access) -> Iterator[str]:
    """Yield the warning about rules that are not asked about names, if there are any."""
    skipped: Set[int] = set()
    deciding: List[int] = []
    exits: List[str] = []
    # Built-in rules, which every exit that looks names up passes over, have no number.
    own = [rule for rule in access.rules.rules if not rule.is_built_in]
    left = MOST_RULES
    for number, rule in enumerate(own, 1):
        known = [access.exits[name] for name in rule.exits if name != DIRECT]
        elsewhere = [exit.name for exit in known if not exit.resolves_here]
        # A rule about addresses alone is not asked about names itself.
        if left and elsewhere and (rule.targets is None or rule.targets.names):
            left -= 1
            earlier = list(_about_addresses(own[: number - 1], rule))
            if earlier:
                skipped.update(earlier)
                deciding.append(number)
                exits += [name for name in elsewhere if name not in exits]
    if deciding:
        numbers = sorted(skipped)
        are = "stand" if len(numbers) > 1 else "stands"
        rules = _listed("rule", numbers), are, _listed("rule", deciding)
        yield _SKIPPED % (_listed("exit", exits), *rules)


def _about_addresses(rules: Sequence[Rule], following: Rule) -> Iterator[int]:
    """Yield the numbers of those *rules* that could decide instead of *following*, by address."""
    for number, rule in enumerate(rules, 1):
        has_addresses = rule.targets is not None and rule.targets.has_addresses
        decides_otherwise = not rule.allows or rule.exits != following.exits
        if has_addresses and decides_otherwise and _may_meet(rule, following):
            yield number


def _listed(what: str, names: Sequence[Any]) -> str:
    told = list(map(str, names[:MOST_TOLD]))
    more = len(names) - len(told)
    told += ["%d more" % more] if more else []
    if len(told) == 1:
        return "%s %s" % (what, told[0])
    return "%ss %s and %s" % (what, ", ".join(told[:-1]), told[-1])


def _may_meet(one: Rule, other: Rule) -> bool:
    """Return whether both may be about the same request, their targets aside."""
    sets: List[Any] = [(one.commands, other.commands), (one.versions, other.versions)]
    if not (one.any_user or other.any_user):
        sets.append((one.users, other.users))
    for known, wanted in sets:
        if known is not None and wanted is not None and known.isdisjoint(wanted):
            return False
    ports = _pairs(one.ports, other.ports)
    places = _pairs(one.listeners, other.listeners)
    return (
        (ports is None or any(a[0] <= b[1] and b[0] <= a[1] for a, b in ports))
        and (places is None or any(_is_same_place(a, b) for a, b in places))
        and _sources_may_meet(one.sources, other.sources)
    )


def _pairs(one: Optional[Sequence[Any]], other: Optional[Sequence[Any]]) -> Optional[List[Any]]:
    """Return each of *one* with each of *other*; None if a clause is not there."""
    return None if one is None or other is None else [(a, b) for a in one for b in other]


def _is_same_place(one: Listener, other: Listener) -> bool:
    """Return whether a client may have connected to both; no ``ip`` is any."""
    return one[1:] == other[1:] and (one.ip == other.ip or not (one.ip and other.ip))


def _sources_may_meet(one: Optional[AddressSet], other: Optional[AddressSet]) -> bool:
    if one is None or other is None or not (one.is_static and other.is_static):
        return True
    both = one.networks, other.networks
    rows = [networks.rows() for networks in both]
    if max(map(len, rows)) > MOST_NETWORKS:
        return True
    # Of two networks that meet, one contains the first address of the other.
    return any(
        networks.holds(size, prefix << shift)
        for networks, others in zip(both, reversed(rows))
        for size, shift, prefix in others
    )


def _hops_here(access: Access, exit: Exit) -> Iterator[Hop]:
    """Yield the hops of *exit* that are on this host."""
    follows_ours = True
    for hop in exit.hops:
        follows_ours = any(_is_here(access, ip, follows_ours) for ip in _addresses(hop))
        if follows_ours:
            yield hop


def _is_here(access: Access, ip: bytes, follows_ours: bool) -> bool:
    """Return whether *ip* is this host: loopback is, for a hop behind one on this host."""
    if ip in LOOPBACK or ip in UNSPECIFIED:
        return follows_ours
    return access.own(ip) is True


def _addresses(hop: Hop) -> Sequence[bytes]:
    """Return the addresses of *hop* that are known without a look-up."""
    name = hop.host.lower().rstrip(".")
    if hop.path or name == "localhost" or name.endswith(".localhost"):
        return [bytes((127, 0, 0, 1))]
    found = numeric_addresses(encode(hop.host), hop.port)
    return [unmapped(packed_ip(sockaddr[0]) or b"") for _family, sockaddr in found]


def _is_at(hop: Hop, listen: str) -> bool:
    """Return whether *hop*, which is on this host, is the listener *listen*."""
    place = ListenAddress.parse(listen)
    if hop.path or place.path:
        return bool(hop.path) and os.path.abspath(place.path) == os.path.abspath(hop.path)
    if hop.port != place.port:
        return False
    ours = _addresses(Hop("", place.host, place.port)) if place.host else [b""]
    return any(not any(ip) or ip in _addresses(hop) for ip in ours)
