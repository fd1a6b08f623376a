"""Out of descriptors: it waits, logs that once, and recovers; open connections go on."""

import contextlib
import os
import subprocess
import sys
import threading

import pytest

from kit.support import GREETING, ROOT, CommandLine, FakeTarget, Talk, socks5, wait_until

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="looks at /proc of the process"
)

#: Descriptors that the process may have: its own and about thirty.
LIMIT = 40
PREFIX = ["sh", "-c", 'ulimit -n %d && exec "$@"' % LIMIT, "sh"]
FULL, AGAIN = "at capacity: accept", "accepting again"


def cpu_seconds(pid):
    """Return the processor time that a process has used."""
    with open("/proc/%d/stat" % pid) as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptors(pid):
    return len(os.listdir("/proc/%d/fd" % pid))


def said(command, part):
    return sum(part in line for line in command.lines)


def is_greeted(talk, command):
    """Send a greeting; return False once the proxy refuses it because it is full."""
    talk.send(GREETING)
    talk.sock.settimeout(0.02)
    while True:
        try:
            return talk.receive(2) == b"\x05\x00"
        except OSError:
            if said(command, FULL) > said(command, AGAIN):
                talk.sock.settimeout(20)
                return False


@contextlib.contextmanager
def full_proxy():
    """A proxy without a descriptor left, one client waiting; yields it, its clients, the waiter.

    The first client is relayed to a target that echoes.
    """
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(FakeTarget())
        command = stack.enter_context(CommandLine("-l", "0", "--grace", "0", prefix=PREFIX))
        clients = [stack.enter_context(Talk.to(command.ports[0]))]
        clients[0].connect5("127.0.0.1", target.port)
        while True:
            talk = stack.enter_context(Talk.to(command.ports[0]))
            if not is_greeted(talk, command):
                break
            talk.sock.settimeout(20)
            clients.append(talk)
            assert len(clients) < LIMIT
        yield command, clients, talk, target


def test_full_is_said_once_and_so_is_its_end():
    """One line when it is full, one when it accepts again; the client that waited is served."""
    with full_proxy() as (command, clients, waiter, _):
        assert LIMIT == descriptors(command.process.pid)
        for talk in clients[1:6]:
            talk.close()
        waiter.expect(b"\x05\x00")
        command.wait_for_line(AGAIN)
        for _ in range(3):
            with Talk.to(command.ports[0]) as talk:
                talk.send(GREETING).expect(b"\x05\x00")
        assert 0 == command.end()
        assert (1, 1) == (said(command, FULL), said(command, AGAIN))
        assert 0 == said(command, "Trace")


def test_full_does_not_spin():
    """With clients waiting in vain, it uses next to no processor time."""
    with full_proxy() as (command, clients, _, _):
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(Talk.to(command.ports[0]))
            before = cpu_seconds(command.process.pid)
            threading.Event().wait(1.5)
            used = cpu_seconds(command.process.pid) - before
        print("%.2f s of processor time in 1.5 s" % used)
        assert used < 0.375
        assert (1, 0) == (said(command, FULL), said(command, AGAIN))


def test_full_is_nothing_to_open_connections():
    """An open connection goes on at full speed, and its end makes room for another client."""
    with full_proxy() as (command, clients, waiter, _):
        for _ in range(50):
            clients[0].send(b"x" * 1000).expect(b"x" * 1000)
        clients[0].finish().expect_eof()
        waiter.expect(b"\x05\x00")


@pytest.mark.rfc("RFC 1928 section 6", "REP 01: general SOCKS server failure.")
def test_a_descriptor_for_the_client_but_none_for_its_target():
    """The last descriptor goes to a client: REP 01 is sent to it, and arrives."""
    with full_proxy() as (command, clients, waiter, target):
        waiter.close()
        # The waiter, which has left already, is accepted in the place of this one.
        clients[1].close()
        command.wait_for_line(AGAIN)
        wait_until(lambda: descriptors(command.process.pid) == LIMIT - 1)
        with Talk.to(command.ports[0]) as talk:
            talk.send(GREETING).expect(b"\x05\x00").send(socks5("127.0.0.1", target.port))
            assert 1 == talk.receive_reply5()[0]
            talk.expect_eof()
        # A name needs descriptors, too, for the resolver.
        wait_until(lambda: descriptors(command.process.pid) == LIMIT - 1)
        with Talk.to(command.ports[0]) as talk:
            talk.send(GREETING).expect(b"\x05\x00").send(socks5(b"localhost", target.port))
            assert talk.receive_reply5()[0] in (1, 4)
            talk.expect_eof()
        for talk in clients[2:]:
            talk.close()
        wait_until(lambda: descriptors(command.process.pid) < LIMIT - 10)
        with Talk.to(command.ports[0]) as talk:
            assert 0 == talk.connect5("127.0.0.1", target.port)[0]
            talk.send(b"x").expect(b"x")
        assert 0 == said(command, "Trace")


def test_after_being_full_all_descriptors_come_back():
    """When all clients of a full proxy have left, it is as small as before."""
    with full_proxy() as (command, clients, waiter, target):
        for talk in clients + [waiter]:
            talk.reset()
        wait_until(lambda: descriptors(command.process.pid) < LIMIT / 2)
        with Talk.to(command.ports[0]) as talk:
            assert 0 == talk.connect5("127.0.0.1", target.port)[0]
        assert 0 == command.end()
        assert said(command, FULL) == said(command, AGAIN)


def test_a_storm_of_clients_without_descriptors_fills_no_log():
    """However often it becomes full and has room again, the log has that once in ten seconds."""
    with full_proxy() as (command, clients, waiter, _):
        for _ in range(20):
            clients.pop().close()
            for _ in range(3):
                clients.append(Talk.to(command.ports[0]).send(b"\x05"))
        for talk in clients + [waiter]:
            talk.close()
        wait_until(lambda: descriptors(command.process.pid) < LIMIT / 2)
        assert 0 == command.end()
        assert 1 == said(command, FULL)


@pytest.mark.exhaustive
@pytest.mark.parametrize("more", [[], ["--source", "127.0.0.9"]], ids=["", "--source"])
@pytest.mark.parametrize("number", range(6, 17))
def test_however_few_descriptors_there_are_it_serves_or_says_one_line(number, more):
    """Whichever step of the start finds none left, it listens with all it needs, or exits."""
    prefix = ["sh", "-c", 'ulimit -n %d && exec "$@"' % number, "sh"]
    with CommandLine("-l", "0", *more, prefix=prefix, wait=False) as command:
        wait_until(lambda: command.process.poll() is not None or said(command, "try it:"))
        status = command.end()
        if status:
            (line,) = command.lines
            assert 1 == status
            assert "Too many open files" in line
        else:
            assert command.lines[0].startswith("listening on ")


def test_a_thread_that_ends_without_descriptors_ends_alone():
    """The first handler thread that ends needs no descriptor, in old Pythons either."""
    code = (
        "import os, resource, threading\n"
        "from minisocks.net.threads import start_thread\n"
        "go = threading.Event()\n"
        "thread = start_thread(go.wait, 'x')\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "go.set()\n"
        "thread.join()\n"
        "os.write(1, b'lives')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
    assert (0, b"lives") == (done.returncode, done.stdout)
