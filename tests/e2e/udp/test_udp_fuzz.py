"""Any datagrams at a relay port, from any sender: a good one is still relayed after them."""

import contextlib
import threading

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from kit import inside
from kit.support import TIMEOUT, log_kept, open_descriptors, wait_until
from kit.udp_client import (
    Associated,
    UdpTarget,
    assert_remembers_nothing,
    header,
    in_loop,
    udp_socket,
)
from minisocks import Proxy

V4, V6 = "127.0.0.1", "::1"
STRANGER = "127.0.0.99"

#: Names that the program knows, one that it does not, and one that takes its time.
NAMES = {"a.test": [V4], "b.test": [V6, V4], "denied.test": ["127.0.0.7"], "nowhere.test": []}

#: Only these targets are there: what is fuzzed goes nowhere but to this host.
RULES = (
    "deny to 127.0.0.7",
    "allow to loopback",
    "allow to .test",
    "allow to 0.0.0.0/8 ::",
    "deny",
)


def everything(sock, target=None):
    """Return all that is there; *target* remembers the last datagram."""
    found = []
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            data, source = sock.recvfrom(65536)
            found.append(data)
            if target is not None:
                target.source = source
    sock.settimeout(TIMEOUT)
    return found


class Scene:
    """A proxy, a target of each family, and a stranger; each example has its own association."""

    def __init__(self, stack, **settings):
        self.slow = threading.Event()
        self.slow.set()
        self.lines = stack.enter_context(log_kept("minisocks")).lines
        self.proxy = stack.enter_context(
            Proxy(listen="127.0.0.1:0", rule=RULES, resolve=self._resolve, **settings)
        )
        self.target = stack.enter_context(UdpTarget())
        self.target6 = stack.enter_context(UdpTarget(V6))
        self.stranger = stack.enter_context(udp_socket(STRANGER))
        with Associated(self.proxy.port) as client:  # what is done once is done by now
            client.send(b"a.test", self.target.port, b"x")
            self.target.expect(b"x")
        self.wait_for_end()
        self.descriptors = open_descriptors()

    def _resolve(self, name):
        if name.startswith("slow"):
            assert self.slow.wait(TIMEOUT)
            return [V4]
        return NAMES.get(name, [])

    def wait_for_end(self):
        """Return when nothing is left of any association."""
        exchange = self.proxy.services.associations
        wait_until(lambda: len(self.proxy) == 0, "its end")
        state = in_loop(self.proxy, lambda: [exchange.held, exchange.targets, len(exchange)])
        assert [0, 0, 0] == state
        assert_remembers_nothing(exchange)
        services = self.proxy.services
        left = in_loop(
            self.proxy, lambda: services.loop.pipes.pending_bytes - services.answers.bytes
        )
        assert 0 == left

    def expect_to_work(self, client):
        """Have data go there and back; others may come before it, or have filled a queue."""
        for target in (self.target, self.target6):
            wait_until(lambda target=target: self._echoes(client, target), "an echo")

    def _echoes(self, client, target):
        client.send_to(target, b"does it work?")
        self._pass_on()
        if b"does it work?" not in everything(target.sock, target):
            return False
        target.answer(b"it works")
        self._pass_on()
        return header(target.host, target.port) + b"it works" in everything(client.sock)

    def _pass_on(self):
        """Let the loop make a round."""
        for _ in range(2):
            in_loop(self.proxy, lambda: True)

    def check(self, client):
        """Demand that all is well, with *client* and after its end."""
        self.slow.set()
        self.expect_to_work(client)
        client.close()
        self.wait_for_end()
        wait_until(lambda: open_descriptors() <= self.descriptors, "the descriptors back")
        for target in (self.target, self.target6):
            everything(target.sock)
        assert [] == [line for line in self.lines if "failed" in line or "Traceback" in line]


@pytest.fixture(scope="module", params=[None, 10**8], ids=["plain", "rated"])
def scene(request):
    """What all examples share."""
    with contextlib.ExitStack() as stack:
        yield Scene(stack, rate=request.param)


_FUZZ = hypothesis_settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)

#: What may be in front of data: as it should be, cut off, or with other values in it.
_PLACES = st.sampled_from(
    [V4, V6, "127.0.0.7", "0.0.0.0", "::", "::ffff:127.0.0.1", "224.0.0.1", "255.255.255.255",
     "192.0.2.1", b"a.test", b"b.test", b"denied.test", b"nowhere.test", b"slow.test",
     b"slow2.test", b"A.TEST.", b"127.1", b"", b"\0", b"a..test", b"x" * 255, b"\xff"],
)  # fmt: skip
_DATA = st.one_of(st.binary(max_size=40), st.integers(0, 65000).map(bytes))


@st.composite
def _datagrams(draw):
    """Return a function of a port to a datagram that may be good."""
    if draw(st.booleans()) and draw(st.booleans()):
        raw = draw(st.binary(max_size=300))
        return lambda port: raw
    host, data = draw(_PLACES), draw(_DATA)
    frag = draw(st.one_of(st.just(0), st.integers(0, 255), st.sampled_from([1, 2, 0x82, 0x83])))
    rsv = draw(st.sampled_from([b"\0\0", b"\xff\xff"]))
    own = draw(st.sampled_from([True, True, True, False]))
    cut = draw(st.sampled_from([None, None, None, 3, 4, 9, 10, 12]))
    return lambda port: (rsv + header(host, port if own else 0, frag)[2:] + data)[:cut]


@_FUZZ
@given(st.lists(st.binary(max_size=70), max_size=20), st.lists(st.binary(max_size=70), max_size=5))
def test_any_bytes_do_no_harm(scene, data, strange):
    """At the relay port, by the client and by a stranger, before and after its first datagram."""
    with Associated(scene.proxy.port) as client:
        for each in strange:
            scene.stranger.sendto(each, client.place)
        for each in data:
            client.send_raw(each)
        for each in strange:
            scene.stranger.sendto(each, client.place)
        scene.check(client)


@_FUZZ
@given(st.lists(_datagrams(), max_size=20))
def test_any_header_does_no_harm(scene, datagrams):
    """Every kind of address, fragments in any order, names that are slow, what is cut off."""
    scene.slow.clear()
    with Associated(scene.proxy.port) as client:
        for datagram in datagrams:
            client.send_raw(datagram(scene.target.port))
        scene.check(client)


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), _datagrams()),
        st.tuples(st.just("stranger"), _datagrams()),
        st.tuples(st.just("answer"), st.tuples(st.booleans(), _DATA)),
        st.tuples(st.just("unasked"), _DATA),
        st.tuples(st.just("control"), st.binary(min_size=1, max_size=50)),
        st.tuples(st.just("reload"), st.sampled_from([RULES, RULES[:2]])),
        st.tuples(st.just("forget"), st.none()),
        st.tuples(st.just("names"), st.booleans()),
        st.tuples(st.just("works"), st.none()),
        st.tuples(st.just("another"), _datagrams()),
    ),
    max_size=25,
)


def _reload(scene, rules):
    scene.proxy.reload(scene.proxy.config._replace(rule=rules))


def _forget(scene):
    """Have all targets forgotten, as silent ones are."""
    exchange = scene.proxy.services.associations
    in_loop(scene.proxy, lambda: [job.free_targets() for job in inside.shares(exchange)[0].items()])


def _step(scene, client, others, what, value):
    port = scene.target.port
    if what == "send":
        client.send_raw(value(port))
    elif what == "stranger":
        scene.stranger.sendto(value(port), client.place)
    elif what == "answer":
        target = scene.target6 if value[0] else scene.target
        if target.source is not None and target.source[1]:
            target.answer(value[1])
    elif what == "unasked":
        if scene.target.source is not None:
            scene.stranger.sendto(value, (V4, scene.target.source[1]))
    elif what == "control":
        client.talk.send(value)
    elif what == "reload":
        _reload(scene, value)
    elif what == "forget":
        _forget(scene)
    elif what == "names":
        (scene.slow.set if value else scene.slow.clear)()
    elif what == "works":
        scene.expect_to_work(client)
    else:
        others.append(Associated(scene.proxy.port))
        others[-1].send_raw(value(port))


@_FUZZ
@given(_STEPS)
def test_any_sequence_of_events_does_no_harm(scene, steps):
    """Datagrams, answers, strangers, bytes by TCP, reloads, silence, other associations."""
    others = []
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(Associated(scene.proxy.port))
        scene.target.source = scene.target6.source = None
        for what, value in steps:
            _step(scene, client, others, what, value)
        for other in others:
            other.close()
        scene.check(client)
