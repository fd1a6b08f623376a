"""Dialing: addresses in parallel with head starts, and one word for all failures.

The sockets are real, the clock is the test's own: a head start takes no time.
"""

import contextlib
import errno
import resource
import select
import socket

import pytest

from kit.support import TIMEOUT, Clock, black_hole, closed_port, no_descriptor_left
from minisocks.errors import DialError
from minisocks.net import dialer
from minisocks.net.dialer import Dial, interleaved, rep_of
from minisocks.wire import Rep

V4, V6 = socket.AF_INET, socket.AF_INET6
#: Multicast: the kernel refuses to connect there, on any machine.
NO_NETWORK = (V4, ("224.0.0.1", 9))
NO_NETWORK6 = (V6, ("ff02::1", 9, 0, 0))


@pytest.fixture
def clock():
    """A clock that stands still."""
    return Clock()


@contextlib.contextmanager
def listening(host="127.0.0.1"):
    """A listener that accepts when asked."""
    family = V6 if ":" in host else V4
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        listener.listen(8)
        yield listener


def at(listener):
    """Return family and sockaddr, as the resolver would."""
    return listener.family, listener.getsockname()


def refusing(host="127.0.0.1"):
    """Return an address that refuses."""
    return (V6 if ":" in host else V4), (host, closed_port(host)) + ((0, 0) if ":" in host else ())


def outcome(dial):
    """Step until it is connected or has failed, waiting for the attempts only."""
    while True:
        upstream = dial.step()
        if upstream is not None:
            return upstream
        ready = select.select([], list(dial.attempts), [], TIMEOUT)
        assert ready[1], "no attempt got anywhere"


def release(dial):
    """Close all that a dial still has."""
    dial.give_up()
    dial.close_discarded()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_connected_socket_and_both_its_addresses(host, clock):
    """A dial returns a socket, its peer's address, and our own address of the connection."""
    with listening(host) as listener:
        dial = Dial([at(listener)], clock)

        with outcome(dial) as upstream:
            accepted, peer = listener.accept()
            accepted.close()

            assert listener.getsockname() == dial.via
            assert peer == dial.bnd == upstream.getsockname()
            assert 0.0 == upstream.gettimeout()
            assert upstream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert upstream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert {} == dial.attempts
    assert [] == dial.discarded


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_refused(host, clock):
    """A port that refuses gives REP 05, and the error tells which address said what."""
    family_and_address = refusing(host)
    dial = Dial([family_and_address], clock)

    with pytest.raises(DialError) as caught:
        outcome(dial)

    assert Rep.CONNECTION_REFUSED == caught.value.rep
    ((sockaddr, exc),) = caught.value.attempts
    assert family_and_address[1] == sockaddr
    assert errno.ECONNREFUSED == exc.errno
    assert "%s: Connection refused" % host == str(caught.value)
    assert 1 == len(dial.discarded)
    release(dial)


def test_failed_addresses_are_passed_over_at_once(clock):
    """After a refusal the next address gets no head start to wait for."""
    with listening() as listener:
        dial = Dial([refusing(), NO_NETWORK, refusing("::1"), at(listener)], clock)

        outcome(dial).close()

        assert listener.getsockname() == dial.via
        release(dial)
    assert 1000.0 == clock.now


def test_silent_address_has_a_head_start_of_250_ms(clock):
    """The second address is tried 250 ms after the first, beside it; the loser is discarded."""
    with black_hole() as silent, listening() as listener:
        dial = Dial([(V4, ("127.0.0.1", silent)), at(listener)], clock)

        assert dial.step() is None
        assert 0.25 == dial.wait_seconds()
        clock.now += 0.24
        assert dial.step() is None
        assert 0.0 < dial.wait_seconds() < 0.02
        assert 1 == len(dial.attempts)
        clock.now += 0.02
        outcome(dial).close()

        assert listener.getsockname() == dial.via
        assert 1 == len(dial.discarded)
        assert {} == dial.attempts
        release(dial)


def test_each_silent_address_gets_its_own_head_start(clock):
    """Addresses are started one after another, and wait_seconds is None after the last."""
    with black_hole() as silent:
        dial = Dial([(V4, ("127.0.0.1", silent))] * 3, clock)

        for started in (1, 2, 3):
            assert dial.step() is None
            assert dial.step() is None
            assert started == len(dial.attempts)
            clock.now += 0.25

        assert dial.wait_seconds() is None
        release(dial)


def test_the_first_address_may_still_win(clock):
    """An address that answers late, after the second was started, is taken all the same."""
    with listening() as late, black_hole() as silent:
        dial = Dial([at(late), (V4, ("127.0.0.1", silent))], clock)
        upstream = dial.step()
        if upstream is None:  # answered between connect and the look at it
            clock.now += 1
            upstream = outcome(dial)
        upstream.close()

        assert late.getsockname() == dial.via
        release(dial)


def test_a_dead_family_costs_one_head_start(clock):
    """With IPv6 dead and three addresses of it, IPv4 is tried second."""
    with black_hole6() as silent, listening() as listener:
        dead = (V6, ("::1", silent, 0, 0))
        dial = Dial([dead, dead, dead, at(listener)], clock)

        assert dial.step() is None
        clock.now += 0.25
        outcome(dial).close()

        assert listener.getsockname() == dial.via
        release(dial)


@contextlib.contextmanager
def black_hole6():
    """``black_hole`` on ::1."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listening("::1"))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket(V6))
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    "given, expected",
    [
        ("", ""),
        ("6", "6"),
        ("6644", "6464"),
        ("4466", "4646"),
        ("66664", "64666"),
        ("4666", "4666"),
        ("444", "444"),
    ],
)
def test_families_alternate(given, expected):
    """The resolver's order holds within a family, and its first family stays first."""
    families = {"4": V4, "6": V6}
    addresses = [(families[f], i) for i, f in enumerate(given)]

    mixed = interleaved(addresses)

    assert [families[f] for f in expected] == [family for family, _ in mixed]
    assert sorted(addresses) == sorted(mixed)
    for family in (V4, V6):
        order = [i for f, i in mixed if f == family]
        assert sorted(order) == order


def test_no_more_than_4_addresses_are_tried_at_once(clock):
    """A name with a thousand addresses costs four descriptors, and each has 5 s."""
    with black_hole() as silent:
        dial = Dial([(V4, ("127.0.0.1", silent))] * 1000, clock)
        began, wait, at_once = clock.now, 0.0, []

        while wait is not None:
            clock.now += wait
            dial.step()
            at_once.append(len(dial.attempts))
            wait = dial.wait_seconds()

        assert dialer.MAX_ATTEMPTS == max(at_once) == 4
        assert clock.now - began >= 3 * dialer.ATTEMPT_SECONDS
        assert dialer.MAX_ADDRESSES == len(dial.give_up().attempts) == 16
        release(dial)


def test_without_room_for_more_addresses_are_tried_one_by_one(clock):
    """Each has 5 s, the last one all that is left; when there is room they are tried beside."""
    has_room = []
    with black_hole() as silent:
        dial = Dial([(V4, ("127.0.0.1", silent))] * 5, clock, may_add=lambda: bool(has_room))
        began, starts = clock.now, []
        while len(starts) < 3:
            dial.step()
            assert 1 == len(dial.attempts)
            (since,) = {since for _sock, _sockaddr, since in dial.attempts.values()}
            starts += [] if since in starts else [since]
            assert 0.0 < dial.wait_seconds() <= 1.0
            clock.now += dial.wait_seconds()
        assert began == starts[0]
        assert all(5.0 <= later - before < 6.0 for before, later in zip(starts, starts[1:]))
        has_room.append(1)
        clock.now += 1.0
        dial.step()
        assert 2 == len(dial.attempts)
        release(dial)


def test_an_attempt_that_is_taken_back_is_made_again(clock):
    """Never the first one, which its dial is promised; the second is the next to be tried."""
    with black_hole() as silent, black_hole() as other:
        dial = Dial([(V4, ("127.0.0.1", silent)), (V4, ("127.0.0.1", other))], clock)
        dial.step()
        assert dial.take_back() is None
        clock.now += 0.25
        dial.step()
        assert dial.wait_seconds() is None

        dial.take_back().close()

        assert [silent] == [sockaddr[1] for _, sockaddr, _ in dial.attempts.values()]
        assert dial.take_back() is None
        assert 1.0 == dial.wait_seconds()
        clock.now += 1.0
        dial.step()
        assert [silent, other] == [sockaddr[1] for _, sockaddr, _ in dial.attempts.values()]
        error = dial.give_up()
        assert 2 == len(error.attempts), "an attempt that was taken back has not failed"
        release(dial)


def test_nothing_is_closed_for_one_attempt_more(clock):
    """Where there is no descriptor for it, its address waits, and the dial goes on."""
    asked = []
    with black_hole() as silent, listening() as listener:
        addresses = [(V4, ("127.0.0.1", silent)), at(listener)]
        dial = Dial(addresses, clock, make_room=lambda: asked.append(1) or False)
        dial.step()
        clock.now += 0.25
        with no_descriptor_left():
            assert dial.step() is None
        assert (1, []) == (len(dial.attempts), asked)
        clock.now += 1.0
        outcome(dial).close()
        release(dial)


def test_giving_up(clock):
    """Out of time: REP 06, every attempt is discarded, and the error tells of each."""
    refused = refusing()
    with black_hole() as silent:
        silent_address = ("127.0.0.1", silent)
        dial = Dial([refused, (V4, silent_address), (V4, silent_address)], clock)
        dial.step()
        clock.now += 0.25
        dial.step()

        error = dial.give_up()

        assert Rep.TTL_EXPIRED == error.rep
        codes = [(address, exc.errno) for address, exc in error.attempts]
        assert [
            (refused[1], errno.ECONNREFUSED),
            (silent_address, errno.ETIMEDOUT),
            (silent_address, errno.ETIMEDOUT),
        ] == codes
        assert "127.0.0.1: no answer in time" in str(error)
        assert {} == dial.attempts
        assert 3 == len(dial.discarded)
        dial.close_discarded()
        assert [] == dial.discarded
    assert dial.wait_seconds() is None


REPS = [
    ("ECONNREFUSED", Rep.CONNECTION_REFUSED),
    ("ECONNRESET", Rep.CONNECTION_REFUSED),
    ("ENETUNREACH", Rep.NETWORK_UNREACHABLE),
    ("ENETDOWN", Rep.NETWORK_UNREACHABLE),
    ("EHOSTUNREACH", Rep.HOST_UNREACHABLE),
    ("EHOSTDOWN", Rep.HOST_UNREACHABLE),
    ("ETIMEDOUT", Rep.TTL_EXPIRED),
    ("EAFNOSUPPORT", Rep.ADDRESS_TYPE_NOT_SUPPORTED),
    ("EPROTONOSUPPORT", Rep.ADDRESS_TYPE_NOT_SUPPORTED),
    ("EACCES", Rep.NOT_ALLOWED),
    ("EPERM", Rep.NOT_ALLOWED),
    ("EMFILE", Rep.GENERAL_FAILURE),
    ("ENFILE", Rep.GENERAL_FAILURE),
    ("ENOMEM", Rep.GENERAL_FAILURE),
    ("ENOBUFS", Rep.GENERAL_FAILURE),
    ("EADDRNOTAVAIL", Rep.GENERAL_FAILURE),
    ("EINVAL", Rep.GENERAL_FAILURE),
]


@pytest.mark.rfc("RFC 1928 section 6", "REP 01: general SOCKS server failure.")
@pytest.mark.rfc("RFC 1928 section 6", "REP 03: network unreachable.")
@pytest.mark.rfc("RFC 1928 section 6", "REP 06: TTL expired.")
@pytest.mark.rfc("RFC 1928 section 6", "REP 08: address type not supported.")
@pytest.mark.parametrize("name, rep", REPS)
def test_rep_by_errno(name, rep):
    """Each cause that the system names has the REP that says the same."""
    assert rep == rep_of(OSError(getattr(errno, name), "whatever"))


def test_rep_of_an_error_without_errno():
    """An error that names no cause is a general failure."""
    assert Rep.GENERAL_FAILURE == rep_of(OSError("whatever"))


#: Fails with EINVAL, since link-local needs a scope: REP 01.
ODD = (V6, ("fe80::1", 9, 0, 0))


@pytest.mark.rfc("RFC 1928 section 6", "REP 05: connection refused.")
@pytest.mark.parametrize(
    "addresses, rep",
    [
        ([NO_NETWORK], Rep.NETWORK_UNREACHABLE),
        ([NO_NETWORK6], Rep.NETWORK_UNREACHABLE),
        ([ODD], Rep.GENERAL_FAILURE),
        ([NO_NETWORK, ODD], Rep.GENERAL_FAILURE),
        ([ODD, NO_NETWORK], Rep.NETWORK_UNREACHABLE),
        (["refusing", NO_NETWORK], Rep.CONNECTION_REFUSED),
        ([NO_NETWORK, "refusing"], Rep.CONNECTION_REFUSED),
        ([NO_NETWORK6, "refusing", ODD], Rep.CONNECTION_REFUSED),
    ],
)
def test_one_rep_for_several_failures(addresses, rep, clock):
    """The last failure counts, but a refusal, which proves a host, beats them all."""
    dial = Dial([refusing() if a == "refusing" else a for a in addresses], clock)

    with pytest.raises(DialError) as caught:
        outcome(dial)

    assert rep == caught.value.rep
    assert len(addresses) == len(caught.value.attempts)
    assert len(addresses) == len(str(caught.value).split("; "))
    release(dial)


def test_no_descriptor_left(clock):
    """Out of descriptors is REP 01, for all addresses at once, and no exception of another kind."""
    address = refusing()
    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as last:
        used = last.fileno() + 1
    fillers = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, old[1]))
        with contextlib.suppress(OSError):
            while True:
                fillers.append(socket.socket())
        dial = Dial([address] * 3, clock)
        with pytest.raises(DialError) as caught:
            dial.step()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, old)
        for filler in fillers:
            filler.close()

    assert Rep.GENERAL_FAILURE == caught.value.rep
    assert [errno.EMFILE] == [exc.errno for _, exc in caught.value.attempts]


def test_room_is_made_for_a_descriptor(clock):
    """Where something of less worth can be closed, it is, once, and the dial goes on."""
    spare, asked = [], []

    def make_room():
        asked.append(1)
        for sock in spare:
            sock.close()
        return bool(spare)

    with listening() as listener:
        spare.append(socket.socket())
        with no_descriptor_left():
            dial = Dial([at(listener)], clock, make_room=make_room)
            with outcome(dial) as upstream:
                assert upstream.getpeername() == listener.getsockname()
            assert [1] == asked
            del spare[:]
            dials = [Dial([at(listener)], clock, make_room=make_room) for _ in range(2)]
            with outcome(dials[0]), pytest.raises(DialError, match="Too many open files"):
                dials[1].step()
    assert [1, 1] == asked


def test_of_many_failures_a_few_are_named(clock):
    """The first four in words, and how many more there were; the error has all of them."""
    dial = Dial([(V4, ("224.0.0.%d" % n, 9)) for n in range(1, 13)], clock)
    with pytest.raises(DialError) as caught:
        dial.step()
    dial.close_discarded()
    assert 12 == len(caught.value.attempts)
    told = str(caught.value).split("; ")
    assert ["224.0.0.%d" % n for n in range(1, 5)] == [one.split(": ")[0] for one in told[:4]]
    assert ["and 8 more"] == told[4:]


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs unix sockets")
def test_a_unix_socket_that_fills_the_queue_of_its_listener_is_connected(tmp_path):
    """It would seem to be pending, and be writable all the time: the loop would not rest."""
    path = str(tmp_path / "s.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        with Dial([(socket.AF_UNIX, path)]).step() as sock:
            assert path == sock.getpeername()
            dial = Dial([(socket.AF_UNIX, path)])
            with pytest.raises(DialError):
                dial.step()
            dial.close_discarded()
