"""SocksServer: what it promises is socketserver's, what is behind it is the pool."""

import socket
import socketserver
import threading

import pytest

from minisocks.server import SocksHandler, SocksServer
from minisocks.session import Services
from minisocks.settings import Config
from support import GREETING, FakeTarget, Talk, open_descriptors, wait_until


@pytest.fixture
def server():
    """A server of its own, not yet serving, with the loop that it needs."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(16)
    services = Services(Config())
    services.loop.start()
    made = SocksServer(listener, services)
    yield made
    made.shutdown()
    made.server_close()
    services.loop.stop()
    services.resolver.close()


def serve(server):
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    wait_until(lambda: server.fileno() in server.services.loop._watching, "open doors")
    return thread


def test_it_is_a_threading_tcp_server(server):
    """Its class, its handler's class, and what they say of themselves are socketserver's."""
    assert isinstance(server, socketserver.ThreadingTCPServer)
    assert issubclass(SocksHandler, socketserver.BaseRequestHandler)
    assert not issubclass(SocksHandler, socketserver.StreamRequestHandler)
    assert server.socket.getsockname() == server.server_address
    assert server.fileno() == server.socket.fileno()


def test_serve_forever_serves_until_shutdown(server):
    """serve_forever returns after shutdown, from any thread; then nobody is accepted."""
    thread = serve(server)
    with FakeTarget() as target, Talk.to(server.server_address[1]) as talk:
        assert 0 == talk.connect5("127.0.0.1", target.port)[0]
        assert thread.is_alive()
        server.shutdown()
        thread.join(20)
        assert not thread.is_alive()
        # Connections live on.
        talk.send(b"still here").expect(b"still here")
    with Talk.to(server.server_address[1]) as talk:
        talk.send(GREETING)
        talk.sock.settimeout(0.1)
        with pytest.raises(socket.timeout):
            talk.receive(1)


def test_shutdown_twice_and_unserved_is_no_trouble(server):
    """shutdown may be called again, and before anything was served."""
    server.shutdown()
    server.shutdown()


def test_closing_leaves_the_listener_to_others(server):
    """A listener that another process shares still accepts after we closed ours."""
    thread = serve(server)
    with server.socket.dup() as shared:
        server.shutdown()
        server.server_close()
        thread.join(20)
        shared.settimeout(20)
        with Talk.to(server.server_address[1]):
            shared.accept()[0].close()


def test_handle_is_what_serves(server):
    """A subclass's handle is called with the client's socket and address, in the loop's thread."""
    seen = []

    class Mine(SocksHandler):
        def handle(self):
            seen.append((self.client_address, threading.current_thread().name))
            super().handle()

    server.RequestHandlerClass = Mine
    thread = serve(server)
    with Talk.to(server.server_address[1]) as talk:
        talk.send(GREETING).expect(b"\x05\x00")
        assert [(talk.sock.getsockname(), "minisocks-loop")] == seen
    server.shutdown()
    thread.join(20)


def test_a_handler_that_raises_closes_its_client_and_no_other(server, bugs, capfd):
    """Our own bug in a handler is logged, its client closed, and the next one served."""
    serving = []

    class Broken(SocksHandler):
        def handle(self):
            serving.append(1)
            if len(serving) < 10:
                raise ZeroDivisionError("on purpose")
            super().handle()

    server.RequestHandlerClass = Broken
    thread = serve(server)
    before = open_descriptors()
    for _ in range(9):
        with Talk.to(server.server_address[1]) as talk:
            talk.expect_eof()
    with Talk.to(server.server_address[1]) as talk:
        talk.send(GREETING).expect(b"\x05\x00")
    wait_until(lambda: open_descriptors() == before)
    assert 9 == len(bugs)
    assert "Traceback" not in capfd.readouterr().err
    server.shutdown()
    thread.join(20)


def test_a_session_that_raises_answers_and_goes_on(server, bugs):
    """Our own bug in a handshake gives REP 01 to its client, and serves the next one."""

    class Broken:
        def admits(self, client):
            raise ZeroDivisionError("on purpose")

        def methods(self, client):
            return (0,)

    server.services.rules = Broken()
    thread = serve(server)
    for _ in range(6):
        with Talk.to(server.server_address[1]) as talk:
            assert 1 == talk.connect5("127.0.0.1", 9)[0]
            talk.expect_eof()
    wait_until(lambda: len(bugs) == 6)
    server.shutdown()
    thread.join(20)
