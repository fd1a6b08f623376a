"""What is known of targets counts as what it takes, also where names are long."""

import gc
import tracemalloc

import pytest

from minisocks.client import Client
from minisocks.exchange import TARGET_BYTES, Exchange
from minisocks.known import Known
from minisocks.loop import Loop
from minisocks.settings import Config
from minisocks.wire import Address, Atyp
from udp_client import header


@pytest.fixture
def exchange():
    """What associations share, without any."""
    loop = Loop()
    made = Exchange(loop)
    made.change(Config())
    yield made
    loop.stop()


def refuse(data, why):
    """Stands for the way of what is denied."""


def learn(known, number, length, is_sent):
    """Have a target of such a name be known, as written to or as refused."""
    name = (b"%d." % number).ljust(length, b"x")
    dst = Address(name, 1000 + number, Atyp.DOMAINNAME)
    key = header(dst.host, dst.port)
    if is_sent:
        ip = bytes((10, 1, *divmod(number, 256)))
        known.add_contact(dst, ip, ("10.0.0.1", 1))
        # A method each, as that of a socket is.
        known.add_way(key, (known.add_way, ("10.1.%d.%d" % divmod(number, 256), dst.port)))
    else:
        known.add_way(key, (refuse, "denied"))


@pytest.mark.parametrize("is_sent", [True, False], ids=["sent", "refused"])
@pytest.mark.parametrize("length", [8, 255])
def test_no_more_is_taken_than_is_counted(length, is_sent, exchange):
    """By a few bytes in a hundred; and all of it is given back, in whatever order."""
    known = Known(exchange, Client(("10.0.0.1", 1)))
    learn(known, 0, length, is_sent)
    gc.collect()
    tracemalloc.start()
    try:
        before, entries = tracemalloc.get_traced_memory()[0], known.entries
        for number in range(1, 250):
            learn(known, number, length, is_sent)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    counted = (known.entries - entries) * TARGET_BYTES
    print("%d bytes for each target, counted as %d" % (taken / 249, counted / 249))
    assert counted / 4 < taken < counted * 1.1
    assert known.entries == exchange.targets
    known.forget_ways(lambda key, way: key[5:6] == b"1")
    known.forget_decisions()
    assert (498 + 2 if is_sent else 0) == known.entries == exchange.targets
    known.forget()
    assert 0 == known.entries == exchange.targets
