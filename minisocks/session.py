"""One client on its way through the server, and what the server gives it.

A session owns the client's socket from accept until it is handed over: to a
pair, to ``Lingering``, or closed.  Exactly one thread works on it at a time.
"""

import itertools
import logging
import socket
from typing import Any, Callable, Optional

from minisocks.access import Access
from minisocks.berths import Berths
from minisocks.census import Census, Shares
from minisocks.client import Client, neighbourhood
from minisocks.compat import UNWATCHED, close_quietly
from minisocks.deadline import Deadline
from minisocks.errors import LimitReached, NotSocks, Probe
from minisocks.exchange import Exchange
from minisocks.handshake import Event, Handshake, Request
from minisocks.hooks import Hooks
from minisocks.idle import Idle
from minisocks.journal import Journal
from minisocks.lingering import Lingering, Porch
from minisocks.logins import Logins
from minisocks.loop import Job, Loop
from minisocks.memory import Memory
from minisocks.processor import Processor
from minisocks.rate import RatedPair, Rates, Share
from minisocks.record import Record
from minisocks.relay import Pair
from minisocks.resolver import Resolver
from minisocks.road import Road
from minisocks.settings import Config
from minisocks.wire import Method, Rep, packed_ip

__all__ = ["Services", "Session"]

log = logging.getLogger("minisocks")


class Services:
    """What every session of one proxy shares."""

    def __init__(
        self,
        config: Config,
        resolver: Optional[Resolver] = None,
        hooks: Optional[Hooks] = None,
        journal: Optional[Journal] = None,
    ) -> None:
        self.hooks = hooks or Hooks()
        self.journal = journal or Journal()
        #: Who is connected.
        self.census = Census()
        #: The number of the next connection.
        self.ids = itertools.count(1)
        #: What makes a session of an accepted socket; a test may put its own here.
        self.session_type: Callable[..., Session] = Session
        road, access = Road.of(config), Access.of(config, self.hooks)
        #: The one that the threads of this proxy keep to which serve clients.
        self.processor = Processor(config.processor)
        self.loop = Loop(self.processor)
        #: What slows clients down, and what sheds them where memory is short.
        self.rates, self.memory = Rates(self.loop), Memory(self.loop)
        self.logins = Logins(self.loop)
        #: What those share who relay datagrams.
        self.exchange = Exchange(self.loop)
        #: Where those connect that BIND waits for.
        self.berths = Berths(self.loop)
        #: Those whose identd is asked who they are.
        self.inquiries = Shares("inquiries by ident")
        #: Where refused clients are heard out.
        self.porch = Porch(config.max_handshakes)
        self.adopt(config, road, access)
        self.resolver = resolver or Resolver()
        #: Set when nothing new begins any more, whatever a late hook says.
        self.stopping = False
        #: Puts a session aside until its client says more.  The pool's lobby.
        self.park: Callable[[Session], None] = _no_pool
        #: Goes on with a session that is parked, or was.  The pool's; loop thread.
        self.resume: Callable[[Session], None] = _no_pool

    def adopt(self, config: Config, road: Road, access: Access) -> None:
        """Have what comes from now on go by *config*.  Loop thread, once it runs.

        *road* and *access* are made of it, and immutable; who has asked before goes on
        with the old ones.
        """
        self.config = config
        self.processor.change(config.processor)
        if self.loop.is_current():
            self.processor.keep()  # the handler threads do so before their next clients
        self.users, self.rules, self.files = access
        self.logins.adopt(access.users, config.auth_once, config.max_handshakes)
        self.road = road
        self.porch.room = config.max_handshakes
        self.rates.change(config.rate)
        self.memory.change(config.memory_limit)
        self.exchange.change(config)
        self.berths.change(config)


def _no_pool(*args: Any) -> None:
    raise AssertionError("these services have no pool of handler threads")


class Seat:
    """Where a session waits for its client.  The lobby's."""

    __slots__ = ()

    def leave(self) -> None:
        """Let the session go.  Loop thread."""
        raise NotImplementedError


class Session:
    """From accept to the reply.

    A class because it outlives a turn: it is put aside while its client thinks,
    may be taken up again by another thread, and is finished by the loop when its
    target is slow.  Its socket never blocks, but for a thread that means to wait.
    """

    __slots__ = (
        "awaits_identity",
        "client",
        "deadline",
        "event",
        "fd",
        "identity",
        "mask",
        "parked",
        "proof",
        "record",
        "services",
        "sock",
        "talk",
        "verdict",
        "waited",
    )

    def __init__(self, services: Services, sock: socket.socket, peer: Any) -> None:
        self.services = services
        self.sock = sock
        self.fd = sock.fileno()
        #: What the loop watches it for.
        self.mask = UNWATCHED
        #: Where it waits for its client, if it does.
        self.parked: Optional[Seat] = None
        #: What the client has said last, if that is still to be dealt with.
        self.event: Optional[Event] = None
        self.client = Client(peer)
        self.record = Record(self.client, next(services.ids), services.journal)
        self.deadline = Deadline(services.config.handshake_timeout)
        methods, guest = services.rules.methods(self.client), None
        if Method.NO_AUTHENTICATION not in methods:
            # Else whoever comes without is nobody, and may have rules for that.
            guest = services.logins.guest(self.client)
            methods += (Method.NO_AUTHENTICATION,) if guest is not None else ()
        self.talk = Handshake(methods, guest, services.config.ident)
        #: Whether rules are asked only once its identd has said who it is; and who that is.
        self.awaits_identity = False
        self.identity: Optional[bytes] = None
        #: Seconds of its request's time that are gone already.
        self.waited = 0.0
        #: By what its password was right, ``Users.proof``; None: it has shown none.
        self.proof: Optional[bytes] = None
        #: Whether its password is right, as far as we know without the program's hook.
        self.verdict: Optional[bool] = None

    def watch(self, mask: int, job: Job) -> None:
        """Have the loop report the client to *job*.  Loop thread."""
        loop = self.services.loop
        if mask == self.mask:
            loop.hand_on(self.fd, job)
        else:
            loop.watch(self.fd, mask, job)
            self.mask = mask

    def unwatch(self) -> None:
        """Have the loop forget the client, which a thread takes over.  Loop thread."""
        if self.mask != UNWATCHED:
            self.services.loop.unwatch(self.fd)
            self.mask = UNWATCHED

    def unpark(self) -> None:
        """Leave the lobby, if it is there: the client has said all, or is not waited for."""
        if self.parked is not None:
            self.parked.leave()

    def asked(self, request: Request) -> None:
        """Take note of what the client wants.

        Raises:
            HandshakeError: it is not even considered; a test kit's session may.
        """
        self.record.asked(request)

    def listening(self, ip: bytes, port: int) -> None:
        """Tell the client where its peer is to connect to (BIND).

        Raises:
            OSError: it has left.
        """
        self.send(self.talk.listening(ip, port))

    def granted(self, upstream: socket.socket, via: Any, bnd: Any) -> None:
        """Tell the client that it is connected, and hand both sockets to the relay.

        Never raises for what the client does: it may have left.
        """
        self.record.granted(via[0])
        reply = self.talk.success(packed_ip(bnd[0]) or b"", bnd[1])
        try:
            self.send(reply)
        except OSError as exc:
            self._close(upstream)
            self.gone(exc)
            return
        pair, seconds = self.pair(upstream), self.services.config.idle_timeout
        if seconds is not None:
            pair.idle = Idle(self.services.loop, pair, self.record, seconds)
        self.services.loop.submit(pair)

    def associated(self, ip: bytes, port: int) -> None:
        """Tell the client where it is to send its datagrams.

        Raises:
            OSError: it has left.
        """
        self.send(self.talk.success(ip, port))

    def pair(self, upstream: socket.socket) -> Pair:
        """Return what relays from now on; it owns both sockets."""
        services, early = self.services, self.talk.trailing_data()
        loop, rate = services.loop, services.config.rate
        if rate is None:
            return Pair(loop, self.sock, upstream, self.record, early, self.mask)
        share = Share(services.rates, self.client, rate)
        return RatedPair(loop, self.sock, upstream, self.record, early, self.mask, share)

    def refuse(self, error: Exception) -> None:
        """Tell the client why not, and close: the one place that does.

        The reply goes out with our FIN at once; ``Lingering`` then sees to it
        that the client can read both.
        """
        self.unpark()
        record = self.record
        reply = self.talk.data_to_send() + self.talk.refusal(error)
        record.rep = getattr(error, "rep", Rep.GENERAL_FAILURE)
        record.why = str(error)
        is_limit = isinstance(error, LimitReached)
        if not is_limit and (not self.talk.started or isinstance(error, Probe)):
            # A health check or a scanner: the log is not for them.
            log.debug("id=%d client=%s said nothing: %s", record.id, self.client, error)
            self.part(reply)
            return
        end = "not-socks" if isinstance(error, NotSocks) else "refused"
        record.finish("limit" if is_limit else end)
        self.part(reply)

    def part(self, reply: bytes) -> None:
        """Send *reply*, the last bytes, with our FIN, and hear the client out."""
        if not reply and not self.talk.started:
            self.close()  # there is nothing to hear
            return
        try:
            if reply:
                self.sock.send(reply)
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()  # it left: nobody to hear out
            return
        services, address = self.services, neighbourhood(self.client.ip)
        services.loop.submit(Lingering(services.loop, self.sock, services.porch, address))

    def gone(self, exc: Optional[Exception] = None) -> None:
        """Close, because the client left before it had an answer."""
        self.unpark()
        self.close()
        if exc is not None:
            self.record.why = str(exc)
        if self.talk.started:
            self.record.finish("client-gone")

    def abort(self, why: str) -> None:
        """Close without a word; the proxy ends."""
        self.unpark()
        self.close()
        if self.talk.started:
            self.record.finish(why)

    def close(self) -> None:
        """Close the client's socket: the loop, which may know it, at the end of its round."""
        self._close(self.sock)

    def _close(self, sock: socket.socket) -> None:
        loop = self.services.loop
        if loop.is_current():
            loop.close_later(sock)
        else:
            close_quietly(sock)

    def send(self, data: bytes) -> None:
        """Send one of the handshake's few short messages.

        Raises:
            OSError: the client left, or does not even take these bytes.
        """
        if self.sock.send(data) != len(data):
            raise BlockingIOError("the client takes no bytes")
