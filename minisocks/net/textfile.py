"""Files of settings, users and lists, read as text.  Imports next to nothing, for ``--ensure``."""

import os
import sys

__all__ = ["MAX_FILE_BYTES", "read_file"]

#: More is no file of settings.
MAX_FILE_BYTES = 1 << 20


def read_file(path: str, most: int = MAX_FILE_BYTES, waits: bool = False) -> str:
    """Return the text of a file of settings, or another of at most so many bytes.

    Args:
        waits: it may be a pipe, to which somebody writes, or not.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too long for one, or no file.
    """
    with open(path, "rb", opener=None if waits else _open_at_once) as file:
        if not waits and os.fstat(file.fileno()).st_mode & 0o170000 in _PIPES:
            raise ValueError("it is no file")
        data = file.read(most + 1) or b""
    if len(data) > most:
        raise ValueError("it is longer than %d MiB" % (most >> 20))
    # What cannot be said in the encoding that names of files have here goes the way it
    # goes on the command line; 3.6 has ASCII where nothing is set, as under cron.
    encoding = "utf-8" if sys.getfilesystemencoding().lower() != "ascii" else "ascii"
    return data[3 * data.startswith(b"\xef\xbb\xbf") :].decode(encoding, "surrogateescape")


#: FIFO and socket, by which a file's mode says so.
_PIPES = (0o010000, 0o140000)


def _open_at_once(path: str, flags: int) -> int:
    # Who serves must not wait for whoever may write to a pipe of that name.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
