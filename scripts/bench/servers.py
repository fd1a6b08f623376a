"""The SOCKS servers that are measured: how each is started, what it costs, how it ends.

A column is one of them as the table shows it.  A server listens on 127.0.0.1 only, has a
session of its own, and is ended by the id of that.  Linux only: what it costs is read from
/proc.
"""

import contextlib
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Dict, List, NamedTuple, Optional

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

#: Seconds a server may take until it listens, and to end when told to.
START_LIMIT = 20
END_LIMIT = 2

#: Seconds between "it listens" and the measurement: what a start leaves behind is not measured.
SETTLE = 0.3

TICK = os.sysconf("SC_CLK_TCK")

DANTE = """\
logoutput: /dev/null
internal: 127.0.0.1 port = {port}
external: lo
socksmethod: none
clientmethod: none
user.privileged: {user}
user.unprivileged: {user}
client pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}
socks pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}
"""

# tiny-proxy has no command line; this is the program that its page shows.
TINY = """\
import sys
import anyio
from tiny_proxy import Socks5ProxyHandler


async def main():
    listener = await anyio.create_tcp_listener(
        local_host="127.0.0.1", local_port=int(sys.argv[1])
    )
    await listener.serve(Socks5ProxyHandler().handle)


anyio.run(main)
"""

#: Python peers: distribution, and what follows the interpreter; as quiet as they can be.
PYTHON_PEERS = {
    "asyncio-socks-server": (
        ["-m", "asyncio_socks_server", "--host", "127.0.0.1", "--port", "{port}"]
        + ["--log-level", "WARNING"]
    ),
    "pproxy": ["-m", "pproxy", "-l", "socks5://127.0.0.1:{port}"],
    "tiny-proxy": ["-c", TINY, "{port}"],
}


class Column(NamedTuple):
    """One server, as one column of the table."""

    name: str
    #: What it is, with its version, for people.
    version: str
    #: Arguments; {port} and {config} are filled in.  Empty: no proxy at all.
    command: List[str]
    #: Added to the environment.
    env: Dict[str, str] = {}
    #: Text of a configuration file, {port} is filled in; or None.
    config: Optional[str] = None
    #: Whether its log goes to a file, in memory where there is /dev/shm, or nowhere.
    logs: bool = False

    @property
    def is_ours(self):
        """Whether it is minisocks."""
        return self.name.startswith("minisocks")


class Server(NamedTuple):
    """A server that listens.  Port 0 and no process: clients go straight to the target."""

    port: int = 0
    pid: Optional[int] = None
    #: Milliseconds from exec to listening.
    start_ms: float = 0.0

    def cpu(self):
        """Return the processor seconds that its processes have had."""
        return sum(map(cpu_seconds, tree(self.pid))) if self.pid else 0.0

    def memory(self):
        """Return the KiB of memory that its processes have (proportional set size)."""
        return sum(map(pss_kib, tree(self.pid))) if self.pid else 0

    def own_memory(self):
        """Return the KiB of it that belong to no file.

        Other processes that start or end change a share in a library, but not this.
        """
        return sum(pss_kib(pid, "Pss_Anon|Pss") for pid in tree(self.pid)) if self.pid else 0

    def switches(self):
        """Return the context switches of all its threads so far."""
        return sum(map(context_switches, tree(self.pid))) if self.pid else 0


def known(pythons, peers_python):
    """Return all columns that can be run here, and what is left out with the reason.

    Args:
        pythons: interpreters for minisocks.
        peers_python: an interpreter that has the Python peers installed, or None.
    """
    columns, left_out = [], {}
    for name, find in (("microsocks", microsocks), ("dante", dante)):
        column = find()
        if column:
            columns.append(column)
        else:
            left_out[name] = "not installed"
    columns += minisocks(pythons)
    for name in PYTHON_PEERS:
        version = peers_python and installed(peers_python, name)
        if version:
            columns.append(python_peer(name, version, peers_python))
        else:
            left_out[name] = "not installed for the interpreter that --peers-python names"
    return columns + [Column("direct", "no proxy", [])], left_out


def microsocks():
    """Return its column, or None.  It logs each connection, to nowhere; 1.0.3 has no -q."""
    path = shutil.which("microsocks")
    version = "microsocks " + packaged("microsocks")
    return path and Column("microsocks", version, [path, "-i", "127.0.0.1", "-p", "{port}"])


def dante():
    """Return its column, or None.  One server process, which is its default."""
    path = shutil.which("danted") or shutil.which("danted", path="/usr/sbin:/usr/local/sbin")
    if path is None:
        return None
    said = output([path, "-v"]).split()
    version = "Dante " + (said[1].strip("v.") if len(said) > 1 else "")
    user = pwd.getpwuid(os.getuid()).pw_name
    return Column("dante", version, [path, "-f", "{config}"], config=DANTE.replace("{user}", user))


def minisocks(pythons):
    """Return its columns: one for each interpreter, and one of the first that also logs."""
    columns = []
    for python in pythons:
        version = output([python, "-c", "import click, platform as p; print(p.python_version())"])
        if not version:
            raise SystemExit(
                "peers: %s does not run or has no click; name another with --python" % python
            )
        name = "minisocks"
        if len(pythons) > 1:
            name += "-" + ".".join(version.split(".")[:2])
        command = [python, "-m", "minisocks", "-q", "-l", "127.0.0.1:{port}"]
        columns.append(Column(name, "CPython " + version, command, {"PYTHONPATH": ROOT}))
    return columns + [logging(columns[0])]


def logging(column):
    """Return a column of minisocks as one that writes a log line for each connection."""
    return column._replace(
        name="minisocks+log",
        version=column.version + ", logs to a file",
        command=[word for word in column.command if word != "-q"],
        logs=True,
    )


def python_peer(name, version, python):
    """Return the column of one of PYTHON_PEERS."""
    on = output([python, "-c", "import platform; print(platform.python_version())"])
    text = "%s %s on CPython %s" % (name, version, on)
    return Column(name, text, [python] + PYTHON_PEERS[name])


def installed(python, distribution):
    """Return the version of a distribution that an interpreter has, or ""."""
    ask = "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))"
    return output([python, "-c", ask, distribution])


def packaged(package):
    """Return the version of a Debian package, or ""."""
    return output(["dpkg-query", "-W", "-f", "${Version}", package])


def output(command):
    """Return what a command prints, stripped; "" if it cannot be run or fails."""
    try:
        return subprocess.check_output(
            command, stderr=subprocess.DEVNULL, universal_newlines=True, timeout=20
        ).strip()
    except (OSError, subprocess.SubprocessError):
        return ""


@contextlib.contextmanager
def running(column):
    """Start a server and wait until it listens; end it, and all it has started.

    Raises:
        RuntimeError: it does not listen.
    """
    if not column.command:
        yield Server()
        return
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108  # no name in it
    with tempfile.TemporaryDirectory(prefix="peers-", dir=memory) as folder:
        port = free_port()
        command = filled_in(column, port, folder)
        with open(os.path.join(folder, "log") if column.logs else os.devnull, "w") as log:
            began = time.monotonic()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=dict(os.environ, **column.env),
                start_new_session=True,
            )
        try:
            wait_until_it_listens(port, process)
            start_ms = (time.monotonic() - began) * 1000
            time.sleep(SETTLE)
            yield Server(port, process.pid, start_ms)
        finally:
            end(process)


def filled_in(column, port, folder):
    """Return the command for a port; write the configuration file that it names."""
    config = os.path.join(folder, "config")
    if column.config is not None:
        with open(config, "w") as file:
            file.write(column.config.format(port=port))
    words = {"{config}": config, "{port}": str(port)}
    return [
        word if "\n" in word else re.sub(r"\{\w+\}", lambda match: words[match.group()], word)
        for word in column.command
    ]


def end(process):
    """End a process and its session: kindly first, and in any case."""
    for sig in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sig)
        except ProcessLookupError:
            pass
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_LIMIT)
    process.wait()


def free_port():
    """Return a TCP port of 127.0.0.1 without a listener.

    Not an ephemeral one: after a storm of connections all of them may be in TIME_WAIT.
    """
    while True:
        port = random.randrange(10000, 20000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def wait_until_it_listens(port, process):
    """Return when a connection to the port succeeds, at most 1 ms late.

    Raises:
        RuntimeError: the process has ended, or is too slow.
    """
    limit = time.monotonic() + START_LIMIT
    while time.monotonic() < limit:
        if process.poll() is not None:
            raise RuntimeError("exited with status %d instead of listening" % process.returncode)
        with socket.socket() as sock:
            sock.settimeout(1)
            # TCP can connect a socket to itself where no program listens.
            if not sock.connect_ex(("127.0.0.1", port)) and sock.getsockname()[1] != port:
                return
        time.sleep(0.001)
    raise RuntimeError("does not listen after %d s" % START_LIMIT)


def tree(pid):
    """Return the ids of a process and of all its descendants."""
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        for task in tasks(found[-1]):
            todo += map(int, read(task + "/children").split())
    return found


def tasks(pid):
    """Return the folders in /proc of all threads of a process; none if it has gone."""
    folder = "/proc/%d/task" % pid
    try:
        return [os.path.join(folder, name) for name in os.listdir(folder)]
    except OSError:
        return []


def read(path):
    """Return the text of a file in /proc; "" if its process has gone."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def cpu_seconds(pid):
    """Return the processor seconds of a process, ended threads and waited-for children included."""
    fields = read("/proc/%d/stat" % pid).rpartition(")")[2].split()
    if not fields:
        return 0.0
    children = (int(fields[13]) + int(fields[14])) / TICK
    try:
        # The clock of another process (clock_getcpuclockid(3)): nanoseconds, not ticks.
        return time.clock_gettime((~pid << 3) | 2) + children
    except OSError:
        return children


def pss_kib(pid, kinds="Pss"):
    """Return the proportional set size of a process, KiB: the first of ``kinds`` reported.

    Before Linux 5.3 there is no "Pss_Anon".
    """
    text = read("/proc/%d/smaps_rollup" % pid)
    for kind in kinds.split("|"):
        found = re.search(r"^%s:\s+(\d+)" % kind, text, re.M)
        if found:
            return int(found.group(1))
    return 0


def context_switches(pid):
    """Return the voluntary and involuntary context switches of a process's live threads."""
    return sum(
        sum(map(int, re.findall(r"ctxt_switches:\s+(\d+)", read(task + "/status"))))
        for task in tasks(pid)
    )


def machine():
    """Return what this machine is, a map from what to text."""
    found = re.search(r"^model name\s*: (.*)", read("/proc/cpuinfo"), re.M)
    return {
        "cpu": found.group(1) if found else os.uname().machine,
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": "%s %s" % (os.uname().sysname, os.uname().release),
        "congestion": congestion(),
        "python": "CPython %d.%d.%d" % sys.version_info[:3],
    }


def congestion():
    """Return the TCP congestion control that a connection on loopback gets.

    A route may say another one than the system's default.
    """
    default = read("/proc/sys/net/ipv4/tcp_congestion_control").strip()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()):
            accepted = listener.accept()[0]
            with accepted:
                name = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    used = name.split(b"\0")[0].decode()
    return used if used == default else "%s, by the route (system: %s)" % (used, default)
