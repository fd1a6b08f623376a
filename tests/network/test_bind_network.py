"""BIND between hosts: its address towards each of them, over cables, a firewall and a NAT.

A client, a server and a stranger, each with a cable to the proxy's host, which forwards
nothing.  The stranger's is also the way to everywhere else, where a test adds that route.
"""

import pytest

from kit import hosts
from kit.bind_client import Waiting, ending_by_reset

CLIENT, PROXY, STRANGER, SERVER = "10.1.0.1", "10.1.0.2", "10.2.0.1", "10.3.0.1"
SERVER6 = "fd03::1"
#: The proxy's own addresses on the other sides.
FACES = {STRANGER: "10.2.0.2", SERVER: "10.3.0.2", SERVER6: "fd03::2"}
PORTS = "41000-41003"


@pytest.fixture(scope="module")
def lan():
    """The hosts."""
    with hosts.made_for_tests("client", "stranger", "proxy", "server") as made:
        with hosts.or_skip():
            made.cable(("client", CLIENT + "/24"), ("proxy", PROXY + "/24"))
            made.cable(("stranger", STRANGER + "/24"), ("proxy", "10.2.0.2/24"))
            made.cable(
                ("server", SERVER + "/24", SERVER6 + "/64"),
                ("proxy", "10.3.0.2/24", "fd03::2/64"),
            )
            made.stranger.ip("route add 10.3.0.0/24 via 10.2.0.2")
        yield made


@pytest.fixture
def network(lan):
    """The hosts, for a test in which the server must log no bug of its own."""
    with hosts.without_bugs(lan):
        yield lan


def waiting(network, dst, way="5", **settings):
    """Return a client on its own host that waits for *dst*."""
    port = network.proxy.proxy(**dict({"rule": ["allow"]}, **settings))
    client = ending_by_reset(network.client.connect(CLIENT, port, PROXY))
    return Waiting(client, dst, way)


@pytest.mark.rfc(
    "RFC 1928 section 6, BIND", "In it, BND.PORT and BND.ADDR: where the server listens."
)
@pytest.mark.rfc(
    "SOCKS4, BIND", "Granted: DSTPORT and DSTIP of the reply say where the server listens."
)
@pytest.mark.rfc(
    "SOCKS4, BIND", "DSTIP 0: the client should take the address that it is connected to."
)
@pytest.mark.parametrize("way", ["4", "4a", "5", "5 by name"])
def test_the_address_faces_the_one_that_is_named(network, way):
    """The first reply has the address on the server's side, and by that it connects."""
    with waiting(network, SERVER, way) as client:
        assert (client.granted, FACES[SERVER]) == (client.rep, client.host)
        with client.peer(SERVER, network.server) as peer:
            client.expect_peer(peer)
            client.expect_to_work(peer)


def test_the_address_faces_it_in_ipv6(network):
    """It is so, too, for a client that has come by IPv4."""
    with waiting(network, SERVER6) as client:
        assert FACES[SERVER6] == client.host
        with client.peer(SERVER6, network.server) as peer:
            client.expect_peer(peer)
            client.expect_to_work(peer)


def test_another_host_is_a_stranger(network):
    """It reaches the socket, and is reset; the named host is still accepted."""
    with waiting(network, SERVER) as client:
        for _ in range(3):
            client.meet_stranger(STRANGER, network.stranger)
        with client.peer(SERVER, network.server) as peer:
            client.expect_peer(peer)
            client.expect_to_work(peer)


def test_another_host_ends_it_by_socks4(network):
    """The memo demands it."""
    with waiting(network, SERVER, "4") as client:
        client.expect_stranger(STRANGER, network.stranger)


def test_any_peer_comes_by_the_way_out(network):
    """Where no peer is named, the address is that of the default route."""
    network.proxy.ip("route add default via " + STRANGER)
    try:
        with waiting(network, "0.0.0.0") as client:
            assert FACES[STRANGER] == client.host
            with client.peer(STRANGER, network.stranger) as peer:
                client.expect_peer(peer)
                client.expect_to_work(peer)
    finally:
        network.proxy.ip("route del default")


def test_any_peer_comes_by_the_clients_way_where_none_leads_out(network):
    """Without a default route, the first reply has the address that the client has reached."""
    with waiting(network, "0.0.0.0") as client:
        assert PROXY == client.host


def test_no_way_to_the_one_that_is_named(network):
    """The reply is REP 03, and no socket is made."""
    with waiting(network, "192.0.2.1") as client:
        assert (3, "0.0.0.0", 0) == (client.rep, client.host, client.port)


@pytest.mark.parametrize(
    "settings",
    [
        {"source": ["10.2.0.2"]},
        {"interface": "server"},
        {"source": ["10.3.0.2"], "interface": "server", "mark": 7},
    ],
)
def test_the_egress_is_where_peers_come_in(network, settings):
    """--source is where the server connects to, --interface by which it has to come."""
    with waiting(network, SERVER, **settings) as client:
        assert settings.get("source", [FACES[SERVER]])[0] == client.host
        if "interface" in settings:
            with pytest.raises(ConnectionRefusedError):
                client.peer(STRANGER, network.stranger)
        if client.host == FACES[SERVER]:
            with client.peer(SERVER, network.server) as peer:
                client.expect_peer(peer)


@pytest.mark.rfc(
    "RFC 1928 section 6, BIND", "In it, BND.PORT and BND.ADDR: where the server listens."
)
@pytest.mark.rfc(
    "SOCKS4, BIND", "Granted: DSTPORT and DSTIP of the reply say where the server listens."
)
def test_ports_that_a_firewall_passes(network):
    """With no more than --bind-ports open, the server connects."""
    with hosts.or_skip():
        network.proxy.firewall(
            "table inet wall { chain input { type filter hook input priority 0;\n"
            'iifname "server" tcp dport != %s reject with tcp reset\n}\n}\n' % PORTS
        )
    try:
        with waiting(network, SERVER, bind_ports=PORTS) as client:
            assert 41000 <= client.port <= 41003
            with client.peer(SERVER, network.server) as peer:
                client.expect_peer(peer)
                client.expect_to_work(peer)
        # The firewall is in force.
        with waiting(network, SERVER, bind_ports="42000-42003") as client:
            with pytest.raises(ConnectionRefusedError):
                client.peer(SERVER, network.server)
    finally:
        network.proxy.firewall("")


def test_rules_for_the_peer_that_came(network):
    """Where any peer may connect, a rule may still deny one by its address: it is reset."""
    rule = ["deny to %s command bind" % STRANGER, "allow"]
    with waiting(network, "0.0.0.0", rule=rule) as client:
        network.stranger.ip("route add 10.1.0.0/24 via 10.2.0.2")
        try:
            client.meet_stranger(STRANGER, network.stranger)
        finally:
            network.stranger.ip("route del 10.1.0.0/24")
        assert [] == network.proxy.refusals()
        network.server.ip("route add 10.1.0.0/24 via 10.3.0.2")
        try:
            with client.peer(SERVER, network.server) as peer:
                client.expect_peer(peer)
        finally:
            network.server.ip("route del 10.1.0.0/24")


INSIDE, OUTSIDE, FAR = "192.168.7.2", "203.0.113.1", "203.0.113.9"
NAT = """
table ip nat { chain pre { type nat hook prerouting priority -100;
iifname "server" tcp dport %s dnat to %s
}
chain post { type nat hook postrouting priority 100;
oifname "server" masquerade
}
}
"""


@pytest.fixture(scope="module")
def nat_hosts():
    """A proxy in a network behind a router, and a server beyond that, which knows the router."""
    with hosts.made_for_tests("proxy", "router", "server") as made:
        with hosts.or_skip():
            made.cable(("proxy", INSIDE + "/24"), ("router", "192.168.7.1/24"))
            made.cable(("router", OUTSIDE + "/24"), ("server", FAR + "/24"))
            made.proxy.ip("route add default via 192.168.7.1")
            made.router.forward()
            made.router.firewall(NAT % (PORTS, INSIDE))
        yield made


@pytest.mark.rfc(
    "RFC 1928 section 6, BIND", "In it, BND.PORT and BND.ADDR: where the server listens."
)
@pytest.mark.rfc(
    "SOCKS4, BIND", "Granted: DSTPORT and DSTIP of the reply say where the server listens."
)
@pytest.mark.parametrize("dst", [FAR, "0.0.0.0"])
def test_the_public_address_is_where_a_nat_passes_the_server(nat_hosts, dst):
    """The reply has it, with a port that the router passes on, and the server connects to it."""
    port = nat_hosts.proxy.proxy(rule=["allow"], public_address=[OUTSIDE], bind_ports=PORTS)
    with hosts.without_bugs(nat_hosts):
        with Waiting(nat_hosts.proxy.connect(INSIDE, port), dst) as client:
            assert OUTSIDE == client.host
            with client.peer(FAR, nat_hosts.server) as peer:
                client.expect_peer(peer)
                client.expect_to_work(peer)
