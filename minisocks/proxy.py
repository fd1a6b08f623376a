"""The proxy as one object: listeners, loop, handler threads, lifecycle.

What an embedding program uses, and all that the command line uses.  Touches no
signals, no log handlers and nothing else that is the process's.
"""

import logging
import threading
from typing import Any, Callable, List, Optional, Tuple, Type, TypeVar

from minisocks.access import Access
from minisocks.compat import tame_traceback
from minisocks.config.settings import Config
from minisocks.hooks import (
    Authenticate,
    Authorize,
    Hooks,
    OnConnection,
    Resolve,
)
from minisocks.net.listener import Listener
from minisocks.net.lookup import getaddrinfo_of
from minisocks.net.resolver import Resolver
from minisocks.record import Record
from minisocks.server.journal import Journal
from minisocks.server.run import Run
from minisocks.server.server import SocksHandler, SocksServer
from minisocks.server.services import Services
from minisocks.stats import Stats
from minisocks.values import ListenAddress

__all__ = ["Proxy"]

log = logging.getLogger("minisocks")
# Else Python writes the warnings of a program that has no log to its stderr.
log.addHandler(logging.NullHandler())
log.addFilter(tame_traceback)

#: How late ``serve_forever`` may hear of a signal.
SIGNAL_SECONDS = 1.0

_AnyProxy = TypeVar("_AnyProxy", bound="Proxy")


class Proxy:
    """A SOCKS4, 4a and 5 proxy.

    ::

        with Proxy(listen="127.0.0.1:0") as proxy:
            print(proxy.url)

    Args:
        config: the settings as a ``Config``; or write them as keywords, by their
            names in ``Config`` (``listen=``, ``user=``, ``connect_timeout=``...).
        listeners: sockets that are bound and listen already, besides those in
            ``listen``.  ``stop`` closes them.
        resolver: who looks names up, instead of ``resolve``; stays the caller's.
        authenticate: ``(user: str, password: str, client: Client) -> bool``:
            whether a password is right; see ``hooks.Authenticate``.
        authorize: ``(request: ProxyRequest) -> bool``: whether a client may have
            what it asks for; see ``hooks.Authorize``.
        resolve: ``(name: str) -> Optional[Iterable[str]]``: the IP addresses of a
            name, None to ask the system; see ``hooks.Resolve``.
        on_connection: ``(record: Record) -> None``: told of each connection that
            has ended; see ``hooks.OnConnection``.
        keep_records: how many of the last ``records`` holds, about 0.75 KiB each;
            0 for none.

    Raises:
        ConfigError: a setting has a value that cannot be used.
        TypeError: there is no such setting; settings in both ways; a hook that is
            no plain function.

    Thread: any.  Several may live in one process, and share nothing.
    """

    #: What accepts for a listener, and what serves a client; a subclass may put its own here.
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
        **settings: Any,
    ) -> None:
        if config is not None and not isinstance(config, Config):
            raise TypeError("config is a Config; write listen=%r" % (config,))
        if config is not None and settings:
            raise TypeError("a config and settings of their own (%s)" % ", ".join(sorted(settings)))
        if resolver is not None and resolve is not None:
            raise TypeError("a resolver and a resolve hook: which one?")
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

        After ``stop`` it may be called again, and everything begins anew:
        ports, figures, records.

        Raises:
            ConfigError: a file that the settings name (users, a list of a rule) cannot be
                read, or used; nothing was started.
            ListenError: an address cannot be listened on; likewise.
            RoadError: targets can never be dialed as the settings say; likewise.
            OSError: there are no descriptors left; likewise.
            RuntimeError: there is no room for a thread; likewise.  Or it has
                been started already, and goes on.  Or ``listeners`` were given,
                and the last ``stop`` has closed them.
        """
        with self._lifecycle:
            if self._run is not None:
                raise RuntimeError("the proxy has been started already")
            if any(listener.sock.fileno() < 0 for listener in self._given):
                raise RuntimeError("the sockets given to this proxy are closed: make a new one")
            run, before = self._make_run(), self._last
            # Now, because a hook may ask for the port before all is started.
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
        """Go by *config* from now on, without touching connections; all or nothing.

        Listeners that are in both stay, others are opened and closed.  What has been asked for
        and not granted yet ends, if users or rules do not allow it any more.  Unless it runs,
        the next start goes by it.  Not in a hook.

        Raises:
            ConfigError: a setting has a value that cannot be used, or a file that it names
                cannot be read; nothing has changed.
            ListenError, RoadError, OSError: something cannot be had; likewise.
            RuntimeError: it is being stopped.
        """
        self.prepare(config)()

    def prepare(self, config: Config) -> Callable[[], None]:
        """Read the files that *config* names; return what does the rest of ``reload``.

        So the reading, which may take long, delays neither ``stop`` nor the thread that
        goes on with the change.

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
                    # One that has been started meanwhile asks its own kernel socket.
                    run.change(access if run is read_for else self._access(config, run))
                self.config = config

        return adopt

    def _access(self, config: Config, run: Optional[Run]) -> Access:
        kernel = None if run is None else run.services.kernel
        return Access.of(config, self._hooks, kernel)

    def stop(self, grace: float = 0.0) -> None:
        """Stop listening, give open connections *grace* seconds, end the rest.

        Returns when everything is closed and ``on_connection`` has heard of it.
        Hooks that do not return are waited for 5 s of each kind.  Any number of
        times, and from a hook, too; a second call cuts the grace of the first
        short.  What has been started again meanwhile goes on.

        Not in a signal handler, which may run in the middle of ``start``: set an
        ``Event`` there that the program waits for.
        """
        grace = float(grace)
        with self._lifecycle:
            run = self._run
        if run is None or not run.stop_listening():
            return
        if grace > 0:
            empty = threading.Event()
            run.notify_when_empty(empty.set)
            empty.wait(min(grace, threading.TIMEOUT_MAX))
        with self._lifecycle:
            if self._run is run:
                self._run = None
        run.end()

    def serve_forever(self) -> None:
        """Serve until another thread, or a hook, calls ``stop``; start if need be.

        Ctrl-C, or whatever else is raised in this thread, stops it and goes on.
        Not a signal handler: TERM ends a program as it would without a proxy.

        Raises:
            ListenError, RuntimeError: as ``start``.
        """
        try:
            with self._lifecycle:
                if self._run is None:
                    self.start()
                run = self._run
            assert run is not None
            # Not for ever at once: a Ctrl-C just before the wait begins would only
            # be seen at its end, and on Windows every one.
            while not run.ended.wait(SIGNAL_SECONDS):
                pass
        except BaseException:
            self.stop()
            raise

    def stop_listening(self) -> None:
        """Accept no more, and end handshakes that are not finished."""
        run = self._run
        if run is not None:
            run.stop_listening()

    def notify_when_empty(self, callback: Callable[[], None]) -> None:
        """Have *callback* called when no connection is left, or at the latest by ``stop``.

        Once listening has stopped.  It may be called more than once, in any
        thread, and must neither wait nor call ``stop``.
        """
        run = self._run
        if run is None:
            callback()
        else:
            run.notify_when_empty(callback)

    @property
    def services(self) -> Optional[Services]:
        """What its sessions share; None unless it runs."""
        run = self._run
        return None if run is None else run.services

    @property
    def addresses(self) -> List[str]:
        """Where it listens, real ports included, as ``--listen`` spells it."""
        run = self._run
        return [text for text, _name in run.bound] if run is not None and run.listens else []

    @property
    def forwarded(self) -> List[str]:
        """Those of ``addresses`` that a forwarder connects to."""
        run = self._run
        return run.forwarded if run is not None and run.listens else []

    @property
    def address(self) -> str:
        """The first of ``addresses``, as ``"127.0.0.1:43210"``.

        This and those below stay after ``stop``, as a socketserver's do.

        Raises:
            RuntimeError: it has not been started.
        """
        return self._bound()[0][0]

    @property
    def server_address(self) -> Tuple[str, int]:
        """Host and port of the first listener that has a port, as ``socketserver`` has it.

        Raises:
            RuntimeError: it has not been started, or listens on unix sockets only.
        """
        for _text, name in self._bound():
            if isinstance(name, tuple):
                return name[0], name[1]
        raise RuntimeError("the proxy has no port: it listens on %s" % self.address)

    @property
    def host(self) -> str:
        """The host of ``server_address``, as it listens: ``"0.0.0.0"`` is every address."""
        return self.server_address[0]

    @property
    def port(self) -> int:
        """The port of ``server_address``: the real one, also where 0 was asked for."""
        return self.server_address[1]

    @property
    def url(self) -> str:
        """What a client on this host is told, as ``"socks5h://127.0.0.1:43210"``.

        The h leaves names to the proxy, which is where they belong.  Without user
        and password.

        Raises:
            RuntimeError: as ``server_address``.
        """
        return "socks5h://" + str(ListenAddress(*self.server_address).for_clients())

    @property
    def records(self) -> List[Record]:
        """The last ``keep_records`` connections, oldest first: a new list each time.

        Each is there before its client hears the answer, and goes on counting
        while it lives.  Stays after ``stop``, until the next ``start``.
        """
        return self._last.journal.records if self._last is not None else []

    @property
    def live(self) -> List[Record]:
        """The connections whose targets are connected now, oldest first: a new list each time."""
        return self._last.journal.live if self._last is not None else []

    def stats(self) -> Stats:
        """Return what it has done since ``start``.  Stays after ``stop``."""
        run = self._last
        if run is None:
            return Stats(0.0, 0, 0, 0, {}, 0, 0, 0, 0, 0, 0)
        if self._run is not run:
            return run.journal.stats(0)
        services = run.services
        counts = len(self), len(services.pending), run.acceptor.threads, len(services.associations)
        return run.journal.stats(*counts)

    def __len__(self) -> int:
        """Return how many connections are open, in whatever state.

        Unfinished handshakes are among them.
        """
        run = self._run
        return len(run.services.loop) + len(run.services.pending) if run is not None else 0

    def __bool__(self) -> bool:
        """Return True: a proxy without connections is one, too."""
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
        journal = Journal(self._keep_records, self._hooks.on_connection)
        resolver, hooks = self._resolver, self._hooks
        if hooks.resolve is not None:
            resolver = Resolver(getaddrinfo_of(hooks.resolve), waits_when_closed=True)
        elif hooks.authorize is not None and resolver is None:
            resolver = Resolver(waits_when_closed=True)  # it is asked there about datagrams
        services = Services(self.config, resolver, self._hooks, journal)
        types = self.server_type, self.handler_type
        return Run(services, journal, self._resolver is None, *types)
