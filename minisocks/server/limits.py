"""What clients share: unfinished handshakes, slow calls of handler threads, connections."""

import contextlib
import threading
from typing import Callable, Dict, Hashable, Iterator, Optional

from minisocks.config.settings import Config
from minisocks.errors import HandshakeError, LimitReached, ProxyStops
from minisocks.net.capacity import Edge
from minisocks.net.processor import Processor
from minisocks.policy.client import Groups
from minisocks.policy.quota import Allowance, Queue, Quota
from minisocks.quoting import MOST_TOLD, quoted
from minisocks.record import Observer, Record
from minisocks.server.clientsocket import ClientSocket

__all__ = ["ConnectionLimits", "HandlerQueue", "Pending"]

#: One group of clients may have so many times what is free: one group alone has 8/9 of all.
GROUP_FACTOR = 8
#: One of so many parts is reserved for clients on this host.
RESERVED_PARTS = 16
#: Without a descriptor one handshake of so many is ended, because new ones may come faster than
#: one at a time is ended.
ENDED_PART = 8
_NO_DESCRIPTOR = "there are too many unfinished handshakes and no descriptors left"
#: A group of clients has less than this part of the free places in a queue, but at least one.
QUEUE_PART = 0.25


class Pending:
    """The unfinished handshakes.  Each has a handler thread, so their number is limited.

    When there are too many, ``quota`` names one that is ended.  Only a handshake whose thread
    waits can be ended: for its client, an identd, or a ``HandlerQueue``; not one whose thread
    checks a password or runs a hook of the embedding program.

    Args:
        room: how many there may be.

    Thread: any.  One lock covers entering, leaving and ending, so that no descriptor of another
    client is shut down.
    """

    def __init__(self, room: int, processor: Processor) -> None:
        self._processor = processor
        self._lock = threading.Lock()  # guards all below
        self._room = room
        self._threads: Optional[int] = None
        #: Handshakes that can be ended, and those that cannot.
        self._quota: Quota[ClientSocket] = Quota(room, fewer=1)
        self._kept: Dict[ClientSocket, None] = {}
        self._is_closed = False
        self._edge = Edge("handshakes can be taken on again")

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._quota) + len(self._kept)

    def resize(self, room: int) -> None:
        """Allow *room* handshakes from now on; present ones stay."""
        with self._lock:
            self._room = room

    def have_threads(self, threads: Optional[int]) -> None:
        """Allow at most *threads* handshakes, because no more threads can be started; None: any."""
        with self._lock:
            self._threads = threads

    def enter(self, conn: ClientSocket) -> None:
        """Count *conn*; another handshake may be ended for it.

        Raises:
            LimitReached: there are too many, and none can be ended for it.
            ProxyStops: the proxy stops.
        """
        with self._lock:
            if self._is_closed:
                raise ProxyStops("shutdown")
            groups, quota = conn.client.groups, self._quota
            most = self._room if self._threads is None else min(self._room, self._threads)
            quota.most = most - len(self._kept)
            if quota.is_full:
                self._make_room(groups)
            else:
                self._edge.passed()
            quota.add(conn, groups)

    def leave(self, conn: ClientSocket) -> None:
        """Stop counting *conn*, unless it has been ended."""
        with self._lock:
            if conn.may_end:
                self._quota.remove(conn, conn.client.groups)
            else:
                self._kept.pop(conn, None)

    @contextlib.contextmanager
    def busy(self, conn: ClientSocket) -> Iterator[None]:
        """Run a slow call inside, on any processor; the handshake is not ended meanwhile.

        Raises:
            HandshakeError: the handshake was ended before, or the proxy stopped meanwhile.
        """
        self.keep(conn)
        try:
            with self._processor.released():
                yield
        finally:
            with self._lock:
                conn.may_end = True
                if conn in self._kept:
                    del self._kept[conn]
                    self._quota.add(conn, conn.client.groups)
        conn.check()

    def keep(self, conn: ClientSocket) -> None:
        """Do not end *conn* for other clients any more.

        Raises:
            HandshakeError: it has been ended already.
        """
        with self._lock:
            conn.check()
            if conn.may_end:
                conn.may_end = False
                if self._quota.remove(conn, conn.client.groups):
                    self._kept[conn] = None

    def end_some(self) -> bool:
        """End an eighth of the handshakes, because no descriptor is left; return whether any.

        Each is taken from the network that has most of them.  Their threads close the sockets a
        moment later.
        """
        with self._lock:
            count = max(1, len(self._quota) // ENDED_PART)
            for done in range(count):
                victim = self._quota.victim(())
                if victim is None:
                    return done > 0
                self._end(victim, LimitReached(_NO_DESCRIPTOR))
            return True

    def close(self) -> None:
        """End all handshakes, and refuse new ones."""
        with self._lock:
            self._is_closed = True
            for conn in self._quota.items():
                self._end(conn, ProxyStops("shutdown"))
            for conn in self._kept:
                # Its thread checks this after its hook.  A client that is connected just now goes
                # on.
                conn.ended = ProxyStops("shutdown")

    def _make_room(self, groups: Groups) -> None:
        victim = self._quota.victim(groups)
        why = "there are too many unfinished handshakes (--max-handshakes %d)" % self._room
        if victim is not None:
            self._end(victim, LimitReached(why))
            return
        if not len(self._quota):  # else the client's network has as many as any other
            text = "hooks hold %d handler threads; clients are refused"
            self._edge.reached(text, len(self._kept))
        raise LimitReached(why)

    def _end(self, conn: ClientSocket, why: HandshakeError) -> None:
        self._quota.remove(conn, conn.client.groups)
        conn.end(why)


class ConnectionLimits(Observer):
    """How many connections there are: altogether, of each client, and of each user.

    A connection counts from the check of its request until its record ends.  One lock makes the
    counts agree.  They are kept also without limits, because a reload may set some.  Thread: any.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all = Allowance(None, GROUP_FACTOR, RESERVED_PARTS)
        self._clients: Dict[Hashable, int] = {}
        self._users: Dict[Hashable, int] = {}

    def __len__(self) -> int:
        """Return how many connections there are."""
        return len(self._all)

    def enter(self, record: Record, config: Config) -> None:
        """Count *record* until it ends.

        Raises:
            LimitReached: *config* allows no more; it is not counted.
        """
        client = record.client
        place, groups, user = client.key, client.groups, client.user
        with self._lock:
            self._all.most = config.max_connections
            here, by_user = self._clients.get(place, 0), self._users.get(user, 0)
            if not self._all.has_room(groups):
                if _is_reached(len(self._all), config.max_connections):
                    verb = "there is" if config.max_connections == 1 else "there are"
                    raise _limit(verb, config.max_connections, "--max-connections")
                raise _share(client.place, config.max_connections)
            if place is not None and _is_reached(here, config.max_per_client):
                raise _limit(client.place + " has", config.max_per_client, "--max-per-client")
            if user is not None and _is_reached(by_user, config.max_per_user):
                name = quoted(user, MOST_TOLD)
                raise _limit("user %s has" % name, config.max_per_user, "--max-per-user")
            self._all.add(groups)
            self._clients[place] = here + 1
            if user is not None:
                self._users[user] = by_user + 1
            record.counted_by = self

    def ended(self, record: Record) -> None:
        """Stop counting *record*."""
        client = record.client
        with self._lock:
            self._all.remove(client.groups)
            _one_less(self._clients, client.key)
            if client.user is not None:
                _one_less(self._users, client.user)


def _is_reached(count: int, limit: Optional[int]) -> bool:
    return limit is not None and count >= limit


def _limit(subject: str, limit: Optional[int], option: str) -> LimitReached:
    # Not with the count, which may be higher after a reload: repeated lines must be equal.
    connections = "connection" if limit == 1 else "connections"
    return LimitReached("%s %s %s already (%s %s)" % (subject, limit, connections, option, limit))


def _share(place: str, limit: Optional[int]) -> LimitReached:
    text = "%s and its network have their whole share of the connections (--max-connections %s)"
    return LimitReached(text % (place, limit))


def _one_less(counts: Dict[Hashable, int], key: Hashable) -> None:
    left = counts.pop(key) - 1
    if left:
        counts[key] = left


class _Waiter:
    """A handler thread in a queue: it waits to run, or for the answer to an equal question."""

    __slots__ = ("alarm", "answer", "may_run", "mark")

    def __init__(self, alarm: threading.Event, mark: bytes) -> None:
        self.alarm = alarm
        self.mark = mark
        self.may_run = False
        self.answer: Optional[bool] = None


class HandlerQueue:
    """Handler threads that wait to run a slow call: derive a password, or ask a program's hook.

    Clients share it: one that wants 500 derivations delays the others by one.  Threads of one row
    that ask about the same user and password get one answer, so that 50 connections of a browser
    cost one derivation.  A row is the *groups* below: those of a client, and what else
    distinguishes its logins.

    Args:
        most: how many threads may run at once.
        rank: the order of rows, as for ``Queue``.

    Thread: a handler's.
    """

    def __init__(self, most: int, rank: Optional[Callable[[Groups], float]] = None) -> None:
        self._lock = threading.Lock()  # guards all below
        self._running = Allowance(most, QUEUE_PART)
        self._queue: Queue[_Waiter] = Queue(self._running, rank)

    def resize(self, most: int) -> None:
        """Let *most* threads run at once from now on."""
        with self._lock:
            self._running.most = most
            self._start_next()

    def __len__(self) -> int:
        """Return how many threads wait; those that run do not count."""
        return len(self._queue)

    def questions_before(self, groups: Groups, mark: bytes) -> int:
        """Return how many questions of this row come before *mark*.

        Threads that wait for one answer are one question.  A running one does not count.
        """
        with self._lock:
            marks = [waiter.mark for waiter in self._queue.waiting(groups)]
        return len(set(marks[: marks.index(mark)] if mark in marks else marks))

    def wait(
        self, alarm: threading.Event, groups: Groups, mark: bytes, pause: Callable[[], None]
    ) -> Optional[bool]:
        """Wait; return the answer of another thread about *mark*, or None: this thread may run.

        A thread that runs calls ``finish`` afterwards.  An error of *pause* ends the wait.

        Args:
            alarm: set when the thread may run or has an answer.
            pause: waits for *alarm* and clears it; may return earlier.
        """
        waiter = _Waiter(alarm, mark)
        try:
            with self._lock:
                self._queue.add(waiter, groups)
                self._start_next()
            while True:
                # Also if it may run at once: the client may have left already.
                pause()
                if waiter.may_run or waiter.answer is not None:
                    return waiter.answer
        except BaseException:
            with self._lock:
                if waiter.may_run:
                    self._give_back_place(groups)
                else:
                    self._queue.remove(waiter, groups)
            raise

    def finish(self, groups: Groups, mark: bytes, answer: Optional[bool]) -> None:
        """Let the next thread run; threads that wait for the same get *answer*, if there is one."""
        with self._lock:
            try:
                if answer is not None:
                    self._answer_all(groups, mark, answer)
            finally:  # also after a MemoryError, because all others wait for this
                self._give_back_place(groups)

    @contextlib.contextmanager
    def place(self, conn: ClientSocket, pause: Callable[[], None]) -> Iterator[None]:
        """Wait, and run the block inside; raises what *pause* raises, see ``wait``."""
        groups = conn.client.groups
        self.wait(conn.alarm(), groups, b"", pause)
        try:
            yield
        finally:
            self.finish(groups, b"", None)

    def _answer_all(self, groups: Groups, mark: bytes, answer: bool) -> None:
        for waiter in self._queue.waiting(groups):
            if waiter.mark == mark:
                waiter.answer = answer
                self._queue.remove(waiter, groups)
                waiter.alarm.set()

    def _give_back_place(self, groups: Groups) -> None:
        self._queue.done(groups)
        self._start_next()

    def _start_next(self) -> None:
        while True:
            taken = self._queue.take()
            if taken is None:
                return
            waiter, _groups = taken
            waiter.may_run = True
            waiter.alarm.set()
