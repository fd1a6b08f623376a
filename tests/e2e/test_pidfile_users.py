"""Pidfiles of a user whose directory in /tmp another user has made first; whole processes."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest

from kit.support import ROOT, CommandLine, closed_port, run_command, wait_until
from minisocks.service.pidfile import Pidfile

#: No system has it, and no other run of these tests.
UID = 60000 + os.getpid() % 4000

#: Puts the list of users $1 in the place of the system's, for what it runs.
WITH_USERS = 'mount --bind "$1" /etc/passwd && shift && exec "$@"'

#: It runs as another user, which may read this program wherever that is.
AS_OTHER = ["--reuid", str(UID), "--regid", str(UID), "--clear-groups"]
AS_OTHER += ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]


class User:
    """A user with a home of its own, and its minisocks on a port."""

    def __init__(self, folder):
        os.chmod(folder, 0o711)  # noqa: S103  # the user has to get there
        self.home = os.path.join(folder, "home")
        self.first = "/tmp/minisocks-%d" % UID
        self.second = os.path.join(self.home, ".cache", "minisocks")
        self.port = closed_port()
        self._passwd = os.path.join(folder, "passwd")
        os.mkdir(self.home)
        os.chown(self.home, UID, UID)
        self.lives_in(self.home)

    def lives_in(self, home):
        """Have the system's list of users name *home* for this user; None: it has no such user."""
        with open("/etc/passwd") as system, open(self._passwd, "w") as file:
            file.write(system.read())
            if home is not None:
                file.write("minisocks-test:x:%d:%d::%s:/bin/sh\n" % (UID, UID, home))

    def run(self, *args, env=None):
        """Run the command line as this user; return status, stdout and stderr."""
        return run_command(*args, "-l", str(self.port), program=self.program(), env=env)

    def program(self):
        """Return the words before those of the command line."""
        program = ["unshare", "-m", "sh", "-c", WITH_USERS, "sh", self._passwd, "setpriv"]
        return [*program, *AS_OTHER, sys.executable, "-m", "minisocks"]

    def start(self, option):
        """Start it in the background."""
        return self.run(option, "--log-file", os.path.join(self.home, "log"))

    def pidfile(self, directory):
        """Return the pidfile in *directory*."""
        return Pidfile(os.path.join(directory, "minisocks-127.0.0.1-%d.pid" % self.port))

    def end(self):
        """End what runs, and leave nothing in /tmp."""
        for directory in (self.first, self.second):
            pidfile = self.pidfile(directory)
            if not pidfile.is_free():
                os.kill(pidfile.holder(), signal.SIGKILL)
                wait_until(pidfile.is_free)
        shutil.rmtree(self.first, ignore_errors=True)


@pytest.fixture
def user():
    """Return that user; the tests themselves are the other one."""
    if os.geteuid() or not all(map(shutil.which, ("setpriv", "mount"))):
        pytest.skip("only root can play two users, and with setpriv and mount")
    probe = ["unshare", "-m", "setpriv", *AS_OTHER, sys.executable, "-c", "import minisocks"]
    made = subprocess.run(probe, cwd=ROOT, stderr=subprocess.PIPE, universal_newlines=True)
    if made.returncode:
        pytest.skip("no other user here: %s" % made.stderr.strip())
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, which is root's alone
        user = User(folder)
        yield user
        user.end()


@pytest.mark.parametrize("option", ["--daemon", "--ensure"])
def test_another_user_s_directory_hinders_no_start(user, option):
    """It is started, found and ended, without a login and with one, and once the other is gone."""
    os.mkdir(user.first)
    status, _out, err = user.start(option)
    assert 0 == status, err
    pid = user.pidfile(user.second).holder()
    assert not user.pidfile(user.second).is_free()
    assert [] == os.listdir(user.first)
    assert 0o700 == os.stat(user.second).st_mode & 0o777

    assert (0, "", "") == user.start("--ensure")
    os.rmdir(user.first)
    assert (0, "", "") == user.start("--ensure")
    assert pid == user.pidfile(user.second).holder()
    elsewhere = {"HOME": "/", "XDG_RUNTIME_DIR": "/", "XDG_CACHE_HOME": "/", "TMPDIR": "/"}
    status, out, err = user.run("status", env=elsewhere)
    assert (0, "") == (status, err)
    assert "process %d" % pid in out
    assert 0 == user.run("stop")[0]
    assert user.pidfile(user.second).is_free()


def test_the_first_place_is_in_tmp(user):
    """It is used unless another user has it, so the pidfile is where it always was."""
    assert 0 == user.start("--daemon")[0]
    assert not user.pidfile(user.first).is_free()
    assert not os.path.exists(user.second)
    assert 0 == user.run("stop")[0]


def test_a_folder_in_tmp_that_was_removed_is_made_again(user):
    """The process makes it again with all files in it, and each command finds the process."""
    assert 0 == user.start("--daemon")[0]
    pidfile = user.pidfile(user.first)
    pid = pidfile.holder()
    shutil.rmtree(user.first)
    wait_until(lambda: os.path.exists(pidfile.path + ".sock"), "the folder with all in it")
    assert (0, "", "") == user.start("--ensure")
    assert pid == pidfile.holder()
    assert 0 == user.run("status")[0]
    assert 0 == user.run("stop")[0]


@pytest.mark.parametrize("home", [None, "/", "/no/such"])
@pytest.mark.parametrize("option", ["--daemon", "--ensure"])
def test_without_either_it_says_what_to_do(user, option, home):
    """A user without a home of its own has to name a pidfile; one sentence explains it."""
    os.mkdir(user.first)
    user.lives_in(home)
    status, out, err = user.start(option)
    assert (1, "") == (status, out)
    assert err == (
        "minisocks: there is no place for a pidfile, because %s is another user's, or open to "
        "others, and this user has no home directory to write to: name a --pidfile\n" % user.first
    )
    status, _out, err = user.run("status")
    assert 2 == status
    assert "name a --pidfile" in err
    path = os.path.join(user.home, "p")
    assert 0 == user.run(option, "--log-file", path + ".log", "--pidfile", path)[0]
    assert 0 == user.run("stop", "--pidfile", path)[0]


def test_in_the_foreground_it_serves_without(user):
    """Only commands need the pidfile: a warning explains why there is none."""
    os.mkdir(user.first)
    user.lives_in(None)
    with CommandLine("-l", str(user.port), program=user.program()) as command:
        assert command.lines[0].startswith("warning: there is no place for a pidfile, ")
        assert 0 == command.end()
