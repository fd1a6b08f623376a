"""The exits of one request, tried one after another: what is looked up, and dialed, for each."""

from typing import List, Optional, Sequence, Union

from minisocks.errors import CannotCarry, DialError, ExitFailed
from minisocks.exits.dial import ExitDial
from minisocks.exits.hops import (
    Known,
    MakeDial,
    User,
    as_address,
    dial_exit,
    egress_of,
    missing_hop,
)
from minisocks.net.dialer import MAX_ADDRESSES, Dial, interleaved
from minisocks.net.egress import Egress
from minisocks.policy.exits import DIRECT, Exit
from minisocks.policy.networks import Sockaddr
from minisocks.protocol.handshake import Request
from minisocks.server.session import Session
from minisocks.wire import Address, Rep

__all__ = ["AnyDial", "ThroughExits"]

AnyDial = Union[Dial, ExitDial]


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
        self._addresses = _to_try(addresses)
        #: Those of ``_addresses`` that the present exit has not tried.
        self._targets = list(self._addresses)
        self._known: Known = {}
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

    @property
    def addresses(self) -> List[Sockaddr]:
        """The addresses of the target, for all exits; empty: they are not known here."""
        return list(self._addresses)

    def keep(self, addresses: Sequence[Sockaddr]) -> None:
        """Go on with *addresses* only, because a reload allows no others."""
        self._addresses = [one for one in self._addresses if one in addresses]
        self._targets = [one for one in self._targets if one in addresses]

    def release(self) -> None:
        """Let other connections try the present exit again if it had failed before."""
        self._session.services.exits.release(self.exit, self._claim)

    def missing(self) -> Optional[Address]:
        """Return the name that has to be looked up before the exit can be dialed; None: none."""
        # Where only its addresses decide, nothing else can be asked for.
        looks_up = self.exit.resolves_here or not self._session.is_decided
        if looks_up and not self._addresses:
            return self._request.dst
        return missing_hop(self.exit, self._known)

    def found(self, name: Address, addresses: List[Sockaddr]) -> None:
        """Take the *addresses* of what was ``missing``; of the target, those that are allowed."""
        if name is self._request.dst:
            self._addresses = self._targets = _to_try(addresses)
        else:
            self._known[name] = addresses

    def new_dial(self, make: MakeDial) -> AnyDial:
        """Return the dial by the present exit.

        Raises:
            CannotCarry, ExitFailed: it cannot be tried for this request.
        """
        egress = self.egress()
        if not self.exit.hops:
            targets, self._targets = self._targets, []
            return make(targets, egress)
        targets = self._targets[:1]
        self._targets = self._targets[1:]
        request, session, first = self._request, self._session, self.exit.hops[0]
        dst = as_address(targets[0], request.dst.port) if targets else request.dst
        user = User(session.client, session.record.id)

        def make_first(addresses: List[Sockaddr], egress: Egress) -> Dial:
            return make(session.services.exits.others(first, addresses), egress)

        return dial_exit(
            self.exit, self._known, user, request.cmd, dst, make_first, egress, targets
        )

    def next(self, error: DialError, counts: bool = True) -> None:
        """Choose what to try next, because the present attempt ended in *error*.

        Args:
            counts: whether it tells against the exit.

        Raises:
            DialError: nothing is left to try; its REP is that of the last error.
        """
        last = self.ended(error, counts)
        if self._targets and not isinstance(error, ExitFailed):
            return  # the next address of the target
        if not self._left or self._is_answer(error):
            raise last
        self.exit = self._left.pop(0)
        self._claim = self._session.services.exits.claim(self.exit)
        self._targets = list(self._addresses)

    def ended(self, error: DialError, counts: bool) -> DialError:
        """Note that the present attempt ended in *error*; return it with those of all before.

        Args:
            counts: as for ``next``.
        """
        exits, name = self._session.services.exits, self.exit.name
        if isinstance(error, ExitFailed) and counts and self.exit.hops:
            if self._session.services.access.exits.get(name) == self.exit:  # else a reload
                exits.failed(name, error)
        elif self.exit.hops and self._is_answer(error):
            exits.worked(name)
        self._errors.append("exit %s: %s" % (name, error))
        self._session.record.exit = name
        return DialError("; ".join(self._errors), error.rep, error.attempts)

    def _is_answer(self, error: DialError) -> bool:
        if not self.exit.hops:
            return error.rep == Rep.CONNECTION_REFUSED
        return not isinstance(error, (CannotCarry, ExitFailed))

    def egress(self) -> Egress:
        """Return the egress of the present exit.

        Raises:
            CannotCarry: it has none for this client.
        """
        session = self._session
        ours = session.sock.getsockname() if self.exit.has_client_source else None
        try:
            return egress_of(self.exit, session.services.access.egress, ours)
        except CannotCarry:
            self._targets = []  # whatever its address is: ``next`` has to choose another exit
            raise


def _to_try(addresses: Sequence[Sockaddr]) -> List[Sockaddr]:
    """Return those of *addresses* that are tried, as for a direct connection."""
    return interleaved(addresses)[:MAX_ADDRESSES] if addresses else []
