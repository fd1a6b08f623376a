"""The proxies' host, and another one behind a cable, which has addresses of every kind.

What is on loopback is on the proxies' host; every other address in ``namespace`` is elsewhere,
so that clients come from there and targets are reached there, and none of it is the proxies'
own.
"""

import contextlib
import socket

from kit import hosts
from kit import namespace as net
from kit.support import TIMEOUT

#: The proxies' host on the cable, and the other end of it.
HERE4, HERE6 = "203.0.113.1", "2001:db8::1"

LOOPBACKS = ("127.", "::1")


class Network:
    """The tests' end of both hosts.

    Args:
        made: ``hosts.Hosts`` with the two.
    """

    def __init__(self, made):
        self.host, self.elsewhere = made.proxy, made.elsewhere
        # Link-local ones, too: without, a host asks for no neighbour if the packet comes from
        # an address that is not on the cable.
        made.cable(
            ("proxy", HERE4 + "/24", HERE6 + "/64", "fe80::c:1/64"),
            ("elsewhere", net.PUBLIC4 + "/24", net.PUBLIC6 + "/64", "fe80::c:2/64"),
        )
        not_others = (net.PUBLIC4, net.PUBLIC6, net.METADATA_ON_LINK)
        others = [a for a in net.LOCAL if a not in not_others]
        self.elsewhere.ip(*["addr add %s dev lo%s" % (a, " nodad" * (":" in a)) for a in others])
        gateways = {True: net.PUBLIC6, False: net.PUBLIC4}
        self.host.ip(
            *["route add %s via %s" % (a, gateways[":" in a]) for a in others],
            "route add unreachable %s/32" % net.NO_HOST4,
            "route add unreachable %s/128" % net.NO_HOST6,
        )
        for name in ("proxy", "connections", "associations", "asked", "refusals", "bugs"):
            setattr(self, name, getattr(self.host, name))
        self.only_local_port = self.host.only_local_port

    def socket(self, address, kind=socket.SOCK_STREAM):
        """Return a socket of the host that has *address*."""
        host = self.host if address.startswith(LOOPBACKS) else self.elsewhere
        return host.socket(net.family_of(address), kind)

    def connect(self, source, port, to=None):
        """Return a connection to the proxies' host by a client whose address is *source*."""
        is_here = source.startswith(LOOPBACKS)
        host = self.host if is_here else self.elsewhere
        return host.connect(
            source, port, to or (source if is_here else HERE6 if ":" in source else HERE4)
        )

    def sockets_everywhere(self, kind):
        """Return a socket of each host; both are bound to one port, on every address."""
        while True:
            first = self._bound(self.host, kind, 0)
            try:
                return first, self._bound(self.elsewhere, kind, first.getsockname()[1])
            except OSError:
                first.close()  # others have the port there

    @staticmethod
    def _bound(host, kind, port):
        # One socket for both families: a port that is free on one of them may
        # be taken on the other.
        sock = host.socket(socket.AF_INET6, kind)
        try:
            sock.settimeout(TIMEOUT)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(("::", port))
        except BaseException:
            sock.close()
            raise
        return sock


@contextlib.contextmanager
def made_for_tests():
    """Both hosts while this lasts; skips the tests, with the reason, where there can be none."""
    with hosts.made_for_tests("proxy", "elsewhere") as made, hosts.or_skip():
        yield Network(made)


class Everywhere:
    """A target that listens, on one port, on every address of both hosts.

    ``reached`` tells by which of them it was reached.
    """

    def __init__(self, here):
        self._here = here
        self._listeners = here.sockets_everywhere(socket.SOCK_STREAM)
        for listener in self._listeners:
            listener.listen(128)
        self.port = self._listeners[0].getsockname()[1]

    def reached(self):
        """Return the addresses that connections came in by since the last call.

        Certain, not likely: a connection of our own goes the same way behind all others, and
        is waited for.
        """
        addresses = []
        for listener, host in zip(self._listeners, (net.LOOPBACK4, net.PUBLIC4)):
            with self._here.host.socket(socket.AF_INET) as last:
                last.settimeout(TIMEOUT)
                last.connect((host, self.port))
                port = last.getsockname()[1]
                while True:
                    sock, peer = listener.accept()
                    with sock:
                        address = sock.getsockname()[0]
                    if peer[1] == port:
                        break
                    addresses.append(address[7:] if address.startswith("::ffff:") else address)
        return addresses

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for listener in self._listeners:
            listener.close()
