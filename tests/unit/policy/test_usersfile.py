"""The file of users: whose line is it, and what is said of one that cannot be used."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minisocks.errors import ConfigError
from minisocks.policy.passwords import Hash, check_user_name, parse_users

HASH = Hash(1000, bytes(16), bytes(32))
LINE = HASH.text()
OTHER = Hash(2000, b"salt", bytes(32))


def test_a_file_as_people_write_it():
    """Comments, blank lines, spaces round the hash and a last line without end are nothing odd."""
    text = "# users\n\nann:%s\n   # and\n \t\nbob: %s \n\u00e4:%s" % (LINE, OTHER.text(), LINE)

    assert {b"ann": HASH, b"bob": OTHER, b"\xc3\xa4": HASH} == parse_users(text, "f")


@pytest.mark.parametrize("text", ["\ufeffann:%s\r\n\r\n# x\r\nbob:%s\r\n", "ann:%s\nbob:%s"])
def test_a_file_from_windows(text):
    """Neither its mark at the beginning nor its ends of lines are part of a name or hash."""
    assert {b"ann": HASH, b"bob": HASH} == parse_users(text % (LINE, LINE), "f")


@pytest.mark.parametrize("text", ["", "\n", "# no user\n", "\ufeff", "\r\n\r\n"])
def test_an_empty_file_has_no_users(text):
    """It is no mistake."""
    assert {} == parse_users(text, "f")


@pytest.mark.parametrize(
    "name", ["ann", " ann", "ann smith", "a#b", "\x0b", "\x85", "\u2028", "\udcff", "a" * 255, "$"]
)
def test_a_name_may_be_anything(name):
    """But for what ends it: not what Python takes for the end of a line, either."""
    assert {name.encode("utf-8", "surrogateescape"): HASH} == parse_users(
        "%s:%s" % (name, LINE), "f"
    )


MAKES_ANN_S = "; `minisocks hash-password --name ann` makes the line"
MAKES_ONE = "; `minisocks hash-password --name NAME` makes the line"


@pytest.mark.parametrize(
    "line, sentence",
    [
        ("ann:s3cret", "this is no $pbkdf2-sha256$ hash" + MAKES_ANN_S),
        ("ann:", "this is no $pbkdf2-sha256$ hash" + MAKES_ANN_S),
        ("ann:" + LINE + ":s3cret", "this is no $pbkdf2-sha256$ hash" + MAKES_ANN_S),
        ("ann:" + LINE + " # s3cret", "this is no $pbkdf2-sha256$ hash" + MAKES_ANN_S),
        ("ann smith:s3cret", "this is no $pbkdf2-sha256$ hash" + MAKES_ONE),
        ("\x1b[2J:s3cret", "this is no $pbkdf2-sha256$ hash" + MAKES_ONE),
        # Without a colon it may be the password.
        ("s3cret", "this is no NAME:HASH" + MAKES_ONE),
        (LINE, "this is no NAME:HASH" + MAKES_ONE),
        (":" + LINE, "a name has 1 to 255 bytes"),
        ("\u00e4" * 128 + ":" + LINE, "a name has 1 to 255 bytes"),
        ("\ud800:" + LINE, "a name is no text: surrogates not allowed"),
        ("a\rb:" + LINE, "a name has neither colon nor line break in it, and no # in front"),
        (
            "ann:$pbkdf2-sha256$10000001$A" + LINE[20:],
            "a hash has 1 to 10000000 iterations, not more",
        ),
        ("bob:" + LINE, "bob is there twice"),
    ],
)
def test_a_line_that_cannot_be_used(line, sentence):
    """The error says where and what to do, and repeats neither password nor line."""
    with pytest.raises(ConfigError) as caught:
        parse_users("# users\nbob:%s\n%s\n" % (LINE, line), "/etc/users")

    assert ("--users-file", "/etc/users, line 3") == (caught.value.option, caught.value.place)
    assert sentence == str(caught.value)
    assert "s3cret" not in caught.value.sentence
    assert LINE not in caught.value.sentence


@settings(deadline=None)
@given(st.lists(st.sampled_from([":", "ann", "#", LINE, "\n", "\r", " ", "$", "x", "\ufeff"])))
def test_any_text_is_users_or_an_error(parts):
    """Whatever is in it: users that hash-password could have made, or the documented error."""
    try:
        users = parse_users("".join(parts), "f")
    except ConfigError:
        return
    for user, known in users.items():
        assert user == check_user_name(user.decode())
        assert HASH == known
