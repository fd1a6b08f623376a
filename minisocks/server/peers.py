"""The peer of a BIND: which one the client expects, and whether the rules allow it."""

from typing import FrozenSet

from minisocks.errors import RefusedByRules
from minisocks.protocol.handshake import Request
from minisocks.server.session import Session
from minisocks.wire import Address, text_ip

__all__ = ["WrongPeer", "check_peer", "demand_any_peer"]


class WrongPeer(RefusedByRules):
    """The peer has not the address that the client has named."""


def demand_any_peer(session: Session, request: Request) -> None:
    """Check whether a peer of some address is allowed; its exits are the session's then.

    Raises:
        RefusedByRules: none is.
    """
    rules = session.services.access.rules
    decision = rules.precheck_any(session.client, request.ver, request.cmd, request.dst)
    decision.raise_if_denied()
    session.exits = decision.exits if session.chosen is None else session.chosen


def check_peer(
    session: Session, request: Request, expected: FrozenSet[bytes], ip: bytes, scope: int = 0
) -> None:
    """Check whether the peer at *ip* is one of those *expected*, and allowed.

    Its port does not matter, because servers connect from any port.  Rules see the port that the
    client has named.

    Args:
        expected: the addresses that the peer may have; empty: any address.

    Raises:
        RefusedByRules: it is not.
    """
    if expected and ip not in expected:
        raise WrongPeer(
            "%s connected to %s, but the client expects %s"
            % (text_ip(ip), session.record.bound or "", request.dst.name)
        )
    dst = Address.of_ip(ip, request.dst.port) if request.dst.is_any_peer else request.dst
    rules = session.services.access.rules
    rules.decide(session.client, request.ver, request.cmd, dst, ip, scope).raise_if_denied()
