"""Outputs of the log: stderr, a file, syslog.  Thread: the log's own, except ``try_out``.

No output raises when the disk is full or the daemon has ended: ``write`` returns why lines are
lost, and the next call tries again.
"""

import contextlib
import errno
import os
import socket
import stat
import sys
import time
from typing import Any, List, Optional, Sequence, Tuple

from minisocks.compat import close_quietly, closed_on_error
from minisocks.errors import ConfigError
from minisocks.net.opening import demand_trusted, open_trusted, try_out
from minisocks.net.threads import start_thread
from minisocks.quoting import reason_of

__all__ = ["Output", "LogFile", "Stderr", "Syslog"]

#: Severity (RFC 5424 section 6.2.1) and text of a line.
Line = Tuple[int, str]

#: Paths at which the syslog daemon of this host listens, by system.
LOCAL_SYSLOG = ("/dev/log", "/var/run/syslog", "/var/run/log")
#: The facility "daemon" (RFC 5424 section 6.2.1).
FACILITY = 3
#: Seconds between two attempts to connect.
RETRY_SECONDS = 1.0
#: Seconds that a start, which serves by then, and ``check`` wait for the address of another host's
#: syslog.
LOOK_UP_SECONDS = 3.0
#: Most bytes of a datagram to another host (RFC 5424 section 6.1: receivers should take 2048).
MAX_DATAGRAM = 2048

#: Why a file that exists cannot be opened (ENXIO), by its kind.
_NO_FILES = {stat.S_IFSOCK: "it is a socket", stat.S_IFIFO: "no process reads this pipe"}


class Output:
    """An output."""

    #: Whether the output adds the time, and the name of the program, to each line.
    has_time = False
    #: Lines that the last ``write`` has lost.
    lost = 0

    def write(self, lines: Sequence[Line]) -> str:
        """Write *lines*; return why some are lost, "" if none is."""
        raise NotImplementedError

    def problem(self) -> str:
        """Return why lines would be lost now, "" if none would.  Thread: any."""
        return ""

    def reopen(self) -> None:
        """Open it again, by its name.

        Raises:
            OSError: it cannot be opened; the one that is open stays.
        """

    def close(self) -> None:
        """Close it."""

    def write_all(self, fd: int, text: str) -> str:
        """Write *text* to *fd*; as ``write``, and set ``lost``."""
        data = text.encode("utf-8", "backslashreplace")
        lines = data.count(b"\n") - data.startswith(b"\n")  # this one ends a torn line
        try:
            while data:
                data = data[os.write(fd, data) :]
        except OSError as exc:
            return reason_of(exc)
        finally:
            self.lost = min(lines, data.count(b"\n"))
        return ""


class Stderr(Output):
    """The standard error of the process."""

    def write(self, lines: Sequence[Line]) -> str:
        """Write them in one piece.  Waits as long as the process that reads them takes none."""
        if sys.stderr is None:
            return ""
        return self.write_all(2, "".join(text + "\n" for _severity, text in lines))


class LogFile(Output):
    """A file, to which lines are appended; one that another program has renamed is left.

    Raises:
        ConfigError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._looked_at = 0.0
        self._fd = -1
        #: Whether the last write ended in the middle of a line.
        self._torn = False
        try:
            self.reopen()
        except OSError as exc:
            raise _cannot_write(path, exc) from exc

    @staticmethod
    def try_out(path: str) -> None:
        """Check that *path* could be opened, without creating it.  Any thread.

        Raises:
            ConfigError: it cannot be opened.
        """
        try:
            try_out(path, _TO_APPEND)
        except OSError as exc:
            raise _cannot_write(path, exc) from exc

    def reopen(self) -> None:
        """Open the file that has the name now."""
        fd = open_trusted(self.path, _TO_APPEND, 0o640)
        self.close()
        self._fd = fd

    def write(self, lines: Sequence[Line]) -> str:
        """Write them in one piece to the file that has the name now."""
        self._follow()
        text = "".join(text + "\n" for _severity, text in lines)
        why = self.write_all(self._fd, "\n" + text if self._torn else text)
        self._torn = bool(why)
        return why

    def close(self) -> None:
        """Close it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _follow(self) -> None:
        """Open the file that has the name now, if another has it; looks once a second."""
        now = time.monotonic()
        if now < self._looked_at + 1.0:
            return
        self._looked_at = now
        with contextlib.suppress(OSError):  # the name is free: open a new file
            if os.path.samestat(os.stat(self.path), os.fstat(self._fd)):
                return
        with contextlib.suppress(OSError):  # the old file is better than none
            self.reopen()


#: Nonblocking, because a FIFO may have no reader.
_TO_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT
_TO_APPEND |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)


def _cannot_write(path: str, exc: OSError) -> ConfigError:
    reason = _NO_FILES.get(_kind_of(path)) if exc.errno == errno.ENXIO else ""
    return ConfigError("--log-file", "cannot write %s: %s" % (path, reason or reason_of(exc)))


class Syslog(Output):
    """A syslog daemon: of this host by its unix socket, of another host by UDP (RFC 3164).

    Args:
        where: the value of ``--syslog``: local, a path, or HOST:PORT.

    Raises:
        ConfigError: *where* is of this host, and this system has no unix sockets.
    """

    has_time = True

    def __init__(self, where: str) -> None:
        self._where = where
        if not self._is_remote and not hasattr(socket, "AF_UNIX"):
            sentence = "this system has no syslog of its own; name another host's: HOST:PORT"
            raise ConfigError("--syslog", sentence)
        self._sock: Optional[socket.socket] = None
        self._tried_at = -RETRY_SECONDS
        self._why = ""

    def write(self, lines: Sequence[Line]) -> str:
        """Send a datagram for each line, those of a traceback too.  Never waits."""
        why, self.lost = "", 0
        for severity, text in lines:
            for part in text.split("\n"):
                problem = self._send(severity, part)
                self.lost += bool(problem)
                why = problem or why
        return why

    def problem(self) -> str:
        """Return as ``Output.problem``; waits for a name server for ``LOOK_UP_SECONDS`` at most.

        Thread: any, because it leaves alone what ``write`` uses.
        """
        found: List[str] = []

        def look() -> None:
            try:
                if self._is_remote:
                    self._look_up()
                else:
                    self._connect().close()
                found.append("")
            except (OSError, UnicodeError, LookupError) as exc:
                found.append(self._problem_of(exc))

        if self._is_remote:
            # In a thread, because no timeout ends a look-up.
            start_thread(look, "syslog").join(LOOK_UP_SECONDS)
        else:
            look()
        if found:
            return found[0]
        late = "no name server has answered for %g s"
        return self._problem_of(OSError(late % LOOK_UP_SECONDS))

    def reopen(self) -> None:
        """Connect again with the next line."""
        self.close()
        self._tried_at = -RETRY_SECONDS

    def close(self) -> None:
        """Close the socket."""
        if self._sock is not None:
            close_quietly(self._sock)
            self._sock = None

    def _send(self, severity: int, text: str) -> str:
        head = "<%d>" % (FACILITY * 8 + severity)
        if self._is_remote:
            head += time.strftime("%b %e %H:%M:%S ") + socket.gethostname().split(".")[0] + " "
        data = ("%sminisocks[%d]: %s" % (head, os.getpid(), text)).encode("utf-8", "replace")
        # Twice, because a restarted daemon has a new socket of the same name.
        for _ in range(2):
            sock = self._connected()
            if sock is None:
                return self._why
            try:
                sock.send(data[:MAX_DATAGRAM] if self._is_remote else data)
                return ""
            except BlockingIOError:
                return "syslog does not read fast enough"
            except OSError as exc:
                self._why = self._problem_of(exc)
                self.close()
        return self._why

    @property
    def _is_remote(self) -> bool:
        return self._where != "local" and not self._where.startswith("/")

    def _connected(self) -> Optional[socket.socket]:
        now = time.monotonic()
        if self._sock is None and now >= self._tried_at + RETRY_SECONDS:
            self._tried_at = now
            try:
                self._sock = self._connect()
            except (OSError, UnicodeError, LookupError) as exc:
                self._why = self._problem_of(exc)
        return self._sock

    def _problem_of(self, exc: Exception) -> str:
        where = self._where if self._is_remote else self._path
        return "syslog at %s: %s" % (where, reason_of(exc))

    def _connect(self) -> socket.socket:
        if self._is_remote:
            return _connect(*self._look_up())
        return _connect(socket.AF_UNIX, self._path)

    def _look_up(self) -> Tuple[int, Any]:
        host, _, port = self._where.rpartition(":")
        # As bytes, because Pythons without the idna codec cannot take text.
        host_bytes = os.fsencode(host.strip("[]"))
        found = socket.getaddrinfo(host_bytes, int(port), 0, socket.SOCK_DGRAM)
        return found[0][0], found[0][4]

    @property
    def _path(self) -> str:
        """The socket of the daemon of this host."""
        paths = LOCAL_SYSLOG if self._where == "local" else (self._where,)
        return next((path for path in paths if os.path.exists(path)), paths[0])


def _kind_of(path: str) -> int:
    try:
        return stat.S_IFMT(os.stat(path).st_mode)
    except OSError:
        return 0


def _connect(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    with closed_on_error(sock):
        sock.setblocking(False)
        if family == socket.AF_UNIX:
            demand_trusted(address)  # or another user could read the log
        sock.connect(address)
    return sock
