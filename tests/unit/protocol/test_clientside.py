"""The client side of a handshake: each reply of another proxy, cut anywhere, and any bytes."""

import contextlib
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kit.conversation import cut, every_cut
from minisocks.errors import CannotCarry, DialError, ExitFailed
from minisocks.protocol.clientside import MAX_HEAD_BYTES, ClientSide, Reply, encode_address
from minisocks.protocol.handshake import Handshake, Request
from minisocks.protocol.messages import Credentials
from minisocks.wire import Address, Atyp, Cmd, Method, Rep, packed_ip

NAME = Address(b"a.example", 443, Atyp.DOMAINNAME)
IPV4 = Address(b"192.0.2.7", 80, Atyp.IPV4)
IPV6 = Address(b"2001:db8::7", 80, Atyp.IPV6)
TARGETS = [NAME, IPV4, IPV6]
NO_BND = b"\x05\x00\x00\x01\0\0\0\0\0\0"
OK4 = b"\x00\x5a\x04\x38\xc0\x00\x02\x01"
OK_HTTP = b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n"
LOGIN = (b"ann", b"secret")


def talk(side, pieces):
    """Feed *pieces* one after another; return what was sent, and the reply if there was one."""
    sent, reply = b"", side.next_event()
    sent += side.data_to_send()
    for piece in pieces:
        if reply is not None:
            side.receive_data(piece)
            continue
        side.receive_data(piece)
        reply = side.next_event()
        sent += side.data_to_send()
    return sent, reply


ANSWERS = [
    ("socks5h", (), b"\x05\x00" + NO_BND, Rep.SUCCEEDED),
    ("socks5", (), b"\x05\x00\x05\x00\x00\x03\x01a\x00\x50", Rep.SUCCEEDED),
    ("socks5", (), b"\x05\x00\x05\x00\x00\x04" + bytes(16) + b"\x00\x50", Rep.SUCCEEDED),
    ("socks5", LOGIN, b"\x05\x02\x01\x00" + NO_BND, Rep.SUCCEEDED),
    ("socks5", LOGIN, b"\x05\x00" + NO_BND, Rep.SUCCEEDED),
    *[("socks5h", (), b"\x05\x00\x05%c\x00\x01\0\0\0\0\0\0" % n, Rep(n)) for n in range(1, 9)],
    ("socks5h", (), b"\x05\x00\x05\xf2\x00\x01\0\0\0\0\0\0", Rep(0xF2)),
    ("socks4", (), OK4, Rep.SUCCEEDED),
    ("socks4a", (b"ann",), b"\x04" + OK4[1:], Rep.SUCCEEDED),
    ("socks4", (), b"\x00\x5b" + bytes(6), Rep.GENERAL_FAILURE),
    ("http", (), OK_HTTP, Rep.SUCCEEDED),
    ("http", (), b"HTTP/1.0 200\n\n", Rep.SUCCEEDED),
    ("http", LOGIN, b"HTTP/1.1 103 Early\r\n\r\n" + OK_HTTP, Rep.SUCCEEDED),
    ("http", (), b"HTTP/1.1 403 Forbidden\r\n\r\n", Rep.NOT_ALLOWED),
    ("http", (), b"HTTP/1.1 504 Late\r\nContent-Length: 3\r\n\r\n", Rep.TTL_EXPIRED),
    ("http", (), b"HTTP/1.1 502 No\r\n\r\n", Rep.GENERAL_FAILURE),
    ("http", (), b"HTTP/1.1 500 No\r\n\r\n", Rep.GENERAL_FAILURE),
]


@pytest.mark.parametrize("tail", [b"", b"\x05", b"220 ready\r\n\r\n"])
@pytest.mark.parametrize("scheme, login, answer, rep", ANSWERS)
def test_a_reply_means_the_same_however_it_is_cut(scheme, login, answer, rep, tail):
    """What is behind a success are the first bytes of the target, and all of them are kept."""
    for pieces in every_cut(answer + tail):
        side = ClientSide(scheme, Cmd.CONNECT, IPV4, *login)
        _sent, reply = talk(side, pieces)
        assert rep == reply.rep
        assert reply.said
        if rep == Rep.SUCCEEDED:
            assert tail == side.trailing_data()


FAILURES = [
    ("socks5", (), b"\x05\xff", "needs a user and password"),
    ("socks5", LOGIN, b"\x05\xff", "takes no login by password"),
    ("socks5", (), b"\x05\x02", "METHOD 02, which was not offered"),
    ("socks5", (), b"HTTP/1.1 400 Bad Request\r\n\r\n", "no SOCKS5 proxy"),
    ("socks5", (), b"\x05\x00\x04\x00\x00\x01\0\0\0\0\0\0", "begins with 0x04"),
    ("socks5", (), b"\x05\x00\x05\x00\x00\x07\0\0\0\0\0\0", "not valid"),
    ("socks5", (), b"\x05\x00\x05\x00\x00\x03\x00\0\0\0\0\0", "not valid"),
    ("socks5h", LOGIN, b"\x05\x02\x01\x01", "refuses user and password"),
    ("socks4", (), b"\x00\x5c" + bytes(6), "identd"),
    ("socks4a", (), b"\x00\x5d" + bytes(6), "identd"),
    ("socks4a", (), b"\x00\x5e" + bytes(6), "no SOCKS4 proxy"),
    ("socks4", (), b"\x05\x00" + bytes(6), "no SOCKS4 proxy"),
    ("http", (), b"HTTP/1.1 407 Login\r\n\r\n", "status 407"),
    ("http", (), b"HTTP/1.1 401 Login\r\n\r\n", "HTTP status 401"),
    ("http", (), b"SSH-2.0-OpenSSH\r\n\r\n", "no HTTP proxy"),
    ("http", (), b"HTTP/2 200\r\n\r\n", "no reply of HTTP"),
    ("http", (), b"HTTP/1.1 200 x\ry\r\n\r\n", "no reply of HTTP"),
    ("http", (), b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 3000, "more than"),
]


@pytest.mark.parametrize("scheme, login, answer, said", FAILURES)
def test_a_proxy_that_does_not_answer_the_request_has_failed(scheme, login, answer, said):
    """The sentence says what it did, so that the operator knows what to change."""
    for size in (1, len(answer)):
        side = ClientSide(scheme, Cmd.CONNECT, IPV4, *login)
        pieces = [answer[at : at + size] for at in range(0, len(answer), size)]
        with pytest.raises(ExitFailed, match=re.escape(said)) as caught:
            talk(side, pieces)
        assert Rep.GENERAL_FAILURE == caught.value.rep


@pytest.mark.parametrize("scheme, login, answer, rep", ANSWERS)
def test_a_proxy_that_closes_within_its_reply_has_failed(scheme, login, answer, rep):
    """But for a REP that says already why there is no connection."""
    for end in range(len(answer)):
        side = ClientSide(scheme, Cmd.CONNECT, IPV4, *login)
        _sent, reply = talk(side, [answer[:end]] if end else [])
        if reply is not None:
            assert reply.rep == rep != Rep.SUCCEEDED
            continue
        side.receive_data(b"")
        with pytest.raises(ExitFailed, match="without a whole reply"):
            side.next_event()


@given(
    st.sampled_from(["socks5", "socks5h", "socks4", "socks4a", "http"]),
    st.binary(max_size=80),
    st.sampled_from([(), LOGIN]),
    st.booleans(),
)
@example("http", b"HTTP/1.1 200 \xff\r\n\r\n", (), False)
@example("socks5", b"\x05\x00\x05\x00\x00\x03\x01\x00\x00\x50", (), True)
def test_any_bytes_are_a_reply_or_a_failure(scheme, data, login, eof):
    """Or more of them are needed; never anything else."""
    if scheme.startswith("socks4"):
        login = login[:1]
    side = ClientSide(scheme, Cmd.CONNECT, IPV4, *login)
    with contextlib.suppress(ExitFailed):
        _sent, reply = talk(side, [data])
        if reply is None and eof:
            side.receive_data(b"")
            reply = side.next_event()
        assert reply is None or isinstance(reply, Reply)
        assert reply is not None or not eof


@given(st.binary(min_size=1, max_size=100))
def test_a_head_without_an_end_is_a_failure(data):
    """It does not fill the memory."""
    side = ClientSide("http", Cmd.CONNECT, IPV4)
    line = data.replace(b"\n", b" ") + b"\r\n"
    with pytest.raises(ExitFailed):
        talk(side, [b"HTTP/1.1 200 OK\r\nX: "] + [b"X: " + line] * (MAX_HEAD_BYTES // len(line)))


def test_1xx_responses_without_end_are_a_failure():
    """Else a proxy that sends them faster than they are read would keep the loop for ever."""
    one = b"HTTP/1.1 100 Continue\r\n\r\n"
    side = ClientSide("http", Cmd.CONNECT, IPV4)
    with pytest.raises(ExitFailed, match="more than %d bytes" % MAX_HEAD_BYTES):
        talk(side, [one] * (MAX_HEAD_BYTES // len(one) + 1))


@pytest.mark.parametrize("dst", TARGETS)
@pytest.mark.parametrize("login", [(), LOGIN])
def test_our_own_server_side_understands_it(dst, login):
    """A request by SOCKS5 is what the server side of this project takes it for."""
    methods = (Method.USERNAME_PASSWORD,) if login else (Method.NO_AUTHENTICATION,)
    server, side = Handshake(methods), ClientSide("socks5h", Cmd.BIND, dst, *login)
    event = side.next_event()
    while not isinstance(event, Request):
        server.receive_data(side.data_to_send())
        event = server.next_event()
        if isinstance(event, Credentials):
            assert LOGIN == event
            server.credentials_checked(True)
            event = server.next_event()
        answer = server.data_to_send()
        if answer:
            side.receive_data(answer)
        if event is None:
            assert side.next_event() is None
    assert Request(5, Cmd.BIND, dst, b"", login[0] if login else None) == event
    side.receive_data(server.listening(b"\x7f\0\0\1", 5) + server.success(b"\x7f\0\0\2", 6))
    assert ("127.0.0.1", 5) == side.next_event().bnd_sockaddr
    assert ("127.0.0.2", 6) == side.next_event().bnd_sockaddr


@pytest.mark.parametrize(
    "scheme, dst, expected",
    [
        ("socks4a", NAME, Request(4, 1, NAME, b"ann", None)),
        ("socks4a", IPV4, Request(4, 1, IPV4, b"ann", None)),
        ("socks4", IPV4, Request(4, 1, IPV4, b"ann", None)),
    ],
)
def test_our_own_server_side_understands_socks4(scheme, dst, expected):
    """The same for SOCKS4 and SOCKS4a."""
    server, side = Handshake(), ClientSide(scheme, Cmd.CONNECT, dst, b"ann")
    assert side.next_event() is None
    server.receive_data(side.data_to_send())
    assert expected == server.next_event()


def test_with_a_password_a_hop_may_ask_for_none():
    """Unless the login is what keeps clients apart: then nothing else is offered."""
    side = ClientSide("socks5", Cmd.CONNECT, IPV4, *LOGIN)
    assert side.next_event() is None
    assert b"\x05\x02\x00\x02" == side.data_to_send()
    side = ClientSide("socks5", Cmd.CONNECT, IPV4, *LOGIN, must_log_in=True)
    assert side.next_event() is None
    assert b"\x05\x01\x02" == side.data_to_send()


def test_request_of_http():
    """Golden bytes (RFC 9110 section 9.3.6, RFC 7617)."""
    side = ClientSide("http", Cmd.CONNECT, IPV6, b"Aladdin", b"open sesame")
    assert side.next_event() is None
    assert (
        b"CONNECT [2001:db8::7]:80 HTTP/1.1\r\nHost: [2001:db8::7]:80\r\n"
        b"Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n"
    ) == side.data_to_send()


@pytest.mark.parametrize(
    "scheme, cmd, dst, rep",
    [
        ("socks4", Cmd.CONNECT, IPV6, Rep.ADDRESS_TYPE_NOT_SUPPORTED),
        ("socks4a", Cmd.CONNECT, IPV6, Rep.ADDRESS_TYPE_NOT_SUPPORTED),
        ("socks4a", Cmd.UDP_ASSOCIATE, IPV4, Rep.COMMAND_NOT_SUPPORTED),
        ("http", Cmd.BIND, IPV4, Rep.COMMAND_NOT_SUPPORTED),
        ("http", Cmd.UDP_ASSOCIATE, IPV4, Rep.COMMAND_NOT_SUPPORTED),
    ],
)
def test_what_a_protocol_has_not_is_refused_before_a_byte_is_sent(scheme, cmd, dst, rep):
    """The error says that another exit may be able to."""
    with pytest.raises(CannotCarry) as caught:
        ClientSide(scheme, cmd, dst)
    assert rep == caught.value.rep


@given(st.binary(max_size=300), st.sampled_from(["socks5h", "socks4a", "http"]))
@example(b"a\r\nX-Evil: 1", "http")
@example(b"a b", "http")
@example("caf\xe9".encode(), "http")
@example(b"a:80 HTTP/1.1\r\n\r\nGET", "http")
@example(b"a\0b", "socks4a")
@example(b"a" * 256, "socks5h")
def test_a_name_cannot_add_anything_to_a_request(name, scheme):
    """Either the proxy gets that name and nothing else, or no byte is sent."""
    dst = Address(name, 80, Atyp.DOMAINNAME)
    try:
        side = ClientSide(scheme, Cmd.CONNECT, dst)
    except CannotCarry:
        return
    assert side.next_event() is None
    if scheme == "http":
        pattern = b"CONNECT ([^\\s:]+):80 HTTP/1.1\r\nHost: \\1:80\r\n\r\n"
        assert name == re.fullmatch(pattern, side.data_to_send()).group(1)
        return
    server = Handshake()
    server.receive_data(side.data_to_send())
    if scheme == "socks5h":
        assert server.next_event() is None
        side.receive_data(server.data_to_send())
        assert side.next_event() is None
        server.receive_data(side.data_to_send())
    request = server.next_event()
    assert not server.has_trailing_data
    assert Address.of_name(name, 80) == request.dst


@pytest.mark.parametrize("scheme", ["socks5h", "socks4a", "http"])
@pytest.mark.parametrize(
    "name",
    [
        *(b"127.0.0.1.", b"0x7f.1.", b"0x7F.", b"256.1.1.1", b"::1%lo", b"[::1].", b"[127.0.0.1]"),
        *(b"127.0.0.1 x", b"127.0.0.1:22", b"localhost ", b"b\\097d.example", b"\\108ocalhost"),
        *(b"a%2eexample", b"bad.example\r\n", "\uff42ad.example".encode(), b"", b".", b".."),
    ],
)
def test_a_name_that_means_another_one_is_refused(name, scheme):
    """The proxy would reach an address or a name that the rules were not asked about."""
    with pytest.raises(CannotCarry, match="no name of a host"):
        ClientSide(scheme, Cmd.CONNECT, Address(name, 80, Atyp.DOMAINNAME))


def test_names_of_hosts_are_carried():
    """Also those with digits, and with a final dot."""
    for name in (b"a", b"1.example", b"a.1x.", b"_srv.a-b.example", b"x" * 255, b"0x.example"):
        ClientSide("socks5h", Cmd.CONNECT, Address(name, 80, Atyp.DOMAINNAME))


LOOK_UPS = [
    (Cmd.RESOLVE, b"\x01\xc0\x00\x02\x01\x00\x00", Address(b"192.0.2.1", 0, Atyp.IPV4)),
    (Cmd.RESOLVE, b"\x04" + bytes(15) + b"\x07\x00\x00", Address(b"::7", 0, Atyp.IPV6)),
    (Cmd.RESOLVE_PTR, b"\x03\x09a.example\x00\x00", Address(b"a.example", 0, Atyp.DOMAINNAME)),
]


@pytest.mark.parametrize("login", [(), LOGIN])
@pytest.mark.parametrize("cmd, bnd, answer", LOOK_UPS)
def test_a_look_up_is_answered_however_it_is_cut(cmd, bnd, answer, login):
    """By the address or the name in BND; the request has CMD F0 or F1."""
    chosen = b"\x05\x02\x01\x00" if login else b"\x05\x00"
    dst = NAME._replace(port=0) if cmd == Cmd.RESOLVE else IPV4._replace(port=0)
    for pieces in every_cut(chosen + b"\x05\x00\x00" + bnd):
        sent, reply = talk(ClientSide("socks5h", cmd, dst, *login), pieces)
        assert sent.endswith(bytes((5, cmd, 0)) + encode_address(dst))
        assert (Rep.SUCCEEDED, answer) == reply[:2]


@pytest.mark.parametrize(
    "cmd, bnd, said",
    [
        (Cmd.RESOLVE, LOOK_UPS[2][1], "no address"),
        (Cmd.RESOLVE, b"\x01" + bytes(6), "no address"),
        (Cmd.RESOLVE, b"\x04" + bytes(18), "no address"),
        (Cmd.RESOLVE_PTR, LOOK_UPS[0][1], "no name of a host"),
        (Cmd.RESOLVE_PTR, b"\x03\x03a b\x00\x00", "no name of a host"),
        (Cmd.RESOLVE_PTR, b"\x03\x03\x1b[m\x00\x00", "no name of a host"),
        (Cmd.RESOLVE_PTR, b"\x03\x02\xc3\xa9\x00\x00", "no name of a host"),
    ],
)
def test_a_hop_that_answers_something_else_has_failed(cmd, bnd, said):
    """It took the command for another one; or the name could harm a terminal."""
    with pytest.raises(ExitFailed, match=said):
        talk(ClientSide("socks5h", cmd, IPV4), [b"\x05\x00\x05\x00\x00" + bnd])


@given(
    st.sampled_from([Cmd.RESOLVE, Cmd.RESOLVE_PTR]),
    st.one_of(
        st.binary(max_size=80),
        st.binary(max_size=30).map(lambda data: b"\x05\x00\x05\x00\x00" + data),
        st.binary(max_size=255).map(
            lambda name: b"\x05\x00\x05\x00\x00\x03%c%b\x00\x00" % (len(name), name)
        ),
    ),
    st.lists(st.integers(min_value=0), max_size=5),
)
def test_any_bytes_are_an_answer_or_a_failure(cmd, data, places):
    """An answer is an address, or a name that only has the characters of names."""
    try:
        _sent, reply = talk(ClientSide("socks5h", cmd, IPV4), cut(data, places))
    except ExitFailed:
        return
    if reply is None or reply.rep:
        return
    bnd = reply.bnd
    if cmd == Cmd.RESOLVE:
        assert bnd.atyp != Atyp.DOMAINNAME
        assert any(packed_ip(bnd.name))
    else:
        assert re.fullmatch(b"[A-Za-z0-9._-]{1,255}", bnd.host)


@pytest.mark.parametrize("scheme", ["socks4", "socks4a", "http"])
@pytest.mark.parametrize("cmd", [Cmd.RESOLVE, Cmd.RESOLVE_PTR])
def test_only_socks5_carries_look_ups(scheme, cmd):
    """REP 07, and nothing is sent."""
    with pytest.raises(CannotCarry) as caught:
        ClientSide(scheme, cmd, IPV4)
    assert Rep.COMMAND_NOT_SUPPORTED == caught.value.rep


def test_failures_are_errors_of_a_dial():
    """So whatever refuses a request turns them into a reply."""
    assert issubclass(ExitFailed, DialError)
    assert issubclass(CannotCarry, DialError)
