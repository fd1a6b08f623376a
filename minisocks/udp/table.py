"""The UDP associations of one proxy: their settings and their limits.

No client may take the sockets, ports or memory that others need.  So clients share each limit
(``policy.quota``).
"""

from typing import Any, Callable, Optional

from minisocks.access import Access
from minisocks.errors import LimitReached
from minisocks.exits.state import Exits
from minisocks.hooks import Hooks
from minisocks.net.lookup import Answers
from minisocks.net.loop import Loop
from minisocks.net.ports import Ports
from minisocks.net.resolver import Resolver
from minisocks.policy.client import Client
from minisocks.policy.quota import Allowance, Quota

__all__ = ["AssociationTable"]

#: Most bytes of datagrams that wait for a look-up or for the rest of their fragments.  A group of
#: clients has no more of them than are free.
MAX_HELD_BYTES = 1 << 20
HELD_FACTOR = 1
#: Targets that are kept at least for a client without others: BitTorrent, or a game that has a
#: list of servers, writes to thousands at once.
KEPT_TARGETS = 4096
#: Most entries about targets: three or four for each, two of which stay until others are removed.
#: Above it, entries are removed.  And the bytes of one (measured: 200).
MAX_TARGETS = KEPT_TARGETS * 2 * 4
TARGET_BYTES = 256
#: Entries that an association keeps when there is no room; and the fewest, where its client has
#: many associations.
KEPT_ENTRIES = 64
LEAST_ENTRIES = 8
#: The part of ``--memory-limit`` for waiting datagrams, and the same for entries.
LIMIT_SHARE = 8


class AssociationTable:
    """The associations there are, and what they share.

    Any thread may make it; then the loop's.

    Args:
        access: users and rules, until ``change``.
        make_room: called when there is no descriptor; returns whether it has closed one.
        exits: which exits have failed.
    """

    def __init__(
        self,
        loop: Loop,
        access: Access,
        resolver: Resolver,
        answers: Answers,
        hooks: Hooks,
        make_room: Callable[[], bool] = lambda: False,
        exits: Optional[Exits] = None,
    ) -> None:
        self.loop = loop
        self.access = access
        self.resolver = resolver
        self.answers = answers
        self.hooks = hooks
        self.free_some = make_room
        self.exits = exits or Exits()
        self._associations: Quota[Any] = Quota(0, age=_last_used)
        self._held = Allowance(MAX_HELD_BYTES, HELD_FACTOR)
        self._targets: Quota[Any] = Quota(MAX_TARGETS, age=_fewest_first)
        #: Those with sockets to targets, which the limit of connections does not include.
        self._reaching: Quota[Any] = Quota(0, fewer=1, age=_last_used)
        #: The associations at the hops of exits, each weighs as many as the exit has hops.
        self._upstreams: Quota[Any] = Quota(0, fewer=1, age=_last_used_upstream)
        self._option = ""
        self._weight = 0
        self.ports = Ports("--udp-ports", make_room)

    def __len__(self) -> int:
        """Return how many associations there are."""
        return len(self._associations)

    @property
    def is_full(self) -> bool:
        """Whether one more needs the end of another one."""
        return self._associations.is_full

    def has_relay(self, ip: bytes, port: int) -> bool:
        """Return whether the relay socket of an association is there."""
        return any(one.place == (ip, port) for one in self._associations.items())

    @property
    def upstreams(self) -> int:
        """The number of associations at hops."""
        return len(self._upstreams)

    @property
    def targets(self) -> int:
        """The number of entries about targets."""
        return len(self._targets)

    def change(self, access: Access) -> None:
        """Use *access* from now on."""
        self.access, config = access, access.config
        self.ports.change(config.udp_ports)
        most, self._option = config.most_associations()
        self._associations.most = self._reaching.most = self._upstreams.most = most
        limit = config.memory_limit
        share = MAX_TARGETS * TARGET_BYTES if limit is None else limit // LIMIT_SHARE
        self._held.most = min(MAX_HELD_BYTES, share)
        self._targets.most = min(MAX_TARGETS, share // TARGET_BYTES)
        self._weigh()

    def make_room(self, client: Client) -> None:
        """Make room for one more association of *client*; another one may be ended for it.

        Raises:
            LimitReached: there is no room, and no association may be ended for it.
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

    def enter_upstream(self, upstream: Any, client: Client) -> bool:
        """Count *upstream* in; return False if there is no room.  Others may be ended.

        A chain with more hops than the limit needs all of it.
        """
        upstreams, weight = self._upstreams, len(upstream.exit.hops)
        while len(upstreams) and len(upstreams) + weight > upstreams.most:
            victim = upstreams.victim(client.groups)
            if victim is None:
                return False
            victim.end_for_room()
        upstreams.add(upstream, client.groups, weight)
        return True

    def leave_upstream(self, upstream: Any, client: Client) -> None:
        """Count *upstream* out."""
        self._upstreams.remove(upstream, client.groups)

    def takes_unasked(self, ip: bytes, scope: int) -> bool:
        """Return whether clients get datagrams from *ip* without having written to it."""
        return (
            self.access.config.udp_filtering == "endpoint-independent"
            and self.hooks.authorize is None
            and self.access.own(ip, scope) is False
        )

    def reaches(self, association: Any, client: Client, has_sockets: bool) -> None:
        """Note whether *association* has sockets to targets now."""
        self._reaching.remove(association, client.groups)
        if has_sockets:
            self._reaching.add(association, client.groups)

    def take_back(self) -> bool:
        """Have an association close its sockets to targets now; return whether there was one.

        It is the one of the largest network without a datagram for longest.  Its next datagram
        opens a socket again.
        """
        association = self._reaching.victim(())
        if association is not None:
            association.free_targets(now=True)
        return association is not None

    def hold(self, client: Client, count: int) -> bool:
        """Count *count* waiting bytes in; return whether there was room for them."""
        if count and not self._held.has_room(client.groups, count):
            return False
        if count:
            self._held.add(client.groups, count)
            self.loop.pipes.pending_bytes += count
        return True

    def release(self, client: Client, count: int) -> None:
        """Count *count* bytes out."""
        if count:
            self._held.remove(client.groups, count)
            self.loop.pipes.pending_bytes -= count

    @property
    def held(self) -> int:
        """The number of waiting bytes."""
        return len(self._held)

    def has_room_for_target(self, client: Client) -> bool:
        """Return whether *client* may have one more entry without a loss of its own.

        Where others have taken all, entries of one of them are removed.
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
        """Return how many entries an association of *client* keeps without room."""
        associations = max(1, self._associations.held_by(client.groups))
        share = self._targets.most // 2 // associations
        return max(LEAST_ENTRIES, min(KEPT_ENTRIES, share))

    def remember(self, mappings: Any, client: Client, count: int) -> None:
        """Count *count* entries of *mappings*, about targets of *client*, in; below 0: out."""
        if count > 0:
            self._targets.add(mappings, client.groups, count)
        else:
            self._targets.reduce(mappings, client.groups, -count)
        self._weigh()

    def _weigh(self) -> None:
        """Count the entries as memory, but no more than their limit."""
        weight = min(self.targets, self._targets.most) * TARGET_BYTES
        self.loop.pipes.pending_bytes += weight - self._weight
        self._weight = weight


def _last_used_upstream(upstream: Any) -> float:
    return float(upstream.used())


def _last_used(association: Any) -> float:
    return float(association.used)


def _fewest_first(mappings: Any) -> int:
    return -int(mappings.entries)
