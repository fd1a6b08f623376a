"""Ask the host of a SOCKS4 client who the client is (RFC 1413), in its handler thread."""

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
#: To connect, and then again for the answer: a client should wait at least so long
#: (section 4).  What it takes is of the two minutes that the client's request has.
SECONDS = 30.0

NOBODY_TO_ASK = "there is no identd to ask for a client on a unix socket or behind a forwarder"
_HUNG_UP = "its identd hung up without an answer"


def confirm(conn: ClientSocket, userid: bytes, make_room: Callable[[], bool]) -> None:
    """Go on if the client's identd says that *userid* has this connection.

    Not by ``--source`` and the like: the question goes to a client, not to a target.

    Args:
        make_room: called when there is no descriptor; whether it has closed some.

    Raises:
        NoIdentd: none answers.
        IdentMismatch: it says something else.
        DialError: there is no descriptor to ask with.
        HandshakeError: another thread has ended the handshake.
        OSError: the client has left.
    """
    client = conn.client
    if not client.has_address:
        raise NoIdentd(NOBODY_TO_ASK)
    reached, peer = conn.sock.getsockname(), conn.sock.getpeername()
    # Each with its scope: a link-local address is one only with that.
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
        return with_room(lambda: socket.socket(family, socket.SOCK_STREAM), make_room)
    except OSError as exc:
        why = "its identd was not asked: %s" % exc.strerror
        raise DialError(why, Rep.GENERAL_FAILURE) from exc


def _connect(conn: ClientSocket, sock: socket.socket, ours: Any, place: Any) -> None:
    """Connect *sock* from *ours*, the address that the client has reached, to *place*.

    Raises:
        NoIdentd: it cannot be.
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
    """Return the first line that the identd says about *ports*, the one of its host first.

    Raises:
        NoIdentd: it says none in time.
        IdentMismatch: it closes without one, as if it had said UNKNOWN-ERROR (section 4).
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
