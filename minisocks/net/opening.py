"""Files that the settings name: open them, but not what another user has put there instead.

A log file, a pidfile or a socket may be in a folder where all users can make files, as /tmp.
Another user that knows the name can make a file of that name first, or a link to one of our
files, to which we would write.  No other module opens such a file; a test proves it.

Imports next to nothing, because ``--ensure`` imports it every minute.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Tuple, Union

__all__ = [
    "MAX_FILE_BYTES",
    "demand_room",
    "demand_trusted",
    "open_trusted",
    "read_file",
    "set_kept_mode",
    "try_out",
]

#: Linux: flags for a descriptor of an entry, which is neither opened nor followed.  So the entry
#: that is checked is the one that is used: it cannot be replaced in between.
_ENTRY = getattr(os, "O_PATH", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)

#: As many as the kernel follows (path_resolution(7)).
MAX_LINKS = 40

#: Bits of a file's mode.
_KIND, _DIRECTORY, _LINK, _STICKY = 0o170000, 0o040000, 0o120000, 0o1000


def open_trusted(path: str, flags: int, mode: int = 0o600, others: bool = False) -> int:
    """Open the file *path* as ``os.open`` does; return the descriptor.

    Links on the way are followed if root or this user has made them, so that /dev/stdout
    works.  A file in a sticky folder must be theirs, too, and have no other name.  Where the system
    has no O_PATH, all links are followed.

    Args:
        others: files of other users in a sticky folder are opened, too.

    Raises:
        OSError: as ``os.open``; or another user has put it there.
    """
    if not _ENTRY & ~getattr(os, "O_CLOEXEC", 0):
        return os.open(path, flags, mode)
    follows = not flags & _NO_LINK
    folder, name, is_kernels = _walk(path, None, others, follows)
    try:
        fd = os.open(name, flags | (0 if is_kernels else _NO_LINK), mode, dir_fd=folder)
        try:
            if not others:
                _demand_theirs(fd, folder, name, _trusted(None))
        except BaseException:
            os.close(fd)
            raise
        return fd
    finally:
        os.close(folder)


def try_out(path: str, flags: int) -> None:
    """Check that ``open_trusted`` could open the file *path*, or make it; nothing is made.

    Raises:
        OSError: as ``open_trusted``.
    """
    try:
        os.close(open_trusted(path, flags & ~os.O_CREAT))
    except FileNotFoundError:
        demand_room(os.path.realpath(path))


def demand_room(path: str) -> None:
    """Check that a file *path*, which is not there, could be made.

    Raises:
        OSError: it could not; for example, there is no such folder.
    """
    folder = os.path.dirname(path) or "."
    if os.stat(folder).st_mode & _KIND != _DIRECTORY:
        raise NotADirectoryError(20, os.strerror(20))
    by_id = {"effective_ids": True} if os.access in os.supports_effective_ids else {}
    if not os.access(folder, os.W_OK | os.X_OK, **by_id):
        raise PermissionError(13, "this user may not make files in %s" % folder)


def demand_trusted(path: str, owner: "Optional[int]" = None, follows: bool = True) -> None:
    """Check that no other user has made *path*, where a socket is or will be.

    Args:
        owner: the number of a user that is trusted besides root and this one.
        follows: also what a link at *path* leads to.

    Raises:
        OSError: another user has made it; or there is no such folder.
    """
    if _ENTRY & ~getattr(os, "O_CLOEXEC", 0):
        os.close(_walk(path, owner, False, follows)[0])


def set_kept_mode(where: "Union[int, str]", mode: int) -> None:
    """Set the mode of a file of a process that lives, by its path or descriptor.

    The sticky bit, which has no other meaning for files, keeps systemd-tmpfiles from removing them
    as old (XDG Base Directory Specification).  It takes no notice of locks, and finds no socket
    that was renamed or bound by another path.

    Raises:
        OSError: as ``os.chmod``.
    """
    try:
        os.chmod(where, mode | _STICKY)
    except OSError:
        os.chmod(where, mode)  # on BSD only root may set it


def _trusted(owner: "Optional[int]") -> "Tuple[Optional[int], ...]":
    return 0, os.geteuid(), owner


def _walk(
    path: str, owner: "Optional[int]", others: bool, follows: bool
) -> "Tuple[int, str, bool]":
    """Return a descriptor of the folder that *path* leads to, and the name of the file in it.

    The third value is whether that is a link of the kernel, whose target has no path.
    """
    trusted, left, links = _trusted(owner), path.split("/")[::-1], 0
    folder = os.open("/" if path.startswith("/") else ".", _ENTRY)
    try:
        while True:
            name = left.pop() or "."[: len(path)]  # an empty part is ".", an empty path is an error
            is_last = not any(left)
            try:
                entry = os.open(name, _ENTRY | _NO_LINK, dir_fd=folder)
            except FileNotFoundError:
                if is_last and path:
                    return folder, name, False  # it is yet to be made
                raise
            try:
                status = os.fstat(entry)
                if status.st_mode & _KIND == _LINK:
                    if is_last and not follows:
                        return folder, name, False
                    links += 1
                    if status.st_uid not in trusted:
                        raise _not_trusted("%s is a link", name, status.st_uid)
                    if links > MAX_LINKS:
                        raise OSError(40, "there are too many links on the way")
                    if _is_kernels(status.st_dev):
                        if is_last:
                            return folder, name, True
                        followed = os.open(name, _ENTRY, dir_fd=folder)
                        entry, followed = followed, entry
                        os.close(followed)
                    else:
                        text = os.readlink("", dir_fd=entry)
                        left += text.split("/")[::-1]
                        if text.startswith("/"):
                            root = os.open("/", _ENTRY)
                            folder, root = root, folder
                            os.close(root)
                        continue
                elif not others:
                    _demand_theirs(entry, folder, name, trusted)
                if is_last:
                    return folder, name, False
                folder, entry = entry, folder
            finally:
                os.close(entry)
    except BaseException:
        os.close(folder)
        raise


def _demand_theirs(fd: int, folder: int, name: str, trusted: "Tuple[Optional[int], ...]") -> None:
    """Check that a file in a sticky folder is root's or this user's.

    Raises:
        OSError: it is another user's, or has another name.
    """
    if not os.fstat(folder).st_mode & _STICKY:
        return
    status = os.fstat(fd)
    if status.st_uid not in trusted:
        raise _not_trusted("%s is in a folder that all users share, and is", name, status.st_uid)
    if status.st_nlink > 1 and status.st_mode & _KIND != _DIRECTORY:
        where = "%s is in a folder that all users share" % name
        raise OSError(1, where + ", and has a second name: name another one")


def _is_kernels(device: int) -> bool:
    """Return whether *device* is that of /proc, where only the kernel makes links."""
    try:
        return device == os.lstat("/proc/self").st_dev
    except OSError:
        return False


def _not_trusted(what: str, name: str, uid: int) -> OSError:
    told = what % name, uid
    return OSError(1, "%s of user %d, not of root or this user: name another one" % told)


#: A longer file is none of settings.
MAX_FILE_BYTES = 1 << 20


def read_file(path: str, most: int = MAX_FILE_BYTES, waits: bool = False) -> str:
    """Return the text of a file of settings, users or a list.

    Args:
        most: bytes that it may have.
        waits: it may be a pipe, and the call may wait for its writer.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too long, or no file.
    """
    with open(path, "rb", opener=None if waits else _open_at_once) as file:
        if not waits and os.fstat(file.fileno()).st_mode & 0o170000 in _PIPES:
            raise ValueError("it is no file")
        data = file.read(most + 1) or b""
    if len(data) > most:
        raise ValueError("it is longer than %d MiB" % (most >> 20))
    # Bytes outside the encoding are decoded as on the command line.  Python 3.6 has ASCII where no
    # locale is set, as under cron.
    encoding = "utf-8" if sys.getfilesystemencoding().lower() != "ascii" else "ascii"
    return data[3 * data.startswith(b"\xef\xbb\xbf") :].decode(encoding, "surrogateescape")


#: FIFO and socket, in a file's mode.
_PIPES = (0o010000, 0o140000)


def _open_at_once(path: str, flags: int) -> int:
    # A proxy must not wait for a writer if the file is a pipe.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
