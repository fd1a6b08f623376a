"""Which clients are admitted and which targets they may reach.  Pure.

The first rule that matches decides; what no rule matches is denied.  ``Rules`` is asked twice
about each request: before anything is resolved, and about each address of the target.  The
address that passed is the address connected to, so a name that resolves differently the second
time gains nothing.
"""

from typing import Any, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Tuple

from minisocks.policy.addresssets import (
    AddressSet,
    AskedOnce,
    Forms,
    IsOwn,
    forms_of,
    named_set,
    parents_of,
)
from minisocks.policy.builtin import label
from minisocks.policy.client import Client
from minisocks.policy.networks import PRIVATE, RESERVED
from minisocks.policy.rulelines import Decision, Rule
from minisocks.quoting import MOST_TOLD, quoted
from minisocks.wire import Address, Atyp, Cmd, Method, packed_ip, text_ip

__all__ = ["Rules"]

#: Client addresses whose rules are remembered.
MAX_SOURCES = 1024

_NOT_YET = Decision(True)


class _Row(NamedTuple):
    """A rule that is about a client; ``sources`` only where that may change."""

    number: int
    allows: bool
    ports: Optional[Tuple[Tuple[int, int], ...]]
    commands: Optional[FrozenSet[int]]
    versions: Optional[FrozenSet[int]]
    users: Optional[FrozenSet[Optional[bytes]]]
    any_user: bool
    sources: Optional[AddressSet]
    targets: Optional[AddressSet]


class Rules:
    """The rules of one proxy.  Immutable; any thread.

    Args:
        rules: as ``builtin.in_force`` returns them.
        has_users: whether any user has a password.
        is_own: whether this host has an address now: its bytes, and the number of its link if
            there is one; for ``self``.
        asks_ident: whether SOCKS4 clients have a user, named by their identd.
    """

    __slots__ = (
        "_asks_often",
        "_by_source",
        "_depth",
        "_guarded",
        "_is_own",
        "_last_name",
        "_rows",
        "asks_ident",
        "has_users",
        "rules",
        "tells_listeners",
    )

    def __init__(
        self,
        rules: List[Rule],
        has_users: bool = False,
        is_own: IsOwn = lambda ip: False,
        asks_ident: bool = False,
    ) -> None:
        self.asks_ident = asks_ident
        self.rules = tuple(rules)
        self.has_users = has_users
        self._is_own = is_own
        #: Whether a rule is about some of the addresses that clients connect to.
        self.tells_listeners = any(rule.listeners is not None for rule in rules)
        #: With the ``from`` that decides for good whether the row is about a client.
        self._rows: List[Tuple[_Row, Optional[AddressSet], bool]] = []
        sets = [p for rule in rules for p in (rule.sources, rule.targets) if p is not None]
        self._depth = max((one.names.depth for one in sets), default=0)
        self._asks_often = sum(not one.is_lasting for one in sets) > 1
        #: Rules up to this number stand before the one that protects this host: they open the
        #: addresses of this host that they name.
        self._guarded = next((n for n, rule in enumerate(rules) if _guards_self(rule)), 0)
        for number, rule in enumerate(rules, 1):
            stays = rule.sources is not None and rule.sources.is_lasting
            row = _Row(
                number, rule.allows, *rule[4:9], None if stays else rule.sources, rule.targets
            )
            self._rows.append((row, rule.sources if stays else None, rule.allows))
        # Caches, because a client asks several times in a row, and connects again.  Each is
        # replaced as a whole, so that any thread may do it.
        self._by_source: Dict[Any, List[_Row]] = {}
        self._last_name: Tuple[bytes, bytes, FrozenSet[bytes]] = (b"", b"", frozenset())

    def methods(self, client: Client) -> Tuple[Method, ...]:
        """Return the METHODs that *client* may use, preferred first.

        A client that is not admitted at all gets NO_AUTHENTICATION, because it can show the
        REP 02 that follows better than a failed negotiation.
        """
        if not self.has_users:
            return (Method.NO_AUTHENTICATION,)
        if self.admits(client):
            return (Method.USERNAME_PASSWORD, Method.NO_AUTHENTICATION)
        return (Method.USERNAME_PASSWORD,)

    def precheck(self, client: Client, ver: int, cmd: int, dst: Address) -> Decision:
        """Decide about a request before anything is resolved.

        A name is allowed if one of its addresses may be.  Its exits are those of the first rule
        that fits whatever its addresses are.
        """
        if not self.admits(client):
            return Decision(False, self._shut_out(client))
        if dst.atyp != Atyp.DOMAINNAME:
            return _NOT_YET  # ``decide`` follows, about its address
        number, may_be_allowed = self._find(client, ver, cmd, dst, ())
        if number and self.rules[number - 1].allows:
            return Decision(True, "", number, self.rules[number - 1].exits)
        if may_be_allowed:
            return _NOT_YET
        return Decision(False, self._refusal(client, number, dst, None), number)

    def precheck_any(
        self, client: Client, ver: int, cmd: int, dst: Optional[Address] = None
    ) -> Decision:
        """Decide whether *client* may reach any target at all by *cmd*.

        *dst* stands for all targets, 0.0.0.0 or ``::``: a rule may deny that.  The exits are those
        of the first rule that allows one.
        """
        if not self.admits(client):
            return Decision(False, self._shut_out(client))
        for row in self._rows_about(client, ver, cmd):
            if row.users is not None and not _has_user(row.users, row.any_user, client):
                continue
            if row.allows:
                return _NOT_YET._replace(exits=self.rules[row.number - 1].exits)
            if dst is not None and self._denies_all(row, dst):
                return Decision(False, self._refusal(client, row.number, dst, None), row.number)
            if row.targets is None and row.ports is None:
                what = "%s denies %s" % (label(self.rules, row.number), Cmd(cmd).name)
                return Decision(False, "%s to %s" % (what, self._whom(client)), row.number)
        return Decision(False, "no rule allows %s to %s" % (Cmd(cmd).name, self._whom(client)))

    def _denies_all(self, row: "_Row", dst: Address) -> bool:
        """Return whether *row* is a rule of the settings about the address *dst*."""
        if row.targets is None or self.rules[row.number - 1].is_built_in:
            return False
        size = 4 if dst.name == "0.0.0.0" else 16
        fits = row.ports is None or _has_port(row.ports, dst.port)
        return fits and row.targets.networks.holds(size, 0)

    def decide(
        self, client: Client, ver: int, cmd: int, dst: Address, ip: bytes, scope: int = 0
    ) -> Decision:
        """Decide about *ip*, an address of the target *dst*: 4 or 16 bytes.

        Args:
            scope: number of the link of a link-local address; 0: none is given.
        """
        number, _ = self._find(client, ver, cmd, dst, forms_of(ip), scope)
        if number and self.rules[number - 1].allows:
            return Decision(True, "", number, self.rules[number - 1].exits)
        return Decision(False, self._refusal(client, number, dst, ip), number)

    def precheck_some_user(self, client: Client, ver: int, cmd: int, dst: Address) -> Decision:
        """Decide like ``precheck`` for any user that the client's identd may name."""
        name, _ = self._name_of(dst)
        ip = packed_ip(dst.name) if cmd != Cmd.BIND and not name else None
        forms, reason = forms_of(ip) if ip else (), ""
        for row in self._rows_about(client, ver, cmd):
            if row.ports is not None and not _has_port(row.ports, dst.port):
                continue
            targets = row.targets
            is_it = targets is None or name in targets.names
            if targets is not None and forms:
                is_it = is_it or targets.match(forms, row.allows, self._is_own)
            if not row.allows:
                if is_it and row.users is None:
                    reason = reason or self._refusal(client, row.number, dst, ip)
                    return Decision(False, reason, row.number)
            elif is_it or (targets is not None and targets.has_addresses and not forms):
                # A client without a password is "none" if there are passwords, else "any".
                users = row.users
                if users is None or users - {None}:
                    return _NOT_YET
                if None in users if self.has_users else row.any_user:
                    return _NOT_YET
                reason = "a password is needed; SOCKS4 cannot send one"
        if not reason and not self.has_own:
            reason = self._shut_out(client)
        return Decision(False, reason or self._refusal(client, 0, dst, ip))

    def name(self, user: bytes) -> bool:
        """Return whether a rule names *user*."""
        return any(rule.users is not None and user in rule.users for rule in self.rules)

    def admits(self, client: Client) -> bool:
        """Return whether any rule allows anything to *client* and its ``user``, if it has one."""
        return any(
            row.allows
            and (row.users is None or _has_user(row.users, row.any_user, client))
            and (row.sources is None or row.sources.cover(forms_of(client.ip), self._is_own))
            for row in self._rows_for(client)
        )

    def _find(
        self, client: Client, ver: int, cmd: int, dst: Address, forms: Forms, scope: int = 0
    ) -> Tuple[int, bool]:
        """Return the number of the rule that decides, 0 for none.

        Also, while the address is not known (no *forms*), whether an earlier rule allows some
        addresses: that rule may decide, too.
        """
        port = dst.port
        name, parents = self._name_of(dst)
        # The quickest way for targets with one form, as most are.
        size, address = forms[0] if len(forms) == 1 else (0, 0)
        may_be_allowed = False
        is_own = self._is_own
        if self._asks_often or scope:
            is_own = AskedOnce(is_own, scope)
        guarded = 0 if client.is_local else self._guarded
        for row in self._rows_for(client):
            number, allows, ports, commands, versions, users, any_user, sources, targets = row
            if commands is not None and cmd not in commands:
                continue
            if versions is not None and ver not in versions:
                continue
            if ports is not None and not _has_port(ports, port):
                continue
            if users is not None and not _has_user(users, any_user, client):
                continue
            if sources is not None and not sources.match(forms_of(client.ip), allows, is_own):
                continue
            if targets is None:
                return number, may_be_allowed
            names = targets.names
            if name in names.whole or not names.above.isdisjoint(parents):
                return number, may_be_allowed
            if not forms:
                may_be_allowed = may_be_allowed or (allows and targets.has_addresses)
                continue
            if size and targets.is_static:
                networks = targets.networks
                for shift, prefixes in networks.rows4 if size == 4 else networks.rows6:
                    if address >> shift in prefixes:
                        break
                else:
                    continue
            elif not targets.match(forms, allows, is_own):
                continue
            if number <= guarded and allows and targets.spare(forms, is_own):
                continue
            return number, may_be_allowed
        return 0, may_be_allowed

    def _rows_about(self, client: Client, ver: int, cmd: int) -> Iterator["_Row"]:
        """Yield the rules about *cmd* of *client*, for any target and user."""
        forms = forms_of(client.ip)
        for row in self._rows_for(client):
            if row.commands is not None and cmd not in row.commands:
                continue
            if row.versions is not None and ver not in row.versions:
                continue
            if row.sources is None or row.sources.match(forms, row.allows, self._is_own):
                yield row

    def _rows_for(self, client: Client) -> List["_Row"]:
        """Return the rules whose ``from`` and ``listener`` fit *client*, or may."""
        key: Any = (client.ip, client.listener) if self.tells_listeners else client.ip
        rows = self._by_source.get(key)
        if rows is None:
            forms = forms_of(client.ip)
            rows = [
                row
                for row, sources, allows in self._rows
                if (sources is None or sources.match(forms, allows, self._is_own))
                and self.rules[row.number - 1].is_at(client.listener)
            ]
            if len(self._by_source) >= MAX_SOURCES:
                self._by_source = {}
            self._by_source[key] = rows
        return rows

    def _name_of(self, dst: Address) -> Tuple[bytes, FrozenSet[bytes]]:
        """Return the name of *dst* in the form that is compared, and its parent domains."""
        if dst.atyp != Atyp.DOMAINNAME:
            return b"", frozenset()
        host, name, parents = self._last_name
        if host != dst.host:
            name = dst.host.lower().rstrip(b".")
            parents = parents_of(name, self._depth)
            self._last_name = dst.host, name, parents
        return name, parents

    @property
    def has_own(self) -> bool:
        """Whether a rule of the settings allows anything: then only those admit clients."""
        return any(rule.allows and not rule.is_built_in for rule in self.rules)

    # Reasons, for people

    def _shut_out(self, client: Client) -> str:
        """Return why *client* is not admitted."""
        if not self.has_own:
            ways = "" if client.is_forwarded else "--allow-lan (private networks), "
            text = "%s may not come in; let them with %s--user NAME:PASSWORD or --open"
            return text % (client.alike, ways)
        return "no rule allows anything to %s" % self._whom(client)

    def _refusal(self, client: Client, number: int, dst: Address, ip: Optional[bytes]) -> str:
        what = "%s at %s" % (dst, text_ip(ip)) if ip and dst.atyp == Atyp.DOMAINNAME else str(dst)
        if not number:
            return "no rule allows %s to %s" % (what, self._whom(client))
        rule = self.rules[number - 1]
        if not rule.is_built_in:
            return "%s denies %s: %s" % (label(self.rules, number), what, rule.text)
        kind = named_set(forms_of(ip)) if ip is not None else ""
        if kind not in ("", PRIVATE.name, RESERVED.name) or not _guards_self(rule):
            return "%s addresses are not for %s" % (kind, client.alike)
        text = "%s is this host, which %s may not reach" % (what, client.host)
        if ip is None:
            return text
        if self._is_own(ip) is None:
            return "it is not known now whether %s is this host" % what
        source = PRIVATE.name if client.ip in PRIVATE else client.host.partition("%")[0]
        source = "public" if client.is_forwarded else source
        opening = "allow from %s to self port %d" % (source, dst.port)
        return text + "; a rule before all others opens it: " + opening

    def _whom(self, client: Client) -> str:
        who = client.alike
        if client.user is not None:
            who = "%s as %s" % (who, quoted(client.user, MOST_TOLD))
            return who + ", without a password" if client.is_unproven else who
        return who + " without a password" if self.has_users else who


def _guards_self(rule: Rule) -> bool:
    """Return whether *rule* is the built-in one that protects this host."""
    targets = rule.targets
    return rule.is_built_in and targets is not None and not targets.is_lasting


def _has_port(ports: Tuple[Tuple[int, int], ...], port: int) -> bool:
    for low, high in ports:  # noqa: SIM110  # any() takes twice as long
        if low <= port <= high:
            return True
    return False


def _has_user(users: FrozenSet[Optional[bytes]], any_user: bool, client: Client) -> bool:
    user = client.user
    if user in users:
        return True
    if user is None or client.is_unproven:
        return None in users  # it has shown no password
    return any_user
