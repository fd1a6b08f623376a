"""What others say, written so that no reader of a log or a terminal trips over it.  Pure."""

from typing import Any, List, Optional, Union

__all__ = [
    "MOST_TOLD",
    "as_json",
    "encoded",
    "escaped",
    "quoted",
    "reason_of",
    "sentence",
    "shown",
    "shown_in",
]

#: Of a name or a user id, a line about a refusal tells so many bytes, and the whole length.
MOST_TOLD = 64

#: What no reader of a log takes for more than itself, inside quotes and outside of them:
#: neither a shell, nor a terminal, nor a JSON reader.
_PLAIN = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ._:@%+=,/-"
#: And what may be in a sentence of ours.
_PLAIN_IN_SENTENCE = bytes(c for c in range(0x20, 0x7F) if c not in b"'\"\\$`")


def _escapes(plain: bytes) -> List[str]:
    texts = [repr(bytes((byte,)))[2:-1] for byte in range(256)]
    return [
        text if byte in plain or len(text) > 1 else "\\x%02x" % byte
        for byte, text in enumerate(texts)
    ]


_ESCAPES = _escapes(_PLAIN)
#: The names that a sentence mentions stand in quotes, which remain to be seen.
_IN_SENTENCE = _escapes(_PLAIN_IN_SENTENCE)
_IN_SENTENCE[ord("'")] = '"'


def _written(data: bytes, plain: bytes, escapes: List[str]) -> str:
    if not data.translate(None, plain):
        return data.decode("ascii")  # nearly always, and a tenth of the time
    return "".join([escapes[byte] for byte in data])


def escaped(data: Union[bytes, str]) -> str:
    r"""Return what a client says as ASCII letters, digits and a few signs: the rest is \xNN.

    Of text, its UTF-8 is.
    """
    return _written(encoded(data), _PLAIN, _ESCAPES)


def quoted(data: Union[bytes, str], most: Optional[int] = None) -> str:
    """Return what a client says ``escaped``, in single quotes: safe in a line whatever it is.

    The one way for it into a log, a message or onto a terminal.  What is longer than *most*
    bytes is cut, and its whole length is behind the quotes: ``'aaaa'..255B``.
    """
    data = encoded(data)
    text = "'%s'" % escaped(data[:most])
    return text if most is None or len(data) <= most else "%s..%dB" % (text, len(data))


def sentence(text: str) -> str:
    """Return a sentence of ours in single quotes; names in it, which are ``quoted``, in double."""
    return "'%s'" % _written(encoded(text), _PLAIN_IN_SENTENCE, _IN_SENTENCE)


def shown(text: str) -> str:
    """Return *text*, which others may have written, in one line that moves no cursor.

    What can be seen stays as it is, in any language; the rest is written as in ``escaped``.
    """
    if text.isprintable():
        return text
    return "".join([c if c.isprintable() or c == "\t" else escaped(c) for c in text])


def as_json(data: Any, indent: Optional[int] = None) -> str:
    """Return *data* as JSON whose texts are ``shown``: what they are decoded to is safe, too."""
    import json  # not for ``--ensure``, which reads settings every minute

    return json.dumps(shown_in(data), indent=indent)


def shown_in(data: Any) -> Any:
    """Return *data*, as JSON has it, with all texts in it ``shown``."""
    if isinstance(data, str):
        return shown(data)
    if isinstance(data, dict):
        return {shown_in(name): shown_in(value) for name, value in data.items()}
    return [shown_in(one) for one in data] if isinstance(data, (list, tuple)) else data


def encoded(text: Union[bytes, str]) -> bytes:
    """Return the bytes that *text* stands for, whatever is in it."""
    if isinstance(text, bytes):
        return text
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a character, which some program has made up
        return text.encode("utf-8", "backslashreplace")


def reason_of(exc: BaseException) -> str:
    """Return what *exc* says is wrong: of an ``OSError`` that alone, without number and file."""
    return str(getattr(exc, "strerror", None) or exc)
