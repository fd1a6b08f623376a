"""Refusing: the client really gets the reply, then EOF, and never a reset instead.

A process that closes a TCP socket with unread bytes in it sends a RST, and
that destroys what is still on its way.  So each kind of refusal is tried with
a client that sends much more than the proxy reads.
"""

import contextlib
import http.client
import socket
import threading
from typing import Any, Callable, NamedTuple

import pytest

import minisocks.relay.lingering
from kit.support import (
    BIND,
    GREETING,
    REJECTED4,
    UDP_ASSOCIATE,
    Talk,
    black_hole,
    closed_port,
    failure5,
    open_descriptors,
    password_message,
    run_proxy,
    socks4,
    socks4a,
    socks5,
    wait_until,
)
from minisocks.net.resolver import Resolver

#: Far more than any handshake, and less than a socket's buffers and the proxy's bound.
UNREAD = bytes(100000)


class Refusal(NamedTuple):
    """What leads to a refusal, and what the client receives."""

    settings: Any
    message: Callable[[int], bytes]  # given a port that does not answer
    reply: bytes


REFUSALS = {
    # by a handler's thread
    "socks4, refused": Refusal({}, lambda _: socks4("127.0.0.1", closed_port()), REJECTED4),
    "socks5, refused": Refusal(
        {}, lambda _: GREETING + socks5("127.0.0.1", closed_port()), b"\x05\x00" + failure5(5)
    ),
    "socks5, unknown command": Refusal(
        {}, lambda _: GREETING + socks5("127.0.0.1", 80, cmd=99), b"\x05\x00" + failure5(7)
    ),
    "no common method": Refusal({}, lambda _: b"\x05\x01\x80", b"\x05\xff"),
    "wrong password": Refusal(
        {"user": ("ann:secret",)},
        lambda _: b"\x05\x01\x02" + password_message(b"ann", b"wrong"),
        b"\x05\x02\x01\x01",
    ),
    "socks4, no password": Refusal(
        {"user": ("ann:secret",)}, lambda _: socks4("127.0.0.1", 80), REJECTED4
    ),
    "junk": Refusal({}, lambda _: b"\x00", b""),
    "udp, denied": Refusal(
        {"rule": ("deny command udp", "allow")},
        lambda _: GREETING + socks5("0.0.0.0", 0, UDP_ASSOCIATE),
        b"\x05\x00" + failure5(2),
    ),
    # by the loop
    "socks5 bind, no such name": Refusal(
        {}, lambda _: GREETING + socks5(b"nobody.test", 80, BIND), b"\x05\x00" + failure5(4)
    ),
    "socks4a bind, no such name": Refusal(
        {}, lambda _: socks4a(b"nobody.test", 80, cmd=BIND), REJECTED4
    ),
    "socks4a, no such name": Refusal({}, lambda _: socks4a(b"nobody.test", 80), REJECTED4),
    "socks5, no such name": Refusal(
        {}, lambda _: GREETING + socks5(b"nobody.test", 80), b"\x05\x00" + failure5(4)
    ),
    "socks4, no answer": Refusal(
        {"connect_timeout": 0.2}, lambda port: socks4("127.0.0.1", port), REJECTED4
    ),
    "socks5, no answer": Refusal(
        {"connect_timeout": 0.2},
        lambda port: GREETING + socks5("127.0.0.1", port),
        b"\x05\x00" + failure5(6),
    ),
}


def no_such_name(*args):
    """Resolve nothing."""
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.fixture(params=sorted(REFUSALS))
def refused(request):
    """Return each refusal: a proxy, what to send to it, what it answers."""
    refusal = REFUSALS[request.param]
    with black_hole() as silent, run_proxy(Resolver(no_such_name), **refusal.settings) as proxy:
        yield proxy, refusal.message(silent), refusal.reply


@pytest.fixture
def patient(monkeypatch):
    """Have refused clients linger for ever, so that a FIN is no side effect of a close."""
    monkeypatch.setattr("minisocks.relay.lingering.LINGER_SECONDS", 3600.0)


@pytest.mark.rfc(
    "RFC 1928 section 3", 'FF: none is acceptable, "the client MUST close the connection".'
)
@pytest.mark.rfc(
    "RFC 1928 section 6, Reply processing",
    "After a failure the server MUST terminate the TCP connection shortly.",
)
@pytest.mark.rfc(
    "RFC 1929 section 2", "Another STATUS is a failure, and the server MUST close the connection."
)
@pytest.mark.rfc("SOCKS4, CONNECT", "The server closes immediately after telling of a failure.")
def test_the_reply_and_fin_at_once(refused, patient):
    """The client receives reply and EOF, though it sends nothing more and does not close."""
    proxy, message, reply = refused

    with Talk.to(proxy.port) as talk:
        talk.send(message).expect(reply).expect_eof()

        wait_until(lambda: len(proxy) == 1, "the proxy reads on")
    wait_until(lambda: len(proxy) == 0, "the end of a client that has closed")


@pytest.mark.rfc(
    "RFC 1928 section 6, Reply processing",
    "After a failure the server MUST terminate the TCP connection shortly.",
)
def test_much_sent_behind_the_request(refused, patient):
    """100 KB that came along with the request do not destroy the reply."""
    proxy, message, reply = refused

    with Talk.to(proxy.port) as talk:
        talk.send(message + UNREAD)

        assert reply == talk.rest()


def test_much_sent_after_the_reply(refused, patient):
    """Nor do 100 KB of a client that has its reply and has not read EOF yet."""
    proxy, message, reply = refused

    with Talk.to(proxy.port) as talk:
        talk.send(message).expect(reply).send(UNREAD).expect_eof()


@pytest.mark.rfc(
    "RFC 1928 section 6, Reply processing",
    "After a failure the server MUST terminate the TCP connection shortly.",
)
def test_a_client_that_reads_late(refused, patient):
    """A client that reads only after the server has closed gets all of it."""
    proxy, message, reply = refused

    with Talk.to(proxy.port) as talk:
        talk.send(message + UNREAD).finish()
        wait_until(lambda: len(proxy) == 0, "the server's close")

        assert reply == talk.rest()


def test_a_client_that_reads_late_and_never_closes():
    """It gets all of it, though the proxy had to close when the time was over."""
    with run_proxy() as proxy:
        with contextlib.ExitStack() as stack:
            talks = [stack.enter_context(Talk.to(proxy.port)) for _ in range(10)]
            for talk in talks:
                talk.send(socks4("127.0.0.1", closed_port()) + UNREAD)
            wait_until(lambda: len(proxy) == len(talks))
            wait_until(lambda: len(proxy) == 0, "the server's close")

            assert [REJECTED4] * len(talks) == [talk.rest() for talk in talks]


def test_the_http_page_survives_a_big_upload(patient):
    """A browser that posts 100 KB to this "web server" can still show the page."""
    with run_proxy() as proxy:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
        with contextlib.closing(connection):
            connection.request("POST", "/", body=UNREAD)
            response = connection.getresponse()

            assert 400 == response.status
            assert b"This is a SOCKS proxy" in response.read()


@pytest.mark.rfc(
    "RFC 1928 section 6, Reply processing",
    "No more than 10 seconds after detecting what caused the failure.",
)
def test_a_client_that_never_stops_is_cut_off(patient):
    """The bytes that are read from a refused client are bounded, too."""
    with run_proxy() as proxy, Talk.to(proxy.port) as talk:
        talk.send(GREETING + socks5("127.0.0.1", closed_port())).expect(b"\x05\x00" + failure5(5))

        with pytest.raises(ConnectionError):
            talk.send(UNREAD * 200)
        wait_until(lambda: len(proxy) == 0)


@pytest.mark.rfc(
    "RFC 1928 section 6, Reply processing",
    "No more than 10 seconds after detecting what caused the failure.",
)
@pytest.mark.rfc(
    "RFC 1929 section 2", "Another STATUS is a failure, and the server MUST close the connection."
)
@pytest.mark.rfc("SOCKS4, CONNECT", "The server closes immediately after telling of a failure.")
def test_a_client_that_does_nothing_is_closed_after_a_while(monkeypatch):
    """The time is bounded, too: a refused client cannot hold a descriptor."""
    monkeypatch.setattr("minisocks.relay.lingering.LINGER_SECONDS", 0.2)
    with run_proxy() as proxy:
        before = open_descriptors()
        with Talk.to(proxy.port) as talk:
            talk.send(socks4("127.0.0.1", closed_port())).expect(REJECTED4).expect_eof()

            # The client's own is left.
            wait_until(lambda: open_descriptors() == before + 1, "the descriptor given back")
            assert 0 == len(proxy)


@pytest.mark.limits
@pytest.mark.rfc(
    "RFC 1928 section 6, Reply processing",
    "No more than 10 seconds after detecting what caused the failure.",
)
def test_a_client_that_says_little_is_closed_after_a_while_too(refused, monkeypatch):
    """A byte now and then prolongs nothing: RFC 1928 has the connection end within 10 seconds."""
    assert 0 < minisocks.relay.lingering.LINGER_SECONDS < 10
    monkeypatch.setattr(minisocks.relay.lingering, "LINGER_SECONDS", 0.2)
    proxy, message, reply = refused

    with Talk.to(proxy.port) as talk:
        talk.send(message).expect(reply).expect_eof()

        def is_closed():
            try:
                talk.send(b"x")
            except ConnectionError:
                return True
            return False

        wait_until(is_closed, "the server's close")
    wait_until(lambda: len(proxy) == 0)


@pytest.mark.parametrize("leave", [Talk.close, Talk.reset])
def test_a_refused_client_that_leaves_is_forgotten_at_once(patient, leave):
    """Once the client has closed, or reset, nothing is kept for it."""
    with run_proxy() as proxy:
        before = open_descriptors()
        talk = Talk.to(proxy.port)
        talk.send(socks4("127.0.0.1", closed_port())).expect(REJECTED4)

        leave(talk)

        wait_until(lambda: len(proxy) == 0)
        wait_until(lambda: open_descriptors() == before, "the descriptor given back")


def test_refused_clients_cost_no_threads(patient):
    """A hundred clients that were refused and stay are left to the loop alone."""
    with run_proxy() as proxy, contextlib.ExitStack() as stack:
        request = socks4("127.0.0.1", closed_port())
        for _ in range(100):
            talk = stack.enter_context(Talk.to(proxy.port))
            talk.send(request).expect(REJECTED4)

        wait_until(lambda: len(proxy) == 100)
        handlers = [t for t in threading.enumerate() if t.name == "minisocks-handler"]
        assert len(handlers) <= 4


def test_stopping_the_proxy_does_not_wait_for_refused_clients(patient):
    """Refused clients are closed at the end of the proxy, too."""
    with run_proxy() as proxy:
        talk = Talk.to(proxy.port)
        talk.send(socks4("127.0.0.1", closed_port())).expect(REJECTED4)
    with talk:
        talk.expect_eof()


def test_refused_clients_that_stay_are_bounded():
    """So many lingering connections, from one address or from many; the oldest are closed."""
    with run_proxy(max_handshakes=8, rule=("deny", "allow port 1")) as proxy:
        talks = []
        for number in range(20):
            talk = Talk.to(proxy.port, source=("127.0.1.%d" % (1 + number % 5), 0))
            assert 2 == talk.connect5("127.0.0.1", 80)[0]
            talks.append(talk)
            assert len(proxy.services.lingering) <= 8
        wait_until(lambda: len(proxy) <= 8)
        for talk in talks:
            talk.close()
        wait_until(lambda: len(proxy) == 0)
        assert 0 == len(proxy.services.lingering)
        for _number in range(10):
            talk = Talk.to(proxy.port)
            assert 2 == talk.connect5("127.0.0.1", 80)[0]
            talks.append(talk)
            assert len(proxy.services.lingering) <= 8
        wait_until(lambda: len(proxy) <= 8)
        for gone in talks[20:22]:  # its own oldest, which would else have stayed for 2 s
            gone.expect_eof()
        for talk in talks:
            talk.close()
