"""Who is connected now: how many, of which client, by which user; and whether one more may be.

A connection counts from the moment its request is considered until its record ends,
however that comes.
"""

import threading
from typing import Dict, Hashable, Optional

from minisocks.client import Client, neighbourhood
from minisocks.errors import LimitReached
from minisocks.record import Record, Witness
from minisocks.settings import Config
from minisocks.wire import quoted

__all__ = ["Census", "Shares"]


class Census(Witness):
    """The counts of one run of a proxy.

    A class because the counts must agree with each other: a connection is in all of
    them or in none.  Counts also without limits, for a reload may bring some.  Any
    thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all = 0
        self._clients: Dict[Hashable, int] = {}
        self._users: Dict[Hashable, int] = {}

    def __len__(self) -> int:
        """Return how many connections there are."""
        return self._all

    def enter(self, record: Record, config: Config) -> None:
        """Count *record* in, until it ends.

        Raises:
            LimitReached: it would be one more than *config* allows; it is not counted.
        """
        client = record.client
        place, user = neighbourhood(client.ip), client.user
        with self._lock:
            here, by_user = self._clients.get(place, 0), self._users.get(user, 0)
            if _is_reached(self._all, config.max_connections):
                raise _limit("there are", config.max_connections, "--max-connections")
            if _is_reached(here, config.max_per_client):
                raise _limit(client.place + " has", config.max_per_client, "--max-per-client")
            if user is not None and _is_reached(by_user, config.max_per_user):
                raise _limit("user %s has" % quoted(user), config.max_per_user, "--max-per-user")
            self._all += 1
            self._clients[place] = here + 1
            if user is not None:
                self._users[user] = by_user + 1
            record.counted_by = self

    def ended(self, record: Record) -> None:
        """Count *record* out."""
        client = record.client
        with self._lock:
            self._all -= 1
            _one_less(self._clients, neighbourhood(client.ip))
            if client.user is not None:
                _one_less(self._users, client.user)


def _is_reached(count: int, limit: Optional[int]) -> bool:
    return limit is not None and count >= limit


def _limit(who: str, limit: Optional[int], option: str) -> LimitReached:
    # Not the count, which may be more after a reload: the words must stay the same.
    return LimitReached("%s %s connections already (%s %s)" % (who, limit, option, limit))


def _one_less(counts: Dict[Hashable, int], key: Hashable) -> None:
    left = counts.pop(key) - 1
    if left:
        counts[key] = left


class Shares:
    """So many of something at once, half of them for each client.

    A class because the counts must agree.  Loop thread.

    Args:
        what: they are, for who is told that there is no room.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._all = 0
        self._clients: Dict[Hashable, int] = {}

    def enter(self, client: Client, most: int, option: str = "") -> None:
        """Count one of *client*'s in, of *most*; *option*, in words, is what says how many.

        Raises:
            LimitReached: there is no room for it; it is not counted.
        """
        place, share = neighbourhood(client.ip), max(1, most // 2)
        here = self._clients.get(place, 0)
        if here >= share:
            told = client.place, share, self._what, option
            raise LimitReached("%s has %d %s already, half of all%s" % told)
        if self._all >= most:
            raise LimitReached("there are %d %s already%s" % (most, self._what, option))
        self._all += 1
        self._clients[place] = here + 1

    def leave(self, client: Client) -> None:
        """Count one of *client*'s out."""
        self._all -= 1
        _one_less(self._clients, neighbourhood(client.ip))
