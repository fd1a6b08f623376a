"""Which clients may come in, and what they may reach: real sockets and real addresses.

The clients and the targets have addresses of every kind: loopback on the proxies' host,
private, link-local, metadata and public ones on another.
One target listens on every one of them, so "it was not reached" is certain.
"""

import socket

import pytest

from kit import namespace as net
from kit.elsewhere import Everywhere
from kit.forms import LINK_LOCAL, NOWHERE, PRIVATE, PUBLIC, RESERVED, SYSTEM_NAMES, THIS_HOST
from kit.support import (
    GRANTED4,
    GREETING,
    REJECTED4,
    Talk,
    failure5,
    password_message,
    socks4,
    socks4a,
    socks5,
)

OK, NOT_ALLOWED, NETWORK, HOST, REFUSED = 0, 2, 3, 4, 5

DEFAULT = {}
LAN = {"allow_lan": True}
OPEN = {"open": True}
LAN_OPEN = dict(LAN, **OPEN)
USER = {"user": ["ann:secret"]}
USER_LAN = dict(USER, **LAN)
USER_OPEN = dict(USER, **OPEN)

LOCAL_CLIENTS = [net.LOOPBACK4, "127.8.8.8", net.LOOPBACK6]
#: With --allow-lan they are what private clients are, and else what public ones are.
SHARED_CLIENTS = [net.CARRIER4, net.LINK_LOCAL4]
OWN_CLIENTS = [net.PRIVATE4, net.OTHER_PRIVATE4, net.PRIVATE6]
PRIVATE_CLIENTS = OWN_CLIENTS + SHARED_CLIENTS
PUBLIC_CLIENTS = [net.PUBLIC4, net.PUBLIC6, net.RESERVED[0], net.RESERVED[2], net.RESERVED[4]]
EVERY_CLIENT = LOCAL_CLIENTS + PRIVATE_CLIENTS + PUBLIC_CLIENTS


@pytest.fixture
def target(here):
    """What must be reached, or not."""
    with Everywhere(here) as running:
        yield running


class Client:
    """A client with an address, at a proxy with some settings."""

    def __init__(self, here, source, settings):
        self.here = here
        self.source = source
        self.port = here.proxy(**settings)
        self.password = "user" in settings and not _needs_none(source, settings)

    def talk(self):
        """Return a connection to the proxy."""
        return Talk(self.here.connect(self.source, self.port))

    def rep(self, dst, port):
        """Ask by SOCKS5 for *dst*, bytes for a name and text for an address; return REP."""
        with self.talk() as talk:
            if self.password:
                talk.send(b"\x05\x01\x02").expect(b"\x05\x02")
                talk.send(password_message(b"ann", b"secret")).expect(b"\x01\x00")
            else:
                talk.send(GREETING).expect(b"\x05\x00")
            talk.send(socks5(dst, port))
            rep, host, bnd_port = talk.receive_reply5()
            if rep != OK:
                assert ("0.0.0.0", 0) == (host, bnd_port)
                talk.expect_eof()
            return rep

    def cd(self, request):
        """Send a SOCKS4 request; return CD."""
        with self.talk() as talk:
            vn, cd = talk.send(request).receive(8)[:2]
            assert 0 == vn
            if cd != 90:
                talk.expect_eof()
            return cd


def _needs_none(source, settings):
    lan = source in LOCAL_CLIENTS + PRIVATE_CLIENTS and settings.get("allow_lan")
    return lan or settings.get("open")


# Which clients may come in


ADMISSION = [
    # settings, clients, whether they come in without a password
    (DEFAULT, LOCAL_CLIENTS, True),
    (DEFAULT, PRIVATE_CLIENTS + PUBLIC_CLIENTS, False),
    (LAN, LOCAL_CLIENTS + PRIVATE_CLIENTS, True),
    (LAN, PUBLIC_CLIENTS, False),
    (OPEN, EVERY_CLIENT, True),
    (USER_LAN, LOCAL_CLIENTS + PRIVATE_CLIENTS, True),
    (USER_OPEN, EVERY_CLIENT, True),
]
#: A rule that only denies changes nothing about that.
DENY = {"rule": ["deny port 1"]}
_ADMISSION_ROWS = [
    (dict(s, **more), c, allowed)
    for s, clients, allowed in ADMISSION
    for c in clients
    for more in ({}, DENY)
]


@pytest.mark.exhaustive
@pytest.mark.rfc(
    "RFC 1928 section 4",
    "The server evaluates the request by source and destination, and sends one reply or more.",
)
@pytest.mark.rfc(
    "RFC 1928 section 8",
    "Security depends on the methods; the administrator should choose them with care.",
)
@pytest.mark.parametrize("settings, source, allowed", _ADMISSION_ROWS)
def test_clients_that_may_come_in_without_a_password(here, target, settings, source, allowed):
    """A client comes in, by every protocol, exactly if address and settings allow it."""
    client = Client(here, source, settings)

    # A public address is what every client may reach that is in.
    assert (OK if allowed else NOT_ALLOWED) == client.rep(net.PUBLIC4, target.port)
    assert (OK if allowed else NOT_ALLOWED) == client.rep(b"public6.test", target.port)
    assert (90 if allowed else 91) == client.cd(socks4(net.PUBLIC4, target.port))
    assert (90 if allowed else 91) == client.cd(socks4a(b"public.test", target.port))

    by = [net.PUBLIC4, net.PUBLIC6, net.PUBLIC4, net.PUBLIC4] if allowed else []
    assert sorted(by) == sorted(target.reached())


@pytest.mark.parametrize("settings", [USER, dict(USER, **DENY), dict(USER_LAN, **DENY)])
@pytest.mark.parametrize("source", EVERY_CLIENT)
def test_a_password_lets_in_from_everywhere(here, target, settings, source):
    """It does so where rules deny something else, and where private networks need none."""
    client = Client(here, source, settings)
    client.password = True
    assert OK == client.rep(net.PUBLIC4, target.port)
    assert NOT_ALLOWED == client.rep(net.PUBLIC4, 1) or "rule" not in settings


@pytest.mark.parametrize("source", PRIVATE_CLIENTS + PUBLIC_CLIENTS)
def test_the_log_says_how_to_let_a_client_in(here, source):
    """The line that gives the reason of a refusal also tells what to do about it."""
    assert NOT_ALLOWED == Client(here, source, DEFAULT).rep(b"public.test", 80)

    (line,) = here.refusals()

    assert "clients from %s may not come in" % source in line
    for option in ("--allow-lan", "--user NAME:PASSWORD", "--open"):
        assert option in line
    assert "connection not allowed by ruleset" in line


def test_no_name_is_resolved_for_a_client_that_may_not_come_in(here):
    """Strangers cannot make the resolver work, nor find out what a name means."""
    client = Client(here, net.PUBLIC4, DEFAULT)

    assert NOT_ALLOWED == client.rep(b"public.test", 80)
    assert 91 == client.cd(socks4a(b"public.test", 80))
    assert NOT_ALLOWED == client.rep(b"nobody-has-this-name.test", 80)

    assert [] == here.asked()


@pytest.mark.rfc(
    "RFC 1928 section 8",
    "Security depends on the methods; the administrator should choose them with care.",
)
@pytest.mark.parametrize("source", EVERY_CLIENT)
def test_a_password_lets_a_client_in_from_anywhere(here, target, source):
    """With users, a client with a password may come in, whatever its address."""
    client = Client(here, source, USER)

    assert OK == client.rep(net.PUBLIC4, target.port)
    assert [net.PUBLIC4] == target.reached()


@pytest.mark.rfc(
    "RFC 1928 section 8",
    "Security depends on the methods; the administrator should choose them with care.",
)
@pytest.mark.parametrize(
    "settings, source",
    [(USER, source) for source in EVERY_CLIENT] + [(USER_LAN, source) for source in PUBLIC_CLIENTS],
)
def test_no_client_comes_in_without_a_password_that_it_needs(here, target, settings, source):
    """A client that needs a password and has none gets 05 FF, or 91 by SOCKS4, and EOF."""
    client = Client(here, source, settings)

    with client.talk() as talk:
        talk.send(GREETING + socks5(net.PUBLIC4, target.port)).expect(b"\x05\xff").expect_eof()
    with client.talk() as talk:
        talk.send(b"\x05\x01\x02" + password_message(b"ann", b"wrong"))
        talk.expect(b"\x05\x02\x01\x01").expect_eof()
    with client.talk() as talk:
        talk.send(socks4(net.PUBLIC4, target.port, b"ann")).expect(REJECTED4).expect_eof()

    assert [] == target.reached()


# What they may reach


def _sources(*kinds):
    """Return clients and the settings that admit them."""
    rows = []
    if "private" in kinds:
        rows += [(source, s) for source in OWN_CLIENTS for s in (LAN, OPEN, USER)]
        rows += [(source, s) for source in SHARED_CLIENTS for s in (LAN, LAN_OPEN)]
    if "public" in kinds:
        rows += [(source, s) for source in PUBLIC_CLIENTS + SHARED_CLIENTS for s in (OPEN, USER)]
        rows += [(source, LAN_OPEN) for source in PUBLIC_CLIENTS]
    return rows


def _refused(here, target, source, settings, dst):
    client = Client(here, source, settings)
    assert NOT_ALLOWED == client.rep(dst, target.port), (source, settings)
    if "user" not in settings:
        request = None
        if isinstance(dst, bytes):
            request = socks4a(dst, target.port)
        elif ":" not in dst and not dst.startswith("0."):
            request = socks4(dst, target.port)
        if request:
            assert 91 == client.cd(request), (source, settings)
    assert [] == target.reached(), (source, settings)


@pytest.mark.rfc(
    "RFC 1928 section 4",
    "The server evaluates the request by source and destination, and sends one reply or more.",
)
@pytest.mark.parametrize("dst", THIS_HOST + LINK_LOCAL, ids=repr)
def test_a_client_from_elsewhere_cannot_reach_this_host_itself(here, target, dst):
    """However it is admitted, it does not reach the proxy's own loopback by any name."""
    for source, settings in _sources("private", "public"):
        _refused(here, target, source, settings, dst)


def test_socks4_to_0_0_0_0_is_refused_to_a_client_from_elsewhere(here, target):
    """0.0.0.0 is this host, and no SOCKS4a request whose name is still to come."""
    for source, settings in [(net.PRIVATE4, LAN), (net.PUBLIC4, OPEN), (net.PUBLIC6, OPEN)]:
        assert 91 == Client(here, source, settings).cd(socks4("0.0.0.0", target.port))

    assert [] == target.reached()


@pytest.mark.rfc(
    "RFC 1928 section 6, CONNECT",
    "The server is expected to use DST, and the client's address and port, in evaluating it.",
)
@pytest.mark.parametrize("dst", PRIVATE + RESERVED, ids=repr)
def test_a_client_from_a_public_address_cannot_reach_private_networks(here, target, dst):
    """An open proxy is no way into the network behind it, nor is one with passwords.

    Not for link-local clients and those of a carrier's NAT either, unless the operator has said
    by --allow-lan that they are of the LAN.
    """
    for source, settings in _sources("public"):
        _refused(here, target, source, settings, dst)


@pytest.mark.parametrize("dst", [d for d in PRIVATE + RESERVED if d not in NOWHERE], ids=repr)
def test_a_client_from_a_private_network_can_reach_private_networks(here, target, dst):
    """The proxy does not restrict what a client on the LAN does in the LAN."""
    rows = _sources("private")

    for source, settings in rows:
        assert OK == Client(here, source, settings).rep(dst, target.port), (source, settings)

    assert len(rows) == len(target.reached())


@pytest.mark.parametrize("dst", PUBLIC, ids=repr)
def test_public_addresses_are_for_every_client_that_is_in(here, target, dst):
    """The defaults hinder no client on its way to the Internet."""
    rows = _sources("private", "public")

    for source, settings in rows:
        assert OK == Client(here, source, settings).rep(dst, target.port), (source, settings)

    assert len(rows) == len(target.reached())


@pytest.mark.parametrize(
    "dst",
    [d for d in THIS_HOST + LINK_LOCAL + PRIVATE + PUBLIC if d not in NOWHERE | SYSTEM_NAMES],
    ids=repr,
)
def test_a_client_on_this_host_can_reach_all_of_it(here, target, dst):
    """A client on loopback could connect there itself.

    And it proves the tests above: these connections do arrive when allowed.
    """
    for source in (net.LOOPBACK4, net.LOOPBACK6):
        assert OK == Client(here, source, DEFAULT).rep(dst, target.port)
    if isinstance(dst, bytes):
        assert 90 == Client(here, net.LOOPBACK4, DEFAULT).cd(socks4a(dst, target.port))
    elif ":" not in dst:
        assert 90 == Client(here, net.LOOPBACK4, DEFAULT).cd(socks4(dst, target.port))

    assert len(target.reached()) >= 2


def test_a_client_on_a_unix_socket_is_on_this_host(here, target, tmp_path):
    """A client that may open the socket file comes in and reaches all that this host can."""
    path = str(tmp_path / "socket")
    here.proxy(listen=["unix:" + path])

    with Talk(socket.socket(socket.AF_UNIX)) as talk:
        talk.sock.connect(path)
        assert OK == talk.connect5("127.0.0.1", target.port)[0]

    assert ["127.0.0.1"] == target.reached()


@pytest.mark.parametrize("name", [b"denied-first.test", b"denied-last.test"])
def test_of_a_name_with_allowed_and_denied_addresses_only_the_allowed_are_dialed(
    here, target, name
):
    """A name server cannot smuggle a forbidden address in beside a good one."""
    rows = _sources("private", "public")

    for source, settings in rows:
        assert OK == Client(here, source, settings).rep(name, target.port)

    assert [net.PUBLIC4] * len(rows) == target.reached()


@pytest.mark.parametrize("name", [b"denied-first.test", b"denied-last.test"])
def test_nor_are_they_dialed_when_the_allowed_one_fails(here, name):
    """Where its allowed address refuses, the proxy does not go on to a forbidden one."""
    with here.socket(net.LOOPBACK4) as forbidden:
        forbidden.bind((net.LOOPBACK4, 0))
        forbidden.listen(8)
        forbidden.setblocking(False)
        port = forbidden.getsockname()[1]

        assert OK == Client(here, net.LOOPBACK4, DEFAULT).rep(name, port)
        forbidden.accept()[0].close()

        for source, settings in [(net.PRIVATE4, LAN), (net.PUBLIC4, OPEN)]:
            assert REFUSED == Client(here, source, settings).rep(name, port)
        with pytest.raises(BlockingIOError):
            forbidden.accept()


@pytest.mark.parametrize(
    "name", [b"localhost", b"LOCALHOST.", b"x.localhost", b"127.1", b"0x7f000001"]
)
def test_this_host_by_name_is_refused_without_asking_the_resolver(here, name):
    """A name that is plainly this host, or an address, is decided without a name server."""
    assert NOT_ALLOWED == Client(here, net.PUBLIC4, OPEN).rep(name, 80)

    assert [] == here.asked()


@pytest.mark.parametrize("settings", [LAN, OPEN])
def test_the_log_says_which_addresses_are_not_for_which_clients(here, settings):
    """A refusal by address names the kind of address and the client."""
    source = net.PRIVATE4
    client = Client(here, source, settings)
    expected = {
        "127.0.0.1": "loopback addresses are not for clients from",
        "0.0.0.0": "unspecified addresses are not for clients from",
        net.METADATA4: "metadata addresses are not for clients from",
        net.LINK_LOCAL4: "linklocal addresses are not for clients from",
        net.METADATA6: "metadata addresses are not for clients from",
        b"localhost": '"localhost":80 is this host, which',
        b"loopback.test": "dst='loopback.test':80",
    }

    for dst, words in expected.items():
        client.rep(dst, 80)
        (line,) = here.refusals()
        assert words in line
        assert source in line


def test_the_log_names_private_addresses_to_a_public_client(here):
    """It has the same line about addresses that only public clients may not reach."""
    Client(here, net.PUBLIC6, OPEN).rep(net.OTHER_PRIVATE4, 80)

    (line,) = here.refusals()

    assert "private addresses are not for clients from 2001:db8::5" in line


# Networks and hosts that are not there


UNREACHABLE = [
    (net.NO_NETWORK4, NETWORK),
    (net.NO_NETWORK6, NETWORK),
    (net.NO_HOST4, HOST),
    (net.NO_HOST6, HOST),
    (b"no-network.test", NETWORK),
    (b"no-network6.test", NETWORK),
    (b"no-host.test", HOST),
    (b"no-host6.test", HOST),
]


@pytest.mark.rfc(
    "RFC 1928 sections 1 and 2",
    "A layer between application and transport; no gateway for what is below, such as ICMP.",
)
@pytest.mark.rfc("RFC 1928 section 6", "REP 03: network unreachable.")
@pytest.mark.rfc("RFC 1928 section 6", "REP 04: host unreachable.")
@pytest.mark.parametrize("dst, rep", UNREACHABLE, ids=repr)
def test_an_unreachable_target_is_told_apart_from_an_unreachable_network(here, dst, rep):
    """REP 03 or 04 by what the kernel says, and 91 to SOCKS4; sent once, then EOF."""
    client = Client(here, net.LOOPBACK4, DEFAULT)

    with client.talk() as talk:
        talk.send(GREETING + socks5(dst, 80)).expect(b"\x05\x00" + failure5(rep)).expect_eof()

    if isinstance(dst, bytes):
        request = socks4a(dst, 80)
    else:
        request = socks4(dst, 80) if ":" not in dst else None
    if request:
        with client.talk() as talk:
            talk.send(request).expect(REJECTED4).expect_eof()


@pytest.mark.parametrize(
    "name",
    [b"nobody.invalid", b"\xff\xfe", "münchen.test".encode("utf-8"), b"a..b", b".", b"-",
     b" ", b"%s%n", b"a\nb", b"a" * 255, b"1.2.3.4.5", b"[::1", b"[1.2.3.4]", b"256.1.1.1"],
)  # fmt: skip
def test_a_name_that_the_system_cannot_resolve_is_an_unreachable_host(here, name):
    """The system's own resolver, given any bytes at all, leads to REP 04 and one log line."""
    client = Client(here, net.LOOPBACK4, DEFAULT)

    with client.talk() as talk:
        talk.send(GREETING + socks5(name, 80)).expect(b"\x05\x00" + failure5(HOST)).expect_eof()
    with client.talk() as talk:
        talk.send(socks4a(name, 80)).expect(REJECTED4).expect_eof()

    assert 2 == len(here.refusals())


#: A port for each: the one before may still be waiting in the kernel.
SELF_CONNECTS = [
    (20001, "127.0.0.1"),
    (20002, "::1"),
    (20003, "0.0.0.0"),
    (20004, "::"),
    (20005, "::ffff:127.0.0.1"),
    (20006, net.PUBLIC4),
    (20007, b"0"),
    (20008, b"loopback.test"),
]


@pytest.mark.parametrize("port, dst", SELF_CONNECTS)
def test_a_closed_port_is_refused_even_if_our_own_hits_it(here, port, dst):
    """A connection of the proxy with itself, which the kernel makes, is no target."""
    client = Client(here, net.LOOPBACK4, DEFAULT)

    with client.talk() as talk, here.only_local_port(port):
        talk.send(GREETING).expect(b"\x05\x00")

        talk.send(socks5(dst, port)).expect(failure5(REFUSED)).expect_eof()


@pytest.mark.rfc(
    "RFC 1928 section 6, CONNECT",
    "BND.ADDR and BND.PORT: what the server assigned to connect to the target.",
)
def test_bnd_is_the_address_that_the_target_sees(here):
    """On a host with many addresses BND is the one that the kernel chose for this target."""
    for host, settings in [(net.PUBLIC4, DEFAULT), (net.PRIVATE6, DEFAULT), ("127.0.0.9", DEFAULT)]:
        with here.socket(host) as listener:
            listener.bind((host, 0))
            listener.listen(1)
            with Client(here, net.LOOPBACK4, settings).talk() as talk:
                rep, bnd_host, bnd_port = talk.connect5(host, listener.getsockname()[1])
                accepted, peer = listener.accept()
                accepted.close()

                assert (OK,) + peer[:2] == (rep, bnd_host, bnd_port)


@pytest.mark.rfc("SOCKS4, CONNECT", "The server connects to the port of the destination host.")
def test_socks4_to_0_0_0_0_reaches_this_host_from_this_host(here, target):
    """0.0.0.0 is an address like others: the server does not wait for a name behind it."""
    with Client(here, net.LOOPBACK4, DEFAULT).talk() as talk:
        assert GRANTED4 == talk.send(socks4("0.0.0.0", target.port)).receive(8)[:2]

    assert ["127.0.0.1"] == target.reached()
