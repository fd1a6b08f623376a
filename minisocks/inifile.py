"""The ini file: text to sections, keys and values, each with its line.  Pure.

::

    # a comment has a line of its own
    [minisocks]
    grace = 5
    listen =
        127.0.0.1:1080
        [::1]:1080

Not configparser: it forgets the lines that values stand on, which is what
somebody who has made a mistake needs to know, and it takes no section of lines
that are not ``KEY = VALUE``.
"""

from typing import List, NamedTuple, Tuple

from minisocks.errors import ConfigError

__all__ = ["Entry", "MAX_FILE_BYTES", "parse"]

#: More is no file of settings.
MAX_FILE_BYTES = 1 << 20


class Entry(NamedTuple):
    """One key: its section, its line, and its values, each with the line it is on."""

    section: str
    key: str
    line: int
    values: Tuple[Tuple[int, str], ...]


def parse(text: str, name: str) -> List[Entry]:
    """Return the keys of the file called *name*, in its order.

    An indented line is one more value of the key above it.  What a line says is
    not repeated in errors: it may be a password.

    Raises:
        ConfigError: a line is none of these; its place is file and line.
    """
    if "\0" in text:
        raise ConfigError(
            "--config", "this is no text in UTF-8; save it as such in your editor", name
        )
    entries: List[Entry] = []
    section = ""
    # Not splitlines(): editors do not count what that takes for ends of lines.
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.strip()
        if not bare or bare[0] in "#;":
            continue
        place = "%s, line %d" % (name, number)
        if line[0].isspace():
            if not entries or entries[-1].section != section:
                raise ConfigError(
                    "--config", "this line is indented, but no key is above it", place
                )
            last = entries[-1]
            entries[-1] = last._replace(values=last.values + ((number, bare),))
        elif bare[0] == "[":
            if bare[-1] != "]":
                raise ConfigError("--config", "the section lacks its ]", place)
            section = bare[1:-1].strip()
        else:
            key, equals, value = (part.strip() for part in bare.partition("="))
            if not equals or not key:
                raise ConfigError(
                    "--config", "write KEY = VALUE; this line has no key or no =", place
                )
            if not section:
                raise ConfigError(
                    "--config", "write [minisocks] above it, the section of the settings", place
                )
            values = ((number, value),) if value else ()
            entries.append(Entry(section, key, number, values))
    return entries
