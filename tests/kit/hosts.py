"""Several hosts with cables between them: network namespaces of the tests' own.

As in ``namespace``, a child process lives in each, and makes the sockets that the tests
use.  The first child makes the other ones, so that all belong to one user namespace and
no test needs to be root.
"""

import contextlib
import fcntl
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import tempfile

from kit import inside
from kit.namespace import CannotMake, Child, Namespace, family_of, serve, tool

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000

#: An answer may come by another way than the question went.
#: Addresses of neighbours are asked for from the address on the cable (arp_announce), because
#: no host answers a question from 240.0.0.1 or the like.
_QUIET = (
    "for f in all default; do cd /proc/sys/net/ipv4/conf/$f; echo 0 >rp_filter; "
    "echo 2 >arp_announce; done"
)

#: What is read takes the place of a file, if there is one, as long as this mount namespace lasts.
_COVER = """
[ -e "$1" ] || exit 0
file=$(mktemp) && cat >"$file" && mount --bind "$file" "$1" && rm "$file"
"""


class Host(Namespace):
    """One host, as tests use it: its process makes sockets and runs programs there."""

    def __init__(self, control):
        super().__init__()
        self._control = control
        control.settimeout(60)
        self.pid = None

    def greeted(self):
        """Wait until the host is ready.

        Raises:
            CannotMake: the machine has no such host.
        """
        greeting = self._control.recv(65536)
        if not greeting:
            raise CannotMake("no network namespace")
        answer = json.loads(greeting.decode())
        if answer["error"]:
            raise CannotMake(answer["error"])
        self.pid = answer["pid"]

    def ip(self, *commands):
        """Have ``ip`` run all of these commands.

        Raises:
            CannotMake: ``ip`` fails.
        """
        self._do(["ip", "-batch", "-"], "".join(line + "\n" for line in commands))

    def firewall(self, rules):
        """Put these rules of nftables in force, and no others.

        Raises:
            CannotMake: there is no such tool, or the kernel does not know what is in them.
        """
        try:
            self._do(["nft", "-f", "-"], "flush ruleset\n" + rules)
        except CannotMake as exc:
            if "syntax error" in str(exc):
                raise ValueError(str(exc)) from exc
            raise

    def _do(self, command, text):
        error = self._ask("tool", command=command, text=text)
        if error:
            raise CannotMake(error)

    def udp(self, host="", port=0, scope=0):
        """Return a UDP socket of this host, bound to the address *host*."""
        family = family_of(host)
        fd = self._ask("datagrams", family=int(family))
        sock = socket.socket(family, socket.SOCK_DGRAM, fileno=fd)
        try:
            sock.settimeout(20)
            sock.bind((host, port, 0, scope) if scope else (host, port))
        except BaseException:
            sock.close()
            raise
        return sock

    def tun(self, name):
        """Return the descriptor of a new interface: packets that it sends are read from it.

        Raises:
            CannotMake: there is no such device.
        """
        answer = self._ask("tun", name=name)
        if not isinstance(answer, int):
            raise CannotMake(answer)
        return answer

    def index(self, name):
        """Return the number of an interface, which is the scope of addresses there."""
        return self._ask("index", name=name)

    def ask_names_of(self, address):
        """Have the name server at *address*, and no other; for all hosts, with ``own_files``.

        Raises:
            CannotMake: files cannot be put over those of the machine.
        """
        files = {"resolv.conf": "nameserver %s\n" % address, "nsswitch.conf": "hosts: files dns\n"}
        for name, text in files.items():
            self.cover("/etc/" + name, text)

    def cover(self, path, text):
        """Have *text* in place of what the file *path* has, if there is one; for all hosts.

        Raises:
            CannotMake: files cannot be put over those of the machine.
        """
        self._do(["sh", "-c", _COVER, "sh", path], text)

    def new_proxy(self, **settings):
        """Return the port of a proxy that no other test has."""
        return self._ask("proxy", settings=settings)

    def known_names(self):
        """Return what the newest proxy remembers: names, and how many addresses by family."""
        return self._ask("known_names")

    def bytes_of_names(self):
        """Return the bytes that these names count as, and the bytes of all that is counted."""
        return tuple(self._ask("bytes_of_names"))

    def resident_bytes(self):
        """Return the resident memory of the process there, in bytes."""
        return self._ask("resident_bytes")

    def forward(self):
        """Have this host forward IPv4 packets, as a router does."""
        self._do(["sh"], "echo 1 >/proc/sys/net/ipv4/ip_forward")

    def logged(self):
        """Return the log lines since the last call."""
        return self._ask("log")

    def run(self, *command):
        """Run *command* there to its end; return its exit status and all that it said."""
        return tuple(self._ask("run", command=command))

    @contextlib.contextmanager
    def running(self, *command):
        """Have *command* run there meanwhile."""
        pid = self._ask("begin", command=command)
        try:
            yield
        finally:
            self._ask("end", pid=pid)


class _HostChild(Child):
    """The process of a host, which does what tests ask for."""

    def __init__(self, control):
        super().__init__(control)
        self._processes = {}

    def serve(self):
        try:
            super().serve()
        finally:
            for pid in list(self._processes):
                self.do_end(pid)

    def do_run(self, command):
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
        )
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def do_begin(self, command):
        null = subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=null, stdout=null, stderr=null)
        self._processes[process.pid] = process
        return process.pid

    def do_end(self, pid):
        process = self._processes.pop(pid)
        process.terminate()
        process.wait()

    def do_tool(self, command, text):
        return tool(command, text)

    def do_datagrams(self, family):
        return socket.socket(family, socket.SOCK_DGRAM)

    def do_tun(self, name):
        try:
            file = open("/dev/net/tun", "r+b", buffering=0)  # noqa: SIM115  # for the tests
            request = struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI)
            fcntl.ioctl(file, _TUNSETIFF, request)
        except OSError as exc:
            return "/dev/net/tun: %s" % exc.strerror
        return file

    def do_known_names(self):
        known = inside.known_names(self._proxies[-1].services.answers)
        families = (int(socket.AF_INET), int(socket.AF_INET6))
        return [
            (name.decode(), [sum(one[0] == family for one in outcome) for family in families])
            for name, (_until, _size, outcome) in known.items()
        ]

    def do_bytes_of_names(self):
        services = self._proxies[-1].services
        return services.answers.bytes, services.memory.used

    def do_resident_bytes(self):
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    def do_index(self, name):
        return socket.if_nametoindex(name)


class Hosts:
    """As many hosts as there are *names*; they are its attributes.

    Args:
        has_users: whether this machine's users are there, for which one has to be root; else
            there is one only.
        own_files: whether files may be put over those of the machine (``ask_names_of``).
    """

    def __init__(self, *names, has_users=False, own_files=False):
        self.names = names
        ways = ("-n",) if has_users else ("-rn", "-n")
        self._ways = tuple(way + "m" * own_files for way in ways)
        self._process = None
        self._hosts = []

    def start(self):
        """Make the hosts.

        Raises:
            CannotMake: not permitted, or a tool is missing.
        """
        reasons = []
        for flags in self._ways:
            try:
                self._start(flags)
                return self
            except (OSError, CannotMake) as exc:
                reasons.append("unshare %s: %s" % (flags, exc))
                self.stop()
        raise CannotMake("no network namespaces: %s" % "; ".join(reasons))

    def _start(self, flags):
        tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in self.names]
        self._hosts = [Host(ours) for ours, _theirs in pairs]
        fds = [theirs.fileno() for _ours, theirs in pairs]
        with tempfile.TemporaryFile() as stderr:
            child = ["unshare", flags, sys.executable, "-W", "error", "-m", "kit.hosts"]
            try:
                self._process = subprocess.Popen(
                    child + [str(fd) for fd in fds],
                    pass_fds=fds,
                    stdin=subprocess.DEVNULL,
                    stderr=stderr,
                    env=dict(
                        os.environ, PYTHONPATH=os.pathsep.join([os.path.dirname(tests), tests])
                    ),
                )
            finally:
                for _ours, theirs in pairs:
                    theirs.close()
            for name, host in zip(self.names, self._hosts):
                try:
                    host.greeted()
                except CannotMake as exc:
                    stderr.seek(0)
                    said = stderr.read().decode("utf-8", "replace").strip().splitlines()
                    raise CannotMake(said[-1] if said else str(exc)) from exc
                setattr(self, name, host)

    def cable(self, one, other, mtu=1500):
        """Lay a cable between two hosts; each calls its end by the name of the other host.

        Args:
            one, other: a name, then addresses with the length of their network.
        """
        ends = getattr(self, one[0]), getattr(self, other[0])
        ends[0].ip(
            "link add %s mtu %d type veth peer name %s mtu %d netns %d"
            % (other[0], mtu, one[0], mtu, ends[1].pid)
        )
        for host, (_name, *addresses), interface in zip(ends, (one, other), (other[0], one[0])):
            host.ip(
                *[
                    "addr add %s dev %s%s" % (a, interface, " nodad" * (":" in a))
                    for a in addresses
                ],
                "link set %s addrgenmode none" % interface,
                "link set %s up" % interface,
            )

    def stop(self):
        """End the hosts, and all that runs there."""
        for host in self._hosts:
            host.stop()
        self._hosts = []
        if self._process is not None:
            self._process.wait()
        self._process = None


@contextlib.contextmanager
def made_for_tests(*names, **how):
    """Hosts while this lasts; where there can be none, skips with the reason."""
    import pytest

    hosts = Hosts(*names, **how)
    try:
        hosts.start()
    except CannotMake as exc:
        pytest.skip(str(exc))
    try:
        yield hosts
    finally:
        hosts.stop()


def connected(client, server, address):
    """Return the two ends of a TCP connection to *address* of the host *server*, its own last."""
    with server.socket(socket.AF_INET) as listener:
        listener.bind((address, 0))
        listener.listen(1)
        sock = client.socket(socket.AF_INET)
        sock.connect(listener.getsockname())
        return sock, listener.accept()[0]


@contextlib.contextmanager
def without_bugs(made):
    """Hosts for one test, in which the server at *made.proxy* must log no bug of its own."""
    from kit.support import wait_until

    made.proxy.logged()
    yield made
    wait_until(lambda: made.proxy.connections() == 0, "the end of all connections")
    assert [] == made.proxy.bugs()


@contextlib.contextmanager
def or_skip():
    """Skip with the reason if this machine lacks what is needed inside."""
    import pytest

    try:
        yield
    except CannotMake as exc:
        pytest.skip(str(exc))


def _set_up():
    """Set up the host; return an error in words, or none."""
    return tool(["sh"], _QUIET) or tool(["ip", "-batch", "-"], "link set lo up\n")


def _main(fds):
    """Be the first host, and start the others, each in a namespace of its own."""
    first, others = fds[0], fds[1:]
    command = ["unshare", "-n", sys.executable, "-W", "error", "-m", "kit.hosts"]
    children = [
        subprocess.Popen(command + [str(fd)], pass_fds=(fd,), stdin=subprocess.DEVNULL)
        for fd in others
    ]
    for fd in others:
        os.close(fd)
    serve(first, _HostChild, _set_up)
    for child in children:
        child.wait()


if __name__ == "__main__":
    _main([int(arg) for arg in sys.argv[1:]])
