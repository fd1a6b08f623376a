"""Sets of names of hosts, held against an obvious model."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minisocks.policy.addresssets import Names, check_name, is_name, parents_of


@pytest.mark.parametrize(
    "pattern, inside, outside",
    [
        ("example.org", "example.org", "www.example.org org xexample.org example.orgx"),
        ("*.example.org", "www.example.org a.b.example.org", "example.org xexample.org org"),
        (".example.org", "example.org a.b.example.org", "xexample.org org example.org.x"),
        ("*.Org.", "a.org a.b.org", "org xorg"),
        ("nas.", "nas", "a.nas"),
    ],
)
def test_patterns(pattern, inside, outside):
    """A name, what is below one, or both."""
    check_name(pattern)
    names = Names([pattern])
    assert [] == [name for name in inside.split() if name.encode() not in names]
    assert [] == [name for name in outside.split() if name.encode() in names]


@pytest.mark.parametrize(
    "text",
    ["", "*", "*.", "nas", "lan", "a*.b", "a..b", "..a", "a b", "b\xfc.c", "a/b"]
    + ["a" * 64 + ".b", "a." * 127 + "abc"],
)
def test_what_is_no_name(text):
    """It is refused with a reason."""
    with pytest.raises(ValueError, match="name|called"):
        check_name(text)


@pytest.mark.parametrize("text", ["127.1", "1", "0x7f000001", "a.10", "10.0.0.300", "0xf.", "::1"])
def test_what_some_take_for_an_address_is_no_name(text):
    """The last label of a name is never a number."""
    assert not is_name(text)


LABEL = st.sampled_from([b"a", b"b", b"c", b"a-b"])
NAME = st.lists(LABEL, min_size=1, max_size=5).map(b".".join)
PATTERN = st.tuples(st.sampled_from(["", ".", "*."]), NAME)


def model(patterns, name):
    """The obvious way: one pattern after another."""
    for kind, pattern in patterns:
        if kind != "*." and name == pattern:
            return True
        if kind and name.endswith(b"." + pattern):
            return True
    return False


@settings(max_examples=300, deadline=None)
@given(st.lists(PATTERN, max_size=6), NAME)
def test_names_are_what_the_model_says(patterns, name):
    """Set and model agree for any patterns and any name."""
    names = Names([kind + pattern.decode() for kind, pattern in patterns])
    assert model(patterns, name) == (name in names)
    assert bool(patterns) == bool(names)


@given(NAME)
def test_parents(name):
    """Each is the name without its first labels; no more than are wanted, the shortest ones."""
    labels = name.split(b".")
    assert {b".".join(labels[n:]) for n in range(1, len(labels))} == parents_of(name, 9)
    assert len(labels) == 1 or {labels[-1]} == parents_of(name, 1)
    assert frozenset() == parents_of(name, 0)
