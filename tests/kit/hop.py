"""A scripted SOCKS5 proxy as the hop of an exit."""

import struct

from kit.support import FakeTarget

#: A reply of success, without an address.
NOWHERE = b"\x05\x00\x00\x01\0\0\0\0\0\0"


def never(name, port, *args):
    """Look nothing up: a test in which a name leaves this host fails."""
    raise AssertionError("%r was looked up" % name)


class Hop(FakeTarget):
    """A SOCKS5 hop that follows a script from its reply on.

    ``requests`` has command, host and port of each; ``asked`` the same without the command.
    """

    def __init__(self, reply=NOWHERE, then=b"", method=0, ends=False):
        super().__init__(self._serve_client)
        self._ends = ends
        self.requests, self.logins = [], []
        self._reply, self._then, self._method = reply, then, method

    @property
    def asked(self):
        """Host and port of each request."""
        return [request[1:] for request in self.requests]

    def _serve_client(self, talk):
        _ver, count = talk.receive(2)
        talk.receive(count)
        talk.send(b"\x05%c" % self._method)
        if self._method == 2:
            talk.receive(1)
            user = talk.receive(talk.receive(1)[0])
            self.logins.append((user, talk.receive(talk.receive(1)[0])))
            talk.send(b"\x01\x00")
        head = talk.receive(4)
        size = {1: 4, 4: 16}.get(head[3]) or talk.receive(1)[0]
        host = talk.receive(size)
        self.requests.append((head[1], host, struct.unpack("!H", talk.receive(2))[0]))
        talk.send(self._reply + self._then)
        if self._ends:
            return
        if self._reply[1:2] != b"\0":
            talk.rest()
            return
        while True:
            data = talk.sock.recv(65536)
            if not data:
                return
            talk.send(data)


def url(hop, scheme="socks5h"):
    """Return the URL of *hop*, which has a port."""
    return "%s://127.0.0.1:%d" % (scheme, getattr(hop, "port", hop))
