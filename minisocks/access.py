"""What decides about clients, made of the settings: all of it, or nothing."""

from typing import Dict, NamedTuple, Optional, Tuple

from minisocks.auth import Users
from minisocks.config.settings import Config
from minisocks.errors import ConfigError
from minisocks.hooks import Hooks
from minisocks.net.egress import Egress
from minisocks.net.ownaddress import KernelRoutes, OwnAddresses
from minisocks.net.textfile import read_file
from minisocks.policy.decisions import Decisions
from minisocks.policy.defaults import in_force
from minisocks.policy.lists import Lines, parse_lines
from minisocks.policy.passwords import Hash
from minisocks.policy.rulelines import parse_rule
from minisocks.policy.rules import Rules
from minisocks.policy.usersfile import parse
from minisocks.quoting import reason_of

__all__ = ["Access"]

#: More is no file of users.  10 000 of them have a megabyte.
MAX_FILE_BYTES = 4 << 20

#: More is no list of networks and names: about two million of them.
MAX_LIST_BYTES = 64 << 20


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
        return parse(text, path)
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
