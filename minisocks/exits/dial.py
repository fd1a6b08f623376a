"""One attempt to reach a target by an exit: the first hop is dialed, then each hop is asked."""

import socket
from typing import Any, Dict, List, Optional, Sequence, Tuple

from minisocks.compat import READ, WRITE
from minisocks.errors import DialError, ExitFailed
from minisocks.net.dialer import Dial
from minisocks.policy.exits import Hop
from minisocks.policy.networks import Sockaddr
from minisocks.protocol.clientside import ClientSide, Reply
from minisocks.quoting import reason_of
from minisocks.wire import Address, Atyp, Rep, packed_ip

__all__ = ["ExitDial", "receive"]

#: Bytes of one read while hops are asked; those behind the last reply are the target's.
READ_BYTES = 4096
_NOWHERE = ("0.0.0.0", 0)


class ExitDial:
    """An attempt by one exit, with the interface of ``net.dialer.Dial``.  One thread at a time.

    ::

        dial the first hop -> ask it for the second one -> ... -> ask the last one for the target

    Args:
        dial: to the first hop.
        sides: each hop, and the client side of its handshake.
        addresses: of the target, if they are known: the rules are asked about them again.
        last: the last hop as the one before gets it; None: there is only one.

    Attributes:
        early: bytes that the target has sent already.
        bnd: BND of the last reply, or the address of our own socket if it has none.
        reply: the last reply; its BND is the answer to a look-up.
        side: of the last hop, which still has to send the second reply to BIND; else None.
    """

    __slots__ = (
        *("_dial", "_last", "_out", "_sides", "_sock"),
        *("addresses", "bnd", "discarded", "early", "reply", "side", "via"),
    )

    def __init__(
        self,
        dial: Dial,
        sides: Sequence[Tuple[Hop, ClientSide]],
        addresses: List[Sockaddr],
        last: Optional[Address] = None,
    ) -> None:
        self._dial = dial
        self._last = last
        self._sides = list(sides)
        self._sock: Optional[socket.socket] = None
        self._out = b""
        self.addresses = addresses
        self.discarded = dial.discarded
        self.early = b""
        self.via: Any = None
        self.bnd: Any = None
        self.reply: Optional[Reply] = None
        self.side: Optional[ClientSide] = None

    @property
    def attempts(self) -> Dict[int, Any]:
        """The sockets to watch, by descriptor."""
        return self._dial.attempts if self._sock is None else {self._sock.fileno(): self._sock}

    @property
    def mask(self) -> int:
        """The events to watch them for."""
        if self._sock is None:
            return WRITE
        return READ | WRITE if self._out else READ

    @property
    def waits_for_target(self) -> bool:
        """Whether the last hop has the request, and has sent nothing since.

        From then on it may wait for the target, so that silence says nothing about the exit; nor
        does its FIN, which is all that ssh -D sends if the target refuses.  Nor does whatever it
        sends if it was asked for more than CONNECT, because it may not know that command.
        """
        side = self._sides[0][1]
        is_answered = side.is_answered and side.is_connect
        return len(self._sides) == 1 and side.is_asked and not is_answered

    def step(self) -> Optional[socket.socket]:
        """Go on as far as is possible now.

        Returns:
            The socket that leads to the target, non-blocking, which the caller owns.  None: not
            yet.

        Raises:
            ExitFailed: a hop cannot be reached, refuses this host, or sends what is no reply.
            DialError: the last hop has answered that it cannot reach the target.
        """
        hop, _side = self._sides[0]
        if self._sock is None:
            try:
                self._sock = self._dial.step()
            except DialError as exc:
                raise ExitFailed("%s cannot be reached: %s" % (hop, exc)) from None
            if self._sock is None:
                return None
            via = self._dial.via
            self.via = ("unix:" + via,) if isinstance(via, str) else via
        try:
            return self._converse(self._sock)
        except ExitFailed as exc:
            raise ExitFailed("%s: %s" % (self._sides[0][0], exc)) from None

    def place(self) -> Address:
        """Return BND of the reply; if unspecified, with the address of the hop that sent it.

        It is a name if the reply has one, or if the hop has only a name here; and unspecified if
        the hop is at a unix socket.
        """
        assert self.reply is not None
        bnd = self.reply.bnd
        if bnd.atyp == Atyp.DOMAINNAME or any(packed_ip(bnd.name) or b""):
            return bnd
        if self._last is not None:
            return self._last._replace(port=bnd.port)
        ip = packed_ip(self.via[0])
        return bnd if ip is None else Address.of_ip(ip, bnd.port)

    def wait_seconds(self) -> Optional[float]:
        """Return the seconds until the next address of the first hop is due; None: none is left."""
        return self._dial.wait_seconds() if self._sock is None else None

    def take_back(self) -> Optional[socket.socket]:
        """Give up an extra attempt to reach the first hop; return its socket."""
        return self._dial.take_back() if self._sock is None else None

    def keep(self, addresses: Sequence[Sockaddr]) -> None:
        """Note that a reload allows *addresses*: the one that was asked for may be gone.

        Raises:
            ExitFailed: it is.
        """
        if any(address not in addresses for address in self.addresses):
            raise ExitFailed("the rules do not allow the target any more", Rep.NOT_ALLOWED)

    def give_up(self) -> DialError:
        """Discard every attempt; return the error for the end of the time."""
        hop = self._sides[0][0]
        if self._sock is None:
            error = self._dial.give_up()
            return ExitFailed("%s cannot be reached: %s" % (hop, error), error.rep)
        self.discard_all()
        return ExitFailed("%s has not answered in time" % (str(hop),), Rep.TTL_EXPIRED)

    def discard_all(self) -> None:
        """Try no more; the sockets go to ``discarded``."""
        self._dial.discard_all()
        if self._sock is not None:
            self.discarded.append(self._sock)
            self._sock = None

    def _converse(self, sock: socket.socket) -> Optional[socket.socket]:
        while True:
            hop, side = self._sides[0]
            reply = side.next_event()
            asked = side.data_to_send()
            self._send(sock, asked)
            if reply is None:
                # The answer to what was sent just now cannot be there yet.
                data = None if asked else receive(sock)
                if data is None:
                    return None
                side.receive_data(data)
            elif len(self._sides) == 1:
                return self._connected(sock, hop, side, reply)
            else:
                self._go_on(side, reply)

    def _go_on(self, side: ClientSide, reply: Reply) -> None:
        """Ask the next hop, because the present one has connected to it."""
        if reply.rep != Rep.SUCCEEDED:
            words = self._sides[1][0], reply.rep.phrase, reply.said
            raise ExitFailed("it cannot reach %s: %s (%s)" % words)
        early = side.trailing_data()
        side.stop_parsing()
        del self._sides[0]
        if early:
            self._sides[0][1].receive_data(early)

    def _connected(
        self, sock: socket.socket, hop: Hop, side: ClientSide, reply: Reply
    ) -> socket.socket:
        if reply.rep != Rep.SUCCEEDED:
            text = "%s answers: %s (%s)" % (hop, reply.rep.phrase, reply.said)
            raise DialError(text, reply.rep)
        if side.has_more:
            self.side = side
        else:
            self.early = side.trailing_data()
            side.stop_parsing()
        self._sock, self.reply = None, reply
        ours = self._dial.bnd if isinstance(self._dial.bnd, tuple) else _NOWHERE
        self.bnd = reply.bnd_sockaddr or ours
        return sock

    def _send(self, sock: socket.socket, data: bytes) -> None:
        self._out += data
        if not self._out:
            return
        try:
            self._out = self._out[sock.send(self._out) :]
        except BlockingIOError:
            pass
        except OSError as exc:
            raise ExitFailed("the connection has ended: %s" % reason_of(exc)) from None


def receive(sock: socket.socket) -> Optional[bytes]:
    """Return what the hop at *sock* has sent, empty at its end; None: nothing now.

    Raises:
        ExitFailed: the connection has failed.
    """
    try:
        return sock.recv(READ_BYTES)
    except BlockingIOError:
        return None
    except OSError as exc:
        raise ExitFailed("the connection has ended: %s" % reason_of(exc)) from None
