"""Which clients are admitted, and what they may reach: the defaults, safe but not closed."""

import ipaddress
import itertools
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit import inside
from minisocks import Config
from minisocks.net.lookup import numeric_addresses
from minisocks.policy.builtin import in_force
from minisocks.policy.client import Client
from minisocks.policy.lists import Lines
from minisocks.policy.rulelines import parse_rule
from minisocks.policy.rules import Rules
from minisocks.service.announce import describe
from minisocks.wire import Address, Atyp, Cmd, Method, packed_ip

NONE, PASSWORD = Method.NO_AUTHENTICATION, Method.USERNAME_PASSWORD

# Each kind of client, by the addresses that are of it.
LOCAL = ["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "unix"]
INSIDE = [
    "10.0.0.7",
    "172.31.255.254",
    "192.168.1.7",
    "::ffff:192.168.1.7",
    "fd12::7",
]
# What --allow-lan has in it, and what is trusted with private networks only by that.
SHARED = ["100.64.0.7", "100.100.100.200", "169.254.3.7", "169.254.169.254", "fe80::7%eth0"]
PUBLIC = [
    "203.0.113.7",
    "::ffff:203.0.113.7",
    "2001:db8::7",
    "172.32.0.1",
    "100.128.0.1",
    "240.0.0.7",
    "198.18.0.7",
    "192.0.0.2",
    "192.0.0.192",
    "168.63.129.16",
    "::ffff:0:7f00:1",
    "::127.0.0.1",
    "2002:7f00:1::",
]

ANYWHERE = Address(b"example.org", 443, Atyp.DOMAINNAME)

SETTINGS = list(itertools.product((False, True), repeat=3))


def client(host, user=None):
    made = Client("" if host == "unix" else (host, 50000))
    made.user = user
    return made


def defaults(has_users=False, allow_lan=False, open=False):
    """Return what decides where the settings have no rules of their own."""
    return Rules(in_force([], has_users, allow_lan, open), has_users)


def comes_in(rules, client):
    return rules.precheck(client, 5, Cmd.CONNECT, ANYWHERE).allowed


def kinds():
    return (
        [(h, "local") for h in LOCAL]
        + [(h, "inside") for h in INSIDE]
        + [(h, "shared") for h in SHARED]
        + [(h, "public") for h in PUBLIC]
    )


#: (users, --allow-lan, --open) -> the kinds that come in without a password.
COME_IN = {
    (False, False, False): ["local"],
    (False, True, False): ["local", "inside", "shared"],
    (False, False, True): ["local", "inside", "shared", "public"],
    (False, True, True): ["local", "inside", "shared", "public"],
    # Where passwords are given out, this host needs one too, unless told otherwise.
    (True, False, False): [],
    (True, True, False): ["local", "inside", "shared"],
    (True, False, True): ["local", "inside", "shared", "public"],
    (True, True, True): ["local", "inside", "shared", "public"],
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("host, kind", kinds())
def test_clients_come_in_without_a_password_where_they_may(host, kind, setting):
    """Without a password the options decide, for each kind of address, whether it is admitted."""
    assert (kind in COME_IN[setting]) == comes_in(defaults(*setting), client(host))


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s[0]])
@pytest.mark.parametrize("host, kind", kinds())
def test_clients_with_a_password_come_in_from_anywhere(host, kind, setting):
    """A client that gave the right password is admitted, wherever it is."""
    assert comes_in(defaults(*setting), client(host, b"ann"))


@pytest.mark.rfc("RFC 1928 section 3", "The server selects one of METHODS, and says which.")
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("host, kind", kinds())
def test_methods_fit_which_clients_may_come_in(host, kind, setting):
    """A password is asked for where there are users, and optional where none is needed."""
    if not setting[0]:
        expected = (NONE,)  # and REP 02 for the others, which they can show
    elif kind in COME_IN[setting]:
        expected = (PASSWORD, NONE)
    else:
        expected = (PASSWORD,)

    assert expected == defaults(*setting).methods(client(host))


@pytest.mark.parametrize("option", ["--allow-lan", "--user", "--open", "192.0.2.7"])
def test_refusal_says_what_to_do(option):
    """One line names the refused client to the operator, and says how to admit it."""
    refused = defaults().precheck(client("192.0.2.7"), 5, Cmd.CONNECT, ANYWHERE)
    assert option in refused.reason


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

# What a LAN has, or no network by its documents.
PRIVATE = """
    10.0.0.1 172.16.0.1 192.168.1.1 100.64.0.1 fd12::1 fec0::1 ::ffff:10.0.0.1
    2002:c0a8:101::1 240.0.0.1 255.255.255.254 198.18.0.1 198.19.255.255 192.0.0.1
    64:ff9b::198.18.0.1
"""

# What every client may reach. NAT64 is how a network with IPv6 only reaches IPv4.
OUTSIDE = """
    8.8.8.8 1.0.0.1 2001:4860:4860::8888 ::ffff:8.8.8.8 64:ff9b::8.8.8.8 64:ff9b:1::8.8.8.8
    2002:808:808::1 172.32.0.1 100.128.0.1
"""

#: One client of each kind is enough: what it may reach depends on the kind only.
ONE_OF_EACH = [
    ("127.0.0.1", "local"),
    ("unix", "local"),
    ("10.0.0.7", "inside"),
    ("fe80::7%eth0", "shared"),
    ("100.64.0.7", "shared"),
    ("240.0.0.7", "public"),
    ("203.0.113.7", "public"),
    ("2001:db8::7", "public"),
]


def may_reach(setting, host, text):
    """Whether a client that is in by its password may, though the name be *text*, too."""
    ip = packed_ip(text)
    dst = Address(text.encode(), 80, Atyp.IPV4 if len(ip) == 4 else Atyp.IPV6)
    ann = client(host, b"ann")
    decisions = [
        defaults(*setting).decide(ann, 5, Cmd.CONNECT, wanted, ip) for wanted in (dst, ANYWHERE)
    ]
    assert decisions[0].allowed == decisions[1].allowed
    return decisions[0].allowed


@pytest.mark.parametrize("target", THIS_HOST.split())
@pytest.mark.parametrize("host, kind", ONE_OF_EACH)
def test_this_host_is_reached_from_this_host_only(host, kind, target):
    """No form of a loopback, link-local, metadata or unspecified address helps a stranger."""
    assert (kind == "local") == may_reach((True, False, False), host, target)


@pytest.mark.parametrize("target", PRIVATE.split())
@pytest.mark.parametrize("host, kind", ONE_OF_EACH)
def test_private_networks_are_not_reached_from_public_ones(host, kind, target):
    """A client from a public address may not reach private networks, others may."""
    for setting in SETTINGS:
        if setting[0]:
            is_trusted = kind in ("local", "inside") or (kind == "shared" and setting[1])
            assert is_trusted == may_reach(setting, host, target)


@pytest.mark.parametrize("target", OUTSIDE.split())
@pytest.mark.parametrize("host, kind", ONE_OF_EACH)
def test_the_world_is_reached_by_all(host, kind, target):
    """What is neither this host nor private is open to every admitted client."""
    assert may_reach((True, False, False), host, target)


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s[0]])
@pytest.mark.parametrize("host, kind", kinds())
def test_coming_in_changes_nothing_about_what_is_reached(host, kind, setting):
    """--open and a password decide which clients are admitted, and no more.

    --allow-lan says besides what the LAN is.
    """
    may = [
        may_reach(setting, host, target)
        for target in ("127.0.0.1", "169.254.169.254", "192.168.1.1", "8.8.8.8")
    ]

    expected = {"local": [1, 1, 1, 1], "inside": [0, 0, 1, 1], "public": [0, 0, 0, 1]}
    expected["shared"] = expected["inside" if setting[1] else "public"]
    assert expected[kind] == may


@pytest.mark.parametrize(
    "target, word",
    [
        ("127.0.0.1", "loopback"),
        ("::", "unspecified"),
        ("fe80::1", "linklocal"),
        ("100.100.100.200", "metadata"),
        ("169.254.169.254", "metadata"),
        ("198.18.0.1", "reserved"),
        ("10.0.0.1", "private"),
    ],
)
def test_refusal_names_the_kind_of_target(target, word):
    """The reason says which set the target is in, and which client asked."""
    stranger = client("203.0.113.7", b"ann")
    decision = defaults(True).decide(stranger, 5, Cmd.CONNECT, ANYWHERE, packed_ip(target))
    reason = decision.reason

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


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s[0]])
@pytest.mark.parametrize("host, kind", ONE_OF_EACH)
@pytest.mark.parametrize("name", NAMES_OF_THIS_HOST)
def test_localhost_is_reached_from_this_host_only(name, host, kind, setting):
    """The name of this host is refused to strangers in any spelling, before it is looked up."""
    dst = Address(name, 80, Atyp.DOMAINNAME)
    decision = defaults(*setting).precheck(client(host, b"ann"), 5, Cmd.CONNECT, dst)

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
    dst = Address(name, 80, Atyp.DOMAINNAME)
    assert defaults(True).precheck(client("203.0.113.7", b"ann"), 5, Cmd.CONNECT, dst).allowed


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
        assert not may_reach((True, False, False), host, sockaddr[0])


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
def test_rules_say_in_a_sentence_which_clients_come_in(setting, sentence):
    """What is printed at the start is what is done."""
    assert sentence == describe(defaults(*setting), Config())
    has_users, allow_lan, open_ = setting
    flags = {"has_users": has_users, "allow_lan": allow_lan, "open": open_}
    denying = describe(rules("deny port 25", **flags), Config())
    assert sentence + ", except what the rules deny" == denying
    by_name = describe(defaults(*setting), Config(name_only=("ann",)))
    assert sentence + "; a name of --name-only counts as a password" == by_name


# Rules of the settings


def rules(*texts, **kwargs):
    """Return what decides where the settings have these rules."""
    own = [parse_rule(text, lambda path: Lines([], [])) for text in texts]
    has_users = kwargs.get("has_users", False)
    return Rules(in_force(own, **kwargs), has_users)


OURS = (
    "deny from remote to self loopback unspecified linklocal metadata multicast "
    "localhost .localhost"
)
INSIDE_OF = "deny from public reserved linklocal 100.64.0.0/10 to private reserved"
INSIDE_OF_LAN = "deny from public reserved to private reserved"


@pytest.mark.parametrize(
    "texts, flags, expected",
    [
        ([], {}, [OURS, INSIDE_OF, "allow from loopback"]),
        (
            [],
            {"allow_lan": True},
            [OURS, INSIDE_OF_LAN, "allow from loopback", "allow from loopback private linklocal"],
        ),
        ([], {"open": True}, [OURS, INSIDE_OF, "allow from loopback", "allow"]),
        ([], {"has_users": True}, [OURS, INSIDE_OF, "allow user any"]),
        # Rules that only deny take nothing from what admits clients.
        (["deny port 25"], {}, ["deny port 25", OURS, INSIDE_OF, "allow from loopback"]),
        (["deny port 1"], {"has_users": True}, ["deny port 1", OURS, INSIDE_OF, "allow user any"]),
        (
            ["deny port 25", "deny to 10.0.0.1"],
            {"has_users": True, "allow_lan": True},
            [
                "deny port 25",
                "deny to 10.0.0.1",
                OURS,
                INSIDE_OF_LAN,
                "allow user any",
                "allow from loopback private linklocal",
            ],
        ),
        # With one that allows nothing is added that allows, but for the flags.
        (
            ["allow port 25"],
            {"allow_lan": True},
            [OURS, INSIDE_OF_LAN, "allow port 25", "allow from loopback private linklocal"],
        ),
        (
            ["deny port 25", "allow to 127.0.0.1", "allow from private", "deny to public"],
            {},
            [
                "deny port 25",
                "allow to 127.0.0.1",
                OURS,
                INSIDE_OF,
                "allow from private",
                "deny to public",
            ],
        ),
        (["allow to a.org"], {}, [OURS, INSIDE_OF, "allow to a.org"]),
        (["allow to a.org 10.0.0.1"], {}, [OURS, INSIDE_OF, "allow to a.org 10.0.0.1"]),
        (["allow to 0.0.0.0/0"], {}, [OURS, INSIDE_OF, "allow to 0.0.0.0/0"]),
        (["allow to ::/0"], {}, [OURS, INSIDE_OF, "allow to ::/0"]),
        (["allow to public"], {}, ["allow to public", OURS, INSIDE_OF]),
        # A set is meant, however wide its networks are.
        (["allow to multicast"], {}, ["allow to multicast", OURS, INSIDE_OF]),
        (["allow to reserved"], {}, ["allow to reserved", OURS, INSIDE_OF]),
        # Where there are users, who speaks of none means all of them.
        (
            ["allow to public", "allow user none any", "deny port 1", "allow user ann"],
            {"has_users": True},
            [
                "allow to public user any",
                OURS,
                INSIDE_OF,
                "allow user none any",
                "deny port 1",
                "allow user ann",
            ],
        ),
    ],
)
def test_rules_in_force(texts, flags, expected):
    """Built in are the two that protect, before what opens all, and those of the flags."""
    assert expected == [rule.text for rule in rules(*texts, **flags).rules]


def decide(asked, host, dst, ip, **kwargs):
    """Return the number of the rule that decides, below 0 if it denies; ask both questions."""
    user = kwargs.pop("user", None)
    ver, cmd = kwargs.pop("ver", 5), kwargs.pop("cmd", Cmd.CONNECT)
    name, _, port = dst.rpartition(":")
    atyp = Atyp.DOMAINNAME if packed_ip(name.strip("[]")) is None else Atyp.IPV4
    address = Address(name.encode(), int(port), atyp)
    foreseen = asked.precheck(client(host, user), ver, cmd, address)
    decision = asked.decide(client(host, user), ver, cmd, address, packed_ip(ip))
    if not foreseen.allowed:
        # What is denied beforehand would be denied in the end.
        assert not decision.allowed
        assert foreseen.reason
        assert not foreseen.number or not asked.rules[foreseen.number - 1].allows
    return decision.number if decision.allowed else -decision.number


FIRST = rules(
    "deny to *.bad.example",
    "allow to 203.0.113.9 port 25",
    "deny port 25 465",
    "deny command bind version 4",
    "allow from 192.168.0.0/16 to .good.example",
    "deny from 192.168.9.9",
    "allow from 192.168.0.0/16",
)


@pytest.mark.rfc(
    "RFC 1928 section 3",
    "The server evaluates the request, and establishes the connection or denies it.",
)
@pytest.mark.rfc(
    "SOCKS4, CONNECT",
    "Granted by any combination of source, destination, port, USERID and what IDENT says.",
)
@pytest.mark.parametrize(
    "expected, host, dst, ip, more",
    [
        (-1, "192.168.1.1", "x.bad.example:80", "8.8.8.8", {}),
        (-1, "192.168.1.1", "x.bad.example:25", "203.0.113.9", {}),
        (2, "192.168.1.1", "mail.example:25", "203.0.113.9", {}),
        (-3, "192.168.1.1", "mail.example:25", "203.0.113.8", {}),
        (-3, "192.168.1.1", "203.0.113.8:465", "203.0.113.8", {}),
        (9, "192.168.1.1", "203.0.113.8:443", "203.0.113.8", {}),
        (-4, "192.168.1.1", "1.1.1.1:80", "1.1.1.1", {"ver": 4, "cmd": Cmd.BIND}),
        (9, "192.168.1.1", "1.1.1.1:80", "1.1.1.1", {"ver": 4}),
        (9, "192.168.1.1", "1.1.1.1:80", "1.1.1.1", {"cmd": Cmd.BIND}),
        (7, "192.168.9.9", "good.example:80", "1.1.1.1", {}),
        (-5, "192.168.9.9", "good.example:80", "127.0.0.1", {}),
        (-8, "192.168.9.9", "1.1.1.1:80", "1.1.1.1", {}),
        (0, "10.0.0.1", "1.1.1.1:80", "1.1.1.1", {}),
        (2, "10.0.0.1", "203.0.113.9:25", "203.0.113.9", {}),
    ],
)
def test_the_first_that_matches_decides(expected, host, dst, ip, more):
    """What no rule matches is denied."""
    assert expected == decide(FIRST, host, dst, ip, **more)


def test_a_reason_counts_the_rules_of_the_settings_only():
    """The built-in rules before it are in no file, so they would lead to another line."""
    asked = rules("allow to .good.example", "deny port 25")
    ip = packed_ip("8.8.8.8")
    dst = Address.of_ip(ip, 25)
    decision = asked.decide(client("127.0.0.1"), 5, Cmd.CONNECT, dst, ip)

    assert decision.number > 2
    assert "rule 2 denies 8.8.8.8:25: deny port 25" == decision.reason


def test_reasons_tell_what_an_operator_can_act_on():
    """The rule by number and text, or that there is none; which client asked, and for what."""
    lan = client("192.168.1.1")

    def why(host, dst, ip):
        name, _, port = dst.rpartition(":")
        address = Address(name.encode(), int(port), Atyp.DOMAINNAME)
        return FIRST.decide(client(host), 5, Cmd.CONNECT, address, packed_ip(ip)).reason

    assert "rule 1 denies 'x.bad.example':80: deny to *.bad.example" == (
        FIRST.precheck(lan, 5, Cmd.CONNECT, Address(b"x.bad.example", 80, Atyp.DOMAINNAME)).reason
    )
    assert "rule 3 denies 'm.example':25 at 8.8.8.8: deny port 25 465" == (
        why("192.168.1.1", "m.example:25", "8.8.8.8")
    )
    assert "no rule allows 'm.example':80 at 8.8.8.8 to clients from 10.0.0.1" == (
        why("10.0.0.1", "m.example:80", "8.8.8.8")
    )
    only = rules("allow from 10.0.0.0/8 user ann", has_users=True)
    stranger = only.precheck(client("192.168.1.1", b"bob"), 5, Cmd.CONNECT, ANYWHERE)
    assert "no rule allows anything to clients from 192.168.1.1 as 'bob'" == stranger.reason


def test_a_name_is_looked_up_only_if_that_can_help():
    """Where no rule could allow any address of it, the answer is no before that."""
    only = rules("allow to 203.0.113.0/24 .good.example")
    lan = client("192.168.1.1")
    for name, allowed in ((b"good.example", True), (b"other.example", True)):
        dst = Address(name, 80, Atyp.DOMAINNAME)
        assert allowed == only.precheck(lan, 5, Cmd.CONNECT, dst).allowed
    by_name = rules("allow to .good.example")
    other = Address(b"other.example", 80, Atyp.DOMAINNAME)
    assert not by_name.precheck(lan, 5, Cmd.CONNECT, other).allowed
    ports = rules("allow to 203.0.113.0/24 port 443")
    assert not ports.precheck(lan, 5, Cmd.CONNECT, other).allowed


@pytest.mark.rfc("RFC 1928 section 3", "The server selects one of METHODS, and says which.")
def test_methods_by_rules():
    """A password may be left out where a rule takes those without one, and only there."""
    mixed = rules("allow from 10.0.0.0/8 user none", "allow user ann", has_users=True)
    assert (PASSWORD, NONE) == mixed.methods(client("10.0.0.1"))
    assert (PASSWORD,) == mixed.methods(client("192.168.1.1"))
    users = rules("allow from 10.0.0.0/8", has_users=True)
    assert (PASSWORD,) == users.methods(client("10.0.0.1"))
    both = rules("allow from 10.0.0.0/8 user none any", has_users=True)
    assert (PASSWORD, NONE) == both.methods(client("10.0.0.1"))
    assert both.admits(client("10.0.0.1", b"ann"))


def test_self_is_asked_anew_each_time():
    """An address that this host gets, or loses, counts from the next decision on."""
    own = set()
    own_rules = [parse_rule(t, None) for t in ("deny to self", "allow from self", "allow port 1")]
    asked = Rules(in_force(own_rules), False, lambda ip: ip in own)
    there = ("10.0.0.7", "1.1.1.1:80", "1.1.1.1")
    assert 0 == decide(asked, *there)
    own.add(packed_ip("10.0.0.7"))
    assert 4 == decide(asked, *there)
    own.add(packed_ip("1.1.1.1"))
    assert -1 == decide(asked, *there)
    own.clear()
    assert 0 == decide(asked, *there)


def test_many_clients_are_forgotten_again():
    """What is remembered of addresses is bounded."""
    for n in range(3000):
        number = 0x0A000000 + n
        host = ".".join(str(byte) for byte in number.to_bytes(4, "big"))
        assert 9 != decide(FIRST, host, "1.1.1.1:80", "1.1.1.1")
    assert 0 < len(inside.known_sources(FIRST)) <= 1024


# All decisions over small sets, against the obvious way to make them

NETWORKS = {
    None: [],
    "10.0.0.0/8": [ipaddress.ip_network("10.0.0.0/8")],
    "203.0.113.0/24": [ipaddress.ip_network("203.0.113.0/24")],
}
TARGETS = dict(NETWORKS, **{"*.x.example": "names"})
USERS = (None, "any", "none", "ann", "none any", "none ann")
CHOICES = list(itertools.product((True, False), NETWORKS, TARGETS, USERS))


def text_of(choice):
    allows, source, target, user = choice
    words = ["allow" if allows else "deny"]
    for word, value in (("from", source), ("to", target), ("user", user)):
        if value is not None:
            words += [word, value]
    return " ".join(words)


def model(choices, host, name, ip, user):
    """Return the place of the first rule that matches; an address at a time, nothing prepared."""
    for place, (_allows, source, target, wanted) in enumerate(choices, 1):
        if source and not any(ipaddress.ip_address(host) in n for n in NETWORKS[source]):
            continue
        if target == "*.x.example":
            if not (name or "").endswith(".x.example"):
                continue
        elif target and not any(ipaddress.ip_address(ip) in n for n in NETWORKS[target]):
            continue
        fits = {"any": user is not None, "none": user is None, "ann": user == b"ann"}
        if wanted is None or any(fits[word] for word in wanted.split()):
            return place
    return 0


#: Without the built-in ones, which would need to be in the model.
ALL = [parse_rule(text_of(choice), None) for choice in CHOICES]
ASKED = list(
    itertools.product(
        ("10.0.0.7", "203.0.113.7"),
        (None, "a.x.example", "y.example"),
        ("10.0.0.1", "203.0.113.1", "8.8.8.8"),
        (None, b"ann", b"bob"),
    )
)


@pytest.mark.exhaustive
@pytest.mark.rfc(
    "RFC 1928 section 6, CONNECT",
    "The server is expected to use DST, and the client's address and port, in evaluating it.",
)
@pytest.mark.parametrize("first", range(len(CHOICES)))
def test_every_decision_of_two_rules(first):
    """For every pair of rules over small sets, and every question: as the model has it."""
    for second in range(len(CHOICES)):
        asked = Rules([ALL[first], ALL[second]], has_users=True)
        choices = CHOICES[first], CHOICES[second]
        for host, name, ip, user in ASKED:
            place = model(choices, host, name, ip, user)
            expected = place if place and choices[place - 1][0] else -place
            dst = "%s:80" % (name or ip)
            found = decide(asked, host, dst, ip, user=user)
            assert expected == found


RULE = st.sampled_from(CHOICES)


@settings(max_examples=200, deadline=None)
@given(st.lists(RULE, min_size=3, max_size=12), st.sampled_from(ASKED))
def test_longer_lists_are_decided_as_the_model_has_it(choices, question):
    """Rules and model agree for any list of rules."""
    host, name, ip, user = question
    asked = Rules([ALL[CHOICES.index(choice)] for choice in choices], has_users=True)
    place = model(choices, host, name, ip, user)
    expected = place if place and choices[place - 1][0] else -place
    found = decide(asked, host, "%s:80" % (name or ip), ip, user=user)
    assert expected == found
