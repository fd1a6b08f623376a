"""Where log lines go: whatever happens there, the caller hears of it and goes on."""

import errno
import os
import re
import socket
import subprocess
import sys
import threading
import time

import pytest

from kit import inside
from kit.support import ROOT, TIMEOUT
from minisocks.errors import ConfigError
from minisocks.service import outputs
from minisocks.service.outputs import LogFile, Stderr, Syslog

LINES = [(6, "one"), (4, "tw\u00f6 \udc80")]


@pytest.fixture
def path(tmp_path):
    """Where a log may be."""
    return tmp_path / "m.log"


def test_file_is_added_to(path):
    """What is there stays; each line has an end; what is no UTF-8 is escaped."""
    path.write_text("zero\n")
    log = LogFile(str(path))
    assert "" == log.write(LINES)
    log.close()
    assert "zero\none\ntw\u00f6 \\udc80\n" == path.read_text(encoding="utf-8")


def test_renamed_file_is_followed(path, monkeypatch):
    """Within a second lines go to the new one; the old one is closed."""
    log = LogFile(str(path))
    log.write([(6, "old")])
    os.rename(str(path), str(path) + ".1")
    inside.forget_last_look(log)
    assert "" == log.write([(6, "new")])
    assert "new\n" == path.read_text()
    os.unlink(str(path))
    inside.forget_last_look(log)
    log.write([(6, "newer")])
    assert "newer\n" == path.read_text()
    log.close()
    assert "old\n" == (path.parent / "m.log.1").read_text()


def test_it_looks_once_in_a_second(path, monkeypatch):
    """A line costs no look at the directory."""
    looks = []
    log = LogFile(str(path))
    real = os.stat
    monkeypatch.setattr(outputs.os, "stat", lambda path: looks.append(path) or real(path))
    began = time.monotonic()
    for _ in range(1000):
        log.write([(6, "x")])
    assert len(looks) <= 2 + time.monotonic() - began
    log.close()


def test_where_no_new_file_can_be_made_the_old_one_is_kept(path):
    """Better there than nowhere."""
    log = LogFile(str(path))
    os.rename(str(path), str(path) + ".1")
    os.mkdir(str(path))
    inside.forget_last_look(log)
    assert "" == log.write([(6, "x")])
    with pytest.raises(OSError, match="."):
        log.reopen()
    assert "" == log.write([(6, "y")])
    assert "x\ny\n" == (path.parent / "m.log.1").read_text()
    log.close()


def test_full_disk_loses_lines_and_logs_that(path):
    """The reason is returned; when there is room again, a new line begins."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    log = LogFile(str(path))
    log.write([])  # it has looked, for a second
    full = os.open("/dev/full", os.O_WRONLY)
    real = os.dup(inside.descriptor_of(log))
    os.dup2(full, inside.descriptor_of(log))
    assert os.strerror(errno.ENOSPC) == log.write(LINES)
    os.dup2(real, inside.descriptor_of(log))
    assert "" == log.write([(6, "again")])
    assert "\nagain\n" == path.read_text()
    for fd in (full, real):
        os.close(fd)
    log.close()


def full_after(size):
    """Return what writes to a disk that takes so many bytes, and at the third call has room."""
    real, calls = os.write, []

    def write(fd, data):
        calls.append(1)
        if len(calls) == 2:
            no_room()
        return real(fd, data[:size] if len(calls) == 1 else data)

    return write


def test_a_disk_that_fills_within_a_line_tears_one_line_only(path, monkeypatch):
    """Half a line is ended before the next one begins."""
    log, real = LogFile(str(path)), os.write
    monkeypatch.setattr(outputs.os, "write", full_after(5))
    assert "full" == log.write([(6, "0123456789")])
    assert 1 == log.lost
    monkeypatch.setattr(outputs.os, "write", lambda fd, data: no_room())
    assert "full" == log.write([(6, "lost")])
    assert 1 == log.lost
    monkeypatch.setattr(outputs.os, "write", real)
    assert "" == log.write([(6, "next")])
    log.close()
    assert "01234\nnext\n" == path.read_text()


def test_of_lines_that_are_written_in_part_only_the_others_are_lost(path, monkeypatch):
    """What the disk took is not counted."""
    log = LogFile(str(path))
    monkeypatch.setattr(outputs.os, "write", full_after(9))
    assert "full" == log.write([(6, "one"), (6, "two"), (6, "three"), (6, "four")])
    assert 2 == log.lost
    assert "" == log.write([(6, "next")])
    assert 0 == log.lost
    log.close()


def no_room():
    raise OSError(errno.ENOSPC, "full")


@pytest.mark.parametrize("kind", ["directory", "missing", "fifo"])
def test_what_cannot_be_written_is_an_error_at_the_start(path, kind):
    """One sentence with the name and the reason, and nothing hangs."""
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(str(path))
    else:
        path = path / "log"
    with pytest.raises(ConfigError, match="cannot write %s: " % path):
        LogFile(str(path))


def test_stderr_that_is_not_read_is_an_error_or_waits():
    """A pipe without a reader loses lines, and says why."""
    code = (
        "import os, sys\n"
        "from minisocks.service.outputs import Stderr\n"
        "reader, writer = os.pipe()\n"
        "os.dup2(writer, 2)\n"
        "assert '' == Stderr().write([(6, 'x')])\n"
        "assert b'x\\n' == os.read(reader, 10)\n"
        "os.close(reader)\n"
        "print(Stderr().write([(6, 'y')]))\n"
        "sys.stderr = None\n"
        "print(Stderr().write([(6, 'y')]) == '')\n"
    )
    out = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, timeout=TIMEOUT)
    assert [os.strerror(errno.EPIPE), "True"] == out.decode().splitlines()
    assert Stderr().write([]) == ""


# Syslog


def receiver(family, address):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(TIMEOUT)
    sock.bind(address)
    return sock


def test_local_daemon_gets_priority_and_process(path):
    """<PRI>minisocks[PID]: as every syslog daemon takes it; a line of a traceback is one more."""
    with receiver(socket.AF_UNIX, str(path)) as daemon:
        log = Syslog(str(path))
        assert "" == log.write([(3, "an error\n    its trace"), (6, "news")])
        head = "minisocks[%d]: " % os.getpid()
        assert ("<27>%san error" % head).encode() == daemon.recv(1000)
        assert ("<27>%s    its trace" % head).encode() == daemon.recv(1000)
        assert ("<30>%snews" % head).encode() == daemon.recv(1000)
        log.close()


@pytest.mark.parametrize(
    "family, host", [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "[::1]")]
)
def test_remote_daemon_gets_time_and_host(family, host):
    """The datagram is as RFC 3164 has it; a longer line is cut."""
    with receiver(family, (host.strip("[]"), 0)) as daemon:
        log = Syslog("%s:%d" % (host, daemon.getsockname()[1]))
        assert "" == log.write([(4, "x" * 5000)])
        data = daemon.recv(10000)
        log.close()
    assert re.match(rb"<28>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d [^ ]+ minisocks\[\d+\]: x+$", data)
    assert 2048 == len(data)


def test_daemon_that_is_not_there_is_looked_for_again(path, monkeypatch):
    """Its absence is a reason to lose lines; its return is noticed, and its restart, too."""
    log = Syslog(str(path))
    assert "syslog at %s: %s" % (path, os.strerror(errno.ENOENT)) == log.write(LINES)
    for n in range(2):
        with receiver(socket.AF_UNIX, str(path)) as daemon:
            inside.forget_last_try(log)
            assert "" == log.write([(6, "%d" % n)])
            assert daemon.recv(100).endswith(b": %d" % n)
        assert "syslog at %s: %s" % (path, os.strerror(errno.ECONNREFUSED)) == log.write(LINES)
        os.unlink(str(path))
    log.reopen()
    log.close()


def test_daemon_that_hangs_is_not_waited_for(path):
    """Its full queue loses lines, and the call returns."""
    with receiver(socket.AF_UNIX, str(path)):
        log = Syslog(str(path))
        for _ in range(5000):
            lost = log.write([(6, "x" * 1000)])
            if lost:
                break
        assert "syslog does not read fast enough" == lost
        log.close()


def test_an_unknown_name_loses_lines():
    """No lookup may raise."""
    log = Syslog("no.such.invalid:514")
    assert log.write(LINES).startswith("syslog at no.such.invalid:514: ")
    assert "" != Syslog("\udc80:514").write(LINES)


def test_a_name_that_nobody_knows_is_a_problem():
    """The start and check tell it, because no line of the log can."""
    problem = Syslog("no..such..name:514").problem()
    assert problem.startswith("syslog at no..such..name:514: ")
    assert "" == Syslog("127.0.0.1:514").problem()
    assert "" == Syslog("[::1]:514").problem()


def test_a_name_server_that_is_silent_does_not_hold_the_start_up(monkeypatch):
    """It is a problem like others, after some seconds."""
    answers = threading.Event()
    monkeypatch.setattr(outputs, "LOOK_UP_SECONDS", 0.05)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: answers.wait(TIMEOUT) and [])
    try:
        problem = Syslog("log.example:514").problem()
    finally:
        answers.set()
    assert "syslog at log.example:514: no name server has answered for 0.05 s" == problem


def test_local_is_where_this_system_has_it(path, monkeypatch):
    """The first of the usual sockets that is there."""
    monkeypatch.setattr(outputs, "LOCAL_SYSLOG", ("/no/such", str(path)))
    with receiver(socket.AF_UNIX, str(path)) as daemon:
        log = Syslog("local")
        assert "" == log.write([(6, "x")])
        assert daemon.recv(100).endswith(b": x")
        log.close()
