"""What checking a password costs, which clients wait for that, and which need not show one."""

import contextlib
import hashlib
import socket
import threading
import time

import pytest

from kit import inside
from kit.support import (
    TIMEOUT,
    Talk,
    log_kept,
    nothing_left,
    own_threads,
    password_message,
    run_proxy,
    socks4,
    socks5,
    wait_until,
)
from minisocks import Proxy
from minisocks.access import Users
from minisocks.errors import ConfigError, LimitReached, NotChecked, ProxyStops
from minisocks.net.processor import Processor
from minisocks.policy import passwords
from minisocks.policy.client import Client
from minisocks.policy.passwords import FREE, MAX_ITERATIONS, Hash, Penalties
from minisocks.protocol.messages import Credentials
from minisocks.server.clientsocket import ClientSocket
from minisocks.server.limits import HandlerQueue, Pending
from minisocks.server.logins import Logins, Verified

SALT = bytes(16)
HASHES = {
    b"ann": Hash.of(b"secret", SALT, 1000),
    b"bob": Hash.of(b"hunter2", SALT, 1000),
    b"slow": Hash.of(b"slow", SALT, 2000),
}
ANN, BOB = Credentials(b"ann", b"secret"), Credentials(b"bob", b"hunter2")
HERE = "192.0.2.1"
GREETING = b"\x05\x01\x02"
RIGHT, WRONG = b"\x01\x00", b"\x01\x01"


def wrong(number):
    """Return a wrong password for ann, another one for each number."""
    return Credentials(b"ann", b"%d" % number)


class Gate:
    """Lets derivations through one by one, and counts them."""

    def __init__(self, monkeypatch):
        self.derived = []
        self.at_once = self.most = 0
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        fits = Users.fits

        def wait_and_say(users, password, known, pause):
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            self.derived.append(password)
            self.begun.release()
            try:
                while not self.go_on.acquire(timeout=0.01):
                    pause()
            finally:
                self.at_once -= 1
            return fits(users, password, known, pause)

        monkeypatch.setattr(Users, "fits", wait_and_say)

    def wait(self):
        """Wait until one more derivation has begun."""
        assert self.begun.acquire(timeout=TIMEOUT)

    def open(self):
        """Let all derivations through."""
        for _ in range(1000):
            self.go_on.release()


@pytest.fixture
def gate(monkeypatch):
    """A gate that is closed."""
    return Gate(monkeypatch)


class Conn(ClientSocket):
    """A client's socket, from any address, whose pauses are counted."""

    def __init__(self, host):
        ours, theirs = socket.socketpair()
        super().__init__(ours, Client((host, 1) if host else ""), TIMEOUT)
        self.talk = Talk(theirs)
        self.pauses = 0

    def pause(self, seconds, has_request=False):
        """Count the pause."""
        self.pauses += 1
        super().pause(seconds, has_request)

    def close(self):
        """Close both ends."""
        self.sock.close()
        self.talk.close()


class Patient(Conn):
    """A client's socket whose pauses move the clock, so that penalties take no time."""

    def __init__(self, alone, host):
        super().__init__(host)
        self._alone = alone

    def pause(self, seconds, has_request=False):
        """Have the time pass, unless it may run."""
        if self.alarm().is_set():
            super().pause(seconds, has_request)
        else:
            self._alone.now += seconds
            self._alone.waits.append(seconds)


class Login(threading.Thread):
    """A thread that has a password checked, as a handler's.

    ``said`` is the answer, or what was raised instead of one.
    """

    def __init__(self, alone, credentials, conn):
        super().__init__(daemon=True)
        self.conn = conn
        self.said = None
        self._alone = alone
        self._credentials = credentials
        self.start()

    def run(self):
        try:
            self.said = self._alone.check(self.conn, self._credentials)
        except Exception as exc:  # noqa: BLE001  # the test looks at it
            self.said = exc

    def end(self):
        """Return the answer, waiting for it."""
        self.join(TIMEOUT)
        assert not self.is_alive()
        return self.said


class Alone:
    """``Logins`` without a proxy: its clock goes by hand.

    ``waits`` holds the seconds that clients had to wait before they were checked.
    """

    def __init__(self):
        self.now = 1000.0
        self.waits = []
        self.pending = Pending(1000, Processor(None))
        self.logins = Logins(self.pending, HandlerQueue(1000), lambda: self.now)
        self.adopt(Users(hashed=HASHES))
        self._begun = []

    def adopt(self, users, auth_once=0.0):
        """Check by *users* from now on."""
        self.logins.adopt(users, auth_once)

    def check(self, conn, credentials):
        """Return whether *credentials* are right, as a handler asks."""
        self.pending.enter(conn)
        try:
            return self.logins.check(conn, credentials) is not None
        finally:
            self.pending.leave(conn)

    def ask(self, credentials, host=HERE):
        """Return whether *credentials* are right, in this thread."""
        conn = Patient(self, host)
        try:
            return self.check(conn, credentials)
        finally:
            conn.close()

    def begin(self, credentials, host=HERE, conn=None):
        """Return a login that is under way in a thread of its own."""
        login = Login(self, credentials, conn or Conn(host))
        self._begun.append(login)
        return login

    def waiting(self, credentials, host=HERE):
        """Return a login that waits already."""
        login = self.begin(credentials, host)
        wait_until(lambda: login.conn.pauses, "its pause")
        return login

    def move_on(self, seconds):
        """Move the clock, and have all that wait look at it."""
        self.now += seconds
        for login in self._begun:
            login.conn.alarm().set()

    def close(self):
        """Demand that all threads have come back, and have left nothing."""
        for login in self._begun:
            login.end()
            login.conn.close()
        assert 0 == len(self.pending)


@pytest.fixture
def alone():
    """Logins without a proxy."""
    made = Alone()
    yield made
    made.close()


@pytest.mark.parametrize(
    "user, password, expected",
    [
        (b"ann", b"secret", True),
        (b"ann", b"hunter2", False),
        (b"bob", b"hunter2", True),
        (b"eve", b"secret", False),
        (b"", b"", False),
    ],
)
def test_the_right_password_is_right(alone, gate, user, password, expected):
    """Each user's own, after one derivation, and no other."""
    gate.open()

    assert expected is alone.ask(Credentials(user, password))
    assert [password] == gate.derived


def test_what_is_returned_says_by_what_it_was_right(alone):
    """The proof holds as long as the user's line does."""
    conn = Conn(HERE)
    proof = alone.logins.check(conn, ANN)
    conn.close()

    assert Users(hashed=HASHES).accepts_proof(b"ann", proof)
    assert not Users(hashed={b"ann": HASHES[b"bob"]}).accepts_proof(b"ann", proof)


@pytest.mark.parametrize("user", [b"ann", b"slow", b"eve", b"plain"])
def test_every_wrong_password_costs_the_same(alone, user, monkeypatch):
    """Whether there is such a user, and how many iterations its hash has, does not show."""
    iterations = []
    for module in ("policy.passwords", "access"):
        monkeypatch.setattr(
            "minisocks.%s.derive" % module,
            lambda password, salt, count, pause: iterations.append(count) or bytes(32),
        )
    alone.adopt(Users([(b"plain", b"plain")], hashed=HASHES))

    assert not alone.ask(Credentials(user, b"wrong"))
    assert 2000 == sum(iterations)


@pytest.mark.parametrize(
    "users, credentials, expected",
    [
        (Users([ANN], hashed=HASHES), ANN, True),
        (Users([ANN]), ANN, True),
        (Users([ANN]), BOB, False),
        (Users(hashed={}), BOB, False),
    ],
)
def test_passwords_that_are_known_cost_nothing(alone, gate, users, credentials, expected):
    """A --user beside the file is answered at once; so is every client where no hashes are."""
    alone.adopt(users)

    assert expected is alone.ask(credentials)
    assert [] == gate.derived


def test_fifty_at_once_cost_one(alone, gate):
    """The connections of a browser share a derivation, and later ones need none."""
    first = alone.begin(ANN)
    gate.wait()
    others = [alone.waiting(ANN) for _ in range(49)]
    gate.open()

    assert {True} == {login.end() for login in [first, *others]}
    assert alone.ask(ANN)
    assert [b"secret"] == gate.derived
    assert not alone.ask(wrong(1))
    assert [b"secret", b"1"] == gate.derived


def test_one_that_comes_to_the_queue_when_its_answer_is_there_costs_nothing(
    alone, gate, monkeypatch
):
    """Between its look at what is remembered and its run, the same password was found right."""
    gate.open()
    wait, others = HandlerQueue.wait, []

    def wait_behind_another(*args):
        if not others:
            others.append(None)
            others.append(alone.begin(ANN).end())
        return wait(*args)

    monkeypatch.setattr(HandlerQueue, "wait", wait_behind_another)

    assert alone.ask(ANN)
    assert [None, True] == others
    assert [b"secret"] == gate.derived


def test_fifty_wrong_ones_are_one_failure(alone, gate):
    """A browser that is sure of a wrong password is not slowed as if it had guessed fifty."""
    first = alone.begin(wrong(1))
    gate.wait()
    others = [alone.waiting(wrong(1)) for _ in range(49)]
    gate.open()
    assert {False} == {login.end() for login in [first, *others]}

    assert [b"1"] == gate.derived
    alone.ask(wrong(2))
    alone.ask(wrong(3))
    assert [] == alone.waits
    alone.ask(wrong(4))
    assert [0.5] == alone.waits


def test_a_client_that_has_left_costs_nothing(alone, gate):
    """Each is looked at when it may run, and its password is not derived then."""
    first = alone.begin(ANN)
    gate.wait()
    gone = [alone.waiting(BOB), alone.waiting(wrong(1))]
    third = alone.waiting(Credentials(b"slow", b"slow"))
    for login in gone:
        login.conn.talk.close()
    gate.open()

    assert [True, True] == [first.end(), third.end()]
    assert {ConnectionResetError} == {type(login.end()) for login in gone}
    assert [b"secret", b"slow"] == gate.derived


def test_a_client_that_leaves_at_once_costs_nothing(alone, gate):
    """It costs nothing also when no other waits, so that it could run at once."""
    gate.open()
    conn = Conn(HERE)
    conn.talk.close()
    login = alone.begin(ANN, conn=conn)

    assert isinstance(login.end(), ConnectionResetError)
    assert [] == gate.derived


def test_one_of_those_that_share_may_leave(alone, gate):
    """The others are answered, also if it is the one that may run."""
    first = alone.begin(ANN)
    gate.wait()
    second, third = alone.waiting(ANN), alone.waiting(ANN)
    first.conn.talk.close()
    second.conn.talk.close()
    assert isinstance(second.end(), ConnectionResetError)
    gate.open()

    assert third.end() is True
    assert [b"secret"] == gate.derived


def test_all_may_leave_while_it_is_derived(alone, gate):
    """What is found then is remembered."""
    login = alone.begin(ANN)
    gate.wait()
    login.conn.talk.close()
    gate.open()
    login.end()

    assert alone.ask(ANN)
    assert [b"secret"] == gate.derived


def test_one_v6_client_has_one_place_and_one_penalty(alone, gate):
    """All addresses of a /64 are one, and those of another are another."""
    logins = [alone.begin(wrong(0), "2001:db8::")]
    gate.wait()
    logins += [alone.waiting(wrong(i), "2001:db8::%d" % i) for i in range(1, 3)]
    other = alone.waiting(ANN, "2001:db8:0:1::1")
    gate.open()

    assert other.end() is True
    assert {False} == {login.end() for login in logins}
    assert [b"0", b"secret", b"1", b"2"] == gate.derived
    alone.ask(ANN, "2001:db8:0:1::2")
    assert [] == alone.waits
    alone.ask(ANN, "2001:db8::9")
    assert [0.5] == alone.waits


@pytest.mark.parametrize("host", [HERE, "127.0.0.1", ""])
def test_a_client_that_fails_often_waits_before_it_costs(alone, host):
    """Three are free; then each derivation is put off, twice as long each time."""
    with log_kept("minisocks") as log:
        for i in range(8):
            assert not alone.ask(wrong(i), host)

    assert [0.5, 1, 2, 4, 8] == alone.waits
    assert 1 == len(log.lines)
    assert "client=%s has failed to log in 3 times" % (host or "unix") in log.lines[0]


def test_waiting_logins_wait_for_the_penalty_too(alone, gate):
    """Of ten guesses at once three are derived; the others look again when they may run."""
    logins = [alone.begin(wrong(0))]
    gate.wait()
    logins += [alone.waiting(wrong(i)) for i in range(1, 10)]
    gate.open()
    for login in logins[:3]:
        assert login.end() is False
    wait_until(lambda: 0 == inside.waiting_derivations(alone.logins), "an empty queue")
    assert [b"0", b"1", b"2"] == gate.derived
    alone.move_on(0.5)
    wait_until(lambda: 4 == sum(login.said is False for login in logins), "one more answer")
    alone.pending.close()

    assert 6 == sum(isinstance(login.end(), ProxyStops) for login in logins)
    assert 4 == len(gate.derived)


def test_other_addresses_do_not_wait_for_it(alone, gate):
    """While one waits for its penalty, another one's password is derived."""
    gate.open()
    for i in range(3):
        alone.ask(wrong(i))
    slowed = alone.waiting(wrong(3))

    assert alone.ask(BOB, "192.0.2.2")
    assert slowed.said is None
    assert [b"0", b"1", b"2", b"hunter2"] == gate.derived
    alone.move_on(0.5)
    assert slowed.end() is False


def test_a_success_does_not_make_up_for_failures(alone):
    """Neither one as this user, by another client at this address, nor one as another user."""
    for i in range(3):
        alone.ask(wrong(i))
    assert alone.ask(BOB)
    assert [] == alone.waits
    assert alone.ask(ANN)
    assert [0.5] == alone.waits

    alone.ask(wrong(4))
    assert alone.ask(ANN)
    assert [0.5, 1] == alone.waits


@pytest.mark.parametrize(
    "users",
    [Users([ANN]), Users(hashed={}), Users(authenticate=lambda user, *_: user == "ann")],
)
def test_what_fails_without_a_derivation_counts_too(alone, users):
    """Where only passwords are that are known as they are, or an empty file, or a hook."""
    alone.adopt(users)
    for i in range(5):
        assert not alone.ask(Credentials(b"bob", b"%d" % i))

    assert [0.5, 1] == alone.waits


def test_guesses_at_once_are_no_more_than_guesses_one_by_one(alone, monkeypatch):
    """Of fifty that cost nothing, all at the same time, three are answered; the others wait."""
    knows, all_are_there = Users.knows, threading.Event()

    def knows_late(*args):
        assert all_are_there.wait(TIMEOUT)
        return knows(*args)

    monkeypatch.setattr(Users, "knows", knows_late)
    alone.adopt(Users([ANN]))
    logins = [alone.begin(wrong(i)) for i in range(50)]
    all_are_there.set()
    wait_until(lambda: all(one.said is False or one.conn.pauses for one in logins), "all")

    assert 3 == sum(one.said is False for one in logins)
    for one in logins:
        one.conn.end(LimitReached("the test is over"))


def test_a_hook_has_the_last_word(alone):
    """What the file does not know is no failure yet, and what the hook does not know is one."""
    users = Users(hashed=HASHES, authenticate=lambda user, password, client: user == "eve")
    alone.adopt(users)
    for i in range(5):
        assert alone.ask(Credentials(b"eve", b"%d" % i))
    for i in range(3):
        assert not alone.ask(Credentials(b"bob", b"%d" % i))
        assert not alone.ask(Credentials(b"mallory", b"%d" % i))
    assert [] == alone.waits
    assert alone.ask(Credentials(b"eve", b""))  # the hook's users are told apart by their names
    assert [] == alone.waits
    assert alone.ask(BOB)

    assert [0.5] == alone.waits


def test_a_hook_that_does_not_say_counts_no_failure(alone, bugs):
    """Its client hears of an error, which is no wrong password."""
    alone.adopt(Users(authenticate=lambda *args: None))
    logins = [alone.begin(wrong(i)) for i in range(4)]

    assert {"the authenticate hook failed"} == {str(login.end()) for login in logins}
    assert 4 == len(bugs)
    alone.adopt(Users(authenticate=lambda *args: True))
    assert alone.ask(ANN)
    assert [] == alone.waits


def test_a_reload_counts_at_once(alone, gate):
    """A client that waits is checked by the file as it is now; what was found before is void."""
    under_way = alone.begin(ANN)
    gate.wait()
    waits = alone.waiting(BOB)
    other = {b"ann": Hash.of(b"new", SALT, 10), b"bob": Hash.of(b"hunter2", SALT, 10)}
    alone.adopt(Users(hashed=other))
    gate.open()

    assert [False, True] == [under_way.end(), waits.end()]
    assert [b"hunter2", b"secret", b"secret"] == sorted(gate.derived)
    assert not alone.ask(ANN)
    del gate.derived[:]
    assert alone.ask(BOB)
    assert [] == gate.derived
    alone.adopt(Users(hashed={b"ann": other[b"ann"]}))
    assert not alone.ask(BOB)


def test_a_client_that_waits_when_the_file_goes_is_refused(alone, gate):
    """There is nothing left to hold its password against."""
    under_way = alone.begin(ANN)
    gate.wait()
    waits = alone.waiting(BOB)
    alone.adopt(Users())
    gate.open()

    assert [False, False] == [under_way.end(), waits.end()]


def test_a_password_that_is_hashed_anew_meanwhile_is_checked_anew(alone, gate):
    """The same one, by what is in the file by then."""
    login = alone.begin(ANN)
    gate.wait()
    alone.adopt(Users(hashed={b"ann": Hash.of(b"secret", b"other salt", 10)}))
    gate.open()

    assert login.end() is True
    assert [b"secret", b"secret"] == gate.derived


def test_an_answer_is_only_for_those_that_ask_by_the_same_hash(alone, gate, monkeypatch):
    """A password that was right a moment ago is wrong for a login that comes after the reload."""
    gate.open()
    pass_on, late = HandlerQueue.finish, []

    def pass_on_after_reload(*args):
        if not late:
            alone.adopt(Users(hashed={b"ann": HASHES[b"bob"]}))
            late.append(alone.waiting(ANN))
        pass_on(*args)

    monkeypatch.setattr(HandlerQueue, "finish", pass_on_after_reload)
    alone.ask(ANN)

    assert late[0].end() is False


def test_an_address_whose_user_goes_at_the_last_moment_is_not_remembered(alone):
    """The settings are read anew when its password is right, and before the address is noted."""

    def reload(user, password, client):
        alone.adopt(Users([BOB]), 600.0)
        return True

    alone.adopt(Users(authenticate=reload), 600.0)
    alone.ask(ANN)
    assert alone.logins.trusted_user(Client((HERE, 2))) is None
    alone.ask(BOB)

    assert b"bob" == alone.logins.trusted_user(Client((HERE, 2)))


def test_fifty_at_once_are_one_line_in_the_log(alone, gate):
    """The line says for how long their address may come in without a password."""
    alone.adopt(Users(hashed=HASHES), 600.0)
    first = alone.begin(ANN)
    gate.wait()
    others = [alone.waiting(ANN) for _ in range(49)]
    with log_kept("minisocks") as log:
        gate.open()
        assert {True} == {login.end() for login in [first, *others]}

    assert 1 == len(log.lines)
    assert "may come in without a password for 600 s, as 'ann'" in log.lines[0]


@pytest.mark.parametrize(
    "place, credentials",
    [
        ((Pending, "busy"), ANN),
        ((Processor, "released"), ANN),
        ((Users, "fits"), ANN),
        ((Verified, "add"), ANN),
        ((Penalties, "add"), wrong(1)),
    ],
)
def test_whatever_fails_in_a_login_the_next_one_runs(alone, gate, monkeypatch, place, credentials):
    """Out of memory, say: its client hears of an error, which is no wrong password."""
    gate.open()

    def fail(*args):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(*place, fail)
        for _ in range(4):
            with pytest.raises(MemoryError):
                alone.ask(credentials)

    assert alone.ask(ANN)
    assert alone.ask(BOB, "192.0.2.2")
    assert [] == alone.waits


@pytest.fixture
def only_alarms(monkeypatch):
    """Have nothing but an alarm end a pause: threads do not look again each second."""
    monkeypatch.setattr("minisocks.server.clientsocket.PAUSE_SECONDS", 10 * TIMEOUT)


def test_a_handshake_that_is_ended_waits_no_more(alone, gate, only_alarms):
    """Its thread comes back at once, while another one's password is still derived."""
    under_way = alone.begin(ANN)
    gate.wait()
    waits = alone.waiting(BOB)
    alone.pending.resize(2)
    other = alone.waiting(wrong(1), "192.0.2.2")

    assert isinstance(waits.end(), LimitReached)
    assert under_way.said is None
    gate.open()
    assert [True, False] == [under_way.end(), other.end()]
    assert [b"secret", b"1"] == gate.derived


class EndedLate(Conn):
    """A client's socket that is ended for another once its password has been derived."""

    def __init__(self, gate):
        super().__init__(HERE)
        self._gate = gate

    def check(self):
        """End the handshake at the moment from which it may be ended again."""
        if self._gate.derived and self.may_end:
            self.end(LimitReached("ended for another"))
        super().check()


def test_a_wrong_password_of_a_handshake_that_is_ended_late_is_a_failure(alone, gate):
    """One, since those that wait for the same have the answer."""
    first = alone.begin(wrong(1), conn=EndedLate(gate))
    gate.wait()
    second = alone.waiting(wrong(1))
    gate.open()
    assert isinstance(first.end(), LimitReached)
    assert second.end() is False
    assert [b"1"] == gate.derived
    for i in range(2, 4):
        assert not alone.ask(wrong(i))
    assert [] == alone.waits
    assert not alone.ask(wrong(4))

    assert [0.5] == alone.waits


def test_a_right_password_of_a_handshake_that_is_ended_late_is_remembered(alone, gate):
    """The derivation was not for nothing."""
    login = alone.begin(ANN, conn=EndedLate(gate))
    gate.open()
    assert isinstance(login.end(), LimitReached)

    assert alone.ask(ANN)
    assert [b"secret"] == gate.derived


def test_a_handshake_whose_password_is_derived_is_not_ended(alone, gate):
    """The newcomer is ended, because the derivation would have been for nothing."""
    under_way = alone.begin(ANN)
    gate.wait()
    alone.pending.resize(1)
    newcomer = alone.begin(BOB, "192.0.2.2")

    assert isinstance(newcomer.end(), LimitReached)
    gate.open()
    assert under_way.end() is True


def test_the_end_of_the_proxy_ends_all(alone, gate, only_alarms):
    """The one whose password is derived at its next pause, and no other one is begun."""
    logins = [alone.begin(ANN)]
    gate.wait()
    logins += [alone.waiting(wrong(i), "192.0.2.%d" % i) for i in range(5)]
    alone.pending.close()

    assert {ProxyStops} == {type(login.end()) for login in logins}
    assert [b"secret"] == gate.derived


def test_the_end_of_the_proxy_ends_a_login_that_waits_for_its_penalty(alone, only_alarms):
    """Its penalty is not waited for, however long it is."""
    for i in range(10):
        alone.ask(wrong(i))
    login = alone.waiting(ANN)
    alone.pending.close()

    assert isinstance(login.end(), ProxyStops)


def test_a_penalty_is_not_waited_for_when_it_takes_too_long(alone, monkeypatch):
    """The client hears that its password was not even checked."""
    for i in range(4):
        alone.ask(wrong(i))
    monkeypatch.setattr("minisocks.server.logins.MOST_SECONDS", 0.05)
    login = alone.begin(ANN)

    assert isinstance(login.end(), NotChecked)


def test_the_queue_is_left_when_it_takes_too_long(alone, gate, monkeypatch):
    """A login leaves however many are before it, and gives its place back."""
    first = alone.begin(ANN)
    gate.wait()
    monkeypatch.setattr("minisocks.server.logins.MOST_SECONDS", 0.05)
    second = alone.begin(BOB)

    assert isinstance(second.end(), NotChecked)
    assert 0 == inside.waiting_derivations(alone.logins)
    gate.open()
    assert first.end() is True


# Shared addresses


def test_a_new_user_behind_a_shared_address_does_not_wait_for_guesses(alone, gate):
    """Fifty at one user, and fifty at names that no user has; its password comes third."""
    logins = [alone.begin(wrong(0))]
    gate.wait()
    logins += [alone.waiting(wrong(i)) for i in range(1, 50)]
    logins += [alone.waiting(Credentials(b"x%d" % i, b"x")) for i in range(50)]
    right = alone.waiting(BOB)
    gate.open()

    assert right.end() is True
    assert gate.derived.index(b"hunter2") <= 2
    alone.pending.close()


def test_invented_names_are_one_user(alone):
    """A new name for each guess is no way around the wait, nor does it delay a user there is."""
    for i in range(4):
        assert not alone.ask(Credentials(b"x%d" % i, b"x"))
    assert [0.5] == alone.waits

    assert alone.ask(ANN)
    assert [0.5] == alone.waits


@pytest.mark.parametrize("guessed", [b"bob", b"eve", b"x"])
@pytest.mark.parametrize("kind", ["known", "hashed", "hook", "both"])
def test_a_right_password_beside_a_client_that_guesses_waits_2_s_at_most(alone, kind, guessed):
    """At another user, one there is not, or any; first seen, and whenever it comes."""
    known = {} if kind == "hook" else {b"ann": b"secret", b"bob": b"hunter2"}
    hashed = {name: Hash.of(password, SALT, 1000) for name, password in known.items()}
    hook = {"hook": ["ann", "bob", "eve"], "both": ["eve"]}.get(kind)

    def authenticate(user, password, client):
        return user in hook and password == "secret"

    alone.adopt(
        Users(
            known.items() if kind == "known" else (),
            authenticate if hook else None,
            None if kind in ("known", "hook") else hashed,
        )
    )
    for i in range(1, 30):
        alone.ask(Credentials(guessed, b"%d" % i))
        began, before = alone.now, len(alone.waits)
        # Each as the first of its user there.
        inside.forget_verified(alone.logins, Verified())
        assert alone.ask(ANN)
        assert sum(alone.waits[before:]) <= 2.0
        alone.now = began
        del alone.waits[before:]

    assert max(alone.waits) >= 8.0


def test_a_client_that_guesses_by_ever_new_names_waits_at_a_hook_too(alone):
    """The names of its users are not known; all of an address are slowed, by 2 s at most."""
    alone.adopt(Users(authenticate=lambda user, password, client: user == "ann"))
    with log_kept("minisocks") as log:
        for i in range(40):
            assert not alone.ask(Credentials(b"x%d" % i, b"x"))

    assert [0.42, 0.83, 1.67] == [round(wait, 2) for wait in alone.waits[:3]]
    assert {0.83, 1.67} >= {round(wait, 2) for wait in alone.waits[3:]}
    assert 34 == len(alone.waits)
    assert 1 == len(log.lines)
    assert "client=%s has failed to log in 6 times by several names" % HERE in log.lines[0]


@pytest.mark.parametrize(
    "make, free",
    [
        (lambda i: "192.0.2.%d" % i, 6),
        (lambda i: "192.0.%d.2" % i, 12),
        (lambda i: "2001:db8:0:%x::1" % i, 6),
        (lambda i: "2001:db8:0:%x00::1" % i, 12),
        (lambda i: "2001:db8:%x::1" % i, 24),
        (lambda i: "2001:db8:%x00::1" % i, 48),
    ],
)
def test_guesses_from_many_addresses_of_a_network_wait(alone, make, free):
    """At one user, each from an address of its own: the wider the network, the more are free."""
    for i in range(1, free + 3):
        assert not alone.ask(wrong(i), make(i))

    first, second = alone.waits
    assert 0.25 <= first < second <= 1.0
    alone.ask(BOB, make(free + 5))
    alone.ask(ANN, "198.51.100.1")
    assert [first, second] == alone.waits


@pytest.mark.parametrize(
    "make, guesses, others",
    [
        (lambda i: "192.0.2.%d" % i, "192.0.2.1", ["192.0.2.200", "192.0.9.1"]),
        (
            lambda i: "2001:db8:1:%x00::1" % i,
            "2001:db8:1:100::1",
            ["2001:db8:1:ff01::1", "2001:db8:2::1", "2001:db8:200::1"],
        ),
    ],
)
def test_a_client_that_shares_least_with_guessing_ones_waits_least(alone, make, guesses, others):
    """At most 2 s, however many there were, and before any that guesses on is checked."""
    for i in range(1, 151):
        alone.logins.failed(Client((make(i), 1)), b"ann")

    began = alone.now
    for host in [guesses, *others]:
        # Each as if it were the only one: no time passes for the next.
        alone.now = began
        assert alone.ask(ANN, host)
    assert 2.0 == alone.waits[0]
    assert sorted(set(alone.waits), reverse=True) == alone.waits
    assert alone.waits[-1] < 1.5


def test_a_login_that_cannot_be_checked_in_time_is_refused_at_once(alone, gate):
    """By how long the last derivation took, and how many of its kind are before it."""
    inside.set_derivation_seconds(alone.logins, 31.0)
    logins = [alone.begin(wrong(0))]
    gate.wait()
    logins += [alone.waiting(wrong(i)) for i in (1, 2)]

    assert isinstance(alone.begin(wrong(3)).end(), NotChecked)
    other = alone.waiting(BOB)  # of another user none waits
    gate.open()
    assert other.end() is True


def test_connections_that_share_an_answer_are_one_before_a_login(alone, gate):
    """However long a derivation takes: one answers all of them, so none comes too late."""
    inside.set_derivation_seconds(alone.logins, 31.0)
    first = alone.begin(ANN)
    gate.wait()
    logins = [alone.waiting(ANN) for _ in range(5)]
    other = alone.waiting(wrong(1))
    gate.open()

    assert {True} == {login.end() for login in [first, *logins]}
    assert other.end() is False


# Guesses at what is remembered, or known as it is


def test_what_is_remembered_is_no_help_from_elsewhere(alone, gate):
    """With its help a client elsewhere could guess at no cost."""
    gate.open()
    for host in (HERE, HERE, "192.0.2.9"):
        assert alone.ask(ANN, host)

    assert [b"secret", b"secret"] == gate.derived


def test_a_user_beside_a_client_that_guesses_waits_for_what_is_remembered(alone, gate):
    """From the same address, for the same name: then the user waits as well, and others do not."""
    gate.open()
    for right in (ANN, BOB):
        assert alone.ask(right)
    for _ in range(3):
        alone.logins.failed(Client((HERE, 1)), b"ann")

    assert alone.ask(BOB)
    assert [] == alone.waits
    assert alone.ask(ANN)
    assert [0.5] == alone.waits
    assert alone.ask(ANN)
    assert [0.5] == alone.waits
    assert [b"secret", b"hunter2"] == gate.derived


@pytest.mark.parametrize("credentials, expected", [(ANN, True), (wrong(1), False)])
def test_a_client_that_guesses_at_passwords_that_are_known_waits(
    alone, gate, credentials, expected
):
    """Right or wrong: the answer comes when its time does, and costs nothing."""
    alone.adopt(Users([ANN]))
    for _ in range(3):
        alone.logins.failed(Client((HERE, 1)), b"ann")

    assert expected is alone.ask(credentials)
    assert [0.5] == alone.waits
    assert [] == gate.derived


# Through a whole proxy


@pytest.fixture
def users_file(tmp_path):
    """A file of users; call it to write other ones."""
    path = tmp_path / "users"

    def write(hashes=HASHES):
        path.write_bytes(b"".join(b"%s:%s\n" % (n, h.text().encode()) for n, h in hashes.items()))
        path.chmod(0o600)
        return str(path)

    write()
    write.path = str(path)
    return write


@contextlib.contextmanager
def login(port, user=b"ann", password=b"secret", source="127.0.0.1"):
    """A client that has sent its password."""
    with Talk.to(port, source=(source, 0)) as talk:
        talk.send(GREETING).expect(b"\x05\x02").send(password_message(user, password))
        yield talk


def connects(talk, target):
    """Have a client that is admitted connect to *target*."""
    talk.send(socks5("127.0.0.1", target.port))
    assert 0 == talk.receive_reply5()[0]
    talk.send(b"x").expect(b"x").finish().expect_eof()


def may_connect(port, target, source="127.0.0.1"):
    """Return whether a client without a password may connect to *target*."""
    with Talk.to(port, source=(source, 0)) as talk:
        if talk.send(b"\x05\x01\x00").receive(2) != b"\x05\x00":
            return False
        connects(talk, target)
        return True


def queued(proxy):
    """Return how many logins wait to be derived."""
    return inside.waiting_derivations(proxy.services.logins)


def handlers():
    """Return the handler threads of all proxies."""
    return [thread for thread in own_threads() if "handler" in thread.name]


def wait_for_handshakes(proxy, count):
    """Wait until so many handshakes are unfinished."""
    wait_until(lambda: proxy.stats().handshakes == count, "%d handshakes" % count)


@pytest.mark.rfc(
    "RFC 1929 section 2",
    "UNAME is the name known to the source operating system, PASSWD goes with it.",
)
def test_a_login_goes_to_its_target(users_file, target, access_log):
    """Also when the client sends all at once, and the log names the user."""
    with nothing_left(), run_proxy(users_file=users_file.path) as proxy:
        with login(proxy.port) as talk:
            talk.expect(RIGHT)
            connects(talk, target)
        with Talk.to(proxy.port) as talk:
            talk.send(GREETING + password_message(*BOB) + socks5("127.0.0.1", target.port))
            assert b"\x05\x02" + RIGHT == talk.receive(4)
            assert 0 == talk.receive_reply5()[0]
        with login(proxy.port, password=b"wrong") as talk:
            talk.expect(WRONG).expect_eof()
        with login(proxy.port, user=b"eve") as talk:
            talk.expect(WRONG).expect_eof()
        assert access_log.wait_for("user='ann'")
        assert not may_connect(proxy.port, target)


def test_one_derivation_at_a_time(users_file, target, gate):
    """However many log in at once; meanwhile the proxy goes on with everything else."""
    count = FREE + 1  # each further wrong password waits longer, and shows no more
    with run_proxy(users_file=users_file.path, user="plain:plain") as proxy:
        with contextlib.ExitStack() as stack:
            talks = [
                stack.enter_context(login(proxy.port, b"ann", b"%d" % i, "127.0.0.%d" % (i + 2)))
                for i in range(count)
            ]
            gate.wait()
            wait_for_handshakes(proxy, count)
            with login(proxy.port, b"plain", b"plain") as talk:
                talk.expect(RIGHT)
                connects(talk, target)
            assert 1 == len(gate.derived)
            gate.open()
            for talk in talks:
                talk.expect(WRONG).expect_eof()
        assert (count, 1) == (len(gate.derived), gate.most)


def test_fifty_connections_cost_one_derivation(users_file, target, gate):
    """Those that come at once wait for the same one, and those after it for none."""
    with run_proxy(users_file=users_file.path) as proxy:
        with contextlib.ExitStack() as stack:
            talks = [stack.enter_context(login(proxy.port)) for _ in range(50)]
            gate.wait()
            wait_until(lambda: queued(proxy) == 49, "49 logins in the queue")
            gate.open()
            for talk in talks:
                talk.expect(RIGHT)
                connects(talk, target)
        for _ in range(10):
            with login(proxy.port) as talk:
                talk.expect(RIGHT)
        assert [b"secret"] == gate.derived


@pytest.mark.parametrize("leave", ["reset", "close"])
def test_a_client_that_leaves_leaves_nothing(users_file, gate, leave):
    """Neither the one whose password is derived nor those behind it."""
    with nothing_left(), run_proxy(users_file=users_file.path) as proxy:
        talks = []
        for i in range(3):
            talk = Talk.to(proxy.port).send(GREETING).expect(b"\x05\x02")
            talks.append(talk.send(password_message(b"ann", b"%d" % i)))
            wait_for_handshakes(proxy, len(talks))
            if not i:
                gate.wait()
        for talk in talks:
            getattr(talk, leave)()
        wait_for_handshakes(proxy, 1)  # those that wait notice
        gate.open()
        wait_until(lambda: len(proxy) == 0, "the end of all")
        with login(proxy.port) as talk:
            talk.expect(RIGHT)
        assert [b"0", b"secret"] == gate.derived


def test_two_hundred_guesses_delay_another_user_by_one(users_file, gate):
    """All at once, and from the same address; counted is what is derived before."""
    with run_proxy(users_file=users_file.path) as proxy, contextlib.ExitStack() as stack:
        for i in range(200):
            stack.enter_context(login(proxy.port, password=b"%d" % i))
        gate.wait()
        wait_until(lambda: queued(proxy) == 199, "199 logins in the queue")
        with login(proxy.port, *BOB) as talk:
            wait_until(lambda: queued(proxy) == 200, "the honest one behind them")
            gate.open()
            talk.expect(RIGHT)
        assert 1 == gate.derived.index(b"hunter2")


def test_waiting_is_not_the_client_s_own_time(users_file, target, gate):
    """A login that takes longer than the handshake may is no timeout."""
    with run_proxy(users_file=users_file.path, handshake_timeout=0.3) as proxy:
        with login(proxy.port) as talk:
            gate.wait()
            too_late = time.monotonic() + 0.35
            wait_until(lambda: time.monotonic() > too_late, "the deadline")
            gate.open()
            talk.expect(RIGHT)
            connects(talk, target)


@pytest.mark.parametrize("end", ["stop", "stop_listening"])
def test_the_end_does_not_wait_for_passwords(users_file, gate, end):
    """Clients that wait are closed without a word, and the derivation ends at its next pause."""
    with nothing_left():
        proxy = Proxy(listen="127.0.0.1:0", users_file=users_file.path)
        proxy.start()
        with login(proxy.port) as one:
            gate.wait()
            with login(proxy.port, b"bob") as two:
                wait_until(lambda: queued(proxy) == 1, "the second login in the queue")
                getattr(proxy, end)()
                for talk in (one, two):
                    talk.expect_eof()
        assert 0 == len(proxy)
        assert [] == handlers()
        proxy.stop()
    assert [b"secret"] == gate.derived


@pytest.mark.parametrize("end", ["stop", "stop_listening"])
def test_the_end_interrupts_a_derivation_by_hand(users_file, monkeypatch, end):
    """As a Python without OpenSSL derives, which takes seconds for a hash that may be dear."""
    ended, begun = [], threading.Event()

    def derive(by_hand, *args):
        begun.set()
        try:
            by_hand(*args)
        except ProxyStops as exc:
            ended.append(str(exc))
            raise
        ended.append("to its end")

    monkeypatch.setattr(passwords, "is_fast", lambda: False)
    inside.wrap_derivation_by_hand(monkeypatch, derive)
    users_file({b"ann": Hash(MAX_ITERATIONS, SALT, bytes(32))})
    with nothing_left():
        proxy = Proxy(listen="127.0.0.1:0", users_file=users_file.path)
        proxy.start()
        with login(proxy.port) as one:
            assert begun.wait(TIMEOUT)
            with login(proxy.port, b"bob") as two:
                wait_until(lambda: queued(proxy) == 1, "the second login in the queue")
                getattr(proxy, end)()
                for talk in (one, two):
                    talk.expect_eof()
        assert [] == handlers()
        proxy.stop()
    assert ["shutdown"] == ended


class OpenSSL:
    """A derivation by OpenSSL that takes until a test has it go on."""

    def __init__(self, monkeypatch):
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.passwords = set()
        derive = hashlib.pbkdf2_hmac

        def pbkdf2_hmac(*args):
            self.passwords.add(args[1])
            self.begun.set()
            assert self.go_on.wait(TIMEOUT)
            return derive(*args)

        pbkdf2_hmac.__module__ = "_hashlib"
        monkeypatch.setattr(hashlib, "pbkdf2_hmac", pbkdf2_hmac)


@pytest.fixture
def openssl(monkeypatch):
    """OpenSSL, which takes long."""
    made = OpenSSL(monkeypatch)
    yield made
    made.go_on.set()


@pytest.mark.parametrize("end", ["stop", "stop_listening"])
def test_the_end_waits_for_one_derivation_by_openssl(users_file, openssl, end):
    """It cannot be interrupted; but no other one is begun, and then all threads have ended."""
    with nothing_left():
        proxy = Proxy(listen="127.0.0.1:0", users_file=users_file.path)
        proxy.start()
        with login(proxy.port) as one:
            assert openssl.begun.wait(TIMEOUT)
            with login(proxy.port, b"bob") as two:
                wait_until(lambda: queued(proxy) == 1, "the second login in the queue")
                stopper = threading.Thread(target=getattr(proxy, end))
                stopper.start()
                two.expect_eof()
                openssl.go_on.set()
                stopper.join(TIMEOUT)
                one.expect_eof()
        assert not stopper.is_alive()
        assert [] == handlers()
        proxy.stop()
    assert {b"secret"} == openssl.passwords


@pytest.mark.parametrize("end", ["stop", "stop_listening"])
def test_the_end_leaves_a_long_derivation_by_openssl_alone(users_file, openssl, end, monkeypatch):
    """It waits for so long and no longer; when it is over the thread ends, and leaves nothing."""
    monkeypatch.setattr("minisocks.server.acceptor.STOP_SECONDS", 0.01)
    with nothing_left():
        proxy = Proxy(listen="127.0.0.1:0", users_file=users_file.path)
        proxy.start()
        with login(proxy.port) as talk:
            assert openssl.begun.wait(TIMEOUT)
            getattr(proxy, end)()
            assert 1 == len(handlers())
            openssl.go_on.set()
            wait_until(lambda: not handlers(), "the end of the thread")
            talk.expect_eof()
        proxy.stop()


def test_the_hook_is_asked_about_others(users_file, target):
    """The client's own thread asks it, once the file has said no."""
    asked = []

    def authenticate(user, password, client):
        asked.append((user, password, threading.current_thread().name))
        return user == "eve"

    with nothing_left(), run_proxy(users_file=users_file.path, authenticate=authenticate) as proxy:
        with login(proxy.port) as talk:
            talk.expect(RIGHT)
        for _ in range(5):
            with login(proxy.port, b"eve") as talk:
                talk.expect(RIGHT)
                connects(talk, target)
        with login(proxy.port, b"dan") as talk:
            talk.expect(WRONG).expect_eof()

    assert [("eve", "secret", "minisocks-handler")] * 5 + [
        ("dan", "secret", "minisocks-handler")
    ] == asked


def test_an_empty_file_lets_no_client_in(users_file, target):
    """Not even from loopback: to take the last user out does not mean to do without passwords."""
    users_file({})
    with run_proxy(users_file=users_file.path) as proxy:
        assert not may_connect(proxy.port, target)
        with login(proxy.port) as talk:
            talk.expect(WRONG).expect_eof()


def test_reload_reads_the_file(users_file, target):
    """A new user may come in, one that is gone may not; a file with a mistake changes nothing."""
    with run_proxy(users_file=users_file.path) as proxy:
        users_file({b"bob": HASHES[b"bob"]})
        proxy.reload(proxy.config)
        with login(proxy.port) as talk:
            talk.expect(WRONG).expect_eof()
        with login(proxy.port, *BOB) as talk:
            talk.expect(RIGHT)
        with open(users_file.path, "a") as file:
            file.write("eve:s3cret\n")
        with pytest.raises(ConfigError, match="users, line 2: this is no") as caught:
            proxy.reload(proxy.config._replace(max_handshakes=7))
        assert "s3cret" not in str(caught.value)
        assert 7 != proxy.config.max_handshakes
        with login(proxy.port, *BOB) as talk:
            talk.expect(RIGHT)


@pytest.mark.parametrize("text", ["ann:s3cret", "s3cret", None])
def test_a_file_that_cannot_be_used_keeps_it_from_starting(text, tmp_path):
    """The error's message stands alone: it says which file, and shows no password."""
    path = tmp_path / "users"
    if text is not None:
        path.write_text(text)
    proxy = Proxy(listen="127.0.0.1:0", users_file=str(path))
    with nothing_left(), pytest.raises(ConfigError) as caught:
        proxy.start()

    assert "--users-file" == caught.value.option
    assert str(path) in str(caught.value)
    assert "s3cret" not in caught.value.sentence


@pytest.mark.rfc("SOCKS4, CONNECT", "Passwords: the memo has none.")
def test_an_address_that_has_logged_in_needs_no_password(users_file, target, access_log):
    """By SOCKS5 and SOCKS4, with its user in the log; no other address, and not for ever."""
    with run_proxy(users_file=users_file.path, auth_once=600) as proxy:
        now = [100.0]
        inside.replace_clock(proxy.services.logins, lambda: now[0])
        assert not may_connect(proxy.port, target)
        with log_kept("minisocks") as log:
            for _ in range(2):
                with login(proxy.port) as talk:
                    talk.expect(RIGHT)
                    connects(talk, target)
        assert [
            "client=127.0.0.1 may come in without a password for 600 s, as 'ann' (--auth-once)"
        ] == [line for line in log.lines if "--auth-once" in line]
        access_log.lines.clear()
        assert may_connect(proxy.port, target)
        assert access_log.wait_for("user='ann'")
        access_log.lines.clear()
        with Talk.to(proxy.port) as talk:
            talk.send(socks4("127.0.0.1", target.port)).expect(b"\x00\x5a")
        assert access_log.wait_for("user='ann'")
        assert not may_connect(proxy.port, target, "127.0.0.2")
        # A client that shows a password is asked for it all the same.
        with Talk.to(proxy.port) as talk:
            talk.send(b"\x05\x02\x00\x02").expect(b"\x05\x02").send(password_message(b"ann", b"x"))
            talk.expect(WRONG).expect_eof()
        now[0] += 599
        assert may_connect(proxy.port, target)
        now[0] += 1
        assert not may_connect(proxy.port, target)


def test_without_auth_once_no_address_is_remembered(users_file, target):
    """The default is off."""
    with run_proxy(users_file=users_file.path) as proxy:
        with login(proxy.port) as talk:
            talk.expect(RIGHT)
            connects(talk, target)
        assert not may_connect(proxy.port, target)


def test_auth_once_is_no_longer_than_the_user(users_file, target):
    """A reload ends it with the user, with another password, and when it is switched off."""
    with run_proxy(users_file=users_file.path, auth_once=600) as proxy:
        for hashes, stays in (
            (HASHES, True),
            ({b"ann": Hash.of(b"secret", b"other salt", 10)}, False),
            ({b"bob": HASHES[b"bob"]}, False),
        ):
            users_file()
            proxy.reload(proxy.config)
            with login(proxy.port) as talk:
                talk.expect(RIGHT)
                connects(talk, target)
            users_file(hashes)
            proxy.reload(proxy.config)
            assert stays == may_connect(proxy.port, target)
        users_file()
        proxy.reload(proxy.config)
        with login(proxy.port) as talk:
            talk.expect(RIGHT)
        proxy.reload(proxy.config._replace(auth_once=0.0))
        assert not may_connect(proxy.port, target)


def test_rules_and_hooks_see_the_user(users_file, target):
    """A client that is admitted without a password has the name that it had with it."""
    seen = []

    def authorize(request):
        seen.append((request.user, request.client.user))
        return True

    with run_proxy(users_file=users_file.path, auth_once=600, authorize=authorize) as proxy:
        with login(proxy.port) as talk:
            talk.expect(RIGHT)
            connects(talk, target)
        assert may_connect(proxy.port, target)

    assert [("ann", b"ann")] * 2 == seen


def test_auth_once_works_for_every_kind_of_user(target):
    """A --user, and one that the hook knows, too."""
    with run_proxy(
        user="ann:secret", auth_once=600, authenticate=lambda user, *_: user == "eve"
    ) as proxy:
        for i, user in enumerate((b"ann", b"eve"), 2):
            source = "127.0.0.%d" % i
            with login(proxy.port, user, source=source) as talk:
                talk.expect(RIGHT)
                connects(talk, target)
            assert may_connect(proxy.port, target, source)
            proxy.reload(proxy.config)
            assert may_connect(proxy.port, target, source)


def test_a_unix_socket_is_not_remembered(users_file, tmp_path):
    """All clients on this host would come by the same address."""
    path = str(tmp_path / "s")
    with run_proxy(listen="unix:" + path, users_file=users_file.path, auth_once=600):
        for greeting, expected in ((GREETING, b"\x05\x02"), (b"\x05\x01\x00", b"\x05\xff")):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(path)
                talk = Talk(sock).send(greeting).expect(expected)
                if expected == b"\x05\x02":
                    talk.send(password_message(*ANN)).expect(RIGHT)


@pytest.mark.rfc(
    "RFC 1929 section 3",
    'The password is carried in cleartext: not where "sniffing" is possible and practical.',
)
def test_no_line_tells_a_password(users_file, access_log):
    """Neither password nor hash, whatever goes wrong."""
    with log_kept("minisocks") as log, run_proxy(users_file=users_file.path, auth_once=9) as proxy:
        for password in (b"secret", b"s3cret1", b"s3cret2", b"s3cret3"):
            with login(proxy.port, password=password) as talk:
                talk.receive(2)
        access_log.wait_for("wrong user name")
        shown = "\n".join(log.lines + access_log.lines) + repr(proxy.config) + repr(proxy.records)

    assert "may come in without" in shown
    assert "has failed" in shown
    assert "secret" not in shown
    assert "s3cret" not in shown
    assert "pbkdf2" not in shown


def test_guesses_by_socks_are_slowed_with_user_only(target, monkeypatch):
    """After three wrong ones the answer to the next one, a right one, is not there at once."""
    pauses, pause = [], ClientSocket.pause

    def noted(conn, seconds, *args):
        pauses.append((conn.client.host, seconds))
        pause(conn, seconds, *args)

    monkeypatch.setattr(ClientSocket, "pause", noted)
    with run_proxy(user=("ann:secret", "bob:hunter2")) as proxy:
        now = [1000.0]
        inside.replace_clock(proxy.services.logins, lambda: now[0])
        for _ in range(3):
            with login(proxy.port, password=b"wrong") as talk:
                talk.expect(WRONG).expect_eof()
        assert [] == pauses
        with login(proxy.port) as talk:
            wait_until(lambda: pauses, "its pause")
            with login(proxy.port, *BOB) as other:
                other.expect(RIGHT)
                assert 2 == proxy.stats().handshakes
            assert {("127.0.0.1", 0.5)} == set(pauses)
            now[0] += 0.5
            talk.expect(RIGHT).send(socks5("127.0.0.1", target.port))
            assert 0 == talk.receive_reply5()[0]


def test_a_login_that_waits_is_bounded_like_other_handshakes(users_file, gate, access_log):
    """By --max-handshakes: one more ends the oldest that waits, and its thread comes back."""
    settings = {"users_file": users_file.path, "max_handshakes": 4}
    with run_proxy(**settings) as proxy, contextlib.ExitStack() as stack:
        talks = []
        for i in range(5):
            talks.append(stack.enter_context(login(proxy.port, b"ann", b"%d" % i)))
            if not i:
                gate.wait()
            wait_until(lambda: queued(proxy) == min(i, 3), "its place")  # noqa: B023
        talks[1].expect(WRONG).expect_eof()
        access_log.wait_for("there are too many unfinished handshakes (--max-handshakes 4)")
        assert 4 == proxy.stats().handshakes
        gate.open()
        for i in (0, 2, 3):
            talks[i].expect(WRONG).expect_eof()
        assert [b"0", b"2", b"3"] == gate.derived[:3]


def test_a_login_that_waits_too_long_is_refused(access_log, monkeypatch):
    """The reply is that of a wrong password, as the protocol has no other; the log says why."""
    monkeypatch.setattr("minisocks.server.logins.MOST_SECONDS", 0.05)
    with nothing_left(), run_proxy(user=("ann:secret",)) as proxy:
        for _ in range(8):
            proxy.services.logins.failed(Client(("127.0.0.1", 1)), b"ann")
        with login(proxy.port) as talk:
            talk.expect(WRONG).expect_eof()
        access_log.wait_for("why='the password cannot be checked in time")
        wait_until(lambda: len(proxy) == 0, "its end")


def test_a_trusted_client_is_no_user_where_none_is_needed(target):
    """A client that may come in without a password keeps the rules of clients without one."""
    rules = ["allow to loopback user none", "allow to 192.0.2.0/24 user ann"]
    with run_proxy(user=("ann:secret",), rule=rules, auth_once=60.0) as proxy:
        with Talk.to(proxy.port) as talk:
            talk.send(GREETING + password_message(b"ann", b"secret")).expect(b"\x05\x02" + RIGHT)
        for _ in range(2):
            with Talk.to(proxy.port) as talk:
                assert 0 == talk.connect5("127.0.0.1", target.port)[0]


@pytest.mark.parametrize("kind", ["password", "trusted"])
def test_a_user_that_is_removed_meanwhile_does_not_come_in(target, kind):
    """It does not with a handshake either that was begun before."""
    with run_proxy(user=("ann:secret", "bob:x"), auth_once=600) as proxy:
        with Talk.to(proxy.port) as first:
            first.send(GREETING + password_message(b"ann", b"secret")).expect(b"\x05\x02" + RIGHT)
            with Talk.to(proxy.port) as second:
                second.send(b"\x05\x01\x00").expect(b"\x05\x00")
                proxy.reload(proxy.config._replace(user=("bob:x",)))
                talk = first if kind == "password" else second
                talk.send(socks5("127.0.0.1", target.port))
                assert 2 == talk.receive_reply5()[0]
