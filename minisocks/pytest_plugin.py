"""Fixtures for tests of programs that use a SOCKS proxy.

Installed with minisocks, pytest knows them without further ado; nothing of the
proxy is imported before a test asks for one of them.
"""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Callable, Iterator

import pytest

if TYPE_CHECKING:
    from minisocks.testing import ScriptedProxy

__all__ = ["make_socks_proxy", "socks_proxy"]


@pytest.fixture
def make_socks_proxy() -> "Iterator[Callable[..., ScriptedProxy]]":
    """Make SOCKS proxies that misbehave as told; they end with the test.

    ``make_socks_proxy(reply=0x05)``: see ``minisocks.testing.Script`` for what can be
    asked for, ``minisocks.Proxy`` for settings and hooks.  ``url``, ``port`` and
    ``records`` of what it returns are what a test needs most.
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
