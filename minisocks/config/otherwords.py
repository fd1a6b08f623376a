"""What options and commands of other proxies are called here.  Pure data, for mistakes only."""

__all__ = ["OTHER_WORDS"]

_LISTEN = "address and port to listen on are one option: -l ADDRESS:PORT"
_USER = "name and password are one option, --user NAME:PASSWORD; or a line of --users-file"
_PARENT = "targets are dialed by this host itself, and never through another proxy"
_SERVE = "without a command it serves; --daemon has it do so in the background"

#: By the word: a clause that says what to write instead.
OTHER_WORDS = {
    **dict.fromkeys(("-p", "--port", "--listen-port", "-D", "--socks-port"), _LISTEN),
    **dict.fromkeys(("-i", "--ip", "--host", "--addr", "--address", "--bind"), _LISTEN),
    **dict.fromkeys(("-u", "--username", "--usr"), _USER),
    **dict.fromkeys(("-P", "--pass", "--passwd", "--password", "--pwd", "--auth"), _USER),
    **dict.fromkeys(("--parent", "--upstream", "--proxy", "--chain"), _PARENT),
    **dict.fromkeys(("--background", "--fork"), "to go to the background, write --daemon"),
    **dict.fromkeys(("-f", "--conf", "--config-file"), "the file of settings is -c FILE"),
    **dict.fromkeys(("--log", "--logfile"), "the log goes to --log-file FILE, or to --syslog"),
    **dict.fromkeys(("-V", "version"), "write minisocks --version"),
    "--debug": "to see more in the log, write -v",
    **dict.fromkeys(("start", "run", "serve", "server"), _SERVE),
    "restart": "write minisocks stop, and then start it as before",
    "help": "write minisocks --help",
}
