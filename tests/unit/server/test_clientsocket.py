"""The client's socket in its handshake, ended at the worst moment; and its deadline."""

import contextlib
import socket
import threading
import time

import pytest

from kit import inside
from kit.support import TIMEOUT, Talk
from minisocks.compat import READ
from minisocks.errors import HandshakeTimeout, LimitReached
from minisocks.policy.client import Client
from minisocks.server.clientsocket import ClientSocket, Deadline
from minisocks.wire import Rep


@pytest.fixture
def client():
    """A client whose handshake is ended while its thread looks whether it has left."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        talk = stack.enter_context(Talk.to(listener.getsockname()[1]))
        sock, peer = listener.accept()
        stack.enter_context(sock)
        talk.conn = ClientSocket(sock, Client(peer), TIMEOUT)
        why = LimitReached("ended for another")
        inside.call_before_look(talk.conn, lambda: talk.conn.end(why))
        yield talk


def test_one_that_is_ended_while_it_pauses_has_not_left(client):
    """We have shut its socket down for reading, which looks like its FIN; the error says why."""
    with pytest.raises(LimitReached, match="ended for another"):
        client.conn.pause(0.0)


def test_one_that_is_ended_when_it_has_just_sent_fin_waits_no_more(client):
    """Nothing would be heard of it any more: its thread looks once more before it waits."""
    raised = []

    def wait(sock):
        try:
            client.conn.wait_for(sock, READ, time.monotonic() + 3600)
        except LimitReached as exc:
            raised.append(str(exc))

    ours, theirs = socket.socketpair()
    client.finish()
    with ours, theirs:
        thread = threading.Thread(target=wait, args=(ours,), daemon=True)
        thread.start()
        thread.join(TIMEOUT)
        assert ["ended for another"] == raised


# The deadline: one budget for all waits


def test_waits_share_what_is_left():
    """Each wait gets no more than the one before left, and always something."""
    deadline = Deadline(60)

    left = [deadline.remaining() for _ in range(100)]

    assert sorted(left, reverse=True) == left
    assert 0 < left[-1] <= left[0] <= 60
    assert deadline.at - time.monotonic() <= left[-1]


@pytest.mark.parametrize("seconds", [0, -1, -1e9])
def test_spent_budget_is_an_error_for_ever(seconds):
    """When nothing is left, every further wait is an error, with the REP for it."""
    deadline = Deadline(seconds)

    for _ in range(2):
        with pytest.raises(HandshakeTimeout) as caught:
            deadline.remaining()
        assert Rep.TTL_EXPIRED == caught.value.rep


def test_time_that_was_not_the_client_s_is_given_back():
    """What ``extend`` gives is there, in full, even if all was spent."""
    deadline = Deadline(-1)
    deadline.extend(61)

    assert 59 < deadline.remaining() <= 60
