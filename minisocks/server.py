"""SocksServer and SocksHandler: the pool's clients, in socketserver's terms."""

import socket
import socketserver
from typing import Any, Optional, Tuple

from minisocks.compat import ACCEPTED_INHERIT, close_quietly, log_bug, tune
from minisocks.negotiate import negotiate
from minisocks.pool import HandlerPool
from minisocks.session import Services

__all__ = ["SocksHandler", "SocksServer"]


class SocksHandler(socketserver.BaseRequestHandler):
    """Serve one client: read the version byte, run the handshake, hand over.

    Not a ``StreamRequestHandler``: that one reads ahead, and bytes that a client
    sent behind its request would be lost.
    """

    server: "SocksServer"

    def handle(self) -> None:
        """Run the handshake; afterwards the relay, or nobody, owns the socket."""
        services = self.server.services
        session = services.session_type(services, self.request, self.client_address)
        negotiate(session, self.server.pool)


class SocksServer(socketserver.ThreadingTCPServer):
    """One listener.

    ``serve_forever``, ``shutdown`` and ``handle`` mean what they mean in
    socketserver; what is behind them is a pool of threads that several servers
    may share (as those of a ``Proxy`` do).

    Args:
        listener: a socket that is bound and listens, ours or given to us.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(
        self, listener: socket.socket, services: Services, pool: Optional[HandlerPool] = None
    ) -> None:
        # BaseServer's, because TCPServer's would make a socket of its own.
        socketserver.BaseServer.__init__(self, listener.getsockname(), SocksHandler)
        self.socket = listener
        self.address_family = listener.family
        self.services = services
        self.pool = pool or HandlerPool(services, services.config.max_handshakes)
        listener.setblocking(False)
        tune(listener)

    def fileno(self) -> int:
        """Return the listener's descriptor."""
        return self.socket.fileno()

    def serve_forever(self, poll_interval: float = 0.0) -> None:
        """Serve until ``shutdown``.  *poll_interval* is not needed: nothing polls.

        The loop does, which has to run.
        """
        self.pool.start([self])
        self.pool.wait()

    def shutdown(self) -> None:
        """Accept no more and end handshakes; connections live on."""
        self.pool.stop()

    def get_request(self) -> Tuple[socket.socket, Any]:
        """Accept a client, without waiting.

        Raises:
            OSError: there is none, or no descriptor for it.
        """
        request, address = self.socket.accept()
        request.setblocking(False)
        if not ACCEPTED_INHERIT:
            tune(request)
        return request, address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve one client in this thread, the loop's.

        ``shutdown_request`` is not called behind it: the session owns the
        socket, and has passed it on or closed it.  (``detach`` would be another
        way, but behaves differently from 3.6 to 3.13.)
        """
        try:
            self.finish_request(request, client_address)
        except Exception:  # noqa: BLE001  # our bug: the handler itself could not be made
            self.handle_error(request, client_address)
            self.shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log the traceback where the log goes, and not to stderr."""
        log_bug("serving %r failed", client_address)

    def server_close(self) -> None:
        """Close the listener.  Not ``shutdown``: others may share it."""
        close_quietly(self.socket)
