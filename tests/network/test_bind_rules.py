"""The peers that BIND may wait for: rules asked twice, with addresses of every kind."""

import contextlib
import os
import socket
import threading

import pytest

from kit import namespace as net
from kit.bind_client import WAYS, Waiting, ending_by_reset
from kit.elsewhere import HERE4
from kit.forms import LINK_LOCAL, PRIVATE, THIS_HOST
from kit.support import BIND, GREETING, Talk, password_message, run_proxy, socks5, wait_until

NOT_ALLOWED = 2
LAN = {"allow_lan": True}
every_way = pytest.mark.parametrize("way", WAYS)

#: What means any peer: it may be waited for, and cannot be reached.
ANY_PEER = ("0.0.0.0", "::", b"0.0.0.0", b"::", b"[::]")
#: What is the address of no peer.
NO_PEER = ("::ffff:0.0.0.0", b"0", b"0.0", b"::ffff:0:0", b"zero.test")


def first_reply(here, source, dst, **settings):
    """Return REP for a client at *source* that wants to wait for *dst*."""
    with Talk(here.connect(source, here.proxy(**settings))) as talk:
        talk.send(GREETING + socks5(dst, 0, BIND)).expect(b"\5\0")
        return talk.receive_reply5()[0]


@pytest.mark.parametrize("dst", [d for d in THIS_HOST if d not in ANY_PEER], ids=repr)
def test_this_host_is_not_waited_for_by_clients_from_elsewhere(here, dst):
    """In any form; a name that means 0.0.0.0 has no usable address."""
    rep = first_reply(here, net.PRIVATE4, dst, **LAN)
    assert (4 if dst in NO_PEER else NOT_ALLOWED) == rep


@pytest.mark.parametrize("dst", PRIVATE + LINK_LOCAL, ids=repr)
def test_private_addresses_are_not_waited_for_by_public_clients(here, dst):
    """Nor link-local ones, with --open and the rules built in."""
    assert NOT_ALLOWED == first_reply(here, net.PUBLIC4, dst, open=True)


@every_way
def test_loopback_is_no_peer_of_a_client_from_elsewhere(here, way):
    """Even where any peer may connect, one that connects from there is reset, each time."""
    sock = ending_by_reset(here.connect(net.PRIVATE4, here.proxy(**LAN)))
    with Waiting(sock, "0.0.0.0", way) as client:
        assert client.granted == client.rep
        for _ in range(3):
            client.meet_stranger(net.LOOPBACK4, here)


def test_a_private_address_is_a_peer_of_a_client_on_this_host(here):
    """A client on the proxy's host may be connected with it."""
    with Waiting(here.connect(net.LOOPBACK4, here.proxy(**LAN)), net.PRIVATE4) as client:
        assert HERE4 == client.host
        with client.peer(net.PRIVATE4, here) as peer:
            client.expect_peer(peer)
            client.expect_to_work(peer)


def test_a_name_is_looked_up_once(here):
    """The address that passed is waited for, and not what the name has become."""
    here.asked()  # begins a new list
    port = here.proxy(rule=["deny to private", "allow"])
    with Waiting(here.connect(net.LOOPBACK4, port), "rebind.test", "5 by name") as client:
        assert (0, HERE4) == (client.rep, client.host)
        with client.peer(net.PUBLIC4, here) as peer:
            client.expect_peer(peer)
    assert ["rebind.test"] == here.asked()


@pytest.mark.rfc(
    "RFC 1928 section 6, BIND",
    "It is expected after a primary connection, and for secondary ones only.",
)
@pytest.mark.rfc(
    "RFC 1928 section 6, BIND",
    "The server is expected to use DST.ADDR and DST.PORT in evaluating it.",
)
@pytest.mark.rfc("SOCKS4, BIND", "The server decides by what the client has said.")
@every_way
@pytest.mark.parametrize(
    "rule",
    [
        ["deny command bind", "allow"],
        ["allow command connect udp"],
        ["deny command bind to 127.0.0.0/8 ::1", "allow"],
        ["deny command bind port 21", "allow"],
        ["deny from 127.0.0.1 command bind", "allow"],
    ],
)
def test_a_rule_about_bind_refuses_it(way, rule):
    """By command, client, peer, or the port that is named: REP 02 (91); CONNECT is not changed."""
    with run_proxy(rule=rule) as proxy, Waiting(proxy.port, way=way, dst_port=21) as client:
        assert client.refused(NOT_ALLOWED) == client.rep
        client.talk.expect_eof()


def test_a_rule_that_denies_all_peers_refuses_bind():
    """Nothing listens where no peer could be accepted."""
    for rule in (
        ["deny command bind", "allow"],
        ["allow command connect"],
        ["deny to 0.0.0.0 command bind", "allow"],
        ["deny to 0.0.0.0/0 command bind port 0", "allow"],
    ):
        with run_proxy(rule=rule) as proxy, Waiting(proxy.port, "0.0.0.0") as client:
            assert NOT_ALLOWED == client.rep, rule
    for rule in (["deny to loopback", "allow"], ["deny to 0.0.0.0 port 9", "allow"]):
        with run_proxy(rule=rule) as proxy, Waiting(proxy.port, "0.0.0.0") as client:
            assert 0 == client.rep, rule


@pytest.mark.parametrize("rule", [["deny to {} command bind", "allow"], ["allow port 99"]])
def test_a_rule_about_the_peer_that_came(rule, monkeypatch, access_log):
    """It is asked with that peer's address, and the port that the client named."""
    monkeypatch.setattr("minisocks.server.bind.MAX_WRONG_PEERS", 2)
    with run_proxy() as proxy, Waiting(proxy.port, "0.0.0.0") as client:
        host = client.host
    with run_proxy(rule=[text.format(host) for text in rule]) as proxy:
        with Waiting(proxy.port, "0.0.0.0", dst_port=21) as client:
            client.meet_stranger(host)
            client.expect_stranger(host)
    access_log.wait_for("%s:21" % host)


@every_way
@pytest.mark.parametrize("dst", ["127.0.0.1", "0.0.0.0"])
def test_a_reload_while_it_waits(way, dst):
    """The BIND ends where no peer could be accepted any more: 02 or 91."""
    with run_proxy(rule=["allow"]) as proxy:
        with Waiting(proxy.port, dst, way if dst[0] != "0" else way[0]) as client:
            proxy.reload(proxy.config._replace(rule=("deny to 10.0.0.0/8", "allow")))
            rule = "deny to loopback" if dst[0] != "0" else "deny command bind"
            proxy.reload(proxy.config._replace(rule=(rule, "allow")))
            client.expect_refusal(2)


def test_a_peer_that_a_reload_has_denied():
    """The rules in force when a peer comes decide about it."""
    with run_proxy(rule=["allow"]) as proxy, Waiting(proxy.port, "0.0.0.0") as client:
        proxy.reload(proxy.config._replace(rule=("deny to %s" % client.host, "allow")))
        client.meet_stranger()
        proxy.reload(proxy.config._replace(rule=("allow",)))
        with client.peer() as peer:
            client.expect_peer(peer)


def test_a_user_of_a_rule():
    """A password makes a user, and a rule may allow that user to wait."""
    settings = {"user": "ann:secret", "rule": ["allow user ann command bind"]}
    with run_proxy(**settings) as proxy:
        with Talk.to(proxy.port) as talk:
            talk.send(b"\5\1\2" + password_message(b"ann", b"secret")).expect(b"\5\2\1\0")
            talk.send(socks5("127.0.0.1", 0, BIND))
            assert 0 == talk.receive_reply5()[0]
        with Waiting(proxy.port, way="4") as client:
            assert 91 == client.rep


def test_the_programs_hook_is_asked():
    """It gets the address that the client waits for; what it denies is refused."""
    asked, threads = [], set()

    def authorize(request):
        asked.append((request.cmd, request.host, request.port))
        threads.add(threading.current_thread().name)
        return request.port != 9

    with run_proxy(authorize=authorize) as proxy:
        with Waiting(proxy.port, dst_port=21) as client, client.peer() as peer:
            client.expect_peer(peer)
            client.expect_to_work(peer)
        with Waiting(proxy.port, "0.0.0.0", "4", dst_port=9) as client:
            assert 91 == client.rep
    assert [("BIND", "127.0.0.1", 21), ("BIND", "0.0.0.0", 9)] == asked
    assert {"minisocks-handler"} == threads


def test_a_client_on_a_unix_socket(tmp_path):
    """It waits as any other; the address for any peer is that of the way out, or loopback."""
    path = str(tmp_path / "s")
    with run_proxy(listen="unix:" + path):
        for dst in ("127.0.0.1", "0.0.0.0"):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(path)
            with Waiting(sock, dst) as client, client.peer() as peer:
                client.expect_peer(peer)
                client.expect_to_work(peer)


def use_up_descriptors(stack):
    """Have this process open all descriptors that it may."""
    while True:
        try:
            fd = os.open(os.devnull, os.O_RDONLY)
        except OSError:
            return
        stack.callback(os.close, fd)


def test_no_descriptor_for_the_peer(access_log):
    """The client receives 01, and the peer is reset; nothing is left."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with run_proxy() as proxy, Waiting(proxy.port) as client:
        peer = socket.socket()
        with contextlib.ExitStack() as stack, peer:
            stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
            resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
            use_up_descriptors(stack)
            peer.connect(client.place)
            assert (1, "0.0.0.0", 0) == client.reply()
        client.talk.expect_eof()
        wait_until(lambda: not len(proxy), "the end of all")
    access_log.wait_for("could not be accepted: Too many open files")


def test_no_descriptor_for_the_listener(access_log):
    """The first reply is 01."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with run_proxy() as proxy, Talk.to(proxy.port) as talk:
        talk.send(GREETING).expect(b"\5\0")
        with contextlib.ExitStack() as stack:
            stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
            resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
            use_up_descriptors(stack)
            talk.send(socks5("127.0.0.1", 0, BIND))
            assert 1 == talk.receive_reply5()[0]
        talk.expect_eof()
    access_log.wait_for("no socket for its peer: Too many open files")


def test_one_client_does_not_take_all_ports(monkeypatch, access_log, other_networks):
    """The BIND that waits for longest makes room for others, also without a range of ports."""
    monkeypatch.setattr("minisocks.server.bindlisteners.MAX_LISTENERS", 4)
    with run_proxy() as proxy, contextlib.ExitStack() as stack:

        def waiting(source):
            return stack.enter_context(Waiting(proxy.port, source=source))

        greedy = [waiting("127.2.0.1") for _ in range(5)]
        assert [0, 0, 0, 0, 2] == [client.rep for client in greedy]
        access_log.wait_for("why='there are 4 BINDs that wait already'")
        assert 1 == len(access_log.lines)
        assert [0, 0] == [waiting("127.3.0.%d" % number).rep for number in (1, 2)]
        for client in greedy[:2]:
            assert 2 == client.reply()[0]
            client.talk.expect_eof()
        # Each network has two: a client of one ends no connection of another.
        assert [2, 2] == [waiting(source).rep for source in ("127.2.0.1", "127.3.0.3")]
        for client in greedy[2:4]:
            with client.peer() as peer:
                client.expect_peer(peer)
                client.expect_to_work(peer)
        assert all("end=limit" in line for line in access_log.lines[:5])
