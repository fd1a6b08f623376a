"""The listening sockets of all BINDs."""

import socket
from typing import Any, Callable, List, Sequence, Tuple

from minisocks.compat import CAPACITY_ERRORS, close_quietly
from minisocks.config.settings import Config
from minisocks.errors import DialError, LimitReached
from minisocks.net.dialer import rep_of
from minisocks.net.egress import Egress
from minisocks.net.loop import Loop
from minisocks.net.ports import Ports
from minisocks.policy.client import Client
from minisocks.policy.networks import Sockaddr
from minisocks.policy.quota import Quota
from minisocks.wire import Rep, plain_ip, text_ip

__all__ = ["BindListener", "BindListeners", "ways_from_anywhere"]

#: Addresses on the Internet that do not change (a.root-servers.net): the route to them is the one
#: to a peer at any address.  Nothing is sent there.
_ANYWHERE: List[Sockaddr] = [
    (socket.AF_INET, ("198.41.0.4", 53)),
    (socket.AF_INET6, ("2001:503:ba3e::2:30", 53, 0, 0)),
]
#: So many at once, because other programs on this host cannot connect from such a port.
MAX_LISTENERS = 1024
#: Some systems have no route to port 0.
_SOME_PORT = 9


class BindListener:
    """The listening socket of one BIND.

    Attributes:
        ip, port: its address; *ip* is 4 or 16 bytes.
        faced: the peer's address that it was chosen for, as text.
    """

    __slots__ = ("client", "end", "faced", "ip", "port", "sock")

    def __init__(
        self,
        sock: socket.socket,
        ip: bytes,
        faced: str,
        client: Client,
        end: Callable[[LimitReached], None],
    ) -> None:
        self.sock = sock
        self.ip = ip
        self.port: int = sock.getsockname()[1]
        self.faced = faced
        self.client = client
        self.end = end


class BindListeners:
    """The listeners of one proxy, within a limit that clients share.

    Thread: loop; it may be made in any.

    Args:
        make_room: called without a descriptor; returns whether it has closed some.
    """

    def __init__(self, loop: Loop, make_room: Callable[[], bool]) -> None:
        self._loop = loop
        self._quota: Quota[BindListener] = Quota(MAX_LISTENERS)
        self._ports = Ports("--bind-ports", make_room)

    def change(self, config: Config) -> None:
        """Apply *config* from now on."""
        self._ports.change(config.bind_ports)
        count = self._ports.count
        self._quota.most = MAX_LISTENERS if count is None else min(count, MAX_LISTENERS)

    def take(
        self,
        client: Client,
        egress: Egress,
        ways: Sequence[Sockaddr],
        end: Callable[[LimitReached], None],
    ) -> BindListener:
        """Return a listener that a peer at one of *ways* can connect to, for ``give_back``.

        It is for the first of *ways* that this host has a route to.

        Args:
            end: called at most once, when another client needs its place; it calls
                ``give_back``.

        Raises:
            LimitReached: there are too many, and none makes room.
            DialError: there is no route, or no socket.
        """
        if not self._quota.make_room(
            client.groups, lambda bind_listener: bind_listener.end(self._full())
        ):
            raise self._full()
        where, faced = self._facing(egress, ways)
        sock, ip = self._ports.open(socket.SOCK_STREAM, where, egress.confine)
        bind_listener = BindListener(sock, ip, faced, client, end)
        self._quota.add(bind_listener, client.groups)
        return bind_listener

    @property
    def is_full(self) -> bool:
        """Whether another one must end before one more can be taken."""
        return self._quota.is_full

    def _full(self) -> LimitReached:
        most = self._quota.most
        option = " (--bind-ports %s)" % self._ports if most == self._ports.count else ""
        return LimitReached("there are %d BINDs that wait already%s" % (most, option))

    def give_back(self, bind_listener: BindListener) -> None:
        """Close *bind_listener*."""
        self._loop.close_later(bind_listener.sock, frees_port=True)
        self._ports.closed(bind_listener.ip, bind_listener.port)
        self._quota.remove(bind_listener, bind_listener.client.groups)

    def _facing(self, egress: Egress, ways: Sequence[Sockaddr]) -> Tuple[Any, str]:
        """Return this host's sockaddr on the first route to one of *ways*, and that address.

        Raises:
            DialError: there is no route to any, or no descriptor.
        """
        host, error = "", OSError()
        for family, sockaddr in ways:
            try:
                return self._our_end(egress, family, sockaddr), sockaddr[0]
            except OSError as exc:
                if exc.errno in CAPACITY_ERRORS:
                    why = "no socket for its peer: %s" % exc.strerror
                    raise DialError(why, Rep.GENERAL_FAILURE) from exc
                host, error = sockaddr[0], exc
        why = "no way to %s: %s" % (host, error.strerror or error)
        raise DialError(why, rep_of(error)) from error

    def _our_end(self, egress: Egress, family: int, sockaddr: Any) -> Any:
        """Return this host's sockaddr on the route to *sockaddr*; nothing is sent.

        Raises:
            OSError: there is no route.
        """
        sock = self._ports.new_socket(family, socket.SOCK_DGRAM)
        try:
            egress.prepare(sock)
            sock.connect((sockaddr[0], sockaddr[1] or _SOME_PORT) + tuple(sockaddr[2:]))
            return sock.getsockname()
        finally:
            close_quietly(sock)


def ways_from_anywhere(family: int, reached: Any) -> List[Sockaddr]:
    """Return addresses for a listener that any peer may connect to, those of *family* first.

    The last is *reached*, the sockaddr that the client has reached, for hosts without a route to
    the Internet.
    """
    ways = sorted(_ANYWHERE, key=lambda way: way[0] != family)
    if not isinstance(reached, tuple):  # a unix socket
        return [*ways, (socket.AF_INET, ("127.0.0.1", 0))]
    ip = plain_ip(reached[0])
    if len(ip) == 4:
        return [*ways, (socket.AF_INET, (text_ip(ip), 0))]
    return [*ways, (socket.AF_INET6, reached)]
