"""The family of addresses that the system's resolver is asked for."""

import socket

import pytest

from kit import inside
from minisocks.net import lookup
from minisocks.net.lookup import look_up, system_getaddrinfo

V4, V6 = int(socket.AF_INET), int(socket.AF_INET6)
HOW = (socket.SOCK_STREAM, socket.IPPROTO_TCP, 0)
NO_DATA = getattr(socket, "EAI_NODATA", None)


@pytest.fixture
def asked(monkeypatch):
    """The families that the system's resolver is asked for, on a host that has IPv4 only."""
    found = []

    def getaddrinfo(host, port, family, *how):
        assert how == HOW
        found.append(family)
        if host == b"v6.test" and family == V4:
            raise socket.gaierror(NO_DATA, "No address associated with hostname")
        return []

    inside.replace_getaddrinfo(monkeypatch, getaddrinfo)
    monkeypatch.setattr(lookup, "only_family", lambda: V4)
    return found


@pytest.mark.parametrize(
    "host, family, expected",
    [
        (b"example.org", 0, V4),
        (b"example.org", V6, V6),
        (b"notlocalhost", 0, V4),
        (b"localhost.example.org", 0, V4),
        (b"localhost", 0, 0),
        (b"LocalHost.", 0, 0),
        (b"app.localhost", 0, 0),
        (b"ip6-localhost", 0, 0),
        (b"localhost", V4, V4),
    ],
)
def test_family_that_is_asked_for(host, family, expected, asked):
    """What is wanted, else what this host has; loopback has both on any host."""
    system_getaddrinfo(host, 80, family, *HOW)

    assert [expected] == asked


@pytest.mark.skipif(NO_DATA is None, reason="this C library does not tell it from no name")
@pytest.mark.parametrize(
    "family, why",
    [
        (0, "it has no IPv4 address, and this host has none of another family to reach it from"),
        (V4, "it has no IPv4 address"),
    ],
)
def test_name_without_an_address_of_the_family(family, why, asked):
    """The error says which one was asked for, so that it is not taken for a wrong name."""
    with pytest.raises(socket.gaierror) as caught:
        system_getaddrinfo(b"v6.test", 80, family, *HOW)

    assert why == caught.value.strerror


@pytest.mark.parametrize("family, host", [(V4, "192.0.2.1"), (V6, "2001:db8::1")])
def test_answer_of_a_program_that_looks_at_no_family(family, host):
    """Of what its resolver says, addresses of another family are not used."""
    rows = [(V6, ("2001:db8::1", 80, 0, 0)), (V4, ("192.0.2.1", 80))]

    found = look_up(lambda *args: [(f, 1, 6, "", to) for f, to in rows], b"both.test", 80, family)

    assert [host] == [sockaddr[0] for _family, sockaddr in found]
