"""Tell what a client speaks that does not speak SOCKS, and what to answer it.

Most calls for help about proxies are a wrong setting in a browser.  Naming the
mistake, to the browser where it can show it and in the log where not, ends them.
"""

from typing import Generator

from minisocks.errors import NotSocks
from minisocks.protocol.stream import Stream

__all__ = ["sniff"]

#: Longest method of HTTP that is in use ("PROPPATCH", "BASELINE-CONTROL" is not).
_LONGEST_WORD = 10

_BALANCER = "a PROXY protocol header: the forwarder must not send one; see --forwarded"

_PAGE = b"""\
This is a SOCKS proxy, and it was spoken to in HTTP.

In the settings of the browser or program, put this host and port into the
field for a SOCKS proxy (SOCKS v5, or v4), not into the one for an HTTP proxy.

  Firefox   Settings, Network Settings, Manual: fill in "SOCKS Host" only,
            and tick "Proxy DNS when using SOCKS v5"
  Chromium  chromium --proxy-server=socks5://HOST:PORT
  curl      curl --proxy socks5h://HOST:PORT https://example.org/
"""

HTTP_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: %d\r\n"
    b"Connection: close\r\n"
    b"\r\n"
    b"%s"
) % (len(_PAGE), _PAGE)


def sniff(first: int, stream: Stream) -> Generator[None, None, NotSocks]:
    """Return (not raise) the error for a stream whose first byte is no VER.

    Reads a word of capital letters at most, so it never waits for more than
    the request line of HTTP has to have.
    """
    if first == 0x16:
        return NotSocks("TLS instead of SOCKS: the client takes this for an HTTPS proxy or server")
    if first == 0x0D:
        return NotSocks("not SOCKS: the first byte is 0x0d; it may be " + _BALANCER)
    word = bytearray()
    byte = first
    while 0x41 <= byte <= 0x5A and len(word) < _LONGEST_WORD:
        word.append(byte)
        (byte,) = yield from stream.read_exact(1)
    if word == b"PROXY" and byte == 0x20:
        return NotSocks(_BALANCER)
    if word and byte == 0x20:
        return NotSocks(
            "HTTP instead of SOCKS: the client takes this for an HTTP proxy", HTTP_ANSWER
        )
    if word == b"SSH":
        return NotSocks("SSH instead of SOCKS: is this the port that was meant?")
    return NotSocks("not SOCKS: the first byte is 0x%02x" % first)
