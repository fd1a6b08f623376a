"""Relay sockets: on the address that was reached, in the range, and the address in the reply."""

import socket

import pytest

from kit import inside
from kit.support import failure5, run_proxy, wait_until
from kit.udp_client import Associated, UdpTarget, udp_socket
from minisocks.config.settings import Config
from minisocks.errors import ConfigError, DialError, LimitReached
from minisocks.net.ports import MAX_TRIES, Ports, public_address
from minisocks.wire import packed_ip, unmapped

KIND = socket.SOCK_DGRAM


def free_range(count, host="127.0.0.1"):
    """Return the first of *count* ports that are free, below those the kernel gives."""
    for low in range(20000, 32000, count):
        socks = []
        try:
            for port in range(low, low + count):
                socks.append(udp_socket(host, port))
        except OSError:
            continue
        finally:
            for sock in socks:
                sock.close()
        return low
    raise AssertionError("no ports are free")


@pytest.mark.parametrize(
    "reached, host",
    [
        (("127.0.0.1", 1080), "127.0.0.1"),
        (("127.0.0.9", 1080), "127.0.0.9"),
        (("::1", 1080, 0, 0), "::1"),
        (("::ffff:127.0.0.1", 1080, 0, 0), "127.0.0.1"),
    ],
)
def test_a_socket_is_where_the_client_has_reached_us(reached, host):
    """It has the family of the address, any port, and does not block."""
    sock, ip = Ports("--udp-ports").open(KIND, reached)
    with sock:
        assert host == sock.getsockname()[0]
        assert packed_ip(host) == ip
        assert 0 != sock.getsockname()[1]
        with pytest.raises(BlockingIOError):
            sock.recv(1)


def test_a_range_is_used_up_and_free_again():
    """Each port once for each address; one client too many gets an error that names the option."""
    low = free_range(4)
    text = "%d-%d" % (low, low + 3)
    ports, socks = Ports("--udp-ports"), []
    ports.change(text)
    try:
        for _ in range(4):
            socks.append(ports.open(KIND, ("127.0.0.1", 1))[0])
        wanted = list(range(low, low + 4))
        assert wanted == sorted(sock.getsockname()[1] for sock in socks)
        with pytest.raises(LimitReached, match=r"\(--udp-ports %s\)" % text):
            ports.open(KIND, ("127.0.0.1", 1))
        other, _ = ports.open(KIND, ("127.0.0.2", 1))
        other.close()
        gone = socks.pop()
        port = gone.getsockname()[1]
        gone.close()
        ports.closed(packed_ip("127.0.0.1"), port)
        socks.append(ports.open(KIND, ("127.0.0.1", 1))[0])
        assert port == socks[-1].getsockname()[1]
    finally:
        for sock in socks:
            sock.close()


def test_ports_of_others_are_passed_over():
    """Another program may have some of the range."""
    low = free_range(3)
    ports = Ports("--udp-ports")
    ports.change("%d-%d" % (low, low + 2))
    with udp_socket("127.0.0.1", low), udp_socket("127.0.0.1", low + 2):
        sock, _ = ports.open(KIND, ("127.0.0.1", 1))
        with sock:
            assert low + 1 == sock.getsockname()[1]


def test_a_range_that_others_have_is_not_tried_for_ever():
    """After so many tries it counts as used up: each is a system call in the loop."""

    tries = []

    def bind_to_taken(bind, sock, *args):
        with udp_socket("127.0.0.1") as taken:
            port = taken.getsockname()[1]

            class Always:
                def bind(self, address):
                    tries.append(address)
                    sock.bind((address[0], port))

            bind(Always(), *args)

    ports = Ports("--udp-ports")
    inside.wrap_bind(ports, bind_to_taken)
    ports.change("20000-29999")
    with pytest.raises(LimitReached, match="--udp-ports 20000-29999"):
        ports.open(KIND, ("127.0.0.1", 1))
    assert MAX_TRIES == len(tries)


def test_an_address_that_has_gone_is_an_error_with_its_reason():
    """A client that reached an address which the host has lost meanwhile hears REP 01."""
    with pytest.raises(DialError, match="no socket on 192.0.2.77: ") as caught:
        Ports("--udp-ports").open(KIND, ("192.0.2.77", 1))
    assert 1 == caught.value.rep


@pytest.mark.parametrize(
    "text", ["0-5", "5-4", "65536", "1-65536", "-", "1-", "-1", "a-b", "1-2-3", "1,2", " 1-2", "0"]
)
def test_what_is_no_range_is_refused(text):
    """The error names the option."""
    with pytest.raises(ConfigError) as caught:
        Config(udp_ports=text).checked()
    assert "--udp-ports" == caught.value.option


@pytest.mark.parametrize("text", ["1-65535", "7", "7-7", ""])
def test_ranges(text):
    """Both ends included; one port is a range; nothing is any port."""
    assert text == Config(udp_ports=text).checked().udp_ports


PUBLIC = Config(public_address=("203.0.113.5", "2001:db8::5"))


@pytest.mark.parametrize(
    "config, ip, other, expected",
    [
        (PUBLIC, "10.0.0.1", "10.0.0.7", "203.0.113.5"),
        (PUBLIC, "10.0.0.1", "198.51.100.7", "203.0.113.5"),
        (PUBLIC, "fd00::1", "fd00::7", "2001:db8::5"),
        (PUBLIC, "127.0.0.1", "127.0.0.9", "127.0.0.1"),
        (PUBLIC, "::1", "::1", "::1"),
        (PUBLIC, "10.0.0.1", "10.0.0.1", "10.0.0.1"),
        (Config(public_address=("203.0.113.5",)), "fd00::1", "fd00::7", "fd00::1"),
        (PUBLIC, "10.0.0.1", "127.0.0.1", "10.0.0.1"),
        (PUBLIC, "10.0.0.1", "", "203.0.113.5"),
        (PUBLIC, "127.0.0.1", "", "127.0.0.1"),
        (Config(), "10.0.0.1", "10.0.0.7", "10.0.0.1"),
    ],
)
def test_the_public_address(config, ip, other, expected):
    """Of the family in question, for a client that is not on this host; else the real one."""
    told = public_address(config, packed_ip(ip), packed_ip(other) or b"")
    assert packed_ip(expected) == told


@pytest.mark.parametrize(
    "text",
    ["0.0.0.0", "::", "127.0.0.1", "::1", "224.0.0.1", "ff02::1", "example.org", "fe80::1%lo"],
)
def test_what_is_no_public_address_is_refused(text):
    """An address that no client could write to is an error."""
    with pytest.raises(ConfigError) as caught:
        Config(public_address=(text,)).checked()
    assert "--public-address" == caught.value.option


def test_addresses_and_mapped_ones():
    """Text, port and ATYP; an IPv4 address that is written as IPv6 is one."""
    assert b"\x7f\0\0\1" == unmapped(packed_ip("::ffff:127.0.0.1"))
    assert packed_ip("::1") == unmapped(packed_ip("::1"))


# In a proxy


@pytest.mark.rfc(
    "RFC 1928 section 6, UDP ASSOCIATE",
    "BND.ADDR and BND.PORT: where the client MUST send its datagrams.",
)
def test_a_proxy_takes_ports_of_its_range(access_log):
    """BND.PORT is in it; used up, REP 02 and one line that names the option; free again after."""
    low = free_range(2)
    ports = "%d-%d" % (low, low + 1)
    with run_proxy(udp_ports=ports, public_address="203.0.113.5") as proxy, UdpTarget() as target:
        with Associated(proxy.port), Associated(proxy.port):
            with Associated(proxy.port) as third:
                assert (2, 0) == (third.rep, third.port)
            access_log.wait_for("there are 2 associations already (--udp-ports %s)" % ports)
        wait_until(lambda: len(proxy) == 0)
        first, second = Associated(proxy.port), Associated(proxy.port, source="127.0.0.2")
        with first, second:
            assert {low, low + 1} == {first.port, second.port}
            # This client is on this host, and needs no public address.
            assert "127.0.0.1" == first.bnd
            first.expect_to_work(target)
            with Associated(proxy.port, source="127.0.0.3") as third:
                assert failure5(2)[:2] == bytes((5, third.rep))
        wait_until(lambda: len(proxy) == 0)
        with Associated(proxy.port) as again:
            again.expect_to_work(target)
        proxy.reload(proxy.config._replace(udp_ports=""))
        with Associated(proxy.port) as another:
            another.expect_to_work(target)
