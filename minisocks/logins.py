"""Passwords: who waits before one is checked, what checking costs, and who may do without.

A derivation takes a processor for a part of a second.  So there is one at a time, and
addresses take turns (``turns``).  A client that fails often waits before it costs anything
(``penalties``), and what was found to be right is remembered (``guests``).
"""

import logging
import threading
import time
from typing import Callable, Optional, Tuple

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


class _Login:
    """A client whose password is being checked.

    A class because of the time that all its waits have together.
    """

    __slots__ = ("_until", "address", "conn", "credentials")

    def __init__(self, conn: ClientSocket, credentials: Credentials) -> None:
        self.conn = conn
        self.credentials = credentials
        self.address = neighbourhood(conn.client.ip)
        self._until = time.monotonic() + MOST_SECONDS

    def pause(self, seconds: float = MOST_SECONDS) -> None:
        """Wait for so long, or for a shorter time; see ``ClientSocket.pause``.

        Raises:
            NotChecked: it has taken too long altogether.
            HandshakeError: another thread has ended the handshake.
            OSError: the client has left.
        """
        if time.monotonic() >= self._until:
            raise NotChecked("the password was not checked in time")
        self.conn.pause(seconds)


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
        self._lock = threading.Lock()  # guards all below when it changes
        #: What decides, and for how long an address is remembered: replaced by a reload.
        self._users, self._auth_once = Users(), 0.0
        self._guests = Guests()
        self._verified = Verified()
        #: By address; and by address and user, for guesses at what is remembered.
        self._penalties = Penalties()
        self._guesses = Penalties()

    def adopt(self, users: Users, auth_once: float) -> None:
        """Go by *users* from now on; an address may do without for *auth_once* seconds."""
        with self._lock:
            self._users, self._auth_once = users, auth_once
            self._guests.keep(users, self._clock() - auth_once)

    def guest(self, client: Client) -> Optional[bytes]:
        """Return the user that has logged in from the client's address, if that is enough."""
        if not self._auth_once:
            return None
        return self._guests.user_at(client, self._clock() - self._auth_once)

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
        login, answer = _Login(conn, credentials), None
        while answer is None:
            users = self._users
            seconds, answer = self._at_once(login, users)
            if seconds > 0:
                login.pause(seconds)
            elif answer is None:
                answer = self._slowly(login, users)
        if not answer:
            return None
        self._welcome(conn.client, credentials, users)
        return users.proof(credentials)

    def failed(self, client: Client, user: bytes) -> None:
        """Count a wrong password for *user*."""
        with self._lock:
            failures = self._count_failure(neighbourhood(client.ip), user)
        _tell(client, failures)

    def _at_once(self, login: _Login, users: Users) -> Tuple[float, Optional[bool]]:
        """Return how long *login* has to wait; then, if it costs nothing, whether it is right.

        All under one lock: of clients that guess at the same time, each has to count before
        the next one is looked at.
        """
        address, credentials = login.address, login.credentials
        with self._lock:
            seconds = self._wait_seconds(login, users)
            if seconds > 0:
                return seconds, None
            if self._verified.has(address, credentials, users):
                return 0.0, True
            if users.knows(credentials):
                self._verified.add(address, credentials, users)
                return 0.0, True
            if users.has_hashes or users.may_take_long:
                return 0.0, None
            failures = self._count_failure(address, credentials.user)
        _tell(login.conn.client, failures)
        return 0.0, False

    def _wait_seconds(self, login: _Login, users: Users) -> float:
        """Return how long *login* has to wait before it is checked.  Locked."""
        address, credentials = login.address, login.credentials
        now = self._clock()
        seconds = self._penalties.wait_seconds(address, now)
        if seconds > 0 and self._verified.has(address, credentials, users):
            # A user beside a client that guesses does not wait, unless that guesses at
            # this very user: answers at once would tell it more than others learn.
            seconds = self._guesses.wait_seconds(keyed(address, credentials.user), now)
        return seconds

    def _count_failure(self, address: bytes, user: bytes) -> int:
        """Return how many failures *address* has with this one.  Locked."""
        now = self._clock()
        self._guesses.add(keyed(address, user), now)
        return self._penalties.add(address, now)

    def _slowly(self, login: _Login, users: Users) -> Optional[bool]:
        """Return whether *login* is right: by a derivation, by the hook; None: look again."""
        conn, credentials = login.conn, login.credentials
        known = users.hash_of(credentials.user)
        if known is not None:
            answer = self._derive(login, users, known)
            if answer is not False or not users.may_take_long:
                return answer
        with self._pending.busy(conn):
            is_right = users.verify(credentials, conn.client)
            if not is_right:
                self.failed(conn.client, credentials.user)
        return is_right

    def _derive(self, login: _Login, users: Users, known: Hash) -> Optional[bool]:
        """Return whether the password belongs to *known*; None: look again.

        Where no hook has the last word, a wrong one is counted here: once, however many
        clients have the answer.
        """
        conn, credentials = login.conn, login.credentials

        def let_others_run() -> None:
            conn.check()
            time.sleep(YIELD_SECONDS)

        # With the hash: after a reload an answer says nothing about another one.
        mark = keyed(*credentials, known.text().encode())
        answer = self._turns.wait(conn.alarm(), login.address, mark, login.pause)
        if answer is None:
            try:
                # Settings may have been read anew while this one waited, others have failed, or
                # the same password have been found to be right.
                if users is self._users and not self._is_to_look_again(login, users):
                    with self._pending.busy(conn):
                        is_right = users.fits(credentials.password, known, let_others_run)
                        # Inside: behind it this login may be ended, and others have the answer.
                        if is_right:
                            self._remember(login, users)
                        elif not users.may_take_long:
                            self.failed(conn.client, credentials.user)
                        answer = is_right
            finally:
                self._turns.pass_on(login.address, mark, answer)
        return answer if known == self._users.hash_of(credentials.user) else None

    def _is_to_look_again(self, login: _Login, users: Users) -> bool:
        with self._lock:
            has_answer = self._verified.has(login.address, login.credentials, users)
            return has_answer or self._wait_seconds(login, users) > 0

    def _remember(self, login: _Login, users: Users) -> None:
        with self._lock:
            self._verified.add(login.address, login.credentials, users)

    def _welcome(self, client: Client, credentials: Credentials, users: Users) -> None:
        """Remember the address of *client*, which has shown the right password."""
        if not self._auth_once or not client.ip:
            return
        user, proof = credentials.user, users.proof(credentials)
        with self._lock:
            if not self._users.holds(user, proof):
                return  # its line has gone since, and ``adopt`` has looked at the addresses already
            before = self.guest(client)
            self._guests.add(client, user, proof, self._clock())
        if before != user:
            log.info(
                "client=%s may come in without a password for %g s, as %s (--auth-once)",
                client.host,
                self._auth_once,
                quoted(user),
            )


def _tell(client: Client, failures: int) -> None:
    """Say in the log that *client* has failed so often that it has to wait from now on."""
    if failures == FREE:
        log.warning(
            "client=%s has failed to log in %d times: from now on its logins wait "
            "before they are checked",
            client.host,
            failures,
        )
