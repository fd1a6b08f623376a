"""The command line: options, exit codes, and where the log goes.

The only module that imports click, and the only one that adds log handlers.
"""

import logging
import os
import re
import stat
import sys
import threading
from typing import Any, Callable, Dict, List, Optional, Tuple

import click

from minisocks import __version__, announce
from minisocks.errors import ConfigError
from minisocks.foreground import Signals
from minisocks.inifile import MAX_FILE_BYTES
from minisocks.layers import Layered, layered
from minisocks.machine import find_room, raise_descriptor_limit
from minisocks.proxy import Proxy
from minisocks.settings import CONFIG_FILE, GROUPS, SETTINGS, Config, Setting, closest

__all__ = ["main"]

EXIT_CANNOT_SERVE = 1
EXIT_WRONG_USAGE = 2

#: A handler or resolver needs little; the system's default of 8 MB a thread is
#: address space that small machines count.
STACK_BYTES = 256 * 1024

#: Columns of a help page, as click counts them (it leaves two free), and of the
#: options' names on it.
WIDTH, NAME_WIDTH = 82, 28

_EXAMPLES = (
    ("minisocks", "Serve programs on this host."),
    ("minisocks -l :1080 --allow-lan", "Serve the local network."),
    ("minisocks -l :1080 --user NAME:PASSWORD", "Serve who has the password."),
)

_SEE_HELP = "; see minisocks --help"

_EPILOG = (
    "Each setting also has a variable (MINISOCKS_LISTEN=1080) and a key in the ini file "
    "(listen = 1080, under [minisocks]); of several values each has a line of its own. The "
    "command line wins over the environment, that over the file. --no-NAME takes a flag back."
)


class _Failure(Exception):
    """The end, in one sentence for people, with an exit status."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


class _Command(click.Command):
    """A command whose ``--help`` shows the settings in their groups.

    Words and order come from the table of settings, not from click's options.
    """

    def __init__(self, name: str, run: Callable[..., None], summary: str, *more: click.Option):
        options = [_option(setting) for setting in (CONFIG_FILE, *SETTINGS)]
        super().__init__(
            name,
            callback=run,
            help=summary,
            params=[*options, *more, _VERSION],
            epilog=_EPILOG,
            context_settings={
                "help_option_names": ["-h", "--help"],
                "max_content_width": WIDTH,
                "allow_extra_args": True,
            },
        )
        self.more = more

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show every way to start it."""
        if self.name in COMMANDS:
            formatter.write_usage("minisocks %s" % self.name, "[OPTIONS]")
            return
        formatter.write_usage("minisocks", "[OPTIONS]")
        for command in COMMANDS.values():
            formatter.write_usage("minisocks %s" % command.name, "[OPTIONS]", prefix="       ")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show examples and commands, settings in their groups, and the rest."""
        if self.name not in COMMANDS:
            with formatter.section("Examples"):
                formatter.write_dl(_EXAMPLES, WIDTH)
            _write_section(
                formatter, "Commands", [(str(c.name), str(c.help)) for c in COMMANDS.values()]
            )
        for group in GROUPS:
            rows = [_help_row(s) for s in (CONFIG_FILE, *SETTINGS) if s.group == group]
            _write_section(formatter, group, rows)
        rows = [("    " + option.opts[0], str(option.help)) for option in self.more]
        rows += [("    --version", "Show the version."), ("-h, --help", "Show this page.")]
        _write_section(formatter, "Other", rows)


def _write_section(formatter: click.HelpFormatter, title: str, rows: List[Tuple[str, str]]) -> None:
    if rows:
        with formatter.section(title):
            formatter.write_dl([(name.ljust(NAME_WIDTH), text) for name, text in rows])


def _option(setting: Setting) -> click.Option:
    names = [setting.option] + ([setting.short] if setting.short else [])
    if setting.kind == "flag":
        names[0] += "/--no-" + setting.key
        return click.Option(names, is_flag=True, default=None)
    # Text of all of them: a mistake is told in the same words wherever it is made.
    return click.Option(names, type=click.STRING, multiple=setting.kind == "texts")


def _help_row(setting: Setting) -> Tuple[str, str]:
    text = setting.help
    if setting is not CONFIG_FILE and setting.default:
        default = setting.default if setting.kind == "texts" else (setting.default,)
        text += " [default: %s]" % " ".join(setting.shown(value) for value in default)
    short = setting.short + ", " if setting.short else "    "
    return ("%s%s %s" % (short, setting.option, setting.metavar)).rstrip(), text


def _serve(**given: Any) -> None:
    chosen = _settings(given)
    proxy = Proxy(chosen.config, keep_records=0)
    config = proxy.config
    _log_to_stderr(config)
    room = find_room(raise_descriptor_limit())
    threading.stack_size(STACK_BYTES)
    try:
        with Signals() as signals:
            proxy.start()
            for about, rest in announce.at_start(proxy.addresses, config, room):
                _say("%s %s" % (click.style(about, fg="green", bold=True), rest))
            signals.serve(proxy, config.grace)
    except (OSError, RuntimeError) as exc:  # no address, descriptor or thread to be had
        raise _Failure(getattr(exc, "strerror", None) or str(exc), EXIT_CANNOT_SERVE) from exc


def _check(json: bool = False, **given: Any) -> None:
    chosen = _settings(given)
    if json:
        import json as encoder

        _print(encoder.dumps(announce.as_data(chosen), indent=2))
    else:
        for line in announce.as_table(chosen):
            _print(line)


def _show_version(context: click.Context, _option: Any, wanted: bool) -> None:
    if wanted:
        _print("minisocks %s" % __version__)
        context.exit()


_VERSION = click.Option(
    ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_show_version
)
_SERVE = _Command("minisocks", _serve, "Run a SOCKS4, SOCKS4a and SOCKS5 proxy until TERM or INT.")
COMMANDS: Dict[str, _Command] = {
    "check": _Command(
        "check",
        _check,
        "Show the settings in force and where each comes from.",
        click.Option(["--json"], is_flag=True, help="As JSON, for programs."),
    ),
}


def main(argv: Optional[List[str]] = None) -> int:
    """Run the command line; return the exit status."""
    _fill_standard_descriptors()
    try:
        _run(list(sys.argv[1:] if argv is None else argv))
    except click.exceptions.Exit as exc:
        return int(exc.exit_code)
    except click.ClickException as exc:
        _fail(_usage_sentence(exc))
        return EXIT_WRONG_USAGE
    except ConfigError as exc:
        _fail(exc.sentence)
        return EXIT_WRONG_USAGE
    except BrokenPipeError:
        # Whoever read --help or check has seen enough. What is still in the
        # buffer must not fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_CANNOT_SERVE
    except OSError as exc:  # a disk that is full
        _fail(str(exc.strerror or exc))
        return EXIT_CANNOT_SERVE
    except (KeyboardInterrupt, click.Abort):
        return 130  # Ctrl-C before it served
    except _Failure as exc:
        _fail(str(exc))
        return exc.status
    return 0


def _run(argv: List[str]) -> None:
    command: _Command = _SERVE
    if argv and argv[0] in COMMANDS:
        command = COMMANDS[argv.pop(0)]
    # Not ``command.main``: on Python 3.6 that refuses to run in an ASCII
    # locale, which is what cron gives and nothing here minds.
    with command.make_context("minisocks", argv) as context:
        if context.args:
            raise _Failure(_stray(context.args[0]), EXIT_WRONG_USAGE)
        command.invoke(context)


def _stray(word: str) -> str:
    """Return the sentence about an argument that is no option's."""
    if word in COMMANDS:
        return "%s goes first: minisocks %s [OPTIONS]" % (word, word)
    if re.match(r"(([\d.]+|\[[\da-f:.]+\])?:)?\d+\Z", word):
        return "%r is no option; to listen there, write -l %s" % (word, word)
    if not re.match(r"[a-z-]{1,20}\Z", word):
        return "an argument belongs to no option%s" % _SEE_HELP  # it may be a password
    return "no command is called %r%s" % (word, closest(word, COMMANDS) or _SEE_HELP)


def _usage_sentence(exc: click.ClickException) -> str:
    if isinstance(exc, click.NoSuchOption):
        known = [name for param in _SERVE.params for name in param.opts]
        # --no-listen was not meant to be --open, nor --listen.
        meant = "" if exc.option_name.startswith("--no") else closest(exc.option_name, known)
        return "no option is called %s%s" % (exc.option_name, meant or _SEE_HELP)
    return exc.format_message().rstrip(".") + _SEE_HELP


def _settings(given: Dict[str, Any]) -> Layered:
    """Return the settings in force; tell what is odd about them.

    Raises:
        ConfigError: one of them cannot be used.
    """
    place, path = "--config", given.pop("config")
    if path == "":
        # An empty variable of a script: not the same as no file.
        raise ConfigError("--config", "needs the name of a file")
    if path is None:
        place, path = CONFIG_FILE.variable, os.environ.get(CONFIG_FILE.variable)
    text, is_private = _read(path, place) if path else ("", True)
    chosen = layered(given, os.environ, text, path or "")
    for name in chosen.unknown:
        _warn("%s is no setting, and is not used" % name)
    if not is_private and path and chosen.sources["user"].startswith(path + ", "):
        _warn("%s holds passwords, and others may read it: chmod 600 %s" % (path, path))
    return chosen


def _read(path: str, place: str) -> Tuple[str, bool]:
    """Return the text of the file, and whether only its owner may read it."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise ConfigError("--config", "cannot read %s: %s" % (path, reason), place) from exc
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError("--config", "%s is too long for a file of settings" % path, place)
    # What is no UTF-8 goes the way it goes on the command line.
    return data.decode("utf-8-sig", "surrogateescape"), not mode & stat.S_IRWXO


def _fill_standard_descriptors() -> None:
    """Open /dev/null where descriptor 0, 1 or 2 is closed.

    Else a client would get that number, and what anybody writes to "stderr".
    """
    try:
        while True:
            fd = os.open(os.devnull, os.O_RDWR)
            if fd > 2:
                os.close(fd)
                return
    except OSError:
        pass  # no /dev/null, or no descriptor: the start will tell


def _say(line: str) -> None:
    """Write *line* to stderr, at once; a closed stderr is no reason to end."""
    line = line.replace("\n", "\\n")  # in a file's name
    try:
        click.echo(line, err=True, color=False if os.environ.get("NO_COLOR") else None)
    except (OSError, ValueError, AttributeError):
        pass


def _warn(sentence: str) -> None:
    _say("%s %s" % (click.style("warning:", fg="yellow", bold=True), sentence))


def _fail(sentence: str) -> None:
    """Say why this is the end, and what to do next where that does not say it."""
    try:
        from minisocks.mistakes import explained  # a start that succeeds does without

        sentence = explained(sentence)
    except (ImportError, OSError, MemoryError):
        pass  # neither descriptor nor memory is left to read it
    _say("%s %s" % (click.style("minisocks:", fg="red", bold=True), sentence))


def _print(line: str) -> None:
    """Write *line* to stdout, in whatever that can show.

    Raises:
        OSError: it is closed, or full.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    click.echo(line.encode(encoding, "backslashreplace").decode(encoding))


class _Formatter(logging.Formatter):
    """Makes the time of a line from what it has made for the same second.

    That is a sixth of a log line, and under load there are thousands in a second.
    """

    _second = -1
    _text = ""

    def formatTime(self, record: logging.LogRecord, datefmt: Optional[str] = None) -> str:
        """Return it as ``2026-11-23 17:42:40,033``."""
        second = int(record.created)
        if second != self._second:
            self._text = super().formatTime(record, "%Y-%m-%d %H:%M:%S")
            self._second = second
        return "%s,%03d" % (self._text, record.msecs)


def _log_to_stderr(config: Config) -> None:
    # What no line shows need not be asked of the system for each.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.raiseExceptions = False  # a stderr that is gone would be told to stderr
    # Nor from which line of ours it comes; logging's HOWTO names this way.
    logging._srcfile = None
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(asctime)s %(name)s: %(message)s"))
    logger = logging.getLogger("minisocks")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if config.verbose else logging.INFO)
    if config.quiet:
        logging.getLogger("minisocks.access").setLevel(logging.WARNING)
