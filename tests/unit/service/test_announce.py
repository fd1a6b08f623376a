"""What is printed at the start is true, and can be typed; what it says of the rules."""

import itertools
import os

import pytest

from kit.support import CommandLine, Talk, password_message, run_proxy, socks5
from minisocks import Config
from minisocks.access import Access
from minisocks.hooks import Hooks
from minisocks.net.capacity import Room
from minisocks.service.announce import at_start, describe, oddities
from minisocks.wire import packed_ip

DENY = ("deny port 25",)
OPEN = {"open": True}
LAN = {"allow_lan": True}
USER = {"user": ("ann:secret",)}
NO_CLIENT = "no client can come in by this address yet: add --allow-lan, --user or --open"


CARRIER, LINK = "100.64.0.1", "169.254.7.7"
OWN = [("lo", "127.0.0.1"), ("eth0", "192.168.1.1"), ("eth1", CARRIER), ("eth2", LINK)]
ANYWHERE = ["0.0.0.0:1080", "[::]:1080"]


@pytest.mark.parametrize(
    "addresses, settings, expected",
    [
        (ANYWHERE, LAN, [CARRIER, LINK]),
        (ANYWHERE, dict(LAN, **OPEN), [CARRIER, LINK]),
        (ANYWHERE, dict(LAN, **USER), [CARRIER, LINK]),
        (ANYWHERE, dict(LAN, rule=("deny from linklocal",)), [CARRIER]),
        (ANYWHERE, dict(LAN, rule=("deny from 100.64.0.0/10 169.254.0.0/16",)), []),
        # The kernel takes packets for this address from each interface.
        (["127.0.0.1:1080", "192.168.1.1:1080"], LAN, [CARRIER, LINK]),
        (["127.0.0.1:1080", "[::1]:1080", "unix:/run/m.sock"], LAN, []),
        (ANYWHERE, OPEN, []),
        (ANYWHERE, {}, []),
    ],
)
def test_what_allow_lan_means_where_strangers_are(addresses, settings, expected):
    """Of each interface with such an address, unless the rules say otherwise."""
    config = Config(**settings)
    access = Access.of(config, Hooks())
    own = [(name, packed_ip(address)) for name, address in OWN]
    lines = at_start(addresses, [], config, access, Room(None, None, None), own)

    said = [text for what, text in lines if what == "take care:"]
    assert expected == [text.split(" has ")[1].split()[0] for text in said]


@pytest.mark.parametrize(
    "addresses, way",
    [
        (["127.0.0.1:1080"], "loopback"),
        (["unix:/run/m.sock"], "unix socket"),
        (["127.0.0.1:1080", "unix:/run/m.sock"], "loopback or unix socket"),
    ],
)
def test_clients_on_this_host_come_in_by_what_there_is(addresses, way):
    """A unix socket is not loopback; check and the start say the same."""
    config = Config(listen=tuple(addresses))
    access = Access.of(config, Hooks())
    expected = "clients on this host (by %s), without a password" % way

    assert expected == describe(access.rules, config)
    lines = at_start(addresses, [], config, access, Room(None, None, None))
    assert expected == dict(lines)["may come in:"]


@pytest.mark.parametrize(
    "addresses, settings, expected",
    [
        (["127.0.0.1:1080"], {}, "socks5h://127.0.0.1:1080 "),
        (["[::1]:1080"], {}, "socks5h://[::1]:1080 "),
        (["127.0.0.1:1080"], USER, "socks5h://NAME:PASSWORD@127.0.0.1:1080 "),
        (["0.0.0.0:1080", "[::]:1080"], {}, "socks5h://127.0.0.1:1080 "),
        (["[::]:1080"], OPEN, "socks5h://[::1]:1080 "),
        (["unix:/run/m.sock"], {}, "socks5h://localhost/run/m.sock "),
        (["unix:m.sock"], {}, "socks5h://localhost%s/m.sock " % os.getcwd()),
        (["unix:/run/m.sock", "127.0.0.1:1080"], {}, "socks5h://127.0.0.1:1080 "),
        # A client on this host that comes by another address is not admitted.
        (["192.0.2.2:1080"], {}, NO_CLIENT),
        (["192.0.2.2:1080", "127.0.0.1:1081"], {}, "socks5h://127.0.0.1:1081 "),
        (["192.0.2.2:1080"], OPEN, "socks5h://192.0.2.2:1080 "),
        (["192.168.1.2:1080"], LAN, "socks5h://192.168.1.2:1080 "),
        (["192.0.2.2:1080"], LAN, NO_CLIENT),
        (["192.0.2.2:1080"], {"rule": ("allow from 192.0.2.0/24",)}, "socks5h://192.0.2.2:1080 "),
        (["0.0.0.0:1080"], {"rule": ("allow from 10.0.0.0/8",)}, "socks5h://HOST:1080 "),
        (["[2001:db8::1]:1080"], USER, "socks5h://NAME:PASSWORD@[2001:db8::1]:1080 "),
        (["127.0.0.1:1080"], dict(USER, rule=DENY), "socks5h://NAME:PASSWORD@127.0.0.1:1080 "),
        (["127.0.0.1:1080"], {"rule": DENY}, "socks5h://127.0.0.1:1080 "),
        # No rule admits the user: the line does without.
        (["127.0.0.1:1080"], dict(USER, rule=("allow user none",)), "socks5h://127.0.0.1:1080 "),
        (
            ["127.0.0.1:1080"],
            dict(USER, rule=("allow user none any",)),
            "socks5h://NAME:PASSWORD@127.0.0.1:1080 ",
        ),
        # One user of two.
        (
            ["127.0.0.1:1080"],
            {"user": ("ann:secret", "bob:secret"), "rule": ("allow user bob",)},
            "socks5h://bob:PASSWORD@127.0.0.1:1080 ",
        ),
        (
            ["0.0.0.0:1080"],
            dict(USER, rule=("allow from 10.0.0.0/8",)),
            "socks5h://NAME:PASSWORD@HOST:1080 ",
        ),
    ],
)
def test_line_to_try(addresses, settings, expected):
    """The curl line reaches a listener that admits it; where there is none, it says what to do."""
    config = Config(**settings)
    access = Access.of(config, Hooks())
    lines = dict(at_start(addresses, [], config, access, Room(None, None, None)))

    if expected != NO_CLIENT:
        expected = "curl --proxy %shttps://example.org/" % expected
    if "HOST" in expected:
        expected += " from where the rules allow"
    assert expected == lines["try it:"]
    assert "secret" not in str(lines)


@pytest.mark.parametrize(
    "settings", [{"rule": ("deny port 443",)}, {"rule": ("allow to 127.0.0.0/8",)}]
)
def test_line_to_try_promises_no_target_that_the_rules_deny(settings):
    """Where clients are admitted, but not to that example, the line asks for another URL."""
    access = Access.of(Config(**settings), Hooks())
    lines = dict(at_start(["127.0.0.1:1080"], [], access.config, access, Room(None, None, None)))
    expected = "curl --proxy socks5h://127.0.0.1:1080 URL with a URL that the rules allow"
    assert expected == lines["try it:"]


@pytest.mark.parametrize(
    "settings, limit, expected",
    [
        ({}, None, "max-associations 1024"),
        ({"max_associations": 50}, None, "max-associations 50"),
        (
            {"udp_ports": "40000-40009", "bind_ports": "41000-41001", "idle_timeout": 60.0},
            None,
            (
                "udp-ports 40000-40009, bind-ports 41000-41001, "
                "max-associations 10 (--udp-ports 40000-40009), idle-timeout 60 s"
            ),
        ),
        (
            {"max_associations": 50},
            100,
            (
                "max-connections 100 (what the descriptors allow), "
                "max-associations 25 (a quarter of --max-connections)"
            ),
        ),
    ],
)
def test_limits_in_force_are_logged(settings, limit, expected):
    """Also that of associations, and where it comes from; ranges of ports are limits, too."""
    config, room = Config(**settings), Room(limit, None, None, 0, limit)
    lines = at_start(["127.0.0.1:1080"], [], config, Access.of(config, Hooks()), room)
    assert expected == dict(lines)["limits:"]


# The rules in sentences, and warnings about rules that cannot be meant

ANN, BOB = "ann:secret", "bob:secret"
NO_USER = "no rule allows anything to any user, so each request is refused (REP 02), even after"


def odd(*rule, **settings):
    hook = settings.pop("hook", None)
    return oddities(Access.of(Config(rule=rule, **settings), Hooks(authenticate=hook)))


@pytest.mark.parametrize(
    "texts, words",
    [
        (["deny"], "no rule allows anything"),
        (["deny port 25", "deny", "allow"], "no rule allows anything"),
        (["allow user ann"], "rule 1 never matches"),
        (["allow", "deny port 25"], "the rules after rule 1 have no effect"),
        (["allow user none any", "deny port 25"], "the rules after rule 1 have no effect"),
    ],
)
def test_what_cannot_be_meant_is_a_warning(texts, words):
    """The warning is a sentence that says what is odd."""
    (sentence,) = odd(*texts)
    assert words in sentence


SETTINGS = list(itertools.product(((), (ANN,)), (False, True), (False, True)))


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("rule", [(), ("deny port 25",), ("deny user ann",)])
def test_what_is_built_in_is_not_odd(setting, rule):
    """There is no warning, whatever the flags, and where rules only deny."""
    user, allow_lan, is_open = setting
    if not user and rule == ("deny user ann",):
        return  # it never matches
    if user and is_open:
        return  # a warning, see below
    assert [] == odd(*rule, user=user, allow_lan=allow_lan, open=is_open)


@pytest.mark.parametrize(
    "rule, told",
    [
        (("allow user none",), NO_USER),
        (("allow from 10.0.0.0/8 user none", "deny port 25"), NO_USER),
        (("allow user carl",), NO_USER),
        (("allow user bob",), "no rule allows anything to 'ann', so"),
        (("allow user none ann", "allow user none"), "no rule allows anything to 'bob', so"),
        (("allow from 10.0.0.0/8 user none any",), None),
        (("allow user ann bob",), None),
        (("allow from 10.0.0.0/8",), None),
        (("allow user none", "allow to 10.0.0.1"), None),
    ],
)
@pytest.mark.parametrize("allow_lan", [False, True])
def test_users_that_no_rule_admits_are_a_warning(rule, told, allow_lan):
    """Their right password would get REP 02; with --allow-lan, too, which asks for none."""
    sentences = odd(*rule, user=(ANN, BOB), allow_lan=allow_lan)
    assert len(sentences) == bool(told)
    assert not told or sentences[0].startswith(told)
    assert "secret" not in str(sentences)


def test_many_users_are_counted():
    """With a program's hook users can have any name."""
    users = tuple("u%d:x" % n for n in range(9))
    (sentence,) = odd("allow user u8", user=users)
    assert "allows anything to 'u0', 'u1', 'u2', 5 other users, so" in sentence
    (sentence,) = odd("allow user none", hook=lambda *args: True)
    assert sentence.startswith(NO_USER)
    assert [] == odd("allow user ann", hook=lambda *args: True)


def log_in(port, target):
    """Request *target* as user ann with the right password; return REP."""
    with Talk.to(port) as talk:
        talk.send(b"\x05\x01\x02").expect(b"\x05\x02")
        talk.send(password_message(b"ann", b"secret")).expect(b"\x01\x00")
        return talk.send(socks5("127.0.0.1", target.port)).receive_reply5()[0]


@pytest.mark.parametrize("more", [{}, {"allow_lan": True}])
@pytest.mark.parametrize("rule", ["deny port 1", "allow user none any"])
def test_a_user_is_let_in_behind_rules_that_deny(target, rule, more):
    """The right password is worth as much as without them."""
    with run_proxy(user=ANN, rule=rule, **more) as proxy:
        assert 0 == log_in(proxy.port, target)


def test_a_user_that_no_rule_admits_is_logged_at_start_and_reload(instance):
    """Each time it is one line, which says what to write."""
    instance.configure("user = ann:secret\n[rules]\nallow user none")
    status, _out, err = instance.start()
    assert (0, True, False) == (status, NO_USER in err, NO_USER in instance.log())
    assert 0 == instance.command("reload")[0]
    instance.wait_for_line(NO_USER)
    with CommandLine("-l", "0", "--user", ANN, "--rule", "allow user none") as command:
        command.wait_for_line(NO_USER)
        command.wait_for_line("try it: curl --proxy socks5h://127.0.0.1:%d " % command.ports[0])
