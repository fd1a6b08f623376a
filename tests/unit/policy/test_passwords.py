"""Hashes of passwords, files of users, and penalties for failed logins."""

import binascii
import hashlib
import subprocess
import sys
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit import inside
from kit.light import without_the_rest
from kit.support import ROOT
from minisocks.errors import ConfigError
from minisocks.policy import passwords
from minisocks.policy.passwords import (
    MAX_ENTRIES,
    MAX_ITERATIONS,
    Hash,
    Penalties,
    check_user_name,
    derive,
    parse_users,
)

SALT = bytes(range(16))


def by_hand(password, salt, iterations, pause=lambda: None):
    """Derive without OpenSSL."""
    return inside.derive_by_hand(hashlib.sha256, password, salt, iterations, pause)


#: Password, salt, iterations, the first bytes.
VECTORS = [
    # RFC 7914 section 11.
    (b"passwd", b"salt", 1, "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"),
    # RFC 6070's, for SHA-256, as they went round (and are in Go's and in OpenSSL's tests).
    (b"password", b"salt", 1, "120fb6cffcf8b32c43e7225256c4f837a86548c92ccc35480805987cb70be17b"),
    (b"password", b"salt", 2, "ae4d0c95af6b46d32d0adff928f06dd02a303f8ef3c251dfd6e2d85a95474c43"),
    (
        b"password",
        b"salt",
        4096,
        "c5e478d59288c841aa530db6845c4c8d962893a001ce4e11a4963873aa98134a",
    ),
    (
        b"passwordPASSWORDpassword",
        b"saltSALTsaltSALTsaltSALTsaltSALTsalt",
        4096,
        "348c89dbcbd32b2f32d814b8116e84cf2b17347ebc1800181c4e2a1fb8dd53e1",
    ),
    (b"pass\0word", b"sa\0lt", 4096, "89b69d0516f829893c696226650a8687"),
]


@pytest.mark.parametrize("password, salt, iterations, expected", VECTORS)
@pytest.mark.parametrize("function", [derive, by_hand])
def test_known_answers(function, password, salt, iterations, expected):
    """Both ways give what the documents say."""
    derived = function(password, salt, iterations)

    assert binascii.unhexlify(expected) == derived[: len(expected) // 2]


@pytest.mark.skipif(not hasattr(hashlib, "pbkdf2_hmac"), reason="this Python has but one way")
@settings(deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=80), st.integers(1, 30))
def test_both_ways_are_one(password, salt, iterations):
    """With OpenSSL or without, a password has the same hash, however long it is."""
    expected = hashlib.pbkdf2_hmac("sha256", password, salt, iterations)

    assert expected == by_hand(password, salt, iterations)
    assert expected == derive(password, salt, iterations)


@pytest.mark.parametrize("iterations", [1, 999, 1000, 1001, 2500])
def test_pauses_make_no_difference(iterations, monkeypatch):
    """Where a pause comes in between, nothing is left out and nothing done twice."""
    pauses = []
    expected = by_hand(b"password", SALT, iterations, lambda: pauses.append(1))
    assert -(-iterations // 1000) == len(pauses)

    inside.set_iterations_at_once(monkeypatch, 7)
    assert expected == by_hand(b"password", SALT, iterations)


def test_a_pause_may_end_it(monkeypatch):
    """What it raises is raised, before the rest is done."""
    monkeypatch.setattr(passwords, "is_fast", lambda: False)

    def pause():
        raise KeyError("enough")

    with pytest.raises(KeyError):
        derive(b"password", SALT, MAX_ITERATIONS, pause)


def test_openssl_that_refuses_is_done_without(monkeypatch):
    """Rules of its own (FIPS) make it slower and change nothing else."""

    def refuse(*args):
        raise ValueError("salt too short")

    expected = derive(b"password", b"", 10)
    monkeypatch.setattr(passwords, "is_fast", lambda: True)
    monkeypatch.setattr(hashlib, "pbkdf2_hmac", refuse, raising=False)

    assert expected == derive(b"password", b"", 10)


def test_router_s_python_derives():
    """Without _hashlib, as on OpenWrt, the answer is the same."""
    program = (
        "from minisocks.policy.passwords import derive, is_fast\n"
        "print(is_fast(), derive(b'password', b'salt', 4096).hex())"
    )
    output = subprocess.check_output(
        [sys.executable, "-c", without_the_rest() + program], cwd=ROOT, universal_newlines=True
    )

    assert "False " + VECTORS[3][3] == output.strip()


@settings(deadline=None)
@given(st.integers(1, MAX_ITERATIONS), st.binary(max_size=100), st.binary(min_size=32, max_size=32))
def test_what_is_written_is_read(iterations, salt, checksum):
    """A hash goes into a line and comes out of it whole."""
    known = Hash(iterations, salt, checksum)

    assert known == Hash.parse(known.text())


@pytest.mark.parametrize("is_fast", [True, False])
def test_hash_fits_its_password_only(is_fast, monkeypatch):
    """The right password and nothing near it, either way."""
    if not is_fast:
        monkeypatch.setattr(passwords, "is_fast", lambda: False)
    known = Hash.of(b"secret", SALT, 1000)

    assert known.fits(b"secret")
    for wrong in (b"", b"secre", b"secret\0", b"secret ", b"Secret"):
        # HMAC fills a short key up with zeros; what ends in one is the same key.
        assert (wrong == b"secret\0") == known.fits(wrong)


CHECKSUM = "A" * 43


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        "$pbkdf2-sha256$",
        "$pbkdf2-sha256$1000$AAAA",
        "$pbkdf2-sha256$1000$AAAA$" + CHECKSUM[1:],
        "$pbkdf2-sha256$1000$AAAA$" + CHECKSUM + "A",
        "$pbkdf2-sha256$1000$AAAA$" + CHECKSUM + "=",
        "$pbkdf2-sha256$1000$AAAA$" + CHECKSUM + "\n",
        "$pbkdf2-sha256$1000$AAAAA$" + CHECKSUM,
        "$pbkdf2-sha256$1000$AA+A$" + CHECKSUM,
        "$pbkdf2-sha256$0$AAAA$" + CHECKSUM,
        "$pbkdf2-sha256$01000$AAAA$" + CHECKSUM,
        "$pbkdf2-sha256$-1$AAAA$" + CHECKSUM,
        "$pbkdf2-sha256$\u0661000$AAAA$" + CHECKSUM,
        "$pbkdf2-sha256$1_000$AAAA$" + CHECKSUM,
        "$pbkdf2-sha512$1000$AAAA$" + CHECKSUM,
        "$pbkdf2$1000$AAAA$" + CHECKSUM,
        "x$pbkdf2-sha256$1000$AAAA$" + CHECKSUM,
        "$pbkdf2-sha256$1000$" + "A" * 1367 + "$" + CHECKSUM,
        "$2b$12$" + "A" * 53,
        "$6$salt$" + "A" * 86,
    ],
)
def test_what_is_no_hash_is_none(text):
    """Neither a password nor a hash of another kind is taken for one of ours."""
    assert Hash.parse(text) is None


@pytest.mark.parametrize("iterations", ["10000001", "99999999", "1" + "0" * 100000])
def test_iterations_are_bounded(iterations):
    """One line of the file cannot make each login take minutes."""
    with pytest.raises(ConfigError, match="1 to 10000000 iterations"):
        Hash.parse("$pbkdf2-sha256$%s$AAAA$%s" % (iterations, CHECKSUM))


@settings(deadline=None)
@given(st.text("$pbkdf2-sha56.A/\n", max_size=80))
def test_any_text_is_a_hash_or_none(text):
    """Nothing but the one documented error comes of any text."""
    try:
        known = Hash.parse("$pbkdf2-sha256$" + text)
    except ConfigError:
        return
    assert known is None or 1 <= known.iterations <= MAX_ITERATIONS


@pytest.mark.parametrize("show", [repr, str, "{}".format, lambda known: repr([known])])
def test_hash_shows_nothing(show):
    """Neither salt nor checksum gets into a traceback or a log."""
    known = Hash.of(b"secret", SALT, 10)

    assert "<Hash with 10 iterations>" in show(known)
    assert known.text().rpartition("$")[2] not in show(known)
    assert str(known.checksum) not in show(known)


@pytest.fixture
def passlib():
    """The hasher of passlib, which others have written."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for crypt, which is deprecated
        return pytest.importorskip("passlib.hash").pbkdf2_sha256


@pytest.mark.parametrize("password", [b"secret", b"", b"x" * 255, b"\xff\xfe", b"p\xc3\xa4ss"])
def test_passlib_and_we_understand_each_other(passlib, password):
    """Its hashes are ours, whatever the size of the salt, and ours are its."""
    assert passlib.verify(password, Hash.of(password, SALT, 1000).text())
    assert not passlib.verify(password + b"x", Hash.of(password, SALT, 1000).text())
    for salt_bytes in (0, 1, 16, 17, 1024):
        theirs = passlib.using(rounds=1001, salt_size=salt_bytes).hash(password)
        known = Hash.parse(theirs)
        assert known.fits(password)
        assert not known.fits(password + b"x")
        assert theirs == known.text()


# The file of users

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
    """Only what ends a name is no part of it; Python has more ends of lines, which may be."""
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


# Penalties: failures cost time, more each time, and are forgotten

A, B = b"\xc0\0\2\1", b"\xc0\0\2\2"


def failing(times, at=0.0):
    """Return what is remembered of an address that has failed so often at once."""
    table = Penalties()
    for _ in range(times):
        table.add(A, at)
    return table


@pytest.mark.parametrize(
    "times, seconds",
    [(0, 0), (1, 0), (2, 0), (3, 0.5), (4, 1), (5, 2), (8, 16), (9, 30), (10, 30), (1000, 30)],
)
def test_each_failure_doubles_the_wait(times, seconds):
    """Three are free, then it is half a second, and never more than 30."""
    table = failing(times, 7.0)

    assert seconds == table.wait_seconds(A, 7.0)
    assert 0 == table.wait_seconds(B, 7.0)


def test_the_wait_is_since_the_failure():
    """A client that comes back later has waited already."""
    table = failing(4)

    assert 0.25 == table.wait_seconds(A, 0.75)
    assert 0 == table.wait_seconds(A, 1.0)
    assert 0 == table.wait_seconds(A, 1e9)


def test_a_minute_is_worth_half_of_them():
    """Failures long ago count less, and in the end nothing; a thousand are soon forgotten."""
    assert 2.0 == failing(4).score(A, 60.0)
    assert 3 == failing(4).add(A, 60.0)
    assert 1 == failing(4).add(A, 3600.0)
    assert 3 == failing(1000).add(A, 125.0)


def test_guessing_on_is_slow():
    """A client that guesses as soon as it may has about 300 guesses in an hour."""
    table, now, guesses = Penalties(), 0.0, 0
    while now < 3600:
        table.add(A, now)
        guesses += 1
        now += table.wait_seconds(A, now)

    assert 200 < guesses < 400


def test_the_table_is_bounded():
    """However many addresses fail, those that fail most are remembered."""
    table = failing(5)
    for i in range(MAX_ENTRIES + 50):
        table.add(i.to_bytes(8, "big"), 1.0)

    assert MAX_ENTRIES == len(table)
    assert 2 == table.wait_seconds(A, 0.0)


def test_the_client_with_fewest_failures_makes_room(monkeypatch):
    """The failures that count now decide, not those that counted once."""
    monkeypatch.setattr(passwords, "MAX_ENTRIES", 2)
    table = failing(3)
    table.add(B, 200.0)
    table.add(b"new", 200.0)

    assert 0 == table.score(A, 200.0)
    assert 1 == table.score(B, 200.0)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([A, B]), st.floats(0, 1e7))))
def test_no_wait_is_longer_than_half_a_minute(steps):
    """Whichever client fails and whenever: its wait ends."""
    table, now = Penalties(), 0.0
    for address, later in steps:
        now += later
        assert 1 <= table.add(address, now) <= 10
        assert 0 <= table.wait_seconds(A, now) <= 30
