"""A request that waits in the loop: for a name, its target, or its peer."""

import socket
import time
from typing import Any, Callable, List, Optional

from minisocks.compat import READ
from minisocks.errors import DialError, HandshakeError
from minisocks.net.job import Job, Timer
from minisocks.net.lookup import Outcome
from minisocks.net.resolver import Lookup
from minisocks.policy.networks import MAX_ADDRESSES, Sockaddr
from minisocks.policy.rulelines import Decision
from minisocks.protocol.handshake import Request
from minisocks.server.clientsocket import FIN_SECONDS
from minisocks.server.session import Session
from minisocks.wire import Address, Cmd, Rep, packed_ip, scope_of

__all__ = ["WaitingRequest"]


class WaitingRequest(Job):
    """Base of CONNECT and BIND: one request that waits, and its client.

    The request ends when its time is over or the client resets its connection.  FIN may mean
    that the client has left, or only that it sends no more: the request then goes on for
    ``FIN_SECONDS``.  If early data has come, FIN is behind it and cannot be seen: then the
    request goes on until its time is over.

    Attributes:
        left: why the request ended if the client resets its connection.
    """

    __slots__ = (
        *("_asked", "_began_at", "_checked_at", "_ends_at", "_lookup", "_request", "_session"),
        "_timer",
    )

    left = "the client left"

    def __init__(self, session: Session, request: Request) -> None:
        self._session = session
        self._request = request
        self._lookup: Optional[Lookup] = None
        #: What was looked up last.
        self._asked = request.dst
        self._timer: Optional[Timer] = None
        #: ``OwnAddresses.changes`` when the addresses were checked.
        self._checked_at: Optional[int] = None
        #: When it began to wait here, and when its time is over, in monotonic seconds.
        self._began_at = 0.0
        self._ends_at = 0.0

    # What differs between the two

    def time_limit(self) -> float:
        """Return how many seconds the request has in all."""
        raise NotImplementedError

    def go_on(self) -> None:
        """Take the first step.

        Raises:
            HandshakeError, DialError: the request is refused.
            OSError: the client has left.
        """
        raise NotImplementedError

    def recheck(self) -> bool:
        """Check the request again if users or rules have changed; return whether they have.

        Raises:
            HandshakeError: it is not allowed any more.
        """
        return self._session.check_again()

    def go_on_after_recheck(self) -> None:
        """Go on after a reload, with what ``recheck`` still allows."""

    def resolved(self, addresses: List[Sockaddr]) -> None:
        """Go on with *addresses*, the answer to ``look_up``.

        Raises:
            HandshakeError, DialError, OSError: as ``go_on``.
        """
        raise NotImplementedError

    def not_resolved(self, error: Exception) -> None:
        """Go on without an answer to ``look_up``.

        Raises:
            HandshakeError, DialError, OSError: as ``go_on``.
        """
        raise error

    def descriptor_ready(self, fd: int) -> None:
        """Go on, because *fd*, which is not the client's, may be ready.

        Raises:
            HandshakeError, DialError, OSError: as ``go_on``.
        """
        raise NotImplementedError

    def timeout_error(self) -> DialError:
        """Return why the request is refused when its time is over."""
        if self._lookup is None:
            return DialError("asking its identd took the whole --connect-timeout", Rep.TTL_EXPIRED)
        return DialError("the name was not resolved in time", Rep.TTL_EXPIRED)

    def give_all_back(self) -> None:
        """Close and return everything but the client's socket."""

    # What both have in common

    def begin(self) -> None:
        """Watch the client, start the clock, and take the first step."""
        session = self._session
        # Early data stays in the socket.  Mask 0 still reports a reset.
        session.watch(0 if session.talk.has_trailing_data else READ, self)
        seconds = self.time_limit() - session.waited
        self._began_at = time.monotonic()
        self._ends_at = self._began_at + seconds
        if seconds <= 0:
            self._end()
            return
        self.start_clock()
        self._try(self._first_step)

    def ask_again(self) -> None:
        """Check the request again after a reload."""
        if self._timer is not None:  # else ``begin`` does it
            self._try(self._recheck)

    def look_up(self, dst: Optional[Address] = None) -> None:
        """Have a name looked up, by default that of the request; ``resolved`` gets the answer.

        Raises:
            DialError: too many names are waited for already.
        """
        services, dst = self._session.services, dst or self._request.dst
        self._asked = dst
        loop = services.loop
        known = services.answers.long_one(dst.host, dst.port)
        if known is not None:
            loop.call_soon(self, self._try, self.resolved, known)
            return
        lookup = Lookup(
            dst.host,
            dst.port,
            lambda outcome: loop.call_soon(self, self._answered, outcome),
            self._session.client.groups,
            family=services.access.egress.only,
        )
        self._lookup = services.resolver.submit(lookup)

    def allowed(self, addresses: List[Sockaddr]) -> List[Sockaddr]:
        """Return those of *addresses*, all of DST.ADDR, that the client may reach.  Thread: any.

        They have the same exits, which are the session's from now on.

        Raises:
            RefusedByRules: none.
        """
        services, client, request = self._session.services, self._session.client, self._request
        access = services.access
        ver, cmd, dst = request.ver, request.cmd, request.dst
        chosen = self._session.chosen
        self._checked_at = changes = access.own.changes()
        passed: List[Sockaddr] = []
        decision = Decision(False, "no address that could be connected to")
        for family, sockaddr in addresses:
            ip = packed_ip(sockaddr[0])
            if ip is not None:
                scope = scope_of(sockaddr)
                decision = access.decisions.decide(client, ver, cmd, dst, ip, scope, changes)
                if not decision.allowed:
                    continue
                if cmd != Cmd.BIND and services.listeners.have(ip, dst.port, access.own, scope):
                    text = "%s is this proxy itself, no target of its own" % (dst,)
                    decision = Decision(False, text)
                    continue
                exits = decision.exits if chosen is None else chosen
                if not passed or exits == self._session.exits:
                    self._session.exits = exits
                    passed.append((family, sockaddr))
        if not passed:
            decision.raise_if_denied()
        return passed

    def start_clock(self) -> None:
        """Have the request end at ``_ends_at``."""
        if self._timer is not None:
            self._timer.cancel()
        seconds = max(0.0, self._ends_at - time.monotonic())
        self._timer = self._session.services.loop.call_later(seconds, self, self._end)

    def hand_over(self, other: "WaitingRequest") -> None:
        """Have *other* go on with the request.  The time that has passed counts for it, too."""
        self._session.waited += time.monotonic() - self._began_at
        self._release()
        self._session.services.loop.submit(other)

    def on_ready(self, fd: int, mask: int) -> None:
        """Take the next step, or see what the client has done."""
        if fd != self._session.fd:
            self._try(self.descriptor_ready, fd)
        elif self._session.mask:
            self._read_client()
        else:
            self._client_left()

    def abort(self, why: str) -> None:
        """Close everything, because the proxy stops."""
        self._release()
        self._session.abort(why)

    def _first_step(self) -> None:
        self.recheck()
        self.go_on()

    def _recheck(self) -> None:
        if self.recheck():
            self.go_on_after_recheck()

    def _try(self, step: Callable[..., None], *args: Any) -> None:
        try:
            step(*args)
        except (HandshakeError, DialError) as exc:
            self._refuse(exc)
        except OSError as exc:
            self._release()
            self._session.client_left(exc)

    def _answered(self, outcome: Outcome) -> None:
        if isinstance(outcome, list) and len(outcome) == MAX_ADDRESSES:
            # To read a long answer again stops all threads for 5 ms: once for each name, not for
            # each connection.
            self._session.services.answers.add(self._asked.host, outcome)
        self._lookup = None
        if isinstance(outcome, Exception):
            self._try(self.not_resolved, outcome)
        else:
            self._try(self.resolved, outcome)

    def _read_client(self) -> None:
        """See whether the client has sent bytes or FIN; leave them in the socket."""
        session = self._session
        try:
            has_said_more = session.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            self._client_left()
            return
        session.watch(0, self)
        if not has_said_more:
            self._ends_at = min(self._ends_at, session.conn.note_fin())
            self.start_clock()

    def _client_left(self) -> None:
        self._release()
        self._session.client_left(ConnectionResetError(self.left))

    def _end(self) -> None:
        """Refuse the request, because its time is over."""
        error = self.timeout_error()
        if self._session.conn.has_sent_fin:
            why = "%s (%d s after the FIN of its client)" % (error, FIN_SECONDS)
            error = DialError(why, error.rep, error.attempts)
        self._refuse(error)

    def _refuse(self, error: Exception) -> None:
        self._release()
        self._session.refuse(error)

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._lookup is not None:
            self._lookup.cancel()
            self._lookup = None
        self.give_all_back()
        self._session.services.loop.done(self)
