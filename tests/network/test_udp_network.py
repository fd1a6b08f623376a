"""Datagrams between hosts: by cables, routers, firewalls and a NAT, all of the tests' own.

A client, a stranger and a target, each with a cable to the proxy's host, which forwards
nothing: whatever arrives beyond it went through the proxy.
"""

import os
import select

import pytest

from kit import hosts
from kit.support import GREETING, TIMEOUT, UDP_ASSOCIATE, Talk, address5, socks5, wait_until

CLIENT, PROXY, STRANGER, TARGET = "10.1.0.1", "10.1.0.2", "10.2.0.1", "10.3.0.1"
CLIENT6, PROXY6, TARGET6 = "fd01::1", "fd01::2", "fd03::1"
LINK_LOCAL = "fe80::2"
#: By which address of the proxy's host each target is written to.
SIDE = {TARGET: "10.3.0.2", TARGET6: "fd03::2"}
#: Addresses of the proxy's host by which its client reaches it.
REACHED = [PROXY, PROXY6, "10.3.0.2", "fd03::2", LINK_LOCAL]
PORTS = "40000-40003"
#: The longest that IPv4 takes, with the header that the client gets.
LONGEST = 65507 - 22


@pytest.fixture(scope="module")
def lan():
    """The hosts; only addresses that the proxy's host has are reached across it."""
    with hosts.made_for_tests("client", "stranger", "proxy", "target") as made:
        with hosts.or_skip():
            made.cable(
                ("client", CLIENT + "/24", CLIENT6 + "/64", "fe80::1/64"),
                ("proxy", PROXY + "/24", PROXY6 + "/64", LINK_LOCAL + "/64"),
            )
            made.cable(("stranger", STRANGER + "/24"), ("proxy", "10.2.0.2/24"))
            made.cable(
                ("target", TARGET + "/24", TARGET6 + "/64"),
                ("proxy", "10.3.0.2/24", "fd03::2/64"),
            )
            made.client.ip(
                "route add 10.3.0.0/24 via " + PROXY, "route add fd03::/64 via " + PROXY6
            )
            made.stranger.ip("route add 10.1.0.0/24 via 10.2.0.2")
        yield made


@pytest.fixture
def network(lan):
    """The hosts, for a test in which the server must log no bug of its own."""
    with hosts.without_bugs(lan):
        yield lan


class Association:
    """An association: its connection, where its datagrams go, and the client's UDP socket."""

    def __init__(self, host, reached, port, scope=0, source=None, tells_port=False, told=None):
        any_address = "::" if ":" in reached else "0.0.0.0"
        self.udp = host.udp(source or any_address)
        sock = host.socket(hosts.family_of(reached))
        sock.settimeout(TIMEOUT)
        sock.connect((reached, port, 0, scope) if scope else (reached, port))
        self.talk = Talk(sock).send(GREETING).expect(b"\5\0")
        from_port = self.udp.getsockname()[1] if tells_port else 0
        self.talk.send(socks5(any_address, from_port, UDP_ASSOCIATE))
        self.rep, self.bnd, self.port = self.talk.receive_reply5()
        assert (0, told or reached) == (self.rep, self.bnd)
        self.place = (self.bnd, self.port, 0, scope) if scope else (self.bnd, self.port)
        if self.bnd == reached:
            self.udp.connect(self.place)

    def send(self, target, data):
        """Send *data* for *target*, a socket."""
        self.udp.send(bytes(3) + address5(*target.getsockname()[:2]) + data)

    def receive(self, target):
        """Return what came from *target*."""
        data, head = self.udp.recv(65536), bytes(3) + address5(*target.getsockname()[:2])
        assert head == data[: len(head)]
        return data[len(head) :]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.udp.close()
        self.talk.close()


def associate(network, reached=PROXY, settings=None, **others):
    """Return an association of the client's host."""
    # Targets are in private networks, which are opened to link-local clients by name only.
    port = network.proxy.proxy(rule=["allow to private", "allow"], **(settings or {}))
    scope = network.client.index("proxy") if reached.startswith("fe80") else 0
    return Association(network.client, reached, port, scope, **others)


def assert_both_ways(association, target, question=b"question", answer=b"answer"):
    """Exchange datagrams; return by which address the target was written to."""
    association.send(target, question)
    data, source = target.recvfrom(65536)
    assert question == data
    target.sendto(answer, source)
    assert answer == association.receive(target)
    return source[0]


def line(network):
    """Return the line of the log about the one association."""
    lines = []

    def is_there():
        lines.extend(one for one in network.proxy.logged() if "cmd=UDP_ASSOCIATE" in one)
        return lines

    wait_until(is_there, "the line in the log")
    (only,) = lines
    return only


@pytest.mark.rfc(
    "RFC 1928 section 6, UDP ASSOCIATE",
    "BND.ADDR and BND.PORT: where the client MUST send its datagrams.",
)
@pytest.mark.parametrize("tells_port", [False, True], ids=["port 0", "its port"])
@pytest.mark.parametrize("target", [TARGET, TARGET6])
@pytest.mark.parametrize("reached", REACHED)
def test_bnd_is_the_address_that_the_client_reached(network, reached, target, tells_port):
    """For each family, on each side, and link-local with a scope; for targets of each family."""
    with network.target.udp(target) as there:
        with associate(network, reached, tells_port=tells_port) as association:
            assert SIDE[target] == assert_both_ways(association, there)
    assert "datagrams_up=1 datagrams_down=1 secs" in line(network)


@pytest.mark.rfc("RFC 1928 section 7", "It MUST drop any datagrams from another source address.")
def test_a_stranger_is_not_taken_before_the_client(network):
    """A sender from another host that is first is no client: its datagram goes nowhere."""
    with network.target.udp(TARGET) as target, network.stranger.udp(STRANGER) as stranger:
        with associate(network) as association:
            stranger.sendto(
                bytes(3) + address5(*target.getsockname()) + b"strange", association.place
            )
            assert_both_ways(association, target)
    assert "drops='stranger: 1'" in line(network)


@pytest.mark.rfc("RFC 1928 section 7", "It MUST drop any datagrams from another source address.")
@pytest.mark.parametrize("sender", ["another host", "another port", "another address of the host"])
def test_a_stranger_is_not_taken_beside_the_client(network, sender):
    """Once the client has written, its host's kernel turns away every other sender."""
    network.client.ip("addr replace 10.1.0.77/24 dev proxy")
    host, address = {
        "another host": (network.stranger, STRANGER),
        "another port": (network.client, CLIENT),
        "another address of the host": (network.client, "10.1.0.77"),
    }[sender]
    with network.target.udp(TARGET) as target, host.udp(address) as stranger:
        same_port = {"udp_clients": "same-port"}
        with associate(network, source=CLIENT, settings=same_port) as association:
            assert_both_ways(association, target)
            stranger.connect(association.place)
            stranger.send(bytes(3) + address5(*target.getsockname()) + b"strange")
            with pytest.raises(ConnectionRefusedError):
                stranger.recv(1)
            # No datagram of the stranger has come before this one.
            assert_both_ways(association, target)


def test_a_client_may_have_several_ports(network):
    """With any-port, each gets its answers; the kernel turns another address away."""
    network.client.ip("addr replace 10.1.0.77/24 dev proxy")
    any_port = {"udp_clients": "any-port"}
    with network.target.udp(TARGET) as target, network.target.udp(TARGET) as second:
        with associate(network, source=CLIENT, settings=any_port) as association:
            assert_both_ways(association, target)
            with network.client.udp(CLIENT) as other, network.client.udp("10.1.0.77") as stranger:
                other.connect(association.place)
                head = bytes(3) + address5(*second.getsockname())
                other.send(head + b"question")
                data, source = second.recvfrom(100)
                assert b"question" == data
                second.sendto(b"answer", source)
                target.sendto(b"for the first", source)
                assert head + b"answer" == other.recv(100)
                assert b"for the first" == association.receive(target)
                stranger.connect(association.place)
                stranger.send(head + b"strange")
                with pytest.raises(ConnectionRefusedError):
                    stranger.recv(1)
                assert_both_ways(association, second)


@pytest.mark.parametrize("filtering", ["endpoint-independent", "address-dependent"])
def test_a_host_that_was_not_written_to(network, filtering):
    """Only with endpoint-independent filtering is it heard; the proxy's own host never is."""
    settings = {"udp_filtering": filtering}
    with network.target.udp(TARGET) as target, network.stranger.udp(STRANGER) as stranger:
        with associate(network, settings=settings) as association:
            association.send(target, b"question")
            place = target.recvfrom(100)[1]
            for own in ("10.2.0.2", "127.0.0.1", "10.3.0.2"):
                with network.proxy.udp(own) as sock:
                    sock.sendto(b"from the proxy's host", ("10.3.0.2", place[1]))
            stranger.sendto(b"hello", ("10.2.0.2", place[1]))
            if filtering == "endpoint-independent":
                assert b"hello" == association.receive(stranger)
            target.sendto(b"answer", place)
            assert b"answer" == association.receive(target)
    unasked = 3 if filtering == "endpoint-independent" else 4
    assert "drops='unasked: %d'" % unasked in line(network)


@pytest.mark.parametrize("size", [1200, 1450, 9000, LONGEST])
@pytest.mark.parametrize("mtu", [1280, 1500])
@pytest.mark.parametrize("reached, target", [(PROXY, TARGET), (PROXY6, TARGET6)])
def test_what_is_larger_than_the_mtu_arrives(network, reached, target, mtu, size):
    """It arrives in fragments of IP, in both directions, byte for byte."""
    network.client.ip("link set proxy mtu %d" % mtu)
    network.target.ip("link set proxy mtu %d" % mtu)
    network.proxy.ip("link set client mtu %d" % mtu, "link set target mtu %d" % mtu)
    with network.target.udp(target) as there, associate(network, reached) as association:
        assert_both_ways(association, there, os.urandom(size), os.urandom(size))


class Link:
    """Carries packets of UDP between two hosts; the test decides about each of them.

    Args:
        ends: of each a host, its address and the other's; where questions come from first,
            which is number 0.
    """

    def __init__(self, *ends):
        self._fds = []
        for host, ours, theirs in ends:
            self._fds.append(host.tun("rough"))
            host.ip(
                "link set rough addrgenmode none",
                "link set rough up",
                "rule add ipproto udp to %s lookup 100" % theirs,
                "route add %s dev rough src %s table 100" % (theirs, ours),
            )

    def carry(self, end, order):
        """Take as many packets as *order* needs from *end*; put those it lists at the other."""
        packets = [self._packet(self._fds[end]) for _ in range(1 + max(order))]
        for number in order:
            os.write(self._fds[1 - end], packets[number])

    def _packet(self, fd):
        while True:
            readable, _, _ = select.select([fd], [], [], TIMEOUT)
            assert readable, "no packet came"
            packet = os.read(fd, 65536)
            # The kernel sends more than these.
            if packet[0] >> 4 == 4 and packet[9] == 17:
                return packet

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for fd in self._fds:
            os.close(fd)


@pytest.fixture(params=["client", "target"])
def link(request, network):
    """A link for datagrams between the proxy's host and the client's, or the target's."""
    ends = {
        "client": [(network.client, CLIENT, PROXY), (network.proxy, PROXY, CLIENT)],
        "target": [
            (network.proxy, SIDE[TARGET], TARGET),
            (network.target, TARGET, SIDE[TARGET]),
        ],
    }[request.param]
    with hosts.or_skip():
        made = Link(*ends)
    with made:
        try:
            yield made
        finally:
            for host, _ours, theirs in ends:
                host.ip("rule del ipproto udp to %s lookup 100" % theirs)


#: Which of five arrive; the last one always does, so that all of them are waited for.
ORDERS = {
    "all": [0, 1, 2, 3, 4],
    "lost": [2, 4],
    "twice": [0, 0, 1, 1, 2, 2, 3, 3, 4, 4],
    "backwards": [4, 3, 2, 1, 0],
    "all of it": [4, 1, 1, 3],
}


@pytest.mark.parametrize("order", sorted(ORDERS))
def test_datagrams_arrive_as_the_network_has_them(network, link, order):
    """Lost, twice, or in another order: both ways, the proxy neither mends that nor fails."""
    numbers = ORDERS[order]
    with network.target.udp(TARGET) as target, associate(network, source=CLIENT) as association:
        for number in range(5):
            association.send(target, b"question %d" % number)
        link.carry(0, numbers)
        came = [target.recvfrom(100) for _ in numbers]
        assert [b"question %d" % number for number in numbers] == [data for data, _ in came]
        for number in range(5):
            target.sendto(b"answer %d" % number, came[0][1])
        link.carry(1, numbers)
        answers = [association.receive(target) for _ in numbers]
        assert [b"answer %d" % number for number in numbers] == answers


def test_only_the_ports_of_the_range_must_be_open(network):
    """A firewall that passes no more than --udp-ports passes the client's datagrams."""
    with hosts.or_skip():
        network.proxy.firewall(
            "table inet wall { chain input { type filter hook input priority 0;\n"
            'iifname "client" udp dport != %s reject\n}\n}\n' % PORTS
        )
    try:
        with network.target.udp(TARGET) as target:
            with associate(network, settings={"udp_ports": PORTS}) as association:
                assert 40000 <= association.port <= 40003
                assert_both_ways(association, target)
            # The firewall is in force.
            with associate(network, settings={"udp_ports": "41000-41003"}) as association:
                association.send(target, b"question")
                with pytest.raises(ConnectionRefusedError):
                    association.udp.recv(1)
    finally:
        network.proxy.firewall("")


PUBLIC, INSIDE, ROUTER = "203.0.113.1", "192.168.5.2", "192.168.5.1"
NAT = """
table ip nat { chain pre { type nat hook prerouting priority -100;
iifname "client" tcp dport 1080 dnat to %s:%d
iifname "client" udp dport %s dnat to %s
}
}
"""


@pytest.fixture(scope="module")
def nat_hosts():
    """A client, and a proxy to which a router forwards a port and a range of ports."""
    with hosts.made_for_tests("client", "router", "proxy") as made:
        with hosts.or_skip():
            made.cable(("client", "203.0.113.9/24"), ("router", PUBLIC + "/24"))
            made.cable(("router", ROUTER + "/24"), ("proxy", INSIDE + "/24"))
            made.proxy.ip("route add default via " + ROUTER)
            made.router.forward()
        yield made


@pytest.fixture
def behind_nat(nat_hosts):
    """The same hosts, for a test in which the server must log no bug of its own."""
    with hosts.without_bugs(nat_hosts):
        yield nat_hosts


@pytest.mark.rfc(
    "RFC 1928 section 6, UDP ASSOCIATE",
    "BND.ADDR and BND.PORT: where the client MUST send its datagrams.",
)
@pytest.mark.parametrize("told", [PUBLIC, INSIDE])
def test_public_address_is_where_a_nat_takes_datagrams(behind_nat, told):
    """BND.ADDR is the router's address, and datagrams arrive; or, without it, one inside."""
    settings = {"public_address": [PUBLIC]} if told == PUBLIC else {}
    port = behind_nat.proxy.proxy(rule=["allow to " + ROUTER], udp_ports=PORTS, **settings)
    with hosts.or_skip():
        behind_nat.router.firewall(NAT % (INSIDE, port, PORTS, INSIDE))
    with behind_nat.router.udp(ROUTER) as target:
        with Association(behind_nat.client, PUBLIC, 1080, told=told) as association:
            if told == PUBLIC:
                assert 40000 <= association.port <= 40003
                assert_both_ways(association, target)
