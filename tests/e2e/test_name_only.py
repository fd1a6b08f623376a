"""--name-only: users that need no password, and the warnings about them."""

import shutil
import subprocess

import pytest

from kit.support import (
    REJECTED4,
    CommandLine,
    Talk,
    closed_port,
    password_message,
    run_command,
    run_proxy,
    socks4,
    socks5,
)
from minisocks import Config
from minisocks.access import Users
from minisocks.errors import ConfigError
from minisocks.protocol.messages import Credentials

ANY = [b"", b" ", b"secret", b"\0" * 255]
TOLD = (
    "any client that gives the name 'ann' is admitted as that user, whatever its password "
    "(--name-only); the name is not secret"
)


def log_in(port, name, password, target=None):
    """Return STATUS, and REP if it was 0 and there is a *target*."""
    with Talk.to(port) as talk:
        talk.send(b"\x05\x01\x02").expect(b"\x05\x02")
        status = talk.send(password_message(name, password)).receive(2)[1]
        if status or target is None:
            return status
        rep = talk.send(socks5("127.0.0.1", target.port)).receive_reply5()[0]
        talk.send(b"x").expect(b"x")
        return status, rep


@pytest.mark.parametrize("password", ANY)
def test_any_password_is_right(target, password):
    """An empty password will do, too (PLEN 0); the client is that user in rules."""
    rules = ["allow user ann port %d" % target.port]
    with run_proxy(name_only="ann", rule=rules) as proxy:
        assert (0, 0) == log_in(proxy.port, b"ann", password, target)


@pytest.mark.parametrize(
    "settings",
    [{}, {"user": "bob:secret"}, {"authenticate": lambda user, password, client: user == "eve"}],
)
def test_others_need_theirs(target, settings):
    """Names are compared whole and exactly; SOCKS4 cannot send one; no name is no user."""
    with run_proxy(name_only=["ann", "carl"], **settings) as proxy:
        for name in (b"ann", b"carl"):
            assert 0 == log_in(proxy.port, name, b"x")
        for name in (b"an", b"Ann", b""):
            assert 1 == log_in(proxy.port, name, b"x")
        if "user" in settings:
            assert 0 == log_in(proxy.port, b"bob", b"secret")
        with Talk.to(proxy.port) as talk:
            assert REJECTED4 == talk.send(socks4("127.0.0.1", target.port, b"ann")).receive(8)
        with Talk.to(proxy.port) as talk:
            talk.send(b"\x05\x01\x00").expect(b"\x05\xff")


def test_it_costs_no_derivation_and_stays_one_user():
    """Beside a password and a hash of that name; all passwords sent give the same user."""
    users = Users([(b"ann", b""), (b"ann", b"x"), (b"bob", b"y")], lambda *args: False)
    for password in ANY:
        meant = users.normalized(Credentials(b"ann", password))
        assert users.knows(meant)
        assert users.accepts_proof(b"ann", users.proof(meant))
        assert users.proof(meant) == users.proof(Credentials(b"ann", b""))
    assert not users.knows(users.normalized(Credentials(b"bob", b"")))


def test_a_reload_takes_it_back(target):
    """The next login needs a password."""
    with run_proxy(name_only="ann", user=("ann:y", "bob:x")) as proxy:
        assert 0 == log_in(proxy.port, b"ann", b"x")
        proxy.reload(proxy.config._replace(name_only=()))
        assert 1 == log_in(proxy.port, b"ann", b"x")
        assert 0 == log_in(proxy.port, b"ann", b"y")


@pytest.mark.parametrize(
    "text, words",
    [
        ("ann:secret", "takes a name alone; NAME:PASSWORD goes to --user"),
        ("", "must not be empty"),
        ("x" * 256, "longer than 255 bytes"),
        ("\ud800", "is no text"),
    ],
)
def test_what_is_no_name_is_refused(text, words):
    """The sentence does not repeat it where it may contain a password."""
    with pytest.raises(ConfigError, match=words) as told:
        Config.of(name_only=text)
    assert "secret" not in str(told.value)


def test_a_password_that_was_not_set_opens_nothing():
    """A script with an empty variable still gets an error, which names the other option."""
    for text in ("ann:", "ann", ":", ":x"):
        with pytest.raises(ConfigError, match="needs no password goes to --name-only"):
            Config.of(user=text)


def test_the_start_a_reload_and_check_warn_of_it(instance):
    """Each of them has the sentence."""
    with CommandLine("-l", "0", "--name-only", "ann") as command:
        command.wait_for_line(TOLD)
        command.wait_for_line("any client that has a password; a name of --name-only counts as a")
    instance.configure("name-only = ann")
    assert TOLD in instance.start()[2]
    assert TOLD not in instance.log()
    assert 0 == instance.command("reload")[0]
    instance.wait_for_line(TOLD)
    assert TOLD in run_command("check", "--name-only", "ann")[2]
    assert "" == run_command("check", "--user", "ann:x")[2]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize("user, code", [("ann:", 0), ("ann:x", 0), ("bob:", 97), ("bob:y ", 0)])
def test_curl_comes_in_by_name(user, code, tmp_path):
    """curl may also send a password that ends in a blank; the user is from a file of settings."""
    (tmp_path / "m.ini").write_text("[minisocks]\nname-only = ann\nuser = 'bob:y '\n")
    (tmp_path / "m.ini").chmod(0o600)
    with CommandLine("-l", "0", "-c", str(tmp_path / "m.ini")) as command:
        words = ["curl", "-sS", "--max-time", "20", "http://127.0.0.1:%d/" % closed_port()]
        words += ["--proxy", "socks5h://127.0.0.1:%d" % command.ports[0], "--proxy-user", user]
        curl = subprocess.Popen(words, stderr=subprocess.PIPE, universal_newlines=True)
        # Where it may come in, the target then refuses: REP 05.
        assert ("(5)" in curl.communicate()[1]) == (code == 0)
