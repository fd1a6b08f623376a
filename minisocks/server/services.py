"""What every client of one proxy shares."""

import itertools
from typing import Optional

from minisocks.access import Access
from minisocks.config.settings import Config
from minisocks.hooks import Hooks
from minisocks.net.answers import Answers
from minisocks.net.dialer import ExtraAttempts
from minisocks.net.errand import run_in
from minisocks.net.loop import Loop
from minisocks.net.ownaddress import KernelRoutes, OwnListeners
from minisocks.net.processor import Processor
from minisocks.net.resolver import Resolver
from minisocks.net.vanished import VanishedPeers
from minisocks.relay.lingering import LingeringClients
from minisocks.relay.memory import Memory
from minisocks.relay.rate import Rates
from minisocks.server.bindlisteners import BindListeners
from minisocks.server.journal import Journal
from minisocks.server.limits import ConnectionLimits, HandlerQueue, Pending
from minisocks.server.logins import Logins
from minisocks.udp.table import AssociationTable

__all__ = ["Services"]


class Services:
    """What every client of one proxy shares."""

    def __init__(
        self,
        config: Config,
        resolver: Optional[Resolver] = None,
        hooks: Optional[Hooks] = None,
        journal: Optional[Journal] = None,
    ) -> None:
        self.hooks = hooks or Hooks()
        self.journal = journal or Journal()
        #: Who is connected.
        self.connection_limits = ConnectionLimits()
        #: The number of the next connection.
        self.ids = itertools.count(1)
        #: What the kernel is asked about addresses of this host, and where we ourselves listen.
        self.kernel, self.listeners = KernelRoutes(), OwnListeners()
        #: What decides about clients, as of now.
        self.access = Access.of(config, self.hooks, self.kernel)
        self.processor = Processor(config.processor)
        self.loop = Loop(self.processor)
        #: Handshakes that are not finished; their turns at the program's hooks; and what they
        #: wait for when they have a password.
        self.pending = Pending(config.max_handshakes, self.processor)
        self.hook_queue = HandlerQueue(config.max_handshakes)
        self.logins = Logins(self.pending, self.hook_queue)
        #: What slows clients down, and what sheds them where memory is short.
        self.rates, self.memory = Rates(self.loop), Memory(self.loop, self.pending)
        #: What ends connections whose peers have vanished.
        self.vanished = VanishedPeers(self.loop)
        #: What name servers have said of late.
        self.answers = Answers(self.loop)
        #: The attempts of dials that they may have beside their first ones.
        self.attempts = ExtraAttempts(self.loop)
        self.resolver = resolver or Resolver()
        #: What those share who relay datagrams.
        self.associations = AssociationTable(
            self.loop, self.access, self.resolver, self.answers, self.hooks, self.make_room
        )
        #: Where those connect that BIND waits for.
        self.bind_listeners = BindListeners(self.loop, self.make_room)
        #: Where refused clients are heard out.
        self.lingering = LingeringClients(config.max_handshakes)
        self.adopt(self.access)

    def adopt(self, access: Access) -> None:
        """Have what comes from now on go by *access*.  Loop thread, once it runs.

        What has been granted before goes on.  What has not been yet, and what an association
        may reach, is asked about again, by ``Loop.tell_all``.
        """
        config = access.config
        self.logins.adopt(access.users, config.auth_once)
        self.access = access
        self.processor.change(config.processor)
        if self.loop.is_current():
            self.processor.keep()  # the handler threads do so before their next clients
        self.pending.resize(config.max_handshakes)
        self.hook_queue.resize(config.max_handshakes)
        self.lingering.resize(config.max_handshakes)
        self.rates.change(config.rate)
        self.memory.change(config.memory_limit)
        self.answers.change(config.memory_limit)
        self.associations.change(access)
        self.bind_listeners.change(config)
        self.loop.tell_all("ask_again")

    def make_room(self) -> bool:
        """Close descriptors of less worth than the one that is wanted; return whether there were.

        Pipes that are only kept for later; where there is none, an extra attempt of a dial, a
        refused client that is still heard out, or what an association has beside its own two.
        Thread: any.
        """
        return bool(run_in(self.loop, self._make_room))

    def _make_room(self) -> bool:
        return (
            self.loop.pipes.close_spare()
            or self.attempts.take_back()
            or self.lingering.take_back()
            or self.associations.take_back()
        )
