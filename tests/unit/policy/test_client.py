"""A client is known by its address, whichever way it came in."""

import pytest

from minisocks.policy.client import THIS_HOST, Client, group_text, groups_of, site_of
from minisocks.wire import packed_ip


@pytest.mark.parametrize(
    "peer, ip, shown",
    [
        (("10.0.0.7", 50122), b"\x0a\0\0\7", "10.0.0.7:50122"),
        (
            ("2001:db8::7", 50122, 0, 0),
            b"\x20\x01\x0d\xb8" + bytes(11) + b"\7",
            "[2001:db8::7]:50122",
        ),
        # A dual-stack listener's way to say 10.0.0.7.
        (("::ffff:10.0.0.7", 50122, 0, 0), b"\x0a\0\0\7", "10.0.0.7:50122"),
        (("::ffff:127.0.0.1", 1, 0, 0), b"\x7f\0\0\1", "127.0.0.1:1"),
        # Python before 3.7 adds the scope to the text.
        (("fe80::7%eth0", 1, 0, 2), b"\xfe\x80" + bytes(13) + b"\7", "[fe80::7%eth0]:1"),
        # Unix sockets: unnamed, abstract, and what other systems say.
        ("", b"", "unix"),
        (b"", b"", "unix"),
        (b"\0abstract", b"", "unix"),
        ("/run/client.sock", b"", "unix"),
        (None, b"", "unix"),
    ],
)
def test_client_is_its_address(peer, ip, shown):
    """What accept returned becomes 4 or 16 bytes, or none for a unix socket."""
    client = Client(peer)

    assert (ip, shown, None) == (client.ip, str(client), client.user)


@pytest.mark.parametrize("peer", [("", 0), ("unix", 0), ("localhost", 1), ("::ffff:", 1, 0, 0)])
def test_unknown_address_does_not_pass_for_a_unix_socket(peer):
    """A client whose address cannot be read is an error, and not a local client."""
    with pytest.raises(ValueError, match="no address in"):
        Client(peer)


@pytest.mark.parametrize("peer", [("127.0.0.1", 1), ("127.9.9.9", 1), ("::1", 1, 0, 0), "", None])
def test_all_addresses_of_this_host_are_one_client(peer):
    """Loopback and unix sockets share what this host may have."""
    assert THIS_HOST == Client(peer).groups


@pytest.mark.parametrize(
    "one, other, shared",
    [
        ("192.0.2.1", "192.0.2.1", 3),
        ("192.0.2.1", "192.0.2.2", 2),
        ("192.0.2.1", "192.0.3.1", 1),
        ("192.0.2.1", "192.1.2.1", 0),
        ("2001:db8::1", "2001:db8::1", 6),
        ("2001:db8::1", "2001:db8::2", 5),
        ("2001:db8::1", "2001:db8:0:1::1", 4),
        ("2001:db8::1", "2001:db8:0:100::1", 3),
        ("2001:db8::1", "2001:db8:1::1", 2),
        ("2001:db8::1", "2001:db8:100::1", 1),
        ("2001:db8::1", "2001:db9::1", 0),
        ("32.1.13.184", "2001:db8::1", 0),
    ],
)
def test_groups_are_the_networks_that_two_addresses_share(one, other, shared):
    """The widest first, and no IPv4 group is an IPv6 group."""
    groups, others = groups_of(packed_ip(one)), groups_of(packed_ip(other))

    assert [True] * shared == [a == b for a, b in zip(groups, others)][:shared]
    assert not any(a == b for a, b in list(zip(groups, others))[shared:])


@pytest.mark.parametrize(
    "host, texts, site",
    [
        ("192.0.2.9", ["192.0.0.0/16", "192.0.2.0/24", "192.0.2.9"], 1),
        (
            "2001:db8:1:203::5",
            [
                *("2001:db8::/32", "2001:db8::/40", "2001:db8:1::/48"),
                *("2001:db8:1:200::/56", "2001:db8:1:203::/64", "2001:db8:1:203::5"),
            ],
            2,
        ),
        ("127.0.0.1", ["this host"], 0),
    ],
)
def test_groups_have_names_and_one_is_a_site(host, texts, site):
    """As networks are written; a site is a /24 or a /48, as one customer has it."""
    groups = Client((host, 1)).groups

    assert texts == [group_text(groups, level) for level in range(len(groups))]
    assert groups[site] == site_of(groups)
