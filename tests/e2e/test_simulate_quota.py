"""``scripts/simulate-quota``: what clients get that share with attackers, in figures."""

import os
import random
import runpy

import pytest

from kit.support import ROOT

SIMULATION = runpy.run_path(os.path.join(ROOT, "scripts", "simulate-quota"))
SEED = 5
SECONDS = 40.0

HANDSHAKES, PLACES, PORTS = SIMULATION["QUOTAS"]
#: One client, by the addresses that it has.
ONE_MACHINE = ["one IPv4 address", "IPv4 and IPv6 of one machine", "a /48", "a /40"]
#: Clients in the same network share its limits.
SAME_NETWORK = ["a /64, honest ones in it", "a /48, honest ones in it"]
ATTACKS = [*ONE_MACHINE, *SAME_NETWORK, "10 IPv4 addresses", "1000 IPv4 addresses"]


def served(shared, attack):
    """Return how many honest newcomers were served to their end, and how many came."""
    _name, places, stay, fewer = shared
    attacks = {name: who for name, *who in SIMULATION["attackers"](random.Random(SEED))}
    assert set(ATTACKS) == set(attacks)
    return SIMULATION["attacked"](places, stay, fewer, *attacks[attack], SECONDS)


@pytest.mark.parametrize("attack", ATTACKS)
def test_all_honest_newcomers_finish_their_handshakes(attack):
    """They share 64 places with 100 attackers a second, from however many addresses."""
    count, came = served(HANDSHAKES, attack)
    assert count == came >= 25


@pytest.mark.parametrize("shared, least", [(PLACES, 10), (PORTS, 20)], ids=["places", "ports"])
@pytest.mark.parametrize("attack", [*ONE_MACHINE, "10 IPv4 addresses"])
def test_all_honest_newcomers_have_what_is_held_for_long(shared, least, attack):
    """They have it as long as the attackers have fewer networks than there are places."""
    count, came = served(shared, attack)
    assert count == came >= least


@pytest.mark.parametrize("shared", [PLACES, PORTS], ids=["places", "ports"])
@pytest.mark.parametrize("attack", [*SAME_NETWORK, "1000 IPv4 addresses"])
def test_what_is_not_promised(shared, attack):
    """An attacker with more networks than there are places, or a neighbour in its own network.

    docs/limits states it; once this fails, it need not.
    """
    count, came = served(shared, attack)
    assert 0 == count < came


#: What is wanted of the connections, and at least that percentage of it is had.
CONNECTIONS = {
    "a home that wants 240": 95,
    "an address of a provider, 200": 100,
    "  another client beside it, 5": 100,
    "an office, 200 hosts, 230": 95,
    "a balancer that wants 250": 88,  # 8/9 of all are 228
    "two homes that want 250 each": 46,
    "IPv4 and IPv6 of a machine, 500": 46,
    "  another client after it, 1": 100,
}


def test_what_is_wanted_is_had():
    """One client alone has 8/9 of all connections, and none keeps others from their share."""
    rnd = random.Random(SEED)
    rows = SIMULATION["demands"](rnd)
    assert set(CONNECTIONS) == {name for name, _clients, _whose in rows}
    for name, clients, whose in rows:
        assert SIMULATION["wanted"](clients, whose, rnd) >= CONNECTIONS[name], name


def test_the_script_prints_the_same_each_time(capsys, monkeypatch):
    """A change of the quota can be judged by what it prints before and after."""
    monkeypatch.setattr("sys.argv", ["simulate-quota", "--seconds", "14"])
    printed = []
    for _ in range(2):
        SIMULATION["main"]()
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert 3 * (1 + len(ATTACKS)) + 1 + 9 == len(printed[0].splitlines())
