"""The handshake: any bytes, cut anywhere, give a documented event or error."""

import contextlib
import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit import support
from kit.conversation import (
    ANN,
    BOTH,
    OPEN,
    OTHER_ENDS,
    PASSWORD,
    Outcome,
    converse,
    cut,
    every_cut,
    refused,
)
from kit.support import REJECTED4, failure5, socks5
from minisocks.errors import AuthFailed, HandshakeError, HandshakeTimeout
from minisocks.protocol.handshake import Handshake, Request
from minisocks.protocol.messages import Credentials
from minisocks.wire import Address, Atyp, Method, Rep, Ver

TAILS = [b"", b"\x00", b"\x05\x01\x00", b"GET / HTTP/1.1\r\n\r\n"]
NAMED = Address(b"a.example", 443, Atyp.DOMAINNAME)
ADDRESS = Address(b"127.0.0.1", 80, Atyp.IPV4)
RIGHT = support.password_message(*ANN)
WRONG = support.password_message(b"ann", b"wrong")
REQUEST = support.socks5(b"a.example", 443)

# What the client says, what it may use, what it hears before the reply, what it asked for.
CONVERSATIONS = [
    (support.socks4("127.0.0.1", 80, b"ann"), OPEN, b"", Request(4, 1, ADDRESS, b"ann", None)),
    (support.socks4("127.0.0.1", 80, b"ann"), BOTH, b"", Request(4, 1, ADDRESS, b"ann", None)),
    (support.socks4a(b"a.example", 443, cmd=2), OPEN, b"", Request(4, 2, NAMED, b"", None)),
    (b"\x05\x01\x00" + REQUEST, OPEN, b"\x05\x00", Request(5, 1, NAMED, b"", None)),
    (
        b"\x05\x01\x00" + support.socks5("127.0.0.1", 80, 2),
        OPEN,
        b"\x05\x00",
        Request(5, 2, ADDRESS, b"", None),
    ),
    (
        b"\x05\x01\x00" + support.socks5("127.0.0.1", 80, 3),
        OPEN,
        b"\x05\x00",
        Request(5, 3, ADDRESS, b"", None),
    ),
    (
        b"\x05\x01\x00" + support.socks5(b"a.example", 42, 0xF0),
        OPEN,
        b"\x05\x00",
        Request(5, 0xF0, NAMED._replace(port=0), b"", None),
    ),
    (
        b"\x05\x01\x00" + support.socks5("127.0.0.1", 0, 0xF1),
        OPEN,
        b"\x05\x00",
        Request(5, 0xF1, ADDRESS._replace(port=0), b"", None),
    ),
    (
        support.socks4a(b"a.example", 443, cmd=0xF0),
        OPEN,
        b"",
        Request(4, 0xF0, NAMED._replace(port=0), b"", None),
    ),
    (
        b"\x05\x01\x02" + RIGHT + REQUEST,
        PASSWORD,
        b"\x05\x02\x01\x00",
        Request(5, 1, NAMED, b"", b"ann"),
    ),
    (
        b"\x05\x03\x00\x01\x02" + RIGHT + REQUEST,
        BOTH,
        b"\x05\x02\x01\x00",
        Request(5, 1, NAMED, b"", b"ann"),
    ),
]


@pytest.mark.rfc(
    "RFC 1928 sections 1 and 2",
    'The note: numbers in diagrams are octets, a "Variable" has a length octet or a type.',
)
@pytest.mark.parametrize("eof", [False, True])
@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("said, methods, heard, request_", CONVERSATIONS)
def test_conversation_means_the_same_however_it_is_cut(
    said, methods, heard, request_, tail, at_once, eof
):
    """Pipelined or byte by byte, the request is the same and what is behind it is kept."""
    for pieces in every_cut(said + tail):
        outcome = converse(pieces, methods, eof, at_once)

        assert Outcome(request_, "", heard, tail) == outcome
        assert type(outcome.request.dst) is Address


# What the client offers, what it may use, which METHOD is chosen.
NEGOTIATIONS = [
    (b"\x00", OPEN, 0x00),
    (b"\x00\x02", OPEN, 0x00),
    (b"\x02\x00", OPEN, 0x00),
    (b"\x02", OPEN, 0xFF),
    (b"", OPEN, 0xFF),
    (b"\x00", PASSWORD, 0xFF),
    (b"\x02", PASSWORD, 0x02),
    (b"\x00\x02", PASSWORD, 0x02),
    (b"", PASSWORD, 0xFF),
    (b"\x00", BOTH, 0x00),
    (b"\x02", BOTH, 0x02),
    # The server's preference, not the client's order.
    (b"\x00\x02", BOTH, 0x02),
    (b"\x02\x00", BOTH, 0x02),
    (b"", BOTH, 0xFF),
    # GSSAPI, CHAP and private methods beside, as curl and PuTTY offer them.
    (b"\x00\x01", OPEN, 0x00),
    (b"\x03\x00", OPEN, 0x00),
    (b"\x01\x03\x02\x80\xfe", PASSWORD, 0x02),
    (b"\x01", OPEN, 0xFF),
    (b"\x01\x03", BOTH, 0xFF),
    # FF is an answer and no method.
    (b"\xff", OPEN, 0xFF),
    (b"\xff", BOTH, 0xFF),
    (b"\x00" * 255, OPEN, 0x00),
    (bytes(range(1, 256)), OPEN, 0xFF),
]


@pytest.mark.rfc("RFC 1928 section 3", "The server selects one of METHODS, and says which.")
@pytest.mark.rfc("RFC 1928 section 3", "METHOD 03 to 7F are IANA's, 80 to FE private.")
@pytest.mark.rfc("RFC 1929 section 1", "The client chooses this by METHOD 02.")
@pytest.mark.parametrize("offered, methods, chosen", NEGOTIATIONS)
def test_method_is_chosen_from_what_both_have(offered, methods, chosen):
    """The server takes the METHOD it likes best of those offered, or says FF."""
    for pieces in every_cut(bytes((5, len(offered))) + offered):
        outcome = converse(pieces, methods)

        assert bytes((5, chosen)) == outcome.sent
        error = "AuthFailed: no common method: " if offered else "Probe: the client offers no "
        assert (chosen == 0xFF) == outcome.error.startswith(error)


@pytest.mark.parametrize(
    "said, methods, expected",
    [
        (b"\x05\x01\x00", OPEN, True),
        (b"\x05\x02\x00\x02", OPEN, True),
        (b"\x05\x01\x02", PASSWORD, False),
        (b"\x05\x01\x00", PASSWORD, False),
        (b"\x05\x01\x00\x05", OPEN, False),
        (b"\x05\x01", OPEN, False),
        (b"\x04", OPEN, False),
        (b"", OPEN, False),
    ],
)
def test_a_greeting_and_no_more_is_a_health_check(said, methods, expected):
    """Where 05 00 is the answer, and the client has left, however TCP has cut it."""
    for pieces in every_cut(said):
        talk = Handshake(methods)
        for piece in pieces:
            talk.receive_data(piece)
            with contextlib.suppress(HandshakeError):
                talk.next_event()
            assert not talk.is_check
        talk.receive_data(b"")
        with contextlib.suppress(HandshakeError):
            talk.next_event()
        assert expected == talk.is_check


@pytest.mark.rfc("RFC 1961", "METHOD 01, which RFC 1928 says every implementation MUST have.")
@pytest.mark.parametrize(
    "greeting, methods, words",
    [
        (b"\x05\x02\x00\x01", PASSWORD, "the client offers 00 01, and needs 02 (a password)"),
        (b"\x05\x01\x01", BOTH, "the client offers 01, and needs 02 00"),
    ],
)
def test_failed_negotiation_says_what_was_offered_and_wanted(greeting, methods, words):
    """The message shows an operator at once which side has to change."""
    assert "AuthFailed: no common method: " + words == converse([greeting], methods).error


# What is wrong with it, what the client says, what it may use, what it hears, why.
NO_AUTH, AUTH, CHOSEN = b"\x05\x01\x00", b"\x05\x01\x02", b"\x05\x00"
NO, YES = b"\x05\x02\x01\x01", b"\x05\x02\x01\x00"

REFUSALS = [
    ("password", AUTH + WRONG, PASSWORD, NO, "AuthFailed: wrong user"),
    ("empty password", b"\x05\x01\x02\x01\x03ann\x00", PASSWORD, NO, "AuthFailed: wrong user"),
    ("empty user", b"\x05\x01\x02\x01\x00\x06secret", PASSWORD, NO, "AuthFailed: wrong user"),
    ("both empty", b"\x05\x01\x02\x01\x00\x00", PASSWORD, NO, "AuthFailed: wrong user"),
    ("request behind it", AUTH + WRONG + REQUEST, PASSWORD, NO, "AuthFailed: wrong user"),
    ("VER of auth", b"\x05\x01\x02\x05\x03ann\x06secret", PASSWORD, NO, "ProtocolError: VER 0x05"),
    ("no password", AUTH + REQUEST, PASSWORD, NO, "ProtocolError: VER 0x05"),
    (
        "VER 4",
        b"\x05\x01\x00\x04" + REQUEST[1:],
        OPEN,
        CHOSEN + failure5(1),
        "ProtocolError: the request begins with VER 0x04",
    ),
    (
        "VER 1",
        NO_AUTH + RIGHT,
        OPEN,
        CHOSEN + failure5(1),
        "ProtocolError: the request begins with VER 0x01",
    ),
    (
        "CMD 0",
        NO_AUTH + socks5("127.0.0.1", 1, 0),
        OPEN,
        CHOSEN + failure5(7),
        "UnsupportedCommand: unknown command, CMD 0x00",
    ),
    (
        "CMD 4",
        NO_AUTH + socks5(b"a", 1, 4),
        OPEN,
        CHOSEN + failure5(7),
        "UnsupportedCommand: unknown command, CMD 0x04",
    ),
    (
        "CMD ff",
        NO_AUTH + socks5("::1", 1, 255),
        OPEN,
        CHOSEN + failure5(7),
        "UnsupportedCommand: unknown command, CMD 0xff",
    ),
    (
        "RESOLVE_PTR of a name",
        NO_AUTH + socks5(b"a", 0, 0xF1),
        OPEN,
        CHOSEN + failure5(8),
        "UnsupportedAddressType: RESOLVE_PTR takes an address",
    ),
    (
        "RESOLVE_PTR by SOCKS4",
        support.socks4("127.0.0.1", 0, cmd=0xF1),
        OPEN,
        REJECTED4,
        "UnsupportedCommand: unknown command, CMD 0xf1",
    ),
    (
        "ATYP 0",
        b"\x05\x01\x00\x05\x01\x00\x00",
        OPEN,
        CHOSEN + failure5(8),
        "UnsupportedAddressType: unknown address type, ATYP 0x00",
    ),
    (
        "ATYP 2",
        b"\x05\x01\x00\x05\x01\x00\x02\x7f\0\0\1\0\1",
        OPEN,
        CHOSEN + failure5(8),
        "UnsupportedAddressType: unknown address type, ATYP 0x02",
    ),
    (
        "empty name",
        NO_AUTH + socks5(b"", 80),
        OPEN,
        CHOSEN + failure5(1),
        "ProtocolError: the name",
    ),
    (
        "NUL in name",
        NO_AUTH + socks5(b"a\0b", 80),
        OPEN,
        CHOSEN + failure5(1),
        "ProtocolError: the name",
    ),
    (
        "late, after password",
        AUTH + RIGHT + b"\x05\x01\x00\x09",
        PASSWORD,
        YES + failure5(8),
        "UnsupportedAddressType",
    ),
]


@pytest.mark.rfc(
    "RFC 1928 section 3", "The client negotiates a method, authenticates, then sends a request."
)
@pytest.mark.rfc("RFC 1928 section 3", "Client and server enter the method's own sub-negotiation.")
@pytest.mark.rfc(
    "RFC 1929 section 2", "The sub-negotiation begins when the server has selected 02."
)
@pytest.mark.parametrize(
    "what, said, methods, heard, error", REFUSALS, ids=[r[0] for r in REFUSALS]
)
def test_what_is_wrong_is_answered_in_kind(what, said, methods, heard, error):
    """Each mistake gets the reply that its stage of the protocol has for it."""
    for pieces, at_once in itertools.product(every_cut(said), (False, True)):
        outcome = converse(pieces, methods, at_once=at_once)

        assert heard == outcome.sent
        assert outcome.error.startswith(error)


# What the client has said when the end comes, what it may use, what it has heard then.
STAGES = [
    ("nothing", b"", OPEN, b"", b""),
    ("a letter", b"G", OPEN, b"", b""),
    ("VER", b"\x05", OPEN, b"", b"\x05\xff"),
    ("half a greeting", b"\x05\x02\x00", OPEN, b"", b"\x05\xff"),
    ("greeting", b"\x05\x01\x00", OPEN, b"\x05\x00", "REP"),
    ("half a request", b"\x05\x01\x00\x05\x01", OPEN, b"\x05\x00", "REP"),
    ("request", b"\x05\x01\x00" + REQUEST, OPEN, b"\x05\x00", "REP"),
    ("greeting, password due", b"\x05\x01\x02", PASSWORD, b"\x05\x02", b"\x01\x01"),
    ("half a password", b"\x05\x01\x02\x01\x03a", PASSWORD, b"\x05\x02", b"\x01\x01"),
    ("password", b"\x05\x01\x02" + RIGHT, PASSWORD, b"\x05\x02\x01\x00", "REP"),
    ("VER 4", b"\x04", OPEN, b"", support.REJECTED4),
    ("half of SOCKS4", b"\x04\x01\x00\x50", OPEN, b"", support.REJECTED4),
    ("SOCKS4a without a name", b"\x04\x01\x00\x50\0\0\0\1\0", OPEN, b"", support.REJECTED4),
    ("SOCKS4", support.socks4("127.0.0.1", 80), OPEN, b"", support.REJECTED4),
]


@pytest.mark.rfc(
    "RFC 1928 section 6", "VER 05, REP, RSV, ATYP, BND.ADDR, BND.PORT in network octet order."
)
@pytest.mark.rfc("SOCKS4, CONNECT", "CD 91: rejected or failed.")
@pytest.mark.parametrize("error", OTHER_ENDS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("stage, said, methods, heard, reply", STAGES, ids=[s[0] for s in STAGES])
def test_refusal_speaks_the_language_of_its_stage(stage, said, methods, heard, reply, error):
    """Whatever ends a handshake, wherever, the client gets the bytes it waits for."""
    if reply == "REP":
        reply = support.failure5(getattr(error, "rep", Rep.GENERAL_FAILURE))

    assert heard + reply == refused(said, error, methods)


@pytest.mark.parametrize("stage, said, methods, heard, reply", STAGES, ids=[s[0] for s in STAGES])
def test_refusal_is_said_once(stage, said, methods, heard, reply):
    """A second refusal adds nothing: half a reply behind a reply is neither."""
    talk = Handshake(methods)
    if said:
        talk.receive_data(said)
    talk.next_event()

    talk.refusal(HandshakeTimeout("too slow"))

    assert b"" == talk.refusal(HandshakeTimeout("too slow"))


@pytest.mark.parametrize(
    "said, bnd_ip, port, reply",
    [
        (support.socks4("127.0.0.1", 80), b"\x7f\0\0\1", 8080, b"\x00\x5a\x1f\x90\x7f\0\0\1"),
        (support.socks4a(b"a", 80), bytes(15) + b"\1", 8080, b"\x00\x5a\x1f\x90\0\0\0\0"),
        (b"\x05\x01\x00" + REQUEST, b"\x7f\0\0\1", 8080, b"\x05\0\0\1\x7f\0\0\1\x1f\x90"),
        (
            b"\x05\x01\x00" + REQUEST,
            bytes(15) + b"\1",
            8080,
            b"\x05\0\0\4" + bytes(15) + b"\1\x1f\x90",
        ),
    ],
)
def test_success_names_our_end_of_the_connection(said, bnd_ip, port, reply):
    """The reply to a granted request holds BND.ADDR and BND.PORT, and nothing comes after it."""
    talk = Handshake(OPEN)
    talk.receive_data(said)

    assert isinstance(talk.next_event(), Request)
    assert reply == talk.success(bnd_ip, port)
    assert b"" == talk.refusal(HandshakeTimeout("too slow"))


@pytest.mark.rfc("RFC 1929 section 2", "STATUS 00 is success.")
def test_unchecked_credentials_are_wrong():
    """A caller that forgets to check admits no client."""
    talk = Handshake(PASSWORD)
    talk.receive_data(b"\x05\x01\x02" + RIGHT)

    assert Credentials(b"ann", b"secret") == talk.next_event()
    with pytest.raises(AuthFailed):
        talk.next_event()


def test_answers_are_given_once():
    """What was taken to be sent is not offered again."""
    talk = Handshake(OPEN)
    talk.receive_data(b"\x05\x01\x00")
    talk.next_event()

    assert b"\x05\x00" == talk.data_to_send()
    assert b"" == talk.data_to_send()


@pytest.mark.rfc(
    "RFC 1928 sections 1 and 2",
    "Version 4 stays; version 5 adds UDP, authentication, names and IPv6.",
)
@pytest.mark.parametrize(
    "said, ver", [(b"\x04", Ver.SOCKS4), (b"\x05", Ver.SOCKS5), (b"\x16", None), (b"", None)]
)
def test_version_is_known_once_it_was_said(said, ver):
    """``ver`` tells which protocol the client began, ``started`` whether it said anything."""
    talk = Handshake(OPEN)
    if said:
        talk.receive_data(said)
    try:
        talk.next_event()
    except HandshakeError:
        pass

    assert (ver, bool(said)) == (talk.ver, talk.started)


def test_no_event_comes_after_the_request():
    """The request is the last event, also for a caller that asks once more."""
    talk = Handshake(OPEN)
    talk.receive_data(support.socks4("127.0.0.1", 80))

    assert isinstance(talk.next_event(), Request)
    assert talk.next_event() is None


PIECES = st.lists(
    st.one_of(
        st.binary(max_size=12),
        st.integers(0, 300).map(lambda size: b"x" * size),
        st.sampled_from([said for said, _, _, _ in CONVERSATIONS]),
        st.sampled_from([r[1] for r in REFUSALS]),
        st.sampled_from(
            [b"\x05\x01\x00", b"\x05\x01\x02", RIGHT, WRONG, REQUEST, b"\0", b"GET ", b"\x16\x03"]
        ),
    ),
    max_size=6,
).map(b"".join)
CUTS = st.lists(st.integers(0, 400), max_size=12)
METHODS = st.sampled_from(
    [OPEN, PASSWORD, BOTH, (Method.NO_AUTHENTICATION, Method.USERNAME_PASSWORD)]
)


@pytest.mark.rfc("RFC 1928 section 6", "REP 09 to FF: unassigned.")
@pytest.mark.rfc("RFC 1929 section 2", "The server verifies them, and answers with VER and STATUS.")
@settings(deadline=None, max_examples=400)
@given(said=PIECES, places=CUTS, methods=METHODS, eof=st.booleans(), at_once=st.booleans())
def test_any_bytes_give_a_documented_outcome(said, places, methods, eof, at_once):
    """Whatever comes, however cut, ends as documented, and as it does in one piece."""
    outcome = converse(cut(said, places), methods, eof, at_once)

    assert converse([said] if said else [], methods, eof) == outcome


@pytest.mark.rfc("RFC 1928 section 6", "REP 09 to FF: unassigned.")
@settings(deadline=None, max_examples=400)
@given(said=PIECES, methods=METHODS, error=st.sampled_from(OTHER_ENDS))
def test_any_bytes_can_be_refused(said, methods, error):
    """After any bytes a refusal is well-formed, and every client that speaks SOCKS gets one."""
    heard = refused(said, error, methods)

    assert bool(heard) == (said[:1] in (b"\x04", b"\x05")) or heard.startswith(b"HTTP/1.1 400 ")


# Clients that speak no SOCKS: the reply is in their own protocol where possible

HTTP_METHODS = """
    GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH PROPFIND PROPPATCH MKCOL MKCALENDAR
    COPY MOVE LOCK UNLOCK REPORT SEARCH
"""

HTTP = [
    ("%s http://example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n" % method).encode()
    for method in HTTP_METHODS.split()
]
# The preface of HTTP/2 begins with a method that is reserved for it.
HTTP += [
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"CONNECT example.org:443 HTTP/1.1\r\n\r\n",
    b"GET /\r\n",
]

TLS = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
PROXY1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 50000 1080\r\n\x05\x01\x00"
PROXY2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12) + b"\x05\x01\x00"
SSH = b"SSH-2.0-OpenSSH_9.6\r\n"

OTHERS = [
    (TLS, "TLS"),
    (PROXY1, "PROXY protocol"),
    (PROXY2, "PROXY protocol"),
    (SSH, "SSH"),
    (b"\0", "0x00"),
    (b"\x01\x02", "0x01"),
    (b"\x03\x01", "0x03"),
    (b"\x06\x01\x00", "0x06"),
    (b"\xff\xff\xff", "0xff"),
    (b"get / http/1.1\r\n", "0x67"),
    (b"HELP\r\n", "0x48"),
    (b"EHLO\r\n", "0x45"),
    (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0x41"),
]


@pytest.mark.parametrize("message", HTTP)
def test_http_gets_a_page(message):
    """An HTTP request, whole or in pieces, gets a 400 that says what this is."""
    for pieces in every_cut(message):
        outcome = converse(pieces, OPEN)
        head, _, page = outcome.sent.partition(b"\r\n\r\n")

        assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"This is a SOCKS proxy" in page
        assert "NotSocks: HTTP" in outcome.error


def test_page_can_be_shown_by_a_browser():
    """The page is whole HTTP: its true length, its type, and the end of the connection."""
    head, _, page = converse([b"GET / HTTP/1.1\r\n\r\n"]).sent.partition(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])

    assert len(page) == int(fields[b"Content-Length"])
    assert b"close" == fields[b"Connection"]
    assert fields[b"Content-Type"].startswith(b"text/plain")
    assert re.search(b"(?s)Firefox.*socks5://.*curl", page)


@pytest.mark.parametrize("message, mistake", OTHERS)
def test_junk_gets_silence_and_the_log_a_reason(message, mistake):
    """What could read no answer gets none, and the message names the likely mistake."""
    for pieces in every_cut(message):
        outcome = converse(pieces, OPEN)

        assert outcome.error.startswith("NotSocks: ")
        assert mistake in outcome.error
        assert b"" == outcome.sent


@pytest.mark.parametrize("message", [b"G", b"GET", b"PROXY", b"ABCDEFGHI"])
def test_half_a_word_ends_in_silence(message):
    """A client that leaves within its first word spoke nothing that could be answered."""
    outcome = converse([message], eof=True)

    assert ("ProtocolError: the client closed before its request was complete", b"") == (
        outcome.error,
        outcome.sent,
    )


@pytest.mark.parametrize("message", [TLS, b"\0", b"g", b"ABCDEFGHIJK"])
def test_nothing_is_awaited_once_it_is_clear(message):
    """No more is read than it takes to know: the rest may never come."""
    assert converse([message]).error
