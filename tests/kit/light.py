"""A router's Python: OpenWrt's python3-light and python3-logging, and nothing else."""

import os

__all__ = ["light_environment", "without_the_rest"]

# What python3-light lacks; logging is a package that we ask for.
LACKED = """
    asyncio ctypes multiprocessing unittest urllib email xml xmlrpc sqlite3 decimal dbm curses
    lzma pydoc doctest venv ensurepip uuid ssl _ssl _hashlib unicodedata readline
    cgi distutils lib2to3 idlelib tkinter turtledemo webbrowser
    _codecs_cn _codecs_hk _codecs_iso2022 _codecs_jp _codecs_kr _codecs_tw
"""
NOT_LIGHT = LACKED.split()

WITHOUT = """
import sys

class Missing:
    # The oldest way and the newest: a finder that says no.
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in %r:
            raise ImportError("python3-light has no " + name)

for loaded in [m for m in sys.modules if m.partition(".")[0] in %r]:
    del sys.modules[loaded]
sys.meta_path.insert(0, Missing())
"""


def without_the_rest():
    """Return a program's first lines, after which it can import no more than a router has."""
    return WITHOUT % (NOT_LIGHT, NOT_LIGHT)


def light_environment(folder):
    """Return the environment, with nothing but what makes each Python in it a router's.

    Not for ``-I``, ``-E`` and ``-S``, which ignore it.
    """
    with open(os.path.join(str(folder), "sitecustomize.py"), "w") as file:
        file.write(without_the_rest())
    return {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
