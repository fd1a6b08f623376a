"""What an exit is: a way by which connections leave, and the hops of it.  Pure."""

from typing import NamedTuple, Tuple

__all__ = ["ADDRESS_SCHEMES", "DIRECT", "Exit", "Hop"]

#: The name of the exit that is always there: this host itself, by the settings of the egress.
DIRECT = "direct"

#: The schemes whose proxies get the addresses of names, which are looked up here.
ADDRESS_SCHEMES = ("socks5", "socks4")


class Hop(NamedTuple):
    """One proxy of an exit: where it is, what it speaks, and how to log in.

    ``path`` is that of a unix socket; then ``host`` is empty.  ``host`` is a name or an address.
    """

    scheme: str
    host: str
    port: int
    path: str = ""
    user: bytes = b""
    password: bytes = b""
    #: Whether each client logs in with a name of its own (Tor keeps such apart).
    isolates: bool = False
    #: Whether names are looked up here although it could look them up.
    resolves_here: bool = False

    def __str__(self) -> str:
        """Return its URL without user and password."""
        if self.path:
            return "%s+unix://%s" % (self.scheme, self.path)
        shape = "%s://[%s]:%d" if ":" in self.host else "%s://%s:%d"
        return shape % (self.scheme, self.host, self.port)

    def __repr__(self) -> str:
        """Keep the password out of logs and tracebacks."""
        return "Hop(%s)" % str(self)


class Exit(NamedTuple):
    """One exit.  Without hops, targets are dialed from this host.

    ``sources``, ``interface`` and ``mark`` are those of the first connection; if there are none,
    the settings of the egress count.  ``has_client_source``: the source is the address that the
    client connected to.
    """

    name: str
    hops: Tuple[Hop, ...] = ()
    sources: Tuple[str, ...] = ()
    has_client_source: bool = False
    interface: str = ""
    mark: int = 0

    @property
    def resolves_here(self) -> bool:
        """Whether names of targets are looked up by this host."""
        if not self.hops:
            return True
        last = self.hops[-1]
        return last.resolves_here or last.scheme in ADDRESS_SCHEMES

    @property
    def has_egress(self) -> bool:
        """Whether it has its own source, interface or mark."""
        return bool(self.sources or self.has_client_source or self.interface or self.mark)

    def __str__(self) -> str:
        """Return it for people, without passwords."""
        words = ["direct"] if self.has_egress or not self.hops else []
        words += ["source same"] if self.has_client_source else []
        words += ["source %s" % " ".join(self.sources)] if self.sources else []
        words += ["interface %s" % self.interface] if self.interface else []
        words += ["mark %d" % self.mark] if self.mark else []
        return ", ".join(filter(None, [" ".join(words), *map(str, self.hops)]))
