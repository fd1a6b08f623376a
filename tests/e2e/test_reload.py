"""Settings that change while it serves: all of them or none, and no connection notices."""

import json
import os
import pty
import signal
import socket
import sys

import pytest

from kit.instance import Instance
from kit.support import (
    ROOT,
    Talk,
    closed_port,
    nothing_left,
    password_message,
    run_command,
    run_proxy,
    socks5,
    wait_until,
)
from minisocks import Proxy
from minisocks.config.settings import SETTINGS, Config
from minisocks.errors import ConfigError, EgressError, ListenError
from minisocks.service.pidfile import Pidfile


@pytest.fixture
def relayed(proxy, target):
    """A connection through the proxy, which must survive every reload."""
    with Talk.to(proxy.port) as talk:
        assert 0 == talk.connect5("127.0.0.1", target.port)[0]
        talk.send(b"x").expect(b"x")
        yield talk
        talk.send(b"y").expect(b"y").finish().expect_eof()


def changed(proxy, **settings):
    """Have *proxy* reload with these settings changed."""
    proxy.reload(proxy.config._replace(**settings))


def serves(port, host="127.0.0.1"):
    """Return whether a client gets an answer there."""
    try:
        with Talk.to(port, host) as talk:
            talk.send(b"\x05\x01\x00").expect(b"\x05\x00")
    except ConnectionRefusedError:
        return False
    return True


def test_listeners_come_and_go(proxy, relayed, tmp_path):
    """New ones are opened, old ones closed, the others stay open all the time."""
    first, second, path = proxy.port, closed_port(), str(tmp_path / "s")
    stays = proxy.config.listen
    changed(proxy, listen=stays + (str(second), "unix:" + path))
    assert ["127.0.0.1:%d" % first, "127.0.0.1:%d" % second, "unix:" + path] == proxy.addresses
    assert serves(first)
    assert serves(second)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        assert Talk(sock).send(b"\x05\x01\x00").expect(b"\x05\x00")
    changed(proxy, listen=(str(second),))
    assert not os.path.exists(path)
    assert not serves(first)
    assert serves(second)
    assert second == proxy.port


def test_a_client_waiting_at_a_listener_that_goes_is_served(proxy, target, relayed):
    """A client that has connected already does not pay for the change."""
    port = closed_port()
    changed(proxy, listen=proxy.config.listen + (str(port),))
    talks = [Talk.to(port) for _ in range(20)]
    changed(proxy, listen=proxy.config.listen[:1])
    for talk in talks:
        with talk:
            assert 0 == talk.connect5("127.0.0.1", target.port)[0]
    assert not serves(port)


def test_a_wider_listener_takes_a_narrower_one_s_place(target):
    """127.0.0.1:PORT becomes :PORT, and the other way round, although both at once cannot be."""
    port = closed_port()
    with run_proxy(listen=(str(port),)) as proxy:
        with Talk.to(port) as talk:
            talk.connect5("127.0.0.1", target.port)
            for listen in (":%d", "127.0.0.1:%d", "0.0.0.0:%d", "127.0.0.1:%d"):
                changed(proxy, listen=(listen % port,))
                assert serves(port)
                assert serves(port, "127.0.0.2") == (not listen.startswith("127"))
                talk.send(b"x").expect(b"x")


def test_one_listener_that_cannot_be_had_changes_nothing(proxy, relayed):
    """Neither the other listeners nor the other settings change."""
    before = proxy.config
    free = closed_port()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        taken = str(other.getsockname()[1])
        for listen in ((str(free), taken), before.listen + (str(free), taken)):
            wait_until(lambda: len(proxy) == 1, "the end of all others")
            with nothing_left(), pytest.raises(ListenError, match="in use"):
                changed(proxy, listen=listen, user=("ann:secret",), max_handshakes=4)
            assert before == proxy.config
            assert serves(proxy.port)
            assert not serves(free)


def test_in_place_of_others_a_failure_brings_them_back():
    """Where old listeners had to make room first, they are opened again after a failure."""
    port, other = closed_port(), closed_port()
    with run_proxy(listen=(str(port), str(other))) as proxy, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        wrong = (":%d" % port, str(taken.getsockname()[1]))
        with nothing_left(), pytest.raises(ListenError, match="in use"):
            changed(proxy, listen=wrong)
        assert (str(port), str(other)) == proxy.config.listen
        assert sorted(["127.0.0.1:%d" % port, "127.0.0.1:%d" % other]) == sorted(proxy.addresses)
        assert serves(port)
        assert serves(other)


def test_what_cannot_be_used_changes_nothing(proxy, relayed):
    """A wrong value, or an egress that cannot work, changes nothing else."""
    before = proxy.config
    with pytest.raises(ConfigError):
        changed(proxy, grace=-1.0)
    if not os.geteuid():
        pytest.skip("root may set a mark")
    with pytest.raises(EgressError):
        changed(proxy, mark=5)
    assert before == proxy.config


@pytest.mark.rfc(
    "SOCKS4, introduction",
    "Access is controlled at the beginning of each session; then data is simply relayed.",
)
def test_users_change_for_clients_that_come_next(proxy, relayed):
    """A password from now on, and another one; an open connection stays."""
    changed(proxy, user=("ann:secret",))
    with Talk.to(proxy.port) as talk:
        talk.send(b"\x05\x01\x00").expect(b"\x05\xff")
    with Talk.to(proxy.port) as talk:
        talk.send(b"\x05\x01\x02" + password_message(b"ann", b"secret")).expect(b"\x05\x02\x01\x00")
    changed(proxy, user=("bob:hunter2",))
    with Talk.to(proxy.port) as talk:
        talk.send(b"\x05\x01\x02" + password_message(b"ann", b"secret")).expect(b"\x05\x02\x01\x01")


def test_new_users_refuse_a_client_between_greeting_and_request(proxy, target):
    """The users in force at the moment of the request decide."""
    with Talk.to(proxy.port) as talk:
        talk.send(b"\x05\x01\x00").expect(b"\x05\x00")
        changed(proxy, user=("ann:secret",))
        talk.send(socks5("127.0.0.1", target.port))
        assert 2 == talk.receive_reply5()[0]


def test_limits_change(proxy, relayed):
    """Time limits and numbers go by the new settings, for clients that come next."""
    changed(proxy, max_handshakes=4, handshake_timeout=0.1)
    with Talk.to(proxy.port) as talk:
        talk.send(b"\x05").rest()  # ended by the time limit
    changed(proxy, handshake_timeout=3600.0)
    talks = [Talk.to(proxy.port).send(b"\x05") for _ in range(5)]
    talks[0].rest()  # made room
    wait_until(lambda: proxy.stats().handshakes == 4)
    for talk in talks:
        talk.close()


def test_it_waits_for_no_client_and_is_waited_for(proxy, target):
    """Clients that come all the time are served while the settings change all the time."""
    port = proxy.port
    others = [closed_port() for _ in range(3)]
    for n in range(30):
        changed(proxy, listen=proxy.config.listen[:1] + tuple(map(str, others[: n % 4])))
        with Talk.to(port) as talk:
            assert 0 == talk.connect5("127.0.0.1", target.port)[0]
    assert 30 == proxy.stats().succeeded


def test_a_proxy_that_does_not_run_takes_it_for_the_next_start():
    """A proxy that stops changes no more."""
    proxy = Proxy(listen="127.0.0.1:0")
    proxy.reload(proxy.config._replace(user=("ann:secret",)))
    with proxy:
        with Talk.to(proxy.port) as talk:
            talk.send(b"\x05\x01\x00").expect(b"\x05\xff")
        proxy.stop_listening()
        with pytest.raises(RuntimeError, match="stops"):
            proxy.reload(proxy.config)


def test_stop_closes_what_a_reload_has_opened(tmp_path):
    """No listener, no descriptor and no file is left."""
    with nothing_left(), run_proxy() as proxy:
        changed(proxy, listen=proxy.config.listen + ("unix:%s" % (tmp_path / "s"), "127.0.0.2:0"))
        proxy.stop()
    assert not (tmp_path / "s").exists()


# The process


@pytest.fixture
def instance(instance):
    """An instance that runs in the background."""
    assert 0 == instance.start()[0]
    return instance


def test_every_setting_changes_or_says_that_it_cannot(instance, tmp_path):
    """For each of them, reload lists it as changed, or as needing a restart."""
    instance.end()
    assert 0 == instance.start("--ensure")[0]  # with --daemon the command line would win
    other = {
        "listen": "%d\n  127.0.0.2:%d" % (instance.port, closed_port()),
        "user": "ann:secret", "name_only": "bob", "rule": "allow from loopback", "prefer": "ipv4",
        "source": "127.0.0.1", "interface": "lo",
        "pidfile": str(tmp_path / "q"), "log_file": str(tmp_path / "new.log"),
        "public_address": "192.0.2.1", "udp_ports": "40000-40999", "bind_ports": "41000-41999",
        "syslog": str(tmp_path / "nowhere"), "log_format": "json", "users_file": "/dev/null",
        "processor": "none", "forwarded": str(instance.port), "udp_clients": "any-port",
        "udp_filtering": "endpoint-independent", "keepalive": "60,5,3",
        "exit": "a = direct",
    }  # fmt: skip
    by_kind = {"flag": "yes", "seconds": "7", "count": "5", "bytes": "2M"}
    restart = []
    for setting in SETTINGS:
        if setting.name in ("interface", "mark") and os.geteuid():
            continue
        value = other.get(setting.name) or by_kind[setting.kind]
        lines = {"listen": str(instance.port), "pidfile": instance.pidfile}
        lines["log-file"] = instance.log_file
        lines[setting.key] = value
        with open(instance.file, "w") as file:
            file.write("[minisocks]\n" + "".join("%s = %s\n" % line for line in lines.items()))
        os.chmod(instance.file, 0o600)
        answer = instance.ask("reload")
        assert "error" not in answer, answer
        named = answer["changed"] + answer["restart"]
        # And what the one before had changed goes back.
        assert setting.key in named, (setting.key, answer)
        restart += [key for key in answer["restart"] if key not in restart]
        assert instance.pid
    assert sorted(s.key for s in SETTINGS if s.is_fixed) == sorted(restart)


def test_hup_is_reload(instance):
    """The signal does what the command does, and the log has a line about it."""
    instance.configure("user = ann:secret")
    os.kill(instance.pid, signal.SIGHUP)
    instance.wait_for_line("reloaded, changed: user")
    with Talk.to(instance.port) as talk:
        talk.send(b"\x05\x01\x00").expect(b"\x05\xff")


@pytest.mark.parametrize(
    "settings, error",
    [
        ("grace = soon", "line 5: grace: 'soon' is no number of seconds"),
        ("grcae = 1", "line 5: no setting is called 'grcae'; did you mean grace?"),
        ("log-file = /x", "line 5: log-file is there twice"),
        ("[rest", "line 5: the section lacks its ]"),
    ],
)
def test_a_mistake_keeps_the_old_settings(instance, target, settings, error):
    """The command prints the sentence and exits 1, the log has it, connections live on."""
    with instance.relay(target) as talk:
        instance.configure(settings + "\nuser = ann:secret")
        status, out, err = instance.command("reload")
        assert (1, "") == (status, out)
        assert err.startswith("minisocks: %s, %s" % (instance.file, error))
        instance.wait_for_line("not reloaded, the old settings stay: %s, " % instance.file + error)
        assert serves(instance.port)
        talk.send(b"y").expect(b"y")


def test_a_listener_that_cannot_be_had_keeps_the_old_settings(instance, target):
    """Neither users nor log change when a port is taken; nor does a log that cannot be written."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        taken = other.getsockname()[1]
        instance.configure("user = ann:secret", listen="%d\n  %d" % (instance.port, taken))
        assert "in use" in instance.ask("reload")["error"]
    assert serves(instance.port)
    log_file, instance.log_file = instance.log_file, "/no/such/log"
    instance.configure("user = ann:secret")
    error = instance.ask("reload")["error"]
    assert error.startswith(instance.file + ", line ")
    assert ": log-file: cannot write /no/such/log" in error
    assert serves(instance.port)
    instance.log_file = log_file
    instance.relay(target).close()
    instance.wait_for_line("end=client-fin")


def test_log_settings_change_without_losing_a_line(instance, target):
    """Format, file and level change: each line is in the old file or in the new one."""
    instance.relay(target).close()
    instance.wait_for_line("id=1 ")
    old = instance.log_file
    instance.log_file = old + ".json"
    instance.configure("log-format = json")
    assert ["log-file", "log-format"] == instance.ask("reload")["changed"]
    instance.relay(target).close()
    instance.wait_for_line('"id": 2')
    lines = [json.loads(line) for line in instance.log().splitlines()]
    (line,) = [line for line in lines if line.get("id") == 2]
    assert ("127.0.0.1", "CONNECT", "succeeded", 1, 1, "client-fin") == tuple(
        line[key] for key in ("via", "cmd", "rep", "up", "down", "end")
    )
    with open(old) as file:
        text = file.read()
    assert "id=1 " in text
    assert "id=2 " not in text
    instance.configure("log-format = json\nquiet = yes")
    instance.ask("reload")
    instance.relay(target).close()
    wait_until(lambda: instance.ask("status")["open"] == 0)
    instance.configure("log-format = json\nquiet = no")
    instance.ask("reload")
    instance.relay(target).close()
    instance.wait_for_line('"id": 4')
    assert '"id": 3' not in instance.log()


def test_usr1_writes_the_open_connections(instance, target):
    """Each live connection is a line in the log, without an end."""
    with instance.relay(target):
        os.kill(instance.pid, signal.SIGUSR1)
        instance.wait_for_line("connections that are open: 1, of them connected: 1")
        instance.wait_for_line("id=1 ")
        (line,) = [line for line in instance.log().splitlines() if "id=1 " in line]
        assert "up=1B down=1B" in line
        assert "end=" not in line


@pytest.mark.parametrize("hang_up", [True, False])
def test_hup_of_a_terminal_that_has_gone_ends_it(tmp_path, hang_up):
    """A closed window ends what runs in it; a HUP while it is there reloads."""
    pidfile = str(tmp_path / "p")
    pid, terminal = pty.fork()
    if not pid:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
        os.execv(  # noqa: S606  # a child of a terminal of its own
            sys.executable,
            [sys.executable, "-m", "minisocks", "-l", "0", "--pidfile", pidfile],
        )
    said = b""
    while b"try it" not in said:
        said += os.read(terminal, 4096)
    if not hang_up:
        os.kill(pid, signal.SIGHUP)
        while b"reloaded" not in said:
            said += os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert 0 == status


def test_nohup_outlives_its_terminal(tmp_path):
    """A process that ignores HUP from its start goes on when the window is closed."""
    pidfile, log_file = str(tmp_path / "p"), str(tmp_path / "log")
    pid, terminal = pty.fork()
    if not pid:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        args = ["-m", "minisocks", "-l", "0", "--pidfile", pidfile, "--log-file", log_file]
        os.execv(sys.executable, [sys.executable, *args])  # noqa: S606  # as above
    said = b""
    while b"try it" not in said:
        said += os.read(terminal, 4096)
    os.close(terminal)
    os.kill(pid, signal.SIGHUP)

    def has_reloaded():
        with open(log_file) as file:
            return "reloaded" in file.read()

    wait_until(has_reloaded)
    assert (0, 0) == os.waitpid(pid, os.WNOHANG)
    os.kill(pid, signal.SIGTERM)
    assert 0 == os.waitpid(pid, 0)[1]


def test_hup_reloads_in_the_background_whatever_it_was_started_on(tmp_path):
    """A process in the background has left its terminal, so the end of that ends nothing."""
    instance = Instance(tmp_path)
    pid, terminal = pty.fork()
    if not pid:
        args = ["-m", "minisocks", "-c", instance.file, "--daemon"]
        os.execv(sys.executable, [sys.executable, *args])  # noqa: S606  # as above
    try:
        assert 0 == os.waitpid(pid, 0)[1]
        os.close(terminal)
        os.kill(instance.pid, signal.SIGHUP)
        instance.wait_for_line("reloaded, changed: nothing")
        assert instance.pid
    finally:
        instance.end()


def test_config_of_a_program_has_no_such_settings():
    """Settings that only a process can have are no settings of a proxy in a program."""
    for name in ("pidfile", "daemon", "log_file", "syslog", "log_format"):
        with pytest.raises(TypeError, match="%s is for the command line" % name):
            Proxy(**{name: Config._field_defaults[name]})


def open_descriptors_of(instance):
    """Return how many descriptors the process has."""
    return len(os.listdir("/proc/%d/fd" % instance.pid))


def test_reloads_bring_back_what_was_removed_and_leak_nothing(instance, target):
    """Pidfile and control socket are made again, and no descriptor is left open."""
    instance.ask("reload")
    before, pid = open_descriptors_of(instance), instance.pid
    with instance.relay(target):
        for n in range(5):
            os.unlink(instance.pidfile + ".sock")
            if n % 2:
                os.unlink(instance.pidfile)
            os.kill(pid, signal.SIGHUP)
            wait_until(lambda: os.path.exists(instance.pidfile + ".sock"), "the socket")
            assert "changed" in instance.ask("reload")
            wait_until(lambda: instance.pid == pid, "the number in the pidfile")
    wait_until(lambda: open_descriptors_of(instance) <= before, "all descriptors back")


def test_addresses_that_come_and_go_leave_nothing(tmp_path):
    """Of all addresses that were the first one, the first and the last have a pidfile."""
    instance = Instance(tmp_path)
    try:
        paths = ["unix:%s" % (tmp_path / ("s%d" % n)) for n in range(6)]
        for n, path in enumerate(paths):
            with open(instance.file, "w") as file:
                file.write("[minisocks]\nlisten = %s\nlog-file = %s\n" % (path, instance.log_file))
            if n:
                name = paths[0][5:] + ".pid"
                assert 0 == run_command("reload", "--pidfile", name)[0]
                if n == 1:
                    before = len(os.listdir("/proc/%d/fd" % Pidfile(name).holder()))
            else:
                assert 0 == instance.start("--daemon")[0]
        there = [n for n in range(6) if os.path.exists("%s.pid.sock" % paths[n][5:])]
        assert [0, 5] == there
        wait_until(
            lambda: len(os.listdir("/proc/%d/fd" % Pidfile(name).holder())) <= before, "no more"
        )
    finally:
        run_command("stop", "--pidfile", paths[0][5:] + ".pid")


def test_a_file_that_became_a_pipe_holds_nothing_up(instance):
    """The reload fails with a sentence, and the process still stops when asked."""
    os.unlink(instance.file)
    os.mkfifo(instance.file)
    answer = instance.ask("reload")
    assert answer["error"].endswith("cannot read %s: it is no file" % instance.file)
    assert 0 == instance.command("stop")[0]


def test_a_relative_users_file_stays_where_it_was(instance, tmp_path):
    """In the background, and after a reload, which warns anew, it is the same file."""
    line = "%s:$pbkdf2-sha256$1$$" + "A" * 43 + "\n"
    path = tmp_path / "users"
    path.write_text(line % "ann")
    path.chmod(0o600)
    instance.end()
    instance.configure("users-file = users")
    status, _, err = instance.start(cwd=str(tmp_path), env={"PYTHONPATH": ROOT})
    assert 0 == status
    assert "warning" not in err
    path.write_text("ann:s3cret\n")
    status, _, err = instance.command("reload")
    assert 1 == status
    assert ": users-file: %s, line 1: this is no" % path in err
    path.write_text(line % "ann" + line % "bob")
    path.chmod(0o644)
    assert 0 == instance.command("reload")[0]
    instance.wait_for_line("%s holds hashes, and others may read it: chmod 600 %s" % (path, path))
    instance.wait_for_line("reloaded, changed: nothing")
    assert "s3cret" not in instance.log()
