"""The embedding program's own decisions: who may come in, where to, and by which address.

All four are optional arguments of ``Proxy``.  They are plain callables, not
coroutines, and may take their time: they run in threads that nobody else needs,
up to a bound (``--max-handshakes``, ``resolver.MAX_THREADS``).  Several may
run at the same time, but for ``on_connection``.  What one of them raises, be it
SystemExit, is the program's bug: it is logged with its traceback, and the client
is refused (REP 01; 91).
"""

from typing import Any, Callable, Iterable, NamedTuple, Optional

from minisocks.compat import log_bug
from minisocks.errors import HookFailed, RefusedByRules
from minisocks.policy.client import Client
from minisocks.protocol.handshake import Request
from minisocks.record import Record
from minisocks.wire import Cmd, as_text

__all__ = [
    "Authenticate",
    "Authorize",
    "Hooks",
    "OnConnection",
    "ProxyRequest",
    "Resolve",
    "check_authorized",
    "ask_hook",
]


class ProxyRequest(NamedTuple):
    """What ``authorize`` is asked about."""

    #: Which client asks: ``client.host`` and ``client.port`` are its address, unless
    #: ``client.is_forwarded``.
    client: Client
    #: 4 or 5.
    ver: int
    #: As the RFC has it: ``"CONNECT"``.
    cmd: str
    #: A name, in small letters and without a final dot, or an IP address.  What
    #: the client wrote otherwise (``127.1``) is a name here; the addresses that it
    #: stands for are for the built-in rules to judge.  Of UDP_ASSOCIATE first where the
    #: client will send from, as it says, mostly 0.0.0.0 and 0; then each of its targets.
    #: Of BIND whom the client waits for; 0.0.0.0 or :: is anybody.
    host: str
    #: DST.PORT.
    port: int
    #: Who gave the right password, or whom ident confirmed; None without either.
    user: Optional[str]
    #: USERID of SOCKS4, which alone proves nothing; empty with SOCKS5.
    userid: str

    @classmethod
    def of(cls, client: Client, request: Request) -> "ProxyRequest":
        """Return what *client* wants, for programs."""
        user = None if client.user is None else as_text(client.user)
        dst, userid = request.dst, as_text(request.userid)
        cmd = Cmd(request.cmd).name
        return cls(client, int(request.ver), cmd, dst.name, dst.port, user, userid)


#: ``authenticate(user, password, client)``: whether this password (RFC 1929) is
#: right.  True or False; anything else is a bug, and nobody comes in by one.
#: With it clients need a password, as with ``user=``, and either may say yes.
#: What was no UTF-8 arrives with surrogates (``surrogateescape``).
#: Thread: a handler's.
Authenticate = Callable[[str, str, Client], bool]

#: ``authorize(request)``: whether this client may have what it asks for.  True or
#: False (REP 02; 91).  Asked once, when the built-in rules have let the client and
#: the name pass and nothing is resolved yet; what the rules say about the
#: addresses holds after a True, too.  Of UDP asked about the association, and about each
#: new target of it.  Thread: a handler's; about targets of UDP, one of the resolver's.
Authorize = Callable[[ProxyRequest], bool]

#: ``resolve(name)``: the IP addresses of a name, as text; one alone need not be in
#: a list.  None: ask the system, as without the hook.  Nothing in it, or OSError:
#: there is no such host (REP 04).  Never asked for what is an address already.
#: What it returns is held against the rules.  Thread: one of the resolver's, of
#: which there are 64.
Resolve = Callable[[str], Optional[Iterable[str]]]

#: ``on_connection(record)``: told of each connection that has ended and had said
#: something, one after another.  If it is slower than they come, 10 000 wait and
#: the oldest are dropped.  What it raises is logged.  It may call ``Proxy.stop``.
#: Thread: the reporter's.
OnConnection = Callable[[Record], None]


class Hooks(NamedTuple):
    """The four of one proxy."""

    authenticate: Optional[Authenticate] = None
    authorize: Optional[Authorize] = None
    resolve: Optional[Resolve] = None
    on_connection: Optional[OnConnection] = None

    def checked(self) -> "Hooks":
        """Return self if each can be called, and answers when it is.

        Raises:
            TypeError: one cannot, or is a coroutine function.
        """
        for name, hook in zip(self._fields, self):
            if hook is not None:
                import inspect  # not small, and for programs with hooks only

                inner = getattr(hook, "func", hook)  # of functools.partial
                method = type(inner).__call__ if callable(inner) else None
                if method is None or any(map(inspect.iscoroutinefunction, (inner, method))):
                    raise TypeError("%s takes a plain function, not %r" % (name, hook))
        return self


def ask_hook(name: str, client: Client, hook: Callable[..., bool], *args: Any) -> bool:
    """Return what the hook *name* says to *args*, for *client*.

    Raises:
        HookFailed: it raised, or said neither True nor False.  Logged here.
    """
    try:
        answer = hook(*args)
        if isinstance(answer, bool):
            return answer
        # Not by truth: a coroutine is true, and would let everybody in.
        raise TypeError("it returned %s, not True or False" % type(answer).__name__)
    except BaseException as exc:  # the program's bug, SystemExit too: fail closed, go on
        log_bug("client=%s the %s hook failed", client, name)
        raise HookFailed("the %s hook failed" % name) from exc


def check_authorized(hook: Authorize, request: ProxyRequest) -> None:
    """Go on if the program says yes to *request*.

    Raises:
        RefusedByRules: it says no.
        HookFailed: it does not say.
    """
    if not ask_hook("authorize", request.client, hook, request):
        raise RefusedByRules("refused by the authorize hook of the program")
