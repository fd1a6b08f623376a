"""Settings from command line, environment, file and defaults, each with its source.

Pure: the caller has read the file and the environment.
"""

import contextlib
import re
from types import MappingProxyType
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Sequence, Tuple

from minisocks.config.inifile import SECTIONS, Entry, is_in_quotes, parse, unquoted
from minisocks.config.setting import Setting
from minisocks.config.settings import CONFIG_FILE, SETTINGS, Config
from minisocks.errors import ConfigError
from minisocks.guesses import closest, resembled
from minisocks.values import check_name_only, check_user

__all__ = ["Layered", "layered"]

_PREFIX = "MINISOCKS_"

#: Variables that Kubernetes makes in each pod for a Service whose name begins with minisocks, as
#: NAME=VALUE without the prefix.  With the value, because PORT=1080 was meant as a setting.
_OF_KUBERNETES = re.compile(
    r"""(\w+_)? (
        SERVICE_HOST = {ip} | SERVICE_PORT(_\w+)? = \d+ | PORT = {url}
        | PORT_\d+_(TCP|UDP|SCTP) ( = {url} | _PROTO = \w+ | _PORT = \d+ | _ADDR = {ip} )
    ) \Z""".format(ip=r"[\da-f.:]+", url=r"(tcp|udp|sctp)://[][\da-f.:]+"),
    re.X,
)


class Layered(NamedTuple):
    """The settings in force."""

    config: Config
    #: By name: where each comes from, in words.
    sources: Dict[str, str]
    #: Variables called MINISOCKS_... that are no settings and not made by Kubernetes.
    unknown: Tuple[str, ...]
    #: Warnings about the files.  They wait until the files have been understood, because for a
    #: file of another program their advice would be wrong.
    of_files: Tuple[str, ...] = ()
    #: By name, without those that have their default: the place of each value.
    places: Mapping[str, Sequence[str]] = MappingProxyType({})

    def placed(self, exc: ConfigError) -> ConfigError:
        """Return *exc* with the place of the value that it is about, if it has none yet."""
        for setting in SETTINGS:
            if setting.option == exc.option and setting.name in self.places and not exc.is_placed:
                places = self.places[setting.name]
                return exc.at(exc.option, places[min(exc.index, len(places) - 1)])
        return exc

    @contextlib.contextmanager
    def placing_errors(self) -> Iterator[None]:
        """Give each ``ConfigError`` of the body its place, as ``placed`` does."""
        try:
            yield
        except ConfigError as exc:
            raise self.placed(exc) from exc.__cause__


class _Found(NamedTuple):
    """One setting in one layer: the source in words, and each text with its place."""

    source: str
    texts: Sequence[Tuple[str, str]]


def layered(
    given: Mapping[str, Any],
    environ: Mapping[str, str],
    file: str = "",
    file_name: str = "",
    from_folder: Callable[[str], str] = str,
) -> Layered:
    """Return the settings of *given* (texts of the command line), else *environ*, else *file*.

    Of a setting that may be repeated, only the values of the highest layer that has it count.

    Args:
        file: the text of the file of settings.
        from_folder: returns where a path that the file names is; raises ``ValueError`` if it
            is not there.

    Raises:
        ConfigError: something cannot be used; its place is where that stands.
    """
    layers = [_from_file(file, file_name), _from_environment(environ), _from_command_line(given)]
    values: Dict[str, Any] = {}
    places: Dict[str, Sequence[str]] = {}
    sources = {setting.name: "default" for setting in SETTINGS}
    for layer in layers:
        for setting in SETTINGS:
            if setting.name in layer:
                # Also a layer whose value does not count, because a mistake in the file would
                # else appear only when a variable is unset.
                values[setting.name] = _value(setting, layer[setting.name])
                sources[setting.name] = layer[setting.name].source
                places[setting.name] = [place for _text, place in layer[setting.name].texts]
    config = Config()._replace(**values)
    for setting in SETTINGS:
        place = sources[setting.name]
        if place.startswith(file_name + ", "):
            try:
                config = config.with_files(from_folder, setting.name)
            except ValueError as exc:
                raise ConfigError(setting.option, str(exc), place) from None
    found = Layered(config, sources, _unknown(environ), places=places)
    with found.placing_errors():
        config.checked()
    return found


def _value(setting: Setting, found: _Found) -> Any:
    values = []
    for text, place in found.texts:
        if found.source != "command line":
            text = _meant(setting, text, place)
        if not text:
            raise ConfigError(setting.option, "has no value", place)
        try:
            value = setting.read(text)
        except ConfigError as exc:
            raise exc.at(setting.option, place) from None
        # A rule has its indentation until here, for the column in errors.
        values.append(value.strip() if setting.name == "rule" else value)
    return tuple(values) if setting.kind == "texts" else values[-1]


def _meant(setting: Setting, text: str, place: str) -> str:
    """Return the value that *text* means, which is the rest of a line.

    Raises:
        ConfigError: it ends with a blank that may belong to a password, or has the same quotes
            inside as around it.
    """
    meant = unquoted(text)
    if meant != text.strip():
        return meant  # it was in quotes
    if is_in_quotes(meant) and setting.name != "rule":
        ours, others = ("double", "single") if meant[0] == '"' else ("single", "double")
        what = "has %s quotes around it and inside it: write %s quotes around the whole value"
        raise ConfigError(setting.option, what % (ours, others), place)
    if setting.accept in (check_user, check_name_only) and meant != text.lstrip():
        raise ConfigError(
            setting.option,
            "ends with a space or tab: remove it, or, if it belongs to the value, write quotes "
            "around the whole value",
            place,
        )
    return text if setting.name == "rule" else meant


def _from_command_line(given: Mapping[str, Any]) -> Dict[str, _Found]:
    found = {}
    for setting in SETTINGS:
        value = given.get(setting.name)
        if value is None or value == ():
            continue
        if setting.kind == "flag":
            value = setting.shown(value)
        texts = value if setting.kind == "texts" else [value]
        found[setting.name] = _Found("command line", [(text, setting.option) for text in texts])
    return found


def _from_environment(environ: Mapping[str, str]) -> Dict[str, _Found]:
    found = {}
    for setting in SETTINGS:
        variable = setting.variable
        text = environ.get(variable, "")
        texts = text.split("\n") if setting.kind == "texts" else [text]
        # A carriage return before the end of a line comes from a file made on Windows.
        texts = [line[:-1] if line.endswith("\r") else line for line in texts if line.strip()]
        # Empty is unset, because shells and containers unset a variable so.
        if texts:
            found[setting.name] = _Found(variable, [(line, variable) for line in texts])
    return found


def _from_file(text: str, name: str) -> Dict[str, _Found]:
    known = {setting.key: setting for setting in SETTINGS}
    found: Dict[str, _Found] = {}
    for entry in parse(text, name):
        place = "%s, line %d" % (name, entry.line)
        if entry.section not in SECTIONS:
            known_sections = closest(entry.section, SECTIONS)
            raise ConfigError(
                "--config", "no section is called [%s]%s" % (entry.section, known_sections), place
            )
        setting = known.get(entry.key.replace("_", "-"))
        if setting is None:
            raise ConfigError("--config", _no_such_key(entry.key, known), place)
        if setting.name in found:
            raise ConfigError(setting.option, _again(setting), place)
        found[setting.name] = _Found(place, _texts(setting, entry, name, known))
    return found


def _texts(
    setting: Setting, entry: Entry, name: str, known: Mapping[str, Setting]
) -> List[Tuple[str, str]]:
    texts = [(text, "%s, line %d: %s" % (name, line, setting.key)) for line, text in entry.values]
    where = "%s, line %d: %s" % (name, entry.line, setting.key)
    for text, place in texts[1:]:
        if text.partition("=")[0].strip() in known:
            # The text is not repeated, because it may be a password.
            raise ConfigError(setting.option, "a key must not be indented", place)
    if not texts:
        raise ConfigError(setting.option, "has no value", where)
    if setting.kind != "texts" and len(texts) > 1:
        raise ConfigError(setting.option, "takes one value, not %d" % len(texts), where)
    return texts


def _no_such_key(key: str, known: Mapping[str, Setting]) -> str:
    if key.replace("_", "-") == CONFIG_FILE.key:
        return "a file cannot name another one"
    if key == "ensure":
        return _ENSURE
    if not re.match(r"[A-Za-z][\w-]{,40}\Z", key):
        # The key is not repeated, because it may be a password.
        return "this line is no KEY = VALUE; further values of the key above it are indented"
    return "no setting is called %r%s" % (key, closest(key.replace("_", "-").lower(), known))


_ENSURE = "ensure is no setting but an option of the command line: minisocks --ensure"


def _again(setting: Setting) -> str:
    if setting.kind == "texts":
        return "%s is there twice; write its values below each other, indented" % setting.key
    return "%s is there twice" % setting.key


def _unknown(environ: Mapping[str, str]) -> Tuple[str, ...]:
    """Return the variables called MINISOCKS_... that are no settings and not of Kubernetes.

    Raises:
        ConfigError: one resembles a setting, so it was probably meant to be one.
    """
    known = [setting.variable for setting in (CONFIG_FILE, *SETTINGS)]
    others = [name for name in sorted(environ) if name.startswith(_PREFIX)]
    others = [name for name in others if name not in known]
    size = len(_PREFIX)
    others = [n for n in others if not _OF_KUBERNETES.match(n[size:] + "=" + environ[n])]
    for name in others:
        if name == _PREFIX + "ENSURE":
            raise ConfigError("", _ENSURE, name)
        asked, there = name[size:], [variable[size:] for variable in known]
        if resembled(asked, there):
            meant = closest(asked, there, _PREFIX + "%s") or "; see minisocks --help"
            raise ConfigError("", "no setting is called so%s" % meant, name)
    return tuple(others)
