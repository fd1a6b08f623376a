"""Which processors a thread may use, and what each has to do: what the kernel knows (Linux).

Elsewhere nothing is known, and nothing can be changed.
"""

import errno
import os
import sys
import threading
import time
from typing import Dict, FrozenSet, NamedTuple, Optional

__all__ = ["SYSTEM", "UNKNOWN", "Binding", "System", "Times"]


class Binding:
    """The choice of a processor.

    A class because each choice is told from all others, also of the same number: threads
    have to follow it anew when they were bound to something else meanwhile.
    """

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


#: Of a thread that nothing is known of: it has the mask of the thread that started it.
UNKNOWN = Binding(-1)


class _OfThread(threading.local):
    """What the calling thread is bound by; None: it has the process's mask."""

    binding: Optional[Binding] = UNKNOWN


class Times(NamedTuple):
    """Seconds of one processor since the machine has started: busy ones, and all."""

    busy: float
    all: float


class System:
    """What the kernel is asked and told.  A class so that a test can have its own.

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
        """Have the calling thread use the processors of *mask* only."""
        os.sched_setaffinity(0, mask)

    def running_on(self) -> Optional[int]:
        """Return the processor that the main thread runs on, or ran on; None: unknown."""
        try:
            with open(self._proc + "/self/stat", "rb") as file:
                # The name of the program, in brackets, may have any byte in it.  proc(5)
                # counts the fields from 1, and the two before that bracket are gone.
                return int(file.read().rpartition(b")")[2].split()[39 - 3])
        except (OSError, ValueError, IndexError):
            return None

    def times(self) -> Dict[int, Times]:
        """Return what each processor has done; nothing where that is unknown."""
        found = {}
        try:
            tick = 1.0 / os.sysconf("SC_CLK_TCK")
            with open(self._proc + "/stat", "rb") as file:
                for line in file:
                    if not line.startswith(b"cpu"):
                        break  # behind them is a counter for each interrupt
                    name, *figures = line.split()
                    if name != b"cpu":  # that line is the sum of the others
                        # user nice system idle iowait irq softirq steal; what follows
                        # (guests) is in user and nice, too.
                        spent = [int(figure) * tick for figure in figures[:8]]
                        busy = sum(spent) - sum(spent[3:5])
                        found[int(name[3:])] = Times(busy, sum(spent))
        except (OSError, ValueError, AttributeError):
            return {}
        return found

    def own_seconds(self) -> float:
        """Return the seconds of processor time that this process has had."""
        return time.process_time()

    def now(self) -> float:
        """Return the seconds of a clock that is never set."""
        return time.monotonic()

    def is_main_thread(self) -> bool:
        """Return whether this is the main thread, whose mask is the process's."""
        return threading.get_ident() == threading.main_thread().ident

    def process_mask(self) -> FrozenSet[int]:
        """Return ``main_mask`` or, if it cannot be had, the last one that could."""
        try:
            self._mask_before = self.main_mask()
        except OSError:
            pass
        return self._mask_before

    def release(self) -> None:
        """Give the calling thread the process's mask, if that is possible."""
        self.thread.binding = None
        mask = self.process_mask()
        try:
            if mask:
                self.bind(mask)
        except OSError:
            pass  # it stays where it is: that costs time and nothing else


#: This system.  One, because the masks of threads are the process's affair.
SYSTEM = System()
