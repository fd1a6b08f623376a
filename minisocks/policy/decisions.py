"""A cache of what the rules have allowed.  Pure."""

from typing import Any, Dict, Optional

from minisocks.policy.client import Client
from minisocks.policy.rulelines import Decision
from minisocks.policy.rules import Rules
from minisocks.wire import Address

__all__ = ["Decisions"]

#: Decisions that are kept.  With the longest names they take 200 KiB.
MAX_KEPT = 256


class Decisions:
    """A cache of what ``Rules.decide`` has allowed.  Any thread.

    It is valid until the addresses of this host may have changed.  Most clients connect to the
    same few targets, and the rules took a twelfth of the cost of a connection.  Denials are not
    kept, because they may have been made in doubt.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._kept: Dict[Any, Decision] = {}
        self._number: Optional[int] = None

    def decide(
        self,
        client: Client,
        ver: int,
        cmd: int,
        dst: Address,
        ip: bytes,
        scope: int,
        changes: Optional[int],
    ) -> Decision:
        """Return what ``Rules.decide`` returns; *changes* is that of ``OwnAddresses`` just now."""
        # The number is in the key, because another thread may be about to keep an old decision.
        key = (
            changes,
            client.ip,
            client.listener,
            client.user,
            client.is_unproven,
            ver,
            cmd,
            dst,
            ip,
            scope,
        )
        decision = self._kept.get(key)
        if decision is None:
            decision = self._rules.decide(client, ver, cmd, dst, ip, scope)
            if decision.allowed and changes is not None:
                if changes != self._number or len(self._kept) >= MAX_KEPT:
                    self._kept, self._number = {}, changes
                self._kept[key] = decision
        return decision
