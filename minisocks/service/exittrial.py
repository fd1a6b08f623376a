"""``minisocks check --exits``: each exit is tried, hop by hop, up to the login at its last hop."""

import queue
import select
import socket
import time
from typing import Any, Callable, Iterator, List, NamedTuple

from minisocks.access import Access
from minisocks.compat import WRITE, close_quietly
from minisocks.errors import DialError, ExitFailed
from minisocks.exits.dial import ExitDial
from minisocks.exits.hops import Known, Login, dial_first, handshakes, missing_hop, not_resolved
from minisocks.exits.state import EXIT_SECONDS
from minisocks.net.dialer import Dial
from minisocks.net.egress import Egress
from minisocks.net.lookup import Outcome, system_getaddrinfo
from minisocks.net.resolver import Lookup, Resolver
from minisocks.policy.exits import Exit, Hop
from minisocks.policy.networks import Sockaddr
from minisocks.protocol.clientside import ClientSide
from minisocks.quoting import MOST_TOLD, quoted, reason_of
from minisocks.service.exitshown import way_told
from minisocks.wire import Address, Cmd

__all__ = ["Trial", "trials"]

#: Seconds for one exit, as for a connection.
TRIAL_SECONDS = EXIT_SECONDS
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

    def result(self) -> str:
        """Return what works, in words.

        Raises:
            DialError, OSError: the exit does not work.
        """
        exit = self._exit
        if not exit.hops:
            return self._try_direct()
        known: Known = {}
        missing = missing_hop(exit, known)
        while missing is not None:
            known[missing] = self._look_up(missing)
            missing = missing_hop(exit, known)
        sides = handshakes(exit, known, _login, Cmd.CONNECT, None)
        dial = ExitDial(dial_first(exit, known, _new_dial, self._egress), sides, [])
        try:
            self._carry_out(dial)
        finally:
            dial.discard_all()
            _close_discarded(dial)
        return "; ".join(_told(hop, side) for hop, side in sides)

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

    def _look_up(self, name: Address) -> List[Sockaddr]:
        """Return the addresses of a hop."""
        outcomes: "queue.Queue[Outcome]" = queue.Queue()
        lookup = Lookup(name.host, name.port, outcomes.put, family=self._egress.only)
        self._resolver.submit(lookup)
        try:
            outcome = outcomes.get(timeout=self._left())
        except queue.Empty:
            lookup.cancel()
            raise not_resolved("no name server has answered about %s" % name.name) from None
        if isinstance(outcome, list):
            return outcome
        raise not_resolved(outcome) from None

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


def _login(hop: Hop) -> Login:
    return _ISOLATED if hop.isolates else (hop.user, hop.password, False)


def _new_dial(addresses: List[Sockaddr], egress: Egress) -> Dial:
    return Dial(addresses, egress=egress)


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
