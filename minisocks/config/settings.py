"""The one table of settings, and the typed record of their values.  No click.

``Config`` holds values, each default under the reason for it.  ``SETTINGS``, made of
``rows``, says how each is spelled, read and explained; the command line, the
environment's variables, the ini file's keys and the tables in the documents are
made from it.  A test proves that both name the same settings.
"""

from typing import Any, Callable, Dict, NamedTuple, Optional, Set, Tuple

from minisocks.config.rows import TABLE
from minisocks.config.setting import Setting
from minisocks.errors import ConfigError
from minisocks.guesses import closest
from minisocks.policy.rulelines import check_rule, with_files
from minisocks.values import (
    Keepalive,
    ListenAddress,
    PortRange,
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
    encode,
    without_password,
)

__all__ = [
    "CONFIG_FILE",
    "GROUPS",
    "SETTINGS",
    "Config",
]


#: UDP associations where nothing else is said, each with up to four descriptors and three ports.
#: A client that opens one for each DNS query of its network has some hundred.
MAX_ASSOCIATIONS = 1024


class Config(NamedTuple):
    """Settings of one proxy.  Immutable; derive with ``_replace``."""

    # Where to listen. Loopback: a proxy that everybody can reach is a decision.
    listen: Tuple[str, ...] = ("127.0.0.1:1080",)
    # Those of them that a forwarder connects to, so that no client's address is seen there.
    forwarded: Tuple[str, ...] = ()
    # What others are told instead of the address that they reach, where a NAT is in between;
    # none: nothing else.
    public_address: Tuple[str, ...] = ()
    # Ports that clients send datagrams to; "": any that is free.
    udp_ports: str = ""
    # From which ports of its address a client may send datagrams: same-port, any-port, or auto.
    # A NAT forgets a port, so another one is taken in time; but where there are passwords, the
    # port is all that keeps out other programs at the client's address.
    udp_clients: str = "auto"
    # Which targets are heard: address-dependent or endpoint-independent (RFC 4787 section 5).
    udp_filtering: str = "address-dependent"
    # Ports that the peers of BIND connect to; "": any that is free.
    bind_ports: str = ""
    # NAME:PASSWORD; none: nobody has a password.
    user: Tuple[str, ...] = ()
    # A file of NAME:HASH lines; "": none.
    users_file: str = ""
    # Users that need no password; any that they send is right, an empty one, too.
    name_only: Tuple[str, ...] = ()
    # Seconds for which an address that has logged in may come in without a
    # password: browsers cannot send one by SOCKS. 0: it may not.
    auth_once: float = 0.0
    # Ask identd who SOCKS4 clients are. Many hosts have none.
    ident: bool = False
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
    # UDP associations; None: as ``most_associations`` says.
    max_associations: Optional[int] = None
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
    # Seconds until the peer of a BIND has connected, its name included. As the memo says.
    bind_timeout: float = 120.0
    # Seconds without a byte that a connection lives. None: SSH sessions are silent
    # for days, and keepalive finds those whose peer has gone.
    idle_timeout: Optional[float] = None
    # Seconds of silence before a peer is asked whether it is there, seconds between questions,
    # and how many without an answer. So one that has vanished is noticed in 7 minutes.
    keepalive: str = ",".join(map(str, Keepalive()))
    # Seconds that open connections get after TERM. Docker and others kill after 10, and what
    # is left to do behind it may take 2 (a log that takes nothing).
    grace: float = 5.0
    # Which family of a name's addresses is tried first: ipv4, ipv6 or system; or, ipv4-only and
    # ipv6-only, is looked up alone.
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
    # auto, none, or the number of the processor that threads which serve clients keep to.
    # None: none, for a program's threads are its own affair. The command line takes auto.
    processor: Optional[str] = None
    # Where the log goes; "": not to a file. Neither file nor syslog: to stderr.
    log_file: str = ""
    # local, PATH or HOST:PORT; "": not to syslog.
    syslog: str = ""
    # text or json.
    log_format: str = "text"
    # No log line for connections that went well; 2: for none.
    quiet: int = False
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
        known = [ListenAddress.parse(text) for text in self.listen]
        for text in self.forwarded:
            if ListenAddress.parse(text) not in known:
                listen = " ".join(self.listen)
                what = "%s is none of the addresses to listen on; write it as --listen has it: %s"
                raise ConfigError("--forwarded", what % (text, listen))
        for option, texts in (("--source", self.source), ("--public-address", self.public_address)):
            if len(_families(texts)) < len(texts):
                raise ConfigError(option, "takes one address of each family")
        family, _, is_only = self.prefer.partition("-")
        if is_only and self.source and family not in _families(self.source):
            why = "%s needs a --source of that family: no name would reach a target" % self.prefer
            raise ConfigError("--prefer", why)
        return self

    def is_forwarded(self, listen: str) -> bool:
        """Return whether a forwarder connects to this one of the addresses to listen on."""
        return ListenAddress.parse(listen) in map(ListenAddress.parse, self.forwarded)

    def with_files(self, rename: Callable[[str], str], *names: str) -> "Config":
        """Return it with files called otherwise: those in the settings of these *names*.

        Other settings stay.  What *rename* raises is raised.
        """
        config = self
        for name in names:
            value = getattr(self, name)
            if name == "rule":
                value = tuple(with_files(text, rename) for text in value)
            elif name in ("listen", "forwarded"):
                value = tuple(
                    "unix:" + rename(text[5:]) if text.startswith("unix:") else text
                    for text in value
                )
            elif name in ("users_file", "pidfile", "log_file"):
                value = value and rename(value)
            config = config._replace(**{name: value})
        return config

    def most_associations(self) -> Tuple[int, str]:
        """Return how many UDP associations there may be, and which option says so."""
        most = self.max_associations or MAX_ASSOCIATIONS
        found = [(most, "--max-associations %d" % most)]
        # Each has twice as many descriptors as a connection, and others want some, too.
        if self.max_connections is not None:
            found.append((max(1, self.max_connections // 4), "a quarter of --max-connections"))
        if self.udp_ports:
            ports = PortRange.parse("--udp-ports", self.udp_ports)
            found.append((ports.high - ports.low + 1, "--udp-ports %s" % (ports,)))
        return min(found, key=lambda one: one[0])

    def credentials(self) -> Tuple[Tuple[bytes, bytes], ...]:
        """Return the user names and passwords as clients send them; "" for any password."""
        pairs = [text.partition(":")[::2] for text in self.user]
        pairs += [(name, "") for name in self.name_only]
        return tuple((encode(name), encode(password)) for name, password in pairs)

    def __repr__(self) -> str:
        shown = self._replace(user=tuple(without_password(text) for text in self.user))
        return "Config(%s)" % ", ".join("%s=%r" % item for item in shown._asdict().items())


def _families(addresses: Tuple[str, ...]) -> Set[str]:
    return {"ipv6" if ":" in text else "ipv4" for text in addresses}


#: How the texts of some settings are checked.
_ACCEPT: Dict[str, Callable[[str], Any]] = {
    "listen": ListenAddress.parse,
    "forwarded": ListenAddress.parse,
    "public_address": check_address(
        "--public-address", "the one that clients can reach", is_told=True
    ),
    "udp_ports": check_ports("--udp-ports"),
    "udp_clients": check_word("--udp-clients", "auto", "same-port", "any-port"),
    "udp_filtering": check_word("--udp-filtering", "address-dependent", "endpoint-independent"),
    "bind_ports": check_ports("--bind-ports"),
    "user": check_user,
    "users_file": check_path("--users-file"),
    "name_only": check_name_only,
    "rule": check_rule,
    "keepalive": check_keepalive,
    "prefer": check_preference,
    "source": check_address("--source", "one that this host has"),
    "interface": check_interface,
    "pidfile": check_path("--pidfile"),
    "processor": check_processor,
    "log_file": check_path("--log-file"),
    "syslog": check_syslog,
    "log_format": check_log_format,
}

#: In the order of ``--help``.
GROUPS = tuple(TABLE)
_ROWS = [(group, row["name"], row) for group, rows in TABLE.items() for row in rows]
_ALL = {
    name: Setting(group, accept=_ACCEPT.get(name), default=Config._field_defaults.get(name), **row)
    for group, name, row in _ROWS
}
#: Not among the others, because it says where they are.  So it is in no ``Config``.
CONFIG_FILE = _ALL.pop("config")
SETTINGS = tuple(_ALL.values())
