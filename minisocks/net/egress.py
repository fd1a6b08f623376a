"""Egress: the source address, interface and mark with which targets are dialed."""

import errno
import logging
import socket
import struct
from types import MappingProxyType
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Sequence

from minisocks.compat import CAPACITY_ERRORS, bind_late, close_quietly
from minisocks.config.settings import Config
from minisocks.errors import EgressError
from minisocks.policy.exits import Exit
from minisocks.policy.networks import Sockaddr
from minisocks.values import Keepalive
from minisocks.wire import plain_ip, text_ip

__all__ = ["Egress", "warn_in_log"]

log = logging.getLogger("minisocks")

_FAMILIES = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}

_UINT = struct.Struct("=I")

#: Errors that stay, unlike that of an address or interface that is not up yet.
_FOR_GOOD = (errno.EPERM, errno.EACCES, errno.ENOPROTOOPT)


def warn_in_log(sentence: str) -> None:
    """Log *sentence* as a warning."""
    log.warning("%s", sentence)


class Egress(NamedTuple):
    """How connections and datagrams leave this host.  Immutable; any thread.

    ``sources`` by family; when there are some, a family without one is not used, because the
    operator wants no packet from another address.
    """

    prefer: int = 0
    sources: Mapping[int, str] = MappingProxyType({})
    interface: str = ""
    mark: int = 0
    #: The family for which names are looked up; 0: both.
    only: int = 0
    #: Of all connections, also those of clients.
    keepalive: Keepalive = Keepalive()

    @classmethod
    def of(cls, config: Config) -> "Egress":
        """Return the egress that *config* asks for."""
        sources: Dict[int, str] = {
            socket.AF_INET6 if ":" in text else socket.AF_INET: text for text in config.source
        }
        prefer, _, is_only = config.prefer.partition("-")
        family = _FAMILIES.get(prefer, 0)
        only = family if is_only else min(sources) if len(sources) == 1 else 0
        keepalive = Keepalive.parse(config.keepalive)
        return cls(family, sources, config.interface, config.mark, only, keepalive)

    def for_exit(self, exit: Exit) -> "Egress":
        """Return the egress of the first connection of *exit*: its own, if it has one."""
        if not exit.has_egress:
            return self
        return self._replace(
            sources={
                socket.AF_INET6 if ":" in text else socket.AF_INET: text for text in exit.sources
            },
            interface=exit.interface,
            mark=exit.mark,
        )

    def with_source(self, sockaddr: Any) -> "Egress":
        """Return it with the address in *sockaddr* as its only source."""
        # A listener for both families has 192.0.2.7 as ::ffff:192.0.2.7.
        ip = plain_ip(sockaddr[0])
        if len(ip) == 4:
            return self._replace(sources={socket.AF_INET: text_ip(ip)})
        return self._replace(sources={socket.AF_INET6: sockaddr[0]})

    def ordered(self, addresses: Sequence[Sockaddr]) -> List[Sockaddr]:
        """Return *addresses* with the preferred family first, else in their order."""
        if not self.prefer:
            return list(addresses)
        return sorted(addresses, key=lambda address: address[0] != self.prefer)

    def prepare(self, sock: socket.socket) -> None:
        """Set *sock* up before it is connected.

        Raises:
            OSError: it cannot have that source, interface or mark.
        """
        self.confine(sock)
        if self.sources:
            source = self.sources.get(sock.family)
            if source is None:
                raise OSError(errno.ENETUNREACH, "no --source of this family")
            bind_late(sock, (source, 0))

    def confine(self, sock: socket.socket) -> None:
        """Set interface and mark of *sock*, which may also be a listener.

        Raises:
            OSError: it cannot have them.
        """
        if self.mark:
            sock.setsockopt(socket.SOL_SOCKET, _option("SO_MARK"), _UINT.pack(self.mark))
        if self.interface:
            name = self.interface.encode("utf-8", "surrogateescape") + b"\0"
            sock.setsockopt(socket.SOL_SOCKET, _option("SO_BINDTODEVICE"), name)

    def check(self, warn: Callable[[str], None] = warn_in_log) -> None:
        """Try it once, without a packet; *warn* of what may still come up.

        Raises:
            EgressError: it will never work.
            OSError: there is no descriptor left to try it with.
        """
        if not (self.sources or self.interface or self.mark):
            return
        for family in self.sources or (socket.AF_INET,):
            try:
                self._try(family)
            except OSError as exc:
                if exc.errno in CAPACITY_ERRORS:
                    raise
                sentence = "cannot connect to targets with %s: %s" % (self, exc.strerror)
                if exc.errno in _FOR_GOOD:
                    raise EgressError(exc.errno, sentence) from exc
                warn("%s; the proxy serves, but connections fail until this works" % sentence)

    def _try(self, family: int) -> None:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            self.prepare(sock)
        finally:
            close_quietly(sock)

    def __str__(self) -> str:
        """Return the options that set it."""
        words = ["--source %s" % source for source in self.sources.values()]
        words += ["--interface %s" % self.interface] if self.interface else []
        words += ["--mark %d" % self.mark] if self.mark else []
        return " ".join(words)


def _option(name: str) -> int:
    number = getattr(socket, name, None)
    if number is None:
        raise OSError(errno.ENOPROTOOPT, "this system has no %s" % name)
    return int(number)
