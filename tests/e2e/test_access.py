"""Rules of the settings in a running proxy: where they come from, and how they change."""

import contextlib
import os
import subprocess

import pytest

from kit.support import (
    ROOT,
    CommandLine,
    Talk,
    password_message,
    run_command,
    run_proxy,
    socks4,
    socks4a,
    socks5,
)
from minisocks import Proxy
from minisocks.access import Access
from minisocks.config.settings import Config
from minisocks.errors import ConfigError
from minisocks.hooks import Hooks
from minisocks.policy.builtin import in_force
from minisocks.policy.client import Client
from minisocks.policy.rulelines import parse_rule
from minisocks.policy.rules import Rules
from minisocks.wire import Address, Atyp, Cmd, packed_ip


def rep(port, host, target_port):
    """Ask the proxy at *port* for a target; return REP."""
    with Talk.to(port) as talk:
        return talk.connect5(host, target_port)[0]


def test_rules_of_a_program(target):
    """``rule`` takes one text or several, which replace the rules built in."""
    with run_proxy(rule=["deny port %d" % target.port, "allow from loopback"]) as proxy:
        assert 2 == rep(proxy.port, "127.0.0.1", target.port)
    with run_proxy(rule="allow port %d" % target.port) as proxy:
        assert 0 == rep(proxy.port, "127.0.0.1", target.port)
        assert 2 == rep(proxy.port, "127.0.0.1", 1)


def test_rules_hold_for_each_protocol(target):
    """A target's address and port count the same in SOCKS4, SOCKS4a and SOCKS5."""
    rules = ["deny to 127.0.0.0/8 port 1", "deny to 127.0.0.9", "allow from loopback"]
    wanted = [("127.0.0.1", target.port, True), ("127.0.0.1", 1, False), ("127.0.0.9", 80, False)]
    with run_proxy(rule=rules) as proxy:
        for host, port, allowed in wanted:
            assert (0 if allowed else 2) == rep(proxy.port, host, port)
            assert (0 if allowed else 2) == rep(proxy.port, host.encode(), port)
            for request in (socks4(host, port), socks4a(host.encode(), port)):
                with Talk.to(proxy.port) as talk:
                    assert (90 if allowed else 91) == talk.send(request).receive(8)[1]


@pytest.mark.rfc(
    "SOCKS4, CONNECT",
    "Granted by any combination of source, destination, port, USERID and what IDENT says.",
)
@pytest.mark.rfc("SOCKS4, CONNECT", "CD 91: rejected or failed.")
def test_socks4_has_a_reply_of_its_own(target):
    """A denied request gets CD 91, and a rule may ask for the version."""
    with run_proxy(rule=["deny version 4", "allow from loopback"]) as proxy:
        with Talk.to(proxy.port) as talk:
            talk.send(socks4("127.0.0.1", target.port))
            assert 91 == talk.receive(8)[1]
        assert 0 == rep(proxy.port, "127.0.0.1", target.port)


def test_users_have_their_own_rules(target):
    """Ann may go there and bob may not; without a password only what takes those without."""
    rules = ["allow user ann port %d" % target.port, "allow user none to localhost"]
    with run_proxy(user=["ann:x", "bob:y"], rule=rules) as proxy:
        for name, password, expected in ((b"ann", b"x", 0), (b"bob", b"y", 2)):
            with Talk.to(proxy.port) as talk:
                talk.send(b"\x05\x02\x00\x02").expect(b"\x05\x02")
                talk.send(password_message(name, password)).expect(b"\x01\x00")
                talk.send(socks5("127.0.0.1", target.port))
                assert expected == talk.receive_reply5()[0]
        assert 2 == rep(proxy.port, "127.0.0.1", target.port)
        assert 0 == rep(proxy.port, b"localhost", target.port)


def test_the_log_names_the_rule(caplog):
    """A refusal in the log has the number of the rule, as check shows it, and its text."""
    caplog.set_level("INFO")
    with run_proxy(rule=["deny port 1", "allow from loopback"]) as proxy:
        assert 2 == rep(proxy.port, "127.0.0.1", 1)
        assert 2 == rep(proxy.port, b"localhost", 1)
    lines = [record.getMessage() for record in caplog.records]
    assert any("why='rule 1 denies 127.0.0.1:1: deny port 1'" in line for line in lines)
    assert any("why='rule 1 denies \"localhost\":1: deny port 1'" in line for line in lines)


@pytest.mark.parametrize(
    "rule, sentence",
    [
        ("deny to @/nowhere/list", "cannot read /nowhere/list: No such file or directory"),
        ("deny to @/dev/zero", "cannot read /dev/zero: it is longer than 1 MiB"),
        ("deny to @LONG", "cannot read LONG: it is longer than 1 MiB"),
        ("deny to @PIPE", "cannot read PIPE: it is no file"),
    ],
)
def test_a_list_that_cannot_be_read_stops_the_start(rule, sentence, monkeypatch, tmp_path):
    """The class, a start and a reload all raise it; the reload changes and waits for nothing."""
    monkeypatch.setattr("minisocks.access.MAX_LIST_BYTES", 1 << 20)
    (tmp_path / "LONG").write_bytes(b" " * ((1 << 20) + 1))
    os.mkfifo(str(tmp_path / "PIPE"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=sentence):
        Access.of(Config.of(rule=rule), Hooks())
    with pytest.raises(ConfigError, match=sentence):
        Proxy(listen="127.0.0.1:0", rule=rule).start()
    with run_proxy(rule="allow port 1") as proxy:
        with pytest.raises(ConfigError, match=sentence):
            proxy.reload(proxy.config._replace(rule=(rule,)))
        assert ("allow port 1",) == proxy.config.rule
        assert 2 == rep(proxy.port, "127.0.0.1", 2)


def test_a_mistake_in_a_rule_raises_in_programs():
    """ConfigError is raised before anything starts, and has the column."""
    with pytest.raises(ConfigError, match="--rule, column 7: fron has no meaning here"):
        Proxy(rule="allow fron 10.0.0.0/8")


def test_lists_are_read_anew_by_a_reload(instance, target, tmp_path):
    """What is in them counts from then on; a list with a mistake changes nothing."""
    block = tmp_path / "block"
    block.write_text("192.0.2.0/24\n")
    instance.configure("[rules]\ndeny to @%s\nallow from loopback" % block)
    assert 0 == instance.start()[0]
    with instance.relay(target) as talk:
        block.write_text("192.0.2.0/24\n127.0.0.0/8\n")
        status, _out, err = instance.command("reload")
        assert (0, "reloaded, changed: nothing; read again: %s\n" % block) == (status, err)
        assert 2 == rep(instance.port, "127.0.0.1", target.port)
        block.write_text("127.0.0.300\n")
        status, _out, err = instance.command("reload")
        assert 1 == status
        assert "minisocks: %s, line 1, column 1: 127.0.0.300 is no network" % block in err
        assert 2 == rep(instance.port, "127.0.0.1", target.port)
        block.unlink()
        status, _out, err = instance.command("reload")
        assert (1, True) == (status, "cannot read %s" % block in err)
        # The rules are not asked again about a connection that is there.
        talk.send(b"z").expect(b"z")


def test_a_list_is_found_again_from_the_background(tmp_path, target):
    """A relative path begins where the process was started, also at a reload."""
    (tmp_path / "block").write_text("10.0.0.0/8\n")
    (tmp_path / "m.ini").write_text(
        "[minisocks]\nlisten = 127.0.0.1:0\npidfile = %s/p\nlog-file = log\n"
        "[rules]\ndeny to @block\nallow from loopback\n" % tmp_path
    )
    status, _out, err = run_command(
        "-c", "m.ini", "--daemon", cwd=str(tmp_path), env=dict(os.environ, PYTHONPATH=ROOT)
    )
    assert 0 == status, err
    try:
        (tmp_path / "block").write_text("127.0.0.0/8\n")
        status, _out, err = run_command("reload", "--pidfile", str(tmp_path / "p"))
        assert 0 == status, err
        assert "read again: %s" % (tmp_path / "block") in err
    finally:
        assert 0 == run_command("stop", "--pidfile", str(tmp_path / "p"))[0]


NAMED = "users-file = u\nlog-file = log\npidfile = p\nlisten = unix:s\n"


@pytest.fixture
def two_folders(tmp_path):
    """A file of settings that names others, in ``etc``; and ``run``, to start it from."""
    for folder in ("etc", "run"):
        (tmp_path / folder).mkdir()
    rule = "[rules]\ndeny to @block\nallow user none any"
    (tmp_path / "etc" / "m.ini").write_text("[minisocks]\n%s%s" % (NAMED, rule))
    (tmp_path / "etc" / "u").write_text("")
    (tmp_path / "etc" / "u").chmod(0o600)
    (tmp_path / "etc" / "block").write_text("192.0.2.0/24\n")
    return tmp_path


def command_in(folder, *args):
    return run_command(*args, cwd=str(folder), env=dict(os.environ, PYTHONPATH=ROOT))


@pytest.mark.parametrize("config", ["../etc/m.ini", "ABSOLUTE"])
def test_paths_in_the_file_begin_in_its_folder(two_folders, config):
    """All of them do, wherever it is started; also for a reload, --ensure and commands."""
    etc, run = two_folders / "etc", two_folders / "run"
    config = config.replace("ABSOLUTE", str(etc / "m.ini"))
    status, _out, err = command_in(run, "--daemon", "-c", config)
    assert (0, "listening on unix:") == (status, err[:18]), err
    try:
        made = {"block", "log", "m.ini", "p", "p.sock", "s", "u"}
        assert (made, []) == ({path.name for path in etc.iterdir()}, list(run.iterdir()))
        pid = (etc / "p").read_text()
        assert (0, "") == command_in(run, "--ensure", "-c", config)[::2]
        assert pid == (etc / "p").read_text()
        status, _out, err = command_in(run, "reload", "-c", config)
        assert (0, "reloaded, changed: nothing; read again: ") == (status, err[:40])
        assert [str(etc / "u") + ",", str(etc / "block")] == [
            os.path.normpath(path) for path in err.split()[5:]
        ]
    finally:
        assert 0 == command_in(run, "stop", "-c", config)[0]


@pytest.mark.parametrize("name", ["u", "block", "log", "p", "s"])
def test_a_file_that_only_earlier_versions_find_is_an_error(two_folders, name):
    """It is neither used nor ignored; paths of the command line itself begin where they did."""
    etc, run = two_folders / "etc", two_folders / "run"
    with contextlib.suppress(FileNotFoundError):
        (etc / name).unlink()
    (run / name).write_text("")
    asked = [("check",), ("--daemon",), ("--ensure",)] + [("stop",)] * (name in "ps")
    for args in asked:
        status, _out, err = command_in(run, *args, "-c", "../etc/m.ini")
        assert (2, 1) == (status, err.count("\n")), err
        text = "%s is looked for in the folder of the file of settings, as ../etc/%s, and is only "
        assert text % (name, name) in err
        assert "m.ini, line " in err or args == ("stop",)
    args = ("check", "-c", "../etc/m.ini", "--users-file", "u", "--pidfile", "p", "-l", "unix:s")
    args += ("--log-file", "log", "--rule", "deny to @block")
    if name == "s":
        (run / name).unlink()  # in its place a socket is made
    for path in ("u", "block"):
        (run / path).write_text("")
        (run / path).chmod(0o600)
    assert (0, "") == command_in(run, *args)[::2]


def test_a_start_in_the_background_tells_of_a_list(instance):
    """The start exits with status 2 and one sentence, and nothing runs."""
    instance.configure("[rules]\ndeny to @/nowhere/list")
    status, _out, err = instance.start()
    assert 2 == status
    assert err.startswith("minisocks: %s, line " % instance.file)
    assert ": rule: cannot read /nowhere/list: No such file" in err
    assert 1 == err.count("\n")
    assert instance.pid is None


def test_an_odd_rule_is_a_warning_at_the_start():
    """It serves, and a warning names the rule that cannot match."""
    with CommandLine("-l", "0", "--rule", "deny") as command:
        command.wait_for_line("no rule allows anything")


def test_curl_meets_the_rules(target):
    """A client of another project goes where the rules allow, and learns why not elsewhere."""
    with CommandLine("-l", "0", "--rule", "allow from loopback to localhost") as command:
        proxy = "socks5h://127.0.0.1:%d" % command.ports[0]
        curl = subprocess.Popen(
            ["curl", "-sS", "--max-time", "20", "-x", proxy, "http://127.0.0.1:1/"],
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )
        assert "(2)" in curl.communicate()[1]
        assert 97 == curl.returncode
        command.wait_for_line("no rule allows 127.0.0.1:1 to clients from 127.0.0.1")


@pytest.mark.parametrize("rule, allowed", [("deny to self", False), ("allow to self", False)])
def test_in_doubt_it_is_no(rule, allowed):
    """An own address, perhaps: "deny to self" applies to it, "allow to self" does not."""
    own = [parse_rule(text, None) for text in (rule, "allow port 1")]
    rules = Rules(in_force(own), False, lambda ip: None)
    client, dst = Client(("127.0.0.1", 1)), Address(b"192.0.2.1", 2, Atyp.IPV4)
    assert allowed == rules.decide(client, 5, Cmd.CONNECT, dst, packed_ip("192.0.2.1")).allowed


def test_one_decision_asks_once():
    """However many rules need to know whether an address is this host's, it is looked up once."""
    asked = []
    own = [parse_rule("deny to self port %d" % n, None) for n in (1, 80, 80, 80)]
    rules = Rules(in_force([*own, parse_rule("allow", None)]), False, asked.append)
    client, dst = Client(("127.0.0.1", 1)), Address(b"192.0.2.1", 80, Atyp.IPV4)
    rules.decide(client, 5, Cmd.CONNECT, dst, packed_ip("192.0.2.1"))
    assert [packed_ip("192.0.2.1")] == asked
