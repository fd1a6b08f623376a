"""curl, which others wrote, through the proxy: real programs get real files."""

import contextlib
import hashlib
import http.server
import os
import re
import shutil
import socket
import socketserver
import subprocess
import threading

import pytest

from kit.support import CommandLine, closed_port, run_proxy, wait_until
from minisocks.net.resolver import Resolver

CURL = shutil.which("curl")

pytestmark = pytest.mark.skipif(CURL is None, reason="curl is not installed")

FILE_BYTES = 64 * 1024 * 1024
UPLOAD_BYTES = 5 * 1024 * 1024 + 1
#: curl before 7.73 had no exit status of its own for a proxy's refusal.
PROXY_FAILED = (97, 7)


class Site(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """A web site: ``/hello``, ``/file``, and uploads, answered with their hash."""

    daemon_threads = False
    request_queue_size = 64

    def __init__(self, host, file):
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, 0), Handler)
        self.file = file
        #: The ports that requests came from, one for each request.
        self.seen = []

    def server_bind(self):
        """Bind without asking what this machine is called."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "site", self.server_address[1]


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection to the site."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """Serve the file, or a greeting."""
        self.server.seen.append(self.client_address[1])
        if self.path == "/file":
            with open(self.server.file, "rb") as file:
                self._head(FILE_BYTES)
                shutil.copyfileobj(file, self.wfile, 1 << 18)
        else:
            self._say(b"hello from %s\n" % self.path.encode("ascii"))

    def do_POST(self):
        """Answer with the hash of what was uploaded."""
        digest = hashlib.sha256()
        left = int(self.headers["Content-Length"])
        while left:
            data = self.rfile.read(min(left, 1 << 16))
            left -= len(data)
            digest.update(data)
        self._say(digest.hexdigest().encode("ascii"))

    def _head(self, size):
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def _say(self, body):
        self._head(len(body))
        self.wfile.write(body)

    def log_message(self, *args):
        """Say nothing on stderr."""


@pytest.fixture(scope="session")
def big_file(tmp_path_factory):
    """Make 64 MB that do not repeat; return path and hash."""
    path = tmp_path_factory.mktemp("site") / "file"
    digest = hashlib.sha256()
    with open(str(path), "wb") as file:
        for _ in range(FILE_BYTES >> 20):
            data = os.urandom(1 << 20)
            digest.update(data)
            file.write(data)
    yield str(path), digest.hexdigest()
    path.unlink()


@contextlib.contextmanager
def serving(host, file):
    """A site on *host*."""
    site = Site(host, file)
    thread = threading.Thread(target=site.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield site
    finally:
        site.shutdown()
        thread.join()
        site.server_close()


@pytest.fixture(scope="module")
def sites(big_file):
    """Serve the same on both families."""
    with serving("127.0.0.1", big_file[0]) as site4, serving("::1", big_file[0]) as site6:
        yield {4: site4, 6: site6}


def getaddrinfo(name, port, *args):
    """Know two names."""
    if name == b"site4.test":
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
    if name == b"site6.test":
        return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0))]
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.fixture
def open_proxy():
    """A proxy that wants no password."""
    with run_proxy(Resolver(getaddrinfo)) as running:
        yield running


@pytest.fixture
def guarded_proxy():
    """A proxy that wants a password."""
    with run_proxy(Resolver(getaddrinfo), user=("ann:s3cret", "bob:x")) as running:
        yield running


def curl(*args, data=None):
    """Run curl; return exit status, what it got, and what it said."""
    environ = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    environ["LC_ALL"] = "C"
    process = subprocess.Popen(
        [CURL, "-q", "-sS", "--max-time", "60"] + list(args),
        stdin=subprocess.PIPE if data else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environ,
    )
    out, err = process.communicate(data)
    return process.returncode, out, err.decode("utf-8", "replace")


#: For each protocol: curl's options, the host in its URL, and the target's family.
WAYS = {
    "socks4": (["--socks4", "127.0.0.1:PORT"], "127.0.0.1", 4),
    "socks4a": (["--socks4a", "127.0.0.1:PORT"], "site4.test", 4),
    "socks4a-ipv6": (["--socks4a", "127.0.0.1:PORT"], "site6.test", 6),
    "socks5": (["--socks5", "127.0.0.1:PORT"], "127.0.0.1", 4),
    "socks5-ipv6": (["--socks5", "127.0.0.1:PORT"], "[::1]", 6),
    "socks5-hostname": (["--socks5-hostname", "127.0.0.1:PORT"], "site4.test", 4),
    "socks5-hostname-ipv6": (["--socks5-hostname", "127.0.0.1:PORT"], "site6.test", 6),
    "password": (["--proxy", "socks5h://ann:s3cret@127.0.0.1:PORT"], "site4.test", 4),
}


class Way:
    """curl with one of these."""

    def __init__(self, name, sites, open_proxy, guarded_proxy):
        proxy = guarded_proxy if name == "password" else open_proxy
        options, self.host, family = WAYS[name]
        self.options = [option.replace("PORT", str(proxy.port)) for option in options]
        self.site = sites[family]

    def url(self, path):
        """Return the address of a page."""
        return "http://%s:%d%s" % (self.host, self.site.server_port, path)

    def get(self, *args, **kwargs):
        """Run curl, successfully; return what it got."""
        status, out, err = curl(*(self.options + list(args)), **kwargs)
        assert (0, "") == (status, err)
        return out


@pytest.fixture(params=sorted(WAYS))
def way(request, sites, open_proxy, guarded_proxy):
    """Return each way to go through the proxy."""
    return Way(request.param, sites, open_proxy, guarded_proxy)


def test_get(way):
    """A page comes as it is."""
    assert b"hello from /a\n" == way.get(way.url("/a"))


def test_download(way, big_file):
    """64 MB arrive to the last bit."""
    assert big_file[1] == hashlib.sha256(way.get(way.url("/file"))).hexdigest()


def test_upload(way):
    """5 MB and a byte arrive to the last bit."""
    data = os.urandom(UPLOAD_BYTES)

    answer = way.get("--data-binary", "@-", way.url("/upload"), data=data)

    assert hashlib.sha256(data).hexdigest() == answer.decode("ascii")


def test_keep_alive(way, access_log):
    """Two pages in one call of curl are one connection, and one line in the log."""
    del way.site.seen[:]

    out = way.get(way.url("/one"), way.url("/two"))
    line = access_log.wait_for("end=")

    assert b"hello from /one\nhello from /two\n" == out
    assert 2 == len(way.site.seen)
    assert 1 == len(set(way.site.seen))
    assert 1 == len(access_log.lines)
    assert "rep='succeeded'" in line


@pytest.mark.parametrize(
    "options, host, words",
    [
        (["--socks4"], "127.0.0.1", r"\(91\)"),
        (["--socks4a"], "site4.test", r"\(91\)"),
        (["--socks5"], "127.0.0.1", r"\(5\)"),
        (["--socks5"], "[::1]", r"\(5\)"),
        (["--socks5-hostname"], "site4.test", r"\(5\)"),
        (["--socks5-hostname"], "nobody.test", r"\(4\)"),
        (["--socks4a"], "nobody.test", r"\(91\)"),
    ],
)
def test_curl_says_what_the_reply_says(open_proxy, options, host, words):
    """A target that refuses, or has no address: curl fails in the proxy's words."""
    port = closed_port("::1" if host == "[::1]" else "127.0.0.1")

    status, out, err = curl(
        *(options + ["127.0.0.1:%d" % open_proxy.port, "http://%s:%d/" % (host, port)])
    )

    assert status in PROXY_FAILED
    assert re.search(words, err), err
    assert b"" == out


@pytest.mark.parametrize("rep", range(1, 9))
def test_curl_knows_every_rep(make_socks_proxy, rep):
    """Whatever the REP of a failure, curl reads the whole reply and reports its number."""
    proxy = make_socks_proxy(reply=rep)

    status, out, err = curl("--proxy", proxy.url, "http://nobody.invalid/")

    assert status in PROXY_FAILED
    assert b"" == out
    assert "(%d)" % rep in err
    assert ["nobody.invalid"] == [record.host for record in proxy.records]


@pytest.mark.parametrize("cd", [91, 92, 93])
def test_curl_knows_every_cd(make_socks_proxy, cd):
    """Likewise with SOCKS4."""
    proxy = make_socks_proxy(reply=cd)

    status, _, err = curl("--socks4a", proxy.address, "http://nobody.invalid/")

    assert status in PROXY_FAILED
    assert "(%d)" % cd in err


@pytest.mark.parametrize("option", ["--socks4", "--socks5"])
@pytest.mark.parametrize("bnd", ["0.0.0.0:0", "192.0.2.1:65535"])
def test_curl_does_not_mind_bnd(make_socks_proxy, sites, option, bnd):
    """What BND says is no matter to a client that only connects."""
    proxy = make_socks_proxy(bnd=bnd)

    status, out, err = curl(option, proxy.address, "http://127.0.0.1:%d/a" % sites[4].server_port)

    assert (0, b"hello from /a\n", "") == (status, out, err)


def test_bnd_of_ipv6(make_socks_proxy, sites):
    """A reply with an IPv6 address, which is longer, is read to its end."""
    proxy = make_socks_proxy(bnd="[2001:db8::1]:1")

    status, out, err = curl(
        "--socks5", proxy.address, "http://127.0.0.1:%d/a" % sites[4].server_port
    )

    assert (0, b"hello from /a\n", "") == (status, out, err)


def test_download_that_breaks_off(make_socks_proxy, sites):
    """A reset in the middle of a file is an error for curl, and no complete file."""
    proxy = make_socks_proxy(drop_after=1000000)

    status, out, _ = curl("--proxy", proxy.url, "http://127.0.0.1:%d/file" % sites[4].server_port)

    assert 56 == status  # "failure in receiving network data"
    assert 999000 < len(out) < 1000000


@pytest.mark.parametrize("login", ["ann:wrong@", "nobody:s3cret@", "bob:s3cret@", ""])
def test_without_the_right_password(guarded_proxy, sites, login):
    """curl with a wrong password, or none, gets nothing and prints why."""
    site = sites[4]
    del site.seen[:]

    status, out, err = curl(
        "--proxy", "socks5h://%s127.0.0.1:%d" % (login, guarded_proxy.port),
        "http://127.0.0.1:%d/" % site.server_port,
    )  # fmt: skip

    assert status in PROXY_FAILED
    assert b"" == out
    assert "rejected" in err.lower() or "no authentication method" in err.lower(), err
    assert [] == site.seen


@pytest.mark.parametrize("proxy_option", ["--socks4", "--socks4a"])
def test_socks4_where_a_password_is_needed(guarded_proxy, proxy_option):
    """SOCKS4 has no password: curl reports 91."""
    status, _, err = curl(
        proxy_option, "ann@127.0.0.1:%d" % guarded_proxy.port, "http://127.0.0.1:9/"
    )

    assert status in PROXY_FAILED
    assert "(91)" in err


def test_set_up_for_an_http_proxy(open_proxy):
    """A user who took it for an HTTP proxy reads how to do it right."""
    status, out, err = curl(
        "--proxy", "http://127.0.0.1:%d" % open_proxy.port, "http://site4.test/"
    )

    assert (0, "") == (status, err)
    assert b"This is a SOCKS proxy" in out
    assert b"curl --proxy socks5h://" in out


def test_taken_for_an_https_proxy(open_proxy, access_log):
    """One who speaks TLS to it gets an error, and the log names the mistake."""
    status, _, _ = curl("-k", "https://127.0.0.1:%d/" % open_proxy.port)

    assert status != 0
    assert "TLS instead of SOCKS" in access_log.wait_for("end=not-socks")


def test_four_downloads_at_once(open_proxy, sites, big_file):
    """Side by side they come as whole as alone."""
    way = Way("socks5-hostname", sites, open_proxy, None)
    hashes = []

    def download():
        hashes.append(hashlib.sha256(way.get(way.url("/file"))).hexdigest())

    threads = [threading.Thread(target=download) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [big_file[1]] * 4 == hashes


def test_the_command_line(sites, big_file):
    """`python3 -m minisocks` in its own process serves, logs what it did, and ends on TERM."""
    site = sites[4]
    with CommandLine("-l", "127.0.0.1:0") as minisocks:
        (port,) = minisocks.ports
        for option in ("--socks4", "--socks4a", "--socks5", "--socks5-hostname"):
            status, out, err = curl(
                option, "127.0.0.1:%d" % port, "http://127.0.0.1:%d/file" % site.server_port
            )
            assert (0, "") == (status, err)
            assert big_file[1] == hashlib.sha256(out).hexdigest()
        wait_until(lambda: sum("rep='succeeded'" in line for line in minisocks.lines) == 4)

        assert 0 == minisocks.end()
    assert not any("Traceback" in line for line in minisocks.lines)
