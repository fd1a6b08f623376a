"""A shell completes commands, options and paths, with the line that the document shows."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time

import click
import pytest

from kit.support import OLDEST_CLICK, ROOT, TIMEOUT, environment, run_command

HAS_COMPLETION = hasattr(click.Command, "shell_complete")

#: How a line ends, and how bash goes on when the tabulator is pressed behind it.
LINES = [
    ("minisocks --allow", "-lan "),
    ("minisocks dra", "in "),
    ("minisocks check --pro", "cessor "),
    ("minisocks status --wa", "tch "),
    ("minisocks -c sett", "ings.ini "),
]


class Terminal:
    """A bash as a person has it, in *folder*."""

    def __init__(self, folder):
        program = folder / "minisocks"
        program.write_text("#!/bin/sh\nexec '%s' -m minisocks \"$@\"\n" % sys.executable)
        program.chmod(0o755)
        environ = dict(environment(), PATH="%s:/usr/bin:/bin" % folder, PYTHONPATH=ROOT)
        environ.update(HOME=str(folder), INPUTRC="/dev/null", TERM="dumb", PS1="", HISTFILE="")
        self.master, slave = pty.openpty()
        self.said = b""
        self.child = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=str(folder),
            env=environ,
            start_new_session=True,
        )
        os.close(slave)

    def type(self, text):
        """Press keys."""
        self.said = b""
        os.write(self.master, text.encode())

    def expect(self, text):
        """Read until *text* is there."""
        end = time.monotonic() + TIMEOUT
        while text.encode() not in self.said:
            assert select.select([self.master], [], [], max(0, end - time.monotonic()))[0], (
                self.said
            )
            self.said += os.read(self.master, 65536)

    def close(self):
        """End it."""
        self.child.kill()
        self.child.wait()
        os.close(self.master)


@pytest.fixture
def terminal(tmp_path):
    """A bash that has taken the document's line."""
    if not HAS_COMPLETION:
        pytest.skip("click older than 8.0 beside this Python")
    if shutil.which("bash") is None:
        pytest.skip("no bash on this machine")
    (tmp_path / "settings.ini").write_text("")
    with open(os.path.join(ROOT, "docs", "configuration.rst"), encoding="utf-8") as file:
        (line,) = re.findall(r"(?m)^    (eval .*)$", file.read())
    terminal = Terminal(tmp_path)
    try:
        terminal.type("%s; echo re''ady\n" % line)
        terminal.expect("ready")
        yield terminal
    finally:
        terminal.close()


def test_bash_completes_what_is_typed(terminal):
    """A command, options of all commands, and a path behind an option that takes one."""
    for typed, behind in LINES:
        terminal.type(typed + "\t")
        terminal.expect(typed + behind)
        terminal.type("\x15")  # away with the line


def test_another_word_is_an_error():
    """It names those that can be used, where click has completion at all."""
    status, out, err = run_command(env=environment(_MINISOCKS_COMPLETE="tcsh_source"))

    assert (2 if HAS_COMPLETION else 1, "") == (status, out)
    wanted = "is none of bash_source" if HAS_COMPLETION else "completion needs click 8.0"
    assert wanted in err
    assert 1 == err.count("\n")


@pytest.mark.skipif(not HAS_COMPLETION, reason="this click has no completion")
@pytest.mark.parametrize("line", [{}, {"COMP_WORDS": "minisocks st", "COMP_CWORD": "x"}])
def test_a_question_without_a_line_is_an_error(line):
    """A person that tries it by hand gets a sentence and no traceback."""
    status, out, err = run_command(env=environment(_MINISOCKS_COMPLETE="bash_complete", **line))
    assert (2, "") == (status, out)
    assert "'bash_complete' is for the function" in err
    assert 1 == err.count("\n")


@pytest.mark.skipif(
    not os.path.isdir(OLDEST_CLICK),
    reason="no click 7.1 beside this environment; scripts/test makes one",
)
def test_an_old_click_is_an_error():
    """As in the single file."""
    child = subprocess.run(
        [sys.executable, "-m", "minisocks"],
        env=environment(_MINISOCKS_COMPLETE="bash_source", PYTHONPATH=OLDEST_CLICK),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    assert (1, "") == (child.returncode, child.stdout)
    assert "minisocks: completion needs click 8.0" in child.stderr
