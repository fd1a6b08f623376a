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
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

from minisocks.errors import CannotCarry, DialError, HandshakeError
from minisocks.net.dialer import MAX_ADDRESSES, interleaved
from minisocks.net.job import Job, Timer
from minisocks.net.lookup import NAME_SECONDS, Outcome, numeric_addresses
from minisocks.policy.exits import Exit
from minisocks.policy.networks import Sockaddr
from minisocks.policy.rulelines import Decision
from minisocks.protocol.datagram import encode_header
from minisocks.record import Datagrams, Drop, Record
from minisocks.udp.byexits import NO_ADDRESS, ByExits, Datagram
from minisocks.udp.mappings import (
    FOR_ALL_ADDRESSES,
    Mappings,
    NotSent,
    NotYet,
    Way,
    answering,
    contact_key,
    drop_of,
    may_change,
    refuse,
)
from minisocks.udp.names import NO_NAMES, Names, Waiting, is_passing
from minisocks.udp.sockets import Sockets
from minisocks.udp.table import AssociationTable
from minisocks.wire import Address, Cmd, Ver, packed_ip, scope_of, text_ip

__all__ = ["Routes"]


class Routes:
    """The targets of one association.  Loop thread.

    Args:
        owner: the job whose look-ups these are; they are called back only while it lives.
        socket_for: returns the socket for targets of a family, by an exit if one is given.
        sockets: returns what exits need of the association.
    """

    __slots__ = (
        *("_changes", "_counts", "_exits", "_names", "_owner", "_record", "_table"),
        *("_socket_for", "_sockets", "_timer", "mappings"),
    )

    def __init__(
        self,
        table: AssociationTable,
        record: Record,
        counts: Datagrams,
        owner: Job,
        socket_for: Callable[..., Any],
        sockets: Callable[[], Sockets],
    ) -> None:
        self._table = table
        self._record = record
        self._counts = counts
        self._owner = owner
        self._socket_for = socket_for
        self._sockets = sockets
        #: Made when a target leaves by an exit.
        self._exits: Optional[ByExits] = None
        self.mappings = Mappings(table, record.client)
        self._changes = table.access.own.changes()
        self._names: Names = NO_NAMES
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
            elif key in self._names:
                self._names.keep(key, data, writer)
            elif self._exits is None or not self._exits.keep(key, data, writer):
                outcome = self._addresses(dst)
                if isinstance(outcome, Exception):
                    self._dropped(key, outcome)  # not raised: it would keep *data* as long
                elif outcome is not None:
                    self._send_first(key, dst, outcome, data, writer)
                else:
                    self._look_up(key, dst)
                    self._names.keep(key, data, writer)
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
        elif self._table.takes_unasked(ip, scope_of(source)):
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

    def ask_again(self) -> None:
        """Decide anew about each target, because rules have changed."""
        self.mappings.forget_decisions()
        if self._exits is not None:
            self._exits.adopt()

    def forget(self, now: bool = False) -> None:
        """Remove all targets, and drop what waits for them.

        Args:
            now: close at once what has descriptors.
        """
        if self._exits is not None:
            self._exits.forget(now)
            self._exits = None  # the two refer to each other
        self.mappings.forget()
        self._names.forget()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # What is sent

    def _addresses(self, dst: Address) -> Union[Outcome, Exit, None]:
        """Return the addresses of *dst*, or the error; None: it has to be looked up.

        The exit, if that looks it up.

        Raises:
            RefusedByRules: whatever its addresses are.
            DialError, NotSent: its exits carry no datagrams, or have failed.
        """
        table = self._table
        if table.hooks.authorize is not None:
            self._precheck(dst)
            return None  # the hook may take long, so a thread of the resolver calls it
        found = _addresses_in(dst)
        if found:
            return found
        names = self._precheck(dst)
        exit = self.by_exits().choose(names) if names else None
        return exit if exit and not exit.resolves_here else table.answers.get(dst.host)

    def _precheck(self, dst: Address) -> Tuple[str, ...]:
        """Return the exits of the rule that decides whatever the addresses of *dst* are.

        Raises:
            RefusedByRules: that rule denies it.
        """
        rules, client = self._table.access.rules, self._record.client
        decision = rules.precheck(client, Ver.SOCKS5, Cmd.UDP_ASSOCIATE, dst)
        decision.raise_if_denied()
        return self._names.exits(decision.exits) if decision.number else ()

    def by_exits(self) -> ByExits:
        """Return the exits of the association; most have none."""
        if self._exits is None:
            table, record, counts = self._table, self._record, self._counts
            ways = self.mappings, self._sockets(), self._add_way
            self._exits = ByExits(table, record, counts, *ways, self.send)
        return self._exits

    def _send_on(self, way: Way, data: Any, writer: Any) -> None:
        """Send *data* as it is known how.

        Raises:
            OSError: it is not sent.
        """
        self._sent(way[0](data, way[1]))
        self.mappings.written(way[1], writer)

    def _send_first(
        self,
        key: bytes,
        dst: Address,
        addresses: Union[List[Sockaddr], Exit],
        data: Any,
        writer: Any,
    ) -> None:
        """Send to the first of *addresses* that may be written to, and can; remember which.

        Raises:
            RefusedByRules: none may.
            DialError, OSError: its exits carry no datagrams, or have failed.
        """
        if isinstance(addresses, Exit):
            place = (NO_ADDRESS, dst.port)
            self.by_exits().send(addresses, Datagram(key, dst, place, data, writer))
            return
        decision = Decision(False, "no address that could be written to")
        error: OSError = NotSent(Drop.NO_ADDRESS)
        first: Optional[Tuple[bytes, Any]] = None
        for ip, short, place in self._places(dst, addresses):
            decision = self._decide(dst, ip, scope_of(place))
            if not decision.allowed:
                continue
            names = self._names.exits(decision.exits)
            exit = self.by_exits().choose(names) if names else None
            if exit is not None and exit.hops:
                self.by_exits().send(exit, Datagram(key, dst, place, data, writer))
                return
            try:
                way = (self._socket(len(short), exit).sendto, place)
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
            self._add_way(key, (functools.partial(self._send_to, exit), place))
        self._dropped(key, error)

    def _places(self, dst: Address, addresses: List[Sockaddr]) -> List[Tuple[bytes, bytes, Any]]:
        """Return the *addresses* to try: as bytes, as the bytes that answer, as a sockaddr."""
        mappings: List[Tuple[bytes, bytes, Any]] = []
        others: List[Tuple[bytes, bytes, Any]] = []
        for _family, sockaddr in interleaved(self._table.access.egress.ordered(addresses)):
            ip = packed_ip(sockaddr[0])
            if ip is None:
                continue
            short = answering(ip)
            host = sockaddr[0] if short is ip else text_ip(short)
            place = (host, dst.port) + (sockaddr[2:] if len(short) > 4 else ())
            # Peers with a mapping first, so that a name always means the same address.
            is_new = self.mappings.contact(contact_key(place, short)) is None
            (others if is_new else mappings).append((ip, short, place))
        return (mappings + others)[:MAX_ADDRESSES]

    def _socket(self, size: int, exit: Optional[Exit]) -> Any:
        """Return the socket for targets whose address has *size* bytes, by *exit* if there is one.

        Raises:
            OSError: it cannot be opened.
        """
        if exit is None:
            return self._socket_for(size)
        self.by_exits().left_by(exit)
        return self._socket_for(size, exit)

    def _send_to(self, exit: Optional[Exit], data: Any, place: Any) -> int:
        """Send *data* to *place*, to which it could not be sent before.

        Raises:
            OSError: it still cannot be sent.
        """
        sent: int = self._socket(16 if ":" in place[0] else 4, exit).sendto(data, place)
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
            if isinstance(exc, NotYet) and self._table.hooks.authorize is not None:
                self._add_way(key, (self.by_exits().refuse, exc.at))  # as below
            return
        drop = Drop.DENIED
        if isinstance(exc, DialError):
            drop = Drop.NO_ROOM if is_passing(exc) else Drop.NO_ADDRESS
            drop = Drop.NOT_SENT if isinstance(exc, CannotCarry) else drop
        self._counts.drop(drop, count)
        self._record.why = self._record.why or str(exc)
        if drop in (Drop.DENIED, Drop.NOT_SENT) or self._table.hooks.authorize is not None:
            # The program is not asked for each datagram, whatever its answer is.
            self._add_way(key, (refuse, drop))

    # Names

    def _look_up(self, key: bytes, dst: Address, is_allowed: bool = False) -> None:
        """Have *dst* looked up, and the hook asked before that unless *is_allowed*.

        Raises:
            NotSent, DialError: there are too many look-ups.
        """
        # Where an exit may look it up, the hook is asked, and then it is seen.
        if self._names is NO_NAMES:
            self._names = Names(self._table, self._record, self._counts, self._owner)
        only_asks = bool(self._table.access.exits) and not _addresses_in(dst)
        self._names.look_up(key, dst, self._found, is_allowed, only_asks)

    def _found(
        self,
        key: bytes,
        dst: Address,
        waiting: List[Waiting],
        only_asks: bool,
        outcome: Outcome,
    ) -> None:
        found: Union[Outcome, Exit, OSError, None] = outcome
        if only_asks and isinstance(outcome, list):
            found = self._after_hook(key, dst, waiting)
        if isinstance(found, Exception):
            self._dropped(key, found, len(waiting))
        if found is None or isinstance(found, Exception):
            return
        for data, writer in waiting:
            try:
                way = self.ways().get(key)
                if way is None:
                    self._send_first(key, dst, found, data, writer)
                else:
                    self._send_on(way, data, writer)
            except (HandshakeError, DialError, OSError) as exc:
                self._dropped(key, exc)

    def _after_hook(
        self, key: bytes, dst: Address, waiting: List[Waiting]
    ) -> Union[Exit, HandshakeError, DialError, OSError, None]:
        """Return the exit of *dst*, or the error; None: it is looked up here, and they wait."""
        try:
            names = self._precheck(dst)
            exit = self.by_exits().choose(names) if names else None
            if exit is not None and not exit.resolves_here:
                return exit
            self._look_up(key, dst, is_allowed=True)
        except (HandshakeError, DialError, OSError) as exc:
            return exc
        for data, writer in waiting:
            self._names.keep(key, data, writer)
        return None

    def _forget_passing(self) -> None:
        """Remove ways by name and refused ones: their next datagrams are decided anew."""
        self._timer = None
        self.mappings.forget_ways(may_change)

    def _add_way(self, key: bytes, way: Way) -> None:
        self.mappings.add_way(key, way)
        if self._timer is None and may_change(key, way):
            loop = self._table.loop
            self._timer = loop.call_later(NAME_SECONDS, self._owner, self._forget_passing)


def _addresses_in(dst: Address) -> List[Sockaddr]:
    return numeric_addresses(dst.host, dst.port, dst.atyp)
