"""The client's socket during its handshake: blocking waits under one deadline."""

import socket
import threading
import time
from typing import Any, Optional

from minisocks.compat import PEER_CLOSED, PlainPoller, send_now
from minisocks.errors import HandshakeError, HandshakeTimeout
from minisocks.policy.client import Client

__all__ = ["FIN_SECONDS", "ClientSocket", "Deadline"]

#: One read.  A handshake is shorter; what a client sends behind it goes on to the target, so a
#: large read only saves one of the relay's.
READ_BYTES = 4096
#: So much later than the deadline a wait may end.
LATE_SECONDS = 0.1
#: Longer waits for another thread are cut into pieces.  Before Python 3.11 such waits go by the
#: wall clock, which jumps when a small machine learns the time; and the client may have left.
PAUSE_SECONDS = 1.0
#: So long a request goes on behind its client's FIN, without bytes for its target before that.
#: A client that only says no more has had its answer by then, in most cases.
FIN_SECONDS = 5.0


class Deadline:
    """A moment by which everything together has to be done.

    A class so that each wait gets what is left and none of them starts anew:
    a client that sends a byte every 29 s has 30 s altogether.  Monotonic
    seconds; any thread.
    """

    __slots__ = ("at",)

    def __init__(self, seconds: float) -> None:
        self.at = time.monotonic() + seconds

    def extend(self, seconds: float) -> None:
        """Give so many seconds back: they were not the client's."""
        self.at += seconds

    def remaining(self) -> float:
        """Return the seconds left, more than 0.

        Raises:
            HandshakeTimeout: none are left.
        """
        left = self.at - time.monotonic()
        if left <= 0:
            raise HandshakeTimeout("the handshake took too long (--handshake-timeout)")
        return left


class ClientSocket:
    """What a handler thread waits with: for its client, for other threads, for an identd.

    A class because of ``end``, by which another thread ends the wait: it notes the reason first,
    and the handler looks at it after every wait.

    Attributes:
        ended: why the handshake is to end, as soon as its thread looks; None: it goes on.
        may_end: whether its thread would notice soon.  Guarded by ``Pending``.
        has_early_data: whether there are bytes behind what its thread is at: while a password is
            checked those of its request, then those for its target.

    Thread: the handler's, except ``end``; then the loop's.
    """

    __slots__ = (
        "_alarm",
        "_goes_on_until",
        "_is_half_closed",
        "_timeout",
        "client",
        "deadline",
        "ended",
        "has_early_data",
        "may_end",
        "sock",
    )

    def __init__(self, sock: socket.socket, client: Client, handshake_timeout: float) -> None:
        self.sock = sock
        self.client = client
        self.deadline = Deadline(handshake_timeout)
        self.ended: Optional[HandshakeError] = None
        self.may_end = True
        #: Ends a pause; only handshakes that have paused need one.
        self._alarm: Optional[threading.Event] = None
        self._is_half_closed = False
        self.has_early_data = False
        #: How long its request goes on behind FIN; None: there was none, or bytes before it.
        self._goes_on_until: Optional[float] = None
        #: What the socket has been told.  Telling it is a system call.
        self._timeout = 0.0

    def receive(self) -> bytes:
        """Return what the client says next, empty at its end.  Waits until the deadline.

        Raises:
            HandshakeTimeout: the time is over.
            HandshakeError: another thread has ended the handshake.
            OSError: the client has left.
        """
        while True:
            left = self.deadline.remaining()
            if not left <= self._timeout <= left + LATE_SECONDS:
                self.sock.settimeout(left)
                self._timeout = left
            try:
                data = self.sock.recv(READ_BYTES)
            except socket.timeout:
                continue  # the deadline says why
            finally:
                self.check()
            return data

    def send(self, data: bytes) -> None:
        """Send one of the handshake's few short messages.

        Raises:
            OSError: the client has left, or does not even take these bytes.
        """
        if send_now(self.sock, data) != len(data):
            raise BlockingIOError("the client takes no bytes")

    def check(self) -> None:
        """Go on unless another thread has ended the handshake.

        Raises:
            HandshakeError: it has, for this reason.
        """
        why = self.ended
        if why is not None:
            # A new one: its traceback has this frame, hence this object.
            raise type(why)(str(why))

    def alarm(self) -> threading.Event:
        """Return what ends a ``pause``, for the thread that is waited for."""
        if self._alarm is None:
            self._alarm = threading.Event()
        return self._alarm

    def pause(self, seconds: float, has_request: bool = False) -> None:
        """Wait for so long, at most for a second, or until the alarm is set.

        Args:
            has_request: the client has sent its request.  Then one that only says no more stays
                for ``FIN_SECONDS``; until the end, if it ``has_early_data``.

        Raises:
            HandshakeTimeout: it is so long behind the client's FIN.
            HandshakeError: another thread has ended the handshake.
            OSError: the client has left.
        """
        alarm = self.alarm()
        self.check()  # before, too: it may have been ended when there was no alarm yet
        if alarm.wait(min(seconds, PAUSE_SECONDS)):
            alarm.clear()
        self.check()
        why = "the client left while it waited for an answer"
        if self._has_closed(why):
            self.check()  # ``end`` looks like the client's FIN
            if not has_request:
                raise ConnectionResetError(why)
            if not self.has_early_data and time.monotonic() >= self.note_fin():
                raise HandshakeTimeout(
                    "no hook could be asked in the %d s after the FIN of its client" % FIN_SECONDS
                )

    @property
    def has_sent_fin(self) -> bool:
        """Whether it is known that the client has sent FIN, and no bytes for its target."""
        return self._goes_on_until is not None

    def note_fin(self) -> float:
        """Take note that it has; return how long its request goes on, in monotonic seconds."""
        if self._goes_on_until is None:
            self._goes_on_until = time.monotonic() + FIN_SECONDS
        return self._goes_on_until

    def wait_for(self, sock: socket.socket, mask: int, until: float) -> None:
        """Return when *sock*, another one, is ready; a client that only says no more stays.

        For ``FIN_SECONDS``; until the end, if there are bytes for its target.

        Args:
            until: monotonic seconds.

        Raises:
            socket.timeout: it is not ready in time.
            HandshakeTimeout: nor is it so long behind the client's FIN.
            HandshakeError: another thread has ended the handshake.
            OSError: the client has left.
        """
        why = "the client left while its identd was asked"
        poller = PlainPoller()
        poller.register(sock.fileno(), mask)
        # Of one that is known to have sent FIN only a reset is to be told.
        poller.register(self.sock.fileno(), 0 if self._is_half_closed else PEER_CLOSED)
        while True:
            now, fin_until = time.monotonic(), self._goes_on_until
            if fin_until is not None and now >= fin_until:
                why = "its identd did not answer in the %d s after the FIN of its client"
                raise HandshakeTimeout(why % FIN_SECONDS)
            left = (until if fin_until is None else min(until, fin_until)) - now
            if left <= 0:
                raise socket.timeout("timed out")
            ready = [fd for fd, _mask in poller.poll(left)]
            self.check()
            if sock.fileno() in ready:
                return
            if ready:
                if self._is_half_closed:
                    raise ConnectionResetError(why)
                if self._has_closed(why) and not self.has_early_data:
                    self.note_fin()
                self._is_half_closed = True
                poller.modify(self.sock.fileno(), 0)  # a reset only
                self.check()  # ended before that was noted, it would not be told any more

    def _has_closed(self, why: str) -> bool:
        """Return whether the client has sent FIN, and nothing before that we have not read.

        Raises:
            OSError: it has reset its connection; the message is *why*.
        """
        self.sock.setblocking(False)
        self._timeout = 0.0
        try:
            return not self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError as exc:
            raise ConnectionResetError(why) from exc

    def end(self, why: HandshakeError) -> None:
        """Have the handler thread give up, for the reason *why*.  Thread: ``Pending``'s caller.

        Under the lock of ``Pending``, so that the socket is still this client's.
        """
        self.ended = why
        try:
            # For reading only, so that the client can be told.  Of one that has sent FIN
            # nothing would show that.
            how = socket.SHUT_RDWR if self._is_half_closed else socket.SHUT_RD
            self.sock.shutdown(how)
        except OSError:
            pass  # the client has left, which the handler hears, too
        alarm: Any = self._alarm
        if alarm is not None:
            alarm.set()
