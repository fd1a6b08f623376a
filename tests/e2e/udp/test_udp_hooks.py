"""The program's own decisions about datagrams: one for each target, and none holds up another."""

import contextlib
import threading

import pytest

from kit.support import TIMEOUT, run_proxy, wait_until
from kit.udp_client import Associated, UdpTarget, wait_for_drops
from minisocks.net.resolver import MAX_THREADS, THREADS_FACTOR
from minisocks.udp.names import MAX_LOOKUPS

V4 = "127.0.0.1"


def test_authorize_is_asked_for_the_association_and_each_target(target):
    """Once for each, until rules change; in a thread of the resolver; a denied target stays so."""
    asked = []

    def authorize(request):
        asked.append((request.cmd, request.host, request.port, request.ver, request.client.host))
        threads.add(threading.current_thread().name)
        return request.host != "127.0.0.7"

    threads = set()
    with run_proxy(authorize=authorize) as proxy, Associated(proxy.port) as client:
        assert 0 == client.rep
        assert [("UDP_ASSOCIATE", "0.0.0.0", 0, 5, V4)] == asked
        threads.clear()
        for _ in range(3):
            client.expect_to_work(target)
            client.send("127.0.0.7", target.port, b"x")
        wait_for_drops(proxy.records[-1], denied=3)
        assert [("UDP_ASSOCIATE", V4, target.port, 5, V4),
                ("UDP_ASSOCIATE", "127.0.0.7", target.port, 5, V4)] == asked[1:]  # fmt: skip
        assert {"minisocks-resolver"} == threads
        proxy.reload(proxy.config)
        client.expect_to_work(target)
        assert 4 == len(asked)


def test_authorize_may_refuse_the_association(proxy):
    """REP 02, as for any other request."""
    with run_proxy(authorize=lambda request: False) as refusing:
        with Associated(refusing.port) as client:
            assert 2 == client.rep


def test_a_slow_authorize_delays_no_other_target(target):
    """While it holds one target, others are written to, by this client and by others."""
    entered, go_on = threading.Event(), threading.Event()

    def authorize(request):
        if request.host == "127.0.0.7":
            entered.set()
            assert go_on.wait(TIMEOUT)
        return True

    with run_proxy(authorize=authorize) as proxy, UdpTarget("127.0.0.7") as slow:
        try:
            with Associated(proxy.port) as client, Associated(proxy.port) as second:
                client.send_to(slow, b"slow")
                assert entered.wait(TIMEOUT)
                client.expect_to_work(target)
                second.expect_to_work(target)
                slow.expect_nothing()
                go_on.set()
                slow.expect(b"slow")
        finally:
            go_on.set()


def test_one_client_s_questions_do_not_hold_up_another_s(monkeypatch, other_networks):
    """Clients share the places in which targets wait for ``authorize``, as those of names."""
    monkeypatch.setattr("minisocks.net.resolver.MAX_WAITING", 8)
    entered, go_on = threading.Semaphore(0), threading.Event()
    asked = []

    def authorize(request):
        if request.cmd == "UDP_ASSOCIATE" and request.port == 9:
            asked.append(request.client.host)
            entered.release()
            assert go_on.wait(TIMEOUT)
        return True

    with run_proxy(authorize=authorize) as proxy, contextlib.ExitStack() as stack:
        stack.callback(go_on.set)
        greedy = [
            stack.enter_context(Associated(proxy.port, source="127.2.0.%d" % number))
            for number in range(1, 17)  # one alone would leave threads to others of its network
        ]
        threads = int(MAX_THREADS * THREADS_FACTOR / (1 + THREADS_FACTOR)) + 1
        for number in range(32):
            greedy[number % 16].send("127.0.1.%d" % number, 9, b"x")
            # One after the other: those that no thread has taken yet are among those that wait.
            if number < threads:
                assert entered.acquire(timeout=TIMEOUT)
        # Of the others so many wait as there are places.
        lost = 32 - threads - 8
        wait_until(lambda: lost == sum(map(dropped, proxy.records)), "what finds no place")
        other = stack.enter_context(Associated(proxy.port, source="127.2.9.1"))
        for number in (100, 101):
            other.send("127.0.1.%d" % number, 9, b"x")
        wait_until(lambda: lost + 2 == sum(map(dropped, proxy.records)), "what makes room")
        assert 0 == dropped(proxy.records[-1])
        go_on.set()
        wait_until(lambda: 2 == asked.count("127.2.9.1"), "its questions")


def dropped(record):
    """Return how many datagrams of its client were dropped because there was no room."""
    return record.datagrams.drops.get("no room", 0) if record.datagrams else 0


@pytest.mark.parametrize("source", ["127.1.0.1", "127.66.0.2"])
def test_a_client_whose_targets_authorize_ponders_is_only_in_its_own_way(
    source, other_networks, target
):
    """It has a part of the threads that ask the program, and not all that there are for it."""
    go_on, pondered = threading.Event(), threading.Semaphore(0)

    def authorize(request):
        if request.host == "127.0.0.7":
            pondered.release()
            go_on.wait()
        return True

    with run_proxy(authorize=authorize, rule=["allow to 127.0.0.0/8"]) as proxy:
        with contextlib.ExitStack() as stack:
            stack.callback(go_on.set)
            greedy = [
                stack.enter_context(Associated(proxy.port, source="127.66.0.1")) for _ in range(3)
            ]
            for client in greedy:
                for port in range(1, 1 + MAX_LOOKUPS):
                    client.send("127.0.0.7", port, b"x")
            for _ in range(8):
                assert pondered.acquire(timeout=TIMEOUT)
            with Associated(proxy.port, source=source) as other:
                other.expect_to_work(target)


def test_with_authorize_no_other_port_answers(target):
    """It was called for one port, and its answer for another is unknown."""
    with run_proxy(authorize=lambda request: True) as proxy, Associated(proxy.port) as client:
        client.expect_to_work(target)
        with UdpTarget() as other:
            other.source = target.source
            other.answer(b"data")
            client.expect_to_work(target)
            assert {"unasked": 1} == proxy.records[-1].datagrams.drops


def test_a_bug_in_authorize_lets_nothing_through(target, bugs):
    """It is logged, the datagram is dropped, and the association lives on."""

    def authorize(request):
        if request.host == "127.0.0.7":
            raise LookupError("the program's mistake")
        return True

    with run_proxy(authorize=authorize) as proxy, UdpTarget("127.0.0.7") as other:
        with Associated(proxy.port) as client:
            client.send_to(other, b"x")
            wait_for_drops(proxy.records[-1], denied=1)
            client.expect_to_work(target)
            other.expect_nothing()
    assert 1 == len(bugs)


def test_resolve_gives_targets_their_addresses(target):
    """The program's own names, with the built-in rules behind them."""
    with run_proxy(resolve={"a.test": [V4]}.get) as proxy, Associated(proxy.port) as client:
        client.send(b"A.test.", target.port, b"x")
        target.expect(b"x").answer(b"y")
        client.expect(target, b"y")
