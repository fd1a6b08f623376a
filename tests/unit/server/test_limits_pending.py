"""Pending handshakes: bounded, shared between clients, each with one deadline."""

import contextlib
import socket
import threading
import time

import pytest

from kit import inside
from kit.support import (
    GREETING,
    FakeTarget,
    Talk,
    failure5,
    password_message,
    run_proxy,
    socks5,
    wait_until,
)
from minisocks.errors import HandshakeTimeout, LimitReached, ProxyStops
from minisocks.net.processor import Processor
from minisocks.policy.client import Client
from minisocks.server.clientsocket import ClientSocket
from minisocks.server.limits import Pending


class Handshakes:
    """Pending handshakes of clients from any address, without threads."""

    def __init__(self, room):
        self.pending = Pending(room, Processor(None))
        self.conns, self.theirs = [], []

    def come(self, *hosts):
        """Have a client from each of *hosts* enter; return their handshakes."""
        first = len(self.conns)
        for host in hosts:
            ours, theirs = socket.socketpair()
            conn = ClientSocket(ours, Client("" if host == "unix" else (host, 4242)), 60.0)
            self.conns.append(conn)
            self.theirs.append(theirs)
            self.pending.enter(conn)
        return self.conns[first:]

    def ended(self):
        """Return the indexes of the handshakes that were ended, oldest first."""
        return [i for i, conn in enumerate(self.conns) if conn.ended is not None]

    def close(self):
        for conn, theirs in zip(self.conns, self.theirs):
            conn.sock.close()
            theirs.close()


@pytest.fixture
def pending_of():
    """Makes ``Handshakes`` with room for a number of them."""
    with contextlib.ExitStack() as stack:

        def make(room):
            made = Handshakes(room)
            stack.callback(made.close)
            return made

        yield make


@pytest.mark.parametrize(
    "arriving, ended",
    [
        (["10.0.0.9"] * 3 + ["10.0.0.1"], 0),
        (["10.0.0.1", "10.0.0.9", "10.0.0.9", "10.0.0.9"], 1),
        (["10.0.0.9", "10.0.0.1", "10.0.0.9", "10.0.0.2"], 0),
        # Networks count, not addresses: a /64, a /48, a /24.
        (["10.0.0.1", "2001:db8::1", "2001:db8::2", "10.0.0.2"], 1),
        (["192.0.2.1", "2001:db8:0:2::1", "2001:db8:0:1::1", "192.0.2.2"], 1),
        (["192.0.2.1", "198.51.100.1", "198.51.100.2", "192.0.2.1"], 1),
        (["2001:db8:0:2::1", "2001:db8:0:1::1", "2001:db8:0:1::2", "10.0.0.1"], 1),
        (["unix"] * 3 + ["10.0.0.1"], 0),
        # This host is one client by all of its addresses.
        (["10.0.0.1", "127.0.0.1", "127.9.9.9", "10.0.0.2"], 1),
        (["10.0.0.1", "::1", "unix", "::1"], 1),
    ],
)
def test_the_oldest_of_the_network_with_most_makes_room(pending_of, arriving, ended):
    """One handshake too many: the oldest of the network that has most is ended, no other."""
    handshakes = pending_of(room=3)
    handshakes.come(*arriving)
    assert [ended] == handshakes.ended()
    assert 3 == len(handshakes.pending)


@pytest.mark.parametrize("host", ["10.9.9.9", "2001:db8::1", "127.0.0.1", "::1", "unix"])
def test_a_client_alone_has_all_of_the_room(pending_of, host):
    """Beyond it its next handshake ends its oldest, and the reason names the option."""
    handshakes = pending_of(room=8)
    handshakes.come(*[host] * 10)
    assert [0, 1] == handshakes.ended()
    with pytest.raises(LimitReached) as caught:
        handshakes.conns[0].receive()
    assert "there are too many unfinished handshakes (--max-handshakes 8)" == str(caught.value)


@pytest.mark.parametrize(
    "crowd",
    [
        ["10.9.9.9"] * 50,
        ["192.0.2.9", "2001:db8::9"] * 25,
        ["2001:db8:0:%x::9" % number for number in range(50)],
    ],
    ids=["an address", "two of one machine", "a /48"],
)
def test_a_crowd_is_only_in_its_own_way(pending_of, crowd):
    """However many come from one machine or network, no client of another is ended for them."""
    handshakes = pending_of(room=8)
    handshakes.come(*["10.%d.0.1" % i for i in range(1, 5)])
    handshakes.come(*crowd)
    assert list(range(4, 50)) == handshakes.ended()
    assert 8 == len(handshakes.pending)


def test_some_of_the_room_is_kept_for_this_host(pending_of):
    """However many networks others come from: its programs have an eighth, and lose none."""
    handshakes = pending_of(room=16)
    handshakes.come(*["10.%d.0.1" % i for i in range(16)])
    ours = handshakes.come("127.0.0.1", "unix")
    with contextlib.suppress(LimitReached):
        handshakes.come("::1")
    for i in range(100, 120):
        with contextlib.suppress(LimitReached):
            handshakes.come("10.%d.0.1" % i)
    assert [None, None] == [conn.ended for conn in ours]
    assert 16 == len(handshakes.pending)


def test_a_handshake_that_left_takes_no_room(pending_of):
    """It is counted out once, and nothing is left of its client."""
    handshakes = pending_of(room=4)
    conns = handshakes.come(*["10.0.0.1", "10.0.0.2"] * 2)
    for conn in conns + conns:
        handshakes.pending.leave(conn)
    assert (0, {}) == (
        len(handshakes.pending),
        inside.items(inside.pending_quota(handshakes.pending)),
    )
    handshakes.come("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4")
    assert [] == handshakes.ended()


def test_a_handshake_that_does_not_wait_is_not_ended(pending_of):
    """In a hook, or about to be relayed, it is passed over: the next oldest is ended."""
    handshakes = pending_of(room=3)
    first, _second, _third = handshakes.come("10.0.0.1", "10.0.0.1", "10.0.0.2")
    handshakes.pending.keep(first)
    handshakes.come("10.0.0.3")
    assert [1] == handshakes.ended()


def test_where_no_handshake_can_be_ended_the_newcomer_is_refused(pending_of, caplog):
    """All are in hooks: one line reports it, and it is over when one of them leaves."""
    handshakes = pending_of(room=3)
    conns = handshakes.come("10.0.0.1", "10.0.0.2", "10.0.0.3")
    for conn in conns:
        handshakes.pending.keep(conn)
    for _ in range(3):
        with pytest.raises(LimitReached, match="too many unfinished handshakes"):
            handshakes.come("10.0.0.4")
    assert [] == handshakes.ended()
    assert 3 == len(handshakes.pending)
    assert 1 == caplog.text.count("at capacity: hooks hold 3 handler threads")
    handshakes.pending.leave(conns[0])
    handshakes.come("10.0.0.5")
    assert 1 == caplog.text.count("handshakes can be taken on again")


def test_a_newcomer_that_has_its_share_is_refused_without_a_word_about_hooks(pending_of, caplog):
    """No thread is in one: two networks have half of the room each."""
    handshakes = pending_of(4)
    handshakes.come(*["10.9.0.1"] * 2 + ["10.1.0.1"] * 2)
    with pytest.raises(LimitReached):
        handshakes.come("10.1.0.2")
    assert [] == handshakes.ended()
    assert "" == caplog.text


def test_an_ended_handshake_cannot_go_on(pending_of):
    """Neither wait nor hook nor relay: its thread hears the reason at each of these steps."""
    handshakes = pending_of(room=2)
    conns = handshakes.come(*["10.0.0.1"] * 3)
    assert [0] == handshakes.ended()
    for step in (
        conns[0].receive,
        conns[0].check,
        lambda: conns[0].pause(60.0),
        lambda: handshakes.pending.keep(conns[0]),
        lambda: handshakes.pending.busy(conns[0]).__enter__(),
    ):
        with pytest.raises(LimitReached):
            step()


@pytest.mark.parametrize("wait", ["receive", "pause"])
def test_a_thread_that_waits_hears_at_once_that_it_is_ended(pending_of, wait):
    """Whether for its client or for another thread; the client can still get a reply."""
    handshakes = pending_of(room=2)
    (conn,) = handshakes.come("10.0.0.1")
    heard = []

    def waits():
        try:
            while True:
                conn.receive() if wait == "receive" else conn.pause(1.0)
        except LimitReached as exc:
            heard.append(str(exc))

    thread = threading.Thread(target=waits)
    thread.start()
    handshakes.come(*["10.0.0.1"] * 2)
    thread.join(20)
    assert 1 == len(heard)
    conn.send(b"bye")
    assert b"bye" == handshakes.theirs[0].recv(3)


def test_with_fewer_threads_there_is_less_room(pending_of):
    """Where the system has no more threads, their number is the bound, until it has."""
    handshakes = pending_of(room=8)
    handshakes.pending.have_threads(2)
    handshakes.come("10.0.0.1", "10.0.0.2", "10.0.0.3")
    assert [0] == handshakes.ended()
    handshakes.pending.have_threads(None)
    handshakes.come("10.0.0.4", "10.0.0.5", "10.0.0.6")
    assert [0] == handshakes.ended()


def test_closing_ends_all_and_lets_no_more_enter(pending_of):
    """Those that wait are ended; those in hooks hear it behind the hook."""
    handshakes = pending_of(room=8)
    waits, hooked = handshakes.come("10.0.0.1", "10.0.0.2")
    busy = handshakes.pending.busy(hooked)
    busy.__enter__()
    handshakes.pending.close()
    with pytest.raises(ProxyStops):
        busy.__exit__(None, None, None)
    with pytest.raises(ProxyStops):
        waits.receive()
    with pytest.raises(ProxyStops):
        handshakes.come("10.0.0.3")


def test_a_client_about_to_be_relayed_is_not_cut_off_by_the_end(pending_of):
    """Its socket stays open both ways: it has the reply that it is connected."""
    handshakes = pending_of(room=8)
    (conn,) = handshakes.come("10.0.0.1")
    handshakes.pending.keep(conn)
    handshakes.pending.close()
    handshakes.theirs[0].send(b"x")
    assert b"x" == conn.sock.recv(1)


# In a proxy


def is_silent(talk):
    """Return whether the client has received neither a byte nor the end."""
    talk.sock.setblocking(False)
    try:
        talk.sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    finally:
        talk.sock.settimeout(20)
    return False


def test_a_silent_client_that_makes_room_is_a_line_in_the_log(access_log):
    """It gets no reply, because it said nothing; an operator finds the reason in the log."""
    with run_proxy(max_handshakes=4) as proxy, contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(Talk.to(proxy.port))
        assert "(--max-handshakes 4)" in access_log.wait_for("end=limit")
        assert {"limit": 1} == proxy.stats().refused


def test_a_client_whose_time_is_up_is_refused(access_log):
    """The reply is that of its protocol, and the log names the option."""
    with run_proxy(handshake_timeout=0.1) as proxy, Talk.to(proxy.port) as talk:
        talk.send(b"\x05").expect(b"\x05\xff").expect_eof()
        access_log.wait_for("why='the handshake took too long (--handshake-timeout)'")


def test_a_deadline_is_one_for_all_waits():
    """What is left of it is what the next wait gets."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        conn = ClientSocket(ours, Client(("10.0.0.1", 1)), 0.05)

        def hear_out():
            while True:
                theirs.send(b"x")
                assert conn.receive()

        with pytest.raises(HandshakeTimeout):
            hear_out()


def test_a_byte_now_and_then_does_not_extend_the_handshake():
    """One deadline for all that a client must say: dripping does not live for ever."""
    with run_proxy(handshake_timeout=0.6) as proxy, Talk.to(proxy.port) as talk:
        began = time.monotonic()
        talk.send(b"\x05\xff")
        ended = threading.Event()

        def drip():
            while not ended.wait(0.1):
                try:
                    talk.send(b"\x00")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            talk.expect(b"\x05\xff")
        finally:
            ended.set()
            thread.join()
        assert 0.5 < time.monotonic() - began < 10


@pytest.mark.parametrize("cut", range(1, len(GREETING) + 10))
def test_a_handshake_goes_on_where_it_stopped(proxy, target, cut):
    """A client that thinks at any point of the handshake finds its words remembered."""
    message = GREETING + socks5("127.0.0.1", target.port)
    with Talk.to(proxy.port) as talk:
        talk.send(message[:cut])
        wait_until(lambda: len(proxy) == 1, "a pending handshake")
        talk.send(message[cut:]).expect(b"\x05\x00")
        assert 0 == talk.receive_reply5()[0]
        talk.send(b"x").expect(b"x")


def test_the_bound_holds_in_a_proxy_and_spares_the_honest(other_networks):
    """``--max-handshakes`` silent clients stay; of more, the greedy address loses its oldest."""
    with run_proxy(max_handshakes=8) as proxy, contextlib.ExitStack() as stack:

        def come(source):
            talk = stack.enter_context(Talk.to(proxy.port, source=(source, 0)))
            return talk.send(GREETING).expect(b"\x05\x00")

        honest = come("127.2.0.1")
        wait_until(lambda: len(proxy) == 1)
        greedy = [come("127.3.0.1") for _ in range(20)]
        for talk in greedy[:13]:
            talk.expect(failure5(2)).expect_eof()
            talk.close()
        wait_until(lambda: len(proxy) == 8)
        assert all(is_silent(talk) for talk in greedy[13:])
        assert is_silent(honest)


def test_a_silent_client_that_leaves_is_forgotten(proxy):
    """A client that goes without a word leaves nothing behind."""
    for leave in (Talk.close, Talk.reset):
        talk = Talk.to(proxy.port)
        wait_until(lambda: len(proxy) == 1)
        leave(talk)
        wait_until(lambda: len(proxy) == 0)


def test_what_came_before_the_end_is_not_served(access_log):
    """A handshake that is ended while its last bytes arrive is ended all the same."""
    with FakeTarget() as target, run_proxy(max_handshakes=4) as proxy:
        for _ in range(20):
            with contextlib.ExitStack() as stack:
                first = stack.enter_context(Talk.to(proxy.port)).send(GREETING).expect(b"\x05\x00")
                for _ in range(4):
                    stack.enter_context(Talk.to(proxy.port)).send(b"\x05")
                with contextlib.suppress(ConnectionError):
                    first.send(socks5("127.0.0.1", target.port))
                    reply = first.receive(10)
                    # Either it was faster, or it was ended: never half of both.
                    assert reply[:2] in (b"\x05\x00", b"\x05\x02", b"")
            wait_until(lambda: len(proxy) == 0)
        assert all("end=" in line for line in access_log.lines)


def test_a_password_that_waits_is_a_pending_handshake():
    """Clients that wait for a penalty count among --max-handshakes, and make room like others."""
    with run_proxy(user="ann:secret", max_handshakes=4) as proxy, contextlib.ExitStack() as stack:
        for _ in range(8):
            proxy.services.logins.failed(Client(("127.0.0.1", 1)), b"ann")
        talks = []
        for n in range(4):
            talk = stack.enter_context(Talk.to(proxy.port))
            talk.send(b"\x05\x01\x02" + password_message(b"ann", b"%d" % n)).expect(b"\x05\x02")
            talks.append(talk)
        wait_until(lambda: proxy.stats().handshakes == 4)
        stack.enter_context(Talk.to(proxy.port)).send(b"\x05\x01\x02").expect(b"\x05\x02")
        talks[0].expect(b"\x01\x01").expect_eof()
        assert 4 == proxy.stats().handshakes
