"""microsocks, a SOCKS5 proxy that others wrote, as a hop of exits."""

import contextlib
import shutil
import socket
import subprocess

import pytest

from kit.support import TIMEOUT, closed_port, wait_until


def _answers(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def running_microsocks(*args, port=None):
    """Run it on loopback with these options of its own; yield its *port*, by default a free one."""
    path = shutil.which("microsocks") or pytest.skip("microsocks not found; install the package")
    port = port or closed_port()
    command = [path, "-i", "127.0.0.1", "-p", str(port), *args]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _answers(port), "microsocks to answer")
        yield port
    finally:
        process.terminate()
        process.wait(TIMEOUT)
