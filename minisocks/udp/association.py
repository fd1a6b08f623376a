"""Associations: datagrams both ways between a client and its targets (RFC 1928 section 7).

It never blocks, and keeps no datagrams but those that wait for a look-up or for the rest of their
fragments: what cannot be sent is dropped and counted.  Only the end of its TCP connection ends it.

The fast path is ``_from_client`` and ``_from_target``: a datagram with a known header is read
into the loop's one buffer and sent from there, with two system calls and one look into a dict.
"""

import socket
import time
from typing import Any, Dict, Optional, Tuple

from minisocks.compat import READ, close_quietly, unblock
from minisocks.errors import HandshakeError
from minisocks.net.job import Job
from minisocks.net.loop import BUFFER_BYTES
from minisocks.policy.exits import Exit
from minisocks.protocol.datagram import decode_header
from minisocks.quoting import MOST_TOLD, quoted
from minisocks.record import Datagrams, Drop, Record
from minisocks.relay.flow import SHORT_TURNS, word_of
from minisocks.relay.rate import Budget, Share
from minisocks.relay.watches import Idle, has_vanished
from minisocks.udp.fragments import Fragments
from minisocks.udp.mappings import ClientPorts, NotSent, drop_of
from minisocks.udp.routes import Routes
from minisocks.udp.sockets import SocketKey, Sockets, key_of, open_socket
from minisocks.udp.table import AssociationTable
from minisocks.wire import Atyp

__all__ = ["Association"]

#: Datagrams of a socket that are moved for one event.  With only one, a datagram costs half as
#: much again (scripts/bench/peers, udp).
BATCH = 8
#: RSV, FRAG, ATYP, an address and a port.
HEADER4_BYTES, HEADER6_BYTES = 10, 22
#: By the length of the address; 0: of a hop, whose datagrams have headers of their own.
HEADER_BYTES = {4: HEADER4_BYTES, 16: HEADER6_BYTES, 0: 0}


class Association(Job):
    """A client's relay socket, the sockets to its targets, and its TCP connection.

    ::

        client <-> relay    on the address that the client reached; after the client's first
                            datagram connected to it, so that the kernel drops all others
               <-> targets  one socket for each family and exit, opened when it is needed

    Args:
        control: the client's TCP connection, which the loop watches for ``READ``.
        relay: bound, does not block; the association owns it from now on.
        ip: the address that it is bound to.
        ports: says which datagrams to the relay socket are the client's.
        share: the client's, in what ``--rate`` allows; None: there is no limit.
    """

    __slots__ = (
        *("_control", "_counts", "_fragments", "_ip", "_loop", "_ports", "_record", "_relay"),
        *("_relay_fd", "_routes", "_share", "_table", "_targets", "idle", "proof", "used"),
    )

    def __init__(
        self,
        table: AssociationTable,
        record: Record,
        control: socket.socket,
        relay: socket.socket,
        ip: bytes,
        ports: ClientPorts,
        share: Optional[Share],
    ) -> None:
        self._table = table
        self._loop = table.loop
        self._record = record
        self._counts = record.datagrams = Datagrams()
        self._control = control
        self._relay = relay
        self._relay_fd = relay.fileno()
        self._ip = ip
        self._ports = ports
        self._share = share
        # Most associations are idle, and have none of these.
        self._routes: Optional[Routes] = None
        self._targets: Dict[SocketKey, socket.socket] = {}
        self._fragments: Optional[Fragments] = None
        #: Monotonic seconds of the last datagram.
        self.used = time.monotonic()
        #: What the password of the client's user was checked by; None: it has sent none.
        self.proof: Optional[bytes] = None
        #: For ``--idle-timeout``: closes the sockets to targets.
        self.idle: Optional[Idle] = None

    @property
    def place(self) -> Tuple[bytes, int]:
        """Address and port of the relay socket."""
        return self._ip, self._relay.getsockname()[1]

    def begin(self) -> None:
        """Relay from now on."""
        if self._share is not None:
            self._share.join()
        unblock(self._control)
        self._loop.watch(self._control.fileno(), READ, self)
        self._loop.watch(self._relay_fd, READ, self)

    def on_ready(self, fd: int, mask: int) -> None:
        """Move some datagrams, or check whether the client's connection has ended."""
        share = self._share
        if fd == self._relay_fd:
            if share is None or self._may_read(fd, share.up):
                self._from_client()
        elif fd == self._control.fileno():
            self._read_control()
        else:
            for key, sock in self._targets.items():
                if sock.fileno() == fd:
                    if share is None or self._may_read(fd, share.down):
                        self._from_target(sock, key)
                    break
        if share is not None:
            self._pay()

    def abort(self, why: str) -> None:
        """Close everything."""
        loop, record = self._loop, self._record
        if record.end is not None:
            return
        if self._share is not None:
            self._pay()
            self._share.leave()
        self.free_targets()
        if self._fragments is not None:
            self._fragments.abandon()
        self._routes = self._fragments = None  # they refer to this one
        table, client = self._table, record.client
        table.leave(self, client)
        try:
            table.ports.closed(self._ip, self._relay.getsockname()[1])
        except OSError:
            pass  # it is closed already
        loop.close_later(self._relay, frees_port=True)
        loop.close_later(self._control)
        record.finish(why)
        loop.done(self)

    def end(self, why: str) -> None:
        """End it because there is no room for it; *why* is for the log."""
        self._record.why = why
        self.abort("limit")

    def ask_again(self) -> None:
        """Check each target again, because rules have changed; end if its user was removed."""
        user, proof, users = self._record.client.user, self.proof, self._table.access.users
        if user is not None:
            # With --auth-once, an earlier connection of the client may have sent the password.
            holds = users.may_be(user) if proof is None else users.accepts_proof(user, proof)
            if not holds:
                self._record.why = "user %s is not allowed any more" % quoted(user, MOST_TOLD)
                self.abort("logged-out")
                return
        if self._routes is not None:
            self._routes.ask_again()

    def free_targets(self, now: bool = False) -> None:
        """Close the sockets to targets; the next datagram opens one again.

        Args:
            now: at once, not at the end of the round, because their descriptors are needed.
        """
        if self._routes is not None:
            self._routes.forget(now)
        for key in list(self._targets):
            self._close_target(key, now)
        self._table.reaches(self, self._record.client, False)
        if self.idle is not None:
            self.idle.cancel()
            self.idle = None

    # With a rate

    def is_held_back(self) -> bool:
        """Return whether a direction waits for tokens."""
        return self._share is not None and self._share.waits

    def read_on(self, budget: Budget) -> None:
        """Read on in the direction of *budget*, which has waited."""
        is_up = self._share is not None and budget is self._share.up
        for sock in [self._relay] if is_up else self._targets.values():
            self._loop.watch(sock.fileno(), READ, self)
        for _ in range(BATCH):
            if not budget.available(has_waited=True):
                return  # it will wait again when something is there
            if is_up:
                self._from_client()
            else:
                for key, sock in list(self._targets.items()):
                    self._from_target(sock, key)
            self._pay()

    def _may_read(self, fd: int, budget: Budget) -> bool:
        """Return whether there are tokens; if not, have *fd* wait unread."""
        self._pay()
        if budget.available():
            return True
        budget.wait(self)
        self._loop.unwatch(fd)
        return False

    def _pay(self) -> None:
        """Pay for what was sent, also for what had waited for the addresses of a name."""
        if self._share is not None:
            self._share.up.pay_up_to(self._record.up)
            self._share.down.pay_up_to(self._record.down)

    # From the client

    def _from_client(self) -> None:
        """Send datagrams of the client to targets."""
        self._loop.short_turns = SHORT_TURNS
        self.used = now = time.monotonic()
        relay, record, buffer = self._relay, self._record, self._loop.buffer
        counts, ports, routes = self._counts, self._ports, self._routes or self._make_routes()
        ways = routes.ways()
        for _ in range(BATCH if self._share is None else 1):
            try:
                size, peer = relay.recvfrom_into(buffer)
            except BlockingIOError:
                return
            except OSError:
                continue  # about an earlier datagram, to a client that has gone
            if peer == ports.last:
                ports.heard = now
            elif not ports.take(peer, now):
                counts.drop(Drop.STRANGER)
                continue
            atyp = buffer[3]
            if atyp == Atyp.IPV4:
                start = HEADER4_BYTES
            else:
                start = HEADER6_BYTES if atyp == Atyp.IPV6 else buffer[4] + 7
            # Behind a short one the buffer has bytes of another datagram.
            way = ways.get(bytes(buffer[:start])) if size >= start else None
            if way is None:
                self._sort(bytes(buffer[:size]))
                return  # that takes longer: other jobs go on first
            try:
                record.up += way[0](buffer[start:size], way[1])
            except OSError as exc:
                self._counts.drop(drop_of(exc))
            else:
                counts.up += 1
                if ports.are_several:
                    routes.mappings.written(way[1], ports.last)

    def _sort(self, data: bytes) -> None:
        """Handle a datagram that is malformed, a fragment, or for a target without a way."""
        try:
            header = decode_header(data)
        except HandshakeError:
            self._counts.drop(Drop.MALFORMED)
            return
        key = b"\0\0\0" + data[3 : header.size]
        rest: Any = data[header.size :]
        if header.frag:
            if self._fragments is None:
                counts, client = self._counts, self._record.client
                self._fragments = Fragments(self._table, client, counts, self)
            rest = self._fragments.put_together(header.frag, key, rest, self._ports.last)
        if rest is not None:
            assert self._routes is not None
            self._routes.send(key, header.dst, rest, self._ports.last)

    # From targets

    def _from_target(self, sock: socket.socket, key: SocketKey) -> None:
        """Send datagrams of targets to the client, each with a header."""
        assert self._routes is not None
        self._loop.short_turns = SHORT_TURNS
        self.used = time.monotonic()
        start = HEADER_BYTES[key[0]]
        if not start:
            exits, ports = self._routes.by_exits(), self._ports
            batch = BATCH if self._share is None else 1
            exits.pass_on(sock, key[1], batch, ports, self._send_client)
            return
        routes, record, buffer = self._routes, self._record, self._loop.buffer
        headers, counts, space = routes.mappings.headers, self._counts, buffer[start:]
        ports = self._ports
        for _ in range(BATCH if self._share is None else 1):
            try:
                size, source = sock.recvfrom_into(space)
            except BlockingIOError:
                return
            except OSError:
                continue  # about an earlier datagram, to a target that has gone
            header = headers.get(source) or routes.header_of(source)
            if header is None:
                continue
            buffer[:start] = header
            peer = routes.mappings.writer_to(source) if ports.are_several else None
            try:
                count = self._send_client(buffer[: start + size], peer or ports.last)
            except OSError as exc:
                self._counts.drop(drop_of(exc))
            else:
                record.down += count - start
                counts.down += 1

    def _send_client(self, data: Any, peer: Any) -> int:
        if len(data) >= BUFFER_BYTES:
            raise NotSent(Drop.TOO_LARGE)  # it may have been cut off
        relay, is_connected = self._relay, self._ports.is_connected
        try:
            return relay.send(data) if is_connected else relay.sendto(data, peer)
        except BlockingIOError:
            raise
        except OSError:
            # The error of an earlier one, which has not arrived or was too large for a network
            # on the way: this one was not sent yet.
            return relay.send(data) if is_connected else relay.sendto(data, peer)

    def socket_for(self, size: int, exit: Optional[Exit] = None) -> socket.socket:
        """Return the socket for targets whose address has *size* bytes, 4 or 16, by *exit*.

        Raises:
            DialError, OSError: it cannot be opened.
        """
        key = key_of(size, exit)
        sock = self._targets.get(key)
        if sock is None:
            sock = open_socket(self._table, size, exit, self._control.getsockname)
            self._add_target(key, sock)
        return sock

    def _add_target(self, key: SocketKey, sock: socket.socket) -> None:
        """Own *sock*, and read it from now on.

        Raises:
            OSError: it cannot be read.
        """
        table = self._table
        try:
            self._loop.watch(sock.fileno(), READ, self)
        except OSError:
            close_quietly(sock)
            raise
        self._targets[key] = sock
        table.reaches(self, self._record.client, True)
        seconds = table.access.config.idle_timeout
        if seconds is not None and self.idle is None:
            # The association itself goes on, because its client is there.
            self.idle = Idle(self._loop, self, self._record, seconds, self.free_targets)
            self.idle.begin()

    def _close_target(self, key: SocketKey, now: bool) -> None:
        sock = self._targets.pop(key, None)
        if sock is None:
            return
        if now:
            self._loop.unwatch(sock.fileno())
            close_quietly(sock)
        else:
            self._loop.close_later(sock)

    def sockets(self) -> Sockets:
        """Return what exits need of the association."""
        return Sockets(
            self._add_target, self._close_target, self._control.getsockname, lambda: self.used
        )

    def _make_routes(self) -> Routes:
        self._routes = Routes(
            self._table, self._record, self._counts, self, self.socket_for, self.sockets
        )
        return self._routes

    def _read_control(self) -> None:
        """Discard what the client sends by TCP, which has no meaning; end at its end."""
        try:
            if self._control.recv_into(self._loop.buffer):
                return
            how = "fin"
        except BlockingIOError:
            return
        except OSError as exc:
            how = word_of(exc.errno)
        self.abort("client-" + how)

    def look_after_peers(self) -> None:
        """End if the client has vanished."""
        if has_vanished(self._control):
            self.abort("client-lost")
