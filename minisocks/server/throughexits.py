"""The exits of one request, tried one after another: what is looked up, and dialed, for each."""

import socket
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

from minisocks.access import keyed
from minisocks.errors import CannotCarry, DialError, ExitFailed
from minisocks.exits.dial import ExitDial
from minisocks.net.dialer import Dial
from minisocks.net.egress import Egress
from minisocks.net.lookup import numeric_addresses
from minisocks.policy.exits import ADDRESS_SCHEMES, DIRECT, Exit, Hop
from minisocks.policy.networks import Sockaddr
from minisocks.protocol.clientside import ClientSide
from minisocks.protocol.handshake import Request
from minisocks.server.session import Session
from minisocks.values import encode
from minisocks.wire import Address, Cmd, Rep, packed_ip, scope_of

__all__ = ["AnyDial", "ThroughExits"]

AnyDial = Union[Dial, ExitDial]

#: Makes the dial to some addresses by an egress.
MakeDial = Callable[[List[Sockaddr], Egress], Dial]


class ThroughExits:
    """The exits of one request.  Loop thread.

    The next exit is tried if the one before has not answered the request.  An answer is what the
    last hop says about the target; for an exit without hops, that the target refuses.

    Args:
        addresses: of the target, which the rules allow by these exits; empty: it is a name, and
            each exit says whether it is looked up here.

    Attributes:
        exit: the one that is tried now.

    Raises:
        ExitFailed: an exit is not there any more.
    """

    __slots__ = (
        "_addresses",
        "_claim",
        "_errors",
        "_known",
        "_left",
        "_request",
        "_session",
        "_targets",
        "exit",
    )

    def __init__(
        self, session: Session, request: Request, addresses: Sequence[Sockaddr] = ()
    ) -> None:
        self._session = session
        self._request = request
        self._addresses = list(addresses)
        #: Those of ``_addresses`` that the present exit has not tried.
        self._targets = list(addresses)
        #: The addresses of hops.
        self._known: Dict[Address, List[Sockaddr]] = {}
        self._errors: List[str] = []
        known = session.services.access.exits
        if any(name not in known for name in session.exits if name != DIRECT):
            # A reload has removed it just now.  Directly would not be what was asked for.
            raise ExitFailed("a reload has removed an exit of this request")
        found = [Exit(DIRECT) if name == DIRECT else known[name] for name in session.exits]
        self._left = session.services.exits.usable(found)
        self.exit = self._left.pop(0)
        self._claim = session.services.exits.claim(self.exit)

    @property
    def more(self) -> int:
        """How many exits there are to try after this one."""
        return len(self._left)

    def release(self) -> None:
        """Let other connections try the present exit again if it had failed before."""
        self._session.services.exits.release(self.exit, self._claim)

    def missing(self) -> Optional[Address]:
        """Return the name that has to be looked up before the exit can be dialed; None: none."""
        # Where only its addresses decide, nothing else can be asked for.
        looks_up = self.exit.resolves_here or not self._session.is_decided
        if looks_up and not self._addresses:
            return self._request.dst
        resolves = True
        for hop in self.exit.hops:
            name = _name_of(hop)
            if resolves and not hop.path and not self._known.get(name):
                self._known[name] = numeric_addresses(name.host, hop.port)
                if not self._known[name]:
                    return name
            resolves = hop.scheme in ADDRESS_SCHEMES
        return None

    def found(self, name: Address, addresses: List[Sockaddr]) -> None:
        """Take the *addresses* of what was ``missing``; of the target, those that are allowed."""
        if name is self._request.dst:
            self._addresses = self._targets = addresses
        else:
            self._known[name] = addresses

    def new_dial(self, make: MakeDial) -> AnyDial:
        """Return the dial by the present exit.

        Raises:
            CannotCarry, ExitFailed: it cannot be tried for this request.
        """
        exit, egress = self.exit, self._egress()
        if not exit.hops:
            targets, self._targets = self._targets, []
            return make(targets, egress)
        targets = self._targets[:1]
        self._targets = self._targets[1:]
        places = [self._place(hop, before) for before, hop in zip(exit.hops, exit.hops[1:])]
        places.append(_as_address(targets[0], self._request) if targets else self._request.dst)
        cmds = [Cmd.CONNECT] * len(exit.hops[1:]) + [self._request.cmd]
        sides = [
            (hop, ClientSide(hop.scheme, cmd, dst, *self._login(hop)))
            for hop, cmd, dst in zip(exit.hops, cmds, places)
        ]
        first = exit.hops[0]
        if first.path:
            family = getattr(socket, "AF_UNIX", None)
            if family is None:
                raise ExitFailed("this system has no unix sockets")
            dial = make(self._others([(family, first.path)], first), Egress())
        else:
            dial = make(self._others(self._known[_name_of(first)], first), egress)
        return ExitDial(dial, sides, targets)

    def next(self, error: DialError, counts: bool = True) -> None:
        """Choose what to try next, because the present attempt ended in *error*.

        Args:
            counts: whether it tells against the exit.

        Raises:
            DialError: nothing is left to try; its REP is that of the last error.
        """
        exits, name = self._session.services.exits, self.exit.name
        if isinstance(error, ExitFailed) and counts and self.exit.hops:
            exits.failed(name, error)
        elif self.exit.hops and self._is_answer(error):
            exits.worked(name)
        self._errors.append("exit %s: %s" % (name, error))
        if self._targets and not isinstance(error, ExitFailed):
            return  # the next address of the target
        if not self._left or self._is_answer(error):
            raise DialError("; ".join(self._errors), error.rep, error.attempts)
        self.exit = self._left.pop(0)
        self._claim = exits.claim(self.exit)
        self._targets = list(self._addresses)

    def _others(self, places: List[Sockaddr], hop: Hop) -> List[Sockaddr]:
        """Return those of *places*, all of *hop*, that are no listeners of this proxy.

        Each connection would lead to another one, until there is no descriptor left.

        Raises:
            ExitFailed: all of them are.
        """
        services = self._session.services
        access = services.access
        others = []
        for family, sockaddr in places:
            if hop.path:
                is_ours = any(one == "unix:" + hop.path for one in access.config.listen)
            else:
                ip, scope = packed_ip(sockaddr[0]) or b"", scope_of(sockaddr)
                is_ours = services.listeners.have(ip, hop.port, access.own, scope)
            if not is_ours:
                others.append((family, sockaddr))
        if not others:
            raise ExitFailed("%s is this proxy itself" % (str(hop),))
        return others

    def _is_answer(self, error: DialError) -> bool:
        if not self.exit.hops:
            return error.rep == Rep.CONNECTION_REFUSED
        return not isinstance(error, (CannotCarry, ExitFailed))

    def _egress(self) -> Egress:
        egress = self._session.services.access.egress.for_exit(self.exit)
        if not self.exit.has_client_source:
            return egress
        sock = self._session.sock
        if sock.family == getattr(socket, "AF_UNIX", None):
            why = "a client by a unix socket has connected to no address"
            raise CannotCarry(why, Rep.NETWORK_UNREACHABLE)
        return egress.with_source(sock.getsockname())

    def _place(self, hop: Hop, before: Hop) -> Address:
        """Return *hop* as the one *before* gets it."""
        if before.scheme in ADDRESS_SCHEMES:
            return _as_address(self._known[_name_of(hop)][0], self._request, hop.port)
        ip = packed_ip(hop.host)
        return Address.of_ip(ip, hop.port) if ip else _name_of(hop)

    def _login(self, hop: Hop) -> Tuple[bytes, bytes, bool]:
        """Return user and password for *hop*, and whether it must ask for them."""
        if not hop.isolates:
            return hop.user, hop.password, False
        session = self._session
        client, record = session.client, session.record
        # Clients behind a forwarder have no address: each connection is kept apart.
        which: Any = client.user or client.key or (record.id if client.is_forwarded else "unix")
        token = keyed(b"isolate", encode(repr(which))).hex()[:32].encode("ascii")
        return b"minisocks-" + token, token, True


def _name_of(hop: Hop) -> Address:
    return Address.of_name(encode(hop.host), hop.port)


def _as_address(place: Sockaddr, request: Request, port: int = 0) -> Address:
    """Return the sockaddr *place* as a hop gets it.

    Raises:
        CannotCarry: it is on a link of this host.
    """
    _family, sockaddr = place
    if scope_of(sockaddr):
        why = "%s is on a link of this host, and no other proxy can reach it" % sockaddr[0]
        raise CannotCarry(why, Rep.NETWORK_UNREACHABLE)
    return Address.of_ip(packed_ip(sockaddr[0]) or b"", port or request.dst.port)
