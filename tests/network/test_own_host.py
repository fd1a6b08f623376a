"""The proxy's own host, and the proxy itself, as targets: between hosts, with real traffic.

A client in the proxy's LAN and a host outside of it, each with a cable to the proxy's host,
where a program listens that a firewall keeps for loopback.
"""

import contextlib
import os
import re
import socket

import pytest

from kit import hosts
from kit.support import (
    GREETING,
    ROOT,
    TIMEOUT,
    UDP_ASSOCIATE,
    FakeTarget,
    Talk,
    address5,
    closed_port,
    password_message,
    run_proxy,
    socks4,
    socks5,
    wait_until,
)

OK, GENERAL, NOT_ALLOWED, HOST, REFUSED = 0, 1, 2, 4, 5

LAN, LAN6, LINK_LOCAL = "192.168.1.1", "fd01::1", "fe80::2"
WAN, OTHER_WAN, WAN6 = "203.0.113.1", "203.0.113.2", "2001:db8::1"
CLIENT, OTHER_CLIENT, CLIENT6 = "192.168.1.20", "192.168.1.10", "fd01::20"
#: Of the host outside; of a NAT that could be in front; and of a NAS behind it.
OUTSIDE, OUTSIDE6, PUBLIC = "203.0.113.9", "2001:db8::9", "198.51.100.9"
MOVING, SILENT = "192.168.7.7", "192.168.7.8"  # no host has the second
#: Addresses that no interface has: a local route (AnyIP), and the anycast address of the LAN.
ANY_IP, ANY_IP6, ANYCAST6 = "10.99.3.4", "2001:db8:99::1", "fd01::"
#: Only for what is dialed with this mark, or from this source.
BY_MARK, BY_SOURCE, BY_RULE6 = "10.98.0.1", "10.97.0.1", "2001:db8:98::1"

SETTINGS = {
    "lan": {"allow_lan": True},
    "open": {"open": True},
    "user": {"user": ["ann:secret"]},
    "rule": {"rule": ["allow"]},
    "public and private": {"rule": ["allow to public private"]},
    "networks": {
        "rule": [
            "allow to 192.168.0.0/16 10.99.0.0/16 fd01::/16",
            "allow to 203.0.113.0/24 2001::/16",
        ]
    },
    "ranges": {
        "rule": [
            "allow to 192.168.1.1-192.168.1.255 10.99.3.4-10.99.3.9 fd01::-fd01::1",
            "allow to 203.0.113.1-203.0.113.254 2001:db8::1-2001:db8::ffff",
        ]
    },
}
OWN = [
    LAN, WAN, LAN6, WAN6, ANY_IP, ANYCAST6, "192.168.1.255", "::ffff:192.168.1.1",
    "2002:c0a8:101::", "64:ff9b::192.168.1.1",
    b"192.168.257", b"0xc0a80101", b"::ffff:c0a8:101", b"203.0.113.1",
]  # fmt: skip
#: By these a connection arrives where it is allowed; none is made to an anycast address.
REACHABLE = [LAN, WAN, LAN6, WAN6, ANY_IP, b"192.168.257", b"0xc0a80101", b"::ffff:c0a8:101"]


@pytest.fixture(scope="module")
def lan():
    """The hosts."""
    with hosts.made_for_tests("client", "proxy", "outside") as made:
        with hosts.or_skip():
            made.cable(
                ("client", CLIENT + "/24", OTHER_CLIENT + "/24", CLIENT6 + "/64", "fe80::1/64"),
                ("proxy", LAN + "/24", LAN6 + "/64", LINK_LOCAL + "/64"),
            )
            made.cable(
                ("outside", OUTSIDE + "/24", OUTSIDE6 + "/64"),
                ("proxy", WAN + "/24", OTHER_WAN + "/24", WAN6 + "/64"),
            )
            there = (PUBLIC, MOVING, BY_MARK, BY_SOURCE, BY_RULE6)
            made.outside.ip(*["addr add %s dev lo" % ip for ip in there])
            command = "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding"
            status, error = made.proxy.run("sh", "-c", command)
            if status:
                raise hosts.CannotMake(error)
            made.proxy.ip(
                "route add local 10.99.0.0/16 dev lo",
                "route add local 2001:db8:99::/64 dev lo",
                "route add local 10.98.0.0/16 dev lo table 100",
                "rule add fwmark 7 lookup 100",
                "route add local 10.97.0.0/16 dev lo table 101",
                "rule add from %s lookup 101" % OTHER_WAN,
                "route add default via " + OUTSIDE,
                "route add default via " + OUTSIDE6,
                "route add blackhole 198.18.1.0/24",
                "route add prohibit 198.18.2.0/24",
                "route add unreachable 198.18.3.0/24",
            )
        yield made


@pytest.fixture
def network(lan):
    """The hosts, for a test in which the server must log no bug of its own."""
    with hosts.without_bugs(lan):
        yield lan


class Listening:
    """A program that listens at every address of a host."""

    def __init__(self, host, port=0):
        self.sock = host.socket(socket.AF_INET6)
        self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.sock.bind(("::", port))
        self.sock.listen(16)
        self.sock.settimeout(TIMEOUT)
        self.port = self.sock.getsockname()[1]

    def reached(self):
        """Wait for a connection; return the address that it came to."""
        connection, _peer = self.sock.accept()
        with connection:
            return connection.getsockname()[0].replace("::ffff:", "")

    def is_reached(self):
        """Return whether a connection is there; for after a reply, behind which none comes."""
        self.sock.settimeout(0)
        try:
            self.sock.accept()[0].close()
            return True
        except BlockingIOError:
            return False
        finally:
            self.sock.settimeout(TIMEOUT)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.sock.close()


@pytest.fixture
def inside(network):
    """What listens on the proxy's host."""
    with Listening(network.proxy) as listening:
        yield listening


def rep(network, settings, dst, port, source=CLIENT):
    """Ask by SOCKS5 for *dst*; return REP."""
    proxy_port = network.proxy.proxy(**settings)
    is_here = source.startswith("127.")
    host, to = (network.proxy, source) if is_here else (network.client, LAN)
    with Talk(host.connect(source, proxy_port, to)) as talk:
        if "user" in settings:
            talk.send(b"\5\1\2").expect(b"\5\2").send(password_message(b"ann", b"secret"))
            talk.expect(b"\1\0")
        else:
            talk.send(GREETING).expect(b"\5\0")
        return talk.send(socks5(dst, port)).receive_reply5()[0]


# Own addresses


@pytest.mark.parametrize("settings", sorted(SETTINGS))
@pytest.mark.parametrize("dst", OWN, ids=repr)
def test_no_own_address_is_reached_from_elsewhere(network, inside, dst, settings):
    """By no setting, in no form, however the client is admitted: REP 02, and nothing arrives."""
    assert NOT_ALLOWED == rep(network, SETTINGS[settings], dst, inside.port)
    assert not inside.is_reached()
    (line,) = network.proxy.refusals()
    rule = "allow from private to self port %d" % inside.port
    assert "is this host, which %s may not reach; a rule before all others" % CLIENT in line
    assert "opens it: " + rule in line


@pytest.mark.parametrize("dst", [LAN6, WAN6, ANY_IP6, ANYCAST6])
@pytest.mark.parametrize("link", [1, 2, 3, 99])
def test_no_link_is_said_but_of_link_local_addresses(network, inside, dst, link):
    """The kernel connects fd01::1%99 to fd01::1, whatever the links are; the proxy asks like it."""
    zoned = b"%s%%%d" % (dst.encode(), link)
    assert NOT_ALLOWED == rep(network, SETTINGS["open"], zoned, inside.port)
    assert not inside.is_reached()


def test_the_firewall_is_not_passed(network, inside):
    """A port that only loopback may reach is not reached by another of the host's addresses."""
    with hosts.or_skip():
        network.proxy.firewall(
            "table inet t { chain c { type filter hook input priority 0; iif lo accept; "
            "tcp dport %d reject; }; }" % inside.port
        )
    try:
        with pytest.raises(ConnectionRefusedError):
            network.client.connect(CLIENT, inside.port, LAN)
        assert OK == rep(network, SETTINGS["lan"], LAN, inside.port, "127.0.0.1")  # the way it has
        inside.reached()
        assert NOT_ALLOWED == rep(network, SETTINGS["lan"], LAN, inside.port)
    finally:
        network.proxy.firewall("")


@pytest.mark.parametrize("settings", sorted(SETTINGS))
@pytest.mark.parametrize("dst", [OUTSIDE, OUTSIDE6, b"203.0.113.9"], ids=repr)
def test_other_hosts_are_reached(network, settings, dst):
    """They are what a proxy is for; and that proves the test above."""
    with Listening(network.outside) as there:
        assert OK == rep(network, SETTINGS[settings], dst, there.port)


@pytest.mark.parametrize("dst", REACHABLE, ids=repr)
def test_a_client_on_this_host_reaches_its_addresses(network, inside, dst):
    """It could connect there itself."""
    assert OK == rep(network, SETTINGS["lan"], dst, inside.port, "127.0.0.1")
    inside.reached()


@pytest.mark.parametrize(
    "rule, dst",
    [("allow from private to self port %d", dst) for dst in REACHABLE]
    + [
        ("allow to 192.168.1.1 port %d", LAN),
        ("allow to 192.168.1.1 port %d", "::ffff:192.168.1.1"),
        ("allow from 192.168.1.20 to self", WAN),
        ("allow to fd01::1/128 port 1-%d", LAN6),
    ],
)
def test_a_rule_opens_what_it_names(network, inside, rule, dst):
    """A rule names one address, or all by ``self``; other ports and clients stay closed."""
    settings = {"rule": [rule % inside.port if "%" in rule else rule, "allow from private"]}
    assert OK == rep(network, settings, dst, inside.port)
    inside.reached()
    if "port" in rule:
        assert NOT_ALLOWED == rep(network, settings, dst, inside.port + 1)
    if "192.168.1.20" in rule:
        assert NOT_ALLOWED == rep(network, settings, dst, inside.port, OTHER_CLIENT)


@pytest.mark.parametrize("dst", ["127.0.0.1", "0.0.0.0", "::1", "::", b"localhost", b"127.1",
                                 b"fe80::2%client", "::ffff:127.0.0.1"], ids=repr)  # fmt: skip
def test_to_allow_self_opens_no_loopback(network, inside, dst):
    """Nor link-local addresses: those that all hosts have are not this host's own."""
    settings = {"rule": ["allow to self", "allow"]}
    assert NOT_ALLOWED == rep(network, settings, dst, inside.port)
    assert OK == rep(network, settings, LAN, inside.port)
    assert LAN == inside.reached()


def test_the_example_in_the_documents_does_what_it_says(network):
    """The router's own page is for one machine only."""
    with open(os.path.join(ROOT, "docs", "rules.rst"), encoding="utf-8") as file:
        text = file.read().partition("[rules]")[2].partition("And this is")[0]
    rules = re.findall(r"^    ((?:allow|deny) .*)$", text, re.M)
    assert 6 == len(rules)
    rules.remove("deny to @blocked.list")
    with Listening(network.proxy, 80) as page, Listening(network.outside, 80) as there:
        assert NOT_ALLOWED == rep(network, {"rule": rules}, LAN, 80, CLIENT)
        assert NOT_ALLOWED == rep(network, {"rule": rules}, WAN, 80, OTHER_CLIENT)
        assert not page.is_reached()
        assert OK == rep(network, {"rule": rules}, LAN, 80, OTHER_CLIENT)
        assert LAN == page.reached()
        assert OK == rep(network, {"rule": rules}, OUTSIDE, 80, CLIENT)
        assert OUTSIDE == there.reached()


def test_an_address_is_ours_from_the_moment_it_is(network):
    """No kept answer outlives a change of addresses: the next request goes by the new ones."""
    with Listening(network.outside) as there, Listening(network.proxy, there.port):
        for _ in range(3):
            assert OK == rep(network, SETTINGS["open"], MOVING, there.port)
            network.proxy.ip("addr add %s dev lo" % MOVING)
            try:
                assert NOT_ALLOWED == rep(network, SETTINGS["open"], MOVING, there.port)
            finally:
                network.proxy.ip("addr del %s dev lo" % MOVING)


def test_so_it_is_while_it_is_dialed(network):
    """A repeated SYN would go to this host, so the request is refused instead."""
    proxy_port = network.proxy.proxy(**SETTINGS["open"])
    with Listening(network.proxy) as inside:
        where = "%s:%04X 02 " % (socket.inet_aton(SILENT)[::-1].hex().upper(), inside.port)
        with Talk(network.client.connect(CLIENT, proxy_port, LAN)) as talk:
            talk.send(GREETING).expect(b"\5\0").send(socks5(SILENT, inside.port))
            wait_until(lambda: where in network.proxy.run("cat", "/proc/net/tcp")[1])
            network.proxy.ip("addr add %s dev lo" % SILENT)
            try:
                assert NOT_ALLOWED == talk.receive_reply5()[0]
            finally:
                network.proxy.ip("addr del %s dev lo" % SILENT)
        (line,) = network.proxy.refusals()
        assert "is this host" in line


def test_so_it_is_while_datagrams_are_sent_there(network):
    """The decision about the datagrams before does not count any more."""
    proxy_port = network.proxy.proxy(**SETTINGS["open"])
    with contextlib.ExitStack() as stack:
        talk = stack.enter_context(Talk(network.client.connect(CLIENT, proxy_port, LAN)))
        talk.send(GREETING).expect(b"\5\0").send(socks5("0.0.0.0", 0, UDP_ASSOCIATE))
        relay = talk.receive_reply5()
        there, inside = network.outside.udp("0.0.0.0"), network.proxy.udp("0.0.0.0")
        udp = network.client.udp(CLIENT)
        for sock in (there, inside, udp):
            stack.callback(sock.close)
            sock.settimeout(TIMEOUT)
        udp.connect((LAN, relay[2]))

        def say(host, sock, data):
            udp.send(bytes(3) + address5(host, sock.getsockname()[1]) + data)

        say(MOVING, inside, b"nobody")
        say(MOVING, there, b"first")
        assert b"first" == there.recv(100)
        network.proxy.ip("addr add %s dev lo" % MOVING)
        try:
            say(MOVING, inside, b"for this host")
            say(OUTSIDE, there, b"last")
            assert b"last" == there.recv(100)
        finally:
            network.proxy.ip("addr del %s dev lo" % MOVING)
        inside.setblocking(False)
        with pytest.raises(BlockingIOError):
            inside.recv(100)
        say(MOVING, there, b"again")
        assert b"again" == there.recv(100)


@pytest.mark.parametrize(
    "change, back",
    [
        ("route add local %s dev lo", "route del local %s dev lo"),
        ("rule add to %s lookup 102", "rule del to %s lookup 102"),
    ],
)
def test_so_it_is_by_a_route_or_a_rule_of_routing(network, change, back):
    """A local route in any table makes an address own (AnyIP)."""
    network.proxy.ip("route add local %s dev lo table 102" % MOVING)
    try:
        with Listening(network.outside) as there:
            assert OK == rep(network, SETTINGS["open"], MOVING, there.port)
            network.proxy.ip(change % MOVING)
            try:
                assert NOT_ALLOWED == rep(network, SETTINGS["open"], MOVING, there.port)
            finally:
                network.proxy.ip(back % MOVING)
            assert OK == rep(network, SETTINGS["open"], MOVING, there.port)
    finally:
        network.proxy.ip("route del local %s dev lo table 102" % MOVING)


@pytest.mark.parametrize("dst, answer", [("198.18.1.1", GENERAL), ("198.18.3.1", HOST)])
def test_a_route_to_nowhere_is_not_this_host(network, dst, answer):
    """A blackhole, or an unreachable route: the client receives the answer of the kernel."""
    assert answer == rep(network, SETTINGS["open"], dst, 80)


def test_nor_is_one_that_is_prohibited(network):
    """The kernel's prohibition is REP 02, too; the log has its error."""
    assert NOT_ALLOWED == rep(network, SETTINGS["open"], "198.18.2.1", 80)
    (line,) = network.proxy.refusals()
    assert "Permission denied" in line


@pytest.mark.parametrize(
    "how, dst",
    [({"mark": 7}, BY_MARK), ({"source": [OTHER_WAN]}, BY_SOURCE)],
    ids=["mark", "source"],
)
def test_the_question_is_about_the_way_that_the_connection_takes(network, how, dst):
    """An address that is own only with --mark or --source is denied only with that."""
    with Listening(network.outside) as there:
        assert NOT_ALLOWED == rep(network, dict(SETTINGS["open"], **how), dst, there.port)
        (line,) = network.proxy.refusals()
        assert "is this host" in line
        assert OK == rep(network, SETTINGS["open"], dst, there.port)
        assert dst == there.reached()


@pytest.mark.parametrize(
    "rule", ["from %s lookup 103" % WAN6, "ipproto tcp lookup 103"], ids=["source", "protocol"]
)
def test_it_is_about_all_that_a_rule_of_routing_can_choose_by(network, rule):
    """Rules of routing may choose by the source address, which is kept, and by the protocol."""
    route = "local %s dev lo table 103" % BY_RULE6
    network.proxy.ip("route add " + route)
    try:
        assert (0, "") == network.proxy.run("ip", "-6", "rule", "add", *rule.split())
        try:
            assert NOT_ALLOWED == rep(network, SETTINGS["open"], BY_RULE6, 80)
        finally:
            assert (0, "") == network.proxy.run("ip", "-6", "rule", "del", *rule.split())
        assert REFUSED == rep(network, SETTINGS["open"], BY_RULE6, 80)
    finally:
        network.proxy.ip("route del " + route)


# The proxy itself


ITSELF = ["127.0.0.1", "127.9.9.9", "0.0.0.0", "::1", "::", LAN, WAN, LAN6, ANY_IP, ANYCAST6,
          "::ffff:127.0.0.1", b"127.0.0.1", b"127.1", b"0", b"192.168.257",
          b"fd01::1%99"]  # fmt: skip


@pytest.mark.parametrize("source", ["127.0.0.1", CLIENT])
@pytest.mark.parametrize("dst", ITSELF, ids=repr)
def test_the_proxy_is_no_target_of_its_own(network, source, dst):
    """At no own address, for no client, whatever the rules are."""
    settings = {"rule": ["allow to self loopback unspecified", "allow"]}
    port = network.proxy.proxy(**settings)
    assert NOT_ALLOWED == rep(network, settings, dst, port, source)
    (line,) = network.proxy.refusals()
    assert "is this proxy itself, no target of its own" in line


def test_nor_by_socks4(network):
    """SOCKS4 gets CD 91."""
    port = network.proxy.proxy(rule=["allow"])
    with Talk(network.proxy.connect("127.0.0.1", port)) as talk:
        assert 91 == talk.send(socks4(LAN, port)).receive(8)[1]


@pytest.mark.parametrize("own", [LAN, "127.0.0.1"])
def test_a_listener_has_its_own_address_only(network, own):
    """Another program at the same port of another address is reached."""
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(network.proxy.socket(socket.AF_INET))
        port = closed_port()  # the kernel's choice may be in use at the proxy's address
        other.bind((WAN, port))
        other.listen(1)
        rules = ["allow to self unspecified loopback", "allow"]
        settings = {"rule": rules, "listen": ["%s:%d" % (own, port)]}
        network.proxy.proxy(**settings)
        for dst, answer in [(WAN, OK), (own, NOT_ALLOWED), ("0.0.0.0", NOT_ALLOWED)]:
            with Talk(network.proxy.connect(own, port)) as talk:
                talk.send(GREETING).expect(b"\5\0").send(socks5(dst, port))
                assert answer == talk.receive_reply5()[0]


# The address that a NAT in front has


BEHIND_NAT = {"allow_lan": True, "public_address": [PUBLIC]}


def test_the_public_address_is_this_host(network):
    """A NAT that reflects leads back here, past the firewall, so it is refused like ``self``."""
    with Listening(network.outside) as nas:
        assert NOT_ALLOWED == rep(network, BEHIND_NAT, PUBLIC, nas.port)
        assert not nas.is_reached()
        opened = dict(BEHIND_NAT, rule=["allow from private to self port %d" % nas.port, "allow"])
        assert OK == rep(network, opened, PUBLIC, nas.port)
        assert PUBLIC == nas.reached()
        named = dict(BEHIND_NAT, rule=["allow to %s port %d" % (PUBLIC, nas.port), "allow"])
        assert OK == rep(network, named, PUBLIC, nas.port)


@pytest.mark.parametrize("source", ["127.0.0.1", CLIENT])
def test_the_proxy_is_not_reached_by_it(network, source):
    """Ports of the proxy at that address are no target, whatever the rules are."""
    settings = dict(BEHIND_NAT, rule=["allow to self", "allow to %s" % PUBLIC, "allow"])
    port = network.proxy.proxy(**settings)
    with Listening(network.outside, port) as reflected:
        assert NOT_ALLOWED == rep(network, settings, PUBLIC, port, source)
        assert not reflected.is_reached()


# On loopback


def asked(proxy, dst, port):
    """Ask *proxy* by SOCKS5; return REP."""
    with Talk.to(proxy.port) as talk:
        return talk.send(GREETING).expect(b"\5\0").send(socks5(dst, port)).receive_reply5()[0]


def test_a_listener_is_known_from_the_reload_that_opens_it_to_the_one_that_closes_it():
    """The table of listeners follows each reload by itself."""
    with run_proxy(rule=["allow"]) as proxy:
        first = proxy.config
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        proxy.reload(first._replace(listen=("127.0.0.1:%d" % proxy.port, "127.0.0.1:%d" % port)))
        assert [NOT_ALLOWED] * 2 == [asked(proxy, "127.0.0.1", p) for p in (proxy.port, port)]
        proxy.reload(first._replace(listen=("127.0.0.1:%d" % proxy.port,)))
        assert REFUSED == asked(proxy, "127.0.0.1", port)


def test_given_listeners_are_known_too():
    """Listeners from inetd, systemd or a program are."""
    with socket.socket() as given:
        given.bind(("127.0.0.1", 0))
        given.listen(5)
        port = given.getsockname()[1]
        with run_proxy(listeners=(given,)) as proxy:
            assert NOT_ALLOWED == asked(proxy, "127.0.0.1", port)


def test_two_proxies_may_be_chained():
    """Two proxies of one program are targets of each other."""
    with run_proxy() as outer, run_proxy() as inner, FakeTarget() as target:
        with Talk.to(outer.port) as talk:
            assert OK == talk.connect5("127.0.0.1", inner.port)[0]
            assert OK == talk.connect5("127.0.0.1", target.port)[0]
