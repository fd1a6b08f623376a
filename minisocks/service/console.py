"""What the command line says to people: on stderr, and where programs read, on stdout.

In the background it goes to whoever started it, until it serves.
"""

import os
import sys
import traceback
from typing import Iterable, Optional

from minisocks.quoting import shown
from minisocks.service.daemon import Detached

__all__ = [
    "clear_screen",
    "crash",
    "fail",
    "fill_standard_descriptors",
    "finish",
    "flush_stderr",
    "flush_stdout",
    "in_background",
    "print_bytes",
    "print_line",
    "say",
    "show",
    "warn",
]

#: To the upper left corner, and away with all below.
_CLEAR = "\x1b[H\x1b[2J\x1b[3J"

_RED, _GREEN, _YELLOW = 31, 32, 33

_background: Optional[Detached] = None


def fill_standard_descriptors() -> None:
    """Open /dev/null where descriptor 0, 1 or 2 is closed.

    Else a client would get that number, and what anybody writes to "stderr".
    """
    try:
        while True:
            fd = os.open(os.devnull, os.O_RDWR)
            if fd > 2:
                os.close(fd)
                return
    except OSError:
        pass  # no /dev/null, or no descriptor: the start will tell


def in_background(process: Detached) -> None:
    """Speak through *process* from now on."""
    global _background
    _background = process


def finish(status: int) -> None:
    """Let whoever waits for a process in the background go, with this exit status."""
    if _background is not None:
        _background.finish(status)


def crash() -> None:
    """Tell who waits for a process in the background of the exception that ends it."""
    if _background is not None:
        for line in traceback.format_exc().splitlines():
            _background.say(shown(line))
        _background.finish(1)


def say(about: str, rest: str) -> None:
    """Write a line; *about* stands out in it."""
    _write(about, _GREEN, rest)


def warn(sentence: str) -> None:
    """Say what somebody may want to change."""
    _write("warning:", _YELLOW, sentence)


def show(lines: Iterable[str]) -> None:
    """Write *lines* below what was said last: a place in a text."""
    for line in lines:
        _write("   ", 0, line)


def fail(sentence: str) -> None:
    """Say why this is the end, and what to do next where that does not say it."""
    try:
        from minisocks.service.mistakes import explained  # a start that succeeds does without

        sentence = explained(sentence)
    except (ImportError, OSError, MemoryError):
        pass  # neither descriptor nor memory is left to read it
    _write("minisocks:", _RED, sentence)


def print_line(line: str) -> None:
    """Write *line* to stdout, whatever is in it, as stdout and a terminal can show it.

    ``flush_stdout`` writes it out.

    Raises:
        OSError: it is closed, or full.
    """
    if sys.stdout is None:
        raise OSError(9, "stdout is closed")
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    sys.stdout.write(shown(line).encode(encoding, "backslashreplace").decode(encoding) + "\n")


def clear_screen() -> None:
    """Have the next lines on an empty screen, if stdout is a terminal or something like it."""
    if sys.stdout is not None:
        sys.stdout.write(_CLEAR)


def print_bytes(line: bytes) -> None:
    """Write *line* to stdout as it is, whatever the locale; ``flush_stdout`` writes it out.

    Raises:
        OSError: as ``print_line``.
    """
    if sys.stdout is None:
        raise OSError(9, "stdout is closed")
    sys.stdout.buffer.write(line + b"\n")


def flush_stdout() -> None:
    """Write what the buffer of stdout holds.  Every command ends with this.

    Python does the same when the process exits, but a failure there is "Exception ignored"
    and exit status 120. So what cannot be written here is discarded.

    Raises:
        OSError: it is full, or the reader has closed the pipe.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        _discard("stdout")
        raise


def flush_stderr() -> None:
    """Write what the buffer of stderr holds, or discard it.  The process ends with this.

    A failure when the process exits would be exit status 120 instead of the command's own.
    """
    if sys.stderr is None:
        return
    try:
        sys.stderr.flush()
    except OSError:
        _discard("stderr")


def _discard(name: str) -> None:
    """Empty the buffer of ``sys.stdout`` or ``sys.stderr`` into /dev/null."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, getattr(sys, name).fileno())
        os.close(null)
    except OSError:  # no /dev/null here: what is None is not flushed at exit
        setattr(sys, name, None)


def _write(about: str, colour: int, rest: str) -> None:
    """Write a line to stderr, at once; a closed stderr is no reason to end."""
    rest = shown(rest)  # it may be a file's name, or what another process says
    if _background is not None:
        _background.say("%s %s" % (about, rest))
        return
    try:
        if sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
            about = "\x1b[%dm\x1b[1m%s\x1b[0m" % (colour, about)
        sys.stderr.write("%s %s\n" % (about, rest))
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass
