"""What others say is written so that neither a shell, a terminal nor a JSON reader trips."""

import ast
import json
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisocks.quoting import MOST_TOLD, escaped, quoted, sentence, shown

EVERY_BYTE = bytes(range(256))


@given(st.binary(max_size=300))
def test_quotes_are_always_the_same(data):
    """Single ones, whatever is inside; and what is inside is kept to the last bit."""
    text = quoted(data)

    assert ("'", "'") == (text[0], text[-1])
    assert "'" not in text[1:-1]
    assert data == ast.literal_eval("b" + text)


def test_only_letters_digits_and_a_few_signs_are_left():
    """Nothing that a shell, a terminal or JSON gives a meaning to; names look like names."""
    text = escaped(EVERY_BYTE)

    assert not set("$`'\"!#&()*;<>?[]^{|}~\n\x1b\x7f") & set(text)
    assert all(" " <= c <= "~" for c in text)
    for name in ("example.org", "Ann-Marie_7@host", "fe80::1%eth0", "a b, c=d/e+f"):
        assert name == escaped(name)


@pytest.mark.parametrize("around", ["%s", "'%s'", '"%s"', "a %s"])
def test_a_shell_runs_nothing_of_it(around, tmp_path):
    """Pasted into a command line, in quotes of either kind or without, it is only text."""
    nasty = [b"$(touch x)", b"`touch x`", b"';touch x;'", b'";touch x;"', b"a|touch x", b"&touch x"]
    for data in nasty + [b"\ntouch x\n", b">x", b"\\';touch x", EVERY_BYTE[1:]]:
        for text in (quoted(data), escaped(data), sentence("%s is no name" % quoted(data))):
            command = "true " + around % text
            subprocess.check_call(["sh", "-c", command], cwd=str(tmp_path))
            assert [] == list(tmp_path.iterdir()), command


def test_what_is_cut_tells_its_length():
    """Up to the bound it is whole, and beyond the reader sees of how much."""
    assert "'%s'" % ("x" * 64) == quoted(b"x" * 64, MOST_TOLD)
    assert "'%s'..65B" % ("x" * 64) == quoted(b"x" * 65, MOST_TOLD)
    assert "'%s'..130B" % (r"\xc3\xa9" * 32) == quoted("\u00e9" * 65, MOST_TOLD)


def test_a_sentence_stands_in_single_quotes_and_its_names_in_double_ones():
    """A reader sees where it ends, whatever a client has said."""
    assert "'\"a.example\" has no address'" == sentence("'a.example' has no address")
    text = sentence("%s: \x1b[2J ' \" $x `y` \\ \u00e9 \udc80 \ud800" % quoted(b"';x"))
    assert ("'", "'", 2) == (text[0], text[-1], text.count("'"))
    assert all(" " <= c <= "~" for c in text)
    assert not set("$`") & set(text)


@pytest.mark.parametrize(
    "text, expected",
    [
        ('caf\u00e9 \u4e2d \t"$x" \\', 'caf\u00e9 \u4e2d \t"$x" \\'),
        ("\x1b[2J\x9b\x7f\r\n\0", r"\x1b[2J\xc2\x9b\x7f\r\n\x00"),
        ("a\u202eb\u2028c", r"a\xe2\x80\xaeb\xe2\x80\xa8c"),
        ("\udc80", r"\x80"),
        ("\ud800", r"\\ud800"),
    ],
)
def test_what_moves_a_cursor_is_not_shown(text, expected):
    """In text for people what can be seen stays, in any language; no half of a character does."""
    assert expected == shown(text)
    assert expected == shown(shown(text))
    json.dumps(expected).encode("ascii")
