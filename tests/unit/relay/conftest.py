"""What tests of relayed connections begin with."""

import pytest

from kit.relaying import relayed_by


@pytest.fixture
def relayed(loop):
    """Makes relayed connections in the loop; starts them unless told otherwise."""
    with relayed_by(loop) as make:
        yield make
