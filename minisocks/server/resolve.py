"""RESOLVE and RESOLVE_PTR: the address of a name, and the name of an address.

This is Tor's extension of SOCKS (https://spec.torproject.org/socks-extensions).  After the reply
the connection is closed.
"""

import socket
from typing import List, Optional

from minisocks.errors import DialError
from minisocks.exits.dial import ExitDial
from minisocks.net.lookup import Outcome, numeric_addresses
from minisocks.net.resolver import ReverseLookup
from minisocks.policy.networks import Sockaddr
from minisocks.protocol.handshake import Request
from minisocks.server.connect import Connect
from minisocks.server.session import Session
from minisocks.server.throughexits import AnyDial, ThroughExits
from minisocks.wire import Cmd, Rep, Ver, packed_ip

__all__ = ["Resolve"]


class Resolve(Connect):
    """One look-up for a client.

    ::

        RESOLVE        look up the name -> check its addresses -> reply
        RESOLVE_PTR    check the address -> look up its name -> reply

    It is judged as CONNECT to the same name or address, so it shows no address that the client
    may not connect to.  Where the rule that decides names an exit that looks names up, the
    exit is asked, and its answer is judged likewise.
    """

    __slots__ = ("_address",)

    left = "the client left while a name was looked up"

    def __init__(self, session: Session, request: Request) -> None:
        super().__init__(session, request)
        #: RESOLVE_PTR: the address, which is allowed.
        self._address: Optional[Sockaddr] = None

    def start(self) -> None:
        """Hand the session to the loop.  Thread: a handler's."""
        self._session.submit(self)

    def go_on(self) -> None:
        """Reply at once if an address stands for the name, else look up."""
        session, request = self._session, self._request
        addresses = numeric_addresses(request.dst.host, request.dst.port, request.dst.atyp)
        if addresses:
            addresses = self.allowed(addresses)
            if request.cmd == Cmd.RESOLVE:
                self._tell(addresses)
                return
            self._address = addresses[0]
        if session.exits:
            self._through = ThroughExits(session, request, addresses)
            self._try_exit(self._through)
        elif self._address is not None:
            self._look_up_name(self._address)
        else:
            self.look_up()

    def recheck(self) -> bool:
        """Check the request again, and the address whose name is looked up."""
        is_changed = super().recheck()
        if is_changed and self._address is not None:
            self.allowed([self._address])
        return is_changed

    def resolved(self, addresses: List[Sockaddr]) -> None:
        """Reply with one of *addresses* that is allowed; or, if they are a hop's, ask the hop."""
        if self._through is not None and self._asked is not self._request.dst:
            super().resolved(addresses)
        else:
            self._tell(self.allowed(addresses))

    def _try_exit(self, through: ThroughExits) -> None:
        if self._address is not None and through.exit.resolves_here:
            self._look_up_name(self._address)
        else:
            super()._try_exit(through)

    def _look_up_name(self, address: Sockaddr) -> None:
        services = self._session.services

        def answered(outcome: Outcome) -> None:
            services.loop.call_soon(self, self._try, self._found_name, lookup, outcome)

        lookup = ReverseLookup(address, answered, self._session.client.groups)
        self._lookup = services.resolver.submit(lookup)

    def _found_name(self, lookup: ReverseLookup, outcome: Outcome) -> None:
        self._lookup = None
        if isinstance(outcome, Exception):
            raise outcome
        # Once more, because this host may have got the address meanwhile.
        self.allowed(outcome)
        self._answer(b"", lookup.name)

    def _connected(self, upstream: socket.socket, dial: AnyDial) -> None:
        """Reply with the answer of the exit, if the rules allow it."""
        session = self._session
        session.services.loop.close_later(upstream)
        reply = dial.reply if isinstance(dial, ExitDial) else None
        assert reply is not None
        answer = reply.bnd
        if self._request.cmd == Cmd.RESOLVE_PTR:
            self._answer(b"", answer.host)
            return
        is_ipv6 = ":" in answer.name
        family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
        self._tell(self.allowed([(family, (answer.name, 0, 0, 0)[: 4 if is_ipv6 else 2])]))

    def _tell(self, addresses: List[Sockaddr]) -> None:
        """Reply with one of *addresses*: IPv4, unless IPv6 is preferred.

        Tor does so, and its clients may have no use for IPv6.

        Raises:
            DialError: the client speaks SOCKS4, and there are IPv6 addresses only.
        """
        prefer = self._session.services.access.egress.prefer or socket.AF_INET
        if self._request.ver == Ver.SOCKS4:
            prefer = socket.AF_INET
        family, sockaddr = min(addresses, key=lambda address: address[0] != prefer)
        if self._request.ver == Ver.SOCKS4 and family != socket.AF_INET:
            why = "%s has no IPv4 address, and SOCKS4 carries no other" % (self._request.dst,)
            raise DialError(why, Rep.HOST_UNREACHABLE)
        self._answer(packed_ip(sockaddr[0]) or b"")

    def _answer(self, ip: bytes, name: bytes = b"") -> None:
        self._release()
        self._session.answered(ip, name)
