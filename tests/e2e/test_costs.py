"""What a connection costs, in counts: a change that makes it dearer has to change them here.

No times: they depend on the machine, and scripts/bench measures them.
"""

import collections
import contextlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from kit.support import (
    GREETING,
    ROOT,
    TIMEOUT,
    CommandLine,
    FakeTarget,
    Talk,
    echo,
    failure5,
    one_connection,
    socks5,
    wait_until,
)
from kit.udp_client import Associated, UdpTarget

TIMES = 20

#: System calls for a connection that comes alone, says three bytes to a numeric target
#: on this host, hears them again and ends with FIN, and why each is needed.
ALLOWED = {
    "poll": 4,  # a client, for the leader; its greeting and its request, for its handler
    "accept4": 2,  # the client; no further one
    "getsockname": 2,  # Python's, of what was accepted; BND.ADDR
    "ioctl": 3,  # the timeout of the client's socket; and none, for the loop
    "recvfrom": 6,  # greeting, request, bytes twice, FIN twice
    "write": 2,  # METHOD, reply
    "sendto": 2,  # bytes there and back
    "socket": 1,
    "setsockopt": 6,  # to the target: urgent bytes, no delay, keepalive and its three times
    "connect": 2,  # the second tells that it is done, as it is on this host and in a LAN
    "epoll_ctl": 6,  # both in; a half-closed one masked; both out: a fork may hold them open
    "shutdown": 2,  # FIN passed on, even where a fork holds the socket open
    "close": 2,
}

#: More of them for one by an exit: a SOCKS5 proxy on this host that is slower than we are.
BY_EXIT = {
    "recvfrom": 3,  # METHOD and reply; the wake-up of the loop, which asks the hop
    "sendto": 3,  # greeting and request; that wake-up
    "epoll_ctl": 3,  # the client, then the hop alone; each again for the pair
}


@contextlib.contextmanager
def traced(tmp_path, *options):
    """A proxy that strace watches; yields it and a function that returns the calls so far."""
    if shutil.which("strace") is None:
        pytest.skip("no strace here")
    trace = tmp_path / "trace"
    with CommandLine("-q", "-l", "0", *options) as command:
        tracer = subprocess.Popen(
            ["strace", "-f", "-o", str(trace), "-p", str(command.process.pid)],
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )
        try:
            line = tracer.stderr.readline()
            if "attached" not in line:
                pytest.skip("strace may not attach: %s" % line)
            yield command, lambda: trace.read_text().splitlines()
        finally:
            if tracer.poll() is None:
                tracer.send_signal(signal.SIGINT)
            tracer.wait(TIMEOUT)
            tracer.stderr.close()


def count(lines):
    """Return how often each system call was made; one that was interrupted counts once."""
    names = (re.match(r"\d+ +(\w+)\(", line) for line in lines)
    return collections.Counter(name.group(1) for name in names if name)


def at_rest(calls):
    """Return the calls once there are no more for a while."""
    seen = [[]]

    def is_settled():
        seen.append(calls())
        return len(seen[-1]) == len(seen[-2]) and len(seen) > 2

    wait_until(lambda: is_settled() and is_settled() and is_settled(), "a proxy at rest")
    return seen[-1]


def test_system_calls_of_a_connection(tmp_path, target):
    """A whole connection makes the calls that are listed, each with its reason, and no others."""
    with traced(tmp_path) as (command, calls):
        compare_calls(command, calls, target, ALLOWED)


def test_system_calls_of_a_connection_by_an_exit(tmp_path, target):
    """Eight or nine more."""
    allowed = {name: number + BY_EXIT.get(name, 0) for name, number in ALLOWED.items()}
    with FakeTarget(slow_hop) as hop:
        options = ["--exit", "x=socks5h://127.0.0.1:%d" % hop.port, "--rule", "allow via x"]
        with traced(tmp_path, *options) as (command, calls):
            compare_calls(command, calls, target, allowed)


def slow_hop(talk):
    """Be a SOCKS5 proxy that thinks before each answer, and the target."""
    for size, answer in ((3, b"\x05\x00"), (10, failure5(0))):
        talk.receive(size)
        time.sleep(0.02)
        talk.send(answer)
    echo(talk)


def compare_calls(command, calls, target, allowed):
    """Demand that a connection makes no other calls than *allowed*."""
    one_connection(command, target)  # what is done once is done by now
    before = at_rest(calls)
    for _ in range(TIMES):
        one_connection(command, target)
    made = count(at_rest(calls)[len(before) :])
    # How often threads wait for each other is up to the scheduler, and strace: also how often
    # the loop sees a pair that a handler has registered, and not shown to it yet.
    made.pop("futex", None)
    made.pop("epoll_wait", None)
    each = {name: number / TIMES for name, number in made.items()}
    print("%.1f for each connection: %s" % (sum(each.values()), sorted(each.items())))
    # A handful of others, however many connections: a signal, memory, a look at the processor.
    extra = {name: number for name, number in made.items() if name not in allowed}
    assert sum(extra.values()) < TIMES, extra
    # Files that looks at the processor have opened are closed, too: on a busy machine several.
    made = {name: number for name, number in made.items() if name not in extra}
    made["close"] -= extra.get("openat", 0) + extra.get("open", 0)
    assert {} == {n: m for n, m in made.items() if m > allowed[n] * TIMES + 1}
    assert 25 < sum(each.values()) < sum(allowed.values())
    assert each["connect"] == 2, "the trace is of something else"


CHILD = """
import gc, logging, sys, tracemalloc
from minisocks import Proxy
logging.getLogger("minisocks.access").setLevel(logging.WARNING)
settings = dict(zip(["exit", "rule"], sys.argv[1:]))
with Proxy(listen="127.0.0.1:0", keep_records=0, **settings) as proxy:
    print(proxy.port, flush=True)
    sys.stdin.readline()
    tracemalloc.start()
    for line in iter(sys.stdin.readline, ""):
        gc.collect()
        print(tracemalloc.get_traced_memory()[0], flush=True)
"""


@contextlib.contextmanager
def measured(*exit_and_rule):
    """A proxy in a child process; yields its port and what asks for the bytes it has taken."""
    child = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", CHILD, *exit_and_rule],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        universal_newlines=True,
    )

    def ask():
        child.stdin.write("\n")
        child.stdin.flush()
        return int(child.stdout.readline())

    with child:
        try:
            port = int(child.stdout.readline())
            child.stdin.write("\n")
            yield port, ask
        finally:
            child.stdin.close()


@pytest.mark.parametrize("by_exit", [False, True], ids=["direct", "exit"])
def test_memory_of_an_idle_pair(by_exit):
    """What Python keeps of a connection that is relayed: below 1 650 bytes, on 3.6 a few more.

    The same by an exit: nothing is kept of its handshake.
    """
    most = 1650 if sys.version_info >= (3, 7) else 1800
    pairs = 300
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        exit = "x = socks5h://127.0.0.1:%d" % listener.getsockname()[1]
        arguments = [exit, "allow via x"] if by_exit else []
        port, ask = stack.enter_context(measured(*arguments))

        def connect():
            talk = stack.enter_context(Talk.to(port))
            talk.send(GREETING).expect(b"\x05\x00")
            talk.send(socks5(*listener.getsockname()))
            end = stack.enter_context(Talk(listener.accept()[0]))
            if by_exit:
                end.expect(GREETING).send(b"\x05\x00")
                end.expect(socks5(*listener.getsockname())).send(failure5(0))
            assert 0 == talk.receive_reply5()[0]
            # So that it is relayed by now, and not only granted.
            talk.send(b"x")
            end.expect(b"x")

        for _ in range(50):
            connect()
        before = min(ask() for _ in range(3))
        for _ in range(pairs):
            connect()
        each = (ask() - before) / pairs
        print("%.0f bytes for each pair" % each)
        assert 500 < each < most


@pytest.mark.parametrize("says, most", [(0, 1800), (1, 4160)], ids=["silent", "one target"])
def test_memory_of_an_idle_association(says, most):
    """Python keeps about 4 KB of one, half of it before its first datagram; 3.6 half more."""
    most = most if sys.version_info >= (3, 7) else most * 3 // 2
    count = 200  # so many that a thread which begins meanwhile, of 8 KB, is not seen
    with contextlib.ExitStack() as stack:
        port, ask = stack.enter_context(measured())
        target = stack.enter_context(UdpTarget())

        def associate():
            client = stack.enter_context(Associated(port))
            assert 0 == client.rep
            for _ in range(says):
                client.expect_to_work(target)

        for _ in range(50):
            associate()
        before = min(ask() for _ in range(3))
        for _ in range(count):
            associate()
        each = (min(ask() for _ in range(3)) - before) / count
        print("%.0f bytes for each association" % each)
        assert 500 < each < most
