"""Where the pidfile of a process is, and where the process listens: a quick way to find out.

It reads those two settings alone, and so works when the file of settings has mistakes by now.
``layers`` is the complete way, and tests compare both.  Imports next to nothing, because
``--ensure`` uses it every minute.
"""

import os

from minisocks.service.pidfile import NoPidfiles, default_path, has_pidfiles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Mapping, Optional, Set, Tuple

__all__ = ["from_folder", "locate", "normal", "scan"]

DEFAULT_LISTEN = "127.0.0.1:1080"


#: The options that ``scan`` is about.
_WANTED = {
    **dict.fromkeys(("-c", "--config"), "config"),
    **dict.fromkeys(("-l", "--listen"), "listen"),
    "--pidfile": "pidfile",
}


def scan(argv: "List[str]") -> "Optional[Dict[str, str]]":
    """Return what *argv* says of ``config``, ``listen`` (the first one) and ``pidfile``.

    None where only click can tell.
    """
    flags, names = {"--ensure"}, dict(_WANTED)
    found: "Dict[str, str]" = {}
    words = iter(argv)
    for word in words:
        option, equals, value = word.partition("=")
        if option not in names and word not in flags:
            _add_others(flags, names)
        if option == "--syslog" or word in flags:
            continue  # --syslog has its value behind =, or none
        if option not in names or (equals and word[1] != "-"):
            return None
        value = value if equals else next(words, "")
        if not value:
            return None
        if names[option] != "listen" or "listen" not in found:
            found[names[option]] = value
    return found


def _add_others(flags: "Set[str]", names: "Dict[str, str]") -> None:
    """Add what the table of settings has: flags, and names of options with a value."""
    from minisocks.config.rows import TABLE, option_name  # costs a twentieth of a quick look

    flags.add("-qq")
    for rows in TABLE.values():
        for row in rows:
            option = option_name(row["name"])
            if row["kind"] == "flag":
                flags |= {option, "--no-" + option[2:], row["short"] or option}
            else:
                names[option] = names[row["short"] or option] = option[2:]


def locate(
    given: "Mapping[str, Optional[str]]",
    environ: "Mapping[str, str]",
    file: str = "",
    folder: str = "",
) -> "Tuple[str, str]":
    """Return the path of the pidfile, and the first address to listen on as ``normal`` does.

    Args:
        given: ``listen`` and ``pidfile`` of the command line.
        file: the text of the file of settings.
        folder: where that file is; its relative paths begin there.

    Raises:
        ValueError: the address is none, or has port 0, which does not tell processes apart;
            there is no directory for a pidfile; or as ``from_folder``.
        NoPidfiles: this system has none.
        ConfigError: the file cannot be read.
    """
    if not has_pidfiles():
        raise NoPidfiles
    texts = _from_file(file, folder) if file else {}
    for name in ("listen", "pidfile"):
        value = given.get(name) or _from_environment(environ.get("MINISOCKS_" + name.upper()))
        if value:
            texts[name] = value
    address = normal(texts.get("listen", DEFAULT_LISTEN))
    path = texts.get("pidfile")
    if not path:
        if address.endswith(":0") and not address.startswith("unix:"):
            raise ValueError(
                "port 0 is another port at each start: name the process by --pidfile FILE"
            )
        path = default_path(address)
    return os.path.abspath(path), address


def _from_file(text: str, folder: str) -> "Dict[str, str]":
    from minisocks.config.inifile import SECTION, parse, unquoted  # often there is no file

    texts: "Dict[str, str]" = {}
    for entry in parse(text, ""):
        if entry.section == SECTION and entry.values:
            texts.setdefault(entry.key.replace("_", "-"), unquoted(entry.values[0][1]))
    if texts.get("pidfile"):
        texts["pidfile"] = from_folder(folder, texts["pidfile"])
    if texts.get("listen", "").startswith("unix:"):
        texts["listen"] = "unix:" + from_folder(folder, texts["listen"][5:])
    return texts


def _from_environment(text: "Optional[str]") -> str:
    """Return the first value of a variable; "" for none."""
    if not text or text.isspace():
        return ""
    from minisocks.config.inifile import unquoted

    return unquoted(next(line for line in text.split("\n") if line.strip()))


def from_folder(folder: str, path: str, home: str = "") -> str:
    """Return where *path* is, which a file of settings in *folder* names.

    Args:
        home: where relative paths begin, also *folder*; "": the current directory.

    Raises:
        ValueError: it is only where earlier versions looked for it.
    """
    there = os.path.join(folder, path)
    is_lost = there != path and not os.path.lexists(os.path.join(home, there))
    if is_lost and os.path.lexists(os.path.join(home, path)):
        raise ValueError(
            "%s is looked for in the folder of the file of settings, as %s, and is only in the "
            "current directory, where earlier versions looked: move it, or name it with its whole "
            "path, from /" % (path, there)
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
    is_number = 0 < len(port) <= 20 and all("0" <= c <= "9" for c in port)
    if not is_number or len(port) > 5 or int(port) > 65535:
        more = "; write a port up to 65535" if is_number else ""
        raise ValueError("%r is no address to listen on%s" % (address, more))
    return "%s:%d" % (host if colon else "127.0.0.1", int(port))
