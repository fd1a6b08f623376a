"""Signals: however many there are, and whatever the process is at, the end is never far."""

import itertools
import os
import signal
import subprocess
import sys
import threading

import pytest

from kit import inside
from kit.support import (
    ROOT,
    TIMEOUT,
    CommandLine,
    environment,
    one_connection,
    run_proxy,
    wait_until,
)
from minisocks.service.pidfile import Pidfile

#: More than any buffer between the kernel and the program takes.
STORM = 10000

#: A process whose settings come from a pipe each time that they are read anew.
SLOW = """
import os, sys
from minisocks.config.layers import layered
from minisocks.service.service import Service

def read(home, warn):
    os.write(2, b"reading\\n")
    with open(sys.argv[1]) as pipe:
        pipe.read()
    return chosen

chosen = layered({"listen": ["0"], "grace": "0"}, {})
Service(chosen, read).run()
"""


@pytest.fixture
def slow(tmp_path):
    """A process that is slow in its start; the path of its pipe is ``pipe``."""
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    with CommandLine(pipe, program=[sys.executable, "-c", SLOW], cwd=ROOT) as command:
        command.pipe = pipe
        yield command


def answer(slow):
    """Let the process read its settings, waiting until it does."""
    with open(slow.pipe, "w"):
        pass


def run_python(code, *args):
    """Return the words that *code* prints; demand that it ends without an error."""
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=TIMEOUT,
    )
    assert (0, b"") == (done.returncode, done.stderr)
    return done.stdout.decode().split()


#: Sends a process the signals of these names, prints a line after some time, and goes on.
STORMING = """
import itertools, os, signal, sys
numbers = [getattr(signal, name) for name in sys.argv[2:]]
for n in itertools.count():
    for number in numbers:
        os.kill(int(sys.argv[1]), number)
    if n == %d:
        print("stormed", flush=True)
""" % (20 * STORM)


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("names", [["SIGHUP"], ["SIGHUP", "SIGUSR1"]], ids=" ".join)
def test_a_storm_delays_no_end(number, names):
    """In the middle of it the process neither hangs nor loses what ends it, and ends well."""
    with CommandLine("-l", "0") as command:
        args = [sys.executable, "-c", STORMING, str(command.process.pid), *names]
        with subprocess.Popen(args, stdout=subprocess.PIPE) as storm:
            try:
                assert b"stormed\n" == storm.stdout.readline()
                os.kill(command.process.pid, number)
                assert 0 == command.end(None)
            finally:
                storm.kill()
        assert [] == [line for line in command.lines if "Trace" in line or "ignored" in line]
        assert any("reloaded" in line for line in command.lines)


def test_those_that_wait_are_one_reload(slow):
    """Settings are read once more for all HUPs that came while they were being read."""
    slow.process.send_signal(signal.SIGHUP)
    slow.wait_for_line("reading")
    for _ in range(STORM):
        os.kill(slow.process.pid, signal.SIGHUP)
    answer(slow)
    wait_until(lambda: 2 == slow.lines.count("reading"))
    answer(slow)
    wait_until(lambda: 2 == len([line for line in slow.lines if "reloaded" in line]))
    assert 0 == slow.end()
    assert 2 == slow.lines.count("reading")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_reload_that_never_ends_delays_no_end(slow, number):
    """The settings are on a disk that does not answer: the process ends all the same."""
    slow.process.send_signal(signal.SIGHUP)
    slow.wait_for_line("reading")
    assert 0 == slow.end(number)


def test_a_list_that_never_ends_delays_no_stop(monkeypatch, tmp_path):
    """A rule's file is read without anything that ``stop`` waits for."""
    path = tmp_path / "list"
    path.write_text("example.org\n")
    reading, go_on = threading.Event(), threading.Event()

    def read_late(*args):
        reading.set()
        go_on.wait()
        return ""

    with run_proxy() as proxy:
        monkeypatch.setattr("minisocks.access.read_file", read_late)
        config = proxy.config._replace(rule=("deny to @%s" % path, "allow"))
        reload = threading.Thread(target=proxy.reload, args=(config,), daemon=True)
        reload.start()
        assert reading.wait(TIMEOUT)
        stop = threading.Thread(target=proxy.stop, daemon=True)
        stop.start()
        stop.join(TIMEOUT)
        is_stopped = not stop.is_alive()
        go_on.set()
        reload.join(TIMEOUT)
        stop.join(TIMEOUT)
        assert is_stopped


#: Put before everything else on the path, it sends us a signal as it begins to listen, and
#: then blocks for ever.
IN_THE_START = """
import os, signal, socket, threading
def listen(*args):
    os.kill(os.getpid(), signal.%s)
    threading.Event().wait()
socket.socket.listen = listen
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_start_that_takes_long_delays_no_end(tmp_path, name):
    """Before it serves it ends at once, whatever it reads or waits for."""
    (tmp_path / "sitecustomize.py").write_text(IN_THE_START % name)
    env = dict(environment(), PYTHONPATH=os.pathsep.join([str(tmp_path), ROOT]))
    with CommandLine("-l", "0", env=env, wait=False) as command:
        assert 0 == command.end(None)
        assert [] == command.lines


#: A script that starts it in the background, where shells have jobs ignore the interrupt.
SCRIPT = ["sh", "-c", '"$@" & wait $!', "sh"]


def test_a_script_s_job_in_the_background_takes_no_interrupt(tmp_path, target):
    """Ctrl-C is for the job in front: a reload that comes later is heard, and it serves."""
    path = str(tmp_path / "p")
    with CommandLine("-l", "0", "--pidfile", path, prefix=SCRIPT) as command:
        pid = Pidfile(path).holder()
        try:
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGHUP)
            command.wait_for_line("reloaded")
            one_connection(command, target)
        finally:
            os.kill(pid, signal.SIGTERM)
        assert 0 == command.end(None)


def test_signals_from_the_moment_it_can_be_found(tmp_path):
    """HUP, as soon as the pidfile has a number and until it serves, is a reload, and no end."""
    path = str(tmp_path / "p")
    with CommandLine("-l", "0", "--pidfile", path, wait=False) as command:
        while not Pidfile(path).holder():
            assert command.process.poll() is None
        while not any("reloaded" in line for line in command.lines):
            command.process.send_signal(signal.SIGHUP)
            assert command.process.poll() is None
        assert 0 == command.end()


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGTERM", "SIGINT"])
def test_signals_until_the_process_has_ended(name):
    """While it ends they change nothing, its exit status neither."""
    with CommandLine("-l", "0", "--grace", "0") as command:
        command.process.send_signal(signal.SIGTERM)
        for _ in itertools.count():
            command.process.send_signal(getattr(signal, name))  # of a zombie it is lost
            if command.process.poll() is not None:
                break
        assert 0 == command.end()


def test_a_signal_ends_the_wait_whatever_its_handler_does():
    """It may come when Python runs no handler before the wait begins."""
    code = (
        "import os, signal\n"
        "from minisocks.service.signals import Signals\n"
        "with Signals(dict.fromkeys(('stop', 'reload', 'report', 'look'))) as signals:\n"
        "    signal.signal(signal.SIGHUP, lambda *args: None)\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    print(signals.wait(None))\n"
    )
    assert ["[]"] == run_python(code)


def test_a_program_s_wakeup_descriptor_is_back_after():
    """What a program has told Python to do with signals is as it was, and hears of none of ours."""
    code = (
        "import os, signal\n"
        "reader, writer = os.pipe()\n"
        "os.set_blocking(writer, False)\n"
        "signal.set_wakeup_fd(writer)\n"
        "from minisocks.service.signals import Signals\n"
        "told = []\n"
        "steps = {what: (lambda what=what: told.append(what)) for what in\n"
        "         ('stop', 'reload', 'report', 'look')}\n"
        "with Signals(steps) as signals:\n"
        "    signals.serve()\n"
        "    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM):\n"
        "        os.kill(os.getpid(), number)\n"
        "    while len(told) < 3:\n"
        "        for step in signals.wait(None): step()\n"
        "assert signal.set_wakeup_fd(-1) == writer\n"
        "assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])\n"
        "print(*told)\n"
    )
    assert ["reload", "report", "stop"] == sorted(run_python(code))


def test_the_end_leaves_no_moment_for_a_signal():
    """One that comes just before it is to be ignored calls no handler, which is gone then."""
    code = (
        "import os, signal\n"
        "set_handler, called = signal.signal, []\n"
        "def set_late(number, handler):\n"
        "    os.kill(os.getpid(), number)\n"
        "    set_handler(number, handler)\n"
        + inside.NOTING_SIGNALS
        + "with Noting(dict.fromkeys(('stop', 'reload', 'report', 'look'))):\n"
        "    signal.signal = set_late\n"
        "print(called, not signal.pthread_sigmask(signal.SIG_BLOCK, []))\n"
    )
    assert ["[]", "True"] == run_python(code)


def test_a_stop_goes_first():
    """Before the others that wait, in whatever order they came."""
    code = (
        "import os, signal\n"
        "from minisocks.service.signals import Signals\n"
        "steps = {what: (lambda what=what: print(what)) for what in\n"
        "         ('stop', 'reload', 'report', 'look')}\n"
        "with Signals(steps) as signals:\n"
        "    signals.serve()\n"
        "    signals.give(lambda: print('given'))\n"
        "    for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM):\n"
        "        os.kill(os.getpid(), number)\n"
        "    for step in signals.wait(None): step()\n"
    )
    assert ["stop", "reload", "report", "given"] == run_python(code)
