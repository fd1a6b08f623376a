"""Names to addresses: the look-up, the addresses of this host, and the answers that are kept."""

import _socket
import array
import collections
import os
import socket
import struct
import sys
import time
from typing import Any, Callable, Iterable, List, Optional, Tuple, Union

from minisocks.compat import CAPACITY_ERRORS
from minisocks.errors import DialError, HandshakeError, HookFailed
from minisocks.hooks import Resolve
from minisocks.net.job import Background, Timer
from minisocks.net.loop import Loop
from minisocks.policy.addresses import MAX_ADDRESSES, Sockaddr, first_addresses
from minisocks.quoting import MOST_TOLD, quoted
from minisocks.wire import Address, Atyp, Rep, packed_ip

__all__ = [
    "Answers",
    "NAME_SECONDS",
    "Outcome",
    "getaddrinfo_of",
    "look_up",
    "numeric_addresses",
    "only_family",
    "own_ipv4",
    "system_getaddrinfo",
]

#: Of a look-up.  ``HandshakeError``: the check before it refused.
Outcome = Union[List[Sockaddr], DialError, HandshakeError]

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


_SIOCGIFCONF = 0x8912
#: ``struct ifconf``: room in bytes, and where it is.
_IFCONF = "iP"
#: ``struct ifreq``: a name, and the largest of what a union has, ``struct ifmap``.
_NAME_BYTES = 16
_IFREQ_BYTES = _NAME_BYTES + struct.calcsize("LLHBBB0L")
#: In it, of ``struct sockaddr_in``, the address behind family and port.
_ADDRESS = slice(_NAME_BYTES + 4, _NAME_BYTES + 8)
#: No more are looked at; they only appear in messages.
MAX_OWN_ADDRESSES = 256

#: Lines of an address, an interface, the length of its network, a scope and more; where these
#: scopes are loopback's and link-local ones.
_IPV6_ADDRESSES = "/proc/net/if_inet6"
_OF_HOST_OR_LINK = ("10", "20")


def own_ipv4() -> List[Tuple[str, bytes]]:
    """Return interfaces with their addresses: a name and 4 bytes each.  Thread: any."""
    try:
        return _ipv4() if sys.platform.startswith("linux") else []
    except OSError:
        return []  # no descriptor, or no IPv4


def only_family() -> int:
    """Return the one family of which this host has addresses for other hosts; 0: both, or unknown.

    Loopback and link-local addresses are not counted.  Routes are not asked about: a network that
    has only fd00::/8 has no default route.  Thread: any.
    """
    if not sys.platform.startswith("linux"):
        return 0
    try:
        found = [socket.AF_INET] * _has_ipv4() + [socket.AF_INET6] * _has_ipv6()
    except OSError:
        return 0  # no descriptor, or no /proc
    return int(found[0]) if len(found) == 1 else 0


def _has_ipv4() -> bool:
    return any(ip[0] != 127 and ip[:2] != b"\xa9\xfe" for _name, ip in _ipv4())


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


#: How long a name's addresses are used, and how long it has none; no TTL is known here.
NAME_SECONDS = 30.0
NO_NAME_SECONDS = 5.0
#: What is too old is looked for so often, while there is anything.
SWEEP_SECONDS = 5.0
#: Names at once, and the bytes that they take; of ``--memory-limit`` this part, if that is less.
MAX_NAMES = 512
MAX_BYTES = 2 << 20
LIMIT_SHARE = 8
#: What a name takes beside its own length (an error says the name, four characters for each
#: byte), and each of its addresses (tests/test_answers.py measures both).
NAME_BYTES = 1024
LENGTH_FACTOR = 5
ADDRESS_BYTES = 256


class Answers(Background):
    """Names, and what came of them, for a while.

    A class because all that is in it is counted as memory, and leaves it again, in one place.
    It is a job so that it has a timer, which runs only while there is something that can become
    too old: an idle process sleeps.  Loop thread, but for its making.
    """

    def __init__(self, loop: Loop, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._clock = clock
        self._known: "collections.OrderedDict[bytes, Tuple[float, int, Outcome]]"
        self._known = collections.OrderedDict()  # by name: until when, and how many bytes
        self._timer: Optional[Timer] = None
        self._most = MAX_BYTES
        #: What all of them take; the loop's memory has it, too.
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._known)

    def change(self, limit: Optional[int]) -> None:
        """Go by this ``--memory-limit`` from now on, and forget all."""
        self._most = MAX_BYTES if limit is None else min(MAX_BYTES, limit // LIMIT_SHARE)
        self.clear()

    def add(self, name: bytes, outcome: Outcome) -> None:
        """Remember what came of *name*; of too many the oldest are forgotten."""
        self._forget(name)
        seconds, size = NAME_SECONDS, NAME_BYTES + LENGTH_FACTOR * len(name)
        if isinstance(outcome, list):
            size += ADDRESS_BYTES * len(outcome)
        else:
            seconds = NO_NAME_SECONDS
            # Not as it came: that has all that was there when it was raised, and what caused it.
            outcome = DialError(str(outcome), outcome.rep or Rep.HOST_UNREACHABLE)
        self._known[name] = (self._clock() + seconds, size, outcome)
        self._count(size)
        while self.bytes > self._most or len(self._known) > MAX_NAMES:
            self._forget(next(iter(self._known)))
        if self._timer is None and self._known:
            self._loop.submit(self)

    def get(self, name: bytes) -> Optional[Outcome]:
        """Return what came of *name*; None if that is not known, or too old."""
        until, _, outcome = self._known.get(name, (0.0, 0, None))
        if self._clock() < until:
            return outcome
        self._forget(name)
        return None

    def long_one(self, name: bytes, port: int) -> Optional[List[Sockaddr]]:
        """Return the addresses of *name*, with *port*, if so many came that they were cut."""
        found = self.get(name)
        if not isinstance(found, list) or len(found) < MAX_ADDRESSES:
            return None
        return [(family, (one[0], port) + one[2:]) for family, one in found]

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()
        self._count(-self.bytes)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._loop.done(self)

    def begin(self) -> None:
        """Look in a while for what is too old then."""
        if self._timer is None:
            self._timer = self._loop.call_later(SWEEP_SECONDS, self, self._sweep)

    def abort(self, why: str) -> None:
        """Forget all; the proxy ends."""
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
