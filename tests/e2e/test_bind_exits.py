"""BIND by exits: the hop listens, its replies go to the client, and its peer is judged here."""

import contextlib
import socket
import struct
import time

import pytest

from kit.bind_client import WAYS, Waiting
from kit.support import FakeTarget, Talk, address5, closed_port, nothing_left, run_proxy, wait_until
from minisocks.net.lookup import getaddrinfo_of
from minisocks.net.resolver import Resolver
from minisocks.server import clientsocket

GRANTED = b"\x05\x00\x00"
NOWHERE = address5("0.0.0.0", 0)


def socks5_hop(*steps, closes=False):
    """Return the script of a SOCKS5 hop that sends *steps* after its client's request.

    A step may be a function, which is called.
    """

    def script(talk):
        talk.expect(b"\x05\x01\x00").send(b"\x05\x00")
        talk.receive(3)
        size = {b"\x01": 6, b"\x04": 18}.get(talk.receive(1)) or talk.receive(1)[0] + 2
        talk.receive(size)
        for step in steps:
            talk.send(step() if callable(step) else step)
        if not closes:
            talk.rest()

    return script


@contextlib.contextmanager
def through(*steps, rule="allow via hop", closes=False, **settings):
    """A scripted hop, and a proxy whose clients leave by it."""
    with FakeTarget(socks5_hop(*steps, closes=closes)) as hop:
        exits = ["hop = socks5h://127.0.0.1:%d" % hop.port]
        with run_proxy(exit=exits + settings.pop("exit", []), rule=[rule], **settings) as proxy:
            yield proxy, hop


def place(host="127.0.0.1", port=4001):
    """Return a reply that grants, with this BND."""
    return GRANTED + address5(host, port)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no unix sockets")
def test_an_exit_without_source_for_the_client_is_passed_over(tmp_path):
    """``source same``, and a client by a unix socket, which has connected to no address."""
    path = str(tmp_path / "s.sock")
    settings = {"listen": "unix:" + path, "exit": ["same1 = direct source same"]}
    with through(place(), rule="allow via same1 or hop", **settings):
        with Talk(socket.socket(socket.AF_UNIX)) as talk:
            talk.sock.connect(path)
            talk.send(b"\x05\x01\x00\x05\x02\x00" + NOWHERE)
            talk.expect(b"\x05\x00" + place())


@pytest.mark.parametrize("schemes", [["socks5"], ["socks5h"], ["socks4a"], ["socks5h", "socks4"]])
@pytest.mark.parametrize("way", WAYS)
def test_a_peer_connects_to_the_parent(way, schemes, access_log):
    """Another minisocks listens; one that is reached by a second one, too."""
    with contextlib.ExitStack() as stack:
        parents = [stack.enter_context(run_proxy()) for _ in schemes]
        urls = ["%s://127.0.0.1:%d" % pair for pair in zip(schemes, [p.port for p in parents])]
        proxy = stack.enter_context(
            run_proxy(exit=["far = " + ", ".join(urls)], rule=["allow via far"])
        )
        client = stack.enter_context(Waiting(proxy.port, way=way, early=b""))
        assert (client.granted, "127.0.0.1") == (client.rep, client.host)
        assert len(parents[-1]), "the parent listens"
        with client.peer() as peer:
            client.expect_peer(peer)
            client.expect_to_work(peer)
        client.talk.close()
        line = access_log.wait_for("exit=far")
        assert "cmd=BIND" in line
        assert "bound=127.0.0.1:%d" % client.port in line
        wait_until(lambda: not len(parents[-1]), "the end at the parent")


def test_any_peer_leaves_by_the_exits_of_its_rule():
    """The first rule that allows any address says which; 0.0.0.0 reaches the parent."""
    with run_proxy() as parent:
        exits = ["office = socks5://127.0.0.1:%d" % parent.port]
        rules = ["allow command bind via office", "allow"]
        with run_proxy(exit=exits, rule=rules) as proxy:
            with Waiting(proxy.port, "0.0.0.0") as client:
                with client.peer() as peer:
                    client.expect_peer(peer)
                    assert [("BIND", "0.0.0.0")] == [(one.cmd, one.host) for one in parent.live]
                    client.expect_to_work(peer)


def test_the_name_of_a_peer_is_looked_up_by_the_hop():
    """No look-up leaves this host where the rule decides by name."""

    def never(*args):
        raise AssertionError("looked up")

    with run_proxy(resolver=Resolver(getaddrinfo_of(lambda name: ["127.0.0.1"]))) as parent:
        exits = ["office = socks5h://127.0.0.1:%d" % parent.port]
        with run_proxy(resolver=Resolver(never), exit=exits, rule=["allow via office"]) as proxy:
            with Waiting(proxy.port, "peer.example", "5 by name") as client, client.peer() as peer:
                client.expect_peer(peer)
                client.expect_to_work(peer)


def test_both_replies_at_once_and_early_bytes():
    """What is behind the second reply is the peer's first."""
    both = place() + place("127.0.0.1", 5001) + b"220 early"
    with through(both) as (proxy, _hop), Waiting(proxy.port) as client:
        assert (0, "127.0.0.1", 4001) == (client.rep, client.host, client.port)
        assert (0, "127.0.0.1", 5001) == client.reply()
        client.talk.expect(b"220 early")


def test_replies_byte_by_byte():
    """However TCP cuts them."""
    both = place() + place("127.0.0.1", 5001) + b"x"
    steps = [both[i : i + 1] for i in range(len(both))]
    with through(*steps) as (proxy, _hop), Waiting(proxy.port) as client:
        assert (0, "127.0.0.1", 5001) == client.reply()
        client.talk.expect(b"x")


@pytest.mark.parametrize("way", ["4", "5"])
def test_an_unspecified_bnd_is_the_hops_address(way):
    """Of the hop that has sent it."""
    with through(place("0.0.0.0", 4001)) as (proxy, _hop), Waiting(proxy.port, way=way) as client:
        assert (client.granted, "127.0.0.1", 4001) == (client.rep, client.host, client.port)


@pytest.mark.parametrize("way", ["4", "5"])
@pytest.mark.parametrize(
    "second, rep, why",
    [
        (b"\x05\x06\x00" + NOWHERE, 6, "its second reply: TTL expired (REP 06)"),
        (b"\x05\x09\x00" + NOWHERE, None, "its second reply"),
        (place("127.0.0.2"), 2, "127.0.0.2 connected to 127.0.0.1:4001"),
        (place("0.0.0.0"), 1, "its second reply names no peer"),
        (GRANTED + address5(b"peer.example", 5001), 1, "its second reply names no peer"),
        (b"\x04\x00\x00", 1, "after the first reply: its reply begins with 0x04"),
        (GRANTED + b"\x09", 1, "its reply is not valid"),
    ],
)
def test_second_replies_that_end_the_request(second, rep, why, way, access_log):
    """Each has a REP and a sentence; the hop's connection is closed."""
    with through(place(), second) as (proxy, _hop), Waiting(proxy.port, way=way) as client:
        assert client.granted == client.rep
        got, host, port = client.reply()
        if rep is not None:
            assert (client.refused(rep), "0.0.0.0", 0) == (got, host, port)
        client.talk.expect_eof()
        assert why in access_log.wait_for("end=refused")


def test_the_hop_closes_between_the_replies(access_log):
    """REP 01; it has answered the request, so it is not passed over from now on."""
    with through(place(), closes=True) as (proxy, _hop), Waiting(proxy.port) as client:
        assert (1, "0.0.0.0", 0) == client.reply()
        client.talk.expect_eof()
        assert "after the first reply: it closed" in access_log.wait_for("end=refused")
        assert "" == proxy.services.exits.error_of("hop")


@pytest.mark.parametrize("first", [GRANTED + address5(b"x.example", 1), place("::1")])
def test_a_first_reply_that_the_client_cannot_use(first, access_log):
    """A name; and with SOCKS4, an IPv6 address."""
    with through(first) as (proxy, _hop), Waiting(proxy.port, way="4") as client:
        assert 91 == client.rep
        client.talk.expect_eof()
        assert "cannot use its first reply" in access_log.wait_for("end=refused")


def test_a_denied_peer(access_log):
    """The rules judge the peer that the hop names as one that connects here."""
    rule = "allow to 0.0.0.0 127.0.0.1 via hop"
    with through(place(), place("10.9.9.9"), rule=rule) as (proxy, _hop):
        with Waiting(proxy.port, "0.0.0.0") as client:
            client.expect_refusal(2)
            assert "10.9.9.9" in access_log.wait_for("end=refused")


def test_the_time_is_over(access_log):
    """The second reply is REP 06."""
    with through(place(), bind_timeout=0.3) as (proxy, _hop), Waiting(proxy.port) as client:
        client.expect_refusal(6)
        line = access_log.wait_for("end=refused")
        assert "exit hop: no peer connected to 127.0.0.1:4001 in time" in line


def test_a_hop_without_a_first_reply(access_log):
    """It has --connect-timeout, as for CONNECT."""
    with through(connect_timeout=0.3) as (proxy, _hop), Waiting(proxy.port) as client:
        assert 6 == client.rep
        assert "has not answered in time" in access_log.wait_for("end=refused")


def test_the_peer_has_all_of_bind_timeout():
    """Though the first reply had a shorter time."""
    late = [place(), lambda: wait_and_say(0.6, place("127.0.0.1", 5001))]
    with through(*late, connect_timeout=0.3) as (proxy, _hop), Waiting(proxy.port) as client:
        assert (0, "127.0.0.1", 5001) == client.reply()


def wait_and_say(seconds, data):
    """Return *data* after so many seconds."""
    time.sleep(seconds)
    return data


@pytest.mark.parametrize("leaves", ["reset", "close"])
def test_the_client_leaves(leaves, access_log, monkeypatch):
    """By a reset at once; after FIN, which may mean less, in 5 s.  The hop sees the end."""
    monkeypatch.setattr(clientsocket, "FIN_SECONDS", 0.1)
    with nothing_left(), through(place()) as (proxy, _hop):
        client = Waiting(proxy.port)
        if leaves == "reset":
            client.talk.reset()
            access_log.wait_for("end=client-gone")
        else:
            client.talk.close()
            access_log.wait_for("5 s after the FIN")


def test_a_reload_denies_a_waiting_peer():
    """Also while a hop waits for it."""
    with through(place()) as (proxy, _hop), Waiting(proxy.port) as client:
        proxy.reload(proxy.config._replace(rule=("deny command bind", "allow via hop")))
        client.expect_refusal(2)


def test_a_reload_that_changes_nothing_for_it():
    """It waits on."""
    with run_proxy() as parent:
        exits = ["hop = socks5://127.0.0.1:%d" % parent.port]
        with run_proxy(exit=exits, rule=["allow via hop"]) as proxy:
            with Waiting(proxy.port) as client:
                proxy.reload(proxy.config._replace(rule=("allow to 127.0.0.1 via hop",)))
                with client.peer() as peer:
                    client.expect_peer(peer)
                    client.expect_to_work(peer)


def test_a_stop_ends_what_waits(access_log):
    """No descriptor is left."""
    with nothing_left(), through(place()) as (proxy, _hop):
        with Waiting(proxy.port) as client:
            proxy.stop(0)
            client.talk.expect_eof()
        assert "cmd=BIND" in access_log.wait_for("end=shutdown")


def test_a_kind_without_bind(access_log):
    """REP 07 and the reason; nothing is sent to the hop."""
    with run_proxy(
        exit=["web = http://127.0.0.1:%d" % closed_port()], rule=["allow via web"]
    ) as proxy:
        with Waiting(proxy.port) as client:
            assert 7 == client.rep
        assert "exit web: HTTP has CONNECT only" in access_log.wait_for("end=refused")


def test_a_parent_without_bind(access_log):
    """Its REP 07 is the client's."""
    with through(b"\x05\x07\x00" + NOWHERE) as (proxy, _hop), Waiting(proxy.port) as client:
        assert 7 == client.rep
        assert "exit hop" in access_log.wait_for("end=refused")


@pytest.mark.parametrize("first", ["web = http://127.0.0.1:1", "off = socks5://127.0.0.1:%d"])
def test_the_next_exit(first):
    """After one that cannot carry BIND, or does not answer: here that is this host itself."""
    first = first % closed_port() if "%d" in first else first
    name = first.partition(" ")[0]
    with run_proxy(exit=[first], rule=["allow via %s or direct" % name]) as proxy:
        for dst, way in (("127.0.0.1", "5"), ("0.0.0.0", "5"), ("localhost", "5 by name")):
            with Waiting(proxy.port, dst, way) as client:
                assert client.granted == client.rep
                to = ("127.0.0.1", client.port) if dst != "0.0.0.0" else client.place
                with Talk(socket.create_connection(to)) as peer:
                    client.expect_peer(peer)
                    client.expect_to_work(peer)


def test_a_direct_exit_has_its_own_source(access_log):
    """This host listens on the address of the exit."""
    exits = ["lan2 = direct source 127.0.0.7"]
    with run_proxy(exit=exits, rule=["allow via lan2"]) as proxy, Waiting(proxy.port) as client:
        assert (0, "127.0.0.7") == (client.rep, client.host)
        with client.peer() as peer:
            client.expect_peer(peer)
            client.expect_to_work(peer)
        assert "exit=lan2" in access_log.wait_for("cmd=BIND")


def test_any_bytes_of_a_hop():
    """A reply or a sentence for each, and nothing stays behind."""
    pieces = [place(), b"\x05", b"\x00" * 40, struct.pack("!I", 0x05000001), b"\xff" * 40]
    with nothing_left():
        for one in pieces:
            for other in pieces:
                with through(one, other, closes=True) as (proxy, _hop):
                    with Waiting(proxy.port) as client:
                        client.talk.rest()
