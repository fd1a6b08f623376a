"""Failed logins, and how long the next attempt has to wait.  Pure.

The first failures cost nothing, because people mistype.  Then each wait is twice the last one, and
every minute without failures halves their number.  A success changes nothing, because a client
that guesses may also have a password of its own.
"""

import itertools
import math
from typing import Dict, List, NamedTuple, Tuple

from minisocks.policy.client import Groups

__all__ = ["FREE", "Penalties", "Scope", "scopes_of"]

#: Failures of one client without a wait.
FREE = 3
#: The first wait.
FIRST_SECONDS = 0.5
#: The longest wait of one client.  A client that continues to guess has one guess in 13 s.
MOST_SECONDS = 30.0
#: The longest wait of a wider group, whose clients wait for failures of each other.
MOST_GROUP_SECONDS = 2.0
#: The time after which half of the failures are forgotten.
HALF_LIFE_SECONDS = 60.0
#: Failures that count beyond the free ones: so all waits are over two minutes after the last,
#: even if a browser repeats a wrong password.
MOST = 7
#: Entries at once.  One more replaces the lowest score among the LOOKED_AT oldest.
MAX_ENTRIES = 4096
LOOKED_AT = 16


class Scope(NamedTuple):
    """What failures are counted for: ``free`` without a wait, then ``most_seconds`` at most.

    ``parts`` are an address or a wider group, the user, and a name where one user has many.
    """

    parts: Tuple[bytes, ...]
    free: int
    most_seconds: float


def scopes_of(row: Groups) -> List[Scope]:
    """Return the scopes of a login, the narrowest first; in IPv6 an address is a /64.

    Each has twice as many free failures as the one before it.

    Args:
        row: the groups of the client, then the user and perhaps a name, each as (kind, bytes).
    """
    groups = [part for part in row if not isinstance(part, tuple)]
    groups = groups[:-1] if len(groups) > 3 else groups
    user, *names = [part[1] for part in row if isinstance(part, tuple)]
    wider = [(group, user) for group in reversed(groups)]
    scopes: List[Scope] = []
    for parts in [(*wider[0], *names), *wider[not names :]]:
        free = 2 * scopes[-1].free if scopes else FREE
        scopes.append(Scope(parts, free, MOST_GROUP_SECONDS if scopes else MOST_SECONDS))
    return scopes


class Penalties:
    """Failures by key, at most ``MAX_ENTRIES``.

    Its owner guards it.  Times are seconds of a clock of the caller.
    """

    def __init__(self) -> None:
        #: By key: the score, and the time when it had that value; the oldest first.
        self._failed: Dict[bytes, Tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._failed)

    def add(self, key: bytes, now: float, free: int = FREE) -> int:
        """Add a failure; return how many count now."""
        score = min(self.score(key, now) + 1, float(free + MOST))
        self._failed.pop(key, None)
        while len(self._failed) >= MAX_ENTRIES:
            # Only the oldest ones, because all of them take too long.
            oldest = itertools.islice(self._failed, LOOKED_AT)
            del self._failed[min(oldest, key=lambda one: self.score(one, now))]
        self._failed[key] = score, now
        return round(score)

    def score(self, key: bytes, now: float) -> float:
        """Return how many failures count at the time *now*."""
        score, at = self._failed.get(key, (0.0, now))
        return score * math.pow(0.5, (now - at) / HALF_LIFE_SECONDS)

    def wait_seconds(
        self,
        key: bytes,
        now: float,
        free: int = FREE,
        most: float = MOST_SECONDS,
        part: float = 1.0,
    ) -> float:
        """Return how many seconds from *now* the next attempt has to wait.

        Args:
            part: the part of the wait after the last failure that applies.
        """
        score, at = self._failed.get(key, (0.0, now))
        if round(score) < free:
            return 0.0
        delay = min(FIRST_SECONDS * 2.0 ** (round(score) - free), most)
        return max(0.0, at + part * delay - now)
