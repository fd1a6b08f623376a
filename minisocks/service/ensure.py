"""Whether a proxy is alive: the quick half of ``--ensure``, run every minute by cron.

Imports next to nothing: neither click nor the proxy, not even the ``socket`` module,
which takes as long as all else here.  When it does not know for sure, ``watchdog`` and the
rest of the program do the whole work.
"""

import _socket  # not socket: that takes as long as all else
import os

from minisocks.net.opening import demand_trusted, read_file
from minisocks.service.location import locate, scan
from minisocks.service.pidfile import Pidfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Mapping, Tuple

__all__ = ["ALIVE", "REFUSED", "SILENT", "ask", "is_healthy", "sockaddr"]

#: What a server says of itself.
ALIVE, REFUSED, SILENT = "alive", "refused", "silent"

#: A SOCKS5 greeting that offers no method: a server that lives refuses it.  Ours does not
#: write it down.
GREETING = b"\x05\x00"
#: How long a healthy server is waited for before a closer look.
QUICK_SECONDS = 2.0

_EVERY = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def is_healthy(argv: "List[str]", environ: "Mapping[str, str]") -> bool:
    """Return True if who is started with *argv* runs and answers; False: look closer."""
    try:
        given = scan(argv)
        if given is None:
            return False
        config = given.get("config") or environ.get("MINISOCKS_CONFIG")
        text, folder = (read_file(config), os.path.dirname(config)) if config else ("", "")
        path, address = locate(given, environ, text, folder)
        if Pidfile(path).is_free(is_own=True):
            return False
        os.utime(path)  # who tidies up /tmp goes by the time
        return ask(*sockaddr(address), QUICK_SECONDS) == ALIVE
    except (OSError, ValueError, ImportError):  # a ConfigError is a ValueError
        return False


def ask(family: int, sockaddr: "Any", seconds: float) -> str:
    """Return whether the server there is ``ALIVE``, ``REFUSED`` us or was ``SILENT``.

    Any answer will do, and an end, too: a hung server has none of them.
    """
    sock = _socket.socket(family, _socket.SOCK_STREAM)
    try:
        sock.settimeout(seconds)
        if family == _socket.AF_UNIX:
            demand_trusted(sockaddr)
        sock.connect(sockaddr)
        sock.send(GREETING)
        sock.recv(2)
    except (ConnectionRefusedError, FileNotFoundError):
        return REFUSED
    except ConnectionError:
        return ALIVE  # it has closed
    except OSError:  # too late, too
        return SILENT
    finally:
        sock.close()
    return ALIVE


def sockaddr(address: str) -> "Tuple[int, Any]":
    """Return the family and address to connect to, of what ``whereabouts.normal`` returns.

    Raises:
        ValueError: it has a name, or a scope, which it takes more to find.
    """
    if address.startswith("unix:"):
        return _socket.AF_UNIX, address[5:]
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    host = _EVERY.get(host, host)
    family = _socket.AF_INET6 if ":" in host else _socket.AF_INET
    if family == _socket.AF_INET and not all(part.isdigit() for part in host.split(".")):
        raise ValueError("a name")
    if "%" in host:
        raise ValueError("a scope")
    return family, (host, int(port))
