"""What scripts/reference makes of the table of settings is up to date, and can be used."""

import os
import re
import runpy
import shutil
import subprocess

import pytest

from kit.support import ROOT
from minisocks.cli import COMMANDS
from minisocks.config.layers import layered
from minisocks.config.settings import CONFIG_FILE, SETTINGS, Config

REFERENCE = runpy.run_path(os.path.join(ROOT, "scripts", "reference"))


@pytest.mark.parametrize("path", sorted(REFERENCE["documents"]()))
def test_a_document_is_not_stale(path):
    """Options, manual page and example are those that scripts/reference makes."""
    with open(path, encoding="utf-8", newline="") as file:
        assert REFERENCE["documents"]()[path] == file.read()


def test_the_page_has_a_place_for_the_options():
    """Without it nothing would be written there."""
    with open(REFERENCE["CONFIGURATION"], encoding="utf-8") as file:
        assert REFERENCE["TABLE"].search(file.read())


def test_the_example_as_it_is_changes_nothing():
    """All of its settings are comments."""
    assert Config() == layered({}, {}, REFERENCE["example"](), "example").config


def test_the_example_is_accepted_without_its_marks():
    """Each setting is in it once, and has a value that can be used."""
    text = re.sub(r"(?m)^#(?=[a-z[])", "", REFERENCE["example"]())
    config, sources, unknown, *_ = layered({}, {}, text, "example")

    assert {setting.name for setting in SETTINGS} == set(sources)
    assert all(source.startswith("example") for source in sources.values())
    assert () == unknown
    assert REFERENCE["RULES"] == config.rule
    assert REFERENCE["EXITS"] == config.exit


def shown(*command):
    """Return what *command* makes of the manual page, and what it warns of."""
    if shutil.which(command[0]) is None:
        pytest.skip("no %s on this machine" % command[0])
    child = subprocess.run(
        [*command, REFERENCE["MANUAL"]], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    return child.stdout.decode(), child.stderr.decode()


def test_the_manual_page_has_every_option_and_command():
    """All are there in the text that a reader sees."""
    text, warnings = shown("groff", "-man", "-ww", "-Tascii", "-P-cbou")
    words = " ".join(text.split())

    assert "" == warnings
    for setting in (CONFIG_FILE, *SETTINGS):
        assert setting.spelling in words
    for command in COMMANDS.values():
        assert "minisocks %s [OPTIONS]" % command.name in words
        assert all(option.opts[0] in words for option in command.more)


def test_mandoc_has_nothing_against_the_manual_page():
    """It is what Alpine and the BSDs show manual pages with."""
    assert ("", "") == shown("mandoc", "-Tlint", "-Wwarning")


def test_the_manual_page_is_installed():
    """With the package, and it is in what is distributed."""
    with open(os.path.join(ROOT, "setup.cfg"), encoding="utf-8") as file:
        assert "\nshare/man/man1 =\n    minisocks.1\n" in file.read()
    with open(os.path.join(ROOT, "MANIFEST.in"), encoding="utf-8") as file:
        assert re.search(r"(?m)^include .*\bminisocks\.1$", file.read())
