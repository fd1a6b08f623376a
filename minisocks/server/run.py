"""One run of a proxy, from ``start`` to ``stop``."""

import errno
import logging
import os
import threading
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple, Type

from minisocks.access import Access
from minisocks.config.settings import Config
from minisocks.net.job import Task
from minisocks.net.listener import Listener, open_listeners
from minisocks.net.loop import run_in
from minisocks.net.threads import is_own_thread
from minisocks.server.acceptor import Acceptor
from minisocks.server.server import SocksHandler, SocksServer
from minisocks.server.services import Services
from minisocks.values import ListenAddress

__all__ = ["Run"]

log = logging.getLogger("minisocks")


class _Endpoint(NamedTuple):
    """A listener, and the server that accepts from it."""

    listener: Listener
    server: SocksServer


#: By the text of ``--listen``.
_EndpointsByText = Dict[str, List[_Endpoint]]


class _Step:
    """A part of the end: of several threads, the first one does the work and the others wait.

    A thread of ours never waits, because the work may wait for that thread.  Thread: any.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        #: The thread that does the work; 0: none does yet.
        self.thread = 0
        #: Set when the work is done.
        self.done = threading.Event()

    def is_first(self) -> bool:
        """Return whether the calling thread is to do the work; if not, wait for it."""
        me = threading.get_ident()
        with self._mutex:
            is_first, self.thread = not self.thread, self.thread or me
        if self.thread != me and not is_own_thread():
            self.done.wait()
        return is_first


class Run:
    """Listeners, handler threads, loop and figures of one run.

    A proxy may be started again while a thread still waits for the end of its last run, so
    each run is an object.  Thread: any.
    """

    def __init__(
        self,
        services: Services,
        closes_resolver: bool,
        server_type: Type[SocksServer],
        handler_type: Type[SocksHandler],
    ) -> None:
        self.services = services
        self.journal = services.journal
        self._server_type, self._handler_type = server_type, handler_type
        try:
            self.acceptor = Acceptor(services)
        except BaseException:
            services.loop.stop()
            raise
        self._stopping, self._ending = _Step(), _Step()
        #: Set when everything is closed.
        self.ended = self._ending.done
        self._closes_resolver = closes_resolver
        self._pid = os.getpid()
        self._changing = threading.Lock()  # guards all below
        self._endpoints: _EndpointsByText = {}
        self._given: List[_Endpoint] = []
        #: Of each listener the address as text, and as ``getsockname`` returns it.
        self.bound: List[Tuple[str, Any]] = []
        #: The addresses that a forwarder connects to, as text.
        self.forwarded: List[str] = []

    def start(self, given: Sequence[Listener]) -> None:
        """Open the listeners of the settings, and serve them and those *given*.

        Raises:
            OSError, RuntimeError: as ``Proxy.start``.  The caller must still call
                ``stop_listening`` and ``end``.
        """
        services = self.services
        services.access.check_egress()
        config = services.access.config
        self._endpoints = self._open(config, config.listen, [item.place for item in given])
        self._given = [self._endpoint(item) for item in given]
        # Before the first client, because a hook may read them.
        self._note_bound()
        services.loop.start()
        self.acceptor.start(_servers(self._all_endpoints()))

    def change(self, access: Access) -> None:
        """Apply *access* from now on; connections go on.

        Listeners that are in old and new settings stay, others are closed and opened.

        Raises:
            ListenError, EgressError, OSError: an address or a route cannot be used; nothing has
                changed.
            RuntimeError: the run is being stopped, or belongs to another process.
        """
        access.check_egress()
        config = access.config
        if self._is_forked():
            raise RuntimeError("the proxy is in the process that has started it, not in a child")
        with self._changing:
            if not self.listens:
                raise RuntimeError("the proxy stops")
            gone = [text for text in self._endpoints if text not in config.listen]
            new = [text for text in config.listen if text not in self._endpoints]
            try:
                opened = self._open(config, new, self._places())
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE or not gone:
                    raise
                # 127.0.0.1:1080 must be closed before :1080 can be opened, say.
                opened = self._open_in_place_of(gone, config, new)
            left = {text: self._endpoints.pop(text) for text in gone if text in self._endpoints}
            removed = _flat(left)

            # Before ``adopt``, which checks waiting requests again.  Removed servers do not
            # change, because their last clients are still accepted.
            before = self.services.access.config
            for text, endpoints in self._endpoints.items():
                is_forwarded = config.is_forwarded(text)
                if is_forwarded != before.is_forwarded(text):
                    for endpoint in endpoints:
                        endpoint.server.is_forwarded = is_forwarded
            run_in(self.services.loop, lambda: self.services.adopt(access))
            self.acceptor.change(_servers(_flat(opened)), _servers(removed))
            _close(removed)
            known = {**self._endpoints, **opened}
            self._endpoints = {text: known[text] for text in config.listen}
            for endpoint in self._all_endpoints():
                endpoint.server.tune()
            self._note_bound()

    def _endpoint(self, listener: Listener, is_forwarded: bool = False) -> _Endpoint:
        parts = listener.sock, self.services, self._handler_type, self.acceptor
        server = self._server_type(*parts)
        if is_forwarded:  # else a program's subclass may have set it
            server.is_forwarded = True
        return _Endpoint(listener, server)

    def _open(
        self, config: Config, texts: Sequence[str], others: Sequence[ListenAddress]
    ) -> _EndpointsByText:
        """Open all *texts*, addresses of *config*, or none; *others* are open already."""
        opened: _EndpointsByText = {}
        there = list(others)
        try:
            for text in texts:
                found = open_listeners(ListenAddress.parse(text), there)
                there += [item.place for item in found]
                is_forwarded = config.is_forwarded(text)
                endpoints = [self._endpoint(item, is_forwarded) for item in found]
                opened.setdefault(text, []).extend(endpoints)
        except BaseException:
            _close(_flat(opened))
            raise
        return opened

    def _open_in_place_of(
        self, gone: Sequence[str], config: Config, new: Sequence[str]
    ) -> _EndpointsByText:
        """Close *gone* and open *new* of *config*; if that fails, open *gone* again."""
        removed = [endpoint for text in gone for endpoint in self._endpoints.pop(text)]
        self.acceptor.change([], _servers(removed))
        _close(removed)
        try:
            return self._open(config, new, self._places())
        except OSError:
            try:
                again = self._open(self.services.access.config, gone, self._places())
            except OSError as exc:
                log.error("no longer listening on %s: %s", ", ".join(gone), exc.strerror)
            else:
                self._endpoints.update(again)
                self.acceptor.change(_servers(_flat(again)), [])
            self._note_bound()
            raise

    def _all_endpoints(self) -> List[_Endpoint]:
        return _flat(self._endpoints) + self._given

    def _places(self) -> List[ListenAddress]:
        return [endpoint.listener.place for endpoint in self._all_endpoints()]

    def _note_bound(self) -> None:
        endpoints = self._all_endpoints()
        self.forwarded = [one.listener.address for one in endpoints if one.server.is_forwarded]
        listeners = [one.listener for one in endpoints]
        self.bound = [(one.address, one.sock.getsockname()) for one in listeners]

    @property
    def listens(self) -> bool:
        """Whether no thread has called ``stop_listening``."""
        return not self._stopping.thread

    def stop_listening(self) -> bool:
        """Accept no more, and end handshakes and BINDs; False if this thread is at it already."""
        step = self._stopping
        if not step.is_first():
            return step.thread != threading.get_ident() or step.done.is_set()
        try:
            if not self._is_forked():
                self.acceptor.stop()
                loop = self.services.loop
                loop.submit(Task(lambda: loop.tell_all("stop_listening"), loop.done))
        finally:  # also after a Ctrl-C, so that a second call finds the listeners closed
            with self._changing:
                _close(self._all_endpoints())
            step.done.set()
        return True

    def end(self) -> None:
        """End connections, threads and reports, after ``stop_listening``."""
        if not self._ending.is_first():
            return
        try:
            if not self._is_forked():
                self.services.loop.stop()
                if self._closes_resolver:
                    self.services.resolver.close()
                self.journal.close()
        finally:
            self.services.kernel.close()
            self.ended.set()

    def _is_forked(self) -> bool:
        """Return whether this process is a forked child of the one that has the threads.

        In the child there are no such threads, but the locks that they held stay locked.
        """
        return os.getpid() != self._pid


def _flat(by_text: _EndpointsByText) -> List[_Endpoint]:
    return [endpoint for endpoints in by_text.values() for endpoint in endpoints]


def _servers(endpoints: Sequence[_Endpoint]) -> List[SocksServer]:
    return [endpoint.server for endpoint in endpoints]


def _close(endpoints: Sequence[_Endpoint]) -> None:
    for endpoint in endpoints:
        endpoint.listener.close()
