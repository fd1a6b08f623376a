"""Passwords: which login waits before it is checked, what that costs, and which needs none.

A derivation takes a processor for a part of a second.  So there is one at a time, and clients
share that (``turns``).  A client that fails often waits before it costs anything
(``penalties``), and what was found to be right is remembered (``trusted``).

A row is all logins of one address as one user; those as users that there are not are one row,
because a client can invent a new name for each guess.  Where a program's hook knows the users,
each name is a row, in one for all of them.  Failures count for their row, and of the rows of an
address the one with fewest failures is next: a user beside a client that guesses does not wait
for its guesses.
"""

import logging
import threading
import time
from typing import Callable, Dict, NamedTuple, Optional, Tuple

from minisocks.access import Users, keyed
from minisocks.errors import NotChecked
from minisocks.policy.client import Client, Groups
from minisocks.policy.passwords import Hash
from minisocks.policy.penalties import FREE, Penalties, scopes_of
from minisocks.protocol.socks5 import Credentials
from minisocks.quoting import quoted
from minisocks.server.clientsocket import ClientSocket
from minisocks.server.limits import HandlerQueue, Pending

__all__ = ["MAX_REMEMBERED", "Logins", "TrustedAddresses", "Verified"]

log = logging.getLogger("minisocks")

#: How long a client waits for its password to be checked, at most: twice the longest penalty.
MOST_SECONDS = 60.0
#: From so many failures on a group is not without any.
HALF = 0.5
_AS_ONE_USER = (
    "client=%s has failed to log in %d times as one user: from now on its logins as that user wait "
    "before they are checked"
)
_BY_SEVERAL_NAMES = (
    "client=%s has failed to log in %d times by several names: from now on its logins wait before "
    "they are checked"
)
#: How long others run when a derivation makes a pause: a tenth of a millisecond, about.
YIELD_SECONDS = 0.00005
#: Names, and addresses, at once.
MAX_REMEMBERED = 4096


class Verified:
    """Passwords that were found to be right, as keyed hashes, and from where they came.

    By address, too: else somebody elsewhere could guess at what is remembered, which
    costs nothing.  A class because of the bound: who has not logged in for longest makes
    room.  One thread at a time.
    """

    def __init__(self) -> None:
        #: By address (of IPv6: the /64) and user, longest ago first: mark and ``Users.proof``.
        self._known: Dict[Tuple[Optional[bytes], bytes], Tuple[bytes, bytes]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def add(self, address: Optional[bytes], credentials: Credentials, users: Users) -> None:
        """Remember that this password is right, as far as *users* go."""
        key = (address, credentials.user)
        self._known.pop(key, None)
        while len(self._known) >= MAX_REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[key] = keyed(*credentials), users.proof(credentials)

    def has(self, address: Optional[bytes], credentials: Credentials, users: Users) -> bool:
        """Return whether it was found to be right, by what *users* still have."""
        import hmac

        key = (address, credentials.user)
        mark, proof = self._known.get(key, (b"", b""))
        if not hmac.compare_digest(keyed(*credentials), mark):
            return False
        if not proof or not users.holds(credentials.user, proof):
            return False
        self._known[key] = self._known.pop(key)
        return True


class _Trusted(NamedTuple):
    user: bytes
    #: ``Users.proof``.
    proof: bytes
    #: When the password was shown.
    at: float


class TrustedAddresses:
    """Addresses that may come in without a password, because they have shown one.

    A class because of the bound: the one that has shown its password longest ago makes
    room.  Any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all below
        self._trusted: Dict[str, _Trusted] = {}  # by address, longest ago first

    def __len__(self) -> int:
        return len(self._trusted)

    def add(self, client: Client, user: bytes, proof: bytes, now: float) -> None:
        """Remember *client*'s address."""
        with self._lock:
            self._trusted.pop(client.host, None)
            while len(self._trusted) >= MAX_REMEMBERED:
                del self._trusted[next(iter(self._trusted))]
            self._trusted[client.host] = _Trusted(user, proof, now)

    def user_at(self, client: Client, since: float) -> Optional[bytes]:
        """Return who has come from that address, not before *since*; None: nobody."""
        if not client.has_address:
            return None
        with self._lock:
            trusted = self._trusted.get(client.host)
        return trusted.user if trusted is not None and trusted.at > since else None

    def keep(self, users: Users, since: float) -> None:
        """Forget those that *users* has no more, and those from before *since*."""
        with self._lock:
            self._trusted = {
                host: trusted
                for host, trusted in self._trusted.items()
                if trusted.at > since and users.holds(trusted.user, trusted.proof)
            }


class _Login:
    """A client whose password is being checked.

    A class because of the time that all its waits have together.
    """

    __slots__ = ("_until", "address", "conn", "credentials", "row")

    def __init__(self, conn: ClientSocket, credentials: Credentials, users: Users) -> None:
        self.conn = conn
        self.credentials = credentials
        self.address = conn.client.key
        self.row = _row_of(conn.client, credentials.user, users)
        self._until = time.monotonic() + MOST_SECONDS

    def demand(self, seconds: float) -> None:
        """Go on if there is so much time left.

        Raises:
            NotChecked: there is not.
        """
        if time.monotonic() + seconds > self._until:
            raise NotChecked("the password cannot be checked in time; try again in a minute")

    def pause(self, seconds: float = MOST_SECONDS, has_request: bool = False) -> None:
        """Wait for so long, or for a shorter time; see ``ClientSocket.pause``.

        Raises:
            NotChecked: it has taken too long altogether.
            HandshakeError: another thread has ended the handshake.
            OSError: the client has left.
        """
        self.demand(0.0)
        self.conn.pause(seconds, has_request)

    def pause_for_hook(self) -> None:
        """Wait likewise; a client that has sent its request already, and FIN, stays."""
        self.pause(has_request=self.conn.has_early_data)


class Logins:
    """Checks passwords, and remembers what came of it.

    A class because of what it remembers from one client to the next.

    Args:
        pending: knows which handler threads may be ended.
        hook_queue: how clients share the program's hook.
        clock: as ``time.monotonic``.

    Thread: any; ``check`` waits, hence a handler's.
    """

    def __init__(
        self,
        pending: Pending,
        hook_queue: HandlerQueue,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pending = pending
        self._hook_queue = hook_queue
        self._clock = clock
        self._derivations = HandlerQueue(1, self._rank)
        #: Seconds that the last derivation took.
        self._derivation_seconds = 0.0
        self._lock = threading.Lock()  # guards all below when it changes
        #: What decides, and for how long an address is remembered: replaced by a reload.
        self._users, self._auth_once = Users(), 0.0
        self._trusted = TrustedAddresses()
        self._verified = Verified()
        self._penalties = Penalties()

    def adopt(self, users: Users, auth_once: float) -> None:
        """Go by *users* from now on; an address may do without for *auth_once* seconds."""
        with self._lock:
            self._users, self._auth_once = users, auth_once
            self._trusted.keep(users, self._clock() - auth_once)

    def trusted_user(self, client: Client) -> Optional[bytes]:
        """Return the user that has logged in from the client's address, if that is enough."""
        if not self._auth_once:
            return None
        return self._trusted.user_at(client, self._clock() - self._auth_once)

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
        credentials = self._users.meant(credentials)
        login, answer = _Login(conn, credentials, self._users), None
        while answer is None:
            users = self._users
            seconds, answer = self._check_at_once(login, users)
            if seconds > 0:
                login.demand(seconds)
                login.pause(seconds)
            elif answer is None:
                answer = self._check_slowly(login, users)
        if not answer:
            return None
        self._trust(conn.client, credentials, users)
        return users.proof(credentials)

    def failed(self, client: Client, user: bytes) -> None:
        """Count a wrong password for *user*."""
        with self._lock:
            told = self._count_failure(_row_of(client, user, self._users))
        _tell(client, told)

    def _check_at_once(self, login: _Login, users: Users) -> Tuple[float, Optional[bool]]:
        """Return how long *login* has to wait; then, if it costs nothing, whether it is right.

        All under one lock: of clients that guess at the same time, each has to count before
        the next one is looked at.
        """
        address, credentials = login.address, login.credentials
        with self._lock:
            seconds = self._wait_seconds(login)
            if seconds > 0:
                return seconds, None
            if self._verified.has(address, credentials, users):
                return 0.0, True
            if users.knows(credentials):
                self._verified.add(address, credentials, users)
                return 0.0, True
            if users.has_hashes or users.may_take_long:
                return 0.0, None
            told = self._count_failure(login.row)
        _tell(login.conn.client, told)
        return 0.0, False

    def _wait_seconds(self, login: _Login) -> float:
        """Return how long *login* has to wait before it is checked.  Locked."""
        if not self._penalties:
            return 0.0
        now, failed = self._clock(), self._penalties
        scopes = scopes_of(login.row)
        keys = [keyed(*scope.parts) for scope in scopes]
        waits = [failed.wait_seconds(keys[0], now, *scopes[0][1:])]
        # In a group that has to wait, a login from a part of it without failures is before those
        # that have made them: else it would have to be lucky among all that wait.
        guilty = sum(failed.score(key, now) >= HALF for key in keys[:-1])
        for key, scope in zip(keys[1:], scopes[1:]):
            part = 0.5 + 0.5 * guilty / (len(keys) - 1)
            waits.append(failed.wait_seconds(key, now, *scope[1:], part=part))
        return max(waits)

    def _count_failure(self, row: Groups) -> Tuple[str, int]:
        """Count it; return what is to be told, "" for nothing, and how many there are.  Locked."""
        now, scopes = self._clock(), scopes_of(row)
        add = self._penalties.add
        counts = [add(keyed(*scope.parts), now, scope.free) for scope in scopes]
        if counts[0] == FREE:
            return _AS_ONE_USER, FREE
        if row[-1][0] == "name" and counts[1] == scopes[1].free:
            return _BY_SEVERAL_NAMES, counts[1]
        return "", 0

    def _rank(self, groups: Groups) -> float:
        """Return how many failures a row has; for addresses and networks it makes no difference."""
        if not isinstance(groups[-1], tuple):
            return 0.0
        own = keyed(*scopes_of(groups)[0].parts)
        with self._lock:
            return self._penalties.score(own, self._clock())

    def _check_slowly(self, login: _Login, users: Users) -> Optional[bool]:
        """Return whether *login* is right: by a derivation, by the hook; None: look again."""
        conn, credentials = login.conn, login.credentials
        known = users.hash_of(credentials.user)
        if known is not None:
            answer = self._derive(login, users, known)
            if answer is not False or not users.may_take_long:
                return answer
        with self._hook_queue.place(conn, login.pause_for_hook), self._pending.busy(conn):
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
        login.demand(self._derivations.questions_before(login.row, mark) * self._derivation_seconds)
        answer = self._derivations.wait(conn.alarm(), login.row, mark, login.pause)
        if answer is None:
            try:
                # Settings may have been read anew while this one waited, others have failed, or
                # the same password have been found to be right.
                if users is self._users and not self._is_to_look_again(login, users):
                    with self._pending.busy(conn):
                        began = time.monotonic()
                        is_right = users.fits(credentials.password, known, let_others_run)
                        self._derivation_seconds = time.monotonic() - began
                        # Inside: behind it this login may be ended, and others have the answer.
                        if is_right:
                            self._remember(login, users)
                        elif not users.may_take_long:
                            self.failed(conn.client, credentials.user)
                        answer = is_right
            finally:
                self._derivations.finish(login.row, mark, answer)
        return answer if known == self._users.hash_of(credentials.user) else None

    def _is_to_look_again(self, login: _Login, users: Users) -> bool:
        with self._lock:
            has_answer = self._verified.has(login.address, login.credentials, users)
            return has_answer or self._wait_seconds(login) > 0

    def _remember(self, login: _Login, users: Users) -> None:
        with self._lock:
            self._verified.add(login.address, login.credentials, users)

    def _trust(self, client: Client, credentials: Credentials, users: Users) -> None:
        """Remember the address of *client*, which has shown the right password."""
        if not self._auth_once or not client.has_address:
            return
        user, proof = credentials.user, users.proof(credentials)
        with self._lock:
            if not self._users.holds(user, proof):
                return  # its line has gone since, and ``adopt`` has looked at the addresses already
            before = self.trusted_user(client)
            self._trusted.add(client, user, proof, self._clock())
        if before != user:
            log.info(
                "client=%s may come in without a password for %g s, as %s (--auth-once)",
                client.host,
                self._auth_once,
                quoted(user),
            )


def _row_of(client: Client, user: bytes, users: Users) -> Groups:
    """Return the row of a login: the client's groups, and the user in them.

    The names of the hook's users are not known, so those of its users that guess nothing are
    rows of their own.
    """
    if users.is_listed(user):
        return client.groups + (("user", user),)
    names = (("name", user),) if users.may_take_long else ()
    return client.groups + (("user", b""), *names)


def _tell(client: Client, told: Tuple[str, int]) -> None:
    """Say in the log that *client* has failed so often that it has to wait from now on."""
    template, failures = told
    if template:
        log.warning(template, client.host, failures)
