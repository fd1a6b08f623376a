"""One thread's turn with one client: read, answer, until the request is clear.

The only code that blocks for a client, and never longer than it may.
"""

import socket
import time
from typing import Dict, Optional, Type

from minisocks.client import Client
from minisocks.compat import log_bug, unblock
from minisocks.connect import Connect
from minisocks.errors import DialError, HandshakeError, RefusedByRules, UnsupportedCommand
from minisocks.handshake import Credentials, Request
from minisocks.hooks import ProxyRequest, demand_yes_or_no
from minisocks.session import Session
from minisocks.wire import Cmd

__all__ = ["COMMANDS", "Turn", "negotiate"]

#: One read. A handshake is shorter; what a client sends behind it goes on to
#: the target, so a large read only saves one of the relay's.
READ_BYTES = 4096

#: Who carries out which CMD.
COMMANDS: Dict[int, Type[Connect]] = {Cmd.CONNECT: Connect}


class Turn:
    """What a handler thread must ask before it waits; the pool is one."""

    def before_wait(self) -> float:
        """Return how many seconds a wait for the client may take; 0: none."""
        raise NotImplementedError

    def before_hook(self, client: Client) -> None:
        """Say that this thread will be busy for a while, for *client*.

        Raises:
            HookFailed: it may not be.
        """
        raise NotImplementedError


def negotiate(session: Session, turn: Turn) -> None:
    """Take *session* as far as its client lets us; afterwards somebody else owns it.

    A client that is slow is parked.  Turns every error into a reply.
    Thread: a handler's.
    """
    try:
        request = _converse(session, turn)
        if request is None:
            session.services.park(session)
        else:
            _carry_out(session, request, turn)
    except (HandshakeError, DialError) as exc:
        session.refuse(exc)
    except OSError as exc:
        session.gone(exc)
    except Exception as exc:  # noqa: BLE001  # our bug: answer, and serve others
        log_bug("id=%d handshake failed", session.record.id)
        session.refuse(exc)


def _converse(session: Session, turn: Turn) -> Optional[Request]:
    """Return the client's request, or None when it lets us wait."""
    talk = session.talk
    while True:
        event = talk.next_event()
        answer = talk.data_to_send()
        if answer:
            session.send(answer)
        if isinstance(event, Request):
            return event
        if isinstance(event, Credentials):
            _check(session, event, turn)
        else:
            data = _receive(session, turn)
            if data is None:
                return None
            talk.receive_data(data)


def _receive(session: Session, turn: Turn) -> Optional[bytes]:
    """Return what the client says, empty at its end; None: nothing yet."""
    sock = session.sock
    left = session.deadline.remaining()
    try:
        unblock(sock)
        return sock.recv(READ_BYTES)
    except BlockingIOError:
        # Once too slow, it is waited for without a thread until it is done.
        patience = 0.0 if session.is_slow else turn.before_wait()
    if patience:
        sock.settimeout(min(patience, left))
        try:
            return sock.recv(READ_BYTES)
        except socket.timeout:
            pass
    session.is_slow = True
    return None


def _check(session: Session, credentials: Credentials, turn: Turn) -> None:
    users, began = session.services.users, time.monotonic()
    if users.may_take_long:
        turn.before_hook(session.client)
    ok = users.verify(credentials, session.client)
    session.deadline.extend(time.monotonic() - began)
    if ok:
        session.client.user = credentials.user
    session.talk.credentials_checked(ok)


def _carry_out(session: Session, request: Request, turn: Turn) -> None:
    rules, client = session.services.rules, session.client
    session.asked(request)
    rules.admits(client).demand()
    command = COMMANDS.get(request.cmd)
    if command is None:
        raise UnsupportedCommand("%s is not supported" % Cmd(request.cmd).name)
    rules.allows_name(client, request.dst).demand()
    _authorize(session, request, turn)
    if session.services.stopping:
        session.abort("shutdown")  # a hook was slower than the end
    else:
        command(session, request).start()


def _authorize(session: Session, request: Request, turn: Turn) -> None:
    hook, client = session.services.hooks.authorize, session.client
    if hook is None:
        return
    turn.before_hook(session.client)
    if not demand_yes_or_no("authorize", client, hook, ProxyRequest.of(client, request)):
        raise RefusedByRules("refused by the program's authorize hook")
