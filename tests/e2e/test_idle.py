"""An idle proxy sleeps."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from kit.support import (
    TIMEOUT,
    CommandLine,
    FakeTarget,
    Talk,
    closed_port,
    one_connection,
    wait_until,
)
from minisocks.server.acceptor import MAX_FOLLOWERS

IMPATIENT = """
import sys
import minisocks.net.resolver
minisocks.net.resolver.IDLE_SECONDS = 0.0
from minisocks.cli import main
del sys.argv[1:4]  # python3 -m minisocks
sys.exit(main())
"""


def system_calls(pid, path, seconds):
    """Return the system calls that a process makes in *seconds*; skip if they cannot be seen."""
    if shutil.which("strace") is None:
        pytest.skip("no strace here")
    tracer = subprocess.Popen(
        ["strace", "-f", "-o", str(path), "-p", str(pid)],
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    try:
        line = tracer.stderr.readline()
        if "attached" not in line:
            pytest.skip("strace may not attach: %s" % line)
        # Being attached to interrupts the waits, which the interpreter then resumes.
        threading.Event().wait(0.4)
        settled = path.read_text().count("\n")
        threading.Event().wait(seconds)
    finally:
        if tracer.poll() is None:
            tracer.send_signal(signal.SIGINT)
        tracer.wait(TIMEOUT)
        tracer.stderr.close()
    lines = path.read_text().splitlines()[settled:]
    return [line for line in lines if " = " in line or "resumed>" in line]


def count_threads(pid):
    return len(os.listdir("/proc/%d/task" % pid))


@pytest.mark.soak
@pytest.mark.parametrize("when", ["start", "traffic", "connected"])
def test_an_idle_process_makes_no_system_call(tmp_path, target, when):
    """It sleeps: after the start, after traffic, and with connections that are silent."""
    prefix = [sys.executable, "-c", IMPATIENT]
    talks = []
    with CommandLine("-l", "0", prefix=prefix) as command:
        pid = command.process.pid
        if when != "start":
            for host in ("127.0.0.1", b"localhost"):
                with Talk.to(command.ports[0]) as talk:
                    assert 0 == talk.connect5(host, target.port)[0]
                    talk.send(b"x").expect(b"x")
            with Talk.to(command.ports[0]) as talk:
                assert 5 == talk.connect5("127.0.0.1", closed_port())[0]
        if when == "connected":
            for _ in range(3):
                talks.append(Talk.to(command.ports[0]))
                talks[-1].connect5("127.0.0.1", target.port)
            talks[0].finish()
            talks[0].expect_eof()
        # Main, log, loop and handlers: the resolver's threads have gone.
        wait_until(lambda: count_threads(pid) <= 3 + MAX_FOLLOWERS)
        time.sleep(0.3)  # nothing tells the end of what the traffic has left to do
        calls = system_calls(pid, tmp_path / "trace", 1.0)
        for talk in talks:
            talk.close()
        assert [] == calls
        assert 0 == command.end()


def test_the_look_at_system_calls_sees_them(tmp_path):
    """The test above would see a call, were there one."""
    with FakeTarget() as target, CommandLine("-l", "0") as command:
        ticking = threading.Event()

        def tick():
            while not ticking.wait(0.1):
                Talk.to(command.ports[0]).close()

        thread = threading.Thread(target=tick)
        thread.start()
        try:
            assert system_calls(command.process.pid, tmp_path / "trace", 0.5)
        finally:
            ticking.set()
            thread.join()
        one_connection(command, target)
