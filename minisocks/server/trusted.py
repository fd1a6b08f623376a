"""Who need not show a password again, or need not have it derived again.

In memory, bounded, and bound to the line that the password was right by: when that
is gone, or another one, after a reload, so is what was remembered.
"""

import threading
from typing import Dict, NamedTuple, Optional, Tuple

from minisocks.auth import Users, keyed
from minisocks.policy.client import Client
from minisocks.protocol.handshake import Credentials

__all__ = ["MAX_REMEMBERED", "TrustedAddresses", "Verified"]

#: Names, and addresses, at once.
MAX_REMEMBERED = 4096


class Verified:
    """Passwords that were found to be right, as keyed hashes, and from where they came.

    By address, too: else somebody elsewhere could guess at what is remembered, which
    costs nothing.  A class because of the bound: who has not logged in for longest makes
    room.  One thread at a time.
    """

    def __init__(self) -> None:
        #: By address (of IPv6: the /64) and user, longest ago first: mark and ``Users.proof``.
        self._known: Dict[Tuple[Optional[bytes], bytes], Tuple[bytes, bytes]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def add(self, address: Optional[bytes], credentials: Credentials, users: Users) -> None:
        """Remember that this password is right, as far as *users* go."""
        key = (address, credentials.user)
        self._known.pop(key, None)
        while len(self._known) >= MAX_REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[key] = keyed(*credentials), users.proof(credentials)

    def has(self, address: Optional[bytes], credentials: Credentials, users: Users) -> bool:
        """Return whether it was found to be right, by what *users* still have."""
        import hmac

        key = (address, credentials.user)
        mark, proof = self._known.get(key, (b"", b""))
        if not hmac.compare_digest(keyed(*credentials), mark):
            return False
        if not proof or not users.holds(credentials.user, proof):
            return False
        self._known[key] = self._known.pop(key)
        return True


class _Trusted(NamedTuple):
    user: bytes
    #: ``Users.proof``.
    proof: bytes
    #: When the password was shown.
    at: float


class TrustedAddresses:
    """Addresses that may come in without a password, because they have shown one.

    A class because of the bound: the one that has shown its password longest ago makes
    room.  Any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all below
        self._guests: Dict[str, _Trusted] = {}  # by address, longest ago first

    def __len__(self) -> int:
        return len(self._guests)

    def add(self, client: Client, user: bytes, proof: bytes, now: float) -> None:
        """Remember *client*'s address."""
        with self._lock:
            self._guests.pop(client.host, None)
            while len(self._guests) >= MAX_REMEMBERED:
                del self._guests[next(iter(self._guests))]
            self._guests[client.host] = _Trusted(user, proof, now)

    def user_at(self, client: Client, since: float) -> Optional[bytes]:
        """Return who has come from that address, not before *since*; None: nobody."""
        if not client.has_address:
            return None
        with self._lock:
            guest = self._guests.get(client.host)
        return guest.user if guest is not None and guest.at > since else None

    def keep(self, users: Users, since: float) -> None:
        """Forget those that *users* has no more, and those from before *since*."""
        with self._lock:
            self._guests = {
                host: guest
                for host, guest in self._guests.items()
                if guest.at > since and users.holds(guest.user, guest.proof)
            }
