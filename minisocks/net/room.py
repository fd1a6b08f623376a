"""A second try where there was no descriptor."""

from typing import Callable, TypeVar

from minisocks.compat import CAPACITY_ERRORS

__all__ = ["with_room"]

_T = TypeVar("_T")


def with_room(make: Callable[[], _T], make_room: Callable[[], bool]) -> _T:
    """Return what *make* does; it is called again if *make_room* has closed some that it lacked.

    Raises:
        OSError: from *make*.
    """
    try:
        return make()
    except OSError as exc:
        if exc.errno not in CAPACITY_ERRORS or not make_room():
            raise
    return make()
