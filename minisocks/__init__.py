"""A SOCKS4, SOCKS4a and SOCKS5 proxy server for small and old machines.

Importing this never imports click, adds no log handlers and starts nothing.
"""

import logging

from minisocks.errors import ConfigError, ListenError, MinisocksError
from minisocks.proxy import Proxy
from minisocks.settings import Config

__all__ = ["Config", "ConfigError", "ListenError", "MinisocksError", "Proxy", "__version__"]

__version__ = "0.1.0"

logging.getLogger("minisocks").addHandler(logging.NullHandler())
