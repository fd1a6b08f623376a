"""Where others can make files, none of theirs is opened, and none of their links followed."""

import contextlib
import os
import socket
import subprocess
import sys

import pytest

from kit import inside
from kit.support import ROOT, TIMEOUT
from minisocks.errors import ConfigError, ListenError
from minisocks.net.listener import open_listeners
from minisocks.net.loop import Loop
from minisocks.net.opening import MAX_LINKS, demand_trusted, open_trusted
from minisocks.service.control import Control
from minisocks.service.ensure import SILENT, ask
from minisocks.service.outputs import LogFile, Syslog
from minisocks.service.pidfile import Pidfile
from minisocks.service.remote import request
from minisocks.values import ListenAddress

pytestmark = pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="no O_PATH here")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")

OTHER = 4242
WRITE = os.O_WRONLY | os.O_CREAT | os.O_APPEND


@pytest.fixture
def sticky(tmp_path):
    """A folder like /tmp, in which all users can make files."""
    folder = tmp_path / "sticky"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def others(path):
    """Make *path* another user's."""
    os.chown(str(path), OTHER, OTHER, follow_symlinks=False)
    return path


def link(path, target, by_other=True):
    """Make *path* a symbolic link."""
    os.symlink(str(target), str(path))
    return others(path) if by_other else path


@contextlib.contextmanager
def refused(*kinds):
    """Demand an error that names another user, and no descriptor left over."""
    before = os.listdir("/proc/self/fd")
    with pytest.raises(kinds or (OSError,), match="of user 4242, not of root or this user: name"):
        yield
    assert before == os.listdir("/proc/self/fd")


def written(path, text=b"x"):
    """Write to *path*, and return all that is there."""
    fd = open_trusted(str(path), WRITE)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)
    with open(str(path), "rb") as file:
        return file.read()


def log(path):
    LogFile(str(path)).close()


def pidfile(path):
    Pidfile(str(path)).acquire()


def listener(path):
    for opened in open_listeners(ListenAddress("", 0, str(path))):
        opened.close()


def control(path):
    loop = Loop()
    try:
        Control(loop, str(path), lambda wish, answer: None)
    finally:
        loop.stop()


def speak(path):
    request(str(path), {"do": "status"}, 1.0)


OPENERS = [log, pidfile, listener, control, speak]


@as_root
@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("kind", ["a folder", "a folder's link", "in it"])
def test_nothing_goes_where_another_user_has_prepared_it(opener, kind, sticky, tmp_path):
    """Neither log, pidfile nor socket, to speak at or to: by a link, a folder or a file."""
    precious = tmp_path / "home"
    precious.mkdir()
    path = sticky / "mine" / "name"
    if kind == "a folder":
        (sticky / "mine").mkdir()
        others(sticky / "mine")
    elif kind == "a folder's link":
        link(sticky / "mine", precious)
    else:
        path = sticky / "name"
        if opener in (log, pidfile):
            path.write_text("")
        else:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(str(path))
        others(path)
    with refused(OSError, ConfigError, ListenError):
        opener(path)
    assert [] == list(precious.iterdir())


@as_root
def test_a_log_does_not_go_through_another_user_s_link(tmp_path):
    """Wherever it is; also where the link is found only when the log is opened anew."""
    precious = tmp_path / "precious"
    precious.write_text("keep")
    path = tmp_path / "m.log"
    log = LogFile(str(path))
    path.unlink()
    link(path, precious)
    with refused():
        log.reopen()
    inside.forget_last_look(log)
    log.write([(6, "a line")])
    log.close()
    with refused(ConfigError):
        LogFile(str(path))
    assert "keep" == precious.read_text()


@as_root
def test_syslog_is_not_another_user_s(sticky):
    """Lines tell what clients connect to: the socket must be the system's."""
    path = sticky / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(str(path))
        log = Syslog(str(path))
        assert "" == log.write([(6, "x")])
        others(path)
        log.reopen()
        assert "of user 4242" in log.write([(6, "x")])
        assert SILENT == ask(socket.AF_UNIX, str(path), 1.0)
        demand_trusted(str(path), OTHER)


@as_root
def test_links_in_the_middle_and_links_to_links_count(tmp_path):
    """Each step of the way is looked at, after each link, too."""
    (tmp_path / "a").mkdir()
    link(tmp_path / "a" / "theirs", tmp_path)
    link(tmp_path / "ours", "a/theirs/a/", by_other=False)
    for path in ("ours/x", "a/theirs/x", "a/../a/theirs/a/x", "ours"):
        with refused():
            open_trusted(str(tmp_path / path), WRITE)


def test_links_of_this_user_are_followed(tmp_path, monkeypatch):
    """As ever: to a folder, to a file, to one that is yet to be made, from here or from there."""
    (tmp_path / "a").mkdir()
    link(tmp_path / "folder", "a", by_other=False)
    link(tmp_path / "a" / "log", tmp_path / "real", by_other=False)
    assert b"x" == written(tmp_path / "folder" / "log")
    assert b"xy" == written(tmp_path / "folder" / ".." / "a" / "log", b"y")
    assert b"xy" == (tmp_path / "real").read_bytes()
    monkeypatch.chdir(str(tmp_path))
    assert b"xyz" == written("folder//./log", b"z")
    assert b"1" == written("new", b"1")
    assert b"12" == written("./new", b"2")


def test_a_sticky_folder_is_used(sticky):
    """What is this user's there is this user's."""
    assert b"x" == written(sticky / "log")
    assert b"xx" == written(sticky / "log")
    pidfile = Pidfile(str(sticky / "pid"))
    assert pidfile.acquire()
    pidfile.release()
    listener(sticky / "sock")


def test_a_file_in_a_sticky_folder_has_no_other_name(sticky, tmp_path):
    """A file with a second name may be one of ours that another user has linked there."""
    (tmp_path / "precious").write_text("")
    os.link(str(tmp_path / "precious"), str(sticky / "log"))
    with pytest.raises(OSError, match="log is in a folder that all users share, and has a second"):
        written(sticky / "log")
    assert b"x" == written(tmp_path / "precious")


def test_links_that_lead_nowhere_are_errors(tmp_path):
    """In a circle; to a folder that is not there; and what is no folder has nothing in it."""
    link(tmp_path / "a", "b", by_other=False)
    link(tmp_path / "b", "a", by_other=False)
    link(tmp_path / "c", "no/such", by_other=False)
    (tmp_path / "file").write_text("")
    before = os.listdir("/proc/self/fd")
    for name, error in (
        ("a", OSError),
        ("c", FileNotFoundError),
        ("file/x", NotADirectoryError),
        ("no/such", FileNotFoundError),
    ):
        with pytest.raises(error):
            open_trusted(str(tmp_path / name), WRITE)
    with pytest.raises(FileNotFoundError):
        open_trusted("", WRITE)
    with pytest.raises(FileNotFoundError):
        open_trusted(str(tmp_path / "none"), os.O_RDONLY)
    for number in range(MAX_LINKS):
        link(tmp_path / ("l%d" % (number + 1)), "l%d" % number, by_other=False)
    assert b"x" == written(tmp_path / ("l%d" % MAX_LINKS))
    assert before == os.listdir("/proc/self/fd")


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("kind", ["pipe", "file", "deleted"])
def test_the_output_that_the_process_has_is_a_log(path, kind, tmp_path):
    """Links of root, and of the kernel, which lead to what has no path."""
    code = (
        "import sys\n"
        "from minisocks.service.outputs import LogFile\n"
        "print(repr(LogFile(sys.argv[1]).write([(6, 'a line')])), file=sys.stderr)\n"
    )
    out = tmp_path / "out"
    stdout = subprocess.PIPE if kind == "pipe" else open(str(out), "w+b")  # noqa: SIM115
    if kind == "deleted":
        out.unlink()
    done = subprocess.run(
        [sys.executable, "-c", code, path],
        cwd=ROOT,
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=TIMEOUT,
    )
    assert b"''\n" == done.stderr
    if kind == "pipe":
        assert b"a line\n" == done.stdout
    else:
        stdout.seek(0)
        assert b"a line\n" == stdout.read()
        stdout.close()


@as_root
def test_root_may_ask_for_any_process(sticky):
    """To look is not to write: status of a process of another user, in /tmp."""
    folder = sticky / "minisocks-4242"
    folder.mkdir()
    path = folder / "pid"
    path.write_text("1234\n")
    for made in (folder, path):
        others(made)
    assert 1234 == Pidfile(str(path)).holder()
    assert Pidfile(str(path)).is_free()
    with refused():
        Pidfile(str(path)).is_free(is_own=True)
    with refused():
        Pidfile(str(path)).acquire()
