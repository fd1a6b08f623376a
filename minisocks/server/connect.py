"""CONNECT: from the request to a pair of connected sockets, or to an error.

What needs no waiting is done in the handler thread: on loopback and in a LAN this is often all.
"""

import socket
import time
from typing import Dict, List, Optional

from minisocks.compat import WRITE, close_quietly
from minisocks.errors import CannotCarry, DialError, ExitFailed, HandshakeError, RefusedByRules
from minisocks.exits.dial import ExitDial
from minisocks.exits.hops import not_resolved
from minisocks.exits.state import EXIT_SECONDS
from minisocks.net.dialer import Dial
from minisocks.net.egress import Egress
from minisocks.net.job import Timer
from minisocks.net.lookup import numeric_addresses
from minisocks.policy.networks import Sockaddr
from minisocks.protocol.handshake import Request
from minisocks.server.session import Session
from minisocks.server.throughexits import AnyDial, ThroughExits
from minisocks.server.waiting import WaitingRequest
from minisocks.wire import Atyp

__all__ = ["Connect"]


class Connect(WaitingRequest):
    """One CONNECT.

    ::

        look up the name -> check its addresses -> dial -> pair

    Where the rule that decides names exits, ``ThroughExits`` says what is looked up and dialed.
    """

    __slots__ = ("_dial", "_exit_timer", "_next", "_since", "_through", "_watched")

    left = "the client left while its target was dialed"

    def __init__(self, session: Session, request: Request) -> None:
        super().__init__(session, request)
        self._dial: Optional[AnyDial] = None
        self._next: Optional[Timer] = None
        #: The masks of the attempts, by descriptor.
        self._watched: Dict[int, int] = {}
        #: The exits to try; None: the target is dialed directly.
        self._through: Optional[ThroughExits] = None
        #: Ends the attempt by an exit while there is another one.
        self._exit_timer: Optional[Timer] = None
        #: Since when the present exit has had what it needs, in monotonic seconds; 0: it has not.
        self._since = 0.0

    def start(self) -> None:
        """Dial a numeric address at once; hand the session to the loop if it must wait.

        Thread: a handler's.

        Raises:
            HandshakeError, DialError: the request is refused; the session still is the caller's.
            OSError: the client has left; likewise.
        """
        session, dst = self._session, self._request.dst
        addresses = numeric_addresses(dst.host, dst.port, dst.atyp)
        if addresses:
            addresses = self.allowed(addresses)
        if session.exits or not addresses:
            session.submit(self)
            return
        self._dial = dial = self._new_dial(addresses)
        try:
            upstream = dial.step()
        finally:
            dial.close_discarded()
        if upstream is None:
            session.submit(self)
            return
        try:
            if session.check_again():
                self.allowed([(upstream.family, dial.via)])
            session.connected(upstream, dial.via, dial.bnd)
        except (HandshakeError, OSError):
            close_quietly(upstream)
            raise

    def time_limit(self) -> float:
        """Return ``--connect-timeout``."""
        return self._session.services.access.config.connect_timeout

    def go_on(self) -> None:
        """Look the name up, or go on with the dial that ``start`` has begun."""
        session, dst = self._session, self._request.dst
        if self._dial is not None:
            self._step(self._dial)
            return
        may_be_numeric = session.exits or dst.atyp != Atyp.DOMAINNAME
        addresses = numeric_addresses(dst.host, dst.port, dst.atyp) if may_be_numeric else []
        if addresses:
            self.resolved(addresses)
        elif session.exits:
            self._through = ThroughExits(session, self._request)
            self._try_exit(self._through)
        else:
            self.look_up()

    def recheck(self) -> bool:
        """Check the request again, and give up attempts to addresses that are not allowed now."""
        is_changed, dial, through = super().recheck(), self._dial, self._through
        if is_changed and through is not None and through.addresses:
            # Those that are still to be tried, too.
            addresses = self.allowed(through.addresses)
            through.keep(addresses)
            if dial is not None:
                dial.keep(addresses)
        elif is_changed and dial is not None and dial.addresses:
            dial.keep(self.allowed(dial.addresses))
        elif is_changed and dial is not None and not self._session.is_decided:
            raise RefusedByRules("the rules decide by address now, and an exit has the name")
        return is_changed

    def go_on_after_recheck(self) -> None:
        """Dial the addresses that are left."""
        if self._dial is not None:
            self._step(self._dial)

    def resolved(self, addresses: List[Sockaddr]) -> None:
        """Dial those of *addresses* that are allowed, directly or by the exits of their rule."""
        session, through = self._session, self._through
        if through is not None and self._asked is not self._request.dst:
            through.found(self._asked, addresses)
            self._try_exit(through)
            return
        before = session.exits
        addresses = self.allowed(addresses)
        if not session.exits:
            self._through = session.record.exit = None
            self.leave_directly(addresses)
            return
        if through is None or session.exits != before:
            # Only with the addresses a rule could decide that has these exits.
            self._through = through = ThroughExits(session, self._request, addresses)
        else:
            through.found(self._request.dst, addresses)
        self._try_exit(through)

    def leave_directly(self, addresses: List[Sockaddr]) -> None:
        """Dial *addresses*, because their rule names no exits.

        Raises:
            HandshakeError, DialError, OSError: as ``go_on``.
        """
        self._dial = self._new_dial(addresses)
        self._step(self._dial)

    def not_resolved(self, error: Exception) -> None:
        """Try the next exit if the name of a hop has no address."""
        if self._through is None or self._asked is self._request.dst:
            raise error
        self._try_next_exit(self._through, not_resolved(error))

    def descriptor_ready(self, fd: int) -> None:
        """Look at the attempts."""
        assert self._dial is not None
        self._step(self._dial)

    def timeout_error(self) -> DialError:
        """Return an error that names what has not answered, and the exits that failed before."""
        through, is_slow = self._through, self._is_slow()
        error = super().timeout_error() if self._dial is None else self._dial.give_up()
        if through is None:
            return error
        if self._dial is None:
            error = ExitFailed(str(error), error.rep)  # no hop has answered
        return through.ended(error, is_slow)

    def give_all_back(self) -> None:
        """Close all attempts."""
        for timer in (self._next, self._exit_timer):
            if timer is not None:
                timer.cancel()
        if self._through is not None:
            self._through.release()
        if self._dial is not None:
            self._dial.discard_all()
            self._drop_discarded(self._dial)
            self._session.services.attempts.hold(self._give_one_back, 0)

    def _try_exit(self, through: ThroughExits) -> None:
        """Look up what the present exit needs, or dial it.

        Raises:
            HandshakeError, DialError, OSError: as ``go_on``.
        """
        loop = self._session.services.loop
        if self._exit_timer is None and through.more:
            # The others get a part of the time of the request, too, however short that is.
            left = max(0.0, self._ends_at - time.monotonic()) / (through.more + 1)
            seconds = min(EXIT_SECONDS, left)
            self._exit_timer = loop.call_later(seconds, self, self._exit_is_late)
        missing = through.missing()
        if missing is not self._request.dst:
            self._since = self._since or time.monotonic()
        if missing is not None:
            self.look_up(missing)
            return
        try:
            self._dial = through.new_dial(self._new_dial)
        except (CannotCarry, ExitFailed) as exc:
            self._try_next_exit(through, exc)
        else:
            self._step(self._dial)

    def _try_next_exit(self, through: ThroughExits, error: DialError, counts: bool = True) -> None:
        """Go on after *error*, with the next address or exit.

        Raises:
            HandshakeError, DialError, OSError: as ``go_on``.
        """
        self.give_all_back()
        if self._lookup is not None:
            self._lookup.cancel()
        # A hop that closes when it has the request may do so because of that request.
        if isinstance(self._dial, ExitDial) and self._dial.waits_for_target:
            counts = False
        self._dial = self._lookup = self._next = self._exit_timer = None
        self._since = 0.0
        through.next(error, counts)
        # Not at once, so that the closed sockets are gone; and no recursion.
        self._session.services.loop.call_soon(self, self._try, self._try_exit, through)

    def _exit_is_late(self) -> None:
        through, dial = self._through, self._dial
        self._exit_timer = None
        if through is None or not through.more:
            return
        counts = self._is_slow()
        error = ExitFailed("no answer in time") if dial is None else dial.give_up()
        self._try(self._try_next_exit, through, error, counts)

    def _is_slow(self) -> bool:
        """Return whether it is the present exit that has not answered, though it had time.

        It may be the target, or its name server or the identd of the client that has taken the
        time: then other clients still get this exit, else one of them could keep it from all.
        """
        if self._session.conn.has_sent_fin:
            return False  # the client has cut the time short itself
        if not self._since or (isinstance(self._dial, ExitDial) and self._dial.waits_for_target):
            return False
        part = min(EXIT_SECONDS, self.time_limit() / max(1, len(self._session.exits)))
        return time.monotonic() - self._since >= part / 2

    def _new_dial(self, addresses: List[Sockaddr], egress: Optional[Egress] = None) -> Dial:
        """Return the dial of *addresses*, which are allowed."""
        services = self._session.services
        return Dial(
            addresses,
            egress=services.access.egress if egress is None else egress,
            make_room=services.make_room,
            may_add=services.attempts.has_room,
        )

    def _step(self, dial: AnyDial) -> None:
        session, through = self._session, self._through
        try:
            upstream = dial.step()
        except DialError as exc:
            if through is None:
                raise
            self._try_next_exit(through, exc)
            return
        if upstream is None:
            self._watch_attempts(dial)
            return
        session.services.loop.unwatch(upstream.fileno())
        try:
            self._demand_still_allowed(upstream, dial)
        except HandshakeError:
            session.services.loop.close_later(upstream)
            raise
        self.dialed(upstream, dial)

    def dialed(self, upstream: socket.socket, dial: AnyDial) -> None:
        """Hand *upstream*, by which *dial* has reached the target, to the relay.

        Raises:
            OSError: the client has left.
        """
        session, through = self._session, self._through
        self._release()
        if through is not None:
            session.services.exits.worked(through.exit.name)
            session.record.exit = through.exit.name
        self._connected(upstream, dial)

    def _connected(self, upstream: socket.socket, dial: AnyDial) -> None:
        """Send the reply, and hand both sockets to the relay; the request is over."""
        early = dial.early if isinstance(dial, ExitDial) else b""
        try:
            self._session.connected(upstream, dial.via, dial.bnd, early)
        except OSError:
            self._session.services.loop.close_later(upstream)
            raise

    def _demand_still_allowed(self, upstream: socket.socket, dial: AnyDial) -> None:
        """Check the target again if this host's addresses have changed during the dial.

        The kernel repeats a SYN by its present routes, so the attempt may have reached this host,
        which has got the address meanwhile.

        Raises:
            RefusedByRules: the target is not allowed any more.
        """
        changes = self._session.services.access.own.changes()
        if changes is None or changes != self._checked_at:
            if isinstance(dial, Dial):
                self.allowed([(upstream.family, dial.via)])
            elif dial.addresses:
                self.allowed(dial.addresses)

    def _step_again(self) -> None:
        assert self._dial is not None
        self._try(self._step, self._dial)

    def _watch_attempts(self, dial: AnyDial) -> None:
        services = self._session.services
        loop = services.loop
        self._drop_discarded(dial)
        mask = dial.mask if isinstance(dial, ExitDial) else WRITE
        for fd in dial.attempts:
            if self._watched.get(fd) != mask:
                loop.watch(fd, mask, self)
                self._watched[fd] = mask
        services.attempts.hold(self._give_one_back, max(0, len(dial.attempts) - 1))
        if self._next is not None:
            self._next.cancel()
        wait = dial.wait_seconds()
        self._next = None if wait is None else loop.call_later(wait, self, self._step_again)

    def _give_one_back(self) -> bool:
        """Close the oldest extra attempt at once; return whether there was one."""
        dial = self._dial
        sock: Optional[socket.socket] = None if dial is None else dial.take_back()
        if dial is None or sock is None:
            return False
        self._watched.pop(sock.fileno(), None)
        # Not at the end of the round, because the descriptor is needed now.  An event of this
        # round may then reach a new owner of the number, which only asks the kernel once more.
        self._session.services.loop.unwatch(sock.fileno())
        close_quietly(sock)
        self._watch_attempts(dial)
        return True

    def _drop_discarded(self, dial: AnyDial) -> None:
        while dial.discarded:
            sock = dial.discarded.pop()
            self._watched.pop(sock.fileno(), None)
            self._session.services.loop.close_later(sock)
