"""What other systems have instead of Linux's calls serves just as well."""

import errno
import os
import select
import signal
import socket
import subprocess
import sys
import threading

import pytest

from kit import inside
from kit.support import (
    GREETING,
    ROOT,
    TESTS,
    FakeTarget,
    Talk,
    closed_port,
    failure5,
    run_proxy,
    socks5,
)
from minisocks import compat
from minisocks.net import threads


@pytest.fixture(params=["epoll", "poll", "select"])
def poller(request, monkeypatch):
    """Make the proxy use one of the three pollers."""
    poller = {
        "epoll": getattr(compat.select, "epoll", None),
        "poll": compat.UNSHARED_POLLERS[0],
        "select": compat.UNSHARED_POLLERS[1],
    }[request.param]
    if poller is None:
        pytest.skip("this system has no epoll")
    monkeypatch.setattr("minisocks.net.loop.Poller", poller)
    return poller


def test_exchange_with_every_poller(poller):
    """A connection is relayed both ways and half-closed, whatever polls."""
    with FakeTarget() as target, run_proxy() as proxy, Talk.to(proxy.port) as talk:
        assert 0 == talk.connect5("127.0.0.1", target.port)[0]
        talk.send(b"x" * 200000)
        assert b"x" * 200000 == talk.receive(200000)
        talk.finish().expect_eof()


def test_slow_client_and_refusal_with_every_poller(poller):
    """A client that is parked and then refused hears so, whatever polls."""
    port = closed_port()
    with run_proxy() as proxy, Talk.to(proxy.port) as talk:
        talk.send_bytewise(GREETING).expect(b"\x05\x00")
        talk.send_bytewise(socks5("127.0.0.1", port)).expect(failure5(5)).expect_eof()


def test_connect_result_where_connect_cannot_be_asked_again(monkeypatch):
    """Elsewhere than on Linux the outcome of a connect comes from SO_ERROR."""
    inside.hide_linux(monkeypatch)
    with FakeTarget() as target, Talk.to(target.port) as talk:
        assert 0 == compat.connect_result(talk.sock, ("127.0.0.1", target.port))
    with socket.socket() as sock:
        assert errno.EINPROGRESS == compat.connect_result(sock, ("127.0.0.1", 1))


def test_exchange_where_options_are_not_inherited(monkeypatch):
    """Elsewhere than on Linux accepted sockets are tuned one by one."""
    monkeypatch.setattr("minisocks.server.server.ACCEPTED_INHERIT", False)
    with FakeTarget() as target, run_proxy() as proxy, Talk.to(proxy.port) as talk:
        assert 0 == talk.connect5("127.0.0.1", target.port)[0]


def test_imports_without_what_only_unix_has():
    """Importing needs no fcntl, termios, resource, epoll or poll."""
    code = """
import select, signal, socket, sys
for name in ("fcntl", "termios", "resource", "grp", "pwd"):
    sys.modules[name] = None
for module, names in ((select, ("epoll", "poll")), (signal, ("pthread_sigmask",)),
                      (socket, ("TCP_KEEPIDLE",))):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
import minisocks.cli
from minisocks import Config, Proxy
with Proxy(Config(listen=("127.0.0.1:0",))) as proxy:
    print(proxy.addresses)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        check=False,
    )
    assert (b"", 0) == (done.stderr, done.returncode)
    assert done.stdout.startswith(b"['127.0.0.1:")


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no signal masks here")
def test_threads_take_no_signals():
    """A thread of ours has every signal blocked; the one that started it has not."""
    masks = []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])

    threads.start_thread(
        lambda: masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, [])), "test"
    ).join()

    assert {signal.SIGTERM, signal.SIGINT, signal.SIGHUP} <= set(masks[0])
    assert before == signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_the_stack_of_a_thread_is_ours_and_the_program_keeps_its_own(monkeypatch):
    """It is put back, also if no thread can be started; threads for hooks have the program's."""
    sizes = []

    def start(thread):
        sizes.append(threading.stack_size())
        raise RuntimeError("can't start new thread")

    inside.replace_thread_start(monkeypatch, start)
    before = threading.stack_size(1 << 20)
    try:
        for runs_hooks in (False, True):
            with pytest.raises(RuntimeError):
                threads.start_thread(int, "test", runs_hooks)
        assert 1 << 20 == threading.stack_size()
    finally:
        threading.stack_size(before)
    assert [threads.STACK_BYTES, 1 << 20] == sizes


def test_a_hook_that_calls_itself_without_end_does_not_end_the_program():
    """It raises RecursionError in its thread; with less of a stack the process would die."""
    code = (
        "import logging\n"
        "from minisocks import Proxy\n"
        "logging.disable(logging.CRITICAL)\n"
        "from kit.support import ROOT, GREETING, Talk, socks5\n"
        "def hook(request):\n"
        "    return sorted([1], key=lambda one: hook(request))\n"
        "with Proxy(listen='127.0.0.1:0', authorize=hook) as proxy:\n"
        "    with Talk.to(proxy.port) as talk:\n"
        "        print(talk.connect5('127.0.0.1', 1)[0])\n"
    )
    path = os.pathsep.join([TESTS, ROOT])
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env={"PYTHONPATH": path}, check=False
    )
    assert (0, b"1\n") == (done.returncode, done.stdout)


def test_waker_never_blocks_and_survives_its_end():
    """A waker takes any number of calls, and calls after it was closed."""
    waker = compat.Waker()
    for _ in range(10000):
        waker.wake()
    assert waker.drain()
    while waker.drain():
        pass
    waker.close()
    waker.wake()


def test_unsent_bytes_counts_what_the_peer_has_not_taken():
    """Bytes in flight are counted until the peer has them."""
    if not os.path.exists("/proc/self"):
        pytest.skip("Linux only")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        with socket.create_connection(listener.getsockname()) as one:
            other, _ = listener.accept()
            with other:
                one.setblocking(False)
                while select.select([], [one], [], 0)[1]:
                    one.send(b"x" * 65536)
                assert compat.unsent_bytes(one) > 0
                assert 0 == compat.unsent_bytes(other)


def test_python_built_without_ipv6():
    """It imports, serves, and answers a request for an IPv6 address."""
    code = """
import socket
from kit.support import run_proxy, socks5, Talk, GREETING
asked = GREETING + socks5("2001:db8::1", 80)
socket.has_ipv6 = False
for name in [name for name in __import__("sys").modules if name.startswith("minisocks")]:
    del __import__("sys").modules[name]
def without(function):
    def call(family, *args):
        if family == socket.AF_INET6:
            raise OSError("unknown address family")
        return function(family, *args)
    return call
for name in ("inet_pton", "inet_ntop"):
    setattr(socket, name, without(getattr(socket, name)))
from minisocks import wire
from minisocks.policy import networks
from minisocks import Config, Proxy
assert wire.packed_ip("::1") in networks.LOOPBACK
with Proxy(Config(listen=("127.0.0.1:0",))) as proxy:
    with Talk.to(int(proxy.addresses[0].rpartition(":")[2])) as talk:
        reply = talk.send(asked).rest()
assert (reply[:2], len(reply)) == (b"\\x05\\x00", 12) and reply[3], reply
print("answered")
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        check=False,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join([ROOT, TESTS])),
    )
    assert (b"", 0, b"answered") == (done.stderr, done.returncode, done.stdout.strip())
