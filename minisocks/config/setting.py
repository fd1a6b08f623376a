"""One setting: how its values are spelled, read, checked and shown.  No click."""

from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple

from minisocks.config.rows import option_name
from minisocks.errors import ConfigError
from minisocks.policy.exitlines import check_exit
from minisocks.policy.exitlines import shown as without_passwords
from minisocks.values import check_user, read_bytes, shown_bytes, without_password

__all__ = ["Setting", "option_name"]

#: Values of a flag in the environment and in files.
_YES = ("1", "yes", "true", "on")
_NO = ("0", "no", "false", "off")
#: The same for a flag that is given twice.
_TWICE = ("2", "twice")


class Setting(NamedTuple):
    """One row of the table of settings.

    ``kind``: flag, seconds, count, bytes, ports (a range; "", written as none, is any), text, or
    texts (may be repeated).  Numbers go from ``least`` to ``most``.  A number whose default is
    None may be None, written as none: no limit, or a built-in one.  A text whose default is None
    is None until it is set.  A flag is True or False; if ``most`` is 2, it can be given twice and
    is 2.
    ``accept`` raises ``ConfigError`` for a text that cannot be used.  ``of_process``: not for a
    proxy in a program.  ``is_fixed``: a change needs a restart.
    """

    group: str
    name: str
    kind: str
    help: str
    metavar: str = ""
    short: str = ""
    least: float = 0
    most: float = 0
    accept: Optional[Callable[[str], Any]] = None
    of_process: bool = False
    is_fixed: bool = False
    #: The value if it is not set.
    default: Any = None

    @property
    def option(self) -> str:
        """How the command line spells it."""
        return option_name(self.name)

    @property
    def spelling(self) -> str:
        """The option with the name of its value, as the help shows it."""
        gap = "" if self.metavar.startswith("[") else " "
        return (self.option + gap + self.metavar).rstrip()

    @property
    def key(self) -> str:
        """How the ini file spells it."""
        return self.option[2:]

    @property
    def is_limit(self) -> bool:
        """Whether it may be None, which is no limit."""
        return self.default is None and self.kind in _NUMBERS

    @property
    def variable(self) -> str:
        """How the environment spells it."""
        return "MINISOCKS_" + self.name.upper()

    def read(self, text: str) -> Any:
        """Return the value of *text*; for ``texts``, one of them.

        Raises:
            ConfigError: it has no value, or one that cannot be used.
        """
        value: Any = text
        if self.kind == "flag":
            if self.most and text.lower() in _TWICE:
                return 2
            if text.lower() not in _YES + _NO:
                more = " nor twice" if self.most else ""
                raise ConfigError(self.option, "%r is neither yes nor no%s" % (text, more))
            return text.lower() in _YES
        if self.kind in _NUMBERS:
            if self.is_limit and text == "none":
                return None
            convert, wanted = _NUMBERS[self.kind]
            try:
                value = convert(text)
            except ValueError:
                raise ConfigError(self.option, "%.40r is no %s" % (text, wanted)) from None
        if self.kind == "ports" and text == "none":
            return ""
        self._check_one(value)
        return value

    def check(self, value: Any) -> None:
        """Check a value as ``Config`` has it.

        Raises:
            ConfigError: it cannot be used.
        """
        if self.kind == "texts":
            # No iterator, which would be empty when it is used.
            if not isinstance(value, tuple):
                wrong = type(value).__name__
                raise ConfigError(self.option, "takes several texts: a tuple, not %s" % wrong)
            for text in value:
                self._check_one(text)
        elif self.kind != "flag":
            self._check_one(value)
        elif not isinstance(value, bool) and not (self.most and value == self.most):
            # Not by truth, because the text "no" is true, and could admit clients.
            known = "True or False or 2" if self.most else "True or False"
            raise ConfigError(self.option, "takes %s, not %r" % (known, value))

    def shown(self, value: Any) -> str:
        """Return *value* (for ``texts``, one of them) as people write it, without passwords."""
        if self.kind == "flag":
            return _TWICE[1] if value > 1 else "yes" if value else "no"
        if value is None:
            return "none"
        if self.kind in _NUMBERS:
            return self._shown_number(value)
        if not value:
            return "none"
        if self.accept is check_exit:
            return without_passwords(value)
        return without_password(value) if self.accept is check_user else str(value)

    def with_unit(self, value: Any) -> str:
        """Return *value* as ``shown``, with its unit if it is a time."""
        unit = " s" if self.kind == "seconds" and value is not None else ""
        return self.shown(value) + unit

    def _check_one(self, value: Any) -> None:
        if self.kind in _NUMBERS:
            if value is None and self.is_limit:
                return
            fits = (int, float) if self.kind == "seconds" else int
            if isinstance(value, bool) or not isinstance(value, fits):
                wanted = _NUMBERS[self.kind][1]
                raise ConfigError(self.option, "takes a %s, not %.40r" % (wanted, value))
            if not self.least <= value <= self.most:
                numbers = tuple(map(self._shown_number, (value, self.least, self.most)))
                raise ConfigError(self.option, "%s is out of range: %s to %s" % numbers)
        elif value is None and self.default is None:
            return
        elif not isinstance(value, str):
            raise ConfigError(self.option, "takes text, not %r" % type(value).__name__)
        elif self.accept is not None:
            self.accept(value)

    def _shown_number(self, value: float) -> str:
        if self.kind == "bytes" and 0 <= value < 10**18:
            return shown_bytes(int(value))
        # As people write it: 10 rather than 10.0, 1000000 rather than 1e+06.
        if isinstance(value, float) and value == value // 1 and abs(value) < 1e15:
            value = int(value)
        text = str(value)
        return text if len(text) <= 30 else text[:30] + "..."


def _whole(text: str) -> int:
    # Other programs write marks in hexadecimal.
    return int(text, 16 if text.lower().startswith("0x") else 10)


_NUMBERS: Dict[str, Tuple[Callable[[str], Any], str]] = {
    "seconds": (float, "number of seconds"),
    "count": (_whole, "whole number"),
    "bytes": (read_bytes, "number of bytes, as 500k, 1.5M or 64MiB"),
}
