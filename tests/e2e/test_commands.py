"""stop, drain, reload, status: what they say, what they do, how they exit."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kit.support import (
    GREETING,
    ROOT,
    TIMEOUT,
    Talk,
    closed_port,
    environment,
    run_command,
    wait_until,
)
from minisocks.errors import ServiceError
from minisocks.service import commands
from minisocks.service.pidfile import Pidfile
from minisocks.service.status import as_prometheus, as_text

pytestmark = pytest.mark.usefixtures("every_click")

COMMANDS = ["stop", "drain", "reload", "status"]


#: The command line, in which --watch looks twenty times a second.
IMPATIENT = """
import signal, sys, minisocks.service.commands as c
c.WATCH_SECONDS = 0.05
signal.signal(signal.SIGINT, signal.default_int_handler)
from minisocks.cli import main
sys.exit(main())
"""


@pytest.fixture
def instance(instance):
    """An instance that runs."""
    assert 0 == instance.start()[0]
    return instance


@pytest.mark.parametrize("name", COMMANDS)
def test_no_process_is_there(tmp_path, name):
    """Exit 3 and one sentence, whether there is no pidfile or no process has it."""
    path = tmp_path / "m.pid"
    for _ in range(2):
        status, out, err = run_command(name, "--pidfile", str(path))
        assert (3, "") == (status, out)
        assert err.startswith("minisocks: not running: no process has %s; " % path)
        path.write_text("%d\n" % os.getpid())  # a number without a lock means no process


@pytest.mark.parametrize("name", COMMANDS)
def test_a_process_that_is_starting(tmp_path, name):
    """It has the pidfile, and has neither written its number nor opened its control channel."""
    pidfile = Pidfile(str(tmp_path / "m.pid"))
    assert pidfile.acquire()
    try:
        status, out, err = run_command(name, "--pidfile", pidfile.path)
    finally:
        pidfile.release()
    assert (1, "") == (status, out)
    assert err.startswith("minisocks: the process that has %s does not answer at " % pidfile.path)
    assert err.endswith("; if it is just starting, try again in a few seconds\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_which_one_is_meant_has_to_be_clear(name):
    """Port 0 is a mistake in usage; the error about a wrong file is the same as everywhere."""
    status, _, err = run_command(name, "-l", "0")
    assert 2 == status
    assert "--pidfile: port 0" in err
    status, _, err = run_command(name, "-c", "/no/such")
    assert 2 == status
    assert "cannot read /no/such" in err


def test_stop_returns_when_it_has_ended(instance, target):
    """The pidfile is free when it returns; a connection has its grace, and is then reset."""
    instance.configure("grace = 0")
    assert 0 == instance.command("reload")[0]
    with instance.relay(target) as talk:
        assert (0, "", "") == instance.command("stop")
        assert None is instance.pid
        assert 0 == instance.start()[0]
        talk.expect_reset()


def test_stop_a_second_time_is_at_once(instance, target):
    """An operator that does not want to wait for connections types it again."""
    instance.configure("grace = 3600")
    assert 0 == instance.command("reload")[0]
    with instance.relay(target) as talk:
        args = [sys.executable, "-m", "minisocks", "stop", "--pidfile", instance.pidfile]
        with subprocess.Popen(args, cwd=ROOT) as first:
            wait_until(lambda: instance.ask("status")["state"] == "stopping")
            assert None is first.poll()
            talk.send(b"y").expect(b"y")
            assert (0, "", "") == instance.command("stop")
            assert 0 == first.wait(TIMEOUT)
        talk.expect_reset()


def test_drain_ends_it_with_its_last_connection(instance, target):
    """No new client is accepted, and a connected client stays as long as it likes."""
    with instance.relay(target) as talk:
        status, out, err = instance.command("drain")
        assert (0, "") == (status, out)
        assert "draining: connections that are open: 1; it ends with the last one\n" == err
        with pytest.raises(ConnectionRefusedError):
            Talk.to(instance.port)
        assert "draining" == instance.ask("status")["state"]
        assert [] == instance.ask("status")["addresses"]
        assert "it is being stopped" in instance.command("reload")[2]
        assert 0 == instance.command("drain")[0]
        talk.send(b"y").expect(b"y").finish().expect_eof()
    instance.wait_for_end()


def test_drain_after_stop_says_when_it_ends(instance, target):
    """Its connections have what is left of the grace, so the last one may not be the end."""
    instance.configure("grace = 3600")
    assert 0 == instance.command("reload")[0]
    with instance.relay(target):
        args = [sys.executable, "-m", "minisocks", "stop", "--pidfile", instance.pidfile]
        with subprocess.Popen(args, cwd=ROOT) as first:
            wait_until(lambda: instance.ask("status")["state"] == "stopping")
            status, out, err = instance.command("drain")
            assert (0, "", "") == instance.command("stop")
            assert 0 == first.wait(TIMEOUT)
    assert (0, "") == (status, out)
    assert (
        "stopping: connections that are open: 1; it ends with the last one, or 3600 s after the "
        "stop that came before this\n"
    ) == err


def test_drain_without_connections_is_the_end(instance):
    """There is no connection to wait for."""
    assert 0 == instance.command("drain")[0]
    instance.wait_for_end()


def test_drain_can_be_cut_short(instance, target):
    """After ``stop``, the connections that are left have the grace, and no more."""
    instance.configure("grace = 0")
    instance.command("reload")
    with instance.relay(target):
        instance.command("drain")
        assert 0 == instance.command("stop")[0]
        assert None is instance.pid


def test_status_for_people(instance, target):
    """State, listeners, totals, and the connected clients."""
    with instance.relay(target):
        with Talk.to(instance.port) as talk:
            assert 5 == talk.connect5("127.0.0.1", closed_port())[0]
        status, out, err = instance.command("status")
    assert (0, "") == (status, err)
    lines = [line.split() for line in out.splitlines()]
    assert ["listening", "on", "127.0.0.1:%d" % instance.port] in lines
    assert ["connections", "1", "open;", "2", "in", "all,", "1", "of", "them", "connected"] in lines
    assert ["bytes", "1", "B", "up,", "1", "B", "down"] in lines
    assert ["refused", "connection", "refused:", "1"] in lines
    assert ["client", "open", "up", "down"] in lines
    (processor,) = [line[1:] for line in lines if line[0:1] == ["processor"]]
    assert "(auto)" == processor[1]
    assert processor[0] == "none" or int(processor[0]) in range(os.cpu_count())
    assert ["127.0.0.1", "1", "1", "B", "1", "B"] in lines


def test_status_for_programs(instance, target):
    """--json: the same as data."""
    with instance.relay(target):
        status, out, err = instance.command("status", "--json")
    data = json.loads(out)
    assert (0, "") == (status, err)
    assert data["pid"] == instance.pid
    assert ("serving", 1, 1, 1, 1) == tuple(
        data[key] for key in ("state", "open", "succeeded", "up", "down")
    )
    assert [{"client": "127.0.0.1", "open": 1, "up": 1, "down": 1}] == data["clients"]
    assert "auto" == data["processor_wanted"]
    assert data["processor"] is None or data["processor"] in range(os.cpu_count())


def test_status_tells_the_limits_of_udp(instance):
    """How many associations there may be, and their ports; ``none`` removes both settings."""
    lines = "max-associations = 50\nudp-ports = 40000-40009\n"
    for text, most, ports in (
        ("", 1024, ""),
        (lines, 10, "40000-40009"),
        (lines.replace("40000-40009", "none"), 50, ""),
        (lines.replace("50", "none"), 10, "40000-40009"),
        ("max-associations = none\nudp-ports = none\nbind-ports = none\n", 1024, ""),
    ):
        instance.configure(text + "max-connections = 9000")
        assert "error" not in instance.ask("reload")
        data = json.loads(instance.command("status", "--json")[1])
        assert most == data["limits"]["max-associations"]
        assert {"udp-ports": ports, "bind-ports": ""} == data["ports"]


def test_status_for_prometheus(instance, target):
    """The parser of Prometheus itself reads it, and counters have the names of counters."""
    with instance.relay(target):
        with Talk.to(instance.port) as talk:
            talk.connect5("127.0.0.1", closed_port())
        with Talk.to(instance.port) as talk:
            talk.send(GREETING).expect(b"\x05\x00").finish().rest()
        out = instance.command("status", "--prometheus")[1]
    found = {}
    for family in text_string_to_metric_families(out):
        assert family.documentation
        for sample in family.samples:
            found[(sample.name, tuple(sample.labels.values()))] = sample.value
            assert (family.type == "counter") == sample.name.endswith("_total"), sample
    assert 1 == found["minisocks_connections_open", ()]
    assert 2 == found["minisocks_connections_total", ()]
    assert 1 == found["minisocks_bytes_total", ("up",)]
    assert 1 == found["minisocks_refused_total", ("connection refused",)]
    assert 1 == found["minisocks_health_checks_total", ()]
    number = json.loads(instance.command("status", "--json")[1])["processor"]
    assert number == found.get(("minisocks_processor", ()))


def test_labels_are_escaped():
    """Characters that a label may not hold are escaped as the format demands."""
    status = dict.fromkeys(["uptime", "open", "total", "succeeded", "handshakes", "threads"], 0)
    status.update(version='1"\\\n', state="serving", up=0, down=0, refused={'a"b\\c\nd': 1})
    (sample,) = [
        sample
        for family in text_string_to_metric_families("\n".join(as_prometheus(status)) + "\n")
        for sample in family.samples
        if sample.name == "minisocks_refused_total"
    ]
    assert {"reason": 'a"b\\c\nd'} == sample.labels


def test_large_figures_are_readable():
    """Sizes have units, long times have days."""
    status = {
        "version": "1", "pid": 2, "state": "serving", "addresses": ["127.0.0.1:1080"],
        "uptime": 123456.7, "open": 1, "total": 2, "succeeded": 3, "refused": {},
        "up": 1023, "down": 5 << 40, "handshakes": 0, "threads": 0, "associations": 3,
        "clients": [{"client": "::1", "open": 1, "up": 1024, "down": 3 << 30}],
    }  # fmt: skip
    text = "\n".join(as_text(status))
    assert "1 day, 10:17:36" in text
    assert "1023 B up, 5.0 TiB down" in text
    assert "1.0 KiB    3.0 GiB" in text
    assert "of these      3 by UDP" in text
    assert "limits" not in text  # there are none; older ones do not know of any
    status["limits"] = {"max-per-client": 20, "rate": 1500000, "idle-timeout": 60.0}
    assert "limits        max-per-client 20, rate 1.5M, idle-timeout 60 s" in as_text(status)
    status["ports"] = {"udp-ports": "40000-40009", "bind-ports": ""}
    status["limits"] = {"max-associations": 10}
    assert "limits        udp-ports 40000-40009, max-associations 10" in as_text(status)
    assert "health" not in text
    status["checks"] = 8640
    assert "health checks 8640" in as_text(status)
    status["threads"] = 1
    assert "handshakes    0 unfinished; 1 thread" in as_text(status)


@pytest.mark.parametrize(
    "number, wanted, shown",
    [
        (1, "auto", "processor     1 (auto)"),
        (0, "0", "processor     0"),
        (None, None, "processor     none"),
        (None, "auto", "processor     none (auto)"),
        (None, "7", "processor     none (7)"),
    ],
)
def test_the_processor_is_shown(number, wanted, shown):
    """Its number is shown, and the setting where that is something else."""
    status = dict.fromkeys(["pid", "uptime", "open", "total", "succeeded", "up", "down"], 0)
    status.update(dict.fromkeys(["handshakes", "threads", "associations"], 0))
    status.update(version="1", state="serving", addresses=[], refused={}, clients=[])
    assert not [line for line in as_text(status) if line.startswith("processor")]
    status.update(processor=number, processor_wanted=wanted)
    assert shown in as_text(status)
    line = "minisocks_processor %s" % number
    assert (line in as_prometheus(status)) == (number is not None)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_a_reload_changes_the_processor(instance):
    """A reload can set another number, none, and the one it was."""
    number = max(os.sched_getaffinity(0))
    for setting, expected in (
        ("processor = %d" % number, (number, str(number))),
        ("processor = none", (None, None)),
        ("processor = 9999", (None, "9999")),
    ):
        instance.configure(setting)
        assert "changed: processor" in instance.command("reload")[2]
        status = instance.ask("status")
        assert expected == (status["processor"], status["processor_wanted"])
    instance.wait_for_line("running on any processor: this process may use")
    instance.configure("")
    assert 0 == instance.command("reload")[0]
    assert "auto" == instance.ask("status")["processor_wanted"]


def test_only_one_form_at_once(instance):
    """--json and --prometheus together are a mistake in usage."""
    status, out, err = instance.command("status", "--json", "--prometheus")
    assert (2, "") == (status, out)
    assert "choose one" in err


def test_watch_shows_it_again_until_ctrl_c(instance):
    """--watch redraws, and Ctrl-C ends it without a traceback."""
    args = [sys.executable, "-c",
            IMPATIENT, "status", "--watch", "--pidfile", instance.pidfile]  # fmt: skip
    with subprocess.Popen(
        args, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True
    ) as process:
        for _ in range(3):
            while not process.stdout.readline().startswith("\x1b[H\x1b[2J\x1b[3Jminisocks"):
                assert None is process.poll()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=TIMEOUT)
    assert (130, "") == (process.returncode, err)


def test_watch_ends_with_what_it_watches(instance):
    """When the process has ended, so does --watch, with one sentence about it."""
    args = [sys.executable, "-m", "minisocks", "status", "--watch", "--json"]
    with subprocess.Popen(
        args + ["--pidfile", instance.pidfile],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    ) as process:
        assert json.loads(process.stdout.readline())["open"] == 0
        instance.command("stop")
        assert "not running" in process.communicate(timeout=TIMEOUT)[1]
    assert 3 == process.returncode


def test_a_process_that_does_not_answer_is_reported(instance):
    """One sentence with the number of the process, and not a hang."""
    pid = instance.pid
    os.kill(pid, signal.SIGSTOP)  # else it makes the file again at once
    os.unlink(instance.pidfile + ".sock")
    for name in COMMANDS:
        status, out, err = instance.command(name)
        assert (1, "") == (status, out)
        assert "process %d does not answer at " % instance.pid in err
        assert "No such file" in err
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: instance.command("status")[0] == 0, "the answer")


def test_default_needs_no_names(tmp_path):
    """Commands find it by the address alone, by the settings file, or by the defaults."""
    port = closed_port()
    args = ["-l", str(port)]
    with_file = tmp_path / "m.ini"
    with_file.write_text("[minisocks]\nlisten = %d\n" % port)
    assert 0 == run_command("--daemon", "--log-file", str(tmp_path / "log"), *args)[0]
    try:
        for how in (args, ["-c", str(with_file)], ["--listen=127.0.0.1:%d" % port]):
            assert "127.0.0.1:%d" % port in run_command("status", *how)[1]
        assert 3 == run_command("status", "-l", "[::1]:%d" % port)[0]
    finally:
        assert 0 == run_command("stop", *args)[0]
    for end in (".pid", ".pid.sock"):
        name = "/run/minisocks-127.0.0.1-%d%s" % (port, end)
        if os.path.exists(name):
            os.unlink(name)  # no other test will get this port


def test_it_is_found_by_its_old_address_and_by_its_new_one(tmp_path):
    """When a reload changes the first address to listen on, and no pidfile is named."""
    ports = [closed_port() for _ in range(2)]
    file = tmp_path / "m.ini"
    settings = "[minisocks]\nlisten = %%d\nlog-file = %s\n" % (tmp_path / "log")
    file.write_text(settings % ports[0])
    assert 0 == run_command("--ensure", "-c", str(file))[0]
    file.write_text(settings % ports[1])
    assert 3 == run_command("reload", "-c", str(file))[0]
    assert 0 == run_command("reload", "-l", str(ports[0]))[0]
    pids = [json.loads(run_command("status", "--json", "-l", str(p))[1])["pid"] for p in ports]
    assert pids[0] == pids[1]
    assert (0, "", "") == run_command("--ensure", "-c", str(file))
    assert 0 == run_command("stop", "-c", str(file))[0]
    for port in ports:
        assert 3 == run_command("status", "-l", str(port))[0]
        os.unlink("/run/minisocks-127.0.0.1-%d.pid" % port)  # no other test will get this port


def test_an_old_address_in_use_is_not_taken_for_the_running_process(tmp_path):
    """A process keeps the pidfile of its old address, which another program may use since."""
    ports = [closed_port() for _ in range(2)]
    file = tmp_path / "m.ini"
    settings = "[minisocks]\nlisten = %%d\nlog-file = %s\n" % (tmp_path / "log")
    file.write_text(settings % ports[0])
    assert 0 == run_command("--ensure", "-c", str(file))[0]
    told = []
    try:
        told.append(run_command("-l", str(ports[0])))
        file.write_text(settings % ports[1])
        assert 0 == run_command("reload", "-l", str(ports[0]))[0]
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", ports[0]))
            other.listen()
            told += [run_command("-l", str(port)) for port in ports]
    finally:
        assert 0 == run_command("stop", "-l", str(ports[0]))[0]
        for port in ports:
            name = "/run/minisocks-127.0.0.1-%d.pid" % port
            if os.path.exists(name):
                os.unlink(name)  # no other test will get this port
    assert [(1, "")] * 3 == [(status, out) for status, out, _err in told]
    words = ("minisocks runs there already", "Address already in use")
    for which, (_status, _out, err) in zip((0, 1, 0), told):
        assert ": %s" % words[which] in err


def test_a_foreground_process_can_be_spoken_to(tmp_path):
    """Commands also reach a process that a supervisor has started."""
    pidfile = str(tmp_path / "p")
    args = [sys.executable, "-m", "minisocks", "-l", "0", "--pidfile", pidfile]
    with subprocess.Popen(args, cwd=ROOT, stderr=subprocess.PIPE) as process:
        while b"try it" not in process.stderr.readline():
            assert None is process.poll()
        out = run_command("status", "--json", "--pidfile", pidfile)[1]
        assert process.pid == json.loads(out)["pid"]
        assert 0 == run_command("stop", "--pidfile", pidfile)[0]
        process.communicate(timeout=TIMEOUT)
    assert 0 == process.returncode


def test_without_a_place_for_a_pidfile_it_serves_all_the_same(tmp_path, monkeypatch):
    """A warning, and no control channel, unless the pidfile was asked for."""
    code = (
        "import sys, minisocks.service.pidfile as p\n"
        "p.default_path = lambda address: '/no/such/p'\n"
        "from minisocks.cli import main; sys.exit(main())"
    )
    port = closed_port()
    args = [sys.executable, "-c", code, "-l", str(port)]
    with subprocess.Popen(
        args, cwd=ROOT, stderr=subprocess.PIPE, universal_newlines=True
    ) as process:
        lines = []
        while not lines or not lines[-1].startswith("try it"):
            lines.append(process.stderr.readline())
            assert None is process.poll()
        assert lines[0].startswith("warning: no pidfile /no/such/p: No such file")
        Talk.to(port).close()
        process.terminate()
        process.communicate(timeout=TIMEOUT)
    assert 0 == process.returncode

    status, _, err = run_command("-l", "0", "--pidfile", "/no/such/p")
    assert 1 == status
    assert "minisocks: cannot use the pidfile /no/such/p: No such file or directory" in err


def test_another_one_s_default_is_left_to_it(tmp_path):
    """Where another process has the default pidfile (of another network, say), it serves, too."""
    from minisocks.service.pidfile import Pidfile, default_path

    port = closed_port()
    path = default_path("127.0.0.1:%d" % port)
    other = Pidfile(path)
    assert other.acquire()
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "minisocks", "-l", str(port)],
            cwd=ROOT, stderr=subprocess.PIPE, universal_newlines=True,
        ) as process:  # fmt: skip
            line = process.stderr.readline()
            assert "warning: another process has %s: name a --pidfile\n" % path == line
            wait_until(lambda: "try it" in process.stderr.readline())
            process.terminate()
            process.communicate(timeout=TIMEOUT)
        assert 0 == process.returncode
    finally:
        other.release()
        os.unlink(path)


def test_end_seconds_are_bounded(instance, monkeypatch):
    """stop does not wait for ever for a process that hangs."""
    from minisocks.errors import ServiceError
    from minisocks.service import commands

    monkeypatch.setattr(commands, "END_SECONDS", 0.2)
    monkeypatch.setattr(commands, "ask", lambda path, what, **parts: {"grace": 0})
    began = time.monotonic()
    with pytest.raises(ServiceError, match="process %d has not ended yet" % instance.pid):
        commands.stop(instance.pidfile)
    assert time.monotonic() - began < TIMEOUT


def test_stop_of_one_that_ends_just_then_is_well(instance, monkeypatch):
    """No answer comes any more, and soon the lock is free: the end that was asked for."""
    from minisocks.errors import NotRunning
    from minisocks.service import commands

    def request(*args):
        os.kill(instance.pid, signal.SIGKILL)
        raise BrokenPipeError("Broken pipe")

    monkeypatch.setattr(commands, "request", request)
    commands.stop(instance.pidfile)
    instance.start()
    with pytest.raises(NotRunning, match="it has just ended"):
        commands.status(instance.pidfile)


@contextlib.contextmanager
def answering(path, answer):
    """While this lasts, a process has the pidfile *path*, and gives one *answer*."""
    pidfile = Pidfile(path)
    assert pidfile.acquire()
    pidfile.write()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path + ".sock")
        server.listen(5)

        def serve():
            caller = server.accept()[0]
            caller.recv(4096)
            caller.sendall(answer)
            caller.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            thread.join()
            pidfile.release()


EVIL = "\x1b[2J\u202e\n# TYPE forged counter\nforged 1\udc80\x9b"
ANSWER = {
    "ok": True, "version": EVIL, "pid": 1, "state": EVIL, "addresses": [EVIL], "uptime": 1.5,
    "open": 1, "total": 1, "succeeded": 1, "refused": {EVIL: 1}, "up": 1, "down": 1,
    "handshakes": 0, "threads": 1, "associations": 1, "processor": 0, "processor_wanted": EVIL,
    "limits": {"rate": 5, EVIL: 1}, EVIL: {EVIL: [EVIL]},
    "clients": [{"client": EVIL, "open": 1, "up": 1, "down": 1}],
}  # fmt: skip


@pytest.mark.parametrize("form", ["", "--json", "--prometheus"])
def test_status_shows_what_a_process_says_without_doing_it(tmp_path, form):
    """Texts of another process make no lines of their own, and nothing that a terminal acts on."""
    path = str(tmp_path / "p")
    with answering(path, json.dumps(ANSWER).encode() + b"\n"):
        status, out, err = run_command(
            "status", "--pidfile", path, *form.split(), env=environment(LC_ALL="C.UTF-8")
        )
    assert (0, "") == (status, err)
    assert all(line.isprintable() for line in out.splitlines())
    assert not [line for line in out.splitlines() if line.startswith(("forged", "# TYPE forged"))]
    if form == "--json":
        shown = r"\x1b[2J\xe2\x80\xae\n# TYPE forged counter\nforged 1\x80\xc2\x9b"
        assert shown == json.loads(out)["state"]
        assert {shown: [shown]} == json.loads(out)[shown]
    elif form == "--prometheus":
        families = {family.name for family in text_string_to_metric_families(out)}
        assert all(name.startswith("minisocks_") for name in families)


NO_NUMBERS = ["1", True, float("nan"), float("inf"), 10**400, [1], {}, "1\nforged 1"]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
@pytest.mark.parametrize("form", ["", "--json", "--prometheus"])
def test_numbers_are_numbers(tmp_path, form, value):
    """A value that is no number is not shown as one, in any form, at any place."""
    for change in (
        {"open": value},
        {"uptime": value},
        {"refused": {"x": value}},
        {"limits": {"rate": value}},
        {"clients": [{"client": "x", "open": 1, "up": value, "down": 1}]},
    ):
        with pytest.raises(
            ServiceError, match="gave an answer that this version does not understand"
        ):
            answered(str(tmp_path / "p"), dict(ANSWER, **change), form[2:] or "text")


def answered(path, answer, form):
    """Return the status that is shown of a process that gives this *answer*."""
    try:
        with answering(path, json.dumps(answer).encode() + b"\n"):
            commands.status(path, form)
    finally:
        os.unlink(path + ".sock")


def test_an_answer_in_many_brackets_is_none(tmp_path):
    """The JSON parser recurses once for each bracket, and fails without a traceback."""
    path = str(tmp_path / "p")
    with pytest.raises(ServiceError, match="no answer of a minisocks"):
        with answering(path, b"[" * 200000 + b"\n"):
            commands.status(path)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["stop", "drain", "reload", "status"])
@pytest.mark.parametrize(
    "answer",
    [
        b"{}\n", b'{"ok": true}\n', b'{"ok": 1, "open": "x", "changed": 5, "grace": []}\n',
        b'{"ok": true, "grace": "x", "open": null, "changed": {}, "restart": 1}\n', b"[]\n", b"x\n",
        b'{"error": "\\u001b[31mboo\\u0007\\n"}\n',
        b'{"ok": true, "grace": NaN, "open": 1e999, "changed": [1], "restart": [null]}\n',
        b'{"ok": true, "grace": true, "open": true, "changed": [[]], "restart": []}\n',
    ],
)  # fmt: skip
def test_an_answer_that_cannot_be_meant_is_a_sentence(tmp_path, name, answer):
    """Whatever listens there: no traceback, and nothing that a terminal acts on."""
    path = str(tmp_path / "p")
    with answering(path, answer):
        status, out, err = run_command(name, "--pidfile", path)
    assert (1, "", 1) == (status, out, err.count("\n"))
    assert err[:-1].isprintable()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be two users")
def test_another_user_s_answer_is_not_believed(tmp_path, monkeypatch):
    """Root believes a process of root, or of the user that owns the pidfile."""
    from minisocks.service import remote

    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(5)
        monkeypatch.setattr(remote.struct, "unpack", lambda form, data: (1, 4242, 4242))
        with pytest.raises(ValueError, match="user 4242 answers there"):
            remote.request(path, {}, 1.0)
        with pytest.raises(ValueError, match="user 4242 answers there"):
            remote.request(path, {}, 1.0, 4243)
        server.settimeout(TIMEOUT)
        thread = threading.Thread(target=lambda: server.accept()[0].close())
        server.accept()[0].close()
        server.accept()[0].close()
        thread.start()
        with pytest.raises((ValueError, OSError), match="no answer|reset|Broken"):
            remote.request(path, {}, TIMEOUT, 4242)
        thread.join()
