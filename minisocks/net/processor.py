"""The one processor that the serving threads of a proxy keep to (Linux).

CPython lets one thread run at a time.  Threads on two processors hand the interpreter's
lock from one processor to the other at every system call, which takes several times as
long as on one processor.  So the loop and the handler threads keep to one.  The main
thread is never bound: its mask is the process's, which every other thread has.

Nothing here raises for what the system says.  Where a thread cannot be bound, it runs
where the kernel puts it.
"""

import errno
import logging
import os
import threading
from typing import Any, ContextManager, Dict, FrozenSet, Optional, Set, Tuple

from minisocks.compat import tell
from minisocks.net.affinity import SYSTEM, UNKNOWN, Binding, System, Times
from minisocks.quoting import reason_of

__all__ = ["AUTO", "NONE", "Processor", "preview", "release_thread"]

#: What the setting may say besides a number.
AUTO, NONE = "auto", "none"

#: It moves when others take more than this part of its processor's time, ...
MOST_BY_OTHERS = 0.2
#: ... and when another processor has at least so much less to do.
LEAST_GAIN = 0.1
#: Figures that are older than so many seconds say nothing about now.
MAX_AGE_SECONDS = 60.0

#: Level, message and arguments of a line for the log.
_News = Optional[Tuple[Any, ...]]


class Processor:
    """The one processor that the serving threads of a proxy keep to.

    A class because all of these threads have to know when another one is chosen.

    Args:
        wanted: ``"auto"``; a number, as text; None or ``"none"``: keep to none.
    """

    def __init__(self, wanted: Optional[str], system: Optional[System] = None) -> None:
        #: What is wanted; None: that they keep to none.
        self.wanted: Optional[str] = None
        self._system = system or SYSTEM
        self._thread = self._system.thread
        self._lock = threading.Lock()  # guards all below
        self._binding: Optional[Binding] = None
        #: Whether the system does not let a thread be bound at all.
        self._is_refused = False
        #: Where threads could not be bound, although it seemed so, since the last look.
        self._failed: Set[int] = set()
        self._problem = ""
        #: When it looked last, our own seconds then, and those of each processor.
        self._figures: Optional[Tuple[float, float, Dict[int, Times]]] = None
        self.change(wanted)

    @property
    def number(self) -> Optional[int]:
        """The processor that is kept to now; None: none.  Any thread.

        None is wanted, the process may use one only, or threads cannot be bound here.
        """
        binding = self._binding
        return None if binding is None else binding.number

    def change(self, wanted: Optional[str]) -> None:
        """Keep to what *wanted* says from now on; threads follow at their next ``keep``.

        A number that cannot be had is a warning in the log, and none is kept to.  Any thread.
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
        """Have the calling thread keep to the processor; no system call if it does already.

        For a thread that serves, at its start and before each client.  Does nothing in the
        main thread.
        """
        if self._thread.binding is not self._binding:
            self._follow()

    def released(self) -> ContextManager[None]:
        """Return a context in which the calling thread has the process's mask.

        For what takes long, or starts threads and programs, which inherit the mask.  Behind
        it the thread keeps to the processor again.  No system call for a thread that is not
        bound.
        """
        if self._thread.binding in (None, UNKNOWN):
            return _AS_IT_IS
        return _Released(self._system, self)

    def look(self) -> None:
        """Move to another processor if others keep this one busy; see that threads are bound.

        Loop thread, about every 10 s while it is busy: it compares with the last look, unless
        that was more than a minute ago.  A number that is wanted is never left for another.
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
        """Bind the calling thread, or release it.  Ends, because no processor fails twice."""
        if self._system.is_main_thread():
            return
        while True:
            binding = self._binding
            if binding is None:
                # One that is unknown may have been started by one that was bound.
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
        """Choose again, because *binding* cannot be had."""
        with self._lock:
            if self._binding is not binding:
                return  # another thread has done so
            self._failed.add(binding.number)
            if exc.errno == errno.EINVAL:  # it has just been taken away
                news = self._choose(self._system.process_mask())
            else:  # a sandbox does not allow it
                self._binding, self._is_refused = None, True
                level = logging.INFO if self.wanted == AUTO else logging.WARNING
                text = "keeping to no processor: the system does not allow it (%s); %s"
                news = (level, text, reason_of(exc), "--processor none does not try")
        _say(news)

    def _choose(self, allowed: FrozenSet[int]) -> _News:
        """Choose one of *allowed*, or none; return what the log is to say.  Locked."""
        allowed, self._figures = allowed - self._failed, None
        number, problem = _chosen(self.wanted, allowed, self.number, self._system)
        self._binding = None if number is None else Binding(number)
        if not problem or problem == self._problem:
            return None
        self._problem = problem
        return logging.WARNING, "keeping to no processor: %s", problem

    def _holds(self, allowed: FrozenSet[int]) -> bool:
        """Return whether the choice is still one.  Locked."""
        if self.number not in allowed:
            return False
        if self._thread.binding is not self._binding:
            return True  # this thread has not followed yet, and cannot tell
        try:
            return self._system.thread_mask() == {self.number}
        except OSError:
            return True

    def _compare(self, allowed: FrozenSet[int]) -> _News:
        """Move if that is worth while; return what the log is to say.  Locked."""
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
        # What we did on other processors (names, passwords) is taken off as well: a little
        # too much, so that it stays where it is.
        by_others = busy.pop(ours) - (own - last[1]) / spent[ours].all
        best = min(busy, key=lambda number: busy[number])
        if by_others <= MOST_BY_OTHERS or by_others - busy[best] < LEAST_GAIN:
            return None
        self._binding = Binding(best)
        text = "keeping to processor %d from now on: other programs take %d %% of processor %d"
        return logging.INFO, text, best, round(100 * by_others), ours


class _AsItIs:
    """A context that changes nothing."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass


_AS_IT_IS = _AsItIs()


class _Released:
    """A context in which the calling thread has the process's mask."""

    def __init__(self, system: System, processor: Processor) -> None:
        self._system = system
        self._processor = processor

    def __enter__(self) -> None:
        self._system.release()

    def __exit__(self, *exc: object) -> None:
        self._processor.keep()


def release_thread() -> None:
    """Give the calling thread the process's mask, if it may have inherited another.

    For a thread that serves no client (names, the log, reports), at its start: one that is
    bound may have started it.  No system call as long as none has ever been bound.
    """
    if SYSTEM.is_used and SYSTEM.thread.binding is not None:
        SYSTEM.release()


def preview(wanted: Optional[str]) -> Tuple[Optional[int], str]:
    """Return what a ``Processor`` would keep to here, and why not what is *wanted*.

    Binds nothing, and writes nothing to the log.
    """
    wanted = None if wanted == NONE else wanted
    return _chosen(wanted, SYSTEM.process_mask(), None, SYSTEM)


def _chosen(
    wanted: Optional[str], allowed: FrozenSet[int], now: Optional[int], system: System
) -> Tuple[Optional[int], str]:
    """Return one of *allowed* or None, and what the operator can do about that."""
    if wanted is None:
        return None, ""
    if wanted == AUTO:
        if len(allowed) < 2:
            return None, ""  # there is nothing to choose
        # The kernel has found the one on which this process runs to be free.
        for number in (now, system.running_on()):
            if number in allowed:
                return number, ""
        # Any, but not the same one for all processes.
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
