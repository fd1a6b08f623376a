"""Go to the background, and tell who waits in the foreground how that went."""

import os
import sys
from typing import List, Sequence

__all__ = ["NO_BACKGROUND", "Detached", "can_detach", "detach"]

#: Where the system does not tell which are open, so many are closed.
MAX_DESCRIPTORS = 65536

#: Behind the lines for people: this, and the exit status.
_STATUS = b"\0"


NO_BACKGROUND = (
    "this system has no way for a process to the background: start it without --daemon and "
    "--ensure, by a service manager, say"
)


def can_detach() -> bool:
    """Return whether this system has what ``detach`` needs.  Not Windows."""
    return hasattr(os, "fork")


class Detached:
    """The process in the background, until it serves.

    A class because what it says still goes to whoever started it.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def say(self, line: str) -> None:
        """Say *line* to whoever waits."""
        self._write(line.encode("utf-8", "backslashreplace") + b"\n")

    def finish(self, status: int) -> None:
        """Let whoever waits go, with this exit status.  Any number of times."""
        if self._fd >= 0:
            self._write(_STATUS + b"%d" % status)
            os.close(self._fd)
            self._fd = -1

    def _write(self, data: bytes) -> None:
        try:
            if self._fd >= 0:
                os.write(self._fd, data)
        except OSError:
            pass  # nobody waits any more


def detach(keep: Sequence[int]) -> Detached:
    """Return in the background: session left, in ``/``, no descriptor but *keep* inherited.

    The process that calls it does not return: it waits, repeats what is said, and exits
    with the status that ``finish`` is given (1 if the other one died before that).

    Main thread, while there is no other.

    Raises:
        OSError: there is no room for a process.
    """
    reader, writer = os.pipe()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed, when Python started
            try:
                stream.flush()
            except OSError:
                pass  # full: no reason not to serve
    if os.fork():
        for fd in (writer, *keep):
            os.close(fd)  # who waits has no part in them: a lock ends with the other process
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
        return Detached(writer)
    except BaseException as exc:  # noqa: BLE001  # two processes must not do the same work
        os.write(writer, b"minisocks: cannot go to the background: %a\n" % exc + _STATUS + b"1")
        os._exit(1)


def _wait_for_it(reader: int) -> int:
    """Repeat what the other process says until it serves; return the exit status."""
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
    try:
        while data:
            data = data[os.write(2, data) :]
    except OSError:
        pass  # nobody reads it


def _close_all_but(kept: Sequence[int]) -> None:
    for fd in _open_descriptors():
        if fd not in kept:
            try:
                os.close(fd)
            except OSError:
                pass  # the one that listed them


def _open_descriptors() -> List[int]:
    for directory in ("/proc/self/fd", "/dev/fd"):
        try:
            return [int(name) for name in os.listdir(directory)]
        except OSError:
            continue
    return list(range(3, min(os.sysconf("SC_OPEN_MAX"), MAX_DESCRIPTORS)))
