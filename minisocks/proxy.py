"""The proxy as one object: listeners, handler threads, loop, lifecycle.

What an embedding program uses, and all that the command line uses.  Touches no
signals, no log handlers and nothing else that is the process's.
"""

import logging
import threading
from typing import Any, Callable, List, Optional, Tuple

from minisocks.listener import Listener, open_listeners
from minisocks.pool import HandlerPool
from minisocks.resolver import Resolver
from minisocks.server import SocksServer
from minisocks.session import Services
from minisocks.settings import Config
from minisocks.values import ListenAddress

__all__ = ["Proxy"]

log = logging.getLogger("minisocks")


class Proxy:
    """A SOCKS4, 4a and 5 proxy.

    ::

        with Proxy(Config(listen=("127.0.0.1:0",))) as proxy:
            print(proxy.addresses)

    Args:
        config: the settings; ``ConfigError`` if one of them cannot be used.
        listeners: sockets that are bound and listen already, besides those in
            ``config.listen``.
        resolver: who looks names up.

    Any thread may call; several may live in one process.
    """

    def __init__(
        self,
        config: Optional[Config] = None,
        listeners: Tuple[Any, ...] = (),
        resolver: Optional[Resolver] = None,
    ) -> None:
        self.config = (config or Config()).checked()
        self._given = [Listener(sock) for sock in listeners]
        self._resolver = resolver
        self._listeners: List[Listener] = []
        self._pool: Optional[HandlerPool] = None
        self._lifecycle = threading.RLock()  # start and stop, one at a time
        #: What its sessions share; there while it runs.
        self.services: Any = None

    def start(self) -> None:
        """Listen and serve; returns when clients can connect.

        Raises:
            ListenError: an address cannot be listened on; nothing was started.
            RoadError: targets can never be dialed as the settings say; likewise.
            RuntimeError: there is no room for a thread; likewise.  Or it has
                been started already, and goes on.
        """
        with self._lifecycle:
            if self.services is not None:
                raise RuntimeError("the proxy has been started already")
            try:
                self._start()
            except BaseException:
                self.stop()
                raise

    def stop(self, grace: float = 0.0) -> None:
        """Stop listening, give open connections *grace* seconds, end the rest.

        Returns when everything is closed.  Any number of times; a second call
        cuts the grace of the first short.
        """
        self.stop_listening()
        if grace > 0:
            empty = threading.Event()
            self.notify_when_empty(empty.set)
            empty.wait(grace)
        with self._lifecycle:
            if self.services is not None:
                self.services.loop.stop()
                self.services.resolver.close()
                self.services = None

    def stop_listening(self) -> None:
        """Accept no more, and end handshakes that are not finished."""
        with self._lifecycle:
            if self._pool is not None:
                self._pool.stop()
                self._pool = None
            for listener in self._listeners:
                listener.close()
            self._listeners = []

    def notify_when_empty(self, callback: Callable[[], None]) -> None:
        """Have *callback* called when no connection is left, or at the latest by ``stop``.

        Once listening has stopped.  It may be called more than once, in any
        thread, and must neither wait nor call ``stop``.
        """
        services = self.services
        if services is None:
            callback()
        else:
            services.loop.on_empty.append(callback)
            services.loop.wake()

    @property
    def addresses(self) -> List[str]:
        """Where it listens, real ports included, as ``--listen`` spells it."""
        return [listener.address for listener in self._listeners]

    def __len__(self) -> int:
        """Return how many connections are open, in whatever state."""
        services = self.services
        return len(services.loop) if services is not None else 0

    def __enter__(self) -> "Proxy":
        self.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        self.stop()

    def _start(self) -> None:
        for text in self.config.listen:
            self._listeners += open_listeners(ListenAddress.parse(text))
        self._listeners += self._given
        self.services = Services(self.config, self._resolver)
        self.services.road.check()
        self.services.loop.start()
        self._pool = pool = HandlerPool(self.services, self.config.max_handshakes)
        pool.start([SocksServer(item.sock, self.services, pool) for item in self._listeners])
