"""What is asked of an identd, and what its answer is worth: bytes only."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisocks.errors import IdentMismatch
from minisocks.protocol.identity import MAX_LINE_BYTES, check_user_id, encode_query, first_line
from minisocks.wire import Cd, Rep

#: The ports of the RFC's own examples: on the identd's host, and on the one that asks.
PORTS = (6193, 23)


def confirms(line, userid):
    """Return whether *line* does; what does not is an ``IdentMismatch``."""
    try:
        check_user_id(line, *PORTS, userid)
    except IdentMismatch:
        return False
    return True


@pytest.mark.rfc("RFC 1413 section 5", "Formal syntax: the query is the pair and CR LF.")
def test_the_question():
    """The port on the host that is asked comes first (RFC 1413 section 4)."""
    assert b"6193, 23\r\n" == encode_query(*PORTS)
    assert b"65535, 1\r\n" == encode_query(65535, 1)


@pytest.mark.parametrize(
    "data, line",
    [
        (b"", None),
        (b"6193, 23 : USERID", None),
        (b"a\r", None),
        (b"a\r\n", b"a"),
        (b"a\n", b"a"),
        (b"\n", b""),
        (b"\r\n", b""),
        (b"a\r\r\n", b"a\r"),
        (b"a\nb\n", b"a"),
        (b"\nb\n", b""),
        (b"a" * 999, None),
        (b"a" * 999 + b"\n", b"a" * 999),
        (b"a" * 998 + b"\r\n", b"a" * 998),
    ],
)
def test_the_first_line(data, line):
    """It ends at LF, and a CR before that is none of it."""
    assert line == first_line(data)


@pytest.mark.rfc(
    "RFC 1413 section 5",
    "Note 2: clients should feel free to abort after 1000 characters without an end of line.",
)
@pytest.mark.parametrize("data", [b"a" * 1000, b"a" * 1000 + b"\n", b"\r" * 10240])
def test_a_line_that_does_not_end(data):
    """After 1000 bytes the wait for its end is over (section 6, note 2)."""
    with pytest.raises(IdentMismatch, match="its identd answers more than 1000 bytes"):
        first_line(data)


OF_512 = b"x" * 512


@pytest.mark.rfc(
    "RFC 1413 section 5",
    "Any octet but NUL, LF and CR; spaces behind the colon are part of the string.",
)
@pytest.mark.rfc(
    "RFC 1413 section 5",
    "Note 1: be liberal with white space; it may be anywhere but within a token.",
)
@pytest.mark.rfc(
    "RFC 1413 section 5", "Note 3: a client MUST accept at least 512 octets of user ID."
)
@pytest.mark.rfc(
    "RFC 1413 section 5",
    "Notes 4 to 6: character sets; a string in an unknown one should be taken as octets.",
)
@pytest.mark.parametrize(
    "line, userid",
    [
        (b"6193, 23 : USERID : UNIX :stjohns", b"stjohns"),
        (b"6193,23:USERID:UNIX:stjohns", b"stjohns"),
        (b"\t6193 ,\t23 \t:\tuserid : unix : \tstjohns\t ", b"stjohns"),
        (b"06193, 00023 : USERID : UNIX : stjohns", b"stjohns"),
        (b"6193, 23 : USERID : OTHER : stjohns", b"stjohns"),
        (b"6193, 23 : USERID :: stjohns", b"stjohns"),
        (b"6193, 23 : USERID : UNIX,ISO-8859-1 : st\xe4hl", b"st\xe4hl"),
        (b"6193, 23 : USERID : UNIX, no-such-charset : st\xff\x00hl", b"st\xff\x00hl"),
        (b"6193, 23 : USERID : UNIX : st johns", b"st johns"),
        (b"6193, 23 : USERID : UNIX : a:b", b"a:b"),
        (b"6193, 23 : USERID : UNIX : ann ", b" ann "),
        (b"6193, 23 : USERID : UNIX :" + OF_512, OF_512),
        (b"6193, 23 : USERID : UNIX : a\r", b"a\r"),
    ],
)
def test_what_confirms_a_user(line, userid):
    """The octets are the same, but for blanks around them."""
    assert confirms(line, userid)
    assert not confirms(line, userid + b"x")
    assert not confirms(line, userid[:-1])
    assert not confirms(line, b"")


@pytest.mark.rfc("SOCKS4, CONNECT", "CD 93: client program and identd report different user-ids.")
@pytest.mark.parametrize(
    "line, why",
    [
        (b"", "its identd answers ''"),
        (b"\x00" * 900, "its identd answers '(.x00){64}'"),
        (b"6193, 23", "its identd answers '6193, 23'"),
        (b"6193, 23 : USERID", "its identd answers '6193, 23 : USERID'"),
        (b"6193, 23 : USERID : UNIX", "its identd answers '6193, 23 : USERID : UNIX'"),
        (b"6193, 23 : ERROR", "its identd answers '6193, 23 : ERROR'"),
        (b"6193, 23 : USER ID : UNIX : ann", "its identd answers '6193, 23 : USER ID :"),
        (b"6193, 23 : ERROR : HIDDEN-USER", "does not name its user: 'HIDDEN-USER'"),
        (b"6193, 23 : error : no-user : ann", "does not name its user: 'no-user'"),
        (b"6193, 23 : ERROR : INVALID-PORT", "does not name its user: 'INVALID-PORT'"),
        (b"6193, 23 : ERROR : UNKNOWN-ERROR", "does not name its user: 'UNKNOWN-ERROR'"),
        (b"6193, 23 : ERROR :" + b"X" * 900, "does not name its user: 'X{64}'$"),
        (b"23, 6193 : USERID : UNIX : ann", "answers about other ports: '23, 6193 '"),
        (b"6193, 24 : USERID : UNIX : ann", "answers about other ports"),
        (b"6193 : USERID : UNIX : ann", "answers about other ports"),
        (b"6193, 23, 1 : USERID : UNIX : ann", "answers about other ports"),
        (b"6 193, 23 : USERID : UNIX : ann", "answers about other ports"),
        (b"-6193, 23 : USERID : UNIX : ann", "answers about other ports"),
        (b"6193, " + b"0" * 900 + b"23 : USERID : UNIX : ann", "answers about other ports: .{66}$"),
        ("6193, ٢٣ : USERID : UNIX : ann".encode(), "answers about other ports"),
        (b"6193, 23 : USERID : UNIX : bob", "it says that it is 'ann', its identd says 'bob'"),
        (b"6193, 23 : USERID : UNIX : ANN", "its identd says 'ANN'"),
        (b"6193, 23 : USERID : UNIX : ann\r\r", "its identd says 'ann.r.r'"),
        (b"6193, 23 : USERID : UNIX :", "its identd says ''"),
        (b"6193, 23 : USERID : UNIX : \xff\xfea\x00n\x00n\x00", "its identd says '.xff.xfea.x00n"),
        (b"6193, 23 : USERID : UNIX : " + b"b" * 900, "its identd says 'b{64}'$"),
    ],
)
def test_what_confirms_no_user(line, why):
    """The message quotes the answer, and is short."""
    with pytest.raises(IdentMismatch, match=why) as caught:
        check_user_id(line, *PORTS, b"ann")
    assert (Rep.NOT_ALLOWED, Cd.IDENTD_MISMATCH) == (caught.value.rep, caught.value.cd)


BLANKS = st.text(" \t", max_size=3).map(str.encode)
OCTETS = st.binary(min_size=1, max_size=300).map(lambda data: data.translate(None, b"\0\r\n"))


@given(
    st.integers(1, 65535),
    st.integers(1, 65535),
    OCTETS.filter(lambda data: data.strip(b" \t")),
    st.lists(BLANKS, min_size=8, max_size=8),
    st.sampled_from([b"UNIX", b"OTHER", b"UNIX,UTF-8", b"", b"x y"]),
    st.integers(0, 400),
)
def test_whatever_the_user_is_called(theirs, ours, user, blanks, opsys, cut):
    """The name is found in an answer that is written as freely as can be, however it is cut."""
    b = blanks
    ports = b[0] + b"%d" % theirs + b[1] + b"," + b[2] + b"%d" % ours + b[3]
    line = b":".join((ports, b[4] + b"UserId" + b[5], opsys, b[6] + user + b[7]))
    whole = line + b"\r\n"

    assert first_line(whole[: min(cut, len(line))]) is None
    assert line == first_line(whole + b"more\r\n")
    check_user_id(line, theirs, ours, user.strip(b" \t"))
    with pytest.raises(IdentMismatch):
        check_user_id(line, theirs, ours, user + b"x")


@given(st.binary(max_size=1100), st.binary(max_size=255))
def test_any_bytes_are_a_line_or_an_error(data, userid):
    """Never anything else, and the message quotes little of them."""
    told = ""
    try:
        line = first_line(data)
        if line is not None:
            assert len(line) < MAX_LINE_BYTES
            check_user_id(line, *PORTS, userid)
    except IdentMismatch as exc:
        told = str(exc)
    assert len(told) < 600
    assert told.isprintable()


@given(
    st.lists(
        st.sampled_from(
            [b"6193", b"23", b",", b":", b" ", b"USERID", b"ERROR", b"UNIX", b"ann", b"\r", b"\t"]
        ),
        max_size=16,
    )
)
def test_no_line_of_known_words_confirms_by_accident(words):
    """Only one that has the ports in their order, USERID, a system, and the user."""
    line = b"".join(words)
    fields = [field.strip(b" \t") for field in line.split(b":", 3)]

    expected = len(fields) == 4 and (b"USERID", b"ann") == (fields[1], fields[3])
    ports = [port.strip(b" \t") for port in fields[0].split(b",")]
    assert (expected and [b"6193", b"23"] == ports) == confirms(line, b"ann")
