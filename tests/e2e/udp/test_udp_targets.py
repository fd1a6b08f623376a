"""What is asked once for a target of datagrams, and remembered: names and rules."""

import contextlib
import errno
import socket
import threading
import time

import pytest

from kit import inside
from kit.support import TIMEOUT, run_proxy, wait_until
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
from minisocks.errors import DialError
from minisocks.net.dialer import MAX_ADDRESSES
from minisocks.net.lookup import NAME_SECONDS
from minisocks.net.resolver import Resolver
from minisocks.policy.client import Client
from minisocks.policy.rules import Rules
from minisocks.udp.association import Association
from minisocks.udp.names import MAX_LOOKUPS, MAX_WAITING
from minisocks.udp.table import KEPT_ENTRIES, LEAST_ENTRIES, TARGET_BYTES
from minisocks.wire import Address, Atyp, Rep

V4, V6 = "127.0.0.1", "::1"


class Names:
    """A resolver's ``getaddrinfo``: knows a table, and holds ``slow`` names until ``go_on``."""

    def __init__(self, **table):
        self.table = {name.encode() + b".test": found for name, found in table.items()}
        self.asked = []
        self.slow, self.go_on = threading.Event(), threading.Event()

    def __call__(self, host, port, *args):
        self.asked.append(host)
        if host.startswith(b"slow"):
            self.slow.set()
            assert self.go_on.wait(TIMEOUT)
        found = self.table.get(host)
        if found is None:
            raise socket.gaierror(socket.EAI_NONAME, "no such host")
        rows = []
        for address in found:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            sockaddr = (address, port) + ((0, 0) if family == socket.AF_INET6 else ())
            rows.append((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", sockaddr))
        return rows


@contextlib.contextmanager
def proxy_with(names, **settings):
    """A proxy that asks *names*."""
    resolver = Resolver(names)
    try:
        with run_proxy(resolver=resolver, **settings) as proxy:
            yield proxy
    finally:
        names.go_on.set()
        resolver.close()


# Names


@pytest.mark.rfc("RFC 1928 section 7", "DST.ADDR is IPv4, IPv6 or a name.")
def test_a_name_is_asked_for_once(target):
    """All associations share the answer, whatever the port; the reply has the address."""
    names = Names(a=[V4])
    with proxy_with(names) as proxy, UdpTarget() as other:
        for _ in range(2):
            with Associated(proxy.port) as client:
                for each in (target, other, target):
                    client.send(b"a.test", each.port, b"ask")
                    each.expect(b"ask").answer(b"answer")
                    client.expect(each, b"answer")
    assert [b"a.test"] == names.asked


def test_a_name_has_the_first_address_that_can_be_written_to(target):
    """An address that no rule allows, and one without a route, come before it here."""
    names = Names(a=["127.0.0.8", "255.255.255.255", V4])
    with proxy_with(names, rule=("deny to 127.0.0.8", "allow")) as proxy:
        with Associated(proxy.port) as client, UdpTarget("127.0.0.8", target.port) as denied:
            for _ in range(3):
                client.send(b"a.test", target.port, b"x")
                target.expect(b"x")
            denied.expect_nothing()


@pytest.fixture
def decisions(monkeypatch):
    """Return the addresses that the rules are asked about."""
    asked, decide = [], Rules.decide

    def counting(self, client, ver, cmd, dst, ip, scope=0):
        asked.append(ip)
        return decide(self, client, ver, cmd, dst, ip, scope)

    monkeypatch.setattr(Rules, "decide", counting)
    return asked


@pytest.mark.parametrize(
    "rules, why",
    [(("deny to 2001:db8::/32", "allow"), "denied"), (("allow",), "not_sent")],
    ids=["denied", "unreachable"],
)
def test_a_name_of_many_addresses_costs_the_loop_little(rules, why, target, decisions, monkeypatch):
    """Sixteen are judged for the first datagram, and none for the next ones."""
    socket_for = Association.socket_for

    def without_ipv6(self, size):
        if size == 16:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        return socket_for(self, size)

    monkeypatch.setattr(Association, "socket_for", without_ipv6)
    names = Names(many=["2001:db8::%x" % n for n in range(1, 200)])
    with proxy_with(names, rule=rules) as proxy, Associated(proxy.port) as client:
        client.expect_to_work(target)
        del decisions[:]
        for count in range(1, 6):
            client.send(b"many.test", 9, b"x")
            wait_for_drops(proxy.records[-1], **{why: count})
        assert MAX_ADDRESSES == len(set(decisions)) == len(decisions) == 16
        client.expect_to_work(target)
    assert [b"many.test"] == names.asked


def test_an_address_of_the_other_family_is_not_behind_all_of_one(target):
    """Families alternate, so the working one is not last: here there is no IPv6."""
    names = Names(many=["2001:db8::%x" % n for n in range(1, 99)] + [V4])
    with proxy_with(names, source=(V4,), rule=("allow",)) as proxy:
        with Associated(proxy.port) as client:
            client.send(b"many.test", target.port, b"x")
            target.expect(b"x")


def test_a_name_that_could_not_be_written_to_is_tried_again(target, monkeypatch):
    """The next datagram has it tried again, and its answers are heard."""
    socket_for, has_room = Association.socket_for, threading.Event()

    def failing(self, size):
        if not has_room.is_set():
            raise OSError(errno.EMFILE, "no descriptor")
        return socket_for(self, size)

    monkeypatch.setattr(Association, "socket_for", failing)
    names = Names(a=[V4, "127.0.0.2"])
    with proxy_with(names) as proxy, Associated(proxy.port) as client:
        for count in range(1, 4):
            client.send(b"a.test", target.port, b"lost")
            wait_for_drops(proxy.records[-1], not_sent=count)
        has_room.set()
        for _ in range(2):
            client.send(b"a.test", target.port, b"x")
            target.expect(b"x").answer(b"y")
            client.expect(target, b"y")
        assert 2 == proxy.records[-1].datagrams.up


def test_no_address_is_kept_because_the_network_takes_nothing_just_now(target, monkeypatch):
    """The next datagram goes to the address with a route, and not to the first of the name."""
    socket_for, is_busy = Association.socket_for, threading.Event()

    def busy(self, size):
        if is_busy.is_set() and size == 4:
            raise OSError(errno.ENOBUFS, "no buffer")
        return socket_for(self, size)

    monkeypatch.setattr(Association, "socket_for", busy)
    names = Names(a=["2001:db8::1", V4])  # by --source there is no IPv6
    with proxy_with(names, source=(V4,), rule=("allow",)) as proxy:
        with Associated(proxy.port) as client:
            is_busy.set()
            client.send(b"a.test", target.port, b"lost")
            wait_for_drops(proxy.records[-1], no_room=1)
            is_busy.clear()
            client.send(b"a.test", target.port, b"x")
            target.expect(b"x")


def test_datagrams_wait_for_a_name_and_others_do_not(target):
    """A slow name holds up its own datagrams, in order, and no others."""
    names = Names(slow=[V4], quick=[V4])
    with proxy_with(names) as proxy, UdpTarget() as other:
        with Associated(proxy.port) as client, Associated(proxy.port) as second:
            for number in range(3):
                client.send(b"slow.test", target.port, b"%d" % number)
            assert names.slow.wait(TIMEOUT)
            client.expect_to_work(other)
            second.expect_to_work(other)
            client.send(b"quick.test", other.port, b"quick")
            other.expect(b"quick")
            assert 3 == in_loop(proxy, lambda: proxy.services.associations.held)
            target.expect_nothing()
            names.go_on.set()
            for number in range(3):
                target.expect(b"%d" % number)
            assert 0 == in_loop(proxy, lambda: proxy.services.associations.held)
    assert [b"quick.test", b"slow.test"] == sorted(names.asked)


def test_what_waits_for_a_name_is_of_the_port_that_has_written_it(target):
    """The answer goes to the port that asked, though another one has written since."""
    names = Names(slow=[V4])
    with proxy_with(names, udp_clients="any-port") as proxy, UdpTarget() as second:
        with Associated(proxy.port) as client, udp_socket(V4) as other:
            client.send(b"slow.test", target.port, b"first")
            assert names.slow.wait(TIMEOUT)
            first, client.sock = client.sock, other
            client.expect_to_work(second)
            names.go_on.set()
            target.expect(b"first").answer(b"answer")
            client.sock = first
            client.expect(target, b"answer")


def test_few_datagrams_wait_for_a_name(target):
    """Datagrams above the limit are dropped, and the first ones are sent."""
    names = Names(slow=[V4])
    with proxy_with(names) as proxy, UdpTarget() as other, Associated(proxy.port) as client:
        for number in range(MAX_WAITING + 5):
            client.send(b"slow.test", target.port, b"%d" % number)
        client.expect_to_work(other)
        wait_for_drops(proxy.records[-1], no_room=5)
        names.go_on.set()
        for number in range(MAX_WAITING):
            target.expect(b"%d" % number)
        client.send(b"slow.test", target.port, b"last")
        target.expect(b"last")


def test_bytes_that_wait_for_names_are_bounded(target, other_networks):
    """For all names together, a network has half of the room."""
    names = Names()
    with proxy_with(names) as proxy, contextlib.ExitStack() as stack:
        exchange, clients = proxy.services.associations, []
        for number in range(2):
            source = "127.2.0.%d" % (1 + number)
            client = stack.enter_context(Associated(proxy.port, source=source))
            clients.append(client)
            for number in range(MAX_LOOKUPS):
                client.send(b"slow%d.test" % number, target.port, b"x" * 40000)
                client.expect_to_work(target)  # else the relay socket's queue would be full
        held = in_loop(proxy, lambda: exchange.held)
        most = inside.held_datagrams(exchange).most
        assert abs(held - most // 2) <= 40000 // 2
        clients[0].close()
        wait_until(lambda: len(proxy) == 1)
        assert in_loop(proxy, lambda: exchange.held) < held
        names.go_on.set()
        wait_until(lambda: exchange.held == 0)


def test_few_names_are_looked_up_for_one_association(target):
    """Datagrams for further names are dropped; targets by address are written to all the same."""
    names = Names()
    with proxy_with(names) as proxy, Associated(proxy.port) as client:
        for number in range(MAX_LOOKUPS + 7):
            client.send(b"slow%d.test" % number, target.port, b"x")
        client.expect_to_work(target)
        assert {"no room": 7} == proxy.records[-1].datagrams.drops


def test_a_name_that_fails_is_not_asked_for_again_at_once(target):
    """Its datagrams are dropped, the log has the reason, and the association lives."""
    names = Names()
    with proxy_with(names) as proxy, Associated(proxy.port) as client:
        (record,) = proxy.records
        for number in range(1, 6):
            client.send(b"nowhere.test", target.port, b"x")
            wait_for_drops(record, no_address=number)
        client.expect_to_work(target)
        assert "nowhere.test" in record.why
    assert [b"nowhere.test"] == names.asked


def test_a_name_is_looked_up_again_in_time(target):
    """Then it may have another address; targets by address are remembered on."""
    names = Names(a=[V4])
    with proxy_with(names) as proxy, Associated(proxy.port) as client:
        client.expect_to_work(target)
        client.send(b"a.test", target.port, b"one")
        target.expect(b"one")
        with UdpTarget("127.0.0.2", target.port) as moved:
            names.table[b"a.test"] = ["127.0.0.2"]
            client.send(b"a.test", target.port, b"two")
            target.expect(b"two")
            (job,) = associations(proxy)
            timer = inside.names_timer(inside.routes(job))
            ways = len(inside.routes(job).mappings.ways)
            inside.replace_clock(proxy.services.answers, lambda: time.monotonic() + NAME_SECONDS)
            in_loop(proxy, lambda: (timer.callback(), timer.cancel()))
            assert ways - 1 == len(inside.routes(job).mappings.ways)
            client.send(b"a.test", target.port, b"three")
            moved.expect(b"three")
            client.expect_to_work(target)
    assert [b"a.test"] * 2 == names.asked


def test_what_was_looked_up_for_targets_that_are_forgotten_is_not_missed(target):
    """An answer that comes just when all targets are forgotten, as idle ones are, ends nothing."""
    names = Names(slow=[V4])
    with proxy_with(names) as proxy, Associated(proxy.port) as client:
        client.send(b"slow.test", target.port, b"lost")
        assert names.slow.wait(TIMEOUT)
        client.expect_to_work(target)

        def at_once():
            (job,) = associations(proxy)
            (lookup,) = inside.lookups(inside.routes(job))
            lookup.callback(DialError("no such host", Rep.HOST_UNREACHABLE))
            job.free_targets()
            # And the client asks for it again.
            dst = Address(b"slow.test", target.port, Atyp.DOMAINNAME)
            inside.routes(job).send(
                header(b"slow.test", target.port), dst, b"new", inside.client_ports(job).last
            )

        in_loop(proxy, at_once)
        names.go_on.set()
        target.expect(b"new")
        client.expect_to_work(target)
        assert {"no room": 1} == proxy.records[-1].datagrams.drops


def test_what_a_failing_name_was_asked_for_is_not_kept():
    """Of datagrams to a name without address none stays in memory, however many they are."""
    with run_proxy(resolver=Resolver(lambda *_: [])) as proxy, Associated(proxy.port) as client:
        client.send(b"gone.test", 9, b"x")
        wait_for_drops(proxy.records[-1], no_address=1)
        for _ in range(20):
            client.send(b"gone.test", 9, b"x" * 1000)
        wait_for_drops(proxy.records[-1], no_address=21)
        outcome = proxy.services.answers.get(b"gone.test")
    assert isinstance(outcome, DialError)
    assert None is outcome.__traceback__


def test_targets_just_written_to_are_heard_however_full_it_is(proxy):
    """There is no room to remember more: a target written to just now may still answer."""
    exchange = proxy.services.associations

    class Others:
        """What is known of the targets of this client's other associations: all that fits."""

        entries = 256

    def fill():
        inside.shares(exchange)[1].most = 256
        exchange.remember(Others(), Client((V4, 1)), 256)

    with contextlib.ExitStack() as stack, Associated(proxy.port) as client:
        in_loop(proxy, fill)
        targets = [stack.enter_context(UdpTarget("127.0.0.%d" % n)) for n in range(1, 13)]
        for target in targets:
            client.send_to(target, b"x")
        for target in targets:
            target.expect(b"x").answer(b"y")
            client.expect(target, b"y")
        assert exchange.targets - 256 < 2 * KEPT_ENTRIES


def test_the_client_with_most_targets_makes_room(proxy, other_networks):
    """Many targets of one client do not have answers to another client dropped."""
    exchange = proxy.services.associations
    with contextlib.ExitStack() as stack:
        in_loop(proxy, lambda: setattr(inside.shares(exchange)[1], "most", 600))
        sources = ("127.2.0.2", "127.2.0.3", "127.3.0.1")
        *greedy, client = [stack.enter_context(Associated(proxy.port, source=s)) for s in sources]
        for one in greedy:
            for n in range(1, 100):
                one.send("127.0.1.%d" % n, 9, b"")
        wait_until(lambda: exchange.targets >= 590)
        targets = [stack.enter_context(UdpTarget("127.0.0.%d" % n)) for n in range(1, 61)]
        for target in targets:
            client.send_to(target, b"x")
        for target in targets:
            target.expect(b"x").answer(b"y")
            client.expect(target, b"y")


def test_many_associations_without_room_keep_little_each(proxy):
    """The least that each must keep takes no memory from others, however many there are."""
    exchange, pipes = proxy.services.associations, proxy.services.loop.pipes
    with contextlib.ExitStack() as stack:
        most = 128
        in_loop(proxy, lambda: setattr(inside.shares(exchange)[1], "most", most))
        clients = [stack.enter_context(Associated(proxy.port)) for _ in range(100)]
        for client in clients:
            for n in range(1, 22):
                client.send("127.0.1.%d" % n, 9, b"")
        wait_until(lambda: sum(r.datagrams.up for r in proxy.live if r.datagrams) == 2100)
        assert most < exchange.targets < 100 * 4 * LEAST_ENTRIES
        assert most * TARGET_BYTES == pipes.pending_bytes
    wait_until(lambda: pipes.pending_bytes == exchange.targets == 0)


# Rules


def test_rules_are_asked_once_for_a_target(target):
    """Yes and no are remembered until the rules change."""
    asked = []
    rule = "deny command udp to 127.0.0.7"
    with run_proxy(rule=(rule, "allow")) as proxy, Associated(proxy.port) as client:
        services = proxy.services
        rules = services.access.rules

        class Counting:
            def decide(self, client, ver, cmd, dst, ip, scope):
                asked.append((dst.name, ver, int(cmd)))
                return rules.decide(client, ver, cmd, dst, ip, scope)

            def __getattr__(self, name):
                return getattr(rules, name)

        put_in_force(services, rules=Counting())
        for _ in range(3):
            client.send("127.0.0.7", target.port, b"x")
            client.expect_to_work(target)
        assert {"denied": 3} == proxy.records[-1].datagrams.drops
        assert "rule 1 denies" in proxy.records[-1].why
    assert [("127.0.0.7", 5, 3), (V4, 5, 3), (V4, 5, 3)] == asked  # there and back


def test_a_reload_has_the_rules_asked_again(target):
    """In both directions: allowed targets may be denied from then on, and denied ones allowed."""
    names = Names(a=["127.0.0.7"])
    with proxy_with(names) as proxy, Associated(proxy.port) as client:
        with UdpTarget("127.0.0.7", target.port) as other:
            for name, drops in ("127.0.0.7", 2), (b"a.test", 4):
                client.expect_to_work(target).expect_to_work(other)
                client.send(name, other.port, b"x")
                other.expect(b"x")
                proxy.reload(proxy.config._replace(rule=("deny to 127.0.0.7", "allow")))
                client.send(name, other.port, b"denied")
                other.answer(b"denied")
                wait_for_drops(proxy.records[-1], denied=drops)
                proxy.reload(proxy.config._replace(rule=("allow",)))
                client.send(name, other.port, b"again")
                other.expect(b"again").answer(b"back")
                client.expect(other, b"back")
        assert {"denied": 4} == proxy.records[-1].datagrams.drops


def test_a_name_s_address_is_held_against_the_rules(target):
    """An address that no rule allows is not written to, by whatever name."""
    names = Names(a=["127.0.0.7"], b=[V4])
    with proxy_with(names, rule=("deny to 127.0.0.7 .c.test", "allow")) as proxy:
        with Associated(proxy.port) as client, UdpTarget("127.0.0.7", target.port) as denied:
            for host in (b"a.test", b"127.0.0.7", "::ffff:127.0.0.7", b"127.7", b"x.c.test"):
                client.send(host, target.port, b"x")
            client.send(b"b.test", target.port, b"y")
            target.expect(b"y")
            denied.expect_nothing()
            wait_for_drops(proxy.records[-1], denied=5)
    assert [b"a.test", b"b.test"] == names.asked  # what is denied by name is not looked up


@pytest.mark.parametrize(
    "rules, rep",
    [
        (("allow command connect",), 2),
        (("deny command udp", "allow"), 2),
        (("allow command udp",), 0),
        (("allow command udp to 192.0.2.1",), 0),
        (("deny command udp to 192.0.2.1", "allow"), 0),
        (("allow command udp port 53",), 0),
    ],
    ids=str,
)
def test_an_association_needs_a_rule_that_allows_some_target(rules, rep):
    """REP 02 where no target could be allowed; else it is granted, and each target is judged."""
    with run_proxy(rule=rules) as proxy, Associated(proxy.port) as client:
        assert rep == client.rep
        if rep:
            wait_until(lambda: proxy.records[-1].end)
            assert "UDP_ASSOCIATE" in proxy.records[-1].why


def test_rules_for_udp_are_for_udp(target):
    """``command connect`` allows no datagram, ``port`` only those that it names."""
    rules = ("allow command connect", "allow command udp port %d" % target.port)
    with run_proxy(rule=rules) as proxy, UdpTarget() as other, Associated(proxy.port) as client:
        client.send_to(other, b"denied")
        client.expect_to_work(target)
        assert {"denied": 1} == proxy.records[-1].datagrams.drops
        other.expect_nothing()


# What is remembered


def test_thousands_of_targets_may_answer_late(proxy):
    """Peers of a torrent do: each is heard, though it answers after all were written to."""
    peers = ["127.1.%d.%d" % divmod(number, 250) for number in range(250, 3250)]
    with Associated(proxy.port) as client:
        with UdpTarget("0.0.0.0") as all_of_them:
            for host in peers:
                client.send(host, all_of_them.port, b"question")
                all_of_them.expect(b"question")
        for host in peers:
            with UdpTarget(host, all_of_them.port) as peer:
                peer.source = all_of_them.source
                peer.answer(b"answer")
                client.expect(peer, b"answer")
        assert {} == proxy.records[-1].datagrams.drops


def test_not_all_targets_are_remembered(target):
    """Of very many the last are known, and one that is written to all the time."""
    with run_proxy(memory_limit=4 << 20) as proxy, Associated(proxy.port) as client:
        most = inside.shares(proxy.services.associations)[1].most
        for number in range(most):
            client.send("127.1.%d.%d" % divmod(number, 256), 9, b"x")
            if number % 50 == 0:
                client.expect_to_work(target)
                assert proxy.services.associations.targets <= most + 8
        client.expect_to_work(target)
        assert 0 < proxy.services.associations.targets
        client.close()
        wait_until(lambda: len(proxy) == 0)
        assert 0 == proxy.services.associations.targets


# Which targets are heard


class Own:
    """Decides about all addresses whether they are this host's; tests have no others."""

    def __init__(self, own, answer):
        self.changes, self._answer = own.changes, answer

    def __call__(self, ip, scope=0):
        return self._answer


@pytest.mark.parametrize(
    "settings, is_own, drop",
    [
        ({}, False, "unasked"),
        ({"udp_filtering": "address-dependent"}, False, "unasked"),
        ({"udp_filtering": "endpoint-independent"}, False, None),
        ({"udp_filtering": "endpoint-independent"}, True, "unasked"),
        ({"udp_filtering": "endpoint-independent"}, None, "unasked"),
        ({"udp_filtering": "endpoint-independent", "authorize": lambda r: True}, False, "unasked"),
        (
            {"udp_filtering": "endpoint-independent", "rule": ("deny to 127.0.0.8", "allow")},
            False,
            "denied",
        ),
    ],
    ids=["default", "dependent", "independent", "own", "in doubt", "hook", "rule"],
)
def test_an_address_that_was_not_written_to(settings, is_own, drop, target):
    """It is heard only if a setting allows it, rules allow it, and it is of another host."""
    with run_proxy(**settings) as proxy, Associated(proxy.port) as client:
        client.expect_to_work(target)
        access = proxy.services.access
        put_in_force(proxy.services, own=Own(access.own, is_own))
        with UdpTarget("127.0.0.8") as stranger:
            before = in_loop(proxy, lambda: proxy.services.associations.targets)
            stranger.source = target.source
            for number in range(3):
                stranger.answer(b"%d" % number)
                if drop is None:
                    client.expect(stranger, b"%d" % number)
            client.expect_to_work(target)
            assert ({drop: 3} if drop else {}) == proxy.records[-1].datagrams.drops
            # However many there are, none of them takes memory.
            assert before == in_loop(proxy, lambda: proxy.services.associations.targets)
            if drop is None:
                client.expect_to_work(stranger)


def test_a_reload_changes_which_targets_are_heard(target):
    """For open associations, too, because rules decide about what is heard."""
    with run_proxy(udp_filtering="endpoint-independent") as proxy:
        with Associated(proxy.port) as client, UdpTarget("127.0.0.8") as stranger:
            for wanted in "endpoint-independent", "address-dependent":
                proxy.reload(proxy.config._replace(udp_filtering=wanted))
                access = proxy.services.access
                put_in_force(proxy.services, own=Own(access.own, False))
                client.expect_to_work(target)
                stranger.source = target.source
                stranger.answer(b"hello")
                if wanted == "endpoint-independent":
                    client.expect(stranger, b"hello")
                client.expect_to_work(target)
        assert {"unasked": 1} == proxy.records[-1].datagrams.drops
