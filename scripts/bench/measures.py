"""What is measured: a function for each test, with the load generator it needs.

Each takes a fresh server, the port of the target, a number of connections and seconds; each
returns a map from figure to number.  A figure that makes no sense (latency where nothing was
answered, a server's memory where there is none) is not in it.
"""

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))

#: Seconds that a load generator gets beyond its given time: opening (60), echoes (10), slack.
LOAD_LIMIT = 90

#: Seconds that a second load stays at most; its parent ends it.
BESIDE = 120

#: Seconds for "wakeups", the same whatever --seconds says.
IDLE = 10

#: Seconds after which connections count as idle.
CALM = 1

BULK = 8
HONEST = 100


def build():
    """Compile socksload.c if that is newer than what is there; return the program's path."""
    folder = os.path.join(tempfile.gettempdir(), "minisocks-bench-%d" % os.getuid())
    os.makedirs(folder, mode=0o700, exist_ok=True)
    if os.stat(folder).st_uid != os.getuid():
        raise SystemExit("peers: %s belongs to another user" % folder)
    source, program = os.path.join(HERE, "socksload.c"), os.path.join(folder, "socksload")
    if not os.path.exists(program) or os.path.getmtime(program) < os.path.getmtime(source):
        subprocess.check_call(["cc", "-O2", "-o", program + ".new", source])
        os.replace(program + ".new", program)
    return program


@contextlib.contextmanager
def killed_in_time(command, limit=None):
    """Start a program, yield the process, kill it in the end or after so many seconds."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, universal_newlines=True)
    watchdog = threading.Timer(limit, process.kill) if limit else None
    if watchdog:
        watchdog.daemon = True
        watchdog.start()
    try:
        yield process
    finally:
        if watchdog:
            watchdog.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def target():
    """Run a target; yield its port."""
    with killed_in_time([build(), "target"]) as process:
        yield int(next_line(process, "port=").partition("=")[2])


def load(mode, server, port, n, seconds):
    """Start load; a context manager that yields the process."""
    command = [build(), mode, str(server.port), str(port), str(n), str(seconds)]
    return killed_in_time(command, seconds + LOAD_LIMIT)


def next_line(process, start):
    """Return the next line that starts so.

    Raises:
        RuntimeError: the program ended before.
    """
    for line in process.stdout:
        if line.startswith(start):
            return line
    raise RuntimeError("the load generator ended early (%r)" % process.poll())


def result(process):
    """Return the numbers of the line that ends a load."""
    pairs = (word.partition("=") for word in next_line(process, "mode=").split()[1:])
    return {key: float(value) for key, _, value in pairs}


def measured(mode, server, port, n, seconds):
    """Run a load; return its result, with the server's processor seconds as "cpu"."""
    with load(mode, server, port, n, seconds) as process:
        next_line(process, "go")
        cpu = server.cpu()
        next_line(process, "stop")
        cpu = server.cpu() - cpu
        return dict(result(process), cpu=cpu)


def start(server, port, n, seconds):
    """Milliseconds to listening, memory then."""
    return {"start_ms": server.start_ms, "start_kib": server.memory()} if server.pid else {}


def bulk(mode):
    """Return the test of bytes in bulk."""

    def test(server, port, n, seconds):
        got = measured(mode, server, port, n, seconds)
        figures = {"gb_per_s": got["bytes_per_s"] / 1e9, "failed": got["failed"]}
        if server.pid and got["bytes"]:
            figures["cpu_s_per_gb"] = got["cpu"] / got["bytes"] * 1e9
        return figures

    return test


def answers(mode):
    """Return the test of pings, visits or datagrams."""

    def test(server, port, n, seconds):
        if mode == "name" and not server.pid:
            return {}
        got = measured(mode, server, port, n, seconds)
        figures = {"per_s": got["per_s"], "failed": got["failed"]}
        if got["count"]:
            if "us_p50" in got:
                figures.update(us_p50=got["us_p50"], us_p99=got["us_p99"])
            if server.pid:
                figures["cpu_us"] = got["cpu"] * 1e6 / got["count"]
        return figures

    return test


def held(mode):
    """Return the test of memory for each that is open and says nothing."""

    def test(server, port, n, seconds):
        if not server.pid:
            return {}
        before = server.own_memory()
        with load(mode, server, port, n, BESIDE) as process:
            next_line(process, "ready")
            time.sleep(CALM)
            after = server.own_memory()
            process.send_signal(signal.SIGTERM)
            got = result(process)
        figures = {"failed": got["failed"]}
        if got["alive"]:
            figures["kib_each"] = (after - before) / got["alive"]
        return figures

    return test


def wakeups(server, port, n, seconds):
    """Context switches without clients, for each 10 s."""
    if not server.pid:
        return {}
    time.sleep(CALM)
    before = server.switches()
    time.sleep(IDLE)
    return {"switches": server.switches() - before}


def compared(quiet, busy):
    """Return the latency of two runs, first without and then with the load beside it."""
    figures = {"failed": quiet["failed"] + busy["failed"]}
    for name, got in (("us_p99_alone", quiet), ("us_p99_beside", busy)):
        if got["count"]:
            figures[name] = got["us_p99"]
    return figures


def mixed(server, port, n, seconds):
    """The slowest pings without and with 8 downloads beside them, from a target of their own."""
    quiet = measured("ping", server, port, n, seconds)
    with target() as other, load("down", server, other, BULK, BESIDE) as downloads:
        next_line(downloads, "go")
        busy = measured("ping", server, port, n, seconds)
        downloads.send_signal(signal.SIGTERM)
        got = result(downloads)
    figures = compared(quiet, busy)
    figures["gb_per_s_beside"] = got["bytes_per_s"] / 1e9
    figures["failed"] += got["failed"]
    return figures


def crowd(server, port, n, seconds):
    """The slowest of 100 connections' pings without and with n idle connections beside them."""
    quiet = measured("ping", server, port, HONEST, seconds)
    with load("hold", server, port, n, BESIDE) as process:
        next_line(process, "ready")
        time.sleep(CALM)
        busy = measured("ping", server, port, HONEST, seconds)
        process.send_signal(signal.SIGTERM)
        got = result(process)
    figures = compared(quiet, busy)
    figures["failed"] += got["failed"]
    return figures


#: Test by name; what follows its colon is the number of connections.
TESTS = {
    "start": start,
    "down": bulk("down"),
    "up": bulk("up"),
    "both": bulk("both"),
    "ping": answers("ping"),
    "conn": answers("conn"),
    "name": answers("name"),
    "udp": answers("udp"),
    "idle": held("hold"),
    "idle-udp": held("keep"),
    "mixed": mixed,
    "crowd": crowd,
    "wakeups": wakeups,
}

DEFAULT = (
    "start,down:1,down:16,both:16,ping:1,ping:64,conn:1,conn:32,name:32,udp:1,udp:16,"
    "udp:64,idle:1000,idle-udp:400,mixed:64,crowd:8000,wakeups"
)

#: Descriptors that a server needs for one connection, and for itself.
EACH, BASE = 2, 500


def fitting(test, descriptors):
    """Return the test, with fewer connections if a server's descriptors are too few for it."""
    name, _, n = test.partition(":")
    if name not in TESTS:
        raise SystemExit("peers: no test %r; there are %s" % (name, ", ".join(TESTS)))
    most = (descriptors - BASE) // EACH
    return "%s:%d" % (name, most) if n and int(n) > most else test


def run(test, server, port, seconds):
    """Run one test by its name; return its figures."""
    name, _, n = test.partition(":")
    return TESTS[name](server, port, int(n or 1), seconds)
