"""What the tests share: a client that talks bytes, targets that misbehave, proxies.

Everything is on loopback and on port 0.  Nothing sleeps for a fixed time: waits
end with what they wait for, and ``TIMEOUT`` only ends a test that has failed.
"""

import contextlib
import errno
import gc
import logging
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time

from minisocks import Proxy
from minisocks.compat import READ
from minisocks.net.job import Job
from minisocks.server.server import SocksHandler

#: For a wait that ends much earlier when all is well, in seconds.
TIMEOUT = 20.0 * float(os.environ.get("TEST_SCALE", "1"))

LINGER_RESET = struct.pack("ii", 1, 0)
CONNECT, BIND, UDP_ASSOCIATE = 1, 2, 3
GREETING = b"\x05\x01\x00"
GRANTED4 = b"\x00\x5a"
REJECTED4 = b"\x00\x5b" + bytes(6)


def socks4(ip, port, userid=b"", cmd=CONNECT):
    """Return a SOCKS4 request."""
    return struct.pack("!BBH", 4, cmd, port) + socket.inet_aton(ip) + userid + b"\0"


def socks4a(name, port, userid=b"", cmd=CONNECT):
    """Return a SOCKS4a request."""
    return socks4("0.0.0.1", port, userid, cmd) + name + b"\0"


def address5(host, port):
    """Return ATYP, DST.ADDR, DST.PORT; *host* is bytes for a name, text for an address."""
    if isinstance(host, bytes):
        address = bytes((3, len(host))) + host
    elif ":" in host:
        address = b"\x04" + socket.inet_pton(socket.AF_INET6, host)
    else:
        address = b"\x01" + socket.inet_aton(host)
    return address + struct.pack("!H", port)


def socks5(host, port, cmd=CONNECT):
    """Return a SOCKS5 request, without the greeting."""
    return bytes((5, cmd, 0)) + address5(host, port)


def password_message(user, password):
    """Return the RFC 1929 message."""
    return bytes((1, len(user))) + user + bytes((len(password),)) + password


def failure5(rep):
    """Return the SOCKS5 reply of a failure with this REP."""
    return bytes((5, rep, 0, 1)) + bytes(6)


class Talk:
    """A client's end of a connection, for tests that read like a conversation."""

    def __init__(self, sock):
        self.sock = sock
        sock.settimeout(TIMEOUT)

    @classmethod
    def to(cls, port, host="127.0.0.1", source=None):
        """Connect to a proxy on loopback."""
        return cls(socket.create_connection((host, port), TIMEOUT, source_address=source))

    def send(self, data):
        """Send all of *data*."""
        self.sock.sendall(data)
        return self

    def send_bytewise(self, data):
        """Send *data* in segments of one byte."""
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(len(data)):
            self.sock.sendall(data[i : i + 1])
        return self

    def receive(self, size):
        """Receive exactly *size* bytes; fewer only if the stream ends."""
        data = b""
        while len(data) < size:
            more = self.sock.recv(size - len(data))
            if not more:
                break
            data += more
        return data

    def expect(self, data):
        """Receive exactly *data*."""
        received = self.receive(len(data))
        assert data == received, "expected %r, received %r" % (data, received)
        return self

    def rest(self):
        """Return all that comes until the stream ends (in order, not by reset)."""
        parts = []
        while True:
            data = self.sock.recv(65536)
            if not data:
                return b"".join(parts)
            parts.append(data)

    def expect_eof(self):
        """Receive nothing but the end of the stream."""
        assert b"" == self.rest()

    def expect_reset(self):
        """Receive a RST."""
        try:
            data = self.rest()
        except ConnectionResetError:
            return
        raise AssertionError("the stream ended in order, after %r" % data[:100])

    def receive_reply5(self):
        """Return REP, BND.ADDR as text and BND.PORT of a SOCKS5 reply."""
        ver, rep, rsv, atyp = self.receive(4)
        assert (5, 0) == (ver, rsv)
        assert atyp in (1, 4)
        family, size = ((socket.AF_INET, 4), (socket.AF_INET6, 16))[atyp == 4]
        host = socket.inet_ntop(family, self.receive(size))
        return rep, host, struct.unpack("!H", self.receive(2))[0]

    def connect5(self, host, port):
        """Send greeting and CONNECT; return the reply."""
        self.send(GREETING).expect(b"\x05\x00").send(socks5(host, port))
        return self.receive_reply5()

    def finish(self):
        """Send FIN, and go on receiving."""
        self.sock.shutdown(socket.SHUT_WR)
        return self

    def reset(self):
        """Close with a RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        self.sock.close()

    def close(self):
        """Close."""
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.sock.close()


# Scripts of a target: each gets the accepted socket as a Talk, which is closed
# when it returns.


def echo(talk):
    """Send back what comes, and FIN after FIN."""
    while True:
        data = talk.sock.recv(65536)
        if not data:
            return
        talk.sock.sendall(data)


def swallow(talk):
    """Read all, and send nothing."""
    talk.rest()


def says(data):
    """Say *data*, then FIN, then wait for the other's FIN."""

    def script(talk):
        talk.send(data).finish()
        talk.rest()

    return script


def resets(data=b""):
    """Say *data*, then reset once the client has said something."""

    def script(talk):
        talk.send(data)
        talk.sock.recv(1)
        talk.reset()

    return script


class FakeTarget:
    """A target on loopback that follows a script, a thread for each connection.

    ``talks`` holds the accepted connections; ``error`` the first exception of a
    script, which leaving the context raises.  *sock* is a socket of another host
    (``hosts``) to listen with.
    """

    def __init__(self, script=echo, host="127.0.0.1", sock=None):
        self.script = script
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listener = sock or socket.socket(family, socket.SOCK_STREAM)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((host, 0))
        self.listener.listen(1024)
        self.host, self.port = self.listener.getsockname()[:2]
        self.talks = []
        self.error = None
        self._threads = []

    def __enter__(self):
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()
        return self

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            talk = Talk(sock)
            self.talks.append(talk)
            thread = threading.Thread(target=self._serve, args=(talk,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, talk):
        try:
            self.script(talk)
        except Exception as exc:  # noqa: BLE001  # raised again at the end
            # The other side may reset, which is its right.
            if not isinstance(exc, ConnectionError) and getattr(exc, "errno", 0) != errno.ENOTCONN:
                self.error = self.error or exc
        finally:
            talk.close()

    def __exit__(self, *exc):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._accepting.join()
        if exc[0] is not None:
            for talk in self.talks:
                with contextlib.suppress(OSError):
                    talk.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        if exc[0] is None and self.error is not None:
            raise self.error


@contextlib.contextmanager
def black_hole():
    """A port on loopback that answers no SYN: its accept queue is full for ever."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def closed_port(host="127.0.0.1"):
    """Return a port that refuses connections, and that is free to listen on.

    The kernel never gives it to outgoing connections: of the many in these tests
    one could get it the next moment.
    """
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
            with contextlib.suppress(OSError):
                sock.bind(("::" if ":" in host else "0.0.0.0", port))
                return port


def two_closed_ports():
    """Return the lower one of two such ports beside each other."""
    while True:
        port = closed_port()
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("0.0.0.0", port + 1))
            return port


def handler_with(session_type):
    """Return a handler's class whose sessions are *session_type*'s."""

    class Handler(SocksHandler):
        def make_session(self):
            return session_type(self.server, self.request, self.client_address)

    return Handler


@contextlib.contextmanager
def run_proxy(
    resolver=None, listen=("127.0.0.1:0",), listeners=(), handler_type=SocksHandler, **settings
):
    """A proxy in this process, by settings and hooks."""
    proxy = Proxy(listen=listen, listeners=listeners, resolver=resolver, **settings)
    proxy.handler_type = handler_type
    with proxy:
        yield proxy


#: The project's folder, where ``python3 -m minisocks`` finds the package.
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

#: Where child processes find ``kit``.
TESTS = os.path.join(ROOT, "tests")

#: The oldest click that the command line runs with, where scripts/test has put it.
OLDEST_CLICK = os.path.join(sys.prefix, "oldest")


def environment(**variables):
    """Return the environment for a child: none but *variables*, as cron gives it.

    With the click that the test asks for (see ``every_click``), and no other.
    """
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return dict(variables, **{"PYTHONPATH": path[0]} if path[0].endswith("oldest") else {})


#: What starts the command line from the package.
MODULE = (sys.executable, "-m", "minisocks")


def run_command(*args, program=(sys.executable, "-W", "error") + MODULE[1:], **kwargs):
    """Run ``python3 -m minisocks`` to its end; return status, stdout and stderr.

    Warnings are errors there. Text is UTF-8 both ways, whatever the locale of the tests.
    """
    kwargs.setdefault("cwd", ROOT)
    child = subprocess.run(
        list(program) + [arg.encode("utf-8", "surrogateescape") for arg in args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        encoding="utf-8",
        timeout=60,
        **kwargs,
    )
    return child.returncode, child.stdout, child.stderr


class CommandLine:
    """``python3 -m minisocks`` as its own process, ended by its id.

    ``started`` holds the lines it said until it served, ``ports`` the real
    ports; ``end`` returns the exit status and ``lines`` all that it said.
    """

    def __init__(self, *args, env=None, prefix=(), program=MODULE, cwd=None, wait=True):
        self.process = subprocess.Popen(
            list(prefix) + list(program) + list(args),
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            universal_newlines=True,
            env=env,
            cwd=cwd,
        )
        self.lines = []
        self._heard = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if wait:
            self.wait_for_line("try it:")
        self.ports = [
            int(line.split()[2].rpartition(":")[2])
            for line in self.lines
            if line.startswith("listening on") and "unix:" not in line
        ]

    def _read(self):
        for line in self.process.stderr:
            with self._heard:
                self.lines.append(line.rstrip("\n"))
                self._heard.notify_all()

    def wait_for_line(self, part):
        """Return the first line that contains *part*, waiting for it."""
        end = time.monotonic() + TIMEOUT
        with self._heard:
            while True:
                for line in self.lines:
                    if part in line:
                        return line
                left = end - time.monotonic()
                assert left > 0, "never said %r, but %r" % (part, self.lines)
                assert self._reader.is_alive(), "ended with %r" % self.lines
                self._heard.wait(min(left, 0.2))

    def end(self, number=15):
        """Send a signal (None: just wait), return the exit status."""
        if number is not None and self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        self.process.stdout.close()
        self.process.stderr.close()
        return status

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.process.poll() is None:
            self.process.kill()
        if not self.process.stderr.closed:
            self.end(None)


@contextlib.contextmanager
def started_with_a_pipe(*options):
    """Have a process serve; yields it and its port.  Its stderr is read until it serves."""
    port = closed_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "minisocks", "-l", str(port), *options],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        cwd=ROOT,
    )
    try:
        while b"try it" not in process.stderr.readline():
            assert process.poll() is None
        yield process, port
    finally:
        if process.poll() is None:
            process.kill()
        process.stderr.close()
        process.wait()


def one_connection(command, target):
    """Have a child process serve a whole connection to *target*, which echoes."""
    with Talk.to(command.ports[0]) as talk:
        assert 0 == talk.connect5("127.0.0.1", target.port)[0]
        talk.send(b"12345").expect(b"12345").finish().expect_eof()


class CountingPoller:
    """A poller that counts the rounds of its loop."""

    def __init__(self, poller):
        self._poller = poller
        self.rounds = 0

    def poll(self, *args):
        self.rounds += 1
        return self._poller.poll(*args)

    def __getattr__(self, name):
        return getattr(self._poller, name)


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


def wait_until(claim, what="it"):
    """Return once *claim()* is true; fail if it does not become so in time."""
    end = time.monotonic() + TIMEOUT
    while not claim():
        assert time.monotonic() < end, "%s did not come true" % what
        time.sleep(0.005)


def open_descriptors():
    """Return how many descriptors this process has open (Linux)."""
    return len(os.listdir("/proc/self/fd"))


@contextlib.contextmanager
def no_descriptor_left():
    """Have every descriptor that this process may open in use, meanwhile."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = os.open(os.devnull, os.O_RDONLY)
    taken = [spare]
    try:
        # What limits is the number of a descriptor, so holes below it count, too.
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare + 1, hard))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(spare))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)


def own_threads():
    """Return the threads of proxies."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("minisocks-")]


@contextlib.contextmanager
def nothing_left():
    """Demand that descriptors and threads are as before, without a garbage collection."""
    gc.collect()
    descriptors, threads = open_descriptors(), own_threads()
    yield
    # One that an earlier test has left behind in a lookup may end meanwhile.
    assert [] == [thread.name for thread in own_threads() if thread not in threads]
    # A target's end of the last connection may be open for another moment; and what was
    # open at the beginning may have been closed meanwhile.
    wait_until(lambda: open_descriptors() <= descriptors, "the descriptors back")


class _Holds(Job):
    """A job of a loop that stops at an event until the test goes on."""

    counts = False

    def __init__(self, loop):
        self._loop = loop
        self._sock, self.ours = socket.socketpair()
        self.held, self.free = threading.Event(), threading.Event()

    def begin(self):
        self._loop.watch(self._sock.fileno(), READ, self)

    def on_ready(self, fd, mask):
        self.held.set()
        self.free.wait(TIMEOUT)
        self.abort("")

    def abort(self, why):
        self._loop.close_later(self._sock)
        self._loop.done(self)


@contextlib.contextmanager
def loop_held(loop):
    """Keep *loop* in a round, behind its look at what is ready and before it calls anything."""
    job = _Holds(loop)
    loop.submit(job)
    with job.ours:
        job.ours.send(b"x")
        assert job.held.wait(TIMEOUT)
        try:
            yield
        finally:
            job.free.set()


class AccessLog(logging.Handler):
    """Keeps the lines of the access log."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())

    def wait_for(self, part):
        """Return the first line that contains *part*, waiting for it."""
        wait_until(lambda: any(part in line for line in self.lines), "a line with %r" % part)
        return next(line for line in self.lines if part in line)


@contextlib.contextmanager
def log_kept(name="minisocks.access"):
    """Keep the lines of a logger meanwhile; yields an ``AccessLog``."""
    handler, logger = AccessLog(), logging.getLogger(name)
    old = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(old)
