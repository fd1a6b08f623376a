"""A SOCKS4 client that waits until its identd has said who it is: in the loop, without a thread."""

import errno
import os
import socket
import time
from typing import Any, Optional, Tuple

from minisocks.compat import READ, WRITE, bind_late, connect_result
from minisocks.errors import DialError, HandshakeError, IdentMismatch, NoIdentd
from minisocks.handshake import Request
from minisocks.identity import MAX_LINE_BYTES, check_user_id, encode_query, first_line
from minisocks.loop import Job, Timer
from minisocks.room import with_room
from minisocks.session import Session
from minisocks.wire import Rep, plain_ip, text_ip

__all__ = ["Inquiry"]

#: Where an identd listens (RFC 1413 section 3).
IDENT_PORT = 113
#: To connect, and then again for the answer: a client should wait at least so long
#: (section 4).  What it takes is of the two minutes that the client's request has.
SECONDS = 30.0

_HUNG_UP = "its identd hung up without an answer"


class Inquiry(Job):
    """One question to one identd; the session is its own until it is answered.

    ::

        connect, from the address that the client has reached -> ask -> first line -> go on

    Not by ``--source`` and the like: it goes to a client, not to a target.
    """

    __slots__ = (
        "_answer",
        "_has_asked",
        "_is_counted",
        "_peer",
        "_place",
        "_reached",
        "_request",
        "_session",
        "_since",
        "_sock",
        "_timer",
    )

    def __init__(self, session: Session, request: Request) -> None:
        self._session = session
        self._request = request
        self._since = time.monotonic()
        # Now: of a connection that is reset meanwhile nobody knows them any more.
        self._reached, self._peer = session.sock.getsockname(), session.sock.getpeername()
        self._sock: Optional[socket.socket] = None
        self._timer: Optional[Timer] = None
        self._place: Tuple[Any, ...] = ()
        self._is_counted = self._has_asked = False
        self._answer = b""

    def begin(self) -> None:
        """Connect."""
        session = self._session
        # Nothing is read from the client meanwhile; mask 0 still tells a reset.
        session.watch(0, self)
        self._start_timer()
        try:
            most = max(1, session.services.config.max_handshakes // 2)
            session.services.inquiries.enter(session.client, most, " (--max-handshakes)")
            self._is_counted = True
            self._connect()
        except (HandshakeError, DialError) as exc:
            self._refuse(exc)
        except OSError as exc:
            self._refuse(self._no_identd(exc))

    def on_ready(self, fd: int, mask: int) -> None:
        """Go on with the question; or the client has reset its connection, so forget it."""
        if fd == self._session.fd:
            self._release()
            self._session.gone(ConnectionResetError("the client left while its identd was asked"))
            return
        try:
            if self._has_asked:
                self._read()
            else:
                self._ask()
        except HandshakeError as exc:
            self._refuse(exc)

    def abort(self, why: str) -> None:
        """Give up and close; the proxy ends."""
        self._release()
        self._session.abort(why)

    def _connect(self) -> None:
        """Begin to.

        Raises:
            NoIdentd: a client on a unix socket has none.
            DialError: there is no descriptor.
            OSError: there is no way.
        """
        client = self._session.client
        if not client.ip:
            raise NoIdentd("a client on a unix socket has no identd to ask")
        ours: Tuple[Any, ...] = (text_ip(plain_ip(self._reached[0])), 0)
        self._place, family = (text_ip(client.ip), IDENT_PORT), socket.AF_INET
        if len(client.ip) == 16:
            # Each with its scope: a link-local address is one only with that.
            ours, self._place = ours + self._reached[2:], self._place + self._peer[2:]
            family = socket.AF_INET6
        self._sock = self._new_socket(family)
        self._sock.setblocking(False)
        bind_late(self._sock, ours)
        code = self._sock.connect_ex(self._place)
        if code not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
            raise OSError(code, os.strerror(code))
        self._session.services.loop.watch(self._sock.fileno(), WRITE, self)

    def _new_socket(self, family: int) -> socket.socket:
        pipes = self._session.services.loop.pipes  # the spare ones have descriptors
        try:
            return with_room(
                lambda: socket.socket(family, socket.SOCK_STREAM), pipes.close_spare
            )
        except OSError as exc:
            why = "its identd was not asked: %s" % exc.strerror
            raise DialError(why, Rep.GENERAL_FAILURE) from exc

    def _ask(self) -> None:
        """Send the question, if it is connected by now.

        Raises:
            NoIdentd: it never will be.
        """
        session, sock = self._session, self._sock
        assert sock is not None
        code = connect_result(sock, self._place)
        if code == errno.EINPROGRESS:
            return
        if code:
            raise self._no_identd(OSError(code, os.strerror(code)))
        self._has_asked = True
        try:
            sock.send(encode_query(*self._ports()))
        except OSError as exc:
            raise IdentMismatch(_HUNG_UP) from exc
        self._start_timer()
        session.services.loop.watch(sock.fileno(), READ, self)

    def _read(self) -> None:
        """Read as much of the answer as there is; go on with the client once it is whole.

        Raises:
            IdentMismatch: it does not say that it is who it says.
        """
        assert self._sock is not None
        try:
            data = self._sock.recv(MAX_LINE_BYTES - len(self._answer))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._answer += data
        line = first_line(self._answer)
        if line is not None:
            check_user_id(line, *self._ports(), self._request.userid)
            self._confirmed()
        elif not data:
            # As if it had said UNKNOWN-ERROR (section 4).
            raise IdentMismatch(_HUNG_UP)

    def _ports(self) -> Tuple[int, int]:
        """Return the two that it is asked about, the one of its own host first."""
        return self._session.client.port, self._reached[1]

    def _confirmed(self) -> None:
        self._release()
        session = self._session
        session.identity = self._request.userid
        session.services.resume(session)

    def _no_identd(self, exc: OSError) -> NoIdentd:
        host = self._session.client.host
        return NoIdentd("no identd at %s: %s" % (host, exc.strerror or exc))

    def _too_late(self) -> None:
        if self._has_asked:
            host = self._session.client.host
            self._refuse(NoIdentd("the identd at %s did not answer in time" % host))
        else:
            self._refuse(self._no_identd(OSError(errno.ETIMEDOUT, "no answer in time")))

    def _refuse(self, error: Exception) -> None:
        self._release()
        self._session.refuse(error)

    def _start_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._session.services.loop.call_later(SECONDS, self, self._too_late)

    def _release(self) -> None:
        """Give back all but the client's socket."""
        session = self._session
        session.waited += time.monotonic() - self._since
        if self._timer is not None:
            self._timer.cancel()
        if self._is_counted:
            session.services.inquiries.leave(session.client)
            self._is_counted = False
        if self._sock is not None:
            session.services.loop.close_later(self._sock)
        session.services.loop.done(self)
