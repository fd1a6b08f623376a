"""``minisocks check --ver 4`` where clients are asked about: --ident."""

import pytest

from kit.support import run_command

MINE = "allow from 10.0.0.0/8 to public user none"
SHOWN = "without a password"


@pytest.fixture
def file(tmp_path):
    """An ini file with rules about users, only one of which has a password."""
    path = tmp_path / "minisocks.ini"
    path.write_text(
        "[minisocks]\nlisten = 0\nident = yes\nuser = karl:secret\n"
        "[rules]\n%s\nallow user ann\n" % MINE
    )
    path.chmod(0o600)
    return path


def judge(file, *args):
    """Return the exit status and the lines of a question about SOCKS4."""
    status, out, err = run_command("check", "-c", str(file), "--ver", "4", *args)
    assert "" == err
    return status, out.splitlines()


@pytest.mark.parametrize(
    "args, status, lines",
    [
        (
            "--from 10.0.0.7 --to 8.8.8.8:1",
            1,
            [
                "denied: 10.0.0.7 to 8.8.8.8:1, connect by SOCKS4",
                "  denied  ident has to confirm its user; ask again with --as NAME",
            ],
        ),
        (
            "--from 10.0.0.7 --to 8.8.8.8:1 --as bob",
            0,
            [
                "allowed: 10.0.0.7 to 8.8.8.8:1, connect by SOCKS4 as bob",
                "  8.8.8.8  allowed  by rule 1: " + MINE,
            ],
        ),
        (
            "--from 192.0.2.1 --to 8.8.8.8:1 --as ann",
            0,
            [
                "allowed: 192.0.2.1 to 8.8.8.8:1, connect by SOCKS4 as ann",
                "  8.8.8.8  allowed  by rule 2: allow user ann",
            ],
        ),
        (
            "--from 192.0.2.1 --to 8.8.8.8:1 --as bob",
            1,
            [
                "denied: 192.0.2.1 to 8.8.8.8:1, connect by SOCKS4 as bob",
                "  denied  no rule allows anything to clients from 192.0.2.1 %s" % SHOWN,
            ],
        ),
        (
            "--from 10.0.0.7 --to 8.8.8.8:1 --as karl",
            0,  # as any other name that no rule allows
            [
                "allowed: 10.0.0.7 to 8.8.8.8:1, connect by SOCKS4 as karl",
                "  8.8.8.8  allowed  by rule 1: " + MINE,
            ],
        ),
        (
            "--from unix --to 8.8.8.8:1 --as ann",
            1,
            [
                "denied: unix to 8.8.8.8:1, connect by SOCKS4 as ann",
                "  denied  a client by a unix socket or a forwarder has no identd: it gets CD 92",
            ],
        ),
    ],
)
def test_what_the_rules_say_about_a_client_that_ident_confirms(file, args, status, lines):
    """It is judged as a user without password; without a user name, a password is needed."""
    assert (status, lines) == judge(file, *args.split())


def test_what_is_said_of_a_client_that_no_rule_can_admit(file):
    """The identd of its host is not asked, because no answer could matter."""
    file.write_text(file.read_text().replace("user ann", "user any"))
    assert (
        1,
        [
            "denied: 192.0.2.1 to 8.8.8.8:1, connect by SOCKS4",
            "  denied  a password is needed; SOCKS4 cannot send one",
        ],
    ) == judge(file, "--from", "192.0.2.1", "--to", "8.8.8.8:1")


def test_which_clients_may_come_in_and_which_rules_are_odd(tmp_path):
    """With --ident a rule with a user may match even if no user has a password."""
    args = ["check", "--ident", "--rule", "allow user ann", "--rule", "allow user any"]
    status, out, err = run_command(*args)
    assert (0, "") == (status, err)
    assert "(minisocks check shows them); by SOCKS4 only clients that ident confirms" in out
    status, _out, err = run_command(*[arg for arg in args if arg != "--ident"])
    assert 0 == status
    assert "rule 1 never matches: it names a user, but there are none" in err
