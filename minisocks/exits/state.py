"""The state of the exits of one proxy: which have failed, and are passed over for some time."""

import logging
import time
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from minisocks.errors import ExitFailed
from minisocks.policy.exits import Exit, Hop
from minisocks.policy.networks import Sockaddr
from minisocks.quoting import sentence

__all__ = ["EXIT_SECONDS", "Exits", "Failure", "PASSED_OVER_SECONDS"]

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
    """The exits that have failed.  Loop thread; any thread may ask for errors and failures.

    Args:
        leads_back: returns whether a hop at this sockaddr is the proxy itself.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        leads_back: Callable[[Hop, Any], bool] = lambda hop, sockaddr: False,
    ) -> None:
        self._clock = clock
        self._leads_back = leads_back
        self._exits: Mapping[str, Exit] = {}
        #: Those that do not work, and when each failed last.
        self._failed: Dict[str, float] = {}
        #: Those of them that a connection tries now.
        self._claims: Dict[str, object] = {}
        #: The last error of each exit that has ever failed, and when that was.
        self._errors: Dict[str, Tuple[str, float]] = {}

    def others(self, hop: Hop, addresses: Sequence[Sockaddr]) -> List[Sockaddr]:
        """Return those of *addresses*, all of *hop*, that are no listeners of this proxy.

        Each connection would lead to another one, until there is no descriptor left.

        Raises:
            ExitFailed: all of them are.
        """
        found = [address for address in addresses if not self._leads_back(hop, address[1])]
        if not found:
            raise ExitFailed("%s is this proxy itself" % (str(hop),))
        return found

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
        """Return those of *exits* to try, in their order; all of them if all have failed."""
        return [one for one in exits if self._may_try(one.name)] or list(exits)

    def _may_try(self, name: str) -> bool:
        if name not in self._failed:
            return True
        is_late = self._clock() >= self._failed[name] + PASSED_OVER_SECONDS
        return is_late and name not in self._claims

    def claim(self, exit: Exit) -> object:
        """Note that a connection begins to try *exit*; return what ``release`` needs.

        If the exit has failed, others pass it over meanwhile.
        """
        claim = object()
        if exit.name in self._failed:
            self._claims.setdefault(exit.name, claim)
        return claim

    def release(self, exit: Exit, claim: object) -> None:
        """Note that the connection with this *claim* tries *exit* no more.

        If it has not found out whether the exit works, the next connection tries it: else a
        client that leaves at once, again and again, would keep all others from it.
        """
        if self._claims.get(exit.name) is claim:
            del self._claims[exit.name]

    def failed(self, name: str, error: Exception) -> None:
        """Note that the exit *name* has failed."""
        if name not in self._failed:
            what = "exit %s has failed, and is passed over where there is another one: %s"
            log.warning(what, name, sentence(str(error)))
        self._failed[name] = now = self._clock()
        self._errors[name] = (str(error), now)

    def worked(self, name: str) -> None:
        """Note that the exit *name* has led to a target, or told why it cannot."""
        if self._failed.pop(name, None) is not None:
            log.warning("exit %s works again", name)

    def adopt(self, exits: Mapping[str, Exit]) -> None:
        """Forget the failures of exits that a reload has removed or changed."""
        gone = [name for name in self._errors if exits.get(name) != self._exits.get(name)]
        for name in gone:
            del self._errors[name]
            self._failed.pop(name, None)
        self._exits = exits
