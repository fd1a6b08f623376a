"""The acceptor: handler threads that lead, serve and follow; shortages; listeners that change."""

import contextlib
import errno
import logging
import os
import resource
import socket
import threading
import time

import pytest

import minisocks.net.capacity
import minisocks.server.accepting
import minisocks.server.acceptor
import minisocks.server.server
from kit import inside
from kit.support import (
    GREETING,
    TIMEOUT,
    FakeTarget,
    Talk,
    black_hole,
    log_kept,
    nothing_left,
    open_descriptors,
    own_threads,
    password_message,
    run_proxy,
    socks5,
    wait_until,
)
from minisocks.compat import Waker
from minisocks.config.settings import Config
from minisocks.net.loop import run_in
from minisocks.server.acceptor import MAX_FOLLOWERS, Acceptor
from minisocks.server.services import Services


class Server:
    """What an acceptor needs of a ``SocksServer``: readable while a client waits."""

    server_address = ("127.0.0.1", 1)

    def __init__(self):
        self.waiting = []
        self.served = []
        self.refused = []
        #: Clients are served once this is set.
        self.go_on = threading.Event()
        self.go_on.set()
        self._waker = Waker()

    def fileno(self):
        return self._waker.fileno()

    def come(self, *clients):
        """Have *clients*, or errors instead, be what accept gives next."""
        self.waiting.extend(clients)
        self._waker.wake()

    def get_request(self):
        if self.fileno() < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if not self.waiting:
            self._waker.drain()
            if not self.waiting:
                raise BlockingIOError
            self._waker.wake()  # theirs, if some have just come, may have been drained
        client = self.waiting.pop(0)
        if isinstance(client, Exception):
            raise client
        return client, ("127.0.0.1", 1)

    def verify_request(self, request, address):
        return True

    def process_request(self, request, address):
        self.served.append(request)
        assert self.go_on.wait(TIMEOUT)

    def shutdown_request(self, request):
        self.refused.append(request)

    def close(self):
        self._waker.close()


class FakePending:
    """So many pending handshakes."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def have_threads(self, threads):
        pass

    def close(self):
        pass


@pytest.fixture
def accepting():
    """Makes an acceptor with servers; returns both."""
    services = Services(Config(max_handshakes=8))
    services.loop.start()
    acceptor, servers = Acceptor(services), []

    def make(count=1):
        servers.extend(Server() for _ in range(count))
        acceptor.start(servers)
        return acceptor, servers

    yield make
    for server in servers:
        server.go_on.set()
    acceptor.stop()
    services.loop.stop()
    services.resolver.close()
    for server in servers:
        server.close()


def full(code=errno.EMFILE):
    return OSError(code, os.strerror(code))


@pytest.fixture
def warnings_said(caplog):
    """A function that returns the warnings so far that contain a word."""
    caplog.set_level(logging.WARNING, "minisocks")

    def said(word):
        return [r.getMessage() for r in caplog.records if word in r.getMessage()]

    return said


# Threads


def test_a_thread_that_serves_has_another_one_lead(accepting):
    """The next client is accepted while a thread serves."""
    acceptor, (server,) = accepting()
    server.go_on.clear()
    for count in range(1, 9):
        server.come(count)
        wait_until(lambda: len(server.served) == count)  # noqa: B023
        wait_until(lambda: acceptor.threads == count + 1)  # noqa: B023
    assert list(range(1, 9)) == server.served


def test_threads_that_come_back_to_enough_others_end(accepting):
    """At most so many stay without a client, and they serve on."""
    acceptor, (server,) = accepting()
    server.go_on.clear()
    server.come(*range(8))
    wait_until(lambda: len(server.served) == 8)
    server.go_on.set()
    wait_until(lambda: acceptor.threads == MAX_FOLLOWERS)
    server.come("next")
    wait_until(lambda: "next" in server.served)
    assert acceptor.threads <= MAX_FOLLOWERS


@pytest.mark.parametrize("pending, most", [(8, 9), (0, 16)])
def test_there_is_one_thread_more_than_handshakes_may_be(accepting, monkeypatch, pending, most):
    """The next client waits, and is served after.  Outside of handshakes as many again may be."""
    acceptor, (server,) = accepting()
    monkeypatch.setattr(inside.services_of(acceptor), "pending", FakePending(pending))
    server.go_on.clear()
    server.come(*range(30))
    wait_until(lambda: len(server.served) == most)
    assert most == acceptor.threads
    server.go_on.set()
    wait_until(lambda: len(server.served) == 30)


def test_more_clients_than_quick_ones_are_waited_for_only_a_moment(accepting, monkeypatch):
    """Beyond that they are slow, and the next client is accepted all the same."""
    monkeypatch.setattr(minisocks.server.acceptor, "PATIENCE_SECONDS", 0.001)
    acceptor, (server,) = accepting()
    server.go_on.clear()
    server.come(*range(8))
    wait_until(lambda: len(server.served) == 8)
    assert inside.slow_handlers(acceptor) >= 4


def test_quick_clients_need_few_threads(accepting):
    """However many come at once, those that are served at once are served by a few."""
    acceptor, (server,) = accepting()
    for _ in range(50):
        server.come(*range(10))
    wait_until(lambda: len(server.served) == 500)
    assert acceptor.threads <= 9
    assert (0, 500) == inside.handler_counts(acceptor)


@pytest.mark.parametrize("error", [RuntimeError("no"), full(errno.ENOMEM), MemoryError()], ids=repr)
def test_without_new_threads_those_there_are_serve(accepting, monkeypatch, warnings_said, error):
    """One line reports it, and one when there are again; every client is served."""
    acceptor, (server,) = accepting()
    start_thread = minisocks.server.acceptor.start_thread

    def no_room(*args):
        raise error

    monkeypatch.setattr(minisocks.server.acceptor, "start_thread", no_room)
    for count in range(20):
        server.come(count)
    wait_until(lambda: len(server.served) == 20)
    assert 1 == acceptor.threads
    assert 1 == len(warnings_said("at capacity: no new thread: "))
    monkeypatch.setattr(minisocks.server.acceptor, "start_thread", start_thread)
    server.come("more")
    wait_until(lambda: "more" in server.served)
    wait_until(lambda: warnings_said("threads can be had again"))
    assert 2 == len(warnings_said(""))


def test_a_start_that_never_returns_holds_up_one_thread(accepting, monkeypatch):
    """As happens without memory: the others accept and serve, and can be stopped."""
    acceptor, (server,) = accepting()
    server.come("first")
    wait_until(lambda: acceptor.threads == 2 and server.served == ["first"])
    hangs, go_on = threading.Event(), threading.Event()

    def start_thread(*args):
        hangs.set()
        assert go_on.wait(TIMEOUT)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(minisocks.server.acceptor, "start_thread", start_thread)
    server.go_on.clear()
    server.come("second")
    wait_until(lambda: "second" in server.served)
    server.come("third")
    assert hangs.wait(TIMEOUT)
    server.go_on.set()
    server.come("fourth")
    wait_until(lambda: "fourth" in server.served)
    go_on.set()
    wait_until(lambda: "third" in server.served)


def test_a_handler_that_leaves_its_thread_takes_nothing_with_it(accepting, bugs):
    """SystemExit, too, of a subclass ends one client and no thread."""
    acceptor, (server,) = accepting()
    real = server.process_request

    def leaves(request, address):
        real(request, address)
        if request == "bad":
            raise SystemExit(1)

    server.process_request = leaves
    for _ in range(20):
        server.come("bad", "good")
    wait_until(lambda: server.served.count("good") == 20)
    wait_until(lambda: len(bugs) == 20 and inside.handler_counts(acceptor)[0] == 0)
    assert 1 <= acceptor.threads <= MAX_FOLLOWERS + 1


# Shortages


@pytest.mark.parametrize("error", [full(), full(errno.ENOMEM), MemoryError()], ids=repr)
def test_without_room_it_is_tried_again(accepting, warnings_said, error):
    """What there is no room for now is served later, by itself; one line at each edge."""
    _acceptor, servers = accepting(2)
    servers[0].come(*[error] * 3, "client")
    servers[1].come("another")
    wait_until(lambda: ["client"] == servers[0].served and ["another"] == servers[1].served)
    assert 1 == len(warnings_said("at capacity: accept: "))
    assert 1 == len(warnings_said("accepting again"))


def test_without_descriptors_the_spare_pipes_are_given_up(accepting, monkeypatch):
    """A pipe that is not used is worth less than a client, which is accepted at once then."""
    acceptor, (server,) = accepting()
    monkeypatch.setattr(minisocks.server.accepting, "RETRY_SECONDS", 3600)
    spare = [True]
    monkeypatch.setattr(inside.services_of(acceptor), "make_room", lambda: spare.pop())
    server.come(full(), "client")
    wait_until(lambda: ["client"] == server.served)
    assert [] == spare


def test_room_is_made_of_spare_pipes():
    """Any thread may ask for it; the loop closes them, and says whether there were any."""
    services = Services(Config())
    services.loop.start()
    try:
        # As if a client were connected: else the loop closes them by itself.
        run_in(services.loop, lambda: inside.add_job(services.loop, "a job"))
        pipes = services.loop.pipes
        pipe = run_in(services.loop, pipes.borrow)
        if pipe is None:
            pytest.skip("no pipes here")
        before = open_descriptors()
        assert services.make_room() is False
        run_in(services.loop, lambda: pipes.give_back(pipe))
        assert services.make_room() is True
        assert before - 2 == open_descriptors()
    finally:
        inside.forget_jobs(services.loop)
        services.loop.stop()
        services.resolver.close()


def test_stop_does_not_wait_for_descriptors(accepting, monkeypatch):
    """A leader that waits for them leaves at once."""
    acceptor, (server,) = accepting()
    monkeypatch.setattr(minisocks.server.accepting, "RETRY_SECONDS", 3600)
    server.come(full())
    wait_until(lambda: inside.waits_for_descriptors(acceptor))
    acceptor.stop()
    assert 0 == acceptor.threads


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
def test_a_log_that_raises_keeps_no_client_out(accepting, log_that_raises, error):
    """A line that cannot be logged is lost; clients are served all the same."""
    _acceptor, servers = accepting(2)
    servers[0].come(error)
    wait_until(lambda: not servers[0].waiting)
    servers[1].come("client")
    wait_until(lambda: ["client"] == servers[1].served)


def test_a_fault_of_ours_while_accepting_stops_no_thread(accepting, bugs):
    """It is logged, and the leader goes on."""
    _acceptor, (server,) = accepting()
    server.come(ZeroDivisionError("on purpose"), "client")
    wait_until(lambda: ["client"] == server.served)
    assert 1 == len(bugs)


def test_a_client_that_left_is_none(accepting):
    """Errors of a connection that ended in the queue do not disturb the next."""
    _acceptor, (server,) = accepting()
    server.come(full(errno.ECONNABORTED), full(errno.EPROTO), "client")
    wait_until(lambda: ["client"] == server.served)


@pytest.fixture
def long_pause(monkeypatch):
    """Have a listener at which accept has failed MANY times be left alone for good."""
    monkeypatch.setattr(minisocks.net.capacity, "LONG_SECONDS", 3600)


class FailsForEver(Server):
    """A listener at which accept fails, whatever happens; ``tried`` counts."""

    def __init__(self, error):
        super().__init__()
        self.error, self.tried = error, 0
        self._waker.wake()

    def get_request(self):
        self.tried += 1
        raise self.error


@pytest.mark.parametrize(
    "name", ["EPERM", "ENETDOWN", "EPROTO", "ECONNABORTED", "EOPNOTSUPP", "EIO", None]
)
def test_accept_that_fails_for_ever_is_tried_at_a_pace(
    accepting, monkeypatch, warnings_said, long_pause, name
):
    """Whatever error it is: so often, then after pauses; one line; other listeners are served."""
    number = getattr(errno, name) if name else None
    error = OSError(number, os.strerror(number)) if name else OSError("strange")
    acceptor, (server,) = accepting()
    broken = FailsForEver(error)
    acceptor.change([broken], [])
    try:
        wait_until(lambda: broken.tried == minisocks.net.capacity.MANY)
        for count in range(20):
            server.come(count)
            wait_until(lambda: len(server.served) == count + 1)  # noqa: B023
        assert minisocks.net.capacity.MANY == broken.tried
        line = "accept on 127.0.0.1:1 fails: %s; trying again" % (error.strerror or "strange")
        assert [line] == warnings_said("")
    finally:
        acceptor.change([], [broken])
        broken.close()
    assert [server] == list(inside.servers_polled(acceptor).values())


def test_accept_that_works_again_is_logged(accepting, monkeypatch, warnings_said):
    """Once, and the pace is as before."""
    monkeypatch.setattr(minisocks.net.capacity, "LONG_SECONDS", 0.001)
    _acceptor, (server,) = accepting()
    server.come(*[full(errno.EPERM)] * (minisocks.net.capacity.MANY + 5), "client")
    wait_until(lambda: ["client"] == server.served)
    wait_until(lambda: warnings_said("works again"))
    first, last = warnings_said("")
    assert "accept on 127.0.0.1:1 fails: Operation not permitted; trying again" == first
    assert "accept on 127.0.0.1:1 works again" == last


def test_a_removed_listener_at_which_accept_fails_for_ever_is_left(accepting):
    """Its clients are those that have waited there; an error is one of them."""
    acceptor, _servers = accepting()
    broken = FailsForEver(full(errno.ECONNABORTED))
    acceptor.change([broken], [])
    acceptor.change([], [broken])
    assert broken.tried <= 2 * minisocks.net.capacity.MANY
    broken.close()


# Listeners


@pytest.mark.parametrize("number_is_taken", [False, True])
def test_a_listener_that_its_giver_closed_harms_no_other(accepting, number_is_taken):
    """Its number may be another's: the other servers are served on, and one line reports it."""
    with log_kept("minisocks") as log:
        acceptor, servers = accepting(2)
        fd = servers[0].fileno()
        wait_until(lambda: fd in inside.servers_polled(acceptor))
        servers[0].close()
        if number_is_taken:
            os.dup2(servers[1].fileno(), fd)
        try:
            servers[1].come("client", full(), "next")
            wait_until(lambda: ["client", "next"] == servers[1].served)
            wait_until(lambda: fd not in inside.servers_polled(acceptor))
        finally:
            if number_is_taken:
                os.close(fd)
        assert 1 == sum("a listener is dead" in line for line in log.lines)


def test_listeners_come_and_go(accepting):
    """One that is added is served; one that is removed only as far as clients wait there."""
    acceptor, (old,) = accepting()
    new = Server()
    try:
        old.go_on.clear()
        old.waiting += ["first", "second"]
        acceptor.change([new], [old])
        assert old not in inside.servers_polled(acceptor).values()
        old.go_on.set()
        new.come("client")
        wait_until(lambda: ["first", "second"] == old.served and ["client"] == new.served)
        acceptor.change([], [new])
        assert {} == inside.servers_polled(acceptor)
    finally:
        new.close()


def test_a_removed_listener_without_end_is_left_all_the_same(accepting):
    """A flood of clients there keeps nothing from going on."""
    acceptor, (old,) = accepting()
    old.get_request = lambda: ("client", ("127.0.0.1", 1))
    acceptor.change([], [old])
    wait_until(lambda: len(old.served) == minisocks.server.accepting.MAX_WAITING)
    assert {} == inside.servers_polled(acceptor)


def test_listeners_change_under_load(target):
    """Two hundred times, while clients come: none is lost, and none waits for it."""
    with run_proxy(listen=("127.0.0.1:0",)) as proxy:
        done, served = threading.Event(), []

        def visit():
            while not done.is_set():
                with Talk.to(proxy.port) as talk:
                    assert 0 == talk.connect5("127.0.0.1", target.port)[0]
                    served.append(talk.send(b"x").receive(1))

        threads = [threading.Thread(target=visit) for _ in range(2)]
        for thread in threads:
            thread.start()
        acceptor, more = inside.acceptor_of(proxy), [Server() for _ in range(3)]
        try:
            for i in range(200):
                acceptor.change(more[: i % 4], [])
                acceptor.change([], more[: i % 4])
        finally:
            done.set()
            for thread in threads:
                thread.join()
            for server in more:
                server.close()
        assert served
        assert {b"x"} == set(served)


def test_the_end_of_all_threads_comes_with_a_forked_child_alive(target):
    """A child that has our descriptors keeps neither stop nor the next start."""
    with nothing_left():
        with run_proxy() as proxy, Talk.to(proxy.port) as talk:
            assert 0 == talk.connect5("127.0.0.1", target.port)[0]
            reader, writer = os.pipe()
            child = os.fork()
            if not child:
                os.close(writer)
                os.read(reader, 1)
                os._exit(0)
            try:
                proxy.stop()
                assert [] == [t for t in own_threads() if t.name == "minisocks-handler"]
                proxy.start()
                with Talk.to(proxy.port) as talk2:
                    assert 0 == talk2.connect5("127.0.0.1", target.port)[0]
            finally:
                os.close(writer)
                os.close(reader)
                os.waitpid(child, 0)


# In a proxy


def assert_served(proxy, target, **kwargs):
    """Have an honest client be served; return how many seconds that took."""
    began = time.monotonic()
    with Talk.to(proxy.port, **kwargs) as talk:
        assert 0 == talk.connect5("127.0.0.1", target.port)[0]
        talk.send(b"honest").expect(b"honest")
    return time.monotonic() - began


@pytest.fixture
def many_descriptors():
    """Room for two thousand descriptors, where the system grants it."""
    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    if old[1] != resource.RLIM_INFINITY and old[1] < 4096:
        pytest.skip("the hard limit of descriptors is %d" % old[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(old[0], 4096), old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, old)


def test_an_honest_client_does_not_notice_the_crowd(many_descriptors):
    """500 dials into a black hole, 200 silent clients and 200 half-greeted: served soon.

    The dials have no threads; each client that is waited for has one, up to the bound; and
    nothing is left of the crowd after.
    """
    before = open_descriptors()
    with FakeTarget() as target, run_proxy() as proxy, black_hole() as hole:
        with contextlib.ExitStack() as crowd:
            for _ in range(500):
                talk = crowd.enter_context(Talk.to(proxy.port))
                talk.send(GREETING + socks5("127.0.0.1", hole))
            wait_until(lambda: proxy.stats().handshakes == 0 and len(proxy) == 500)
            assert proxy.stats().threads <= MAX_FOLLOWERS + 1
            for i in range(400):
                # From four addresses, none of them the honest client's.
                talk = crowd.enter_context(
                    Talk.to(proxy.port, source=("127.0.0.%d" % (2 + i % 4), 0))
                )
                if i % 2:
                    talk.send(b"\x05")
            delays = [assert_served(proxy, target) for _ in range(5)]
            # 500 dials, and those of the others for which there is room.
            wait_until(lambda: len(proxy) >= 500 + 250)
            delays += [assert_served(proxy, target) for _ in range(5)]
            threads = proxy.stats().threads
        print("honest client: %s s, %d threads" % (" ".join("%.3f" % d for d in delays), threads))
        assert max(delays) < 5
        assert 250 <= threads <= 257
        wait_until(lambda: len(proxy) == 0, "an empty proxy")
        wait_until(lambda: proxy.stats().threads <= MAX_FOLLOWERS)
    wait_until(lambda: open_descriptors() == before, "the descriptors back")


def test_three_hundred_honest_clients_at_once_are_all_served(many_descriptors, target):
    """More than there may be handshakes, all at the same time, each in small steps."""
    served, ready = [], threading.Barrier(300)

    def visit():
        ready.wait(TIMEOUT)
        with Talk.to(proxy.port) as talk:
            assert 0 == talk.connect5("127.0.0.1", target.port)[0]
            served.append(talk.send(b"x").receive(1))

    with run_proxy() as proxy:
        threads = [threading.Thread(target=visit) for _ in range(300)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [b"x"] * 300 == served


def test_clients_that_drip_delay_no_other(target):
    """However slow a client is, no client waits for it but itself."""
    with run_proxy() as proxy, contextlib.ExitStack() as stack:
        drips = [stack.enter_context(Talk.to(proxy.port)) for _ in range(60)]
        message = GREETING + socks5("127.0.0.1", target.port)
        for i in range(len(message) - 1):
            for drip in drips:
                drip.send(message[i : i + 1])
            assert assert_served(proxy, target, source=("127.0.0.9", 0)) < TIMEOUT / 2
        for drip in drips:
            drip.send(message[-1:])
            assert b"\x05\x00\x05\x00" == drip.receive(4)


def test_a_client_that_left_before_it_was_accepted_is_none(proxy, target):
    """Connections that are reset in the backlog do not disturb those behind them."""
    for _ in range(50):
        Talk.to(proxy.port).reset()
    assert_served(proxy, target)
    wait_until(lambda: len(proxy) == 0)


def test_threads_get_no_signals(target):
    """Every thread that we start has all signals blocked, so they reach the main thread."""
    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(run_proxy())
        with Talk.to(proxy.port) as talk:
            talk.connect5("127.0.0.1", target.port)
        talk = stack.enter_context(Talk.to(proxy.port))
        talk.connect5(b"localhost", target.port)
        masks = signal_masks()
    assert len(masks) >= 3
    for blocked in masks.values():
        # INT 2, HUP 1, USR1 10, TERM 15, CHLD 17, ALRM 14
        assert all(blocked >> (number - 1) & 1 for number in (1, 2, 10, 14, 15, 17))


def signal_masks():
    """Return the blocked signals of each thread of ours, by its name (Linux)."""
    masks = {}
    for thread in threading.enumerate():
        if not hasattr(thread, "native_id"):
            pytest.skip("threads have no native_id before Python 3.8")
        if thread.name.startswith("minisocks"):
            with contextlib.suppress(OSError, TypeError):  # it begins or ends just now
                with open("/proc/self/task/%d/status" % thread.native_id) as status:
                    (line,) = [line for line in status if line.startswith("SigBlk:")]
                masks["%s-%d" % (thread.name, thread.native_id)] = int(line.split()[1], 16)
    return masks


def test_listeners_share_the_threads():
    """Clients of several listeners are served by the same few threads."""
    with run_proxy(listen=("127.0.0.1:0",) * 3) as proxy, FakeTarget() as target:
        ports = [int(address.rpartition(":")[2]) for address in proxy.addresses]
        assert 3 == len(set(ports))
        for port in ports * 3:
            with Talk.to(port) as talk:
                assert 0 == talk.connect5("127.0.0.1", target.port)[0]
        assert proxy.stats().threads <= MAX_FOLLOWERS


def test_a_listener_that_another_process_shut_down_does_not_spin(caplog, target):
    """A given listener that dies under us is dropped with one line; the others serve on."""
    shared = socket.socket()
    shared.bind(("127.0.0.1", 0))
    shared.listen(5)
    caplog.set_level(logging.ERROR, "minisocks")
    with shared.dup() as other, run_proxy(listeners=(shared,)) as proxy:
        other.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: "a listener is dead" in caplog.text)
        for _ in range(3):
            assert_served(proxy, target)
        assert 1 == caplog.text.count("a listener is dead")


@pytest.mark.parametrize("name", ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"])
def test_a_system_that_is_full_is_waited_for(monkeypatch, warnings_said, target, name):
    """Whatever it is that has run out: no spin, a line at each edge, and then it goes on."""
    accept, refused = minisocks.server.server.SocksServer.get_request, []

    def get_request(server):
        if len(refused) < 3:
            refused.append(time.monotonic())
            raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))
        return accept(server)

    monkeypatch.setattr(minisocks.server.server.SocksServer, "get_request", get_request)
    with run_proxy() as proxy:
        assert_served(proxy, target)
        wait_until(lambda: warnings_said("accepting again"))
    assert 3 == len(refused)
    # Each but the first was tried after a wait, not at once.
    assert refused[-1] - refused[0] >= 0.09
    assert 1 == len(warnings_said("at capacity"))
    assert 1 == len(warnings_said("accepting again"))


# Hooks hold threads


class SlowHook:
    """An ``authenticate`` hook; for the user ``slow`` it takes until a test has it go on."""

    def __init__(self):
        self.go_on = threading.Event()
        self.waiting = 0
        self._count = threading.Lock()

    def __call__(self, user, password, client):
        if user == "slow":
            with self._count:
                self.waiting += 1
            assert self.go_on.wait(TIMEOUT)
        return True


@contextlib.contextmanager
def slow_hook(blocked, **settings):
    """A proxy with *blocked* clients whose password takes long; yields it and the hook."""
    hook = SlowHook()
    with run_proxy(authenticate=hook, **settings) as proxy, contextlib.ExitStack() as stack:
        try:
            for _ in range(blocked):
                talk = stack.enter_context(Talk.to(proxy.port))
                talk.send(b"\x05\x01\x02" + password_message(b"slow", b"b"))
            wait_until(lambda: hook.waiting == blocked, "hooks at once")
            hook.leave = stack.close
            yield proxy, hook
        finally:
            hook.go_on.set()


def log_in(proxy, target):
    """Have a client with a quick password be served."""
    with Talk.to(proxy.port) as talk:
        talk.send(b"\x05\x01\x02" + password_message(b"quick", b"b"))
        talk.expect(b"\x05\x02\x01\x00").send(socks5("127.0.0.1", target.port))
        assert 0 == talk.receive_reply5()[0]
        talk.send(b"x").expect(b"x")


def test_while_hooks_hold_threads_others_are_served(target):
    """New threads serve them, and all but a few leave when it is over."""
    with slow_hook(blocked=20) as (proxy, hook):
        log_in(proxy, target)
        assert 20 < proxy.stats().threads <= 22
        hook.go_on.set()
        hook.leave()
        wait_until(lambda: proxy.stats().threads <= MAX_FOLLOWERS)
        log_in(proxy, target)


def test_with_all_threads_in_hooks_clients_are_refused_at_once(target, warnings_said):
    """They hear so, one line tells the operator, and it is over when a hook returns."""
    with slow_hook(blocked=4, max_handshakes=4) as (proxy, hook):
        for _ in range(5):
            with Talk.to(proxy.port) as talk:
                talk.expect_eof()
        assert {"limit": 5} == proxy.stats().refused
        assert 5 == proxy.stats().threads
        hook.go_on.set()
        hook.leave()
        wait_until(lambda: proxy.stats().handshakes < 4)
        log_in(proxy, target)
    assert 1 == len(warnings_said("at capacity: hooks hold 4 handler threads"))


def test_stopping_waits_for_a_hook_that_is_slow_but_not_for_ever(monkeypatch):
    """``stop`` returns though a hook hangs; the client is closed when the hook returns."""
    monkeypatch.setattr(minisocks.server.acceptor, "STOP_SECONDS", 0.1)
    before = open_descriptors()
    with slow_hook(blocked=0) as (proxy, hook):
        with Talk.to(proxy.port) as talk:
            talk.send(b"\x05\x01\x02" + password_message(b"slow", b"b")).expect(b"\x05\x02")
            wait_until(lambda: hook.waiting)
            began = time.monotonic()
            proxy.stop()
            assert time.monotonic() - began < 10
            hook.go_on.set()
            with contextlib.suppress(ConnectionError):
                talk.rest()
    wait_until(lambda: not own_threads())
    wait_until(lambda: open_descriptors() == before, "the descriptors back")


@pytest.mark.soak
def test_a_crowd_leaves_no_memory_behind(many_descriptors):
    """A second crowd of clients that are waited for has the same threads' memory."""

    def crowd():
        with contextlib.ExitStack() as stack:
            for _ in range(200):
                stack.enter_context(Talk.to(proxy.port))
            wait_until(lambda: proxy.stats().threads > 200)
            with open("/proc/self/statm") as file:
                resident = int(file.read().split()[1]) * resource.getpagesize()
        wait_until(lambda: proxy.stats().threads <= MAX_FOLLOWERS)
        return resident

    with run_proxy() as proxy:
        crowd()
        first, second = crowd(), crowd()
    assert second - first < 1 << 20
