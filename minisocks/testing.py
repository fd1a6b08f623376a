"""A proxy for tests of programs that use one, which fails as the test wants.

Programs are seldom tested with a proxy that fails, because no real proxy fails on demand.
``ScriptedProxy`` does, as its ``Script`` says.

::

    with ScriptedProxy(reply=0x05) as proxy:     # every target "refuses"
        ...
    assert proxy.records[0].host == "example.org"

Without a script it is a ``Proxy`` on a free port.  Use it only for programs under test on this
host.
"""

import socket
from typing import Any, Callable, NamedTuple, Optional, Tuple, Type, Union

from minisocks.compat import READ, close_quietly
from minisocks.config.settings import Config
from minisocks.errors import ConfigError, HandshakeError
from minisocks.guesses import closest
from minisocks.hooks import Hooks
from minisocks.net.job import Job
from minisocks.net.pipes import Pipe
from minisocks.protocol.handshake import Handshake, Request
from minisocks.proxy import Proxy
from minisocks.relay.flow import Flow
from minisocks.relay.pair import Pair
from minisocks.server.server import SocksHandler
from minisocks.server.session import Session
from minisocks.values import ListenAddress
from minisocks.wire import Cd, Rep, Ver, packed_ip

__all__ = ["Script", "ScriptedProxy"]


#: The limit of ``no_reply``, because a client without a time limit would wait for ever.
SILENT_SECONDS = 30.0


class Script(NamedTuple):
    """What happens to each client that sends a request.  Fields can be combined."""

    #: REP of the reply, any byte; no target is dialed.  A SOCKS4 client gets the same number from
    #: 90 up, else 91.  0 looks like success, and then the connection ends.
    reply: Optional[int] = None
    #: Seconds between the outcome and its reply; not for UDP ASSOCIATE.
    delay: float = 0.0
    #: Only so many bytes of the reply, then FIN.
    truncate_reply: Optional[int] = None
    #: A reset after so many bytes from the target, which reach the client.
    drop_after: Optional[int] = None
    #: BND.ADDR and BND.PORT of a reply of success: HOST:PORT or [V6]:PORT.
    bnd: Optional[str] = None
    #: Never reply, and end the connection after so many seconds; True: ``SILENT_SECONDS``.
    no_reply: Union[bool, float] = False

    def checked(self) -> "Script":
        """Return self if its values can be used.

        Raises:
            ConfigError: a value is of the wrong kind or out of range.
        """
        for name, most in (("reply", 255), ("truncate_reply", 1 << 16), ("drop_after", 1 << 62)):
            value = getattr(self, name)
            if value is not None and not (type(value) is int and 0 <= value <= most):
                raise ConfigError(name, "%s=%r: no whole number up to %d" % (name, value, most))
        for name, value in (("delay", self.delay), ("no_reply", self.silence)):
            if type(value) not in (int, float) or not 0 <= value <= 3600:
                text = "%s=%r: no number of seconds up to 3600" % (name, getattr(self, name))
                raise ConfigError(name, text)
        self.address()
        return self

    @property
    def silence(self) -> float:
        """Seconds of silence instead of a reply; 0: it replies."""
        if isinstance(self.no_reply, bool):
            return SILENT_SECONDS if self.no_reply else 0.0
        return self.no_reply

    def address(self) -> Optional[Tuple[bytes, int]]:
        """Return ``bnd`` as the 4 or 16 bytes and the port.

        Raises:
            ConfigError: it is no address with a port.
        """
        if self.bnd is None:
            return None
        try:
            place = ListenAddress.parse(self.bnd)
            ip = packed_ip(place.host)
        except (AttributeError, ConfigError):
            ip = None
        if ip is None or self.bnd.isdigit():
            raise ConfigError("bnd", "bnd=%r: no IP address with a port" % (self.bnd,))
        return ip, place.port


_OTHERS = (*Config._fields, *Hooks._fields, "listeners", "resolver", "keep_records")


class ScriptedProxy(Proxy):
    """A ``Proxy`` on a free port of loopback that fails as its ``script`` says.

    Args:
        config: as for ``Proxy``.
        settings: fields of ``Script``; all others go to ``Proxy``, hooks included.

    ``script`` may be changed while it runs, for clients that connect afterwards.  Any thread.

    Raises:
        TypeError: no field and no setting has such a name.
        ConfigError: a value cannot be used.
    """

    def __init__(self, config: Optional[Config] = None, **settings: Any) -> None:
        script = {name: settings.pop(name) for name in Script._fields if name in settings}
        for name in settings:
            if name not in _OTHERS and closest(name, Script._fields):
                raise TypeError(
                    "no part of a script is called %r%s" % (name, closest(name, Script._fields))
                )
        if config is None:
            settings.setdefault("listen", "127.0.0.1:0")
        super().__init__(config, **settings)
        self.script = Script(**script)
        self.handler_type = self._handler_type()

    @property
    def script(self) -> Script:
        """How it fails.  With ``Script()`` it does not."""
        return self._script

    @script.setter
    def script(self, script: Script) -> None:
        """Set it, or raise ``ConfigError`` if a value cannot be used."""
        if not isinstance(script, Script):
            raise TypeError("a script is a Script, not %r" % type(script).__name__)
        self._script = script.checked()

    def _handler_type(self) -> Type[SocksHandler]:
        proxy = self

        class Handler(SocksHandler):
            """Serves one client by the script at the time when the client connects."""

            def make_session(self) -> Session:
                return _ScriptedSession(
                    self.server, self.request, self.client_address, proxy.script
                )

        return Handler


class _Scripted(HandshakeError):
    """The script wants this request refused."""

    def __init__(self, script: Script) -> None:
        self.code = script.reply or 0
        self.rep = Rep(self.code) if self.code in list(Rep) else Rep.GENERAL_FAILURE
        super().__init__("as the script wants: %s" % (script,))


class _ScriptedTalk(Handshake):
    """Replies to requests as the script wants."""

    __slots__ = ("script",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        #: Without a meaning until there is a request.
        self.script = Script()

    def listening(self, bnd_ip: bytes, bnd_port: int) -> bytes:
        bnd = self.script.address() or (bnd_ip, bnd_port)
        return super().listening(*bnd)[: self.script.truncate_reply]

    def success(self, bnd_ip: bytes, bnd_port: int, bnd_name: bytes = b"") -> bytes:
        bnd = self.script.address() or (bnd_ip, bnd_port)
        return super().success(*bnd, bnd_name)[: self.script.truncate_reply]

    def refusal(self, error: Exception) -> bytes:
        reply = super().refusal(error)
        if isinstance(error, _Scripted):
            code = error.code
            if self.ver == Ver.SOCKS4 and code < Cd.GRANTED:
                code = Cd.REJECTED
            reply = reply[:1] + bytes((code,)) + reply[2:]
        return reply[: self.script.truncate_reply]


class _ScriptedSession(Session):
    """A session that follows the script from the request on."""

    __slots__ = ("_script",)

    talk_type = _ScriptedTalk

    def __init__(self, server: Any, sock: socket.socket, peer: Any, script: Script) -> None:
        super().__init__(server, sock, peer)
        self._script = script

    def asked(self, request: Request) -> None:
        super().asked(request)
        assert isinstance(self.talk, _ScriptedTalk)
        self.talk.script = self._script
        if self._script.no_reply or self._script.reply is not None:
            raise _Scripted(self._script)

    def connected(self, upstream: socket.socket, via: Any, bnd: Any, early: bytes = b"") -> None:
        if self._script.delay:
            self._later(lambda: self._grant_late(upstream, via, bnd, early), upstream)
        else:
            self._grant(upstream, via, bnd, early)

    def answered(self, ip: bytes, name: bytes = b"") -> None:
        if self._script.delay:
            self._later(lambda: Session.answered(self, ip, name))
        else:
            super().answered(ip, name)

    def listening(self, ip: bytes, port: int) -> None:
        super().listening(ip, port)
        self._end_if_truncated()

    def associated(self, ip: bytes, port: int) -> None:
        super().associated(ip, port)
        self._end_if_truncated()

    def _end_if_truncated(self) -> None:
        if self._script.truncate_reply is not None:
            self.sock.shutdown(socket.SHUT_WR)

    def refuse(self, error: Exception) -> None:
        if self.record.request is None:
            super().refuse(error)
        elif self._script.no_reply:
            self.submit(_Pause(self, self._script.silence, self._end_silence, discards=True))
        elif self._script.delay:
            self._later(lambda: Session.refuse(self, error))
        else:
            super().refuse(error)

    def pair(self, upstream: socket.socket) -> Pair:
        if self._script.drop_after is None:
            return super().pair(upstream)
        early = self.talk.trailing_data()
        loop, most = self.services.loop, self._script.drop_after
        return _DroppingPair(loop, self.sock, upstream, self.record, early, self.mask, most)

    def _grant(self, upstream: socket.socket, via: Any, bnd: Any, early: bytes) -> None:
        if self._script.truncate_reply is None:
            super().connected(upstream, via, bnd, early)
            return
        close_quietly(upstream)
        self.record.granted(via[0])
        reply = self.talk.success(packed_ip(bnd[0]) or b"", bnd[1])
        self.record.finish("scripted")
        self.reply_and_close(reply)

    def _grant_late(self, upstream: socket.socket, via: Any, bnd: Any, early: bytes) -> None:
        try:
            self._grant(upstream, via, bnd, early)
        except OSError as exc:
            close_quietly(upstream)
            self.client_left(exc)

    def _end_silence(self) -> None:
        self.record.why = "no reply for %g s, as the script wants" % self._script.silence
        self.record.finish("scripted")
        self.reply_and_close(b"")

    def _later(self, then: Callable[[], None], upstream: Optional[socket.socket] = None) -> None:
        self.submit(_Pause(self, self._script.delay, then, upstream))


class _Pause(Job):
    """A client that waits for a reply, or for the end, for some seconds."""

    __slots__ = ("_discards", "_seconds", "_session", "_then", "_upstream")

    def __init__(
        self,
        session: Session,
        seconds: float,
        then: Callable[[], None],
        upstream: Optional[socket.socket] = None,
        discards: bool = False,
    ) -> None:
        self._session = session
        self._seconds = seconds
        self._then = then
        #: Data of the client is kept for its target, unless there will be none.
        self._discards = discards
        self._upstream = upstream

    def begin(self) -> None:
        """Start the timer."""
        session, loop = self._session, self._session.services.loop
        session.watch(READ if self._discards else 0, self)
        loop.call_later(self._seconds, self, self._over)

    def on_ready(self, fd: int, mask: int) -> None:
        """Note whether the client has closed the connection."""
        try:
            if self._discards and self._session.sock.recv_into(self._session.services.loop.buffer):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._end()
        self._session.client_left(ConnectionResetError("the client left before the script replied"))

    def abort(self, why: str) -> None:
        """Close both connections, because the proxy ends."""
        self._end()
        self._session.abort(why)

    def _over(self) -> None:
        self._session.services.loop.done(self)
        self._then()

    def _end(self) -> None:
        self._session.services.loop.done(self)
        if self._upstream is not None:
            close_quietly(self._upstream)


class _DroppingPair(Pair):
    """A pair whose target is reset after so many bytes."""

    __slots__ = ("_left",)

    may_splice = False  # it counts the bytes

    def __init__(self, *args: Any) -> None:
        super().__init__(*args[:-1])
        self._left: int = args[-1]

    def begin(self) -> None:
        """Begin; if the limit is 0 bytes, reset at once."""
        super().begin()
        if not self._left:
            self._drop()
            self._update()

    def _push(self, flow: Flow, data: Union[memoryview, Pipe]) -> None:
        if flow is not self._down or isinstance(data, Pipe):
            super()._push(flow, data)
            return
        before = self._record.down
        super()._push(flow, data[: self._left] if len(data) > self._left else data)
        self._left -= self._record.down - before
        if not self._left and not flow.eof:
            self._drop()

    def _drop(self) -> None:
        self._reset(self._down, "reset")
