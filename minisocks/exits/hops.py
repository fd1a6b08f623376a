"""The hops of an exit as one client uses them: their addresses, its login, and the handshakes."""

import functools
import socket
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from minisocks.access import keyed
from minisocks.errors import CannotCarry, ExitFailed
from minisocks.exits.dial import ExitDial
from minisocks.net.dialer import Dial
from minisocks.net.egress import Egress
from minisocks.net.lookup import numeric_addresses
from minisocks.policy.client import Client
from minisocks.policy.exits import ADDRESS_SCHEMES, Exit, Hop
from minisocks.policy.networks import Sockaddr
from minisocks.protocol.clientside import ClientSide
from minisocks.values import encode
from minisocks.wire import Address, Cmd, Rep, packed_ip, scope_of

__all__ = [
    "Known",
    "Login",
    "MakeDial",
    "User",
    "as_address",
    "dial_exit",
    "dial_first",
    "egress_of",
    "handshakes",
    "missing_hop",
    "not_resolved",
]

#: The addresses of hops, by name or address, and port.
Known = Dict[Address, List[Sockaddr]]

#: Makes the dial to some addresses by an egress.
MakeDial = Callable[[List[Sockaddr], Egress], Dial]

#: User and password for a hop, and whether it must ask for them.
Login = Tuple[bytes, bytes, bool]


class User(NamedTuple):
    """The client of a proxy, as hops learn of it: each with ``isolate`` has its own login.

    ``number`` is that of the connection.
    """

    client: Client
    number: int

    def login(self, hop: Hop) -> Login:
        """Return user and password for *hop*, and whether it must ask for them."""
        if not hop.isolates:
            return hop.user, hop.password, False
        client = self.client
        # Clients behind a forwarder have no address: each connection is kept apart.
        which: Any = client.key or (self.number if client.is_forwarded else "unix")
        if client.user is not None:
            which = (client.user,)  # another type: a user may be called as an address is stored
        token = keyed(b"isolate", encode(repr(which))).hex()[:32].encode("ascii")
        return b"minisocks-" + token, token, True


def missing_hop(exit: Exit, known: Known) -> Optional[Address]:
    """Return the name of a hop that has to be looked up before *exit* is dialed; None: none.

    Addresses that need no look-up are added to *known*.
    """
    resolves = True
    for hop in exit.hops:
        name = _name_of(hop)
        if resolves and not hop.path and not known.get(name):
            known[name] = list(_numeric(name.host, hop.port))
            if not known[name]:
                return name
        resolves = hop.scheme in ADDRESS_SCHEMES
    return None


def not_resolved(error: object) -> ExitFailed:
    """Return the error of an exit if the answer about its ``missing_hop`` is *error*."""
    return ExitFailed("the name of a hop is not resolved: %s" % error)


@functools.lru_cache(maxsize=64)
def _numeric_once(host: bytes, port: int) -> Tuple[Sockaddr, ...]:
    return tuple(numeric_addresses(host, port))


def _numeric(host: bytes, port: int) -> Sequence[Sockaddr]:
    """Return the address of a hop if *host* is one, else nothing.

    Asked once, because each time is 3 % of what a connection costs.  The number of a link may
    change.
    """
    return numeric_addresses(host, port) if b"%" in host else _numeric_once(host, port)


def egress_of(exit: Exit, egress: Egress, ours: Any) -> Egress:
    """Return the egress of the first connection of *exit*, by default *egress*.

    Args:
        ours: the sockaddr that the client has connected to.

    Raises:
        CannotCarry: it is none of an IP address, and the exit wants it as source.
    """
    egress = egress.for_exit(exit)
    if not exit.has_client_source:
        return egress
    if not isinstance(ours, tuple):
        why = "a client by a unix socket has connected to no address"
        raise CannotCarry(why, Rep.NETWORK_UNREACHABLE)
    return egress.with_source(ours)


def dial_exit(
    exit: Exit,
    known: Known,
    user: User,
    cmd: int,
    dst: Address,
    make: MakeDial,
    egress: Egress,
    targets: List[Sockaddr],
) -> ExitDial:
    """Return the dial by *exit*, whose last hop is asked for *cmd* to *dst*.

    Args:
        known: the addresses of the hops; ``missing_hop`` has returned None.
        targets: the addresses of *dst* that the rules are asked about again.

    Raises:
        CannotCarry, ExitFailed: it cannot be tried for this request.
    """
    places = _places(exit, known)
    sides = handshakes(exit, known, user.login, cmd, dst)
    dial = dial_first(exit, known, make, egress)
    return ExitDial(dial, sides, targets, places[-1] if places else None)


def handshakes(
    exit: Exit, known: Known, login: Callable[[Hop], Login], cmd: int, dst: Optional[Address]
) -> List[Tuple[Hop, ClientSide]]:
    """Return each hop of *exit*, and the client side of its handshake.

    The last one asks for *cmd* to *dst*, or only logs in if that is None.

    Raises:
        CannotCarry: a hop cannot be asked for the next one, or for *dst*.
    """
    places = _places(exit, known)
    cmds = [Cmd.CONNECT] * len(places) + [cmd]
    return [
        (hop, ClientSide(hop.scheme, one, place, *login(hop)))
        for hop, one, place in zip(exit.hops, cmds, [*places, dst])
    ]


def dial_first(exit: Exit, known: Known, make: MakeDial, egress: Egress) -> Dial:
    """Return the dial to the first hop of *exit*.

    Raises:
        ExitFailed: this system has no unix sockets.
    """
    first = exit.hops[0]
    if not first.path:
        return make(known[_name_of(first)], egress)
    family = getattr(socket, "AF_UNIX", None)
    if family is None:
        raise ExitFailed("this system has no unix sockets")
    return make([(family, first.path)], Egress())


def _places(exit: Exit, known: Known) -> List[Address]:
    """Return the hops of *exit* from the second one on, each as the one before gets it."""
    return [_place_of(hop, before, known) for before, hop in zip(exit.hops, exit.hops[1:])]


def _place_of(hop: Hop, before: Hop, known: Known) -> Address:
    """Return *hop* as the one *before* gets it."""
    if before.scheme in ADDRESS_SCHEMES:
        return as_address(known[_name_of(hop)][0], hop.port)
    ip = packed_ip(hop.host)
    return Address.of_ip(ip, hop.port) if ip else _name_of(hop)


def _name_of(hop: Hop) -> Address:
    return Address.of_name(encode(hop.host), hop.port)


def as_address(place: Sockaddr, port: int) -> Address:
    """Return the sockaddr *place* as a hop gets it.

    Raises:
        CannotCarry: it is on a link of this host.
    """
    _family, sockaddr = place
    if scope_of(sockaddr):
        why = "%s is on a link of this host, and no other proxy can reach it" % sockaddr[0]
        raise CannotCarry(why, Rep.NETWORK_UNREACHABLE)
    return Address.of_ip(packed_ip(sockaddr[0]) or b"", port)
