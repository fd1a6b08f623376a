"""BIND and UDP by proxies of others: Dante as the parent, and as hops of a chain."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess

import pytest

from kit.bind_client import Waiting
from kit.support import TIMEOUT, Talk, closed_port, run_proxy, wait_until
from kit.udp_client import Associated, UdpTarget

pytestmark = pytest.mark.others

PLACES = "/usr/sbin:/usr/local/sbin:" + os.environ.get("PATH", os.defpath)
CONFIG = """
logoutput: stderr
internal: 127.0.0.1 port = %(port)d
external: 127.0.0.1
socksmethod: none
clientmethod: none
user.privileged: %(user)s
user.unprivileged: %(user)s
client pass { from: 127.0.0.0/8 to: 0.0.0.0/0 }
socks pass { from: 0.0.0.0/0 to: 0.0.0.0/0 command: bind connect udpassociate bindreply udpreply }
"""


def answers(port):
    """Return whether a program listens at *port*."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), TIMEOUT):
        return True
    return False


@contextlib.contextmanager
def dante(folder):
    """Run Dante; return its port."""
    path = shutil.which("danted", path=PLACES)
    if path is None:
        pytest.skip("danted is not installed")
    port = closed_port()
    config = folder.join("danted-%d.conf" % port)
    user = pwd.getpwuid(os.getuid()).pw_name
    config.write(CONFIG % {"port": port, "user": user})
    with open(str(folder.join("danted-%d.log" % port)), "wb") as log:
        process = subprocess.Popen([path, "-f", str(config)], stdout=log, stderr=log)
        try:
            wait_until(lambda: process.poll() is None and answers(port), "Dante")
            yield port
        finally:
            process.terminate()
            process.wait(TIMEOUT)


@contextlib.contextmanager
def proxy_by(folder, scheme, hops):
    """A proxy whose clients leave by so many Dantes."""
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(dante(folder)) for _ in range(hops)]
        urls = ", ".join("%s://127.0.0.1:%d" % (scheme, port) for port in ports)
        yield stack.enter_context(run_proxy(exit=["far = " + urls], rule=["allow via far"]))


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_udp(scheme, hops, tmpdir):
    """Datagrams there and back, by address and by name."""
    with proxy_by(tmpdir, scheme, hops) as proxy, UdpTarget() as target:
        with Associated(proxy.port) as client:
            for _ in range(3):
                client.expect_to_work(target)
            client.send(b"localhost", target.port, b"by name")
            target.expect(b"by name").answer(b"answer")
            client.expect(target, b"answer")


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("scheme", ["socks5", "socks4"])
@pytest.mark.parametrize("way", ["4", "5"])
def test_bind(way, scheme, hops, tmpdir):
    """Dante listens; its two replies reach the client."""
    with proxy_by(tmpdir, scheme, hops) as proxy, Waiting(proxy.port, way=way) as client:
        assert (client.granted, "127.0.0.1") == (client.rep, client.host)
        with Talk(socket.create_connection(client.place, TIMEOUT)) as peer:
            client.expect_peer(peer)
            client.expect_to_work(peer)
