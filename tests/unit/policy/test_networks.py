"""Sets of networks, held against ``ipaddress``; disguises of IPv4; and the cut of long answers."""

import ipaddress
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minisocks.policy.networks import (
    LINK_LOCAL,
    LOOPBACK,
    MAX_ADDRESSES,
    METADATA,
    PRIVATE,
    RESERVED,
    UNSPECIFIED,
    Networks,
    disguises,
    first_addresses,
    parse_networks,
)
from minisocks.wire import packed_ip


def pack(text):
    return ipaddress.ip_address(text).packed


@pytest.mark.parametrize(
    "networks, inside, outside",
    [
        (LOOPBACK, "127.0.0.0 127.0.0.1 127.255.255.255 ::1", "126.255.255.255 128.0.0.0 :: ::2"),
        (UNSPECIFIED, "0.0.0.0 0.0.0.1 0.255.255.255 ::", "1.0.0.0 ::1 ::0.0.0.2"),
        (
            LINK_LOCAL,
            "169.254.0.0 169.254.169.254 fe80:: febf::1",
            "169.253.255.255 169.255.0.0 fe7f::1 fec0::",
        ),
        (
            METADATA,
            # The whole list is in ``test_metadata``.
            "169.254.169.254 100.100.100.200 192.0.0.192 168.63.129.16 fd00:ec2::254 fd20:ce::254",
            "169.254.169.253 100.100.100.201 192.0.0.191 168.63.129.17 fd00:ec2::253 fe80::a9fe",
        ),
        (
            RESERVED,
            "240.0.0.0 255.255.255.254 198.18.0.0 198.19.255.255 192.0.0.0 192.0.0.255",
            "239.255.255.255 198.17.255.255 198.20.0.0 191.255.255.255 192.0.1.0",
        ),
        (
            PRIVATE,
            "10.0.0.0 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.0 192.168.255.255",
            "9.255.255.255 11.0.0.0 172.15.255.255 172.32.0.0 192.167.255.255 192.169.0.0",
        ),
        (
            PRIVATE,
            "100.64.0.0 100.127.255.255 fc00:: fdff::1 fec0::1 feff::1",
            "100.63.255.255 100.128.0.0 fbff::1 fe00:: ff00:: 2001:db8::1",
        ),
    ],
)
def test_network_ends_where_its_document_says(networks, inside, outside):
    """The first and last address are in, their neighbours are not."""
    assert [] == [text for text in inside.split() if pack(text) not in networks]
    assert [] == [text for text in outside.split() if pack(text) in networks]


def test_addresses_of_another_family_are_not_in():
    """::127.0.0.1 has the number of 127.0.0.1 and is not in its network."""
    assert b"\0" * 12 + b"\x7f\0\0\1" not in Networks("v4", "127.0.0.0/8")
    assert b"\0\0\0\1" not in Networks("v6", "::1/128")
    assert b"" not in Networks("everything", "0.0.0.0/0 ::/0")


@pytest.mark.parametrize("text", ["example.org/8", "10.0.0/8", "/8", "10.0.0.0/eight"])
def test_what_is_no_network_is_refused(text):
    """A table with a mistake in it cannot be made."""
    with pytest.raises(ValueError):
        Networks("mistake", text)


def test_networks_are_shown_by_their_name():
    """A set in a traceback is its name, not its table."""
    assert "Networks('loopback')" == repr(LOOPBACK)


@pytest.mark.parametrize(
    "text, rows",
    [
        ("10.0.0.0/8", [(4, 24, 10)]),
        ("10.0.0.7", [(4, 0, 0x0A000007)]),
        ("0.0.0.0/0", [(4, 32, 0)]),
        ("::/0", [(16, 128, 0)]),
        ("10.0.0.1-10.0.0.1", [(4, 0, 0x0A000001)]),
        ("0.0.0.0-255.255.255.255", [(4, 32, 0)]),
    ],
)
def test_how_networks_are_written(text, rows):
    """With a prefix, as one address, or from one to another."""
    assert rows == parse_networks(text)


IPV4 = st.integers(0, 2**32 - 1)


@settings(max_examples=200, deadline=None)
@given(st.tuples(IPV4, IPV4).map(sorted))
def test_a_range_is_what_ipaddress_makes_of_it(ends):
    """The same networks, as few as can be."""
    first, last = (ipaddress.IPv4Address(number) for number in ends)
    expected = [
        (4, 32 - network.prefixlen, int(network.network_address) >> (32 - network.prefixlen))
        for network in ipaddress.summarize_address_range(first, last)
    ]
    assert expected == parse_networks("%s-%s" % (first, last))


NETWORK4 = st.tuples(IPV4, st.integers(0, 32)).map(
    lambda pair: ipaddress.IPv4Network(pair, strict=False)
)
#: None that is IPv4 in disguise: that is an error.
NETWORK6 = st.tuples(st.integers(2**96, 2**128 - 1), st.integers(0, 128)).map(
    lambda pair: ipaddress.IPv6Network(pair, strict=False)
)


@settings(max_examples=200, deadline=None)
@given(st.lists(NETWORK4 | NETWORK6, max_size=8), st.data())
def test_sets_of_networks_are_what_ipaddress_says(networks, data):
    """One by one, the slow way, for addresses near their ends."""
    made = Networks("some", rows=[row for n in networks for row in parse_networks(str(n))])
    ends = [int(a) + d for n in networks for a in (n[0], n[-1]) for d in (-1, 0, 1)] or [1]
    number = data.draw(st.sampled_from(ends))
    for size, kind in ((4, ipaddress.IPv4Address), (16, ipaddress.IPv6Address)):
        if 0 <= number < 1 << 8 * size:
            address = kind(number)
            same = [n for n in networks if n.version == address.version]
            expected = any(address in n for n in same)
            assert expected == (address.packed in made)


PACKED = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))


@st.composite
def nets(draw):
    packed = draw(PACKED)
    length = draw(st.integers(0, len(packed) * 8))
    return ipaddress.ip_network((packed, length), strict=False)


@settings(deadline=None)
@given(st.lists(nets(), max_size=4), st.data())
def test_networks_hold_what_ipaddress_says(rows, data):
    """The table answers as the slow obvious model does, at every edge of it too."""
    networks = Networks("some", " ".join(map(str, rows)))
    edges = [net[i].packed for net in rows for i in (0, -1)]
    beyond = [
        (int(net[i]) + step).to_bytes(len(net[i].packed), "big")
        for net in rows
        for i, step in ((0, -1), (-1, 1))
        if 0 <= int(net[i]) + step < 1 << net.max_prefixlen
    ]

    ip = data.draw(st.sampled_from(edges + beyond) if rows and data.draw(st.booleans()) else PACKED)

    assert any(ipaddress.ip_address(ip) in net for net in rows) == (ip in networks)


# The document, and how it wraps 192.0.2.33 (c000:0221).
WRAPPED = [
    ("RFC 4291 mapped", "::ffff:192.0.2.33"),
    ("RFC 4291 compatible", "::192.0.2.33"),
    ("RFC 2765 translated", "::ffff:0:192.0.2.33"),
    ("RFC 6052 well-known prefix", "64:ff9b::192.0.2.33"),
    ("RFC 8215 local, /48", "64:ff9b:1:c000:2:2100::"),
    ("RFC 8215 local, /56", "64:ff9b:1:aac0:0:221::"),
    ("RFC 8215 local, /64", "64:ff9b:1:aaaa:c0:2:2100::"),
    ("RFC 8215 local, /96", "64:ff9b:1:aaaa:0:aaaa:192.0.2.33"),
    ("RFC 3056 6to4", "2002:c000:221::1"),
    ("RFC 4380 Teredo server", "2001:0:c000:221:8000:63bf:3fff:fdd2"),
    ("RFC 4380 Teredo client", "2001:0:4136:e378:8000:63bf:3fff:fdde"),
    ("RFC 5214 ISATAP", "2001:db8::5efe:192.0.2.33"),
    ("RFC 5214 ISATAP, global", "fe80::200:5efe:192.0.2.33"),
    # An interface identifier is the client's to choose, under any prefix.
    ("6to4 behind ISATAP", "2002:c000:221::5efe:8.8.8.8"),
    ("ISATAP behind 6to4", "2002:808:808::5efe:192.0.2.33"),
    ("Teredo server behind ISATAP", "2001:0:c000:221:0:5efe:808:808"),
]


@pytest.mark.parametrize("how, text", WRAPPED, ids=[w[0] for w in WRAPPED])
def test_every_disguise_is_seen_through(how, text):
    """An IPv4 address within an IPv6 address is found wherever a document puts it."""
    found = list(disguises(pack(text)))

    assert pack("192.0.2.33") in found
    assert pack(text) == found[0]


@pytest.mark.parametrize(
    "text",
    [
        "192.0.2.33",
        "::1",
        "2001:db8::7",
        "fe80::1",
        "fd00::c000:221",
        "2003:c000:221::",
        "64:ff9c::192.0.2.33",
        "2001:1:c000:221::",
    ],
)
def test_what_is_no_disguise_stands_for_itself(text):
    """Addresses that wrap nothing are not taken for ones that do."""
    assert [pack(text)] == list(disguises(pack(text)))


@settings(deadline=None)
@given(PACKED)
def test_disguises_begin_with_the_address_itself(ip):
    """Any address yields itself first, and then only IPv4 addresses; but :: is ::1, too."""
    first, *others = disguises(ip)

    assert ip == first
    assert all(len(other) == 4 or (other, any(ip)) == (pack("::1"), False) for other in others)


@pytest.mark.parametrize(
    "text, loopback",
    [
        ("0.0.0.0", "127.0.0.1"),
        ("0.1.2.3", "127.0.0.1"),
        ("::ffff:0.0.0.0", "127.0.0.1"),
        ("::", "::1"),
    ],
)
def test_what_this_host_takes_for_itself_is_loopback(text, loopback):
    """Linux connects it there."""
    assert pack(loopback) in list(disguises(pack(text)))


@settings(deadline=None)
@given(
    st.binary(min_size=16, max_size=16),
    st.sampled_from(["::ffff:0:0/96", "2002::/16", "2001::/32", "64:ff9b::/96"]),
)
def test_disguises_are_those_that_ipaddress_knows(tail, prefix):
    """Mapped, 6to4, Teredo and NAT64 addresses unwrap as in the standard library."""
    net = ipaddress.ip_network(prefix)
    number = int(net.network_address) | int.from_bytes(tail, "big") & int(net.hostmask)
    address = ipaddress.IPv6Address(number)
    known = [address.ipv4_mapped, address.sixtofour] + list(address.teredo or ())
    if prefix.startswith("64:"):
        known.append(ipaddress.IPv4Address(number & 0xFFFFFFFF))

    assert {ip.packed for ip in known if ip} <= set(disguises(address.packed))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        "1",
        "127.1",
        "0x7f.1",
        "127.0.0.1 ",
        "[::1]",
        "1.2.3.4.5",
        "::1\0",
        "\u0661.1.1.1",
    ],
)
def test_only_usual_spellings_are_addresses(text):
    """``packed_ip`` guesses nothing: other spellings are the resolver's."""
    assert packed_ip(text) is None


@pytest.mark.parametrize(
    "text, expected",
    [
        ("127.0.0.1", b"\x7f\0\0\1"),
        ("::1", bytes(15) + b"\1"),
        ("fe80::1%eth0", b"\xfe\x80" + bytes(13) + b"\1"),
    ],
)
def test_usual_spellings_are_addresses(text, expected):
    """Dotted and colon forms are packed; a scope is left out."""
    assert expected == packed_ip(text)


@settings(deadline=None)
@given(PACKED)
def test_packing_undoes_printing(ip):
    """Text that the system prints for an address packs to that address."""
    family = socket.AF_INET if len(ip) == 4 else socket.AF_INET6

    assert ip == packed_ip(socket.inet_ntop(family, ip))


# Answers of name servers: cut to 64 addresses where they are received, losing no family

V4, V6 = socket.AF_INET, socket.AF_INET6


def address(family, number):
    """Return the address with that number."""
    if family == V4:
        return V4, ("192.0.%d.%d" % divmod(number, 256), 80)
    return V6, ("2001:db8::%x" % number, 80, 0, 0)


def rows(*addresses):
    """Return rows of addresses as ``getaddrinfo`` does."""
    return [(family, socket.SOCK_STREAM, 6, "", sockaddr) for family, sockaddr in addresses]


def test_all_of_few_addresses():
    """Up to 64 are all there, in their order, whatever the families."""
    few = [address(V4 if n < 60 else V6, n) for n in range(64)]
    assert few == first_addresses(rows(*few))


def test_one_family_alone_has_64():
    """The first of 4000 that are different, each once."""
    many = [address(V4, n) for n in range(4000)]
    assert many[:64] == first_addresses(rows(*many[:7], *many))
    assert 64 == MAX_ADDRESSES


def test_an_ipv4_address_in_ipv6_form_is_one():
    """Of its family, once; other addresses that look like it stay what they are."""
    mapped = [(V6, (host, 80, 0, 0)) for host in ("::ffff:192.0.2.7", "::ffff:0:192.0.2.7")]
    plain = V4, ("192.0.2.7", 80)
    assert [plain, mapped[1]] == first_addresses(rows(*mapped, plain))


def test_neither_family_hides_the_other():
    """Whichever comes first: each has its first 32, or as many as there are."""
    four, six = [address(V4, n) for n in range(4000)], [address(V6, n) for n in range(2000)]
    assert four[:32] + six[:32] == first_addresses(rows(*four, *six))
    assert six[:32] + four[:32] == first_addresses(rows(*six, *four))
    assert four[:63] + six[:1] == first_addresses(rows(*four, six[0]))
    assert six[:50] + four[:14] == first_addresses(rows(*six, *four[:14]))


def test_other_families_are_left_out():
    """So is what a Python without IPv6 has in the place of an address."""
    odd = (99, socket.SOCK_STREAM, 0, "", ("whatever",))
    assert [] == first_addresses([odd, (V6, socket.SOCK_STREAM, 6, "", (b"\0" * 8, 80))])


@given(st.lists(st.tuples(st.sampled_from([V4, V6]), st.integers(0, 99)), max_size=300))
def test_what_is_left(chosen):
    """Never more than 64, and of each family a beginning: 32 at least if there are so many."""
    different = list(dict.fromkeys(address(*one) for one in chosen))
    found = first_addresses(rows(*(address(*one) for one in chosen)))
    assert min(64, len(different)) == len(found)
    assert found == [one for one in different if one in found]
    for family in (V4, V6):
        mine = [one for one in different if one[0] == family]
        left = [one for one in found if one[0] == family]
        assert mine[: len(left)] == left
        assert len(left) >= min(32, len(mine))
