"""What a mistyped word was meant to be: the one place that guesses.  Pure."""

from typing import Iterable

__all__ = ["OPENING", "closest", "resembled"]

#: Keys of settings by which clients come in that could not otherwise.  A guess names none of them.
OPENING = ("allow-lan", "auth-once", "name-only", "open")


def resembled(word: str, known: Iterable[str]) -> str:
    """Return the one of *known* that *word* resembles, else nothing."""
    import difflib  # for mistakes only

    # That both begin with dashes is no resemblance.
    names = {name.lstrip("-"): name for name in known}
    meant = difflib.get_close_matches(word.lstrip("-"), list(names), 1)
    return names[meant[0]] if meant else ""


def closest(word: str, known: Iterable[str], shape: str = "%s") -> str:
    """Return "; did you mean ...?" where one of *known* resembles *word*, else nothing.

    Also nothing where that one would let more clients in: a wrong guess would be followed, too.
    """
    meant = resembled(word, known)
    if not meant or meant.lstrip("-").replace("_", "-").lower() in OPENING:
        return ""
    return "; did you mean %s?" % (shape % meant)
