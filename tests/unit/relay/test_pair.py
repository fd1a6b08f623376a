"""The relay, between two TCP connections of this process: what one end says reaches the other."""

import hashlib
import os
import random
import resource
import socket
import subprocess
import sys
import threading
import time

import pytest

import minisocks.relay.flow
import minisocks.relay.watches
from kit import inside
from kit.relaying import ENDS, MB, loop_that_moves, receive_until_reset, unix
from kit.support import (
    ROOT,
    TESTS,
    CommandLine,
    FakeTarget,
    Talk,
    open_descriptors,
    run_proxy,
    says,
    wait_until,
)
from minisocks import compat
from minisocks.relay.pair import Pair

#: For tests of what the kernel reports, which differs: epoll where there is one, and poll().
both_pollers = pytest.mark.parametrize("loop", ["buffer", "pipe", "poll", "rated"], indirect=True)
#: For tests of what is held in memory.
in_the_buffer = pytest.mark.parametrize("loop", ["buffer"], indirect=True)


@pytest.fixture(params=["buffer", "pipe", "rated"])
def loop(request, monkeypatch):
    """A running loop; bytes go through its buffer, what can through a pipe, or at a rate."""
    with loop_that_moves(request.param, monkeypatch) as running:
        yield running


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
    """Return whether sending fails, which it does after a RST that came after a FIN."""
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


@pytest.mark.soak
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


@pytest.mark.soak
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


@pytest.mark.soak
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


@pytest.mark.soak
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
