"""What clients mean by the addresses and names that they send."""

import pytest

from minisocks.wire import Address, Atyp, is_host_name, packed_ip


@pytest.mark.parametrize(
    "name, meant",
    [
        (b"[::1]", b"::1"),
        (b"[2001:DB8::7]", b"2001:DB8::7"),
        (b"[fe80::1%eth0]", b"fe80::1%eth0"),
        (b"[::ffff:10.0.0.1]", b"10.0.0.1"),
        (b"::FFFF:a00:1", b"10.0.0.1"),
        # By 0.0.0.0 a BIND is for any peer, and by no other form of it.
        (b"::ffff:0.0.0.0", b"::ffff:0.0.0.0"),
        (b"[::ffff:0:0]", b"::ffff:0:0"),
    ],
)
def test_a_name_that_is_an_address(name, meant):
    """It may be in brackets, as in a URL, or IPv4 in the form of IPv6."""
    assert (meant, 80, Atyp.DOMAINNAME) == Address.of_name(name, 80)


@pytest.mark.parametrize(
    "name",
    [b"[example.org]", b"[10.0.0.1]", b"[::1", b"::1]", b"[[::1]]", b"[]", b"[:]", b"[", b"a:b",
     b"[::1].", b"[\xff:\xfe]", b"\xff::1", b"::1", b"::ffff:0:10.0.0.1", b"10.0.0.1"],
)  # fmt: skip
def test_other_names_are_as_they_came(name):
    """Names are kept whatever is in them."""
    assert (name, 80, Atyp.DOMAINNAME) == Address.of_name(name, 80)


@pytest.mark.parametrize(
    "text, host, atyp",
    [
        ("10.0.0.1", b"10.0.0.1", Atyp.IPV4),
        ("::ffff:10.0.0.1", b"10.0.0.1", Atyp.IPV4),
        ("2001:db8::7", b"2001:db8::7", Atyp.IPV6),
        ("::ffff:0.0.0.0", b"::ffff:0.0.0.0", Atyp.IPV6),
        ("::ffff:0:10.0.0.1", b"::ffff:0:a00:1", Atyp.IPV6),
    ],
)
def test_an_address_of_bytes(text, host, atyp):
    """Its usual text; of an IPv4 address in the form of IPv6, the one of IPv4."""
    assert (host, 80, atyp) == Address.of_ip(packed_ip(text), 80)


@pytest.mark.parametrize("name", [b"a", b"a.example", b"_x-1.A", b"a." * 127 + b"a", b"192.0.2.7"])
def test_names_of_hosts(name):
    """The characters that are in use, and as many as a field of SOCKS5 takes."""
    assert is_host_name(name)


@pytest.mark.parametrize(
    "name", [b"", b"a" * 256, b"a b", b"a\n", b"a\0", b"\x1b[2J", b"caf\xc3\xa9", b"a\\b", b"::1"]
)
def test_what_is_no_name_of_a_host(name):
    """Whatever the owner of an address writes into its PTR record."""
    assert not is_host_name(name)
