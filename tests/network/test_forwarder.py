"""The page "behind a forwarder", with the programs that it is about.

Three parties: a client on another host, the forwarder, and a proxy beside the forwarder that
listens on loopback.  Each forwarder is started as the page says.
"""

import contextlib
import os
import shutil
import subprocess
import sys

import pytest

from kit import hosts
from kit import namespace as net
from kit.elsewhere import HERE4, Everywhere, Network
from kit.pages import blocks
from kit.support import GREETING, TIMEOUT, Talk, failure5, password_message, socks5, wait_until

#: Where the page has the proxy, and the forwarder.
PROXY, FORWARDER = 1080, 1090
USERS = ["ann:secret"]

#: A forwarder of the tests' own, for machines that have none of the others.
PLAIN = """
import socket, sys, threading

def copy(one, other):
    try:
        while True:
            data = one.recv(65536)
            if not data:
                break
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)
    except OSError:
        pass

listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("0.0.0.0", int(sys.argv[1])))
listener.listen(16)
while True:
    client, _ = listener.accept()
    server = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
    for pair in ((client, server), (server, client)):
        threading.Thread(target=copy, args=pair, daemon=True).start()
"""


@pytest.fixture(scope="module")
def network():
    """The proxies' host, and the clients'; as root sshd needs this machine's users."""
    made = hosts.made_for_tests("proxy", "elsewhere", has_users=os.getuid() == 0)
    with made as both, hosts.or_skip():
        yield Network(both)


@pytest.fixture(scope="module")
def listening(network):
    """A proxy where the page has it."""
    where = ["127.0.0.1:%d" % PROXY]
    network.host.new_proxy(listen=where, forwarded=where, user=USERS)


@pytest.fixture
def target(here, listening):
    """What must be reached, or not."""
    with Everywhere(here) as running:
        yield running


def program(name):
    """Return the path of a program; skip the test without it."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")
    if path is None:
        pytest.skip("no %s on this machine" % name)
    return path


def of_page(start):
    """Return the block of the page that begins so."""
    (found,) = [block.text for block in blocks("forwarder") if block.text.startswith(start)]
    return found


def written(path, text):
    """Write *text* to *path*, and return that as text."""
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


@contextlib.contextmanager
def plain(here, folder):
    """The forwarder of the tests themselves."""
    with here.host.running(sys.executable, "-c", PLAIN, str(FORWARDER), str(PROXY)):
        yield HERE4


@contextlib.contextmanager
def socat(here, folder):
    """A program that many use to forward a port: it has a process for each client."""
    listen = "TCP-LISTEN:%d,fork,reuseaddr" % FORWARDER
    with here.host.running(program("socat"), listen, "TCP:127.0.0.1:%d" % PROXY):
        yield HERE4


@contextlib.contextmanager
def haproxy(here, folder):
    """HAProxy, as on the page."""
    config = written(folder / "haproxy.cfg", of_page("listen socks"))
    with here.host.running(program("haproxy"), "-db", "-f", config):
        yield HERE4


@contextlib.contextmanager
def stunnel(here, folder):
    """stunnel, as on the page; the client's end is on the client's host."""
    path = program("stunnel")
    secret = written(folder / "psk.txt", "client:%s\n" % ("k" * 32))
    ends = []
    for start in ("[socks]\naccept", "[socks]\nclient"):
        text = of_page(start).replace("/etc/stunnel/psk.txt", secret).replace("PROXY", HERE4)
        text = "foreground = yes\npid =\nsyslog = no\n" + text
        ends.append(written(folder / ("stunnel%d.conf" % len(ends)), text))
    with here.host.running(path, ends[0]), here.elsewhere.running(path, ends[1]):
        yield net.LOOPBACK4


@contextlib.contextmanager
def ssh(here, folder):
    """ssh, as on the page: the client's host is the gateway."""
    sshd, keygen = program("sshd"), program("ssh-keygen")
    if os.getuid() == 0 and not os.path.isdir("/run/sshd"):
        pytest.skip("sshd started by root wants the folder /run/sshd")
    for name in ("host", "user"):
        subprocess.check_call([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)])
    lines = ["HostKey {0}/host", "AuthorizedKeysFile {0}/user.pub", "StrictModes no", "UsePAM no"]
    lines += ["PidFile none", "Port 2222", "PasswordAuthentication no"]
    lines += ["GatewayPorts clientspecified"]
    config = written(folder / "sshd_config", "\n".join(lines).format(folder) + "\n")
    command = of_page("ssh ").replace("USER@GATEWAY", net.PUBLIC4).replace("'", "").split()
    command[0] = program("ssh")
    options = ["IdentityFile=%s" % (folder / "user"), "IdentitiesOnly=yes", "BatchMode=yes"]
    options += ["StrictHostKeyChecking=no", "UserKnownHostsFile=%s" % (folder / "known")]
    options += ["Port=2222", "ConnectionAttempts=20", "ExitOnForwardFailure=yes"]
    command[1:1] = [word for option in options for word in ("-o", option)]
    with here.elsewhere.running(sshd, "-D", "-e", "-f", config), here.host.running(*command):
        yield net.PUBLIC4


@contextlib.contextmanager
def container(here, folder):
    """docker-proxy, by which Docker publishes a port unless it leaves that to the kernel."""
    command = [program("docker-proxy"), "-proto", "tcp", "-host-ip", "0.0.0.0"]
    command += ["-host-port", str(FORWARDER), "-container-ip", "127.0.0.1"]
    # It tells its parent by descriptor 3 that it listens.
    shell = 'exec "$@" 3>/dev/null'
    command += ["-container-port", str(PROXY)]
    with here.host.running("sh", "-c", shell, "sh", *command):
        yield HERE4


FORWARDERS = [plain, socat, haproxy, stunnel, ssh, container]


@pytest.fixture(params=FORWARDERS, ids=lambda one: one.__name__)
def connect(request, here, listening, tmp_path):
    """Return what makes a connection from the other host, through a running forwarder."""
    with request.param(here, tmp_path) as host:

        def connected():
            sock = here.elsewhere.socket(net.family_of(host))
            try:
                sock.settimeout(TIMEOUT)
                sock.connect((host, FORWARDER))
                return Talk(sock)
            except BaseException:
                sock.close()
                raise

        def is_there():
            """Return whether the way to the proxy is there."""
            try:
                with connected() as talk:
                    return talk.send(b"\5\1\2").receive(2) == b"\5\2"
            except OSError:
                return False

        wait_until(is_there, "the forwarder")
        yield connected


def test_a_client_elsewhere_is_a_stranger(connect, here, target):
    """It needs a password, reaches the Internet with one, and nothing of the proxy's host."""
    with connect() as talk:
        talk.send(GREETING).expect(b"\5\xff")
    for host, expected in ((net.PUBLIC4, 0), (net.LOOPBACK4, 2), (HERE4, 2), (net.PRIVATE4, 2)):
        with connect() as talk:
            talk.send(b"\5\1\2").expect(b"\5\2")
            talk.send(password_message(b"ann", b"secret")).expect(b"\1\0")
            talk.send(socks5(host, target.port))
            if expected:
                talk.expect(failure5(expected))
            else:
                assert 0 == talk.receive_reply5()[0]
    assert [net.PUBLIC4] == target.reached()
    assert any("client=forwarder:" in line for line in here.refusals())
