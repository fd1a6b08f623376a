"""The life of a proxy: it starts or leaves nothing behind, and ``stop`` ends it as documented."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

import minisocks.proxy
from kit import inside
from kit.support import (
    GREETING,
    ROOT,
    TIMEOUT,
    CommandLine,
    FakeTarget,
    Talk,
    black_hole,
    nothing_left,
    open_descriptors,
    run_proxy,
    says,
    socks5,
    swallow,
    wait_until,
)
from minisocks import Config, ConfigError, ListenError, Proxy
from minisocks.net.resolver import Resolver


def test_start_returns_when_clients_can_connect():
    """After ``start`` no waiting or trying is needed, and addresses are the real ones."""
    with nothing_left():
        proxy = Proxy(Config(listen=("127.0.0.1:0", "127.0.0.2:0")))
        assert [] == proxy.addresses
        proxy.start()
        try:
            for address in proxy.addresses:
                host, _, port = address.rpartition(":")
                with Talk.to(int(port), host) as talk:
                    talk.send(GREETING).expect(b"\x05\x00")
        finally:
            proxy.stop()
        assert [] == proxy.addresses


def test_a_wrong_setting_raises_before_anything_starts():
    """The constructor raises ConfigError, and has opened nothing."""
    with nothing_left(), pytest.raises(ConfigError):
        Proxy(Config(listen=("127.0.0.1:0", "nonsense")))


def test_a_listener_that_cannot_be_had_leaves_nothing_behind(tmp_path):
    """``start`` raises ListenError, and what it had opened before is closed."""
    path = str(tmp_path / "sock")
    with nothing_left():
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen(1)
            third = "127.0.0.1:%d" % taken.getsockname()[1]
            proxy = Proxy(Config(listen=("127.0.0.1:0", "unix:" + path, third)))
            with pytest.raises(ListenError) as caught:
                proxy.start()
            assert third in str(caught.value)
            assert not os.path.exists(path)
            assert [] == proxy.addresses
        proxy.stop()


def test_no_room_for_a_thread_leaves_nothing_behind(monkeypatch):
    """``start`` raises RuntimeError when there is no thread, and gives everything back."""

    def no_room(*args):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("minisocks.net.loop.start_thread", no_room)
    with nothing_left(), pytest.raises(RuntimeError, match="thread"):
        Proxy(Config(listen=("127.0.0.1:0",))).start()


def test_a_proxy_that_never_started_can_be_stopped():
    """``stop`` before ``start`` does nothing."""
    with nothing_left():
        Proxy(Config(listen=("127.0.0.1:0",))).stop()


def test_stop_returns_when_everything_is_closed_and_may_be_called_again():
    """After ``stop`` the port is free and every connection, in whatever state, has ended."""
    with nothing_left(), FakeTarget() as target, black_hole() as hole:
        with contextlib.ExitStack() as stack:
            with run_proxy() as proxy:
                silent, half, dialing, relayed = [
                    stack.enter_context(Talk.to(proxy.port)) for _ in range(4)
                ]
                half.send(b"\x05")
                dialing.send(GREETING + socks5("127.0.0.1", hole)).expect(b"\x05\x00")
                relayed.connect5("127.0.0.1", target.port)
                wait_until(lambda: len(proxy) == 4)
                proxy.stop()
                assert 0 == len(proxy)
                with socket.socket() as again:
                    again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    again.bind(("127.0.0.1", proxy.port))
                relayed.expect_reset()
                for talk in (silent, half, dialing):
                    talk.sock.setblocking(False)  # it is there already
                    with contextlib.suppress(ConnectionResetError):
                        assert b"" == talk.sock.recv(1)
                proxy.stop()


@pytest.mark.parametrize("attempt", range(5))
def test_stop_may_be_called_by_many_threads_at_once(attempt):
    """When ``stop`` returns, in any thread, everything is closed."""
    with nothing_left(), FakeTarget() as target, run_proxy() as proxy:
        wrong = []
        go = threading.Barrier(6)

        def stop():
            go.wait()
            try:
                proxy.stop()
                if proxy.addresses or len(proxy):
                    wrong.append("not closed")
            except (AttributeError, OSError, RuntimeError, ValueError) as exc:
                wrong.append(exc)

        with Talk.to(proxy.port) as talk, Talk.to(proxy.port):
            talk.connect5("127.0.0.1", target.port)
            threads = [threading.Thread(target=stop) for _ in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert [] == wrong


def test_stopping_to_listen_ends_handshakes_and_leaves_connections():
    """Pending handshakes are closed, new clients are not accepted, open connections live on."""
    with nothing_left(), FakeTarget() as target, run_proxy() as proxy:
        with contextlib.ExitStack() as stack:
            relayed = stack.enter_context(Talk.to(proxy.port))
            relayed.connect5("127.0.0.1", target.port)
            unfinished = [stack.enter_context(Talk.to(proxy.port)) for _ in range(6)]
            for talk in unfinished[3:]:
                talk.send(b"\x05")
            wait_until(lambda: proxy.stats().handshakes == 6 and len(proxy) == 7)
            proxy.stop_listening()
            for talk in unfinished[:3]:
                talk.expect_eof()
            for talk in unfinished[3:]:
                with contextlib.suppress(ConnectionResetError):  # its byte was not read yet
                    talk.expect_eof()
            with pytest.raises(ConnectionRefusedError):
                Talk.to(proxy.port)
            relayed.send(b"still here").expect(b"still here")
            assert 1 == len(proxy)


@pytest.mark.limits
def test_a_client_that_says_more_at_the_end_is_closed_too():
    """A client that waits and sends more at the end is neither served nor forgotten."""
    for _ in range(10):
        with nothing_left(), run_proxy() as proxy, contextlib.ExitStack() as stack:
            talks = [stack.enter_context(Talk.to(proxy.port)) for _ in range(20)]
            for talk in talks:
                talk.send(b"\x05")
            wait_until(lambda: len(proxy) == 20)
            thread = threading.Thread(target=proxy.stop_listening)
            thread.start()
            for talk in talks:
                with contextlib.suppress(ConnectionError):
                    talk.send(b"\x01")
            thread.join()
            for talk in talks:
                with contextlib.suppress(ConnectionResetError):
                    talk.expect_eof()
            wait_until(lambda: len(proxy) == 0)


def test_grace_ends_with_the_last_connection():
    """``stop`` with grace returns as soon as the last connection has finished."""
    with nothing_left(), FakeTarget() as target, run_proxy() as proxy:
        with Talk.to(proxy.port) as talk:
            talk.connect5("127.0.0.1", target.port)
            stopping = threading.Thread(target=proxy.stop, kwargs={"grace": 600.0})
            stopping.start()
            wait_until(lambda: proxy.addresses == [])
            for _ in range(5):
                talk.send(b"still here").expect(b"still here")
            assert stopping.is_alive()
            talk.finish().expect_eof()
            stopping.join(TIMEOUT)
            assert not stopping.is_alive()


@pytest.mark.parametrize("grace", [0.0, 0.05])
def test_what_is_left_after_the_grace_is_reset(grace):
    """A stream that is cut off ends in a RST on both sides; a FIN would mean it is complete."""
    heard = []

    def script(talk):
        try:
            heard.append(talk.rest())
        except ConnectionResetError:
            heard.append("reset")

    with nothing_left(), FakeTarget(script) as target, run_proxy() as proxy:
        with Talk.to(proxy.port) as talk:
            talk.connect5("127.0.0.1", target.port)
            proxy.stop(grace=grace)
            talk.expect_reset()
        wait_until(lambda: heard)
    assert ["reset"] == heard


def test_the_end_does_not_wait_for_a_name_server():
    """A lookup that hangs keeps neither ``stop`` nor its descriptors."""
    release = threading.Event()

    def hang(*args):
        release.wait(TIMEOUT)
        return []

    before = open_descriptors()
    try:
        with run_proxy(resolver=Resolver(hang)) as proxy, Talk.to(proxy.port) as talk:
            talk.send(GREETING + socks5(b"name.invalid", 80)).expect(b"\x05\x00")
            wait_until(lambda: len(proxy) == 1)
            proxy.stop()
            assert not release.is_set()
            talk.expect_eof()
        wait_until(lambda: open_descriptors() == before, "the descriptors back")
    finally:
        release.set()


def test_several_proxies_live_in_one_process(target):
    """Proxies share nothing: one that stops leaves the other's connections alone."""
    with nothing_left(), run_proxy() as one, run_proxy(user=("a:b",)) as two:
        with Talk.to(one.port) as first, Talk.to(two.port) as second:
            second.send(b"\x05\x01\x02").expect(b"\x05\x02")
            first.connect5("127.0.0.1", target.port)
            two.stop()
            second.expect_eof()
            first.send(b"x").expect(b"x")
            assert (1, 0) == (len(one), len(two))
            first.finish().expect_eof()


def test_a_proxy_can_be_made_again_and_again(target):
    """Thirty in a row leave nothing behind."""
    with nothing_left():
        for _ in range(30):
            with run_proxy() as proxy, Talk.to(proxy.port) as talk:
                assert 0 == talk.connect5("127.0.0.1", target.port)[0]
                talk.finish().expect_eof()


def test_it_touches_no_signal_and_no_log_handler():
    """Embedding changes no signal and no log handler of the process."""
    code = (
        "import logging, signal, sys\n"
        "import minisocks\n"
        "assert 'click' not in sys.modules\n"
        "before = [signal.getsignal(n) for n in (1, 2, 13, 15)], logging.root.handlers[:]\n"
        "with minisocks.Proxy(minisocks.Config(listen=('127.0.0.1:0',))) as proxy:\n"
        "    after = [signal.getsignal(n) for n in (1, 2, 13, 15)], logging.root.handlers\n"
        "    assert before == after\n"
        "    assert 'click' not in sys.modules\n"
        "handlers = logging.getLogger('minisocks').handlers\n"
        "assert [type(h).__name__ for h in handlers] == ['NullHandler']\n"
        "assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()\n"
    )
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], stderr=subprocess.PIPE, cwd=ROOT, timeout=60
    )
    assert (b"", 0) == (child.stderr, child.returncode)


# As a process of its own, with signals


def wait_for_exit(command):
    """Return the exit status, waiting for the end without a further signal."""
    return command.end(None)


@pytest.mark.parametrize("number", [2, 15], ids=["INT", "TERM"])
def test_without_connections_a_signal_ends_it_at_once(number):
    """An idle proxy exits 0 at once, however much grace there would be, without a traceback."""
    with CommandLine("-l", "0", "--grace", "600") as command:
        began = time.monotonic()
        assert 0 == command.end(number)
        assert time.monotonic() - began < 10
        assert [] == [line for line in command.lines if "Trace" in line or "Warning" in line]


@pytest.mark.parametrize("number", [2, 15], ids=["INT", "TERM"])
def test_after_a_signal_connections_may_finish(number):
    """Connections live on within the grace, no client is accepted; then it exits 0 at once."""
    with FakeTarget() as target, CommandLine("-l", "0", "--grace", "600") as command:
        with Talk.to(command.ports[0]) as talk, Talk.to(command.ports[0]) as unfinished:
            talk.connect5("127.0.0.1", target.port)
            unfinished.send(GREETING).expect(b"\x05\x00")
            command.process.send_signal(number)
            unfinished.expect_eof()

            def refuses():
                try:
                    Talk.to(command.ports[0]).close()
                except ConnectionRefusedError:
                    return True
                except ConnectionResetError:
                    pass
                return False

            wait_until(refuses, "the closed port")
            talk.send(b"still here").expect(b"still here").finish().expect_eof()
            assert 0 == wait_for_exit(command)


def test_after_the_grace_the_rest_is_reset():
    """When the grace is over connections get a RST, and it exits 0."""
    with FakeTarget(swallow) as target, CommandLine("-l", "0", "--grace", "0.2") as command:
        with Talk.to(command.ports[0]) as talk:
            talk.connect5("127.0.0.1", target.port)
            command.process.send_signal(15)
            talk.expect_reset()
            assert 0 == wait_for_exit(command)
        assert any("end=shutdown" in line for line in command.lines)


@pytest.mark.parametrize("second", [2, 15], ids=["INT", "TERM"])
def test_a_second_signal_ends_the_grace(second):
    """An operator that signals twice does not want to wait."""
    with FakeTarget(swallow) as target, CommandLine("-l", "0", "--grace", "600") as command:
        with Talk.to(command.ports[0]) as talk, Talk.to(command.ports[0]) as unfinished:
            talk.connect5("127.0.0.1", target.port)
            unfinished.send(GREETING).expect(b"\x05\x00")
            command.process.send_signal(15)
            unfinished.expect_eof()  # so the first signal has been seen
            command.process.send_signal(second)
            talk.expect_reset()
            assert 0 == wait_for_exit(command)
        assert [] == [line for line in command.lines if "Trace" in line]


def test_a_storm_of_signals_ends_it_without_a_traceback():
    """Signals that keep coming, as from an impatient hand on Ctrl-C, end it like two."""
    with FakeTarget(says(b"x")) as target, CommandLine("-l", "0", "--grace", "600") as command:
        with Talk.to(command.ports[0]) as talk:
            talk.connect5("127.0.0.1", target.port)
            sent = []

            def has_ended():
                command.process.send_signal((2, 15)[len(sent) % 2])
                sent.append(1)
                return command.process.poll() is not None

            wait_until(has_ended, "the end")
            # The last of them may meet the interpreter on its way out.
            assert wait_for_exit(command) in (0, 130, -2, -15)
        assert [] == [line for line in command.lines if "Trace" in line]


def test_no_resource_is_left_to_the_garbage_collector(target):
    """A run with warnings as errors and development checks has no warning about resources."""
    env = dict(os.environ, PYTHONWARNINGS="error", PYTHONDEVMODE="1")
    with CommandLine("-l", ":0", env=env) as command:
        for action in (Talk.close, Talk.reset, Talk.finish):
            talk = Talk.to(command.ports[0])
            talk.connect5("127.0.0.1", target.port)
            action(talk)
            talk.close()
        Talk.to(command.ports[0]).close()
        assert 0 == command.end()
        assert [] == [line for line in command.lines if "Warning" in line or "Trace" in line]
    assert minisocks.proxy.__all__ == ["Proxy"]


def test_starting_twice_is_refused_and_harms_nothing(target):
    """A second start raises; the proxy that runs goes on."""
    with run_proxy() as proxy:
        with pytest.raises(RuntimeError, match="started already"):
            proxy.start()
        with Talk.to(proxy.port) as talk:
            assert 0 == talk.connect5("127.0.0.1", target.port)[0]


def test_stop_with_grace_ends_the_run_that_it_saw(target):
    """A program that starts it again meanwhile has a proxy that works."""
    with run_proxy() as proxy:
        for _ in range(10):
            with Talk.to(proxy.port) as talk:
                assert 0 == talk.connect5("127.0.0.1", target.port)[0]
                slow = threading.Thread(target=proxy.stop, args=(TIMEOUT,))
                slow.start()
                wait_until(lambda: not proxy.addresses)
                proxy.stop()
                proxy.start()
                slow.join(TIMEOUT)
                assert not slow.is_alive()
                with Talk.to(proxy.port) as other:
                    assert 0 == other.connect5("127.0.0.1", target.port)[0]
                    other.send(b"x").expect(b"x")


@pytest.mark.parametrize("grace", ["x", None])
def test_stop_with_a_grace_that_is_none_stops_nothing(grace, target):
    """A wrong argument raises before anything is done."""
    with run_proxy() as proxy:
        with pytest.raises((TypeError, ValueError)):
            proxy.stop(grace)
        with Talk.to(proxy.port) as talk:
            assert 0 == talk.connect5("127.0.0.1", target.port)[0]


def test_a_stop_that_is_interrupted_can_be_repeated(monkeypatch):
    """Ctrl-C while a hook is waited for: the next stop of the same thread ends it all."""
    for part_of in (inside.acceptor_of, lambda proxy: proxy.services.loop):
        proxy = Proxy(Config(listen=("127.0.0.1:0",)))
        proxy.start()
        ended, endpoints = inside.end_of_run(proxy), inside.endpoints(proxy)
        part = part_of(proxy)

        def interrupted(stop=part.stop):
            stop()
            raise KeyboardInterrupt

        monkeypatch.setattr(part, "stop", interrupted)
        with pytest.raises(KeyboardInterrupt):
            proxy.stop()
        proxy.stop()
        assert ended.is_set()
        assert [] == [each for each in endpoints if each.listener.sock.fileno() >= 0]
        proxy.start()
        proxy.stop()


def test_stop_from_many_threads_returns_when_all_is_closed():
    """For each of the threads nothing is left to close."""
    for _ in range(10):
        proxy = Proxy(Config(listen=("127.0.0.1:0",)))
        proxy.start()
        fds = [door.listener.sock for door in inside.endpoints(proxy)]
        left = []

        def stop(proxy=proxy, fds=fds, left=left):
            proxy.stop()
            left.extend(sock for sock in fds if sock.fileno() >= 0)
            left.extend(proxy.addresses)

        threads = [threading.Thread(target=stop) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        assert [] == left
        assert proxy.services is None
