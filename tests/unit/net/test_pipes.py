"""Pipes: few, whole, given back; and what is done where there are none."""

import errno
import fcntl
import os
import socket

import pytest

from kit import inside
from kit.support import no_descriptor_left, open_descriptors
from minisocks.net import pipes
from minisocks.net.pipes import PIPE_BYTES, Pipe, Pipes

pytestmark = pytest.mark.skipif(
    not hasattr(os, "splice"), reason="no os.splice before Python 3.10, and elsewhere than on Linux"
)

F_GETPIPE_SZ = 1032  # fcntl has the name from Python 3.10 on, on some systems


@pytest.fixture
def some():
    """The pipes of a loop; all are closed after the test, or it fails."""
    before = open_descriptors()
    made = Pipes()
    yield made
    made.close_spare()
    assert 0 == made.count
    assert before == open_descriptors()


@pytest.fixture
def ends():
    """The two ends of a stream."""
    pair = socket.socketpair()
    for end in pair:
        end.setblocking(False)
    yield pair
    for end in pair:
        end.close()


def test_what_goes_in_comes_out(some, ends):
    """Bytes pass in their order, in any pieces, and are counted while they are inside."""
    ours, theirs = ends
    pipe = some.borrow()
    data = os.urandom(50000)
    theirs.send(data)
    assert 40000 == pipe.fill(ours.fileno(), 40000)
    assert 10000 == pipe.fill(ours.fileno(), PIPE_BYTES)
    assert 50000 == pipe.held
    assert 50000 == pipe.empty(ours.fileno())
    assert data == theirs.recv(100000)
    assert 0 == pipe.held
    some.give_back(pipe)


def test_the_end_of_a_stream_is_no_bytes(some, ends):
    """``fill`` is like ``recv``: nothing yet is an error, the end is 0."""
    ours, theirs = ends
    pipe = some.borrow()
    with pytest.raises(BlockingIOError):
        pipe.fill(ours.fileno(), 10)
    theirs.close()
    assert 0 == pipe.fill(ours.fileno(), 10)
    some.give_back(pipe)


def test_it_takes_a_mib(some):
    """The pipes are as large as they are meant to be."""
    pipe = some.borrow()
    assert PIPE_BYTES == fcntl.fcntl(inside.pipe_ends(pipe)[1], F_GETPIPE_SZ)
    some.give_back(pipe)


def test_there_are_no_more_than_32(some):
    """The thirty-third is not to be had until one has come back; that one is used again."""
    lent = [some.borrow() for _ in range(pipes.MAX_PIPES)]
    assert 32 == pipes.MAX_PIPES == some.lent == some.count
    assert some.borrow() is None
    some.give_back(lent[0])
    assert some.borrow() is lent[0]
    for pipe in lent:
        some.give_back(pipe)
    assert (0, 32) == (some.lent, some.count)


def test_a_pipe_with_bytes_in_it_is_not_used_again(some, ends):
    """What was meant for one connection never reaches another."""
    ours, theirs = ends
    pipe = some.borrow()
    theirs.send(b"another's")
    pipe.fill(ours.fileno(), 100)
    some.give_back(pipe)
    assert 0 == some.count
    another = some.borrow()
    assert 0 == another.held
    with pytest.raises(BlockingIOError):
        os.read(inside.pipe_ends(another)[0], 1)
    some.give_back(another)


def test_without_descriptors_there_is_none_and_it_is_tried_again_later(some):
    """EMFILE is no error, only no pipe; and it is not asked for at each read."""
    with no_descriptor_left():
        assert some.borrow() is None
    assert some.borrow() is None, "not before a second is over"
    inside.end_wait_for_pipes(some)
    some.give_back(some.borrow())


def test_a_pipe_that_cannot_be_made_large_is_none(some, monkeypatch):
    """Where the system gives small pipes only, the plain path is better; none is left open."""

    def refused(fd, command, *args):
        raise PermissionError(errno.EPERM, "over pipe-user-pages-soft")

    before = open_descriptors()
    monkeypatch.setattr(fcntl, "fcntl", refused)
    assert some.borrow() is None
    assert (0, before) == (some.count, open_descriptors())


def test_where_there_is_no_splice_there_are_no_pipes(monkeypatch):
    """Before Python 3.10, and elsewhere: the caller reads and sends."""
    inside.replace_splice(monkeypatch, None)
    assert Pipes().borrow() is None


def test_a_kernel_that_does_not_splice_is_believed(some):
    """After ``refuse`` no more are made."""
    some.refuse()
    assert some.borrow() is None


def test_what_is_kept_is_bounded(some, ends, monkeypatch):
    """Bytes are taken out of pipes for others, but not without a limit."""
    ours, theirs = ends
    monkeypatch.setattr(pipes, "MAX_KEPT_BYTES", 150000)
    lent = [some.borrow() for _ in range(2)]
    for pipe in lent:
        theirs.send(b"x" * 100000)
        assert 100000 == pipe.fill(ours.fileno(), PIPE_BYTES)
    assert b"x" * 100000 == some.keep(lent[0])
    assert some.keep(lent[1]) is None
    assert (100000, 1) == (lent[1].held, some.lent)
    theirs.send(b"y")
    other = some.borrow()
    other.fill(ours.fileno(), 1)
    assert b"y" == some.keep(other, must=True)
    some.forget(1)
    some.forget(100000)
    assert b"x" * 100000 == some.keep(lent[1])
    assert 0 == some.lent


def test_closing_one_closes_both_its_ends():
    """A pipe is two descriptors."""
    before = open_descriptors()
    pipe = Pipe()
    assert before + 2 == open_descriptors()
    pipe.close()
    assert before == open_descriptors()
