"""``--ensure``: start a proxy unless one runs and answers.  Cron does this every minute.

``is_healthy`` is the quick look, and nearly always the end.  It imports next to nothing: neither
click nor the proxy, not even the ``socket`` module.  If it is not sure, the program starts as
usual, and ``take_over`` waits for the lock, or ends a process that does not answer.
"""

import _socket  # not socket, which takes as long to import as all else here
import os
import time

from minisocks.net.opening import demand_trusted, read_file
from minisocks.service.location import locate, normal, scan
from minisocks.service.pidfile import Pidfile, control_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Mapping, Optional, Tuple

__all__ = ["ALIVE", "REFUSED", "SILENT", "ask", "is_healthy", "sockaddr", "take_over"]

#: What ``ask`` finds.
ALIVE, REFUSED, SILENT = "alive", "refused", "silent"

#: A SOCKS5 greeting that offers no method.  Each server refuses it, and ours does not log it.
GREETING = b"\x05\x00"
#: For the answer to the quick look.
QUICK_SECONDS = 2.0
#: For the answer to a probe of the closer look.
PROBE_SECONDS = 10.0
#: A process is hung after so many probes in a row without an answer.
PROBES = 3
#: For its answer on the control channel.
STATUS_SECONDS = 2.0
#: Between two attempts to take the lock.
PAUSE_SECONDS = 0.1
#: For a hung process to end after TERM, and again after KILL.
END_SECONDS = 5.0

_EVERY = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def is_healthy(argv: "List[str]", environ: "Mapping[str, str]") -> bool:
    """Return True if the process that *argv* would start runs and answers; False if unsure."""
    try:
        given = scan(argv)
        if given is None:
            return False
        config = given.get("config") or environ.get("MINISOCKS_CONFIG")
        text, folder = (read_file(config), os.path.dirname(config)) if config else ("", "")
        path, address = locate(given, environ, text, folder)
        if Pidfile(path).is_free(is_own=True):
            return False
        os.utime(path)  # programs that clean /tmp remove files that are old
        return ask(*sockaddr(address), QUICK_SECONDS) == ALIVE
    except (OSError, ValueError, ImportError):  # a ConfigError is a ValueError
        return False


def ask(family: int, sockaddr: "Any", seconds: float) -> str:
    """Return whether the server there is ``ALIVE``, ``REFUSED`` the connection or was ``SILENT``.

    Any answer means that it is alive, and so does the end of the connection.
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
    except OSError:  # a timeout, too
        return SILENT
    finally:
        sock.close()
    return ALIVE


def sockaddr(address: str) -> "Tuple[int, Any]":
    """Return the family and address to connect to, of what ``location.normal`` returns.

    Raises:
        ValueError: it has a name or a scope, which ``_resolved`` looks up.
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


def take_over(pidfile: Pidfile, address: str) -> "Tuple[bool, str]":
    """Return True once this process has *pidfile*, False if a process that lives has it.

    The second value is a line for the log, or "".  A process that answers none of ``PROBES``
    is ended.

    Args:
        address: where the process that has it listens, as ``location.normal`` returns it.

    Raises:
        ServiceError: that process does not answer and cannot be ended.
        OSError: there can be no such file; the name in *address* is unknown.
    """
    where = _resolved(address)
    suspect, failed, began = None, 0, time.monotonic()
    while True:
        pid = pidfile.holder()
        found = _probe(pidfile, *where)
        if found is not None:
            # If several wait for it to end, one of them gets the lock, perhaps another one.
            note = "a process that did not answer has ended: %s" % suspect if suspect else ""
            return found, note if found else ""
        # If another process has it meanwhile, the count starts again.
        if pid != suspect:
            suspect, failed, began = pid, 0, time.monotonic() - PROBE_SECONDS
        failed += 1
        if failed >= PROBES and pid == pidfile.holder():
            took = time.monotonic() - began
            if _end(pidfile, pid):
                note = "process %d was ended: it had not answered %d times in %d s"
                return True, note % (pid or 0, PROBES, took)


def _resolved(address: str) -> "Tuple[int, Any]":
    try:
        return sockaddr(address)
    except ValueError:
        import socket

        host, _, port = address.rpartition(":")
        # Bytes, because Pythons without the idna codec cannot take text.
        name = os.fsencode(host.strip("[]"))
        return socket.getaddrinfo(name, int(port), 0, socket.SOCK_STREAM)[0][::4]


def _probe(pidfile: Pidfile, family: int, where: "Any") -> "Optional[bool]":
    """Return True once *pidfile* is ours, False if its process lives, None if it is silent."""
    until = time.monotonic() + PROBE_SECONDS
    asked_at = 0.0
    while True:
        if pidfile.acquire():
            return True
        left = until - time.monotonic()
        if left <= 0:
            return None
        answer = ask(family, where, left)
        if answer == ALIVE:
            return False
        if time.monotonic() >= asked_at + STATUS_SECONDS:
            asked_at = time.monotonic()
            if _lives(pidfile, (family, where), answer):
                return False
        time.sleep(min(PAUSE_SECONDS, max(0.0, until - time.monotonic())))


def _lives(pidfile: Pidfile, where: "Tuple[int, Any]", answer: str) -> bool:
    """Return whether its process, which gave this *answer* at *where*, says that it lives.

    It may listen at another address, because settings have changed since; or at none any more,
    because it is being stopped; or have no descriptor for a client just now.
    """
    from minisocks.service.remote import request

    try:
        told = request(control_path(pidfile.path), {"do": "status"}, STATUS_SECONDS)
        if told["state"] != "serving" or answer != REFUSED:
            return True
        elsewhere = _resolved(normal(told["addresses"][0]))
        return elsewhere != where and ask(*elsewhere, STATUS_SECONDS) == ALIVE
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _end(pidfile: Pidfile, pid: "Optional[int]") -> bool:
    """End the process *pid* and take *pidfile*; return False if another one has it meanwhile.

    Raises:
        ServiceError: it does not end, or it is not known which process that is.
    """
    import signal

    from minisocks.errors import ServiceError

    if pid is None or not _has_open(pid, pidfile.path):
        raise ServiceError(
            "the process that has %s does not answer, and cannot be found" % pidfile.path
        )
    for number in (signal.SIGTERM, signal.SIGKILL):
        # Each time anew, because the number may be another process's by now.
        if pidfile.holder() != pid or not _has_open(pid, pidfile.path):
            return False
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        except OSError as exc:
            what = "process %d does not answer: kill: %s" % (pid, exc.strerror)
            raise ServiceError(what) from exc
        until = time.monotonic() + END_SECONDS
        while time.monotonic() < until:
            if pidfile.acquire():
                return True
            time.sleep(PAUSE_SECONDS)
    if pidfile.holder() != pid:
        return False
    raise ServiceError("process %d does not answer, and cannot be ended" % pid)


def _has_open(pid: int, path: str) -> bool:
    """Return whether process *pid* has *path* open; the number may come from another host.

    Where there is no /proc, the number in the file is believed.
    """
    if not os.path.isdir("/proc/self/fd"):
        return True
    folder = "/proc/%d/fd" % pid
    wanted = os.stat(path)
    try:
        for name in os.listdir(folder):
            try:
                if os.path.samestat(os.stat(os.path.join(folder, name)), wanted):
                    return True
            except OSError:
                continue
    except OSError:
        pass  # there is no such process, or it is another user's
    return False
