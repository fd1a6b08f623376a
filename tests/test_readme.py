"""The README says what is true.  ``python tests/test_readme.py`` rewrites its table."""

import os
import re
import textwrap

from minisocks.settings import SETTINGS, option_name

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
README = os.path.join(ROOT, "README.rst")
TABLE = re.compile(r"(\.\. options begin\n).*?(\.\. options end)", re.S)


def spelling(setting):
    names = ", ".join(name for name in (setting.short, option_name(setting.name)) if name)
    return ("%s %s" % (names, setting.metavar)).rstrip()


def default(setting):
    if setting.kind == "flag" or setting.default == ():
        return ""
    value = " ".join(setting.default) if setting.kind == "texts" else "%g" % setting.default
    return " Default: %s." % value


def options_table():
    """Return the options as an RST definition list."""
    parts = []
    for setting in SETTINGS:
        body = textwrap.fill(
            setting.help + default(setting), 86, initial_indent="    ", subsequent_indent="    "
        )
        parts.append("``%s``\n%s\n" % (spelling(setting), body))
    return "\n" + "\n".join(parts) + "\n"


def with_table(text):
    """Return the README's *text* with the table as it should be."""
    return TABLE.sub(lambda match: match.group(1) + options_table() + match.group(2), text)


def read():
    with open(README, encoding="utf-8") as readme:
        return readme.read()


def test_options_are_not_stale():
    """The README's table of options is the one made from the settings."""
    text = read()

    assert TABLE.search(text)
    assert with_table(text) == text


if __name__ == "__main__":
    new = with_table(read())
    with open(README, "w", encoding="utf-8") as output:
        output.write(new)
