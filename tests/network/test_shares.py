"""One client keeps no other out, between hosts: a machine with every address that it can have.

An attacker with IPv4, and with IPv6 in as many networks as a provider gives it (a /48), and
an honest client, each with a cable to the proxy's host.  What the attacker has is all that
there is; what it loses it takes again at once, before each word of the client.
"""

import contextlib
import socket

import pytest

from kit import hosts
from kit.bind_client import Waiting
from kit.namespace import HANGING
from kit.support import (
    BIND,
    GREETING,
    LINGER_RESET,
    TIMEOUT,
    UDP_ASSOCIATE,
    Talk,
    address5,
    socks5,
    wait_until,
)

CLIENT, CLIENT6, PROXY, PROXY6 = "10.1.0.1", "fd01::1", "10.1.0.2", "fd01::2"
ATTACKER = "10.66.0.1"
#: In networks of their own, of all sizes: /64, /56, /52.
ADDRESSES6 = ["fd66:6:66:%x::1" % (number * 0x31) for number in range(80)]
#: A quarter of the attack comes by IPv4.
ADDRESSES = [ATTACKER if number % 4 == 3 else ADDRESSES6[number] for number in range(80)]
TIMES = 5


@pytest.fixture(scope="module")
def lan():
    """The hosts."""
    with hosts.made_for_tests("client", "attacker", "proxy") as made:
        with hosts.or_skip():
            made.cable(
                ("client", CLIENT + "/24", CLIENT6 + "/64", "fe80::1/64"),
                ("proxy", PROXY + "/24", PROXY6 + "/64", "fe80::2/64"),
            )
            made.cable(
                ("attacker", ATTACKER + "/24", "fd66::1/64", "fe80::1/64"),
                ("proxy", "10.66.0.2/24", "fd66::2/64", "fe80::2/64"),
            )
            made.attacker.ip(*["addr add %s/128 dev lo nodad" % ip for ip in ADDRESSES6])
            # Both reach the proxy by the same addresses: a port of another one is another port.
            made.attacker.ip(
                "route add 10.1.0.0/24 via 10.66.0.2", "route add fd01::/64 via fd66::2"
            )
            made.proxy.ip("route add fd66:6:66::/48 via fd66::1")
        yield made


@pytest.fixture
def network(lan):
    """The hosts, for a test in which the server must log no bug of its own."""
    with hosts.without_bugs(lan):
        yield lan


class Attack:
    """Connections of the attacker, of which it makes a new one for each that it loses.

    Args:
        port: the proxy's.
        words: what each says.
        count: how many it wants.
    """

    def __init__(self, network, port, words, count):
        self._network = network
        self._port = port
        self._words = words
        self._count = count
        self._made = 0
        self._socks = []

    def go_on(self):
        """Have as many connections as are wanted, and three that are new."""
        for sock in [sock for sock in self._socks if self._has_ended(sock)]:
            self._socks.remove(sock)
            sock.close()
        for _ in range(max(3, self._count - len(self._socks))):
            source = ADDRESSES[self._made % len(ADDRESSES)]
            self._made += 1
            reached = PROXY6 if ":" in source else PROXY
            sock = self._network.attacker.connect(source, self._port, reached)
            self._socks.append(sock)
            with contextlib.suppress(OSError):
                sock.sendall(self._words)
            sock.setblocking(False)

    def reply(self, number):
        """Return the reply to one of the first connections, behind the one to its greeting."""
        with Talk(self._socks[number].dup()) as talk:
            talk.sock.settimeout(TIMEOUT)
            try:
                return talk.expect(b"\5\0").receive_reply5()
            finally:
                talk.sock.setblocking(False)

    @staticmethod
    def _has_ended(sock):
        try:
            while sock.recv(4096):
                pass
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def close(self):
        """Reset all, at once."""
        for sock in self._socks:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            sock.close()


@contextlib.contextmanager
def attacked(network, words, count, **settings):
    """Return the port of a proxy that is attacked meanwhile, and the attack."""
    port = network.proxy.proxy(rule=["allow"], **settings)
    attack = Attack(network, port, words, count)
    try:
        attack.go_on()
        yield port, attack
    finally:
        attack.close()


@contextlib.contextmanager
def target(network):
    """Return a listener of the client's host."""
    with network.client.socket(socket.AF_INET) as sock:
        sock.settimeout(TIMEOUT)
        sock.bind((CLIENT, 0))
        sock.listen(128)
        yield sock


def assert_connects(network, port, attack, host, to, source=CLIENT):
    """Have the client connect through the proxy; the attack goes on before each of its messages."""
    if source == CLIENT:
        sock = network.client.connect(CLIENT, port, PROXY)
    else:
        sock = network.proxy.connect(source, port, source)
    with Talk(sock) as talk:
        attack.go_on()
        talk.send(GREETING).expect(b"\5\0")
        attack.go_on()
        talk.send(socks5(host, to.getsockname()[1]))
        assert 0 == talk.receive_reply5()[0]
        peer, _place = to.accept()
        with Talk(peer) as other:
            talk.send(b"question")
            other.expect(b"question").send(b"answer")
            talk.expect(b"answer")


def test_unfinished_handshakes(network):
    """Silent handshakes from all networks of the attacker: each one of the client finishes."""
    with attacked(network, b"\5", 40, max_handshakes=16) as (port, attack):
        wait_until(lambda: network.proxy.connections() >= 16, "the attack")
        with target(network) as to:
            for _ in range(TIMES):
                assert_connects(network, port, attack, CLIENT, to)
                assert_connects(network, port, attack, CLIENT, to, "127.0.0.1")
        assert any("(--max-handshakes 16)" in line for line in network.proxy.logged())


def test_names_whose_server_does_not_answer(network):
    """Names of the attacker hang in threads, and more wait: the client's names are looked up."""
    words = GREETING + socks5(HANGING.encode(), 80)
    with attacked(network, words, 80) as (port, attack):
        asked = []

        def hang():
            asked.extend(name for name in network.proxy.asked() if name == HANGING)
            # What of 64 threads its IPv6 network has, and its one IPv4 address.
            return len(asked) >= 11 + 6

        wait_until(hang, "the attack")
        with target(network) as to:
            for _ in range(TIMES):
                assert_connects(network, port, attack, b"client.test", to)
                assert_connects(network, port, attack, b"client.test", to, "127.0.0.1")
        hang()
        assert len(asked) <= 13 + 8


def test_ports_of_waiting_binds(network):
    """All ports are taken by BINDs that no peer connects to: the client still gets one."""
    words = GREETING + socks5("0.0.0.0", 0, BIND)
    with attacked(network, words, 12, bind_ports="41100-41103") as (port, attack):
        wait_until(lambda: network.proxy.connections() >= 4, "the attack")
        for _ in range(TIMES):
            sock = network.client.connect(CLIENT, port, PROXY)
            with Waiting(sock, CLIENT) as client:
                assert (0, PROXY) == (client.rep, client.host)
                attack.go_on()
                with client.peer(CLIENT, network.client) as peer:
                    client.expect_peer(peer)
                    client.expect_to_work(peer)


def test_ports_of_associations(network):
    """All ports are taken by idle associations: the client gets one, and it works."""
    words = GREETING + socks5("0.0.0.0", 0, UDP_ASSOCIATE)
    with attacked(network, words, 12, udp_ports="40100-40103") as (port, attack):
        wait_until(lambda: len(network.proxy.associations()) >= 4, "the attack")
        with network.client.udp(CLIENT) as to, network.client.udp(CLIENT6) as udp:
            head = bytes(3) + address5(*to.getsockname()[:2])
            for _ in range(TIMES):
                with Talk(network.client.connect(CLIENT6, port, PROXY6)) as talk:
                    talk.send(GREETING).expect(b"\5\0")
                    attack.go_on()
                    talk.send(socks5("::", 0, UDP_ASSOCIATE))
                    rep, host, number = talk.receive_reply5()
                    assert (0, PROXY6) == (rep, host)
                    attack.go_on()
                    udp.sendto(head + b"question", (host, number))
                    data, source = to.recvfrom(100)
                    assert b"question" == data
                    to.sendto(b"answer", source)
                    assert head + b"answer" == udp.recv(100)


def test_connections(network):
    """None is ended for the client: the last place is kept for networks that have none."""
    with target(network) as sink, target(network) as to:
        words = GREETING + socks5(CLIENT, sink.getsockname()[1])
        with attacked(network, words, 100, max_connections=64) as (port, attack):
            had = [attack.reply(number)[0] for number in range(100)].count(0)
            assert 64 - 4 - 1 == had  # what is kept for this host, and for other networks
            for _ in range(TIMES):
                assert_connects(network, port, attack, CLIENT, to)
                assert_connects(network, port, attack, CLIENT, to, "127.0.0.1")
                lines = []

                def has_ended(lines=lines):
                    lines += [line for line in network.proxy.logged() if "end=limit" not in line]
                    return len(lines) == 2

                wait_until(has_ended, "the end of both")
