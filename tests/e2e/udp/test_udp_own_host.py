"""Datagrams for 0.0.0.0 and ::, which are the proxy's own host, and answers to them."""

import contextlib
import socket

import pytest

from kit.support import GREETING, TIMEOUT, UDP_ASSOCIATE, Talk, address5, run_proxy, socks5


@pytest.mark.parametrize("asked, answers", [("0.0.0.0", "127.0.0.1"), ("::", "::1")])
def test_an_answer_comes_from_loopback(asked, answers):
    """What is written to 0.0.0.0 or :: is answered by loopback, and that answer arrives."""
    family = socket.AF_INET6 if ":" in asked else socket.AF_INET
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        client = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        proxy = stack.enter_context(run_proxy())
        talk = stack.enter_context(Talk.to(int(proxy.addresses[0].rpartition(":")[2])))
        target.settimeout(TIMEOUT)
        client.settimeout(TIMEOUT)
        try:
            target.bind((answers, 0))
        except OSError as exc:
            pytest.skip("no %s here: %s" % (answers, exc))
        port = target.getsockname()[1]
        request = socks5("0.0.0.0", 0, UDP_ASSOCIATE)
        rep, host, relay_port = talk.send(GREETING).expect(b"\5\0").send(request).receive_reply5()
        assert 0 == rep
        client.connect((host, relay_port))

        client.send(bytes(3) + address5(asked, port) + b"question")
        data, source = target.recvfrom(65536)
        target.sendto(data + b" answered", source)

        expected = bytes(3) + address5(answers, port) + b"question answered"
        assert expected == client.recv(65536)
