"""Pages that show commands with what they print: they do print that."""

import os
import re
import subprocess
import sys

import pytest

from kit.support import ROOT, environment

pytestmark = pytest.mark.pages

PAGES = ("exits", "rules", "udp")


def blocks(page):
    """Yield the literal blocks of a page, each with the words before it."""
    with open(os.path.join(ROOT, "docs", page + ".rst"), encoding="utf-8") as file:
        text = file.read()
    for found in re.finditer(r"([^\n]+(?:\n[^\n]+)*)::\n\n((?:(?:    [^\n]*)?\n)+)", text):
        lines = found.group(2).rstrip("\n").split("\n")
        yield found.group(1), "\n".join(line[4:] for line in lines) + "\n"


def run(command, folder):
    """Return what *command* prints, a line of a page; ``minisocks`` is this package."""
    script = 'minisocks() { %s -m minisocks "$@"; }\n%s' % (sys.executable, command)
    return subprocess.Popen(
        ["sh", "-c", script],
        cwd=str(folder),
        env=dict(environment(), PATH=os.environ["PATH"], PYTHONPATH=ROOT),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    ).communicate()[0]


@pytest.mark.parametrize("page", PAGES)
def test_commands_print_what_the_page_shows(page, tmp_path):
    """With the files that it shows."""
    shown = 0
    for words, text in blocks(page):
        named = re.findall(r"``(\w[\w.-]*\.(?:ini|list))``", words)
        if text.startswith("$ "):
            for part in text.split("$ ")[1:]:
                command, _, expected = part.partition("\n")
                assert expected == run(command, tmp_path), command
                shown += 1
        elif named:
            # Not the reader's own address, which is none here.
            text = re.sub(r"(?m)^listen = .*", "listen = 0", text)
            (tmp_path / named[-1]).write_text(text)
    assert shown > 2
