"""CONNECT: from a request to a pair, or to the reply that says why not.

Begins with what needs no waiting: on loopback and on a LAN that is often all of it.
The rest waits in the loop.
"""

from typing import List, Optional, Set

from minisocks.compat import WRITE, close_quietly
from minisocks.dialer import Dial
from minisocks.errors import DialError, RefusedByRules
from minisocks.handshake import Request
from minisocks.loop import Job, Timer
from minisocks.resolver import Lookup, Outcome, Sockaddr, numeric_addresses
from minisocks.session import Session
from minisocks.targets import allowed, look_up_for
from minisocks.wire import Rep

__all__ = ["Connect"]


class Connect(Job):
    """One CONNECT under way.

    ::

        resolve -> allowed by address? -> dial -> pair
    """

    __slots__ = ("_deadline", "_dial", "_lookup", "_next", "_request", "_session", "_watched")

    def __init__(self, session: Session, request: Request) -> None:
        self._session = session
        self._request = request
        self._dial: Optional[Dial] = None
        self._lookup: Optional[Lookup] = None
        self._deadline: Optional[Timer] = None
        self._next: Optional[Timer] = None
        self._watched: Set[int] = set()

    def start(self) -> None:
        """Go as far as needs no waiting; the loop has the session after.

        Thread: a handler's.

        Raises:
            RefusedByRules, DialError: the session still is the caller's.
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
            session.granted(upstream, self._dial.via, self._dial.bnd)
        except OSError:
            close_quietly(upstream)
            raise

    def begin(self) -> None:
        """Take the rest over: a name to look up, or attempts to wait for."""
        session = self._session
        loop, config = session.services.loop, session.services.access.config
        # Nothing is read from the client meanwhile; mask 0 still tells a reset.
        session.watch(0, self)
        seconds = max(0.0, config.connect_timeout - session.waited)
        self._deadline = loop.call_later(seconds, self, self._too_late)
        if self._dial is not None:
            self._step()
            return
        try:
            self._lookup = look_up_for(session, self._request, self, self._resolved)
        except DialError as exc:
            self._refuse(exc)

    def on_ready(self, fd: int, mask: int) -> None:
        """Go on dialing; or the client has reset its connection, so give up."""
        if fd == self._session.fd:
            self._release()
            self._session.gone(ConnectionResetError("the client left while its target was dialed"))
        else:
            self._step()

    def abort(self, why: str) -> None:
        """Give up and close; the proxy ends."""
        self._release()
        self._session.abort(why)

    def _resolved(self, outcome: Outcome) -> None:
        self._lookup = None
        if isinstance(outcome, Exception):
            self._refuse(outcome)
            return
        try:
            self._dial = self._new_dial(outcome)
        except RefusedByRules as exc:
            self._refuse(exc)
        else:
            self._step()

    def _new_dial(self, addresses: List[Sockaddr]) -> Dial:
        """Return what dials those of *addresses* that the client may reach.

        Raises:
            RefusedByRules: none.
        """
        services = self._session.services
        passed = allowed(self._session, self._request, addresses)
        return Dial(passed, road=services.access.road, make_room=services.make_room)

    def _step(self) -> None:
        dial, session = self._dial, self._session
        assert dial is not None
        try:
            upstream = dial.step()
        except DialError as exc:
            self._refuse(exc)
            return
        if upstream is not None:
            session.services.loop.unwatch(upstream.fileno())
            self._release()
            try:
                session.granted(upstream, dial.via, dial.bnd)
            except OSError as exc:
                session.services.loop.close_later(upstream)
                session.gone(exc)
        else:
            self._watch_attempts(dial)

    def _watch_attempts(self, dial: Dial) -> None:
        loop = self._session.services.loop
        self._drop_discarded(dial)
        for fd in set(dial.attempts) - self._watched:
            loop.watch(fd, WRITE, self)
            self._watched.add(fd)
        if self._next is not None:
            self._next.cancel()
        wait = dial.wait_seconds()
        self._next = None if wait is None else loop.call_later(wait, self, self._step)

    def _drop_discarded(self, dial: Dial) -> None:
        while dial.discarded:
            sock = dial.discarded.pop()
            self._watched.discard(sock.fileno())
            self._session.services.loop.close_later(sock)

    def _too_late(self) -> None:
        if self._dial is not None:
            self._refuse(self._dial.give_up())
        else:
            self._refuse(DialError("the name was not resolved in time", Rep.TTL_EXPIRED))

    def _refuse(self, error: Exception) -> None:
        self._release()
        self._session.refuse(error)

    def _release(self) -> None:
        """Give back all but the client's socket."""
        loop = self._session.services.loop
        for timer in (self._deadline, self._next):
            if timer is not None:
                timer.cancel()
        if self._lookup is not None:
            self._lookup.cancel()
            self._lookup = None
        if self._dial is not None:
            self._dial.discard_all()
            self._drop_discarded(self._dial)
        loop.done(self)
