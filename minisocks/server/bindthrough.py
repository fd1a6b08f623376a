"""BIND through exits: a proxy on the way listens for the peer, and this one passes its replies on.

An exit without hops listens on this host: ``bind`` goes on then.
"""

import socket
from typing import Callable, FrozenSet, List, Optional, Sequence

from minisocks.compat import READ
from minisocks.errors import CannotCarry, DialError, ExitFailed
from minisocks.exits.dial import ExitDial, receive
from minisocks.net.egress import Egress
from minisocks.policy.networks import Sockaddr, of_peers
from minisocks.protocol.clientside import ClientSide, Reply
from minisocks.protocol.handshake import Request
from minisocks.server.connect import Connect
from minisocks.server.peers import check_peer, demand_any_peer
from minisocks.server.session import Session
from minisocks.server.throughexits import AnyDial, ThroughExits
from minisocks.server.waiting import WaitingRequest
from minisocks.wire import Atyp, Rep, Ver, packed_ip, plain_ip

__all__ = ["BindThrough"]

#: Makes the request that listens on this host for peers at some addresses, by an egress.
MakeBind = Callable[[List[Sockaddr], Egress], WaitingRequest]


class BindThrough(Connect):
    """One BIND that leaves by an exit.  Begun in the loop.

    As CONNECT by exits up to the reply, which is the first one here::

        dial the hops -> first reply -> second reply -> check the peer -> pair

    After the first reply no other exit is tried, because the client has told its peer where to
    connect to.

    Args:
        addresses: of the peer, if its name has been looked up.
        make_bind: for an exit without hops.
    """

    __slots__ = ("_addresses", "_expected", "_hop", "_make_bind", "_side", "_ways")

    left = "the client left while it waited for its peer"

    def __init__(
        self,
        session: Session,
        request: Request,
        addresses: Sequence[Sockaddr],
        make_bind: MakeBind,
    ) -> None:
        super().__init__(session, request)
        self._make_bind = make_bind
        self._addresses = list(addresses)
        #: The connection to the hop that has sent the first reply, and its handshake.
        self._hop: Optional[socket.socket] = None
        self._side: Optional[ClientSide] = None
        #: The addresses that the hop was asked for; empty: a name.
        self._ways: List[Sockaddr] = []
        self._expected: FrozenSet[bytes] = frozenset()

    def time_limit(self) -> float:
        """Return ``--connect-timeout`` or ``--bind-timeout``, the shorter one."""
        config = self._session.services.access.config
        return min(config.connect_timeout, config.bind_timeout)

    def go_on(self) -> None:
        """Find out by which exits the peer is reached, and try them."""
        if self._addresses:
            self.resolved(self._addresses)
        else:
            super().go_on()

    def allowed(self, addresses: List[Sockaddr]) -> List[Sockaddr]:
        """Return those of *addresses* that the peer may have.

        Raises:
            RefusedByRules, DialError: none.
        """
        if self._request.dst.is_any_peer:
            demand_any_peer(self._session, self._request)
            return addresses
        return super().allowed(of_peers(self._request.ver, addresses))

    def recheck(self) -> bool:
        """Check the request again, and whether at least one of its peers is still allowed."""
        is_changed = super().recheck()
        if is_changed and self._ways:
            self.allowed(self._ways)
        return is_changed

    def leave_directly(self, addresses: List[Sockaddr]) -> None:
        """Listen on this host, because the rule of *addresses* names no exits."""
        self._listen_here(addresses, self._session.services.access.egress)

    def descriptor_ready(self, fd: int) -> None:
        """Look at the attempts, or at what the hop sends after its first reply."""
        if self._hop is None:
            super().descriptor_ready(fd)
        else:
            self._read_reply()

    def dialed(self, upstream: socket.socket, dial: AnyDial) -> None:
        """Pass the first reply on, and wait for the second one.

        Raises:
            DialError: the client cannot use the first reply.
            OSError: the client has left.
        """
        session, through = self._session, self._through
        assert isinstance(dial, ExitDial)
        assert through is not None
        self.give_all_back()
        self._dial = None
        self._hop, self._side = upstream, dial.side
        self._ways = dial.addresses
        if not self._request.dst.is_any_peer:
            self._expected = frozenset(plain_ip(way[1][0]) for way in self._ways)
        session.record.exit = through.exit.name
        session.services.exits.worked(through.exit.name)
        place = dial.place()
        session.record.bound = str(place)
        ip = packed_ip(place.name) if place.atyp != Atyp.DOMAINNAME else None
        if ip is None and dial.reply is not None and dial.reply.bnd.atyp != Atyp.DOMAINNAME:
            ip = bytes(4)  # the client knows the name of the hop as little as its address
        if ip is None or (len(ip) == 16 and self._request.ver == Ver.SOCKS4):
            raise self._error("the client cannot use its first reply, which names %s" % (place,))
        self._restart_clock()
        session.listening(ip, place.port)
        session.services.loop.watch(upstream.fileno(), READ, self)
        self._read_reply()

    def stop_listening(self) -> None:
        """End, because the peer would be a new connection."""
        self.abort("shutdown")

    def timeout_error(self) -> DialError:
        """Return an error that names the hop's listener, if there is one."""
        if self._hop is None:
            return super().timeout_error()
        what = "no peer connected to %s in time" % self._session.record.bound
        return self._error(what, Rep.TTL_EXPIRED)

    def give_all_back(self) -> None:
        """Close all attempts, and the connection to the hop."""
        super().give_all_back()
        if self._hop is not None:
            self._session.services.loop.close_later(self._hop)
            self._hop = None
        if self._side is not None:
            self._side.stop_parsing()
            self._side = None

    def _try_exit(self, through: ThroughExits) -> None:
        if through.exit.hops or through.missing() is not None:
            super()._try_exit(through)
            return
        try:
            egress = through.egress()
        except CannotCarry as exc:
            self._try_next_exit(through, exc)
            return
        self._session.record.exit = through.exit.name
        self._listen_here(through.addresses, egress)

    def _listen_here(self, addresses: List[Sockaddr], egress: Egress) -> None:
        self.hand_over(self._make_bind(addresses, egress))

    def _restart_clock(self) -> None:
        """Give the peer all of ``--bind-timeout``, unless the client has sent FIN."""
        session = self._session
        if self._timer is None or session.conn.has_sent_fin:
            return
        seconds = session.services.access.config.bind_timeout - self.time_limit()
        self._ends_at += seconds
        self.start_clock()

    def _read_reply(self) -> None:
        """Take what the hop has sent, up to the second reply.

        Raises:
            HandshakeError, DialError, OSError: as ``go_on``.
        """
        hop, side = self._hop, self._side
        assert hop is not None
        assert side is not None
        reply: Optional[Reply] = None
        try:
            while reply is None:
                reply = side.next_event()
                if reply is None:
                    data = receive(hop)
                    if data is None:
                        return
                    side.receive_data(data)
        except ExitFailed as exc:
            raise self._error("after the first reply: %s" % exc) from None
        if reply.rep != Rep.SUCCEEDED:
            what = "its second reply: %s (%s)" % (reply.rep.phrase, reply.said)
            raise self._error(what, reply.rep)
        self._accepted(hop, side, reply)

    def _accepted(self, hop: socket.socket, side: ClientSide, reply: Reply) -> None:
        """Hand *hop* to the relay if the peer that its *reply* names is the right one.

        Raises:
            HandshakeError, DialError, OSError: as ``go_on``.
        """
        session, peer = self._session, reply.bnd_sockaddr
        if peer is None:
            raise self._error("its second reply names no peer")
        check_peer(session, self._request, self._expected, plain_ip(peer[0]))
        session.services.loop.unwatch(hop.fileno())
        self._hop, early = None, side.trailing_data()
        self._release()
        try:
            session.connected(hop, peer, peer, early)
        except OSError:
            session.services.loop.close_later(hop)
            raise

    def _error(self, what: str, rep: Rep = Rep.GENERAL_FAILURE) -> DialError:
        name = self._session.record.exit
        return DialError("exit %s: %s" % (name, what), rep)
