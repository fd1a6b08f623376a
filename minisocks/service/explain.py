"""The decision of the rules about one client and one target: ``minisocks check --from --to``."""

from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from minisocks.access import Access
from minisocks.errors import CannotCarry, ConfigError, DialError
from minisocks.net.lookup import look_up, numeric_addresses, system_getaddrinfo
from minisocks.policy.builtin import label
from minisocks.policy.client import Client, Listener
from minisocks.policy.exits import ADDRESS_SCHEMES, DIRECT, Exit
from minisocks.policy.networks import of_peers
from minisocks.policy.rulelines import COMMANDS, Decision
from minisocks.protocol.clientside import ClientSide
from minisocks.service.exitshown import as_data, hops_told, way_told
from minisocks.values import MAX_PORT, ListenAddress, encode, is_port
from minisocks.wire import Address, Cmd, Method, packed_ip, plain_ip, scope_of

__all__ = ["Question", "Explanation", "judge"]

#: Values of --from for clients that have no address.
_PLACES = ("forwarder", "unix")
_NO_ADDRESS = "a client by a unix socket or a forwarder has no %s: it gets %s"
_OTHER_EXIT = "; not used, because the first address that is allowed leaves by another exit"
_NO_CLIENT = "%r is no address of a client: give one such as 10.0.0.7, or unix, or forwarder"


class Question(NamedTuple):
    """The client, the target and the request, as the operator writes them."""

    source: str
    target: str
    user: Optional[str] = None
    command: str = "connect"
    ver: int = 5
    #: Where the client connects to; empty: to the first listener of its kind.
    at: str = ""


class Way(NamedTuple):
    """An exit that is tried.

    ``gets_name``: it gets the name of the target, and nothing is looked up here.  ``problem``:
    why it cannot carry the request, else empty.
    """

    exit: Exit
    gets_name: bool = False
    problem: str = ""


class Explanation(NamedTuple):
    """A decision, and its parts.

    ``rows``: an address of the target ("" before one is known), whether the rules allow it, and
    why.  ``by_name``: the exits that are tried before the name is looked up; ``by_address``:
    those that are tried with the addresses in ``rows``.  Both empty: it leaves directly.
    """

    allowed: bool
    question: str
    rows: List[Tuple[str, bool, str]]
    by_name: Sequence[Way] = ()
    by_address: Sequence[Way] = ()

    def as_lines(self) -> List[str]:
        """Return the lines for people."""
        width = max([len(row[0]) for row in self.rows] + [0])
        lines = ["%s: %s" % ("allowed" if self.allowed else "denied", self.question)]
        rows = [_row_told(row, width) for row in self.rows]
        ways = list(_ways_told([*self.by_name, *self.by_address]))
        tried = len(self.by_name)
        if tried:
            lines.append(rows.pop(0))
            lines += [line for told in ways[:tried] for line in told]
            lines += ["  if that does not answer, the name is looked up here:"] * bool(rows)
        return lines + rows + [line for told in ways[tried:] for line in told]

    def as_data(self) -> Dict[str, Any]:
        """Return the data for JSON."""
        rows = [dict(zip(("address", "allowed", "why"), row)) for row in self.rows]
        data = {"allowed": self.allowed, "question": self.question, "addresses": rows}
        ways = [
            dict(as_data(way.exit), gets_name=way.gets_name, problem=way.problem)
            for way in (*self.by_name, *self.by_address)
        ]
        return dict(data, exits=ways) if ways else data


def _row_told(row: Tuple[str, bool, str], width: int) -> str:
    words = [row[0].ljust(width), "allowed" if row[1] else "denied", row[2]]
    return "  " + "  ".join(word for word in words if word.strip())


def _ways_told(ways: Sequence[Way]) -> Iterator[List[str]]:
    """Yield the lines about each of *ways*, in their order."""
    for number, (exit, gets_name, problem) in enumerate(ways):
        head = "  exit %s" % exit.name
        head += ", if the one before does not answer" if number else ""
        hops = hops_told(exit)
        if problem:
            head += ": cannot be used: " + problem
        elif not hops:
            head += ": " + way_told(exit)
        elif gets_name:
            head += ": nothing is looked up here"
        if hops and exit.has_egress:
            hops[0] += ", reached by " + way_told(exit._replace(hops=())).partition(" ")[2]
        if gets_name and not problem:
            hops[-1] += "; it looks the name up"
        yield [head, *("    hop %d  %s" % (place, hop) for place, hop in enumerate(hops, 1))]


def judge(
    access: Access, question: Question, getaddrinfo: Callable[..., Any] = system_getaddrinfo
) -> Explanation:
    """Return the decision of *access*; names are looked up as the proxy does.

    Raises:
        ConfigError: the question cannot be understood.
    """
    client, dst = _client(question.source), _target(question.target)
    cmd = _command(question)
    text = "%s to %s, %s by SOCKS%d" % (
        client.host,
        question.target,
        question.command,
        question.ver,
    )
    if question.user is not None:
        text += " as %s" % question.user
    if access.rules.tells_listeners:
        at = question.at or _first_listener(access, client)
        client.listener = _listener(at)
        text += " at %s" % at
    why = _why_not_admitted(access, question, client, cmd, dst)
    if not why and cmd == Cmd.UDP_ASSOCIATE and not client.has_address:
        why = _NO_ADDRESS % ("UDP", "REP 07")
    if why:
        return Explanation(False, text, [("", False, why)])
    request = _Request(client, question.ver, cmd, dst)
    return _judged(access, request, text, getaddrinfo)


class _Request(NamedTuple):
    """A question as the rules get it; the client is admitted."""

    client: Client
    ver: int
    cmd: Cmd
    dst: Address


def _judged(
    access: Access, request: _Request, text: str, getaddrinfo: Callable[..., Any]
) -> Explanation:
    """Return the decision about *request*, which is *text* in words."""
    rules, (client, ver, cmd, dst) = access.rules, request
    decision = rules.precheck(client, ver, cmd, dst)
    if decision.allowed and cmd == Cmd.BIND and dst.is_any_peer:
        decision = rules.precheck_any(client, ver, cmd, dst)
        why = _by(access, decision) or "the rules decide about each peer that connects"
        ways = [_way(access, name, cmd, dst, False) for name in decision.exits]
        is_allowed = decision.allowed and (not ways or _some_work(ways))
        return Explanation(is_allowed, text, [("", decision.allowed, why)], by_address=ways)
    if not decision.allowed:
        return Explanation(False, text, [("", False, _by(access, decision))])
    addresses = numeric_addresses(dst.host, dst.port, dst.atyp)
    rows: List[Tuple[str, bool, str]] = []
    exits = decision.exits
    by_name = [] if addresses else list(_ways_of_name(access, exits, cmd, dst))
    if by_name:
        rows.append(("", True, _by(access, decision)))
        if len(by_name) == len(exits):
            return Explanation(_some_work(by_name), text, rows, by_name)
    try:
        addresses = addresses or look_up(getaddrinfo, dst.host, dst.port, access.egress.only)
        if cmd == Cmd.BIND:
            addresses = of_peers(ver, addresses)
    except DialError as exc:
        return Explanation(_some_work(by_name), text, [*rows, ("", False, str(exc))], by_name)
    first: Optional[Decision] = None
    for _family, sockaddr in addresses:
        ip = packed_ip(sockaddr[0])
        if ip is not None:
            decision = rules.decide(client, ver, cmd, dst, ip, scope_of(sockaddr))
            why = _by(access, decision)
            if decision.allowed and first is not None and decision.exits != first.exits:
                why += _OTHER_EXIT
            elif decision.allowed and first is None:
                first, dst = decision, Address.of_ip(ip, dst.port)
            rows.append((sockaddr[0], decision.allowed, why))
    by_address: List[Way] = []
    if first is not None and (first.exits or by_name):
        # After the look-up those are tried that are left of the same exits, else all.
        left = first.exits[len(by_name) :] if first.exits == exits else first.exits
        by_address = [_way(access, name, cmd, dst, False) for name in left or (DIRECT,)]
    ways = [*by_name, *by_address]
    is_allowed = _some_work(ways) if ways else first is not None
    return Explanation(is_allowed, text, rows, by_name, by_address)


def _by(access: Access, decision: Decision) -> str:
    """Return which rule has made *decision*, or why none could."""
    if not decision.number:
        return decision.reason
    rules = access.rules.rules
    return "by %s: %s" % (label(rules, decision.number), rules[decision.number - 1].text)


def _some_work(ways: Sequence[Way]) -> bool:
    return any(not way.problem for way in ways)


def _ways_of_name(access: Access, names: Sequence[str], cmd: Cmd, dst: Address) -> Iterator[Way]:
    """Yield those of the exits *names* that are tried before the name *dst* is looked up."""
    for name in names:
        if name == DIRECT or access.exits[name].resolves_here:
            return
        yield _way(access, name, cmd, dst, True)


def _way(access: Access, name: str, cmd: Cmd, dst: Address, gets_name: bool) -> Way:
    exit = access.exits.get(name) or Exit(DIRECT)
    return Way(exit, gets_name, _why_not_carried(exit, cmd, dst))


def _why_not_carried(exit: Exit, cmd: Cmd, dst: Address) -> str:
    """Return why a hop of *exit* cannot carry *cmd* to *dst*, "" if all can."""
    cmds = [cmd if cmd == Cmd.UDP_ASSOCIATE else Cmd.CONNECT] * len(exit.hops[1:]) + [cmd]
    places = [Address.of_name(encode(hop.host), hop.port) for hop in exit.hops[1:]] + [dst]
    try:
        for hop, one, place in zip(exit.hops, cmds, places):
            if place is dst or hop.scheme not in ADDRESS_SCHEMES:
                ip = packed_ip(place.name)
                ClientSide(hop.scheme, one, Address.of_ip(ip, place.port) if ip else place)
    except CannotCarry as exc:
        return str(exc)
    return ""


def _command(question: Question) -> Cmd:
    cmd = COMMANDS.get(question.command.lower())
    if cmd is None:
        raise ConfigError("--command", "%r is none of %s" % (question.command, ", ".join(COMMANDS)))
    if question.ver == 4 and cmd == Cmd.UDP_ASSOCIATE:
        raise ConfigError("--ver", "SOCKS4 has connect and bind only")
    return cmd


def _why_not_admitted(
    access: Access, question: Question, client: Client, cmd: Cmd, dst: Address
) -> str:
    """Return why *client* is refused before the rules see the target, "" if it is not.

    Sets the user of *client*.
    """
    rules, users = access.rules, access.users
    if question.user is None:
        if question.ver == 4 and rules.asks_ident:
            decision = rules.precheck_some_user(client, question.ver, cmd, dst)
            return decision.reason or "ident has to confirm its user; ask again with --as NAME"
        if Method.NO_AUTHENTICATION in rules.methods(client):
            return ""
        return "this client needs a password; ask again with --as NAME"
    client.user = user = encode(question.user)
    client.is_unproven = question.ver == 4 and bool(users)
    why = _why_not_logged_in(access, user, question)
    if client.is_unproven and (users.may_be(user) or not rules.name(user)):
        client.user = None  # as ``SocksHandler.identify`` does
    return why


def _why_not_logged_in(access: Access, user: bytes, question: Question) -> str:
    """Return why *user* cannot have logged in, "" if it can."""
    if question.ver == 4 and access.rules.asks_ident:
        if question.source in _PLACES:
            return _NO_ADDRESS % ("identd", "CD 92")
        return ""
    if not access.users:
        return "there are no users: add --user NAME:PASSWORD or --users-file, or leave --as out"
    if question.ver == 4:
        return "SOCKS4 has no passwords"
    return "" if access.users.may_be(user) else "no user is called %s" % question.user


def _client(text: str) -> Client:
    if text in _PLACES:
        return Client("", text == "forwarder")
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if packed_ip(bare) is None:
        raise ConfigError("--from", _NO_CLIENT % text)
    return Client((bare, 0))


def _first_listener(access: Access, client: Client) -> str:
    """Return the first listener to which a client such as *client* connects, else the first."""
    config = access.config
    for text in config.listen:
        fits = client.has_address != bool(ListenAddress.parse(text).path) or client.is_forwarded
        if fits and config.is_forwarded(text) == client.is_forwarded:
            return text
    return config.listen[0]


def _listener(text: str) -> Listener:
    """Return the listener *text* as the rules compare it."""
    try:
        place = ListenAddress.parse(text)
    except ConfigError as exc:
        raise ConfigError("--at", str(exc)) from None
    ip = plain_ip(place.host)
    return Listener(ip if any(ip) else b"", place.port, place.path)


def _target(text: str) -> Address:
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    for address, its_port in ((host, port), (text, "PORT")):
        if ":" in address and packed_ip(address) is not None:
            known = (address, its_port)
            raise ConfigError("--to", "an IPv6 address needs brackets: [%s]:%s" % known)
    if not (colon and bare and is_port(port)) or (bare is host and (":" in host or host[0] == "[")):
        what = "%r is no target; write it as HOST:PORT or [IPV6]:PORT, a port up to %d"
        raise ConfigError("--to", what % (text, MAX_PORT))
    ip = packed_ip(bare)
    if ip is None or "%" in bare:
        return Address.of_name(encode(bare), int(port))
    return Address.of_ip(ip, int(port))
