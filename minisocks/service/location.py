"""Where the pidfile is, and where its process listens, found out as cheaply as can be.

``layers`` and ``settings`` have the whole truth about settings and say it in sentences;
this has the part of it that ``--ensure`` and the commands need which speak to a running
process, also when the file of settings has mistakes in it by now.  Tests hold one against
the other.  Imports next to nothing: ``--ensure`` uses it every minute.
"""

import os

from minisocks.config.inifile import SECTION, parse, unquoted
from minisocks.service.pidfile import NoPidfiles, default_path, has_pidfiles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Mapping, Optional, Tuple

__all__ = ["FLAGS", "TAKE_VALUES", "from_folder", "locate", "normal", "scan"]

DEFAULT_LISTEN = "127.0.0.1:1080"

#: The options with a value and without, by which ``scan`` knows what is what.
TAKE_VALUES = (
    "--auth-once",
    "--bind-ports",
    "--bind-timeout",
    "--config",
    "--connect-timeout",
    "--forwarded",
    "--grace",
    "--handshake-timeout",
    "--idle-timeout",
    "--interface",
    "--keepalive",
    "--listen",
    "--log-file",
    "--log-format",
    "--mark",
    "--max-associations",
    "--max-connections",
    "--max-handshakes",
    "--max-per-client",
    "--max-per-user",
    "--memory-limit",
    "--name-only",
    "--pidfile",
    "--prefer",
    "--processor",
    "--public-address",
    "--rate",
    "--rule",
    "--source",
    "--udp-clients",
    "--udp-filtering",
    "--udp-ports",
    "--user",
    "--users-file",
)
FLAGS = ("--allow-lan", "--daemon", "--ensure", "--ident", "--open", "--quiet", "--verbose")
_FLAGS_TAKEN_BACK = ["--no-" + name[2:] for name in FLAGS if name != "--ensure"]
_SHORT = {"-c": "--config", "-l": "--listen", "-q": "--quiet", "-qq": "--quiet", "-v": "--verbose"}


def scan(argv: "List[str]") -> "Optional[Dict[str, str]]":
    """Return what *argv* says of ``config``, ``listen`` (the first one) and ``pidfile``.

    None where that needs a closer look.
    """
    found: "Dict[str, str]" = {}
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        name = _SHORT.get(word, name)
        if name in TAKE_VALUES:
            if not equals:
                value = next(words, "")
            if not value:
                return None
            if name != "--listen" or "listen" not in found:
                found[name[2:]] = value
        elif name == "--syslog":
            pass  # with a value or without
        elif equals or (name not in FLAGS and name not in _FLAGS_TAKEN_BACK):
            return None
    return found


def locate(
    given: "Mapping[str, Optional[str]]",
    environ: "Mapping[str, str]",
    file: str = "",
    folder: str = "",
) -> "Tuple[str, str]":
    """Return the path of the pidfile, and the first address to listen on, for ``normal``.

    Args:
        given: ``listen`` and ``pidfile`` of the command line.
        file: the text of the file of settings.
        folder: where that file is; its relative paths begin there.

    Raises:
        ValueError: the address is none; or it is port 0, which has no pidfile of its own; or
            there is no place for one; or as ``from_folder``.
        NoPidfiles: this system has none.
        ConfigError: the file cannot be read.
    """
    if not has_pidfiles():
        raise NoPidfiles
    texts: "Dict[str, str]" = {}
    for entry in parse(file, "") if file else ():
        if entry.section == SECTION and entry.values:
            texts.setdefault(entry.key.replace("_", "-"), unquoted(entry.values[0][1]))
    if texts.get("pidfile"):
        texts["pidfile"] = from_folder(folder, texts["pidfile"])
    if texts.get("listen", "").startswith("unix:"):
        texts["listen"] = "unix:" + from_folder(folder, texts["listen"][5:])
    for name in ("listen", "pidfile"):
        lines = environ.get("MINISOCKS_" + name.upper(), "").split("\n")
        lines = [unquoted(line) for line in lines if line.strip()]
        value = given.get(name) or (lines[0] if lines else None)
        if value:
            texts[name] = value
    address = normal(texts.get("listen", DEFAULT_LISTEN))
    path = texts.get("pidfile")
    if not path:
        if address.endswith(":0") and not address.startswith("unix:"):
            raise ValueError("with port 0 nothing tells which one is meant: name its --pidfile")
        path = default_path(address)
    return os.path.abspath(path), address


def from_folder(folder: str, path: str, home: str = "") -> str:
    """Return where *path* is, as a file of settings in *folder* names it.

    Args:
        home: where relative paths begin, *folder* among them; "": the current directory.

    Raises:
        ValueError: it is not there, and is where earlier versions looked for it.
    """
    there = os.path.join(folder, path)
    is_lost = there != path and not os.path.lexists(os.path.join(home, there))
    if is_lost and os.path.lexists(os.path.join(home, path)):
        raise ValueError(
            "%s is looked for in the folder of the file of settings, as %s, and is only in the "
            "current directory, where earlier versions looked: move it, or write its whole path"
            % (path, there)
        )
    return there


def normal(address: str) -> str:
    """Return *address* as HOST:PORT, [V6]:PORT, :PORT or unix:PATH, as ``ListenAddress`` shows it.

    Raises:
        ValueError: it is none.
    """
    if address.startswith("unix:"):
        return address
    host, colon, port = address.rpartition(":")
    # str.isdigit alone takes other scripts' digits.
    is_number = port and len(port) <= 5 and all("0" <= c <= "9" for c in port)
    if not is_number or int(port) > 65535:
        raise ValueError("%r is no address to listen on" % address)
    return "%s:%d" % (host if colon else "127.0.0.1", int(port))
