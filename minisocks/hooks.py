"""Decisions of the embedding program: authentication, authorization, name resolution.

All four hooks are optional arguments of ``Proxy``.  They are plain callables, not coroutines.  They
may block: they run in threads of their own, up to a limit (``--max-handshakes``,
``resolver.MAX_THREADS``).  Several may run at the same time, except ``on_connection``.  An
exception in one of them, even SystemExit, is a bug of the program: it is logged with its
traceback, and the client is refused (REP 01; 91).
"""

from typing import Any, Callable, Container, Iterable, NamedTuple, Optional, Tuple, Union

from minisocks.compat import log_bug
from minisocks.errors import HookFailed, RefusedByRules
from minisocks.policy.client import Client
from minisocks.policy.exits import DIRECT
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
    """The request that ``authorize`` decides about."""

    #: The client; ``client.host`` and ``client.port`` are its address, unless
    #: ``client.is_forwarded``.
    client: Client
    #: 4 or 5.
    ver: int
    #: CMD in the words of the RFC: ``"CONNECT"``; of Tor's look-ups ``"RESOLVE"`` (``host`` is a
    #: name) and ``"RESOLVE_PTR"`` (it is an address), whose port is 0.
    cmd: str
    #: A name in lower case and without a final dot, or an IP address.  An address in another form
    #: (``127.1``) is a name here; the built-in rules decide about the addresses of names.
    #: UDP_ASSOCIATE: first the address that the client will send from, by its own words, mostly
    #: 0.0.0.0 and port 0; then each target.  BIND: the expected peer; 0.0.0.0 or :: is any.
    host: str
    #: DST.PORT.
    port: int
    #: The user whose password was right, or that ident confirmed; None without either.
    user: Optional[str]
    #: USERID of SOCKS4, which proves nothing by itself; empty with SOCKS5.
    userid: str

    @classmethod
    def of(cls, client: Client, request: Request) -> "ProxyRequest":
        """Return *request* of *client*, for a hook."""
        user = None if client.user is None else as_text(client.user)
        dst, userid = request.dst, as_text(request.userid)
        cmd = Cmd(request.cmd).name
        return cls(client, int(request.ver), cmd, dst.name, dst.port, user, userid)


#: ``authenticate(user, password, client)``: whether this password (RFC 1929) is right.  True or
#: False; anything else is a bug, and the client is refused.  With this hook clients need a
#: password, as with ``user=``; if both are there, either may accept it.  Bytes that are not UTF-8
#: become surrogates (``surrogateescape``).  Thread: a handler.
Authenticate = Callable[[str, str, Client], bool]

#: ``authorize(request)``: whether the request is allowed.  True or False (REP 02; 91); or, which
#: also allows it, the name of the exit by which it leaves: one of ``exits=``, or ``"direct"``.
#: Called once, after the built-in rules have allowed the client and the name, and before the name
#: is resolved; the rules about addresses apply after True, too.  For UDP it is called for the
#: association and for each new target.  Thread: a handler; for targets of UDP, one of the resolver.
Authorize = Callable[[ProxyRequest], Union[bool, str]]

#: ``resolve(name)``: the IP addresses of a name, as text; a single one need not be in a list.
#: None: the system resolves it, as without the hook.  An empty list, or OSError: there is no such
#: host (REP 04).  Not called for addresses.  The rules are applied to what it returns.  Thread: one
#: of the 64 of the resolver.
Resolve = Callable[[str], Optional[Iterable[str]]]

#: ``on_connection(record)``: called for each connection that has ended and whose client had sent
#: something, one at a time.  At most 10 000 records wait; then the oldest are dropped.
#: Exceptions are logged.  It may call ``Proxy.stop``.  Thread: the reporter.
OnConnection = Callable[[Record], None]


class Hooks(NamedTuple):
    """The hooks of one proxy."""

    authenticate: Optional[Authenticate] = None
    authorize: Optional[Authorize] = None
    resolve: Optional[Resolve] = None
    on_connection: Optional[OnConnection] = None

    def checked(self) -> "Hooks":
        """Return self.

        Raises:
            TypeError: a hook cannot be called, or is a coroutine function.
        """
        for name, hook in zip(self._fields, self):
            if hook is not None:
                import inspect  # not small, and for programs with hooks only

                inner = getattr(hook, "func", hook)  # of functools.partial
                method = type(inner).__call__ if callable(inner) else None
                if method is None or any(map(inspect.iscoroutinefunction, (inner, method))):
                    raise TypeError("%s takes a plain function, not %r" % (name, hook))
        return self


def ask_hook(
    name: str,
    client: Client,
    hook: Callable[..., Union[bool, str]],
    *args: Any,
    texts: Container[str] = (),
) -> Union[bool, str]:
    """Call the hook *name* with *args* for *client*; return its answer.

    Args:
        texts: the texts that it may return instead of True.

    Raises:
        HookFailed: it raised, or returned neither True nor False nor one of *texts*.  Logged here.
    """
    try:
        answer = hook(*args)
        if isinstance(answer, bool) or (isinstance(answer, str) and answer in texts):
            return answer
        if isinstance(answer, str):
            raise TypeError("it returned %r, which is no exit" % answer)
        # Truth is not enough: a coroutine is true, and would admit every client.
        raise TypeError("it returned %s, not True or False" % type(answer).__name__)
    except BaseException as exc:  # a bug of the program, SystemExit too: refuse, continue
        log_bug("client=%s the %s hook failed", client, name)
        raise HookFailed("the %s hook failed" % name) from exc


def check_authorized(
    hook: Authorize, request: ProxyRequest, exits: Iterable[str] = ()
) -> Optional[Tuple[str, ...]]:
    """Ask *hook* whether *request* is allowed; return the exits that it chooses.

    None: those of the rules count.  Empty: the request leaves directly.

    Args:
        exits: the names of exits that there are, without ``direct``.

    Raises:
        RefusedByRules: it is not.
        HookFailed: as ``ask_hook``.
    """
    answer = ask_hook("authorize", request.client, hook, request, texts=(DIRECT, *exits))
    if answer is False:
        raise RefusedByRules("refused by the authorize hook of the program")
    if answer is True:
        return None
    return () if answer == DIRECT else (str(answer),)
