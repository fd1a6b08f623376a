"""How clients share a limited resource: the same rules for all resources.  Pure.

Clients are grouped by their networks (``client.groups_of``), because one machine may have many
addresses.  This host is one client.  The owner of each object guards it.

============= ============================================ ==================================
``Quota``     what can be ended: unfinished handshakes,    no share while there is room; then
              refused clients, look-ups that wait, BINDs   the oldest of the largest group is
              that wait, associations                      ended
``Allowance`` what cannot be ended: connections, threads   a group has less than a multiple of
              that look names up or run hooks              what is free
``Queue``     what waits for an ``Allowance``              the group with fewest running first
============= ============================================ ==================================

An eighth of each is kept for this host; a sixteenth of the connections, because one client alone
may have 8/9 of them.  Clients behind forwarders are one group, because nothing distinguishes
them; in an ``Allowance`` that group may take all but what is kept for others.
"""

from typing import Any, Callable, Dict, Generic, Hashable, List, Optional, Tuple, TypeVar

from minisocks.policy.client import FORWARDED, THIS_HOST, Groups, is_client

__all__ = ["Allowance", "Queue", "Quota"]

#: 1/KEPT is kept for this host.
KEPT = 8
#: 1/KEPT_FOR_NEW of an ``Allowance`` is kept for groups that have nothing.
KEPT_FOR_NEW = 64

_Item = TypeVar("_Item", bound=Hashable)
_HERE = THIS_HOST[0]


class _Group:
    """A network or an address: how much its clients hold, and the groups in it."""

    __slots__ = ("below", "by_count", "count")

    def __init__(self) -> None:
        self.count = 0
        self.below: Dict[bytes, _Group] = {}
        #: The keys of ``below`` by count, so that the largest is found without a look at all.
        self.by_count: Dict[int, Dict[bytes, None]] = {}

    def add(self, groups: Groups, change: int) -> None:
        """Add *change* to this group and to those of *groups* in it."""
        group = self
        group.count += change
        for key in groups:
            group = group._add_to(key, change)

    def _add_to(self, key: bytes, change: int) -> "_Group":
        group = self.below.get(key)
        if group is None:
            group = self.below[key] = _Group()
        if group.count:
            same = self.by_count[group.count]
            del same[key]
            if not same:
                del self.by_count[group.count]
        group.count += change
        if group.count:
            self.by_count.setdefault(group.count, {})[key] = None
        else:
            del self.below[key]
        return group

    def largest(self, spared: Optional[bytes]) -> Optional[bytes]:
        """Return the key of the largest group in this one, except *spared*.

        Among equals it is the one that has had its size for longest.  There are few different
        counts, because k of them are k * k / 2 items.
        """
        for count in sorted(self.by_count, reverse=True):
            for key in self.by_count[count]:
                if key != spared:
                    return key
        return None


class Quota(Generic[_Item]):
    """A bound on what can be ended, shared by clients.

    While there is room, no client has a share.  When it is full, the victim is the oldest item
    of the largest group on the last level: the largest network, the largest group in it, and so
    on.  It ends if the newcomer's group, on the first level where the two differ, has at least
    *fewer* items less.  Otherwise the newcomer is refused.

    Args:
        most: the limit, in items or in their weight.
        fewer: with 1, a newcomer also ends the oldest item of its own address.
        age: key of the items of one address; the lowest ends first.  None: as added.
    """

    def __init__(
        self, most: int, fewer: int = 2, age: Optional[Callable[[_Item], Any]] = None
    ) -> None:
        self.most = most
        self._fewer = fewer
        self._age = age
        self._used = 0
        #: Items and their weight by address, the oldest first.
        self._items: Dict[Groups, Dict[_Item, int]] = {}
        #: Sums by group, only while they may be needed.
        self._sums: Optional[_Group] = None

    def __len__(self) -> int:
        """Return how much is used."""
        return self._used

    def held_by(self, groups: Groups) -> int:
        """Return how much one address uses."""
        return sum(self._items.get(groups, {}).values())

    def items(self) -> List[_Item]:
        """Return all items."""
        return [item for here in self._items.values() for item in here]

    def add(self, item: _Item, groups: Groups, weight: int = 1) -> None:
        """Add *item*, or add *weight* to it if it is there."""
        here = self._items.setdefault(groups, {})
        here[item] = here.get(item, 0) + weight
        self._count(groups, weight)

    def remove(self, item: _Item, groups: Groups) -> bool:
        """Remove *item*; return whether it was there."""
        here = self._items.get(groups, {})
        weight = here.pop(item, None)
        if weight is None:
            return False
        if not here:
            del self._items[groups]
        self._count(groups, -weight)
        return True

    def reduce(self, item: _Item, groups: Groups, weight: int) -> None:
        """Take *weight* from *item*, which must be there; without weight it is removed."""
        here = self._items[groups]
        here[item] -= weight
        if here[item] <= 0:
            del here[item]
            if not here:
                del self._items[groups]
        self._count(groups, -weight)

    @property
    def is_full(self) -> bool:
        """Whether there is no more room."""
        return self._used >= self.most

    def make_room(self, groups: Groups, end: Callable[[_Item], object]) -> bool:
        """Make room for an item of *groups*; return False if it is refused.

        Args:
            end: called with the victim, if there is one; it must remove the victim.
        """
        if not self.is_full:
            return True
        victim = self.victim(groups)
        if victim is None:
            return False
        end(victim)
        return True

    def victim(self, groups: Groups) -> Optional[_Item]:
        """Return what a newcomer of *groups* ends in a full quota; None: it is refused."""
        if self._sums is None:
            self._sum_up()
        group = self._sums
        assert group is not None
        here = group.below.get(_HERE)
        local, reserve = here.count if here is not None else 0, self.most // KEPT
        # This host gets what is kept for it, and loses none of it.
        is_owed = groups == THIS_HOST and local < reserve
        spared = _HERE if is_owed or local <= reserve else None
        path: List[bytes] = []
        has_parted = False
        while group.below:
            level = len(path)
            mine = None if has_parted or level >= len(groups) else groups[level]
            key = group.largest(None if path else spared)
            if key is None:
                return None
            largest = group.below[key]
            if key != mine and not has_parted:
                has_parted = True
                own = group.below.get(mine) if mine is not None else None
                count = own.count if own is not None else 0
                if not is_owed and count + self._fewer > largest.count:
                    return None
            path.append(key)
            group = largest
        if not path or (not has_parted and self._fewer > 1):
            return None
        items = self._items[tuple(path)]
        return next(iter(items)) if self._age is None else min(items, key=self._age)

    def _count(self, groups: Groups, change: int) -> None:
        self._used += change
        if self._sums is not None:
            if 4 * self._used < self.most:
                self._sums = None
            else:
                self._sums.add(groups, change)

    def _sum_up(self) -> None:
        self._sums = _Group()
        for groups, items in self._items.items():
            self._sums.add(groups, sum(items.values()))


class Allowance:
    """A bound on what cannot be ended, shared by clients.

    A group, the widest network of a client, has less than *factor* times what is free, but at
    least one.  Two groups may leave too little for a third, so a part is kept for groups that
    have nothing.  Clients behind forwarders may be all clients that there are, so their group
    may have all but what is kept.

    Args:
        most: the limit; None: none.
        kept: 1/*kept* is kept for this host.
    """

    def __init__(self, most: Optional[int], factor: float, kept: int = KEPT) -> None:
        self.most = most
        self._factor = factor
        self._kept = kept
        self._used = 0
        self._by_group: Dict[bytes, int] = {}

    def __len__(self) -> int:
        """Return how much is used."""
        return self._used

    def has_room(self, groups: Groups, weight: int = 1) -> bool:
        """Return whether a client of *groups* may have *weight* more."""
        if self.most is None:
            return True
        top = groups[0]
        here, local = self._by_group.get(top, 0), self._by_group.get(_HERE, 0)
        reserve = self.most // self._kept
        free = self.most - self._used
        if top == _HERE and (local == self._used or local + weight <= reserve):
            return weight <= free
        kept = 0 if top == _HERE else max(0, reserve - local)
        if not here:
            return weight <= free - kept
        kept += self.most // KEPT_FOR_NEW
        has_share = top == FORWARDED[0] or here + weight - 1 < self._factor * free
        return weight <= free - kept and has_share

    def add(self, groups: Groups, weight: int = 1) -> None:
        """Add *weight*."""
        self._used += weight
        self._by_group[groups[0]] = self._by_group.get(groups[0], 0) + weight

    def remove(self, groups: Groups, weight: int = 1) -> None:
        """Remove *weight*."""
        self._used -= weight
        left = self._by_group.pop(groups[0]) - weight
        if left:
            self._by_group[groups[0]] = left


class Queue(Generic[_Item]):
    """Items that wait for an ``Allowance``: the group with fewest running goes first.

    In it, the group with fewest running on the next level goes first, and so on; among equals,
    the one in which nothing has ended for longest.  One client never takes all that its network
    may have.

    Args:
        running: what runs, by the widest groups; this object adds and removes.
        rank: key of a group (given with the groups around it): the lowest goes first.  None:
            how many of it run.
    """

    def __init__(
        self, running: Allowance, rank: Optional[Callable[[Groups], float]] = None
    ) -> None:
        self._running = running
        self._counts: Dict[Groups, int] = {}
        self._rank = rank
        #: By group and the groups in it; on the last level a list, the oldest first.
        self._waiting: Dict[bytes, Any] = {}
        self._length = 0

    def __len__(self) -> int:
        """Return how many items wait."""
        return self._length

    def add(self, item: _Item, groups: Groups) -> None:
        """Add *item*, which waits."""
        self._length += 1
        here = self._waiting
        for key in groups[:-1]:
            here = here.setdefault(key, {})
        here.setdefault(groups[-1], []).append(item)

    def waiting(self, groups: Groups) -> List[_Item]:
        """Return what waits of exactly these groups, the oldest first."""
        here: Any = self._waiting
        for key in groups:
            here = here.get(key)
            if here is None:
                return []
        return list(here)

    def remove(self, item: _Item, groups: Groups) -> bool:
        """Remove *item*; return whether it waited."""
        if item not in self.waiting(groups):
            return False
        self._take_out(groups, item)
        return True

    def has_room(self, groups: Groups) -> bool:
        """Return whether another item of *groups* may run."""
        return all(self._may_run(groups[:level]) for level in range(1, len(groups) + 1))

    def take(self) -> Optional[Tuple[_Item, Groups]]:
        """Return the item that runs next and its groups; None: none may.  Call ``done`` later."""
        path = self._first(self._waiting)
        if not path:
            return None
        item = self.waiting(path)[0]
        self._take_out(path, item)
        self._running.add(path)
        for level in range(1, len(path) + 1):
            self._counts[path[:level]] = self._counts.get(path[:level], 0) + 1
        return item, path

    @property
    def has_next(self) -> bool:
        """Whether ``take`` would return something."""
        return bool(self._first(self._waiting))

    def done(self, groups: Groups) -> None:
        """Report the end of an item that ``take`` returned."""
        self._running.remove(groups)
        for level in range(1, len(groups) + 1):
            left = self._counts.pop(groups[:level]) - 1
            if left:
                self._counts[groups[:level]] = left
        # Now, not when it was taken: items that came since go first.
        here: Any = self._waiting
        for key in groups:
            if not isinstance(here, dict) or key not in here:
                break
            here[key] = below = here.pop(key)
            here = below

    def _first(self, here: Any, path: Groups = ()) -> Groups:
        """Return the groups of the item in *here*, at *path*, that goes first; (): none may."""
        best, lowest = path[:0], 0.0
        if not isinstance(here, dict):
            return path
        for key in here:
            group = path + (key,)
            count = self._counts.get(group, 0)
            if not self._may_run(group):
                if path or count or key == _HERE:
                    continue
                # No other network with none running may, either; only this host may.
                is_ours = _HERE in here and self._running.has_room(THIS_HOST)
                return self._first(here[_HERE], THIS_HOST) if is_ours else ()
            rank = count if self._rank is None else self._rank(group)
            if not best or rank < lowest:
                found = self._first(here[key], group)
                if not found:
                    continue
                best, lowest = found, rank
            if not rank:
                break  # no more are looked at than are running
        return best

    def _may_run(self, group: Groups) -> bool:
        """Return whether the last level of *group* allows another item to run."""
        if len(group) == 1:
            return self._running.has_room(group)
        count = self._counts.get(group, 0)
        return not count or not is_client(group) or self._running.has_room(group, count + 1)

    def _take_out(self, groups: Groups, item: _Item) -> None:
        self._length -= 1
        path: List[Any] = [self._waiting]
        for key in groups:
            path.append(path[-1][key])
        path.pop().remove(item)
        for here, key in zip(reversed(path), reversed(groups)):
            if here[key]:
                break
            del here[key]
