"""scripts/bench/peers: it measures, and what it draws and writes comes from what it measured."""

import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from kit.support import ROOT

BENCH = os.path.join(ROOT, "scripts", "bench")

pytestmark = [
    pytest.mark.skipif(sys.version_info < (3, 8), reason="scripts/bench needs Python 3.8"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]


def peers(*args, program="peers"):
    """Run it; return what it prints."""
    return subprocess.check_output(
        [sys.executable, os.path.join(BENCH, program), *args],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        universal_newlines=True,
        timeout=100,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run of minisocks alone and of no proxy: the table's text and the file."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler here")
    path = str(tmp_path_factory.mktemp("bench") / "run.json")
    tests = "start,down:2,ping:2,conn:2,name:2,udp:2,idle:400,idle-udp:200,mixed:2,crowd:50"
    text = peers(
        "--peers", "minisocks,direct", "--rounds", "1", "--seconds", "0.6", "--tests", tests,
        "--json", path,
    )  # fmt: skip
    return text, path


def values(path):
    """Return the figures of minisocks, by test and figure."""
    with open(path) as file:
        figures = json.load(file)["figures"]
    return {(f["test"], f["figure"]): f["values"].get("minisocks") for f in figures}


@pytest.mark.soak
def test_every_test_gives_figures_and_nothing_fails(run):
    """A real load through the real proxy: rates, times and memory are there, and plausible."""
    text, path = run
    found = values(path)
    for test, figure in (
        ("start", "start_ms"),
        ("down:2", "gb_per_s"),
        ("down:2", "cpu_s_per_gb"),
        ("ping:2", "per_s"),
        ("conn:2", "cpu_us"),
        ("name:2", "per_s"),
        ("udp:2", "per_s"),
        ("idle:400", "kib_each"),
        ("idle-udp:200", "kib_each"),
        ("mixed:2", "us_p99_beside"),
        ("crowd:50", "us_p99_beside"),
    ):
        (value,) = found[test, figure]
        assert value > 0, (test, figure)
    assert not any(sum(v or []) for (_, figure), v in found.items() if figure == "failed")
    assert "No figure" not in text


@pytest.mark.soak
def test_the_plot_is_made_from_the_figures(run, tmp_path):
    """The SVG is well-formed and has both servers in it."""
    plot = str(tmp_path / "plot.svg")
    peers("--from-json", run[1], "--svg", plot, "--svg-base", "direct")
    drawing = ElementTree.parse(plot).getroot()  # noqa: S314  # of our own making
    assert drawing.tag.endswith("svg")
    words = " ".join(drawing.itertext())
    assert "minisocks" in words
    assert "direct" in words


@pytest.mark.soak
@pytest.mark.others
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")
@pytest.mark.skipif(shutil.which("microsocks") is None, reason="no microsocks here")
def test_connections_through_another_proxy_are_measured():
    """By an exit, and by the load generator itself, which asks both proxies; nothing fails."""
    tests = "conn:2,name:2,idle:100"
    text = peers("--rounds", "1", "--seconds", "0.5", "--tests", tests, program="exits")
    rows = [line.split() for line in text.splitlines()]
    for test in tests.split(","):
        (row,) = [row for row in rows if row[:1] == [test]]
        assert all(float(value) > 0 for value in row[-3:]), row
    assert "No figure" not in text
    assert not any("failed" in row for row in rows)


def test_what_is_worse_than_a_peer_is_reported(monkeypatch):
    """A peer that is better by more than two percent is named with both figures."""
    monkeypatch.syspath_prepend(BENCH)
    import figures

    made = {
        "columns": [{"name": name, "version": ""} for name in ("peer", "minisocks", "direct")],
        "figures": [
            {"test": "a", "figure": "per_s", "values": {"peer": [103], "minisocks": [100]}},
            {"test": "b", "figure": "per_s", "values": {"peer": [101], "minisocks": [100]}},
            {"test": "c", "figure": "us_p50", "values": {"peer": [1, 9, 2], "minisocks": [3]}},
            {"test": "d", "figure": "us_p50", "values": {"peer": [5], "minisocks": [3]}},
            {"test": "e", "figure": "per_s", "values": {"direct": [5], "minisocks": [3]}},
        ],
    }
    assert [
        "a, per s: minisocks 100; better: peer 103",
        "c, us p50: minisocks 3; better: peer 2",
    ] == figures.behind(made)
    # In the page by a star, where the ratios are left out.
    lines = [line.split() for line in figures.short_table(dict(made, rounds=1))]
    assert [
        ["peer", "minisocks", "direct"],
        ["a", "per", "s", "103*", "100", "-"],
        ["b", "per", "s", "101", "100", "-"],
        ["c", "us", "p50", "2*", "3", "-"],
        ["d", "us", "p50", "5", "3", "-"],
        ["e", "per", "s", "-", "3", "5"],
    ] == lines


def test_the_page_has_its_figures():
    """docs/performance.rst says where its figures come from, and its plot is there."""
    with open(os.path.join(ROOT, "docs", "performance.rst"), encoding="utf-8") as file:
        text = file.read()
    part = text.partition(".. figures begin")[2].partition(".. figures end")[0]
    assert "scripts/bench/peers" in part
    assert "conn:32" in part
    ElementTree.parse(os.path.join(ROOT, "docs", "performance.svg"))  # noqa: S314  # as above
