"""A client that speaks no SOCKS hears what it did wrong, in its own protocol where possible."""

import re

import pytest

from kit.conversation import OPEN, converse, every_cut

METHODS = """
    GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH PROPFIND PROPPATCH MKCOL MKCALENDAR
    COPY MOVE LOCK UNLOCK REPORT SEARCH
"""

HTTP = [
    ("%s http://example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n" % method).encode()
    for method in METHODS.split()
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
