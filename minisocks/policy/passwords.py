"""Passwords: their hashes, the file of users, and the waits after failed logins.  Pure.

A hash is PBKDF2-HMAC-SHA256, written as passlib writes it, behind the name of its user::

    # a comment has its own line
    ann:$pbkdf2-sha256$ITERATIONS$SALT$CHECKSUM

SALT and CHECKSUM are base64 without padding, "." for "+".  ITERATIONS is what one guess costs,
so each hash has its own.  Messages never contain a line of the file or a hash, because a line
may hold a plain password by mistake, and the message is logged.

``hashlib`` is imported only when a password is hashed: it takes 2 MB of memory.

The first failed logins cost nothing, because people mistype.  Then each wait is twice the last
one, and every minute without failures halves their number.  A success changes nothing, because a
client that guesses may also have a password of its own.
"""

import itertools
import math
import re
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from minisocks.errors import ConfigError
from minisocks.policy.client import Groups
from minisocks.values import encode
from minisocks.wire import MAX_FIELD_BYTES

__all__ = [
    "FREE",
    "Hash",
    "MAX_ITERATIONS",
    "Penalties",
    "SALT_BYTES",
    "Scope",
    "check_user_name",
    "derive",
    "is_fast",
    "parse_users",
    "scopes_of",
]

#: A limit on the time of a login.  On a PC it takes 1.8 s with OpenSSL, 6 s without; small
#: machines are several times slower.
MAX_ITERATIONS = 10000000
#: In new hashes; a hash from another program may have another size.
SALT_BYTES = 16

#: As in passlib: a salt has at most 1024 bytes, a checksum always 32.
_SHAPE = re.compile(
    r"\$pbkdf2-sha256\$([1-9][0-9]*)\$([A-Za-z0-9./]{0,1366})\$([A-Za-z0-9./]{43})\Z"
)
_BLOCK_BYTES = 64
#: Iterations between two calls of ``pause``: half a millisecond on a PC.
_ITERATIONS_AT_ONCE = 1000


def _no_pause() -> None:
    pass


class Hash(NamedTuple):
    """The hash of a password, with its iterations and salt."""

    iterations: int
    salt: bytes
    checksum: bytes

    @classmethod
    def of(
        cls, password: bytes, salt: bytes, iterations: int, pause: Callable[[], None] = _no_pause
    ) -> "Hash":
        """Return the hash of *password*; *salt* is random, ``SALT_BYTES`` of it."""
        return cls(iterations, salt, derive(password, salt, iterations, pause))

    @classmethod
    def parse(cls, text: str) -> "Optional[Hash]":
        """Return the hash that *text* describes; None if it does not describe one.

        Raises:
            ConfigError: it has too many iterations.
        """
        shape = _SHAPE.match(text)
        if shape is None or len(shape.group(2)) % 4 == 1:
            return None
        # Length first, because a number of a million digits takes seconds to parse.
        if len(shape.group(1)) > 8 or int(shape.group(1)) > MAX_ITERATIONS:
            raise ConfigError(
                "--users-file", "a hash has 1 to %d iterations, not more" % MAX_ITERATIONS
            )
        return cls(int(shape.group(1)), _decoded(shape.group(2)), _decoded(shape.group(3)))

    def text(self) -> str:
        """Return the text that ``parse`` takes."""
        parts = (self.iterations, _encoded(self.salt), _encoded(self.checksum))
        return "$pbkdf2-sha256$%d$%s$%s" % parts

    def fits(self, password: bytes, pause: Callable[[], None] = _no_pause) -> bool:
        """Return whether it is the hash of *password*; takes one derivation."""
        import hmac

        derived = derive(password, self.salt, self.iterations, pause)
        return hmac.compare_digest(derived, self.checksum)

    def __repr__(self) -> str:
        return "<Hash with %d iterations>" % self.iterations


def derive(
    password: bytes, salt: bytes, iterations: int, pause: Callable[[], None] = _no_pause
) -> bytes:
    """Return the 32 bytes of PBKDF2-HMAC-SHA256 (RFC 8018 section 5.2).

    OpenSSL does it where Python has it: three times as fast, and other threads run meanwhile.
    Otherwise *pause* is called every half millisecond, so that they can run; an exception that it
    raises ends the derivation.
    """
    import hashlib

    if is_fast():
        try:
            return hashlib.pbkdf2_hmac("sha256", password, salt, iterations)
        except ValueError:
            pass  # OpenSSL with FIPS may refuse a short salt
    return _by_hand(hashlib.sha256, password, salt, iterations, pause)


def is_fast() -> bool:
    """Return whether OpenSSL derives.  Before Python 3.12 there is also a slow fallback."""
    import hashlib

    return getattr(getattr(hashlib, "pbkdf2_hmac", None), "__module__", "") == "_hashlib"


def _by_hand(
    sha256: Callable[..., Any],
    password: bytes,
    salt: bytes,
    iterations: int,
    pause: Callable[[], None],
) -> bytes:
    if len(password) > _BLOCK_BYTES:
        password = sha256(password).digest()
    key = password.ljust(_BLOCK_BYTES, b"\0")
    # HMAC (RFC 2104) hashes one block of each key before the message; copies save that.
    inner = sha256(bytes(byte ^ 0x36 for byte in key)).copy
    outer = sha256(bytes(byte ^ 0x5C for byte in key)).copy
    last = salt + b"\0\0\0\1"
    total = 0
    for done in range(0, iterations, _ITERATIONS_AT_ONCE):
        for _ in range(min(_ITERATIONS_AT_ONCE, iterations - done)):
            message, keyed = inner(), outer()
            message.update(last)
            keyed.update(message.digest())
            last = keyed.digest()
            total ^= int.from_bytes(last, "big")
        pause()
    return total.to_bytes(32, "big")


def _encoded(data: bytes) -> str:
    import binascii

    return binascii.b2a_base64(data).decode("ascii").rstrip("=\n").replace("+", ".")


def _decoded(text: str) -> bytes:
    import binascii

    return binascii.a2b_base64(text.replace(".", "+") + "=" * (-len(text) % 4))


_OPTION = "--users-file"
_MAKES_ONE = "`minisocks hash-password --name %s` makes the line"
#: Colons in a line of /etc/passwd; /etc/shadow has 8.
_COLONS_OF_ACCOUNTS = 6
_IS_OF_ACCOUNTS = (
    "this line is of the accounts of the system, which are no users of the proxy; "
    "leave that file alone, and make one for the proxy: "
)


def parse_users(text: str, file_name: str) -> Dict[bytes, Hash]:
    """Return the hash of each user.

    Raises:
        ConfigError: a line is not valid; its place is ``FILE, line N``.
    """
    found: Dict[bytes, Hash] = {}
    # Not splitlines, because a name may contain other characters that it takes for line ends.
    for number, line in enumerate(text.split("\n"), 1):
        line = line[:-1] if line.endswith("\r") else line
        if number == 1 and line.startswith("\ufeff"):
            line = line[1:]
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        place = "%s, line %d" % (file_name, number)
        name, colon, written = line.partition(":")
        if not colon:
            raise ConfigError(_OPTION, "this is no NAME:HASH; " + _MAKES_ONE % "NAME", place)
        try:
            user = check_user_name(name)
            known = Hash.parse(written.strip())
        except ConfigError as exc:
            raise ConfigError(_OPTION, str(exc), place) from None
        if known is None and written.count(":") >= _COLONS_OF_ACCOUNTS - 1:
            raise ConfigError(_OPTION, _IS_OF_ACCOUNTS + _MAKES_ONE % "NAME", place)
        if known is None:
            raise ConfigError(
                _OPTION, "this is no $pbkdf2-sha256$ hash; " + _MAKES_ONE % _shown(name), place
            )
        if user in found:
            raise ConfigError(_OPTION, "%s is there twice" % _shown(name), place)
        found[user] = known
    return found


def check_user_name(name: str) -> bytes:
    """Return *name* as clients send it.

    Raises:
        ConfigError: it cannot be the name of a user in the file.
    """
    try:
        user = encode(name)
    except UnicodeEncodeError as exc:
        raise ConfigError(_OPTION, "a name is no text: %s" % exc.reason) from None
    if not 1 <= len(user) <= MAX_FIELD_BYTES:
        raise ConfigError(_OPTION, "a name has 1 to %d bytes" % MAX_FIELD_BYTES)
    if ":" in name or "\n" in name or "\r" in name or name.lstrip().startswith("#"):
        raise ConfigError(
            _OPTION, "a name has neither colon nor line break in it, and no # in front"
        )
    return user


def _shown(name: str) -> str:
    """Return *name* if it can be typed as it is, else ``NAME``."""
    return name if re.match(r"[A-Za-z0-9_.@+-]+\Z", name) else "NAME"


#: Failures of one client without a wait.
FREE = 3
#: The first wait.
FIRST_SECONDS = 0.5
#: The longest wait of one client.  A client that continues to guess has one guess in 13 s.
MOST_SECONDS = 30.0
#: The longest wait of a wider group, whose clients wait for failures of each other.
MOST_GROUP_SECONDS = 2.0
#: The time after which half of the failures are forgotten.
HALF_LIFE_SECONDS = 60.0
#: Failures that count beyond the free ones: so all waits are over two minutes after the last,
#: even if a browser repeats a wrong password.
MOST = 7
#: Entries at once.  One more replaces the lowest score among the LOOKED_AT oldest.
MAX_ENTRIES = 4096
LOOKED_AT = 16


class Scope(NamedTuple):
    """What failures are counted for: ``free`` without a wait, then ``most_seconds`` at most.

    ``parts`` are an address or a wider group, the user, and a name where one user has many.
    """

    parts: Tuple[bytes, ...]
    free: int
    most_seconds: float


def scopes_of(row: Groups) -> List[Scope]:
    """Return the scopes of a login, the narrowest first; in IPv6 an address is a /64.

    Each has twice as many free failures as the one before it.

    Args:
        row: the groups of the client, then the user and perhaps a name, each as (kind, bytes).
    """
    groups = [part for part in row if not isinstance(part, tuple)]
    groups = groups[:-1] if len(groups) > 3 else groups
    user, *names = [part[1] for part in row if isinstance(part, tuple)]
    wider = [(group, user) for group in reversed(groups)]
    scopes: List[Scope] = []
    for parts in [(*wider[0], *names), *wider[not names :]]:
        free = 2 * scopes[-1].free if scopes else FREE
        scopes.append(Scope(parts, free, MOST_GROUP_SECONDS if scopes else MOST_SECONDS))
    return scopes


class Penalties:
    """Failures by key, at most ``MAX_ENTRIES``.

    Its owner guards it.  Times are seconds of a clock of the caller.
    """

    def __init__(self) -> None:
        #: By key: the score, and the time when it had that value; the oldest first.
        self._failed: Dict[bytes, Tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._failed)

    def add(self, key: bytes, now: float, free: int = FREE) -> int:
        """Add a failure; return how many count now."""
        score = min(self.score(key, now) + 1, float(free + MOST))
        self._failed.pop(key, None)
        while len(self._failed) >= MAX_ENTRIES:
            # Only the oldest ones, because all of them take too long.
            oldest = itertools.islice(self._failed, LOOKED_AT)
            del self._failed[min(oldest, key=lambda one: self.score(one, now))]
        self._failed[key] = score, now
        return round(score)

    def score(self, key: bytes, now: float) -> float:
        """Return how many failures count at the time *now*."""
        score, at = self._failed.get(key, (0.0, now))
        return score * math.pow(0.5, (now - at) / HALF_LIFE_SECONDS)

    def wait_seconds(
        self,
        key: bytes,
        now: float,
        free: int = FREE,
        most: float = MOST_SECONDS,
        part: float = 1.0,
    ) -> float:
        """Return how many seconds from *now* the next attempt has to wait.

        Args:
            part: the part of the wait after the last failure that applies.
        """
        score, at = self._failed.get(key, (0.0, now))
        if round(score) < free:
            return 0.0
        delay = min(FIRST_SECONDS * 2.0 ** (round(score) - free), most)
        return max(0.0, at + part * delay - now)
