"""The client's socket in its handshake: another thread ends it at the worst moment."""

import contextlib
import socket
import threading
import time

import pytest

from kit import inside
from kit.support import TIMEOUT, Talk
from minisocks.compat import READ
from minisocks.errors import LimitReached
from minisocks.policy.client import Client
from minisocks.server.clientsocket import ClientSocket


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
