"""A name server that returns thousands of addresses: between hosts, by the system's resolver.

The client, the proxy and the targets are on three hosts; the name server is with the targets,
as one is that belongs to an attacker.
"""

import socket

import pytest

from kit import hosts
from kit.name_server import AAAA, MOST_A, MOST_AAAA, A, name_server_at
from kit.support import GREETING, TIMEOUT, Talk, address5, socks5

PROXY, TARGET = "10.1.0.2", "10.3.0.1"
#: The target has all of the first networks; no route leads to the second ones.
HERE, NOWHERE = (b"\x0a\x04", b"\xfd\x04"), (b"\x0a\x05", b"\xfd\x05")


def addresses(kind, count, networks):
    """Return the first *count* of a network, packed."""
    size = 2 if kind == A else 14
    return [networks[kind == AAAA] + (n + 1).to_bytes(size, "big") for n in range(count)]


def records(name, kind):
    """Return records: names beginning with *many* have as many addresses as there can be."""
    count = {A: MOST_A, AAAA: MOST_AAAA}[kind]
    if name.startswith("many"):
        return addresses(kind, count, HERE)
    if name.startswith("unreachable"):
        return addresses(kind, count, NOWHERE)
    if name.startswith("one."):
        return addresses(kind, kind == A, HERE)
    return None


@pytest.fixture(scope="module")
def made():
    """The hosts."""
    with hosts.made_for_tests("client", "proxy", "target", own_files=True) as lan:
        with hosts.or_skip():
            lan.cable(("client", "10.1.0.1/24"), ("proxy", PROXY + "/24"))
            lan.cable(
                ("target", TARGET + "/24", "fd03::1/64"), ("proxy", "10.3.0.2/24", "fd03::2/64")
            )
            lan.target.ip("route add local 10.4.0.0/16 dev lo", "route add local fd04::/16 dev lo")
            lan.proxy.ip(
                "route add 10.4.0.0/16 via " + TARGET,
                "route add fd04::/16 via fd03::1",
                "route add unreachable 10.5.0.0/16",
                "route add unreachable fd05::/16",
            )
            lan.proxy.ask_names_of(TARGET)
        yield lan


@pytest.fixture
def network(made):
    """The hosts, for a test in which the server must log no bug of its own."""
    with hosts.without_bugs(made):
        yield made


@pytest.fixture
def names(network):
    """The name server."""
    with name_server_at(network.target, TARGET, records) as server:
        yield server


@pytest.fixture
def listener(network):
    """What accepts at each address of the target's host."""
    with network.target.socket(socket.AF_INET6) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", 0))
        sock.listen(16)
        sock.settimeout(TIMEOUT)
        yield sock


def proxy_of(network, **settings):
    """Return the port of a proxy that only this test uses."""
    return network.proxy.new_proxy(rule=["allow"], **settings)


def greeted(network, port):
    """Return a connection of the client's whose greeting is over."""
    sock = network.client.socket(socket.AF_INET)
    sock.settimeout(TIMEOUT)
    sock.connect((PROXY, port))
    return Talk(sock).send(GREETING).expect(b"\5\0")


def connect(network, port, name, target_port):
    """Have the client connect to *name*; return its connection and the REP."""
    talk = greeted(network, port).send(socks5(name, target_port))
    return talk, talk.receive_reply5()[0]


def assert_connects(network, port, name, listener):
    """Have the client reach the target by *name*, and exchange some bytes."""
    talk, rep = connect(network, port, name, listener.getsockname()[1])
    assert 0 == rep
    with talk, Talk(listener.accept()[0]) as target:
        talk.send(b"question")
        target.expect(b"question").send(b"answer")
        talk.expect(b"answer")


class Association:
    """An association of a client, at a proxy of another host."""

    def __init__(self, network, port):
        self.talk = greeted(network, port).send(socks5("0.0.0.0", 0, 3))
        rep, host, relay = self.talk.receive_reply5()
        assert 0 == rep
        self.udp = network.client.udp("10.1.0.1")
        self.udp.connect((host, relay))

    def send(self, name, port, data):
        """Send *data* to a target."""
        self.udp.send(bytes(3) + address5(name, port) + data)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.udp.close()
        self.talk.close()


def test_a_long_answer_is_taken_apart_once(network, names, listener):
    """A name of 6300 addresses is reached, and the next connections do not ask for it again."""
    port = proxy_of(network)
    assert_connects(network, port, b"many.test", listener)
    by_now = list(names.asked)
    assert {("many.test", A), ("many.test", AAAA)} == set(by_now)
    for _ in range(5):
        assert_connects(network, port, b"many.test", listener)
    assert by_now == names.asked
    (known,) = network.proxy.known_names()
    assert ("many.test", 64, [32, 32]) == (known[0], sum(known[1]), known[1])


def test_a_short_answer_is_asked_for_by_each_connection(network, names, listener):
    """Only the resolver knows how long it is valid."""
    port = proxy_of(network)
    for count in range(1, 4):
        assert_connects(network, port, b"one.test", listener)
        assert count == names.asked.count(("one.test", A))


@pytest.mark.soak
@pytest.mark.parametrize("limit", [None, 2 << 20])
def test_names_take_little_memory_and_count_in_the_limit(limit, network, names):
    """60 names of 4000 addresses each, in datagrams: before, they took 60 MB for good."""
    port = proxy_of(network, **({"memory_limit": limit} if limit else {}))
    with Association(network, port) as client, network.target.udp("::") as target:
        sent_to = target.getsockname()[1]

        def ask(name):
            client.send(name, sent_to, name)
            assert name == target.recv(100)

        for number in range(5):
            ask(b"one.%d.test" % number)
        before = network.proxy.resident_bytes()
        for number in range(60):
            ask(b"many%d.test" % number)
        grown = network.proxy.resident_bytes() - before
        assert grown < 25 << 20
        counted, used = network.proxy.bytes_of_names()
        assert 0 < counted <= (limit // 8 if limit else 2 << 20)
        assert counted < used
        known = network.proxy.known_names()
    print("%.1f MB more for 60 names, %d of them known" % (grown / 1e6, len(known)))
    assert ["many59.test", [32, 32]] == known[-1]
    assert (len(known) < 65) == bool(limit)


def test_what_is_said_of_a_long_answer_is_short(network, names):
    """The line in the log names a few of the addresses that could not be reached."""
    port = proxy_of(network)
    network.proxy.logged()
    talk, rep = connect(network, port, b"unreachable.test", 80)
    with talk:
        assert 4 == rep
    (line,) = [line for line in network.proxy.logged() if "unreachable.test" in line]
    assert "; and 12 more" in line
    assert len(line) < 500
