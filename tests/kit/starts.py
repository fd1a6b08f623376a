"""What goes wrong, as the documents tell it; and why a start fails with what needs advice.

Pure data, for the documents and the tests.
"""

from typing import NamedTuple, Optional, Pattern

from minisocks.service.mistakes import HINTS, pattern_of

__all__ = ["AT_THE_START", "EXPLAINED", "Mistake"]

AT_THE_START = "At the start"


class Mistake(NamedTuple):
    """One thing that goes wrong.

    ``seen`` is the line that is printed, placeholders in capitals; ``why`` and
    ``do`` are sentences in reStructuredText, empty if ``seen`` itself says what to do; ``hint``
    is a clause that the command line adds to its line.
    ``reply`` is the REP in a SOCKS5 reply, None if there is no reply.
    """

    name: str
    where: str
    seen: str
    why: str = ""
    do: str = ""
    hint: str = ""
    reply: Optional[int] = None

    @property
    def pattern(self) -> Pattern[str]:
        """What ``seen`` looks like with the placeholders filled in."""
        return pattern_of(self.seen)


def _explained(name, error, why="", do=""):
    return Mistake(name, AT_THE_START, "minisocks: " + error, why, do, HINTS[error])


EXPLAINED = (
    _explained(
        "port-taken",
        "cannot listen on ADDRESS: Address already in use",
    ),
    _explained(
        "already-listening",
        "cannot listen on ADDRESS: minisocks runs there already: process N has FILE",
    ),
    _explained(
        "privileged-port",
        "cannot listen on ADDRESS: Permission denied",
        "The system keeps ports below 1024 for root.",
        "Take 1080, which most clients expect: ``-l :1080``. For a low port start as root, or "
        "lower the bound: ``sysctl net.ipv4.ip_unprivileged_port_start=80``.",
    ),
    _explained(
        "address-not-ours",
        "cannot listen on ADDRESS: Cannot assign requested address",
        "No interface of this host has this address, or not yet: at boot the network may come up "
        "later. It has to be an address of the proxy, not of its clients.",
        "Take ``-l :1080``, which is every address that this host has and will have.",
    ),
    _explained(
        "no-ipv6",
        "cannot listen on [ADDRESS]:PORT: Cannot assign requested address",
    ),
    _explained(
        "link-local-without-interface",
        "cannot listen on [ADDRESS]:PORT: Invalid argument",
        "An address that begins with fe80 exists on each interface. An address that begins with "
        "::ffff is an IPv4 address.",
        "Name the interface: ``-l '[fe80::1%eth0]:1080'``. Write the IPv4 address without ::ffff.",
    ),
    _explained(
        "listen-name-unknown",
        "cannot listen on NAME:PORT: Name or service not known",
    ),
    _explained(
        "socket-path-too-long",
        "cannot listen on unix:PATH: AF_UNIX path too long",
    ),
    _explained(
        "socket-directory-missing",
        "cannot listen on unix:PATH: No such file or directory",
        "The proxy makes the socket, but no directory. ``/run`` is empty again after each boot.",
        "Make the directory at each start: ``mkdir -p /run/minisocks``, or "
        "``RuntimeDirectory=minisocks`` for systemd.",
    ),
    _explained(
        "socket-not-permitted",
        "cannot listen on unix:PATH: Permission denied",
    ),
    _explained(
        "socket-path-is-a-file",
        "cannot listen on unix:PATH: a file that is no socket is there",
    ),
    _explained(
        "socket-in-use",
        "cannot listen on unix:PATH: another server answers there",
    ),
    _explained(
        "egress-not-permitted",
        "cannot connect to targets with OPTION: Operation not permitted",
        "Marks, and on old kernels interfaces, are for root, because they can lead packets around "
        "a firewall.",
        "Start as root, or give a service of systemd this right: "
        "``AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW``.",
    ),
    _explained(
        "egress-of-other-systems",
        "cannot connect to targets with OPTION: this system has no WORD",
    ),
    _explained(
        "config-file-missing",
        "PLACE: cannot read FILE: No such file or directory",
    ),
    _explained(
        "config-file-unreadable",
        "PLACE: cannot read FILE: Permission denied",
        "The user that minisocks runs as may not read the file, or may not enter a directory "
        "above it.",
        "``namei -l FILE`` shows the directories. If it is the file of minisocks: ``chown "
        "minisocks FILE; chmod 600 FILE``. Leave a file of another program as it is, and name one "
        "for minisocks.",
    ),
    _explained(
        "config-file-is-a-directory",
        "PLACE: cannot read FILE: Is a directory",
    ),
    _explained(
        "key-made-up",
        "FILE, line N: no setting is called 'KEY'",
    ),
    _explained(
        "comment-behind-a-value",
        "FILE, line N: KEY: 'VALUE # ...' is ...",
    ),
    _explained(
        "too-few-descriptors-to-start",
        "...Too many open files",
        "The system allows this process too few open files; each socket is one.",
        "``ulimit -n 4096`` in the shell that starts it, ``LimitNOFILE=4096`` for a service of "
        "systemd.",
    ),
    _explained(
        "no-thread-to-start",
        "can't start new thread",
    ),
    _explained(
        "already-running",
        "it runs already: process N has FILE",
        "A minisocks with this pidfile runs. Without ``--pidfile`` the user and the first address "
        "to listen on say which pidfile it is.",
        "To run a second one, give it its own ``--pidfile``.",
    ),
    _explained(
        "not-running",
        "not running: no process has FILE",
    ),
    _explained(
        "pidfile-of-another-user",
        "cannot read the pidfile FILE: Permission denied",
    ),
    _explained(
        "pidfile-directory-missing",
        "cannot use the pidfile FILE: No such file or directory",
        "``/run`` is empty again after each boot.",
        "Make the directory at each start: ``mkdir -p /run/minisocks``, or "
        "``RuntimeDirectory=minisocks`` for systemd.",
    ),
    _explained(
        "pidfile-is-a-directory",
        "cannot use the pidfile FILE: Is a directory",
    ),
    _explained(
        "pidfile-not-permitted",
        "cannot use the pidfile FILE: Permission denied",
    ),
    _explained(
        "cannot-be-spoken-to",
        "process N does not answer at PATH: ...",
    ),
    _explained(
        "log-file-not-writable",
        "PLACE: cannot write FILE: ...",
    ),
    _explained(
        "log-file-is-a-socket",
        "PLACE: cannot write FILE: it is a socket",
    ),
    _explained(
        "log-file-without-reader",
        "PLACE: cannot write FILE: no process reads this pipe",
    ),
    _explained(
        "click-missing",
        "this Python lacks something: No module named 'click'",
        "The command line needs the module click. Many distributions have it as a package, and "
        "refuse pip outside a virtual environment.",
        "``apt install python3-click`` (``dnf``, ``apk`` and ``opkg`` have it by the same name or "
        "as ``py3-click``), or ``pipx install .`` in a checkout, or the single file, which "
        "includes click: ``scripts/build-single-file``.",
    ),
    _explained(
        "module-missing",
        "this Python lacks something: No module named 'NAME'",
    ),
)
