"""Who is connected now: how many, of which client, by which user; and whether one more may be.

A connection counts from the moment its request is considered until its record ends,
however that comes.
"""

import threading
from typing import Dict, Hashable, Optional

from minisocks.config.settings import Config
from minisocks.errors import LimitReached
from minisocks.policy.quota import Allowance
from minisocks.quoting import MOST_TOLD, quoted
from minisocks.record import Record, Witness

__all__ = ["ConnectionLimits"]

#: How many times of what is free one group of clients may have: one alone has 8/9 of all.
FACTOR = 8
#: One part of so many is kept for this host.
KEPT = 16


class ConnectionLimits(Witness):
    """The counts of one run of a proxy.

    A class because the counts must agree with each other: a connection is in all of
    them or in none.  Counts also without limits, for a reload may bring some.  Any
    thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all = Allowance(None, FACTOR, KEPT)
        self._clients: Dict[Hashable, int] = {}
        self._users: Dict[Hashable, int] = {}

    def __len__(self) -> int:
        """Return how many connections there are."""
        return len(self._all)

    def enter(self, record: Record, config: Config) -> None:
        """Count *record* in, until it ends.

        Raises:
            LimitReached: it would be one more than *config* allows; it is not counted.
        """
        client = record.client
        place, groups, user = client.key, client.groups, client.user
        with self._lock:
            self._all.most = config.max_connections
            here, by_user = self._clients.get(place, 0), self._users.get(user, 0)
            if _is_reached(len(self._all), config.max_connections):
                raise _limit("there are", config.max_connections, "--max-connections")
            if not self._all.has_room(groups):
                raise _share(client.place, config.max_connections)
            if place is not None and _is_reached(here, config.max_per_client):
                raise _limit(client.place + " has", config.max_per_client, "--max-per-client")
            if user is not None and _is_reached(by_user, config.max_per_user):
                name = quoted(user, MOST_TOLD)
                raise _limit("user %s has" % name, config.max_per_user, "--max-per-user")
            self._all.add(groups)
            self._clients[place] = here + 1
            if user is not None:
                self._users[user] = by_user + 1
            record.counted_by = self

    def ended(self, record: Record) -> None:
        """Count *record* out."""
        client = record.client
        with self._lock:
            self._all.remove(client.groups)
            _one_less(self._clients, client.key)
            if client.user is not None:
                _one_less(self._users, client.user)


def _is_reached(count: int, limit: Optional[int]) -> bool:
    return limit is not None and count >= limit


def _limit(who: str, limit: Optional[int], option: str) -> LimitReached:
    # Not the count, which may be more after a reload: the words must stay the same.
    return LimitReached("%s %s connections already (%s %s)" % (who, limit, option, limit))


def _share(place: str, limit: Optional[int]) -> LimitReached:
    text = "%s and its network have their share of the connections (--max-connections %s)"
    return LimitReached(text % (place, limit))


def _one_less(counts: Dict[Hashable, int], key: Hashable) -> None:
    left = counts.pop(key) - 1
    if left:
        counts[key] = left
