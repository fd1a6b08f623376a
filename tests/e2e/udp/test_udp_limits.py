"""Limits of associations in a running proxy: a late client receives REP 02, others go on."""

import contextlib
import errno
import random

import pytest

from kit import inside
from kit.support import (
    GREETING,
    UDP_ASSOCIATE,
    FakeTarget,
    Talk,
    closed_port,
    handler_with,
    loop_held,
    nothing_left,
    password_message,
    run_proxy,
    socks5,
    two_closed_ports,
    wait_until,
)
from kit.udp_client import Associated, UdpTarget, assert_remembers_nothing, udp_socket
from minisocks.server.session import Session

V4 = "127.0.0.1"


@pytest.fixture
def stack():
    """What ends with the test."""
    with contextlib.ExitStack() as running:
        yield running


def target_of_a_range():
    """Return a target at none of the ports that the kernel gives: no other socket has it next."""
    while True:
        with contextlib.suppress(OSError):
            return UdpTarget(V4, random.randrange(24000, 32000))


def logged_in(proxy, name, source=V4):
    """Return a connection whose client has shown its password."""
    talk = Talk.to(proxy.port, source=(source, 0))
    talk.send(b"\x05\x01\x02" + password_message(name, b"secret"))
    return talk.expect(b"\x05\x02\x01\x00")


def assert_refused(proxy, part, source=V4, talk=None):
    """Have one more refused as by a limit; its line has *part*."""
    with Associated(proxy.port, source=source, talk=talk) as client:
        assert (2, "0.0.0.0", 0) == (client.rep, client.bnd, client.port)
        client.talk.expect_eof()
    record = proxy.records[-1]
    assert ("limit", "UDP_ASSOCIATE") == (record.end, record.cmd)
    assert part in record.why
    assert part.replace("'", '"') in str(record)


def open_count(proxy):
    """Return how many associations there are."""
    return len(proxy.services.associations)


def test_all_have_so_many_associations(access_log, target, stack, other_networks):
    """The first ones work on, the next client receives REP 02, and the log names the option."""
    with run_proxy(max_associations=4) as proxy:
        clients = [
            stack.enter_context(Associated(proxy.port, source="127.%d.0.2" % number))
            for number in (1, 2, 3, 4)
        ]
        assert_refused(
            proxy, "there are 4 associations already (--max-associations 4)", "127.5.0.2"
        )
        assert "cmd=UDP_ASSOCIATE" in access_log.wait_for("end=limit")
        assert 1 == len(access_log.lines)
        for client in clients:
            client.expect_to_work(target)
        assert 4 == open_count(proxy)


@pytest.mark.parametrize("most, left", [(6, 3), (5, 3), (2, 1), (1, 1)])
@pytest.mark.usefixtures("other_networks")
def test_a_client_alone_has_all_and_makes_room_for_others(most, left, access_log, target, stack):
    """Those without datagrams for longest end, until newcomers have as many, or nearly."""
    with run_proxy(max_associations=most) as proxy:

        def come(source):
            return stack.enter_context(Associated(proxy.port, source=source))

        mine = [come("127.2.0.1") for _ in range(most)]
        for client in mine[::-1]:  # the last one is the one that waits for longest now
            client.expect_to_work(target)
        why = "there are %d associations already (--max-associations %d)" % (most, most)
        assert_refused(proxy, why, "127.2.0.1")
        for number in range(most - left):
            come("127.3.0.%d" % (1 + number)).expect_to_work(target)
            mine.pop().talk.expect_eof()
        lines = [line for line in access_log.lines if "end=limit" in line and why in line]
        assert 1 + most - left == len(lines)
        assert_refused(proxy, why, "127.3.0.9")
        for client in mine:
            client.expect_to_work(target)
        assert (left, most) == (len(mine), open_count(proxy))


def test_a_port_of_the_range_is_free_at_once(target, stack, other_networks):
    """An association that makes room gives up its port at once."""
    low = two_closed_ports()
    with run_proxy(udp_ports="%d-%d" % (low, low + 1)) as proxy:
        mine = [stack.enter_context(Associated(proxy.port, source="127.2.0.1")) for _ in range(2)]
        for client in mine:
            client.expect_to_work(target)
        other = stack.enter_context(Associated(proxy.port, source="127.3.0.1"))
        assert (0, mine[0].port) == (other.rep, other.port)
        other.expect_to_work(target)
        mine[0].talk.expect_eof()
        mine[1].expect_to_work(target)


@pytest.mark.parametrize("leave", [Talk.close, Talk.reset], ids=["fin", "reset"])
def test_one_that_ends_makes_room(leave, target, stack):
    """It does as soon as its connection has ended, in whatever way."""
    with run_proxy(max_associations=2) as proxy:
        clients = [stack.enter_context(Associated(proxy.port)) for _ in range(2)]
        for _ in range(3):
            assert_refused(proxy, "--max-associations 2")
            leave(clients.pop(0).talk)
            wait_until(lambda: open_count(proxy) == 1)
            clients.append(stack.enter_context(Associated(proxy.port)))
            clients[-1].expect_to_work(target)


def test_one_that_is_refused_takes_no_place(stack, other_networks):
    """Only associations that exist count: by client and in all."""
    with run_proxy(max_associations=2) as proxy:
        first = stack.enter_context(Associated(proxy.port, source="127.2.0.1"))
        stack.enter_context(Associated(proxy.port, source="127.3.0.1"))
        for _ in range(5):
            assert_refused(proxy, "--max-associations 2", "127.2.0.1")
        first.talk.close()
        wait_until(lambda: 1 == open_count(proxy))
        for source, count in (("127.3.0.1", 2), ("127.2.0.1", 2)):
            stack.enter_context(Associated(proxy.port, source=source))
            wait_until(lambda count=count: count == open_count(proxy))


def test_a_limit_of_associations_is_none_of_connections(target, stack):
    """A client that has all associations may still connect."""
    with run_proxy(max_associations=1) as proxy:
        stack.enter_context(Associated(proxy.port))
        assert_refused(proxy, "--max-associations 1", "127.0.0.2")
        for _ in range(3):
            talk = stack.enter_context(Talk.to(proxy.port))
            assert 5 == talk.connect5(V4, closed_port())[0]  # it was tried


@pytest.mark.parametrize(
    "setting, why",
    [
        ("max_connections", "there are 2 connections already (--max-connections 2)"),
        ("max_per_client", "127.0.0.1 has 2 connections already (--max-per-client 2)"),
    ],
)
def test_associations_are_connections(setting, why, stack):
    """They count together with connections, and each makes room when it ends."""
    with run_proxy(**{setting: 2}) as proxy:
        first = stack.enter_context(Associated(proxy.port))
        connected = stack.enter_context(FakeTarget())
        other = stack.enter_context(Talk.to(proxy.port))
        assert 0 == other.connect5(V4, connected.port)[0]
        assert_refused(proxy, why)
        with Talk.to(proxy.port) as talk:
            assert 2 == talk.connect5(V4, 1)[0]
        first.talk.close()
        wait_until(lambda: len(proxy.services.connection_limits) == 1)
        assert 0 == stack.enter_context(Associated(proxy.port)).rep


def test_associations_are_a_quarter_of_all_connections_at_most(stack):
    """Each has twice as many descriptors as a connection, whatever the other settings are."""
    with run_proxy(max_connections=8) as proxy:
        for _ in range(2):
            stack.enter_context(Associated(proxy.port))
        why = "there are 2 associations already (a quarter of --max-connections)"
        assert_refused(proxy, why)


def test_associations_are_their_user_s_connections(stack):
    """All of a user count together, from wherever, and take no place of another user."""
    users = ("ann:secret", "bob:secret")
    with run_proxy(user=users, max_per_user=1) as proxy:
        ann = stack.enter_context(Associated(proxy.port, talk=logged_in(proxy, b"ann")))
        assert 0 == ann.rep
        why = "user 'ann' has 1 connection already (--max-per-user 1)"
        assert_refused(proxy, why, talk=logged_in(proxy, b"ann", "127.0.0.2"))
        bob = stack.enter_context(Associated(proxy.port, talk=logged_in(proxy, b"bob")))
        assert 0 == bob.rep


def test_a_reload_changes_the_limit(target, stack):
    """For clients that come next: a lower limit ends no association, a higher one makes room."""
    with run_proxy(max_associations=2) as proxy:
        clients = [stack.enter_context(Associated(proxy.port)) for _ in range(2)]
        assert_refused(proxy, "--max-associations 2")
        proxy.reload(proxy.config._replace(max_associations=3))
        clients.append(stack.enter_context(Associated(proxy.port)))
        proxy.reload(proxy.config._replace(max_associations=2))
        assert_refused(proxy, "there are 2 associations already (--max-associations 2)")
        for client in clients:
            client.expect_to_work(target)
        assert 3 == open_count(proxy)
        proxy.reload(proxy.config._replace(max_per_client=3, max_associations=100))
        assert_refused(proxy, "--max-per-client 3")


def test_ports_that_others_have_are_none_of_ours(target, stack):
    """With all ports of the range taken by other programs: REP 02, and nothing stays open."""
    taken = stack.enter_context(target_of_a_range())
    port = taken.port
    ports = "%d-%d" % (port, port)
    with run_proxy(udp_ports=ports) as proxy:
        assert_refused(proxy, "no port is free (--udp-ports %s)" % ports)
        assert (0, set()) == (open_count(proxy), inside.used_ports(proxy.services.associations))
        # Another address of this host has its own port of the same number.
        proxy.reload(proxy.config._replace(listen=("127.0.0.3:0",)))
        with Associated(proxy.port, "127.0.0.3") as client:
            assert port == client.port
            client.expect_to_work(target)
        proxy.reload(proxy.config._replace(listen=("127.0.0.1:0",)))
        taken.close()
        with Associated(proxy.port) as client:
            assert port == client.port
            client.expect_to_work(target)


def test_a_range_that_a_reload_changes(target, stack):
    """An association keeps its port of the old range, and counts; the next has one of the new."""
    with target_of_a_range() as free:
        first = free.port
    with run_proxy(udp_ports="%d-%d" % (first, first)) as proxy:
        old = stack.enter_context(Associated(proxy.port))
        assert first == old.port
        assert_refused(proxy, "--udp-ports %d-%d" % (first, first))
        second = two_closed_ports()
        proxy.reload(proxy.config._replace(udp_ports="%d-%d" % (second, second + 1)))
        new = stack.enter_context(Associated(proxy.port))
        assert new.port in (second, second + 1)
        assert_refused(proxy, "--udp-ports %d-%d" % (second, second + 1))
        old.expect_to_work(target)
        new.expect_to_work(target)


@pytest.mark.parametrize("leave", [Talk.close, Talk.reset])
@pytest.mark.parametrize("source", [V4, "127.5.0.2"])
def test_the_only_port_is_had_again_in_the_round_in_which_it_becomes_free(
    access_log, stack, other_networks, leave, source
):
    """The next client comes when the loop has looked, and before it has heard of the end."""
    with target_of_a_range() as free:
        port = free.port
    with run_proxy(udp_ports="%d-%d" % (port, port)) as proxy:
        old = stack.enter_context(Associated(proxy.port))
        loop = proxy.services.loop
        talk = stack.enter_context(Talk.to(proxy.port, source=(source, 0)))
        talk.send(GREETING).expect(b"\x05\x00")
        with loop_held(loop):
            leave(old.talk)
            talk.send(socks5("0.0.0.0", 0, UDP_ASSOCIATE))
            wait_until(lambda: inside.has_calls(loop), "the new one in the loop")
        assert (0, V4, port) == talk.receive_reply5()
        talk.close()
        wait_until(lambda: len(proxy) == 0)
    assert [] == [line for line in access_log.lines if "end=limit" in line]


class LeavesBeforeTheReply(Session):
    """A session whose client has left, the second time."""

    def associated(self, ip, port):
        if self.record.id == 2:
            self.record.bound = port
            raise BrokenPipeError(errno.EPIPE, "the client has left")
        super().associated(ip, port)

    def client_left(self, exc):
        """Take the port, as another client may in the same round of the loop."""
        super().client_left(exc)
        udp_socket("127.0.0.1", self.record.bound).close()


def test_a_client_that_has_left_by_then_takes_no_place(stack):
    """Its relay socket, port and place are given back when the reply cannot be sent."""
    with target_of_a_range() as free:
        port = free.port
    settings = {"max_associations": 1, "udp_ports": "%d-%d" % (port, port)}
    with run_proxy(handler_type=handler_with(LeavesBeforeTheReply), **settings) as proxy:
        with Talk.to(proxy.port) as talk:  # now there are as many threads as one client needs
            talk.send(b"\x05\x01\xff").rest()
        wait_until(lambda: len(proxy) == 0)
        with nothing_left(), Talk.to(proxy.port) as talk:
            talk.send(GREETING).expect(b"\x05\x00").send(socks5("0.0.0.0", 0, UDP_ASSOCIATE))
            talk.expect_eof()
        assert "client-gone" == proxy.records[-1].end
        assert_remembers_nothing(proxy.services.associations)
        assert port == stack.enter_context(Associated(proxy.port)).port
