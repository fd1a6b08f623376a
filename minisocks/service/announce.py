"""What the command line tells people: at the start, and when asked to check.

Text only; who prints it, and in which colours, is the caller's affair.
"""

import re
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from minisocks import __version__
from minisocks.access import Access
from minisocks.config.layers import Layered
from minisocks.config.setting import Setting, option_name
from minisocks.config.settings import SETTINGS, Config
from minisocks.net.capacity import Room
from minisocks.net.processor import AUTO, NONE
from minisocks.policy.client import Client
from minisocks.policy.networks import LOOPBACK, Networks
from minisocks.policy.rules import Rules
from minisocks.service.summary import describe
from minisocks.values import ListenAddress
from minisocks.wire import Address, Atyp, Cmd, packed_ip, text_ip

__all__ = ["as_data", "as_table", "at_start"]

#: What a descriptor limit brings, if nobody sets it.
_BY_ROOM = "max_connections"

#: A line: what it is about, and the rest.
Line = Tuple[str, str]
#: What a login costs: seconds, and iterations.
Login = Dict[str, Any]
#: Networks in which the other hosts may be strangers, though ``--allow-lan`` lets them in.
_SHARED = [
    (Networks("100.64.0.0/10", "100.64.0.0/10"), "of a carrier's NAT, or a VPN such as Tailscale"),
    (Networks("169.254.0.0/16", "169.254.0.0/16"), "link-local"),
]
#: What the line to try asks for, and an address that stands for those of public hosts.
_EXAMPLE = Address(b"example.org", 443, Atyp.DOMAINNAME)
_PUBLIC = bytes((1, 1, 1, 1))
#: A user that no rule names, and the names that can stand in a URL as they are.
_ANY = b"\0"
_TYPABLE = re.compile(rb"[A-Za-z0-9_.-]+\Z")
#: The processor that serving threads would keep to: what is wanted, and its number.
Kept = Dict[str, Any]


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
        forwarded: those of them that a forwarder connects to.
        own: names and IPv4 addresses of this host's interfaces.
    """
    rules = access.rules
    lines = [("listening on", "%s (SOCKS4, SOCKS4a, SOCKS5)" % address) for address in addresses]
    lines += _admitted(addresses, forwarded, config, rules)
    lines.append(("room for", "%s; %d unfinished handshakes" % (room, config.max_handshakes)))
    limits = _limits(config, room)
    if limits:
        lines.append(("limits:", limits))
    seen = [address for address in addresses if address not in forwarded]
    if config.allow_lan and not all(map(_is_loopback, seen)):
        lines += [("take care:", text) for text in _shared(rules, own)]
    lines.append(("try it:", _try(addresses, forwarded, access)))
    return lines


def as_table(
    chosen: Layered, rules: Rules, login: Optional[Login] = None, kept: Optional[Kept] = None
) -> List[str]:
    """Return the settings and the rules in force for people, passwords left out.

    Args:
        login: what one costs, if it costs anything.
        kept: the processor, if that is known.
    """
    rows = []
    for setting in SETTINGS:
        values = _shown(setting, chosen.config) or ["none"]
        if kept and setting.name == "processor":
            values = [_processor(kept)]
        for value in values:
            rows.append((setting.key, value, chosen.sources[setting.name]))
    name_width = max(len(row[0]) for row in rows)
    value_width = min(30, max(len(row[1]) for row in rows))
    lines = ["%-*s  %-*s  %s" % (name_width, n, value_width, v, s) for n, v, s in rows]
    config = chosen.config
    admitted = _admitted(config.listen, _forwarded_of(config), config, rules)
    lines += ["", *(" ".join(line) for line in admitted)]
    if login:
        lines.append(
            "a login costs %(seconds).2g s here (%(iterations)d iterations), once for each "
            "password: later ones are remembered" % login
        )
    lines += ["", "rules in force; the first that matches decides, what none matches is denied:"]
    for number, rule in enumerate(rules.rules, 1):
        note = "  (built in)" if rule.is_built_in else ""
        lines.append("%3d  %s%s" % (number, rule.text, note))
    return lines


def as_data(
    chosen: Layered, rules: Rules, login: Optional[Login] = None, kept: Optional[Kept] = None
) -> Dict[str, Any]:
    """Return the same for programs."""
    settings = {}
    for setting in SETTINGS:
        value: Any = getattr(chosen.config, setting.name)
        if setting.kind == "texts":
            value = _shown(setting, chosen.config)
        settings[setting.key] = {"value": value, "source": chosen.sources[setting.name]}
    data = {
        "version": __version__,
        "settings": settings,
        "may_come_in": describe(rules, chosen.config),
        "rules": [{"rule": rule.text, "built_in": rule.is_built_in} for rule in rules.rules],
    }
    for _about, text in _behind(_forwarded_of(chosen.config), chosen.config, rules):
        data["forwarded"] = text
    if kept:
        data["processor"] = kept
    return dict(data, login=login) if login else data


def _admitted(
    addresses: Sequence[str], forwarded: Sequence[str], config: Config, rules: Rules
) -> Iterator[Line]:
    """Yield which clients may come in, by the listeners that there are."""
    if len(forwarded) < len(addresses):
        yield "may come in:", describe(rules, config)
    yield from _behind(forwarded, config, rules)


def _behind(forwarded: Sequence[str], config: Config, rules: Rules) -> Iterator[Line]:
    """Yield how clients are treated that come to one of *forwarded*."""
    if not forwarded:
        return
    text = "each client at %s counts as a stranger from a public address, and " % (
        " ".join(forwarded)
    )
    if rules.admits(Client("", is_forwarded=True)):
        text += "comes in without a password"
    elif rules.has_users:
        text += "needs a password"
    else:
        text += "none comes in: add --users-file, a rule or --open"
    by_address = ("max_per_client", "rate", "auth_once")
    without = ", ".join(option_name(name) for name in by_address if getattr(config, name))
    if without:
        text += "; what does not hold for it: " + without
    if config.ident:
        text += "; by SOCKS4 it is refused (--ident)"
    yield "forwarded:", text


def _forwarded_of(config: Config) -> List[str]:
    return [text for text in config.listen if config.is_forwarded(text)]


def _shared(rules: Rules, own: Sequence[Tuple[str, bytes]]) -> Iterator[str]:
    """Yield what ``--allow-lan`` means on interfaces behind which strangers may be.

    Also where none of the listeners has such an address: the kernel takes what is for one of
    its addresses from every interface.
    """
    for name, ip in own:
        neighbour = Client((text_ip(ip[:3] + bytes([ip[3] ^ 1])), 0))
        if rules.precheck_any(neighbour, 5, Cmd.CONNECT).allowed:
            for network, what in _SHARED:
                if ip in network:
                    yield _STRANGERS % (name, text_ip(ip), what, network.name)


_STRANGERS = (
    "%s has %s (%s), and --allow-lan lets every host of that network in, and into private "
    "networks. If they are not all yours, add --rule 'deny from %s'"
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
            limits.append("%s %s" % (setting.key, _shown(setting, config)[0]))
        elif setting.name == _BY_ROOM and room.limit is not None:
            limits.append("%s %d (what the descriptors allow)" % (setting.key, room.limit))
    return ", ".join(limits)


def _processor(kept: Kept) -> str:
    """Return what is wanted, and what it is here where that does not say it."""
    wanted, number = kept["wanted"], kept["number"]
    if wanted == AUTO:
        return "%s (%s now)" % (wanted, "none" if number is None else "processor %d" % number)
    return str(wanted) if wanted == NONE or number is not None else "%s (none here)" % wanted


def _shown(setting: Setting, config: Config) -> List[str]:
    value = getattr(config, setting.name)
    values = value if setting.kind == "texts" else [value]
    return [setting.with_unit(one) for one in values]


def _try(addresses: List[str], forwarded: Sequence[str], access: Access) -> str:
    """Return a line for the shell that works, or what keeps every client on this host from it."""
    places = [(ListenAddress.parse(text).for_clients(), text in forwarded) for text in addresses]
    places.sort(key=lambda place: bool(place[0].path))
    rules, users = access.rules, _users_to_try(access)
    pairs = [(place, user, _client_of(*place, user)) for place in places for user in users]
    let_in = [pair for pair in pairs if rules.admits(pair[2])]
    works = [pair for pair in let_in if _reaches_example(rules, pair[2])]
    for (place, _is_forwarded), user, _client in works or let_in:
        where = "localhost" + place.path if place.path else str(place)
        target = "https://example.org/" if works else "URL with a URL that the rules allow"
        return "curl --proxy socks5h://%s%s %s" % (_userinfo(user), where, target)
    if not rules.has_own or places[0][0].path:
        ways = "--user or --open" if len(forwarded) == len(addresses) else _WAYS
        return "no client can come in by this address yet: add " + ways
    line = "curl --proxy socks5h://%sHOST:%d https://example.org/ from where the rules allow"
    return line % (_userinfo(users[0]), places[0][0].port)


_WAYS = "--allow-lan, --user or --open"


def _users_to_try(access: Access) -> List[Optional[bytes]]:
    """Return users of which one can come in by password if any can, and None, for no user.

    All that no rule names are the same to the rules: one stands for them.
    """
    named = {user for rule in access.rules.rules for user in rule.users or ()}
    users: List[Optional[bytes]] = [name for name in access.names if name in named]
    if access.users.may_take_long or len(users) < len(access.names):
        users.insert(0, _ANY)
    return [*users, None]


def _userinfo(user: Optional[bytes]) -> str:
    """Return what stands before the host in a URL for *user*."""
    if user is None:
        return ""
    return "%s:PASSWORD@" % (user.decode() if _TYPABLE.match(user) else "NAME")


def _reaches_example(rules: Rules, client: Client) -> bool:
    return rules.decide(client, 5, Cmd.CONNECT, _EXAMPLE, _PUBLIC).allowed


def _client_of(place: ListenAddress, is_forwarded: bool, user: Optional[bytes]) -> Client:
    """Return a client on this host as it arrives at *place*: from that very address."""
    client = Client((place.host, 0) if packed_ip(place.host) else "", is_forwarded)
    client.user = user
    return client
