"""The file of users: text to names and hashes.  Pure.

::

    # a comment has a line of its own
    ann:$pbkdf2-sha256$600000$...

No message has a line of it, nor a hash: where somebody wrote a password instead,
it would stand in the log.
"""

import re
from typing import Dict

from minisocks.errors import ConfigError
from minisocks.policy.passwords import Hash
from minisocks.values import encode
from minisocks.wire import MAX_FIELD_BYTES

__all__ = ["check_name", "parse"]

_OPTION = "--users-file"
_MAKES_ONE = "`minisocks hash-password --name %s` makes the line"
#: In a line of /etc/passwd; one of /etc/shadow has 8.
_COLONS_OF_ACCOUNTS = 6
_IS_OF_ACCOUNTS = (
    "this is a line of the system's own accounts, which are no users of the proxy; "
    "leave that file alone, and make one for the proxy: "
)


def parse(text: str, file_name: str) -> Dict[bytes, Hash]:
    """Return the hash of each user.

    Raises:
        ConfigError: a line cannot be used; its place is ``FILE, line N``.
    """
    found: Dict[bytes, Hash] = {}
    # Not splitlines: a name may have in it what that takes for an end.
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
            user = check_name(name)
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


def check_name(name: str) -> bytes:
    """Return *name* as clients send it.

    Raises:
        ConfigError: no user in the file can be called so.
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
    """Return *name* where it can be typed as it is."""
    return name if re.match(r"[A-Za-z0-9_.@+-]+\Z", name) else "NAME"
