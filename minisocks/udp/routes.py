"""Routes of one association: where its datagrams go, and which ones come back.

The rules, the program's hook and the addresses of a name are asked once for a target; the answers
are kept (``mappings``).

In the words of RFC 4787 it is a NAT with endpoint-independent mapping, because all targets of a
family see one port of ours, and address-dependent filtering, because a target may answer from
another port (TFTP does) if the rules allow that one, too.  With ``--udp-filtering
endpoint-independent`` any address that the rules allow may write to the client, but none of this
host.
"""

import functools
from typing import Any, Callable, Dict, List, Optional, Tuple

from minisocks.errors import DialError, HandshakeError
from minisocks.hooks import ProxyRequest, check_authorized
from minisocks.net.dialer import MAX_ADDRESSES, interleaved
from minisocks.net.job import Job, Timer
from minisocks.net.lookup import NAME_SECONDS, Outcome, numeric_addresses
from minisocks.net.resolver import Lookup
from minisocks.policy.client import Groups
from minisocks.policy.networks import Sockaddr
from minisocks.policy.rulelines import Decision
from minisocks.protocol.datagram import encode_header
from minisocks.record import Datagrams, Drop, Record
from minisocks.udp.mappings import FOR_ALL_ADDRESSES, Mappings, NotSent, Way, contact_key, drop_of
from minisocks.udp.table import AssociationTable
from minisocks.wire import Address, Atyp, Cmd, Rep, Ver, packed_ip, scope_of, text_ip

__all__ = ["Routes"]

#: Names of one association that are looked up at once, and datagrams that wait for each.
MAX_LOOKUPS = 8
MAX_WAITING = 8

#: Questions to the program's hook count as of another network than the client's own: this goes
#: before the name of that network.
THE_PROGRAM = b"program "

_LOOPBACK = {4: bytes((127, 0, 0, 1)), 16: bytes(15) + b"\1"}

#: A datagram that waits: its data, and the port of the client that it comes from.
_Datagram = Tuple[bytes, Any]


class Routes:
    """The targets of one association.  Loop thread.

    Args:
        owner: the job whose look-ups these are; they are called back only while it lives.
        socket_for: returns the socket for targets of a family, and opens it.
    """

    __slots__ = (
        *("_changes", "_counts", "_lookups", "_owner", "_record", "_table", "_socket_for"),
        *("_timer", "mappings"),
    )

    def __init__(
        self,
        table: AssociationTable,
        record: Record,
        counts: Datagrams,
        owner: Job,
        socket_for: Callable[[int], Any],
    ) -> None:
        self._table = table
        self._record = record
        self._counts = counts
        self._owner = owner
        self._socket_for = socket_for
        self.mappings = Mappings(table, record.client)
        self._changes = table.access.own.changes()
        #: Look-ups by header, and the datagrams that wait for each.
        self._lookups: Dict[bytes, Tuple[Lookup, List[_Datagram]]] = {}
        self._timer: Optional[Timer] = None

    def send(self, key: bytes, dst: Address, data: Any, writer: Any) -> None:
        """Send *data* to *dst*, now or after a look-up; or drop it.

        Args:
            key: the header with *dst*, with FRAG 0.
            writer: the sockaddr of the client's port.
        """
        try:
            way = self.mappings.ways.get(key)
            if way is not None:
                self._send_on(way, data, writer)
            elif key in self._lookups:
                self._keep(key, data, writer)
            else:
                outcome = self._addresses(dst)
                if isinstance(outcome, Exception):
                    self._dropped(key, outcome)  # not raised: it would keep *data* as long
                elif outcome is not None:
                    self._send_first(key, dst, outcome, data, writer)
                else:
                    self._look_up(key, dst)
                    self._keep(key, data, writer)
        except (HandshakeError, DialError, OSError) as exc:
            self._dropped(key, exc)

    def ways(self) -> Dict[bytes, Way]:
        """Return the ways by header, as far as they are decided and still hold."""
        changes = self._table.access.own.changes()
        if changes != self._changes:
            # This host has a new address, or one less, and it may be a target.
            self.mappings.forget_decisions()
            self._changes = changes
        return self.mappings.ways

    def header_of(self, source: Any) -> Optional[bytes]:
        """Return the header for datagrams from *source*; None: they are dropped."""
        ip = packed_ip(source[0]) or b""
        port = source[1]
        host = contact_key(source, ip)
        contact = self.mappings.contact((host, port))
        if self._table.hooks.authorize is None:
            contact = contact or self.mappings.contact(host)
        # With a hook not: the program was not asked about this port.
        if contact is not None:
            dst = contact.dst._replace(port=port)
        elif self._takes_unasked(ip, scope_of(source)):
            dst = Address.of_ip(ip, port)
        else:
            self._counts.drop(Drop.UNASKED)
            return None
        if not self._decide(dst, ip, scope_of(source)).allowed:
            self._counts.drop(Drop.DENIED)
            return None
        header = encode_header(ip, port)
        if contact is not None:
            # Other sources take no memory, however many they are.
            self.mappings.add_header(source, header)
        return header

    def _takes_unasked(self, ip: bytes, scope: int) -> bool:
        """Return whether the client gets datagrams from *ip* without having written to it."""
        table = self._table
        return (
            table.access.config.udp_filtering == "endpoint-independent"
            and table.hooks.authorize is None
            and table.access.own(ip, scope) is False
        )

    def forget(self) -> None:
        """Remove all targets, and drop what waits for them."""
        self.mappings.forget()
        for key in list(self._lookups):
            self._lookups[key][0].cancel()
            self._counts.drop(Drop.NO_ROOM, len(self._taken(key)))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # What is sent

    def _addresses(self, dst: Address) -> Optional[Outcome]:
        """Return the addresses of *dst*, or the error; None: it has to be looked up.

        Raises:
            RefusedByRules: whatever its addresses are.
        """
        table = self._table
        if table.hooks.authorize is not None:
            self._precheck(dst)
            return None  # the hook may take long, so a thread of the resolver calls it
        found = numeric_addresses(dst.host, dst.port, dst.atyp)
        if found:
            return found
        self._precheck(dst)
        return table.answers.get(dst.host)

    def _precheck(self, dst: Address) -> None:
        rules, client = self._table.access.rules, self._record.client
        rules.precheck(client, Ver.SOCKS5, Cmd.UDP_ASSOCIATE, dst).raise_if_denied()

    def _send_on(self, way: Way, data: Any, writer: Any) -> None:
        """Send *data* as it is known how.

        Raises:
            OSError: it is not sent.
        """
        self._sent(way[0](data, way[1]))
        self.mappings.written(way[1], writer)

    def _send_first(
        self, key: bytes, dst: Address, addresses: List[Sockaddr], data: Any, writer: Any
    ) -> None:
        """Send to the first of *addresses* that may be written to, and can; remember which.

        Raises:
            RefusedByRules: none may.
        """
        decision = Decision(False, "no address that could be written to")
        error: OSError = NotSent(Drop.NO_ADDRESS)
        first: Optional[Tuple[bytes, Any]] = None
        for ip, short, place in self._places(dst, addresses):
            decision = self._decide(dst, ip, scope_of(place))
            if not decision.allowed:
                continue
            try:
                way = (self._socket_for(len(short)).sendto, place)
                sent = way[0](data, place)
            except OSError as exc:
                error = exc.with_traceback(None)  # else they would keep each other
                if exc.errno in FOR_ALL_ADDRESSES:
                    first = None  # the next datagram may find another one
                    break
                first = first or (short, place)
            else:
                self.mappings.add_contact(dst, contact_key(place, short), writer)
                self._add_way(key, way)
                self._sent(sent)
                return
        if isinstance(error, NotSent):
            decision.raise_if_denied()
        if first is not None and len(addresses) > 1:
            # Not all of them for each datagram, because there may be very many.
            short, place = first
            self.mappings.add_contact(dst, contact_key(place, short), writer)
            self._add_way(key, (self._send_to, place))
        self._dropped(key, error)

    def _places(self, dst: Address, addresses: List[Sockaddr]) -> List[Tuple[bytes, bytes, Any]]:
        """Return the *addresses* to try: as bytes, as the bytes that answer, as a sockaddr."""
        mappings: List[Tuple[bytes, bytes, Any]] = []
        others: List[Tuple[bytes, bytes, Any]] = []
        for _family, sockaddr in interleaved(self._table.access.egress.ordered(addresses)):
            ip = packed_ip(sockaddr[0])
            if ip is None:
                continue
            short = _answering(ip)
            host = sockaddr[0] if short is ip else text_ip(short)
            place = (host, dst.port) + (sockaddr[2:] if len(short) > 4 else ())
            # Peers with a mapping first, so that a name always means the same address.
            is_new = self.mappings.contact(contact_key(place, short)) is None
            (others if is_new else mappings).append((ip, short, place))
        return (mappings + others)[:MAX_ADDRESSES]

    def _send_to(self, data: Any, place: Any) -> int:
        """Send *data* to *place*, to which it could not be sent before.

        Raises:
            OSError: it still cannot be sent.
        """
        sent: int = self._socket_for(16 if ":" in place[0] else 4).sendto(data, place)
        return sent

    def _sent(self, count: int) -> None:
        self._record.up += count
        self._counts.up += 1

    def _decide(self, dst: Address, ip: bytes, scope: int) -> Decision:
        rules, client = self._table.access.rules, self._record.client
        return rules.decide(client, Ver.SOCKS5, Cmd.UDP_ASSOCIATE, dst, ip, scope)

    def _dropped(self, key: bytes, exc: Exception, count: int = 1) -> None:
        """Drop *count* datagrams with the header *key*; keep that way if they were refused."""
        if isinstance(exc, OSError):
            self._counts.drop(drop_of(exc), count)
            return
        drop = Drop.DENIED
        if isinstance(exc, DialError):
            drop = Drop.NO_ROOM if _is_passing(exc) else Drop.NO_ADDRESS
        self._counts.drop(drop, count)
        self._record.why = self._record.why or str(exc)
        if drop == Drop.DENIED or self._table.hooks.authorize is not None:
            # The program is not asked for each datagram, whatever its answer is.
            self._add_way(key, (_refuse, drop))

    # Names

    def _look_up(self, key: bytes, dst: Address) -> None:
        """Have the resolver look *dst* up.

        Raises:
            NotSent, DialError: there are too many look-ups.
        """
        if len(self._lookups) >= MAX_LOOKUPS:
            raise NotSent(Drop.NO_ROOM)
        table, client, question = self._table, self._record.client, self._question(dst)
        loop, owner = table.loop, self._owner
        groups: Groups = client.groups
        if question is not None:
            # A slow hook then takes no threads from look-ups, and none from other clients.
            groups = (THE_PROGRAM + groups[0],) + groups[1:]
        waiting: List[_Datagram] = []
        lookup = Lookup(
            dst.host,
            dst.port,
            lambda outcome: loop.call_soon(owner, self._found, key, dst, waiting, outcome),
            groups,
            question,
            table.access.egress.only,
        )
        self._lookups[key] = table.resolver.submit(lookup), waiting

    def _question(self, dst: Address) -> Optional[Callable[[], Any]]:
        """Return what calls the hook, in a thread of the resolver; None: there is no hook."""
        hook, client, user = self._table.hooks.authorize, self._record.client, self._record.user
        if hook is None:
            return None
        request = ProxyRequest(
            client, int(Ver.SOCKS5), Cmd.UDP_ASSOCIATE.name, dst.name, dst.port, user, ""
        )
        return functools.partial(check_authorized, hook, request)

    def _found(
        self, key: bytes, dst: Address, asked_for: List[_Datagram], outcome: Outcome
    ) -> None:
        if key not in self._lookups or self._lookups[key][1] is not asked_for:
            return  # the answer was on its way when all targets were removed
        if self._table.hooks.authorize is None and not _is_passing(outcome):
            self._table.answers.add(dst.host, outcome)
        waiting = self._taken(key)
        if isinstance(outcome, Exception):
            self._dropped(key, outcome, len(waiting))
            return
        for data, writer in waiting:
            try:
                way = self.ways().get(key)
                if way is None:
                    self._send_first(key, dst, outcome, data, writer)
                else:
                    self._send_on(way, data, writer)
            except (HandshakeError, OSError) as exc:
                self._dropped(key, exc)

    def _keep(self, key: bytes, data: Any, writer: Any) -> None:
        """Have *data* wait for an address."""
        waiting = self._lookups[key][1]
        fits = len(waiting) < MAX_WAITING
        if fits and self._table.hold(self._record.client, len(data)):
            waiting.append((bytes(data), writer))
        else:
            self._counts.drop(Drop.NO_ROOM)

    def _taken(self, key: bytes) -> List[_Datagram]:
        """Return the datagrams that waited, and count them out."""
        waiting = self._lookups.pop(key)[1]
        self._table.release(self._record.client, sum(len(data) for data, _ in waiting))
        return waiting

    def _forget_passing(self) -> None:
        """Remove ways by name and refused ones: their next datagrams are decided anew."""
        self._timer = None
        self.mappings.forget_ways(_may_change)

    def _add_way(self, key: bytes, way: Way) -> None:
        self.mappings.add_way(key, way)
        if self._timer is None and _may_change(key, way):
            loop = self._table.loop
            self._timer = loop.call_later(NAME_SECONDS, self._owner, self._forget_passing)


def _answering(ip: bytes) -> bytes:
    """Return the address from which *ip* answers: 0.0.0.0 and :: are this host's loopback."""
    return ip if any(ip) else _LOOPBACK[len(ip)]


def _is_passing(outcome: Any) -> bool:
    """Return whether it is a lack of threads or descriptors, and not about the name."""
    return isinstance(outcome, DialError) and outcome.rep != Rep.HOST_UNREACHABLE


def _may_change(key: bytes, way: Way) -> bool:
    return key[3] == Atyp.DOMAINNAME or way[0] is _refuse


def _refuse(data: Any, drop: str) -> int:
    raise NotSent(drop)
