"""BIND: from the request to a listener, and from that to a pair, or to an error.

For protocols whose servers connect back, such as FTP in active mode (RFC 1928 section 4, the
SOCKS4 memo).  It takes one connection, from the peer that the client names.  Another peer is
reset and the client waits on; with SOCKS4 such a peer ends the request, as the memo says.
"""

import errno
import functools
import socket
from typing import FrozenSet, List, Optional, Sequence

from minisocks.compat import READ, tune
from minisocks.errors import DialError, RefusedByRules
from minisocks.net.capacity import with_room
from minisocks.net.egress import Egress
from minisocks.net.lookup import numeric_addresses
from minisocks.net.ports import public_address
from minisocks.policy.networks import Sockaddr, of_peers
from minisocks.protocol.handshake import Request
from minisocks.server.bindlisteners import BindListener, ways_from_anywhere
from minisocks.server.bindthrough import BindThrough
from minisocks.server.peers import WrongPeer, check_peer, demand_any_peer
from minisocks.server.session import Session
from minisocks.server.waiting import WaitingRequest
from minisocks.wire import Address, Rep, Ver, plain_ip, scope_of

__all__ = ["Bind"]

#: Errors of accept about a peer that has left already.
_WAIT_ON = (errno.ECONNABORTED, errno.EPROTO, errno.EINTR)
#: After so many wrong peers the request ends, because each costs as much as a refused client.
MAX_WRONG_PEERS = 1000


class Bind(WaitingRequest):
    """One BIND.

    ::

        look up the name -> check -> listen, first reply -> check the peer -> second reply -> pair

    Where the rule that decides names exits, ``BindThrough`` goes on.

    Args:
        egress: by which the peer comes, of the exit that is chosen; None: none is chosen yet.
        ways: with *egress*: the addresses of the peer, which the rules allow.
    """

    __slots__ = ("_egress", "_listener", "_expected", "_has_waited", "_wrong_peers", "_ways")

    left = "the client left while it waited for its peer"

    def __init__(
        self,
        session: Session,
        request: Request,
        ways: Sequence[Sockaddr] = (),
        egress: Optional[Egress] = None,
    ) -> None:
        super().__init__(session, request)
        self._egress = egress
        self._listener: Optional[BindListener] = None
        #: The addresses that the peer may have; empty: any address.
        self._expected: FrozenSet[bytes] = frozenset()
        self._ways: List[Sockaddr] = list(ways)
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
        dst, session = self._request.dst, self._session
        addresses = self._ways or numeric_addresses(dst.host, dst.port, dst.atyp)
        # Only in this spelling, which rules and the program's hook see, too.
        if dst.is_any_peer:
            demand_any_peer(session, self._request)
            if session.exits and self._egress is None:
                self._go_through(addresses)
                return
            self._expect_anybody(socket.AF_INET6 if ":" in dst.name else socket.AF_INET)
        elif addresses:
            self.resolved(addresses)
        elif session.exits:
            self._go_through([])
        else:
            self.look_up()

    def recheck(self) -> bool:
        """Check the request again, and whether at least one of its peers is still allowed."""
        is_changed = super().recheck()
        if is_changed and self._listener is not None:
            if self._expected:
                self.allowed(self._ways)
            else:
                demand_any_peer(self._session, self._request)
        return is_changed

    def resolved(self, addresses: List[Sockaddr]) -> None:
        """Listen for a peer at those of *addresses* that are allowed.

        Raises:
            HandshakeError, DialError: none is, or there is no listener for them.
            OSError: the client has left.
        """
        ways = self.allowed(of_peers(self._request.ver, addresses))
        if self._session.exits and self._egress is None:
            self._go_through(ways)
            return
        self._ways = ways
        self._expected = frozenset(map(_ip_of, ways))
        self._listen(self._way_out().ordered(ways))

    def _go_through(self, addresses: List[Sockaddr]) -> None:
        """Leave by the exits of the session.

        Raises:
            DialError: there is none to try.
        """
        session, request = self._session, self._request
        make_bind = functools.partial(Bind, session, request)
        self.hand_over(BindThrough(session, request, addresses, make_bind))

    def _way_out(self) -> Egress:
        return self._egress or self._session.services.access.egress

    def _expect_anybody(self, family: int) -> None:
        """Listen for a peer at any address, preferably of *family*.

        Raises:
            HandshakeError, DialError, OSError: as ``resolved``.
        """
        ways = ways_from_anywhere(family, self._session.sock.getsockname())
        self._listen(of_peers(self._request.ver, ways))

    def _listen(self, ways: List[Sockaddr]) -> None:
        session = self._session
        services = session.services
        if services.bind_listeners.is_full and not self._has_waited:
            # At the start of the next round sockets are closed that may make room.
            self._has_waited = True
            services.loop.call_soon(self, self._try, self._listen, ways)
            return
        self._listener = bind_listener = services.bind_listeners.take(
            session.client, self._way_out(), ways, self._refuse
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
            ip, scope = plain_ip(sockaddr[0]), scope_of(sockaddr)
            check_peer(session, self._request, self._expected, ip, scope)
        except RefusedByRules as exc:
            session.services.loop.close_later(peer, reset=True)
            self._wrong_peers += 1
            ends_it = isinstance(exc, WrongPeer) and self._request.ver == Ver.SOCKS4
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
