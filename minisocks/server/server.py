"""SocksServer: one listener, in socketserver's terms."""

import socket
import socketserver
from typing import Any, Optional, Set, Tuple, Type

from minisocks.compat import ACCEPTED_INHERIT, close_quietly, log_bug, tune
from minisocks.policy.client import Client
from minisocks.server.acceptor import Acceptor
from minisocks.server.handler import SocksHandler
from minisocks.server.services import Services

__all__ = ["SocksServer"]


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
