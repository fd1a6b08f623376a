"""One budget for all waits."""

import time

import pytest

from minisocks.errors import HandshakeTimeout
from minisocks.server.clientsocket import Deadline
from minisocks.wire import Rep


def test_waits_share_what_is_left():
    """Each wait gets no more than the one before left, and always something."""
    deadline = Deadline(60)

    left = [deadline.remaining() for _ in range(100)]

    assert sorted(left, reverse=True) == left
    assert 0 < left[-1] <= left[0] <= 60
    assert deadline.at - time.monotonic() <= left[-1]


@pytest.mark.parametrize("seconds", [0, -1, -1e9])
def test_spent_budget_is_an_error_for_ever(seconds):
    """When nothing is left, every further wait is an error, with the REP for it."""
    deadline = Deadline(seconds)

    for _ in range(2):
        with pytest.raises(HandshakeTimeout) as caught:
            deadline.remaining()
        assert Rep.TTL_EXPIRED == caught.value.rep


def test_time_that_was_not_the_client_s_is_given_back():
    """What ``extend`` gives is there, in full, even if all was spent."""
    deadline = Deadline(-1)
    deadline.extend(61)

    assert 59 < deadline.remaining() <= 60
