"""UDP ASSOCIATE: from the request to an association, or to an error."""

import socket

from minisocks.errors import DialError, HandshakeError, UnsupportedCommand
from minisocks.net.job import Job
from minisocks.net.ports import public_address
from minisocks.protocol.handshake import Request
from minisocks.server.session import Session
from minisocks.udp.association import Association
from minisocks.udp.mappings import ClientPorts
from minisocks.wire import Address, Atyp, packed_ip, unmapped

__all__ = ["NO_UDP", "Associate"]

NO_UDP = "UDP needs the address of the client: none is known on a unix socket or behind a forwarder"


class Associate(Job):
    """One UDP ASSOCIATE.  In the loop, which owns the associations; waits for one round at most."""

    counts = False
    __slots__ = ("_has_waited", "_request", "_session")

    def __init__(self, session: Session, request: Request) -> None:
        self._session = session
        self._request = request
        self._has_waited = False

    def start(self) -> None:
        """Hand the session to the loop.  Thread: a handler's.

        Raises:
            UnsupportedCommand: the client's address is not known; the session still is the
                caller's.
        """
        if not self._session.client.has_address:
            # Datagrams could not be checked by it: any program could send them.
            raise UnsupportedCommand(NO_UDP)
        self._session.submit(self)

    def begin(self) -> None:
        """Open the relay socket, reply, and start the association."""
        session = self._session
        loop = session.services.loop
        if session.services.associations.is_full and not self._has_waited:
            # At the start of the next round sockets are closed that may make room.
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
        """Close, because the proxy stops or has a bug."""
        self._session.abort(why)

    def _associate(self) -> None:
        """Make the association, or raise why there is none.

        Raises:
            HandshakeError, DialError: the request is refused.
            OSError: the client has left.
        """
        session = self._session
        services, client, record = session.services, session.client, session.record
        table = services.associations
        session.check_again()
        table.make_room(client)
        relay, ip = table.ports.open(socket.SOCK_DGRAM, session.sock.getsockname())
        place = relay.getsockname()
        port = _expected_port(self._request.dst, client.ip)
        has_password = session.proof is not None
        ports = ClientPorts(
            relay, client.ip, port, services.access.config.udp_clients, has_password
        )
        share = services.rates.share_of(client, services.access.config.rate)
        association = Association(table, record, session.sock, relay, ip, ports, share)
        association.proof = session.proof
        # Before the reply, so that whatever reads the table after it finds the association.
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


def _expected_port(dst: Address, client_ip: bytes) -> int:
    """Return the port that DST announces as the client's; 0: it announces none.

    Some clients send their target in DST, or their address behind a NAT.  So a port counts only
    without an address, or with the address that the client's connection comes from.
    """
    ip = packed_ip(dst.name) if dst.atyp != Atyp.DOMAINNAME else b""
    if not ip:
        return 0
    return dst.port if not any(ip) or unmapped(ip) == client_ip else 0
