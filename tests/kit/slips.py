"""What a start says that needs no advice behind it: wrong settings, and warnings.

Pure data, for the documents and the tests.
"""

from kit.starts import AT_THE_START, Mistake

__all__ = ["SLIPS"]

SLIPS = (
    Mistake(
        "too-little-memory",
        AT_THE_START,
        "minisocks: not enough memory",
        "Python could not get the memory that it needs, about 20 MiB with its libraries.",
        "``free`` shows the memory, ``ulimit -v`` whether a limit is the reason.",
    ),
    Mistake(
        "config-file-is-no-text",
        AT_THE_START,
        "minisocks: FILE: this is no text in UTF-8; save it as such in your editor",
    ),
    Mistake(
        "port-0-without-pidfile",
        AT_THE_START,
        "minisocks: port 0 is another port at each start: name the process by --pidfile FILE",
    ),
    Mistake(
        "pidfile-of-others",
        AT_THE_START,
        "minisocks: cannot use the pidfile FILE: FILE may be written by other users: name "
        "another one, or remove it if it is a pidfile",
    ),
    Mistake(
        "no-place-for-a-pidfile",
        AT_THE_START,
        "minisocks: there is no place for a pidfile, because FILE is another user's, or open to "
        "others, and this user has no home directory to write to: name a --pidfile",
    ),
    Mistake(
        "no-default-pidfile",
        AT_THE_START,
        "warning: no pidfile FILE: ...",
        "The proxy serves, but ``status``, ``reload`` and ``stop`` cannot find it, because it "
        "cannot write a pidfile at the usual place.",
        "Name a path that it can write: ``--pidfile``. Or leave it so: TERM ends the process, HUP "
        "has it reload.",
    ),
    Mistake(
        "log-is-lost",
        AT_THE_START,
        "warning: log lines are lost: syslog at PATH: ...",
        "In the background the log goes to syslog, and no syslog runs here. Or it goes to "
        "HOST:PORT, and the name of that host has no address, or no name server answers, perhaps "
        "only at boot.",
        "Start a syslog daemon, or name a file: ``--log-file minisocks.log``. Of another host, "
        "write the address instead of the name.",
    ),
    Mistake(
        "family-unknown",
        AT_THE_START,
        "minisocks: --prefer: 'WORD' is none of ipv4, ipv6, ipv4-only, ipv6-only and system",
    ),
    Mistake(
        "source-is-no-address",
        AT_THE_START,
        "minisocks: --source: 'WORD' is no address; write one that this host has",
    ),
    Mistake(
        "rule-not-understood",
        AT_THE_START,
        "minisocks: --rule, column N: WORD has no meaning here; ...",
    ),
    Mistake(
        "network-not-understood",
        AT_THE_START,
        "minisocks: --rule, column N: VALUE is no network; write it as 10.0.0.0/8, 10.0.0.7 or "
        "fd00::/8",
    ),
    Mistake(
        "name-in-from",
        AT_THE_START,
        "minisocks: --rule, column N: from takes networks, and NAME is none: names of clients "
        "cannot be verified",
    ),
    Mistake(
        "no-rule-allows-anything",
        AT_THE_START,
        "warning: no rule allows anything, so no client can use this proxy; add an allow rule",
    ),
    Mistake(
        "no-rule-allows-users",
        AT_THE_START,
        "warning: no rule allows anything to any user, so each request is refused (REP 02), even "
        "after the right password. Write user any in an allow rule, or user none any if that rule "
        "is for clients without a password, too",
    ),
    Mistake(
        "rule-wants-users",
        AT_THE_START,
        "warning: rule N never matches: it names a user, but there are none",
        "The rule is about a client that has given a password, and there are no users.",
        "Add a user (``--user``, ``--users-file``), or remove ``user`` from the rule.",
    ),
    Mistake(
        "sources-of-one-family",
        AT_THE_START,
        "minisocks: --source: takes at most one IPv4 and one IPv6 address",
    ),
    Mistake(
        "key-unknown",
        AT_THE_START,
        "minisocks: FILE, line N: no setting is called 'KEY'; did you mean WORD?",
    ),
    Mistake(
        "key-twice",
        AT_THE_START,
        "minisocks: FILE, line N: KEY is there twice...",
        "It is not clear which of the two lines counts.",
        "Remove one. For several values (``listen``, ``user``) write the key once, and each value "
        "on an indented line of its own below it.",
    ),
    Mistake(
        "line-without-equals-sign",
        AT_THE_START,
        "minisocks: FILE, line N: write KEY = VALUE; this line has no key or no =",
    ),
    Mistake(
        "section-missing",
        AT_THE_START,
        "minisocks: FILE, line N: put the line [minisocks] above this line",
    ),
    Mistake(
        "section-unknown",
        AT_THE_START,
        "minisocks: FILE, line N: no section is called [WORD]...",
    ),
    Mistake(
        "out-of-range",
        AT_THE_START,
        "minisocks: PLACE: N is out of range: N to N",
    ),
    Mistake(
        "no-number",
        AT_THE_START,
        "minisocks: PLACE: 'VALUE' is no ...number...",
    ),
    Mistake(
        "neither-yes-nor-no",
        AT_THE_START,
        "minisocks: PLACE: 'VALUE' is neither yes nor no",
    ),
    Mistake(
        "variable-misspelled",
        AT_THE_START,
        "minisocks: VARIABLE: no setting is called so; did you mean VARIABLE?",
    ),
    Mistake(
        "variable-made-up",
        AT_THE_START,
        "warning: VARIABLE is no setting, and is not used",
    ),
    Mistake(
        "option-unknown",
        AT_THE_START,
        "minisocks: no option is called OPTION; ...",
    ),
    Mistake(
        "option-without-value",
        AT_THE_START,
        "minisocks: ...OPTION... requires an argument; see minisocks --help",
    ),
    Mistake(
        "flag-with-value",
        AT_THE_START,
        "minisocks: ...OPTION... does not take a value; see minisocks --help",
    ),
    Mistake(
        "listen-address-misspelled",
        AT_THE_START,
        "minisocks: PLACE: 'VALUE' is no address to listen on; write ...",
    ),
    Mistake(
        "ipv6-without-brackets",
        AT_THE_START,
        "minisocks: PLACE: an IPv6 address needs brackets: [ADDRESS]:PORT, not 'VALUE'",
    ),
    Mistake(
        "command-behind-options",
        AT_THE_START,
        "minisocks: WORD goes first: minisocks WORD [OPTIONS]",
    ),
    Mistake(
        "port-without-option",
        AT_THE_START,
        "minisocks: 'VALUE' is no option; to listen there, write -l ...",
    ),
    Mistake(
        "user-without-colon",
        AT_THE_START,
        "minisocks: PLACE: write it as NAME:PASSWORD, neither of them empty; a name that needs no "
        "password goes to --name-only",
    ),
    Mistake(
        "passwords-readable-by-others",
        AT_THE_START,
        "warning: FILE holds passwords, and others may read it: chmod 600 FILE",
    ),
    Mistake(
        "users-without-hash",
        AT_THE_START,
        "minisocks: --users-file: FILE, line N: this is no $pbkdf2-sha256$ hash; ...",
    ),
    Mistake(
        "users-of-the-system",
        AT_THE_START,
        "minisocks: --users-file: FILE, line N: this line is of the accounts of the system, "
        "which are no users of the proxy; ...",
    ),
    Mistake(
        "open-with-users",
        AT_THE_START,
        "warning: --open admits every client without a password, although there are users; ...",
    ),
    Mistake(
        "listens-by-ipv6-only",
        AT_THE_START,
        "warning: [ADDRESS]:PORT accepts clients by IPv6 only; ...",
    ),
    Mistake(
        "listens-twice",
        AT_THE_START,
        "minisocks: cannot listen on ADDRESS: this minisocks listens on ADDRESS already; name "
        "only one of the two",
    ),
    Mistake(
        "hashes-readable-by-others",
        AT_THE_START,
        "warning: FILE holds hashes, and others may read it: chmod 600 FILE",
    ),
    Mistake(
        "file-writable-by-others",
        AT_THE_START,
        "warning: FILE decides about clients, and ... may write it: chmod go-w FILE",
    ),
)
