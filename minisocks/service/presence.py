"""The pidfiles of this process, with a control socket beside each.

They stay in their places as long as the process lives.  ``opening.set_kept_mode`` keeps
systemd-tmpfiles from removing them; if another program removes one, it is made again.
"""

import contextlib
import os
import time
from typing import Any, Callable, Dict, List, Set

from minisocks.net.loop import Loop
from minisocks.net.opening import open_trusted
from minisocks.quoting import reason_of
from minisocks.service.control import Answer, Control
from minisocks.service.pidfile import Pidfile, control_path

__all__ = ["Presence"]

#: Between two looks at the files, which touch them: programs that clean /tmp remove old ones.
LOOK_SECONDS = 3600.0
#: The same where the kernel reports no removal, or a file could not be made again.
UNSURE_SECONDS = 60.0
#: The least time between two looks, because many programs remove files in /run and /tmp.
PAUSE_SECONDS = 1.0
#: The same after a file was missing, because the others may be removed next.
SHORT_PAUSE_SECONDS = 0.02


class Presence:
    """The pidfiles and control sockets of this process.

    A class because it remembers which files are its own and which folders the kernel watches
    (dnotify, fcntl(2)): the removal of a file there sends this process SIGIO, once.  Main thread.

    Args:
        warn: called with a sentence about each file that cannot be made.
        carry_out: as of ``Control``.
    """

    def __init__(
        self,
        warn: Callable[[str], None],
        carry_out: Callable[[Dict[str, Any], Answer], None],
    ) -> None:
        self._warn = warn
        self._carry_out = carry_out
        #: That of the start, and that of the address which a reload has made the first.
        self._pidfiles: List[Pidfile] = []
        self._controls: Dict[str, Control] = {}
        self._folders: List[int] = []
        self._problems: Set[str] = set()
        self._warned_of: Set[str] = set()
        self._may_look_at = 0.0
        #: Whether this look has made a file again.
        self._has_made = False
        #: When the next look is due, by the monotonic clock.
        self.look_at = float("inf")

    def add(self, pidfile: Pidfile) -> None:
        """Keep *pidfile*, whose lock this process has."""
        self._pidfiles.append(pidfile)

    def descriptors(self) -> List[int]:
        """Return the descriptors that hold the locks."""
        return [pidfile.fileno() for pidfile in self._pidfiles]

    def write(self) -> None:
        """Write the number of this process into its pidfiles."""
        for pidfile in self._pidfiles:
            self._write_number(pidfile)

    def follow(self, pidfile: Pidfile) -> None:
        """Keep *pidfile*, too, instead of that of the last call."""
        if pidfile.path in [mine.path for mine in self._pidfiles]:
            return
        try:
            if not pidfile.acquire_for_sure():
                self._warn("another process has %s: name a --pidfile" % pidfile.path)
                return
        except OSError as exc:
            self._warn("no pidfile %s: %s" % (pidfile.path, reason_of(exc)))
            return
        self._write_number(pidfile)
        for former in self._pidfiles[1:]:
            former.release()
        self._pidfiles[1:] = [pidfile]

    def note_removal(self) -> None:
        """Look soon, because the kernel reports that a file was removed."""
        self.look_at = min(self.look_at, max(time.monotonic(), self._may_look_at))

    def look(self, loop: Loop) -> None:
        """Make missing files, and warn if one cannot be made.

        Args:
            loop: the loop for the control sockets.
        """
        self._problems, self._has_made = set(), False
        self._have_pidfiles()  # first, because it makes their folders
        is_watched = self._watch_folders()
        self._have_pidfiles()  # one may have been removed in between
        self._have_controls(loop)
        for sentence in sorted(self._problems - self._warned_of):
            self._warn(sentence)
        self._warned_of = self._problems
        now = time.monotonic()
        self._may_look_at = now + (SHORT_PAUSE_SECONDS if self._has_made else PAUSE_SECONDS)
        if self._pidfiles:
            is_sure = is_watched and not self._problems
            self.look_at = now + (LOOK_SECONDS if is_sure else UNSURE_SECONDS)

    def release(self) -> None:
        """Give the locks up.  The files stay."""
        for pidfile in self._pidfiles:
            pidfile.release()
        self._forget_folders()

    def _have_pidfiles(self) -> None:
        for pidfile in self._pidfiles:
            former = pidfile.fileno()
            try:
                if not pidfile.renew():
                    self._problems.add(
                        "another process has %s now: name a --pidfile" % pidfile.path
                    )
                    continue
                self._has_made |= pidfile.fileno() != former
                if not pidfile.holder():
                    self._write_number(pidfile)
                os.utime(pidfile.path)
            except OSError as exc:
                self._problems.add("no pidfile %s: %s" % (pidfile.path, reason_of(exc)))

    def _have_controls(self, loop: Loop) -> None:
        wanted = [control_path(pidfile.path) for pidfile in self._pidfiles]
        for path in wanted:
            earlier = self._controls.get(path)
            if earlier is not None and earlier.is_there():
                with contextlib.suppress(OSError):
                    os.utime(path)
                continue
            try:
                control = self._controls[path] = Control(loop, path, self._carry_out)
            except OSError as exc:
                self._problems.add("no control socket %s: %s" % (path, reason_of(exc)))
                continue
            self._has_made = True
            loop.submit(control)
            if earlier is not None:
                loop.call_soon(earlier, earlier.abort, "replaced")
        for path in set(self._controls).difference(wanted):
            control = self._controls.pop(path)
            loop.call_soon(control, control.abort, "another process has the address now")

    def _write_number(self, pidfile: Pidfile) -> None:
        try:
            pidfile.write()
        except OSError as exc:  # the lock is what counts
            self._warn("cannot write to the pidfile %s: %s" % (pidfile.path, reason_of(exc)))

    def _watch_folders(self) -> bool:
        """Have the kernel report the next removal in each folder; return False if it cannot."""
        self._forget_folders()
        try:
            import fcntl  # not everywhere

            for path in {os.path.dirname(pidfile.path) for pidfile in self._pidfiles}:
                self._folders.append(open_trusted(path, os.O_RDONLY | os.O_CLOEXEC, others=True))
                fcntl.fcntl(self._folders[-1], fcntl.F_NOTIFY, fcntl.DN_DELETE)
        except (OSError, ImportError, AttributeError):
            return False
        return True

    def _forget_folders(self) -> None:
        while self._folders:
            os.close(self._folders.pop())
