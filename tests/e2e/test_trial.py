"""``check`` denies what a start would refuse, in the same words, and makes nothing."""

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest

from kit.support import CommandLine, closed_port, run_command
from minisocks.errors import ListenError
from minisocks.net.listener import Attempt, open_listeners
from minisocks.net.opening import try_out
from minisocks.values import ListenAddress


def check(*args):
    """Return the status of check, and the lines that are no warnings."""
    status, out, err = run_command("check", *args)
    assert "may come in: " in out  # the table is there whatever else is wrong
    return status, [line for line in err.splitlines() if not line.startswith("warning: ")]


def taken():
    """Return a listening socket, and its address as --listen has it."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(5)
    return sock, "127.0.0.1:%d" % sock.getsockname()[1]


#: Settings that a start is refused for; FOLDER is one, BUSY an address that another program has.
REFUSED = {
    "port in use": ["-l", "BUSY"],
    "no address of ours": ["-l", "192.0.2.1:0"],
    "no such name": ["-l", "no-such-name.invalid:0"],
    "no folder for a unix socket": ["-l", "unix:FOLDER/no/s"],
    "no unix socket there": ["-l", "unix:FOLDER/file"],
    "a long path": ["-l", "unix:FOLDER/" + 120 * "s"],
    "one of both twice": ["-l", "127.0.0.1:FREE", "-l", ":FREE"],
    "the same twice": ["-l", "FREE", "-l", "FREE"],
    "the same unix socket twice": ["-l", "unix:FOLDER/s", "-l", "unix:FOLDER/./s"],
    "no folder for the log": ["-l", "0", "--log-file", "FOLDER/no/log"],
    "the log is a folder": ["-l", "0", "--log-file", "FOLDER"],
    "the log is below a file": ["-l", "0", "--log-file", "FOLDER/file/log"],
    "no folder for the pidfile": ["-l", "0", "--pidfile", "FOLDER/no/p"],
    "the pidfile is a folder": ["-l", "0", "--pidfile", "FOLDER"],
    "the pidfile is another file": ["-l", "0", "--pidfile", "FOLDER/file"],
    "port 0 in the background": ["-l", "0", "--daemon"],
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", sorted(REFUSED))
def test_it_says_what_the_start_says(tmp_path, name):
    """Status and sentence are those of the start, and check has made nothing."""
    (tmp_path / "file").write_text("precious")
    busy, address = taken()
    values = {"FOLDER": str(tmp_path), "BUSY": address, "FREE": str(closed_port())}
    args = REFUSED[name]
    for word, value in values.items():
        args = [arg.replace(word, value) for arg in args]

    with busy:
        status, said = check(*args)
        assert ["file"] == os.listdir(str(tmp_path))
        started, _out, err = run_command(*args)
    assert status == started != 0
    assert ("twice" in name) == said[0].endswith("; name only one of the two")
    assert said == [line for line in err.splitlines() if line.startswith("minisocks: ")]


@pytest.mark.parametrize(
    "args, said",
    [
        (["--log-file", "u", "--users-file", "./u"], "--log-file: u is also that of --users-file"),
        (["--pidfile", "l", "--log-file", "l"], "--pidfile: l is also that of --log-file"),
        (["-c", "ini", "--log-file", "ini"], "--log-file: ini is also the file of settings"),
        (["-c", "ini", "--forwarded", "unix:t"], "unix:t is none of the addresses to listen on"),
    ],
)
def test_settings_that_are_in_each_other_s_way(tmp_path, args, said):
    """Both exit 2 with the sentence, and nothing is written."""
    (tmp_path / "u").touch()
    (tmp_path / "ini").write_text("[minisocks]\nlisten = unix:s\n")
    (tmp_path / "ini").chmod(0o600)
    for command in (["check"], []):
        status, _out, err = run_command(*command, *args, cwd=str(tmp_path))
        assert (2, True) == (status, said in err), err
    assert ["ini", "u"] == sorted(os.listdir(str(tmp_path)))


def test_all_mistakes_are_listed(tmp_path):
    """All of them, not only the first, at which a start would stop; --json has them, too."""
    busy, address = taken()
    with busy:
        args = ["-l", address, "--log-file", str(tmp_path / "no" / "log")]
        status, said = check(*args)
        assert 2 == len(said)
        data = json.loads(run_command("check", "--json", *args)[1])
    assert 2 == status
    assert ["cannot listen on %s: Address already in use" % address] == data["problems"][:1]
    assert "--log-file: cannot write " in data["problems"][1]


def test_what_is_all_right_is_said_to_be_so_and_nothing_is_made(tmp_path):
    """Files that a start would make, in folders that are there; a socket that is left over."""
    left = str(tmp_path / "left")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(left)
    before = os.stat(left).st_ino
    for listen in ("0", "[::1]:0", "localhost:0", "unix:%s" % left, "unix:%s/new" % tmp_path):
        args = ["--pidfile", str(tmp_path / "p"), "--log-file", str(tmp_path / "log")]
        assert (0, []) == check("-l", listen, *args)
    assert ["left"] == os.listdir(str(tmp_path))
    assert before == os.stat(left).st_ino
    assert [] == json.loads(run_command("check", "--json", "-l", "0")[1])["problems"]


def test_a_running_instance_of_these_settings_is_in_no_way(instance, tmp_path):
    """Its port, unix socket and pidfile are its own, because check is used before a reload."""
    path = tmp_path / "s"
    listen = "\n  127.0.0.1:%d\n  unix:%s" % (instance.port, path)
    instance.configure(listen=listen)
    assert 0 == instance.start()[0]
    assert (0, []) == check("-c", instance.file)
    instance.configure(listen=":%d" % instance.port)  # a reload takes 127.0.0.1 back for it
    assert (0, []) == check("-c", instance.file)
    # Two of them are not both its own.
    instance.configure(listen="\n  127.0.0.1:%d\n  localhost:%d" % (instance.port, instance.port))
    status, (said,) = check("-c", instance.file)
    assert 1 == status
    assert "this minisocks listens on 127.0.0.1:%d already; name only one" % instance.port in said
    # Of another instance they are in the way.
    status, (said,) = check("-l", str(instance.port), "--pidfile", str(tmp_path / "other"))
    assert 1 == status
    assert "Address already in use" in said
    busy, address = taken()
    with busy:
        instance.configure(listen="\n  %d\n  %s" % (instance.port, address))
        assert 1 == check("-c", instance.file)[0]


def test_one_in_the_foreground_is_found_by_its_default_pidfile(tmp_path):
    """The process has named no pidfile itself."""
    port = str(closed_port())
    with CommandLine("-l", port):
        assert (0, []) == check("-l", port)


def test_nothing_can_connect_meanwhile():
    """An address is bound, and not listened on: no client is accepted and then reset."""
    port = closed_port()
    attempt = Attempt()
    attempt.listen(ListenAddress("127.0.0.1", port))
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(("127.0.0.1", port))
    with pytest.raises(ListenError, match="this minisocks listens on 127.0.0.1:%d already" % port):
        attempt.listen(ListenAddress("", port))
    attempt.close()


def test_it_is_in_the_way_of_no_start_and_no_other_check():
    """A running check keeps neither a start nor another check from the same address."""
    address = ListenAddress("127.0.0.1", closed_port())
    first, second, third = Attempt(), Attempt(), Attempt()
    first.listen(address)
    second.listen(address)
    (listener,) = open_listeners(address)
    with pytest.raises(ListenError, match="Address already in use"):
        third.listen(address)
    for opened in (listener, first, second, third):
        opened.close()


#: Try to open for writing, as another user.
AS_OTHER = """
import os, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
from minisocks.net.opening import open_trusted, try_out
for call in (try_out, open_trusted):
    try:
        call(sys.argv[1], os.O_WRONLY | os.O_CREAT)
    except PermissionError:
        print("no")
"""


@pytest.mark.skipif(bool(os.geteuid()), reason="only root can play another user")
@pytest.mark.parametrize("name", ["file", "new"])
def test_what_this_user_may_not_write_is_listed(name):
    """A file that exists, and one that would be made, are listed."""
    folder = "/run/minisocks-test-%d" % os.getpid()
    os.mkdir(folder, 0o755)
    try:
        with open(os.path.join(folder, "file"), "w"):
            pass
        args = [sys.executable, "-c", AS_OTHER, os.path.join(folder, name)]
        said = subprocess.check_output(args, universal_newlines=True)
        assert ["no", "no"] == said.split()
        try_out(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT)  # root may
        assert ["file"] == os.listdir(folder)
    finally:
        shutil.rmtree(folder)
