"""The ini file's lines: what they mean, and which one is wrong."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minisocks.config.inifile import Entry, parse
from minisocks.errors import ConfigError


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", []),
        ("[minisocks]", []),
        ("# x\n; y\n\n  \n", []),
        ("[a]\nk = v", [Entry("a", "k", 2, ((2, "v"),))]),
        ("[a]\nk=v=w", [Entry("a", "k", 2, ((2, "v=w"),))]),
        # Blanks behind a value may belong to a password: its reader decides.
        ("[ a ]\r\nk\t=\tv  \r\n", [Entry("a", "k", 2, ((2, "v  "),))]),
        ("[a]\nk =  \n v \n", [Entry("a", "k", 2, ((3, "v "),))]),
        ("[a]\nk =", [Entry("a", "k", 2, ())]),
        # A comment has a line of its own: a password may well have a # in it.
        ("[a]\nk = v # w ; x", [Entry("a", "k", 2, ((2, "v # w ; x"),))]),
        ("[a]\nk =\n  v\n# x\n\n\t[::1]:0\n", [Entry("a", "k", 2, ((3, "v"), (6, "[::1]:0")))]),
        ("[a]\nk = v\n w = x", [Entry("a", "k", 2, ((2, "v"), (3, "w = x")))]),
        ("[a]\nk=v\n[b]\nk=w", [Entry("a", "k", 2, ((2, "v"),)), Entry("b", "k", 4, ((4, "w"),))]),
        ("[a]\nk = v\nk = w", [Entry("a", "k", 2, ((2, "v"),)), Entry("a", "k", 3, ((3, "w"),))]),
        # What else is a line's end for Unicode is none for an editor.
        ("[a]\nk = v\x0cw\u2028x", [Entry("a", "k", 2, ((2, "v\x0cw\u2028x"),))]),
    ],
)  # fmt: skip
def test_lines_mean(text, expected):
    """Each key comes with its section, its line, and its values with theirs."""
    assert expected == parse(text, "f")


@pytest.mark.parametrize(
    "text, line, part",
    [
        ("k = v", 1, "[minisocks]"),
        ("\n# x\n[minisocks]\nsecret words", 4, "KEY = VALUE"),
        ("[a]\n= secret", 2, "KEY = VALUE"),
        ("[a", 1, "]"),
        ("[a]\n\n  secret", 3, "no key is above"),
        ("  secret", 1, "no key is above"),
        ("[a]\nk = v\n[b]\n secret", 4, "no key is above"),
    ],
)
def test_wrong_line_is_named_and_not_repeated(text, line, part):
    """The error has file and line, says what is wrong, and does not show what may be secret."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "/etc/my.ini")

    assert "/etc/my.ini, line %d" % line == caught.value.place
    assert part in str(caught.value)
    assert "secret" not in caught.value.sentence


@settings(deadline=None, max_examples=300)
@given(st.text("ab=[]#; \n\t\r\u2028\udc80"))
def test_any_text_is_read_or_refused(text):
    """Whatever a file holds, its lines are understood or one of them is named."""
    try:
        entries = parse(text, "f")
    except ConfigError as exc:
        assert exc.place.startswith("f, line ")  # noqa: PT017  # other text is read
        return
    lines = text.split("\n")
    for entry in entries:
        assert lines[entry.line - 1].strip().startswith(entry.key)
        for number, value in entry.values:
            assert value in lines[number - 1]
            assert value == value.lstrip()
            assert value.strip()
