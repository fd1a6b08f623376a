"""CONNECT by exits: which one, what a hop gets, and what each of its answers becomes."""

import contextlib
import os
import re
import socket
import threading
import time

import pytest

import minisocks.exits.state
import minisocks.server.clientsocket
import minisocks.server.connect
from kit.hop import Hop, never, url
from kit.support import (
    GREETING,
    REJECTED4,
    FakeTarget,
    Talk,
    black_hole,
    closed_port,
    failure5,
    log_kept,
    nothing_left,
    run_proxy,
    says,
    socks4a,
    socks5,
    wait_until,
)
from minisocks.errors import ConfigError, ExitFailed
from minisocks.exits.hops import User
from minisocks.net.egress import Egress
from minisocks.net.resolver import Resolver
from minisocks.policy import exits
from minisocks.policy.client import Client


@contextlib.contextmanager
def proxy_with(*lines, rule="allow via x", getaddrinfo=never, **settings):
    """A proxy with these lines of [exits]."""
    with run_proxy(Resolver(getaddrinfo), exit=lines, rule=rule, **settings) as proxy:
        yield proxy


def test_a_name_goes_to_the_hop_as_it_came():
    """No look-up leaves this host, by all three protocols; the bytes pass both ways."""
    with Hop() as hop, proxy_with("x = " + url(hop)) as proxy, log_kept() as log:
        with Talk.to(proxy.port) as talk:
            assert 0 == talk.connect5(b"Name.Example", 443)[0]
            talk.send(b"12345").expect(b"12345").finish().expect_eof()
        with Talk.to(proxy.port) as talk:
            talk.send(socks4a(b"other.example", 80))
            assert b"\x00\x5a" == talk.receive(8)[:2]
            talk.send(b"12345").expect(b"12345").finish().expect_eof()
        log.wait_for("id=2")
        assert all(" exit=x " in line and "via=127.0.0.1" in line for line in log.lines)
    assert [(b"Name.Example", 443), (b"other.example", 80)] == hop.asked


def test_a_name_with_many_addresses_is_not_tried_at_all_of_them():
    """As for a direct connection: else one request would make the hop connect to 64 hosts."""

    def many(name, port, *args):
        ips = ["2001:db8::%x" % n for n in range(1, 33)] + ["192.0.2.%d" % n for n in range(1, 33)]
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (ip, port, 0, 0))
            if ":" in ip
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))
            for ip in ips
        ]

    with Hop(failure5(5)) as hop:
        with proxy_with("x = " + url(hop, "socks5"), getaddrinfo=many) as proxy:
            with Talk.to(proxy.port) as talk:
                assert 5 == talk.connect5(b"a.example", 80)[0]
    assert [16, 4] * 8 == [len(host) for host, _port in hop.asked]


def test_early_bytes_of_client_and_target_are_kept():
    """Those behind the request, and those behind the reply of the hop: first, and in order."""
    with Hop(then=b"220 ready\r\n") as hop, proxy_with("x = " + url(hop)) as proxy:
        with Talk.to(proxy.port) as talk:
            talk.send(GREETING + socks5(b"a.example", 21) + b"early")
            talk.expect(b"\x05\x00")
            assert 0 == talk.receive_reply5()[0]
            talk.expect(b"220 ready\r\nearly").send(b"x").expect(b"x")


@pytest.mark.parametrize("scheme", ["socks5", "socks5h resolve here"])
def test_a_name_is_looked_up_here_where_the_exit_says_it(scheme):
    """Then the rules see the addresses, and the hop gets one of them."""
    scheme, _, more = scheme.partition(" ")

    def known(name, port, *args):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.9", port))]

    line = "x = %s %s" % ("%s", more)
    rules = ("deny to 192.0.2.9 port 81", "allow via x")
    with Hop() as hop, proxy_with(line % url(hop, scheme), rule=rules, getaddrinfo=known) as proxy:
        with Talk.to(proxy.port) as talk:
            assert 0 == talk.connect5(b"a.example", 80)[0]
        with Talk.to(proxy.port) as talk:
            assert 2 == talk.connect5(b"a.example", 81)[0]
    assert [(socket.inet_aton("192.0.2.9"), 80)] == hop.asked


def test_for_a_name_earlier_rules_about_addresses_cannot_be_asked():
    """Unless the exit looks names up here; a rule that names it decides when it is reached."""
    asked = []

    def known(name, port, *args):
        asked.append(name)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.9", port))]

    rules = ("deny to 192.0.2.0/24 bad.example", "allow via x")
    with Hop() as hop:
        for more, rep in (("", 0), (" resolve here", 2)):
            line = "x = " + url(hop) + more
            with proxy_with(line, rule=rules, getaddrinfo=known) as proxy:
                with Talk.to(proxy.port) as talk:
                    assert rep == talk.connect5(b"a.example", 80)[0]
                with Talk.to(proxy.port) as talk:
                    assert 2 == talk.connect5(b"bad.example", 80)[0]
                with Talk.to(proxy.port) as talk:
                    assert 2 == talk.connect5("192.0.2.7", 80)[0]
    assert ([(b"a.example", 80)], [b"a.example"]) == (hop.asked, asked)


def test_an_address_of_a_name_that_the_hop_cannot_reach_is_not_the_last_one():
    """A hop without IPv6 is asked for the next address."""

    def known(name, port, *args):
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::9", port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.9", port)),
        ]

    with Hop(failure5(4)) as hop:
        with proxy_with("x = " + url(hop, "socks5"), getaddrinfo=known) as proxy:
            with Talk.to(proxy.port) as talk:
                assert 4 == talk.connect5(b"a.example", 80)[0]
    assert [16, 4] == [len(host) for host, _port in hop.asked]


@pytest.mark.parametrize("rep", [*range(1, 9), 0xF2])
def test_the_rep_of_the_hop_reaches_the_client(rep):
    """Also one that no RFC has; SOCKS4 has one reply for all."""
    with Hop(failure5(rep)) as hop, proxy_with("x = " + url(hop)) as proxy, log_kept() as log:
        with Talk.to(proxy.port) as talk:
            talk.send(GREETING).expect(b"\x05\x00").send(socks5(b"a.example", 80))
            assert failure5(rep) == talk.rest()
        with Talk.to(proxy.port) as talk:
            assert REJECTED4 == talk.send(socks4a(b"a.example", 80)).rest()
        assert "REP %02x" % rep in log.wait_for("id=2")


@pytest.mark.parametrize("dst", ["127.0.0.1", b"localhost", b"127.1", "169.254.169.254"])
def test_what_is_denied_stays_denied(dst):
    """Literal addresses and names of this host, whatever the exit is, for other hosts' clients."""
    with Hop() as hop, proxy_with("x = " + url(hop), rule=("allow via x",)) as proxy:
        rules = proxy.services.access.rules
        from minisocks.net.lookup import numeric_addresses
        from minisocks.policy.client import Client
        from minisocks.wire import Address, Atyp, packed_ip

        host = dst if isinstance(dst, bytes) else dst.encode()
        stranger = Client(("192.168.7.7", 1))
        address = Address.of_name(host, 80)
        found = numeric_addresses(host, 80, Atyp.DOMAINNAME)
        if found:
            ip = packed_ip(found[0][1][0])
            assert not rules.decide(stranger, 5, 1, address, ip).allowed
        else:
            assert not rules.precheck(stranger, 5, 1, address).allowed


def test_the_next_exit_is_tried_only_if_the_one_before_has_not_answered():
    """An exit that refuses connections has not; one whose hop says why there is none has."""
    with Hop() as good, Hop(failure5(5)) as refusing:
        lines = ["dead = " + url(closed_port()), "no = " + url(refusing), "x = " + url(good)]
        with proxy_with(*lines, rule=("allow to .a via dead or x", "allow via no or x")) as p:
            with Talk.to(p.port) as talk:
                assert 0 == talk.connect5(b"b.a", 80)[0]
            with Talk.to(p.port) as talk:
                assert 5 == talk.connect5(b"b.c", 80)[0]
    assert [(b"b.a", 80)] == good.asked


@pytest.mark.parametrize(
    "script",
    [
        says(b""),
        says(b"\x05\xff"),
        says(b"\x05\x00\x05\x00"),
        says(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        says(b"\x05\x00\x05\x00\x00\x09"),
        lambda talk: talk.reset(),
    ],
)
def test_a_hop_that_sends_what_is_no_reply_has_failed(script):
    """REP 01 and a sentence where there is no other exit, else the next one."""
    with Hop() as good, FakeTarget(script) as bad:
        lines = ["bad = " + url(bad), "x = " + url(good)]
        with proxy_with(*lines, rule=("allow to .a via bad", "allow via bad or x")) as proxy:
            with log_kept() as log:
                with Talk.to(proxy.port) as talk:
                    assert 1 == talk.connect5(b"b.a", 80)[0]
                assert "exit bad: socks5h://" in log.wait_for("id=1")
                with Talk.to(proxy.port) as talk:
                    assert 0 == talk.connect5(b"b.c", 80)[0]


def test_a_hop_that_closes_instead_of_a_reply_is_not_passed_over():
    """As ssh -D, which has no other word for a target that refuses."""
    with Hop() as good, Hop(b"", ends=True) as closing, Hop(b"\x05", ends=True) as half:
        lines = ["one = " + url(closing), "two = " + url(half), "x = " + url(good)]
        with proxy_with(*lines, rule="allow via one or two or x") as proxy:
            for _ in range(2):
                with Talk.to(proxy.port) as talk:
                    assert 0 == talk.connect5(b"b.c", 80)[0]
            assert "" == proxy.services.exits.error_of("one")
            assert "without a whole reply" in proxy.services.exits.error_of("two")
    assert (2, 1, 2) == (len(closing.asked), len(half.asked), len(good.asked))


def test_a_hop_that_is_silent_does_not_take_the_whole_time(monkeypatch):
    """10 s at most while there is another exit; here a tenth."""
    monkeypatch.setattr(minisocks.server.connect, "EXIT_SECONDS", 0.1)
    with Hop() as good, black_hole() as nothing, FakeTarget(lambda talk: talk.rest()) as silent:
        lines = ["a1 = " + url(nothing), "a2 = " + url(silent), "x = " + url(good)]
        with proxy_with(*lines, rule="allow via a1 or a2 or x") as proxy:
            with Talk.to(proxy.port) as talk:
                assert 0 == talk.connect5(b"b.c", 80)[0]


def test_the_time_of_the_request_ends_it():
    """REP 06 with the exit and the hop in the log."""
    with FakeTarget(lambda talk: talk.rest()) as silent:
        with proxy_with("x = " + url(silent), connect_timeout=0.2) as proxy, log_kept() as log:
            with Talk.to(proxy.port) as talk:
                assert 6 == talk.connect5(b"b.c", 80)[0]
            assert "has not answered in time" in log.wait_for("id=1")


def test_the_last_exit_that_takes_all_the_time_has_failed():
    """Also the only one; the log has what each exit before it did."""
    with FakeTarget(lambda talk: talk.rest()) as silent:
        lines = ["a1 = " + url(closed_port()), "a2 = " + url(silent)]
        with proxy_with(
            *lines, rule="allow via a1 or a2", connect_timeout=0.2
        ) as proxy, log_kept() as log:
            with Talk.to(proxy.port) as talk:
                assert 6 == talk.connect5(b"b.c", 80)[0]
            line = log.wait_for("id=1")
            assert re.search("exit=a2 .*exit a1: .*refused; exit a2: .*not answered in time", line)
            assert "not answered in time" in proxy.services.exits.error_of("a2")


def test_a_client_that_has_sent_fin_tells_nothing_about_slow_exits(monkeypatch):
    """It has cut the time short itself; also that of the exits before the last one."""
    monkeypatch.setattr(minisocks.server.clientsocket, "FIN_SECONDS", 0.4)
    monkeypatch.setattr(minisocks.server.connect, "EXIT_SECONDS", 0.1)
    with FakeTarget(lambda talk: talk.rest()) as silent:
        lines = ["x = " + url(silent), "y = " + url(silent)]
        with proxy_with(*lines, rule="allow via x or y") as proxy, log_kept() as log:
            with Talk.to(proxy.port) as talk:
                talk.send(b"\x05\x01\x00\x05\x01\x00\x03\x03b.c\x00\x50").finish()
                assert "exit x: " in log.wait_for("id=1")
            assert ["", ""] == list(map(proxy.services.exits.error_of, "xy"))


def test_an_exit_that_failed_is_passed_over_and_tried_again_by_one(monkeypatch):
    """Nothing waits for it meanwhile, and it is used again when it works."""
    now = [1000.0]
    with Hop() as first, Hop() as second:
        port = closed_port()
        lines = ["bad = " + url(port), "x = " + url(second)]
        with proxy_with(*lines, rule="allow via bad or x") as proxy, log_kept("minisocks") as log:
            monkeypatch.setattr(proxy.services.exits, "_clock", lambda: now[0])

            def come():
                with Talk.to(proxy.port) as talk:
                    assert 0 == talk.connect5(b"b.c", 80)[0]

            come()
            assert "refused" in proxy.services.exits.error_of("bad")
            with socket.socket() as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(("127.0.0.1", port))
                listener.listen(5)
                listener.setblocking(False)
                come()
                with pytest.raises(BlockingIOError):
                    listener.accept()
                now[0] += 31
            del first
            come()  # it is tried, and fails again
            assert 3 == len(second.asked)
            proxy.services.exits.worked("bad")
            assert "" == proxy.services.exits.error_of("bad")
            log.wait_for("exit bad works again")


def test_a_chain_asks_each_hop_for_the_next_one():
    """Two proxies of this project in a row; the target sees the last one."""
    with Hop() as last, run_proxy(user="ann:secret") as second, run_proxy() as first:
        lines = [
            "one = socks5://127.0.0.1:%d" % first.port,
            "two = one, socks4a://127.0.0.1:%d" % first.port,
            "x = two, http://127.0.0.1:%d" % last.port,
            "y = one, socks5h://ann:secret@127.0.0.1:%d, %s" % (second.port, url(last)),
        ]
        with proxy_with(*lines, rule="allow via y") as proxy, log_kept() as log:
            with Talk.to(proxy.port) as talk:
                assert 0 == talk.connect5(b"b.c", 80)[0]
                talk.send(b"12345").expect(b"12345").finish().expect_eof()
            wait_until(lambda: sum("end=" in line for line in log.lines) == 3)
    assert [(b"b.c", 80)] == last.asked


def test_a_chain_whose_middle_fails_names_the_hop():
    """And the exit has failed, because the target was never asked for."""
    port = closed_port()
    with run_proxy() as first:
        lines = ["x = socks5://127.0.0.1:%d, %s" % (first.port, url(port))]
        with proxy_with(*lines) as proxy, log_kept() as log:
            with Talk.to(proxy.port) as talk:
                assert 1 == talk.connect5(b"b.c", 80)[0]
            line = log.wait_for("exit x")
            assert "cannot reach socks5h://127.0.0.1:%d: connection refused" % port in line
            assert proxy.services.exits.error_of("x")


def test_a_hop_at_a_unix_socket(tmp_path):
    """As the first hop."""
    path = str(tmp_path / "other.sock")
    with FakeTarget() as target, run_proxy(listen="unix:" + path, rule="allow"):
        with proxy_with("x = socks5h+unix://" + path) as proxy, log_kept() as log:
            with Talk.to(proxy.port) as talk:
                assert 0 == talk.connect5("127.0.0.1", target.port)[0]
                talk.send(b"12345").expect(b"12345").finish().expect_eof()
            assert "via=unix:" + path in log.wait_for("exit=x")
    assert not os.path.exists(path)


def test_isolated_clients_log_in_as_different_users():
    """The same user always as the same one, and nothing tells which it is."""
    with Hop(method=2) as hop:
        line = "x = %s isolate" % url(hop)
        with proxy_with(line, user=("ann:a", "bob:b")) as proxy:
            for user in (b"ann:a", b"bob:b", b"ann:a"):
                name, _, password = user.partition(b":")
                with Talk.to(proxy.port) as talk:
                    talk.send(b"\x05\x01\x02").expect(b"\x05\x02")
                    talk.send(b"\x01%c%b%c%b" % (len(name), name, len(password), password))
                    talk.expect(b"\x01\x00").send(socks5(b"b.c", 80))
                    assert 0 == talk.receive_reply5()[0]
    first, second, third = hop.logins
    assert first == third != second
    assert b"ann" not in b"".join(first)


def test_a_user_is_not_taken_for_a_client_without_one():
    """Though its name has the bytes of the address of the other one."""
    logins = []
    for ip, user in (("65.66.67.68", None), ("192.0.2.7", b"ABCD"), ("65.66.67.68", b"ABCD")):
        client = Client((ip, 1))
        client.user = user
        logins.append(User(client, 1).login(exits.Hop("socks5h", "h", 1, isolates=True)))
    assert logins[0] != logins[1] == logins[2]


def test_direct_exits_have_their_own_source():
    """And ``same`` is the address that the client has connected to."""
    with FakeTarget(lambda talk: talk.send(talk.sock.getpeername()[0].encode())) as target:
        lines = ["other = direct source 127.0.0.9", "x = direct source same"]
        rules = ("allow to .other via other", "allow to 127.0.0.1 via x")

        def known(name, port, *args):
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

        settings = {"rule": ("allow to 127.0.0.2 via other", "allow via x"), "getaddrinfo": known}
        with proxy_with(*lines, listen="0.0.0.0:0", **settings) as proxy:
            for host, dst, source in (
                ("127.0.0.1", "127.0.0.1", b"127.0.0.1"),
                ("127.0.0.5", "127.0.0.1", b"127.0.0.5"),
            ):
                with Talk.to(proxy.port, host) as talk:
                    assert 0 == talk.connect5(dst, target.port)[0]
                    assert source == talk.rest()
        del rules


def test_the_source_of_a_client_by_a_listener_for_both_families():
    """Such a listener has 192.0.2.7 as ::ffff:192.0.2.7, which is no source for IPv4."""
    sources = Egress().with_source(("::ffff:192.0.2.7", 1080, 0, 0)).sources
    assert {socket.AF_INET: "192.0.2.7"} == sources
    assert {socket.AF_INET6: "::1"} == Egress().with_source(("::1", 1080, 0, 0)).sources


def test_what_a_hop_cannot_carry_is_tried_by_the_next_exit():
    """SOCKS4 has no IPv6 addresses, and HTTP no names with blanks."""
    with Hop() as hop:
        lines = ["old = socks4a://127.0.0.1:1", "x = " + url(hop)]
        with proxy_with(*lines, rule=("allow to .a via old", "allow via old or x")) as proxy:
            with Talk.to(proxy.port) as talk:
                assert 0 == talk.connect5("2001:db8::1", 80)[0]
            assert "" == proxy.services.exits.error_of("old")


@pytest.mark.parametrize("leave", [Talk.reset, Talk.close])
def test_a_client_that_leaves_leaves_nothing(leave):
    """In whatever state the attempts by exits are."""
    with black_hole() as nothing, FakeTarget(lambda talk: talk.rest()) as silent:
        with nothing_left():
            lines = ["a1 = " + url(nothing), "a2 = " + url(silent)]
            with proxy_with(*lines, rule=("allow to .a via a1", "allow via a2")) as proxy:
                for name in (b"b.a", b"b.c"):
                    with Talk.to(proxy.port) as talk:
                        talk.send(GREETING).expect(b"\x05\x00").send(socks5(name, 80))
                        wait_until(lambda: proxy.stats().open)
                        leave(talk)
                    proxy.stop(0) if name == b"b.c" else None


def test_a_reload_changes_exits_for_later_requests():
    """Those that are connected go on."""
    with Hop() as first, Hop() as second, proxy_with("x = " + url(first)) as proxy:
        with Talk.to(proxy.port) as talk:
            assert 0 == talk.connect5(b"a.example", 80)[0]
            proxy.reload(proxy.config._replace(exit=("x = " + url(second),)))
            with Talk.to(proxy.port) as other:
                assert 0 == other.connect5(b"b.example", 80)[0]
            talk.send(b"12345").expect(b"12345")
    assert ([(b"a.example", 80)], [(b"b.example", 80)]) == (first.asked, second.asked)


def test_the_program_names_exits_and_chooses_one(bugs):
    """``exits=``, and the name of one as the answer of ``authorize``."""
    asked = []

    def authorize(request):
        asked.append(request.host)
        return {"a.example": "one", "b.example": "direct", "d.example": "none"}.get(
            request.host, True
        )

    def known(name, port, *args):
        assert name == b"b.example"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    with Hop() as one, Hop() as two, FakeTarget() as target:
        settings = {"exits": {"one": url(one), "two": url(two)}, "rule": "allow via two"}
        with run_proxy(Resolver(known), authorize=authorize, **settings) as proxy:
            for name, rep in ((b"a.example", 0), (b"b.example", 0), (b"c.example", 0)):
                with Talk.to(proxy.port) as talk:
                    assert rep == talk.connect5(name, target.port)[0]
            with Talk.to(proxy.port) as talk:
                assert 1 == talk.connect5(b"d.example", target.port)[0]
    assert 1 == len(bugs)  # there is no exit of the last name
    assert [(b"a.example", target.port)] == one.asked
    assert [(b"c.example", target.port)] == two.asked
    with pytest.raises(TypeError, match="give one of them"):
        run_proxy(exits={"a": "direct"}, exit="b = direct").__enter__()


def test_a_name_that_only_addresses_decide_is_looked_up_whatever_the_exit_is():
    """Else the choice of the program would pass by the rules."""

    def known(name, port, *args):
        ip = {b"in.example": "192.0.2.1", b"out.example": "198.51.100.1"}[name]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))]

    with Hop() as hop:
        settings = {"exits": {"x": url(hop)}, "rule": "allow to 192.0.2.0/24"}
        with run_proxy(Resolver(known), authorize=lambda request: "x", **settings) as proxy:
            for name, rep in ((b"in.example", 0), (b"out.example", 2)):
                with Talk.to(proxy.port) as talk:
                    assert rep == talk.connect5(name, 80)[0]
    assert [(socket.inet_aton("192.0.2.1"), 80)] == hop.asked


def test_rules_tell_listeners_apart(tmp_path):
    """By the address that the client has connected to; ``:PORT`` is any address with that port."""
    path = str(tmp_path / "s.sock")
    with Hop() as one, Hop() as two, FakeTarget() as target:
        lines = ["one = " + url(one), "two = " + url(two)]
        first, second = closed_port(), closed_port()
        rules = (
            "allow listener 127.0.0.3:%d via one" % first,
            "allow listener :%d unix:%s via two" % (second, path),
            "allow to 127.0.0.1",
        )
        listen = ("0.0.0.0:%d" % first, "127.0.0.1:%d" % second, "unix:" + path)
        with proxy_with(*lines, listen=listen, rule=rules):
            for host, port, name in (("127.0.0.3", first, b"a"), ("127.0.0.1", second, b"b")):
                with Talk.to(port, host) as talk:
                    assert 0 == talk.connect5(name + b".example", 80)[0]
            with Talk(socket.socket(socket.AF_UNIX)) as talk:
                talk.sock.connect(path)
                assert 0 == talk.connect5(b"c.example", 80)[0]
            with Talk.to(first) as talk:
                assert 0 == talk.connect5("127.0.0.1", target.port)[0]
                talk.send(b"12345").expect(b"12345")
            with Talk.to(first) as talk:
                assert 2 == talk.connect5("127.0.0.2", target.port)[0]
    assert [(b"a.example", 80)] == one.asked
    assert [(b"b.example", 80), (b"c.example", 80)] == two.asked


def test_a_hop_that_closes_because_of_a_request_has_not_failed_for_others():
    """Else one client could keep all others from an exit; the request goes on to the next one."""

    def closes(talk):
        talk.receive(3)
        talk.send(b"\x05\x00").receive(4 + 1 + len(b"b.c") + 2)

    with Hop() as good, FakeTarget(closes) as closing:
        lines = ["a1 = " + url(closing), "x = " + url(good)]
        with proxy_with(*lines, rule="allow via a1 or x") as proxy:
            with Talk.to(proxy.port) as talk:
                assert 0 == talk.connect5(b"b.c", 80)[0]
            assert "" == proxy.services.exits.error_of("a1")
    assert 1 == len(closing.talks)


def test_a_slow_name_server_of_a_target_tells_nothing_about_the_exit(monkeypatch):
    """Any client can ask for such a name."""
    monkeypatch.setattr(minisocks.server.connect, "EXIT_SECONDS", 0.1)
    asked = threading.Event()

    def slow(name, port, *args):
        asked.wait()
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    with Hop() as hop:
        lines = ["a1 = " + url(hop, "socks5"), "x = " + url(hop)]
        with proxy_with(*lines, rule="allow via a1 or x", getaddrinfo=slow) as proxy:
            with Talk.to(proxy.port) as talk:
                assert 0 == talk.connect5(b"b.c", 80)[0]
            asked.set()
            assert "" == proxy.services.exits.error_of("a1")


def test_a_name_server_that_answers_late_leaves_no_failure_of_the_exit(monkeypatch):
    """Else a client could have an exit fail that had no time to answer."""
    monkeypatch.setattr(minisocks.server.connect, "EXIT_SECONDS", 2.0)

    def late(name, port, *args):
        time.sleep(1.5)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.9", port))]

    with Hop() as hop, black_hole() as nothing:
        lines = ["a1 = " + url(nothing, "socks5"), "x = " + url(hop)]
        with proxy_with(*lines, rule="allow via a1 or x", getaddrinfo=late) as proxy:
            with Talk.to(proxy.port) as talk:
                assert 0 == talk.connect5(b"b.c", 80)[0]
            assert "" == proxy.services.exits.error_of("a1")


def test_the_only_exit_has_failed_if_it_is_silent():
    """Its error is known then."""
    with black_hole() as nothing:
        with proxy_with("x = " + url(nothing), connect_timeout=0.3) as proxy:
            with Talk.to(proxy.port) as talk:
                assert 6 == talk.connect5(b"b.c", 80)[0]
            assert "no answer in time" in proxy.services.exits.error_of("x")


def test_a_name_server_that_takes_all_the_time_does_not_show_that_an_exit_works():
    """Nor that it does not."""
    asked = threading.Event()

    def slow(name, port, *args):
        asked.wait()
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    lines = ["x = socks5://127.0.0.1:1"]
    with proxy_with(*lines, getaddrinfo=slow, connect_timeout=0.1) as proxy:
        for before in ("", "refused"):
            if before:
                proxy.services.exits.failed("x", ExitFailed(before))
            with Talk.to(proxy.port) as talk:
                assert 6 == talk.connect5(b"b.c", 80)[0]
            assert before == proxy.services.exits.error_of("x")
        asked.set()


def test_an_answer_about_a_target_shows_that_the_exit_works():
    """Also one that refuses it."""
    with Hop(failure5(5)) as hop, proxy_with("x = " + url(hop)) as proxy:
        proxy.services.exits.failed(proxy.services.access.exits["x"], ExitFailed("it was down"))
        with Talk.to(proxy.port) as talk:
            assert 5 == talk.connect5(b"b.c", 80)[0]
        assert "" == proxy.services.exits.error_of("x")


@pytest.mark.parametrize("same", ["direct source same", "direct source same, %s"])
@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["127.0.0.1", "127.0.0.2"]])
def test_an_exit_without_source_for_the_client_is_tried_once(tmp_path, same, addresses):
    """However many addresses the target has."""
    path = str(tmp_path / "s.sock")

    def known(name, port, *args):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in addresses]

    with Hop() as hop:
        lines = ["a1 = " + same.replace("%s", url(hop, "socks5")), "x = " + url(hop, "socks5")]
        settings = {"listen": "unix:" + path, "getaddrinfo": known}
        for rule, rep in (("allow via a1 or x", 0), ("allow via a1", 3)):
            with proxy_with(*lines, rule=rule, **settings), log_kept() as log:
                with Talk(socket.socket(socket.AF_UNIX)) as talk:
                    talk.sock.connect(path)
                    assert rep == talk.connect5(b"b.c", 80)[0]
                assert log.wait_for("id=1").count("a1: ") == (1 if rep else 0)


def test_a_client_by_a_unix_socket_does_not_fail_an_exit_for_others(tmp_path):
    """It has connected to no address that could be the source."""
    path = str(tmp_path / "s.sock")
    with Hop() as hop:
        lines = ["a1 = direct source same, " + url(hop), "x = " + url(hop)]
        with proxy_with(*lines, listen="unix:" + path, rule="allow via a1 or x") as proxy:
            with Talk(socket.socket(socket.AF_UNIX)) as talk:
                talk.sock.connect(path)
                assert 0 == talk.connect5(b"b.c", 80)[0]
            assert "" == proxy.services.exits.error_of("a1")


def test_a_silent_hop_leaves_time_for_the_next_exit():
    """However short the time of the request is."""
    with Hop() as good, FakeTarget(lambda talk: talk.rest()) as silent:
        lines = ["a1 = " + url(silent, "http"), "a2 = " + url(silent), "x = " + url(good)]
        with proxy_with(*lines, rule="allow via a1 or a2 or x", connect_timeout=1) as proxy:
            with Talk.to(proxy.port) as talk:
                assert 0 == talk.connect5(b"b.c", 80)[0]


def test_an_exit_that_a_reload_removes_is_not_replaced_by_a_direct_connection():
    """Where the program has chosen it just before."""
    proxies = []

    def authorize(request):
        proxies[0].reload(proxies[0].config._replace(exit=()))
        return "x"

    with FakeTarget() as target, Hop() as hop:
        settings = {"exits": {"x": url(hop)}, "rule": "allow to 127.0.0.1"}
        with run_proxy(Resolver(never), authorize=authorize, **settings) as proxy:
            proxies.append(proxy)
            with log_kept() as log:
                with Talk.to(proxy.port) as talk:
                    assert 1 == talk.connect5("127.0.0.1", target.port)[0]
                assert "a reload has removed an exit" in log.wait_for("id=1")
    assert [] == target.talks


@pytest.mark.parametrize("listen", ["127.0.0.1:%d", "0.0.0.0:%d", "unix:%s"])
def test_an_exit_that_is_the_proxy_itself_is_not_used(tmp_path, listen):
    """One connection would make others until no descriptor is left."""
    port, path = closed_port(), str(tmp_path / "s.sock")
    place = listen % (path if "unix" in listen else port)
    itself = "socks5h+unix://" + path if "unix" in listen else url(port)
    with proxy_with("x = " + itself, listen=place) as proxy, log_kept() as log:
        with Talk.to(port) if "unix" not in listen else Talk(socket.socket(socket.AF_UNIX)) as talk:
            if "unix" in listen:
                talk.sock.connect(path)
            assert 1 == talk.connect5(b"b.c", 80)[0]
        assert "is this proxy itself" in log.wait_for("id=1")
        assert 1 == proxy.stats().total


def test_the_line_of_a_rule_whose_exit_is_not_there_is_told():
    """Not that of the first rule."""
    with pytest.raises(ConfigError, match="no exit is called y") as caught:
        proxy_with("x = direct", rule=("deny port 25", "allow via y")).__enter__()
    assert 1 == caught.value.index


def test_a_password_file_of_windows_has_no_carriage_return(tmp_path):
    """It would be a part of the password."""
    path = tmp_path / "pw"
    path.write_bytes(b"secret\r\n")
    with Hop(method=2) as hop:
        line = "x = socks5h://ann@127.0.0.1:%d password @%s" % (hop.port, path)
        with proxy_with(line) as proxy, Talk.to(proxy.port) as talk:
            assert 0 == talk.connect5(b"b.c", 80)[0]
    assert [(b"ann", b"secret")] == hop.logins


def test_a_reload_denies_a_target_while_the_name_of_a_hop_is_looked_up():
    """Also a literal address, which only the rules about addresses decide about."""
    is_asked, may_answer = threading.Event(), threading.Event()

    def slow(name, port, *args):
        is_asked.set()
        may_answer.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    with Hop() as hop:
        line = "x = socks5h://hop.example:%d" % hop.port
        with proxy_with(line, getaddrinfo=slow) as proxy, Talk.to(proxy.port) as talk:
            talk.send(GREETING).expect(b"\x05\x00").send(socks5("192.0.2.7", 80))
            is_asked.wait()
            rules = ("deny to 192.0.2.0/24", "allow via x")
            proxy.reload(proxy.config._replace(rule=rules))
            may_answer.set()
            assert 2 == talk.receive_reply5()[0]
    assert [] == hop.asked


def test_a_reload_denies_an_address_that_is_still_to_be_tried():
    """It is not asked for when the one before has failed."""
    may_answer = threading.Event()

    def known(name, port, *args):
        ips = ("192.0.2.1", "198.51.100.1")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in ips]

    class Slow(Hop):
        def _serve_client(self, talk):
            self.talks.append(talk)
            super()._serve_client(_Later(talk, may_answer))

    with Slow(failure5(5)) as hop:
        with proxy_with("x = " + url(hop, "socks5"), getaddrinfo=known) as proxy:
            with Talk.to(proxy.port) as talk:
                talk.send(GREETING).expect(b"\x05\x00").send(socks5(b"a.example", 80))
                wait_until(lambda: hop.talks)
                rules = ("deny to 198.51.100.0/24", "allow via x")
                proxy.reload(proxy.config._replace(rule=rules))
                may_answer.set()
                assert 5 == talk.receive_reply5()[0]
    assert [(socket.inet_aton("192.0.2.1"), 80)] == hop.asked


class _Later:
    """A ``Talk`` that sends nothing before it may."""

    def __init__(self, talk, may_send):
        self._talk, self._may_send = talk, may_send

    def send(self, data):
        self._may_send.wait()
        return self._talk.send(data)

    def __getattr__(self, name):
        return getattr(self._talk, name)
