"""Who may come in, and what they may reach.  Pure decisions; no I/O.

``Rules`` is asked three times: whether a client may come in, whether it may go
to what it named, and about each address that the name stands for.  The address
that passed is the address connected to, so a name that resolves differently
the second time gains nothing.

What is here are the defaults, "safe, not closed":

* Without users, only clients on this host may come in; ``allow_lan`` lets
  private networks in too, ``open`` everybody.  With users, whoever has a
  password may.
* A client from elsewhere may not reach this host's loopback, link-local,
  metadata and unspecified addresses in any form; a client from a public
  address may not reach private networks.  ``allow_lan`` and ``open`` say who
  comes in and change nothing about that.
"""

from typing import NamedTuple, Tuple

from minisocks.client import Client
from minisocks.errors import RefusedByRules
from minisocks.networks import LINK_LOCAL, LOOPBACK, METADATA, PRIVATE, UNSPECIFIED, disguises
from minisocks.wire import Address, Atyp, Method

__all__ = ["Decision", "Rules"]


class Decision(NamedTuple):
    """Whether, and in words why not (what an operator can do about it)."""

    allowed: bool
    reason: str = ""

    def demand(self) -> None:
        """Go on if it is allowed.

        Raises:
            RefusedByRules: it is not.
        """
        if not self.allowed:
            raise RefusedByRules(self.reason)


_YES = Decision(True)

#: Not for clients from elsewhere, however they are let in.
_OURS = (LOOPBACK, UNSPECIFIED, LINK_LOCAL, METADATA)
#: Not for clients from public addresses.
_INSIDE = (PRIVATE,)


class Rules:
    """The decisions of one proxy.  Immutable; any thread."""

    __slots__ = ("allow_lan", "has_users", "open")

    def __init__(
        self, has_users: bool = False, allow_lan: bool = False, open: bool = False
    ) -> None:
        self.has_users = has_users
        self.allow_lan = allow_lan
        self.open = open

    def methods(self, client: Client) -> Tuple[Method, ...]:
        """Return the METHODs that *client* may use, preferred first.

        A client that may not come in at all is given NO_AUTHENTICATION: it
        then hears REP 02, which it can show, and not a broken negotiation.
        """
        if not self.has_users:
            return (Method.NO_AUTHENTICATION,)
        if self._needs_no_password(client):
            return (Method.USERNAME_PASSWORD, Method.NO_AUTHENTICATION)
        return (Method.USERNAME_PASSWORD,)

    def admits(self, client: Client) -> Decision:
        """Decide whether *client* (its ``user`` set if it has one) may come in."""
        if client.user is not None or self._needs_no_password(client):
            return _YES
        if not self.has_users and client.is_local:
            return _YES
        return Decision(
            False,
            "clients from %s may not come in; let them with --allow-lan (private networks), "
            "--user NAME:PASSWORD or --open" % client.host,
        )

    def allows_name(self, client: Client, dst: Address) -> Decision:
        """Decide about what *client* asked for, before anything is resolved."""
        if dst.atyp == Atyp.DOMAINNAME and not client.is_local:
            name = dst.host.lower().rstrip(b".")
            if name == b"localhost" or name.endswith(b".localhost"):
                return Decision(
                    False, "%s is this host, which %s may not reach" % (dst, client.host)
                )
        return _YES

    def allows_address(self, client: Client, ip: bytes, port: int) -> Decision:
        """Decide about an address that the target has: 4 or 16 bytes."""
        if client.is_local:
            return _YES
        barred = _OURS if client.is_inside else _OURS + _INSIDE
        for form in disguises(ip):
            for networks in barred:
                if form in networks:
                    return Decision(
                        False,
                        "%s addresses are not for clients from %s" % (networks.name, client.host),
                    )
        return _YES

    def describe(self) -> str:
        """Return one sentence that says who may come in."""
        if self.open:
            return "any client, without a password (--open)"
        who = "clients on this host (by loopback)"
        if self.allow_lan:
            who += " and on private networks (--allow-lan)"
        if not self.has_users:
            return who + ", without a password"
        if not self.allow_lan:
            return "any client that has a password"
        return who + " without a password, any other client with one"

    def _needs_no_password(self, client: Client) -> bool:
        return self.open or (self.allow_lan and (client.is_local or client.is_inside))
