"""Users and rules, made from the settings: all of them, or an error."""

import os
from types import MappingProxyType
from typing import (
    Callable,
    Collection,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

from minisocks.config.settings import Config
from minisocks.errors import ConfigError
from minisocks.guesses import closest
from minisocks.hooks import Authenticate, Hooks, ask_hook
from minisocks.net.egress import Egress, warn_in_log
from minisocks.net.opening import read_file
from minisocks.net.ownaddress import KernelRoutes, OwnAddresses
from minisocks.policy.builtin import in_force
from minisocks.policy.client import Client
from minisocks.policy.decisions import Decisions
from minisocks.policy.exitlines import parse_exits
from minisocks.policy.exits import DIRECT, Exit
from minisocks.policy.lists import Lines, parse_lines
from minisocks.policy.passwords import SALT_BYTES, Hash, derive, parse_users
from minisocks.policy.rulelines import Rule, parse_rule
from minisocks.policy.rules import Rules
from minisocks.protocol.messages import Credentials
from minisocks.quoting import reason_of
from minisocks.wire import as_text

__all__ = ["Access", "Users", "keyed"]

#: Most bytes of a file of users: 10 000 users take 1 MB.
MAX_FILE_BYTES = 4 << 20

#: Most bytes of a list of networks and names: about two million lines.
MAX_LIST_BYTES = 64 << 20
#: Most bytes of a file with the password of an exit.
MAX_PASSWORD_BYTES = 1024
#: Most exits that are named to choose from.
MOST_TOLD = 8
#: The key of hashes in memory.  One for the process, so that they are valid after a reload; made
#: when it is first needed.
_KEY: Dict[str, bytes] = {}


def keyed(*parts: bytes) -> bytes:
    """Return a hash of *parts* that only this process can compute."""
    # Imported here because it costs 2 MB of memory, and only logins need it.
    import hashlib

    # The lengths distinguish ("ab", "c") from ("a", "bc").
    lengths = b"".join(len(part).to_bytes(4, "big") for part in parts)
    key = _KEY.setdefault("key", os.urandom(32))
    return hashlib.sha256(b"".join((key, lengths) + parts)).digest()


class Users:
    """Users and their passwords.  Immutable; thread: any.

    An answer takes the same time for all names and passwords.  Of passwords in the settings keyed
    hashes are compared, always all of them.  Of hashes from a file one is derived, also for a
    name that is not in it.  All others are for the embedding program's hook.

    Args:
        credentials: names and passwords; with an empty password any password is right.
        authenticate: the hook, asked about all other credentials.
        hashed: names and hashes; None: there is no file, which is not the same as an empty one.
    """

    def __init__(
        self,
        credentials: Iterable[Tuple[bytes, bytes]] = (),
        authenticate: Optional[Authenticate] = None,
        hashed: Optional[Mapping[bytes, Hash]] = None,
    ) -> None:
        self._authenticate = authenticate
        pairs = list(credentials)
        self._known: List[bytes] = [keyed(*pair) for pair in pairs]
        self._names = frozenset(keyed(name) for name, _password in pairs)
        #: Users that need no password.
        self._need_none = frozenset(name for name, password in pairs if not password)
        self._has_file = hashed is not None
        self._hashed: Mapping[bytes, Hash] = hashed or {}
        #: Whether there are hashes, so that each unknown password is derived.
        self.has_hashes = bool(self._hashed)
        #: The most iterations of a hash in the file: each login takes as many.
        self.iterations = max((known.iterations for known in self._hashed.values()), default=0)
        self._decoy: Optional[Hash] = None
        if self._known or self._hashed:
            import hmac  # not in the first login, because others would wait for it

            self._equal = hmac.compare_digest
        if self._hashed:
            # The hash of no password: it was not derived from one.
            self._decoy = Hash(self.iterations, os.urandom(SALT_BYTES), os.urandom(32))

    def __bool__(self) -> bool:
        # Also with an empty file: to remove its last user must not open the proxy to all.
        return bool(self._known) or self._has_file or self.may_take_long

    def is_listed(self, user: bytes) -> bool:
        """Return whether the settings or the file have a user of this name."""
        return (bool(self._names) and keyed(user) in self._names) or user in self._hashed

    @property
    def in_file(self) -> Collection[bytes]:
        """The names in the file."""
        return self._hashed.keys()

    def may_be(self, user: bytes) -> bool:
        """Return whether there may be a user of this name; a hook may know any."""
        return self.is_listed(user) or self.may_take_long

    @property
    def may_take_long(self) -> bool:
        """Whether ``verify`` calls a hook."""
        return self._authenticate is not None

    def normalized(self, credentials: Credentials) -> Credentials:
        """Return *credentials*, with an empty password if the user needs none."""
        if credentials.user in self._need_none:
            return credentials._replace(password=b"")
        return credentials

    def verify(self, credentials: Credentials, client: Client) -> bool:
        """Return whether the settings have these credentials, or the hook accepts them.

        Raises:
            HookFailed: the hook raised, or returned neither True nor False.
        """
        if self.knows(credentials):
            return True
        hook = self._authenticate
        if hook is None:
            return False
        user, password = (as_text(part) for part in credentials)
        return bool(ask_hook("authenticate", client, hook, user, password, client))

    def knows(self, credentials: Credentials) -> bool:
        """Return whether the settings have these credentials."""
        return bool(self._mark_of(credentials))

    def _mark_of(self, credentials: Credentials) -> bytes:
        """Return the keyed hash of *credentials* if the settings have them, else nothing."""
        mark = keyed(*credentials) if self._known else b""
        return mark if self._is_among(mark, self._known) else b""

    def hash_of(self, user: bytes) -> Optional[Hash]:
        """Return the hash of *user*, or one that fits no password; None: there are no hashes."""
        return self._hashed.get(user, self._decoy)

    def fits(self, password: bytes, known: Hash, pause: Callable[[], None]) -> bool:
        """Return whether *known* is the hash of *password*.  Slow, and equally slow for all.

        Args:
            pause: called now and then, as by ``passwords.derive``.
        """
        answer = known.fits(password, pause)
        missing = self.iterations - known.iterations
        if missing > 0:
            derive(password, known.salt, missing, pause)
        return answer

    def proof(self, credentials: Credentials) -> bytes:
        """Return a mark of right *credentials* for ``accepts_proof``, empty for those of a hook."""
        mark = self._mark_of(credentials)
        if mark:
            return mark
        known = self._hashed.get(credentials.user)
        return b"" if known is None else _proof_of(credentials.user, known)

    def accepts_proof(self, user: bytes, proof: bytes) -> bool:
        """Return whether the credentials that *proof* was made from are still right."""
        if not proof:
            return self.may_take_long  # the hook had accepted them
        known = self._hashed.get(user)
        hashed = [] if known is None else [_proof_of(user, known)]
        return self._is_among(proof, self._known + hashed)

    def _is_among(self, given: bytes, known: List[bytes]) -> bool:
        matches = [self._equal(given, one) for one in known]
        return any(matches)


def _proof_of(user: bytes, known: Hash) -> bytes:
    return keyed(b"hash", user, known.salt, known.checksum)


class Access(NamedTuple):
    """Everything that decides about clients.  Immutable; a reload replaces it.

    So code that reads it once never has new users with old rules.
    """

    config: Config
    egress: Egress
    users: Users
    rules: Rules
    #: Knows which addresses are this host's.
    own: OwnAddresses
    #: Remembers what the rules said about addresses.
    decisions: Decisions
    #: The exits, by name; without the one that is always there, ``direct``.
    exits: Mapping[str, Exit] = MappingProxyType({})
    #: The files that were read, and notes about lines in them without effect.
    files: Tuple[str, ...] = ()
    notes: Tuple[str, ...] = ()

    def check_egress(self, warn: Callable[[str], None] = warn_in_log) -> None:
        """Try once what targets are dialed with; *warn* of what may still come up.

        Raises:
            EgressError: it will never work.
            OSError: there is no descriptor left to try it with.
        """
        for egress in [self.egress, *map(self.egress.for_exit, self.exits.values())]:
            egress.check(warn)

    @property
    def names(self) -> Tuple[bytes, ...]:
        """The names of all users but those of the program's hook."""
        names = [name for name, _password in self.config.credentials()]
        return tuple(dict.fromkeys([*names, *self.users.in_file]))

    @classmethod
    def of(cls, config: Config, hooks: Hooks, kernel: Optional[KernelRoutes] = None) -> "Access":
        """Read the files that *config* names, and return all that decides.  Thread: any.

        Args:
            kernel: knows which addresses are this host's; stays the caller's.

        Raises:
            ConfigError: a setting or a line cannot be used, or a file cannot be read.
        """
        hashed = _read_users(config.users_file) if config.users_file else None
        users = Users(config.credentials(), hooks.authenticate, hashed)
        lists: Dict[str, Lines] = {}
        exits = parse_exits(config.exit, _read_password)
        own = list(_parsed(config.rule, lambda path: _read_list(path, lists)))
        _check_exits(own, exits)
        rules = in_force(own, bool(users), config.allow_lan, config.open)
        egress = Egress.of(config)
        own_addresses = OwnAddresses(kernel, egress, config.public_address)
        judge = Rules(rules, bool(users), own_addresses, config.ident)
        decisions = Decisions(judge)
        files = tuple(filter(None, [config.users_file, *lists]))
        notes = tuple(note for lines in lists.values() for note in lines.notes)
        return cls(config, egress, users, judge, own_addresses, decisions, exits, files, notes)


def _parsed(texts: Sequence[str], read: Callable[[str], Lines]) -> Iterator[Rule]:
    for index, text in enumerate(texts):
        try:
            yield parse_rule(text, read)
        except ConfigError as exc:
            exc.index = index
            raise


def _read_list(path: str, known: Dict[str, Lines]) -> Lines:
    """Return the list in the file *path*, which is read unless it is *known*.

    Raises:
        ConfigError: it cannot be read, or a line in it cannot be used.
    """
    if path not in known:
        known[path] = parse_lines(_read("--rule", path, MAX_LIST_BYTES), path)
    return known[path]


def _read_password(path: str) -> str:
    return _read("--exit", path, MAX_PASSWORD_BYTES)


def _check_exits(rules: Sequence[Rule], exits: Mapping[str, Exit]) -> None:
    """Check that each exit of a rule is there.

    Raises:
        ConfigError: one is not.
    """
    known = (DIRECT, *exits)
    for index, rule in enumerate(rules):
        for name in rule.exits:
            if name not in known:
                hint = "; there are none: add --exit, or lines under [exits]"
                if exits:
                    hint = closest(name, known) or "; there are %s" % ", ".join(known[:MOST_TOLD])
                error = ConfigError("--rule", "no exit is called %s%s" % (name, hint))
                error.index = index
                raise error


def _read_users(path: str) -> Dict[bytes, Hash]:
    """Return names and hashes from the file *path*.

    Raises:
        ConfigError: it cannot be read, or a line cannot be used.
    """
    text = _read("--users-file", path, MAX_FILE_BYTES)
    try:
        return parse_users(text, path)
    except ConfigError as exc:
        # Without its cause, which would repeat the message in a program's traceback.
        raise ConfigError("--users-file", exc.sentence) from None


def _read(option: str, path: str, most: int) -> str:
    """Return the text of the file *path*, which *option* names.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return read_file(path, most)
    except (OSError, ValueError) as exc:
        reason = reason_of(exc)
        raise ConfigError(option, "cannot read %s: %s" % (path, reason)) from exc
