"""Texts of clients and others, escaped so that they are safe in logs and terminals.  Pure."""

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

#: Bytes of a name or user id that a line about a refusal shows, with the whole length.
MOST_TOLD = 64

#: Characters without a special meaning for a shell, a terminal or JSON, inside and outside quotes.
_PLAIN = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ._:@%+=,/-"
#: Characters that stay as they are in our own sentences.
_PLAIN_IN_SENTENCE = bytes(c for c in range(0x20, 0x7F) if c not in b"'\"\\$`")


def _escapes(plain: bytes) -> List[str]:
    texts = [repr(bytes((byte,)))[2:-1] for byte in range(256)]
    return [
        text if byte in plain or len(text) > 1 else "\\x%02x" % byte
        for byte, text in enumerate(texts)
    ]


_ESCAPES = _escapes(_PLAIN)
#: Quotes around names in a sentence become double quotes.
_IN_SENTENCE = _escapes(_PLAIN_IN_SENTENCE)
_IN_SENTENCE[ord("'")] = '"'


def _written(data: bytes, plain: bytes, escapes: List[str]) -> str:
    if not data.translate(None, plain):
        return data.decode("ascii")  # the usual case, in a tenth of the time
    return "".join([escapes[byte] for byte in data])


def escaped(data: Union[bytes, str]) -> str:
    r"""Return *data* as ASCII letters, digits and a few signs; other bytes become \xNN.

    Text is encoded in UTF-8 first.
    """
    return _written(encoded(data), _PLAIN, _ESCAPES)


def quoted(data: Union[bytes, str], most: Optional[int] = None) -> str:
    """Return *data* ``escaped``, in single quotes.

    All that a client sends passes here before it gets into a log, a message or a terminal.  More
    than *most* bytes are cut, and followed by the whole length: ``'aaaa'..255B``.
    """
    data = encoded(data)
    text = "'%s'" % escaped(data[:most])
    return text if most is None or len(data) <= most else "%s..%dB" % (text, len(data))


def sentence(text: str) -> str:
    """Return our own sentence in single quotes; ``quoted`` names in it get double quotes."""
    return "'%s'" % _written(encoded(text), _PLAIN_IN_SENTENCE, _IN_SENTENCE)


def shown(text: str) -> str:
    """Return *text* of any origin in one line without control characters.

    Printable characters of all languages stay; others are ``escaped``.
    """
    if text.isprintable():
        return text
    return "".join([c if c.isprintable() or c == "\t" else escaped(c) for c in text])


def as_json(data: Any, indent: Optional[int] = None) -> str:
    """Return *data* as JSON with its texts ``shown``, so that they are safe when decoded."""
    import json  # not for ``--ensure``, which reads settings every minute

    return json.dumps(shown_in(data), indent=indent)


def shown_in(data: Any) -> Any:
    """Return *data*, ready for JSON, with all its texts ``shown``."""
    if isinstance(data, str):
        return shown(data)
    if isinstance(data, dict):
        return {shown_in(name): shown_in(value) for name, value in data.items()}
    return [shown_in(one) for one in data] if isinstance(data, (list, tuple)) else data


def encoded(text: Union[bytes, str]) -> bytes:
    """Return the bytes of *text*; never raises."""
    if isinstance(text, bytes):
        return text
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a surrogate pair, made by a program
        return text.encode("utf-8", "backslashreplace")


def reason_of(exc: BaseException) -> str:
    """Return the reason in *exc*; of an ``OSError`` without number and file name."""
    return str(getattr(exc, "strerror", None) or exc)
