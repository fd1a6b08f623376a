"""One processor for the threads that serve: which, when another, and which threads stay free."""

import contextlib
import errno
import os
import subprocess
import sys
import threading

import pytest

import minisocks.net.loop
from kit import inside
from kit.support import ROOT, TIMEOUT, CommandLine, FakeTarget, Talk, log_kept, wait_until
from minisocks import Proxy
from minisocks.net.job import Job
from minisocks.net.loop import LOOK_ROUNDS, Loop, run_in
from minisocks.net.processor import AUTO, Processor, System, Times, release_thread

MAY_USE = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
two_processors = pytest.mark.skipif(len(MAY_USE) < 2, reason="needs two processors, and Linux")


class Machine(System):
    """A machine as a test wants it; ``calls`` counts requests to the kernel."""

    def __init__(self, processors=(0, 1, 2), runs_on=1):
        super().__init__()
        self.main, self.runs_on = frozenset(processors), runs_on
        self.masks = {}
        self.errors = {}
        self.calls = 0
        self.clock = self.own = 0.0
        self.spent = {number: Times(0.0, 0.0) for number in processors}

    def main_mask(self):
        self.calls += 1
        if self.main is None:
            raise OSError(errno.EPERM, "Operation not permitted")
        return self.main

    def thread_mask(self):
        self.calls += 1
        return self.masks.get(threading.get_ident(), self.main)

    def bind(self, mask):
        self.calls += 1
        for number in mask:
            if number in self.errors:
                raise OSError(self.errors[number], os.strerror(self.errors[number]))
        self.masks[threading.get_ident()] = mask

    def running_on(self):
        return self.runs_on

    def times(self):
        return dict(self.spent)

    def own_seconds(self):
        return self.own

    def now(self):
        return self.clock

    def is_main_thread(self):
        return False

    def mask(self):
        """Return the calling thread's mask, uncounted."""
        return set(self.masks.get(threading.get_ident(), self.main))

    def work(self, own=0.0, seconds=10.0, **busy):
        """Let *seconds* go by, in which processor N is busy for ``pN`` of them."""
        self.clock += seconds
        self.own += own
        for number, spent in self.spent.items():
            more = busy.get("p%d" % number, 0.0)
            self.spent[number] = Times(spent.busy + more, spent.all + seconds)


@pytest.fixture
def lines():
    """The lines of the log, while the test runs."""
    with log_kept("minisocks") as kept:
        yield kept.lines


def in_thread(function):
    """Run *function* in a thread of its own, and return its result."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join(TIMEOUT)
    return results[0]


# Which


@pytest.mark.parametrize(
    "wanted, processors, runs_on, number",
    [
        (None, (0, 1, 2), 1, None),
        ("none", (0, 1, 2), 1, None),
        # The one on which the process happens to run, and not the lowest.
        ("auto", (0, 1, 2), 1, 1),
        ("auto", (0, 1, 2), 2, 2),
        # There is nothing to choose.
        ("auto", (1,), 1, None),
        ("2", (0, 1, 2), 1, 2),
        ("0", (0,), 0, 0),
    ],
)
def test_which_one(wanted, processors, runs_on, number, lines):
    """What is wanted, if that is one; and nothing is said about it."""
    assert number == Processor(wanted, Machine(processors, runs_on)).number
    assert [] == lines


@pytest.mark.parametrize("runs_on", [None, 7])
def test_auto_takes_any_where_its_own_is_not_known(runs_on):
    """Or where it may not be used."""
    assert Processor("auto", Machine((2, 3), runs_on)).number in (2, 3)


def test_a_number_that_is_not_there_is_a_warning_that_says_what_to_do(lines):
    """Once, and the proxy serves."""
    processor = Processor("7", Machine((0, 2)))
    for _ in range(3):
        processor.keep()
        processor.look()
    assert None is processor.number
    (line,) = lines
    assert line == (
        "running on any processor: this process may use 0, 2, and not 7; "
        "say --processor auto, or one of these"
    )


def test_without_the_means_nothing_is_done(lines):
    """Not Linux: auto is quiet, and for a number a line says that it cannot be had."""
    machine = Machine()
    machine.main = None
    processor = Processor("auto", machine)
    processor.keep()
    processor.look()
    assert (None, []) == (processor.number, lines)
    assert None is Processor("1", machine).number
    (line,) = lines
    assert line.endswith(": this system cannot keep threads to one; leave --processor 1 out")
    assert {} == machine.masks


# Keeping


def test_keep_binds_once():
    """The first call binds the thread, and those behind it cost no system call."""
    machine = Machine()
    processor = Processor("auto", machine)
    processor.keep()
    before = machine.calls
    for _ in range(10):
        processor.keep()
    assert ({1}, before) == (machine.mask(), machine.calls)


def test_none_costs_no_system_call():
    """Neither for a thread that serves, nor for hooks, nor for a look."""
    machine = Machine()
    processor = Processor(None, machine)
    processor.keep()
    processor.look()
    with processor.released():
        processor.keep()
    assert (0, {}) == (machine.calls, machine.masks)


def test_released_gives_the_mask_back_and_binds_again():
    """It does so also when the body raises; within another one nothing is done."""
    machine = Machine()
    processor = Processor("auto", machine)
    processor.keep()
    with processor.released():
        assert {0, 1, 2} == machine.mask()
        before = machine.calls
        with processor.released():
            assert {0, 1, 2} == machine.mask()
        assert before == machine.calls
    assert {1} == machine.mask()
    with pytest.raises(ZeroDivisionError), processor.released():
        1 / 0  # noqa: B018  # raises
    assert {1} == machine.mask()


def test_released_does_nothing_in_a_thread_that_is_not_bound():
    """It may be the program's own, whose mask is its affair."""
    machine = Machine()
    processor = Processor("auto", machine)
    before = machine.calls
    with processor.released():
        pass
    assert (before, {}) == (machine.calls, machine.masks)


def test_the_mask_that_was_there_is_taken_where_it_cannot_be_asked():
    """A sandbox may come to be later."""
    machine = Machine()
    processor = Processor("auto", machine)
    processor.keep()
    machine.main = None
    with processor.released():
        assert {0, 1, 2} == set(machine.masks[threading.get_ident()])


def test_change_is_followed_at_the_next_keep():
    """Every thread follows it, to none, too."""
    machine = Machine()
    processor = Processor("auto", machine)
    processor.keep()
    processor.change("2")
    assert ({1}, 2) == (machine.mask(), processor.number)
    processor.keep()
    assert {2} == machine.mask()
    before = machine.calls
    processor.change("2")  # a reload that changes something else
    processor.keep()
    assert before == machine.calls
    processor.change("auto")
    assert 2 == processor.number  # as good as any
    processor.change("none")
    assert None is processor.number
    processor.keep()
    assert {0, 1, 2} == machine.mask()
    before = machine.calls
    processor.keep()
    processor.change(None)
    assert before == machine.calls


def test_a_thread_that_a_bound_one_has_started_is_released_by_keep():
    """It has inherited the mask, and none is wanted any more."""
    machine = Machine()
    processor = Processor("auto", machine)
    processor.keep()
    processor.change(None)

    def inherits():
        machine.masks[threading.get_ident()] = frozenset((1,))
        processor.keep()
        return machine.mask()

    assert {0, 1, 2} == in_thread(inherits)


# What the system does not allow


def test_a_processor_that_has_just_gone_is_left_for_another(lines):
    """EINVAL: between the choice and the system call it was unplugged."""
    machine = Machine()
    machine.errors[1] = errno.EINVAL
    processor = Processor("auto", machine)
    machine.runs_on = 0
    processor.keep()
    assert (0, {0}) == (processor.number, machine.mask())
    assert [] == lines


@pytest.mark.parametrize("wanted", ["auto", "1"])
def test_none_can_be_had_although_it_seems_so(wanted):
    """Each is tried once until the next look, which tries again."""
    machine = Machine()
    machine.errors = dict.fromkeys((0, 1, 2), errno.EINVAL)
    processor = Processor(wanted, machine)
    processor.keep()
    before = machine.calls
    processor.keep()
    assert (None, before, {}) == (processor.number, machine.calls, machine.masks)
    machine.errors.clear()
    processor.look()
    assert processor.number in (0, 1)
    assert {processor.number} == machine.mask()


@pytest.mark.parametrize("wanted", ["auto", "1"])
def test_a_sandbox_that_does_not_allow_it_is_asked_once(wanted, lines):
    """EPERM: one line reports it, and nothing is tried again before the setting changes."""
    machine = Machine()
    machine.errors = dict.fromkeys((0, 1, 2), errno.EPERM)
    processor = Processor(wanted, machine)
    processor.keep()
    before = machine.calls
    for _ in range(3):
        processor.keep()
        processor.look()
    assert (None, before) == (processor.number, machine.calls)
    (line,) = lines
    assert line == (
        "running on any processor: the system does not allow it (Operation not permitted); "
        "--processor none does not try"
    )
    machine.errors.clear()
    processor.change("2")
    processor.keep()
    assert {2} == machine.mask()


def test_a_thread_that_cannot_be_released_goes_on():
    """It runs the hook where it is."""
    machine = Machine()
    processor = Processor("auto", machine)
    processor.keep()
    machine.errors[0] = errno.EINVAL
    with processor.released():
        assert {1} == machine.mask()
    assert {1} == machine.mask()


# When it moves


def test_it_moves_when_others_keep_its_processor_busy(lines):
    """To the one that has least to do; other threads follow at their next keep."""
    machine = Machine()
    processor = Processor("auto", machine)
    processor.look()
    # Of 9 s that were spent there, 4 were ours.
    machine.work(own=4.0, p0=3.0, p1=9.0, p2=1.0)
    processor.look()
    assert (2, {2}) == (processor.number, machine.mask())
    assert ["keeping to processor 2 from now on: other programs take 50 % of processor 1"] == lines

    def other():
        processor.keep()
        return machine.mask()

    assert {2} == in_thread(other)


@pytest.mark.parametrize(
    "work",
    [
        {"own": 9.0, "p1": 9.0},  # it is busy, but with us
        {"own": 4.0, "p1": 6.0},  # not more than a fifth
        {"own": 1.0, "p1": 5.0, "p0": 3.5, "p2": 9.0},  # another one is hardly better
        {"own": 1.0, "p1": 9.0, "seconds": 61.0},  # this tells nothing about now
        {"own": 0.0, "p1": 9.0, "seconds": 0.0},  # a clock that stands still
    ],
)
def test_it_stays_where_there_is_no_reason_to_move(work, lines):
    """Moving costs more than a processor that is shared a little."""
    machine = Machine()
    processor = Processor("auto", machine)
    processor.look()
    machine.work(**work)
    processor.look()
    assert (1, []) == (processor.number, lines)


def test_the_first_look_only_remembers():
    """What was before it may be long ago."""
    machine = Machine()
    machine.work(p1=10.0)
    processor = Processor("auto", machine)
    processor.look()
    assert 1 == processor.number
    machine.work(p1=10.0)
    processor.look()
    assert 1 != processor.number


def test_behind_a_long_pause_it_begins_anew():
    """The look behind the one that only remembered compares again."""
    machine = Machine()
    processor = Processor("auto", machine)
    processor.look()
    machine.work(seconds=100.0, p1=90.0)
    processor.look()
    assert 1 == processor.number
    machine.work(p1=9.0)
    processor.look()
    assert 1 != processor.number


def test_one_that_may_not_be_used_is_no_place_to_move_to():
    """It is not chosen, however free it is."""
    machine = Machine((0, 1, 2))
    machine.main = frozenset((0, 1))
    processor = Processor("auto", machine)
    processor.look()
    machine.work(p0=5.0, p1=9.0, p2=0.0)
    processor.look()
    assert 0 == processor.number


def test_a_number_that_is_wanted_is_kept():
    """It is kept however busy it is."""
    machine = Machine()
    processor = Processor("1", machine)
    for _ in range(3):
        processor.look()
        machine.work(p1=10.0)
    assert (1, {1}) == (processor.number, machine.mask())


def test_figures_that_cannot_be_had_are_done_without():
    """No /proc, or no descriptor left to read it."""
    machine = Machine()
    processor = Processor("auto", machine)
    processor.look()
    machine.work(p1=10.0)
    machine.spent = {}
    processor.look()
    processor.look()
    assert 1 == processor.number


# What is changed from outside


def test_a_thread_that_was_bound_to_others_is_bound_again(lines):
    """taskset -a, with its processor among them: every thread follows."""
    machine = Machine()
    processor = Processor("auto", machine)
    processor.keep()
    machine.masks[threading.get_ident()] = frozenset((0, 1))

    def other():
        processor.keep()
        machine.masks[threading.get_ident()] = frozenset((0, 1))
        processor.look()
        assert {1} == machine.mask()

    in_thread(other)
    processor.keep()
    assert ({1}, 1, []) == (machine.mask(), processor.number, lines)


@pytest.mark.parametrize("wanted", ["auto", "1"])
def test_a_processor_that_may_not_be_used_any_more_is_left(wanted, lines):
    """A smaller cpuset, a processor unplugged: auto takes another one, a number waits for it."""
    machine = Machine()
    processor = Processor(wanted, machine)
    processor.keep()
    machine.main = frozenset((0, 2))
    processor.look()
    assert machine.mask() == ({0, 2} if wanted == "1" else {processor.number})
    assert processor.number in ((None,) if wanted == "1" else (0, 2))
    assert 1 == len(lines)
    machine.main = frozenset((0, 1, 2))
    processor.look()
    assert processor.number in ((1,) if wanted == "1" else (0, 2))
    assert {processor.number} == machine.mask()


def test_when_only_one_is_left_nothing_is_kept_to(lines):
    """When there are more again, the processor is chosen again."""
    machine = Machine()
    processor = Processor("auto", machine)
    processor.keep()
    machine.main = machine.masks[threading.get_ident()] = frozenset((0,))
    for _ in range(2):
        processor.look()
        assert (None, {0}) == (processor.number, machine.mask())
    machine.main = frozenset((0, 1))
    processor.look()
    assert (1, {1}) == (processor.number, machine.mask())
    assert [
        "keeping to processor none from now on: this process may use 0 now",
        "keeping to processor 1 from now on: this process may use 0, 1 now",
    ] == lines


# What the kernel says


def test_figures_of_this_machine():
    """They are there on Linux, and each processor is less busy than it is there."""
    system = System()
    if not os.path.exists("/proc/self/stat"):
        assert (None, {}) == (system.running_on(), system.times())
        pytest.skip("no /proc here")
    assert system.running_on() in range(os.cpu_count())
    figures = system.times()
    assert set(MAY_USE) <= set(figures)
    assert all(0 <= one.busy <= one.all for one in figures.values())


SELF_STAT = b"7 (a) R 1 (b)\n) S 1 7 7 0 -1 4194560 %s 17 %s 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
STAT = b"""cpu  60 0 30 2000 300 0 10 0 0 0
cpu0 10 1 20 1000 200 3 4 5 600 700
cpu12 50 0 10 1000 100
intr 123456789 0 0
cpu13 1 2 3 4 5 6 7 8
"""


def test_figures_are_read_as_the_kernel_writes_them(tmp_path):
    """Busy is all but idle and iowait; time of virtual machines is in user already.

    An old kernel has fewer columns.
    """
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "stat").write_bytes(SELF_STAT % (b"0 " * 28, b"5"))
    (tmp_path / "stat").write_bytes(STAT)
    system, tick = System(str(tmp_path)), 1 / os.sysconf("SC_CLK_TCK")
    times = {
        number: (round(one.busy / tick), round(one.all / tick))
        for number, one in system.times().items()
    }
    assert {0: (43, 1243), 12: (60, 1160)} == times
    assert 5 == system.running_on()


@pytest.mark.parametrize("text", [b"", b"x", b"cpu0 x 1\n", b"cpux 1 2 3\n", b"7 (a) S 1 2\n"])
def test_files_that_cannot_be_understood(tmp_path, text):
    """Or are not there: nothing is known."""
    (tmp_path / "self").mkdir()
    for _ in range(2):
        assert (None, {}) == (System(str(tmp_path)).running_on(), System(str(tmp_path)).times())
        for path in (tmp_path / "stat", tmp_path / "self" / "stat"):
            path.write_bytes(text)


def test_a_system_without_the_calls():
    """Is imported, keeps to none, and raises nothing."""
    program = (
        "import os\n"
        "for name in ('sched_setaffinity', 'sched_getaffinity', 'sysconf'):\n"
        "    if hasattr(os, name):\n"
        "        delattr(os, name)\n"
        "from minisocks import Proxy\n"
        "from minisocks.net.processor import Processor, preview, release_thread\n"
        "release_thread()\n"
        "with Proxy(listen='127.0.0.1:0', processor='auto') as proxy:\n"
        "    processor = proxy.services.processor\n"
        "    processor.look()\n"
        "    print(processor.number, preview('auto')[0], preview('0')[0])\n"
    )
    out = subprocess.check_output(
        [sys.executable, "-W", "error", "-c", program], cwd=ROOT, universal_newlines=True
    )
    assert "None None None\n" == out


# Threads of this process


def own_mask():
    return set(os.sched_getaffinity(0))


@two_processors
def test_the_calling_thread_is_bound_and_others_are_not():
    """Released it has the process's mask, and so have threads that it starts meanwhile."""
    processor = Processor(AUTO)
    assert processor.number in MAY_USE

    def serve():
        before = own_mask()
        processor.keep()
        masks = [own_mask()]
        with processor.released():
            masks += [own_mask(), in_thread(own_mask)]
        masks.append(own_mask())
        with contextlib.suppress(ZeroDivisionError), processor.released():
            1 / 0  # noqa: B018  # raises
        return [before, *masks, own_mask()]

    ours, everything = {processor.number}, set(MAY_USE)
    masks = in_thread(serve)
    assert [everything, ours, everything, everything, ours, ours] == masks
    assert everything == own_mask() == in_thread(own_mask)


@two_processors
def test_a_thread_that_a_bound_one_starts_can_be_released():
    """release_thread gives it what it would have had."""
    processor = Processor(AUTO)

    def helper():
        inherited = own_mask()
        release_thread()
        return inherited, own_mask()

    def serve():
        processor.keep()
        return in_thread(helper)

    assert ({processor.number}, set(MAY_USE)) == in_thread(serve)


@two_processors
def test_the_main_thread_is_never_bound():
    """Its mask is the one that all others are given."""
    Processor(AUTO).keep()
    assert set(MAY_USE) == own_mask()


@two_processors
def test_a_mask_changed_from_outside_is_noticed():
    """The next look notices, in the thread that looks; the others follow."""
    processor = Processor(AUTO)
    stages = threading.Barrier(2, timeout=TIMEOUT)

    def handler():
        processor.keep()
        os.sched_setaffinity(0, MAY_USE)  # the same call that others make by its number
        stages.wait()
        stages.wait()
        processor.keep()
        return own_mask()

    def loop():
        processor.keep()
        os.sched_setaffinity(0, MAY_USE)
        stages.wait()
        processor.look()
        stages.wait()
        return own_mask()

    results = []
    other = threading.Thread(target=lambda: results.append(handler()))
    other.start()
    looked = in_thread(loop)
    other.join(TIMEOUT)
    assert [{processor.number}] * 2 == [looked, *results]


@pytest.mark.skipif(not MAY_USE, reason="needs Linux")
def test_no_system_call_where_none_is_in_use():
    """A program whose proxies keep to none is left alone altogether."""
    program = (
        "import os\n"
        "def refuse(*args):\n"
        "    raise AssertionError('a system call')\n"
        "os.sched_setaffinity = os.sched_getaffinity = refuse\n"
        "from minisocks import Proxy\n"
        "from minisocks.net.processor import release_thread\n"
        "release_thread()\n"
        "with Proxy(listen='127.0.0.1:0', on_connection=print) as proxy:\n"
        "    services = proxy.services\n"
        "    services.processor.look()\n"
        "    print(services.processor.number, services.access.config.processor)\n"
    )
    out = subprocess.check_output(
        [sys.executable, "-W", "error", "-c", program], cwd=ROOT, universal_newlines=True
    )
    assert "None None\n" == out


# In the proxy


class Watched(Processor):
    """Counts the threads that keep to it, and those that look."""

    def __init__(self):
        super().__init__(None)
        self.kept, self.looks = [], []

    def keep(self):
        self.kept.append(threading.current_thread().name)

    def look(self):
        self.looks.append(threading.current_thread().name)


class Spins(Job):
    """Has the loop go round so many times, without an event."""

    def __init__(self, loop, rounds):
        self.loop, self.left = loop, rounds
        self.done = threading.Event()

    def begin(self):
        self.left -= 1
        if self.left > 0:
            self.loop.call_soon(self, self.begin)
            return
        self.loop.done(self)
        self.done.set()

    def abort(self, why):
        self.done.set()


def test_a_busy_loop_looks_and_an_idle_one_is_not_woken(monkeypatch):
    """Its thread keeps at the start; it looks after so many rounds, and then not for 10 s."""
    monkeypatch.setattr(minisocks.net.loop, "LOOK_SECONDS", 3600.0)  # however slow this machine is
    processor = Watched()
    loop = Loop(processor)
    loop.start()
    wait_until(lambda: processor.kept, "the start")
    assert ["minisocks-loop"] == processor.kept
    assert [] == processor.looks
    for rounds, looks in ((10, 0), (LOOK_ROUNDS, 1), (5 * LOOK_ROUNDS, 1)):
        spins = Spins(loop, rounds)
        loop.submit(spins)
        assert spins.done.wait(TIMEOUT)
        assert ["minisocks-loop"] * looks == processor.looks
    inside.end_wait_for_look(loop)
    spins = Spins(loop, LOOK_ROUNDS)
    loop.submit(spins)
    assert spins.done.wait(TIMEOUT)
    assert 2 == len(processor.looks)
    monkeypatch.setattr(minisocks.net.loop, "LOOK_SECONDS", 0.0)
    inside.end_wait_for_look(loop)
    spins = Spins(loop, 4 * LOOK_ROUNDS)
    loop.submit(spins)
    assert spins.done.wait(TIMEOUT)
    assert 2 + 4 <= len(processor.looks) <= 2 + 5  # it does not ask for the time each round
    loop.stop()


def in_loop(proxy, function):
    """Run *function* in the loop's thread, and return its result."""
    results = []
    run_in(proxy.services.loop, lambda: results.append(function()))
    return results[0]


@two_processors
def test_a_program_s_proxy_keeps_to_none_by_default(proxy):
    """A reload can change that, for the threads of the proxy only, and at once for the loop."""
    everything = set(MAY_USE)
    assert (None, everything) == (proxy.services.processor.number, in_loop(proxy, own_mask))
    for wanted in (str(MAY_USE[1]), "none", "auto", None):
        proxy.reload(proxy.config._replace(processor=wanted))
        number = proxy.services.processor.number
        assert (number is None) == (wanted in (None, "none"))
        assert in_loop(proxy, own_mask) == (everything if number is None else {number})
        assert everything == own_mask() == in_thread(own_mask)


@two_processors
def test_threads_for_names_and_reports_have_the_process_s_mask():
    """Although the loop, which is bound, may start them."""
    masks = {}

    def resolve(name):
        masks["resolve"] = own_mask()

    def on_connection(record):
        masks["on_connection"] = own_mask()

    with FakeTarget() as target:
        with Proxy(
            listen="127.0.0.1:0", processor="auto", resolve=resolve, on_connection=on_connection
        ) as proxy:
            assert {proxy.services.processor.number} == in_loop(proxy, own_mask)
            with Talk.to(proxy.port) as talk:
                talk.connect5(b"localhost", target.port)
            wait_until(lambda: len(masks) == 2, "the report")
    assert dict.fromkeys(("resolve", "on_connection"), set(MAY_USE)) == masks


def masks_of(command):
    """Return the mask of the main thread, and those of the others, as the kernel tells."""
    masks, pid = {}, command.process.pid
    for thread in os.listdir("/proc/%d/task" % pid):
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            masks[int(thread)] = set(os.sched_getaffinity(int(thread)))
    return masks.pop(pid), list(masks.values())


@two_processors
def test_the_command_line_s_loop_keeps_to_one():
    """Unless told to keep to none; the main thread and the log's keep to none."""
    everything = set(MAY_USE)
    with CommandLine("-l", "0") as command:
        wait_until(lambda: any(len(mask) == 1 for mask in masks_of(command)[1]), "a bound thread")
        main, others = masks_of(command)
        assert everything == main
        assert everything in others
    with CommandLine("-l", "0", "--processor", "none") as command:
        main, others = masks_of(command)
        assert [everything] * len(others) == others
