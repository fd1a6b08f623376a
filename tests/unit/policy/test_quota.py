"""One law for all that clients share: each sentence of it, and models made of nothing but lists."""

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from kit import inside
from minisocks.policy.client import THIS_HOST, Client
from minisocks.policy.quota import KEPT, KEPT_FOR_NEW, Allowance, Queue, Quota


def groups(host):
    """Return the groups of the client at *host*."""
    return Client("" if host == "unix" else (host, 4242)).groups


#: Addresses that part on each level there is, and this host by three ways.
HOSTS = [
    "127.0.0.1",
    "127.9.9.9",
    "::1",
    "unix",
    "198.51.100.1",
    "198.51.100.2",
    "198.51.7.1",
    "203.0.113.1",
    "203.0.113.2",
    "2001:db8::1",
    "2001:db8::2",
    "2001:db8:0:1::1",
    "2001:db8:0:100::1",
    "2001:db8:1::1",
    "2001:db8:100::1",
    "2001:db9::1",
]
#: All of different networks.
FAR = ["10.%d.0.1" % number for number in range(256)]

hosts = st.sampled_from(HOSTS).map(groups)


def filled(most, *arriving, fewer=2, age=None):
    """Return a quota of *most*, with an item from each host of *arriving*: 0, 1, 2 and so on."""
    quota = Quota(most, fewer, age)
    for number, host in enumerate(arriving):
        quota.add(number, groups(host))
    return quota


# What can be ended


def test_there_is_no_share_while_there_is_room():
    """One client may have all that no other wants."""
    quota = filled(64)
    for number in range(64):
        assert not quota.is_full
        quota.add(number, groups("198.51.100.1"))
    assert quota.is_full
    assert (64, 64) == (len(quota), quota.held_by(groups("198.51.100.1")))


@pytest.mark.parametrize(
    "arriving, newcomer, victim",
    [
        # The largest is looked for in the widest networks first, whatever one address has.
        (["203.0.113.1"] * 3 + ["198.51.100.1", "198.51.100.1", "198.51.7.1", "198.51.7.2"],
         "192.0.2.1", 3),
        # Two families of one machine are two groups; the one that has more makes room.
        (["198.51.100.1"] * 3 + ["2001:db8::1"] * 4, "192.0.2.1", 3),
        (["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "2001:db8:0:100::1",
          "2001:db8:1::1", "2001:db8:100::1", "192.0.2.1", "192.0.2.1"], "203.0.113.1", 0),
        # In it, in each narrower network: a /40, a /48, a /56, a /64, an address.
        (["2001:db8:100::1", "2001:db8:1::1", "2001:db8:0:100::1", "2001:db8:0:1::1",
          "2001:db8::2", "2001:db8::1", "2001:db8::1"], "203.0.113.1", 5),
        # A client from the same network leaves the others there, not above.
        (["198.51.100.1"] * 4 + ["198.51.7.1"], "198.51.7.9", 0),
        (["198.51.100.1"] * 2 + ["203.0.113.1"] * 3, "198.51.7.9", None),
        # Two fewer, so that nothing is ended back and forth.
        (["198.51.100.1"] * 3 + ["203.0.113.1"] * 2, "203.0.113.9", None),
        (["198.51.100.1"] * 4 + ["203.0.113.1"] * 2, "203.0.113.9", 0),
        (["198.51.100.1"], "203.0.113.1", None),
        (["198.51.100.1"] * 2, "203.0.113.1", 0),
        # What an address has is its own, if the rest has no more.
        (["198.51.100.1"] * 8, "198.51.100.1", None),
    ],
)  # fmt: skip
def test_the_largest_group_s_largest_group_makes_room(arriving, newcomer, victim):
    """Down to the address that has most, whose oldest is ended; or the newcomer is refused."""
    quota = filled(len(arriving), *arriving)
    # None of it is what is kept for this host, which has nothing here.
    assert victim == quota.victim(groups(newcomer))


@pytest.mark.parametrize(
    "arriving, newcomer, victim",
    [
        (["198.51.100.1"] * 2 + ["203.0.113.1"], "203.0.113.9", 0),
        (["198.51.100.1", "203.0.113.1"], "203.0.113.9", None),
        (["198.51.100.1", "203.0.113.1", "203.0.113.2"], "203.0.113.9", 1),
        (["198.51.100.1"], "203.0.113.1", 0),
        (["198.51.100.1"] * 4, "198.51.100.1", 0),
        (["198.51.100.1", "198.51.100.2", "198.51.100.2"], "198.51.100.2", 1),
        (["unix"] * 3, "127.0.0.1", 0),
    ],
)
def test_where_all_grow_old_one_fewer_is_enough(arriving, newcomer, victim):
    """A newcomer ends the oldest of its own address, too: handshakes are such."""
    quota = filled(len(arriving), *arriving, fewer=1)
    assert victim == quota.victim(groups(newcomer))


def test_of_groups_as_large_the_one_that_was_so_first_makes_room():
    """Its items are older, more or less."""
    quota = filled(6, "203.0.113.1", "198.51.100.1")
    quota.victim(THIS_HOST)  # so that sums are kept from now on
    for number, host in enumerate(["198.51.100.1", "203.0.113.1", "192.0.2.1", "192.0.2.1"]):
        quota.add(2 + number, groups(host))
    assert 1 == quota.victim(groups("10.0.0.1"))
    quota.remove(1, groups("198.51.100.1"))
    quota.add(6, groups("198.51.100.1"))
    assert 0 == quota.victim(groups("10.0.0.1"))


def test_age_may_be_something_else():
    """Associations go by their last datagram."""
    age = {0: 5.0, 1: 3.0, 2: 4.0}
    quota = filled(3, *["198.51.100.1"] * 3, age=age.__getitem__)
    assert 1 == quota.victim(groups("192.0.2.1"))
    age[1] = 6.0
    assert 2 == quota.victim(groups("192.0.2.1"))


@pytest.mark.parametrize("most, kept", [(64, 8), (16, 2), (8, 1), (7, 0), (1, 0)])
@pytest.mark.parametrize("fewer", [1, 2])
def test_an_eighth_is_kept_for_this_host(most, kept, fewer):
    """By whatever address: it has that much however many others come, and loses none of it."""
    quota = filled(most, *FAR[:most], fewer=fewer)
    for number in range(kept):
        host = HOSTS[number % 4]
        victim = quota.victim(groups(host))
        assert quota.remove(victim, groups(FAR[victim]))  # else it was none of theirs
        quota.add("ours %d" % number, groups(host))
    assert kept == quota.held_by(THIS_HOST)
    for host in FAR:
        victim = quota.victim(groups(host))
        assert victim is None or not str(victim).startswith("ours")


def test_this_host_may_have_all_while_only_it_has_clients():
    """Beyond its eighth it makes room as others do."""
    quota = filled(16, *["127.0.0.1", "::1", "unix", "127.0.0.2"] * 4)
    assert quota.victim(groups("127.0.0.1")) is None
    for number in range(16):
        victim = quota.victim(groups(FAR[number]))
        if number < 14:
            assert number == victim
            quota.remove(victim, THIS_HOST)
            quota.add("theirs %d" % number, groups(FAR[number]))
    assert 2 == quota.held_by(THIS_HOST)


def test_a_newcomer_of_a_new_network_is_served_until_each_network_has_one_place():
    """That is the promise: an attacker needs as many networks as there are places."""
    quota = filled(64, *FAR[:32], *FAR[:32])
    for number, host in enumerate("77.%d.0.1" % number for number in range(32)):
        victim = quota.victim(groups(host))
        assert number == victim
        assert quota.remove(victim, groups(FAR[number]))
        quota.add("new %d" % number, groups(host))
    assert quota.victim(groups("78.0.0.1")) is None


def test_what_is_counted_out_twice_counts_once():
    """The code that ends an item need not know whether other code has."""
    quota = filled(4, "198.51.100.1", "198.51.100.1")
    assert quota.remove(0, groups("198.51.100.1"))
    assert not quota.remove(0, groups("198.51.100.1"))
    assert not quota.remove(0, groups("203.0.113.1"))
    assert 1 == len(quota)


def test_a_quota_of_nothing_has_no_room():
    """It has nothing either that could be ended to make room."""
    quota = filled(0)
    assert quota.is_full
    assert quota.victim(groups("198.51.100.1")) is None
    assert quota.victim(THIS_HOST) is None


class ListOfItems:
    """The law about what can be ended, by its words: no sums, no buckets, one list.

    Each row is an item, its groups and what it counts for, the oldest first.
    """

    def __init__(self, fewer, age):
        self.rows = []
        self._fewer = fewer
        self._age = age

    def count(self, path=()):
        """Return how much those in a group have."""
        return sum(weight for _item, theirs, weight in self.rows if theirs[: len(path)] == path)

    def victims(self, most, newcomer):
        """Return all that may be ended for *newcomer*; None is among them if it may be refused.

        More than one where groups are as large as each other.
        """
        local, reserve = self.count(THIS_HOST), most // 8
        is_owed = newcomer == THIS_HOST and local < reserve
        rows = self.rows
        if is_owed or local <= reserve:
            rows = [row for row in rows if row[1] != THIS_HOST]
        return self._in(rows, (), newcomer, is_owed) if rows else {None}

    def _in(self, rows, path, newcomer, is_owed):
        level, found = len(path), set()
        keys = {theirs[level] for _item, theirs, _weight in rows}
        counts = {key: self.count(path + (key,)) for key in keys}
        for key in keys:
            if counts[key] != max(counts.values()):
                continue
            group = path + (key,)
            parts_here = newcomer[:level] == path and newcomer[: level + 1] != group
            mine = self.count(newcomer[: level + 1])
            inside = [row for row in rows if row[1][level] == key]
            if parts_here and not is_owed and counts[key] - mine < self._fewer:
                found.add(None)
            elif len(inside[0][1]) > level + 1:
                found |= self._in(inside, group, newcomer, is_owed)
            elif group == newcomer and self._fewer > 1:
                found.add(None)
            elif self._age is None:
                found.add(inside[0][0])
            else:
                youngest = min(self._age(row[0]) for row in inside)
                found |= {row[0] for row in inside if self._age(row[0]) == youngest}
        return found


def sums_of(group):
    """Return what a group of a quota says of itself and all in it, checked against itself."""
    assert group.count == sum(below.count for below in group.below.values()) or not group.below
    by_count = {key: count for count, keys in group.by_count.items() for key in keys}
    assert by_count == {key: below.count for key, below in group.below.items()}
    assert all(group.by_count.values())
    return {key: (below.count, sums_of(below)) for key, below in group.below.items()}


def sums_by_definition(model, path=(), rows=None):
    """Return these sums of a list, by their definition."""
    rows = model.rows if rows is None else rows
    found = {}
    for key in {row[1][len(path)] for row in rows if len(row[1]) > len(path)}:
        group = path + (key,)
        inside = [row for row in rows if row[1][: len(group)] == group]
        found[key] = (model.count(group), sums_by_definition(model, group, inside))
    return found


steps = st.lists(
    st.tuples(
        st.sampled_from(["come"] * 6 + ["leave", "leave", "more", "less", "resize"]),
        hosts,
        st.integers(0, 40),
    ),
    max_size=60,
)


@hypothesis_settings(deadline=None, max_examples=300)
@given(st.integers(0, 20), st.sampled_from([1, 2]), st.booleans(), steps)
def test_a_quota_does_what_a_list_of_all_says(most, fewer, has_age, steps):
    """Whatever comes, leaves, grows or shrinks: the victim is the one that the law names.

    The sums that are kept only while they may be needed never differ from the list, and nothing
    is left of what has gone.
    """
    age = (lambda item: item * 7 % 5) if has_age else None
    quota, model = Quota(most, fewer, age), ListOfItems(fewer, age)

    def take_out(index):
        item, theirs, _weight = model.rows.pop(index)
        assert quota.remove(item, theirs)
        assert not quota.remove(item, theirs)

    for number, (step, theirs, amount) in enumerate(steps):
        index = amount % len(model.rows) if model.rows else None
        if step == "resize":
            quota.most = amount % 20
        elif step == "come":
            if quota.is_full:
                victim = quota.victim(theirs)
                assert victim in model.victims(quota.most, theirs)
                if victim is None:
                    continue
                take_out([row[0] for row in model.rows].index(victim))
            quota.add(number, theirs)
            model.rows.append((number, theirs, 1))
        elif index is None:
            pass
        elif step == "leave":
            take_out(index)
        else:
            item, theirs, weight = model.rows[index]
            if step == "more":
                quota.add(item, theirs, 1 + amount % 3)
                model.rows[index] = (item, theirs, weight + 1 + amount % 3)
            else:
                fewer_by = min(weight, 1 + amount % 3)
                quota.reduce(item, theirs, fewer_by)
                model.rows[index] = (item, theirs, weight - fewer_by)
                if weight == fewer_by:
                    del model.rows[index]
        assert model.count() == len(quota)
        assert (model.count() >= quota.most) == quota.is_full
        assert model.count(theirs) == quota.held_by(theirs)
        assert sorted(row[0] for row in model.rows) == sorted(quota.items())
        if inside.sums(quota) is not None:
            assert sums_by_definition(model) == sums_of(inside.sums(quota))
    while model.rows:
        take_out(0)
    assert (0, {}, []) == (len(quota), inside.items(quota), quota.items())
    assert inside.sums(quota) is None or {} == sums_of(inside.sums(quota))


def test_sums_of_groups_are_kept_only_while_they_may_be_needed():
    """An honest client pays nothing for them."""
    quota = filled(16, *FAR[:16])
    assert inside.sums(quota) is None
    quota.victim(groups("198.51.100.1"))
    assert inside.sums(quota) is not None
    for number in range(13):
        assert inside.sums(quota) is not None
        quota.remove(number, groups(FAR[number]))
    assert inside.sums(quota) is None


# What cannot be ended


def test_a_group_has_less_than_a_part_of_what_is_free():
    """A quarter of what is free: of 64 one network has 13, and the next one 11, then 8."""
    allowance = Allowance(64, 0.25)
    had = []
    for host in ("198.51.%d.1", "2001:db8:%d::1", "203.0.%d.1"):
        count = 0
        while allowance.has_room(groups(host % count)):
            allowance.add(groups(host % count))
            count += 1
        had.append(count)
    assert [13, 11, 8] == had


def test_one_client_alone_has_eight_ninths():
    """Of the connections, which have 8 times of what is free; half of them is not enough."""
    allowance = Allowance(900, 8, 16)
    while allowance.has_room(groups("198.51.100.1")):
        allowance.add(groups("198.51.100.1"))
    assert 800 == len(allowance)
    assert allowance.has_room(groups("203.0.113.1"))
    assert allowance.has_room(THIS_HOST)


@pytest.mark.parametrize("most, factor, kept", [(64, 0.25, KEPT), (64, 8, 16), (640, 8, 16)])
def test_what_two_networks_leave_is_for_those_that_have_nothing(most, factor, kept):
    """One machine has IPv4 and IPv6: what its one address leaves the other would else have."""
    allowance = Allowance(most, factor, kept)
    for host in ["198.51.100.1"] * most + ["2001:db8::1"] * most:
        if allowance.has_room(groups(host)):
            allowance.add(groups(host))
    for host in FAR[: most // KEPT_FOR_NEW]:
        assert allowance.has_room(groups(host))
        allowance.add(groups(host))
    for _ in range(most // kept):
        assert allowance.has_room(THIS_HOST)
        allowance.add(THIS_HOST)


def test_each_network_has_one_while_there_are_places():
    """It has one as long as anything but what is kept for this host is free."""
    allowance = Allowance(64, 0.25)
    served = 0
    for host in FAR:
        if allowance.has_room(groups(host)):
            allowance.add(groups(host))
            served += 1
    assert len({groups(host)[0] for host in FAR}) > 64 - 8
    assert 64 - 8 == served == len(allowance)


@pytest.mark.parametrize("kept, most", [(KEPT, 64), (16, 64), (KEPT, 7)])
def test_a_part_of_an_allowance_is_kept_for_this_host(kept, most):
    """All of its addresses together have it, whatever others do."""
    allowance = Allowance(most, 8, kept)
    for host in FAR * 9:
        if allowance.has_room(groups(host)):
            allowance.add(groups(host))
    had = 0
    while allowance.has_room(groups(HOSTS[had % 4])):
        allowance.add(groups(HOSTS[had % 4]))
        had += 1
    assert most // kept == had


def test_this_host_may_have_all_of_an_allowance_while_only_it_has_clients():
    """With another client there it has what a group has, but never less than is kept for it."""
    allowance = Allowance(64, 0.25)
    for number in range(64):
        assert allowance.has_room(groups(HOSTS[number % 4]))
        allowance.add(groups(HOSTS[number % 4]))
    assert not allowance.has_room(THIS_HOST)
    assert not allowance.has_room(groups("198.51.100.1"))
    allowance.remove(THIS_HOST)
    assert allowance.has_room(groups("198.51.100.1"))
    allowance.add(groups("198.51.100.1"))
    allowance.remove(THIS_HOST)
    assert not allowance.has_room(THIS_HOST)


def test_without_a_bound_all_have_room():
    """They are counted all the same, because a reload may bring a bound."""
    allowance = Allowance(None, 8)
    for _ in range(1000):
        assert allowance.has_room(groups("198.51.100.1"))
        allowance.add(groups("198.51.100.1"))
    allowance.most = 1000
    assert not allowance.has_room(groups("203.0.113.1"))
    assert 1000 == len(allowance)


def has_room_by_definition(rows, most, factor, kept, theirs, weight):
    """Return whether there is room, by the law's words; a row: groups and how much they have."""
    if most is None:
        return True
    used = sum(count for _theirs, count in rows)
    local = sum(count for those, count in rows if those == THIS_HOST)
    free, reserve = most - used, most // kept
    if weight > free:
        return False
    if theirs == THIS_HOST:
        if local == used or local + weight <= reserve:
            return True
    elif free - weight < reserve - local:
        return False
    fresh = most // 64
    if any(those[0] == theirs[0] for those, _count in rows):
        kept = 0 if theirs == THIS_HOST else max(0, reserve - local)
        if free - weight < kept + fresh:
            return False
    for level in range(1, len(theirs) + 1):
        held = sum(count for those, count in rows if those[:level] == theirs[:level])
        # Of one: held < max(1, factor * free). Of more, the last of them.
        if held and not held + weight - 1 < max(1, factor * free):
            return False
    return True


@hypothesis_settings(deadline=None, max_examples=300)
@given(
    st.one_of(st.none(), st.integers(0, 200)),
    st.sampled_from([0.25, 1, 8]),
    st.sampled_from([8, 16]),
    st.lists(st.tuples(st.booleans(), hosts, st.integers(1, 12), st.booleans()), max_size=80),
)
def test_an_allowance_does_what_a_list_of_all_says(most, factor, kept, steps):
    """On every level of groups, however much is wanted at a time; nothing is left of all."""
    allowance, rows = Allowance(most, factor, kept), []
    for comes, theirs, amount, is_one in steps:
        weight = 1 if is_one else amount
        if comes or not rows:
            room = allowance.has_room(theirs, weight)
            assert has_room_by_definition(rows, most, factor, kept, theirs, weight) == room
            if room:
                allowance.add(theirs, weight)
                rows.append((theirs, weight))
        else:
            allowance.remove(*rows.pop(amount % len(rows)))
        assert sum(count for _theirs, count in rows) == len(allowance)
    for row in rows:
        allowance.remove(*row)
    assert (0, {}) == (len(allowance), inside.by_group(allowance))


# What waits for it


def taken(queue, count=1):
    """Return the next items of *queue*."""
    found = [queue.take() for _ in range(count)]
    return [item and item[0] for item in found]


def test_the_group_with_fewest_running_goes_first():
    """A crowd of one network waits behind one client of another, and in it each network does."""
    queue = Queue(Allowance(64, 0.25))
    for number in range(20):
        queue.add("a%d" % number, groups("198.51.100.1"))
    queue.add("b", groups("198.51.100.2"))
    queue.add("c", groups("198.51.7.1"))
    queue.add("d", groups("203.0.113.1"))
    assert ["a0", "d", "c", "b", "a1"] == taken(queue, 5)


def test_of_those_with_as_many_the_one_not_served_for_longest_goes_first():
    """Two that want all have one after the other."""
    queue = Queue(Allowance(64, 0.25))
    for number in range(3):
        for host, name in (("198.51.100.1", "a"), ("203.0.113.1", "b")):
            queue.add("%s%d" % (name, number), groups(host))
    for item in ("a0", "b0", "a1", "b1", "a2", "b2"):
        found = queue.take()
        assert item == found[0]
        queue.done(found[1])


def test_a_client_without_room_waits_and_others_go_on():
    """It waits until one of its own, or enough of the others, have done."""
    running = Allowance(8, 0.25)
    queue = Queue(running)
    for number in range(3):
        queue.add("a%d" % number, groups("198.51.100.%d" % number))
    assert ["a0", "a1", None] == taken(queue, 3)
    queue.add("b", groups("203.0.113.1"))
    assert ["b", None] == taken(queue, 2)
    queue.done(groups("198.51.100.1"))
    assert ["a2"] == taken(queue)


@pytest.mark.parametrize(
    "client, neighbour",
    [("198.51.100.1", "198.51.7.2"), ("2001:db8:1:2::%d", "2001:db8:1:3::1")],
)
def test_one_client_leaves_room_to_its_neighbours(client, neighbour):
    """It has 8 of 64, of IPv6 with all addresses of its /64, and a neighbour may run at once."""
    queue = Queue(Allowance(64, 0.25))
    for number in range(20):
        queue.add(number, groups(client % number if "%" in client else client))
    assert [*range(8), None] == taken(queue, 9)
    queue.add("n", groups(neighbour))
    assert queue.has_next
    assert ["n", None] == taken(queue, 2)
    queue.done(groups(neighbour))
    queue.done(groups(client % 1 if "%" in client else client))
    assert [8, None] == taken(queue, 2)


def test_what_is_kept_for_this_host_is_not_held_up():
    """Others wait because nothing else is free; its own goes on."""
    queue = Queue(Allowance(8, 8))
    for number, host in enumerate(FAR[:9]):
        queue.add(number, groups(host))
    assert [0, 1, 2, 3, 4, 5, 6, None] == taken(queue, 8)
    queue.add("ours", THIS_HOST)
    assert ["ours", None] == taken(queue, 2)


def test_rank_may_be_something_else():
    """What is lowest on each level goes first, and of the same address the oldest."""
    ranks = {groups("198.51.100.1")[:1]: 2.0, groups("203.0.113.2"): 1.0}
    queue = Queue(Allowance(64, 8), lambda group: ranks.get(group, 0.0))
    for item, host in (
        ("a", "198.51.100.1"),
        ("b", "203.0.113.2"),
        ("c", "203.0.113.1"),
        ("d", "203.0.113.1"),
    ):
        queue.add(item, groups(host))
    assert ["c", "d", "b", "a", None] == taken(queue, 5)


def client_in(theirs):
    """Return the part of groups that is one client: the address, of IPv6 the /64."""
    return theirs if len(theirs) < 6 else theirs[:5]


def having(running, group):
    """Return how many of *running* are in a group; none of this host, which is one client."""
    return sum(theirs[: len(group)] == group for theirs in running) if len(group) > 1 else 0


def first_by_definition(waiting, running, allowance):
    """Return all that may go next, by the law's words: rows are items and groups, oldest first."""
    rows = [
        row
        for row in waiting
        if allowance.has_room(row[1])
        and allowance.has_room(row[1], 1 + having(running, client_in(row[1])))
    ]
    found, level = {None} if not rows else set(), 0
    paths = {()} if rows else set()
    while paths:
        deeper = set()
        for path in paths:
            inside = [row for row in rows if row[1][:level] == path]
            ended = [row for row in inside if len(row[1]) == level]
            if ended:
                found.add(ended[0][0])
                continue
            counts = {
                row[1][: level + 1]: sum(
                    theirs[: level + 1] == row[1][: level + 1] for theirs in running
                )
                for row in inside
            }
            deeper |= {g for g, count in counts.items() if count == min(counts.values())}
        paths, level = deeper, level + 1
    return found


@hypothesis_settings(deadline=None, max_examples=300)
@given(
    st.integers(0, 24),
    st.sampled_from([0.25, 1, 8]),
    st.lists(
        st.tuples(
            st.sampled_from(["come", "come", "take", "take", "done", "leave"]),
            hosts,
            st.integers(0, 40),
        ),
        max_size=80,
    ),
)
def test_a_queue_does_what_a_list_of_all_says(most, factor, steps):
    """Nothing that may run waits, what runs next is by the law, and nothing is left of all."""
    allowance = Allowance(most, factor)
    queue, waiting, running = Queue(allowance), [], []

    def take():
        expected = first_by_definition(waiting, running, allowance)
        found = queue.take()
        assert (None if found is None else found[0]) in expected
        if found is not None:
            waiting.remove(found)
            running.append(found[1])
        return found

    for number, (step, theirs, amount) in enumerate(steps):
        if step == "come":
            queue.add(number, theirs)
            waiting.append((number, theirs))
        elif step == "take":
            take()
        elif step == "done" and running:
            queue.done(running.pop(amount % len(running)))
        elif step == "leave" and waiting:
            row = waiting.pop(amount % len(waiting))
            assert queue.remove(*row)
            assert not queue.remove(*row)
        assert [item for item, those in waiting if those == theirs] == queue.waiting(theirs)
        assert len(running) == len(allowance)
    while running or take() is not None:
        if running:
            queue.done(running.pop())
    for row in waiting:  # nothing may, where there is room for nothing
        assert 0 == most
        queue.remove(*row)
    assert (True, 0) == (inside.is_empty(queue), len(allowance))
