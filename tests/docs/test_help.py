"""--help says what there is, and is read with pleasure at 80 columns."""

import re

import pytest

import minisocks
from kit.support import environment, run_command
from minisocks.config.settings import CONFIG_FILE, GROUPS, SETTINGS

pytestmark = pytest.mark.usefixtures("every_click")


def help_of(*args, columns="200"):
    """Return the help page as a terminal of that width gets it."""
    status, out, err = run_command(*args, env=environment(COLUMNS=columns))
    assert (0, "") == (status, err)
    return out


def sections(page):
    """Return the page's parts by title, white space made even."""
    parts = re.split(r"(?m)^(\w[\w ]+):\n", page)
    return {title: " ".join(body.split()) for title, body in zip(parts[1::2], parts[2::2])}


@pytest.mark.parametrize("args", [["-h"], ["--help"], ["check", "-h"], ["check", "--help"]])
def test_help_explains_every_setting_in_its_group(args):
    """Each option is under its heading with its letter, unit, text and default."""
    page = sections(help_of(*args))

    for setting in (CONFIG_FILE,) + SETTINGS:
        names = ", ".join(name for name in (setting.short, setting.option) if name)
        text = names + setting.spelling[len(setting.option) :] + " " + setting.help
        if setting.default:
            default = setting.default if setting.kind == "texts" else (setting.default,)
            text += " [default: %s]" % " ".join(setting.shown(value) for value in default)
        assert text in page[setting.group]


def test_help_has_the_groups_in_order():
    """The headings are those of the table, in its order, without empty ones."""
    used = [g for g in GROUPS if any(s.group == g for s in (CONFIG_FILE,) + SETTINGS)]

    assert ["Examples", "Commands"] + used + ["Other"] == list(sections(help_of("--help")))


@pytest.mark.parametrize("args", [["--help"], ["check", "--help"]])
@pytest.mark.parametrize("columns", ["80", "200"])
def test_help_fits_a_terminal(args, columns):
    """No line is wider than 80 columns, explanations begin in one column, all is ASCII."""
    page = help_of(*args, columns=columns)
    lines = page.splitlines()
    options = [line for line in lines if re.match(r"  (-\w,|   ) --", line)]

    assert [] == [line for line in lines if len(line) > 80]
    assert page == page.encode("ascii", "replace").decode("ascii")
    assert {32} == {re.match(r"  (-\w,|   ) --\S+( [A-Z:=]+)? +", line).end() for line in options}


def test_help_of_the_command_lists_the_commands():
    """The main page has a line on each command, a command's page has its own options."""
    assert "check" in sections(help_of("--help"))["Commands"]
    assert "--json" in sections(help_of("check", "--help"))["Other"]
    assert "--json" not in help_of("--help")


@pytest.mark.parametrize("args", [["--version"], ["check", "--version"]])
def test_version_is_the_packages_own(args):
    """--version says what the package is."""
    assert (0, "minisocks %s\n" % minisocks.__version__, "") == run_command(*args)
