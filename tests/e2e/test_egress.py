"""The way out: preferred family, source address, interface and mark."""

import errno
import os
import socket
import subprocess
import sys

import pytest

from kit.support import ROOT, FakeTarget, Talk, run_proxy
from minisocks import Config, Proxy
from minisocks.errors import EgressError
from minisocks.net.egress import Egress
from minisocks.net.resolver import Resolver

V4, V6 = socket.AF_INET, socket.AF_INET6

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may set marks"
)


def says_peer(talk):
    """Send the client the address from which the target saw it come."""
    talk.send(talk.sock.getpeername()[0].encode("ascii")).finish()
    talk.rest()


@pytest.mark.parametrize(
    "prefer, expected",
    [
        ("system", [(V6, 1), (V4, 2), (V6, 3), (V4, 4)]),
        ("ipv4", [(V4, 2), (V4, 4), (V6, 1), (V6, 3)]),
        ("ipv6", [(V6, 1), (V6, 3), (V4, 2), (V4, 4)]),
        ("ipv6-only", [(V6, 1), (V6, 3), (V4, 2), (V4, 4)]),
    ],
)
def test_preferred_family_is_first(prefer, expected):
    """Addresses of the preferred family come first; else the resolver's order stays."""
    egress = Egress.of(Config(prefer=prefer))

    assert expected == egress.ordered([(V6, 1), (V4, 2), (V6, 3), (V4, 4)])


@pytest.mark.parametrize(
    "settings, family",
    [
        ({}, 0),
        ({"prefer": "ipv4"}, 0),
        ({"prefer": "ipv4-only"}, V4),
        ({"prefer": "ipv6-only"}, V6),
        ({"source": ("10.0.0.1",)}, V4),
        ({"source": ("fd00::1",), "prefer": "ipv4"}, V6),
        ({"source": ("10.0.0.1", "fd00::1")}, 0),
        ({"source": ("10.0.0.1", "fd00::1"), "prefer": "ipv6-only"}, V6),
    ],
)
def test_family_that_names_are_looked_up_in(settings, family):
    """Names are looked up in the only wanted family, or in the only one with a source."""
    assert family == Egress.of(Config(**settings).checked()).only


@pytest.mark.parametrize("prefer, host", [("ipv4", "127.0.0.1"), ("ipv6", "::1")])
def test_preferred_family_is_dialed_first(prefer, host):
    """Of a name with both kinds of addresses, one of the preferred kind is connected to."""

    def getaddrinfo(name, port, *args):
        rows = [(V6, ("::1", port, 0, 0)), (V4, ("127.0.0.1", port))]
        if prefer == "ipv6":
            rows.reverse()
        return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in rows]

    with FakeTarget(says_peer, host) as target:
        with run_proxy(Resolver(getaddrinfo), prefer=prefer) as proxy, Talk.to(proxy.port) as talk:
            assert 0 == talk.connect5(b"both.test", target.port)[0]
            assert host.encode("ascii") == talk.rest()


@pytest.mark.rfc(
    "RFC 1928 section 6, CONNECT",
    "BND.ADDR and BND.PORT: what the server assigned to connect to the target.",
)
def test_source_address_is_what_the_target_sees():
    """The target sees the address that --source names, and so does BND."""
    with FakeTarget(says_peer) as target, run_proxy(source=("127.0.0.9",)) as proxy:
        for _ in range(3):
            with Talk.to(proxy.port) as talk:
                rep, host, _ = talk.connect5("127.0.0.1", target.port)
                assert (0, "127.0.0.9") == (rep, host)
                assert b"127.0.0.9" == talk.rest()


def test_family_without_a_source_is_not_used():
    """With a source for IPv4 alone, nothing goes out by IPv6."""
    with FakeTarget(host="::1") as target, run_proxy(source=("127.0.0.9",)) as proxy:
        with Talk.to(proxy.port) as talk:
            assert 3 == talk.connect5("::1", target.port)[0]
    assert [] == target.talks


@pytest.mark.parametrize("dst", ["::ffff:127.0.0.1", b"::ffff:7f00:1", b"mapped.test"])
def test_an_ipv4_address_in_ipv6_form_has_the_ipv4_source(dst):
    """It has it as an address, as a name, and in the answer of a name server."""

    def getaddrinfo(host, port, *args):
        sockaddr = ("::ffff:127.0.0.1", port, 0, 0)
        return [(socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", sockaddr)]

    with FakeTarget(says_peer) as target:
        with run_proxy(Resolver(getaddrinfo), source=("127.0.0.9",)) as proxy:
            with Talk.to(proxy.port) as talk:
                rep, host, _ = talk.connect5(dst, target.port)
                assert (0, "127.0.0.9") == (rep, host)
                assert b"127.0.0.9" == talk.rest()
            (record,) = proxy.records
            assert "127.0.0.1" == record.via


def test_sources_of_both_families():
    """Each family has a source of its own."""
    with run_proxy(source=("127.0.0.9", "::1")) as proxy:
        for host, source in (("127.0.0.1", b"127.0.0.9"), ("::1", b"::1")):
            with FakeTarget(says_peer, host) as target, Talk.to(proxy.port) as talk:
                assert 0 == talk.connect5(host, target.port)[0]
                assert source == talk.rest()


@needs_linux
def test_ports_of_a_source_address_do_not_run_out():
    """One port serves several targets, because it is chosen when the target is known."""
    sock = socket.socket()
    Egress.of(Config(source=("127.0.0.9",))).prepare(sock)
    try:
        assert ("127.0.0.9", 0) == sock.getsockname()
    finally:
        sock.close()


@needs_linux
def test_interface():
    """Loopback is reached through its own interface."""
    with FakeTarget(says_peer) as target, run_proxy(interface="lo") as proxy:
        with Talk.to(proxy.port) as talk:
            assert 0 == talk.connect5("127.0.0.1", target.port)[0]
            assert b"127.0.0.1" == talk.rest()


@needs_linux
@needs_root
@pytest.mark.parametrize("mark", [1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_mark(mark):
    """The socket has the mark, up to the largest one."""
    sock = socket.socket()
    try:
        Egress.of(Config(mark=mark)).prepare(sock)
        assert mark == sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) & 0xFFFFFFFF
    finally:
        sock.close()


@needs_linux
@pytest.mark.parametrize(
    "settings, words",
    [
        ({"source": ("192.0.2.1",)}, "--source 192.0.2.1"),
        ({"interface": "nosuch0"}, "--interface nosuch0"),
    ],
)
def test_what_is_not_up_yet_is_a_warning(settings, words, caplog):
    """A missing address or interface does not keep it from starting; only targets fail."""
    with FakeTarget() as target, run_proxy(**settings) as proxy:
        with Talk.to(proxy.port) as talk:
            assert 1 == talk.connect5("127.0.0.1", target.port)[0]
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert words in warning
    assert "connections fail until this works" in warning
    assert [] == target.talks


def test_what_never_works_keeps_it_from_starting(monkeypatch):
    """Where the system has no such option, start raises one sentence, and nothing listens."""
    monkeypatch.delattr(socket, "SO_MARK", raising=False)
    proxy = Proxy(Config(listen=("127.0.0.1:0",), mark=7))

    with pytest.raises(EgressError, match="--mark 7: this system has no SO_MARK") as caught:
        proxy.start()

    assert errno.ENOPROTOOPT == caught.value.errno
    assert [] == proxy.addresses


@needs_linux
@needs_root
def test_mark_without_the_right_to():
    """A user that may not set marks reads that at the start."""
    program = (
        "import os, socket, minisocks.errors, minisocks.net.egress\n"
        "os.setuid(65534)\n"
        "try:\n"
        "    minisocks.net.egress.Egress(mark=5).check()\n"
        "except minisocks.errors.EgressError as exc:\n"
        "    print(exc.strerror)\n"
    )
    out = subprocess.check_output(
        [sys.executable, "-c", program], cwd=ROOT, universal_newlines=True
    )

    assert "cannot connect to targets with --mark 5: Operation not permitted" == out.strip()
