"""The one table of settings, and the typed record of their values.  No click.

``Config`` holds values, each default under the reason for it.  ``SETTINGS``
says how each is spelled, read and explained; the command line, the
environment's variables, the ini file's keys and the tables in the documents are
made from it.  A test proves that both name the same settings.
"""

from typing import Any, NamedTuple, Optional, Tuple

from minisocks.errors import ConfigError
from minisocks.rulelines import check_rule
from minisocks.setting import Setting, closest
from minisocks.values import (
    ListenAddress,
    check_interface,
    check_log_format,
    check_path,
    check_preference,
    check_source,
    check_syslog,
    check_user,
    encode,
    without_password,
)

__all__ = [
    "CONFIG_FILE",
    "GROUPS",
    "SETTINGS",
    "Config",
]


class Config(NamedTuple):
    """Settings of one proxy.  Immutable; derive with ``_replace``."""

    # Where to listen. Loopback: a proxy that everybody can reach is a decision.
    listen: Tuple[str, ...] = ("127.0.0.1:1080",)
    # NAME:PASSWORD; none: nobody has a password.
    user: Tuple[str, ...] = ()
    # A file of NAME:HASH lines; "": none.
    users_file: str = ""
    # Seconds for which an address that has logged in may come in without a
    # password: browsers cannot send one by SOCKS. 0: it may not.
    auth_once: float = 0.0
    # Clients on private networks may come in without a password.
    allow_lan: bool = False
    # Any client may.
    open: bool = False
    # Rules, the first that matches decides; none: what is built in.
    rule: Tuple[str, ...] = ()
    # Handshakes unfinished at once. Beyond it the oldest of the address that
    # has most is closed, so that a scanner only gets in its own way.
    max_handshakes: int = 256
    # Connections at once; None: no limit, for a program knows what it has. The command
    # line takes what the descriptor limit allows, so that some are left for refusals.
    max_connections: Optional[int] = None
    # Of one client, which in IPv6 has a /64, and of one user.
    max_per_client: Optional[int] = None
    max_per_user: Optional[int] = None
    # Bytes a second of one client, in each direction.
    rate: Optional[int] = None
    # Bytes for connections and for what waits in them; beyond it the greediest that is
    # stalled is shed, so that it is never the process that ends.
    memory_limit: Optional[int] = None
    # Seconds for all that a client must say. A phone on a bad link needs about
    # 5; a scanner keeps a descriptor no longer than this.
    handshake_timeout: float = 30.0
    # Seconds to reach the target, names included. The SOCKS4 memo says 2 minutes.
    connect_timeout: float = 120.0
    # Seconds without a byte that a connection lives. None: SSH sessions are silent
    # for days, and keepalive finds those whose peer has gone.
    idle_timeout: Optional[float] = None
    # Seconds that open connections get after TERM.
    grace: float = 10.0
    # Which family of a name's addresses is tried first: ipv4, ipv6 or system.
    prefer: str = "system"
    # Addresses to connect from; none: the system chooses.
    source: Tuple[str, ...] = ()
    # Network interface to connect through; "": the system chooses.
    interface: str = ""
    # Mark of outgoing packets, for policy routing; 0: none.
    mark: int = 0
    # The file with the lock that says that it runs; "": one by user and listener.
    pidfile: str = ""
    # Leave the terminal once it listens.
    daemon: bool = False
    # Where the log goes; "": not to a file. Neither file nor syslog: to stderr.
    log_file: str = ""
    # local, PATH or HOST:PORT; "": not to syslog.
    syslog: str = ""
    # text or json.
    log_format: str = "text"
    # No log line for each connection.
    quiet: bool = False
    # Log what health checks and scanners do, too.
    verbose: bool = False

    @classmethod
    def of(cls, **values: Any) -> "Config":
        """Make one from keywords as people write them in Python.

        A setting that may be repeated takes one text as well as several.

        Raises:
            TypeError: there is no such setting.
            ConfigError: a value cannot be used.
        """
        for name in values:
            if name not in cls._fields:
                raise TypeError("no setting is called %r%s" % (name, closest(name, cls._fields)))
        for setting in SETTINGS:
            if setting.of_process and setting.name in values:
                raise TypeError("%s is for the command line, not for programs" % setting.name)
            value = values.get(setting.name)
            if setting.kind == "texts" and isinstance(value, (str, list)):
                values[setting.name] = (value,) if isinstance(value, str) else tuple(value)
        try:
            return cls()._replace(**values).checked()
        except ConfigError as exc:
            # In a traceback the message stands alone.
            raise ConfigError(exc.option, exc.sentence) from None

    def checked(self) -> "Config":
        """Return self if every value can be used.

        Raises:
            ConfigError: one cannot; the first that was found.
        """
        for setting in SETTINGS:
            setting.check(getattr(self, setting.name))
        if not self.listen:
            raise ConfigError("--listen", "needs at least one address")
        if len({":" in source for source in self.source}) < len(self.source):
            raise ConfigError("--source", "takes one address of each family")
        return self

    def credentials(self) -> Tuple[Tuple[bytes, bytes], ...]:
        """Return the user names and passwords as clients send them."""
        pairs = (text.partition(":") for text in self.user)
        return tuple((encode(name), encode(password)) for name, _, password in pairs)

    def __repr__(self) -> str:
        shown = self._replace(user=tuple(without_password(text) for text in self.user))
        return "Config(%s)" % ", ".join("%s=%r" % item for item in shown._asdict().items())


#: In the order of ``--help``.
GROUPS = (
    "Listening",
    "Who may come in",
    "Limits",
    "Time limits",
    "The road out",
    "Running as a service",
    "Logging",
)
_LISTENING, _WHO, _LIMITS, _TIME, _ROAD, _SERVICE, _LOGGING = GROUPS

#: Not among the others: it says where they are, so it is in no ``Config``.
CONFIG_FILE = Setting(
    _SERVICE,
    "config",
    "text",
    "Read settings from this ini file; what the command line and the environment say wins.",
    "FILE",
    "-c",
)

_ROWS = (
    Setting(
        _LISTENING,
        "listen",
        "texts",
        "Listen here: PORT (on 127.0.0.1), HOST:PORT, [V6]:PORT, :PORT (every address, IPv4 and "
        "IPv6), NAME:PORT or unix:PATH. Port 0 is any free one. May be repeated.",
        "ADDRESS",
        "-l",
        accept=ListenAddress.parse,
    ),
    Setting(
        _WHO,
        "user",
        "texts",
        "Let clients in with this password. It shows in ps: for trying out. May be repeated.",
        "NAME:PASSWORD",
        accept=check_user,
    ),
    Setting(
        _WHO,
        "users_file",
        "text",
        "Let clients in with the passwords in this file: a line NAME:HASH for each user, which "
        "minisocks hash-password makes. Read anew on reload.",
        "FILE",
        accept=check_path("--users-file"),
    ),
    Setting(
        _WHO,
        "auth_once",
        "seconds",
        "An address that has logged in may come in without a password for so long: browsers "
        "send none. 0: it may not.",
        "SECS",
        least=0,
        most=30 * 86400,
    ),
    Setting(_WHO, "allow_lan", "flag", "Let clients on private networks in without a password."),
    Setting(_WHO, "open", "flag", "Let any client in without a password."),
    Setting(
        _WHO,
        "rule",
        "texts",
        "Allow or deny, as in 'deny to .example.org port 25'; the first rule that matches "
        "decides, and what none matches is denied. May be repeated; in the file, a line each "
        "under [rules].",
        "TEXT",
        accept=check_rule,
    ),
    Setting(
        _LIMITS,
        "max_handshakes",
        "count",
        "Unfinished handshakes at once, half of them for each client; beyond it the oldest of the "
        "busiest client is closed.",
        "N",
        least=4,
        most=65536,
    ),
    Setting(
        _LIMITS,
        "max_connections",
        "count",
        "Connections at once. On the command line, without it: what the limit of descriptors "
        "allows.",
        "N",
        least=1,
        most=10**6,
    ),
    Setting(
        _LIMITS,
        "max_per_client",
        "count",
        "Connections of one client at once; in IPv6 that is a /64.",
        "N",
        least=1,
        most=10**6,
    ),
    Setting(
        _LIMITS,
        "max_per_user",
        "count",
        "Connections of one user at once.",
        "N",
        least=1,
        most=10**6,
    ),
    Setting(
        _LIMITS,
        "rate",
        "bytes",
        "Bytes a second for one client, in each direction: 500k, 1.5M, 64KiB.",
        "BYTES",
        least=1000,
        most=10**12,
    ),
    Setting(
        _LIMITS,
        "memory_limit",
        "bytes",
        "For connections and what waits in them; beyond it, who holds most of what nobody takes "
        "is reset.",
        "BYTES",
        least=2**20,
        most=2**50,
    ),
    Setting(
        _TIME,
        "handshake_timeout",
        "seconds",
        "For all that a client must say.",
        "SECS",
        least=0.1,
        most=3600,
    ),
    Setting(
        _TIME,
        "connect_timeout",
        "seconds",
        "To find and reach the target.",
        "SECS",
        least=0.1,
        most=3600,
    ),
    Setting(
        _TIME,
        "idle_timeout",
        "seconds",
        "For a connection on which nothing is said.",
        "SECS",
        least=1,
        most=365 * 86400,
    ),
    Setting(
        _TIME, "grace", "seconds", "For open connections after TERM.", "SECS", least=0, most=86400
    ),
    Setting(
        _ROAD,
        "prefer",
        "text",
        "Which addresses of a name to try first: ipv4, ipv6, or as the system says.",
        "FAMILY",
        accept=check_preference,
    ),
    Setting(
        _ROAD,
        "source",
        "texts",
        "Connect from this address of this host, to targets of its family only. May be repeated, "
        "once for each family.",
        "ADDRESS",
        accept=check_source,
    ),
    Setting(
        _ROAD,
        "interface",
        "text",
        "Connect through this network interface (Linux).",
        "NAME",
        accept=check_interface,
    ),
    Setting(
        _ROAD,
        "mark",
        "count",
        "Mark outgoing packets, for policy routing (Linux, as root).",
        "N",
        most=2**32 - 1,
    ),
    Setting(
        _SERVICE,
        "pidfile",
        "text",
        "Lock this file, and be spoken to by FILE.sock. Without it: one by the first address to "
        "listen on, in /run for root and in /tmp for others.",
        "FILE",
        accept=check_path("--pidfile"),
        of_process=True,
        is_fixed=True,
    ),
    Setting(
        _SERVICE,
        "daemon",
        "flag",
        "Go to the background once it listens. Logs to syslog unless --log-file says where.",
        of_process=True,
        is_fixed=True,
    ),
    Setting(
        _LOGGING,
        "log_file",
        "text",
        "Log to this file, opened anew when it is renamed and on HUP.",
        "FILE",
        accept=check_path("--log-file"),
        of_process=True,
    ),
    Setting(
        _LOGGING,
        "syslog",
        "text",
        "Log to syslog: local (as --syslog alone means), PATH of its socket, or HOST:PORT (UDP).",
        "[=WHERE]",
        accept=check_syslog,
        of_process=True,
    ),
    Setting(
        _LOGGING,
        "log_format",
        "text",
        "How log lines look: text, or json for programs.",
        "FORMAT",
        accept=check_log_format,
        of_process=True,
    ),
    Setting(_LOGGING, "quiet", "flag", "No log line for each connection.", "", "-q"),
    Setting(
        _LOGGING,
        "verbose",
        "flag",
        "Log health checks and scanners too, and fold nothing.",
        "",
        "-v",
    ),
)

SETTINGS = tuple(row._replace(default=Config._field_defaults[row.name]) for row in _ROWS)
