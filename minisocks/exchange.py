"""What all UDP associations of one proxy share: their bounds, and the names they ask for.

Nothing that one client does with datagrams may take what others need: sockets, ports,
memory.  So each bound is there twice, for all and for one client: half of it.
"""

import collections
import time
from typing import Any, Callable, Dict, Hashable, Optional, Set

from minisocks.client import Client, neighbourhood
from minisocks.errors import LimitReached
from minisocks.loop import Loop
from minisocks.ports import Ports
from minisocks.resolver import Outcome
from minisocks.settings import Config

__all__ = ["Exchange", "Names"]

#: Bytes of datagrams that wait, for a name's address or for the rest of their fragments.
MAX_HELD_BYTES = 1 << 20
#: Entries about targets, three or four for each; beyond it who has some forgets them.  And
#: what one takes (measured: 200).
MAX_TARGETS = 16384
TARGET_BYTES = 256
#: So many of them an association keeps when there is no room; fewer where its client has many
#: associations, but those.
KEPT_ENTRIES = 64
LEAST_ENTRIES = 8
#: Of ``--memory-limit``, so much for each of the two.
LIMIT_SHARE = 8

#: How long a name's addresses are used, and how long it has none; no TTL is known here.
NAME_SECONDS = 30.0
NO_NAME_SECONDS = 5.0
MAX_NAMES = 512


class Names:
    """What the resolver has said of late.  A bounded table; loop thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: "collections.OrderedDict[bytes, Any]" = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def add(self, name: bytes, outcome: Outcome) -> None:
        """Remember what came of *name*."""
        if isinstance(outcome, Exception):
            outcome = outcome.with_traceback(None)  # which has all that was there when it came
        seconds = NAME_SECONDS if isinstance(outcome, list) else NO_NAME_SECONDS
        self._known.pop(name, None)
        self._known[name] = (self._clock() + seconds, outcome)
        if len(self._known) > MAX_NAMES:
            self._known.popitem(last=False)

    def get(self, name: bytes) -> Optional[Outcome]:
        """Return what came of *name*; None if that is not known, or too old."""
        until, outcome = self._known.get(name, (0.0, None))
        if outcome is not None and self._clock() < until:
            return outcome  # type: ignore[no-any-return]  # as ``add`` was given it
        self._known.pop(name, None)
        return None

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()


class Exchange:
    """The associations there are, and what they have in common.

    A class because the counts must agree with each other.  Loop thread, but for its making.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._by_client: Dict[Hashable, int] = {}
        self._held: Dict[Hashable, int] = {}
        self._all_held = 0
        self._most = 0
        self._is_reduced = False
        self._most_held = MAX_HELD_BYTES
        self._most_targets = MAX_TARGETS
        self._targets: Dict[Hashable, int] = {}
        self._weight = 0
        #: How many entries about targets there are.
        self.targets = 0
        #: To be told when rules have changed.
        self.associations: Set[Any] = set()
        self.names = Names()
        # Spare pipes have descriptors.
        self.ports = Ports("--udp-ports", lambda: loop.pipes.close_spare())

    def __len__(self) -> int:
        """Return how many associations there are."""
        return len(self.associations)

    def change(self, config: Config) -> None:
        """Go by *config* from now on; what rules have allowed is asked about again."""
        self._most = config.max_associations
        # Each has twice as many descriptors as a connection, and others want some, too.
        quarter = max(1, (config.max_connections or 4 * self._most) // 4)
        self._is_reduced = quarter < self._most
        self._most = min(quarter, self._most)
        limit = config.memory_limit
        share = MAX_TARGETS * TARGET_BYTES if limit is None else limit // LIMIT_SHARE
        self._most_held = min(MAX_HELD_BYTES, share)
        self._most_targets = min(MAX_TARGETS, share // TARGET_BYTES)
        self._weigh()
        self.ports.change(config.udp_ports)
        self.names.clear()
        for association in list(self.associations):
            association.ask_again()

    def check_room(self, client: Client) -> None:
        """See whether *client* may have one association more.

        Raises:
            LimitReached: no.
        """
        here = self._by_client.get(neighbourhood(client.ip), 0)
        option = "--max-associations %d" % self._most
        if self._is_reduced:
            option = "a quarter of --max-connections"
        if len(self) >= self._most:
            raise LimitReached("there are %d associations already (%s)" % (self._most, option))
        most, ports = self._most, self.ports.count
        if ports is not None and ports < most:
            most, option = ports, "--udp-ports %s" % self.ports
        share = max(1, most // 2)
        if here >= share:
            raise LimitReached(
                "%s has %d associations already, half of all (%s)" % (client.place, share, option)
            )

    def enter(self, association: Any, client: Client) -> None:
        """Count *association* in."""
        place = neighbourhood(client.ip)
        self.associations.add(association)
        self._by_client[place] = self._by_client.get(place, 0) + 1

    def leave(self, association: Any, client: Client) -> None:
        """Count *association* out."""
        self.associations.discard(association)
        _take(self._by_client, neighbourhood(client.ip), 1)

    def hold(self, client: Client, count: int) -> bool:
        """Count so many bytes in that wait; False if there is no room for them."""
        place = neighbourhood(client.ip)
        held = self._held.get(place, 0) + count
        if self._all_held + count > self._most_held or held > self._most_held // 2:
            return False
        if held:
            self._held[place] = held  # who holds nothing is not remembered
        self._all_held += count
        self._loop.pipes.pending_bytes += count
        return True

    def release(self, client: Client, count: int) -> None:
        """Count so many bytes out."""
        if count:
            _take(self._held, neighbourhood(client.ip), count)
            self._all_held -= count
            self._loop.pipes.pending_bytes -= count

    @property
    def held(self) -> int:
        """How many bytes wait."""
        return self._all_held

    def has_room_for_target(self, client: Client) -> bool:
        """Return whether *client* need not forget anything to remember more.

        Where others have taken all, the one of them that has most forgets some.
        """
        mine = neighbourhood(client.ip)
        here = self._targets.get(mine, 0)
        if here >= self._most_targets // 2:
            return False
        while self.targets >= self._most_targets:
            place, count = max(self._targets.items(), key=lambda item: item[1])
            if place == mine or count <= here or not self._have_some_forgotten(place):
                return False
        return True

    def least_of(self, client: Client) -> int:
        """Return how many entries an association of *client* keeps, room or not."""
        associations = self._by_client.get(neighbourhood(client.ip), 1)
        share = self._most_targets // 2 // associations
        return max(LEAST_ENTRIES, min(KEPT_ENTRIES, share))

    def _have_some_forgotten(self, place: Hashable) -> bool:
        theirs = [a for a in self.associations if neighbourhood(a.client.ip) == place]
        before = self.targets
        if theirs:
            max(theirs, key=lambda association: int(association.entries)).forget_some()
        return self.targets < before

    def remember(self, client: Client, count: int) -> None:
        """Count entries in, or, below 0, out."""
        place = neighbourhood(client.ip)
        left = self._targets.pop(place, 0) + count
        if left:
            self._targets[place] = left
        self.targets += count
        self._weigh()

    def _weigh(self) -> None:
        """Count the entries as memory: no more than their part, whatever each must keep."""
        weight = min(self.targets, self._most_targets) * TARGET_BYTES
        self._loop.pipes.pending_bytes += weight - self._weight
        self._weight = weight


def _take(counts: Dict[Hashable, int], key: Hashable, count: int) -> None:
    left = counts.pop(key) - count
    if left:
        counts[key] = left

