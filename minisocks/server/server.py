"""A listener and the handler of one client, in the terms of socketserver.

::

    negotiate       VER, METHOD, user and password          RFC 1928 section 3, RFC 1929
    admit           check the request: ident, rules, limits, the program's hook
    begin           start CONNECT, BIND or UDP ASSOCIATE; what must wait goes to the loop
    Session.refuse  the reply if one of these steps fails   RFC 1928 section 6
"""

import socket
import socketserver
import time
from typing import Any, Dict, Optional, Set, Tuple, Type, Union

from minisocks.compat import ACCEPTED_INHERIT, close_quietly, log_bug, tune
from minisocks.errors import DialError, HandshakeError, ProxyStops
from minisocks.hooks import ProxyRequest, check_authorized
from minisocks.policy.client import Client
from minisocks.protocol.handshake import Event, Request
from minisocks.protocol.messages import Credentials
from minisocks.quoting import MOST_TOLD, quoted
from minisocks.server.acceptor import Acceptor
from minisocks.server.associate import Associate
from minisocks.server.bind import Bind
from minisocks.server.connect import Connect
from minisocks.server.ident import confirm
from minisocks.server.resolve import Resolve
from minisocks.server.services import Services
from minisocks.server.session import Session
from minisocks.wire import Cmd, Ver

__all__ = ["SocksHandler", "SocksServer"]

#: Which class carries out which CMD.
COMMANDS: Dict[int, Type[Union[Associate, Bind, Connect, Resolve]]] = {
    Cmd.CONNECT: Connect,
    Cmd.BIND: Bind,
    Cmd.UDP_ASSOCIATE: Associate,
    Cmd.RESOLVE: Resolve,
    Cmd.RESOLVE_PTR: Resolve,
}


class SocksHandler(socketserver.BaseRequestHandler):
    """Serve one client: run the handshake, then hand the client to the loop.

    Each wait for the client blocks this thread; all waits share one deadline.  Not a
    ``StreamRequestHandler``, because that one reads ahead and would lose early data.

    A subclass may add code before and after ``super().handle()``.  Before, ``request`` is the
    client's socket, from which it must not read.  After, the loop owns the socket.
    Thread: a handler's.
    """

    #: The ``SocksServer``.
    server: Any

    def handle(self) -> None:
        """Run the handshake, and turn each error into a reply.

        Afterwards the loop owns the socket, or the server closes it.
        """
        self.session = session = self.make_session()
        pending = session.services.pending
        try:
            pending.enter(session.conn)
            try:
                request = self.negotiate()
                self.admit(request)
                self.begin(request)
            finally:
                pending.leave(session.conn)
        except ProxyStops as exc:
            session.abort(str(exc))
        except (HandshakeError, DialError) as exc:
            session.refuse(exc)
            # The parser keeps the error, and its traceback keeps the parser: only the garbage
            # collector would free them.
            exc.with_traceback(None)
        except OSError as exc:
            session.client_left(exc)
        except Exception as exc:  # noqa: BLE001  # our bug: answer, and serve others
            log_bug("id=%d handshake failed", session.record.id)
            session.refuse(exc)
        finally:
            if session.in_loop:
                self.server.hand_over(self.request)

    def make_session(self) -> Session:
        """Return the session of this client; ``minisocks.testing`` makes another one."""
        return Session(self.server, self.request, self.client_address)

    def negotiate(self) -> Request:
        """Return the client's request; check user and password before it, if it sends them.

        Raises:
            HandshakeError: the client breaks the protocol, is too slow, or has no right password.
            OSError: the client has left.
        """
        talk, conn = self.session.talk, self.session.conn
        try:
            talk.receive_data(conn.receive())  # the client sends first
            event = self.next_event()
            if isinstance(event, Credentials):
                talk.credentials_checked(self.check_password(event))
                event = self.next_event()
        finally:
            talk.stop_parsing()
        assert isinstance(event, Request)
        return event

    def next_event(self) -> Event:
        """Return what the client sends next: credentials, or its request.

        Raises:
            HandshakeError, OSError: as ``negotiate``.
        """
        talk, conn = self.session.talk, self.session.conn
        while True:
            event = talk.next_event()
            answer = talk.data_to_send()
            if answer:
                conn.send(answer)
            if event is not None:
                conn.has_early_data = talk.has_trailing_data
                return event
            talk.receive_data(conn.receive())

    def check_password(self, credentials: Credentials) -> bool:
        """Return whether user and password are right (RFC 1929).

        The client's deadline is later by the time that this takes.

        Raises:
            HandshakeError, OSError: as ``negotiate``.
        """
        session, began = self.session, time.monotonic()
        session.proof = session.services.logins.check(session.conn, credentials)
        session.conn.deadline.extend(time.monotonic() - began)
        if session.proof is None:
            return False
        session.client.user = credentials.user
        return True

    def admit(self, request: Request) -> None:
        """Check whether the request is allowed, as far as possible before a look-up.

        Raises:
            HandshakeError: the request is refused.
            OSError: the client has left while its identd was asked.
        """
        session = self.session
        services, client = session.services, session.client
        # Read once, so that new users never come with old rules.
        if session.access is not services.access:
            session.read_access()
        client.user = request.user
        session.asked(request)
        session.check_user()
        if request.ver == Ver.SOCKS4 and session.access.config.ident:
            self.identify(request)
        session.check_rules()
        hook = services.hooks.authorize
        if hook is None:
            self.count_in()
            return
        conn = session.conn
        with services.hook_queue.place(conn, lambda: conn.pause(conn.deadline.remaining(), True)):
            self.count_in()
            with services.processor.released():
                known = session.access.exits
                session.choose(check_authorized(hook, ProxyRequest.of(client, request), known))
        session.conn.check()  # the proxy may have stopped during the hook
        session.check_again()  # or may have new settings

    def count_in(self) -> None:
        """Count the connection; from here on it is not ended to make room for other clients.

        Raises:
            LimitReached: a limit is reached.
            HandshakeError: another thread has ended the handshake.
        """
        session = self.session
        session.services.pending.keep(session.conn)
        session.services.connection_limits.enter(session.record, session.access.config)
        session.services.memory.admit()

    def identify(self, request: Request) -> None:
        """Ask the client's identd whether USERID is the user of this connection (RFC 1413).

        The operator of the client's host decides what its identd answers.  So where there are
        passwords, the answer does not replace one: it makes the client a user only if a rule
        names a user of that name without a password.  All other names have no effect, so that
        no answer tells a client which names have passwords.

        Raises:
            HandshakeError: it is not; or no answer could allow the request.
            OSError: the client has left.
        """
        session = self.session
        services, client = session.services, session.client
        if client.user is None:
            # Otherwise any client could make the proxy connect to the client's host.
            session.access.rules.precheck_some_user(client, *request[:3]).raise_if_denied()
        else:
            session.check_rules()
        began = time.monotonic()
        confirm(session.conn, request.userid, services.make_room)
        session.waited = time.monotonic() - began
        session.conn.deadline.extend(session.waited)
        session.read_access()
        session.check_user()
        if request.user is None:
            users = session.access.users
            client.is_unproven = bool(users)
            if users and users.may_be(request.userid):
                told = "user %s needs a password; SOCKS4 cannot send one"
                session.record.why = told % quoted(request.userid, MOST_TOLD)
            elif not users or session.access.rules.name(request.userid):
                client.user = request.userid

    def begin(self, request: Request) -> None:
        """Start the command; what must wait goes to the loop.

        Raises:
            HandshakeError, DialError: the request is refused.
            OSError: the client has left.
        """
        COMMANDS[request.cmd](self.session, request).start()


class SocksServer(socketserver.ThreadingTCPServer):
    """One listener, with the methods of ``socketserver``, which a subclass may override.

    ``get_request`` accepts, ``verify_request`` may refuse, ``process_request`` serves a client
    in the handler thread that calls it, ``finish_request`` makes a ``RequestHandlerClass``,
    ``handle_error`` logs.  Differences from ``socketserver``: the threads belong to an
    ``Acceptor``, which several servers may share (those of a ``Proxy`` do), and ``shutdown``
    stops all of it; ``shutdown_request`` is called only for sockets that the loop does not own;
    ``service_actions`` is never called, because nothing polls; ``client_of`` returns the
    ``Client``, of which a subclass may know more than the socket tells.

    Args:
        listener: a socket that is bound and listens.
        services: what its clients share; their loop must run.
        RequestHandlerClass: each instance serves one client.
        acceptor: its threads serve; None: the server makes its own.
    """

    daemon_threads = True
    block_on_close = False
    #: Whether a forwarder connects here, so that the addresses of clients are not known.
    is_forwarded = False

    def __init__(
        self,
        listener: socket.socket,
        services: Services,
        RequestHandlerClass: Type[SocksHandler] = SocksHandler,
        acceptor: Optional[Acceptor] = None,
    ) -> None:
        # BaseServer's, because TCPServer's would make a socket of its own.
        socketserver.BaseServer.__init__(self, listener.getsockname(), RequestHandlerClass)
        self.socket = listener
        self.address_family = listener.family
        self.services = services
        self.acceptor = acceptor or Acceptor(services)
        self._handed_over: Set[Any] = set()
        listener.setblocking(False)
        self.tune()
        is_unix = listener.family == getattr(socket, "AF_UNIX", None)
        self._accepted_inherit = ACCEPTED_INHERIT and not is_unix
        services.listeners.add(listener)

    def tune(self) -> None:
        """Apply the settings to connections that are accepted from now on."""
        tune(self.socket, self.services.access.egress.keepalive)

    def fileno(self) -> int:
        """Return the listener's descriptor."""
        return self.socket.fileno()

    def serve_forever(self, poll_interval: float = 0.0) -> None:
        """Serve until ``shutdown``.  *poll_interval* is ignored, because nothing polls.

        Raises:
            RuntimeError: no thread can be started.
        """
        self.acceptor.start([self])
        self.acceptor.wait()

    def shutdown(self) -> None:
        """Accept no more and end handshakes; connections go on.

        Returns when the handler threads have ended, or after 5 s because a hook may hang.
        Thread: any.
        """
        self.acceptor.stop()

    def get_request(self) -> Tuple[socket.socket, Any]:
        """Accept a client, without waiting.

        Raises:
            OSError: no client waits, or there is no descriptor for it.
        """
        request, address = self.socket.accept()
        if not self._accepted_inherit:
            tune(request, self.services.access.egress.keepalive)
        return request, address

    def client_of(self, client_address: Any) -> Client:
        """Return the client of a connection.  Thread: a handler's, before it reads anything."""
        return Client(client_address, self.is_forwarded)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve one client in the calling thread, a handler's."""
        try:
            self.finish_request(request, client_address)
        except Exception:  # noqa: BLE001  # as socketserver does
            self.handle_error(request, client_address)
        finally:
            if request in self._handed_over:
                self._handed_over.discard(request)
            else:
                self.shutdown_request(request)

    def hand_over(self, request: Any) -> None:
        """Note that the loop owns *request*.  Thread: a handler's.

        Not by ``detach``, which behaves differently in 3.6 and 3.13.
        """
        self._handed_over.add(request)

    def shutdown_request(self, request: Any) -> None:
        """Close the socket of a client that the loop does not own."""
        close_quietly(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log the traceback, instead of printing it to stderr."""
        log_bug("serving %r failed", client_address)

    def server_close(self) -> None:
        """Close the listener.  Does not call ``shutdown``, because servers may share threads."""
        close_quietly(self.socket)
