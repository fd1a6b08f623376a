"""The language of rules: what each line means, and where the mistake is in one without."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minisocks.errors import ConfigError, RuleError
from minisocks.policy.addresssets import forms_of
from minisocks.policy.client import Listener
from minisocks.policy.lists import parse_lines
from minisocks.policy.rulelines import check_rule, parse_rule, with_files
from minisocks.wire import LOOK_UPS, Cmd, packed_ip


def parsed(text, **files):
    return parse_rule(text, lambda path: parse_lines(files[path], path))


def holds(places, text):
    return places.touch(forms_of(packed_ip(text)), lambda ip: False)


def test_exits_and_listeners():
    """In the order of the line; ``direct`` alone is what a rule without ``via`` means."""
    rule = parsed("allow listener 127.0.0.1:1080 :1081 unix:/s via b or a or direct")
    assert ("b", "a", "direct") == rule.exits
    assert (
        Listener(b"\x7f\0\0\1", 1080),
        Listener(b"", 1081),
        Listener(b"", 0, "/s"),
    ) == rule.listeners
    assert () == parsed("allow via direct").exits


@pytest.mark.parametrize(
    "place, expected",
    [
        (("127.0.0.1", 1080), True),
        (("::ffff:127.0.0.1", 1080, 0, 0), True),
        (("127.0.0.2", 1080), False),
        (("192.0.2.1", 1081), True),
        (("::1", 1081, 0, 0), True),
        (("127.0.0.1", 1082), False),
        ("/s", True),
        ("/t", False),
        ("", False),
    ],
)
def test_which_listener_a_rule_is_about(place, expected):
    """As ``getsockname`` of a connection tells it."""
    rule = parsed("allow listener 127.0.0.1:1080 :1081 unix:/s")
    assert expected is rule.is_at(Listener.of(place))
    assert not rule.is_at(None)


def test_a_rule_without_clauses_says_all():
    """Nothing that is not written is asked for."""
    rule = parsed("allow")
    assert rule.allows
    assert (None,) * 6 == rule[2:8]
    assert not parsed("DENY").allows


def test_every_clause():
    """Clauses come in any order, in capitals or not, with blanks or commas."""
    rule = parsed(
        "deny port 25,80 8000-8999 USER ann, bob version 4 command BIND udp "
        "to 10.0.0.0/8,*.Example.org  from 192.168.1.7"
    )
    assert not rule.allows
    assert ((25, 25), (80, 80), (8000, 8999)) == rule.ports
    assert {b"ann", b"bob"} == rule.users
    assert not rule.any_user
    assert {4} == rule.versions
    assert {Cmd.BIND, Cmd.UDP_ASSOCIATE} == rule.commands
    assert holds(rule.targets, "10.1.2.3")
    assert b"a.example.org" in rule.targets.names
    assert b"example.org" not in rule.targets.names
    assert holds(rule.sources, "192.168.1.7")
    assert not holds(rule.sources, "192.168.1.8")


def test_look_ups_belong_to_connect():
    """A rule about CONNECT is about them, too; one about another command is not."""
    assert {Cmd.CONNECT, *LOOK_UPS} == parsed("allow command connect").commands
    assert {Cmd.BIND} == parsed("allow command bind").commands


@pytest.mark.parametrize(
    "text, users, any_user",
    [
        ("allow user any", set(), True),
        ("allow user none", {None}, False),
        ("allow user none any", {None}, True),
        ("allow user any, none", {None}, True),
        ("allow user none ann", {None, b"ann"}, False),
        ("allow user ann", {b"ann"}, False),
        ('allow user "any" "a b" "to"', {b"any", b"a b", b"to"}, False),
        ("allow user b\xfc", {b"b\xc3\xbc"}, False),
    ],
)
def test_users(text, users, any_user):
    """Names, any user with a password, or no such user; a name like a word goes in quotes."""
    rule = parsed(text)
    assert (users, any_user) == (rule.users, rule.any_user)


@pytest.mark.parametrize("name", ["private", "loopback", "linklocal", "multicast", "metadata"])
def test_named_sets(name):
    """What they have is what ``networks`` says."""
    inside = {"private": "10.0.0.1", "loopback": "::1", "linklocal": "fe80::1"}
    inside.update(multicast="224.0.0.1", metadata="fd00:ec2::254")
    rule = parsed("allow to %s" % name.upper())
    assert holds(rule.targets, inside[name])
    assert not holds(rule.targets, "8.8.8.8")


@pytest.mark.parametrize("text", ["8.8.8.8", "2001:4860:4860::8888"])
def test_public_is_the_rest(text):
    """It has nothing of the other sets."""
    public = parsed("allow to public").targets
    assert holds(public, text)
    for other in ("10.0.0.1", "127.0.0.1", "0.0.0.0", "224.0.0.1", "169.254.1.1", "fd00::1"):
        assert not holds(public, other)


def test_a_list_in_a_file():
    """Networks and names, a line each; comments and blank lines are skipped."""
    rule = parsed(
        "deny to @block 10.0.0.1",
        block="# ours\n192.168.0.0/16\r\n\n bad.example  # why\n.worse.example\n10.9.0.1-10.9.0.3",
    )
    for text in ("192.168.3.4", "10.0.0.1", "10.9.0.2"):
        assert holds(rule.targets, text)
    assert b"bad.example" in rule.targets.names
    assert b"x.worse.example" in rule.targets.names
    assert not holds(rule.targets, "10.9.0.4")


@pytest.mark.parametrize(
    "line, words",
    [
        ("10.0.0.1/8", "did you mean 10.0.0.0/8?"),
        ("b\xfccher.example", "xn--"),
        ("ads.example b.example", "neither a network nor"),
        ("/etc/hosts", "no network"),
        ("10.0.0.300", "no network"),
        ("127.0.0.1-20", "no network"),
        ("127.0.0.x", "no network"),
        ("127.0.0.*", "no network"),
        ("private", "is a set"),
        ("PUBLIC", "is a set"),
        ("lan", "no set"),
        ("x" * 100000, "neither a network nor"),
    ],
)
def test_a_mistake_in_a_list_has_its_line(line, words):
    """The error names file and line."""
    with pytest.raises(ConfigError) as told:
        parse_lines("ok.example\n%s\n" % line, "/etc/block")
    assert "/etc/block, line 2, column 1" == told.value.place
    assert words in str(told.value)
    assert (line[:400], "^") == told.value.picture
    assert len(told.value.sentence) < 600


#: A rule, the text its caret is below, and what is said.
MISTAKES = [
    ("", "", "begins with allow or deny"),
    ("alow from 10.0.0.1", "alow", "did you mean allow?"),
    ("accept", "accept", "begins with allow or deny"),
    ("allow fron 10.0.0.1", "fron", "did you mean from?"),
    ("allow 10.0.0.1", "10.0.0.1", "the words are from, to"),
    ("allow from", "", "from needs a value"),
    ("allow from to 10.0.0.1", "to", "from needs a value"),
    ("allow to 10.0.0.1 to 10.0.0.2", "to 10.0.0.2", "to is there twice"),
    ("allow from 10.0.0.300", "10.0.0.300", "is no network"),
    ("allow from 10.0.0.0/33", "10.0.0.0/33", "at most 32 bits"),
    ("allow from 10.0.0.0/x", "10.0.0.0/x", "is no network"),
    ("allow from 10.0.0.7/8", "10.0.0.7/8", "did you mean 10.0.0.0/8?"),
    ("allow from 127.1", "127.1", "is no network"),
    ("allow to 0x7f.1", "0x7f.1", "is no network"),
    ("allow to 10.0.0.9-10.0.0.1", "10.0.0.9", "from a lower to a higher"),
    ("allow to 10.0.0.1-fd00::1", "10.0.0.1", "from a lower to a higher"),
    ("allow to fe80::1%eth0", "fe80", "is no network"),
    ("allow to ::ffff:10.0.0.1", "::ffff", "write 10.0.0.1"),
    ("allow from example.org", "example.org", "from takes networks"),
    ("allow from @names", "@names", "from takes networks"),
    ("allow to @", "@", "name of a file"),
    ('allow to @""', "@", "name of a file"),
    ('allow to @"a b', "@", "the quote is not closed"),
    ("allow to any", "any", "leave to out"),
    ("allow from *", "*", "leave from out"),
    ("deny to prvate", "prvate", "did you mean private?"),
    ("deny to exa*mple.org", "exa*mple.org", "neither a network nor"),
    ("deny to a..b", "a..b", "neither a network nor"),
    ("deny to 127.0.0.1-20", "127.0.0.1-20", "is no network"),
    ("deny to 127.0.0.0-8", "127.0.0.0-8", "is no network"),
    ("deny to 127.0.0.x", "127.0.0.x", "is no network"),
    ("deny to http://a.org/", "http://a.org/", "http://a.org/ is no network"),
    ("deny to lan", "lan", "written lan."),
    ("allow to world", "world", "written world."),
    ("deny to b\xfccher.example", "b\xfccher.example", "xn--"),
    ("allow port http", "http", "is no port"),
    ("allow port 65536", "65536", "from 0 to 65535"),
    ("allow port 9-1", "9-1", "the lower one first"),
    ("allow port \u0661", "\u0661", "is no port"),
    ("allow port 1-", "1-", "is no port"),
    ("allow command connec", "connec", "none of connect, bind, udp"),
    ("allow version 6", "6", "none of 4, 5"),
    ("allow user ann any", "any", "any is every user"),
    ('allow user "ann', '"ann', "not closed"),
    ("deny user @banned", "@banned", "names and no file"),
    ("allow to remote", "remote", "remote is about clients"),
    ("deny via office", "via", "a rule that denies has no exit"),
    ("allow via a b", "b", "between two exits stands or"),
    ("allow via a or", "", "or needs the name of an exit"),
    ("allow via or", "or", "takes names of exits"),
    ("allow via a or a", "a or a", "each once"),
    ('allow via "a"', '"a"', "takes names of exits"),
    ("allow via same", "same", "takes names of exits"),
    ("allow listener x:1", "x:1", "takes ADDRESS:PORT"),
    ("allow listener 127.0.0.1:0", "127.0.0.1:0", "takes ADDRESS:PORT"),
    ("allow listener ::1", "::1", "needs brackets"),
]


@pytest.mark.parametrize("text, at, words", MISTAKES)
def test_a_mistake_is_shown_where_it_is(text, at, words):
    """One sentence that says what to do, the column, and a caret below the place."""
    with pytest.raises(RuleError) as told:
        parsed(text, names="a.example")
    error = told.value
    assert words in str(error)
    column = text.index(at) + 1 if at else len(text) + 1
    if at == "to 10.0.0.2":
        column = text.rindex("to") + 1
    assert column == error.column
    assert "column %d" % column in error.sentence
    shown, caret = error.picture
    assert text.rstrip() == shown
    assert "^" == caret.strip()
    assert column - 1 == caret.index("^")


def test_a_caret_below_a_line_that_is_indented_with_tabs():
    """It stays where it belongs, whatever a tab is wide."""
    with pytest.raises(RuleError) as told:
        parsed("\tallow\tfron x")
    assert ["\tallow\tfron x", "\t     \t^"] == list(told.value.picture)


def test_what_the_settings_accept_is_what_can_be_read():
    """The table checks a rule without the files that it names."""
    check_rule("deny to @nowhere")
    with pytest.raises(RuleError):
        check_rule("deny to @")


def test_files_of_a_rule_can_be_renamed():
    """The rule then means the same in another directory."""
    text = 'deny to @a,@/b port 1 user "@c" "x @y" from @d x@d'
    renamed = with_files(text, lambda path: path if path[0] == "/" else "/h/" + path)
    assert 'deny to @/h/a,@/b port 1 user "@c" "x @y" from @/h/d x@d' == renamed


@pytest.mark.parametrize("folder", ["/my files", "/a,b", "/port "])
def test_a_file_with_blanks_in_its_name(folder):
    """It goes in quotes, and so does one that is renamed to such a name."""
    text = with_files('deny to @f,@"a b" port 1', lambda path: "%s/%s" % (folder, path))
    assert 'deny to @"%s/f",@"%s/a b" port 1' % (folder, folder) == text
    files = {folder + "/f": "10.0.0.1", folder + "/a b": "10.0.0.2"}
    rule = parsed(text, **files)
    assert holds(rule.targets, "10.0.0.1")
    assert holds(rule.targets, "10.0.0.2")
    assert ((1, 1),) == rule.ports


SOME = "allow deny from to port command version user any none private public self @f 10.0.0.0/8 ::1"
OTHERS = '*.a.b .c d 80 1-2 connect 4 5 ann "x" "y , ; \t * 0 - / -1 @'
WORDS = st.sampled_from([*SOME.split(" "), *OTHERS.split(" ")])


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, max_size=12).map(" ".join) | st.text(max_size=60))
def test_any_text_is_a_rule_or_an_error_in_its_place(text):
    """No other error comes out; what was read reads the same from its own text."""
    try:
        rule = parsed(text, f="10.0.0.0/8\n")
    except RuleError as exc:
        is_in_place = 1 <= exc.column <= len(text) + 1 and len(exc.picture[1]) == exc.column
        assert is_in_place
    except KeyError:
        pass  # of this test's own reader of files
    else:
        again = parsed(rule.text, f="10.0.0.0/8\n")
        assert rule.text == again.text
        assert rule[4:9] == again[4:9]
