"""A minisocks process in the background, for tests: started by the command line, ended by it."""

import contextlib
import os
import signal
import time

from kit.support import TIMEOUT, Talk, closed_port, run_command, wait_until
from minisocks.service.pidfile import Pidfile, control_path
from minisocks.service.remote import request


class Instance:
    """A process in the background: its port, its pidfile, its settings file.

    ``start`` and ``command`` run the command line to its end, and return status,
    stdout and stderr.
    """

    def __init__(self, folder, settings=""):
        self.port = closed_port()
        self.pidfile = str(folder / "m.pid")
        self.log_file = str(folder / "m.log")
        self.file = str(folder / "m.ini")
        self.configure(settings)

    def configure(self, settings="", listen=None):
        """Write the settings file, with what every instance needs."""
        with open(self.file, "w") as file:
            file.write(
                "[minisocks]\nlisten = %s\npidfile = %s\nlog-file = %s\n%s\n"
                % (listen or self.port, self.pidfile, self.log_file, settings)
            )

    def start(self, *args, **kwargs):
        """Start the process in the background."""
        return run_command("-c", self.file, *(args or ("--daemon",)), **kwargs)

    def command(self, name, *args):
        """Run the command *name* on the process."""
        return run_command(name, "--pidfile", self.pidfile, *args)

    @property
    def pid(self):
        """The number of the process; None if no process has the pidfile."""
        return None if Pidfile(self.pidfile).is_free() else Pidfile(self.pidfile).holder()

    def ask(self, what):
        """Return the answer of the process to the request *what*."""
        return request(control_path(self.pidfile), {"do": what}, TIMEOUT)

    def log(self):
        """Return the log of the process so far."""
        try:
            with open(self.log_file) as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def wait_for_line(self, part):
        """Wait until the log has such a line."""
        wait_until(lambda: part in self.log(), "%r in the log" % part)

    def relay(self, target):
        """Have the process connect to *target*, which echoes; return the client's end."""
        talk = Talk.to(self.port)
        assert 0 == talk.connect5("127.0.0.1", target.port)[0]
        talk.send(b"x").expect(b"x")
        return talk

    def wait_for_end(self):
        """Wait until no process has the pidfile."""
        wait_until(Pidfile(self.pidfile).is_free, "the end")

    def end(self):
        """End the process, whatever state it is in."""
        until = time.monotonic() + TIMEOUT
        while not Pidfile(self.pidfile).is_free():
            assert time.monotonic() < until
            pid = Pidfile(self.pidfile).holder()
            if pid:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
