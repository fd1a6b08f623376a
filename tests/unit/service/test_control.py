"""The control channel: a line asked, a line answered, and no caller can do harm by it."""

import errno
import json
import os
import socket
import stat
import threading

import pytest

import minisocks.net.capacity
import minisocks.service.control
from kit import inside
from kit.support import TIMEOUT, Talk, nothing_left, wait_until
from minisocks.net.loop import Loop, run_in
from minisocks.service.control import MAX_CALLERS, MAX_REQUEST_BYTES, Control
from minisocks.service.remote import request


@pytest.fixture
def path(tmp_path):
    """Where the channel is."""
    return str(tmp_path / "m.pid.sock")


class Server:
    """A control channel that answers with what it was asked, or later."""

    def __init__(self, path):
        self.loop = Loop()
        self.loop.start()
        self.wishes = []
        self.later = []
        self.control = Control(self.loop, path, self.carry_out)
        self.loop.submit(self.control)

    def carry_out(self, wish, answer):
        self.wishes.append(wish)
        if wish.get("do") == "wait":
            self.later.append(answer)
        else:
            answer({"asked": wish, "fill": "x" * wish.get("size", 0)})


@pytest.fixture
def server(path):
    """A channel that is served."""
    running = Server(path)
    yield running
    running.loop.stop()


def call(path):
    """Return a connection to the channel."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(TIMEOUT)
    sock.connect(path)
    return Talk(sock)


def ask(talk, data):
    """Send a line and return what comes back."""
    talk.send(data + b"\n")
    line = b""
    while not line.endswith(b"\n"):
        line += talk.receive(1)
    return json.loads(line.decode())


def test_only_its_owner_may_connect(server, path):
    """Mode 0600, whatever the umask; the file is removed at the end."""
    mode = os.stat(path).st_mode
    assert stat.S_ISSOCK(mode)
    assert 0o600 == mode & 0o777
    server.loop.stop()
    assert not os.path.exists(path)


def test_a_file_of_an_earlier_one_is_replaced(path):
    """A killed process has left it behind."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    server = Server(path)
    assert {"do": "x"} == request(path, {"do": "x"}, TIMEOUT)["asked"]
    server.loop.stop()


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_is_left_alone(path, kind):
    """A file of that name may be precious."""
    if kind == "file":
        with open(path, "w") as file:
            file.write("precious")
    elif kind == "directory":
        os.mkdir(path)
    else:
        os.symlink("/no/such", path)
    loop = Loop()
    with nothing_left(), pytest.raises(OSError, match="no socket"):
        Control(loop, path, lambda wish, answer: None)
    assert os.path.lexists(path)
    loop.stop()


def test_its_file_is_there_when_it_answers(path):
    """A program that waits for the file can connect as soon as it sees it."""
    found = []

    def look():
        while not found:
            if os.path.exists(path):
                with socket.socket(socket.AF_UNIX) as sock:
                    found.append(sock.connect_ex(path))

    thread = threading.Thread(target=look)
    thread.start()
    loop = Loop()
    control = Control(loop, path, lambda wish, answer: None)
    thread.join()
    assert [0] == found
    assert [os.path.basename(path)] == os.listdir(os.path.dirname(path))
    control.abort("")
    loop.stop()


def test_request_and_answer(server, path):
    """A caller may ask as often as it likes; requests may be cut anywhere."""
    with call(path) as talk:
        for n in range(3):
            assert {"n": n} == ask(talk, json.dumps({"n": n}).encode())["asked"]
        for byte in b'{"a": 1}':
            talk.send(bytes((byte,)))
        assert {"a": 1} == ask(talk, b"")["asked"]
        talk.send(b'{"a": 2}\n{"a": 3}\n{"a"')
        answers = b""
        while answers.count(b"\n") < 2:
            answers += talk.receive(1)
        assert [2, 3] == [json.loads(a)["asked"]["a"] for a in answers.decode().splitlines()]
        assert {"a": 4} == ask(talk, b": 4}")["asked"]


def test_long_answer(server, path):
    """More than any buffer takes arrives whole."""
    answer = request(path, {"size": 5 << 20}, TIMEOUT)
    assert 5 << 20 == len(answer["fill"])


@pytest.mark.parametrize(
    "line", [b"", b"x", b"[]", b"3", b"{", b"\xff\xfe", b"[" * 4000, b"null", b'"do"']
)
def test_nonsense_is_answered(server, path, line):
    """What is no request is answered as an unknown one; the next one is served."""
    with call(path) as talk:
        assert {} == ask(talk, line)["asked"]
        assert {"do": "y"} == ask(talk, b'{"do": "y"}')["asked"]


def test_a_request_has_a_bound(server, path):
    """A caller that sends and sends without a line's end is cut off."""
    with nothing_left(), call(path) as talk:
        with pytest.raises(OSError, match="."):
            talk.send(b"x" * MAX_REQUEST_BYTES * 1000)
    assert [] == server.wishes


def test_an_answer_may_take_its_time(server, path):
    """Others are served meanwhile; a caller that leaves meanwhile disturbs no other."""
    with nothing_left():
        with call(path) as patient, call(path) as hasty:
            patient.send(b'{"do": "wait"}\n')
            hasty.send(b'{"do": "wait"}\n')
            wait_until(lambda: len(server.later) == 2)
            assert {"n": 1} == request(path, {"n": 1}, TIMEOUT)["asked"]
            hasty.close()
            for answer in server.later:
                threading.Thread(target=answer, args=({"late": True},)).start()
            patient.expect(b'{"late": true}\n')


def test_callers_have_a_bound(server, path):
    """Beyond it they wait in the kernel, and are served when one has gone."""
    with nothing_left():
        talks = [call(path) for _ in range(MAX_CALLERS + 2)]
        for talk in talks[:MAX_CALLERS]:
            assert ask(talk, b"{}")
        talks[-1].send(b'{"last": 1}\n')
        talks[-2].send(b'{"last": 0}\n')
        assert {"last": 1} not in server.wishes
        for talk in talks[:2]:
            talk.close()
        for talk in talks[-2:]:
            assert b"{" == talk.receive(1)
        for talk in talks:
            talk.close()


@pytest.mark.parametrize("said", [b"", b'{"a"', b'{"do": "wait"}\n'])
def test_a_caller_has_a_time_limit(server, path, monkeypatch, said):
    """A caller that does not ask, or does not take the answer, is cut off."""
    monkeypatch.setattr(minisocks.service.control, "CALLER_SECONDS", 0.05)
    with call(path) as talk:
        talk.send(said)
        if b"wait" in said:
            wait_until(lambda: server.later)
            server.later[0]({"big": "x" * (8 << 20)})
        wait_until(lambda: len(inside.jobs(server.loop)) == 1, "the end of the caller")
        assert len(talk.rest()) < 8 << 20


def test_without_descriptors_it_is_tried_again(server, path, monkeypatch):
    """A caller is served when there are some; the loop does not spin meanwhile."""
    monkeypatch.setattr(minisocks.service.control, "RETRY_SECONDS", 0.05)

    class Full:
        """The listener, three times without room."""

        def __init__(self, sock):
            self.sock, self.left = sock, 3

        def accept(self):
            self.left -= 1
            if self.left >= 0:
                raise OSError(errno.EMFILE, "full")
            return self.sock.accept()

        def __getattr__(self, name):
            return getattr(self.sock, name)

    full = Full(inside.control_socket(server.control))
    inside.replace_control_socket(server.control, full)
    assert {"n": 1} == request(path, {"n": 1}, TIMEOUT)["asked"]
    assert -1 == full.left


def test_accept_that_fails_is_tried_at_a_pace(server, path, monkeypatch, caplog):
    """Each error gives a line at each edge, and no spin meanwhile."""
    monkeypatch.setattr(minisocks.net.capacity, "LONG_SECONDS", 3600)
    broken, done = inside.control_socket(server.control), threading.Event()

    class Broken:
        """The listener, at which no caller can be accepted."""

        tried = 0

        def accept(self):
            self.tried += 1
            if self.tried == minisocks.net.capacity.MANY:
                done.set()
            raise OSError(errno.EPERM, "not permitted")

        def __getattr__(self, name):
            return getattr(broken, name)

    inside.replace_control_socket(server.control, Broken())
    with call(path):
        assert done.wait(TIMEOUT)
        for _ in range(3):
            run_in(server.loop, lambda: None)
    assert minisocks.net.capacity.MANY == inside.control_socket(server.control).tried
    said = [r.getMessage() for r in caplog.records]
    assert ["accept on unix:%s fails: not permitted; trying again" % path] == said


def test_it_is_no_connection(server, path):
    """A proxy whose last client has gone is empty, whichever program asks for its status."""
    with call(path) as talk:
        ask(talk, b"{}")
        assert 0 == len(server.loop)


@pytest.mark.parametrize("answer", [b"", b"x\n", b"[]\n", b"\xff\n"])
def test_what_is_no_minisocks_is_told_apart(path, answer):
    """An answer that is none is an error, whatever listens there."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen(1)

        def serve():
            sock = other.accept()[0]
            sock.recv(100)
            sock.sendall(answer)
            sock.close()

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ValueError, match="."):
            request(path, {}, TIMEOUT)
        thread.join()
