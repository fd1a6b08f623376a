"""The exceptions and the words of the protocol: what the documents call them."""

import inspect
import re

import pytest

from minisocks import errors, wire
from minisocks.errors import (
    AuthFailed,
    ConfigError,
    DialError,
    HandshakeError,
    HandshakeTimeout,
    ListenError,
    MinisocksError,
    NotSocks,
    ProtocolError,
    RefusedByRules,
    UnsupportedAddressType,
    UnsupportedCommand,
)
from minisocks.wire import Address, Atyp, Rep


@pytest.mark.parametrize(
    "error, rep",
    [
        (ProtocolError("x"), Rep.GENERAL_FAILURE),
        (NotSocks("x"), None),
        (UnsupportedCommand("x"), Rep.COMMAND_NOT_SUPPORTED),
        (UnsupportedAddressType("x"), Rep.ADDRESS_TYPE_NOT_SUPPORTED),
        (AuthFailed("x"), Rep.NOT_ALLOWED),
        (RefusedByRules("x"), Rep.NOT_ALLOWED),
        (HandshakeTimeout("x"), Rep.TTL_EXPIRED),
        (DialError("x", Rep.HOST_UNREACHABLE), Rep.HOST_UNREACHABLE),
    ],
)
def test_error_carries_the_rep_it_deserves(error, rep):
    """Whatever ends a connection has the REP for the client."""
    assert rep == error.rep
    assert "x" == str(error)


def test_tree_is_drawn_as_it_is():
    """The tree at the top of the module lists every exception under its base."""
    drawn, above = {}, []
    for spaces, name, others in re.findall(
        r"^( {4,})(\w+)(?: \(also (\w+)\))?", errors.__doc__, re.M
    ):
        depth = len(spaces) // 2 - 2
        above[depth:] = [name]
        drawn[name] = [above[depth - 1] if depth else "Exception"] + ([others] if others else [])

    actual = {
        name: [base.__name__ for base in getattr(errors, name).__bases__] for name in errors.__all__
    }
    assert actual == drawn


def test_all_are_caught_by_their_root():
    """Every exception that the module defines is a MinisocksError, and exported."""
    classes = {c for _, c in inspect.getmembers(errors, inspect.isclass)}
    defined = [c for c in classes if c.__module__ == errors.__name__]

    assert errors.RoadError is errors.EgressError  # its first name
    assert sorted(errors.__all__) == sorted(c.__name__ for c in defined)
    assert all(issubclass(c, MinisocksError) for c in defined)
    assert not issubclass(DialError, HandshakeError)


def test_errors_are_also_what_python_calls_them():
    """Programs that know nothing of us catch ValueError and OSError as usual."""
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ListenError, OSError)


def test_dial_error_keeps_what_was_tried():
    """The attempts of a dial are there for the log."""
    attempts = [(("192.0.2.1", 80), OSError(111, "refused"))]

    assert attempts == DialError("x", Rep.CONNECTION_REFUSED, attempts).attempts
    assert [] == DialError("x", Rep.CONNECTION_REFUSED).attempts


@pytest.mark.parametrize("rep", Rep)
def test_every_reply_has_the_words_of_the_rfc(rep):
    """No REP is a mere number in the log."""
    assert re.match(r"[A-Za-z ]+\Z", rep.phrase)


@pytest.mark.rfc("RFC 1928 section 3", "Developers of methods contact IANA.")
@pytest.mark.parametrize(
    "enum, numbers",
    [
        (wire.Ver, [4, 5]),
        (wire.Cmd, [1, 2, 3, 0xF0, 0xF1]),  # the last two are of Tor
        (wire.Atyp, [1, 3, 4]),
        (wire.Method, [0, 2, 255]),
        (wire.Cd, [90, 91, 92, 93]),
        (wire.Rep, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
    ],
)
def test_numbers_are_those_of_the_documents(enum, numbers):
    """RFC 1928, the SOCKS4 memo and Tor give each name its number, in this order."""
    assert numbers == [int(member) for member in enum]


@pytest.mark.parametrize(
    "address, shown",
    [
        (Address(b"127.0.0.1", 80, Atyp.IPV4), "127.0.0.1:80"),
        (Address(b"::1", 80, Atyp.IPV6), "[::1]:80"),
        (Address(b"a.example", 80, Atyp.DOMAINNAME), "'a.example':80"),
        # An address sent as a name is shown as it was sent.
        (Address(b"127.0.0.1", 80, Atyp.DOMAINNAME), "'127.0.0.1':80"),
        (Address(b"\xff\n'", 80, Atyp.DOMAINNAME), "'\\xff\\n\\x27':80"),
    ],
)
def test_address_is_shown_safely(address, shown):
    """An address in a log line is readable, and cannot break the line."""
    assert shown == str(address)
