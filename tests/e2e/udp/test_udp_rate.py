"""``--rate`` for datagrams: each byte is paid for once, and a client's associations share."""

import threading

import pytest

import minisocks.relay.rate
from kit import inside
from kit.support import TIMEOUT, FakeTarget, Talk, run_proxy, wait_until
from kit.udp_client import Associated, UdpTarget, associations, header, in_loop
from minisocks.compat import READ

V4, V6 = "127.0.0.1", "::1"


class Frozen:
    """A clock that stands still until a test sets it."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def frozen(monkeypatch):
    """Have the tokens of all buckets that are made from now on come by a clock of the test."""
    clock = Frozen()
    monkeypatch.setattr(minisocks.relay.rate.Bucket.__init__, "__defaults__", (clock,))
    return clock


def lanes(proxy):
    """Return both directions of the one client."""
    wait_until(lambda: len(proxy.services.rates))
    (throttle,) = inside.throttles(proxy.services.rates)
    return throttle.up, throttle.down


def spent(proxy):
    """Return what was paid up and down, and the bytes that the records say were relayed."""

    def count():
        records = proxy.records
        up, down = lanes(proxy)
        return (
            (inside.spent_tokens(up.bucket), inside.spent_tokens(down.bucket)),
            (sum(record.up for record in records), sum(record.down for record in records)),
        )

    return in_loop(proxy, count)


def dry(proxy, lane):
    """Take all tokens of *lane*, whose clock stands still."""
    in_loop(proxy, lambda: inside.set_tokens(lane.bucket, 0.0) or True)


def waiters(lane):
    """Return the associations that wait in *lane*, by number."""
    return [inside.record(job).id for job in inside.waiting_in(lane)]


# What is paid


def test_each_byte_is_paid_for_once(frozen, target):
    """In both directions, for targets of both families, and for several datagrams at once."""
    with run_proxy(rate=10**6) as proxy, Associated(proxy.port) as client, UdpTarget(V6) as target6:
        up = down = 0
        for size in (0, 1, 999, 5000):
            for each in (target, target6):
                client.expect_to_work(each, b"x" * size)
                up, down = up + size, down + size
        client.send_to(target, b"one way")
        target.expect(b"one way").answer(b"and").answer(b"two back")
        client.expect(target, b"and").expect(target, b"two back")
        assert ((up + 7, down + 11), (up + 7, down + 11)) == spent(proxy)


def test_what_is_dropped_costs_nothing(frozen, target):
    """Malformed, denied, unasked and unsendable datagrams were not relayed."""
    with run_proxy(rate=10**6, rule=("deny to 127.0.0.9", "allow")) as proxy:
        with Associated(proxy.port) as client, UdpTarget("127.0.0.2") as stranger:
            client.expect_to_work(target, b"12345")
            client.send_raw(b"x" * 100).send("127.0.0.9", 9, b"x" * 100)
            client.send("255.255.255.255", 9, b"x" * 100).send_to(target, b"x" * 100, frag=1)
            stranger.source = target.source
            stranger.answer(b"x" * 100)
            client.expect_to_work(target, b"123")
            assert ((8, 8), (8, 8)) == spent(proxy)


def test_fragments_are_paid_for_as_one(frozen, target):
    """They are paid for when they have become whole."""
    with run_proxy(rate=10**6) as proxy, Associated(proxy.port) as client:
        client.send_to(target, b"x" * 100, frag=1).send_to(target, b"y" * 100, frag=2)
        client.send_to(target, b"z" * 100, frag=0x83)
        target.expect(b"x" * 100 + b"y" * 100 + b"z" * 100)
        client.expect_to_work(target, b"1")
        assert ((301, 1), (301, 1)) == spent(proxy)


def test_what_waited_for_a_name_is_paid_for(frozen, target):
    """It is sent without waiting for tokens, and paid for when the next datagram comes."""
    go_on = threading.Event()

    def resolve(name):
        assert go_on.wait(TIMEOUT)
        return V4

    try:
        with run_proxy(rate=10**6, resolve=resolve) as proxy, Associated(proxy.port) as client:
            for _ in range(3):
                client.send(b"slow.test", target.port, b"x" * 1000)
            with UdpTarget() as other:
                client.expect_to_work(other, b"1")
                assert ((1, 1), (1, 1)) == spent(proxy)
                go_on.set()
                for _ in range(3):
                    target.expect(b"x" * 1000)
                client.expect_to_work(other, b"2")
                assert ((3002, 2), (3002, 2)) == spent(proxy)
    finally:
        go_on.set()


def test_what_was_sent_ahead_of_tokens_delays_the_next(frozen, target):
    """It sends at once what waited for addresses, and pays for that before it reads more."""
    go_on = threading.Event()

    def resolve(name):
        assert go_on.wait(TIMEOUT)
        return V4

    try:
        with run_proxy(rate=10**5, resolve=resolve) as proxy, Associated(proxy.port) as client:
            for _ in range(4):
                client.send(b"slow.test", target.port, b"x" * 3000)
            client.expect_to_work(target)
            go_on.set()
            for _ in range(4):
                target.expect(b"x" * 3000)
            client.send_to(target, b"later")
            up, _down = lanes(proxy)
            wait_until(lambda: [1] == waiters(up))
            frozen.now += 10.0
            target.expect(b"later")
    finally:
        go_on.set()


def test_datagrams_and_connections_share_a_rate(frozen, target, other_networks):
    """A client has one bucket in each direction for all it does; another client has its own."""
    with run_proxy(rate=10**6) as proxy, FakeTarget() as echo, Associated(proxy.port) as client:
        client.expect_to_work(target, b"x" * 100)
        with Associated(proxy.port) as second, Talk.to(proxy.port) as talk:
            second.expect_to_work(target, b"x" * 200)
            wait_until(lambda: 2 == len(associations(proxy)))
            (throttle,) = inside.throttles(proxy.services.rates)
            assert 2 == throttle.pairs
            assert ((300, 300), (300, 300)) == spent(proxy)
            talk.connect5(V4, echo.port)
            wait_until(lambda: 3 == throttle.pairs)
            with Associated(proxy.port, source="127.0.0.2") as another:
                another.expect_to_work(target, b"x" * 400)
                assert 2 == len(proxy.services.rates)
                assert 300 == inside.spent_tokens(throttle.up.bucket)


# Below the rate, and beyond


def test_nothing_is_lost_below_the_rate(target):
    """What the tokens allow goes through as if there were no rate, and nothing waits."""
    with run_proxy(rate=10**9) as proxy, Associated(proxy.port) as client:
        up, down = lanes(proxy)
        for number in range(300):
            client.expect_to_work(target, b"%d" % number)
        assert ([], []) == (waiters(up), waiters(down))
        counts = proxy.records[-1].datagrams
        assert (300, 300, {}) == in_loop(proxy, lambda: (counts.up, counts.down, counts.drops))


@pytest.mark.parametrize("direction", ["up", "down"])
def test_what_is_beyond_the_rate_waits_in_the_kernel(frozen, direction, target):
    """Without tokens nothing is read and no loop spins; with them all arrives, in its order."""
    with run_proxy(rate=10**6) as proxy, Associated(proxy.port) as client:
        client.expect_to_work(target, b"1")
        up, down = lanes(proxy)
        lane = up if direction == "up" else down
        dry(proxy, lane)
        for number in range(20):
            if direction == "up":
                client.send_to(target, b"%d" % number)
            else:
                target.answer(b"%d" % number)
        wait_until(lambda: [1] == waiters(lane))
        if direction == "up":
            target.answer(b"the other way")  # is not held up
            client.expect(target, b"the other way")
            target.expect_nothing()
        else:
            client.send_to(target, b"the other way")
            target.expect(b"the other way")
        (job,) = associations(proxy)
        assert job.is_held_back()
        fds = (
            [inside.relay_socket(job).fileno()]
            if direction == "up"
            else [s.fileno() for s in inside.target_sockets(job)]
        )
        assert not set(fds) & inside.watched(proxy.services.loop), "else the loop would spin"
        frozen.now += 10.0
        for number in range(20):
            if direction == "up":
                target.expect(b"%d" % number)
            else:
                client.expect(target, b"%d" % number)
        wait_until(lambda: not job.is_held_back())
        assert {} == proxy.records[-1].datagrams.drops
        client.expect_to_work(target)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_associations_of_one_client_alternate(frozen, direction, target):
    """Two that always have something to send send one datagram each, one after the other."""
    size = 3000  # more than the tokens of one round: one datagram uses them up
    with run_proxy(rate=10**5) as proxy, Associated(proxy.port) as one:
        with Associated(proxy.port) as two, UdpTarget("127.0.0.2") as other:
            clients, targets = (one, two), (target, other)
            for client, each in zip(clients, targets):
                client.expect_to_work(each, b"1")
            up, down = lanes(proxy)
            lane = up if direction == "up" else down
            dry(proxy, lane)
            for number in range(5):
                for client, each in zip(clients, targets):
                    if direction == "up":
                        client.send_to(each, b"%d" % number + b"x" * size)
                    else:
                        each.answer(b"%d" % number + b"x" * size)
            wait_until(lambda: [1, 2] == sorted(waiters(lane)))
            order = waiters(lane)
            counts = [record.datagrams for record in proxy.records]
            before = [getattr(count, direction) for count in counts]
            for number in range(10):
                # Enough for one datagram of either.
                in_loop(proxy, lambda: inside.set_tokens(lane.bucket, 2000.0) or True)
                wait_until(lambda n=number: sum(
                    getattr(count, direction) for count in counts
                ) == sum(before) + n + 1)  # fmt: skip
                told = [getattr(count, direction) - had for count, had in zip(counts, before)]
                first = told[order[0] - 1]
                second = told[order[1] - 1]
                assert (number // 2 + 1, (number + 1) // 2) == (first, second)
            for number in range(5):
                for client, each in zip(clients, targets):
                    if direction == "up":
                        each.expect(b"%d" % number + b"x" * size)
                    else:
                        client.expect(each, b"%d" % number + b"x" * size)


def test_a_later_association_waits_behind_others(frozen, target):
    """New tokens belong to those that wait; one that has ended meanwhile takes none."""
    with run_proxy(rate=10**5) as proxy, Associated(proxy.port) as one:
        with Associated(proxy.port) as two, Associated(proxy.port) as three:
            for client in (one, two, three):
                client.expect_to_work(target)
            up, _down = lanes(proxy)
            dry(proxy, up)
            one.send_to(target, b"one")
            wait_until(lambda: [1] == waiters(up))

            def all_at_once():
                inside.set_tokens(up.bucket, inside.depth(up.bucket))
                later = associations(proxy)[1:]
                for client, job in zip((two, three), later):
                    client.send_to(target, b"later")
                    job.on_ready(inside.relay_socket(job).fileno(), READ)
                waited = waiters(up)
                later[0].abort("test")
                up.cancel()
                for _ in range(2):
                    inside.read_on(up)
                    up.cancel()
                return waited, waiters(up)

            assert ([1, 2, 3], []) == in_loop(proxy, all_at_once)
            target.expect(b"one").expect(b"later")
            target.expect_nothing()


# Its end


@pytest.mark.parametrize("is_waiting", [False, True])
@pytest.mark.parametrize("leave", [Talk.close, Talk.reset])
def test_the_last_association_takes_the_throttle_with_it(frozen, leave, is_waiting, target):
    """No client is remembered that has none, whether it waited for tokens or not."""
    with run_proxy(rate=10**6) as proxy:
        with Associated(proxy.port) as one, Associated(proxy.port) as two:
            one.expect_to_work(target)
            two.expect_to_work(target)
            assert all(inside.share(job) for job in associations(proxy))
            up, down = lanes(proxy)
            if is_waiting:
                dry(proxy, up)
                one.send_to(target, b"lost")
                two.send_to(target, b"lost")
                wait_until(lambda: 2 == len(inside.waiting_in(up)))
            leave(one.talk)
            wait_until(lambda: 1 == len(proxy))
            assert 1 == len(proxy.services.rates)
            leave(two.talk)
            wait_until(lambda: 0 == len(proxy))
            assert 1 == len(proxy.services.rates), "a client that comes again has a full one"
        frozen.now += 10.0
        wait_until(lambda: 0 == len(proxy.services.rates), "the end of the throttle")
        timer = inside.lane_timer(up)
        assert (None, None) == (timer and timer.callback, inside.lane_timer(down))
        target.expect_nothing()


def test_one_closed_for_silence_while_it_waits_goes_on(frozen, target):
    """Sockets to targets that are closed are not waited for; new ones are served in order."""
    with run_proxy(rate=10**6) as proxy, Associated(proxy.port) as client:
        client.expect_to_work(target)
        _up, down = lanes(proxy)
        dry(proxy, down)
        target.answer(b"lost")
        wait_until(lambda: [1] == waiters(down))
        (job,) = associations(proxy)
        in_loop(proxy, lambda: job.free_targets() or True)
        client.send_to(target, b"again")
        target.expect(b"again").answer(b"back")
        for _ in range(2):
            client.send_to(target, b"x")
            target.expect(b"x")
        assert [1] == waiters(down), "it waits once"
        frozen.now += 10.0
        client.expect(target, b"back").expect_to_work(target)


def test_a_reload_changes_the_rate_where_there_is_one(target):
    """A lane changes its rate at once; associations without a rate stay without."""
    with run_proxy() as proxy, Associated(proxy.port) as without:
        without.expect_to_work(target)
        proxy.reload(proxy.config._replace(rate=10**6))
        with Associated(proxy.port) as client:
            client.expect_to_work(target)
            first, second = associations(proxy)
            assert inside.share(first) is None
            assert inside.share(second) is not None
            up, down = lanes(proxy)
            proxy.reload(proxy.config._replace(rate=10**7))
            assert (10**7, 10**7) == (inside.rate_of(up.bucket), inside.rate_of(down.bucket))
            client.expect_to_work(target)
            without.expect_to_work(target)


def test_what_strangers_write_costs_the_client_nothing(frozen, target):
    """A host that floods the relay port takes no token of the client."""
    with run_proxy(rate=10**6) as proxy, Associated(proxy.port) as client:
        with UdpTarget("127.0.0.9") as stranger:
            for _ in range(5):
                stranger.sock.sendto(header(V4, target.port) + b"x" * 1000, client.place)
            client.expect_to_work(target, b"1")
            assert ((1, 1), (1, 1)) == spent(proxy)
            assert {"stranger": 5} == proxy.records[-1].datagrams.drops
