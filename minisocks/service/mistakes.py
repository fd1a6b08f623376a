"""What a start fails with, in words that do not say what to do next; and that.

Pure data.  Loaded when something failed, never before.  Why it happens, and what else goes wrong,
is in the tests' ``starts``, ``slips`` and ``symptoms``, of which ``docs/troubleshooting.rst`` is
made.
"""

import re
from typing import NamedTuple, Pattern

__all__ = ["FAILURES", "Failure", "advice", "explained", "pattern_of"]

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


class Failure(NamedTuple):
    """One of them: ``seen`` is the line that is printed, with placeholders in capitals.

    ``hint`` is a clause that the command line adds to it.
    """

    name: str
    seen: str
    hint: str


def pattern_of(seen: str) -> Pattern[str]:
    """Return what *seen* looks like with the placeholders filled in."""
    parts, end = [], 0
    for found in _PLACEHOLDER.finditer(seen):
        parts += [re.escape(seen[end : found.start()])]
        parts += [".*" if found.group() == "..." else ".+"]
        end = found.end()
    return re.compile("".join([*parts, re.escape(seen[end:])]), re.S)


def advice(sentence: str) -> str:
    """Return what to do about *sentence*, which ended a start; "" where it says so itself."""
    for other, ours in _OTHER_WORDS.items():
        if sentence.endswith(other):
            sentence = sentence[: -len(other)] + ours
    known = [it for it in FAILURES if pattern_of(it.seen).fullmatch("minisocks: " + sentence)]
    return max(known, key=lambda failure: len(failure.seen)).hint if known else ""


def explained(sentence: str) -> str:
    """Return *sentence* with the advice behind it."""
    return "; ".join(filter(None, [sentence, advice(sentence)]))


FAILURES = (
    Failure(
        "port-taken",
        "minisocks: cannot listen on ADDRESS: Address already in use",
        "something has this port already: end that (ss -ltnp shows what) or take another one",
    ),
    Failure(
        "privileged-port",
        "minisocks: cannot listen on ADDRESS: Permission denied",
        "ports below 1024 are for root: take one from 1024 up, or start as root",
    ),
    Failure(
        "address-not-ours",
        "minisocks: cannot listen on ADDRESS: Cannot assign requested address",
        "this host has no such address: take one that 'ip address' shows, or :PORT for all",
    ),
    Failure(
        "no-ipv6",
        "minisocks: cannot listen on [ADDRESS]:PORT: Cannot assign requested address",
        "this host has no such IPv6 address, or no IPv6: take :PORT for what there is",
    ),
    Failure(
        "link-local-without-interface",
        "minisocks: cannot listen on [ADDRESS]:PORT: Invalid argument",
        "an fe80 address needs its interface: [fe80::1%eth0]:PORT",
    ),
    Failure(
        "listen-name-unknown",
        "minisocks: cannot listen on NAME:PORT: Name or service not known",
        "nobody knows this name: write the address itself, or :PORT for every address",
    ),
    Failure(
        "socket-path-too-long",
        "minisocks: cannot listen on unix:PATH: AF_UNIX path too long",
        "take a shorter one: it may have about 100 bytes",
    ),
    Failure(
        "socket-directory-missing",
        "minisocks: cannot listen on unix:PATH: No such file or directory",
        "make its directory first, with mkdir -p",
    ),
    Failure(
        "socket-not-permitted",
        "minisocks: cannot listen on unix:PATH: Permission denied",
        "take a path in a directory that this user may write to",
    ),
    Failure(
        "socket-path-is-a-file",
        "minisocks: cannot listen on unix:PATH: a file that is no socket is there",
        "take another path, or remove that file yourself",
    ),
    Failure(
        "socket-in-use",
        "minisocks: cannot listen on unix:PATH: another server answers there",
        "end that one first (ss -lxp shows which) or take another path",
    ),
    Failure(
        "road-not-permitted",
        "minisocks: targets cannot be dialed with OPTION: Operation not permitted",
        "it needs root, or CAP_NET_ADMIN (--mark) or CAP_NET_RAW (--interface)",
    ),
    Failure(
        "road-of-other-systems",
        "minisocks: targets cannot be dialed with OPTION: this system has no WORD",
        "leave it out: only Linux has it",
    ),
    Failure(
        "config-file-missing",
        "minisocks: PLACE: cannot read FILE: No such file or directory",
        "write its whole path, beginning with /",
    ),
    Failure(
        "config-file-unreadable",
        "minisocks: PLACE: cannot read FILE: Permission denied",
        "if it is minisocks' own, give it to the user that starts it, with chown",
    ),
    Failure(
        "config-file-is-a-directory",
        "minisocks: PLACE: cannot read FILE: Is a directory",
        "name the file in it",
    ),
    Failure(
        "key-made-up",
        "minisocks: FILE, line N: no setting is called 'KEY'",
        "see minisocks --help for those there are",
    ),
    Failure(
        "comment-behind-a-value",
        "minisocks: FILE, line N: KEY: 'VALUE # ...' is ...",
        "a comment needs a line of its own",
    ),
    Failure(
        "too-few-descriptors-to-start",
        "minisocks: ...Too many open files",
        "raise the limit on them: ulimit -n 4096",
    ),
    Failure(
        "no-thread-to-start",
        "minisocks: can't start new thread",
        "too many processes or too little memory: see ulimit -u and free",
    ),
    Failure(
        "already-running",
        "minisocks: it runs already: process N has FILE",
        "minisocks status shows what it does, stop ends it, with the same -l, -c or --pidfile",
    ),
    Failure(
        "not-running",
        "minisocks: not running: no process has FILE",
        "name --pidfile, --listen or -c as at its start, as the same user",
    ),
    Failure(
        "pidfile-of-another-user",
        "minisocks: cannot read the pidfile FILE: Permission denied",
        "it is another user's: ask as that one, or as root",
    ),
    Failure(
        "pidfile-directory-missing",
        "minisocks: cannot use the pidfile FILE: No such file or directory",
        "make its directory first, with mkdir -p",
    ),
    Failure(
        "pidfile-not-permitted",
        "minisocks: cannot use the pidfile FILE: Permission denied",
        "take a path that this user may write to, or leave it out",
    ),
    Failure(
        "cannot-be-spoken-to",
        "minisocks: process N cannot be spoken to at PATH: ...",
        "to end it, send it TERM by its number",
    ),
    Failure(
        "log-file-not-writable",
        "minisocks: --log-file: cannot write FILE: ...",
        "take a file in a directory that this user may write to",
    ),
    Failure(
        "log-file-is-a-socket",
        "minisocks: --log-file: cannot write FILE: it is a socket",
        "leave --log-file out, and the log goes to stderr; in a service that is the journal",
    ),
    Failure(
        "log-file-without-reader",
        "minisocks: --log-file: cannot write FILE: no process reads this pipe",
        "start the program that reads it first",
    ),
    Failure(
        "click-missing",
        "minisocks: this Python lacks something: No module named 'click'",
        "install the package python3-click, or minisocks by pipx, or take the single file",
    ),
    Failure(
        "module-missing",
        "minisocks: this Python lacks something: No module named 'NAME'",
        "it is part of Python: install your system's package of it (OpenWrt: python3-logging)",
    ),
)
