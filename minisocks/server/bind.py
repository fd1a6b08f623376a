"""BIND: from the request to a listener, and from that to a pair, or to an error.

For protocols whose servers connect back, such as FTP in active mode (RFC 1928 section 4, the
SOCKS4 memo).  It takes one connection, from the peer that the client names.  Another peer is
reset and the client waits on; with SOCKS4 such a peer ends the request, as the memo says.
"""

import errno
import socket
from typing import FrozenSet, List, Optional

from minisocks.compat import READ, tune
from minisocks.errors import DialError, RefusedByRules
from minisocks.net.capacity import with_room
from minisocks.net.lookup import numeric_addresses
from minisocks.net.ports import public_address
from minisocks.policy.networks import Sockaddr, of_peers
from minisocks.protocol.handshake import Request
from minisocks.server.bindlisteners import BindListener, ways_from_anywhere
from minisocks.server.session import Session
from minisocks.server.waiting import WaitingRequest
from minisocks.wire import Address, Rep, Ver, plain_ip, scope_of, text_ip

__all__ = ["Bind"]

#: Errors of accept about a peer that has left already.
_WAIT_ON = (errno.ECONNABORTED, errno.EPROTO, errno.EINTR)
#: After so many wrong peers the request ends, because each costs as much as a refused client.
MAX_WRONG_PEERS = 1000


class _WrongPeer(RefusedByRules):
    """The peer has not the address that the client has named."""


class Bind(WaitingRequest):
    """One BIND.

    ::

        look up the name -> check -> listen, first reply -> check the peer -> second reply -> pair
    """

    __slots__ = ("_listener", "_expected", "_has_waited", "_wrong_peers", "_ways")

    left = "the client left while it waited for its peer"

    def __init__(self, session: Session, request: Request) -> None:
        super().__init__(session, request)
        self._listener: Optional[BindListener] = None
        #: The addresses that the peer may have; empty: any address.
        self._expected: FrozenSet[bytes] = frozenset()
        self._ways: List[Sockaddr] = []
        self._wrong_peers = 0
        self._has_waited = False

    def start(self) -> None:
        """Hand the session to the loop.  Thread: a handler's."""
        self._session.submit(self)

    def time_limit(self) -> float:
        """Return ``--bind-timeout``."""
        return self._session.services.access.config.bind_timeout

    def go_on(self) -> None:
        """Find the addresses of the peer, and listen."""
        dst = self._request.dst
        # Only in this spelling, which rules and the program's hook see, too.
        if dst.is_any_peer:
            self._expect_anybody(socket.AF_INET6 if ":" in dst.name else socket.AF_INET)
            return
        addresses = numeric_addresses(dst.host, dst.port, dst.atyp)
        if addresses:
            self.resolved(addresses)
        else:
            self.look_up()

    def recheck(self) -> bool:
        """Check the request again, and whether at least one of its peers is still allowed."""
        is_changed = super().recheck()
        if is_changed and self._listener is not None:
            if self._expected:
                self.allowed(self._ways)
            else:
                self._demand_anybody()
        return is_changed

    def resolved(self, addresses: List[Sockaddr]) -> None:
        """Listen for a peer at those of *addresses* that are allowed.

        Raises:
            HandshakeError, DialError: none is, or there is no listener for them.
            OSError: the client has left.
        """
        session = self._session
        self._ways = ways = self.allowed(of_peers(self._request.ver, addresses))
        self._expected = frozenset(map(_ip_of, ways))
        self._listen(session.services.access.egress.ordered(ways))

    def _expect_anybody(self, family: int) -> None:
        """Listen for a peer at any address, preferably of *family*.

        Raises:
            HandshakeError, DialError, OSError: as ``resolved``.
        """
        self._demand_anybody()
        ways = ways_from_anywhere(family, self._session.sock.getsockname())
        self._listen(of_peers(self._request.ver, ways))

    def _demand_anybody(self) -> None:
        """Check whether a peer of some address is allowed.

        Raises:
            RefusedByRules: none is.
        """
        session, request = self._session, self._request
        rules = session.services.access.rules
        rules.precheck_any(session.client, request.ver, request.cmd, request.dst).raise_if_denied()

    def _listen(self, ways: List[Sockaddr]) -> None:
        session = self._session
        services = session.services
        if services.bind_listeners.is_full and not self._has_waited:
            # At the start of the next round sockets are closed that may make room.
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
        """End, because the peer would be a new connection."""
        self.abort("shutdown")

    def descriptor_ready(self, fd: int) -> None:
        """Accept a peer."""
        self._accept()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            make_room = self._session.services.make_room
            peer, sockaddr = with_room(make_room, self._listener.sock.accept)
        except BlockingIOError:
            return
        except OSError as exc:
            self._wrong_peers += 1  # the peer has left, or accept fails for ever
            if exc.errno not in _WAIT_ON or self._wrong_peers >= MAX_WRONG_PEERS:
                why = "a peer at %s could not be accepted: %s" % (self._place(), exc.strerror)
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
                session.record.why = str(exc)  # if the request is refused later
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
        """Check whether the peer at *ip* is the expected one, and allowed.

        Its port does not matter, because servers connect from any port.  Rules see the port that
        the client has named.

        Raises:
            RefusedByRules: it is not.
        """
        session, request = self._session, self._request
        if self._expected and ip not in self._expected:
            raise _WrongPeer(
                "%s connected to %s, but the client expects %s"
                % (text_ip(ip), self._place(), request.dst.name)
            )
        dst = request.dst if self._expected else Address.of_ip(ip, request.dst.port)
        rules = session.services.access.rules
        rules.decide(session.client, request.ver, request.cmd, dst, ip, scope).raise_if_denied()

    def _place(self) -> str:
        return self._session.record.bound or ""

    def timeout_error(self) -> DialError:
        """Return an error that names the listener that no peer has connected to."""
        if self._listener is None:
            return super().timeout_error()
        return DialError("no peer connected to %s in time" % self._place(), Rep.TTL_EXPIRED)

    def give_all_back(self) -> None:
        """Close the listener."""
        if self._listener is not None:
            bind_listener, self._listener = self._listener, None
            self._session.services.bind_listeners.give_back(bind_listener)


def _ip_of(address: Sockaddr) -> bytes:
    """Return the IP address of *address* as 4 or 16 bytes."""
    return plain_ip(address[1][0])
