"""``scripts/fuzz``: what it says about its command line."""

import os
import subprocess
import sys

import pytest

from kit.support import ROOT


def run(*args):
    """Return exit status, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, os.path.join(ROOT, "scripts", "fuzz"), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_shown(option):
    """It says what the arguments are, and nothing is fuzzed."""
    status, out, err = run(option)
    assert (0, "") == (status, err)
    assert out.startswith("Fuzz the handshake: scripts/fuzz [SECONDS [SEED]].\n")
    assert "conversations" not in out.splitlines()[-1]


@pytest.mark.parametrize("args", [("x",), ("0", "x"), ("0", "1", "2"), ("--seed",)])
def test_other_arguments_are_one_sentence(args):
    """No traceback."""
    status, out, err = run(*args)
    assert (1, "", 1) == (status, out, err.count("\n"))
    assert err.startswith("usage: scripts/fuzz [SECONDS [SEED]]")


def test_it_fuzzes_for_the_seconds_given():
    """The same seed as a number."""
    status, out, err = run("0.2", "7")
    assert (0, "") == (status, err)
    assert ", seed 7\n" in out
