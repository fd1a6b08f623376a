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
        "Python could not get the memory it needs, about 20 MiB with its libraries.",
        "``free`` shows what there is, ``ulimit -v`` whether a limit is in the way.",
    ),
    Mistake(
        "config-file-is-no-text",
        AT_THE_START,
        "minisocks: FILE: this is no text in UTF-8; save it as such in your editor",
        'It is no text at all, or the editor saved it as UTF-16, which some call "Unicode".',
        'Save it as "UTF-8" or "plain text", or convert it: '
        "``iconv -f UTF-16 -t UTF-8 FILE > NEW``.",
    ),
    Mistake(
        "port-0-without-pidfile",
        AT_THE_START,
        "minisocks: with port 0 nothing tells which one is meant: name its --pidfile",
        "Without ``--pidfile`` a process is found by the first address that it listens on, and "
        "with port 0 that is another one each time.",
        "Take a port, or name a ``--pidfile``, here and at the start.",
    ),
    Mistake(
        "pidfile-of-others",
        AT_THE_START,
        "minisocks: cannot use the pidfile FILE: FILE may be written by other users: name "
        "another one, or remove it if it is a pidfile",
        "Another user owns the file, or may write to it, and could say in it which process is to "
        "be ended.",
        "Take a path in a directory where others cannot make files. A pidfile that is left there "
        "can be removed; another program's file cannot.",
    ),
    Mistake(
        "no-place-for-a-pidfile",
        AT_THE_START,
        "minisocks: there is no place for a pidfile, because FILE is another user's, or open to "
        "others, and this user has no home directory to write to: name a --pidfile",
        "Every user may make this directory. Then ``~/.cache/minisocks`` is taken, in the home "
        "that the system's list of users has; but this user has none of its own.",
        "Name a ``--pidfile`` in a directory that only this user may write to, at the start and "
        "for ``status``, ``reload`` and ``stop``. Or have root remove what is in the way.",
    ),
    Mistake(
        "no-default-pidfile",
        AT_THE_START,
        "warning: no pidfile FILE: ...",
        "It serves, but ``status``, ``reload`` and ``stop`` will not find it: the place for the "
        "pidfile cannot be written.",
        "Name one that can: ``--pidfile``. Or leave it; TERM ends it, HUP reloads.",
    ),
    Mistake(
        "log-is-lost",
        AT_THE_START,
        "warning: the log goes nowhere: syslog: ...",
        "In the background the log goes to syslog, unless told otherwise, and there is none here.",
        "Start a syslog daemon, or name a file: ``--log-file minisocks.log``.",
    ),
    Mistake(
        "family-unknown",
        AT_THE_START,
        "minisocks: --prefer: 'WORD' is none of ipv4, ipv6, ipv4-only, ipv6-only and system",
        "``--prefer`` says which family of addresses is tried first, or is asked for alone.",
        "Write ``--prefer ipv4`` where IPv6 is broken, and ``--prefer ipv4-only`` where also the "
        "name server does not answer for it.",
    ),
    Mistake(
        "source-is-no-address",
        AT_THE_START,
        "minisocks: --source: 'WORD' is no address; write one that this host has",
        "``--source`` takes an IP address, no name and no interface.",
        "``ip address`` shows them; for an interface write ``--interface eth0``.",
    ),
    Mistake(
        "rule-not-understood",
        AT_THE_START,
        "minisocks: --rule, column N: WORD says nothing here; ...",
        "A word of the language of rules was expected: from, to, port, command, version or user.",
        "The line below shows where. ``docs/rules.rst`` has the language; several values of a "
        "clause stand behind its word, with blanks or commas between them.",
    ),
    Mistake(
        "network-not-understood",
        AT_THE_START,
        "minisocks: --rule, column N: VALUE is no network; write it as 10.0.0.0/8, 10.0.0.7 or "
        "fd00::/8",
        "Addresses in rules are written in full and in their usual form.",
        "Not ``10.1`` and not ``10.0.0.0/255.0.0.0`` but ``10.0.0.0/8``.",
    ),
    Mistake(
        "name-in-from",
        AT_THE_START,
        "minisocks: --rule, column N: from takes networks, and NAME is none: nobody knows the "
        "names of clients for sure",
        "Clients are known by their addresses; what name an address has is said by whoever owns "
        "the address.",
        "Write the address, and see to it that it stays the same (a fixed lease of DHCP).",
    ),
    Mistake(
        "no-rule-allows-anything",
        AT_THE_START,
        "warning: no rule allows anything, so no client can use this proxy; add an allow rule",
        "A rule denies everything, and no ``allow`` stands before it: a ``deny`` with nothing "
        "behind it, say. Without it what no rule matches is denied as well.",
        "Remove it, or add an ``allow`` before it: ``allow from loopback``, say.",
    ),
    Mistake(
        "no-rule-lets-users-in",
        AT_THE_START,
        "warning: no rule admits any user by password: even the right password gets REP 02. Add "
        "an allow rule with user any, or with user none any if it is for clients without a "
        "password, too",
        "There are users, and of the rules that allow none is about them: ``user none`` is for "
        "clients without a password only. An ``allow`` of yours takes the place of the built-in "
        "``allow user any``.",
        "Add ``allow user any`` behind the others, or write ``user none any`` where it says ``user "
        "none``.",
    ),
    Mistake(
        "rule-wants-users",
        AT_THE_START,
        "warning: rule N never matches: it names a user, but there are none",
        "The rule is about who has given a password, and nobody can: there are no users.",
        "Make one (``--user``, ``--users-file``), or take ``user`` out of the rule.",
    ),
    Mistake(
        "sources-of-one-family",
        AT_THE_START,
        "minisocks: --source: takes one address of each family",
        "There are two IPv4 addresses, or two IPv6 addresses, and a connection can only come "
        "from one.",
        "Leave one of them out, or start a second minisocks with it.",
    ),
    Mistake(
        "key-unknown",
        AT_THE_START,
        "minisocks: FILE, line N: no setting is called 'KEY'; did you mean WORD?",
        "A key in the file is misspelled. Nothing is started, because a setting that is not "
        "in force (who may come in!) is worse than no proxy.",
        "Write it as the option without its dashes: ``--allow-lan`` is ``allow-lan = yes``. "
        "``minisocks --help`` has all of them.",
    ),
    Mistake(
        "key-twice",
        AT_THE_START,
        "minisocks: FILE, line N: KEY is there twice...",
        "It is not clear which of the two lines counts.",
        "Remove one. A setting that may have several values (``listen``, ``user``) has each "
        "on a line of its own below its key, indented.",
    ),
    Mistake(
        "line-without-equals-sign",
        AT_THE_START,
        "minisocks: FILE, line N: write KEY = VALUE; this line has no key or no =",
        "A line of the file is neither a setting nor a comment. It is not repeated here, "
        "because it may hold a password.",
        "Write flags with a value, too: ``allow-lan = yes``. Put a ``#`` before what is a "
        "comment, and indent a further value of the key above.",
    ),
    Mistake(
        "section-missing",
        AT_THE_START,
        "minisocks: FILE, line N: write [minisocks] above it, the section of the settings",
        "The file begins with settings; they need the section's name above them.",
        "Make ``[minisocks]`` the first line.",
    ),
    Mistake(
        "section-unknown",
        AT_THE_START,
        "minisocks: FILE, line N: no section is called [WORD]...",
        "The sections are ``[minisocks]`` and ``[rules]``; the name of this one is misspelled, or "
        "it is another program's.",
        "Write ``[minisocks]``, in small letters, and put all settings below it.",
    ),
    Mistake(
        "out-of-range",
        AT_THE_START,
        "minisocks: PLACE: N is out of range: N to N",
        "The number is smaller or greater than anything that makes sense here; times are in "
        "seconds.",
        "Take a number between the two, or leave the setting out: the defaults are in "
        "``minisocks --help``.",
    ),
    Mistake(
        "no-number",
        AT_THE_START,
        "minisocks: PLACE: 'VALUE' is no ...number...",
        "The setting takes a number and nothing else.",
        "Write it in digits, seconds without a unit: ``--grace 10``, not ``10s``.",
    ),
    Mistake(
        "neither-yes-nor-no",
        AT_THE_START,
        "minisocks: PLACE: 'VALUE' is neither yes nor no",
        "In the file and in variables a flag has one of two values.",
        "Write ``yes`` or ``no`` (``1``, ``true``, ``on``; ``0``, ``false``, ``off``).",
    ),
    Mistake(
        "variable-misspelled",
        AT_THE_START,
        "minisocks: VARIABLE: no setting is called so; did you mean VARIABLE?",
        "A variable of the environment begins with ``MINISOCKS_`` and resembles one that is "
        "read. It was meant to be that one, so nothing is started without it. Those that "
        "Kubernetes makes for a Service called minisocks are known and ignored.",
        "Correct it, or take it out of the environment: ``env | grep MINISOCKS_`` shows it.",
    ),
    Mistake(
        "variable-made-up",
        AT_THE_START,
        "warning: VARIABLE is no setting, and is not used",
        "A variable of the environment begins with ``MINISOCKS_`` and is none that is read. "
        "It may be another tool's, so the proxy starts all the same.",
        "Nothing, if it is. ``minisocks check`` shows where each setting comes from.",
    ),
    Mistake(
        "option-unknown",
        AT_THE_START,
        "minisocks: no option is called OPTION; ...",
        "An option is misspelled, or is one of a newer minisocks.",
        "``minisocks --help`` has all of them; ``minisocks --version`` tells the version.",
    ),
    Mistake(
        "option-without-value",
        AT_THE_START,
        "minisocks: ...OPTION... requires an argument; see minisocks --help",
        "The option is the last word, and its value is missing.",
        "Write the value behind it: ``-l 1080``.",
    ),
    Mistake(
        "flag-with-value",
        AT_THE_START,
        "minisocks: ...OPTION... does not take a value; see minisocks --help",
        "On the command line a flag stands alone; only variables and the file have a value.",
        "Write ``--open`` to switch it on, ``--no-open`` to take it back.",
    ),
    Mistake(
        "listen-address-misspelled",
        AT_THE_START,
        "minisocks: PLACE: 'VALUE' is no address to listen on; write ...",
        "It has no port, one above 65535, or another form than those that are known.",
        "Write ``1080`` for this host only, ``:1080`` for every address, "
        "``192.168.1.1:1080`` for one of them.",
    ),
    Mistake(
        "ipv6-without-brackets",
        AT_THE_START,
        "minisocks: PLACE: an IPv6 address needs brackets: [ADDRESS]:PORT, not 'VALUE'",
        "An IPv6 address has colons of its own: without brackets nobody can tell where the "
        "port begins.",
        "Write ``-l '[::1]:1080'``; the quotes keep the shell from reading the brackets.",
    ),
    Mistake(
        "command-behind-options",
        AT_THE_START,
        "minisocks: WORD goes first: minisocks WORD [OPTIONS]",
        "A command such as ``check`` stands behind an option.",
        "Put it first: ``minisocks check -c FILE``.",
    ),
    Mistake(
        "port-without-option",
        AT_THE_START,
        "minisocks: 'VALUE' is no option; to listen there, write -l ...",
        "A port or an address stands alone, as other programs take it.",
        "Put ``-l`` before it: ``minisocks -l 1080``.",
    ),
    Mistake(
        "user-without-colon",
        AT_THE_START,
        "minisocks: PLACE: write it as NAME:PASSWORD, neither of them empty; a name that needs no "
        "password goes to --name-only",
        "A user needs a name and a password with a colon between them. An empty password may be "
        "one that a script has not set.",
        "Write ``--user ann:secret``. What was there is not repeated, because it may be the "
        "password. Where any password is right, write ``--name-only ann``.",
    ),
    Mistake(
        "passwords-readable-by-others",
        AT_THE_START,
        "warning: FILE holds passwords, and others may read it: chmod 600 FILE",
        "Everybody who may log in to this host can read the passwords in the file.",
        "Do what it says, as the file's owner.",
    ),
    Mistake(
        "users-without-hash",
        AT_THE_START,
        "minisocks: --users-file: FILE, line N: this is no $pbkdf2-sha256$ hash; ...",
        "The file of users has hashes in the place of passwords, so that whoever gets hold of it "
        "has none.",
        "Put in the place of this line what ``minisocks hash-password --name NAME`` prints.",
    ),
    Mistake(
        "users-of-the-system",
        AT_THE_START,
        "minisocks: --users-file: FILE, line N: this is a line of the system's own accounts, "
        "which are no users of the proxy; ...",
        "A file such as ``/etc/passwd`` has the accounts of this host. The proxy has users of its "
        "own, with passwords of their own.",
        "Leave that file as it is. Make another one: ``minisocks hash-password --name ann "
        ">>/etc/minisocks.users``.",
    ),
    Mistake(
        "open-with-users",
        AT_THE_START,
        "warning: --open admits every client without a password, although there are users; ...",
        "``--open`` is for a proxy that every client may use. With users, too, clients that send "
        "no password come in.",
        "Leave ``--open`` out: with users, clients from everywhere come in by password.",
    ),
    Mistake(
        "listens-by-ipv6-only",
        AT_THE_START,
        "warning: [ADDRESS]:PORT accepts clients by IPv6 only; ...",
        "``[::]`` is every IPv6 address, and no IPv4 address. Other programs may take both there.",
        "``-l :1080`` is every address of both families. If only IPv6 was meant, leave it.",
    ),
    Mistake(
        "listens-twice",
        AT_THE_START,
        "minisocks: cannot listen on ADDRESS: this minisocks listens on ADDRESS already; name "
        "only one of the two",
        "Two of the addresses to listen on are one and the same, or one includes the other, as "
        "``:1080`` includes ``127.0.0.1:1080``.",
        "Leave one of them out. ``minisocks check`` shows what was named, and where.",
    ),
    Mistake(
        "hashes-readable-by-others",
        AT_THE_START,
        "warning: FILE holds hashes, and others may read it: chmod 600 FILE",
        "Everybody who may log in to this host can take the hashes home and guess at leisure.",
        "Do what it says, as the file's owner.",
    ),
    Mistake(
        "file-writable-by-others",
        AT_THE_START,
        "warning: FILE decides about clients, and ... may write it: chmod go-w FILE",
        "Another account of this host can make itself a user of the proxy, or change its rules. "
        "A file of users should be its owner's alone.",
        "Do what it says, as the file's owner.",
    ),
)
