"""Who may come in and what they may reach, made of the settings: all of it, or nothing."""

from typing import NamedTuple

from minisocks.auth import Users
from minisocks.hooks import Hooks
from minisocks.rules import Rules
from minisocks.settings import Config

__all__ = ["Access"]


class Access(NamedTuple):
    """What decides about clients.  Immutable; a reload puts another one in its place."""

    users: Users
    rules: Rules

    @classmethod
    def of(cls, config: Config, hooks: Hooks) -> "Access":
        """Return what *config* says, the files that it names read now.  Any thread.

        Raises:
            ConfigError: something in one of them cannot be used, or it cannot be read.
        """
        users = Users(config.credentials(), hooks.authenticate)
        return cls(users, Rules(bool(users), config.allow_lan, config.open))
