"""Open the sockets to listen on, from what ``--listen`` says.

Sockets that come from elsewhere (inetd, systemd, a test) need none of this and
enter ``Proxy`` beside those made here.
"""

import errno
import os
import socket
import stat
import time
from typing import Any, List, NamedTuple, Tuple

from minisocks.addresses import first_addresses
from minisocks.compat import close_quietly, set_up_listener
from minisocks.errors import ListenError
from minisocks.opening import demand_trusted, open_trusted, set_kept_mode
from minisocks.values import ListenAddress

__all__ = ["Listener", "open_listeners"]

#: Clients that the kernel may hold for us; it has a bound of its own (somaxconn).
BACKLOG = 1024
#: For ``:0``: a port that is free on IPv4 may be taken on IPv6.
PORT_TRIES = 20
#: Of 50 ms each, for another that starts on the same unix socket.
LOCK_TRIES = 40
#: The host lacks this family or this address of a name; others may do.
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class Listener(NamedTuple):
    """A socket that listens, and the file that is to go when it is closed."""

    sock: socket.socket
    path: str = ""
    #: Device and inode of ``path`` when we made it; somebody may replace it.
    identity: Tuple[int, int] = (0, 0)
    #: The process that made it: a child that was forked since must leave it alone.
    pid: int = 0

    @property
    def address(self) -> str:
        """The real address, as ``--listen`` would spell it."""
        name = self.sock.getsockname()
        if not isinstance(name, tuple):
            return "unix:%s" % name
        return str(ListenAddress(name[0], name[1]))

    def close(self) -> None:
        """Close it; a unix socket's file goes too, if it still is this one's."""
        try:
            is_ours = self.path and self.pid == os.getpid()
            if is_ours and _identity(self.path) == self.identity:
                os.unlink(self.path)
        except OSError:
            pass  # gone already, or read-only by now; the next start replaces it
        close_quietly(self.sock)


def open_listeners(address: ListenAddress) -> List[Listener]:
    """Open what *address* asks for: one socket, or one for each address.

    Raises:
        ListenError: one of them cannot be had; then none stays open.
    """
    if address.path:
        return [_open_unix(address.path)]
    tries = PORT_TRIES if address.port == 0 else 1
    for left in reversed(range(tries)):
        try:
            return [Listener(sock) for sock in _open_tcp(address)]
        except ListenError:
            raise
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE or not left:
                raise ListenError(
                    exc.errno, "cannot listen on %s: %s" % (address, exc.strerror or exc)
                ) from exc
    raise AssertionError("unreachable")


def _open_tcp(address: ListenAddress) -> List[socket.socket]:
    opened: List[socket.socket] = []
    port, missing = address.port, None
    try:
        for family, sockaddr in _sockaddrs(address):
            try:
                listener = _bind(family, (sockaddr[0], port) + sockaddr[2:])
            except OSError as exc:
                if exc.errno not in _NOT_HERE:
                    raise
                missing = exc  # a host without IPv6 still has "every address"
                continue
            opened.append(listener)
            port = listener.getsockname()[1]  # port 0: the same one for all
        if missing is not None and not opened:
            raise missing
    except BaseException:
        for listener in opened:
            listener.close()
        raise
    return opened


def _sockaddrs(address: ListenAddress) -> List[Tuple[int, Any]]:
    if not address.host:
        return [(socket.AF_INET, ("0.0.0.0", 0)), (socket.AF_INET6, ("::", 0, 0, 0))]
    try:
        # Bytes, because Pythons without the idna codec cannot take text.
        rows = socket.getaddrinfo(
            os.fsencode(address.host), address.port, 0, socket.SOCK_STREAM, 0, socket.AI_PASSIVE
        )
    except (OSError, UnicodeError, LookupError, ValueError) as exc:
        raise ListenError(
            errno.EADDRNOTAVAIL,
            "cannot listen on %s: %s" % (address, getattr(exc, "strerror", exc)),
        ) from exc
    return first_addresses(rows)


def _bind(family: int, sockaddr: Any) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        set_up_listener(listener)
        listener.bind(sockaddr)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _open_unix(path: str) -> Listener:
    if not hasattr(socket, "AF_UNIX"):
        raise ListenError(errno.EAFNOSUPPORT, "this system has no unix sockets: %s" % path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _DirectoryLock(path):
            demand_trusted(path, follows=False)
            _remove_stale(path)
            listener.bind(path)
            # Before listen: until then nobody can connect, whatever the umask.
            set_kept_mode(path, 0o600)
            listener.listen(BACKLOG)
            return Listener(listener, path, _identity(path), os.getpid())
    except (OSError, ValueError) as exc:
        listener.close()
        if isinstance(exc, ListenError):
            raise
        code = getattr(exc, "errno", None) or errno.EINVAL
        raise ListenError(
            code, "cannot listen on unix:%s: %s" % (path, getattr(exc, "strerror", None) or exc)
        ) from exc


def _identity(path: str) -> Tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


class _DirectoryLock:
    """Held while a stale socket is replaced: of two that start at once, the
    second must not remove what the first has just made."""

    def __init__(self, path: str) -> None:
        self._directory = os.path.dirname(path) or "."
        self._fd = -1

    def __enter__(self) -> None:
        import fcntl

        # Never for long: in /tmp anybody may hold this lock, and some file
        # systems have none. Without it, it is a race as ever.
        try:
            self._fd = open_trusted(self._directory, os.O_RDONLY | os.O_CLOEXEC, others=True)
        except OSError:
            return
        for _ in range(LOCK_TRIES):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(0.05)
            except OSError:
                return

    def __exit__(self, *exc: Any) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody answers at; leave anything else alone.

    Raises:
        ListenError: somebody answers, or it is no socket.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ListenError(
                errno.EEXIST, "cannot listen on unix:%s: a file that is no socket is there" % path
            )
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError:
            pass  # busy, or not ours to ask: somebody may be there
    raise ListenError(
        errno.EADDRINUSE, "cannot listen on unix:%s: another server answers there" % path
    )
