"""No datagram of a client elsewhere gets where its connections do not: in no form of an address.

The clients and the trap have addresses of every kind: loopback on the proxies' host, the others
on another one.  The trap hears what comes to its port by any of them, so "it was not
reached" is certain; that the forms do arrive where they are allowed proves it.
"""

import select
import socket

import pytest

from kit import inside
from kit import namespace as net
from kit.elsewhere import HERE4, HERE6
from kit.forms import LINK_LOCAL, NOWHERE, PRIVATE, PUBLIC, SYSTEM_NAMES, THIS_HOST
from kit.support import GREETING, TIMEOUT, Talk, run_proxy, wait_until
from kit.udp_client import Associated, UdpTarget, associations, in_loop

#: Groups that datagrams of any other program might be in.
MULTICAST = [
    "224.0.0.1", "239.255.255.250", "ff02::1", "ff05::2", "::ffff:224.0.0.251",
    b"224.0.0.1", b"0xe0000001", b"ff02::fb", b"::ffff:239.1.2.3",
]  # fmt: skip

#: One datagram to all hosts of a network.
BROADCAST = [
    "255.255.255.255", "127.255.255.255", "::ffff:255.255.255.255",
    b"255.255.255.255", b"0xffffffff", b"4294967295", b"127.255.255.255",
]  # fmt: skip

#: Settings that admit every client, and do not name what is this host's own.
OPENINGS = {
    "open": {"open": True},
    "rule": {"rule": ["allow"]},
    "rule for udp": {"rule": ["allow command udp to 0.0.0.0/0 ::/0 .test .localhost localhost"]},
}

REMOTE = [net.PRIVATE4, net.PUBLIC4, net.PRIVATE6, net.PUBLIC6]
LOCAL = [net.LOOPBACK4, net.LOOPBACK6]


class Trap(UdpTarget):
    """Receives whatever comes to its port, on every address of both hosts."""

    def __init__(self, here):
        self._socks = here.sockets_everywhere(socket.SOCK_DGRAM)
        for sock in self._socks:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        self.host, self.port = self._socks[0].getsockname()[:2]
        #: The socket of the last datagram, and control data about the address it came to.
        self.sock, self._reached = self._socks[0], []

    def receive(self):
        """Return what the next datagram holds."""
        ready, _, _ = select.select(self._socks, (), (), TIMEOUT)
        assert ready, "nothing came"
        self.sock = ready[0]
        data, self._reached, _, self.source = self.sock.recvmsg(65536, socket.CMSG_SPACE(20))
        return data

    def answer(self, data):
        """Send *data* to the sender of the last datagram, from the address that it came to."""
        self.sock.sendmsg([data], self._reached, 0, self.source)
        return self

    def expect_nothing(self):
        """Demand that nothing is there; for when all that could come must have come."""
        for sock in self._socks:
            self.sock = sock
            super().expect_nothing()

    def close(self):
        for sock in self._socks:
            sock.close()

    def __exit__(self, *exc):
        self.close()


@pytest.fixture
def trap(here):
    """What must not be reached, or must."""
    with Trap(here) as running:
        yield running


def associate(here, source, **settings):
    """Return an association of a client at *source*."""
    sock = here.socket(source, socket.SOCK_DGRAM)
    sock.settimeout(TIMEOUT)
    sock.bind((source, 0))
    port = here.proxy(**settings)
    talk = Talk(here.connect(source, port)).send(GREETING).expect(b"\x05\x00")
    return Associated(port, talk=talk, sock=sock)


def assert_dropped(here, trap, client, dst, why=("denied",)):
    """Have a datagram for *dst* be dropped, and one for a public address be the first to come."""
    client.send(dst, trap.port, b"trapped")
    wait_until(lambda: "drops" in str(here.associations()), "a drop")
    (drops,) = [association["drops"] for association in here.associations()]
    assert [1] == list(drops.values())
    assert set(drops) <= set(why), drops
    for public in (net.PUBLIC4, net.PUBLIC6):
        client.send(public, trap.port, b"allowed")
        trap.expect(b"allowed")
    trap.expect_nothing()


@pytest.mark.parametrize("opening", sorted(OPENINGS))
@pytest.mark.parametrize("dst", THIS_HOST + LINK_LOCAL + PRIVATE + MULTICAST, ids=repr)
def test_a_public_client_reaches_nothing_that_is_inside(here, trap, dst, opening):
    """Loopback, unspecified, link-local, metadata, private, multicast: in every form."""
    with associate(here, net.PUBLIC4, **OPENINGS[opening]) as client:
        assert_dropped(here, trap, client, dst)


@pytest.mark.parametrize("source", [net.PRIVATE4, net.PRIVATE6])
@pytest.mark.parametrize("dst", THIS_HOST + LINK_LOCAL + MULTICAST, ids=repr)
def test_a_private_client_reaches_nothing_of_this_host(here, trap, dst, source):
    """The same, but for its own kind of network."""
    with associate(here, source, open=True) as client:
        assert_dropped(here, trap, client, dst)


@pytest.mark.parametrize("dst", [d for d in PRIVATE + PUBLIC if d not in NOWHERE], ids=repr)
def test_a_private_client_reaches_its_own_kind(here, trap, dst):
    """It reaches the Internet, too, and answers find their way back."""
    with associate(here, net.PRIVATE4, open=True) as client:
        client.send(dst, trap.port, b"there")
        trap.expect(b"there").answer(b"back")
        assert (trap.port, b"back") == client.receive()[1:]


@pytest.mark.parametrize(
    "dst",
    [dst for dst in THIS_HOST + LINK_LOCAL + PRIVATE if dst not in set(NOWHERE) | SYSTEM_NAMES],
    ids=repr,
)
@pytest.mark.parametrize("source", LOCAL)
def test_those_forms_do_arrive_when_allowed(here, trap, dst, source):
    """A client on this host reaches all of them, which proves the tests above."""
    with associate(here, source) as client:
        client.send(dst, trap.port, b"there")
        trap.expect(b"there")


@pytest.mark.parametrize("source", LOCAL + REMOTE)
@pytest.mark.parametrize("dst", BROADCAST, ids=repr)
def test_no_client_broadcasts(here, trap, dst, source):
    """Neither a client that is denied it, nor one that is allowed all: no such call is made."""
    with associate(here, source, open=True) as client:
        assert_dropped(here, trap, client, dst, ("denied", "not sent"))


def test_no_socket_may_broadcast(here):
    """The option is off at each socket that an association has."""
    with run_proxy() as proxy, Associated(proxy.port) as client:
        with UdpTarget() as target, UdpTarget("::1") as target6:
            client.expect_to_work(target).expect_to_work(target6)
            (job,) = associations(proxy)
            socks = in_loop(proxy, lambda: [inside.relay_socket(job)] + inside.target_sockets(job))
            assert [0] * 3 == [s.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST) for s in socks]


def test_a_name_that_changes_is_judged_each_time_it_is_looked_up(here, trap):
    """A datagram goes to the address that was judged, whatever the name has by then."""
    here.asked()
    with associate(here, net.PUBLIC4, open=True) as client:
        for _ in range(3):
            client.send(b"rebind.test", trap.port, b"x")
            trap.expect(b"x")
    assert ["rebind.test"] == here.asked()
    trap.expect_nothing()


@pytest.mark.parametrize("name", [b"denied-first.test", b"denied-last.test", b"mixed.test"])
def test_of_several_addresses_only_the_allowed_are_written_to(here, trap, name):
    """A name has loopback, private and public addresses: the public one is written to."""
    with associate(here, net.PUBLIC4, open=True) as client:
        client.send(name, trap.port, b"x")
        trap.expect(b"x").answer(b"y")
        assert (net.PUBLIC4, trap.port, b"y") == client.receive()
        trap.expect_nothing()


PUBLIC_ADDRESSES = ("198.51.100.77", "2001:db8:77::1")


@pytest.mark.parametrize("source", LOCAL + REMOTE)
def test_only_clients_elsewhere_get_the_public_address(here, trap, source):
    """BND.ADDR is what a NAT in front shows; on this host nothing is in between."""
    settings = {"open": True, "public_address": list(PUBLIC_ADDRESSES)}
    reached = HERE6 if ":" in source else HERE4
    with associate(here, source, **settings) as client:
        assert (source if source in LOCAL else PUBLIC_ADDRESSES[":" in source]) == client.bnd
        client.bnd = source if source in LOCAL else reached  # what the NAT would make of it
        client.send(net.PUBLIC4, trap.port, b"there")
        trap.expect(b"there").answer(b"back")
        assert (net.PUBLIC4, trap.port, b"back") == client.receive()


def test_without_one_of_its_family_a_client_gets_the_real_one(here):
    """An IPv4 client can do nothing with an IPv6 address."""
    settings = {"open": True, "public_address": [PUBLIC_ADDRESSES[1]]}
    with associate(here, net.PRIVATE4, **settings) as client:
        assert HERE4 == client.bnd
    with associate(here, net.PRIVATE6, **settings) as client:
        assert PUBLIC_ADDRESSES[1] == client.bnd
