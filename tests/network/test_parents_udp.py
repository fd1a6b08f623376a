"""UDP and BIND by proxies of others, to hosts that the proxy's host has no way to."""

import contextlib
import socket

import pytest

from kit import parents
from kit.bind_client import Waiting
from kit.parents import BEYOND4, FAR4, MIDDLE4, TARGET4, TARGET6, Place
from kit.support import GREETING, TIMEOUT, Talk, closed_port, wait_until
from kit.udp_client import Associated, UdpTarget

pytestmark = pytest.mark.others

KINDS = [parents.dante, parents.minisocks]


@pytest.fixture(scope="module")
def network():
    """The three hosts."""
    with parents.made_for_tests() as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_is_looked_up(network):
    """As ``network.without_look_ups`` demands."""
    with network.without_look_ups():
        yield


@contextlib.contextmanager
def proxy_by(network, *starts, login=False, scheme="socks5h"):
    """Yield the port of a proxy whose exit is a parent in the middle, and one on the last host."""
    places = [
        Place(network.parent, MIDDLE4, closed_port(), "target"),
        Place(network.target, TARGET4, closed_port(), "lo"),
    ]
    with contextlib.ExitStack() as stack:
        urls = []
        for start, place in zip(starts, places):
            stack.enter_context(start(network, place, login))
            user = "%s:%s@" % (parents.USER, parents.PASSWORD) if login else ""
            urls.append("%s://%s%s:%d" % (scheme, user, place.address, place.port))
        network.listens(MIDDLE4, places[0].port)
        if len(urls) > 1:
            wait_until(lambda: answers(network, places[1].port), "the second parent")
        yield network.proxy.new_proxy(
            listen=["127.0.0.1:0"], exit=["x = " + ", ".join(urls)], rule=["allow via x"]
        )


def answers(network, port):
    """Return whether the second parent listens."""
    try:
        network.target.connect(TARGET4, port).close()
    except OSError:
        return False
    return True


class Client(Associated):
    """A client on the proxy's host that has an association."""

    def __init__(self, network, port):
        sock = network.proxy.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(TIMEOUT)
        sock.bind(("127.0.0.1", 0))
        talk = Talk(network.proxy.connect("127.0.0.1", port))
        talk.send(GREETING).expect(b"\x05\x00")
        super().__init__(port, talk=talk, sock=sock)


class Target(UdpTarget):
    """A target on the last host."""

    def __init__(self, network, host):
        self.sock = network.target.socket(parents.family_of(host), socket.SOCK_DGRAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.bind((host, 0))
        self.host, self.port = host, self.sock.getsockname()[1]
        self.source = None


def expect_to_work(client, target, name=None):
    """Have a datagram go to *target*, by *name* if there is one, and back."""
    client.send(name or target.host, target.port, b"there")
    target.expect(b"there").answer(b"back")
    client.expect(target, b"back")


@pytest.mark.parametrize("login", [False, True], ids=["open", "password"])
@pytest.mark.parametrize("start", KINDS)
def test_udp(start, login, network):
    """By address, and by a name that only the parent can resolve."""
    with proxy_by(network, start, login=login) as port, Target(network, TARGET4) as target:
        with Client(network, port) as client:
            for name in (None, b"four.example", None, b"four.example"):
                expect_to_work(client, target, name)
                assert BEYOND4 == target.source[0]


def test_udp_to_an_ipv6_target(network):
    """The header for the hop has the address of the target, whatever the hop is reached by."""
    with proxy_by(network, parents.minisocks) as port, Target(network, TARGET6) as target:
        with Client(network, port) as client:
            expect_to_work(client, target)
            expect_to_work(client, target, b"six.example")


@pytest.mark.parametrize("second", KINDS)
@pytest.mark.parametrize("first", KINDS)
def test_udp_by_a_chain(first, second, network):
    """To an address that not even the first parent has a way to."""
    with proxy_by(network, first, second) as port, Target(network, FAR4) as target:
        with Client(network, port) as client:
            expect_to_work(client, target)
            expect_to_work(client, target, b"far.example")


class Waits(Waiting):
    """A client on the proxy's host that waits for a peer."""

    def __init__(self, network, port, dst):
        super().__init__(network.proxy.connect("127.0.0.1", port), dst)


@pytest.mark.parametrize("scheme", ["socks5h", "socks4"])
@pytest.mark.parametrize("start", KINDS)
def test_bind(start, scheme, network):
    """The parent listens where the peer can connect to."""
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(proxy_by(network, start, scheme=scheme))
        client = stack.enter_context(Waits(network, port, TARGET4))
        assert 0 == client.rep
        assert client.host in (BEYOND4, MIDDLE4)
        with Talk(network.target.connect(TARGET4, client.port, BEYOND4)) as peer:
            client.expect_peer(peer)
            client.expect_to_work(peer)


def test_bind_by_a_chain(network):
    """The last one listens; its peer is on its own host."""
    with proxy_by(network, parents.dante, parents.minisocks) as port:
        with Waits(network, port, TARGET4) as client:
            assert 0 == client.rep
            with Talk(network.target.connect(TARGET4, client.port, TARGET4)) as peer:
                client.expect_peer(peer)
                client.expect_to_work(peer)
