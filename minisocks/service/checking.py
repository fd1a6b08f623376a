"""The command check: settings and rules in force, and why a start would fail.  No click.

It tries a start without creating anything.  A listener and a pidfile that the process with these
settings already has are no problem, because check is run before a reload or a restart, too.
"""

from typing import Any, Callable, Dict, List, Optional

from minisocks import __version__
from minisocks.access import Access, Users
from minisocks.config.layers import Layered
from minisocks.config.settings import SETTINGS, Config
from minisocks.errors import ConfigError, MinisocksError, ServiceError
from minisocks.hooks import Hooks
from minisocks.net.listener import Attempt
from minisocks.net.ownaddress import KernelRoutes
from minisocks.net.processor import AUTO, NONE, preview
from minisocks.quoting import as_json as to_json
from minisocks.quoting import reason_of
from minisocks.service import announce, console, exitshown
from minisocks.service.commands import ask
from minisocks.service.console import NO_BACKGROUND, can_detach
from minisocks.service.exittrial import trials
from minisocks.service.explain import Question, judge
from minisocks.service.location import locate
from minisocks.service.outputs import LogFile, Syslog
from minisocks.service.pidfile import NoPidfiles, Pidfile
from minisocks.values import ListenAddress

__all__ = ["check", "judge_one", "problems", "try_exits"]

#: Seconds in which the running process has to answer where it listens.
ANSWER_SECONDS = 5.0
#: What a login costs here: seconds and iterations.
Login = Dict[str, Any]
#: The processor of the serving threads: the setting, and the number it gives here.
Kept = Dict[str, Any]


def check(chosen: Layered, as_json: bool) -> None:
    """Print the settings with their sources, the rules, and why a start would fail.

    Raises:
        ConfigError: a file that the settings name cannot be used.
        OSError: stdout is closed or full; or a start would fail, and this is the last reason.
        MinisocksError: a start would fail, and this is the last reason.
    """
    access = Access.of(chosen.config, Hooks())
    for sentence in (*chosen.of_files, *announce.oddities(access)):
        console.warn(sentence)
    wanted = chosen.config.processor or AUTO
    number, problem = preview(wanted)
    if problem:
        console.warn("running on any processor: %s" % problem)
    kept = {"wanted": wanted, "number": number}
    found = problems(chosen.config, access, console.warn)
    found = [chosen.placed(exc) if isinstance(exc, ConfigError) else exc for exc in found]
    parts = chosen, access, _login(access.users), kept
    if as_json:
        _print(dict(as_data(*parts), problems=list(map(_sentence, found))), as_json)
    else:
        _print(as_table(*parts), as_json)
    for exc in found[:-1]:
        console.fail(_sentence(exc))
    if found:
        raise found[-1]


def judge_one(
    chosen: Layered,
    as_json: bool,
    source: Optional[str],
    target: Optional[str],
    user: Optional[str],
    command: str,
    ver: str,
    at: Optional[str] = None,
) -> bool:
    """Print whether a client may reach a target, and return that.

    Args:
        source: address of the client, forwarder or unix; None: the one that the listeners have.
        at: the listener that it connects to; None: the first.

    Raises:
        ConfigError, OSError: as ``check``; or the question cannot be understood.
    """
    if not target:
        raise ConfigError("--to", "the target is missing: add --to HOST:PORT")
    if ver not in ("4", "5"):
        raise ConfigError("--ver", "%.40r is neither 4 nor 5" % ver)
    if source is None:
        config = chosen.config
        is_behind = all(map(config.is_forwarded, config.listen))
        source = "forwarder" if is_behind else "127.0.0.1"
    question = Question(source, target, user, command, int(ver), at or "")
    with KernelRoutes() as kernel:
        verdict = judge(Access.of(chosen.config, Hooks(), kernel), question)
    for sentence in chosen.of_files:
        console.warn(sentence)
    _print(verdict.as_data() if as_json else verdict.as_lines(), as_json)
    return verdict.allowed


def try_exits(chosen: Layered, as_json: bool) -> bool:
    """Try each exit, print a line about it as soon as it is known; return whether all work.

    Raises:
        ConfigError, OSError: as ``check``.
    """
    access = Access.of(chosen.config, Hooks())
    for sentence in chosen.of_files:
        console.warn(sentence)
    if not access.exits:
        console.warn("there are no exits to try: add --exit NAME=WAY, or lines under [exits]")
    width = max(map(len, access.exits), default=0)
    found = []
    for trial in trials(access):
        found.append(trial)
        if not as_json:
            state = "works" if trial.works else "fails"
            console.print_line("%-*s  %s  %s" % (width, trial.name, state, trial.text))
            console.flush_stdout()
    if as_json:
        _print({"exits": [trial._asdict() for trial in found]}, as_json)
    return all(trial.works for trial in found)


def _print(what: Any, as_json: bool) -> None:
    for line in to_json(what, indent=2).split("\n") if as_json else what:
        console.print_line(line)


def as_table(
    chosen: Layered, access: Access, login: Optional[Login] = None, kept: Optional[Kept] = None
) -> List[str]:
    """Return the settings, exits and rules in force as lines for people, without passwords.

    Args:
        login: what a login costs; None: nothing.
        kept: the processor; None: not known.
    """
    rows = []
    for setting in SETTINGS:
        values = announce.shown(setting, chosen.config) or ["none"]
        if kept and setting.name == "processor":
            values = [_processor(kept)]
        for value in values:
            rows.append((setting.key, value, chosen.sources[setting.name]))
    name_width = max(len(row[0]) for row in rows)
    value_width = min(30, max(len(row[1]) for row in rows))
    lines = ["%-*s  %-*s  %s" % (name_width, n, value_width, v, s) for n, v, s in rows]
    config, rules = chosen.config, access.rules
    admitted = announce.admitted(config.listen, announce.forwarded_of(config), config, rules)
    lines += ["", *(" ".join(line) for line in admitted)]
    if login:
        lines.append(
            "a login costs %(seconds).2g s here (%(iterations)d iterations), once for each "
            "password: later ones are remembered" % login
        )
    exits = list(exitshown.table(access.exits))
    lines += ["", *exits] if exits else []
    lines += ["", "rules in force; the first that matches decides, what none matches is denied:"]
    number = 0
    for rule in rules.rules:
        # Numbers are for the operator's own, so that they are found in the settings.
        number += not rule.is_built_in
        shown, note = ("", "  (built in)") if rule.is_built_in else (number, "")
        lines.append("%3s  %s%s" % (shown, rule.text, note))
    return lines


def as_data(
    chosen: Layered, access: Access, login: Optional[Login] = None, kept: Optional[Kept] = None
) -> Dict[str, Any]:
    """Return the same as data for JSON."""
    settings = {}
    for setting in SETTINGS:
        value: Any = getattr(chosen.config, setting.name)
        if setting.kind == "texts":
            value = announce.shown(setting, chosen.config)
        settings[setting.key] = {"value": value, "source": chosen.sources[setting.name]}
    rules = access.rules
    data = {
        "version": __version__,
        "settings": settings,
        "may_come_in": announce.describe(rules, chosen.config),
        "rules": [{"rule": rule.text, "built_in": rule.is_built_in} for rule in rules.rules],
    }
    if access.exits:
        data["exits"] = list(map(exitshown.as_data, access.exits.values()))
    for _about, text in announce.behind(announce.forwarded_of(chosen.config), chosen.config, rules):
        data["forwarded"] = text
    if kept:
        data["processor"] = kept
    return dict(data, login=login) if login else data


def _processor(kept: Kept) -> str:
    wanted, number = kept["wanted"], kept["number"]
    if wanted == AUTO:
        return "%s (%s now)" % (wanted, "none" if number is None else "processor %d" % number)
    return str(wanted) if wanted == NONE or number is not None else "%s (none here)" % wanted


def _login(users: Users) -> Optional[Dict[str, Any]]:
    if not users.has_hashes:
        return None
    from minisocks.service.hashing import seconds_for

    seconds = round(seconds_for(users.iterations), 4)
    return {"iterations": users.iterations, "seconds": seconds}


def problems(config: Config, access: Access, warn: Callable[[str], None]) -> List[Exception]:
    """Return what a start would raise, in the order of the settings.

    Args:
        access: users and rules, made of *config*.
        warn: called with a sentence about what does not prevent a start.
    """
    found: List[Exception] = []
    if config.daemon and not can_detach():
        found.append(ServiceError(NO_BACKGROUND))
    pidfile = _pidfile(config, found, warn)
    held = _listeners_of(pidfile) if pidfile else []
    attempt = Attempt(held)
    steps: List[Callable[[], None]] = [
        lambda text=text: attempt.listen(ListenAddress.parse(text))  # type: ignore[misc]
        for text in config.listen
    ]
    steps.append(attempt.close)  # at once, because cron may start one meanwhile
    steps.append(lambda: access.check_egress(warn))
    if config.log_file:
        steps.append(lambda: LogFile.try_out(config.log_file))
    if config.syslog or (config.daemon and not config.log_file):
        steps.append(lambda: _try_syslog(config.syslog or "local", warn))
    try:
        for step in steps:
            try:
                step()
            except (MinisocksError, OSError) as exc:
                found.append(exc)
    finally:
        attempt.close()
    return found


def _try_syslog(where: str, warn: Callable[[str], None]) -> None:
    syslog = Syslog(where)
    problem = syslog.problem()
    syslog.close()
    if problem:
        warn("log lines are lost: %s" % problem)


def _pidfile(
    config: Config, found: List[Exception], warn: Callable[[str], None]
) -> Optional[Pidfile]:
    """Return the pidfile, if any; a problem is *found*, or a warning if it is not needed."""
    is_needed = bool(config.daemon or config.pidfile)
    if not is_needed and not ListenAddress.parse(config.listen[0]).is_fixed:
        return None
    path, is_told = "", True
    try:
        path, _address = locate({"listen": config.listen[0], "pidfile": config.pidfile}, {})
        Pidfile(path).try_out()
        return Pidfile(path)
    except ValueError as exc:
        sentence, is_told = str(exc), not isinstance(exc, NoPidfiles)
    except OSError as exc:
        sentence = "cannot use the pidfile %s: %s" % (path, reason_of(exc))
    if is_needed:
        found.append(ServiceError(sentence))
    elif is_told:
        warn(sentence)
    return None


def _listeners_of(pidfile: Pidfile) -> List[ListenAddress]:
    try:
        answer = ask(pidfile.path, "status", ANSWER_SECONDS, addresses=[str])
        return [ListenAddress.parse(text) for text in answer["addresses"]]
    except (ServiceError, ValueError):
        return []


def _sentence(exc: Exception) -> str:
    return exc.sentence if isinstance(exc, ConfigError) else reason_of(exc)
