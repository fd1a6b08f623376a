"""A live process can be found, whatever tidies /tmp or removes files."""

import os
import shutil
import signal
import subprocess
import time

import pytest

from kit.support import run_proxy, wait_until
from minisocks.net.loop import Loop
from minisocks.service import presence
from minisocks.service.pidfile import Pidfile, control_path
from minisocks.service.presence import Presence

#: What systemd-tmpfiles takes for old, in seconds.
AGE = 1


def tidy(folder):
    """Have the real systemd-tmpfiles remove what is old in *folder*; skips where there is none."""
    program = shutil.which("systemd-tmpfiles")
    if program is None:
        pytest.skip("no systemd-tmpfiles here")
    old = os.path.join(folder, "old")
    with open(old, "w"):
        pass
    rules = folder + ".conf"
    with open(rules, "w") as file:
        file.write("d %s - - - %ds\n" % (folder, AGE))

    def is_tidied():
        subprocess.run([program, "--clean", rules], stdout=subprocess.DEVNULL)
        return not os.path.exists(old)

    wait_until(is_tidied, "the end of what is old")


def test_systemd_tmpfiles_takes_nothing(instance, tmp_path):
    """It removes neither pidfile nor control socket, however old, so their folder stays, too."""
    folder = tmp_path / "theirs" / "own"
    folder.mkdir(parents=True)
    instance.pidfile = str(folder / "p")
    instance.configure()
    assert 0 == instance.start()[0]
    files = {path: os.stat(path).st_ino for path in (instance.pidfile, instance.pidfile + ".sock")}

    tidy(str(tmp_path / "theirs"))
    assert files == {path: os.stat(path).st_ino for path in files}
    assert 0 == instance.command("status")[0]


@pytest.mark.parametrize("is_short", [True, False])
def test_systemd_tmpfiles_takes_no_listener(tmp_path, monkeypatch, is_short):
    """It removes no unix socket of a listener, not even one named by a relative path."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    monkeypatch.chdir(str(folder))
    path = "s" if is_short else str(folder / "s")
    with run_proxy(listen=("unix:" + path,)):
        tidy(str(folder))
        assert os.path.exists(path)


@pytest.mark.parametrize("gone", ["pidfile", "socket", "both", "folder"])
def test_what_was_removed_is_made_again(instance, tmp_path, gone):
    """The live process makes it; then every command and --ensure find that process."""
    folder = tmp_path / "own"
    folder.mkdir()
    instance.pidfile = str(folder / "p")
    instance.configure()
    assert 0 == instance.start()[0]
    pid, socket_file = instance.pid, instance.pidfile + ".sock"
    inode = os.stat(socket_file).st_ino
    if gone in ("pidfile", "both"):
        os.unlink(instance.pidfile)
    if gone in ("socket", "both"):
        os.unlink(socket_file)
    if gone == "folder":
        shutil.rmtree(str(folder))
        folder.mkdir()

    wait_until(lambda: pid == instance.pid and os.path.exists(socket_file), "what was removed")
    assert (inode == os.stat(socket_file).st_ino) == (gone == "pidfile")
    assert (0, "", "") == instance.start("--ensure")
    assert pid == instance.pid
    for command in ("status", "reload", "stop"):
        assert 0 == instance.command(command)[0]


@pytest.fixture
def found(tmp_path):
    """A presence by one pidfile, with its warnings in ``told``, and its loop."""
    told, loop = [], Loop()
    here = Presence(told.append, lambda wish, answer: None)
    here.told, here.loop, here.path = told, loop, str(tmp_path / "p")
    pidfile = Pidfile(here.path)
    assert pidfile.acquire()
    here.add(pidfile)
    former = signal.signal(signal.SIGIO, lambda *args: None)
    loop.start()
    here.look(loop)
    yield here
    here.release()
    signal.signal(signal.SIGIO, former)
    loop.stop()


def test_a_process_that_nothing_happens_to_sleeps(found):
    """It looks once an hour, for programs that remove files by their last change."""
    assert found.look_at - time.monotonic() > presence.LOOK_SECONDS - 60
    for path in (found.path, control_path(found.path)):
        os.utime(path, (0, 0))
    found.look(found.loop)
    for path in (found.path, control_path(found.path)):
        assert os.stat(path).st_mtime > 0


def test_a_crowd_of_removals_is_one_look_in_a_second(found):
    """Other programs remove files in /run and /tmp all the time, which costs one look a second."""
    before = time.monotonic()
    found.look(found.loop)
    for _ in range(3):
        found.note_removal()
    assert found.look_at >= before + presence.PAUSE_SECONDS


def test_one_file_that_is_missing_may_not_be_the_last(found):
    """A folder is removed file by file, so the next look comes soon."""
    os.unlink(found.path)
    found.look(found.loop)
    found.note_removal()
    assert found.look_at <= time.monotonic() + presence.SHORT_PAUSE_SECONDS


def test_what_cannot_be_made_is_logged_once_and_tried_again(found, tmp_path):
    """A line for each look would be a flood; what is over and comes again has a new line."""
    path = control_path(found.path)
    for _ in range(2):
        os.unlink(path)
        os.mkdir(path)
        for _ in range(3):
            found.look(found.loop)
        assert ["no control socket %s: a file that is no socket is there" % path] == found.told
        assert found.look_at - time.monotonic() <= presence.UNSURE_SECONDS
        del found.told[:]
        os.rmdir(path)
        found.look(found.loop)
        assert os.path.exists(path)
        assert [] == found.told


def test_another_process_that_has_the_pidfile_keeps_it(found):
    """A warning names it; the pidfile is taken back when that process has ended."""
    other = Pidfile(found.path)
    os.unlink(found.path)
    assert other.acquire()
    found.look(found.loop)
    assert ["another process has %s now: name a --pidfile" % found.path] == found.told
    other.release()
    found.look(found.loop)
    assert os.getpid() == Pidfile(found.path).holder()


def test_without_a_kernel_that_tells_it_looks_each_minute(found, monkeypatch):
    """Other systems, and Linux without dnotify, report no change."""
    import fcntl

    monkeypatch.delattr(fcntl, "F_NOTIFY")
    found.look(found.loop)
    assert found.look_at - time.monotonic() <= presence.UNSURE_SECONDS


def test_without_a_pidfile_there_is_nothing_to_look_at():
    """No command finds a process on port 0, so it makes nothing and never wakes."""
    loop, here = Loop(), Presence([].append, lambda wish, answer: None)
    here.look(loop)
    assert here.look_at == float("inf")
    loop.stop()
