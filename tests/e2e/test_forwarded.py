"""``--forwarded``: clients of a forwarder are strangers, whatever address the forwarder has."""

import functools
import os
import socket
import types

import pytest

from kit import inside
from kit.identd import identd, says_user
from kit.support import (
    GREETING,
    ROOT,
    UDP_ASSOCIATE,
    FakeTarget,
    Talk,
    failure5,
    password_message,
    run_command,
    run_proxy,
    socks4,
    socks5,
    wait_until,
)
from minisocks import Proxy
from minisocks.access import Access, Users
from minisocks.config.layers import layered
from minisocks.config.settings import Config
from minisocks.errors import ConfigError
from minisocks.hooks import Hooks
from minisocks.net.capacity import Room
from minisocks.net.processor import Processor
from minisocks.policy.client import FORWARDED, THIS_HOST, Client, group_text
from minisocks.policy.passwords import FREE
from minisocks.policy.quota import Allowance
from minisocks.protocol.messages import Credentials
from minisocks.server.limits import HandlerQueue, Pending
from minisocks.server.logins import Logins, TrustedAddresses
from minisocks.server.server import SocksServer
from minisocks.service.announce import at_start
from minisocks.service.checking import as_data, as_table
from minisocks.wire import Address, Atyp, Cmd, packed_ip

NOT_ALLOWED = failure5(2)
ANN = "ann:secret"
#: What is reached on the host of the tests, by any client that comes in.
REACHABLE = "allow to loopback"
#: How forwarders come: from this host, from a container's gateway, by a unix socket.
PEERS = [("127.0.0.1", 4242), ("::1", 4242, 0, 0), ("172.17.0.1", 4242), ("203.0.113.7", 4242), ""]


def behind(peer=("127.0.0.1", 4242), user=None):
    """Return a client behind a forwarder."""
    client = Client(peer, is_forwarded=True)
    client.user = user
    return client


def rules_of(**settings):
    """Return the rules of a proxy with these settings."""
    return Access.of(Config(**settings), Hooks()).rules


def decision(rules, client, host, port=80):
    """Return whether *client* may connect to *host*, an address."""
    ip = packed_ip(host)
    dst = Address(host.encode(), port, Atyp.IPV4 if len(ip) == 4 else Atyp.IPV6)
    return (
        rules.precheck(client, 5, Cmd.CONNECT, dst).allowed
        and rules.decide(client, 5, Cmd.CONNECT, dst, ip).allowed
    )


def forwarded_proxy(**settings):
    """Return a proxy on loopback with one listener, which a forwarder connects to."""
    settings.setdefault("rule", (REACHABLE,))
    return run_proxy(forwarded=("127.0.0.1:0",), **settings)


def login(talk, user=b"ann", password=b"secret"):
    """Have *talk* log in."""
    talk.send(b"\5\1\2").expect(b"\5\2").send(password_message(user, password)).expect(b"\1\0")
    return talk


# What a client behind a forwarder is


@pytest.mark.parametrize("peer", PEERS)
def test_no_socket_makes_it_local(peer):
    """Loopback, a private network and a unix socket give it no local address."""
    client = behind(peer)

    assert (False, True, False) == (client.is_local, client.is_forwarded, client.has_address)
    assert (FORWARDED, None) == (client.groups, client.key)
    assert "forwarder" == client.host == client.place
    assert ("forwarder:4242" if peer else "forwarder") == str(client)
    assert "behind a forwarder" == group_text(client.groups, 0)
    assert FORWARDED != THIS_HOST


SETTINGS = [
    # Settings; whether it comes in without a password, and with one.
    ({}, False, False),
    ({"allow_lan": True}, False, False),
    ({"open": True}, True, True),
    ({"user": (ANN,)}, False, True),
    ({"user": (ANN,), "allow_lan": True}, False, True),
    ({"rule": ("allow from loopback private linklocal reserved self 127.0.0.1",)}, False, False),
    ({"rule": ("allow from 203.0.113.0/24 2001:db8::/32 10.0.0.0/8",)}, False, False),
    ({"rule": ("deny from public", "allow")}, False, False),
    ({"rule": ("deny from remote", "allow")}, False, False),
    ({"rule": ("deny from 0.0.0.0/0", "allow")}, False, False),
    ({"rule": ("deny from 203.0.113.7 private loopback self", "allow")}, True, True),
    ({"rule": ("allow from public",)}, True, True),
    ({"rule": ("allow from remote",)}, True, True),
    ({"rule": ("allow from 0.0.0.0/0",)}, True, True),
    ({"rule": ("allow from ::/0",)}, True, True),
]


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("settings, without, by_password", SETTINGS)
def test_which_clients_come_in(peer, settings, without, by_password):
    """Those that may come in from any public address, because no rule by address counts."""
    rules = rules_of(**settings)

    assert without == decision(rules, behind(peer), "192.0.2.1")
    assert by_password == decision(rules, behind(peer, b"ann"), "192.0.2.1")


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize(
    "settings", [{"open": True}, {"open": True, "allow_lan": True}, {"user": (ANN,)}]
)
@pytest.mark.parametrize(
    "host", ["127.0.0.1", "::1", "0.0.0.0", "10.0.0.1", "169.254.169.254", "fd00::1"]
)
def test_what_it_does_not_reach(peer, settings, host):
    """It reaches neither this host nor private networks."""
    assert not decision(rules_of(**settings), behind(peer, b"ann"), host)


def test_a_rule_may_open_this_host_to_it():
    """A rule that names an address opens it; the log of a refusal has that rule."""
    closed, opened = (
        rules_of(open=True),
        rules_of(rule=("allow from public to self port 80", "allow")),
    )
    dst = Address(b"127.0.0.1", 80, Atyp.IPV4)
    refusal = closed.decide(behind(), 5, Cmd.CONNECT, dst, b"\x7f\0\0\1").reason

    assert "loopback addresses are not for clients behind a forwarder" == refusal
    assert not decision(opened, behind(), "127.0.0.1")  # "self" has no loopback in it


# What is set


@pytest.mark.parametrize(
    "listen, forwarded",
    [
        (("127.0.0.1:1080",), "1081"),
        (("127.0.0.1:1080",), ":1080"),
        (("localhost:1080",), "127.0.0.1:1080"),
        (("unix:/run/a",), "unix:/run/b"),
    ],
)
def test_it_is_one_of_the_listeners(listen, forwarded):
    """Otherwise a mistyped address would leave its clients local, as before."""
    with pytest.raises(ConfigError, match="is none of the addresses to listen on"):
        Config.of(listen=listen, forwarded=forwarded)


@pytest.mark.parametrize("spelled", ["1080", "127.0.0.1:1080", "127.0.0.1:01080"])
def test_it_may_be_spelled_in_another_way(spelled):
    """Any spelling of the same address will do."""
    config = Config.of(listen=("127.0.0.1:1080", "1081"), forwarded=spelled)

    assert [True, False] == [config.is_forwarded(text) for text in config.listen]


def said(settings, by):
    """Return what the start, or ``check``, or ``check --json`` says about such listeners."""
    chosen = layered(settings, {})
    config, access = chosen.config, Access.of(chosen.config, Hooks())
    if by == "start":
        where = list(config.listen), list(config.forwarded)
        return at_start(*where, config, access, Room(None, None, None))
    if by == "check":
        return [tuple(line.split(": ", 1)) for line in as_table(chosen, access)]
    return [("forwarded:", as_data(chosen, access).get("forwarded"))]


UNHELD = "--max-per-client, --rate, --auth-once; by SOCKS4 it is refused (--ident)"


@pytest.mark.parametrize("by", ["start", "check", "json"])
@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, "and none comes in: add --users-file, a rule or --open"),
        ({"open": True}, "and comes in without a password"),
        ({"user": (ANN,)}, "and needs a password"),
        (
            {"user": (ANN,), "rate": "1M", "max_per_client": "3", "auth_once": "60", "ident": True},
            "and needs a password; these settings do not apply to it: " + UNHELD,
        ),
    ],
)
def test_the_start_and_check_describe_it(by, settings, expected):
    """Where, that its clients are strangers, how they come in, and what does not hold."""
    listen = ("127.0.0.1:1081", "127.0.0.1:1080")
    lines = said(dict(settings, listen=listen, forwarded=listen[:1]), by)
    told = [line[1] for line in lines if line[0] in ("forwarded:", "forwarded")]

    text = "each client at 127.0.0.1:1081 counts as a stranger from a public address, " + expected
    assert [text] == told


def test_no_line_says_that_this_host_comes_in_by_it():
    """Where all listeners belong to forwarders, a client on this host is behind one, too."""
    lines = dict(said({"forwarded": ("127.0.0.1:1080",)}, "start"))

    assert "may come in:" not in lines
    assert "no client can come in by this address yet: add --user or --open" == lines["try it:"]


def test_allow_lan_lets_no_strangers_in_by_it():
    """So the start does not warn about interfaces on whose side such clients are."""
    config = Config(listen=(":1080",), forwarded=(":1080",), allow_lan=True)
    access, own = Access.of(config, Hooks()), [("wan0", packed_ip("100.64.0.1"))]
    for forwarded, count in ((["0.0.0.0:1080"], 0), ([], 1)):
        room = Room(None, None, None)
        lines = at_start(["0.0.0.0:1080"], forwarded, config, access, room, own)
        assert count == len([line for line in lines if line[0] == "take care:"])


def test_check_asks_about_it_where_there_are_no_others():
    """A client of this host has no other listener to come by."""
    asks = ("check", "--to", "192.0.2.1:80", "-l", "1080")

    assert "allowed: 127.0.0.1 to" in run_command(*asks)[1]
    assert "denied: forwarder to" in run_command(*asks, "--forwarded", "1080")[1]
    assert "allowed: 127.0.0.1" in run_command(*asks, "-l", "1081", "--forwarded", "1080")[1]


def test_check_answers_about_it():
    """check answers for a client without a password, with one, and by UDP."""
    asks = ("check", "--user", ANN, "--from", "forwarder", "--to", "192.0.2.1:80")

    assert 1 == run_command(*asks)[0]
    assert 0 == run_command(*asks, "--as", "ann")[0]
    status, output, _ = run_command(*asks, "--as", "ann", "--command", "udp")
    assert (1, True) == (status, "a forwarder has no UDP: it gets REP 07" in output)


# Over sockets


def test_it_does_not_come_in_without_a_password(target):
    """Without any option it is refused, by each protocol."""
    with forwarded_proxy(rule=()) as proxy:
        with Talk.to(proxy.port) as talk:
            talk.send(GREETING).expect(b"\5\0").send(socks5("127.0.0.1", target.port))
            talk.expect(NOT_ALLOWED).expect_eof()
        with Talk.to(proxy.port) as talk:
            talk.send(socks4("127.0.0.1", target.port)).expect(b"\0\x5b")
        assert "forwarder" == proxy.records[-1].client.host
    assert [] == target.talks


def test_it_does_not_reach_this_host_with_one(target):
    """Nor this host's loopback, unless a rule names it."""
    with forwarded_proxy(user=(ANN,), rule=()) as proxy, Talk.to(proxy.port) as talk:
        login(talk).send(socks5("127.0.0.1", target.port)).expect(NOT_ALLOWED)
    assert [] == target.talks
    with forwarded_proxy(user=(ANN,)) as proxy, Talk.to(proxy.port) as talk:
        login(talk).send(socks5("127.0.0.1", target.port))
        assert 0 == talk.receive_reply5()[0]
        talk.send(b"x").expect(b"x")


def test_another_listener_is_none(target):
    """A client of this host that comes by another listener is local, as without forwarder."""
    listen = ("127.0.0.1:0", "[::1]:0")
    with run_proxy(listen=listen, forwarded="127.0.0.1:0") as proxy:
        assert [proxy.address] == proxy.forwarded
        with Talk.to(proxy.port) as talk:
            assert 2 == talk.connect5("127.0.0.1", target.port)[0]
        port = int(proxy.addresses[1].rpartition(":")[2])
        with Talk.to(port, "::1") as talk:
            assert 0 == talk.connect5("127.0.0.1", target.port)[0]


def test_a_unix_socket_may_be_one(target, tmp_path):
    """A client that comes by a unix socket is a stranger, too."""
    path = "unix:%s" % (tmp_path / "socks")
    with run_proxy(listen=path, forwarded=path), socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path[5:])
        assert 2 == Talk(sock).connect5("127.0.0.1", target.port)[0]
    assert [] == target.talks


@pytest.mark.rfc("RFC 1928 section 6", "REP 07: command not supported.")
def test_it_has_no_udp():
    """Datagrams would not come through the forwarder, and the client's address is unknown."""
    with forwarded_proxy(open=True) as proxy, Talk.to(proxy.port) as talk:
        talk.send(GREETING).expect(b"\5\0").send(socks5("0.0.0.0", 0, UDP_ASSOCIATE))
        talk.expect(failure5(7))


@pytest.mark.rfc("RFC 1413 sections 1 and 2", "A server listens on TCP port 113.")
def test_the_identd_of_the_forwarder_is_not_asked(monkeypatch, target):
    """It would name the user of the forwarder."""
    with identd(monkeypatch, says_user(b"ann")) as server:
        with forwarded_proxy(ident=True, open=True) as proxy, Talk.to(proxy.port) as talk:
            talk.send(socks4("127.0.0.1", target.port, b"ann")).expect(b"\0\x5c")
        assert [] == server.callers


def test_a_program_sees_that_it_is_one(target):
    """The request that hooks get has no address, and is not local."""
    seen = []

    def authorize(request):
        seen.append((request.client.host, request.client.is_local, request.client.is_forwarded))
        return True

    with forwarded_proxy(open=True, authorize=authorize) as proxy, Talk.to(proxy.port) as talk:
        assert 0 == talk.connect5("127.0.0.1", target.port)[0]
    assert [("forwarder", False, True)] == seen


def test_a_program_may_choose_its_forwarded_clients(target):
    """``client_of`` of its ``SocksServer`` decides about sockets that the program has made."""

    class Server(SocksServer):
        def client_of(self, client_address):
            return Client(client_address, is_forwarded=True)

    proxy = Proxy(listen="127.0.0.1:0")
    proxy.server_type = Server
    with proxy, Talk.to(proxy.port) as talk:
        assert 2 == talk.connect5("127.0.0.1", target.port)[0]


def test_a_program_may_say_that_a_listener_is_one(target):
    """What the program's server class sets stays as it is at a reload."""

    class Server(SocksServer):
        def __init__(self, *args):
            super().__init__(*args)
            self.is_forwarded = True

    proxy = Proxy(listen="127.0.0.1:0")
    proxy.server_type = Server
    with proxy:
        proxy.reload(proxy.config._replace(prefer="ipv4"))
        with Talk.to(proxy.port) as talk:
            assert 2 == talk.connect5("127.0.0.1", target.port)[0]


# What goes by address


def test_auth_once_does_not_hold():
    """Otherwise one client that logs in would admit all that come by this forwarder."""
    with forwarded_proxy(user=(ANN,), auth_once=60.0) as proxy:
        with FakeTarget() as target:
            with Talk.to(proxy.port) as talk:
                login(talk).send(socks5("127.0.0.1", target.port))
                assert 0 == talk.receive_reply5()[0]
            with Talk.to(proxy.port) as talk:
                talk.send(GREETING).expect(b"\5\xff")
            with Talk.to(proxy.port) as talk:
                talk.send(socks4("127.0.0.1", target.port)).expect(b"\0\x5b")
            wait_until(lambda: target.talks)
            assert 1 == len(target.talks)


def test_no_client_is_known_by_that_address():
    """Nothing is remembered about its clients by address."""
    trusted = TrustedAddresses()
    trusted.add(behind(), b"ann", b"proof", 10.0)

    assert trusted.user_at(behind(), 0.0) is None


def test_no_limit_of_each_client_holds(target):
    """All its clients have one address, so limits of connections and bytes do not apply to it."""
    with forwarded_proxy(open=True, max_per_client=1, rate=1000) as proxy:
        with Talk.to(proxy.port) as one, Talk.to(proxy.port) as two:
            for talk in (one, two):
                assert 0 == talk.connect5("127.0.0.1", target.port)[0]
            two.send(bytes(100000)).expect(bytes(100000))
            assert 0 == len(proxy.services.rates)


def test_max_per_user_holds(target):
    """Connections of a user are counted together, wherever its clients are."""
    with forwarded_proxy(user=(ANN,), max_per_user=1) as proxy:
        with Talk.to(proxy.port) as one, Talk.to(proxy.port) as two:
            login(one).send(socks5("127.0.0.1", target.port))
            assert 0 == one.receive_reply5()[0]
            login(two).send(socks5("127.0.0.1", target.port)).expect(NOT_ALLOWED)


@pytest.mark.parametrize("most, factor", [(9, 8), (64, 0.25), (256, 0.25), (1000, 8)])
def test_no_share_holds(most, factor):
    """It may have all places but those kept for this host and for networks that have none."""
    allowance = Allowance(most, factor)
    while allowance.has_room(FORWARDED):
        allowance.add(FORWARDED)

    assert most - most // 8 - most // 64 == len(allowance)
    assert (most >= 8) == allowance.has_room(THIS_HOST)
    assert (most >= 64) == allowance.has_room(Client(("10.0.0.1", 1)).groups)


def test_the_connections_of_a_proxy_are_no_share_of_it(target):
    """All nine connections are had, although one address would have no more than eight."""
    with forwarded_proxy(open=True, max_connections=9) as proxy:
        talks = [Talk.to(proxy.port) for _ in range(9)]
        assert [0] * 9 == [talk.connect5("127.0.0.1", target.port)[0] for talk in talks]
        for talk in talks:
            talk.close()


def test_penalties_go_by_user_name():
    """Guesses at one user do not delay another, even where only a program knows the users."""
    conn = types.SimpleNamespace(client=behind())
    for users in (Users([(b"ann", b"secret"), (b"bob", b"secret")]), Users(authenticate=bool)):
        logins = Logins(Pending(4, Processor(None)), HandlerQueue(4))
        logins.adopt(users, 0.0)
        for _ in range(FREE):
            logins.failed(conn.client, b"bob")
        ann, bob = (
            inside.wait_seconds(logins, conn, Credentials(name, b"secret"), users)
            for name in (b"ann", b"bob")
        )
        assert 0 == ann < bob


def test_invented_names_are_one_row():
    """Each invented name counts in the same row, so a new name for each guess gains nothing."""
    users = Users([(b"a", b"b")])
    for client in (behind(), Client(("192.0.2.1", 1))):
        assert inside.row_of(client, b"ann", users) == inside.row_of(client, b"bob", users)


# Reloads


def test_a_reload_makes_a_listener_one(target):
    """At once: a client that has come before, without a granted request, is refused."""
    with run_proxy() as proxy:
        with Talk.to(proxy.port) as before, Talk.to(proxy.port) as after:
            before.send(GREETING).expect(b"\5\0")
            proxy.reload(proxy.config._replace(forwarded=proxy.config.listen))
            before.send(socks5("127.0.0.1", target.port)).expect(NOT_ALLOWED)
            assert "--forwarded" in proxy.records[-1].why
            after.close()
        with Talk.to(proxy.port) as talk:
            assert 2 == talk.connect5("127.0.0.1", target.port)[0]
        assert [proxy.address] == proxy.forwarded
        proxy.reload(proxy.config._replace(forwarded=()))
        with Talk.to(proxy.port) as talk:
            assert 0 == talk.connect5("127.0.0.1", target.port)[0]
            wait_until(lambda: target.talks)
    assert 1 == len(target.talks)


def test_a_reload_brings_one(target, tmp_path):
    """A new listener is a forwarder's from its first client on."""
    path = "unix:%s" % (tmp_path / "socks")
    with run_proxy() as proxy:
        listen = proxy.config.listen + (path,)
        proxy.reload(proxy.config._replace(listen=listen, forwarded=(path,)))
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path[5:])
            assert 2 == Talk(sock).connect5("127.0.0.1", target.port)[0]


def test_what_knows_its_clients_goes_on(target):
    """A client whose address is known behind the forwarder keeps it, also after a reload."""

    class Server(SocksServer):
        def client_of(self, client_address):
            return Client(("127.0.0.1", 4242))

    proxy = Proxy(listen="127.0.0.1:0", forwarded="127.0.0.1:0")
    proxy.server_type = Server
    with proxy, Talk.to(proxy.port) as talk:
        talk.send(GREETING).expect(b"\5\0")
        proxy.reload(proxy.config._replace(prefer="ipv4"))
        talk.send(socks5("127.0.0.1", target.port))
        assert 0 == talk.receive_reply5()[0]


def test_in_the_background_its_path_stays_the_same(tmp_path):
    """A relative path means the same listener in the background and after a reload."""
    where = ("-l", "unix:s", "--forwarded", "unix:s", "--pidfile", "p", "--log-file", "log")
    env = dict(os.environ, PYTHONPATH=ROOT)
    run = functools.partial(run_command, cwd=str(tmp_path), env=env)

    assert 0 == run("--daemon", *where)[0]
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(tmp_path / "s"))
            assert 2 == Talk(sock).connect5("192.0.2.1", 80)[0]
        assert 0 == run("reload", "--pidfile", "p")[0]
    finally:
        assert 0 == run("stop", "--pidfile", "p")[0]
