"""Shell completion: the function of a shell, and the words by which a line may go on."""

import os
from typing import Dict, Sequence

import click

from minisocks.config.settings import CONFIG_FILE, SETTINGS
from minisocks.errors import ConfigError, MinisocksError

__all__ = ["complete"]


def complete(
    variable: str, options: Sequence[click.Parameter], commands: Dict[str, click.Command]
) -> None:
    """Print what the environment's *variable* asks for; other variables have the line.

    *options* are those of the start.

    Raises:
        ConfigError: click does not know what is asked for, or there is no line.
        MinisocksError: click is too old.
    """
    try:
        from click.shell_completion import shell_complete
    except ImportError:
        why = "completion needs click 8.0, and the single file has an older one: install minisocks"
        raise MinisocksError(why) from None
    start = click.Group("minisocks", commands=commands, params=[*options], add_help_option=False)
    files = {setting.name for setting in (CONFIG_FILE, *SETTINGS) if setting.metavar == "FILE"}
    for command in (start, *commands.values()):
        for parameter in command.params:
            if parameter.name in files:
                parameter.type = click.Path()  # then the shell completes it as a path
    wanted = os.environ[variable]
    try:
        status = shell_complete(start, {}, "minisocks", variable, wanted)
    except (LookupError, ValueError):  # COMP_CWORD is missing, or no number
        why = "%.40r is for the function of a shell, which sets COMP_WORDS and COMP_CWORD" % wanted
        raise ConfigError(variable, why) from None
    if status:
        why = "%.40r is none of bash_source, zsh_source and fish_source" % wanted
        raise ConfigError(variable, why)
