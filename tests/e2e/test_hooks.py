"""The program's own decisions: each hook says yes, no, nonsense, raises, or takes its time."""

import contextlib
import gc
import logging
import socket
import threading
import time

import pytest

import minisocks.net.resolver
import minisocks.server.acceptor
from kit.support import (
    GRANTED4,
    GREETING,
    REJECTED4,
    TIMEOUT,
    FakeTarget,
    Talk,
    closed_port,
    failure5,
    handler_with,
    open_descriptors,
    own_threads,
    password_message,
    run_proxy,
    socks4,
    socks4a,
    socks5,
    wait_until,
)
from minisocks import Proxy, ProxyRequest
from minisocks.net.resolver import Resolver
from minisocks.server.session import Session
from minisocks.wire import Rep


def leave(*args):
    """Raise what ends a program; in a thread it ends that thread only."""
    raise SystemExit(1)


NOT_BOOL = [None, 1, 0, "yes", object(), [True]]


class Slow:
    """A hook that holds the calls for which *is_slow* is true until ``go_on`` is set."""

    def __init__(self, answer, is_slow):
        self.answer, self.is_slow = answer, is_slow
        self.go_on = threading.Event()
        self.waiting = []

    def __call__(self, *args):
        if self.is_slow(*args):
            self.waiting.append(threading.current_thread().name)
            assert self.go_on.wait(TIMEOUT)
        return self.answer


class FromLan(Session):
    """A session whose client seems to be on the LAN."""

    __slots__ = ()

    def __init__(self, services, sock, peer):
        super().__init__(services, sock, ("10.0.0.7", 4242))


def boom(*args):
    raise LookupError("the program's mistake")


def log_in(talk, user=b"ann", password=b"secret"):
    """Offer METHOD 02, send the password, return STATUS."""
    talk.send(b"\x05\x01\x02").expect(b"\x05\x02").send(password_message(user, password))
    return talk.receive(2)


def assert_works(talk, host, port):
    talk.send(socks5(host, port))
    assert 0 == talk.receive_reply5()[0]
    talk.send(b"hello").expect(b"hello")


def assert_served(proxy, target, host="127.0.0.1"):
    with Talk.to(proxy.port) as talk:
        talk.send(GREETING).expect(b"\x05\x00")
        assert_works(talk, host, target.port)


def rep_for(proxy, host, port=1):
    """Return the REP for a CONNECT without a password."""
    with Talk.to(proxy.port) as talk:
        rep = talk.connect5(host, port)[0]
        if rep:
            talk.expect_eof()
        return rep


# authenticate(user, password, client)


def test_authenticate_decides_which_clients_come_in(target):
    """True is STATUS 0, and the client goes on; False is STATUS 1, and EOF."""
    with run_proxy(authenticate=lambda user, password, client: user + "!" == password) as proxy:
        with Talk.to(proxy.port) as talk:
            assert b"\x01\x00" == log_in(talk, b"ann", b"ann!")
            assert_works(talk, "127.0.0.1", target.port)
            assert "ann" == proxy.records[-1].user
        with Talk.to(proxy.port) as talk:
            assert b"\x01\x01" == log_in(talk, b"ann", b"ann")
            talk.expect_eof()
            assert None is proxy.records[-1].user
        assert {"connection not allowed by ruleset": 1} == proxy.stats().refused


@pytest.mark.rfc(
    "RFC 1929 section 2", "ULEN, then UNAME, 1 to 255 octets; PLEN, then PASSWD, 1 to 255 octets."
)
def test_authenticate_receives_text_and_the_client(target):
    """User and password are UTF-8 with surrogates for other bytes; the client has its address."""
    asked = []

    def authenticate(user, password, client):
        asked.append((user, password, client.host, client.port))
        return True

    with run_proxy(authenticate=authenticate) as proxy, Talk.to(proxy.port) as talk:
        assert b"\x01\x00" == log_in(talk, "änn".encode(), b"\xff\0x")
        assert [("änn", "\udcff\0x", "127.0.0.1", talk.sock.getsockname()[1])] == asked
        # RFC 1929 wants a byte at least; whether to mind is the hook's affair.
        with Talk.to(proxy.port) as nobody:
            assert b"\x01\x00" == log_in(nobody, b"", b"")
        assert ("", "") == asked[-1][:2]


def test_with_authenticate_a_password_is_needed():
    """A client that offers none (METHOD 00, SOCKS4) is refused, and the hook is not called."""
    asked = []
    with run_proxy(authenticate=lambda *args: asked.append(args) or True) as proxy:
        with Talk.to(proxy.port) as talk:
            talk.send(GREETING).expect(b"\x05\xff").expect_eof()
        with Talk.to(proxy.port) as talk:
            talk.send(socks4("127.0.0.1", 1)).expect(REJECTED4).expect_eof()
    assert [] == asked


@pytest.mark.rfc(
    "RFC 1929 section 2",
    "UNAME is the name known to the source operating system, PASSWD goes with it.",
)
def test_users_and_authenticate_add_up(target):
    """A user of the table comes in without the hook; any other user if the hook returns True."""
    asked = []

    def authenticate(user, password, client):
        asked.append(user)
        return user == "bob"

    with run_proxy(user="ann:secret", authenticate=authenticate) as proxy:
        for user, password, status in (
            (b"ann", b"secret", b"\x01\x00"),
            (b"ann", b"wrong", b"\x01\x01"),
            (b"bob", b"any", b"\x01\x00"),
        ):
            with Talk.to(proxy.port) as talk:
                assert status == log_in(talk, user, password)
    assert ["ann", "bob"] == asked


@pytest.mark.parametrize("hook", [boom, leave] + [lambda *args, a=a: a for a in NOT_BOOL])
def test_no_client_comes_in_by_a_bug_in_authenticate(bugs, hook):
    """A hook that raises, or returns neither True nor False, admits no client: a bug is logged."""
    with run_proxy(authenticate=hook) as proxy, Talk.to(proxy.port) as talk:
        assert b"\x01\x01" == log_in(talk)
        talk.expect_eof()
        record = proxy.records[-1]
        assert ("refused", "the authenticate hook failed") == (record.end, record.why)
    assert 1 == len(bugs)
    assert "the authenticate hook failed" in bugs[0]


def test_a_slow_authenticate_delays_no_other_client(target):
    """While it holds twelve passwords, others are checked, and their clients served."""
    slow = Slow(True, lambda user, password, client: user == "slow")
    with run_proxy(authenticate=slow) as proxy, contextlib.ExitStack() as stack:
        stack.callback(slow.go_on.set)
        talks = [stack.enter_context(Talk.to(proxy.port)) for _ in range(12)]
        for talk in talks:
            talk.send(b"\x05\x01\x02" + password_message(b"slow", b"x")).expect(b"\x05\x02")
        wait_until(lambda: len(slow.waiting) == 12)
        with Talk.to(proxy.port) as talk:
            assert b"\x01\x00" == log_in(talk, b"quick")
            assert_works(talk, "127.0.0.1", target.port)
        slow.go_on.set()
        for talk in talks:
            talk.expect(b"\x01\x00")
            assert_works(talk, "127.0.0.1", target.port)
        assert {"minisocks-handler"} == set(slow.waiting)


def test_the_time_of_authenticate_is_not_the_client_s(target):
    """A client has its whole time for what it must say, however long the hook takes."""
    sessions, given = [], []

    class Kept(Session):
        __slots__ = ()

        def __init__(self, *args):
            super().__init__(*args)
            sessions.append(self)

    def authenticate(*args):
        given.append(sessions[0].conn.deadline.at)
        until = time.monotonic() + 0.05
        while time.monotonic() < until:
            threading.Event().wait(0.05)
        return True

    with run_proxy(authenticate=authenticate, handler_type=handler_with(Kept)) as proxy:
        with Talk.to(proxy.port) as talk:
            assert b"\x01\x00" == log_in(talk)
            assert_works(talk, "127.0.0.1", target.port)
    assert sessions[0].conn.deadline.at >= given[0] + 0.05


# authorize(request)


@pytest.mark.rfc(
    "RFC 1928 section 6, CONNECT",
    "The server is expected to use DST, and the client's address and port, in evaluating it.",
)
@pytest.mark.rfc(
    "SOCKS4, CONNECT",
    "Granted by any combination of source, destination, port, USERID and what IDENT says.",
)
def test_authorize_receives_what_is_wanted(target):
    """Client, protocol, command, host and port, user and user id, as text and in one spelling."""
    asked, sources = [], []

    def authorize(request):
        asked.append(request)
        return False

    with run_proxy(authorize=authorize, user="ann:secret", allow_lan=True) as proxy:
        for message in (
            GREETING + socks5(b"Example.ORG.", 443),
            GREETING + socks5("::1", 80),
            socks4a(b"b.example", 81, b"\xff"),
            socks4("127.0.0.1", 82),
        ):
            with Talk.to(proxy.port) as talk:
                sources.append(talk.sock.getsockname())
                talk.send(message).rest()
        with Talk.to(proxy.port) as talk:
            sources.append(talk.sock.getsockname())
            log_in(talk)
            talk.send(socks5(b"127.1", 83)).rest()
    assert [
        (5, "CONNECT", "example.org", 443, None, ""),
        (5, "CONNECT", "::1", 80, None, ""),
        (4, "CONNECT", "b.example", 81, None, "\udcff"),
        (4, "CONNECT", "127.0.0.1", 82, None, ""),
        (5, "CONNECT", "127.1", 83, "ann", ""),
    ] == [tuple(request)[1:] for request in asked]
    assert {ProxyRequest} == {type(request) for request in asked}
    assert sources == [(request.client.host, request.client.port) for request in asked]


@pytest.mark.rfc(
    "RFC 1928 section 3",
    "The server evaluates the request, and establishes the connection or denies it.",
)
@pytest.mark.rfc("RFC 1928 section 6", "REP 02: connection not allowed by ruleset.")
def test_authorize_decides_about_targets(target):
    """True goes on; False is REP 02 (91), and the name has not been looked up."""
    names = []

    def getaddrinfo(host, *args):
        names.append(host)
        return socket.getaddrinfo("127.0.0.1", *args)

    resolver = Resolver(getaddrinfo)
    with run_proxy(authorize=lambda r: r.host == "good.example", resolver=resolver) as proxy:
        assert_served(proxy, target, b"good.example")
        assert 2 == rep_for(proxy, b"bad.example")
        assert "refused by the authorize hook of the program" == proxy.records[-1].why
        with Talk.to(proxy.port) as talk:
            talk.send(socks4a(b"bad.example", 1)).expect(REJECTED4).expect_eof()
        with Talk.to(proxy.port) as talk:
            talk.send(socks4a(b"good.example", target.port)).expect(GRANTED4)
    resolver.close()
    assert [b"good.example"] * 2 == names


@pytest.mark.rfc("RFC 1928 section 6", "REP 01: general SOCKS server failure.")
@pytest.mark.parametrize("hook", [boom, leave] + [lambda request, a=a: a for a in NOT_BOOL])
def test_no_client_gets_through_by_a_bug_in_authorize(bugs, target, hook):
    """A hook that raises, or returns neither True nor False, is REP 01 (91) and a logged bug."""
    with run_proxy(authorize=hook) as proxy:
        assert 1 == rep_for(proxy, "127.0.0.1", target.port)
        with Talk.to(proxy.port) as talk:
            talk.send(socks4("127.0.0.1", target.port)).expect(REJECTED4).expect_eof()
    assert 2 == len(bugs)
    assert "client=127.0.0.1" in bugs[0]
    assert "the authorize hook failed" in bugs[0]
    assert [] == target.talks


def test_an_os_error_of_authorize_is_no_client_that_left(bugs):
    """An OSError, which elsewhere means that a client has left, is a bug of the hook, too."""

    def authorize(request):
        raise ConnectionResetError("the program's data base")

    with run_proxy(authorize=authorize) as proxy:
        assert 1 == rep_for(proxy, "127.0.0.1")
    assert 1 == len(bugs)


def test_a_slow_authorize_delays_no_other_client(target):
    """While it holds twelve requests, others are served."""
    slow = Slow(True, lambda request: request.port == 1)
    with run_proxy(authorize=slow) as proxy, contextlib.ExitStack() as stack:
        stack.callback(slow.go_on.set)
        talks = [stack.enter_context(Talk.to(proxy.port)) for _ in range(12)]
        for talk in talks:
            talk.send(GREETING + socks5("127.0.0.1", 1)).expect(b"\x05\x00")
        wait_until(lambda: len(slow.waiting) == 12)
        assert_served(proxy, target)
        slow.go_on.set()
        for talk in talks:
            assert 5 == talk.receive_reply5()[0]


@pytest.mark.parametrize("early", [b"", b"all"])
@pytest.mark.parametrize("hook", ["authenticate", "authorize"])
def test_a_client_that_says_no_more_is_served_where_hooks_decide(hook, early, target):
    """A client that sends FIN has sent all, and still waits for the reply."""
    with run_proxy(**{hook: lambda *args: True}) as proxy, Talk.to(proxy.port) as talk:
        request = socks5("127.0.0.1", target.port) + early
        if hook == "authenticate":
            talk.send(b"\x05\x01\x02" + password_message(b"ann", b"secret") + request).finish()
            talk.expect(b"\x05\x02\x01\x00")
        else:
            talk.send(GREETING + request).finish().expect(b"\x05\x00")
        assert 0 == talk.receive_reply5()[0]
        assert early == talk.rest()


def test_a_client_that_closes_does_not_wait_for_a_hook_for_long(monkeypatch, other_networks):
    """It is refused some seconds after its FIN, and the hook is not called for it."""
    monkeypatch.setattr("minisocks.server.clientsocket.FIN_SECONDS", 0.0)
    slow = Slow(True, lambda request: True)
    with run_proxy(authorize=slow, max_handshakes=4) as proxy, contextlib.ExitStack() as stack:
        stack.callback(slow.go_on.set)
        first = stack.enter_context(Talk.to(proxy.port, "127.0.0.1", ("127.2.0.1", 0)))
        first.send(GREETING + socks5("127.0.0.1", closed_port())).expect(b"\x05\x00")
        wait_until(lambda: slow.waiting)
        second = stack.enter_context(Talk.to(proxy.port, "127.0.0.1", ("127.2.0.1", 0)))
        second.send(GREETING + socks5("127.0.0.1", closed_port())).finish()
        second.expect(b"\x05\x00" + failure5(Rep.TTL_EXPIRED)).expect_eof()
        assert 1 == len(slow.waiting)


def test_a_client_that_leaves_while_authorize_ponders_is_just_gone(target):
    """Its connection ends, and the next one is served."""
    slow = Slow(True, lambda request: request.host == "127.0.0.2")
    with run_proxy(authorize=slow) as proxy:
        try:
            with Talk.to(proxy.port) as talk:
                talk.send(GREETING + socks5("127.0.0.2", closed_port())).expect(b"\x05\x00")
                wait_until(lambda: slow.waiting)
                talk.reset()
        finally:
            slow.go_on.set()
        wait_until(lambda: proxy.records[-1].end)
        assert_served(proxy, target)


def test_the_built_in_rules_come_before_authorize():
    """It is not called for a client that may not come in, or may not go to that name."""
    asked = []
    for settings in ({}, {"allow_lan": True}):
        settings = dict(settings, handler_type=handler_with(FromLan))
        with run_proxy(authorize=lambda r: asked.append(r) or True, **settings) as proxy:
            assert 2 == rep_for(proxy, b"localhost")
    assert [] == asked


def test_the_built_in_rules_hold_after_authorize_and_resolve(target):
    """Neither hook opens this host's loopback to a client from elsewhere."""
    asked = []
    hooks = {
        "authorize": lambda request: asked.append(request.host) or True,
        "resolve": {"inside.example": ["127.0.0.1", "::1"], "alone.example": "127.0.0.1"}.get,
    }
    with run_proxy(allow_lan=True, handler_type=handler_with(FromLan), **hooks) as proxy:
        for host in (b"inside.example", b"alone.example", "127.0.0.1", "::1"):
            assert 2 == rep_for(proxy, host, target.port)
    assert ["inside.example", "alone.example", "127.0.0.1", "::1"] == asked
    assert [] == target.talks


# resolve(name)


def test_resolve_gives_names_their_addresses(target):
    """A dictionary's get will do; one address need not be a list; the first that works is used."""
    table = {
        "one.example": "127.0.0.1",
        "list.example": ["127.0.0.1"],
        "some.example": ("127.0.0.9", "127.0.0.1"),
        "made.example": (text for text in ["127.0.0.1"]),
    }
    with run_proxy(resolve=table.get) as proxy:
        for name in table:
            assert_served(proxy, target, name.upper().encode() + b".")
            assert (name, "127.0.0.1") == (proxy.records[-1].host, proxy.records[-1].via)
    with FakeTarget(host="::1") as six, run_proxy(resolve=lambda name: ["::1"]) as proxy:
        assert_served(proxy, six, b"six.example")


def test_none_from_resolve_asks_the_system(target):
    """The system looks up the names that the program does not know."""
    with run_proxy(resolve={}.get) as proxy:
        assert_served(proxy, target, b"localhost")


def test_resolve_is_not_asked_about_addresses(target):
    """An address in any notation is no name."""
    asked = []
    with run_proxy(resolve=asked.append) as proxy:
        for host in ("127.0.0.1", b"127.0.0.1", b"127.1", b"0x7f000001"):
            assert_served(proxy, target, host)
    assert [] == asked


def no_such_host(name):
    raise socket.gaierror(socket.EAI_NONAME, "no such host")


@pytest.mark.parametrize("hook", [lambda name: [], lambda name: iter(()), no_such_host])
def test_resolve_may_say_that_there_is_no_such_host(hook):
    """Nothing, or an OSError, is REP 04, and no bug."""
    with run_proxy(resolve=hook) as proxy:
        assert 4 == rep_for(proxy, b"a.example")
        assert "a.example" in proxy.records[-1].why


def generator(name):
    yield "127.0.0.1"
    raise KeyError(name)


class Wordless(Exception):
    """An exception with a bug of its own."""

    def __str__(self):
        raise ValueError("no words")


def wordless(name):
    raise Wordless


@pytest.mark.parametrize(
    "hook",
    [boom, leave, {}.__getitem__, generator, wordless]
    + [
        lambda name, a=a: a
        for a in ("nonsense", "", ["a.example"], ["127.0.0.1", "ä"], 5, [1], [b"127.0.0.1"], "1\0")
    ],
)
def test_a_bug_in_resolve_is_logged_and_reaches_no_target(bugs, target, hook):
    """Another exception, or a value that is no address, is REP 01 and a logged bug."""
    with run_proxy(resolve=hook) as proxy:
        assert 1 == rep_for(proxy, b"a.example", target.port)
        assert "the resolve hook failed" in proxy.records[-1].why
    assert 1 == len(bugs)
    assert [] == target.talks


def test_a_slow_resolve_delays_no_other_client(target):
    """While it holds some names, others are looked up, and addresses need no look-up."""
    slow = Slow(["127.0.0.1"], lambda name: name == "slow.example")
    with run_proxy(resolve=slow) as proxy, contextlib.ExitStack() as stack:
        stack.callback(slow.go_on.set)
        talks = [stack.enter_context(Talk.to(proxy.port)) for _ in range(8)]
        for talk in talks:
            talk.send(GREETING + socks5(b"slow.example", target.port)).expect(b"\x05\x00")
        wait_until(lambda: len(slow.waiting) == 8)
        assert_served(proxy, target, b"quick.example")
        assert_served(proxy, target)
        slow.go_on.set()
        for talk in talks:
            assert 0 == talk.receive_reply5()[0]
        assert {"minisocks-resolver"} == set(slow.waiting)


# on_connection(record)


def test_on_connection_hears_of_each_connection_once(target):
    """It gets each success, refusal and nonsense once, when that has ended; silence not at all."""
    heard = []
    with run_proxy(on_connection=heard.append) as proxy:
        Talk.to(proxy.port).close()
        assert_served(proxy, target)
        wait_until(lambda: len(heard) == 1)
        assert 5 == rep_for(proxy, "127.0.0.1", closed_port())
        wait_until(lambda: len(heard) == 2)
        with Talk.to(proxy.port) as talk:
            talk.send(b"\x16\x03\x01" + bytes(10)).rest()
    assert ["client-fin", "refused", "not-socks"] == [record.end for record in heard]
    assert (5, 5) == (heard[0].up, heard[0].down)
    assert heard == proxy.records


def test_on_connection_has_a_thread_of_its_own_and_only_if_there_is_something_to_tell():
    """The thread is made for the first record and ends with the proxy; only where a hook is."""

    def reporters():
        return [t for t in threading.enumerate() if t.name == "minisocks-reporter"]

    threads = []
    hook = lambda record: threads.append(threading.current_thread().name)  # noqa: E731  # short
    with run_proxy() as without, run_proxy(on_connection=hook) as proxy:
        rep_for(without, "127.0.0.1", closed_port())
        assert [] == reporters()
        rep_for(proxy, "127.0.0.1", closed_port())
        wait_until(lambda: threads)
        assert 1 == len(reporters())
    assert ["minisocks-reporter"] == threads
    wait_until(lambda: reporters() == [])


def test_a_slow_on_connection_delays_no_client(target):
    """While it holds the first record others are served; then it gets their records in order."""
    go_on, heard = threading.Event(), []

    def on_connection(record):
        heard.append(record.id)
        assert go_on.wait(TIMEOUT)

    with run_proxy(on_connection=on_connection) as proxy:
        try:
            for _ in range(10):
                assert_served(proxy, target)
                wait_until(lambda: all(record.end for record in proxy.records))
            assert [1] == heard
        finally:
            go_on.set()
    assert list(range(1, 11)) == heard


@pytest.mark.parametrize("fails", [boom, leave])
def test_what_on_connection_raises_is_logged_and_the_next_arrives(bugs, fails):
    """The exception costs that one record only."""
    heard = []

    def on_connection(record):
        heard.append(record.id)
        if record.id == 1:
            fails()

    with run_proxy(on_connection=on_connection) as proxy:
        for _ in range(2):
            rep_for(proxy, "127.0.0.1", closed_port())
    assert [1, 2] == heard
    assert ["id=1 the on_connection hook failed"] == bugs


def test_stop_cuts_connections_off_and_on_connection_hears_of_that(target):
    """When ``stop`` has returned, the hook has been called for every connection."""
    heard = []
    with run_proxy(on_connection=heard.append) as proxy, contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(Talk.to(proxy.port)).connect5("127.0.0.1", target.port)
        wait_until(lambda: len(proxy) == 20)
        proxy.stop()
        assert ["shutdown"] * 20 == [record.end for record in heard]


@pytest.mark.parametrize("name", ["authenticate", "authorize", "resolve", "on_connection"])
def test_any_hook_may_stop_the_proxy(name, target):
    """``stop`` from within a hook returns, and leaves nothing behind."""
    stopped = threading.Event()

    def hook(*args):
        proxy.stop()
        stopped.set()
        return name != "resolve" or ["127.0.0.1"]

    before = open_descriptors()
    with run_proxy(**{name: hook}) as proxy, Talk.to(proxy.port) as talk:
        if name == "authenticate":
            talk.send(b"\x05\x01\x02" + password_message(b"a", b"b"))
        else:
            talk.send(GREETING + socks5(b"a.invalid" if name == "resolve" else "::2", 1))
        with contextlib.suppress(ConnectionResetError):
            talk.rest()
        assert stopped.wait(TIMEOUT)
        assert [] == proxy.addresses
    wait_until(lambda: open_descriptors() == before, "the descriptors back")


@pytest.mark.parametrize("name", ["authenticate", "authorize", "resolve"])
@pytest.mark.parametrize("hooks", [1, 3])
def test_hooks_and_the_program_stop_it_at_once(monkeypatch, name, hooks, target):
    """None of these threads waits for another that waits for it."""
    # So long that the test would fail if one did.
    monkeypatch.setattr(minisocks.server.acceptor, "STOP_SECONDS", 60.0)
    monkeypatch.setattr(minisocks.net.resolver, "CLOSE_SECONDS", 60.0)
    everybody = threading.Barrier(hooks + 1)
    stopped = []

    def hook(*args):
        everybody.wait(TIMEOUT)
        proxy.stop()
        stopped.append(name)
        return False if name != "resolve" else None

    gc.collect()  # what earlier tests have left would be closed at any time
    before = open_descriptors()
    with run_proxy(**{name: hook}) as proxy, contextlib.ExitStack() as stack:
        for number in range(hooks):
            talk = stack.enter_context(Talk.to(proxy.port))
            if name == "authenticate":
                talk.send(b"\x05\x01\x02" + password_message(b"a", b"b"))
            else:
                talk.send(GREETING + socks5(b"a%d.invalid" % number, 1))
        everybody.wait(TIMEOUT)
        stopper = threading.Thread(target=proxy.stop)
        stopper.start()
        stopper.join(TIMEOUT)
        assert not stopper.is_alive()
        wait_until(lambda: len(stopped) == hooks)
        assert [] == proxy.addresses
    wait_until(lambda: open_descriptors() == before, "the descriptors back")


def test_hook_that_is_slower_than_stop_changes_nothing(monkeypatch, target):
    """A target that it allows after ``stop`` has returned is not dialed any more."""
    monkeypatch.setattr(minisocks.server.acceptor, "STOP_SECONDS", 0.1)
    asked, go_on = threading.Event(), threading.Event()

    def authorize(request):
        asked.set()
        return go_on.wait(TIMEOUT)

    before = open_descriptors()
    proxy = Proxy(listen="127.0.0.1:0", authorize=authorize)
    with proxy, Talk.to(proxy.port) as talk:
        talk.send(GREETING + socks5("127.0.0.1", target.port))
        assert asked.wait(TIMEOUT)
        proxy.stop()
        go_on.set()
        assert talk.rest() in (b"\x05\x00", b"")
        wait_until(lambda: proxy.records[0].end is not None)
        (record,) = proxy.records
    assert (None, None, "shutdown") == (record.via, record.rep, record.end)
    assert [] == target.talks
    wait_until(lambda: open_descriptors() == before, "the descriptors back")


def test_clients_that_wait_for_a_hook_are_open_connections(target):
    """They count as open connections, as relayed ones do."""
    go_on = threading.Event()
    with run_proxy(authorize=lambda request: go_on.wait(TIMEOUT)) as proxy:
        with Talk.to(proxy.port) as talk, Talk.to(proxy.port) as other:
            for each in (talk, other):
                each.send(GREETING + socks5("127.0.0.1", target.port))
            wait_until(lambda: len(proxy) == 2)
            assert 2 == proxy.stats().open
            go_on.set()
            for each in (talk, other):
                each.expect(b"\x05\x00")
                assert 0 == each.receive_reply5()[0]
            wait_until(lambda: len(proxy) == 2)
        wait_until(lambda: len(proxy) == 0)


def test_stop_waits_for_lookups_of_the_program(target):
    """When ``stop`` has returned, no thread looks a name up, neither idle nor in the hook."""
    asked, leave = threading.Event(), threading.Event()
    # The system's lookup in a hook that has itself called stop may outlive its test.
    before = own_threads()

    def resolve(name):
        if name == "slow.test":
            asked.set()
            assert leave.wait(TIMEOUT)
        return "127.0.0.1"

    with run_proxy(resolve=resolve) as proxy, Talk.to(proxy.port) as talk:
        assert 0 == talk.connect5(b"quick.test", target.port)[0]
        with Talk.to(proxy.port) as other:
            other.send(GREETING + socks5(b"slow.test", target.port))
            assert asked.wait(TIMEOUT)
            stopping = threading.Thread(target=proxy.stop)
            stopping.start()
            wait_until(lambda: proxy.services is None)
            assert stopping.is_alive()
            leave.set()
            stopping.join(TIMEOUT)
        assert not stopping.is_alive()
        assert [] == [thread.name for thread in own_threads() if thread not in before]


def test_hooks_know_the_port():
    """A client served before ``start`` has returned finds that hooks can ask for the port."""
    known = []
    for _ in range(20):
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(5)
        talk = Talk.to(listener.getsockname()[1]).send(GREETING + socks5("127.0.0.1", 1))
        proxy = Proxy(
            listeners=(listener,),
            listen="127.0.0.1:0",
            authorize=lambda request: known.append(proxy.port) or False,  # noqa: B023
        )
        with proxy, talk:
            talk.rest()
    assert 20 == len(known)


def test_stop_waits_for_neither_its_own_hook_nor_another_s_stop(target):
    """A stop in the main thread and one in the hook both return, also at the same time."""
    entered, go_on, left = threading.Event(), threading.Event(), threading.Event()

    def on_connection(record):
        entered.set()
        assert go_on.wait(TIMEOUT)
        proxy.stop()
        left.set()

    with run_proxy(on_connection=on_connection) as proxy:
        rep_for(proxy, "127.0.0.1", closed_port())
        assert entered.wait(TIMEOUT)
        stopping = threading.Thread(target=proxy.stop)
        stopping.start()
        wait_until(lambda: proxy.services is None)
        go_on.set()
        assert left.wait(TIMEOUT)
        stopping.join(TIMEOUT)
        assert not stopping.is_alive()


@pytest.mark.parametrize("name", ["authenticate", "authorize", "resolve", "on_connection"])
def test_exception_that_quotes_a_client_forges_no_line(name, bugs):
    """Whatever text is in a hook's exception, all its lines in the log are a traceback's."""
    forged = "no\n2026-01-01 minisocks.access: id=1\r\x1b[31m\x85\u2028end"
    lines = []

    def hook(*args):
        raise RuntimeError(forged)

    def keep(record):
        if record.exc_info:
            lines.extend(logging.Formatter().format(record).split("\n"))
        return True

    # Behind the package's own filter, and before the one that takes bugs out.
    logger = logging.getLogger("minisocks")
    logger.filters.insert(1, keep)
    try:
        with run_proxy(**{name: hook}) as proxy, Talk.to(proxy.port) as talk:
            if name == "authenticate":
                talk.send(b"\x05\x01\x02" + password_message(b"a", b"b"))
            else:
                talk.send(GREETING + socks5(b"a.invalid", 1))
            talk.rest()
            wait_until(lambda: lines)
    finally:
        logger.removeFilter(keep)
    assert any("2026-01-01" in line for line in lines)
    assert [] == [line for line in lines[1:] if not line.startswith("    ")]
    assert not any(c in line for line in lines for c in "\r\x1b\x85\u2028")


def test_a_reload_while_authorize_ponders_counts(target):
    """A user removed before the hook returns does not come in; nor one that rules deny by then."""
    for change in ({"user": ("bob:x",)}, {"rule": ("deny",)}):

        def authorize(request, change=change):
            thread = threading.Thread(target=lambda: proxy.reload(proxy.config._replace(**change)))
            thread.start()
            thread.join(TIMEOUT)
            return True

        with run_proxy(user=("ann:secret", "bob:x"), authorize=authorize) as proxy:
            with Talk.to(proxy.port) as talk:
                assert b"\x01\x00" == log_in(talk)
                talk.send(socks5("127.0.0.1", target.port))
                assert 2 == talk.receive_reply5()[0]
