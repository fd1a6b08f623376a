"""One thread's turn with one client: read, answer, until the request is clear.

The only code that blocks for a client, and never longer than it may.
"""
import logging
import socket
from typing import Callable, Dict, Optional, Type

from minisocks.connect import Connect
from minisocks.errors import DialError, HandshakeError, RefusedByRules, UnsupportedCommand
from minisocks.handshake import Credentials, Request
from minisocks.session import Session
from minisocks.wire import Cmd

__all__ = ["COMMANDS", "negotiate"]

log = logging.getLogger("minisocks")

#: One read. A handshake is shorter; what a client sends behind it goes on to
#: the target, so a large read only saves one of the relay's.
READ_BYTES = 4096

# A read that timed out, or would have had to wait with no patience at all.
_NOT_YET = (socket.timeout, BlockingIOError)

#: Who carries out which CMD.
COMMANDS = {Cmd.CONNECT: Connect}  # type: Dict[int, Type[Connect]]


def negotiate(session: Session, patience: Callable[[], float]) -> None:
    """Take *session* as far as its client lets us; afterwards somebody else owns it.

    *patience* returns how many seconds a wait for the client may take; when
    they have passed the session is parked.  Turns every error into a reply.
    Thread: a handler's.
    """
    try:
        request = _converse(session, patience)
        if request is None:
            session.services.park(session)
        else:
            _carry_out(session, request)
    except (HandshakeError, DialError) as exc:
        session.refuse(exc)
    except OSError as exc:
        session.gone(exc)
    except Exception as exc:  # our bug: answer, write it down, serve the others
        log.exception("id=%d handshake failed", session.record.id)
        session.refuse(exc)


def _converse(session: Session, patience: Callable[[], float]) -> Optional[Request]:
    """Return the client's request, or None when it lets us wait."""
    talk, sock = session.talk, session.sock
    while True:
        event = talk.next_event()
        answer = talk.data_to_send()
        if answer:
            session.send(answer)
        if isinstance(event, Request):
            return event
        if isinstance(event, Credentials):
            _check(session, event)
            continue
        sock.settimeout(min(patience(), session.deadline.remaining()))
        try:
            talk.receive_data(sock.recv(READ_BYTES))
        except _NOT_YET:
            return None


def _check(session: Session, credentials: Credentials) -> None:
    ok = session.services.users.verify(credentials)
    if ok:
        session.client.user = credentials.user
    session.talk.credentials_checked(ok)


def _carry_out(session: Session, request: Request) -> None:
    session.record.request = request
    decision = session.services.rules.admits(session.client)
    if not decision.allowed:
        raise RefusedByRules(decision.reason)
    command = COMMANDS.get(request.cmd)
    if command is None:
        raise UnsupportedCommand("%s is not supported" % Cmd(request.cmd).name)
    command(session, request).start()
