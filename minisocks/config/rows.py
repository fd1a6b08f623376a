"""The table of settings: how each is spelled, which values it takes, and its help.

``settings`` adds the check of its text and its default.  Imports nothing, because ``--ensure``
reads the options here every minute.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Tuple

__all__ = ["TABLE", "option_name"]


def option_name(name: str) -> str:
    """Return how the command line spells the setting *name*."""
    return "--" + name.replace("_", "-")


def _row(
    name: str, kind: str, help: str, metavar: str = "", short: str = "", **more: "Any"
) -> "Dict[str, Any]":
    """Return the fields of one ``Setting``, as that explains them."""
    return dict(more, name=name, kind=kind, help=help, metavar=metavar, short=short)


#: By group, in the order of ``--help``.
TABLE: "Dict[str, Tuple[Dict[str, Any], ...]]" = {
    "Listening": (
        _row(
            "listen",
            "texts",
            "Listen here: PORT (on 127.0.0.1), HOST:PORT, [V6]:PORT, :PORT (every address, IPv4 "
            "and IPv6), NAME:PORT or unix:PATH. Port 0 is any free one. May be repeated.",
            "ADDRESS",
            "-l",
        ),
        _row(
            "forwarded",
            "texts",
            "One of the addresses to listen on: a forwarder connects there for its clients, so "
            "each of them counts as a stranger from a public address. May be repeated.",
            "ADDRESS",
        ),
        _row(
            "public_address",
            "texts",
            "Tell who is not on this host to send UDP, or connect for BIND, to this address, "
            "which a NAT passes on to this one. May be repeated, once for each family.",
            "ADDRESS",
        ),
        _row(
            "udp_ports",
            "ports",
            "Have clients send UDP to a port of this range, as 40000-40999, which a firewall then"
            " has to let through.",
            "RANGE",
        ),
        _row(
            "udp_clients",
            "text",
            "From which ports of its address a client may send UDP: any-port is every one, "
            "same-port the first one only. auto: others when the first one has been silent for 30"
            " s, but not where the client has shown a password.",
            "WHICH",
        ),
        _row(
            "udp_filtering",
            "text",
            "Which targets a client hears by UDP. With address-dependent those at addresses that "
            "it has written to; with endpoint-independent all that rules allow, but none on this "
            "host (for games and calls).",
            "WHICH",
        ),
        _row(
            "bind_ports",
            "ports",
            "For BIND, have the peer connect to a port of this range, as 41000-41099, which a "
            "firewall then has to let through.",
            "RANGE",
        ),
    ),
    "Who may come in": (
        _row(
            "user",
            "texts",
            "Let clients in with this password. It shows in ps: for trying out. May be repeated.",
            "NAME:PASSWORD",
        ),
        _row(
            "users_file",
            "text",
            "Let clients in with the passwords in this file: a line NAME:HASH for each user, "
            "which minisocks hash-password makes. Read anew on reload.",
            "FILE",
        ),
        _row(
            "name_only",
            "texts",
            "Let clients in with this user name and any password, for programs that can send no "
            "password. The name is no secret. May be repeated.",
            "NAME",
        ),
        _row(
            "auth_once",
            "seconds",
            "An address that has logged in may come in without a password for so long: browsers "
            "send none. 0: it may not.",
            "SECS",
            least=0,
            most=30 * 86400,
        ),
        _row(
            "ident",
            "flag",
            "Ask the host of each SOCKS4 client who it is (RFC 1413), and refuse it if that is "
            "not what it says. This proves nothing about hosts that others run.",
        ),
        _row("allow_lan", "flag", "Let clients on private networks in without a password."),
        _row("open", "flag", "Let any client in without a password."),
        _row(
            "rule",
            "texts",
            "Allow or deny, as in 'deny to .example.org port 25'; the first rule that matches "
            "decides, and what none matches is denied. May be repeated; in the file, a line each "
            "under [rules].",
            "TEXT",
        ),
    ),
    "Limits": (
        _row(
            "max_handshakes",
            "count",
            "Unfinished handshakes at once; beyond it the oldest of the network that has most is "
            "closed.",
            "N",
            least=4,
            most=65536,
        ),
        _row(
            "max_connections",
            "count",
            "Connections at once. On the command line, without it: what the limit of descriptors "
            "allows.",
            "N",
            least=1,
            most=10**6,
        ),
        _row(
            "max_per_client",
            "count",
            "Connections of one client at once; in IPv6 that is a /64, and all of this host is "
            "one.",
            "N",
            least=1,
            most=10**6,
        ),
        _row("max_per_user", "count", "Connections of one user at once.", "N", least=1, most=10**6),
        _row(
            "max_associations",
            "count",
            "UDP associations at once; without it 1024, and never more than a quarter of all "
            "connections there may be; beyond it one of the network that has most is closed.",
            "N",
            least=1,
            most=10**6,
        ),
        _row(
            "rate",
            "bytes",
            "Bytes a second for one client, in each direction: 500k, 1.5M, 64KiB.",
            "BYTES",
            least=1000,
            most=10**12,
        ),
        _row(
            "memory_limit",
            "bytes",
            "For connections and what waits in them; beyond it, who holds most of what nobody "
            "takes is reset.",
            "BYTES",
            least=2**20,
            most=2**50,
        ),
    ),
    "Time limits": (
        _row(
            "handshake_timeout",
            "seconds",
            "For all that a client must say.",
            "SECS",
            least=0.1,
            most=3600,
        ),
        _row(
            "connect_timeout",
            "seconds",
            "To find and reach the target.",
            "SECS",
            least=0.1,
            most=3600,
        ),
        _row(
            "bind_timeout",
            "seconds",
            "For the peer of a BIND to connect.",
            "SECS",
            least=0.1,
            most=3600,
        ),
        _row(
            "idle_timeout",
            "seconds",
            "For a connection on which nothing is said.",
            "SECS",
            least=1,
            most=365 * 86400,
        ),
        _row(
            "keepalive",
            "text",
            "Seconds of silence after which a peer is asked whether it is there. "
            "IDLE,INTERVAL,COUNT also says how many seconds apart and how often it is asked, "
            "until it counts as lost.",
            "IDLE",
        ),
        _row("grace", "seconds", "For open connections after TERM.", "SECS", least=0, most=86400),
    ),
    "The road out": (
        _row(
            "prefer",
            "text",
            "Which addresses of a name to try first: ipv4, ipv6, or as the system says. Of a name"
            " that is looked up, ipv4-only and ipv6-only ask for no others.",
            "FAMILY",
        ),
        _row(
            "source",
            "texts",
            "Connect from this address of this host, to targets of its family only. May be "
            "repeated, once for each family.",
            "ADDRESS",
        ),
        _row("interface", "text", "Connect through this network interface (Linux).", "NAME"),
        _row(
            "mark",
            "count",
            "Mark outgoing packets, for policy routing (Linux, as root).",
            "N",
            most=2**32 - 1,
        ),
    ),
    "Running as a service": (
        _row(
            "config",
            "text",
            "Read settings from this ini file; what the command line and the environment say wins.",
            "FILE",
            "-c",
        ),
        _row(
            "pidfile",
            "text",
            "Lock this file, and be spoken to by FILE.sock. Without it: one by the first address "
            "to listen on, in /run for root, in /tmp/minisocks-UID or ~/.cache/minisocks for "
            "others.",
            "FILE",
            of_process=True,
            is_fixed=True,
        ),
        _row(
            "daemon",
            "flag",
            "Go to the background once it listens. Logs to syslog unless --log-file says where.",
            of_process=True,
            is_fixed=True,
        ),
        _row(
            "processor",
            "text",
            "Keep the threads that serve clients to one processor (Linux): auto, none, or its "
            "number. Python runs one of them at a time, and to change processors takes time. On "
            "the command line, without it: auto.",
            "WHICH",
        ),
    ),
    "Logging": (
        _row(
            "log_file",
            "text",
            "Log to this file, opened anew when it is renamed and on HUP.",
            "FILE",
            of_process=True,
        ),
        _row(
            "syslog",
            "text",
            "Log to syslog: local (as --syslog alone means), PATH of its socket, or HOST:PORT "
            "(UDP).",
            "[=WHERE]",
            of_process=True,
        ),
        _row(
            "log_format",
            "text",
            "How log lines look: text, or json for programs.",
            "FORMAT",
            of_process=True,
        ),
        _row(
            "quiet",
            "flag",
            "No log line for a connection that went well; refusals still have theirs. Twice (-qq;"
            " in the file: twice): for no connection.",
            "",
            "-q",
            most=2,
        ),
        _row("verbose", "flag", "Log health checks and scanners too, and fold nothing.", "", "-v"),
    ),
}
