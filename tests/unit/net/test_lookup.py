"""The family of addresses that the system's resolver is asked for, and answers that are kept."""

import socket
import sys
import tracemalloc

import pytest

from kit import inside
from kit.support import Clock, wait_until
from minisocks.errors import DialError
from minisocks.net import lookup
from minisocks.net.lookup import (
    LIMIT_SHARE,
    MAX_BYTES,
    MAX_NAMES,
    NAME_SECONDS,
    NO_NAME_SECONDS,
    SWEEP_SECONDS,
    Answers,
    look_up,
    system_getaddrinfo,
)
from minisocks.net.loop import Loop, run_in
from minisocks.policy.networks import MAX_ADDRESSES
from minisocks.wire import Rep

V4, V6 = int(socket.AF_INET), int(socket.AF_INET6)
HOW = (socket.SOCK_STREAM, socket.IPPROTO_TCP, 0)
NO_DATA = getattr(socket, "EAI_NODATA", None)


@pytest.fixture
def asked(monkeypatch):
    """The families that the system's resolver is asked for, on a host that has IPv4 only."""
    found = []

    def getaddrinfo(host, port, family, *how):
        assert how == HOW
        found.append(family)
        if host == b"v6.test" and family == V4:
            raise socket.gaierror(NO_DATA, "No address associated with hostname")
        return []

    inside.replace_getaddrinfo(monkeypatch, getaddrinfo)
    monkeypatch.setattr(lookup, "only_family", lambda: V4)
    return found


@pytest.mark.parametrize(
    "host, family, expected",
    [
        (b"example.org", 0, V4),
        (b"example.org", V6, V6),
        (b"notlocalhost", 0, V4),
        (b"localhost.example.org", 0, V4),
        (b"localhost", 0, 0),
        (b"LocalHost.", 0, 0),
        (b"app.localhost", 0, 0),
        (b"ip6-localhost", 0, 0),
        (b"localhost", V4, V4),
    ],
)
def test_family_that_is_asked_for(host, family, expected, asked):
    """What is wanted, else what this host has; loopback has both on any host."""
    system_getaddrinfo(host, 80, family, *HOW)

    assert [expected] == asked


@pytest.mark.skipif(NO_DATA is None, reason="this C library does not tell it from no name")
@pytest.mark.parametrize(
    "family, why",
    [
        (0, "it has no IPv4 address, and this host has none of another family to reach it from"),
        (V4, "it has no IPv4 address"),
    ],
)
def test_name_without_an_address_of_the_family(family, why, asked):
    """The error says which one was asked for, so that it is not taken for a wrong name."""
    with pytest.raises(socket.gaierror) as caught:
        system_getaddrinfo(b"v6.test", 80, family, *HOW)

    assert why == caught.value.strerror


@pytest.mark.parametrize("family, host", [(V4, "192.0.2.1"), (V6, "2001:db8::1")])
def test_answer_of_a_program_that_looks_at_no_family(family, host):
    """Addresses of another family are not used."""
    rows = [(V6, ("2001:db8::1", 80, 0, 0)), (V4, ("192.0.2.1", 80))]

    found = look_up(lambda *args: [(f, 1, 6, "", to) for f, to in rows], b"both.test", 80, family)

    assert [host] == [sockaddr[0] for _family, sockaddr in found]


# Answers: remembered for a while, counted as memory, forgotten by themselves

FOUND = [(2, ("192.0.2.1", 53))]
FAILED = DialError("no such host", Rep.HOST_UNREACHABLE)


@pytest.fixture
def loop():
    """A loop that does not run."""
    made = Loop()
    yield made
    made.stop()


@pytest.fixture
def clock():
    """The clock of the answers."""
    return Clock()


@pytest.fixture
def answers(loop, clock):
    """Answers that keep nothing yet."""
    return Answers(loop, clock)


def many(number, family=2):
    """Return so many addresses, none of whose parts any other answer has."""
    tails = () if family == 2 else (0, 0)
    text = "100.100.%d.%d" if family == 2 else "2001:db8:1111:2222:3333:4444:%x:%x"
    return [(family, (text % divmod(n + 1000, 256), 50000 + n) + tails) for n in range(number)]


@pytest.mark.parametrize("outcome, seconds", [(FOUND, NAME_SECONDS), (FAILED, NO_NAME_SECONDS)])
def test_a_name_is_known_for_a_while(outcome, seconds, answers, clock):
    """Its addresses, or that it has none; and then it is asked about again."""
    assert answers.get(b"a.test") is None
    answers.add(b"a.test", outcome)
    clock.now += seconds - 0.01
    assert str(outcome) == str(answers.get(b"a.test"))
    clock.now += 0.02
    assert answers.get(b"a.test") is None
    assert (0, 0) == (len(answers), answers.bytes)
    assert 0 < NO_NAME_SECONDS < NAME_SECONDS <= 60


def test_a_name_that_is_looked_up_again_is_young_again(answers, clock):
    """What came last counts, for its own time."""
    answers.add(b"a.test", FAILED)
    clock.now += NO_NAME_SECONDS - 1
    answers.add(b"a.test", FOUND)
    clock.now += NAME_SECONDS - 1
    assert FOUND is answers.get(b"a.test")
    answers.clear()
    assert answers.get(b"a.test") is None


def test_few_names_are_known(answers):
    """The oldest is forgotten for one too many."""
    for number in range(MAX_NAMES + 5):
        answers.add(b"%d.test" % number, FOUND)
    assert MAX_NAMES == len(answers)
    assert answers.get(b"4.test") is None
    assert FOUND is answers.get(b"5.test")


def test_only_a_long_answer_is_known_to_connections(answers):
    """It has the port that is asked for; short ones are looked up for each connection."""
    answers.add(b"short.test", many(MAX_ADDRESSES - 1))
    answers.add(b"gone.test", FAILED)
    long_one = many(MAX_ADDRESSES // 2) + many(MAX_ADDRESSES // 2, 10)
    answers.add(b"long.test", long_one)
    assert answers.long_one(b"short.test", 80) is None
    assert answers.long_one(b"gone.test", 80) is None
    assert [
        (family, (sockaddr[0], 80) + sockaddr[2:]) for family, sockaddr in long_one
    ] == answers.long_one(b"long.test", 80)


# Memory


@pytest.mark.parametrize("limit", [None, 8 << 20, 80000, 0])
def test_what_is_known_counts_as_memory(limit, loop, answers):
    """It is part of what --memory-limit is held against, has an eighth of it, and is given back."""
    most = MAX_BYTES if limit is None else min(MAX_BYTES, limit // LIMIT_SHARE)
    answers.change(limit)
    for number in range(2 * MAX_NAMES):
        answers.add(b"%d.test" % number, many(MAX_ADDRESSES))
        assert answers.bytes == loop.pipes.pending_bytes <= most
    assert (len(answers) > 0) == (most > 30000)
    answers.change(limit)
    assert (0, 0, 0) == (len(answers), answers.bytes, loop.pipes.pending_bytes)


def failed(name):
    """Return what comes of a name that has no address."""

    def getaddrinfo(*args):
        raise OSError(-2, "Name or service not known" + " " * len(args))

    try:
        return look_up(getaddrinfo, name, 80)
    except DialError as exc:
        return exc


@pytest.mark.parametrize(
    "outcome, name",
    [
        (lambda name: many(1), b"%d.test"),
        (lambda name: many(MAX_ADDRESSES), b"%d.test"),
        (lambda name: many(MAX_ADDRESSES, 10), b"%d.test" + b"x" * 240),
        (failed, b"%d.test"),
        (failed, b"%d.test" + b"\xff" * 240),
    ],
    ids=["one address", "64 addresses", "64 of IPv6", "none", "none of a long name"],
)
def test_no_more_is_taken_than_is_counted(outcome, name, answers):
    """Of each kind of answer Python takes at most what the table says, and not much less."""
    answers.add(b"first.test", FOUND)
    counted = answers.bytes
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(50):
            one = name % number
            answers.add(one, outcome(one))
        del one
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    counted = answers.bytes - counted
    print("%d bytes for each, counted as %d" % (taken / 50, counted / 50))
    assert counted / 4 < taken < counted


def test_an_error_keeps_nothing_else(answers):
    """Neither what has caused it nor the frames that it came through, which have datagrams."""
    answers.add(b"gone.test", failed(b"gone.test"))
    error = answers.get(b"gone.test")
    assert "'gone.test' cannot be resolved" in str(error)
    assert Rep.HOST_UNREACHABLE == error.rep
    assert (None, None, None) == (error.__traceback__, error.__cause__, error.__context__)


# Time


def test_it_is_forgotten_by_itself_and_then_the_loop_sleeps(clock):
    """An answer ends without a further request; while there is any, the loop looks now and then."""
    loop = Loop()
    answers = Answers(loop, clock)
    loop.start()
    try:
        run_in(loop, lambda: (answers.add(b"a.test", FOUND), answers.add(b"b.test", FAILED)))

        def after(seconds):
            clock.now += seconds
            (timer,) = [one for one in inside.timers(loop) if one.callback is not None]
            timer.callback()
            timer.cancel()
            return len(answers)

        assert 0 == len(loop)  # none that the proxy's end would wait for
        assert 1 == run_in(loop, lambda: after(NO_NAME_SECONDS))
        assert 1 == run_in(loop, lambda: after(SWEEP_SECONDS))
        assert 0 == run_in(loop, lambda: after(NAME_SECONDS))
        assert (0, 0) == (answers.bytes, loop.pipes.pending_bytes)
        assert -1.0 == inside.seconds_to_timer(loop)
        run_in(loop, lambda: answers.add(b"c.test", FOUND))  # and begins anew
        assert 0 == run_in(loop, lambda: after(NAME_SECONDS))
        assert -1.0 == inside.seconds_to_timer(loop)
    finally:
        loop.stop()


def test_the_sweep_comes_in_time(monkeypatch):
    """Here in no time: the loop itself calls it."""
    monkeypatch.setattr(sys.modules[Answers.__module__], "SWEEP_SECONDS", 0.0)
    loop, clock = Loop(), Clock()
    answers = Answers(loop, clock)
    loop.start()
    try:
        run_in(loop, lambda: answers.add(b"a.test", FOUND))
        clock.now += NAME_SECONDS
        wait_until(lambda: len(answers) == 0, "the end of what is too old")
    finally:
        loop.stop()


def test_nothing_is_left_when_the_loop_ends():
    """Neither what is known nor its weight, nor is anything remembered after that."""
    loop = Loop()
    answers = Answers(loop)
    loop.start()
    run_in(loop, lambda: answers.add(b"a.test", FOUND))
    loop.stop()
    answers.add(b"b.test", FOUND)
    assert (0, 0, 0) == (len(answers), answers.bytes, loop.pipes.pending_bytes)
