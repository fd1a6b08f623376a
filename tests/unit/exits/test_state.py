"""What is remembered of exits that have failed."""

import pytest

from minisocks.errors import ExitFailed
from minisocks.exits.state import PASSED_OVER_SECONDS, Exits, Failure
from minisocks.policy.exitlines import parse_exits
from minisocks.policy.exits import Exit


def exits_of(*texts):
    return parse_exits(texts, open)


BOTH = exits_of("office = socks5://10.0.0.1", "tor = socks5h://127.0.0.1:9050")


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def exits(clock):
    exits = Exits(clock)
    exits.adopt(BOTH)
    return exits


def names(found):
    return [one.name for one in found]


def test_nothing_is_known_of_an_exit_that_has_not_failed(exits):
    """It is tried."""
    assert exits.last_failure("tor") is None
    assert ["office", "tor"] == names(exits.usable(list(BOTH.values())))


def test_one_that_has_failed_is_passed_over_and_then_tried_by_one(exits, clock):
    """After its time is over the next connection tries it, and others go on without it."""
    exits.failed("office", Exception("gone"))
    both = list(BOTH.values())

    clock.now += PASSED_OVER_SECONDS - 1
    assert ["tor"] == names(exits.usable(both))
    clock.now += 1
    assert ["office", "tor"] == names(exits.usable(both))
    exits.claim(BOTH["office"])
    assert ["tor"] == names(exits.usable(both))


def test_the_only_one_is_tried_although_it_has_failed(exits):
    """There is nothing better to try."""
    exits.failed("tor", Exception("gone"))

    assert ["tor"] == names(exits.usable([BOTH["tor"]]))
    assert ["other"] == names(exits.usable([Exit("other")]))


def test_its_last_failure_stays_when_it_works_again(exits, clock, caplog):
    """With its age, which a trial does not change; the log has a line at each edge."""
    exits.failed("tor", Exception("first"))
    clock.now += 20
    exits.failed("tor", Exception("second"))
    clock.now += PASSED_OVER_SECONDS
    exits.usable([BOTH["tor"]])
    clock.now += 5
    assert Failure("second", PASSED_OVER_SECONDS + 5, False) == exits.last_failure("tor")

    exits.worked("tor")
    exits.worked("tor")
    assert Failure("second", PASSED_OVER_SECONDS + 5, True) == exits.last_failure("tor")
    assert [
        "exit tor has failed, and is passed over where there is another one: 'first'",
        "exit tor works again",
    ] == caplog.messages


def test_a_reload_forgets_exits_that_it_removes_or_changes(exits):
    """A changed one is tried at once; the others are as they were."""
    exits.failed("office", Exception("gone"))
    exits.failed("tor", Exception("gone"))
    changed = exits_of("office = socks5://10.0.0.2", "tor = socks5h://127.0.0.1:9050")

    exits.adopt(changed)
    assert exits.last_failure("office") is None
    assert not exits.last_failure("tor").is_over
    assert ["office"] == names(exits.usable(list(changed.values())))
    exits.adopt({})
    exits.adopt(BOTH)
    assert exits.last_failure("tor") is None


A, B = Exit("a"), Exit("b")


@pytest.fixture
def failed(clock):
    """Exits of which A has failed."""
    found = Exits(clock)
    found.failed("a", ExitFailed("refused"))
    return found


def test_two_of_which_one_has_failed(failed, clock):
    """Unless there is no other one."""
    assert [B] == failed.usable([A, B])
    assert [A] == failed.usable([A])
    clock.now += PASSED_OVER_SECONDS
    assert [A, B] == failed.usable([A, B])


def test_one_connection_tries_it(failed, clock):
    """Others pass it over meanwhile, and if it does not work."""
    clock.now += PASSED_OVER_SECONDS
    claimed = failed.claim(A)
    assert [B] == failed.usable([A, B])
    failed.failed("a", ExitFailed("refused"))
    failed.release(A, claimed)
    assert [B] == failed.usable([A, B])
    failed.worked("a")
    assert [A, B] == failed.usable([A, B])


def test_only_the_connection_with_the_claim_gives_it_back(failed, clock):
    """Where all exits have failed, several connections try one at the same time."""
    clock.now += PASSED_OVER_SECONDS
    first, second = failed.claim(A), failed.claim(A)
    failed.release(A, second)
    assert [B] == failed.usable([A, B])
    failed.release(A, first)
    assert [A, B] == failed.usable([A, B])


def test_a_connection_that_ends_before_it_knows_does_not_keep_others_from_it(failed, clock):
    """The next one tries it."""
    clock.now += PASSED_OVER_SECONDS
    failed.release(A, failed.claim(A))
    assert [A, B] == failed.usable([A, B])
    failed.release(B, failed.claim(B))  # it works
    assert [A, B] == failed.usable([A, B])
