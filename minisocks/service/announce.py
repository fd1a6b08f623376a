"""Sentences for the operator: listeners, clients that may come in, limits, odd settings.

Text only; the caller prints it.
"""

import os
import re
from typing import Iterator, List, Optional, Sequence, Tuple

from minisocks.access import Access
from minisocks.config.rows import option_name
from minisocks.config.setting import Setting
from minisocks.config.settings import SETTINGS, Config
from minisocks.net.capacity import Room
from minisocks.policy.builtin import ALL, FROM_LAN, label
from minisocks.policy.client import Client
from minisocks.policy.networks import LOOPBACK, Networks
from minisocks.policy.rulelines import Rule
from minisocks.policy.rules import Rules
from minisocks.quoting import MOST_TOLD, quoted
from minisocks.service.exitadvice import advice
from minisocks.values import ListenAddress, encode
from minisocks.wire import Address, Atyp, Cmd, packed_ip, text_ip

__all__ = ["admitted", "at_start", "behind", "describe", "forwarded_of", "oddities", "shown"]

#: The setting that the limit on descriptors replaces.
_BY_ROOM = "max_connections"
#: User names in a sentence; of further ones only the number is given.
MOST_NAMES = 3
#: A line: its head, and the rest.
Line = Tuple[str, str]
#: Networks that ``--allow-lan`` admits although other hosts in them may be strangers.
_SHARED = [
    (Networks("100.64.0.0/10", "100.64.0.0/10"), "of a carrier's NAT, or a VPN such as Tailscale"),
    (Networks("169.254.0.0/16", "169.254.0.0/16"), "link-local"),
]
#: The target of the command to try, and an address for it.
_EXAMPLE = Address(b"example.org", 443, Atyp.DOMAINNAME)
_PUBLIC = bytes((1, 1, 1, 1))
#: A user that no rule names, and the names that a URL can have without escapes.
_ANY = b"\0"
_TYPABLE = re.compile(rb"[A-Za-z0-9_.-]+\Z")


def at_start(
    addresses: List[str],
    forwarded: Sequence[str],
    config: Config,
    access: Access,
    room: Room,
    own: Sequence[Tuple[str, bytes]] = (),
) -> List[Line]:
    """Return the lines for a proxy that listens on *addresses*.

    Args:
        forwarded: those of *addresses* that a forwarder connects to.
        own: names and IPv4 addresses of this host's interfaces.
    """
    rules = access.rules
    lines = [("listening on", "%s (SOCKS4, SOCKS4a, SOCKS5)" % address) for address in addresses]
    lines += admitted(addresses, forwarded, config, rules)
    lines.append(("room for", "%s; %d unfinished handshakes" % (room, config.max_handshakes)))
    limits = _limits(config, room)
    if limits:
        lines.append(("limits:", limits))
    seen = _seen(addresses, forwarded)
    if config.allow_lan and not all(map(_is_loopback, seen)):
        lines += [("take care:", text) for text in _shared(rules, own)]
    lines.append(("try it:", _try(addresses, forwarded, access)))
    return lines


def describe(rules: Rules, config: Config, addresses: Sequence[str] = ()) -> str:
    """Return a sentence about the clients that *rules*, those of *config*, admit.

    Args:
        addresses: those that clients connect to; none: those of *config*.
    """
    more = "; a name of --name-only counts as a password" if config.name_only else ""
    more += "; by SOCKS4 only clients that ident confirms" if rules.asks_ident else ""
    return _describe(rules, addresses or _seen(config.listen, forwarded_of(config))) + more


def _seen(addresses: Sequence[str], forwarded: Sequence[str]) -> List[str]:
    """Return those of *addresses* that clients themselves connect to."""
    return [address for address in addresses if address not in forwarded]


def _describe(rules: Rules, addresses: Sequence[str]) -> str:
    if rules.has_own:
        return "clients that the rules allow (minisocks check shows them)"
    less = "" if all(rule.is_built_in for rule in rules.rules) else ", except what the rules deny"
    if ALL in rules.rules:
        return "any client, without a password (--open)" + less
    kinds = {"unix socket" if ListenAddress.parse(a).path else "loopback" for a in addresses}
    clients = "clients on this host (by %s)" % (" or ".join(sorted(kinds)) or "loopback")
    if FROM_LAN in rules.rules:
        clients += " and on private networks (--allow-lan)"
    if not rules.has_users:
        return clients + ", without a password" + less
    if FROM_LAN not in rules.rules:
        return "any client that has a password" + less
    return clients + " without a password, any other client with one" + less


def oddities(access: Access) -> List[str]:
    """Return warnings about settings, rules, lists, users and exits that contradict each other."""
    rules, config = access.rules, access.config
    found = list(access.notes)
    last = next((n for n, rule in enumerate(rules.rules, 1) if _matches_all(rule)), 0)
    if not any(rule.allows for rule in rules.rules[: last or None]):
        found.append(_NOTHING_ALLOWED)
    elif 0 < last < len(rules.rules):
        name = label(rules.rules, last)
        found.append("the rules after %s have no effect: it matches every request" % name)
    for number, rule in enumerate(rules.rules, 1):
        wants_user = rule.users is not None and None not in rule.users
        if wants_user and not rules.has_users and not rules.asks_ident:
            name = label(rules.rules, number)
            found.append("%s never matches: it names a user, but there are none" % name)
    # A rule may deny clients without a password all the same.
    is_open = config.open and rules.precheck_any(_STRANGER, 5, Cmd.CONNECT).allowed
    if access.users and is_open:
        found.append(_OPEN_TO_ALL)
    if config.name_only:
        names = _names_text([encode(name) for name in config.name_only])
        found.append(_BY_NAME % names)
    left_out = _left_out(access)
    if left_out:
        found.append(_LEFT_OUT % left_out)
    return [*found, *_of_one_family(config.listen), *advice(access)]


def admitted(
    addresses: Sequence[str], forwarded: Sequence[str], config: Config, rules: Rules
) -> Iterator[Line]:
    """Yield the lines about the clients that may come in."""
    if len(forwarded) < len(addresses):
        yield "may come in:", describe(rules, config, _seen(addresses, forwarded))
    yield from behind(forwarded, config, rules)


def behind(forwarded: Sequence[str], config: Config, rules: Rules) -> Iterator[Line]:
    """Yield the line about clients of the listeners in *forwarded*, if there are any."""
    if not forwarded:
        return
    at = " ".join(forwarded)
    text = "each client at %s counts as a stranger from a public address, and " % at
    if rules.admits(Client("", is_forwarded=True)):
        text += "comes in without a password"
    elif rules.has_users:
        text += "needs a password"
    else:
        text += "none comes in: add --users-file, a rule or --open"
    by_address = ("max_per_client", "rate", "auth_once")
    without = ", ".join(option_name(name) for name in by_address if getattr(config, name))
    if without:
        text += "; these settings do not apply to it: " + without
    if config.ident:
        text += "; by SOCKS4 it is refused (--ident)"
    yield "forwarded:", text


def forwarded_of(config: Config) -> List[str]:
    """Return those of the addresses of *config* that a forwarder connects to."""
    return [text for text in config.listen if config.is_forwarded(text)]


def _shared(rules: Rules, own: Sequence[Tuple[str, bytes]]) -> Iterator[str]:
    """Yield warnings about ``--allow-lan`` for interfaces to networks with strangers.

    For each interface, because the kernel accepts packets for any of its addresses from it.
    """
    for name, ip in own:
        neighbour = Client((text_ip(ip[:3] + bytes([ip[3] ^ 1])), 0))
        if rules.precheck_any(neighbour, 5, Cmd.CONNECT).allowed:
            for network, what in _SHARED:
                if ip in network:
                    yield _STRANGERS % (name, text_ip(ip), what, network.name)


_STRANGERS = (
    "%s has %s (%s), and --allow-lan lets every host of that network use this proxy, also to reach "
    "private networks. If some of these hosts are not yours, add --rule 'deny from %s'"
)


def _is_loopback(address: str) -> bool:
    listener = ListenAddress.parse(address)
    return bool(listener.path) or (packed_ip(listener.host) or b"") in LOOPBACK


def _limits(config: Config, room: Room) -> str:
    limits = []
    all_told = config._replace(max_connections=config.max_connections or room.limit)
    for setting in SETTINGS:
        value = getattr(config, setting.name)
        if setting.name == "max_associations":
            most, why = all_told.most_associations()
            why = "" if why.startswith(setting.option) else " (%s)" % why
            limits.append("%s %d%s" % (setting.key, most, why))
        elif (setting.is_limit and value is not None) or (setting.kind == "ports" and value):
            limits.append("%s %s" % (setting.key, shown(setting, config)[0]))
        elif setting.name == _BY_ROOM and room.limit is not None:
            limits.append("%s %d (what the descriptors allow)" % (setting.key, room.limit))
    return ", ".join(limits)


def shown(setting: Setting, config: Config) -> List[str]:
    """Return the values of *setting* in *config* with their units."""
    value = getattr(config, setting.name)
    values = value if setting.kind == "texts" else [value]
    return [setting.with_unit(one) for one in values]


def _try(addresses: List[str], forwarded: Sequence[str], access: Access) -> str:
    """Return a shell command that works on this host, or what to change so that one does."""
    places = [(ListenAddress.parse(text).for_clients(), text in forwarded) for text in addresses]
    places.sort(key=lambda place: bool(place[0].path))
    rules, users = access.rules, _users_to_try(access)
    pairs = [(place, user, _client_of(*place, user)) for place in places for user in users]
    admitted_here = [pair for pair in pairs if rules.admits(pair[2])]
    works = [pair for pair in admitted_here if _reaches_example(rules, pair[2])]
    for (place, _is_forwarded), user, _client in works or admitted_here:
        where = "localhost" + os.path.abspath(place.path) if place.path else str(place)
        target = "https://example.org/" if works else "URL with a URL that the rules allow"
        return "curl --proxy socks5h://%s%s %s" % (_userinfo(user), where, target)
    if not rules.has_own or places[0][0].path:
        ways = "--user or --open" if len(forwarded) == len(addresses) else _WAYS
        return "no client can come in by this address yet: add " + ways
    line = "curl --proxy socks5h://%sHOST:%d https://example.org/ from where the rules allow"
    return line % (_userinfo(users[0]), places[0][0].port)


_WAYS = "--allow-lan, --user or --open"


def _users_to_try(access: Access) -> List[Optional[bytes]]:
    """Return the users to try; ``_ANY`` for all that no rule names, None for no user."""
    named = {user for rule in access.rules.rules for user in rule.users or ()}
    users: List[Optional[bytes]] = [name for name in access.names if name in named]
    if access.users.may_take_long or len(users) < len(access.names):
        users.insert(0, _ANY)
    return [*users, None]


def _userinfo(user: Optional[bytes]) -> str:
    if user is None:
        return ""
    return "%s:PASSWORD@" % (user.decode() if _TYPABLE.match(user) else "NAME")


def _reaches_example(rules: Rules, client: Client) -> bool:
    return rules.decide(client, 5, Cmd.CONNECT, _EXAMPLE, _PUBLIC).allowed


def _client_of(place: ListenAddress, is_forwarded: bool, user: Optional[bytes]) -> Client:
    """Return a client that connects to *place* from the same address."""
    client = Client((place.host, 0) if packed_ip(place.host) else "", is_forwarded)
    client.user = user
    return client


_STRANGER = Client(("192.0.2.1", 0))
_OPEN_TO_ALL = (
    "--open admits every client without a password, although there are users; leave it out if "
    "clients are to need a password"
)
_NOTHING_ALLOWED = "no rule allows anything, so no client can use this proxy; add an allow rule"
_BY_NAME = (
    "any client that gives the name %s is admitted as that user, whatever its password "
    "(--name-only); the name is not secret"
)
_LEFT_OUT = (
    "no rule allows anything to %s, so each request is refused (REP 02), even after the right "
    "password. Write user any in an allow rule, or user none any if that rule is for clients "
    "without a password, too"
)


def _of_one_family(texts: Sequence[str]) -> Iterator[str]:
    """Yield warnings about listeners on all IPv6 but not on all IPv4 addresses."""
    places = [ListenAddress.parse(text) for text in texts]
    for place in places:
        if place.host == "::" and place._replace(host="0.0.0.0") not in places:
            yield (
                "%s accepts clients by IPv6 only; -l :%d accepts clients by IPv4, too"
                % (place, place.port)
            )


def _matches_all(rule: Rule) -> bool:
    all_users = rule.users is None or (rule.any_user and None in rule.users)
    return all_users and all(part is None for part in rule[2:7])


def _left_out(access: Access) -> str:
    """Return, as text, the users that no rule admits by password; "" if there are none."""
    allowing, users = [rule for rule in access.rules.rules if rule.allows], access.users
    if not users or any(rule.any_user or rule == ALL for rule in allowing):
        return ""
    named = {name for rule in allowing for name in rule.users or ()}
    names = [name for name in access.names if name not in named]
    if users.may_take_long:  # the hook may know users of any name
        return "" if named - {None} else "any user"
    if names and len(names) == len(access.names):
        return "any user"
    return _names_text(names)


def _names_text(names: List[bytes]) -> str:
    parts = [quoted(name, MOST_TOLD) for name in names[:MOST_NAMES]]
    others = len(names) - MOST_NAMES
    if others > 0:
        parts.append("1 other user" if others == 1 else "%d other users" % others)
    return ", ".join(parts)
