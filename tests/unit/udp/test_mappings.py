"""What is known of targets counts as what it takes, also where names are long."""

import gc
import tracemalloc

import pytest

from kit import inside
from kit.udp_client import access_of, header, new_table
from minisocks.net.loop import Loop
from minisocks.policy.client import Client
from minisocks.udp.mappings import Mappings
from minisocks.udp.table import KEPT_TARGETS, MAX_TARGETS, TARGET_BYTES
from minisocks.wire import Address, Atyp


@pytest.fixture
def table():
    """The table of associations, without any."""
    loop = Loop()
    made = new_table(loop)
    yield made
    loop.stop()


def refuse(data, why):
    """Stands for the way of what is denied."""


def learn(mappings, number, length, is_sent):
    """Have a target of such a name be known, as written to or as refused."""
    name = (b"%d." % number).ljust(length, b"x")
    dst = Address(name, 1000 + number, Atyp.DOMAINNAME)
    key = header(dst.host, dst.port)
    if is_sent:
        ip = number.to_bytes(4, "big")
        mappings.add_contact(dst, ip, ("10.0.0.1", 1))
        # A method each, as that of a socket is.
        mappings.add_way(key, (mappings.add_way, ("10.1.%d.%d" % divmod(number, 256), dst.port)))
    else:
        mappings.add_way(key, (refuse, "denied"))


@pytest.mark.soak
@pytest.mark.parametrize("is_sent", [True, False], ids=["sent", "refused"])
@pytest.mark.parametrize("length", [8, 255])
def test_no_more_is_taken_than_is_counted(length, is_sent, table):
    """By a few bytes in a hundred; and all of it is given back, in whatever order."""
    mappings = Mappings(table, Client(("10.0.0.1", 1)))
    learn(mappings, 0, length, is_sent)
    gc.collect()
    tracemalloc.start()
    try:
        before, entries = tracemalloc.get_traced_memory()[0], mappings.entries
        for number in range(1, 250):
            learn(mappings, number, length, is_sent)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    counted = (mappings.entries - entries) * TARGET_BYTES
    print("%d bytes for each target, counted as %d" % (taken / 249, counted / 249))
    assert counted / 4 < taken < counted * 1.1
    assert mappings.entries == table.targets
    mappings.forget_ways(lambda key, way: key[5:6] == b"1")
    mappings.forget_decisions()
    assert (498 + 2 if is_sent else 0) == mappings.entries == table.targets
    mappings.forget()
    assert 0 == mappings.entries == table.targets


def is_known(mappings, number):
    """Return whether that target is known, without a use of it."""
    ip = number.to_bytes(4, "big")
    return inside.is_known_target(mappings, ip, number)


@pytest.mark.soak
@pytest.mark.parametrize(
    "limit, kept", [(None, KEPT_TARGETS), (16 << 20, 1024), (1 << 20, 64)], ids=str
)
@pytest.mark.parametrize("answers", [0, 1], ids=["silent", "answering"])
def test_the_last_targets_are_known(limit, kept, answers, table):
    """A client alone is owed the answers of so many, however many it wrote to before."""
    table.change(access_of(memory_limit=limit))
    mappings = Mappings(table, Client(("10.0.0.1", 1)))
    for number in range(1, 4 * kept):
        dst, ip = Address(b"x", number, Atyp.DOMAINNAME), number.to_bytes(4, "big")
        mappings.add_contact(dst, ip, None)
        mappings.add_way(ip, (mappings.add_way, None))
        if answers:
            mappings.add_header(number, b"")
        if number % (kept // 16) == 0:
            assert all(is_known(mappings, n) for n in range(max(1, number - kept + 1), number + 1))
            assert table.targets <= inside.shares(table)[1].most + 3
    assert MAX_TARGETS * TARGET_BYTES == 8 << 20
    assert mappings.entries == table.targets
