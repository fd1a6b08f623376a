"""What an attack can write to the log: a real one, between two hosts."""

import re
import socket
import sys
import time

import pytest

from kit import hosts
from kit.namespace import CannotMake
from kit.support import Talk, socks4a, wait_until
from minisocks.service import repeats

PROXY, PROXY4, ATTACKER, CALM = "2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2"
#: The attacker's provider has given it a /48.
NETWORK = "2001:db8:bad::/48"
CLIENTS = 1500
PORT = 1080
IPV6_FREEBIND = 78


@pytest.fixture(scope="module")
def made():
    """A proxy's host, and one that has a whole /48 besides."""
    with hosts.made_for_tests("proxy", "attacker") as made:
        try:
            made.cable(
                ("proxy", PROXY + "/64", PROXY4 + "/24"),
                ("attacker", ATTACKER + "/64", CALM + "/24"),
            )
            made.proxy.ip("route add %s via %s" % (NETWORK, ATTACKER))
            made.attacker.ip("route add local %s dev lo" % NETWORK)
        except CannotMake as exc:
            pytest.skip(str(exc))
        yield made


def client(host, source):
    """Return a connection to the proxy from *source*, which the host need not have."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    sock = host.socket(family)
    sock.settimeout(20)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
    sock.bind((source, 0))
    sock.connect((PROXY if family == socket.AF_INET6 else PROXY4, PORT))
    return sock


def refuse(host, source, name):
    """Have a client ask for *name*, with the longest USERID, and be refused."""
    with Talk(client(host, source)) as talk:
        talk.send(socks4a(name, 80, b"\xff" * 255)).rest()


def test_a_flood_of_refusals_writes_little_and_hides_no_client(made, tmp_path):
    """Each client is of another /64 of a /48: below 10 KB a second, and each refusal counts."""
    log = tmp_path / "log"
    command = (sys.executable, "-m", "minisocks", "-l", ":%d" % PORT, "--log-file", str(log))
    with made.proxy.running(*command):
        wait_until(lambda: log.exists() and "try it" in log.read_text(), "the proxy")
        with client(made.attacker, ATTACKER):
            pass  # the hosts know each other's link-layer addresses from now on
        began, size = time.monotonic(), log.stat().st_size
        for n in range(CLIENTS):
            refuse(made.attacker, "2001:db8:bad:%x::%x" % (n, n), b"\x01" * 240)
        refuse(made.attacker, CALM, b"calm.example")
        # One more window: the burst is what a flood may write at once.
        seconds = max(10.0, time.monotonic() - began)
        wait_until(lambda: "calm.example" in log.read_text(), "the calm client's line")
        written = log.stat().st_size - size
    assert written < 10000 * seconds

    lines = [line for line in log.read_text().splitlines() if "minisocks.access" in line]
    single = [line for line in lines if "id=" in line and "last message" not in line]
    assert len(single) <= repeats.REFUSAL_BURST + repeats.REFUSALS_PER_SECOND * (seconds + 1) + 2
    assert 1 == len([line for line in single if CALM in line])
    text = "\n".join(lines)
    folded = re.findall("last message ([0-9]+) times", text)
    skipped = re.findall("([0-9]+) more refusals, too many to write", text)
    assert CLIENTS + 1 == len(single) + sum(map(int, folded + skipped))
    assert max(map(len, lines)) < 1500
