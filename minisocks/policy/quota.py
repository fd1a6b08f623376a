"""How clients share what there is only so much of: one law for all of it.

Clients are grouped by their networks (``client.groups_of``), because one machine may have many
addresses.  This host is one client.  Pure decisions; each object is guarded by its owner.

============= ============================================ ==================================
``Quota``     what can be ended: unfinished handshakes,    no share while there is room; then
              refused clients, look-ups that wait, BINDs   the largest group's oldest is ended
              that wait, associations
``Allowance`` what cannot be ended: connections, threads   a group has less than a multiple of
              that look names up or run hooks              what is free
``Queue``     what waits for an ``Allowance``              the group with fewest running first
============= ============================================ ==================================

Of each, an eighth is kept for this host; of the connections, of which one client alone may have
8/9, a sixteenth.  Clients behind forwarders are one group, because nothing tells them apart; of an
``Allowance`` that group has no share but what is kept for others.
"""

from typing import Any, Callable, Dict, Generic, Hashable, List, Optional, TypeVar

from minisocks.policy.client import FORWARDED, THIS_HOST, Groups

__all__ = ["Allowance", "Quota"]

#: One part of so many is kept for this host.
KEPT = 8
#: Of what cannot be ended one part of so many is kept for groups that have nothing.
KEPT_FOR_NEW = 64

_Item = TypeVar("_Item", bound=Hashable)
_HERE = THIS_HOST[0]


class _Group:
    """A network or an address: how much its clients hold, and the groups in it by that."""

    __slots__ = ("below", "by_count", "count")

    def __init__(self) -> None:
        self.count = 0
        self.below: Dict[bytes, _Group] = {}
        #: So that the largest is found without a look at all.
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
        """Return the key of the largest group in this one, but for *spared*.

        Of several the one that has been as large for longest.  There are few different counts:
        k of them are k * k / 2 items.
        """
        for count in sorted(self.by_count, reverse=True):
            for key in self.by_count[count]:
                if key != spared:
                    return key
        return None


class Quota(Generic[_Item]):
    """A bound on what can be ended, shared by clients.

    While there is room, no client has a share.  When there is none: in the widest level's
    largest group, in it the next level's largest, and so on, the last address's oldest item
    makes room for a newcomer, if the newcomer's group, on the level where both part, has at
    least *fewer* less.  Else the newcomer is refused.

    Args:
        most: how much there may be.
        fewer: 1 where a newcomer may end what is as old as it will be; such a newcomer also
            ends the oldest of its own address.
        age: orders the items of one address, the first to end has the lowest; None: as added.
    """

    def __init__(
        self, most: int, fewer: int = 2, age: Optional[Callable[[_Item], Any]] = None
    ) -> None:
        self.most = most
        self._fewer = fewer
        self._age = age
        self._used = 0
        #: By address, the oldest first; with what each counts for.
        self._items: Dict[Groups, Dict[_Item, int]] = {}
        #: Sums of groups, only while they may be needed.
        self._sums: Optional[_Group] = None

    def __len__(self) -> int:
        """Return how much there is."""
        return self._used

    def held_by(self, groups: Groups) -> int:
        """Return how much one address holds."""
        return sum(self._items.get(groups, {}).values())

    def items(self) -> List[_Item]:
        """Return all."""
        return [item for here in self._items.values() for item in here]

    def add(self, item: _Item, groups: Groups, weight: int = 1) -> None:
        """Count *item* in, or for so much more if it is there."""
        here = self._items.setdefault(groups, {})
        here[item] = here.get(item, 0) + weight
        self._used += weight
        if self._sums is not None:
            self._change_sums(self._sums, groups, weight)

    def remove(self, item: _Item, groups: Groups) -> bool:
        """Count *item* out; return whether it was there."""
        here = self._items.get(groups, {})
        weight = here.pop(item, None)
        if weight is None:
            return False
        if not here:
            del self._items[groups]
        self._used -= weight
        if self._sums is not None:
            self._change_sums(self._sums, groups, -weight)
        return True

    def reduce(self, item: _Item, groups: Groups, weight: int) -> None:
        """Count *item*, which is there, for so much less."""
        here = self._items[groups]
        here[item] -= weight
        if here[item] <= 0:
            del here[item]
            if not here:
                del self._items[groups]
        self._used -= weight
        if self._sums is not None:
            self._change_sums(self._sums, groups, -weight)

    @property
    def is_full(self) -> bool:
        """Whether there is room for nothing more."""
        return self._used >= self.most

    def make_room(self, groups: Groups, end: Callable[[_Item], object]) -> bool:
        """See to it that one of *groups* has room; return False if it is refused.

        Args:
            end: called with what has to end for it, if anything has; that counts it out.
        """
        if not self.is_full:
            return True
        victim = self.victim(groups)
        if victim is None:
            return False
        end(victim)
        return True

    def victim(self, groups: Groups) -> Optional[_Item]:
        """Return what has to end for a newcomer of *groups*; None: the newcomer is refused.

        For a quota that is full.
        """
        if self._sums is None:
            self._sum_up()
        group = self._sums
        assert group is not None
        here = group.below.get(_HERE)
        local, reserve = here.count if here is not None else 0, self.most // KEPT
        # What is kept for this host: it always has that much, and loses none of it.
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

    def _change_sums(self, sums: _Group, groups: Groups, weight: int) -> None:
        if 4 * self._used < self.most:
            self._sums = None
        else:
            sums.add(groups, weight)

    def _sum_up(self) -> None:
        self._sums = _Group()
        for groups, items in self._items.items():
            self._sums.add(groups, sum(items.values()))


class Allowance:
    """A bound on what cannot be ended, shared by clients.

    A group has less than *factor* times what is free, but one at least.  What two groups
    leave may be too little for a third, so the last is for those that have nothing: some is
    free for others until there are as many groups.  A group is the widest that a client is in:
    one in it never has more.  What is behind forwarders may be all clients that there are, so it
    may have all but what is kept.

    Args:
        most: how much there may be; None: there is no bound.
        kept: one part of so many is kept for this host.
    """

    def __init__(self, most: Optional[int], factor: float, kept: int = KEPT) -> None:
        self.most = most
        self._factor = factor
        self._kept = kept
        self._used = 0
        self._by_group: Dict[bytes, int] = {}

    def __len__(self) -> int:
        """Return how much there is."""
        return self._used

    def has_room(self, groups: Groups, weight: int = 1) -> bool:
        """Return whether a client of *groups* may have so much more."""
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
        """Count so much in."""
        self._used += weight
        self._by_group[groups[0]] = self._by_group.get(groups[0], 0) + weight

    def remove(self, groups: Groups, weight: int = 1) -> None:
        """Count so much out."""
        self._used -= weight
        left = self._by_group.pop(groups[0]) - weight
        if left:
            self._by_group[groups[0]] = left
