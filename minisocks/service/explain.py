"""What the rules say about one client and one target: ``minisocks check --from --to``."""

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from minisocks.access import Access
from minisocks.errors import ConfigError, DialError
from minisocks.net.lookup import look_up, numeric_addresses, system_getaddrinfo
from minisocks.policy.addresses import of_peers
from minisocks.policy.client import Client
from minisocks.policy.rulelines import COMMANDS, Decision
from minisocks.values import encode, is_port
from minisocks.wire import Address, Cmd, Method, packed_ip, scope_of

__all__ = ["Question", "Explanation", "judge"]


#: Where a client may be that no address is known of.
_PLACES = ("forwarder", "unix")
_WITHOUT_ADDRESS = "by a unix socket or a forwarder there is no %s"


class Question(NamedTuple):
    """Who wants what; texts as people write them."""

    source: str
    target: str
    user: Optional[str] = None
    command: str = "connect"
    ver: int = 5


class Explanation(NamedTuple):
    """The decision, and what it is made of.

    ``rows``: an address of the target ("" before one is known), whether it may be
    reached, and which rule says so.
    """

    allowed: bool
    question: str
    rows: List[Tuple[str, bool, str]]

    def as_lines(self) -> List[str]:
        """Return it for people."""
        width = max([len(row[0]) for row in self.rows] + [0])
        lines = ["%s: %s" % ("allowed" if self.allowed else "denied", self.question)]
        for address, allowed, why in self.rows:
            words = [address.ljust(width), "allowed" if allowed else "denied", why]
            lines.append("  " + "  ".join(word for word in words if word.strip()))
        return lines

    def as_data(self) -> Dict[str, Any]:
        """Return it for programs."""
        rows = [dict(zip(("address", "allowed", "why"), row)) for row in self.rows]
        return {"allowed": self.allowed, "question": self.question, "addresses": rows}


def judge(
    access: Access, question: Question, getaddrinfo: Callable[..., Any] = system_getaddrinfo
) -> Explanation:
    """Return what *access* says; names are looked up as the proxy would.

    Raises:
        ConfigError: the question cannot be understood.
    """
    client, dst = _client(question.source), _target(question.target)
    cmd = COMMANDS.get(question.command.lower())
    if cmd is None:
        raise ConfigError("--command", "%r is none of %s" % (question.command, ", ".join(COMMANDS)))
    if question.ver == 4 and cmd == Cmd.UDP_ASSOCIATE:
        raise ConfigError("--ver", "SOCKS4 has connect and bind only")
    text = "%s to %s, %s by SOCKS%d" % (
        client.host,
        question.target,
        question.command,
        question.ver,
    )
    rules = access.rules
    if question.user is not None:
        client.user = user = encode(question.user)
        client.is_unproven = question.ver == 4 and bool(access.users)
        text += " as %s" % question.user
        why = _why_not(access, user, question)
        if why:
            return Explanation(False, text, [("", False, why)])
        if client.is_unproven and (access.users.may_be(user) or not rules.name(user)):
            client.user = None  # as ``SocksHandler.identify``
    elif question.ver == 4 and rules.asks_ident:
        decision = rules.precheck_some_user(client, question.ver, cmd, dst)
        why = decision.reason or "its identd has to say who it is (--as NAME)"
        return Explanation(False, text, [("", False, why)])
    elif Method.NO_AUTHENTICATION not in rules.methods(client):
        return Explanation(False, text, [("", False, "a password is needed (--as NAME)")])

    def by(decision: Decision) -> str:
        if not decision.number:
            return decision.reason
        return "by rule %d: %s" % (decision.number, rules.rules[decision.number - 1].text)

    if cmd == Cmd.UDP_ASSOCIATE and not client.has_address:
        return Explanation(False, text, [("", False, _WITHOUT_ADDRESS % "UDP: it hears REP 07")])
    decision = rules.precheck(client, question.ver, cmd, dst)
    if not decision.allowed:
        return Explanation(False, text, [("", False, by(decision))])
    addresses = numeric_addresses(dst.host, dst.port, dst.atyp)
    try:
        addresses = addresses or look_up(getaddrinfo, dst.host, dst.port, access.egress.only)
        if cmd == Cmd.BIND and not dst.is_anybody:
            addresses = of_peers(question.ver, addresses)
    except DialError as exc:
        return Explanation(False, text, [("", False, str(exc))])
    if cmd == Cmd.BIND and dst.is_anybody:
        decision = rules.precheck_any(client, question.ver, cmd, dst)
        why = by(decision) or "whoever connects is held against the rules then"
        return Explanation(decision.allowed, text, [("", decision.allowed, why)])
    rows = []
    for _family, sockaddr in addresses:
        ip = packed_ip(sockaddr[0])
        if ip is not None:
            decision = rules.decide(client, question.ver, cmd, dst, ip, scope_of(sockaddr))
            rows.append((sockaddr[0], decision.allowed, by(decision)))
    return Explanation(any(row[1] for row in rows), text, rows)


def _why_not(access: Access, user: bytes, question: Question) -> str:
    """Return why *user* cannot have logged in; "" if he can."""
    if question.ver == 4 and access.rules.asks_ident:
        if question.source in _PLACES:
            return _WITHOUT_ADDRESS % "identd to ask: it hears 92"
        return ""
    if not access.users:
        return "there are no users"
    if question.ver == 4:
        return "SOCKS4 has no passwords"
    return "" if access.users.may_be(user) else "no user is called %s" % question.user


def _client(text: str) -> Client:
    if text in _PLACES:
        return Client("", text == "forwarder")
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if packed_ip(bare) is None:
        raise ConfigError("--from", "%r is no address of a client; write it as 10.0.0.7" % text)
    return Client((bare, 0))


def _target(text: str) -> Address:
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not (colon and bare and is_port(port)):
        raise ConfigError("--to", "%r is no target; write it as HOST:PORT" % text)
    if bare is host and ":" in host:
        raise ConfigError("--to", "an IPv6 address needs brackets: [%s]:%s" % (host, port))
    ip = packed_ip(bare)
    if ip is None or "%" in bare:
        return Address.of_name(encode(bare), int(port))
    return Address.of_ip(ip, int(port))
