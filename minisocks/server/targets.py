"""What a client names, as addresses: looked up, and those of them that it may reach."""

from typing import Callable, List, Optional

from minisocks.net.loop import Job
from minisocks.net.resolver import Lookup, Outcome
from minisocks.policy.addresses import MAX_ADDRESSES, Sockaddr
from minisocks.policy.rules import Decision
from minisocks.protocol.handshake import Request
from minisocks.server.session import Session
from minisocks.wire import Cmd, packed_ip, scope_of

__all__ = ["allowed", "look_up_for"]


def look_up_for(
    session: Session, request: Request, job: Job, resolved: Callable[[Outcome], None]
) -> Optional[Lookup]:
    """Have the name that *request* is about looked up; *job* is called back.  Loop thread.

    Returns:
        What is to be cancelled when *job* waits no more; None: the answer is on its way.

    Raises:
        DialError: too many names are waited for already.
    """
    services, client, dst = session.services, session.client, request.dst
    loop, answers = services.loop, services.answers
    known = answers.long_one(dst.host, dst.port)
    if known is not None:
        loop.call_soon(job, resolved, known)
        return None

    def heard(outcome: Outcome) -> None:
        # To take a long answer apart holds up all threads for some 5 ms: once for each name, and
        # not for each connection.
        if isinstance(outcome, list) and len(outcome) == MAX_ADDRESSES:
            answers.add(dst.host, outcome)
        resolved(outcome)

    return services.resolver.submit(
        dst.host,
        dst.port,
        lambda outcome: loop.call_soon(job, heard, outcome),
        client.groups,
        family=services.access.egress.only,
    )


def allowed(session: Session, request: Request, addresses: List[Sockaddr]) -> List[Sockaddr]:
    """Return those of *addresses*, which ``DST`` has, that the client may reach.  Any thread.

    Raises:
        RefusedByRules: none.
    """
    services, client = session.services, session.client
    access = services.access
    ver, cmd, dst = request.ver, request.cmd, request.dst
    passed = []
    decision = Decision(False, "no address that could be connected to")
    for family, sockaddr in addresses:
        ip = packed_ip(sockaddr[0])
        if ip is not None:
            scope = scope_of(sockaddr)
            decision = access.decisions.decide(client, ver, cmd, dst, ip, scope)
            if not decision.allowed:
                continue
            if cmd == Cmd.CONNECT and services.listeners.have(ip, dst.port, access.own, scope):
                decision = Decision(False, "%s is this proxy itself, no target of its own" % (dst,))
            else:
                passed.append((family, sockaddr))
    if not passed:
        decision.raise_if_denied()
    return passed
