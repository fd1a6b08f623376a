"""The life of an association: what ends it, what does not, and its line in the log."""

import errno
import socket

import pytest

from kit import inside
from kit.support import (
    Talk,
    nothing_left,
    open_descriptors,
    password_message,
    run_proxy,
    wait_until,
)
from kit.udp_client import (
    Associated,
    UdpTarget,
    assert_remembers_nothing,
    associations,
    in_loop,
    wait_for_drops,
)

V4, V6 = "127.0.0.1", "::1"


def live_timers(proxy):
    """Return the timers that will still call a job, but for the one of all connections."""
    timers = inside.timers(proxy.services.loop)
    return [t for t in timers if t.job not in (None, proxy.services.vanished)]


def assert_nothing_held(proxy):
    """No client is remembered, nothing waits, no target is known, no timer is left."""
    exchange = proxy.services.associations
    assert (0, 0, 0) == (exchange.held, exchange.targets, len(exchange))
    assert_remembers_nothing(exchange)
    assert set() == inside.used_ports(exchange)
    assert 0 == proxy.services.loop.pipes.pending_bytes
    assert [] == live_timers(proxy)
    assert 0 == len(proxy.services.connection_limits)


# Its end


@pytest.mark.rfc(
    "RFC 1928 section 6, UDP ASSOCIATE", "The association terminates when its TCP connection does."
)
@pytest.mark.parametrize("rate", [None, 10**6])
@pytest.mark.parametrize(
    "leave, end",
    [(Talk.close, "client-fin"), (Talk.finish, "client-fin"), (Talk.reset, "client-reset")],
)
def test_it_ends_with_its_connection(leave, end, rate, target, target6):
    """A FIN, even a half close, or a RST ends it at once: descriptors, targets, what waits."""
    part = b"part of a datagram"
    with run_proxy(rate=rate, idle_timeout=3600) as proxy, UdpTarget("127.0.0.2") as other:
        exchange, before = proxy.services.associations, open_descriptors()
        with Associated(proxy.port) as client:
            client.expect_to_work(target).expect_to_work(target6).expect_to_work(other)
            client.send_to(target, part, frag=1)
            client.expect_to_work(target)
            held = in_loop(proxy, lambda: (exchange.held, exchange.targets > 0))
            assert (len(part), True) == held
            leave(client.talk)
            record = proxy.records[-1]
            wait_until(lambda: record.end, "its end")
            assert end == record.end
            assert {"fragments": 1} == record.datagrams.drops
            wait_until(lambda: len(proxy) == 0)
            if leave is Talk.finish:
                client.talk.expect_eof()
        wait_until(lambda: open_descriptors() <= before, "all descriptors back")
        wait_until(lambda: 0 == len(proxy.services.rates))
        in_loop(proxy, lambda: assert_nothing_held(proxy) or True)


@pytest.mark.rfc("RFC 1928 section 7", "A client MUST send to the relay at BND.PORT.")
def test_its_end_ends_no_other(target):
    """Another association of the same client works on, and keeps its port at the targets."""
    with run_proxy() as proxy, Associated(proxy.port) as stays:
        stays.expect_to_work(target)
        source = target.source
        for leave in (Talk.close, Talk.reset):
            with Associated(proxy.port) as client:
                client.expect_to_work(target)
                leave(client.talk)
                wait_until(lambda: len(proxy) == 1)
                stays.expect_to_work(target)
                assert source == target.source


@pytest.mark.parametrize("grace", [0.0, 0.01])
def test_the_end_of_the_proxy_ends_it(grace, target, target6):
    """``stop`` leaves no descriptor and no thread, and the client sees its connection end."""
    with nothing_left():
        with run_proxy() as proxy, Associated(proxy.port) as client:
            client.expect_to_work(target).expect_to_work(target6)
            client.send_to(target, b"part", frag=1)
            client.expect_to_work(target)
            (record,) = proxy.records
            exchange = proxy.services.associations
            proxy.stop(grace)
            client.talk.expect_eof()
            assert "shutdown" == record.end
            assert (0, 0, 0) == (exchange.held, exchange.targets, len(exchange))


def test_grace_is_for_associations_too(target):
    """While ``stop`` waits, datagrams are relayed; it returns when the last client has left."""
    with run_proxy() as proxy, Associated(proxy.port) as client:
        client.expect_to_work(target)
        (record,) = proxy.records
        proxy.stop_listening()
        client.expect_to_work(target)
        client.talk.close()
        proxy.stop(grace=3600.0)
        assert "client-fin" == record.end


# What does not end it


def test_a_first_datagram_may_take_its_time(target):
    """The time limit of the handshake ends with the reply: no time limit for datagrams."""
    with run_proxy(handshake_timeout=2.0) as proxy:
        with Associated(proxy.port) as client, Talk.to(proxy.port) as late:
            late.send(b"\x05").rest()  # it came after, and its time is over
            assert proxy.records[0].end is None
            client.expect_to_work(target)


def test_an_association_has_no_timer(proxy, target):
    """It has none before its first datagram, and none after."""
    with Associated(proxy.port) as client:
        wait_until(lambda: associations(proxy))
        assert [] == in_loop(proxy, lambda: live_timers(proxy))
        client.expect_to_work(target)
        assert [] == in_loop(proxy, lambda: live_timers(proxy))


@pytest.mark.rfc(
    "RFC 1928 section 6, UDP ASSOCIATE", "The association terminates when its TCP connection does."
)
def test_a_client_that_vanishes_is_noticed(proxy):
    """The kernel probes it, as any other relayed client."""
    with Associated(proxy.port):
        wait_until(lambda: associations(proxy))
        (job,) = associations(proxy)
        assert 0 != inside.control_connection(job).getsockopt(
            socket.SOL_SOCKET, socket.SO_KEEPALIVE
        )
        if hasattr(socket, "TCP_KEEPIDLE"):
            assert 300 == inside.control_connection(job).getsockopt(
                socket.IPPROTO_TCP, socket.TCP_KEEPIDLE
            )


def test_a_connection_that_is_lost_ends_it(proxy, target):
    """The record names the loss as the end, and not the client."""
    with Associated(proxy.port) as client:
        client.expect_to_work(target)
        (job,) = associations(proxy)

        class Lost:
            fileno = inside.control_connection(job).fileno
            close = inside.control_connection(job).close

            def recv_into(self, buffer):
                raise TimeoutError(errno.ETIMEDOUT, "keepalive had no answer")

        inside.replace_control(job, Lost())
        client.talk.send(b"x")
        wait_until(lambda: proxy.records[-1].end)
        assert "client-lost" == proxy.records[-1].end
        wait_until(lambda: len(proxy) == 0)


@pytest.mark.rfc(
    "RFC 1928 section 6, UDP ASSOCIATE", "The association terminates when its TCP connection does."
)
def test_what_is_said_on_the_connection_means_nothing(proxy, target):
    """Any bytes, even a request, are read, not answered, and not counted."""
    with Associated(proxy.port) as client:
        client.expect_to_work(target)
        client.talk.send(b"\x05\x01\x00").send(bytes(1 << 20))
        client.expect_to_work(target)
        record = proxy.records[-1]
        assert (10, 10) == in_loop(proxy, lambda: (record.up, record.down))
        client.talk.finish().expect_eof()
        wait_until(lambda: record.end)
        assert "client-fin" == record.end


def test_what_came_behind_the_request_means_nothing(proxy, target):
    """Also bytes in the segment of the request are no datagram, and end nothing."""
    with Talk.to(proxy.port) as talk:
        talk.send(b"\x05\x01\x00").expect(b"\x05\x00")
        send = talk.send
        talk.send = lambda data: send(data + b"early bytes")
        with Associated(proxy.port, talk=talk) as client:
            assert 0 == client.rep
            client.expect_to_work(target)


# --idle-timeout


def is_without_targets(proxy):
    (job,) = associations(proxy)
    return not inside.target_sockets(job) and job.idle is None


@pytest.mark.parametrize("rate", [None, 10**6])
def test_silence_closes_the_sockets_to_targets_alone(rate, target, target6):
    """Their descriptors and memory are free again; the next datagram opens new ones."""
    with run_proxy(idle_timeout=1.0, rate=rate) as proxy, Associated(proxy.port) as client:
        wait_until(lambda: associations(proxy))
        before = open_descriptors()
        client.expect_to_work(target).expect_to_work(target6)
        client.send_to(target, b"part", frag=1)
        source = target.source
        wait_until(lambda: is_without_targets(proxy), "the end of silent targets")
        wait_until(lambda: open_descriptors() == before, "their descriptors back")
        assert 0 == proxy.services.associations.targets
        target.answer(b"too late")
        client.expect_to_work(target).expect_to_work(target6)
        assert source[0] == target.source[0]
        assert before + 2 == open_descriptors()
        assert proxy.records[-1].end is None
        # The rest of the fragments still is awaited.
        client.send_to(target, b" and rest", frag=0x82)
        target.expect(b"part and rest")


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_datagram_in_either_direction_keeps_them(direction, target):
    """Datagrams are counted, not bytes, so an empty one keeps them; the test looks by itself."""
    with run_proxy(idle_timeout=3600.0) as proxy, Associated(proxy.port) as client:
        client.expect_to_work(target)
        (job,) = associations(proxy)
        idle = in_loop(proxy, lambda: job.idle)

        def look():
            idle.cancel()
            inside.look_at_idle(idle)
            return True

        in_loop(proxy, look)  # sees what was before
        for _ in range(3):
            for _ in range(3):
                in_loop(proxy, look)
            if direction == "up":
                client.send_to(target, b"")
                target.expect(b"")
            else:
                target.answer(b"")
                client.expect(target, b"")
            in_loop(proxy, look)
            assert inside.target_sockets(job)
        for _ in range(3):
            in_loop(proxy, look)
            assert inside.target_sockets(job)
        in_loop(proxy, look)
        assert is_without_targets(proxy)
        client.expect_to_work(target)
        assert job.idle is not idle


# What is said of it


@pytest.mark.rfc(
    "RFC 1928 section 7",
    "A relay that relays, or drops what it cannot or will not relay, does so silently.",
)
def test_its_line_says_all_of_it(access_log, target):
    """Where its socket was, bytes and datagrams each way, what was dropped, which side ended it."""
    with run_proxy(rule=("deny to 127.0.0.9", "allow")) as proxy:
        with Associated(proxy.port) as client:
            client.expect_to_work(target, b"x" * 100)
            client.send_to(target, b"").send_to(target, b"y" * 20)
            target.expect(b"").expect(b"y" * 20)
            for _ in range(3):
                client.send("127.0.0.9", 9, b"denied")
            client.send_raw(b"malformed").send_to(target, b"part", frag=1)
            client.expect_to_work(target, b"")
            place = "127.0.0.1:%d" % client.port
            live = in_loop(proxy, proxy.records[-1].as_data)
            assert (4, 2) == (live["datagrams_up"], live["datagrams_down"])
            assert "end" not in live
        line = access_log.wait_for("end=client-fin")
        assert (
            "ver=5 cmd=UDP_ASSOCIATE dst=0.0.0.0:0 via=%s rep='succeeded' up=120B down=100B "
            "datagrams_up=4 datagrams_down=2 drops='denied: 3, fragments: 1, malformed: 1' secs="
            % place
        ) in line
        assert "rule 1 denies" in line.partition("why=")[2]
        data = proxy.records[-1].as_data()
        drops = {"denied": 3, "fragments": 1, "malformed": 1}
        assert (place, 120, 100, 4, 2, drops, "client-fin", "UDP_ASSOCIATE", "succeeded") == tuple(
            data[name]
            for name in (
                "via",
                "up",
                "down",
                "datagrams_up",
                "datagrams_down",
                "drops",
                "end",
                "cmd",
                "rep",
            )
        )


def test_one_without_datagrams_says_so(access_log):
    """The line has zeros, and neither drops= nor why=."""
    with run_proxy(listen=("[::1]:0",)) as proxy:
        with Associated(proxy.port, V6) as client:
            place = "[::1]:%d" % client.port
        line = access_log.wait_for("end=client-fin")
        assert "via=%s " % place in line
        assert "up=0B down=0B datagrams_up=0 datagrams_down=0 secs=" in line
        assert "why=" not in line
        data = proxy.records[-1].as_data()
        assert (0, 0) == (data["datagrams_up"], data["datagrams_down"])
        assert not {"drops", "why"} & set(data)


def test_other_connections_say_nothing_of_datagrams(proxy, access_log):
    """Other lines have no datagrams, nor have those of refused associations."""
    with Talk.to(proxy.port) as talk:
        talk.connect5(V4, proxy.port)
    line = access_log.wait_for("end=")
    assert "datagrams" not in line
    assert not {"datagrams_up", "datagrams_down", "drops"} & set(proxy.records[-1].as_data())


def test_the_program_has_its_record_once(target):
    """``on_connection`` has the record when it is over, with all that was counted."""
    told = []
    with run_proxy(on_connection=lambda record: told.append((record, str(record)))) as proxy:
        with Associated(proxy.port) as client:
            client.expect_to_work(target)
            client.send_raw(b"")
            client.expect_to_work(target)
            assert [] == told
        wait_until(lambda: told)
    ((record, line),) = told
    assert ("UDP_ASSOCIATE", "0.0.0.0", 0, "client-fin") == (
        record.cmd, record.host, record.port, record.end,
    )  # fmt: skip
    assert (10, 10, 2, 2) == (
        record.up, record.down, record.datagrams.up, record.datagrams.down,
    )  # fmt: skip
    assert {"malformed": 1} == record.datagrams.drops
    assert "datagrams_up=2" in line


# Users


def logged_in(proxy, name):
    """Return a connection whose client has shown its password."""
    talk = Talk.to(proxy.port)
    talk.send(b"\x05\x01\x02" + password_message(name, b"secret"))
    return talk.expect(b"\x05\x02\x01\x00")


@pytest.mark.rfc(
    "RFC 1928 section 7", "If the method encapsulates, datagrams MUST be encapsulated."
)
def test_a_password_lets_its_user_s_datagrams_through(target):
    """RFC 1929 as for any request; the record has the user; a wrong password is refused."""
    with run_proxy(user=("ann:secret",)) as proxy:
        with Associated(proxy.port, talk=logged_in(proxy, b"ann")) as client:
            client.expect_to_work(target)
            assert "ann" == proxy.records[-1].user
            assert "user='ann'" in str(proxy.records[-1])
        with Talk.to(proxy.port) as talk:
            talk.send(b"\x05\x01\x02" + password_message(b"ann", b"wrong"))
            assert b"\x05\x02\x01" == talk.receive(4)[:3]
            talk.expect_eof()
        wait_until(lambda: len(proxy.services.associations) == 0, "the end of the first one")


@pytest.mark.parametrize("users, ends", [(("bob:secret",), True), (("ann:secret",), False)])
def test_a_removed_user_has_no_association(target, users, ends):
    """A reload ends associations of removed users, and no others; the line has the reason."""
    with run_proxy(user=("ann:secret",)) as proxy:
        with Associated(proxy.port, talk=logged_in(proxy, b"ann")) as client:
            client.expect_to_work(target)
            proxy.reload(proxy.config._replace(user=users))
            record = proxy.records[-1]
            if ends:
                client.talk.expect_eof()
                assert ("logged-out", "user 'ann' is not allowed any more") == (
                    record.end,
                    record.why,
                )
            else:
                client.expect_to_work(target)
                assert None is record.end


def test_rules_are_about_users_too(target):
    """``user ann command udp``: ann may use it for targets that rules allow; bob may not at all."""
    rules = (
        "deny user ann command udp to 127.0.0.9",
        "allow user ann command udp",
        "allow command connect",
    )
    with run_proxy(user=("ann:secret", "bob:secret"), rule=rules) as proxy:
        with UdpTarget("127.0.0.9", target.port) as denied:
            with Associated(proxy.port, talk=logged_in(proxy, b"ann")) as ann:
                ann.send_to(denied, b"x")
                ann.expect_to_work(target)
                wait_for_drops(proxy.records[-1], denied=1)
            with Associated(proxy.port, talk=logged_in(proxy, b"bob")) as bob:
                assert 2 == bob.rep
                assert ("refused", "bob") == (proxy.records[-1].end, proxy.records[-1].user)
            denied.expect_nothing()
