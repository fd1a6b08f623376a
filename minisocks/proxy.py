"""The proxy as one object, for embedding programs and the command line.

Does not touch signals, log handlers, or anything else that belongs to the process.
"""

import logging
import threading
from types import MappingProxyType
from typing import Any, Callable, List, Mapping, Optional, Tuple, Type, TypeVar

from minisocks.access import Access
from minisocks.compat import tame_traceback
from minisocks.config.settings import Config
from minisocks.hooks import Authenticate, Authorize, Hooks, OnConnection, Resolve
from minisocks.net.listener import Listener
from minisocks.net.lookup import getaddrinfo_of
from minisocks.net.resolver import Resolver
from minisocks.record import Record, Stats
from minisocks.server.journal import Journal
from minisocks.server.run import Run
from minisocks.server.server import SocksHandler, SocksServer
from minisocks.server.services import Services
from minisocks.values import ListenAddress

__all__ = ["Proxy"]

log = logging.getLogger("minisocks")
# Without it Python prints warnings to stderr where a program has set up no log.
log.addHandler(logging.NullHandler())
log.addFilter(tame_traceback)

#: Longest delay of a signal in ``serve_forever``.
SIGNAL_SECONDS = 1.0

_AnyProxy = TypeVar("_AnyProxy", bound="Proxy")


class Proxy:
    """A SOCKS4, 4a and 5 proxy.

    ::

        with Proxy(listen="127.0.0.1:0") as proxy:
            print(proxy.url)

    Args:
        config: the settings as a ``Config``.  Or write them as keywords with their names in
            ``Config`` (``listen=``, ``user=``, ``connect_timeout=``...).
        listeners: sockets that are bound and listen already, besides those in ``listen``.
            ``stop`` closes them.
        resolver: looks names up, instead of ``resolve``; stays the caller's.
        authenticate: ``(user: str, password: str, client: Client) -> bool``: whether a password
            is right; see ``hooks.Authenticate``.
        authorize: ``(request: ProxyRequest) -> bool``: whether a request is allowed; see
            ``hooks.Authorize``.
        resolve: ``(name: str) -> Optional[Iterable[str]]``: the IP addresses of a name, None to
            ask the system; see ``hooks.Resolve``.
        on_connection: ``(record: Record) -> None``: called for each connection that has ended;
            see ``hooks.OnConnection``.
        keep_records: how many records ``records`` holds, about 0.75 KiB each; 0 for none.
        exits: ways out by name, as ``--exit`` has them: ``{"office": "socks5h://10.0.0.1:1080"}``.

    Raises:
        ConfigError: a setting has a value that cannot be used.
        TypeError: there is no such setting; both a config and keywords; a hook is not a plain
            function.

    Thread: any.  A process may have several proxies, which share nothing.
    """

    #: The classes of listeners and handlers; a subclass may have its own.
    server_type: Type[SocksServer] = SocksServer
    handler_type: Type[SocksHandler] = SocksHandler

    def __init__(
        self,
        config: Optional[Config] = None,
        listeners: Tuple[Any, ...] = (),
        resolver: Optional[Resolver] = None,
        *,
        authenticate: Optional[Authenticate] = None,
        authorize: Optional[Authorize] = None,
        resolve: Optional[Resolve] = None,
        on_connection: Optional[OnConnection] = None,
        keep_records: int = 1000,
        exits: Mapping[str, str] = MappingProxyType({}),
        **settings: Any,
    ) -> None:
        if config is not None and not isinstance(config, Config):
            raise TypeError("config is a Config; write listen=%r" % (config,))
        if config is not None and settings:
            raise TypeError(
                "a config and keywords (%s): give one of them" % ", ".join(sorted(settings))
            )
        if exits:
            if config is not None or "exit" in settings:
                raise TypeError("exits= is for keywords without exit=: give one of them")
            settings["exit"] = ["%s = %s" % item for item in exits.items()]
        if resolver is not None and resolve is not None:
            raise TypeError("resolver= and resolve= exclude each other: give one of them")
        self.config = config.checked() if config is not None else Config.of(**settings)
        self._given = [Listener(sock) for sock in listeners]
        self._resolver = resolver
        if keep_records < 0:
            raise ValueError("keep_records is a count, not %r" % keep_records)
        self._hooks = Hooks(authenticate, authorize, resolve, on_connection).checked()
        self._keep_records = keep_records
        self._lifecycle = threading.RLock()  # guards the two below
        #: The run that goes on, and the last one there was.
        self._run: Optional[Run] = None
        self._last: Optional[Run] = None

    def start(self) -> None:
        """Listen and serve; returns when clients can connect.

        After ``stop`` it may be called again: with new ports, figures, and records.

        Raises:
            ConfigError: a file that the settings name (users, a list of a rule) cannot be
                read, or a line in it cannot be used.
            ListenError: an address cannot be listened on.
            EgressError: this host cannot dial targets in the way that the settings want.
            OSError: there are no descriptors left.
            RuntimeError: no thread can be started.  Or the proxy has been started already, and
                goes on.  Or ``listeners`` were given, and the last ``stop`` has closed them.
        """
        with self._lifecycle:
            if self._run is not None:
                raise RuntimeError("the proxy has been started already")
            if any(listener.sock.fileno() < 0 for listener in self._given):
                raise RuntimeError("the sockets given to this proxy are closed: make a new one")
            run, before = self._make_run(), self._last
            # Now, because a hook may read ``port`` before this returns.
            self._last = run
            try:
                run.start(self._given)
            except BaseException:
                self._last = before
                run.stop_listening()
                run.end()
                raise
            self._run = run

    def reload(self, config: Config) -> None:
        """Apply *config* from now on; connections go on.  After an error nothing has changed.

        Listeners that are in old and new settings stay, others are closed and opened.  Requests
        that wait are refused if users or rules do not allow them any more.  A stopped proxy
        uses *config* at the next ``start``.  Do not call it in a hook.

        Raises:
            ConfigError: a setting has a value that cannot be used, or a file that it names
                cannot be read.
            ListenError, EgressError, OSError: as ``start``.
            RuntimeError: the proxy is being stopped.
        """
        self.prepare(config)()

    def prepare(self, config: Config) -> Callable[[], None]:
        """Read the files that *config* names; return a function that does the rest of ``reload``.

        So the reading, which may be slow, delays neither ``stop`` nor the thread that calls the
        function.

        Raises:
            ConfigError: as ``reload``.
        """
        config = config.checked()
        read_for = self._run
        access = self._access(config, read_for)

        def adopt() -> None:
            with self._lifecycle:
                run = self._run
                if run is not None:
                    # A run that was started meanwhile has a kernel socket of its own.
                    run.change(access if run is read_for else self._access(config, run))
                self.config = config

        return adopt

    def _access(self, config: Config, run: Optional[Run]) -> Access:
        kernel = None if run is None else run.services.kernel
        return Access.of(config, self._hooks, kernel)

    def stop(self, grace: float = 0.0) -> None:
        """Stop listening, give open connections *grace* seconds, end the rest.

        Returns when everything is closed and ``on_connection`` has been called for all.  Waits
        at most 5 s for hooks of each kind that do not return.  Any number of times, also in a
        hook; a second call ends the grace of the first.  A run that was started meanwhile goes
        on.

        Do not call it in a signal handler, which may run in the middle of ``start``: set an
        ``Event`` there that the program waits for.
        """
        grace = float(grace)
        with self._lifecycle:
            run = self._run
        if run is None or not run.stop_listening():
            return
        if grace > 0:
            empty = threading.Event()
            run.services.loop.notify_when_empty(empty.set)
            empty.wait(min(grace, threading.TIMEOUT_MAX))
        with self._lifecycle:
            if self._run is run:
                self._run = None
        run.end()

    def serve_forever(self) -> None:
        """Serve until another thread, or a hook, calls ``stop``; start before if necessary.

        KeyboardInterrupt, or another error that is raised in this thread, stops the proxy and is
        raised again.  TERM is not handled: it ends the program.

        Raises:
            ListenError, RuntimeError: as ``start``.
        """
        try:
            with self._lifecycle:
                if self._run is None:
                    self.start()
                run = self._run
            assert run is not None
            # In steps, because a Ctrl-C just before a wait, and on Windows any, is seen at its end.
            while not run.ended.wait(SIGNAL_SECONDS):
                pass
        except BaseException:
            self.stop()
            raise

    def stop_listening(self) -> None:
        """Accept no more, and end unfinished handshakes and BINDs that wait."""
        run = self._run
        if run is not None:
            run.stop_listening()

    def notify_when_empty(self, callback: Callable[[], None]) -> None:
        """Call *callback* when no connection is left after ``stop_listening``; at last in ``stop``.

        It may be called more than once, in any thread, and must neither wait nor call ``stop``.
        """
        run = self._run
        if run is None:
            callback()
        else:
            run.services.loop.notify_when_empty(callback)

    @property
    def services(self) -> Optional[Services]:
        """What its clients share; None unless it runs."""
        run = self._run
        return None if run is None else run.services

    @property
    def addresses(self) -> List[str]:
        """The addresses that it listens on, with real ports, in the form of ``--listen``."""
        run = self._run
        return [text for text, _name in run.bound] if run is not None and run.listens else []

    @property
    def forwarded(self) -> List[str]:
        """The part of ``addresses`` that a forwarder connects to."""
        run = self._run
        return run.forwarded if run is not None and run.listens else []

    @property
    def address(self) -> str:
        """The first of ``addresses``, as ``"127.0.0.1:43210"``.

        This and the properties below keep their values after ``stop``, as in ``socketserver``.

        Raises:
            RuntimeError: it has not been started.
        """
        return self._bound()[0][0]

    @property
    def server_address(self) -> Tuple[str, int]:
        """Host and port of the first listener that has a port, as in ``socketserver``.

        Raises:
            RuntimeError: it has not been started, or listens on unix sockets only.
        """
        for _text, name in self._bound():
            if isinstance(name, tuple):
                return name[0], name[1]
        raise RuntimeError("the proxy has no port: it listens on %s" % self.address)

    @property
    def host(self) -> str:
        """The host of ``server_address``; ``"0.0.0.0"`` means every address."""
        return self.server_address[0]

    @property
    def port(self) -> int:
        """The port of ``server_address``; the real one if the setting is 0."""
        return self.server_address[1]

    @property
    def url(self) -> str:
        """The URL for a client on this host, as ``"socks5h://127.0.0.1:43210"``.

        With the h the proxy looks names up.  Without user and password.

        Raises:
            RuntimeError: as ``server_address``.
        """
        return "socks5h://" + str(ListenAddress(*self.server_address).for_clients())

    @property
    def records(self) -> List[Record]:
        """The last ``keep_records`` connections, oldest first; a new list.

        Each is there before its client gets the reply, and counts while it is open.  They stay
        after ``stop``, until the next ``start``.
        """
        return self._last.journal.records if self._last is not None else []

    @property
    def live(self) -> List[Record]:
        """The connections whose targets are connected now, oldest first; a new list."""
        return self._last.journal.live if self._last is not None else []

    def stats(self) -> Stats:
        """Return the figures since ``start``.  They stay after ``stop``."""
        run = self._last
        if run is None:
            return Stats(0.0, 0, 0, 0, {}, 0, 0, 0, 0, 0, 0)
        if self._run is not run:
            return run.journal.stats(0)
        services = run.services
        table = services.associations
        counts = len(self), len(services.pending), run.acceptor.threads, len(table)
        return run.journal.stats(*counts, table.upstreams)

    def __len__(self) -> int:
        """Return how many connections are open, unfinished handshakes included."""
        run = self._run
        return len(run.services.loop) + len(run.services.pending) if run is not None else 0

    def __bool__(self) -> bool:
        """Return True, also without connections."""
        return True

    def __repr__(self) -> str:
        return "<Proxy on %s>" % (", ".join(self.addresses) or "no address yet")

    def __enter__(self: "_AnyProxy") -> "_AnyProxy":
        self.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        self.stop()

    def _bound(self) -> List[Tuple[str, Any]]:
        run = self._run or self._last
        if run is None or not run.bound:
            raise RuntimeError("the proxy does not listen: start it first")
        return run.bound

    def _make_run(self) -> Run:
        resolver, hooks = self._resolver, self._hooks
        journal = Journal(self._keep_records, hooks.on_connection)
        if hooks.resolve is not None:
            resolver = Resolver(getaddrinfo_of(hooks.resolve), waits_when_closed=True)
        elif hooks.authorize is not None and resolver is None:
            resolver = Resolver(waits_when_closed=True)  # its threads ask the hook about datagrams
        services = Services(self.config, resolver, hooks, journal)
        return Run(services, self._resolver is None, self.server_type, self.handler_type)
