"""Connected clients: counted once, whatever way they end, and kept to the limits."""

import contextlib
import errno
import random
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from kit import inside
from kit.support import (
    GREETING,
    REJECTED4,
    CommandLine,
    FakeTarget,
    Talk,
    black_hole,
    closed_port,
    echo,
    failure5,
    log_kept,
    password_message,
    resets,
    run_proxy,
    says,
    socks4,
    socks4a,
    socks5,
    wait_until,
)
from minisocks.config.settings import Config
from minisocks.errors import LimitReached
from minisocks.policy.client import THIS_HOST, Client
from minisocks.record import Record
from minisocks.server.limits import ConnectionLimits


def record(host, user=None):
    """Return the record of a client from *host*."""
    client = Client(host if host == "unix" else (host, 4242))
    client.user = user
    return Record(client)


def is_empty(connection_limits):
    """Return whether no client is counted, and nothing is kept about any."""
    return (0, {}, {}) == (len(connection_limits), *inside.counted(connection_limits))


@pytest.mark.parametrize(
    "limit, first, second, why",
    [
        ("max_connections", ("10.0.0.1", None), ("10.0.0.2", None), "there are 2 connections"),
        ("max_per_client", ("10.0.0.1", None), ("10.0.0.1", None), "10.0.0.1 has 2 connections"),
        ("max_per_client", ("unix", None), ("unix", None), "unix has 2 connections"),
        # One client of IPv6 has a whole /64.
        (
            "max_per_client",
            ("2001:db8:1:2::1", None),
            ("2001:db8:1:2:ffff::", None),
            "2001:db8:1:2::/64 has 2 connections",
        ),
        ("max_per_client", ("::ffff:10.0.0.1", None), ("10.0.0.1", None), "10.0.0.1 has 2 conn"),
        ("max_per_user", ("10.0.0.1", b"ann"), ("10.0.0.2", b"ann"), "user 'ann' has 2 connect"),
    ],
)
def test_one_more_than_the_limit_is_refused(limit, first, second, why):
    """The error names client or user, number and option; when one has ended, another fits."""
    connection_limits, config = ConnectionLimits(), Config(**{limit: 2})
    records = [record(*first), record(*second)]
    for each in records:
        connection_limits.enter(each, config)
    for _ in range(2):
        with pytest.raises(LimitReached) as caught:
            connection_limits.enter(record(*second), config)
        assert str(caught.value).startswith(why)
        assert str(caught.value).endswith("already (--%s 2)" % limit.replace("_", "-"))
    records[0].finish("client-fin")
    connection_limits.enter(record(*second), config)
    assert 2 == len(connection_limits)


@pytest.mark.parametrize(
    "limit, first, second",
    [
        ("max_per_client", ("10.0.0.1", None), ("10.0.0.2", None)),
        ("max_per_client", ("2001:db8:1:2::1", None), ("2001:db8:1:3::1", None)),
        ("max_per_user", ("10.0.0.1", b"ann"), ("10.0.0.1", b"bob")),
        # A client without a user name comes under no user's limit.
        ("max_per_user", ("10.0.0.1", None), ("10.0.0.1", None)),
    ],
)
def test_others_have_a_limit_of_their_own(limit, first, second):
    """Another client, or user, is not refused because of it."""
    connection_limits, config = ConnectionLimits(), Config(**{limit: 1})
    for each in (first, second):
        connection_limits.enter(record(*each), config)
    assert 2 == len(connection_limits)


@hypothesis_settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 9),
            st.sampled_from(["10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2", "unix"]),
            st.sampled_from([None, b"ann", b"bob"]),
        ),
        max_size=60,
    )
)
def test_counts_are_what_a_list_of_all_says(steps):
    """Whatever comes and goes, each limit has the count of a list of all connections."""
    connection_limits, config = (
        ConnectionLimits(),
        Config(max_connections=7, max_per_client=3, max_per_user=4),
    )
    there = {}
    for number, host, user in steps:
        if number in there:
            there.pop(number).finish("client-fin")
            continue
        new = record(host, user)
        fits = (
            len(there) < 7
            and sum(each.client.place == new.client.place for each in there.values()) < 3
            and (user is None or sum(e.client.user == user for e in there.values()) < 4)
        )
        if fits:
            connection_limits.enter(new, config)
            there[number] = new
        else:
            with pytest.raises(LimitReached):
                connection_limits.enter(new, config)
            new.finish("limit")  # was not counted, and is not counted out
        assert len(there) == len(connection_limits)
    for each in there.values():
        each.finish("client-fin")
    assert is_empty(connection_limits)


# In a proxy

WAYS = {
    "socks4": (lambda port: socks4("127.0.0.1", port), REJECTED4),
    "socks4a": (lambda port: socks4a(b"localhost", port), REJECTED4),
    "socks5": (lambda port: GREETING + socks5("127.0.0.1", port), b"\x05\x00" + failure5(2)),
}
way = pytest.mark.parametrize("message, refusal", WAYS.values(), ids=WAYS)


def connected(proxy, target, source=None):
    """Return a connection through *proxy*."""
    talk = Talk.to(proxy.port, source=source)
    assert 0 == talk.connect5("127.0.0.1", target.port)[0]
    return talk


def settled(proxy):
    """Return the connection limits of *proxy* once nothing is connected."""
    connection_limits = proxy.services.connection_limits
    wait_until(lambda: len(proxy) == 0, "the end of all")
    return connection_limits


@pytest.mark.rfc("RFC 1928 section 6", "REP 02: connection not allowed by ruleset.")
@way
@pytest.mark.parametrize(
    "limit, why",
    [
        ("max_connections", "why='there is 1 connection already (--max-connections 1)'"),
        ("max_per_client", "why='127.0.0.1 has 1 connection already (--max-per-client 1)'"),
    ],
)
def test_a_refused_client_has_a_reply_and_the_log_a_line(
    target, access_log, message, refusal, limit, why
):
    """REP 02, or 91; one line that names the limit; open connections go on."""
    with run_proxy(**{limit: 1}) as proxy:
        with connected(proxy, target) as first:
            with Talk.to(proxy.port) as talk:
                talk.send(message(target.port)).expect(refusal).expect_eof()
            assert why in access_log.wait_for("end=limit")
            first.send(b"x").expect(b"x")
            assert {"limit": 1} == proxy.stats().refused
            first.finish().expect_eof()
        assert is_empty(settled(proxy))
        with connected(proxy, target):
            pass


def test_a_user_has_a_limit(target, access_log):
    """So many connections of one user, whatever other users have."""
    with run_proxy(user=["ann:secret", "bob:secret"], max_per_user=1) as proxy:

        def come(user):
            talk = Talk.to(proxy.port)
            talk.send(b"\x05\x01\x02" + password_message(user, b"secret"))
            talk.expect(b"\x05\x02\x01\x00").send(socks5("127.0.0.1", target.port))
            return talk, talk.receive_reply5()[0]

        talks, reps = zip(*[come(user) for user in (b"ann", b"ann", b"bob", b"ann")])
        assert (0, 2, 0, 2) == reps
        assert "user='ann'" in access_log.wait_for('user "ann" has 1 connection already')
        for talk in talks:
            talk.close()
        assert is_empty(settled(proxy))


def test_a_client_that_the_rules_refuse_is_not_counted():
    """It gets the reply of the rules, limit or not, and takes no other client's place."""
    with run_proxy(max_connections=1, rule=("deny to there.test", "allow")) as proxy:
        for _ in range(3):
            with Talk.to(proxy.port) as talk:
                talk.send(GREETING + socks5(b"there.test", 80)).expect(b"\x05\x00")
                talk.expect(failure5(2)).expect_eof()
        assert 0 == len(proxy.services.connection_limits)


def test_limits_change_by_reload(target):
    """Open connections stay, even above a limit that is lower now; a new one is counted anew."""
    with run_proxy() as proxy, contextlib.ExitStack() as stack:
        talks = [stack.enter_context(connected(proxy, target)) for _ in range(3)]
        for limit in ("max_connections", "max_per_client"):
            proxy.reload(proxy.config._replace(**{limit: 2}))
            with Talk.to(proxy.port) as talk:
                assert 2 == talk.connect5("127.0.0.1", target.port)[0]
            for talk in talks:
                talk.send(b"x").expect(b"x")
            proxy.reload(proxy.config._replace(**{limit: None}))
            connected(proxy, target).close()


def test_a_connection_counts_while_its_target_is_dialed():
    """Attempts without an answer take places, too, and give them back."""
    with black_hole() as port, run_proxy(max_per_client=2, connect_timeout=0.3) as proxy:
        talks = [Talk.to(proxy.port).send(socks4("127.0.0.1", port)) for _ in range(2)]
        wait_until(lambda: len(proxy.services.connection_limits) == 2)
        with Talk.to(proxy.port) as talk:
            talk.send(socks4("127.0.0.1", port)).expect(REJECTED4)
        for talk in talks:
            talk.expect(REJECTED4).close()
        assert is_empty(settled(proxy))


@pytest.mark.parametrize("answer", [True, False, "neither"])
def test_a_connection_counts_while_a_hook_decides(target, bugs, answer):
    """A client is counted before the hook is called, and counted out after it."""
    go_on = threading.Event()

    def authorize(request):
        assert go_on.wait(20)
        return answer

    with run_proxy(authorize=authorize, max_connections=1) as proxy:
        with Talk.to(proxy.port) as talk:
            talk.send(GREETING).expect(b"\x05\x00").send(socks5("127.0.0.1", target.port))
            wait_until(lambda: len(proxy.services.connection_limits) == 1)
            with Talk.to(proxy.port) as other:
                assert 2 == other.connect5("127.0.0.1", target.port)[0]
            go_on.set()
            assert talk.receive_reply5()[0] == {True: 0, False: 2}.get(answer, 1)
        assert is_empty(settled(proxy))


def test_a_hook_that_is_slower_than_the_end_leaves_nothing(target):
    """A client of a hook is counted out by a proxy that stops meanwhile."""
    entered, go_on = threading.Event(), threading.Event()

    def authorize(request):
        entered.set()
        assert go_on.wait(20)
        return True

    with run_proxy(authorize=authorize) as proxy, Talk.to(proxy.port) as talk:
        talk.send(GREETING + socks5("127.0.0.1", target.port))
        assert entered.wait(20)
        connection_limits = proxy.services.connection_limits
        stopping = threading.Thread(target=proxy.stop)
        stopping.start()
        wait_until(lambda: not proxy.addresses)
        go_on.set()
        stopping.join()
        wait_until(lambda: is_empty(connection_limits))


def test_the_end_of_a_proxy_leaves_nothing(target):
    """Connections that ``stop`` aborts are counted out."""
    with run_proxy() as proxy, black_hole() as hole, contextlib.ExitStack() as stack:
        connection_limits = proxy.services.connection_limits
        for _ in range(3):
            stack.enter_context(connected(proxy, target))
            stack.enter_context(Talk.to(proxy.port)).send(socks4("127.0.0.1", hole))
        wait_until(lambda: len(connection_limits) == 6)
        proxy.stop()
        assert is_empty(connection_limits)


@pytest.mark.soak
def test_a_thousand_connections_leave_nothing(access_log):
    """However they end, at whatever step, the counts are back to zero."""
    seed = random.randrange(1 << 30)
    print("seed %d" % seed)
    rng = random.Random(seed)
    wrong = []
    with contextlib.ExitStack() as stack:
        targets = [stack.enter_context(FakeTarget(s)) for s in (echo, says(b"x"), resets(b"y"))]
        hole, closed = stack.enter_context(black_hole()), closed_port()
        proxy = stack.enter_context(
            run_proxy(
                user=["ann:secret"], open=True, max_connections=30, max_per_client=20,
                max_per_user=10, connect_timeout=2.0, idle_timeout=60.0,
            )
        )  # fmt: skip
        ports = [target.port for target in targets] + [hole, closed]

        def visit(rng):
            port = rng.choice(ports)
            auth = b"\x05\x01\x02" + password_message(b"ann", rng.choice((b"secret", b"wrong")))
            name = rng.choice(("127.0.0.1", b"localhost", b"..", "255.255.255.255"))
            words = rng.choice(
                (
                    socks4("127.0.0.1", port),
                    socks4a(b"localhost", port),
                    GREETING + socks5(name, port),
                    auth + socks5(name, port, cmd=rng.choice((1, 1, 1, 2))),
                    b"GET / HTTP/1.1\r\n\r\n",
                )
            )
            cut = rng.choice((len(words), len(words), rng.randrange(len(words) + 1)))
            with Talk.to(proxy.port, source=("127.0.0.%d" % rng.randrange(1, 4), 0)) as talk:
                talk.send(words[:cut] + rng.choice((b"", b"hello")))
                if rng.random() < 0.7 and cut == len(words) and port is not hole:
                    talk.sock.recv(2)
                rng.choice((Talk.reset, Talk.close, Talk.finish))(talk)

        def work(rng):
            for _ in range(250):
                try:
                    visit(rng)
                except ConnectionError:
                    pass
                except (OSError, AssertionError) as exc:
                    # A FIN behind the proxy's reset is ENOTCONN, and no ConnectionError.
                    if getattr(exc, "errno", None) != errno.ENOTCONN:
                        wrong.append(exc)

        threads = [
            threading.Thread(target=work, args=(random.Random(rng.random()),)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [] == wrong
        assert is_empty(settled(proxy))
        stats = proxy.stats()
        print(stats)
        assert stats.succeeded


def test_repeats_are_folded(target):
    """The log of a flood: ten lines of each limit, and then their number."""
    from minisocks.service.lines import Entry

    with run_proxy(max_per_client=1) as proxy, connected(proxy, target):
        kinds = set()
        with log_kept() as kept:
            kept.emit = lambda line: kinds.add(Entry(line).path)
            for source in ("127.0.0.1", "127.0.0.1", "127.0.0.1"):
                with Talk.to(proxy.port, source=(source, 0)) as talk:
                    assert 2 == talk.connect5("127.0.0.1", target.port)[0]
            with Talk.to(proxy.port) as talk, contextlib.suppress(socket.error):
                talk.send(GREETING + socks5("127.0.0.1", 80, cmd=9)).rest()
            wait_until(lambda: len(kinds) == 2)
    assert (("limit", "--max-per-client 1)"), *THIS_HOST) in kinds


# In a process

PREFIX = ["sh", "-c", 'ulimit -n 128 && exec "$@"', "sh"]


@pytest.mark.soak
def test_the_command_line_leaves_descriptors_for_refusals():
    """A client beyond what the descriptors allow receives REP 02, instead of no answer."""
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(FakeTarget())
        command = stack.enter_context(CommandLine("-l", "0", prefix=PREFIX))
        line = "limits: max-connections 36 (what the descriptors allow), "
        line += "max-associations 9 (a quarter of --max-connections)"
        assert line in command.lines
        talks = [stack.enter_context(Talk.to(command.ports[0])) for _ in range(40)]
        reps = [talk.connect5("127.0.0.1", target.port)[0] for talk in talks]
        assert [0] * 36 + [2] * 4 == reps
        command.wait_for_line("why='there are 36 connections already (--max-connections 36)'")
        assert 0 == command.end()


def test_a_number_of_connections_wins_over_the_descriptors():
    """The number in the settings is in force, and the start prints it."""
    with FakeTarget() as target, CommandLine("-l", "0", "--max-connections", "1") as command:
        command.wait_for_line("limits: max-connections 1, max-associations 1 (a quarter of ")
        with Talk.to(command.ports[0]) as first, Talk.to(command.ports[0]) as second:
            assert 0 == first.connect5("127.0.0.1", target.port)[0]
            assert 2 == second.connect5("127.0.0.1", target.port)[0]
