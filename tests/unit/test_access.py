"""Names and passwords: the right pair and nothing near it."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.support import ROOT
from minisocks.access import Users, keyed
from minisocks.policy.client import Client
from minisocks.policy.passwords import Hash, derive
from minisocks.protocol.messages import Credentials

CLIENT = Client(("192.0.2.1", 4242))
LONGEST = b"x" * 255
USERS = [
    (b"ann", b"secret"),
    (b"bob", b"hunter2"),
    (b"\xff\n", b"\xc3\xa4\0"),
    (b"ab", b"c"),
    (LONGEST, LONGEST),
]


@pytest.mark.rfc(
    "RFC 1929 section 2",
    "UNAME is the name known to the source operating system, PASSWD goes with it.",
)
@pytest.mark.parametrize("user, password", USERS)
def test_right_password_is_right(user, password):
    """Each user's own password passes, whatever bytes it is made of."""
    assert Users(USERS).verify(Credentials(user, password), CLIENT)


@pytest.mark.parametrize(
    "user, password",
    [
        (b"ann", b"wrong"),
        (b"ann", b""),
        (b"ann", b"secre"),
        (b"ann", b"secret "),
        (b"ann", b"secret\0"),
        (b"ann", b"Secret"),
        (b"Ann", b"secret"),
        (b"", b"secret"),
        (b"", b""),
        (b"eve", b"secret"),
        (b"ann", b"hunter2"),
        # The same bytes in one row, cut elsewhere.
        (b"a", b"bc"),
        (b"abc", b""),
        (b"", b"abc"),
        (b"anns", b"ecret"),
        (LONGEST, LONGEST[1:]),
    ],
)
def test_wrong_password_is_wrong(user, password):
    """Near is not right: another's password, another cut, another case, or nothing."""
    assert not Users(USERS).verify(Credentials(user, password), CLIENT)


@pytest.mark.parametrize("user, password", [(b"", b""), (b"ann", b"secret")])
def test_without_users_no_password_is_right(user, password):
    """No users means that no password is right, not that any will do."""
    assert not Users().verify(Credentials(user, password), CLIENT)
    assert not Users()
    assert Users(USERS)


FIELD = st.one_of(st.binary(max_size=3), st.sampled_from([b"ann", b"secret", b"a\0", b"\0", b""]))


@settings(deadline=None)
@given(st.lists(st.tuples(FIELD, FIELD), max_size=4), st.tuples(FIELD, FIELD))
def test_users_are_a_set_of_pairs(known, given_):
    """A pair passes if it is one of those known, and for no other reason."""
    assert (given_ in known) == Users(known).verify(Credentials(*given_), CLIENT)


HASHED = {b"ann": Hash.of(b"hashed", b"salt", 10), b"max": Hash.of(b"x", b"salt", 20)}


def no_pause():
    pass


def test_hashes_are_not_verified_in_passing():
    """What takes long is left to callers that have the time; what is known is answered."""
    users = Users(USERS, hashed=HASHED)

    assert users.verify(Credentials(b"ann", b"secret"), CLIENT)
    assert not users.verify(Credentials(b"ann", b"hashed"), CLIENT)
    assert users.fits(b"hashed", users.hash_of(b"ann"), no_pause)


def test_the_hash_for_unknown_users_is_like_the_others():
    """A name that is not in the file has a hash, too, of as many iterations as any."""
    users = Users(hashed=HASHED)

    assert 20 == users.iterations == users.hash_of(b"nobody").iterations
    assert users.hash_of(b"nobody") == users.hash_of(b"")
    assert not users.fits(b"hashed", users.hash_of(b"nobody"), no_pause)
    assert Users(hashed={}).hash_of(b"nobody") is None
    assert Users().hash_of(b"nobody") is None


@pytest.mark.parametrize("user, missing", [(b"ann", 10), (b"max", 0), (b"nobody", 0)])
@pytest.mark.parametrize("password", [b"hashed", b"x", b""])
def test_every_check_is_as_much_work(user, missing, password, monkeypatch):
    """Each user costs the same, whether right or wrong."""
    counted = []

    def counting(password, salt, iterations, pause):
        counted.append(iterations)
        return derive(password, salt, iterations, pause)

    monkeypatch.setattr("minisocks.access.derive", counting)
    monkeypatch.setattr("minisocks.policy.passwords.derive", counting)
    users = Users(hashed=HASHED)
    users.fits(password, users.hash_of(user), no_pause)

    assert [20 - missing] + [missing] * bool(missing) == counted


def test_an_empty_file_is_not_no_file():
    """With it a password is needed, which no user has."""
    assert Users(hashed={})
    assert not Users(hashed=None)
    assert not Users(hashed={}).has_hashes


@pytest.mark.parametrize(
    "parts, others",
    [
        ((b"ab", b"c"), (b"a", b"bc")),
        ((b"ab", b""), (b"a", b"b")),
        ((b"", b"a"), (b"a", b"")),
        ((b"a",), (b"a", b"")),
        ((b"a\0", b"b"), (b"a", b"\0b")),
    ],
)
def test_a_keyed_hash_is_of_all_its_parts(parts, others):
    """Where one ends and the next begins makes a difference."""
    assert keyed(*parts) == keyed(*parts)
    assert keyed(*parts) != keyed(*others)


@pytest.mark.rfc(
    "RFC 1929 section 3",
    'The password is carried in cleartext: not where "sniffing" is possible and practical.',
)
@pytest.mark.parametrize("show", [repr, str, lambda users: repr(vars(users))])
def test_users_hold_no_password(show):
    """What is kept, and could be dumped, has no password in it."""
    shown = show(Users([(b"ann", b"secret")]))

    assert "secret" not in shown
    assert "ann" not in shown


HEAVY = ["asyncio", "click", "concurrent.futures", "hashlib", "hmac", "ssl"]
LOADED = "import sys\n%s\nprint(*sorted(set(sys.modules) & set(%r)))"


@pytest.mark.parametrize(
    "program, loaded",
    [
        ("import minisocks", ""),
        (
            "import minisocks; minisocks.Proxy(minisocks.Config(listen=('127.0.0.1:0',))).start()",
            "",
        ),
        ("import minisocks.access; minisocks.access.Users([(b'ann', b'secret')])", "hashlib hmac"),
    ],
)
def test_hashes_are_loaded_only_for_users(program, loaded):
    """A proxy without passwords, or one that is only imported, loads nothing heavy."""
    output = subprocess.check_output(
        [sys.executable, "-W", "error", "-c", LOADED % (program, HEAVY)],
        cwd=ROOT,
        universal_newlines=True,
    )

    assert loaded == output.strip()
