"""The incremental reader: nothing lost, nothing read twice, nothing awaited too long."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.conversation import cut, every_cut, parse
from minisocks.errors import ProtocolError
from minisocks.protocol.messages import Stream


def exactly(size):
    return lambda stream: stream.read_exact(size)


def string(limit):
    return lambda stream: stream.read_string(limit, "NAME")


@pytest.mark.parametrize(
    "parser, data, expected, left",
    [
        (exactly(3), b"abc", b"abc", b""),
        (exactly(3), b"abcdef", b"abc", b"def"),
        (exactly(0), b"abc", b"", b"abc"),
        (exactly(3), b"ab", None, b"ab"),
        (string(3), b"abc\0", b"abc", b""),
        (string(3), b"abc\0def\0", b"abc", b"def\0"),
        (string(3), b"\0", b"", b""),
        (string(3), b"\0\0", b"", b"\0"),
        (string(3), b"abc", None, b"abc"),
        (string(0), b"\0a", b"", b"a"),
    ],
)
def test_reading_takes_its_bytes_and_leaves_the_rest(parser, data, expected, left):
    """However its bytes arrive, a read takes what it asked for and nothing behind it."""
    for pieces in every_cut(data):
        assert (expected, left) == parse(parser, pieces)


@pytest.mark.parametrize("data", [b"abcd", b"abcd\0", b"abcdefgh"])
def test_too_long_string_is_refused_as_soon_as_it_is(data):
    """A string beyond its limit is an error, also when its NUL is there already."""
    for pieces in every_cut(data):
        with pytest.raises(ProtocolError, match="NAME is longer than 3 bytes"):
            parse(string(3), pieces)


def test_string_is_searched_no_further_than_its_limit():
    """A NUL that belongs to what follows does not end a string that is too long."""
    with pytest.raises(ProtocolError):
        parse(string(3), [b"abcdefgh\0"])


def test_take_gives_the_bytes_once():
    """What was taken is gone."""
    stream = Stream(b"abc")

    assert b"abc" == stream.take()
    assert b"" == stream.take()


@settings(deadline=None)
@given(data=st.binary(max_size=40), places=st.lists(st.integers(0, 40)), size=st.integers(0, 20))
def test_no_byte_is_lost_or_read_twice(data, places, size):
    """What was read and what was left are together what was fed."""
    result, left = parse(exactly(size), cut(data, places))

    assert data == (result or b"") + left
    assert (result is not None) == (len(data) >= size)
