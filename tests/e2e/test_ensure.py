"""--ensure: a healthy instance is left alone, quickly; else one is started, and one only."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from kit.support import (
    ROOT,
    TIMEOUT,
    CommandLine,
    FakeTarget,
    Talk,
    closed_port,
    environment,
    password_message,
    run_command,
    run_proxy,
    says,
    swallow,
    wait_until,
)
from minisocks.errors import ServiceError
from minisocks.service import ensure as module
from minisocks.service.ensure import ALIVE, REFUSED, SILENT, ask, is_healthy, sockaddr, take_over
from minisocks.service.pidfile import Pidfile


def ensure(instance, **kwargs):
    return instance.start("--ensure", **kwargs)


def test_it_starts_one_and_then_leaves_it_alone(instance, target):
    """The first call starts a process, detached and without output; the next does nothing."""
    assert (0, "", "") == ensure(instance)
    pid = instance.pid
    assert pid
    instance.relay(target).close()
    instance.wait_for_line("end=")
    log = instance.log()
    for _ in range(3):
        assert (0, "", "") == ensure(instance)
    assert pid == instance.pid
    assert log == instance.log()


def test_it_starts_one_again(instance):
    """A process that was killed is there again after the next call, as by a watchdog."""
    ensure(instance)
    first = instance.pid
    os.kill(first, signal.SIGKILL)
    instance.wait_for_end()
    assert (0, "", "") == ensure(instance)
    assert instance.pid not in (None, first)


def test_as_cron_starts_it(instance):
    """It starts without environment, in another directory, with another umask."""
    env = environment()
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [env.get("PYTHONPATH"), ROOT]))
    umask = ["sh", "-c", 'umask 0; cd /; exec "$@"', "sh"]
    for _ in range(2):
        done = subprocess.run(
            umask + [sys.executable, "-m", "minisocks", "--ensure", "-c", instance.file],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=TIMEOUT,
        )
        assert (0, b"") == (done.returncode, done.stdout)
    assert instance.pid


@pytest.mark.soak
def test_fifty_at_once_start_one(instance):
    """Each call that comes while a process starts waits for it, and finds it healthy."""
    args = [sys.executable, "-m", "minisocks", "--ensure", "-c", instance.file]
    processes = [
        subprocess.Popen(args, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(50)
    ]
    said = [process.communicate(timeout=TIMEOUT * 3)[0] for process in processes]

    assert {b""} == set(said)
    assert {0} == {process.returncode for process in processes}
    instance.wait_for_line("try it:")
    assert 1 == instance.log().count("listening on")
    assert instance.pid


def test_a_start_that_fails_is_reported(instance):
    """What keeps it from starting is one sentence, which cron sends by mail."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", instance.port))
        other.listen(1)
        status, out, err = ensure(instance)
    assert (1, "", 1) == (status, out, err.count("\n"))
    assert "in use" in err
    assert None is instance.pid


def test_a_mistake_is_reported_even_where_one_runs(instance):
    """A file that cannot be read is reported, although the process runs."""
    os.unlink(instance.file)
    status, _, err = ensure(instance)
    assert 2 == status
    assert "cannot read" in err


#: What the quick half loads, as the interpreter lists it.
LOADED = """
import sys
sys.argv = ["minisocks", "--ensure", "-c", sys.argv[1]]
before = set(sys.modules)
import os
def ended(status):
    assert 0 == status
    print(" ".join(sorted(name for name in sys.modules if name not in before)))
    raise SystemExit
os._exit = ended
from minisocks.__main__ import run
run()
"""


def test_healthy_path_loads_next_to_nothing(instance):
    """The quick half imports neither click nor the proxy, nor any large module."""
    ensure(instance)
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-c", LOADED, instance.file],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        timeout=TIMEOUT,
        env={},
    )
    loaded = done.stdout.decode().split()
    ours = ["", ".__main__", ".config", ".config.inifile", ".net", ".net.opening"]
    ours += [".service", *(".service." + name for name in ("ensure", "location", "pidfile"))]

    assert ["minisocks" + name for name in ours] == [n for n in loaded if "minisocks" in n]
    others = {name for name in loaded if not name.startswith(("minisocks", "encodings"))}
    # What site loads in every interpreter that was started without -S.
    usual = "_collections_abc _locale _bootlocale _stat errno genericpath os os.path posixpath stat"
    assert others <= {"_socket", "fcntl", "time", *usual.split()}  # all of them built in


@pytest.mark.parametrize(
    "script, expected",
    [
        (says(b"\x05\xff"), ALIVE),
        (says(b"\x05\x00"), ALIVE),
        (says(b"HTTP/1.0 400\r\n"), ALIVE),
        (lambda talk: None, ALIVE),
        (lambda talk: talk.reset(), ALIVE),
        (swallow, SILENT),
    ],
    ids=["refusal", "choice", "http", "eof", "reset", "silence"],
)
def test_any_answer_is_a_sign_of_life(script, expected):
    """05 FF, a refusal and an end are signs of life; only silence is none."""
    with FakeTarget(script) as target:
        seconds = TIMEOUT if expected == ALIVE else 0.05
        assert expected == ask(*sockaddr("127.0.0.1:%d" % target.port), seconds)


def test_a_closed_address_is_recognised_at_once():
    """A closed port; a socket file that is not there, or that no process listens on."""
    assert REFUSED == ask(*sockaddr("127.0.0.1:%d" % closed_port()), TIMEOUT)
    assert REFUSED == ask(*sockaddr("unix:/no/such"), TIMEOUT)


def test_the_proxy_answers_its_own_question_and_does_not_write_it_down(proxy, access_log):
    """A greeting without methods is refused, as RFC 1928 has it, and is in no log."""
    for _ in range(3):
        assert ALIVE == ask(*sockaddr(proxy.address), TIMEOUT)
    assert [] == access_log.lines
    assert 0 == proxy.stats().total


@pytest.mark.parametrize(
    "address", ["[::1]:%d", ":%d", "0.0.0.0:%d", "[::]:%d", "unix:PATH", "127.0.0.1:%d"]
)
def test_each_listener_can_be_asked(address, tmp_path):
    """A listener on all addresses is asked by its loopback address."""
    address = address.replace("PATH", str(tmp_path / "s"))
    address = address % closed_port() if "%" in address else address
    with run_proxy(listen=(address,)):
        assert ALIVE == ask(*sockaddr(address), TIMEOUT)


@pytest.mark.parametrize("address", ["localhost:1", "[fe80::1%eth0]:1", "example.org:1"])
def test_what_takes_a_lookup_is_left_to_others(address):
    """The quick half leaves names and scopes to the slow half."""
    with pytest.raises(ValueError, match="name|scope"):
        sockaddr(address)


def test_unsure_is_not_healthy(tmp_path):
    """The quick half leaves all that it does not understand to the whole program."""
    for argv in (["--nonsense"], ["-l", "0"], ["-l", "x"], ["-c", "/no/such"], ["-l"]):
        assert not is_healthy(argv, {})
    broken = tmp_path / "m.ini"
    broken.write_text("[minisocks\n")
    assert not is_healthy(["-c", str(broken)], {})
    assert not is_healthy(["--pidfile", str(tmp_path / "none")], {})


# The slow half


def state(pid):
    """Return the states of a process's threads, as ps shows them."""
    states = ""
    for task in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/stat" % (pid, task)) as file:
            states += file.read().rpartition(") ")[2][0]
    return states if set(states) == {"T"} else ""


@pytest.fixture
def impatient(monkeypatch):
    """Have probes wait for a tenth of a second only."""
    monkeypatch.setattr(module, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr(module, "STATUS_SECONDS", 0.5)
    monkeypatch.setattr(module, "END_SECONDS", 0.5)


def test_a_hung_instance_is_replaced(instance, impatient):
    """A stopped process does not answer: after three probes it is ended, with a line about it."""
    instance.start()
    pid = instance.pid
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: "T" in state(pid), "the stop")
    pidfile = Pidfile(instance.pidfile)
    try:
        ours, note = take_over(pidfile, "127.0.0.1:%d" % instance.port)
    finally:
        pidfile.release()
    assert ours
    assert re.match(r"process %d was ended: it had not answered 3 times in \d s\Z" % pid, note)


def test_a_healthy_one_is_not_replaced(instance, impatient):
    """A process that answers is left alone."""
    instance.start()
    pid = instance.pid
    for address in ("127.0.0.1", "localhost"):
        answer = take_over(Pidfile(instance.pidfile), "%s:%d" % (address, instance.port))
        assert (False, "") == answer
    assert pid == instance.pid


def test_one_that_drains_is_left_in_peace(instance, impatient, target):
    """It stopped listening because of a command, and a line says that."""
    instance.start()
    pid = instance.pid
    with instance.relay(target) as talk:
        assert 0 == instance.command("drain")[0]
        address = "127.0.0.1:%d" % instance.port
        assert (False, "") == take_over(Pidfile(instance.pidfile), address)
        assert pid == instance.pid
        talk.send(b"y").expect(b"y")
    instance.wait_for_end()


def test_one_that_starts_late_is_waited_for(tmp_path, impatient, monkeypatch):
    """A lock that becomes free while it waits is taken."""
    monkeypatch.setattr(module, "PROBE_SECONDS", TIMEOUT)
    path = str(tmp_path / "p")
    other = Pidfile(path)
    assert other.acquire()
    timer = threading.Timer(0.3, other.release)
    timer.start()
    pidfile = Pidfile(path)
    assert (True, "") == take_over(pidfile, "127.0.0.1:%d" % closed_port())
    timer.join()
    pidfile.release()


@pytest.mark.parametrize("pid", ["", "1\n", "99999999\n", "nonsense\n"])
def test_no_process_is_ended_by_a_number_alone(tmp_path, impatient, pid):
    """A number of no process, or of one that has not this file open, ends no process."""
    path = str(tmp_path / "p")
    other = Pidfile(path)
    assert other.acquire()
    os.pwrite(other.fileno(), pid.encode(), 0)
    with pytest.raises(ServiceError, match="cannot be found"):
        take_over(Pidfile(path), "127.0.0.1:%d" % closed_port())
    other.release()


def test_another_process_s_number_is_not_believed(tmp_path, impatient):
    """A process that has not this file open is not taken for the instance."""
    path = str(tmp_path / "p")
    other = Pidfile(path)
    assert other.acquire()
    with subprocess.Popen(["sleep", "60"]) as innocent:
        os.pwrite(other.fileno(), b"%d\n" % innocent.pid, 0)
        with pytest.raises(ServiceError, match="cannot be found"):
            take_over(Pidfile(path), "127.0.0.1:%d" % closed_port())
        assert None is innocent.poll()
        innocent.kill()
    other.release()


#: The command line with probes of a tenth of a second.
IMPATIENT = """
import sys, minisocks.service.ensure as w
w.PROBE_SECONDS, w.STATUS_SECONDS, w.END_SECONDS = 0.1, 0.5, 1.0
from minisocks.cli import main
sys.exit(main())
"""


def impatiently(*args):
    """Start the command line with short probes, beside this test."""
    return subprocess.Popen(
        [sys.executable, "-c", IMPATIENT, *args],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )


def test_what_cannot_be_helped_is_one_sentence(tmp_path):
    """The command line writes it, and exits 1."""
    path = str(tmp_path / "p")
    other = Pidfile(path)
    assert other.acquire()
    with impatiently("--ensure", "-l", str(closed_port()), "--pidfile", path) as process:
        _, err = process.communicate(timeout=TIMEOUT)
    other.release()
    assert 1 == process.returncode
    assert "minisocks: the process that has %s does not answer, and cannot be found\n" % path == err
    status, _, err = run_command("--ensure", "-l", "0")
    assert (1, 1) == (status, err.count("\n"))
    assert "port 0 is another port at each start" in err


def test_two_at_once_replace_a_hung_one_once(instance):
    """Both calls exit 0, and one new instance runs."""
    instance.start()
    pid = instance.pid
    instance.wait_for_line("try it")  # the log has a thread of its own, which stops, too
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: "T" in state(pid), "the stop")
    processes = [impatiently("--ensure", "-c", instance.file) for _ in range(2)]
    said = [process.communicate(timeout=TIMEOUT)[1] for process in processes]
    assert [(0, ""), (0, "")] == [(p.returncode, text) for p, text in zip(processes, said)]
    wait_until(lambda: instance.log().count("listening on") == 2, "the new one's line")
    assert instance.pid not in (None, pid)


@pytest.mark.parametrize("there", ["silent", "nobody"])
def test_one_that_listens_elsewhere_is_well(instance, impatient, there):
    """Where the settings name another address by now, the process is asked at its own."""
    instance.start()
    pid = instance.pid
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if there == "silent":
            silent.listen(5)
        address = "127.0.0.1:%d" % silent.getsockname()[1]
        assert (False, "") == take_over(Pidfile(instance.pidfile), address)
    assert pid == instance.pid


def test_one_that_is_full_is_well(tmp_path, impatient, target):
    """Without descriptors it answers no greeting, but its control channel shows that it lives."""
    path = str(tmp_path / "p")
    prefix = ["sh", "-c", 'ulimit -n 32 && exec "$@"', "sh"]
    with CommandLine("-l", "0", "--pidfile", path, prefix=prefix) as command:
        talks = []
        for _ in range(30):
            talks.append(Talk.to(command.ports[0]).send(b"\x05"))
        command.wait_for_line("at capacity")
        address = "127.0.0.1:%d" % command.ports[0]
        assert (False, "") == take_over(Pidfile(path), address)
        for _ in range(3):
            assert 0 == run_command("status", "--pidfile", path)[0]
        for talk in talks:
            talk.close()
        assert 0 == command.end()


def test_settings_are_said_in_what_names_of_files_are_said(tmp_path):
    """A name in UTF-8 means the same file under cron, which sets no encoding."""
    folder = os.path.join(os.fsencode(str(tmp_path)), b"\xc3\xbc")
    os.mkdir(folder)
    path = os.path.join(folder, b"m.ini")
    port = closed_port()
    with open(path, "wb") as file:
        text = b"[minisocks]\nlisten = %d\npidfile = %s/p\nlog-file = %s/log\nuser = \xc3\xbc:x\n"
        file.write(text % (port, folder, folder))
    os.chmod(path, 0o600)
    env = environment()
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [env.get("PYTHONPATH"), ROOT]))
    minisocks = [sys.executable, "-m", "minisocks"]
    for args in (["--ensure"], ["--ensure"], ["status"], ["reload"]):
        done = subprocess.run(
            minisocks + args + [b"-c", path], env=env, stdout=subprocess.PIPE, timeout=TIMEOUT
        )
        assert 0 == done.returncode
    assert b"log" in b" ".join(os.listdir(folder))
    with Talk.to(port) as talk:
        talk.send(b"\x05\x01\x02" + password_message(b"\xc3\xbc", b"x"))
        talk.expect(b"\x05\x02\x01\x00")
    assert 0 == subprocess.call(minisocks + [b"stop", b"-c", path], env=env)
