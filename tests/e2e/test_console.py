"""What a command writes arrives; if it cannot, one sentence gives the reason, and it exits 1."""

import contextlib
import os
import subprocess
import sys

import pytest

from kit.support import ROOT, TIMEOUT, CommandLine, environment, one_connection, run_command
from minisocks.cli import COMMANDS

pytestmark = [
    pytest.mark.usefixtures("every_click"),
    pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here"),
]

#: What stdout may be, and what stderr says then.
BAD_STDOUT = {
    "full": "minisocks: No space left on device\n",
    "closed": "minisocks: stdout is closed\n",
    # The reader has ended, as head does after its lines: that needs no sentence.
    "pipe without reader": "",
}

#: Commands that write to stdout, and need no running minisocks.
PRINTING = [
    ["check"],
    ["check", "--json"],
    ["check", "--from", "127.0.0.1", "--to", "192.0.2.1:80"],
    ["check", "--from", "192.0.2.2", "--to", "192.0.2.1:80", "--json"],
    ["hash-password", "--iterations", "1000"],
    ["--version"],
    ["check", "--version"],
    ["-h"],
    ["--help"],
] + [[name, "--help"] for name in COMMANDS]

PROGRAM = [sys.executable, "-W", "error", "-m", "minisocks"]


def run_with(stdout, args, program=PROGRAM):
    """Run a command whose stdout is bad in this way; return exit status and stderr.

    The environment has no PYTHONUNBUFFERED, with which no output waits in a buffer.
    """
    command = list(program) + list(args)
    with contextlib.ExitStack() as stack:
        fd = None
        if stdout == "full":
            fd = os.open("/dev/full", os.O_WRONLY)
        elif stdout == "closed":
            command = ["sh", "-c", 'exec "$@" >&-', "sh"] + command
        else:
            reader, fd = os.pipe()
            os.close(reader)
        if fd is not None:
            stack.callback(os.close, fd)
        child = subprocess.run(
            command,
            input="secret\n",
            stdout=fd,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            cwd=ROOT,
            env=environment(),
            timeout=TIMEOUT,
        )
    return child.returncode, child.stderr


@pytest.mark.exhaustive
@pytest.mark.parametrize("stdout", sorted(BAD_STDOUT))
@pytest.mark.parametrize("args", PRINTING, ids=" ".join)
def test_output_that_cannot_be_written_is_a_failure(args, stdout):
    """Each command that prints exits 1 with a sentence; in a pipe that nothing reads, without."""
    assert (1, BAD_STDOUT[stdout]) == run_with(stdout, args)


@pytest.mark.parametrize(
    "form",
    [[], ["--json"], ["--prometheus"], ["--watch"], ["--watch", "--json"]],
    ids=lambda form: " ".join(["status"] + form),
)
def test_status_that_cannot_be_written_is_a_failure(instance, form):
    """status exits 1 with a sentence in each of its forms; with --watch at the first table."""
    assert 0 == instance.start()[0]
    for stdout, sentence in BAD_STDOUT.items():
        got = run_with(stdout, ["status", "--pidfile", instance.pidfile] + form)
        assert (1, sentence) == got, stdout


def test_without_dev_null_it_is_a_failure_all_the_same():
    """Without /dev/null, as in a bare chroot, a command exits 1 with its sentence, too."""
    chroot = "import os, sys; os.devnull = '/dev/none'; from minisocks.cli import main"
    program = [sys.executable, "-W", "error", "-c", chroot + "; sys.exit(main())"]
    for stdout in ("full", "pipe without reader"):
        assert (1, BAD_STDOUT[stdout]) == run_with(stdout, ["check"], program)


@pytest.mark.parametrize("stdout", sorted(BAD_STDOUT))
def test_what_is_said_on_stderr_needs_no_stdout(instance, stdout):
    """The start, reload and stop write nothing to stdout: they work, and exit 0."""
    for args, said in (
        (["-c", instance.file, "--daemon"], "listening on 127.0.0.1:%d " % instance.port),
        (["reload", "--pidfile", instance.pidfile], "reloaded, changed: nothing\n"),
        (["stop", "--pidfile", instance.pidfile], ""),
    ):
        status, err = run_with(stdout, args)
        assert (0, True) == (status, err.startswith(said)), err


ON_FULL_STDERR = ["sh", "-c", 'exec "$@" 2>/dev/full', "sh"]


@pytest.mark.parametrize(
    "expected, args",
    [
        (0, ["--version"]),
        (1, ["-l", "192.0.2.1:1080"]),
        (2, ["--no-such-option"]),
        (3, ["stop", "--pidfile", "/nonexistent/pid"]),
    ],
)
def test_a_full_stderr_does_not_change_the_exit_status(expected, args):
    """The exit status is the command's where its sentence cannot be written."""
    got = run_command(*args, program=ON_FULL_STDERR + PROGRAM, env=environment())
    assert (expected, "") == (got[0], got[2])


def test_it_serves_and_ends_with_a_full_stderr(instance, target):
    """What it says at the start is lost: it serves, reloads, and exits 0 after TERM."""
    args = ["-c", instance.file]
    with CommandLine(*args, prefix=ON_FULL_STDERR, env=environment(), wait=False) as command:
        instance.wait_for_line("try it")
        command.ports = [instance.port]
        one_connection(command, target)
        reload = ["reload", "--pidfile", instance.pidfile]
        assert 0 == run_command(*reload, program=ON_FULL_STDERR + PROGRAM, env=environment())[0]
        assert 0 == command.end()
