"""What tests of modules begin with."""

import pytest

from minisocks.net.loop import Loop


@pytest.fixture
def loop():
    """A running loop."""
    running = Loop()
    running.start()
    yield running
    running.stop()
