"""What was right once need not be shown again: for how long, by which client, how many."""

import sys
import threading

import pytest

from minisocks.access import Users
from minisocks.policy.client import Client
from minisocks.policy.passwords import Hash
from minisocks.protocol.messages import Credentials
from minisocks.server import logins
from minisocks.server.logins import TrustedAddresses, Verified

ANN = Credentials(b"ann", b"secret")
HASH, OTHER = Hash(1, b"a", bytes(32)), Hash(1, b"b", bytes(32))
USERS = Users(hashed=dict.fromkeys((b"ann", b"bob", b"eve"), HASH))
A, B = b"\xc0\0\x02\x01", b"\xc0\0\x02\x02"
HERE, THERE = Client(("192.0.2.1", 1)), Client(("192.0.2.2", 1))


def hook(user, password, client):
    return True


def test_only_what_was_right_is_remembered():
    """The same name with the same password, from the same address, by the same line of the file."""
    known = Verified()
    known.add(A, ANN, USERS)

    assert known.has(A, ANN, USERS)
    assert not known.has(B, ANN, USERS)
    assert not known.has(A, ANN, Users(hashed={b"ann": OTHER}))
    assert not known.has(A, ANN, Users())
    assert not known.has(A, Credentials(b"ann", b"Secret"), USERS)
    assert not known.has(A, Credentials(b"bob", b"secret"), USERS)
    assert not Verified().has(A, ANN, USERS)


def test_what_is_known_as_it_is_can_be_remembered_too():
    """It is remembered as long as it is known."""
    known, users = Verified(), Users([ANN])
    known.add(A, ANN, users)

    assert known.has(A, ANN, users)
    assert not known.has(A, ANN, Users([(b"ann", b"other")]))


def test_a_new_password_takes_the_place_of_the_old_one():
    """One password of each user is remembered for an address."""
    known, new = Verified(), Credentials(b"ann", b"new")
    known.add(A, ANN, USERS)
    known.add(A, new, USERS)

    assert not known.has(A, ANN, USERS)
    assert known.has(A, new, USERS)
    assert 1 == len(known)


def test_no_password_is_kept():
    """What is remembered could be dumped without one in it."""
    known = Verified()
    known.add(A, ANN, USERS)

    assert "secret" not in repr(vars(known))


def test_passwords_remembered_are_bounded(monkeypatch):
    """The user with the oldest login makes room."""
    monkeypatch.setattr(logins, "MAX_REMEMBERED", 2)
    known = Verified()
    bob, eve = Credentials(b"bob", b"b"), Credentials(b"eve", b"e")
    known.add(A, ANN, USERS)
    known.add(A, bob, USERS)
    assert known.has(A, ANN, USERS)
    known.add(A, eve, USERS)

    assert [True, False, True] == [known.has(A, who, USERS) for who in (ANN, bob, eve)]
    assert 2 == len(known)


def test_an_address_is_known_for_its_time():
    """That very address, by its last user, and not a moment longer."""
    known = TrustedAddresses()
    known.add(HERE, b"bob", b"", 5.0)
    known.add(HERE, b"ann", b"", 10.0)

    assert b"ann" == known.user_at(HERE, 9.9)
    assert b"ann" == known.user_at(Client(("192.0.2.1", 2)), 9.9)
    assert b"ann" == known.user_at(Client(("::ffff:192.0.2.1", 2)), 9.9)
    assert known.user_at(HERE, 10.0) is None
    assert known.user_at(THERE, 9.9) is None
    assert 1 == len(known)


def test_a_unix_socket_is_no_client_s_address():
    """All clients on this host have the same one."""
    known = TrustedAddresses()
    known.add(HERE, b"ann", b"", 10.0)

    assert known.user_at(Client(""), 0.0) is None


def test_interfaces_tell_link_local_addresses_apart():
    """fe80::1 on one network is not fe80::1 on the other."""
    known = TrustedAddresses()
    known.add(Client(("fe80::1%eth0", 1)), b"ann", b"", 10.0)

    assert b"ann" == known.user_at(Client(("fe80::1%eth0", 2)), 0.0)
    assert known.user_at(Client(("fe80::1%eth1", 2)), 0.0) is None


def test_an_address_that_logs_in_again_is_known_all_the_time():
    """Its other connections, which need no password just then, find it."""
    known, is_over = TrustedAddresses(), threading.Event()
    known.add(HERE, b"ann", b"", 10.0)

    def log_in_again():
        while not is_over.is_set():
            known.add(HERE, b"ann", b"", 10.0)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=log_in_again)
    thread.start()
    try:
        assert {b"ann"} == {known.user_at(HERE, 0.0) for _ in range(1000)}
    finally:
        is_over.set()
        thread.join()
        sys.setswitchinterval(before)


def test_addresses_remembered_are_bounded(monkeypatch):
    """The client with the oldest login makes room."""
    monkeypatch.setattr(logins, "MAX_REMEMBERED", 2)
    known = TrustedAddresses()
    clients = [Client(("192.0.2.%d" % i, 1)) for i in range(3)]
    for client in (clients[0], clients[1], clients[0], clients[2]):
        known.add(client, b"ann", b"", 1.0)

    assert [b"ann", None, b"ann"] == [known.user_at(client, 0.0) for client in clients]


@pytest.mark.parametrize(
    "before, after, stays",
    [
        (Users([ANN]), Users([ANN]), True),
        (Users([ANN]), Users([ANN, (b"bob", b"b")]), True),
        (Users([ANN]), Users([(b"ann", b"new")]), False),
        (Users([ANN]), Users(), False),
        (Users(hashed={b"ann": HASH}), Users(hashed={b"ann": HASH}), True),
        (Users(hashed={b"ann": HASH}), Users(hashed={b"ann": HASH, b"bob": OTHER}), True),
        (Users(hashed={b"ann": HASH}), Users(hashed={b"ann": OTHER}), False),
        (Users(hashed={b"ann": HASH}), Users(hashed={b"bob": HASH}), False),
        (Users(hashed={b"ann": HASH}), Users(hashed={}), False),
        (Users(hashed={b"ann": HASH}), Users([ANN]), False),
        (Users(authenticate=hook), Users(authenticate=hook), True),
        (Users(authenticate=hook), Users([ANN]), False),
    ],
)
def test_a_reload_keeps_users_that_are_still_there(before, after, stays):
    """With the user, or with another password, what was remembered ends."""
    known = TrustedAddresses()
    known.add(HERE, b"ann", before.proof(ANN), 10.0)
    known.keep(after, 0.0)

    assert (b"ann" if stays else None) == known.user_at(HERE, 0.0)


def test_those_whose_time_is_over_are_forgotten():
    """A reload sweeps up."""
    known = TrustedAddresses()
    known.add(HERE, b"ann", Users([ANN]).proof(ANN), 10.0)
    known.add(THERE, b"ann", Users([ANN]).proof(ANN), 20.0)
    known.keep(Users([ANN]), 10.0)

    assert 1 == len(known)
    assert b"ann" == known.user_at(THERE, 0.0)
