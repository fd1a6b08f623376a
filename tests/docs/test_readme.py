"""README and documents say what is true."""

import glob
import os
import re
import subprocess
import sys
import textwrap

import pytest

from kit.support import OLDEST_CLICK, ROOT, CommandLine, closed_port, run_command
from minisocks.config.layers import layered
from minisocks.service.pidfile import default_path

README = os.path.join(ROOT, "README.rst")
CONFIGURATION = os.path.join(ROOT, "docs", "configuration.rst")


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def documents():
    """Yield path and text of the README and of each document."""
    paths = [README] + sorted(glob.glob(os.path.join(ROOT, "docs", "*.rst")))
    assert len(paths) > 10
    for path in paths:
        with open(path, encoding="utf-8") as file:
            yield path, file.read()


def test_no_command_uses_a_folder_that_all_users_share():
    """Another user may have made a file or a link of that name before."""
    for path, text in documents():
        # But for the one of this user that minisocks makes, and in which no other may write.
        text = text.replace("/tmp/minisocks-UID", "")
        assert [] == re.findall(r"(?m)^ {2,}.*[\s:]/tmp/.*$|^.*--[a-z-]+[ =]/tmp/.*$", text), path


def test_the_file_shown_is_a_file_that_works():
    """The ini file in docs/configuration.rst sets what it says it sets."""
    text = read(CONFIGURATION)
    (block,) = re.findall(r"(?m)^(    \[minisocks\]\n(?:    .*\n|\n)+)", text)
    config = layered({}, {}, textwrap.dedent(block), CONFIGURATION).config

    assert ("127.0.0.1:1080", "[::1]:1080") == config.listen
    assert ("ann:secret", "bob:hunter2") == config.user
    assert (5.0, True) == (config.grace, config.quiet)


def commands():
    """Return the lines of the README that are typed, in its order."""
    first = r"(?:\./|~/|scripts/)\S+|python3|pip|pipx|minisocks|curl|apt"
    return re.findall(r"(?m)^    ((?:%s)(?: .*)?)$" % first, read(README))


#: Those that install it are run by scripts/smoke, which may ask the package index; the others
#: start what has tests of its own, and makes its environment.
ELSEWHERE = re.compile(r"pipx |python3 -m venv |~/minisocks/|~/\.local/bin/|scripts/|curl ")
#: Those that end by themselves; the others serve.
ENDS = re.compile(r" (status|reload|stop|hash-password|--daemon|-e) ")


@pytest.mark.pages
@pytest.mark.skipif(
    not os.path.isdir(OLDEST_CLICK),
    reason="no click 7.1 beside this environment; scripts/test makes one",
)
def test_every_command_works(tmp_path):
    """Each is run as it is written, in the README's order, with ``python3`` and no ``python``."""
    home = tmp_path / "home"
    for folder in ("bin", "home/dist", "opt"):
        (tmp_path / folder).mkdir(parents=True)
    python3 = tmp_path / "bin" / "python3"
    python3.write_text('#!/bin/sh\nexec %s "$@"\n' % sys.executable)
    python3.chmod(0o755)
    script = os.path.join(ROOT, "scripts", "single_file.py")
    for name in ("minisocks.pyz", "dist/minisocks.pyz"):
        made = [sys.executable, script, OLDEST_CLICK, str(home / name)]
        subprocess.check_call(made, stdout=subprocess.DEVNULL)
    environ = {"HOME": str(home), "PATH": "%s:/usr/bin:/bin" % python3.parent, "PYTHONPATH": ROOT}
    ports, done = {"1080": str(closed_port()), "1085": str(closed_port())}, []
    ports[""] = ports["1080"]
    try:
        for line in [line for line in commands() if not ELSEWHERE.match(line)]:
            moved = re.sub("108[05]", lambda found: ports[found.group()], line)
            moved = moved.replace("/opt/", "%s/opt/" % tmp_path)
            if ENDS.search(line):
                child = subprocess.run(
                    ["sh", "-c", moved],
                    input=b"s3cret\n",
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    cwd=str(home),
                    env=environ,
                    timeout=60,
                )
                assert 0 == child.returncode, (line, child.stdout)
            else:
                if "108" not in line and "unix:" not in line:
                    moved += " -l " + ports[""]
                program = ["sh", "-c", "exec " + moved]
                with CommandLine(program=program, cwd=str(home), env=environ) as command:
                    assert 0 == command.end(), line
            done.append(line)
    finally:
        address = "127.0.0.1:" + ports["1085"]
        run_command("stop", "-l", address)  # where a command before that has failed
        for end in ("", ".sock"):
            path = default_path(address) + end
            if os.path.exists(path):
                os.unlink(path)  # of a port that no process will have again
    assert 11 <= len(done)


def test_scripts_smoke_installs_it_as_it_is_written():
    """What is not run here is what that script takes from the README, or is tested there."""
    with open(os.path.join(ROOT, "scripts", "smoke"), encoding="utf-8") as file:
        smoke = file.read()
    installs = [line for line in commands() if re.match(r"pipx |python3 -m venv |~/", line)]

    assert ["pipx", "~/.local/bin/minisocks"] == [line.split(" ")[0] for line in installs[:2]]
    assert all(re.search(r"/bin/minisocks$|install |venv ", line) for line in installs)
    starts = "|".join(re.findall("as_written [a-z]+ '(.*)'", smoke))
    assert [] == [line for line in installs if not re.match(starts, line)]


def test_no_document_says_python_or_pip_for_those_of_the_system():
    """Debian has no ``python``, and its ``pip`` refuses to install: only an environment's does."""
    for path, text in documents():
        assert [] == re.findall(r"(?m)(?<![\w./-])python [-\w./]*[/.-].*$", text), path
        assert [] == re.findall(r"(?m)^.*/bin/python\b.*$", text), path
        assert [] == re.findall(r"(?m)^.*(?<![\w/-])(?:python3 -m )?pip3? install.*$", text), path
