"""How much all refused clients together may have written."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import inside
from kit.support import Clock
from minisocks.service.repeats import (
    MAX_SITES,
    REFUSAL_BURST,
    REFUSALS_PER_SECOND,
    WINDOW_SECONDS,
    Budget,
)


@pytest.fixture
def clock():
    """A clock that a test moves."""
    return Clock(0.0)


@pytest.fixture
def budget(clock):
    """One that nothing has been taken from."""
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
    """By why; where nothing was skipped there is none, and no wait."""
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
