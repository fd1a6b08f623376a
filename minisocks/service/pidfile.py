"""The pidfile: its lock, held as long as a process lives, shows that the process runs.

Nothing else does, because the number in a file may be another process's by now.  The file stays
when its process has ended: if it were removed, two processes could each lock a file of that name.

Imports next to nothing, because ``--ensure`` uses it every minute.
"""

import os

from minisocks.net.opening import open_trusted, set_kept_mode, try_out

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, List, Optional

__all__ = ["NoPidfiles", "Pidfile", "control_path", "default_path", "has_pidfiles"]

#: Only its owner may open it: a program that can open the file can lock it, too, and so keep
#: minisocks from starting.
MODE = 0o600

#: Another user may have put a pipe there, which would make an open wait for ever.
_SAFELY = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"))
_TO_READ, _TO_WRITE = os.O_RDONLY | _SAFELY, os.O_RDWR | os.O_CREAT | _SAFELY

#: A process that looks whether the lock is free has it for a moment.  So it is tried again.
ATTEMPTS, ATTEMPT_SECONDS = 10, 0.02


class NoPidfiles(ValueError):
    """This system has no pidfiles."""

    def __init__(self) -> None:
        super().__init__(
            "this system has no pidfiles, so commands such as status, reload and stop cannot find "
            "a running minisocks: end it with Ctrl-C, or by the service manager that started it"
        )


def has_pidfiles() -> bool:
    """Return whether this system has locks and users, which Windows has not."""
    try:
        import fcntl  # noqa: F401  # not everywhere
    except ImportError:
        return False
    return True


def default_path(address: str) -> str:
    """Return the path of this user's pidfile for *address*, which is written as for ``--listen``.

    It is beside a unix socket; else in ``/run`` for root, and in a directory of their own for
    other users: the one with the pidfile of a process that lives, or else the first that can
    be made.

    Raises:
        ValueError: there is no such directory.
    """
    if address.startswith("unix:"):
        return os.path.abspath(address[5:]) + ".pid"
    host, _, port = address.rpartition(":")
    host = host.strip("[]").replace("/", "_") or "any"
    name = "minisocks-%s-%s.pid" % (host, port)
    if not os.geteuid():
        return os.path.join("/run" if os.path.isdir("/run") else "/var/run", name)
    first = ""
    for directory in _directories():
        path = os.path.join(directory, name)
        if _is_own(directory):
            if _is_held(path):
                return path
        elif not _can_be_made(directory):
            continue
        first = first or path
    if not first:
        raise ValueError(_NO_DIRECTORY % os.geteuid())
    return first


_NO_DIRECTORY = (
    "there is no place for a pidfile, because /tmp/minisocks-%d is another user's, or open to "
    "others, and this user has no home directory to write to: name a --pidfile"
)


def _directories() -> "Iterator[str]":
    """Yield the directories for the pidfiles of a user other than root.

    They depend on neither login nor environment, because cron has no session and no
    XDG_RUNTIME_DIR, and ``/run/user`` is removed at logout.  There is a second one, because
    another user can make the first one before its owner does.
    """
    uid = os.geteuid()
    yield "/tmp/minisocks-%d" % uid  # noqa: S108  # made and checked by Pidfile
    import pwd  # seldom needed

    try:
        home = pwd.getpwuid(uid).pw_dir
        # Some system users have "/" or "/tmp".
        if os.stat(home).st_uid == uid:
            yield os.path.join(home, ".cache", "minisocks")
    except (KeyError, OSError):
        pass  # there is no such user or no such directory


def _own_directories() -> "List[str]":
    """Return the directories that are made for a pidfile."""
    return list(_directories()) if os.geteuid() else []


def _is_own(directory: str) -> bool:
    """Return whether it is this user's, and closed to others.  A link to one is not."""
    try:
        status = os.lstat(directory)
    except OSError:
        return False
    return status.st_mode & 0o170077 == 0o40000 and status.st_uid == os.geteuid()


def _can_be_made(directory: str) -> bool:
    parent = os.path.dirname(directory)
    if os.path.lexists(directory):
        return False
    return os.access(parent, os.W_OK | os.X_OK) or _can_be_made(parent)


def _is_held(path: str) -> bool:
    try:
        return not Pidfile(path).is_free(is_own=True)
    except OSError:
        return False  # the error will appear when it is used


def control_path(path: str) -> str:
    """Return the path of the control socket beside the pidfile *path*."""
    return path + ".sock"


class Pidfile:
    """One pidfile, and the lock on it if this process has it.

    A class because the open descriptor is the lock, and passes through the forks of a daemon.
    Main thread.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1

    def acquire_for_sure(self) -> bool:
        """Lock it; return False if another process has it for more than a moment.

        Raises:
            OSError: as ``acquire``.
        """
        import time  # not needed to look whether it is free

        for _ in range(ATTEMPTS):
            if self.acquire():
                return True
            time.sleep(ATTEMPT_SECONDS)
        return self.acquire()

    def acquire(self) -> bool:
        """Lock it; return False if another process has it, or is looking at it.

        The number of an earlier process is removed at once.

        Raises:
            OSError: there can be no such file, or another user may write to it.
        """
        import fcntl  # not everywhere

        if self._fd >= 0:
            return True
        self._make_directory()
        while True:
            fd = open_trusted(self.path, _TO_WRITE, MODE)
            try:
                _check_owner(fd, self.path)
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _check_no_text(fd, self.path)
                set_kept_mode(fd, MODE)
                # It may have been removed meanwhile, and a new one been made.
                if _is_at(fd, self.path):
                    os.ftruncate(fd, 0)
                    self._fd, fd = fd, -1
                    return True
            except BlockingIOError:
                return False
            finally:
                if fd >= 0:
                    os.close(fd)

    def try_out(self) -> None:
        """Do nothing if it could be locked, were it free.  Nothing is created.

        Raises:
            OSError: as ``acquire``.
        """
        if os.path.lexists(self.path):
            fd = open_trusted(self.path, _TO_WRITE & ~os.O_CREAT)
            try:
                _check_owner(fd, self.path)
                _check_no_text(fd, self.path)
            finally:
                os.close(fd)
        elif os.path.dirname(self.path) not in _own_directories():
            try_out(self.path, _TO_WRITE)  # those were checked when one was chosen

    def write(self) -> None:
        """Write the number of this process, after its last fork.

        Raises:
            OSError: the disk is full.
        """
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)

    def renew(self) -> bool:
        """Lock it again if it was removed; return False if another process has it now.

        Raises:
            OSError: as ``acquire``.
        """
        if self._fd < 0 or _is_at(self._fd, self.path):
            return True
        old, self._fd = self._fd, -1
        try:
            if self.acquire():
                return True
        finally:
            if self._fd < 0:
                self._fd = old
            else:
                os.close(old)
        return False

    def release(self) -> None:
        """Unlock it.  The file stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def fileno(self) -> int:
        """Return the descriptor that is the lock; -1 if this process has not locked it."""
        return self._fd

    def is_free(self, is_own: bool = False) -> bool:
        """Return whether no process, not even this one, has locked it.

        Args:
            is_own: it must be this user's.  Else root may look at those of all users.

        Raises:
            OSError: it cannot be read, or another user may write to it.
        """
        import fcntl

        others = not is_own and not os.geteuid()
        try:
            fd = open_trusted(self.path, _TO_READ, others=others)
        except (FileNotFoundError, NotADirectoryError):
            return True
        try:
            (_check_file if others else _check_owner)(fd, self.path)
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(fd)
        return True

    def holder(self) -> "Optional[int]":
        """Return the number that is in it; None if there is none (yet) that can be trusted."""
        try:
            fd = open_trusted(self.path, _TO_READ, others=not os.geteuid())
        except OSError:
            return None
        try:
            (_check_owner if os.geteuid() else _check_file)(fd, self.path)
            pid = int(os.read(fd, 32))
        except (OSError, ValueError):
            return None
        finally:
            os.close(fd)
        return pid if pid > 1 else None

    def _make_directory(self) -> None:
        directory = os.path.dirname(self.path)
        if directory not in _own_directories():
            return
        for name in (os.path.dirname(directory), directory):
            if not os.path.lexists(name):
                try:
                    os.mkdir(name, 0o700)
                except FileExistsError:
                    pass  # by another start
        if not _is_own(directory):
            what = "%s is another user's, or open to others: name a --pidfile"
            raise OSError(1, what % directory)


def _check_file(fd: int, path: str) -> None:
    if os.fstat(fd).st_mode & 0o170000 != 0o100000:
        raise OSError(22, "%s is no file but a folder, pipe or device: name another one" % path)


def _check_owner(fd: int, path: str) -> None:
    """Refuse a file that another user can write to, and so choose which process is ended.

    Raises:
        OSError: there is such a user.
    """
    _check_file(fd, path)
    status = os.fstat(fd)
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        what = "%s may be written by other users: name another one, or remove it if it is a pidfile"
        raise OSError(1, what % path)


def _check_no_text(fd: int, path: str) -> None:
    """Refuse a file of another program, named by mistake.

    Raises:
        OSError: it has text.
    """
    # A file system that lost its power may leave zeros.
    if os.pread(fd, 64, 0).strip(b"\x000123456789\n"):
        raise OSError(22, "%s holds no number but text: name another one" % path)


def _is_at(fd: int, path: str) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), there)
