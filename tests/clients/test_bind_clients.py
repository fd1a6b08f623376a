"""Clients that others wrote, through ``python3 -m minisocks`` by BIND, and peers that connect back.

scripts/clients runs this as it does ``test_clients``.
"""

import copy
import os
import re

import pytest

from kit.bind_sites import Ftp, Peer
from kit.bind_table import BIND_CLIENTS, CURL
from kit.client_runs import fits, looks_up, running, titles
from kit.client_table import CURL as PLAIN_CURL
from kit.socks_clients import PASSWORD, REMOTE_NAMES, USER, VERSIONS
from kit.support import wait_until

pytestmark = pytest.mark.others

EVERY = [(client, protocol) for client in BIND_CLIENTS for protocol in client.lines]
PASSWORDS = [client for client in BIND_CLIENTS if "password" in client.lines]
#: Clients that wait for the peer of the test to connect.
WAITING = [client for client in BIND_CLIENTS if client.site == "peer"]
SECOND = [(client, protocol) for client in WAITING for protocol in client.second]

LINE = re.compile(
    r"(?:user=(?P<user>\S+) )?ver=(?P<ver>\d) cmd=BIND dst=(?P<dst>\S+) (?:userid=\S+ )?"
    r"bound=127.0.0.1:\d+ via=127.0.0.1 rep='succeeded' up=(?P<up>\d+)B down=(?P<down>\d+)B secs="
)


@pytest.fixture
def site(request, tmp_path):
    """The peer that connects back to the client of the test."""
    client = request.getfixturevalue("client")
    fits(client)
    with Ftp(CURL.path_of("vsftpd"), str(tmp_path)) if client.site == "ftp" else Peer() as made:
        yield made


@pytest.fixture(scope="module")
def open_proxy():
    """A proxy that wants no password."""
    yield from running("--prefer", "ipv4")


@pytest.fixture(scope="module")
def guarded_proxy():
    """A proxy that wants a password."""
    yield from running("--prefer", "ipv4", "--user", "%s:%s" % (USER, PASSWORD))


@pytest.fixture(scope="module")
def strict_proxy():
    """A proxy that knows no BIND."""
    yield from running("--rule", "deny command bind", "--rule", "allow")


@pytest.fixture(scope="module")
def hasty_proxy():
    """A proxy where peers have next to no time."""
    yield from running("--bind-timeout", "0.2")


@pytest.fixture
def meet(tmp_path, monkeypatch):
    """Have a client ask a proxy for a peer; how it ended."""

    def run(client, protocol, proxy, site, host="127.0.0.1", password=PASSWORD):
        proxy.mark()
        monkeypatch.setenv("PEER", str(site.port))
        return client.fetch(
            protocol,
            str(tmp_path),
            proxy=proxy.port,
            host=host,
            port=site.port,
            user=USER,
            password=password,
        )

    return run


def dst_of(client, protocol, site):
    """Return how *client* is to name its peer, and how that is in the log."""
    remote = protocol in REMOTE_NAMES and not client.resolves
    named = remote or (protocol not in client.literal and looks_up(client))
    # By SOCKS4 Dante names the port that it is connected with, by SOCKS5 none.
    port = site.port if client.site == "ftp" and protocol == "4" else 0
    logged = "'%s'" % client.name if remote else client.address
    return client.name if named else client.address, "%s:%d" % (logged, port)


@pytest.mark.parametrize("client, protocol", EVERY, ids=titles)
def test_gets_an_answer(client, protocol, request, site, tmp_path, meet, record_property):
    """Its peer connects to the proxy, and what they say arrives; of FTP, files there and back."""
    proxy = request.getfixturevalue("guarded_proxy" if protocol == "password" else "open_proxy")
    upload = os.urandom(1000000)
    (tmp_path / "upload").write_bytes(upload)
    host, dst = dst_of(client, protocol, site)

    outcome = meet(client, protocol, proxy, site, host)

    assert 0 == outcome.status, outcome
    assert site.expected == outcome.out, outcome
    wait_until(lambda: len(proxy.lines("cmd=BIND ")) == site.connections, "the lines")
    said = [LINE.search(line) for line in proxy.lines("cmd=BIND ")]
    assert all(said), proxy.lines("")
    user = "'%s'" % USER if protocol == "password" else None
    expected = {"user": user, "ver": str(VERSIONS[protocol]), "dst": dst}
    for one in said:
        assert expected == {key: one.group(key) for key in expected}
    moved = [(int(one.group("up")), int(one.group("down"))) for one in said]
    if client.site == "ftp":
        assert [(0, len(site.expected)), (len(upload), 0)] == moved
        assert upload == site.uploaded()
    else:
        assert [(len(b"hello\n"), len(site.expected))] == moved
        assert b"hello\n" == site.heard
    record_property("version", client.version())


@pytest.mark.parametrize("protocol", ["4", "5"])
@pytest.mark.parametrize("client", [CURL], ids=titles)
def test_curl_says_port(client, protocol, site, meet, tmp_path, open_proxy):
    """With a server that knows no EPRT, curl sends the address of the proxy's listener as PORT."""
    (tmp_path / "upload").write_bytes(b"upload")
    older = copy.copy(client)
    older.lines = {
        p: line.replace("--ftp-port", "-v --disable-eprt --ftp-port")
        for p, line in client.lines.items()
    }

    outcome = meet(older, protocol, open_proxy, site)

    assert (0, site.expected) == (outcome.status, outcome.out), outcome
    assert (2, 0) == (outcome.err.count(b"> PORT 127,0,0,1,"), outcome.err.count(b"> EPRT "))
    assert b"upload" == site.uploaded()
    wait_until(lambda: len(open_proxy.lines("cmd=BIND ")) == site.connections, "the lines")


@pytest.mark.parametrize("client", [CURL], ids=titles)
def test_curl_has_no_bind_of_its_own(client, site, tmp_path, open_proxy):
    """By --proxy it listens itself, and the server finds it only since both are here."""
    open_proxy.mark()
    url = "ftp://127.0.0.1:%d/file" % site.port
    own = copy.copy(PLAIN_CURL)
    own.lines = {
        p: line.replace("curl ", "curl --ftp-port - ") for p, line in PLAIN_CURL.lines.items()
    }

    outcome = own.fetch("5", str(tmp_path), proxy=open_proxy.port, url=url)

    assert (0, site.expected) == (outcome.status, outcome.out), outcome
    wait_until(lambda: open_proxy.lines("cmd=CONNECT "))
    assert [] == open_proxy.lines("cmd=BIND ")


@pytest.mark.parametrize("client", PASSWORDS, ids=titles)
def test_wrong_password(client, site, meet, guarded_proxy):
    """With a wrong password a client gets nothing and fails, in words."""
    outcome = meet(client, "password", guarded_proxy, site, password="wrong")

    assert (True, b"") == (outcome.status != 0, outcome.out), outcome
    assert outcome.err
    wait_until(lambda: guarded_proxy.lines(" end="))
    assert [] == guarded_proxy.lines("cmd=")


@pytest.mark.parametrize("client", BIND_CLIENTS, ids=titles)
def test_a_rule_denies_it(client, site, meet, strict_proxy):
    """Without BIND in the rules the first reply refuses it, and the client prints that."""
    outcome = meet(client, "5", strict_proxy, site)

    assert (True, b"") == (outcome.status != 0, outcome.out), outcome
    assert client.refused in outcome.err.decode(), outcome
    wait_until(lambda: strict_proxy.lines("cmd=BIND "))
    assert strict_proxy.lines("why='rule 1 denies")


@pytest.mark.parametrize(
    "client, protocol", [one for one in SECOND if one[1][0] == "4"], ids=titles
)
def test_a_stranger_comes(client, protocol, site, meet, open_proxy):
    """Another peer than the named one is cut off, and the client prints the proxy's reply."""
    outcome = meet(client, protocol, open_proxy, site, host="127.0.0.2")

    assert (True, b"") == (outcome.status != 0, outcome.out), outcome
    assert client.second[protocol][0] in outcome.err.decode(), outcome
    assert not site.heard
    wait_until(lambda: open_proxy.lines(", but the client expects 127.0.0.2"))


@pytest.mark.parametrize("client, protocol", SECOND, ids=titles)
def test_no_peer_comes(client, protocol, meet, hasty_proxy):
    """When the time is over, the client prints the proxy's reply."""
    fits(client)
    with Peer(comes=False) as site:
        outcome = meet(client, protocol, hasty_proxy, site)

    assert (True, b"") == (outcome.status != 0, outcome.out), outcome
    assert client.second[protocol][1] in outcome.err.decode(), outcome
    wait_until(lambda: hasty_proxy.lines("no peer connected to 127.0.0.1:"))
