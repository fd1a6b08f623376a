"""BIND: from a request to a listener, and from that to a pair; or to the reply that says why not.

For protocols whose servers connect back, as FTP in active mode (RFC 1928 section 4, the
SOCKS4 memo).  One connection, from the peer that the client names.  Any other peer is reset, and
the client waits on; by SOCKS4 it ends it, as the memo says.
"""

import errno
import socket
from typing import FrozenSet, List, Optional

from minisocks.compat import READ, tune
from minisocks.errors import DialError, RefusedByRules
from minisocks.net.capacity import with_room
from minisocks.net.lookup import numeric_addresses
from minisocks.net.ports import public_address
from minisocks.policy.addresses import Sockaddr, of_peers
from minisocks.protocol.handshake import Request
from minisocks.server.bindlisteners import BindListener, ways_from_anywhere
from minisocks.server.session import Session
from minisocks.server.waiting import WaitingRequest
from minisocks.wire import Address, Rep, Ver, plain_ip, scope_of, text_ip

__all__ = ["Bind"]

#: What a listener says of a peer that has gone again before we came to it.
_WAIT_ON = (errno.ECONNABORTED, errno.EPROTO, errno.EINTR)
#: So many strangers are reset, each for the price of a refused client; then it ends.
MAX_WRONG_PEERS = 1000


class _WrongPeer(RefusedByRules):
    """The peer has another address than the one that is waited for."""


class Bind(WaitingRequest):
    """One BIND under way.

    ::

        resolve -> allowed? -> listen, first reply -> who came? -> second reply -> pair
    """

    __slots__ = ("_listener", "_expected", "_has_waited", "_wrong_peers", "_ways")

    left = "the client left while it waited for its peer"

    def __init__(self, session: Session, request: Request) -> None:
        super().__init__(session, request)
        self._listener: Optional[BindListener] = None
        #: The addresses that the peer may have; empty: any.
        self._expected: FrozenSet[bytes] = frozenset()
        self._ways: List[Sockaddr] = []
        self._wrong_peers = 0
        self._has_waited = False

    def start(self) -> None:
        """Have the loop carry it out.  Thread: a handler's."""
        self._session.submit(self)

    def time_limit(self) -> float:
        """Return ``--bind-timeout``."""
        return self._session.services.access.config.bind_timeout

    def go_on(self) -> None:
        """Find out which peer to wait for, and wait."""
        dst = self._request.dst
        # Spelled like this only, as rules and the program's hook see it.
        if dst.is_anybody:
            self._expect_anybody(socket.AF_INET6 if ":" in dst.name else socket.AF_INET)
            return
        addresses = numeric_addresses(dst.host, dst.port, dst.atyp)
        if addresses:
            self.resolved(addresses)
        else:
            self.look_up()

    def recheck(self) -> bool:
        """Hold it against users and rules: may any of its peers still be let in?"""
        is_changed = super().recheck()
        if is_changed and self._listener is not None:
            if self._expected:
                self.allowed(self._ways)
            else:
                self._demand_anybody()
        return is_changed

    def resolved(self, addresses: List[Sockaddr]) -> None:
        """Wait for one of *addresses*, those that the client may be connected with.

        Raises:
            HandshakeError, DialError: there is none, or no way to listen.
            OSError: the client has left.
        """
        session = self._session
        self._ways = ways = self.allowed(of_peers(self._request.ver, addresses))
        self._expected = frozenset(map(_ip_of, ways))
        self._listen(session.services.access.egress.ordered(ways))

    def _expect_anybody(self, family: int) -> None:
        """Wait for whoever comes, first of all by *family*.

        Raises:
            HandshakeError, DialError, OSError: as above.
        """
        self._demand_anybody()
        ways = ways_from_anywhere(family, self._session.sock.getsockname())
        self._listen(of_peers(self._request.ver, ways))

    def _demand_anybody(self) -> None:
        """Go on if a peer may come whose address is not known yet.

        Raises:
            RefusedByRules: none may.
        """
        session, request = self._session, self._request
        rules = session.services.access.rules
        rules.precheck_any(session.client, request.ver, request.cmd, request.dst).raise_if_denied()

    def _listen(self, ways: List[Sockaddr]) -> None:
        session = self._session
        services = session.services
        if services.bind_listeners.is_full and not self._has_waited:
            # The next round begins with what has been closed by now: that may give the place back.
            self._has_waited = True
            services.loop.call_soon(self, self._try, self._listen, ways)
            return
        self._listener = bind_listener = services.bind_listeners.take(
            session.client, services.access.egress, ways, self._refuse
        )
        other = plain_ip(bind_listener.faced) if self._expected else b""
        session.record.bound = str(Address.of_ip(bind_listener.ip, bind_listener.port))
        session.listening(
            public_address(services.access.config, bind_listener.ip, other), bind_listener.port
        )
        services.loop.watch(bind_listener.sock.fileno(), READ, self)

    def stop_listening(self) -> None:
        """End: its peer would be a new connection."""
        self.abort("shutdown")

    def descriptor_ready(self, fd: int) -> None:
        """Accept a peer."""
        self._accept()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            make_room = self._session.services.make_room
            peer, sockaddr = with_room(self._listener.sock.accept, make_room)
        except BlockingIOError:
            return
        except OSError as exc:
            self._wrong_peers += 1  # it has left, or accept fails for ever
            if exc.errno not in _WAIT_ON or self._wrong_peers >= MAX_WRONG_PEERS:
                why = "the peer of %s could not be let in: %s" % (self._place(), exc.strerror)
                self._refuse(DialError(why, Rep.GENERAL_FAILURE))
            return
        session = self._session
        try:
            self._check(plain_ip(sockaddr[0]), scope_of(sockaddr))
        except RefusedByRules as exc:
            session.services.loop.close_later(peer, reset=True)
            self._wrong_peers += 1
            ends_it = isinstance(exc, _WrongPeer) and self._request.ver == Ver.SOCKS4
            if ends_it or self._wrong_peers >= MAX_WRONG_PEERS:
                self._refuse(exc)
            else:
                session.record.why = str(exc)  # for a refusal that may follow
            return
        peer.setblocking(False)
        tune(peer, session.services.access.egress.keepalive)
        self._release()
        try:
            session.connected(peer, sockaddr, sockaddr)
        except OSError as exc:
            session.services.loop.close_later(peer)
            session.client_left(exc)

    def _check(self, ip: bytes, scope: int) -> None:
        """Go on if the peer at *ip* is the one that is waited for, and allowed.

        Its port is not looked at: servers connect from any (FTP's from 20, or not).  What a
        rule says about ports is about the one that the client has named.

        Raises:
            RefusedByRules: it is not.
        """
        session, request = self._session, self._request
        if self._expected and ip not in self._expected:
            raise _WrongPeer(
                "%s connected to %s, where %s was waited for"
                % (text_ip(ip), self._place(), request.dst.name)
            )
        dst = request.dst if self._expected else Address.of_ip(ip, request.dst.port)
        rules = session.services.access.rules
        rules.decide(session.client, request.ver, request.cmd, dst, ip, scope).raise_if_denied()

    def _place(self) -> str:
        return self._session.record.bound or ""

    def timeout_error(self) -> DialError:
        """Return what it has waited for."""
        if self._listener is None:
            return super().timeout_error()
        return DialError("no peer connected to %s in time" % self._place(), Rep.TTL_EXPIRED)

    def give_all_back(self) -> None:
        """Listen no more."""
        if self._listener is not None:
            bind_listener, self._listener = self._listener, None
            self._session.services.bind_listeners.give_back(bind_listener)


def _ip_of(address: Sockaddr) -> bytes:
    """Return the bytes of *address*."""
    return plain_ip(address[1][0])
