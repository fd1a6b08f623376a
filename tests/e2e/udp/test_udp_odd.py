"""Datagrams that are odd, too large, or have no target: dropped; the next one is relayed."""

import pytest

from kit import inside
from kit.support import closed_port, run_proxy, wait_until
from kit.udp_client import (
    Associated,
    UdpTarget,
    associations,
    header,
    in_loop,
    udp_socket,
    wait_for_drops,
)

V4, V6 = "127.0.0.1", "::1"


def odd_datagrams(port):
    """Yield datagrams that are no datagrams of RFC 1928."""
    whole = header(V4, port)
    yield from (whole[:size] for size in range(len(whole)))
    for atyp in (0, 2, 5, 255):
        yield b"\0\0\0" + bytes((atyp,)) + whole[4:] + b"data"
    name = header(b"localhost", port)
    yield from (name[:size] for size in range(4, len(name)))
    yield b"\0\0\0\3\0" + name[-2:] + b"data"
    yield b"\0\0\0\3\3a\0b" + name[-2:] + b"data"
    yield from (header(V6, port)[:size] for size in range(4, 22))


@pytest.mark.rfc(
    "RFC 1928 section 7",
    "Each datagram has a header: RSV 0000, FRAG, ATYP, DST.ADDR, DST.PORT, then DATA.",
)
def test_odd_datagrams_are_dropped(client, proxy, target):
    """One that is cut off anywhere, or of an unknown kind, is dropped; the next is relayed."""
    odd = list(odd_datagrams(target.port))
    for number, data in enumerate(odd):
        client.send_raw(data)
        if number % 10 == 0:
            client.expect_to_work(target)
    client.expect_to_work(target)
    assert {"malformed": len(odd)} == proxy.records[-1].datagrams.drops
    client.talk.finish().expect_eof()  # by TCP nothing comes about it either


@pytest.mark.rfc(
    "RFC 1928 section 7",
    "A relay that relays, or drops what it cannot or will not relay, does so silently.",
)
def test_nothing_is_said_about_datagrams(target):
    """Relayed or dropped, for whatever reason: the client receives nothing, by UDP or TCP."""
    with run_proxy(rule=("deny to 127.0.0.9", "allow")) as proxy:
        with Associated(proxy.port) as client, UdpTarget("127.0.0.2") as stranger:
            target.expect_from(client.send_to(target, b"relayed"), b"relayed")
            client.send_raw(b"malformed")
            client.send("127.0.0.9", 9, b"denied")
            client.send("127.0.0.1", 0, b"not sent")
            client.send(V4, closed_port(), b"nobody is there")
            client.send_to(target, b"of a sequence that has no beginning", frag=2)
            stranger.sock.sendto(b"unasked", target.source)
            # What comes back now is the first datagram that the client gets.
            client.expect_to_work(target)
            wait_for_drops(
                proxy.records[-1], malformed=1, denied=1, not_sent=1, fragments=1, unasked=1
            )
            client.talk.finish().expect_eof()


def test_what_is_left_of_a_longer_datagram_is_not_read(client, proxy, target):
    """A short datagram behind a long good one is still too short."""
    client.expect_to_work(target, b"x" * 100)
    for size in range(len(header(V4, target.port))):
        client.send_raw(header(V4, target.port)[:size])
        client.expect_to_work(target, b"x" * 100)
    assert {"malformed": 10} == proxy.records[-1].datagrams.drops


@pytest.mark.rfc(
    "RFC 1928 section 7",
    "Each datagram has a header: RSV 0000, FRAG, ATYP, DST.ADDR, DST.PORT, then DATA.",
)
def test_rsv_may_be_anything(client, target):
    """RSV is ignored, as in a request."""
    client.send_raw(b"\xff\x01" + header(V4, target.port)[2:] + b"data")
    target.expect(b"data")
    client.expect_to_work(target)


def test_empty_datagrams_are_datagrams(client, target):
    """They are relayed and counted in both directions."""
    client.expect_to_work(target, b"")
    client.expect_to_work(target, b"x")


SIZES = [
    (V4, V4, 65507 - 10),
    (V4, V6, 65507 - 22),
    (V6, V4, 65507),
    (V6, V6, 65527 - 22),
]


@pytest.mark.rfc(
    "RFC 1928 section 7",
    "A client's programming interface MUST report less buffer space: 10, 262 or 20 octets.",
)
@pytest.mark.parametrize("host, to, most", SIZES)
def test_the_largest_go_through(host, to, most):
    """The most that a UDP packet holds beside the header is relayed, whole, in both directions."""
    with run_proxy(listen=(":0",)) as proxy, Associated(proxy.port, host) as client:
        with UdpTarget(to) as target:
            data = bytes(range(251)) * 262
            client.expect_to_work(target, data[:most])
            client.expect_to_work(target, data[: most // 2])
            assert 0 == len(proxy.records[-1].datagrams.drops)


@pytest.mark.rfc("RFC 1928 section 7", "Applications should avoid fragmentation.")
def test_what_a_client_cannot_be_sent_is_dropped(client, proxy, target):
    """A target may write more than fits behind a header, or more than IPv4 can carry."""
    client.expect_to_work(target)
    target.answer(b"x" * 65507)
    target.answer(b"x" * 65498)
    client.expect_to_work(target)
    wait_for_drops(proxy.records[-1], too_large=2)


def test_what_a_target_cannot_be_sent_is_dropped(target):
    """65 508 bytes of an IPv6 client are too many for an IPv4 target."""
    with run_proxy(listen=("[::1]:0",)) as proxy, Associated(proxy.port, V6) as client:
        client.send_to(target, b"x" * 65508)
        client.expect_to_work(target)
        client.send_to(target, b"x" * 65508)
        client.expect_to_work(target)
        assert {"too large": 2} == proxy.records[-1].datagrams.drops


def test_ipv6_targets_that_write_too_much_are_not_cut_off(target6):
    """A datagram that did not fit into the buffer is not relayed as if it were whole."""
    with run_proxy(listen=("[::1]:0",)) as proxy, Associated(proxy.port, V6) as client:
        client.expect_to_work(target6)
        for size in (65527, 65514, 65506):
            target6.answer(b"x" * size)
        client.expect_to_work(target6)
        assert {"too large": 3} == proxy.records[-1].datagrams.drops


@pytest.mark.rfc(
    "RFC 1928 sections 1 and 2",
    "A layer between application and transport; no gateway for what is below, such as ICMP.",
)
@pytest.mark.parametrize("host", [V4, V6])
def test_a_target_that_is_not_there_ends_nothing(host):
    """ICMP says that its port is closed; a target that listens there later is heard."""
    with run_proxy(listen=(":0",)) as proxy, Associated(proxy.port, host) as client:
        port = closed_port(host)
        for _ in range(5):
            client.send(host, port, b"no target there")
        with UdpTarget(V4) as other, UdpTarget(V6) as other6:
            client.expect_to_work(other).expect_to_work(other6)
        with UdpTarget(host, port) as target:
            client.expect_to_work(target)


def test_a_client_whose_socket_is_closed_for_a_while_goes_on(client, proxy, target):
    """Datagrams meanwhile are lost; a socket at the same port is the same client again."""
    client.expect_to_work(target)
    port = client.sock.getsockname()[1]
    client.sock.close()
    for _ in range(5):
        target.answer(b"nobody there")
    counts = proxy.records[-1].datagrams
    wait_until(lambda: counts.down + sum(counts.drops.values()) == 1 + 5)
    client.sock = udp_socket(V4, port)
    client.expect_to_work(target, b"again")


def test_the_first_answer_to_a_client_that_is_back_arrives(client, proxy, target):
    """The ICMP error about a lost answer does not cost the next one."""
    client.expect_to_work(target)
    port = client.sock.getsockname()[1]
    client.sock.close()

    def lose_one():
        # All in the loop's thread, so that it reads no news between them.
        (job,) = associations(proxy)
        inside.relay_socket(job).send(b"nobody there")
        client.sock = udp_socket(V4, port)
        target.answer(b"back")
        (sock,) = inside.target_sockets(job)
        inside.read_target(job, sock)

    in_loop(proxy, lose_one)
    client.expect(target, b"back")


@pytest.mark.parametrize("dst", [("127.0.0.1", 0), ("255.255.255.255", 9)])
def test_what_cannot_be_sent_anywhere_is_dropped(client, proxy, target, dst):
    """A datagram to port 0, or a broadcast, is counted, and the next one is relayed."""
    client.send(dst[0], dst[1], b"x")
    client.expect_to_work(target)
    assert {"not sent": 1} == proxy.records[-1].datagrams.drops
