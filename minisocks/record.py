"""What is remembered of one connection, and its one line in the log."""

import itertools
import logging
import time
from typing import Any, Optional

from minisocks.client import Client
from minisocks.handshake import Request
from minisocks.wire import Cmd, Rep, quoted

__all__ = ["Record", "access_log"]

access_log = logging.getLogger("minisocks.access")

_ids = itertools.count(1)


class Record:
    """The story of one connection, written down as it happens.

    Ends in one line of the access log that answers "why": who, what for, which
    address was chosen, how it went, how much, how long, and who ended it.
    Belongs to whoever owns the client's socket at the time.
    """

    __slots__ = ("client", "down", "id", "rep", "request", "started", "up", "via", "why")

    def __init__(self, client: Client) -> None:
        self.id = next(_ids)
        self.client = client
        self.started = time.monotonic()
        self.request: Optional[Request] = None
        self.rep: Optional[Rep] = None
        #: The target's sockaddr that was connected to.
        self.via: Any = None
        #: Bytes relayed from client to target, and from target to client.
        self.up = self.down = 0
        #: In words, why it did not succeed.
        self.why = ""

    def finish(self, end: str) -> None:
        """Write the line; *end* says which end finished it, and how."""
        if not access_log.isEnabledFor(logging.INFO):
            return
        secs = time.monotonic() - self.started
        words = ["id=%d client=%s" % (self.id, self.client)]
        if self.client.user is not None:
            words.append("user=%s" % quoted(self.client.user))
        if self.request is not None:
            words.append(self._asked(self.request))
        if self.via is not None:
            words.append("via=%s" % self.via[0])
        if self.rep is not None:
            words.append("rep=%r" % self.rep.phrase)
        if self.via is not None:
            words.append("up=%dB down=%dB" % (self.up, self.down))
        words.append("secs=%.3f end=%s" % (secs, end))
        if self.why:
            words.append("why=%r" % self.why)
        access_log.info("%s", " ".join(words))

    def _asked(self, request: Request) -> str:
        text = "ver=%d cmd=%s dst=%s" % (request.ver, Cmd(request.cmd).name, request.dst)
        if request.userid:
            text += " userid=%s" % quoted(request.userid)
        return text
