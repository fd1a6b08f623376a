"""Addresses that hand out credentials of a machine: only their set or own address opens them.

In the tests' network all these addresses are another host's, and one target listens on every one
of them.  Most clients are on loopback, so that nothing stands in their way but the rules of the
settings.
"""

import pytest

from kit import namespace as net
from kit.elsewhere import Everywhere
from kit.forms import METADATA, NOWHERE, WRAPPED_METADATA
from kit.support import GREETING, Talk, socks4, socks5
from minisocks.policy.networks import METADATA as THE_SET
from minisocks.wire import packed_ip

OK, NOT_ALLOWED = 0, 2

#: Sets and networks with some of these addresses in them.
WIDER = [
    "linklocal private reserved public",
    "0.0.0.0/0 ::/0",
    "169.254.0.0/16 fe80::/10 100.64.0.0/10 168.63.129.0/24 192.0.0.0/24 fc00::/7",
    "169.254.169.252/30 169.254.0.0-169.254.255.255 100.64.0.0/10 fd00::/8 64:ff9b::/96 2002::/16",
    "169.254.0.23-169.254.169.254 100.100.100.1-100.100.100.200 fd00:ec2::23-fd00:ec2::254",
    "self",
]
REACHED = [dst for dst in METADATA if dst not in NOWHERE]


@pytest.fixture
def target(here):
    """What must be reached, or not."""
    with Everywhere(here) as running:
        yield running


def rep(here, rules, dst, port, source=net.LOOPBACK4, **settings):
    """Ask by SOCKS5 at a proxy with these rules; return REP."""
    proxy = here.proxy(rule=rules, **settings)
    with Talk(here.connect(source, proxy)) as talk:
        talk.send(GREETING).expect(b"\x05\x00")
        return talk.send(socks5(dst, port)).receive_reply5()[0]


def test_the_set_is_the_list():
    """The addresses of these tests are all that the set has, and each is one address."""
    listed = {packed_ip(text) for text in [*net.METADATA, net.METADATA_ON_LINK]}
    assert {(len(ip), 0, int.from_bytes(ip, "big")) for ip in listed} == set(THE_SET.rows())


@pytest.mark.parametrize("dst", METADATA + WRAPPED_METADATA, ids=repr)
def test_denied_they_are_not_reached(here, target, dst):
    """Any form of such an address is denied, though all else is allowed."""
    assert NOT_ALLOWED == rep(here, ["deny to metadata", "allow"], dst, target.port)
    assert [] == target.reached()


@pytest.mark.parametrize("rule", ["allow", "allow to metadata", "allow to metadata private"])
@pytest.mark.parametrize("dst", REACHED, ids=repr)
def test_they_are_reached_where_that_is_said(here, target, dst, rule):
    """The set does; and a client of this host, which could connect itself, needs no ``to``."""
    assert OK == rep(here, [rule], dst, target.port)
    assert 1 == len(target.reached())


@pytest.mark.parametrize("wider", WIDER)
@pytest.mark.parametrize("dst", METADATA + WRAPPED_METADATA, ids=repr)
def test_no_wider_set_or_network_opens_them(here, target, dst, wider):
    """``private``, ``linklocal``, their networks and 0.0.0.0/0 do not, for any client."""
    for source in (net.LOOPBACK4, net.PRIVATE4, net.PUBLIC4):
        assert NOT_ALLOWED == rep(here, ["allow to " + wider], dst, target.port, source)
    assert [] == target.reached()


@pytest.mark.parametrize("flags", [{"allow_lan": True}, {"open": True}], ids=repr)
@pytest.mark.parametrize("dst", METADATA + WRAPPED_METADATA, ids=repr)
def test_settings_of_admission_alone_do_not_open_them(here, target, dst, flags):
    """A rule without ``to`` does not, nor --open or --allow-lan, for clients from elsewhere."""
    for rules in ([], ["allow"], ["allow from private"], ["deny port 25"]):
        assert NOT_ALLOWED == rep(here, rules, dst, target.port, net.PRIVATE4, **flags)
    assert [] == target.reached()


@pytest.mark.parametrize("dst", net.METADATA, ids=repr)
def test_one_is_opened_by_its_own_address(here, target, dst):
    """/32, /128, or a range of one address opens it, and no other address."""
    size = 128 if ":" in dst else 32
    other = next(ip for ip in net.METADATA if (":" in ip) == (":" in dst) and ip != dst)
    for named in (dst, "%s/%d" % (dst, size), "%s-%s" % (dst, dst)):
        rules = ["allow to " + named]
        assert OK == rep(here, rules, dst, target.port, net.PRIVATE4)
        assert NOT_ALLOWED == rep(here, rules, other, target.port, net.PRIVATE4)
    assert [dst] * 3 == target.reached()


def test_one_by_its_address_beside_the_network_that_it_is_in(here, target):
    """A named address is opened, whatever stands beside it."""
    rules = ["allow to linklocal 169.254.42.42 private"]
    expected = {"169.254.42.42": OK, net.LINK_LOCAL4: OK, net.PRIVATE4: OK, net.METADATA4: 2}
    for dst, expected_rep in expected.items():
        assert expected_rep == rep(here, rules, dst, target.port, net.PRIVATE4)
    assert ["169.254.42.42", net.LINK_LOCAL4, net.PRIVATE4] == target.reached()


@pytest.mark.parametrize("dst", ["64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::"])
@pytest.mark.parametrize("rule", ["allow to linklocal 64:ff9b::/96 2002::/16", "allow to %s/128"])
def test_a_gateway_that_may_unwrap_it_changes_nothing(here, target, dst, rule):
    """A rule has to name the address that is within the address, too."""
    rule = rule.replace("%s", dst)
    assert NOT_ALLOWED == rep(here, [rule], dst, target.port)
    # No route leads there, so the rules have let it pass.
    assert 3 == rep(here, [rule + " 169.254.169.254"], dst, target.port)


def test_by_socks4(here, target):
    """SOCKS4 goes by the same rules."""
    for rule, cd in (("allow to linklocal", 91), ("allow to metadata", 90)):
        with Talk(here.connect(net.LOOPBACK4, here.proxy(rule=[rule]))) as talk:
            assert cd == talk.send(socks4(net.METADATA4, target.port)).receive(8)[1]
    assert [net.METADATA4] == target.reached()


@pytest.mark.parametrize("source", [net.METADATA4, net.METADATA4_ALIBABA])
def test_as_a_client_such_an_address_is_what_its_network_is(here, target, source):
    """In a VPN or a carrier's network any client may have such an address."""
    assert OK == rep(here, [], net.PRIVATE4, target.port, source, allow_lan=True)
    assert OK == rep(here, ["allow from private linklocal"], net.PUBLIC4, target.port, source)
    assert NOT_ALLOWED == rep(here, ["allow from 10.0.0.0/8"], net.PUBLIC4, target.port, source)
    assert [net.PRIVATE4, net.PUBLIC4] == target.reached()
