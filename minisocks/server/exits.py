"""The state of the exits of one proxy: which have failed, and are passed over for some time."""

import logging
import time
from typing import Callable, Dict, List, NamedTuple, Sequence

from minisocks.policy.exits import Exit
from minisocks.quoting import sentence

__all__ = ["ExitState", "Exits", "EXIT_SECONDS"]

log = logging.getLogger("minisocks")

#: Longest time for one exit while there is another one to try: a hop that drops all packets would
#: else take the whole time of the request.
EXIT_SECONDS = 10.0
#: An exit that has failed is passed over for so long; then one connection tries it.
PASSED_OVER_SECONDS = 30.0


class ExitState(NamedTuple):
    """What is known of one exit.

    ``error`` is the last one, empty while it works; ``tried_at`` is when it failed last, or when
    a connection has begun to try it, in monotonic seconds.
    """

    error: str = ""
    tried_at: float = 0.0


_WORKS = ExitState()


class Exits:
    """The exits that have failed.  Loop thread; any thread may read ``error_of``."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: Dict[str, ExitState] = {}

    def error_of(self, name: str) -> str:
        """Return the last error of the exit *name*; empty while it works."""
        return self._failed.get(name, _WORKS).error

    def usable(self, exits: Sequence[Exit]) -> List[Exit]:
        """Return those of *exits* to try, in their order; all of them if all have failed.

        Of one whose time is over the caller is the connection that tries it: others still pass it
        over.
        """
        now = self._clock()
        found = []
        for one in exits:
            state = self._failed.get(one.name)
            if state is not None and now < state.tried_at + PASSED_OVER_SECONDS:
                continue
            if state is not None:
                self._failed[one.name] = state._replace(tried_at=now)
            found.append(one)
        return found or list(exits)

    def failed(self, name: str, error: Exception) -> None:
        """Note that the exit *name* has failed."""
        if name not in self._failed:
            what = "exit %s has failed, and is passed over where there is another one: %s"
            log.warning(what, name, sentence(str(error)))
        self._failed[name] = ExitState(str(error), self._clock())

    def worked(self, name: str) -> None:
        """Note that the exit *name* has led to a target."""
        if self._failed.pop(name, None) is not None:
            log.warning("exit %s works again", name)

    def adopt(self, names: Sequence[str]) -> None:
        """Forget the exits that a reload has removed."""
        self._failed = {name: state for name, state in self._failed.items() if name in names}
