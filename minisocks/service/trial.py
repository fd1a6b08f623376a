"""What a start with some settings would be refused for, tried without creating anything.

A listener that the running process of these very settings has, and its pidfile, are no
problem: this is asked before a reload or a restart, too.
"""

import os
from typing import Callable, List, Optional

from minisocks.access import Access
from minisocks.config.settings import Config
from minisocks.errors import MinisocksError, ServiceError
from minisocks.net.listener import Attempt
from minisocks.quoting import reason_of
from minisocks.service.daemon import NO_BACKGROUND, can_detach
from minisocks.service.location import locate
from minisocks.service.outputs import LogFile, Syslog
from minisocks.service.pidfile import NoPidfiles, Pidfile, control_path
from minisocks.service.remote import fits, request
from minisocks.values import ListenAddress

__all__ = ["problems"]

#: How long the running process may take to say where it listens.
ANSWER_SECONDS = 5.0


def problems(config: Config, access: Access, warn: Callable[[str], None]) -> List[Exception]:
    """Return what a start by the command line would raise, in the order of the settings.

    Args:
        access: what was made of *config*.
        warn: called with a sentence about what is no reason not to start.
    """
    found: List[Exception] = []
    if config.daemon and not can_detach():
        found.append(ServiceError(NO_BACKGROUND))
    pidfile = _pidfile(config, found, warn)
    held = _listeners_of(pidfile) if pidfile else []
    attempt = Attempt(held)
    steps: List[Callable[[], None]] = [
        lambda text=text: attempt.listen(ListenAddress.parse(text))  # type: ignore[misc]
        for text in config.listen
    ]
    steps.append(attempt.close)  # soon: cron may start one meanwhile
    steps.append(lambda: access.egress.check(warn))
    if config.log_file:
        steps.append(lambda: LogFile.try_out(config.log_file))
    if config.syslog or (config.daemon and not config.log_file):
        steps.append(lambda: _try_syslog(config.syslog or "local", warn))
    try:
        for step in steps:
            try:
                step()
            except (MinisocksError, OSError) as exc:
                found.append(exc)
    finally:
        attempt.close()
    return found


def _try_syslog(where: str, warn: Callable[[str], None]) -> None:
    syslog = Syslog(where)
    problem = syslog.problem()
    syslog.close()
    if problem:
        warn("the log goes nowhere: %s" % problem)


def _pidfile(
    config: Config, found: List[Exception], warn: Callable[[str], None]
) -> Optional[Pidfile]:
    """Return the pidfile; what is wrong with it is *found*, or a warning if it is not needed."""
    is_needed = bool(config.daemon or config.pidfile)
    if not is_needed and not ListenAddress.parse(config.listen[0]).is_fixed:
        return None
    try:
        path, _address = locate({"listen": config.listen[0], "pidfile": config.pidfile}, {})
    except NoPidfiles as exc:
        if is_needed:
            found.append(ServiceError(str(exc)))
        return None
    except ValueError as exc:
        sentence, path = str(exc), ""
    else:
        try:
            Pidfile(path).try_out()
            return Pidfile(path)
        except OSError as exc:
            sentence = "cannot use the pidfile %s: %s" % (path, reason_of(exc))
    if is_needed:
        found.append(ServiceError(sentence))
    else:
        warn(sentence)
    return None


def _listeners_of(pidfile: Pidfile) -> List[ListenAddress]:
    """Return where the process that has *pidfile* listens; nowhere if none has it."""
    try:
        if pidfile.is_free():
            return []
        owner = os.stat(pidfile.path).st_uid
        told = request(control_path(pidfile.path), {"do": "status"}, ANSWER_SECONDS, owner)
        if not fits(told, {"addresses": [str]}):
            return []
        return [ListenAddress.parse(text) for text in told.get("addresses") or ()]
    except (OSError, ValueError, AttributeError):
        return []
