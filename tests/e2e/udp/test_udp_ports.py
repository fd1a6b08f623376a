"""The ports from which a client may send datagrams, and those that answers go to."""

import contextlib

import pytest

from kit import inside
from kit.support import Talk, password_message, run_proxy, wait_until
from kit.udp_client import (
    Associated,
    UdpTarget,
    associations,
    header,
    in_loop,
    udp_socket,
    wait_for_drops,
)
from minisocks.udp.mappings import SILENCE_SECONDS, ClientPorts

V4 = "127.0.0.1"
IP, FIRST, OTHER, NAMED = b"\x7f\0\0\1", (V4, 1000), (V4, 1001), 1002


@pytest.fixture
def relay():
    """A relay socket."""
    with udp_socket(V4) as sock:
        yield sock


@pytest.fixture
def other():
    """Another socket of the client."""
    with udp_socket(V4) as sock:
        yield sock


def ports_of(relay, wanted, has_password=False, named=0):
    return ClientPorts(relay, IP, named, wanted, has_password)


@contextlib.contextmanager
def associated(proxy, is_known):
    """An association, of a client that shows a password or does not."""
    if not is_known:
        with Associated(proxy.port) as client:
            yield client
        return
    talk = Talk.to(proxy.port).send(b"\5\1\2").expect(b"\5\2")
    talk.send(password_message(b"ann", b"secret")).expect(b"\1\0")
    with Associated(proxy.port, talk=talk) as client:
        yield client


def set_silent_for_long(proxy):
    """Make the client one that has sent nothing for long."""
    (job,) = associations(proxy)
    in_loop(
        proxy,
        lambda: setattr(
            inside.client_ports(job), "heard", inside.client_ports(job).heard - SILENCE_SECONDS
        ),
    )


# Which are taken


@pytest.mark.rfc("RFC 1928 section 7", "It MUST drop any datagrams from another source address.")
@pytest.mark.parametrize(
    "wanted, has_password, before, after",
    [
        ("auto", False, False, True),
        ("auto", True, False, False),
        ("same-port", False, False, False),
        ("same-port", True, False, False),
        ("any-port", False, True, True),
        ("any-port", True, True, True),
    ],
)
def test_another_port_is_taken(wanted, has_password, before, after, relay):
    """The proxy takes it at once, after 30 s of silence of the first one, or never."""
    for silence, is_taken in ((SILENCE_SECONDS - 0.1, before), (SILENCE_SECONDS, after)):
        ports = ports_of(relay, wanted, has_password)
        assert ports.take(FIRST, 100.0)
        assert is_taken == ports.take(OTHER, 100.0 + silence)
        assert is_taken == (OTHER == ports.last)


def test_the_port_that_was_silent_is_still_heard(relay):
    """From then on all these ports are the client's, and no other program takes its place."""
    ports = ports_of(relay, "auto")
    assert ports.take(FIRST, 0.0)
    assert [True] * 3 == [ports.take(peer, 40.0) for peer in (OTHER, FIRST, (V4, 5))]
    assert ports.are_several


@pytest.mark.parametrize("wanted", ["auto", "any-port", "same-port"])
@pytest.mark.parametrize("host", ["127.0.0.2", "::1", "fe80::1%eth0"])
def test_no_port_of_another_address_is_taken(wanted, host, relay):
    """Whatever the setting is, and however long the client is silent."""
    ports = ports_of(relay, wanted)
    for _ in range(2):
        assert not ports.take((host, 1000), 100.0)
        assert ports.last in (None, FIRST)
        ports.take(FIRST, 0.0)


@pytest.mark.rfc(
    "RFC 1928 section 6, UDP ASSOCIATE",
    "DST: the address and port that the client expects to send from; zeros if it does not know.",
)
@pytest.mark.parametrize("wanted", ["auto", "same-port"])
def test_a_port_that_is_named_is_a_hint(wanted, relay):
    """Another port may be first; once the named one has written, it is the only one."""
    ports = ports_of(relay, wanted, named=NAMED)
    assert ports.take(FIRST, 0.0)
    assert not ports.take(OTHER, 1.0)
    assert ports.take((V4, NAMED), 2.0)
    assert not ports.take(FIRST, 3.0)
    assert (V4, NAMED) == ports.last


def test_source_port_0_is_not_the_port_that_a_client_names(relay):
    """Otherwise it would take the place of the port that was first."""
    ports = ports_of(relay, "same-port")
    assert ports.take(FIRST, 0.0)
    assert not ports.take((V4, 0), 1.0)


@pytest.mark.parametrize("wanted, passes", [("same-port", False), ("any-port", True)])
def test_the_kernel_keeps_out_what_is_never_taken(wanted, passes, relay, other):
    """It passes one port of the client's address, or all of them, and no other address."""
    relay.setblocking(False)
    with udp_socket(V4) as own, udp_socket("127.0.0.2") as stranger:
        ports_of(relay, wanted).take(own.getsockname(), 0.0)
        for sock in (stranger, other, own):
            sock.sendto(b"x", relay.getsockname())
        came = [relay.recvfrom(1)[1] for _ in range(1 + passes)]
        assert [other.getsockname()] * passes + [own.getsockname()] == came
        with pytest.raises(BlockingIOError):
            relay.recv(1)


# What comes of it


def test_a_client_whose_nat_forgets_its_port_goes_on(proxy, target, other):
    """While the first port writes, others are strangers; after a silence a new one is taken."""
    with Associated(proxy.port) as client:
        client.expect_to_work(target)
        other.sendto(header(V4, target.port) + b"stranger", client.place)
        wait_for_drops(proxy.records[-1], stranger=1)
        set_silent_for_long(proxy)
        first, client.sock = client.sock, other
        with first:
            client.expect_to_work(target)
            client.expect_to_work(target)
        assert {"stranger": 1} == proxy.records[-1].datagrams.drops


@pytest.mark.parametrize("settings", [{}, {"udp_clients": "same-port"}], ids=["auto", "same-port"])
def test_a_client_that_has_shown_a_password_keeps_its_port(settings, target, other):
    """However long it is silent: only by the port is it known from others at its address."""
    with run_proxy(user="ann:secret", rule="allow to loopback", **settings) as proxy:
        with associated(proxy, True) as client:
            client.expect_to_work(target)
            set_silent_for_long(proxy)
            other.sendto(header(V4, target.port) + b"stranger", client.place)
            client.expect_to_work(target)


@pytest.mark.parametrize("is_known", [False, True], ids=["no password", "password"])
def test_answers_go_to_the_port_that_has_written_to_the_target_last(is_known, target, other):
    """Each of several ports has its targets; a target belongs to the last that wrote to it."""
    settings = {"user": "ann:secret", "rule": "allow to loopback"} if is_known else {}
    with run_proxy(udp_clients="any-port", **settings) as proxy, UdpTarget() as second:
        with associated(proxy, is_known) as client:
            first = client.sock
            client.expect_to_work(target)
            client.sock = other
            client.expect_to_work(second)
            target.answer(b"late")
            client.sock = first
            client.expect(target, b"late")
            for sock in (other, first, other, other, first):
                client.sock = sock
                for each in (target, second):
                    client.expect_to_work(each)
            client.sock = other
            client.send_to(target, b"mine now")
            target.expect(b"mine now").answer(b"yours")
            second.answer(b"not yours")
            client.expect(target, b"yours")
            client.sock = first
            client.expect(second, b"not yours")
            other.close()


def test_fragments_of_two_ports_are_not_put_together(proxy, target, other):
    """Together they would be a datagram that the client did not send."""
    with run_proxy(udp_clients="any-port") as proxy, Associated(proxy.port) as client:
        client.send_to(target, b"a", frag=1)
        other.sendto(header(V4, target.port, frag=0x82) + b"b", client.place)
        client.expect_to_work(target)
        wait_for_drops(proxy.records[-1], fragments=2)


@pytest.mark.rfc("RFC 1928 section 6, UDP ASSOCIATE", "The server MAY use that to limit access.")
def test_a_target_that_the_client_has_on_its_own_address_is_a_hint(target):
    """v2ray does that: DST is the target, and the datagrams come from another address."""
    with run_proxy() as proxy, Associated(proxy.port, dst=(V4, target.port)) as client:
        client.expect_to_work(target)
        client.expect_to_work(target)
        assert {} == proxy.records[-1].datagrams.drops


def test_several_ports_write_where_there_is_no_room_to_remember(target, other):
    """A further datagram to a known target makes no other target be forgotten."""
    with run_proxy(udp_clients="any-port") as proxy, Associated(proxy.port) as client:
        client.expect_to_work(target)
        in_loop(proxy, lambda: setattr(inside.shares(proxy.services.associations)[1], "most", 1))
        first = client.sock
        for sock in (other, first) * 20:
            client.sock = sock
            client.expect_to_work(target)
        assert {} == proxy.records[-1].datagrams.drops


def test_a_closed_port_takes_no_answer_from_another_one(target, other):
    """The ICMP error about one client port does not concern answers to another one."""
    with run_proxy(udp_clients="any-port") as proxy, Associated(proxy.port) as client:
        with UdpTarget() as second:
            client.expect_to_work(target)
            first, client.sock = client.sock, other
            client.expect_to_work(second)
            other.close()
            client.sock = first
            second.answer(b"to a closed port")
            client.expect_to_work(target)
            wait_until(lambda: 4 == proxy.records[-1].datagrams.down)
