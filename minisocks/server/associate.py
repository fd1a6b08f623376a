"""UDP ASSOCIATE: from a request to an association, or to the reply that says why not."""

import socket

from minisocks.errors import DialError, HandshakeError, UnsupportedCommand
from minisocks.net.job import Job
from minisocks.net.ports import public_address
from minisocks.protocol.handshake import Request
from minisocks.server.session import Session
from minisocks.udp.association import Association
from minisocks.udp.clientports import ClientPorts
from minisocks.udp.rated import RatedAssociation
from minisocks.wire import Address, Atyp, packed_ip, unmapped

__all__ = ["NO_UDP", "Associate"]

NO_UDP = "UDP needs the address of the client: none is known on a unix socket or behind a forwarder"


class Associate(Job):
    """One UDP ASSOCIATE, which waits for one round at most; a job: all it touches is the loop's."""

    counts = False
    __slots__ = ("_has_waited", "_request", "_session")

    def __init__(self, session: Session, request: Request) -> None:
        self._session = session
        self._request = request
        self._has_waited = False

    def start(self) -> None:
        """Have the loop carry it out.  Thread: a handler's.

        Raises:
            UnsupportedCommand: of the client no address is known; the session still is the
                caller's.
        """
        if not self._session.client.has_address:
            # Datagrams would come from an address, and any other program may have that one.
            raise UnsupportedCommand(NO_UDP)
        self._session.submit(self)

    def begin(self) -> None:
        """Open the relay socket, say where it is, and relay."""
        session = self._session
        loop = session.services.loop
        if session.services.associations.is_full and not self._has_waited:
            # The next round begins with what has been closed by now: that may give the place back.
            self._has_waited = True
            loop.call_soon(self, self.begin)
            return
        loop.done(self)
        try:
            self._associate()
        except (HandshakeError, DialError) as exc:
            session.refuse(exc)
        except OSError as exc:
            session.client_left(exc)

    def on_ready(self, fd: int, mask: int) -> None:
        """Never called: it watches nothing."""

    def abort(self, why: str) -> None:
        """Close; the proxy ends, or this is our bug."""
        self._session.abort(why)

    def _associate(self) -> None:
        """Do all of it.

        Raises:
            HandshakeError, DialError: there can be no association.
            OSError: the client has left.
        """
        session = self._session
        services, client, record = session.services, session.client, session.record
        table = services.associations
        session.ask_again()
        table.make_room(client)
        relay, ip = table.ports.open(socket.SOCK_DGRAM, session.sock.getsockname())
        place = relay.getsockname()
        port = _expected_port(self._request.dst, client.ip)
        has_password = session.proof is not None
        ports = ClientPorts(
            relay, client.ip, port, services.access.config.udp_clients, has_password
        )
        association = _association(session, relay, ip, ports)
        association.proof = session.proof
        # Before the client hears of it, and others ask.
        table.enter(association, client)
        record.granted(str(Address.of_ip(ip, place[1])))
        try:
            session.associated(public_address(services.access.config, ip, client.ip), place[1])
        except OSError:
            table.leave(association, client)
            table.ports.closed(ip, place[1])
            services.loop.close_later(relay, frees_port=True)
            raise
        services.loop.submit(association)


def _association(
    session: Session, relay: socket.socket, ip: bytes, ports: ClientPorts
) -> Association:
    services = session.services
    share = services.rates.share_of(session.client, services.access.config.rate)
    if share is None:
        return Association(services.associations, session.record, session.sock, relay, ip, ports)
    return RatedAssociation(
        services.associations, session.record, session.sock, relay, ip, ports, share
    )


def _expected_port(dst: Address, client_ip: bytes) -> int:
    """Return the port that the client seems to say that it will send from; 0: none.

    Some clients name their target instead, or an address that a NAT has changed on the way.
    So a port may mean that only with no address, or with the one that we see.
    """
    ip = packed_ip(dst.name) if dst.atyp != Atyp.DOMAINNAME else b""
    if not ip:
        return 0
    return dst.port if not any(ip) or unmapped(ip) == client_ip else 0
