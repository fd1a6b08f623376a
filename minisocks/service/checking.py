"""The command check: settings and rules in force, and whether a start would be refused; or what
the rules say.  No click."""

from typing import Any, Dict, Optional

from minisocks.access import Access, Users
from minisocks.config.layers import Layered
from minisocks.errors import ConfigError
from minisocks.hooks import Hooks
from minisocks.net.ownaddress import KernelRoutes
from minisocks.net.processor import AUTO, preview
from minisocks.quoting import as_json as to_json
from minisocks.quoting import reason_of
from minisocks.service import announce, console
from minisocks.service.explain import Question, judge
from minisocks.service.summary import oddities
from minisocks.service.trial import problems

__all__ = ["check", "judge_one"]


def check(chosen: Layered, as_json: bool) -> None:
    """Show the settings, where each comes from, and the rules.

    Raises:
        ConfigError: a file that they name cannot be used.
        OSError: stdout is closed, or full.
        MinisocksError: a start would be refused, for this last.
    """
    access = Access.of(chosen.config, Hooks())
    rules = access.rules
    for sentence in (*chosen.of_files, *oddities(access)):
        console.warn(sentence)
    wanted = chosen.config.processor or AUTO
    number, problem = preview(wanted)
    if problem:
        console.warn("keeping to no processor: %s" % problem)
    kept = {"wanted": wanted, "number": number}
    found = problems(chosen.config, access, console.warn)
    if as_json:
        data = announce.as_data(chosen, rules, _login(access.users), kept)
        _print(dict(data, problems=list(map(_sentence, found))), as_json)
    else:
        _print(announce.as_table(chosen, rules, _login(access.users), kept), as_json)
    for exc in found[:-1]:
        console.fail(_sentence(exc))
    if found:
        raise found[-1]


def _sentence(exc: Exception) -> str:
    if isinstance(exc, ConfigError):
        return exc.sentence
    return reason_of(exc)


def _login(users: Users) -> Optional[Dict[str, Any]]:
    """Return what it costs here to check a password of the file of users; None: nothing."""
    if not users.has_hashes:
        return None
    from minisocks.service.hashing import seconds_for  # measures it

    seconds = round(seconds_for(users.iterations), 4)
    return {"iterations": users.iterations, "seconds": seconds}


def judge_one(
    chosen: Layered,
    as_json: bool,
    source: Optional[str],
    target: Optional[str],
    user: Optional[str],
    command: str,
    ver: str,
) -> bool:
    """Show what the rules say about one client and one target, and return it.

    Raises:
        ConfigError, OSError: as ``check``; the question cannot be understood.
    """
    if not target:
        raise ConfigError("--to", "say where to: --to HOST:PORT")
    if ver not in ("4", "5"):
        raise ConfigError("--ver", "%.40r is neither 4 nor 5" % ver)
    if source is None:
        config = chosen.config
        is_behind = all(map(config.is_forwarded, config.listen))
        source = "forwarder" if is_behind else "127.0.0.1"
    question = Question(source, target, user, command, int(ver))
    with KernelRoutes() as kernel:
        verdict = judge(Access.of(chosen.config, Hooks(), kernel), question)
    for sentence in chosen.of_files:
        console.warn(sentence)
    _print(verdict.as_data() if as_json else verdict.as_lines(), as_json)
    return verdict.allowed


def _print(what: Any, as_json: bool) -> None:
    for line in to_json(what, indent=2).split("\n") if as_json else what:
        console.print_line(line)
