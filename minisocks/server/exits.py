"""The state of the exits of one proxy: which have failed, and are passed over for some time."""

import logging
import time
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from minisocks.policy.exits import Exit
from minisocks.quoting import sentence

__all__ = ["EXIT_SECONDS", "Exits", "Failure"]

log = logging.getLogger("minisocks")

#: Longest time for one exit while there is another one to try: a hop that drops all packets would
#: else take the whole time of the request.
EXIT_SECONDS = 10.0
#: An exit that has failed is passed over for so long; then one connection tries it.
PASSED_OVER_SECONDS = 30.0


class Failure(NamedTuple):
    """The last failure of one exit: its error, and how many seconds ago it was.

    ``is_over``: the exit has led to a target since then.
    """

    error: str
    seconds: float
    is_over: bool


class Exits:
    """The exits that have failed.  Loop thread; any thread may ask for errors and failures."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._exits: Mapping[str, Exit] = {}
        #: Those that do not work, and when each failed last, or a connection has begun to try it.
        self._failed: Dict[str, float] = {}
        #: The last error of each exit that has ever failed, and when that was.
        self._errors: Dict[str, Tuple[str, float]] = {}

    def error_of(self, name: str) -> str:
        """Return the last error of the exit *name*; empty while it works."""
        failure = self.last_failure(name)
        return "" if failure is None or failure.is_over else failure.error

    def last_failure(self, name: str) -> Optional[Failure]:
        """Return the last failure of the exit *name*, None if it has never failed."""
        found = self._errors.get(name)
        if found is None:
            return None
        error, at = found
        return Failure(error, max(0.0, self._clock() - at), name not in self._failed)

    def usable(self, exits: Sequence[Exit]) -> List[Exit]:
        """Return those of *exits* to try, in their order; all of them if all have failed.

        Of one whose time is over the caller is the connection that tries it: others still pass it
        over.
        """
        now = self._clock()
        found = []
        for one in exits:
            tried_at = self._failed.get(one.name)
            if tried_at is not None and now < tried_at + PASSED_OVER_SECONDS:
                continue
            if tried_at is not None:
                self._failed[one.name] = now
            found.append(one)
        return found or list(exits)

    def failed(self, name: str, error: Exception) -> None:
        """Note that the exit *name* has failed."""
        if name not in self._failed:
            what = "exit %s has failed, and is passed over where there is another one: %s"
            log.warning(what, name, sentence(str(error)))
        self._failed[name] = now = self._clock()
        self._errors[name] = (str(error), now)

    def worked(self, name: str) -> None:
        """Note that the exit *name* has led to a target."""
        if self._failed.pop(name, None) is not None:
            log.warning("exit %s works again", name)

    def adopt(self, exits: Mapping[str, Exit]) -> None:
        """Forget the failures of exits that a reload has removed or changed."""
        gone = [name for name in self._errors if exits.get(name) != self._exits.get(name)]
        for name in gone:
            del self._errors[name]
            self._failed.pop(name, None)
        self._exits = exits
