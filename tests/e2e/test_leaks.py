"""After two thousand connections that end at every step, everything is as before."""

import contextlib
import itertools
import sys

import pytest

from kit.holdings import State, carry_out, settled, wait_until_closed
from kit.support import (
    CommandLine,
    FakeTarget,
    Talk,
    black_hole,
    closed_port,
    echo,
    password_message,
    resets,
    says,
    socks4,
    socks4a,
    socks5,
)

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="looks at /proc of the process"
    ),
]

GREETING = b"\x05\x01\x02"
AUTH = password_message(b"karl", b"secret")
USERS = 30


def leave_after(message, leave):
    """Return a visit that sends *message* and leaves."""

    def visit(talk):
        talk.send(message)
        leave(talk)

    return visit


def read_all_after(message):
    """Return a visit that sends *message* and reads until EOF."""

    def visit(talk):
        talk.send(message)
        talk.rest()

    return visit


def exchange(message, leave):
    """Return a visit that is relayed: bytes there and back, then *leave*."""

    def visit(talk):
        talk.send(GREETING + AUTH + message)
        assert b"\x05\x02\x01\x00" == talk.receive(4)
        assert 0 == talk.receive_reply5()[0]
        talk.send(b"x" * 5000)
        assert 5000 == len(talk.receive(5000))
        leave(talk)

    return visit


def finish(talk):
    talk.finish().rest()


def guess(numbers):
    """Return a visit with a wrong password, each time for the next of so many users."""

    def visit(talk):
        # Several wrong passwords for one name make its client wait, and here all are one client.
        name = b"guest%d" % (next(numbers) % USERS)
        read_all_after(GREETING + password_message(name, b"wrong"))(talk)

    return visit


def nothing(talk):
    """Just leave."""


def visits(targets, refused, hole):
    """Return the visits, one for each way and step at which a connection can end."""
    to_echo, to_says, to_resets = [socks5("127.0.0.1", target.port) for target in targets]
    whole = GREETING + AUTH + to_echo
    found = [exchange(to_echo, leave) for leave in (nothing, finish, Talk.reset)]
    found += [exchange(socks5(b"localhost", targets[0].port), finish)]
    for leave in (nothing, finish, Talk.reset):
        found += [leave_after(whole[:cut], leave) for cut in range(len(whole) + 1)]
    for request in (
        to_says,
        to_resets,
        socks5("127.0.0.1", refused),
        socks5("255.255.255.255", 9),
        socks5(b"a\0b", 9),
        socks5(b"..", 9),
        socks5("127.0.0.1", targets[0].port, cmd=9),
        b"\x05\x01\x00\x07",
    ):
        found += [leave_after(GREETING + AUTH + request, nothing)]
        found += [leave_after(GREETING + AUTH + request, Talk.reset)]
        found += [read_all_after(GREETING + AUTH + request + b"tail")] * (request != to_says)
    # Not by FIN, which may be a half-close: that dial goes on to --connect-timeout.
    found += [leave_after(GREETING + AUTH + socks5("127.0.0.1", hole), Talk.reset)]
    found += [guess(itertools.count())]
    found += [
        read_all_after(message)
        for message in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"\x05\x01\x09")
    ]
    found += [read_all_after(socks4("127.0.0.1", refused)), read_all_after(socks4a(b"..", 9))]
    return found


def test_nothing_is_left_of_two_thousand_connections():
    """Descriptors, threads and memory are back to the start, however connections end."""
    with contextlib.ExitStack() as stack:
        targets = [
            stack.enter_context(FakeTarget(s)) for s in (echo, says(b"hello"), resets(b"bye"))
        ]
        hole = stack.enter_context(black_hole())
        names = ["karl", *["guest%d" % number for number in range(USERS)]]
        users = ["--user=%s:secret" % name for name in names]
        command = stack.enter_context(
            CommandLine("-l", "0", "--open", "-q", "--grace", "0", *users)
        )
        pid = command.process.pid
        empty = settled(pid)
        todo = visits(targets, closed_port(), hole)

        def pay(visit):
            with Talk.to(command.ports[0]) as talk:
                visit(talk)

        def connect(times):
            wrong = carry_out(todo, times, pay)
            wait_until_closed(pid, empty)  # what lingers, or dials, ends by itself
            return wrong

        wrong = connect(500)  # grows what stays: threads, caches, the allocator's arenas
        before = State(pid)
        wrong += connect(2000)
        after = State(pid)
        print("%d ways; %r, then %r, then %r" % (len(todo), empty, before, after))
        assert [] == wrong
        assert empty.descriptors == after.descriptors
        # Main, loop, four handlers; the resolver's threads leave after 10 s.
        assert after.threads <= 6 + 64
        assert after.kilobytes - before.kilobytes < 2048
        assert 0 == command.end()
        assert [] == [line for line in command.lines if "Trace" in line]
