"""Failed logins, and how long the next try has to wait for them.  Pure.

The first failures are free: people mistype.  Then each wait is twice the last one, and a minute
without failures is worth half of them.  A success changes nothing: a client that guesses may
have a password of its own.
"""

import itertools
import math
from typing import Dict, List, NamedTuple, Tuple

from minisocks.policy.client import Groups

__all__ = ["FREE", "Penalties", "Scope", "scopes_of"]

#: So many failures of one client cost nothing.
FREE = 3
FIRST_SECONDS = 0.5
#: The longest wait of one client: with it, a client that guesses on has one guess in 13 s.
MOST_SECONDS = 30.0
#: And of a wider group, where clients wait for each other's failures.
MOST_GROUP_SECONDS = 2.0
#: After so many seconds half of the failures are forgotten.
HALF_LIFE_SECONDS = 60.0
#: So many more than are free count, or a browser that is sure of a wrong password would keep
#: all beside it out for long: two minutes later all waits are over.
MOST = 7
#: Entries at once; of so many that have not failed for longest, the one that has failed least
#: makes room.
MAX_ENTRIES = 4096
LOOKED_AT = 16


class Scope(NamedTuple):
    """What failures count by: how many of them cost nothing, and the longest wait.

    ``parts`` are an address or a wider group, the user, and a name where many are one user.
    """

    parts: Tuple[bytes, ...]
    free: int
    most_seconds: float


def scopes_of(row: Groups) -> List[Scope]:
    """Return the scopes of a login, its own first; in IPv6 an address is a /64.

    A wider one has twice as many free failures as the one in it.

    Args:
        row: the client's groups, and behind them the user, then perhaps a name, as (what it is,
            its bytes).
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
    """Failures by any key.

    A class because of the bound.  Guarded by its owner.  Times are seconds of one clock,
    the caller's.
    """

    def __init__(self) -> None:
        #: How many failures, as they counted at what time.
        self._failed: Dict[bytes, Tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._failed)

    def add(self, key: bytes, now: float, free: int = FREE) -> int:
        """Count a failure; return how many there are."""
        score = min(self.score(key, now) + 1, float(free + MOST))
        self._failed.pop(key, None)
        while len(self._failed) >= MAX_ENTRIES:
            # Of those that have not failed for longest: to look at all of them takes too long.
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
        """Return how long, from *now*, the next try has to wait: since the last failure.

        Args:
            part: of the whole time.
        """
        score, at = self._failed.get(key, (0.0, now))
        if round(score) < free:
            return 0.0
        delay = min(FIRST_SECONDS * 2.0 ** (round(score) - free), most)
        return max(0.0, at + part * delay - now)
