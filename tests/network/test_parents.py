"""Exits by proxies of others: each reaches a target that the proxy's host has no way to.

What each parent is asked, what it says, and what the client gets.  ``kit.parents`` has the
network and the programs.
"""

import contextlib
import hashlib
import os
import socket
import threading

import pytest

from kit import parents
from kit.parents import FAR4, MIDDLE4, TARGET4, TARGET6, Place
from kit.support import (
    GREETING,
    REJECTED4,
    FakeTarget,
    Talk,
    closed_port,
    failure5,
    socks4,
    socks4a,
    socks5,
    wait_until,
)

pytestmark = pytest.mark.others

SIZE = 1 << 20
#: Exit status of curl for a refusal by the proxy.
PROXY_FAILED = 97


class Running:
    """A parent that runs, and a proxy whose exit ``x`` it is.

    Attributes:
        refusal: the REP that the client gets where the target refuses connections.
        target: the target as it can be asked for; a name if the parent takes one.
    """

    def __init__(self, network, url, refusal=0):
        self.network, self.url, self.refusal = network, url, refusal
        self.target = TARGET4 if url.startswith("socks4:") else b"four.example"
        self.port = self.proxy("x = " + url)

    def proxy(self, *lines, rule="allow via x", **settings):
        """Return the port of a proxy on loopback with these exits."""
        return self.network.proxy.new_proxy(
            listen=["127.0.0.1:0"], exit=list(lines), rule=[rule], **settings
        )

    def talk(self, port=None):
        """Return a connection to the proxy."""
        return Talk(self.network.proxy.connect("127.0.0.1", port or self.port))


#: Each program, the schemes that it speaks, and the REP for a target that refuses.
KINDS = [
    (parents.microsocks, "socks5h", 5),
    (parents.dante, "socks5h", 5),
    (parents.dante, "socks4", 1),
    (parents.tinyproxy, "http", 1),
    (parents.squid, "http", 1),
    (parents.ssh, "socks5h", 1),
    (parents.ssh, "socks4a", 1),
    (parents.minisocks, "socks5h", 5),
    (parents.minisocks, "socks4a", 1),
]
WITH_LOGIN = [kind for kind in KINDS if kind[0] is not parents.ssh and "socks4" not in kind[1]]


def id_of(kind):
    """Name a parent in the id of a test."""
    return "%s-%s" % (kind[0].__name__, kind[1])


@pytest.fixture(scope="module")
def network():
    """The three hosts."""
    with parents.made_for_tests() as made:
        yield made


@contextlib.contextmanager
def started(network, start, login=False, is_last=False):
    """A parent in the middle, or on the last host; yields HOST:PORT."""
    host, address, out = network.parent, MIDDLE4, "target"
    if is_last:
        host, address, out = network.target, TARGET4, "lo"
    if start is parents.ssh:
        host, address, out = network.proxy, "127.0.0.1", ""
    place = Place(host, address, closed_port(), out)
    with start(network, place, login):
        if not is_last:
            network.listens(address, place.port)
        yield "%s:%d" % (address, place.port)


@pytest.fixture(scope="module", params=KINDS, ids=id_of)
def parent(request, network):
    """Each parent, in turn."""
    start, scheme, refusal = request.param
    with started(network, start) as place:
        yield Running(network, "%s://%s" % (scheme, place), refusal)


@pytest.fixture(autouse=True)
def nothing_is_looked_up(network):
    """As ``network.without_look_ups`` demands."""
    with network.without_look_ups():
        yield


def page(talk):
    """Answer one request of HTTP with the address that it comes from."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = talk.sock.recv(4096)
        if not more:
            return
        data += more
    peer = talk.sock.getpeername()[0].encode()
    talk.send(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n" + peer).finish()
    talk.rest()


@contextlib.contextmanager
def site(network, script=page):
    """A target on the last host, at every address of it."""
    sock = network.target.socket(parents.family_of(TARGET6))
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    with FakeTarget(script, "::", sock) as target:
        yield target


def curl(network, port, url, *options):
    """Return exit status and output of curl on the proxy's host."""
    return network.proxy.run(
        parents.program("curl"), "-sS", "-m", "30", "--noproxy", "", *options, url
    )


@pytest.mark.parametrize("host", ["four.example", "six.example", TARGET4, "[%s]" % TARGET6])
def test_curl_gets_a_page(parent, host):
    """By a name that only the parent can resolve, and by addresses."""
    if parent.url.startswith("socks4:") and "example" in host:
        pytest.skip("it takes addresses only")
    network = parent.network
    with site(network) as target:
        socks = "socks5h://127.0.0.1:%d" % parent.port
        url = "http://%s:%d/" % (host, target.port)
        status, output = curl(network, parent.port, url, "-x", socks)
    is_carried = "socks4" not in parent.url or not host.startswith("[")
    assert (0 if is_carried else PROXY_FAILED) == status, output
    if is_carried:
        is_six = host in ("six.example", "[%s]" % TARGET6)
        assert (parents.BEYOND6 if is_six else "::ffff:" + parents.BEYOND4) == output


def test_this_host_has_no_way_there(network):
    """Or else the other tests would show nothing."""
    with site(network) as target:
        port = network.proxy.new_proxy(listen=["127.0.0.1:0"], rule=["allow"])
        for host in (TARGET4, TARGET6, FAR4):
            with Talk(network.proxy.connect("127.0.0.1", port)) as talk:
                assert 3 == talk.connect5(host, target.port)[0]


class Exchange:
    """SIZE bytes up and down at once, both sides beginning without waiting for the other."""

    def __init__(self):
        self.up, self.down = os.urandom(SIZE), os.urandom(SIZE)

    def target(self, talk):
        """Be the target, which says in the end what it has got."""
        sending = _sending(talk, self.down)
        got = talk.receive(SIZE)
        sending.join()
        talk.send(hashlib.sha256(got).digest())
        talk.rest()

    def client(self, talk, host, port):
        """Be the client: greeting, request and data are sent at once."""
        up = GREETING + socks5(host, port) + self.up
        sending = _sending(talk, up)
        talk.expect(b"\5\0")
        assert 0 == talk.receive_reply5()[0]
        got = talk.receive(SIZE)
        assert hashlib.sha256(self.down).digest() == hashlib.sha256(got).digest()
        sending.join()
        talk.expect(hashlib.sha256(self.up).digest())


def _sending(talk, data):
    """Return a thread that sends *data*; the other side may have left."""

    def send():
        with contextlib.suppress(OSError):
            talk.send(data)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_no_byte_is_lost(parent):
    """Of what the client sends before the reply, and the target right behind it."""
    exchange = Exchange()
    with site(parent.network, exchange.target) as target, parent.talk() as talk:
        exchange.client(talk, parent.target, target.port)


def test_what_a_target_refuses(parent):
    """The parent's answer reaches the client, and tells nothing against the exit."""
    port = closed_port()
    with parent.talk() as talk:
        talk.send(GREETING).expect(b"\5\0").send(socks5(parent.target, port))
        assert failure5(parent.refusal) == talk.rest()
    lines = parent.network.proxy.logged()
    assert 1 == len(lines), lines
    assert "exit x: " + parent.url in lines[0]
    with parent.talk() as talk:
        message = (
            socks4(TARGET4, port) if parent.target == TARGET4 else socks4a(b"four.example", port)
        )
        assert REJECTED4 == talk.send(message).rest()


def test_a_name_that_the_parent_does_not_know(parent):
    """It is asked for there only."""
    if parent.url.startswith("socks4:"):
        pytest.skip("it takes addresses only")
    with parent.talk() as talk:
        assert talk.connect5(b"none.example", 80)[0]
        talk.rest()
    names = [name for asked in parent.network.looked_up_elsewhere for name, _kind in asked]
    assert "none.example" in names


@pytest.mark.parametrize("kind", WITH_LOGIN, ids=id_of)
def test_login(network, kind):
    """With the right password, a wrong one and none."""
    start, scheme, _refusal = kind
    with started(network, start, login=True) as place, site(network) as target:
        words = []
        for login in ("ann:secret@", "ann:wrong@", ""):
            running = Running(network, "%s://%s%s" % (scheme, login, place))
            url = "http://four.example:%d/" % target.port
            socks = "socks5h://127.0.0.1:%d" % running.port
            words.append(curl(network, running.port, url, "-x", socks))
            if login != "ann:secret@":
                with running.talk() as talk:
                    talk.send(GREETING).expect(b"\5\0")
                    talk.send(socks5(b"four.example", target.port))
                    assert failure5(1) == talk.rest()
                (line,) = network.proxy.refusals()[-1:]
                assert "x: %s://%s: it " % (scheme, place) in line
                assert "password" in line
                assert "secret" not in line
                assert "wrong" not in line
    assert (0, "::ffff:" + parents.BEYOND4) == words[0]
    assert [PROXY_FAILED] * 2 == [status for status, _output in words[1:]]


CHAINS = [
    (parents.microsocks, "socks5h", parents.dante, "socks5h"),
    (parents.dante, "socks4", parents.squid, "http"),
    (parents.tinyproxy, "http", parents.microsocks, "socks5"),
    (parents.squid, "http", parents.minisocks, "socks4a"),
    (parents.ssh, "socks5h", parents.tinyproxy, "http"),
    (parents.minisocks, "socks5", parents.microsocks, "socks5h"),
]


@pytest.mark.parametrize("chain", CHAINS, ids=lambda c: "%s-%s" % (c[0].__name__, c[2].__name__))
def test_chains(network, chain):
    """Of two different parents, to an address that only the second one reaches."""
    first, scheme, second, scheme2 = chain
    exchange = Exchange()
    with contextlib.ExitStack() as stack:
        url = "%s://%s" % (scheme, stack.enter_context(started(network, first)))
        place2 = stack.enter_context(started(network, second, is_last=True))
        running = Running(network, "%s, %s://%s" % (url, scheme2, place2))
        target = stack.enter_context(site(network, exchange.target))
        wait_until(lambda: is_reached(network, running.port, target.port), "the chain")
        host = FAR4 if scheme2 == "socks5" else b"far.example"
        with running.talk() as talk:
            exchange.client(talk, host, target.port)
        network.proxy.logged()
        dead = Running(network, "%s, socks5://%s:%d" % (url, TARGET4, closed_port()))
        with dead.talk() as talk:
            assert 1 == talk.connect5(FAR4, target.port)[0]
        (line,) = network.proxy.refusals()
    assert "exit x: %s" % url in line


def is_reached(network, proxy, port):
    """Return whether the exit of the proxy leads to the target."""
    with Talk(network.proxy.connect("127.0.0.1", proxy)) as talk:
        return talk.connect5(FAR4, port)[0] == 0


def test_haproxy_reaches_its_server_by_this_proxy(network):
    """HAProxy speaks SOCKS4 to this proxy, which asks another parent."""
    with started(network, parents.microsocks) as place, site(network) as target:
        running = Running(network, "socks5h://" + place)
        port = closed_port()
        server = "%s:%d" % (TARGET4, target.port)
        with parents.haproxy(network, port, server, running.port):
            url = "http://127.0.0.1:%d/" % port
            assert (0, "::ffff:" + parents.BEYOND4) == curl(network, port, url)


def test_tor_without_a_network_refuses(network):
    """Its refusals reach the client as they are; it is asked for the name."""
    port = closed_port()
    with parents.tor(network, port):
        running = Running(network, "socks5h://127.0.0.1:%d isolate" % port)
        for host in (TARGET4, b"four.example"):
            with running.talk() as talk:
                talk.send(GREETING).expect(b"\5\0").send(socks5(host, 80))
                answer = talk.rest()
            assert answer in (failure5(1), failure5(4), failure5(6))
            (line,) = network.proxy.refusals()
            assert "answers: " in line
            assert "(REP %02x)" % answer[1] in line


@pytest.mark.soak
def test_a_thousand_chained_connections_leave_nothing(network):
    """However they end: in order, by a reset at any time, refused by the target or by a hop."""
    folder = "/proc/%d/fd" % network.proxy.pid
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(started(network, parents.microsocks))
        second = stack.enter_context(started(network, parents.dante, is_last=True))
        target = stack.enter_context(site(network))
        lines = ["x = socks5h://%s, socks5h://%s" % (first, second)]
        lines += ["bad = socks5h://%s, socks5h://%s:1" % (first, TARGET4)]
        rules = ["allow to .bad via bad", "allow via x"]
        port = network.proxy.new_proxy(listen=["127.0.0.1:0"], exit=lines, rule=rules)

        def come(name, rep, leave):
            with Talk(network.proxy.connect("127.0.0.1", port)) as talk:
                talk.send(GREETING).expect(b"\5\0").send(socks5(name, target.port))
                if rep is not None:
                    assert rep == talk.receive_reply5()[0]
                leave(talk)

        def come_all():
            come(b"far.example", 0, Talk.close)
            come(b"far.example", 0, Talk.reset)
            come(b"far.example", None, Talk.reset)
            come(b"none.example", 4, Talk.rest)
            come(b"four.bad", 1, Talk.rest)

        wait_until(lambda: is_reached(network, port, target.port), "the chain")
        come_all()
        wait_until(lambda: network.proxy.connections() == 0, "the end of all connections")
        before = len(os.listdir(folder))
        for _ in range(200):
            come_all()
        wait_until(lambda: network.proxy.connections() == 0, "the end of all connections")
        wait_until(lambda: len(os.listdir(folder)) <= before, "the descriptors back")
        network.proxy.logged()  # else it grows beyond what one answer can hold
