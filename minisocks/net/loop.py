"""The loop: one thread that waits for descriptors and timers on behalf of jobs.

It knows nothing about SOCKS.  A job is submitted from any thread and belongs to the loop from
then on.  The rules, each of which comes from a bug:

* A job that raises is aborted; the loop goes on.
* Sockets are closed at the end of a round: no event of this round may meet a descriptor that was
  closed and opened again.
* A job unwatches a descriptor that would report "gone" for ever: epoll cannot mask EPOLLHUP, and
  the loop would spin.
* An event is a hint; outcomes come from the system calls.
* Bulk comes last in each round, for a bounded time: no download delays others (``set_bulk``).
"""

import collections
import logging
import os
import socket
import threading
import time
from typing import Any, Callable, Deque, Dict, List, Optional, Set, Tuple, TypeVar

from minisocks.compat import READ, UNSHARED_POLLERS, Poller, Waker, close_quietly, hang_up, log_bug
from minisocks.net.job import Background, Job, Task, Timer, Timers
from minisocks.net.pipes import Pipes
from minisocks.net.processor import Processor
from minisocks.net.threads import start_thread

__all__ = ["BUFFER_BYTES", "Background", "Job", "Loop", "Task", "Timer", "run_in"]

log = logging.getLogger("minisocks")

_T = TypeVar("_T")

#: Most that one read takes, hence most that a blocked direction holds in memory.
BUFFER_BYTES = 65536
#: Rounds after which it asks for the time, and seconds after which the processor looks.
LOOK_ROUNDS, LOOK_SECONDS = 256, 10.0
#: Most seconds that a round moves bulk, because a CONNECT to a name takes three rounds; and events
#: of bulk at once, each of which may take 5 ms on a small machine.
BULK_SECONDS, BULK_EVENTS = 0.008, 4


class Loop:
    """One thread, one poller."""

    def __init__(self, processor: Optional[Processor] = None) -> None:
        self._processor = processor or Processor(None)
        self._rounds_left, self._look_at = LOOK_ROUNDS, 0.0
        self._waker = Waker()
        try:
            self._poller = Poller()
            self._poller.register(self._waker.fileno(), READ)
        except BaseException:
            self._waker.close()
            raise
        self._watching: Dict[int, Job] = {}
        self._jobs: Set[Job] = set()
        self._uncounted: Set[Job] = set()  # not a number: two threads change it
        self._ident = 0
        self._calls: Deque[Tuple[Job, Callable[..., None], Tuple[Any, ...]]] = collections.deque()
        #: A poller inside the other one, and the descriptors in it, which carry bulk.
        self._bulk_poller: Any = None
        self._bulk: Set[int] = set()
        self._timers = Timers()
        self._closing: List[Tuple[socket.socket, bool]] = []
        self._sleeping = False
        self._stopping = False
        self._lock = threading.Lock()
        self._thread: Optional[threading.Thread] = None
        #: Events of a round, and again of bulk, at most; -1: no limit.
        self.most_events = -1
        #: So many more reads of bulk are short ones, because there are short messages.
        self.short_turns = 0
        #: Loop thread only.
        self.pipes = Pipes()
        #: Shared space for reads.  Loop thread only, within one call.
        self.buffer = memoryview(bytearray(BUFFER_BYTES))
        #: Jobs of which bytes wait in memory, or have waited: monotonic seconds since when.
        self.stalled: Dict[Job, float] = {}
        #: Called (loop thread) when ``stalled`` has one more, or one of them has more bytes.
        self.on_stalled: Callable[[], None] = lambda: None
        #: Called (loop thread) after each round that leaves no job.
        self._on_empty: List[Callable[[], None]] = []

    # Any thread

    def start(self) -> None:
        """Start the thread; ``RuntimeError``: there is no room for one."""
        self._thread = start_thread(self._run, "loop")

    def submit(self, job: Job) -> None:
        """Hand over *job* with all that it owns; it is aborted if the loop has ended.

        Called in the loop's own thread, it returns when the job has begun.
        """
        if self.is_current():
            if not self._stopping:
                self._take_in(job)
                self._guarded(job, job.begin)
                return
        else:
            with self._lock:
                if not self._stopping:
                    is_shared = not isinstance(self._poller, UNSHARED_POLLERS)
                    masks = job.watched_at_once() if is_shared else None
                    self._take_in(job)
                    if masks is None or not self._watch_from_elsewhere(job, masks):
                        self.call_soon(job, job.begin)
                    return
        thread = self._thread
        if thread is threading.current_thread():
            job.abort("shutdown")  # this round's end, or the shut-down, closes what it had
            return
        if thread is not None:
            thread.join()
        with self._lock:
            job.abort("shutdown")
            self._close_sockets()

    def _watch_from_elsewhere(self, job: Job, masks: Dict[int, int]) -> bool:
        """Report the descriptors of *masks* to *job*; return whether that could be.

        The loop is not woken up for it, which is a tenth of what a connection costs.  It ignores
        their events until all of them are registered, because it knows no job for them.
        """
        registered = []
        try:
            for fd, mask in masks.items():
                self._poller.register(fd, mask)
                registered.append(fd)
        except OSError:
            for fd in registered:
                self._poller.unregister(fd)
            return False
        job.watched()
        self._watching.update(dict.fromkeys(masks, job))  # in one step
        return True

    def call_soon(self, job: Job, callback: Callable[..., None], *args: Any) -> None:
        """Call *callback* in the loop's thread after the events of this round.

        It is not called if *job* is done by then.
        """
        self._calls.append((job, callback, args))
        # Before the flag is read: the loop sets that before it looks at the deque.
        if self._sleeping:
            self._sleeping = False
            self._waker.wake()

    def stop(self) -> None:
        """Abort all jobs and end the thread; return when it has ended.

        Called in the loop's own thread, it does not wait.
        """
        with self._lock:
            self._stopping = True
        self._waker.wake()
        if self._thread is threading.current_thread():
            return
        if self._thread is not None:
            self._thread.join()
        elif self._waker.fileno() >= 0:
            self._shut_down()

    def notify_when_empty(self, callback: Callable[[], None]) -> None:
        """Call *callback* when no job is left; at once if the loop has ended."""
        with self._lock:
            if not self._stopping:
                self._on_empty.append(callback)
                self._waker.wake()
                return
        callback()

    def is_current(self) -> bool:
        """Return whether this is the loop's thread."""
        return threading.get_ident() == self._ident

    def __len__(self) -> int:
        return max(0, len(self._jobs) - len(self._uncounted))

    # The loop's thread

    def watch(self, fd: int, mask: int, job: Job) -> None:
        """Report to *job* when *fd* is ready; mask 0: only when it is dead."""
        if fd in self._watching:
            poller = self._bulk_poller if fd in self._bulk else self._poller
            try:
                poller.modify(fd, mask)
            except FileNotFoundError:  # the socket with this number was closed elsewhere
                poller.register(fd, mask)
        else:
            self._poller.register(fd, mask)
        self._watching[fd] = job

    def reassign(self, fd: int, job: Job) -> None:
        """Report *fd*, which is watched already, to *job* from now on.  No system call."""
        self._watching[fd] = job

    def unwatch(self, fd: int, job: Optional[Job] = None) -> None:
        """Report *fd* no more, not even in this round; only if *job*, if given, watches it."""
        is_its = job is None or self._watching.get(fd) is job
        if is_its and self._watching.pop(fd, None) is not None:
            self._unregister(fd)

    def call_later(self, seconds: float, job: Job, callback: Callable[[], None]) -> Timer:
        """Call *callback* after *seconds* unless cancelled or *job* is done."""
        return self._timers.add(seconds, job, callback)

    def set_bulk(self, fd: int, mask: int, is_bulk: bool) -> None:
        """Report *fd*, watched for *mask*, to ``on_bulk`` behind all others; or no more so.

        Nothing if it is not watched, or where there is no ``epoll`` or descriptor.
        """
        is_same = (fd in self._bulk) == is_bulk or fd not in self._watching
        if is_same or (self._bulk_poller is None and not self._nest_poller()):
            return
        self._unregister(fd)
        (self._bulk_poller if is_bulk else self._poller).register(fd, mask)
        if is_bulk:
            self._bulk.add(fd)

    def _nest_poller(self) -> bool:
        """Make the poller for bulk; return whether that could be."""
        try:
            poller = Poller()
            self._poller.register(poller.fileno(), READ)
        except (AttributeError, OSError):  # only epoll has a descriptor
            return False
        self._bulk_poller = poller
        return True

    def _unregister(self, fd: int) -> None:
        poller = self._bulk_poller if fd in self._bulk else self._poller
        self._bulk.discard(fd)
        try:
            poller.unregister(fd)
        except OSError:
            pass  # it is closed already; Pythons before 3.9 say nothing

    def jobs(self) -> List[Job]:
        """Return all jobs, also those that do not count."""
        return list(self._jobs)

    def tell_all(self, method: str) -> None:
        """Call the *method* of each job.  Loop thread."""
        for job in self.jobs():
            self._guarded(job, getattr(job, method))

    def stalls(self, job: Job) -> None:
        """Take note that bytes of *job* wait, because their receiver takes no more."""
        self.stalled[job] = time.monotonic()
        self.on_stalled()

    def close_later(
        self, sock: socket.socket, reset: bool = False, frees_port: bool = False
    ) -> None:
        """Unwatch *sock* now and close it at the end of the round.

        *reset*: the peer gets a RST, because its stream broke off.  *frees_port*: its port is
        free at once.
        """
        self.unwatch(sock.fileno())
        if frees_port and os.name == "posix":
            # This closes the socket, but keeps its number in use until the end of the round.
            os.dup2(self._waker.fileno(), sock.fileno(), False)
        self._closing.append((sock, reset))

    def done(self, job: Job) -> None:
        """Remove *job*, which owns nothing any more; any number of times."""
        self._jobs.discard(job)
        self._uncounted.discard(job)
        self.stalled.pop(job, None)

    def _take_in(self, job: Job) -> None:
        if not job.counts:
            self._uncounted.add(job)
        self._jobs.add(job)

    def _guarded(self, job: Job, step: Callable[..., None], *args: Any) -> None:
        if job not in self._jobs:
            return
        try:
            step(*args)
        except Exception:  # noqa: BLE001  # our bug: this job ends, the others go on
            self._failed(job)

    def _failed(self, job: Job) -> None:
        log_bug("%s failed", type(job).__name__)
        self._abort(job, "internal error")

    def _abort(self, job: Job, why: str) -> None:
        try:
            job.abort(why)
        except Exception:  # noqa: BLE001  # our bug, twice: its descriptors are lost, the loop goes on
            log_bug("%s could not be aborted", type(job).__name__)
        self.done(job)

    def _run(self) -> None:
        self._ident = threading.get_ident()
        self._processor.keep()
        while not self._stopping:
            try:
                self._round()
            except MemoryError:  # the poller needs room for its events
                log.error("out of memory; trying again")
                time.sleep(0.1)
        self._shut_down()
        self._ident = 0  # another thread may be given the number

    def _round(self) -> None:
        self._sleeping = True
        timeout = 0.0
        if not self._calls and not self._stopping:
            timeout = self._timers.seconds_left() if self._timers.entries else -1.0
        events = self._poller.poll(timeout, self.most_events)
        self._sleeping = False
        watching, jobs, has_bulk = self._watching, self._jobs, False
        for fd, mask in events:
            job = watching.get(fd)
            if job in jobs:
                # As in _guarded, whose call would be a tenth of a short message.
                try:
                    job.on_ready(fd, mask)
                except Exception:  # noqa: BLE001  # as there
                    self._failed(job)
            elif fd == self._waker.fileno():
                self._waker.drain()
            else:
                has_bulk = True
        for _ in range(len(self._calls)):
            job, callback, args = self._calls.popleft()
            self._guarded(job, callback, *args)
        if has_bulk and self._bulk:
            self._move_bulk()
        timers = self._timers.entries
        if timers and timers[0][0] <= time.monotonic():
            for job, callback in self._timers.due():
                self._guarded(job, callback)
        if self._closing:
            self._close_sockets()
        if len(self._jobs) <= len(self._uncounted):
            self._tell_empty()
        self._rounds_left -= 1
        if not self._rounds_left:  # no timer: an idle loop is not woken up for it
            self._rounds_left = LOOK_ROUNDS
            if time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + LOOK_SECONDS
                self._processor.look()

    def _move_bulk(self) -> None:
        """Move bulk for a bounded time."""
        until, most, count = time.monotonic() + BULK_SECONDS, self.most_events, 0
        while True:
            events = self._bulk_poller.poll(0.0, BULK_EVENTS)
            for fd, mask in events:
                job = self._watching.get(fd)
                if job is not None:
                    self._guarded(job, job.on_bulk, fd, mask)
            count += len(events)
            if len(events) < BULK_EVENTS or 0 < most <= count or time.monotonic() >= until:
                return

    def _tell_empty(self) -> None:
        self.pipes.close_spare()
        if self._bulk_poller is not None and not self._bulk:
            self._poller.unregister(self._bulk_poller.fileno())
            self._bulk_poller.close()
            self._bulk_poller = None
        for callback in list(self._on_empty):
            try:
                callback()
            except Exception:  # noqa: BLE001  # a bug of the callback; the loop goes on
                log_bug("a callback failed")

    def _close_sockets(self) -> None:
        closing, self._closing = self._closing, []
        for sock, reset in closing:
            (hang_up if reset else close_quietly)(sock)

    def _shut_down(self) -> None:
        for job in self.jobs():
            self._abort(job, "shutdown")
        self._close_sockets()
        self._tell_empty()
        self._poller.close()
        self._waker.close()


def run_in(loop: Loop, work: Callable[[], _T]) -> Optional[_T]:
    """Return what *work* returns in the thread of *loop*; None if that ends before.  Any thread."""
    results: List[_T] = []
    task = Task(lambda: results.append(work()), loop.done)
    loop.submit(task)
    task.ended.wait()
    return results[0] if results else None
