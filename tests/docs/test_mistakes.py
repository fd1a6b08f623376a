"""Every mistake in the catalogue can be made, and gives the message of the catalogue.

``PYTHONPATH=.:tests python3 tests/docs/test_mistakes.py`` writes docs/troubleshooting.rst.
"""

import collections
import contextlib
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
from typing import NamedTuple

import pytest

import minisocks.net.lookup
import minisocks.net.resolver
import minisocks.server.acceptor
from kit import inside
from kit import namespace as net
from kit.bind_client import Waiting
from kit.elsewhere import HERE4
from kit.identd import identd, says_line, says_user
from kit.instance import Instance
from kit.starts import AT_THE_START, EXPLAINED, Mistake
from kit.support import (
    GREETING,
    REJECTED4,
    ROOT,
    UDP_ASSOCIATE,
    CommandLine,
    FakeTarget,
    Talk,
    black_hole,
    closed_port,
    log_kept,
    password_message,
    run_proxy,
    socks4,
    socks5,
    wait_until,
)
from kit.symptoms import AT_THE_CLIENT, CATALOGUE, IN_THE_LOG
from kit.udp_client import udp_socket
from minisocks.net.resolver import MAX_THREADS, Resolver
from minisocks.service.mistakes import advice
from minisocks.service.pidfile import Pidfile
from minisocks.wire import Rep

DOCUMENT = os.path.join(ROOT, "docs", "troubleshooting.rst")

USER = ("ann:secret",)
ASSOCIATE = socks5("0.0.0.0", 0, cmd=UDP_ASSOCIATE)

#: By name of the mistake: a function that makes it.  It gets a ``Stage`` and
#: returns what was said and the REP that a client heard.
PROVOCATIONS = {}


def makes(name):
    """Enter a provocation."""

    def enter(function):
        assert name not in PROVOCATIONS
        PROVOCATIONS[name] = function
        return function

    return enter


class Stage:
    """What a provocation may need."""

    def __init__(self, request, tmp_path, monkeypatch, log):
        self.request = request
        self.tmp_path = tmp_path
        self.monkeypatch = monkeypatch
        self.log = log

    @property
    def network(self):
        """The namespace with addresses of every kind; skips where there is none."""
        network = self.request.getfixturevalue("network")
        network.refusals()
        return network

    def start(self, *args, status=2, env=None, prefix=(), python=(sys.executable, "-W", "error")):
        """Start the command line, which fails; return the line that it says."""
        done = subprocess.run(
            list(prefix) + list(python) + ["-m", "minisocks"] + list(args),
            cwd=str(self.tmp_path),
            env=dict(dict(os.environ, PYTHONPATH=ROOT), **(env or {})),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=60,
        )
        assert status == done.returncode, done.stderr
        (line,) = done.stderr.splitlines()
        assert "secret" not in line
        return line

    def start_with_file(self, text, *args, **kwargs):
        """The same with a file of settings."""
        path = self.tmp_path / "minisocks.ini"
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
        path.chmod(0o600)
        return self.start("-c", str(path), *args, **kwargs)


@pytest.fixture
def log():
    """All that the server logs, as long as the test runs."""
    with log_kept("minisocks") as kept:
        yield kept


@pytest.fixture
def stage(request, tmp_path, monkeypatch, log):
    return Stage(request, tmp_path, monkeypatch, log)


@pytest.mark.pages
@pytest.mark.parametrize("mistake", CATALOGUE, ids=lambda mistake: mistake.name)
def test_the_mistake_gives_the_message_of_the_catalogue(stage, mistake):
    """This mistake gives the message of the catalogue, with its advice at the end."""
    seen, reply = PROVOCATIONS[mistake.name](stage)

    hint = "; " + mistake.hint if mistake.hint else ""
    assert re.compile(mistake.pattern.pattern + re.escape(hint), re.S).fullmatch(seen), seen
    assert mistake.reply == reply


def test_every_mistake_is_made_by_a_test():
    """Each mistake of the catalogue has a test that makes it, and each test is in the catalogue."""
    assert [mistake.name for mistake in CATALOGUE] == list(
        collections.OrderedDict.fromkeys(mistake.name for mistake in CATALOGUE)
    )
    assert sorted(PROVOCATIONS) == sorted(mistake.name for mistake in CATALOGUE)


@pytest.mark.parametrize("mistake", CATALOGUE, ids=lambda mistake: mistake.name)
def test_texts_can_be_read(mistake):
    """Sentences end, clauses do not; names are short, lines are lines."""
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", mistake.name)
    assert mistake.where in (AT_THE_START, IN_THE_LOG, AT_THE_CLIENT)
    assert bool(mistake.why) == bool(mistake.do)
    for text in filter(None, (mistake.why, mistake.do)):
        assert re.fullmatch(r"(minisocks|[A-Z`]).*\.", text)
        assert 0 == text.count("``") % 2
    assert re.fullmatch(r"([^.A-Z].*[^.])?", mistake.hint)
    assert len(mistake.hint) < 90
    assert not any("\n" in text for text in mistake[:-1])


def test_each_start_has_its_own_advice():
    """The advice for what an entry shows is its own, also where a broader one fits, too."""
    for mistake in EXPLAINED:
        assert mistake.hint
        assert mistake.hint == advice(mistake.seen[len("minisocks: ") :])


@pytest.mark.parametrize(
    "sentence, name",
    [
        # musl, on routers
        ("cannot listen on 127.0.0.1:1080: Address in use", "port-taken"),
        ("cannot listen on 192.0.2.1:1080: Address not available", "address-not-ours"),
        ("cannot listen on [::1]:1080: Address not available", "no-ipv6"),
        ("cannot listen on nobody:1080: Name does not resolve", "listen-name-unknown"),
        ("cannot listen on nobody:1080: Try again", "listen-name-unknown"),
        ("No file descriptors available", "too-few-descriptors-to-start"),
        # BSD
        ("cannot listen on 192.0.2.1:1080: Can't assign requested address", "address-not-ours"),
        # glibc
        ("cannot listen on [::1]:1080: Address family not supported by protocol", "no-ipv6"),
        (
            "cannot listen on nobody:1080: Temporary failure in name resolution",
            "listen-name-unknown",
        ),
        ("cannot listen on [::1]:80: Permission denied", "privileged-port"),
    ],
)
def test_advice_in_the_words_of_other_systems(sentence, name):
    """The advice is the same wherever the C library says the same thing in other words."""
    (hint,) = [mistake.hint for mistake in EXPLAINED if mistake.name == name]

    assert hint == advice(sentence)


@pytest.mark.parametrize("sentence", ["", "x", "No space left on device", "a\nb", "it; it"])
def test_no_advice_for_what_is_not_in_the_catalogue(sentence):
    """Nothing is made up."""
    assert "" == advice(sentence)


def test_a_start_that_succeeds_does_without_the_catalogue():
    """Its texts cost a small machine nothing before something has failed."""
    code = (
        "import sys\n"
        "from minisocks.cli import main\n"
        "assert main(['check']) == 0\n"
        "print([n for n in ('mistakes',) if 'minisocks.service.' + n in sys.modules])\n"
        "assert main(['-c', '/nonexistent']) == 2\n"
        "print([n for n in ('mistakes',) if 'minisocks.service.' + n in sys.modules])\n"
    )
    out = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)

    lines = out.decode("ascii").splitlines()
    assert "[]" in lines
    assert "['mistakes']" == lines[-1]


def test_a_file_that_is_not_found_is_to_be_named_whole():
    """The hint says of what the path is."""
    hint = advice("--config: cannot read x.ini: No such file or directory")

    assert "name the file with its whole path, from /" == hint


def test_without_the_catalogue_the_sentence_is_said_all_the_same(monkeypatch, capsys):
    """Where not even a module can be loaded, the message comes without advice."""
    from minisocks import cli

    monkeypatch.setitem(sys.modules, "minisocks.service.mistakes", None)

    assert 2 == cli.main(["-c", "/nonexistent"])
    assert "minisocks: --config: cannot read /nonexistent: No such file or directory\n" == (
        capsys.readouterr().err
    )


# At the start: words of the command line, exit status 2.


def enter_words():
    for name, words in {
        "config-file-missing": ["-c", "no-such.ini"],
        "config-file-is-a-directory": ["-c", "."],
        "out-of-range": ["--grace", "-1"],
        "no-number": ["--grace", "10s"],
        "family-unknown": ["--prefer", "ipv5"],
        "source-is-no-address": ["--source", "eth0"],
        "sources-of-one-family": ["--source", "10.0.0.1", "--source", "10.0.0.2"],
        "option-unknown": ["--listn", "1080"],
        "option-without-value": ["-l"],
        "flag-with-value": ["--open=yes"],
        "listen-address-misspelled": ["-l", "127.0.0.1"],
        "ipv6-without-brackets": ["-l", "::1:1080"],
        "command-behind-options": ["-l", "1080", "check"],
        "port-without-option": ["1080"],
        "user-without-colon": ["--user", "secret"],
    }.items():
        makes(name)(lambda stage, words=words: (stage.start(*words), None))
    for name, text in {
        "config-file-is-no-text": "[minisocks]\ngrace = 1\n".encode("utf-16"),
        "key-unknown": "[minisocks]\nlistem = 1080\n",
        "key-made-up": "[minisocks]\nxyzzy = 1080\n",
        "key-twice": "[minisocks]\nuser = ann:secret\nuser = bob:secret\n",
        "line-without-equals-sign": "[minisocks]\nann:secret\n",
        "section-missing": "user = ann:secret\n",
        "section-unknown": "[proxy]\ngrace = 1\n",
        "comment-behind-a-value": "[minisocks]\ngrace = 10 # seconds\n",
        "neither-yes-nor-no": "[minisocks]\nopen = maybe\n",
    }.items():
        makes(name)(lambda stage, text=text: (stage.start_with_file(text), None))


enter_words()


@pytest.mark.pages
@pytest.mark.parametrize(
    "words, name",
    [
        (["--listn=1"], "option-unknown"),
        (["-Z"], "option-unknown"),
        (["--user"], "option-without-value"),
        (["-l", "70000"], "listen-address-misspelled"),
        (["-l", "localhost"], "listen-address-misspelled"),
        (["--max-handshakes", "many"], "no-number"),
        (["--user", "ann:"], "user-without-colon"),
    ],
)
def test_other_forms_of_the_same_mistake(stage, words, name):
    """They are one line, too, and the one that the catalogue shows."""
    line = stage.start(*words)

    assert next(m for m in CATALOGUE if m.name == name).pattern.fullmatch(line)


@pytest.mark.pages
@pytest.mark.parametrize(
    "text, hint",
    [
        ("[minisocks]\nlisten = 1080 # here\n", "write the comment on a line of its own"),
        ("[minisocks]\nopen = yes # yes\n", "write the comment on a line of its own"),
        ("[minisocks]\ngrace = 1\ngrace = 2\n", "grace is there twice"),
        ("[minisock]\ngrace = 1\n", "did you mean minisocks?"),
        ("[minisocks]\n\0\n", "save it as such in your editor"),
    ],
)
def test_the_line_about_a_file_ends_with_what_to_do(stage, text, hint):
    """The end of the line says what to do."""
    assert stage.start_with_file(text).endswith(hint)


@makes("egress-not-permitted")
def _(stage):
    return stage.start("-l", "0", "--mark", "5", status=1, prefix=unprivileged()), None


@makes("egress-of-other-systems")
def _(stage):
    # As on a system whose Python does not know it.
    (stage.tmp_path / "sitecustomize.py").write_text("import socket\ndel socket.SO_MARK\n")
    env = {"PYTHONPATH": os.pathsep.join((str(stage.tmp_path), ROOT))}
    return stage.start("-l", "0", "--mark", "5", status=1, env=env), None


@contextlib.contextmanager
def pidfile_held(stage):
    """A pidfile that a process has locked."""
    pidfile = Pidfile(str(stage.tmp_path / "m.pid"))
    assert pidfile.acquire()
    pidfile.write()
    try:
        yield pidfile.path
    finally:
        pidfile.release()


@makes("already-running")
def _(stage):
    with pidfile_held(stage) as path:
        return stage.start("-l", "0", "--pidfile", path, status=1), None


@makes("not-running")
def _(stage):
    return stage.start("status", "--pidfile", str(stage.tmp_path / "m.pid"), status=3), None


@makes("pidfile-of-another-user")
def _(stage):
    prefix = unprivileged()
    stage.tmp_path.chmod(0o755)
    path = str(stage.tmp_path / "m.pid")
    with open(path, "w"):
        pass
    os.chmod(path, 0)
    return stage.start("status", "--pidfile", path, status=1, prefix=prefix), None


@makes("pidfile-directory-missing")
def _(stage):
    return stage.start("-l", "0", "--pidfile", "/no/such/pid", status=1), None


@makes("pidfile-is-a-directory")
def _(stage):
    return stage.start("-l", "0", "--pidfile", "/etc", status=1), None


@makes("pidfile-not-permitted")
def _(stage):
    prefix = unprivileged()
    os.mkdir(str(stage.tmp_path / "d"), 0)
    return stage.start("-l", "0", "--pidfile", "d/m.pid", status=1, prefix=prefix), None


@makes("cannot-be-spoken-to")
def _(stage):
    with pidfile_held(stage) as path:
        return stage.start("status", "--pidfile", path, status=1), None


@makes("log-file-not-writable")
def _(stage):
    return stage.start("-l", "0", "--log-file", "/no/such/log"), None


@makes("log-file-is-a-socket")
def _(stage):
    with socket.socket(socket.AF_UNIX) as journal:
        journal.bind(str(stage.tmp_path / "journal"))
        return stage.start("-l", "0", "--log-file", "journal"), None


@makes("log-file-without-reader")
def _(stage):
    os.mkfifo(str(stage.tmp_path / "pipe"))
    return stage.start("-l", "0", "--log-file", "pipe"), None


def test_stdout_that_is_a_socket_is_named_as_one():
    """In a service of systemd /dev/stdout may be a socket, which cannot be opened."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run(
            [sys.executable, "-m", "minisocks", "-l", "0", "--log-file", "/dev/stdout"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=ours,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=60,
        )

    assert 2 == done.returncode
    assert "cannot write /dev/stdout: it is a socket; leave --log-file out" in done.stderr


@makes("port-0-without-pidfile")
def _(stage):
    return stage.start("-l", "0", "--daemon", status=1), None


@makes("pidfile-of-others")
def _(stage):
    path = stage.tmp_path / "m.pid"
    path.write_text("")
    path.chmod(0o666)
    return stage.start("-l", "0", "--pidfile", str(path), status=1), None


def first_line(stage, *args, code="pass"):
    """Start the command line, which serves; return its first line, and end it."""
    program = [sys.executable, "-c", code + "; from minisocks.cli import main; main()"]
    with CommandLine(*args, program=program, wait=False) as command:
        command.wait_for_line("try it:")
        assert 0 == command.end()
        return command.lines[0]


@makes("no-place-for-a-pidfile")
def _(stage):
    # As for a user who has neither.
    code = "import os; os.geteuid = lambda: 1000; " + inside.NO_PIDFILE_DIRECTORIES
    return sabotaged(stage, code, "-l", "1080", "--daemon"), None


@makes("no-default-pidfile")
def _(stage):
    code = "import minisocks.service.pidfile as p; p.default_path = lambda address: '/no/such/p'"
    return first_line(stage, "-l", str(closed_port()), code=code), None


@makes("log-is-lost")
def _(stage):
    return first_line(stage, "-l", "0", "--syslog=/no/such"), None


@contextlib.contextmanager
def instance_of(stage):
    """A minisocks in the background."""
    instance = Instance(stage.tmp_path)
    assert 0 == instance.start("--ensure")[0]
    try:
        yield instance
    finally:
        instance.end()


def logged(instance, part):
    """Return the line of its log that has *part*, without time and name."""
    instance.wait_for_line(part)
    line = next(line for line in instance.log().splitlines() if part in line)
    return line.partition(": ")[2]


@makes("not-reloaded")
def _(stage):
    with instance_of(stage) as instance:
        instance.configure("grace = soon")
        assert 1 == instance.command("reload")[0]
        return logged(instance, "not reloaded"), None


@makes("needs-a-restart")
def _(stage):
    with instance_of(stage) as instance:
        instance.configure("daemon = yes")
        assert 0 == instance.command("reload")[0]
        return logged(instance, "needs a restart"), None


#: The command line, where stderr takes nothing the first time.
FULL_AT_FIRST = """
import minisocks.service.outputs, minisocks.service.logs
minisocks.service.logs.EDGE_SECONDS = 0
class Full(minisocks.service.outputs.Stderr):
    tries = 0
    def write(self, lines):
        self.tries += 1
        return super().write(lines) if self.tries > 1 else "No space left on device"
minisocks.service.logs.Stderr = Full
from minisocks.cli import main
main()
"""


@makes("lines-are-lost")
def _(stage):
    program = [sys.executable, "-c", FULL_AT_FIRST]
    with CommandLine("-l", "0", "-v", program=program) as command:
        for _number in range(2):
            Talk.to(command.ports[0]).close()
            threading.Event().wait(0.1)  # what comes together is lost together
        line = command.wait_for_line("of the log are lost")
        assert 0 == command.end()
    return line.partition(": ")[2], None


@makes("repeats-are-not-shown")
def _(stage):
    with instance_of(stage) as instance:
        port = closed_port()
        for _number in range(15):
            with Talk.to(instance.port) as talk:
                talk.connect5("127.0.0.1", port)
        assert 0 == instance.command("stop")[0]
        return logged(instance, "last message"), None


@makes("egress-not-up")
def _(stage):
    with run_proxy(source=("192.0.2.1",)) as proxy, Talk.to(proxy.port) as talk:
        reply = talk.connect5("127.0.0.1", closed_port())[0]
    return stage.log.wait_for("connections fail until this works"), reply


@makes("no-source-of-this-family")
def _(stage):
    with run_proxy(source=("127.0.0.1",)) as proxy, Talk.to(proxy.port) as talk:
        reply = talk.connect5("::1", closed_port("::1"))[0]
    return stage.log.wait_for("end=refused"), reply


def first_said(stage, *args, status):
    """Return the first line of several."""
    done = subprocess.run(
        [sys.executable, "-m", "minisocks", *args],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
    )
    assert status == done.returncode
    return done.stderr.splitlines()[0]


@makes("rule-not-understood")
def _(stage):
    return first_said(stage, "--rule", "allow fron 10.0.0.0/8", status=2), None


@makes("network-not-understood")
def _(stage):
    return first_said(stage, "--rule", "allow from 10.0.0.0/255.0.0.0", status=2), None


@makes("name-in-from")
def _(stage):
    return first_said(stage, "--rule", "allow from laptop.lan", status=2), None


@makes("no-rule-allows-anything")
def _(stage):
    return first_said(stage, "check", "--rule", "deny", status=0), None


@makes("no-rule-allows-users")
def _(stage):
    args = ("--user", "ann:secret", "--rule", "allow from 192.168.1.0/24 user none")
    return first_said(stage, "check", *args, status=0), None


@makes("rule-wants-users")
def _(stage):
    return first_said(stage, "check", "--rule", "allow user ann", status=0), None


@makes("users-without-hash")
def _(stage):
    (stage.tmp_path / "users").write_text("ann:secret\n")
    (stage.tmp_path / "users").chmod(0o600)
    return stage.start("--users-file", "users"), None


@makes("users-of-the-system")
def _(stage):
    return stage.start("--users-file", "/etc/passwd"), None


@makes("open-with-users")
def _(stage):
    return stage.start("check", "--open", "--user", "ann:secret", status=0), None


@makes("listens-by-ipv6-only")
def _(stage):
    return stage.start("check", "-l", "[::]:1080", status=0), None


@makes("listens-twice")
def _(stage):
    port = str(closed_port())
    return stage.start("-l", port, "-l", ":" + port, status=1), None


@pytest.mark.parametrize(
    "first, second",
    [("localhost:%d", "%d"), ("0.0.0.0:%d", "127.0.0.1:%d"), ("127.0.0.1:%d", "0.0.0.0:%d")],
)
def test_listening_twice_is_no_other_program(stage, first, second):
    """The message is the same whichever of the two comes first, and by whatever name."""
    port = closed_port()

    line = stage.start("-l", first % port, "-l", second % port, status=1)

    assert next(m for m in CATALOGUE if m.name == "listens-twice").pattern.fullmatch(line)
    assert "ss -ltnp" not in line


def test_listening_twice_on_one_unix_socket(stage):
    """Two paths of one socket file are the same listener."""
    line = stage.start("-l", "unix:s", "-l", "unix:./s", status=1)

    assert "cannot listen on unix:./s: this minisocks listens on unix:s already" in line


@makes("hashes-readable-by-others")
def _(stage):
    (stage.tmp_path / "users").write_text("")
    (stage.tmp_path / "users").chmod(0o644)
    return stage.start("check", "--users-file", "users", status=0), None


@makes("file-writable-by-others")
def _(stage):
    (stage.tmp_path / "users").write_text("")
    (stage.tmp_path / "users").chmod(0o660)
    return stage.start("check", "--users-file", "users", status=0), None


@makes("client-has-too-many-connections")
def _(stage):
    with FakeTarget() as target, run_proxy(max_per_client=2) as proxy:
        with contextlib.ExitStack() as stack:
            first, second, third = (stack.enter_context(Talk.to(proxy.port)) for _ in range(3))
            assert 0 == first.connect5("127.0.0.1", target.port)[0]
            assert 0 == second.connect5("127.0.0.1", target.port)[0]
            reply = third.connect5("127.0.0.1", target.port)[0]
            return stage.log.wait_for("end=limit"), reply


@makes("idle-for-too-long")
def _(stage):
    with FakeTarget() as target, run_proxy(idle_timeout=1.0) as proxy:
        with Talk.to(proxy.port) as talk:
            assert 0 == talk.connect5("127.0.0.1", target.port)[0]
            return stage.log.wait_for("end=idle"), None


@makes("ended-for-memory")
def _(stage):
    with FakeTarget() as target, run_proxy(memory_limit=1 << 20) as proxy:
        talks = [Talk.to(proxy.port) for _ in range(80)]
        for talk in talks:
            assert 0 == talk.connect5("127.0.0.1", target.port)[0]
        # The target sends back what it gets, and the client does not read it.
        senders = [threading.Thread(target=_pour, args=(talk.sock,)) for talk in talks]
        for sender in senders:
            sender.start()
        line = stage.log.wait_for("end=memory-limit")
        for talk in talks:
            talk.close()
        for sender in senders:
            sender.join()
        return line, None


def _pour(sock):
    """Send until the peer takes no more."""
    try:
        while True:
            sock.sendall(bytes(1 << 16))
    except OSError:
        pass


@makes("guesses-passwords")
def _(stage):
    with run_proxy(user=("ann:right",)) as proxy:
        for _number in range(3):
            with Talk.to(proxy.port) as talk:
                talk.send(b"\x05\x01\x02" + password_message(b"ann", b"wrong"))
                talk.expect(b"\x05\x02\x01\x01")
    return stage.log.wait_for("has failed to log in"), None


@makes("denied-by-a-rule")
def _(stage):
    rules = ("deny port 25", "allow from loopback")
    return refused(stage, socks5("127.0.0.1", 25), rule=rules)


@makes("no-rule-allows-it")
def _(stage):
    return refused(stage, socks5("127.0.0.1", 25), rule=("allow port 443",))


@makes("variable-misspelled")
def _(stage):
    return stage.start(env={"MINISOCKS_LISTN": "1080"}), None


@makes("variable-made-up")
def _(stage):
    return stage.start("check", status=0, env={"MINISOCKS_XYZZY": "1"}), None


@makes("passwords-readable-by-others")
def _(stage):
    path = stage.tmp_path / "open.ini"
    path.write_text("[minisocks]\nuser = ann:secret\n")
    path.chmod(0o644)
    return stage.start("check", "-c", str(path), status=0), None


# At the start: what the system does not let us have.


def unprivileged():
    """A prefix that makes the command one without privileges, not even root's.

    Its files still are its own.  The network is one without an address, in which
    the bound of privileged ports was not lowered.
    """
    prefix = ["unshare", "-U", "-n"]
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here")
    made = subprocess.run(prefix + ["true"], stderr=subprocess.PIPE, universal_newlines=True)
    if made.returncode:
        pytest.skip("no user namespace: %s" % made.stderr.strip())
    return prefix


def without(*limits):
    """A prefix that sets limits, as ulimit takes them."""
    return ["sh", "-c", 'ulimit %s && exec "$@"' % " ".join(limits), "sh"]


@makes("port-taken")
def _(stage):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        return stage.start("-l", str(other.getsockname()[1]), status=1), None


@makes("already-listening")
def _(stage):
    port = str(closed_port())
    with CommandLine("-l", port):
        return stage.start("-l", port, status=1), None


@makes("privileged-port")
def _(stage):
    return stage.start("-l", "80", status=1, prefix=unprivileged()), None


@makes("address-not-ours")
def _(stage):
    return stage.start("-l", "192.0.2.77:1080", status=1), None


@makes("no-ipv6")
def _(stage):
    return stage.start("-l", "[::1]:1080", status=1, prefix=unprivileged()), None


@makes("listen-name-unknown")
def _(stage):
    return stage.start("-l", "no..such..name:1080", status=1), None


@makes("socket-path-too-long")
def _(stage):
    return stage.start("-l", "unix:" + "x" * 200, status=1), None


@makes("socket-directory-missing")
def _(stage):
    return stage.start("-l", "unix:none/socket", status=1), None


@makes("socket-not-permitted")
def _(stage):
    (stage.tmp_path / "closed").mkdir()
    (stage.tmp_path / "closed").chmod(0o500)
    return stage.start("-l", "unix:closed/socket", status=1, prefix=unprivileged()), None


@makes("socket-path-is-a-file")
def _(stage):
    (stage.tmp_path / "precious").write_text("x")
    return stage.start("-l", "unix:precious", status=1), None


@makes("socket-in-use")
def _(stage):
    with run_proxy(listen=("unix:%s" % (stage.tmp_path / "socket"),)):
        return stage.start("-l", "unix:socket", status=1), None


@makes("config-file-unreadable")
def _(stage):
    (stage.tmp_path / "closed.ini").write_text("[minisocks]\n")
    (stage.tmp_path / "closed.ini").chmod(0)
    return stage.start("-c", "closed.ini", prefix=unprivileged()), None


@makes("link-local-without-interface")
def _(stage):
    return stage.start("-l", "[fe80::1]:1080", status=1), None


@makes("click-missing")
def _(stage):
    # click is where "site" would look for it.
    return stage.start(status=1, python=[sys.executable, "-S"]), None


@makes("module-missing")
def _(stage):
    (stage.tmp_path / "logging.py").write_text("raise ImportError(\"No module named 'logging'\")")
    return sabotaged(stage, ""), None


def sabotaged(stage, code, *args):
    """Start with *code* run before all else."""
    (stage.tmp_path / "sitecustomize.py").write_text(code)
    path = os.pathsep.join([str(stage.tmp_path), ROOT])
    return stage.start(*(args or ("-l", "0")), status=1, env={"PYTHONPATH": path})


NO_MEMORY = """
def no_memory(*args):
    raise MemoryError
"""


@makes("too-little-memory")
def _(stage):
    return sabotaged(stage, NO_MEMORY + "import socket; socket.socket.listen = no_memory"), None


def test_too_little_memory_to_import_is_one_line(stage):
    """On a machine that cannot even load all of it, there is no traceback."""
    (stage.tmp_path / "click.py").write_text(NO_MEMORY + "no_memory()")

    assert "minisocks: not enough memory" == sabotaged(stage, "")


@makes("too-few-descriptors-to-start")
def _(stage):
    return stage.start("-l", "0", status=1, prefix=without("-n", "8")), None


@makes("no-thread-to-start")
def _(stage):
    code = 'raise RuntimeError("can\'t start new thread")'
    return sabotaged(
        stage, "import threading\ndef start(self): %s\nthreading.Thread.start = start" % code
    ), None


# In the log


def ask(talk, request):
    """Send *request* to a proxy that wants no password; return the REP of a refusal."""
    talk.send(GREETING).expect(b"\x05\x00").send(request)
    rep, host, port = talk.receive_reply5()
    assert ("0.0.0.0", 0) == (host, port)
    talk.expect_eof()
    return rep


def refused(stage, request, resolver=None, **settings):
    """Ask for what cannot be had; return the line in the log, and the REP."""
    with run_proxy(resolver=resolver, **settings) as proxy, Talk.to(proxy.port) as talk:
        rep = ask(talk, request)
    return stage.log.wait_for("end=refused"), rep


def said(stage, message, answer, **settings):
    """Say *message*, hear *answer* and the end; return the line in the log."""
    with run_proxy(**settings) as proxy, Talk.to(proxy.port) as talk:
        talk.send(message).expect(answer).expect_eof()
    return stage.log.wait_for("end="), None


def refused_from(stage, source, request, **settings):
    """Ask as a client with the address *source*; return the line in the log, and the REP."""
    network = stage.network
    with Talk(network.connect(source, network.proxy(**settings))) as talk:
        rep = ask(talk, request)
    (line,) = network.refusals()
    return line, rep


@makes("client-not-allowed")
def _(stage):
    return refused_from(stage, net.PRIVATE4, socks5(net.PUBLIC4, 80))


@makes("this-host-refused")
def _(stage):
    return refused_from(stage, net.PRIVATE4, socks5("127.0.0.1", 80), allow_lan=True)


@makes("own-address-refused")
def _(stage):
    return refused_from(stage, net.PRIVATE4, socks5(HERE4, 80), allow_lan=True)


@makes("proxy-itself-refused")
def _(stage):
    return refused_from(stage, net.LOOPBACK4, socks5(HERE4, stage.network.proxy()))


@makes("private-network-refused")
def _(stage):
    return refused_from(stage, net.PUBLIC4, socks5(net.PRIVATE4, 80), open=True)


@makes("network-unreachable")
def _(stage):
    return refused_from(stage, net.LOOPBACK4, socks5(net.NO_NETWORK4, 80))


@makes("host-unreachable")
def _(stage):
    return refused_from(stage, net.LOOPBACK4, socks5(net.NO_HOST4, 80))


@makes("name-servers-unreachable")
def _(stage):
    # No route leads to a name server there, unless the system asks in another way.
    asked = subprocess.run(
        unprivileged()
        + [sys.executable, "-c", "import socket; socket.getaddrinfo('example.org', 80)"],
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    if "Temporary failure" not in asked.stderr:
        pytest.skip("names are resolved without a network: %s" % asked.stderr)
    return refused_from(stage, net.LOOPBACK4, socks5(b"example.org", 80))


@makes("wrong-password")
def _(stage):
    message = b"\x05\x01\x02" + password_message(b"ann", b"wrong")
    return said(stage, message, b"\x05\x02\x01\x01", user=USER)


@makes("client-without-password")
def _(stage):
    return said(stage, GREETING, b"\x05\xff", user=USER)


@makes("socks4-where-a-password-is-needed")
def _(stage):
    return said(stage, socks4("127.0.0.1", 80, b"ann"), REJECTED4, user=USER)


NO_IDENTD4, MISMATCH4 = b"\x00\x5c" + bytes(6), b"\x00\x5d" + bytes(6)
AS_ANN = socks4("127.0.0.1", 80, b"ann")


@makes("no-identd")
def _(stage):
    stage.monkeypatch.setattr("minisocks.server.ident.IDENT_PORT", closed_port())
    return said(stage, AS_ANN, NO_IDENTD4, ident=True)


@makes("identd-does-not-answer")
def _(stage):
    stage.monkeypatch.setattr("minisocks.server.ident.SECONDS", 0.1)
    with identd(stage.monkeypatch, lambda talk, *ports: talk.rest()):
        return said(stage, AS_ANN, NO_IDENTD4, ident=True)


@makes("another-user-by-ident")
def _(stage):
    with identd(stage.monkeypatch, says_user(b"bob")):
        return said(stage, AS_ANN, MISMATCH4, ident=True)


@makes("identd-names-no-user")
def _(stage):
    with identd(stage.monkeypatch, says_line(b"%d , %d : ERROR : HIDDEN-USER\r\n")):
        return said(stage, AS_ANN, MISMATCH4, ident=True)


@makes("ident-where-a-password-is-needed")
def _(stage):
    with identd(stage.monkeypatch, says_user(b"ann")):
        return said(stage, AS_ANN, REJECTED4, ident=True, user=USER, rule=("allow user ann",))


@makes("name-unknown")
def _(stage):
    # No name server is asked about this one.
    return refused(stage, socks5(b"no..such..name", 80))


@makes("name-of-the-other-family")
def _(stage):
    def getaddrinfo(*args):
        # As the C library says it, on a host and of a name that a test machine may not have.
        raise socket.gaierror(-5, "No address associated with hostname")

    inside.set_no_data_error(stage.monkeypatch, -5)
    inside.replace_getaddrinfo(stage.monkeypatch, getaddrinfo)
    stage.monkeypatch.setattr(minisocks.net.lookup, "only_family", lambda: int(socket.AF_INET))
    return refused(stage, socks5(b"ipv6-only.test", 80))


@contextlib.contextmanager
def hanging():
    """A name server that does not answer; yields what asks it, and the names it was asked for."""
    go_on, asked = threading.Event(), []

    def getaddrinfo(name, *args):
        asked.append(name)
        go_on.wait()
        raise socket.gaierror(socket.EAI_AGAIN, "too late")

    try:
        yield Resolver(getaddrinfo), asked
    finally:
        go_on.set()


@makes("name-not-resolved-in-time")
def _(stage):
    with hanging() as (resolver, _asked):
        return refused(stage, socks5(b"slow.test", 80), resolver, connect_timeout=0.1)


@makes("resolver-stuck")
def _(stage):
    with hanging() as (resolver, asked), contextlib.ExitStack() as stack:
        proxy = stack.enter_context(run_proxy(resolver))
        for _number in range(MAX_THREADS):
            talk = stack.enter_context(Talk.to(proxy.port))
            talk.send(GREETING + socks5(b"slow.test", 80))
        wait_until(lambda: len(asked) == MAX_THREADS)
        stage.monkeypatch.setattr(minisocks.net.resolver, "STUCK_SECONDS", 0.0)
        rep = ask(stack.enter_context(Talk.to(proxy.port)), socks5(b"one-more.test", 80))
        return stage.log.wait_for("end=refused"), rep


@makes("target-refuses")
def _(stage):
    return refused(stage, socks5("127.0.0.1", closed_port()))


@makes("target-silent")
def _(stage):
    with black_hole() as port:
        return refused(stage, socks5("127.0.0.1", port), connect_timeout=0.1)


@makes("bind-peer-stays-away")
def _(stage):
    with run_proxy(bind_timeout=0.1) as proxy, Waiting(proxy.port) as client:
        rep = client.reply()[0]
    return stage.log.wait_for("end=refused"), rep


@makes("bind-met-another-peer")
def _(stage):
    with run_proxy() as proxy, Waiting(proxy.port, "127.0.0.2", "4") as client:
        client.expect_stranger()
    return stage.log.wait_for("end=refused"), None


@makes("bind-ports-used-up")
def _(stage):
    port = closed_port()
    with run_proxy(bind_ports="%d-%d" % (port, port)) as proxy, Waiting(proxy.port):
        with Waiting(proxy.port) as client:
            rep = client.rep
        return stage.log.wait_for("end=limit"), rep


@makes("udp-without-an-address")
def _(stage):
    path = str(stage.tmp_path / "s")
    with run_proxy(listen="unix:" + path), socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        rep = ask(Talk(sock), ASSOCIATE)
    return stage.log.wait_for("end=refused"), rep


def one_too_many(stage, **settings):
    """Ask for a second association where one may be; return the line, and the REP."""
    with run_proxy(**settings) as proxy, Talk.to(proxy.port) as first:
        first.send(GREETING + ASSOCIATE).expect(b"\x05\x00")
        assert 0 == first.receive_reply5()[0]
        with Talk.to(proxy.port) as second:
            rep = ask(second, ASSOCIATE)
        return stage.log.wait_for("end=limit"), rep


@makes("udp-ports-used-up")
def _(stage):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    return one_too_many(stage, udp_ports="%d-%d" % (port, port))


@makes("associations-used-up")
def _(stage):
    return one_too_many(stage, max_associations=1)


@makes("udp-from-another-port")
def _(stage):
    with run_proxy() as proxy, Talk.to(proxy.port) as talk:
        talk.send(GREETING + socks5("0.0.0.0", 0, cmd=UDP_ASSOCIATE)).expect(b"\x05\x00")
        place = talk.receive_reply5()[1:]
        with udp_socket("127.0.0.1") as first, udp_socket("127.0.0.1") as second:
            for sock in (first, second):
                sock.sendto(b"\0\0\0\1\x7f\0\0\1\0\x09hello", place)
            wait_until(lambda: proxy.live[0].datagrams.drops)
    return stage.log.wait_for("drops="), None


@makes("udp-denied")
def _(stage):
    rules = ("deny to 127.0.0.1 port 9", "allow")
    with run_proxy(rule=rules) as proxy, Talk.to(proxy.port) as talk:
        talk.send(GREETING + ASSOCIATE).expect(b"\x05\x00")
        host, port = talk.receive_reply5()[1:]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"\0\0\0\1\x7f\0\0\1\0\x09hello", (host, port))
            wait_until(lambda: proxy.live[0].datagrams.drops)
    return stage.log.wait_for("drops="), None


@makes("tls-on-the-port")
def _(stage):
    return said(stage, b"\x16\x03\x01\x02\x00\x01", b"")


@makes("http-on-the-port")
def _(stage):
    with run_proxy() as proxy, Talk.to(proxy.port) as talk:
        assert talk.send(b"GET / HTTP/1.1\r\n\r\n").rest().startswith(b"HTTP/1.1 400 ")
    return stage.log.wait_for("end="), None


@makes("ssh-on-the-port")
def _(stage):
    return said(stage, b"SSH-2.0-OpenSSH_9.2\r\n", b"")


@makes("something-else-on-the-port")
def _(stage):
    return said(stage, b"\x03\x00\x00\x13", b"")


@makes("forwarder-sends-a-header")
def _(stage):
    return said(stage, b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 1080\r\n", b"")


@makes("client-too-slow")
def _(stage):
    return said(stage, b"\x05", b"\x05\xff", handshake_timeout=0.5)


@makes("too-many-handshakes")
def _(stage):
    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(run_proxy(max_handshakes=4))
        for _number in range(5):
            stack.enter_context(Talk.to(proxy.port)).send(b"\x05")
        return stage.log.wait_for("end=limit"), None


@makes("client-stopped-halfway")
def _(stage):
    with run_proxy() as proxy, Talk.to(proxy.port) as talk:
        talk.send(b"\x05\x02\x00").finish().rest()
    return stage.log.wait_for("end="), None


@makes("ended-by-the-proxy")
def _(stage):
    target = stage.request.getfixturevalue("target")
    with run_proxy() as proxy, Talk.to(proxy.port) as talk:
        assert 0 == talk.connect5("127.0.0.1", target.port)[0]
        proxy.stop()
    return stage.log.wait_for("end="), None


@contextlib.contextmanager
def no_descriptor():
    """While this lasts this process can have no further descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@makes("descriptors-used-up")
def _(stage):
    with run_proxy() as proxy, Talk(socket.socket()) as talk:
        with no_descriptor():
            talk.sock.connect(("127.0.0.1", proxy.port))
            line = stage.log.wait_for("at capacity")
        talk.send(GREETING).expect(b"\x05\x00")
    return line, None


@makes("no-descriptor-for-the-target")
def _(stage):
    with run_proxy() as proxy, Talk.to(proxy.port) as talk:
        talk.send(GREETING).expect(b"\x05\x00")
        with no_descriptor():
            talk.send(socks5("127.0.0.1", 80))
            rep = talk.receive_reply5()[0]
        talk.expect_eof()
    return stage.log.wait_for("end="), rep


@makes("threads-used-up")
def _(stage):
    def no_room(*args):
        raise RuntimeError("can't start new thread")

    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(run_proxy())
        stage.monkeypatch.setattr(minisocks.server.acceptor, "start_thread", no_room)
        stack.enter_context(Talk.to(proxy.port)).send(GREETING)
        return stage.log.wait_for("at capacity"), None


# At the client, which is curl


def curl(*args, prefix=()):
    """Run curl; return what it got or what it complained of."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    environ = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    done = subprocess.run(
        list(prefix) + ["curl", "-q", "-sS", "--max-time", "60"] + list(args),
        env=dict(environ, LC_ALL="C"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    return done.stderr.strip() or done.stdout


@makes("no-proxy-listens")
def _(stage):
    return curl("--proxy", "socks5h://127.0.0.1:%d" % closed_port(), "http://127.0.0.1:9/"), None


BY_ANN = "socks4://ann@127.0.0.1:%d"


@makes("curl-shows-92")
def _(stage):
    stage.monkeypatch.setattr("minisocks.server.ident.IDENT_PORT", closed_port())
    with run_proxy(ident=True) as proxy:
        return curl("--proxy", BY_ANN % proxy.port, "http://127.0.0.1:9/"), None


@makes("curl-shows-93")
def _(stage):
    with identd(stage.monkeypatch, says_user(b"bob")), run_proxy(ident=True) as proxy:
        return curl("--proxy", BY_ANN % proxy.port, "http://127.0.0.1:9/"), None


@makes("http-proxy-set-at-the-client")
def _(stage):
    with run_proxy() as proxy:
        page = curl("--proxy", "http://127.0.0.1:%d" % proxy.port, "http://name.test/")
    return page.splitlines()[0], None


@makes("client-resolves-names-itself")
def _(stage):
    path = str(stage.tmp_path / "socket")
    with run_proxy(listen=("unix:" + path,)):
        # A client without a network, but for this socket.
        proxy = "socks5://localhost" + path
        said = curl("--proxy", proxy, "http://name.test/", prefix=unprivileged())
    if "nsupported proxy" in said or "localhost" in said:
        pytest.skip("this curl cannot reach a SOCKS proxy by a unix socket: %s" % said)
    return said, None


# The document

_HEAD = """\
.. Made by "PYTHONPATH=.:tests python3 tests/docs/test_mistakes.py" from tests/kit/starts.py,
   tests/kit/slips.py and tests/kit/symptoms.py; what is changed here is lost.

Troubleshooting
===============

What can go wrong, by what you see.  Messages that say themselves what to do are not here.  Words
in capitals and "..." stand for what is different each time.  ``minisocks check`` shows the
settings in force and where each comes from; ``-v`` logs more.

.. contents:: In this document
   :depth: 2

"""


class Symptom(NamedTuple):
    """What the reader sees: a heading, what holds for all its mistakes, and their names."""

    heading: str
    introduction: str
    names: str


#: In the order of the document.
SYMPTOMS = (
    Symptom(
        "The start fails",
        "minisocks prints one line and ends, with exit status 2 for a mistake in the settings, and "
        "1 if the system refuses something. ``PLACE`` is an option, a variable or a file.",
        "privileged-port address-not-ours link-local-without-interface socket-directory-missing "
        "egress-not-permitted config-file-unreadable key-twice too-few-descriptors-to-start "
        "already-running pidfile-directory-missing click-missing too-little-memory",
    ),
    Symptom(
        "A warning at the start",
        "The proxy serves nevertheless.",
        "no-default-pidfile log-is-lost rule-wants-users",
    ),
    Symptom(
        "The client cannot reach the proxy, or shows an error",
        "Most programs do not repeat what the proxy answers. If yours says too little, run "
        "``curl --proxy socks5h://HOST:1080 http://example.org/``, and look into the log of the "
        "proxy.",
        "no-proxy-listens client-resolves-names-itself http-proxy-set-at-the-client "
        "curl-shows-92 curl-shows-93",
    ),
    Symptom(
        "The client is not accepted",
        "From here on the lines are from the log. It has a line for each connection, and its "
        "``why=`` says what went wrong; only its beginning and end are here. With ``--quiet`` "
        "connections that went well have no line, and with ``-qq`` none has: leave both out while "
        "you look for a mistake.",
        "client-not-allowed client-without-password wrong-password guesses-passwords "
        "socks4-where-a-password-is-needed no-identd identd-does-not-answer another-user-by-ident "
        "identd-names-no-user ident-where-a-password-is-needed",
    ),
    Symptom(
        "The client does not speak SOCKS",
        "",
        "http-on-the-port tls-on-the-port ssh-on-the-port something-else-on-the-port "
        "forwarder-sends-a-header client-stopped-halfway client-too-slow",
    ),
    Symptom(
        "The target is not allowed",
        "",
        "denied-by-a-rule no-rule-allows-it this-host-refused own-address-refused "
        "proxy-itself-refused private-network-refused",
    ),
    Symptom(
        "The name cannot be resolved",
        "",
        "name-unknown name-of-the-other-family name-servers-unreachable "
        "name-not-resolved-in-time resolver-stuck",
    ),
    Symptom(
        "The target cannot be reached",
        "",
        "target-refuses target-silent network-unreachable host-unreachable egress-not-up "
        "no-source-of-this-family",
    ),
    Symptom(
        "A connection ends, or there is no room for it",
        "",
        "client-has-too-many-connections idle-for-too-long ended-for-memory ended-by-the-proxy "
        "too-many-handshakes descriptors-used-up no-descriptor-for-the-target threads-used-up",
    ),
    Symptom(
        "BIND and UDP do not work",
        "",
        "bind-peer-stays-away bind-met-another-peer bind-ports-used-up udp-without-an-address "
        "udp-ports-used-up associations-used-up udp-from-another-port udp-denied",
    ),
    Symptom(
        "A reload changes nothing, or the log has gaps",
        "",
        "not-reloaded needs-a-restart lines-are-lost repeats-are-not-shown",
    ),
)

_NUMBERS = """\
Numbers that clients show
-------------------------

A refused SOCKS5 client gets one of these numbers (curl shows it in brackets).  A SOCKS4
client gets 91 for all of them; 92 and 93 are about ident (`No identd`_, `Another user by
ident`_).

"""


def filled(text, indent=""):
    """Return *text* in lines that fit."""
    # A space within a literal is no place to break: it would be a shell's line.
    kept = re.sub(r"``.*?``", lambda match: match.group().replace(" ", "\0"), text)
    lines = textwrap.fill(
        kept, 86, initial_indent=indent, subsequent_indent=indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return lines.replace("\0", " ") + "\n"


def title(mistake):
    """Return the heading of an entry: what its name says."""
    words = mistake.name.replace("-", " ")
    for plain, right in (
        ("ipv6", "IPv6"), ("tls", "TLS"), ("http", "HTTP"), ("ssh", "SSH"),
        ("socks4", "SOCKS4"), ("bind", "BIND"), ("udp", "UDP"),
    ):  # fmt: skip
        words = re.sub(r"\b%s\b" % plain, right, words)
    return words[0].upper() + words[1:]


def entry(mistake):
    """Return one mistake in reStructuredText."""
    seen = mistake.seen + ("; " + mistake.hint if mistake.hint else "")
    parts = [title(mistake), "~" * len(title(mistake)), "", "::", "", "    " + seen, ""]
    parts += [filled("%s **What to do:** %s" % (mistake.why, mistake.do))]
    return "\n".join(parts) + "\n"


def numbers():
    """Return the table of replies, and which mistakes lead to them."""
    rows = []
    for rep in Rep:
        names = [
            "`%s`_" % title(mistake)
            for mistake in CATALOGUE
            if mistake.reply == rep and mistake.why
        ]
        if names:
            rows.append("%d, %s\n%s" % (rep, rep.phrase, filled(", ".join(names), "    ")))
    return _NUMBERS + "\n".join(rows)


def document():
    """Return docs/troubleshooting.rst as it should be."""
    known = {mistake.name: mistake for mistake in CATALOGUE}
    parts = [_HEAD]
    for heading, introduction, names in SYMPTOMS:
        parts += ["%s\n%s\n\n" % (heading, "-" * len(heading))]
        parts += [filled(introduction) + "\n"] if introduction else []
        parts += [entry(known[name]) for name in names.split()]
    return "".join(parts) + numbers()


def test_every_mistake_that_needs_words_has_one_symptom():
    """Each that its message does not explain is in the document once."""
    named = [name for _, _, names in SYMPTOMS for name in names.split()]
    assert sorted(named) == sorted(mistake.name for mistake in CATALOGUE if mistake.why)


def test_the_document_is_not_stale():
    """docs/troubleshooting.rst is the one made from the catalogue."""
    with open(DOCUMENT, encoding="utf-8") as file:
        assert document() == file.read()


def test_a_pattern_takes_what_it_shows_and_nothing_else():
    """Placeholders stand for something, dots for anything; all else is meant literally."""
    mistake = Mistake("a-b", AT_THE_START, "x (PORT): NAME is ... [PATHS]", "", "")

    assert mistake.pattern.fullmatch("x (80): n is  [PATHS]")
    assert not mistake.pattern.fullmatch("x (): n is y [PATHS]")
    assert not mistake.pattern.fullmatch("x (80): n is y P")


if __name__ == "__main__":
    with open(DOCUMENT, "w", encoding="utf-8") as output:
        output.write(document())
