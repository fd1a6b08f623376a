"""Fixtures that most tests of UDP use."""

import pytest

from kit.udp_client import Associated, UdpTarget


@pytest.fixture
def target():
    """A target of datagrams."""
    with UdpTarget() as running:
        yield running


@pytest.fixture
def target6():
    """The same with an IPv6 address."""
    with UdpTarget("::1") as running:
        yield running


@pytest.fixture
def client(proxy):
    """A client with an association."""
    with Associated(proxy.port) as associated:
        yield associated
