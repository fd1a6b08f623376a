"""UDP ASSOCIATE end to end: which datagrams are accepted, where to, and what comes back.

The client, the proxy and the targets are in one process, over real sockets.
"""

import socket

import pytest

from kit import inside
from kit.support import (
    GREETING,
    REJECTED4,
    UDP_ASSOCIATE,
    Talk,
    failure5,
    run_proxy,
    socks4,
    socks5,
    wait_until,
)
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


# Where the relay socket is


@pytest.mark.rfc("RFC 1928 section 4", "CMD: 01 CONNECT, 02 BIND, 03 UDP ASSOCIATE.")
@pytest.mark.rfc(
    "RFC 1928 section 6, UDP ASSOCIATE",
    "BND.ADDR and BND.PORT: where the client MUST send its datagrams.",
)
@pytest.mark.rfc("RFC 1928 section 7", "A client MUST send to the relay at BND.PORT.")
@pytest.mark.parametrize(
    "listen, host",
    [
        ("0", V4),
        (":0", V4),
        (":0", "127.0.0.2"),
        (":0", V6),
        ("0.0.0.0:0", V4),
        ("0.0.0.0:0", "127.0.0.3"),
        ("127.0.0.2:0", "127.0.0.2"),
        ("[::]:0", V6),
        ("[::1]:0", V6),
    ],
)
def test_the_relay_socket_is_where_the_client_is(listen, host, target):
    """BND.ADDR is the address that the client reached, and never the wildcard; it works."""
    with run_proxy(listen=(listen,)) as proxy, Associated(proxy.port, host) as client:
        assert (0, host) == (client.rep, client.bnd)
        assert 0 != client.port
        client.expect_to_work(target)
        (job,) = associations(proxy)
        assert client.place == inside.relay_socket(job).getsockname()[:2]
        assert "%s:%d" % (("[%s]" if ":" in host else "%s") % client.place[0], client.port) == (
            proxy.records[-1].via
        )


@pytest.mark.rfc(
    "RFC 1928 section 7", "The relay MUST acquire the expected IP address of the client."
)
@pytest.mark.parametrize("host", [V4, V6])
def test_a_listener_of_both_families_has_relay_sockets_of_one(host, target):
    """A client that came as ::ffff:127.0.0.1 is an IPv4 client: BND and its address, unmapped."""
    listener = socket.socket(socket.AF_INET6)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", 0))
    listener.listen(5)
    port = listener.getsockname()[1]
    with run_proxy(listeners=(listener,)) as proxy:
        assert port == listener.getsockname()[1]
        with Associated(port, host) as client:
            assert (0, host) == (client.rep, client.bnd)
            client.expect_to_work(target)
        with Associated(port, host, dst=None) as client:
            client.expect_to_work(target)
        if host == V4:
            with Associated(port, host, dst=("::ffff:127.0.0.1", 0)) as client:
                client.expect_to_work(target)
        assert [host] * len(proxy.records) == [record.client.host for record in proxy.records]


# Which datagrams are accepted


@pytest.mark.rfc(
    "RFC 1928 section 6, UDP ASSOCIATE",
    "DST: the address and port that the client expects to send from; zeros if it does not know.",
)
def test_the_first_datagram_tells_the_port(client, proxy, target):
    """With DST 0.0.0.0:0 another socket of the same host is a stranger, until it is silent."""
    client.expect_to_work(target)
    with udp_socket(V4) as other:
        other.sendto(header(V4, target.port) + b"stranger", client.place)
        client.expect_to_work(target)
    (record,) = proxy.records
    wait_until(lambda: (2, 2) == (record.datagrams.up, record.datagrams.down))


@pytest.mark.rfc("RFC 1928 section 7", "It MUST drop any datagrams from another source address.")
def test_what_a_stranger_wrote_before_is_not_relayed(proxy, client, target):
    """Nor is a datagram that is in the relay socket's queue when the client's port is known."""
    with udp_socket(V4) as other:

        def both():
            client.send_to(target, b"client")
            other.sendto(header(V4, target.port) + b"stranger", client.place)
            client.send_to(target, b"more")

        in_loop(proxy, both)
        target.expect(b"client").expect(b"more")
    wait_for_drops(proxy.records[-1], stranger=1)


@pytest.mark.rfc("RFC 1928 section 7", "It MUST drop any datagrams from another source address.")
def test_no_other_address_is_accepted(proxy, target):
    """A host that is not the client's cannot be the first, nor any later one."""
    with Associated(proxy.port) as client, udp_socket("127.0.0.9") as other:
        stranger = header(V4, target.port) + b"stranger"
        other.sendto(stranger, client.place)
        other.sendto(b"", client.place)
        client.expect_to_work(target)
        other.sendto(stranger, client.place)
        client.expect_to_work(target)
        assert {"stranger": 2} == proxy.records[-1].datagrams.drops


@pytest.mark.rfc(
    "RFC 1928 section 6, UDP ASSOCIATE",
    "DST: the address and port that the client expects to send from; zeros if it does not know.",
)
@pytest.mark.parametrize("host", [V4, V6])
@pytest.mark.parametrize("named", ["own", "0.0.0.0", "::"])
@pytest.mark.parametrize("settings", [{}, {"udp_clients": "same-port"}], ids=["auto", "same-port"])
def test_a_port_that_the_client_names_is_the_only_one(host, named, settings, target):
    """It is so after the first datagram from it, though another was first; until it is silent."""
    proxies = run_proxy(listen=(":0",), **settings)
    with proxies as proxy, udp_socket(host) as own, udp_socket(host) as other:
        port = own.getsockname()[1]
        with Associated(proxy.port, host, (host if named == "own" else named, port)) as client:
            other.sendto(header(V4, target.port) + b"hint", client.place)
            target.expect(b"hint")
            own.sendto(header(V4, target.port) + b"client", client.place)
            target.expect(b"client")
            other.sendto(header(V4, target.port) + b"stranger", client.place)
            own.sendto(header(V4, target.port) + b"client again", client.place)
            target.expect(b"client again")
            # The answer goes there, too.
            target.answer(b"answer")
            assert own.recv(100).endswith(b"answer")


@pytest.mark.rfc("RFC 1928 section 6, UDP ASSOCIATE", "The server MAY use that to limit access.")
@pytest.mark.parametrize("listen_host", [V4, V6])
@pytest.mark.parametrize(
    "dst",
    [
        ("192.0.2.7", 53),
        ("2001:db8::7", 53),
        ("127.0.0.1", 0),
        ("::1", 0),
        ("224.0.0.1", 5353),
        ("255.255.255.255", 65535),
        (b"example.org", 443),
        (b"localhost", 443),
        (b"127.0.0.1", 5),
        ("0.0.0.0", 0),
        ("::", 0),
    ],
    ids=str,
)
def test_a_target_in_the_request_is_a_hint(listen_host, dst, target):
    """Whatever address DST names, the association is granted, and for all targets."""
    with run_proxy(listen=(":0",)) as proxy, Associated(proxy.port, listen_host, dst) as client:
        assert (0, listen_host) == (client.rep, client.bnd)
        client.expect_to_work(target)


@pytest.mark.rfc("RFC 1928 section 6, UDP ASSOCIATE", "The server MAY use that to limit access.")
@pytest.mark.rfc(
    "RFC 1928 section 7", "The relay MUST acquire the expected IP address of the client."
)
def test_another_address_that_the_client_names_is_not_accepted(proxy, target):
    """Only the host of the TCP connection may send, whatever DST.ADDR is, its port or not."""
    with udp_socket("127.0.0.9") as named:
        with Associated(proxy.port, dst=named.getsockname()) as client:
            named.sendto(header(V4, target.port) + b"stranger", client.place)
            client.expect_to_work(target)
            wait_for_drops(proxy.records[-1], stranger=1)


# Where to


@pytest.mark.rfc("RFC 1928 section 7", "DST.ADDR is IPv4, IPv6 or a name.")
@pytest.mark.rfc(
    "RFC 1928 section 7", "A datagram from a remote host MUST be encapsulated in that header."
)
@pytest.mark.parametrize("host", [V4, V6])
def test_one_association_has_targets_of_both_families(host, target, target6):
    """IPv4 and IPv6, in any order; what comes back has the sender's real address and family."""
    with run_proxy(listen=(":0",)) as proxy, Associated(proxy.port, host) as client:
        for each in (target, target6, target, target6):
            client.expect_to_work(each)
        assert (V4, V6) == (target.source[0], target6.source[0])


@pytest.mark.rfc("RFC 1928 section 7", "DST.ADDR is IPv4, IPv6 or a name.")
@pytest.mark.rfc(
    "RFC 1928 section 7", "A datagram from a remote host MUST be encapsulated in that header."
)
@pytest.mark.parametrize(
    "form", ["127.0.0.1", "::ffff:127.0.0.1", b"127.0.0.1", b"127.1", b"0x7f.1", b"2130706433",
             b"::ffff:127.0.0.1"],
)  # fmt: skip
def test_every_form_of_an_address_arrives(client, target, form):
    """Binary or as a name, mapped or short; the reply has the IPv4 address that it came from."""
    for word in (b"first", b"second"):
        target.expect_from(client.send(form, target.port, word), word)
        target.answer(word)
        client.expect(target, word)


def test_names_of_an_ipv6_address_arrive(client, target6):
    """As the address, and as the text of one."""
    for form in (V6, b"::1", b"0:0:0:0:0:0:0:1"):
        target6.expect_from(client.send(form, target6.port, b"x"), b"x")
        target6.answer(b"y")
        client.expect(target6, b"y")


def test_targets_see_one_port(client, proxy, target):
    """All targets of a family see the same socket, as behind a NAT that suits games."""
    with UdpTarget("127.0.0.2") as second:
        client.expect_to_work(target).expect_to_work(second)
        assert target.source == second.source


@pytest.mark.rfc(
    "RFC 1928 section 7", "A datagram from a remote host MUST be encapsulated in that header."
)
def test_a_host_not_written_to_is_not_heard(client, proxy, target):
    """A datagram from another address is dropped; from one that was written to, delivered."""
    client.expect_to_work(target)
    with UdpTarget("127.0.0.2") as stranger:
        stranger.sock.sendto(b"unasked", target.source)
        client.expect_to_work(target)
        assert {"unasked": 1} == proxy.records[-1].datagrams.drops
        client.expect_to_work(stranger)  # now it was


@pytest.mark.rfc(
    "RFC 1928 section 7", "A datagram from a remote host MUST be encapsulated in that header."
)
def test_a_target_may_answer_from_another_port(client, target):
    """TFTP servers do that: the reply names that port."""
    target.expect(client.send_to(target, b"read") and b"read")
    with UdpTarget(V4) as other:
        other.source = target.source
        other.answer(b"data")
        client.expect(other, b"data")
        client.expect_to_work(other)


def test_another_port_needs_a_rule_that_allows_it(target):
    """A target that rules do not allow to be written to is not heard either."""
    with UdpTarget() as other:
        rule = "deny to 127.0.0.1 port %d" % other.port
        with run_proxy(rule=(rule, "allow")) as proxy, Associated(proxy.port) as client:
            target.expect_from(client.send_to(target, b"read"), b"read")
            other.source = target.source
            other.answer(b"data")
            client.expect_to_work(target)
            assert {"denied": 1} == proxy.records[-1].datagrams.drops


# Requests without an association


@pytest.mark.rfc("SOCKS4, introduction", "Two operations: CONNECT and BIND.")
def test_socks4_has_none(proxy):
    """CD 3 is no command of SOCKS4."""
    with Talk.to(proxy.port) as talk:
        talk.send(socks4(V4, 1, cmd=UDP_ASSOCIATE)).expect(REJECTED4).expect_eof()
    assert 0 == len(proxy.services.associations)


@pytest.mark.rfc("RFC 1928 section 6", "REP 07: command not supported.")
def test_unix_sockets_have_none(tmp_path):
    """REP 07: any process on this host could send datagrams in such a client's name."""
    path = str(tmp_path / "s")
    with run_proxy(listen=("unix:" + path,)) as proxy, socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        talk = Talk(sock).send(GREETING).expect(b"\x05\x00")
        talk.send(socks5("0.0.0.0", 0, UDP_ASSOCIATE)).expect(failure5(7)).expect_eof()
        wait_until(lambda: proxy.records[-1].end)
        assert "unix socket" in proxy.records[-1].why
