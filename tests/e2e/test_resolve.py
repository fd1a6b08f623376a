"""RESOLVE and RESOLVE_PTR, Tor's commands: what clients get, and what they do not."""

import contextlib
import re
import socket
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minisocks.server.connect
from kit.hop import Hop, never, url
from kit.support import (
    GREETING,
    REJECTED4,
    FakeTarget,
    Talk,
    closed_port,
    failure5,
    log_kept,
    nothing_left,
    run_proxy,
    says,
    socks4,
    socks4a,
    socks5,
    wait_until,
)
from minisocks.net.resolver import Resolver
from minisocks.policy.client import Client
from minisocks.server.server import SocksServer
from minisocks.testing import ScriptedProxy

RESOLVE, RESOLVE_PTR = 0xF0, 0xF1
#: What the proxy's name server knows.
NAMES = {
    b"v4.test": ["192.0.2.7"],
    b"v6.test": ["2001:db8::7"],
    b"both.test": ["2001:db8::7", "192.0.2.7"],
    b"mixed.test": ["10.0.0.7", "192.0.2.7"],
    b"inside.test": ["10.0.0.7"],
    b"here.test": ["127.0.0.1"],
}


def row(ip, port=0):
    if ":" in ip:
        return (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (ip, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))


def known(name, port, *args):
    """Look a name up in the table."""
    if name not in NAMES:
        raise socket.gaierror(socket.EAI_NONAME, "not known")
    return [row(ip, port) for ip in NAMES[name]]


@pytest.fixture
def reverse(monkeypatch):
    """The names of addresses, and the threads that asked for them."""
    found = {"192.0.2.7": "v4.test", "10.0.0.7": "inside.test", "127.0.0.1": "here.test"}
    threads = []

    def getnameinfo(sockaddr, flags):
        threads.append(threading.current_thread().name)
        if sockaddr[0] not in found:
            raise socket.gaierror(socket.EAI_NONAME, "not known")
        return found[sockaddr[0]], "0"

    monkeypatch.setattr(socket, "getnameinfo", getnameinfo)
    return threads


@contextlib.contextmanager
def proxy_with(getaddrinfo=known, **settings):
    """A proxy with that table of names."""
    with run_proxy(Resolver(getaddrinfo), **settings) as proxy:
        yield proxy


@pytest.fixture
def elsewhere(monkeypatch):
    """Make every client one of another host, in the eyes of the rules."""
    monkeypatch.setattr(SocksServer, "client_of", lambda self, peer: Client(("192.168.7.7", 1)))


def ask(proxy, dst, cmd=RESOLVE, port=0):
    """Return the reply, and check that the proxy closes behind it."""
    with Talk.to(proxy.port) as talk:
        return talk.send(GREETING).expect(b"\x05\x00").send(socks5(dst, port, cmd)).rest()


def told(ip):
    """Return the reply with the address *ip*."""
    family, atyp = (socket.AF_INET6, 4) if ":" in ip else (socket.AF_INET, 1)
    return b"\x05\x00\x00%c%b\x00\x00" % (atyp, socket.inet_pton(family, ip))


def named(name):
    """Return the reply with *name*."""
    return b"\x05\x00\x00\x03%c%b\x00\x00" % (len(name), name)


def test_the_address_of_a_name():
    """By SOCKS5 and SOCKS4a; the record and the log have what the client got."""
    with proxy_with() as proxy, log_kept() as log:
        assert told("192.0.2.7") == ask(proxy, b"v4.test", port=42)
        with Talk.to(proxy.port) as talk:
            talk.send(socks4a(b"v4.test", 0, cmd=RESOLVE))
            assert b"\x00\x5a\x00\x00\xc0\x00\x02\x07" == talk.rest()
        line = log.wait_for("id=1")
        assert "cmd=RESOLVE dst='v4.test':0 via=192.0.2.7 rep='succeeded'" in line
        assert "end=answered" in line
        log.wait_for("id=2")
        stats = proxy.stats()
        assert (2, 2, {}) == (stats.total, stats.succeeded, stats.refused)


def test_the_name_of_an_address(reverse):
    """It is looked up in a thread of the resolver; IPv6 addresses have names, too."""
    with proxy_with() as proxy, log_kept() as log:
        assert named(b"v4.test") == ask(proxy, "192.0.2.7", RESOLVE_PTR)
        assert failure5(4) == ask(proxy, "192.0.2.9", RESOLVE_PTR)
        assert failure5(4) == ask(proxy, "2001:db8::9", RESOLVE_PTR)
        assert "cmd=RESOLVE_PTR dst=192.0.2.7:0 via=v4.test" in log.wait_for("id=1")
        assert "not known" in log.wait_for("id=2")
        # A name is no address, and SOCKS4 has no room for a name in its reply.
        assert failure5(8) == ask(proxy, b"v4.test", RESOLVE_PTR)
        with Talk.to(proxy.port) as talk:
            assert REJECTED4 == talk.send(socks4("192.0.2.7", 0, cmd=RESOLVE_PTR)).rest()
    assert 3 == len(reverse)
    assert all("resolver" in name for name in reverse), reverse


@pytest.mark.parametrize("prefer, ip", [("system", "192.0.2.7"), ("ipv6", "2001:db8::7")])
def test_ipv4_is_told_first(prefer, ip):
    """As Tor does, because torsocks wants IPv4; unless the operator prefers IPv6."""
    with proxy_with(prefer=prefer) as proxy, log_kept() as log:
        assert told(ip) == ask(proxy, b"both.test")
        assert told("2001:db8::7") == ask(proxy, b"v6.test")
        for name, reply in (
            (b"both.test", b"\x00\x5a\x00\x00\xc0\x00\x02\x07"),
            (b"v6.test", REJECTED4),
        ):
            with Talk.to(proxy.port) as talk:
                assert reply == talk.send(socks4a(name, 0, cmd=RESOLVE)).rest()
        assert "SOCKS4 carries no other" in log.wait_for("id=4")


def test_what_is_no_name_is_answered_without_a_look_up():
    """Addresses in any notation."""
    with proxy_with(never) as proxy:
        assert told("192.0.2.7") == ask(proxy, "192.0.2.7")
        assert told("127.0.0.1") == ask(proxy, b"127.1")
        assert told("::1") == ask(proxy, b"[::1]")


def test_a_name_without_an_address():
    """REP 04, as for CONNECT."""
    with proxy_with() as proxy, log_kept() as log:
        assert failure5(4) == ask(proxy, b"nowhere.test")
        assert "rep='host unreachable'" in log.wait_for("id=1")


def test_only_addresses_that_pass_are_told(reverse, elsewhere):
    """A client of another host learns what CONNECT would tell it, and no more."""
    with proxy_with(rule=("deny to 10.0.0.0/8", "allow")) as proxy:
        assert told("192.0.2.7") == ask(proxy, b"mixed.test")
        for name in (b"inside.test", b"here.test", b"localhost", b"127.1", "10.0.0.7", "::1"):
            assert failure5(2) == ask(proxy, name) == ask(proxy, name, cmd=1, port=80)
        for ip in ("10.0.0.7", "127.0.0.1", "169.254.169.254"):
            assert failure5(2) == ask(proxy, ip, RESOLVE_PTR)
        assert [] == reverse
        assert named(b"v4.test") == ask(proxy, "192.0.2.7", RESOLVE_PTR)


@pytest.mark.parametrize(
    "rules, rep",
    [
        (("allow command connect",), 0),
        (("allow command bind udp",), 2),
        (("deny to .test", "allow"), 2),
        (("deny command connect", "allow"), 2),
        (("allow to .test",), 0),
        # Look-ups have port 0: rules with ports are about them only if they name it.
        (("allow port 1-65535",), 2),
        (("allow port 0 443",), 0),
        (("deny port 25", "allow"), 0),
        (("deny port 0", "allow"), 2),
    ],
)
def test_rules_decide_as_about_connect(rules, rep):
    """Whatever port the client has sent."""
    with proxy_with(rule=rules) as proxy:
        for port in (0, 42, 443):
            assert rep == ask(proxy, b"v4.test", port=port)[1]


def test_the_hook_of_the_program_is_asked():
    """With the command, and port 0."""
    asked = []

    def authorize(request):
        asked.append((request.cmd, request.host, request.port))
        return request.host != "both.test"

    with proxy_with(authorize=authorize) as proxy:
        assert told("192.0.2.7") == ask(proxy, b"v4.test", port=42)
        assert failure5(2) == ask(proxy, b"both.test")
        assert told("192.0.2.9") == ask(proxy, "192.0.2.9")
    names = [("RESOLVE", "v4.test", 0), ("RESOLVE", "both.test", 0), ("RESOLVE", "192.0.2.9", 0)]
    assert names == asked


def test_it_counts_as_a_connection():
    """A limit of connections holds for look-ups."""
    with proxy_with(max_connections=1) as proxy, FakeTarget() as target:
        with Talk.to(proxy.port) as talk:
            assert 0 == talk.connect5("127.0.0.1", target.port)[0]
            assert failure5(2) == ask(proxy, b"v4.test")
        wait_until(lambda: not proxy.stats().open)
        assert told("192.0.2.7") == ask(proxy, b"v4.test")


@pytest.mark.parametrize("cmd", [RESOLVE, RESOLVE_PTR])
@pytest.mark.parametrize("leave", [Talk.reset, Talk.finish, None])
def test_a_silent_name_server(monkeypatch, cmd, leave):
    """The request ends with its time, or its client; nothing is left."""
    begun, over = threading.Event(), threading.Event()

    def hang(*args):
        begun.set()
        over.wait(20)
        raise socket.gaierror(socket.EAI_NONAME, "not known")

    monkeypatch.setattr(socket, "getnameinfo", hang)
    with nothing_left():
        resolver = Resolver(hang, waits_when_closed=True)
        with run_proxy(resolver, connect_timeout=0.3) as proxy, log_kept() as log:
            with Talk.to(proxy.port) as talk:
                dst = b"v4.test" if cmd == RESOLVE else "192.0.2.7"
                talk.send(GREETING).expect(b"\x05\x00").send(socks5(dst, 0, cmd))
                assert begun.wait(20)
                if leave is not None:
                    leave(talk)
                if leave is not Talk.reset:
                    assert failure5(6) == talk.rest()
                line = log.wait_for("id=1")
                assert ("client-gone" if leave is Talk.reset else "end=refused") in line
        over.set()
        resolver.close()


@pytest.mark.parametrize("cmd", [RESOLVE, RESOLVE_PTR])
def test_a_reload_withdraws_it(monkeypatch, cmd):
    """A request that waits is held against the new rules."""
    begun, over = threading.Event(), threading.Event()

    def hang(*args):
        begun.set()
        assert over.wait(20)
        return [row("192.0.2.7")] if cmd == RESOLVE else ("v4.test", "0")

    monkeypatch.setattr(socket, "getnameinfo", hang)
    with proxy_with(hang) as proxy, Talk.to(proxy.port) as talk:
        dst = b"v4.test" if cmd == RESOLVE else "192.0.2.7"
        talk.send(GREETING).expect(b"\x05\x00").send(socks5(dst, 0, cmd))
        assert begun.wait(20)
        proxy.reload(proxy.config._replace(rule=("deny to 192.0.2.0/24", "allow")))
        over.set()
        assert failure5(2) == talk.rest()


# By exits


def test_an_exit_that_looks_names_up_is_asked():
    """No look-up leaves this host; the log has the exit, and what the client got."""
    with Hop(told("192.0.2.7")) as hop:
        with proxy_with(never, exit="x = " + url(hop), rule="allow via x") as proxy:
            with log_kept() as log:
                assert told("192.0.2.7") == ask(proxy, b"Name.Example", port=42)
                with Talk.to(proxy.port) as talk:
                    talk.send(socks4a(b"b.example", 0, cmd=RESOLVE))
                    assert b"\x00\x5a\x00\x00\xc0\x00\x02\x07" == talk.rest()
                assert "via=192.0.2.7 exit=x " in log.wait_for("id=1")
                log.wait_for("id=2")
    names = [(RESOLVE, name, 0) for name in (b"Name.Example", b"b.example")]
    assert names == hop.requests


def test_an_exit_is_asked_for_the_name_of_an_address(reverse):
    """Which the rules allow; the name that it tells is in the log."""
    with Hop(named(b"a.example")) as hop:
        settings = {"exit": "x = " + url(hop), "rule": ("deny to 10.0.0.0/8", "allow via x")}
        with proxy_with(never, **settings) as proxy, log_kept() as log:
            assert named(b"a.example") == ask(proxy, "192.0.2.7", RESOLVE_PTR)
            assert failure5(2) == ask(proxy, "10.0.0.7", RESOLVE_PTR)
            assert "via=a.example exit=x " in log.wait_for("id=1")
            # There is nothing to look up.
            assert told("192.0.2.8") == ask(proxy, "192.0.2.8")
    assert [(RESOLVE_PTR, socket.inet_aton("192.0.2.7"), 0)] == hop.requests
    assert [] == reverse


@pytest.mark.parametrize("rep", [1, 4, 6, 7, 0xF4])
def test_the_rep_of_the_hop_is_an_answer(rep):
    """Also of a hop that does not know the command; no other exit is asked."""
    with Hop(failure5(rep)) as hop, Hop(told("192.0.2.7")) as other:
        lines = ["x = " + url(hop), "y = " + url(other)]
        with proxy_with(never, exit=lines, rule="allow via x or y") as proxy:
            assert failure5(rep) == ask(proxy, b"a.example")
    assert [] == other.asked


def test_the_answer_of_a_hop_is_judged(elsewhere):
    """A hop on this host may know names that are none of the client's business."""
    for ip in ("127.0.0.1", "169.254.169.254", "::1"):
        with Hop(told(ip)) as hop:
            with proxy_with(never, exit="x = " + url(hop), rule="allow via x") as proxy:
                assert failure5(2) == ask(proxy, b"a.example")
        assert 1 == len(hop.asked)


def test_a_hop_that_fails_or_answers_nonsense_is_passed_over():
    """The next exit is asked, which may look the name up here."""
    with Hop(told("0.0.0.0")) as absent, FakeTarget(says(b"HTTP/1.1 400 No\r\n\r\n")) as web:
        lines = ["a = " + url(closed_port()), "b = " + url(absent), "c = " + url(web)]
        rule = "allow via a or b or c or direct"
        with proxy_with(exit=lines, rule=rule) as proxy:
            assert told("192.0.2.7") == ask(proxy, b"v4.test")
            failed = [name for name in "abc" if proxy.services.exits.error_of(name)]
            assert ["a", "c"] == failed, "b knows no RESOLVE, but may connect for others"
        with proxy_with(exit=lines, rule="allow via b") as proxy, log_kept() as log:
            assert failure5(1) == ask(proxy, b"v4.test")
            assert "its reply to RESOLVE has no address" in log.wait_for("id=1")


@pytest.mark.parametrize("cmd, dst", [(RESOLVE, b"v4.test"), (RESOLVE_PTR, "192.0.2.7")])
def test_other_protocols_have_no_look_ups(reverse, cmd, dst):
    """REP 07 where the exit looks names up, else this host looks them up."""
    with proxy_with(exit=["x = socks4a://127.0.0.1:1", "y = http://127.0.0.1:1"]) as proxy:
        for exit, rep in (("x", 7), ("y", 7), ("x or direct", 0)):
            proxy.reload(proxy.config._replace(rule=("allow via " + exit,)))
            assert rep == ask(proxy, dst, cmd)[1]
            assert "" == proxy.services.exits.error_of("x")


@pytest.mark.parametrize(
    "line",
    ["socks5://127.0.0.1:1", "socks5h://127.0.0.1:1 resolve here", "direct source 127.0.0.1"],
)
def test_exits_that_look_nothing_up(reverse, line):
    """This host answers, and asks no hop."""
    with proxy_with(exit="x = " + line, rule="allow via x") as proxy, log_kept() as log:
        assert told("192.0.2.7") == ask(proxy, b"v4.test")
        assert named(b"v4.test") == ask(proxy, "192.0.2.7", RESOLVE_PTR)
        assert "exit=" not in log.wait_for("id=2")


def test_a_name_that_only_addresses_decide_is_looked_up_here():
    """As for CONNECT: the hop is not asked for what the rules have not decided."""
    with Hop(told("198.51.100.1")) as hop:
        settings = {"exit": "x = " + url(hop), "rule": "allow to 192.0.2.0/24 via x"}
        with proxy_with(**settings) as proxy:
            assert told("192.0.2.7") == ask(proxy, b"v4.test")
            assert failure5(2) == ask(proxy, b"inside.test")
    assert [] == hop.asked


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([RESOLVE, RESOLVE_PTR]),
    st.one_of(
        st.binary(max_size=40),
        st.binary(max_size=40).map(lambda data: b"\x05\x00\x05\x00\x00" + data),
        st.binary(max_size=30).map(
            lambda name: b"\x05\x00\x05\x00\x00\x03%c%b\x00\x00" % (len(name), name)
        ),
    ),
)
def test_any_bytes_of_a_hop(relay_of_any_bytes, cmd, data):
    """A reply that the client can read, and never one that is longer than the longest."""
    proxy, answers = relay_of_any_bytes
    answers[:] = [data]
    reply = ask(proxy, b"a.example" if cmd == RESOLVE else "192.0.2.7", cmd)
    assert re.match(rb"(?s)\x05.\x00(\x01.{6}|\x04.{18}|\x03.[A-Za-z0-9._-]+\x00\x00)\Z", reply)
    if reply[3] == 3:
        assert (RESOLVE_PTR, len(reply) - 7) == (cmd, reply[4])
    if reply[1]:
        assert failure5(reply[1]) == reply


@pytest.fixture(scope="module")
def relay_of_any_bytes():
    """A proxy whose exit answers with what is in the list."""
    answers = []
    with FakeTarget(lambda talk: talk.send(answers[0]).finish()) as hop:
        with proxy_with(never, exit="x = " + url(hop), rule="allow via x") as proxy:
            yield proxy, answers


def test_bytes_behind_the_request_are_no_part_of_it():
    """Nothing gets them, and the reply arrives in spite of them."""
    with proxy_with() as proxy, Talk.to(proxy.port) as talk:
        talk.send(GREETING + socks5(b"v4.test", 0, RESOLVE) + b"early").expect(b"\x05\x00")
        assert told("192.0.2.7") == talk.rest()


def test_a_silent_hop(monkeypatch):
    """Ten seconds while there is another exit, here a tenth; else the time of the request."""
    monkeypatch.setattr(minisocks.server.connect, "EXIT_SECONDS", 0.1)
    with FakeTarget(lambda talk: talk.rest()) as silent, Hop(told("192.0.2.7")) as good:
        lines = ["x = " + url(silent), "y = " + url(good)]
        with proxy_with(never, exit=lines, connect_timeout=0.5) as proxy:
            for exit, reply in (("x or y", told("192.0.2.7")), ("x", failure5(6))):
                proxy.reload(proxy.config._replace(rule=("allow via " + exit,)))
                assert reply == ask(proxy, b"a.example")


def test_the_name_of_a_hop_is_looked_up():
    """Where it has one; the target's is not."""

    def hops(name, port, *args):
        assert b"hop.test" == name
        return [row("127.0.0.1", port)]

    with Hop(told("192.0.2.7")) as hop:
        line = "x = socks5h://hop.test:%d" % hop.port
        with proxy_with(hops, exit=line, rule="allow via x") as proxy:
            assert told("192.0.2.7") == ask(proxy, b"a.example")


def test_look_ups_and_connections_of_one_client_have_one_login():
    """With ``isolate`` Tor looks a name up by the circuit of the client's connections."""
    with Hop(failure5(4), method=2) as hop:
        settings = {"exit": "x = %s isolate" % url(hop), "rule": "allow via x"}
        with proxy_with(never, user=("ann:a", "bob:b"), **settings) as proxy:
            for user, cmd in ((b"ann", RESOLVE), (b"ann", 1), (b"bob", RESOLVE)):
                with Talk.to(proxy.port) as talk:
                    talk.send(b"\x05\x01\x02").expect(b"\x05\x02")
                    talk.send(b"\x01\x03%b\x01%b" % (user, user[:1])).expect(b"\x01\x00")
                    assert failure5(4) == talk.send(socks5(b"a.example", 80, cmd)).rest()
    first, second, third = hop.logins
    assert first == second != third


def test_two_of_us_in_a_row(reverse):
    """The second one answers, and the first one passes it on."""
    with proxy_with() as second:
        line = "x = " + url(second)
        with proxy_with(never, exit=line, rule="allow via x") as first:
            assert told("192.0.2.7") == ask(first, b"v4.test")
            assert named(b"v4.test") == ask(first, "192.0.2.7", RESOLVE_PTR)
            assert failure5(4) == ask(first, b"nowhere.test")


def test_a_client_that_leaves_while_a_hop_is_asked():
    """Nothing is left of it."""
    with nothing_left(), FakeTarget(lambda talk: talk.rest()) as silent:
        with proxy_with(never, exit="x = " + url(silent), rule="allow via x") as proxy:
            with Talk.to(proxy.port) as talk, log_kept() as log:
                talk.send(GREETING).expect(b"\x05\x00").send(socks5(b"a.example", 0, RESOLVE))
                wait_until(lambda: silent.talks, "the hop")
                talk.reset()
                assert "end=client-gone" in log.wait_for("id=1")


def test_a_script_delays_and_cuts_the_answer():
    """``minisocks.testing`` for programs that use these commands."""
    with ScriptedProxy(resolver=Resolver(known), truncate_reply=3) as proxy:
        assert b"\x05\x00\x00" == ask(proxy, b"v4.test")
    with ScriptedProxy(resolver=Resolver(known), delay=0.05) as proxy:
        assert told("192.0.2.7") == ask(proxy, b"v4.test")
