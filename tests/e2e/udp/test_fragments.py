"""Fragments: put together as an obvious model puts them together, and not otherwise."""

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from kit import inside
from kit.support import run_proxy, wait_until
from kit.udp_client import Associated, associations, in_loop, wait_for_drops
from minisocks.protocol.datagram import LAST, MAX_BYTES, REASSEMBLY_SECONDS, Reassembly

KEY, OTHER_KEY = b"to here", b"to there"


class Model:
    """Keeps all fragments of a sequence with their numbers, and looks at all of them each time."""

    def __init__(self):
        self.got, self.lost = [], 0

    def restart(self):
        self.lost += len(self.got)
        self.got = []

    def add(self, frag, key, data):
        number, is_last = frag % 128, frag >= 128
        highest = max([n for n, _, _ in self.got], default=0)
        if self.got and highest > 1 and (number, key, data) == self.got[-1]:
            self.lost += 1
            return None
        if number <= highest or {key} != {k for _, k, _ in self.got} | {key}:
            self.restart()
        self.got.append((number, key, data))
        whole = b"".join(d for _, _, d in self.got)
        numbers = [n for n, _, _ in self.got]
        if numbers != list(range(1, len(numbers) + 1)) or (number > 1 and len(whole) > MAX_BYTES):
            self.restart()
            return None
        if not is_last:
            return None
        self.got = []
        return whole


FRAGMENTS = st.lists(
    st.tuples(
        st.one_of(st.integers(1, 4), st.integers(129, 132), st.integers(1, 255)),
        st.sampled_from([KEY, KEY, KEY, OTHER_KEY]),
        st.one_of(st.binary(max_size=2), st.just(b"x" * 40000)),
    ),
    max_size=40,
)
#: Mostly in their order, else sequences hardly ever become whole.
SEQUENCES = st.lists(
    st.tuples(st.integers(1, 9), st.sampled_from([KEY, OTHER_KEY]), st.integers(0, 40)), max_size=8
)


def assert_as_model(fragments):
    queue, model = Reassembly(), Model()
    for frag, key, data in fragments:
        assert model.add(frag, key, data) == queue.add(frag, key, data)
        assert model.lost == queue.lost
        assert sum(len(d) for _, _, d in model.got) == queue.held <= max(MAX_BYTES, len(data))
        assert bool(model.got) == bool(queue)


@pytest.mark.rfc(
    "RFC 1928 section 7", "And when a FRAG comes that is less than the highest so far."
)
@hypothesis_settings(deadline=None)
@given(FRAGMENTS)
def test_any_fragments_give_what_the_model_gives(fragments):
    """After each fragment, whole datagrams, held bytes and losses are those of the model."""
    assert_as_model(fragments)


@hypothesis_settings(deadline=None)
@given(SEQUENCES)
def test_sequences_with_a_slip_give_what_the_model_gives(sequences):
    """A sequence in which one is missing, or comes twice, gives the same, too."""
    fragments = []
    for count, key, slip in sequences:
        numbers = list(range(1, count)) + [count | LAST]
        if slip < count:
            numbers[slip : slip + 1] = [] if slip % 2 else [numbers[slip]] * 2
        fragments += [(number, key, b"%d" % number) for number in numbers]
    assert_as_model(fragments)


@pytest.mark.rfc(
    "RFC 1928 section 7",
    "FRAG 00: standalone; 1 to 127: the place in a sequence; the high bit: the last one.",
)
@pytest.mark.parametrize("count", [1, 2, 3, 126, 127])
def test_a_sequence_in_its_order_becomes_whole(count):
    """Up to 127 fragments; the bit of the last one says that it is."""
    queue = Reassembly()
    for number in range(1, count):
        assert queue.add(number, KEY, b"%d," % number) is None
    expected = b"".join(b"%d," % number for number in range(1, count)) + b"end"
    assert expected == queue.add(count | LAST, KEY, b"end")
    assert (0, 0, False) == (queue.held, queue.lost, bool(queue))


@pytest.mark.rfc(
    "RFC 1928 section 7",
    "FRAG 00: standalone; 1 to 127: the place in a sequence; the high bit: the last one.",
)
@pytest.mark.rfc(
    "RFC 1928 section 7", "And when a FRAG comes that is less than the highest so far."
)
@pytest.mark.parametrize(
    "frags, wholes",
    [
        ([1, 3 | LAST], 0),  # one is missing
        ([2, 3 | LAST], 0),  # the first is missing
        ([1, 2, 1, 2 | LAST], 1),  # a lower one begins anew
        ([1, 2, 3, 2, 3 | LAST], 0),  # a lower one that is not the first begins nothing
        ([2, 1, 3 | LAST], 0),
        ([LAST], 0),  # number 0 is in no sequence
        ([1, LAST], 0),
        ([1, 1 | LAST], 1),
        ([1, 1, 2 | LAST], 1),
        ([1, 2 | LAST, 3 | LAST], 1),
    ],
)
def test_what_begins_anew(frags, wholes):
    """A FRAG below the highest one, or one too high, ends the sequence that was under way."""
    queue = Reassembly()
    found = [queue.add(frag, KEY, b"%d" % index) for index, frag in enumerate(frags)]
    assert wholes == len([whole for whole in found if whole is not None])
    assert 0 == queue.held


@pytest.mark.rfc(
    "RFC 1928 section 7", "And when a FRAG comes that is less than the highest so far."
)
def test_one_that_comes_twice_costs_nothing():
    """A network may double a datagram: the second is counted as lost, the sequence is whole."""
    queue = Reassembly()
    for frag, data in ((1, b"a"), (2, b"b"), (2, b"b")):
        assert queue.add(frag, KEY, data) is None
    assert b"abc" == queue.add(3 | LAST, KEY, b"c")
    assert 1 == queue.lost


@pytest.mark.rfc(
    "RFC 1928 section 7", "And when a FRAG comes that is less than the highest so far."
)
def test_another_target_is_another_sequence():
    """Fragments for two targets are never put together."""
    queue = Reassembly()
    queue.add(1, KEY, b"a")
    assert queue.add(2 | LAST, OTHER_KEY, b"b") is None
    assert (2, 0) == (queue.lost, queue.held)


def test_what_is_abandoned_is_counted():
    """The next sequence has nothing of it."""
    queue = Reassembly()
    queue.add(1, KEY, b"a")
    queue.add(2, KEY, b"b")
    queue.abandon()
    queue.abandon()
    assert (2, 0, False) == (queue.lost, queue.held, bool(queue))
    assert b"x" == queue.add(1 | LAST, KEY, b"x")


# In a proxy


@pytest.mark.rfc(
    "RFC 1928 section 7",
    "FRAG 00: standalone; 1 to 127: the place in a sequence; the high bit: the last one.",
)
@pytest.mark.rfc(
    "RFC 1928 section 7",
    "Fragmentation is optional; without it FRAG other than 00 MUST be dropped.",
)
def test_a_target_sees_the_whole(client, proxy, target):
    """Fragments of a client are one datagram for its target."""
    for frag in range(1, 127):
        client.send_to(target, b"%d," % frag, frag)
    client.send_to(target, b"end", 127 | LAST)
    target.expect(b"".join(b"%d," % frag for frag in range(1, 127)) + b"end")
    client.send_to(target, b"alone", 1 | LAST)
    target.expect(b"alone")
    target.answer(b"answer")
    client.expect(target, b"answer")
    (record,) = proxy.records
    wait_until(lambda: record.datagrams.down)
    assert (2, 1, {}) == (record.datagrams.up, record.datagrams.down, record.datagrams.drops)


def test_a_name_may_be_fragmented(client, target):
    """The header of each fragment says the same; RSV does not count."""
    client.send(b"127.0.0.1", target.port, b"first ", 1)
    client.send(b"127.0.0.1", target.port, b"second", 2 | LAST)
    target.expect(b"first second")


@pytest.mark.rfc(
    "RFC 1928 section 7",
    "FRAG 00: standalone; 1 to 127: the place in a sequence; the high bit: the last one.",
)
@pytest.mark.rfc(
    "RFC 1928 section 7", "And when a FRAG comes that is less than the highest so far."
)
def test_what_stands_alone_comes_through_in_between(client, target):
    """A FRAG 0 is delivered at once, and the sequence around it becomes whole."""
    client.send_to(target, b"first ", 1)
    client.expect_to_work(target)
    client.send_to(target, b"second", 2 | LAST)
    target.expect(b"first second")


@pytest.mark.rfc(
    "RFC 1928 section 7",
    "Fragmentation is optional; without it FRAG other than 00 MUST be dropped.",
)
def test_a_broken_sequence_is_dropped_in_silence(client, proxy, target):
    """Nothing of it arrives, the next one does, and the log has the number of fragments."""
    client.send_to(target, b"a", 1).send_to(target, b"c", 3).send_to(target, b"d", 4 | LAST)
    client.expect_to_work(target)
    client.send_to(target, b"x", 1).send_to(target, b"y", 2 | LAST)
    target.expect(b"xy")
    client.close()
    wait_until(lambda: proxy.records[-1].end)
    assert {"fragments": 3} == proxy.records[-1].datagrams.drops


def test_a_sequence_that_never_ends_is_counted_at_the_end(client, proxy, target):
    """A client that leaves with one under way leaves nothing behind."""
    client.send_to(target, b"a" * 1000, 1)
    client.expect_to_work(target)
    assert 1000 == in_loop(proxy, lambda: proxy.services.associations.held)
    client.close()
    wait_until(lambda: proxy.records[-1].end)
    wait_for_drops(proxy.records[-1], fragments=1)
    assert 0 == proxy.services.associations.held


def timers(proxy):
    """Return time and timer of each timer of the one association; called in the loop."""
    (job,) = associations(proxy)
    entries = inside.timer_entries(proxy.services.loop)
    return [(entry[0], entry[2]) for entry in entries if entry[2].job is job]


@pytest.mark.rfc("RFC 1928 section 7", "Each receiver has a reassembly queue and a timer.")
@pytest.mark.rfc("RFC 1928 section 7", "The queue must be abandoned when the timer expires.")
@pytest.mark.rfc("RFC 1928 section 7", "The timer MUST be no less than 5 seconds.")
def test_the_rest_is_waited_for_a_while(client, proxy, target):
    """Each fragment starts the timer anew; its end abandons the sequence, and only that."""
    assert REASSEMBLY_SECONDS >= 5  # RFC 1928 section 7
    times = []
    for frag in (1, 2):
        client.send_to(target, b"x", frag)
        client.expect_to_work(target)
        ((at, timer),) = in_loop(proxy, lambda: timers(proxy))
        times.append(at)
    assert times[0] < times[1]
    job, callback = timer.job, timer.callback
    in_loop(proxy, lambda: (timer.cancel(), callback()))
    assert 0 == proxy.services.associations.held
    client.send_to(target, b"y", 3 | LAST)
    client.expect_to_work(target)
    client.send_to(target, b"a", 1).send_to(target, b"b", 2 | LAST)
    target.expect(b"ab")
    assert [] == in_loop(proxy, lambda: timers(proxy))
    assert [job] == associations(proxy)


def test_a_whole_that_is_too_large_is_dropped(client, proxy, target):
    """A whole of more than an IP packet holds is no datagram, also if its fragments fit."""
    client.send_to(target, b"x" * 40000, 1).send_to(target, b"x" * 40000, 2 | LAST)
    client.expect_to_work(target)
    assert 0 == proxy.services.associations.held
    client.send_to(target, b"x" * 33000, 1).send_to(target, b"x" * 32530, 2 | LAST)
    client.expect_to_work(target)
    assert {"fragments": 2, "too large": 1} == proxy.records[-1].datagrams.drops
    client.send_to(target, b"x" * 33000, 1).send_to(target, b"x" * 32507, 2 | LAST)
    target.expect(b"x" * 65507)


@pytest.mark.rfc("RFC 1928 section 7", "Each receiver has a reassembly queue and a timer.")
def test_fragments_of_all_are_bounded(target, other_networks):
    """One network has half of the room, whatever number of associations; others go on."""
    with run_proxy(listen=(":0",)) as proxy:
        exchange, clients = proxy.services.associations, []
        most = inside.held_datagrams(exchange).most
        try:
            for _ in range(most // 2 // 60000 + 3):
                source = "127.2.0.%d" % (1 + len(clients) % 3)
                clients.append(Associated(proxy.port, source=source))
                clients[-1].send_to(target, b"x" * 60000, 1)
                clients[-1].expect_to_work(target)
            held = in_loop(proxy, lambda: exchange.held)
            assert abs(held - most // 2) <= 60000 // 2
            clients.append(Associated(proxy.port, source="127.3.0.1"))
            clients[-1].send_to(target, b"x" * 60000, 1).send_to(target, b"y", 2 | LAST)
            target.expect(b"x" * 60000 + b"y")
            clients[-1].expect_to_work(target)
            # A client without room has lost that sequence only, when others have left some.
            clients[0].close()
            wait_until(lambda: exchange.held < held)
            clients[-2].send_to(target, b"a", 1).send_to(target, b"b", 2 | LAST)
            target.expect(b"ab")
        finally:
            for client in clients:
                client.close()
        wait_until(lambda: len(proxy) == 0)
        assert (0, 0) == (exchange.held, proxy.services.loop.pipes.pending_bytes)
