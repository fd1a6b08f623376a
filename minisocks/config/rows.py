"""The rows of the table of settings: how each is spelled, read and explained.  No click.

What is the default, and why, stands in ``settings.Config``.
"""

from minisocks.config.setting import Setting
from minisocks.policy.rulelines import check_rule
from minisocks.values import (
    ListenAddress,
    check_address,
    check_interface,
    check_keepalive,
    check_log_format,
    check_name_only,
    check_path,
    check_ports,
    check_preference,
    check_processor,
    check_syslog,
    check_user,
    check_word,
)

__all__ = ["CONFIG_FILE", "GROUPS", "ROWS"]

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

ROWS = (
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
        _LISTENING,
        "forwarded",
        "texts",
        "One of the addresses to listen on: a forwarder connects there for its clients, so each of "
        "them counts as a stranger from a public address. May be repeated.",
        "ADDRESS",
        accept=ListenAddress.parse,
    ),
    Setting(
        _LISTENING,
        "public_address",
        "texts",
        "Tell who is not on this host to send UDP, or connect for BIND, to this address, which a "
        "NAT passes on to this one. May be repeated, once for each family.",
        "ADDRESS",
        accept=check_address("--public-address", "the one that clients can reach", is_told=True),
    ),
    Setting(
        _LISTENING,
        "udp_ports",
        "ports",
        "Have clients send UDP to a port of this range, as 40000-40999, which a firewall then has "
        "to let through.",
        "RANGE",
        accept=check_ports("--udp-ports"),
    ),
    Setting(
        _LISTENING,
        "udp_clients",
        "text",
        "From which ports of its address a client may send UDP: any-port is every one, same-port "
        "the first one only. auto: others when the first one has been silent for 30 s, but not "
        "where the client has shown a password.",
        "WHICH",
        accept=check_word("--udp-clients", "auto", "same-port", "any-port"),
    ),
    Setting(
        _LISTENING,
        "udp_filtering",
        "text",
        "Which targets a client hears by UDP. With address-dependent those at addresses that it "
        "has written to; with endpoint-independent all that rules allow, but none on this host "
        "(for games and calls).",
        "WHICH",
        accept=check_word("--udp-filtering", "address-dependent", "endpoint-independent"),
    ),
    Setting(
        _LISTENING,
        "bind_ports",
        "ports",
        "For BIND, have the peer connect to a port of this range, as 41000-41099, which a "
        "firewall then has to let through.",
        "RANGE",
        accept=check_ports("--bind-ports"),
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
        "name_only",
        "texts",
        "Let clients in with this user name and any password, for programs that can send no "
        "password. The name is no secret. May be repeated.",
        "NAME",
        accept=check_name_only,
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
    Setting(
        _WHO,
        "ident",
        "flag",
        "Ask the host of each SOCKS4 client who it is (RFC 1413), and refuse it if that is not "
        "what it says. This proves nothing about hosts that others run.",
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
        "Unfinished handshakes at once; beyond it the oldest of the network that has most is "
        "closed.",
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
        "Connections of one client at once; in IPv6 that is a /64, and all of this host is one.",
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
        "max_associations",
        "count",
        "UDP associations at once; without it 1024, and never more than a quarter of all "
        "connections there may be; beyond it one of the network that has most is closed.",
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
        "bind_timeout",
        "seconds",
        "For the peer of a BIND to connect.",
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
        _TIME,
        "keepalive",
        "text",
        "Seconds of silence after which a peer is asked whether it is there. IDLE,INTERVAL,COUNT "
        "also says how many seconds apart and how often it is asked, until it counts as lost.",
        "IDLE",
        accept=check_keepalive,
    ),
    Setting(
        _TIME, "grace", "seconds", "For open connections after TERM.", "SECS", least=0, most=86400
    ),
    Setting(
        _ROAD,
        "prefer",
        "text",
        "Which addresses of a name to try first: ipv4, ipv6, or as the system says. Of a name "
        "that is looked up, ipv4-only and ipv6-only ask for no others.",
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
        accept=check_address("--source", "one that this host has"),
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
        "listen on, in /run for root, in /tmp/minisocks-UID or ~/.cache/minisocks for others.",
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
        _SERVICE,
        "processor",
        "text",
        "Keep the threads that serve clients to one processor (Linux): auto, none, or its number. "
        "Python runs one of them at a time, and to change processors takes time. On the command "
        "line, without it: auto.",
        "WHICH",
        accept=check_processor,
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
    Setting(
        _LOGGING,
        "quiet",
        "flag",
        "No log line for a connection that went well; refusals still have theirs. Twice (-qq; in "
        "the file: twice): for no connection.",
        "",
        "-q",
        most=2,
    ),
    Setting(
        _LOGGING,
        "verbose",
        "flag",
        "Log health checks and scanners too, and fold nothing.",
        "",
        "-v",
    ),
)
