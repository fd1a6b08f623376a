"""The relay, between two TCP connections of this process: what one end says reaches the other."""

import fcntl
import ftplib
import hashlib
import os
import random
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

import minisocks.net.loop
import minisocks.net.pipes
import minisocks.relay.flow
import minisocks.relay.lingering
import minisocks.relay.pair
import minisocks.relay.rate
import minisocks.relay.watches
from kit import hosts, inside
from kit.relaying import ENDS, MB, receive_until_reset, tcp
from kit.support import (
    ROOT,
    TESTS,
    TIMEOUT,
    CommandLine,
    FakeTarget,
    Talk,
    open_descriptors,
    run_proxy,
    says,
    wait_until,
)
from minisocks import compat
from minisocks.net.loop import Loop
from minisocks.relay.flow import Flow
from minisocks.relay.lingering import Lingering
from minisocks.relay.pair import Pair
from minisocks.relay.rate import Rates

#: For tests of what the kernel reports, which differs: epoll where there is one, and poll().
both_pollers = pytest.mark.parametrize("loop", ["buffer", "pipe", "poll", "rated"], indirect=True)
#: For tests of what is held in memory.
in_the_buffer = pytest.mark.parametrize("loop", ["buffer"], indirect=True)


#: Bytes a second where there is a rate: so many that no test waits, and so few at once that
#: each direction has to, all the time.
RATE, RATE_DEPTH_SECONDS = 50 * 10**6, 0.001


@pytest.fixture(params=["buffer", "pipe", "rated"])
def loop(request, monkeypatch):
    """A running loop; bytes go through its buffer, what can through a pipe, or at a rate."""
    if request.param == "poll":
        if not hasattr(compat.select, "poll"):
            pytest.skip("no poll() here")
        monkeypatch.setattr(minisocks.net.loop, "Poller", compat.UNSHARED_POLLERS[0])
    elif request.param == "pipe":
        if not hasattr(os, "splice"):
            pytest.skip("no os.splice before Python 3.10, and elsewhere than on Linux")
        monkeypatch.setattr(minisocks.relay.pair, "BULK_BYTES", 1)
        monkeypatch.setattr(minisocks.relay.flow, "LITTLE_BYTES", 0)
    else:
        monkeypatch.setattr(minisocks.net.pipes, "MAX_PIPES", 0)
    running = Loop()
    if request.param == "rated":
        monkeypatch.setattr(minisocks.relay.rate, "DEPTH_SECONDS", RATE_DEPTH_SECONDS)
        running.rates, running.rate = Rates(running), RATE
    running.start()
    yield running
    running.stop()


@pytest.mark.rfc(
    "SOCKS4, introduction",
    "Access is controlled at the beginning of each session; then data is simply relayed.",
)
def test_bytes_go_both_ways_in_order(relayed):
    """What either end says, the other hears."""
    pair = relayed()
    for _ in range(3):
        pair.client.send(b"question")
        pair.target.expect(b"question").send(b"answer")
        pair.client.expect(b"answer")


@pytest.mark.parametrize("size", [1, 4096, 2 * MB])
def test_early_bytes_are_the_first(relayed, size):
    """What came behind the request is what the target hears first, once, however much it is."""
    early = os.urandom(size)
    pair = relayed(early=early, small=ENDS)
    pair.client.send(b"and more").finish()
    pair.target.expect(early + b"and more").expect_eof()


@pytest.mark.rfc(
    "RFC 1928 section 6, Reply processing",
    "After a success of BIND or CONNECT the client may start passing data.",
)
@pytest.mark.parametrize("first", ENDS)
@pytest.mark.parametrize("size", [0, 5, MB])
def test_fin_is_passed_on_after_the_last_byte_and_the_other_way_lives(
    relayed, access_log, first, size
):
    """After FIN from one end the other may talk on; the pair ends with its FIN."""
    pair = relayed(small=ENDS)
    one, other = pair.ends(first)
    data = os.urandom(size)
    sender = threading.Thread(target=lambda: one.send(data).finish())
    sender.start()
    assert data == other.rest()
    sender.join()
    for word in (b"still", b"here"):
        other.send(word)
        one.expect(word)
    other.finish()
    one.expect_eof()
    pair.wait_closed()
    assert access_log.wait_for("end=").endswith("end=%s-fin" % first)


@pytest.mark.parametrize("first", ENDS)
def test_fin_waits_for_the_bytes_that_a_slow_reader_leaves(relayed, first):
    """FIN comes after bytes that waited in the relay, not in their place."""
    pair = relayed(small=ENDS)
    one, other = pair.ends(first)
    sent = pair.fill(one)
    one.finish()
    other.expect(sent).expect_eof()


@pytest.mark.parametrize("first", ENDS)
def test_the_kernel_is_asked_once_what_is_left_of_a_broken_pair(relayed, monkeypatch, first):
    """Once when an end is reset, and again a moment later if not all was delivered by then."""
    answers, asked = [5, 0], []

    def unsent_bytes(sock):
        asked.append(sock)
        return answers[len(asked) - 1]

    pair = relayed()
    one, other = pair.ends(first)
    one.send(b"x")
    other.expect(b"x")
    monkeypatch.setattr(minisocks.relay.watches, "unsent_bytes", unsent_bytes)
    one.reset()
    pair.wait_closed()
    assert [pair.flow(first).dst] * 2 == asked


@both_pollers
@pytest.mark.parametrize("first", ENDS)
@pytest.mark.parametrize("data", [b"", b"last words"])
def test_a_fin_that_is_there_when_the_pair_starts_is_passed_on(relayed, first, data):
    """An end that has finished before the relay began is heard like any other."""
    pair = relayed(start=False)
    one, other = pair.ends(first)
    one.send(data).finish()
    pair.start()
    other.expect(data).expect_eof()
    other.send(b"answer").finish()
    one.expect(b"answer").expect_eof()
    pair.wait_closed()


@both_pollers
@pytest.mark.parametrize("first", ENDS)
@pytest.mark.parametrize("data", [b"", b"last words"])
def test_a_reset_that_is_there_when_the_pair_starts_is_passed_on(relayed, first, data):
    """An end that has reset before the relay began is noticed, its bytes come first."""
    pair = relayed(start=False)
    one, other = pair.ends(first)
    one.send(data).reset()
    pair.start()
    assert data == receive_until_reset(other)
    pair.wait_closed()


@pytest.mark.parametrize("first", ENDS)
def test_both_ends_gone_before_the_pair_starts(relayed, loop, first):
    """The pair ends at once, and no other pair has trouble."""
    pair = relayed(start=False, early=b"early")
    for talk in pair.ends(first):
        talk.reset()
    pair.start()
    pair.wait_closed()
    wait_until(lambda: len(loop) == 0)
    relayed().client.send(b"x")


@pytest.mark.rfc(
    "RFC 1928 section 6, Reply processing",
    "After a success of BIND or CONNECT the client may start passing data.",
)
@pytest.mark.parametrize("first", ENDS)
@pytest.mark.parametrize("small", [False, True], ids=["buffers", "small-buffers"])
@pytest.mark.parametrize("size", [0, 3, 300000])
def test_a_reset_is_passed_on_after_the_bytes_before_it(relayed, access_log, first, small, size):
    """RST goes on as RST, and what came before it is delivered first."""
    pair = relayed(small=ENDS if small else ())
    one, other = pair.ends(first)
    received = []
    reader = threading.Thread(target=lambda: received.append(receive_until_reset(other)))
    data = os.urandom(size)
    reader.start()
    one.send(data)
    # A reset destroys what it overtakes on its own way, which is not our doing.
    wait_until(lambda: compat.unsent_bytes(one.sock) == 0)
    one.reset()
    reader.join()
    assert [data] == received
    pair.wait_closed()
    line = access_log.wait_for("end=")
    assert line.endswith("end=%s-reset" % first)
    assert ("up=%dB" if first == "client" else "down=%dB") % size in line


@both_pollers
@pytest.mark.parametrize("first", ENDS)
def test_a_slow_reader_gets_all_that_came_before_the_reset(relayed, first):
    """What an end had sent before it reset reaches even a reader that has not begun to read."""
    pair = relayed(small=ENDS[1:] if first == "client" else ENDS[:1])
    one, other = pair.ends(first)
    # More than the relay takes: some of it is in the kernel's hands when the reset comes.
    sent = os.urandom(150000)
    one.send(sent)
    wait_until(lambda: compat.unsent_bytes(one.sock) == 0)
    one.reset()
    threading.Event().wait(0.1)  # so that the relay knows before anything is read
    assert sent == receive_until_reset(other)
    pair.wait_closed()


@pytest.mark.parametrize("first", ENDS)
def test_a_reader_that_stands_still_behind_a_reset_does_not_keep_the_pair(
    relayed, monkeypatch, first
):
    """Last bytes that are not read are waited for a while, and then given up with a RST."""
    assert 2 <= minisocks.relay.watches.STANDSTILL_SECONDS <= 60
    monkeypatch.setattr(minisocks.relay.watches, "STANDSTILL_SECONDS", 0.1)
    pair = relayed(small=ENDS)
    one, other = pair.ends(first)
    sent = pair.fill(one)
    one.reset()
    pair.wait_closed()
    received = receive_until_reset(other)
    assert sent.startswith(received)


@both_pollers
def test_a_target_that_answers_and_resets_while_the_client_uploads(relayed, access_log):
    """The answer of a server that has heard enough arrives, though our sends to it fail."""
    pair = relayed(small=ENDS)

    def upload():
        try:
            pair.client.send(bytes(8 * MB))
        except ConnectionError:
            pass

    uploading = threading.Thread(target=upload)
    uploading.start()
    pair.target.receive(10000)
    pair.target.send(b"413 too large")
    wait_until(lambda: compat.unsent_bytes(pair.target.sock) == 0)
    pair.target.reset()
    try:
        pair.client.expect(b"413 too large")
    finally:
        uploading.join()
    pair.wait_closed()
    assert access_log.wait_for("end=").endswith("end=target-reset")


def is_refused(talk):
    """Say whether sending fails; that tells a RST that came after a FIN."""
    try:
        talk.send(b"x")
    except ConnectionError:
        return True
    return False


@both_pollers
@pytest.mark.parametrize("first", ENDS)
def test_an_end_that_finished_and_then_vanished_is_noticed(relayed, access_log, first):
    """A RST after a FIN ends the pair, though the other end is silent and stays so."""
    pair = relayed()
    one, other = pair.ends(first)
    one.finish()
    other.expect_eof()
    one.reset()
    pair.wait_closed()
    wait_until(lambda: is_refused(other))
    assert access_log.wait_for("end=").endswith("end=%s-reset" % first)


@both_pollers
@pytest.mark.parametrize("first", ENDS)
def test_an_end_that_resets_with_bytes_on_their_way_to_it_is_noticed_at_once(relayed, first):
    """The proxy does not wait for the delivery of bytes to an end that is gone."""
    pair = relayed(small=ENDS)
    one, other = pair.ends(first)
    pair.fill(other)
    began = time.monotonic()
    one.reset()
    other.expect_reset()
    pair.wait_closed()
    assert time.monotonic() - began < 3


@both_pollers
@pytest.mark.parametrize("first", ENDS)
def test_a_half_close_with_a_slow_reader_does_not_spin(relayed, first):
    """With one end finished and not reading, the loop sleeps until something can be done."""
    pair = relayed(small=ENDS)
    one, other = pair.ends(first)
    one.finish()
    other.expect_eof()
    sent = pair.fill(other)
    assert pair.count_rounds() < 10
    other.finish()
    assert pair.count_rounds() < 10
    one.expect(sent).expect_eof()
    pair.wait_closed()


@pytest.mark.parametrize("first", ENDS)
def test_a_pair_blocked_both_ways_does_not_spin(relayed, first):
    """Two ends that only talk cost no processor time, also when they finish."""
    pair = relayed(small=ENDS)
    one, other = pair.ends(first)
    sent, answered = pair.fill(one), pair.fill(other)
    assert pair.count_rounds() < 10
    one.finish()
    assert pair.count_rounds() < 10
    other.finish()
    assert pair.count_rounds() < 10
    other.expect(sent).expect_eof()
    one.expect(answered).expect_eof()


@both_pollers
@pytest.mark.parametrize("first", ENDS)
def test_a_reset_while_both_ways_are_blocked_does_not_spin(relayed, first):
    """A dead end behind a slow reader is left alone until its last words are read."""
    pair = relayed(small=ENDS)
    one, other = pair.ends(first)
    sent = pair.fill(one)
    pair.fill(other)
    one.reset()
    assert pair.count_rounds() < 10
    # A reset destroys what its own end had not sent; what arrived is a beginning.
    received = receive_until_reset(other)
    assert received
    assert sent.startswith(received)
    pair.wait_closed()


def unix(small=False):
    """Return the two ends of a unix stream."""
    ends = socket.socketpair()
    if small:
        for end in ends:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return ends


@both_pollers
@pytest.mark.parametrize("first", ENDS)
def test_a_unix_client_that_closes_behind_its_upload_does_not_spin(relayed, first):
    """A unix socket that was closed is quiet until the other end has read it all."""
    pair = relayed(small=ENDS, make=unix)
    one, other = pair.ends(first)
    sent = pair.fill(one)
    one.close()
    assert pair.count_rounds() < 10
    assert sent == other.rest()
    other.close()
    pair.wait_closed()


@in_the_buffer
@pytest.mark.parametrize("first", ENDS)
def test_a_blocked_direction_holds_at_most_64_kb(relayed, first):
    """Nothing more is read for a reader that is slow; the other direction flows."""
    pair = relayed(small=ENDS)
    one, other = pair.ends(first)
    flow = pair.flow(first)
    sent = pair.fill(one)
    assert 0 < len(flow.pending) <= len(flow.pending.obj) <= 65536
    # All the rest is in buffers of the kernel, 4 of them with a few KB each.
    assert len(sent) < 65536 + 8 * 65536
    for _ in range(100):
        other.send(b"meanwhile")
        one.expect(b"meanwhile")
    assert len(flow.pending) <= 65536
    one.finish()
    assert sent == other.rest()
    assert flow.pending is None


@in_the_buffer
@pytest.mark.parametrize("first", ENDS)
def test_one_read_takes_at_most_64_kb(relayed, first):
    """Of much that waits in the kernel, no more is taken in than may be held."""
    pair = relayed(start=False, small=ENDS[1:] if first == "client" else ENDS[:1])
    one, other = pair.ends(first)
    sent = os.urandom(150000)
    one.send(sent).finish()
    wait_until(lambda: compat.unsent_bytes(one.sock) == 0)
    pair.start()
    flow = pair.flow(first)
    wait_until(lambda: flow.pending is not None)
    assert len(flow.pending.obj) <= 65536
    assert sent == other.rest()


@in_the_buffer
def test_many_slow_readers_fill_no_memory(relayed):
    """A hundred downloads whose clients do not read hold no more than 64 KB each."""
    pairs = [relayed(small=ENDS) for _ in range(100)]
    for pair in pairs:
        pair.target.sock.setblocking(False)
    data = bytes(MB)
    idle = 0
    while idle < 20:
        idle += 1
        for pair in pairs:
            try:
                if pair.target.sock.send(data):
                    idle = 0
            except BlockingIOError:
                pass
        threading.Event().wait(0.005)
    held = [pair.flow("target").pending for pair in pairs]
    assert all(pending is not None and len(pending.obj) <= 65536 for pending in held)
    assert all(pair.flow("client").pending is None for pair in pairs)


@pytest.mark.parametrize("first", ENDS)
def test_the_line_counts_exactly_and_names_the_end_that_finished(relayed, access_log, first):
    """up and down are the bytes delivered, end= is the first that said FIN."""
    pair = relayed(early=b"12345")
    pair.client.send(b"x" * 70000)
    pair.target.expect(b"12345" + b"x" * 70000).send(b"y" * 1234)
    pair.client.expect(b"y" * 1234)
    one, other = pair.ends(first)
    one.finish()
    other.expect_eof()
    other.finish()
    line = access_log.wait_for("end=")
    assert "up=70005B down=1234B" in line
    assert "via=127.0.0.1 rep='succeeded'" in line
    assert line.endswith("end=%s-fin" % first)


def test_stopping_resets_both_ends(relayed, loop, access_log):
    """A stream that we cut off must not look complete: both ends get a RST."""
    pair = relayed()
    pair.client.send(b"half of it")
    pair.target.expect(b"half of it")
    loop.stop()
    pair.client.expect_reset()
    pair.target.expect_reset()
    assert access_log.wait_for("end=").endswith("end=shutdown")


def test_a_pair_that_comes_too_late_is_closed(relayed, loop):
    """What is handed to a loop that has ended is closed all the same."""
    pair = relayed(start=False)
    loop.stop()
    pair.start()
    assert (-1, -1) == (pair.client_side.fileno(), pair.target_side.fileno())
    pair.client.expect_reset()


@pytest.mark.rfc("RFC 1928 section 4", "If the method encapsulates, requests MUST be encapsulated.")
@pytest.mark.rfc(
    "RFC 1928 section 6, Reply processing",
    "If the method encapsulates, data are encapsulated, by the server as well.",
)
@pytest.mark.parametrize("reader", ["fast", "drip"])
def test_large_transfers_both_ways_at_once_arrive_whole(relayed, reader):
    """Megabytes of noise in pieces of any size come out as they went in, both ways."""
    seed = random.randrange(1 << 30)
    print("seed %d" % seed)
    rng = random.Random(seed)
    size = 16 * MB if reader == "fast" else MB
    pair = relayed(small=ENDS if reader == "drip" else ())
    talks = (pair.client, pair.target)
    data = [os.urandom(size) for _ in talks]
    digests = [None, None]

    def send(i):
        at = 0
        while at < size:
            step = rng.choice((1, 1000, 70000, 300000))
            talks[i].send(data[i][at : at + step])
            at += step
        talks[i].finish()

    def receive(i):
        digest = hashlib.sha256()
        while True:
            part = talks[i].sock.recv(rng.randrange(1, 3000) if reader == "drip" else 262144)
            if not part:
                break
            digest.update(part)
        digests[1 - i] = digest.hexdigest()

    threads = [threading.Thread(target=work, args=(i,)) for work in (send, receive) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [hashlib.sha256(d).hexdigest() for d in data] == digests
    pair.wait_closed()
    assert (size, size) == (pair.record.up, pair.record.down)


def test_one_busy_pair_leaves_the_others_their_share(relayed):
    """A download at full speed does not keep another pair from its answers."""
    busy, quiet = relayed(), relayed()
    stop = threading.Event()

    def pour():
        while not stop.is_set():
            busy.target.send(bytes(MB))
        busy.target.finish()

    threads = [threading.Thread(target=pour), threading.Thread(target=busy.client.rest)]
    for thread in threads:
        thread.start()
    try:
        began = time.monotonic()
        for _ in range(20):
            quiet.client.send(b"ping")
            quiet.target.expect(b"ping").send(b"pong")
            quiet.client.expect(b"pong")
        assert time.monotonic() - began < 10
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.soak
def test_short_connections_never_mix():
    """Thousands of connections that reuse each other's descriptors each get their own bytes."""
    wrong = []

    def visit(worker):
        for i in range(500):
            word = b"%d-%d-" % (worker, i) * 3
            with Talk.to(command.ports[0]) as talk:
                talk.connect5("127.0.0.1", target.port)
                talk.send(word)
                if i % 3 == 0:
                    talk.finish()
                    got = talk.rest()
                else:
                    got = talk.receive(len(word))
                if got != word:
                    wrong.append((word, got))
                if i % 3 == 1:
                    talk.reset()

    with CommandLine("-l", "0", "-q") as command, FakeTarget() as target:
        threads = [threading.Thread(target=visit, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 0 == command.end()
    assert [] == wrong


def test_both_sides_are_tuned(proxy, target):
    """No delay for small messages; a peer that vanished is noticed after 300 + 4 x 30 s."""
    with Talk.to(proxy.port) as talk:
        talk.connect5("127.0.0.1", target.port)
        talk.send(b"x").expect(b"x")
        pair = inside.jobs(proxy.services.loop, Pair)[0]
        up = inside.flows(pair)[0]
        for sock in (up.src, up.dst):
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            timing = [
                sock.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            ]
            assert [300, 30, 4] == timing


BEYOND_1024 = """
import os, sys, resource
sys.path.insert(0, %r)
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
spare = os.open(os.devnull, os.O_RDONLY)
while os.dup(spare) < 1500:
    pass
from kit import inside
from kit.support import FakeTarget, Talk, run_proxy, wait_until
from minisocks.relay.pair import Pair
with run_proxy() as proxy, FakeTarget() as target:
    talks = [Talk.to(proxy.port) for _ in range(20)]
    for talk in talks:
        assert talk.connect5("127.0.0.1", target.port)[0] == 0
    wait_until(lambda: len(inside.jobs(proxy.services.loop, Pair)) == 20)
    pairs = inside.jobs(proxy.services.loop, Pair)
    assert min(inside.flows(pair)[0].src.fileno() for pair in pairs) > 1024
    for i, talk in enumerate(talks):
        with talk:
            talk.send(b"%%d" %% i * 50000).finish()
            assert talk.rest() == b"%%d" %% i * 50000
print("done")
"""


def test_descriptors_above_1024_work():
    """Nothing in the way of a connection is select()'s limit of 1024 descriptors."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip("the hard limit of descriptors is %d" % hard)
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", BEYOND_1024 % TESTS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=60,
        cwd=ROOT,
    )
    assert (b"done\n", b"", 0) == (child.stdout, child.stderr, child.returncode)


# Refused clients


@pytest.fixture
def linger(loop):
    """Makes a refused client: what it has, and its other end, in the loop."""
    made = []

    def make():
        ours, theirs = tcp()
        made.extend((ours, theirs))
        ours.send(b"refused")
        ours.shutdown(socket.SHUT_WR)
        loop.submit(Lingering(loop, ours))
        return ours, Talk(theirs)

    yield make
    loop.stop()
    for sock in made:
        sock.close()


def test_a_refused_client_that_talks_on_still_hears_the_reply(linger):
    """Unwanted bytes do not cause a RST that destroys the reply."""
    ours, talk = linger()
    talk.send(bytes(100000))
    talk.expect(b"refused").expect_eof()
    talk.finish()
    wait_until(lambda: ours.fileno() == -1)


def test_a_refused_client_that_never_stops_is_cut_off(linger):
    """A refused client gets rid of a bounded number of bytes."""
    ours, talk = linger()
    with pytest.raises(ConnectionError):
        talk.send(bytes(64 * MB))
    wait_until(lambda: ours.fileno() == -1)


def test_a_refused_client_that_stays_is_closed_after_a_while(linger, monkeypatch):
    """A refused client that says nothing more keeps its descriptor for 2 s, not for ever."""
    assert minisocks.relay.lingering.LINGER_SECONDS == 2.0
    monkeypatch.setattr(minisocks.relay.lingering, "LINGER_SECONDS", 0.1)
    ours, talk = linger()
    talk.expect(b"refused").expect_eof()
    wait_until(lambda: ours.fileno() == -1)


def test_a_refused_client_that_comes_too_late_is_closed(loop):
    """What is handed to a loop that has ended is closed all the same."""
    ours, theirs = tcp()
    with ours, theirs:
        loop.stop()
        loop.submit(Lingering(loop, ours))
        assert -1 == ours.fileno()


def test_nothing_is_left_of_many_pairs(relayed, loop):
    """Pairs that ended leave no job, no watch and no timer."""
    before = open_descriptors()
    for i in range(40):
        pair = relayed()
        one, other = pair.ends(ENDS[i % 2])
        one.send(b"x")
        if i % 4 < 2:
            one.reset()
            assert b"x" == receive_until_reset(other)
        else:
            one.finish()
            other.finish()
            other.expect(b"x").expect_eof()
        pair.close_ends = one.close(), other.close()
        pair.wait_closed()
    wait_until(lambda: len(loop) == 0)
    assert (set(), before) == (inside.watched(loop), open_descriptors())


def test_a_whole_exchange_ends_with_the_target(proxy, access_log):
    """Through the whole proxy: a target that sends all and finishes is named as what ended it."""
    with FakeTarget(says(b"hello")) as target, Talk.to(proxy.port) as talk:
        talk.connect5("127.0.0.1", target.port)
        assert b"hello" == talk.rest()
        talk.finish()
        assert "up=0B down=5B" in access_log.wait_for("end=target-fin")


def test_several_proxies_relay_through_each_other():
    """A chain of proxies passes bytes, FIN and RST through all of them."""
    with run_proxy() as outer, run_proxy() as inner, FakeTarget() as target:
        with Talk.to(outer.port) as talk:
            talk.connect5("127.0.0.1", inner.port)
            talk.connect5("127.0.0.1", target.port)
            talk.send(b"through two").finish()
            assert b"through two" == talk.rest()
        with Talk.to(outer.port) as talk:
            talk.connect5("127.0.0.1", inner.port)
            talk.connect5("127.0.0.1", target.port)
            talk.send(b"x").expect(b"x").reset()
        wait_until(lambda: len(outer) == len(inner) == 0)


@both_pollers
@pytest.mark.parametrize("first", ENDS)
def test_a_reset_behind_a_reader_that_never_reads_ends(relayed, monkeypatch, access_log, first):
    """A pair whose one end reset and whose other takes nothing does not live for ever."""
    monkeypatch.setattr(minisocks.relay.watches, "STANDSTILL_SECONDS", 0.1)
    pair = relayed(small=ENDS)
    one, _other = pair.ends(first)
    pair.fill(one)
    one.reset()
    pair.wait_closed()
    assert access_log.wait_for("end=").endswith("end=%s-reset" % first)


@both_pollers
@pytest.mark.parametrize("first", ENDS)
def test_a_reset_is_passed_on_to_a_reader_that_is_slow(relayed, first):
    """RST behind what the kernel still held for a slow reader is not taken for FIN."""
    pair = relayed(small=ENDS)
    one, other = pair.ends(first)
    sent = pair.fill(one)
    one.reset()
    assert pair.count_rounds() < 10
    received = receive_until_reset(other)
    assert received
    assert sent.startswith(received)
    pair.wait_closed()


# TCP's urgent data


#: For tests of urgent data, which depends on how the kernel reports it and how bytes are moved.
every_way = pytest.mark.parametrize("loop", ["buffer", "pipe", "poll", "rated"], indirect=True)

knows_urgent = pytest.mark.skipif(
    not hasattr(select, "POLLPRI"), reason="no poll() here that tells of urgent data"
)


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
@both_pollers
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
