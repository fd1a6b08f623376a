"""The control channel: a unix socket in the loop, one line of JSON for each request.

::

    {"do": "status"}            {"ok": true, "state": "serving", "open": 3, ...}
    {"do": "stop"}              {"ok": true}
    {"do": "reload"}            {"ok": true, "changed": ["quiet"], "read": [], "restart": []}
                                {"error": "/etc/minisocks.ini, line 3: ..."}

Who may connect is decided by the socket's mode: its owner, and root.
"""

import errno
import json
import os
import socket
import stat
from typing import Any, Callable, Dict, Tuple

from minisocks.compat import CAPACITY_ERRORS, READ, WRITE
from minisocks.net.job import Job
from minisocks.net.loop import Loop
from minisocks.net.opening import demand_trusted, set_kept_mode
from minisocks.net.polled import Failures

__all__ = ["Answer", "Control"]

#: Requests are short; more is nobody we know.
MAX_REQUEST_BYTES = 4096
#: Requests are flat.
MAX_NESTING = 8
#: How long a caller may take to ask, and to take the answer.
CALLER_SECONDS = 30.0
#: With no descriptor left, how long until the next caller is looked for.
RETRY_SECONDS = 1.0
#: Callers at once; further ones wait in the kernel, so many of them.
MAX_CALLERS = 16
BACKLOG = 128

#: Called once with what the caller is told, and with what is to be called (loop thread) when
#: it is told, or cannot be.  Any thread.
Answer = Callable[..., None]


def _nothing() -> None:
    """Nobody wants to know."""


class Control(Job):
    """The socket, from ``open`` until the loop ends.

    A class because the file goes with the socket.

    Args:
        carry_out: called (loop thread) with each wish, and with what takes the answer;
            must not wait.
    """

    counts = False

    def __init__(
        self, loop: Loop, path: str, carry_out: Callable[[Dict[str, Any], Answer], None]
    ) -> None:
        self._loop = loop
        self._path = path
        self.carry_out = carry_out
        self._callers = 0
        self._closed = False
        self._failures = Failures("unix:" + path)
        #: For a caller where clients have all the others: he may ask whether we live.
        self._spare = -1
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._spare = os.open(os.devnull, os.O_RDONLY)
            demand_trusted(path, follows=False)
            _remove_earlier(path)
            # The name is there when somebody answers, and never with another mode.
            new = path + "~"
            demand_trusted(new, follows=False)
            _remove_earlier(new)
            self._sock.bind(new)
            set_kept_mode(new, 0o600)
            self._identity = _identity(new)
            self._sock.listen(BACKLOG)
            self._sock.setblocking(False)
            os.rename(new, path)
        except BaseException:
            self._sock.close()
            if self._spare >= 0:
                os.close(self._spare)
            raise

    def begin(self) -> None:
        """Let callers in."""
        if not self._closed and self._callers < MAX_CALLERS:
            self._loop.watch(self._sock.fileno(), READ, self)

    def on_ready(self, fd: int, mask: int) -> None:
        """Take a caller in."""
        try:
            sock = self._accept()
        except BlockingIOError:
            return
        except OSError as exc:
            self._loop.unwatch(fd)  # it would be tried for ever
            left = self._failures.failed(exc)
            if exc.errno in CAPACITY_ERRORS:
                left = RETRY_SECONDS
            self._loop.call_later(left, self, self.begin)
            return
        self._failures.passed()
        self._callers += 1
        if self._callers >= MAX_CALLERS:
            self._loop.unwatch(fd)
        self._loop.submit(_Caller(self._loop, sock, self))

    def is_there(self) -> bool:
        """Return whether its file still is its own.  Any thread."""
        try:
            return _identity(self._path) == self._identity
        except OSError:
            return False

    def _accept(self) -> socket.socket:
        try:
            return self._sock.accept()[0]
        except OSError as exc:
            if exc.errno not in CAPACITY_ERRORS or self._spare < 0:
                raise
        os.close(self._spare)
        self._spare = -1
        return self._sock.accept()[0]

    def left(self, sock: socket.socket) -> None:
        """Count a caller out; *sock* was his."""
        self._callers -= 1
        if self._spare < 0 and not self._closed:
            # His descriptor is the spare one from now on: if it were closed, a client who
            # waits would have it.
            self._loop.unwatch(sock.fileno())
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # he has gone
            self._spare = sock.detach()
        else:
            self._loop.close_later(sock)
        self.begin()

    def abort(self, why: str) -> None:
        """Close it, and remove its file."""
        self._closed = True
        if self.is_there():
            try:
                os.unlink(self._path)
            except OSError:
                pass  # gone already
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
        self._loop.close_later(self._sock)
        self._loop.done(self)


def _identity(path: str) -> Tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def _remove_earlier(path: str) -> None:
    """Remove the socket of an earlier process: who has the pidfile is alone.

    Raises:
        OSError: it is no socket, and may be precious.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "a file that is no socket is there")
        os.unlink(path)
    except FileNotFoundError:
        pass


class _Caller(Job):
    """One caller: reads a line, has it carried out, writes a line, and so on."""

    counts = False

    def __init__(self, loop: Loop, sock: socket.socket, control: Control) -> None:
        self._loop = loop
        self._sock = sock
        self._control = control
        self._heard = b""
        self._answer = b""
        self._then = _nothing
        self._left = False
        self._timer = loop.call_later(CALLER_SECONDS, self, self._too_late)

    def begin(self) -> None:
        self._sock.setblocking(False)
        self._loop.watch(self._sock.fileno(), READ, self)

    def on_ready(self, fd: int, mask: int) -> None:
        try:
            if self._answer:
                self._write()
            else:
                self._read()
        except BlockingIOError:
            pass
        except OSError:
            self.abort("")  # it has gone

    def _read(self) -> None:
        data = self._sock.recv(MAX_REQUEST_BYTES)
        self._heard += data
        if not data or (len(self._heard) > MAX_REQUEST_BYTES and b"\n" not in self._heard):
            self.abort("")
        else:
            self._carry_out_next()

    def _carry_out_next(self) -> None:
        line, newline, rest = self._heard.partition(b"\n")
        if newline:
            self._heard = rest
            self._timer.cancel()
            self._loop.unwatch(self._sock.fileno())  # one after another
            self._control.carry_out(_wish(line), self._answer_soon)
        else:
            self._loop.watch(self._sock.fileno(), READ, self)

    def _answer_soon(self, answer: Dict[str, Any], then: Callable[[], None] = _nothing) -> None:
        self._loop.call_soon(self._control, self._begin_answer, answer, then)

    def _begin_answer(self, answer: Dict[str, Any], then: Callable[[], None]) -> None:
        if self._left:
            then()
            return
        self._then = then
        self._answer = json.dumps(answer).encode("ascii") + b"\n"
        self._timer = self._loop.call_later(CALLER_SECONDS, self, self._too_late)
        self._loop.watch(self._sock.fileno(), WRITE, self)

    def _write(self) -> None:
        self._answer = self._answer[self._sock.send(self._answer) :]
        if not self._answer:
            self._is_told()
            self._carry_out_next()

    def _is_told(self) -> None:
        then, self._then = self._then, _nothing
        then()

    def _too_late(self) -> None:
        self.abort("")

    def abort(self, why: str) -> None:
        self._left = True
        self._timer.cancel()
        self._loop.done(self)
        self._control.left(self._sock)
        self._is_told()


def _wish(line: bytes) -> Dict[str, Any]:
    """Return what *line* asks for; nothing we know if it is no request."""
    if line.count(b"[") + line.count(b"{") > MAX_NESTING:
        return {}  # the parser calls itself for each, and this thread's stack is small
    try:
        wish = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return {}
    return wish if isinstance(wish, dict) else {}
