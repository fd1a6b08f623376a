"""--daemon: the start returns when it serves, or with the reason why it does not."""

import os
import signal
import subprocess
import sys

import pytest

from kit.support import (
    MODULE,
    ROOT,
    TIMEOUT,
    CommandLine,
    closed_port,
    environment,
    run_command,
    wait_until,
)


def test_it_returns_when_it_serves(instance, target):
    """A client is served right after the start; what the process wrote came through the start."""
    status, out, err = instance.start()

    assert (0, "") == (status, out)
    instance.relay(target).close()
    lines = err.splitlines()
    assert "listening on 127.0.0.1:%d (SOCKS4, SOCKS4a, SOCKS5)" % instance.port == lines[0]
    assert lines[-1].startswith("try it: curl ")
    instance.wait_for_line(lines[0])


def test_it_has_left_everything_behind(instance):
    """Own session, no terminal, cwd /, stdio on /dev/null, nothing inherited, files of its user."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        assert 0 == instance.start(close_fds=False)[0]
    finally:
        os.close(writer)
    # The writer's only other copy would be the background process's.
    assert b"" == os.read(reader, 1)
    os.close(reader)
    pid = instance.pid
    assert pid != os.getsid(pid) != os.getsid(0)
    assert "/" == os.readlink("/proc/%d/cwd" % pid)
    # The pipe by which it reported that it serves is closed a moment after that report.
    wait_until(lambda: not _others_pipes(pid))
    names = _open_files(pid)
    assert 4 == names.count("/dev/null")  # and one to spare, for the control channel
    folder = os.path.dirname(instance.pidfile)  # the kernel reports what is removed there
    theirs = {"/dev/null", instance.pidfile, folder, instance.log_file, "anon_inode:[eventpoll]"}
    others = ("socket:", "pipe:", "anon_inode:inotify")
    assert theirs == {name for name in names if not name.startswith(others)}
    assert 0o640 & ~0o077 == os.stat(instance.log_file).st_mode & 0o777
    with open("/proc/%d/status" % pid) as file:
        umask = [line.split()[1] for line in file if line.startswith("Umask")]
    assert umask in (["0077"], [])


def _others_pipes(pid):
    """Return the pipes of which the process has one end only."""
    names = _open_files(pid)
    return [name for name in names if name.startswith("pipe:") and names.count(name) == 1]


def _open_files(pid):
    """Return what the descriptors of the process lead to."""
    names = []
    for fd in os.listdir("/proc/%d/fd" % pid):
        try:
            names.append(os.readlink("/proc/%d/fd/%s" % (pid, fd)))
        except FileNotFoundError:
            pass  # closed since
    return names


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("option", ["--daemon", "--ensure"])
def test_closed_streams_are_no_hindrance(instance, closed, option):
    """It serves, and no other file gets the numbers of stdin, stdout and stderr."""
    command = '"$@" %s' % closed
    args = [sys.executable, "-m", "minisocks", "-c", instance.file, option]
    done = subprocess.run(
        ["sh", "-c", command, "sh", *args],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
    )
    assert 0 == done.returncode, done.stderr
    assert "Traceback" not in done.stderr
    assert instance.pid
    assert 4 == _open_files(instance.pid).count("/dev/null")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("option", ["--daemon", "--ensure"])
def test_a_full_stderr_is_no_hindrance(instance, option):
    """It serves although its warnings cannot be written."""
    program = ["sh", "-c", 'exec "$@" 2>/dev/full', "sh", *MODULE]
    env = environment(MINISOCKS_UNKNOWN="1")

    assert (0, "", "") == run_command("-c", instance.file, option, program=program, env=env)
    assert instance.pid


def test_a_start_that_fails_says_why(instance, tmp_path):
    """The sentence and the status of the process in the background are the start's own."""
    instance.configure("", listen="127.0.0.1:%d\n  192.0.2.1:1" % instance.port)
    status, out, err = instance.start()
    assert (1, "") == (status, out)
    assert err.startswith("minisocks: cannot listen on 192.0.2.1:1: ")
    assert 1 == err.count("\n")
    assert None is instance.pid

    instance.configure("log-file = %s" % (tmp_path / "no" / "such"))
    status, out, err = run_command(
        "-c", os.devnull, "--daemon", "-l", str(instance.port), "--pidfile", instance.pidfile,
        "--log-file", str(tmp_path / "no" / "such"),
    )  # fmt: skip
    assert (2, "") == (status, out)
    assert err.startswith("minisocks: --log-file: cannot write ")
    assert None is instance.pid


def test_a_background_process_that_dies_is_reported():
    """If it ends without a message, the start does not wait for ever, and fails."""
    code = (
        "import os, signal\n"
        "from minisocks.service import console\n"
        "console.detach([])\n"
        "console.say('so far,', 'so good')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, cwd=ROOT, timeout=TIMEOUT
    )
    assert 1 == done.returncode
    assert (
        b"so far, so good\nminisocks: the process in the background ended before it served\n"
        == done.stderr
    )


def test_relative_paths_mean_what_they_meant(tmp_path, target):
    """Pidfile, log, settings and unix socket begin where it was started, also when reloading."""
    (tmp_path / "m.ini").write_text(
        "[minisocks]\nlisten =\n  unix:s\npidfile = m.pid\nlog-file = m.log\n"
    )
    env = dict(environment(), PYTHONPATH=os.pathsep.join([os.environ.get("PYTHONPATH", ""), ROOT]))
    status, _, err = run_command("-c", "m.ini", "--daemon", cwd=str(tmp_path), env=env)
    assert (0, "listening on unix:%s " % (tmp_path / "s")) == (status, err.split("(")[0])
    pidfile = str(tmp_path / "m.pid")
    try:
        (tmp_path / "m.ini").write_text(
            "[minisocks]\nlisten =\n  unix:s\n  unix:t\npidfile = m.pid\nlog-file = n.log\n"
        )
        status, _, err = run_command("reload", "--pidfile", pidfile)
        assert (0, "reloaded, changed: listen, log-file\n") == (status, err)
        assert (tmp_path / "t").exists()
        wait_until((tmp_path / "n.log").exists, "the new log")
    finally:
        assert 0 == run_command("stop", "--pidfile", pidfile)[0]
    assert sorted(["m.ini", "m.log", "m.pid", "n.log"]) == sorted(os.listdir(str(tmp_path)))


def test_port_0_needs_a_pidfile():
    """No command could find it again."""
    status, _, err = run_command("-l", "0", "--daemon")
    assert 1 == status
    assert "name the process by --pidfile" in err


def test_a_second_one_is_refused(instance):
    """No second process starts with the same pidfile, in the background or not."""
    assert 0 == instance.start()[0]
    pid = instance.pid
    for args in (["--daemon"], ["--no-daemon"]):
        status, out, err = instance.start(*args)
        assert (1, "") == (status, out)
        assert "minisocks: it runs already: process %d has %s" % (pid, instance.pidfile) in err
    assert pid == instance.pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_by_signal(instance, number):
    """TERM to the process in the pidfile ends it; the control channel's file is gone."""
    assert 0 == instance.start()[0]
    assert os.path.exists(instance.pidfile + ".sock")
    os.kill(instance.pid, number)
    instance.wait_for_end()
    assert not os.path.exists(instance.pidfile + ".sock")
    assert os.path.exists(instance.pidfile)


#: A start whose name server answers only after a client of the proxy has been answered.
_NAME_SERVER_BEHIND_THE_PROXY = """
import socket, sys, time
from minisocks.cli import main
from minisocks.service import outputs

system, port, asked = socket.getaddrinfo, int(sys.argv[2]), []

def getaddrinfo(host, *args):
    if host != b"log.example":
        return system(host, *args)
    asked.append(host)
    client = socket.socket()
    while client.connect_ex(("127.0.0.1", port)):
        time.sleep(0.01)
        client.close()
        client = socket.socket()
    client.sendall(b"\\5\\1\\0")
    assert b"\\5\\0" == client.recv(2)
    client.close()
    raise OSError("no such name, in look-up %d" % len(asked))

socket.getaddrinfo = getaddrinfo
outputs.LOOK_UP_SECONDS = float(sys.argv.pop())
sys.exit(main())
"""


@pytest.mark.parametrize("how", [[], ["--daemon"]], ids=["foreground", "daemon"])
def test_it_serves_before_the_name_of_a_syslog_is_resolved(how, tmp_path):
    """A name server that is silent, as at boot, holds up the last lines of the start only."""
    port = str(closed_port())
    program = (sys.executable, "-c", _NAME_SERVER_BEHIND_THE_PROXY)
    pidfile, syslog = str(tmp_path / "p"), "--syslog=log.example:514"
    options = ["-l", port, "--pidfile", pidfile, syslog, *how, str(TIMEOUT)]
    with CommandLine(*options, program=program, cwd=ROOT) as command:
        lines = list(command.lines)
        assert 0 == run_command("stop", "--pidfile", pidfile)[0]
    expected = "warning: log lines are lost: syslog at log.example:514: no such name, in look-up 1"
    assert expected == lines[0]
    assert lines[1].startswith("listening on 127.0.0.1:%s" % port)
