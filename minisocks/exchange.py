"""What all UDP associations of one proxy share: their bounds, and the names they ask for.

Nothing that one client does with datagrams may take what others need: sockets, ports,
memory.  So clients share each bound (``quota``).
"""

import collections
import time
from typing import Any, Callable, Optional

from minisocks.client import Client
from minisocks.errors import LimitReached
from minisocks.loop import Loop
from minisocks.ports import Ports
from minisocks.quota import Allowance, Quota
from minisocks.resolver import Outcome
from minisocks.settings import Config

__all__ = ["Exchange", "Names"]

#: Bytes of datagrams that wait, for a name's address or for the rest of their fragments.  A
#: group of clients has no more of them than are free.
MAX_HELD_BYTES = 1 << 20
HELD_FACTOR = 1
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
        self._associations: Quota[Any] = Quota(0, age=_last_used)
        self._held = Allowance(MAX_HELD_BYTES, HELD_FACTOR)
        self._targets: Quota[Any] = Quota(MAX_TARGETS, age=_fewest_first)
        self._option = ""
        self._weight = 0
        self.names = Names()
        # Spare pipes have descriptors.
        self.ports = Ports("--udp-ports", lambda: loop.pipes.close_spare())

    def __len__(self) -> int:
        """Return how many associations there are."""
        return len(self._associations)

    @property
    def targets(self) -> int:
        """How many entries about targets there are."""
        return len(self._targets)

    def change(self, config: Config) -> None:
        """Go by *config* from now on; what rules have allowed is asked about again."""
        most = config.max_associations
        self._option = "--max-associations %d" % most
        # Each has twice as many descriptors as a connection, and others want some, too.
        quarter = max(1, (config.max_connections or 4 * most) // 4)
        if quarter < most:
            most, self._option = quarter, "a quarter of --max-connections"
        self.ports.change(config.udp_ports)
        ports = self.ports.count
        if ports is not None and ports < most:
            most, self._option = ports, "--udp-ports %s" % self.ports
        self._associations.most = most
        limit = config.memory_limit
        share = MAX_TARGETS * TARGET_BYTES if limit is None else limit // LIMIT_SHARE
        self._held.most = min(MAX_HELD_BYTES, share)
        self._targets.most = min(MAX_TARGETS, share // TARGET_BYTES)
        self._weigh()
        self.names.clear()
        for association in self._associations.items():
            association.ask_again()

    def make_room(self, client: Client) -> None:
        """See to it that *client* may have one association more; another may be ended for it.

        Raises:
            LimitReached: there is no room, and none can be made.
        """
        if self._associations.is_full:
            most = self._associations.most
            text = "there are %d associations already (%s)" % (most, self._option)
            victim = self._associations.victim(client.groups)
            if victim is None:
                raise LimitReached(text)
            victim.end(text)

    def enter(self, association: Any, client: Client) -> None:
        """Count *association* in."""
        self._associations.add(association, client.groups)

    def leave(self, association: Any, client: Client) -> None:
        """Count *association* out."""
        self._associations.remove(association, client.groups)

    def hold(self, client: Client, count: int) -> bool:
        """Count so many bytes in that wait; False if there is no room for them."""
        if count and not self._held.has_room(client.groups, count):
            return False
        if count:
            self._held.add(client.groups, count)
            self._loop.pipes.pending_bytes += count
        return True

    def release(self, client: Client, count: int) -> None:
        """Count so many bytes out."""
        if count:
            self._held.remove(client.groups, count)
            self._loop.pipes.pending_bytes -= count

    @property
    def held(self) -> int:
        """How many bytes wait."""
        return len(self._held)

    def has_room_for_target(self, client: Client) -> bool:
        """Return whether *client* need not forget anything to remember more.

        Where others have taken all, one of them forgets some.
        """
        while self._targets.is_full:
            before = self.targets
            victim = self._targets.victim(client.groups)
            if victim is not None:
                victim.forget_some()
            if self.targets == before:
                return False
        return True

    def least_of(self, client: Client) -> int:
        """Return how many entries an association of *client* keeps, room or not."""
        associations = max(1, self._associations.held_by(client.groups))
        share = self._targets.most // 2 // associations
        return max(LEAST_ENTRIES, min(KEPT_ENTRIES, share))

    def remember(self, known: Any, client: Client, count: int) -> None:
        """Count entries of *known*, which is about targets of *client*, in, or, below 0, out."""
        if count > 0:
            self._targets.add(known, client.groups, count)
        else:
            self._targets.reduce(known, client.groups, -count)
        self._weigh()

    def _weigh(self) -> None:
        """Count the entries as memory: no more than their part, whatever each must keep."""
        weight = min(self.targets, self._targets.most) * TARGET_BYTES
        self._loop.pipes.pending_bytes += weight - self._weight
        self._weight = weight


def _last_used(association: Any) -> float:
    return float(association.used)


def _fewest_first(known: Any) -> int:
    return -int(known.entries)
