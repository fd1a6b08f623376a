"""The pages on installation, limits, users and forwarders: they say what works.

Each of their literal blocks is used in the order of the page, with the paths and the port
moved to where a test may have its own, unless the words before it say "(not run here)".  Of
the page on installation each kind of machine has its sections:
files are written, commands are run, the procd script and the systemd unit start the
proxy as procd and systemd would, and at last the lines for cron are run as cron would.
"""

import os
import re
import shutil
import subprocess
import sys

import pytest

from kit.light import light_environment
from kit.pages import blocks
from kit.support import OLDEST_CLICK, ROOT, TIMEOUT, Talk, closed_port, wait_until
from minisocks.errors import NotRunning
from minisocks.net.opening import read_file
from minisocks.service.commands import stop
from minisocks.service.location import locate
from minisocks.service.pidfile import Pidfile, control_path
from minisocks.service.remote import request

BUSYBOX = shutil.which("busybox")
ANALYZE = shutil.which("systemd-analyze")

#: What the pages may name on a machine, and a test must not touch.
PLACES = re.compile(
    r"(?<![\w./])/(?=(etc|home|opt|tmp|usr/(local/)?bin|usr/libexec|(var/)?run)(/|\b))(?!etc/rc\.common)"
)
PAGES = ("forwarder", "install", "limits", "users")
SYSTEMD = "systemd: Raspberry Pi OS, Debian, Ubuntu, RHEL 8"
#: By machine: the page, its sections that are for this machine (none: all of it), and shells.
MACHINES = {
    "cron": ("install", ("cron", "Control it"), ("sh", "ash")),
    "openwrt": ("install", ("Settings", "OpenWrt", "Control it", "cron"), ("sh", "ash")),
    "systemd": ("install", ("One file", "Settings", SYSTEMD, "Control it"), ("sh",)),
    "forwarder": ("forwarder", (), ("sh",)),
    "limits": ("limits", (), ("sh",)),
    "users": ("users", (), ("sh",)),
}

#: What /etc/rc.common has of procd and of users, as far as the script may call it.
RC_COMMON = """
user_exists() { return 1; }
user_add() { [ "$#$1" = 3minisocks ] && [ "$3" = 32768 ]; }
group_add_next() { [ "$*" = minisocks ] && echo 32768; }
procd_open_instance() { opened=1; }
procd_set_param() { [ "$opened" ] && echo "$@"; }
procd_close_instance() { echo closed; }
chown() { [ "$1" = minisocks ] && [ -d "$2" ]; }
"""

pytestmark = [
    pytest.mark.pages,
    pytest.mark.skipif(
        not os.path.isdir(OLDEST_CLICK),
        reason="no click 7.1 beside this environment; scripts/test makes one",
    ),
]


def moved(text, root, port):
    """Return *text* of a page with its paths below *root*, and another port."""
    return re.sub(r"\b1080\b", str(port), PLACES.sub(lambda match: root + "/", text))


#: All that a start in the background may say: a machine that tests may have no syslog.
NO_SYSLOG = re.compile("(warning: log lines are lost: syslog at .*\n)*$")


@pytest.fixture(scope="module")
def single_file(tmp_path_factory):
    """Return the path of the single file."""
    path = str(tmp_path_factory.mktemp("pages") / "minisocks.pyz")
    script = os.path.join(ROOT, "scripts", "single_file.py")
    subprocess.check_call([sys.executable, script, OLDEST_CLICK, path], stdout=subprocess.DEVNULL)
    return path


class Machine:
    """A folder in the place of a machine's own."""

    def __init__(self, root, single_file, shell, is_router):
        self.root = root
        self.port = closed_port()
        self.inis = []
        self.service = None
        for folder in ("etc/init.d", "etc/systemd/system", "home/pi", "tmp", "stubs", "light"):
            os.makedirs(self.at("/" + folder))
        for folder in ("usr/local/bin", "usr/bin", "usr/libexec", "run/minisocks", "var/run"):
            os.makedirs(self.at("/" + folder))
        os.makedirs(self.at("/var/run/minisocks"))
        environ = light_environment(self.at("/light")) if is_router else {}
        words = ["%s='%s'" % item for item in sorted(environ.items())] + ["exec", sys.executable]
        for name in ("bin/python3", "libexec/platform-python"):
            self.script("/usr/" + name, '%s "$@"' % " ".join(words))
        self.script("/stubs/sudo", 'exec "$@"')
        self.script("/stubs/logger", "cat >>'%s'" % self.at("/tmp/logged"))
        for where in ("usr/bin", "home/pi"):
            shutil.copy(single_file, self.at("/%s/minisocks.pyz" % where))
        if is_router or shell == "ash":
            shutil.copy(single_file, self.at("/usr/local/bin/minisocks.pyz"))
        shutil.copy(self.at("/home/pi/minisocks.pyz"), self.at("/minisocks.pyz"))
        self.shell = ["sh"]
        tools = "/usr/bin:/bin"
        if shell == "ash":
            # busybox's own tools, and no others.
            self.shell, tools = [BUSYBOX, "ash"], self.at("/busybox")
            os.mkdir(tools)
            for name in subprocess.check_output([BUSYBOX, "--list"]).decode().split():
                os.symlink(BUSYBOX, os.path.join(tools, name))
        path = [self.at(one) for one in ("/stubs", "/usr/local/bin", "/usr/bin")] + [tools]
        #: As Debian's cron has it, but for the PATH.
        self.environ = {
            "HOME": self.at("/home/pi"),
            "LOGNAME": "pi",
            "SHELL": "/bin/sh",
            "PATH": ":".join(path),
        }

    def at(self, path):
        """Return where *path* is here."""
        return self.root + path

    def moved(self, text):
        """Return *text* with its paths and its port as they are here."""
        return moved(text, self.root, self.port)

    def script(self, path, text):
        """Write a program."""
        with open(self.at(path), "w") as file:
            file.write("#!/bin/sh\n%s\n" % text)
        os.chmod(self.at(path), 0o755)  # noqa: S103  # a program

    def run(self, text, *args, cwd="/home/pi"):
        """Have the shell run *text*, which must succeed; return what it said."""
        child = subprocess.run(
            self.shell + ["-e", "-u", "-c", text] + list(args),
            env=self.environ,
            cwd=self.at(cwd),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            timeout=TIMEOUT,
        )
        assert 0 == child.returncode, "%s\n%s" % (text, child.stdout)
        return child.stdout

    def pidfiles(self):
        """Return the paths of the pidfiles that follow from the settings."""
        return {locate({}, {}, read_file(path))[0] for path in self.inis}

    def pids(self):
        """Return the numbers of the processes that run and answer on the control channel."""
        found = []
        for path in self.pidfiles():
            if not Pidfile(path).is_free() and os.path.exists(control_path(path)):
                found.append(request(control_path(path), {"do": "status"}, TIMEOUT)["pid"])
        return found

    def stop(self):
        """End all of them."""
        for path in self.pidfiles():
            try:
                stop(path)
            except NotRunning:
                pass

    def serves(self):
        """Return whether clients are admitted."""
        try:
            with Talk.to(self.port) as talk:
                talk.send(b"\x05\x01\x00").expect(b"\x05\x00")
        except ConnectionRefusedError:
            return False
        return True

    # What is done with a block

    def ini(self, block):
        """Write the file, which must have no mistake: another way to run it, instead of others."""
        self.end_service()
        path = self.moved(block.path)
        with open(path, "w") as file:
            file.write(self.moved(block.text))
        os.chmod(path, 0o600)
        self.inis.append(path)
        said = self.run('python3 minisocks.pyz check -c "$0" 2>&1', path)
        assert "listen " in said
        assert "warning" not in said

    def commands(self, block):
        """Run them."""
        self.run(self.moved(block.text))

    def procd(self, block):
        """Start the service by its procd script, and have it reload."""
        text = self.moved(block.text)
        said = self.run(RC_COMMON + text + "\nstart_service")
        assert said.endswith("\nclosed\n"), said
        params = dict(line.partition(" ")[::2] for line in said.splitlines())
        assert {"command", "user", "respawn", "stderr", "stdout", "term_timeout"} < set(params)
        self.start(params["command"].split())
        self.run(RC_COMMON + text + "\nreload_service")

    def unit(self, block):
        """Ask systemd whether it likes it, start what it says, and have that reload."""
        text, path = self.moved(block.text), self.moved(block.path)
        with open(path, "w") as file:
            file.write(text)
        if ANALYZE:
            child = subprocess.run(
                [ANALYZE, "verify", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            ours = [line for line in child.stdout.decode().split("\n") if "minisocks" in line]
            assert not ours
        (command,) = re.findall("(?m)^ExecStart=(.*)", text)
        (reload,) = re.findall("(?m)^ExecReload=(.*)", text)
        self.start(command.split())
        self.run(reload)

    def start(self, command):
        """Have *command* serve in the foreground until ``end_service``."""
        self.service = subprocess.Popen(
            command,
            cwd="/",
            env={"PATH": self.environ["PATH"]},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self.pids, "the service")
        assert [self.service.pid] == self.pids()

    def end_service(self):
        """End what ``start`` has started, as a supervisor would."""
        if self.service:
            service, self.service = self.service, None
            service.terminate()
            assert 0 == service.wait(TIMEOUT)

    def said(self, block):
        """See that these are words of ours."""
        text = re.sub(r"client=\S+", "client=%s", block.text.strip())
        text = re.sub(r"\b\d+\b", "%d", text[len("minisocks: ") * text.startswith("minisocks: ") :])
        sources = []
        for name in ("service/ensure", "server/logins"):
            with open(os.path.join(ROOT, "minisocks", name + ".py"), encoding="utf-8") as file:
                # As one string, where it is written as several.
                sources.append(re.sub(r'"\n\s+"', "", file.read()))
        assert text in "\n".join(sources)

    def crontab(self, line):
        """Run the command of *line*, which must say nothing but that there is no syslog."""
        command = re.sub(r"^(@reboot|\* \* \* \* \*) ([a-z]+ )?", "", self.moved(line))
        assert re.match("/", command)
        assert NO_SYSLOG.match(self.run(command))

    def clean_up(self):
        """Leave nothing behind."""
        self.stop()
        if self.service:
            self.service.kill()
            self.service.wait()
        for path in self.pidfiles():
            if os.path.exists(path):
                os.unlink(path)


@pytest.mark.parametrize(
    "kind, shell", [(kind, shell) for kind, (_, _, shells) in MACHINES.items() for shell in shells]
)
def test_what_a_page_says_works(kind, shell, single_file, tmp_path):
    """All blocks of the page work, from first to last, and then its lines for cron, twice."""
    if shell == "ash" and not BUSYBOX:
        pytest.skip("no busybox")
    page, sections, _ = MACHINES[kind]
    machine = Machine(str(tmp_path), single_file, shell, kind == "openwrt")
    lines = []
    try:
        for section in sections or (None,):
            for block in blocks(page):
                if section not in (None, block.section) or block.kind == "not run":
                    continue
                if block.kind == "crontab":
                    lines += block.text.splitlines()
                else:
                    getattr(machine, block.kind)(block)
        machine.end_service()
        machine.stop()
        assert bool(lines) == ("cron" in sections)
        pids = []
        for line in lines + lines:
            machine.crontab(line)
            assert machine.serves()
            pids += machine.pids()
        assert len(set(pids)) == bool(lines)
        logged = machine.at("/tmp/logged")
        if os.path.exists(logged):
            with open(logged) as file:
                assert NO_SYSLOG.match(file.read())
    finally:
        machine.clean_up()


@pytest.mark.parametrize("page", PAGES)
def test_what_is_marked_cannot_be_run_here(page):
    """Only what needs the machine itself, another one, or its users has the mark.

    Of forwarders ``test_forwarder`` runs it.
    """
    why = r"opkg|apk|scp|dnf|useradd|chown|systemctl|journalctl|logread|firewall-cmd|restorecon"
    why += r"|mode tcp|PSKsecrets|ssh -N|docker run"
    for block in blocks(page):
        if block.kind == "not run":
            assert re.search(r"\b(%s)\b|/etc/init\.d/" % why, block.text), block.text


def test_every_block_has_its_machine():
    """No section of the page on installation is left out, unless nothing of it can be run."""
    used = {section for page, sections, _ in MACHINES.values() for section in sections}
    to_run = {block.section for block in blocks("install") if block.kind != "not run"}
    assert to_run == used


def test_every_block_is_found():
    """None slips through because it is written otherwise."""
    for page in PAGES:
        with open(os.path.join(ROOT, "docs", page + ".rst"), encoding="utf-8") as file:
            assert len(re.findall(r"::$", file.read(), re.M)) == len(blocks(page))


def test_nothing_of_this_machine_is_touched():
    """Paths and ports of a page are moved wherever they stand."""
    text = "/etc/x -c=/run/y 'a:/var/run/z' /usr/bin/p -l :1080 /etc/rc.common /bin/sh 10800"
    assert moved(text, "/r", 5) == (
        "/r/etc/x -c=/r/run/y 'a:/r/var/run/z' /r/usr/bin/p -l :5 /etc/rc.common /bin/sh 10800"
    )
