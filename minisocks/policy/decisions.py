"""What the rules have allowed, kept as long as it holds."""

from typing import Any, Callable, Dict, Optional

from minisocks.policy.client import Client
from minisocks.policy.rulelines import Decision
from minisocks.policy.rules import Rules
from minisocks.wire import Address

__all__ = ["Decisions"]

#: More are not kept.  With the longest names they take 200 KiB.
MAX_KEPT = 256


class Decisions:
    """The decisions of one ``Rules`` about addresses, of which those that allow are kept.

    A class because they hold until it may have changed which addresses are this host's.  Most
    clients connect to the same few targets, and to ask the rules took a twelfth of what a
    connection costs.  What is denied is asked about each time: it may have been in doubt.  Any
    thread.

    Args:
        changes: ``OwnAddresses.changes``.
    """

    def __init__(self, rules: Rules, changes: Callable[[], Optional[int]]) -> None:
        self._rules = rules
        self._changes = changes
        self._kept: Dict[Any, Decision] = {}
        self._number: Optional[int] = None

    def decide(
        self, client: Client, ver: int, cmd: int, dst: Address, ip: bytes, scope: int = 0
    ) -> Decision:
        """Return what ``Rules.decide`` returns."""
        # The number is in the key: another thread may be about to keep what held before.
        number = self._changes()
        key = number, client.ip, client.user, client.is_unproven, ver, cmd, dst, ip, scope
        decision = self._kept.get(key)
        if decision is None:
            decision = self._rules.decide(client, ver, cmd, dst, ip, scope)
            if decision.allowed and number is not None:
                if number != self._number or len(self._kept) >= MAX_KEPT:
                    self._kept, self._number = {}, number
                self._kept[key] = decision
        return decision
