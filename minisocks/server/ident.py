"""Ask the host of a SOCKS4 client for the user of its connection (RFC 1413)."""

import errno
import os
import socket
import time
from typing import Any, Callable, Tuple

from minisocks.compat import READ, WRITE, bind_late, close_quietly, connect_result
from minisocks.errors import DialError, IdentMismatch, NoIdentd
from minisocks.net.capacity import with_room
from minisocks.protocol.identity import MAX_LINE_BYTES, check_user_id, encode_query, first_line
from minisocks.server.clientsocket import ClientSocket
from minisocks.wire import Rep, plain_ip, text_ip

__all__ = ["NOBODY_TO_ASK", "confirm"]

#: Where an identd listens (RFC 1413 section 3).
IDENT_PORT = 113
#: To connect, and once more for the answer, because section 4 asks for at least 30 s.  The
#: time counts for the client's request.
SECONDS = 30.0

NOBODY_TO_ASK = "there is no identd to ask for a client on a unix socket or behind a forwarder"
_HUNG_UP = "its identd hung up without an answer"


def confirm(conn: ClientSocket, userid: bytes, make_room: Callable[[], bool]) -> None:
    """Check that the client's identd names *userid* as the user of this connection.

    Ignores ``--source`` and the like, because the identd is the client's, not a target.
    Thread: a handler's.

    Args:
        make_room: called without a descriptor; returns whether it has closed some.

    Raises:
        NoIdentd: no identd answers.
        IdentMismatch: it names another user.
        DialError: there is no descriptor for the question.
        HandshakeError: another thread has ended the handshake.
        OSError: the client has left.
    """
    client = conn.client
    if not client.has_address:
        raise NoIdentd(NOBODY_TO_ASK)
    reached, peer = conn.sock.getsockname(), conn.sock.getpeername()
    # With the scope, which a link-local address needs.
    ours: Tuple[Any, ...] = (text_ip(plain_ip(reached[0])), 0)
    place: Tuple[Any, ...] = (text_ip(client.ip), IDENT_PORT)
    family = socket.AF_INET
    if len(client.ip) == 16:
        ours, place, family = ours + reached[2:], place + peer[2:], socket.AF_INET6
    sock = _new_socket(family, make_room)
    try:
        _connect(conn, sock, ours, place)
        ports = client.port, reached[1]
        check_user_id(_ask(conn, sock, ports), *ports, userid)
    finally:
        close_quietly(sock)


def _new_socket(family: int, make_room: Callable[[], bool]) -> socket.socket:
    try:
        return with_room(make_room, socket.socket, family, socket.SOCK_STREAM)
    except OSError as exc:
        why = "its identd was not asked: %s" % exc.strerror
        raise DialError(why, Rep.GENERAL_FAILURE) from exc


def _connect(conn: ClientSocket, sock: socket.socket, ours: Any, place: Any) -> None:
    """Connect *sock* from *ours*, the address that the client has reached, to *place*.

    Raises:
        NoIdentd: there is no connection in time.
    """
    until = time.monotonic() + SECONDS
    sock.setblocking(False)
    try:
        bind_late(sock, ours)
        code = sock.connect_ex(place)
    except OSError as exc:
        code = exc.errno or errno.EINVAL
    while code in (errno.EINPROGRESS, errno.EWOULDBLOCK):
        try:
            conn.wait_for(sock, WRITE, until)
        except socket.timeout:
            raise NoIdentd("no identd at %s: no answer in time" % conn.client.host) from None
        code = connect_result(sock, place)
    if code:
        raise NoIdentd("no identd at %s: %s" % (conn.client.host, os.strerror(code)))


def _ask(conn: ClientSocket, sock: socket.socket, ports: Tuple[int, int]) -> bytes:
    """Return the first line of the answer about *ports*, the client's port first.

    Raises:
        NoIdentd: no line comes in time.
        IdentMismatch: the identd closes before, which means UNKNOWN-ERROR (section 4).
    """
    until = time.monotonic() + SECONDS
    answer, line = b"", None
    try:
        sock.send(encode_query(*ports))
    except OSError as exc:
        raise IdentMismatch(_HUNG_UP) from exc
    while line is None:
        try:
            conn.wait_for(sock, READ, until)
        except socket.timeout:
            why = "the identd at %s did not answer in time" % conn.client.host
            raise NoIdentd(why) from None
        try:
            data = sock.recv(MAX_LINE_BYTES - len(answer))
        except BlockingIOError:
            continue
        except OSError:
            data = b""
        if not data:
            raise IdentMismatch(_HUNG_UP)
        answer += data
        line = first_line(answer)
    return line
