"""Whether an address is this host's own: what the kernel says, and what is kept of it."""

import errno
import os
import socket
import sys
import threading

import pytest

from kit import hosts, inside
from kit.support import ROOT, run_proxy
from minisocks.net import netlink, ownaddress
from minisocks.net.egress import Egress
from minisocks.net.ownaddress import KernelRoutes, OwnAddresses
from minisocks.wire import packed_ip

has_netlink = pytest.mark.skipif(not hasattr(socket, "AF_NETLINK"), reason="no netlink here")
has_ipv6 = os.path.exists("/proc/net/if_inet6")


@pytest.fixture(params=["netlink", "connect"])
def own(request):
    """The question, asked in both ways."""
    if request.param == "connect":
        yield OwnAddresses()
        return
    with KernelRoutes() as kernel:
        yield OwnAddresses(kernel)


@pytest.mark.parametrize("text", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_our_own(own, text):
    """All of it."""
    if text == "::1" and not has_ipv6:
        pytest.skip("no IPv6 here")
    assert own(packed_ip(text)) is True


@pytest.mark.parametrize("text", ["198.51.100.1", "2001:db8::1", "224.0.0.1", "ff02::1", "fe80::1"])
def test_others_are_not_our_own(own, text):
    """Addresses to which there is no route are not our own either."""
    assert own(packed_ip(text)) is False


def test_a_public_address_is(own):
    """That of a NAT in front, in any form of it."""
    here = OwnAddresses(inside.kernel_of(own), public=["198.51.100.1", "2001:db8::1"])
    for text, answer in [("198.51.100.1", True), ("2001:db8::1", True), ("198.51.100.2", False)]:
        assert answer is here(packed_ip(text))
    assert here(packed_ip("::ffff:198.51.100.1")) is True


def no_descriptor(*args):
    raise OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize("text", ["198.51.100.1", "127.0.0.1"])
def test_without_a_descriptor_it_is_in_doubt(own, monkeypatch, text):
    """No rule takes doubt for no; the kernel is asked again when there is a descriptor."""
    with monkeypatch.context() as patched:
        patched.setattr("minisocks.net.ownaddress.socket.socket", no_descriptor)
        assert own(packed_ip(text)) is None
    assert own(packed_ip(text)) is (text == "127.0.0.1")


@has_netlink
def test_behind_the_end_it_is_in_doubt():
    """A thread that outlives the proxy hears no yes, and opens nothing."""
    kernel = KernelRoutes()
    own = OwnAddresses(kernel)
    assert own(packed_ip("198.51.100.1")) is False
    kernel.close()
    assert own(packed_ip("198.51.100.1")) is None
    assert own(packed_ip("198.51.100.2")) is None
    unused = KernelRoutes()
    unused.close()
    assert OwnAddresses(unused)(packed_ip("198.51.100.1")) is None
    assert not inside.open_sockets(unused)


@has_netlink
def test_a_sandbox_without_netlink_is_asked_by_connect(monkeypatch):
    """The answers are those of a system without netlink."""

    def no_netlink(*args):
        if args[0] == socket.AF_NETLINK:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return socket_type(*args)

    socket_type = socket.socket
    monkeypatch.setattr("minisocks.net.ownaddress.socket.socket", no_netlink)
    own = OwnAddresses(KernelRoutes())
    assert [True, False] == [own(packed_ip(ip)) for ip in ("127.0.0.1", "198.51.100.1")]


@has_netlink
@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM])
def test_a_question_that_is_not_understood_is_asked_by_connect(monkeypatch, code):
    """No answer of the kernel's but "no way" is taken for no."""

    def ask(netlink, question):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(netlink.Netlink, "ask", ask)
    with KernelRoutes() as kernel:
        own = OwnAddresses(kernel)
        assert [True, False] == [own(packed_ip(ip)) for ip in ("127.0.0.1", "198.51.100.1")]


@has_netlink
def test_an_answer_is_kept(monkeypatch):
    """The kernel is asked once; of too many answers, none is kept for ever."""
    asked = []
    ask = netlink.Netlink.ask
    monkeypatch.setattr(
        netlink.Netlink, "ask", lambda netlink, q: asked.append(q) or ask(netlink, q)
    )
    monkeypatch.setattr(ownaddress, "MAX_ANSWERS", 8)
    with KernelRoutes() as kernel:
        own = OwnAddresses(kernel)
        for _ in range(3):
            assert own(packed_ip("127.0.0.1")) is True
        assert 1 == len(asked)
        for number in range(100):
            own(bytes((127, 0, 1, number)))
            assert len(kernel.netlink().answers()) <= 8


@has_netlink
def test_an_answer_from_before_a_change_is_not_kept_after_it(monkeypatch):
    """Asked before, entered after: it goes into a dict that is no longer read."""
    ask = netlink.Netlink.ask

    def change_meanwhile(netlink, question):
        answer = ask(netlink, question)
        inside.forget_answers(netlink)
        return answer

    with KernelRoutes() as kernel:
        own = OwnAddresses(kernel)
        with monkeypatch.context() as patched:
            patched.setattr(netlink.Netlink, "ask", change_meanwhile)
            assert own(packed_ip("127.0.0.1")) is True
        assert {} == kernel.netlink().answers()


@has_netlink
def test_many_threads_ask_at_once():
    """Each hears the answer to its own question."""
    wrong, begin = [], threading.Barrier(8)

    def work(number):
        begin.wait()
        for n in range(200):
            ours = (n + number) % 2
            ip = bytes((127, number, n // 250, n % 250)) if ours else bytes((198, 51, 100, n % 250))
            if own(ip) is not bool(ours):
                wrong.append(ip)

    with KernelRoutes() as kernel:
        own = OwnAddresses(kernel)
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [] == wrong


@has_netlink
def test_a_forked_process_has_sockets_of_its_own():
    """With a shared one each process would take the other's answers, and its news of changes."""
    with KernelRoutes() as kernel:
        own = OwnAddresses(kernel)
        assert own(packed_ip("127.0.0.1")) is True
        ours = kernel.netlink()
        pid = os.fork()
        if not pid:
            theirs = kernel.netlink()
            right = theirs is not ours and own(packed_ip("127.0.0.2")) is True
            kernel.close()
            os._exit(0 if right else 1)
        assert 0 == os.waitpid(pid, 0)[1]
        assert ours is kernel.netlink()
        assert own(packed_ip("198.51.100.9")) is False


@has_netlink
def test_descriptors_are_given_back():
    """A proxy that has ended holds none; one that was never asked had none."""

    def descriptors():
        return sorted(os.listdir("/proc/self/fd"))

    before = descriptors()
    for _ in range(3):
        with run_proxy() as proxy:
            access = proxy.services.access
            idle = len(descriptors())
            assert access.own(packed_ip("198.51.100.1")) is False
            assert idle + 2 == len(descriptors())
            proxy.reload(proxy.config._replace(public_address=("198.51.100.1",)))
            assert proxy.services.access.own(packed_ip("198.51.100.1")) is True
            assert idle + 2 == len(descriptors())
        assert before == descriptors()


#: Prints what is ours of the addresses, which have a scope, by the interface if there is one.
PROGRAM = """
import socket, sys
from minisocks.net.ownaddress import KernelRoutes, OwnAddresses
from minisocks.net.egress import Egress
from minisocks.wire import packed_ip
with KernelRoutes() as kernel:
    own = OwnAddresses(kernel, Egress(interface=sys.argv[1]))
    for text in sys.argv[2:]:
        ip, _, link = text.partition("%")
        print(text, own(packed_ip(ip), socket.if_nametoindex(link) if link else 0))
"""


@pytest.fixture(scope="module")
def host():
    """A host with two interfaces."""
    with hosts.made_for_tests("one", "two", "other") as made:
        with hosts.or_skip():
            made.cable(("one", "10.1.0.1/24", "fe80::1/64"), ("two", "10.1.0.2/24"))
            made.cable(("one", "10.2.0.1/24", "fe80::2/64"), ("other", "10.2.0.2/24"))
        yield made.one


def answers(host, interface, *texts):
    program = "import sys; sys.path.insert(0, %r)\n%s" % (ROOT, PROGRAM)
    status, said = host.run(sys.executable, "-c", program, interface, *texts)
    assert 0 == status, said
    return dict(line.split(" ") for line in said.splitlines())


@has_netlink
def test_a_link_local_address_is_ours_on_its_link(host):
    """There may be another host that has it on another one."""
    expected = {
        "fe80::1%two": "True",
        "fe80::2%two": "False",
        "fe80::1%other": "False",
        "fe80::2%other": "True",
    }
    assert expected == answers(host, "", *expected)


@has_netlink
@pytest.mark.parametrize("interface", ["", "two", "other", "missing"])
def test_by_an_interface_the_answer_is_what_the_connection_does(host, interface):
    """A socket that is bound to the interface goes there, or not."""
    texts = ["10.1.0.1", "10.2.0.1", "10.1.0.2", "10.1.0.255", "198.51.100.1", "127.0.0.1"]
    got = answers(host, interface, *texts)
    expected = {}
    for text in texts:
        with host.udp() as sock:
            try:
                if interface:
                    name = interface.encode() + b"\0"
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                sock.connect((text, 9))
                is_broadcast = text.endswith("255")
                expected[text] = str(sock.getsockname()[0] == text or is_broadcast)
            except OSError:
                expected[text] = "False"
    if interface == "other":
        del expected["10.1.0.255"], got["10.1.0.255"]  # which is a broadcast on the other link
    assert expected == got


def test_an_egress_that_cannot_be_used_reaches_nothing():
    """An interface that is not there: the connection will fail, and its error names that."""
    with KernelRoutes() as kernel:
        own = OwnAddresses(kernel, Egress(interface="missing0"))
        assert own(packed_ip("198.51.100.1")) is False
