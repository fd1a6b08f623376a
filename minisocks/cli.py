"""The command line: options, help, completion, exit statuses.  Only this imports click."""

import os
import re
import sys
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple

import click

from minisocks import __version__
from minisocks.config.layers import Layered
from minisocks.config.setting import Setting
from minisocks.config.settings import CONFIG_FILE, GROUPS, SETTINGS
from minisocks.errors import ConfigError, MinisocksError, NotRunning
from minisocks.guesses import OTHER_WORDS, closest
from minisocks.quoting import reason_of
from minisocks.service import console
from minisocks.service.chosen import pidfile_of, settings_of

__all__ = ["main"]

EXIT_CANNOT, EXIT_WRONG_USAGE, EXIT_NOT_RUNNING = 1, 2, 3

#: Columns of a help page, as click counts them (it leaves two free), and of the options on it.
WIDTH, NAME_WIDTH = 82, 28

#: The variable by which a shell asks for completion, as click names it.
COMPLETE = "_MINISOCKS_COMPLETE"

#: Command lines, each with what it does.
EXAMPLES = (
    ("minisocks", "Serve programs on this host."),
    ("minisocks -l :1080 --allow-lan", "Serve the local network."),
    ("minisocks -l :1080 --user NAME:PASSWORD", "Serve users that have the password."),
)

#: Instead of "-" until lines are broken: a name such as hash-password stays whole.
_HYPHEN = "\u2011"

_SEE_HELP = "; see minisocks --help"

_EPILOG = (
    "Each setting also has a variable (MINISOCKS_LISTEN=1080) and a key in the ini file (listen = "
    "1080, under [minisocks]). In both, each of several values has a line of its own. The command "
    "line overrides the environment, which overrides the file. --no-NAME switches a flag off."
)


class _WrongUsage(Exception):
    """The command line cannot be used; the sentence says why."""


class _Command(click.Command):
    """A command whose ``--help`` shows its settings in their groups, in the order of the table."""

    def __init__(
        self,
        name: str,
        run: Callable[..., Any],
        summary: str,
        *more: click.Option,
        settings: Sequence[Setting] = (CONFIG_FILE, *SETTINGS),
    ):
        super().__init__(
            name,
            callback=run,
            help=summary,
            params=[*map(_option, settings), *more, _VERSION, _HELP],
            epilog=_EPILOG if settings else None,
            context_settings={"max_content_width": WIDTH, "allow_extra_args": True},
            # That of click prints without the console, and fails silently without stdout.
            add_help_option=False,
        )
        self.settings = settings
        self.more = more

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show the line to type for each command."""
        if self.name in COMMANDS:
            formatter.write_usage("minisocks %s" % self.name, "[OPTIONS]")
            return
        formatter.write_usage("minisocks", "[OPTIONS]")
        for command in COMMANDS.values():
            formatter.write_usage("minisocks %s" % command.name, "[OPTIONS]", prefix="       ")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show examples and commands, settings in their groups, and other options."""
        if self.name not in COMMANDS:
            with formatter.section("Examples"):
                formatter.write_dl(EXAMPLES, WIDTH)
            _write_section(
                formatter, "Commands", [(str(c.name), str(c.help)) for c in COMMANDS.values()]
            )
        for group in GROUPS:
            rows = [_help_row(s) for s in self.settings if s.group == group]
            _write_section(formatter, group, rows)
        rows = [(spelling_of(option), str(option.help)) for option in self.more]
        rows += [("    --version", "Show the version."), ("-h, --help", "Show this page.")]
        _write_section(formatter, "Other", rows)


def spelling_of(option: click.Option) -> str:
    """Return the option with its value, as a help page shows it."""
    return ("    %s %s" % (option.opts[0], option.metavar or "")).rstrip()


def _write_section(formatter: click.HelpFormatter, title: str, rows: List[Tuple[str, str]]) -> None:
    if rows:
        with formatter.section(title):
            rows = [(name.ljust(NAME_WIDTH), text.replace("-", _HYPHEN)) for name, text in rows]
            formatter.write_dl(rows)


class _CountedFlag(click.Option):
    """A flag that can be given twice, with --no-NAME, which click has not for such a flag."""

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Let --no-NAME set the count to 0."""
        super().add_to_parser(parser, ctx)
        name = "--no-" + self.opts[0][2:]
        parser.add_option(opts=[name], dest=self.name, action="store_const", const=0, obj=self)


def _option(setting: Setting) -> click.Option:
    names = [setting.option] + ([setting.short] if setting.short else [])
    if setting.kind == "flag" and setting.most:
        return _CountedFlag(names, count=True, default=None)
    if setting.kind == "flag":
        names[0] += "/--no-" + setting.key
        return click.Option(names, is_flag=True, default=None)
    # All are text, so that a mistake gets the same words in a file or a variable.
    return click.Option(names, type=click.STRING, multiple=setting.kind == "texts")


def _help_row(setting: Setting) -> Tuple[str, str]:
    text = setting.help
    if setting.default:
        default = setting.default if setting.kind == "texts" else (setting.default,)
        text += " [default: %s]" % " ".join(setting.shown(value) for value in default)
    short = setting.short + ", " if setting.short else "    "
    return short + setting.spelling, text


def _serve(ensure: bool = False, **given: Any) -> None:
    # Here, because it imports the proxy, which the other commands do not need.
    from minisocks.service.service import Service

    def again(home: str, warn: Callable[[str], None]) -> Layered:
        return settings_of(given, home, warn, may_wait=False)

    chosen = settings_of(given)
    with chosen.placing_errors():
        Service(chosen, again).run(ensure)


def _check(json: bool = False, exits: bool = False, **given: Any) -> int:
    from minisocks.service import checking  # it imports users and rules, which others do not need

    asked = [given.pop("asked_" + name) for name in ("from", "to", "as", "command", "ver", "at")]
    if exits and asked[:3] != [None, None, None]:
        raise _WrongUsage("--exits goes alone: --from, --to and --as ask the rules")
    chosen = settings_of(given)
    with chosen.placing_errors():
        if exits:
            return 0 if checking.try_exits(chosen, json) else EXIT_CANNOT
        if asked[:3] != [None, None, None]:
            return 0 if checking.judge_one(chosen, json, *asked) else EXIT_CANNOT
        checking.check(chosen, json)
    return 0


def _hash_password(name: Optional[str], iterations: Optional[str]) -> None:
    from minisocks.service.hashing import hash_password

    hash_password(name, iterations)


def _to_running(name: str, summary: str, *more: click.Option) -> _Command:
    """Return a command that a running process carries out."""

    def run(**given: Any) -> None:
        from minisocks.service import commands

        path = pidfile_of(given)
        if name == "status":
            forms = [form for form in ("json", "prometheus") if given.pop(form)]
            if len(forms) > 1:
                raise _WrongUsage("--json and --prometheus exclude each other: choose one")
            commands.status(path, forms[0] if forms else "text", given["watch"])
        else:
            getattr(commands, name)(path)

    return _Command(name, run, summary, *more, settings=_WHICH)


def _shows(names: List[str], text: Callable[[click.Context], str]) -> click.Option:
    """Return an option that prints *text* and ends the program."""

    def show(context: click.Context, _option: Any, wanted: bool) -> None:
        if wanted and not context.resilient_parsing:
            for line in text(context).split("\n"):
                console.print_line(line)
            context.exit()

    return click.Option(names, is_flag=True, is_eager=True, expose_value=False, callback=show)


_VERSION = _shows(["--version"], lambda context: "minisocks %s" % __version__)
_HELP = _shows(["-h", "--help"], lambda context: context.get_help().replace(_HYPHEN, "-"))
#: The settings by which a running process is found.
_WHICH = (CONFIG_FILE, *(s for s in SETTINGS if s.name in ("listen", "pidfile")))


def _flag(name: str, text: str) -> click.Option:
    return click.Option(["--" + name], is_flag=True, help=text)


def _value(name: str, metavar: str, text: str, default: Optional[str] = None) -> click.Option:
    names = ["--" + name, "asked_" + name]
    return click.Option(names, metavar=metavar, default=default, help=text)


SERVE = _Command(
    "minisocks",
    _serve,
    "Run a SOCKS4, SOCKS4a and SOCKS5 proxy until TERM or INT.",
    _flag("ensure", "Start in the background, unless it runs and answers already. For cron."),
)
COMMANDS: Dict[str, _Command] = {
    command.name or "": command
    for command in (
        _Command(
            "check",
            _check,
            "Show the settings in force and where each comes from; or test the rules or exits.",
            _flag("json", "Print JSON, for programs."),
            _value("from", "ADDRESS", "Test the rules for this client [default: 127.0.0.1]."),
            _value("to", "HOST:PORT", "Its target."),
            _value("as", "NAME", "Its user."),
            _value("command", "NAME", "Its command: connect [default], bind or udp.", "connect"),
            _value("ver", "N", "Its SOCKS version: 4 or 5 [default].", "5"),
            _value("at", "ADDRESS", "Which of the addresses to listen on it connects to."),
            _flag("exits", "Try each exit: whether its proxies answer and accept the login."),
        ),
        _to_running(
            "status",
            "Show what a running minisocks does.",
            _flag("json", "Print JSON, for programs."),
            _flag("prometheus", "Print metrics for the textfile collector of node_exporter."),
            _flag("watch", "Print again every 2 seconds, until Ctrl-C."),
        ),
        _to_running("reload", "Make the running minisocks read its settings again."),
        _to_running(
            "stop", "Stop the running minisocks; a second stop ends open connections at once."
        ),
        _to_running(
            "drain", "Make the running minisocks end with its last connection, and accept no more."
        ),
        _Command(
            "hash-password",
            _hash_password,
            "Make a line for the file of users (--users-file).",
            click.Option(["--name"], metavar="NAME", help="The user that the password is for."),
            click.Option(
                ["--iterations"],
                metavar="N",
                help="Work for each check, 1000 to 10000000; default: half a second of this host.",
            ),
            settings=(),
        ),
    )
}


def main(argv: Optional[List[str]] = None) -> int:
    """Run the command line; return the exit status."""
    console.fill_standard_descriptors()
    try:
        status = _status_of(list(sys.argv[1:] if argv is None else argv))
    except BaseException:
        console.crash()
        raise
    console.finish(status)
    console.flush_stderr()
    return status


def _status_of(argv: List[str]) -> int:
    try:
        try:
            return _run(argv)
        finally:
            console.flush_stdout()
    except click.exceptions.Exit as exc:
        return int(exc.exit_code)
    except click.ClickException as exc:
        console.fail(_usage_sentence(exc))
        return EXIT_WRONG_USAGE
    except _WrongUsage as exc:
        console.fail(str(exc))
        return EXIT_WRONG_USAGE
    except ConfigError as exc:
        console.fail(exc.sentence)
        console.show(exc.picture)
        return EXIT_WRONG_USAGE
    except NotRunning as exc:
        console.fail(str(exc))
        return EXIT_NOT_RUNNING
    except BrokenPipeError:
        return EXIT_CANNOT  # the program that reads stdout has ended, as head does
    except (MinisocksError, OSError, RuntimeError) as exc:
        # There is no address, pidfile, descriptor or thread, or the disk is full.
        console.fail(reason_of(exc))
        return EXIT_CANNOT
    except (KeyboardInterrupt, click.Abort):
        return 130  # Ctrl-C before it served


def _run(argv: List[str]) -> int:
    if COMPLETE in os.environ:
        _complete(os.environ[COMPLETE])
        return 0
    command: _Command = SERVE
    if argv and argv[0] in COMMANDS:
        command = COMMANDS[argv.pop(0)]
    # With or without a value.  Only click 8.0 and later have such options.
    argv = ["--syslog=local" if word == "--syslog" else word for word in argv]
    # Not ``command.main``, which on Python 3.6 refuses to run in an ASCII locale.  Cron has one.
    with command.make_context("minisocks", argv) as context:
        if context.args:
            if not command.settings:
                raise _WrongUsage(
                    "hash-password takes no password here: start it, and it asks for one"
                )
            raise _WrongUsage(_stray(context.args[0], command))
        return int(command.invoke(context) or 0)


def _complete(wanted: str) -> None:
    """Print the function of a shell, or the words by which a line may go on.

    Other variables of the environment have the line.

    Raises:
        ConfigError: click does not know what is *wanted*, or there is no line.
        MinisocksError: click is too old.
    """
    try:
        from click.shell_completion import shell_complete
    except ImportError:
        why = "completion needs click 8.0, and the single file has an older one: install minisocks"
        raise MinisocksError(why) from None
    start = click.Group("minisocks", {**COMMANDS}, params=SERVE.params, add_help_option=False)
    files = {setting.name for setting in (CONFIG_FILE, *SETTINGS) if setting.metavar == "FILE"}
    for command in (start, *COMMANDS.values()):
        for parameter in command.params:
            if parameter.name in files:
                parameter.type = click.Path()  # then the shell completes it as a path
    try:
        status = shell_complete(start, {}, "minisocks", COMPLETE, wanted)
    except (LookupError, ValueError):  # COMP_CWORD is missing, or no number
        why = "%.40r is for the function of a shell, which sets COMP_WORDS and COMP_CWORD" % wanted
        raise ConfigError(COMPLETE, why) from None
    if status:
        why = "%.40r is none of bash_source, zsh_source and fish_source" % wanted
        raise ConfigError(COMPLETE, why)


def _stray(word: str, command: _Command) -> str:
    """Return the sentence about an argument of *command* that belongs to no option."""
    if word in COMMANDS:
        return "%s goes first: minisocks %s [OPTIONS]" % (word, word)
    if re.match(r"(([\d.]+|\[[\da-f:.]+\])?:)?\d+\Z", word):
        return "%r is no option; to listen there, write -l %s" % (word, word)
    if not re.match(r"[a-z-]{1,20}\Z", word):
        return "an argument belongs to no option%s" % _SEE_HELP  # it may be a password
    if command is not SERVE and word not in OTHER_WORDS:
        what = "%s takes options, and no argument such as %r; see minisocks %s --help"
        return what % (command.name, word, command.name)
    return "no command is called %r%s" % (word, _meant(word, COMMANDS))


def _meant(word: str, known: Iterable[str]) -> str:
    """Return a semicolon and what to write instead of *word*."""
    other = OTHER_WORDS.get(word)
    return "; " + other if other else closest(word, known) or _SEE_HELP


def _usage_sentence(exc: click.ClickException) -> str:
    if isinstance(exc, click.NoSuchOption):
        command, name = exc.ctx.command if exc.ctx else SERVE, exc.option_name
        known, others = ([o for p in c.params for o in p.opts] for c in (command, SERVE))
        if name in others:
            return "%s is an option of the start, not of %s" % (name, command.name) + _SEE_HELP
        # --no-listen was not meant to be --listen.
        meant = _SEE_HELP if name.startswith("--no") else _meant(name, known)
        return "no option is called %s%s" % (name, meant)
    return exc.format_message().rstrip(".") + _SEE_HELP
