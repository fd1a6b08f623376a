"""Every form of ``--listen``, and what happens to the file of a unix socket."""

import contextlib
import fcntl
import os
import socket
import threading

import pytest

from kit.support import (
    GREETING,
    FakeTarget,
    Talk,
    closed_port,
    open_descriptors,
    run_proxy,
    wait_until,
)
from minisocks import Config, ListenError, Proxy
from minisocks.net.listener import Listener, open_listeners
from minisocks.values import ListenAddress


def has_ipv6():
    """Return whether this host has IPv6 on loopback."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
        return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on loopback")


@contextlib.contextmanager
def listening(text):
    """Open what *text* asks for; yields the listeners."""
    opened = open_listeners(ListenAddress.parse(text))
    try:
        yield opened
    finally:
        for listener in opened:
            listener.close()


def answers(family, address):
    """Return whether a process listens at *address*."""
    with socket.socket(family) as sock:
        sock.settimeout(20)
        return sock.connect_ex(address) == 0


@pytest.mark.parametrize("text", ["0", "127.0.0.1:0"])
def test_a_port_is_on_loopback(text):
    """PORT listens on 127.0.0.1 and nowhere else, and says which port 0 became."""
    with listening(text) as (listener,):
        host, port = listener.sock.getsockname()
        assert ("127.0.0.1", "127.0.0.1:%d" % port) == (host, listener.address)
        assert port
        assert answers(socket.AF_INET, (host, port))
        assert not answers(socket.AF_INET, ("127.0.0.2", port))


def test_a_port_can_be_chosen():
    """A port that is asked for is the one that is listened on, and again at once after."""
    port = closed_port()
    for _ in range(2):
        with run_proxy(listen=("%d" % port,)) as proxy, Talk.to(port) as talk:
            talk.send(GREETING).expect(b"\x05\x00")
            assert ["127.0.0.1:%d" % port] == proxy.addresses


@needs_ipv6
def test_an_ipv6_address():
    """[V6]:PORT listens there, and shows its brackets."""
    with listening("[::1]:0") as (listener,):
        host, port = listener.sock.getsockname()[:2]
        assert ("::1", "[::1]:%d" % port) == (host, listener.address)
        assert answers(socket.AF_INET6, ("::1", port))
        assert not answers(socket.AF_INET, ("127.0.0.1", port))


@needs_ipv6
@pytest.mark.parametrize("zero", [True, False], ids=["port-0", "port"])
def test_every_address_is_two_sockets_on_one_port(zero):
    """:PORT listens on IPv4 and IPv6, each by a socket of its own, on the same port."""
    with listening(":0" if zero else ":%d" % closed_port()) as (four, six):
        assert (socket.AF_INET, socket.AF_INET6) == (four.sock.family, six.sock.family)
        assert six.sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        port = four.sock.getsockname()[1]
        assert port == six.sock.getsockname()[1]
        assert ["0.0.0.0:%d" % port, "[::]:%d" % port] == [four.address, six.address]
        assert answers(socket.AF_INET, ("127.0.0.9", port))
        assert answers(socket.AF_INET6, ("::1", port))


@needs_ipv6
def test_every_address_finds_a_port_that_is_free_on_both(monkeypatch):
    """:0 tries again when the port it got on IPv4 is taken on IPv6."""
    taken = []
    real_listen = socket.socket.listen

    with contextlib.ExitStack() as stack:

        class Spoiler(socket.socket):
            """Takes the IPv6 port as soon as the IPv4 one is known, three times."""

            def listen(self, backlog):
                real_listen(self, backlog)
                if self.family == socket.AF_INET and len(taken) < 3:
                    taken.append(self.getsockname()[1])
                    other = stack.enter_context(socket.socket(socket.AF_INET6))
                    other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    other.bind(("::", taken[-1]))
                    real_listen(other, 1)

        class Module:
            """The socket module, with other sockets."""

            socket = Spoiler

            def __getattr__(self, name):
                return getattr(socket, name)

        monkeypatch.setattr("minisocks.net.listener.socket", Module())
        before = open_descriptors()
        with listening(":0") as opened:
            assert 2 == len(opened)
            assert opened[0].sock.getsockname()[1] not in taken
        assert before + 3 == open_descriptors()


def test_a_name_is_all_its_addresses():
    """NAME:PORT listens on every address that the name has, on one port."""
    wanted = {row[4][0] for row in socket.getaddrinfo("localhost", 0, 0, socket.SOCK_STREAM)}
    with listening("localhost:0") as opened:
        names = [listener.sock.getsockname() for listener in opened]
        assert wanted == {name[0] for name in names}
        assert 1 == len({name[1] for name in names})


def test_clients_never_come_as_mapped_addresses(access_log):
    """An IPv4 client of :PORT is an IPv4 client, in the log and in the rules."""
    with run_proxy(listen=(":0",)) as proxy, FakeTarget() as target:
        with Talk.to(proxy.port) as talk:
            assert 0 == talk.connect5("127.0.0.1", target.port)[0]
        assert " client=127.0.0.1:" in access_log.wait_for("end=")
        if has_ipv6():
            with Talk.to(proxy.port, "::1") as talk:
                assert 0 == talk.connect5("127.0.0.1", target.port)[0]
            assert " client=[::1]:" in access_log.wait_for("[::1]")


@pytest.mark.parametrize(
    "text, word",
    [
        ("no-such-host.invalid:0", "no-such-host.invalid"),
        ("203.0.113.77:0", "203.0.113.77"),
        ("unix:/nonexistent/dir/sock", "/nonexistent/dir/sock"),
        ("unix:/tmp/" + "x" * 200, "too long"),
    ],
)
def test_what_cannot_be_listened_on_is_an_error_in_a_sentence(text, word):
    """An address that is not ours, or a path that cannot be, is a ListenError that names it."""
    before = open_descriptors()
    with pytest.raises(ListenError) as caught:
        open_listeners(ListenAddress.parse(text))
    assert word in str(caught.value)
    assert "cannot listen on" in str(caught.value)
    assert before == open_descriptors()


@pytest.mark.parametrize("form", ["%d", "127.0.0.1:%d", ":%d", "localhost:%d"])
def test_a_port_that_is_taken_is_an_error(form):
    """A port on which another process listens is refused, and no socket is left over."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        before = open_descriptors()
        with pytest.raises(ListenError, match="in use"):
            open_listeners(ListenAddress.parse(form % other.getsockname()[1]))
        assert before == open_descriptors()


# Unix sockets


def talk_to(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(path)
    return Talk(sock)


def stale(path):
    """Leave a socket file at *path* that no process listens on."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "sock")


def test_a_unix_socket_serves_its_owner_only(path, target, access_log):
    """unix:PATH serves like any other, with mode 0600 whatever the umask, and goes at the end."""
    old = os.umask(0)
    try:
        with run_proxy(listen=("unix:" + path,)) as proxy:
            assert ["unix:" + path] == proxy.addresses
            assert 0o600 == os.stat(path).st_mode & 0o777
            with talk_to(path) as talk:
                assert 0 == talk.connect5("127.0.0.1", target.port)[0]
                talk.send(b"x").expect(b"x").finish().expect_eof()
            assert "client=unix " in access_log.wait_for("end=client-fin")
    finally:
        os.umask(old)
    assert not os.path.exists(path)


def test_a_stale_socket_file_is_replaced(path):
    """A socket that no process listens on, left by a crash, is no obstacle."""
    stale(path)
    with run_proxy(listen=("unix:" + path,)), talk_to(path) as talk:
        talk.send(GREETING).expect(b"\x05\x00")


def test_a_socket_that_a_process_listens_on_is_left_alone(path):
    """A second proxy on the same path is refused, and the first one keeps its socket."""
    with run_proxy(listen=("unix:" + path,)):
        identity = os.stat(path).st_ino
        with pytest.raises(ListenError, match="another server answers"):
            open_listeners(ListenAddress.parse("unix:" + path))
        assert identity == os.stat(path).st_ino
        with talk_to(path) as talk:
            talk.send(GREETING).expect(b"\x05\x00")


def test_a_busy_socket_is_left_alone(path):
    """A server whose backlog is full is a server, too."""
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(socket.socket(socket.AF_UNIX))
        busy.bind(path)
        busy.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket(socket.AF_UNIX))
            filler.setblocking(False)
            filler.connect_ex(path)
        outcome = []

        def open_it():
            try:
                open_listeners(ListenAddress.parse("unix:" + path))
            except ListenError as exc:
                outcome.append(str(exc))

        thread = threading.Thread(target=open_it)
        thread.start()
        thread.join(20)
        assert outcome
        assert "another server answers" in outcome[0]
        assert os.path.exists(path)


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_is_left_alone(tmp_path, path, kind):
    """A file, a directory or a link at the path is never removed."""
    if kind == "file":
        with open(path, "w") as file:
            file.write("precious")
    elif kind == "directory":
        os.mkdir(path)
    else:
        stale(str(tmp_path / "other"))
        os.symlink(str(tmp_path / "other"), path)
    identity = os.lstat(path).st_ino
    with pytest.raises(ListenError, match="no socket"):
        open_listeners(ListenAddress.parse("unix:" + path))
    assert identity == os.lstat(path).st_ino


def test_a_path_that_is_gone_at_the_end_is_no_trouble(path):
    """Another process removed the file: closing ignores that."""
    (listener,) = open_listeners(ListenAddress.parse("unix:" + path))
    os.unlink(path)
    listener.close()


@pytest.mark.parametrize("by", ["file", "socket"])
def test_a_path_that_is_another_s_at_the_end_is_left_alone(path, by):
    """Another process put something else there: it stays."""
    (listener,) = open_listeners(ListenAddress.parse("unix:" + path))
    os.rename(path, path + ".old")
    if by == "socket":
        stale(path)
    else:
        open(path, "w").close()
    listener.close()
    assert os.path.exists(path)


@pytest.mark.parametrize("attempt", range(10))
def test_of_several_that_start_at_once_one_wins(path, attempt):
    """Eight that find the same stale socket do not remove each other's."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    stale(path)
    opened, refused = [], []
    go = threading.Barrier(8)

    def open_it():
        go.wait()
        try:
            opened.extend(open_listeners(ListenAddress.parse("unix:" + path)))
        except ListenError as exc:
            refused.append(exc)

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert (1, 7) == (len(opened), len(refused))
        talk_to(path).close()
    finally:
        for listener in opened:
            listener.close()


# Given listeners


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_a_listener_can_be_given(path, target, family):
    """A socket that listens already serves beside our own, and its file is not ours to remove."""
    given = socket.socket(socket.AF_UNIX if family == "unix" else socket.AF_INET)
    given.bind(path if family == "unix" else ("127.0.0.1", 0))
    given.listen(8)
    address = given.getsockname()
    with Proxy(Config(listen=("127.0.0.1:0",)), listeners=(given,)) as proxy:
        assert 2 == len(proxy.addresses)
        assert Listener(given).address in proxy.addresses
        own = int(proxy.addresses[0].rpartition(":")[2])
        for talk in (talk_to(path) if family == "unix" else Talk.to(address[1]), Talk.to(own)):
            with talk:
                assert 0 == talk.connect5("127.0.0.1", target.port)[0]
    assert -1 == given.fileno()
    assert os.path.exists(path) == (family == "unix")


def test_a_given_listener_is_closed_and_not_shut_down():
    """Another process that shares a listener goes on accepting after we have stopped."""
    given = socket.socket()
    given.bind(("127.0.0.1", 0))
    given.listen(8)
    with given.dup() as shared:
        with Proxy(Config(listen=("127.0.0.1:0",)), listeners=(given,)):
            pass
        shared.settimeout(20)
        with Talk.to(shared.getsockname()[1]):
            shared.accept()[0].close()


def test_a_listener_that_was_never_served_is_the_giver_s():
    """A proxy that did not start closes nothing that it was given."""
    with socket.socket() as given:
        given.bind(("127.0.0.1", 0))
        given.listen(8)
        Proxy(Config(listen=("127.0.0.1:0",)), listeners=(given,)).stop()
        assert given.fileno() >= 0
        taken = "127.0.0.1:%d" % given.getsockname()[1]
        with pytest.raises(ListenError):
            Proxy(Config(listen=(taken,)), listeners=(given,)).start()
        wait_until(lambda: given.fileno() >= 0)


def test_a_lock_of_another_process_does_not_keep_it_from_starting(tmp_path, monkeypatch):
    """In a directory like /tmp any user may hold the lock: then it starts without."""
    monkeypatch.setattr("minisocks.net.listener.LOCK_TRIES", 2)
    fd = os.open(str(tmp_path), os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        path = str(tmp_path / "s")
        (listener,) = open_listeners(ListenAddress.parse("unix:" + path))
        listener.close()
        assert not os.path.exists(path)
    finally:
        os.close(fd)


def test_a_name_with_an_address_that_is_not_here(monkeypatch):
    """The listener is on those of the addresses that this host has."""
    rows = [(socket.AF_INET, 1, 6, "", (ip, 0)) for ip in ("192.0.2.1", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: rows)
    (listener,) = open_listeners(ListenAddress.parse("here.test:0"))
    with contextlib.closing(listener):
        assert listener.address.startswith("127.0.0.1:")


def test_a_name_none_of_whose_addresses_is_here(monkeypatch):
    """If this host has none of them, the error says that."""
    rows = [(socket.AF_INET, 1, 6, "", ("192.0.2.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: rows)
    with pytest.raises(ListenError, match="cannot listen on here.test:0"):
        open_listeners(ListenAddress.parse("here.test:0"))
