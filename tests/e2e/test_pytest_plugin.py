"""The fixtures as the tests of another project get them: by the entry point, lazily."""

import configparser
import os
import re
import subprocess
import sys
import textwrap

import pytest

from kit.support import ROOT

TESTS = """
import socket
import pytest

def ask(proxy, request):
    with socket.create_connection((proxy.host, proxy.port), 20) as sock:
        sock.sendall(b"\\5\\1\\0" + request)
        data = b""
        while True:
            more = sock.recv(100)
            data += more
            if not more:
                return data

NOBODY = b"\\5\\1\\0\\3\\7a.nosuc\\0\\x50"

def test_proxy(socks_proxy):
    assert socks_proxy.url == "socks5h://127.0.0.1:%d" % socks_proxy.port
    assert socks_proxy.records == []

def test_factory(make_socks_proxy):
    refusing, silent = make_socks_proxy(reply=0x05), make_socks_proxy(truncate_reply=0, reply=1)
    assert ask(refusing, NOBODY)[2:4] == b"\\5\\5"
    assert ask(silent, NOBODY) == b"\\5\\0"
    assert [r.host for r in refusing.records] == ["a.nosuc"]

made = []

def test_keep(make_socks_proxy):
    made.append(make_socks_proxy())
    made.append(make_socks_proxy(user="ann:secret"))

def test_ended_with_its_test():
    for proxy in made:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((proxy.host, proxy.port), 20)

def test_settings_that_cannot_be(make_socks_proxy):
    with pytest.raises(TypeError, match="did you mean"):
        make_socks_proxy(replly=5)
"""


def entry_points():
    """Return the entry points as setup.cfg declares them, in the form of an installed package."""
    config = configparser.ConfigParser()
    config.read(os.path.join(ROOT, "setup.cfg"))
    section = config["options.entry_points"]
    return "".join("[%s]\n%s\n\n" % (group, lines.strip()) for group, lines in section.items())


def run_tests(tmp_path, *args, tests=TESTS):
    """Run *tests* in a folder of their own, with minisocks as if it were installed."""
    info = tmp_path / "site" / "minisocks-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: minisocks\nVersion: 0\n")
    (info / "entry_points.txt").write_text(entry_points())
    (tmp_path / "test_somebodys.py").write_text(tests)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    path = os.pathsep.join((str(tmp_path / "site"), ROOT))
    child = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider"] + list(args),
        cwd=str(tmp_path),
        env=dict(os.environ, PYTHONPATH=path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )
    return child.returncode, child.stdout


def test_fixtures_of_the_entry_point(tmp_path):
    """A test suite that knows only that minisocks is installed uses both fixtures."""
    status, out = run_tests(tmp_path)

    assert 0 == status, out
    assert "5 passed" in out


@pytest.mark.parametrize("uses", [False, True])
def test_nothing_is_loaded_where_no_test_needs_it(tmp_path, uses):
    """A suite without such tests does not load the proxy; in one with, no test waits for it."""
    tests = (
        "import sys\ndef test_it():\n    assert ('minisocks.proxy' in sys.modules) == %r\n" % uses
    )
    if uses:
        tests += "def test_later(socks_proxy):\n    pass\n"

    status, out = run_tests(tmp_path, tests=tests)

    assert 0 == status, out


def test_page_in_the_docs_is_true(tmp_path):
    """The tests that docs/testing.rst shows pass."""
    with open(os.path.join(ROOT, "docs", "testing.rst"), encoding="utf-8") as page:
        (shown,) = re.findall(r"(?s)\.\. test begin\n\n::\n\n(.*)\.\. test end", page.read())

    status, out = run_tests(tmp_path, tests=textwrap.dedent(shown))

    assert 0 == status, out
    assert "3 passed" in out


def test_fixtures_are_explained(tmp_path):
    """pytest --fixtures explains them."""
    status, out = run_tests(tmp_path, "--fixtures")

    assert 0 == status, out
    assert "fail as the test wants" in out
    assert "A well-behaved SOCKS proxy" in out


def test_it_can_be_switched_off(tmp_path):
    """-p no:minisocks leaves a suite as if it were not installed."""
    status, out = run_tests(tmp_path, "-p", "no:minisocks")

    assert 1 == status
    assert "fixture 'socks_proxy' not found" in out


@pytest.mark.parametrize("name", ["make_socks_proxy", "socks_proxy"])
def test_own_tests_use_them(request, name):
    """This suite has them without an installation."""
    assert request.getfixturevalue(name) is not None
