"""The settings that were chosen: file and environment are read, and what is odd is told.

No click: *given* is what the command line says, by the settings' names.
"""

import os
import stat
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from minisocks.config.layers import Layered, layered
from minisocks.config.settings import CONFIG_FILE, Config
from minisocks.errors import ConfigError, ServiceError
from minisocks.net.opening import read_file
from minisocks.policy.rulelines import with_files
from minisocks.quoting import reason_of
from minisocks.service import console
from minisocks.service.location import from_folder, locate
from minisocks.service.pidfile import NoPidfiles

__all__ = ["pidfile_of", "settings_of"]


def settings_of(
    given: Dict[str, Any],
    home: str = "",
    warn: Callable[[str], None] = console.warn,
    may_wait: bool = True,
) -> Layered:
    """Return the settings in force; tell which variables are odd.

    Args:
        home: the directory in which a relative path begins; "": this one.
        warn: called with sentences about that.
        may_wait: the file may be a pipe.

    Raises:
        ConfigError: one of them cannot be used.
    """
    named, text, is_private = _file(given, home, may_wait)
    path = named and os.path.join(home, named)
    # As the file was named, so that paths stay the same when it is read again from elsewhere.
    folder = os.path.dirname(named)
    chosen = layered(given, os.environ, text, path, lambda it: from_folder(folder, it, home))
    _demand_different(chosen.config, path, home)
    for name in chosen.unknown:
        warn("%s is no setting, and is not used" % name)
    users_file = chosen.config.users_file and os.path.join(home, chosen.config.users_file)
    odd = []
    if not is_private and chosen.sources["user"].startswith(path + ", "):
        odd.append("%s holds passwords, and others may read it: chmod 600 %s" % (path, path))
    if users_file and os.path.exists(users_file) and not _is_private(users_file):
        told = users_file, users_file
        odd.append("%s holds hashes, and others may read it: chmod 600 %s" % told)
    odd += _of_writers(path, users_file, _lists(chosen, home))
    return chosen._replace(of_files=tuple(odd))


def _demand_different(config: Config, path: str, home: str) -> None:
    """Refuse one file for two purposes: what is written would be lost or read as the other.

    Raises:
        ConfigError: there is one.
    """
    known = {os.path.realpath(path): "the file of settings"} if path else {}
    for option, name in (
        ("--users-file", config.users_file),
        ("--log-file", config.log_file),
        ("--pidfile", config.pidfile),
    ):
        if name:
            where = os.path.realpath(os.path.join(home, name))
            is_special = os.path.exists(where) and not os.path.isfile(where)  # /dev/null, say
            if where in known and not is_special:
                raise ConfigError(option, "%s is also %s: name another file" % (name, known[where]))
            known[where] = "that of " + option


def _lists(chosen: Layered, home: str) -> List[str]:
    """Return the paths of the lists that rules name."""
    found: List[str] = []

    def note(path: str) -> str:
        found.append(os.path.join(home, path))
        return path

    for text in chosen.config.rule:
        with_files(text, note)
    return found


def _of_writers(path: str, users_file: Optional[str], lists: List[str]) -> Iterator[str]:
    """Yield which files that decide about clients another account may write.

    A file of users has to be its owner's alone.  Of the other files, a user's own group has
    write access on many systems.
    """
    for name in dict.fromkeys([path, users_file or "", *lists]):
        try:
            status = os.stat(name)
            folder = os.stat(os.path.dirname(os.path.abspath(name)))
        except OSError:
            continue  # there is none, or to read it says why not
        if not stat.S_ISREG(status.st_mode):
            continue
        what = "%s decides about clients, and " % name
        who = "others" if status.st_mode & stat.S_IWOTH else ""
        if name == users_file and status.st_mode & stat.S_IWGRP:
            who = who or "its group"
        if who:
            yield what + "%s may write it: chmod go-w %s" % (who, name)
        if status.st_uid not in (0, getattr(os, "geteuid", int)()):
            told = status.st_uid, name
            yield what + "user %d may write it: give it to root or this user, chown %s" % told
        if folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX:
            yield what + "others may put another one there: its folder is theirs to write"


def pidfile_of(given: Dict[str, Any]) -> str:
    """Return the path of the pidfile of who is meant.

    Raises:
        ConfigError: the settings do not tell.
        ServiceError: this system has no pidfiles.
    """
    named, text, _is_private = _file(given)
    listen = given["listen"]
    meant = {"listen": listen[0] if listen else "", "pidfile": given["pidfile"]}
    try:
        return locate(meant, os.environ, text, os.path.dirname(named))[0]
    except ConfigError:
        raise
    except NoPidfiles as exc:
        raise ServiceError(str(exc)) from exc
    except ValueError as exc:
        raise ConfigError("--pidfile", str(exc)) from exc


def _file(given: Dict[str, Any], home: str = "", may_wait: bool = True) -> Tuple[str, str, bool]:
    """Return path and text of the file of settings, and whether only its owner may read it.

    The path is as it was named, from *home*.

    Raises:
        ConfigError: it cannot be read.
    """
    place, path = "--config", given.get("config")
    if path == "":
        # An empty variable of a script: not the same as no file.
        raise ConfigError("--config", "needs the name of a file")
    if path is None:
        place, path = CONFIG_FILE.variable, os.environ.get(CONFIG_FILE.variable)
    if not path:
        return "", "", True
    named, path = path, os.path.join(home, path)
    try:
        return named, read_file(path, waits=may_wait), _is_private(path)
    except (OSError, ValueError) as exc:
        reason = reason_of(exc)
        raise ConfigError("--config", "cannot read %s: %s" % (path, reason), place) from exc


def _is_private(path: str) -> bool:
    """Return whether others may not read it; a pipe or a device is as the system has it."""
    mode = os.stat(path).st_mode
    return not stat.S_ISREG(mode) or not mode & stat.S_IRWXO
