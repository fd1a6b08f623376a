"""The lobby: slow handshakes wait in the loop, bounded, each with one deadline."""

import contextlib
import socket
import threading
import time

import pytest

from minisocks.errors import HandshakeTimeout
from minisocks.lobby import Lobby
from minisocks.session import Services, Session
from minisocks.settings import Config
from support import GREETING, Talk, failure5, run_proxy, socks5, wait_until


class Hall:
    """A lobby in a loop of its own, and clients from any address to park in it."""

    def __init__(self, room, **settings):
        self.services = Services(Config(**settings))
        self.lobby = Lobby(self.services.loop, room)
        self.resumed = []
        self.services.resume = self._resume
        self.clients = []
        self.services.loop.start()

    def park(self, *hosts):
        """Park a client from each of *hosts*; return their ends."""
        talks = []
        for host in hosts:
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            session = Session(self.services, ours, "" if host == "unix" else (host, 4242))
            session.talk.receive_data(b"\x05")
            assert session.talk.next_event() is None
            talks.append(Talk(theirs))
            self.clients.append((session, talks[-1]))
            self.lobby.park(session)
        return talks

    def _resume(self, session):
        session.unpark()
        session.unwatch()
        self.resumed.append(session)

    def still_parked(self):
        """Return who is parked, by name: the hosts, sorted."""
        parked = [p for here in list(self.lobby._by_address.values()) for p in list(here)]
        return sorted(p.session.client.host for p in parked)

    def close(self):
        self.services.loop.stop()
        self.services.resolver.close()
        for session, talk in self.clients:
            session.sock.close()
            talk.close()


@pytest.fixture
def hall():
    """Makes lobbies."""
    with contextlib.ExitStack() as stack:

        def make(room, **settings):
            made = Hall(room, **settings)
            stack.callback(made.close)
            return made

        yield make


def is_silent(talk):
    """Say whether the client has heard neither a word nor the end."""
    talk.sock.setblocking(False)
    try:
        talk.sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    finally:
        talk.sock.settimeout(20)
    return False


def test_a_client_that_says_more_is_gone_on_with(hall):
    """Bytes, or the end of them, have a parked session go on, and only that one."""
    where = hall(room=10)
    first, second, third = where.park("10.0.0.1", "10.0.0.2", "10.0.0.3")
    second.send(b"\x01")
    third.finish()
    wait_until(lambda: len(where.resumed) == 2)
    assert {where.clients[1][0], where.clients[2][0]} == set(where.resumed)
    wait_until(lambda: where.still_parked() == ["10.0.0.1"])


@pytest.mark.parametrize(
    "arriving, evicted",
    [
        (["10.0.0.9"] * 3 + ["10.0.0.1"], "10.0.0.9"),
        (["10.0.0.1", "10.0.0.9", "10.0.0.9", "10.0.0.9"], "10.0.0.9"),
        (["10.0.0.9", "10.0.0.1", "10.0.0.9", "10.0.0.2"], "10.0.0.9"),
        # One IPv6 client has a whole /64.
        (["10.0.0.1", "2001:db8::1", "2001:db8::2", "10.0.0.2"], "2001:db8::1"),
        (["2001:db8:0:2::1", "2001:db8:0:1::1", "2001:db8:0:1::2", "10.0.0.1"], "2001:db8:0:1::1"),
        (["unix"] * 3 + ["10.0.0.1"], "unix"),
    ],
)
def test_the_oldest_of_the_address_with_most_makes_room(hall, arriving, evicted):
    """One client too many: the oldest of who has most is refused, everybody else stays."""
    where = hall(room=3)
    talks = where.park(*arriving)
    talks[arriving.index(evicted)].expect(b"\x05\xff").expect_eof()
    for i, talk in enumerate(talks):
        assert is_silent(talk) == (i != arriving.index(evicted))
    # Where one goes because of his share, the last one is still on his way in.
    wait_until(lambda: 3 == len(where.still_parked()))


@pytest.mark.parametrize(
    "host, stay",
    [("10.9.9.9", 4), ("2001:db8::1", 4), ("127.0.0.1", 8), ("::1", 8), ("unix", 8)],
)
def test_a_client_has_half_of_the_room(hall, access_log, host, stay):
    """Also where nobody else is; but for this host's programs.  The log says which limit it was."""
    where = hall(room=8)
    talks = where.park(*[host] * 10)
    for talk in talks[: 10 - stay]:
        talk.expect(b"\x05\xff").expect_eof()
    assert all(is_silent(talk) for talk in talks[10 - stay :])
    if stay == 4:
        who = "10.9.9.9" if host == "10.9.9.9" else "2001:db8::/64"
        why = "%s has 4 unfinished handshakes (--max-handshakes 8: half of them)" % who
    else:
        why = "there are too many unfinished handshakes (--max-handshakes 8)"
    wait_until(lambda: len(access_log.lines) == 10 - stay)
    assert all("end=limit why=%r" % why in line for line in access_log.lines)


def test_a_silent_client_that_makes_room_is_a_line_in_the_log(access_log):
    """It gets no reply, for it said nothing; but whoever looks for the limit finds it."""
    with run_proxy(max_handshakes=4) as proxy, contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(Talk.to(proxy.port))
        assert "(--max-handshakes 4)" in access_log.wait_for("end=limit")
        assert {"limit": 1} == proxy.stats().refused


def test_a_crowd_from_one_address_is_only_in_its_own_way(hall):
    """However many come from one address, no other client is refused for them."""
    where = hall(room=8)
    honest = where.park(*["10.0.0.%d" % i for i in range(1, 6)])
    where.park(*["10.9.9.9"] * 50)
    wait_until(lambda: len(where.still_parked()) == 8)
    wait_until(lambda: not is_silent(where.clients[5 + 46][1]))
    assert all(is_silent(talk) for talk in honest)
    assert 3 == where.still_parked().count("10.9.9.9")


def test_a_client_whose_time_is_up_is_refused(hall):
    """The deadline is the session's, not that of its stay: it is refused, and told so."""
    where = hall(room=10, handshake_timeout=0.1)
    (talk,) = where.park("10.0.0.1")
    talk.expect(b"\x05\xff").expect_eof()
    with pytest.raises(HandshakeTimeout):
        where.clients[0][0].deadline.remaining()


def test_the_end_of_the_loop_closes_who_is_parked(hall):
    """Parked clients are closed when the loop ends; who comes later, too."""
    where = hall(room=10)
    talks = where.park("10.0.0.1", "10.0.0.2")
    wait_until(lambda: len(where.still_parked()) == 2)
    where.services.loop.stop()
    talks += where.park("10.0.0.3")
    for talk in talks:
        talk.expect_eof()
    assert ({}, 0) == (where.lobby._by_address, where.lobby._parked)


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
def test_a_handshake_goes_on_where_it_was_put_aside(proxy, target, cut):
    """A client that thinks at any point of the handshake finds its words remembered."""
    message = GREETING + socks5("127.0.0.1", target.port)
    with Talk.to(proxy.port) as talk:
        talk.send(message[:cut])
        wait_until(lambda: len(proxy) == 1, "a parked session")
        talk.send(message[cut:]).expect(b"\x05\x00")
        assert 0 == talk.receive_reply5()[0]
        talk.send(b"x").expect(b"x")


def test_the_bound_holds_in_a_proxy_and_spares_the_honest():
    """``--max-handshakes`` silent clients stay; of more, the greedy address loses its oldest."""
    with run_proxy(max_handshakes=8) as proxy, contextlib.ExitStack() as stack:

        def come(source):
            talk = stack.enter_context(Talk.to(proxy.port, source=(source, 0)))
            return talk.send(GREETING).expect(b"\x05\x00")

        honest = come("127.0.0.2")
        wait_until(lambda: len(proxy) == 1)
        greedy = [come("127.0.0.3") for _ in range(20)]
        # Which of them is the oldest is up to the order in which they were served.
        wait_until(lambda: sum(not is_silent(talk) for talk in greedy) == 13)
        for talk in greedy:
            if not is_silent(talk):
                talk.expect(failure5(2)).expect_eof()
                talk.close()
        wait_until(lambda: len(proxy) == 8)
        assert is_silent(honest)


def test_a_silent_client_that_leaves_is_forgotten(proxy):
    """A client that goes without a word leaves nothing in the lobby."""
    for leave in (Talk.close, Talk.reset):
        talk = Talk.to(proxy.port)
        wait_until(lambda: len(proxy) == 1)
        leave(talk)
        wait_until(lambda: len(proxy) == 0)
