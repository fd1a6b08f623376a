"""Check user names and passwords, in the same time whatever they are."""

from typing import Iterable, List, Tuple

from minisocks.handshake import Credentials

__all__ = ["Users"]


class Users:
    """Who has which password.

    A class because the comparison needs a key of its own: equal-length keyed
    hashes are compared, all of them always, so the time says nothing about
    names, lengths or how much of a password was right.  Immutable; any thread.
    """

    #: Whether ``verify`` may take longer than a client should wait behind it.
    may_take_long = False

    def __init__(self, credentials: Iterable[Tuple[bytes, bytes]] = ()) -> None:
        self._hashes: List[bytes] = []
        users = list(credentials)
        if users:
            # Imported here: without users nothing else needs them, and they
            # cost a small machine 2 MB.
            import hashlib
            import hmac
            import os

            self._key = os.urandom(32)
            self._hash = hashlib.sha256
            self._equal = hmac.compare_digest
            self._hashes = [self._keyed(Credentials(*pair)) for pair in users]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def verify(self, credentials: Credentials) -> bool:
        """Say whether name and password belong together."""
        if not self._hashes:
            return False
        given = self._keyed(credentials)
        matches = [self._equal(given, known) for known in self._hashes]
        return any(matches)

    def _keyed(self, credentials: Credentials) -> bytes:
        # The length keeps ("ab", "c") and ("a", "bc") apart.
        user, password = credentials
        return self._hash(self._key + bytes((len(user),)) + user + b"\0" + password).digest()
