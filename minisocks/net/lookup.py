"""From a name to addresses: the system's resolver, and the embedding program's before it."""

import _socket
import socket
from typing import Any, Callable, Iterable, List, Optional

from minisocks.compat import CAPACITY_ERRORS
from minisocks.errors import DialError, HookFailed
from minisocks.hooks import Resolve
from minisocks.net.interfaces import only_family
from minisocks.policy.addresses import Sockaddr, first_addresses
from minisocks.quoting import MOST_TOLD, quoted
from minisocks.wire import Address, Atyp, Rep, packed_ip

__all__ = ["getaddrinfo_of", "look_up", "numeric_addresses", "system_getaddrinfo"]

FAMILY_NAMES = {int(socket.AF_INET): "IPv4", int(socket.AF_INET6): "IPv6"}

#: The one that ``socket.getaddrinfo`` calls.  That makes a second list of what this returns, in
#: Python: of long answers, threads that are at it at the same time have two MiB each, and the
#: C library keeps those.
_getaddrinfo = getattr(_socket, "getaddrinfo", socket.getaddrinfo)

#: What getaddrinfo raises for a name: OSError (gaierror), UnicodeError and
#: LookupError (the idna codec, on Pythons that lack it), ValueError (others').
_FAILURES = (OSError, UnicodeError, LookupError, ValueError)

#: There is such a name, but no address of the family that was asked for.
_NO_DATA = getattr(socket, "EAI_NODATA", None)

#: What is called so, or ends so, is loopback, of which a host has both families (RFC 6761 section
#: 6.3; the others are in the hosts file of many systems).
_LOOPBACK = (b"localhost", b"localhost6", b"ip6-localhost", b"ip6-loopback")


def system_getaddrinfo(host: bytes, port: int, family: int, *how: int) -> List[Any]:
    """Ask the system's resolver; takes and returns what ``socket.getaddrinfo`` does.

    Where *family* is 0 and this host has addresses of one family only, no other is asked for: a
    name server that does not answer for one family makes each name take 15 s.  Waits; any thread.

    Raises:
        OSError, UnicodeError, LookupError: there is no such name, or that cannot be told.
    """
    is_loopback = host.lower().rstrip(b".").rpartition(b".")[2] in _LOOPBACK
    asked = family or (0 if is_loopback else only_family())
    try:
        rows: List[Any] = _getaddrinfo(host, port, asked, *how)
    except socket.gaierror as exc:
        if not asked or exc.errno != _NO_DATA:
            raise
        why = "it has no %s address" % FAMILY_NAMES[asked]
        if not family:
            why += ", and this host has none of another family to reach it from"
        raise socket.gaierror(exc.errno, why) from exc
    return rows


def numeric_addresses(host: bytes, port: int, atyp: int = Atyp.DOMAINNAME) -> List[Sockaddr]:
    """Return the address if *host* is one in any notation, else nothing.

    Never asks a name server: ``AI_NUMERICHOST`` takes ``127.0.0.1``, ``::1``,
    ``127.1``, ``0x7f000001`` and ``fe80::1%eth0`` alike.  What came as an IPv4
    address, *atyp* says, is in its usual text form and need not be parsed.
    """
    if atyp == Atyp.IPV4:
        return [(socket.AF_INET, (host.decode("ascii"), port))]
    try:
        return _ask(socket.getaddrinfo, host, port, 0, socket.AI_NUMERICHOST)
    except _FAILURES:
        return []


def _ask(
    getaddrinfo: Callable[..., Any], host: bytes, port: int, family: int, flags: int
) -> List[Sockaddr]:
    kind, proto = socket.SOCK_STREAM, socket.IPPROTO_TCP
    found = first_addresses(getaddrinfo(host, port, family, kind, proto, flags))
    # A program's own resolver may say others, too.
    return [address for address in found if family in (0, address[0])]


def look_up(
    getaddrinfo: Callable[..., Any], host: bytes, port: int, family: int = 0
) -> List[Sockaddr]:
    """Return the addresses of *host*.  Waits; any thread.

    Args:
        getaddrinfo: ``system_getaddrinfo``, or a program's own.
        family: of addresses; 0: both.

    Raises:
        DialError: it has none, or nobody says.
    """
    if b"\\" in host:
        # The C library takes it for the beginning of a number: \101 is A. So what is asked
        # for is another name than the rules were asked about.
        raise DialError("%s is no name of a host" % quoted(host, MOST_TOLD), Rep.HOST_UNREACHABLE)
    try:
        found = _ask(getaddrinfo, host, port, family, 0)
    except _FAILURES as exc:
        what = "%s cannot be resolved: %s" % (quoted(host, MOST_TOLD), exc)
        full = getattr(exc, "errno", None) in (*CAPACITY_ERRORS, socket.EAI_MEMORY)
        raise DialError(what, Rep.GENERAL_FAILURE if full else Rep.HOST_UNREACHABLE) from exc
    if not found:
        kind = FAMILY_NAMES[family] + " address" if family else "address"
        raise DialError("%s has no %s" % (quoted(host, MOST_TOLD), kind), Rep.HOST_UNREACHABLE)
    return found


def getaddrinfo_of(resolve: Resolve) -> Callable[..., List[Any]]:
    """Return a ``getaddrinfo`` for the resolver that asks *resolve* first.

    Raises:
        OSError: from *resolve*; there is no such host.
        HookFailed: *resolve* raised something else, or returned what is no address.
    """

    def getaddrinfo(host: bytes, port: int, *how: int) -> List[Any]:
        try:
            texts = _texts(resolve(Address(host, port, Atyp.DOMAINNAME).name))
            if texts is not None:
                return [row for text in texts for row in _rows(text, port)]
        except OSError:
            raise
        except BaseException as exc:  # the program's bug: the resolver writes it down
            raise HookFailed("the resolve hook failed: %s" % exc) from exc
        return system_getaddrinfo(host, port, *how)

    return getaddrinfo


def _texts(answer: Optional[Iterable[str]]) -> Optional[List[str]]:
    if answer is None:
        return None
    return [answer] if isinstance(answer, str) else list(answer)


def _rows(text: str, port: int) -> List[Any]:
    if packed_ip(text) is None:
        raise ValueError("it returned %r, which is no IP address" % text)
    found = numeric_addresses(text.encode("ascii"), port)
    kind, proto = socket.SOCK_STREAM, socket.IPPROTO_TCP
    return [(family, kind, proto, "", sockaddr) for family, sockaddr in found]
