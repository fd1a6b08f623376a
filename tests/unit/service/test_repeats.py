"""Log lines that say the same again and again are summed up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.support import Clock
from minisocks.service.repeats import BURST, MAX_GROUPS, MAX_PARTS, WINDOW_SECONDS, Folding


@pytest.fixture
def clock():
    """A clock that a test moves."""
    return Clock(0.0)


@pytest.fixture
def folding(clock):
    """A Folding of texts; a sum is (last text, count), of a wider group with its depth."""

    def sum_up(line, count, depth):
        return (line, count) if depth in (0, 3) else (line, count, depth)

    return Folding(sum_up, clock)


def test_first_of_a_kind_are_written(folding):
    """Ten of a kind go through as they come, then none for the rest of the minute."""
    lines = [folding.take(("a",), n) for n in range(100)]

    assert [[n] for n in range(BURST)] + [[]] * 90 == lines


def test_window_ends_with_a_sum(folding, clock):
    """After a minute it says how many more there were, and the last one; then it begins anew."""
    for n in range(1000):
        folding.take(("a",), n)
    assert WINDOW_SECONDS == folding.seconds()
    assert [] == folding.due()

    clock.now = WINDOW_SECONDS
    assert 0 == folding.seconds()
    assert [(999, 1000 - BURST)] == folding.due()
    assert [] == folding.due()
    assert None is folding.seconds()
    assert [5] == folding.take(("a",), 5)


def test_what_was_not_folded_has_no_sum(folding, clock):
    """Ten or fewer in a minute are all there, and nobody is woken for them."""
    for n in range(BURST):
        folding.take(("a",), n)
    assert None is folding.seconds()

    clock.now = WINDOW_SECONDS
    assert [] == folding.due()


def test_kinds_are_apart(folding):
    """One noisy kind hides no other."""
    for n in range(100):
        folding.take(("noisy",), n)

    assert ["hello"] == folding.take(("other",), "hello")
    assert [(99, 100 - BURST)] == folding.rest()


def test_memory_is_bounded(folding):
    """With more kinds than it remembers the oldest is summed up at once."""
    for n in range(20):
        folding.take(("first",), n)
    lines = []
    for kind in range(MAX_GROUPS * 3):
        lines += folding.take((kind,), kind)

    assert (19, 20 - BURST) in lines
    assert list(range(MAX_GROUPS * 3)) == [line for line in lines if line != (19, 20 - BURST)]
    assert len(folding._kinds) == MAX_GROUPS


def test_a_few_noisy_ones_are_folded_each_by_itself(folding):
    """The neighbours of a noisy one, near or far, are not behind its lines."""
    for n in range(100):
        folding.take(("why", "net", "sub", "noisy"), n)
    for path in (("net", "sub", "calm"), ("net", "other", "x"), ("far", "y", "z")):
        assert ["hello"] == folding.take(("why",) + path, "hello")
    assert [(99, 100 - BURST)] == folding.rest()


def test_many_noisy_ones_are_folded_by_the_group_that_they_are_in(folding):
    """Beyond a number of parts a group has ten lines for all further ones, and one sum."""
    lines = []
    for n in range(MAX_PARTS + 1000):
        lines += folding.take(("why", "net", "sub", n), n)
    assert list(range(MAX_PARTS + BURST)) == lines
    assert [(MAX_PARTS + 999, 1000 - BURST, 2)] == folding.rest()


def test_a_line_may_be_wanted_in_any_case(folding):
    """It is written beyond the ten, and no sum counts it."""
    lines = [folding.take(("a",), n, always=n in (0, 50)) for n in range(100)]
    assert [*range(BURST), 50] == [line for written in lines for line in written]
    assert [(99, 100 - BURST - 1)] == folding.rest()


def test_groups_are_bounded(folding):
    """Whatever networks lines come from, so many are remembered, and forgotten in time."""
    written = []
    for n in range(20000):
        written += folding.take(("why", n % 70, n % 4900, n), n)
    assert folding._size == MAX_GROUPS
    sums = folding.rest()
    assert len(sums) <= MAX_GROUPS
    assert 20000 == len(written) + sum(line[1] for line in sums)
    assert 0 == folding._size == len(folding._kinds)


PATHS = st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map(tuple)


@given(st.lists(st.tuples(PATHS, st.floats(0, 50))))
def test_nothing_is_lost_uncounted(steps):
    """Whatever comes when: lines written and lines summed up are as many as have come."""
    clock = Clock(0.0)
    folding = Folding(lambda line, count, depth: count, clock)
    written = []
    for kind, seconds in steps:
        clock.now += seconds
        written += folding.take(kind, "line")
    written += folding.rest()

    assert len(steps) == sum(1 if line == "line" else line for line in written)
