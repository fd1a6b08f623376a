"""The state of one client, and its replies."""

import logging
import socket
from typing import Any, Optional, Tuple, Type

from minisocks.access import Access
from minisocks.compat import UNWATCHED, unblock
from minisocks.errors import AuthFailed, LimitReached, NotSocks, Probe
from minisocks.net.job import Job
from minisocks.policy.client import Client, Listener
from minisocks.protocol.handshake import Handshake, Request
from minisocks.quoting import MOST_TOLD, quoted
from minisocks.record import Record
from minisocks.relay.lingering import Lingering
from minisocks.relay.pair import Pair
from minisocks.relay.watches import Idle
from minisocks.server.clientsocket import ClientSocket
from minisocks.server.services import Services
from minisocks.wire import Cmd, Method, Rep, as_text, packed_ip, text_ip

__all__ = ["Session"]

log = logging.getLogger("minisocks")


class Session:
    """State of one client from accept to the reply.

    First the handler thread owns it, then the loop, which finishes what waits for the target.
    Thread: the owner's.

    Attributes:
        in_loop: whether the loop owns the client's socket.
        access: the users and rules that decide about this client.
        chosen: the exits that the program's hook has chosen; None: those of the rules count.
        exits: the names of the exits for the target; empty: it is dialed directly.
        is_decided: whether the rules allow the target by its name, whatever its addresses are.
        mask: the events that the loop watches the client for.
        was_forwarded: whether its listener was a forwarder's at accept.
        waited: seconds of the request's time that an identd has taken.
        proof: ``Users.proof`` of its password; None: it has shown no password.
    """

    __slots__ = (
        "access",
        "chosen",
        "client",
        "conn",
        "exits",
        "fd",
        "in_loop",
        "is_decided",
        "mask",
        "proof",
        "record",
        "server",
        "services",
        "sock",
        "talk",
        "waited",
        "was_forwarded",
    )

    #: Parses the client's bytes.
    talk_type: Type[Handshake] = Handshake

    def __init__(self, server: Any, sock: socket.socket, peer: Any) -> None:
        """*peer* is what ``get_request`` of the ``SocksServer`` has returned with *sock*."""
        self.server = server
        self.services: Services = server.services
        services = self.services
        self.sock = sock
        self.fd = sock.fileno()
        self.mask = UNWATCHED
        self.in_loop = False
        self.was_forwarded: bool = server.is_forwarded
        self.client: Client = server.client_of(peer)
        client = self.client
        self.access: Access = services.access
        if self.access.rules.tells_listeners:
            self._note_listener()
        config = self.access.config
        self.conn = ClientSocket(sock, client, config.handshake_timeout)
        self.record = Record(client, next(services.ids), services.journal)
        methods, trusted = self.access.rules.methods(client), None
        if Method.NO_AUTHENTICATION not in methods:
            # Where no password is needed, a client has no user: rules may depend on that.
            trusted = services.logins.trusted_user(client)
            methods += (Method.NO_AUTHENTICATION,) if trusted is not None else ()
        self.talk = self.talk_type(methods, trusted, config.ident)
        self.exits: Tuple[str, ...] = ()
        self.is_decided = False
        self.chosen: Optional[Tuple[str, ...]] = None
        self.waited = 0.0
        self.proof: Optional[bytes] = None

    def read_access(self) -> None:
        """Have the users and rules that are in force now decide about this client."""
        self.access = self.services.access
        if self.access.rules.tells_listeners:
            self._note_listener()

    def _note_listener(self) -> None:
        """Find out where the client has connected to, once, for rules that tell listeners apart."""
        if self.client.listener is not None:
            return
        try:
            place = self.sock.getsockname()
        except OSError:
            place = ""  # it has left; no rule is about a socket without a path
        self.client.listener = Listener.of(place)

    def submit(self, job: Job) -> None:
        """Hand the client's socket to the loop, which runs *job* from now on."""
        self.in_loop = True
        unblock(self.sock)
        self.services.loop.submit(job)
        self.services.vanished.expect()

    def watch(self, mask: int, job: Job) -> None:
        """Have the loop report events of the client's socket to *job*.  Thread: loop."""
        self.services.loop.watch(self.fd, mask, job)
        self.mask = mask

    def check_again(self) -> bool:
        """Check the request again if users or rules have changed; return whether they have.

        Called before the request is granted, and in the loop at each reload.

        Raises:
            AuthFailed, RefusedByRules: the request is not allowed any more.
        """
        if self.access is self.services.access:
            return False
        self.read_access()
        self.check_user()
        self.check_rules()
        return True

    def check_user(self) -> None:
        """Refuse a client whose credentials were removed or whose --auth-once time has passed.

        Also one whose listener has become a forwarder's, because the address that it was checked
        by may be the forwarder's.

        Raises:
            AuthFailed: one of these is so.
        """
        if self.server.is_forwarded and not self.was_forwarded:
            raise AuthFailed("its listener is now for a forwarder (--forwarded): connect again")
        client, users, request = self.client, self.access.users, self.record.request
        user = client.user
        if user is None:
            return
        if self.proof is not None:
            is_allowed = users.accepts_proof(user, self.proof)
        elif request is not None and request.user is not None:
            is_allowed = self.services.logins.trusted_user(client) == user
        else:
            # Its identd has named it, which does not replace a password.
            client.is_unproven = bool(users)
            is_allowed = not (users and users.may_be(user))
        if not is_allowed:
            raise AuthFailed("user %s is not allowed any more" % quoted(user, MOST_TOLD))

    def check_rules(self) -> None:
        """Check the request against the rules, as far as possible before a look-up.

        Raises:
            RefusedByRules: a rule denies it.
        """
        rules, client, request = self.access.rules, self.client, self.record.request
        assert request is not None
        if request.cmd == Cmd.UDP_ASSOCIATE:
            # DST is no target.
            rules.precheck_any(client, request.ver, request.cmd).raise_if_denied()
        else:
            decision = rules.precheck(client, request.ver, request.cmd, request.dst)
            decision.raise_if_denied()
            self.exits = decision.exits if self.chosen is None else self.chosen
            self.is_decided = bool(decision.number)

    def choose(self, exits: Optional[Tuple[str, ...]]) -> None:
        """Use *exits* instead of those of the rules, unless it is None."""
        if exits is not None:
            self.exits = self.chosen = exits

    def asked(self, request: Request) -> None:
        """Record the request.

        Raises:
            HandshakeError: only in a subclass, which refuses the request at once.
        """
        self.record.asked(request)

    def listening(self, ip: bytes, port: int) -> None:
        """Send the first reply to BIND: the address that the peer can connect to.

        Raises:
            OSError: the client has left.
        """
        self.conn.send(self.talk.listening(ip, port))

    def connected(self, upstream: socket.socket, via: Any, bnd: Any, early: bytes = b"") -> None:
        """Send the reply, and hand both sockets to the relay.

        Args:
            early: bytes that the target has sent already.

        Raises:
            OSError: the client has left; *upstream* still is the caller's.
        """
        self.record.why = ""  # it was about peers that came before this one
        self.record.granted(via[0])
        self.conn.send(self.talk.success(packed_ip(bnd[0]) or b"", bnd[1]) + early)
        self.record.down += len(early)
        pair, loop = self.pair(upstream), self.services.loop
        seconds = self.services.access.config.idle_timeout
        if seconds is not None:
            pair.idle = Idle(loop, pair, self.record, seconds, lambda: pair.abort("idle"))
        self.submit(pair)

    def associated(self, ip: bytes, port: int) -> None:
        """Send the reply to UDP ASSOCIATE: the address that takes the client's datagrams.

        Raises:
            OSError: the client has left.
        """
        self.conn.send(self.talk.success(ip, port))

    def answered(self, ip: bytes, name: bytes = b"") -> None:
        """Send the reply to a look-up, and close: the address *ip*, or the *name* of one."""
        self.record.why = ""
        self.record.granted(as_text(name) if name else text_ip(ip))
        reply = self.talk.success(ip, 0, name)
        self.record.finish("answered")
        self.reply_and_close(reply)

    def pair(self, upstream: socket.socket) -> Pair:
        """Return the relay of the client and *upstream*; it owns both sockets."""
        services, early = self.services, self.talk.trailing_data()
        share = services.rates.share_of(self.client, services.access.config.rate)
        return Pair(services.loop, self.sock, upstream, self.record, early, self.mask, share)

    def refuse(self, error: Exception) -> None:
        """Record *error*, reply with its code, and close.  The only place that refuses."""
        record = self.record
        record.has_rep = self.talk.has_rep
        reply = self.talk.data_to_send() + self.talk.refusal(error)
        record.rep = getattr(error, "rep", Rep.GENERAL_FAILURE)
        record.why = "; ".join(filter(None, (str(error), record.why)))
        is_limit = isinstance(error, LimitReached)
        if not is_limit and self._wants_nothing(error):
            self.reply_and_close(reply)
            return
        end = "not-socks" if isinstance(error, NotSocks) else "refused"
        record.finish("limit" if is_limit else end)
        self.reply_and_close(reply)

    def reply_and_close(self, reply: bytes) -> None:
        """Send *reply* and FIN; ``Lingering`` closes when the client has had time to read them."""
        if not reply and not self.talk.started:
            self.close()  # the client has sent nothing
            return
        try:
            if reply:
                self.sock.send(reply)
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()  # the client has left
            return
        services = self.services
        self.submit(Lingering(services.loop, self.sock, services.lingering, self.client.groups))

    def client_left(self, exc: Exception) -> None:
        """Close, because the client left before the reply."""
        self.close()
        self.record.why = str(exc)
        self.talk.eof = True
        if not self._wants_nothing(exc):
            self.record.finish("client-gone")

    def _wants_nothing(self, error: Exception) -> bool:
        """Return whether *error* ends a health check or a scan, which the log leaves out.

        A client that leaves after the answer to its greeting is counted as a health check.
        """
        talk = self.talk
        if talk.is_check:
            self.services.journal.checked()
        elif talk.started and not isinstance(error, Probe):
            return False
        log.debug("id=%d client=%s asked for nothing: %s", self.record.id, self.client, error)
        return True

    def abort(self, why: str) -> None:
        """Close without a reply, because the proxy stops."""
        self.close()
        if self.talk.started:
            self.record.finish(why)

    def close(self) -> None:
        """Close the client's socket if the loop owns it; else the server closes it soon."""
        if self.in_loop:
            self.services.loop.close_later(self.sock)
