"""Peers that vanish while bytes for them are under way; ``--keepalive``."""

import errno
import socket
import struct
import sys

import pytest

import minisocks.relay.pair
import minisocks.relay.watches
import minisocks.udp.association
from kit import hosts, inside
from kit.relaying import ENDS, receive_until_reset, relayed_by, tcp
from kit.support import FakeTarget, Talk, run_proxy, wait_until
from kit.udp_client import Associated, associations, in_loop
from minisocks.compat import tune
from minisocks.net.job import Job
from minisocks.net.loop import run_in
from minisocks.relay.flow import word_of
from minisocks.relay.watches import AT_ONCE, VanishedPeers, has_vanished

needs_linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux is asked about its connections"
)

#: After a second of silence ask once, and wait a second.
SHORT = (1, 1, 1)


@pytest.fixture
def looks(loop, monkeypatch):
    """Have a loop look ten times a second."""
    assert 60.0 == minisocks.relay.watches.LOOK_SECONDS
    monkeypatch.setattr(minisocks.relay.watches, "LOOK_SECONDS", 0.1)
    return VanishedPeers(loop)


@pytest.fixture
def relayed(loop):
    """Makes relayed connections whose ends are asked soon."""
    with relayed_by(loop) as make:

        def make_and_tune(**kwargs):
            pair = make(start=False, **kwargs)
            tune(pair.client_side, SHORT)
            tune(pair.target_side, SHORT)
            return pair.start()

        yield make_and_tune


@pytest.fixture
def wired():
    """Two hosts with a cable between them."""
    with hosts.made_for_tests("server", "client") as made, hosts.or_skip():
        made.cable(("server", "10.4.0.1/24"), ("client", "10.4.0.2/24"))
        yield made


@pytest.mark.limits
@needs_linux
@pytest.mark.parametrize("lost", ENDS)
def test_a_peer_that_vanishes_with_bytes_under_way_is_found(
    relayed, looks, wired, access_log, lost
):
    """As soon as keepalive would have found it; the kernel would send for a quarter of an hour."""
    ends = [tcp(), hosts.connected(wired.client, wired.server, "10.4.0.1")]
    if lost == "target":
        ends.reverse()
    pair = relayed(make=lambda small: ends.pop())
    looks.expect()
    one, other = pair.ends(lost)
    other.send(b"x")
    one.expect(b"x")
    wired.client.ip("link set server down")
    other.send(b"never acknowledged")
    other.expect_reset()
    pair.wait_closed()
    assert access_log.wait_for("end=").endswith("end=%s-lost" % lost)


@pytest.mark.limits
@needs_linux
@pytest.mark.parametrize("lost", ENDS)
def test_a_silent_peer_that_vanishes_is_lost_whatever_the_network_says(
    relayed, wired, access_log, lost
):
    """That no neighbour answers is no reset by the peer."""
    ends = [tcp(), hosts.connected(wired.client, wired.server, "10.4.0.1")]
    if lost == "target":
        ends.reverse()
    pair = relayed(make=lambda small: ends.pop())
    one, other = pair.ends(lost)
    other.send(b"x")
    one.expect(b"x")
    wired.client.ip("link set server down")
    other.expect_reset()
    pair.wait_closed()
    assert access_log.wait_for("end=").endswith("end=%s-lost" % lost)


def test_what_the_kernel_says_of_a_peer_that_does_not_answer():
    """It may tell why the last packet came back."""
    assert {"lost"} == {word_of(e) for e in (errno.ETIMEDOUT, errno.EHOSTUNREACH)}
    assert {"reset"} == {word_of(e) for e in (errno.ECONNRESET, errno.EPIPE, 0, None)}


@pytest.mark.limits
@needs_linux
def test_a_reader_that_pauses_has_not_vanished(relayed):
    """It is asked for room more and more seldom, and answers; nothing of a download is lost."""
    pair = relayed(small=ENDS)
    sent = pair.fill(pair.target)
    limit = 1000 * (SHORT[0] + SHORT[1] * SHORT[2])
    sock = pair.client_side

    def silent():
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 60)
        return min(struct.unpack("=52x2I", info))  # ms since its last data, its last ACK

    wait_until(lambda: silent() > limit, "silence longer than keepalive allows")
    assert not has_vanished(sock)
    pair.target.finish()
    pair.client.expect(sent).expect_eof()


def test_sockets_of_which_nothing_is_known():
    """One that lives, a unix one and one that is closed."""
    one, other = tcp()
    tune(one, SHORT)
    unix, _its_peer = socket.socketpair()
    with one, other, unix, _its_peer:
        assert not has_vanished(one)
        assert not has_vanished(unix)
    assert not has_vanished(one)


@pytest.mark.parametrize("lost", ENDS)
def test_what_a_lost_peer_has_said_is_delivered_first(loop, relayed, monkeypatch, lost, access_log):
    """It is kept as long as it waits, here or in the kernel, for an end that lives."""
    pair = relayed(small=ENDS)
    side = pair.client_side if lost == "client" else pair.target_side
    monkeypatch.setattr(minisocks.relay.pair, "has_vanished", lambda sock: sock is side)
    one, other = pair.ends(lost)
    sent = pair.fill(one)
    for _ in range(3):
        run_in(loop, pair.pair.look_after_peers)
        assert pair.record.end is None
        other.expect(sent[:1000])
        sent = sent[1000:]
    other.expect(sent)
    wait_until(pair.flow(lost).is_dry)
    run_in(loop, pair.pair.look_after_peers)
    assert b"" == receive_until_reset(other)
    pair.wait_closed()
    assert access_log.wait_for("end=").endswith("end=%s-lost" % lost)


def test_a_client_that_has_finished_and_then_vanishes(loop, relayed, monkeypatch, access_log):
    """Its FIN is no promise that it is there to hear the rest."""
    pair = relayed()
    monkeypatch.setattr(minisocks.relay.pair, "has_vanished", lambda sock: sock is pair.client_side)
    pair.client.finish()
    pair.target.expect_eof()
    loop.call_soon(pair.pair, pair.pair.look_after_peers)
    pair.wait_closed()
    assert access_log.wait_for("end=").endswith("end=client-lost")


def test_both_ends_vanish(loop, relayed, monkeypatch):
    """One look ends it."""
    pair = relayed()
    monkeypatch.setattr(minisocks.relay.pair, "has_vanished", lambda sock: sock.fileno() >= 0)
    loop.call_soon(pair.pair, pair.pair.look_after_peers)
    pair.wait_closed()
    assert "client-lost" == pair.record.end


def test_an_association_of_a_client_that_vanishes(proxy, monkeypatch):
    """Keepalive does not find it while our reply to it waits to be acknowledged."""
    with Associated(proxy.port):
        wait_until(lambda: associations(proxy))
        (job,) = associations(proxy)
        in_loop(proxy, job.look_after_peers)
        assert proxy.records[-1].end is None
        monkeypatch.setattr(minisocks.udp.association, "has_vanished", lambda sock: True)
        in_loop(proxy, job.look_after_peers)
        assert "client-lost" == proxy.records[-1].end


class Counting(Job):
    """A job that counts how often it is to look."""

    def __init__(self, loop):
        self._loop = loop
        self.count = 0

    def begin(self):
        pass

    def look_after_peers(self):
        self.count += 1

    def abort(self, why):
        self._loop.done(self)


def test_all_jobs_are_looked_at_while_there_are_any(loop, looks):
    """However many; and without any the loop is woken up no more, until there is one again."""
    for _ in range(2):
        jobs = [Counting(loop) for _ in range(AT_ONCE * 2 + 1)]
        for job in jobs:
            loop.submit(job)
        looks.expect()
        wait_until(lambda jobs=jobs: min(job.count for job in jobs) >= 2)
        assert max(job.count for job in jobs) <= min(job.count for job in jobs) + 1
        for job in jobs:
            loop.call_soon(job, job.abort, "")
        wait_until(lambda: inside.seconds_to_timer(loop) < 0)


def test_an_idle_proxy_has_no_timer_and_one_with_a_client_has(target):
    """A proxy with a client has a timer, whatever the client asks for."""
    with run_proxy() as proxy:
        loop = proxy.services.loop
        assert inside.seconds_to_timer(loop) < 0
        with Talk.to(proxy.port) as talk:
            talk.connect5("127.0.0.1", target.port)
            wait_until(lambda: 0 < inside.seconds_to_timer(loop) <= 60)


def keepalive_of(sock):
    options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    return tuple(sock.getsockopt(socket.IPPROTO_TCP, option) for option in options)


@needs_linux
def test_the_setting_is_for_both_ends_and_changes_with_a_reload():
    """Connections have the setting that is in force when they begin."""
    known = set()

    def both_ends():
        talk.connect5("127.0.0.1", target.port)
        talk.send(b"x").expect(b"x")
        jobs = proxy.services.loop.jobs()
        (pair,) = [j for j in jobs if isinstance(j, minisocks.relay.pair.Pair) and j not in known]
        known.add(pair)
        return keepalive_of(inside.flows(pair)[0].src), keepalive_of(inside.flows(pair)[0].dst)

    with FakeTarget() as target, run_proxy(keepalive="60,5,3") as proxy:
        with Talk.to(proxy.port) as talk:
            assert ((60, 5, 3),) * 2 == both_ends()
        proxy.reload(proxy.config._replace(keepalive="20"))
        with Talk.to(proxy.port) as talk:
            assert ((20, 30, 4),) * 2 == both_ends()
