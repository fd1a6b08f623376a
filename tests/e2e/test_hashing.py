"""``minisocks hash-password`` makes lines for a users file; ``check`` shows what a login costs."""

import io
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import termios

import pytest

from kit.support import (
    MODULE,
    ROOT,
    TIMEOUT,
    CommandLine,
    FakeTarget,
    environment,
    run_command,
)
from minisocks.policy.passwords import Hash
from minisocks.service import hashing

CURL = shutil.which("curl")
FEW = ("--iterations", "1000")
SHAPE = re.compile(rb"\$pbkdf2-sha256\$1000\$[A-Za-z0-9./]{22}\$[A-Za-z0-9./]{43}\n\Z")


def hash_password(*args, stdin=b"secret\n", program=MODULE, **variables):
    """Run it with a password on stdin; return status, stdout and stderr, as bytes."""
    child = subprocess.run(
        [*program, "hash-password", *args],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=environment(**variables),
        timeout=TIMEOUT,
    )
    return child.returncode, child.stdout, child.stderr


def line_of(password, name="ann"):
    """Return a line for the file of users."""
    status, out, err = hash_password("--name", name, *FEW, stdin=password)
    assert (0, b"") == (status, err)
    return out


@pytest.fixture
def users_file(tmp_path):
    """A file with a user, ann, whose password is secret."""
    path = tmp_path / "users"
    path.write_bytes(b"# users\n" + line_of(b"secret\n"))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    "stdin, password",
    [
        (b"secret", b"secret"),
        (b"secret\n", b"secret"),
        (b"secret\r\n", b"secret"),
        (b"secret\nmore\n", b"secret"),
        (b" two words \n", b" two words "),
        (b"p\xc3\xa4ss\n", b"p\xc3\xa4ss"),
        (b"\xff\xfe\n", b"\xff\xfe"),
        (b"x" * 255 + b"\r\n", b"x" * 255),
    ],
)
@pytest.mark.usefixtures("every_click")
def test_a_line_of_stdin_is_the_password(stdin, password):
    """The password is taken byte for byte, without the line end, whatever the locale."""
    status, out, err = hash_password(*FEW, stdin=stdin, LC_ALL="C", PYTHONCOERCECLOCALE="0")

    assert (0, b"") == (status, err)
    assert SHAPE.match(out)
    assert Hash.parse(out.decode().rstrip("\n")).fits(password)


@pytest.mark.parametrize("name", [b"ann", b"ann smith", b"j\xc3\xb6rg", b"\xff"])
def test_the_line_has_the_name_as_it_was_given(name):
    """The name is kept in any locale; two lines of one password have nothing in common."""
    for variables in ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}, {"LC_ALL": "C.UTF-8"}):
        status, out, err = hash_password("--name", name, *FEW, **variables)
        assert (0, b"") == (status, err)
        user, _, rest = out.partition(b":")
        assert name == user
        assert SHAPE.match(rest)
    assert out != line_of(b"secret\n", name)


@pytest.mark.parametrize(
    "args, stdin, status, sentence",
    [
        ((), b"", 1, "the password is empty: type one, or pipe one to stdin"),
        ((), b"\n", 1, "the password is empty: type one, or pipe one to stdin"),
        ((), b"s3cret" * 43 + b"\n", 1, "the password is longer than 255 bytes"),
        ((), b"s3cret" * 100000, 1, "the password is longer than 255 bytes"),
        (("s3cret",), b"", 2, "hash-password takes no password here"),
        (("--iterations", "999"), b"s3cret", 2, "--iterations: 999 is out of range: 1000 to"),
        (("--iterations", "10000001"), b"s3cret", 2, "--iterations: 10000001 is out of range"),
        (("--iterations", "9" * 5000), b"s3cret", 2, "--iterations: 99999999999999999999 is out"),
        (("--iterations", "many"), b"s3cret", 2, "--iterations: 'many' is no whole number"),
        (("--name", ""), b"s3cret", 2, "--name: a name has 1 to 255 bytes"),
        (("--name", "x" * 256), b"s3cret", 2, "--name: a name has 1 to 255 bytes"),
        (("--name", "ann:s3cret"), b"s3cret", 2, "--name: a name has neither colon nor line break"),
        (("--name", "a\nb"), b"s3cret", 2, "--name: a name has neither colon nor line break"),
        (("--name", "#a"), b"s3cret", 2, "--name: a name has neither colon nor line break"),
        (("--nmae", "ann"), b"s3cret", 2, "no option is called --nmae; did you mean --name?"),
    ],
)
def test_what_cannot_be_hashed_is_a_sentence(args, stdin, status, sentence):
    """A line names the mistake, no hash is printed, and no password is repeated."""
    done, out, err = hash_password(*args, stdin=stdin)

    assert (status, b"") == (done, out)
    assert err.startswith(b"minisocks: ")
    assert sentence in err.decode()
    assert 1 == err.count(b"\n")
    assert b"s3cret" not in err


#: The command line, which Ctrl-C ends: a shell has its background processes ignore that.
INTERRUPTIBLE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from minisocks.cli import main
sys.exit(main())
"""


class Terminal:
    """A child on a terminal of its own, its stdout elsewhere."""

    def __init__(self, *args):
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTIBLE, "hash-password", *args],
            stdin=slave,
            stdout=subprocess.PIPE,
            stderr=slave,
            cwd=ROOT,
            env=environment(),
            start_new_session=True,
        )
        os.close(slave)
        self.shown = b""

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        os.close(self.master)
        self.process.kill()
        self.process.stdout.close()
        self.process.wait()

    def wait_for(self, text):
        """Wait until the terminal shows *text*, behind all that was waited for before."""
        seen = len(self.shown)
        while text not in self.shown[seen:]:
            assert select.select([self.master], [], [], TIMEOUT)[0], self.shown
            self.shown += os.read(self.master, 1024)
        return self

    def type(self, text):
        """Type *text*."""
        os.write(self.master, text)
        return self

    def end(self):
        """Return exit status and stdout."""
        out = self.process.stdout.read()
        return self.process.wait(TIMEOUT), out


def test_on_a_terminal_it_asks_twice():
    """Nothing typed is shown, and stdout has nothing but the line."""
    with Terminal("--name", "ann", *FEW) as terminal:
        terminal.wait_for(b"Password: ").type(b"p\xc3\xa4ss\n")
        terminal.wait_for(b"Again: ").type(b"p\xc3\xa4ss\n")
        status, out = terminal.end()
        terminal.wait_for(b"\n")

    assert 0 == status
    assert out.startswith(b"ann:")
    assert Hash.parse(out[4:].decode().rstrip("\n")).fits(b"p\xc3\xa4ss")
    assert b"ss" not in terminal.shown.replace(b"Password", b"")


@pytest.mark.parametrize(
    "typed, status, sentence",
    [
        ([b"secret\n", b"Secret\n"], 1, b"the two passwords differ; nothing was hashed"),
        ([b"secret\n", b"\n"], 1, b"the two passwords differ; nothing was hashed"),
        ([b"\n"], 1, b"the password is empty: type one, or pipe one to stdin"),
        ([b"\x04"], 1, b"the password is empty: type one, or pipe one to stdin"),
        ([b"\x03"], 130, None),
    ],
)
def test_on_a_terminal_people_mistype(typed, status, sentence):
    """A sentence is shown, and no line printed; after Ctrl-C the terminal echoes input again."""
    with Terminal(*FEW) as terminal:
        for text in typed:
            terminal.wait_for(b": ")
            if text != b"\x03":
                terminal.type(text)
            else:
                # It has no controlling terminal here that would make a signal of it.
                terminal.process.send_signal(2)
        done, out = terminal.end()
        echoes = termios.tcgetattr(terminal.master)[3] & termios.ECHO
        if status == 1:
            terminal.wait_for(sentence)

    assert (status, b"") == (done, out)
    assert echoes


def test_its_help_has_no_settings():
    """Its help has only the options that it takes."""
    status, out, err = run_command("hash-password", "--help", env=environment())

    assert (0, "") == (status, err)
    named = set(re.findall(r"--([a-z-]+)", out))
    assert {"name", "iterations", "users-file", "version", "help"} == named
    assert "--listen" not in out
    assert "MINISOCKS_" not in out
    assert "hash-password" in run_command("--help", env=environment())[1]


def through_curl(users_file):
    """Have curl log in with a right password and a wrong one."""
    answer = b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"

    def script(talk):
        talk.receive(1)
        talk.send(answer).finish().rest()

    with FakeTarget(script) as target, CommandLine(
        "-l", "0", "--users-file", str(users_file)
    ) as command:
        for user, expected in (("ann:secret", (0, b"hello")), ("ann:wrong", (97, b""))):
            child = subprocess.run(
                [CURL, "-s", "--proxy", "socks5h://127.0.0.1:%d" % command.ports[0]]
                + ["--proxy-user", user, "http://127.0.0.1:%d/" % target.port],
                stdout=subprocess.PIPE,
                timeout=TIMEOUT,
            )
            assert expected == (child.returncode, child.stdout)
        assert 0 == command.end()
    assert "secret" not in "".join(command.lines)
    return command


@pytest.mark.skipif(not CURL, reason="no curl")
def test_curl_logs_in(users_file):
    """With --proxy-user, through the command line's server; the start lists admitted clients."""
    command = through_curl(users_file)

    assert "may come in: any client that has a password" in command.lines
    assert any("NAME:PASSWORD@" in line for line in command.lines if "try it" in line)


@pytest.mark.usefixtures("every_click")
def test_check_says_what_a_login_costs(users_file):
    """The seconds of a login are measured, for the dearest hash of the file; --json has them."""
    other = Hash(2000, b"salt", bytes(32))
    users_file.write_bytes(users_file.read_bytes() + b"bob:%s\n" % other.text().encode())
    status, out, err = run_command("check", "--users-file", str(users_file))
    assert (0, "") == (status, err)
    (line,) = [line for line in out.splitlines() if line.startswith("a login costs")]
    assert re.match(
        r"a login costs [\d.e-]+ s here \(2000 iterations\), once for each password: later ones "
        r"are remembered\Z",
        line,
    )
    assert "may come in: any client that has a password" in out.splitlines()

    data = json.loads(run_command("check", "--json", "--users-file", str(users_file))[1])
    assert 2000 == data["login"]["iterations"]
    assert 0 <= data["login"]["seconds"] < 1


@pytest.mark.parametrize("text", ["", "# no users\n", None])
def test_check_without_hashes_has_no_cost(text, tmp_path):
    """There is nothing to measure; but with a file a password is needed."""
    path = tmp_path / "users"
    args = []
    if text is not None:
        path.write_text(text)
        path.chmod(0o600)
        args = ["--users-file", str(path)]
    status, out, err = run_command("check", *args)

    assert (0, "") == (status, err)
    assert "a login costs" not in out
    assert ("any client that has a password" in out) == bool(args)
    assert "login" not in json.loads(run_command("check", "--json", *args)[1])


@pytest.mark.parametrize("command", [["check"], ["-l", "0"]])
def test_a_password_in_the_file_is_refused(command, tmp_path):
    """The sentence has the command that hashes it; from check and from the start."""
    path = tmp_path / "users"
    path.write_text("# users\nann:s3cret\n")
    path.chmod(0o600)
    expected = (
        "minisocks: --users-file: %s, line 2: this is no $pbkdf2-sha256$ hash; `minisocks "
        "hash-password --name ann` makes the line\n" % path
    )

    assert (2, "", expected) == run_command(*command, "--users-file", str(path))


@pytest.mark.parametrize("command", [["check"], ["-l", "0"]])
def test_a_file_that_is_not_there(command):
    """The sentence names the file."""
    sentence = "minisocks: --users-file: cannot read /no/such: No such file or directory\n"

    status, out, err = run_command(*command, "--users-file", "/no/such")
    assert (2, "") == (status, out)
    assert err.startswith(sentence.rstrip("\n"))


def test_a_file_that_others_can_read_is_worth_a_warning(users_file):
    """The start and check warn once."""
    expected = "warning: %s holds hashes, and others may read it: chmod 600 %s" % (
        users_file,
        users_file,
    )
    users_file.chmod(0o644)
    assert expected + "\n" == run_command("check", "--users-file", str(users_file))[2]
    with CommandLine("-l", "0", "--users-file", str(users_file)) as command:
        assert 0 == command.end()
    assert 1 == command.lines.count(expected)


@pytest.mark.parametrize(
    "mode, writer", [(0o660, "its group"), (0o620, "its group"), (0o602, "others"), (0o600, None)]
)
def test_a_file_that_others_can_write_is_worth_a_warning(users_file, tmp_path, mode, writer):
    """check, the start and each reload warn once."""
    expected = "%s decides about clients, and %s may write it: chmod go-w %s"
    expected = [expected % (users_file, writer, users_file)] if writer else []
    users_file.chmod(mode)
    err = run_command("check", "--users-file", str(users_file))[2]
    assert expected == [line[9:] for line in err.splitlines() if "write it" in line]
    with CommandLine("-l", "0", "--users-file", str(users_file)) as command:
        assert len(expected) == sum("may write it" in line for line in command.lines)
        os.kill(command.process.pid, signal.SIGHUP)
        command.wait_for_line("reloaded, changed: nothing")
        assert 0 == command.end()
    assert 2 * len(expected) == sum("may write it" in line for line in command.lines)


def test_a_folder_that_others_can_write_is_worth_a_warning(users_file):
    """Other users could replace the file there, unless the folder is sticky."""
    folder = os.path.dirname(str(users_file))
    for mode, count in ((0o777, 1), (0o1777, 0), (0o755, 0)):
        os.chmod(folder, mode)
        err = run_command("check", "--users-file", str(users_file))[2]
        assert count == err.count("clients, and others may put another file in its place: chmod")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="gives a file away")
def test_a_file_of_another_user_is_worth_a_warning(users_file):
    """Its owner may write it; a file of root is as good as one of this user."""
    for uid, count in ((4242, 1), (0, 0)):
        os.chown(str(users_file), uid, -1)
        err = run_command("check", "--users-file", str(users_file))[2]
        assert count == err.count("decides about clients, and user 4242 may write it")


def test_other_files_that_all_can_write_are_worth_a_warning(tmp_path):
    """Settings and lists of rules, too; their group may be one that only the owner is in."""
    settings, names = tmp_path / "ini", tmp_path / "names"
    names.write_text("example.org\n")
    settings.write_text("[rules]\ndeny to @%s\nallow\n" % names)
    for mode, count in ((0o664, 0), (0o666, 2)):
        for path in (settings, names):
            path.chmod(mode)
        status, _, err = run_command("check", "-c", str(settings))
        assert 0 == status
        assert count == err.count("decides about clients, and others may write it: chmod go-w ")


class Clock:
    """A clock that is *seconds* further at each look."""

    def __init__(self, seconds):
        self.now, self.seconds = 0.0, seconds

    def __call__(self):
        self.now += self.seconds
        return self.now


def test_a_fraction_is_measured():
    """The time of a thousand iterations gives that of a million."""
    assert 2000.0 == hashing.seconds_for(1000000, Clock(2.0))
    assert pytest.approx(0.0002) == hashing.seconds_for(1, Clock(0.2))


@pytest.mark.parametrize(
    "seconds, expected",
    # 1000 iterations took so long.
    [(10.0, 10000), (0.06, 10000), (0.05, 10000)],
)
def test_a_slow_machine_hashes_less(seconds, expected):
    """The default is never below ten thousand iterations."""
    assert expected == hashing.default_iterations(Clock(seconds))


def test_default_is_half_a_second(monkeypatch):
    """It is rounded to thousands, and 600 000 at most."""
    for per_iteration, expected in ((2e-5, 25000), (3e-6, 167000), (1e-7, 600000), (1e-3, 10000)):
        monkeypatch.setattr(hashing, "seconds_for", lambda n, clock, each=per_iteration: each * n)
        assert expected == hashing.default_iterations()


def test_without_iterations_it_measures(monkeypatch, capfdbinary):
    """The hash has the measured number of iterations."""
    monkeypatch.setattr(hashing, "default_iterations", lambda: 1234)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"secret\n")))
    hashing.hash_password()

    assert capfdbinary.readouterr().out.startswith(b"$pbkdf2-sha256$1234$")


def test_closed_stdin_is_an_error():
    """A sentence on stderr and no traceback."""
    child = subprocess.run(
        ["sh", "-c", '"$0" -m minisocks hash-password <&-', sys.executable],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )

    assert (1, b"") == (child.returncode, child.stdout)
    assert child.stderr.startswith(b"minisocks: there is no password: ")
