"""Lists that are made for other programs: what they mean, and what in them means nothing."""

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.support import CommandLine, closed_port, run_command
from minisocks import Config
from minisocks.access import Access
from minisocks.errors import ConfigError, RuleError
from minisocks.hooks import Hooks
from minisocks.policy.addresssets import Names
from minisocks.policy.lists import parse_lines
from minisocks.service.announce import oddities


def read(line):
    lines = parse_lines(line, "f")
    return lines.names, lines.notes


@pytest.mark.parametrize(
    "line, names",
    [
        ("0.0.0.0 ads.example", ["ads.example"]),
        ("127.0.0.1\tads.example  b.example # both", ["ads.example", "b.example"]),
        (":: ads.example#x", ["ads.example"]),
        ("::1 Ads.Example", ["Ads.Example"]),
        ("||ads.example^", [".ads.example"]),
        ("||zip^", [".zip"]),
        ("address=/ads.example/", [".ads.example"]),
        ("address=/ads.example/#", [".ads.example"]),
        ("address=/ads.example/0.0.0.0", [".ads.example"]),
        ("address=/a.example/b.example/::  # both", [".a.example", ".b.example"]),
        ("local=/ads.example/", [".ads.example"]),
        ("server=/ads.example/", [".ads.example"]),
        # What a file of hosts says of its own host, and the heads of lists.
        ("127.0.0.1 localhost localhost.localdomain", []),
        ("::1 ip6-localhost ip6-loopback", []),
        ("fe80::1%lo0 localhost", []),
        ("ff02::1 ip6-allnodes", []),
        ("255.255.255.255 broadcasthost", []),
        ("0.0.0.0 0.0.0.0", []),
        ("0.0.0.0 x.localhost", []),
        ("127.0.1.1 pi", []),
        ("! Title: ads", []),
        ("# ads $ ## @@", []),
        ("## ads", []),
        ("[Adblock Plus 2.0]", []),
        # Ours, whatever the comment behind them.
        ("ads.example # costs $5, ||x^", ["ads.example"]),
        ("*.ads.example ## x", ["*.ads.example"]),
        ("ads.example#x", ["ads.example"]),
    ],
)
@pytest.mark.parametrize("shape", ["%s", "  %s\r", "\n%s\n"])
def test_lines_of_other_programs_are_understood(line, names, shape):
    """Hosts have the names alone; Adblock and dnsmasq mean what is below them as well."""
    assert (names, ()) == read(shape % line)


@pytest.mark.parametrize(
    "line, words",
    [
        ("@@||good.example^", "an exception (@@)"),
        ("||ads.example^$third-party", "an option behind $"),
        ("ads.example$important", "an option behind $"),
        ("||ads*.example^", "a pattern for addresses"),
        ("||ads.example/x^", "a pattern for addresses"),
        ("||ads.example", "a pattern for addresses"),
        ("|https://ads.example|", "a pattern for addresses"),
        ("/ads[0-9]/", "a pattern for addresses"),
        ("ads.example##.banner", "a part of a page (##)"),
        ("ads.example,b.example#@#.banner", "a part of a page (##)"),
        ("192.168.1.5 nas.example", "a name for an address other than 0.0.0.0, 127.0.0.1, ::, ::1"),
        ("127.0.0.2 ads.example", "a name for an address other than 0.0.0.0, 127.0.0.1, ::, ::1"),
        ("address=/nas.example/192.168.1.5", "an address, or a name server, for a name"),
        ("server=/lan.example/192.168.1.1", "an address, or a name server, for a name"),
        ("server=/lan.example/#", "an address, or a name server, for a name"),
        ("0.0.0.0 a..b", "a name that no host can have"),
        ("0.0.0.0 b\xfccher.example", "a name that no host can have"),
        ("0.0.0.0 10.0.0.300", "a name that no host can have"),
        ("0.0.0.0 198.51.100.7", "a name that no host can have"),
        ("||a..b^", "a name that no host can have"),
        ("address=/%s/" % ("x" * 70), "a name that no host can have"),
    ],
)
def test_what_means_nothing_is_shown_with_its_number(line, words):
    """It denies nothing, and what is beside it counts."""
    names, notes = read("\n%s\r\n||ads.example^" % line)
    assert [".ads.example"] == names
    assert ("f, line 2: %s is not understood, and denies nothing" % words,) == notes


def test_many_such_lines_are_counted():
    """A sentence for each kind, with the first numbers."""
    _names, notes = read("@@||x.example^\n" * 9 + "||x.example^$all\n" * 2)
    assert (
        "f, lines 1, 2, 3, 4, 5 and 4 more: an exception (@@) is not understood, and denies nothing"
    ) == notes[0]
    assert notes[1].startswith("f, lines 10, 11: an option behind $ is not")


def test_an_address_of_adblock_is_a_network():
    """It has nothing below it."""
    lines = parse_lines("||192.0.2.7^", "f")
    assert ([(4, 0, 0xC0000207)], []) == (lines.rows, lines.names)


@pytest.mark.parametrize("line", ["0.0.0.0 a.test", "||a.test^", "address=/a.test/", "@@x"])
@pytest.mark.parametrize("rule", ["allow to @list", "allow from @list", "deny from @list"])
def test_elsewhere_than_in_the_to_of_a_deny_such_a_line_is_an_error(tmp_path, rule, line):
    """What is to deny a name would allow it; comments and ends of lines are as harmless as ever."""
    path = tmp_path / "list"
    path.write_bytes(b"\xef\xbb\xbf! x\r\n192.0.2.0/24\r\n")
    rule = rule.replace("list", str(path))
    assert () == Access.of(Config(rule=(rule,)), Hooks()).notes
    path.write_text("192.0.2.0/24\n %s\n" % line)
    with pytest.raises(ConfigError) as told:
        Access.of(Config(rule=("deny to @%s" % path, rule)), Hooks())
    assert "%s, line 2, column 2" % path == told.value.place
    assert "only the to of a deny takes lines of this kind" in str(told.value)
    assert (" " + line, " ^") == told.value.picture


def test_it_is_listed_with_the_other_oddities(tmp_path):
    """A start, a reload and check list it, of each file once."""
    path = tmp_path / "list"
    path.write_bytes(b"\xef\xbb\xbf@@||x.example^\r\n0.0.0.0 x.example\r\n")
    rule = "deny to @%s" % path
    expected = "%s, line 1: an exception (@@) is not understood, and denies nothing" % path
    assert [expected] == oddities(Access.of(Config(rule=(rule, rule + " port 1")), Hooks()))
    status, _out, err = run_command("check", "--rule", rule)
    assert (0, "warning: %s\n" % expected) == (status, err)
    status, out, _err = run_command("check", "--rule", rule, "--to", "x.example:443")
    assert (1, True) == (status, "by rule 1: " in out)


@settings(deadline=None, max_examples=500)
@given(
    st.lists(st.sampled_from([*"|^/=$@#!.*a: \t%[]", "0.0.0.0", "a.b", "::1", "address", "\xfc"]))
)
def test_any_line_is_understood_or_shown_or_an_error(parts):
    """Every name that comes of a line can be asked for."""
    try:
        lines = parse_lines("".join(parts), "f")
    except RuleError as exc:
        assert exc.place.startswith("f, line 1, column")  # noqa: PT017  # other text is read
        return
    Names(lines.names)
    assert bool(lines.foreign) >= bool(lines.notes)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl_is_kept_from_what_a_list_of_hosts_denies(tmp_path):
    """By a proxy that runs; localhost, which such lists have as well, is none of that."""
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1 localhost\r\n0.0.0.0 ads.example\r\n||track.example^\r\n")
    with CommandLine("-l", "0", "--rule", "deny to @%s" % path) as command:
        for name, rep in (("ads.example", "(2)"), ("x.track.example", "(2)"), ("localhost", "(5)")):
            url = "http://%s:%d/" % (name, closed_port())
            words = ["curl", "-sS", "--max-time", "20", url]
            words += ["-x", "socks5h://127.0.0.1:%d" % command.ports[0]]
            curl = subprocess.Popen(words, stderr=subprocess.PIPE, universal_newlines=True)
            assert rep in curl.communicate()[1], name
