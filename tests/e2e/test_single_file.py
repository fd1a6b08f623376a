"""The single file: the same bytes each time, and all it needs is a Python."""

import glob
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import zipfile

import pytest

from kit.instance import Instance
from kit.light import light_environment
from kit.support import (
    OLDEST_CLICK,
    ROOT,
    TIMEOUT,
    CommandLine,
    FakeTarget,
    Talk,
    one_connection,
    password_message,
    run_command,
)
from minisocks.cli import COMMANDS

CURL = shutil.which("curl")
MAX_BYTES = 300 * 1000
NAME = "minisocks.pyz"

pytestmark = [
    pytest.mark.versions,
    pytest.mark.skipif(
        not os.path.isdir(OLDEST_CLICK),
        reason="no click 7.1 beside this environment; scripts/test makes one",
    ),
]

#: How it may be started, by what stands before its options.
WAYS = [
    ["./" + NAME],
    [sys.executable, NAME],
    [sys.executable, "-W", "error", "-bb", NAME],
    [sys.executable, "-S", "-E", NAME],
    [sys.executable, "-I", NAME],
    [sys.executable, "-I", "-S", "-OO", NAME],
]


def build(path, root=ROOT, python=sys.executable, umask="022", **environ):
    """Build the file from the checkout *root*."""
    script = os.path.join(root, "scripts", "single_file.py")
    subprocess.check_call(
        ["sh", "-c", 'umask "$0" && exec "$@"', umask, python, script, OLDEST_CLICK, str(path)],
        env=environ,
        stdout=subprocess.DEVNULL,
    )


def read(path):
    with open(str(path), "rb") as file:
        return file.read()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the file and nothing else."""
    folder = tmp_path_factory.mktemp("single")
    build(folder / NAME)
    return folder


@pytest.fixture
def folder(built):
    """That folder, which no test may leave anything in."""
    yield str(built)
    assert [NAME] == os.listdir(str(built))


def test_same_sources_give_the_same_bytes(built, tmp_path):
    """Place, time, umask and line ends of the sources do not matter."""
    copy = tmp_path / "a copy"
    shutil.copytree(os.path.join(ROOT, "minisocks"), str(copy / "minisocks"))
    shutil.copytree(os.path.join(ROOT, "scripts"), str(copy / "scripts"))
    shutil.copy(os.path.join(ROOT, "LICENSE"), str(copy))
    for path in copy.glob("minisocks/**/*.py"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))

    build(tmp_path / "again.pyz")
    build(tmp_path / "copy.pyz", str(copy), umask="077", TZ="Asia/Tokyo", LC_ALL="C")

    assert read(built / NAME) == read(tmp_path / "again.pyz")
    assert read(built / NAME) == read(tmp_path / "copy.pyz")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("*.pyz")}
    assert {0o755} == modes


def test_other_pythons_build_the_same_bytes(built, tmp_path):
    """The Python that builds it does not matter."""
    pattern = os.path.join(glob.escape(sys.base_prefix), os.pardir, "3.*", "bin", "python3")
    pythons = sorted(glob.glob(pattern), key=lambda path: int(path.split("/3.")[-1].split(".")[0]))
    if len(pythons) < 2:
        pytest.skip("no other Pythons beside this one, as pyenv has them")

    for python in (pythons[0], pythons[-1]):
        build(tmp_path / NAME, python=python)
        assert read(built / NAME) == read(tmp_path / NAME)


def test_it_is_small_and_carries_its_licences(built):
    """It has at most 300 KB, and the licences of both programs inside."""
    with zipfile.ZipFile(str(built / NAME)) as archive:
        assert read(os.path.join(ROOT, "LICENSE")) == archive.read("LICENSE")
        assert b"Pallets" in archive.read("lib/click/LICENSE.rst")
    assert os.path.getsize(str(built / NAME)) <= MAX_BYTES


@pytest.mark.parametrize("program", WAYS, ids=lambda way: " ".join(map(os.path.basename, way)))
def test_it_serves_however_it_is_started(folder, target, program):
    """With neither HOME nor LANG, and with no PATH unless its first line needs one."""
    environ = {} if program[0] == sys.executable else {"PATH": os.path.dirname(sys.executable)}
    with CommandLine("-l", "0", program=program, env=environ, cwd=folder) as command:
        one_connection(command, target)
        assert 0 == command.end()


READ_ONLY = """
mount -o remount,bind,ro / && mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" &&
cd "$0" && ! touch it /it 2>/dev/null && exec "$@"
"""


def test_it_serves_from_a_read_only_file_system(folder, target):
    """Nothing is written, so nothing needs to be writable."""
    # A user namespace makes root unnecessary; where those are forbidden, root still may.
    for flags in ("-rm", "-m"):
        prefix = ["unshare", flags, "sh", "-c", READ_ONLY, folder]
        try:
            subprocess.check_output(prefix + ["true"], stderr=subprocess.STDOUT)
            break
        except (OSError, subprocess.CalledProcessError) as exc:
            reason = getattr(exc, "output", b"").decode() or str(exc)
    else:
        pytest.skip("cannot make a read-only file system: " + reason)

    program = [sys.executable, NAME]
    with CommandLine("-l", "0", prefix=prefix, program=program, env={}, cwd=folder) as command:
        one_connection(command, target)
        assert 0 == command.end()


def test_its_click_is_used_and_no_other(folder, tmp_path):
    """An installed click, whichever it is, is not used."""
    (tmp_path / "click.py").write_text("raise SystemExit('the wrong click')")

    program = [sys.executable, NAME]
    environ = {"PYTHONPATH": str(tmp_path)}
    status, out, err = run_command("check", program=program, env=environ, cwd=folder)

    assert (0, "") == (status, err)
    assert "127.0.0.1:1080" in out


def test_it_does_not_depend_on_the_folder_it_was_started_in(folder):
    """Named by a relative path, it still finds its parts after a change of folder."""
    program = (
        "import os, runpy, sys\n"
        "sys.argv = ['minisocks.pyz', '--version']\n"
        "try:\n"
        "    runpy.run_path('minisocks.pyz', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        "os.chdir('/')\n"
        "import minisocks.testing\n"
    )
    subprocess.check_call(
        [sys.executable, "-I", "-S", "-c", program], cwd=folder, stdout=subprocess.DEVNULL
    )


EMBEDDED = """
import importlib.util, sys
from minisocks import Proxy
with Proxy(listen="127.0.0.1:0") as proxy:
    print(proxy.port, importlib.util.find_spec("click"), flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["PYTHONPATH", "sys.path"])
def test_programs_import_from_it(folder, target, how):
    """A program can make a proxy from it, and its click is not imported."""
    path = os.path.join(folder, NAME)
    if how == "PYTHONPATH":
        args, environ = ["-S", "-c", EMBEDDED], {"PYTHONPATH": path}
    else:
        program = "import sys; sys.path.insert(0, %r)\n" % path
        args, environ = ["-I", "-S", "-c", program + EMBEDDED], {}
    with subprocess.Popen(
        [sys.executable, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        universal_newlines=True,
        env=environ,
    ) as child:
        try:
            port, click = child.stdout.readline().split()
            with Talk.to(int(port)) as talk:
                assert 0 == talk.connect5("127.0.0.1", target.port)[0]
                talk.send(b"12345").expect(b"12345").finish().expect_eof()
        finally:
            child.communicate(timeout=TIMEOUT)

    assert (0, "None") == (child.returncode, click)


def test_unpacked_it_runs_as_well(built, tmp_path):
    """A folder with its contents starts the same way, and Python compiles it once."""
    subprocess.check_call(
        [sys.executable, "-m", "zipfile", "-e", str(built / NAME), str(tmp_path / "unpacked")]
    )

    program = [sys.executable, "-I", "unpacked"]
    environ = {"PATH": "/nowhere"}
    assert 0 == run_command("check", program=program, env=environ, cwd=str(tmp_path))[0]
    assert (tmp_path / "unpacked" / "minisocks" / "__pycache__").is_dir()


def test_click_keeps_its_lines_where_they_are(built):
    """Much of click is left out, but a traceback has the line numbers of the original."""
    with zipfile.ZipFile(str(built / NAME)) as archive:
        names = [name for name in archive.namelist() if name.endswith("click/core.py")]
        (carried,) = (archive.read(name).decode().splitlines() for name in names)
    original = read(os.path.join(OLDEST_CLICK, "click", "core.py")).decode().splitlines()

    assert len(original) == len(carried)
    kept = [(mine, theirs) for mine, theirs in zip(carried, original) if mine.strip(" '")]
    assert len(kept) > 900
    kept = [(mine.lstrip(), theirs.lstrip()) for mine, theirs in kept]
    assert [] == [pair for pair in kept if not pair[1].startswith(pair[0])]


def test_our_own_lines_stay_where_they_are_and_help_is_kept(built):
    """Comments of the package are left out, too, but not what ``help`` shows to programs."""
    with zipfile.ZipFile(str(built / NAME)) as archive:
        inner, public = (
            archive.read("minisocks/%s.py" % name).decode().splitlines()
            for name in ("relay/pair", "proxy")
        )
    original = read(os.path.join(ROOT, "minisocks", "relay", "pair.py")).decode().splitlines()

    assert len(original) == len(inner)
    assert len([line for line in inner if line.strip(" '")]) < len(original) * 3 // 4
    assert read(os.path.join(ROOT, "minisocks", "proxy.py")).decode().splitlines() == public


@pytest.fixture
def light(tmp_path):
    """The environment in which Python is what a router has."""
    environ = light_environment(tmp_path)
    for module in ("email", "unicodedata", "encodings.idna"):
        status = subprocess.call(
            [sys.executable, "-c", "import " + module], env=environ, stderr=subprocess.DEVNULL
        )
        assert 1 == status, "%s is still there" % module
    return environ


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_a_router_s_python_shows_each_help_page(folder, light, command):
    """``--help`` of each subcommand works with the modules of python3-light and -logging."""
    words = [command] if command else []
    program = [sys.executable, NAME]
    status, out, err = run_command(*words, "--help", program=program, env=light, cwd=folder)

    assert (0, "") == (status, err)
    assert "Usage: minisocks" in out


def test_a_router_s_python_hashes_and_verifies(folder, light, tmp_path):
    """A password hashed there admits a client there, though nothing of OpenSSL is left."""
    path = tmp_path / "users"
    line = subprocess.run(
        [sys.executable, NAME, "hash-password", "--name", "ann", "--iterations", "1000"],
        input=b"secret\n",
        stdout=subprocess.PIPE,
        env=light,
        cwd=folder,
        check=True,
    ).stdout
    path.write_bytes(line)
    program = [sys.executable, NAME]
    args = ["-l", "0", "--users-file", str(path)]
    with CommandLine(*args, program=program, env=light, cwd=folder) as command:
        for password, answer in ((b"wrong", b"\1\1"), (b"secret", b"\1\0")):
            with Talk.to(command.ports[0]) as talk:
                talk.send(b"\x05\x01\x02").expect(b"\x05\x02")
                talk.send(password_message(b"ann", password)).expect(answer)
        assert 0 == command.end()


@pytest.mark.parametrize(
    "words, expected",
    [("check", 0), ("check --json", 0), ("--nonsense", 2), ("-l 1080x", 2)],
)
def test_a_router_s_python_checks(folder, light, words, expected):
    """``check`` and the sentences about mistakes work there, too."""
    program = [sys.executable, "-W", "error", NAME]
    status, out, err = run_command(*words.split(), program=program, env=light, cwd=folder)

    assert expected == status
    assert "Traceback" not in err
    assert "1080" in out if status == 0 else "minisocks: " in err


def serves(data):
    """A web server's script: the same file for each request."""

    def script(talk):
        request = b""
        while b"\r\n\r\n" not in request:
            more = talk.sock.recv(65536)
            if not more:
                return
            request += more
        talk.send(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data))
        talk.send(data).finish().rest()

    return script


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
def test_a_router_s_python_serves_downloads_by_name(folder, light):
    """curl gets megabytes whole from a host that the proxy looks up, without the idna codec."""
    data = os.urandom(8 << 20)
    program = [sys.executable, "-W", "error", NAME]
    with FakeTarget(serves(data)) as site, CommandLine(
        "-l", "0", program=program, env=light, cwd=folder
    ) as command:
        for option in ("--socks5-hostname", "--socks4a"):
            proxy, url = "127.0.0.1:%d" % command.ports[0], "http://localhost:%d/" % site.port
            got = subprocess.check_output(
                [CURL, "-q", "-sS", "--fail", "--noproxy", "", "--max-time", "60",
                 option, proxy, url]
            )  # fmt: skip
            assert hashlib.sha256(data).digest() == hashlib.sha256(got).digest()
        assert 0 == command.end()


@pytest.mark.parametrize(
    "way", ["./%s", "%s", "../m/%s", "{0}//%s", "{0}/../m/%s", "link.pyz", "{0}/link.pyz", "x/%s"]
)
def test_ensure_by_whatever_path(folder, tmp_path, way):
    """Its file may have any name that the shell takes; the second call finds it healthy."""
    home = tmp_path / "m"
    home.mkdir()
    shutil.copy(os.path.join(folder, NAME), str(home / NAME))
    (home / "link.pyz").symlink_to(NAME)
    (home / "x").symlink_to(".")
    path = way.format(home)
    path = path % NAME if "%s" in path else path
    instance = Instance(tmp_path)
    try:
        for _ in range(2):
            command = [sys.executable, path, "--ensure", "-c", instance.file]
            said = subprocess.check_output(
                command, cwd=str(home), stderr=subprocess.STDOUT, timeout=TIMEOUT
            )
            assert b"" == said
        assert instance.pid
    finally:
        instance.end()


@pytest.mark.skipif(sys.version_info < (3, 7), reason="it does not tell what it imports")
def test_ensure_imports_next_to_nothing_when_all_is_well(folder, tmp_path):
    """Nor by ``import`` any module of ours, which takes twice as long from a zip."""
    instance = Instance(tmp_path)
    command = [sys.executable, "-X", "importtime", os.path.join(folder, NAME)]
    command += ["--ensure", "-c", instance.file]
    try:
        imported = [
            subprocess.check_output(command, stderr=subprocess.STDOUT, timeout=TIMEOUT).decode()
            for _ in range(2)
        ]
    finally:
        instance.end()
    assert "click" in imported[0]
    assert "click" not in imported[1]
    assert "minisocks" not in imported[1]


@pytest.mark.parametrize("python", ["whole", "light"])
def test_ensure_starts_one_and_finds_it_well(folder, tmp_path, python, request):
    """It is not running, then running, then still running; and commands reach it."""
    instance = Instance(tmp_path)
    environ = request.getfixturevalue("light") if python == "light" else {}
    command = [sys.executable, os.path.join(folder, NAME), "--ensure", "-c", instance.file]
    pids = []
    try:
        for _ in range(3):
            said = subprocess.check_output(
                command, env=environ, stderr=subprocess.STDOUT, timeout=TIMEOUT
            )
            assert b"" == said
            pids.append(instance.pid)
        assert pids[0]
        assert 1 == len(set(pids))
        for name in ("status", "reload", "drain"):
            words = [*command[:2], name, "-c", instance.file]
            assert 0 == subprocess.call(words, env=environ, stdout=subprocess.DEVNULL)
        instance.wait_for_end()
    finally:
        instance.end()
    done = subprocess.run(
        command + ["--grace", "x"], env=environ, stderr=subprocess.PIPE, universal_newlines=True
    )
    assert (2, 1) == (done.returncode, done.stderr.count("\n"))
