"""Who has failed to log in, and how long the next try has to wait for that.  Pure.

The first failures are free: people mistype.  Then each wait is twice the last one, up
to half a minute, and a minute without failures is worth half of them.  Somebody who
guesses on gets about one guess in 13 s.  A success changes nothing: whoever guesses
may have a password of his own.
"""

import itertools
import math
from typing import Dict, Tuple

__all__ = ["FREE", "Penalties"]

#: So many failures cost nothing.
FREE = 3
FIRST_SECONDS = 0.5
MOST_SECONDS = 30.0
#: After so many seconds half of the failures are forgotten.
HALF_LIFE_SECONDS = 60.0
#: More are not counted, or a browser that is sure of a wrong password would keep
#: everybody beside it out for long: two minutes later all waits are over.
MOST = 10
#: Addresses remembered at once; of so many that have not failed for longest, the one
#: that has failed least makes room.
MAX_ADDRESSES = 4096
LOOKED_AT = 16


class Penalties:
    """Failures by address.

    A class because of the bound.  Guarded by its owner.  Times are seconds of one clock,
    the caller's.
    """

    def __init__(self) -> None:
        #: How many failures, as they counted at what time.
        self._failed: Dict[bytes, Tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._failed)

    def add(self, address: bytes, now: float) -> int:
        """Count a failure; return how many there are."""
        score = min(self.score(address, now) + 1, float(MOST))
        self._failed.pop(address, None)
        while len(self._failed) >= MAX_ADDRESSES:
            # Of those that have not failed for longest: to look at all of them takes too long.
            oldest = itertools.islice(self._failed, LOOKED_AT)
            del self._failed[min(oldest, key=lambda one: self.score(one, now))]
        self._failed[address] = score, now
        return round(score)

    def score(self, address: bytes, now: float) -> float:
        """Return how many failures count at the time *now*."""
        score, at = self._failed.get(address, (0.0, now))
        return score * math.pow(0.5, (now - at) / HALF_LIFE_SECONDS)

    def wait_seconds(self, address: bytes, now: float) -> float:
        """Return how long, from *now*, the address has to wait: since its last failure."""
        score, at = self._failed.get(address, (0.0, now))
        if round(score) < FREE:
            return 0.0
        delay = min(FIRST_SECONDS * 2.0 ** (round(score) - FREE), MOST_SECONDS)
        return max(0.0, at + delay - now)
