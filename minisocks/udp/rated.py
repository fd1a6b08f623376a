"""``--rate`` for datagrams: an association that is read no faster than its client may go.

A client or target that sends faster fills the kernel's buffer and then loses datagrams, as on any
slow link.
"""

from typing import Any, List, Optional

from minisocks.compat import READ
from minisocks.relay.rate import Lane, Share, Throttle
from minisocks.udp.association import BATCH, HEADER_BYTES, Association

__all__ = ["RatedAssociation"]


class _Way:
    """One direction, which waits for tokens or does not."""

    __slots__ = ("counted", "waits")

    def __init__(self) -> None:
        self.waits = False
        #: So many of the record's bytes have been paid for.
        self.counted = 0


class RatedAssociation(Association):
    """An association that shares its client's rate: *share* is its last argument."""

    __slots__ = ("_down", "_share", "_throttle", "_up")

    #: A datagram is paid for before the next one is read.
    batch = 1

    def __init__(self, *args: Any) -> None:
        super().__init__(*args[:-1])
        self._share: Share = args[-1]
        self._throttle: Optional[Throttle] = None
        self._up, self._down = _Way(), _Way()

    def begin(self) -> None:
        """Relay from now on."""
        self._throttle = self._share.rates.join(self._share.place, self._share.rate)
        super().begin()

    def abort(self, why: str) -> None:
        """Close everything."""
        if self._throttle is not None:
            # For datagrams that were sent when the look-up of a name had ended.
            self._pay(self._up)
            self._pay(self._down)
            self._throttle = None
            self._share.rates.leave(self._share.place)
        self._up.waits = self._down.waits = False  # a lane leaves it out then
        super().abort(why)

    def is_held_back(self) -> bool:
        """Return whether a direction waits for tokens."""
        return self._up.waits or self._down.waits

    def read_on(self, way: _Way) -> None:
        """Read on in the direction *way*, which has waited."""
        bucket = self._lane(way).bucket
        for fd in self._fds(way):
            self._loop.watch(fd, READ, self)
        for _ in range(BATCH):
            if not bucket.available():
                return  # it will wait again when something is there
            if way is self._up:
                super()._from_client()
            else:
                for size, sock in self._targets.items():
                    super()._from_target(sock, HEADER_BYTES[size])
            self._pay(way)

    def _from_client(self) -> None:
        if self._may_go_on(self._up):
            super()._from_client()
            self._pay(self._up)

    def _from_target(self, sock: Any, start: int) -> None:
        if self._may_go_on(self._down):
            super()._from_target(sock, start)
            self._pay(self._down)

    def _lane(self, way: _Way) -> Lane:
        assert self._throttle is not None
        return self._throttle.up if way is self._up else self._throttle.down

    def _may_go_on(self, way: _Way) -> bool:
        """Return whether there are tokens for *way*; if not, have it wait unread."""
        self._pay(way)  # for datagrams that were sent when the look-up of a name had ended
        lane = self._lane(way)
        if lane.available():
            return True
        if not way.waits:
            lane.wait(self, way)
        for fd in self._fds(way):
            self._loop.unwatch(fd)
        return False

    def _fds(self, way: _Way) -> List[int]:
        if way is self._up:
            return [self._relay_fd]
        return [sock.fileno() for sock in self._targets.values()]

    def _pay(self, way: _Way) -> None:
        record = self._record
        now = record.up if way is self._up else record.down
        self._lane(way).bucket.spend(now - way.counted)
        way.counted = now
