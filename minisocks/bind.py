"""BIND: from a request to a listener, and from that to a pair; or to the reply that says why not.

For protocols whose servers connect back, as FTP in active mode (RFC 1928 section 4, the
SOCKS4 memo).  One connection, from whom the client names; who else comes ends it.
"""

import errno
import socket
from typing import FrozenSet, List, Optional

from minisocks.berths import Berth, ways_from_anywhere
from minisocks.compat import READ, tune
from minisocks.errors import DialError, HandshakeError, RefusedByRules
from minisocks.handshake import Request
from minisocks.loop import Job, Timer
from minisocks.ports import address_of, public_address
from minisocks.resolver import Lookup, Outcome, Sockaddr, numeric_addresses
from minisocks.room import with_room
from minisocks.session import Session
from minisocks.targets import allowed, look_up_for
from minisocks.wire import Rep, Ver, plain_ip, text_ip

__all__ = ["Bind"]

#: What a listener says of a peer that has gone again before we came to it.
_WAIT_ON = (errno.ECONNABORTED, errno.EPROTO, errno.EINTR)


class Bind(Job):
    """One BIND under way.

    ::

        resolve -> allowed? -> listen, first reply -> who came? -> second reply -> pair
    """

    __slots__ = ("_berth", "_deadline", "_expected", "_lookup", "_request", "_session")

    def __init__(self, session: Session, request: Request) -> None:
        self._session = session
        self._request = request
        self._berth: Optional[Berth] = None
        self._lookup: Optional[Lookup] = None
        self._deadline: Optional[Timer] = None
        #: The addresses that the peer may have; empty: any.
        self._expected: FrozenSet[bytes] = frozenset()

    def start(self) -> None:
        """Have the loop carry it out.  Thread: a handler's."""
        self._session.submit(self)

    def begin(self) -> None:
        """Find out whom to wait for, and wait."""
        session, dst = self._session, self._request.dst
        loop = session.services.loop
        # Until there is a peer for them, the client's bytes stay where they are; mask 0
        # still tells a reset.
        session.watch(0, self)
        seconds = session.services.access.config.bind_timeout - session.waited
        if seconds <= 0:
            self._refuse(DialError("no time was left for its peer", Rep.TTL_EXPIRED))
            return
        self._deadline = loop.call_later(seconds, self, self._too_late)
        try:
            # Spelled like this only, as rules and the program's hook see it.
            if dst.is_anybody:
                self._expect_anybody(socket.AF_INET6 if ":" in dst.name else socket.AF_INET)
                return
            addresses = numeric_addresses(dst.host, dst.port, dst.atyp)
            if addresses:
                self._expect(addresses)
            else:
                self._lookup = look_up_for(session, self._request, self, self._resolved)
        except (HandshakeError, DialError) as exc:
            self._refuse(exc)
        except OSError as exc:
            self._gone(exc)

    def on_ready(self, fd: int, mask: int) -> None:
        """Somebody has connected; or the client has said something, or left."""
        if fd != self._session.fd:
            self._accept()
        elif self._session.mask:
            self._client_spoke()
        else:
            self._gone(ConnectionResetError("the client left while it waited for its peer"))

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
            self._expect(outcome)
        except (HandshakeError, DialError) as exc:
            self._refuse(exc)
        except OSError as exc:
            self._gone(exc)

    def _expect(self, addresses: List[Sockaddr]) -> None:
        """Wait for one of *addresses*, those that the client may be connected with.

        Raises:
            HandshakeError, DialError: there is none, or no way to listen.
            OSError: the client has left.
        """
        session = self._session
        # Whatever a name resolves to, or is but another spelling of, is never anybody.
        addresses = [address for address in addresses if any(_ip_of(address))]
        ways = allowed(session, self._request, self._sayable(addresses))
        self._expected = frozenset(map(_ip_of, ways))
        self._listen(session.services.access.road.ordered(ways))

    def _expect_anybody(self, family: int) -> None:
        """Wait for whoever comes, first of all by *family*.

        Raises:
            HandshakeError, DialError, OSError: as above.
        """
        session, request = self._session, self._request
        rules = session.services.access.rules
        rules.foresee_any(session.client, request.ver, request.cmd, request.dst).demand()
        ways = ways_from_anywhere(family, session.sock.getsockname())
        self._listen(self._sayable(ways))

    def _sayable(self, addresses: List[Sockaddr]) -> List[Sockaddr]:
        """Return those from where one of our addresses is seen that can be said in a reply.

        Raises:
            DialError: none.
        """
        if self._request.ver == Ver.SOCKS4:
            addresses = [address for address in addresses if address[0] == socket.AF_INET]
        if not addresses:
            raise DialError("no address that a peer could connect from", Rep.HOST_UNREACHABLE)
        return addresses

    def _listen(self, ways: List[Sockaddr]) -> None:
        session = self._session
        services = session.services
        self._berth = berth = services.berths.take(
            session.client, services.access.road, ways, self._refuse
        )
        other = plain_ip(berth.faced) if self._expected else b""
        session.record.bound = str(address_of(berth.ip, berth.port))
        session.listening(public_address(services.access.config, berth.ip, other), berth.port)
        services.loop.watch(berth.sock.fileno(), READ, self)
        session.watch(READ, self)

    def _client_spoke(self) -> None:
        """See what it has said, without taking it: it is for the peer, and may be long."""
        session = self._session
        try:
            data = session.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError as exc:
            self._gone(exc)
            return
        if data or session.talk.has_trailing_data:
            session.watch(0, self)  # a FIN behind it is the peer's to hear, too
        else:
            self._gone(ConnectionResetError("the client closed before its peer came"))

    def _accept(self) -> None:
        assert self._berth is not None
        try:
            # Spare pipes have descriptors.
            pipes = self._session.services.loop.pipes
            peer, sockaddr = with_room(self._berth.sock.accept, pipes.close_spare)
        except BlockingIOError:
            return
        except OSError as exc:
            if exc.errno not in _WAIT_ON:
                why = "the peer of %s could not be let in: %s" % (self._place(), exc.strerror)
                self._refuse(DialError(why, Rep.GENERAL_FAILURE))
            return
        session = self._session
        try:
            self._check(plain_ip(sockaddr[0]))
        except RefusedByRules as exc:
            session.services.loop.close_later(peer, reset=True)
            self._refuse(exc)
            return
        peer.setblocking(False)
        tune(peer)
        self._release()
        try:
            session.granted(peer, sockaddr, sockaddr)
        except OSError as exc:
            session.services.loop.close_later(peer)
            session.gone(exc)

    def _check(self, ip: bytes) -> None:
        """Go on if the peer at *ip* is the one that is waited for, and allowed.

        Its port is not looked at: servers connect from any (FTP's from 20, or not).  What a
        rule says about ports is about the one that the client has named.

        Raises:
            RefusedByRules: it is not.
        """
        session, request = self._session, self._request
        if self._expected and ip not in self._expected:
            raise RefusedByRules(
                "%s connected to %s, where %s was waited for"
                % (text_ip(ip), self._place(), request.dst.name)
            )
        dst = request.dst if self._expected else address_of(ip, request.dst.port)
        rules = session.services.access.rules
        rules.decide(session.client, request.ver, request.cmd, dst, ip).demand()

    def _place(self) -> str:
        return self._session.record.bound or ""

    def _too_late(self) -> None:
        why = "the name was not resolved in time"
        if self._berth is not None:
            why = "nobody connected to %s in time" % self._place()
        self._refuse(DialError(why, Rep.TTL_EXPIRED))

    def _gone(self, exc: OSError) -> None:
        """End, since the client has left; who only says no more may still read why."""
        session = self._session
        self._release()
        try:
            session.sock.send(session.talk.refusal(exc))
        except OSError:
            pass  # it has left
        session.gone(exc)

    def _refuse(self, error: Exception) -> None:
        self._release()
        self._session.refuse(error)

    def _release(self) -> None:
        """Give back all but the client's socket."""
        services = self._session.services
        if self._deadline is not None:
            self._deadline.cancel()
        if self._lookup is not None:
            self._lookup.cancel()
            self._lookup = None
        if self._berth is not None:
            berth, self._berth = self._berth, None
            services.berths.give_back(berth)
        services.loop.done(self)


def _ip_of(address: Sockaddr) -> bytes:
    """Return the bytes of *address*."""
    return plain_ip(address[1][0])
