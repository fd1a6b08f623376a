"""CONNECT: from a request to a pair, or to the reply that says why not.

Begins with what needs no waiting: on loopback and on a LAN that is often all of it.
The rest waits in the loop.
"""

import socket
from typing import List, Optional, Set

from minisocks.compat import WRITE, close_quietly
from minisocks.errors import DialError, HandshakeError
from minisocks.net.dialer import Dial
from minisocks.net.job import Timer
from minisocks.net.lookup import numeric_addresses
from minisocks.policy.addresses import Sockaddr
from minisocks.protocol.handshake import Request
from minisocks.server.session import Session
from minisocks.server.waiting import WaitingRequest

__all__ = ["Connect"]


class Connect(WaitingRequest):
    """One CONNECT under way.

    ::

        resolve -> allowed by address? -> dial -> pair
    """

    __slots__ = ("_changes", "_dial", "_next", "_watched")

    left = "the client left while its target was dialed"

    def __init__(self, session: Session, request: Request) -> None:
        super().__init__(session, request)
        self._dial: Optional[Dial] = None
        self._next: Optional[Timer] = None
        self._watched: Set[int] = set()
        #: ``OwnAddresses.changes`` when it was decided what may be dialed.
        self._changes: Optional[int] = None

    def start(self) -> None:
        """Go as far as needs no waiting; the loop has the session after.

        Thread: a handler's.

        Raises:
            HandshakeError, DialError: the session still is the caller's.
            OSError: likewise; the client has left.
        """
        session, dst = self._session, self._request.dst
        addresses = numeric_addresses(dst.host, dst.port, dst.atyp)
        if not addresses:
            session.submit(self)  # begins with the name
            return
        self._dial = self._new_dial(addresses)
        try:
            upstream = self._dial.step()
        finally:
            self._dial.close_discarded()
        if upstream is None:
            session.submit(self)
            return
        try:
            session.connected(upstream, self._dial.via, self._dial.bnd)
        except (HandshakeError, OSError):
            close_quietly(upstream)
            raise

    def time_limit(self) -> float:
        """Return ``--connect-timeout``."""
        return self._session.services.access.config.connect_timeout

    def go_on(self) -> None:
        """Look the name up, or wait for the attempts that ``start`` has begun."""
        if self._dial is None:
            self.look_up()
        else:
            self._step(self._dial)

    def recheck(self) -> bool:
        """Hold it against users and rules; only what may still be reached is dialed on."""
        is_changed = super().recheck()
        if is_changed and self._dial is not None:
            self._dial.keep(self.allowed(self._dial.addresses))
        return is_changed

    def go_on_after_recheck(self) -> None:
        """Dial on, without the attempts that are given up."""
        if self._dial is not None:
            self._step(self._dial)

    def resolved(self, addresses: List[Sockaddr]) -> None:
        """Dial those of *addresses* that the client may reach."""
        self._dial = self._new_dial(addresses)
        self._step(self._dial)

    def descriptor_ready(self, fd: int) -> None:
        """Go on dialing."""
        assert self._dial is not None
        self._step(self._dial)

    def timeout_error(self) -> DialError:
        """Return which addresses have not answered."""
        return super().timeout_error() if self._dial is None else self._dial.give_up()

    def give_all_back(self) -> None:
        """Close all attempts."""
        if self._next is not None:
            self._next.cancel()
        if self._dial is not None:
            self._dial.discard_all()
            self._drop_discarded(self._dial)
            self._session.services.attempts.hold(self._give_one_back, 0)

    def _new_dial(self, addresses: List[Sockaddr]) -> Dial:
        """Return what dials those of *addresses* that the client may reach.

        Raises:
            RefusedByRules: none.
        """
        services = self._session.services
        self._changes = services.access.own.changes()
        return Dial(
            self.allowed(addresses),
            egress=services.access.egress,
            make_room=services.make_room,
            may_add=services.attempts.has_room,
        )

    def _step(self, dial: Dial) -> None:
        session = self._session
        upstream = dial.step()
        if upstream is None:
            self._watch_attempts(dial)
            return
        session.services.loop.unwatch(upstream.fileno())
        try:
            self._demand_still_allowed(upstream, dial)
        except HandshakeError:
            session.services.loop.close_later(upstream)
            raise
        self._release()
        try:
            session.connected(upstream, dial.via, dial.bnd)
        except OSError:
            session.services.loop.close_later(upstream)
            raise

    def _demand_still_allowed(self, upstream: socket.socket, dial: Dial) -> None:
        """Ask anew if this host's addresses have changed since the dial began.

        A SYN that is not answered is sent again by the routes of then: to this host, if it
        has got the address meanwhile.

        Raises:
            RefusedByRules: the target may not be reached any more.
        """
        changes = self._session.services.access.own.changes()
        if changes is None or changes != self._changes:
            self.allowed([(upstream.family, dial.via)])

    def _step_again(self) -> None:
        assert self._dial is not None
        self._try(self._step, self._dial)

    def _watch_attempts(self, dial: Dial) -> None:
        services = self._session.services
        loop = services.loop
        self._drop_discarded(dial)
        for fd in set(dial.attempts) - self._watched:
            loop.watch(fd, WRITE, self)
            self._watched.add(fd)
        services.attempts.hold(self._give_one_back, max(0, len(dial.attempts) - 1))
        if self._next is not None:
            self._next.cancel()
        wait = dial.wait_seconds()
        self._next = None if wait is None else loop.call_later(wait, self, self._step_again)

    def _give_one_back(self) -> bool:
        """Close the oldest attempt but the first now; return whether there was one."""
        dial = self._dial
        sock: Optional[socket.socket] = None if dial is None else dial.take_back()
        if dial is None or sock is None:
            return False
        self._watched.discard(sock.fileno())
        # Not at the end of the round: the descriptor is wanted now.  An event of this round that
        # finds its number used anew is a hint, and whatever gets it asks the kernel.
        self._session.services.loop.unwatch(sock.fileno())
        close_quietly(sock)
        self._watch_attempts(dial)
        return True

    def _drop_discarded(self, dial: Dial) -> None:
        while dial.discarded:
            sock = dial.discarded.pop()
            self._watched.discard(sock.fileno())
            self._session.services.loop.close_later(sock)
