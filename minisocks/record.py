"""What a program and the log learn: a ``Record`` of each connection, the ``Stats`` of a proxy."""

import logging
import time
from typing import Any, Dict, List, NamedTuple, Optional, Union

from minisocks.policy.client import Client
from minisocks.protocol.handshake import Request
from minisocks.quoting import MOST_TOLD, encoded, escaped, quoted, sentence
from minisocks.wire import MAX_FIELD_BYTES, Cmd, Rep, as_text

__all__ = [
    "Datagrams",
    "Drop",
    "ExitFigures",
    "LIMIT_ENDS",
    "Record",
    "Stats",
    "Observer",
    "access_log",
    "granted_log",
]

access_log = logging.getLogger("minisocks.access")
#: Its level decides whether successful connections have a line in ``access_log``, too.
granted_log = logging.getLogger("minisocks.access.granted")

#: Ends by a limit: before the target was connected, and after.
LIMIT_ENDS = ("limit", "memory-limit")


class Observer:
    """Callbacks for the steps of a record, each called once.  Quick; any thread."""

    def asked(self, record: "Record") -> None:
        """React to the request."""

    def granted(self, record: "Record") -> None:
        """React to the connected target, before the reply is sent."""

    def ended(self, record: "Record") -> None:
        """React to the end."""


_NO_OBSERVER = Observer()


class Drop:
    """Reasons to drop a datagram, in the words of the log."""

    #: Not from the address or port of the client.
    STRANGER = "stranger"
    MALFORMED = "malformed"
    #: A fragment of an incomplete sequence.
    FRAGMENTS = "fragments"
    #: By a rule, or by a hook of the program.
    DENIED = "denied"
    #: Its name has no address.
    NO_ADDRESS = "no address"
    #: From a peer that the client has not written to.
    UNASKED = "unasked"
    TOO_LARGE = "too large"
    #: The network takes no more now, or too many datagrams wait already.
    NO_ROOM = "no room"
    #: There is no route to its target, or no descriptor.
    NOT_SENT = "not sent"


class Datagrams:
    """Counts of the datagrams of an association.

    Attributes:
        up: relayed from the client to targets.
        down: relayed from targets to the client.
        drops: dropped in both directions, by reason (``Drop``).
    """

    __slots__ = ("down", "drops", "up")

    def __init__(self) -> None:
        self.up = self.down = 0
        self.drops: Dict[str, int] = {}

    def drop(self, why: str, count: int = 1) -> None:
        """Add *count* drops for the reason *why*.  Loop thread."""
        if count:
            self.drops[why] = self.drops.get(why, 0) + count

    def __str__(self) -> str:
        text = "datagrams_up=%d datagrams_down=%d" % (self.up, self.down)
        drops = ", ".join("%s: %d" % item for item in sorted(self.drops.copy().items()))
        return "%s drops=%s" % (text, sentence(drops)) if drops else text


class Record:
    """What is known of one connection, from accept to its line in the access log.

    The owner of the client's socket writes it; any thread may read it at any time.  Until ``end``
    is set, fields are added and counts grow.

    Attributes:
        id: number of the connection in its proxy, from 1.
        client: the ``Client``.
        rep: the ``Rep`` of the reply (RFC 1928 section 6; 90 to 93 for a SOCKS4 client); None
            before the reply, and without one.
        has_rep: whether ``rep`` is in the reply.  It is not if 05 FF or 01 01 refused the client
            before its request; then the log does not show it.
        via: the IP address that was connected to, as text; None before that.  UDP: the address
            and port that receive the datagrams of the client.  BIND: the peer that connected.
            RESOLVE: the address in the reply; RESOLVE_PTR: the name.
        exit: the exit by which it left; None: directly.  UDP: all exits, with commas between them.
        bound: BIND: the address and port for the peer; else None.
        up: bytes relayed from client to target so far.
        down: bytes relayed from target to client so far.
        datagrams: UDP: the ``Datagrams`` so far; else None.
        end: None while it lasts; then ``client-fin``, ``target-fin``, ``client-reset``,
            ``target-reset``, ``client-lost``, ``target-lost`` (which side ended it, and how),
            ``answered`` (RESOLVE and RESOLVE_PTR), ``idle`` (no data for too long),
            ``memory-limit`` (reset, because memory was short), ``refused``, ``limit`` (refused,
            because a limit was reached), ``client-gone``, ``not-socks``, ``logged-out`` (UDP: a
            reload has removed its user), ``shutdown`` or ``internal error``.
        why: in words, why it failed or was reset; UDP: the reason of the first drop; else empty.
        counted_by: another observer of its end, or None.

    Fields of the request: ``user``, ``ver``, ``cmd``, ``host``, ``port``.
    """

    __slots__ = (
        "_clock",
        "_observer",
        "bound",
        "client",
        "counted_by",
        "datagrams",
        "down",
        "end",
        "exit",
        "has_rep",
        "id",
        "rep",
        "request",
        "up",
        "via",
        "why",
    )

    def __init__(self, client: Client, id: int = 0, observer: Observer = _NO_OBSERVER) -> None:
        self.id = id
        self.client = client
        self.request: Optional[Request] = None
        self.rep: Optional[Rep] = None
        self.has_rep = True
        self.bound: Optional[str] = None
        self.via: Optional[str] = None
        self.exit: Optional[str] = None
        self.up = self.down = 0
        self.datagrams: Optional[Datagrams] = None
        self.end: Optional[str] = None
        self.why = ""
        self._observer = observer
        self.counted_by: Optional[Observer] = None
        #: The time of the start; after the end its duration, below 0.  One field for both, so
        #: that another thread never reads half of the change.
        self._clock = time.monotonic()

    @property
    def user(self) -> Optional[str]:
        """The user whose password was right, or that ident confirmed; None without either."""
        return None if self.client.user is None else as_text(self.client.user)

    @property
    def ver(self) -> Optional[int]:
        """VER of the request, 4 or 5; None without a request."""
        return None if self.request is None else int(self.request.ver)

    @property
    def cmd(self) -> Optional[str]:
        """CMD of the request, such as ``"CONNECT"``; None without a request."""
        return None if self.request is None else Cmd(self.request.cmd).name

    @property
    def host(self) -> Optional[str]:
        """The target of the request: a name (lower case, no final dot) or an IP address."""
        return None if self.request is None else self.request.dst.name

    @property
    def port(self) -> Optional[int]:
        """The port of the request; None without a request."""
        return None if self.request is None else self.request.dst.port

    @property
    def seconds(self) -> float:
        """Seconds from accept until now or the end."""
        clock = self._clock
        return -clock if clock < 0 else time.monotonic() - clock

    @property
    def went_well(self) -> bool:
        """Whether its target was connected and no limit has ended it."""
        return self.via is not None and self.end not in LIMIT_ENDS

    @property
    def reason(self) -> str:
        """Why it failed, as one of a few categories."""
        if self.end == "limit":
            return "limit"
        if self.rep is not None:
            return self.rep.phrase
        return "not SOCKS" if self.end == "not-socks" else str(self.end).replace("-", " ")

    def __str__(self) -> str:
        return " ".join(self._words())

    def __repr__(self) -> str:
        return "<Record %s>" % self

    def as_data(self) -> Dict[str, Any]:
        """Return its fields, ready for JSON, by the names of the attributes.

        Texts of the client are ``escaped``.  Those of a failed request are cut, and their length
        is added: ``host_bytes``, ``user_bytes``, ``userid_bytes``.
        """
        user, request = self.client.user, self.request
        host, userid = (request.dst.name, request.userid) if request else (None, None)
        data: Dict[str, Any] = {
            "id": self.id,
            "client": str(self.client),
            "user": self._cut(user),
            "user_bytes": self._length(user),
            "ver": self.ver,
            "cmd": self.cmd,
            "host": self._cut(host),
            "host_bytes": self._length(host),
            "port": self.port,
            "userid": self._cut(userid),
            "userid_bytes": self._length(userid),
            "bound": self.bound,
            "via": self.via,
            "exit": self.exit,
            "rep": self.rep.phrase if self.rep is not None and self.has_rep else None,
            "up": self.up,
            "down": self.down,
            "datagrams_up": self.datagrams.up if self.datagrams else None,
            "datagrams_down": self.datagrams.down if self.datagrams else None,
            "drops": self.datagrams.drops.copy() or None if self.datagrams else None,
            "seconds": round(self.seconds, 3),
            "end": self.end,
            "why": self.why,
        }
        return {name: value for name, value in data.items() if value is not None and value != ""}

    def asked(self, request: Request) -> None:
        """Set the request."""
        self.request = request
        self._observer.asked(self)

    def granted(self, via: str) -> None:
        """Set the success: the target is connected at its address *via*, or *via* is an answer."""
        self.via = via
        self.rep = Rep.SUCCEEDED
        self._observer.granted(self)

    def finish(self, end: str) -> None:
        """Set the end, and write the line; *end* is one of those above."""
        self._clock = min(-1e-9, self._clock - time.monotonic())
        self.end = end
        counted_by, self.counted_by = self.counted_by, None
        if counted_by is not None:
            counted_by.ended(self)
        self._observer.ended(self)
        if (granted_log if self.went_well else access_log).isEnabledFor(logging.INFO):
            try:
                access_log.info("%s", self)
            except Exception:  # noqa: BLE001, S110  # the log of a program may fail
                pass

    def _words(self) -> List[str]:
        words = ["id=%d client=%s" % (self.id, self.client)]
        if self.client.user is not None:
            words.append("user=%s" % quoted(self.client.user, self._most))
        if self.request is not None:
            words.append(self._request_text(self.request))
        if self.bound is not None:
            words.append("bound=%s" % self.bound)
        if self.via is not None:
            words.append("via=%s" % self.via)
        if self.exit is not None:
            words.append("exit=%s" % self.exit)
        if self.rep is not None and self.has_rep:
            words.append("rep=%s" % sentence(self.rep.phrase))
        if self.via is not None:
            words.append("up=%dB down=%dB" % (self.up, self.down))
        if self.datagrams is not None:
            words.append(str(self.datagrams))
        words.append("secs=%.3f" % self.seconds)
        if self.end is not None:
            words.append("end=%s" % self.end)
        if self.why:
            words.append("why=%s" % sentence(self.why))
        return words

    def _request_text(self, request: Request) -> str:
        dst = request.dst.told(self._most)
        text = "ver=%d cmd=%s dst=%s" % (request.ver, Cmd(request.cmd).name, dst)
        if request.userid:
            text += " userid=%s" % quoted(request.userid, self._most)
        return text

    def _cut(self, said: Union[bytes, str, None]) -> Optional[str]:
        return None if said is None else escaped(encoded(said)[: self._most])

    def _length(self, said: Union[bytes, str, None]) -> Optional[int]:
        """Return the length in bytes of a text that ``_cut`` shortens, else None."""
        length = len(encoded(said or b""))
        return length if length > self._most else None

    @property
    def _most(self) -> int:
        """The most bytes of a name that are shown: fewer if the request failed."""
        return MOST_TOLD if self.via is None else MAX_FIELD_BYTES


class Stats(NamedTuple):
    """The figures of one run of a proxy, from ``start`` on; all zero before it.

    ``total`` is ``succeeded`` plus all of ``refused`` plus the connections whose target is still
    being dialed.  Connections without a request (health checks, scanners) are in ``open`` and
    ``checks`` only, unless a limit refused them.
    """

    #: Seconds since the start, or from start to stop.
    uptime: float
    #: Connections now, in any state.
    open: int
    #: Connections with a request, or that ended before they had one.
    total: int
    #: Of ``total``: the target was connected.
    succeeded: int
    #: Of ``total``: ended before that, by reason: ``Rep.phrase`` if there was a REP, else "client
    #: gone", "not SOCKS", "shutdown" or "internal error"; "limit" if a limit was reached.
    refused: Dict[str, int]
    #: Bytes relayed from clients to targets, including open connections.
    up: int
    #: Bytes relayed from targets to clients, likewise.
    down: int
    #: Handshakes that wait for their client without a thread.
    handshakes: int
    #: Handler threads.
    threads: int
    #: UDP associations now; also in ``open``.
    associations: int
    #: Clients that greeted, were answered with 05 00 (RFC 1928 section 3) and left: health checks.
    checks: int
    #: Associations at proxies of exits, for UDP: one for each hop.
    upstreams: int = 0


class ExitFigures(NamedTuple):
    """The figures of one exit since ``start``: connections now and in all, and their bytes."""

    open: int = 0
    total: int = 0
    up: int = 0
    down: int = 0
