"""Names to addresses: the look-up, the addresses of this host, and the answers that are kept."""

import _socket
import array
import os
import socket
import struct
import sys
import time
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

from minisocks.compat import CAPACITY_ERRORS
from minisocks.errors import DialError, HandshakeError, HookFailed
from minisocks.hooks import Resolve
from minisocks.net.job import Background, Timer
from minisocks.net.loop import Loop
from minisocks.policy.networks import MAX_ADDRESSES, Sockaddr, first_addresses
from minisocks.quoting import MOST_TOLD, quoted
from minisocks.values import encode
from minisocks.wire import Address, Atyp, Rep, is_host_name, packed_ip

__all__ = [
    "Answers",
    "NAME_SECONDS",
    "Outcome",
    "getaddrinfo_of",
    "look_up",
    "name_of",
    "numeric_addresses",
    "only_family",
    "own_ipv4",
    "system_getaddrinfo",
]

#: Of a look-up.  ``HandshakeError``: the check before it refused.
Outcome = Union[List[Sockaddr], DialError, HandshakeError]

FAMILY_NAMES = {int(socket.AF_INET): "IPv4", int(socket.AF_INET6): "IPv6"}

#: The function that ``socket.getaddrinfo`` calls.  That one copies the rows into a second list: for
#: long answers, threads that do so at the same time take two MiB each, which the C library keeps.
_getaddrinfo = getattr(_socket, "getaddrinfo", socket.getaddrinfo)

#: Errors of getaddrinfo for a name: OSError (gaierror), UnicodeError, LookupError (a Python without
#: the idna codec), ValueError (a hook).
_FAILURES = (OSError, UnicodeError, LookupError, ValueError)

#: There is such a name, but it has no address of the family.
_NO_DATA = getattr(socket, "EAI_NODATA", None)

#: Names with such an end are loopback, which has both families (RFC 6761 section 6.3; the others
#: are in the hosts file of many systems).
_LOOPBACK = (b"localhost", b"localhost6", b"ip6-localhost", b"ip6-loopback")


def system_getaddrinfo(host: bytes, port: int, family: int, *how: int) -> List[Any]:
    """Ask the system's resolver; arguments and rows are those of ``socket.getaddrinfo``.

    Where *family* is 0 and this host has addresses of one family only, no other is asked for: a
    name server that does not answer for one family makes each name take 15 s.  Waits; any thread.

    Raises:
        OSError, UnicodeError, LookupError: there is no such name, or no name server answers.
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

    Never asks a name server: ``AI_NUMERICHOST`` takes ``127.0.0.1``, ``::1``, ``127.1``,
    ``0x7f000001`` and ``fe80::1%eth0`` alike.  A host that came as an IPv4 address, by its *atyp*,
    is in its usual text form and need not be parsed.
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
    # A resolver of the embedding program may return others, too.
    return [address for address in found if family in (0, address[0])]


def look_up(
    getaddrinfo: Callable[..., Any], host: bytes, port: int, family: int = 0
) -> List[Sockaddr]:
    """Return the addresses of *host*.  Waits; any thread.

    Args:
        getaddrinfo: ``system_getaddrinfo``, or that of ``getaddrinfo_of``.
        family: of addresses; 0: both.

    Raises:
        DialError: it has none, or no name server answers.
    """
    if b"\\" in host:
        # The C library takes it for the beginning of a number: \101 is A.  So it would ask for
        # another name than the rules were asked about.
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


def name_of(sockaddr: Any) -> bytes:
    """Return the name of an address, as the system's resolver knows it.  Waits; any thread.

    Raises:
        DialError: it has none, or one that is no name of a host; or no name server answers.
    """
    try:
        name = socket.getnameinfo(sockaddr, socket.NI_NAMEREQD | socket.NI_NUMERICSERV)[0]
    except _FAILURES as exc:
        what = "the name of %s cannot be resolved: %s" % (sockaddr[0], exc)
        raise DialError(what, Rep.HOST_UNREACHABLE) from exc
    found = encode(name)
    if not is_host_name(found):
        what = "the name of %s is no name of a host: %s" % (sockaddr[0], quoted(name, MOST_TOLD))
        raise DialError(what, Rep.HOST_UNREACHABLE)
    return found


def getaddrinfo_of(resolve: Resolve) -> Callable[..., List[Any]]:
    """Return a ``getaddrinfo`` that calls the hook *resolve* first.

    It raises:
        OSError: from *resolve*; there is no such host.
        HookFailed: *resolve* raised something else, or returned what is no address.
    """

    def getaddrinfo(host: bytes, port: int, *how: int) -> List[Any]:
        try:
            answer = resolve(Address(host, port, Atyp.DOMAINNAME).name)
            if answer is not None:
                texts = [answer] if isinstance(answer, str) else answer
                return [row for text in texts for row in _rows(text, port)]
        except OSError:
            raise
        except BaseException as exc:  # the program's bug: the resolver logs it
            raise HookFailed("the resolve hook failed: %s" % _words_of(exc)) from exc
        return system_getaddrinfo(host, port, *how)

    return getaddrinfo


def _words_of(exc: BaseException) -> str:
    """Return what *exc* says; the name of its class if that raises, too."""
    try:
        return str(exc)
    except Exception:  # noqa: BLE001  # a ValueError would be taken for a name without addresses
        return type(exc).__name__


def _rows(text: str, port: int) -> List[Any]:
    if packed_ip(text) is None:
        raise ValueError("it returned %r, which is no IP address" % text)
    found = numeric_addresses(text.encode("ascii"), port)
    kind, proto = socket.SOCK_STREAM, socket.IPPROTO_TCP
    return [(family, kind, proto, "", sockaddr) for family, sockaddr in found]


_SIOCGIFCONF = 0x8912
#: ``struct ifconf``: the bytes of a buffer, and its address.
_IFCONF = "iP"
#: ``struct ifreq``: a name, and a union, of which ``struct ifmap`` is the largest part.
_NAME_BYTES = 16
_IFREQ_BYTES = _NAME_BYTES + struct.calcsize("LLHBBB0L")
#: In it, the address of a ``struct sockaddr_in``, behind family and port.
_ADDRESS = slice(_NAME_BYTES + 4, _NAME_BYTES + 8)
#: No more are looked at; they only appear in messages.
MAX_OWN_ADDRESSES = 256

#: Each line has an address, an interface, the length of its network, a scope and more; these scopes
#: are those of loopback and link-local addresses.
_IPV6_ADDRESSES = "/proc/net/if_inet6"
_OF_HOST_OR_LINK = ("10", "20")


def own_ipv4() -> List[Tuple[str, bytes]]:
    """Return interfaces and their addresses: a name and 4 bytes each (Linux).  Any thread."""
    try:
        return _ipv4() if sys.platform.startswith("linux") else []
    except OSError:
        return []  # no descriptor, or no IPv4


def only_family() -> int:
    """Return the only family of this host's addresses (Linux); 0: it has both, or unknown.

    Loopback and link-local addresses do not count.  Routes are not asked for, because a network
    with only fd00::/8 has no default route.  Any thread.
    """
    if not sys.platform.startswith("linux"):
        return 0
    try:
        has_ipv4 = any(ip[0] != 127 and ip[:2] != b"\xa9\xfe" for _name, ip in _ipv4())
        found = [socket.AF_INET] * has_ipv4 + [socket.AF_INET6] * _has_ipv6()
    except OSError:
        return 0  # no descriptor, or no /proc
    return int(found[0]) if len(found) == 1 else 0


def _has_ipv6() -> bool:
    try:
        with open(_IPV6_ADDRESSES, encoding="ascii") as file:
            return any(line.split()[3] not in _OF_HOST_OR_LINK for line in file)
    except FileNotFoundError:
        if os.path.exists(os.path.dirname(_IPV6_ADDRESSES)):
            return False  # the kernel has no IPv6
        raise


def _ipv4() -> List[Tuple[str, bytes]]:
    import fcntl

    room = array.array("B", bytes(MAX_OWN_ADDRESSES * _IFREQ_BYTES))
    question = struct.pack(_IFCONF, len(room), room.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, _SIOCGIFCONF, question)
    found = []
    for start in range(0, struct.unpack(_IFCONF, answer)[0], _IFREQ_BYTES):
        row = room[start : start + _IFREQ_BYTES].tobytes()
        name = row[:_NAME_BYTES].split(b"\0")[0].decode("ascii", "replace")
        found.append((name, row[_ADDRESS]))
    return found


#: Seconds for which addresses of a name are kept, and errors; a TTL is not known here.
NAME_SECONDS = 30.0
NO_NAME_SECONDS = 5.0
#: Seconds from one search for old answers to the next, while there are answers.
SWEEP_SECONDS = 5.0
#: Most names that are kept, and most bytes; or this part of ``--memory-limit``, if that is less.
MAX_NAMES = 512
MAX_BYTES = 2 << 20
LIMIT_SHARE = 8
#: Bytes of a name, of each byte of its length (an error has four characters for it), and of each
#: address (tests/unit/net/test_lookup.py measures them).
NAME_BYTES = 1024
LENGTH_FACTOR = 5
ADDRESS_BYTES = 256


class Answers(Background):
    """Answers of name servers, kept for a while: one table for all look-ups, limited in bytes.

    It is a job because of its timer, which runs only while there are answers: an idle process
    sleeps.  Any thread may make it; then the loop's.
    """

    def __init__(self, loop: Loop, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._clock = clock
        #: By name, the oldest first: until when, how many bytes, and the outcome.
        self._known: Dict[bytes, Tuple[float, int, Outcome]] = {}
        self._timer: Optional[Timer] = None
        self._most = MAX_BYTES
        #: Of all answers; counted in the loop's pending bytes, too.
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._known)

    def change(self, limit: Optional[int]) -> None:
        """Use this ``--memory-limit``, in bytes, from now on, and remove all answers."""
        self._most = MAX_BYTES if limit is None else min(MAX_BYTES, limit // LIMIT_SHARE)
        self.clear()

    def add(self, name: bytes, outcome: Outcome) -> None:
        """Keep the outcome for *name*; of too many, the oldest are removed."""
        self._forget(name)
        seconds, size = NAME_SECONDS, NAME_BYTES + LENGTH_FACTOR * len(name)
        if isinstance(outcome, list):
            size += ADDRESS_BYTES * len(outcome)
        else:
            seconds = NO_NAME_SECONDS
            # A new one: the old one keeps its traceback and its cause in memory.
            outcome = DialError(str(outcome), outcome.rep or Rep.HOST_UNREACHABLE)
        self._known[name] = (self._clock() + seconds, size, outcome)
        self._count(size)
        while self.bytes > self._most or len(self._known) > MAX_NAMES:
            self._forget(next(iter(self._known)))
        if self._timer is None and self._known:
            self._loop.submit(self)

    def get(self, name: bytes) -> Optional[Outcome]:
        """Return the outcome for *name*; None: there is none, or it is too old."""
        until, _, outcome = self._known.get(name, (0.0, 0, None))
        if self._clock() < until:
            return outcome
        self._forget(name)
        return None

    def long_one(self, name: bytes, port: int) -> Optional[List[Sockaddr]]:
        """Return the addresses of *name*, with *port*, if there were too many to keep all."""
        found = self.get(name)
        if not isinstance(found, list) or len(found) < MAX_ADDRESSES:
            return None
        return [(family, (one[0], port) + one[2:]) for family, one in found]

    def clear(self) -> None:
        """Remove all answers."""
        self._known.clear()
        self._count(-self.bytes)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._loop.done(self)

    def begin(self) -> None:
        """Start the timer."""
        if self._timer is None:
            self._timer = self._loop.call_later(SWEEP_SECONDS, self, self._sweep)

    def abort(self, why: str) -> None:
        """Remove all answers; the proxy ends."""
        self.clear()

    def _sweep(self) -> None:
        self._timer = None
        now = self._clock()
        for name in [name for name, known in self._known.items() if known[0] <= now]:
            self._forget(name)
        if self._known:
            self.begin()
        else:
            self._loop.done(self)

    def _forget(self, name: bytes) -> None:
        known = self._known.pop(name, None)
        if known is not None:
            self._count(-known[1])

    def _count(self, change: int) -> None:
        self.bytes += change
        self._loop.pipes.pending_bytes += change
