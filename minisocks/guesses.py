"""Guesses what a wrong word means: a mistyped name, or a word of another proxy.  Pure."""

from typing import Iterable

__all__ = ["OPENING", "OTHER_WORDS", "closest", "resembled"]

#: Settings that admit more clients.  No guess names one, because a wrong guess would be followed.
OPENING = ("allow-lan", "auth-once", "name-only", "open")

_LISTEN = "address and port to listen on are one option: -l ADDRESS:PORT"
_USER = "name and password are one option, --user NAME:PASSWORD; or a line of --users-file"
_PARENT = "another proxy is --exit NAME=socks5h://HOST:PORT, and --rule 'allow via NAME' uses it"
_SERVE = "without a command it serves; --daemon has it do so in the background"

#: Options and commands of other proxies, and what to write here instead.
OTHER_WORDS = {
    **dict.fromkeys(("-p", "--port", "--listen-port", "-D", "--socks-port"), _LISTEN),
    **dict.fromkeys(("-i", "--ip", "--host", "--addr", "--address", "--bind"), _LISTEN),
    **dict.fromkeys(("-u", "--username", "--usr"), _USER),
    **dict.fromkeys(("-P", "--pass", "--passwd", "--password", "--pwd", "--auth"), _USER),
    **dict.fromkeys(("--parent", "--upstream", "--proxy", "--chain"), _PARENT),
    **dict.fromkeys(("--via", "-F", "-x"), _PARENT),
    **dict.fromkeys(("--background", "--fork"), "to go to the background, write --daemon"),
    **dict.fromkeys(("-f", "--conf", "--config-file"), "the file of settings is -c FILE"),
    **dict.fromkeys(("--log", "--logfile"), "the log goes to --log-file FILE, or to --syslog"),
    **dict.fromkeys(("-V", "version"), "write minisocks --version"),
    "--debug": "to see more in the log, write -v",
    **dict.fromkeys(("start", "run", "serve", "server"), _SERVE),
    "restart": "write minisocks stop, and then start it as before",
    "help": "write minisocks --help",
}


def resembled(word: str, known: Iterable[str]) -> str:
    """Return the one of *known* that *word* resembles, else ""."""
    import difflib  # for mistakes only

    # Dashes at the beginning do not count as a resemblance.
    names = {name.lstrip("-"): name for name in known}
    meant = difflib.get_close_matches(word.lstrip("-"), list(names), 1)
    return names[meant[0]] if meant else ""


def closest(word: str, known: Iterable[str], shape: str = "%s") -> str:
    """Return "; did you mean ...?" if one of *known* that is not ``OPENING`` resembles *word*.

    Else "".
    """
    meant = resembled(word, known)
    if not meant or meant.lstrip("-").replace("_", "-").lower() in OPENING:
        return ""
    return "; did you mean %s?" % (shape % meant)
