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
    ``do`` are sentences for people, in reStructuredText; ``hint``, a clause that
    the command line adds to its own where that does not say what to do.
    ``reply`` is the REP in a SOCKS5 reply, None where it does not come to one.
    """

    name: str
    where: str
    seen: str
    why: str
    do: str
    hint: str = ""
    reply: Optional[int] = None

    @property
    def pattern(self) -> Pattern[str]:
        """What ``seen`` looks like with the placeholders filled in."""
        return pattern_of(self.seen)


def _explained(name, error, why, do):
    return Mistake(name, AT_THE_START, "minisocks: " + error, why, do, HINTS[error])


EXPLAINED = (
    _explained(
        "port-taken",
        "cannot listen on ADDRESS: Address already in use",
        "Another program has this port, often a minisocks that still runs.",
        "Find it with ``ss -ltnp`` (or ``netstat -ltnp``) and end it, or take another port: "
        "``-l 1081``.",
    ),
    _explained(
        "privileged-port",
        "cannot listen on ADDRESS: Permission denied",
        "Ports below 1024 are for root, unless the system was told otherwise.",
        "Take a port from 1024 up, 1080 is what most clients expect: ``-l :1080``. If it has "
        "to be a low one, start as root, or lower the bound with "
        "``sysctl net.ipv4.ip_unprivileged_port_start=80``.",
    ),
    _explained(
        "address-not-ours",
        "cannot listen on ADDRESS: Cannot assign requested address",
        "No network interface of this host has this address, or not yet: at boot the "
        "network may come up later. To listen on an address says by which of its own "
        "addresses the proxy can be reached, not who may come in.",
        "Take one that ``ip address`` shows, or ``-l :1080`` for every address this host has "
        "and will have.",
    ),
    _explained(
        "no-ipv6",
        "cannot listen on [ADDRESS]:PORT: Cannot assign requested address",
        "This host does not have this IPv6 address; maybe IPv6 is switched off altogether.",
        "``ip -6 address`` shows the ones it has; nothing shown means no IPv6. Then listen on "
        "an IPv4 address, or on ``:1080``, which takes what there is of both.",
    ),
    _explained(
        "link-local-without-interface",
        "cannot listen on [ADDRESS]:PORT: Invalid argument",
        "An address that begins with fe80 is there on each interface, so it needs the name of "
        "one. One that begins with ::ffff is an IPv4 address: write it as that.",
        "``-l '[fe80::1%eth0]:1080'``; ``ip -6 address`` shows addresses and interfaces.",
    ),
    _explained(
        "listen-name-unknown",
        "cannot listen on NAME:PORT: Name or service not known",
        "The name of the address to listen on cannot be resolved: it is misspelled, or no "
        "name server can be asked yet.",
        "Write the address itself (``-l 192.168.1.1:1080``) or ``-l :1080`` for every address. "
        "``getent hosts NAME`` shows what this host knows about a name.",
    ),
    _explained(
        "socket-path-too-long",
        "cannot listen on unix:PATH: AF_UNIX path too long",
        "The system takes no more than about 100 bytes for the path of a unix socket.",
        "Take a shorter one: ``-l unix:/run/minisocks.sock``.",
    ),
    _explained(
        "socket-directory-missing",
        "cannot listen on unix:PATH: No such file or directory",
        "The directory of the unix socket does not exist. minisocks makes the socket, not "
        "the directories above it; and ``/run`` is empty again after each boot.",
        "Make it first: ``mkdir -p /run/minisocks``.",
    ),
    _explained(
        "socket-not-permitted",
        "cannot listen on unix:PATH: Permission denied",
        "The user that minisocks runs as may not make files in this directory.",
        "Take a directory that this user may write to, or give it one: "
        "``install -d -o minisocks /run/minisocks``.",
    ),
    _explained(
        "socket-path-is-a-file",
        "cannot listen on unix:PATH: a file that is no socket is there",
        "A socket that no process uses any more is replaced; any other file or directory may be "
        "precious, and is left alone.",
        "Take another path, or remove the file yourself if no program needs it.",
    ),
    _explained(
        "socket-in-use",
        "cannot listen on unix:PATH: another server answers there",
        "Another program listens on this unix socket: often a minisocks that still runs.",
        "Find it with ``ss -lxp`` and end it, or take another path.",
    ),
    _explained(
        "road-not-permitted",
        "targets cannot be dialed with OPTION: Operation not permitted",
        "Marks, and on old kernels interfaces, are for root: they can lead packets around a "
        "firewall.",
        "Start as root, or give the service this one right: "
        "``AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW`` for systemd.",
    ),
    _explained(
        "road-of-other-systems",
        "targets cannot be dialed with OPTION: this system has no WORD",
        "``--mark`` and ``--interface`` are Linux's.",
        "Leave it out; ``--source`` is there on every system.",
    ),
    _explained(
        "config-file-missing",
        "PLACE: cannot read FILE: No such file or directory",
        "There is no such file. A path that does not begin with ``/`` begins in the directory "
        "that minisocks is started in, which is another one at boot or from cron.",
        "Write the whole path: ``-c /etc/minisocks.ini``.",
    ),
    _explained(
        "config-file-unreadable",
        "PLACE: cannot read FILE: Permission denied",
        "The user that minisocks runs as may not read the file, or not enter a directory above it.",
        "If it is a file of minisocks' own, give it to that user: ``chown minisocks FILE; chmod "
        "600 FILE``; ``namei -l FILE`` shows who may enter which directory. A file of another "
        "program stays as it is: name one for minisocks.",
    ),
    _explained(
        "config-file-is-a-directory",
        "PLACE: cannot read FILE: Is a directory",
        "The settings are in one file; a directory of files is not read.",
        "Name the file: ``-c /etc/minisocks/minisocks.ini``.",
    ),
    _explained(
        "key-made-up",
        "FILE, line N: no setting is called 'KEY'",
        "The file has a key that resembles none of the settings; it may be another program's, "
        "or one of a newer minisocks.",
        "Remove the line, or put a ``#`` before it. ``minisocks --help`` has all settings, "
        "``minisocks --version`` tells the version.",
    ),
    _explained(
        "comment-behind-a-value",
        "FILE, line N: KEY: 'VALUE # ...' is ...",
        "Behind ``=`` everything up to the end of the line is the value, a ``#`` included: a "
        "password may have one.",
        "Give the comment a line of its own, beginning with ``#``.",
    ),
    _explained(
        "too-few-descriptors-to-start",
        "...Too many open files",
        "The system lets this process open too few files; each socket counts as one.",
        "``ulimit -n`` shows the limit; ``ulimit -n 4096`` raises it for what the shell starts, "
        "``LimitNOFILE=4096`` for a service of systemd.",
    ),
    _explained(
        "no-thread-to-start",
        "can't start new thread",
        "The system has no room for another thread: too many processes of this user, or too "
        "little memory.",
        "``ulimit -u`` and ``ulimit -v`` show the limits, ``free`` the memory. The loop and a "
        "few more under load are enough.",
    ),
    _explained(
        "already-running",
        "it runs already: process N has FILE",
        "A minisocks with this pidfile runs. Without ``--pidfile`` that is one of the same user "
        "with the same first address to listen on.",
        "``minisocks status`` shows what it does, ``minisocks stop`` ends it, with the ``-l``, "
        "``-c`` or ``--pidfile`` of the start. To run a second one give it a ``--pidfile`` of "
        "its own.",
    ),
    _explained(
        "not-running",
        "not running: no process has FILE",
        "``status``, ``reload``, ``drain`` and ``stop`` speak to the process that has the "
        "pidfile, and no process has this one. Which one that is follows from ``--pidfile``, or "
        "from the user and the first address to listen on.",
        "Name ``--pidfile``, ``--listen`` or ``-c`` as they were at its start, and be the same "
        "user. The exit status is 3.",
    ),
    _explained(
        "pidfile-of-another-user",
        "cannot read the pidfile FILE: Permission denied",
        "The pidfile is for the user that minisocks runs as, and for root: who can open it could "
        "keep the next one from starting.",
        "Ask as that user (``sudo -u minisocks ...``) or as root.",
    ),
    _explained(
        "pidfile-directory-missing",
        "cannot use the pidfile FILE: No such file or directory",
        "The directory of the pidfile does not exist; ``/run`` is empty again after each boot.",
        "Make it first: ``mkdir -p /run/minisocks``; for a service of systemd, "
        "``RuntimeDirectory=minisocks``.",
    ),
    _explained(
        "pidfile-not-permitted",
        "cannot use the pidfile FILE: Permission denied",
        "The user that minisocks runs as may not make files in this directory, or the file is "
        "another user's.",
        "Take a path in a directory that this user may write to, or leave ``--pidfile`` out.",
    ),
    _explained(
        "cannot-be-spoken-to",
        "process N does not answer at PATH: ...",
        "It runs, but its socket beside the pidfile is gone, or it does not answer.",
        "End it by its number: ``kill -TERM N``. ``--ensure`` replaces one that does not answer "
        "its clients either.",
    ),
    _explained(
        "log-file-not-writable",
        "--log-file: cannot write FILE: ...",
        "The directory does not exist, or the user that minisocks runs as may not write there.",
        "Take another one, or make the directory: ``install -d -o minisocks /var/log/minisocks``.",
    ),
    _explained(
        "log-file-is-a-socket",
        "--log-file: cannot write FILE: it is a socket",
        "A socket cannot be opened by its name. ``/dev/stdout`` and ``/dev/stderr`` are sockets in "
        "a service of systemd: they lead to its journal.",
        "Leave ``--log-file`` out: the log is on stderr then, which is the journal's.",
    ),
    _explained(
        "log-file-without-reader",
        "--log-file: cannot write FILE: no process reads this pipe",
        "The file is a named pipe (FIFO), and the program that reads it does not run.",
        "Start that program first.",
    ),
    _explained(
        "click-missing",
        "this Python lacks something: No module named 'click'",
        "The command line of minisocks needs the module click. The Python of a distribution has "
        "it in a package, and often refuses what pip would add to it (Debian from 12 on).",
        "``apt install python3-click`` (``dnf``, ``apk`` and ``opkg`` have it by the same name or "
        "as ``py3-click``), or ``pipx install .`` from a checkout, or the single file, which "
        "brings click along: ``scripts/build-single-file``.",
    ),
    _explained(
        "module-missing",
        "this Python lacks something: No module named 'NAME'",
        "minisocks needs a few modules of the standard library that small systems have in "
        "packages of their own.",
        "On OpenWrt, ``opkg install python3-logging`` and the like; ``python3-light`` and that "
        "one are enough. Elsewhere the full Python of the system has it.",
    ),
)
