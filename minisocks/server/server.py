"""A listener and the handler of one client, in the terms of socketserver.

::

    negotiate       VER, METHOD, user and password      RFC 1928 section 3, RFC 1929
    admit           the request: ident, rules, limits, the program's hook
    begin           CONNECT, BIND, UDP ASSOCIATE: what needs no waiting, then the loop
    Session.refuse  the reply, if any of that says no   RFC 1928 section 6
"""

import socket
import socketserver
import time
from typing import Any, Dict, Optional, Set, Tuple, Type, Union

from minisocks.compat import ACCEPTED_INHERIT, close_quietly, log_bug, tune
from minisocks.errors import DialError, HandshakeError, ProxyStops
from minisocks.hooks import ProxyRequest, demand_authorized
from minisocks.policy.client import Client
from minisocks.protocol.handshake import Event, Request
from minisocks.protocol.socks5 import Credentials
from minisocks.quoting import MOST_TOLD, quoted
from minisocks.server.acceptor import Acceptor
from minisocks.server.associate import Associate
from minisocks.server.bind import Bind
from minisocks.server.connect import Connect
from minisocks.server.ident import confirm
from minisocks.server.services import Services
from minisocks.server.session import Session
from minisocks.wire import Cmd, Ver

__all__ = ["SocksHandler", "SocksServer"]

#: What carries out which CMD.
COMMANDS: Dict[int, Type[Union[Associate, Bind, Connect]]] = {
    Cmd.CONNECT: Connect,
    Cmd.BIND: Bind,
    Cmd.UDP_ASSOCIATE: Associate,
}


class SocksHandler(socketserver.BaseRequestHandler):
    """Serve one client: run the handshake, and hand the client over to the loop.

    Every wait for the client blocks this thread, with a socket timeout, under one deadline.

    Not a ``StreamRequestHandler``: that one reads ahead, and bytes that a client
    sent behind its request would be lost.

    A subclass may do something before and after ``super().handle()``.  Before, ``request`` is
    the client's socket, of which it must read nothing.  After, the socket is the loop's.
    Thread: a handler's.
    """

    #: The ``SocksServer``.
    server: Any

    def handle(self) -> None:
        """Run the handshake; afterwards the loop owns the socket, or nothing more is wanted of it.

        Turns every error into a reply.
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
            # The parser keeps the error, whose traceback has the parser: only the garbage
            # collector would free them.
            exc.with_traceback(None)
        except OSError as exc:
            session.client_left(exc)
        except Exception as exc:  # noqa: BLE001  # our bug: answer, and serve others
            log_bug("id=%d handshake failed", session.record.id)
            session.refuse(exc)
        finally:
            session.talk.stop_parsing()
            if session.in_loop:
                self.server.hand_over(self.request)

    def make_session(self) -> Session:
        """Return the session of this client; a test kit's may misbehave."""
        return Session(self.server, self.request, self.client_address)

    def negotiate(self) -> Request:
        """Return what the client wants, once it has said so and who it is.

        Raises:
            HandshakeError: it may not, does not in time, or breaks the protocol.
            OSError: it has left.
        """
        event = self.next_event()
        if isinstance(event, Credentials):
            self.session.talk.credentials_checked(self.check_password(event))
            event = self.next_event()
        assert isinstance(event, Request)
        return event

    def next_event(self) -> Event:
        """Return what the client says next: credentials, or its request.

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
                return event
            talk.receive_data(conn.receive())

    def check_password(self, credentials: Credentials) -> bool:
        """Return whether name and password are right (RFC 1929); the wait is not the client's.

        Raises:
            HandshakeError, OSError: as ``negotiate``.
        """
        session, began = self.session, time.monotonic()
        session.conn.has_early_data = session.talk.has_trailing_data
        session.proof = session.services.logins.check(session.conn, credentials)
        session.conn.deadline.extend(time.monotonic() - began)
        if session.proof is None:
            return False
        session.client.user = credentials.user
        return True

    def admit(self, request: Request) -> None:
        """Go on if the client may have what it wants, as far as can be told before a look-up.

        Raises:
            HandshakeError: it may not.
            OSError: it has left while its identd was asked.
        """
        session = self.session
        services, client = session.services, session.client
        session.conn.has_early_data = session.talk.has_trailing_data
        # As of now: of a reload all is seen, or nothing.
        session.access = services.access
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
                demand_authorized(hook, ProxyRequest.of(client, request))
        session.conn.check()  # a hook may be slower than the proxy's end
        session.ask_again()  # and than a reload

    def count_in(self) -> None:
        """Count the connection in; from here on it is not ended for other clients.

        Raises:
            LimitReached: there is no room for it.
            HandshakeError: it has been ended already.
        """
        session = self.session
        session.services.pending.keep(session.conn)
        session.services.connection_limits.enter(session.record, session.access.config)
        session.services.memory.admit()

    def identify(self, request: Request) -> None:
        """Ask the client's identd whether the client is the user that it says (RFC 1413).

        The operator of the client's host decides what its identd says.  So where there are
        passwords, a client that it names has shown none; and it is a user only if a rule names
        that one, who has no password.  All other names are as good as none, so that the client
        does not learn from any answer which of them have passwords.

        Raises:
            HandshakeError: it is not; or may not come in, whatever the answer.
            OSError: it has left.
        """
        session = self.session
        services, client = session.services, session.client
        if client.user is None:
            # Else any client could have us connect to its host, which may have nothing here.
            session.access.rules.precheck_some_user(client, *request[:3]).raise_if_denied()
        else:
            session.check_rules()
        began = time.monotonic()
        confirm(session.conn, request.userid, services.make_room)
        session.waited = time.monotonic() - began
        session.conn.deadline.extend(session.waited)
        session.access = services.access
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
        """Begin what the client wants; what has to be waited for is the loop's.

        Raises:
            HandshakeError, DialError: it cannot be.
            OSError: the client has left.
        """
        COMMANDS[request.cmd](self.session, request).start()


class SocksServer(socketserver.ThreadingTCPServer):
    """One listener.

    Each method means what it means in ``socketserver``, so that a subclass may override it:
    ``get_request`` accepts, ``verify_request`` may refuse, ``process_request`` serves a client
    in the handler thread that calls it, ``finish_request`` makes a ``RequestHandlerClass``,
    ``handle_error`` logs.  Four things differ.  The threads are those of an ``Acceptor``, which
    several servers may share (as those of a ``Proxy`` do); ``shutdown`` is theirs, too.
    ``shutdown_request`` is called only for sockets that the loop has not taken over.
    ``service_actions`` is not called, because nothing polls.  ``client_of`` says who a client is,
    as far as the socket tells; a subclass may know better.

    Args:
        listener: a socket that is bound and listens, made here or given.
        services: what its clients share; their loop has to run.
        RequestHandlerClass: makes what serves a client.
        acceptor: whose threads serve; without it the server has its own.
    """

    daemon_threads = True
    block_on_close = False
    #: Whether a forwarder connects here, so that no address tells where a client is.
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
        """Have connections that are accepted from now on be as the settings say."""
        tune(self.socket, self.services.access.egress.keepalive)

    def fileno(self) -> int:
        """Return the listener's descriptor."""
        return self.socket.fileno()

    def serve_forever(self, poll_interval: float = 0.0) -> None:
        """Serve until ``shutdown``.  *poll_interval* is not needed: nothing polls.

        Raises:
            RuntimeError: there is no thread to be had.
        """
        self.acceptor.start([self])
        self.acceptor.wait()

    def shutdown(self) -> None:
        """Accept no more and end handshakes; connections live on.

        Returns when the handler threads have ended, or after 5 s: a hook may hang.  Any thread.
        """
        self.acceptor.stop()

    def get_request(self) -> Tuple[socket.socket, Any]:
        """Accept a client, without waiting.

        Raises:
            OSError: there is none, or no descriptor for it.
        """
        request, address = self.socket.accept()
        if not self._accepted_inherit:
            tune(request, self.services.access.egress.keepalive)
        return request, address

    def client_of(self, client_address: Any) -> Client:
        """Return the client of a connection.  A handler thread, before it reads anything."""
        return Client(client_address, self.is_forwarded)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve one client in this thread, a handler's."""
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
        """Take note that *request* is the loop's.  A handler calls it, in its thread.

        (To ``detach`` the socket would be another way, but that behaves differently from
        3.6 to 3.13.)
        """
        self._handed_over.add(request)

    def shutdown_request(self, request: Any) -> None:
        """Close the socket of a client that the loop has not taken over."""
        close_quietly(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log the traceback where the log goes, and not to stderr."""
        log_bug("serving %r failed", client_address)

    def server_close(self) -> None:
        """Close the listener.  Not ``shutdown``: others may share it."""
        close_quietly(self.socket)
