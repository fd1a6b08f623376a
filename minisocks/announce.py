"""What the command line tells people: at the start, and when asked to check.

Text only; who prints it, and in which colours, is the caller's affair.
"""

from typing import Any, Dict, List, Tuple

from minisocks import __version__
from minisocks.layers import Layered
from minisocks.machine import Room
from minisocks.networks import LOOPBACK
from minisocks.rules import Rules
from minisocks.settings import SETTINGS, Config, Setting
from minisocks.wire import packed_ip

__all__ = ["as_data", "as_table", "at_start"]

#: Every address, and the one of them that is always there.
_EVERY = {"0.0.0.0:": "127.0.0.1:", "[::]:": "[::1]:"}

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
    if not (config.user or config.open or config.allow_lan):
        addresses = [address for address in addresses if _is_on_loopback(address)]
        if not addresses:
            return "nobody can come in by this address yet: add --allow-lan, --user or --open"
    user = "NAME:PASSWORD@" if config.user else ""
    for address in addresses:
        if not address.startswith("unix:"):
            for every, one in _EVERY.items():
                if address.startswith(every):
                    address = one + address[len(every) :]
            return "curl --proxy socks5h://%s%s https://example.org/" % (user, address)
    return "curl --proxy socks5h://%slocalhost%s https://example.org/" % (user, addresses[0][5:])


def _is_on_loopback(address: str) -> bool:
    if address.startswith(("unix:", *_EVERY)):
        return True
    ip = packed_ip(address.rpartition(":")[0].strip("[]"))
    return ip is not None and ip in LOOPBACK
