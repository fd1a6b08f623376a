"""TCP's urgent data, which a pair passes on as such."""

import fcntl
import ftplib
import os
import random
import select
import signal
import socket
import threading

import pytest

from kit import hosts
from kit.relaying import ENDS, MB, loop_that_moves, tcp, unix
from kit.support import TIMEOUT, FakeTarget, Talk, run_proxy, wait_until
from minisocks import compat
from minisocks.relay.flow import Flow

#: For tests of urgent data, which depends on how the kernel reports it and how bytes are moved.
every_way = pytest.mark.parametrize("loop", ["buffer", "pipe", "poll", "rated"], indirect=True)

knows_urgent = pytest.mark.skipif(
    not hasattr(select, "POLLPRI"), reason="no poll() here that tells of urgent data"
)


@pytest.fixture(params=["buffer", "pipe", "rated"])
def loop(request, monkeypatch):
    """A running loop; bytes go through its buffer, what can through a pipe, or at a rate."""
    with loop_that_moves(request.param, monkeypatch) as running:
        yield running


def send_urgent(talk, byte):
    assert 1 == talk.sock.send(byte, socket.MSG_OOB)


def wait_urgent(sock):
    """Wait until the kernel tells of an urgent byte that has come."""
    poller = select.poll()
    poller.register(sock, select.POLLPRI)
    assert poller.poll(1000 * TIMEOUT), "no urgent byte has come"


def send_for_ever(sock, data, flags=0):
    while True:
        sock.send(data, flags)


def in_line(talk):
    """Have urgent bytes be read in their place among the others."""
    talk.sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


@pytest.mark.rfc(
    "RFC 1928 section 6, Reply processing",
    "After a success of BIND or CONNECT the client may start passing data.",
)
@knows_urgent
@every_way
@pytest.mark.parametrize("first", ENDS)
def test_an_urgent_byte_arrives_as_one_and_in_its_place(relayed, access_log, first):
    """As many as there are, one after the other, and at the end; each is counted."""
    pair = relayed()
    one, other = pair.ends(first)
    in_line(other)
    for _ in range(3):
        one.send(b"ab")
        send_urgent(one, b"X")
        one.send(b"cd")
        wait_urgent(other.sock)
        other.expect(b"ab")
        assert compat.is_at_mark(other.sock)
        other.expect(b"Xcd")
        assert not compat.is_at_mark(other.sock)
    send_urgent(one, b"Y")
    wait_urgent(other.sock)
    assert compat.is_at_mark(other.sock)
    assert pair.count_rounds() < 10
    one.finish()
    other.expect(b"Y").expect_eof()
    other.finish()
    line = access_log.wait_for("end=")
    assert ("up=16B down=0B" if first == "client" else "up=0B down=16B") in line


@knows_urgent
@every_way
@pytest.mark.parametrize("first", ENDS)
def test_an_urgent_byte_is_there_for_readers_that_ask_for_it_alone(relayed, first):
    """As from the sender directly: beside the stream, and the stream goes on without it."""
    pair = relayed()
    one, other = pair.ends(first)
    one.send(b"ab")
    send_urgent(one, b"X")
    one.send(b"cd")
    wait_urgent(other.sock)
    assert b"X" == other.sock.recv(1, socket.MSG_OOB)
    other.expect(b"abcd")


@knows_urgent
@every_way
@pytest.mark.parametrize("first", ENDS)
def test_an_urgent_byte_sends_its_signal(relayed, first):
    """SIGURG, for the program that has asked for it."""
    heard = []
    before = signal.signal(signal.SIGURG, lambda *_args: heard.append(1))
    try:
        pair = relayed()
        one, other = pair.ends(first)
        fcntl.fcntl(other.sock, fcntl.F_SETOWN, os.getpid())
        send_urgent(one, b"X")
        # No Event.wait(): a signal just before it blocks does not end it, and Python calls no
        # handler while the main thread waits.
        wait_until(lambda: heard)
    finally:
        signal.signal(signal.SIGURG, before)


@knows_urgent
@every_way
@pytest.mark.parametrize("first", ENDS)
def test_urgent_bytes_in_bulk_change_no_place(relayed, first):
    """With a receiver that is slow; the last one, that no other overtakes, arrives as urgent."""
    pair = relayed(small=ENDS)
    one, other = pair.ends(first)
    in_line(other)
    rng = random.Random(1)
    sent, received, marks = [], [], []

    def send():
        for _ in range(40):
            sent.append(os.urandom(rng.choice((1, 1000, 70000))))
            one.send(sent[-1])
            sent.append(b"!")
            one.sock.sendall(b"!", socket.MSG_OOB)
        one.finish()

    sender = threading.Thread(target=send)
    sender.start()
    while True:
        assert select.select([other.sock], [], [], TIMEOUT)[0]
        marks.append(compat.is_at_mark(other.sock))
        received.append(other.sock.recv(5000))
        if not received[-1]:
            break
    sender.join()
    assert b"".join(sent) == b"".join(received)
    assert [(True, b"!"), (False, b"")] == list(zip(marks, received))[-2:]


@knows_urgent
@pytest.mark.parametrize("first", ENDS)
def test_an_urgent_byte_for_which_there_is_no_room_waits_as_one(relayed, first):
    """Its receiver takes nothing; when it does, the byte still is urgent."""
    pair = relayed(small=ENDS)
    one, other = pair.ends(first)
    in_line(other)
    flow = pair.flow(first)
    sent = pair.fill(one)
    one.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 100000)
    send_urgent(one, b"X")
    assert flow.pending is not None
    assert pair.count_rounds() < 10
    other.expect(sent)
    wait_urgent(other.sock)
    assert compat.is_at_mark(other.sock)
    other.expect(b"X")


@knows_urgent
def test_an_urgent_byte_stays_in_the_kernel_until_there_is_room(loop):
    """What is held for a receiver that takes no more never is the urgent byte."""
    (theirs, src), (dst, receiver) = tcp(), tcp(small=True)
    flow, pipes = Flow(src, dst), loop.pipes
    with theirs, src, dst, receiver:
        compat.tune(src)
        dst.setblocking(False)
        with pytest.raises(BlockingIOError):
            send_for_ever(dst, bytes(65536))
        assert flow.pass_urgent(pipes) is None
        theirs.send(b"X", socket.MSG_OOB)
        wait_urgent(src)
        assert 0 == flow.pass_urgent(pipes)
        assert not flow.wants_read()
        assert (0, 0) == (flow.held, pipes.pending_bytes)
        assert b"X" == src.recv(10, socket.MSG_PEEK)


@knows_urgent
@pytest.mark.parametrize("first", ENDS)
def test_an_urgent_byte_for_a_receiver_that_is_gone(relayed, access_log, first):
    """It ends the pair as any other byte does."""
    pair = relayed()
    one, other = pair.ends(first)
    other.finish()
    one.expect_eof()
    other.close()
    with pytest.raises(ConnectionError):
        send_for_ever(one.sock, b"X", socket.MSG_OOB)
    pair.wait_closed()
    second = ENDS[first == "client"]
    assert access_log.wait_for("end=").endswith("end=%s-reset" % second)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no unix sockets here")
@every_way
def test_urgent_bytes_for_a_unix_socket_are_in_the_stream(relayed):
    """Not all kernels have urgent bytes there, so they arrive as any other, and none is lost."""
    ends = [tcp(), unix()]
    pair = relayed(make=lambda small: ends.pop())  # the client's first
    pair.target.send(b"ab")
    send_urgent(pair.target, b"X")
    pair.target.send(b"cd").finish()
    pair.client.expect(b"abXcd").expect_eof()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no unix sockets here")
@every_way
def test_urgent_bytes_of_a_unix_socket_are_in_their_place(relayed):
    """Where a kernel has them, whatever it makes of them."""
    ends = [tcp(), unix()]
    pair = relayed(make=lambda small: ends.pop())
    in_line(pair.target)
    for _ in range(3):
        pair.client.send(b"ab")
        try:
            send_urgent(pair.client, b"X")
        except OSError as exc:
            pytest.skip("no urgent bytes of unix sockets: %s" % exc)
        pair.client.send(b"cd")
        pair.target.expect(b"abXcd")


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no unix sockets here")
@pytest.mark.parametrize("is_unix", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize("rate", [None, MB])
def test_urgent_bytes_through_a_whole_proxy(tmp_path, is_unix, rate):
    """Of clients on any listener, and of targets: no byte is taken out of the stream."""
    path = str(tmp_path / "socket")
    with run_proxy(listen="unix:" + path if is_unix else "127.0.0.1:0", rate=rate) as proxy:
        with socket.socket() as listener, socket.socket(socket.AF_UNIX) as by_unix:
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            if is_unix:
                by_unix.connect(path)
            with Talk(by_unix) if is_unix else Talk.to(proxy.port) as client:
                client.connect5(*listener.getsockname())
                with Talk(listener.accept()[0]) as target:
                    for one, other in ((client, target), (target, client)):
                        in_line(other)
                        one.send(b"ab")
                        if one is target or not is_unix:
                            send_urgent(one, b"X")
                        else:
                            one.send(b"X")  # not all kernels have such
                        one.send(b"cd")
                        other.expect(b"abXcd")


def answer_abor(talk):
    """Be the control connection of an FTP server, which reads urgent bytes as RFC 959 says."""
    in_line(talk)
    talk.send(b"220 hello\r\n").expect(b"ABOR\r\n").send(b"226 aborted\r\n")
    talk.rest()


def test_ftplib_aborts(proxy):
    """It sends the line as urgent data, and waits for the answer."""
    with FakeTarget(answer_abor) as target, Talk.to(proxy.port) as talk:
        talk.connect5("127.0.0.1", target.port)
        ftp = ftplib.FTP()  # noqa: S321  # what is tested
        ftp.sock, ftp.timeout = talk.sock, TIMEOUT
        ftp.file = talk.sock.makefile("r", encoding="latin-1")
        with ftp.file:
            assert ftp.getresp().startswith("220")
            assert ftp.abort().startswith("226")


#: Segments of more than one byte, whether sent for the first time or again.
_LOSE = """
table ip lossy {
    chain in {
        type filter hook input priority 0
        ip length > 53 drop
    }
}
"""


@pytest.mark.limits
@knows_urgent
@every_way
def test_an_urgent_byte_ahead_of_a_lost_segment_does_not_spin(relayed):
    """The kernel tells of it and has nothing to be read, for as long as the sender likes."""
    with hosts.made_for_tests("server", "client") as made, hosts.or_skip():
        made.cable(("server", "10.3.0.1/24"), ("client", "10.3.0.2/24"))
        ends = [tcp(), hosts.connected(made.client, made.server, "10.3.0.1")]
        pair = relayed(make=lambda small: ends.pop())
        in_line(pair.target)
        pair.client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.server.firewall(_LOSE)
        pair.client.send(b"ab")
        send_urgent(pair.client, b"X")
        wait_urgent(pair.client_side)
        with pytest.raises(BlockingIOError):
            pair.client_side.recv(1, socket.MSG_PEEK)
        assert pair.count_rounds() < 10
        pair.target.send(b"the other way")
        assert pair.count_rounds() < 10
        made.server.firewall("")
        wait_urgent(pair.target.sock)
        pair.target.expect(b"ab")
        assert compat.is_at_mark(pair.target.sock)
        pair.target.expect(b"X")
        pair.client.expect(b"the other way")
