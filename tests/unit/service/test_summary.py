"""What the rules say about clients, and warnings about rules that cannot be meant."""

import itertools

import pytest

from kit.support import CommandLine, Talk, password_message, run_proxy, socks5
from minisocks import Config
from minisocks.access import Access
from minisocks.hooks import Hooks
from minisocks.service.announce import oddities

ANN, BOB = "ann:secret", "bob:secret"
NO_USER = "no rule allows anything to any user, so even the right password is refused"


def odd(*rule, **settings):
    hook = settings.pop("hook", None)
    return oddities(Access.of(Config(rule=rule, **settings), Hooks(authenticate=hook)))


@pytest.mark.parametrize(
    "texts, words",
    [
        (["deny"], "no rule allows anything"),
        (["deny port 25", "deny", "allow"], "no rule allows anything"),
        (["allow user ann"], "rule 1 never matches"),
        (["allow", "deny port 25"], "the rules after rule 1 have no effect"),
        (["allow user none any", "deny port 25"], "the rules after rule 1 have no effect"),
    ],
)
def test_what_cannot_be_meant_is_a_warning(texts, words):
    """In a sentence that says what is odd."""
    (sentence,) = odd(*texts)
    assert words in sentence


SETTINGS = list(itertools.product(((), (ANN,)), (False, True), (False, True)))


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("rule", [(), ("deny port 25",), ("deny user ann",)])
def test_what_is_built_in_is_not_odd(setting, rule):
    """Whatever the flags, and where rules only deny."""
    user, allow_lan, is_open = setting
    if not user and rule == ("deny user ann",):
        return  # it never matches
    if user and is_open:
        return  # a warning, see below
    assert [] == odd(*rule, user=user, allow_lan=allow_lan, open=is_open)


@pytest.mark.parametrize(
    "rule, told",
    [
        (("allow user none",), NO_USER),
        (("allow from 10.0.0.0/8 user none", "deny port 25"), NO_USER),
        (("allow user carl",), NO_USER),
        (("allow user bob",), "no rule allows anything to 'ann', so"),
        (("allow user none ann", "allow user none"), "no rule allows anything to 'bob', so"),
        (("allow from 10.0.0.0/8 user none any",), None),
        (("allow user ann bob",), None),
        (("allow from 10.0.0.0/8",), None),
        (("allow user none", "allow to 10.0.0.1"), None),
    ],
)
@pytest.mark.parametrize("allow_lan", [False, True])
def test_users_that_no_rule_admits_are_a_warning(rule, told, allow_lan):
    """Their right password would get REP 02; with --allow-lan, too, which asks for none."""
    sentences = odd(*rule, user=(ANN, BOB), allow_lan=allow_lan)
    assert len(sentences) == bool(told)
    assert not told or sentences[0].startswith(told)
    assert "secret" not in str(sentences)


def test_many_users_are_counted():
    """And users of a program's hook have any name."""
    users = tuple("u%d:x" % n for n in range(9))
    (sentence,) = odd("allow user u8", user=users)
    assert "allows anything to 'u0', 'u1', 'u2', 5 other users, so" in sentence
    (sentence,) = odd("allow user u8", user=users[:4] + users[8:])
    assert "allows anything to 'u0', 'u1', 'u2', 1 other user, so" in sentence
    (sentence,) = odd("allow user none", hook=lambda *args: True)
    assert sentence.startswith(NO_USER)
    assert [] == odd("allow user ann", hook=lambda *args: True)


def log_in(port, target):
    """Ask for *target* as ann with the right password; return REP."""
    with Talk.to(port) as talk:
        talk.send(b"\x05\x01\x02").expect(b"\x05\x02")
        talk.send(password_message(b"ann", b"secret")).expect(b"\x01\x00")
        return talk.send(socks5("127.0.0.1", target.port)).receive_reply5()[0]


@pytest.mark.parametrize("more", [{}, {"allow_lan": True}])
@pytest.mark.parametrize("rule", ["deny port 1", "allow user none any"])
def test_a_user_is_let_in_behind_rules_that_deny(target, rule, more):
    """The right password is worth as much as without them."""
    with run_proxy(user=ANN, rule=rule, **more) as proxy:
        assert 0 == log_in(proxy.port, target)


def test_a_user_that_no_rule_admits_is_logged_at_start_and_reload(instance):
    """In one line each, which says what to write."""
    instance.configure("user = ann:secret\n[rules]\nallow user none")
    status, _out, err = instance.start()
    assert (0, True, False) == (status, NO_USER in err, NO_USER in instance.log())
    assert 0 == instance.command("reload")[0]
    instance.wait_for_line(NO_USER)
    with CommandLine("-l", "0", "--user", ANN, "--rule", "allow user none") as command:
        command.wait_for_line(NO_USER)
        command.wait_for_line("try it: curl --proxy socks5h://127.0.0.1:%d " % command.ports[0])
