"""Doors: who waits is let in, some in each round; without room nobody is lost or spins."""

import errno
import os
import threading

import pytest

import minisocks.doors
from minisocks.compat import Waker
from minisocks.doors import BATCH, Doors
from minisocks.loop import Job, Loop
from support import CountingPoller, open_descriptors, wait_until


class Server:
    """What doors need of a ``SocksServer``: readable while somebody waits, and accepts or fails."""

    def __init__(self):
        self.waiting = []
        self.served = []
        self.rounds = []
        self._waker = Waker()
        self.loop = None

    def fileno(self):
        return self._waker.fileno()

    def come(self, *clients):
        """Have *clients*, or errors instead, be what accept gives next."""
        self.waiting.extend(clients)
        self._waker.wake()

    def get_request(self):
        if not self.waiting:
            self._waker.drain()
            raise BlockingIOError
        client = self.waiting.pop(0)
        if isinstance(client, Exception):
            raise client
        return client, ("127.0.0.1", 1)

    def process_request(self, request, address):
        self.served.append(request)
        self.rounds.append(self.loop._poller.rounds)

    def close(self):
        self._waker.close()


@pytest.fixture
def opened(monkeypatch):
    """Makes doors in a loop of their own; returns their servers and the loop."""
    monkeypatch.setattr(minisocks.doors, "RETRY_SECONDS", 0.05)
    loop = Loop()
    loop._poller = CountingPoller(loop._poller)
    loop.start()
    servers = []

    def make(count=1):
        servers.extend(Server() for _ in range(count))
        for server in servers:
            server.loop = loop
        loop.submit(Doors(loop, servers))
        return servers, loop

    yield make
    loop.stop()
    for server in servers:
        server.close()


def full(code=errno.EMFILE):
    return OSError(code, os.strerror(code))


def test_who_waits_is_served_in_order_some_in_each_round(opened):
    """A crowd at the door leaves those inside their turns: at most so many in a round."""
    (server,), _loop = opened()
    server.come(*range(30))
    wait_until(lambda: len(server.served) == 30)
    assert list(range(30)) == server.served
    assert max(server.rounds.count(turn) for turn in server.rounds) == BATCH


@pytest.mark.parametrize("error", [full(), full(errno.ENOMEM), MemoryError()], ids=repr)
def test_without_room_it_is_tried_again(opened, error):
    """What there is no room for now is served later, by itself, and without a spin."""
    servers, loop = opened(2)
    servers[0].come(error, "client")
    wait_until(lambda: not servers[0].waiting)
    servers[1].come("another")
    wait_until(lambda: ["client"] == servers[0].served and ["another"] == servers[1].served)
    assert loop._poller.rounds < 30


def test_a_descriptor_that_is_freed_opens_the_doors_at_once(opened, monkeypatch):
    """Nobody waits for the second to be over when somebody has left."""
    monkeypatch.setattr(minisocks.doors, "RETRY_SECONDS", 3600)
    (server,), loop = opened()
    server.come(full(), "client")
    wait_until(lambda: loop._timers)
    loop.on_closed()
    loop.wake()
    wait_until(lambda: ["client"] == server.served)


def test_without_descriptors_the_spare_pipes_are_given_up(opened, monkeypatch):
    """A pipe that nobody uses is worth less than a client."""
    (server,), loop = opened()
    begun = threading.Event()

    class Client(Job):
        """Somebody who is connected: with nobody there, spare pipes are closed anyway."""

        def begin(self):
            pipe = loop.pipes.borrow()
            if pipe is not None:
                loop.pipes.give_back(pipe)
            begun.set()

        def abort(self, why):
            pass

    loop.submit(Client())
    assert begun.wait(20)
    if not loop.pipes.count:
        pytest.skip("no pipes here")
    before = open_descriptors()
    monkeypatch.setattr(minisocks.doors, "RETRY_SECONDS", 3600)
    server.come(full(), "client")
    wait_until(lambda: ["client"] == server.served)
    assert 0 == loop.pipes.count
    assert before - 2 == open_descriptors()


def test_a_client_that_left_is_nobody(opened):
    """Errors of a connection that ended in the queue do not disturb the next."""
    (server,), _loop = opened()
    server.come(full(errno.ECONNABORTED), full(errno.EPROTO), "client")
    wait_until(lambda: ["client"] == server.served)


def test_doors_are_no_connection(opened):
    """What is counted, and waited for at the end, are clients."""
    _servers, loop = opened()
    empty = threading.Event()
    loop.notify_when_empty(empty.set)
    assert empty.wait(20)
    assert 0 == len(loop)


def test_doors_that_are_closed_twice_leave_others_alone(opened):
    """The number of a listener that is closed may be given to a client, who is watched on."""
    (server,), loop = opened()
    server.come("client")
    wait_until(lambda: server.served)
    doors = next(iter(loop._jobs))
    done = threading.Event()

    class Client(Job):
        def begin(self):
            doors.abort("")
            loop.watch(server.fileno(), 0, self)
            doors.abort("")
            done.set()

        def abort(self, why):
            loop.unwatch(server.fileno())

    client = Client()
    loop.submit(client)
    assert done.wait(20)
    assert {server.fileno(): client} == loop._watching
