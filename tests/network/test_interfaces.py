"""The addresses that interfaces have, as the kernel reports them."""

import ast
import socket
import sys

import pytest

from kit import hosts
from minisocks.net.lookup import only_family, own_ipv4


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells them so")
def test_this_host_has_loopback():
    """Its entry, as each other one, has a name and 4 bytes."""
    found = own_ipv4()

    assert b"\x7f\0\0\1" in [ip for _name, ip in found]
    assert all(name and len(ip) == 4 for name, ip in found)


def test_every_address_of_every_interface_is_known():
    """An interface may have several, with a label or without; IPv6 is left out."""
    with hosts.made_for_tests("one", "other") as made:
        with hosts.or_skip():
            made.cable(("one", "10.1.0.1/24", "10.1.0.9/24", "fd01::1/64"), ("other",))
            made.one.ip("addr add 169.254.3.4/16 dev other label other:0")
        ask = "from minisocks.net.lookup import own_ipv4; print(own_ipv4())"
        status, text = made.one.run(sys.executable, "-c", ask)

    assert 0 == status, text
    assert {
        ("lo", b"\x7f\0\0\1"),
        ("other", b"\x0a\1\0\1"),
        ("other", b"\x0a\1\0\x09"),
        ("other:0", b"\xa9\xfe\3\4"),
    } == set(ast.literal_eval(text))


V4, V6 = int(socket.AF_INET), int(socket.AF_INET6)


@pytest.mark.parametrize(
    "addresses, family",
    [
        ([], 0),
        (["169.254.3.4/16", "fe80::7/64"], 0),
        (["10.1.0.1/24"], V4),
        (["10.1.0.1/24", "fe80::7/64"], V4),
        (["fd01::1/64"], V6),
        (["fd01::1/64", "169.254.3.4/16"], V6),
        (["10.1.0.1/24", "fd01::1/64"], 0),
        (["198.51.100.7/32", "2001:db8::7/128", "fe80::7/64"], 0),
    ],
    ids=str,
)
def test_family_of_which_alone_there_are_addresses(addresses, family):
    """Loopback and link-local addresses do not count, and no route is needed."""
    with hosts.made_for_tests("one", "other") as made:
        with hosts.or_skip():
            made.cable(("one", *addresses), ("other",))
        ask = "from minisocks.net.lookup import only_family; print(only_family())"
        status, text = made.one.run(sys.executable, "-c", ask)

    assert (0, "%d\n" % family) == (status, text)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere nothing is known")
def test_without_a_descriptor_both_families_are_possible(monkeypatch):
    """An unknown address is not taken for a missing one."""

    def no_descriptor(*args):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket, "socket", no_descriptor)

    assert 0 == only_family()
