"""``--rate`` for datagrams: an association that is read no faster than its client may go.

Who writes faster fills the kernel's buffer, and then loses datagrams, as on any slow link.
"""

from typing import Any, List, Optional

from minisocks.compat import READ
from minisocks.relay.rate import Lane, Share, Throttle
from minisocks.udp.association import BATCH, HEADER_BYTES, Association

__all__ = ["RatedAssociation"]


class _Turn:
    """One direction, which waits for its turn or does not."""

    __slots__ = ("counted", "waits")

    def __init__(self) -> None:
        self.waits = False
        #: Of the record's bytes, so many have been paid for.
        self.counted = 0


class RatedAssociation(Association):
    """An association that shares its client's rate, by *share* behind what one takes."""

    __slots__ = ("_down_turn", "_share", "_throttle", "_up_turn")

    #: A datagram is paid for before the next one is read.
    batch = 1

    def __init__(self, *args: Any) -> None:
        super().__init__(*args[:-1])
        self._share: Share = args[-1]
        self._throttle: Optional[Throttle] = None
        self._up_turn, self._down_turn = _Turn(), _Turn()

    def begin(self) -> None:
        """Relay from now on."""
        self._throttle = self._share.rates.join(self._share.place, self._share.rate)
        super().begin()

    def abort(self, why: str) -> None:
        """Close everything."""
        if self._throttle is not None:
            # For what a name's lookup has let go since.
            self._pay(self._up_turn)
            self._pay(self._down_turn)
            self._throttle = None
            self._share.rates.leave(self._share.place)
        self._up_turn.waits = self._down_turn.waits = False  # whoever gives turns passes it over
        super().abort(why)

    def is_held_back(self) -> bool:
        """Return whether datagrams may be there that wait for their turn."""
        return self._up_turn.waits or self._down_turn.waits

    def take_turn(self, turn: _Turn) -> None:
        """Read on in that direction, which has waited."""
        bucket = self._lane(turn).bucket
        for fd in self._fds(turn):
            self._loop.watch(fd, READ, self)
        for _ in range(BATCH):
            if not bucket.available():
                return  # it will wait again when something is there
            if turn is self._up_turn:
                super()._from_client()
            else:
                for size, sock in self._targets.items():
                    super()._from_target(sock, HEADER_BYTES[size])
            self._pay(turn)

    def _from_client(self) -> None:
        turn = self._up_turn
        if self._may_go_on(turn, self._lane(turn)):
            super()._from_client()
            self._pay(turn)

    def _from_target(self, sock: Any, start: int) -> None:
        turn = self._down_turn
        if self._may_go_on(turn, self._lane(turn)):
            super()._from_target(sock, start)
            self._pay(turn)

    def _lane(self, turn: _Turn) -> Lane:
        assert self._throttle is not None
        return self._throttle.up if turn is self._up_turn else self._throttle.down

    def _may_go_on(self, turn: _Turn, lane: Lane) -> bool:
        """Return whether it is this direction's turn; if not, have it wait unread."""
        self._pay(turn)  # what a name's lookup has let go meanwhile
        if lane.available():
            return True
        if not turn.waits:
            lane.wait(self, turn)
        for fd in self._fds(turn):
            self._loop.unwatch(fd)
        return False

    def _fds(self, turn: _Turn) -> List[int]:
        if turn is self._up_turn:
            return [self._relay_fd]
        return [sock.fileno() for sock in self._targets.values()]

    def _pay(self, turn: _Turn) -> None:
        record = self._record
        now = record.up if turn is self._up_turn else record.down
        self._lane(turn).bucket.spend(now - turn.counted)
        turn.counted = now
