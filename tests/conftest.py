"""Fixtures, made from what ``support`` has."""

import logging
import os
import signal

import pytest

from kit import elsewhere, support
from kit.instance import Instance
from minisocks.policy.client import groups_of
from minisocks.policy.networks import Networks
from minisocks.pytest_plugin import make_socks_proxy, socks_proxy

# A shell may have had it ignored, and programs keep to that; those of the tests inherit this.
signal.signal(signal.SIGINT, signal.default_int_handler)

# As if this package were installed, which it need not be for its own tests.
__all__ = ["make_socks_proxy", "socks_proxy"]


@pytest.fixture
def proxy():
    """A proxy with the defaults, on a free port of loopback."""
    with support.run_proxy() as running:
        yield running


@pytest.fixture
def target():
    """A target that echoes."""
    with support.FakeTarget() as running:
        yield running


@pytest.fixture
def other_networks(monkeypatch):
    """Have limits take loopback's addresses, but 127.0.0.1 and ::1, for hosts of other networks.

    For tests that need no more of other hosts than that they are others; traffic between real
    ones is in ``test_shares``.
    """
    alone = Networks("loopback", "127.0.0.1/32 ::1/128")
    monkeypatch.setattr("minisocks.policy.client.LOOPBACK", alone)
    groups_of.cache_clear()
    yield
    groups_of.cache_clear()


@pytest.fixture
def instance(tmp_path):
    """An instance, not started."""
    instance = Instance(tmp_path)
    yield instance
    instance.end()


@pytest.fixture(scope="module")
def network():
    """The proxies' host, and another one with addresses of every kind."""
    with elsewhere.made_for_tests() as here:
        yield here


@pytest.fixture
def here(network):
    """Both hosts, for a test in which the server must log no bug of its own."""
    network.refusals()
    network.asked()
    yield network
    support.wait_until(lambda: network.connections() == 0, "the end of all connections")
    assert [] == network.bugs()


@pytest.fixture
def access_log():
    """The access log's lines, while the test runs."""
    with support.log_kept() as kept:
        yield kept


@pytest.fixture(params=["newest", pytest.param("oldest", marks=pytest.mark.versions)])
def every_click(request, monkeypatch):
    """Have child processes use this environment's click, then the oldest one."""
    if request.param == "oldest":
        if not os.path.isdir(support.OLDEST_CLICK):
            pytest.skip("no click 7.1 beside this environment; scripts/test makes one")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join((support.OLDEST_CLICK, support.ROOT)))


@pytest.fixture
def bugs():
    """The messages of our own bugs, for tests that provoke them; taken out of the log."""
    messages = []

    def take(record):
        if record.exc_info:
            messages.append(record.getMessage())
        return not record.exc_info

    logger = logging.getLogger("minisocks")
    logger.addFilter(take)
    yield messages
    logger.removeFilter(take)


@pytest.fixture(autouse=True)
def no_bug_in_the_log(caplog):
    """Fail a test in which the server logged one of its own bugs."""
    yield
    bugs = [r for r in caplog.get_records("call") if r.name.startswith("minisocks") and r.exc_info]
    assert not bugs, "the server logged a traceback: %s" % bugs[0].getMessage()
