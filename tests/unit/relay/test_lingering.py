"""Refused clients, which have their reply before their connection is closed."""

import socket

import pytest

import minisocks.relay.lingering
from kit.relaying import MB, loop_that_moves, tcp
from kit.support import Talk, wait_until
from minisocks.relay.lingering import Lingering


@pytest.fixture(params=["buffer", "pipe", "rated"])
def loop(request, monkeypatch):
    """A running loop; bytes go through its buffer, what can through a pipe, or at a rate."""
    with loop_that_moves(request.param, monkeypatch) as running:
        yield running


@pytest.fixture
def linger(loop):
    """Makes a refused client: what it has, and its other end, in the loop."""
    made = []

    def make():
        ours, theirs = tcp()
        made.extend((ours, theirs))
        ours.send(b"refused")
        ours.shutdown(socket.SHUT_WR)
        loop.submit(Lingering(loop, ours))
        return ours, Talk(theirs)

    yield make
    loop.stop()
    for sock in made:
        sock.close()


def test_a_refused_client_that_talks_on_still_hears_the_reply(linger):
    """Unwanted bytes do not cause a RST that destroys the reply."""
    ours, talk = linger()
    talk.send(bytes(100000))
    talk.expect(b"refused").expect_eof()
    talk.finish()
    wait_until(lambda: ours.fileno() == -1)


def test_a_refused_client_that_never_stops_is_cut_off(linger):
    """A refused client gets rid of a bounded number of bytes."""
    ours, talk = linger()
    with pytest.raises(ConnectionError):
        talk.send(bytes(64 * MB))
    wait_until(lambda: ours.fileno() == -1)


def test_a_refused_client_that_stays_is_closed_after_a_while(linger, monkeypatch):
    """A refused client that says nothing more keeps its descriptor for 2 s, not for ever."""
    assert minisocks.relay.lingering.LINGER_SECONDS == 2.0
    monkeypatch.setattr(minisocks.relay.lingering, "LINGER_SECONDS", 0.1)
    ours, talk = linger()
    talk.expect(b"refused").expect_eof()
    wait_until(lambda: ours.fileno() == -1)


def test_a_refused_client_that_comes_too_late_is_closed(loop):
    """What is handed to a loop that has ended is closed all the same."""
    ours, theirs = tcp()
    with ours, theirs:
        loop.stop()
        loop.submit(Lingering(loop, ours))
        assert -1 == ours.fileno()
