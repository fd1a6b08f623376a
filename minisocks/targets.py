"""What a client names, as addresses: looked up, and those of them that it may reach."""

from typing import Callable, List

from minisocks.handshake import Request
from minisocks.loop import Job
from minisocks.resolver import Lookup, Outcome, Sockaddr
from minisocks.rules import Decision
from minisocks.session import Session
from minisocks.wire import packed_ip

__all__ = ["allowed", "look_up_for"]


def look_up_for(
    session: Session, request: Request, job: Job, resolved: Callable[[Outcome], None]
) -> Lookup:
    """Have the name that *request* is about looked up; *job* is called back.  Loop thread.

    Raises:
        DialError: too many names are waited for already.
    """
    services, client = session.services, session.client
    return services.resolver.submit(
        request.dst.host,
        request.dst.port,
        lambda outcome: services.loop.call_soon(job, resolved, outcome),
        client.groups,
    )


def allowed(session: Session, request: Request, addresses: List[Sockaddr]) -> List[Sockaddr]:
    """Return those of *addresses*, which ``DST`` has, that the client may reach.  Any thread.

    Raises:
        RefusedByRules: none.
    """
    rules, client = session.services.access.rules, session.client
    ver, cmd, dst = request.ver, request.cmd, request.dst
    passed = []
    decision = Decision(False, "no address that could be connected to")
    for family, sockaddr in addresses:
        ip = packed_ip(sockaddr[0])
        if ip is not None:
            decision = rules.decide(client, ver, cmd, dst, ip)
            if decision.allowed:
                passed.append((family, sockaddr))
    if not passed:
        decision.demand()
    return passed
