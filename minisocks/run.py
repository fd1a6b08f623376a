"""One run of a proxy: what ``start`` makes, and what is gone after ``stop``."""

import threading
from typing import Any, Callable, List, Sequence, Tuple

from minisocks.compat import is_own_thread
from minisocks.journal import Journal
from minisocks.listener import Listener, open_listeners
from minisocks.pool import HandlerPool
from minisocks.server import SocksServer
from minisocks.session import Services
from minisocks.values import ListenAddress

__all__ = ["Run"]


class Run:
    """Listeners, handler threads, loop and figures, from one start to its stop.

    A class because a proxy may be started again while somebody still waits for
    the end of its last run: who stops means the run that he saw.  Any thread,
    and several at once; one of them does the work, the others wait for it.  A
    thread of ours does not, since it may be the one that is waited for.
    """

    def __init__(self, services: Services, journal: Journal, closes_resolver: bool) -> None:
        self.services = services
        self.journal = journal
        try:
            self.pool = HandlerPool(services, services.config.max_handshakes)
        except BaseException:
            services.loop.stop()
            raise
        #: Address as text and as ``getsockname`` has it, of all its listeners.
        self.bound: List[Tuple[str, Any]] = []
        #: Set when all is closed.
        self.ended = threading.Event()
        self._closes_resolver = closes_resolver
        self._listeners: List[Listener] = []
        self._mutex = threading.Lock()  # guards the two below
        self._stopper = self._ender = 0
        self._deaf = threading.Event()

    def start(self, given: Sequence[Listener]) -> None:
        """Open the listeners of the settings, and serve them and those *given*.

        Raises:
            OSError, RuntimeError: as ``Proxy.start``; ``stop_listening`` and
                ``end`` it then, too.
        """
        services = self.services
        services.road.check()
        for text in services.config.listen:
            self._listeners += open_listeners(ListenAddress.parse(text))
        self._listeners += given
        # Before anybody is served: a hook may ask.
        self.bound = [(item.address, item.sock.getsockname()) for item in self._listeners]
        services.loop.start()
        servers = [SocksServer(item.sock, services, self.pool) for item in self._listeners]
        self.pool.start(servers)

    @property
    def listens(self) -> bool:
        """Whether nobody has told it to stop."""
        return not self._stopper

    def stop_listening(self) -> bool:
        """Accept no more, and end what is not connected; False if this thread does so already."""
        me = threading.get_ident()
        with self._mutex:
            is_first, self._stopper = not self._stopper, self._stopper or me
        if not is_first:
            if self._stopper != me and not is_own_thread():
                self._deaf.wait()
            return self._stopper != me or self._deaf.is_set()
        self.services.stopping = True
        self.pool.stop()
        for listener in self._listeners:
            listener.close()
        self._deaf.set()
        return True

    def end(self) -> None:
        """End connections, threads and reports; listening has stopped."""
        me = threading.get_ident()
        with self._mutex:
            is_first, self._ender = not self._ender, self._ender or me
        if not is_first:
            if self._ender != me and not is_own_thread():
                self.ended.wait()
            return
        self.services.loop.stop()
        if self._closes_resolver:
            self.services.resolver.close()
        self.journal.close()
        self.ended.set()

    def notify_when_empty(self, callback: Callable[[], None]) -> None:
        """Have *callback* called when no connection is left, at once if it has ended."""
        self.services.loop.notify_when_empty(callback)
