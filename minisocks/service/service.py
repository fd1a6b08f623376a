"""The process: pidfile, background, log, proxy, control channel, signals, reloads.  No click."""

import logging
import os
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from minisocks.access import Access
from minisocks.config.layers import Layered
from minisocks.config.settings import SETTINGS, Config
from minisocks.errors import ListenError, ServiceError
from minisocks.net.capacity import Room, find_room, raise_descriptor_limit
from minisocks.net.lookup import own_ipv4
from minisocks.net.processor import AUTO
from minisocks.net.threads import start_thread
from minisocks.proxy import Proxy
from minisocks.quoting import reason_of
from minisocks.service import announce, console
from minisocks.service.commands import change_told, explained_by_process
from minisocks.service.control import Answer
from minisocks.service.ensure import take_over
from minisocks.service.location import locate
from minisocks.service.logs import Log, open_outputs
from minisocks.service.pidfile import Pidfile, has_pidfiles
from minisocks.service.presence import Presence
from minisocks.service.signals import Order, Signals, ignores_hangup
from minisocks.service.status import collect
from minisocks.values import ListenAddress

__all__ = ["Reloads", "Service"]

log = logging.getLogger("minisocks")

#: Settings after whose change the log is opened again.
_OF_LOG = ("log_file", "syslog", "log_format")

#: Puts settings that have been read in force, and waits for no file.  Returns lists of names:
#: "changed", "read" (files) and "restart" (what only a restart changes).
Change = Callable[[], Dict[str, List[str]]]


class Service:
    """One run of the program, from its settings to its end.  Main thread.

    A class because it remembers which settings are in force, and whether it serves, drains or
    stops.

    Args:
        chosen: the settings.
        read: reads them again.  Its arguments: the directory in which relative paths begin, and
            a function that is called with warnings.
    """

    def __init__(
        self, chosen: Layered, read: Callable[[str, Callable[[str], None]], Layered]
    ) -> None:
        self._read = read
        self._home = console.working_directory()
        #: The settings as they were written, and as they are in force.
        self._asked = self._config = chosen.config
        self._of_files = chosen.of_files
        #: Prints warnings; once it serves, logs them.
        self._warn = console.warn
        self._state = "serving"
        self._until = float("inf")
        self._is_empty = threading.Event()
        self._had_terminal = False
        self._presence = Presence(lambda sentence: self._warn(sentence), self._carry_out)
        self._orders = Signals(
            {
                "stop": self._stop,
                "reload": self._hang_up,
                "report": self._report,
                "look": self._presence.note_removal,
            }
        )
        self._reloads = Reloads(self._read_change, self._orders.give)

    def run(self, ensure: bool = False) -> None:
        """Serve until an order to stop.  *ensure*: in the background, unless a process does so.

        Raises:
            MinisocksError, OSError, RuntimeError: it could not serve.
        """
        config, note = self._config, ""
        is_in_background = config.daemon or ensure
        if is_in_background and not console.can_detach():
            raise ServiceError(console.NO_BACKGROUND)
        if is_in_background or config.pidfile:
            pidfile, address = self._own_pidfile()
            ours, note = _claim(pidfile, address, ensure)
            if not ours:
                return
            self._presence.add(pidfile)
        if is_in_background:
            self._config = config = self._absolute(config)._replace(daemon=True)
            console.detach(self._presence.descriptors())
        # Asked in the background, where there is none. After nohup, HUP is no order to stop.
        self._had_terminal = console.has_terminal() and not ignores_hangup()
        try:
            # Before another process can read its number, and until the end.
            with self._orders:
                self._serve(config, note, says_nothing=ensure)
        finally:
            # Before a command such as stop returns, because another start may follow.
            self._presence.release()

    def _serve(self, config: Config, note: str, says_nothing: bool) -> None:
        self._presence.write()
        self._descriptors = raise_descriptor_limit()
        self._proxy = Proxy(self._fitted(config), keep_records=0)
        self._log = Log(config)
        room = find_room(self._descriptors, config.max_handshakes)
        self._log.start(config)
        try:
            if note:
                log.warning("%s", note)
            try:
                self._proxy.start()
            except ListenError as exc:
                raise explained_by_process(exc, config.listen[0]) from exc
            self._orders.serve()
            self._keep_pidfile()
            # Only now that clients are served, because a name server may take its time.
            problem = self._log.problem()
            if problem:
                console.warn("log lines are lost: %s" % problem)
            is_elsewhere = config.daemon or config.log_file or config.syslog
            for line in self._announced(room):
                if not says_nothing:
                    console.say(*line)
                if is_elsewhere:
                    log.info("%s", " ".join(line))
            console.finish(0)
            self._warn = _warn_in_log
            self._follow_orders()
        finally:
            self._proxy.stop()
            self._log.close()

    def _announced(self, room: Room) -> List[Tuple[str, str]]:
        services = self._proxy.services
        assert services is not None
        self._warn_of(self._of_files, services.access)
        where = self._proxy.addresses, self._proxy.forwarded
        return announce.at_start(*where, self._config, services.access, room, own_ipv4())

    def _warn_of(self, of_files: Tuple[str, ...], access: Access) -> None:
        for sentence in (*of_files, *announce.oddities(access)):
            self._warn(sentence)

    def _own_pidfile(self) -> Tuple[Pidfile, str]:
        config = self._config
        try:
            where = {"listen": config.listen[0], "pidfile": config.pidfile}
            path, address = locate(where, {})
        except ValueError as exc:
            raise ServiceError(str(exc)) from exc
        return Pidfile(path), address

    def _keep_pidfile(self) -> None:
        """Use the pidfile that was named, or that of the address which is first now."""
        config, services = self._config, self._proxy.services
        is_fixed = ListenAddress.parse(config.listen[0]).is_fixed
        if is_fixed and not config.pidfile and has_pidfiles():
            try:
                self._presence.follow(self._own_pidfile()[0])
            except ServiceError as exc:
                self._warn(str(exc))
        if services is not None:
            self._presence.look(services.loop)

    def _carry_out(self, wanted: Dict[str, Any], answer: Answer) -> None:
        """Carry out a request of the control channel.  Loop thread."""
        what = wanted.get("do")
        if what == "status":
            answer(dict(collect(self._proxy, self._state), ok=True))
        elif what == "reload":
            self._orders.give(lambda: self._reload(answer))
        elif what in ("stop", "drain"):
            # The answer first, because the loop may end afterwards.
            facts: Dict[str, Any] = {"ok": True, "state": self._state}
            facts.update(grace=self._config.grace, open=len(self._proxy))
            order = self._stop if what == "stop" else self._drain
            answer(facts, lambda: self._orders.give(order))
        else:
            answer({"error": "no such request"})

    def _follow_orders(self) -> None:
        """Carry out orders until it is time to end."""
        while True:
            now = time.monotonic()
            is_over = self._is_empty.is_set() or now >= self._until
            if self._state != "serving" and is_over:
                return
            services = self._proxy.services
            if now >= self._presence.look_at and services is not None:
                self._presence.look(services.loop)
            left = min(self._until, self._presence.look_at) - now
            for order in self._orders.wait(None if left == float("inf") else max(0.0, left)):
                order()

    def _hang_up(self) -> None:
        """Reload; or stop, if the HUP means that the terminal is gone."""
        if self._had_terminal and not console.has_terminal():
            self._stop()
        else:
            self._reload()

    def _stop(self) -> None:
        """End when connections have ended or their grace is over; at a second order, at once."""
        again = self._state == "stopping"
        self._state = "stopping"
        self._until = time.monotonic() + (0 if again else self._config.grace)
        self._stop_listening()

    def _drain(self) -> None:
        """End when the last connection has ended."""
        if self._state == "serving":
            self._state = "draining"
            self._stop_listening()

    def _stop_listening(self) -> None:
        self._proxy.stop_listening()
        self._proxy.notify_when_empty(self._note_empty)

    def _note_empty(self) -> None:
        self._is_empty.set()
        self._orders.wake()

    def _report(self) -> None:
        """Log the open connections."""
        live = self._proxy.live
        log.info(
            "connections that are open: %d, of them connected: %d", len(self._proxy), len(live)
        )
        for record in live:
            log.info("%s", record)

    def _reload(self, answer: Optional[Answer] = None) -> None:
        """Put the settings in force as they are now, or tell what is wrong with them."""
        self._log.reopen()  # even if they cannot be used, because log rotation relies on it
        self._reloads.ask(answer)

    def _read_change(self) -> Change:
        """Read the settings; return the change that puts them in force.  Any thread."""
        self._check_serving()
        chosen = self._read(self._home if self._config.daemon else "", self._warn)
        asked = chosen.config
        differing = [s for s in SETTINGS if getattr(asked, s.name) != getattr(self._asked, s.name)]
        # What only a restart changes stays, and the next reload tells it again.
        stays = {s.name: getattr(self._asked, s.name) for s in differing if s.is_fixed}
        asked = asked._replace(**stays)
        in_force = {s.name: getattr(self._config, s.name) for s in SETTINGS if s.is_fixed}
        config = (self._absolute(asked) if self._config.daemon else asked)._replace(**in_force)
        opened = None
        with chosen.placing_errors():
            adopt = self._proxy.prepare(self._fitted(config))
            if any(s.name in _OF_LOG for s in differing):
                opened = open_outputs(config)

        def change() -> Dict[str, List[str]]:
            try:
                self._check_serving()
                adopt()
            except BaseException:
                for output in opened or ():
                    output.close()
                raise
            self._log.change(config, opened)
            self._asked, self._config = asked, config
            self._keep_pidfile()
            services = self._proxy.services
            if services is not None:
                self._warn_of(chosen.of_files, services.access)
            return {
                "changed": [s.key for s in differing if not s.is_fixed],
                "read": list(services.access.files) if services is not None else [],
                "restart": [s.key for s in differing if s.is_fixed],
            }

        return change

    def _check_serving(self) -> None:
        if self._state != "serving":
            raise ServiceError("it is being stopped")

    def _fitted(self, config: Config) -> Config:
        """Return *config* with what depends on this host: processor, number of connections."""
        config = config._replace(processor=config.processor or AUTO)
        if config.max_connections is not None:
            return config
        room = find_room(self._descriptors, config.max_handshakes)
        return config._replace(max_connections=room.limit)

    def _absolute(self, config: Config) -> Config:
        """Return *config* with paths that do not depend on the working directory."""
        return config.with_files(lambda path: os.path.join(self._home, path), *Config._fields)


def _warn_in_log(sentence: str) -> None:
    log.warning("%s", sentence)


def _claim(pidfile: Pidfile, address: str, ensure: bool) -> Tuple[bool, str]:
    """Return whether this process is to serve, and a line for the log or "".

    Raises:
        ServiceError: another process serves there, and *ensure* is not given.
    """
    try:
        if ensure:
            return take_over(pidfile, address)
        if pidfile.acquire_for_sure():
            return True, ""
    except OSError as exc:
        sentence = "cannot use the pidfile %s: %s" % (pidfile.path, reason_of(exc))
        raise ServiceError(sentence) from exc
    pid = pidfile.holder()
    raise ServiceError(
        "it runs already: %s has %s"
        % ("process %d" % pid if pid else "another process", pidfile.path)
    )


class Reloads:
    """Reloads, one after the other: a thread reads settings, the main thread changes them.

    A list of a million names takes seconds to read, and a file on a network may never come.  The
    main thread, which carries out orders to stop, waits for neither.

    A class because it remembers the requests that arrive while settings are read.  The next
    reload serves all of them.  Main thread.

    Args:
        read: reads the settings.  Any thread.
        give: has the main thread carry out an order.
    """

    def __init__(self, read: Callable[[], Change], give: Callable[[Order], None]) -> None:
        self._read, self._give = read, give
        self._is_due = self._is_reading = False
        self._asking: List[Answer] = []

    def ask(self, answer: Optional[Answer]) -> None:
        """Have settings read after this call; *answer* gets the result."""
        self._is_due = True
        if answer is not None:
            self._asking.append(answer)
        self._go_on()

    def _go_on(self) -> None:
        if self._is_reading or not self._is_due:
            return
        asking, self._asking = self._asking, []
        self._is_due, self._is_reading = False, True

        def read() -> None:
            try:
                change = self._read()
            except BaseException as exc:  # noqa: BLE001  # the main thread raises it again
                change = _raiser(exc)
            self._give(lambda: self._finish(change, asking))

        try:
            start_thread(read, "reload")
        except (OSError, RuntimeError):
            read()  # without a thread, orders to stop wait this time

    def _finish(self, change: Change, asking: List[Answer]) -> None:
        """Put in force what has been read, or tell what is wrong with it."""
        try:
            told: Dict[str, Any] = dict(change(), ok=True)
        except (OSError, RuntimeError, ValueError, ServiceError) as exc:
            sentence = getattr(exc, "sentence", None) or reason_of(exc)
            log.error("not reloaded, the old settings stay: %s", sentence)
            told = {"error": sentence}
        else:
            log.info("reloaded, %s", change_told(told["changed"], told["read"]))
            if told["restart"]:
                log.warning("needs a restart: %s", ", ".join(told["restart"]))
        for answer in asking:
            answer(told)
        self._is_reading = False
        self._go_on()


def _raiser(exc: BaseException) -> Change:
    def fail() -> Dict[str, List[str]]:
        raise exc

    return fail
