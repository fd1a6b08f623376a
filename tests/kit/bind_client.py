"""A client that asks for BIND, in each protocol, and peers that connect to it."""

import contextlib
import socket
import struct

from kit.support import BIND, GREETING, LINGER_RESET, TIMEOUT, Talk, socks4, socks4a, socks5

#: How a client may ask, and whether it can name an IPv6 address, and a host.
WAYS = ("4", "4a", "5", "5 by name")


def ending_by_reset(sock):
    """Return *sock*, a client's, which its close will reset: after a FIN the proxy waits on."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
    return sock


class Waiting:
    """A client of a proxy that waits for a peer.

    Args:
        port: the proxy's, or the connection to it.
        dst: DST.ADDR as text.
        way: one of ``WAYS``.
        early: what it says behind its request, at once.

    ``host`` and ``place`` are where the peer is to connect to; ``rep`` is REP or CD of the
    first reply.
    """

    def __init__(self, port, dst="127.0.0.1", way="5", early=b"", dst_port=0, source=None):
        self.way = way
        if isinstance(port, socket.socket):
            self.talk = Talk(port)
        else:
            self.talk = Talk.to(port, source=source and (source, 0))
        if way == "4":
            request = socks4(dst, dst_port, b"ann", BIND)
        elif way == "4a":
            request = socks4a(dst.encode(), dst_port, b"ann", BIND)
        else:
            request = GREETING + socks5(dst.encode() if "name" in way else dst, dst_port, BIND)
        self.talk.send(request + early)
        if way[0] == "5":
            self.talk.expect(b"\x05\x00")
        self.rep, self.host, self.port = self.reply()

    @property
    def place(self):
        """Where the peer is to connect to, for ``connect``."""
        return self.host, self.port

    def reply(self):
        """Return REP or CD, BND.ADDR and BND.PORT of the next reply."""
        if self.way[0] == "5":
            return self.talk.receive_reply5()
        vn, cd, port, ip = struct.unpack("!BBH4s", self.talk.receive(8))
        assert 0 == vn
        return cd, socket.inet_ntoa(ip), port

    @property
    def granted(self):
        """REP or CD of a reply that grants the request."""
        return 0 if self.way[0] == "5" else 90

    def refused(self, rep):
        """Return what a refusal has in the place of *rep*: that, or CD 91."""
        return rep if self.way[0] == "5" else 91

    def peer(self, source=None, host=None, to=None):
        """Connect to *to* as a peer at *source*, on another *host*; return the peer's end."""
        if host is not None:
            return Talk(host.connect(source, self.port, to or self.host))
        return Talk(socket.create_connection(self.place, TIMEOUT, source and (source, 0)))

    def meet_stranger(self, source=None, host=None):
        """Have a peer connect that is reset."""
        with contextlib.suppress(ConnectionResetError), self.peer(source, host) as stranger:
            stranger.expect_reset()

    def expect_stranger(self, source=None, host=None):
        """Have a peer connect that is reset; receive the second reply, which refuses it."""
        self.meet_stranger(source, host)
        self.expect_refusal(2)

    def expect_refusal(self, rep):
        """Receive the second reply, which is a refusal without an address, and the end."""
        assert (self.refused(rep), "0.0.0.0", 0) == self.reply()
        self.talk.expect_eof()

    def expect_peer(self, peer):
        """Receive the second reply, which names *peer*."""
        host, port = peer.sock.getsockname()[:2]
        assert (self.granted, host, port) == self.reply()

    def expect_to_work(self, peer):
        """Exchange a few bytes each way, to the end of both streams."""
        self.talk.send(b"from the client")
        peer.expect(b"from the client").send(b"from the peer").finish()
        self.talk.expect(b"from the peer").expect_eof()
        self.talk.send(b"more").finish()
        peer.expect(b"more").expect_eof()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.talk.close()
