"""A reload that takes a user away, or a target: what has not been granted yet ends with it."""

import threading

import pytest

from kit import inside
from kit.bind_client import Waiting
from kit.support import (
    BIND,
    UDP_ASSOCIATE,
    FakeTarget,
    Talk,
    black_hole,
    password_message,
    run_proxy,
    socks4,
    socks5,
    wait_until,
)
from minisocks.net.resolver import Resolver
from minisocks.server.associate import Associate
from minisocks.server.connect import Connect

ANN, BOB = "ann:secret", "bob:secret"
USERS = (ANN, BOB)
NOT_ALLOWED = 2


def changed(proxy, **settings):
    """Have *proxy* reload with these settings changed."""
    proxy.reload(proxy.config._replace(**settings))


def asks(proxy, user, host, port=0, cmd=1):
    """Return a client that has logged in as *user* and sent its request."""
    talk = Talk.to(proxy.port)
    talk.send(b"\5\1\2" + password_message(*user.encode().split(b":"))).expect(b"\5\2\1\0")
    return talk.send(socks5(host, port, cmd))


def is_dialing(job):
    """Return whether *job* is a CONNECT that waits for its target."""
    return isinstance(job, Connect) and inside.is_dialing(job)


def refused(talk):
    """Receive REP 02, then EOF."""
    with talk:
        assert NOT_ALLOWED == talk.receive_reply5()[0]
        talk.expect_eof()


def test_a_bind_that_waits_for_its_peer(access_log):
    """The BIND of a removed user ends, and that of another one goes on."""
    with run_proxy(user=USERS) as proxy:
        ann = asks(proxy, ANN, "127.0.0.1", cmd=BIND)
        bob = asks(proxy, BOB, "127.0.0.1", cmd=BIND)
        assert 0 == ann.receive_reply5()[0]
        host, port = bob.receive_reply5()[1:]
        changed(proxy, user=(BOB,))
        refused(ann)
        with Talk.to(port, host), bob:
            assert 0 == bob.receive_reply5()[0]
    access_log.wait_for("end=refused why='user \"ann\" is not allowed any more'")


@pytest.mark.parametrize("cmd", [1, BIND])
def test_a_look_up_that_waits_for_its_name_server(cmd):
    """It ends although no answer has come; a new password makes another user, too."""
    release = threading.Event()

    def getaddrinfo(*args):
        release.wait()
        return []

    resolver = Resolver(getaddrinfo)
    with run_proxy(resolver, user=USERS) as proxy:
        ann = asks(proxy, ANN, b"name.test", 80, cmd)
        bob = asks(proxy, BOB, b"name.test", 80, cmd)
        wait_until(lambda: len(proxy.services.loop) == 2)
        changed(proxy, user=("ann:other", BOB))
        refused(ann)
        release.set()
        with bob:
            assert 4 == bob.receive_reply5()[0]
    resolver.close()


def test_a_dial_that_waits_for_its_target():
    """The attempts are given up; those of another user, or without a user, are not."""
    rule = ("allow user none", "allow")
    with black_hole() as hole, run_proxy(user=USERS, rule=rule) as proxy:
        ann, bob = (asks(proxy, user, "127.0.0.1", hole) for user in USERS)
        with Talk.to(proxy.port) as local, bob:
            local.send(socks4("127.0.0.1", hole))
            wait_until(lambda: len(proxy.services.loop) == 3)
            changed(proxy, user=(BOB,))
            refused(ann)
            assert {"bob", None} == {r.user for r in proxy.records if r.end is None}
            changed(proxy, rule=("deny to loopback", *rule))
            refused(bob)
            assert b"\0\x5b" == local.receive(8)[:2]
        wait_until(lambda: len(proxy) == 0)


def test_a_dial_goes_on_with_the_addresses_that_are_left():
    """Where a reload denies some addresses of a name, those are given up."""
    with black_hole() as hole, FakeTarget(host="127.0.0.2") as target:
        names = {"both.test": ["127.0.0.1", "127.0.0.2"], "one.test": ["127.0.0.1"]}
        with run_proxy(resolve=names.get, rule=["allow"]) as proxy:
            with Talk.to(proxy.port) as both, Talk.to(proxy.port) as one:
                for talk, name in ((both, b"both.test"), (one, b"one.test")):
                    talk.send(b"\5\1\0" + socks5(name, hole)).expect(b"\5\0")
                loop = proxy.services.loop
                wait_until(lambda: 2 == len(list(filter(is_dialing, inside.jobs(loop)))))
                changed(proxy, rule=("deny to 127.0.0.1", "allow"))
                assert NOT_ALLOWED == one.receive_reply5()[0]
                # Nothing listens at this port of the other address.
                assert 5 == both.receive_reply5()[0]
        assert not target.talks


@pytest.mark.parametrize("settings", [{"user": (BOB,)}, {"rule": ("deny to loopback", "allow")}])
def test_a_connection_that_is_there_when_the_reload_comes(monkeypatch, target, settings):
    """The users and rules in force at that moment decide, before it is granted."""
    with run_proxy(user=USERS) as proxy:
        inside.after_new_dial(monkeypatch, Connect, lambda: changed(proxy, **settings))
        refused(asks(proxy, ANN, target.host, target.port))


@pytest.mark.parametrize("what", [Connect, Associate])
def test_a_request_on_its_way_into_the_loop(monkeypatch, what):
    """The users and rules in force when it begins in the loop decide."""
    real = what.start

    def start(job):
        changed(proxy, user=(BOB,))
        real(job)

    with run_proxy(user=USERS) as proxy:
        monkeypatch.setattr(what, "start", start)
        cmd = 1 if what is Connect else UDP_ASSOCIATE
        refused(asks(proxy, ANN, b"name.test" if cmd == 1 else "0.0.0.0", 80, cmd))
        assert 0 == len(proxy.services.associations)


def test_a_client_without_a_user_goes_on():
    """With new users, clients that need no user stay connected."""
    with run_proxy(rule=("allow user none",)) as proxy, Waiting(proxy.port) as client:
        changed(proxy, user=(ANN,))
        with client.peer() as peer:
            client.expect_peer(peer)
            client.expect_to_work(peer)
