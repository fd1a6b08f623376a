"""Proxies of others as the next hop: how each is started, and what it says.

Three hosts in a row.  The one in the middle has the parents, and no packet passes it but through
them: it does not forward.  A second parent of a chain is on the last host.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from typing import NamedTuple

import pytest

from kit import hosts
from kit.name_server import AAAA, A, name_server_at
from kit.namespace import family_of
from kit.support import wait_until

OURS4, OURS6 = "10.0.1.1", "fd00:1::1"
MIDDLE4, MIDDLE6 = "10.0.1.2", "fd00:1::2"
BEYOND4, BEYOND6 = "10.0.2.1", "fd00:2::1"
TARGET4, TARGET6 = "10.0.2.2", "fd00:2::2"
#: On the last host, too, and not even the one in the middle has a route to it.
FAR4 = "10.0.3.3"
#: What the name servers of the two other hosts know, each with one address; ours knows nothing.
NAMES = {"four.example": TARGET4, "six.example": TARGET6, "far.example": FAR4}

USER, PASSWORD = "ann", "secret"
#: Of the password, as crypt(3) makes it with the salt "minisocks".
_CRYPTED = (
    "$6$minisocks$366MWwAE4wa3Om/WRLg31tXbBh9zqzlEaORzTXRwUPWGhfHWstXaawxOlCnbuMe2f"
    "Q37joxcarX.HkRx6ucIC1"
)

_DANTED = """\
logoutput: /dev/null
internal: {host} port = {port}
external: {out}
socksmethod: {method}
clientmethod: none
user.privileged: root
user.unprivileged: root
client pass {{ from: 0/0 to: 0/0 }}
socks pass {{ from: 0/0 to: 0/0 }}
"""

_TINYPROXY = """\
Listen {host}
Port {port}
Timeout 60
"""

_SQUID = """\
http_port {host}:{port}
cache deny all
cache_mem 8 MB
max_filedescriptors 1024
access_log none
cache_log /dev/null
pid_filename none
shutdown_lifetime 0 seconds
pinger_enable off
dns_nameservers 127.0.0.1
"""

_SSHD = """\
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
StrictModes no
UsePAM no
PidFile none
ListenAddress {host}:2222
PasswordAuthentication no
"""

_HAPROXY = """\
defaults
    mode tcp
    timeout connect 20s
    timeout client 60s
    timeout server 60s
listen web
    bind 127.0.0.1:{port}
    server x {target} socks4 127.0.0.1:{proxy}
"""


def program(name):
    """Return the path of a program; skips the test without it."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")
    if path is None:
        pytest.skip("no %s on this machine" % name)
    return path


def needs_root(name):
    """Skip the test unless this is root, which the program *name* needs to be."""
    if os.getuid():
        pytest.skip("only root can start %s" % name)


class Network:
    """The three hosts, with a name server on each; see the top of this file."""

    def __init__(self, made, stack):
        self.proxy, self.parent, self.target = made.proxy, made.parent, made.target
        made.cable(
            ("proxy", OURS4 + "/24", OURS6 + "/64"), ("parent", MIDDLE4 + "/24", MIDDLE6 + "/64")
        )
        made.cable(
            ("parent", BEYOND4 + "/24", BEYOND6 + "/64"),
            ("target", TARGET4 + "/24", TARGET6 + "/64"),
        )
        self.target.ip("addr add %s dev lo" % FAR4)
        self.proxy.ask_names_of("127.0.0.1")
        if not os.getuid():
            self.proxy.cover("/etc/passwd", _with_user("/etc/passwd", "x:1000:1000::/:/bin/sh"))
            self.proxy.cover("/etc/shadow", _with_user("/etc/shadow", _CRYPTED + ":1::::::"))
        ours, *others = [
            stack.enter_context(name_server_at(host, "127.0.0.1", records))
            for host, records in (
                (self.proxy, lambda name, kind: None),
                (self.parent, _records),
                (self.target, _records),
            )
        ]
        #: What was looked up on the proxy's host, and so has left it.
        self.looked_up = ours.asked
        self.looked_up_elsewhere = [other.asked for other in others]

    def listens(self, host, port):
        """Return when a program listens there, at an address that the proxy's host reaches."""

        def is_there():
            with self.proxy.socket(family_of(host)) as sock:
                return not sock.connect_ex((host, port))

        wait_until(is_there, "a listener at port %d" % port)

    @contextlib.contextmanager
    def without_look_ups(self):
        """Demand that no look-up leaves the proxy's host, and that the proxy logs no bug."""
        self.proxy.logged()
        yield
        wait_until(lambda: self.proxy.connections() == 0, "the end of all connections")
        assert [] == self.proxy.bugs()
        assert [] == self.looked_up
        assert [] == self.proxy.asked()


def _with_user(path, rest):
    with open(path) as file:
        return "%s%s:%s\n" % (file.read(), USER, rest)


def _records(name, kind):
    address = NAMES.get(name)
    if address is None:
        return None
    is_kind = kind == (AAAA if ":" in address else A)
    return [socket.inet_pton(family_of(address), address)] * is_kind


@contextlib.contextmanager
def made_for_tests():
    """The network while this lasts; skips the tests where there can be none."""
    made_hosts = hosts.made_for_tests(
        "proxy", "parent", "target", has_users=not os.getuid(), own_files=True
    )
    with made_hosts as made:
        with contextlib.ExitStack() as stack:
            with hosts.or_skip():
                network = Network(made, stack)
            yield network


@contextlib.contextmanager
def folder_for_all():
    """A folder that programs can read which give up being root."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # noqa: S103  # nothing in it is secret
        yield folder


def written(folder, name, text):
    """Write *text* to a file that every user may read; return its path."""
    path = os.path.join(folder, name)
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, 0o644)
    return path


class Place(NamedTuple):
    """Where a parent listens, and the interface that its connections leave by."""

    host: hosts.Host
    address: str
    port: int
    out: str


@contextlib.contextmanager
def microsocks(network, place, login):
    """The one of small routers."""
    options = ["-i", place.address, "-p", str(place.port)]
    options += ["-u", USER, "-P", PASSWORD] if login else []
    with place.host.running(program("microsocks"), *options):
        yield


@contextlib.contextmanager
def dante(network, place, login):
    """Its users are those of its host."""
    needs_root("danted")
    text = _DANTED.format(
        host=place.address,
        port=place.port,
        out=place.out,
        method="username" if login else "none",
    )
    with folder_for_all() as folder:
        config = written(folder, "danted.conf", text)
        with place.host.running(program("danted"), "-f", config):
            yield


@contextlib.contextmanager
def tinyproxy(network, place, login):
    """A small proxy of HTTP."""
    text = _TINYPROXY.format(host=place.address, port=place.port)
    text += "BasicAuth %s %s\n" % (USER, PASSWORD) if login else ""
    with folder_for_all() as folder:
        with place.host.running(
            program("tinyproxy"), "-d", "-c", written(folder, "tinyproxy.conf", text)
        ):
            yield


@contextlib.contextmanager
def squid(network, place, login):
    """A large one."""
    needs_root("squid")
    with folder_for_all() as folder:
        text = _SQUID.format(host=place.address, port=place.port)
        if login:
            helper = "/usr/lib/squid/basic_ncsa_auth"
            if not os.path.exists(helper):
                pytest.skip("no %s on this machine" % helper)
            users = written(folder, "users", "%s:%s\n" % (USER, _CRYPTED))
            text += "auth_param basic program %s %s\n" % (helper, users)
            text += "auth_param basic children 1\nacl known proxy_auth REQUIRED\n"
            text += "http_access allow known\nhttp_access deny all\n"
        else:
            text += "http_access allow all\n"
        config = written(folder, "squid.conf", text)
        with place.host.running(program("squid"), "-N", "-f", config):
            yield


@contextlib.contextmanager
def ssh(network, place, login):
    """A server of ssh in the middle; its client, on the proxy's host, is the parent."""
    needs_root("sshd")
    if not os.path.isdir("/run/sshd"):
        pytest.skip("sshd wants the folder /run/sshd")
    with folder_for_all() as folder:
        for name in ("host", "user"):
            path = os.path.join(folder, name)
            subprocess.check_call(
                [program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", path]
            )
        config = written(folder, "sshd_config", _SSHD.format(folder=folder, host=MIDDLE4))
        options = ["IdentityFile=%s/user" % folder, "IdentitiesOnly=yes", "BatchMode=yes"]
        options += ["StrictHostKeyChecking=no", "UserKnownHostsFile=%s/known" % folder]
        options += ["Port=2222", "ConnectionAttempts=20", "ExitOnForwardFailure=yes"]
        command = [program("ssh"), "-N", "-F", "none"]
        command += [word for option in options for word in ("-o", option)]
        command += ["-D", "%s:%d" % (place.address, place.port), MIDDLE4]
        with network.parent.running(program("sshd"), "-D", "-e", "-f", config):
            with place.host.running(*command):
                yield


@contextlib.contextmanager
def minisocks(network, place, login):
    """Another proxy of this project."""
    users = ["%s:%s" % (USER, PASSWORD)] if login else []
    listen = ["%s:%d" % (place.address, place.port)]
    rules = ["allow from private to self", "allow"]
    place.host.new_proxy(listen=listen, user=users, rule=rules)
    yield


@contextlib.contextmanager
def haproxy(network, port, target, proxy):
    """HAProxy on the proxy's host, which reaches its server by the proxy."""
    text = _HAPROXY.format(port=port, target=target, proxy=proxy)
    with folder_for_all() as folder:
        config = written(folder, "haproxy.cfg", text)
        with network.proxy.running(program("haproxy"), "-db", "-f", config):
            network.listens("127.0.0.1", port)
            yield


@contextlib.contextmanager
def tor(network, port):
    """Tor on the proxy's host: without a network it answers that it cannot reach anything."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--quiet", "-f", os.path.join(folder, "none"), "--ignore-missing-torrc"]
        options += ["--DataDirectory", folder, "--SocksPort", "127.0.0.1:%d" % port]
        options += ["--SocksTimeout", "2"]
        with network.proxy.running(program("tor"), *options):
            network.listens("127.0.0.1", port)
            yield
