"""--ident: a SOCKS4 client's USERID is held against what its identd says (RFC 1413)."""

import contextlib
import socket
import threading

import pytest

from kit.bind_client import Waiting
from kit.identd import identd, says_line, says_user
from kit.support import (
    GRANTED4,
    GREETING,
    REJECTED4,
    Talk,
    closed_port,
    password_message,
    run_proxy,
    socks4,
    socks4a,
    socks5,
    wait_until,
)

NO_IDENTD4, MISMATCH4 = b"\x00\x5c" + bytes(6), b"\x00\x5d" + bytes(6)


def ask(proxy, target, userid=b"ann", source=None, host="127.0.0.1"):
    """Return the reply to a client that says it is *userid*."""
    with Talk.to(proxy.port, host, source) as talk:
        talk.send(socks4(target.host, target.port, userid))
        reply = talk.receive(8)
        if reply[:2] == GRANTED4:
            talk.send(b"works").expect(b"works")
        else:
            talk.expect_eof()
        return reply


@pytest.mark.rfc(
    "RFC 1413 section 4",
    "<port-on-server> , <port-on-client>: as seen from the ident server's host.",
)
@pytest.mark.rfc(
    "RFC 1413 section 5",
    "USERID: an operating system, perhaps a character set, and an identification string.",
)
@pytest.mark.parametrize("request_", [socks4, socks4a])
def test_a_user_that_is_confirmed(monkeypatch, target, access_log, request_):
    """It is relayed, its early bytes too, and the log has it as the user."""
    host = "127.0.0.1" if request_ is socks4 else b"127.0.0.1"
    with identd(monkeypatch, says_user(b"ann")) as server, run_proxy(ident=True) as proxy:
        with Talk.to(proxy.port) as talk:
            talk.send(request_(host, target.port, b"ann") + b"early")
            assert GRANTED4 == talk.receive(8)[:2]
            talk.expect(b"early").finish().expect_eof()
            ports = talk.sock.getsockname()[1], proxy.port
    assert [b"%d, %d\r\n" % ports] == server.asked, "the port on its own host comes first"
    line = access_log.wait_for("end=")
    assert " user='ann' ver=4 cmd=CONNECT " in line
    assert "userid='ann'" in line


@pytest.mark.rfc(
    "RFC 1413 section 3",
    "The addresses of the query's connection are those of the connection in question.",
)
def test_it_is_asked_from_the_address_that_the_client_has_reached(monkeypatch, target):
    """Only for that pair of addresses does the identd find the connection."""
    with identd(monkeypatch, says_user(b"ann"), "127.0.0.2") as server:
        with run_proxy(ident=True, listen="0.0.0.0:0") as proxy:
            assert GRANTED4 == ask(proxy, target, source=("127.0.0.2", 0), host="127.0.0.3")[:2]
    assert ["127.0.0.3"] == server.callers


def test_it_is_asked_by_ipv6(monkeypatch, target):
    """A client that has come by IPv6 is asked by IPv6."""
    with identd(monkeypatch, says_user(b"ann"), "::1") as server:
        with run_proxy(ident=True, listen="[::1]:0") as proxy:
            assert GRANTED4 == ask(proxy, target, host="::1")[:2]
    assert ["::1"] == server.callers


LONG = b"u" * 255
CONFIRMING = {
    "no blanks": (b"%d,%d:USERID:UNIX:ann\r\n", b"ann"),
    "many blanks": (b" %d\t,  %d \t: USERID\t :  UNIX : \t ann \t\r\n", b"ann"),
    "a bare LF": (b"%d , %d : USERID : UNIX : ann\n", b"ann"),
    "small letters": (b"%d , %d : userid : unix : ann\r\n", b"ann"),
    "a charset": (b"%d , %d : USERID : UNIX,US-ASCII : ann\r\n", b"ann"),
    "an unknown charset": (b"%d , %d : USERID : UNIX , X-none : ann\r\n", b"ann"),
    "an unknown opsys": (b"%d , %d : USERID : OTHER : ann\r\n", b"ann"),
    "octets": (b"%d , %d : USERID : UNIX,ISO-8859-1 : J\xfcrgen\r\n", b"J\xfcrgen"),
    "a colon": (b"%d , %d : USERID : UNIX : a:b : c\r\n", b"a:b : c"),
    "blanks that are its own": (b"%d , %d : USERID : UNIX: ann \r\n", b" ann "),
    "a long name": (b"%%d , %%d : USERID : UNIX : %s\r\n" % LONG, LONG),
    "a second line": (b"%d , %d : USERID : UNIX : ann\r\n1 , 2 : ERROR : NO-USER\r\n", b"ann"),
}


@pytest.mark.rfc(
    "RFC 1413 section 5",
    "USERID: an operating system, perhaps a character set, and an identification string.",
)
@pytest.mark.rfc("RFC 1413 section 5", "Formal syntax: the query is the pair and CR LF.")
@pytest.mark.parametrize("how", sorted(CONFIRMING))
def test_what_confirms(monkeypatch, target, how):
    """Any spelling of the answer will do; of two lines the first one counts."""
    text, userid = CONFIRMING[how]
    with identd(monkeypatch, says_line(text)), run_proxy(ident=True) as proxy:
        assert GRANTED4 == ask(proxy, target, userid)[:2]


DENYING = {
    "another": (
        b"%d , %d : USERID : UNIX : bob\r\n",
        "it says that it is 'ann', its identd says 'bob'",
    ),
    "another case": (b"%d , %d : USERID : UNIX : Ann\r\n", "its identd says 'Ann'"),
    "UTF-16": (b"%d , %d : USERID : UNIX,UTF-16 : a\0n\0n\0\r\n", "its identd says"),
    "nobody": (b"%d , %d : USERID : UNIX : \r\n", "its identd says ''"),
    "other ports": (b"1 , 2 : USERID : UNIX : ann\r\n", "answers about other ports: '1 , 2 '"),
    "the ports the wrong way round": (None, "answers about other ports"),
    "no ports": (b"a , b : USERID : UNIX : ann\r\n", "answers about other ports"),
    "a hidden user": (b"%d,%d : ERROR : HIDDEN-USER\r\n", "does not name its user: 'HIDDEN-USER'"),
    "no user": (b"%d , %d : ERROR : NO-USER\r\n", "does not name its user: 'NO-USER'"),
    "an error of its own": (b"%d,%d:ERROR:X-what:more\r\n", "does not name its user: 'X-what'"),
    "no such field": (b"%d , %d : USERID : UNIX\r\n", "its identd answers '"),
    "another kind": (b"%d , %d : WHAT : UNIX : ann\r\n", "its identd answers '"),
    "nothing": (b"\r\n", "its identd answers ''"),
    "HTTP": (b"HTTP/1.0 400 Bad Request\r\n\r\n", "its identd answers 'HTTP/1.0 400"),
    "10 KB": (b"%d , %d : USERID : UNIX : " + b"a" * 10240 + b"\r\n", "more than 1000 bytes"),
    "10 KB without an end": (b"x" * 10240, "more than 1000 bytes"),
    "half a line": (b"%d , %d : USERID : UNIX : ann", "hung up without an answer"),
    "no word": (b"", "hung up without an answer"),
    "the second line": (b"\r\n%d , %d : USERID : UNIX : ann\r\n", "its identd answers ''"),
}


def wrong_way_round(talk, theirs, ours):
    talk.send(b"%d , %d : USERID : UNIX : ann\r\n" % (ours, theirs))


@pytest.mark.rfc("SOCKS4, CONNECT", "CD 93: client program and identd report different user-ids.")
@pytest.mark.rfc("RFC 1413 section 4", "The response begins with the same pair.")
@pytest.mark.rfc(
    "RFC 1413 section 5",
    "USERID: an operating system, perhaps a character set, and an identification string.",
)
@pytest.mark.rfc(
    "RFC 1413 section 5",
    "ERROR: INVALID-PORT, NO-USER, HIDDEN-USER, UNKNOWN-ERROR, or one that begins with X.",
)
@pytest.mark.parametrize("how", sorted(DENYING))
def test_what_does_not_confirm(monkeypatch, target, access_log, how):
    """CD 93, and the log has the answer; nothing reaches the target."""
    text, why = DENYING[how]
    script = says_line(text) if text is not None else wrong_way_round
    with identd(monkeypatch, script), run_proxy(ident=True) as proxy:
        assert MISMATCH4 == ask(proxy, target)
    line = access_log.wait_for("end=refused")
    assert why in line.replace('"', "'")
    assert "user=" not in line.replace("userid=", "")
    assert len(line) < 400
    assert [] == target.talks


def test_a_client_without_a_userid(monkeypatch, target):
    """No USERID is another one than ann: 93."""
    for name in (b"ann", b"", b" "):
        with identd(monkeypatch, says_user(name)), run_proxy(ident=True) as proxy:
            assert MISMATCH4 == ask(proxy, target, b"")


@pytest.mark.rfc("SOCKS4, CONNECT", "CD 93: client program and identd report different user-ids.")
@pytest.mark.rfc(
    "RFC 1413 section 5",
    "The server may drop the connection without a response: that means UNKNOWN-ERROR.",
)
def test_an_identd_that_resets(monkeypatch, target):
    """CD 93, as after UNKNOWN-ERROR."""
    with identd(monkeypatch, lambda talk, *ports: talk.reset()), run_proxy(ident=True) as proxy:
        assert MISMATCH4 == ask(proxy, target)


@pytest.mark.rfc("SOCKS4, CONNECT", "CD 92: the server cannot connect to identd on the client.")
def test_no_identd(monkeypatch, target, access_log):
    """CD 92, and the log has the reason."""
    monkeypatch.setattr("minisocks.server.ident.IDENT_PORT", closed_port())
    with run_proxy(ident=True) as proxy:
        assert NO_IDENTD4 == ask(proxy, target)
    access_log.wait_for("end=refused why='no identd at 127.0.0.1: Connection refused'")


@pytest.mark.rfc("SOCKS4, CONNECT", "CD 92: the server cannot connect to identd on the client.")
@pytest.mark.rfc(
    "RFC 1413 sections 1 and 2",
    "The client may close at any time, but should wait at least 30 seconds after a query.",
)
@pytest.mark.parametrize("half", [b"", b"%d , %d : USERID :"])
def test_an_identd_that_hangs(monkeypatch, target, access_log, half):
    """CD 92 when its time is over, also after a part of an answer."""
    monkeypatch.setattr("minisocks.server.ident.SECONDS", 0.2)

    def script(talk, theirs, ours):
        talk.send(half % (theirs, ours) if half else b"")
        talk.rest()

    with identd(monkeypatch, script), run_proxy(ident=True) as proxy:
        assert NO_IDENTD4 == ask(proxy, target)
    access_log.wait_for("why='the identd at 127.0.0.1 did not answer in time'")


@pytest.mark.rfc(
    "RFC 1413 sections 1 and 2",
    "The client may close at any time, but should wait at least 30 seconds after a query.",
)
def test_an_identd_that_drips(monkeypatch, target):
    """An answer byte by byte counts, if it is whole in time; no byte prolongs that time."""

    def script(talk, theirs, ours):
        talk.send_bytewise(b"%d , %d : USERID : UNIX : ann\r\n" % (theirs, ours))

    with identd(monkeypatch, script), run_proxy(ident=True) as proxy:
        assert GRANTED4 == ask(proxy, target)[:2]

    def for_ever(talk, theirs, ours):
        with contextlib.suppress(OSError):
            while not server.is_over.wait(0.01):
                talk.send(b" ")

    monkeypatch.setattr("minisocks.server.ident.SECONDS", 0.3)
    with identd(monkeypatch, for_ever) as server, run_proxy(ident=True) as proxy:
        assert NO_IDENTD4 == ask(proxy, target)


def test_an_identd_that_cannot_be_reached(monkeypatch, target):
    """A host that does not answer at all: CD 92, when its time is over."""
    from kit.support import black_hole

    monkeypatch.setattr("minisocks.server.ident.SECONDS", 0.2)
    with black_hole() as port, run_proxy(ident=True) as proxy:
        monkeypatch.setattr("minisocks.server.ident.IDENT_PORT", port)
        assert NO_IDENTD4 == ask(proxy, target)


@pytest.mark.rfc(
    "SOCKS4, both",
    "A time limit for the connection with the application server: 2 minutes at CSTC.",
)
def test_what_it_takes_is_of_the_two_minutes(monkeypatch, target, access_log):
    """A dial of the target has only the rest of --connect-timeout."""
    from kit.support import black_hole

    def script(talk, theirs, ours):
        wait_until(lambda: True)
        release.wait()
        says_user(b"ann")(talk, theirs, ours)

    release = threading.Event()
    with identd(monkeypatch, script), run_proxy(ident=True, connect_timeout=0.1) as proxy:
        with black_hole() as hole, Talk.to(proxy.port) as talk:
            talk.send(socks4("127.0.0.1", hole, b"ann"))
            threading.Timer(0.2, release.set).start()
            talk.expect(REJECTED4).expect_eof()
            record = proxy.records[-1]
            assert record.user == "ann"
    access_log.wait_for("no answer in time")


@pytest.mark.rfc(
    "RFC 1413 section 6", "The information is as trustworthy as the host; it is no access control."
)
def test_other_clients_are_not_asked(monkeypatch, target):
    """SOCKS5 has passwords instead; and without --ident no identd is asked."""
    with identd(monkeypatch, says_user(b"bob")) as server:
        with run_proxy(ident=True) as proxy, Talk.to(proxy.port) as talk:
            assert 0 == talk.connect5("127.0.0.1", target.port)[0]
        with run_proxy() as proxy:
            assert GRANTED4 == ask(proxy, target)[:2]
        assert [] == server.asked


@pytest.mark.rfc("RFC 1413 sections 1 and 2", "A server listens on TCP port 113.")
def test_a_client_on_a_unix_socket(tmp_path, target):
    """It has no identd, so it gets CD 92."""
    path = str(tmp_path / "s")
    with run_proxy(ident=True, listen="unix:" + path), socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        Talk(sock).send(socks4("127.0.0.1", target.port, b"ann")).expect(NO_IDENTD4).expect_eof()


def test_a_bind_that_has_no_time_left_is_refused_at_once(monkeypatch, access_log):
    """Where the question took all of --bind-timeout, nothing listens."""
    release = threading.Event()

    def script(talk, theirs, ours):
        release.wait()
        says_user(b"ann")(talk, theirs, ours)

    with identd(monkeypatch, script), run_proxy(ident=True, bind_timeout=0.1) as proxy:
        threading.Timer(0.2, release.set).start()
        with Waiting(proxy.port, way="4") as client:
            assert (91, 0) == (client.rep, client.port)
    access_log.wait_for("why='asking its identd took the whole --connect-timeout'")


@pytest.mark.rfc("SOCKS4, BIND", "The server decides by what the client has said.")
def test_bind_is_asked_about_too(monkeypatch):
    """The question comes before anything listens."""
    with identd(monkeypatch, says_user(b"ann")), run_proxy(ident=True) as proxy:
        with Waiting(proxy.port, way="4") as client, client.peer() as peer:
            client.expect_peer(peer)
            client.expect_to_work(peer)
    with identd(monkeypatch, says_user(b"bob")), run_proxy(ident=True) as proxy:
        with Waiting(proxy.port, way="4a") as client:
            assert (93, "0.0.0.0", 0) == (client.rep, client.host, client.port)


def test_look_ups_are_asked_about_too(monkeypatch, access_log):
    """RESOLVE of Tor is judged as CONNECT, also before and behind the question."""
    rules = ("deny to bad.test", "allow user ann")
    with identd(monkeypatch, says_user(b"ann")) as server:
        with run_proxy(ident=True, rule=rules, resolve=lambda name: "127.0.0.1") as proxy:
            for name, userid, reply in (
                (b"good.test", b"ann", b"\x00\x5a\x00\x00\x7f\x00\x00\x01"),
                (b"good.test", b"bob", MISMATCH4),
                (b"bad.test", b"ann", b"\x00" + REJECTED4[1:]),
            ):
                with Talk.to(proxy.port) as talk:
                    assert reply == talk.send(socks4a(name, 0, userid, 0xF0)).rest()
    assert 2 == len(server.asked), "it is not asked about what no user may"
    assert " user='ann' ver=4 cmd=RESOLVE " in access_log.wait_for("id=1 ")


def test_a_reload_changes_it(monkeypatch, target):
    """The new setting holds for clients that come from then on."""
    with identd(monkeypatch, says_user(b"bob")), run_proxy() as proxy:
        assert GRANTED4 == ask(proxy, target)[:2]
        proxy.reload(proxy.config._replace(ident=True))
        assert MISMATCH4 == ask(proxy, target)
        proxy.reload(proxy.config._replace(ident=False))
        assert GRANTED4 == ask(proxy, target)[:2]


def test_a_client_that_leaves_meanwhile(monkeypatch, target, access_log):
    """A reset by the client ends the question, too."""
    with identd(monkeypatch, lambda talk, *ports: talk.rest()) as server:
        with run_proxy(ident=True) as proxy:
            with Talk.to(proxy.port) as talk:
                talk.send(socks4("127.0.0.1", target.port, b"ann"))
                wait_until(lambda: server.asked, "the question")
                talk.reset()
            access_log.wait_for("end=client-gone why='the client left while its identd was asked'")
            wait_until(lambda: not len(proxy), "the end of it")


def test_the_end_of_the_proxy_ends_it(monkeypatch, target):
    """No question goes on after the end."""
    with identd(monkeypatch, lambda talk, *ports: talk.rest()) as server:
        with run_proxy(ident=True) as proxy:
            talk = Talk.to(proxy.port)
            talk.send(socks4("127.0.0.1", target.port, b"ann"))
            wait_until(lambda: server.asked, "the question")
        with talk:
            talk.expect_eof()


def test_many_are_asked_about_at_once(monkeypatch, target):
    """No client waits for the identd of another."""
    release = threading.Event()

    def script(talk, theirs, ours):
        release.wait()
        says_user(b"ann")(talk, theirs, ours)

    with identd(monkeypatch, script) as server, run_proxy(ident=True, max_handshakes=400) as proxy:
        with contextlib.ExitStack() as stack:
            stack.callback(release.set)
            talks = [stack.enter_context(Talk.to(proxy.port)) for _ in range(100)]
            for talk in talks:
                talk.send(socks4("127.0.0.1", target.port, b"ann"))
            wait_until(lambda: len(server.asked) == 100, "100 questions")
            release.set()
            for talk in talks:
                assert GRANTED4 == talk.receive(8)[:2]


# Users, rules and limits


def test_a_question_is_a_pending_handshake_and_no_connection(monkeypatch, target, access_log):
    """With --max-handshakes questions, one more ends the oldest, whose client receives 91."""
    with identd(monkeypatch, lambda talk, *ports: talk.rest()) as server:
        settings = {"ident": True, "max_handshakes": 8, "max_connections": 1}
        with run_proxy(**settings) as proxy, contextlib.ExitStack() as stack:
            talks = []
            for count in range(1, 9):
                talks.append(stack.enter_context(Talk.to(proxy.port)))
                talks[-1].send(socks4("127.0.0.1", target.port, b"ann"))
                wait_until(lambda: len(server.asked) == count, "the questions")  # noqa: B023
            with Talk.to(proxy.port) as talk:
                assert 0 == talk.connect5("127.0.0.1", target.port)[0]
            talks[0].expect(REJECTED4).expect_eof()
            access_log.wait_for(
                "end=limit why='there are too many unfinished handshakes (--max-handshakes 8)'"
            )
            wait_until(lambda: proxy.stats().handshakes == 7, "the others")


def test_a_user_that_ident_confirms_has_its_limit(monkeypatch, target):
    """--max-per-user counts its connection from the answer on."""
    with identd(monkeypatch, says_user(b"ann")):
        with run_proxy(ident=True, max_per_user=1) as proxy, Talk.to(proxy.port) as talk:
            for _ in range(2):
                with Talk.to(proxy.port) as other:
                    other.send(socks4("127.0.0.1", target.port, b"ann"))
                    assert GRANTED4 == other.receive(8)[:2]
                wait_until(lambda: not len(proxy.services.connection_limits), "the end of it")
            talk.send(socks4("127.0.0.1", target.port, b"ann"))
            assert GRANTED4 == talk.receive(8)[:2]
            assert REJECTED4 == ask(proxy, target)
            wait_until(lambda: len(proxy.services.connection_limits) == 1, "one is left")


def test_a_client_that_may_not_come_in_is_not_asked_about(monkeypatch, target):
    """So no client can have the proxy connect to hosts that have no use for it."""
    with identd(monkeypatch, says_user(b"ann")) as server:
        with run_proxy(ident=True, rule=["allow from 10.0.0.0/8 user ann"]) as proxy:
            assert REJECTED4 == ask(proxy, target)
        assert [] == server.callers


@pytest.mark.rfc(
    "SOCKS4, CONNECT",
    "Granted by any combination of source, destination, port, USERID and what IDENT says.",
)
@pytest.mark.rfc("SOCKS4, CONNECT", "Passwords: the memo has none.")
@pytest.mark.parametrize(
    "rule, is_allowed",
    [
        (["allow user ann"], True),
        (["allow user any"], True),
        (["allow"], True),
        (["allow user bob"], False),
        (["allow user none"], False),
        (["deny user ann", "allow"], False),
    ],
)
def test_rules_know_the_user(monkeypatch, target, rule, is_allowed):
    """Without passwords, a name that ident confirms is a user as any."""
    with identd(monkeypatch, says_user(b"ann")), run_proxy(ident=True, rule=rule) as proxy:
        assert (GRANTED4 if is_allowed else REJECTED4[:2]) == ask(proxy, target)[:2]


@pytest.mark.parametrize(
    "rule, is_allowed",
    [
        ([], False),
        (["allow user any"], False),
        (["allow"], False),
        (["allow user ann"], True),
        (["allow user none"], True),
        (["deny user none", "allow user ann"], False),
        (["allow user karl"], False),
    ],
)
def test_rules_know_that_ident_is_no_password(monkeypatch, target, rule, is_allowed):
    """Where users have passwords, ident replaces none: only rules that name a user count it."""
    settings = {"ident": True, "user": "karl:secret", "rule": rule}
    with identd(monkeypatch, says_user(b"ann")), run_proxy(**settings) as proxy:
        assert (GRANTED4 if is_allowed else REJECTED4[:2]) == ask(proxy, target)[:2]
        with Talk.to(proxy.port) as talk:
            talk.send(GREETING + socks5("127.0.0.1", target.port))
            is_open = rule in (["allow user none"],)
            assert (b"\5\0" if is_open else b"\5\xff") == talk.receive(2), "SOCKS5 is as ever"


@pytest.mark.rfc(
    "RFC 1413 section 6", "The information is as trustworthy as the host; it is no access control."
)
def test_a_name_with_a_password_needs_the_password(monkeypatch, target, access_log):
    """Otherwise any client that runs an identd could take any user's name."""
    settings = {"ident": True, "user": "ann:secret", "rule": ["allow user ann"]}
    with identd(monkeypatch, says_user(b"ann")), run_proxy(**settings) as proxy:
        assert REJECTED4 == ask(proxy, target)
        why = ' without a password; user "ann" needs a password; SOCKS4 cannot send one'
        access_log.wait_for(why)
    with identd(monkeypatch, says_user(b"bob")):
        with run_proxy(ident=True, authenticate=lambda *args: False, rule=["allow"]) as proxy:
            assert REJECTED4 == ask(proxy, target, b"bob")


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize(
    "rule",
    [["allow user none"], ["allow user any"], ["allow"], ["deny user none", "allow"]],
)
def test_no_answer_tells_which_names_have_passwords(
    monkeypatch, target, access_log, tmp_path, rule, hashed
):
    """A client whose own identd confirms all that it says hears the same about each name.

    Also at the limit of a user, and from the program's hook, which never gets such a user.
    """
    settings = {"ident": True, "rule": rule, "max_per_user": 1}
    if hashed:
        path = tmp_path / "users"
        path.write_text("ann:$pbkdf2-sha256$1$$" + "A" * 43 + "\n")
        settings["users_file"] = str(path)
    else:
        settings["user"] = "ann:secret"
    heard, told = {}, {}
    for name in (b"ann", b"bob"):
        users = told[name] = []

        def authorize(request, users=users):
            users.append(request.user)
            return True

        with identd(monkeypatch, says_user(name)):
            with run_proxy(authorize=authorize, **settings) as proxy:
                replies = heard[name] = []
                with Talk.to(proxy.port) as first:
                    first.send(socks4(target.host, target.port, name))
                    replies.append(first.receive(8)[:2])
                    replies.append(ask(proxy, target, name)[:2])
                record = proxy.records[-1]
                assert (None, name) == (record.user, record.request.userid)
    assert heard[b"ann"] == heard[b"bob"]
    assert told[b"ann"] == told[b"bob"]
    assert [GRANTED4 if rule == ["allow user none"] else REJECTED4[:2]] * 2 == heard[b"ann"]
    assert set(told[b"ann"]) <= {None}


def test_a_client_that_logged_in_of_late_stays_that_user(monkeypatch, target, access_log):
    """--auth-once makes an address a user's; its identd is asked all the same."""
    settings = {"ident": True, "user": "karl:secret", "auth_once": 60, "open": False}
    with run_proxy(**settings) as proxy:
        with Talk.to(proxy.port) as talk:
            talk.send(b"\5\1\2" + password_message(b"karl", b"secret")).expect(b"\5\2\1\0")
            talk.send(socks5("127.0.0.1", target.port))
            assert 0 == talk.receive_reply5()[0]
        with identd(monkeypatch, says_user(b"ann")):
            assert GRANTED4 == ask(proxy, target)[:2]
            access_log.wait_for("user='karl' ver=4 ")
            assert MISMATCH4 == ask(proxy, target, b"karl")


def test_the_programs_hook_hears_of_the_user(monkeypatch, target):
    """It is called in a handler thread, as ever."""
    asked = []

    def authorize(request):
        asked.append((request.user, request.userid, threading.current_thread().name))
        return True

    with identd(monkeypatch, says_user(b"ann")):
        with run_proxy(ident=True, authorize=authorize) as proxy:
            assert GRANTED4 == ask(proxy, target)[:2]
    assert [("ann", "ann", "minisocks-handler")] == asked
