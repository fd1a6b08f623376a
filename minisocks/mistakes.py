"""What a start fails with, in words that do not say what to do next; and that.

Pure data.  Loaded when something failed, never before.  What else goes wrong
says itself what to do, or is met later: the tests' ``slips`` and ``symptoms`` have
that.  ``docs/troubleshooting.rst`` is made from all three, and a test makes each
mistake and holds what is said against ``seen``.
"""

import re
from typing import NamedTuple, Optional, Pattern

__all__ = ["AT_THE_START", "EXPLAINED", "Mistake", "advice", "explained"]

AT_THE_START = "At the start"

#: In ``seen`` these stand for something, and "..." for anything or nothing.
_PLACEHOLDER = re.compile(
    r"\b(?:ADDRESS|CLIENT|FILE|HOST|KEY|NAME|N|OPTION|PATH|PLACE|PORT|TARGET|VALUE|VARIABLE|WORD)\b"
    r"|\.\.\."
)

#: How other C libraries (musl on routers; BSD) say what ``seen`` has in glibc's words.
_OTHER_WORDS = {
    "Address in use": "Address already in use",
    "Address not available": "Cannot assign requested address",
    "Can't assign requested address": "Cannot assign requested address",
    "Address family not supported by protocol": "Cannot assign requested address",
    "Name does not resolve": "Name or service not known",
    "nodename nor servname provided, or not known": "Name or service not known",
    "No address associated with hostname": "Name or service not known",
    "Temporary failure in name resolution": "Name or service not known",
    "Try again": "Name or service not known",
    "No file descriptors available": "Too many open files",
}


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
        parts, end = [], 0
        for found in _PLACEHOLDER.finditer(self.seen):
            parts += [re.escape(self.seen[end : found.start()])]
            parts += [".*" if found.group() == "..." else ".+"]
            end = found.end()
        return re.compile("".join([*parts, re.escape(self.seen[end:])]), re.S)


def advice(sentence: str) -> str:
    """Return what to do about *sentence*, which ended a start; "" where it says so itself."""
    for other, ours in _OTHER_WORDS.items():
        if sentence.endswith(other):
            sentence = sentence[: -len(other)] + ours
    known = [m for m in EXPLAINED if m.pattern.fullmatch("minisocks: " + sentence)]
    return max(known, key=lambda mistake: len(mistake.seen)).hint if known else ""


def explained(sentence: str) -> str:
    """Return *sentence* with the advice behind it."""
    return "; ".join(filter(None, [sentence, advice(sentence)]))


EXPLAINED = (
    Mistake(
        "port-taken",
        AT_THE_START,
        "minisocks: cannot listen on ADDRESS: Address already in use",
        "Another program has this port, often a minisocks that still runs.",
        "Find it with ``ss -ltnp`` (or ``netstat -ltnp``) and end it, or take another port: "
        "``-l 1081``.",
        "something has this port already: end that (ss -ltnp shows what) or take another one",
    ),
    Mistake(
        "privileged-port",
        AT_THE_START,
        "minisocks: cannot listen on ADDRESS: Permission denied",
        "Ports below 1024 are for root, unless the system was told otherwise.",
        "Take a port from 1024 up, 1080 is what most clients expect: ``-l :1080``. If it has "
        "to be a low one, start as root, or lower the bound with "
        "``sysctl net.ipv4.ip_unprivileged_port_start=80``.",
        "ports below 1024 are for root: take one from 1024 up, or start as root",
    ),
    Mistake(
        "address-not-ours",
        AT_THE_START,
        "minisocks: cannot listen on ADDRESS: Cannot assign requested address",
        "No network interface of this host has this address, or not yet: at boot the "
        "network may come up later. To listen on an address says by which of its own "
        "addresses the proxy can be reached, not who may come in.",
        "Take one that ``ip address`` shows, or ``-l :1080`` for every address this host has "
        "and will have.",
        "this host has no such address: take one that 'ip address' shows, or :PORT for all",
    ),
    Mistake(
        "no-ipv6",
        AT_THE_START,
        "minisocks: cannot listen on [ADDRESS]:PORT: Cannot assign requested address",
        "This host does not have this IPv6 address; maybe IPv6 is switched off altogether.",
        "``ip -6 address`` shows the ones it has; nothing shown means no IPv6. Then listen on "
        "an IPv4 address, or on ``:1080``, which takes what there is of both.",
        "this host has no such IPv6 address, or no IPv6: take :PORT for what there is",
    ),
    Mistake(
        "link-local-without-interface",
        AT_THE_START,
        "minisocks: cannot listen on [ADDRESS]:PORT: Invalid argument",
        "An address that begins with fe80 is there on each interface, so it needs the name of "
        "one. One that begins with ::ffff is an IPv4 address: write it as that.",
        "``-l '[fe80::1%eth0]:1080'``; ``ip -6 address`` shows addresses and interfaces.",
        "an fe80 address needs its interface: [fe80::1%eth0]:PORT",
    ),
    Mistake(
        "listen-name-unknown",
        AT_THE_START,
        "minisocks: cannot listen on NAME:PORT: Name or service not known",
        "The name of the address to listen on cannot be resolved: it is misspelled, or no "
        "name server can be asked yet.",
        "Write the address itself (``-l 192.168.1.1:1080``) or ``-l :1080`` for every address. "
        "``getent hosts NAME`` shows what this host knows about a name.",
        "nobody knows this name: write the address itself, or :PORT for every address",
    ),
    Mistake(
        "socket-path-too-long",
        AT_THE_START,
        "minisocks: cannot listen on unix:PATH: AF_UNIX path too long",
        "The system takes no more than about 100 bytes for the path of a unix socket.",
        "Take a shorter one: ``-l unix:/run/minisocks.sock``.",
        "take a shorter one: it may have about 100 bytes",
    ),
    Mistake(
        "socket-directory-missing",
        AT_THE_START,
        "minisocks: cannot listen on unix:PATH: No such file or directory",
        "The directory of the unix socket does not exist. minisocks makes the socket, not "
        "the directories above it; and ``/run`` is empty again after each boot.",
        "Make it first: ``mkdir -p /run/minisocks``.",
        "make its directory first, with mkdir -p",
    ),
    Mistake(
        "socket-not-permitted",
        AT_THE_START,
        "minisocks: cannot listen on unix:PATH: Permission denied",
        "The user that minisocks runs as may not make files in this directory.",
        "Take a directory that this user may write to, or give it one: "
        "``install -d -o minisocks /run/minisocks``.",
        "take a path in a directory that this user may write to",
    ),
    Mistake(
        "socket-path-is-a-file",
        AT_THE_START,
        "minisocks: cannot listen on unix:PATH: a file that is no socket is there",
        "A socket that nobody uses any more is replaced; any other file or directory may be "
        "precious, and is left alone.",
        "Take another path, or remove the file yourself if nobody needs it.",
        "take another path, or remove that file yourself",
    ),
    Mistake(
        "socket-in-use",
        AT_THE_START,
        "minisocks: cannot listen on unix:PATH: another server answers there",
        "Another program listens on this unix socket: often a minisocks that still runs.",
        "Find it with ``ss -lxp`` and end it, or take another path.",
        "end that one first (ss -lxp shows which) or take another path",
    ),
    Mistake(
        "road-not-permitted",
        AT_THE_START,
        "minisocks: targets cannot be dialed with OPTION: Operation not permitted",
        "Marks, and on old kernels interfaces, are for root: they can lead packets around a "
        "firewall.",
        "Start as root, or give the service this one right: "
        "``AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW`` for systemd.",
        "it needs root, or CAP_NET_ADMIN (--mark) or CAP_NET_RAW (--interface)",
    ),
    Mistake(
        "road-of-other-systems",
        AT_THE_START,
        "minisocks: targets cannot be dialed with OPTION: this system has no WORD",
        "``--mark`` and ``--interface`` are Linux's.",
        "Leave it out; ``--source`` is there on every system.",
        "leave it out: only Linux has it",
    ),
    Mistake(
        "config-file-missing",
        AT_THE_START,
        "minisocks: PLACE: cannot read FILE: No such file or directory",
        "There is no such file. A path that does not begin with ``/`` begins in the directory "
        "that minisocks is started in, which is another one at boot or from cron.",
        "Write the whole path: ``-c /etc/minisocks.ini``.",
        "write its whole path, beginning with /",
    ),
    Mistake(
        "config-file-unreadable",
        AT_THE_START,
        "minisocks: PLACE: cannot read FILE: Permission denied",
        "The user that minisocks runs as may not read the file, or not enter a directory above it.",
        "If it is a file of minisocks' own, give it to that user: ``chown minisocks FILE; chmod "
        "600 FILE``; ``namei -l FILE`` shows who may enter which directory. A file of another "
        "program stays as it is: name one for minisocks.",
        "if it is minisocks' own, give it to the user that starts it, with chown",
    ),
    Mistake(
        "config-file-is-a-directory",
        AT_THE_START,
        "minisocks: PLACE: cannot read FILE: Is a directory",
        "The settings are in one file; a directory of files is not read.",
        "Name the file: ``-c /etc/minisocks/minisocks.ini``.",
        "name the file in it",
    ),
    Mistake(
        "key-made-up",
        AT_THE_START,
        "minisocks: FILE, line N: no setting is called 'KEY'",
        "The file has a key that resembles none of the settings; it may be another program's, "
        "or one of a newer minisocks.",
        "Remove the line, or put a ``#`` before it. ``minisocks --help`` has all settings, "
        "``minisocks --version`` tells the version.",
        "see minisocks --help for those there are",
    ),
    Mistake(
        "comment-behind-a-value",
        AT_THE_START,
        "minisocks: FILE, line N: KEY: 'VALUE # ...' is ...",
        "Behind ``=`` everything up to the end of the line is the value, a ``#`` included: a "
        "password may have one.",
        "Give the comment a line of its own, beginning with ``#``.",
        "a comment needs a line of its own",
    ),
    Mistake(
        "too-few-descriptors-to-start",
        AT_THE_START,
        "minisocks: ...Too many open files",
        "The system lets this process open too few files; each socket counts as one.",
        "``ulimit -n`` shows the limit; ``ulimit -n 4096`` raises it for what the shell starts, "
        "``LimitNOFILE=4096`` for a service of systemd.",
        "raise the limit on them: ulimit -n 4096",
    ),
    Mistake(
        "no-thread-to-start",
        AT_THE_START,
        "minisocks: can't start new thread",
        "The system has no room for another thread: too many processes of this user, or too "
        "little memory.",
        "``ulimit -u`` and ``ulimit -v`` show the limits, ``free`` the memory. The loop and a "
        "few more under load are enough.",
        "too many processes or too little memory: see ulimit -u and free",
    ),
    Mistake(
        "already-running",
        AT_THE_START,
        "minisocks: it runs already: process N has FILE",
        "A minisocks with this pidfile runs. Without ``--pidfile`` that is one of the same user "
        "with the same first address to listen on.",
        "``minisocks status`` shows what it does, ``minisocks stop`` ends it, with the ``-l``, "
        "``-c`` or ``--pidfile`` of the start. To run a second one give it a ``--pidfile`` of "
        "its own.",
        "minisocks status shows what it does, stop ends it, with the same -l, -c or --pidfile",
    ),
    Mistake(
        "not-running",
        AT_THE_START,
        "minisocks: not running: no process has FILE",
        "``status``, ``reload``, ``drain`` and ``stop`` speak to the process that has the "
        "pidfile, and nobody has this one. Which one that is follows from ``--pidfile``, or from "
        "the user and the first address to listen on.",
        "Name ``--pidfile``, ``--listen`` or ``-c`` as they were at its start, and be the same "
        "user. The exit status is 3.",
        "name --pidfile, --listen or -c as at its start, as the same user",
    ),
    Mistake(
        "pidfile-of-another-user",
        AT_THE_START,
        "minisocks: cannot read the pidfile FILE: Permission denied",
        "The pidfile is for the user that minisocks runs as, and for root: who can open it could "
        "keep the next one from starting.",
        "Ask as that user (``sudo -u minisocks ...``) or as root.",
        "it is another user's: ask as that one, or as root",
    ),
    Mistake(
        "pidfile-directory-missing",
        AT_THE_START,
        "minisocks: cannot use the pidfile FILE: No such file or directory",
        "The directory of the pidfile does not exist; ``/run`` is empty again after each boot.",
        "Make it first: ``mkdir -p /run/minisocks``; for a service of systemd, "
        "``RuntimeDirectory=minisocks``.",
        "make its directory first, with mkdir -p",
    ),
    Mistake(
        "pidfile-not-permitted",
        AT_THE_START,
        "minisocks: cannot use the pidfile FILE: Permission denied",
        "The user that minisocks runs as may not make files in this directory, or the file is "
        "another user's.",
        "Take a path in a directory that this user may write to, or leave ``--pidfile`` out.",
        "take a path that this user may write to, or leave it out",
    ),
    Mistake(
        "cannot-be-spoken-to",
        AT_THE_START,
        "minisocks: process N cannot be spoken to at PATH: ...",
        "It runs, but its socket beside the pidfile is gone, or it does not answer.",
        "End it by its number: ``kill -TERM N``. ``--ensure`` replaces one that does not answer "
        "its clients either.",
        "to end it, send it TERM by its number",
    ),
    Mistake(
        "log-file-not-writable",
        AT_THE_START,
        "minisocks: --log-file: cannot write FILE: ...",
        "The directory does not exist, or the user that minisocks runs as may not write there.",
        "Take another one, or make the directory: ``install -d -o minisocks /var/log/minisocks``.",
        "take a file in a directory that this user may write to",
    ),
    Mistake(
        "log-file-is-a-socket",
        AT_THE_START,
        "minisocks: --log-file: cannot write FILE: it is a socket",
        "A socket cannot be opened by its name. ``/dev/stdout`` and ``/dev/stderr`` are sockets in "
        "a service of systemd: they lead to its journal.",
        "Leave ``--log-file`` out: the log is on stderr then, which is the journal's.",
        "leave --log-file out, and the log goes to stderr; in a service that is the journal",
    ),
    Mistake(
        "log-file-without-reader",
        AT_THE_START,
        "minisocks: --log-file: cannot write FILE: no process reads this pipe",
        "The file is a named pipe (FIFO), and the program that reads it does not run.",
        "Start that program first.",
        "start the program that reads it first",
    ),
    Mistake(
        "click-missing",
        AT_THE_START,
        "minisocks: this Python lacks something: No module named 'click'",
        "The command line of minisocks needs the module click. The Python of a distribution has "
        "it in a package, and often refuses what pip would add to it (Debian from 12 on).",
        "``apt install python3-click`` (``dnf``, ``apk`` and ``opkg`` have it by the same name or "
        "as ``py3-click``), or ``pipx install .`` from a checkout, or the single file, which "
        "brings click along: ``scripts/build-single-file``.",
        "install the package python3-click, or minisocks by pipx, or take the single file",
    ),
    Mistake(
        "module-missing",
        AT_THE_START,
        "minisocks: this Python lacks something: No module named 'NAME'",
        "minisocks needs a few modules of the standard library that small systems have in "
        "packages of their own.",
        "On OpenWrt, ``opkg install python3-logging`` and the like; ``python3-light`` and that "
        "one are enough. Elsewhere the full Python of the system has it.",
        "it is part of Python: install your system's package of it (OpenWrt: python3-logging)",
    ),
)
