"""torsocks and tor-resolve use us as they use Tor; and Tor is an exit.

All in a network namespace: torsocks never connects to loopback, and Tor has no network, so that
its answers are refusals, and what its settings say.
"""

import re
import shutil
import socket
import sys

import pytest

from kit.hosts import made_for_tests
from kit.namespace import LOOPBACK4
from kit.support import TIMEOUT, closed_port, wait_until

pytestmark = pytest.mark.others

WEB = "192.0.2.7"
NAME = "web.test"
HOSTS = "127.0.0.1 localhost\n%s %s\n" % (WEB, NAME)

TORRC = """
SocksPort 127.0.0.1:%(socks)d IsolateSOCKSAuth
ControlPort 127.0.0.1:%(control)d
DataDirectory %(folder)s
SocksTimeout 2
MapAddress %(name)s %(web)s
Log notice file %(folder)s/log
"""


def tool(name, package):
    return shutil.which(name) or pytest.skip(
        "%s not found; install the package %s" % (name, package)
    )


@pytest.fixture(scope="module")
def host():
    """A host with a web server at WEB, whose name is in its hosts file."""
    with made_for_tests("host", own_files=True) as hosts:
        hosts.host.ip("link set lo up", "addr add %s/32 dev lo" % WEB)
        hosts.host.cover("/etc/hosts", HOSTS)
        yield hosts.host


@pytest.fixture(params=["alone", "in front of another one"])
def port(request, host):
    """The port of a proxy that answers itself, or asks the next one."""
    port = host.new_proxy(listen=["127.0.0.1:0"])
    if request.param != "alone":
        exit = "x=socks5h://127.0.0.1:%d" % port
        port = host.new_proxy(listen=["127.0.0.1:0"], exit=[exit], rule=["allow via x"])
    host.logged()
    return port


def lines_of(host, cmd):
    """Return the lines logged about such requests since the last call, the newest proxy's last."""
    found = []

    def are_there():
        found.extend(line for line in host.logged() if " cmd=%s " % cmd in line)
        return found

    wait_until(are_there, "a line about %s" % cmd)
    return found


@pytest.mark.parametrize("ver", ["-5", "-4"])
def test_tor_resolve_learns_an_address(host, port, ver):
    """By SOCKS5 and SOCKS4a."""
    command = [tool("tor-resolve", "tor"), ver, "-p", str(port), NAME]
    assert (0, WEB + "\n") == host.run(*command)
    lines = lines_of(host, "RESOLVE")
    assert all("dst='web.test':0 via=192.0.2.7" in line for line in lines), lines


def test_tor_resolve_learns_a_name(host, port):
    """That of an address."""
    command = [tool("tor-resolve", "tor"), "-x", "-p", str(port), WEB]
    assert (0, NAME + "\n") == host.run(*command)
    assert "via=web.test" in lines_of(host, "RESOLVE_PTR")[-1]


def test_tor_resolve_learns_that_there_is_none(host, port):
    """It understands REP 04."""
    command = [tool("tor-resolve", "tor"), "-p", str(port)]
    for arguments in (["nowhere.test"], ["-x", "192.0.2.8"]):
        status, output = host.run(*command + arguments)
        assert 1 == status
        assert "host is unreachable" in output


@pytest.fixture(scope="module")
def page(host, tmp_path_factory):
    """The URL of a file at a web server."""
    folder = tmp_path_factory.mktemp("web")
    (folder / "file").write_text("some text\n")
    web = closed_port()
    server = [sys.executable, "-m", "http.server", str(web), "--bind", WEB]
    with host.running("sh", "-c", 'cd "$0" && exec "$@"', str(folder), *server):
        wait_until(lambda: answers(host, WEB, web), "the web server")
        yield "http://%s:%d/file" % (NAME, web)


def torsocks(host, port, url, *options):
    """Return what curl says, led by torsocks."""
    command = [tool("torsocks", "torsocks"), "--port", str(port), *options]
    return host.run(*command, tool("curl", "curl"), "-s", url)


def test_torsocks_logs_in(host, page):
    """With a user and password of ours; those that it makes up for Tor are wrong here."""
    port = host.new_proxy(listen=["127.0.0.1:0"], user=["ann:a"])
    host.logged()
    assert (0, "some text\n") == torsocks(host, port, page, "--user", "ann", "--pass", "a")
    assert all("user='ann'" in line for line in lines_of(host, "RESOLVE"))
    assert 0 != torsocks(host, port, page, "--isolate")[0]


def test_torsocks_leads_curl_through_us(host, port, page):
    """It asks for the address, and connects to that."""
    assert (0, "some text\n") == torsocks(host, port, page)
    wait_until(lambda: host.connections() == 0)
    lines = host.logged()
    asked = [line for line in lines if "cmd=RESOLVE" in line]
    assert asked
    assert all("dst='web.test':0 via=192.0.2.7" in line for line in asked), lines
    assert any("cmd=CONNECT dst='192.0.2.7':" in line for line in lines), lines


def answers(host, address, port):
    with host.socket(socket.AF_INET) as sock:
        return sock.connect_ex((address, port)) == 0


@pytest.fixture(scope="module")
def tor(host, tmp_path_factory):
    """Tor without a network: the port for clients, and a connection to its control port."""
    folder = tmp_path_factory.mktemp("tor")
    folder.chmod(0o700)
    socks, control = closed_port(), closed_port()
    text = TORRC % {
        "socks": socks, "control": control, "folder": folder, "name": NAME, "web": WEB
    }  # fmt: skip
    (folder / "torrc").write_text(text)
    with host.running(tool("tor", "tor"), "-f", str(folder / "torrc")):
        wait_until(lambda: answers(host, LOOPBACK4, control), "Tor")
        with host.socket(socket.AF_INET) as sock:
            sock.settimeout(TIMEOUT)
            sock.connect((LOOPBACK4, control))
            sock.sendall(b"AUTHENTICATE\r\nSETEVENTS STREAM\r\n")
            yield socks, sock.makefile("r")


@pytest.fixture
def before_tor(host, tor):
    """A proxy whose exit is that, and the events of Tor."""
    exit = "tor=socks5h://127.0.0.1:%d isolate" % tor[0]
    users = ["ann:a", "bob:b"]
    port = host.new_proxy(listen=["127.0.0.1:0"], exit=[exit], rule=["allow via tor"], user=users)
    host.logged()
    return port, tor[1]


def curl(host, port, user, url):
    proxy = "socks5h://%s@127.0.0.1:%d" % (user, port)
    return host.run(tool("curl", "curl"), "-sv", "--proxy", proxy, url)


def test_the_reply_of_tor_reaches_the_client(host, before_tor):
    """REP 06, because it has no network and its time is over; 01, because the name is none."""
    port, _events = before_tor
    for url, rep in (("http://example.org/", 6), ("http://nothing.onion/", 1)):
        status, output = curl(host, port, "ann:a", url)
        assert 97 == status
        assert "(%d)" % rep in output
        assert "answers: " in lines_of(host, "CONNECT")[-1]


def test_tor_keeps_isolated_clients_apart(host, before_tor):
    """Each user has a login of its own there, and always the same one."""
    port, events = before_tor
    for user in ("ann:a", "bob:b", "ann:a"):
        curl(host, port, user, "http://apart.onion/")
    first, second, third = [login(events) for _ in range(3)]
    assert first == third != second


def login(events):
    """Return name and password of the next client that has connected to Tor for a target."""
    for line in events:
        found = re.match(r"650 STREAM \d+ NEW 0 apart\.onion:80 .*SOCKS_USERNAME=(.*)", line)
        if found:
            return found.group(1).partition(" CLIENT_PROTOCOL")[0]
    raise AssertionError("Tor has closed its control port")


def test_tor_answers_look_ups_through_us(host, tor):
    """The name that its settings map to an address; and REP 04 for what only its network knows."""
    exit = "tor=socks5h://127.0.0.1:%d isolate" % tor[0]
    port = host.new_proxy(listen=["127.0.0.1:0"], exit=[exit], rule=["allow via tor"])
    command = [tool("tor-resolve", "tor"), "-p", str(port)]
    host.asked()
    assert (0, WEB + "\n") == host.run(*command + [NAME])
    assert "via=192.0.2.7 exit=tor" in lines_of(host, "RESOLVE")[-1]
    assert [] == host.asked()
    for arguments in (["example.org"], ["-x", "192.0.2.9"]):
        status, output = host.run(*command + arguments)
        assert 1 == status
        assert "host is unreachable" in output
