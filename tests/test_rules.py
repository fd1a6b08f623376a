"""Who may come in, and what they may reach: the defaults, safe but not closed."""

import itertools
import socket

import pytest

from minisocks.client import Client
from minisocks.resolver import numeric_addresses
from minisocks.rules import Rules
from minisocks.wire import Address, Atyp, Method, packed_ip

NONE, PASSWORD = Method.NO_AUTHENTICATION, Method.USERNAME_PASSWORD

# Each kind of client, by the addresses that are of it.
LOCAL = ["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "unix"]
INSIDE = [
    "10.0.0.7",
    "172.31.255.254",
    "192.168.1.7",
    "::ffff:192.168.1.7",
    "100.64.0.7",
    "169.254.3.7",
    "fe80::7%eth0",
    "fd12::7",
]
PUBLIC = [
    "203.0.113.7",
    "::ffff:203.0.113.7",
    "2001:db8::7",
    "172.32.0.1",
    "100.128.0.1",
    "::ffff:0:7f00:1",
    "::127.0.0.1",
    "2002:7f00:1::",
]

SETTINGS = list(itertools.product((False, True), repeat=3))


def client(host, user=None):
    made = Client("" if host == "unix" else (host, 50000))
    made.user = user
    return made


def kinds():
    return (
        [(h, "local") for h in LOCAL]
        + [(h, "inside") for h in INSIDE]
        + [(h, "public") for h in PUBLIC]
    )


#: (users, --allow-lan, --open) -> the kinds that come in without a password.
COME_IN = {
    (False, False, False): ["local"],
    (False, True, False): ["local", "inside"],
    (False, False, True): ["local", "inside", "public"],
    (False, True, True): ["local", "inside", "public"],
    # Where passwords are given out, this host needs one too, unless told otherwise.
    (True, False, False): [],
    (True, True, False): ["local", "inside"],
    (True, False, True): ["local", "inside", "public"],
    (True, True, True): ["local", "inside", "public"],
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("host, kind", kinds())
def test_clients_come_in_without_a_password_where_they_may(host, kind, setting):
    """Without a password, who comes in is what the options say for its kind of address."""
    assert (kind in COME_IN[setting]) == Rules(*setting).admits(client(host)).allowed


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s[0]])
@pytest.mark.parametrize("host, kind", kinds())
def test_clients_with_a_password_come_in_from_anywhere(host, kind, setting):
    """Whoever gave the right password may come in, wherever it is."""
    assert Rules(*setting).admits(client(host, b"ann")).allowed


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("host, kind", kinds())
def test_methods_fit_who_may_come_in(host, kind, setting):
    """A password is asked for where there are users, and optional where none is needed."""
    if not setting[0]:
        expected = (NONE,)  # and REP 02 for those who may not, which they can show
    elif kind in COME_IN[setting]:
        expected = (PASSWORD, NONE)
    else:
        expected = (PASSWORD,)

    assert expected == Rules(*setting).methods(client(host))


@pytest.mark.parametrize("option", ["--allow-lan", "--user", "--open", "192.0.2.7"])
def test_refusal_says_what_to_do(option):
    """One line tells the operator who was refused and how to let it in."""
    assert option in Rules().admits(client("192.0.2.7")).reason


# This host, in every form that an address can have.
THIS_HOST = """
    127.0.0.1 127.0.0.2 127.255.255.255 ::1
    0.0.0.0 0.0.0.1 0.255.255.255 ::
    169.254.0.1 169.254.169.254 fe80::1 febf::1
    100.100.100.200 192.0.0.192 168.63.129.16 fd00:ec2::254 fd20:ce::254
    ::ffff:127.0.0.1 ::ffff:0.0.0.0 ::ffff:169.254.169.254 ::ffff:100.100.100.200
    ::127.0.0.1 ::169.254.169.254
    ::ffff:0:127.0.0.1 ::ffff:0:0.0.0.0 ::ffff:0:169.254.169.254
    64:ff9b::127.0.0.1 64:ff9b::0.0.0.0 64:ff9b::169.254.169.254
    64:ff9b:1::127.0.0.1 64:ff9b:1::169.254.169.254
    64:ff9b:1:7f00:0:100:: 64:ff9b:1:a9fe:a9:fe00:: 64:ff9b:1:7f:0:1:: 64:ff9b:1:0:7f:0:100::
    2002:7f00:1:: 2002:7f00:1::1 2002:0:1:: 2002:a9fe:a9fe::
    2001:0:7f00:1:: 2001:0:4136:e378:8000:63bf:80ff:fffe 2001:0:4136:e378:8000:63bf:5601:5601
    fe80::5efe:127.0.0.1 2001:db8::5efe:127.0.0.1 2001:db8::200:5efe:169.254.169.254
    2002:7f00:1::5efe:8.8.8.8
"""

# What a LAN has. The last two are behind a disguise.
PRIVATE = """
    10.0.0.1 172.16.0.1 192.168.1.1 100.64.0.1 fd12::1 fec0::1 ::ffff:10.0.0.1
    2002:c0a8:101::1
"""

# What anybody may reach. NAT64 is how a network with IPv6 only reaches IPv4.
OUTSIDE = """
    8.8.8.8 1.0.0.1 2001:4860:4860::8888 ::ffff:8.8.8.8 64:ff9b::8.8.8.8 64:ff9b:1::8.8.8.8
    2002:808:808::1 172.32.0.1 100.128.0.1
"""

#: One client of each kind is enough: what it may reach depends on the kind only.
ONE_OF_EACH = [
    ("127.0.0.1", "local"),
    ("unix", "local"),
    ("10.0.0.7", "inside"),
    ("fe80::7%eth0", "inside"),
    ("203.0.113.7", "public"),
    ("2001:db8::7", "public"),
]


def may_reach(setting, host, text):
    return Rules(*setting).allows_address(client(host, b"ann"), packed_ip(text), 80).allowed


@pytest.mark.parametrize("target", THIS_HOST.split())
@pytest.mark.parametrize("host, kind", ONE_OF_EACH)
def test_this_host_is_reached_from_this_host_only(host, kind, target):
    """No form of a loopback, link-local, metadata or unspecified address helps a stranger."""
    assert (kind == "local") == may_reach((False, False, False), host, target)


@pytest.mark.parametrize("target", PRIVATE.split())
@pytest.mark.parametrize("host, kind", ONE_OF_EACH)
def test_private_networks_are_not_reached_from_public_ones(host, kind, target):
    """A client from a public address may not reach private networks, others may."""
    assert (kind != "public") == may_reach((False, False, False), host, target)


@pytest.mark.parametrize("target", OUTSIDE.split())
@pytest.mark.parametrize("host, kind", ONE_OF_EACH)
def test_the_world_is_reached_by_all(host, kind, target):
    """What is neither this host nor private is open to everybody who came in."""
    assert may_reach((False, False, False), host, target)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("host, kind", kinds())
def test_coming_in_changes_nothing_about_what_is_reached(host, kind, setting):
    """--open, --allow-lan and a password say who comes in, and no more."""
    may = [
        may_reach(setting, host, target)
        for target in ("127.0.0.1", "169.254.169.254", "192.168.1.1", "8.8.8.8")
    ]

    assert {"local": [1, 1, 1, 1], "inside": [0, 0, 1, 1], "public": [0, 0, 0, 1]}[kind] == may


@pytest.mark.parametrize(
    "target, word",
    [
        ("127.0.0.1", "loopback"),
        ("::", "unspecified"),
        ("fe80::1", "linklocal"),
        ("100.100.100.200", "metadata"),
        ("10.0.0.1", "private"),
    ],
)
def test_refusal_names_the_kind_of_target(target, word):
    """The reason says which set the target is in, and who asked."""
    reason = Rules().allows_address(client("203.0.113.7"), packed_ip(target), 80).reason

    assert word in reason
    assert "203.0.113.7" in reason


NAMES_OF_THIS_HOST = [
    b"localhost",
    b"LOCALHOST",
    b"LocalHost",
    b"localhost.",
    b"localhost..",
    b"a.localhost",
    b"a.b.LocalHost.",
]


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("host, kind", ONE_OF_EACH)
@pytest.mark.parametrize("name", NAMES_OF_THIS_HOST)
def test_localhost_is_reached_from_this_host_only(name, host, kind, setting):
    """The name of this host is refused to strangers in any spelling, before it is looked up."""
    decision = Rules(*setting).allows_name(client(host, b"ann"), Address(name, 80, Atyp.DOMAINNAME))

    assert (kind == "local") == decision.allowed


@pytest.mark.parametrize(
    "name",
    [
        b"localhost.example",
        b"notlocalhost",
        b"local",
        b"localhos",
        b"example.org",
        b"\xff\xfe",
        b".",
    ],
)
def test_other_names_are_judged_by_their_addresses(name):
    """A name that only looks like this host's is looked up first."""
    assert Rules().allows_name(client("203.0.113.7"), Address(name, 80, Atyp.DOMAINNAME)).allowed


# Spellings that the C library takes for an address, as a browser or a client of SOCKS4a sends them.
SPELLINGS = [
    b"127.0.0.1",
    b"127.1",
    b"127.0.1",
    b"2130706433",
    b"0x7f000001",
    b"0x7f.1",
    b"0177.0.0.1",
    b"0",
    b"0.0",
    b"0x0",
    b"::1",
    b"::",
    b"0:0:0:0:0:0:0:1",
    b"::ffff:127.0.0.1",
    b"::ffff:7f00:1",
    b"::ffff:0:0",
    b"2852039166",
    b"169.254.43518",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("host", ["10.0.0.7", "203.0.113.7"])
def test_odd_spellings_are_no_way_in(spelling, host):
    """Decimal, octal, hexadecimal and short forms of this host's address are that address."""
    rows = numeric_addresses(spelling, 80)

    assert rows
    for family, sockaddr in rows:
        assert family in (socket.AF_INET, socket.AF_INET6)
        assert not may_reach((False, False, False), host, sockaddr[0])


@pytest.mark.parametrize(
    "setting, sentence",
    [
        ((False, False, False), "clients on this host (by loopback), without a password"),
        (
            (False, True, False),
            (
                "clients on this host (by loopback) and on private networks (--allow-lan), "
                "without a password"
            ),
        ),
        ((True, False, False), "any client that has a password"),
        (
            (True, True, False),
            (
                "clients on this host (by loopback) and on private networks (--allow-lan) "
                "without a password, any other client with one"
            ),
        ),
        ((False, False, True), "any client, without a password (--open)"),
        ((True, True, True), "any client, without a password (--open)"),
    ],
)
def test_rules_say_in_a_sentence_who_comes_in(setting, sentence):
    """What is printed at the start is what ``admits`` does."""
    assert sentence == Rules(*setting).describe()
