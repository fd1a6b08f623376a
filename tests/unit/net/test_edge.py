"""Shortages: one line when they begin, one when they are over, and no flood of lines."""

import pytest

import minisocks.net.capacity
from kit.support import Clock, log_kept
from minisocks.net.capacity import Edge


@pytest.fixture
def edge(monkeypatch):
    """An edge with a clock and its lines."""
    edge = Edge("over")
    edge.clock = Clock()
    monkeypatch.setattr(minisocks.net.capacity.time, "monotonic", edge.clock)
    with log_kept("minisocks") as log:
        edge.lines = log.lines
        yield edge


def test_each_edge_is_logged_once(edge):
    """However often it is reached meanwhile."""
    for _ in range(3):
        edge.reached("%s", "nothing left")
    for _ in range(3):
        edge.passed()
    assert ["at capacity: nothing left", "over"] == edge.lines


def test_one_that_comes_and_goes_is_logged_once_in_a_while(edge):
    """And one that comes to stay is logged later, if it came too soon after another one."""
    for _ in range(5):
        edge.reached("nothing left")
        edge.passed()
    edge.reached("nothing left")
    assert ["at capacity: nothing left", "over"] == edge.lines
    edge.clock.now += minisocks.net.capacity.EDGE_SECONDS
    edge.reached("nothing left")
    assert ["at capacity: nothing left", "over", "at capacity: nothing left"] == edge.lines
