"""The slow half of ``--ensure``: wait for the lock, or for an answer; end who is hung."""

import os
import signal
import socket
import time
from typing import Any, Optional, Tuple

from minisocks.errors import ServiceError
from minisocks.service.ensure import ALIVE, REFUSED, ask, sockaddr
from minisocks.service.location import normal
from minisocks.service.pidfile import Pidfile, control_path
from minisocks.service.remote import request

__all__ = ["Hung", "take_turn"]

#: A probe: so long may a server take to answer.
PROBE_SECONDS = 10.0
#: So many of them have to fail in a row.
PROBES = 3
#: How long it may take to say where it listens.
STATUS_SECONDS = 2.0
#: Between one look and the next.
PAUSE_SECONDS = 0.1
#: What a hung process gets after TERM, and then after KILL.
END_SECONDS = 5.0


class Hung(ServiceError):
    """Somebody has the pidfile, does not answer and cannot be ended: one sentence."""


def take_turn(pidfile: Pidfile, address: str) -> Tuple[bool, str]:
    """Return True once this process has *pidfile*, False if one has it that lives.

    And what is to be written in the log.  A process that answers none of ``PROBES``
    is ended.

    Args:
        address: where a process that has it listens, as ``whereabouts.normal`` returns it.

    Raises:
        Hung: that cannot be done.
        OSError: there can be no such file; nobody knows the name in *address*.
    """
    where = _resolved(address)
    suspect, failed, began = None, 0, time.monotonic()
    while True:
        pid = pidfile.holder()
        found = _probe(pidfile, *where)
        if found is not None:
            # Of several who wait for it to end, one gets the lock, and not always who ended it.
            note = "a process that did not answer has ended: %s" % suspect if suspect else ""
            return found, note if found else ""
        # Another one may have it meanwhile, which is a beginning.
        if pid != suspect:
            suspect, failed, began = pid, 0, time.monotonic() - PROBE_SECONDS
        failed += 1
        if failed >= PROBES and pid == pidfile.holder():
            took = time.monotonic() - began
            if _end(pidfile, pid):
                note = "process %d was ended: it had not answered %d times in %d s"
                return True, note % (pid or 0, PROBES, took)


def _resolved(address: str) -> Tuple[int, Any]:
    try:
        return sockaddr(address)
    except ValueError:
        host, _, port = address.rpartition(":")
        # Bytes, because Pythons without the idna codec cannot take text.
        name = os.fsencode(host.strip("[]"))
        return socket.getaddrinfo(name, int(port), 0, socket.SOCK_STREAM)[0][::4]


def _probe(pidfile: Pidfile, family: int, where: Any) -> Optional[bool]:
    """Return True if *pidfile* is ours now, False if its process lives, None if it is silent."""
    until = time.monotonic() + PROBE_SECONDS
    asked_at = 0.0
    while True:
        if pidfile.acquire():
            return True
        left = until - time.monotonic()
        if left <= 0:
            return None
        answer = ask(family, where, left)
        if answer == ALIVE:
            return False
        if time.monotonic() >= asked_at + STATUS_SECONDS:
            asked_at = time.monotonic()
            if _lives(pidfile, (family, where), answer):
                return False
        time.sleep(min(PAUSE_SECONDS, max(0.0, until - time.monotonic())))


def _lives(pidfile: Pidfile, where: Tuple[int, Any], answer: str) -> bool:
    """Return whether its process, which gave this *answer* at *where*, says that it lives.

    It may listen elsewhere, because settings have changed since; or nowhere any more, because
    it was told so; or have no descriptor for a client just now.
    """
    try:
        told = request(control_path(pidfile.path), {"do": "status"}, STATUS_SECONDS)
        if told["state"] != "serving" or answer != REFUSED:
            return True
        elsewhere = _resolved(normal(told["addresses"][0]))
        return elsewhere != where and ask(*elsewhere, STATUS_SECONDS) == ALIVE
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _end(pidfile: Pidfile, pid: Optional[int]) -> bool:
    """End the process *pid* and take *pidfile* over; False if another one has it meanwhile.

    Raises:
        Hung: it does not end, or it is not known which process that is.
    """
    if pid is None or not _has_open(pid, pidfile.path):
        raise Hung("the process that has %s does not answer, and cannot be found" % pidfile.path)
    for number in (signal.SIGTERM, signal.SIGKILL):
        # Each time anew: the number may be another process's by now.
        if pidfile.holder() != pid or not _has_open(pid, pidfile.path):
            return False
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        except OSError as exc:
            raise Hung("process %d does not answer: kill: %s" % (pid, exc.strerror)) from exc
        until = time.monotonic() + END_SECONDS
        while time.monotonic() < until:
            if pidfile.acquire():
                return True
            time.sleep(PAUSE_SECONDS)
    if pidfile.holder() != pid:
        return False
    raise Hung("process %d does not answer, and cannot be ended" % pid)


def _has_open(pid: int, path: str) -> bool:
    """Return whether process *pid* has the file *path* open: the number may be another host's.

    Where there is no /proc, the number in the file is believed.
    """
    if not os.path.isdir("/proc/self/fd"):
        return True
    folder = "/proc/%d/fd" % pid
    wanted = os.stat(path)
    try:
        for name in os.listdir(folder):
            try:
                found = os.stat(os.path.join(folder, name))
            except OSError:
                continue
            if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                return True
    except OSError:
        pass  # no such process, as far as can be seen from here
    return False
