"""A client that has an association, and targets that say only what a test has them say.

No threads: a datagram on loopback is at its receiver when ``sendto`` returns, and a wait
for one that must come is bounded by ``TIMEOUT``.
"""

import socket
import struct

from kit import inside
from kit.support import GREETING, TIMEOUT, UDP_ASSOCIATE, Talk, address5, socks5, wait_until
from minisocks.access import Access
from minisocks.config.settings import Config
from minisocks.hooks import Hooks
from minisocks.net.lookup import Answers
from minisocks.net.loop import run_in
from minisocks.net.resolver import Resolver
from minisocks.udp.association import Association
from minisocks.udp.table import AssociationTable

__all__ = [
    "Associated",
    "UdpTarget",
    "associations",
    "header",
    "in_loop",
    "udp_socket",
    "wait_for_drops",
]


def udp_socket(host, port=0):
    """Return a socket for datagrams that is bound to *host*."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(TIMEOUT)
    sock.bind((host, port))
    return sock


def header(host, port, frag=0):
    """Return the header of a datagram; *host* is bytes for a name, text for an address."""
    return bytes((0, 0, frag)) + address5(host, port)


class Associated:
    """A client's association: its connection, and the socket that it sends from.

    ``rep``, ``bnd`` and ``port`` are what the reply says.

    Args:
        host: where the proxy is reached.
        dst: what the request says; None: the address and port that it sends from.
        source: where the client connects and sends from; *host* if it is not said.
        talk: a connection whose greeting is over, instead of one to *port*.
        sock: what it sends from, instead of a socket that is bound to *source*.
    """

    def __init__(
        self, port, host="127.0.0.1", dst=("0.0.0.0", 0), source=None, talk=None, sock=None
    ):
        source = source or host
        self.sock = sock or udp_socket(source)
        try:
            if talk is None:
                talk = Talk.to(port, host, (source, 0))
                talk.send(GREETING).expect(b"\x05\x00")
            self.talk = talk
            if dst is None:
                dst = self.sock.getsockname()[:2]
            self.talk.send(socks5(dst[0], dst[1], UDP_ASSOCIATE))
            self.rep, self.bnd, self.port = self.talk.receive_reply5()
        except BaseException:
            self.sock.close()
            raise

    @property
    def place(self):
        """Host and port that the client sends its datagrams to."""
        return self.bnd, self.port

    def send_raw(self, data):
        """Send any bytes to the relay socket."""
        self.sock.sendto(data, self.place)
        return self

    def send(self, host, port, data, frag=0):
        """Send *data* for a target."""
        return self.send_raw(header(host, port, frag) + data)

    def send_to(self, target, data, frag=0):
        """Send *data* for a ``UdpTarget``, by its address."""
        return self.send(target.host, target.port, data, frag)

    def receive(self):
        """Return the sender that the next datagram names in its header, and its data."""
        data, source = self.sock.recvfrom(65536)
        assert self.place == source[:2], "from %r" % (source,)
        assert b"\0\0\0" == data[:3], "RSV and FRAG of %r" % data[:50]
        size, family = {1: (4, socket.AF_INET), 4: (16, socket.AF_INET6)}[data[3]]
        host = socket.inet_ntop(family, data[4 : 4 + size])
        return host, struct.unpack_from("!H", data, 4 + size)[0], data[6 + size :]

    def expect(self, target, data):
        """Receive *data*, and nothing before it, from *target*."""
        assert (target.host, target.port, data) == self.receive()
        return self

    def expect_to_work(self, target, data=b"works"):
        """Have a datagram go to *target* and back, and be the next one in each direction."""
        target.expect_from(self.send_to(target, data), data)
        target.answer(data[::-1])
        return self.expect(target, data[::-1])

    def close(self):
        """Close the association and its sockets."""
        self.talk.close()
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


class UdpTarget:
    """The socket of a target."""

    def __init__(self, host="127.0.0.1", port=0):
        self.sock = udp_socket(host, port)
        self.host, self.port = self.sock.getsockname()[:2]
        #: Where the last datagram came from: a socket of the proxy.
        self.source = None

    def receive(self):
        """Return what the next datagram holds."""
        data, self.source = self.sock.recvfrom(65536)
        return data

    def expect(self, data):
        """Receive *data* as the next datagram."""
        received = self.receive()
        assert data == received, "expected %r, received %r" % (data[:50], received[:50])
        return self

    def expect_from(self, client, data):
        """Receive *data* of *client*, not straight from its socket."""
        self.expect(data)
        assert client.sock.getsockname() != self.source
        return self

    def expect_nothing(self):
        """Demand that no datagram is there, when all that could come must have come."""
        self.sock.setblocking(False)
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        finally:
            self.sock.settimeout(TIMEOUT)
        raise AssertionError("received %r" % data[:50])

    def answer(self, data):
        """Send *data* to the sender of the last datagram."""
        self.sock.sendto(data, self.source)
        return self

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.sock.close()


def associations(proxy):
    """Return the association jobs of *proxy*, oldest first."""
    found = inside.jobs(proxy.services.loop, Association)
    return sorted(found, key=lambda job: inside.record(job).id)


def new_table(loop, **settings):
    """Return what the associations of a proxy with such *settings* share, without any."""
    access = access_of(**settings)
    table = AssociationTable(loop, access, Resolver(), Answers(loop), Hooks())
    table.change(access)
    return table


def access_of(**settings):
    """Return what decides about clients with such *settings*."""
    return Access.of(Config(**settings), Hooks())


def put_in_force(services, **parts):
    """Have such *parts* of what decides about clients be other ones for associations, too."""
    services.access = services.associations.access = services.access._replace(**parts)


def assert_remembers_nothing(table):
    """See whether nothing of any client is left in what associations share."""
    shares = inside.shares(table)
    assert [(0, {})] * 2 == [(len(share), inside.items(share)) for share in shares]
    assert (0, {}) == (table.held, inside.by_group(inside.held_datagrams(table)))


def in_loop(proxy, work):
    """Return what *work* returns in the loop's thread."""
    results = []
    run_in(proxy.services.loop, lambda: results.append(work()))
    assert results, "it has failed"
    return results[0]


def wait_for_drops(record, **counts):
    """Return once as many datagrams are dropped, each *why* with _ for a blank."""
    wanted = {why.replace("_", " "): count for why, count in counts.items()}
    # The client may have its reply before there are any counts.
    wait_until(lambda: record.datagrams and record.datagrams.drops == wanted, "%r" % wanted)
