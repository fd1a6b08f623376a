"""Relayed connections without a proxy: a pair in a loop, and both ends to talk through."""

import contextlib
import os
import select
import socket
import threading
import time

import pytest

import minisocks.net.loop
import minisocks.net.pipes
import minisocks.relay.flow
import minisocks.relay.pair
import minisocks.relay.rate
from kit import inside
from kit.support import TIMEOUT, CountingPoller, Talk, wait_until
from minisocks.compat import UNSHARED_POLLERS, UNWATCHED, tune
from minisocks.net.loop import Loop
from minisocks.policy.client import Client
from minisocks.record import Record
from minisocks.relay.pair import Pair
from minisocks.relay.rate import Rates
from minisocks.wire import Rep

__all__ = [
    "ENDS",
    "MB",
    "Relayed",
    "loop_that_moves",
    "receive_until_reset",
    "relayed_by",
    "tcp",
    "unix",
]

ENDS = ["client", "target"]
MB = 1 << 20

#: Bytes a second where there is a rate: so many that no test waits, and so few at once that
#: each direction has to, all the time.
RATE, RATE_DEPTH_SECONDS = 50 * 10**6, 0.001


@contextlib.contextmanager
def loop_that_moves(by, monkeypatch):
    """Run a loop that moves bytes through its buffer, what can through a pipe, or at a rate.

    Args:
        by: "buffer", "pipe", "rated", or "poll": through the buffer, with poll() for epoll.
    """
    if by == "poll":
        if not hasattr(select, "poll"):
            pytest.skip("no poll() here")
        monkeypatch.setattr(minisocks.net.loop, "Poller", UNSHARED_POLLERS[0])
    elif by == "pipe":
        if not hasattr(os, "splice"):
            pytest.skip("no os.splice before Python 3.10, and elsewhere than on Linux")
        monkeypatch.setattr(minisocks.relay.pair, "BULK_BYTES", 1)
        monkeypatch.setattr(minisocks.relay.flow, "LITTLE_BYTES", 0)
    else:
        monkeypatch.setattr(minisocks.net.pipes, "MAX_PIPES", 0)
    running = Loop()
    if by == "rated":
        monkeypatch.setattr(minisocks.relay.rate, "DEPTH_SECONDS", RATE_DEPTH_SECONDS)
        running.rates, running.rate = Rates(running), RATE
    running.start()
    yield running
    running.stop()


def tcp(small=False):
    """Return the two ends of a TCP connection; *small*: with the least of buffers."""
    near = socket.socket()
    with socket.socket() as listener:
        for sock in (listener, near):
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                if small:
                    sock.setsockopt(socket.SOL_SOCKET, option, 4096)
        if not small:
            # Holds 150 KB that the program does not read; what a kernel offers at first is less.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 200000)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        near.connect(listener.getsockname())
        return near, listener.accept()[0]


def unix(small=False):
    """Return the two ends of a unix stream."""
    ends = socket.socketpair()
    if small:
        for end in ends:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return ends


class Relayed:
    """A pair in a loop, with a client's and a target's end to talk through.

    With a rate, if the loop has ``rates`` and a ``rate``.
    """

    def __init__(self, loop, early=b"", small=(), make=tcp):
        client, self.client_side = make("client" in small)
        target, self.target_side = make("target" in small)
        self.loop = loop
        self.client, self.target = Talk(client), Talk(target)
        self.record = Record(Client(("127.0.0.1", 4242)))
        self.record.via, self.record.rep = "127.0.0.1", Rep.SUCCEEDED
        tune(self.client_side)
        tune(self.target_side)
        rates = getattr(loop, "rates", None)
        share = None if rates is None else rates.share_of(self.record.client, loop.rate)
        ends = self.client_side, self.target_side
        self.pair = Pair(loop, *ends, self.record, early, UNWATCHED, share)

    def start(self):
        self.loop.submit(self.pair)
        return self

    def ends(self, first):
        """Return both talks, that of *first* ("client" or "target") in front."""
        return (self.client, self.target) if first == "client" else (self.target, self.client)

    def flow(self, first):
        """Return the direction of what *first* ("client" or "target") sends."""
        up, down = inside.flows(self.pair)
        return up if first == "client" else down

    def fill(self, talk):
        """Have *talk* send until all buffers are full, the relay's too; return what it sent."""
        flow = self.flow("client" if talk is self.client else "target")
        data, sent = os.urandom(65536), []
        talk.sock.setblocking(False)
        wait_until(lambda: not self._send_some(talk, data, sent) and flow.pending is not None)
        talk.sock.settimeout(TIMEOUT)
        return b"".join(sent)

    @staticmethod
    def _send_some(talk, data, sent):
        """Send; return False if nothing could be sent for a moment."""
        if not select.select([], [talk.sock], [], 0.05)[1]:
            return False
        try:
            sent.append(data[: talk.sock.send(data)])
        except BlockingIOError:
            pass
        return True

    def wait_closed(self):
        wait_until(lambda: self.client_side.fileno() == -1 == self.target_side.fileno(), "the end")

    def count_rounds(self):
        """Return how many rounds the loop makes in a while; few mean it sleeps."""
        counting = inside.wrap_poller(self.loop, CountingPoller)
        inside.wake(self.loop)
        wait_until(lambda: counting.rounds)
        before, cpu = counting.rounds, time.process_time()
        threading.Event().wait(0.2)
        print(
            "%d rounds, %.3f s of processor time"
            % (counting.rounds - before, time.process_time() - cpu)
        )
        return counting.rounds - before

    def close(self):
        for sock in (self.client.sock, self.target.sock, self.client_side, self.target_side):
            sock.close()


@contextlib.contextmanager
def relayed_by(loop):
    """Yield what makes relayed connections of *loop*, and starts them unless told otherwise."""
    made = []

    def make(start=True, **kwargs):
        made.append(Relayed(loop, **kwargs))
        return made[-1].start() if start else made[-1]

    yield make
    loop.stop()
    for each in made:
        each.close()


def receive_until_reset(talk):
    """Return what comes before a RST; fail if the stream ends in order."""
    parts = []
    while True:
        try:
            data = talk.sock.recv(65536)
        except ConnectionResetError:
            return b"".join(parts)
        assert data, "the stream ended in order"
        parts.append(data)
