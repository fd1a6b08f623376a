"""The lines of [exits]: what each means, and a sentence for each mistake."""

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minisocks.errors import ConfigError
from minisocks.policy import exitlines
from minisocks.policy.exitlines import check_exit, parse_exits, shown
from minisocks.policy.exits import Exit, Hop


def parsed(*lines):
    """Return the exits of *lines*; each file has the same password."""
    return parse_exits(lines, lambda path: "s3cret\n")


@pytest.mark.parametrize(
    "line, expected",
    [
        ("a = direct", Exit("a")),
        ("a=direct source 203.0.113.7", Exit("a", sources=("203.0.113.7",))),
        (
            "a = direct source 203.0.113.7 2001:db8::1 interface eth1 mark 0x2",
            Exit("a", (), ("203.0.113.7", "2001:db8::1"), False, "eth1", 2),
        ),
        ("a = direct source same", Exit("a", has_client_source=True)),
        ("a = socks5://10.0.0.1", Exit("a", (Hop("socks5", "10.0.0.1", 1080),))),
        ("a = SOCKS5H://proxy.example:9050/", Exit("a", (Hop("socks5h", "proxy.example", 9050),))),
        (
            "a = socks5h://[fe80::1%25eth0]:1080",
            Exit("a", (Hop("socks5h", "fe80::1%eth0", 1080),)),
        ),
        (
            "a = socks5://ann@10.0.0.1:1080 password @office.pw",
            Exit("a", (Hop("socks5", "10.0.0.1", 1080, "", b"ann", b"s3cret"),)),
        ),
        (
            "a = http://user:p%40ss%2C%23@proxy.example:3128",
            Exit("a", (Hop("http", "proxy.example", 3128, "", b"user", b"p@ss,#"),)),
        ),
        (
            "a = socks5h://127.0.0.1:9050 isolate resolve here",
            Exit("a", (Hop("socks5h", "127.0.0.1", 9050, isolates=True, resolves_here=True),)),
        ),
        (
            "a = socks5h+unix:///run/a%20b.sock",
            Exit("a", (Hop("socks5h", "", 0, "/run/a b.sock"),)),
        ),
        ("a = socks4a://bob@h:1", Exit("a", (Hop("socks4a", "h", 1, "", b"bob"),))),
    ],
)
def test_a_line_means(line, expected):
    """As the documents write them."""
    assert {"a": expected} == parsed(line)
    check_exit(line)


def test_a_chain_is_made_of_parts_and_of_other_exits():
    """Each hop is reached through the one before; the order of the lines does not matter."""
    found = parsed(
        "far = office, socks5h://10.9.9.9:1080",
        "office = lan2, socks5://10.0.0.1:1080",
        "lan2 = direct interface eth1",
    )
    assert ["socks5://10.0.0.1:1080", "socks5h://10.9.9.9:1080"] == [
        str(hop) for hop in found["far"].hops
    ]
    assert "eth1" == found["far"].interface == found["office"].interface
    assert "direct interface eth1, socks5://10.0.0.1:1080" == str(found["office"])


@pytest.mark.parametrize(
    "line, here",
    [
        ("a = direct", True),
        ("a = socks5://h", True),
        ("a = socks4://h", True),
        ("a = socks5h://h", False),
        ("a = socks4a://h", False),
        ("a = http://h:1", False),
        ("a = socks5h://h resolve here", True),
        ("a = socks5://g, socks5h://h", False),
        ("a = socks5h://g, socks5://h", True),
    ],
)
def test_the_last_hop_says_where_names_are_looked_up(line, here):
    """Where this is not here, no look-up leaves this host."""
    assert here is parsed(line)["a"].resolves_here


WRONG = [
    ("a", "write NAME = URL"),
    ("a =", "write NAME = URL"),
    ("socks5://h:1", "write NAME = URL"),
    ("1a = direct", "no name of an exit"),
    ("direct = socks5://h", "a word of the rules"),
    ("or = socks5://h", "a word of the rules"),
    ("via = socks5://h", "a word of the rules"),
    ("Same = socks5://h", "a word of the rules"),
    ("private = socks5://h", "a word of the rules"),
    ("from = socks5://h", "a word of the rules"),
    ("a = ftp://h", "begins with none of"),
    ("a = socks5://h, , socks5://g", "nothing between two commas"),
    ("a = b", "no exit is called b"),
    ("a = a", "a part of itself"),
    ("a = socks5://g, direct", "direct is the first part"),
    ("a = socks5://g, socks5+unix:///s", "only the first hop"),
    ("a = direct via eth1", "not 'via'"),
    ("a = direct interface", "needs a value"),
    ("a = direct mark -1", "no mark"),
    ("a = direct mark 0", "no mark"),
    ("a = direct source 10.0.0.1 10.0.0.2", "at most one IPv4"),
    ("a = direct source ::ffff:10.0.0.1", "write 10.0.0.1"),
    ("a = direct interface sixteen-letters-", "no interface"),
    ("a = http://h", "needs a port"),
    ("a = socks5://h:0", "needs a port"),
    ("a = socks5://h:70000", "needs a port"),
    ("a = socks5://fe80::1:1080", "HOST:PORT"),
    ("a = socks5://[1.2.3.4]:1080", "HOST:PORT"),
    ("a = socks5://:1080", "HOST:PORT"),
    ("a = socks5://h:1/path", "needs a port"),
    ("a = socks5+unix://h", "write the path"),
    ("a = socks5+unix:///run/", "write the path"),
    ("a = socks5://u:hidden@h isolate", "leave the user out"),
    ("a = http://h:1 isolate", "isolate needs"),
    ("a = socks4://u:hidden@h", "no password"),
    ("a = http://u%3Av:hidden@h:1", "a colon"),
    ("a = socks5://ann:hid,den@h", "a comma as %2C"),
    ("a = socks5://:hidden@h", "a password and no user"),
    ("a = socks5://h password @f", "a password and no user"),
    ("a = socks5://u:hidden@h password @f", "two passwords"),
    ("a = socks5://u@h password hidden", "password @FILE"),
    ("a = socks5://u:hid den@h", "blank as %20"),
    ("a = socks5://u:hid@den@h", "@ as %40"),
    ("a = socks5://u:hid#den@h", "# as %23"),
    ("a = socks5://u:hid%zzden@h", "% as %25"),
    ("a = socks5://u:%s@h" % ("x" * 256), "longer than 255"),
    ("a = " + ", ".join(["socks5://h"] * 256), "more than 255 hops"),
]


@pytest.mark.parametrize("line, said", WRONG)
def test_a_mistake_is_a_sentence_without_a_password(line, said):
    """It says what to write instead."""
    with pytest.raises(ConfigError, match=said) as caught:
        parsed(line)
    assert "--exit" == caught.value.option
    assert "hid" not in str(caught.value)


def test_an_exit_stands_once():
    """Two of one name contradict each other."""
    with pytest.raises(ConfigError, match="a is there twice"):
        parsed("a = direct", "a = socks5://h")


@given(st.text(max_size=60))
@example("a = socks5://" + "[" * 40)
@example("a = socks5://%00@h")
def test_any_text_is_an_exit_or_a_sentence(text):
    """Of any characters."""
    for line in (text, "a = " + text, "a = socks5://" + text, "a = direct " + text):
        with contextlib.suppress(ConfigError):
            check_exit(line)


@given(st.text("ab:@%/ ,", max_size=20))
def test_no_password_is_shown(password):
    """In whatever form it stands in the URL, also a wrong one."""
    secret = "qzq" + password + "zqz"
    text = shown("a = socks5://u:%s@h:1, socks5://v:%s@g" % (secret, secret))
    for part in ("qzq", "zqz"):
        assert part not in text or "," in password or " " in password or "@" in password


def test_what_is_shown_has_all_but_the_password():
    """For status, check and the program."""
    line = "a = socks5h://u:p%40ss@h:1 isolate, http://v:w@g:2"
    assert "a = socks5h://u:...@h:1 isolate, http://v:...@g:2" == shown(line)
    assert "p@ss" not in repr(parsed("a = socks5://u:p%40ss@h"))


@pytest.mark.parametrize(
    "line",
    ["a = socks5://DOM/u:hidden@h:1", "a = socks5+unix://u/v:hidden@/run/x", "a@b:hidden = x"],
)
def test_a_slash_in_a_user_does_not_show_its_password(line):
    """Windows has users with a domain."""
    assert "hidden" not in (shown(line) if "://" in line else "")
    told = []
    try:
        told.append(repr(parse_exits([line], None)))
    except ConfigError as exc:
        told.append(str(exc))
    assert "hidden" not in told[0]


def test_exits_of_exits_have_an_end():
    """Lines that double one another, or a long row of names, neither hang nor overflow."""
    doubled = ["e%d = e%d, e%d" % (n, n - 1, n - 1) for n in range(60, 0, -1)]
    for lines, said in (
        ([*doubled, "e0 = socks5://h:1"], "more than 255 hops|names away"),
        (["e%d = e%d" % (n, n - 1) for n in range(3000, 0, -1)] + ["e0 = direct"], "names away"),
    ):
        with pytest.raises(ConfigError, match=said):
            parse_exits(lines, None)


def test_files_of_passwords_are_found_from_the_folder_of_the_settings():
    """As those of rules."""
    line = "a = socks5://u@h password @pw, socks5://v@g password @/abs"
    renamed = exitlines.with_files(line, lambda path: "/etc/" + path if path[0] != "/" else path)
    assert "a = socks5://u@h password @/etc/pw, socks5://v@g password @/abs" == renamed
