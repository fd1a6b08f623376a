"""The one table of settings, and the typed record of their values.  No click.

``Config`` holds values, each default under the reason for it.  ``SETTINGS``
says how each is spelled and explained; the command line and the README's table
are made from it.  A test proves that both name the same settings.
"""

from typing import Any, NamedTuple, Tuple

from minisocks.errors import ConfigError
from minisocks.wire import MAX_FIELD_BYTES, packed_ip

__all__ = ["SETTINGS", "Config", "ListenAddress", "Setting", "option_name"]


class ListenAddress(NamedTuple):
    """A place to listen.  ``host`` "" is every address, IPv4 and IPv6.

    ``path`` is a unix socket's, and then the only field that counts.
    """

    host: str
    port: int
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> "ListenAddress":
        """Parse PORT, HOST:PORT, [V6]:PORT, :PORT, NAME:PORT or unix:PATH.

        Raises:
            ConfigError: it is none of them.
        """
        if text.startswith("unix:"):
            if not text[5:]:
                raise ConfigError(
                    "--listen", "unix: needs a path behind it: unix:/run/minisocks.sock"
                )
            return cls("", 0, text[5:])
        host, colon, port = text.rpartition(":")
        is_sound = _is_port(port)
        if not colon:
            host = "127.0.0.1"
        elif host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
            if ":" not in host or packed_ip(host) is None:
                raise ConfigError("--listen", "%r has no IPv6 address in its brackets" % text)
        elif ":" in host:
            for address in (host, text):
                if packed_ip(address) is not None:
                    raise ConfigError(
                        "--listen",
                        "an IPv6 address needs brackets: [%s]:PORT, not %r" % (address, text),
                    )
            is_sound = False
        if not is_sound or "[" in host:
            raise ConfigError(
                "--listen",
                "%r is no address to listen on; write PORT, HOST:PORT, [V6]:PORT, "
                ":PORT (every address) or unix:PATH" % text,
            )
        return cls(host, int(port))

    def __str__(self) -> str:
        if self.path:
            return "unix:" + self.path
        return ("[%s]:%d" if ":" in self.host else "%s:%d") % (self.host, self.port)


class Config(NamedTuple):
    """Settings of one proxy.  Immutable; derive with ``_replace``."""

    # Where to listen. Loopback: a proxy that everybody can reach is a decision.
    listen: Tuple[str, ...] = ("127.0.0.1:1080",)
    # NAME:PASSWORD; none: nobody has a password.
    user: Tuple[str, ...] = ()
    # Clients on private networks may come in without a password.
    allow_lan: bool = False
    # Any client may.
    open: bool = False
    # Seconds for all that a client must say. A phone on a bad link needs about
    # 5; a scanner keeps a descriptor no longer than this.
    handshake_timeout: float = 30.0
    # Seconds to reach the target, names included. The SOCKS4 memo says 2 minutes.
    connect_timeout: float = 120.0
    # Seconds that open connections get after TERM.
    grace: float = 10.0
    # Handshakes unfinished at once. Beyond it the oldest of the address that
    # has most is closed, so that a scanner only gets in its own way.
    max_handshakes: int = 256
    # No log line for each connection.
    quiet: bool = False
    # Log what health checks and scanners do, too.
    verbose: bool = False

    def checked(self) -> "Config":
        """Return self if every value can be used.

        Raises:
            ConfigError: one cannot; the first that was found.
        """
        for name in ("listen", "user"):
            if isinstance(getattr(self, name), str):
                raise ConfigError(option_name(name), "takes several values: a tuple, not a string")
        if not self.listen:
            raise ConfigError("--listen", "needs at least one address")
        for text in self.listen:
            ListenAddress.parse(text)
        for text in self.user:
            _check_user(text)
        for name, least, most in _RANGES:
            value = getattr(self, name)
            if not least <= value <= most:
                raise ConfigError(
                    option_name(name), "%g is out of range: %g to %g" % (value, least, most)
                )
        return self

    def credentials(self) -> Tuple[Tuple[bytes, bytes], ...]:
        """Return the user names and passwords as clients send them."""
        pairs = (text.partition(":") for text in self.user)
        return tuple((_encode(name), _encode(password)) for name, _, password in pairs)

    def __repr__(self) -> str:
        shown = self._replace(user=tuple(_without_password(text) for text in self.user))
        return "Config(%s)" % ", ".join("%s=%r" % item for item in shown._asdict().items())


def _is_port(text: str) -> bool:
    # str.isdigit alone takes other scripts' digits and superscripts.
    return len(text) <= 5 and all("0" <= c <= "9" for c in text) and 0 <= int(text or -1) <= 65535


_RANGES = (
    ("handshake_timeout", 0.1, 3600),
    ("connect_timeout", 0.1, 3600),
    ("grace", 0, 86400),
    ("max_handshakes", 4, 65536),
)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _without_password(text: str) -> str:
    name, colon, _ = text.partition(":")
    return (name if colon else "") + ":..."  # without a colon, it may be the password


def _check_user(text: str) -> None:
    name, _, password = text.partition(":")
    if not name or not password:
        raise ConfigError("--user", "write it as NAME:PASSWORD, neither of them empty")
    for part in (name, password):
        try:
            length = len(_encode(part))
        except UnicodeEncodeError as exc:
            raise ConfigError("--user", "a name or password is no text: %s" % exc.reason) from None
        if length > MAX_FIELD_BYTES:
            raise ConfigError(
                "--user", "a name or password is longer than %d bytes" % MAX_FIELD_BYTES
            )


class Setting(NamedTuple):
    """One row: how a setting is spelled and explained.

    ``kind`` is flag, seconds, count, or texts (may be repeated).
    """

    name: str
    kind: str
    help: str
    metavar: str = ""
    short: str = ""

    @property
    def default(self) -> Any:
        """The value when nobody sets it."""
        return Config._field_defaults[self.name]


def option_name(name: str) -> str:
    """Return how the command line spells the setting *name*."""
    return "--" + name.replace("_", "-")


SETTINGS = (
    Setting(
        "listen",
        "texts",
        "Listen here: PORT (on 127.0.0.1), HOST:PORT, [V6]:PORT, :PORT (every address, IPv4 and "
        "IPv6), NAME:PORT or unix:PATH. Port 0 is any free one. May be repeated.",
        "ADDRESS",
        "-l",
    ),
    Setting(
        "user",
        "texts",
        "Let clients in with this password (it shows in ps: for trying out). May be repeated.",
        "NAME:PASSWORD",
    ),
    Setting("allow_lan", "flag", "Let clients on private networks in without a password."),
    Setting("open", "flag", "Let any client in without a password."),
    Setting("handshake_timeout", "seconds", "For all that the client must say.", "SECONDS"),
    Setting("connect_timeout", "seconds", "To reach the target, names included.", "SECONDS"),
    Setting("grace", "seconds", "For open connections after TERM or INT.", "SECONDS"),
    Setting(
        "max_handshakes",
        "count",
        "Unfinished handshakes at once; beyond it the oldest of the busiest address is closed.",
        "N",
    ),
    Setting("quiet", "flag", "No log line for each connection.", "", "-q"),
    Setting("verbose", "flag", "Log health checks and scanners too.", "", "-v"),
)
