"""Log lines that say the same are summed up, and lines about refused clients have a budget."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import inside
from kit.support import Clock
from minisocks.service.repeats import (
    BURST,
    MAX_GROUPS,
    MAX_PARTS,
    MAX_SITES,
    REFUSAL_BURST,
    REFUSALS_PER_SECOND,
    WINDOW_SECONDS,
    Budget,
    RepeatFilter,
)


@pytest.fixture
def clock():
    """A clock that a test moves."""
    return Clock(0.0)


@pytest.fixture
def repeats(clock):
    """A RepeatFilter of texts; a sum is (last text, count), of a wider group with its depth."""

    def sum_up(line, count, depth):
        return (line, count) if depth in (0, 3) else (line, count, depth)

    return RepeatFilter(sum_up, clock)


def test_first_of_a_kind_are_written(repeats):
    """Ten of a kind go through as they come, then none for the rest of the minute."""
    lines = [repeats.take(("a",), n) for n in range(100)]

    assert [[n] for n in range(BURST)] + [[]] * 90 == lines


def test_window_ends_with_a_sum(repeats, clock):
    """After a minute it says how many more there were, and the last one; then it begins anew."""
    for n in range(1000):
        repeats.take(("a",), n)
    assert WINDOW_SECONDS == repeats.seconds()
    assert [] == repeats.due()

    clock.now = WINDOW_SECONDS
    assert 0 == repeats.seconds()
    assert [(999, 1000 - BURST)] == repeats.due()
    assert [] == repeats.due()
    assert None is repeats.seconds()
    assert [5] == repeats.take(("a",), 5)


def test_what_was_not_folded_has_no_sum(repeats, clock):
    """Ten or fewer in a minute are all there, and no thread is woken for them."""
    for n in range(BURST):
        repeats.take(("a",), n)
    assert None is repeats.seconds()

    clock.now = WINDOW_SECONDS
    assert [] == repeats.due()


def test_kinds_are_apart(repeats):
    """One noisy kind hides no other."""
    for n in range(100):
        repeats.take(("noisy",), n)

    assert ["hello"] == repeats.take(("other",), "hello")
    assert [(99, 100 - BURST)] == repeats.rest()


def test_memory_is_bounded(repeats):
    """With more kinds than it remembers the oldest is summed up at once."""
    for n in range(20):
        repeats.take(("first",), n)
    lines = []
    for kind in range(MAX_GROUPS * 3):
        lines += repeats.take((kind,), kind)

    assert (19, 20 - BURST) in lines
    assert list(range(MAX_GROUPS * 3)) == [line for line in lines if line != (19, 20 - BURST)]
    assert inside.count_of_kinds(repeats) == MAX_GROUPS


def test_a_few_noisy_ones_are_folded_each_by_itself(repeats):
    """The neighbours of a noisy one, near or far, are not behind its lines."""
    for n in range(100):
        repeats.take(("why", "net", "sub", "noisy"), n)
    for path in (("net", "sub", "calm"), ("net", "other", "x"), ("far", "y", "z")):
        assert ["hello"] == repeats.take(("why",) + path, "hello")
    assert [(99, 100 - BURST)] == repeats.rest()


def test_many_noisy_ones_are_folded_by_the_group_that_they_are_in(repeats):
    """Beyond a number of parts a group has ten lines for all further ones, and one sum."""
    lines = []
    for n in range(MAX_PARTS + 1000):
        lines += repeats.take(("why", "net", "sub", n), n)
    assert list(range(MAX_PARTS + BURST)) == lines
    assert [(MAX_PARTS + 999, 1000 - BURST, 2)] == repeats.rest()


def test_a_line_may_be_wanted_in_any_case(repeats):
    """It is written beyond the ten, and no sum counts it."""
    lines = [repeats.take(("a",), n, always=n in (0, 50)) for n in range(100)]
    assert [*range(BURST), 50] == [line for written in lines for line in written]
    assert [(99, 100 - BURST - 1)] == repeats.rest()


def test_groups_are_bounded(repeats):
    """Whatever networks lines come from, so many are remembered, and forgotten in time."""
    written = []
    for n in range(20000):
        written += repeats.take(("why", n % 70, n % 4900, n), n)
    assert inside.counted_groups(repeats) == MAX_GROUPS
    sums = repeats.rest()
    assert len(sums) <= MAX_GROUPS
    assert 20000 == len(written) + sum(line[1] for line in sums)
    assert 0 == inside.counted_groups(repeats) == inside.count_of_kinds(repeats)


PATHS = st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map(tuple)


@given(st.lists(st.tuples(PATHS, st.floats(0, 50))))
def test_nothing_is_lost_uncounted(steps):
    """Whatever comes when: lines written and lines summed up are as many as have come."""
    clock = Clock(0.0)
    repeats = RepeatFilter(lambda line, count, depth: count, clock)
    written = []
    for kind, seconds in steps:
        clock.now += seconds
        written += repeats.take(kind, "line")
    written += repeats.rest()

    assert len(steps) == sum(1 if line == "line" else line for line in written)


# The budget of lines about refused clients, all together


@pytest.fixture
def budget(clock):
    """A budget that no line has used yet."""
    return Budget(clock)


def test_some_at_once_then_so_many_a_second(budget, clock):
    """What is not used is there later, up to the burst."""
    assert [True] * REFUSAL_BURST + [False] * 50 == [
        budget.allows() for _ in range(REFUSAL_BURST + 50)
    ]
    clock.now = 2.0
    assert 2 * REFUSALS_PER_SECOND == sum(budget.allows() for _ in range(50))
    clock.now = 1e6
    assert REFUSAL_BURST == sum(budget.allows() for _ in range(REFUSAL_BURST + 50))


def test_the_first_line_of_each_site_is_free(budget, clock):
    """A flood from one place hides no other place; and many places are no flood, either."""
    first = [budget.is_first(n) for n in range(2 * MAX_SITES)]
    assert [True] * MAX_SITES + [False] * MAX_SITES == first
    assert not budget.is_first(0)
    assert len(inside.known_sites(budget)) == MAX_SITES
    assert [True] * REFUSAL_BURST + [False] == [budget.allows() for _ in range(REFUSAL_BURST + 1)]


def test_each_window_has_its_sum_and_its_first_lines(budget, clock):
    """Sums are by reason; where nothing was skipped there is none, and no wait."""
    assert None is budget.seconds()
    assert budget.is_first("a")
    budget.skip("limit", 3)
    budget.skip("limit")
    budget.skip("not SOCKS")
    assert None is budget.due()
    assert WINDOW_SECONDS == budget.seconds()
    clock.now = WINDOW_SECONDS
    assert 0 == budget.seconds()
    assert {"limit": 4, "not SOCKS": 1} == budget.due()
    assert None is budget.due()
    assert None is budget.seconds()
    assert [True, False] == [budget.is_first("a") for _ in range(2)]
    clock.now += WINDOW_SECONDS
    assert budget.is_first("a")


def test_skipped_lines_of_many_threads_are_all_counted(budget):
    """Clients are refused in many threads at once."""
    threads = [
        threading.Thread(target=lambda: [budget.skip("x") for _ in range(2000)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {"x": 16000} == budget.rest()


@given(st.lists(st.tuples(st.integers(0, 500), st.floats(0, 5)), max_size=300))
def test_no_order_of_events_writes_more(steps):
    """In any time: the burst, the rate, and the first of so many sites in each window."""
    clock = Clock(0.0)
    budget = Budget(clock)
    written = skipped = 0
    for site, seconds in steps:
        clock.now += seconds
        skipped += sum((budget.due() or {}).values())
        if budget.is_first(site) or budget.allows():
            written += 1
        else:
            budget.skip("x")
    windows = 1 + clock.now // WINDOW_SECONDS
    assert written <= REFUSAL_BURST + REFUSALS_PER_SECOND * clock.now + MAX_SITES * windows
    assert len(steps) == written + skipped + sum((budget.rest() or {}).values())
