"""BIND (RFC 1928 section 4, the SOCKS4 memos): two replies, one peer, bytes both ways."""

import contextlib
import errno
import socket
import threading

import pytest

from kit import inside
from kit.bind_client import WAYS, Waiting
from kit.support import (
    BIND,
    GREETING,
    LINGER_RESET,
    TIMEOUT,
    Talk,
    closed_port,
    loop_held,
    run_proxy,
    socks4,
    socks5,
    two_closed_ports,
    wait_until,
)
from minisocks.net.lookup import getaddrinfo_of
from minisocks.relay.pair import Pair
from minisocks.server import clientsocket
from minisocks.server.bind import Bind
from minisocks.service.explain import Question, judge

every_way = pytest.mark.parametrize("way", WAYS)


def refuses(place):
    """Return whether no further peer is accepted at *place*.

    The listener is closed at the end of a round: a peer that connects within it is reset.
    """
    try:
        with Talk(socket.create_connection(place, TIMEOUT)) as talk:
            talk.expect_reset()
    except ConnectionError:
        pass
    return True


@pytest.mark.rfc("RFC 1928 section 4", "CMD: 01 CONNECT, 02 BIND, 03 UDP ASSOCIATE.")
@pytest.mark.rfc(
    "RFC 1928 section 4",
    "The server evaluates the request by source and destination, and sends one reply or more.",
)
@pytest.mark.rfc(
    "RFC 1928 section 6, BIND",
    "It is expected after a primary connection, and for secondary ones only.",
)
@pytest.mark.rfc("RFC 1928 section 6, BIND", "The first reply is sent once a new socket is bound.")
@pytest.mark.rfc(
    "RFC 1928 section 6, BIND",
    "The second reply comes only when the connection has come, or has failed.",
)
@pytest.mark.rfc(
    "RFC 1928 section 6, BIND", "In it, BND.ADDR and BND.PORT: those of the connecting host."
)
@pytest.mark.rfc("SOCKS4, introduction", "Two operations: CONNECT and BIND.")
@pytest.mark.rfc("SOCKS4, BIND", '"This should only happen after a primary connection" by CONNECT.')
@pytest.mark.rfc(
    "SOCKS4, BIND",
    "A second reply is sent when the connection from the application server is there.",
)
@pytest.mark.rfc("SOCKS4, BIND", "A match: CD 90, and traffic is relayed.")
@every_way
def test_a_peer_connects(proxy, way, access_log):
    """The first reply has the place to connect to, the second the peer; then bytes go both ways."""
    with Waiting(proxy.port, way=way) as client:
        assert (client.granted, "127.0.0.1") == (client.rep, client.host)
        with client.peer() as peer:
            client.expect_peer(peer)
            assert refuses(client.place), "no second peer is accepted"
            client.expect_to_work(peer)
    line = access_log.wait_for("end=")
    assert "cmd=BIND dst=" in line
    assert " bound=127.0.0.1:%d via=127.0.0.1 rep='succeeded' up=19B down=13B" % client.port in line


def test_a_peer_connects_by_ipv6(proxy):
    """In IPv6, too."""
    with Waiting(proxy.port, "::1") as client, client.peer() as peer:
        assert "::1" == client.host
        client.expect_peer(peer)
        client.expect_to_work(peer)


@pytest.mark.rfc("RFC 1928 section 6, BIND", "DST.ADDR may be a name, or unknown.")
@pytest.mark.rfc("SOCKS4, BIND", "Its origin is checked against DSTIP.")
@pytest.mark.parametrize("dst", ["0.0.0.0", "::"])
def test_any_peer_may_connect_where_none_is_named(proxy, dst):
    """The first reply has an address that a peer can connect to: never 0.0.0.0 or ::."""
    with Waiting(proxy.port, dst) as client:
        assert client.host not in ("0.0.0.0", "::")
        with client.peer() as peer:
            client.expect_peer(peer)
            client.expect_to_work(peer)


@pytest.mark.parametrize("dst", [b"0", b"0x0", b"0.0", b"0::0", "::ffff:0.0.0.0"])
def test_any_peer_is_spelled_in_one_way(proxy, dst):
    """In the way that rules and hooks see; any other form of 0.0.0.0 is the address of no host."""
    with Talk.to(proxy.port) as talk:
        talk.send(GREETING + socks5(dst, 0, BIND)).expect(b"\5\0")
        assert 4 == talk.receive_reply5()[0]


def test_any_peer_may_connect_with_socks4(proxy):
    """In SOCKS4, 0.0.0.0 means any peer, and is no mark of SOCKS4a."""
    with Waiting(proxy.port, "0.0.0.0", way="4") as client:
        assert (90, False) == (client.rep, client.host == "0.0.0.0")
        with client.peer() as peer:
            client.expect_peer(peer)
            client.expect_to_work(peer)


@pytest.mark.rfc(
    "RFC 1928 section 6, BIND",
    "The server is expected to use DST.ADDR and DST.PORT in evaluating it.",
)
@pytest.mark.rfc(
    "SOCKS4, BIND",
    "VN 4, CD 2; DSTIP is the application server, DSTPORT that of the primary connection.",
)
@pytest.mark.rfc("SOCKS4, BIND", "Its origin is checked against DSTIP.")
@pytest.mark.parametrize("dst", ["127.0.0.2", "::ffff:127.0.0.2"])
def test_the_address_of_the_peer_is_compared(proxy, dst):
    """It is compared as an IPv4 address, however it is written; its port may be any."""
    with Waiting(proxy.port, dst, dst_port=21) as client, client.peer("127.0.0.2") as peer:
        client.expect_peer(peer)
        client.expect_to_work(peer)


@pytest.mark.rfc(
    "RFC 1928 section 6, BIND",
    "The server is expected to use DST.ADDR and DST.PORT in evaluating it.",
)
@pytest.mark.rfc(
    "RFC 1928 section 6, BIND",
    "The second reply comes only when the connection has come, or has failed.",
)
@pytest.mark.parametrize("way", ["5", "5 by name"])
def test_a_stranger_is_reset_and_the_peer_waited_for(proxy, way, access_log):
    """The proxy waits on however many strangers connect; in the end the log does not name them."""
    with Waiting(proxy.port, "127.0.0.2", way) as client:
        for _ in range(3):
            client.meet_stranger("127.0.0.3")
        with client.peer("127.0.0.2") as peer:
            client.expect_peer(peer)
            client.expect_to_work(peer)
    assert "why=" not in access_log.wait_for("end=")


@pytest.mark.rfc(
    "RFC 1928 section 6, BIND",
    "The second reply comes only when the connection has come, or has failed.",
)
def test_too_many_strangers_end_it(proxy, monkeypatch, access_log):
    """Each stranger costs something, so there is a limit; then the client receives 02."""
    monkeypatch.setattr("minisocks.server.bind.MAX_WRONG_PEERS", 3)
    with Waiting(proxy.port, "127.0.0.2") as client:
        client.meet_stranger("127.0.0.3")
        client.meet_stranger("127.0.0.4")
        client.expect_stranger("127.0.0.5")
        assert refuses(client.place)
    line = access_log.wait_for("end=refused")
    assert "why='127.0.0.5 connected to " in line


def test_the_log_has_the_stranger_where_no_peer_came(access_log):
    """It may be the expected server, which has connected from another of its addresses."""
    with run_proxy() as proxy, Waiting(proxy.port, "127.0.0.2") as client:
        client.meet_stranger("127.0.0.3")
        (bind,) = inside.jobs(proxy.services.loop, Bind)
        inside.end_waiting(bind)
        client.expect_refusal(6)
    line = access_log.wait_for("end=refused")
    assert " in time; 127.0.0.3 connected to %s:%d, but the client" % client.place in line


def test_accept_that_fails_for_ever_ends_it(proxy, monkeypatch, access_log):
    """A failure may be a peer that has left, and so counts as a stranger."""
    monkeypatch.setattr("minisocks.server.bind.MAX_WRONG_PEERS", 3)
    tried = []

    class Broken:
        """The listener, at which no peer can be accepted any more."""

        def __init__(self, sock):
            self.fileno, self.close = sock.fileno, sock.close

        def accept(self):
            tried.append(1)
            raise OSError(errno.ECONNABORTED, "aborted")

    with Waiting(proxy.port, "127.0.0.2") as client:
        (bind,) = inside.jobs(proxy.services.loop, Bind)
        inside.wrap_listener(bind, Broken)
        with socket.socket() as peer:
            peer.setblocking(False)  # the reset may come before its connect has returned
            peer.connect_ex(client.place)
            client.expect_refusal(1)
    assert 3 == len(tried)
    assert "could not be accepted: aborted" in access_log.wait_for("end=refused")


@pytest.mark.rfc("SOCKS4, BIND", "Its origin is checked against DSTIP.")
@pytest.mark.rfc(
    "SOCKS4, BIND", "A mismatch: CD 91 in the second reply, and both connections are closed."
)
@pytest.mark.parametrize("way", ["4", "4a"])
def test_a_stranger_ends_it(proxy, way, access_log):
    """The memo of SOCKS4 demands it: the stranger is reset, and the client receives 91."""
    with Waiting(proxy.port, "127.0.0.2", way) as client:
        client.expect_stranger("127.0.0.3")
        assert refuses(client.place)
    why = "127.0.0.3 connected to %s:%d, but the client expects 127.0.0.2" % client.place
    assert "end=refused why='%s'" % why in access_log.wait_for("end=")


@pytest.mark.rfc("RFC 1928 section 6, BIND", "DST.ADDR may be a name, or unknown.")
@pytest.mark.rfc("SOCKS4A", "This is for CONNECT and BIND.")
def test_any_address_of_a_name_will_do(proxy_with_names):
    """A name's addresses are all waited for."""
    for source in ("127.0.0.4", "127.0.0.5"):
        with Waiting(proxy_with_names.port, "ftp.test", "5 by name") as client:
            with client.peer(source) as peer:
                client.expect_peer(peer)
    with Waiting(proxy_with_names.port, "ftp.test", "4a") as client:
        client.expect_stranger("127.0.0.6")


@pytest.fixture
def proxy_with_names():
    """A proxy that knows some names."""
    known = {
        "ftp.test": ["127.0.0.4", "127.0.0.5", "::1"],
        "six.test": ["::1"],
        "zero.test": ["0.0.0.0"],
        "none.test": [],
    }
    with run_proxy(resolve=known.get) as proxy:
        yield proxy


@pytest.mark.parametrize("way", ["4a", "5 by name"])
@pytest.mark.parametrize("name, rep", [("none.test", 4), ("zero.test", 4)])
def test_a_name_without_a_usable_address(proxy_with_names, way, name, rep):
    """A name without an address is refused; one that is 0.0.0.0 does not mean any peer."""
    with Waiting(proxy_with_names.port, name, way) as client:
        assert client.refused(rep) == client.rep
        client.talk.expect_eof()


@pytest.mark.parametrize("way", ["4a", "5 by name"])
@pytest.mark.parametrize("name", ["ftp.test", "six.test", "zero.test", "none.test", "::1", "0x0"])
def test_check_says_what_the_proxy_does(proxy_with_names, way, name):
    """A BIND for a name is granted exactly where ``check`` allows it, for those addresses."""
    target = ("[%s]:1" if ":" in name else "%s:1") % name
    question = Question("127.0.0.1", target, command="bind", ver=int(way[0]))
    services = proxy_with_names.services
    verdict = judge(services.access, question, getaddrinfo_of(services.hooks.resolve))
    with Waiting(proxy_with_names.port, name, way) as client:
        assert verdict.allowed == (client.granted == client.rep)


def test_socks4_cannot_name_an_ipv6_address(proxy_with_names, access_log):
    """A host with IPv6 addresses only is refused, because no reply could hold the place."""
    with Waiting(proxy_with_names.port, "six.test", "4a") as client:
        assert 91 == client.rep
    access_log.wait_for("end=refused why='no address that a peer could connect from'")


@pytest.mark.rfc(
    "RFC 1928 section 6, Reply processing",
    "After a success of BIND or CONNECT the client may start passing data.",
)
@pytest.mark.rfc("SOCKS4, BIND", "A match: CD 90, and traffic is relayed.")
@every_way
def test_bytes_that_come_early_are_kept(proxy, way):
    """Those with the request and those after the first reply: all, in order, for the peer."""
    with Waiting(proxy.port, way=way, early=b"first, ") as client:
        client.talk.send(b"second").finish()
        with client.peer() as peer:
            client.expect_peer(peer)
            peer.expect(b"first, second").expect_eof()
            peer.send(b"answer").finish()
        client.talk.expect(b"answer").expect_eof()


def test_many_early_bytes_are_kept_without_taking_memory(proxy):
    """They stay in the kernel, so a client that sends much has to wait."""
    data = bytes(range(256)) * 32768
    with Waiting(proxy.port) as client:
        client.talk.sock.setblocking(False)
        sent = 0
        while True:
            try:
                sent += client.talk.sock.send(data[sent:])
            except BlockingIOError:
                break
        assert sent < len(data)
        client.talk.sock.settimeout(TIMEOUT)
        with client.peer() as peer:
            client.expect_peer(peer)
            assert data[:sent] == peer.receive(sent)


@pytest.mark.rfc("RFC 1928 section 6", "REP 06: TTL expired.")
@pytest.mark.rfc(
    "RFC 1928 section 6, BIND",
    "The second reply comes only when the connection has come, or has failed.",
)
@pytest.mark.rfc("SOCKS4, both", "When it expires, the server closes the connection to the client.")
def test_no_peer_comes_in_time(access_log):
    """The second reply is a refusal (06; 91), and everything is closed."""
    with run_proxy(bind_timeout=0.1) as proxy:
        for way, rep in (("4", 91), ("5", 6)):
            with Waiting(proxy.port, way=way) as client:
                client.expect_refusal(rep)
                assert refuses(client.place)
                access_log.wait_for("why='no peer connected to %s:%d in time'" % client.place)


@pytest.mark.parametrize("way", ["4a", "5 by name"])
def test_a_name_that_takes_too_long(way, access_log):
    """Looking it up counts for --bind-timeout: one reply, which is the refusal."""
    release = threading.Event()

    def resolve(name):
        release.wait(TIMEOUT)

    try:
        with run_proxy(bind_timeout=0.1, resolve=resolve) as proxy:
            with Waiting(proxy.port, "slow.test", way) as client:
                assert (client.refused(6), "0.0.0.0", 0) == (client.rep, client.host, client.port)
                client.talk.expect_eof()
            release.set()
    finally:
        release.set()
    access_log.wait_for("why='the name was not resolved in time'")


@every_way
def test_a_refusal_arrives_though_bytes_came_early(proxy, monkeypatch, way):
    """Bytes for a peer that never came do not turn the second reply into a reset."""
    monkeypatch.setattr("minisocks.server.bind.MAX_WRONG_PEERS", 1)
    with Waiting(proxy.port, "127.0.0.2", way, early=bytes(1000)) as client:
        client.talk.send(bytes(100000))
        client.expect_stranger("127.0.0.3")


def test_a_client_that_resets_is_not_waited_for(proxy, access_log):
    """Its peer is not waited for either: the listener is closed at once."""
    client = Waiting(proxy.port)
    client.talk.reset()
    access_log.wait_for("bound=%s:%d secs=" % client.place)
    assert "end=client-gone" in access_log.lines[-1]
    assert refuses(client.place)


def test_a_client_that_closes_is_not_waited_for_long(monkeypatch, proxy, access_log):
    """The listener is closed some seconds later; a client that only sent FIN gets the reason."""
    monkeypatch.setattr(clientsocket, "FIN_SECONDS", 0.1)
    client = Waiting(proxy.port)
    client.talk.close()
    access_log.wait_for("no peer connected to %s:%d in time (5 s after" % client.place)
    assert refuses(client.place)
    with Waiting(proxy.port) as client:
        client.talk.finish()
        client.expect_refusal(6)


def test_a_client_that_says_no_more_gets_its_peer(monkeypatch, proxy):
    """A peer that connects within those seconds is accepted."""
    monkeypatch.setattr(clientsocket, "FIN_SECONDS", 60.0)
    with Waiting(proxy.port) as client:
        client.talk.finish()
        (job,) = inside.jobs(proxy.services.loop, Bind)
        wait_until(lambda: inside.session(job).conn.has_sent_fin, "FIN was noticed")
        with client.peer() as peer:
            client.expect_peer(peer)
            peer.expect_eof()
            peer.send(b"answer").finish()
        client.talk.expect(b"answer").expect_eof()


def test_a_client_that_closes_while_its_name_is_looked_up(monkeypatch, access_log):
    """Nothing listens when the name's address comes at last."""
    monkeypatch.setattr(clientsocket, "FIN_SECONDS", 0.1)
    release = threading.Event()
    try:
        with run_proxy(resolve=lambda name: release.wait(TIMEOUT) and []) as proxy:
            with Talk.to(proxy.port) as talk:
                talk.send(GREETING + socks5(b"slow.test", 0, BIND)).finish().expect(b"\5\0")
                assert 6 == talk.receive_reply5()[0]
                talk.expect_eof()
            release.set()
    finally:
        release.set()
    access_log.wait_for("the name was not resolved in time (5 s after the FIN of its client)")


def test_a_client_that_resets_behind_early_bytes(proxy, access_log):
    """The reset is noticed although the bytes of the client are not read."""
    client = Waiting(proxy.port)
    client.talk.send(b"early")
    (job,) = inside.jobs(proxy.services.loop, Bind)
    wait_until(lambda: inside.session(job).mask == 0, "the early bytes were seen")
    client.talk.reset()
    access_log.wait_for("end=client-gone")
    assert refuses(client.place)


@pytest.mark.parametrize("end", ["reset", "a peer"])
def test_the_only_port_is_had_again_in_the_round_in_which_it_becomes_free(access_log, end):
    """The next client comes in the round of the loop in which the end of the first is noticed."""
    low = two_closed_ports()
    with run_proxy(bind_ports="%d-%d" % (low, low)) as proxy, contextlib.ExitStack() as stack:
        old = Waiting(proxy.port)
        stack.callback(old.talk.close)
        loop, talk = proxy.services.loop, stack.enter_context(Talk.to(proxy.port))
        talk.send(GREETING).expect(b"\x05\x00")
        with loop_held(loop):
            if end == "reset":
                old.talk.reset()
            else:
                stack.enter_context(old.peer())
            talk.send(socks5("127.0.0.1", 0, BIND))
            wait_until(lambda: inside.has_calls(loop), "the new one in the loop")
        assert (0, "127.0.0.1", low) == talk.receive_reply5()
    assert [] == [line for line in access_log.lines if "end=limit" in line]


def test_a_peer_that_resets_at_once(proxy):
    """The client receives the address of the peer, and then the reset."""
    with Waiting(proxy.port) as client:
        sock = socket.create_connection(client.place, TIMEOUT)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        sock.close()
        assert client.granted == client.reply()[0]
        client.talk.expect_reset()


def test_a_peer_that_vanishes_is_noticed(proxy):
    """Its connection has what every relayed one has: keepalive, and no delay."""
    with Waiting(proxy.port) as client, client.peer() as peer:
        client.expect_peer(peer)
        client.talk.send(b"x")
        peer.expect(b"x")
        (pair,) = inside.jobs(proxy.services.loop, Pair)
        assert inside.flows(pair)[0].dst.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert inside.flows(pair)[0].dst.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.rfc(
    "RFC 1928 section 6, BIND",
    "The second reply comes only when the connection has come, or has failed.",
)
def test_one_peer_of_several(proxy):
    """The first one counts, the others are refused."""
    with Waiting(proxy.port) as client, client.peer() as first:
        client.expect_peer(first)
        assert refuses(client.place)
        client.expect_to_work(first)


def test_the_end_of_the_proxy_ends_it():
    """The listener, the client's connection and the job are closed."""
    with run_proxy() as proxy:
        client = Waiting(proxy.port)
    client.talk.expect_eof()
    assert refuses(client.place)
    client.talk.close()


def test_the_port_is_of_the_range(access_log):
    """Ports of --bind-ports are used one after another; one more BIND than ports is refused."""
    low = closed_port()
    with run_proxy(bind_ports="%d-%d" % (low, low)) as proxy:
        for count in range(1, 4):
            with Waiting(proxy.port) as client, client.peer() as peer:
                assert low == client.port
                client.expect_peer(peer)
                client.expect_to_work(peer)
            access_log.wait_for("id=%d " % count)
        with Waiting(proxy.port) as first, Waiting(proxy.port) as second:
            assert (0, 2) == (first.rep, second.rep)
        access_log.wait_for(
            "end=limit why='there are 1 BINDs that wait already (--bind-ports %d-%d)'" % (low, low)
        )


def test_a_port_of_the_range_is_free_at_once(access_log, other_networks):
    """A BIND that waits makes room for one of another network, which has its port at once."""
    low = two_closed_ports()
    high = low + 1
    ports = "%d-%d" % (low, high)
    with run_proxy(bind_ports=ports) as proxy, contextlib.ExitStack() as stack:

        def waiting(source):
            return stack.enter_context(Waiting(proxy.port, source=source))

        first, second = waiting("127.2.0.1"), waiting("127.2.0.1")
        assert {low, high} == {first.port, second.port}
        other = waiting("127.3.0.1")
        assert (0, first.port) == (other.rep, other.port)
        assert 2 == first.reply()[0]
        access_log.wait_for("why='there are 2 BINDs that wait already (--bind-ports %s)'" % ports)
        for client in (second, other):
            with client.peer() as peer:
                client.expect_peer(peer)
                client.expect_to_work(peer)


def test_a_port_that_is_anothers_is_not_taken(access_log):
    """Not even as the only one of the range; the reply is REP 02, as at a limit."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        port = other.getsockname()[1]
        with run_proxy(bind_ports="%d-%d" % (port, port)) as proxy, Waiting(proxy.port) as client:
            assert 2 == client.rep
    access_log.wait_for("end=limit why='no port is free (--bind-ports %d-%d)'" % (port, port))


def test_limits_count_it():
    """A client that waits is a connection, and another one may be too many."""
    with run_proxy(max_per_client=1) as proxy, Waiting(proxy.port):
        with Waiting(proxy.port) as client:
            assert 2 == client.rep
        with Waiting(proxy.port, way="4") as client:
            assert 91 == client.rep


@pytest.mark.parametrize("request_", [socks4("127.0.0.1", 0, cmd=BIND), None])
def test_the_request_cut_anywhere(proxy, request_):
    """BIND means the same however TCP cuts it."""
    data = request_ or GREETING + socks5("127.0.0.1", 0, BIND)
    with Talk.to(proxy.port) as talk:
        talk.send_bytewise(data)
        assert (b"\0\x5a" if request_ else b"\5\0") == talk.receive(2)
