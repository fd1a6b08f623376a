"""A router whose outside is a carrier's network or a link that strangers share.

Four hosts: the router with the proxy; outside, on one link, a neighbour of the provider's; inside,
a client and what is not for neighbours; and a cloud that hands out credentials.
"""

import sys

import pytest

from kit import hosts
from kit.support import GREETING, Talk, socks5

OK, NOT_ALLOWED = 0, 2

#: The router's address outside, and the neighbour's; --allow-lan counts these to the LAN.
OUTSIDE = [
    ("100.64.0.1", "100.64.0.2"),
    ("169.254.7.1", "169.254.7.2"),
    ("fe80::1", "fe80::2"),
]
ROUTER, LAN_CLIENT, LAN_CLIENT6 = "192.168.7.1", "192.168.7.2", "fd07::2"
#: Addresses that Linux connects to though no host of the Internet has them.
ODD = ["240.0.0.2", "198.18.0.2", "192.0.0.2"]
CLOUD = ["169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254"]
#: The name of an interface of the router's, which is the cloud.
CLOUD_ON_LINK = b"fe80::a9fe:a9fe%cloud"

WAYS = {
    "open": ({"open": True}, NOT_ALLOWED),
    "allow": ({"rule": ["allow"]}, NOT_ALLOWED),
    "lan": ({"allow_lan": True}, OK),
    "lan and open": ({"allow_lan": True, "open": True}, OK),
    "named": ({"rule": ["allow to private reserved"]}, OK),
}


@pytest.fixture(scope="module")
def made():
    """The hosts."""
    with hosts.made_for_tests("proxy", "neighbour", "inside", "cloud") as made:
        with hosts.or_skip():
            made.cable(
                ("proxy", "203.0.113.1/24", *[ours + _bits(ours) for ours, _theirs in OUTSIDE]),
                ("neighbour", "203.0.113.2/24", *[there + _bits(there) for _, there in OUTSIDE]),
            )
            made.cable(
                ("proxy", ROUTER + "/24", "fd07::1/64"),
                ("inside", LAN_CLIENT + "/24", LAN_CLIENT6 + "/64", *[o + "/32" for o in ODD]),
            )
            made.cable(
                ("proxy", "10.9.0.1/24", "fd09::1/64", "fe80::9/64"),
                ("cloud", "10.9.0.2/24", "fd09::2/64", "fe80::a9fe:a9fe/64"),
            )
            made.cloud.ip(*["addr add %s/%d dev lo" % (ip, _all(ip)) for ip in CLOUD])
            ways = [(odd, LAN_CLIENT) for odd in ODD]
            ways += [(ip, "fd09::2" if ":" in ip else "10.9.0.2") for ip in CLOUD]
            made.proxy.ip(*["route add %s/%d via %s" % (ip, _all(ip), way) for ip, way in ways])
            made.inside.ip("route add default via " + ROUTER)
        yield made


@pytest.fixture
def network(made):
    """The hosts, for a test in which the server must log no bug of its own."""
    with hosts.without_bugs(made):
        yield made


def _bits(address):
    return "/64" if ":" in address else "/24"


def _all(address):
    return 128 if ":" in address else 32


class Target:
    """Listens on every address of a host."""

    def __init__(self, host):
        self._listener = host.socket(hosts.family_of("::"))
        self._listener.bind(("::", 0))
        self._listener.listen(16)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]

    def reached(self):
        """Return how many connections have come since the last call."""
        count = 0
        while True:
            try:
                self._listener.accept()[0].close()
            except BlockingIOError:
                return count
            count += 1

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._listener.close()


def rep(network, host, source, reached, dst, port, settings):
    """Return REP for a client of *host* by *source* that connects, by SOCKS5, to *dst*."""
    proxy = network.proxy.proxy(**settings)
    sock = host.socket(hosts.family_of(source))
    sock.settimeout(20)
    scope = host.index("proxy") if source.startswith("fe80") else 0
    sock.bind((source, 0, 0, scope) if scope else (source, 0))
    sock.connect((reached, proxy, 0, scope) if scope else (reached, proxy))
    with Talk(sock) as talk:
        talk.send(GREETING).expect(b"\x05\x00")
        return talk.send(socks5(dst, port)).receive_reply5()[0]


@pytest.mark.parametrize("way", sorted(WAYS))
@pytest.mark.parametrize("reached, source", OUTSIDE)
@pytest.mark.parametrize("dst", [LAN_CLIENT, LAN_CLIENT6, *ODD])
def test_neighbours_outside_reach_the_inside_only_where_a_setting_allows_it(
    network, dst, reached, source, way
):
    """--open is no way from a carrier's network, or the link outside, into the LAN."""
    settings, expected = WAYS[way]
    with Target(network.inside) as target:
        answer = rep(network, network.neighbour, source, reached, dst, target.port, settings)
        assert expected == answer
        assert (expected == OK) == target.reached()


@pytest.mark.parametrize("way", sorted(WAYS))
@pytest.mark.parametrize("source, reached", [(LAN_CLIENT, ROUTER), (LAN_CLIENT6, "fd07::1")])
def test_clients_inside_reach_each_other(network, source, reached, way):
    """Clients in private networks are not affected by it."""
    with Target(network.inside) as target:
        for dst in (LAN_CLIENT, LAN_CLIENT6, *ODD):
            answer = rep(network, network.inside, source, reached, dst, target.port, WAYS[way][0])
            assert OK == answer
            assert 1 == target.reached()


@pytest.mark.parametrize("dst", [*CLOUD, CLOUD_ON_LINK])
@pytest.mark.parametrize(
    "rule, expected",
    [
        ("allow", NOT_ALLOWED),
        ("allow to private linklocal reserved", NOT_ALLOWED),
        ("allow to 0.0.0.0/0 ::/0", NOT_ALLOWED),
        ("allow to metadata", OK),
    ],
)
def test_the_cloud_hands_out_its_credentials_only_where_that_is_said(network, rule, expected, dst):
    """Only "metadata" opens them, even to a client inside that may reach private networks."""
    settings = {"rule": [rule], "open": True}
    with Target(network.cloud) as target:
        answer = rep(network, network.inside, LAN_CLIENT, ROUTER, dst, target.port, settings)
        assert expected == answer
        assert (expected == OK) == target.reached()


def test_what_allow_lan_means_there_is_said_at_the_start(network, tmp_path):
    """The start has a line for each such address of an interface, with the rule that changes it."""
    minisocks = [sys.executable, "-m", "minisocks"]
    pidfile = ["--pidfile", str(tmp_path / "pid")]
    log = tmp_path / "log"
    start = [*minisocks, "-l", "0.0.0.0:0", "--daemon", "--log-file", str(log), *pidfile]

    def said(*more):
        status, text = network.proxy.run(*start, *more)
        assert 0 == status, text
        assert 0 == network.proxy.run(*minisocks, "stop", *pidfile)[0]
        return [line for line in text.splitlines() if line.startswith("take care:")]

    carrier, link = said("--allow-lan")
    assert "neighbour has 100.64.0.1 (" in carrier
    assert "--rule 'deny from 100.64.0.0/10'" in carrier
    assert "neighbour has 169.254.7.1 (" in link
    assert carrier in log.read_text()
    assert [link] == said("--allow-lan", "--rule", "deny from 100.64.0.0/10")
    assert [] == said("--open")
