"""The typed record of settings with their defaults, and what follows from the table.  No click.

``Config`` has the values, each default below the reason for it.  ``SETTINGS``, made of the table
in ``rows``, has spelling, checks and help; options, variables, keys of the ini file and tables of
the documents come from it.
"""

from typing import Any, Callable, NamedTuple, Optional, Set, Tuple

from minisocks.config.rows import TABLE
from minisocks.config.setting import Setting
from minisocks.errors import ConfigError
from minisocks.guesses import closest
from minisocks.policy import exitlines
from minisocks.policy.rulelines import check_rule, with_files
from minisocks.values import CHECKS, Keepalive, ListenAddress, PortRange, encode, without_password

__all__ = [
    "CONFIG_FILE",
    "GROUPS",
    "SETTINGS",
    "Config",
]


#: The default.  Each has up to four descriptors and three ports.  A client that opens one for each
#: DNS query of its network has some hundred.
MAX_ASSOCIATIONS = 1024


class Config(NamedTuple):
    """Settings of one proxy.  Immutable; derive with ``_replace``."""

    # Loopback, because the operator has to decide that other hosts can reach the proxy.
    listen: Tuple[str, ...] = ("127.0.0.1:1080",)
    # Those of them to which a forwarder connects, so that the address of no client is known there.
    forwarded: Tuple[str, ...] = ()
    # Addresses in replies to other hosts, instead of this host's own, which a NAT hides.
    public_address: Tuple[str, ...] = ()
    # Ports that clients send datagrams to; "": any that is free.
    udp_ports: str = ""
    # same-port, any-port, or auto. A NAT forgets a port, so auto accepts another one in time; but
    # with passwords, only the port keeps out other programs at the address of the client.
    udp_clients: str = "auto"
    # Or endpoint-independent (RFC 4787 section 5).
    udp_filtering: str = "address-dependent"
    # Ports that the peers of BIND connect to; "": any that is free.
    bind_ports: str = ""
    # NAME:PASSWORD.
    user: Tuple[str, ...] = ()
    # A file of NAME:HASH lines; "": none.
    users_file: str = ""
    # Users with any password, also an empty one.
    name_only: Tuple[str, ...] = ()
    # Seconds for which an address that has logged in needs no password; 0: it needs one.
    auth_once: float = 0.0
    # Off, because many hosts have no identd.
    ident: bool = False
    # Accept clients on private networks without a password.
    allow_lan: bool = False
    # Accept every client without a password.
    open: bool = False
    # The first rule that matches decides; none: the built-in ones.
    rule: Tuple[str, ...] = ()
    # Unfinished handshakes at once. Above it, the oldest one of the network that has most is
    # closed, so that a scanner disturbs only itself.
    max_handshakes: int = 256
    # None: no limit, because a program knows how many descriptors it has. The command line uses
    # what the limit of descriptors allows, so that some are left for refusals.
    max_connections: Optional[int] = None
    # Connections of one client, which in IPv6 is a /64, and of one user.
    max_per_client: Optional[int] = None
    max_per_user: Optional[int] = None
    # UDP associations; None: as ``most_associations`` says.
    max_associations: Optional[int] = None
    # Bytes per second of one client, in each direction.
    rate: Optional[int] = None
    # Bytes for connections and their buffered data. Above it, the connection with most
    # undelivered data is reset, because else the system would end the process.
    memory_limit: Optional[int] = None
    # Seconds for a whole handshake. A phone on a bad link needs about 5; a scanner keeps a
    # descriptor no longer than this.
    handshake_timeout: float = 30.0
    # Seconds to reach the target, names included. The SOCKS4 memo says 2 minutes.
    connect_timeout: float = 120.0
    # Seconds until the peer of a BIND has connected, its name included. 2 minutes, as above.
    bind_timeout: float = 120.0
    # Seconds without data until a connection is closed. None, because SSH sessions are silent for
    # days, and keepalive finds peers that have gone.
    idle_timeout: Optional[float] = None
    # Seconds of silence before a peer is probed, seconds between probes, and probes without an
    # answer. So a peer that has vanished is noticed in 7 minutes.
    keepalive: str = ",".join(map(str, Keepalive()))
    # Seconds for open connections after TERM. Docker and others kill after 10, and the rest of the
    # end may take 2, if the log is stuck.
    grace: float = 5.0
    # The family that is tried first, or, with ipv4-only and ipv6-only, the only one.
    prefer: str = "system"
    # Addresses to connect from; none: the system chooses.
    source: Tuple[str, ...] = ()
    # Network interface to connect through; "": the system chooses.
    interface: str = ""
    # Mark of outgoing packets, for policy routing; 0: none.
    mark: int = 0
    # NAME=WAY, the exits that rules can name.
    exit: Tuple[str, ...] = ()
    # The file with the lock of the process; "": one by user and address.
    pidfile: str = ""
    # Leave the terminal once it listens.
    daemon: bool = False
    # auto, none, or a number. None: none, because a program decides about its own threads; the
    # command line uses auto.
    processor: Optional[str] = None
    # Without a file and syslog, the log goes to stderr.
    log_file: str = ""
    # local, PATH or HOST:PORT; "": not to syslog.
    syslog: str = ""
    # text or json.
    log_format: str = "text"
    # No log line for connections that succeed; 2: for none.
    quiet: int = False
    # Log health checks and scanners, too.
    verbose: bool = False

    @classmethod
    def of(cls, **values: Any) -> "Config":
        """Return one with these values.

        A setting that may be repeated takes one text or several.

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
            # With the name of the option, which a traceback would not show.
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
                raise ConfigError(option, "takes at most one IPv4 and one IPv6 address")
        family, _, is_only = self.prefer.partition("-")
        if is_only and self.source and family not in _families(self.source):
            why = "%s needs a --source of that family: no name would reach a target" % self.prefer
            raise ConfigError("--prefer", why)
        return self

    def is_forwarded(self, listen: str) -> bool:
        """Return whether a forwarder connects to this address to listen on."""
        return ListenAddress.parse(listen) in map(ListenAddress.parse, self.forwarded)

    def with_files(self, rename: Callable[[str], str], *names: str) -> "Config":
        """Return it with other paths of files, in the settings of these *names*.

        Errors of *rename* are raised.
        """
        config = self
        for name in names:
            value = getattr(self, name)
            if name == "rule":
                value = tuple(with_files(text, rename) for text in value)
            elif name == "exit":
                value = tuple(exitlines.with_files(text, rename) for text in value)
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
        """Return the limit of UDP associations, and the option that it comes from."""
        most = self.max_associations or MAX_ASSOCIATIONS
        found = [(most, "--max-associations %d" % most)]
        # Each has twice as many descriptors as a connection, and connections need some, too.
        if self.max_connections is not None:
            found.append((max(1, self.max_connections // 4), "a quarter of --max-connections"))
        if self.udp_ports:
            ports = PortRange.parse("--udp-ports", self.udp_ports)
            found.append((ports.high - ports.low + 1, "--udp-ports %s" % (ports,)))
        return min(found, key=lambda one: one[0])

    def credentials(self) -> Tuple[Tuple[bytes, bytes], ...]:
        """Return names and passwords as clients send them; "" means any password."""
        pairs = [text.partition(":")[::2] for text in self.user]
        pairs += [(name, "") for name in self.name_only]
        return tuple((encode(name), encode(password)) for name, password in pairs)

    def __repr__(self) -> str:
        shown = self._replace(
            user=tuple(without_password(text) for text in self.user),
            exit=tuple(map(exitlines.shown, self.exit)),
        )
        return "Config(%s)" % ", ".join("%s=%r" % item for item in shown._asdict().items())


def _families(addresses: Tuple[str, ...]) -> Set[str]:
    return {"ipv6" if ":" in text else "ipv4" for text in addresses}


_ACCEPT = dict(CHECKS, rule=check_rule, exit=exitlines.check_exit)
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
