"""Descriptors beyond the budget: what is worth less than the wanted one is closed.

The attack is between hosts: handshakes that say nothing, as many as the proxy has descriptors.
"""

import contextlib
import resource

import pytest

from kit import hosts
from kit.support import GREETING, FakeTarget, Talk, open_descriptors, run_proxy, wait_until
from kit.udp_client import Associated, UdpTarget

CLIENT, PROXY, STRANGER = "10.1.0.1", "10.1.0.2", "10.2.0.1"
LIMIT = 80


@pytest.fixture
def network():
    """An attacker, an honest client that is a target, too, and a proxy with few descriptors."""
    with hosts.made_for_tests("client", "stranger", "proxy") as made:
        with hosts.or_skip():
            made.cable(("client", CLIENT + "/24"), ("proxy", PROXY + "/24"))
            made.cable(("stranger", STRANGER + "/24"), ("proxy", "10.2.0.2/24"))
        hard = resource.prlimit(made.proxy.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(made.proxy.pid, resource.RLIMIT_NOFILE, (LIMIT, hard))
        with hosts.without_bugs(made):
            yield made


def test_silent_clients_do_not_have_all_descriptors(network):
    """More handshakes may be pending than there are descriptors; a client elsewhere is greeted."""
    port = network.proxy.proxy(rule=["allow"], max_handshakes=256)
    with contextlib.ExitStack() as stack:
        for _ in range(LIMIT):
            stack.enter_context(Talk(network.stranger.connect(STRANGER, port, "10.2.0.2")))
        for _ in range(3):
            with Talk(network.client.connect(CLIENT, port, PROXY)) as talk:
                talk.send(GREETING).expect(b"\5\0")


def test_sockets_to_targets_are_closed_for_others():
    """The association without datagrams for longest loses them; its next one opens them again."""
    with UdpTarget() as target, run_proxy(max_associations=8) as proxy:
        with Associated(proxy.port) as first, Associated(proxy.port) as second:
            second.expect_to_work(target)
            first.expect_to_work(target)
            second.expect_to_work(target)
            before = open_descriptors()
            assert proxy.services.make_room()
            assert before - 1 == open_descriptors()
            second.expect_to_work(target)
            assert before - 1 == open_descriptors(), "that was not the one"
            first.expect_to_work(target)
            assert before == open_descriptors()


def test_lingering_connections_make_room_for_others():
    """They have received their replies already."""
    with FakeTarget() as target, run_proxy(rule=["deny"], max_handshakes=8) as proxy:
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                talk = stack.enter_context(Talk.to(proxy.port))
                assert 2 == talk.connect5("127.0.0.1", target.port)[0]
            wait_until(lambda: len(proxy.services.lingering) == 2, "both linger")
            before = open_descriptors()
            assert proxy.services.make_room()
            assert before - 1 == open_descriptors()
