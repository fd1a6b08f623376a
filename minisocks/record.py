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
    "LIMIT_ENDS",
    "Record",
    "Stats",
    "Observer",
    "access_log",
    "granted_log",
]

access_log = logging.getLogger("minisocks.access")
#: Its level says whether connections that went well have a line, too: in ``access_log``.
granted_log = logging.getLogger("minisocks.access.granted")

#: Ends that a limit brought: before the target was connected, and after.
LIMIT_ENDS = ("limit", "memory-limit")


class Observer:
    """Who is told how records go on, each step once.  Quick, and in any thread."""

    def asked(self, record: "Record") -> None:
        """Its client has said what it wants."""

    def granted(self, record: "Record") -> None:
        """Its target is connected; the client is about to hear that."""

    def ended(self, record: "Record") -> None:
        """It is over."""


_NO_OBSERVER = Observer()


class Drop:
    """Why a datagram was dropped, as the log says it."""

    #: Not from the client's address, or not from the port it sends from.
    STRANGER = "stranger"
    MALFORMED = "malformed"
    #: Of a sequence that never became whole.
    FRAGMENTS = "fragments"
    #: By a rule, or by the program's hook.
    DENIED = "denied"
    #: A name that has no address.
    NO_ADDRESS = "no address"
    #: From somebody that the client has not written to.
    UNASKED = "unasked"
    TOO_LARGE = "too large"
    #: The network takes no more just now, or too many wait already.
    NO_ROOM = "no room"
    #: There is no way to its target, or no descriptor.
    NOT_SENT = "not sent"


class Datagrams:
    """How many datagrams an association has relayed, and dropped.

    Attributes:
        up: relayed from the client to targets.
        down: relayed from targets to the client.
        drops: those of both directions that were dropped, by why.
    """

    __slots__ = ("down", "drops", "up")

    def __init__(self) -> None:
        self.up = self.down = 0
        self.drops: Dict[str, int] = {}

    def drop(self, why: str, count: int = 1) -> None:
        """Count so many that are dropped.  Loop thread."""
        if count:
            self.drops[why] = self.drops.get(why, 0) + count

    def __str__(self) -> str:
        text = "datagrams_up=%d datagrams_down=%d" % (self.up, self.down)
        drops = ", ".join("%s: %d" % item for item in sorted(self.drops.copy().items()))
        return "%s drops=%s" % (text, sentence(drops)) if drops else text


class Record:
    """The story of one connection, written down as it happens.

    Ends in one line of the access log that answers "why": who, what for, which
    address was chosen, how it went, how much, how long, and who ended it.
    Belongs to whoever owns the client's socket at the time; others only read,
    in any thread and at any time: until ``end`` is there, what they read grows.

    Attributes:
        id: counts the connections of one proxy, from 1.
        client: the ``Client``: its address, and what is known of it.
        rep: the ``Rep`` that the client is told (RFC 1928 section 6; to a
            SOCKS4 client 90 to 93), None before that and where none is told.
        via: the IP address that was connected to, as text; None before that.  Of UDP
            the address and port that the client's datagrams are taken at.
            Of BIND the one that has connected.
        bound: of BIND, the address and port where its peer is to connect to, or was; else None.
        up: bytes relayed from client to target, so far.
        down: bytes relayed from target to client, so far.
        datagrams: of UDP: the ``Datagrams`` relayed and dropped so far; else None.
        end: None while it lives; then ``client-fin``, ``target-fin``,
            ``client-reset``, ``target-reset``, ``client-lost``, ``target-lost``
            (who ended it, and how), ``idle`` (nobody said anything for so long),
            ``memory-limit`` (shed, because memory was short), ``refused``, ``limit``
            (refused, because a limit was reached), ``client-gone``, ``not-socks``,
            ``logged-out`` (of UDP: a reload has taken its user away), ``shutdown`` or
            ``internal error``.
        why: in words, why it did not succeed or was shed; of UDP, the first reason for which
            something was not sent; else empty.
        counted_by: who else is to hear of its end, or None.

    and of the request: ``user``, ``ver``, ``cmd``, ``host``, ``port``.
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
        self.bound: Optional[str] = None
        self.via: Optional[str] = None
        self.up = self.down = 0
        self.datagrams: Optional[Datagrams] = None
        self.end: Optional[str] = None
        self.why = ""
        self._observer = observer
        self.counted_by: Optional[Observer] = None
        #: When it began; once it has ended, how long it took, below 0.  One place for both,
        #: so that who reads it in another thread never has half of the change.
        self._clock = time.monotonic()

    @property
    def user(self) -> Optional[str]:
        """Who gave the right password, or whom ident confirmed; None without either."""
        return None if self.client.user is None else as_text(self.client.user)

    @property
    def ver(self) -> Optional[int]:
        """VER of the request, 4 or 5; None if there was none."""
        return None if self.request is None else int(self.request.ver)

    @property
    def cmd(self) -> Optional[str]:
        """CMD of the request, as ``"CONNECT"``; None if there was none."""
        return None if self.request is None else Cmd(self.request.cmd).name

    @property
    def host(self) -> Optional[str]:
        """What the client asked for: a name (small letters, no final dot) or an IP address."""
        return None if self.request is None else self.request.dst.name

    @property
    def port(self) -> Optional[int]:
        """The port that the client asked for."""
        return None if self.request is None else self.request.dst.port

    @property
    def seconds(self) -> float:
        """How long it has lived, or did live, since accept."""
        clock = self._clock
        return -clock if clock < 0 else time.monotonic() - clock

    @property
    def went_well(self) -> bool:
        """Whether its target was connected, and no limit has ended it since."""
        return self.via is not None and self.end not in LIMIT_ENDS

    @property
    def reason(self) -> str:
        """Why it did not succeed, in so few words that there are few reasons."""
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
        """Return what is known of it, ready for JSON, by the names of the attributes.

        What the client says is ``escaped``, and cut where it got nothing; then its length
        is there, too: ``host_bytes``, ``user_bytes``, ``userid_bytes``.
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
            "rep": self.rep.phrase if self.rep is not None else None,
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
        """Remember what the client wants."""
        self.request = request
        self._observer.asked(self)

    def granted(self, via: str) -> None:
        """Remember that the target is connected, by its address *via*."""
        self.via = via
        self.rep = Rep.SUCCEEDED
        self._observer.granted(self)

    def finish(self, end: str) -> None:
        """Write the line; *end* says which end finished it, and how."""
        self._clock = min(-1e-9, self._clock - time.monotonic())
        self.end = end
        counted_by, self.counted_by = self.counted_by, None
        if counted_by is not None:
            counted_by.ended(self)
        self._observer.ended(self)
        if (granted_log if self.went_well else access_log).isEnabledFor(logging.INFO):
            try:
                access_log.info("%s", self)
            except Exception:  # noqa: BLE001, S110  # a program's log may fail
                pass

    def _words(self) -> List[str]:
        words = ["id=%d client=%s" % (self.id, self.client)]
        if self.client.user is not None:
            words.append("user=%s" % quoted(self.client.user, self._most))
        if self.request is not None:
            words.append(self._wish(self.request))
        if self.bound is not None:
            words.append("bound=%s" % self.bound)
        if self.via is not None:
            words.append("via=%s" % self.via)
        if self.rep is not None:
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

    def _wish(self, request: Request) -> str:
        dst = request.dst.told(self._most)
        text = "ver=%d cmd=%s dst=%s" % (request.ver, Cmd(request.cmd).name, dst)
        if request.userid:
            text += " userid=%s" % quoted(request.userid, self._most)
        return text

    def _cut(self, said: Union[bytes, str, None]) -> Optional[str]:
        return None if said is None else escaped(encoded(said)[: self._most])

    def _length(self, said: Union[bytes, str, None]) -> Optional[int]:
        """Return the length of what ``_cut`` cuts, in bytes; None: it is whole."""
        length = len(encoded(said or b""))
        return length if length > self._most else None

    @property
    def _most(self) -> int:
        """How many bytes of a name are told: all of it, unless the client has got nothing."""
        return MOST_TOLD if self.via is None else MAX_FIELD_BYTES


class Stats(NamedTuple):
    """The figures of one run of a proxy, from ``start`` on; all zero before it.

    ``total`` is ``succeeded`` plus all of ``refused`` plus those whose target
    is still being dialed.  Connections whose client asked for nothing (health
    checks, scanners) are in ``open`` and ``checks`` only, unless a limit refused them.
    """

    #: Seconds since the start, or from start to stop.
    uptime: float
    #: Connections now, in whatever state.
    open: int
    #: Connections with a request, or that ended before they had one.
    total: int
    #: Those of them whose target was connected.
    succeeded: int
    #: Those of them that ended before that, by why: ``Rep.phrase`` where there is a
    #: REP, else "client gone", "not SOCKS", "shutdown" or "internal error"; "limit" where
    #: a limit was reached.
    refused: Dict[str, int]
    #: Bytes relayed from clients to targets, those of open connections included.
    up: int
    #: Bytes relayed from targets to clients, likewise.
    down: int
    #: Unfinished handshakes that wait for their client without a thread.
    handshakes: int
    #: Handler threads.
    threads: int
    #: UDP associations now; they are in ``open``, too.
    associations: int
    #: Clients that greeted, were answered with 05 00 (RFC 1928 section 3) and left: health checks.
    checks: int
