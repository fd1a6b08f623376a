"""Passwords: who waits before one is checked, what checking costs, and who may do without.

A derivation takes a processor for a part of a second.  So there is one at a time, and
addresses take turns (``turns``).  A client that fails often waits before it costs anything
(``penalties``), and what was found to be right is remembered (``guests``).
"""

import logging
import threading
import time
from typing import Callable, Optional

from minisocks.auth import Users, keyed
from minisocks.client import Client, neighbourhood
from minisocks.clientsocket import ClientSocket
from minisocks.errors import NotChecked
from minisocks.guests import Guests, Verified
from minisocks.handshake import Credentials
from minisocks.passwords import Hash
from minisocks.penalties import FREE, Penalties
from minisocks.pending import Pending
from minisocks.turns import Turns
from minisocks.wire import quoted

__all__ = ["Logins"]

log = logging.getLogger("minisocks")

#: How long a client waits for its password to be checked, at most: twice the longest penalty.
MOST_SECONDS = 60.0
#: How long others run when a derivation makes a pause: a tenth of a millisecond, about.
YIELD_SECONDS = 0.00005


class Logins:
    """Checks passwords, and remembers what came of it.

    A class because of what it remembers from one client to the next.

    Args:
        pending: knows which handler threads may be ended.
        clock: as ``time.monotonic``.

    Thread: any; ``check`` waits, hence a handler's.
    """

    def __init__(self, pending: Pending, clock: Callable[[], float] = time.monotonic) -> None:
        self._pending = pending
        self._clock = clock
        self._turns = Turns()
        self._guests = Guests()
        #: Replaced together by a reload: what decides, and for how long an address is remembered.
        self._users, self._auth_once = Users(), 0.0
        self._lock = threading.Lock()  # guards all below
        self._verified = Verified()
        #: By address; and by address and user, for guesses at what is remembered.
        self._penalties = Penalties()
        self._guesses = Penalties()

    def adopt(self, users: Users, auth_once: float) -> None:
        """Go by *users* from now on; an address may do without for *auth_once* seconds."""
        self._users, self._auth_once = users, auth_once
        self._guests.keep(users, self._clock() - auth_once)

    def guest(self, client: Client) -> Optional[bytes]:
        """Return the user that has logged in from the client's address, if that is enough."""
        if not self._auth_once:
            return None
        return self._guests.user_at(client, self._clock() - self._auth_once, self._users)

    def check(self, conn: ClientSocket, credentials: Credentials) -> Optional[bytes]:
        """Return by what *credentials* are right, ``Users.proof``; None: they are wrong.

        Waits: for the address's penalty, for its turn, for the derivation, for the program's
        hook.  What is remembered, and what costs nothing, is answered at once.

        Raises:
            NotChecked: it takes too long.
            HookFailed: the hook did not say.
            HandshakeError: another thread has ended the handshake.
            OSError: the client has left.
        """
        client = conn.client
        address = neighbourhood(client.ip)
        until = time.monotonic() + MOST_SECONDS
        answer = None
        while answer is None:
            if time.monotonic() >= until:
                raise NotChecked("the password was not checked in time")
            users = self._users
            seconds = self._wait_seconds(address, credentials, users)
            if seconds > 0:
                conn.pause(seconds)
            else:
                answer = self._answer(conn, address, credentials, users, until)
        if not answer:
            return None
        self._welcome(client, credentials, users)
        return users.proof(credentials)

    def failed(self, client: Client, user: bytes) -> None:
        """Count a wrong password for *user*."""
        address = neighbourhood(client.ip)
        with self._lock:
            failures = self._penalties.add(address, self._clock())
            self._guesses.add(keyed(address, user), self._clock())
        if failures == FREE:
            log.warning(
                "client=%s has failed to log in %d times: from now on its logins wait "
                "before they are checked",
                client.host,
                failures,
            )

    def _wait_seconds(self, address: bytes, credentials: Credentials, users: Users) -> float:
        """Return how long this login has to wait before it is checked."""
        with self._lock:
            now = self._clock()
            seconds = self._penalties.wait_seconds(address, now)
            if seconds > 0 and self._verified.has(address, credentials, users):
                # A user beside a client that guesses does not wait, unless that guesses at
                # this very user: answers at once would tell it more than others learn.
                seconds = self._guesses.wait_seconds(keyed(address, credentials.user), now)
        return seconds

    def _answer(
        self,
        conn: ClientSocket,
        address: bytes,
        credentials: Credentials,
        users: Users,
        until: float,
    ) -> Optional[bool]:
        """Return whether *credentials* are right; None: look again."""
        with self._lock:
            if self._verified.has(address, credentials, users):
                return True
        known = users.hash_of(credentials.user)
        if users.knows(credentials):
            self._remember(address, credentials, users)
            return True
        if known is not None:
            answer = self._derive(conn, address, credentials, users, known, until)
            if answer is not False or not users.may_take_long:
                return answer
        if users.may_take_long:
            with self._pending.busy(conn):
                if users.verify(credentials, conn.client):
                    return True
        self.failed(conn.client, credentials.user)
        return False

    def _derive(
        self,
        conn: ClientSocket,
        address: bytes,
        credentials: Credentials,
        users: Users,
        known: Hash,
        until: float,
    ) -> Optional[bool]:
        """Return whether the password belongs to *known*; None: look again.

        Where no hook has the last word, a wrong one is counted here: once, however many
        clients have the answer.
        """

        def let_others_run() -> None:
            conn.check()
            time.sleep(YIELD_SECONDS)

        # With the hash: an answer by another one is none.
        mark = keyed(*credentials, known.salt, known.checksum)
        answer = self._turns.wait(conn, address, mark, until)
        if answer is not None:
            return answer
        try:
            # Others may have failed, or settings been read anew, while this one waited.
            if users is self._users and not self._wait_seconds(address, credentials, users):
                with self._pending.busy(conn):
                    answer = users.fits(credentials.password, known, let_others_run)
                if known != self._users.hash_of(credentials.user):
                    answer = None  # in the file as it is by now there is another one
            if answer:
                self._remember(address, credentials, users)
            elif answer is False and not users.may_take_long:
                self.failed(conn.client, credentials.user)
        finally:
            self._turns.pass_on(address, mark, answer)
        return answer

    def _remember(self, address: bytes, credentials: Credentials, users: Users) -> None:
        with self._lock:
            self._verified.add(address, credentials, users)

    def _welcome(self, client: Client, credentials: Credentials, users: Users) -> None:
        """Remember the address of *client*, which has shown the right password."""
        if not self._auth_once or not client.ip:
            return
        user, before = credentials.user, self.guest(client)
        self._guests.add(client, user, users.proof(credentials), self._clock())
        if before != user:
            log.info(
                "client=%s may come in without a password for %g s, as %s (--auth-once)",
                client.host,
                self._auth_once,
                quoted(user),
            )
