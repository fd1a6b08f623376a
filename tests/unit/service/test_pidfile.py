"""The pidfile: one process has it, for as long as it lives."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading

import pytest

from kit import inside
from kit.support import ROOT, TIMEOUT
from minisocks.service.pidfile import Pidfile, control_path, default_path

#: Takes the pidfile, prints that, and has it until it reads a line.
HOLD = """
import os, sys
from minisocks.service.pidfile import Pidfile
pidfile = Pidfile(sys.argv[1])
ours = pidfile.acquire()
if ours:
    pidfile.write()
print("ours" if ours else "taken", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path):
    """Where a pidfile may be."""
    return str(tmp_path / "minisocks.pid")


@pytest.fixture
def hold(path):
    """Start a process that wants the pidfile; returns it, and what it says."""
    processes = []

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            universal_newlines=True,
            cwd=ROOT,
        )
        processes.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_one_process_has_it(path, hold):
    """A second one gets an error, and the number of the first; when that ends, the file is free."""
    process, said = hold()
    assert "ours" == said
    pidfile = Pidfile(path)
    assert not pidfile.is_free()
    assert not pidfile.acquire()
    assert process.pid == pidfile.holder()
    assert "taken" == hold()[1]

    process.kill()
    process.wait()
    assert pidfile.is_free()
    assert pidfile.acquire()
    assert os.path.exists(path)


def test_a_dead_process_s_number_is_gone_at_once(path):
    """From the moment the lock is taken, the number of an earlier process is not there."""
    with open(path, "w") as file:
        file.write("12345\n")
    os.chmod(path, 0o600)
    pidfile = Pidfile(path)
    assert 12345 == pidfile.holder()
    assert pidfile.acquire()
    assert None is pidfile.holder()
    pidfile.write()
    assert os.getpid() == pidfile.holder()
    with open(path) as file:
        assert "%d\n" % os.getpid() == file.read()
    pidfile.release()
    assert -1 == pidfile.fileno()


def test_file_stays_and_is_its_owner_s_alone(path):
    """It is never removed, and no other user may lock it."""
    pidfile = Pidfile(path)
    assert pidfile.acquire()
    assert pidfile.acquire()
    assert 0o600 == os.stat(path).st_mode & 0o777
    pidfile.release()
    assert os.path.exists(path)
    assert pidfile.is_free()


def test_a_lock_on_a_removed_file_is_none(path, monkeypatch):
    """If the file is replaced between opening and locking, the new one counts."""
    import fcntl

    real, replaced = fcntl.flock, []

    def flock(fd, how):
        if not replaced:
            os.unlink(path)
            with open(path, "w"):
                pass
            os.chmod(path, 0o600)
            replaced.append(fd)
        return real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    pidfile = Pidfile(path)
    assert pidfile.acquire()
    assert replaced
    assert os.fstat(pidfile.fileno()).st_ino == os.stat(path).st_ino
    pidfile.release()


def test_the_lock_passes_through_a_fork(path):
    """A child has it when its parent has gone, as a daemon needs."""
    code = (
        "import os, sys\n"
        "from minisocks.service.pidfile import Pidfile\n"
        "pidfile = Pidfile(sys.argv[1])\n"
        "assert pidfile.acquire()\n"
        "if os.fork(): os._exit(0)\n"
        "pidfile.write()\n"
        "print(os.getpid(), flush=True)\n"
        "sys.stdin.readline()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        universal_newlines=True,
        cwd=ROOT,
    )
    child = int(process.stdout.readline())
    process.wait()
    assert child != process.pid
    assert child == Pidfile(path).holder()
    assert not Pidfile(path).is_free()
    process.communicate("\n")


@pytest.mark.parametrize("mode", [0o622, 0o602])
def test_a_file_that_others_may_write_is_refused(path, mode):
    """Through it another user would say which process is to be ended."""
    with open(path, "w") as file:
        file.write("1234\n")
    os.chmod(path, mode)
    with pytest.raises(OSError, match="may be written by other users: name another one"):
        Pidfile(path).acquire()
    if os.geteuid():  # root may look into all files
        assert None is Pidfile(path).holder()
        with pytest.raises(OSError, match="may be written by other users"):
            Pidfile(path).is_free()
    with open(path) as file:
        assert "1234\n" == file.read()


@pytest.mark.parametrize("text", ["", "1234\n", "\0\0\0\0\0", "1234"])
def test_what_a_process_that_has_ended_has_left_is_taken(path, text):
    """Also zeros, which a file system may have there after a loss of power."""
    with open(path, "w") as file:
        file.write(text)
    Pidfile(path).try_out()
    pidfile = Pidfile(path)
    assert pidfile.acquire()
    pidfile.release()


@pytest.mark.parametrize("text", ["root:x:0:0::/:/bin/sh\n", "12 13\n", "\n[minisocks]\n"])
def test_the_file_of_another_program_stays_as_it_is(path, text):
    """A path that is mistyped costs no file: neither what is in it nor its mode."""
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, 0o644)

    with pytest.raises(OSError, match="holds no number but text: name another one"):
        Pidfile(path).acquire()
    with pytest.raises(OSError, match="holds no number but text: name another one"):
        Pidfile(path).try_out()

    with open(path) as file:
        assert text == file.read()
    assert 0o644 == os.stat(path).st_mode & 0o777


def test_a_file_that_others_may_read_is_closed_to_them(path):
    """A user that can open it could lock it."""
    with open(path, "w"):
        pass
    os.chmod(path, 0o644)
    pidfile = Pidfile(path)
    assert pidfile.acquire()
    assert 0o600 == os.stat(path).st_mode & 0o777
    pidfile.release()


def test_a_look_keeps_no_process_from_starting(path):
    """A glance at the lock takes it for a moment; a start outlasts that."""
    looking = threading.Event()

    def look():
        while not looking.is_set():
            Pidfile(path).is_free()

    thread = threading.Thread(target=look)
    pidfile = Pidfile(path)
    assert pidfile.acquire()
    pidfile.release()
    thread.start()
    try:
        for _ in range(200):
            assert pidfile.acquire_for_sure()
            pidfile.release()
    finally:
        looking.set()
        thread.join()


def test_another_user_s_file_says_nothing(path, tmp_path):
    """A process that is not root believes no lock and no number in a file of another user."""
    if os.geteuid():
        pytest.skip("only root can play two users")
    tmp_path.chmod(0o777)
    with open(path, "w") as file:
        file.write("1234\n")
    os.chmod(path, 0o666)  # noqa: S103  # that is the point
    code = (
        "import fcntl, sys, os\n"
        "from minisocks.service.pidfile import Pidfile\n"
        "from minisocks.service.ensure import is_healthy\n"
        "os.chdir(os.path.dirname(sys.argv[1]))\n"
        "os.setuid(65534)\n"
        "sys.argv[1] = 'minisocks.pid'\n"
        "assert None is Pidfile(sys.argv[1]).holder()\n"
        "assert not is_healthy(['--pidfile', sys.argv[1]], {})\n"
        "try: print(Pidfile(sys.argv[1]).is_free())\n"
        "except OSError as exc: print(exc.strerror)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], cwd=ROOT, stdout=subprocess.PIPE, timeout=TIMEOUT
    )
    assert b"may be written by other users" in done.stdout


def test_a_link_is_not_followed(path, tmp_path):
    """A link in a directory like /tmp must not have another file emptied."""
    precious = tmp_path / "precious"
    precious.write_text("x")
    os.symlink(str(precious), path)
    with pytest.raises(OSError, match="."):
        Pidfile(path).acquire()
    assert "x" == precious.read_text()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused(path, make):
    """A directory or a pipe is an error, and nothing hangs."""
    make(path)
    with pytest.raises(OSError, match="."):
        Pidfile(path).acquire()


#: A user of no system, for as long as root runs these tests.
OTHER_USER = 60000 + os.getpid() % 4000


@pytest.fixture
def folder():
    """A folder of a user other than root; the test runs as that user."""
    folder = tempfile.mkdtemp()
    is_root = not os.geteuid()
    if is_root:
        os.chown(folder, OTHER_USER, -1)
        os.seteuid(OTHER_USER)
    yield folder
    if is_root:
        os.seteuid(0)
    shutil.rmtree(folder)


@pytest.fixture
def places(monkeypatch, folder):
    """The two directories for its pidfiles, in there."""
    os.mkdir(os.path.join(folder, "tmp"))
    found = [os.path.join(folder, *path) for path in (("tmp", "own"), (".cache", "minisocks"))]
    inside.set_pidfile_directories(monkeypatch, found)
    return found


def held(directory):
    """Return a pidfile for port 1080 in *directory*, which is locked."""
    pidfile = Pidfile(os.path.join(directory, "minisocks-127.0.0.1-1080.pid"))
    assert pidfile.acquire()
    return pidfile


def test_the_first_directory_that_can_be_had_is_taken(places):
    """The directory is made, for no other user."""
    for place in places:
        pidfile = held(place)
        assert pidfile.path == default_path("127.0.0.1:1080")
        pidfile.release()
        assert 0o700 == os.stat(place).st_mode & 0o777
        shutil.rmtree(place)
        with open(place, "w"):
            pass  # another user was there first
    with pytest.raises(ValueError, match=".*there is no place for a pidfile.* name a --pidfile"):
        default_path("127.0.0.1:1080")


@pytest.mark.parametrize(
    "make",
    [
        lambda place, other: os.mkdir(place, 0o755),
        lambda place, other: (os.mkdir(place), os.chmod(place, 0o710)),  # noqa: S103  # that is the point
        lambda place, other: os.symlink(other, place),
        lambda place, other: os.symlink("/no/such", place),
        lambda place, other: os.mkfifo(place),
    ],
    ids=["readable", "group", "link", "dangling", "pipe"],
)
def test_a_directory_that_is_not_this_user_s_alone_is_passed_over(places, folder, make):
    """Whatever is there, the second one is taken, and nothing in the first is touched."""
    other = os.path.join(folder, "other")
    os.mkdir(other, 0o700)
    make(places[0], other)
    path = default_path("127.0.0.1:1080")
    assert places[1] == os.path.dirname(path)
    with pytest.raises(OSError, match="another user's, or open to others"):
        held(places[0])
    assert [] == os.listdir(other)
    held(places[1]).release()


def test_a_process_that_lives_is_found_in_each(places):
    """Wherever it was started, and whatever there is in the other one by now."""
    for place in places:
        pidfile = held(place)
        for other in places:
            if other != place:
                held(other).release()
        assert pidfile.path == default_path("127.0.0.1:1080")
        assert places[0] == os.path.dirname(default_path("127.0.0.1:1081"))
        pidfile.release()


def test_places_are_not_the_environment_s(monkeypatch, tmp_path):
    """Cron, a login and a service manager find the same one."""
    before = inside.pidfile_directories()
    for name in ("HOME", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "USER", "LOGNAME"):
        monkeypatch.setenv(name, str(tmp_path))
    assert before == inside.pidfile_directories()
    assert "/tmp/minisocks-%d" % os.geteuid() == before[0]


@pytest.mark.parametrize(
    "address, name",
    [
        ("127.0.0.1:1080", "minisocks-127.0.0.1-1080.pid"),
        (":1080", "minisocks-any-1080.pid"),
        ("[::1]:1080", "minisocks-::1-1080.pid"),
        ("proxy.test:1", "minisocks-proxy.test-1.pid"),
        ("../../etc/x:1", "minisocks-.._.._etc_x-1.pid"),
    ],
)
def test_default_is_by_user_and_listener(address, name, monkeypatch):
    """The pidfile is in /run for root, in a directory of their own for others."""
    monkeypatch.setattr("minisocks.service.pidfile.os.geteuid", lambda: 0)
    assert "/run/" + name == default_path(address)
    monkeypatch.setattr("minisocks.service.pidfile.os.geteuid", lambda: 1000)
    inside.set_pidfile_directories(monkeypatch, ["/tmp/minisocks-1000"])
    assert "/tmp/minisocks-1000/" + name == default_path(address)


def test_beside_a_unix_socket():
    """An instance that listens on a unix socket has it there."""
    assert "/srv/s.sock.pid" == default_path("unix:/srv/s.sock")
    assert "/srv/s.sock.pid.sock" == control_path(default_path("unix:/srv/s.sock"))
    assert os.path.join(os.getcwd(), "s.pid") == default_path("unix:s")


@pytest.mark.parametrize("look", ["is_free", "holder", "acquire"])
def test_a_pipe_in_its_place_makes_no_process_wait(tmp_path, look):
    """It is no file: an error, or no known process, and at once."""
    path = str(tmp_path / "p")
    os.mkfifo(path, 0o600)
    if look == "holder":
        assert Pidfile(path).holder() is None
    else:
        with pytest.raises(OSError, match="is no file"):
            getattr(Pidfile(path), look)()


def test_it_can_be_had_again_after_it_was_removed(tmp_path):
    """It cannot be had if another process has one of that name by then."""
    path = str(tmp_path / "p")
    mine, other = Pidfile(path), Pidfile(path)
    assert mine.acquire()
    assert mine.renew()
    os.unlink(path)
    assert mine.renew()
    mine.write()
    assert os.getpid() == other.holder()
    assert not other.acquire()
    os.unlink(path)
    assert other.acquire()
    assert not mine.renew()
    assert mine.fileno() >= 0
    mine.release()
    other.release()
