"""The command line: what it says, how it exits, and that nothing keeps it from starting."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from kit.support import (
    GREETING,
    ROOT,
    TIMEOUT,
    CommandLine,
    Talk,
    closed_port,
    environment,
    one_connection,
    password_message,
    run_command,
    socks5,
    started_with_a_pipe,
    wait_until,
)

pytestmark = pytest.mark.usefixtures("every_click")


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "args, option",
    [
        (["--no-such-option"], "--no-such-option"),
        (["-Z"], "-Z"),
        (["-l"], "-l"),
        (["-l", "1080x"], "--listen"),
        (["-l", "65536"], "--listen"),
        (["-l", "::1:1080"], "--listen"),
        (["-l", "[::1:1080"], "--listen"),
        (["-l", "unix:"], "--listen"),
        (["-l", ""], "--listen"),
        (["--user", "nobody"], "--user"),
        (["--user", ":secret"], "--user"),
        (["--user", "a:" + "x" * 256], "--user"),
        (["--handshake-timeout", "soon"], "--handshake-timeout"),
        (["--handshake-timeout", "0"], "--handshake-timeout"),
        (["--connect-timeout", "-1"], "--connect-timeout"),
        (["--connect-timeout", "nan"], "--connect-timeout"),
        (["--grace", "inf"], "--grace"),
        (["--max-handshakes", "1.5"], "--max-handshakes"),
        (["--max-handshakes", "0"], "--max-handshakes"),
        (["nonsense"], "nonsense"),
    ],
)
def test_wrong_usage_is_one_sentence_that_names_the_option(args, option):
    """A wrong option or value exits 2 with one line that says which, and no traceback."""
    status, out, err = run_command(*args)
    assert (2, "") == (status, out)
    assert 1 == err.count("\n")
    assert err.startswith("minisocks: ")
    assert option in err


def test_a_port_that_is_taken_is_one_sentence():
    """A port on which another process listens: exit status 1, and one line that names the port."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        port = other.getsockname()[1]
        status, out, err = run_command("-l", "0", "-l", str(port))
    assert (1, "") == (status, out)
    assert 1 == err.count("\n")
    assert err.startswith("minisocks: ")
    assert "127.0.0.1:%d" % port in err
    assert "in use" in err


def test_a_file_in_the_way_is_one_sentence(tmp_path):
    """A unix socket's path that is a file exits 1, and the file is still there."""
    path = tmp_path / "precious"
    path.write_text("x")
    status, _, err = run_command("-l", "unix:%s" % path)
    assert (1, 1, True) == (status, err.count("\n"), path.exists())
    assert str(path) in err


def test_a_line_is_one_line_whatever_is_in_a_name():
    """A line break in a name does not make two lines of an error."""
    for args in (["-c", "a\nb/c"], ["-l", "unix:a\nb/c"], ["--a\nb/c"]):
        status, _, err = run_command(*args)
        assert status
        assert 1 == err.count("\n")
        assert "a\\nb/c" in err


def test_a_file_in_utf_16_is_named_as_that(tmp_path):
    """An editor that saves as "Unicode" shows it as right; the sentence names file and remedy."""
    path = tmp_path / "minisocks.ini"
    path.write_bytes("[minisocks]\ngrace = 1\n".encode("utf-16"))
    status, _, err = run_command("-c", str(path))
    assert (2, 1) == (status, err.count("\n"))
    assert "%s: this is no text in UTF-8" % path in err


@pytest.mark.parametrize("more", [[], ["-q"], ["-v"]], ids=["", "-q", "-v"])
def test_it_says_where_it_listens(more):
    """A line for each listener with the real port, one on admission, a curl line; also with -q."""
    with CommandLine("-l", "0", "-l", "127.0.0.2:0", *more) as command:
        assert [] == [line for line in command.lines if "\x1b" in line]
        assert 2 == len(command.ports)
        assert all(command.ports)
        for host, port in zip(("127.0.0.1", "127.0.0.2"), command.ports):
            with Talk.to(port, host) as talk:
                talk.send(GREETING).expect(b"\x05\x00")
        assert any(
            "may come in: clients on this host (by loopback), without a password" == line
            for line in command.lines
        )
        (room,) = [line for line in command.lines if line.startswith("room for ")]
        assert re.match(
            r"room for about \d+ connections \(\d+ descriptors, 2 each and 256 for handshakes; "
            r"\d+ MiB of memory free, 10 KiB each idle\); 256 unfinished handshakes$",
            room,
        )
        assert command.lines[0].startswith("listening on 127.0.0.1:%d " % command.ports[0])
        curl = "curl --proxy socks5h://127.0.0.1:%d " % command.ports[0]
        assert curl in command.wait_for_line("try it")
        assert 0 == command.end()


def on_a_terminal(*args, **variables):
    """Run it to its end with stderr on a terminal; return what the terminal shows."""
    terminal, theirs = os.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "minisocks"] + list(args),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            env=dict(os.environ, TERM="xterm", **variables),
            cwd=ROOT,
        )
        os.close(theirs)
        shown = b""
        while b"try it" not in shown and b"no command" not in shown:
            shown += os.read(terminal, 4096)
        process.terminate()
        process.wait(TIMEOUT)
        return shown.decode("ascii")
    finally:
        os.close(terminal)


def test_a_terminal_gets_colour():
    """On a terminal the heads of the lines have colours, unless NO_COLOR is set."""
    for args, head in ((["-l", "0"], "listening on"), (["xyzzy"], "minisocks:")):
        assert re.search(r"\x1b\[3\dm\x1b\[1m%s\x1b\[0m " % head, on_a_terminal(*args))
        assert "\x1b" not in on_a_terminal(*args, NO_COLOR="1")


def test_it_serves_as_the_file_says(tmp_path, target):
    """-c FILE: listeners, users and the log are those of the file; the command line wins."""
    path = tmp_path / "minisocks.ini"
    path.write_text("[minisocks]\nlisten =\n  0\n  127.0.0.2:0\nuser = ann:s3cret\nquiet = yes\n")
    path.chmod(0o600)
    with CommandLine("-c", str(path), "--no-quiet") as command:
        assert ["127.0.0.1", "127.0.0.2"] == [
            line.split()[2].partition(":")[0] for line in command.lines[:2]
        ]
        with Talk.to(command.ports[1], "127.0.0.2") as talk:
            talk.send(b"\x05\x01\x02" + password_message(b"ann", b"s3cret"))
            talk.expect(b"\x05\x02\x01\x00").send(socks5("127.0.0.1", target.port))
            assert 0 == talk.receive_reply5()[0]
        command.wait_for_line("user='ann'")
        assert 0 == command.end()


def test_a_connection_is_one_line(target):
    """By default a finished connection is one line, and a health check is none."""
    with CommandLine("-l", "0") as command:
        Talk.to(command.ports[0]).close()
        one_connection(command, target)
        line = command.wait_for_line("end=")
        assert "up=5B down=5B" in line
        assert "dst=127.0.0.1:%d" % target.port in line
        assert 0 == command.end()
        assert 1 == sum("client=" in line for line in command.lines)


def one_refused(command):
    """Have it refuse a client because of a wrong password."""
    with Talk.to(command.ports[0]) as talk:
        talk.send(b"\x05\x01\x02" + password_message(b"ann", b"wrong")).expect(b"\x05\x02\x01\x01")
        talk.rest()


@pytest.mark.parametrize(
    "variable, args, refusals",
    [
        ("", ["-q"], 1),
        ("yes", [], 1),
        ("twice", ["-q"], 1),
        ("", ["-qq", "--no-quiet", "--quiet"], 1),
        ("", ["-qq"], 0),
        ("", ["-q", "--quiet"], 0),
        ("twice", [], 0),
        ("2", [], 0),
    ],
)
def test_quiet_is_about_what_went_well(target, monkeypatch, variable, args, refusals):
    """-q: a refusal still has its line, a connection that went well has none; -qq: neither."""
    monkeypatch.setenv("MINISOCKS_QUIET", variable)
    users = ["--user", "ann:s3cret", "--rule", "allow user none"]
    with CommandLine("-l", "0", *users, *args) as command:
        one_connection(command, target)
        with Talk.to(command.ports[0]) as talk:
            talk.send(b"\x05\x01\x02" + password_message(b"ann", b"wrong"))
            talk.expect(b"\x05\x02\x01\x01").rest()
        assert 0 == command.end()
        lines = [line for line in command.lines if "client=" in line]
        assert refusals == len(lines)
        assert all("end=refused why=" in line for line in lines)


def test_verbose_tells_of_scanners(target):
    """-v also logs clients that connected and sent nothing."""
    with CommandLine("-l", "0", "-v") as command:
        Talk.to(command.ports[0]).close()
        one_connection(command, target)
        assert "client=127.0.0.1" in command.wait_for_line("asked for nothing")
        assert 0 == command.end()


def test_a_password_is_never_shown(target):
    """Neither at start nor in any line of the log, right or wrong, served or not."""
    with CommandLine("-l", "0", "-v", "--user", "karl:s3same-open") as command:
        for password in (b"s3same-open", b"wr0ng-one"):
            with Talk.to(command.ports[0]) as talk:
                talk.send(b"\x05\x01\x02" + password_message(b"karl", password)).expect(b"\x05\x02")
                if talk.receive(2) == b"\x01\x00":
                    talk.send(socks5("127.0.0.1", target.port))
                    assert 0 == talk.receive_reply5()[0]
        with Talk.to(command.ports[0]) as talk:
            talk.send(b"\x05\x01\x02\x01\x04karl\x20s3same-open")
        command.wait_for_line("refused")
        command.wait_for_line("user='karl'")
        assert 0 == command.end()
        said = "\n".join(command.lines)
        assert "s3same" not in said
        assert "wr0ng" not in said


@pytest.mark.parametrize("user", ["karl:", ":s3same", "karl:" + "s3same" * 60, "s3same"])
def test_a_password_that_cannot_be_used_is_not_shown_either(user):
    """The sentence about a wrong --user does not repeat it."""
    status, out, err = run_command("--user", user)
    assert 2 == status
    assert "s3same" not in out + err


# What cron, procd and other rough hosts do


def test_it_starts_with_an_empty_environment(target):
    """No PATH, no LANG, no HOME: it serves."""
    with CommandLine("-l", "0", env=environment()) as command:
        one_connection(command, target)
        assert 0 == command.end()
        assert [] == [line for line in command.lines if "Trace" in line]


def test_help_and_mistakes_with_an_empty_environment():
    """--help and a wrong option work there, too."""
    assert 0 == run_command("--help", env=environment())[0]
    assert 2 == run_command("--nonsense", env=environment())[0]


def test_it_runs_from_another_directory(tmp_path, target):
    """``python3 -m minisocks`` with PYTHONPATH serves from anywhere."""
    prefix = ["sh", "-c", 'cd "$0" && exec "$@"', str(tmp_path)]
    env = dict(os.environ, PYTHONPATH=ROOT)
    with CommandLine("-l", "0", prefix=prefix, env=env) as command:
        one_connection(command, target)
        assert 0 == command.end()


@pytest.mark.parametrize(
    "closed", ["2>&-", "<&-", ">&-", "<&- >&- 2>&-"], ids=["stderr", "stdin", "stdout", "all"]
)
def test_it_starts_with_closed_streams(closed, target):
    """Started without stdin, stdout or stderr, it serves and exits like any other time."""
    port = closed_port()
    prefix = ["sh", "-c", 'exec "$@" ' + closed, "sh"]
    with CommandLine("-l", str(port), prefix=prefix, wait=False) as command:
        command.ports = [port]

        def serves():
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", port)) == 0

        wait_until(serves)
        for _ in range(3):
            one_connection(command, target)
        assert 0 == command.end()
        assert [] == [line for line in command.lines if "Trace" in line]


def test_a_stderr_that_goes_away_is_no_reason_to_end(target):
    """The reader of the log has gone: connections are served all the same."""
    with started_with_a_pipe() as (process, port):
        process.stderr.close()
        for _ in range(5):
            with Talk.to(port) as talk:
                assert 0 == talk.connect5("127.0.0.1", target.port)[0]
                talk.send(b"x").expect(b"x")
        process.terminate()
        assert 0 == process.wait(TIMEOUT)


#: Put before everything else on the path, it sends us SIGINT at a given moment.
INTERRUPT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):
        pass  # the interpreter raises KeyboardInterrupt here
"""
WRAP = """
import socket, threading
def wrap(owner, name):
    real = getattr(owner, name)
    def wrapper(*args):
        interrupt()
        return real(*args)
    setattr(owner, name, wrapper)
"""
MOMENTS = {
    "import": ("click/__init__.py", "interrupt()\n"),
    "listen": ("sitecustomize.py", WRAP + "wrap(socket.socket, 'listen')\n"),
    "threads": ("sitecustomize.py", WRAP + "wrap(threading.Thread, 'start')\n"),
}


@pytest.mark.parametrize("moment", sorted(MOMENTS))
def test_ctrl_c_during_the_start_is_no_traceback(tmp_path, moment):
    """Ctrl-C before it serves, which a slow machine gives time for, ends it without a traceback."""
    name, code = MOMENTS[moment]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(INTERRUPT + code)
    env = dict(os.environ, PYTHONPATH=str(tmp_path))
    status, out, err = run_command("-l", "0", env=env)
    assert "Traceback" not in err
    assert "Interrupt" not in err
    # 0: it was ready to serve, and to end.
    assert status in (0, 130, -signal.SIGINT)


def test_a_signal_right_after_the_first_line_is_one(target):
    """A supervisor that ends it as soon as it says where it listens gets exit status 0."""
    for number in (signal.SIGTERM, signal.SIGINT) * 5:
        with CommandLine("-l", "0", wait=False) as command:
            command.wait_for_line("listening on")
            assert 0 == command.end(number)
            assert [] == [line for line in command.lines if "Trace" in line]
