"""A SOCKS4, SOCKS4a and SOCKS5 proxy server for small and old machines.

An import of it loads next to nothing, adds no log handlers and starts nothing.  Its names are
loaded when they are first used.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing costs a small machine 2 MB, and types in 3.6 a millisecond
    from types import ModuleType
    from typing import Any, Dict, List

    from minisocks.config.settings import Config
    from minisocks.errors import ConfigError, ListenError, MinisocksError
    from minisocks.hooks import ProxyRequest
    from minisocks.policy.client import Client
    from minisocks.proxy import Proxy
    from minisocks.record import Record, Stats
    from minisocks.server.server import SocksHandler, SocksServer
    from minisocks.wire import Rep

else:
    ModuleType = type(sys)

__all__ = [
    "Client",
    "Config",
    "ConfigError",
    "ListenError",
    "MinisocksError",
    "Proxy",
    "ProxyRequest",
    "Record",
    "Rep",
    "SocksHandler",
    "SocksServer",
    "Stats",
    "__version__",
]

__version__ = "1.0.0rc1"

#: The module of each name.
_HOMES: "Dict[str, str]" = {
    "Client": "policy.client",
    "Config": "config.settings",
    "ConfigError": "errors",
    "ListenError": "errors",
    "MinisocksError": "errors",
    "Proxy": "proxy",
    "ProxyRequest": "hooks",
    "Record": "record",
    "Rep": "wire",
    "SocksHandler": "server.server",
    "SocksServer": "server.server",
    "Stats": "record",
}


class _Package(ModuleType):
    """This package.  A class, because Python 3.6 has no ``__getattr__`` in modules."""

    def __getattr__(self, name: str) -> "Any":
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError("module %r has no attribute %r" % (self.__name__, name))
        from importlib import import_module

        value = getattr(import_module("%s.%s" % (self.__name__, home)), name)
        setattr(self, name, value)  # so that this is called once for each name
        return value

    def __dir__(self) -> "List[str]":
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
