"""--ident between hosts: oidentd, which others wrote, curl's own words, link-local addresses.

A client and the proxy's host, with a cable between them; port 113 is the real one there.
"""

import contextlib
import os
import shutil
import socket
import threading

import pytest

from kit import hosts
from kit.support import GRANTED4, TIMEOUT, Talk, socks4, wait_until

CLIENT, PROXY = "10.1.0.1", "10.1.0.2"
CLIENT6, PROXY6 = "fd01::1", "fd01::2"
LINK_LOCAL, LINK_LOCAL_PROXY = "fe80::1", "fe80::2"

OIDENTD = shutil.which("oidentd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
CURL, SETPRIV = shutil.which("curl"), shutil.which("setpriv")

#: What curl prints about the replies.
REJECTED = "(91), request rejected or failed."
NO_IDENTD = "(92), request rejected because SOCKS server cannot connect to identd on the client."
MISMATCH = "(93), request rejected because the client program and identd report different user-ids."


@contextlib.contextmanager
def cabled(**how):
    """A client and a proxy's host."""
    with hosts.made_for_tests("client", "proxy", **how) as made:
        with hosts.or_skip():
            made.cable(
                ("client", CLIENT + "/24", CLIENT6 + "/64", LINK_LOCAL + "/64"),
                ("proxy", PROXY + "/24", PROXY6 + "/64", LINK_LOCAL_PROXY + "/64"),
            )
        yield made


@pytest.fixture(scope="module")
def lan():
    """Hosts that have no users but one."""
    with cabled() as made:
        yield made


@pytest.fixture(scope="module")
def with_users():
    """Hosts that have the users of this machine, which oidentd can name."""
    for program, package in (
        (OIDENTD, "oidentd"),
        (CURL, "curl"),
        (SETPRIV, "setpriv (package util-linux)"),
    ):
        if program is None:
            pytest.skip("%s is not installed" % package)
    with cabled(has_users=True) as made:
        yield made


def place(address, port, scope=0):
    """Return what a socket takes; *scope* counts for link-local addresses."""
    return (address, port, 0, scope) if address.startswith("fe80") else (address, port)


def listening(host, address, port=0, scope=0):
    """Return a socket that listens there."""
    sock = host.socket(hosts.family_of(address))
    sock.settimeout(TIMEOUT)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(place(address, port, scope))
    sock.listen(16)
    return sock


@pytest.mark.parametrize(
    "source, reached",
    [
        (CLIENT, PROXY),
        (CLIENT6, PROXY6),
        (LINK_LOCAL, LINK_LOCAL_PROXY),
        (LINK_LOCAL, PROXY6),
    ],
)
def test_it_is_asked_between_the_addresses_of_the_connection(lan, source, reached):
    """Each of the two addresses has its own scope, where it is link-local."""
    lan.proxy.logged()
    port = lan.proxy.proxy(rule=["allow to self"], ident=True)
    scope = lan.client.index("proxy")
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(listening(lan.proxy, PROXY))
        identd = stack.enter_context(listening(lan.client, source, 113, scope))
        sock = stack.enter_context(lan.client.socket(hosts.family_of(source)))
        sock.settimeout(TIMEOUT)
        sock.bind(place(source, 0, scope))
        sock.connect(place(reached, port, scope))
        talk = Talk(sock).send(socks4(PROXY, target.getsockname()[1], b"ann"))

        question, caller = identd.accept()
        with question:
            ports = sock.getsockname()[1], port
            assert reached == caller[0].partition("%")[0]
            assert b"%d, %d\r\n" % ports == question.recv(1000)
            question.sendall(b"%d, %d : USERID : UNIX : ann\r\n" % ports)
            assert GRANTED4 == talk.receive(8)[:2]
    assert [] == lan.proxy.bugs()


class Page:
    """A site of one page, on the proxy's host."""

    def __init__(self, host):
        self._listener = listening(host, PROXY)
        self._listener.settimeout(None)
        self.url = "http://%s:%d/" % self._listener.getsockname()[:2]
        self._thread = threading.Thread(target=self._serve)

    def _serve(self):
        while True:
            try:
                sock, _peer = self._listener.accept()
            except OSError:
                return
            with sock, contextlib.suppress(OSError):
                sock.settimeout(TIMEOUT)
                data = b""
                while not data.endswith(b"\r\n\r\n"):
                    data += sock.recv(4096)
                sock.sendall(b"HTTP/1.0 200 OK\r\n\r\nthe page\n")

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


class Site:
    """The proxy with --ident, the page behind it, and curl on the client, as the user nobody."""

    def __init__(self, made, page):
        self.made = made
        self._page = page
        rules = ["deny port 81 user nobody", "allow to self"]
        self._port = made.proxy.proxy(rule=rules, ident=True)
        made.proxy.logged()

    def curl(self, userid, url=None, proxy=PROXY):
        """Return exit status, and the output or the error."""
        where = "[%s]" % proxy if ":" in proxy else proxy
        as_nobody = [SETPRIV, "--reuid=65534", "--regid=65534", "--clear-groups"]
        by = "socks4://%s@%s:%d" % (userid, where, self._port)
        return self.made.client.run(
            *as_nobody, CURL, "-q", "-sS", "--max-time", "60", "--proxy", by, url or self._page.url
        )

    def last_line(self):
        """Return the line of the last connection in the log."""
        lines = []

        def is_there():
            lines.extend(line for line in self.made.proxy.logged() if " end=" in line)
            return lines

        wait_until(is_there, "the line in the log")
        return lines[-1]


@pytest.fixture
def site(with_users):
    """All of that, for a test in which the server must log no bug of its own."""
    with Page(with_users.proxy) as page:
        yield Site(with_users, page)
    assert [] == with_users.proxy.bugs()


@contextlib.contextmanager
def oidentd(site, tmp_path, config=""):
    """Have it run on the client's host."""
    path = tmp_path / "oidentd.conf"
    path.write_text(config)

    def answers():
        with site.made.client.socket(socket.AF_INET) as sock:
            return sock.connect_ex((CLIENT, 113)) == 0

    # Each connection has a process of its own, which may outlive the one that was ended.
    wait_until(lambda: not answers(), "the end of an earlier one")
    with site.made.client.running(OIDENTD, "--foreground", "--nosyslog", "-C", str(path)):
        wait_until(answers, "oidentd")
        yield


@pytest.mark.rfc("RFC 1413 sections 1 and 2", "A server listens on TCP port 113.")
@pytest.mark.rfc(
    "RFC 1413 sections 1 and 2",
    "The server reads a line with the query, and answers; it may then close or read on.",
)
@pytest.mark.rfc(
    "RFC 1413 section 4",
    "<port-on-server> , <port-on-client>: as seen from the ident server's host.",
)
@pytest.mark.parametrize("reached", [PROXY, PROXY6])
def test_oidentd_confirms_the_user_that_runs_curl(site, tmp_path, reached):
    """The page comes, and the log has the user."""
    with oidentd(site, tmp_path):
        assert (0, "the page\n") == site.curl("nobody", proxy=reached)
    assert " user='nobody' ver=4 " in site.last_line()


def test_curl_shows_that_oidentd_names_another_user(site, tmp_path):
    """CD 93, in curl's words and in the log."""
    with oidentd(site, tmp_path):
        status, said = site.curl("ann")
    assert 0 != status
    assert MISMATCH in said
    assert 'it says that it is "ann", its identd says "nobody"' in site.last_line()


def test_curl_shows_that_a_rule_refuses(site, tmp_path):
    """CD 91, though oidentd confirms it."""
    with oidentd(site, tmp_path):
        status, said = site.curl("nobody", "http://%s:81/" % PROXY)
    assert 0 != status
    assert REJECTED in said
    line = site.last_line()
    assert " user='nobody' ver=4 " in line
    assert "rule 1 denies" in line


def test_curl_shows_that_there_is_no_identd(site):
    """CD 92, and the log names the host."""
    status, said = site.curl("nobody")
    assert 0 != status
    assert NO_IDENTD in said
    assert "why='no identd at %s: Connection refused'" % CLIENT in site.last_line()


def test_oidentd_hides_a_user(site, tmp_path):
    """HIDDEN-USER confirms nothing: CD 93."""
    with oidentd(site, tmp_path, "default { default { force hide } }\n"):
        status, said = site.curl("nobody")
    assert 0 != status
    assert MISMATCH in said
    assert 'its identd does not name its user: "HIDDEN-USER"' in site.last_line()


def test_oidentd_may_say_what_its_owner_wants(site, tmp_path):
    """So what it says proves nothing."""
    with oidentd(site, tmp_path, 'default { default { force reply "ann" } }\n'):
        assert (0, "the page\n") == site.curl("ann")
    assert " user='ann' ver=4 " in site.last_line()
