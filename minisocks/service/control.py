"""The control channel: a unix socket in the loop, one line of JSON for each request.

::

    {"do": "status"}            {"ok": true, "state": "serving", "open": 3, ...}
    {"do": "stop"}              {"ok": true}
    {"do": "reload"}            {"ok": true, "changed": ["quiet"], "read": [], "restart": []}
                                {"error": "/etc/minisocks.ini, line 3: ..."}

The mode of the socket decides which users may connect: its owner, and root.
"""

import contextlib
import errno
import json
import os
import socket
import stat
from typing import Any, Callable, Dict

from minisocks.compat import CAPACITY_ERRORS, READ, WRITE
from minisocks.net.capacity import Failures
from minisocks.net.job import Job
from minisocks.net.loop import Loop
from minisocks.net.opening import demand_trusted, set_kept_mode

__all__ = ["Answer", "Control"]

#: Requests are short; anything longer does not come from minisocks.
MAX_REQUEST_BYTES = 4096
#: Lists and objects in a request, which has one.
MAX_NESTING = 8
#: For a caller to send its request, and again to take the answer.
CALLER_SECONDS = 30.0
#: Until the next attempt to accept, when there is no descriptor left.
RETRY_SECONDS = 1.0
#: Callers at once, and how many more wait in the kernel.
MAX_CALLERS = 16
BACKLOG = 128

#: Called once, by any thread, with the answer to the caller, and perhaps with a function that is
#: called (loop thread) when the caller has the answer, or has gone.
Answer = Callable[..., None]


def _nothing() -> None:
    """Do nothing after the answer."""


class Control(Job):
    """The listening control socket, and its file.

    Args:
        carry_out: called (loop thread) with each request, and with a function for the answer;
            must not wait.

    Raises:
        OSError: the file cannot be made.
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
        #: For a caller when clients have all other descriptors: --ensure may ask for the status.
        self._spare = -1
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._spare = os.open(os.devnull, os.O_RDONLY)
            demand_trusted(path, follows=False)
            _remove_earlier(path)
            # The path exists once the socket answers, and never has another mode.
            new = path + "~"
            demand_trusted(new, follows=False)
            _remove_earlier(new)
            self._sock.bind(new)
            set_kept_mode(new, 0o600)
            self._status = os.lstat(new)
            self._sock.listen(BACKLOG)
            self._sock.setblocking(False)
            os.rename(new, path)
        except BaseException:
            self._sock.close()
            if self._spare >= 0:
                os.close(self._spare)
            raise

    def begin(self) -> None:
        """Accept callers."""
        if not self._closed and self._callers < MAX_CALLERS:
            self._loop.watch(self._sock.fileno(), READ, self)

    def on_ready(self, fd: int, mask: int) -> None:
        """Accept a caller."""
        try:
            sock = self._accept()
        except BlockingIOError:
            return
        except OSError as exc:
            self._loop.unwatch(fd)  # else it would be tried without a pause
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
        """Return whether its path still leads to it.  Any thread."""
        try:
            return os.path.samestat(os.lstat(self._path), self._status)
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
        """Note that the caller with *sock* has gone, and close that."""
        self._callers -= 1
        if self._spare < 0 and not self._closed:
            # This descriptor becomes the spare one: if it were closed, a client that waits
            # would get it.
            self._loop.unwatch(sock.fileno())
            with contextlib.suppress(OSError):  # the caller has closed it
                sock.shutdown(socket.SHUT_RDWR)
            self._spare = sock.detach()
        else:
            self._loop.close_later(sock)
        self.begin()

    def abort(self, why: str) -> None:
        """Close the socket, and remove its file."""
        self._closed = True
        if self.is_there():
            with contextlib.suppress(OSError):  # gone already
                os.unlink(self._path)
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
        self._loop.close_later(self._sock)
        self._loop.done(self)


def _remove_earlier(path: str) -> None:
    """Remove the socket of an earlier process, which does not run, because we have its pidfile.

    Raises:
        OSError: it is another kind of file.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "a file that is no socket is there")
        os.unlink(path)
    except FileNotFoundError:
        pass


class _Caller(Job):
    """One caller: read a line, have it carried out, write a line, and again."""

    counts = False

    def __init__(self, loop: Loop, sock: socket.socket, control: Control) -> None:
        self._loop = loop
        self._sock = sock
        self._control = control
        self._received = b""
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
        self._received += data
        if not data or (len(self._received) > MAX_REQUEST_BYTES and b"\n" not in self._received):
            self.abort("")
        else:
            self._carry_out_next()

    def _carry_out_next(self) -> None:
        line, newline, rest = self._received.partition(b"\n")
        if newline:
            self._received = rest
            self._timer.cancel()
            self._loop.unwatch(self._sock.fileno())  # requests are carried out one after the other
            self._control.carry_out(_request(line), self._answer_soon)
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
            self._finish_answer()
            self._carry_out_next()

    def _finish_answer(self) -> None:
        then, self._then = self._then, _nothing
        then()

    def _too_late(self) -> None:
        self.abort("")

    def abort(self, why: str) -> None:
        self._left = True
        self._timer.cancel()
        self._loop.done(self)
        self._control.left(self._sock)
        self._finish_answer()


def _request(line: bytes) -> Dict[str, Any]:
    """Return the request in *line*; {} if it is none."""
    if line.count(b"[") + line.count(b"{") > MAX_NESTING:
        return {}  # the parser recurses, and the stack of this thread is small
    try:
        request = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return {}
    return request if isinstance(request, dict) else {}
