"""``minisocks check --exits``: what is found out about hops that misbehave, and in which time."""

import gc
import socket
import threading
import time

import pytest

from kit.support import FakeTarget, black_hole, closed_port, wait_until
from minisocks import Config
from minisocks.access import Access
from minisocks.hooks import Hooks
from minisocks.net.lookup import system_getaddrinfo
from minisocks.service import exittrial
from minisocks.service.exittrial import Trial, trials

GREETS = b"\x05\x00"


def tried(*lines, getaddrinfo=system_getaddrinfo):
    """Return what is found out about the exits in *lines*; no socket is left open."""
    found = list(trials(Access.of(Config(exit=lines), Hooks()), getaddrinfo))
    gc.collect()  # which warns of one
    return found


def one(line, **how):
    """Return the same about a single exit."""
    (trial,) = tried("x = " + line, **how)
    return trial.works, trial.text


@pytest.fixture
def impatient(monkeypatch):
    """A trial takes a fifth of a second at most."""
    monkeypatch.setattr(exittrial, "TRIAL_SECONDS", 0.2)


class Hop(FakeTarget):
    """A hop that answers each message with a piece; ``heard`` has all messages."""

    def __init__(self, *pieces):
        super().__init__(self._follow)
        self.heard, self._pieces = [], pieces

    def _follow(self, talk):
        for piece in self._pieces:
            self.heard.append(talk.sock.recv(1000))
            talk.send(piece)
        self.heard.append(talk.rest())


def test_a_hop_greets_and_is_asked_for_nothing():
    """The connection ends behind the greeting; also where it comes byte by byte."""
    with Hop(GREETS) as x:
        url = "socks5h://127.0.0.1:%d" % x.port
        assert (True, url + " greets") == one(url)
    assert [b"\x05\x01\x00", b""] == x.heard


def test_a_hop_takes_the_login():
    """User and password are sent, and its answer is read."""
    with Hop(b"\x05\x02", b"\x01\x00") as x:
        url = "socks5://ann:pw@127.0.0.1:%d" % x.port
        shown = "socks5://127.0.0.1:%d" % x.port
        assert (True, shown + " greets, and takes the login of 'ann'") == one(url)
    assert b"\x01\x03ann\x02pw" == x.heard[1]


def test_a_hop_that_wants_no_password_is_told_of():
    """It may be another one than was meant."""
    with Hop(GREETS) as x:
        works, text = one("socks5://ann:pw@127.0.0.1:%d" % x.port)
    assert works
    assert text.endswith(" greets, and wants no password of 'ann'")


def test_a_hop_that_keeps_clients_apart_gets_some_login():
    """No client's; and it has to ask for one."""
    with Hop(b"\x05\x02", b"\x01\x00") as x:
        works, text = one("socks5h://127.0.0.1:%d isolate" % x.port)
    assert (True, True) == (works, text.endswith("takes a login for each client"))
    assert b"\x05\x01\x02" == x.heard[0]


def test_the_hops_of_a_chain_are_told_in_turn():
    """Here one target is both: the second hop is what the first one leads to."""
    reply = b"\x05\x00\x00\x01" + bytes(6)
    with Hop(GREETS, reply, GREETS) as x:
        first = "socks5h://127.0.0.1:%d" % x.port
        works, text = one(first + ", socks5h://far.example:99")
    assert (True, first + " greets; socks5h://far.example:99 greets") == (works, text)
    assert b"\x05\x01\x00\x03\x0bfar.example\x00\x63" == x.heard[1]
    assert b"\x05\x01\x00" == x.heard[2]


@pytest.mark.parametrize(
    "pieces, why",
    [
        ([b"\x05\xff"], "it needs a user and password (METHOD FF)"),
        ([b"HTTP/1.0 400 Bad\r\n\r\n"], "it is no SOCKS5 proxy: its answer begins with 0x48"),
        ([b"\x05\x02"], "it chose METHOD 02, which was not offered"),
    ],
)
def test_what_is_no_socks5_has_failed(pieces, why):
    """With the words that a request would get."""
    with Hop(*pieces) as x:
        url = "socks5h://127.0.0.1:%d" % x.port
        assert (False, "%s: %s" % (url, why)) == one(url)


@pytest.mark.parametrize("scheme, name", [("socks4a", "SOCKS4"), ("http", "HTTP")])
def test_others_are_reachable_and_no_more_is_known(scheme, name):
    """That is said; nothing is sent to them."""
    with Hop() as x:
        works, text = one("%s://127.0.0.1:%d" % (scheme, x.port))
        wait_until(lambda: x.heard)
    assert works
    assert "is reachable; more is not known without a target, because %s has no" % name in text
    assert [b""] == x.heard


def test_a_hop_that_is_not_there():
    """By port and by unix socket."""
    port = closed_port()
    why = "socks5h://127.0.0.1:%d cannot be reached: 127.0.0.1: Connection refused" % port
    assert (False, why) == one("socks5h://127.0.0.1:%d" % port)
    works, text = one("socks5h+unix:///no/such.sock")
    assert not works
    assert text.startswith("socks5h+unix:///no/such.sock cannot be reached: ")


@pytest.mark.usefixtures("impatient")
def test_a_silent_hop_ends_in_time():
    """One that drops packets, and one that accepts and says nothing; the others are tried."""
    with black_hole() as port, Hop() as mute, Hop(GREETS) as x:
        begin = time.monotonic()
        lines = [
            "h%d = socks5h://127.0.0.1:%d" % row for row in enumerate((port, mute.port, x.port))
        ]
        found = tried(*lines)
        seconds = time.monotonic() - begin
    url = "socks5h://127.0.0.1:%d"
    assert [
        Trial("h0", False, url % port + " cannot be reached: 127.0.0.1: no answer in time"),
        Trial("h1", False, url % mute.port + " has not answered in time"),
        Trial("h2", True, url % x.port + " greets"),
    ] == found
    assert 0.4 <= seconds < 5


@pytest.mark.usefixtures("impatient")
def test_a_hop_on_a_link_of_this_host_is_asked_of_no_other():
    """As for a connection: nothing is sent to the first one."""
    link = socket.if_indextoname(1)
    with Hop() as x:
        first = "socks5://127.0.0.1:%d" % x.port
        works, text = one("%s, socks5://[fe80::1%%25%s]:1080" % (first, link))
    assert not works
    assert text.endswith("is on a link of this host, and no other proxy can reach it")
    assert [] == x.heard


@pytest.mark.limits
def test_a_name_server_that_does_not_answer_ends_in_time():
    """Its thread is not waited for."""
    release = threading.Event()

    def hangs(*args):
        release.wait(20)
        return []

    try:
        text = "the name of a hop is not resolved: no name server has answered about hop.example"
        assert (False, text) == one("socks5h://hop.example:1", getaddrinfo=hangs)
    finally:
        release.set()


def test_names_of_hops_are_looked_up_where_the_proxy_does_it():
    """Here for the first, and behind one that takes addresses only."""
    asked = []

    def known(name, port, *args):
        asked.append(name)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    reply = b"\x05\x00\x00\x01" + bytes(6)
    line = "socks5://a.example:%d, socks5h://b.example:2, socks5h://c.example:3"
    with Hop(GREETS, reply, GREETS, reply, GREETS) as x:
        works, _text = one(line % x.port, getaddrinfo=known)
    assert (True, [b"a.example", b"b.example"]) == (works, asked)
    assert b"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x02" == x.heard[1]
    assert b"\x05\x01\x00\x03\x09c.example\x00\x03" == x.heard[3]


def test_a_direct_exit_needs_its_source():
    """No packet is sent."""
    assert (True, "direct source 127.0.0.1: this host has that") == one("direct source 127.0.0.1")
    text = "direct source 203.0.113.7: Cannot assign requested address"
    assert (False, text) == one("direct source 203.0.113.7")
    text = "direct source same: there is nothing to try without a client"
    assert (True, text) == one("direct source same")
