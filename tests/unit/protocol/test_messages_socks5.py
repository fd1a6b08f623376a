"""SOCKS5 messages, byte by byte as RFC 1928 and RFC 1929 lay them out."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import support
from kit.conversation import every_cut, parse
from minisocks.errors import ProtocolError, UnsupportedAddressType
from minisocks.protocol import messages
from minisocks.protocol.messages import Credentials, Request5
from minisocks.wire import Address, Atyp, Rep

LONGEST = b"x" * 255
TAILS = [b"", b"\x05", b"GET / HTTP/1.1\r\n\0\0"]


def asked(cmd, host, port, atyp):
    return Request5(cmd, Address(host, port, atyp))


# NMETHODS METHODS
GREETINGS = [
    (b"\x01\x00", b"\x00"),
    (b"\x02\x00\x02", b"\x00\x02"),
    (b"\x00", b""),
    (b"\xff" + bytes(range(255)), bytes(range(255))),
]

# VER  ULEN UNAME  PLEN PASSWD
PASSWORDS = [
    (b"\x01" + b"\x03ann" + b"\x06secret", Credentials(b"ann", b"secret")),
    (b"\x01" + b"\x01a" + b"\x01\x00", Credentials(b"a", b"\0")),
    # RFC 1929 wants a byte at least; curl sends none for an empty password.
    (b"\x01" + b"\x03ann" + b"\x00", Credentials(b"ann", b"")),
    (b"\x01" + b"\x00" + b"\x06secret", Credentials(b"", b"secret")),
    (b"\x01" + b"\x00" + b"\x00", Credentials(b"", b"")),
    (b"\x01" + b"\x02\xff\n" + b"\x02\xc3\xa4", Credentials(b"\xff\n", b"\xc3\xa4")),
    (b"\x01" + b"\xff" + LONGEST + b"\xff" + LONGEST, Credentials(LONGEST, LONGEST)),
]

# VER CMD RSV  ATYP DST.ADDR               DST.PORT
REQUESTS = [
    (
        b"\x05\x01\x00" + b"\x01\x7f\x00\x00\x01" + b"\x00\x50",
        asked(1, b"127.0.0.1", 80, Atyp.IPV4),
    ),
    (b"\x05\x02\x00" + b"\x01\x00\x00\x00\x00" + b"\x00\x00", asked(2, b"0.0.0.0", 0, Atyp.IPV4)),
    (
        b"\x05\x01\x00" + b"\x03\x09a.example" + b"\x01\xbb",
        asked(1, b"a.example", 443, Atyp.DOMAINNAME),
    ),
    (b"\x05\x01\x00" + b"\x03\x01a" + b"\xff\xff", asked(1, b"a", 65535, Atyp.DOMAINNAME)),
    (b"\x05\x01\x00" + b"\x03\xff" + LONGEST + b"\x00\x01", asked(1, LONGEST, 1, Atyp.DOMAINNAME)),
    # A name is opaque: neither UTF-8 nor printable has to be.
    (b"\x05\x01\x00" + b"\x03\x03\xff\n'" + b"\x00\x01", asked(1, b"\xff\n'", 1, Atyp.DOMAINNAME)),
    (
        b"\x05\x03\x00" + b"\x04" + bytes(15) + b"\x01" + b"\x00\x35",
        asked(3, b"::1", 53, Atyp.IPV6),
    ),
    (
        b"\x05\x01\x00" + b"\x04\x20\x01\x0d\xb8" + bytes(11) + b"\x07" + b"\x00\x50",
        asked(1, b"2001:db8::7", 80, Atyp.IPV6),
    ),
    # Whether there is such a command is for the handshake to say.
    (
        b"\x05\xff\x00" + b"\x01\x7f\x00\x00\x01" + b"\x00\x50",
        asked(255, b"127.0.0.1", 80, Atyp.IPV4),
    ),
]

# REP                      BND.ADDR, PORT           VER REP RSV ATYP BND.ADDR BND.PORT
REPLIES = [
    (Rep.SUCCEEDED, b"\x7f\0\0\x01", 8080, b"\x05\x00\x00" + b"\x01\x7f\x00\x00\x01" + b"\x1f\x90"),
    (
        Rep.SUCCEEDED,
        b"\x20\x01" + bytes(13) + b"\x07",
        1,
        b"\x05\x00\x00" + b"\x04\x20\x01" + bytes(13) + b"\x07" + b"\x00\x01",
    ),
    (Rep.SUCCEEDED, b"", 0, b"\x05\x00\x00" + b"\x01\x00\x00\x00\x00" + b"\x00\x00"),
] + [
    (rep, b"", 0, b"\x05" + bytes((rep,)) + b"\x00" + b"\x01\x00\x00\x00\x00" + b"\x00\x00")
    for rep in Rep
    if rep
]


@pytest.mark.rfc(
    "RFC 1928 section 3", "VER is 05, NMETHODS says how many octets METHODS has, 1 to 255."
)
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("message, expected", GREETINGS)
def test_methods_mean_the_same_however_they_are_cut(message, expected, tail):
    """METHODS are read whole or in pieces alike, and what is behind them stays."""
    for pieces in every_cut(message + tail):
        assert (expected, tail) == parse(messages.parse_methods, pieces)


@pytest.mark.rfc(
    "RFC 1929 section 2", "ULEN, then UNAME, 1 to 255 octets; PLEN, then PASSWD, 1 to 255 octets."
)
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("message, expected", PASSWORDS)
def test_password_means_the_same_however_it_is_cut(message, expected, tail):
    """Name and password are read whole or in pieces alike, and what is behind them stays."""
    for pieces in every_cut(message + tail):
        result, left = parse(messages.parse_credentials, pieces)

        assert (expected, tail) == (result, left)
        assert type(expected) is type(result)


@pytest.mark.rfc(
    "RFC 1928 section 4", "VER 05, CMD, RSV 00, ATYP, DST.ADDR, DST.PORT in network octet order."
)
@pytest.mark.rfc("RFC 1928 section 5", "ATYP 01: 4 octets; ATYP 04: 16 octets.")
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("message, expected", REQUESTS)
def test_request_means_the_same_however_it_is_cut(message, expected, tail):
    """A request is read whole or in pieces alike, and what is behind it stays."""
    for pieces in every_cut(message + tail):
        result, left = parse(messages.parse_request5, pieces)

        assert (expected, tail) == (result, left)
        assert type(expected) is type(result)


@pytest.mark.parametrize("rsv", [1, 5, 0x7F, 0xFF])
@pytest.mark.parametrize("message, expected", REQUESTS)
def test_rsv_may_be_anything(message, expected, rsv):
    """RSV, which has to be 00 in what we send, is not looked at in what we get."""
    message = message[:2] + bytes((rsv,)) + message[3:]

    assert (expected, b"") == parse(messages.parse_request5, [message])


@pytest.mark.parametrize("message, expected", PASSWORDS)
def test_tests_spell_passwords_as_the_table_does(message, expected):
    """What the suite's own client sends for a password is what RFC 1929 says."""
    assert message == support.password_message(*expected)


@pytest.mark.parametrize("message, expected", REQUESTS)
def test_tests_spell_requests_as_the_table_does(message, expected):
    """What the suite's own client sends for a request is what RFC 1928 says."""
    cmd, dst = expected
    host = dst.host if dst.atyp == Atyp.DOMAINNAME else dst.host.decode()

    assert message == support.socks5(host, dst.port, cmd)


@pytest.mark.rfc(
    "RFC 1928 section 6", "VER 05, REP, RSV, ATYP, BND.ADDR, BND.PORT in network octet order."
)
@pytest.mark.rfc("RFC 1928 section 6", "Fields marked RSV \"must be set to X'00'\".")
@pytest.mark.parametrize("rep, ip, port, expected", REPLIES)
def test_reply_is_what_the_rfc_draws(rep, ip, port, expected):
    """A reply has VER 5, RSV 0, and BND.ADDR in the family that it is of."""
    assert expected == messages.encode_reply5(rep, ip, port)


@given(st.binary(min_size=1, max_size=255))
def test_a_reply_has_a_name_where_one_was_asked_for(name):
    """The reply to RESOLVE_PTR of Tor: ATYP 03, the length, the name, port 0."""
    reply = messages.encode_reply5(Rep.SUCCEEDED, bnd_name=name)
    assert b"\x05\x00\x00\x03%c%b\x00\x00" % (len(name), name) == reply


@pytest.mark.parametrize("rep, ip, port, message", REPLIES)
def test_tests_read_replies_as_the_table_does(rep, ip, port, message):
    """What the suite's own client understands is what RFC 1928 says."""
    family = socket.AF_INET6 if len(ip) == 16 else socket.AF_INET
    near, far = socket.socketpair()
    with near, far:
        far.sendall(message)

        assert (rep, socket.inet_ntop(family, ip or bytes(4)), port) == support.Talk(
            near
        ).receive_reply5()


@pytest.mark.parametrize("rep, ip, port, expected", [r for r in REPLIES if r[0]])
def test_tests_expect_the_failures_of_the_table(rep, ip, port, expected):
    """What the suite expects of a failure is what RFC 1928 says."""
    assert expected == support.failure5(rep)


@pytest.mark.rfc("RFC 1929 section 2", "VER 01: the version of this sub-negotiation.")
@pytest.mark.parametrize("version", [0, 2, 5, 0xFF])
def test_password_message_of_another_version_is_refused(version):
    """VER of the password message is 1, whatever VER of the rest is."""
    with pytest.raises(ProtocolError, match="^VER 0x%02x in the password message$" % version):
        parse(messages.parse_credentials, [bytes((version,))])


@pytest.mark.rfc(
    "RFC 1928 section 4", "VER 05, CMD, RSV 00, ATYP, DST.ADDR, DST.PORT in network octet order."
)
@pytest.mark.parametrize("version", [0, 1, 4, 0xFF])
def test_request_of_another_version_is_refused(version):
    """VER of the request is 5."""
    with pytest.raises(
        ProtocolError, match="^the request begins with VER 0x%02x, not with 0x05$" % version
    ):
        parse(messages.parse_request5, [bytes((version, 1, 0))])


@pytest.mark.rfc("RFC 1928 section 5", "Another ATYP is not defined.")
@pytest.mark.parametrize("atyp", [0, 2, 5, 0x7F, 0xFF])
def test_unknown_address_type_is_refused_at_once(atyp):
    """After an unknown ATYP there is nothing to wait for."""
    with pytest.raises(UnsupportedAddressType, match="^unknown address type, ATYP 0x%02x$" % atyp):
        parse(messages.parse_request5, [b"\x05\x01\x00" + bytes((atyp,))])


@pytest.mark.rfc("RFC 1928 section 5", "There is no terminating NUL.")
@pytest.mark.parametrize(
    "name, error",
    [
        (b"", "the name in DST.ADDR is empty"),
        (b"\0", "the name in DST.ADDR holds a NUL byte"),
        (b"a.example\0", "the name in DST.ADDR holds a NUL byte"),
        (b"127.0.0.1\0.example", "the name in DST.ADDR holds a NUL byte"),
    ],
)
def test_impossible_name_is_refused(name, error):
    """A name that the C library would cut short or not take is not looked up."""
    for pieces in every_cut(support.socks5(name, 80)):
        with pytest.raises(ProtocolError, match="^%s$" % error):
            parse(messages.parse_request5, pieces)


@pytest.mark.rfc(
    "RFC 1929 section 3",
    'The password is carried in cleartext: not where "sniffing" is possible and practical.',
)
@pytest.mark.parametrize(
    "show", [repr, str, "{}".format, lambda c: "%s" % (c,), lambda c: repr([c])]
)
def test_credentials_show_no_password(show):
    """However credentials end up in a log or a traceback, the password does not."""
    shown = show(Credentials(b"ann", b"secret"))

    assert "ann" in shown
    assert "secret" not in shown
