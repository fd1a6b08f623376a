"""Clients that others wrote, through ``python3 -m minisocks``: real programs get a real file.

scripts/clients installs them all, runs this, and writes docs/clients.rst from what
came out; where one is missing its tests are skipped, with the reason.
"""

import hashlib
import os
import re
import subprocess
import sys

import pytest

from kit import clients_page
from kit.client_runs import fits, looks_up, running, titles
from kit.client_sites import COLOURS, IMAGE, PAGE, Site, Sshd, pixels, write
from kit.client_table import CHROMIUM, CLIENTS, GIT, SSH
from kit.socks_clients import (
    PASSWORD,
    REMOTE_NAMES,
    USER,
    VERSIONS,
    Wrapper,
    clean_environment,
)
from kit.support import closed_port, wait_until

pytestmark = pytest.mark.others

FILE_BYTES = 1024 * 1024 + 1
LINE = re.compile(r"(?:user=(?P<user>\S+) )?ver=(?P<ver>\d) cmd=(?P<cmd>\w+) dst=(?P<dst>\S+):\d+ ")

#: For those that lead any program: unlike curl, which knows what "localhost" is,
#: this one asks the system, that is, them.
FETCH = """
import sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
sys.stdout.buffer.write(opener.open(sys.argv[1], timeout=50).read())
"""


@pytest.fixture(scope="module")
def content():
    """Bytes that do not repeat."""
    return os.urandom(FILE_BYTES)


@pytest.fixture(scope="module")
def site(tmp_path_factory, content):
    """A site with a file, and a page with four images."""
    with Site(str(tmp_path_factory.mktemp("site")), content) as running:
        yield running


@pytest.fixture(scope="module")
def repository(site):
    """A git repository on the site, which holds the file."""
    script = """
        set -e
        export HOME=$PWD GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b
        export GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
        git init -q work
        cp file work
        git -C work add file
        git -C work commit -q -m one
        git clone -q --bare work repo.git
        git -C repo.git update-server-info
    """
    subprocess.check_call(
        ["sh", "-c", script],
        cwd=site.folder,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    """Serve ssh with a key of its own."""
    if os.getuid() == 0 and not os.path.isdir("/run/sshd"):
        pytest.skip("sshd started by root wants the folder /run/sshd")
    with Sshd(str(tmp_path_factory.mktemp("sshd")), SSH.path_of("sshd")) as running:
        yield running


@pytest.fixture(scope="module")
def open_proxy():
    """A proxy that wants no password."""
    yield from running()


@pytest.fixture(scope="module")
def guarded_proxy():
    """A proxy that wants a password."""
    yield from running("--user", "%s:%s" % (USER, PASSWORD))


class Trip:
    """One client, one protocol, one proxy, one target."""

    def __init__(self, request, client, protocol):
        self.client, self.protocol = client, protocol
        self.version = fits(client)
        guarded = protocol == "password"
        self.proxy = request.getfixturevalue("guarded_proxy" if guarded else "open_proxy")
        self.site = request.getfixturevalue("sshd" if client is SSH else "site")
        self.server = request.getfixturevalue("site")
        if client is GIT:
            request.getfixturevalue("repository")
        self.folder = str(request.getfixturevalue("tmp_path"))
        self.dst = client.name
        #: What the proxy should be asked for, as its log says it.
        self.expected = "'%s'" % client.name
        if protocol not in REMOTE_NAMES or client.name == client.address:
            self.expected = client.address
            if protocol in client.literal or not looks_up(client):
                self.dst = client.address
        self.proxy.mark()
        self._before = self.site.connections

    def go(self, port=None, password=PASSWORD):
        """Run the client; *port* is the target's if it is not the site."""
        url = "http://%s:%d%s" % (self.dst, port or self.site.server_port, self.client.path)
        values = {
            "proxy": self.proxy.port,
            "host": self.dst,
            "port": port or self.site.server_port,
            "path": self.client.path,
            "url": url,
            "user": USER,
            "password": password,
            "options": CHROMIUM_OPTIONS,
        }
        if isinstance(self.client, Wrapper):
            values["get"] = "curl -sS %s" % url
            if self.dst != self.client.address:
                write(self.folder, "fetch.py", FETCH.encode("ascii"))
                values["get"] = "%s fetch.py %s" % (sys.executable, url)
        if self.client is SSH:
            values["to"] = "%s -F %s/ssh_config %s cat %s/file" % (
                "-p %d" % port if port else "", self.site.folder, self.dst, self.server.folder,
            )  # fmt: skip
        return self.client.fetch(self.protocol, self.folder, **values)

    def connections(self):
        """Return how many the target has had since the trip began."""
        return self.site.connections - self._before

    def logged(self):
        """Return the proxy's lines about the target, one for each of its connections."""
        part = ":%d " % self.site.server_port
        wait_until(lambda: len(self.proxy.lines(part)) >= max(1, self.connections()))
        return self.proxy.lines(part)


CHROMIUM_OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--user-data-dir=profile --window-size=%d,%d --screenshot=screenshot.png "
    "'--proxy-bypass-list=<-loopback>' " % (PAGE, PAGE)
)

EVERY = [(client, protocol) for client in CLIENTS for protocol in client.lines]
PASSWORDS = [client for client in CLIENTS if "password" in client.lines]


@pytest.mark.parametrize("client, protocol", EVERY, ids=titles)
def test_gets_a_file(client, protocol, request, content, record_property):
    """A client gets the file through the proxy only, and looks the name up where it should."""
    trip = Trip(request, client, protocol)

    outcome = trip.go()

    assert 0 == outcome.status, outcome
    if client is CHROMIUM:
        check_screenshot(outcome.out)
        assert 1 + len(COLOURS) <= trip.connections()
    else:
        assert hashlib.sha256(content).digest() == hashlib.sha256(outcome.out).digest(), outcome
    lines = trip.logged()
    assert trip.connections() == len(lines)
    for line in lines:
        said = LINE.search(line).groupdict()
        user = "'%s'" % USER if protocol == "password" else None
        expected = {
            "ver": str(VERSIONS[protocol]),
            "cmd": "CONNECT",
            "dst": trip.expected,
            "user": user,
        }
        assert expected == said
    record_property("version", trip.version)


def check_screenshot(image):
    """It shows the four images, each where it belongs."""
    width, height, colour_at = pixels(image)
    assert (PAGE, PAGE) == (width, height)
    for number, expected in enumerate(COLOURS):
        x, y = IMAGE // 2 + IMAGE * (number % 2), IMAGE // 2 + IMAGE * (number // 2)
        assert all(abs(a - b) < 8 for a, b in zip(expected, colour_at(x, y))), (number, expected)


@pytest.mark.parametrize("client", PASSWORDS, ids=titles)
def test_wrong_password(client, request):
    """With a wrong password a client gets nothing and fails, in words."""
    trip = Trip(request, client, "password")

    outcome = trip.go(password="wrong")

    assert (True, b"") == (outcome.status != 0, outcome.out), outcome
    assert outcome.err
    assert 0 == trip.connections()
    wait_until(lambda: trip.proxy.lines(" end="))
    assert [] == trip.proxy.lines("succeeded")


@pytest.mark.parametrize("client", [c for c in CLIENTS if c is not CHROMIUM], ids=titles)
def test_target_refuses(client, request):
    """When the target refuses, a client gets nothing and fails, in words."""
    trip = Trip(request, client, "5" if "5" in client.lines else sorted(client.lines)[0])

    outcome = trip.go(port=closed_port())

    assert (True, b"") == (outcome.status != 0, outcome.out), outcome
    assert outcome.err
    wait_until(lambda: trip.proxy.lines("rep='connection refused'"))


def test_page_is_not_stale():
    """docs/clients.rst has each client and line of the table, whatever it says of the run."""
    with open(clients_page.PAGE, encoding="utf-8") as file:
        text = file.read()

    assert clients_page.without_results(clients_page.page({})) == clients_page.without_results(text)


def test_slow_ones_are_few():
    """What the whole suite leaves to scripts/clients is Chromium only."""
    assert [CHROMIUM] == [client for client in CLIENTS if client.slow]
