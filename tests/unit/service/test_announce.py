"""What is said at the start is true, and can be typed."""

import os

import pytest

from minisocks import Config
from minisocks.access import Access
from minisocks.hooks import Hooks
from minisocks.net.capacity import Room
from minisocks.service.announce import at_start, describe
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
