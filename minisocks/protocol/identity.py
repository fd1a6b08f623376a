"""Query and answer of the Identification Protocol (RFC 1413).

::

    query    client port , our port CR LF
    answer   ports : USERID : OPSYS [, CHARSET] : user id CR LF
             ports : ERROR : reason CR LF

The answer is a hint (section 6): it is as trustworthy as the host of the client.
"""

from typing import Optional

from minisocks.errors import IdentMismatch
from minisocks.quoting import MOST_TOLD, quoted

__all__ = ["MAX_LINE_BYTES", "check_user_id", "encode_query", "first_line"]

#: "Clients should feel free to abort a connection if they receive 1000 characters without
#: receiving an <EOL>" (section 6, note 2).  A user id may have 512 of them.
MAX_LINE_BYTES = 1000
_BLANK = b" \t"


def encode_query(client_port: int, our_port: int) -> bytes:
    """Return the query for the user of the connection from *client_port* to *our_port*."""
    return b"%d, %d\r\n" % (client_port, our_port)


def first_line(data: bytes) -> Optional[bytes]:
    """Return the first line of *data* without its line end; None: it is not complete yet.

    Raises:
        IdentMismatch: it is too long.
    """
    end = data.find(b"\n", 0, MAX_LINE_BYTES)
    if end < 0:
        if len(data) >= MAX_LINE_BYTES:
            raise IdentMismatch("its identd answers more than %d bytes" % MAX_LINE_BYTES)
        return None
    line = data[:end]
    return line[:-1] if line.endswith(b"\r") else line


def check_user_id(line: bytes, client_port: int, our_port: int, userid: bytes) -> None:
    """Check that *line* names *userid* as the user of the connection.

    Octets are compared, whatever the character set (section 6, note 4), because a codec must not
    be chosen by a name from the network.  Blanks around the user id are ignored.

    Raises:
        IdentMismatch: the line has anything else.
    """
    fields = line.split(b":", 3)
    kind = fields[1].strip(_BLANK).upper() if len(fields) > 1 else b""
    if kind not in (b"USERID", b"ERROR") or len(fields) < (4 if kind == b"USERID" else 3):
        raise IdentMismatch("its identd answers %s" % quoted(line[:MOST_TOLD]))
    ports = [_number(text) for text in fields[0].split(b",")]
    if ports != [client_port, our_port]:
        what = quoted(fields[0][:MOST_TOLD])
        raise IdentMismatch("its identd answers about other ports: %s" % what)
    if kind == b"ERROR":
        what = quoted(fields[2].strip(_BLANK)[:MOST_TOLD])
        raise IdentMismatch("its identd does not name its user: %s" % what)
    said = fields[3]
    if userid not in (said, said.strip(_BLANK)) or not userid:
        told = quoted(userid, MOST_TOLD), quoted(said.strip(_BLANK)[:MOST_TOLD])
        raise IdentMismatch("it says that it is %s, its identd says %s" % told)


def _number(text: bytes) -> int:
    """Return a port, or -1 if *text* is none."""
    text = text.strip(_BLANK)
    return int(text) if text.isdigit() and len(text) <= 5 else -1
