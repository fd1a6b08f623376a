"""Hints for errors whose message, often the system's, does not say what to do.

Loaded only when a command has failed.  ``docs/troubleshooting.rst`` has the reasons.
"""

import re
from typing import NamedTuple, Pattern

__all__ = ["FAILURES", "Failure", "advice", "explained", "pattern_of"]

#: Placeholders in ``seen``: a word stands for some text, "..." for any text or none.
_PLACEHOLDER = re.compile(
    r"\b(?:ADDRESS|CLIENT|FILE|HOST|KEY|NAME|N|OPTION|PATH|PLACE|PORT|TARGET|VALUE|VARIABLE|WORD)\b"
    r"|\.\.\."
)

#: Words of other C libraries (musl on routers; BSD), and those of glibc, which ``seen`` has.
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
    """An error that a command ends with: ``seen`` is its line, with placeholders in capitals.

    ``hint`` is the clause that the command line adds; ``name`` is for tests and documents.
    """

    name: str
    seen: str
    hint: str


def pattern_of(seen: str) -> Pattern[str]:
    """Return a pattern of the lines that *seen*, with its placeholders, stands for."""
    parts, end = [], 0
    for found in _PLACEHOLDER.finditer(seen):
        parts += [re.escape(seen[end : found.start()])]
        parts += [".*" if found.group() == "..." else ".+"]
        end = found.end()
    return re.compile("".join([*parts, re.escape(seen[end:])]), re.S)


def advice(sentence: str) -> str:
    """Return the hint for the error *sentence*, "" if it needs none."""
    for other, ours in _OTHER_WORDS.items():
        if sentence.endswith(other):
            sentence = sentence[: -len(other)] + ours
    known = [it for it in FAILURES if pattern_of(it.seen).fullmatch("minisocks: " + sentence)]
    return max(known, key=lambda failure: len(failure.seen)).hint if known else ""


def explained(sentence: str) -> str:
    """Return *sentence* and its hint."""
    return "; ".join(filter(None, [sentence, advice(sentence)]))


FAILURES = (
    Failure(
        "port-taken",
        "minisocks: cannot listen on ADDRESS: Address already in use",
        "another program uses this port: end it (ss -ltnp shows which) or take another port",
    ),
    Failure(
        "privileged-port",
        "minisocks: cannot listen on ADDRESS: Permission denied",
        "ports below 1024 are for root: take a port from 1024 up, or start as root",
    ),
    Failure(
        "address-not-ours",
        "minisocks: cannot listen on ADDRESS: Cannot assign requested address",
        "this host has no such address: take one that 'ip address' shows, or :PORT for all",
    ),
    Failure(
        "no-ipv6",
        "minisocks: cannot listen on [ADDRESS]:PORT: Cannot assign requested address",
        "this host has no such IPv6 address, or no IPv6: take :PORT for all addresses it has",
    ),
    Failure(
        "link-local-without-interface",
        "minisocks: cannot listen on [ADDRESS]:PORT: Invalid argument",
        "an fe80 address needs its interface: [fe80::1%eth0]:PORT",
    ),
    Failure(
        "listen-name-unknown",
        "minisocks: cannot listen on NAME:PORT: Name or service not known",
        "this name has no address: write the address itself, or :PORT for every address",
    ),
    Failure(
        "socket-path-too-long",
        "minisocks: cannot listen on unix:PATH: AF_UNIX path too long",
        "take a path of at most about 100 bytes",
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
        "take another path, or remove that file",
    ),
    Failure(
        "socket-in-use",
        "minisocks: cannot listen on unix:PATH: another server answers there",
        "end that server first (ss -lxp shows which) or take another path",
    ),
    Failure(
        "road-not-permitted",
        "minisocks: targets cannot be dialed with OPTION: Operation not permitted",
        "it needs root, or CAP_NET_ADMIN (--mark) or CAP_NET_RAW (--interface)",
    ),
    Failure(
        "road-of-other-systems",
        "minisocks: targets cannot be dialed with OPTION: this system has no WORD",
        "leave the option out: only Linux has it",
    ),
    Failure(
        "config-file-missing",
        "minisocks: PLACE: cannot read FILE: No such file or directory",
        "write its whole path, from / on",
    ),
    Failure(
        "config-file-unreadable",
        "minisocks: PLACE: cannot read FILE: Permission denied",
        "if the file is for minisocks only, make its user the owner, with chown",
    ),
    Failure(
        "config-file-is-a-directory",
        "minisocks: PLACE: cannot read FILE: Is a directory",
        "name a file, not its directory",
    ),
    Failure(
        "key-made-up",
        "minisocks: FILE, line N: no setting is called 'KEY'",
        "minisocks --help shows all settings",
    ),
    Failure(
        "comment-behind-a-value",
        "minisocks: FILE, line N: KEY: 'VALUE # ...' is ...",
        "write the comment on a line of its own",
    ),
    Failure(
        "too-few-descriptors-to-start",
        "minisocks: ...Too many open files",
        "raise the limit on open files: ulimit -n 4096",
    ),
    Failure(
        "no-thread-to-start",
        "minisocks: can't start new thread",
        "the system has too many processes or too little memory: see ulimit -u and free",
    ),
    Failure(
        "already-running",
        "minisocks: it runs already: process N has FILE",
        "minisocks status shows it and minisocks stop ends it, with the same -l, -c or --pidfile",
    ),
    Failure(
        "not-running",
        "minisocks: not running: no process has FILE",
        "give --pidfile, --listen or -c as at its start, and run this as the same user",
    ),
    Failure(
        "pidfile-of-another-user",
        "minisocks: cannot read the pidfile FILE: Permission denied",
        "another user owns it: run this as that user, or as root",
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
        "minisocks: process N does not answer at PATH: ...",
        "to end it, use kill and its number",
    ),
    Failure(
        "log-file-not-writable",
        "minisocks: --log-file: cannot write FILE: ...",
        "take a file in a directory that this user may write to",
    ),
    Failure(
        "log-file-is-a-socket",
        "minisocks: --log-file: cannot write FILE: it is a socket",
        "leave --log-file out: then the log goes to stderr, which is the journal in a service",
    ),
    Failure(
        "log-file-without-reader",
        "minisocks: --log-file: cannot write FILE: no process reads this pipe",
        "first start the program that reads it",
    ),
    Failure(
        "click-missing",
        "minisocks: this Python lacks something: No module named 'click'",
        "install the package python3-click, or minisocks by pipx, or take the single file",
    ),
    Failure(
        "module-missing",
        "minisocks: this Python lacks something: No module named 'NAME'",
        "it is part of Python: install the package that has it (OpenWrt: python3-logging)",
    ),
)
