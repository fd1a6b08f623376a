"""After a thousand BINDs that end at every step, everything is as before."""

import itertools
import sys

import pytest

from kit.bind_client import WAYS, Waiting
from kit.holdings import State, carry_out, settled, wait_until_closed
from kit.support import BIND, GREETING, CommandLine, Talk, socks4, socks5

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="looks at /proc of the process"
    ),
]

#: An address for each client, so that no limit of one is in the way.
SOURCES = itertools.count()


def source():
    number = next(SOURCES)
    return "127.2.%d.%d" % (number // 250 % 250, 1 + number % 250)


def waiting(port, *args):
    return Waiting(port, *args, source=source())


def cut(request, size, leave):
    """Return a visit: send the first bytes of *request*, and leave."""

    def visit(port):
        with Talk.to(port, source=(source(), 0)) as talk:
            talk.send(request[:size])
            leave(talk)

    return visit


def left(way, early, leave):
    """Return a visit: wait for a peer, perhaps with early bytes, and leave before it comes."""

    def visit(port):
        with waiting(port, "127.0.0.1", way, early) as client:
            leave(client.talk)

    return visit


def stranger(way):
    """Return a visit: another host than the expected one connects."""

    def visit(port):
        with waiting(port, "127.0.0.9", way) as client:
            client.meet_stranger()
            if way[0] == "4":
                client.expect_refusal(2)

    return visit


def alone(way):
    """Return a visit: wait until the time is over."""

    def visit(port):
        with waiting(port, "127.0.0.1", way) as client:
            client.expect_refusal(6)

    return visit


def met(way, dst, end):
    """Return a visit: be connected, send something, and *end* it."""

    def visit(port):
        with waiting(port, dst, way, b"early") as client, client.peer() as peer:
            client.expect_peer(peer)
            peer.expect(b"early")
            end(client, peer)

    return visit


def refused(way, dst):
    """Return a visit: name a peer that cannot be waited for."""

    def visit(port):
        with waiting(port, dst, way) as client:
            assert client.rep == client.granted or client.talk.rest() == b""

    return visit


def visits():
    """Return one visit for each way and step at which a BIND can end."""
    nothing, finish = Talk.close, Talk.finish
    found = []
    for request in (GREETING + socks5("127.0.0.1", 0, BIND), socks4("127.0.0.1", 0, cmd=BIND)):
        for leave in (nothing, finish, Talk.reset):
            found += [cut(request, size, leave) for size in range(len(request) + 1)]
    for way in WAYS:
        for leave in (nothing, finish, Talk.reset):
            found += [left(way, early, leave) for early in (b"", b"early")]
        found += [stranger(way), alone(way)]
        for dst in ("127.0.0.1", "0.0.0.0"):
            found += [
                met(way, dst, lambda client, peer: client.expect_to_work(peer)),
                met(way, dst, lambda client, peer: peer.reset()),
                met(way, dst, lambda client, peer: client.talk.reset()),
                met(way, dst, lambda client, peer: None),
            ]
    found += [refused("5", "2001:db8::1"), refused("5 by name", ".."), refused("4a", "..")]
    return found


def test_nothing_is_left_of_a_thousand_binds():
    """Descriptors, threads and memory are back to the start, however each ended."""
    # On a busy machine a peer may take half a second to come.
    options = ("-l", "0", "--open", "-q", "--grace", "0", "--bind-timeout", "2")
    with CommandLine(*options) as command:
        pid, port = command.process.pid, command.ports[0]
        empty, todo = settled(pid), visits()

        def connect(times):
            wrong = carry_out(todo, times, lambda visit: visit(port))
            wait_until_closed(pid, empty)
            return wrong

        wrong = connect(300)  # grows what stays
        before = State(pid)
        wrong += connect(1000)
        after = State(pid)
        print("%d ways; %r, then %r, then %r" % (len(todo), empty, before, after))
        assert [] == wrong
        assert empty.descriptors == after.descriptors
        assert after.kilobytes - before.kilobytes < 1024
        assert 0 == command.end()
        assert [] == [line for line in command.lines if "Trace" in line]
