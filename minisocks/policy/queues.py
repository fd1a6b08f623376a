"""What waits for an ``Allowance`` of ``quota``: which of it goes first.  Pure decisions."""

from typing import Any, Callable, Dict, Generic, Hashable, List, Optional, Tuple, TypeVar

from minisocks.policy.client import THIS_HOST, Groups, is_client
from minisocks.policy.quota import Allowance

__all__ = ["Queue"]

_Item = TypeVar("_Item", bound=Hashable)
_HERE = THIS_HOST[0]

#: What waits, by group and the groups in it; on the last level a list, the oldest first.
_Waiting = Dict[bytes, Any]


class Queue(Generic[_Item]):
    """What waits for an ``Allowance``: the group with fewest running goes first.

    Then, in it, the group with fewest on the next level, and so on; of those with equally many
    one of which nothing has ended for longest.  One client has no more than its network has room
    for beside them: its neighbours find some.

    Args:
        running: what is running, by the widest groups; this object counts in and out.
        rank: of a group, given with all that it is in, what goes first has the lowest; None:
            by how many of it are running.
    """

    def __init__(
        self, running: Allowance, rank: Optional[Callable[[Groups], float]] = None
    ) -> None:
        self._running = running
        self._counts: Dict[Groups, int] = {}
        self._rank = rank
        self._waiting: _Waiting = {}
        self._length = 0

    def __len__(self) -> int:
        """Return how many wait."""
        return self._length

    def add(self, item: _Item, groups: Groups) -> None:
        """Have *item* wait."""
        self._length += 1
        here = self._waiting
        for key in groups[:-1]:
            here = here.setdefault(key, {})
        here.setdefault(groups[-1], []).append(item)

    def waiting(self, groups: Groups) -> List[_Item]:
        """Return what waits of just these groups, the oldest first."""
        here: Any = self._waiting
        for key in groups:
            here = here.get(key)
            if here is None:
                return []
        return list(here)

    def remove(self, item: _Item, groups: Groups) -> bool:
        """Forget *item*; return whether it waited."""
        if item not in self.waiting(groups):
            return False
        self._take_out(groups, item)
        return True

    def has_room(self, groups: Groups) -> bool:
        """Return whether one more of *groups* may run."""
        return all(self._may_run(groups[:level]) for level in range(1, len(groups) + 1))

    def take(self) -> Optional[Tuple[_Item, Groups]]:
        """Return what may run, with its groups, and count it until ``done``; None: nothing may."""
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
        """Count out what ``take`` returned."""
        self._running.remove(groups)
        for level in range(1, len(groups) + 1):
            left = self._counts.pop(groups[:level]) - 1
            if left:
                self._counts[groups[:level]] = left
        # Now, not when it was taken: others may have come since, which go first.
        here: Any = self._waiting
        for key in groups:
            if not isinstance(here, dict) or key not in here:
                break
            here[key] = below = here.pop(key)
            here = below

    def _first(self, here: Any, path: Groups = ()) -> Groups:
        """Return the groups, in *here* at *path*, of which one goes first; (): none may."""
        best, lowest = path[:0], 0.0
        if not isinstance(here, dict):
            return path
        for key in here:
            group = path + (key,)
            count = self._counts.get(group, 0)
            if not self._may_run(group):
                if path or count or key == _HERE:
                    continue
                # Another network with none running may not, either; only this host may.
                is_ours = _HERE in here and self._running.has_room(THIS_HOST)
                return self._first(here[_HERE], THIS_HOST) if is_ours else ()
            rank = count if self._rank is None else self._rank(group)
            if not best or rank < lowest:
                found = self._first(here[key], group)
                if not found:
                    continue
                best, lowest = found, rank
            if not rank:
                break  # so that no more are looked at than are running
        return best

    def _may_run(self, group: Groups) -> bool:
        """Return whether the last level of *group* lets one more in it run."""
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
