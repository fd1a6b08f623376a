"""Upstream associations: datagrams by the hops of an exit (RFC 1928 section 7, as a client).

Each hop has an association of its own, whose TCP connection leads through the hops before it.
A datagram has a header for each hop, those of the first hops outside::

    dst: relay of hop 2 | dst: relay of hop 3 | ... | dst: target | data

It goes to the relay of hop 1, which sends the rest to the relay of hop 2, and so on.  Answers
have the same headers: then each names the source.
"""

import socket
from typing import Any, Callable, Dict, List, Optional

from minisocks.compat import READ, close_quietly
from minisocks.errors import DialError, ExitFailed
from minisocks.exits.dial import ExitDial
from minisocks.exits.hops import Known, User, dial_exit, egress_of, missing_hop, not_resolved
from minisocks.exits.state import EXIT_SECONDS
from minisocks.net.dialer import Dial
from minisocks.net.egress import Egress
from minisocks.net.job import Job, Timer
from minisocks.net.lookup import Outcome
from minisocks.net.resolver import Lookup
from minisocks.policy.exits import Exit
from minisocks.policy.networks import MULTICAST, Sockaddr
from minisocks.protocol.clientside import encode_address
from minisocks.protocol.datagram import decode_header
from minisocks.quoting import reason_of
from minisocks.relay.watches import has_vanished
from minisocks.udp.mappings import Way
from minisocks.udp.table import AssociationTable
from minisocks.wire import Address, Atyp, Cmd, packed_ip, scope_of, unmapped

__all__ = ["Sender", "Upstream", "carries_udp", "upstream_of"]

#: The client does not know from which address its hops see its datagrams.
_UNKNOWN = Address(b"0.0.0.0", 0, Atyp.IPV4)
_PLAIN = b"\0\0\0"
#: The longest header, with a name of 255 bytes.
MAX_HEADER_BYTES = 4 + 1 + 255 + 2


def carries_udp(exit: Exit) -> bool:
    """Return whether all proxies of *exit* have UDP in their protocol."""
    return all(hop.scheme.startswith("socks5") for hop in exit.hops)


class Upstream(Job):
    """The associations at the hops of one exit, for one association of a client.  Loop thread.

    Args:
        ours: the sockaddr that the client has connected to.
        used: returns monotonic seconds of the last datagram of the client's association.
        changed: called when it is open, and when it has ended by itself.

    Attributes:
        sock: connected to the relay of the first hop; None: not open.  Its owner is the client's
            association, which closes it.
        is_over: it has ended.
        was_asked: a hop got the request for its association, so that what has gone wrong since
            tells nothing about connections by the exit.
        error: why, if it has ended by itself.
    """

    counts = False
    __slots__ = (
        *("_changed", "_controls", "_dial", "_head", "_known", "_lookup", "_next", "_ours"),
        *("_relays", "_table", "_timer", "_user", "_watched", "error", "exit", "is_over"),
        *("sock", "used", "was_asked"),
    )

    def __init__(
        self,
        table: AssociationTable,
        exit: Exit,
        user: User,
        ours: Any,
        used: Callable[[], float],
        changed: Callable[["Upstream"], None],
    ) -> None:
        self._table = table
        self._user = user
        self._ours = ours
        self._changed = changed
        self.used = used
        self.exit = exit
        self.sock: Optional[socket.socket] = None
        self.is_over = self.was_asked = False
        self.error: Optional[DialError] = None
        self._known: Known = {}
        #: The TCP connections to the hops, and the addresses of their relays.
        self._controls: List[socket.socket] = []
        self._relays: List[Address] = []
        #: The headers for all hops but the last one.
        self._head = b""
        self._dial: Optional[ExitDial] = None
        self._watched: Dict[int, int] = {}
        self._lookup: Optional[Lookup] = None
        self._timer: Optional[Timer] = None
        self._next: Optional[Timer] = None

    def begin(self) -> None:
        """Ask the hops, from the next round on."""
        loop, config = self._table.loop, self._table.access.config
        seconds = min(EXIT_SECONDS, config.connect_timeout)
        self._timer = loop.call_later(seconds, self, self._late)
        loop.call_soon(self, self._try, self._ask_next)

    def on_ready(self, fd: int, mask: int) -> None:
        """Go on with the dial, or see whether a hop has ended its association."""
        for control in self._controls:
            if control.fileno() == fd:
                self._try(self._read_control, control)
                return
        self._try(self._step)

    def abort(self, why: str) -> None:
        """Close, because the proxy stops or has a bug."""
        self._end(None)

    def look_after_peers(self) -> None:
        """End it if a hop has vanished."""
        if any(has_vanished(control) for control in self._controls):
            self._end(ExitFailed("a hop has vanished"))

    def end_for_room(self) -> None:
        """End it, because another one needs its place."""
        self._end(None)

    def close(self, now: bool = False) -> None:
        """End it without a word.

        Args:
            now: at once, not at the end of the round, because descriptors are needed.
        """
        loop, self.is_over, self.sock = self._table.loop, True, None
        for timer in (self._timer, self._next):
            if timer is not None:
                timer.cancel()
        if self._lookup is not None:
            self._lookup.cancel()
        closing, dial = self._controls, self._dial
        self._controls, self._dial = [], None
        if dial is not None:
            dial.discard_all()
            closing += dial.discarded
            dial.discarded.clear()
        for sock in closing:
            if now:
                loop.unwatch(sock.fileno())
                close_quietly(sock)
            else:
                loop.close_later(sock)
        loop.done(self)

    # Datagrams

    def send(self, head: bytes, data: Any) -> int:
        """Send *data* behind *head*, the header for the last hop; return the length of *data*.

        Raises:
            OSError: it is not sent.
        """
        assert self.sock is not None
        self.sock.send(b"".join((self._head, head, data)))
        return len(data)

    def inner(self, data: Any) -> int:
        """Return where the header of the last hop begins in the datagram *data* of the first one.

        Raises:
            HandshakeError: a header is cut off.
            ValueError: a header before it is not that of the hop's relay.
        """
        size = len(self._head)
        if not size or data[:size] == self._head:
            return size
        start = 0
        for relay in self._relays[1:]:
            header = decode_header(bytes(data[start : start + MAX_HEADER_BYTES]))
            # Of a relay that has a name here, its hop alone knows the address.
            is_same = relay.atyp == Atyp.DOMAINNAME or relay.name == header.dst.name
            if header.frag or not is_same or relay.port != header.dst.port:
                raise ValueError("from %s, not from %s" % (header.dst, relay))
            start += header.size
        return start

    # The hops, one after another

    def _ask_next(self) -> None:
        """Dial the next hop, or look a name up before that.

        Raises:
            DialError, OSError: it cannot be opened.
        """
        table = self._table
        missing = missing_hop(self.exit, self._known)
        if missing is not None:
            loop = table.loop
            lookup = Lookup(
                missing.host,
                missing.port,
                lambda outcome: loop.call_soon(self, self._found, missing, outcome),
                self._user.client.groups,
                family=table.access.egress.only,
            )
            self._lookup = table.resolver.submit(lookup)
            return
        part = self.exit._replace(hops=self.exit.hops[: len(self._controls) + 1])
        egress = egress_of(self.exit, table.access.egress, self._ours)
        user, cmd = self._user, Cmd.UDP_ASSOCIATE
        self._dial = dial_exit(part, self._known, user, cmd, _UNKNOWN, self._new_dial, egress, [])
        self._step()

    def _found(self, name: Address, outcome: Outcome) -> None:
        self._lookup = None
        if isinstance(outcome, list):
            self._known[name] = outcome
            self._try(self._ask_next)
        else:
            self._end(not_resolved(outcome))

    def _new_dial(self, addresses: List[Sockaddr], egress: Egress) -> Dial:
        table, first = self._table, self.exit.hops[0]
        addresses = table.exits.others(first, addresses)
        return Dial(addresses, egress=egress, make_room=table.free_some, may_add=lambda: False)

    def _step(self) -> None:
        dial, loop = self._dial, self._table.loop
        if dial is None:
            return
        sock: Optional[socket.socket] = None
        try:
            sock = dial.step()
        except DialError:
            if not self.is_over:
                raise
        if self.is_over:  # closed by ``free_some``, for the descriptor that the dial needed
            dial.discard_all()
            for one in [*dial.discarded, *([sock] if sock is not None else [])]:
                loop.close_later(one)
        elif sock is None:
            self._watch_dial(dial)
        else:
            self._dial, self._watched = None, {}
            self._drop_discarded(dial)
            self._controls.append(sock)
            loop.watch(sock.fileno(), READ, self)
            self._relays.append(self._relay_of(dial))
            if len(self._controls) < len(self.exit.hops):
                loop.call_soon(self, self._try, self._ask_next)
            else:
                self._open(dial)

    def _watch_dial(self, dial: ExitDial) -> None:
        loop = self._table.loop
        self._drop_discarded(dial)
        for fd in dial.attempts:
            if self._watched.get(fd) != dial.mask:
                loop.watch(fd, dial.mask, self)
                self._watched[fd] = dial.mask
        if self._next is not None:
            self._next.cancel()
        wait = dial.wait_seconds()
        self._next = None if wait is None else loop.call_later(wait, self, self._step_again)

    def _drop_discarded(self, dial: ExitDial) -> None:
        while dial.discarded:
            sock = dial.discarded.pop()
            self._watched.pop(sock.fileno(), None)
            self._table.loop.close_later(sock)

    def _step_again(self) -> None:
        self._try(self._step)

    def _relay_of(self, dial: ExitDial) -> Address:
        """Return the address of the relay that the hop of *dial* has answered with.

        Raises:
            CannotCarry, ExitFailed: nothing can be sent there.
        """
        hop, place, own = self.exit.hops[len(self._relays)], dial.place(), self._table.access.own
        ip = packed_ip(place.name) if place.atyp != Atyp.DOMAINNAME else None
        if not place.port or (ip is not None and (unmapped(ip) in MULTICAST or not any(ip))):
            raise ExitFailed("%s: its reply has no address for datagrams" % (hop,))
        if self._relays:
            self._head += _PLAIN + encode_address(place)  # before there is a socket to close
            return place
        if ip is None:
            raise ExitFailed("%s: its reply has a name as address for datagrams" % (hop,))
        via, is_own = packed_ip(dial.via[0]), own(ip) is not False
        if is_own and self._table.has_relay(unmapped(ip), place.port):
            # A datagram would go round and round.
            raise ExitFailed("%s: its address for datagrams is of this proxy itself" % (hop,))
        if is_own and via is not None and ip != via and own(via) is False:
            # It would have us send to what only this host may reach.
            raise ExitFailed("%s: its address for datagrams, %s, is this host" % (hop, place))
        return place

    def _open(self, dial: ExitDial) -> None:
        """Open the socket to the relay of the first hop.

        Raises:
            ExitFailed, OSError: that cannot be.
        """
        relay, first, table = self._relays[0], self._controls[0], self._table
        family = socket.AF_INET6 if relay.atyp == Atyp.IPV6 else socket.AF_INET
        egress = egress_of(self.exit, table.access.egress, self._ours)
        sock = table.ports.new_socket(family, socket.SOCK_DGRAM)
        try:
            if self.is_over:  # as in ``_step``
                raise OSError("closed")
            if first.family == family:
                # The hop expects datagrams from the address of its client.
                egress.confine(sock)
                ours = first.getsockname()
                sock.bind((ours[0], 0) + ours[2:])
            elif isinstance(first.getsockname(), tuple):
                egress.prepare(sock)
            there = first.getpeername()
            link = scope_of(there) if first.family == family else 0
            sock.connect((relay.name, relay.port) + ((0, link) if link else ()))
        except OSError:
            close_quietly(sock)
            if self.is_over:
                return
            raise
        self.sock = sock
        if self._timer is not None:
            self._timer.cancel()
        self._changed(self)

    # Its end

    def _read_control(self, control: socket.socket) -> None:
        """Discard what the hop sends by TCP, which has no meaning; end at its end."""
        try:
            if control.recv_into(self._table.loop.buffer):
                return
            how = "it has ended its association"
        except BlockingIOError:
            return
        except OSError as exc:
            how = "the connection has ended: %s" % reason_of(exc)
        raise ExitFailed("%s: %s" % (self.exit.hops[self._controls.index(control)], how))

    def _late(self) -> None:
        self._end(ExitFailed("no answer in time") if self._dial is None else self._dial.give_up())

    def _try(self, step: Callable[..., None], *args: Any) -> None:
        try:
            step(*args)
        except DialError as exc:
            self._end(exc)
        except OSError as exc:
            self._end(ExitFailed("no socket for its datagrams: %s" % reason_of(exc)))

    def _end(self, error: Optional[DialError]) -> None:
        if not self.is_over:
            dial = self._dial
            self.was_asked = bool(self._controls) or (dial is not None and dial.waits_for_target)
            # Else the two would keep each other, and what the frames hold.
            self.error = error and error.with_traceback(None)
            self.close()
            self._changed(self)


class Sender:
    """How to send to one target by an upstream association."""

    __slots__ = ("_head", "upstream")

    def __init__(self, upstream: Upstream, head: bytes) -> None:
        self.upstream = upstream
        self._head = head

    def send(self, data: Any, place: Any) -> int:
        """Send *data*; return its length.

        Raises:
            OSError: it is not sent.
        """
        return self.upstream.send(self._head, data)


def upstream_of(way: Way) -> Optional[Upstream]:
    """Return the upstream association that *way* sends by, if it is one."""
    sender = getattr(way[0], "__self__", None)
    return sender.upstream if isinstance(sender, Sender) else None
