"""Checks of passwords: which login waits, which is checked next, and which needs no password.

A derivation takes a processor for a part of a second.  So only one runs at a time, and clients
share that (``HandlerQueue``).  A client that fails often waits first (``penalties``), and right
passwords are remembered.

A row is all logins of one address as one user.  All names that no user has are one row, because
a client can invent a name for each guess; where a program's hook knows the users, each name is a
row inside that one.  Of the rows of an address the one with fewest failures is next, so a user
does not wait for the guesses of another client at the same address.
"""

import logging
import threading
import time
from typing import Callable, Dict, NamedTuple, Optional, Tuple

from minisocks.access import Users, keyed
from minisocks.errors import NotChecked
from minisocks.policy.client import Client, Groups
from minisocks.policy.passwords import FREE, Hash, Penalties, scopes_of
from minisocks.protocol.messages import Credentials
from minisocks.quoting import quoted
from minisocks.server.clientsocket import ClientSocket
from minisocks.server.limits import HandlerQueue, Pending

__all__ = ["MAX_REMEMBERED", "Logins", "TrustedAddresses", "Verified"]

log = logging.getLogger("minisocks")

#: Longest wait for the check of a password: twice the longest penalty.
MOST_SECONDS = 60.0
#: A score from which on a group counts as one with failures.
HALF = 0.5
_AS_ONE_USER = (
    "client=%s has failed to log in %d times as one user: from now on its logins as that user wait "
    "before they are checked"
)
_BY_SEVERAL_NAMES = (
    "client=%s has failed to log in %d times by several names: from now on its logins wait before "
    "they are checked"
)
#: Pause of a derivation in which other threads run; it takes about a tenth of a millisecond.
YIELD_SECONDS = 0.00005
#: Most passwords, and most addresses, that are remembered.
MAX_REMEMBERED = 4096


class Verified:
    """Right passwords, as keyed hashes, with the addresses that they came from.

    By address, because otherwise clients at other addresses could guess at them without a
    derivation.  The entry that was not used for longest makes room.  Thread: one at a time.
    """

    def __init__(self) -> None:
        #: By address (of IPv6 the /64) and user, oldest use first: hash and ``Users.proof``.
        self._known: Dict[Tuple[Optional[bytes], bytes], Tuple[bytes, bytes]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def add(self, address: Optional[bytes], credentials: Credentials, users: Users) -> None:
        """Remember that *users* has this password."""
        key = (address, credentials.user)
        self._known.pop(key, None)
        while len(self._known) >= MAX_REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[key] = keyed(*credentials), users.proof(credentials)

    def has(self, address: Optional[bytes], credentials: Credentials, users: Users) -> bool:
        """Return whether this password was right, and its line is still in *users*."""
        import hmac

        key = (address, credentials.user)
        mark, proof = self._known.get(key, (b"", b""))
        if not hmac.compare_digest(keyed(*credentials), mark):
            return False
        if not proof or not users.accepts_proof(credentials.user, proof):
            return False
        self._known[key] = self._known.pop(key)
        return True


class _Trusted(NamedTuple):
    user: bytes
    #: ``Users.proof``.
    proof: bytes
    #: When the password was shown, by the clock of ``Logins``.
    at: float


class TrustedAddresses:
    """Addresses that need no password for some time, because a client there has shown one.

    The one that has shown it longest ago makes room.  Thread: any.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all below
        self._trusted: Dict[str, _Trusted] = {}  # by address, longest ago first

    def __len__(self) -> int:
        return len(self._trusted)

    def add(self, client: Client, user: bytes, proof: bytes, now: float) -> None:
        """Trust the address of *client* from *now* on."""
        with self._lock:
            self._trusted.pop(client.host, None)
            while len(self._trusted) >= MAX_REMEMBERED:
                del self._trusted[next(iter(self._trusted))]
            self._trusted[client.host] = _Trusted(user, proof, now)

    def user_at(self, client: Client, since: float) -> Optional[bytes]:
        """Return the user that has logged in from the client's address since *since*, or None."""
        if not client.has_address:
            return None
        with self._lock:
            trusted = self._trusted.get(client.host)
        return trusted.user if trusted is not None and trusted.at > since else None

    def keep(self, users: Users, since: float) -> None:
        """Remove addresses trusted before *since*, and by lines that *users* does not have."""
        with self._lock:
            self._trusted = {
                host: trusted
                for host, trusted in self._trusted.items()
                if trusted.at > since and users.accepts_proof(trusted.user, trusted.proof)
            }


class _Login:
    """One check of a password, with the time that all its waits have together."""

    __slots__ = ("_until", "_users", "address", "conn", "credentials")

    def __init__(self, conn: ClientSocket, credentials: Credentials, users: Users) -> None:
        self.conn = conn
        self.credentials = credentials
        self.address = conn.client.key
        self._users = users
        self._until = time.monotonic() + MOST_SECONDS

    @property
    def row(self) -> Groups:
        """Its row.  Made when it is asked for: most logins are right and wait for nothing."""
        return _row_of(self.conn.client, self.credentials.user, self._users)

    def demand(self, seconds: float) -> None:
        """Raise unless *seconds* are left.

        Raises:
            NotChecked: fewer are left.
        """
        if time.monotonic() + seconds > self._until:
            raise NotChecked("the password cannot be checked in time; try again in a minute")

    def pause(self, seconds: float = MOST_SECONDS, has_request: bool = False) -> None:
        """Wait for at most *seconds*; see ``ClientSocket.pause``.

        Raises:
            NotChecked: the time of the check is over.
            HandshakeError: another thread has ended the handshake.
            OSError: the client has left.
        """
        self.demand(0.0)
        self.conn.pause(seconds, has_request)

    def pause_for_hook(self) -> None:
        """Wait likewise; a client that has sent its request already may send FIN."""
        self.pause(has_request=self.conn.has_early_data)


class Logins:
    """Checks passwords, and remembers the results.

    Args:
        pending: knows which handshakes may be ended.
        hook_queue: lets handler threads call the program's hook.
        clock: as ``time.monotonic``.

    Thread: any; ``check`` waits and needs a handler's.
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
        #: Users, and seconds for which an address is trusted; a reload replaces both.
        self._users, self._auth_once = Users(), 0.0
        self._trusted = TrustedAddresses()
        self._verified = Verified()
        self._penalties = Penalties()

    def adopt(self, users: Users, auth_once: float) -> None:
        """Apply *users* from now on; an address is trusted for *auth_once* seconds."""
        with self._lock:
            self._users, self._auth_once = users, auth_once
            self._trusted.keep(users, self._clock() - auth_once)

    def trusted_user(self, client: Client) -> Optional[bytes]:
        """Return the user that the client's address is trusted as; None: it is not trusted."""
        if not self._auth_once:
            return None
        return self._trusted.user_at(client, self._clock() - self._auth_once)

    def check(self, conn: ClientSocket, credentials: Credentials) -> Optional[bytes]:
        """Return ``Users.proof`` of *credentials*; None: they are wrong.

        Waits for the penalty of the address, in the queues, for the derivation, and for the
        program's hook.  What needs none of them is answered at once.

        Raises:
            NotChecked: it would take too long.
            HookFailed: the hook raised, or returned neither True nor False.
            HandshakeError: another thread has ended the handshake.
            OSError: the client has left.
        """
        credentials = self._users.normalized(credentials)
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
        """Return how many seconds *login* must wait; if none, whether it is right, if known.

        All under one lock, so that of several guesses at the same time each is counted before
        the next one is checked.
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
        """Return how many seconds *login* must wait before it is checked.  With the lock."""
        if not self._penalties:
            return 0.0
        now, failed = self._clock(), self._penalties
        scopes = scopes_of(login.row)
        keys = [keyed(*scope.parts) for scope in scopes]
        waits = [failed.wait_seconds(keys[0], now, *scopes[0][1:])]
        # In a group that must wait, a login from a part without failures waits less than those
        # from the parts that failed, so that it is checked before them.
        guilty = sum(failed.score(key, now) >= HALF for key in keys[:-1])
        for key, scope in zip(keys[1:], scopes[1:]):
            part = 0.5 + 0.5 * guilty / (len(keys) - 1)
            waits.append(failed.wait_seconds(key, now, *scope[1:], part=part))
        return max(waits)

    def _count_failure(self, row: Groups) -> Tuple[str, int]:
        """Count a failure; return a message for the log or "", and their number.  With the lock."""
        now, scopes = self._clock(), scopes_of(row)
        add = self._penalties.add
        counts = [add(keyed(*scope.parts), now, scope.free) for scope in scopes]
        if counts[0] == FREE:
            return _AS_ONE_USER, FREE
        if row[-1][0] == "name" and counts[1] == scopes[1].free:
            return _BY_SEVERAL_NAMES, counts[1]
        return "", 0

    def _rank(self, groups: Groups) -> float:
        """Return the score of failures of a row; addresses and networks are all equal."""
        if not isinstance(groups[-1], tuple):
            return 0.0
        own = keyed(*scopes_of(groups)[0].parts)
        with self._lock:
            return self._penalties.score(own, self._clock())

    def _check_slowly(self, login: _Login, users: Users) -> Optional[bool]:
        """Ask a derivation or the hook whether *login* is right; None: begin again."""
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
        """Return whether *known* is the hash of the password; None: begin again.

        Without a hook, a wrong password is counted here: once for all that get the answer.
        """
        conn, credentials = login.conn, login.credentials

        def let_others_run() -> None:
            conn.check()
            time.sleep(YIELD_SECONDS)

        # With the hash, because a reload may have brought another one.
        mark = keyed(*credentials, known.text().encode())
        login.demand(self._derivations.questions_before(login.row, mark) * self._derivation_seconds)
        answer = self._derivations.wait(conn.alarm(), login.row, mark, login.pause)
        if answer is None:
            try:
                # While this thread waited, a reload, other failures, or the same password may
                # have come.
                if users is self._users and not self._is_to_look_again(login, users):
                    with self._pending.busy(conn):
                        began = time.monotonic()
                        is_right = users.fits(credentials.password, known, let_others_run)
                        self._derivation_seconds = time.monotonic() - began
                        # Inside, because afterwards this login may be ended.
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
        """Trust the address of *client*, which has shown the right password."""
        if not self._auth_once or not client.has_address:
            return
        user, proof = credentials.user, users.proof(credentials)
        with self._lock:
            if not self._users.accepts_proof(user, proof):
                return  # a reload has removed its line, and the addresses trusted by it
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
    """Return the row of a login: the client's groups, and the user in them."""
    if users.is_listed(user):
        return client.groups + (("user", user),)
    names = (("name", user),) if users.may_take_long else ()
    return client.groups + (("user", b""), *names)


def _tell(client: Client, told: Tuple[str, int]) -> None:
    """Log that *client* must wait from now on, if there is a message."""
    template, failures = told
    if template:
        log.warning(template, client.host, failures)
