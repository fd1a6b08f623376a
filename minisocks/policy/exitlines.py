"""The language of exits: the lines of ``[exits]`` to exits.  Pure.

::

    NAME = direct [source ADDRESSES|same] [interface NAME] [mark N]
    NAME = URL [password @FILE] [isolate] [resolve here]
    NAME = PART, PART ...        a chain; a PART is one of these, or the name of another exit

A URL is ``SCHEME://[USER[:PASSWORD]@]HOST:PORT`` or ``SCHEME+unix:///PATH``; SCHEME is one of
socks5, socks5h, socks4, socks4a and http.  Each proxy of a chain (a hop) is reached through the
one before it.  The last hop looks names up, unless it is socks5 or socks4, or has ``resolve here``.
"""

import re
from typing import Callable, Dict, List, Mapping, NamedTuple, Sequence, Tuple

from minisocks.errors import ConfigError
from minisocks.guesses import closest
from minisocks.policy.exits import DIRECT, Exit, Hop
from minisocks.values import check_address, check_interface, is_port
from minisocks.wire import MAX_FIELD_BYTES, packed_ip

__all__ = ["check_exit", "name_of", "parse_exits", "shown", "with_files"]

OPTION = "--exit"

#: The default port of each scheme; 0: it has none, and the URL must have one.
PORTS = {"socks5": 1080, "socks5h": 1080, "socks4": 1080, "socks4a": 1080, "http": 0}

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,31}\Z")
_RESERVED = ("direct", "or", "via", "same")
_URL = re.compile(r"(?P<scheme>[A-Za-z0-9]+)(?P<unix>\+unix)?://(?P<rest>.*)\Z")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
#: Most proxies of one chain, so that exits of exits cannot grow without end.
MAX_HOPS = 255
#: Most names that lead from one to the next before there is a hop.
MAX_NAMES = 64

_MANY_HOPS = "it has more than %d hops" % MAX_HOPS

_NO_PORT = (
    "%s: the URL needs a port from 1 to 65535 at its end; "
    "in user and password write a blank as %%20, a comma as %%2C"
)

#: Returns the text of a file, or raises ``ConfigError``.
ReadText = Callable[[str], str]


def name_of(text: str) -> str:
    """Return the name of the exit that the line *text* defines, unchecked."""
    return text.partition("=")[0].strip()


def check_exit(text: str) -> None:
    """Accept one line NAME = ..., without the exits and files that it names.

    Raises:
        ConfigError: it is not valid.  The message never repeats a URL, which may have a password.
    """
    _parse(text, lambda path: "x")


def parse_exits(texts: Sequence[str], read: ReadText) -> Dict[str, Exit]:
    """Return the exits that the lines *texts* define, by name.

    Raises:
        ConfigError: a line is not valid, or names an exit that is not there or contains itself.
            Also from *read*, which returns the text of a file with a password.
    """
    parsed: Dict[str, List[_Part]] = {}
    try:
        for text in texts:
            name, parts = _parse(text, read)
            if name in parsed:
                raise ConfigError(OPTION, "the exit %s is there twice" % name)
            parsed[name] = parts
    except ConfigError as exc:
        exc.index = len(parsed)
        raise
    return {name: _joined(name, parsed) for name in parsed}


class _Part(NamedTuple):
    """One part of a line: the name of another exit, or an exit of one hop or none."""

    refers_to: str
    exit: Exit


def _joined(name: str, parsed: Mapping[str, List[_Part]]) -> Exit:
    """Return the exit *name*, with the hops of the exits that it names."""
    found = Exit(name)
    for number, part in enumerate(_flat(name, parsed, ())):
        if part.has_egress or not part.hops:
            if number:
                raise _wrong(name, parsed, "direct is the first part of a chain")
            found = part._replace(name=name)
        found = found._replace(hops=found.hops + part.hops)
        if number and part.hops[0].path:
            why = "a unix socket is on this host, so only the first hop can have one"
            raise _wrong(name, parsed, why)
    if len(found.hops) > MAX_HOPS:
        raise _wrong(name, parsed, _MANY_HOPS)
    return found


def _flat(name: str, parsed: Mapping[str, List[_Part]], inside: Tuple[str, ...]) -> List[Exit]:
    """Return the parts of the exit *name*, those of others that it names included."""
    if name in inside:
        raise _wrong(name, parsed, "it is a part of itself")
    if len(inside) > MAX_NAMES:
        what = "it is %d names away from its hops: write fewer" % MAX_NAMES
        raise _wrong(inside[0], parsed, what)
    flat: List[Exit] = []
    for part in parsed[name]:
        if not part.refers_to:
            flat.append(part.exit)
        elif part.refers_to in parsed:
            flat += _flat(part.refers_to, parsed, (*inside, name))
        else:
            hint = closest(part.refers_to, parsed)
            raise _wrong(name, parsed, "no exit is called %s%s" % (part.refers_to, hint))
        if len(flat) > MAX_HOPS + 1:  # one may be direct
            raise _wrong(name, parsed, _MANY_HOPS)
    return flat


def _wrong(name: str, parsed: Mapping[str, List[_Part]], why: str) -> ConfigError:
    """Return the error of the exit *name*, which may be a part of another one."""
    error = ConfigError(OPTION, "%s: %s" % (name, why))
    error.index = list(parsed).index(name)
    return error


def _parse(text: str, read: ReadText) -> Tuple[str, List[_Part]]:
    name, equals, rest = text.partition("=")
    name = name.strip()
    if not equals or not rest.strip() or any(c in "/:@" for c in name):
        # The text is not repeated, because it may have a password.
        raise ConfigError(OPTION, "write NAME = URL, or NAME = direct source ADDRESS")
    _check_name(name)
    return name, [_part(part.split(), name, read) for part in rest.split(",")]


def _check_name(name: str) -> None:
    # Imported here, because the rules know the names of exits.
    from minisocks.policy.addresssets import SETS
    from minisocks.policy.rulelines import WORDS

    if not _NAME.match(name):
        what = "%.40r is no name of an exit: letters, digits, '-', '_' and '.', at most 32"
        raise ConfigError(OPTION, what % name)
    if name.lower() in (*_RESERVED, *SETS, *WORDS):
        what = "an exit cannot be called %s, which is a word of the rules: choose another name"
        raise ConfigError(OPTION, what % name)


def _part(words: List[str], name: str, read: ReadText) -> _Part:
    if not words:
        raise ConfigError(OPTION, "%s: there is nothing between two commas" % name)
    if "://" in words[0]:
        return _Part("", Exit(name, (_hop(words, name, read),)))
    if words[0].lower() == DIRECT:
        return _Part("", _direct(words[1:], name))
    if len(words) > 1 or not _NAME.match(words[0]):
        what = "%s: write a URL, direct, or the name of another exit; %s"
        raise ConfigError(OPTION, what % (name, "in URLs write blanks, commas, @ and % as %XX"))
    return _Part(words[0], Exit(name))


def _direct(words: List[str], name: str) -> Exit:
    found = Exit(name)
    left = list(words)
    while left:
        word = left.pop(0).lower()
        if word not in ("source", "interface", "mark"):
            hint = closest(word, ("source", "interface", "mark"))
            raise ConfigError(
                OPTION,
                "%s: direct takes source, interface and mark, not %.40r%s" % (name, word, hint),
            )
        if not left:
            raise ConfigError(OPTION, "%s: %s needs a value behind it" % (name, word))
        value = left.pop(0)
        try:
            if word == "interface":
                check_interface(value)
                found = found._replace(interface=value)
            elif word == "mark":
                found = found._replace(mark=_mark(value))
            elif value.lower() == "same":
                found = found._replace(has_client_source=True)
            else:
                values = [value] + [left.pop(0) for _ in left[:1] if packed_ip(left[0]) is not None]
                found = found._replace(sources=_sources(values))
        except ConfigError as exc:
            raise ConfigError(OPTION, "%s: %s" % (name, exc)) from None
    return found


def _sources(values: List[str]) -> Tuple[str, ...]:
    for value in values:
        check_address(OPTION, "one that this host has")(value)
    if len({":" in value for value in values}) < len(values):
        raise ConfigError(OPTION, "source takes at most one IPv4 and one IPv6 address")
    return tuple(values)


def _mark(text: str) -> int:
    try:
        mark = int(text, 16 if text.lower().startswith("0x") else 10)
    except ValueError:
        mark = -1
    if not 0 < mark < 2**32:
        raise ConfigError(OPTION, "%.40r is no mark: a whole number from 1" % text)
    return mark


def _hop(words: List[str], name: str, read: ReadText) -> Hop:
    hop = _url(words[0], name)
    left = words[1:]
    while left:
        word = left.pop(0).lower()
        if word == "password" and left and left[0].startswith("@"):
            if hop.password:
                raise ConfigError(OPTION, "%s has two passwords: in its URL and in a file" % name)
            path = left.pop(0)[1:]
            # The end of the line, as an editor adds it, is no part of the password.
            text = read(path)
            password = re.sub(r"\r?\n\Z", "", text)
            hop = hop._replace(password=password.encode("utf-8", "surrogateescape"))
        elif word == "password":
            raise ConfigError(
                OPTION, "%s: write the file of the password as: password @FILE" % name
            )
        elif word == "isolate":
            if not hop.scheme.startswith("socks5"):
                raise ConfigError(OPTION, "%s: isolate needs socks5h or socks5" % name)
            if hop.user:
                raise ConfigError(
                    OPTION, "%s: isolate logs in itself, so leave the user out" % name
                )
            hop = hop._replace(isolates=True)
        elif word == "resolve" and left and left[0].lower() == "here":
            left.pop(0)
            hop = hop._replace(resolves_here=True)
        else:
            # The word is not repeated, because it may be a part of a password.
            what = "%s: behind a URL stand password @FILE, isolate or resolve here; %s"
            raise ConfigError(OPTION, what % (name, "in the URL write a blank as %20"))
    return _checked(hop, name)


def _url(text: str, name: str) -> Hop:
    from urllib.parse import unquote, unquote_to_bytes  # for exits only

    found = _URL.match(text)
    scheme = found.group("scheme").lower() if found else ""
    if found is None or scheme not in PORTS:
        known = ", ".join("%s://" % one for one in PORTS)
        raise ConfigError(OPTION, "%s: the URL begins with none of %s" % (name, known))
    if "#" in text or _ESCAPE.search(text) or text.count("@") > 1:
        what = (
            "%s: in URLs write # as %%23, a comma as %%2C, @ as %%40, %% as %%25, a blank as %%20"
        )
        raise ConfigError(OPTION, what % name)
    login, _, place = found.group("rest").rpartition("@")
    user, _, password = login.partition(":")
    hop = Hop(scheme, "", 0, "", unquote_to_bytes(user), unquote_to_bytes(password))
    if found.group("unix"):
        path = unquote(place)
        if not path.startswith("/") or "\0" in path or path.endswith("/"):
            raise ConfigError(OPTION, "%s: write the path as %s+unix:///PATH" % (name, scheme))
        return hop._replace(path=path)
    place = place[:-1] if place.endswith("/") else place
    host, port = _place(place, name, PORTS[scheme])
    return hop._replace(host=unquote(host), port=port)


def _place(text: str, name: str, default: int) -> Tuple[str, int]:
    """Return host and port of HOST[:PORT] or [V6][:PORT]."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        is_sound = bool(bracket) and packed_ip(host.replace("%25", "%")) is not None and ":" in host
    else:
        host, colon, port = text.partition(":")
        rest = colon + port
        is_sound = bool(re.match(r"[A-Za-z0-9_.-]+\Z", host)) and ":" not in port
    if not is_sound:
        what = "%s: behind :// and the user write HOST:PORT or [V6]:PORT, and nothing more"
        raise ConfigError(OPTION, what % name)
    if not rest and default:
        return host, default
    if not rest.startswith(":") or not is_port(rest[1:]) or not int(rest[1:]):
        raise ConfigError(OPTION, _NO_PORT % name)
    return host, int(rest[1:])


def _checked(hop: Hop, name: str) -> Hop:
    """Return *hop* if its protocol can carry user and password."""
    for what, value in (("user", hop.user), ("password", hop.password)):
        if len(value) > MAX_FIELD_BYTES:
            raise ConfigError(OPTION, "%s: its %s is longer than 255 bytes" % (name, what))
    if hop.scheme.startswith("socks4"):
        if hop.password:
            raise ConfigError(OPTION, "%s: SOCKS4 has a user and no password" % name)
        if b"\0" in hop.user:
            raise ConfigError(OPTION, "%s: SOCKS4 cannot carry this user" % name)
    if hop.scheme == "http" and b":" in hop.user:
        raise ConfigError(OPTION, "%s: HTTP cannot carry a user with a colon" % name)
    if hop.password and not hop.user:
        raise ConfigError(OPTION, "%s has a password and no user: write USER@HOST" % name)
    return hop


def shown(text: str) -> str:
    """Return the line *text* without passwords."""
    return re.sub(r"(://[^\s,@:]*):[^\s,]*@", r"\1:...@", text)


def with_files(text: str, rename: Callable[[str], str]) -> str:
    """Return the line *text* with *rename* applied to the names of files with passwords."""
    return re.sub(r"(\spassword\s+@)([^\s,]+)", lambda m: m.group(1) + rename(m.group(2)), text)
