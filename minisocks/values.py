"""The texts of settings, where they are more than numbers: parse and check them.  Pure."""

import re
from typing import Any, Callable, Dict, NamedTuple

from minisocks.errors import ConfigError
from minisocks.wire import MAPPED_PREFIX, MAX_FIELD_BYTES, packed_ip, text_ip

__all__ = [
    "CHECKS",
    "EVERY_ADDRESS",
    "Keepalive",
    "ListenAddress",
    "MAX_PORT",
    "PortRange",
    "check_name_only",
    "check_user",
    "encode",
    "is_port",
    "read_bytes",
    "shown_bytes",
    "without_password",
]

#: The limits of Linux.
MAX_KEEPALIVE_SECONDS, MAX_KEEPALIVE_COUNT = 32767, 127

#: The highest port of TCP and UDP.
MAX_PORT = 65535

_LOOPBACK6 = bytes(15) + b"\1"

#: The address that means every address of a family, and the loopback address.
EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class ListenAddress(NamedTuple):
    """An address to listen on.  ``host`` "" is every address, IPv4 and IPv6.

    ``path`` is that of a unix socket; then the other fields have no meaning.
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
        if "@" in text:
            # The text is not repeated, because it contains a password.
            raise ConfigError("--listen", "takes no user; names and passwords go to --user")
        host, colon, port = text.rpartition(":")
        is_sound = is_port(port)
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
            ways = "PORT, HOST:PORT, [V6]:PORT, :PORT (every address) or unix:PATH"
            if _is_number(port, 20) and int(port) > MAX_PORT:
                ways = "a port up to %d" % MAX_PORT
            raise ConfigError("--listen", "%r is no address to listen on; write %s" % (text, ways))
        return cls(host, int(port))

    @property
    def is_fixed(self) -> bool:
        """Whether it is the same at the next start; port 0 is any port."""
        return bool(self.path or self.port)

    def for_clients(self) -> "ListenAddress":
        """Return the address for clients on this host: loopback if it is every address."""
        return self._replace(host=EVERY_ADDRESS.get(self.host, self.host))

    def __str__(self) -> str:
        if self.path:
            return "unix:" + self.path
        return ("[%s]:%d" if ":" in self.host else "%s:%d") % (self.host, self.port)


#: Units of bytes. M is a million, Mi is 2**20; b would be bits.
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
_UNITS.update(ki=2**10, mi=2**20, gi=2**30, ti=2**40, pi=2**50)
_AMOUNT = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,9}))? ?([kKmMgGtTpP]?i?)B?\Z")
#: Shown is the largest unit that leaves at most one decimal.
_SHOWN = (
    *(("PiB", 2**50), ("P", 10**15), ("TiB", 2**40), ("T", 10**12), ("GiB", 2**30), ("G", 10**9)),
    *(("MiB", 2**20), ("M", 10**6), ("KiB", 2**10), ("k", 10**3)),
)


def read_bytes(text: str) -> int:
    """Return the bytes in *text*: 500k, 1.5M and 2G are decimal, 64KiB is binary.

    Raises:
        ValueError: it is no number of bytes.
    """
    match = _AMOUNT.match(text)
    if match is None or match.group(3).lower() not in _UNITS:
        raise ValueError(text)
    whole, part = match.group(1), match.group(2) or ""
    return int(whole + part) * _UNITS[match.group(3).lower()] // int(10 ** len(part))


def shown_bytes(count: int) -> str:
    """Return *count* for people, so that ``read_bytes`` returns it again."""
    for unit, size in _SHOWN:
        tenths, rest = divmod(count * 10, size)
        if count >= size and not rest:
            return ("%d.%d%s" % (*divmod(tenths, 10), unit)).replace(".0", "")
    return str(count)


def is_port(text: str) -> bool:
    """Return whether *text* is a port from 0 to 65535, in ASCII digits."""
    return _is_number(text, 5) and int(text) <= MAX_PORT


def _is_number(text: str, most: int) -> bool:
    """Return whether *text* has 1 to *most* digits; str.isdigit accepts other scripts, too."""
    return 0 < len(text) <= most and all("0" <= c <= "9" for c in text)


def encode(text: str) -> bytes:
    """Return the bytes that clients send for *text*; surrogates become the original bytes."""
    return text.encode("utf-8", "surrogateescape")


def without_password(text: str) -> str:
    """Return NAME:PASSWORD without the password."""
    name, colon, _ = text.partition(":")
    return (name if colon else "") + ":..."  # without a colon, all of it may be the password


def check_user(text: str) -> None:
    """Accept NAME:PASSWORD.

    Raises:
        ConfigError: it is not that, or longer than SOCKS can send.
    """
    name, _, password = text.partition(":")
    if not name or not password:
        raise ConfigError(
            "--user",
            "write it as NAME:PASSWORD, neither of them empty; a name that needs no password goes "
            "to --name-only",
        )
    _check_sent("--user", "a name or password", name, password)


def check_name_only(text: str) -> None:
    """Accept the name of a user that needs no password.

    Raises:
        ConfigError: no client can send it, or a password follows it.
    """
    if ":" in text:
        # The text is not repeated, because it contains a password.
        raise ConfigError("--name-only", "takes a name alone; NAME:PASSWORD goes to --user")
    if not text:
        raise ConfigError("--name-only", "a name must not be empty")
    _check_sent("--name-only", "a name", text)


def _check_sent(option: str, what: str, *texts: str) -> None:
    for text in texts:
        try:
            length = len(encode(text))
        except UnicodeEncodeError as exc:
            raise ConfigError(option, "%s is no text: %s" % (what, exc.reason)) from None
        if length > MAX_FIELD_BYTES:
            raise ConfigError(option, "%s is longer than %d bytes" % (what, MAX_FIELD_BYTES))


def check_word(option: str, *words: str) -> Callable[[str], None]:
    """Return a check that accepts one of *words* for *option* and else raises ``ConfigError``."""

    def check(text: str) -> None:
        if text not in words:
            choice = "%s and %s" % (", ".join(words[:-1]), words[-1])
            raise ConfigError(option, "%.40r is none of %s" % (text, choice))

    return check


def check_processor(text: str) -> None:
    """Accept auto, none, or the number of a processor.

    Raises:
        ConfigError: it is none of them.
    """
    if text not in ("auto", "none") and not _is_number(text, 4):
        raise ConfigError(
            "--processor", "%.40r is neither auto nor none, nor a number from 0 up" % text
        )


def check_address(option: str, which: str, is_told: bool = False) -> Callable[[str], None]:
    """Return a check that accepts the IPv4 or IPv6 address of a host for *option*.

    The check raises ``ConfigError`` for other texts, and for an address that no packet can have.

    Args:
        which: what messages ask the operator to write.
        is_told: whether remote clients get the address, so that loopback is not valid.
    """

    def check(text: str) -> None:
        ip = packed_ip(text)
        if ip is None or "%" in text:
            raise ConfigError(option, "%r is no address; write %s" % (text, which))
        if len(ip) == 16 and ip.startswith(MAPPED_PREFIX):
            raise ConfigError(option, "%r is an IPv4 address: write %s" % (text, text_ip(ip[12:])))
        if ip[0] >= 224 if len(ip) == 4 else ip[0] == 0xFF:
            raise ConfigError(option, "%r is no address of a host" % text)
        if is_told and (not any(ip) or ip in (_LOOPBACK6, b"\x7f" + ip[1:4])):
            raise ConfigError(
                option, "%r is no address that clients can connect to; write %s" % (text, which)
            )
        if not any(ip):
            raise ConfigError(option, "%r is every address; leave it out to mean that" % text)

    return check


class PortRange(NamedTuple):
    """Ports from ``low`` to ``high``, both included."""

    low: int
    high: int

    @classmethod
    def parse(cls, option: str, text: str) -> "PortRange":
        """Parse A-B, or one port.

        Raises:
            ConfigError: it is no range of ports, for *option*.
        """
        first, dash, last = text.partition("-")
        last = last if dash else first
        if not (is_port(first) and is_port(last) and 0 < int(first) <= int(last)):
            raise ConfigError(option, "%.40r is no range of ports; write it as 40000-40999" % text)
        return cls(int(first), int(last))

    def __str__(self) -> str:
        return "%d-%d" % self


def check_ports(option: str) -> Callable[[str], None]:
    """Return a check that accepts a range of ports, or nothing, for *option*.

    The check raises ``ConfigError`` for other texts.
    """

    def check(text: str) -> None:
        if text:
            PortRange.parse(option, text)

    return check


class Keepalive(NamedTuple):
    """TCP keepalive: when a silent peer is probed, and when its connection ends.

    The first probe is after ``idle`` seconds, then one every ``interval`` seconds; ``times``
    probes without an answer end it.
    """

    idle: int = 300
    interval: int = 30
    times: int = 4

    @classmethod
    def parse(cls, text: str) -> "Keepalive":
        """Parse IDLE or IDLE,INTERVAL,COUNT.

        Raises:
            ConfigError: it is neither, or beyond the limits of the kernel.
        """
        found = [int(part) for part in text.split(",") if is_port(part)]
        most = (MAX_KEEPALIVE_SECONDS, MAX_KEEPALIVE_SECONDS, MAX_KEEPALIVE_COUNT)
        fits = all(0 < number <= limit for number, limit in zip(found, most))
        if len(found) not in (1, 3) or len(found) != text.count(",") + 1 or not fits:
            raise ConfigError(
                "--keepalive",
                "%.40r is neither IDLE nor IDLE,INTERVAL,COUNT; write seconds from 1 to %d, and a "
                "count from 1 to %d, as in 300,30,4" % (text, most[0], most[2]),
            )
        return cls(*found)


def check_interface(text: str) -> None:
    """Accept a possible name of a network interface, or nothing.

    Raises:
        ConfigError: no interface can have this name.
    """
    if (
        len(text.encode("utf-8", "replace")) > 15
        or "/" in text
        or any(c.isspace() or c == "\0" for c in text)
    ):
        raise ConfigError("--interface", "no interface can be called %r" % text)


def check_path(option: str) -> Callable[[str], None]:
    """Return a check that accepts the name of a file, or nothing, for *option*.

    The check raises ``ConfigError`` for other texts.
    """

    def check(text: str) -> None:
        if "\0" in text or text.endswith("/"):
            raise ConfigError(option, "no file can be called %r" % text)

    return check


def check_syslog(text: str) -> None:
    """Accept local, PATH, HOST:PORT or [V6]:PORT, or nothing.

    Raises:
        ConfigError: it is none of them.
    """
    if text in ("", "local") or text.startswith("/"):
        return
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_odd = bare[:1] == "[" or (":" in bare and packed_ip(bare) is None)
    if not colon or not host or not is_port(port) or not int(port) or is_odd:
        raise ConfigError(
            "--syslog", "%r is none of local, /PATH and HOST:PORT (1 to %d)" % (text, MAX_PORT)
        )
    if ":" in host and bare is host:
        raise ConfigError("--syslog", "an IPv6 address needs brackets: [%s]:%s" % (host, port))


#: The checks of texts, by setting.  ``policy.rulelines`` has that of a rule.
CHECKS: Dict[str, Callable[[str], Any]] = {
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
    "keepalive": Keepalive.parse,
    "prefer": check_word("--prefer", "ipv4", "ipv6", "ipv4-only", "ipv6-only", "system"),
    "source": check_address("--source", "one that this host has"),
    "interface": check_interface,
    "pidfile": check_path("--pidfile"),
    "processor": check_processor,
    "log_file": check_path("--log-file"),
    "syslog": check_syslog,
    "log_format": check_word("--log-format", "text", "json"),
}
