"""``minisocks check --from --to`` with exits: by which way a connection leaves, hop by hop."""

import socket

import pytest

from minisocks import Config
from minisocks.access import Access
from minisocks.errors import ConfigError
from minisocks.hooks import Hooks
from minisocks.service.explain import Question, judge

EXITS = (
    "lan2 = direct source 203.0.113.7 interface eth1",
    "office = socks5://ann:s3cret@10.0.0.1:1080",
    "tor = socks5h://127.0.0.1:9050 isolate",
    "far = office, socks5h://10.9.9.9:1080",
    "web = lan2, http://proxy.example:3128",
    "old = socks4a://10.0.0.2:1080",
)
OFFICE = "    hop 1  socks5://10.0.0.1:1080 as 'ann'"
TOR = "    hop 1  socks5h://127.0.0.1:9050 with a login for each client"
NAME = "; it looks the name up"


def never(name, *args):
    """Look nothing up."""
    raise AssertionError("%r was looked up" % name)


def known(name, port, *args):
    """Answer as a name server that knows two addresses."""
    rows = ("10.1.2.3", "198.51.100.3")
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in rows]


def explained(target, *rules, getaddrinfo=never, command="connect"):
    """Return whether it is allowed, and the lines behind the first."""
    access = Access.of(Config(exit=EXITS, rule=rules), Hooks())
    question = Question("127.0.0.1", target, command=command)
    verdict = judge(access, question, getaddrinfo)
    data, lines = verdict.as_data(), verdict.as_lines()
    assert "s3cret" not in str(data) + str(lines)
    assert verdict.allowed == data["allowed"] == lines[0].startswith("allowed: ")
    return verdict.allowed, lines[1:]


def test_a_name_that_the_exit_looks_up_is_looked_up_nowhere_else():
    """Each hop is shown, and which one gets the name."""
    rule = "allow to .corp.example via far"
    assert (
        True,
        [
            "  allowed  by rule 1: " + rule,
            "  exit far: nothing is looked up here",
            OFFICE,
            "    hop 2  socks5h://10.9.9.9:1080" + NAME,
        ],
    ) == explained("a.corp.example:443", rule)


def test_all_exits_of_a_rule_are_shown():
    """In their order; none of these has the name looked up here."""
    rule = "allow via tor or web"
    web = "http://proxy.example:3128, reached by source 203.0.113.7 interface eth1"
    assert (
        True,
        [
            "  allowed  by rule 1: " + rule,
            "  exit tor: nothing is looked up here",
            TOR + NAME,
            "  exit web, if the one before does not answer: nothing is looked up here",
            "    hop 1  " + web + NAME,
        ],
    ) == explained("a.example:443", rule)


@pytest.mark.parametrize("name, more", [("direct", ": direct"), ("old", "")])
def test_what_is_tried_after_an_exit_that_resolves_elsewhere(name, more):
    """For direct the name is looked up, and the rules see the addresses."""
    rule = "allow via tor or lan2 or " + name
    allowed, lines = explained("a.example:443", rule, getaddrinfo=known)

    assert allowed
    assert [
        "  allowed  by rule 1: " + rule,
        "  exit tor: nothing is looked up here",
        TOR + NAME,
        "  if that does not answer, the name is looked up here:",
        "  10.1.2.3      allowed  by rule 1: " + rule,
        "  198.51.100.3  allowed  by rule 1: " + rule,
        "  exit lan2, if the one before does not answer: direct source 203.0.113.7 interface eth1",
        "  exit %s, if the one before does not answer%s" % (name, more),
    ] == lines[:8]
    assert ["    hop 1  socks4a://10.0.0.2:1080"] * (name == "old") == lines[8:]


def test_the_rule_of_the_address_chooses_after_the_look_up():
    """That of the first address; another one that leaves by another exit is not used."""
    rules = ("allow to 10.0.0.0/8", "allow via office")
    allowed, lines = explained("a.example:443", *rules, getaddrinfo=known)
    other = "; not used, because the first address that is allowed leaves by another exit"
    assert allowed
    assert [
        "  10.1.2.3      allowed  by rule 1: allow to 10.0.0.0/8",
        "  198.51.100.3  allowed  by rule 2: allow via office" + other,
    ] == lines

    rules = ("deny to 10.0.0.0/8", "allow via office")
    assert (
        True,
        [
            "  10.1.2.3      denied  by rule 1: deny to 10.0.0.0/8",
            "  198.51.100.3  allowed  by rule 2: allow via office",
            "  exit office",
            OFFICE,
        ],
    ) == explained("a.example:443", *rules, getaddrinfo=known)


def test_rules_by_address_do_not_see_a_name_that_an_exit_looks_up():
    """As they are skipped by the proxy, too."""
    allowed, lines = explained("a.example:443", "deny to 10.0.0.0/8", "allow via tor")

    assert (True, "  allowed  by rule 2: allow via tor") == (allowed, lines[0])


def test_a_literal_address_goes_to_the_exit_as_it_is():
    """There is nothing to look up."""
    assert (
        True,
        ["  8.8.8.8  allowed  by rule 1: allow via tor", "  exit tor", TOR],
    ) == explained("8.8.8.8:443", "allow via tor")


@pytest.mark.parametrize(
    "target, command, exits, allowed, why",
    [
        ("[2001:db8::1]:6", "connect", "old", False, "SOCKS4A carries no IPv6 addresses"),
        ("[2001:db8::1]:6", "connect", "old or tor", True, "SOCKS4A carries no IPv6 addresses"),
        ("a.example:6", "bind", "web", False, "HTTP has CONNECT only"),
        ("a.example:6", "udp", "old", False, "SOCKS4 has no UDP and no look-ups"),
    ],
)
def test_what_an_exit_cannot_carry_is_said(target, command, exits, allowed, why):
    """The request is denied if no exit can."""
    rule = "allow via " + exits
    found, lines = explained(target, rule, command=command)

    name = exits.split()[0]
    assert allowed == found
    assert "  exit %s: cannot be used: %s" % (name, why) in lines
    assert ("  exit tor, if the one before does not answer" in lines) == ("tor" in exits)


def test_the_exits_of_a_bind_for_any_peer_are_shown():
    """Those of the first rule that allows any; one of them has to have BIND."""
    rule = "allow to 10.0.0.0/8 via web or office"
    found, lines = explained("0.0.0.0:0", rule, command="bind")

    assert found
    assert "  exit web: cannot be used: HTTP has CONNECT only" in lines
    assert ["  exit office, if the one before does not answer", OFFICE] == lines[-2:]
    assert not explained("0.0.0.0:0", "allow via web", command="bind")[0]


def test_without_exits_nothing_is_said_of_them():
    """Also where the only exit of the rule is direct."""
    for rule in ("allow", "allow via direct"):
        assert (True, ["  8.8.8.8  allowed  by rule 1: " + rule]) == explained("8.8.8.8:1", rule)


LISTEN = ("127.0.0.1:1080", "192.0.2.1:1081", ":1082", "unix:/run/m.sock", "unix:/run/h.sock")
BY_LISTENER = (
    "allow listener 127.0.0.1:1080 via old",
    "allow listener 192.0.2.1:1081 via tor",
    "allow listener 192.0.2.1:1082 via web",
    "allow listener :1082 via lan2",
    "allow listener unix:/run/m.sock via office",
)


@pytest.mark.parametrize(
    "source, at, told, exit",
    [
        ("127.0.0.1", "", "127.0.0.1:1080", "old"),
        ("10.0.0.7", "192.0.2.1:1081", "192.0.2.1:1081", "tor"),
        ("10.0.0.7", "192.0.2.1:1082", "192.0.2.1:1082", "web"),
        ("10.0.0.7", ":1082", ":1082", "lan2"),
        ("10.0.0.7", "0.0.0.0:1082", "0.0.0.0:1082", "lan2"),
        ("unix", "", "unix:/run/m.sock", "office"),
        ("forwarder", "", "unix:/run/h.sock", None),
    ],
)
def test_rules_about_listeners_are_asked_about_one(source, at, told, exit):
    """About the one that is named, by default the first to which such a client connects."""
    settings = {"listen": LISTEN, "forwarded": LISTEN[-1:], "exit": EXITS, "rule": BY_LISTENER}
    access = Access.of(Config(**settings), Hooks())
    verdict = judge(access, Question(source, "8.8.8.8:443", at=at), never)

    assert verdict.question.endswith(" by SOCKS5 at " + told)
    assert [exit] * bool(exit) == [way.exit.name for way in verdict.by_address]


def test_a_listener_that_is_none():
    """The error names the option."""
    access = Access.of(Config(exit=EXITS, rule=BY_LISTENER), Hooks())
    with pytest.raises(ConfigError) as info:
        judge(access, Question("10.0.0.7", "8.8.8.8:443", at="x"))
    assert info.value.sentence.startswith("--at: ")
