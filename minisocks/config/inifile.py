"""The ini file: from text to sections, keys and values, each with its line.  Pure.

::

    # a comment has a line of its own
    [minisocks]
    grace = 5
    listen =
        127.0.0.1:1080
        [::1]:1080
    user = "ann:ends in a blank "
    [rules]
    deny port 25
    allow from 10.0.0.0/8
    [exits]
    office = socks5h://10.0.0.1:1080

Not configparser, because it forgets on which line a value is, which errors tell, and takes no
section of lines that are not ``KEY = VALUE``.

Imports nothing, because ``--ensure`` reads the file every minute.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Tuple

    from minisocks.errors import ConfigError

__all__ = ["Entry", "SECTION", "SECTIONS", "is_in_quotes", "parse", "unquoted"]

#: The section of the settings.
SECTION = "minisocks"
#: Sections in which each line is a value of one key.
LINES = {"rules": "rule", "exits": "exit"}
SECTIONS = (SECTION, *LINES)


class Entry:
    """One key: its section, its line, and its values, each with the line it is on.

    Not a NamedTuple, because that costs an import.
    """

    __slots__ = ("key", "line", "section", "values")

    def __init__(
        self, section: str, key: str, line: int, values: "Tuple[Tuple[int, str], ...]"
    ) -> None:
        self.section = section
        self.key = key
        self.line = line
        self.values = values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entry) and repr(self) == repr(other)

    __hash__ = None  # type: ignore[assignment]  # it changes while a file is read

    def __repr__(self) -> str:
        return "Entry(%r, %r, %r, %r)" % (self.section, self.key, self.line, self.values)


def parse(text: str, name: str) -> "List[Entry]":
    """Return the keys of the file called *name*, in the order of the file.

    An indented line is one more value of the key above it.  Each line of the section
    ``rules`` is a value of the key "rule", each of ``exits`` one of "exit".  Values
    still have their quotes, and the blanks after them: see ``unquoted``.  Errors do not repeat a
    line, because it may have a password.

    Raises:
        ConfigError: a line is none of these; its place is file and line.
    """
    if "\0" in text:
        raise _wrong("this is no text in UTF-8; save it as such in your editor", name)
    entries: "List[Entry]" = []
    section = ""
    # Not splitlines(), which counts more ends of lines than editors do.
    for number, line in enumerate(text.split("\n"), 1):
        line = line[:-1] if line.endswith("\r") else line
        bare = line.strip()
        if not bare or bare[0] in "#;":
            continue
        place = "%s, line %d" % (name, number)
        if section in LINES and bare[0] != "[":
            # With its indentation, because an error tells the column.
            if entries and entries[-1].section == section:
                entries[-1].values += ((number, line.rstrip()),)
            else:
                entries.append(Entry(section, LINES[section], number, ((number, line.rstrip()),)))
        elif line[0].isspace():
            if not entries or entries[-1].section != section:
                raise _wrong("this line is indented, but no key is above it", place)
            entries[-1].values += ((number, line.lstrip()),)
        elif bare[0] == "[":
            if bare[-1] != "]":
                raise _wrong("the section lacks its ]", place)
            section = bare[1:-1].strip()
        else:
            key, equals, value = line.partition("=")
            key, value = key.strip(), value.lstrip()
            if section and section not in SECTIONS and not equals:
                sections = "the sections are %s" % ", ".join("[%s]" % one for one in SECTIONS)
                raise _wrong("no section is called [%s]; %s" % (section, sections), place)
            if not equals or not key:
                raise _wrong("write KEY = VALUE; this line has no key or no =", place)
            if not section:
                raise _wrong("put the line [minisocks] above this line", place)
            values = ((number, value),) if value.strip() else ()
            entries.append(Entry(section, key, number, values))
    return entries


def unquoted(text: str) -> str:
    """Return *text* without its quotes, or, if it has none, without the blanks around it."""
    bare = text.strip()
    return bare[1:-1] if is_in_quotes(bare) and bare[0] not in bare[1:-1] else bare


def is_in_quotes(bare: str) -> bool:
    """Return whether *bare* begins and ends with the same quote."""
    return len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "\"'"


def _wrong(message: str, place: str) -> "ConfigError":
    from minisocks.errors import ConfigError  # for mistakes only

    return ConfigError("--config", message, place)
