"""CONNECT: from the request to a pair of connected sockets, or to an error.

What needs no waiting is done in the handler thread: on loopback and in a LAN this is often all.
"""

import socket
from typing import List, Optional, Set

from minisocks.compat import WRITE, close_quietly
from minisocks.errors import DialError, HandshakeError
from minisocks.net.dialer import Dial
from minisocks.net.job import Timer
from minisocks.net.lookup import numeric_addresses
from minisocks.policy.networks import Sockaddr
from minisocks.protocol.handshake import Request
from minisocks.server.session import Session
from minisocks.server.waiting import WaitingRequest

__all__ = ["Connect"]


class Connect(WaitingRequest):
    """One CONNECT.

    ::

        look up the name -> check its addresses -> dial -> pair
    """

    __slots__ = ("_dial", "_next", "_watched")

    left = "the client left while its target was dialed"

    def __init__(self, session: Session, request: Request) -> None:
        super().__init__(session, request)
        self._dial: Optional[Dial] = None
        self._next: Optional[Timer] = None
        self._watched: Set[int] = set()

    def start(self) -> None:
        """Dial a numeric address at once; hand the session to the loop if it must wait.

        Thread: a handler's.

        Raises:
            HandshakeError, DialError: the request is refused; the session still is the caller's.
            OSError: the client has left; likewise.
        """
        session, dst = self._session, self._request.dst
        addresses = numeric_addresses(dst.host, dst.port, dst.atyp)
        if not addresses:
            session.submit(self)
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
        """Look the name up, or go on with the dial that ``start`` has begun."""
        if self._dial is None:
            self.look_up()
        else:
            self._step(self._dial)

    def recheck(self) -> bool:
        """Check the request again, and give up attempts to addresses that are not allowed now."""
        is_changed = super().recheck()
        if is_changed and self._dial is not None:
            self._dial.keep(self.allowed(self._dial.addresses))
        return is_changed

    def go_on_after_recheck(self) -> None:
        """Dial the addresses that are left."""
        if self._dial is not None:
            self._step(self._dial)

    def resolved(self, addresses: List[Sockaddr]) -> None:
        """Dial those of *addresses* that are allowed."""
        self._dial = self._new_dial(addresses)
        self._step(self._dial)

    def descriptor_ready(self, fd: int) -> None:
        """Look at the attempts."""
        assert self._dial is not None
        self._step(self._dial)

    def timeout_error(self) -> DialError:
        """Return an error that names the addresses that have not answered."""
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
        """Return the dial of those of *addresses* that are allowed.

        Raises:
            RefusedByRules: none is.
        """
        services = self._session.services
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
        """Check the target again if this host's addresses have changed during the dial.

        The kernel repeats a SYN by its present routes, so the attempt may have reached this host,
        which has got the address meanwhile.

        Raises:
            RefusedByRules: the target is not allowed any more.
        """
        changes = self._session.services.access.own.changes()
        if changes is None or changes != self._checked_at:
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
        """Close the oldest extra attempt at once; return whether there was one."""
        dial = self._dial
        sock: Optional[socket.socket] = None if dial is None else dial.take_back()
        if dial is None or sock is None:
            return False
        self._watched.discard(sock.fileno())
        # Not at the end of the round, because the descriptor is needed now.  An event of this
        # round may then reach a new owner of the number, which only asks the kernel once more.
        self._session.services.loop.unwatch(sock.fileno())
        close_quietly(sock)
        self._watch_attempts(dial)
        return True

    def _drop_discarded(self, dial: Dial) -> None:
        while dial.discarded:
            sock = dial.discarded.pop()
            self._watched.discard(sock.fileno())
            self._session.services.loop.close_later(sock)
