"""What it costs here to check a password, measured."""

import time
from typing import Callable

from minisocks.policy.passwords import derive

__all__ = ["default_iterations", "seconds_for"]

#: What a login may cost by default: a second is what people begin to notice, and one
#: that guesses should not get more than two a second of a processor.
DEFAULT_SECONDS = 0.5
LEAST_ITERATIONS, MOST_ITERATIONS = 10000, 600000
#: Measured for so long, or a little longer.
MEASURE_SECONDS = 0.05


def seconds_for(iterations: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return how long that many take here, from a fraction of them."""
    tried, took = 500, 0.0
    while took < MEASURE_SECONDS:
        tried *= 2
        began = clock()
        derive(b"password", b"0123456789abcdef", tried)
        took = clock() - began
    return took * iterations / tried


def default_iterations(clock: Callable[[], float] = time.perf_counter) -> int:
    """Return how many take half a second here: 10 000 to 600 000, in thousands."""
    fits = DEFAULT_SECONDS / seconds_for(1, clock)
    return max(LEAST_ITERATIONS, min(MOST_ITERATIONS, round(fits / 1000) * 1000))
