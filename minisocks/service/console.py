"""What the program prints: for people on stderr, for programs on stdout.  And ``--daemon``.

A process in the background prints through the one that started it, which waits until it serves.
Main thread.
"""

import contextlib
import os
import sys
import traceback
from typing import Iterable, List, Sequence

from minisocks.quoting import shown

__all__ = [
    "NO_BACKGROUND",
    "can_detach",
    "clear_screen",
    "crash",
    "detach",
    "fail",
    "fill_standard_descriptors",
    "finish",
    "flush_stderr",
    "flush_stdout",
    "has_terminal",
    "print_bytes",
    "print_line",
    "say",
    "show",
    "warn",
    "working_directory",
]

#: Cursor to the upper left corner; clear the screen and the lines that have scrolled out.
_CLEAR = "\x1b[H\x1b[2J\x1b[3J"

_RED, _GREEN, _YELLOW = 31, 32, 33

#: How many descriptors are closed where the system does not list the open ones.
MAX_DESCRIPTORS = 65536

NO_BACKGROUND = (
    "this system has no processes in the background: start it without --daemon and --ensure, "
    "for example by a service manager"
)

#: The pipe to the process that started this one and waits until it serves; -1: there is none.
_starter = -1

#: In that pipe, between the lines for people and the exit status.
_STATUS = b"\0"


def fill_standard_descriptors() -> None:
    """Open /dev/null where descriptor 0, 1 or 2 is closed.

    Else a client would get that number, and all that is written to stderr.
    """
    # Without /dev/null, or a descriptor, the start will fail with a reason.
    with contextlib.suppress(OSError):
        fd = 0
        while fd <= 2:
            fd = os.open(os.devnull, os.O_RDWR)
        os.close(fd)


def has_terminal() -> bool:
    """Return whether this process belongs to a terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | getattr(os, "O_NOCTTY", 0)))
    except OSError:
        return False
    return True


def working_directory() -> str:
    """Return the directory in which this process was started; / if it has been removed."""
    try:
        return os.getcwd()
    except OSError:
        return "/"


def can_detach() -> bool:
    """Return whether this system has what ``detach`` needs.  Windows has not."""
    return hasattr(os, "fork")


def detach(keep: Sequence[int]) -> None:
    """Return in the background: in a session of its own, in ``/``, with no descriptors but *keep*.

    The process that calls it does not return: it waits, prints what the new process says, and
    exits with the status that ``finish`` is given (1 if the new one ends before that).

    While there is no other thread.

    Raises:
        OSError: no process can be made.
    """
    global _starter
    reader, writer = os.pipe()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed, when Python started
            with contextlib.suppress(OSError):  # a full disk is no reason not to serve
                stream.flush()
    if os.fork():
        for fd in (writer, *keep):
            os.close(fd)  # a lock on it ends with the new process alone
        os._exit(_wait_for_it(reader))
    try:
        os.setsid()
        # Once more, so that it never gets another terminal by opening one.
        if os.fork():
            os._exit(0)
        os.chdir("/")
        os.umask(0o077)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        _close_all_but([0, 1, 2, writer, *keep])
        _starter = writer
    except BaseException as exc:  # noqa: BLE001  # two processes must not do the same work
        os.write(writer, b"minisocks: cannot go to the background: %a\n" % exc + _STATUS + b"1")
        os._exit(1)


def finish(status: int) -> None:
    """End the process that started this one, with this exit status.  May be called again."""
    global _starter
    if _starter >= 0:
        _tell_starter(_STATUS + b"%d" % status)
        os.close(_starter)
        _starter = -1


def crash() -> None:
    """Print the exception that ends a process in the background, before it serves."""
    if _starter >= 0:
        for line in traceback.format_exc().splitlines():
            _tell_starter(_as_line(shown(line)))
        finish(1)


def say(about: str, rest: str) -> None:
    """Print a line that begins with *about*, in colour on a terminal."""
    _write(about, _GREEN, rest)


def warn(sentence: str) -> None:
    """Print what the operator may want to change."""
    _write("warning:", _YELLOW, sentence)


def show(lines: Iterable[str]) -> None:
    """Print *lines*, indented, below the last one: the place of a mistake."""
    for line in lines:
        _write("   ", 0, line)


def fail(sentence: str) -> None:
    """Print why the program ends and, if *sentence* does not say it, what to do."""
    # There may be no descriptor or memory left.
    with contextlib.suppress(ImportError, OSError, MemoryError):
        from minisocks.service.mistakes import explained  # not needed by a start that succeeds

        sentence = explained(sentence)
    _write("minisocks:", _RED, sentence)


def print_line(line: str) -> None:
    """Write *line* to stdout, with escapes for what stdout or a terminal cannot show.

    ``flush_stdout`` empties the buffer.

    Raises:
        OSError: it is closed, or full.
    """
    if sys.stdout is None:
        raise OSError(9, "stdout is closed")
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    sys.stdout.write(shown(line).encode(encoding, "backslashreplace").decode(encoding) + "\n")


def clear_screen() -> None:
    """Clear the screen, if stdout is a terminal."""
    if sys.stdout is not None:
        sys.stdout.write(_CLEAR)


def print_bytes(line: bytes) -> None:
    """Write *line* to stdout as it is, whatever the locale.

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
    _flush("stdout")


def flush_stderr() -> None:
    """Write what the buffer of stderr holds, or discard it.  The process ends with this.

    A failure when the process exits would be exit status 120 instead of the command's own.
    """
    with contextlib.suppress(OSError):
        _flush("stderr")


def _flush(name: str) -> None:
    """Empty the buffer of ``sys.stdout`` or ``sys.stderr``; if that fails, into /dev/null."""
    stream = getattr(sys, name)
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
        except OSError:  # no /dev/null here: what is None is not flushed at exit
            setattr(sys, name, None)
        raise


def _write(about: str, colour: int, rest: str) -> None:
    """Write a line to stderr at once.  A closed stderr is no reason to end."""
    rest = shown(rest)  # it may have the name of a file, or the words of another process
    if _starter >= 0:
        _tell_starter(_as_line("%s %s" % (about, rest)))
        return
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
            about = "\x1b[%dm\x1b[1m%s\x1b[0m" % (colour, about)
        sys.stderr.write("%s %s\n" % (about, rest))
        sys.stderr.flush()


def _as_line(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _tell_starter(data: bytes) -> None:
    with contextlib.suppress(OSError):  # it has ended
        os.write(_starter, data)


def _wait_for_it(reader: int) -> int:
    """Print what the new process says until it serves; return the exit status."""
    heard = b""
    while _STATUS not in heard[-8:]:
        data = os.read(reader, 4096)
        if not data:
            break
        heard += data
    lines, found, status = heard.partition(_STATUS)
    _repeat(lines)
    if found:
        return int(status or b"1")
    _repeat(b"minisocks: the process in the background ended before it served\n")
    return 1


def _repeat(data: bytes) -> None:
    with contextlib.suppress(OSError):  # its reader has ended
        while data:
            data = data[os.write(2, data) :]


def _close_all_but(kept: Sequence[int]) -> None:
    for fd in _open_descriptors():
        if fd not in kept:
            with contextlib.suppress(OSError):  # the one that listed them
                os.close(fd)


def _open_descriptors() -> List[int]:
    for directory in ("/proc/self/fd", "/dev/fd"):
        try:
            return [int(name) for name in os.listdir(directory)]
        except OSError:
            continue
    return list(range(3, min(os.sysconf("SC_OPEN_MAX"), MAX_DESCRIPTORS)))
