"""The client side of one handshake: a request to another proxy, and the reply of that one.

As ``handshake``, which is the server side: call ``receive_data``, then ``next_event`` until it
returns a ``Reply``, and send what ``data_to_send`` returns.  Any bytes, cut anywhere, give a reply
or one of the errors documented here.  No socket, thread or clock.

::

    socks5, socks5h   greeting -> METHOD -> password -> request -> reply      RFC 1928, RFC 1929
    socks4, socks4a   request -> reply
    http              CONNECT -> status and header fields                     RFC 9110 section 9.3.6
"""

import re
import struct
from typing import Generator, NamedTuple, Optional, Tuple

from minisocks.errors import CannotCarry, ExitFailed, ProtocolError, UnsupportedAddressType
from minisocks.protocol.messages import AUTH_VERSION, Stream, parse_address
from minisocks.wire import (
    MAX_FIELD_BYTES,
    Address,
    Atyp,
    Cd,
    Cmd,
    Method,
    Rep,
    Ver,
    is_host_name,
    packed_ip,
)

__all__ = ["ClientSide", "Reply"]

#: Most bytes of the header fields of HTTP, those of all 1xx responses together, before CONNECT's
#: reply counts as garbage.
MAX_HEAD_BYTES = 16384

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [^\r\n]*)?\r?\n")
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
#: What may stand in a name that a proxy looks up.  Nothing that ends a line or a word of HTTP, and
#: nothing that resolvers take for another name than the rules were asked about: many C libraries
#: read \097 as "a" and ignore what is behind a blank, others map letters that are not ASCII.
_NAME = re.compile(rb"[A-Za-z0-9._~-]+\Z")
#: The last label of an address in any notation, such as 127.0.0.1 with a final dot, and of no name.
_NUMBER = re.compile(rb"[0-9]+\Z|0[Xx][0-9A-Fa-f]*\Z")

#: What a status of HTTP says about the target.
_HTTP_REPS = {403: Rep.NOT_ALLOWED, 504: Rep.TTL_EXPIRED}
#: What refuses the login.  401 is for targets, which do not speak yet; tinyproxy sends it.
_HTTP_LOGIN = (401, 407)
_ANY_V4 = Address(b"0.0.0.0", 0, Atyp.IPV4)


class Reply(NamedTuple):
    """A reply about the target.

    ``rep`` is the REP as the proxy sent it, or the one that means the same; ``bnd`` is BND, where
    the protocol has one; ``said`` is the reply in words, for the log.
    """

    rep: Rep
    bnd: Address = _ANY_V4
    said: str = ""

    @property
    def bnd_sockaddr(self) -> Optional[Tuple[str, int]]:
        """BND as a sockaddr; None if it is a name, or unspecified."""
        ip = packed_ip(self.bnd.name) if self.bnd.atyp != Atyp.DOMAINNAME else b""
        return (self.bnd.name, self.bnd.port) if ip and any(ip) else None


_Steps = Generator[Optional[Reply], None, None]


class ClientSide:
    """One handshake with a proxy, as its client.

    Args:
        scheme: socks5, socks5h, socks4, socks4a or http.
        cmd: CMD of the request.
        dst: the target; None: ask for nothing.  Then the reply comes as soon as the proxy has
            logged us in, at once where its protocol has no login before the request.
        user: for SOCKS4 the USERID; empty: none.
        must_log_in: offer no other METHOD than the password, because the user keeps clients apart.

    Thread: one at a time.

    Raises:
        CannotCarry: the protocol has no such command, or cannot carry *dst*; nothing is sent then.
    """

    __slots__ = (
        *("_out", "_steps", "_stream", "eof", "has_logged_in", "has_more", "is_answered"),
        *("is_asked", "is_connect"),
    )

    def __init__(
        self,
        scheme: str,
        cmd: int,
        dst: Optional[Address],
        user: bytes = b"",
        password: bytes = b"",
        must_log_in: bool = False,
    ) -> None:
        self._out = b""
        self._stream = Stream()
        #: Whether the proxy has closed.
        self.eof = False
        #: Whether the proxy has logged us in, and gets the request.
        self.is_asked = False
        #: Whether a byte has come since.
        self.is_answered = False
        #: Whether the proxy has asked for user and password, and taken them.
        self.has_logged_in = False
        #: Whether it is a request to connect.
        self.is_connect = cmd == Cmd.CONNECT
        #: Whether a second reply follows, as with BIND.
        self.has_more = cmd == Cmd.BIND
        if dst is None:
            self._steps = self._only_log_in(scheme, user, password, must_log_in)
        elif scheme == "http":
            self._steps = self._http(_http_request(cmd, dst, user, password))
        elif scheme in ("socks4", "socks4a"):
            self._steps = self._socks4(_socks4_request(scheme, cmd, dst, user))
        else:
            request = bytes((Ver.SOCKS5, cmd, 0)) + encode_address(dst)
            self._steps = self._socks5(cmd, request, user, password, must_log_in)

    def receive_data(self, data: bytes) -> None:
        """Take bytes as the network delivers them; empty means end of stream."""
        if data:
            self.is_answered = self.is_asked
            self._stream += data
        else:
            self.eof = True

    def next_event(self) -> Optional[Reply]:
        """Return the reply, or None when more bytes are needed.  BIND has two replies.

        Raises:
            ExitFailed: the proxy refuses the client, or sends what is no reply, or closes.
        """
        try:
            event = next(self._steps)
        except StopIteration:
            return None
        except (ProtocolError, UnsupportedAddressType) as exc:
            raise ExitFailed("its reply is not valid: %s" % exc) from None
        if event is None and self.eof:
            raise ExitFailed("it closed without a whole reply")
        return event

    def data_to_send(self) -> bytes:
        """Return what must be sent now, once."""
        out, self._out = self._out, b""
        return out

    def trailing_data(self) -> bytes:
        """Return the bytes behind the reply, once: the target has sent them."""
        return self._stream.take()

    def stop_parsing(self) -> None:
        """Close the parser when no more is fed, because the two refer to each other."""
        self._steps.close()

    def _ask(self, request: bytes) -> None:
        self._out += request
        self.is_asked = True

    def _only_log_in(self, scheme: str, user: bytes, password: bytes, must_log_in: bool) -> _Steps:
        if scheme.startswith("socks5"):
            yield from self._log_in(user, password, must_log_in)
        yield Reply(Rep.SUCCEEDED)

    def _log_in(
        self, user: bytes, password: bytes, must_log_in: bool
    ) -> Generator[None, None, None]:
        methods = bytes((Method.NO_AUTHENTICATION,) * (not must_log_in))
        methods += bytes((Method.USERNAME_PASSWORD,) * bool(user))
        self._out += bytes((Ver.SOCKS5, len(methods))) + methods
        version, method = yield from self._stream.read_exact(2)
        if version != Ver.SOCKS5:
            raise ExitFailed("it is no SOCKS5 proxy: its answer begins with 0x%02x" % version)
        if method == Method.NO_ACCEPTABLE:
            needs = "takes no login by password" if user else "needs a user and password"
            raise ExitFailed("it %s (METHOD FF)" % needs)
        if method not in methods:
            raise ExitFailed("it chose METHOD %02x, which was not offered" % method)
        if method == Method.USERNAME_PASSWORD:
            self._out += b"%c%c%b%c%b" % (AUTH_VERSION, len(user), user, len(password), password)
            _version, status = yield from self._stream.read_exact(2)
            if status:
                raise ExitFailed("it refuses user and password (status %d)" % status)
            self.has_logged_in = True

    def _socks5(
        self, cmd: int, request: bytes, user: bytes, password: bytes, must_log_in: bool
    ) -> _Steps:
        yield from self._log_in(user, password, must_log_in)
        self._ask(request)
        reply = yield from self._reply5()
        _check_answer(cmd, reply)
        yield reply
        if self.has_more:
            self.has_more = False
            yield (yield from self._reply5())

    def _reply5(self) -> Generator[None, None, Reply]:
        version, rep = yield from self._stream.read_exact(2)
        if version != Ver.SOCKS5:
            raise ExitFailed("its reply begins with 0x%02x, not with 0x05" % version)
        said = "REP %02x" % rep
        if rep:
            # Some proxies send fewer bytes with a failure, and the others are of no use.
            return Reply(Rep(rep), said=said)
        yield from self._stream.read_exact(1)
        return Reply(Rep.SUCCEEDED, (yield from parse_address(self._stream)), said)

    def _socks4(self, request: bytes) -> _Steps:
        self._ask(request)
        yield (yield from self._reply4())
        if self.has_more:
            self.has_more = False
            yield (yield from self._reply4())

    def _reply4(self) -> Generator[None, None, Reply]:
        version, cd, port, ip = struct.unpack("!BBH4s", (yield from self._stream.read_exact(8)))
        said = "CD %d" % cd
        # The memo wants 0; some proxies send 4.
        if version not in (0, Ver.SOCKS4) or not Cd.GRANTED <= cd <= Cd.IDENTD_MISMATCH:
            raise ExitFailed(
                "it is no SOCKS4 proxy: its reply begins with %02x %02x" % (version, cd)
            )
        if cd in (Cd.NO_IDENTD, Cd.IDENTD_MISMATCH):
            raise ExitFailed("it wants an identd of this host to name the user (%s)" % said)
        rep = Rep.SUCCEEDED if cd == Cd.GRANTED else Rep.GENERAL_FAILURE
        return Reply(rep, Address.of_ip(ip, port), said)

    def _http(self, request: bytes) -> _Steps:
        self._ask(request)
        status, most = 100, MAX_HEAD_BYTES
        while status < 200:  # 1xx: the reply is still to come
            status, size = yield from self._http_head(most)
            most -= size
        if status in _HTTP_LOGIN:
            raise ExitFailed("it needs another user or password (HTTP status %d)" % status)
        rep = Rep.SUCCEEDED if status < 300 else _HTTP_REPS.get(status, Rep.GENERAL_FAILURE)
        yield Reply(rep, said="HTTP status %d" % status)

    def _http_head(self, most: int) -> Generator[None, None, Tuple[int, int]]:
        """Read status line and header fields, of *most* bytes; return the status and their size."""
        buffer, searched = self._stream, 0
        while True:
            begin = bytes(buffer[:5])
            if not b"HTTP/".startswith(begin):
                raise ExitFailed("it is no HTTP proxy: its answer begins with 0x%02x" % begin[0])
            # Not from the beginning each time, because the bytes may come one by one.
            end = _END_OF_HEAD.search(buffer, searched, most)
            if end is not None:
                break
            searched = max(0, len(buffer) - len(b"\r\n\r"))
            if len(buffer) >= most:
                raise ExitFailed("its reply has more than %d bytes" % MAX_HEAD_BYTES)
            yield
        head = yield from self._stream.read_exact(end.end())
        found = _STATUS.match(head)
        if found is None:
            raise ExitFailed("its answer is no reply of HTTP/1.1")
        return int(found.group(1)), len(head)


def _check_answer(cmd: int, reply: Reply) -> None:
    """Check that the *reply* to a look-up has what was asked for.

    Raises:
        ExitFailed: it has not.
    """
    bnd = reply.bnd
    if reply.rep != Rep.SUCCEEDED:
        return
    if cmd == Cmd.RESOLVE and (bnd.atyp == Atyp.DOMAINNAME or bnd.is_any_peer):
        raise ExitFailed("its reply to RESOLVE has no address")
    # The owner of an address chooses its name: bytes that no name of a host has are not passed on.
    if cmd == Cmd.RESOLVE_PTR and not (bnd.atyp == Atyp.DOMAINNAME and is_host_name(bnd.host)):
        raise ExitFailed("its reply to RESOLVE_PTR has no name of a host")


def encode_address(dst: Address) -> bytes:
    """Return ATYP, DST.ADDR and DST.PORT (RFC 1928 section 5).

    Raises:
        CannotCarry: it is a name, and not one that hosts have.
    """
    port = struct.pack("!H", dst.port)
    if dst.atyp != Atyp.DOMAINNAME:
        return bytes((dst.atyp,)) + (packed_ip(dst.host.decode("ascii")) or b"") + port
    _check_name(dst)
    return bytes((Atyp.DOMAINNAME, len(dst.host))) + dst.host + port


def _check_name(dst: Address) -> None:
    name = dst.host
    last = name.rstrip(b".").rpartition(b".")[2]
    if not _NAME.match(name) or len(name) > MAX_FIELD_BYTES or not last or _NUMBER.match(last):
        why = "%s is no name of a host that another proxy can look up" % (dst,)
        raise CannotCarry(why, Rep.HOST_UNREACHABLE)


def _socks4_request(scheme: str, cmd: int, dst: Address, user: bytes) -> bytes:
    if cmd not in (Cmd.CONNECT, Cmd.BIND):
        raise CannotCarry("SOCKS4 has no UDP and no look-ups", Rep.COMMAND_NOT_SUPPORTED)
    ip, name = b"\0\0\0\1", b""
    if dst.atyp == Atyp.DOMAINNAME and scheme == "socks4a":
        _check_name(dst)
        name = dst.host + b"\0"
    else:
        ip = packed_ip(dst.name) or b""
    if len(ip) != 4:
        raise CannotCarry(
            "%s carries no IPv6 addresses" % scheme.upper(), Rep.ADDRESS_TYPE_NOT_SUPPORTED
        )
    return struct.pack("!BBH4s", Ver.SOCKS4, cmd, dst.port, ip) + user + b"\0" + name


def _http_request(cmd: int, dst: Address, user: bytes, password: bytes) -> bytes:
    if cmd != Cmd.CONNECT:
        raise CannotCarry("HTTP has CONNECT only", Rep.COMMAND_NOT_SUPPORTED)
    host = dst.host
    if dst.atyp == Atyp.IPV6:
        host = b"[" + host + b"]"
    elif dst.atyp == Atyp.DOMAINNAME:
        _check_name(dst)
    place = b"%b:%d" % (host, dst.port)
    lines = [b"CONNECT %b HTTP/1.1" % place, b"Host: " + place]
    if user:
        from binascii import b2a_base64

        login = b2a_base64(user + b":" + password, newline=False)
        lines.append(b"Proxy-Authorization: Basic " + login)
    return b"\r\n".join([*lines, b"", b""])
