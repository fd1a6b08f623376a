"""Check user names and passwords, in the same time whatever they are."""

from typing import Iterable, List, Optional, Tuple

from minisocks.client import Client
from minisocks.handshake import Credentials
from minisocks.hooks import Authenticate, demand_yes_or_no
from minisocks.wire import as_text

__all__ = ["Users"]


class Users:
    """Who has which password.

    A class because the comparison needs a key of its own: equal-length keyed
    hashes are compared, all of them always, so the time says nothing about
    names, lengths or how much of a password was right.  Immutable; any thread.

    Args:
        credentials: names and their passwords.
        authenticate: the hook, asked about those that are not among them.
    """

    def __init__(
        self,
        credentials: Iterable[Tuple[bytes, bytes]] = (),
        authenticate: Optional[Authenticate] = None,
    ) -> None:
        self._authenticate = authenticate
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
        return bool(self._hashes) or self.may_take_long

    @property
    def may_take_long(self) -> bool:
        """Whether ``verify`` may take longer than other clients should wait behind it."""
        return self._authenticate is not None

    def verify(self, credentials: Credentials, client: Client) -> bool:
        """Say whether name and password belong together.

        Raises:
            HookFailed: the hook did not say.
        """
        if self._hashes and self._is_known(credentials):
            return True
        hook = self._authenticate
        if hook is None:
            return False
        user, password = (as_text(part) for part in credentials)
        return demand_yes_or_no("authenticate", client, hook, user, password, client)

    def _is_known(self, credentials: Credentials) -> bool:
        given = self._keyed(credentials)
        matches = [self._equal(given, known) for known in self._hashes]
        return any(matches)

    def _keyed(self, credentials: Credentials) -> bytes:
        # The length keeps ("ab", "c") and ("a", "bc") apart.
        user, password = credentials
        return self._hash(self._key + bytes((len(user),)) + user + b"\0" + password).digest()
