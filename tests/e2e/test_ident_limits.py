"""What asking an identd costs, and for which clients none is asked."""

import contextlib
import itertools
import socket
import sys
import threading
import time

import pytest

from kit import inside
from kit.identd import identd, says_user
from kit.support import (
    GRANTED4,
    REJECTED4,
    Talk,
    closed_port,
    no_descriptor_left,
    nothing_left,
    password_message,
    run_proxy,
    socks4,
    socks5,
    wait_until,
)
from minisocks import compat
from minisocks.compat import READ, WRITE
from minisocks.policy.builtin import in_force
from minisocks.policy.client import Client
from minisocks.policy.lists import Lines
from minisocks.policy.rulelines import parse_rule
from minisocks.policy.rules import Rules
from minisocks.server import clientsocket, ident
from minisocks.server.clientsocket import ClientSocket
from minisocks.wire import Address, Atyp, Cmd

AT_ONCE = 50
NO_IDENTD4, MISMATCH4 = b"\x00\x5c" + bytes(6), b"\x00\x5d" + bytes(6)


def hangs(talk, *ports):
    """Send nothing until the other end leaves."""
    talk.rest()


def refused(proxy, port, userid=b"ann", source=None):
    """Return the reply to a client that is refused."""
    with Talk.to(proxy.port, source=source) as talk:
        reply = talk.send(socks4("127.0.0.1", port, userid)).receive(8)
        talk.expect_eof()
        return reply


@pytest.mark.soak
@pytest.mark.parametrize("how", ["confirmed", "another", "no identd", "in vain", "left", "ended"])
def test_nothing_is_left_of_a_thousand(monkeypatch, target, how):
    """However it ends: no descriptor, no thread, no connection that is still counted."""
    with nothing_left(), contextlib.ExitStack() as stack:
        script = hangs if how in ("in vain", "left", "ended") else says_user(b"ann")
        server = stack.enter_context(identd(monkeypatch, script))
        if how == "no identd":
            monkeypatch.setattr("minisocks.server.ident.IDENT_PORT", closed_port())
        if how == "in vain":
            monkeypatch.setattr("minisocks.server.ident.SECONDS", 0.01)
        proxy = stack.enter_context(run_proxy(ident=True))
        userid = b"bob" if how == "another" else b"ann"
        for _ in range(20):
            talks = [Talk.to(proxy.port) for _ in range(AT_ONCE)]
            for talk in talks:
                talk.send(socks4("127.0.0.1", target.port, userid))
            if how in ("left", "ended"):
                wait_until(lambda: len(server.asked) == AT_ONCE, "the questions")
                del server.asked[:]
            if how == "ended":
                proxy.stop()
            for talk in talks:
                if how == "left":
                    talk.reset()
                    continue
                expected = {"confirmed": GRANTED4, "another": MISMATCH4, "ended": b""}
                assert talk.receive(8).startswith(expected.get(how, NO_IDENTD4))
                talk.close()
            if how == "ended":
                proxy.start()
            wait_until(
                lambda: not len(proxy) and not len(proxy.services.connection_limits), "their end"
            )
        connection_limits = proxy.services.connection_limits
        assert ({}, {}) == inside.counted(connection_limits)


@pytest.mark.rfc(
    "RFC 1413 sections 1 and 2",
    "The server reads a line with the query, and answers; it may then close or read on.",
)
def test_it_asks_one_thing_and_closes(monkeypatch, target):
    """An identd that would take more questions gets EOF, while the client is relayed."""
    heard = []

    def script(talk, theirs, ours):
        says_user(b"ann")(talk, theirs, ours)
        heard.append(talk.rest())

    with identd(monkeypatch, script), run_proxy(ident=True) as proxy:
        with Talk.to(proxy.port) as talk:
            talk.send(socks4("127.0.0.1", target.port, b"ann"))
            assert GRANTED4 == talk.receive(8)[:2]
            wait_until(lambda: heard, "the end of the question")
            talk.send(b"x").expect(b"x")
    assert [b""] == heard


@pytest.mark.rfc(
    "RFC 1413 sections 1 and 2",
    "The client may close at any time, but should wait at least 30 seconds after a query.",
)
def test_it_has_30_seconds_to_connect_and_30_for_its_answer(monkeypatch, target):
    """The second 30 begin with the question, and no byte of an answer begins them anew."""
    limits, wait_for = [], ClientSocket.wait_for

    def spy(conn, sock, mask, until):
        limits.append((mask, until))
        wait_for(conn, sock, mask, until)

    def drips(talk, theirs, ours):
        talk.send_bytewise(b"%d , %d : USERID : UNIX : ann\r\n" % (theirs, ours))

    monkeypatch.setattr(ClientSocket, "wait_for", spy)
    before = time.monotonic()
    with identd(monkeypatch, drips), run_proxy(ident=True) as proxy:
        with Talk.to(proxy.port) as talk:
            talk.send(socks4("127.0.0.1", target.port, b"ann"))
            assert GRANTED4 == talk.receive(8)[:2]
    after = time.monotonic()
    for mask in (WRITE, READ):
        (until,) = {until for what, until in limits if what == mask} or {before + 30.0}
        assert before + 30.0 <= until <= after + 30.0


def test_its_time_is_not_the_handshake_s(monkeypatch, target):
    """An answer after --handshake-timeout counts, also where a hook decides after it."""
    conns, wait_for = [], ClientSocket.wait_for

    def spy(conn, sock, mask, until):
        conns.append(conn)
        wait_for(conn, sock, mask, until)

    def late(talk, theirs, ours):
        wait_until(lambda: conns and conns[0].deadline.at < time.monotonic(), "its end")
        says_user(b"ann")(talk, theirs, ours)

    monkeypatch.setattr(ClientSocket, "wait_for", spy)
    settings = {"ident": True, "handshake_timeout": 2.0, "authorize": lambda request: True}
    with identd(monkeypatch, late), run_proxy(**settings) as proxy, Talk.to(proxy.port) as talk:
        talk.send(socks4("127.0.0.1", target.port, b"ann"))
        assert GRANTED4 == talk.receive(8)[:2]


def test_without_a_descriptor_it_is_not_asked(monkeypatch, target, access_log):
    """The client receives 91, because its identd is not to blame; later ones are asked again."""
    with identd(monkeypatch, says_user(b"ann")) as server, run_proxy(ident=True) as proxy:
        with Talk.to(proxy.port) as talk:
            talk.send(socks4("127.0.0.1", target.port, b"ann")[:-1])
            wait_until(lambda: proxy.stats().handshakes == 1, "the session")
            with no_descriptor_left():
                talk.send(b"\0").expect(REJECTED4).expect_eof()
        access_log.wait_for("why='its identd was not asked: Too many open files'")
        assert [] == server.asked
        with Talk.to(proxy.port) as talk:
            talk.send(socks4("127.0.0.1", target.port, b"ann"))
            assert GRANTED4 == talk.receive(8)[:2]


def test_a_client_that_has_said_its_last_word(monkeypatch, target):
    """After its FIN it is still asked about, because it may wait for the reply."""
    with identd(monkeypatch, says_user(b"ann")), run_proxy(ident=True) as proxy:
        with Talk.to(proxy.port) as talk:
            talk.send(socks4("127.0.0.1", target.port, b"ann") + b"all").finish()
            assert GRANTED4 == talk.receive(8)[:2]
            assert b"all" == talk.rest()


@pytest.mark.parametrize("early", [b"", b"all"])
def test_a_client_that_closes_is_not_asked_about_for_long(early, monkeypatch, target, access_log):
    """Until some seconds after its FIN; to the end, if bytes for its target came before."""
    monkeypatch.setattr(clientsocket, "FIN_SECONDS", 0.1)
    monkeypatch.setattr(ident, "SECONDS", 0.4 if early else 30.0)
    with identd(monkeypatch, hangs), run_proxy(ident=True) as proxy:
        with Talk.to(proxy.port) as talk:
            talk.send(socks4("127.0.0.1", target.port, b"ann") + early).finish()
            talk.expect(NO_IDENTD4 if early else REJECTED4).expect_eof()
    why = "the identd at 127.0.0.1 did not answer in time"
    if not early:
        why = "its identd did not answer in the 0 s after the FIN of its client"
    assert why in access_log.wait_for("end=refused")


def test_an_answer_in_pieces_to_a_client_that_has_said_its_last_word(monkeypatch, target):
    """A FIN is no reset, however often the proxy waits for the answer."""
    half_closed, waits, wait_for = threading.Event(), [], ClientSocket.wait_for

    def spy(conn, sock, mask, until):
        waits.append(mask)
        wait_for(conn, sock, mask, until)

    def script(talk, theirs, ours):
        assert half_closed.wait(20)
        talk.send(b"%d , %d : " % (theirs, ours))
        wait_until(lambda: waits.count(READ) == 2, "the second wait")
        talk.send(b"USERID : UNIX : ann\r\n")

    monkeypatch.setattr(clientsocket, "FIN_SECONDS", 60.0)
    monkeypatch.setattr(ClientSocket, "wait_for", spy)
    with identd(monkeypatch, script), run_proxy(ident=True) as proxy:
        with Talk.to(proxy.port) as talk:
            talk.send(socks4("127.0.0.1", target.port, b"ann")).finish()
            half_closed.set()
            assert GRANTED4 == talk.receive(8)[:2]


ANN, ANY, NONE, ALL = "allow user ann", "allow user any", "allow user none", "allow"


@pytest.mark.parametrize(
    "texts, has_users, may",
    [
        ([ANN], False, True),
        ([ANY], False, True),
        ([NONE], False, False),
        ([ALL], False, True),
        ([ANN], True, True),
        ([ANY], True, False),
        ([NONE], True, True),
        ([ALL], True, False),
        ([ALL, ANN], True, True),
        ([], True, False),
        (["allow from 10.0.0.0/8 user ann"], True, False),
        (["deny"], False, False),
        (["allow user none any"], False, True),
        (["allow user none any"], True, True),
        (["allow user none ann"], False, True),
        (["allow version 5"], False, False),
        (["allow version 5 user none", "allow version 4 port 80 user none"], True, False),
        (["allow command bind"], False, False),
        (["allow port 80"], False, False),
        (["deny to .example.org", ALL], False, False),
        (["deny to .example.org user ann", ALL], False, True),
        (["deny version 5", ALL], False, True),
        (["allow to other.example.org"], False, False),
        (["allow to 198.51.100.0/24"], False, True),  # the name may have such an address
        (["allow to www.example.org", "deny"], False, True),
    ],
)
def test_a_client_that_no_rule_can_admit_is_known_before(texts, has_users, may):
    """An identd names a user: one of "any" where there are no passwords, else one of "none"."""
    own = [parse_rule(text, lambda path: Lines([], [])) for text in texts]
    rules = Rules(in_force(own, has_users), has_users, asks_ident=True)
    client, dst = Client(("192.0.2.7", 1)), Address(b"www.Example.org.", 443, Atyp.DOMAINNAME)
    assert may == rules.precheck_some_user(client, 4, Cmd.CONNECT, dst).allowed


SOME_RULES = [
    "allow", "deny", "allow version 5", "deny version 4", "allow command connect user ann",
    "deny user ann", "allow user none", "deny to 198.51.100.1", "allow to 198.51.100.0/24",
    "deny to .example.org", "allow to www.example.org user eve", "allow port 443",
    "deny from 192.0.2.0/24", "allow to private user any",
]  # fmt: skip


@pytest.mark.parametrize("has_users", [True, False])
@pytest.mark.parametrize("name", [b"www.example.org", b"198.51.100.1", b"10.0.0.1"])
def test_an_identd_is_asked_where_its_answer_may_change_something(has_users, name):
    """Where it is not asked, none of the users that it could name would have been allowed."""
    atyp = Atyp.DOMAINNAME if name[-1:].isalpha() else Atyp.IPV4
    dst, asked = Address(name, 443, atyp), 0
    for texts in itertools.product(SOME_RULES, repeat=2):
        own = [parse_rule(text, lambda path: Lines([], [])) for text in texts]
        rules = Rules(in_force(own, has_users), has_users, asks_ident=True)
        client = Client(("192.0.2.7", 1))
        may = rules.precheck_some_user(client, 4, Cmd.CONNECT, dst).allowed
        client.is_unproven = has_users
        better = []
        for user in (b"ann", b"eve", b"karl"):
            client.user = user if not has_users or rules.name(user) else None
            decision = rules.precheck(client, 4, Cmd.CONNECT, dst)
            if decision.allowed and atyp == Atyp.IPV4:
                decision = rules.decide(client, 4, Cmd.CONNECT, dst, socket.inet_aton(dst.name))
            better.append(decision.allowed)
        assert may or not any(better), texts
        asked += may and not any(better)
    # In vain only where a rule about users stands before another one.
    assert asked < len(SOME_RULES) ** 2 // 5


def test_a_stranger_without_a_password_is_not_asked_about(monkeypatch, target, access_log):
    """Where only passwords admit, no client causes a question; the log names the reason."""
    with identd(monkeypatch, says_user(b"ann")) as server:
        with run_proxy(ident=True, user="karl:secret") as proxy:
            assert REJECTED4 == refused(proxy, target.port)
    access_log.wait_for("why='a password is needed; SOCKS4 cannot send one'")
    assert [] == server.callers


@pytest.mark.parametrize(
    "rules", [["allow version 5"], ["deny to 127.0.0.0/8", "allow"], ["deny port 1-65535", "allow"]]
)
def test_what_no_rule_allows_any_user_is_not_asked_about(monkeypatch, target, rules):
    """No answer of an identd could change the decision, so none is asked."""
    with identd(monkeypatch, says_user(b"ann")) as server:
        with run_proxy(ident=True, rule=rules) as proxy:
            assert REJECTED4 == refused(proxy, target.port)
    assert [] == server.callers


def test_a_client_that_logged_in_of_late_is_not_asked_about_in_vain(monkeypatch, target):
    """Where no rule allows the request to its user, it is refused before the question."""
    settings = {"user": "karl:secret", "auth_once": 60, "rule": ["allow user karl port 1"]}
    with identd(monkeypatch, says_user(b"ann")) as server:
        with run_proxy(ident=True, **settings) as proxy:
            with Talk.to(proxy.port) as talk:
                talk.send(b"\5\1\2" + password_message(b"karl", b"secret")).expect(b"\5\2\1\0")
                talk.send(socks5(b"localhost", target.port)).expect(b"\5\2")
            with Talk.to(proxy.port) as talk:
                talk.send(socks4("0.0.0.1", target.port, b"ann") + b"localhost\0")
                talk.expect(REJECTED4).expect_eof()
    assert [] == server.callers


def test_a_client_that_lost_its_login_before_the_answer(monkeypatch, target, access_log):
    """A login that was removed meanwhile does not count."""
    settings = {"user": ("karl:secret", "eve:x"), "auth_once": 60, "rule": ["allow user karl"]}

    def script(talk, theirs, ours):
        proxy.reload(proxy.config._replace(user=("eve:x",)))
        says_user(b"ann")(talk, theirs, ours)

    with identd(monkeypatch, script), run_proxy(ident=True, **settings) as proxy:
        with Talk.to(proxy.port) as talk:
            talk.send(b"\5\1\2" + password_message(b"karl", b"secret")).expect(b"\5\2\1\0")
            talk.send(socks5("127.0.0.1", target.port)).expect(b"\5\0")
        assert REJECTED4 == refused(proxy, target.port)
    access_log.wait_for("why='user \"karl\" is not allowed any more'")


def test_a_user_that_gets_a_password_meanwhile_has_to_show_it(monkeypatch, target):
    """The users in force when the answer comes decide."""

    def script(talk, theirs, ours):
        proxy.reload(proxy.config._replace(user=("ann:secret",)))
        says_user(b"ann")(talk, theirs, ours)

    with identd(monkeypatch, script), run_proxy(ident=True, rule=["allow user ann"]) as proxy:
        assert REJECTED4 == refused(proxy, target.port)


def test_a_limit_of_users_counts_every_end(monkeypatch, target):
    """A client too many of a user was counted without a name, and is counted out like that."""
    with identd(monkeypatch, says_user(b"ann")), run_proxy(ident=True, max_per_user=1) as proxy:
        with Talk.to(proxy.port) as talk:
            talk.send(socks4("127.0.0.1", target.port, b"ann"))
            assert GRANTED4 == talk.receive(8)[:2]
            for _ in range(3):
                assert REJECTED4 == refused(proxy, target.port)
            wait_until(lambda: len(proxy.services.connection_limits) == 1, "one")
            assert {b"ann": 1} == inside.counted(proxy.services.connection_limits)[1]
        wait_until(lambda: not len(proxy.services.connection_limits), "none")
        assert {} == inside.counted(proxy.services.connection_limits)[1]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_a_port_serves_many_hosts(monkeypatch, target):
    """A port is chosen once the identd's address is known: or 28 000 a minute would be all."""
    bound = []

    def bind_late(sock, address):
        compat.bind_late(sock, address)
        bound.append(sock.getsockname())

    monkeypatch.setattr(ident, "bind_late", bind_late)
    with identd(monkeypatch, says_user(b"ann")), run_proxy(ident=True) as proxy:
        with Talk.to(proxy.port) as talk:
            talk.send(socks4("127.0.0.1", target.port, b"ann"))
            assert GRANTED4 == talk.receive(8)[:2]
    assert [("127.0.0.1", 0)] == bound


@pytest.mark.rfc(
    "RFC 1413 sections 1 and 2",
    "The client may close at any time, but should wait at least 30 seconds after a query.",
)
def test_it_has_the_time_that_the_documents_want():
    """30 s at least for the answer (RFC 1413 section 4), within the two minutes of the memo."""
    assert 30.0 <= ident.SECONDS < 60.0
