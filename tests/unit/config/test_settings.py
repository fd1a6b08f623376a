"""The settings: one table, one sentence for each mistake, no password shown."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minisocks.config.settings import SETTINGS, Config
from minisocks.errors import ConfigError
from minisocks.guesses import OPENING, closest
from minisocks.values import ListenAddress, read_bytes, shown_bytes


@pytest.mark.parametrize(
    "text, expected, shown",
    [
        ("1080", ("127.0.0.1", 1080, ""), "127.0.0.1:1080"),
        ("0", ("127.0.0.1", 0, ""), "127.0.0.1:0"),
        ("65535", ("127.0.0.1", 65535, ""), "127.0.0.1:65535"),
        ("10.0.0.1:1080", ("10.0.0.1", 1080, ""), "10.0.0.1:1080"),
        ("0.0.0.0:0", ("0.0.0.0", 0, ""), "0.0.0.0:0"),
        ("[::1]:1080", ("::1", 1080, ""), "[::1]:1080"),
        ("[::]:1080", ("::", 1080, ""), "[::]:1080"),
        ("[fe80::1%eth0]:1080", ("fe80::1%eth0", 1080, ""), "[fe80::1%eth0]:1080"),
        (":1080", ("", 1080, ""), ":1080"),
        ("localhost:1080", ("localhost", 1080, ""), "localhost:1080"),
        ("unix:/run/minisocks.sock", ("", 0, "/run/minisocks.sock"), "unix:/run/minisocks.sock"),
        ("unix:a:1080", ("", 0, "a:1080"), "unix:a:1080"),
    ],
)
def test_listen_address_is_read_and_shown(text, expected, shown):
    """Each form of --listen means what it says, and is shown so that it can be given again."""
    address = ListenAddress.parse(text)

    assert expected == address
    assert shown == str(address)
    assert address == ListenAddress.parse(shown)


@pytest.mark.parametrize(
    "text, advice",
    [
        ("", "write PORT"),
        ("example.org", "write PORT"),
        ("localhost:", "write PORT"),
        (":", "write PORT"),
        ("65536", "write a port up to 65535"),
        ("127.0.0.1:70000", "write a port up to 65535"),
        ("-1", "write PORT"),
        ("1 080", "write PORT"),
        ("1080.0", "write PORT"),
        ("127.0.0.1:http", "write PORT"),
        # str.isdigit takes these.
        ("\u0661\u0660\u0668\u0660", "write PORT"),
        ("\u00b2", "write PORT"),
        ("::1:1080", r"needs brackets: \[::1\]:PORT"),
        ("fe80::1:1080", r"needs brackets: \[fe80::1\]:PORT"),
        ("[127.0.0.1]:1080", "no IPv6 address in its brackets"),
        ("[localhost]:1080", "no IPv6 address in its brackets"),
        ("[]:1080", "no IPv6 address in its brackets"),
        # It has brackets; what it lacks is the port.
        ("[::1]", "write PORT"),
        ("[::1]:", "write PORT"),
        ("[::1]1080", "write PORT"),
        ("unix:", "needs a path"),
    ],
)
def test_wrong_listen_address_is_explained(text, advice):
    """A --listen that cannot be is refused with what to write instead."""
    with pytest.raises(ConfigError, match=advice) as caught:
        Config(listen=(text,)).checked()

    assert "--listen" == caught.value.option


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.text(max_size=12), st.text("[]:%.0158af unix", max_size=12)))
def test_any_listen_address_is_taken_or_refused(text):
    """Whatever is given, it is an address that can be given again, or a ConfigError."""
    try:
        address = ListenAddress.parse(text)
    except ConfigError:
        return
    assert 0 <= address.port <= 65535
    assert address == ListenAddress.parse(str(address))


@pytest.mark.parametrize(
    "values, option, part",
    [
        ({"listen": ()}, "--listen", "at least one"),
        ({"listen": ("1080", "x")}, "--listen", "'x'"),
        ({"user": ("ann",)}, "--user", "NAME:PASSWORD"),
        ({"user": ("ann:",)}, "--user", "NAME:PASSWORD"),
        ({"user": (":secret",)}, "--user", "NAME:PASSWORD"),
        ({"user": ("",)}, "--user", "NAME:PASSWORD"),
        ({"user": ("ann:secret", "bob")}, "--user", "NAME:PASSWORD"),
        ({"user": ("a" * 256 + ":secret",)}, "--user", "255 bytes"),
        ({"user": ("ann:" + "s" * 256,)}, "--user", "255 bytes"),
        # 128 characters, 256 bytes.
        ({"user": ("ann:" + "\u00e4" * 128,)}, "--user", "255 bytes"),
        ({"handshake_timeout": 0}, "--handshake-timeout", "0.1 to 3600"),
        ({"handshake_timeout": 3601}, "--handshake-timeout", "0.1 to 3600"),
        ({"handshake_timeout": float("nan")}, "--handshake-timeout", "0.1 to 3600"),
        ({"connect_timeout": -1}, "--connect-timeout", "0.1 to 3600"),
        ({"connect_timeout": float("inf")}, "--connect-timeout", "0.1 to 3600"),
        ({"grace": -0.1}, "--grace", "0 to 86400"),
        ({"grace": 86401}, "--grace", "0 to 86400"),
        ({"max_handshakes": 3}, "--max-handshakes", "4 to 65536"),
        # What is true is not True: "no" would mean yes.
        ({"open": "no"}, "--open", "True or False"),
        ({"open": 1}, "--open", "True or False"),
        ({"allow_lan": "false"}, "--allow-lan", "True or False"),
        ({"quiet": None}, "--quiet", "takes True or False or 2"),
        ({"quiet": 3}, "--quiet", "takes True or False or 2"),
        ({"verbose": 2}, "--verbose", "takes True or False, not 2"),
        ({"verbose": []}, "--verbose", "True or False"),
        ({"listen": 1080}, "--listen", "a tuple, not int"),
        ({"user": None}, "--user", "a tuple, not NoneType"),
        ({"user": iter(("ann:b",))}, "--user", "a tuple"),
        ({"listen": ("ann:secret@127.0.0.1:1080",)}, "--listen", "takes no user"),
        ({"mark": 10**400}, "--mark", "is out of range: 0 to 4294967295"),
        ({"grace": 10**400}, "--grace", "is out of range: 0 to 86400"),
        ({"grace": 1e300}, "--grace", "1e+300 is out of range"),
        ({"max_handshakes": 1234567}, "--max-handshakes", "1234567 is out of range"),
        ({"source": ("::ffff:10.0.0.1",)}, "--source", "write 10.0.0.1"),
        ({"source": ("224.0.0.1",)}, "--source", "no address of a host"),
        ({"source": ("255.255.255.255",)}, "--source", "no address of a host"),
        ({"source": ("ff02::1",)}, "--source", "no address of a host"),
        ({"interface": "\ud800" * 16}, "--interface", "no interface"),
        ({"max_handshakes": 4.5}, "--max-handshakes", "whole number"),
        ({"max_handshakes": True}, "--max-handshakes", "whole number"),
        ({"grace": "5"}, "--grace", "number of seconds"),
        ({"listen": (1080,)}, "--listen", "takes text"),
        ({"prefer": "ipv5"}, "--prefer", "none of ipv4, ipv6, ipv4-only, ipv6-only and system"),
        ({"prefer": ""}, "--prefer", "none of ipv4, ipv6, ipv4-only, ipv6-only and system"),
        ({"prefer": "ipv4-only", "source": ("fd00::1",)}, "--prefer", "a --source of that family"),
        ({"source": ("eth0",)}, "--source", "no address"),
        ({"source": ("fe80::1%eth0",)}, "--source", "no address"),
        ({"source": ("0.0.0.0",)}, "--source", "every address"),
        ({"source": ("::",)}, "--source", "every address"),
        ({"source": ("10.0.0.1", "10.0.0.2")}, "--source", "at most one IPv4 and one IPv6 address"),
        ({"interface": "a" * 16}, "--interface", "no interface"),
        ({"interface": "eth 0"}, "--interface", "no interface"),
        ({"interface": "../x"}, "--interface", "no interface"),
        ({"mark": -1}, "--mark", "0 to"),
        ({"rate": 999}, "--rate", "999 is out of range: 1k to 1T"),
        ({"rate": 1e6}, "--rate", "takes a number of bytes"),
        ({"memory_limit": 2**20 - 1}, "--memory-limit", "1MiB to"),
        ({"memory_limit": 10**400}, "--memory-limit", "1MiB to"),
        ({"idle_timeout": 0.5}, "--idle-timeout", "1 to"),
        ({"keepalive": ""}, "--keepalive", "'' is neither IDLE nor IDLE,INTERVAL,COUNT"),
        ({"keepalive": "0"}, "--keepalive", "seconds from 1 to 32767"),
        ({"keepalive": "32768"}, "--keepalive", "seconds from 1 to 32767"),
        ({"keepalive": "60,5"}, "--keepalive", "neither"),
        ({"keepalive": "60,5,3,1"}, "--keepalive", "neither"),
        ({"keepalive": "60,,3"}, "--keepalive", "neither"),
        ({"keepalive": "60,5,128"}, "--keepalive", "a count from 1 to 127"),
        ({"keepalive": "60, 5, 3"}, "--keepalive", "neither"),
        ({"keepalive": "1.5"}, "--keepalive", "neither"),
        ({"keepalive": 300}, "--keepalive", "takes text, not 'int'"),
        ({"max_per_client": 0}, "--max-per-client", "1 to"),
        ({"max_connections": 1.5}, "--max-connections", "whole number"),
        ({"mark": 2**32}, "--mark", "0 to"),
        ({"max_handshakes": 65537}, "--max-handshakes", "4 to 65536"),
        ({"processor": ""}, "--processor", "neither auto nor none, nor a number"),
        ({"processor": "Auto"}, "--processor", "neither auto nor none, nor a number"),
        ({"processor": "-1"}, "--processor", "neither auto nor none, nor a number"),
        ({"processor": "0,1"}, "--processor", "neither auto nor none, nor a number"),
        ({"processor": "12345"}, "--processor", "neither auto nor none, nor a number"),
        ({"processor": "\u0661"}, "--processor", "neither auto nor none, nor a number"),
        ({"processor": 1}, "--processor", "takes text, not 'int'"),
    ],
)
def test_value_that_cannot_be_used_is_refused(values, option, part):
    """The error names the option, and says in one line what it takes."""
    with pytest.raises(ConfigError) as caught:
        Config(**values).checked()

    assert option == caught.value.option
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.rfc("RFC 1928 section 3", "The service is conventionally on TCP port 1080.")
@pytest.mark.rfc(
    "SOCKS4, both",
    "A time limit for the connection with the application server: 2 minutes at CSTC.",
)
def test_defaults_are_those_of_the_documents():
    """Port 1080 by RFC 1928 section 3; two minutes for the target by the SOCKS4 memo."""
    assert [1080] == [ListenAddress.parse(text).port for text in Config().listen]
    assert 120.0 == Config().connect_timeout == Config().bind_timeout


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"listen": ("1080", ":1081", "unix:/a")},
        {"user": ("ann:secret", "bob:a:b:c")},
        {"user": ("a" * 255 + ":" + "s" * 255,)},
        {"prefer": "ipv6-only", "source": ("10.0.0.1", "fd00::1")},
        {"processor": "auto"},
        {"processor": "none"},
        {"processor": "0"},
        {"processor": "9999"},
        {"source": ("10.0.0.1", "2001:db8::1"), "interface": "a" * 15, "mark": 2**32 - 1},
        {"handshake_timeout": 0.1, "connect_timeout": 0.1, "grace": 0, "max_handshakes": 4},
        {
            "handshake_timeout": 3600,
            "connect_timeout": 3600,
            "grace": 86400,
            "max_handshakes": 65536,
        },
    ],
)
def test_value_that_can_be_used_is_taken(values):
    """Values up to the ends of their ranges pass, and nothing is changed by the check."""
    config = Config(**values)

    assert config == config.checked()
    assert type(config) is type(config.checked())


@pytest.mark.parametrize(
    "text, expected",
    [
        ("ann:secret", (b"ann", b"secret")),
        ("ann:a:b:c", (b"ann", b"a:b:c")),
        ("j\u00f6rg:p\u00e4ss", (b"j\xc3\xb6rg", b"p\xc3\xa4ss")),
        # What is no UTF-8 on the command line comes as surrogates, and goes back.
        ("\udcff:\udcfe", (b"\xff", b"\xfe")),
        (" ann : secret ", (b" ann ", b" secret ")),
    ],
)
def test_credentials_are_what_clients_send(text, expected):
    """NAME:PASSWORD is cut at the first colon and is bytes, UTF-8 where it was text."""
    assert (expected,) == Config(user=(text,)).checked().credentials()


@pytest.mark.parametrize(
    "show", [repr, str, "{}".format, lambda c: "%s" % (c,), lambda c: repr([c])]
)
def test_config_shows_no_password(show):
    """However a Config ends up in a log, names are shown and passwords are not."""
    shown = show(Config(user=("ann:secret", "bob:hun:ter2")))

    assert "ann:..." in shown
    assert "bob:..." in shown
    assert not re.search("secret|hun|ter2", shown)
    assert "handshake_timeout=30.0" in shown


def test_table_and_config_name_the_same_settings():
    """Every field of Config has its row in the table, in the same order, and the reverse."""
    assert Config._fields == tuple(setting.name for setting in SETTINGS)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.name)
def test_row_fits_the_type_of_its_default(setting):
    """The kind that a row says is the kind of value that Config has."""
    expected = {"flag": bool, "seconds": float, "count": int, "text": str, "texts": tuple}
    expected["ports"] = str

    assert setting.default is None or expected[setting.kind] is type(setting.default)
    # What the command line and programs have differs: nothing is said.
    assert setting.is_limit == (setting.default is None and setting.name != "processor")
    assert bool(setting.metavar) == (setting.kind != "flag")
    assert setting.help.endswith(".")


def test_short_options_are_told_apart():
    """No two settings have one letter."""
    short = [setting.short for setting in SETTINGS if setting.short]

    assert len(short) == len(set(short))


@pytest.mark.parametrize(
    "name, text, value, shown",
    [
        ("mark", "0x10", 16, "16"),
        ("mark", "0XFFFFFFFF", 2**32 - 1, "4294967295"),
        ("mark", "16777217", 16777217, "16777217"),
        ("connect_timeout", "3599.999", 3599.999, "3599.999"),
        ("grace", "5", 5.0, "5"),
        ("interface", "", "", "none"),
        ("max_connections", "none", None, "none"),
        ("max_per_client", "7", 7, "7"),
        ("idle_timeout", "none", None, "none"),
        ("keepalive", "60", "60", "60"),
        ("keepalive", "32767,32767,127", "32767,32767,127", "32767,32767,127"),
        ("idle_timeout", "1.5", 1.5, "1.5"),
        ("rate", "none", None, "none"),
        ("rate", "500k", 500000, "500k"),
        ("rate", "1.5M", 1500000, "1.5M"),
        ("rate", "1500000", 1500000, "1.5M"),
        ("rate", "1.5 MB", 1500000, "1.5M"),
        ("rate", "1234567", 1234567, "1234567"),
        ("rate", "1.2345k", 1234, "1234"),
        ("memory_limit", "64MiB", 2**26, "64MiB"),
        ("memory_limit", "1.5GiB", 3 * 2**29, "1.5GiB"),
        ("memory_limit", "2g", 2 * 10**9, "2G"),
        ("memory_limit", "1.5T", 15 * 10**11, "1.5T"),
        ("memory_limit", "1048576GiB", 2**50, "1PiB"),
    ],
)
def test_numbers_are_read_and_shown_exactly(name, text, value, shown):
    """What is shown is what was given, to the last digit."""
    (setting,) = [setting for setting in SETTINGS if setting.name == name]

    assert value == setting.read(text)
    assert shown == setting.shown(value)


@settings(deadline=None)
@given(st.one_of(st.integers(0, 10**17), st.integers(0, 10**4).map(lambda n: n * 10**5)))
def test_bytes_that_are_shown_can_be_given_again(count):
    """The number is the same to the last byte, whatever unit it is shown in."""
    assert count == read_bytes(shown_bytes(count))


@pytest.mark.parametrize(
    "text", ["", "fast", "2Mb", "2mbit", "1i", "1.", ".5k", "-1", "1e6", "1_000", "5KIB", "\u0661"]
)
def test_what_is_no_number_of_bytes_is_explained(text):
    """Megabits among them: b is not B."""
    (setting,) = [setting for setting in SETTINGS if setting.name == "rate"]
    with pytest.raises(ConfigError, match="is no number of bytes, as 500k, 1.5M or 64MiB"):
        setting.read(text)


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.is_limit], ids=lambda s: s.name)
def test_no_limit_is_none_and_no_number(setting):
    """Neither 0 nor -1 means none; what has a default takes no none."""
    Config(**{setting.name: None}).checked()
    for wrong in (0, -1, "none", True):
        with pytest.raises(ConfigError):
            Config(**{setting.name: wrong}).checked()
    for other in ({"grace": None}, {"max_handshakes": None}, {"mark": None}):
        with pytest.raises(ConfigError):
            Config(**other).checked()


@pytest.mark.parametrize(
    "settings, most, why",
    [
        ({}, 1024, "--max-associations 1024"),
        ({"max_connections": 8000}, 1024, "--max-associations 1024"),
        ({"max_connections": 80}, 20, "a quarter of --max-connections"),
        ({"max_connections": 3}, 1, "a quarter of --max-connections"),
        ({"max_associations": 2000}, 2000, "--max-associations 2000"),
        ({"max_associations": 2000, "max_connections": 80}, 20, "a quarter of --max-connections"),
        ({"max_associations": 9, "udp_ports": "40000-40009"}, 9, "--max-associations 9"),
        ({"udp_ports": "40000", "max_connections": 80}, 1, "--udp-ports 40000-40000"),
    ],
)
def test_the_smallest_bound_of_associations_holds(settings, most, why):
    """What is set, what fits into the connections, or the ports there are."""
    assert (most, why) == Config(**settings).most_associations()


def test_mistake_in_python_names_the_setting():
    """In a traceback the message stands alone, so it says which setting it is about."""
    with pytest.raises(ConfigError, match="^--user: write it as NAME:PASSWORD"):
        Config.of(user="ann")
    assert ("a:b", "c:d") == Config.of(user=["a:b", "c:d"]).user


@pytest.mark.parametrize(
    "word", ["--parent", "--opn", "--open-all", "--alow-lan", "--allow-lans", "--names-only"]
)
def test_a_guess_never_lets_more_clients_in(word):
    """What resembles such a setting is not taken for it, however it is spelled."""
    name = word[2:].replace("-", "_")
    assert "" == closest(word, [setting.option for setting in SETTINGS])
    assert "" == closest(word[2:], [setting.key for setting in SETTINGS])
    assert "" == closest(name, [setting.name for setting in SETTINGS])
    assert "" == closest(name.upper(), [setting.name.upper() for setting in SETTINGS])


def test_settings_that_are_never_guessed_are_settings():
    """Each is called so: else nothing would be kept from the guesses."""
    assert set(OPENING) <= {setting.key for setting in SETTINGS}


@pytest.mark.parametrize(
    "word, option", [("--listn", "--listen"), ("--idle-timout", "--idle-timeout")]
)
def test_a_guess_is_made_for_the_rest(word, option):
    """A letter that is missing is no riddle."""
    assert "; did you mean %s?" % option == closest(word, [s.option for s in SETTINGS])


@pytest.mark.parametrize(
    "text, words",
    [
        ("::1:514", r"an IPv6 address needs brackets: \[::1\]:514"),
        ("[::1:514", "is none of local, /PATH and HOST:PORT"),
        ("a:b:514", "is none of local, /PATH and HOST:PORT"),
        ("log.example:0", r"HOST:PORT \(1 to 65535\)"),
        ("log.example:70000", r"HOST:PORT \(1 to 65535\)"),
    ],
)
def test_wrong_syslog_is_explained(text, words):
    """Brackets are advised for an IPv6 address, and for nothing else."""
    with pytest.raises(ConfigError, match=words):
        Config(syslog=text).checked()
