"""The handler pool: no thread, however many clients are slow; threads only for hooks."""

import contextlib
import errno
import logging
import os
import resource
import socket
import threading
import time

import pytest

import minisocks.doors
import minisocks.pool
import minisocks.server
from support import (
    GREETING,
    TIMEOUT,
    FakeTarget,
    Talk,
    black_hole,
    open_descriptors,
    password_message,
    run_proxy,
    socks5,
    wait_until,
)


def handler_threads():
    """Return how many handler threads there are in this process."""
    return sum(thread.name == "minisocks-handler" for thread in threading.enumerate())


@pytest.fixture
def warnings_said(caplog):
    """Returns the warnings said so far that contain a word."""
    caplog.set_level(logging.WARNING, "minisocks")

    def said(word):
        return [r.getMessage() for r in caplog.records if word in r.getMessage()]

    return said


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

    It takes no threads, and nothing is left of the crowd after.
    """
    before = open_descriptors()
    with FakeTarget() as target, run_proxy() as proxy, black_hole() as hole:
        with contextlib.ExitStack() as crowd:
            for _ in range(500):
                talk = crowd.enter_context(Talk.to(proxy.port))
                talk.send(GREETING + socks5("127.0.0.1", hole))
            for i in range(400):
                # From four addresses, none of them the honest client's.
                talk = crowd.enter_context(
                    Talk.to(proxy.port, source=("127.0.0.%d" % (2 + i % 4), 0))
                )
                if i % 2:
                    talk.send(b"\x05")
            delays = [assert_served(proxy, target) for _ in range(5)]
            threads = handler_threads()
            # 500 dials, and those of the others for which there is room.
            wait_until(lambda: len(proxy) >= 500 + 250)
            delays += [assert_served(proxy, target) for _ in range(5)]
        print("honest client: %s s, %d threads" % (" ".join("%.3f" % d for d in delays), threads))
        assert max(delays) < 5
        assert 0 == max(threads, handler_threads())
        wait_until(lambda: len(proxy) == 0, "an empty proxy")
    wait_until(lambda: open_descriptors() == before, "the descriptors back")
    wait_until(lambda: handler_threads() == 0)


def test_clients_that_drip_hold_no_threads(proxy, target):
    """Sixty clients that say a byte now and then keep neither threads nor others busy."""
    message = GREETING + socks5("127.0.0.1", target.port)
    with contextlib.ExitStack() as stack:
        drips = [stack.enter_context(Talk.to(proxy.port)) for _ in range(60)]
        most = 0
        for i in range(len(message)):
            for drip in drips:
                drip.send(message[i : i + 1])
            most = max(most, handler_threads())
            if i % 4 == 0:
                assert assert_served(proxy, target) < 5
        for drip in drips:
            drip.expect(b"\x05\x00")
            assert 0 == drip.receive_reply5()[0]
            drip.send(b"x").expect(b"x")
        assert 0 == most


class SlowUsers:
    """Checks passwords; for the user ``slow`` that takes until it is told to go on."""

    may_take_long = True

    def __init__(self):
        self.go_on = threading.Event()
        self.waiting = 0
        self._count = threading.Lock()

    def verify(self, credentials, client):
        if credentials.user == b"slow":
            with self._count:
                self.waiting += 1
            assert self.go_on.wait(TIMEOUT)
        return True

    def proof(self, credentials):
        return b""

    def holds(self, user, proof):
        return True


@contextlib.contextmanager
def slow_hook(blocked, **settings):
    """A proxy with *blocked* clients whose password takes long; yields it and the hook."""
    with run_proxy(user=("a:b",), **settings) as proxy, contextlib.ExitStack() as stack:
        users = proxy.services.users = SlowUsers()
        try:
            for _ in range(blocked):
                talk = stack.enter_context(Talk.to(proxy.port))
                talk.send(b"\x05\x01\x02" + password_message(b"slow", b"b"))
            yield proxy, users
        finally:
            users.go_on.set()


def log_in(proxy, target, source=None):
    """Have a client with a quick password be served."""
    with Talk.to(proxy.port, source=source) as talk:
        talk.send(b"\x05\x01\x02" + password_message(b"quick", b"b"))
        talk.expect(b"\x05\x02\x01\x00").send(socks5("127.0.0.1", target.port))
        assert 0 == talk.receive_reply5()[0]
        talk.send(b"x").expect(b"x")


def test_a_slow_hook_makes_the_pool_grow_and_shrink_again(monkeypatch, target):
    """While hooks hold threads others are served by new ones, and all leave when it is over."""
    monkeypatch.setattr(minisocks.pool, "IDLE_SECONDS", 0.05)
    with slow_hook(blocked=20) as (proxy, users):
        wait_until(lambda: users.waiting == 20, "twenty hooks at once")
        log_in(proxy, target)
        assert 20 < handler_threads() <= 22
        users.go_on.set()
        wait_until(lambda: handler_threads() == 0, "an empty pool")
        log_in(proxy, target)


def test_hooks_of_one_address_leave_room_for_others(target, warnings_said):
    """An address has at most half of the threads for its hooks; beyond that it is refused."""
    with slow_hook(blocked=4, max_handshakes=8) as (proxy, users):
        wait_until(lambda: users.waiting == 4, "four hooks at once")
        for _ in range(10):
            with Talk.to(proxy.port) as talk:
                talk.send(b"\x05\x01\x02" + password_message(b"quick", b"b"))
                assert b"\x05\x02\x01\x01" == talk.rest()
        log_in(proxy, target, source=("127.0.0.2", 0))
        assert handler_threads() <= 8
        users.go_on.set()
        wait_until(lambda: not proxy._run.pool._hooks, "the hooks' end")
        log_in(proxy, target)
    assert 1 == len(warnings_said("at capacity: hooks hold"))


def test_hooks_never_hold_the_loop(target):
    """With all threads in hooks, clients still hear at once that there is no room."""
    with slow_hook(blocked=0, max_handshakes=4) as (proxy, users), contextlib.ExitStack() as stack:
        for i in range(4):
            talk = stack.enter_context(Talk.to(proxy.port, source=("127.0.0.%d" % (i + 1), 0)))
            talk.send(b"\x05\x01\x02" + password_message(b"slow", b"b"))
        wait_until(lambda: users.waiting == 4, "four hooks at once")
        for i in range(5):
            with Talk.to(proxy.port, source=("127.0.0.%d" % (i + 10), 0)) as talk:
                talk.send(b"\x05\x01\x02" + password_message(b"quick", b"b"))
                assert b"\x05\x02\x01\x01" == talk.rest()
        assert 4 == handler_threads()
        users.go_on.set()
        wait_until(lambda: not proxy._run.pool._hooks, "the hooks' end")
        log_in(proxy, target)


def test_stopping_waits_for_a_hook_that_is_slow_but_not_for_ever(monkeypatch):
    """``stop`` returns though a hook hangs; the client is closed when the hook returns."""
    monkeypatch.setattr(minisocks.pool, "STOP_SECONDS", 0.1)
    before = open_descriptors()
    with slow_hook(blocked=0) as (proxy, users):
        with Talk.to(proxy.port) as talk:
            talk.send(b"\x05\x01\x02" + password_message(b"slow", b"b")).expect(b"\x05\x02")
            wait_until(lambda: users.waiting)
            began = time.monotonic()
            proxy.stop()
            assert time.monotonic() - began < 10
            users.go_on.set()
            with contextlib.suppress(ConnectionError):
                talk.rest()
    wait_until(lambda: handler_threads() == 0)
    wait_until(lambda: open_descriptors() == before, "the descriptors back")


def test_without_new_threads_hooks_take_turns(monkeypatch, target, warnings_said):
    """When the system has no thread more for us, one is enough; it is said once at each edge."""
    start_thread = minisocks.pool.start_thread

    def no_room(*args):
        raise RuntimeError("can't start new thread")

    with slow_hook(blocked=1) as (proxy, users):
        wait_until(lambda: users.waiting == 1, "a hook")
        monkeypatch.setattr(minisocks.pool, "start_thread", no_room)
        visits = [threading.Thread(target=log_in, args=(proxy, target)) for _ in range(5)]
        for visit in visits:
            visit.start()
        wait_until(lambda: warnings_said("at capacity: no new thread"))
        wait_until(lambda: proxy._run.pool.in_hooks == 6)
        users.go_on.set()
        for visit in visits:
            visit.join()
        assert 1 == handler_threads()
        assert 1 == len(warnings_said("at capacity"))
        monkeypatch.setattr(minisocks.pool, "start_thread", start_thread)
        users.go_on.clear()
        with Talk.to(proxy.port) as talk:
            talk.send(b"\x05\x01\x02" + password_message(b"slow", b"b"))
            wait_until(lambda: users.waiting == 2, "the one thread held")
            log_in(proxy, target)
        assert (1, 1) == (len(warnings_said("can be had again")), len(warnings_said("at capacity")))


def test_without_any_thread_who_needs_one_is_refused(monkeypatch, target, warnings_said):
    """With no thread at all for hooks their clients hear so at once; the next may have luck."""
    start_thread = minisocks.pool.start_thread

    def no_room(*args):
        raise RuntimeError("can't start new thread")

    with slow_hook(blocked=0) as (proxy, users):
        monkeypatch.setattr(minisocks.pool, "start_thread", no_room)
        with Talk.to(proxy.port) as talk:
            talk.send(b"\x05\x01\x02" + password_message(b"quick", b"b"))
            assert b"\x05\x02\x01\x01" == talk.rest()
        monkeypatch.setattr(minisocks.pool, "start_thread", start_thread)
        log_in(proxy, target)
        assert warnings_said("can be had again")


def test_clients_that_drip_delay_nobody(target):
    """However slow a client is, nobody waits for it but itself."""
    with run_proxy() as proxy, contextlib.ExitStack() as stack:
        drips = [stack.enter_context(Talk.to(proxy.port)) for _ in range(60)]
        message = GREETING + socks5("127.0.0.1", target.port)
        for i in range(len(message) - 1):
            for drip in drips:
                drip.send(message[i : i + 1])
            assert assert_served(proxy, target, source=("127.0.0.9", 0)) < TIMEOUT / 2
        assert 0 == handler_threads()
        for drip in drips:
            drip.send(message[-1:])
            assert b"\x05\x00\x05\x00" == drip.receive(4)


def test_a_client_that_left_before_it_was_accepted_is_nobody(proxy, target):
    """Connections that are reset in the backlog do not disturb those behind them."""
    for _ in range(50):
        Talk.to(proxy.port).reset()
    assert_served(proxy, target)
    wait_until(lambda: len(proxy) == 0)


def test_many_honest_clients_at_once_are_all_served(proxy, target):
    """Sixty-four clients at once, each in small steps, need no threads and get their bytes."""
    served = []

    def visit():
        for _ in range(5):
            with Talk.to(proxy.port) as talk:
                assert 0 == talk.connect5("127.0.0.1", target.port)[0]
                served.append(talk.send(b"x").receive(1))

    threads = [threading.Thread(target=visit) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [b"x"] * 320 == served
    assert 0 == handler_threads()


def test_threads_get_no_signals(target):
    """Every thread that we start has all signals blocked, so they reach the main thread."""
    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(run_proxy(authorize=lambda request: True))
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
    """Clients of several listeners are served by one loop."""
    with run_proxy(listen=("127.0.0.1:0",) * 3) as proxy, FakeTarget() as target:
        ports = [int(address.rpartition(":")[2]) for address in proxy.addresses]
        assert 3 == len(set(ports))
        for port in ports * 3:
            with Talk.to(port) as talk:
                assert 0 == talk.connect5("127.0.0.1", target.port)[0]
        assert 0 == handler_threads()
        assert socket.AF_INET == proxy._run._all_doors()[0].listener.sock.family


def test_a_listener_that_somebody_shut_down_does_not_spin(caplog, target):
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


def test_passwords_that_are_quick_to_check_make_no_threads(target):
    """Many clients with passwords are served without threads."""
    with run_proxy(user=("ann:secret",)) as proxy:
        for _ in range(30):
            with Talk.to(proxy.port) as talk:
                talk.send(b"\x05\x01\x02").expect(b"\x05\x02")
                talk.send(password_message(b"ann", b"secret")).expect(b"\x01\x00")
        assert 0 == handler_threads()


@pytest.mark.parametrize("name", ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"])
def test_a_system_that_is_full_is_waited_for(monkeypatch, warnings_said, target, name):
    """Whatever it is that has run out: no spin, a line at each edge, and then it goes on."""
    monkeypatch.setattr(minisocks.doors, "RETRY_SECONDS", 0.05)
    accept, refused = minisocks.server.SocksServer.get_request, []

    def get_request(server):
        if len(refused) < 3:
            refused.append(time.monotonic())
            raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))
        return accept(server)

    monkeypatch.setattr(minisocks.server.SocksServer, "get_request", get_request)
    with run_proxy() as proxy:
        assert_served(proxy, target)
        wait_until(lambda: warnings_said("accepting again"))
    assert 3 == len(refused)
    # Each but the first was tried after a wait, not at once.
    assert refused[-1] - refused[0] >= 0.09
    assert 1 == len(warnings_said("at capacity"))
    assert 1 == len(warnings_said("accepting again"))


def test_a_session_counts_once_when_it_is_parked(target):
    """Its client may be heard, and handed over again, before the thread has come back."""
    counts = []
    with run_proxy(authenticate=lambda user, password, client: True) as proxy:
        park = proxy.services.park

        def noted(session):
            if threading.current_thread().name == "minisocks-handler":
                counts.append(proxy._run.pool.in_hooks)
            park(session)

        proxy.services.park = noted
        with Talk.to(proxy.port) as talk:
            talk.send(b"\x05\x01\x02").expect(b"\x05\x02")
            talk.send(password_message(b"ann", b"x")).expect(b"\x01\x00")
            wait_until(lambda: counts, "the thread's parking")  # its patience is over
            talk.send(socks5("127.0.0.1", target.port))
            assert 0 == talk.receive_reply5()[0]
    assert [0] == counts


def test_a_thread_that_parks_its_session_is_as_good_as_free(target):
    """At the bound of threads, the next client waits for it and is not refused."""
    parking, go_on = threading.Event(), threading.Event()
    with run_proxy(authenticate=lambda user, password, client: True, max_handshakes=4) as proxy:
        park = proxy.services.park

        def slowly(session):
            if threading.current_thread().name == "minisocks-handler" and not go_on.is_set():
                parking.set()
                go_on.wait(TIMEOUT)
            park(session)

        proxy.services.park = slowly
        proxy._run.pool._max_threads = 1
        with Talk.to(proxy.port) as first, Talk.to(proxy.port) as second:
            first.send(b"\x05\x01\x02" + password_message(b"ann", b"x"))
            assert parking.wait(TIMEOUT)
            second.send(b"\x05\x01\x02" + password_message(b"bob", b"x")).expect(b"\x05\x02")
            wait_until(lambda: proxy._run.pool._waiting, "the second one in the queue")
            go_on.set()
            for talk in (first, second):
                talk.send(socks5("127.0.0.1", target.port))
            second.expect(b"\x01\x00")
            assert 0 == second.receive_reply5()[0]
