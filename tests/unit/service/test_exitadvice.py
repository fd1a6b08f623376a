"""Warnings about exits: what the operator may have overlooked."""

import os
import time

import pytest

from minisocks import Config
from minisocks.access import Access
from minisocks.hooks import Hooks
from minisocks.service.announce import oddities
from minisocks.service.exitadvice import _ON_THIS_HOST, _OURSELVES, _SKIPPED, _UNUSED

EXITS = (
    "lan2 = direct source 192.0.2.7",
    "office = socks5://192.0.2.1",
    "tor = socks5h://192.0.2.2:9050",
    "far = office, socks5h://10.9.9.9",
    "here = socks5h://192.0.2.3 resolve here",
)
#: It names all exits, and is about addresses alone.
ALL = "allow to 203.0.113.9 via lan2 or office or tor or far or here"


@pytest.fixture(autouse=True)
def _own(monkeypatch):
    """Have this host two addresses, whatever it has."""
    own = (b"\x7f\0\0\1", b"\xc6\x33\x64\x07")
    method = "minisocks.net.ownaddress.OwnAddresses.__call__"
    monkeypatch.setattr(method, lambda self, ip, scope=0: ip in own)


def warnings(*rules, exit=EXITS, **settings):
    return oddities(Access.of(Config(rule=rules, exit=exit, **settings), Hooks()))


@pytest.mark.parametrize(
    "rules, told",
    [
        (["deny to 192.0.2.0/24", "allow via tor"], ("exit tor", "rule 1", "stands", "rule 2")),
        (
            ["deny to 192.0.2.0/24 .bad.example", "allow to private", "allow via far or direct"],
            ("exit far", "rules 1 and 2", "stand", "rule 3"),
        ),
        (
            ["deny to private", "allow to .a via far", "allow to .b via tor or lan2"],
            ("exits far and tor", "rule 1", "stands", "rules 2 and 3"),
        ),
        (["deny to @LIST", "allow via tor"], ("exit tor", "rule 1", "stands", "rule 2")),
        (
            ["deny to 10.0.0.%d" % number for number in range(8)] + ["allow via tor"],
            ("exit tor", "rules 1, 2, 3, 4, 5, 6 and 2 more", "stand", "rule 9"),
        ),
    ],
)
def test_rules_that_are_not_asked_about_names(rules, told, tmp_path):
    """They are named, and what has them asked."""
    (tmp_path / "list").write_text("203.0.113.0/24\n")
    rules = [rule.replace("LIST", str(tmp_path / "list")) for rule in rules]

    assert _SKIPPED % told in warnings(*rules, ALL)


@pytest.mark.parametrize(
    "rules",
    [
        ["deny to 192.0.2.0/24", "allow via office or here"],
        ["allow via tor", "deny to 192.0.2.0/24"],
        ["deny to .bad.example", "allow via tor"],
        ["allow to 10.0.0.0/8 via tor", "allow via tor"],
        # A rule about addresses alone decides by address, too.
        ["deny to 10.1.0.0/16", "allow to 10.0.0.0/8 via tor"],
        # Such two are never about the same request.
        ["deny to private port 25-30", "allow port 443 via tor"],
        ["deny to private command udp", "allow command connect via tor"],
        ["deny to private version 4", "allow version 5 via tor"],
        ["deny to private user ann", "allow user bob via tor"],
        ["deny from 10.0.1.0/24 to private", "allow from 10.0.2.0/24 10.3.0.0/16 via tor"],
        ["deny to private listener 192.0.2.1:1080", "allow listener 192.0.2.1:1081 via tor"],
        ["deny to private listener :1080", "allow listener 192.0.2.1:1081 via tor"],
        [
            "deny from 10.0.1.0/24 to private listener :1",
            "allow from 10.0.2.0/24 listener :1 via tor",
        ],
    ],
)
def test_rules_that_are_asked_are_not_told_of(rules):
    """Nor those that would decide the same."""
    assert not [text for text in warnings(*rules, ALL) if "are looked up elsewhere" in text]


@pytest.mark.parametrize(
    "deny, allow",
    [
        ("from 10.0.0.0/8 to private", "from 10.0.2.0/24 via tor"),
        ("from 10.0.2.0/24 to private", "from 10.0.0.0/8 via tor"),
        ("from private to private", "from self via tor"),
        ("port 80 443 to private", "port 100-500 via tor"),
        ("user ann to private", "user any via tor"),
        ("listener :1080 to private", "listener 192.0.2.1:1080 via tor"),
    ],
)
def test_rules_that_may_be_about_the_same_request(deny, allow):
    """One of them may contain the other."""
    said = warnings("deny " + deny, "allow " + allow, ALL)

    assert [text for text in said if "are looked up elsewhere" in text]


@pytest.mark.parametrize(
    "way, hop",
    [
        ("socks5h://127.0.0.1:9050", ""),
        ("socks5h://localhost:9050 isolate", "socks5h://localhost:9050"),
        ("http://127.1:3128", ""),
        ("socks5h+unix:///run/tor/socks", ""),
        ("socks5h://[::1]:9050", ""),
        ("socks4a://[::ffff:127.0.0.1]:9050", ""),
        ("socks5://127.0.0.1:1, socks5h://127.0.0.1:9050", "socks5h://127.0.0.1:9050"),
        ("socks5h://192.0.2.1:1080, socks5h://OWN:9050", "socks5h://OWN:9050"),
        ("socks5h://OWN:9050", ""),
    ],
)
def test_a_hop_on_this_host_that_looks_names_up(way, hop):
    """By loopback, by a unix socket, by an address of this host."""
    way, hop = (text.replace("OWN", "198.51.100.7") for text in (way, hop or way))

    assert [_ON_THIS_HOST % ("exit x", "has", hop)] == warnings("allow via x", exit=("x = " + way,))


def test_exits_with_the_same_last_hop_have_one_warning():
    """It is the same for all of them."""
    lines = ["x = socks5h://127.0.0.1:9050 isolate", "y = x, socks5h://127.0.0.1:9050"]
    told = "exits x and y", "have", "socks5h://127.0.0.1:9050"
    assert [_ON_THIS_HOST % told] == warnings("allow via x or y", exit=lines)


@pytest.mark.parametrize(
    "way",
    [
        "socks5h://127.0.0.1:9050 resolve here",
        "socks5://127.0.0.1:9050",
        # That of the first hop, whatever it is.
        "socks5h://192.0.2.1:1080, socks5h://127.0.0.1:9050",
        "socks5h://127.0.0.1:9050, socks5h://192.0.2.1:1080",
        "socks5h://proxy.example:9050",
        "direct interface lo",
    ],
)
def test_other_hops_are_not_told_of(way):
    """They look no names up, or are on another host."""
    assert [] == warnings("allow via x", exit=("x = " + way,))


def test_an_exit_that_nothing_uses():
    """By a rule, or as a part of one that a rule names."""
    assert [_UNUSED % ("lan2", "lan2"), _UNUSED % ("here", "here")] == warnings(
        "allow via tor or far"
    )


@pytest.mark.parametrize(
    "listen, way",
    [
        ("127.0.0.1:1080", "socks5h://127.0.0.1"),
        (":1080", "socks5h://localhost"),
        ("0.0.0.0:1080", "http://127.0.0.9:1080"),
        ("[::1]:1080", "socks5://[::1]:1080"),
        ("localhost:1080", "socks5://127.0.0.1:1080"),
        ("unix:/run/m.sock", "socks5h+unix:///run/m.sock"),
        ("127.0.0.1:1080", "socks5h://127.0.0.1:9999, socks5h://127.0.0.1"),
    ],
)
def test_an_exit_that_leads_back_to_this_proxy(listen, way):
    """The warning says this instead of something about names."""
    expected = [_OURSELVES % ("x", listen)]
    settings = {"exit": ("x = " + way,), "listen": ("127.0.0.1:0", listen)}
    assert expected == warnings("allow via x", **settings)


@pytest.mark.parametrize(
    "listen, way",
    [
        ("127.0.0.1:1080", "socks5://127.0.0.1:1081"),
        ("127.0.0.2:1080", "socks5://127.0.0.1:1080"),
        (":1080", "socks5://192.0.2.1:1080"),
        ("unix:/run/m.sock", "socks5+unix:///run/other.sock"),
        ("127.0.0.1:1080", "socks5://192.0.2.1, socks5://127.0.0.1:1080"),
    ],
)
def test_an_exit_that_leads_elsewhere(listen, way):
    """To another port, address, file or host."""
    assert [] == warnings("allow via x", exit=("x = " + way,), listen=(listen,))


def test_many_rules_are_not_compared_for_long():
    """Each would be compared with all before it; the first ones are enough for a warning."""
    rules = ["deny from 10.1.%d.0/24 to private" % number for number in range(250)]
    rules += ["allow from 10.2.0.%d via tor" % (number % 256) for number in range(2000)]
    begin = time.monotonic()
    said = warnings("deny to private", *rules, ALL)
    assert time.monotonic() - begin < 10 * float(os.environ.get("TEST_SCALE", "1"))
    assert [text for text in said if "so rule 1, which stands before rules 252, 253, " in text]
