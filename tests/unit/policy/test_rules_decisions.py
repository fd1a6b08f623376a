"""Decisions that are kept are those that the rules would make."""

import itertools

import pytest

from kit import inside
from minisocks.policy.client import Client
from minisocks.policy.decisions import MAX_KEPT, Decisions
from minisocks.policy.rulelines import parse_rule
from minisocks.policy.rules import Rules
from minisocks.wire import Address, Atyp, Cmd, Ver, packed_ip

TARGETS = [packed_ip(text) for text in ("192.0.2.1", "192.0.2.2", "2001:db8::1", "fe80::1")]


class Asked(Rules):
    """Rules that count how often they are asked about addresses."""

    count = 0

    def decide(self, *args):
        """Count and decide."""
        self.count += 1
        return super().decide(*args)


def rules(*lines):
    return Asked([parse_rule(line, None) for line in lines], has_users=True)


def client(ip="198.51.100.1", user=None, is_unproven=False):
    made = Client((ip, 4000))
    made.user, made.is_unproven = user, is_unproven
    return made


def ask(
    kept, who=None, ver=Ver.SOCKS5, cmd=Cmd.CONNECT, port=80, ip=TARGETS[0], scope=0, changes=0
):
    dst = Address(b"192.0.2.1", port, Atyp.IPV4)
    return kept.decide(who or client(), ver, cmd, dst, ip, scope, changes)


def test_rules_are_asked_once():
    """The kept decision stands as long as nothing has changed."""
    asked = rules("allow")
    kept = Decisions(asked)
    for count in (1, 2, 3):
        for _ in range(5):
            assert ask(kept, changes=count).allowed
        assert count == asked.count


@pytest.mark.parametrize("lines", [("deny",), ("allow to 192.0.2.2",)])
def test_what_is_denied_is_not_kept(lines):
    """It may have been in doubt."""
    asked = rules(*lines)
    kept = Decisions(asked)
    assert [False] * 2 == [ask(kept).allowed for _ in range(2)]
    assert 2 == asked.count


def test_nothing_is_kept_where_changes_cannot_be_seen():
    """Each time the rules are asked."""
    asked = rules("allow")
    kept = Decisions(asked)
    assert [True] * 2 == [ask(kept, changes=None).allowed for _ in range(2)]
    assert 2 == asked.count


def test_they_are_about_all_that_rules_ask_for():
    """No decision stands for another request."""
    own = rules("deny from 198.51.100.2", "deny user ann to 192.0.2.1", "deny command bind port 80",
                "allow port 80 version 5", "allow user any port 81", "deny to 2001:db8::/32",
                "allow port 81-82 to 192.0.2.2 fe80::/10")  # fmt: skip
    kept = Decisions(own)
    who = [client(ip, user, is_unproven) for ip, user, is_unproven in itertools.product(
        ("198.51.100.1", "198.51.100.2"), (None, b"ann", b"bob"), (False, True))]  # fmt: skip
    requests = list(itertools.product(
        who, (Ver.SOCKS4, Ver.SOCKS5), (Cmd.CONNECT, Cmd.BIND), (80, 81, 82), TARGETS))  # fmt: skip
    allowed = set()
    for _ in range(2):
        for one, ver, cmd, port, ip in requests:
            dst = Address(b"192.0.2.1", port, Atyp.IPV4)
            decision = ask(kept, one, ver, cmd, port, ip)
            assert Rules.decide(own, one, ver, cmd, dst, ip) == decision
            allowed.add(decision.allowed)
    assert {True, False} == allowed


def test_the_link_counts():
    """A link-local address is another one on another link."""
    asked = rules("allow")
    kept = Decisions(asked)
    for scope in (0, 1, 2, 1, 2):
        assert ask(kept, ip=TARGETS[3], scope=scope).allowed
    assert 3 == asked.count


def test_there_is_a_bound():
    """No more decisions are kept, however many targets there are."""
    kept = Decisions(rules("allow"))
    for number in range(3 * MAX_KEPT):
        ask(kept, port=number)
        assert len(inside.kept_decisions(kept)) <= MAX_KEPT
