"""Fixtures for tests of programs that use a SOCKS proxy.

pytest finds them when minisocks is installed.  The proxy is imported only if a test uses them.
"""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Callable, Iterator

import pytest

if TYPE_CHECKING:
    from minisocks.testing import ScriptedProxy

__all__ = ["make_socks_proxy", "pytest_collection_finish", "socks_proxy"]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Import the proxy now if a test uses it, so that no test waits for the import."""
    if any("make_socks_proxy" in getattr(item, "fixturenames", ()) for item in session.items):
        import minisocks.testing  # noqa: F401  # for the fixtures below


@pytest.fixture
def make_socks_proxy() -> "Iterator[Callable[..., ScriptedProxy]]":
    """Make SOCKS proxies that fail as the test wants, and end with it.

    ``make_socks_proxy(reply=0x05)`` takes the fields of ``minisocks.testing.Script``, and the
    settings and hooks of ``minisocks.Proxy``.  A test mostly needs ``url``, ``port`` and
    ``records`` of the result.
    """
    from minisocks.testing import ScriptedProxy

    with ExitStack() as stack:

        def make(**settings: Any) -> ScriptedProxy:
            return stack.enter_context(ScriptedProxy(**settings))

        yield make


@pytest.fixture
def socks_proxy(make_socks_proxy: "Callable[..., ScriptedProxy]") -> "ScriptedProxy":
    """A well-behaved SOCKS proxy on a free port of 127.0.0.1."""
    return make_socks_proxy()
