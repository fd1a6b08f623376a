"""Write docs/rfc-matrix.rst: each sentence of the documents of SOCKS, and the tests that show it.

    python3 scripts/rfc_matrix.py

``SENTENCES`` has what the documents say, in their order and in fewer words; what is in quotation
marks is the document's own.  A test that shows a sentence has a marker with its section and text::

    @pytest.mark.rfc("RFC 1928 section 5", "ATYP 01: 4 octets; ATYP 04: 16 octets.")

A sentence without a test has the reason here instead.  The tests compare the page with this
list and with the markers.
"""

import ast
import glob
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGE = os.path.join(ROOT, "docs", "rfc-matrix.rst")

#: What stands in the list in front of the reason why a sentence has no test.
UNTESTED = "untested: "

SENTENCES = """
RFC 1928 sections 1 and 2:
    A layer between application and transport; no gateway for what is below, such as ICMP.
    Version 4 stays; version 5 adds UDP, authentication, names and IPv6.
    The note: numbers in diagrams are octets, a "Variable" has a length octet or a type.
RFC 1928 section 3:
    The service is conventionally on TCP port 1080.
    The client negotiates a method, authenticates, then sends a request.
    The server evaluates the request, and establishes the connection or denies it.
    VER is 05, NMETHODS says how many octets METHODS has, 1 to 255.
    The server selects one of METHODS, and says which.
    FF: none is acceptable, "the client MUST close the connection".
    METHOD 00, no authentication; 02, user name and password.
    METHOD 01, GSSAPI: "compliant implementations MUST support" it.
    METHOD 03 to 7F are IANA's, 80 to FE private.
    Implementations "SHOULD support USERNAME/PASSWORD".
    Client and server enter the method's own sub-negotiation.
    Developers of methods contact IANA.
RFC 1928 section 4:
    If the method encapsulates, requests MUST be encapsulated.
    VER 05, CMD, RSV 00, ATYP, DST.ADDR, DST.PORT in network octet order.
    CMD: 01 CONNECT, 02 BIND, 03 UDP ASSOCIATE.
    The server evaluates the request by source and destination, and sends one reply or more.
RFC 1928 section 5:
    ATYP 01: 4 octets; ATYP 04: 16 octets.
    ATYP 03: an octet with the length, then a fully-qualified domain name.
    There is no terminating NUL.
    Another ATYP is not defined.
RFC 1928 section 6:
    The client sends its request as soon as the negotiation is over.
    VER 05, REP, RSV, ATYP, BND.ADDR, BND.PORT in network octet order.
    Fields marked RSV "must be set to X'00'".
    REP 00: succeeded.
    REP 01: general SOCKS server failure.
    REP 02: connection not allowed by ruleset.
    REP 03: network unreachable.
    REP 04: host unreachable.
    REP 05: connection refused.
    REP 06: TTL expired.
    REP 07: command not supported.
    REP 08: address type not supported.
    REP 09 to FF: unassigned.
    If the method encapsulates, replies are encapsulated.
RFC 1928 section 6, CONNECT:
    BND.ADDR and BND.PORT: what the server assigned to connect to the target.
    The server is expected to use DST, and the client's address and port, in evaluating it.
RFC 1928 section 6, BIND:
    It is expected after a primary connection, and for secondary ones only.
    The server is expected to use DST.ADDR and DST.PORT in evaluating it.
    DST.ADDR may be a name, or unknown.
    The first reply is sent once a new socket is bound.
    In it, BND.PORT and BND.ADDR: where the server listens.
    The second reply comes only when the connection has come, or has failed.
    In it, BND.ADDR and BND.PORT: those of the connecting host.
RFC 1928 section 6, UDP ASSOCIATE:
    DST: the address and port that the client expects to send from; zeros if it does not know.
    The server MAY use that to limit access.
    The association terminates when its TCP connection does.
    BND.ADDR and BND.PORT: where the client MUST send its datagrams.
RFC 1928 section 6, Reply processing:
    After a failure the server MUST terminate the TCP connection shortly.
    No more than 10 seconds after detecting what caused the failure.
    After a success of BIND or CONNECT the client may start passing data.
    If the method encapsulates, data are encapsulated, by the server as well.
RFC 1928 section 7:
    A client MUST send to the relay at BND.PORT.
    If the method encapsulates, datagrams MUST be encapsulated.
    Each datagram has a header: RSV 0000, FRAG, ATYP, DST.ADDR, DST.PORT, then DATA.
    DST.ADDR is IPv4, IPv6 or a name.
    A relay that relays, or drops what it cannot or will not relay, does so silently.
    A datagram from a remote host MUST be encapsulated in that header.
    The relay MUST acquire the expected IP address of the client.
    It MUST drop any datagrams from another source address.
    FRAG 00: standalone; 1 to 127: the place in a sequence; the high bit: the last one.
    Each receiver has a reassembly queue and a timer.
    The queue must be abandoned when the timer expires.
    And when a FRAG comes that is less than the highest so far.
    The timer MUST be no less than 5 seconds.
    Applications should avoid fragmentation.
    Fragmentation is optional; without it FRAG other than 00 MUST be dropped.
    A client's programming interface MUST report less buffer space: 10, 262 or 20 octets.
RFC 1928 section 8:
    Security depends on the methods; the administrator should choose them with care.
RFC 1929 section 1:
    The client chooses this by METHOD 02.
RFC 1929 section 2:
    The sub-negotiation begins when the server has selected 02.
    VER 01: the version of this sub-negotiation.
    ULEN, then UNAME, 1 to 255 octets; PLEN, then PASSWD, 1 to 255 octets.
    UNAME is the name known to the source operating system, PASSWD goes with it.
    The server verifies them, and answers with VER and STATUS.
    STATUS 00 is success.
    Another STATUS is a failure, and the server MUST close the connection.
RFC 1929 section 3:
    The password is carried in cleartext: not where "sniffing" is possible and practical.
RFC 1961:
    METHOD 01, which RFC 1928 says every implementation MUST have.
    Tokens, protection levels, encapsulation of TCP data and of datagrams.
SOCKS4, introduction:
    Access is controlled at the beginning of each session; then data is simply relayed.
    Two operations: CONNECT and BIND.
SOCKS4, CONNECT:
    VN 4, CD 1, DSTPORT, DSTIP, USERID, NULL.
    Granted by any combination of source, destination, port, USERID and what IDENT says.
    Passwords: the memo has none.
    The server connects to the port of the destination host.
    A reply is sent when that is established, rejected or has failed.
    VN "should be 0" in it.
    CD 90: granted.
    CD 91: rejected or failed.
    CD 92: the server cannot connect to identd on the client.
    CD 93: client program and identd report different user-ids.
    The remaining fields are ignored.
    The server closes immediately after telling of a failure.
    After a success traffic is relayed in both directions.
SOCKS4, BIND:
    "This should only happen after a primary connection" by CONNECT.
    VN 4, CD 2; DSTIP is the application server, DSTPORT that of the primary connection.
    The server decides by what the client has said.
    Granted: DSTPORT and DSTIP of the reply say where the server listens.
    DSTIP 0: the client should take the address that it is connected to.
    A second reply is sent when the connection from the application server is there.
    Its origin is checked against DSTIP.
    A mismatch: CD 91 in the second reply, and both connections are closed.
    A match: CD 90, and traffic is relayed.
SOCKS4, both:
    A time limit for the connection with the application server: 2 minutes at CSTC.
    When it expires, the server closes the connection to the client.
SOCKS4A:
    DSTIP 0.0.0.x with x not zero: a domain name and a NULL follow USERID's NULL.
    This is for CONNECT and BIND.
    A server must check DSTIP, and read in the domain name.
    It should resolve the name, and connect if it can.
    A server may pass names that it cannot resolve to the next-hop SOCKS server.
        untested: minisocks has no next hop; it connects to targets itself.
RFC 1413 sections 1 and 2:
    A server listens on TCP port 113.
    The server reads a line with the query, and answers; it may then close or read on.
    The server should close after 60 to 180 seconds without a query.
        untested: this is for identd; minisocks asks at once.
    The client may close at any time, but should wait at least 30 seconds after a query.
RFC 1413 section 3:
    The addresses of the query's connection are those of the connection in question.
RFC 1413 section 4:
    <port-on-server> , <port-on-client>: as seen from the ident server's host.
    The response begins with the same pair.
RFC 1413 section 5:
    USERID: an operating system, perhaps a character set, and an identification string.
    Any octet but NUL, LF and CR; spaces behind the colon are part of the string.
    ERROR: INVALID-PORT, NO-USER, HIDDEN-USER, UNKNOWN-ERROR, or one that begins with X.
    The server may drop the connection without a response: that means UNKNOWN-ERROR.
    Formal syntax: the query is the pair and CR LF.
    Note 1: be liberal with white space; it may be anywhere but within a token.
    Note 2: clients should feel free to abort after 1000 characters without an end of line.
    Note 3: a client MUST accept at least 512 octets of user ID.
    Notes 4 to 6: character sets; a string in an unknown one should be taken as octets.
RFC 1413 section 6:
    The information is as trustworthy as the host; it is no access control.
"""

#: The documents, each with its title in the page; sections begin with these words.
DOCUMENTS = (
    ("RFC 1928", "RFC 1928: SOCKS5"),
    ("RFC 1929", "RFC 1929: user name and password"),
    ("RFC 1961", "RFC 1961: GSSAPI"),
    ("SOCKS4A", 'The memo "SOCKS 4A: A Simple Extension to SOCKS 4 Protocol"'),
    ("SOCKS4", 'The memo "SOCKS: A protocol for TCP proxy across firewalls"'),
    ("RFC 1413", "RFC 1413: ident, the side of the client"),
)

_HEAD = """\
.. Made by "python3 scripts/rfc_matrix.py" from the markers of the tests; what is changed here
   is lost.

Sentences of the RFCs, and their tests
======================================

What the documents of SOCKS say, in fewer words; what is in quotation marks is the document's own.
Below each sentence are the tests that show what minisocks does about it; ``scripts/test NAME``
runs one.  Where minisocks does something else than the document says is in ``docs/protocol.rst``.
"""


def sentences(text=SENTENCES):
    """Return a list of (section, list of (sentence, why it has no test or ""))."""
    found = []
    for line in text.strip("\n").split("\n"):
        words = line.strip()
        depth = (len(line) - len(words)) // 4
        if depth == 0:
            found.append((words[:-1], []))
        elif depth == 1:
            found[-1][1].append((words, ""))
        else:
            found[-1][1][-1] = (found[-1][1][-1][0], words[len(UNTESTED) :])
    return found


def marks(node):
    """Return the (section, sentence) of each marker of a function."""
    calls = [one for one in node.decorator_list if isinstance(one, ast.Call)]
    return [
        tuple(ast.literal_eval(argument) for argument in call.args)
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "rfc"
    ]


def functions(tree):
    """Yield (name, node) of the functions of a module, those of a class as CLASS::NAME."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for one in node.body:
                if isinstance(one, ast.FunctionDef):
                    yield "%s::%s" % (node.name, one.name), one


def marked(root=ROOT):
    """Return the tests of each (section, sentence), as pytest names them, in their order."""
    found = {}
    pattern = os.path.join(root, "tests", "**", "*.py")
    for path in sorted(glob.glob(pattern, recursive=True)):
        with open(path, encoding="utf-8") as file:
            tree = ast.parse(file.read())
        for name, node in functions(tree):
            for mark in marks(node):
                test = "%s::%s" % (os.path.relpath(path, root).replace(os.sep, "/"), name)
                found.setdefault(mark, []).append(test)
    return found


def heading(title, line):
    """Return a heading in reStructuredText."""
    return "\n%s\n%s\n" % (title, line * len(title))


def page(tests, text=SENTENCES):
    """Return the page for *tests*, which is as ``marked`` returns it."""
    parts, document = [_HEAD], None
    for section, rows in sentences(text):
        key, title = next(one for one in DOCUMENTS if section.startswith(one[0]))
        if key != document:
            parts.append(heading(title, "-"))
            document = key
        name = section[len(key) :].lstrip(" ,")
        if name:
            parts.append(heading(name[0].upper() + name[1:], "~"))
        for sentence, reason in rows:
            named = ["| ``%s``" % test for test in tests.get((section, sentence), [])]
            body = named or ["No test: " + reason]
            parts.append("\n%s\n%s" % (sentence, "".join("    %s\n" % one for one in body)))
    return "".join(parts)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    with open(PAGE, "w", encoding="utf-8") as output:
        output.write(page(marked()))
