"""A client that waits for its password to be checked: in the loop, without a thread."""

import socket
import time
from typing import Optional

from minisocks.errors import HandshakeError, NotChecked
from minisocks.handshake import Credentials
from minisocks.logins import Waiter
from minisocks.loop import Job, Timer
from minisocks.session import Session

__all__ = ["Login"]

#: How long it waits at most: twice the longest penalty.
MOST_SECONDS = 60.0


class Login(Job, Waiter):
    """One login under way; the session is its own until it is answered.

    What the client has to wait is not its own time: its deadline is put off.  But not for
    ever, since it has a descriptor.
    """

    __slots__ = ("_session", "_since", "_timer", "client", "credentials")

    def __init__(self, session: Session, credentials: Credentials) -> None:
        self._session = session
        self._since = time.monotonic()
        self._timer: Optional[Timer] = None
        self.client = session.client
        self.credentials = credentials

    def begin(self) -> None:
        """Wait in the row of logins."""
        self._session.unpark()
        # Nothing is read from the client meanwhile; mask 0 still tells a reset.
        self._session.watch(0, self)
        self._timer = self._session.services.loop.call_later(MOST_SECONDS, self, self._too_late)
        try:
            self._session.services.logins.wait(self)
        except HandshakeError as exc:
            self.refused(exc)

    def on_ready(self, fd: int, mask: int) -> None:
        """Give up: the client has reset its connection."""
        self._give_up(ConnectionResetError("the client left while its password was checked"))

    def abort(self, why: str) -> None:
        """Close; the proxy ends."""
        self._release()
        self._session.abort(why)

    def has_left(self) -> bool:
        """Return whether the client has; a FIN is not told by mask 0."""
        try:
            if self._session.sock.recv(1, socket.MSG_PEEK):
                return False  # the request is there already
        except BlockingIOError:
            return False
        except OSError as exc:
            self._give_up(exc)
            return True
        self._give_up(ConnectionResetError("the client left before its password was checked"))
        return True

    def answered(self, ok: bool) -> None:
        """Go on with the handshake."""
        session = self._session
        self._forget_timer()
        session.services.loop.done(self)
        session.deadline.extend(time.monotonic() - self._since)
        session.verdict = ok
        session.services.resume(session)

    def refused(self, error: Exception) -> None:
        """Tell the client that its password was not even checked."""
        self._release()
        self._session.refuse(error)

    def _give_up(self, exc: OSError) -> None:
        self._release()
        self._session.gone(exc)

    def _too_late(self) -> None:
        self.refused(NotChecked("the password was not checked in time"))

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _release(self) -> None:
        self._forget_timer()
        self._session.services.logins.leave(self)
        self._session.services.loop.done(self)
