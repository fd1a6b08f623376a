"""UDP by exits: an association at each hop, headers that nest, and answers that are judged here."""

import contextlib
import socket
import threading
import time

import pytest

from kit import inside
from kit.support import (
    GREETING,
    TIMEOUT,
    FakeTarget,
    address5,
    closed_port,
    no_descriptor_left,
    nothing_left,
    run_proxy,
    wait_until,
)
from kit.udp_client import (
    Associated,
    UdpTarget,
    associations,
    header,
    in_loop,
    put_in_force,
    udp_socket,
    wait_for_drops,
)
from minisocks.exits.state import EXIT_SECONDS
from minisocks.net.lookup import getaddrinfo_of
from minisocks.net.resolver import Resolver
from minisocks.service.status import as_prometheus, as_text, collect

OFFICE = "office = socks5h://127.0.0.1:%d"


def never(*args):
    """Look nothing up: a test in which a name leaves this host fails."""
    raise AssertionError("looked up")


class UdpHop(FakeTarget):
    """A SOCKS5 hop whose relay sends and receives what a test wants.

    Args:
        bnd: what its reply to UDP ASSOCIATE has as BND, by the port of its relay.
    """

    def __init__(self, bnd=lambda port: address5("127.0.0.1", port), rep=0):
        super().__init__(self._serve_client)
        self.relay = udp_socket("127.0.0.1")
        self.client = None
        self.asked = []
        self._bnd, self._rep = bnd, rep
        self.go_on = threading.Event()
        self.go_on.set()

    @property
    def exit(self):
        """The line of an exit by it."""
        return OFFICE % self.port

    def _serve_client(self, talk):
        talk.expect(GREETING).send(b"\x05\x00")
        self.asked.append(talk.receive(10))
        assert self.go_on.wait(TIMEOUT)
        bnd = self._bnd(self.relay.getsockname()[1])
        talk.send(b"\x05%c\x00" % self._rep + bnd)
        talk.rest()

    def receive(self):
        """Return the next datagram of the proxy."""
        data, self.client = self.relay.recvfrom(65536)
        return data

    def send(self, data):
        """Send *data* to the proxy."""
        self.relay.sendto(data, self.client)

    def __exit__(self, *exc):
        self.go_on.set()
        super().__exit__(*exc)
        self.relay.close()


@contextlib.contextmanager
def by_hop(rule="allow via office", hop=None, **settings):
    """A scripted hop, a proxy whose clients leave by it, and a client."""
    with hop or UdpHop() as hop, run_proxy(exit=[hop.exit], rule=[rule], **settings) as proxy:
        with Associated(proxy.port) as client:
            yield hop, proxy, client


def record_of(proxy):
    """Return the record of the only association."""
    # The client may have its reply before the association has begun.
    wait_until(lambda: associations(proxy), "the association")
    return inside.record(associations(proxy)[0])


@pytest.mark.parametrize("hops", [1, 2, 3])
@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_through_other_minisocks(scheme, hops, access_log):
    """Each is a hop of a chain; there and back, and only the last one reaches the target."""
    with contextlib.ExitStack() as stack:
        parents = [stack.enter_context(run_proxy()) for _ in range(hops)]
        urls = ", ".join("%s://127.0.0.1:%d" % (scheme, parent.port) for parent in parents)
        proxy = stack.enter_context(run_proxy(exit=["far = " + urls], rule=["allow via far"]))
        target = stack.enter_context(UdpTarget())
        with Associated(proxy.port) as client:
            client.expect_to_work(target)
            client.expect_to_work(target, b"again")
            ports = {sock.getsockname()[1] for sock in sockets_of(parents[-1])}
            assert target.source[1] in ports
            assert [1] * hops == [len(associations(parent)) for parent in parents]
        line = access_log.wait_for("datagrams_up=2 datagrams_down=2 secs")
        assert "up=10B down=10B" in line
        assert "exit=far" in access_log.wait_for("exit=far")
        for parent in parents:
            wait_until(lambda parent=parent: not len(parent), "the end at the hops")


def sockets_of(proxy):
    """Return the sockets to targets of all associations of *proxy*."""
    return [sock for one in associations(proxy) for sock in inside.target_sockets(one)]


def test_a_name_is_looked_up_by_the_hop():
    """No look-up leaves this host; the answer comes from an address that is not known here."""
    resolver = Resolver(getaddrinfo_of(lambda name: ["127.0.0.1"]))
    with run_proxy(resolver=resolver) as parent, UdpTarget() as target:
        exits = [OFFICE % parent.port]
        rule = ["allow via office"]
        with run_proxy(resolver=Resolver(never), exit=exits, rule=rule) as proxy:
            with Associated(proxy.port) as client:
                for text in (b"one", b"two"):
                    client.send(b"target.example", target.port, text)
                    target.expect(text).answer(text)
                    client.expect(target, text)


def test_a_name_that_is_looked_up_here():
    """For socks5, whose proxies get the address."""
    with by_hop(resolver=Resolver(getaddrinfo_of(lambda name: ["10.1.1.1"]))) as (hop, proxy, _):
        line = hop.exit.replace("socks5h", "socks5")
        proxy.reload(proxy.config._replace(exit=(line,)))
        with Associated(proxy.port) as client:
            client.send(b"target.example", 53, b"x")
            assert header("10.1.1.1", 53) + b"x" == hop.receive()


def test_what_waits_is_sent_in_order():
    """While the hop is asked; then at once."""
    hop = UdpHop()
    hop.go_on.clear()
    with by_hop(hop=hop) as (hop, proxy, client):
        for number in range(5):
            client.send("10.1.1.1", 53, b"%d" % number)
        wait_until(lambda: proxy.services.associations.held == 5, "that they wait")
        hop.go_on.set()
        for number in range(5):
            assert header("10.1.1.1", 53) + b"%d" % number == hop.receive()
        assert 0 == proxy.services.associations.held
        assert [b"\x05\x03\x00\x01\0\0\0\0\0\0"] == hop.asked


def test_a_reload_while_a_datagram_waits():
    """It leaves by the exit that the new rules name."""
    slow, other = UdpHop(), UdpHop()
    slow.go_on.clear()
    with other, by_hop(hop=slow) as (slow, proxy, client):
        client.send("10.1.1.1", 53, b"0")
        wait_until(lambda: slow.asked, "the request to the hop")
        exits = (slow.exit, other.exit.replace("office", "lab"))
        proxy.reload(proxy.config._replace(exit=exits, rule=("allow via lab",)))
        client.send("10.1.1.1", 53, b"1")
        other.relay.settimeout(EXIT_SECONDS / 2)  # not only when the old exit is given up
        for data in (b"0", b"1"):
            assert header("10.1.1.1", 53) + data == other.receive()


def test_too_many_wait():
    """Those beyond 64 are dropped and counted."""
    hop = UdpHop()
    hop.go_on.clear()
    with by_hop(hop=hop) as (hop, proxy, client):
        for number in range(70):
            client.send("10.1.1.1", 53, b"%d" % number)
        wait_for_drops(record_of(proxy), no_room=6)


def test_an_unspecified_bnd_is_the_hops_address():
    """Its port is that of the reply."""
    hop = UdpHop(lambda port: address5("0.0.0.0", port))
    with by_hop(hop=hop) as (hop, _proxy, client):
        client.send("10.1.1.1", 53, b"x")
        assert header("10.1.1.1", 53) + b"x" == hop.receive()


def answer(source, data=b"data", frag=0):
    """Return a datagram of a hop that names *source*."""
    return header(source[0], source[1], frag) + data


def test_only_sources_that_the_client_has_written_to():
    """From any port of that address; others, names and what is malformed are counted."""
    with by_hop() as (hop, proxy, client):
        client.send("10.1.1.1", 53, b"x")
        hop.receive()
        hop.send(answer(("10.1.1.1", 53)))
        assert ("10.1.1.1", 53, b"data") == client.receive()
        hop.send(answer(("10.1.1.1", 54)))
        assert ("10.1.1.1", 54, b"data") == client.receive()
        hop.send(answer(("10.1.1.2", 53)))
        wait_for_drops(record_of(proxy), unasked=1)
        hop.send(answer((b"ten.example", 53)))
        hop.send(b"\0\0\0")
        hop.send(b"")
        hop.send(b"\0\0\0\x01\x0a")
        hop.send(b"\0\0\0\x07" + bytes(20))
        hop.send(b"\0\0\0\x03\x00\0\0")
        wait_for_drops(record_of(proxy), unasked=1, malformed=6)
        hop.send(answer(("10.1.1.1", 53), frag=1))
        wait_for_drops(record_of(proxy), unasked=1, malformed=6, fragments=1)
        hop.send(b"\xff\xff\0" + answer(("10.1.1.1", 53))[3:])
        assert ("10.1.1.1", 53, b"data") == client.receive()


def test_only_the_relay_of_the_hop_counts():
    """The kernel drops what another socket sends."""
    with by_hop() as (hop, _proxy, client), udp_socket("127.0.0.1") as other:
        client.send("10.1.1.1", 53, b"x")
        hop.receive()
        with contextlib.suppress(ConnectionRefusedError):
            other.sendto(answer(("10.1.1.1", 53), b"forged"), hop.client)
        hop.send(answer(("10.1.1.1", 53), b"right"))
        assert ("10.1.1.1", 53, b"right") == client.receive()


def test_an_answer_for_a_name_comes_from_its_port():
    """Whatever its address is, which only the hop knows."""
    with by_hop() as (hop, proxy, client):
        client.send(b"target.example", 53, b"x")
        assert header(b"target.example", 53) + b"x" == hop.receive()
        hop.send(answer(("10.7.7.7", 53)))
        assert ("10.7.7.7", 53, b"data") == client.receive()
        hop.send(answer(("10.7.7.7", 54)))
        wait_for_drops(record_of(proxy), unasked=1)


def test_a_hop_does_not_answer_for_what_leaves_elsewhere():
    """A target that is reached directly answers directly only."""
    rules = ["allow to 10.0.0.0/8 via office", "allow"]
    with UdpHop() as hop, run_proxy(exit=[hop.exit], rule=rules) as proxy, UdpTarget() as target:
        with Associated(proxy.port) as client:
            client.expect_to_work(target)
            client.send("10.1.1.1", 53, b"x")
            hop.receive()
            hop.send(answer((target.host, target.port), b"forged"))
            wait_for_drops(record_of(proxy), unasked=1)


def test_endpoint_independent_filtering():
    """Then any source counts that the rules allow by this exit, but none of this host."""
    rule = "allow to 10.0.0.0/8 127.0.0.0/8 via office"
    with by_hop(rule=rule, udp_filtering="endpoint-independent") as (hop, proxy, client):
        client.send("10.1.1.1", 53, b"x")
        hop.receive()
        hop.send(answer(("10.1.1.2", 99)))
        assert ("10.1.1.2", 99, b"data") == client.receive()
        hop.send(answer(("11.1.1.2", 99)))
        wait_for_drops(record_of(proxy), denied=1)
        hop.send(answer(("127.0.0.1", 99)))
        wait_for_drops(record_of(proxy), denied=1, unasked=1)


def test_a_denied_target():
    """It is not sent; a reload is heeded."""
    rules = ("deny to 10.1.1.2", "allow via office")
    with by_hop() as (hop, proxy, client):
        client.send("10.1.1.2", 53, b"x")
        hop.receive()
        proxy.reload(proxy.config._replace(rule=rules))
        client.send("10.1.1.2", 53, b"x")
        wait_for_drops(record_of(proxy), denied=1)
        hop.send(answer(("10.1.1.2", 53)))
        wait_for_drops(record_of(proxy), denied=2)


def test_each_exit_has_its_own():
    """Two hops, and targets that leave directly, from one association."""
    with UdpHop() as one, UdpHop() as two, UdpTarget() as target:
        exits = [one.exit, two.exit.replace("office", "lab")]
        rules = ["allow to 10.1.0.0/16 via office", "allow to 10.2.0.0/16 via lab", "allow"]
        with run_proxy(exit=exits, rule=rules) as proxy, Associated(proxy.port) as client:
            client.send("10.1.0.1", 53, b"1").send("10.2.0.1", 53, b"2")
            assert header("10.1.0.1", 53) + b"1" == one.receive()
            assert header("10.2.0.1", 53) + b"2" == two.receive()
            client.expect_to_work(target)
            assert 2 == proxy.services.associations.upstreams == proxy.stats().upstreams
            status = collect(proxy, "runs")
            assert any("1 by UDP, with 2 at hops of exits" in line for line in as_text(status))
            assert "minisocks_upstreams_open 2" in as_prometheus(status)
            assert {"office", "lab"} == set(record_of(proxy).exit.split(","))
            client.close()
            wait_until(lambda: not proxy.services.associations.upstreams, "their end")


@pytest.mark.parametrize("kind", ["socks4", "socks4a", "http"])
def test_exits_without_udp(kind, access_log):
    """The datagram is dropped and counted, and the record has the reason; nothing is dialed."""
    exits = ["old = %s://127.0.0.1:1" % kind]
    with run_proxy(exit=exits, rule=["allow via old"]) as proxy, Associated(proxy.port) as client:
        assert 0 == client.rep
        client.send("10.1.1.1", 53, b"x").send("10.1.1.1", 53, b"y").send(b"a.example", 53, b"z")
        wait_for_drops(record_of(proxy), not_sent=3)
        client.close()
        assert "exit old is no chain of SOCKS5 proxies" in access_log.wait_for("why=")


def test_the_next_exit_after_one_without_udp():
    """It is not tried at all."""
    with UdpHop() as hop:
        exits = ["old = http://127.0.0.1:1", hop.exit]
        with run_proxy(exit=exits, rule=["allow via old or office"]) as proxy:
            with Associated(proxy.port) as client:
                client.send("10.1.1.1", 53, b"x")
                assert header("10.1.1.1", 53) + b"x" == hop.receive()


@pytest.mark.parametrize("rep", [None, 1, 7])
def test_the_next_exit_after_one_that_fails(rep):
    """What has waited leaves by the next one: it is down, or refuses UDP."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(UdpHop(rep=rep or 0))
        port = first.port if rep else closed_port()
        target = stack.enter_context(UdpTarget())
        exits, rules = [OFFICE % port], ["allow via office or direct"]
        proxy = stack.enter_context(run_proxy(exit=exits, rule=rules))
        client = stack.enter_context(Associated(proxy.port))
        client.expect_to_work(target)
        # A refusal of UDP is no failure of the exit, by which connections may still leave.
        assert bool(proxy.services.exits.error_of("office")) == (rep is None)


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 400\r\n", b"\x05\x00\x00" + address5("0.0.0.0", 0)]
)
def test_a_hop_that_does_not_know_udp_is_no_exit_that_fails(said):
    """Connections of other clients leave by it as before: ssh -D only closes."""

    def script(talk):
        talk.expect(GREETING).send(b"\x05\x00")
        talk.receive(10)
        talk.send(said)

    with FakeTarget(script) as hop, UdpTarget() as target:
        settings = {"exit": [OFFICE % hop.port], "rule": ["allow via office or direct"]}
        with run_proxy(**settings) as proxy, Associated(proxy.port) as client:
            client.expect_to_work(target)
            assert "" == proxy.services.exits.error_of("office")
            assert "exit office" in record_of(proxy).why


def test_an_exit_that_fails_is_told_and_tried_again(access_log):
    """Its datagrams are dropped meanwhile."""
    port = closed_port()
    with run_proxy(exit=[OFFICE % port], rule=["allow via office"]) as proxy:
        with Associated(proxy.port) as client:
            client.send("10.1.1.1", 53, b"x")
            wait_for_drops(record_of(proxy), not_sent=1)
            client.send("10.1.1.1", 53, b"x")
            wait_for_drops(record_of(proxy), not_sent=2)
            with FakeTarget(silent_hop) as hop:
                proxy.reload(proxy.config._replace(exit=(OFFICE % hop.port,)))
                wait_until(lambda: client.send("10.1.1.1", 53, b"x") and hop.talks, "a new try")
                client.close()
        assert "exit office: socks5h://127.0.0.1" in access_log.wait_for("why=")


def silent_hop(talk):
    """Answer nothing."""
    talk.rest()


def test_the_hop_ends_its_association():
    """The next datagram makes it anew, after a second at first."""
    with by_hop() as (hop, proxy, client):
        client.send("10.1.1.1", 53, b"x")
        hop.receive()
        hop.talks[0].sock.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: not proxy.services.associations.upstreams, "the end")
        wait_until(lambda: client.send("10.1.1.1", 53, b"y") and len(hop.asked) == 2, "a new one")
        assert header("10.1.1.1", 53) + b"y" == hop.receive()
        hop.send(answer(("10.1.1.1", 53)))
        assert ("10.1.1.1", 53, b"data") == client.receive()


def test_idle_timeout_closes_it():
    """As the sockets to targets; then it is made anew at once."""
    with by_hop(idle_timeout=1) as (hop, proxy, client):
        client.send("10.1.1.1", 53, b"x")
        hop.receive()
        wait_until(lambda: not proxy.services.associations.upstreams, "the end")
        client.send("10.1.1.1", 53, b"y")
        assert header("10.1.1.1", 53) + b"y" == hop.receive()


@pytest.mark.soak
def test_nothing_is_left():
    """Whatever state it is in when the client leaves, or the proxy stops."""
    for ends in ("client", "proxy"):
        for waits in (True, False):
            with nothing_left():
                hop = UdpHop()
                if waits:
                    hop.go_on.clear()
                with by_hop(hop=hop) as (hop, proxy, client):
                    client.send("10.1.1.1", 53, b"x")
                    wait_until(lambda hop=hop: hop.asked, "the request")
                    table = proxy.services.associations
                    if ends == "client":
                        client.close()
                        wait_until(lambda table=table: not table.upstreams, "the end")
                    else:
                        proxy.stop(0)
                    assert (0, 0, 0) == (table.held, table.upstreams, table.targets)


@pytest.mark.parametrize(
    "bnd, why",
    [
        (lambda port: address5("0.0.0.0", 0), "no address for datagrams"),
        (lambda port: address5("224.0.0.251", port), "no address for datagrams"),
        (lambda port: address5("::ffff:224.0.0.251", port), "no address for datagrams"),
        (lambda port: address5(b"x.example", port), "has a name as address"),
        (lambda port: b"\x09", "its reply is not valid"),
    ],
)
def test_replies_that_are_of_no_use(bnd, why, access_log):
    """A sentence for each."""
    with by_hop(hop=UdpHop(bnd)) as (_hop, proxy, client):
        client.send("10.1.1.1", 53, b"x")
        wait_for_drops(record_of(proxy), not_sent=1)
        client.close()
        assert why in access_log.wait_for("why=")


def test_a_direct_exit_has_its_own_source():
    """And a socket of its own, beside that without."""
    exits = ["lan2 = direct source 127.0.0.7"]
    with UdpTarget() as one, UdpTarget() as two:
        rules = ["allow to 127.0.0.1 port %d via lan2" % one.port, "allow"]
        with run_proxy(exit=exits, rule=rules) as proxy, Associated(proxy.port) as client:
            client.expect_to_work(one)
            assert "127.0.0.7" == one.source[0]
            client.expect_to_work(two)
            assert "127.0.0.1" == two.source[0]
            assert "lan2" == record_of(proxy).exit


def test_the_source_that_the_client_has_reached():
    """Its exit has ``source same``."""
    exits = ["same-way = direct source same"]
    with UdpTarget() as target, run_proxy(
        listen=("127.0.0.5:0",), exit=exits, rule=["allow via same-way"]
    ) as proxy, Associated(proxy.port, "127.0.0.5") as client:
        client.expect_to_work(target)
        assert "127.0.0.5" == target.source[0]


def test_several_ports_of_a_client():
    """An answer by a hop goes to the port that has written to that target last."""
    with by_hop(udp_clients="any-port") as (hop, _proxy, client):
        with udp_socket("127.0.0.1") as second:
            client.send("10.1.1.1", 53, b"x")
            hop.receive()
            second.sendto(header(b"a.example", 99) + b"y", client.place)
            hop.receive()
            hop.send(answer(("10.1.1.1", 53)))
            assert ("10.1.1.1", 53, b"data") == client.receive()
            hop.send(answer(("10.9.9.9", 99)))
            assert answer(("10.9.9.9", 99)) == second.recv(100)


def test_a_chain_by_a_scripted_second_hop():
    """The first header names the second relay; answers with another one are dropped."""
    with UdpHop() as second, run_proxy() as first:
        exits = ["far = socks5://127.0.0.1:%d, socks5h://127.0.0.1:%d" % (first.port, second.port)]
        with run_proxy(exit=exits, rule=["allow via far"]) as proxy:
            with Associated(proxy.port) as client:
                client.send(b"target.example", 53, b"x")
                assert header(b"target.example", 53) + b"x" == second.receive()
                second.send(answer(("10.1.1.1", 53)))
                assert ("10.1.1.1", 53, b"data") == client.receive()
                with udp_socket("127.0.0.1") as other:
                    # The first hop lets it pass, because it has the address of the second one.
                    other.sendto(answer(("10.1.1.1", 53)), second.client)
                wait_for_drops(record_of(proxy), malformed=1)


def test_a_second_hop_with_a_bad_name_leaves_no_socket(access_log):
    """Its relay cannot be named to the first hop; no garbage collection is needed."""

    def script(talk):
        talk.expect(GREETING).send(b"\x05\x00")
        if talk.receive(10)[1] == 3:
            talk.send(b"\x05\x00\x00" + address5("127.0.0.1", 9))
        else:
            talk.send(b"\x05\x00\x00" + address5("127.0.0.1", 9))
            talk.expect(GREETING).send(b"\x05\x00").receive(10)
            talk.send(b"\x05\x00\x00" + address5(b"bad name", 9))
        talk.rest()

    with nothing_left(), FakeTarget(script) as hop:
        exits = ["far = socks5h://127.0.0.1:%d, socks5h://10.9.9.9:1080" % hop.port]
        with run_proxy(exit=exits, rule=["allow via far"]) as proxy:
            with Associated(proxy.port) as client:
                client.send("10.1.1.1", 53, b"x")
                wait_for_drops(record_of(proxy), not_sent=1)
            assert "bad name" in access_log.wait_for("end=client-fin")


def test_rate():
    """Datagrams by a hop are paid for as others are, in both directions."""
    with by_hop(rate=20000) as (hop, _proxy, client):
        client.send("10.1.1.1", 53, b"the first")
        hop.receive()
        began = time.monotonic()
        for _ in range(40):
            client.send("10.1.1.1", 53, bytes(500))
        for _ in range(40):
            hop.receive()
        up = time.monotonic() - began
        for _ in range(40):
            hop.send(answer(("10.1.1.1", 53), bytes(500)))
        for _ in range(40):
            client.receive()
        down = time.monotonic() - began - up
        assert min(up, down) > 0.3


def test_the_hook_is_asked_and_no_name_is_looked_up():
    """Whatever leaves by an exit that looks names up."""
    asked = []

    def authorize(request):
        asked.append(request.host)
        return request.host != "bad.example"

    with by_hop(resolver=Resolver(never), authorize=authorize) as (hop, proxy, client):
        client.send(b"good.example", 53, b"x").send(b"bad.example", 53, b"y")
        client.send("10.1.1.1", 53, b"z")
        got = {hop.receive(), hop.receive()}
        assert {header(b"good.example", 53) + b"x", header("10.1.1.1", 53) + b"z"} == got
        wait_for_drops(record_of(proxy), denied=1)
        assert ["0.0.0.0", "10.1.1.1", "bad.example", "good.example"] == sorted(asked)


def test_the_hook_is_asked_before_a_name_is_looked_up_here():
    """Where the first exit has no UDP, and the next one is this host."""
    rules = ["allow via old or direct"]
    resolver = Resolver(getaddrinfo_of(lambda name: ["127.0.0.1"]))
    settings = {"exit": ["old = http://127.0.0.1:1"], "rule": rules, "resolver": resolver}
    with UdpTarget() as target, run_proxy(authorize=lambda request: True, **settings) as proxy:
        with Associated(proxy.port) as client:
            client.send(b"target.example", target.port, b"x")
            target.expect(b"x")


def test_the_hook_is_asked_once_while_an_exit_opens():
    """Not for each datagram that waits."""
    asked = []
    hop = UdpHop()
    hop.go_on.clear()
    with by_hop(hop=hop, authorize=lambda request: not asked.append(request)) as (hop, _, client):
        client.send("10.1.1.1", 53, b"0")
        wait_until(lambda: hop.asked, "the request to the hop")
        for number in range(1, 9):
            client.send("10.1.1.1", 53, b"%d" % number)
        time.sleep(0.1)
        hop.go_on.set()
        assert [b"%d" % number for number in range(9)] == [hop.receive()[10:] for _ in range(9)]
        assert ["0.0.0.0", "10.1.1.1"] == [request.host for request in asked]


def test_the_hook_is_not_asked_while_no_exit_is_tried(monkeypatch):
    """After a failure only the next try asks it again."""
    monkeypatch.setattr("minisocks.udp.byexits.PASSED_OVER_SECONDS", 0.5)
    asked = []
    hop = UdpHop(rep=1)
    with by_hop(hop=hop, authorize=lambda request: not asked.append(request)) as made:
        hop, proxy, client = made
        client.send("10.1.1.1", 53, b"x")
        wait_for_drops(record_of(proxy), not_sent=1)
        count = len(asked)
        for number in range(2, 9):
            client.send("10.1.1.1", 53, b"x")
            wait_for_drops(record_of(proxy), not_sent=number)
        assert len(asked) == count <= 3
        hop._rep = 0
        hop.relay.settimeout(0.1)

        def arrives():
            client.send("10.1.1.1", 53, b"y")
            with contextlib.suppress(socket.timeout):
                return hop.receive() == header("10.1.1.1", 53) + b"y"

        wait_until(arrives, "the next try")
        assert len(asked) == count + 1


def test_too_large_for_its_headers():
    """One that has room for one header less is dropped and counted."""
    with by_hop() as (hop, proxy, client):
        client.send("10.1.1.1", 53, bytes(65400))
        assert 65410 == len(hop.receive())


def test_any_bytes_of_a_hop():
    """Nothing that a hop sends ends the association."""
    import random

    dice = random.Random(19)
    with by_hop() as (hop, proxy, client):
        client.send("10.1.1.1", 53, b"x")
        hop.receive()
        for number in range(300):
            hop.send(bytes(dice.randrange(0, 6) for _ in range(number % 60)))
            if number % 50 == 49:
                # One that is answered, so that no more wait than a socket has room for.
                last = b"last %d" % number
                hop.send(answer(("10.1.1.1", 53), last))
                while client.receive()[2] != last:
                    pass


class Own:
    """Stands for the addresses of this host: those of ``here``."""

    def __init__(self, *here):
        self._here = [socket.inet_aton(text) for text in here]

    def __call__(self, ip, scope=0):
        return ip in self._here

    def changes(self):
        """Return the number of changes: none."""
        return 0


def test_a_hop_does_not_aim_at_this_host(access_log):
    """Its relay address is this host's, but the hop is another host."""
    hop = UdpHop(lambda port: address5("127.0.0.9", port))
    with by_hop(hop=hop) as (hop, proxy, client):
        put_in_force(proxy.services, own=Own("127.0.0.9"))
        client.send("10.1.1.1", 53, b"x")
        wait_for_drops(record_of(proxy), not_sent=1)
        client.close()
        assert "is this host" in access_log.wait_for("why=")


def test_a_hop_on_this_host_has_its_relay_here():
    """Also at another address of it."""
    with by_hop() as (hop, proxy, client):
        put_in_force(proxy.services, own=Own("127.0.0.1", "127.0.0.9"))
        client.send("10.1.1.1", 53, b"x")
        assert header("10.1.1.1", 53) + b"x" == hop.receive()


@pytest.mark.parametrize("host", ["127.0.0.1", "::ffff:127.0.0.1"])
def test_a_hop_does_not_lead_back(host):
    """Its relay address is that of the client itself: a datagram would go round for ever."""
    hop = UdpHop(lambda port: address5(host, client.port))
    with hop, run_proxy(
        exit=[hop.exit], rule=["allow via office"], udp_clients="any-port"
    ) as proxy, Associated(proxy.port) as client:
        client.send("10.1.1.1", 53, b"x")
        wait_for_drops(record_of(proxy), not_sent=1)
        assert "of this proxy itself" in record_of(proxy).why


def test_a_hop_at_a_unix_socket(tmp_path):
    """It has UDP if its reply names an address."""
    path = str(tmp_path / "s")
    with run_proxy(listen=("unix:" + path,)) as parent, UdpTarget() as target:
        line = "office = socks5+unix://" + path
        with run_proxy(exit=[line], rule=["allow via office"]) as proxy:
            with Associated(proxy.port) as client:
                # A minisocks at a unix socket does not know its client's address.
                client.send_to(target, b"x")
                wait_for_drops(record_of(proxy), not_sent=1)
                assert "REP 07" in record_of(proxy).why
            assert parent


def test_the_name_of_a_hop_is_looked_up_here():
    """Its capitals are no matter; a name without address ends it."""
    names = {"hop.example": ["127.0.0.1"]}

    def resolve(name):
        if name in names:
            return names[name]
        raise OSError("no such name")

    resolver = Resolver(getaddrinfo_of(resolve))
    with UdpHop() as hop:
        lines = ["office = socks5://Hop.Example:%d" % hop.port, "lab = socks5://none.example:1080"]
        rules = ["allow to 10.1.0.0/16 via office", "allow via lab"]
        with run_proxy(resolver=resolver, exit=lines, rule=rules) as proxy:
            with Associated(proxy.port) as client:
                client.send("10.1.1.1", 53, b"x")
                assert header("10.1.1.1", 53) + b"x" == hop.receive()
                client.send("10.2.1.1", 53, b"x")
                wait_for_drops(record_of(proxy), not_sent=1)
                assert "the name of a hop is not resolved" in record_of(proxy).why


def test_several_exits_at_the_limit():
    """An association gives its own up, which it has used less lately."""
    with contextlib.ExitStack() as stack:
        hops = [stack.enter_context(UdpHop()) for _ in range(3)]
        exits = [hop.exit.replace("office", "hop%d" % number) for number, hop in enumerate(hops)]
        rules = ["allow to 10.%d.0.0/16 via hop%d" % (number, number) for number in range(3)]
        settings = {"exit": exits, "rule": rules, "max_associations": 2}
        proxy = stack.enter_context(run_proxy(**settings))
        client = stack.enter_context(Associated(proxy.port))
        for number, hop in enumerate(hops):
            client.send("10.%d.1.1" % number, 53, b"x")
            assert header("10.%d.1.1" % number, 53) + b"x" == hop.receive()
        assert 2 == proxy.services.associations.upstreams


def test_what_only_receives_is_not_given_up():
    """A datagram of a hop counts as use, too."""
    with UdpHop() as hop, UdpHop() as other:
        exits = [hop.exit, other.exit.replace("office", "lab")]
        rules = ["allow to 10.1.0.0/16 via office", "allow via lab"]
        with run_proxy(exit=exits, rule=rules, max_associations=3) as proxy:
            with contextlib.ExitStack() as stack:
                clients = [stack.enter_context(Associated(proxy.port)) for _ in range(3)]
                for client in clients:
                    client.send("10.1.1.1", 53, b"x")
                    hop.receive()
                    if client is clients[0]:
                        first = hop.client
                hop.relay.sendto(answer(("10.1.1.1", 53)), first)
                clients[0].receive()
                clients[2].send("10.2.1.1", 53, b"x")  # there is no room for a fourth one
                other.receive()
                hop.relay.sendto(answer(("10.1.1.1", 53)), first)
                assert ("10.1.1.1", 53, b"data") == clients[0].receive()


@pytest.mark.usefixtures("other_networks")
def test_a_descriptor_is_needed():
    """Then it is closed at once, as sockets to targets are; the next datagram opens it again."""
    with UdpHop() as hop, run_proxy(
        exit=[hop.exit], rule=["allow via office"]
    ) as proxy, Associated(proxy.port, source="127.0.0.2") as client:
        client.send("10.1.1.1", 53, b"x")
        hop.receive()
        table = proxy.services.associations
        assert in_loop(proxy, table.take_back)
        assert 0 == table.upstreams
        client.send("10.1.1.1", 53, b"y")
        assert header("10.1.1.1", 53) + b"y" == hop.receive()


def test_no_descriptor_for_the_hop():
    """The datagram is dropped, and a later one leaves."""
    with by_hop() as (hop, proxy, client):
        record = record_of(proxy)
        with no_descriptor_left():
            client.send("10.1.1.1", 53, b"x")
            wait_until(lambda: record.datagrams.drops, "the drop")
        wait_until(lambda: client.send("10.1.1.1", 53, b"y") and hop.asked, "a new try")
        assert header("10.1.1.1", 53) + b"y" == hop.receive()


def test_the_hop_vanishes(monkeypatch):
    """Found out as for clients."""
    with by_hop() as (hop, proxy, client):
        client.send("10.1.1.1", 53, b"x")
        hop.receive()
        monkeypatch.setattr("minisocks.udp.upstream.has_vanished", lambda sock: True)
        in_loop(proxy, lambda: [proxy.services.loop.tell_all("look_after_peers")])
        assert 0 == proxy.services.associations.upstreams
        assert "a hop has vanished" in record_of(proxy).why


def test_replies_byte_by_byte():
    """However TCP cuts them."""
    hop = UdpHop()
    serve = hop.script

    def script(talk):
        talk.send = talk.send_bytewise
        serve(talk)

    hop.script = script
    with by_hop(hop=hop) as (hop, _proxy, client):
        client.send("10.1.1.1", 53, b"x")
        assert header("10.1.1.1", 53) + b"x" == hop.receive()


@pytest.mark.parametrize(
    "answer_of_hook, rule", [("office", "allow"), ("direct", "allow via office")]
)
def test_the_hook_names_the_exit(answer_of_hook, rule):
    """Instead of that of the rules; answers come back by it."""
    resolver = Resolver(getaddrinfo_of(lambda name: ["127.0.0.1"]))
    with UdpHop() as hop, UdpTarget() as target:
        settings = {"exit": [hop.exit], "rule": [rule], "resolver": resolver}

        def authorize(request):
            return answer_of_hook

        with run_proxy(authorize=authorize, **settings) as proxy:
            with Associated(proxy.port) as client:
                if answer_of_hook == "direct":
                    client.expect_to_work(target)
                    client.send(b"target.example", target.port, b"x")
                    target.expect(b"x")
                else:
                    client.send("10.1.1.1", 53, b"x").send(b"target.example", 53, b"y")
                    wanted = {header("10.1.1.1", 53) + b"x", header(b"target.example", 53) + b"y"}
                    assert wanted == {hop.receive(), hop.receive()}
                    hop.send(answer(("10.1.1.1", 53)))
                    assert ("10.1.1.1", 53, b"data") == client.receive()


def test_names_that_a_hop_may_take_for_others():
    """They are not sent, and another target still is."""
    with by_hop() as (hop, proxy, client):
        for name in (b"b\\097d.example", b"127.0.0.1.", b"a b.example"):
            client.send(name, 53, b"x")
        client.send(b"good.example", 53, b"y")
        assert header(b"good.example", 53) + b"y" == hop.receive()
        drops = record_of(proxy).datagrams.drops
        assert 3 == sum(drops.values()), drops
