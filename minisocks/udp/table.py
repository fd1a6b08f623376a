"""What all UDP associations of one proxy share: what they go by, and their bounds.

Nothing that one client does with datagrams may take what others need: sockets, ports,
memory.  So clients share each bound (``quota``).
"""

from typing import Any, Callable

from minisocks.access import Access
from minisocks.errors import LimitReached
from minisocks.hooks import Hooks
from minisocks.net.lookup import Answers
from minisocks.net.loop import Loop
from minisocks.net.ports import Ports
from minisocks.net.resolver import Resolver
from minisocks.policy.client import Client
from minisocks.policy.quota import Allowance, Quota

__all__ = ["AssociationTable"]

#: Bytes of datagrams that wait, for a name's address or for the rest of their fragments.  A
#: group of clients has no more of them than are free.
MAX_HELD_BYTES = 1 << 20
HELD_FACTOR = 1
#: So many targets a client alone has at least that were written to last and are remembered:
#: a client of BitTorrent or of a game's list of servers writes to thousands at once.
KEPT_TARGETS = 4096
#: Entries about targets, three or four for each, two of them until others are forgotten;
#: beyond it a client that has some forgets them.  And what one takes (measured: 200).
MAX_TARGETS = KEPT_TARGETS * 2 * 4
TARGET_BYTES = 256
#: So many of them an association keeps when there is no room; fewer where its client has many
#: associations, but those.
KEPT_ENTRIES = 64
LEAST_ENTRIES = 8
#: Of ``--memory-limit``, so much for each of the two.
LIMIT_SHARE = 8


class AssociationTable:
    """The associations there are, and what they have in common.

    A class because the counts must agree with each other.  Loop thread, but for its making.

    Args:
        access: what decides about clients, until ``change``.
        make_room: called when there is no descriptor; whether it has closed some.
    """

    def __init__(
        self,
        loop: Loop,
        access: Access,
        resolver: Resolver,
        answers: Answers,
        hooks: Hooks,
        make_room: Callable[[], bool] = lambda: False,
    ) -> None:
        self.loop = loop
        self.access = access
        self.resolver = resolver
        self.answers = answers
        self.hooks = hooks
        self._associations: Quota[Any] = Quota(0, age=_last_used)
        self._held = Allowance(MAX_HELD_BYTES, HELD_FACTOR)
        self._targets: Quota[Any] = Quota(MAX_TARGETS, age=_fewest_first)
        #: Those that have sockets to targets, which the budget of descriptors does not know.
        self._reaching: Quota[Any] = Quota(0, fewer=1, age=_last_used)
        self._option = ""
        self._weight = 0
        self.ports = Ports("--udp-ports", make_room)

    def __len__(self) -> int:
        """Return how many associations there are."""
        return len(self._associations)

    @property
    def is_full(self) -> bool:
        """Whether one more has no place unless another one ends."""
        return self._associations.is_full

    @property
    def targets(self) -> int:
        """How many entries about targets there are."""
        return len(self._targets)

    def change(self, access: Access) -> None:
        """Go by *access* from now on."""
        self.access, config = access, access.config
        self.ports.change(config.udp_ports)
        most, self._option = config.most_associations()
        self._associations.most = self._reaching.most = most
        limit = config.memory_limit
        share = MAX_TARGETS * TARGET_BYTES if limit is None else limit // LIMIT_SHARE
        self._held.most = min(MAX_HELD_BYTES, share)
        self._targets.most = min(MAX_TARGETS, share // TARGET_BYTES)
        self._weigh()

    def make_room(self, client: Client) -> None:
        """See to it that *client* may have one association more; another may be ended for it.

        Raises:
            LimitReached: there is no room, and none can be made.
        """
        most = self._associations.most
        text = "there are %d associations already (%s)" % (most, self._option)
        if not self._associations.make_room(client.groups, lambda one: one.end(text)):
            raise LimitReached(text)

    def enter(self, association: Any, client: Client) -> None:
        """Count *association* in."""
        self._associations.add(association, client.groups)

    def leave(self, association: Any, client: Client) -> None:
        """Count *association* out."""
        self._associations.remove(association, client.groups)

    def reaches(self, association: Any, client: Client, has_sockets: bool) -> None:
        """Take note whether *association* has sockets to targets now."""
        self._reaching.remove(association, client.groups)
        if has_sockets:
            self._reaching.add(association, client.groups)

    def take_back(self) -> bool:
        """Have an association close its sockets to targets now; return whether there was one.

        Of the largest network, the one without a datagram for longest.  Its next datagram opens
        one again.
        """
        association = self._reaching.victim(())
        if association is not None:
            association.free_targets(now=True)
        return association is not None

    def hold(self, client: Client, count: int) -> bool:
        """Count so many bytes in that wait; False if there is no room for them."""
        if count and not self._held.has_room(client.groups, count):
            return False
        if count:
            self._held.add(client.groups, count)
            self.loop.pipes.pending_bytes += count
        return True

    def release(self, client: Client, count: int) -> None:
        """Count so many bytes out."""
        if count:
            self._held.remove(client.groups, count)
            self.loop.pipes.pending_bytes -= count

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

    def remember(self, mappings: Any, client: Client, count: int) -> None:
        """Count entries of *mappings*, which is about targets of *client*, in, or, below 0, out."""
        if count > 0:
            self._targets.add(mappings, client.groups, count)
        else:
            self._targets.reduce(mappings, client.groups, -count)
        self._weigh()

    def _weigh(self) -> None:
        """Count the entries as memory: no more than their part, whatever each must keep."""
        weight = min(self.targets, self._targets.most) * TARGET_BYTES
        self.loop.pipes.pending_bytes += weight - self._weight
        self._weight = weight


def _last_used(association: Any) -> float:
    return float(association.used)


def _fewest_first(mappings: Any) -> int:
    return -int(mappings.entries)
