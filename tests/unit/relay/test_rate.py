"""``--rate``: what a client gets, shared by its connections, counted by the byte."""

import contextlib
import os
import threading
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import minisocks.relay.rate
from kit import inside
from kit.relaying import ENDS
from kit.support import FakeTarget, Talk, run_proxy, says, wait_until
from minisocks.net.loop import Loop
from minisocks.relay.pair import Pair
from minisocks.relay.rate import Bucket, Rates

MB = 1 << 20


class Clock:
    """Stands still until a test moves it; exact."""

    def __init__(self):
        self.ms = 0

    def __call__(self):
        return Fraction(self.ms, 1000)


class Model:
    """A bucket that adds the tokens of each millisecond when it comes."""

    def __init__(self, rate):
        self.rate = rate
        self.depth = max(2048, rate / 10)
        self.turn = min(self.depth / 2, max(512, rate / 50))
        self.tokens = self.depth

    def tick(self):
        self.tokens = min(self.depth, self.tokens + self.rate // 1000)

    def available(self):
        return int(self.tokens) if self.tokens >= self.turn else 0


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(0, 300)),
        st.tuples(st.just("read"), st.integers(1, 70000)),
        st.tuples(st.just("debt"), st.integers(1, 70000)),
    ),
    max_size=30,
)


@hypothesis_settings(deadline=None)
@given(st.sampled_from([1000, 10000, 100000, 10**6, 10**7, 10**8]), _STEPS)
def test_a_bucket_is_what_counting_each_millisecond_gives(rate, steps):
    """After any waiting, reading and debt, it has as many tokens as the model."""
    clock, model = Clock(), Model(rate)
    bucket = Bucket(rate, clock)
    for what, amount in steps:
        if what == "wait":
            clock.ms += amount
            for _ in range(amount):
                model.tick()
        else:
            spent = amount if what == "debt" else min(amount, model.available())
            bucket.spend(spent)
            model.tokens -= spent
        assert model.available() == bucket.available()
        if not bucket.available():
            assert abs(float(bucket.wait_seconds()) - (model.turn - model.tokens) / rate) < 1e-9


@pytest.mark.parametrize("rate", [10000, 10**6, 10**8])
@pytest.mark.parametrize("late", [1, 7, 40])
def test_a_bucket_that_is_asked_late_gives_its_rate_all_the_same(rate, late):
    """Over ten seconds within 5 %, though the loop looks only so many milliseconds too late."""
    clock = Clock()
    bucket, total = Bucket(rate, clock), 0
    while clock.ms < 10000:
        size = bucket.available()
        while size:
            size = min(size, 65536)
            bucket.spend(size)
            total += size
            size = bucket.available()
        clock.ms += late + int(1000 * bucket.wait_seconds())
    assert 0.95 < total / (rate * clock.ms / 1000) < 1.05


def test_a_bucket_that_changes_keeps_its_debt():
    """Another rate is for what comes, not for what was taken."""
    clock = Clock()
    bucket = Bucket(10000, clock)
    bucket.spend(2048 + 1000)
    bucket.change(1000)
    clock.ms += 1000
    assert 0 == bucket.available()
    clock.ms += 600
    assert 600 == bucket.available()


# In a loop


@pytest.fixture
def loop():
    """A loop whose pairs have 1 MB a second for each client."""
    running = Loop()
    running.rates, running.rate = Rates(running), 10**6
    running.start()
    yield running
    running.stop()


def lanes(loop):
    """Return both directions of the one client."""
    (throttle,) = inside.throttles(loop.rates)
    return throttle.up, throttle.down


def dry(loop, monkeypatch):
    """Have no token come any more, and none be left."""
    monkeypatch.setattr(minisocks.relay.rate.Bucket, "available", lambda self: 0)
    monkeypatch.setattr(minisocks.relay.rate.Bucket, "wait_seconds", lambda self: 3600.0)


@pytest.mark.parametrize("first", ENDS)
def test_without_tokens_nothing_is_read_and_no_thread_spins(relayed, loop, monkeypatch, first):
    """What is sent stays with its sender's kernel; the loop sleeps."""
    pair = relayed()
    one, other = pair.ends(first)
    one.send(b"x")
    other.expect(b"x")
    dry(loop, monkeypatch)
    one.send(b"y" * 1000)
    budget = pair.flow(first).budget
    wait_until(lambda: budget.waits)
    assert pair.count_rounds() < 10
    assert (1, 0) == (pair.record.up + pair.record.down, pair.pair.held)
    monkeypatch.undo()
    loop.call_soon(pair.pair, lambda: setattr(budget, "waits", False) or pair.pair.read_on(budget))
    other.expect(b"y" * 1000)


@pytest.mark.limits
@pytest.mark.parametrize("first", ENDS)
@pytest.mark.parametrize("leave", [Talk.reset, Talk.close])
def test_an_end_that_goes_while_it_waits_for_tokens_is_noticed(
    relayed, loop, monkeypatch, first, leave
):
    """A reset ends the pair also when nothing may be read; its last bytes come in order."""
    pair = relayed()
    one, other = pair.ends(first)
    one.send(b"x")
    other.expect(b"x")
    dry(loop, monkeypatch)
    one.send(b"last words")
    budget = pair.flow(first).budget
    wait_until(lambda: budget.waits)
    leave(one)
    assert pair.count_rounds() < 10
    other.send(b"answer")  # to an end that is gone
    other.reset()
    monkeypatch.undo()
    loop.call_soon(pair.pair, lambda: setattr(budget, "waits", False) or pair.pair.read_on(budget))
    pair.wait_closed()
    wait_until(lambda: not loop.rates)


@pytest.mark.parametrize("first", ENDS)
def test_connections_of_one_client_alternate(relayed, loop, first):
    """Two that send all they can get the same, to within some reads."""
    pairs = [relayed() for _ in range(2)]
    stop = threading.Event()

    def pour(talk):
        with contextlib.suppress(OSError):
            while not stop.is_set():
                talk.send(bytes(65536))

    def swallow(talk):
        with contextlib.suppress(OSError):
            while talk.sock.recv(65536):
                pass

    def counts():
        return [pair.record.up + pair.record.down for pair in pairs]

    ends = [pair.ends(first) for pair in pairs]
    threads = [threading.Thread(target=pour, args=(one,)) for one, _ in ends]
    threads += [threading.Thread(target=swallow, args=(other,)) for _, other in ends]
    for thread in threads:
        thread.start()
    try:
        # From then on: a thread that begins late leaves all tokens to the other connection.
        wait_until(lambda: all(counts()))
        before = counts()
        wait_until(lambda: sum(counts()) > sum(before) + MB)
        got = [now - then for now, then in zip(counts(), before)]
    finally:
        stop.set()
        loop.stop()
        for thread in threads:
            thread.join()
    print(got)
    assert max(got) - min(got) < MB / 4


def test_directions_and_clients_do_not_share(relayed, loop):
    """What goes up costs nothing of what goes down."""
    pair = relayed()
    pair.client.send(b"x" * 1000)
    pair.target.expect(b"x" * 1000)
    up, down = lanes(loop)
    wait_until(lambda: inside.tokens(up.bucket) < inside.depth(up.bucket))
    assert inside.tokens(down.bucket) == inside.depth(down.bucket)
    assert up.bucket is not down.bucket


def test_early_bytes_wait_for_tokens(relayed, loop):
    """What came behind the request is no faster than the rest, and comes before it."""
    early = os.urandom(400000)
    began = time.monotonic()
    pair = relayed(early=early)
    pair.target.expect(early)
    up, _down = lanes(loop)
    # A depth at once, and the rest as fast as tokens come.
    assert time.monotonic() - began >= (400000 - 2 * inside.depth(up.bucket)) / MB
    assert inside.tokens(up.bucket) >= 0
    pair.client.send(b"more").finish()
    pair.target.expect(b"more").expect_eof()


def test_one_connection_after_the_other_is_no_faster(relayed, loop):
    """The bucket is not full again because its last pair has ended."""
    first = relayed()
    first.client.send(b"x" * 90000)
    first.target.expect(b"x" * 90000)
    throttle = inside.throttles(loop.rates)[0]
    first.client.reset()
    first.wait_closed()
    second = relayed()
    assert [throttle] == inside.throttles(loop.rates)
    second.client.send(b"y").finish()
    second.target.expect(b"y").finish()
    second.wait_closed()
    wait_until(lambda: not loop.rates)


def test_the_last_pair_takes_the_throttle_with_it(relayed, loop):
    """No client is remembered that has no connection."""
    pairs = [relayed() for _ in range(3)]
    for pair in pairs:
        pair.client.send(b"x")
        pair.target.expect(b"x")
    assert 1 == len(loop.rates)
    for pair in pairs[:2]:
        pair.client.reset()
        pair.wait_closed()
    assert [1] == [throttle.pairs for throttle in inside.throttles(loop.rates)]
    pairs[2].client.finish()
    pairs[2].target.finish()
    pairs[2].wait_closed()
    wait_until(lambda: not loop.rates and not inside.jobs(loop))


# In a proxy


def pairs_of(proxy):
    return inside.jobs(proxy.services.loop, Pair)


def test_without_a_rate_pairs_are_plain(proxy, target):
    """What is off costs nothing: nothing is there that counts."""
    with Talk.to(proxy.port) as talk:
        talk.connect5("127.0.0.1", target.port)
        talk.send(b"x").expect(b"x")
        (pair,) = pairs_of(proxy)
        assert type(pair) is Pair
        assert (None, 0) == (pair.idle, len(proxy.services.rates))
        assert [None, None] == [flow.budget for flow in inside.flows(pair)]


def test_a_rate_is_kept_by_a_proxy():
    """A download of half a second at its rate comes whole, and not much sooner."""
    data = os.urandom(60000)
    began = []
    with FakeTarget(says(data)) as target, run_proxy(rate=100000) as proxy:
        with Talk.to(proxy.port) as talk:
            talk.connect5("127.0.0.1", target.port)
            assert data == talk.rest()
            talk.finish()
        wait_until(lambda: proxy.stats().open == 0)
        (record,) = proxy.records
        began.append(record.seconds)
        assert len(data) == record.down
    assert (len(data) - 10000) / 100000 * 0.9 < began[0]


def test_a_reload_changes_the_rate_of_limited_connections(target):
    """Live for connections with a rate; those without stay without, as does a later one."""
    with run_proxy() as proxy, contextlib.ExitStack() as stack:

        def come(has_rate):
            talk = stack.enter_context(Talk.to(proxy.port))
            talk.connect5("127.0.0.1", target.port)
            talk.send(b"x").expect(b"x")
            pair = max(pairs_of(proxy), key=lambda pair: inside.record(pair).id)
            assert [has_rate] * 2 == [flow.budget is not None for flow in inside.flows(pair)]
            return talk

        talks = [come(False)]
        proxy.reload(proxy.config._replace(rate=1000))
        talks.append(come(True))
        (throttle,) = inside.throttles(proxy.services.rates)
        assert (1000, 1000) == (
            inside.rate_of(throttle.up.bucket),
            inside.rate_of(throttle.down.bucket),
        )
        talks[1].send(b"y" * 3000)  # beyond its depth: a flow waits when the rate changes
        proxy.reload(proxy.config._replace(rate=10**6))
        talks[1].expect(b"y" * 3000)
        assert (10**6, 10**6) == (
            inside.rate_of(throttle.up.bucket),
            inside.rate_of(throttle.down.bucket),
        )
        proxy.reload(proxy.config._replace(rate=None))
        talks.append(come(False))
        for talk in talks:
            talk.send(b"z" * 3000).expect(b"z" * 3000)
