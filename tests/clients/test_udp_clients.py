"""Clients that others wrote, through ``python3 -m minisocks`` by UDP, to real servers.

scripts/clients runs this as it does ``test_clients``.
"""

import re

import pytest

from kit.client_runs import fits, running, titles
from kit.socks_clients import PASSWORD, USER
from kit.support import wait_until
from kit.udp_sites import Answers, Dnsmasq, Dtls, Quic
from kit.udp_table import KDIG, UDP_CLIENTS, UDP_PROTOCOLS

pytestmark = pytest.mark.others

EVERY = [(client, protocol) for client in UDP_CLIENTS for protocol in client.lines]
PASSWORDS = [client for client in UDP_CLIENTS if "password" in client.lines]

LINE = re.compile(
    r"(?:user=(?P<user>\S+) )?ver=5 cmd=UDP_ASSOCIATE .* rep='succeeded' up=\d+B down=\d+B "
    r"datagrams_up=(?P<up>\d+) datagrams_down=(?P<down>\d+) (?P<drops>drops=.*)?secs="
)


@pytest.fixture
def site(request, tmp_path):
    """The server that the client of the test asks."""
    client = request.getfixturevalue("client")
    fits(client)
    makers = {
        "answers": Answers,
        "dnsmasq": lambda: Dnsmasq(KDIG.path_of("dnsmasq")),
        "dtls": lambda: Dtls(str(tmp_path)),
        "quic": lambda: Quic(str(tmp_path)),
    }
    with makers[client.site]() as made:
        yield made


@pytest.fixture(scope="module")
def address_proxy():
    """A proxy that refuses every request with the name."""
    yield from running("--rule", "deny to localhost", "--rule", "allow")


@pytest.fixture(scope="module")
def name_proxy():
    """A proxy that refuses every request with an address."""
    yield from running("--rule", "allow to localhost")


@pytest.fixture(scope="module")
def guarded_proxy():
    """A proxy that wants a password."""
    yield from running("--user", "%s:%s" % (USER, PASSWORD))


def ask(client, protocol, proxy, site, folder, password=PASSWORD):
    """Have *client* ask the server."""
    proxy.mark()
    return client.fetch(
        protocol,
        str(folder),
        proxy=proxy.port,
        host="127.0.0.1" if protocol in client.literal else "localhost",
        port=site.port,
        path="/",
        query=getattr(site, "query", ""),
        trust="verify_mode=ssl.CERT_NONE",
        user=USER,
        password=password,
    )


@pytest.mark.parametrize("client, protocol", EVERY, ids=titles)
def test_gets_an_answer(client, protocol, request, site, tmp_path, record_property):
    """A client gets the answer through the proxy only, and looks the name up where it should."""
    proxies = {"5": "address_proxy", "5h": "name_proxy", "password": "guarded_proxy"}
    proxy = request.getfixturevalue(proxies[protocol])

    outcome = ask(client, protocol, proxy, site, tmp_path)

    assert 0 == outcome.status, outcome
    assert site.expected == outcome.out, outcome
    wait_until(lambda: proxy.lines(" end="))
    said = [LINE.search(line) for line in proxy.lines(" end=")]
    assert all(said), proxy.lines("")
    user = "'%s'" % USER if protocol == "password" else None
    assert {(user, None)} == {(one.group("user"), one.group("drops")) for one in said}
    assert all(int(one.group("down")) for one in said)
    up = sum(int(one.group("up")) for one in said)
    assert up >= 1 if site.heard is None else up == site.heard
    record_property("version", client.version())


@pytest.mark.parametrize("client", PASSWORDS, ids=titles)
def test_wrong_password(client, guarded_proxy, site, tmp_path):
    """With a wrong password a client gets nothing, and no datagram reaches the server."""
    outcome = ask(client, "password", guarded_proxy, site, tmp_path, password="wrong")

    assert site.expected != outcome.out, outcome
    wait_until(lambda: guarded_proxy.lines(" end="))
    assert [] == guarded_proxy.lines("UDP_ASSOCIATE")
    assert not site.heard


def test_the_table_says_which_side_looks_up():
    """Each client has lines of the protocols that the page has columns for, and no other."""
    for client in UDP_CLIENTS:
        assert set(client.lines) <= set(UDP_PROTOCOLS)
