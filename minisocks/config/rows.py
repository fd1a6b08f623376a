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
    what: str, help: str, limits: "Tuple[float, float]" = (0, 0), **more: "Any"
) -> "Dict[str, Any]":
    """Return the fields of one ``Setting``, as that explains them.

    Args:
        what: name, kind, and, if there are any, the name of the value and the short option.
        limits: ``least`` and ``most``.
    """
    words = what.split()
    short = words.pop() if words[-1][0] == "-" else ""
    name, kind, metavar = [*words, ""][:3]
    least, most = limits
    fields: "Dict[str, Any]" = {"name": name, "kind": kind, "metavar": metavar, "short": short}
    return dict(more, help=help, least=least, most=most, **fields)


#: By group, in the order of ``--help``.
TABLE: "Dict[str, Tuple[Dict[str, Any], ...]]" = {
    "Listening": (
        _row(
            "listen texts ADDRESS -l",
            "Listen on this address: PORT (on 127.0.0.1), HOST:PORT, [V6]:PORT, :PORT (every "
            "address, IPv4 and IPv6), NAME:PORT or unix:PATH. Port 0 is any free port. May be "
            "repeated.",
        ),
        _row(
            "forwarded texts ADDRESS",
            "One of the addresses to listen on, for a forwarder such as HAProxy: the clients that "
            "come through it count as strangers from public addresses. May be repeated.",
        ),
        _row(
            "public_address texts ADDRESS",
            "In replies for UDP and BIND, tell clients on other hosts this address, which a NAT "
            "forwards to this host. May be repeated, once for each family.",
        ),
        _row(
            "udp_ports ports RANGE",
            "Receive the UDP of clients on ports of this range, as 40000-40999, so that a firewall "
            "can let it through.",
        ),
        _row(
            "udp_clients text WHICH",
            "From which ports of its address a client may send UDP. any-port: all. same-port: the "
            "first one that it uses. auto: the first, and another one after 30 s of silence unless "
            "the client has sent a password.",
        ),
        _row(
            "udp_filtering text WHICH",
            "Which targets may send UDP to a client. address-dependent: those at addresses to "
            "which it has sent. endpoint-independent: any target that the rules allow, except this "
            "host (for games and calls).",
        ),
        _row(
            "bind_ports ports RANGE",
            "For BIND, let the peer connect to a port of this range, as 41000-41099, so that a "
            "firewall can let it through.",
        ),
    ),
    "Access control": (
        _row(
            "user texts NAME:PASSWORD",
            "Accept this user name and password. Other users of this host can read it in ps, so "
            "use it only for a trial. May be repeated.",
        ),
        _row(
            "users_file text FILE",
            "Accept the users in this file. It has a line NAME:HASH for each user, made by "
            "minisocks hash-password. A reload reads it again.",
        ),
        _row(
            "name_only texts NAME",
            "Accept this user name with any password, even an empty one, for programs that cannot "
            "send one. The name is no secret. May be repeated.",
        ),
        _row(
            "auth_once seconds SECS",
            "After a login, accept the same address without a password for so many seconds, "
            "because browsers cannot send one. 0: never.",
            limits=(0, 30 * 86400),
        ),
        _row(
            "ident flag",
            "Ask the host of each SOCKS4 client which user the client is (RFC 1413), and refuse "
            "the client if it has sent another name. This proves nothing about hosts that other "
            "people run.",
        ),
        _row("allow_lan flag", "Accept clients on private networks without a password."),
        _row("open flag", "Accept every client without a password."),
        _row(
            "rule texts TEXT",
            "Allow or deny, as in 'deny to .example.org port 25'. The first rule that matches "
            "decides; what matches none is denied. May be repeated; in the file, a line each under "
            "[rules].",
        ),
    ),
    "Limits": (
        _row(
            "max_handshakes count N",
            "Most unfinished handshakes at once. One more closes the oldest of the network that "
            "has the most of them.",
            limits=(4, 65536),
        ),
        _row(
            "max_connections count N",
            "Connections at once. If not set, the command line uses what the limit of descriptors "
            "allows.",
            limits=(1, 10**6),
        ),
        _row(
            "max_per_client count N",
            "Connections of one client at once. In IPv6 a client is a /64; all programs on this "
            "host are one client.",
            limits=(1, 10**6),
        ),
        _row("max_per_user count N", "Connections of one user at once.", limits=(1, 10**6)),
        _row(
            "max_associations count N",
            "UDP associations at once. If not set: 1024, but at most a quarter of all connections "
            "allowed. Above it, one of the network that has most is closed.",
            limits=(1, 10**6),
        ),
        _row(
            "rate bytes BYTES",
            "Bytes per second for one client, in each direction: 500k, 1.5M, 64KiB.",
            limits=(1000, 10**12),
        ),
        _row(
            "memory_limit bytes BYTES",
            "Memory for connections and their buffered data. Above it, the connection with most "
            "undelivered data is reset.",
            limits=(2**20, 2**50),
        ),
    ),
    "Time limits": (
        _row(
            "handshake_timeout seconds SECS",
            "Until a client has logged in and sent its request.",
            limits=(0.1, 3600),
        ),
        _row(
            "connect_timeout seconds SECS",
            "Until the target is looked up and reached.",
            limits=(0.1, 3600),
        ),
        _row(
            "bind_timeout seconds SECS",
            "Until the peer of a BIND has connected.",
            limits=(0.1, 3600),
        ),
        _row(
            "idle_timeout seconds SECS",
            "Until a connection that carries no data is closed.",
            limits=(1, 365 * 86400),
        ),
        _row(
            "keepalive text IDLE",
            "Seconds of silence after which a peer is probed. IDLE,INTERVAL,COUNT also sets the "
            "seconds between probes, and how many without an answer end the connection.",
        ),
        _row(
            "grace seconds SECS",
            "After TERM, the time for open connections to end. Then they are closed.",
            limits=(0, 86400),
        ),
    ),
    "Outgoing connections": (
        _row(
            "prefer text FAMILY",
            "Which addresses of a name to try first: ipv4, ipv6, or system (in the order of the "
            "system). ipv4-only and ipv6-only look up no others.",
        ),
        _row(
            "source texts ADDRESS",
            "Connect from this address of this host, and only to targets of its family. May be "
            "repeated, once for each family.",
        ),
        _row("interface text NAME", "Connect through this network interface (Linux)."),
        _row(
            "mark count N",
            "Mark outgoing packets with this number, for policy routing (Linux, as root).",
            limits=(0, 2**32 - 1),
        ),
        _row(
            "exit texts NAME=WAY",
            "A way out that rules can name, as in 'allow via office': another proxy "
            "(office=socks5h://10.0.0.1:1080), a chain of them, or another source (lan2=direct "
            "interface eth1). Other users of this host can read a password in the URL in ps. May "
            "be repeated; in the file, a line each under [exits].",
        ),
    ),
    "Running as a service": (
        _row(
            "config text FILE -c",
            "Read settings from this ini file. The environment and the command line override it.",
        ),
        _row(
            "pidfile text FILE",
            "Lock this file, and take commands (status, stop, ...) at FILE.sock. If not set: a "
            "file named after the first address to listen on, in /run for root, in "
            "/tmp/minisocks-UID or ~/.cache/minisocks for other users.",
            of_process=True,
            is_fixed=True,
        ),
        _row(
            "daemon flag",
            "Go to the background once it listens. The log goes to syslog, or to --log-file.",
            of_process=True,
            is_fixed=True,
        ),
        _row(
            "processor text WHICH",
            "Keep the threads that serve clients on one processor (Linux): auto, none, or the "
            "number of a processor. Python runs one of them at a time, and a change of processor "
            "takes time. If not set, the command line uses auto.",
        ),
    ),
    "Logging": (
        _row(
            "log_file text FILE",
            "Log to this file. It is opened again when it is renamed, and on HUP.",
            of_process=True,
        ),
        _row(
            "syslog text [=WHERE]",
            "Log to syslog: local (the same as --syslog alone), PATH of its socket, or HOST:PORT "
            "(UDP).",
            of_process=True,
        ),
        _row(
            "log_format text FORMAT",
            "Form of the log lines: text, or json for programs.",
            of_process=True,
        ),
        _row(
            "quiet flag -q",
            "No log line for a connection that succeeds; a refused one still has a line. Twice "
            "(-qq; in the file: quiet = twice): no line for any connection.",
            limits=(0, 2),
        ),
        _row("verbose flag -v", "Also log health checks and scanners, and each repeated line."),
    ),
}
