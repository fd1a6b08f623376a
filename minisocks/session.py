"""One client on its way through the server, and what the server gives it.

A session owns the client's socket from accept until it is handed over: to a
pair, to ``Lingering``, or closed.  Exactly one thread works on it at a time.
"""

import itertools
import logging
import socket
from typing import Any, Callable, Optional

from minisocks.auth import Users
from minisocks.client import Client
from minisocks.compat import close_quietly, unblock
from minisocks.deadline import Deadline
from minisocks.errors import NotSocks
from minisocks.handshake import Handshake, Request
from minisocks.hooks import Hooks
from minisocks.journal import Journal
from minisocks.lingering import Lingering
from minisocks.loop import Loop
from minisocks.record import Record
from minisocks.relay import Pair
from minisocks.resolver import Resolver
from minisocks.road import Road
from minisocks.rules import Rules
from minisocks.settings import Config
from minisocks.wire import Rep, packed_ip

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
        self.config = config
        self.hooks = hooks or Hooks()
        self.journal = journal or Journal()
        #: The number of the next connection.
        self.ids = itertools.count(1)
        #: What makes a session of an accepted socket; a test may put its own here.
        self.session_type: Callable[..., Session] = Session
        self.users = Users(config.credentials(), self.hooks.authenticate)
        self.rules = Rules(bool(self.users), config.allow_lan, config.open)
        self.road = Road.of(config)
        self.loop = Loop()
        self.resolver = resolver or Resolver()
        #: Set when nothing new begins any more, whatever a late hook says.
        self.stopping = False
        #: Puts a session aside until its client says more.  The pool's lobby.
        self.park: Callable[[Session], None] = _no_pool
        #: Gives a session back to a handler thread.  The pool's.
        self.resume: Callable[[Session], None] = _no_pool


def _no_pool(*args: Any) -> None:
    raise AssertionError("these services have no pool of handler threads")


class Session:
    """From accept to the reply.

    A class because a slow client's session is put aside and taken up again by
    another thread, and a slow target's is finished by the loop.  It closes its
    socket at once: whoever calls has unwatched it, so the loop cannot mistake a
    later one with the same descriptor for it.
    """

    __slots__ = ("client", "deadline", "is_slow", "record", "services", "sock", "talk")

    def __init__(self, services: Services, sock: socket.socket, peer: Any) -> None:
        self.services = services
        self.sock = sock
        self.client = Client(peer)
        self.record = Record(self.client, next(services.ids), services.journal)
        #: Its client has let a thread wait in vain, or would have.
        self.is_slow = False
        self.deadline = Deadline(services.config.handshake_timeout)
        self.talk = Handshake(services.rules.methods(self.client))

    def asked(self, request: Request) -> None:
        """Take note of what the client wants.

        Raises:
            HandshakeError: it is not even considered; a test kit's session may.
        """
        self.record.asked(request)

    def granted(self, upstream: socket.socket, via: Any, bnd: Any) -> None:
        """Tell the client that it is connected, and hand both sockets to the relay.

        Never raises for what the client does: it may have left.
        """
        self.record.granted(via[0])
        reply = self.talk.success(packed_ip(bnd[0]) or b"", bnd[1])
        try:
            unblock(self.sock)
            self.send(reply)
        except OSError as exc:
            close_quietly(upstream)
            self.gone(exc)
            return
        self.services.loop.submit(self.pair(upstream))

    def pair(self, upstream: socket.socket) -> Pair:
        """Return what relays from now on; it owns both sockets."""
        early = self.talk.trailing_data()
        return Pair(self.services.loop, self.sock, upstream, self.record, early)

    def refuse(self, error: Exception) -> None:
        """Tell the client why not, and close: the one place that does.

        The reply goes out with our FIN at once; ``Lingering`` then sees to it
        that the client can read both.
        """
        record = self.record
        reply = self.talk.data_to_send() + self.talk.refusal(error)
        record.rep = getattr(error, "rep", Rep.GENERAL_FAILURE)
        record.why = str(error)
        if not self.talk.started:
            # A health check or a scanner: the log is not for them.
            log.debug("id=%d client=%s said nothing: %s", record.id, self.client, error)
            close_quietly(self.sock)
            return
        record.finish("not-socks" if isinstance(error, NotSocks) else "refused")
        self.part(reply)

    def part(self, reply: bytes) -> None:
        """Send *reply*, the last bytes, with our FIN, and hear the client out."""
        try:
            unblock(self.sock)
            if reply:
                self.sock.send(reply)
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            close_quietly(self.sock)  # it left: nobody to hear out
            return
        self.services.loop.submit(Lingering(self.services.loop, self.sock))

    def gone(self, exc: Optional[Exception] = None) -> None:
        """Close, because the client left before it had an answer."""
        close_quietly(self.sock)
        if exc is not None:
            self.record.why = str(exc)
        if self.talk.started:
            self.record.finish("client-gone")

    def abort(self, why: str) -> None:
        """Close without a word; the proxy ends."""
        close_quietly(self.sock)
        if self.talk.started:
            self.record.finish(why)

    def send(self, data: bytes) -> None:
        """Send one of the handshake's few short messages.

        Raises:
            OSError: the client left, or does not even take these bytes.
        """
        if self.sock.send(data) != len(data):
            raise BlockingIOError("the client takes no bytes")
