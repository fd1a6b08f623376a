"""Whose password is checked next, what that costs, and who need not show one again."""

import contextlib
import socket
import threading
import time

import pytest

from minisocks import Proxy, logins
from minisocks.auth import Users
from minisocks.client import Client
from minisocks.errors import ConfigError, NotChecked
from minisocks.handshake import Credentials
from minisocks.logins import Logins, Waiter
from minisocks.passwords import Hash
from support import (
    TIMEOUT,
    Talk,
    log_kept,
    nothing_left,
    password_message,
    run_proxy,
    socks4,
    socks5,
    wait_until,
)

SALT = bytes(16)
HASHES = {
    b"ann": Hash.of(b"secret", SALT, 1000),
    b"bob": Hash.of(b"hunter2", SALT, 1000),
    b"slow": Hash.of(b"slow", SALT, 2000),
}
ANN, BOB = Credentials(b"ann", b"secret"), Credentials(b"bob", b"hunter2")
HERE = Client(("192.0.2.1", 7))
GREETING = b"\x05\x01\x02"
RIGHT, WRONG = b"\x01\x00", b"\x01\x01"


class Alone:
    """Loop, clock and deriver of ``Logins``, all by hand."""

    def __init__(self, users=None):
        self.now = 1000.0
        self.timers = []
        self.works = []
        self.logins = Logins(self, lambda: self.now, lambda: self)
        self.logins.adopt(users or Users(hashed=HASHES), 0.0)
        self.derived = []

    # As a loop and its timer

    def call_soon(self, job, callback, *args):
        callback(*args)

    def call_later(self, seconds, job, callback):
        self.timers.append((seconds, callback))
        return self

    def cancel(self):
        self.timers.clear()

    # As a deriver; and as a loop, which takes jobs by the same name

    def submit(self, *args):
        if len(args) == 2:
            self.works.append(args)
            assert 1 == len(self.works)

    def close(self):
        self.works.clear()

    # For the tests

    def answer(self):
        """Have what is derived come out."""
        work, on_answer = self.works.pop()
        self.derived.append(self.logins._current.credentials)
        on_answer(work(lambda: None))

    def answer_all(self):
        """Have all come out, penalties served."""
        while len(self.logins):
            if self.works:
                self.answer()
            else:
                self.wait()

    def wait(self):
        """Let the time pass until the timer; return how long that is."""
        ((seconds, callback),) = self.timers
        self.timers.clear()
        self.now += seconds
        callback()
        return seconds


class Somebody(Waiter):
    """A client that waits."""

    def __init__(self, alone, credentials, host="192.0.2.1", is_gone=False):
        self.logins = alone.logins
        self.client = Client((host, 1) if host else "")
        self.credentials = credentials
        self.is_gone = is_gone
        self.said = None
        try:
            self.logins.wait(self)
        except NotChecked as exc:
            self.said = str(exc)

    def has_left(self):
        if self.is_gone:
            self.logins.leave(self)
        return self.is_gone

    def answered(self, ok):
        assert self.said is None
        self.said = ok

    def refused(self, error):
        assert self.said is None
        self.said = str(error)

    def abort(self, why):
        self.logins.leave(self)
        self.refused(why)


@pytest.mark.parametrize(
    "user, password, expected",
    [
        (b"ann", b"secret", True),
        (b"ann", b"hunter2", False),
        (b"bob", b"hunter2", True),
        (b"nobody", b"secret", False),
        (b"", b"", False),
    ],
)
def test_the_right_password_is_right(user, password, expected):
    """Each user's own, after a derivation, and no other."""
    alone = Alone()
    assert alone.logins.verdict(Credentials(user, password), HERE) is None
    waiter = Somebody(alone, Credentials(user, password))
    assert waiter.said is None
    alone.answer()

    assert expected is waiter.said
    assert 0 == len(alone.logins)


@pytest.mark.parametrize("user", [b"ann", b"slow", b"nobody", b"plain"])
def test_every_wrong_password_costs_the_same(user, monkeypatch):
    """Whether there is such a user, and how many iterations its hash has, does not show."""
    iterations = []
    for module in ("passwords", "auth"):
        monkeypatch.setattr(
            "minisocks.%s.derive" % module,
            lambda password, salt, count, pause: iterations.append(count) or bytes(32),
        )
    alone = Alone(Users([(b"plain", b"plain")], hashed=HASHES))
    waiter = Somebody(alone, Credentials(user, b"wrong"))
    alone.answer()

    assert waiter.said is False
    assert 2000 == sum(iterations)


def test_passwords_that_are_known_cost_nothing():
    """A --user beside the file is answered at once; so is everybody where no hashes are."""
    assert Alone(Users([ANN], hashed=HASHES)).logins.verdict(ANN, HERE) is True
    assert Alone(Users([ANN])).logins.verdict(ANN, HERE) is True
    assert Alone(Users([ANN])).logins.verdict(BOB, HERE) is False
    assert Alone(Users(hashed={})).logins.verdict(BOB, HERE) is False


def test_fifty_at_once_cost_one():
    """The connections of a browser share a derivation, and later ones need none."""
    alone = Alone()
    waiters = [Somebody(alone, ANN) for _ in range(50)]
    alone.answer()

    assert [True] * 50 == [waiter.said for waiter in waiters]
    assert [] == alone.works
    assert alone.logins.verdict(ANN, HERE) is True
    assert alone.logins.verdict(Credentials(b"ann", b"wrong"), HERE) is None


def test_fifty_wrong_ones_are_one_failure():
    """A browser that is sure of a wrong password is not slowed as if it had guessed fifty."""
    alone = Alone()
    waiters = [Somebody(alone, Credentials(b"ann", b"wrong")) for _ in range(50)]
    alone.answer()
    last = Somebody(alone, ANN)

    assert [False] * 50 == [waiter.said for waiter in waiters]
    alone.answer()
    assert last.said is True


def test_who_has_left_costs_nothing():
    """It is looked after its client before, and not derived for nobody."""
    alone = Alone()
    first = Somebody(alone, ANN)
    gone = [Somebody(alone, BOB, is_gone=True), Somebody(alone, BOB, is_gone=True)]
    third = Somebody(alone, Credentials(b"slow", b"slow"))
    alone.answer_all()

    assert [b"ann", b"slow"] == [credentials.user for credentials in alone.derived]
    assert [True, None, None, True] == [one.said for one in [first, *gone, third]]


def test_one_of_those_who_share_may_leave():
    """The others are answered, and the bound counts right."""
    alone = Alone()
    first, second, third = [Somebody(alone, ANN) for _ in range(3)]
    alone.logins.leave(first)
    alone.logins.leave(first)
    assert 2 == len(alone.logins)
    alone.answer()

    assert [None, True, True] == [one.said for one in (first, second, third)]


def test_all_may_leave_while_it_is_derived():
    """The answer finds nobody, and what it says is remembered."""
    alone = Alone()
    waiter = Somebody(alone, ANN)
    alone.logins.leave(waiter)
    assert 0 == len(alone.logins)
    alone.answer()

    assert waiter.said is None
    assert alone.logins.verdict(ANN, HERE) is True


def test_addresses_take_turns():
    """One that wants a hundred delays the others by one."""
    alone = Alone()
    many = [Somebody(alone, Credentials(b"ann", b"%d" % i)) for i in range(100)]
    others = [Somebody(alone, ANN, "192.0.2.2"), Somebody(alone, BOB, "192.0.2.3")]
    alone.answer()  # that was under way
    alone.answer()
    assert [True, None] == [other.said for other in others]
    alone.answer()
    assert [True, True] == [other.said for other in others]
    assert [False, None] == [one.said for one in many[:2]]
    alone.answer_all()
    assert [False] * 100 == [one.said for one in many]


def test_one_v6_client_has_one_turn():
    """All addresses of a /64 are one, and those of another are another."""
    alone = Alone()
    for i in range(5):
        Somebody(alone, Credentials(b"ann", b"%d" % i), "2001:db8::%d" % i)
    other = Somebody(alone, ANN, "2001:db8:0:1::1")
    alone.answer()
    alone.answer()

    assert other.said is True


@pytest.mark.parametrize("host", ["192.0.2.1", "127.0.0.1", ""])
def test_who_fails_often_waits_before_it_costs(host):
    """Three are free; then each derivation is put off, twice as long each time."""
    alone = Alone()
    waits = []
    with log_kept("minisocks") as log:
        for i in range(8):
            waiter = Somebody(alone, Credentials(b"ann", b"%d" % i), host)
            waits.append(0 if alone.works else alone.wait())
            alone.answer()
            assert waiter.said is False

    assert [0, 0, 0, 0.5, 1, 2, 4] == waits[:7]
    assert 1 == len(log.lines)
    assert "client=%s has failed to log in 3 times" % (host or "unix") in log.lines[0]


def test_the_others_do_not_wait_for_it():
    """Nor is a timer left behind that is not needed."""
    alone = Alone()
    for i in range(4):
        Somebody(alone, Credentials(b"ann", b"%d" % i))
    for _ in range(3):
        alone.answer()
    assert (0, 1) == (len(alone.works), len(alone.timers))
    other = Somebody(alone, BOB, "192.0.2.2")
    assert (1, 0) == (len(alone.works), len(alone.timers))
    alone.answer()
    assert other.said is True
    assert (0, 1) == (len(alone.works), len(alone.timers))


def test_a_success_does_not_make_up_for_failures():
    """Whoever guesses may have an account of his own; but what is remembered never waits."""
    alone = Alone()
    for i in range(3):
        Somebody(alone, Credentials(b"ann", b"%d" % i))
        alone.answer()
    right = Somebody(alone, BOB)
    assert 0.5 == alone.wait()
    alone.answer()
    assert right.said is True
    alone.logins.failed(right.client, b"ann")
    Somebody(alone, Credentials(b"ann", b"x"))
    assert 1 == alone.wait()
    assert alone.logins.verdict(BOB, HERE) is True


def test_what_fails_without_a_derivation_counts_too():
    """Where a hook, or nobody, has the last word."""
    alone = Alone()
    client = Client(("192.0.2.1", 1))
    for _ in range(3):
        alone.logins.failed(client, b"ann")
    Somebody(alone, ANN)

    assert ([], 0.5) == (alone.works, alone.timers[0][0])


def test_a_hook_has_the_last_word():
    """What the file does not know is no failure yet."""
    alone = Alone(Users(hashed=HASHES, authenticate=lambda *args: True))
    for i in range(5):
        Somebody(alone, Credentials(b"eve", b"%d" % i))
        alone.answer()

    assert [] == alone.timers


def test_one_address_has_its_share():
    """Beyond it a login fails at once, and one line says so."""
    alone = Alone()
    with log_kept("minisocks") as log:
        tries = [Credentials(b"ann", b"%d" % i) for i in range(logins.MAX_OF_ADDRESS)]
        some = [Somebody(alone, one) for one in tries]
        more = [Somebody(alone, ANN) for _ in range(3)]
    other = Somebody(alone, ANN, "192.0.2.2")

    assert {None} == {one.said for one in some}
    assert ["too many logins wait to be checked"] * 3 == [one.said for one in more]
    assert other.said is None
    (line,) = log.lines
    assert "at capacity: 128 logins wait" in line
    assert "from 192.0.2.1" in line


def test_the_greediest_makes_room(monkeypatch):
    """When all places are taken, the newest of the address that has most goes."""
    monkeypatch.setattr(logins, "MAX_WAITING", 5)
    alone = Alone()
    many = [Somebody(alone, Credentials(b"ann", b"%d" % i)) for i in range(4)]
    one = Somebody(alone, ANN, "192.0.2.2")
    two = Somebody(alone, ANN, "192.0.2.3")
    three = Somebody(alone, BOB, "192.0.2.3")
    assert [None] * 2 == [many[0].said, many[1].said]
    assert ["too many logins wait to be checked"] * 2 == [many[2].said, many[3].said]
    four = Somebody(alone, BOB, "192.0.2.3")  # has as many as anybody else
    assert "too many logins wait to be checked" == four.said
    alone.answer_all()
    assert [True] * 3 == [one.said, two.said, three.said]


def test_a_reload_counts_at_once():
    """Who waits is held against the file as it is now; what was found before it does not count."""
    alone = Alone()
    under_way, waits = Somebody(alone, ANN), Somebody(alone, BOB)
    other = {b"ann": Hash.of(b"new", SALT, 10), b"bob": Hash.of(b"hunter2", SALT, 10)}
    alone.logins.adopt(Users(hashed=other), 0.0)
    alone.answer_all()

    assert (False, True) == (under_way.said, waits.said)
    assert alone.logins.verdict(ANN, HERE) is None
    assert alone.logins.verdict(BOB, HERE) is True
    alone.logins.adopt(Users(hashed={b"ann": other[b"ann"]}), 0.0)
    assert alone.logins.verdict(BOB, HERE) is None


def test_who_waits_when_the_file_goes_is_refused():
    """There is nothing left to hold its password against."""
    alone = Alone()
    waiters = [Somebody(alone, ANN), Somebody(alone, BOB)]
    alone.logins.adopt(Users(), 0.0)
    alone.answer_all()

    assert [False, False] == [waiter.said for waiter in waiters]


def test_no_thread_is_no_wrong_password(monkeypatch):
    """The client is refused, a line says why, and the next one finds a thread or not."""
    alone = Alone()
    with monkeypatch.context() as patch, log_kept("minisocks") as log:

        def fail(*args):
            if len(args) == 2:
                raise RuntimeError("can't start new thread")

        patch.setattr(alone, "submit", fail)
        waiter = Somebody(alone, ANN)
    assert "there is no thread to check a password" == waiter.said
    assert ["at capacity: no thread to check a password: can't start new thread"] == log.lines
    second = Somebody(alone, ANN)
    alone.answer()
    assert second.said is True


def test_a_derivation_that_fails_is_no_wrong_password():
    """Out of memory, say: this client is refused, the next one is checked."""
    alone = Alone()
    first, second = Somebody(alone, ANN), Somebody(alone, BOB)
    alone.works.pop()[1](None)
    alone.answer()

    assert ("checking the password failed", True) == (first.said, second.said)


@pytest.mark.parametrize("why", ["shutdown", "internal error"])
def test_abort_leaves_nobody_behind(why):
    """All who wait are told; after a bug of ours the next one is served again."""
    alone = Alone()
    waiters = [Somebody(alone, ANN), Somebody(alone, BOB)]
    alone.logins.abort(why)
    assert [why] * 2 == [waiter.said for waiter in waiters]
    assert ([], 0) == (alone.works, len(alone.logins))
    after = Somebody(alone, ANN)
    if why == "shutdown":
        assert "the proxy ends" == after.said
    else:
        alone.answer()
        assert after.said is True


# Through a whole proxy


@pytest.fixture
def users_file(tmp_path):
    """A file of users; call it to write other ones."""
    path = tmp_path / "users"

    def write(hashes=HASHES):
        path.write_bytes(
            b"".join(b"%s:%s\n" % (n, h.text().encode()) for n, h in hashes.items())
        )
        path.chmod(0o600)
        return str(path)

    write()
    write.path = str(path)
    return write


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
            while not self.go_on.acquire(timeout=0.01):
                pause()
            self.at_once -= 1
            return fits(users, password, known, pause)

        monkeypatch.setattr(Users, "fits", wait_and_say)

    def open(self):
        """Let all through."""
        for _ in range(1000):
            self.go_on.release()


@pytest.fixture
def gate(monkeypatch):
    """A gate that is closed."""
    return Gate(monkeypatch)


@contextlib.contextmanager
def login(port, user=b"ann", password=b"secret", source="127.0.0.1"):
    """A client that has sent its password."""
    with Talk.to(port, source=(source, 0)) as talk:
        talk.send(GREETING).expect(b"\x05\x02").send(password_message(user, password))
        yield talk


def connects(talk, target):
    """Have a client that is let in connect to *target*."""
    talk.send(socks5("127.0.0.1", target.port))
    assert 0 == talk.receive_reply5()[0]
    talk.send(b"x").expect(b"x").finish().expect_eof()


def may_connect(port, target, source="127.0.0.1"):
    """Return whether a client without a password may."""
    with Talk.to(port, source=(source, 0)) as talk:
        if talk.send(b"\x05\x01\x00").receive(2) != b"\x05\x00":
            return False
        connects(talk, target)
        return True


def test_a_login_goes_to_its_target(users_file, target, access_log):
    """Also when the client says all at once, and the log says who it was."""
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
    with run_proxy(users_file=users_file.path, user="plain:plain") as proxy:
        with contextlib.ExitStack() as stack:
            talks = [
                stack.enter_context(login(proxy.port, b"ann", b"%d" % i, "127.0.0.%d" % (i + 2)))
                for i in range(8)
            ]
            assert gate.begun.acquire(timeout=TIMEOUT)
            wait_until(lambda: len(proxy.services.logins) == 8, "8 logins")
            with login(proxy.port, b"plain", b"plain") as talk:
                talk.expect(RIGHT)
                connects(talk, target)
            assert 1 == len(gate.derived)
            gate.open()
            for talk in talks:
                talk.expect(WRONG).expect_eof()
        assert (8, 1) == (len(gate.derived), gate.most)


def test_fifty_connections_cost_one_derivation(users_file, target, gate):
    """Those that come at once wait for the same one, and those after it for none."""
    with run_proxy(users_file=users_file.path) as proxy:
        with contextlib.ExitStack() as stack:
            talks = [stack.enter_context(login(proxy.port)) for _ in range(50)]
            wait_until(lambda: len(proxy.services.logins) == 50, "50 logins")
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
            wait_until(lambda: len(proxy.services.logins) == len(talks), "a login")
        assert gate.begun.acquire(timeout=TIMEOUT)
        for talk in talks:
            getattr(talk, leave)()
        if leave == "reset":
            wait_until(lambda: len(proxy) == 0, "the end of all")
            assert 0 == len(proxy.services.logins)
        gate.open()
        wait_until(lambda: len(proxy) == 0, "the end of all")
        with login(proxy.port) as talk:
            talk.expect(RIGHT)
        assert [b"0", b"secret"] == gate.derived


def test_waiting_is_not_the_client_s_own_time(users_file, target, gate):
    """A login that takes longer than the handshake may is no timeout."""
    with run_proxy(users_file=users_file.path, handshake_timeout=0.3) as proxy:
        with login(proxy.port) as talk:
            assert gate.begun.acquire(timeout=TIMEOUT)
            too_late = time.monotonic() + 0.35
            wait_until(lambda: time.monotonic() > too_late, "the deadline")
            gate.open()
            talk.expect(RIGHT)
            connects(talk, target)


def test_stop_does_not_wait_for_passwords(users_file, gate):
    """Who waits is closed, and the thread ends at its next pause."""
    with nothing_left():
        proxy = Proxy(listen="127.0.0.1:0", users_file=users_file.path)
        proxy.start()
        with login(proxy.port) as one, login(proxy.port, b"bob") as two:
            wait_until(lambda: len(proxy.services.logins) == 2, "2 logins")
            assert gate.begun.acquire(timeout=TIMEOUT)
            proxy.stop()
            for talk in (one, two):
                talk.expect_eof()


def test_drain_does_not_wait_for_passwords(users_file, gate):
    """Unfinished handshakes end when listening does."""
    with run_proxy(users_file=users_file.path) as proxy, login(proxy.port) as talk:
        assert gate.begun.acquire(timeout=TIMEOUT)
        proxy.stop_listening()
        talk.expect_eof()
        assert 0 == len(proxy)


def test_the_hook_is_asked_about_others(users_file, target):
    """By a thread of its own, once the file has said no."""
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
        with login(proxy.port, b"nobody") as talk:
            talk.expect(WRONG).expect_eof()

    assert [("eve", "secret", "minisocks-handler")] * 5 + [
        ("nobody", "secret", "minisocks-handler")
    ] == asked


def test_an_empty_file_lets_nobody_in(users_file, target):
    """Not even from loopback: who takes the last user out does not mean to open the door."""
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


def test_an_address_that_has_logged_in_needs_no_password(users_file, target, access_log):
    """By SOCKS5 and SOCKS4, with its user in the log; no other address, and not for ever."""
    with run_proxy(users_file=users_file.path, auth_once=600) as proxy:
        now = [100.0]
        proxy.services.logins._clock = lambda: now[0]
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
        # Who shows a password is asked for it all the same.
        with Talk.to(proxy.port) as talk:
            talk.send(b"\x05\x02\x00\x02").expect(b"\x05\x02").send(password_message(b"ann", b"x"))
            talk.expect(WRONG).expect_eof()
        now[0] += 599
        assert may_connect(proxy.port, target)
        now[0] += 1
        assert not may_connect(proxy.port, target)


def test_without_auth_once_no_address_is_remembered(users_file, target):
    """It is off unless somebody wants it."""
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


def test_rules_and_hooks_see_who_it_is(users_file, target):
    """A client that is let in without a password has the name that it had with it."""
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
    """Everybody on this host would come by the same address."""
    path = str(tmp_path / "s")
    with run_proxy(listen="unix:" + path, users_file=users_file.path, auth_once=600):
        for greeting, expected in ((GREETING, b"\x05\x02"), (b"\x05\x01\x00", b"\x05\xff")):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(path)
                talk = Talk(sock).send(greeting).expect(expected)
                if expected == b"\x05\x02":
                    talk.send(password_message(*ANN)).expect(RIGHT)


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


# Guesses at what is remembered, or known as it is


def test_what_is_remembered_is_no_help_from_elsewhere():
    """Else somebody could guess at it for nothing."""
    alone = Alone()
    Somebody(alone, ANN)
    alone.answer()

    assert alone.logins.verdict(ANN, HERE) is True
    assert alone.logins.verdict(ANN, Client(("192.0.2.9", 1))) is None


def test_who_guesses_beside_a_user_waits_for_what_is_remembered():
    """From the same address, for the same name: then the user waits as well, and others do not."""
    alone = Alone()
    for right in (ANN, BOB):
        Somebody(alone, right)
        alone.answer()
    for _ in range(3):
        alone.logins.failed(HERE, b"ann")

    assert alone.logins.verdict(ANN, HERE) is None
    assert alone.logins.verdict(BOB, HERE) is True
    waiter = Somebody(alone, ANN)
    assert 0.5 == alone.wait()
    assert ([], True) == (alone.works, waiter.said)  # without another derivation
    assert alone.logins.verdict(ANN, HERE) is True


def test_who_guesses_at_passwords_that_are_known_waits():
    """Right or wrong: the answer comes when its turn does, and costs nothing."""
    alone = Alone(Users([ANN]))
    assert alone.logins.verdict(BOB, HERE) is False
    for _ in range(3):
        alone.logins.failed(HERE, b"ann")
    for credentials, expected in ((ANN, True), (BOB, False)):
        assert alone.logins.verdict(credentials, HERE) is None
        waiter = Somebody(alone, credentials)
        alone.wait()
        assert ([], expected) == (alone.works, waiter.said)
        alone.logins.failed(HERE, b"eve")


def test_a_password_that_is_hashed_anew_meanwhile_is_checked_anew():
    """The same one, by what is in the file by then."""
    alone = Alone()
    waiter = Somebody(alone, ANN)
    alone.logins.adopt(Users(hashed={b"ann": Hash.of(b"secret", b"other salt", 10)}), 0.0)
    alone.answer()
    assert waiter.said is None
    alone.answer()
    assert waiter.said is True


def test_guesses_by_socks_are_slowed_with_user_only(target):
    """After three wrong ones the next answer, also to the right one, is not there at once."""
    with run_proxy(user=("ann:secret",)) as proxy:
        for _ in range(4):
            with Talk.to(proxy.port) as talk:
                talk.send(GREETING + password_message(b"ann", b"wrong")).expect(b"\x05\x02" + WRONG)
        logins = proxy.services.logins
        with Talk.to(proxy.port) as talk:
            talk.send(GREETING + password_message(b"ann", b"secret")).expect(b"\x05\x02")
            wait_until(lambda: len(logins) == 1, "its place in the row")
            assert 1 == proxy.stats().handshakes
            talk.expect(RIGHT).send(socks5("127.0.0.1", target.port))
            assert 0 == talk.receive_reply5()[0]


def test_who_waits_is_bounded_like_other_handshakes(monkeypatch):
    """By --max-handshakes, half of them for an address; and in time."""
    monkeypatch.setattr("minisocks.login.MOST_SECONDS", 0.3)
    with nothing_left(), run_proxy(user=("ann:secret",), max_handshakes=4) as proxy:
        for _ in range(8):
            proxy.services.logins.failed(Client(("127.0.0.1", 1)), b"ann")
        with log_kept("minisocks") as log:
            talks = []
            for n in range(4):
                talk = Talk.to(proxy.port)
                talk.send(GREETING + password_message(b"ann", b"%d" % n)).expect(b"\x05\x02")
                talks.append(talk)
            for talk in talks:
                talk.expect(WRONG).expect_eof()
                talk.close()
            wait_until(lambda: len(proxy) == 0)
    assert any("too many logins wait" in line for line in log.lines)
    assert any("was not checked in time" in line for line in log.lines)


def test_a_guest_is_no_user_where_nobody_needs_to_be_one(target):
    """Who may come in without a password keeps the rules of those who have none."""
    rules = ["allow to loopback user none", "allow to 192.0.2.0/24 user ann"]
    with run_proxy(user=("ann:secret",), rule=rules, auth_once=60.0) as proxy:
        with Talk.to(proxy.port) as talk:
            talk.send(GREETING + password_message(b"ann", b"secret")).expect(b"\x05\x02" + RIGHT)
        for _ in range(2):
            with Talk.to(proxy.port) as talk:
                assert 0 == talk.connect5("127.0.0.1", target.port)[0]


@pytest.mark.parametrize("kind", ["password", "guest"])
def test_a_user_who_is_removed_meanwhile_does_not_come_in(target, kind):
    """Also with a handshake that was begun before."""
    with run_proxy(user=("ann:secret", "bob:x"), auth_once=600) as proxy:
        with Talk.to(proxy.port) as first:
            first.send(GREETING + password_message(b"ann", b"secret")).expect(b"\x05\x02" + RIGHT)
            with Talk.to(proxy.port) as second:
                second.send(b"\x05\x01\x00").expect(b"\x05\x00")
                proxy.reload(proxy.config._replace(user=("bob:x",)))
                talk = first if kind == "password" else second
                talk.send(socks5("127.0.0.1", target.port))
                assert 2 == talk.receive_reply5()[0]
