"""Names of targets of one association: their look-ups, and the datagrams that wait for them.

Where a program has the hook ``authorize``, the thread that looks a name up asks it first.
"""

import functools
from typing import Any, Callable, Dict, List, Optional, Tuple

from minisocks.errors import DialError
from minisocks.hooks import ProxyRequest, check_authorized
from minisocks.net.job import Job
from minisocks.net.lookup import Outcome
from minisocks.net.resolver import Lookup
from minisocks.policy.client import Groups
from minisocks.record import Datagrams, Drop, Record
from minisocks.udp.mappings import NotSent
from minisocks.udp.table import AssociationTable
from minisocks.wire import Address, Cmd, Rep, Ver

__all__ = ["NO_NAMES", "Names", "Waiting", "is_passing"]

#: Names of one association that are looked up at once, and datagrams that wait for each.
MAX_LOOKUPS = 8
MAX_WAITING = 8

#: Questions to the program's hook count as of another network than the client's own: this goes
#: before the name of that network.
THE_PROGRAM = b"program "
#: Looked up in place of a name: it needs no name server.
_NO_NAME = b"0.0.0.0"

#: A datagram that waits: its data, and the port of the client that it comes from.
Waiting = Tuple[bytes, Any]

#: What ``check_authorized`` returns.
Chosen = Optional[Tuple[str, ...]]

#: Gets the header of a target, the target, what has waited, whether only the hook was asked, and
#: the outcome.
Found = Callable[[bytes, Address, List[Waiting], bool, Outcome], None]


class Names:
    """The look-ups of one association.  Loop thread.

    Args:
        owner: the job whose look-ups these are; they are called back only while it lives.
    """

    __slots__ = ("_chosen", "_counts", "_lookups", "_owner", "_record", "_table")

    def __init__(
        self,
        table: AssociationTable,
        record: Record,
        counts: Datagrams,
        owner: Job,
    ) -> None:
        self._table = table
        self._record = record
        self._counts = counts
        self._owner = owner
        #: The exits that the hook has chosen for the target that ``found`` is called with; None:
        #: those of the rules count.
        self._chosen: Chosen = None
        #: By header: the look-up, and the datagrams that wait for it.
        self._lookups: Dict[bytes, Tuple[Lookup, List[Waiting]]] = {}

    def __contains__(self, key: bytes) -> bool:
        """Return whether the target in the header *key* is being looked up."""
        return key in self._lookups

    def look_up(
        self, key: bytes, dst: Address, found: Found, is_allowed: bool, only_asks: bool
    ) -> None:
        """Have the resolver look *dst* up.

        Args:
            found: called with the outcome, unless all targets are removed meanwhile.
            is_allowed: the hook has been asked.
            only_asks: only the hook is asked, if there is one.

        Raises:
            NotSent, DialError: there are too many look-ups.
        """
        if len(self._lookups) >= MAX_LOOKUPS:
            raise NotSent(Drop.NO_ROOM)
        table, client = self._table, self._record.client
        chosen: List[Chosen] = [self._chosen] if is_allowed else []
        question = None if is_allowed else self._question(dst, chosen)
        only_asks = only_asks and question is not None
        loop, owner = table.loop, self._owner
        groups: Groups = client.groups
        if question is not None:
            # A slow hook then takes no threads from look-ups, and none from other clients.
            groups = (THE_PROGRAM + groups[0],) + groups[1:]
        waiting: List[Waiting] = []
        lookup = Lookup(
            _NO_NAME if only_asks else dst.host,
            dst.port,
            lambda outcome: loop.call_soon(
                owner, self._answered, key, dst, found, waiting, only_asks, chosen, outcome
            ),
            groups,
            question,
            table.access.egress.only,
        )
        self._lookups[key] = table.resolver.submit(lookup), waiting

    def exits(self, exits: Tuple[str, ...]) -> Tuple[str, ...]:
        """Return *exits*, those of a rule, or those that the hook has chosen.

        Called by ``found``.
        """
        return exits if self._chosen is None else self._chosen

    def keep(self, key: bytes, data: Any, writer: Any) -> None:
        """Have *data* wait for an address."""
        waiting = self._lookups[key][1]
        fits = len(waiting) < MAX_WAITING
        if fits and self._table.hold(self._record.client, len(data)):
            waiting.append((bytes(data), writer))
        else:
            self._counts.drop(Drop.NO_ROOM)

    def forget(self) -> None:
        """End all look-ups, and drop what waits for them."""
        for key in list(self._lookups):
            self._lookups[key][0].cancel()
            self._counts.drop(Drop.NO_ROOM, len(self._taken(key)))

    def _question(self, dst: Address, chosen: List[Chosen]) -> Optional[Callable[[], None]]:
        """Return what calls the hook, in a thread of the resolver; None: there is no hook.

        It adds the exits that the hook chooses to *chosen*.
        """
        hook, client, user = self._table.hooks.authorize, self._record.client, self._record.user
        if hook is None:
            return None
        request = ProxyRequest(
            client, int(Ver.SOCKS5), Cmd.UDP_ASSOCIATE.name, dst.name, dst.port, user, ""
        )
        ask = functools.partial(check_authorized, hook, request, self._table.access.exits)
        return lambda: chosen.append(ask())

    def _answered(
        self,
        key: bytes,
        dst: Address,
        found: Found,
        asked_for: List[Waiting],
        only_asks: bool,
        chosen: List[Chosen],
        outcome: Outcome,
    ) -> None:
        if key not in self._lookups or self._lookups[key][1] is not asked_for:
            return  # the answer was on its way when all targets were removed
        if self._table.hooks.authorize is None and not is_passing(outcome):
            self._table.answers.add(dst.host, outcome)
        self._chosen = chosen[0] if chosen else None
        found(key, dst, self._taken(key), only_asks, outcome)
        self._chosen = None

    def _taken(self, key: bytes) -> List[Waiting]:
        """Return the datagrams that waited, and count them out."""
        waiting = self._lookups.pop(key)[1]
        self._table.release(self._record.client, sum(len(data) for data, _ in waiting))
        return waiting


def is_passing(outcome: Any) -> bool:
    """Return whether it is a lack of threads or descriptors, and not about the name."""
    return isinstance(outcome, DialError) and outcome.rep != Rep.HOST_UNREACHABLE


#: Most associations look no name up; they share this one, which only answers that it has none.
_NOTHING: Any = None
NO_NAMES = Names(_NOTHING, _NOTHING, _NOTHING, _NOTHING)
