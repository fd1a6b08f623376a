"""Extra attempts of dials: only while a quarter of the descriptors is free, and the first to go.

The attack is between hosts: a name with four addresses that answer nothing, clients that close
at once, and a proxy with few descriptors.
"""

import contextlib
import os
import resource
import socket

import pytest

from kit import hosts, inside
from kit.support import (
    BIND,
    GREETING,
    TIMEOUT,
    FakeTarget,
    Talk,
    black_hole,
    open_descriptors,
    run_proxy,
    socks5,
    wait_until,
)
from minisocks.net import dialer
from minisocks.net.capacity import find_room
from minisocks.net.dialer import ExtraAttempts
from minisocks.net.loop import Loop, run_in
from minisocks.net.resolver import Resolver
from minisocks.server.limits import RESERVED_PARTS

# The one object that counts them


class Holder:
    """Stands for a dial with some extra attempts; tells in *gone* when it gives one up."""

    def __init__(self, extras, gone, count):
        self.extras, self.gone, self.count = extras, gone, count
        extras.hold(self.give_up, count)

    def give_up(self):
        """Give one extra attempt up, as a dial does."""
        if not self.count:
            return False
        self.count -= 1
        self.gone.append(self)
        self.extras.hold(self.give_up, self.count)
        return True


class Made:
    """Extra attempts with a clock and a number of descriptors of the test's own."""

    def __init__(self, loop):
        self.now, self.room, self.counted = 1000.0, 0, 0
        self.extras = ExtraAttempts(loop, self.count, lambda: self.now)

    def count(self):
        """Return how many more attempts may be opened."""
        self.counted += 1
        return self.room

    def later(self):
        """Move the clock, so that descriptors are counted anew."""
        self.now += dialer.COUNT_SECONDS


@pytest.fixture
def made():
    """Extra attempts of a loop that does not run."""
    loop = Loop()
    yield Made(loop)
    loop.stop()


def test_so_many_as_there_is_room_for(made):
    """Those that have begun since the last count are taken off."""
    made.room = 3
    assert made.extras.has_room()
    first, second = Holder(made.extras, [], 2), Holder(made.extras, [], 1)
    assert 3 == len(made.extras)
    assert not made.extras.has_room()
    made.extras.hold(second.give_up, 0)
    assert made.extras.has_room()
    made.extras.hold(first.give_up, 3)
    assert not made.extras.has_room()
    assert 1 == made.counted


def test_they_are_counted_anew(made):
    """The count is right whatever else has opened or closed descriptors meanwhile."""
    assert not made.extras.has_room()
    made.room = 1
    assert not made.extras.has_room()
    made.later()
    assert made.extras.has_room()
    made.room = -1
    made.later()
    assert not made.extras.has_room()


def test_without_a_limit_there_is_always_room(made):
    """There is room for very many, too."""
    made.room = None
    Holder(made.extras, [], 100000)
    assert made.extras.has_room()


def test_the_oldest_is_taken_back_first(made):
    """Of the dial that has had some for longest; a dial whose own have failed is passed over."""
    gone = []
    first, failed, third = (Holder(made.extras, gone, count) for count in (2, 1, 1))
    failed.count = 0
    assert [True, True, True, False] == [made.extras.take_back() for _ in range(4)]
    assert [first, first, third] == gone
    assert 0 == len(made.extras)


def test_those_too_many_are_taken_back_before_descriptors_run_out(made):
    """Within a second of less than a quarter being free; no more than that."""
    gone = []
    made.room = 5
    holders = [Holder(made.extras, gone, 1) for _ in range(5)]
    made.later()
    made.room = -2
    inside.look_at_attempts(made.extras)
    assert holders[:2] == gone
    inside.look_at_attempts(made.extras)
    assert 2 == len(gone)
    assert 3 == len(made.extras)


# Dials


def resolver(*sockaddrs):
    """Return a resolver for which each name has these addresses."""

    def getaddrinfo(*args):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", where) for where in sockaddrs]

    return Resolver(getaddrinfo)


@contextlib.contextmanager
def dialing():
    """A proxy that makes four attempts for a client.

    Yields it, its client, and what returns how many descriptors the attempts have.
    """
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(black_hole_anywhere())
        # All of 127.0.0.0/8 is this host.
        silent = [("127.0.0.%d" % n, port) for n in range(1, 5)]
        proxy = stack.enter_context(run_proxy(resolver(*silent)))
        before = open_descriptors()
        with Talk.to(proxy.port) as talk:
            talk.send(GREETING + socks5(b"silent.test", port)).expect(b"\5\0")
            wait_until(lambda: len(proxy.services.attempts) == 3, "three extra attempts")
            assert before + 6 == open_descriptors(), "both ends of the client, and four attempts"
            yield proxy, talk, lambda: open_descriptors() - before - 2


@contextlib.contextmanager
def black_hole_anywhere():
    """``black_hole`` on all of 127.0.0.0/8."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield port


def test_a_handler_thread_gets_a_descriptor_at_once():
    """Each time that room is wanted, in whatever thread, one attempt is closed when it returns."""
    with dialing() as (proxy, _talk, attempted):
        extras = proxy.services.attempts
        inside.leave_no_room(extras)  # none begins anew
        run_in(
            proxy.services.loop, inside.attempts_timer(extras).cancel
        )  # nor does it look by itself
        for left in (3, 2, 1):
            assert proxy.services.make_room()
            assert left == attempted()
        assert not proxy.services.make_room(), "a first attempt is never ended for room"
        assert 1 == attempted()


def test_the_proxy_gives_them_up_by_itself():
    """It gives attempts up as soon as it sees that less than a quarter is free."""
    with dialing() as (proxy, _talk, attempted):
        inside.leave_no_room(proxy.services.attempts)
        wait_until(lambda: attempted() == 1, "the end of the extra attempts")
        assert 0 == len(proxy.services.attempts)


def test_what_was_taken_back_is_tried_again():
    """When there is room; each address has its time."""
    with dialing() as (proxy, _talk, attempted):
        assert proxy.services.make_room()
        wait_until(lambda: attempted() == 4, "the fourth attempt")


@pytest.mark.parametrize("how", ["reset", "stop"])
def test_nothing_is_left_of_them(how):
    """No attempt is left, whatever ends the request."""
    with dialing() as (proxy, talk, _attempted):
        extras = proxy.services.attempts
        if how == "stop":
            proxy.stop()
        else:
            talk.reset()
        wait_until(lambda: len(extras) == 0, "none")
        assert {} == inside.held_attempts(extras)


def test_a_target_that_is_reached_frees_them():
    """Those of others stay; none of its own is counted any more."""
    with FakeTarget() as target, black_hole() as port:
        both = resolver(("127.0.0.1", port), ("127.0.0.1", target.port))
        with run_proxy(both) as proxy, Talk.to(proxy.port) as talk:
            assert 0 == talk.connect5(b"two.test", 9)[0]
            wait_until(lambda: len(proxy.services.attempts) == 0, "none")
            talk.send(b"x").expect(b"x")


# The attack

CLIENT, PROXY, STRANGER, TARGET = "10.1.0.1", "10.1.0.2", "10.2.0.1", "10.3.0.1"
LIMIT = 128
#: Handshakes and connections that fit, as the command line says at its start.
HANDSHAKES = 24
FIT = find_room(LIMIT, HANDSHAKES).limit
#: Of the connections, so many are the attacker's, and the others but for what is kept for the
#: proxy's own host are honest clients'.
DIALS = 25
HONEST = FIT - DIALS - FIT // RESERVED_PARTS


@pytest.fixture(scope="module")
def lan():
    """An attacker, an honest client and a target; and a network that swallows everything."""
    with hosts.made_for_tests("client", "stranger", "proxy", "target") as made:
        with hosts.or_skip():
            made.cable(("client", CLIENT + "/24"), ("proxy", PROXY + "/24"))
            made.cable(("stranger", STRANGER + "/24"), ("proxy", "10.2.0.2/24"))
            made.cable(("target", TARGET + "/24"), ("proxy", "10.3.0.2/24"))
            # The target's host is no router: what it is to pass on is swallowed.
            made.proxy.ip("route add 10.9.0.0/24 via " + TARGET)
        yield made


@pytest.fixture
def network(lan):
    """The hosts; the proxy's process has few descriptors meanwhile."""
    old = resource.prlimit(lan.proxy.pid, resource.RLIMIT_NOFILE)
    with hosts.without_bugs(lan):
        resource.prlimit(lan.proxy.pid, resource.RLIMIT_NOFILE, (LIMIT, old[1]))
        try:
            yield lan
        finally:
            resource.prlimit(lan.proxy.pid, resource.RLIMIT_NOFILE, old)


def descriptors(host):
    """Return how many descriptors the process of *host* has open."""
    return len(os.listdir("/proc/%d/fd" % host.pid))


@pytest.mark.limits
def test_dials_of_clients_that_close_leave_room_for_others(network):
    """All connections that fit are served; and some seconds later the dials are gone."""
    with attacked(network, b""):
        wait_until(lambda: network.proxy.connections() <= HONEST, "the end of the dials")


def test_dials_of_clients_that_close_behind_a_byte_leave_room_for_others(network):
    """The same, though these dials go on."""
    with attacked(network, b"x"):
        left = DIALS + HONEST
        wait_until(lambda: network.proxy.connections() == left, "the end of the handshakes only")


@contextlib.contextmanager
def attacked(network, early):
    """Have an attacker's clients begin dials and send FIN; all others that fit are served then."""
    settings = {"rule": ["allow"], "max_connections": FIT, "max_handshakes": HANDSHAKES}
    settings["bind_timeout"] = 2.0
    port = network.proxy.proxy(**settings)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(network.target.socket(socket.AF_INET))
        listener.bind((TARGET, 0))
        listener.listen(64)
        listener.settimeout(TIMEOUT)
        target = listener.getsockname()[1]
        idle = descriptors(network.proxy)
        for _ in range(DIALS):
            talk = stack.enter_context(Talk(network.stranger.connect(STRANGER, port, "10.2.0.2")))
            talk.send(GREETING).expect(b"\5\0")
            talk.send(socks5(b"silent.test", 80) + early).finish()
            # Else those behind a byte would go on.
            stack.callback(talk.reset)
        # By the proxy's own clock each has made as many attempts as it may, when this is refused.
        with Talk(network.client.connect(CLIENT, port, PROXY)) as talk:
            talk.send(GREETING + socks5(TARGET, 0, BIND)).rest()
        # A client and a first attempt each; and some others, up to the quarter.
        in_use = descriptors(network.proxy)
        assert idle + 2 * DIALS < in_use <= LIMIT - LIMIT // 4 + 2, "extra attempts"
        # Not even a greeting: each has a descriptor, and a thread.
        silent = [
            stack.enter_context(Talk(network.client.connect(CLIENT, port, PROXY)))
            for _ in range(HANDSHAKES - 1)
        ]
        for _ in range(HONEST):
            talk = stack.enter_context(Talk(network.client.connect(CLIENT, port, PROXY)))
            assert 0 == talk.connect5(TARGET, target)[0]
            peer, _address = listener.accept()
            stack.enter_context(peer).sendall(b"served")
            talk.expect(b"served")
        for talk in silent:
            talk.close()
        yield
