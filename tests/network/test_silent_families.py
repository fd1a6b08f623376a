"""A name server that answers about IPv4 and drops questions about IPv6: between hosts.

Each such name takes 15 s if both are asked for.  The tests look at the questions, not at the time.
"""

import socket

import pytest

from kit import hosts
from kit.name_server import AAAA, SILENCE, A, name_server_at
from kit.support import GREETING, TIMEOUT, Talk, address5, socks5, wait_until

PROXY, OWN, TARGET = "10.1.0.2", "10.3.0.2", "10.3.0.1"


def records(name, kind):
    """Return records: names beginning with *both* have addresses of both families."""
    if kind == A:
        return [socket.inet_aton(TARGET)]
    return [socket.inet_pton(socket.AF_INET6, "fd03::1")] if name.startswith("both") else SILENCE


@pytest.fixture(scope="module")
def made():
    """The hosts; all have link-local addresses of IPv6, as hosts do."""
    with hosts.made_for_tests("client", "proxy", "target", own_files=True) as lan:
        with hosts.or_skip():
            lan.cable(("client", "10.1.0.1/24", "fe80::1/64"), ("proxy", PROXY + "/24"))
            lan.cable(("target", TARGET + "/24"), ("proxy", OWN + "/24", "fe80::2/64"))
            lan.proxy.ask_names_of(TARGET)
        yield lan


@pytest.fixture
def network(made):
    """The hosts, for a test in which the server must log no bug of its own."""
    with hosts.without_bugs(made):
        yield made


@pytest.fixture
def two_families(network):
    """While this lasts, the proxy's host has an address of IPv6 without a route elsewhere."""
    network.proxy.ip("addr add fd03::2/64 dev target nodad")
    yield
    network.proxy.ip("addr del fd03::2/64 dev target")


@pytest.fixture
def names(network):
    """The name server."""
    with name_server_at(network.target, TARGET, records) as server:
        yield server


@pytest.fixture
def listener(network):
    """What accepts at the target."""
    with network.target.socket(socket.AF_INET) as sock:
        sock.bind((TARGET, 0))
        sock.listen(16)
        sock.settimeout(TIMEOUT)
        yield sock


def greeted(network, **settings):
    """Return a connection of the client's whose greeting is over, to a proxy of its own."""
    port = network.proxy.new_proxy(rule=["allow"], **settings)
    sock = network.client.socket(socket.AF_INET)
    sock.settimeout(TIMEOUT)
    sock.connect((PROXY, port))
    return Talk(sock).send(GREETING).expect(b"\5\0")


def assert_connects(network, name, listener, **settings):
    """Have the client reach the target by *name*."""
    with greeted(network, **settings) as talk:
        talk.send(socks5(name, listener.getsockname()[1]))
        assert 0 == talk.receive_reply5()[0]
        listener.accept()[0].close()


def test_host_without_ipv6_asks_for_ipv4_alone(network, names, listener):
    """Its link-local address of IPv6 reaches no name, so it does not wait for that answer."""
    assert_connects(network, b"half.test", listener)

    assert [("half.test", A)] == names.asked


@pytest.mark.parametrize("settings", [{"prefer": "ipv4-only"}, {"source": [OWN]}])
def test_one_family_is_asked_for_where_one_is_wanted(
    settings, network, two_families, names, listener
):
    """By --prefer or by a --source of one family, also where the host has both."""
    assert_connects(network, b"half.test", listener, **settings)

    assert [("half.test", A)] == names.asked


def test_family_that_came_later_is_asked_for(network, names, listener):
    """With an address of fd00::/8, and no default route, both families are asked for."""
    with greeted(network) as talk:
        network.proxy.ip("addr add fd03::2/64 dev target nodad")
        try:
            talk.send(socks5(b"both.test", listener.getsockname()[1]))
            assert 0 == talk.receive_reply5()[0]
            listener.accept()[0].close()
        finally:
            network.proxy.ip("addr del fd03::2/64 dev target")

    assert {("both.test", A), ("both.test", AAAA)} == set(names.asked)


@pytest.mark.parametrize("settings", [{}, {"prefer": "ipv4-only"}])
def test_datagrams_ask_for_the_same(settings, network, names):
    """A target of UDP is looked up as one of TCP."""
    with greeted(network, **settings) as talk, network.target.udp(TARGET) as target:
        talk.send(socks5("0.0.0.0", 0, 3))
        rep, host, relay = talk.receive_reply5()
        assert 0 == rep
        with network.client.udp("10.1.0.1") as client:
            name = address5(b"half.test", target.getsockname()[1])
            client.sendto(bytes(3) + name + b"question", (host, relay))
            assert b"question" == target.recv(100)

    assert [("half.test", A)] == names.asked


def test_name_of_the_family_that_is_not_asked_for(network, names):
    """The client receives "host unreachable", and the log has what was asked for."""
    names.records = lambda name, kind: [] if kind == A else SILENCE
    with greeted(network) as talk:
        talk.send(socks5(b"half.test", 80))
        assert 4 == talk.receive_reply5()[0]

    lines = []
    wait_until(lambda: lines.extend(network.proxy.logged()) or any("half.test" in x for x in lines))
    assert "it has no IPv4 address, and this host has none" in "".join(lines)
