"""``minisocks check`` and exits, where a name server notes what it is asked, and hosts are real."""

import sys

import pytest

from kit import parents
from kit.parents import FAR4, MIDDLE4, PASSWORD, TARGET4, Place
from kit.support import ROOT, closed_port

pytestmark = pytest.mark.others


@pytest.fixture(scope="module")
def network():
    """The three hosts."""
    with parents.made_for_tests() as made:
        yield made


def check(network, *args):
    """Run the command on the proxy's host; return its exit status and its output."""
    run = 'cd "$0" && exec "$@"'
    command = (sys.executable, "-m", "minisocks", "check", *args)
    return network.proxy.run("sh", "-c", run, ROOT, *command)


@pytest.mark.parametrize(
    "exits, status, asked",
    [
        (["x=socks5h://" + MIDDLE4], 0, False),
        (["x=http://%s:3128" % MIDDLE4], 0, False),
        (["y=socks5://%s" % MIDDLE4, "x=y, socks4a://10.9.9.9"], 0, False),
        (["x=socks5://" + MIDDLE4], 1, True),
        (["x=socks5h://%s resolve here" % MIDDLE4], 1, True),
    ],
)
def test_a_name_is_looked_up_only_where_the_exit_says_it(network, exits, status, asked):
    """The warnings ask for nothing, either; the name server here knows no name."""
    options = [word for text in exits for word in ("--exit", text)]
    question = ("--to", "four.example:80", "--rule", "allow via x", *options)
    found, out = check(network, *question)
    names = {name for name, _kind in network.looked_up}
    del network.looked_up[:]

    assert status == found, out
    assert ("four.example" in names) == asked
    check(network, "--rule", "allow via x", *options)
    assert not network.looked_up


def test_exits_are_tried_through_other_hosts(network):
    """A hop that this host cannot reach is reached through the one before, and logs us in there."""
    first = Place(network.parent, MIDDLE4, closed_port(), "target")
    second = Place(network.target, FAR4, closed_port(), "lo")
    with parents.microsocks(network, first, False), parents.microsocks(network, second, True):
        network.listens(first.address, first.port)
        near = "socks5h://%s:%d" % (first.address, first.port)
        network.parent.ip("route add %s via %s" % (FAR4, TARGET4))
        far = "socks5h://%s%s:%d"
        there = (second.address, second.port)
        options = [
            *("--exit", "near=" + near),
            *("--exit", "chain=near, " + far % (("ann:secret@",) + there)),
            *("--exit", "wrong=near, " + far % (("ann:wrong@",) + there)),
            *("--exit", "alone=" + far % (("",) + there)),
        ]
        status, out = check(network, "--exits", *options)
    lines = out.splitlines()
    hop = far % (("",) + there)
    assert 1 == status
    assert "near   works  %s greets" % near in lines
    assert "chain  works  %s greets; %s greets, and takes the login of 'ann'" % (near, hop) in lines
    assert "wrong  fails  %s: it refuses user and password (status 2)" % hop in lines
    (line,) = [line for line in lines if line.startswith("alone ")]
    assert line.startswith("alone  fails  %s cannot be reached: %s: " % (hop, FAR4))
    assert PASSWORD not in out
    assert not network.looked_up
