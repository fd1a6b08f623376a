"""``minisocks check``: the settings in force, their sources, and which clients may come in."""

import json
import os
import re

import pytest

from kit.support import environment, run_command
from minisocks.config.settings import SETTINGS, Config
from minisocks.guesses import OTHER_WORDS

MAY_USE = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

pytestmark = pytest.mark.usefixtures("every_click")


@pytest.fixture
def file(tmp_path):
    """An ini file that its owner alone may read."""
    path = tmp_path / "minisocks.ini"
    path.write_text("[minisocks]\nlisten =\n  0\n  [::1]:0\nuser = ann:s3cret\ngrace = 5\n")
    path.chmod(0o600)
    return path


def check(*args, **variables):
    status, out, err = run_command("check", *args, env=environment(**variables))
    assert (0, "") == (status, err)
    return out


def test_defaults():
    """Without anything given, every setting is there with its default."""
    lines = check().splitlines()
    rows = [line.split() for line in lines[: lines.index("")]]

    assert [s.key for s in SETTINGS] == [row[0] for row in rows]
    assert {"default"} == {row[-1] for row in rows}
    assert ["listen", "127.0.0.1:1080", "default"] in rows
    assert ["user", "none", "default"] in rows
    assert ["grace", "5", "s", "default"] in rows
    assert "may come in: clients on this host (by loopback), without a password" in lines
    assert "     allow from loopback  (built in)" == lines[-1]


def test_each_value_says_where_it_comes_from(file):
    """The source is file and line, a variable, or the command line; passwords are not shown."""
    out = check("-c", str(file), "--no-quiet", MINISOCKS_GRACE="7")
    rows = [" ".join(line.split()) for line in out.splitlines()]

    assert "listen 0 %s, line 2" % file in rows
    assert "listen [::1]:0 %s, line 2" % file in rows
    assert "user ann:... %s, line 5" % file in rows
    assert "grace 7 s MINISOCKS_GRACE" in rows
    assert "quiet no command line" in rows
    assert "may come in: any client that has a password" in rows
    assert "s3cret" not in out


def test_json(file):
    """--json has the same settings as data for programs, without passwords."""
    data = json.loads(check("--json", "-c", str(file), "--allow-lan"))

    assert {s.key for s in SETTINGS} == set(data["settings"])
    assert {"value": ["0", "[::1]:0"], "source": "%s, line 2" % file} == data["settings"]["listen"]
    assert {"value": ["ann:..."], "source": "%s, line 5" % file} == data["settings"]["user"]
    assert {"value": 5.0, "source": "%s, line 6" % file} == data["settings"]["grace"]
    assert {"value": True, "source": "command line"} == data["settings"]["allow-lan"]
    assert {"value": Config().quiet, "source": "default"} == data["settings"]["quiet"]
    assert "without a password, any other client with one" in data["may_come_in"]
    assert {"rule": "allow user any", "built_in": True} in data["rules"]


def processor(*args, **variables):
    """Return the row of the processor, what JSON has of it, and the warnings."""
    status, out, warnings = run_command("check", *args, env=environment(**variables))
    data = json.loads(run_command("check", "--json", *args, env=environment(**variables))[1])
    (row,) = [line for line in out.splitlines() if line.startswith("processor ")]
    assert 0 == status
    return " ".join(row.split()), data, warnings


def test_the_processor_says_which_one_it_is_here():
    """The command line's default is auto, which chooses one of the processors there are."""
    row, data, warnings = processor()
    number = data["processor"]["number"]
    assert {"wanted": "auto", "number": number} == data["processor"]
    assert {"value": None, "source": "default"} == data["settings"]["processor"]
    assert re.match(r"processor auto \((none|processor \d+) now\) default\Z", row)
    assert (number is None) == (len(MAY_USE) < 2)
    assert number is None or number in MAY_USE
    assert "" == warnings

    row, data, warnings = processor("--processor", "none", MINISOCKS_PROCESSOR="auto")
    assert ("processor none command line", "") == (row, warnings)
    assert {"wanted": "none", "number": None} == data["processor"]


@pytest.mark.skipif(not MAY_USE, reason="needs Linux")
def test_a_processor_that_cannot_be_had_is_a_warning():
    """The warning lists the possible ones; a number among them has no warning."""
    row, data, warnings = processor(MINISOCKS_PROCESSOR="9999")
    assert "processor 9999 (none here) MINISOCKS_PROCESSOR" == row
    assert {"wanted": "9999", "number": None} == data["processor"]
    assert warnings == (
        "warning: running on any processor: this process may use %s, and not 9999; "
        "say --processor auto, or one of these\n" % ", ".join(map(str, MAY_USE))
    )
    number = MAY_USE[-1]
    row, data, warnings = processor("--processor", str(number))
    assert ("processor %d command line" % number, "") == (row, warnings)
    assert {"wanted": str(number), "number": number} == data["processor"]


def test_name_with_a_line_break_forges_no_row():
    """A row is a line, whatever a user is called."""
    rule = ("--rule", "deny user none")
    lines = check("--user", "ann\nopen               no:x", "--open", *rule).splitlines()

    (row,) = [line for line in lines if line.startswith("open ")]
    assert ["open", "yes", "command", "line"] == row.split()


def test_file_may_be_named_by_the_environment(file):
    """MINISOCKS_CONFIG has the same meaning as -c, and -c wins."""
    other = file.parent / "other.ini"
    other.write_text("[minisocks]\ngrace = 99\n")

    assert "grace              5 s" in check(MINISOCKS_CONFIG=str(file))
    assert "grace              99 s" in check("-c", str(other), MINISOCKS_CONFIG=str(file))


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "args, variables, sentence",
    [
        (["-c", "/no/such"], {}, "--config: cannot read /no/such: No such file or directory"),
        ([], {"MINISOCKS_CONFIG": "/"}, "MINISOCKS_CONFIG: cannot read /: Is a directory"),
        (["-c", "/dev/zero"], {}, "--config: cannot read /dev/zero: it is longer than 1 MiB"),
        (["--grace", "soon"], {}, "--grace: 'soon' is no number of seconds"),
        ([], {"MINISOCKS_GRACE": "soon"}, "MINISOCKS_GRACE: 'soon' is no number of seconds"),
        (["--lisen"], {}, "no option is called --lisen; did you mean --listen?"),
        (["-c", ""], {"MINISOCKS_CONFIG": "/dev/null"}, "--config: needs the name of a file"),
        (["--interface", ""], {}, "--interface: has no value"),
        (["--mark", "1" + "0" * 400], {}, "--mark: 1000000000"),
        (["--no-listen"], {}, "no option is called --no-listen; see minisocks --help"),
        (["--no"], {}, "no option is called --no; see minisocks --help"),
        (["ann:s3cret"], {}, "an argument belongs to no option; see minisocks --help"),
        (["--user", "ann:x", "bob:s3cret1"], {}, "an argument belongs to no option"),
        (["socks5://ann:s3cret@127.0.0.1:1080"], {}, "an argument belongs to no option"),
        (["-l", "ann:s3cret@127.0.0.1:1080"], {}, "--listen: takes no user"),
        (["--xyzzy"], {}, "no option is called --xyzzy; see minisocks --help"),
        (["10.0.0.1:1080"], {}, "to listen there, write -l 10.0.0.1:1080"),
        # Spelled as in other programs.
        (["-p", "1080"], {}, "no option is called -p; address and port to listen on are one"),
        (["--port=1080"], {}, "no option is called --port; address and port to listen on are one"),
        (["-i", "0.0.0.0"], {}, "no option is called -i; address and port to listen on are one"),
        (["--password", "s3cret"], {}, "name and password are one option, --user NAME:PASSWORD"),
        (
            ["--parent", "10.0.0.1:1080"],
            {},
            "called --parent; another proxy is --exit NAME=socks5h:",
        ),
        (["-F", "socks5://10.0.0.1"], {}, "no option is called -F; another proxy is --exit NAME="),
        (["-l", "0", "start"], {}, "no command is called 'start'; without a command it serves"),
        # No guess at an option that would admit more clients, however near its name is.
        (["--parents", "10.0.0.1:1080"], {}, "no option is called --parents; see minisocks --help"),
        (["--forward", "1080"], {}, "no option is called --forward; did you mean --forwarded?"),
        (["--opn"], {}, "no option is called --opn; see minisocks --help"),
        ([], {"MINISOCKS_OPN": "no"}, "MINISOCKS_OPN: no setting is called so; see minisocks"),
    ],
)
@pytest.mark.parametrize("command", [["check"], []], ids=["check", "serve"])
def test_mistake_is_one_sentence(command, args, variables, sentence):
    """Exit 2, one line that says what is wrong; the same for check and for serving."""
    status, out, err = run_command(*(command + args), env=environment(**variables))

    assert (2, "") == (status, out)
    assert 1 == err.count("\n")
    assert err.startswith("minisocks: ")
    assert sentence in err
    assert "s3cret" not in err


@pytest.mark.parametrize(
    "args, sentence",
    [
        (["chek"], "no command is called 'chek'; did you mean check?"),
        (["xyzzy"], "no command is called 'xyzzy'; see minisocks --help"),
        (
            ["drain", "extra"],
            "drain takes options, and no argument such as 'extra'; see minisocks drain --help",
        ),
        (["-q", "check"], "check goes first: minisocks check [OPTIONS]"),
        (
            ["start"],
            "no command is called 'start'; %s" % OTHER_WORDS["start"],
        ),
        (
            ["restart"],
            "no command is called 'restart'; write minisocks stop, and then start it as before",
        ),
        (["stop", "--rate"], "--rate is an option of the start, not of stop; see minisocks --help"),
        (
            ["status", "--ensure"],
            "--ensure is an option of the start, not of status; see minisocks --help",
        ),
    ],
)
def test_wrong_command_is_one_sentence(args, sentence):
    """The error about a misspelled or misplaced command has the right way to write it."""
    assert (2, "", "minisocks: %s\n" % sentence) == run_command(*args)


def test_file_is_not_utf_8(tmp_path):
    """Bytes that are no UTF-8 are taken as they are, as on the command line, and shown escaped."""
    path = tmp_path / "f"
    path.write_bytes(b"\xef\xbb\xbf[minisocks]\r\nuser = j\xf6rg:p\xe4ss\r\n")
    path.chmod(0o600)

    assert r"user               j\xf6rg:..." in check("-c", str(path))


def test_passwords_that_others_can_read(file):
    """A file with passwords that other users may read is worth a warning."""
    file.chmod(0o644)

    status, _, err = run_command("check", "-c", str(file))
    assert 0 == status
    assert err == "warning: %s holds passwords, and others may read it: chmod 600 %s\n" % (
        file,
        file,
    )

    file.write_text("[minisocks]\ngrace = 1\n")
    assert "" == run_command("check", "-c", str(file))[2]


def test_unknown_variable_is_reported():
    """A variable with our prefix that is like no setting is named, and it starts all the same."""
    status, _, err = run_command("check", env=environment(MINISOCKS_XYZZY="10.0.0.1"))

    assert (0, "warning: MINISOCKS_XYZZY is no setting, and is not used\n") == (status, err)


def test_service_of_kubernetes():
    """In a cluster with a Service called minisocks it starts, without a warning about it."""
    variables = environment(
        MINISOCKS_PORT="tcp://10.96.12.34:1080", MINISOCKS_SERVICE_HOST="10.96.12.34"
    )

    status, _, err = run_command("check", env=variables)

    assert (0, "") == (status, err)


@pytest.mark.parametrize(
    "args, sentence",
    [
        (["--open", "--user", "ann:x"], "--open admits every client without a password, "),
        (["-l", "[::]:1080"], "[::]:1080 accepts clients by IPv6 only; -l :1080 "),
        (["-l", "[::]:1080", "-l", "0.0.0.0:1081"], "[::]:1080 accepts clients by IPv6 "),
        (["--open", "--user", "ann:x", "--rule", "deny user none"], ""),
        (["--open"], ""),
        (["-l", "[::]:1080", "-l", "0.0.0.0:1080"], ""),
        (["-l", ":1080"], ""),
        (["-l", "[::1]:1080"], ""),
    ],
)
def test_what_is_hardly_meant_has_a_warning(args, sentence):
    """Settings that are valid, and do less, or more, than they seem to."""
    status, _, err = run_command("check", *args)

    assert 0 == status
    assert ("warning: " + sentence if sentence else "") == err[: 9 + len(sentence)]
    assert bool(sentence) == err.count("\n")


@pytest.mark.parametrize("command", [["check"], ["check", "--to", "example.org:80"], []])
def test_no_advice_about_the_file_of_another_program(command, tmp_path):
    """A file that is not understood gets no advice about its rights, nor to be changed."""
    path = tmp_path / "passwd"
    path.write_text("root:x:0:0:root:/root:/bin/bash\nann:x:1000:1000::/home/ann:/bin/sh\n")
    path.chmod(0o666)

    status, _, err = run_command(*command, "--users-file", str(path))

    assert 2 == status
    assert (
        "minisocks: --users-file: %s, line 1: this line is of the " % path
        == (err[: err.index("accounts")])
    )
    assert 1 == err.count("\n")
    assert "chmod" not in err


def test_no_advice_to_change_a_device():
    """That other users may read /dev/null is no reason for a warning."""
    assert (0, "") == run_command("check", "--users-file", "/dev/null")[::2]


# Rules


OURS = (
    "deny from remote to self loopback unspecified linklocal metadata multicast "
    "localhost .localhost"
)
MINE = "allow from 10.0.0.0/8 to 10.0.0.0/8 public user none"
RULES = """[minisocks]
listen = 0
user = ann:s3cret
[rules]
# mail stays here
deny port 25
allow from 10.0.0.0/8 to 10.0.0.0/8 public user none
    deny to @%s
allow user ann
"""


@pytest.fixture
def rules(tmp_path):
    """An ini file with rules, one of which names a list."""
    (tmp_path / "list").write_text("*.bad.example\n203.0.113.0/24\n")
    path = tmp_path / "minisocks.ini"
    path.write_text(RULES % (tmp_path / "list"))
    path.chmod(0o600)
    return path


def judge(file, *args):
    """Return the exit status and the lines of a question."""
    status, out, err = run_command("check", "-c", str(file), *args)
    assert "" == err
    return status, out.splitlines()


def test_rules_in_force_are_numbered(rules):
    """The list has the rules of the file in their order, among those that are built in."""
    lines = check("-c", str(rules)).splitlines()
    begin = next(n for n, line in enumerate(lines) if line.startswith("rules in force"))
    assert [
        "  1  deny port 25",
        "  2  allow from 10.0.0.0/8 to 10.0.0.0/8 public user none",
        "  3  deny to @%s" % (rules.parent / "list"),
        "     %s  (built in)" % OURS,
        "     deny from public reserved linklocal 100.64.0.0/10 to private reserved  (built in)",
        "  4  allow user ann",
    ] == lines[begin + 1 :]
    assert any(line.startswith("rule ") and "%s, line 6" % rules in line for line in lines)


@pytest.mark.parametrize(
    "args, status, lines",
    [
        (
            "--from 10.0.0.7 --to 8.8.8.8:443",
            0,
            [
                "allowed: 10.0.0.7 to 8.8.8.8:443, connect by SOCKS5",
                "  8.8.8.8  allowed  by rule 2: " + MINE,
            ],
        ),
        (
            "--from 10.0.0.7 --to 8.8.8.8:25 --ver 4",
            1,
            [
                "denied: 10.0.0.7 to 8.8.8.8:25, connect by SOCKS4",
                "  8.8.8.8  denied  by rule 1: deny port 25",
            ],
        ),
        (
            "--from 2001:db8::7 --to 127.1:80 --as ann --command udp",
            1,
            [
                "denied: 2001:db8::7 to 127.1:80, udp by SOCKS5 as ann",
                "  127.0.0.1  denied  by a built-in rule: " + OURS,
            ],
        ),
        (
            "--to [::1]:80 --as ann",
            0,
            [
                "allowed: 127.0.0.1 to [::1]:80, connect by SOCKS5 as ann",
                "  ::1  allowed  by rule 4: allow user ann",
            ],
        ),
        (
            "--from unix --to 8.8.8.8:53 --command udp --as ann",
            1,
            [
                "denied: unix to 8.8.8.8:53, udp by SOCKS5 as ann",
                "  denied  a client by a unix socket or a forwarder has no UDP: it gets REP 07",
            ],
        ),
        (
            "--from unix --to 8.8.8.8:1",
            1,
            [
                "denied: unix to 8.8.8.8:1, connect by SOCKS5",
                "  denied  this client needs a password; ask again with --as NAME",
            ],
        ),
        (
            "--from 192.0.2.1 --to 8.8.8.8:1 --as ann --ver 4",
            1,
            [
                "denied: 192.0.2.1 to 8.8.8.8:1, connect by SOCKS4 as ann",
                "  denied  SOCKS4 has no passwords",
            ],
        ),
        (
            "--from 10.0.0.7 --to 8.8.8.8:1 --as eve",
            1,
            [
                "denied: 10.0.0.7 to 8.8.8.8:1, connect by SOCKS5 as eve",
                "  denied  no user is called eve",
            ],
        ),
        (
            "--from 10.0.0.7 --to a.bad.example:1 --as ann",
            1,
            [
                "denied: 10.0.0.7 to a.bad.example:1, connect by SOCKS5 as ann",
                "  denied  by rule 3: deny to @LIST",
            ],
        ),
    ],
)
def test_what_the_rules_say_about_one_question(rules, args, status, lines):
    """Shown are the decision, its rule, and the addresses; the exit status is 1 where it denies."""
    lines = [line.replace("@LIST", "@%s" % (rules.parent / "list")) for line in lines]
    assert (status, lines) == judge(rules, *args.split())


def test_a_name_shows_each_of_its_addresses(rules):
    """All addresses are shown that this host's resolver has for the name."""
    status, lines = judge(rules, "--to", "localhost:80", "--as", "ann")
    assert 0 == status
    assert "allowed: 127.0.0.1 to localhost:80, connect by SOCKS5 as ann" == lines[0]
    assert any(line.split()[:2] in (["127.0.0.1", "allowed"], ["::1", "allowed"]) for line in lines)
    status, lines = judge(rules, "--to", "no-such-name.invalid:80", "--as", "ann")
    assert (1, 2) == (status, len(lines))
    assert "no-such-name.invalid' cannot be resolved" in lines[1]


def test_the_answer_as_json(rules):
    """--json has the same answer as data for programs."""
    status, out, _err = run_command(
        "check", "-c", str(rules), "--json", "--to", "8.8.8.8:25", "--as", "ann"
    )
    data = json.loads(out)
    assert (1, False) == (status, data["allowed"])
    assert [{"address": "8.8.8.8", "allowed": False, "why": "by rule 1: deny port 25"}] == data[
        "addresses"
    ]


@pytest.mark.parametrize(
    "text, sentence",
    [
        (
            "[rules]\ndeny port 1\ndeny to @/nowhere\n",
            "line 3: rule: cannot read /nowhere: No such",
        ),
        (
            "[minisocks]\nusers-file = /nowhere\n",
            "line 2: users-file: cannot read /nowhere: No such",
        ),
        ("[minisocks]\nlog-file = /no/such\n", "line 2: log-file: cannot write /no/such: No such"),
        (
            "[minisocks]\nlog-file = /a\npidfile = /a\n",
            "line 3: pidfile: /a is also that of --log-file: name another file",
        ),
        (
            "[exits]\na = socks5://b\nc = socks5://d@e password @/nowhere\n",
            "line 3: exit: cannot read /nowhere: No such file",
        ),
        ("[exits]\na = socks5://b\n\na = direct\n", "line 4: exit: the exit a is there twice"),
        ("[exits]\na = b, socks5://b\nb = a\n", "line 2: exit: a: it is a part of itself"),
        (
            "[exits]\na = b, socks5://b\nb = c\nd = direct\n",
            "line 3: exit: b: no exit is called c",
        ),
        (
            "[exits]\noffice = direct\n[rules]\nallow port 1\nallow via ofice\n",
            "line 5: rule: no exit is called ofice; did you mean office?\n",
        ),
        (
            "[exits]\noffice = direct\n[rules]\nallow via xyz or office\n",
            "line 4: rule: no exit is called xyz; there are direct, office\n",
        ),
        (
            "[rules]\nallow via xyz\n",
            "line 2: rule: no exit is called xyz; there are none: add --exit, or lines under [",
        ),
    ],
)
@pytest.mark.parametrize("command", [["check"], []], ids=["check", "serve"])
def test_file_that_cannot_be_used_has_its_line(tmp_path, command, text, sentence):
    """Where the file of settings names it, as other mistakes in that file have theirs."""
    path = tmp_path / "minisocks.ini"
    path.write_text(text)
    path.chmod(0o600)
    status, _, err = run_command(*command, "-c", str(path), "-l", "0")
    assert 2 == status
    assert err.startswith("minisocks: %s, %s" % (path, sentence))
    assert 1 == err.count("\n")


def test_syslog_whose_name_cannot_be_resolved():
    """It prevents no start, and no line of the log could tell it."""
    status, _, err = run_command("check", "-l", "0", "--syslog=no..such..name:514")
    assert 0 == status
    assert err.startswith("warning: log lines are lost: syslog at no..such..name:514: ")
    assert 1 == err.count("\n")


def test_user_where_there_are_none():
    """The answer says how there would be one, and that the question may do without."""
    status, out, _ = run_command("check", "--to", "8.8.8.8:1", "--as", "ann")
    assert 1 == status
    assert (
        "  denied  there are no users: add --user NAME:PASSWORD or --users-file, or leave --as out"
        in out.splitlines()
    )


@pytest.mark.parametrize(
    "args, sentence",
    [
        (["--from", "10.0.0.7"], "minisocks: --to: the target is missing: add --to HOST:PORT"),
        (["--to", "example.org"], "minisocks: --to: 'example.org' is no target; write it as "),
        (["--from", "", "--to", "a:1"], "minisocks: --from: '' is no address of a client"),
        (["--from", "", "--to", ""], "minisocks: --to: the target is missing: add --to HOST:PORT"),
        (["--to", "::1:80"], "minisocks: --to: an IPv6 address needs brackets: [::1]:80"),
        (["--to", "fd00::"], "minisocks: --to: an IPv6 address needs brackets: [fd00::]:PORT"),
        (["--to", "[::1"], "minisocks: --to: '[::1' is no target; write it as HOST:PORT or [IPV6]"),
        (["--to", "[::1:80"], "minisocks: --to: '[::1:80' is no target; write it as HOST:PORT or"),
        (["--to", "a:b:80"], "minisocks: --to: 'a:b:80' is no target; write it as HOST:PORT or"),
        (["--to", "a:1", "--from", "b"], "minisocks: --from: 'b' is no address of a client"),
        (["--to", "a:1", "--command", "ping"], "minisocks: --command: 'ping' is none of connect"),
        (["--to", "a:\u00b2"], "minisocks: --to: 'a:\u00b2' is no target"),
        (
            ["--to", "a:70000"],
            (
                "minisocks: --to: 'a:70000' is no target; write it as HOST:PORT or [IPV6]:PORT, a "
                "port up to 65535"
            ),
        ),
        (["--to", "a:1", "--ver", "4", "--command", "udp"], "minisocks: --ver: SOCKS4 has"),
        (["--to", "a:1", "--ver", "6"], "minisocks: --ver: '6' is neither 4 nor 5"),
        (["--rule", "deny to @/nowhere"], "minisocks: --rule: cannot read /nowhere: No such file"),
    ],
)
def test_questions_that_cannot_be_understood(args, sentence):
    """A sentence tells what is wrong, and the exit status is 2."""
    status, out, err = run_command("check", *args, env=environment(LC_ALL="C.UTF-8"))
    assert (2, "") == (status, out)
    assert err.startswith(sentence)
    assert 1 == err.count("\n")


def test_a_mistake_in_a_rule_has_file_line_column_and_a_caret(tmp_path):
    """The message has the form of a compiler's."""
    path = tmp_path / "minisocks.ini"
    path.write_text("[rules]\nallow from loopback\n  deny to 10.0.0.300 port 1\n")
    status, _out, err = run_command("check", "-c", str(path))
    assert 2 == status
    sentence, shown, caret = err.splitlines()
    assert "minisocks: %s, line 3: rule, column 11: 10.0.0.300 is no network" % path in sentence
    assert "      deny to 10.0.0.300 port 1" == shown
    assert caret.index("^") == shown.index("10.0.0.300")


def test_a_rule_that_cannot_be_meant_is_a_warning():
    """The warning names the rule, and the configuration is valid."""
    status, _out, err = run_command("check", "--rule", "allow user ann")
    assert 0 == status
    assert "warning: rule 1 never matches: it names a user, but there are none\n" == err


EVIL = "\x1b[2J\u202e\udc80"
SHOWN = r"\x1b[2J\xe2\x80\xae\x80"


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_what_is_in_settings_moves_no_cursor(form):
    """Control characters are shown escaped; JSON is valid; what can be seen stays as it is."""
    args = ["--user", "caf\u00e9%s:x" % EVIL, "--rule", 'allow user "%s"' % EVIL]
    status, out, err = run_command("check", *args, *form, env=environment(LC_ALL="C.UTF-8"))
    assert 0 == status
    for text in (out, err):
        assert all(line.isprintable() for line in text.splitlines())
    if form:
        data = json.loads(out)
        assert ["caf\u00e9%s:..." % SHOWN] == data["settings"]["user"]["value"]
        assert 'allow user "%s"' % SHOWN in [rule["rule"] for rule in data["rules"]]
    else:
        assert "caf\u00e9%s:..." % SHOWN in out
        assert 'allow user "%s"' % SHOWN in out


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_question_moves_no_cursor(form):
    """The question may have been copied from a log."""
    args = ["--to", EVIL + ":1", "--as", EVIL, "--user", "ann:x"]
    status, out, err = run_command("check", *args, *form, env=environment(LC_ALL="C.UTF-8"))
    assert 1 == status
    assert all(line.isprintable() for line in (out + err).splitlines())
    assert SHOWN in (json.loads(out)["question"] if form else out)


# exits

EXITS = """[minisocks]
listen = 0
[exits]
office = socks5://ann@10.0.0.1:1080 password @office.pw
tor = socks5h://127.0.0.1:9050 isolate
far = office, socks5h://bob:hunter2@10.9.9.9:1080 resolve here
[rules]
allow to .corp.example via far
allow via tor
"""


@pytest.fixture
def exits(tmp_path):
    """An ini file with exits, and the file of a password."""
    for name, text in (("office.pw", "s3cret\n"), ("minisocks.ini", EXITS)):
        path = tmp_path / name
        path.write_text(text)
        path.chmod(0o600)
    return path


def test_exits_are_listed_without_their_passwords(exits):
    """Each with its hops, and where names are looked up."""
    _status, out, err = run_command("check", "-c", str(exits))
    lines = out.splitlines()
    begin = lines.index("exits, and where they have names looked up:")
    assert [
        "  office  socks5://10.0.0.1:1080 as 'ann'  (here)",
        "  tor     socks5h://127.0.0.1:9050 with a login for each client  (by the last hop)",
        "  far     socks5://10.0.0.1:1080 as 'ann', then socks5h://10.9.9.9:1080 as 'bob'  (here)",
        "",
    ] == lines[begin + 1 : begin + 5]
    data = json.loads(run_command("check", "--json", "-c", str(exits))[1])
    assert ["office", "tor", "far"] == [row["name"] for row in data["exits"]]
    assert {
        "name": "far",
        "way": "socks5://10.0.0.1:1080 as 'ann', then socks5h://10.9.9.9:1080 as 'bob'",
        "hops": ["socks5://10.0.0.1:1080 as 'ann'", "socks5h://10.9.9.9:1080 as 'bob'"],
        "resolves_here": True,
    } == data["exits"][-1]
    for secret in ("s3cret", "hunter2"):
        assert secret not in out + err + str(data)


def test_the_exit_of_a_request_is_shown(exits):
    """With its hops; the exit status is that of the rules."""
    status, out, _err = run_command("check", "-c", str(exits), "--to", "a.example:443", "--json")
    data = json.loads(out)
    assert (0, True) == (status, data["allowed"])
    assert [("tor", True, "")] == [
        (row["name"], row["gets_name"], row["problem"]) for row in data["exits"]
    ]


def test_exits_are_tried_alone():
    """Not beside a question about the rules; without an exit there is nothing to do."""
    status, out, err = run_command("check", "--exits", "--to", "a:1")
    assert (2, "") == (status, out)
    assert "minisocks: --exits goes alone: --from, --to and --as ask the rules\n" in err
    status, out, err = run_command("check", "--exits")
    assert (0, "") == (status, out)
    assert "warning: there are no exits to try: add --exit NAME=WAY, " in err


IN_PS = "warning: other users of this host can read the password of --exit in ps; "


def test_a_password_that_ps_shows_is_warned_of():
    """Only if it is on the command line, and in the URL."""
    line = "x=socks5://ann:hunter2@192.0.2.1"
    err = run_command("check", "--exit", line, "--rule", "allow via x")[2]
    assert err.startswith(IN_PS)
    assert "hunter2" not in err
    variables = {"MINISOCKS_EXIT": line, "MINISOCKS_RULE": "allow via x"}
    assert "" == run_command("check", env=environment(**variables))[2]
    line = "x=socks5://ann@192.0.2.1"
    assert "" == run_command("check", "--exit", line, "--rule", "allow via x")[2]


def test_files_with_passwords_of_exits_are_for_their_owner(exits):
    """The one with the settings, if a URL has one, and those that exits name."""
    args = "check", "-c", str(exits)
    folder = exits.parent
    assert "others may read it" not in run_command(*args)[2]
    (folder / "office.pw").chmod(0o644)
    exits.chmod(0o644)
    said = run_command(*args)[2]
    for name, what in (("office.pw", "a password"), ("minisocks.ini", "passwords")):
        path = folder / name
        line = "warning: %s holds %s, and others may read it: chmod 600 %s\n" % (path, what, path)
        assert line in said
    exits.write_text(EXITS.replace("bob:hunter2", "bob"))
    assert "holds passwords" not in run_command(*args)[2]


ODD = """[exits]
tor = socks5h://198.51.100.2:9050
unused = direct source 127.0.0.1
[rules]
deny to 10.0.0.0/8
allow via tor
"""
SAID = (
    "warning: names that leave by exit tor are looked up elsewhere, so rule 1, which stands ",
    "warning: no rule names exit unused, ",
)


def test_start_and_check_warn_of_exits(tmp_path, instance):
    """The same lines; a reload logs them."""
    (tmp_path / "x.ini").write_text(ODD)
    err = run_command("check", "-c", str(tmp_path / "x.ini"))[2]
    instance.configure(ODD)
    started = instance.start()
    assert 0 == started[0]
    for line in SAID:
        assert line in err
        assert line in started[2]
    instance.configure(ODD.replace("unused", "idle"))
    assert 0 == instance.command("reload")[0]
    instance.wait_for_line("no rule names exit idle, ")
