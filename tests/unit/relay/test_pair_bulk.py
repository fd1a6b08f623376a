"""Bulk: a direction goes through a pipe when it is worth it, and nothing is lost by that."""

import errno
import hashlib
import os
import random
import socket
import threading

import pytest

import minisocks.net.loop
import minisocks.net.pipes
import minisocks.relay.flow
import minisocks.relay.pair
import minisocks.relay.watches
from kit import inside
from kit.relaying import ENDS, MB, Relayed, receive_until_reset
from kit.support import (
    CommandLine,
    FakeTarget,
    Talk,
    no_descriptor_left,
    open_descriptors,
    says,
    wait_until,
)
from minisocks.net.loop import BUFFER_BYTES, BULK_EVENTS, Loop, run_in
from minisocks.net.pipes import MAX_PIPES, PIPE_BYTES, Pipe
from minisocks.relay.flow import LITTLE_TIMES, SHORT_TURNS, TURN_BYTES

pytestmark = pytest.mark.skipif(
    not hasattr(os, "splice"), reason="no os.splice before Python 3.10, and elsewhere than on Linux"
)


@pytest.fixture
def eager(monkeypatch):
    """Have every direction take a pipe after its first read, and keep to pipes."""
    monkeypatch.setattr(minisocks.relay.pair, "BULK_BYTES", 1)
    monkeypatch.setattr(minisocks.relay.flow, "LITTLE_BYTES", 0)


def blocked(pair, first):
    """Have *first* fill all buffers, and a pipe; return both ends and what was sent."""
    one, other = pair.ends(first)
    one.send(b"x")
    other.expect(b"x")
    sent = pair.fill(one)
    assert pair.loop.pipes.count
    return one, other, sent


def exchange(pair, first, size):
    """Send *size* random bytes from *first*; return whether the other end has the same."""
    one, other = pair.ends(first)
    data = os.urandom(size)
    sender = threading.Thread(target=one.send, args=(data,))
    sender.start()
    received = other.receive(size)
    sender.join()
    return data == received


@pytest.mark.parametrize("first", ENDS)
def test_bulk_takes_a_pipe_and_little_gives_it_up(relayed, loop, first):
    """A full read sends a direction through pipes; one that brings little sends it back."""
    pair = relayed()
    flow = pair.flow(first)
    assert exchange(pair, first, 16)
    assert (False, 0) == (flow.bulk, loop.pipes.count)
    assert exchange(pair, first, 32 * MB)
    assert loop.pipes.count >= 1
    for _ in range(LITTLE_TIMES + 1):
        assert exchange(pair, first, 16)
    assert not flow.bulk
    assert 0 == loop.pipes.lent
    wait_until(lambda: pair.record.up + pair.record.down == 32 * MB + (LITTLE_TIMES + 2) * 16)


@pytest.mark.parametrize("first", ENDS)
@pytest.mark.parametrize("code", [errno.ENOMEM, errno.ENOBUFS])
def test_a_kernel_without_memory_for_it_loses_nothing(relayed, eager, monkeypatch, first, code):
    """Where splice has no memory, in either direction, the buffer does it; no pair is reset."""
    calls = []

    def splice(real, *args, **kwargs):
        calls.append(args)
        if len(calls) % 3 == 0:
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    inside.replace_splice(monkeypatch, splice)
    pair = relayed()
    assert exchange(pair, first, 8 * MB)
    assert exchange(pair, first, 1)
    assert calls
    one, other = pair.ends(first)
    one.finish()
    other.expect_eof()


def test_bulk_takes_short_rounds_beside_messages(relayed, monkeypatch):
    """While others exchange short messages a pipe takes 64 KiB at a time, and a MiB after."""
    asked = []
    real = Pipe.fill

    def fill(pipe, fd, most):
        asked.append(most)
        return real(pipe, fd, most)

    monkeypatch.setattr(Pipe, "fill", fill)
    bulk, little = relayed(), relayed()
    assert exchange(bulk, "target", 8 * MB)
    assert PIPE_BYTES in asked
    del asked[:]
    assert exchange(little, "client", 1)
    assert SHORT_TURNS == little.loop.short_turns
    assert exchange(bulk, "target", 4 * MB)
    assert asked
    assert {TURN_BYTES} == set(asked[:SHORT_TURNS])
    little.loop.short_turns = 0
    del asked[:]
    assert exchange(bulk, "target", 4 * MB)
    assert PIPE_BYTES in asked


def test_bulk_without_pipes_ends_too(relayed, loop):
    """Where there are none, short messages still make a direction one of short messages again."""
    pair = relayed()
    run_in(loop, loop.pipes.refuse)
    flow = pair.flow("target")
    sent = threading.Thread(target=pair.target.send, args=(bytes(16 * MB),))
    sent.start()
    assert 16 * MB == len(pair.client.receive(16 * MB))
    sent.join()
    for _ in range(LITTLE_TIMES + 1):
        assert exchange(pair, "target", 16)
    assert 0 == flow.bulk == loop.pipes.count


@pytest.mark.soak
@pytest.mark.parametrize("has_memory_limit", [False, True])
def test_bulk_of_many_delays_no_message_of_another(relayed, loop, monkeypatch, has_memory_limit):
    """A message waits for the bulk that is being moved, not for 40 downloads; all have turns.

    The loop stands still until all of it is there, so that one round finds it.
    """
    monkeypatch.setattr(minisocks.net.loop, "BULK_SECONDS", 0.0, raising=False)
    if has_memory_limit:
        loop.most_events = 8
    downloads, little = [relayed() for _ in range(40)], relayed()
    for pair in downloads:
        assert exchange(pair, "target", 4 * MB)
    seen = []

    def pump_bulk(pump, pair, flow, pipe):
        if not seen:
            little.client.send(b"x")
        seen.append(pair)
        pump(pair, flow, pipe)

    def pump_any(pump, pair, flow, space):
        if pair is little.pair:
            seen.append(pair)
        return pump(pair, flow, space)

    def send_to_all():
        for pair in downloads:
            pair.target.send(bytes(65536))
        inside.wrap_bulk_pump(monkeypatch, pump_bulk)
        inside.wrap_pump(monkeypatch, pump_any)

    run_in(loop, send_to_all)
    for pair in downloads:
        assert bytes(65536) == pair.client.receive(65536)
    little.target.expect(b"x")
    assert {each.pair for each in downloads} == set(seen) - {little.pair}
    assert seen.index(little.pair) <= BULK_EVENTS


@pytest.mark.soak
@pytest.mark.parametrize("count", [4, 5, 6, 40])
def test_bulk_has_its_rounds_in_order(relayed, loop, monkeypatch, count):
    """None has a second one before each has had one, however short a round is."""
    monkeypatch.setattr(minisocks.net.loop, "BULK_SECONDS", 0.0)
    downloads = [relayed() for _ in range(count)]
    for pair in downloads:
        assert exchange(pair, "target", 4 * MB)
    seen = []

    def pump_bulk(_pump, pair, _flow, pipe):
        loop.pipes.give_back(pipe)
        seen.append(pair)
        if len(seen) == 3 * count:
            monkeypatch.undo()

    def send_to_all():
        for pair in downloads:
            pair.target.send(bytes(65536))
        inside.wrap_bulk_pump(monkeypatch, pump_bulk)

    run_in(loop, send_to_all)
    for pair in downloads:
        assert bytes(65536) == pair.client.receive(65536)
    assert [3] * count == [seen[: 3 * count].count(pair.pair) for pair in downloads]


def test_bulk_that_is_over_leaves_nothing(relayed, loop):
    """No descriptor is watched as bulk any more, and none is kept for that."""
    before = open_descriptors()
    downloads = [relayed() for _ in range(3)]
    for pair in downloads:
        assert exchange(pair, "target", 4 * MB)
    assert 6 == len(inside.bulk_descriptors(loop))
    for _ in range(LITTLE_TIMES + 1):
        assert exchange(downloads[0], "target", 16)
    wait_until(lambda: 4 == len(inside.bulk_descriptors(loop)))
    downloads[1].target.reset()
    downloads[1].wait_closed()
    assert 2 == len(inside.bulk_descriptors(loop))
    for pair in downloads[::2]:
        pair.client.close()
        pair.target.close()
        pair.wait_closed()
    downloads[1].client.close()
    wait_until(lambda: not inside.bulk_descriptors(loop) and not inside.has_bulk_poller(loop))
    wait_until(lambda: before == open_descriptors())


def test_bulk_without_a_poller_of_its_own(relayed, loop, monkeypatch):
    """Where there is no epoll, or no descriptor, it stays among the others."""
    inside.forbid_bulk_poller(monkeypatch)
    pair = relayed()
    assert exchange(pair, "target", 32 * MB)
    assert (set(), False) == (inside.bulk_descriptors(loop), inside.has_bulk_poller(loop))


def test_pipes_without_use_are_closed_with_the_last_connection(relayed, loop):
    """When no client is connected, descriptors are as before."""
    pair = relayed()
    assert exchange(pair, "target", 32 * MB)
    assert loop.pipes.count
    for talk in pair.ends("client"):
        talk.finish()
    pair.wait_closed()
    wait_until(lambda: loop.pipes.count == 0)


@pytest.mark.parametrize("first", ENDS)
def test_a_receiver_that_takes_nothing_gives_its_pipe_back(
    relayed, loop, eager, monkeypatch, first
):
    """After a second the bytes wait in memory, the pipe is free, and nothing is lost."""
    assert 1.0 == minisocks.relay.watches.PIPE_SECONDS
    monkeypatch.setattr(minisocks.relay.watches, "PIPE_SECONDS", 0.05)
    pair = relayed(small=ENDS)
    one, other, sent = blocked(pair, first)
    flow = pair.flow(first)
    wait_until(lambda: isinstance(flow.pending, memoryview))
    assert 0 == loop.pipes.lent
    one.finish()
    other.expect(sent).expect_eof()
    assert 0 == inside.kept_bytes(loop.pipes)


def test_a_receiver_that_takes_some_keeps_its_pipe(relayed, loop, eager):
    """Only a receiver that has taken nothing at all since the last look loses it."""
    pair = relayed(small=ENDS)
    blocked(pair, "target")
    checked = threading.Event()

    def check(sent_since):
        inside.check_kept_pipe(pair.pair, pair.record.up, pair.record.down - sent_since)
        checked.set()

    for sent_since, kind in ((1, Pipe), (0, memoryview)):
        checked.clear()
        loop.call_soon(pair.pair, check, sent_since)
        assert checked.wait(20)
        assert isinstance(pair.flow("target").pending, kind)


@pytest.mark.parametrize("first", ENDS)
def test_without_room_for_its_bytes_a_pipe_stays(relayed, loop, eager, monkeypatch, first):
    """What may be kept in memory is bounded; beyond that the pipe is kept, and nothing is lost."""
    monkeypatch.setattr(minisocks.relay.watches, "PIPE_SECONDS", 0.02)
    monkeypatch.setattr(minisocks.net.pipes, "MAX_KEPT_BYTES", 0)
    pair = relayed(small=ENDS)
    one, other, sent = blocked(pair, first)
    threading.Event().wait(0.2)
    assert isinstance(pair.flow(first).pending, Pipe)
    one.finish()
    other.expect(sent).expect_eof()


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("first", ENDS)
def test_a_receiver_that_vanishes_takes_its_pipe_along(relayed, loop, eager, first, how):
    """Bytes that no receiver will have are not left in a pipe that another connection gets."""
    before = open_descriptors()
    pair = relayed(small=ENDS)
    one, other, _sent = blocked(pair, first)
    getattr(other, how)()
    one.expect_reset()
    pair.wait_closed()
    one.close()
    wait_until(lambda: loop.pipes.count == 0)
    wait_until(lambda: open_descriptors() == before)


@pytest.mark.parametrize("first", ENDS)
def test_a_sender_that_resets_has_its_bytes_delivered_from_the_pipe(relayed, eager, first):
    """What had come before the RST reaches the receiver, then the RST does."""
    pair = relayed(small=ENDS)
    one, other, sent = blocked(pair, first)
    one.reset()
    received = receive_until_reset(other)
    # A reset destroys what its own end had not sent; what was in the pipe is not among that.
    assert len(received) >= BUFFER_BYTES / 4
    assert (b"" + sent).startswith(received)
    pair.wait_closed()


def test_stopping_with_bytes_in_pipes_leaves_nothing(eager):
    """Pipes are closed with the loop, full or not."""
    before = open_descriptors()
    loop = Loop()
    loop.start()
    pair = Relayed(loop, small=ENDS).start()
    blocked(pair, "target")
    loop.stop()
    pair.close()
    assert (0, before) == (loop.pipes.count, open_descriptors())


@pytest.mark.soak
def test_more_slow_receivers_than_pipes(relayed, loop, eager, monkeypatch):
    """Connections that get no pipe go by the buffer; every receiver gets all bytes."""
    monkeypatch.setattr(minisocks.relay.watches, "PIPE_SECONDS", 3600)
    pairs = [relayed(small=ENDS) for _ in range(MAX_PIPES + 8)]
    sent = []
    for pair in pairs:
        pair.target.send(b"x")
        pair.client.expect(b"x")
        sent.append(pair.fill(pair.target))
    kinds = [type(pair.flow("target").pending) for pair in pairs]
    assert MAX_PIPES == kinds.count(Pipe) == loop.pipes.lent
    assert 8 == kinds.count(memoryview)
    for pair, data in zip(pairs, sent):
        pair.target.finish()
        pair.client.expect(data).expect_eof()
    assert 0 == loop.pipes.lent


def test_without_descriptors_bulk_goes_by_the_buffer(relayed, loop):
    """EMFILE costs speed and nothing else."""
    pair = relayed()
    with no_descriptor_left():
        assert exchange(pair, "target", 8 * MB)
        assert inside.is_pipe_missed(loop.pipes), "no pipe was wanted"
        assert 0 == loop.pipes.count


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EPERM])
@pytest.mark.parametrize("step", ["fill", "empty"])
@pytest.mark.parametrize("first", ENDS)
def test_a_kernel_that_does_not_splice(relayed, loop, eager, monkeypatch, first, step, code):
    """It is tried once; what was in the pipe by then goes on by the buffer, come what may."""
    monkeypatch.setattr(minisocks.net.pipes, "MAX_KEPT_BYTES", 0)
    calls = []

    def refuse(self, *args):
        calls.append(args)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Pipe, step, refuse)
    pair = relayed()
    for size in (10, MB, 10, MB):
        assert exchange(pair, first, size)
    assert 1 == len(calls)
    assert (0, 0) == (loop.pipes.lent, inside.kept_bytes(loop.pipes))


@pytest.mark.parametrize("first", ENDS)
def test_urgent_data_does_not_stop_a_pipe(relayed, loop, eager, first):
    """What splice() does not get past is got past by recv(): no spin, and all else arrives."""
    pair = relayed()
    one, other = pair.ends(first)
    one.send(b"x")
    other.expect(b"x")
    for _ in range(3):
        one.send(b"before")
        one.sock.send(b"!", socket.MSG_OOB)
        one.send(b"behind")
        other.expect(b"beforebehind")
    one.sock.send(b"!", socket.MSG_OOB)
    assert pair.count_rounds() < 20
    one.send(b"end").finish()
    other.expect(b"end").expect_eof()


@pytest.mark.parametrize("drip", [False, True], ids=["fast", "drip"])
def test_pieces_of_every_size_both_ways(relayed, drip):
    """As directions change between buffer and pipe and back, no byte changes its place."""
    seed = random.randrange(1 << 30)
    print("seed %d" % seed)
    rng = random.Random(seed)
    pair = relayed(small=ENDS if drip else ())
    talks, size = pair.ends("client"), (MB if drip else 24 * MB)
    data, digests = [os.urandom(size) for _ in talks], {}

    def send(i):
        at = 0
        while at < size:
            step = rng.choice((1, 100, 20000, BUFFER_BYTES, 3 * PIPE_BYTES))
            talks[i].send(data[i][at : at + step])
            at += step
        talks[i].finish()

    def receive(i):
        digest = hashlib.sha256()
        for part in iter(lambda: talks[i].sock.recv(rng.choice((1000, 100000, MB))), b""):
            digest.update(part)
        digests[1 - i] = digest.digest()

    threads = [threading.Thread(target=work, args=(i,)) for work in (send, receive) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {i: hashlib.sha256(each).digest() for i, each in enumerate(data)} == digests
    pair.wait_closed()
    assert (size, size) == (pair.record.up, pair.record.down)


def test_the_line_of_a_download_has_its_bytes(tmp_path):
    """Through the whole proxy, by a unix socket, too: the log counts what went by pipe."""
    size = 20 * MB + 7
    path = str(tmp_path / "socket")
    with FakeTarget(says(bytes(size))) as target:
        with CommandLine("-l", "0", "-l", "unix:" + path) as command:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(path)
            for talk in (Talk.to(command.ports[0]), Talk(sock)):
                with talk:
                    talk.connect5("127.0.0.1", target.port)
                    assert size == len(talk.rest())
            wait_until(lambda: sum("down=%dB" % size in line for line in command.lines) == 2)
            assert 0 == command.end()
