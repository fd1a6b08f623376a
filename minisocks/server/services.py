"""What every client of one proxy shares."""

import itertools
from typing import Any, Optional

from minisocks.access import Access
from minisocks.config.settings import Config
from minisocks.exits.state import Exits
from minisocks.hooks import Hooks
from minisocks.net.dialer import ExtraAttempts
from minisocks.net.lookup import Answers
from minisocks.net.loop import Loop, run_in
from minisocks.net.ownaddress import KernelRoutes, OwnListeners
from minisocks.net.processor import Processor
from minisocks.net.resolver import Resolver
from minisocks.policy.exits import Hop
from minisocks.relay.lingering import LingeringClients
from minisocks.relay.memory import Memory
from minisocks.relay.rate import Rates
from minisocks.relay.watches import VanishedPeers
from minisocks.server.bindlisteners import BindListeners
from minisocks.server.journal import Journal
from minisocks.server.limits import ConnectionLimits, HandlerQueue, Pending
from minisocks.server.logins import Logins
from minisocks.udp.table import AssociationTable
from minisocks.wire import packed_ip, scope_of

__all__ = ["Services"]


class Services:
    """What every client of one proxy shares: one object of each kind."""

    def __init__(
        self,
        config: Config,
        resolver: Optional[Resolver] = None,
        hooks: Optional[Hooks] = None,
        journal: Optional[Journal] = None,
    ) -> None:
        self.hooks = hooks or Hooks()
        self.journal = journal or Journal()
        #: How many connections there are.
        self.connection_limits = ConnectionLimits()
        #: The number of the next connection.
        self.ids = itertools.count(1)
        #: Which addresses are this host's, and which are our listeners'.
        self.kernel, self.listeners = KernelRoutes(), OwnListeners()
        #: The users and rules in force.
        self.access = Access.of(config, self.hooks, self.kernel)
        self.processor = Processor(config.processor)
        self.loop = Loop(self.processor)
        #: Unfinished handshakes, the queue before the program's hooks, and checks of passwords.
        self.pending = Pending(config.max_handshakes, self.processor)
        self.hook_queue = HandlerQueue(config.max_handshakes)
        self.logins = Logins(self.pending, self.hook_queue)
        #: Limits of rate and memory.
        self.rates, self.memory = Rates(self.loop), Memory(self.loop, self.pending)
        #: Ends connections whose peers have vanished.
        self.vanished = VanishedPeers(self.loop)
        #: Recent answers of name servers.
        self.answers = Answers(self.loop)
        #: Attempts of dials beyond the first one of each.
        self.attempts = ExtraAttempts(self.loop)
        self.resolver = resolver or Resolver()
        #: Which exits have failed.
        self.exits = Exits(leads_back=self._leads_back)
        #: All UDP associations.
        self.associations = AssociationTable(
            self.loop,
            self.access,
            self.resolver,
            self.answers,
            self.hooks,
            self.make_room,
            self.exits,
        )
        #: The listeners of all BINDs.
        self.bind_listeners = BindListeners(self.loop, self.make_room)
        #: Refused clients that still read their reply.
        self.lingering = LingeringClients(config.max_handshakes)
        self.adopt(self.access)

    def _leads_back(self, hop: Hop, sockaddr: Any) -> bool:
        """Return whether a connection to *hop*, at *sockaddr*, ends at one of our listeners."""
        if hop.path:
            return "unix:" + hop.path in self.access.config.listen
        ip, scope = packed_ip(sockaddr[0]) or b"", scope_of(sockaddr)
        return self.listeners.have(ip, hop.port, self.access.own, scope)

    def adopt(self, access: Access) -> None:
        """Apply *access* from now on.  Thread: the loop's, once it runs.

        Connections go on.  Requests that wait, and the targets of associations, are checked
        again (``Loop.tell_all``).
        """
        config = access.config
        self.logins.adopt(access.users, config.auth_once)
        self.access = access
        self.processor.change(config.processor)
        if self.loop.is_current():
            self.processor.keep()  # handler threads do so before their next client
        self.pending.resize(config.max_handshakes)
        self.hook_queue.resize(config.max_handshakes)
        self.lingering.resize(config.max_handshakes)
        self.rates.change(config.rate)
        self.memory.change(config.memory_limit)
        self.answers.change(config.memory_limit)
        self.exits.adopt(access.exits)
        self.associations.change(access)
        self.bind_listeners.change(config)
        self.loop.tell_all("ask_again")

    def make_room(self) -> bool:
        """Close descriptors that are needed less than a new one; return whether there were any.

        First pipes that are not in use; then an extra attempt of a dial, a lingering client, or a
        socket that an association has beside its own two.  Thread: any.
        """
        return bool(run_in(self.loop, self._make_room))

    def _make_room(self) -> bool:
        return (
            self.loop.pipes.close_spare()
            or self.attempts.take_back()
            or self.lingering.take_back()
            or self.associations.take_back()
        )
