"""The one table of settings, and the typed record of their values.  No click.

``Config`` holds values, each default under the reason for it.  ``SETTINGS``
says how each is spelled, read and explained; the command line, the
environment's variables, the ini file's keys and the tables in the documents are
made from it.  A test proves that both name the same settings.
"""

from typing import Any, Callable, Dict, Iterable, NamedTuple, Optional, Tuple

from minisocks.errors import ConfigError
from minisocks.values import (
    ListenAddress,
    check_interface,
    check_preference,
    check_source,
    check_user,
    encode,
    without_password,
)

__all__ = [
    "CONFIG_FILE",
    "GROUPS",
    "SETTINGS",
    "Config",
    "Setting",
    "closest",
    "option_name",
]


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
    # Handshakes unfinished at once. Beyond it the oldest of the address that
    # has most is closed, so that a scanner only gets in its own way.
    max_handshakes: int = 256
    # Seconds for all that a client must say. A phone on a bad link needs about
    # 5; a scanner keeps a descriptor no longer than this.
    handshake_timeout: float = 30.0
    # Seconds to reach the target, names included. The SOCKS4 memo says 2 minutes.
    connect_timeout: float = 120.0
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


def option_name(name: str) -> str:
    """Return how the command line spells the setting *name*."""
    return "--" + name.replace("_", "-")


def closest(word: str, known: Iterable[str], shape: str = "%s") -> str:
    """Return "; did you mean ...?" where one of *known* resembles *word*, else nothing."""
    import difflib  # for mistakes only

    meant = difflib.get_close_matches(word, list(known), 1)
    return "; did you mean %s?" % (shape % meant[0]) if meant else ""


#: What people write for a flag, in the environment and in files.
_YES = ("1", "yes", "true", "on")
_NO = ("0", "no", "false", "off")


class Setting(NamedTuple):
    """One row: how a setting is spelled, read and explained.

    ``kind`` is flag, seconds, count, text, or texts (may be repeated).  Numbers go
    from ``least`` to ``most``; ``accept`` raises ``ConfigError`` for a text that
    cannot be used.
    """

    group: str
    name: str
    kind: str
    help: str
    metavar: str = ""
    short: str = ""
    least: float = 0
    most: float = 0
    accept: Optional[Callable[[str], Any]] = None

    @property
    def default(self) -> Any:
        """The value when nobody sets it."""
        return Config._field_defaults[self.name]

    @property
    def option(self) -> str:
        """How the command line spells it."""
        return option_name(self.name)

    @property
    def key(self) -> str:
        """How the ini file spells it."""
        return self.option[2:]

    @property
    def variable(self) -> str:
        """How the environment spells it."""
        return "MINISOCKS_" + self.name.upper()

    def read(self, text: str) -> Any:
        """Return the value that *text* stands for: of ``texts``, one of them.

        Raises:
            ConfigError: for none, or for one that cannot be used.
        """
        value: Any = text
        if self.kind == "flag":
            if text.lower() not in _YES + _NO:
                raise ConfigError(self.option, "%r is neither yes nor no" % text)
            return text.lower() in _YES
        if self.kind in _NUMBERS:
            convert, wanted = _NUMBERS[self.kind]
            try:
                value = convert(text)
            except ValueError:
                raise ConfigError(self.option, "%.40r is no %s" % (text, wanted)) from None
        self._check_one(value)
        return value

    def check(self, value: Any) -> None:
        """Accept a value as ``Config`` holds it.

        Raises:
            ConfigError: it cannot be used.
        """
        if self.kind == "texts":
            # Not what can be read once only: it would be empty when it is used.
            if not isinstance(value, tuple):
                wrong = type(value).__name__
                raise ConfigError(self.option, "takes several texts: a tuple, not %s" % wrong)
            for text in value:
                self._check_one(text)
        elif self.kind != "flag":
            self._check_one(value)
        elif not isinstance(value, bool):
            # Not by truth: "no" is true, and would open the door.
            raise ConfigError(self.option, "takes True or False, not %r" % (value,))

    def shown(self, value: Any) -> str:
        """Return *value* (of ``texts``, one of them) for people, without secrets."""
        if self.kind == "flag":
            return "yes" if value else "no"
        if self.kind in _NUMBERS:
            return _number(value)
        if not value:
            return "none"
        return without_password(value) if self.accept is check_user else str(value)

    def _check_one(self, value: Any) -> None:
        if self.kind in _NUMBERS:
            fits = int if self.kind == "count" else (int, float)
            if isinstance(value, bool) or not isinstance(value, fits):
                wanted = _NUMBERS[self.kind][1]
                raise ConfigError(self.option, "takes a %s, not %.40r" % (wanted, value))
            if not self.least <= value <= self.most:
                numbers = tuple(map(_number, (value, self.least, self.most)))
                raise ConfigError(self.option, "%s is out of range: %s to %s" % numbers)
        elif not isinstance(value, str):
            raise ConfigError(self.option, "takes text, not %r" % type(value).__name__)
        elif self.accept is not None:
            self.accept(value)


def _whole(text: str) -> int:
    # Marks are written in hexadecimal by everybody else.
    return int(text, 16 if text.lower().startswith("0x") else 10)


def _number(value: float) -> str:
    """Return *value* as people write it: 10 and not 10.0, and not 1e+06."""
    if isinstance(value, float) and value == value // 1 and abs(value) < 1e15:
        value = int(value)
    text = str(value)
    return text if len(text) <= 30 else text[:30] + "..."


_NUMBERS: Dict[str, Tuple[Callable[[str], Any], str]] = {
    "seconds": (float, "number of seconds"),
    "count": (_whole, "whole number"),
}

#: In the order of ``--help``.
GROUPS = (
    "Listening",
    "Who may come in",
    "Time limits",
    "The road out",
    "Running as a service",
    "Logging",
)
_LISTENING, _WHO, _TIME, _ROAD, _SERVICE, _LOGGING = GROUPS

#: Not among the others: it says where they are, so it is in no ``Config``.
CONFIG_FILE = Setting(
    _SERVICE,
    "config",
    "text",
    "Read settings from this ini file; what the command line and the environment say wins.",
    "FILE",
    "-c",
)

SETTINGS = (
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
    Setting(_WHO, "allow_lan", "flag", "Let clients on private networks in without a password."),
    Setting(_WHO, "open", "flag", "Let any client in without a password."),
    Setting(
        _WHO,
        "max_handshakes",
        "count",
        "Unfinished handshakes at once; beyond it the oldest of the busiest address is closed.",
        "N",
        least=4,
        most=65536,
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
        "grace",
        "seconds",
        "For open connections after TERM.",
        "SECS",
        least=0,
        most=86400,
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
    Setting(_LOGGING, "quiet", "flag", "No log line for each connection.", "", "-q"),
    Setting(_LOGGING, "verbose", "flag", "Log health checks and scanners too.", "", "-v"),
)
