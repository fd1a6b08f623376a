"""Failures cost time, more each time, and are forgotten."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minisocks.policy import passwords
from minisocks.policy.passwords import MAX_ENTRIES, Penalties

A, B = b"\xc0\0\2\1", b"\xc0\0\2\2"


def failing(times, at=0.0):
    """Return what is remembered of an address that has failed so often at once."""
    table = Penalties()
    for _ in range(times):
        table.add(A, at)
    return table


@pytest.mark.parametrize(
    "times, seconds",
    [(0, 0), (1, 0), (2, 0), (3, 0.5), (4, 1), (5, 2), (8, 16), (9, 30), (10, 30), (1000, 30)],
)
def test_each_failure_doubles_the_wait(times, seconds):
    """Three are free, then it is half a second, and never more than 30."""
    table = failing(times, 7.0)

    assert seconds == table.wait_seconds(A, 7.0)
    assert 0 == table.wait_seconds(B, 7.0)


def test_the_wait_is_since_the_failure():
    """A client that comes back later has waited already."""
    table = failing(4)

    assert 0.25 == table.wait_seconds(A, 0.75)
    assert 0 == table.wait_seconds(A, 1.0)
    assert 0 == table.wait_seconds(A, 1e9)


def test_a_minute_is_worth_half_of_them():
    """Failures long ago count less, and in the end nothing; a thousand are soon forgotten."""
    assert 2.0 == failing(4).score(A, 60.0)
    assert 3 == failing(4).add(A, 60.0)
    assert 1 == failing(4).add(A, 3600.0)
    assert 3 == failing(1000).add(A, 125.0)


def test_guessing_on_is_slow():
    """A client that guesses as soon as it may has about 300 guesses in an hour."""
    table, now, guesses = Penalties(), 0.0, 0
    while now < 3600:
        table.add(A, now)
        guesses += 1
        now += table.wait_seconds(A, now)

    assert 200 < guesses < 400


def test_the_table_is_bounded():
    """However many addresses fail, those that fail most are remembered."""
    table = failing(5)
    for i in range(MAX_ENTRIES + 50):
        table.add(i.to_bytes(8, "big"), 1.0)

    assert MAX_ENTRIES == len(table)
    assert 2 == table.wait_seconds(A, 0.0)


def test_the_client_with_fewest_failures_makes_room(monkeypatch):
    """By what counts now, not by what it was."""
    monkeypatch.setattr(passwords, "MAX_ENTRIES", 2)
    table = failing(3)
    table.add(B, 200.0)
    table.add(b"new", 200.0)

    assert 0 == table.score(A, 200.0)
    assert 1 == table.score(B, 200.0)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([A, B]), st.floats(0, 1e7))))
def test_no_wait_is_longer_than_half_a_minute(steps):
    """Whichever client fails and whenever: its wait ends."""
    table, now = Penalties(), 0.0
    for address, later in steps:
        now += later
        assert 1 <= table.add(address, now) <= 10
        assert 0 <= table.wait_seconds(A, now) <= 30
