"""scripts/plain-words finds words that are not plain, and reads only what is written here."""

import os
import runpy
import subprocess
import sys

import pytest

from kit.support import ROOT

SCRIPT = os.path.join(ROOT, "scripts", "plain-words")
FINDINGS = runpy.run_path(SCRIPT)["findings"]


def found(tmp_path, name, text):
    """Return line and words of each finding in a file called *name*.

    Texts and words are bytes and raw strings here, which the script does not read in this file.
    """
    path = tmp_path / name
    path.write_bytes(text)
    return [(line, words) for _path, line, words, _advice in FINDINGS(str(path))]


@pytest.mark.parametrize(
    "source, expected",
    [
        (b"# Refuse who came in.\n", [(1, "who")]),
        (b"x = 1\n# Nobody\n# is told.\n", [(2, "Nobody"), (3, r"is told")]),
        (b'"""Its name.\n\nHear the client\nout.\n"""\n', [(3, r"Hear the client out")]),
        (
            b'raise ValueError("the name is "\n    "told, for it is long")\n',
            [(1, r"is told"), (2, r", for it is")],
        ),
        (b'"""The client leaves, for the target has gone."""\n', [(1, r", for the target has")]),
        (b'"""Users who log in wait for a turn of the loop."""\n', [(1, r"a turn")]),
    ],
)
def test_it_is_found_where_it_stands(source, expected, tmp_path):
    """In comments, docstrings and strings, also where lines or literals continue."""
    assert expected == sorted(found(tmp_path, "a.py", source))


@pytest.mark.parametrize(
    "source",
    [
        b"# The RFC says \"a client who asks\"; ``who`` prints 'who is there'.\n",
        b'"""Run it.\n\n::\n\n    $ who\n    nobody is told\n\n>>> who\n"""\n',
        b'who = b"who is told"\nwhoever = "whoever"\npattern = r"who .*"\n',
        b"# chown nobody:nogroup; the user nobody\n",
        b"# An operator who reads this, and people who do not.\n",
        b"# Bytes for it were on their way.\n",
    ],
)
def test_what_is_quoted_is_not_read(source, tmp_path):
    """Quotations, output, bytes, names and patterns, and people."""
    assert [] == found(tmp_path, "a.py", source)


def test_documents_and_shell_scripts_are_read(tmp_path):
    """The text of documents without blocks of output; comments of scripts."""
    document = b"Who may connect\n\n::\n\n    who\n\nA client is told.\n"
    assert [(1, "Who"), (7, r"is told")] == sorted(found(tmp_path, "a.rst", document))
    assert [(2, "who")] == found(tmp_path, "a", b"#!/bin/sh\n# Print who\necho who\n")


def test_findings_are_the_status(tmp_path):
    """A line for each, with what to write, and status 1; the count has status 0."""
    path = tmp_path / "a.py"
    path.write_bytes(b"# Who is there?\n")
    for option, status, line in [
        ([], 1, '%s:1: "Who"; write: name the actor' % path),
        (["--count"], 0, "    1  %s\n" % tmp_path),
    ]:
        done = subprocess.run(
            [sys.executable, SCRIPT, *option, str(path)], stdout=subprocess.PIPE, check=False
        )
        assert status == done.returncode
        assert done.stdout.decode().startswith(line)
