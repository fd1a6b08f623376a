"""The command line: options, exit codes, and where the log goes.

The only module that imports click, and the only one that adds log handlers.
"""

import logging
import os
import sys
import threading
from typing import Any, Callable, List, Optional

import click

from minisocks import __version__
from minisocks.errors import ConfigError
from minisocks.foreground import Signals
from minisocks.proxy import Proxy
from minisocks.settings import SETTINGS, Config, Setting, option_name

__all__ = ["main"]

EXIT_CANNOT_SERVE = 1
EXIT_WRONG_USAGE = 2

#: A handler or resolver needs little; the system's default of 8 MB a thread is
#: address space that small machines count.
STACK_BYTES = 256 * 1024

_TYPES = {"seconds": click.FLOAT, "count": click.INT, "texts": click.STRING}


class _Failure(Exception):
    """The end, in one sentence for people, with an exit status."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


def _option(setting: Setting) -> Callable[[Any], Any]:
    names = [option_name(setting.name)] + ([setting.short] if setting.short else [])
    if setting.kind == "flag":
        return click.option(*names, is_flag=True, default=None, help=setting.help)
    text = setting.help
    if setting.default:
        default = setting.default if setting.kind != "texts" else " ".join(setting.default)
        text += " [default: %s]" % (default if isinstance(default, str) else "%g" % default)
    return click.option(
        *names,
        type=_TYPES[setting.kind],
        multiple=setting.kind == "texts",
        metavar=setting.metavar,
        help=text,
    )


def _with_options(function: Callable[..., None]) -> Callable[..., None]:
    for setting in reversed(SETTINGS):
        function = _option(setting)(function)
    return function


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@_with_options
@click.version_option(__version__, prog_name="minisocks")
def _serve(**given: Any) -> None:
    """Run a SOCKS4, SOCKS4a and SOCKS5 proxy until TERM or INT."""
    chosen = {name: value for name, value in given.items() if value not in (None, ())}
    config = Config()._replace(**chosen)
    try:
        proxy = Proxy(config)
    except ConfigError as exc:
        raise _Failure("%s: %s" % (exc.option, exc), EXIT_WRONG_USAGE) from exc
    _log_to_stderr(config)
    descriptors = _raise_descriptor_limit()
    threading.stack_size(STACK_BYTES)
    try:
        with Signals() as signals:
            proxy.start()
            for line in _announcement(proxy, descriptors):
                _say(line)
            signals.serve(proxy, config.grace)
    except (OSError, RuntimeError) as exc:  # no address, descriptor or thread to be had
        raise _Failure(getattr(exc, "strerror", None) or str(exc), EXIT_CANNOT_SERVE) from exc


def main(argv: Optional[List[str]] = None) -> int:
    """Run the command line; return the exit status."""
    _fill_standard_descriptors()
    try:
        # Not ``_serve.main``: on Python 3.6 that refuses to run in an ASCII
        # locale, which is what cron gives and nothing here minds.
        with _serve.make_context("minisocks", sys.argv[1:] if argv is None else argv) as context:
            _serve.invoke(context)
    except click.exceptions.Exit as exc:
        return int(exc.exit_code)
    except click.ClickException as exc:
        _say("minisocks: %s; see minisocks --help" % exc.format_message().rstrip("."))
        return EXIT_WRONG_USAGE
    except OSError as exc:
        # --help into a pipe that is closed, or a disk that is full.
        _say("minisocks: %s" % (exc.strerror or exc))
        return EXIT_CANNOT_SERVE
    except (KeyboardInterrupt, click.Abort):
        return 130  # Ctrl-C before it served
    except _Failure as exc:
        _say("minisocks: %s" % exc)
        return exc.status
    return 0


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
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass


def _log_to_stderr(config: Config) -> None:
    # What no line shows need not be asked of the system for each.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.raiseExceptions = False  # a stderr that is gone would be told to stderr
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    logger = logging.getLogger("minisocks")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if config.verbose else logging.INFO)
    if config.quiet:
        logging.getLogger("minisocks.access").setLevel(logging.WARNING)


def _raise_descriptor_limit() -> Optional[int]:
    """Raise the soft limit to the hard one; return it where there is one."""
    try:
        import resource
    except ImportError:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard
    except (OSError, ValueError):
        return soft


def _announcement(proxy: Proxy, descriptors: Optional[int]) -> List[str]:
    lines = ["listening on %s (SOCKS4, SOCKS4a, SOCKS5)" % address for address in proxy.addresses]
    lines.append("may come in: %s" % proxy.services.rules.describe())
    if descriptors is not None and descriptors > 0:  # -1 is "no limit"
        lines.append(
            "room for about %d connections (%d descriptors)"
            % ((descriptors - 32) // 2, descriptors)
        )
    lines.append("try it: %s" % _curl(proxy))
    return lines


def _curl(proxy: Proxy) -> str:
    user = "NAME:PASSWORD@" if proxy.config.user else ""
    for address in proxy.addresses:
        if not address.startswith("unix:"):
            for every, one in (("0.0.0.0:", "127.0.0.1:"), ("[::]:", "[::1]:")):
                if address.startswith(every):
                    address = one + address[len(every) :]
            return "curl --proxy socks5h://%s%s https://example.org/" % (user, address)
    return "curl --proxy socks5h://%slocalhost%s https://example.org/" % (
        user,
        proxy.addresses[0][5:],
    )
