"""Hints for errors whose message, often the system's, does not say what to do.

Loaded only when a command has failed.  ``docs/troubleshooting.rst`` has the reasons.
"""

import re
from typing import Pattern

__all__ = ["HINTS", "advice", "explained", "pattern_of"]

#: Placeholders in errors: a word stands for some text, "..." for any text or none.
_PLACEHOLDER = re.compile(
    r"\b(?:ADDRESS|CLIENT|FILE|HOST|KEY|NAME|N|OPTION|PATH|PLACE|PORT|TARGET|VALUE|VARIABLE|WORD)\b"
    r"|\.\.\."
)

#: Words of other C libraries (musl on routers; BSD), and those of glibc, which ``_TABLE`` has.
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

#: Errors, with placeholders in capitals, and under each its hint: a clause that is added to it.
_TABLE = """
cannot listen on ADDRESS: Address already in use
    a program uses this port already (ss -ltnp shows which): end it, or take another port
cannot listen on ADDRESS: minisocks runs there already: process N has FILE
    minisocks status shows it and minisocks stop ends it, with the same -l or this --pidfile
cannot listen on ADDRESS: Permission denied
    ports below 1024 are for root: take a port from 1024 up, or start as root
cannot listen on ADDRESS: Cannot assign requested address
    this host has no such address: take one that 'ip address' shows, or :PORT for all
cannot listen on [ADDRESS]:PORT: Cannot assign requested address
    this host has no such IPv6 address, or no IPv6: take :PORT for all addresses it has
cannot listen on [ADDRESS]:PORT: Invalid argument
    an fe80 address needs its interface: [fe80::1%eth0]:PORT
cannot listen on NAME:PORT: Name or service not known
    this name has no address: write the address itself, or :PORT for every address
cannot listen on unix:PATH: AF_UNIX path too long
    take a path of at most about 100 bytes
cannot listen on unix:PATH: No such file or directory
    make its directory first, with mkdir -p
cannot listen on unix:PATH: Permission denied
    take a path in a directory that this user may write to
cannot listen on unix:PATH: a file that is no socket is there
    take another path, or remove that file
cannot listen on unix:PATH: another server answers there
    end that server first (ss -lxp shows which) or take another path
cannot connect to targets with OPTION: Operation not permitted
    it needs root, or CAP_NET_ADMIN (--mark) or CAP_NET_RAW (--interface)
cannot connect to targets with OPTION: this system has no WORD
    leave the option out: only Linux has it
PLACE: cannot read FILE: No such file or directory
    name the file with its whole path, from /
PLACE: cannot read FILE: Permission denied
    if the file is for minisocks only, make its user the owner, with chown
PLACE: cannot read FILE: Is a directory
    name a file, not its directory
FILE, line N: no setting is called 'KEY'
    minisocks --help shows all settings
FILE, line N: KEY: 'VALUE # ...' is ...
    write the comment on a line of its own
...Too many open files
    raise the limit on open files: ulimit -n 4096
can't start new thread
    the system has too many processes or too little memory: see ulimit -u and free
it runs already: process N has FILE
    minisocks status shows it and minisocks stop ends it, with the same -l, -c or --pidfile
not running: no process has FILE
    give --pidfile, --listen or -c as at its start, and run this as the same user
cannot read the pidfile FILE: Permission denied
    another user owns it: run this as that user, or as root
cannot use the pidfile FILE: No such file or directory
    make its directory first, with mkdir -p
cannot use the pidfile FILE: Is a directory
    name a file, not its directory
cannot use the pidfile FILE: Permission denied
    take a path that this user may write to, or leave it out
process N does not answer at PATH: ...
    to end it, use kill and its number
PLACE: cannot write FILE: ...
    take a file in a directory that this user may write to
PLACE: cannot write FILE: it is a socket
    leave --log-file out: then the log goes to stderr, which is the journal in a service
PLACE: cannot write FILE: no process reads this pipe
    first start the program that reads it
this Python lacks something: No module named 'click'
    install the package python3-click, or minisocks by pipx, or take the single file
this Python lacks something: No module named 'NAME'
    it is part of Python: install the package that has it (OpenWrt: python3-logging)
"""
_LINES = _TABLE.strip().split("\n")
#: The hint of each error.
HINTS = dict(zip(_LINES[::2], (hint.strip() for hint in _LINES[1::2])))


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
    known = [seen for seen in HINTS if pattern_of(seen).fullmatch(sentence)]
    return HINTS[max(known, key=len)] if known else ""


def explained(sentence: str) -> str:
    """Return *sentence* and its hint."""
    return "; ".join(filter(None, [sentence, advice(sentence)]))
