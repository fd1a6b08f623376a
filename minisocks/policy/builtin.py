"""The built-in rules, and the rules in force: those of the settings and the built-in ones.  Pure.

In force are the rules of the settings and some built-in ones, "safe, not closed":

* A remote client does not reach addresses of this host, nor loopback, link-local, metadata and
  unspecified addresses in any form, nor multicast.  Only a client from a private network reaches
  private networks; carrier NAT and link-local networks, which a host may share with strangers,
  count as private with ``allow_lan`` only.  These two rules stand before the first rule that
  allows without addresses in ``to``, so a rule opens only what it names.  A rule names an address
  of this host by the address or ``self``, not by a network that contains it.
* If no rule of the settings allows anything, only clients on this host are admitted or, if there
  are users, clients that have given a password.  Rules that deny stand before that.  ``allow_lan``
  admits private networks, too, ``open`` any client.
* If there are users, a rule that allows and has no ``user`` means clients that have given a
  password; ``user none`` means the others, ``user none any`` both.
"""

from typing import List, Sequence

from minisocks.policy.rulelines import Rule, no_lines, parse_rule

__all__ = ["ALL", "FROM_LAN", "in_force", "label"]


def _built_in(text: str) -> Rule:
    return parse_rule(text, no_lines)._replace(is_built_in=True)


_OURS = _built_in(
    "deny from remote to self loopback unspecified linklocal metadata multicast "
    "localhost .localhost"
)
_INSIDE = _built_in("deny from public reserved linklocal 100.64.0.0/10 to private reserved")
_INSIDE_OF_LAN = _built_in("deny from public reserved to private reserved")
_FROM_HERE = _built_in("allow from loopback")
FROM_LAN = _built_in("allow from loopback private linklocal")
_WITH_PASSWORD = _built_in("allow user any")
ALL = _built_in("allow")


def in_force(
    own: Sequence[Rule], has_users: bool = False, allow_lan: bool = False, open: bool = False
) -> List[Rule]:
    """Return the rules in force, in their order; *own* are those of the settings."""
    rules = [_with_user(rule) if has_users else rule for rule in own]
    place = next((i for i, rule in enumerate(rules) if _opens_all(rule)), len(rules))
    rules[place:place] = [_OURS, _INSIDE_OF_LAN if allow_lan else _INSIDE]
    if not any(rule.allows for rule in own):
        rules.append(_WITH_PASSWORD if has_users else _FROM_HERE)
    if allow_lan:
        rules.append(FROM_LAN)
    if open:
        rules.append(ALL)
    return rules


def label(rules: Sequence[Rule], number: int) -> str:
    """Return how messages name one of *rules*, from 1: by its number among the operator's own."""
    if rules[number - 1].is_built_in:
        return "a built-in rule"
    return "rule %d" % sum(not rule.is_built_in for rule in rules[:number])


def _with_user(rule: Rule) -> Rule:
    if not rule.allows or rule.users is not None:
        return rule
    return rule._replace(users=frozenset(), any_user=True, text=rule.text + " user any")


def _opens_all(rule: Rule) -> bool:
    """Return whether *rule* allows addresses that it does not name; a name may have any."""
    targets = rule.targets
    return rule.allows and (
        targets is None
        or bool(targets.names)
        or not targets.has_addresses
        or targets.has_everything  # 0.0.0.0/0 is how others write "anywhere"
    )
