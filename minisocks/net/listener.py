"""Listeners: the sockets of ``--listen``.

Sockets that come from elsewhere (inetd, systemd, a test) are given to ``Proxy`` directly.
"""

import contextlib
import errno
import os
import socket
import stat
import time
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from minisocks.compat import close_quietly, closed_on_error, set_up_listener
from minisocks.errors import ListenError
from minisocks.net.opening import demand_room, demand_trusted, open_trusted, set_kept_mode
from minisocks.policy.networks import first_addresses
from minisocks.quoting import reason_of
from minisocks.values import EVERY_ADDRESS, ListenAddress

__all__ = ["Attempt", "Listener", "open_listeners"]

#: Connections that the kernel may hold for us; it has a limit of its own (somaxconn).
BACKLOG = 1024
#: For ``:0``: a port that is free on IPv4 may be used on IPv6.
PORT_TRIES = 20
#: Of 50 ms each, while another process starts on the same unix socket.
LOCK_TRIES = 40
#: The longest path of a unix socket (unix(7); other systems take a few bytes less).
MOST_PATH_BYTES = 107
#: The host has no such family or address; other addresses of the name may do.
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class Listener(NamedTuple):
    """A socket that listens, and the file that is removed when it is closed."""

    sock: socket.socket
    path: str = ""
    #: That of ``path`` when it was made; another program may replace it.
    status: Optional[os.stat_result] = None
    #: The process that made it: a child that was forked since must not remove it.
    pid: int = 0

    @property
    def place(self) -> ListenAddress:
        """Its address: numbers, or the path of a unix socket."""
        name = self.sock.getsockname()
        if not isinstance(name, tuple):
            return ListenAddress("", 0, "%s" % name)
        return ListenAddress(name[0], name[1])

    @property
    def address(self) -> str:
        """Its address as text for ``--listen``."""
        return str(self.place)

    def close(self) -> None:
        """Close it; remove the file of a unix socket if it still is this one's."""
        # It may be removed already, or read-only by now; the next start replaces it.
        with contextlib.suppress(OSError):
            ours = self.status if self.pid == os.getpid() else None
            if ours is not None and os.path.samestat(os.lstat(self.path), ours):
                os.unlink(self.path)
        close_quietly(self.sock)


def open_listeners(address: ListenAddress, others: Sequence[ListenAddress] = ()) -> List[Listener]:
    """Open the listeners of *address*: one socket, or one for each address of a name.

    Args:
        others: where this proxy listens already; an error names one of them if it is in the way.

    Raises:
        ListenError: one of them cannot be opened; then none stays open.
    """
    with _errors_about(address):
        if address.path:
            return [_open_unix(address, others)]
        for left in reversed(range(PORT_TRIES if address.port == 0 else 1)):
            try:
                return [Listener(sock) for sock in _open_tcp(address, _bind, others)]
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE or not left:
                    raise
    raise AssertionError("unreachable")


@contextlib.contextmanager
def _errors_about(address: ListenAddress) -> Iterator[None]:
    """Make each error in the context a ``ListenError`` about *address*."""
    try:
        yield
    except (OSError, ValueError) as exc:
        code = getattr(exc, "errno", None) or errno.EINVAL
        text = "cannot listen on %s: %s" % (address, reason_of(exc))
        raise ListenError(code, text) from exc


class Attempt:
    """A check whether a proxy could listen: no client is accepted, and no file is made.

    A class because its addresses stay bound until ``close``: two of them may be the same one.

    Args:
        held: addresses of the process that would be replaced.
    """

    def __init__(self, held: Sequence[ListenAddress] = ()) -> None:
        self._held = held
        self._bound: List[socket.socket] = []
        #: Where a proxy with all addresses so far would listen.
        self._places: List[ListenAddress] = []

    def listen(self, address: ListenAddress) -> None:
        """Check that ``open_listeners`` could listen on *address*.

        Raises:
            ListenError: as ``open_listeners``.
        """
        with _errors_about(address):
            if not address.path:
                self._bound += _open_tcp(address, self._bind, self._places)
                return
            _demand_other(address, self._places)
            if not _found_in_way(address, self._held):
                _try_unix(address.path)
            self._places.append(address)

    def close(self) -> None:
        """Free the addresses."""
        for sock in self._bound:
            sock.close()

    def _bind(self, family: int, sockaddr: Any) -> socket.socket:
        place = ListenAddress(sockaddr[0], sockaddr[1])
        # The kernel gives no error: two sockets that do not listen may have one address, so that a
        # process that starts meanwhile, or another check, is not in the way.
        if place.port and _found_in_way(place, self._places):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        sock = socket.socket(family, socket.SOCK_STREAM)
        with closed_on_error(sock):
            set_up_listener(sock)
            try:
                sock.bind(sockaddr)
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE or not _found_in_way(place, self._held):
                    raise
        self._places.append(place)
        return sock


def _demand_other(place: ListenAddress, others: Sequence[ListenAddress]) -> None:
    """Check that none of *others* is in the way of *place*.

    Raises:
        OSError: one is.
    """
    for other in _found_in_way(place, others):
        text = "this minisocks listens on %s already; name only one of the two" % (other,)
        raise OSError(errno.EADDRINUSE, text)


def _found_in_way(place: ListenAddress, others: Sequence[ListenAddress]) -> List[ListenAddress]:
    """Return the *others* that are *place*, include it or are included in it."""
    return [other for other in others if _is_in_way(place, other)]


def _is_in_way(one: ListenAddress, other: ListenAddress) -> bool:
    if one.path and other.path:
        return os.path.realpath(one.path) == os.path.realpath(other.path)
    kinds = [(bool(place.path), place.port, ":" in place.host) for place in (one, other)]
    if kinds[0] != kinds[1]:
        return False
    return one.host == other.host or not {one.host, other.host}.isdisjoint(EVERY_ADDRESS)


def _try_unix(path: str) -> None:
    """Check that a proxy could listen on a unix socket at *path*.

    Raises:
        OSError, ValueError: it could not.
    """
    with _unix_socket():
        demand_trusted(path, follows=False)
        if not _demand_no_server(path):
            demand_room(path)
        if len(os.fsencode(path)) > MOST_PATH_BYTES:
            raise ValueError("AF_UNIX path too long")


def _open_tcp(
    address: ListenAddress,
    bind: Callable[[int, Any], socket.socket],
    others: Sequence[ListenAddress],
) -> List[socket.socket]:
    opened: List[socket.socket] = []
    port, missing = address.port, None
    try:
        for family, sockaddr in _sockaddrs(address):
            try:
                listener = bind(family, (sockaddr[0], port) + sockaddr[2:])
            except OSError as exc:
                if exc.errno == errno.EADDRINUSE and port:
                    _demand_other(ListenAddress(sockaddr[0], port), others)
                if exc.errno not in _NOT_HERE:
                    raise
                missing = exc  # a host without IPv6 still has "every address"
                continue
            opened.append(listener)
            port = port or listener.getsockname()[1]  # port 0: the same one for all
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
        # Bytes, because a Python without the idna codec cannot take text.
        rows = socket.getaddrinfo(
            os.fsencode(address.host), address.port, 0, socket.SOCK_STREAM, 0, socket.AI_PASSIVE
        )
    except (OSError, UnicodeError, LookupError, ValueError) as exc:
        raise OSError(errno.EADDRNOTAVAIL, reason_of(exc)) from exc
    return first_addresses(rows)


def _bind(family: int, sockaddr: Any) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    with closed_on_error(listener):
        set_up_listener(listener)
        listener.bind(sockaddr)
        listener.listen(BACKLOG)
    return listener


def _open_unix(address: ListenAddress, others: Sequence[ListenAddress]) -> Listener:
    listener, path = _unix_socket(), address.path
    with closed_on_error(listener), _locked_directory(path):
        demand_trusted(path, follows=False)
        _demand_other(address, others)
        if _demand_no_server(path):
            os.unlink(path)
        listener.bind(path)
        # Before listen: until then no client can connect, whatever the umask is.
        set_kept_mode(path, 0o600)
        listener.listen(BACKLOG)
        return Listener(listener, path, os.lstat(path), os.getpid())


def _unix_socket() -> socket.socket:
    if not hasattr(socket, "AF_UNIX"):
        text = "this system has no unix sockets; write HOST:PORT"
        raise OSError(errno.EAFNOSUPPORT, text)
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)


@contextlib.contextmanager
def _locked_directory(path: str) -> Iterator[None]:
    """Lock the directory of *path* for the replacement of a stale socket, if possible.

    Of two processes that start at once, the second must not remove the socket of the first.
    Without the lock there is a race.  The wait for it is short, because in /tmp every user may hold
    it; and some file systems have no locks.
    """
    import fcntl

    fd = -1
    try:
        with contextlib.suppress(OSError):
            directory = os.path.dirname(path) or "."
            fd = open_trusted(directory, os.O_RDONLY | os.O_CLOEXEC, others=True)
            for _ in range(LOCK_TRIES):
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(0.05)
        yield
    finally:
        if fd >= 0:
            os.close(fd)


def _demand_no_server(path: str) -> bool:
    """Return whether there is a socket without a server at *path*.

    Raises:
        OSError: one answers, or it is no socket.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "a file that is no socket is there")
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            pass  # busy, or not permitted: there may be a server
    raise OSError(errno.EADDRINUSE, "another server answers there")
