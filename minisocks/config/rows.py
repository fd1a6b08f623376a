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
            "Listen on this address: PORT (on 127.0.0.1), HOST:PORT, [V6]:PORT, :PORT (every "
            "address, IPv4 and IPv6), NAME:PORT or unix:PATH. Port 0 is any free port. May be "
            "repeated.",
            "ADDRESS",
            "-l",
        ),
        _row(
            "forwarded",
            "texts",
            "One of the addresses to listen on, for a forwarder such as HAProxy: the clients that "
            "come through it count as strangers from public addresses. May be repeated.",
            "ADDRESS",
        ),
        _row(
            "public_address",
            "texts",
            "In replies for UDP and BIND, tell clients on other hosts this address, which a NAT "
            "forwards to this host. May be repeated, once for each family.",
            "ADDRESS",
        ),
        _row(
            "udp_ports",
            "ports",
            "Receive the UDP of clients on ports of this range, as 40000-40999, so that a firewall "
            "can let it through.",
            "RANGE",
        ),
        _row(
            "udp_clients",
            "text",
            "From which ports of its address a client may send UDP. any-port: all. same-port: the "
            "first one that it uses. auto: the first, and another one after 30 s of silence unless "
            "the client has sent a password.",
            "WHICH",
        ),
        _row(
            "udp_filtering",
            "text",
            "Which targets may send UDP to a client. address-dependent: those at addresses to "
            "which it has sent. endpoint-independent: any target that the rules allow, except this "
            "host (for games and calls).",
            "WHICH",
        ),
        _row(
            "bind_ports",
            "ports",
            "For BIND, let the peer connect to a port of this range, as 41000-41099, so that a "
            "firewall can let it through.",
            "RANGE",
        ),
    ),
    "Access control": (
        _row(
            "user",
            "texts",
            "Accept this user name and password. Other users of this host can read it in ps, so "
            "use it only for a trial. May be repeated.",
            "NAME:PASSWORD",
        ),
        _row(
            "users_file",
            "text",
            "Accept the users in this file. It has a line NAME:HASH for each user, made by "
            "minisocks hash-password. A reload reads it again.",
            "FILE",
        ),
        _row(
            "name_only",
            "texts",
            "Accept this user name with any password, even an empty one, for programs that cannot "
            "send one. The name is no secret. May be repeated.",
            "NAME",
        ),
        _row(
            "auth_once",
            "seconds",
            "After a login, accept the same address without a password for so many seconds, "
            "because browsers cannot send one. 0: never.",
            "SECS",
            least=0,
            most=30 * 86400,
        ),
        _row(
            "ident",
            "flag",
            "Ask the host of each SOCKS4 client which user the client is (RFC 1413), and refuse "
            "the client if it has sent another name. This proves nothing about hosts that other "
            "people run.",
        ),
        _row("allow_lan", "flag", "Accept clients on private networks without a password."),
        _row("open", "flag", "Accept every client without a password."),
        _row(
            "rule",
            "texts",
            "Allow or deny, as in 'deny to .example.org port 25'. The first rule that matches "
            "decides; what matches none is denied. May be repeated; in the file, a line each under "
            "[rules].",
            "TEXT",
        ),
    ),
    "Limits": (
        _row(
            "max_handshakes",
            "count",
            "Most unfinished handshakes at once. One more closes the oldest of the network that "
            "has the most of them.",
            "N",
            least=4,
            most=65536,
        ),
        _row(
            "max_connections",
            "count",
            "Connections at once. If not set, the command line uses what the limit of descriptors "
            "allows.",
            "N",
            least=1,
            most=10**6,
        ),
        _row(
            "max_per_client",
            "count",
            "Connections of one client at once. In IPv6 a client is a /64; all programs on this "
            "host are one client.",
            "N",
            least=1,
            most=10**6,
        ),
        _row("max_per_user", "count", "Connections of one user at once.", "N", least=1, most=10**6),
        _row(
            "max_associations",
            "count",
            "UDP associations at once. If not set: 1024, but at most a quarter of all connections "
            "allowed. Above it, one of the network that has most is closed.",
            "N",
            least=1,
            most=10**6,
        ),
        _row(
            "rate",
            "bytes",
            "Bytes per second for one client, in each direction: 500k, 1.5M, 64KiB.",
            "BYTES",
            least=1000,
            most=10**12,
        ),
        _row(
            "memory_limit",
            "bytes",
            "Memory for connections and their buffered data. Above it, the connection with most "
            "undelivered data is reset.",
            "BYTES",
            least=2**20,
            most=2**50,
        ),
    ),
    "Time limits": (
        _row(
            "handshake_timeout",
            "seconds",
            "Until a client has logged in and sent its request.",
            "SECS",
            least=0.1,
            most=3600,
        ),
        _row(
            "connect_timeout",
            "seconds",
            "Until the target is looked up and reached.",
            "SECS",
            least=0.1,
            most=3600,
        ),
        _row(
            "bind_timeout",
            "seconds",
            "Until the peer of a BIND has connected.",
            "SECS",
            least=0.1,
            most=3600,
        ),
        _row(
            "idle_timeout",
            "seconds",
            "Until a connection that carries no data is closed.",
            "SECS",
            least=1,
            most=365 * 86400,
        ),
        _row(
            "keepalive",
            "text",
            "Seconds of silence after which a peer is probed. IDLE,INTERVAL,COUNT also sets the "
            "seconds between probes, and how many without an answer end the connection.",
            "IDLE",
        ),
        _row(
            "grace",
            "seconds",
            "After TERM, the time for open connections to end. Then they are closed.",
            "SECS",
            least=0,
            most=86400,
        ),
    ),
    "Outgoing connections": (
        _row(
            "prefer",
            "text",
            "Which addresses of a name to try first: ipv4, ipv6, or system (in the order of the "
            "system). ipv4-only and ipv6-only look up no others.",
            "FAMILY",
        ),
        _row(
            "source",
            "texts",
            "Connect from this address of this host, and only to targets of its family. May be "
            "repeated, once for each family.",
            "ADDRESS",
        ),
        _row("interface", "text", "Connect through this network interface (Linux).", "NAME"),
        _row(
            "mark",
            "count",
            "Mark outgoing packets with this number, for policy routing (Linux, as root).",
            "N",
            most=2**32 - 1,
        ),
    ),
    "Running as a service": (
        _row(
            "config",
            "text",
            "Read settings from this ini file. The environment and the command line override it.",
            "FILE",
            "-c",
        ),
        _row(
            "pidfile",
            "text",
            "Lock this file, and take commands (status, stop, ...) at FILE.sock. If not set: a "
            "file named after the first address to listen on, in /run for root, in "
            "/tmp/minisocks-UID or ~/.cache/minisocks for other users.",
            "FILE",
            of_process=True,
            is_fixed=True,
        ),
        _row(
            "daemon",
            "flag",
            "Go to the background once it listens. The log goes to syslog, or to --log-file.",
            of_process=True,
            is_fixed=True,
        ),
        _row(
            "processor",
            "text",
            "Keep the threads that serve clients on one processor (Linux): auto, none, or the "
            "number of a processor. Python runs one of them at a time, and a change of processor "
            "takes time. If not set, the command line uses auto.",
            "WHICH",
        ),
    ),
    "Logging": (
        _row(
            "log_file",
            "text",
            "Log to this file. It is opened again when it is renamed, and on HUP.",
            "FILE",
            of_process=True,
        ),
        _row(
            "syslog",
            "text",
            "Log to syslog: local (the same as --syslog alone), PATH of its socket, or HOST:PORT "
            "(UDP).",
            "[=WHERE]",
            of_process=True,
        ),
        _row(
            "log_format",
            "text",
            "Form of the log lines: text, or json for programs.",
            "FORMAT",
            of_process=True,
        ),
        _row(
            "quiet",
            "flag",
            "No log line for a connection that succeeds; a refused one still has a line. Twice "
            "(-qq; in the file: quiet = twice): no line for any connection.",
            "",
            "-q",
            most=2,
        ),
        _row(
            "verbose",
            "flag",
            "Also log health checks and scanners, and each repeated line.",
            "",
            "-v",
        ),
    ),
}
