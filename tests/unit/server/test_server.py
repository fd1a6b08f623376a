"""SocksServer and SocksHandler: what they promise is socketserver's."""

import gc
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading

import pytest

import minisocks
from kit import inside
from kit.support import (
    GREETING,
    ROOT,
    TIMEOUT,
    FakeTarget,
    Talk,
    closed_port,
    nothing_left,
    open_descriptors,
    password_message,
    run_proxy,
    socks4,
    socks5,
    wait_until,
)
from minisocks.config.settings import Config
from minisocks.server import acceptor
from minisocks.server.server import SocksHandler, SocksServer
from minisocks.server.services import Services


class Running:
    """A server that serves, in a thread of its own, with the loop that it needs."""

    def __init__(self, server_type=SocksServer, handler_type=SocksHandler, **settings):
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        self.services = Services(Config(**settings))
        self.services.loop.start()
        self.server = server_type(listener, self.services, handler_type)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(TIMEOUT)
        assert not self.thread.is_alive()
        self.services.loop.stop()
        self.services.resolver.close()


@pytest.fixture
def running():
    """Makes servers that serve."""
    made = []

    def make(*args, **kwargs):
        made.append(Running(*args, **kwargs))
        return made[-1]

    with nothing_left():
        yield make
        for one in made:
            one.close()


def test_it_is_a_threading_tcp_server(running):
    """Its class, its handler's class, and what they say of themselves are socketserver's."""
    server = running().server
    assert isinstance(server, socketserver.ThreadingTCPServer)
    assert issubclass(SocksHandler, socketserver.BaseRequestHandler)
    assert not issubclass(SocksHandler, socketserver.StreamRequestHandler)
    assert SocksHandler is server.RequestHandlerClass
    assert server.socket.getsockname() == server.server_address
    assert server.fileno() == server.socket.fileno()


def test_both_classes_are_public():
    """They are names of the package."""
    assert (SocksServer, SocksHandler) == (minisocks.SocksServer, minisocks.SocksHandler)


def test_serve_forever_serves_until_shutdown(running):
    """It returns after shutdown, from any thread; then no client is accepted."""
    one = running()
    with FakeTarget() as target, Talk.to(one.port) as talk:
        assert 0 == talk.connect5("127.0.0.1", target.port)[0]
        assert one.thread.is_alive()
        one.server.shutdown()
        one.thread.join(20)
        assert not one.thread.is_alive()
        # Connections live on.
        talk.send(b"still here").expect(b"still here")
    with Talk.to(one.port) as talk:
        talk.send(GREETING)
        talk.sock.settimeout(0.1)
        with pytest.raises(socket.timeout):
            talk.receive(1)


def test_shutdown_twice_and_unserved_is_no_trouble():
    """It may be called again, and before anything was served."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        services = Services(Config())
        server = SocksServer(listener, services)
        server.shutdown()
        server.shutdown()
        services.loop.stop()
        services.resolver.close()


def test_closing_leaves_the_listener_to_others(running):
    """A listener that another process shares still accepts after we closed ours."""
    one = running()
    with one.server.socket.dup() as shared:
        one.server.shutdown()
        one.server.server_close()
        shared.settimeout(20)
        with Talk.to(one.port):
            shared.accept()[0].close()


def test_a_subclass_may_refuse_clients(running, target):
    """With verify_request, as in socketserver: it is asked before a handler is made."""
    asked = []

    class Picky(SocksServer):
        def verify_request(self, request, client_address):
            asked.append((request.getpeername(), client_address))
            return client_address[0] == "127.0.0.2"

    one = running(Picky)
    before = open_descriptors()
    with Talk.to(one.port) as talk:
        address = talk.sock.getsockname()
        talk.expect_eof()
    with Talk.to(one.port, source=("127.0.0.2", 0)) as talk:
        assert 0 == talk.connect5("127.0.0.1", target.port)[0]
    assert (address, address) == asked[0]
    assert 2 == len(asked)
    wait_until(lambda: open_descriptors() == before)


def test_a_subclass_may_wrap_handle(running, target):
    """It is called in a handler thread, with the client's socket and address."""
    seen = []

    class Mine(SocksHandler):
        def handle(self):
            thread = threading.current_thread().name
            seen.append((self.request.getpeername(), self.client_address, thread))
            super().handle()
            seen.append("after")

    one = running(handler_type=Mine)
    with Talk.to(one.port) as talk:
        address = talk.sock.getsockname()
        assert 0 == talk.connect5("127.0.0.1", target.port)[0]
        talk.send(b"x").expect(b"x")
    wait_until(lambda: len(seen) == 2)
    assert [(address, address, "minisocks-handler"), "after"] == seen


def test_a_subclass_may_wait_before_handle(running, target):
    """It holds its own client's thread, and no other client."""
    go_on = threading.Event()

    class Slow(SocksHandler):
        def handle(self):
            if self.client_address[0] == "127.0.0.2":
                assert go_on.wait(TIMEOUT)
            super().handle()

    one = running(handler_type=Slow)
    with Talk.to(one.port, source=("127.0.0.2", 0)) as slow:
        slow.send(GREETING)
        for _ in range(3):
            with Talk.to(one.port) as talk:
                assert 0 == talk.connect5("127.0.0.1", target.port)[0]
        go_on.set()
        slow.expect(b"\x05\x00").send(socks5("127.0.0.1", target.port))
        assert 0 == slow.receive_reply5()[0]


def test_every_method_keeps_its_meaning(running, target):
    """For each end of a client these are called, in this order, by the handler thread."""
    calls = []

    def note(name):
        def method(self, *args):
            calls.append((name, threading.current_thread().name))
            return getattr(SocksServer, name)(self, *args)

        return method

    names = ("verify_request", "process_request", "finish_request", "shutdown_request")
    body = {name: note(name) for name in (*names, "handle_error", "service_actions")}
    one = running(type("Noted", (SocksServer,), body))

    def called(visit):
        del calls[:]
        count = inside.handler_counts(one.server.acceptor)[1]
        with Talk.to(one.port) as talk:
            visit(talk)
        wait_until(lambda: inside.handler_counts(one.server.acceptor)[1] == count + 1)
        wait_until(lambda: len(one.services.loop) + len(one.services.pending) == 0)
        wait_until(lambda: inside.handler_counts(one.server.acceptor)[0] == 0)
        assert {"minisocks-handler"} == {thread for _name, thread in calls}
        return [name for name, _thread in calls]

    served = ["verify_request", "process_request", "finish_request"]
    # Relayed, refused with a reply, dialed by the loop: the loop has the socket.
    assert served == called(lambda talk: talk.connect5("127.0.0.1", target.port))
    assert served == called(lambda talk: talk.connect5("127.0.0.1", closed_port()))
    assert served == called(lambda talk: talk.connect5(b"localhost", target.port))
    assert served == called(lambda talk: talk.send(b"GET / HTTP/1.0\r\n\r\n").rest())
    # Left: the loop has not.
    assert [*served, "shutdown_request"] == called(lambda talk: None)
    assert [*served, "shutdown_request"] == called(lambda talk: talk.send(b"\x05").reset())


def test_a_handler_that_raises_closes_its_client_and_no_other(running, bugs, capfd):
    """A bug in a handler is logged, its client closed, and the next one served."""
    serving = []

    class Broken(SocksHandler):
        def handle(self):
            serving.append(1)
            if len(serving) < 10:
                raise ZeroDivisionError("on purpose")
            super().handle()

    one = running(handler_type=Broken)
    before = open_descriptors()
    for _ in range(9):
        with Talk.to(one.port) as talk:
            talk.expect_eof()
    with Talk.to(one.port) as talk:
        talk.send(GREETING).expect(b"\x05\x00")
    wait_until(lambda: open_descriptors() == before)
    assert 9 == len(bugs)
    assert "Traceback" not in capfd.readouterr().err


def test_a_handler_that_raises_behind_its_handshake_harms_no_connection(running, bugs, target):
    """The loop has the socket by then, so it is not shut down."""

    class Broken(SocksHandler):
        def handle(self):
            super().handle()
            raise ZeroDivisionError("on purpose")

    one = running(handler_type=Broken)
    with Talk.to(one.port) as talk:
        assert 0 == talk.connect5("127.0.0.1", target.port)[0]
        wait_until(lambda: bugs)
        talk.send(b"still here").expect(b"still here")


def test_a_server_that_raises_behind_its_handler_harms_no_connection(running, bugs, target):
    """An overridden process_request may fail when the loop has the socket already."""

    class Broken(SocksServer):
        def process_request(self, request, client_address):
            super().process_request(request, client_address)
            raise ZeroDivisionError("on purpose")

    one = running(Broken)
    with Talk.to(one.port) as talk:
        assert 0 == talk.connect5("127.0.0.1", target.port)[0]
        wait_until(lambda: bugs)
        talk.send(b"still here").expect(b"still here")


def test_a_fault_in_a_handshake_is_answered(running, bugs):
    """Our own bug gives REP 01 to its client, and the next one is served."""

    class Broken:
        tells_listeners = False

        def methods(self, client):
            return (0,)

    one = running()
    one.services.access = one.services.access._replace(rules=Broken())
    for _ in range(6):
        with Talk.to(one.port) as talk:
            assert 1 == talk.connect5("127.0.0.1", 9)[0]
            talk.expect_eof()
    wait_until(lambda: len(bugs) == 6)


@pytest.mark.soak
def test_a_client_leaves_nothing_for_the_garbage_collector(running):
    """However it ends, nothing that had to do with it keeps itself alive."""
    one = running()

    def visits(message, times):
        for _ in range(times):
            with Talk.to(one.port) as talk:
                talk.send(message).finish().rest()
        wait_until(lambda: len(one.services.loop) + len(one.services.pending) == 0)
        wait_until(lambda: inside.handler_counts(one.server.acceptor)[0] == 0)

    gc.collect()
    gc.disable()
    try:
        for message in (b"", b"\x05", b"\x05\x01", b"GET / HTTP/1.0\r\n\r\n", b"\x05\x01\xff"):
            visits(message, 2)
            gc.collect()
            visits(message, 20)
            assert gc.collect() < 100, message
    finally:
        gc.enable()


def test_shutdown_is_bounded_though_a_hook_hangs(running, monkeypatch):
    """It returns, and so does serve_forever; the hook's client is closed when it returns."""
    monkeypatch.setattr(acceptor, "STOP_SECONDS", 0.1)
    entered, go_on = threading.Event(), threading.Event()

    class Hangs(SocksHandler):
        def handle(self):
            entered.set()
            assert go_on.wait(TIMEOUT)
            super().handle()

    one = running(handler_type=Hangs)
    with Talk.to(one.port) as talk:
        assert entered.wait(TIMEOUT)
        one.server.shutdown()
        one.thread.join(TIMEOUT)
        assert not one.thread.is_alive()
        go_on.set()
        talk.expect_eof()
    wait_until(lambda: one.server.acceptor.threads == 0)


#: How far a handshake is, and what the client has said by then.
STATES = {
    "silent": b"",
    "VER": b"\x05",
    "METHODS": b"\x05\x02\x00",
    "user": GREETING + b"\x05\x01",
    "SOCKS4": socks4("127.0.0.1", 1)[:-1],
    "HTTP": b"GET",
}


@pytest.mark.parametrize("how", ["TERM", "INT", "HUP", "stop"])
def test_a_process_ends_in_each_state_of_a_handshake(tmp_path, how):
    """With clients at every step it takes the order at once, and says nothing odd."""
    from kit.support import CommandLine, run_command

    pidfile = str(tmp_path / "pid")
    users = tmp_path / "users"
    users.write_text("")
    settings = ["-l", "0", "--user", "ann:secret", "--open", "--pidfile", pidfile]
    with CommandLine(*settings) as command:
        talks = [Talk.to(command.ports[0]).send(message) for message in STATES.values()]
        wrong = GREETING[:1] + b"\x01\x02" + password_message(b"ann", b"wrong")
        for _ in range(5):  # of which the last ones wait for their penalty
            talks.append(Talk.to(command.ports[0]).send(wrong))
        for talk in talks[-5:]:
            talk.expect(b"\x05\x02")
        if how == "stop":
            assert 0 == run_command("stop", "--pidfile", pidfile)[0]
            status = command.end(None)
        elif how == "HUP":
            command.process.send_signal(signal.SIGHUP)
            command.wait_for_line("reloaded")
            talks[1].send(b"\x01\x00").expect(b"\x05\x00")
            status = command.end()
        else:
            status = command.end(getattr(signal, "SIG" + how))
        for talk in talks:
            talk.close()
        assert 0 == status
        assert [] == [line for line in command.lines if "Trace" in line or "failed:" in line]


def test_a_hook_that_never_returns_does_not_keep_a_program(target):
    """Its thread is a daemon: the program stops the proxy, and ends."""
    code = (
        "import sys, threading\n"
        "from minisocks import Proxy\n"
        "from minisocks.server import acceptor\n"
        "acceptor.STOP_SECONDS = 0.2\n"
        "entered = threading.Event()\n"
        "def hook(request):\n"
        "    entered.set()\n"
        "    threading.Event().wait()\n"
        "with Proxy(listen='127.0.0.1:0', authorize=hook) as proxy:\n"
        "    print(proxy.port, flush=True)\n"
        "    entered.wait()\n"
        "print('ended')\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, universal_newlines=True
    )
    with child:
        with Talk.to(int(child.stdout.readline())) as talk:
            talk.send(GREETING + socks5("127.0.0.1", target.port))
            assert "ended\n" == child.stdout.read()
        assert 0 == child.wait(TIMEOUT)


def test_a_fork_of_the_program_harms_neither(target):
    """The child has none of our threads, and its end leaves the parent's clients alone."""
    with run_proxy() as proxy, Talk.to(proxy.port) as talk, Talk.to(proxy.port) as pending:
        assert 0 == talk.connect5("127.0.0.1", target.port)[0]
        pending.send(b"\x05")
        wait_until(lambda: proxy.stats().handshakes == 1)
        child = os.fork()
        if not child:
            try:
                proxy.stop()
            finally:
                os._exit(0)
        assert 0 == os.waitpid(child, 0)[1]
        talk.send(b"still here").expect(b"still here")
        pending.send(b"\x01\x00").expect(b"\x05\x00").send(socks5("127.0.0.1", target.port))
        assert 0 == pending.receive_reply5()[0]
        with Talk.to(proxy.port) as other:
            assert 0 == other.connect5("127.0.0.1", target.port)[0]
