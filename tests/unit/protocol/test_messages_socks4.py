"""SOCKS4 and SOCKS4a messages, byte by byte as the two memos lay them out."""

import pytest

from kit import support
from kit.conversation import OPEN, PASSWORD, converse, every_cut, parse
from minisocks.protocol import messages
from minisocks.protocol.messages import Request4
from minisocks.wire import Address, Atyp, Rep, Ver

LONGEST = b"x" * 255


def asked(cmd, host, port, userid=b"", atyp=Atyp.IPV4):
    return Request4(cmd, Address(host, port, atyp), userid)


def asked4a(cmd, name, port, userid=b""):
    return asked(cmd, name, port, userid, Atyp.DOMAINNAME)


# VN  CD   DSTPORT    DSTIP              USERID       DOMAIN        what it says
REQUESTS = [
    (b"\x04\x01" + b"\x00\x50" + b"\x7f\x00\x00\x01" + b"\0", asked(1, b"127.0.0.1", 80)),
    (
        b"\x04\x01" + b"\x00\x50" + b"\x7f\x00\x00\x01" + b"ann\0",
        asked(1, b"127.0.0.1", 80, b"ann"),
    ),
    (b"\x04\x02" + b"\xff\xff" + b"\xff\xff\xff\xff" + b"\0", asked(2, b"255.255.255.255", 65535)),
    # 0.0.0.0 is an address; 0.0.0.x with x != 0 says that a name follows.
    (b"\x04\x01" + b"\x00\x00" + b"\x00\x00\x00\x00" + b"\0", asked(1, b"0.0.0.0", 0)),
    (
        b"\x04\x01" + b"\x01\xbb" + b"\x00\x00\x00\x01" + b"\0" + b"a.example\0",
        asked4a(1, b"a.example", 443),
    ),
    (
        b"\x04\x01" + b"\x01\xbb" + b"\x00\x00\x00\xff" + b"\0" + b"a.example\0",
        asked4a(1, b"a.example", 443),
    ),
    (
        b"\x04\x02" + b"\x00\x15" + b"\x00\x00\x00\x01" + b"ann\0" + b"a\0",
        asked4a(2, b"a", 21, b"ann"),
    ),
    # 0.0.1.0 and 0.1.0.1 look like it and are not.
    (b"\x04\x01" + b"\x00\x01" + b"\x00\x00\x01\x00" + b"\0", asked(1, b"0.0.1.0", 1)),
    (b"\x04\x01" + b"\x00\x01" + b"\x00\x01\x00\x01" + b"\0", asked(1, b"0.1.0.1", 1)),
    # Names and user ids are opaque.
    (
        b"\x04\x01" + b"\x00\x01" + b"\x00\x00\x00\x01" + b"\xff\n\0" + b"\xc3\xa4'\0",
        asked4a(1, b"\xc3\xa4'", 1, b"\xff\n"),
    ),
    # 255 bytes pass.
    (
        b"\x04\x01" + b"\x00\x01" + b"\x0a\x00\x00\x07" + LONGEST + b"\0",
        asked(1, b"10.0.0.7", 1, LONGEST),
    ),
    (
        b"\x04\x01" + b"\x00\x01" + b"\x00\x00\x00\x01" + b"\0" + LONGEST + b"\0",
        asked4a(1, LONGEST, 1),
    ),
    # Whether there is such a command is for the handshake to say.
    (b"\x04\xff" + b"\x00\x01" + b"\x0a\x00\x00\x07" + b"\0", asked(255, b"10.0.0.7", 1)),
]


@pytest.mark.rfc("SOCKS4, CONNECT", "VN 4, CD 1, DSTPORT, DSTIP, USERID, NULL.")
@pytest.mark.rfc(
    "SOCKS4, BIND",
    "VN 4, CD 2; DSTIP is the application server, DSTPORT that of the primary connection.",
)
@pytest.mark.rfc(
    "SOCKS4A", "DSTIP 0.0.0.x with x not zero: a domain name and a NULL follow USERID's NULL."
)
@pytest.mark.rfc("SOCKS4A", "This is for CONNECT and BIND.")
@pytest.mark.parametrize("tail", [b"", b"\x04", b"GET / HTTP/1.1\r\n\0\0"])
@pytest.mark.parametrize("message, expected", REQUESTS)
def test_request_means_the_same_however_it_is_cut(message, expected, tail):
    """A request is read whole or in pieces alike, and what is behind it stays."""
    for pieces in every_cut(message[1:] + tail):  # VER is read before it is known to be SOCKS4
        result, left = parse(messages.parse_request4, pieces)

        assert (expected, tail) == (result, left)
        assert type(expected) is type(result)


@pytest.mark.parametrize("message, expected", [r for r in REQUESTS if r[0][4:7] != b"\0\0\0"])
def test_tests_spell_addresses_as_the_table_does(message, expected):
    """What the suite's own client sends for an address is what the memo says."""
    cmd, dst, userid = expected

    assert message == support.socks4(dst.host.decode(), dst.port, userid, cmd)


@pytest.mark.parametrize(
    "name, meant", [(b"[::1]", b"::1"), (b"::ffff:a00:1", b"10.0.0.1"), (b"[x]", b"[x]")]
)
def test_an_address_in_the_place_of_a_name(name, meant):
    """It may be in brackets, as in a URL, and IPv4 in the form of IPv6."""
    message = support.socks4a(name, 443)
    assert (asked4a(1, meant, 443), b"") == parse(messages.parse_request4, [message[1:]])


@pytest.mark.parametrize("message, expected", [r for r in REQUESTS if r[0][4:8] == b"\0\0\0\1"])
def test_tests_spell_names_as_the_table_does(message, expected):
    """What the suite's own client sends for a name is what the memo says."""
    cmd, dst, userid = expected

    assert message == support.socks4a(dst.host, dst.port, userid, cmd)


# REP                        BND.ADDR             PORT   VN  CD   PORT       IP
REPLIES = [
    (Rep.SUCCEEDED, b"\x7f\x00\x00\x01", 8080, b"\x00\x5a" + b"\x1f\x90" + b"\x7f\x00\x00\x01"),
    (Rep.SUCCEEDED, b"", 0, b"\x00\x5a" + b"\x00\x00" + b"\x00\x00\x00\x00"),
    # An IPv6 end, which a client comes to by name, cannot be said in four bytes.
    (
        Rep.SUCCEEDED,
        b"\x20\x01" + bytes(14),
        65535,
        b"\x00\x5a" + b"\xff\xff" + b"\x00\x00\x00\x00",
    ),
] + [(rep, b"", 0, b"\x00\x5b" + b"\x00\x00" + b"\x00\x00\x00\x00") for rep in Rep if rep]


@pytest.mark.rfc("SOCKS4, CONNECT", 'VN "should be 0" in it.')
@pytest.mark.rfc("SOCKS4, CONNECT", "The remaining fields are ignored.")
@pytest.mark.parametrize("rep, ip, port, expected", REPLIES)
def test_reply_is_eight_bytes_that_begin_with_zero(rep, ip, port, expected):
    """A reply has VN 0 (not 4), 90 for success, and 91 for every failure."""
    assert expected == messages.encode_reply4(rep, ip, port)


GOOD = b"\x04\x01\x00\x50\x7f\x00\x00\x01"
GOOD4A = b"\x04\x01\x00\x50\x00\x00\x00\x01"

REFUSED = [
    (GOOD + LONGEST + b"x\0", OPEN, "ProtocolError: USERID is longer than 255 bytes"),
    (GOOD + LONGEST + b"x", OPEN, "ProtocolError: USERID is longer than 255 bytes"),
    (GOOD4A + b"\0" + LONGEST + b"x\0", OPEN, "ProtocolError: DOMAIN is longer than 255 bytes"),
    (GOOD4A + b"\0\0", OPEN, "ProtocolError: DOMAIN is empty"),
    (GOOD4A + b"ann\0\0", OPEN, "ProtocolError: DOMAIN is empty"),
    (GOOD + b"ann\0", PASSWORD, "AuthFailed: a password is needed; SOCKS4 cannot send one"),
    (GOOD4A + b"\0a\0", PASSWORD, "AuthFailed: a password is needed; SOCKS4 cannot send one"),
    (b"\x04\x00" + GOOD[2:] + b"\0", OPEN, "UnsupportedCommand: unknown command, CMD 0x00"),
    # UDP ASSOCIATE came with SOCKS5.
    (b"\x04\x03" + GOOD[2:] + b"\0", OPEN, "UnsupportedCommand: unknown command, CMD 0x03"),
    (b"\x04\xff" + GOOD4A[2:] + b"\0a\0", OPEN, "UnsupportedCommand: unknown command, CMD 0xff"),
]


@pytest.mark.rfc("SOCKS4, introduction", "Two operations: CONNECT and BIND.")
@pytest.mark.rfc("SOCKS4, CONNECT", "CD 91: rejected or failed.")
@pytest.mark.rfc(
    "SOCKS4A", "DSTIP 0.0.0.x with x not zero: a domain name and a NULL follow USERID's NULL."
)
@pytest.mark.parametrize("message, methods, error", REFUSED)
def test_bad_request_is_answered_with_91(message, methods, error):
    """What cannot be granted is answered by 91, once and in eight bytes."""
    for pieces in every_cut(message):
        outcome = converse(pieces, methods)

        assert (error, support.REJECTED4) == (outcome.error, outcome.sent)


@pytest.mark.rfc("SOCKS4A", "A server must check DSTIP, and read in the domain name.")
@pytest.mark.parametrize("size", range(1, len(GOOD4A + b"ann\0a.example\0")))
def test_client_that_leaves_early_is_answered_with_91(size):
    """EOF anywhere in a request ends it; a client that only half-closed hears 91."""
    outcome = converse([(GOOD4A + b"ann\0a.example\0")[:size]], eof=True)

    assert "ProtocolError: the client closed before its request was complete" == outcome.error
    assert support.REJECTED4 == outcome.sent


@pytest.mark.rfc("SOCKS4, CONNECT", "The server connects to the port of the destination host.")
def test_plain_request_waits_for_no_name():
    """DSTIP 0.0.0.0 is complete with its USERID: waiting for a name would be for ever."""
    outcome = converse([b"\x04\x01\x00\x50\x00\x00\x00\x00\0"])

    assert (Ver.SOCKS4, b"0.0.0.0") == (outcome.request.ver, outcome.request.dst.host)
