"""CONNECT end to end: every protocol, every kind of target, every way it can go.

A client, the proxy and the target, over real sockets.  Names are resolved by a
table, so that they mean what the test wants.
"""

import ast
import contextlib
import hashlib
import http.client
import os
import re
import socket
import ssl
import struct
import threading
from typing import NamedTuple

import pytest

from kit import inside
from kit import namespace as net
from kit.support import (
    GRANTED4,
    GREETING,
    REJECTED4,
    FakeTarget,
    Talk,
    black_hole,
    closed_port,
    echo,
    failure5,
    open_descriptors,
    password_message,
    run_proxy,
    says,
    socks4,
    socks4a,
    socks5,
    swallow,
    wait_until,
)
from minisocks.net.resolver import MAX_THREADS, Resolver
from minisocks.server import clientsocket
from minisocks.server.waiting import WaitingRequest

GENERAL, NOT_ALLOWED, NETWORK, HOST, REFUSED, TTL, COMMAND, ATYP = range(1, 9)

NO_NETWORK4, NO_NETWORK6 = "224.0.0.1", "ff02::1"  # multicast: never for TCP


def table(names):
    """Return a resolver that knows *names*: ``{b"name": [(host, port or None), ...]}``."""

    def getaddrinfo(name, port, *args):
        rows = []
        for host, fixed_port in names[name]:
            family = net.family_of(host)
            sockaddr = (host, fixed_port or port) + ((0, 0) if family == socket.AF_INET6 else ())
            rows.append((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", sockaddr))
        return rows

    return Resolver(getaddrinfo)


NAMES = {
    b"v4.test": [("127.0.0.1", None)],
    b"v6.test": [("::1", None)],
    b"no-network.test": [(NO_NETWORK4, None)],
    b"no-network6.test": [(NO_NETWORK6, None)],
}


class Way(NamedTuple):
    """One way to ask for one kind of target."""

    ver: int
    family: int  # of the target
    greeting: bytes
    choice: bytes

    #: What is asked for, by what there is: bytes are a name, text an address.
    dst: object
    no_network: object

    def request(self, port, dst=None):
        """Return the request."""
        dst = dst or self.dst
        if self.ver == 5:
            return socks5(dst, port)
        return socks4a(dst, port) if isinstance(dst, bytes) else socks4(dst, port)

    def message(self, port, dst=None):
        """Return all that the client has to say."""
        return self.greeting + self.request(port, dst)

    @property
    def host(self):
        """Where the target listens."""
        return "127.0.0.1" if self.family == 4 else "::1"

    def failure(self, rep):
        """Return the whole reply for a failure."""
        return self.choice + (failure5(rep) if self.ver == 5 else REJECTED4)

    def success(self, peer):
        """Return the whole reply, given what the target sees as the other end."""
        port = struct.pack("!H", peer[1])
        if self.ver == 4:
            return GRANTED4 + port + (socket.inet_aton(peer[0]) if self.family == 4 else bytes(4))
        packed = socket.inet_pton(net.family_of(peer[0]), peer[0])
        return (
            self.choice
            + b"\x05\x00\x00"
            + (b"\x01" if self.family == 4 else b"\x04")
            + packed
            + port
        )


WAYS = {
    "socks4-ipv4": Way(4, 4, b"", b"", "127.0.0.1", NO_NETWORK4),
    "socks4a-name": Way(4, 4, b"", b"", b"v4.test", b"no-network.test"),
    "socks4a-name-of-ipv6": Way(4, 6, b"", b"", b"v6.test", b"no-network6.test"),
    "socks4a-literal": Way(4, 4, b"", b"", b"127.0.0.1", b"224.0.0.1"),
    "socks4a-ipv6-literal": Way(4, 6, b"", b"", b"::1", b"ff02::1"),
    "socks5-ipv4": Way(5, 4, GREETING, b"\x05\x00", "127.0.0.1", NO_NETWORK4),
    "socks5-ipv6": Way(5, 6, GREETING, b"\x05\x00", "::1", NO_NETWORK6),
    "socks5-name": Way(5, 4, GREETING, b"\x05\x00", b"v4.test", b"no-network.test"),
    "socks5-name-of-ipv6": Way(5, 6, GREETING, b"\x05\x00", b"v6.test", b"no-network6.test"),
    "socks5-literal": Way(5, 4, GREETING, b"\x05\x00", b"127.0.0.1", b"224.0.0.1"),
    "socks5-ipv6-literal": Way(5, 6, GREETING, b"\x05\x00", b"::1", b"ff02::1"),
}


@pytest.fixture(params=sorted(WAYS))
def way(request):
    """Return each way to ask for a target."""
    return WAYS[request.param]


@pytest.fixture
def proxy():
    """A proxy that knows ``NAMES``."""
    with run_proxy(resolver=table(NAMES)) as running:
        yield running


def silent_host(host):
    """``black_hole`` on any host."""
    return black_hole() if host == "127.0.0.1" else _silent6()


@contextlib.contextmanager
def _silent6():
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_INET6))
        listener.bind(("::1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket(socket.AF_INET6))
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


class Target(FakeTarget):
    """A target that remembers the address of each peer it accepted."""

    def __init__(self, script=echo, host="127.0.0.1"):
        self._peers = []

        def seeing(talk):
            self._peers.append(talk.sock.getpeername())
            script(talk)

        super().__init__(seeing, host)

    def peer(self):
        """Return the address of the first, waiting for it."""
        wait_until(lambda: self._peers, "a connection to the target")
        return self._peers[0]


# Success


@pytest.mark.rfc(
    "RFC 1928 sections 1 and 2",
    "Version 4 stays; version 5 adds UDP, authentication, names and IPv6.",
)
@pytest.mark.rfc("RFC 1928 section 4", "If the method encapsulates, requests MUST be encapsulated.")
@pytest.mark.rfc("RFC 1928 section 4", "CMD: 01 CONNECT, 02 BIND, 03 UDP ASSOCIATE.")
@pytest.mark.rfc("RFC 1928 section 5", "ATYP 01: 4 octets; ATYP 04: 16 octets.")
@pytest.mark.rfc("RFC 1928 section 6", "REP 00: succeeded.")
@pytest.mark.rfc("RFC 1928 section 6", "If the method encapsulates, replies are encapsulated.")
@pytest.mark.rfc(
    "RFC 1928 section 6, CONNECT",
    "BND.ADDR and BND.PORT: what the server assigned to connect to the target.",
)
@pytest.mark.rfc("SOCKS4, introduction", "Two operations: CONNECT and BIND.")
@pytest.mark.rfc("SOCKS4, CONNECT", "The server connects to the port of the destination host.")
@pytest.mark.rfc("SOCKS4, CONNECT", "CD 90: granted.")
@pytest.mark.rfc("SOCKS4, CONNECT", "The remaining fields are ignored.")
@pytest.mark.rfc("SOCKS4, CONNECT", "After a success traffic is relayed in both directions.")
@pytest.mark.rfc("SOCKS4A", "It should resolve the name, and connect if it can.")
def test_connect(proxy, way):
    """The reply names the proxy's end of the connection to the target; bytes flow both ways."""
    with Target(host=way.host) as target, Talk.to(proxy.port) as talk:
        talk.send(way.message(target.port))

        talk.expect(way.success(target.peer()))

        talk.send(b"ping").expect(b"ping").finish().expect_eof()


@pytest.mark.rfc(
    "RFC 1928 sections 1 and 2",
    'The note: numbers in diagrams are octets, a "Variable" has a length octet or a type.',
)
@pytest.mark.rfc("SOCKS4A", "A server must check DSTIP, and read in the domain name.")
def test_cut_at_every_byte(proxy, way):
    """The conversation means the same wherever TCP cuts it, with data behind it."""
    with Target(host=way.host) as target:
        message = way.message(target.port)
        with contextlib.ExitStack() as stack:
            talks = [stack.enter_context(Talk.to(proxy.port)) for _ in range(len(message) + 1)]
            for cut, talk in enumerate(talks):
                talk.send(message[:cut])
            # Each is a pending handshake with its first part read, or a pair.
            wait_until(lambda: len(proxy) == len(talks))
            for cut, talk in enumerate(talks):
                talk.send(message[cut:] + b"tail %d" % cut).finish()

            said = [talk.rest() for talk in talks]

    size = len(way.success(("127.0.0.1" if way.family == 4 else "::1", 0)))
    assert [b"tail %d" % cut for cut in range(len(talks))] == [data[size:] for data in said]
    assert len(talks) == len(target.talks)


@pytest.mark.rfc(
    "RFC 1928 sections 1 and 2",
    'The note: numbers in diagrams are octets, a "Variable" has a length octet or a type.',
)
def test_byte_by_byte(proxy, way):
    """A client that sends every byte by itself is served like any other."""
    with Target(host=way.host) as target, Talk.to(proxy.port) as talk:
        talk.send_bytewise(way.message(target.port) + b"data").finish()

        said = talk.rest()

        assert way.success(target.peer()) + b"data" == said


@pytest.mark.rfc(
    "RFC 1928 section 3", "The client negotiates a method, authenticates, then sends a request."
)
@pytest.mark.parametrize("way", [n for n in sorted(WAYS) if WAYS[n].ver == 5], indirect=True)
def test_greeting_password_request_and_data_in_one_segment(way):
    """All at once: each part is read once, and the data goes to the target."""
    with run_proxy(resolver=table(NAMES), user=("ann:secret",)) as proxy:
        with Target(host=way.host) as target, Talk.to(proxy.port) as talk:
            talk.send(
                b"\x05\x02\x00\x02"
                + password_message(b"ann", b"secret")
                + way.request(target.port)
                + b"and the data"
            ).finish()

            talk.expect(b"\x05\x02\x01\x00")
            said = way.choice + talk.rest()

            assert way.success(target.peer()) + b"and the data" == said


@pytest.mark.rfc(
    "RFC 1928 section 6, Reply processing",
    "After a success of BIND or CONNECT the client may start passing data.",
)
@pytest.mark.rfc("SOCKS4, CONNECT", "After a success traffic is relayed in both directions.")
@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 65536, 300000])
def test_data_behind_the_request(proxy, way, size):
    """Bytes right behind the request go to the target, all of them, in order, once."""
    data = os.urandom(size)
    sums = []

    def summing(talk):
        sums.append(hashlib.sha256(talk.rest()).digest())

    with Target(summing, host=way.host) as target, Talk.to(proxy.port) as talk:
        talk.send(way.message(target.port) + data).finish()
        talk.expect(way.success(target.peer())).expect_eof()

    assert [hashlib.sha256(data).digest()] == sums


@pytest.mark.rfc(
    "RFC 1928 section 6, Reply processing",
    "After a success of BIND or CONNECT the client may start passing data.",
)
def test_data_sent_while_the_target_is_dialed():
    """Bytes that come while a name is looked up wait, and are the first that the target gets."""
    resolve = threading.Event()
    data = os.urandom(100000)

    def getaddrinfo(*args):
        assert resolve.wait(20)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", target.port))]

    got = []
    with Target(lambda talk: got.append(talk.rest())) as target:
        with run_proxy(resolver=Resolver(getaddrinfo)) as proxy, Talk.to(proxy.port) as talk:
            talk.send(GREETING + socks5(b"slow.test", 1) + data[:10])
            wait_until(lambda: len(proxy) == 1)
            talk.send(data[10:])
            resolve.set()
            talk.expect(b"\x05\x00")
            assert 0 == talk.receive_reply5()[0]
            talk.finish().expect_eof()

    assert [data] == got


@pytest.mark.rfc(
    "RFC 1928 section 4",
    "The server evaluates the request by source and destination, and sends one reply or more.",
)
@pytest.mark.rfc(
    "SOCKS4, CONNECT", "A reply is sent when that is established, rejected or has failed."
)
def test_a_target_that_speaks_first(proxy, way):
    """The reply comes before the target's first byte, and nothing between them."""
    with Target(says(b"220 hello"), host=way.host) as target, Talk.to(proxy.port) as talk:
        talk.send(way.message(target.port)).finish()

        said = talk.rest()

        assert way.success(target.peer()) + b"220 hello" == said


@pytest.mark.rfc(
    "RFC 1928 section 4", "VER 05, CMD, RSV 00, ATYP, DST.ADDR, DST.PORT in network octet order."
)
def test_rsv_may_be_anything(proxy, target):
    """RSV of a request is not looked at: some clients put something there."""
    with Talk.to(proxy.port) as talk:
        request = bytearray(socks5("127.0.0.1", target.port))
        request[2] = 0x7F
        talk.send(GREETING).expect(b"\x05\x00").send(bytes(request))
        assert 0 == talk.receive_reply5()[0]


@pytest.mark.rfc("RFC 1928 section 3", "METHOD 00, no authentication; 02, user name and password.")
@pytest.mark.rfc("RFC 1928 section 3", "METHOD 03 to 7F are IANA's, 80 to FE private.")
@pytest.mark.parametrize(
    "methods", [b"\x00", b"\x00\x01", b"\x01\x02\x03\x00\x80\xfe", bytes(range(255))]
)
def test_any_methods_with_the_right_one_among_them(proxy, target, methods):
    """Methods that are not known are passed over."""
    with Talk.to(proxy.port) as talk:
        talk.send(b"\x05" + bytes((len(methods),)) + methods).expect(b"\x05\x00")
        talk.send(socks5("127.0.0.1", target.port))
        assert 0 == talk.receive_reply5()[0]


@pytest.mark.rfc(
    "RFC 1928 section 3", "VER is 05, NMETHODS says how many octets METHODS has, 1 to 255."
)
@pytest.mark.rfc(
    "RFC 1928 section 3", 'FF: none is acceptable, "the client MUST close the connection".'
)
@pytest.mark.parametrize(
    "methods", [b"", b"\x01", b"\x02", b"\x01\x02\x03\x80", bytes(range(1, 256))]
)
def test_no_common_method(proxy, methods):
    """None of the methods offered will do: 05 FF, then EOF."""
    with Talk.to(proxy.port) as talk:
        talk.send(b"\x05" + bytes((len(methods),)) + methods).expect(b"\x05\xff").expect_eof()


@pytest.mark.rfc(
    "RFC 1928 section 3", 'METHOD 01, GSSAPI: "compliant implementations MUST support" it.'
)
@pytest.mark.rfc("RFC 1961", "METHOD 01, which RFC 1928 says every implementation MUST have.")
@pytest.mark.rfc(
    "RFC 1961", "Tokens, protection levels, encapsulation of TCP data and of datagrams."
)
@pytest.mark.parametrize(
    "settings, chosen",
    [
        ({}, b"\x00"),
        ({"user": ("ann:secret",)}, b"\x02"),
        ({"user": ("ann:secret",), "open": True}, b"\x02"),
        ({"user": ("ann:secret",), "auth_once": 60}, b"\x02"),
        ({"authenticate": lambda *args: True}, b"\x02"),
    ],
    ids=["none", "users", "users or none", "trusted", "hook"],
)
def test_gssapi_is_never_chosen(target, settings, chosen):
    """METHOD 01 alone is refused, however clients are admitted; beside another it is ignored."""
    with run_proxy(**settings) as proxy:
        with Talk.to(proxy.port) as talk:
            # A GSSAPI client's first token, as of RFC 1961, is not looked at.
            talk.send(b"\x05\x01\x01" + b"\x01\x01\x00\x04\x60\x02\x06\x00")
            talk.expect(b"\x05\xff").expect_eof()
        with Talk.to(proxy.port) as talk:
            talk.send(b"\x05\x03\x01\x00\x02").expect(b"\x05" + chosen)
            if chosen == b"\x02":
                talk.send(password_message(b"ann", b"secret")).expect(b"\x01\x00")
            talk.send(socks5("127.0.0.1", target.port))
            assert 0 == talk.receive_reply5()[0]


@pytest.mark.rfc("SOCKS4, CONNECT", "VN 4, CD 1, DSTPORT, DSTIP, USERID, NULL.")
@pytest.mark.rfc(
    "RFC 1413 section 6", "The information is as trustworthy as the host; it is no access control."
)
@pytest.mark.parametrize("userid", [b"", b"ann", b"\xff" * 255])
def test_any_userid(proxy, target, userid):
    """USERID proves nothing and hinders no client, up to 255 bytes."""
    for request in (
        socks4("127.0.0.1", target.port, userid),
        socks4a(b"v4.test", target.port, userid),
    ):
        with Talk.to(proxy.port) as talk:
            assert GRANTED4 == talk.send(request).receive(8)[:2]


# Failure


FAILURES = {
    "refused": (REFUSED, lambda way: (closed_port(way.host), way.dst)),
    "no network": (NETWORK, lambda way: (9, way.no_network)),
}


@pytest.mark.rfc("RFC 1928 section 6", "REP 05: connection refused.")
@pytest.mark.rfc("SOCKS4, CONNECT", "CD 91: rejected or failed.")
@pytest.mark.parametrize("failure", sorted(FAILURES))
def test_a_failure_at_once(proxy, way, failure):
    """A target that cannot be reached: one reply that says why, EOF, nothing else."""
    rep, arrange = FAILURES[failure]
    port, dst = arrange(way)

    with Talk.to(proxy.port) as talk:
        talk.send(way.message(port, dst)).expect(way.failure(rep)).expect_eof()


@pytest.mark.rfc("RFC 1928 section 6", "REP 00: succeeded.")
@pytest.mark.rfc("RFC 1928 section 6", "REP 06: TTL expired.")
@pytest.mark.rfc(
    "SOCKS4, CONNECT", "A reply is sent when that is established, rejected or has failed."
)
@pytest.mark.rfc("SOCKS4, both", "When it expires, the server closes the connection to the client.")
def test_a_target_that_does_not_answer(way):
    """After --connect-timeout, and never a success before: REP 06 or 91, EOF, nothing else."""
    with silent_host(way.host) as port, run_proxy(table(NAMES), connect_timeout=0.3) as proxy:
        with Talk.to(proxy.port) as talk:
            talk.send(way.message(port)).expect(way.failure(TTL)).expect_eof()
        wait_until(lambda: len(proxy) == 0)


IN_A_NAMESPACE = {
    "no host": (HOST, net.LOOPBACK4, {4: net.NO_HOST4, 6: net.NO_HOST6},
                {4: b"no-host.test", 6: b"no-host6.test"}),
    "not allowed in": (NOT_ALLOWED, net.PRIVATE4, {4: net.PUBLIC4, 6: net.PUBLIC6},
                       {4: b"public.test", 6: b"public6.test"}),
    "not allowed there": (NOT_ALLOWED, net.PUBLIC4, {4: net.PRIVATE4, 6: net.PRIVATE6},
                          {4: b"private.test", 6: b"private6.test"}),
}  # fmt: skip


@pytest.mark.rfc("RFC 1928 section 6", "REP 02: connection not allowed by ruleset.")
@pytest.mark.parametrize("failure", sorted(IN_A_NAMESPACE))
def test_a_failure_for_which_it_takes_a_network(network, way, failure):
    """Without a route to the host, or without permission, all ways fail alike: REP 04 or 02."""
    rep, source, addresses, names = IN_A_NAMESPACE[failure]
    port = network.proxy(open=(source == net.PUBLIC4))
    if isinstance(way.dst, str):
        dst = addresses[way.family]
    elif way.dst in NAMES:
        dst = names[way.family]
    else:
        dst = addresses[way.family].encode("ascii")

    for cut in (0, 1, len(way.greeting), 6):
        with Talk(network.connect(source, port)) as talk:
            message = way.message(80, dst)
            talk.send(message[:cut]).send(message[cut:] + b"data")
            talk.expect(way.failure(rep)).expect_eof()
    assert [] == network.bugs()


@pytest.mark.rfc(
    "SOCKS4, CONNECT", "A reply is sent when that is established, rejected or has failed."
)
def test_a_failure_cut_at_every_byte_with_data_behind(proxy, way):
    """However it is cut, one whole reply is sent, and the data behind is taken for nothing more."""
    message = way.message(closed_port(way.host))
    with contextlib.ExitStack() as stack:
        talks = [stack.enter_context(Talk.to(proxy.port)) for _ in range(len(message))]
        for cut, talk in enumerate(talks):
            talk.send(message[:cut])
        wait_until(lambda: len(proxy) == len(talks))
        for cut, talk in enumerate(talks):
            talk.send(message[cut:] + b"\x05\x01\x00 data")

        for talk in talks:
            talk.expect(way.failure(REFUSED)).expect_eof()


BROKEN = [
    ("empty name", GREETING + b"\x05\x01\x00\x03\x00\x00\x50", b"\x05\x00" + failure5(GENERAL)),
    ("NUL in a name", GREETING + socks5(b"a\0b", 80), b"\x05\x00" + failure5(GENERAL)),
    ("NUL behind digits", GREETING + socks5(b"127.0.0.1\0", 80), b"\x05\x00" + failure5(GENERAL)),
    ("ATYP 0", GREETING + b"\x05\x01\x00\x00", b"\x05\x00" + failure5(ATYP)),
    ("ATYP 2", GREETING + b"\x05\x01\x00\x02", b"\x05\x00" + failure5(ATYP)),
    ("ATYP ff", GREETING + b"\x05\x01\x00\xff\x01\x02", b"\x05\x00" + failure5(ATYP)),
    ("CMD 0", GREETING + socks5("127.0.0.1", 80, cmd=0), b"\x05\x00" + failure5(COMMAND)),
    ("CMD 4", GREETING + socks5(b"name.test", 80, cmd=4), b"\x05\x00" + failure5(COMMAND)),
    ("CMD ff", GREETING + socks5("::1", 80, cmd=255), b"\x05\x00" + failure5(COMMAND)),
    ("VER 4 in a SOCKS5 request", GREETING + b"\x04\x01\x00\x01", b"\x05\x00" + failure5(GENERAL)),
    ("SOCKS4a: empty name", socks4a(b"", 80), REJECTED4),
    ("SOCKS4: CMD 0", socks4("127.0.0.1", 80, cmd=0), REJECTED4),
    ("SOCKS4: CMD 3", socks4("127.0.0.1", 80, cmd=3), REJECTED4),
    ("SOCKS4a: CMD 9", socks4a(b"v4.test", 80, cmd=9), REJECTED4),
    ("SOCKS4: USERID of 256", socks4("127.0.0.1", 80, b"u" * 256), REJECTED4),
    ("SOCKS4: USERID without end", socks4("127.0.0.1", 80, b"u" * 50000)[:-1], REJECTED4),
    ("SOCKS4a: name of 256", socks4a(b"n" * 256, 80), REJECTED4),
    ("SOCKS4a: name without end", socks4a(b"n" * 50000, 80)[:-1], REJECTED4),
]  # fmt: skip


@pytest.mark.rfc(
    "RFC 1928 section 4", "VER 05, CMD, RSV 00, ATYP, DST.ADDR, DST.PORT in network octet order."
)
@pytest.mark.rfc("RFC 1928 section 4", "CMD: 01 CONNECT, 02 BIND, 03 UDP ASSOCIATE.")
@pytest.mark.rfc(
    "RFC 1928 section 5", "ATYP 03: an octet with the length, then a fully-qualified domain name."
)
@pytest.mark.rfc("RFC 1928 section 5", "There is no terminating NUL.")
@pytest.mark.rfc("RFC 1928 section 5", "Another ATYP is not defined.")
@pytest.mark.rfc("RFC 1928 section 6", "REP 01: general SOCKS server failure.")
@pytest.mark.rfc("RFC 1928 section 6", "REP 07: command not supported.")
@pytest.mark.rfc("RFC 1928 section 6", "REP 08: address type not supported.")
@pytest.mark.rfc("SOCKS4, CONNECT", "VN 4, CD 1, DSTPORT, DSTIP, USERID, NULL.")
@pytest.mark.parametrize(
    "message, reply", [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN]
)
@pytest.mark.parametrize("ending", ["silent", "fin", "bytewise"])
def test_a_request_that_cannot_be_one(proxy, access_log, message, reply, ending):
    """A broken request gets a well-formed reply, once, then EOF; and one log line."""
    with Talk.to(proxy.port) as talk:
        if ending == "bytewise":
            with contextlib.suppress(ConnectionError):  # it may be refused before its end
                talk.send_bytewise(message[:300])
        else:
            talk.send(message)
        if ending == "fin":
            talk.finish()
        talk.expect(reply).expect_eof()
    access_log.wait_for("end=refused")
    assert 1 == len(access_log.lines)


@pytest.mark.parametrize(
    "said, reply",
    [
        (b"\x05", b"\x05\xff"),
        (b"\x05\x02\x00", b"\x05\xff"),
        (GREETING + b"\x05", b"\x05\x00" + failure5(GENERAL)),
        (GREETING + b"\x05\x01\x00\x03\x09exam", b"\x05\x00" + failure5(GENERAL)),
        (b"\x04", REJECTED4),
        (socks4("127.0.0.1", 80, b"ann")[:-1], REJECTED4),
        (socks4a(b"v4.test", 80)[:-1], REJECTED4),
    ],
)
def test_a_client_that_says_fin_in_the_middle_of_a_handshake(proxy, access_log, said, reply):
    """FIN before the request is complete: the reply for its stage, and EOF."""
    with Talk.to(proxy.port) as talk:
        talk.send(said).finish().expect(reply).expect_eof()
    assert "closed before its request was complete" in access_log.wait_for("end=")


def left(talk):
    """Leave by FIN, still reading: the reply to a request that never came."""
    talk.finish().expect(failure5(GENERAL)).expect_eof()


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("leave", [left, Talk.close, Talk.reset])
def test_a_health_check_that_greets_has_no_line_and_is_counted(proxy, access_log, leave, reads):
    """05 01 00, 05 00, and nothing more, however it leaves."""
    with Talk.to(proxy.port) as talk:
        talk.send(GREETING)
        if reads or leave is left:
            talk.expect(b"\x05\x00")
        leave(talk)
        wait_until(lambda: proxy.stats().checks == 1)
    wait_until(lambda: proxy.stats().open == 0)
    assert [] == access_log.lines
    assert (0, {}) == (proxy.stats().total, proxy.stats().refused)


@pytest.mark.parametrize(
    "methods, said, answer",
    [
        (b"\x02", b"", b"\x05\x02"),
        (b"\x02", b"\x01", b"\x05\x02"),
        (b"\x00", b"\x05\x01\x00", b"\x05\x00"),
        (b"\x01", b"", b"\x05\xff"),
    ],
)
@pytest.mark.parametrize("leave", [Talk.finish, Talk.reset])
def test_what_is_more_than_a_greeting_is_no_check(access_log, methods, said, answer, leave):
    """With METHOD 02, behind a request, or without a common method it is no health check."""
    users = ["ann:s3cret"] if methods == b"\x02" else []
    with run_proxy(user=users) as proxy:
        with Talk.to(proxy.port) as talk:
            talk.send(b"\x05\x01" + methods + said).expect(answer)
            leave(talk)
            access_log.wait_for("end=")
        assert 0 == proxy.stats().checks
        assert 1 == proxy.stats().total


# Names


@pytest.mark.rfc(
    "RFC 1928 section 5", "ATYP 03: an octet with the length, then a fully-qualified domain name."
)
@pytest.mark.rfc(
    "SOCKS4A", "DSTIP 0.0.0.x with x not zero: a domain name and a NULL follow USERID's NULL."
)
@pytest.mark.parametrize("ver", [4, 5])
@pytest.mark.parametrize(
    "name",
    [b"example.org", b"EXAMPLE.org.", b"m\xc3\xbcnchen.test", b"m\xfcnchen.test", b"\xff\xfe\x01",
     b"a b\tc", b"a\nclient=forged", b"%s%n%d", b"a" * 255, b"'; drop", b"-", b"..", b"_sip._tcp"],
)  # fmt: skip
def test_names_are_opaque_bytes(access_log, target, ver, name):
    """A name goes to the resolver as the client's very bytes, and to the log on one line."""
    asked = []

    def getaddrinfo(host, port, *args):
        asked.append((type(host), host, port))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", target.port))]

    with run_proxy(Resolver(getaddrinfo)) as proxy, Talk.to(proxy.port) as talk:
        if ver == 5:
            assert 0 == talk.connect5(name, 4711)[0]
        else:
            assert GRANTED4 == talk.send(socks4a(name, 4711)).receive(8)[:2]
        talk.finish().expect_eof()
        line = access_log.wait_for("end=client-fin")

    assert [(bytes, name, 4711)] == asked
    assert line.isprintable()
    (told,) = re.findall(r"dst=('[^']*'):4711", line)
    assert name == ast.literal_eval("b" + told)
    assert 1 == len(access_log.lines)


@pytest.mark.rfc("RFC 1928 section 6", "REP 04: host unreachable.")
@pytest.mark.rfc("SOCKS4A", "It should resolve the name, and connect if it can.")
@pytest.mark.parametrize(
    "exc",
    [
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure"),
        UnicodeError("label empty or too long"),
        LookupError("unknown encoding: idna"),
        OSError("no resolver"),
    ],
    ids=repr,
)
def test_a_name_that_cannot_be_resolved(access_log, exc):
    """REP 04, or 91, for whatever the resolver cannot do, and the reason in the log."""

    def getaddrinfo(*args):
        raise exc

    with run_proxy(Resolver(getaddrinfo)) as proxy:
        with Talk.to(proxy.port) as talk:
            talk.send(GREETING + socks5(b"bad.test", 80)).expect(
                b"\x05\x00" + failure5(HOST)
            ).expect_eof()
        with Talk.to(proxy.port) as talk:
            talk.send(socks4a(b"bad.test", 80)).expect(REJECTED4).expect_eof()

    assert 2 == len(access_log.lines)
    assert all(str(exc) in line for line in access_log.lines)


@pytest.mark.rfc(
    "RFC 1928 section 5", "ATYP 03: an octet with the length, then a fully-qualified domain name."
)
@pytest.mark.parametrize(
    "literal, host",
    [(b"127.0.0.1", "127.0.0.1"), (b"127.1", "127.0.0.1"), (b"2130706433", "127.0.0.1"),
     (b"0x7f.1", "127.0.0.1"), (b"::1", "::1"), (b"0:0::0:1", "::1")],
)  # fmt: skip
def test_a_literal_is_not_sent_to_the_resolver(literal, host):
    """An address in any notation, sent as a name, is connected to without a look-up."""
    with run_proxy(table({})) as proxy, FakeTarget(host=host) as target:
        with Talk.to(proxy.port) as talk:
            rep, bnd, _ = talk.connect5(literal, target.port)
            assert (0, host) == (rep, bnd)
        with Talk.to(proxy.port) as talk:
            assert GRANTED4 == talk.send(socks4a(literal, target.port)).receive(8)[:2]


# User names and passwords


USERS = (
    "ann:secret",
    "bob:pass:word",
    "c\u00e9d:\u00fcber",
    "x:y",
    "L%s:%s" % ("n" * 254, "p" * 255),
)
LONG = b"L" + b"n" * 254, b"p" * 255


@pytest.fixture
def guarded():
    """A proxy that wants a password."""
    with run_proxy(table(NAMES), user=USERS) as running:
        yield running


@pytest.mark.rfc("RFC 1928 section 3", "METHOD 00, no authentication; 02, user name and password.")
@pytest.mark.rfc("RFC 1928 section 3", 'Implementations "SHOULD support USERNAME/PASSWORD".')
@pytest.mark.rfc("RFC 1928 section 6", "If the method encapsulates, replies are encapsulated.")
@pytest.mark.rfc(
    "RFC 1929 section 2", "ULEN, then UNAME, 1 to 255 octets; PLEN, then PASSWD, 1 to 255 octets."
)
@pytest.mark.rfc("RFC 1929 section 2", "The server verifies them, and answers with VER and STATUS.")
@pytest.mark.rfc("RFC 1929 section 2", "STATUS 00 is success.")
@pytest.mark.parametrize(
    "user, password",
    [(b"ann", b"secret"), (b"bob", b"pass:word"), ("céd".encode("utf-8"), "über".encode("utf-8")),
     (b"x", b"y"), LONG],
)  # fmt: skip
def test_the_right_password(guarded, target, access_log, user, password):
    """Each of several users comes in by password; the log has the name, not the password."""
    with Talk.to(guarded.port) as talk:
        talk.send(b"\x05\x03\x00\x01\x02").expect(b"\x05\x02")
        talk.send(password_message(user, password)).expect(b"\x01\x00")
        talk.send(socks5("127.0.0.1", target.port))
        assert 0 == talk.receive_reply5()[0]
        talk.send(b"hello").expect(b"hello").finish().expect_eof()
    line = access_log.wait_for("end=")

    assert "user=%s" % repr(user)[1:] in line
    if len(password) > 1:
        assert repr(password)[2:-1] not in line


@pytest.mark.rfc("RFC 1928 section 3", 'Implementations "SHOULD support USERNAME/PASSWORD".')
@pytest.mark.rfc(
    "RFC 1929 section 2", "ULEN, then UNAME, 1 to 255 octets; PLEN, then PASSWD, 1 to 255 octets."
)
@pytest.mark.rfc("RFC 1929 section 2", "The server verifies them, and answers with VER and STATUS.")
@pytest.mark.rfc(
    "RFC 1929 section 2", "Another STATUS is a failure, and the server MUST close the connection."
)
@pytest.mark.parametrize(
    "user, password",
    [(b"ann", b"Secret"), (b"ann", b"secre"), (b"ann", b"secret "), (b"ann", b""), (b"", b""),
     (b"", b"secret"), (b"ANN", b"secret"), (b"bob", b"secret"), (b"bob", b"pass"),
     (b"ann:secret", b""),
     (b"ann:", b"secret"), (b"anns", b"ecret"), (b"nobody", b"x"), (b"\xff", b"\xfe"),
     (LONG[0], LONG[1][:-1]), (LONG[0][:-1], LONG[1])],
)  # fmt: skip
def test_a_wrong_password(guarded, access_log, user, password):
    """01 01, EOF, and the request that came along is not looked at."""
    with FakeTarget() as target, Talk.to(guarded.port) as talk:
        message = password_message(user, password) + socks5("127.0.0.1", target.port)
        talk.send(b"\x05\x01\x02" + message).expect(b"\x05\x02\x01\x01").expect_eof()
        line = access_log.wait_for("end=refused")

    assert [] == target.talks
    assert "wrong user name or password" in line
    if password not in (b"", b"x", b"pass"):  # those are in other words
        assert repr(password)[2:-1] not in line


@pytest.mark.rfc("RFC 1928 section 3", "Client and server enter the method's own sub-negotiation.")
@pytest.mark.rfc("RFC 1929 section 2", "VER 01: the version of this sub-negotiation.")
def test_a_password_message_of_another_version(guarded):
    """VER of the password message must be 1: else 01 01 and EOF."""
    with Talk.to(guarded.port) as talk:
        talk.send(b"\x05\x01\x02\x05\x03ann\x06secret").expect(b"\x05\x02\x01\x01").expect_eof()


@pytest.mark.rfc(
    "RFC 1928 section 3", 'FF: none is acceptable, "the client MUST close the connection".'
)
@pytest.mark.rfc("RFC 1929 section 1", "The client chooses this by METHOD 02.")
def test_no_password_offered(guarded, access_log):
    """A client that offers no password receives 05 FF, and nothing more."""
    with FakeTarget() as target, Talk.to(guarded.port) as talk:
        talk.send(GREETING + socks5("127.0.0.1", target.port)).expect(b"\x05\xff").expect_eof()
        line = access_log.wait_for("end=refused")

    assert [] == target.talks
    assert "no common method: the client offers 00, and needs 02 (a password)" in line


@pytest.mark.rfc("SOCKS4, CONNECT", "Passwords: the memo has none.")
@pytest.mark.parametrize("request_of", [socks4, socks4a])
def test_socks4_where_a_password_is_needed(guarded, access_log, request_of):
    """SOCKS4 has no password, so it gets 91, whatever its USERID is."""
    with FakeTarget() as target, Talk.to(guarded.port) as talk:
        host = "127.0.0.1" if request_of is socks4 else b"v4.test"
        talk.send(request_of(host, target.port, b"ann")).expect(REJECTED4).expect_eof()
        line = access_log.wait_for("end=refused")

    assert [] == target.talks
    assert "a password is needed; SOCKS4 cannot send one" in line


def test_a_password_cut_at_every_byte(guarded, target):
    """Greeting, password and request mean the same wherever they are cut."""
    message = (
        b"\x05\x01\x02" + password_message(b"ann", b"secret") + socks5("127.0.0.1", target.port)
    )
    with contextlib.ExitStack() as stack:
        talks = [stack.enter_context(Talk.to(guarded.port)) for _ in range(len(message) + 1)]
        for cut, talk in enumerate(talks):
            talk.send(message[:cut])
        wait_until(lambda: len(guarded) == len(talks))
        for cut, talk in enumerate(talks):
            talk.send(message[cut:] + b"tail").finish()

        for talk in talks:
            talk.expect(b"\x05\x02\x01\x00")
            assert 0 == talk.receive_reply5()[0]
            talk.expect(b"tail").expect_eof()


# Time


@pytest.mark.rfc("RFC 1928 section 6", "REP 06: TTL expired.")
@pytest.mark.rfc(
    "SOCKS4, both",
    "A time limit for the connection with the application server: 2 minutes at CSTC.",
)
def test_a_resolver_that_hangs(access_log):
    """Resolving counts for --connect-timeout: a name that hangs is REP 06, or 91, then EOF."""
    release = threading.Event()

    def getaddrinfo(*args):
        release.wait(20)
        raise OSError("too late")

    try:
        with run_proxy(Resolver(getaddrinfo), connect_timeout=0.3) as proxy:
            with Talk.to(proxy.port) as talk:
                talk.send(GREETING + socks5(b"slow.test", 80))
                talk.expect(b"\x05\x00" + failure5(TTL)).expect_eof()
            with Talk.to(proxy.port) as talk:
                talk.send(socks4a(b"slow.test", 80)).expect(REJECTED4).expect_eof()
            wait_until(lambda: len(proxy) == 0)
            release.set()  # and the late answer does no harm
    finally:
        release.set()
    assert all("not resolved in time" in line for line in access_log.lines)


def test_when_all_resolver_threads_are_stuck_the_next_name_fails_at_once(monkeypatch):
    """REP 01 without waiting; literals work, and clients that already wait are served later."""
    release = threading.Event()
    asked = []

    def getaddrinfo(*args):
        asked.append(args)
        release.wait(20)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", target.port))]

    with FakeTarget() as target, run_proxy(Resolver(getaddrinfo)) as proxy:
        with contextlib.ExitStack() as stack:
            stack.callback(release.set)
            waiting = [stack.enter_context(Talk.to(proxy.port)) for _ in range(MAX_THREADS)]
            for talk in waiting:
                talk.send(GREETING + socks5(b"slow.test", 80)).expect(b"\x05\x00")
            wait_until(lambda: len(asked) == MAX_THREADS)
            monkeypatch.setattr("minisocks.net.resolver.STUCK_SECONDS", 0.0)

            with Talk.to(proxy.port) as talk:
                talk.send(GREETING + socks5(b"next.test", 80))
                talk.expect(b"\x05\x00" + failure5(GENERAL)).expect_eof()
            with Talk.to(proxy.port) as talk:
                talk.send(socks4a(b"next.test", 80)).expect(REJECTED4).expect_eof()
            with Talk.to(proxy.port) as talk:
                assert 0 == talk.connect5(b"127.0.0.1", target.port)[0]
            release.set()
            for talk in waiting:
                assert 0 == talk.receive_reply5()[0]
    assert MAX_THREADS == len(asked)


def several(*addresses):
    """Return a proxy whose resolver knows ``b"several.test"`` as *addresses*."""
    return run_proxy(table({b"several.test": list(addresses)}))


def test_the_second_address_when_the_first_does_not_answer(target):
    """A silent address delays a connection by its head start and no more."""
    with black_hole() as silent, several(
        ("127.0.0.1", silent), ("127.0.0.1", target.port)
    ) as proxy:
        with Talk.to(proxy.port) as talk:
            assert 0 == talk.connect5(b"several.test", 1)[0]
            talk.send(b"ping").expect(b"ping")
            wait_until(lambda: len(proxy) == 1)


def test_the_second_address_when_the_first_refuses(target, access_log):
    """A refusal goes on to the next address, and the log says which one it was in the end."""
    refusing = [("127.0.0.1", closed_port()), ("::1", closed_port("::1"))]
    with several(*refusing + [("127.0.0.1", target.port)]) as proxy:
        with Talk.to(proxy.port) as talk:
            assert (0, "127.0.0.1") == talk.connect5(b"several.test", 1)[:2]
            talk.send(b"ping").expect(b"ping").finish().expect_eof()
    assert "via=127.0.0.1" in access_log.wait_for("end=")


def test_ipv4_when_ipv6_is_dead(target):
    """Three IPv6 addresses that lead nowhere do not keep a client from the one of IPv4."""
    with _silent6() as silent:
        dead = [("::1", silent)] * 3
        with several(*dead + [("127.0.0.1", target.port)]) as proxy, Talk.to(proxy.port) as talk:
            assert (0, "127.0.0.1") == talk.connect5(b"several.test", 1)[:2]
            talk.send(b"ping").expect(b"ping")


def test_when_all_addresses_fail(access_log):
    """REP is that of a refusal, because it proves a host; the log has all failures."""
    port = closed_port()
    with several(("127.0.0.1", port), (NO_NETWORK6, 9), (NO_NETWORK4, 9)) as proxy:
        with Talk.to(proxy.port) as talk:
            talk.send(GREETING + socks5(b"several.test", 1))
            talk.expect(b"\x05\x00" + failure5(REFUSED)).expect_eof()
    line = access_log.wait_for("end=refused")
    assert "127.0.0.1: Connection refused" in line
    assert "224.0.0.1: Network is unreachable" in line


@contextlib.contextmanager
def under_way(what):
    """A proxy, a request that has it wait for *what*, and how to end that wait."""
    release = threading.Event()
    asked = []

    def getaddrinfo(name, port, *args):
        asked.append(name)
        release.wait(20)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    with run_proxy(Resolver(getaddrinfo)) as proxy, black_hole() as silent:
        if what == "a name":
            yield proxy, lambda port: socks5(b"slow.test", port), release.set, lambda: asked
        else:
            yield proxy, lambda port: socks5("127.0.0.1", silent), release.set, lambda: True
        release.set()


@pytest.mark.parametrize("what", ["a name", "a target"])
def test_a_client_that_resets_while_we_dial(what, access_log):
    """Everything is freed at once, long before any time limit; one line names the client's end."""
    with under_way(what) as (proxy, request, _release, asked):
        before = open_descriptors()
        talk = Talk.to(proxy.port)
        talk.send(GREETING).expect(b"\x05\x00").send(request(9))
        wait_until(lambda: len(proxy) == 1 and asked())
        # Its session, its attempt: all there. Its own end is one more.
        assert open_descriptors() >= before + 2

        talk.reset()

        wait_until(lambda: len(proxy) == 0, "the end of the dial")
        wait_until(lambda: open_descriptors() == before, "no descriptor left")
        assert "end=client-gone" in access_log.wait_for("end=")
    assert 1 == len(access_log.lines)


@pytest.mark.rfc(
    "RFC 1928 section 6, Reply processing",
    "After a success of BIND or CONNECT the client may start passing data.",
)
def test_a_client_that_half_closes_while_we_dial():
    """FIN from a client is no good-bye: it still gets its reply and what the target says."""
    got = []

    def script(talk):
        got.append(talk.rest())
        talk.send(b"answer")

    with FakeTarget(script) as target, under_way("a name") as (proxy, request, release, asked):
        with Talk.to(proxy.port) as talk:
            talk.send(GREETING + request(target.port) + b"question").finish().expect(b"\x05\x00")
            wait_until(lambda: len(proxy) == 1 and asked())
            release()

            assert 0 == talk.receive_reply5()[0]
            talk.expect(b"answer").expect_eof()
    assert [b"question"] == got


def test_a_client_that_half_closes_waits_for_a_failure_too():
    """The same when the target cannot be reached after all."""
    with under_way("a name") as (proxy, request, release, asked):
        with Talk.to(proxy.port) as talk:
            talk.send(GREETING + request(closed_port())).finish().expect(b"\x05\x00")
            wait_until(lambda: len(proxy) == 1 and asked())
            release()

            talk.expect(failure5(REFUSED)).expect_eof()


def test_a_client_that_half_closes_without_a_word_for_its_target(monkeypatch):
    """It is served all the same if its target answers within some seconds."""
    monkeypatch.setattr(clientsocket, "FIN_SECONDS", 60.0)
    with FakeTarget(says(b"answer")) as target, under_way("a name") as (
        proxy,
        request,
        release,
        asked,
    ):
        with Talk.to(proxy.port) as talk:
            talk.send(GREETING + request(target.port)).finish().expect(b"\x05\x00")
            wait_until(lambda: asked() and inside.session(waiting_request(proxy)).conn.has_sent_fin)
            release()

            assert 0 == talk.receive_reply5()[0]
            talk.expect(b"answer").expect_eof()


def waiting_request(proxy):
    """Return the one request that waits in the loop, once there is one."""
    jobs = []

    def is_there():
        jobs[:] = inside.jobs(proxy.services.loop, WaitingRequest)
        return jobs

    wait_until(is_there, "a request that waits")
    (job,) = jobs
    return job


@pytest.mark.rfc(
    "RFC 1928 section 6, Reply processing",
    "After a success of BIND or CONNECT the client may start passing data.",
)
@pytest.mark.parametrize("what", ["a name", "a target"])
def test_a_client_that_closes_is_not_waited_for_long(what, monkeypatch, access_log):
    """Some seconds behind its FIN its request is given up, and all is freed."""
    monkeypatch.setattr(clientsocket, "FIN_SECONDS", 0.1)
    with under_way(what) as (proxy, request, _release, asked):
        before = open_descriptors()
        with Talk.to(proxy.port) as talk:
            talk.send(GREETING + request(9)).finish()
            talk.expect(b"\x05\x00" + failure5(TTL)).expect_eof()
        Talk.to(proxy.port).send(GREETING + request(9)).expect(b"\x05\x00").close()
        wait_until(lambda: len(access_log.lines) == 2, "the end of both")
        wait_until(lambda: len(proxy) == 0 and open_descriptors() == before, "no descriptor left")
    assert all("in time (5 s after the FIN of its client)" in line for line in access_log.lines)


@pytest.mark.parametrize("when", ["with the request", "behind it"])
@pytest.mark.parametrize("what", ["a name", "a target"])
def test_a_client_that_closes_behind_bytes_for_its_target(what, when, monkeypatch, access_log):
    """It may only have said all: its request goes on until --connect-timeout."""
    monkeypatch.setattr(clientsocket, "FIN_SECONDS", 0.0)
    with under_way(what) as (proxy, request, _release, asked):
        proxy.reload(proxy.config._replace(connect_timeout=0.3))
        with Talk.to(proxy.port) as talk:
            if when == "behind it":
                talk.send(GREETING + request(9)).expect(b"\x05\x00")
                job = waiting_request(proxy)
                talk.send(b"x")
                wait_until(lambda: inside.session(job).mask == 0, "the byte was seen")
            else:
                talk.send(GREETING + request(9) + b"x").expect(b"\x05\x00")
            talk.finish().expect(failure5(TTL)).expect_eof()
    (line,) = access_log.lines
    assert "in time" in line
    assert "FIN" not in line
    assert float(line.partition("secs=")[2].split()[0]) >= 0.29


@pytest.mark.parametrize("behind", ["a byte", "its FIN"])
def test_a_client_that_resets_later_while_we_dial(behind, monkeypatch, access_log):
    """That is noticed whatever the client has done before."""
    with under_way("a target") as (proxy, request, _release, asked):
        talk = Talk.to(proxy.port).send(GREETING + request(9)).expect(b"\x05\x00")
        job = waiting_request(proxy)
        talk.send(b"x") if behind == "a byte" else talk.finish()
        wait_until(lambda: inside.session(job).mask == 0, "it was seen")
        talk.reset()
        wait_until(lambda: len(proxy) == 0, "the end of the dial")
        assert "end=client-gone" in access_log.wait_for("end=")


HALF_SAID = [
    # what the client says, what it hears when its time is up
    (b"", b""),
    (b"\x05", b"\x05\xff"),
    (b"\x05\x02\x00", b"\x05\xff"),
    (GREETING, b"\x05\x00" + failure5(TTL)),
    (GREETING + b"\x05", b"\x05\x00" + failure5(TTL)),
    (GREETING + b"\x05\x01\x00\x03\x09exam", b"\x05\x00" + failure5(TTL)),
    (b"\x04", REJECTED4),
    (b"\x04\x01\x00\x50\x7f\x00\x00\x01ann", REJECTED4),
    (socks4a(b"v4.test", 80)[:-1], REJECTED4),
    (b"GE", b""),
]


@pytest.mark.rfc(
    "RFC 1928 section 6", "The client sends its request as soon as the negotiation is over."
)
@pytest.mark.rfc("RFC 1928 section 6", "REP 06: TTL expired.")
def test_clients_that_do_not_finish(access_log):
    """At --handshake-timeout each gets the reply that fits what it has said, and EOF."""
    with run_proxy(handshake_timeout=0.4) as proxy, contextlib.ExitStack() as stack:
        talks = [stack.enter_context(Talk.to(proxy.port)) for _ in HALF_SAID]
        for talk, (said, _heard) in zip(talks, HALF_SAID):
            talk.send(said)

        for talk, (_said, heard) in zip(talks, HALF_SAID):
            talk.expect(heard).expect_eof()
        wait_until(lambda: len(access_log.lines) >= len(HALF_SAID) - 1)

    assert len(HALF_SAID) - 1 == len(access_log.lines)
    assert all("took too long" in line for line in access_log.lines)


def test_a_client_that_does_not_say_its_password():
    """The same in the middle of the password: 01 01 and EOF."""
    with run_proxy(handshake_timeout=0.4, user=("ann:secret",)) as proxy, Talk.to(
        proxy.port
    ) as talk:
        talk.send(b"\x05\x01\x02\x01\x03ann").expect(b"\x05\x02\x01\x01").expect_eof()


@pytest.mark.rfc(
    "RFC 1928 section 6", "The client sends its request as soon as the negotiation is over."
)
@pytest.mark.parametrize("pause", [0.01, 0.12])
def test_a_byte_now_and_then_prolongs_nothing(pause):
    """One deadline for all that a client says: it cannot live on by saying little."""
    endless = socks4("127.0.0.1", 80, b"u" * 255)[:-1]
    with run_proxy(handshake_timeout=0.5) as proxy, Talk.to(proxy.port) as talk:
        talk.sock.settimeout(pause)
        sent = 0
        while sent < len(endless):
            talk.send(endless[sent : sent + 1])
            sent += 1
            with contextlib.suppress(socket.timeout):
                assert REJECTED4[:1] == talk.sock.recv(1)
                break
        talk.sock.settimeout(20)

        talk.expect(REJECTED4[1:]).expect_eof()
        assert 2 < sent < len(endless)


# What is not SOCKS


def test_http_request_gets_a_page_that_says_what_this_is(proxy, access_log):
    """A browser that takes this for a web server or an HTTP proxy can show what is wrong."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", "http://example.org/")
        response = connection.getresponse()
        body = response.read().decode("utf-8")

    assert 400 == response.status
    assert response.getheader("Content-Type").startswith("text/plain")
    assert "This is a SOCKS proxy" in body
    for words in ("Firefox", "SOCKS Host", "socks5h://"):
        assert words in body
    assert "HTTP instead of SOCKS" in access_log.wait_for("end=not-socks")
    assert 1 == len(access_log.lines)


@pytest.mark.parametrize("method", ["POST", "PUT", "OPTIONS", "HEAD", "PROPFIND"])
def test_http_of_every_kind(proxy, access_log, method):
    """So can one that sends a body of 100 KB: the page is not lost in a reset."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
    with contextlib.closing(connection):
        connection.request(method, "/", body=bytes(100000))
        response = connection.getresponse()
        body = response.read()

    assert 400 == response.status
    assert body.startswith(b"" if method == "HEAD" else b"This is a SOCKS proxy")
    access_log.wait_for("end=not-socks")


def test_http_connect(proxy, access_log):
    """A program set up for an HTTP proxy hears 400 to its CONNECT."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
    connection.set_tunnel("example.org", 443)
    with contextlib.closing(connection), pytest.raises(OSError, match="400 Bad Request"):
        connection.request("GET", "/")
    access_log.wait_for("HTTP instead of SOCKS")


def test_http_page_is_complete(proxy):
    """Content-Length is right, and EOF follows the page."""
    with Talk.to(proxy.port) as talk:
        head, _, body = talk.send(b"GET / HTTP/1.1\r\n\r\n").rest().partition(b"\r\n\r\n")

    lines = head.split(b"\r\n")
    assert b"HTTP/1.1 400 Bad Request" == lines[0]
    assert b"Content-Length: %d" % len(body) in lines
    assert b"Connection: close" in lines


def test_tls(proxy, access_log):
    """A TLS client is hung up on, and the log names the mistake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", proxy.port), 20) as sock:
        with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
            context.wrap_socket(sock).close()
    assert "TLS instead of SOCKS" in access_log.wait_for("end=not-socks")
    assert 1 == len(access_log.lines)


@pytest.mark.rfc(
    "RFC 1928 sections 1 and 2",
    "Version 4 stays; version 5 adds UDP, authentication, names and IPv6.",
)
@pytest.mark.parametrize(
    "junk, words",
    [
        (b"\x00" * 100, "0x00"),
        (b"\x06\x01\x00", "0x06"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH instead of SOCKS"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "PROXY protocol"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", "PROXY protocol"),  # its version 2
        (b"\n\n", "0x0a"),
        (b"hello\r\n", "0x68"),
        (b"\xff" * 5000, "0xff"),
        (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ ", "0x41"),
        (b"\x80\x9e\x01\x03\x01", "0x80"),
    ],
)
def test_junk(proxy, access_log, junk, words):
    """What is nothing we know gets EOF, and one log line that names the likely mistake."""
    with Talk.to(proxy.port) as talk:
        talk.send(junk).expect_eof()
    assert words in access_log.wait_for("end=not-socks")
    assert 1 == len(access_log.lines)


def test_connect_and_close_leaves_no_line(proxy, target, access_log):
    """A health check is not worth a line, whether it closes or resets."""
    for _ in range(20):
        Talk.to(proxy.port).close()
        Talk.to(proxy.port).reset()
    with Talk.to(proxy.port) as talk:
        talk.connect5("127.0.0.1", target.port)
        talk.finish().expect_eof()
    access_log.wait_for("end=client-fin")
    wait_until(lambda: len(proxy) == 0)

    assert 1 == len(access_log.lines)


# The log, and what is left behind


def test_the_line_of_a_connection_answers_why(proxy, access_log):
    """Client, target, address, result, bytes, seconds, and the side that ended it."""
    with FakeTarget(says(b"answer")) as target, Talk.to(proxy.port) as talk:
        client = "%s:%d" % talk.sock.getsockname()
        talk.send(GREETING + socks5(b"v4.test", target.port) + b"ask").finish().rest()
        line = access_log.wait_for("end=")

    words = dict(word.split("=", 1) for word in line.split())
    assert client == words["client"]
    assert words["id"].isdigit()
    assert ("5", "CONNECT") == (words["ver"], words["cmd"])
    assert "'v4.test':%d" % target.port == words["dst"]
    assert "127.0.0.1" == words["via"]
    assert "'succeeded'" == words["rep"]
    assert ("3B", "6B") == (words["up"], words["down"])
    assert 0.0 <= float(words["secs"]) < 60.0
    assert words["end"] in ("client-fin", "target-fin")


@pytest.mark.rfc(
    "SOCKS4, CONNECT",
    "Granted by any combination of source, destination, port, USERID and what IDENT says.",
)
def test_userid_is_logged_as_what_it_is(proxy, target, access_log):
    """SOCKS4's USERID is logged escaped, and not as user=, because no password proves it."""
    with Talk.to(proxy.port) as talk:
        talk.send(socks4("127.0.0.1", target.port, b"ann\nx=\xff")).receive(8)
        talk.finish().expect_eof()
    line = access_log.wait_for("end=")

    assert r"userid='ann\nx=\xff'" in line
    assert " user=" not in line


def test_nothing_is_left_behind(access_log):
    """However connections end, descriptors, threads and jobs are back to where they were."""
    release = threading.Event()

    def getaddrinfo(name, port, *args):
        if name == b"slow.test":
            release.wait(20)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    closed = closed_port()
    threads = threading.active_count()
    with FakeTarget(swallow) as target, black_hole() as silent:
        before_proxy = open_descriptors()
        with run_proxy(Resolver(getaddrinfo), user=("ann:secret",)) as proxy:
            password = b"\x05\x01\x02" + password_message(b"ann", b"secret")
            steps = [b"", b"\x05", b"\x05\x01\x02", password[:8], password,
                     b"\x05\x01\x00", b"GET / ", b"\x16",
                     password + socks5("127.0.0.1", target.port)[:6],
                     password + socks5("127.0.0.1", target.port),
                     password + socks5(b"name.test", target.port) + b"data",
                     password + socks5("127.0.0.1", closed),
                     password + socks5("127.0.0.1", silent),
                     password + socks5(b"slow.test", target.port),
                     socks4("127.0.0.1", 80)]  # fmt: skip
            before = open_descriptors()
            for end in (Talk.reset, Talk.close, Talk.finish):
                talks = [Talk.to(proxy.port).send(said) for said in steps for _ in range(4)]
                for talk in talks:
                    end(talk)
                for talk in talks:
                    talk.close()
            release.set()
            # None of them read its replies, so that every close was a reset.
            wait_until(lambda: len(proxy) == 0, "the end of all connections")
            wait_until(lambda: open_descriptors() == before, "descriptors given back")
        wait_until(lambda: open_descriptors() == before_proxy, "all descriptors given back")
    wait_until(lambda: threading.active_count() <= threads, "the end of the threads")
