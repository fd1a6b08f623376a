"""The README says what is true.  ``python tests/test_readme.py`` rewrites its table."""

import glob
import os
import re
import textwrap

from minisocks.layers import layered
from minisocks.pidfile import default_path
from minisocks.settings import CONFIG_FILE, GROUPS, SETTINGS
from support import closed_port, run_command

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
README = os.path.join(ROOT, "README.rst")
TABLE = re.compile(r"(\.\. options begin\n).*?(\.\. options end)", re.S)


def spelling(setting):
    names = ", ".join(name for name in (setting.short, setting.option) if name)
    return names + setting.spelling[len(setting.option) :]


def default(setting):
    if not setting.default:
        return ""
    values = setting.default if setting.kind == "texts" else (setting.default,)
    return " Default: %s." % " ".join(setting.shown(value) for value in values)


def options_table():
    """Return the options as RST definition lists under the names of their groups."""
    parts = []
    for group in GROUPS:
        rows = [setting for setting in (CONFIG_FILE,) + SETTINGS if setting.group == group]
        if rows:
            parts.append("**%s**\n" % group)
        for setting in rows:
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


def test_no_command_uses_a_folder_that_all_users_share():
    """Another user may have made a file or a link of that name before."""
    documents = [README] + sorted(glob.glob(os.path.join(ROOT, "docs", "*.rst")))
    assert len(documents) > 10
    for path in documents:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        # But for the one of this user that minisocks makes, and in which no other may write.
        text = text.replace("/tmp/minisocks-UID", "")
        assert [] == re.findall(r"(?m)^ {2,}.*[\s:]/tmp/.*$|^.*--[a-z-]+[ =]/tmp/.*$", text), path


def test_the_file_shown_is_a_file_that_works():
    """The README's ini file sets what it says it sets."""
    (block,) = re.findall(r"(?m)^(    \[minisocks\]\n(?:    .*\n|\n)+)", read())
    config = layered({}, {}, textwrap.dedent(block), "README").config

    assert ("127.0.0.1:1080", "[::1]:1080") == config.listen
    assert ("ann:secret", "bob:hunter2") == config.user
    assert (5.0, True) == (config.grace, config.quiet)


def test_the_commands_of_a_service_work(tmp_path):
    """Those for the background, status, reload and stop, as they are written."""
    commands = re.findall(r"(?m)^    (python -m minisocks .*1085.*)$", read())
    words = ["--daemon", "status", "reload", "stop"]
    assert words == [word for command in commands for word in words if word in command]
    port = str(closed_port())
    for command in commands:
        args = command.replace("1085", port).replace("~/", "%s/" % tmp_path).split()[3:]
        status, _, err = run_command(*args)
        assert 0 == status, err
    for end in ("", ".sock"):
        path = default_path("127.0.0.1:" + port) + end
        if os.path.exists(path):
            os.unlink(path)  # of a port that nobody will have again


if __name__ == "__main__":
    new = with_table(read())
    with open(README, "w", encoding="utf-8") as output:
        output.write(new)
