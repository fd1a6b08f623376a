"""Which value counts, where it came from, and which message a mistake gives."""

import itertools

import pytest

from minisocks.config.layers import layered
from minisocks.config.settings import SETTINGS, Config
from minisocks.errors import ConfigError, RuleError

FILE = "/etc/minisocks.ini"

#: Of each kind of setting: three texts, and the values that they stand for.
TEXTS = {
    "flag": (["yes", "no", "on"], [True, False, True]),
    "seconds": (["1", "2.5", "3e1"], [1.0, 2.5, 30.0]),
    "count": (["10", "11", "12"], [10, 11, 12]),
    "bytes": (["2M", "64MiB", "1500000"], [2000000, 2**26, 1500000]),
}
SPECIAL = {
    "listen": (["1", "2", "3"], [("1",), ("2",), ("3",)]),
    "forwarded": (
        ["1080", "127.0.0.1:1080", "127.0.0.1:01080"],  # the one that is listened on
        [("1080",), ("127.0.0.1:1080",), ("127.0.0.1:01080",)],
    ),
    "prefer": (["ipv4", "ipv6-only", "ipv4"], ["ipv4", "ipv6-only", "ipv4"]),
    "source": (["10.0.0.1", "::1", "10.0.0.2"], [("10.0.0.1",), ("::1",), ("10.0.0.2",)]),
    "public_address": (
        ["192.0.2.1", "2001:db8::1", "192.0.2.2"],
        [("192.0.2.1",), ("2001:db8::1",), ("192.0.2.2",)],
    ),
    "udp_ports": (["1-2", "none", "5"], ["1-2", "", "5"]),
    "udp_clients": (["any-port", "auto", "same-port"], ["any-port", "auto", "same-port"]),
    "udp_filtering": (
        ["endpoint-independent", "address-dependent", "endpoint-independent"],
        ["endpoint-independent", "address-dependent", "endpoint-independent"],
    ),
    "bind_ports": (["1-2", "3-4", "none"], ["1-2", "3-4", ""]),
    "keepalive": (["60", "60,5,3", "1,1,1"], ["60", "60,5,3", "1,1,1"]),
    "max_associations": (["7", "none", "8"], [7, None, 8]),
    "interface": (["eth0", "wg0", "br-lan"], ["eth0", "wg0", "br-lan"]),
    "pidfile": (["/a", "/b", "c"], ["/a", "/b", "c"]),
    "quiet": (["2", "yes", "twice"], [2, True, 2]),
    "processor": (["auto", "none", "3"], ["auto", "none", "3"]),
    "log_file": (["/a", "/b", "c"], ["/a", "/b", "c"]),
    "syslog": (["local", "/dev/log", "10.0.0.1:514"], ["local", "/dev/log", "10.0.0.1:514"]),
    "log_format": (["json", "text", "json"], ["json", "text", "json"]),
    "rule": (["allow", "deny", "allow to private"], [("allow",), ("deny",), ("allow to private",)]),
    "exit": (
        ["a = direct", "b=socks5://h", "c=a, http://h:1"],
        [("a = direct",), ("b=socks5://h",), ("c=a, http://h:1",)],
    ),
    "users_file": (["/a", "/b", "c"], ["/a", "/b", "c"]),
    "name_only": (["a", "b", "c"], [("a",), ("b",), ("c",)]),
    "user": (["a:b", "c:d", "e:f"], [("a:b",), ("c:d",), ("e:f",)]),
}


BLANK = (
    "ends with a space or tab: remove it, or, if it belongs to the value, write quotes around the "
    "whole value"
)


def ini(**keys):
    return "[minisocks]\n" + "".join(
        "%s = %s\n" % (key.replace("_", "-"), value) for key, value in keys.items()
    )


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.name)
@pytest.mark.parametrize("present", list(itertools.product([False, True], repeat=3)))
def test_higher_layer_wins(setting, present):
    """Command line over environment over file over default, for every setting alike."""
    texts, values = SPECIAL.get(setting.name) or TEXTS[setting.kind]
    in_file, in_environment, on_command_line = present
    name = setting.name
    given = {}
    if on_command_line:
        given[name] = {"flag": values[2], "texts": values[2]}.get(setting.kind, texts[2])

    chosen = layered(
        given,
        {setting.variable: texts[1]} if in_environment else {},
        ini(**{name: texts[0]}) if in_file else "",
        FILE,
    )

    expected, source = setting.default, "default"
    if in_file:
        expected, source = values[0], FILE + ", line 2"
    if in_environment:
        expected, source = values[1], setting.variable
    if on_command_line:
        expected, source = values[2], "command line"
    assert expected == getattr(chosen.config, name)
    assert type(expected) is type(getattr(chosen.config, name))
    assert source == chosen.sources.pop(name)
    assert {"default"} == set(chosen.sources.values())
    assert chosen.config._replace(**{name: setting.default}) == Config()


def test_flag_can_be_taken_back():
    """A flag that the file sets is unset by a higher layer."""
    assert layered({}, {}, ini(open="yes"), FILE).config.open
    assert not layered({"open": False}, {}, ini(open="yes"), FILE).config.open
    assert not layered({}, {"MINISOCKS_OPEN": "no"}, ini(open="yes"), FILE).config.open


def test_repeated_values_have_a_line_each():
    """In file and environment each line is a value; the highest layer counts alone."""
    file = "[minisocks]\nlisten = 1\n\t2\n  # none\n  [::1]:3\nuser =\n  a:b\n"

    chosen = layered({}, {"MINISOCKS_USER": "\n c:d\r\n\ne:f g\n"}, file, FILE)

    assert ("1", "2", "[::1]:3") == chosen.config.listen
    assert ("c:d", "e:f g") == chosen.config.user


@pytest.mark.parametrize(
    "written, meant",
    [
        ('"ann:secret "', "ann:secret "),
        ("'ann: secret\t'  ", "ann: secret\t"),
        ('" ann:x\'"', " ann:x'"),
        ("\"'ann:x'\"", "'ann:x'"),
        ('ann:"x "', 'ann:"x "'),
        ('"ann:x', '"ann:x'),
    ],
)
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_quotes_keep_blanks(written, meant, end):
    """In the file, in a line of its own, and in the environment; other quotes are characters."""
    for file in ("[minisocks]\nuser = %s%s", "[minisocks]\nuser =\n  a:b\n  %s%s"):
        assert meant == layered({}, {}, file % (written, end), FILE).config.user[-1]
    assert (meant,) == layered({}, {"MINISOCKS_USER": written + end}).config.user
    assert ('"a:b "', "c:d ") == layered({"user": ('"a:b "', "c:d ")}, {}).config.user


@pytest.mark.parametrize(
    "written, others",
    [('"ann":"secret"', "single"), ("'ann':'a'", "double"), ('"a:b"c"', "single")],
)
def test_quotes_within_quotes_are_an_error(written, others):
    """Without the error the first and the last quote would go, and others stay in the password."""
    for sources in (({}, "[minisocks]\nuser = %s\n" % written), ({"MINISOCKS_USER": written}, "")):
        with pytest.raises(ConfigError, match="write %s quotes around the whole value" % others):
            layered({}, *sources, FILE)


def test_quotes_are_read_for_every_setting():
    """Values of other settings do not care about blanks around them."""
    file = "[minisocks]\ngrace = '5'\nlisten =\n  \"1080\"\n  :81 \nlog-file = '/a b ' \n"
    config = layered({}, {"MINISOCKS_RULE": "'deny'\n deny port 1 "}, file, FILE).config
    assert (5.0, ("1080", ":81"), "/a b ") == (config.grace, config.listen, config.log_file)
    assert ("deny", "deny port 1") == config.rule


def test_empty_variable_is_unset():
    """A variable without text sets nothing, so that it cannot give access by accident."""
    chosen = layered({}, {"MINISOCKS_USER": "", "MINISOCKS_GRACE": " "}, ini(user="a:b"), FILE)

    assert ("a:b",) == chosen.config.user
    assert Config().grace == chosen.config.grace


@pytest.mark.parametrize("key", ["max-handshakes", "max_handshakes"])
def test_key_may_be_spelled_as_in_python(key):
    """A key with a dash may have an underscore."""
    assert 5 == layered({}, {}, "[minisocks]\n%s = 5\n" % key, FILE).config.max_handshakes


@pytest.mark.parametrize(
    "file, sentence",
    [
        ("[minisocks]\ngrce = 1", "line 2: no setting is called 'grce'; did you mean grace?"),
        ("[minisocks]\nGrace = 1", "line 2: no setting is called 'Grace'; did you mean grace?"),
        (
            "[minisocks]\nuser =\n  ann:x\nbob:c2VjcmV0==",
            "line 4: this line is no KEY = VALUE; further values of the key above it are indented",
        ),
        (
            "[minisocks]\nuser: ann:c2VjcmV0=",
            "line 2: this line is no KEY = VALUE; further values of the key above it are indented",
        ),
        (
            "[minisocks]\nlisten = :1080\n  user = ann:secret",
            "line 3: listen: a key must not be indented",
        ),
        (
            "[minisocks]\nuser = ann:secret\n  listen = :1080",
            "line 3: user: a key must not be indented",
        ),
        ("[minisocks]\ninterface = ''", "line 2: interface: has no value"),
        ("[minisocks]\nuser = ann:secret ", "line 2: user: " + BLANK),
        ("[minisocks]\nuser =\n  a:b\n  ann:secret\t\r\n", "line 4: user: " + BLANK),
        ("[minisocks]\nuser = ann:secret\u00a0", "line 2: user: " + BLANK),
        ("[minisocks]\nname-only = ann ", "line 2: name-only: " + BLANK),
        ("[minisocks]\nxyzzy = 1", "line 2: no setting is called 'xyzzy'"),
        ("[minisocks]\nconfig = x", "line 2: a file cannot name another one"),
        (
            "[minisock]\ngrace = 1",
            "line 2: no section is called [minisock]; did you mean minisocks?",
        ),
        ("[minisocks]\n\ngrace = soon", "line 3: grace: 'soon' is no number of seconds"),
        ("[minisocks]\ngrace = 5  # s", "line 2: grace: '5  # s' is no number of seconds"),
        ("[minisocks]\ngrace = -1", "line 2: grace: -1 is out of range: 0 to 86400"),
        ("[minisocks]\nmax-handshakes = 1.5", "line 2: max-handshakes: '1.5' is no whole number"),
        ("[minisocks]\nopen = maybe", "line 2: open: 'maybe' is neither yes nor no"),
        ("[minisocks]\ngrace =", "line 2: grace: has no value"),
        ("[minisocks]\nlisten =", "line 2: listen: has no value"),
        ("[minisocks]\ngrace = 1\n  2", "line 2: grace: takes one value, not 2"),
        ("[minisocks]\ngrace = 1\ngrace = 2", "line 3: grace is there twice"),
        (
            "[minisocks]\nlisten = 1\nlisten = 2",
            "line 3: listen is there twice; write its values below each other, indented",
        ),
        (
            "[minisocks]\nensure = yes",
            "line 2: ensure is no setting but an option of the command line: minisocks --ensure",
        ),
        (
            "[minisocks]\nlisten =\n  1080\n  ::1:1080",
            "line 4: listen: an IPv6 address needs brackets: [::1]:PORT, not '::1:1080'",
        ),
        (
            "[minisocks]\nuser =\n  a:b\n  secret",
            (
                "line 4: user: write it as NAME:PASSWORD, neither of them empty; a name that needs "
                "no password goes to --name-only"
            ),
        ),
    ],
)  # fmt: skip
def test_mistake_in_the_file(file, sentence):
    """One sentence with file, line, and the key that was meant."""
    with pytest.raises(ConfigError) as caught:
        layered({}, {}, file, FILE)

    assert "%s, %s" % (FILE, sentence) == caught.value.sentence


@pytest.mark.parametrize(
    "environ, sentence",
    [
        (
            {"MINISOCKS_LISTN": "1"},
            "MINISOCKS_LISTN: no setting is called so; did you mean MINISOCKS_LISTEN?",
        ),
        (
            {"MINISOCKS_USERS": "a:b"},
            "MINISOCKS_USERS: no setting is called so; did you mean MINISOCKS_USER?",
        ),
        (
            {"MINISOCKS_ENSURE": "yes"},
            (
                "MINISOCKS_ENSURE: ensure is no setting but an option of the command line: "
                "minisocks --ensure"
            ),
        ),
        ({"MINISOCKS_GRACE": "x"}, "MINISOCKS_GRACE: 'x' is no number of seconds"),
        ({"MINISOCKS_USER": "a:b "}, "MINISOCKS_USER: " + BLANK),
        ({"MINISOCKS_USER": "a:b\nc:d \n"}, "MINISOCKS_USER: " + BLANK),
        ({"MINISOCKS_USER": "''"}, "MINISOCKS_USER: has no value"),
        ({"MINISOCKS_OPEN": "2"}, "MINISOCKS_OPEN: '2' is neither yes nor no"),
        ({"MINISOCKS_OPEN": "twice"}, "MINISOCKS_OPEN: 'twice' is neither yes nor no"),
        ({"MINISOCKS_QUIET": "3"}, "MINISOCKS_QUIET: '3' is neither yes nor no nor twice"),
    ],
)
def test_mistake_in_the_environment(environ, sentence):
    """One sentence with the variable, and the one that was meant."""
    with pytest.raises(ConfigError) as caught:
        layered({}, environ)

    assert sentence == caught.value.sentence


def test_mistake_on_the_command_line():
    """One sentence with the option."""
    with pytest.raises(ConfigError) as caught:
        layered({"grace": "soon"}, {"MINISOCKS_GRACE": "5"})

    assert "--grace: 'soon' is no number of seconds" == caught.value.sentence


@pytest.mark.parametrize("name", ["interface", "grace", "listen"])
def test_empty_option(name):
    """An empty one, as scripts make them of unset variables, takes nothing back by accident."""
    given = ("",) if name == "listen" else ""
    with pytest.raises(ConfigError, match="has no value") as caught:
        layered({name: given}, {}, ini(interface="eth0"), FILE)

    assert "--" + name == caught.value.place


def test_mistake_that_is_covered_is_an_error_all_the_same():
    """A wrong value does not lie in wait until the one above it is taken away."""
    with pytest.raises(ConfigError, match="'soon'"):
        layered({"grace": "5"}, {}, ini(grace="soon"), FILE)


def test_variables_of_others_are_left_alone():
    """What only begins like ours is reported and does no harm."""
    chosen = layered({}, {"MINISOCKS_XYZZY": "x", "HOME": "/"})

    assert ("MINISOCKS_XYZZY",) == chosen.unknown
    assert Config() == chosen.config


def of_kubernetes(service, ip, protocol="tcp", port="1080"):
    """Return what Kubernetes puts into the environment of every pod for one Service."""
    url = "%s://%s:%s" % (protocol, "[%s]" % ip if ":" in ip else ip, port)
    one = "%s_PORT_%s_%s" % (service, port, protocol.upper())
    return {
        service + "_SERVICE_HOST": ip,
        service + "_SERVICE_PORT": port,
        service + "_SERVICE_PORT_SOCKS_5": port,
        service + "_PORT": url,
        one: url,
        one + "_PROTO": protocol,
        one + "_PORT": port,
        one + "_ADDR": ip,
    }


@pytest.mark.parametrize("ip", ["10.96.12.34", "fd00:10:96::c22"])
@pytest.mark.parametrize("service", ["MINISOCKS", "MINISOCKS_UDP", "MINISOCKS_LISTEN"])
@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
def test_variables_of_kubernetes_are_no_mistakes(service, ip, protocol):
    """With a Service called minisocks, or minisocks-udp, a pod starts, and nothing is logged."""
    chosen = layered({}, of_kubernetes(service, ip, protocol))

    assert () == chosen.unknown
    assert Config() == chosen.config


@pytest.mark.parametrize(
    "name, value, meant",
    [
        ("MINISOCKS_PORT", "1080", ""),
        ("MINISOCKS_PORT", "tcp://example.org:1080", ""),
        ("MINISOCKS_UDP_PORT", "5000", "MINISOCKS_UDP_PORTS"),
        ("MINISOCKS_BIND_PORT", "tcp", "MINISOCKS_BIND_PORTS"),
        ("MINISOCKS_USER_FILE", "/etc/users", "MINISOCKS_USERS_FILE"),
    ],
)
def test_kubernetes_hides_no_near_miss(name, value, meant):
    """A setting that is misspelled keeps it from starting, also beside Kubernetes' variables."""
    environ = of_kubernetes("MINISOCKS", "10.96.12.34")
    environ.update({name: value, "MINISOCKS_OPEN": "yes"})

    with pytest.raises(ConfigError, match="did you mean %s" % meant) as caught:
        layered({}, environ)

    assert name == caught.value.place


def test_no_setting_is_called_as_kubernetes_calls_its_variables():
    """A Service with such a name would change the setting."""
    endings = ("_SERVICE_HOST", "_SERVICE_PORT", "_PORT", "_TCP", "_UDP", "_PROTO", "_ADDR")

    assert [] == [s.variable for s in SETTINGS if s.variable.endswith(endings)]


@pytest.mark.parametrize(
    "given, environ, file, sentence",
    [
        ({}, {}, ini(prefer="ipv4-only", source="::1"), "/etc/minisocks.ini, line 2: prefer: ipv4"),
        ({}, {}, ini(forwarded="1"), "/etc/minisocks.ini, line 2: forwarded: 1 is none of"),
        ({}, {"MINISOCKS_FORWARDED": "1"}, "", "MINISOCKS_FORWARDED: 1 is none of"),
        ({"forwarded": ("1",)}, {}, ini(forwarded="1080"), "--forwarded: 1 is none of"),
    ],
)
def test_settings_that_contradict_each_other_have_a_place(given, environ, file, sentence):
    """It is that of the value in force, as in errors of a single setting."""
    with pytest.raises(ConfigError) as caught:
        layered(given, environ, file, FILE)
    assert caught.value.sentence.startswith(sentence)


def test_an_error_that_is_found_later_gets_its_place():
    """Of a rule, the line of that rule; one that has a place already keeps it."""
    chosen = layered({"grace": "1"}, {}, "[rules]\ndeny port 1\nallow\n[minisocks]\nopen=1\n", FILE)
    later = ConfigError("--rule", "cannot read it")
    later.index = 1
    assert FILE + ", line 3: rule: cannot read it" == chosen.placed(later).sentence
    assert "--grace: x" == chosen.placed(ConfigError("--grace", "x")).sentence
    assert "--log-file: x" == chosen.placed(ConfigError("--log-file", "x")).sentence
    assert "list, line 5: x" == chosen.placed(ConfigError("--rule", "x", "list, line 5")).sentence
    rule = chosen.placed(RuleError("x", "deny", 5))
    assert FILE + ", line 2: rule, column 5: x" == rule.sentence
    assert ("deny", "    ^") == tuple(rule.picture)
