"""What the command line tells people: at the start, and when asked to check.

Text only; who prints it, and in which colours, is the caller's affair.
"""

from typing import Any, Dict, List, Tuple

from minisocks import __version__
from minisocks.layers import Layered
from minisocks.machine import Room
from minisocks.networks import LOOPBACK
from minisocks.rules import Rules
from minisocks.setting import Setting
from minisocks.settings import SETTINGS, Config
from minisocks.values import ListenAddress
from minisocks.wire import packed_ip

__all__ = ["as_data", "as_table", "at_start"]

#: A line: what it is about, and the rest.
Line = Tuple[str, str]


def at_start(addresses: List[str], config: Config, room: Room) -> List[Line]:
    """Return the lines for a proxy that listens on *addresses*."""
    lines = [("listening on", "%s (SOCKS4, SOCKS4a, SOCKS5)" % address) for address in addresses]
    lines.append(("may come in:", _who(config)))
    lines.append(("room for", "%s; %d unfinished handshakes" % (room, config.max_handshakes)))
    lines.append(("try it:", _try(addresses, config)))
    return lines


def as_table(chosen: Layered) -> List[str]:
    """Return the settings in force for people, passwords left out."""
    rows = []
    for setting in SETTINGS:
        for value in _shown(setting, chosen.config) or ["none"]:
            rows.append((setting.key, value, chosen.sources[setting.name]))
    name_width = max(len(row[0]) for row in rows)
    value_width = min(30, max(len(row[1]) for row in rows))
    lines = ["%-*s  %-*s  %s" % (name_width, n, value_width, v, s) for n, v, s in rows]
    return lines + ["", "may come in: %s" % _who(chosen.config)]


def as_data(chosen: Layered) -> Dict[str, Any]:
    """Return the settings in force for programs, passwords left out."""
    settings = {}
    for setting in SETTINGS:
        value: Any = getattr(chosen.config, setting.name)
        if setting.kind == "texts":
            value = _shown(setting, chosen.config)
        settings[setting.key] = {"value": value, "source": chosen.sources[setting.name]}
    return {"version": __version__, "settings": settings, "may_come_in": _who(chosen.config)}


def _who(config: Config) -> str:
    return Rules(bool(config.user), config.allow_lan, config.open).describe()


def _shown(setting: Setting, config: Config) -> List[str]:
    value = getattr(config, setting.name)
    values = value if setting.kind == "texts" else [value]
    unit = " s" if setting.kind == "seconds" else ""
    # In a name of a user there may be anything.
    return [setting.shown(one).replace("\n", "\\n") + unit for one in values]


def _try(addresses: List[str], config: Config) -> str:
    """Return a line for the shell that works, or what keeps every one from it."""
    places = [ListenAddress.parse(address).for_clients() for address in addresses]
    if not (config.user or config.open or config.allow_lan):
        places = [place for place in places if _is_on_this_host(place)]
        if not places:
            return "nobody can come in by this address yet: add --allow-lan, --user or --open"
    user = "NAME:PASSWORD@" if config.user else ""
    place = next((place for place in places if not place.path), places[0])
    where = "localhost" + place.path if place.path else str(place)
    return "curl --proxy socks5h://%s%s https://example.org/" % (user, where)


def _is_on_this_host(place: ListenAddress) -> bool:
    ip = packed_ip(place.host)
    return bool(place.path) or (ip is not None and ip in LOOPBACK)
