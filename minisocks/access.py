"""What decides about clients, made of the settings: all of it, or nothing."""

import os
from typing import Callable, Collection, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple

from minisocks.config.settings import Config
from minisocks.errors import ConfigError
from minisocks.hooks import Authenticate, Hooks, demand_yes_or_no
from minisocks.net.egress import Egress
from minisocks.net.opening import read_file
from minisocks.net.ownaddress import KernelRoutes, OwnAddresses
from minisocks.policy.client import Client
from minisocks.policy.decisions import Decisions
from minisocks.policy.defaults import in_force
from minisocks.policy.lists import Lines, parse_lines
from minisocks.policy.passwords import SALT_BYTES, Hash, derive, parse_users
from minisocks.policy.rulelines import parse_rule
from minisocks.policy.rules import Rules
from minisocks.protocol.socks5 import Credentials
from minisocks.quoting import reason_of
from minisocks.wire import as_text

__all__ = ["Access", "Users", "keyed"]

#: More is no file of users.  10 000 of them have a megabyte.
MAX_FILE_BYTES = 4 << 20

#: More is no list of networks and names: about two million of them.
MAX_LIST_BYTES = 64 << 20
#: Of the hashes that are kept in memory: one for the process, so that what was kept
#: means the same after a reload.  Made when it is first needed.
_KEY: Dict[str, bytes] = {}


def keyed(*parts: bytes) -> bytes:
    """Return a hash of *parts* that only this process can make."""
    # Imported here: without users nothing else needs it, and it costs a small
    # machine 2 MB.
    import hashlib

    # The lengths keep ("ab", "c") and ("a", "bc") apart.
    lengths = b"".join(len(part).to_bytes(4, "big") for part in parts)
    key = _KEY.setdefault("key", os.urandom(32))
    return hashlib.sha256(b"".join((key, lengths) + parts)).digest()


class Users:
    """Who has which password.

    A class because there are three kinds of them, and what it says takes the same
    time for all names, lengths and guesses: passwords that are known as they are, of
    which keyed hashes are compared, all of them always; hashes out of a file, where
    a name that is not among them is worth as much work as one that is; and what the
    embedding program's hook says.  Immutable; any thread.

    Args:
        credentials: names and their passwords; an empty one: any password is right.
        authenticate: the hook, asked about those that are not among them.
        hashed: names and their hashes; None: there is no such file, which is not
            the same as an empty one.
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
        #: Users that need no password: what they send counts as an empty one.
        self._need_none = frozenset(name for name, password in pairs if not password)
        self._has_file = hashed is not None
        self._hashed: Mapping[bytes, Hash] = hashed or {}
        #: Whether there are any, so that each wrong password is derived.
        self.has_hashes = bool(self._hashed)
        #: The most iterations that a hash in the file has: what each login costs.
        self.iterations = max((known.iterations for known in self._hashed.values()), default=0)
        self._decoy: Optional[Hash] = None
        if self._known or self._hashed:
            import hmac  # before the first login, which others wait behind

            self._equal = hmac.compare_digest
        if self._hashed:
            # Of no password at all: it has never been derived.
            self._decoy = Hash(self.iterations, os.urandom(SALT_BYTES), os.urandom(32))

    def __bool__(self) -> bool:
        # With an empty file, too: who takes the last user out of it does not mean
        # to let everybody in.
        return bool(self._known) or self._has_file or self.may_take_long

    def is_listed(self, user: bytes) -> bool:
        """Return whether there is a user of this name; those of the hook are not known."""
        return (bool(self._names) and keyed(user) in self._names) or user in self._hashed

    @property
    def in_file(self) -> Collection[bytes]:
        """The names that have a hash."""
        return self._hashed.keys()

    def may_be(self, user: bytes) -> bool:
        """Return whether there may be a user of this name: the hook may have any."""
        return self.is_listed(user) or self.may_take_long

    @property
    def may_take_long(self) -> bool:
        """Whether ``verify`` may take longer than other clients should wait behind it."""
        return self._authenticate is not None

    def meant(self, credentials: Credentials) -> Credentials:
        """Return *credentials* as they are asked about below: without what does not matter."""
        if credentials.user in self._need_none:
            return credentials._replace(password=b"")
        return credentials

    def verify(self, credentials: Credentials, client: Client) -> bool:
        """Say whether name and password belong together, hashes left out of account.

        Raises:
            HookFailed: the hook did not say.
        """
        if self.knows(credentials):
            return True
        hook = self._authenticate
        if hook is None:
            return False
        user, password = (as_text(part) for part in credentials)
        return demand_yes_or_no("authenticate", client, hook, user, password, client)

    def knows(self, credentials: Credentials) -> bool:
        """Say whether this is one of the passwords that are known as they are."""
        return bool(self._known) and self._is_among(keyed(*credentials), self._known)

    def hash_of(self, user: bytes) -> Optional[Hash]:
        """Return what a password of *user* is to be held against, also if there is no such user.

        None where there are no hashes.
        """
        return self._hashed.get(user, self._decoy)

    def fits(self, password: bytes, known: Hash, pause: Callable[[], None]) -> bool:
        """Say whether *known* is the hash of *password*; as much work for each of them.

        Takes long.  *pause* is called meanwhile, as ``passwords.derive`` does.
        """
        answer = known.fits(password, pause)
        missing = self.iterations - known.iterations
        if missing > 0:
            derive(password, known.salt, missing, pause)
        return answer

    def proof(self, credentials: Credentials) -> bytes:
        """Return what ``holds`` knows these by, which have been found to be right."""
        if self.knows(credentials):
            return keyed(*credentials)
        known = self._hashed.get(credentials.user)
        return b"" if known is None else _proof_of(credentials.user, known)

    def holds(self, user: bytes, proof: bytes) -> bool:
        """Say whether what *proof* was made from is still in force."""
        if not proof:
            return self.may_take_long  # the hook had said yes
        known = self._hashed.get(user)
        hashed = [] if known is None else [_proof_of(user, known)]
        return self._is_among(proof, self._known + hashed)

    def _is_among(self, given: bytes, known: List[bytes]) -> bool:
        matches = [self._equal(given, one) for one in known]
        return any(matches)


def _proof_of(user: bytes, known: Hash) -> bytes:
    return keyed(b"hash", user, known.salt, known.checksum)


class Access(NamedTuple):
    """What decides about clients.  Immutable; a reload puts another one in its place.

    So a handler that reads it once never has new users with old rules.
    """

    config: Config
    egress: Egress
    users: Users
    rules: Rules
    #: Says which addresses are this host's, as its targets are dialed.
    own: OwnAddresses
    #: Those of the rules about addresses.
    decisions: Decisions
    #: The files that were read for it, and sentences about lines in them that mean nothing.
    files: Tuple[str, ...] = ()
    notes: Tuple[str, ...] = ()

    @property
    def names(self) -> Tuple[bytes, ...]:
        """The users that have a password; those of the program's hook are not known."""
        names = [name for name, _password in self.config.credentials()]
        return tuple(dict.fromkeys([*names, *self.users.in_file]))

    @classmethod
    def of(cls, config: Config, hooks: Hooks, kernel: Optional[KernelRoutes] = None) -> "Access":
        """Return what *config* says, the files that it names read now.  Any thread.

        Args:
            kernel: says which addresses are this host's; stays the caller's.

        Raises:
            ConfigError: something in one of them cannot be used, or it cannot be read.
        """
        hashed = _read_users(config.users_file) if config.users_file else None
        users = Users(config.credentials(), hooks.authenticate, hashed)
        lists = _Lists()
        own = [parse_rule(text, lists.read) for text in config.rule]
        rules = in_force(own, bool(users), config.allow_lan, config.open)
        egress = Egress.of(config)
        own_addresses = OwnAddresses(kernel, egress, config.public_address)
        judge = Rules(rules, bool(users), own_addresses, config.ident)
        decisions = Decisions(judge, own_addresses.changes)
        files = _files_of(config, lists)
        return cls(config, egress, users, judge, own_addresses, decisions, files, lists.notes)


def _files_of(config: Config, lists: "_Lists") -> Tuple[str, ...]:
    users = (config.users_file,) if config.users_file else ()
    return users + lists.files


class _Lists:
    """The files that rules name, each read once."""

    def __init__(self) -> None:
        self._known: Dict[str, Lines] = {}

    @property
    def files(self) -> Tuple[str, ...]:
        """The files that have been read."""
        return tuple(self._known)

    @property
    def notes(self) -> Tuple[str, ...]:
        """What is to be told about them."""
        return tuple(note for lines in self._known.values() for note in lines.notes)

    def read(self, path: str) -> Lines:
        """Return what is in the file *path*.

        Raises:
            ConfigError: it cannot be read, or a line in it cannot be used.
        """
        if path not in self._known:
            self._known[path] = parse_lines(_read("--rule", path, MAX_LIST_BYTES), path)
        return self._known[path]


def _read_users(path: str) -> Dict[bytes, Hash]:
    """Return names and hashes from the file *path*.

    Raises:
        ConfigError: it cannot be read, or a line cannot be used; its message alone says
            where.
    """
    text = _read("--users-file", path, MAX_FILE_BYTES)
    try:
        return parse_users(text, path)
    except ConfigError as exc:
        # In a program's traceback, and behind the option, the message stands alone.
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
