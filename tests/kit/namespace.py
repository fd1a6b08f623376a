"""A host of the tests' own, and addresses of every kind.

The kind of a client, and what it may reach, depend on addresses that a test machine
does not have.  So a child process lives in a network namespace (``hosts`` makes
them), and runs the proxies there.  A socket belongs to the namespace it was
made in, whichever process uses it: the child makes the tests' sockets too and passes
them on, and the tests connect, bind and accept with them as anywhere else.
"""

import array
import contextlib
import json
import logging
import os
import socket
import subprocess
import threading

#: The first two are the proxies' host; all others are another one (``elsewhere``).
LOOPBACK4, LOOPBACK6 = "127.0.0.1", "::1"
PRIVATE4, PRIVATE6 = "10.0.0.1", "fd00::1"
OTHER_PRIVATE4, CARRIER4 = "192.168.1.1", "100.64.0.1"
PUBLIC4, PUBLIC6 = "203.0.113.5", "2001:db8::5"
LINK_LOCAL4, METADATA4, METADATA4_ALIBABA = "169.254.7.7", "169.254.169.254", "100.100.100.200"
METADATA6 = "fd00:ec2::254"
#: All that hand out credentials, but for one that is on each link.
METADATA = [
    *(METADATA4, "169.254.170.2", "169.254.170.23", "169.254.169.252", "169.254.42.42"),
    *("169.254.0.23", METADATA4_ALIBABA, "100.80.80.80", "100.96.0.96"),
    *("168.63.129.16", "192.0.0.192"),
    *(METADATA6, "fd00:ec2::23", "fd00:42::42", "fd00:a9fe:a9fe::1", "fd00:c1::a9fe:a9fe"),
    *("fd20:ce::254", "fd00:100::100:200"),
]
#: On one link, which a name says: fe80::a9fe:a9fe%lo.
METADATA_ON_LINK = "fe80::a9fe:a9fe"
#: In networks that are neither public nor private.
RESERVED = ["240.0.0.1", "255.255.255.254", "198.18.0.1", "198.19.255.254", "192.0.0.1"]
LOCAL = (
    PRIVATE4,
    PRIVATE6,
    OTHER_PRIVATE4,
    CARRIER4,
    PUBLIC4,
    PUBLIC6,
    LINK_LOCAL4,
    *METADATA,
    METADATA_ON_LINK,
    *RESERVED,
)

#: No route leads to the first two; a route reports the other two as unreachable.
NO_NETWORK4, NO_NETWORK6 = "192.0.2.1", "2001:db8:bad::1"
NO_HOST4, NO_HOST6 = "198.51.100.1", "2001:db8:dead::1"

#: What the proxies' resolver answers; it asks the system for all other names.
NAMES = {
    "private.test": [PRIVATE4],
    "private6.test": [PRIVATE6],
    "public.test": [PUBLIC4],
    "public6.test": [PUBLIC6],
    "loopback.test": [LOOPBACK4],
    "loopback6.test": [LOOPBACK6],
    "mapped.test": ["::ffff:127.0.0.1"],
    "zero.test": ["0.0.0.0"],
    "metadata.test": [METADATA4],
    "all-denied.test": [LOOPBACK4, LOOPBACK6, METADATA4],
    "denied-first.test": [LOOPBACK4, LOOPBACK6, PUBLIC4],
    "denied-last.test": [PUBLIC4, LOOPBACK4],
    "mixed.test": [PRIVATE4, PUBLIC4, PRIVATE6, METADATA4],
    "client.test": ["10.1.0.1"],
    "no-network.test": [NO_NETWORK4],
    "no-network6.test": [NO_NETWORK6],
    "no-host.test": [NO_HOST4],
    "no-host6.test": [NO_HOST6],
    "silent.test": ["10.9.0.%d" % n for n in range(1, 5)],
}

#: The name server of this one does not answer.
HANGING = "hanging.test"

#: What it answers in turn: first this, the next time that.
CHANGING = {"rebind.test": [[PUBLIC4], [PRIVATE4]]}

_PORT_RANGE = "/proc/sys/net/ipv4/ip_local_port_range"


def family_of(host):
    """Return the address family that *host*, an address, belongs to."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class CannotMake(Exception):
    """This machine does not let us have a network namespace; the message says why."""


class Namespace:
    """The test's end of a network namespace: ask for proxies and for sockets."""

    def __init__(self):
        self._process = self._control = None
        self._ports = {}

    def stop(self):
        """End the namespace, and all that runs in it."""
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.wait()
        self._process = self._control = None

    def _ask(self, do, **arguments):
        self._control.sendall(json.dumps(dict(arguments, do=do)).encode())
        data, ancillary, _flags, _address = self._control.recvmsg(1 << 20, socket.CMSG_SPACE(4))
        fds = array.array("i")
        for _level, _type, content in ancillary:
            fds.frombytes(content[:4])
        answer = json.loads(data.decode())
        assert "raised" not in answer, answer["raised"]
        return fds[0] if fds else answer["result"]

    def proxy(self, **settings):
        """Return the port of a proxy with these settings, listening on every address."""
        key = json.dumps(settings, sort_keys=True)
        if key not in self._ports:
            self._ports[key] = self._ask("proxy", settings=settings)
        return self._ports[key]

    def socket(self, family, kind=socket.SOCK_STREAM):
        """Return a socket of the namespace, for TCP if *kind* is not given."""
        fd = self._ask("socket", family=int(family), kind=int(kind))
        return socket.socket(family, kind, fileno=fd)

    def connect(self, source, port, to=None):
        """Return a connection to a proxy, at *to*, by a client whose address is *source*."""
        sock = self.socket(family_of(source))
        try:
            sock.settimeout(20)
            sock.bind((source, 0))
            sock.connect((to or source, port))
        except BaseException:
            sock.close()
            raise
        return sock

    def connections(self):
        """Return the number of connections of all proxies."""
        return self._ask("connections")

    def associations(self):
        """Return what is known of each association."""
        return self._ask("associations")

    def asked(self):
        """Return the names that the resolver was asked for since the last call."""
        return self._ask("asked")

    def refusals(self):
        """Return the lines logged about refusals since the last call.

        They are written before the client hears of it, and so are all there.
        """
        return [line for line in self._ask("log") if "end=refused" in line]

    def bugs(self):
        """Return the tracebacks logged since the last call."""
        return self._ask("bugs")

    @contextlib.contextmanager
    def only_local_port(self, port):
        """While this lasts, a connection that binds to no port comes from *port*."""
        old = self._ask("ports", text="%d %d" % (port, port))
        try:
            yield
        finally:
            self._ask("ports", text=old)


# The child


class Child:
    """What runs in the namespace: does what it is asked, one thing after another."""

    def __init__(self, control):
        self._control = control
        self._proxies = []
        self._asked = []
        self._lines = []
        self._bugs = []

    def serve(self):
        """Answer until the tests have gone."""
        while True:
            data = self._control.recv(1 << 20)
            if not data:
                break
            question = json.loads(data.decode())
            try:
                answer = getattr(self, "do_" + question.pop("do"))(**question)
            except Exception as exc:  # noqa: BLE001  # the test tells it
                self._answer({"raised": repr(exc)})
            else:
                if hasattr(answer, "fileno"):
                    with answer:
                        self._answer({}, array.array("i", [answer.fileno()]))
                else:
                    self._answer({"result": answer})
        for proxy in self._proxies:
            proxy.stop()

    def _answer(self, answer, fds=None):
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
        self._control.sendmsg([json.dumps(answer).encode()], ancillary)

    def emit(self, record):
        """Keep the text of a log record."""
        self._lines.append(record.getMessage())
        if record.exc_info:
            self._bugs.append(logging.Formatter().format(record))

    def do_proxy(self, settings):
        from minisocks import Config, Proxy
        from minisocks.net.resolver import Resolver

        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
        settings.setdefault("listen", (":0",))
        proxy = Proxy(Config(**settings), resolver=Resolver(getaddrinfo=self._getaddrinfo))
        proxy.start()
        self._proxies.append(proxy)
        address = proxy.addresses[0]
        return 0 if address.startswith("unix:") else int(address.rpartition(":")[2])

    def _getaddrinfo(self, host, port, *args):
        from minisocks.net.lookup import system_getaddrinfo

        name = host.decode("latin-1")
        self._asked.append(name)
        if name == HANGING:
            threading.Event().wait()  # in a daemon thread
        if name in CHANGING:
            found = CHANGING[name][self._asked.count(name) % 2 - 1]
        elif name in NAMES:
            found = NAMES[name]
        else:
            return system_getaddrinfo(host, port, *args)
        rows = []
        for address in found:
            family = family_of(address)
            sockaddr = (address, port) if family == socket.AF_INET else (address, port, 0, 0)
            rows.append((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", sockaddr))
        return rows

    def do_socket(self, family, kind):
        return socket.socket(family, kind)

    def do_associations(self):
        records = [record for proxy in self._proxies for record in proxy.records]
        return [r.as_data() for r in records if r.datagrams is not None and r.end is None]

    def do_connections(self):
        return sum(len(proxy) for proxy in self._proxies)

    def do_asked(self):
        asked, self._asked = self._asked, []
        return asked

    def do_log(self):
        lines, self._lines = self._lines, []
        return lines

    def do_bugs(self):
        bugs, self._bugs = self._bugs, []
        return bugs

    def do_ports(self, text):
        with open(_PORT_RANGE) as file:
            old = file.read()
        with open(_PORT_RANGE, "w") as file:
            file.write(text)
        return old


def tool(command, text):
    """Have *command* read *text*; return an error in words, or none."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
        )
    except OSError as exc:
        return "%s: %s" % (command[0], exc.strerror)
    output, _ = process.communicate(text)
    return "%s: %s" % (command[0], output.strip()) if process.returncode else ""


def serve(fd, kind, set_up):
    """Set up, say how that went, then have a child of this *kind* do what is asked."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=fd) as control:
        error = set_up()
        control.sendall(json.dumps({"error": error, "pid": os.getpid()}).encode())
        if error:
            return
        child = kind(control)
        handler = logging.Handler()
        handler.emit = child.emit
        logger = logging.getLogger("minisocks")
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        child.serve()
