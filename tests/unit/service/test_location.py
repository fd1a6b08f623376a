"""The short way to pidfile and address leads where the long way does."""

import itertools
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minisocks.config.layers import layered
from minisocks.config.settings import CONFIG_FILE, SETTINGS, Config
from minisocks.errors import ConfigError
from minisocks.service.location import DEFAULT_LISTEN, locate, normal, scan
from minisocks.service.pidfile import default_path
from minisocks.values import ListenAddress

FILE = "[minisocks]\nlisten =\n  3\n  4\npidfile = /run/file\n"


def test_it_knows_the_options():
    """Those with a value and those without are the ones of the table of settings."""
    for setting in (CONFIG_FILE,) + SETTINGS:
        for option in filter(None, (setting.option, setting.short)):
            if setting.kind == "flag":
                assert {} == scan([option]) == scan(["--no-" + setting.key])
                assert None is scan([option, "x"])
            elif setting.name != "syslog":
                assert {setting.key: "x"} == scan([option, "x"])
                assert None is scan([option])
                assert None is scan(["--no-" + setting.key])
    assert {} == scan(["--ensure", "--syslog", "--syslog=x", "-qq"])
    assert str(ListenAddress.parse(Config().listen[0])) == DEFAULT_LISTEN


@pytest.mark.parametrize("present", list(itertools.product([False, True], repeat=6)))
def test_layers_lie_as_everywhere(present):
    """Command line over environment over file over default, for address and pidfile."""
    given_listen, given_pidfile, env_listen, env_pidfile, in_file, quoted = present
    given = {"listen": "1" if given_listen else "", "pidfile": "/cl" if given_pidfile else ""}
    environ = {}
    if env_listen:
        environ["MINISOCKS_LISTEN"] = "\n '2' \n5\n" if quoted else "\n 2 \n5\n"
    if env_pidfile:
        environ["MINISOCKS_PIDFILE"] = " /env "
    file = FILE if in_file else ""
    if quoted:
        file = file.replace("3", '"3"').replace("/run/file", "'/run/fi le '")
    if quoted:
        environ["MINISOCKS_GRACE"] = "7"
    words = {"listen": ("1",) if given_listen else (), "pidfile": given["pidfile"] or None}
    config = layered(words, environ, file, "f").config
    address = str(ListenAddress.parse(config.listen[0]))

    assert (config.pidfile or default_path(address), address) == locate(given, environ, file)


@pytest.mark.parametrize("folder", ["", "/etc", "a/b"])
@pytest.mark.parametrize("file", [FILE, "[minisocks]\npidfile = p", "[minisocks]\nlisten = unix:s"])
def test_paths_in_the_file_begin_in_its_folder(file, folder):
    """Paths of the command line and the environment do not."""
    path, address = locate({}, {}, file, folder)
    if file != FILE:
        whole = os.path.join(folder, "s")
        assert file.endswith("p") or "unix:" + whole == address
        assert file.endswith("s") or os.path.abspath(os.path.join(folder, "p")) == path
    assert os.path.abspath("x") == locate({"pidfile": "x"}, {}, file, folder)[0]
    assert os.path.abspath("x") == locate({}, {"MINISOCKS_PIDFILE": "x"}, file, folder)[0]
    assert "unix:x" == locate({"listen": "unix:x"}, {}, file, folder)[1]


@pytest.mark.parametrize(
    "text", ["1080", "0", "65535", "10.0.0.1:1", "[::1]:1080", ":1080", "a.test:80", "unix:a:1"]
)
def test_address_is_shown_as_everywhere(text):
    """Each form of --listen has one spelling."""
    assert str(ListenAddress.parse(text)) == normal(text)


@settings(deadline=None)
@given(st.text("0123456789:[].ax \u0661\u00b2", max_size=12))
def test_what_listen_takes_is_taken(text):
    """Whatever --listen accepts has the same spelling here, and only what it accepts has one."""
    try:
        address = str(ListenAddress.parse(text))
    except ConfigError:
        return
    assert address == normal(text)


@pytest.mark.parametrize(
    "text", ["", "x", "a:http", "1:\u0661", "\u00b2", "1:-1", ":", "1_0", "65536", "a:99999"]
)
def test_what_is_no_address_is_an_error(text):
    """The short way gives up, and the long one says why."""
    with pytest.raises(ValueError, match="no address"):
        normal(text)


@pytest.mark.parametrize("text", ["65536", "a:99999", ":123456"])
def test_too_high_port_is_explained(text):
    """As at the start, because the address was probably typed there, too."""
    with pytest.raises(ValueError, match="write a port up to 65535"):
        normal(text)


def test_port_0_has_no_pidfile():
    """A later command could not find which one is meant; unless it is named."""
    with pytest.raises(ValueError, match="port 0"):
        locate({"listen": "0"}, {})
    assert ("/x", "127.0.0.1:0") == locate({"listen": "0", "pidfile": "/x"}, {})


def test_relative_path_begins_here():
    """A pidfile is where this process would make it."""
    assert os.path.join(os.getcwd(), "x") == locate({"pidfile": "x"}, {})[0]


@pytest.mark.parametrize(
    "argv, expected",
    [
        ([], {}),
        (["--ensure"], {}),
        (["--ensure", "-c", "f"], {"config": "f"}),
        (["--ensure", "--config=f", "-q", "-v"], {"config": "f"}),
        (["-l", "1", "-l", "2"], {"listen": "1"}),
        (["--listen=1", "--pidfile", "p", "--no-quiet"], {"listen": "1", "pidfile": "p"}),
        (["-c", "a", "-c", "b"], {"config": "b"}),
        (["--syslog", "--syslog=local", "--daemon"], {}),
        # The value of another option is no option.
        (["--user", "-l", "-l", "5"], {"user": "-l", "listen": "5"}),
        (["--user=-l", "--log-file", "--pidfile"], {"user": "-l", "log-file": "--pidfile"}),
        # What takes a closer look.
        (["stop"], None),
        (["-l1080"], None),
        (["-l=1080"], None),
        (["-qv"], None),
        (["-l"], None),
        (["-l", ""], None),
        (["--"], None),
        (["--help"], None),
        (["--version"], None),
        (["--lisen", "1"], None),
        (["--quiet=yes"], None),
        (["--no-ensure"], None),
        (["--xx-open"], None),
        (["x"], None),
    ],
)
def test_command_line_is_read_as_click_does(argv, expected):
    """Plain command lines are understood, others are left to click."""
    assert expected == scan(argv)


_WORDS = st.sampled_from(
    [s.option for s in (CONFIG_FILE,) + SETTINGS if s.name != "syslog"]
    + ["-l", "-c", "-q", "-v", "--ensure", "--no-open", "1080", "x", "--pidfile=p", "-l=1", "-l7"]
)


@settings(deadline=None, max_examples=300)
@given(st.lists(_WORDS, max_size=6))
def test_any_command_line_is_read_as_click_does(argv):
    """What it finds is what click finds, or it leaves it to click."""
    import click

    from minisocks import cli

    found = scan(argv)
    if found is None:
        return
    try:
        with cli.SERVE.make_context("minisocks", list(argv)) as context:
            assert [] == context.args
            params = context.params
    except click.ClickException as exc:
        raise AssertionError("%r: %s" % (argv, exc)) from exc
    assert params["config"] == found.get("config")
    assert params["pidfile"] == found.get("pidfile")
    assert (params["listen"] or (None,))[0] == found.get("listen")
