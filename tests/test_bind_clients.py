"""Clients that others wrote, through ``python -m minisocks`` by BIND, and peers that connect back.

scripts/clients runs this as it does ``test_clients``.
"""

import os
import re

import pytest
from test_clients import fits, running, titles

from bind_sites import Ftp, Peer
from bind_table import BIND_CLIENTS, BIND_PROTOCOLS, CURL
from socks_clients import PASSWORD, USER, VERSIONS
from support import wait_until

EVERY = [(client, protocol) for client in BIND_CLIENTS for protocol in client.lines]

LINE = re.compile(
    r"(?:user=(?P<user>\S+) )?ver=(?P<ver>\d) cmd=BIND .* bound=127.0.0.1:\d+ via=127.0.0.1 "
    r"rep='succeeded' up=(?P<up>\d+)B down=(?P<down>\d+)B secs="
)
MEET = 'sub meet { IO::Socket::INET->new("127.0.0.1:%d")->print("@_\\n") }'


@pytest.fixture
def site(request, tmp_path):
    """Who connects back to the client of the test."""
    client = request.getfixturevalue("client")
    fits(client)
    with Ftp(CURL.path_of("vsftpd"), str(tmp_path)) if client.site == "ftp" else Peer() as made:
        yield made


@pytest.fixture(scope="module")
def open_proxy():
    """A proxy that wants no password."""
    yield from running()


@pytest.fixture(scope="module")
def guarded_proxy():
    """A proxy that wants one."""
    yield from running("--user", "%s:%s" % (USER, PASSWORD))


@pytest.mark.parametrize("client, protocol", EVERY, ids=titles)
def test_gets_an_answer(
    client, protocol, request, site, tmp_path, record_property, monkeypatch
):
    """Its peer connects to the proxy, and what that says arrives; of FTP, what is put, too."""
    which = "guarded_proxy" if protocol == "password" else "open_proxy"
    proxy = request.getfixturevalue(which)
    proxy.mark()
    upload = os.urandom(1000000)
    (tmp_path / "upload").write_bytes(upload)
    monkeypatch.setenv("TELL", "%d 127.0.0.1" % site.port)

    outcome = client.fetch(
        protocol,
        str(tmp_path),
        proxy=proxy.port,
        host="127.0.0.1",
        port=site.port,
        user=USER,
        password=PASSWORD,
        meet=MEET % site.port,
    )

    assert 0 == outcome.status, outcome
    assert site.expected == outcome.out, outcome
    wait_until(lambda: len(proxy.lines("cmd=BIND ")) == site.connections, "the lines")
    said = [LINE.search(line) for line in proxy.lines("cmd=BIND ")]
    assert all(said), proxy.lines("")
    user = "'%s'" % USER if protocol == "password" else None
    assert {(user, str(VERSIONS[protocol]))} == {(m.group("user"), m.group("ver")) for m in said}
    moved = [(int(one.group("up")), int(one.group("down"))) for one in said]
    expected = [(0, len(site.expected))]
    if client.site == "ftp":
        expected.append((len(upload), 0))
        assert upload == site.uploaded()
    assert expected == moved
    record_property("version", client.version())


def test_the_table_has_what_the_page_has_columns_for():
    """Each client has lines of those protocols, and no other."""
    for client in BIND_CLIENTS:
        assert set(client.lines) <= set(BIND_PROTOCOLS)
