"""The one processor to which the serving threads of a proxy are bound (Linux).

CPython lets one thread run at a time.  Threads on two processors pass the interpreter's lock at
each system call, which takes several times as long as on one.  So the loop and the handler threads
are bound to one.  The main thread is never bound, because other threads inherit its mask.

``Processor`` raises no errors of the system: a thread that cannot be bound is not.
"""

import contextlib
import errno
import logging
import os
import sys
import threading
import time
from typing import Any, Dict, FrozenSet, Iterator, NamedTuple, Optional, Set, Tuple

from minisocks.compat import tell
from minisocks.quoting import reason_of

__all__ = ["AUTO", "NONE", "Processor", "System", "Times", "preview", "release_thread"]


class Binding:
    """One choice of a processor.

    A class because two choices of the same number differ: threads must follow the second one,
    too, if they were bound to another processor in between.
    """

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


#: Of a thread that has not bound itself: it has the mask of the thread that started it.
UNKNOWN = Binding(-1)


class _OfThread(threading.local):
    """The binding of the calling thread; None: it has the process's mask."""

    binding: Optional[Binding] = UNKNOWN


class Times(NamedTuple):
    """Seconds of one processor since the machine was started: busy ones, and all."""

    busy: float
    all: float


class System:
    """The kernel's part.  A class, so that a test can replace it.

    ``main_mask``, ``thread_mask`` and ``bind`` raise ``OSError``, the others nothing.  Any
    thread.

    Args:
        proc: where the kernel's files are.
    """

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        self.thread = _OfThread()
        #: Whether a thread has ever been bound, so that another may have inherited its mask.
        self.is_used = False
        self._mask_before: FrozenSet[int] = frozenset()

    def main_mask(self) -> FrozenSet[int]:
        """Return the processors that the main thread may use."""
        if not sys.platform.startswith("linux") or not hasattr(os, "sched_getaffinity"):
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        return frozenset(os.sched_getaffinity(os.getpid()))

    def thread_mask(self) -> FrozenSet[int]:
        """Return the processors that the calling thread may use."""
        return frozenset(os.sched_getaffinity(0))

    def bind(self, mask: FrozenSet[int]) -> None:
        """Bind the calling thread to the processors of *mask*."""
        os.sched_setaffinity(0, mask)

    def running_on(self) -> Optional[int]:
        """Return the processor that the main thread runs on, or ran on; None: unknown."""
        try:
            with open(self._proc + "/self/stat", "rb") as file:
                # The name of the program, in brackets, may have any byte in it.  proc(5)
                # counts the fields from 1; two of them end with that bracket.
                return int(file.read().rpartition(b")")[2].split()[39 - 3])
        except (OSError, ValueError, IndexError):
            return None

    def times(self) -> Dict[int, Times]:
        """Return the times of each processor; none if they are unknown."""
        found = {}
        try:
            tick = 1.0 / os.sysconf("SC_CLK_TCK")
            with open(self._proc + "/stat", "rb") as file:
                for line in file:
                    if not line.startswith(b"cpu"):
                        break  # counters of interrupts
                    name, *figures = line.split()
                    if name != b"cpu":  # that line is the sum of the others
                        # user nice system idle iowait irq softirq steal; the others are
                        # included in user and nice.
                        spent = [int(figure) * tick for figure in figures[:8]]
                        busy = sum(spent) - sum(spent[3:5])
                        found[int(name[3:])] = Times(busy, sum(spent))
        except (OSError, ValueError, AttributeError):
            return {}
        return found

    #: Seconds of processor time that this process has had; and of a clock that is never set.
    own_seconds = staticmethod(time.process_time)
    now = staticmethod(time.monotonic)

    def is_main_thread(self) -> bool:
        """Return whether this is the main thread, whose mask is the process's."""
        return threading.get_ident() == threading.main_thread().ident

    def process_mask(self) -> FrozenSet[int]:
        """Return ``main_mask``, or the last one if there is an error."""
        with contextlib.suppress(OSError):
            self._mask_before = self.main_mask()
        return self._mask_before

    def release(self) -> None:
        """Give the calling thread the process's mask, if that is possible."""
        self.thread.binding = None
        mask = self.process_mask()
        with contextlib.suppress(OSError):  # it stays bound, which only costs time
            if mask:
                self.bind(mask)


#: This system.  One for all proxies, because threads belong to the process.
SYSTEM = System()


#: Values of the setting besides a number.
AUTO, NONE = "auto", "none"

#: Another processor is chosen if other programs take more than this part of the current one, ...
MOST_BY_OTHERS = 0.2
#: ... and if the other one is less busy by at least this part.
LEAST_GAIN = 0.1
#: Older figures are not compared with new ones.
MAX_AGE_SECONDS = 60.0

#: Level, message and arguments of a log line.
_News = Optional[Tuple[Any, ...]]


class Processor:
    """The processor to which the serving threads of a proxy are bound.

    Args:
        wanted: ``"auto"``; a number, as text; None or ``"none"``: bind none.
    """

    def __init__(self, wanted: Optional[str], system: Optional[System] = None) -> None:
        #: ``"auto"``, a number as text, or None.
        self.wanted: Optional[str] = None
        self._system = system or SYSTEM
        self._thread = self._system.thread
        self._lock = threading.Lock()  # guards all below
        self._binding: Optional[Binding] = None
        #: Whether the system does not allow to bind threads at all.
        self._is_refused = False
        #: Processors of the mask to which threads could not be bound since the last look.
        self._failed: Set[int] = set()
        self._problem = ""
        #: Of the last look: when it was, our own seconds, and those of each processor.
        self._figures: Optional[Tuple[float, float, Dict[int, Times]]] = None
        self.change(wanted)

    @property
    def number(self) -> Optional[int]:
        """The current processor.  Any thread.

        None: none is wanted, the process may use one only, or threads cannot be bound here.
        """
        binding = self._binding
        return None if binding is None else binding.number

    def change(self, wanted: Optional[str]) -> None:
        """Use *wanted* from now on; threads follow at their next ``keep``.

        If that number cannot be used, none is, and the log has a warning.  Any thread.
        """
        wanted = None if wanted == NONE else wanted
        with self._lock:
            if wanted == self.wanted:
                return
            self.wanted, self._is_refused, self._problem = wanted, False, ""
            self._failed.clear()
            news = self._choose(self._system.process_mask() if wanted else frozenset())
        _say(news)

    def keep(self) -> None:
        """Bind the calling thread to the processor; no system call if it is bound already.

        For a serving thread, at its start and before each client.  Does nothing in the main
        thread.
        """
        if self._thread.binding is not self._binding:
            self._follow()

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """Give the calling thread the process's mask inside the context.

        For work that takes long, or starts threads and programs, which inherit the mask.  No
        system call for a thread that is not bound.
        """
        is_bound = self._thread.binding not in (None, UNKNOWN)
        if is_bound:
            self._system.release()
        try:
            yield
        finally:
            if is_bound:
                self.keep()

    def look(self) -> None:
        """Choose another processor if other programs keep this one busy; bind this thread.

        Loop thread, about every 10 s while it is busy: it compares with the last look, unless
        that was more than a minute ago.  A number that is wanted is never replaced.
        """
        if self.wanted is None or self._is_refused:
            return
        with self._lock:
            self._failed.clear()
            news: _News = None
            allowed, before = self._system.process_mask(), self.number
            if not self._holds(allowed):
                news = self._choose(allowed)
                if news is None and self.number != before:
                    what = NONE if self.number is None else self.number
                    text = "keeping to processor %s from now on: this process may use %s now"
                    news = (logging.INFO, text, what, _listed(allowed))
            elif self.wanted == AUTO:
                news = self._compare(allowed)
        _say(news)
        self.keep()

    def _follow(self) -> None:
        """Bind the calling thread, or release it.  It ends, because no processor fails twice."""
        if self._system.is_main_thread():
            return
        while True:
            binding = self._binding
            if binding is None:
                # A bound thread may have started this one.
                if self._system.is_used and self._thread.binding is not None:
                    self._system.release()
                self._thread.binding = None
                return
            self._system.is_used = True
            try:
                self._system.bind(frozenset((binding.number,)))
            except OSError as exc:
                self._could_not(binding, exc)
            else:
                self._thread.binding = binding
                return

    def _could_not(self, binding: Binding, exc: OSError) -> None:
        """Choose again, because threads cannot be bound to *binding*."""
        with self._lock:
            if self._binding is not binding:
                return  # another thread has done so
            self._failed.add(binding.number)
            if exc.errno == errno.EINVAL:  # it was removed from the mask just now
                news = self._choose(self._system.process_mask())
            else:  # a sandbox does not allow it
                self._binding, self._is_refused = None, True
                level = logging.INFO if self.wanted == AUTO else logging.WARNING
                text = "running on any processor: the system does not allow it (%s); %s"
                news = (level, text, reason_of(exc), "--processor none does not try")
        _say(news)

    def _choose(self, allowed: FrozenSet[int]) -> _News:
        """Choose one of *allowed*, or none; return a line for the log.  Locked."""
        allowed, self._figures = allowed - self._failed, None
        number, problem = _chosen(self.wanted, allowed, self.number, self._system)
        self._binding = None if number is None else Binding(number)
        if not problem or problem == self._problem:
            return None
        self._problem = problem
        return logging.WARNING, "running on any processor: %s", problem

    def _holds(self, allowed: FrozenSet[int]) -> bool:
        """Return whether the choice still holds.  Locked."""
        if self.number not in allowed:
            return False
        if self._thread.binding is not self._binding:
            return True  # this thread has not followed yet, so its mask says nothing
        try:
            return self._system.thread_mask() == {self.number}
        except OSError:
            return True

    def _compare(self, allowed: FrozenSet[int]) -> _News:
        """Choose the least busy processor if it is a gain; return a line for the log.  Locked."""
        system, last = self._system, self._figures
        when, own, after = self._figures = (system.now(), system.own_seconds(), system.times())
        if last is None or when - last[0] > MAX_AGE_SECONDS:
            return None
        spent = {
            number: Times(after[number].busy - past.busy, after[number].all - past.all)
            for number, past in last[2].items()
            if number in after and number in allowed
        }
        busy = {number: one.busy / one.all for number, one in spent.items() if one.all > 0}
        ours = self.number
        if ours not in busy or len(busy) < 2:
            return None
        # Our seconds on other processors (names, passwords) are subtracted as well.  That is a
        # little too much, so in doubt the choice stays.
        by_others = busy.pop(ours) - (own - last[1]) / spent[ours].all
        best = min(busy, key=lambda number: busy[number])
        if by_others <= MOST_BY_OTHERS or by_others - busy[best] < LEAST_GAIN:
            return None
        self._binding = Binding(best)
        text = "keeping to processor %d from now on: other programs take %d %% of processor %d"
        return logging.INFO, text, best, round(100 * by_others), ours


def release_thread() -> None:
    """Give the calling thread the process's mask, if it may have inherited another one.

    For a thread that serves no client (names, the log, reports), at its start: a bound thread may
    have started it.  No system call if no thread was ever bound.
    """
    if SYSTEM.is_used and SYSTEM.thread.binding is not None:
        SYSTEM.release()


def preview(wanted: Optional[str]) -> Tuple[Optional[int], str]:
    """Return the choice that a ``Processor`` would make here, and why it is not *wanted*.

    Binds nothing, and writes nothing to the log.
    """
    wanted = None if wanted == NONE else wanted
    return _chosen(wanted, SYSTEM.process_mask(), None, SYSTEM)


def _chosen(
    wanted: Optional[str], allowed: FrozenSet[int], now: Optional[int], system: System
) -> Tuple[Optional[int], str]:
    """Return one of *allowed* or None; and a sentence for the operator if *wanted* cannot be."""
    if wanted is None:
        return None, ""
    if wanted == AUTO:
        if len(allowed) < 2:
            return None, ""  # there is nothing to choose
        # The kernel has put this process on a processor that was free.
        for number in (now, system.running_on()):
            if number in allowed:
                return number, ""
        # Any one, but not the same one for all processes.
        return sorted(allowed)[os.getpid() % len(allowed)], ""
    if int(wanted) in allowed:
        return int(wanted), ""
    if not allowed:
        return None, "this system cannot keep threads to one; leave --processor %s out" % wanted
    text = "this process may use %s, and not %s; say --processor auto, or one of these"
    return None, text % (_listed(allowed), wanted)


def _listed(numbers: FrozenSet[int]) -> str:
    return ", ".join(map(str, sorted(numbers))) or NONE


def _say(news: _News) -> None:
    if news is not None:
        tell(*news)
