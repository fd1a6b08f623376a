"""The rules in force in sentences: which clients may come in, and what cannot be meant."""

from typing import Iterator, List, Sequence

from minisocks.access import Access
from minisocks.config.settings import Config
from minisocks.policy.client import Client
from minisocks.policy.defaults import ALL, FROM_LAN
from minisocks.policy.rulelines import Rule
from minisocks.policy.rules import Rules
from minisocks.quoting import MOST_TOLD, quoted
from minisocks.values import ListenAddress, encode
from minisocks.wire import Cmd

__all__ = ["describe", "oddities"]

#: So many names are told, of more how many there are.
MOST_NAMES = 3


def describe(rules: Rules, config: Config) -> str:
    """Return one sentence that says which clients *rules*, those of *config*, let in."""
    more = "; a name of --name-only counts as a password" if config.name_only else ""
    more += "; by SOCKS4 only clients that ident confirms" if rules.asks_ident else ""
    return _describe(rules) + more


def _describe(rules: Rules) -> str:
    if rules.has_own:
        return "clients that the rules allow (minisocks check shows them)"
    less = "" if all(rule.is_built_in for rule in rules.rules) else ", less what the rules deny"
    if ALL in rules.rules:
        return "any client, without a password (--open)" + less
    clients = "clients on this host (by loopback)"
    if FROM_LAN in rules.rules:
        clients += " and on private networks (--allow-lan)"
    if not rules.has_users:
        return clients + ", without a password" + less
    if FROM_LAN not in rules.rules:
        return "any client that has a password" + less
    return clients + " without a password, any other client with one" + less


def oddities(access: Access) -> List[str]:
    """Return sentences about settings, rules, lists and users that cannot be what was meant."""
    rules, config = access.rules, access.config
    found = list(access.notes)
    last = next((n for n, rule in enumerate(rules.rules, 1) if _matches_all(rule)), 0)
    if not any(rule.allows for rule in rules.rules[: last or None]):
        found.append(_NOTHING_ALLOWED)
    elif 0 < last < len(rules.rules):
        found.append("the rules behind rule %d are never asked: it matches all" % last)
    for number, rule in enumerate(rules.rules, 1):
        wants_user = rule.users is not None and None not in rule.users
        if wants_user and not rules.has_users and not rules.asks_ident:
            found.append("rule %d never matches: it wants a user, and there are none" % number)
    # A rule may deny clients without a password all the same.
    is_open = config.open and rules.precheck_any(_STRANGER, 5, Cmd.CONNECT).allowed
    if access.users and is_open:
        found.append(_OPEN_TO_ALL)
    if config.name_only:
        names = _told([encode(name) for name in config.name_only])
        found.append(_BY_NAME % names)
    left_out = _left_out(access)
    if left_out:
        found.append(_LEFT_OUT % left_out)
    return found + list(_of_one_family(config.listen))


_STRANGER = Client(("192.0.2.1", 0))
_OPEN_TO_ALL = (
    "--open lets every client in without a password, although there are users; leave it out, "
    "and each client needs one"
)
_NOTHING_ALLOWED = "no rule allows anything: no client can use this proxy; add an allow rule"
_BY_NAME = (
    "any client that gives the name %s is let in as that user, whatever its password "
    "(--name-only); the name is no secret"
)
_LEFT_OUT = (
    "no rule lets in %s by password: the right one is answered with REP 02. Add an allow rule "
    "with user any, or with user none any if it is for clients without a password, too"
)


def _of_one_family(texts: Sequence[str]) -> Iterator[str]:
    """Yield what is told of every IPv6 address without every IPv4 one."""
    places = [ListenAddress.parse(text) for text in texts]
    for place in places:
        if place.host == "::" and place._replace(host="0.0.0.0") not in places:
            yield (
                "%s is for clients that come by IPv6 only; -l :%d takes those by IPv4, too"
                % (place, place.port)
            )


def _matches_all(rule: Rule) -> bool:
    """Return whether no request is left for the rules behind *rule*."""
    everybody = rule.users is None or (rule.any_user and None in rule.users)
    return everybody and all(part is None for part in rule[2:7])


def _left_out(access: Access) -> str:
    """Return the users that no rule lets in by their password, as text; "" if there are none."""
    allowing, users = [rule for rule in access.rules.rules if rule.allows], access.users
    if not users or any(rule.any_user or rule == ALL for rule in allowing):
        return ""
    named = {name for rule in allowing for name in rule.users or ()}
    names = [name for name in access.names if name not in named]
    if users.may_take_long:  # the hook may know users of any name
        return "" if named - {None} else "any user"
    if names and len(names) == len(access.names):
        return "any user"
    return _told(names)


def _told(names: List[bytes]) -> str:
    told = [quoted(name, MOST_TOLD) for name in names[:MOST_NAMES]]
    if len(names) > MOST_NAMES:
        told.append("%d other users" % (len(names) - MOST_NAMES))
    return ", ".join(told)
