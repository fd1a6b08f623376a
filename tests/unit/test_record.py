"""The access log: one line that answers "why", and that no client can forge."""

import ast
import logging
import re
import socket
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.support import log_kept
from minisocks.config.settings import Config
from minisocks.errors import NotSocks
from minisocks.policy.client import Client
from minisocks.protocol.handshake import Request
from minisocks.record import Record
from minisocks.server.services import Services
from minisocks.server.session import Session
from minisocks.wire import Address, Atyp, Cmd, Rep

# KEY=VALUE, the value bare or a string literal, with its length if it is cut; dst has a port.
_FIELD = re.compile(
    r"""([a-z]+)=((?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")(?:\.\.\d+B)?(?::\d+)?|[^\s'"]+)(?: |\Z)"""
)


def fields(line):
    """Take a line apart as a reader would that trusts only what is outside quotes."""
    found, place = [], 0
    while place < len(line):
        match = _FIELD.match(line, place)
        assert match, "cannot be read from here: %r" % line[place:]
        found.append(match.groups())
        place = match.end()
    return found


def unquoted(literal):
    """Return the bytes that a quoted value stands for."""
    return ast.literal_eval("b" + re.sub(r":\d+\Z", "", literal))


def request(host=b"a.example", atyp=Atyp.DOMAINNAME, ver=5, cmd=Cmd.CONNECT, userid=b""):
    return Request(ver, cmd, Address(host, 443, atyp), userid, None)


def record(
    request=None, user=None, rep=None, via=None, up=0, down=0, why="", peer=("10.0.0.7", 50122)
):
    made = Record(Client(peer))
    made.client.user = user
    made.request, made.rep, made.via, made.up, made.down = request, rep, via, up, down
    made.why = why
    return made


# What happened, how it ended, and the line from "client" on, without the seconds.
ENDS = [
    (
        record(request(), None, Rep.SUCCEEDED, "192.0.2.1", 5312, 918204),
        "client-fin",
        (
            "client=10.0.0.7:50122 ver=5 cmd=CONNECT dst='a.example':443 via=192.0.2.1 "
            "rep='succeeded' up=5312B down=918204B end=client-fin"
        ),
    ),
    (
        record(
            request(),
            b"ann",
            Rep.SUCCEEDED,
            "2001:db8::1",
            1,
            2,
            "",
            ("2001:db8::7", 1, 0, 0),
        ),
        "target-reset",
        (
            "client=[2001:db8::7]:1 user='ann' ver=5 cmd=CONNECT dst='a.example':443 "
            "via=2001:db8::1 rep='succeeded' up=1B down=2B end=target-reset"
        ),
    ),
    (
        record(
            request(b"127.0.0.1", Atyp.IPV4, 4, Cmd.CONNECT, b"root"),
            None,
            Rep.CONNECTION_REFUSED,
            why="127.0.0.1: refused",
        ),
        "refused",
        (
            "client=10.0.0.7:50122 ver=4 cmd=CONNECT dst=127.0.0.1:443 userid='root' "
            "rep='connection refused' end=refused why='127.0.0.1: refused'"
        ),
    ),
    (
        record(
            request(b"::1", Atyp.IPV6, 5, Cmd.UDP_ASSOCIATE),
            None,
            Rep.COMMAND_NOT_SUPPORTED,
            why="no",
        ),
        "refused",
        (
            "client=10.0.0.7:50122 ver=5 cmd=UDP_ASSOCIATE dst=[::1]:443 "
            "rep='command not supported' end=refused why='no'"
        ),
    ),
    (
        record(None, None, Rep.TTL_EXPIRED, why="too slow", peer=""),
        "refused",
        "client=unix rep='TTL expired' end=refused why='too slow'",
    ),
    (
        record(why=str(NotSocks("TLS instead of SOCKS"))),
        "not-socks",
        "client=10.0.0.7:50122 end=not-socks why='TLS instead of SOCKS'",
    ),
    (record(), "client-gone", "client=10.0.0.7:50122 end=client-gone"),
    (
        record(request(), None, Rep.SUCCEEDED, "192.0.2.1"),
        "shutdown",
        (
            "client=10.0.0.7:50122 ver=5 cmd=CONNECT dst='a.example':443 via=192.0.2.1 "
            "rep='succeeded' up=0B down=0B end=shutdown"
        ),
    ),
]


@pytest.mark.parametrize(
    "made, end, expected", ENDS, ids=["%s-%d" % (e[1], i) for i, e in enumerate(ENDS)]
)
def test_line_tells_the_story(access_log, made, end, expected):
    """Each kind of end has its line: client, request, route, outcome, bytes, reason."""
    made.finish(end)

    (line,) = access_log.lines
    assert re.match(r"id=%d client=" % made.id, line)
    assert re.search(r" secs=\d+\.\d{3} ", line)
    assert expected == re.sub(r"^id=\d+ | secs=[\d.]+", "", line)


NASTY = [
    b"a\nid=1 client=10.0.0.1 end=client-fin",
    b"a\r\nb",
    b"a' rep='succeeded",
    b'a" rep="succeeded',
    b"""a' b" c=d""",
    b"a\\' rep=succeeded \\",
    b"\0\x01\x1b[2J\x7f\x85",
    b"\xe2\x80\xae\xe2\x80\xa8\xff",
    b"%s%d%(name)s",
    b"x" * 255,
    bytes(range(1, 256)),
    b"",
]


def check_line(lines, nasty):
    """Log *nasty* in every place a client can fill, and read it back out of the line."""
    made = record(
        request(nasty, userid=nasty),
        nasty,
        Rep.NOT_ALLOWED,
        "192.0.2.1",
        why=nasty.decode("latin-1"),
    )
    made.finish("refused")
    line = lines.pop()
    found = fields(line)

    assert line.isprintable()
    expected = "id client user ver cmd dst userid via rep up down secs end why"
    if not nasty:  # what is empty is left out
        expected = expected.replace("userid ", "").replace(" why", "")
    assert expected == " ".join(key for key, _ in found)
    values = dict(found)
    assert {nasty} == {unquoted(values[key]) for key in ("user", "dst", "userid") if key in values}
    # In a sentence of ours quotes are double ones, so that those around it always are single.
    why = nasty.decode("latin-1").replace("'", '"').encode()
    assert why == (unquoted(values["why"]) if nasty else b"")
    assert not set("$`") & set(line)


@pytest.mark.parametrize("nasty", NASTY)
def test_nothing_a_client_says_can_forge_a_line(access_log, nasty):
    """Names, users and user ids stay inside their quotes, printable and on their line."""
    check_line(access_log.lines, nasty)


@pytest.fixture(scope="module")
def lines():
    """The lines of the access log, for hypothesis, which wants no fixture per test."""
    with log_kept() as kept:
        yield kept.lines


@settings(deadline=None)
@given(nasty=st.binary(min_size=1, max_size=60))
def test_no_bytes_at_all_can_forge_a_line(lines, nasty):
    """Any bytes come out of the line as they went in, and add nothing to it."""
    check_line(lines, nasty)


LONG = b"n\xff" * 127
CUT = "'%s'..254B" % ("n\\xff" * 32)


def test_a_refusal_tells_64_bytes_of_a_name_and_its_length():
    """No client fills a disk; a reader can tell that the name is cut, and of how much."""
    made = record(request(LONG, userid=LONG), LONG, Rep.NOT_ALLOWED)

    assert [CUT, CUT + ":443", CUT] == [
        value for key, value in fields(str(made)) if key in ("user", "dst", "userid")
    ]
    data = made.as_data()
    for name in ("host", "user", "userid"):
        assert ("n\\xff" * 32, 254) == (data[name], data[name + "_bytes"])
    assert len(str(made)) < 1000


def test_what_was_granted_is_logged_whole():
    """It can be proved later which name it was."""
    made = record(request(LONG, userid=LONG), LONG, Rep.SUCCEEDED, "192.0.2.1")

    values = dict(fields(str(made)))
    assert {LONG} == {unquoted(values[key]) for key in ("user", "dst", "userid")}
    data = made.as_data()
    assert {"n\\xff" * 127} == {data[key] for key in ("user", "host", "userid")}
    assert not [key for key in data if key.endswith("_bytes")]


def test_no_error_s_sentence_tells_more_of_a_name():
    """The reason of a refusal quotes names, too."""
    from minisocks.errors import DialError
    from minisocks.net.lookup import look_up

    def nothing(*args):
        raise OSError(1, "no")

    with pytest.raises(DialError) as caught:
        look_up(nothing, b"x" * 255, 1)
    assert "'%s'..255B cannot be resolved" % ("x" * 64) in str(caught.value)
    assert "%s:1" % ("'%s'..255B" % ("x" * 64)) == str(Address(b"x" * 255, 1, Atyp.DOMAINNAME))


def test_no_line_is_made_that_is_not_logged(access_log):
    """With the access log turned down (-qq), nothing is written."""
    logging.getLogger("minisocks.access").setLevel(logging.WARNING)

    record(request()).finish("client-fin")

    assert [] == access_log.lines


def test_what_went_well_can_be_turned_down_alone(access_log):
    """With -q a refusal, and what a limit has ended, still have their lines."""
    level = logging.getLogger("minisocks.access.granted").level
    logging.getLogger("minisocks.access.granted").setLevel(logging.WARNING)
    try:
        for end, via in (
            ("client-fin", "192.0.2.1"),
            ("refused", None),
            ("memory-limit", "192.0.2.1"),
            ("client-gone", None),
        ):
            ended = record(request())
            ended.via = via
            ended.finish(end)
    finally:
        logging.getLogger("minisocks.access.granted").setLevel(level)

    assert ["refused", "memory-limit", "client-gone"] == [
        line.split("end=")[1] for line in access_log.lines
    ]


def test_each_record_has_its_own_number():
    """One number finds one connection of a proxy; another proxy counts for itself."""
    for _ in range(2):
        services = Services(Config())
        with socket.socket() as sock:
            server = types.SimpleNamespace(services=services, client_of=Client, is_forwarded=False)
            made = [Session(server, sock, ("127.0.0.1", 4242)).record.id for _ in range(3)]
        services.loop.stop()
        assert [1, 2, 3] == made
