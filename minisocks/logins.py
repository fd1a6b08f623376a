"""Passwords that take work to check: whose turn it is, and who may do without.

A derivation takes a processor for a part of a second.  So there is one at a time, and
addresses take turns: one that wants five hundred delays the others by the one that it
is at.  Who fails often waits before it costs anything (``penalties``), and what was
found to be right is remembered (``guests``).
"""

import logging
import threading
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from minisocks.auth import Users, keyed
from minisocks.client import Client, neighbourhood
from minisocks.deriver import Deriver
from minisocks.errors import NotChecked
from minisocks.guests import Guests, Verified
from minisocks.handshake import Credentials
from minisocks.loop import Job, Loop, Timer
from minisocks.passwords import Hash
from minisocks.penalties import FREE, Penalties
from minisocks.wire import quoted

__all__ = ["MAX_OF_ADDRESS", "MAX_WAITING", "Logins", "Waiter"]

log = logging.getLogger("minisocks")

#: Logins that may wait: all, and those of one address (of IPv6: the /64).
MAX_WAITING = 1024
MAX_OF_ADDRESS = 128
#: "At capacity" is told once in so many seconds.
EDGE_SECONDS = 10.0


class Waiter:
    """A client that waits for its password to be checked.  Loop thread."""

    __slots__ = ()

    client: Client
    credentials: Credentials

    def has_left(self) -> bool:
        """Return whether there is nobody left to answer; it has left then, too."""
        raise NotImplementedError

    def answered(self, ok: bool) -> None:
        """Go on; it waits no more."""
        raise NotImplementedError

    def refused(self, error: NotChecked) -> None:
        """Give up; it waits no more."""
        raise NotImplementedError

    def abort(self, why: str) -> None:
        """Close, because the proxy ends; it has left then."""
        raise NotImplementedError


class _Current(NamedTuple):
    """What is derived now."""

    address: bytes
    mark: bytes
    client: Client
    credentials: Credentials
    known: Hash


class Logins(Job):
    """Who waits for a derivation, and what came of the last ones.

    A class because of what it remembers from one client to the next.  A job of the
    loop, so that the answer finds somebody to give it to, whoever has left meanwhile.
    Loop thread, but for ``failed``, ``welcome`` and ``join``.

    Args:
        clock: as ``time.monotonic``.
        make_deriver: returns what derives, as ``Deriver``.
    """

    counts = False

    def __init__(
        self,
        loop: Loop,
        clock: Callable[[], float] = time.monotonic,
        make_deriver: Callable[[], Deriver] = Deriver,
    ) -> None:
        self._loop = loop
        self._make_deriver = make_deriver
        self._clock = clock
        self._users = Users()
        self._auth_once = 0.0
        self._verified = Verified()
        self._guests = Guests()
        self._lock = threading.Lock()  # guards the two below
        #: By address; and by address and user, for those who guess at what is remembered.
        self._penalties = Penalties()
        self._guesses = Penalties()
        #: How many may wait: all, and those of one address.
        self._room, self._share = MAX_WAITING, MAX_OF_ADDRESS
        self._deriver = make_deriver()
        self._current: Optional[_Current] = None
        #: By address, the next one first; then by a mark of name and password, so
        #: that fifty connections of a browser are one derivation.
        self._waiting: Dict[bytes, Dict[bytes, List[Waiter]]] = {}
        self._count = 0
        self._timer: Optional[Timer] = None
        self._in_loop = False
        self._closed = False
        self._busy_told_at = -EDGE_SECONDS

    def __len__(self) -> int:
        """Return how many clients wait.  Any thread."""
        return self._count

    def adopt(self, users: Users, auth_once: float, room: int = MAX_WAITING) -> None:
        """Go by *users* from now on; an address may do without for *auth_once* seconds.

        Args:
            room: how many logins may wait; half of them from one address.
        """
        self._users, self._auth_once = users, auth_once
        self._room = min(room, MAX_WAITING)
        self._share = min(max(1, self._room // 2), MAX_OF_ADDRESS)
        self._guests.keep(users, self._clock() - auth_once)

    def guest(self, client: Client) -> Optional[bytes]:
        """Return who has logged in from the client's address before, if that is enough."""
        if not self._auth_once:
            return None
        return self._guests.user_at(client, self._clock() - self._auth_once)

    def verdict(self, credentials: Credentials, client: Client) -> Optional[bool]:
        """Say at once whether they are right as far as is known here; None: ``wait`` for it.

        Whoever has guessed waits for every answer, also for one that costs nothing.
        """
        address = neighbourhood(client.ip)
        if self._verified.has(address, credentials, self._users):
            guesses = keyed(address, credentials.user)
            with self._lock:
                if not self._guesses.wait_seconds(guesses, self._clock()):
                    return True
        with self._lock:
            if self._penalties.wait_seconds(address, self._clock()) > 0:
                return None
        if self._users.knows(credentials):
            self._verified.add(address, credentials, self._users)
            return True
        return False if self._users.hash_of(credentials.user) is None else None

    def wait(self, waiter: Waiter) -> None:
        """Have *waiter* told whether its credentials are right.

        Raises:
            NotChecked: too many wait already.
        """
        address = neighbourhood(waiter.client.ip)
        mark = keyed(*waiter.credentials)
        self._make_room(address, waiter.client)
        self._waiting.setdefault(address, {}).setdefault(mark, []).append(waiter)
        self._count += 1
        if not self._in_loop:
            self._in_loop = True
            self._loop.submit(self)
        self._go_on()

    def leave(self, waiter: Waiter) -> None:
        """Forget *waiter*; nothing if it does not wait."""
        address = neighbourhood(waiter.client.ip)
        mark = keyed(*waiter.credentials)
        waiters = self._waiting.get(address, {}).get(mark, [])
        if waiter in waiters:
            waiters.remove(waiter)
            self._count -= 1
            if not waiters:
                self._take_out(address, mark)

    def failed(self, client: Client, user: bytes) -> None:
        """Count a wrong password for *user*.  Any thread."""
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

    def welcome(self, client: Client, credentials: Credentials) -> None:
        """Remember the address of *client*, who has shown the right password.  Any thread."""
        if not self._auth_once or not client.ip:
            return
        user, before = credentials.user, self.guest(client)
        self._guests.add(client, user, self._users.proof(credentials), self._clock())
        if before != user:
            log.info(
                "client=%s may come in without a password for %g s, as %s (--auth-once)",
                client.host,
                self._auth_once,
                quoted(user),
            )

    def close(self) -> None:
        """Let nobody wait any more; ``join`` waits for the thread."""
        self._closed = True
        self._deriver.close()
        for waiter in self._all():
            waiter.abort("shutdown")

    def join(self) -> None:
        """Wait until its thread has ended.  Any thread."""
        self._deriver.join()

    # As a job

    def begin(self) -> None:
        """Wait for nothing but calls."""

    def abort(self, why: str) -> None:
        """End with the loop; or after a bug of ours, with the next client anew."""
        self._in_loop = False
        if why == "shutdown":
            self.close()
            return
        self._deriver.close()
        self._deriver, self._current = self._make_deriver(), None
        for waiter in self._all():
            self.leave(waiter)
            waiter.refused(NotChecked("internal error"))

    def _all(self) -> List[Waiter]:
        tries = [waiters for marks in self._waiting.values() for waiters in marks.values()]
        return [waiter for waiters in tries for waiter in waiters]

    def _make_room(self, address: bytes, client: Client) -> None:
        """See to it that one more may wait.

        Raises:
            NotChecked: it may not.
        """
        here = _count(self._waiting.get(address, {}))
        if self._closed:
            raise NotChecked("the proxy ends")
        if here < self._share and self._count < self._room:
            return
        self._tell_busy(client)
        if here < self._share:
            # The newest of the address that has most makes room, unless that is this one.
            greediest = max(self._waiting.values(), key=_count)
            if _count(greediest) > here + 1:
                last = list(greediest.values())[-1][-1]
                self.leave(last)
                last.refused(NotChecked("too many logins wait to be checked"))
                return
        raise NotChecked("too many logins wait to be checked")

    def _tell_busy(self, client: Client) -> None:
        now = self._clock()
        if now >= self._busy_told_at + EDGE_SECONDS:
            self._busy_told_at = now
            log.warning(
                "at capacity: %d logins wait to be checked (at most %d, and %d of an address; "
                "the last one came from %s); more are refused",
                self._count,
                self._room,
                self._share,
                client.host,
            )

    def _go_on(self) -> None:
        """Have the next login checked, unless one is, or all have to wait for their penalties."""
        while self._current is None and self._waiting:
            now = self._clock()
            with self._lock:
                waits = {one: self._penalties.wait_seconds(one, now) for one in self._waiting}
            address = min(waits, key=lambda one: waits[one])  # the first one of equals
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if waits[address] > 0:
                self._timer = self._loop.call_later(waits[address], self, self._go_on)
                return
            self._take_turn(address)

    def _take_turn(self, address: bytes) -> None:
        mark, waiters = next(iter(self._waiting[address].items()))
        if all(waiter.has_left() for waiter in list(waiters)):
            return
        first = waiters[0]
        known = self._users.hash_of(first.credentials.user)
        if self._verified.has(address, first.credentials, self._users):
            self._settle(address, mark, True)
        elif self._users.knows(first.credentials):
            self._verified.add(address, first.credentials, self._users)
            self._settle(address, mark, True)
        elif known is None:
            self._settle(address, mark, False)
        else:
            self._derive(_Current(address, mark, first.client, first.credentials, known))

    def _derive(self, current: _Current) -> None:
        users, password, known = self._users, current.credentials.password, current.known
        try:
            self._deriver.submit(
                lambda pause: users.fits(password, known, pause),
                lambda ok: self._loop.call_soon(self, self._answered, current, ok),
            )
        except RuntimeError as exc:
            log.warning("at capacity: no thread to check a password: %s", exc)
            self._refuse(current, "there is no thread to check a password")
        else:
            self._current = current

    def _answered(self, current: _Current, ok: Optional[bool]) -> None:
        self._current = None
        # By what is in the file now: it may have been read anew meanwhile.
        holds = current.known == self._users.hash_of(current.credentials.user)
        if ok and holds:
            self._verified.add(current.address, current.credentials, self._users)
        if ok is False and not self._users.may_take_long:
            # Else the hook has the last word.
            self.failed(current.client, current.credentials.user)
        if current.mark in self._waiting.get(current.address, {}):
            if ok is None:
                self._refuse(current, "checking the password failed")
            elif holds:
                self._settle(current.address, current.mark, ok)
            # Else they wait on, for what is in the file now.
        self._go_on()

    def _settle(self, address: bytes, mark: bytes, ok: bool) -> None:
        for waiter in self._take_out(address, mark):
            waiter.answered(ok)

    def _refuse(self, current: _Current, why: str) -> None:
        for waiter in self._take_out(current.address, current.mark):
            waiter.refused(NotChecked(why))

    def _take_out(self, address: bytes, mark: bytes) -> List[Waiter]:
        """Remove a try; its address has had its turn."""
        marks = self._waiting.pop(address)
        waiters = marks.pop(mark)
        self._count -= len(waiters)
        if marks:
            self._waiting[address] = marks  # behind the others
        return waiters


def _count(marks: Dict[bytes, Any]) -> int:
    return sum(map(len, marks.values()))
