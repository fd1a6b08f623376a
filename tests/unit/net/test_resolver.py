"""Names to addresses, in threads that may hang while no other thread hangs with them."""

import contextlib
import errno
import queue
import re
import socket
import threading
import types

import pytest

from kit import inside
from kit.support import TIMEOUT, Clock, wait_until
from minisocks.errors import DialError
from minisocks.net import resolver as resolver_module
from minisocks.net.lookup import numeric_addresses
from minisocks.net.resolver import (
    MAX_THREADS,
    MAX_WAITING,
    Lookup,
    Resolver,
    ReverseLookup,
)
from minisocks.policy.client import THIS_HOST, groups_of
from minisocks.wire import Rep

TCP4 = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("192.0.2.1", 80))
TCP6 = (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("2001:db8::1", 80, 0, 0))


#: So many threads has a network from elsewhere alone: less than a quarter of the free ones.
SHARE = 13


def address(*numbers):
    """Return the groups of a client elsewhere: of each of *numbers* another network."""
    return groups_of(bytes((10, *numbers, 1))[:4].ljust(4, b"\1"))


GREEDY, HONEST = address(1), address(2)
#: All threads of one network, in the hands of as many clients.
CROWD = [groups_of(bytes((10, 1, 1, number))) for number in range(SHARE)]
#: One client alone has so many: as its network has room for beside them.
CLIENTS_SHARE = 8


def resolver_threads():
    """Return the resolver's threads."""
    return [t for t in threading.enumerate() if t.name == "minisocks-resolver"]


@pytest.fixture(autouse=True)
def no_thread_stays():
    """Each test ends with no thread of the resolver left."""
    yield
    wait_until(lambda: not resolver_threads(), "the end of the resolver's threads")


class Asker:
    """A resolver, and what its callbacks got."""

    def __init__(self, getaddrinfo):
        self.resolver = Resolver(getaddrinfo)
        self._outcomes = queue.Queue()

    def submit(self, name=b"name.test", port=80, client=THIS_HOST):
        """Have the resolver look a name up."""
        return self.resolver.submit(
            Lookup(name, port, lambda outcome: self._outcomes.put((name, outcome)), client)
        )

    def outcome(self):
        """Return the next name that is done, and its outcome."""
        return self._outcomes.get(timeout=TIMEOUT)

    def nothing_came(self):
        """Return whether no callback was made since the last look."""
        return self._outcomes.empty()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.resolver.close()


class Hanging:
    """A getaddrinfo that waits for ``answer``, as with a name server that is gone."""

    def __init__(self):
        self.answer = threading.Event()
        self.asked = []

    def __call__(self, name, *args):
        self.asked.append(name)
        assert self.answer.wait(TIMEOUT)
        return [TCP4]


@contextlib.contextmanager
def hanging():
    """A getaddrinfo that hangs while this lasts."""
    getaddrinfo = Hanging()
    try:
        yield getaddrinfo
    finally:
        getaddrinfo.answer.set()


def test_addresses():
    """The callback gets family and sockaddr of each address, in order, each once."""
    rows = [TCP6, TCP4, TCP6, TCP4]
    with Asker(lambda *args: rows) as asker:
        asker.submit()

        assert (
            b"name.test",
            [(socket.AF_INET6, ("2001:db8::1", 80, 0, 0)), (socket.AF_INET, ("192.0.2.1", 80))],
        ) == asker.outcome()


def test_what_is_asked_for():
    """getaddrinfo is given bytes, since text needs a codec that may be missing, and TCP."""
    asked = []

    def getaddrinfo(*args):
        asked.append(args)
        return [TCP4]

    with Asker(getaddrinfo) as asker:
        asker.submit(b"m\xc3\xbcnchen.test", 8080)
        asker.outcome()

    assert [(b"m\xc3\xbcnchen.test", 8080, 0, socket.SOCK_STREAM, socket.IPPROTO_TCP, 0)] == asked
    assert bytes is type(asked[0][0])


@pytest.mark.parametrize(
    "exc",
    [
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        UnicodeError("label empty or too long"),
        UnicodeEncodeError("idna", "x", 0, 1, "label too long"),
        LookupError("unknown encoding: idna"),
        ValueError("embedded null byte"),
    ],
    ids=repr,
)
def test_a_name_that_cannot_be_resolved(exc):
    """Whatever getaddrinfo raises for a name, the outcome is an unreachable host, and says why."""

    def getaddrinfo(*args):
        raise exc

    with Asker(getaddrinfo) as asker:
        asker.submit(b"bad\n.test")
        _, outcome = asker.outcome()

    assert isinstance(outcome, DialError)
    assert Rep.HOST_UNREACHABLE == outcome.rep
    assert str(exc) in str(outcome)
    assert r"'bad\n.test'" in str(outcome)


@pytest.mark.parametrize(
    "exc",
    [
        OSError(errno.EMFILE, "Too many open files"),
        socket.gaierror(socket.EAI_MEMORY, "Memory allocation failure"),
    ],
    ids=repr,
)
def test_a_resolver_without_room_says_nothing_about_the_host(exc):
    """What is our own trouble is REP 01, not an unreachable host."""

    def getaddrinfo(*args):
        raise exc

    with Asker(getaddrinfo) as asker:
        asker.submit(b"good.test")

        assert Rep.GENERAL_FAILURE == asker.outcome()[1].rep


def test_names_that_no_client_waits_for_any_more_make_room(monkeypatch):
    """Clients that ask and leave cannot keep others from having their names looked up."""
    go_on = threading.Event()

    def getaddrinfo(*args):
        assert go_on.wait(20)
        return [TCP4]

    with Asker(getaddrinfo) as asker:
        try:
            for _ in range(MAX_THREADS):
                asker.submit(b"first.test")
            wait_until(lambda: inside.busy_threads(asker.resolver) == MAX_THREADS)
            for _ in range(MAX_WAITING):
                asker.resolver.submit(Lookup(b"gone.test", 80, None)).cancel()
            asker.submit(b"honest.test")
        finally:
            go_on.set()
        names = {asker.outcome()[0] for _ in range(MAX_THREADS + 1)}

    assert {b"first.test", b"honest.test"} == names


def test_an_unexpected_error_costs_neither_thread_nor_caller(bugs):
    """A getaddrinfo of a program may have bugs: the caller gets an error, the thread lives on."""

    def getaddrinfo(name, *args):
        if name == b"good.test":
            return [TCP4]
        raise TypeError("a bug of the program")

    with Asker(getaddrinfo) as asker:
        for _ in range(MAX_THREADS + 1):
            asker.submit(b"bad.test")
            _, outcome = asker.outcome()
            assert isinstance(outcome, DialError)
        asker.submit(b"good.test")

        assert b"good.test" == asker.outcome()[0]
    assert ["looking 'bad.test' up failed"] * (MAX_THREADS + 1) == bugs


@pytest.mark.parametrize("rows", [[], [(99, socket.SOCK_STREAM, 0, "", ("whatever",))]])
def test_a_name_without_an_address(rows):
    """No address, or only ones of other families, is an unreachable host."""
    with Asker(lambda *args: rows) as asker:
        asker.submit()
        _, outcome = asker.outcome()

    assert Rep.HOST_UNREACHABLE == outcome.rep
    assert "'name.test' has no address" == str(outcome)


def test_names_are_looked_up_in_parallel():
    """A name that hangs holds up no other."""
    with hanging() as slow:

        def getaddrinfo(name, *args):
            return slow(name) if name == b"slow.test" else [TCP4]

        with Asker(getaddrinfo) as asker:
            asker.submit(b"slow.test")
            wait_until(lambda: slow.asked)
            for _ in range(50):
                asker.submit(b"quick.test")
                assert b"quick.test" == asker.outcome()[0]
            slow.answer.set()

            assert b"slow.test" == asker.outcome()[0]


def test_threads_are_reused():
    """One name after another needs one thread."""
    with Asker(lambda *args: [TCP4]) as asker:
        for _ in range(50):
            asker.submit()
            asker.outcome()
            wait_until(lambda: not inside.busy_threads(asker.resolver))

        assert 1 == len(resolver_threads())


def test_no_more_than_64_threads():
    """More names than threads wait for one, and all get it."""
    with hanging() as slow, Asker(slow) as asker:
        names = [b"%d.test" % i for i in range(MAX_THREADS * 3)]
        for name in names:
            asker.submit(name)
        wait_until(lambda: len(slow.asked) == MAX_THREADS)

        assert MAX_THREADS == len(resolver_threads()) == 64
        slow.answer.set()

        assert sorted(names) == sorted(asker.outcome()[0] for _ in names)
        assert sorted(names) == sorted(slow.asked)


def test_all_threads_stuck(monkeypatch):
    """When every thread waits for a dead name server, the next name is REP 01 at once."""
    with hanging() as slow, Asker(slow) as asker:
        for _ in range(MAX_THREADS):
            asker.submit()
        wait_until(lambda: len(slow.asked) == MAX_THREADS)
        monkeypatch.setattr(resolver_module, "STUCK_SECONDS", 0.0)

        with pytest.raises(DialError) as caught:
            asker.submit()

        assert Rep.GENERAL_FAILURE == caught.value.rep
        assert "all 64 resolver threads" in str(caught.value)
        slow.answer.set()
        for _ in range(MAX_THREADS):
            asker.outcome()
        wait_until(lambda: not inside.busy_threads(asker.resolver))
        asker.submit()  # works again
        asker.outcome()


def test_all_threads_but_one_stuck(monkeypatch):
    """One thread that answers is enough to go on."""
    with hanging() as slow:

        def getaddrinfo(name, *args):
            return slow(name) if name == b"slow.test" else [TCP4]

        with Asker(getaddrinfo) as asker:
            for _ in range(MAX_THREADS - 1):
                asker.submit(b"slow.test")
            wait_until(lambda: len(slow.asked) == MAX_THREADS - 1)
            monkeypatch.setattr(resolver_module, "STUCK_SECONDS", 0.0)

            for _ in range(20):
                asker.submit(b"quick.test")
                assert b"quick.test" == asker.outcome()[0]


def test_waiting_names_are_bounded():
    """Beyond a thousand waiting names the next is REP 01 at once."""
    with hanging() as slow, Asker(slow) as asker:
        for _ in range(MAX_THREADS):
            asker.submit()
        wait_until(lambda: len(slow.asked) == MAX_THREADS)
        for _ in range(MAX_WAITING):
            asker.submit()

        with pytest.raises(DialError) as caught:
            asker.submit()

        assert Rep.GENERAL_FAILURE == caught.value.rep


def hang(asker, slow, *clients):
    """Have names of *clients* hang, which are the first ones, one by one."""
    before = len(slow.asked)
    for number, client in enumerate(clients):
        asker.submit(b"slow.test", client=client)
        wait_until(lambda number=number: len(slow.asked) == before + number + 1)


def test_a_network_has_less_than_a_quarter_of_the_free_threads():
    """A thousand names of one client or of its neighbours hang, and others' are looked up."""

    def getaddrinfo(name, *args):
        return [TCP4] if name == b"quick.test" else slow(name)

    with hanging() as slow, Asker(getaddrinfo) as asker:
        hang(asker, slow, *CROWD)
        for number in range(20):
            asker.submit(b"slow.test", client=address(1, number))
        for client in [HONEST, THIS_HOST] * 20:
            asker.submit(b"quick.test", client=client)
            assert b"quick.test" == asker.outcome()[0]
        assert SHARE == len(slow.asked)
        slow.answer.set()
        for _ in range(SHARE + 20):
            assert b"slow.test" == asker.outcome()[0]


def test_some_threads_are_this_hosts():
    """Names of however many networks hang: what its own programs ask for is looked up."""

    def getaddrinfo(name, *args):
        return [TCP4] if name == b"quick.test" else slow(name)

    with hanging() as slow, Asker(getaddrinfo) as asker:
        hang(asker, slow, *[address(number) for number in range(MAX_THREADS - 8)])
        for number in range(100, 120):
            asker.submit(b"late.test", client=address(number))
        for _ in range(20):
            asker.submit(b"quick.test")
            assert b"quick.test" == asker.outcome()[0]
        assert MAX_THREADS - 8 == len(slow.asked)


def test_this_host_has_all_threads_as_soon_as_no_other_client_has_any():
    """The last name of another client ends, and all that waits begins, not one for it."""
    last = threading.Event()

    def getaddrinfo(name, *args):
        if name == b"last.test":
            assert last.wait(TIMEOUT)
            return [TCP4]
        return slow(name)

    with hanging() as slow, Asker(getaddrinfo) as asker:
        asker.submit(b"last.test", client=HONEST)
        for _ in range(MAX_THREADS):
            asker.submit(b"slow.test")
        wait_until(lambda: SHARE == len(slow.asked), "those that may")
        last.set()
        wait_until(lambda: MAX_THREADS == len(slow.asked), "all of them")


def test_the_client_with_most_names_waiting_makes_room():
    """Its oldest lookup is REP 01, and so is its next one; others may still wait, and may leave."""
    with hanging() as slow, Asker(slow) as asker:
        hang(asker, slow, *CROWD, *[address(2, number) for number in range(11)])
        lookups = [asker.submit(b"%d" % number, client=GREEDY) for number in range(MAX_WAITING)]
        with pytest.raises(DialError, match="too many names"):
            asker.submit(client=GREEDY)
        assert asker.nothing_came()
        for number in range(3):
            asker.submit(b"honest.test", client=HONEST)
            name, outcome = asker.outcome()
            assert (b"%d" % number, Rep.GENERAL_FAILURE) == (name, outcome.rep)
            assert "too many names are being looked up" == str(outcome)
        lookups[7].cancel()
        asker.submit(client=GREEDY)
        with pytest.raises(DialError, match="too many names"):
            asker.submit(client=GREEDY)


def test_one_client_leaves_threads_to_its_neighbours():
    """In the same /24, where one asks for forty names whose server is gone, others' are found."""

    def getaddrinfo(name, *args):
        return [TCP4] if name == b"quick.test" else slow(name)

    greedy, neighbour = CROWD[:2]
    with hanging() as slow, Asker(getaddrinfo) as asker:
        hang(asker, slow, *[greedy] * CLIENTS_SHARE)
        for _ in range(40 - CLIENTS_SHARE):
            asker.submit(b"slow.test", client=greedy)
        for _ in range(20):
            asker.submit(b"quick.test", client=neighbour)
            assert b"quick.test" == asker.outcome()[0]
        assert CLIENTS_SHARE == len(slow.asked)
        slow.answer.set()
        for _ in range(40):
            name, outcome = asker.outcome()
            assert b"slow.test" == name
            assert isinstance(outcome, list)


def test_names_wait_for_a_server_that_answers_for_one_family(monkeypatch):
    """Each takes 15 s then, with none refused meanwhile: neither at first nor behind others."""
    clock = Clock()
    monkeypatch.setattr(resolver_module, "time", types.SimpleNamespace(monotonic=clock))
    with hanging() as slow, Asker(slow) as asker:
        hang(asker, slow, *[GREEDY] * CLIENTS_SHARE)
        clock.now += 15
        for _ in range(40 - CLIENTS_SHARE):
            asker.submit(b"slow.test", client=GREEDY)
        assert asker.nothing_came()
        clock.now += 5
        with pytest.raises(DialError, match="that this client may have"):
            asker.submit(b"slow.test", client=GREEDY)
        slow.answer.set()
        for _ in range(40):
            assert isinstance(asker.outcome()[1], list)


def test_a_client_whose_share_is_stuck_gets_an_error(monkeypatch):
    """Its next name does not wait in vain; another client's is looked up."""
    with hanging() as slow, Asker(slow) as asker:
        hang(asker, slow, *[GREEDY] * CLIENTS_SHARE)
        monkeypatch.setattr(resolver_module, "STUCK_SECONDS", 0.0)
        with pytest.raises(DialError, match="that this client may have") as caught:
            asker.submit(client=GREEDY)
        assert Rep.GENERAL_FAILURE == caught.value.rep
        for client in (HONEST, THIS_HOST):
            hang(asker, slow, client)


def test_the_client_with_fewest_running_goes_first():
    """A client with many names waiting has one looked up, and then the next client has one."""
    go_on, asked = {name: threading.Semaphore(0) for name in (b"first", b"a", b"b", b"c")}, []

    def getaddrinfo(name, *args):
        asked.append(name)
        assert go_on[name].acquire(timeout=TIMEOUT)
        return [TCP4]

    with Asker(getaddrinfo) as asker:
        for _ in range(MAX_THREADS):
            asker.submit(b"first")
        wait_until(lambda: len(asked) == MAX_THREADS)
        for name, number in [(b"a", 1)] * 5 + [(b"b", 2)] * 3 + [(b"c", 3)]:
            asker.submit(name, client=address(number))
        for number, name in enumerate([b"first"] * 3 + [b"a", b"b", b"b"]):
            go_on[name].release()
            wait_until(lambda number=number: len(asked) == MAX_THREADS + number + 1)
        assert [b"a", b"b", b"c", b"a", b"b", b"b"] == asked[MAX_THREADS:]
        go_on[b"c"].release()  # each of the others has one, and less than four threads are free
        wait_until(lambda: inside.busy_threads(asker.resolver) == MAX_THREADS - 1)
        assert MAX_THREADS + 6 == len(asked)
        for semaphore in go_on.values():
            for _ in range(MAX_THREADS):
                semaphore.release()
        for _ in range(MAX_THREADS + 9):
            asker.outcome()
    assert [b"a"] * 5 + [b"b"] * 3 + [b"c"] == sorted(asked[MAX_THREADS:])


def test_cancelled_while_waiting():
    """A name that no client waits for any more is not even asked for."""
    with hanging() as slow, Asker(slow) as asker:
        for _ in range(MAX_THREADS):
            asker.submit()
        wait_until(lambda: len(slow.asked) == MAX_THREADS)
        asker.submit(b"cancelled.test").cancel()
        asker.submit(b"last.test")
        slow.answer.set()

        names = [asker.outcome()[0] for _ in range(MAX_THREADS + 1)]

        assert b"last.test" in names
        assert b"cancelled.test" not in slow.asked
        assert asker.nothing_came()


def test_cancelled_while_asked():
    """A caller that has cancelled is not called back."""
    with hanging() as slow, Asker(slow) as asker:
        lookup = asker.submit(b"cancelled.test")
        wait_until(lambda: slow.asked)
        lookup.cancel()
        slow.answer.set()
        asker.submit(b"next.test")

        assert b"next.test" == asker.outcome()[0]
        wait_until(lambda: not inside.busy_threads(asker.resolver))
        assert asker.nothing_came()


def test_closed():
    """After close idle threads end at once, and a new name is REP 01."""
    with Asker(lambda *args: [TCP4]) as asker:
        asker.submit()
        asker.outcome()

        asker.resolver.close()

        wait_until(lambda: not resolver_threads())
        with pytest.raises(DialError) as caught:
            asker.submit()
        assert Rep.GENERAL_FAILURE == caught.value.rep


def test_close_does_not_wait_for_a_hanging_name():
    """A thread that hangs is left behind, and as a daemon it does not keep the process."""
    with hanging() as slow, Asker(slow) as asker:
        asker.submit()
        wait_until(lambda: slow.asked)

        asker.resolver.close()

        (thread,) = resolver_threads()
        assert thread.daemon


V4, V6 = socket.AF_INET, socket.AF_INET6


@pytest.mark.parametrize(
    "name, address",
    [
        (b"192.0.2.7", (V4, ("192.0.2.7", 80))),
        (b"127.1", (V4, ("127.0.0.1", 80))),
        (b"0", (V4, ("0.0.0.0", 80))),
        (b"2130706433", (V4, ("127.0.0.1", 80))),
        (b"0x7f000001", (V4, ("127.0.0.1", 80))),
        (b"0177.0.0.1", (V4, ("127.0.0.1", 80))),
        (b"2001:DB8::7", (V6, ("2001:db8::7", 80, 0, 0))),
        (b"::", (V6, ("::", 80, 0, 0))),
        (b"::ffff:127.0.0.1", (V4, ("127.0.0.1", 80))),
    ],
)
def test_literals(name, address):
    """An address in any notation is taken for what the system would connect to."""
    assert [address] == numeric_addresses(name, 80)


@pytest.mark.parametrize(
    "name",
    [b"localhost", b"example.org", b"1.2.3.4.5", b"256.1.1.1", b"[::1]", b":::", b"fe80::1%nosuch0",
     b"\xff\xfe", b"a" * 255, b" ", b"."],
)  # fmt: skip
def test_names_are_no_literals(name):
    """A name is no address, whatever its bytes, and finding that out asks no name server."""
    assert [] == numeric_addresses(name, 80)


def test_the_rows_of_an_answer_are_not_copied_in_python(monkeypatch):
    """Of 6300 that would take a second list of two MiB, in each thread that is at it."""
    monkeypatch.setattr(socket, "_intenum_converter", None)
    outcomes = queue.Queue()
    resolver = Resolver()
    try:
        resolver.submit(Lookup(b"localhost", 7, outcomes.put))
        found = outcomes.get(timeout=TIMEOUT)
    finally:
        resolver.close()
    assert {("127.0.0.1", 7), ("::1", 7)} & {sockaddr[:2] for _family, sockaddr in found}


@pytest.fixture
def names(monkeypatch):
    """The names that the system knows for addresses: a text, or an error."""
    known = {}

    def getnameinfo(sockaddr, flags):
        assert flags & socket.NI_NAMEREQD
        name = known.get(sockaddr[0], socket.gaierror(socket.EAI_NONAME, "not known"))
        if isinstance(name, Exception):
            raise name
        return name, "0"

    monkeypatch.setattr(socket, "getnameinfo", getnameinfo)
    return known


@pytest.mark.parametrize(
    "name, said",
    [
        (None, "192.0.2.7 cannot be resolved: .*not known"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), "192.0.2.7 cannot be resolved"),
        ("a b", "192.0.2.7 is no name of a host"),
        ("", "192.0.2.7 is no name of a host"),
        ("a\x1b[2J", "192.0.2.7 is no name of a host: 'a.x1b.x5b2J'"),
        ("a.example", ""),
    ],
)
def test_the_name_of_an_address(names, name, said):
    """A name that has only the characters of names; else REP 04 and a sentence."""
    address = (socket.AF_INET, ("192.0.2.7", 0))
    if name is not None:
        names["192.0.2.7"] = name
    outcomes, resolver = queue.Queue(), Resolver(None)
    try:
        lookup = resolver.submit(ReverseLookup(address, outcomes.put, THIS_HOST))
        outcome = outcomes.get(timeout=TIMEOUT)
    finally:
        resolver.close()
    if said:
        assert isinstance(outcome, DialError)
        assert Rep.HOST_UNREACHABLE == outcome.rep
        assert re.search(said, str(outcome)), str(outcome)
    else:
        assert ([address], b"a.example") == (outcome, lookup.name)
