"""The command hash-password: a password from the terminal or stdin, its hash to stdout.  No click.

Passwords are bytes, because clients send bytes, whatever the locale here is.
"""

import os
import re
import signal
import sys
import time
from typing import Callable, Optional

from minisocks.errors import ConfigError, ServiceError
from minisocks.policy.passwords import MAX_ITERATIONS, SALT_BYTES, Hash, check_user_name, derive
from minisocks.service.console import print_bytes
from minisocks.wire import MAX_FIELD_BYTES

__all__ = ["default_iterations", "hash_password", "seconds_for"]

#: Fewer iterations protect no password.
LEAST_ITERATIONS = 1000
#: Seconds of a processor that a login costs by default.  People notice one second; a client that
#: guesses gets two guesses a second of a processor.
DEFAULT_SECONDS = 0.5
DEFAULT_LEAST, DEFAULT_MOST = 10000, 600000
#: Seconds that a measurement takes at least.
MEASURE_SECONDS = 0.05


def hash_password(name: Optional[str] = None, iterations: Optional[str] = None) -> None:
    """Read a password and print its line for the file of users; without *name* only its hash.

    Raises:
        ConfigError: *name* or *iterations* cannot be used.
        ServiceError: the password cannot be read or used, or the two typed ones differ.
        OSError: stdin or stdout is closed.
    """
    user = None if name is None else _checked_name(name)
    count = None if iterations is None else _checked_count(iterations)
    password = _password()
    text = Hash.of(password, os.urandom(SALT_BYTES), count or default_iterations()).text()
    print_bytes((b"" if user is None else user + b":") + text.encode("ascii"))


def _checked_name(name: str) -> bytes:
    try:
        return check_user_name(name)
    except ConfigError as exc:
        raise ConfigError("--name", str(exc)) from None


def _checked_count(text: str) -> int:
    if not re.match("[0-9]+\\Z", text):  # int() would accept 1_000, too
        raise ConfigError("--iterations", "%.40r is no whole number" % text)
    count = int(text) if len(text) < 20 else -1
    if not LEAST_ITERATIONS <= count <= MAX_ITERATIONS:
        wrong = "%.20s is out of range: %d to %d" % (text, LEAST_ITERATIONS, MAX_ITERATIONS)
        raise ConfigError("--iterations", wrong)
    return count


def _password() -> bytes:
    if sys.stdin is None:
        raise ServiceError("there is no password: stdin is closed")
    if sys.stdin.isatty():
        # So that TERM, too, leaves a terminal that shows what is typed.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        password = _ask("Password: ")
        if password and _ask("Again: ") != password:
            raise ServiceError("the two passwords differ; nothing was hashed")
    else:
        # Longer than a password may be, so that a longer one is refused, not cut.
        password = _without_end(sys.stdin.buffer.readline(MAX_FIELD_BYTES + 3))
    if not password:
        raise ServiceError("the password is empty: type one, or pipe one to stdin")
    if len(password) > MAX_FIELD_BYTES:
        most = "%d bytes, the most that SOCKS5 can send" % MAX_FIELD_BYTES
        raise ServiceError("the password is longer than " + most)
    return password


def _ask(prompt: str) -> bytes:
    """Return what the operator types, without showing it.

    Raises:
        ServiceError: this terminal cannot hide it.
    """
    fd = sys.stdin.fileno()
    try:
        # Not getpass: it decodes by the locale, and shows what is typed if it cannot hide it.
        import termios

        before = termios.tcgetattr(fd)
        hidden = list(before)
        hidden[3] &= ~termios.ECHO
        termios.tcsetattr(fd, termios.TCSAFLUSH, hidden)
    except Exception as exc:  # of termios, whose error is no OSError; or there is no termios
        raise ServiceError("this terminal cannot hide a password: pipe it to stdin") from exc
    try:
        _prompt(prompt)
        return _without_end(os.read(fd, 4096))
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
        _prompt("\n")


def _prompt(text: str) -> None:
    # To stderr, because stdout may be redirected to the file of users.
    if sys.stderr is not None:
        sys.stderr.write(text)
        sys.stderr.flush()


def _without_end(line: bytes) -> bytes:
    line = line[:-1] if line.endswith(b"\n") else line
    return line[:-1] if line.endswith(b"\r") else line


def seconds_for(iterations: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return how many seconds *iterations* take here, measured with some of them."""
    tried, took = 500, 0.0
    while took < MEASURE_SECONDS:
        tried *= 2
        began = clock()
        derive(b"password", b"0123456789abcdef", tried)
        took = clock() - began
    return took * iterations / tried


def default_iterations(clock: Callable[[], float] = time.perf_counter) -> int:
    """Return how many take half a second here: 10 000 to 600 000, in thousands."""
    fits = DEFAULT_SECONDS / seconds_for(1, clock)
    return max(DEFAULT_LEAST, min(DEFAULT_MOST, round(fits / 1000) * 1000))
