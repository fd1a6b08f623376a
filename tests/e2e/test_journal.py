"""Records and figures: what a program can read while connections live, and after."""

import contextlib
import json
import re
import threading

import pytest

from kit.support import (
    GREETING,
    REJECTED4,
    FakeTarget,
    Talk,
    black_hole,
    closed_port,
    password_message,
    run_proxy,
    socks4,
    socks4a,
    socks5,
    wait_until,
)
from minisocks import Rep
from minisocks.policy.client import Client
from minisocks.record import Record
from minisocks.server.journal import Journal


def finished(proxy):
    """Wait until every record has its end."""
    wait_until(lambda: all(record.end is not None for record in proxy.records))


# records


def test_a_record_is_there_before_the_client_hears_of_success(target):
    """No waiting: a client with its reply finds its record, still live, with all that was asked."""
    with run_proxy() as proxy:
        for i in range(1, 20):
            with Talk.to(proxy.port) as talk:
                talk.connect5(b"LocalHost", target.port)
                record = proxy.records[-1]
                assert (i, 5, "CONNECT", "localhost") == (
                    record.id,
                    record.ver,
                    record.cmd,
                    record.host,
                )
                assert (target.port, None, None) == (record.port, record.user, record.end)
                assert record.rep is Rep.SUCCEEDED
                assert record.via in ("127.0.0.1", "::1")
                assert record.client.port == talk.sock.getsockname()[1]


def test_the_bytes_of_a_record_are_live(target):
    """Bytes and seconds of a live record grow."""
    with run_proxy() as proxy, Talk.to(proxy.port) as talk:
        talk.connect5("127.0.0.1", target.port)
        (record,) = proxy.records
        for i in range(1, 5):
            talk.send(b"x" * 1000).receive(1000)
            # A byte is counted once it has been passed on, which may be after it came.
            wait_until(lambda i=i: (record.up, record.down) == (i * 1000, i * 1000))
        earlier = record.seconds
        assert record.end is None
        talk.finish().expect_eof()
        wait_until(lambda: record.end == "client-fin")
        assert earlier < record.seconds == record.seconds


def test_a_refused_connection_is_recorded_before_its_client_knows():
    """The record has the reason, whatever it is, in the words of the RFC and in full."""
    with run_proxy() as proxy:
        for message, host, rep in (
            (GREETING + socks5("127.0.0.1", closed_port()), "127.0.0.1", Rep.CONNECTION_REFUSED),
            (GREETING + socks5("127.0.0.1", 1, cmd=9), None, Rep.COMMAND_NOT_SUPPORTED),
            (b"\x05\x01\x02", None, Rep.NOT_ALLOWED),
            (socks4a(b"", 1), None, Rep.GENERAL_FAILURE),
            (b"GET / HTTP/1.0\r\n\r\n", None, None),
        ):
            with Talk.to(proxy.port) as talk:
                talk.send(message).rest()
                record = proxy.records[-1]
                assert (host, rep, None) == (record.host, record.rep, record.via)
                assert record.end in ("refused", "not-socks")
                assert record.why


@pytest.mark.parametrize("form", [str, lambda record: json.dumps(record.as_data())])
@pytest.mark.parametrize(
    "message, reply, is_there",
    [
        (b"\x05\x01\x00", b"\x05\xff", False),
        (b"\x05\x01\x02" + password_message(b"ann", b"wrong"), b"\x05\x02\x01\x01", False),
        (socks4("127.0.0.1", 1, b"ann"), REJECTED4, True),
    ],
)
def test_the_log_names_a_rep_that_the_client_got(message, reply, is_there, form):
    """METHOD FF and a failed login are no REP 02; a program and the figures have the reason."""
    with run_proxy(user=("ann:secret",)) as proxy, Talk.to(proxy.port) as talk:
        talk.send(message).expect(reply).expect_eof()
        (record,) = proxy.records
        assert {"connection not allowed by ruleset": 1} == proxy.stats().refused
    assert (Rep.NOT_ALLOWED, is_there) == (record.rep, record.has_rep)
    assert is_there == (re.search(r'\brep"?[=:]', form(record)) is not None)


def test_records_are_the_last_ones_oldest_first(target):
    """So many are kept, each once; the list is the caller's own."""
    with run_proxy(keep_records=3) as proxy:
        for _ in range(5):
            with Talk.to(proxy.port) as talk:
                talk.connect5("127.0.0.1", target.port)
        assert [3, 4, 5] == [record.id for record in proxy.records]
        proxy.records.clear()
        assert 3 == len(proxy.records)
    assert [3, 4, 5] == [record.id for record in proxy.records]


def test_none_are_kept_if_none_are_wanted(target):
    """With ``keep_records=0`` there are figures and no records."""
    with run_proxy(keep_records=0) as proxy, Talk.to(proxy.port) as talk:
        talk.connect5("127.0.0.1", target.port)
        assert ([], 1) == (proxy.records, proxy.stats().succeeded)


def test_a_client_that_says_nothing_leaves_no_record():
    """A health check is an open connection and has no record."""
    with run_proxy() as proxy:
        with Talk.to(proxy.port):
            wait_until(lambda: proxy.stats().open == 1)
        wait_until(lambda: proxy.stats().open == 0)
        assert ([], 0, {}) == (proxy.records, proxy.stats().total, proxy.stats().refused)


# stats


def test_stats_add_up(target):
    """Each connection is counted once, by how it went; bytes include those of live ones."""
    with run_proxy() as proxy, contextlib.ExitStack() as stack, black_hole() as hole:
        first, second = [stack.enter_context(Talk.to(proxy.port)) for _ in range(2)]
        for talk in (first, second):
            talk.connect5("127.0.0.1", target.port)
            talk.send(b"x" * 100).receive(100)
        first.finish().expect_eof()
        refused = closed_port()
        for message in (socks5("127.0.0.1", refused), socks5("127.0.0.1", 1, cmd=9)):
            with Talk.to(proxy.port) as talk:
                talk.send(GREETING + message).rest()
        with Talk.to(proxy.port) as talk:
            talk.send(b"\x16\x03\x01" + bytes(10)).rest()
        with Talk.to(proxy.port) as gone:
            gone.send(GREETING).expect(b"\x05\x00").send(socks5("127.0.0.1", hole))
            wait_until(lambda: proxy.stats().total == 6)
            gone.reset()
        wait_until(lambda: sum(proxy.stats().refused.values()) == 4)
        wait_until(lambda: proxy.stats().open == 1)
        parked = stack.enter_context(Talk.to(proxy.port)).send(b"\x05")
        wait_until(lambda: proxy.stats().handshakes == 1)
        stats = proxy.stats()
        assert (2, 6, 2) == (stats.open, stats.total, stats.succeeded)
        assert (200, 200) == (stats.up, stats.down)
        assert 1 <= stats.threads <= 5  # one leads, one has served the last client
        assert stats.uptime > 0
        assert {
            "connection refused": 1,
            "command not supported": 1,
            "not SOCKS": 1,
            "client gone": 1,
        } == stats.refused
        parked.close()
        # Said too little: a general failure.
        wait_until(lambda: sum(proxy.stats().refused.values()) == 5)
        assert 1 == proxy.stats().refused["general SOCKS server failure"]
    end = proxy.stats()
    assert (0, 7, 2, 200, 0, 0) == (
        end.open,
        end.total,
        end.succeeded,
        end.up,
        end.handshakes,
        end.threads,
    )
    assert end == proxy.stats()


def test_stats_are_exact_across_threads(target):
    """Two hundred clients in twenty threads: nothing is counted twice or forgotten."""
    with run_proxy(keep_records=1000) as proxy:

        def work():
            for _ in range(10):
                with Talk.to(proxy.port) as talk:
                    talk.connect5("127.0.0.1", target.port)
                    talk.send(b"xyz").receive(3)

        threads = [threading.Thread(target=work) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (200, 200) == (proxy.stats().total, proxy.stats().succeeded)
        finished(proxy)
        assert (600, 600, {}) == (proxy.stats().up, proxy.stats().down, proxy.stats().refused)
        assert list(range(1, 201)) == sorted(record.id for record in proxy.records)


def test_bytes_never_shrink_while_a_connection_ends():
    """From "live" to "ended" a connection's bytes are counted once, at every moment."""
    journal = Journal()
    record = Record(Client(""), 1, journal)
    record.granted("127.0.0.1")
    record.up, record.down = 10, 20
    before = journal.stats()
    record.finish("client-fin")
    after = journal.stats()

    assert (10, 20) == (before.up, before.down) == (after.up, after.down)
    assert [] == journal.live


def test_figures_begin_anew_with_each_start(target):
    """A proxy that is started again counts from one."""
    with FakeTarget() as other, run_proxy() as proxy:
        for _ in range(2):
            with Talk.to(proxy.port) as talk:
                talk.connect5("127.0.0.1", other.port)
            assert [1] == [record.id for record in proxy.records]
            assert 1 == proxy.stats().total
            proxy.stop()
            assert 1 == len(proxy.records)
            proxy.start()
            assert ([], 0) == (proxy.records, proxy.stats().total)


# exits


def granted(journal, exit, up=0, down=0):
    """Return a record that has come to a target by *exit*, and has these bytes."""
    record = Record(Client(("127.0.0.1", 1)), observer=journal)
    record.exit = exit
    record.granted("127.0.0.1")
    record.up, record.down = up, down
    return record


def test_each_exit_has_its_own_sums():
    """Open connections count with those that have ended; what has no exit is direct."""
    journal = Journal()
    records = [
        granted(journal, "tor", 1, 10),
        granted(journal, "tor", 2, 20),
        granted(journal, "office", 4, 40),
        granted(journal, None, 8, 80),
        granted(journal, "direct", 16, 160),
    ]
    Record(Client(("127.0.0.1", 1)), observer=journal).finish("refused")
    expected = {"tor": (2, 3, 30), "office": (1, 4, 40), "direct": (2, 24, 240)}

    for _ in range(len(records) + 1):
        found = journal.by_exit()
        still = [record.exit or "direct" for record in records if record.end is None]
        for name, (total, up, down) in expected.items():
            assert (still.count(name), total, up, down) == found[name]
        assert set(expected) == set(found)
        for record in records:
            if record.end is None:
                record.finish("client-fin")
                break


def test_an_association_with_several_exits_counts_for_the_first():
    """No sums are kept for several exits together, of which there may be very many."""
    journal = Journal()
    records = [granted(journal, exits, 1, 10) for exits in ("tor,office", "direct,tor", "tor")]
    expected = {"tor": (2, 2, 2, 20), "direct": (1, 1, 1, 10)}
    assert expected == journal.by_exit()
    for record in records:
        record.finish("client-fin")
    expected = {"tor": (0, 2, 2, 20), "direct": (0, 1, 1, 10)}
    assert expected == journal.by_exit()


def test_without_exits_everything_is_direct():
    """Also before the first connection."""
    journal = Journal()
    assert {"direct": (0, 0, 0, 0)} == journal.by_exit()
    granted(journal, None, 1, 2).finish("client-fin")
    assert {"direct": (0, 1, 1, 2)} == journal.by_exit()
