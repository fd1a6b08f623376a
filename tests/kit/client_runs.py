"""What the tests with other people's clients share: the proxy, and whether a client can run."""

import os
import socket

import pytest

from kit.socks_clients import Missing
from kit.support import CommandLine

#: Set by scripts/clients.
RUN_SLOW = os.environ.get("TEST_CLIENTS") == "all"


class Running:
    """A proxy in its own process, of whose log each test sees what is new."""

    def __init__(self, minisocks):
        self._minisocks = minisocks
        (self.port,) = minisocks.ports
        self._seen = 0

    def mark(self):
        """Forget what was logged."""
        self._seen = len(self._minisocks.lines)

    def lines(self, part):
        """Return the new lines of the access log that contain *part*."""
        new = self._minisocks.lines[self._seen :]
        return [line for line in new if "minisocks.access" in line and part in line]


def running(*args):
    """Yield a proxy; it must not have stumbled."""
    with CommandLine("-l", "127.0.0.1:0", "-v", *args) as minisocks:
        yield Running(minisocks)
        assert 0 == minisocks.end()
        assert not any("Traceback" in line for line in minisocks.lines)


def fits(client):
    """Skip unless *client* can run here and now."""
    if client.slow and not RUN_SLOW:
        pytest.skip("slow: scripts/clients runs it")
    try:
        return client.version()
    except Missing as exc:
        pytest.skip(str(exc))


def looks_up(client):
    """Return whether *client*, which looks names up itself, can only find the right address."""
    try:
        rows = socket.getaddrinfo(client.name, 80, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return {client.address} == {row[4][0] for row in rows}


def titles(value):
    """Name a parameter in a test's id."""
    return value if isinstance(value, str) else value.title
