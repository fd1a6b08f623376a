"""The log: each line once, no thread waits for it, and what is lost is counted."""

import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time

import pytest

from kit import inside
from kit.support import (
    ROOT,
    TIMEOUT,
    CommandLine,
    Talk,
    one_connection,
    own_threads,
    started_with_a_pipe,
    wait_until,
)
from minisocks.compat import tame_traceback
from minisocks.config.settings import Config
from minisocks.policy.client import Client
from minisocks.record import Record
from minisocks.service import logs, repeats
from minisocks.service.lines import FORMATS, Entry, sum_up
from minisocks.service.logs import MAX_WAITING, Log, open_outputs
from minisocks.service.outputs import Output
from minisocks.service.repeats import BURST
from minisocks.wire import Rep


class Memory(Output):
    """Keeps what is written; ``fails`` is what it says, ``hold`` makes it wait."""

    def __init__(self, has_time=False):
        self.has_time = has_time
        self.writes = []
        self.fails = ""
        self.free = threading.Event()
        self.free.set()
        self.closed = 0
        self.reopened = 0

    def write(self, lines):
        self.free.wait(TIMEOUT)
        self.writes.append([] if self.fails else list(lines))
        self.lost = len(lines) if self.fails else 0
        return self.fails

    def reopen(self):
        self.reopened += 1
        raise OSError(5, "no")

    def close(self):
        self.closed += 1

    @property
    def texts(self):
        return [text for lines in self.writes for _severity, text in lines]


@pytest.fixture
def memory():
    """Where a test's log goes."""
    return Memory()


LOGGERS = ("minisocks", "minisocks.access", "minisocks.access.granted")


@pytest.fixture
def log(memory, monkeypatch):
    """A log that runs; our loggers are as before after it."""
    monkeypatch.setattr(logs, "open_outputs", lambda config: [memory])
    for name in ("logThreads", "logProcesses", "logMultiprocessing", "raiseExceptions", "_srcfile"):
        monkeypatch.setattr(logging, name, getattr(logging, name))
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    running = Log(Config())
    running.start(Config())
    yield running
    memory.free.set()
    running.close()
    for logger, level in zip(loggers, levels):
        logger.setLevel(level)
    assert [] == [thread for thread in own_threads() if thread.name == "minisocks-log"]


logger = logging.getLogger("minisocks")
access = logging.getLogger("minisocks.access")


def record(level, message, **more):
    """Return what the logging module gives to a handler."""
    more.update(name="minisocks", levelno=level, msg=message)
    return logging.makeLogRecord(more)


def failure(text):
    """Return the log's record of an exception, as it passes our logger's filter."""
    try:
        raise ValueError(text)
    except ValueError:
        made = record(logging.ERROR, "failed", exc_info=sys.exc_info())
    assert tame_traceback(made)
    return made


def ended(host="10.0.0.9", end="refused", rep=Rep.NOT_ALLOWED, via=None, id=1):
    """Return the record of a connection that has ended."""
    story = Record(Client((host, 1000 + id)), id)
    story.via, story.rep = via, rep
    inside.end_record(story, end, 0.5)
    return story


def test_a_line_has_time_name_and_text(log, memory):
    """A line has the form that people read, and is written once."""
    logger.info("%d of %s", 3, "them")
    wait_until(lambda: memory.texts)
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} minisocks: 3 of them$", memory.texts[0])
    log.close()
    assert 1 == len(memory.texts)
    assert 1 == memory.closed


def test_time_is_the_line_s_own(log, memory):
    """Each line has its own also where a second begins between two of them."""
    for created in (1e9 + 0.875, 1e9 + 1.0, 1e9 + 0.5):
        log.emit(record(logging.INFO, "x", created=created))
    wait_until(lambda: len(memory.texts) == 3)
    want = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1e9))
    assert [",875", ",000", ",500"] == [text[19:23] for text in memory.texts]
    assert want == memory.texts[0][:19] == memory.texts[2][:19] != memory.texts[1][:19]


def test_syslog_has_its_own_time(log, memory):
    """An output that adds the time gets lines without."""
    memory.has_time = True
    logger.warning("x")
    wait_until(lambda: memory.writes)
    assert [(4, "minisocks: x")] == memory.writes[0]


def test_severities(log, memory):
    """Levels are written as syslog's numbers."""
    logger.setLevel(logging.DEBUG)
    for level in (10, 20, 30, 40, 50):
        logger.log(level, "level %d", level)
    log.close()
    assert [7, 6, 4, 3, 3] == [severity for lines in memory.writes for severity, _text in lines]


def test_a_traceback_is_not_lost(log, memory):
    """Its lines are behind the message, and none of them looks like another record."""
    log.emit(failure("a\n2026 minisocks: b"))
    wait_until(lambda: memory.texts)
    first, *rest = memory.texts[0].split("\n")
    assert first.endswith("minisocks: failed")
    assert rest[0] == "    Traceback (most recent call last):"
    assert all(line.startswith("    ") for line in rest)


def test_json_is_a_line_of_data(log, memory):
    """For programs: time in UTC, level, and what is known of a connection by name."""
    log.change(Config(log_format="json"), [memory])
    log.emit(record(logging.WARNING, "a \u00e9 \udc80\n"))
    access.info("%s", ended(id=7))
    access.info("%s", ended(via="10.0.0.1", rep=Rep.SUCCEEDED, end="client-fin"))
    log.emit(failure("x"))
    wait_until(lambda: len(memory.texts) == 4)
    lines = [json.loads(text) for text in memory.texts]
    assert all(text.isascii() if hasattr(text, "isascii") else True for text in memory.texts)
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$", lines[0].pop("time"))
    assert {"level": "warning", "logger": "minisocks", "message": "a \u00e9 \\x80\\n"} == lines[0]
    assert (7, "10.0.0.9:1007", "connection not allowed by ruleset", "refused") == tuple(
        lines[1][key] for key in ("id", "client", "rep", "end")
    )
    assert "via" not in lines[1]
    assert "10.0.0.1" == lines[2]["via"]
    assert "ValueError: x" in lines[3]["traceback"]


def test_a_scan_is_folded(log, memory):
    """A thousand refusals of one client are ten lines and a sum; other clients' lines stay."""
    for n in range(1000):
        access.info("%s", ended(id=n))
        if n % 100 == 0:
            time.sleep(0.06)  # for the queue is bounded
    access.info("%s", ended(host="10.0.0.8", id=5000))
    access.info("%s", ended(end="not-socks", rep=None, id=5001))
    for n in range(20):
        access.info("%s", ended(via="10.0.0.1", rep=Rep.SUCCEEDED, end="client-fin", id=6000 + n))
    log.close()
    text = "\n".join(memory.texts)
    assert BURST + 1 == len(re.findall(r"client=10.0.0.9:\S+ rep='connection not allowed", text))
    assert "minisocks.access: last message %d times: id=999 " % (1000 - BURST) in text
    assert "id=5000" in text
    assert "id=5001" in text
    assert 20 == text.count("client-fin")


def test_many_refused_networks_are_one_sum_by_why(log, memory):
    """A budget for all together; the first of each network is there, and what is granted, too."""
    for n in range(3000):
        access.info("%s", ended(host="2001:db8:0:%x::%x" % (n, n), id=n))
        if n % 300 == 0:
            wait_until(lambda: not inside.waiting_lines(log))
    access.info("%s", ended(host="192.0.2.7", id=9000))
    access.info("%s", ended(via="10.0.0.1", rep=Rep.SUCCEEDED, end="client-fin", id=9001))
    log.close()
    lines = [text for text in memory.texts if "client=[2001:db8" in text]
    assert len(lines) < 2 * repeats.REFUSAL_BURST
    assert [1, 1] == [len([t for t in memory.texts if " id=%d " % n in t]) for n in (9000, 9001)]
    told = sum(int((re.findall("last message ([0-9]+) times", text) or [1])[0]) for text in lines)
    (rest,) = re.findall(
        "([0-9]+) more refusals, too many to write one by one: "
        "connection not allowed by ruleset: ([0-9]+)$",
        "\n".join(memory.texts),
        re.M,
    )
    assert rest[0] == rest[1]
    assert 3000 == told + int(rest[0])


def test_a_scan_from_everywhere_has_its_bound(log, memory):
    """Each client in a network of its own: the burst, and the first of so many sites."""
    began = time.monotonic()
    for n in range(4000):
        access.info("%s", ended(host="%d.%d.7.7" % (n % 200 + 11, n // 200), id=n))
        if n % 300 == 0:
            wait_until(lambda: not inside.waiting_lines(log))
    log.close()
    rate = repeats.REFUSALS_PER_SECOND * (time.monotonic() - began)
    assert len(memory.texts) <= repeats.REFUSAL_BURST + repeats.MAX_SITES + rate + 2
    assert "times from many networks: id=" in "\n".join(memory.texts)


def test_a_noisy_provider_hides_no_customer(log, memory):
    """The first line of a /24 is there, although its /16 is folded as a whole by then."""
    for n in range(256 * 12):
        access.info("%s", ended(host="198.51.%d.%d" % (n % 60, n // 256), id=n))
        if n % 300 == 0:
            wait_until(lambda: not inside.waiting_lines(log))
    access.info("%s", ended(host="198.51.77.7", id=9000))
    log.close()
    assert 1 == len([text for text in memory.texts if " id=9000 " in text])


@pytest.mark.parametrize(
    "host, depth, whence",
    [
        ("192.0.2.9", 0, " from many networks"),
        ("192.0.2.9", 1, " from 192.0.0.0/16"),
        ("192.0.2.9", 2, " from 192.0.2.0/24"),
        ("192.0.2.9", 3, ""),
        ("2001:db8:1:203:4::5", 3, " from 2001:db8:1::/48"),
        ("2001:db8:1:203:4::5", 4, " from 2001:db8:1:200::/56"),
        ("2001:db8:1:203:4::5", 6, ""),
        ("127.0.0.1", 1, ""),
    ],
)
def test_a_sum_names_the_network_that_it_is_of(host, depth, whence):
    """Unless all of it comes from the address in the line; for programs by itself."""
    entry = sum_up(entry_of(ended(host=host)), 7, depth)
    assert entry.message.startswith("last message 7 times%s: id=" % whence)
    data = json.loads(FORMATS["json"](entry, False))
    assert (7, whence) == (data["repeats"], " from %s" % data["from"] if whence else "")


def entry_of(story):
    return Entry(record(logging.INFO, "%s", args=(story,)))


def test_refusals_leave_room_for_others_when_lines_cannot_be_written(log, memory):
    """They fill half of what waits at most; the others are counted by why."""
    memory.free.clear()
    logger.info("first")
    wait_until(lambda: not inside.waiting_lines(log))
    for n in range(2 * MAX_WAITING):
        access.info("%s", ended(host="192.0.2.%d" % (n % 256), id=n))
    for n in range(MAX_WAITING // 2):
        access.info("%s", ended(via="10.0.0.1", rep=Rep.SUCCEEDED, end="client-fin", id=n))
    memory.free.set()
    log.close()
    assert MAX_WAITING // 2 == len([text for text in memory.texts if "end=client-fin" in text])
    assert not [text for text in memory.texts if "are lost" in text]


def test_a_message_is_one_line(log, memory):
    """It is one also where another program, or the name of a file, puts more into it."""
    # Not by a logger: pytest keeps what those say, and cannot pass a lone surrogate on.
    log.emit(record(logging.WARNING, "cannot read /a\n2026-01-01 minisocks: b\x1b[2J\u202e\udc80"))
    wait_until(lambda: memory.texts)
    assert memory.texts[0].endswith(
        "cannot read /a\\n2026-01-01 minisocks: b\\x1b[2J\\xe2\\x80\\xae\\x80"
    )


def test_a_folded_line_of_json_counts(log, memory):
    """The sum has the number in a field of its own."""
    log.change(Config(log_format="json"), [memory])
    for n in range(30):
        logger.warning("at capacity: %s", n)
    log.close()
    assert BURST + 1 == len(memory.texts)
    last = json.loads(memory.texts[-1])
    assert (30 - BURST, "at capacity: 29") == (last["repeats"], last["message"])


def test_lines_that_operators_look_for_are_not_folded(log, memory):
    """With -v each line is there."""
    log.change(Config(verbose=True))
    for n in range(50):
        logger.debug("id=%d said nothing", n)
        access.info("%s", ended(id=n))
    log.close()
    assert 100 == len(memory.texts)


def test_a_sum_comes_by_itself(log, memory, monkeypatch):
    """When the minute is over, also if no further line comes."""
    monkeypatch.setattr("minisocks.service.repeats.WINDOW_SECONDS", 0.3)
    for _ in range(BURST + 5):
        logger.warning("again")
    wait_until(lambda: any("last message 5 times: again" in text for text in memory.texts))


def test_no_thread_waits_for_a_log_that_hangs(log, memory):
    """Lines are dropped beyond a bound, and when it goes on it says how many."""
    memory.free.clear()
    logger.setLevel(logging.DEBUG)
    logger.debug("first")
    wait_until(lambda: not inside.waiting_lines(log))
    began = time.monotonic()
    for n in range(MAX_WAITING + 500):
        logger.debug("line %d", n)
    assert time.monotonic() - began < TIMEOUT / 2
    assert MAX_WAITING == inside.waiting_lines(log)
    memory.free.set()
    wait_until(lambda: any("line %d" % (MAX_WAITING - 1) in text for text in memory.texts))
    logger.debug("last")
    log.close()
    (told,) = [text for text in memory.texts if "of the log are lost" in text]
    assert "500 lines of the log are lost: they came faster than they could be written" in told
    assert 1 + MAX_WAITING + 1 + 1 == len(memory.texts)


@pytest.mark.parametrize(
    "count, told", [(1, "1 line of the log is"), (3, "3 lines of the log are")]
)
def test_a_full_disk_is_logged_when_it_has_room_again(log, memory, monkeypatch, count, told):
    """How many lines are lost, and why; then it is as before."""
    monkeypatch.setattr(logs, "EDGE_SECONDS", 0.0)
    memory.fails = "No space left on device"
    for n in range(count):
        logger.info("line %d", n)
        wait_until(lambda n=n: len(memory.writes) > n)
    memory.fails = ""
    logger.info("again")
    wait_until(lambda: memory.texts)
    assert told + " lost: No space left on device" in memory.texts[0]
    assert memory.texts[1].endswith("again")
    logger.info("and on")
    wait_until(lambda: len(memory.texts) == 3)
    assert memory.texts[2].endswith("and on")


def test_lines_that_come_together_are_written_together(log, memory):
    """Under load the disk is asked a few times a second."""
    logger.setLevel(logging.DEBUG)
    for n in range(500):
        logger.debug("line %d", n)
    log.close()
    assert 500 == len(memory.texts)
    assert len(memory.writes) < 100


def test_hup_reopens(log, memory):
    """Each output is opened again; one that cannot be has a line in the log."""
    log.reopen()
    wait_until(lambda: memory.texts)
    assert 1 == memory.reopened
    assert "cannot be opened again, so the file that is open is used: no" in memory.texts[0]


def test_a_change_closes_what_was_before(log, memory):
    """What was logged before goes to the old, what comes to the new."""
    new = Memory()
    logger.info("old")
    wait_until(lambda: memory.texts)
    log.change(Config(), [new])
    logger.info("new")
    wait_until(lambda: new.texts)
    assert 1 == memory.closed
    assert ["old"] == [text[-3:] for text in memory.texts]
    log.change(Config(quiet=2))
    access.info("%s", ended())
    logger.info("news")
    wait_until(lambda: len(new.texts) == 2)
    assert 0 == new.closed


def test_a_bug_of_ours_costs_a_line(log, memory, monkeypatch):
    """The log's thread lives on."""
    monkeypatch.setattr(logs.Entry, "severity", property(lambda self: 1 // 0))
    logger.info("x")
    time.sleep(0.1)
    monkeypatch.undo()
    logger.info("y")
    wait_until(lambda: any(text.endswith("y") for text in memory.texts))


def test_where_it_goes(tmp_path):
    """stderr unless a file or syslog is asked for; in the background, syslog."""

    def kinds(**settings):
        found = open_outputs(Config(**settings))
        for each in found:
            each.close()
        return [type(each).__name__ for each in found]

    path = str(tmp_path / "log")
    assert ["Stderr"] == kinds()
    assert ["LogFile"] == kinds(log_file=path)
    assert ["Syslog"] == kinds(syslog="local")
    assert ["LogFile", "Syslog"] == kinds(log_file=path, syslog="local")
    assert ["Syslog"] == kinds(daemon=True)
    assert ["LogFile"] == kinds(daemon=True, log_file=path)


# The process


def test_stderr_that_is_not_read_stalls_no_client(target):
    """A full pipe: connections are served, and the process ends when asked to."""
    with started_with_a_pipe("-v") as (process, port):
        import fcntl

        fcntl.fcntl(process.stderr.fileno(), 1031, 4096)  # F_SETPIPE_SZ
        for _ in range(300):
            with Talk.to(port) as talk:
                assert 0 == talk.connect5("127.0.0.1", target.port)[0]
                talk.send(b"x").expect(b"x")
        process.terminate()
        assert 0 == process.wait(TIMEOUT)


def test_log_file_and_syslog_at_once(tmp_path, target):
    """Both get each line; stderr has only how it starts."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(str(tmp_path / "dev-log"))
        daemon.settimeout(TIMEOUT)
        path = tmp_path / "m.log"
        args = ["--log-file", str(path), "--syslog=%s" % (tmp_path / "dev-log")]
        with CommandLine("-l", "0", *args) as command:
            one_connection(command, target)
            heard = b""
            while b"end=" not in heard:
                heard += daemon.recv(4096)
            assert 0 == command.end()
            assert [] == [line for line in command.lines if "end=" in line]
        assert b"<30>minisocks[%d]: minisocks.access: id=1 " % command.process.pid in heard
        assert "end=" in path.read_text()
        assert "listening on" in path.read_text()


def test_syslog_alone_means_this_host(tmp_path):
    """--syslog needs no value, wherever it stands."""
    for args in (["--syslog"], ["--syslog", "-q"], ["-q", "--syslog"]):
        status = subprocess.run(
            [sys.executable, "-m", "minisocks", "check", *args],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            universal_newlines=True,
        )
        assert re.search(r"(?m)^syslog +local +command line$", status.stdout)


def test_last_lines_are_written_at_the_end(tmp_path, target):
    """A connection that is cut by the end has its line."""
    path = tmp_path / "m.log"
    with CommandLine("-l", "0", "--grace", "0", "--log-file", str(path)) as command:
        with Talk.to(command.ports[0]) as talk:
            assert 0 == talk.connect5("127.0.0.1", target.port)[0]
            assert 0 == command.end()
            talk.expect_reset()
    assert "end=shutdown" in path.read_text()


def test_full_disk_does_not_end_it(target):
    """/dev/full as the log: it serves, and ends in good order."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with CommandLine("-l", "0", "--log-file", "/dev/full") as command:
        for _ in range(20):
            one_connection(command, target)
        assert 0 == command.end()
