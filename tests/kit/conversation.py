"""One handshake played to its end, and what must hold whatever the client says.

Shared by the tests and by scripts/fuzz, so that both mean the same by "right":
any bytes, cut anywhere, give a documented event or a documented error, what is
sent is well-formed, and what is held is bounded.  Needs no pytest.
"""

import re
from typing import NamedTuple, Optional

from minisocks.errors import (
    AuthFailed,
    DialError,
    HandshakeError,
    HandshakeTimeout,
    NotSocks,
    Probe,
    ProtocolError,
    RefusedByRules,
    UnsupportedAddressType,
    UnsupportedCommand,
)
from minisocks.protocol.handshake import Handshake, Request
from minisocks.protocol.messages import Credentials, Stream
from minisocks.wire import Cmd, Method, Rep

ANN = Credentials(b"ann", b"secret")
OPEN = (Method.NO_AUTHENTICATION,)
PASSWORD = (Method.USERNAME_PASSWORD,)
BOTH = (Method.USERNAME_PASSWORD, Method.NO_AUTHENTICATION)

#: What bytes alone can lead to; time, rules and targets add the others.
DOCUMENTED = (
    AuthFailed,
    NotSocks,
    Probe,
    ProtocolError,
    UnsupportedAddressType,
    UnsupportedCommand,
)

#: What may still end a handshake that has not failed by itself.
OTHER_ENDS = [
    HandshakeTimeout("too slow"),
    RefusedByRules("not you"),
    DialError("no host there", Rep.HOST_UNREACHABLE),
    ValueError("a bug of ours"),
]

#: USERID or DOMAIN without its NUL, one byte short of too long.
MOST_HELD_BYTES = 255

_FAILURE5 = rb"\x05[\x01-\x08]\x00\x01\x00{6}"  # VER REP RSV ATYP=1 0.0.0.0:0
_WELL_FORMED = re.compile(
    rb"""(?xs)(?:
        \x05\xff                                # no method: the last word
      | \x05\x00 (?:%(failure)s)?               # no password needed
      | \x05\x02 (?: \x01\x01                   # wrong password: the last word
                   | \x01\x00 (?:%(failure)s)? )?
      | \x00\x5b\x00{6}                         # SOCKS4: VN 0, 91, no address
      | HTTP/1\.1\ 400\ [^\r\n]+\r\n .+
    )?\Z"""
    % {b"failure": _FAILURE5}
)


class Outcome(NamedTuple):
    """What became of a conversation, so that two can be compared."""

    request: Optional[Request]
    error: str  # the class and the message; "" for none
    sent: bytes  # all that the server said, its refusal included
    trailing: bytes  # what belongs to the target


def converse(pieces, methods=OPEN, eof=False, at_once=False):
    """Play a client that sends *pieces*; return the Outcome.

    *at_once*: everything, EOF included, is there before the server looks.
    """
    talk = Handshake(methods)
    sent, unread = b"", list(pieces) + [b""] * eof
    while True:
        if unread:
            talk.receive_data(unread.pop(0))
            if at_once and unread:
                continue
        try:
            event = talk.next_event()
        except HandshakeError as exc:
            return _failed(talk, exc, sent + talk.data_to_send())
        sent += talk.data_to_send()
        while isinstance(event, Credentials):
            assert type(event) is Credentials
            talk.credentials_checked(event == ANN)
            try:
                event = talk.next_event()
            except HandshakeError as exc:
                return _failed(talk, exc, sent + talk.data_to_send())
            sent += talk.data_to_send()
        assert _WELL_FORMED.match(sent), "sent %r" % sent
        if event is not None:
            return _requested(talk, event, sent, b"".join(unread))
        assert not (eof and not unread), "waits for a client that has said its last byte"
        if not unread:
            held = len(talk.trailing_data())
            assert held <= MOST_HELD_BYTES, "holds %d bytes" % held
            return Outcome(None, "", sent, b"")


def _requested(talk, event, sent, unread):
    assert type(event) is Request
    assert event.cmd in tuple(Cmd)
    assert event.dst.host
    assert 0 <= event.dst.port <= 65535
    assert max(len(event.dst.host), len(event.userid)) <= 255
    return Outcome(event, "", sent, talk.trailing_data() + unread)


def _failed(talk, exc, sent):
    assert type(exc) in DOCUMENTED, "undocumented: %r" % exc
    sent += talk.refusal(exc)
    assert _WELL_FORMED.match(sent), "sent %r after %r" % (sent, exc)
    assert b"" == talk.refusal(exc) or isinstance(exc, NotSocks), "refuses twice"
    assert exc is _raised_by(talk.next_event), "goes on after %r" % exc
    return Outcome(None, "%s: %s" % (type(exc).__name__, exc), sent, b"")


def _raised_by(function):
    try:
        function()
    except HandshakeError as exc:
        return exc
    return None


def refused(data, error, methods=OPEN):
    """Return all that a client hears that said *data* when *error* ends it."""
    talk = Handshake(methods)
    if data:
        talk.receive_data(data)
    sent, event = b"", None
    try:
        event = talk.next_event()
        if isinstance(event, Credentials):
            talk.credentials_checked(event == ANN)
            sent += talk.data_to_send()
            talk.next_event()
    except HandshakeError as exc:
        error = exc
    sent += talk.data_to_send() + talk.refusal(error)
    assert _WELL_FORMED.match(sent), "sent %r after %r" % (sent, error)
    return sent


def cut(data, places):
    """Return *data* in pieces, cut at *places* (any numbers, in any order)."""
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[i:j] for i, j in zip(ends, ends[1:])]


def every_cut(data):
    """Yield *data* whole, in two pieces cut at each byte, and byte by byte."""
    for place in range(len(data)):
        yield cut(data, [place])
    yield [data[i : i + 1] for i in range(len(data))]


def parse(parser, pieces):
    """Return what *parser* makes of *pieces*, and the bytes it left.

    None for a parser that still waits.
    """
    stream, result = Stream(), None
    steps = parser(stream)
    for piece in [b""] + pieces:
        stream += piece
        if steps is not None:
            try:
                assert next(steps) is None
            except StopIteration as done:
                steps, result = None, done.value
    return result, stream.take()
