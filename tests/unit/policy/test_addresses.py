"""What a name server says is cut to 64 addresses where it is received, and loses no family."""

import socket

from hypothesis import given
from hypothesis import strategies as st

from minisocks.policy.networks import MAX_ADDRESSES, first_addresses

V4, V6 = socket.AF_INET, socket.AF_INET6


def address(family, number):
    """Return the address with that number."""
    if family == V4:
        return V4, ("192.0.%d.%d" % divmod(number, 256), 80)
    return V6, ("2001:db8::%x" % number, 80, 0, 0)


def rows(*addresses):
    """Return them as ``getaddrinfo`` does."""
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
    """Nor is there what a Python without IPv6 has in the place of an address."""
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
