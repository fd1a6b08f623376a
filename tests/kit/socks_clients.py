"""Clients that others wrote: which kinds there are, and how a test runs one.

What a user types is a template, which ``docs/clients.rst`` fills with an example and
a test with real ports.  So what the page says is what was run.
"""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import threading

#: As the page calls them, and what tells them apart.
PROTOCOLS = {
    "4": "SOCKS4: the client looks names up",
    "4a": "SOCKS4a: the proxy looks names up",
    "5": "SOCKS5: the client looks names up",
    "5h": "SOCKS5: the proxy looks names up",
    "password": "SOCKS5 with user name and password; the proxy looks names up",
}
VERSIONS = {"4": 4, "4a": 4, "5": 5, "5h": 5, "password": 5}
#: Those that leave the names to the proxy.
REMOTE_NAMES = ("4a", "5h", "password")
USER, PASSWORD = "ann", "s3cret"

#: What fills the templates on the page.
ADDRESS_EXAMPLE = "192.0.2.80"
EXAMPLE = {
    "proxy": "1080",
    "host": "example.org",
    "port": "80",
    "path": "/",
    "url": "http://example.org/",
    "get": "curl http://example.org/",
    "to": "example.org",
    "options": "",
    "user": USER,
    "password": PASSWORD,
}

#: Seconds. Nothing here takes a tenth of it.
TIME_LIMIT = 60


class Missing(Exception):
    """The client is not on this machine; the message says what to install."""


class Outcome:
    """How a command ended: its exit ``status`` and what it wrote, as bytes."""

    def __init__(self, status, out, err):
        self.status, self.out, self.err = status, out, err

    def __repr__(self):
        return "exit status %r, %d bytes, said %r" % (self.status, len(self.out), self.err[-2000:])


def clean_environment(**others):
    """Return an environment without the variables of the user that change what a client does."""
    bends = re.compile(r"(?i)(git|ssh|socks|tsocks|proxychains)_.*|.*_proxy")
    environ = {key: value for key, value in os.environ.items() if not bends.match(key)}
    return dict(environ, LC_ALL="C", GIT_CONFIG_NOSYSTEM="1", **others)


def run(command, folder=None):
    """Run *command* (a list) in *folder*, which is its home too; nothing of it stays."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=clean_environment(**({"HOME": folder} if folder else {})),
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        end_group(process)
        out, err = process.communicate()
    else:
        end_group(process)
    return Outcome(process.returncode, out, err)


def end_group(process):
    """End what *process*, the first of its group, has left, and itself."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


class Client:
    """A program of which a user types a shell command.

    ``lines`` maps a protocol to the template of that command, ``file`` is a name
    and a like map to the text of the configuration that the command reads.
    """

    #: Which language the lines are in, as the page says it.
    language = "sh"
    #: The file asked for, and where it is afterwards if not on standard output.
    path = "/file"
    saved_as = ""
    #: The site, as an address and as a name.
    address, name = "127.0.0.1", "localhost"
    #: The protocols of 4 and 5 by which a name would go to the proxy unless the test
    #: looks it up first: these are given an address.
    literal = ()
    #: Whether only scripts/clients runs it.
    slow = False
    note = ""
    #: What fills the templates on the page instead of ``EXAMPLE``.
    example = {}

    def __init__(self, title, lines, version=None, programs=(), package="", file=None, **others):
        self.title, self.lines, self.file = title, lines, file
        self.programs = programs or (title,)
        self.package = package or self.programs[0]
        self._version = version or [self.programs[0], "--version"]
        self._found = None
        self.__dict__.update(others)

    def path_of(self, program):
        """Return where *program* is, or None; daemons are not always on PATH."""
        return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")

    def check(self):
        """Raise Missing unless it is here."""
        for program in self.programs:
            if self.path_of(program) is None:
                raise Missing("%s is not installed (package %s)" % (program, self.package))

    def version(self):
        """Return the version it says, e.g. '7.88.1', or 'unknown'.

        Raises:
            Missing: it is not installed.
        """
        if self._found is None:
            self.check()
            outcome = run(self._version)
            said = (outcome.out + outcome.err).decode("utf-8", "replace")
            match = re.search(r"\d+(\.\d+)+\w*", said)
            self._found = match.group() if match else "unknown"
        return self._found

    def fetch(self, protocol, folder, **values):
        """Run the line of *protocol* in *folder*, filled with *values*."""
        if self.file is not None:
            name, texts = self.file
            with open(os.path.join(folder, name), "w") as file:
                file.write(texts[protocol] % values)
        outcome = self.run(self.command(self.lines[protocol] % values), folder)
        if self.saved_as and outcome.status == 0:
            with open(os.path.join(folder, self.saved_as), "rb") as saved:
                outcome.out = saved.read()
        return outcome

    def run(self, command, folder):
        """Run *command* to its end."""
        return run(command, folder)

    def command(self, line):
        """Return the command that executes *line*."""
        return ["sh", "-c", line]


class RawClient(Client):
    """One that knows no HTTP: the page comes with its head, which is taken off."""

    def fetch(self, protocol, folder, **values):
        """Run it, take the head off."""
        outcome = super().fetch(protocol, folder, **values)
        outcome.out = outcome.out.partition(b"\r\n\r\n")[2]
        return outcome


class PythonClient(Client):
    """A library of the Python that runs the tests; ``rest`` puts what came into *data*."""

    language = "python"

    def __init__(self, title, module, rest, lines, **others):
        super().__init__(title, lines, **others)
        self.module, self.rest = module, rest
        self._version = [sys.executable, "-c", "import %s as m; print(m.__version__)" % module]

    def check(self):
        if importlib.util.find_spec(self.module) is None:
            raise Missing("the Python package %s is not installed" % self.title.partition(",")[0])

    def command(self, line):
        program = "%s\n%s\nimport sys\nsys.stdout.buffer.write(data)\n" % (line, self.rest)
        return [sys.executable, "-c", program]


class NodeClient(Client):
    """A library of node, from a folder in NODE_PATH; ``rest`` defines *use*."""

    language = "javascript"

    def __init__(self, title, rest, lines, **others):
        super().__init__(title, lines, **others)
        self.module, self.rest = title.partition(" ")[2], rest
        self._version = ["node", "-p", "require('%s/package.json').version" % self.module]

    def check(self):
        if shutil.which("node") is None:
            raise Missing("node is not installed (package nodejs)")
        folders = os.environ.get("NODE_PATH", "").split(os.pathsep)
        if not any(os.path.isdir(os.path.join(f, self.module)) for f in folders if f):
            raise Missing("the npm package %s is not installed" % self.module)

    def command(self, line):
        return ["node", "-e", self.rest + line]


class PerlClient(Client):
    """A module of perl's; ``rest`` defines the functions that the lines call."""

    language = "perl"

    def __init__(self, title, module, rest, lines, **others):
        super().__init__(title, lines, programs=("perl",), **others)
        self.module, self.rest = module, rest
        self._version = ["perl", "-M" + module, "-e", "print $%s::VERSION" % module]

    def check(self):
        super().check()
        if run(["perl", "-M" + self.module, "-e", "1"]).status != 0:
            raise Missing("perl's %s is not installed (package %s)" % (self.module, self.package))

    def command(self, line):
        return ["perl", "-e", line + self.rest]


class Wrapper(Client):
    """One that leads any program through the proxy."""


class Session(Wrapper):
    """One that goes on when its answer, a line, is there; it is ended then."""

    def run(self, command, folder):
        """Run *command* until it has said a line."""
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=clean_environment(HOME=folder),
            start_new_session=True,
        )
        limit = threading.Timer(TIME_LIMIT, end_group, (process,))
        limit.start()
        try:
            line = process.stdout.readline()
        finally:
            limit.cancel()
            end_group(process)
        rest, err = process.communicate()
        return Outcome(0 if line else process.returncode, line + rest, err)
