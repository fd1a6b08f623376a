"""What associations share: bounds for all and for each client."""

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from kit import inside
from kit.udp_client import access_of, assert_remembers_nothing, new_table
from minisocks.errors import LimitReached
from minisocks.net.loop import Loop
from minisocks.policy.client import Client
from minisocks.policy.exits import Exit, Hop
from minisocks.udp.table import (
    KEPT_ENTRIES,
    LEAST_ENTRIES,
    MAX_HELD_BYTES,
    MAX_TARGETS,
    TARGET_BYTES,
)

ANN, BOB = Client(("10.0.0.1", 1)), Client(("10.0.0.2", 1))
SIX, SAME_NETWORK = Client(("2001:db8::1", 1)), Client(("2001:db8::2", 1))
FAR, HERE = Client(("203.0.113.1", 1)), Client(("127.0.0.1", 1))


@pytest.fixture
def loop():
    """A loop that does not run."""
    made = Loop()
    yield made
    made.stop()


@pytest.fixture
def table(loop):
    """The table of associations of a proxy with the defaults."""
    return new_table(loop)


class Stub:
    """Stands for an association of *client*, used last at that time."""

    forgotten = 0
    ended = None

    def __init__(self, table, client, used=0.0):
        self.used = used
        self._table = table
        self._client = client
        table.enter(self, client)

    def end(self, why):
        self.ended = why
        self._table.leave(self, self._client)

    def ask_again(self):
        self.forgotten += 1


class Targets:
    """Stands for what is known of the targets of one association of *client*."""

    def __init__(self, table, client, entries):
        self.entries = 0
        self._table = table
        self._client = client
        self.count(entries)

    def count(self, change):
        self.entries += change
        self._table.remember(self, self._client, change)

    def forget_some(self):
        self.count(-min(self.entries, 10))


# Associations


def test_a_client_alone_has_all(table):
    """One more is refused, and the option is named; when one has ended, another fits."""
    table.change(access_of(max_associations=4))
    mine = []
    for _ in range(4):
        table.make_room(ANN)
        mine.append(Stub(table, ANN))
    with pytest.raises(LimitReached, match=r"there are 4 associations already \(--max-assoc.* 4\)"):
        table.make_room(ANN)
    assert [None] * 4 == [association.ended for association in mine]
    table.leave(mine[0], ANN)
    table.make_room(ANN)
    assert 3 == len(table)


def test_the_client_with_most_makes_room(table):
    """The association without a datagram for longest ends, while the newcomer has two fewer."""
    table.change(access_of(max_associations=4))
    mine = [Stub(table, ANN, used) for used in (4.0, 2.0, 3.0, 5.0)]
    mine[1].used = 6.0  # it had a datagram since
    for ended in (2, 0):
        table.make_room(BOB)
        assert "there are 4 associations already (--max-associations 4)" == mine[ended].ended
        Stub(table, BOB, 9.0)
    assert [None, None] == [mine[1].ended, mine[3].ended]
    for client in (ANN, BOB):
        with pytest.raises(LimitReached, match=r"there are 4 .*\(--max-associations 4\)"):
            table.make_room(client)
    table.make_room(SIX)  # from another network, where the two have all
    assert 3 == len(table)


def test_an_ipv6_client_has_a_network(table):
    """Addresses in a /64 cost nothing: together they have no more than others."""
    table.change(access_of(max_associations=4))
    theirs = [Stub(table, SIX, 2.0), Stub(table, SAME_NETWORK, 1.0)]
    ours = [Stub(table, ANN), Stub(table, ANN)]
    for client in (SIX, SAME_NETWORK):
        with pytest.raises(LimitReached):
            table.make_room(client)
    table.leave(ours.pop(), ANN)
    theirs.append(Stub(table, Client(("2001:db8:0:1::1", 1))))
    table.make_room(ANN)
    assert [True, False, False] == [one.ended is not None for one in theirs]


def test_the_only_one_may_be_any_client_s(table):
    """It is not taken from the client that has it: two would end each other's for ever."""
    table.change(access_of(max_associations=1))
    table.make_room(ANN)
    Stub(table, ANN)
    for client in (ANN, BOB, SIX, HERE):
        with pytest.raises(LimitReached):
            table.make_room(client)


# What waits


def test_a_network_holds_half_of_what_is_free(table):
    """Of two in it neither has more; the next network has half of the rest, this host an eighth."""
    part = MAX_HELD_BYTES // 64

    def fill(*clients):
        count = 0
        while table.hold(clients[count % len(clients)], part):
            count += 1
        return count

    assert [32, 16, 7] == [fill(ANN, BOB), fill(SIX, SAME_NETWORK), fill(FAR)]
    assert [0, 8] == [fill(BOB), fill(HERE)]
    assert 1 == fill(Client(("198.51.100.1", 1)))  # the last is for a client that has none
    assert MAX_HELD_BYTES == table.held


def test_what_is_held_counts_against_the_memory_limit(table, loop):
    """With ``--memory-limit`` an eighth of it, for bytes and for targets; both count there."""
    table.change(access_of(memory_limit=1 << 20))
    assert table.hold(ANN, 1 << 16)
    assert not table.hold(ANN, 1)
    assert 1 << 16 == loop.pipes.pending_bytes
    table.release(ANN, 1 << 16)
    assert table.has_room_for_target(ANN)
    targets = Targets(table, ANN, 512)
    assert not table.has_room_for_target(ANN)
    assert 512 * TARGET_BYTES == loop.pipes.pending_bytes
    targets.count(-512)
    assert 0 == loop.pipes.pending_bytes


def test_the_association_with_most_targets_forgets_some(table):
    """A client alone may know all that there may be; for another one it forgets, for itself not."""
    many, more = Targets(table, ANN, 10), Targets(table, ANN, MAX_TARGETS - 20)
    few = Targets(table, BOB, 10)
    assert not table.has_room_for_target(ANN)
    for _ in range(100):
        assert table.has_room_for_target(BOB)
        few.count(1)
    assert (10, 110) == (many.entries, few.entries)
    assert MAX_TARGETS - 120 == more.entries
    assert MAX_TARGETS == table.targets


def test_targets_are_refused_where_none_is_forgotten(table):
    """What each must keep may be more than there is room for."""
    Targets(table, ANN, MAX_TARGETS).forget_some = lambda: None
    assert not table.has_room_for_target(BOB)


def test_an_association_keeps_its_part_of_half_of_all(table):
    """Room or not: fewer entries where its client has many associations, but some."""
    assert KEPT_ENTRIES == table.least_of(ANN)
    table.change(access_of(memory_limit=1 << 20))  # 512 entries
    for count, least in ((1, KEPT_ENTRIES), (8, 32), (16, 16), (100, LEAST_ENTRIES)):
        while inside.shares(table)[0].held_by(ANN.groups) < count:
            Stub(table, ANN)
        assert least == table.least_of(ANN)
    assert KEPT_ENTRIES == table.least_of(BOB)


@hypothesis_settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([ANN, BOB, SIX]), st.integers(0, 400000)), max_size=20))
def test_nothing_is_kept_of_a_client_that_has_gone(steps):
    """What was held is released, and then no client is remembered, whatever the amounts."""
    loop = Loop()
    try:
        table = new_table(loop)
        held = [(client, count) for client, count in steps if table.hold(client, count)]
        assert sum(count for _, count in held) == table.held <= MAX_HELD_BYTES
        for client, count in held:
            table.release(client, count)
        assert_remembers_nothing(table)
        assert 0 == loop.pipes.pending_bytes
    finally:
        loop.stop()


class _Chain:
    """Stands for an association at the hops of an exit."""

    def __init__(self, table, client, hops, used):
        self.exit = Exit("far", (Hop("socks5", "192.0.2.1", 1080),) * hops)
        self._table = table
        self._client = client
        self._used = used
        self.is_over = False
        self.entered = table.enter_upstream(self, client)

    def used(self):
        return self._used

    def end_for_room(self):
        self.is_over = True
        self._table.leave_upstream(self, self._client)


def test_associations_at_hops_count_by_hop(loop):
    """A chain that comes ends as many others as it has hops, those unused for longest."""
    table = new_table(loop, max_associations=4)
    shorts = [_Chain(table, ANN, 1, used) for used in (4, 3, 2, 1)]
    assert 4 == table.upstreams
    long = _Chain(table, ANN, 3, 5)
    assert long.entered
    assert [False, True, True, True] == [one.is_over for one in shorts]
    assert 4 == table.upstreams
    longest = _Chain(table, ANN, 8, 7)
    assert longest.entered, "alone it has room"
    assert long.is_over
    assert 8 == table.upstreams


@given(st.lists(st.tuples(st.sampled_from([ANN, BOB, SIX, FAR, HERE]), st.integers(1, 4))))
def test_associations_at_hops_never_pass_the_limit(chains):
    """Whichever clients they are of."""
    loop = Loop()
    try:
        table = new_table(loop, max_associations=4)
        for used, (client, hops) in enumerate(chains):
            _Chain(table, client, hops, used)
            assert table.upstreams <= 4
    finally:
        loop.stop()
