"""No form of an address or a name slips by a rule: each one, through a running server.

The clients are on loopback, so that nothing stands in their way but the rules of the
settings; ``test_reach`` does the same with the rules that are built in.  The target listens on
every address of the network, so "it was not reached" is certain.
"""

import pytest

from kit import namespace as net
from kit.elsewhere import HERE4, HERE6, Everywhere
from kit.forms import LINK_LOCAL, NOWHERE, PRIVATE, PUBLIC, SYSTEM_NAMES, THIS_HOST
from kit.support import GREETING, Talk, socks4, socks4a, socks5

OK, NOT_ALLOWED, HOST = 0, 2, 4

#: Forms of 10.0.0.1 that ``PRIVATE`` lacks; text is sent as an address, bytes as a name.
MORE_PRIVATE = [
    "::10.0.0.1", "::ffff:0:a00:1", "64:ff9b:1::a00:1", "64:ff9b:1:a00:0:100::",
    "2002:a00:1::", "2002:a00:1::7", "2001:0:a00:1::", "2001:0:4136:e378:8000:63bf:f5ff:fffe",
    "fe80::5efe:10.0.0.1", "2001:db8::200:5efe:a00:1",
    b"10.0.1", b"167772161", b"0xA000001", b"0x0a.0.0.1", b"0xa.1", b"012.0.0.1", b"012.0.0.01",
    b"000012.1", b"01200000001", b"10.0.0x1", b"10.0.0.01", b"10.0x1", b"0000000000000000000012.1",
    b"::ffff:10.0.0.1", b"::FFFF:A00:1", b"0:0:0:0:0:ffff:a00:1", b"::10.0.0.1", b"::a00:1",
    b"64:ff9b::10.0.0.1", b"2002:A00:1::", b"fd00:0::0:1", b"FD00::1", b"fd00::0.0.0.1",
]  # fmt: skip

#: Forms of the names below private.test, which the rules deny by name.
NAMES = [
    b"private.test", b"PRIVATE.TEST", b"Private.Test", b"private.test.", b"PRIVATE.test.",
    b"private.test..", b"a.private.test", b"a.b.PRIVATE.TEST.", b".private.test", b"..private.test",
    b"\xff.private.test", b"a b.private.test", b"1.private.test",
]  # fmt: skip

#: No connection arrives there even without rules.
UNREACHABLE = set(NOWHERE) | {form for form in MORE_PRIVATE if form not in {
    b"10.0.1", b"167772161", b"0xA000001", b"0x0a.0.0.1", b"0xa.1", b"012.0.0.1", b"012.0.0.01",
    b"000012.1", b"01200000001", b"10.0.0x1", b"10.0.0.01", b"10.0x1", b"0000000000000000000012.1",
    b"::ffff:10.0.0.1", b"::FFFF:A00:1", b"0:0:0:0:0:ffff:a00:1", b"fd00:0::0:1", b"FD00::1",
    b"fd00::0.0.0.1",
}}  # fmt: skip

FORMS = THIS_HOST + LINK_LOCAL + PRIVATE + MORE_PRIVATE

#: The same in four ways.
NETWORKS = (
    "127.0.0.0/8 ::1 0.0.0.0/8 :: 169.254.0.0/16 fe80::/10 100.100.100.200 10.0.0.0/8 "
    "192.168.0.0-192.168.255.255, 100.64.0.0/10 fc00::/7 168.63.129.16 192.0.0.0/24"
)
WAYS = {
    "sets": ["deny to loopback unspecified linklocal metadata private", "allow"],
    "networks": ["deny to " + NETWORKS, "allow"],
    "what is not allowed": ["allow to public"],
    "allowed networks": ["allow to 203.0.113.0/24 2000::/3"],
}


@pytest.fixture
def target(here):
    """What must be reached, or not."""
    with Everywhere(here) as running:
        yield running


def rep(here, rules, dst, port, source=net.LOOPBACK4):
    """Send a SOCKS5 request to a proxy with these rules; return REP."""
    with Talk(here.connect(source, here.proxy(rule=rules))) as talk:
        talk.send(GREETING).expect(b"\x05\x00")
        return talk.send(socks5(dst, port)).receive_reply5()[0]


def cd(here, rules, request):
    """Send a SOCKS4 request to it; return CD."""
    with Talk(here.connect(net.LOOPBACK4, here.proxy(rule=rules))) as talk:
        return talk.send(request).receive(8)[1]


def assert_denied(here, target, rules, dst):
    """Check that SOCKS5 and SOCKS4 are denied, and that nothing was reached."""
    # A name that the system may not even know has no address to be denied.
    expected = {NOT_ALLOWED, HOST} if dst in SYSTEM_NAMES else {NOT_ALLOWED}
    assert rep(here, rules, dst, target.port) in expected
    if isinstance(dst, bytes):
        assert 91 == cd(here, rules, socks4a(dst, target.port))
    elif ":" not in dst and not dst.startswith("0."):
        assert 91 == cd(here, rules, socks4(dst, target.port))
    assert [] == target.reached()


def test_there_are_enough_of_them():
    """The table does not become shorter unnoticed."""
    assert len(set(FORMS)) + len(set(NAMES)) >= 100


@pytest.mark.exhaustive
@pytest.mark.parametrize("way", sorted(WAYS))
@pytest.mark.parametrize("dst", FORMS, ids=repr)
def test_no_form_of_an_address_slips_by(here, target, dst, way):
    """Mapped, compatible, 6to4, NAT64, Teredo, decimal, hexadecimal, octal, short, by name."""
    assert_denied(here, target, WAYS[way], dst)


@pytest.mark.parametrize("dst", [d for d in MORE_PRIVATE if d not in UNREACHABLE], ids=repr)
def test_those_forms_do_arrive_when_allowed(here, target, dst):
    """That proves the test above; ``test_reach`` does it for the other lists."""
    assert OK == rep(here, ["allow"], dst, target.port)
    assert 1 == len(target.reached())


@pytest.mark.parametrize("dst", PUBLIC, ids=repr)
@pytest.mark.parametrize("way", sorted(WAYS))
def test_what_the_rules_are_not_about_arrives(here, target, dst, way):
    """They hinder no client on its way to the Internet."""
    assert OK == rep(here, WAYS[way], dst, target.port)
    assert 1 == len(target.reached())


@pytest.mark.parametrize("dst", NAMES, ids=repr)
@pytest.mark.parametrize("pattern", [".private.test", "*.private.test private.test"])
def test_no_form_of_a_name_slips_by(here, target, dst, pattern):
    """Capitals, final dots, odd labels; and no resolver is asked for its addresses."""
    assert_denied(here, target, ["deny to " + pattern, "allow"], dst)
    assert [] == here.asked()


@pytest.mark.parametrize("form", ["localhost", "LOCALHOST.", "a.localhost", "x.Y.LocalHost"])
def test_localhost_is_denied_by_name(here, target, form):
    """In every spelling, without looking it up."""
    assert_denied(here, target, ["deny to .localhost", "allow"], form.encode())
    assert [] == here.asked()


@pytest.mark.parametrize("way", sorted(WAYS))
def test_of_several_addresses_only_the_allowed_are_dialed(here, target, way):
    """A name has private, metadata and public addresses: the public one is dialed."""
    for _ in range(3):
        assert OK == rep(here, WAYS[way], b"mixed.test", target.port)
    assert [net.PUBLIC4] * 3 == target.reached()


@pytest.mark.parametrize("way", sorted(WAYS))
def test_a_name_that_changes_is_judged_each_time(here, target, way):
    """The address that passed is dialed, and not the one that the name has by then."""
    assert OK == rep(here, WAYS[way], b"rebind.test", target.port)
    assert NOT_ALLOWED == rep(here, WAYS[way], b"rebind.test", target.port)
    assert OK == rep(here, WAYS[way], b"rebind.test", target.port)
    assert [net.PUBLIC4] * 2 == target.reached()


@pytest.mark.parametrize("dst", [d for d in THIS_HOST if d != b"all-denied.test"], ids=repr)
@pytest.mark.parametrize("rule", ["deny to loopback", "deny to 127.0.0.0/8 ::1", "deny to self"])
def test_what_this_host_takes_for_itself_is_loopback(here, target, rule, dst):
    """0.0.0.0 and :: are 127.0.0.1 and ::1 by other names."""
    assert_denied(here, target, [rule, "allow"], dst)


@pytest.mark.parametrize(
    "dst", [b"\\112rivate.test", b"private\\.test", b"priv\\ate.test", b"\\112.private\\046test"]
)
def test_escapes_make_no_other_name(here, target, dst):
    """The C library would take them for characters, and ask for a name that the rules deny."""
    assert HOST == rep(here, ["deny to .private.test", "allow"], dst, target.port)
    assert 91 == cd(here, ["deny to .private.test", "allow"], socks4a(dst, target.port))
    assert [] == here.asked()
    assert [] == target.reached()


@pytest.mark.parametrize("dst", ["127.0.0.1", "0.0.0.0", net.METADATA4, b"127.1"])
@pytest.mark.parametrize("rule", ["allow to 0.0.0.0/1 128.0.0.0/1", "allow to 0.0.0.0-223.0.0.0"])
def test_a_network_that_is_very_wide_names_nothing(here, target, rule, dst):
    """An operator that writes it down does not mean this host's own addresses."""
    assert NOT_ALLOWED == rep(here, [rule], dst, target.port, net.PRIVATE4)
    assert [] == target.reached()


@pytest.mark.parametrize(
    "dst", [HERE4, HERE6, "::ffff:" + HERE4, b"203.0.113.1", b"0xcb007101", "127.0.0.1", "::"]
)
def test_self_is_what_this_host_has(here, target, dst):
    """Every address of this host, in every form."""
    assert_denied(here, target, ["deny to self", "allow"], dst)


def test_self_is_not_what_others_have(here):
    """A free address gets another answer than a denied one."""
    assert HOST == rep(here, ["deny to self", "allow"], net.NO_HOST4, 80)
    assert 3 == rep(here, ["deny to self", "allow"], net.NO_NETWORK6, 80)


@pytest.mark.parametrize("dst", ["127.0.0.1", b"localhost", b"127.1", b"loopback.test", "0.0.0.0"])
@pytest.mark.parametrize(
    "rule",
    [
        "allow from private",
        "allow to *.test 127.0.0.0/8",
        "allow to 0.0.0.0/0 ::/0",
        "allow to localhost loopback.test private.test",
    ],
)
def test_a_broad_rule_opens_no_loopback_to_others(here, target, rule, dst):
    """A rule that allows names, or everything, does not name this host's own addresses."""
    assert NOT_ALLOWED == rep(here, [rule], dst, target.port, net.PRIVATE4)
    assert [] == target.reached()


@pytest.mark.parametrize("dst", ["127.0.0.1", b"127.1", b"loopback.test"])
@pytest.mark.parametrize("rule", ["allow to 127.0.0.1", "allow from 10.0.0.0/8 to loopback"])
def test_a_rule_opens_what_it_names(here, target, rule, dst):
    """A rule that names loopback for other clients opens it to them."""
    assert OK == rep(here, [rule], dst, target.port, net.PRIVATE4)
    assert [net.LOOPBACK4] == target.reached()
