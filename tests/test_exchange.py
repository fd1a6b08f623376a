"""What associations share: bounds for all and for each client."""

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from minisocks.client import Client
from minisocks.errors import LimitReached
from minisocks.exchange import MAX_HELD_BYTES, MAX_TARGETS, TARGET_BYTES, Exchange
from minisocks.loop import Loop
from minisocks.settings import Config

ANN, BOB = Client(("10.0.0.1", 1)), Client(("10.0.0.2", 1))
SIX, SAME_NETWORK = Client(("2001:db8::1", 1)), Client(("2001:db8::2", 1))

@pytest.fixture
def loop():
    """A loop that does not run."""
    made = Loop()
    yield made
    made.stop()


@pytest.fixture
def exchange(loop):
    """What the associations of a proxy with the defaults share."""
    made = Exchange(loop)
    made.change(Config())
    return made


class Forgets:
    """Stands for an association."""

    forgotten = 0

    def ask_again(self):
        self.forgotten += 1


# Associations


def test_a_client_has_half_of_all(exchange):
    """Of both bounds the option is named, and who is whose."""
    exchange.change(Config(max_associations=4))
    mine = [object(), object()]
    for association in mine:
        exchange.check_room(ANN)
        exchange.enter(association, ANN)
    with pytest.raises(LimitReached, match=r"10.0.0.1 has 2 .*\(--max-associations 4\)"):
        exchange.check_room(ANN)
    for _ in range(2):
        exchange.check_room(BOB)
        exchange.enter(object(), BOB)
    for client in (ANN, BOB, SIX):
        with pytest.raises(LimitReached, match=r"there are 4 .*\(--max-associations 4\)"):
            exchange.check_room(client)
    exchange.leave(mine[0], ANN)
    exchange.check_room(ANN)
    assert 3 == len(exchange)


def test_an_ipv6_client_has_a_network(exchange):
    """A /64 is one client: addresses in it cost nothing."""
    exchange.change(Config(max_associations=2))
    exchange.enter(object(), SIX)
    with pytest.raises(LimitReached, match="2001:db8::/64 has 1"):
        exchange.check_room(SAME_NETWORK)
    exchange.check_room(ANN)


def test_the_only_one_may_be_anybody_s(exchange):
    """Half of one is one."""
    exchange.change(Config(max_associations=1))
    exchange.check_room(ANN)


# What waits


def test_a_client_holds_half_of_what_all_may(exchange):
    """And two have it all."""
    half = MAX_HELD_BYTES // 2
    assert exchange.hold(ANN, half)
    assert not exchange.hold(ANN, 1)
    assert exchange.hold(BOB, half - 1)
    assert not exchange.hold(SIX, 2)
    assert exchange.hold(SIX, 1)
    assert 2 * half == exchange.held


def test_what_is_held_counts_against_the_memory_limit(exchange, loop):
    """With ``--memory-limit`` an eighth of it, for bytes and for targets; both count there."""
    exchange.change(Config(memory_limit=1 << 20))
    assert exchange.hold(ANN, 1 << 16)
    assert not exchange.hold(ANN, 1)
    assert 1 << 16 == loop.pipes.pending_bytes
    exchange.release(ANN, 1 << 16)
    assert exchange.has_room_for_target(ANN)
    exchange.remember(ANN, 256)
    assert not exchange.has_room_for_target(ANN)
    assert 256 * TARGET_BYTES == loop.pipes.pending_bytes
    exchange.remember(ANN, -256)
    assert 0 == loop.pipes.pending_bytes


def test_targets_of_all_and_of_each_client_are_bounded(exchange):
    """A client has half of what all may have, so that others need not forget theirs."""
    half = MAX_TARGETS // 2
    exchange.remember(ANN, half - 1)
    assert exchange.has_room_for_target(ANN)
    exchange.remember(ANN, 1)
    assert not exchange.has_room_for_target(ANN)
    exchange.remember(BOB, half - 1)
    assert exchange.has_room_for_target(SIX)
    exchange.remember(SIX, 1)
    assert not exchange.has_room_for_target(BOB)
    assert not exchange.has_room_for_target(SIX)


@hypothesis_settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([ANN, BOB, SIX]), st.integers(0, 400000)), max_size=20))
def test_nothing_is_kept_of_who_has_gone(steps):
    """What was held is released, and then no client is remembered, whatever the amounts."""
    loop = Loop()
    try:
        exchange = Exchange(loop)
        exchange.change(Config())
        held = [(client, count) for client, count in steps if exchange.hold(client, count)]
        assert sum(count for _, count in held) == exchange.held <= MAX_HELD_BYTES
        for client, count in held:
            exchange.release(client, count)
        assert (0, {}) == (exchange.held, exchange._held)
        assert 0 == loop.pipes.pending_bytes
    finally:
        loop.stop()
