"""The server side of one handshake: takes bytes, returns events.

Call ``receive_data``, then ``next_event`` until it returns None (more bytes are needed), and send
what ``data_to_send`` returns.  Any bytes, cut anywhere, give one of the events or one of the
errors documented here.  It holds at most the longest message and what was fed last.  No socket,
thread or clock.

::

    VER --4--> request4 ------------------------> Request
     |--5--> greeting -> auth (Credentials) -> request5 -> Request
     `--else--> NotSocks
"""

import enum
from typing import Generator, NamedTuple, Optional, Sequence, Union

from minisocks.errors import (
    AuthFailed,
    HandshakeError,
    NotSocks,
    Probe,
    ProtocolError,
    UnsupportedAddressType,
    UnsupportedCommand,
)
from minisocks.protocol import messages
from minisocks.protocol.messages import Credentials, Stream
from minisocks.quoting import MOST_TOLD, quoted
from minisocks.wire import LOOK_UPS, Address, Atyp, Cd, Cmd, Method, Rep, Ver

__all__ = ["Credentials", "Event", "Handshake", "Request"]


class Request(NamedTuple):
    """A request, after the login if one is needed.

    The port of ``dst`` is 0 for RESOLVE and RESOLVE_PTR.  ``userid`` is that of SOCKS4,
    unverified.  ``user`` is the user whose password was right, now or some time ago.
    """

    ver: int
    cmd: int
    dst: Address
    userid: bytes
    user: Optional[bytes]


Event = Union[Credentials, Request]

#: The steps to a request: credentials on the way, None while bytes are missing.
_Steps = Generator[Optional[Credentials], None, Request]


class _Stage(enum.Enum):
    """How far the handshake is; it decides the form of a refusal."""

    VERSION = 0
    GREETING = 1
    AUTH = 2
    REQUEST4 = 3
    REQUEST5 = 4
    ANSWERED = 5


_COMMANDS = {Ver.SOCKS4: (Cmd.CONNECT, Cmd.BIND, Cmd.RESOLVE), Ver.SOCKS5: tuple(Cmd)}


class Handshake:
    """One handshake, from VER to the reply.

    A class because it stops wherever bytes are missing, and continues there.

    Args:
        methods: the METHODs this client may use, the preferred one first.  SOCKS4, which has
            none, passes if NO_AUTHENTICATION is among them.
        user: the user of a client that gives no password.
        asks_ident: whether SOCKS4 passes in any case, because the identd of the client is asked.

    Thread: one at a time.
    """

    __slots__ = (
        "_asks_ident",
        "_failed",
        "_has_only_greeted",
        "_methods",
        "_out",
        "_stage",
        "_steps",
        "_stream",
        "_user",
        "_verdict",
        "eof",
        "started",
        "ver",
    )

    def __init__(
        self,
        methods: Sequence[int] = (Method.NO_AUTHENTICATION,),
        user: Optional[bytes] = None,
        asks_ident: bool = False,
    ) -> None:
        self._asks_ident = asks_ident
        self._methods = methods
        self._stream = Stream()
        self._stage = _Stage.VERSION
        self._out = b""
        self._user = user
        self._verdict: Optional[bool] = None
        self._failed: Optional[HandshakeError] = None
        self._steps = self._conversation()
        #: Whether the client has sent a byte: a check of the port sends none.
        self.started = False
        #: Whether the client has sent FIN.
        self.eof = False
        #: Whether it has sent nothing but a greeting that 05 00 answers.
        self._has_only_greeted = False
        #: VER, once the client has sent it.
        self.ver: Optional[Ver] = None

    def receive_data(self, data: bytes) -> None:
        """Take bytes as the network delivers them; empty means end of stream."""
        if not data:
            self.eof = True
        else:
            self.started = True
            self._has_only_greeted = False
            self._stream += data

    def next_event(self) -> Optional[Event]:
        """Return the next event, or None when more bytes are needed.

        After ``Credentials``, call ``credentials_checked`` first.  ``Request`` is the last event:
        answer it.

        Raises:
            HandshakeError: a subclass of it; ``refusal`` has the answer.  The handshake is over,
                and every later call raises the same.
        """
        if self._failed is not None:
            raise self._failed
        try:
            event = next(self._steps)
            if event is None and self.eof:
                raise ProtocolError("the client closed before its request was complete")
        except StopIteration as done:
            request: Optional[Request] = done.value  # None if it has been returned
            return request
        except HandshakeError as exc:
            self._failed = exc
            raise
        return event

    def credentials_checked(self, ok: bool) -> None:
        """Set whether the last ``Credentials`` are right."""
        self._verdict = ok

    def stop_parsing(self) -> None:
        """Close the parser of an unfinished handshake, because the two refer to each other."""
        self._steps.close()

    def data_to_send(self) -> bytes:
        """Return what must be sent now, once."""
        out, self._out = self._out, b""
        return out

    @property
    def is_check(self) -> bool:
        """Whether it was a health check: the client left after a greeting and the answer 05 00."""
        return self.eof and self._has_only_greeted

    @property
    def has_trailing_data(self) -> bool:
        """Whether bytes follow the request."""
        return bool(self._stream)

    def trailing_data(self) -> bytes:
        """Return the bytes that follow the request, once: they are for the target."""
        return self._stream.take()

    def listening(self, bnd_ip: bytes, bnd_port: int) -> bytes:
        """Return the first reply to BIND, the address for the peer.  A second reply follows."""
        stage = self._stage
        reply = self._reply(Rep.SUCCEEDED, bnd_ip, bnd_port)
        self._stage = stage
        return reply

    def success(self, bnd_ip: bytes, bnd_port: int, bnd_name: bytes = b"") -> bytes:
        """Return the reply to a request that succeeded, with our address; of BIND, the peer's.

        RESOLVE: with the address of the name; RESOLVE_PTR: with *bnd_name*, the name.
        """
        return self._reply(Rep.SUCCEEDED, bnd_ip, bnd_port, bnd_name=bnd_name)

    @property
    def has_rep(self) -> bool:
        """Whether ``refusal`` has a REP or CD now, which only the answer to a request has."""
        return self._stage in (_Stage.REQUEST4, _Stage.REQUEST5)

    def refusal(self, error: Exception) -> bytes:
        """Return the last bytes for a client whose request ended in *error*.

        Empty if it could read none: it has closed, or speaks an unknown protocol.  The caller
        sends them and closes.
        """
        if isinstance(error, NotSocks):
            return error.answer
        rep = getattr(error, "rep", Rep.GENERAL_FAILURE)
        if rep is None or not self.started:
            return b""
        return self._reply(rep, b"", 0, getattr(error, "cd", Cd.REJECTED))

    def _reply(
        self,
        rep: Rep,
        bnd_ip: bytes,
        bnd_port: int,
        failure: Cd = Cd.REJECTED,
        bnd_name: bytes = b"",
    ) -> bytes:
        stage, self._stage = self._stage, _Stage.ANSWERED
        if stage == _Stage.GREETING:
            return bytes((Ver.SOCKS5, Method.NO_ACCEPTABLE))
        if stage == _Stage.AUTH:
            return bytes((messages.AUTH_VERSION, 1))
        if stage == _Stage.REQUEST4:
            return messages.encode_reply4(rep, bnd_ip, bnd_port, failure)
        if stage == _Stage.REQUEST5:
            return messages.encode_reply5(rep, bnd_ip, bnd_port, bnd_name)
        return b""

    def _conversation(self) -> _Steps:
        (version,) = yield from self._stream.read_exact(1)
        if version == Ver.SOCKS4:
            self.ver, self._stage = Ver.SOCKS4, _Stage.REQUEST4
            return (yield from self._socks4())
        elif version == Ver.SOCKS5:
            self.ver, self._stage = Ver.SOCKS5, _Stage.GREETING
            return (yield from self._socks5())
        else:
            raise (yield from _foreign(version, self._stream))

    def _socks4(self) -> _Steps:
        request = yield from messages.parse_request4(self._stream)
        if Method.NO_AUTHENTICATION not in self._methods and not self._asks_ident:
            raise AuthFailed("a password is needed; SOCKS4 cannot send one")
        return self._request(Ver.SOCKS4, request.cmd, request.dst, request.userid)

    def _socks5(self) -> _Steps:
        offered = yield from messages.parse_methods(self._stream)
        if not offered:
            raise Probe("the client offers no method: it is a health check")
        method = next((m for m in self._methods if m in offered), None)
        if method is None:
            needs = _hex(bytes(self._methods))
            if Method.NO_AUTHENTICATION not in self._methods:
                needs += " (a password)"
            text = "no common method: the client offers %s, and needs %s"
            raise AuthFailed(text % (_hex(offered), needs))
        self._out += bytes((Ver.SOCKS5, method))
        self._has_only_greeted = not (method or self._stream)
        if method == Method.USERNAME_PASSWORD:
            self._stage = _Stage.AUTH
            credentials = yield from messages.parse_credentials(self._stream)
            yield credentials
            if not self._verdict:
                name = quoted(credentials.user, MOST_TOLD)
                raise AuthFailed("wrong user name or password, as %s" % name)
            self._user = credentials.user
            self._out += bytes((messages.AUTH_VERSION, 0))
        self._stage = _Stage.REQUEST5
        request = yield from messages.parse_request5(self._stream)
        return self._request(Ver.SOCKS5, request.cmd, request.dst, b"")

    def _request(self, ver: Ver, cmd: int, dst: Address, userid: bytes) -> Request:
        if cmd not in _COMMANDS[ver]:
            raise UnsupportedCommand("unknown command, CMD 0x%02x" % cmd)
        if cmd == Cmd.RESOLVE_PTR and dst.atyp == Atyp.DOMAINNAME:
            raise UnsupportedAddressType("RESOLVE_PTR takes an address, and the client sent a name")
        if cmd in LOOK_UPS:
            # The port has no meaning (tor-resolve sends 0, torsocks 42), and must not decide.
            dst = dst._replace(port=0)
        return Request(ver, cmd, dst, userid, self._user)


def _hex(methods: bytes) -> str:
    return " ".join("%02x" % m for m in methods)


#: Longest method of HTTP that is in use ("PROPPATCH", "BASELINE-CONTROL" is not).
_LONGEST_WORD = 10

_BALANCER = "a PROXY protocol header: the forwarder must not send one; see --forwarded"

_PAGE = b"""\
This is a SOCKS proxy, and it was spoken to in HTTP.

In the settings of the browser or program, put this host and port into the
field for a SOCKS proxy (SOCKS v5, or v4), not into the one for an HTTP proxy.

  Firefox   Settings, Network Settings, Manual: fill in "SOCKS Host" only,
            and tick "Proxy DNS when using SOCKS v5"
  Chromium  chromium --proxy-server=socks5://HOST:PORT
  curl      curl --proxy socks5h://HOST:PORT https://example.org/
"""

HTTP_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: %d\r\n"
    b"Connection: close\r\n"
    b"\r\n"
    b"%s"
) % (len(_PAGE), _PAGE)


def _foreign(first: int, stream: Stream) -> Generator[None, None, NotSocks]:
    """Return (not raise) the error for a stream whose first byte is no VER.

    Most reports of a broken proxy are a wrong setting in a browser: the browser shows the
    answer, the log names the mistake.  Reads one word of capital letters at most, so it never
    waits for more than a request line of HTTP.
    """
    if first == 0x16:
        return NotSocks("TLS instead of SOCKS: the client takes this for an HTTPS proxy or server")
    if first == 0x0D:
        return NotSocks("not SOCKS: the first byte is 0x0d; it may be " + _BALANCER)
    word = bytearray()
    byte = first
    while 0x41 <= byte <= 0x5A and len(word) < _LONGEST_WORD:
        word.append(byte)
        (byte,) = yield from stream.read_exact(1)
    if word == b"PROXY" and byte == 0x20:
        return NotSocks(_BALANCER)
    if word and byte == 0x20:
        return NotSocks(
            "HTTP instead of SOCKS: the client takes this for an HTTP proxy", HTTP_ANSWER
        )
    if word == b"SSH":
        return NotSocks("SSH instead of SOCKS: is this the port that was meant?")
    return NotSocks("not SOCKS: the first byte is 0x%02x" % first)
