"""A turn with one client: read, answer, until the request is clear.

The loop has it with clients whose bytes are there.  A handler thread has it where
the embedding program's hooks may take long; it is the only one that blocks for a
client, with a socket timeout, and never longer than it may.
"""

import socket
import time
from typing import Dict, Optional, Type, Union

from minisocks.associate import Associate
from minisocks.bind import Bind
from minisocks.compat import log_bug
from minisocks.connect import Connect
from minisocks.errors import AuthFailed, DialError, HandshakeError
from minisocks.handshake import Credentials, Event, Request
from minisocks.hooks import ProxyRequest, demand_authorized
from minisocks.inquiry import Inquiry
from minisocks.login import Login
from minisocks.session import Session
from minisocks.wire import Cmd, Ver, quoted

__all__ = ["COMMANDS", "Turn", "negotiate"]

#: One read. A handshake is shorter; what a client sends behind it goes on to
#: the target, so a large read only saves one of the relay's.
READ_BYTES = 4096
#: How long a handler thread waits for its client's next bytes before it parks the
#: session. Most answer within a round trip.
PATIENCE_SECONDS = 0.02

#: Who carries out which CMD.
COMMANDS: Dict[int, Type[Union[Associate, Bind, Connect]]] = {
    Cmd.CONNECT: Connect,
    Cmd.BIND: Bind,
    Cmd.UDP_ASSOCIATE: Associate,
}


class Turn:
    """What a thread may do for a client; this one is the loop's, which has others, too."""

    #: Whether it may block for the client, and in a hook.
    may_wait = False

    def park(self, session: Session) -> None:
        """Put *session* aside until its client says more."""
        session.services.park(session)

    def hand_over(self, session: Session) -> None:
        """Have a thread that may wait go on with *session*, whose ``event`` is to be dealt with.

        The loop forgets it.

        Raises:
            HookFailed: there is none, or the client's address has its share.
        """
        raise NotImplementedError


def negotiate(session: Session, turn: Turn) -> None:
    """Take *session* as far as its client lets us; afterwards somebody else owns it.

    Turns every error into a reply.
    """
    try:
        while True:
            event = session.event or _next_event(session, turn)
            if event is None:
                if session.parked is None:
                    turn.park(session)
                return
            session.event = event
            if isinstance(event, Credentials) and _is_undecided(session, event):
                session.services.loop.submit(Login(session, event))
                return
            if session.awaits_identity and isinstance(event, Request):
                if session.identity is None:
                    session.services.loop.submit(Inquiry(session, event))
                    return
                _identify(session, event, session.identity)
            if not turn.may_wait and _takes_long(session, event):
                turn.hand_over(session)
                return
            session.event = None
            if isinstance(event, Request):
                _carry_out(session, event)
                return
            _check(session, event)
    except (HandshakeError, DialError) as exc:
        session.refuse(exc)
    except OSError as exc:
        session.gone(exc)
    except Exception as exc:  # noqa: BLE001  # our bug: answer, and serve others
        log_bug("id=%d handshake failed", session.record.id)
        session.refuse(exc)


def _next_event(session: Session, turn: Turn) -> Optional[Event]:
    """Return what the client says, a request if it passes the rules; None: it lets us wait."""
    talk = session.talk
    while True:
        event = talk.next_event()
        answer = talk.data_to_send()
        if answer:
            session.send(answer)
        if event is not None:
            if isinstance(event, Request):
                _consider(session, event)
            return event
        data = _receive(session, turn)
        if data is None:
            return None
        talk.receive_data(data)


def _receive(session: Session, turn: Turn) -> Optional[bytes]:
    """Return what the client says, empty at its end; None: nothing yet."""
    sock = session.sock
    try:
        return sock.recv(READ_BYTES)
    except BlockingIOError:
        if not turn.may_wait:
            return None
    sock.settimeout(min(PATIENCE_SECONDS, session.deadline.remaining()))
    try:
        return sock.recv(READ_BYTES)
    except socket.timeout:
        return None
    finally:
        sock.setblocking(False)


def _takes_long(session: Session, event: Event) -> bool:
    """Return whether dealing with *event* may take longer than others should wait for it."""
    if isinstance(event, Request):
        return session.services.hooks.authorize is not None
    return not session.verdict and session.services.users.may_take_long


def _is_undecided(session: Session, credentials: Credentials) -> bool:
    """Return whether a password has to be derived before any more can be said about it."""
    if session.verdict is None:
        session.verdict = session.services.logins.verdict(credentials, session.client)
    return session.verdict is None


def _check(session: Session, credentials: Credentials) -> None:
    users, logins, client = session.services.users, session.services.logins, session.client
    began = time.monotonic()
    ok = session.verdict or users.verify(credentials, client)
    session.deadline.extend(time.monotonic() - began)
    if ok:
        client.user = credentials.user
        session.proof = users.proof(credentials)
        logins.welcome(client, credentials)
    elif users.may_take_long or not users.has_hashes:
        logins.failed(client, credentials.user)  # else that was counted with the derivation
    session.talk.credentials_checked(ok)


def _consider(session: Session, request: Request) -> None:
    """Wait for the client no more, and hold its *request* against the rules.

    Raises:
        HandshakeError: it does not pass.
    """
    rules, client = session.services.rules, session.client
    session.unpark()
    client.user = request.user
    session.asked(request)
    _demand_still(session, request.user)
    session.awaits_identity = request.ver == Ver.SOCKS4 and session.services.config.ident
    if session.awaits_identity and client.user is None:
        # Not to be had by anybody: that we connect to a host that may have nothing here.
        rules.foresee_somebody(client).demand()
    else:
        _judge(session, request)
    if not session.awaits_identity:
        _enter(session)


def _judge(session: Session, request: Request) -> None:
    """Hold a *request* against the rules, as far as they can be asked before anything is resolved.

    Raises:
        RefusedByRules: it does not pass.
    """
    rules, client = session.services.rules, session.client
    if request.cmd == Cmd.UDP_ASSOCIATE:
        rules.foresee_any(client, request.ver, request.cmd).demand()  # DST is no target
    else:
        rules.foresee(client, request.ver, request.cmd, request.dst).demand()


def _identify(session: Session, request: Request, user: bytes) -> None:
    """Have the client be *user*, as its identd says, and hold its *request* against the rules.

    Who runs an identd decides what it says.  So it makes nobody who has a password, and
    where there are passwords it makes nobody who has shown one.

    Raises:
        HandshakeError: it does not pass.
    """
    services, client = session.services, session.client
    session.awaits_identity = False
    if request.user is not None:  # it has shown a password, of late
        _demand_still(session, request.user)
    else:
        client.is_unproven = bool(services.users)
        if services.users.may_be(user):
            raise AuthFailed("who is %s has to show a password, and SOCKS4 has none" % quoted(user))
        client.user = user
    _judge(session, request)
    _enter(session)


def _enter(session: Session) -> None:
    """Count the connection; after the rules: nobody is to be shed for who is refused anyway.

    Raises:
        LimitReached: there is no room for it.
    """
    session.services.census.enter(session.record, session.services.config)
    session.services.memory.admit()


def _demand_still(session: Session, user: Optional[bytes]) -> None:
    """Refuse who came in by a line that is gone by now, or by a time that is over.

    Raises:
        AuthFailed: so it is.
    """
    services = session.services
    if user is None:
        return
    if session.proof is not None:
        holds = services.users.holds(user, session.proof)
    else:
        holds = services.logins.guest(session.client) == user
    if not holds:
        raise AuthFailed("%s may not come in any more" % quoted(user))


def _carry_out(session: Session, request: Request) -> None:
    hook, client = session.services.hooks.authorize, session.client
    if hook is not None:
        demand_authorized(hook, ProxyRequest.of(client, request))
    if session.services.stopping:
        session.abort("shutdown")  # a hook was slower than the end
        return
    COMMANDS[request.cmd](session, request).start()
