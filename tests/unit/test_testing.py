"""The scripted proxy does exactly what its script says, and else what a proxy does."""

import contextlib
import gc
import socket

import pytest

from kit.bind_client import Waiting
from kit.support import (
    BIND,
    GREETING,
    UDP_ASSOCIATE,
    FakeTarget,
    Talk,
    black_hole,
    closed_port,
    failure5,
    open_descriptors,
    password_message,
    says,
    socks4,
    socks5,
    wait_until,
)
from minisocks import ConfigError, Rep
from minisocks.testing import Script, ScriptedProxy

#: No such host: what is scripted is not dialed.
NOWHERE = b"nobody.invalid"


def asking(proxy, host=NOWHERE, port=9):
    """Return a client that has sent a SOCKS5 request for a target."""
    return Talk.to(proxy.port).send(GREETING).expect(b"\x05\x00").send(socks5(host, port))


def test_without_a_script_it_is_a_proxy(target):
    """It listens on a free port of loopback, relays, and knows what was asked."""
    with ScriptedProxy() as proxy, Talk.to(proxy.port) as talk:
        assert "127.0.0.1" == proxy.host
        assert 0 == talk.connect5("127.0.0.1", target.port)[0]
        assert [("127.0.0.1", target.port)] == [(r.host, r.port) for r in proxy.records]
        talk.send(b"x" * 100000)
        assert b"x" * 100000 == talk.receive(100000)
        talk.finish().expect_eof()


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0x99, 0xFF])
def test_reply(code):
    """reply=N: the client reads that REP and the end; nothing is dialed or resolved."""
    with ScriptedProxy(reply=code) as proxy:
        with asking(proxy) as talk:
            assert failure5(code) == talk.rest()
        (record,) = proxy.records
    assert ("nobody.invalid", 9, "CONNECT") == (record.host, record.port, record.cmd)
    assert (Rep(code) if code <= 8 else Rep.GENERAL_FAILURE) == record.rep
    assert "script" in record.why


@pytest.mark.parametrize("code, cd", [(5, 91), (91, 91), (90, 90), (92, 92), (93, 93)])
def test_reply_to_a_socks4_client(code, cd):
    """What is a REP becomes 91, what is a CD goes as it is."""
    with ScriptedProxy(reply=code) as proxy, Talk.to(proxy.port) as talk:
        talk.send(socks4("192.0.2.1", 9))
        assert bytes((0, cd)) + bytes(6) == talk.rest()


def test_handshake_before_the_request_is_as_ever():
    """The script is about replies to requests: a wrong password is refused as it is."""
    with ScriptedProxy(reply=1, no_reply=True, user="ann:secret") as proxy:
        with Talk.to(proxy.port) as talk:
            talk.send(b"\x05\x01\x02" + password_message(b"ann", b"wrong"))
            assert b"\x05\x02\x01\x01" == talk.rest()


@pytest.mark.parametrize("size", [0, 1, 3, 9, 10, 100])
def test_truncated_refusal(size):
    """truncate_reply=N: of a failure only N bytes, then the end in order."""
    with ScriptedProxy(reply=5, truncate_reply=size) as proxy, asking(proxy) as talk:
        assert failure5(5)[:size] == talk.rest()


@pytest.mark.parametrize("size", [0, 4, 9])
def test_truncated_success(target, size):
    """A success can be cut, too; the target was connected, and is closed."""
    with ScriptedProxy(truncate_reply=size) as proxy:
        with asking(proxy, "127.0.0.1", target.port) as talk:
            assert b"\x05\x00\x00\x01\x7f\x00\x00\x01"[:size] == talk.rest()[:8]
        wait_until(lambda: len(proxy) == 0)
        assert ["scripted"] == [record.end for record in proxy.records]
    wait_until(lambda: len(target.talks) == 1, "the target's accept")


@pytest.mark.parametrize(
    "bnd, expected",
    [
        ("10.9.8.7:65", b"\x05\x00\x00\x01\x0a\x09\x08\x07\x00\x41"),
        ("0.0.0.0:0", b"\x05\x00\x00\x01" + bytes(6)),
        ("[2001:db8::1]:65535", b"\x05\x00\x00\x04\x20\x01\x0d\xb8" + bytes(11) + b"\x01\xff\xff"),
    ],
)
def test_bnd(target, bnd, expected):
    """bnd=...: the address in the reply, and the connection works."""
    with ScriptedProxy(bnd=bnd) as proxy:
        with asking(proxy, "127.0.0.1", target.port) as talk:
            talk.expect(expected).send(b"x").expect(b"x")


def test_bnd_of_socks4(target):
    """A SOCKS4 reply has it, too."""
    with ScriptedProxy(bnd="10.9.8.7:65") as proxy, Talk.to(proxy.port) as talk:
        talk.send(socks4("127.0.0.1", target.port)).expect(b"\x00\x5a\x00\x41\x0a\x09\x08\x07")


@pytest.mark.parametrize("size", [0, 1, 4096, 100000, 1000000])
def test_drop_after(size):
    """drop_after=N: exactly N bytes of the target arrive, then a reset."""
    data = bytes(range(256)) * 4000
    with FakeTarget(says(data)) as target, ScriptedProxy(drop_after=size) as proxy:
        with Talk.to(proxy.port) as talk:
            assert 0 == talk.connect5("127.0.0.1", target.port)[0]
            received = b""
            try:
                for more in iter(lambda: talk.sock.recv(65536), b""):
                    received += more
            except ConnectionResetError:
                pass
            else:
                pytest.fail("the stream ended in order")
        assert data[:size] == received
        (record,) = proxy.records
        wait_until(lambda: record.end is not None)
        assert (size, "target-reset") == (record.down, record.end)


def test_drop_after_more_than_there_is(target):
    """A target that says less is relayed to its end."""
    with ScriptedProxy(drop_after=6) as proxy, Talk.to(proxy.port) as talk:
        assert 0 == talk.connect5("127.0.0.1", target.port)[0]
        talk.send(b"12345").expect(b"12345").finish().expect_eof()


def test_what_the_client_sends_is_not_dropped():
    """Only the target's bytes count: what the client had sent arrives."""
    received = []

    def script(talk):
        received.append(talk.receive(100000))
        talk.send(b"x")
        talk.expect_reset()

    with FakeTarget(script) as target, ScriptedProxy(drop_after=1) as proxy:
        with Talk.to(proxy.port) as talk:
            assert 0 == talk.connect5("127.0.0.1", target.port)[0]
            talk.send(b"y" * 100000).expect(b"x").expect_reset()
    assert [b"y" * 100000] == received


@pytest.mark.parametrize("script", [{}, {"reply": 5}], ids=["granted", "refused"])
def test_delay(target, script):
    """delay=S: the reply comes not before; what the client said meanwhile is not lost."""
    with ScriptedProxy(delay=0.2, **script) as proxy:
        with asking(proxy, "127.0.0.1", target.port) as talk:
            talk.send(b"early")
            talk.sock.settimeout(0.1)
            with pytest.raises(socket.timeout):
                talk.sock.recv(1)
            talk.sock.settimeout(20)
            if script:
                assert failure5(5) == talk.rest()
            else:
                assert 0 == talk.receive_reply5()[0]
                talk.expect(b"early").finish().expect_eof()


def test_no_reply():
    """no_reply: silence; others are served; the client may leave, and stop ends it."""
    before = open_descriptors()
    with ScriptedProxy(no_reply=True) as proxy:
        with asking(proxy) as talk, asking(proxy) as other:
            talk.sock.settimeout(0.1)
            with pytest.raises(socket.timeout):
                talk.sock.recv(1)
            other.send(b"anything").close()
            wait_until(lambda: ["client-gone"] == [r.end for r in proxy.records if r.end])
            wait_until(lambda: len(proxy) == 1)
            assert [NOWHERE.decode()] * 2 == [record.host for record in proxy.records]
            talk.sock.settimeout(20)
            proxy.stop()
            assert "shutdown" in [record.end for record in proxy.records]
            try:
                assert b"" == talk.rest()
            except ConnectionResetError:
                pass
    assert before == open_descriptors()


@pytest.mark.parametrize("early", [b"", b"GET / HTTP/1.1\r\n\r\n"], ids=["", "early"])
def test_no_reply_ends(early, monkeypatch):
    """A client without a time limit hears the end after the seconds that the script says."""
    with ScriptedProxy(no_reply=0.1) as proxy, asking(proxy) as talk:
        assert b"" == talk.send(early).rest()
        wait_until(lambda: proxy.records[0].end)
        assert ("scripted", "no reply for 0.1 s, as the script wants") == (
            proxy.records[0].end,
            proxy.records[0].why,
        )
        monkeypatch.setattr("minisocks.testing.SILENT_SECONDS", 0.1)
        proxy.script = Script(no_reply=True)
        with asking(proxy) as other:
            assert b"" == other.rest()


@pytest.mark.parametrize("value, seconds", [(False, 0), (True, 30), (1, 1), (2.5, 2.5), (0, 0)])
def test_silence_in_seconds(value, seconds):
    """True is as long as docs/testing.rst says, a number is itself."""
    assert seconds == Script(no_reply=value).checked().silence


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its socket
def test_httpx_does_not_wait_for_ever():
    """httpx has no time limit in a SOCKS handshake, whatever its options are."""
    httpx = pytest.importorskip("httpx", minversion="0.26")
    socksio = pytest.importorskip("socksio")
    with ScriptedProxy(no_reply=0.2) as proxy:
        with httpx.Client(proxy=proxy.url.replace("5h", "5"), timeout=0.05) as client:
            with pytest.raises((httpx.HTTPError, socksio.ProtocolError)):
                client.get("http://example.org/")
    gc.collect()
    assert "scripted" == proxy.records[0].end


def test_client_that_leaves_during_a_delay(target):
    """A client that resets while its reply is delayed takes its target along."""
    before = open_descriptors()
    with ScriptedProxy(delay=3600) as proxy:
        for host in ("127.0.0.1", NOWHERE):
            talk = asking(proxy, host, target.port)
            wait_until(lambda: len(proxy) == 1)
            talk.reset()
            wait_until(lambda: len(proxy) == 0)
        talk = asking(proxy, "127.0.0.1", target.port)
        wait_until(lambda: len(proxy) == 1)
    talk.close()
    wait_until(lambda: before == open_descriptors())


def test_script_can_change(target):
    """A new script holds for clients that connect from then on."""
    with ScriptedProxy(reply=4) as proxy:
        with asking(proxy) as talk:
            assert failure5(4) == talk.rest()
        proxy.script = Script()
        with Talk.to(proxy.port) as talk:
            assert 0 == talk.connect5("127.0.0.1", target.port)[0]
        proxy.script = proxy.script._replace(reply=3)
        with asking(proxy) as talk:
            assert failure5(3) == talk.rest()


def test_real_failures_are_replied_as_they_are():
    """A script about something else leaves a target's own failure alone."""
    port = closed_port()
    with ScriptedProxy(bnd="10.0.0.1:1", drop_after=5) as proxy:
        with asking(proxy, "127.0.0.1", port) as talk:
            assert failure5(5) == talk.rest()


def test_settings_and_hooks_are_those_of_a_proxy():
    """Everything that a Proxy takes goes along with the script."""
    seen = []
    with black_hole() as port, ScriptedProxy(
        reply=2, connect_timeout=5, resolve={"a.test": "127.0.0.1"}.get, on_connection=seen.append
    ) as proxy:
        with asking(proxy, b"a.test", port) as talk:
            assert failure5(2) == talk.rest()
        wait_until(lambda: seen)
    assert "a.test" == seen[0].host


@pytest.mark.parametrize(
    "script",
    [
        {"reply": 256},
        {"reply": -1},
        {"reply": "5"},
        {"delay": -1},
        {"delay": float("nan")},
        {"truncate_reply": -1},
        {"truncate_reply": 1.5},
        {"drop_after": -1},
        {"reply": True},
        {"delay": "1"},
        {"delay": None},
        {"no_reply": "no"},
        {"no_reply": -1},
        {"no_reply": 3601},
        {"no_reply": None},
        {"bnd": 80},
        {"bnd": "80"},
        {"bnd": "localhost:80"},
        {"bnd": "10.0.0.1"},
        {"bnd": "unix:/x"},
    ],
)
def test_script_that_cannot_be_played(script):
    """It is refused before anything starts, by name."""
    with pytest.raises(ConfigError) as caught:
        ScriptedProxy(**script)
    assert str(caught.value).startswith("%s=" % next(iter(script)))


def test_unknown_keyword():
    """What is neither script nor setting is a TypeError that says what was meant."""
    with pytest.raises(TypeError, match="no_replly.*did you mean no_reply"):
        ScriptedProxy(no_replly=True)
    with pytest.raises(TypeError, match="liste'; did you mean listen"):
        ScriptedProxy(liste="0")


def test_pipelined_bytes_go_first(target):
    """What the client sent behind its request is the target's, in a pair that will drop, too."""
    with ScriptedProxy(drop_after=1000) as proxy, Talk.to(proxy.port) as talk:
        talk.send(GREETING + socks5("127.0.0.1", target.port) + b"hello")
        talk.expect(b"\x05\x00")
        assert 0 == talk.receive_reply5()[0]
        talk.expect(b"hello")


@pytest.mark.parametrize("cmd", [BIND, UDP_ASSOCIATE])
@pytest.mark.parametrize(
    "script, reply",
    [
        ({"reply": 5}, failure5(5)),
        ({"truncate_reply": 1}, failure5(7)[:1]),
        ({"reply": 5, "truncate_reply": 0}, b""),
    ],
)
def test_other_commands_are_answered_by_the_script(cmd, script, reply):
    """The script holds whatever is asked for; what it leaves open is as ever."""
    with ScriptedProxy(**script) as proxy, Talk.to(proxy.port) as talk:
        talk.send(GREETING).expect(b"\x05\x00").send(socks5("127.0.0.1", 1, cmd))
        assert reply == talk.rest()


def test_association_is_replied_as_the_script_says():
    """bnd: the reply has another address for datagrams than there is; the association lives."""
    with ScriptedProxy(bnd="192.0.2.1:9") as proxy, Talk.to(proxy.port) as talk:
        talk.send(GREETING).expect(b"\x05\x00").send(socks5("0.0.0.0", 0, UDP_ASSOCIATE))
        talk.expect(b"\x05\x00\x00\x01\xc0\x00\x02\x01\x00\x09")
        wait_until(lambda: len(proxy) == 1)


def test_both_replies_to_bind_are_as_the_script_says():
    """bnd: each reply has another address than there is; the peer is connected all the same."""
    told = 0, "192.0.2.1", 9
    with ScriptedProxy(bnd="192.0.2.1:9", delay=0.05) as proxy, Waiting(proxy.port) as client:
        assert told == (client.rep, client.host, client.port)
        record = proxy.records[-1]
        client.host, port = record.bound.split(":")
        client.port = int(port)
        with client.peer() as peer:
            assert told == client.reply()
            client.expect_to_work(peer)


def test_script_must_be_one():
    """A dictionary in its place is a TypeError, and changes nothing."""
    proxy = ScriptedProxy(reply=5)
    with pytest.raises(TypeError, match="a Script, not 'dict'"):
        proxy.script = {"reply": 4}
    assert Script(reply=5) == proxy.script


def test_drop_is_not_delayed_by_a_client_that_has_left(monkeypatch):
    """What a reset has made undeliverable is not waited for."""
    monkeypatch.setattr("minisocks.relay.watches.STANDSTILL_SECONDS", 3600)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(5)
    port = listener.getsockname()[1]
    with listener, ScriptedProxy(drop_after=0) as proxy:
        for _ in range(20):  # whose bytes are on their way first is a matter of luck
            # The reply comes to a socket that is closed, which answers with a reset.
            Talk.to(proxy.port).send(socks4("127.0.0.1", port)).close()
            upstream, _ = listener.accept()
            with upstream, contextlib.suppress(OSError):
                upstream.sendall(b"x" * 3000)
            wait_until(lambda: len(proxy) == 0)
