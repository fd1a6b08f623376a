"""The exits of one association: which carries a datagram, what waits for it, and its answers."""

import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from minisocks.errors import CannotCarry, ExitFailed, HandshakeError
from minisocks.exits.hops import User, as_address
from minisocks.exits.state import PASSED_OVER_SECONDS
from minisocks.policy.exits import DIRECT, Exit
from minisocks.policy.rulelines import Decision
from minisocks.protocol.clientside import encode_address
from minisocks.protocol.datagram import decode_header, encode_header
from minisocks.record import Datagrams, Drop, Record
from minisocks.udp.mappings import ClientPorts, Mappings, NotSent, NotYet, Way, drop_of
from minisocks.udp.sockets import Sockets
from minisocks.udp.table import AssociationTable
from minisocks.udp.upstream import MAX_HEADER_BYTES, Sender, Upstream, carries_udp, upstream_of
from minisocks.wire import Address, Atyp, Cmd, Rep, Ver, packed_ip, scope_of, text_ip

__all__ = ["ByExits", "Datagram", "NO_ADDRESS"]

#: Datagrams that wait for one exit.
MOST_WAITING = 64
#: After an end, an upstream association is made anew after so many seconds at least; they double
#: with each failure, up to the time for which exits are passed over.
PACE_SECONDS = 1.0

_HEAD_BYTES: Dict[int, int] = {Atyp.IPV4: 10, Atyp.IPV6: 22}


class Datagram(NamedTuple):
    """A datagram of the client for *dst*, and the port of the client that it comes from.

    ``key`` is its header; ``place`` is the sockaddr of the target, with ``NO_ADDRESS`` if a hop
    looks its name up.
    """

    key: bytes
    dst: Address
    place: Any
    data: Any
    writer: Any


class Source(NamedTuple):
    """What is known of a source: its header for the client, and the place it was written to."""

    header: bytes
    place: Any


class ByExits:
    """The exits of one association, made when the first target leaves by one.  Loop thread.

    Args:
        add_way: keeps how to send to a target.
        send_again: sends a datagram whose exit has failed by the next one, or drops it.
    """

    __slots__ = (
        *("_add_way", "_claims", "_counts", "_failures", "_mappings", "_record", "_retry_at"),
        *("_send_again", "_sockets", "_table", "_upstreams", "_waiting"),
    )

    def __init__(
        self,
        table: AssociationTable,
        record: Record,
        counts: Datagrams,
        mappings: Mappings,
        sockets: Sockets,
        add_way: Callable[[bytes, Way], None],
        send_again: Callable[[bytes, Address, Any, Any], None],
    ) -> None:
        self._table = table
        self._record = record
        self._counts = counts
        self._mappings = mappings
        self._sockets = sockets
        self._add_way = add_way
        self._send_again = send_again
        self._upstreams: Dict[str, Upstream] = {}
        #: By exit: while its upstream association is opened, others pass an exit over that failed.
        self._claims: Dict[str, object] = {}
        self._waiting: Dict[str, List[Datagram]] = {}
        #: By exit: failures in a row, and until when it is not tried again.
        self._failures: Dict[str, int] = {}
        self._retry_at: Dict[str, float] = {}

    def choose(self, names: Tuple[str, ...]) -> Exit:
        """Return the one of the exits *names* by which a datagram leaves now.

        Raises:
            CannotCarry: none has UDP.
            NotYet: those that have it have failed a moment ago.
        """
        able = [exit for exit in self._exits(names) if carries_udp(exit)]
        if not able:
            what = "no proxy for datagrams: exit %s is no chain of SOCKS5 proxies"
            raise CannotCarry(what % " or ".join(names), Rep.COMMAND_NOT_SUPPORTED)
        now = time.monotonic()
        ready = [exit for exit in able if now >= self._retry_at.get(exit.name, 0.0)]
        if not ready:
            raise NotYet(min(self._retry_at[exit.name] for exit in able))
        for exit in ready:
            if exit.name in self._upstreams:
                return exit  # it works, or this association is the one that tries it
            if not self._table.exits.error_of(exit.name):
                break
        return self._table.exits.usable(ready)[0]

    def send(self, exit: Exit, datagram: Datagram) -> None:
        """Send *datagram* by *exit*, now or when its upstream association is open.

        Raises:
            CannotCarry, OSError: it is not sent.
        """
        upstream = self._upstreams.get(exit.name) or self._open(exit)
        if upstream.sock is not None:
            self._send_now(upstream, datagram)
        else:
            self._wait(exit.name, datagram)

    def keep(self, key: bytes, data: Any, writer: Any) -> bool:
        """Have *data* wait, too, if a datagram with the header *key* waits for an exit.

        Raises:
            NotSent: too many wait.
        """
        for name, waiting in self._waiting.items():
            for one in waiting:
                if one.key == key:
                    self._wait(name, one._replace(data=data, writer=writer))
                    return True
        return False

    def refuse(self, data: Any, at: float) -> int:
        """Stand for the way of a target whose exits have failed: raise ``NotSent`` until *at*."""
        now = time.monotonic()
        if now >= at:
            self._mappings.forget_ways(lambda key, way: way[0] == self.refuse and way[1] <= now)
        raise NotSent(Drop.NOT_SENT)

    def left_by(self, exit: Exit) -> None:
        """Note in the record that a datagram has left by *exit*."""
        names = self._record.exit.split(",") if self._record.exit else []
        if exit.name not in names:
            self._record.exit = ",".join([*names, exit.name])

    def pass_on(
        self, sock: Any, name: str, batch: int, ports: ClientPorts, send: Callable[[Any, Any], int]
    ) -> None:
        """Send datagrams of *sock*, which came by the exit *name*, to the client.

        Args:
            batch: so many at most.
            send: sends one to a port of the client; returns its length, or raises OSError.
        """
        counts, record, buffer = self._counts, self._record, self._table.loop.buffer
        for _ in range(batch):
            try:
                size = sock.recv_into(buffer)
            except BlockingIOError:
                return
            except OSError:
                continue  # the relay of the hop has gone
            found = self._source_of(name, buffer[:size])
            if found is None:
                continue
            source, start = found
            peer = self._mappings.writer_to(source.place) if ports.are_several else None
            try:
                data = b"".join((source.header, buffer[start:size]))
                record.down += send(data, peer or ports.last) - len(source.header)
            except OSError as exc:
                counts.drop(drop_of(exc))
            else:
                counts.down += 1

    def _source_of(self, name: str, data: Any) -> Optional[Tuple[Source, int]]:
        """Return the source of the datagram *data* of the exit *name*, and where its data begin.

        None: it is dropped, and counted.
        """
        upstream = self._upstreams[name]
        try:
            start = upstream.inner(data)
            size = _HEAD_BYTES.get(data[start + 3] if len(data) > start + 3 else 0, 0)
            head = bytes(data[start : start + size])
            known = self._mappings.headers.get((name, head))
            if known is None or not size or len(head) < size:
                known = self._judge(name, bytes(data[start : start + MAX_HEADER_BYTES]))
            return None if known is None else (known, start + size)
        except (HandshakeError, ValueError):
            self._counts.drop(Drop.MALFORMED)
            return None

    def adopt(self) -> None:
        """End the upstream associations of exits that a reload has changed.

        What waits is decided anew, because rules may have changed, too.
        """
        waiting = [one for name in list(self._waiting) for one in self._taken(name)]
        for name, upstream in list(self._upstreams.items()):
            if self._table.access.exits.get(name) != upstream.exit:
                self._forget(name, now=False)
        for one in waiting:
            self._send_again(one.key, one.dst, one.data, one.writer)

    def forget(self, now: bool) -> None:
        """End all upstream associations, and drop what waits for them."""
        for name in list(self._upstreams):
            self._forget(name, now)

    # What is sent

    def _exits(self, names: Tuple[str, ...]) -> List[Exit]:
        # A reload may have removed one just now; directly would not be what was asked for.
        known = dict(self._table.access.exits, **{DIRECT: Exit(DIRECT)})
        return [known[name] for name in names if name in known]

    def _open(self, exit: Exit) -> Upstream:
        """Begin to open the upstream association of *exit*.

        Raises:
            NotSent: there are too many.
        """
        table, client = self._table, self._record.client
        user, sockets = User(client, self._record.id), self._sockets
        upstream = Upstream(table, exit, user, sockets.ours(), sockets.used, self._has_changed)
        if not table.enter_upstream(upstream, client):
            raise NotSent(Drop.NO_ROOM)
        self._upstreams[exit.name] = upstream
        self._claims[exit.name] = table.exits.claim(exit)
        table.loop.submit(upstream)
        return upstream

    def _wait(self, name: str, datagram: Datagram) -> None:
        waiting, size = self._waiting.setdefault(name, []), len(datagram.data)
        if len(waiting) >= MOST_WAITING or not self._table.hold(self._record.client, size):
            raise NotSent(Drop.NO_ROOM)
        waiting.append(datagram._replace(data=bytes(datagram.data)))

    def _send_now(self, upstream: Upstream, datagram: Datagram) -> None:
        """Send *datagram*; remember how.

        Raises:
            CannotCarry, OSError: it is not sent.
        """
        key, dst, place, data, writer = datagram
        ip, name = packed_ip(place[0]), upstream.exit.name
        if ip is None:
            head = b"\0\0\0" + encode_address(dst)
        else:
            as_address((0, place), dst.port)  # not what is on a link of this host
            head = encode_header(ip, dst.port)
        sender = Sender(upstream, head)
        sent = sender.send(data, place)
        where = _where(name, ip, dst.port)
        self._mappings.add_contact(dst, self._mappings.key_of(where), writer)
        self._add_way(key, (sender.send, where))
        self.left_by(upstream.exit)
        self._record.up += sent
        self._counts.up += 1

    def _has_changed(self, upstream: Upstream) -> None:
        """Send what has waited for *upstream*, or do without it."""
        name, error, now = upstream.exit.name, upstream.error, time.monotonic()
        exits, record = self._table.exits, self._record
        if not upstream.is_over:
            exits.worked(name)
            exits.release(upstream.exit, self._claims[name])
            self._failures.pop(name, None)
            assert upstream.sock is not None
            self._sockets.add((0, name), upstream.sock)
            for datagram in self._taken(name):
                self._send_waiting(upstream, datagram)
            return
        failures = self._failures[name] = self._failures.get(name, 0) + 1
        seconds = min(PACE_SECONDS * 2 ** (failures - 1), PASSED_OVER_SECONDS)
        if error is not None:
            record.why = record.why or "exit %s: %s" % (name, error)
            if not isinstance(error, ExitFailed):
                seconds = PASSED_OVER_SECONDS  # it works, but not for datagrams
            elif not upstream.was_asked:
                exits.failed(name, error)
        self._retry_at[name] = now + seconds
        waiting = self._taken(name) if error is not None else []
        self._forget(name, now=False)
        for datagram in waiting:
            self._send_again(datagram.key, datagram.dst, datagram.data, datagram.writer)

    def _send_waiting(self, upstream: Upstream, datagram: Datagram) -> None:
        """Send *datagram*, which has waited: a reload may have changed the rules."""
        decision = self._decide(datagram.dst, datagram.place)
        if not self._is_allowed(decision, upstream.exit.name):
            self._counts.drop(Drop.DENIED)
            return
        try:
            self._send_now(upstream, datagram)
        except CannotCarry as exc:
            self._record.why = self._record.why or str(exc)
            self._counts.drop(Drop.NOT_SENT)
        except OSError as exc:
            self._counts.drop(drop_of(exc))

    def _is_allowed(self, decision: Decision, name: str) -> bool:
        """Return whether *decision* is by the exit *name*; the hook may have chosen another one."""
        has_hook = self._table.hooks.authorize is not None
        return decision.allowed and (has_hook or name in decision.exits)

    def _decide(self, dst: Address, place: Any) -> Decision:
        rules, client = self._table.access.rules, self._record.client
        ip = packed_ip(place[0])
        if ip is None:
            return rules.precheck(client, Ver.SOCKS5, Cmd.UDP_ASSOCIATE, dst)
        return rules.decide(client, Ver.SOCKS5, Cmd.UDP_ASSOCIATE, dst, ip, scope_of(place))

    def _taken(self, name: str) -> List[Datagram]:
        """Return what waits for the exit *name*, and count it out."""
        waiting = self._waiting.pop(name, [])
        self._table.release(self._record.client, sum(len(one.data) for one in waiting))
        return waiting

    def _forget(self, name: str, now: bool) -> None:
        upstream = self._upstreams.pop(name)
        self._table.exits.release(upstream.exit, self._claims.pop(name))
        self._counts.drop(Drop.NO_ROOM, len(self._taken(name)))
        self._mappings.forget_ways(lambda key, way: upstream_of(way) is upstream)
        self._table.leave_upstream(upstream, self._record.client)
        upstream.close(now)
        self._sockets.close((0, name), now)

    # Answers

    def _judge(self, name: str, data: bytes) -> Optional[Source]:
        """Return what is known of the source in the header of *data*; None: it is dropped.

        Raises:
            HandshakeError: it is cut off.
        """
        header = decode_header(data)
        source, counts = header.dst, self._counts
        if header.frag or source.atyp == Atyp.DOMAINNAME:
            counts.drop(Drop.FRAGMENTS if header.frag else Drop.MALFORMED)
            return None
        ip = packed_ip(source.name) or b""
        drop = Drop.UNASKED
        for dst, where, is_contact in self._meant(name, ip, source.port):
            by_name = is_contact is None
            decision = self._decide(dst, ("", 0) if by_name else (source.name, source.port))
            if not decision.allowed:
                drop = Drop.DENIED
            elif self._is_allowed(decision, name):
                known = Source(encode_header(ip, source.port), where)
                if is_contact and len(data) >= header.size:
                    # Other sources take no memory, however many they are.
                    self._mappings.add_header((name, data[: header.size]), known)
                return known
        counts.drop(drop)
        return None

    def _meant(self, name: str, ip: bytes, port: int) -> List[Tuple[Address, Any, Optional[bool]]]:
        """Return the targets that a datagram from *ip* may be an answer of.

        With each: what stands for its place, and whether the client has written to its address;
        None: to a name.
        """
        table, mappings = self._table, self._mappings
        meant: List[Tuple[Address, Any, Optional[bool]]] = []
        where = _where(name, ip, port)
        contact = mappings.contact((mappings.key_of(where), port))
        if table.hooks.authorize is None:
            contact = contact or mappings.contact(mappings.key_of(where))
        if contact is not None:
            meant.append((contact.dst._replace(port=port), where, True))
        # Which addresses a name has that a hop looks up is not known: the port has to do.
        where = _where(name, None, port)
        contact = mappings.contact((mappings.key_of(where), port))
        if contact is not None:
            meant.append((contact.dst, where, None))
        if not meant and table.takes_unasked(ip, 0):
            meant.append((Address.of_ip(ip, port), where, False))
        return meant


#: What stands for the address of a name that a hop looks up.
NO_ADDRESS = ""


def _where(exit: str, ip: Optional[bytes], port: int) -> Tuple[str, int]:
    """Return what stands for *ip* as it is reached by *exit*; None: for all names.

    It is no address, so that an exit never answers for what leaves by another one.
    """
    return "via %s %s" % (exit, "" if ip is None else text_ip(ip)), port
