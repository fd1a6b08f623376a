"""Windows and macOS, as far as Linux can play them: an option that is missing there is refused."""

import os
import signal
import subprocess
import sys

import pytest

from kit.bind_client import Waiting
from kit.other_systems import LACKS
from kit.support import (
    ROOT,
    TESTS,
    TIMEOUT,
    CommandLine,
    Talk,
    closed_port,
    environment,
    run_command,
    socks4a,
)
from kit.udp_client import Associated, UdpTarget


def program(system):
    """Return the words that start the command line as *system* would run it."""
    return [sys.executable, "-W", "error", os.path.join(TESTS, "kit", "other_systems.py"), system]


every_system = pytest.mark.parametrize("system", sorted(LACKS))

NO_PIDFILES = "this system has no pidfiles, so commands such as status, reload and stop"
NO_BACKGROUND = "this system has no processes in the background"

#: What Windows does not have, and the sentence about it.
SAID = {
    "status": NO_PIDFILES,
    "status --pidfile FOLDER/p": NO_PIDFILES,
    "reload": NO_PIDFILES,
    "stop": NO_PIDFILES,
    "drain": NO_PIDFILES,
    "--pidfile FOLDER/p": NO_PIDFILES,
    "--daemon": NO_BACKGROUND,
    "--daemon --pidfile FOLDER/p": NO_BACKGROUND,
    "--ensure": NO_BACKGROUND,
    "--syslog": "this system has no syslog of its own; name another host's: HOST:PORT",
    "--syslog=/dev/log": "this system has no syslog of its own; name another host's: HOST:PORT",
    "-l unix:FOLDER/s": "cannot listen on unix:FOLDER/s: this system has no unix sockets",
    "--interface eth0": "this system has no SO_BINDTODEVICE",
    "--mark 5": "this system has no SO_MARK",
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("line", sorted(SAID))
def test_what_windows_has_not_is_said_in_a_sentence(tmp_path, line):
    """By the command and, for a setting, by check: no traceback, and no file is made."""
    words = line.replace("FOLDER", str(tmp_path)).split()
    words += ["-l", str(closed_port())] * ("-l" not in words)
    said = SAID[line].replace("FOLDER", str(tmp_path))
    commands = [words]
    if words[0].startswith("-") and words[0] != "--ensure":
        commands.append(["check", *words])
    for command in commands:
        status, _out, err = run_command(*command, program=program("windows"))
        assert status in (1, 2)
        assert "Traceback" not in err
        assert said in err
    assert [] == os.listdir(str(tmp_path))


@every_system
def test_it_serves(system, target, tmp_path):
    """CONNECT, BIND and UDP work, by address and by name; Ctrl-C ends it."""
    log = str(tmp_path / "log")
    with CommandLine("-l", "0", "--log-file", log, program=program(system)) as command:
        port = command.ports[0]
        with Talk.to(port) as talk:
            assert 0 == talk.connect5("127.0.0.1", target.port)[0]
            data = bytes(range(256)) * 1000
            talk.send(data).expect(data).finish().expect_eof()
        with Talk.to(port) as talk:
            talk.send(socks4a(b"localhost", target.port) + b"early").receive(8)
            talk.expect(b"early")
        with Waiting(port) as client, client.peer() as peer:
            client.expect_peer(peer)
            client.expect_to_work(peer)
        with UdpTarget() as echo, Associated(port) as client:
            client.send_to(echo, b"ping")
            echo.expect(b"ping")
        assert 0 == command.end(signal.SIGINT)
    assert [] == [line for line in command.lines if "Traceback" in line or "Warning" in line]
    with open(log) as file:
        assert 2 == file.read().count("cmd=CONNECT")


@every_system
def test_it_listens_on_a_port_of_its_own(system):
    """A fixed port has a default pidfile; where a system has none, there is no line about it."""
    port = str(closed_port())
    with CommandLine("-l", port, program=program(system)) as command:
        assert [] == [line for line in command.lines if "warning" in line]
        status, _out, err = run_command("check", "-l", port, program=program(system))
        # Without a pidfile nothing tells that the port is its own.
        assert (1 if system == "windows" else 0) == status
        assert ("in use" in err) == (system == "windows")
        assert 0 == command.end(signal.SIGINT)


def test_macos_has_it_all(instance):
    """It runs in the background, is found, asked, and ended."""
    instance.start = lambda *args: run_command(
        "-c", instance.file, *args, program=program("darwin")
    )
    assert (0, "", "") == instance.start("--ensure")
    pid = instance.pid
    assert (0, "", "") == instance.start("--ensure")
    assert pid == instance.pid
    for command in ("status", "reload", "stop"):
        words = [command, "--pidfile", instance.pidfile]
        assert 0 == run_command(*words, program=program("darwin"))[0]
    assert None is instance.pid


@every_system
def test_a_hash_is_made(system):
    """A password from a pipe is hashed."""
    done = subprocess.run(
        [*program(system), "hash-password", "--name", "ann", "--iterations", "1000"],
        input=b"secret\n",
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=TIMEOUT,
    )
    assert (0, b"ann:") == (done.returncode, done.stdout[:4])


#: Import each module, as that system would.
IMPORTS = """
import sys
sys.path[:0] = [sys.argv[2], sys.argv[3]]
from kit import other_systems
other_systems.become(sys.argv[1])
import importlib, os
names = [
    os.path.join(path, name)[:-3].replace(os.sep, ".")
    for path, _, inside in os.walk("minisocks")
    for name in sorted(inside)
    if name.endswith(".py")
]
for name in names:
    if name not in ("minisocks.__main__", "minisocks.pytest_plugin"):
        importlib.import_module(name.replace(".__init__", ""))
print(len(names))
"""


@every_system
def test_every_module_can_be_imported(system):
    """All of them can be, including those that few commands need."""
    words = [sys.executable, "-W", "error", "-c", IMPORTS, system, TESTS, ROOT]
    assert int(subprocess.check_output(words, cwd=ROOT)) > 100
