"""The client's socket during its handshake: blocking waits under one deadline."""

import os
import socket
import threading
import time
from typing import Any, Optional

from minisocks.compat import PEER_CLOSED, PlainPoller
from minisocks.errors import HandshakeError, HandshakeTimeout
from minisocks.policy.client import Client

__all__ = ["FIN_SECONDS", "ClientSocket", "Deadline"]

#: Bytes of one read.  A handshake is shorter; more would only take early data.
READ_BYTES = 4096
#: Seconds that a wait may end after the deadline.
LATE_SECONDS = 0.1
#: Longest wait for another thread, because the client may have left meanwhile.  And before Python
#: 3.11 waits use the wall clock, which jumps when a small machine gets the time.
PAUSE_SECONDS = 1.0
#: Seconds that a request goes on after its client's FIN, without early data before it.  A client
#: that has only finished sending gets its reply within them in most cases.
FIN_SECONDS = 5.0


class Deadline:
    """The time by which all waits for one client must end, in monotonic seconds.  Thread: any.

    Each wait gets what is left: a client that sends a byte every 29 s has 30 s in all.
    """

    __slots__ = ("at",)

    def __init__(self, seconds: float) -> None:
        self.at = time.monotonic() + seconds

    def extend(self, seconds: float) -> None:
        """Add *seconds* in which the client was not waited for."""
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
    """The waits of a handler thread: for its client, other threads, and an identd.

    Another thread can end a wait by ``end``: it sets the reason first, and the handler thread
    checks that after each wait.

    Attributes:
        ended: why the handshake must end; None: it goes on.
        may_end: whether the handler thread would notice ``end`` soon.  ``Pending`` guards it.
        has_early_data: whether the client has sent more than its thread has used: its request
            while a password is checked, later bytes for the target.

    Thread: the handler's, except ``end``; later the loop's.
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
        #: Ends a pause; made for the first one.
        self._alarm: Optional[threading.Event] = None
        self._is_half_closed = False
        self.has_early_data = False
        #: Until when the request goes on after FIN; None: no FIN, or early data before it.
        self._goes_on_until: Optional[float] = None
        #: The socket's timeout.  To set it again costs a system call.
        self._timeout = 0.0

    def receive(self) -> bytes:
        """Return the client's next bytes, none after FIN.  Waits until the deadline.

        Raises:
            HandshakeTimeout: the deadline has passed.
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
                continue  # ``remaining`` raises the error
            finally:
                self.check()
            return data

    def send(self, data: bytes) -> None:
        """Send a message of the handshake, without waiting.

        Raises:
            OSError: the client has left, or does not take even these few bytes.
        """
        # ``send`` of a socket with a timeout makes one more system call, to wait for room.
        sent = self.sock.send(data) if os.name == "nt" else os.write(self.sock.fileno(), data)
        if sent != len(data):
            raise BlockingIOError("the client takes no bytes")

    def check(self) -> None:
        """Raise if another thread has ended the handshake.

        Raises:
            HandshakeError: the reason.
        """
        why = self.ended
        if why is not None:
            # A new object, because its traceback keeps this frame and so ``self``.
            raise type(why)(str(why))

    def alarm(self) -> threading.Event:
        """Return the event that ends a ``pause``."""
        if self._alarm is None:
            self._alarm = threading.Event()
        return self._alarm

    def pause(self, seconds: float, has_request: bool = False) -> None:
        """Wait for *seconds*, at most for one, or until the alarm is set.

        Args:
            has_request: the client has sent its request.  Then it may send FIN and has
                ``FIN_SECONDS`` from there, or all of its time if it ``has_early_data``.

        Raises:
            HandshakeTimeout: ``FIN_SECONDS`` have passed.
            HandshakeError: another thread has ended the handshake.
            OSError: the client has left.
        """
        alarm = self.alarm()
        self.check()  # before, too: ``end`` may have been called before there was an alarm
        if alarm.wait(min(seconds, PAUSE_SECONDS)):
            alarm.clear()
        self.check()
        why = "the client left while it waited for an answer"
        if self._has_closed(why):
            self.check()  # after ``end`` the socket looks as if FIN had come
            if not has_request:
                raise ConnectionResetError(why)
            if not self.has_early_data and time.monotonic() >= self.note_fin():
                raise HandshakeTimeout(
                    "no hook could be called in the %d s after the FIN of its client" % FIN_SECONDS
                )

    @property
    def has_sent_fin(self) -> bool:
        """Whether the client is known to have sent FIN, without early data."""
        return self._goes_on_until is not None

    def note_fin(self) -> float:
        """Note the client's FIN; return until when its request goes on, in monotonic seconds."""
        if self._goes_on_until is None:
            self._goes_on_until = time.monotonic() + FIN_SECONDS
        return self._goes_on_until

    def wait_for(self, sock: socket.socket, mask: int, until: float) -> None:
        """Return when *sock*, not the client's, is ready.

        The client may send FIN and has ``FIN_SECONDS`` from there, or all of its time if it
        ``has_early_data``.

        Args:
            until: when to give up, in monotonic seconds.

        Raises:
            socket.timeout: it is not ready by then.
            HandshakeTimeout: ``FIN_SECONDS`` have passed.
            HandshakeError: another thread has ended the handshake.
            OSError: the client has left.
        """
        why = "the client left while its identd was asked"
        poller = PlainPoller()
        poller.register(sock.fileno(), mask)
        # After FIN only a reset is still to be reported.
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
                self.check()  # ``end`` may have come before ``_is_half_closed`` was set

    def _has_closed(self, why: str) -> bool:
        """Return whether the client has sent FIN, and no bytes that are still unread.

        Raises:
            OSError: the client has reset its connection; the message is *why*.
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
        """Have the handler thread raise *why*.  Thread: any, with the lock of ``Pending``.

        The lock makes sure that the descriptor still is this client's.
        """
        self.ended = why
        try:
            # For reading only, so that a reply can be sent.  After FIN that would wake no wait.
            how = socket.SHUT_RDWR if self._is_half_closed else socket.SHUT_RD
            self.sock.shutdown(how)
        except OSError:
            pass  # the client has left, which wakes the handler thread, too
        alarm: Any = self._alarm
        if alarm is not None:
            alarm.set()
