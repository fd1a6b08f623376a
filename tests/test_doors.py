"""Doors: who waits is let in, some in each round; without room nobody is lost or spins."""

import errno
import logging
import os
import threading

import pytest

import minisocks.doors
from minisocks.compat import READ, Waker
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
            if not self.waiting:  # else its wake-up may just have been drained
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


def test_retries_of_several_listeners_do_not_multiply(monkeypatch):
    """However often two of them find no room in one round, one retry is waited for."""
    loop = Loop()  # does not run: this thread is the loop's
    servers = [Server(), Server()]
    doors = Doors(loop, servers)
    loop.submit(doors)
    spare = [True, False] * 5
    monkeypatch.setattr(loop.pipes, "close_spare", lambda: spare.pop(0) if spare else False)
    for _ in range(5):
        doors.begin()
        for server in servers:
            server.waiting[:] = [full()] * 3
            server.loop = loop
            doors.on_ready(server.fileno(), READ)
        while loop._calls:
            job, callback, args = loop._calls.popleft()
            callback(*args)
    assert 1 == len([timer for _at, _n, timer in loop._timers if timer.callback is not None])
    doors.abort("")
    loop.stop()
    for server in servers:
        server.close()


@pytest.fixture
def log_that_raises():
    """A handler of the program's that cannot write."""

    class Full(logging.Handler):
        def emit(self, record):
            raise OSError(28, "No space left on device")

    handler = Full()
    logging.getLogger("minisocks").addHandler(handler)
    yield handler
    logging.getLogger("minisocks").removeHandler(handler)


@pytest.mark.parametrize("error", [full(), full(errno.EINVAL)], ids=repr)
def test_a_log_that_raises_closes_no_doors(opened, log_that_raises, error):
    """What cannot be told is not told; clients are served all the same."""
    servers, loop = opened(2)
    servers[0].come(error)
    wait_until(lambda: not servers[0].waiting)
    servers[1].come("client")
    wait_until(lambda: ["client"] == servers[1].served)
    assert 1 == len(loop._jobs)


@pytest.mark.parametrize("number_is_taken", [False, True])
def test_a_listener_that_its_giver_closed_harms_nobody(opened, number_is_taken):
    """Its number may be somebody else's: the others are served on, through a shortage, too."""
    servers, loop = opened(2)
    fd = servers[0].fileno()
    servers[0].close()
    if number_is_taken:
        os.dup2(servers[1].fileno(), fd)
    try:
        servers[1].come(full(), "client")
        wait_until(lambda: ["client"] == servers[1].served)
        assert fd not in loop._watching
        assert 1 == len(loop._jobs)
    finally:
        if number_is_taken:
            os.close(fd)


def test_a_number_that_is_used_again_can_be_watched(opened):
    """If somebody else has closed what was watched, the next with its number is not the victim."""
    (server,), loop = opened()
    fd, done, waker = server.fileno(), threading.Event(), Waker()
    wait_until(lambda: fd in loop._watching)
    server.close()
    os.dup2(waker.fileno(), fd)

    class Client(Job):
        def begin(self):
            loop.watch(fd, READ, self)

        def on_ready(self, ready, mask):
            assert fd == ready
            done.set()
            self.abort("")

        def abort(self, why):
            loop.unwatch(fd)
            loop.done(self)

    try:
        waker.wake()
        loop.submit(Client())
        assert done.wait(20)
    finally:
        os.close(fd)
        waker.close()


def test_listeners_come_and_go(opened):
    """One that is added is served, one that is removed only as far as clients wait there."""
    (old,), loop = opened()
    new = Server()
    new.loop = loop
    doors = next(iter(loop._jobs))
    old.waiting += ["waits"]
    loop.call_soon(doors, doors.change, [new], [old])
    wait_until(lambda: ["waits"] == old.served)
    new.come("client")
    wait_until(lambda: ["client"] == new.served)
    assert {new.fileno(): doors} == loop._watching
    loop.call_soon(doors, doors.change, [], [new])
    wait_until(lambda: not loop._watching)
    new.close()


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
