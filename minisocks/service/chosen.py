"""The settings of a command: reads file and environment, and finds what is odd about the files.

No click: *given* has the values of the command line by the names of the settings.
"""

import os
import stat
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from minisocks.config.layers import Layered, layered
from minisocks.config.settings import CONFIG_FILE, Config
from minisocks.errors import ConfigError, ServiceError
from minisocks.net.opening import read_file
from minisocks.policy import exitlines
from minisocks.policy.rulelines import with_files
from minisocks.quoting import reason_of
from minisocks.service import console
from minisocks.service.location import from_folder, locate
from minisocks.service.pidfile import NoPidfiles

__all__ = ["pidfile_of", "settings_of"]

_IN_PS = (
    "other users of this host can read the password of --exit in ps; write it in the file of "
    "settings, or as user@HOST password @FILE"
)


def settings_of(
    given: Dict[str, Any],
    home: str = "",
    warn: Callable[[str], None] = console.warn,
    may_wait: bool = True,
) -> Layered:
    """Return the settings in force, with warnings about their files.

    Args:
        home: the directory in which relative paths begin; "": the current one.
        warn: called with a sentence about each variable that is no setting.
        may_wait: the file may be a pipe, which is read to its end.

    Raises:
        ConfigError: one of them cannot be used.
    """
    named, text, is_private = _file(given, home, may_wait)
    path = named and os.path.join(home, named)
    # As the file was named, so that paths stay the same when it is read again from elsewhere.
    folder = os.path.dirname(named)
    chosen = layered(given, os.environ, text, path, lambda it: from_folder(folder, it, home))
    with chosen.placing_errors():
        _check_different(chosen.config, path, home)
    for name in chosen.unknown:
        warn("%s is no setting, and is not used" % name)
    users_file = chosen.config.users_file and os.path.join(home, chosen.config.users_file)
    odd = []
    in_file = [name for name in _with_passwords(chosen) if _is_from(chosen, name, path)]
    if in_file and not is_private:
        odd.append("%s holds passwords, and others may read it: chmod 600 %s" % (path, path))
    if "exit" in _with_passwords(chosen) and chosen.sources["exit"] == "command line":
        odd.append(_IN_PS)
    for name in _noted(chosen.config.exit, exitlines.with_files, home):
        if os.path.exists(name) and not _is_private(name):
            names = name, name
            odd.append("%s holds a password, and others may read it: chmod 600 %s" % names)
    if users_file and os.path.exists(users_file) and not _is_private(users_file):
        names = users_file, users_file
        odd.append("%s holds hashes, and others may read it: chmod 600 %s" % names)
    odd += _of_writers(path, users_file, _noted(chosen.config.rule, with_files, home))
    return chosen._replace(of_files=tuple(odd))


def _check_different(config: Config, path: str, home: str) -> None:
    """Refuse one file for two purposes, because one would overwrite the other.

    Raises:
        ConfigError: two settings name one file.
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


def _with_passwords(chosen: Layered) -> List[str]:
    """Return the settings that have a password in one of their values."""
    has_one = any(exitlines.shown(text) != text for text in chosen.config.exit)
    return ["user"] + ["exit"] * has_one


def _is_from(chosen: Layered, name: str, path: str) -> bool:
    return chosen.sources[name].startswith(path + ", ")


def _noted(
    texts: Sequence[str], with_files: Callable[[str, Callable[[str], str]], str], home: str
) -> List[str]:
    """Return the paths of the files that *texts* name: lists of rules, passwords of exits."""
    found: List[str] = []

    def note(path: str) -> str:
        found.append(os.path.join(home, path))
        return path

    for text in texts:
        with_files(text, note)
    return found


def _of_writers(path: str, users_file: Optional[str], lists: List[str]) -> Iterator[str]:
    """Yield a sentence about each file that decides about clients and that others may write.

    A group may write any of them but the file of users, because on many systems each user has a
    group of its own.
    """
    for name in dict.fromkeys([path, users_file or "", *lists]):
        try:
            status = os.stat(name)
            folder = os.path.dirname(os.path.abspath(name))
            mode = os.stat(folder).st_mode
        except OSError:
            continue  # it is not there, or the error appears when it is read
        if not stat.S_ISREG(status.st_mode):
            continue
        what = "%s decides about clients, and " % name
        writer = "others" if status.st_mode & stat.S_IWOTH else ""
        if name == users_file and status.st_mode & stat.S_IWGRP:
            writer = writer or "its group"
        if writer:
            yield what + "%s may write it: chmod go-w %s" % (writer, name)
        if status.st_uid not in (0, getattr(os, "geteuid", int)()):
            names = status.st_uid, name
            yield what + "user %d may write it: give it to root or this user, chown %s" % names
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            yield what + "others may put another file in its place: chmod o-w %s" % folder


def pidfile_of(given: Dict[str, Any]) -> str:
    """Return the path of the pidfile of the process that is meant.

    Raises:
        ConfigError: the settings do not tell which.
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
    """Return path and text of the file of settings, and whether it is closed to other users.

    A relative path stays one, and begins in *home*.

    Raises:
        ConfigError: it cannot be read.
    """
    place, path = "--config", given.get("config")
    if path == "":
        # Probably an empty variable in a script, so not the same as no file.
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
    """Return whether it is closed to other users, or is a pipe or a device."""
    mode = os.stat(path).st_mode
    return not stat.S_ISREG(mode) or not mode & stat.S_IRWXO
