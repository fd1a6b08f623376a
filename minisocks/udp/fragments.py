"""Fragments of one association's client: they wait for the rest of their datagram."""

from typing import Any, Optional

from minisocks.net.job import Job, Timer
from minisocks.policy.client import Client
from minisocks.protocol.datagram import REASSEMBLY_SECONDS, Reassembly
from minisocks.record import Datagrams, Drop
from minisocks.udp.table import AssociationTable

__all__ = ["Fragments"]


class Fragments:
    """The reassembly queue of one client, with its time limit and its part of the memory.

    Loop thread.

    Args:
        owner: the job whose timer it is.
    """

    __slots__ = ("_client", "_counts", "_owner", "_queue", "_table", "_timer")

    def __init__(
        self, table: AssociationTable, client: Client, counts: Datagrams, owner: Job
    ) -> None:
        self._table = table
        self._client = client
        self._counts = counts
        self._owner = owner
        self._queue = Reassembly()
        self._timer: Optional[Timer] = None

    def put_together(self, frag: int, key: bytes, data: bytes, writer: Any) -> Optional[bytes]:
        """Return the data of the whole datagram if this was its last fragment.

        Args:
            key: the header with FRAG 0.
            writer: the sockaddr of the client's port.
        """
        table, client, queue, before = self._table, self._client, self._queue, self._queue.held
        # Fragments from different ports do not belong together.
        whole = queue.add(frag, key + b"%d" % writer[1], data)
        table.release(client, before)
        self._counts.drop(Drop.FRAGMENTS, queue.take_lost())
        if not table.hold(client, queue.held):
            queue.abandon()
            self._counts.drop(Drop.NO_ROOM, queue.take_lost())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if queue:
            self._timer = table.loop.call_later(REASSEMBLY_SECONDS, self._owner, self.abandon)
        return whole

    def abandon(self) -> None:
        """Drop fragments whose rest has not come."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._queue:
            self._table.release(self._client, self._queue.held)
            self._queue.abandon()
            self._counts.drop(Drop.FRAGMENTS, self._queue.take_lost())
