"""``minisocks check --exits``: each exit is tried, hop by hop, up to the login at its last hop."""

import queue
import select
import socket
import time
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Tuple

from minisocks.access import Access
from minisocks.compat import WRITE, close_quietly
from minisocks.errors import DialError, ExitFailed
from minisocks.exits.dial import ExitDial
from minisocks.net.dialer import Dial
from minisocks.net.egress import Egress
from minisocks.net.lookup import Outcome, numeric_addresses, system_getaddrinfo
from minisocks.net.resolver import Lookup, Resolver
from minisocks.policy.exits import ADDRESS_SCHEMES, Exit, Hop
from minisocks.policy.networks import Sockaddr
from minisocks.protocol.clientside import ClientSide
from minisocks.quoting import MOST_TOLD, quoted, reason_of
from minisocks.service.exitshown import way_told
from minisocks.values import encode
from minisocks.wire import Address, Cmd, packed_ip

__all__ = ["Trial", "trials"]

#: Seconds for one exit.
TRIAL_SECONDS = 10.0
#: User and password for a hop that keeps clients apart by them: it takes any.
_ISOLATED = (b"minisocks-check", b"check", True)


class Trial(NamedTuple):
    """What came of the trial of one exit: whether it works, and what works or fails."""

    name: str
    works: bool
    text: str


def trials(access: Access, getaddrinfo: Callable[..., Any] = system_getaddrinfo) -> Iterator[Trial]:
    """Try the exits of *access*, one after another, each for ``TRIAL_SECONDS`` at most.  Waits."""
    resolver = Resolver(getaddrinfo)
    try:
        for exit in access.exits.values():
            attempt = _Attempt(exit, access.egress, resolver)
            try:
                yield Trial(exit.name, True, attempt.result())
            except (DialError, OSError) as exc:
                yield Trial(exit.name, False, reason_of(exc))
    finally:
        resolver.close()


class _Attempt:
    """The trial of one exit."""

    def __init__(self, exit: Exit, egress: Egress, resolver: Resolver) -> None:
        self._exit = exit
        self._egress = egress.for_exit(exit)
        self._resolver = resolver
        self._until = time.monotonic() + TRIAL_SECONDS
        #: The addresses of the hops that are looked up here.
        self._known: Dict[Hop, List[Sockaddr]] = {}

    def result(self) -> str:
        """Return what works, in words.

        Raises:
            DialError, OSError: the exit does not work.
        """
        exit = self._exit
        if not exit.hops:
            return self._try_direct()
        is_ours = True
        for hop in exit.hops:
            if is_ours and not hop.path:
                self._known[hop] = self._look_up(hop)
            is_ours = hop.scheme in ADDRESS_SCHEMES
        sides = list(self._sides())
        dial = ExitDial(self._dial(exit.hops[0]), sides, [])
        try:
            self._carry_out(dial)
        finally:
            dial.discard_all()
            _close_discarded(dial)
        told = [_told(hop, side) for hop, side in sides]
        return "; ".join(told)

    def _try_direct(self) -> str:
        exit, egress = self._exit, self._egress
        if exit.has_client_source and not (egress.interface or egress.mark):
            return "%s: there is nothing to try without a client" % way_told(exit)
        for family in egress.sources or (socket.AF_INET,):
            with socket.socket(family, socket.SOCK_STREAM) as sock:
                try:
                    egress.prepare(sock)
                except OSError as exc:
                    raise ExitFailed("%s: %s" % (way_told(exit), reason_of(exc))) from None
        return "%s: this host has that" % way_told(exit)

    def _look_up(self, hop: Hop) -> List[Sockaddr]:
        """Return the addresses of *hop*."""
        host = encode(hop.host)
        addresses = numeric_addresses(host, hop.port)
        if addresses:
            return addresses
        outcomes: "queue.Queue[Outcome]" = queue.Queue()
        lookup = Lookup(host, hop.port, outcomes.put, family=self._egress.only)
        self._resolver.submit(lookup)
        try:
            outcome = outcomes.get(timeout=self._left())
        except queue.Empty:
            lookup.cancel()
            raise ExitFailed("no name server has answered about %s" % hop.host) from None
        if isinstance(outcome, list):
            return outcome
        raise ExitFailed("%s: %s" % (hop, outcome)) from None

    def _sides(self) -> Iterator[Tuple[Hop, ClientSide]]:
        """Yield each hop, and the client side of its handshake; the last one asks for nothing."""
        hops = self._exit.hops
        for hop, following in zip(hops, (*hops[1:], None)):
            dst = None
            if following is not None:
                ip = packed_ip(following.host)
                if following in self._known:
                    ip = packed_ip(self._known[following][0][1][0])
                dst = Address.of_name(encode(following.host), following.port)
                dst = Address.of_ip(ip, following.port) if ip else dst
            login = _ISOLATED if hop.isolates else (hop.user, hop.password, False)
            yield hop, ClientSide(hop.scheme, Cmd.CONNECT, dst, *login)

    def _dial(self, first: Hop) -> Dial:
        if not first.path:
            return Dial(self._known[first], egress=self._egress)
        family = getattr(socket, "AF_UNIX", None)
        if family is None:
            raise ExitFailed("this system has no unix sockets")
        return Dial([(family, first.path)])

    def _carry_out(self, dial: ExitDial) -> None:
        """Take the steps of *dial* until the last hop has logged us in."""
        while True:
            sock = dial.step()
            _close_discarded(dial)
            if sock is not None:
                close_quietly(sock)
                return
            left, due = self._left(), dial.wait_seconds()
            if not left:
                raise dial.give_up()
            fds = list(dial.attempts)
            writing = fds if dial.mask & WRITE else []
            reading = fds if dial.mask != WRITE else []
            select.select(reading, writing, [], left if due is None else min(left, due))

    def _left(self) -> float:
        """Return the seconds that are left."""
        return max(0.0, self._until - time.monotonic())


def _told(hop: Hop, side: ClientSide) -> str:
    """Return what is known of *hop*, which has done all that was asked."""
    if not hop.scheme.startswith("socks5"):
        protocol = "HTTP" if hop.scheme == "http" else "SOCKS4"
        if side.is_asked:
            return "%s is reachable" % (hop,)
        why = "%s is reachable; more is not known without a target, because %s has no greeting"
        return why % (hop, protocol)
    if hop.isolates:
        return "%s greets, and takes a login for each client" % (hop,)
    if not hop.user:
        return "%s greets" % (hop,)
    what = "takes the login of %s" if side.has_logged_in else "wants no password of %s"
    return ("%s greets, and " + what) % (hop, quoted(hop.user, MOST_TOLD))


def _close_discarded(dial: ExitDial) -> None:
    while dial.discarded:
        close_quietly(dial.discarded.pop())
