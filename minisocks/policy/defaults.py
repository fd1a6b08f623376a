"""The rules that are built in, and where they stand among those of the settings.

In force are the rules of the settings and some built in, "safe, not closed":

* A client from elsewhere does not reach this host's own addresses, nor loopback, link-local,
  metadata and unspecified ones in any form, nor a whole network by multicast.  Only a client from
  a private network reaches private networks; those that a host may share with strangers, of a
  carrier's NAT and of a link, count as private with ``allow_lan`` only.  These two rules stand
  before the first one that allows without naming addresses in ``to``; so a rule opens what it
  names.  An address of this host is named by itself or by ``self``, not by a network that it
  happens to be in.
* Without rules of the settings that allow: only clients on this host may come in, or, if there
  are users, clients that have given a password.  Rules that deny stand before that.
  ``allow_lan`` lets private networks in too, ``open`` any client.
* Where there are users, a rule that allows and does not speak of users means clients that have
  given a password; ``user none`` takes others, ``user none any`` both.
"""

from typing import List, Sequence

from minisocks.policy.lists import Lines
from minisocks.policy.rulelines import Rule, parse_rule

__all__ = ["ALL", "FROM_LAN", "in_force"]


def _built_in(text: str) -> Rule:
    return parse_rule(text, lambda path: Lines([], []))._replace(is_built_in=True)


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
    """Return the rules in their order, given those of the settings."""
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


def _with_user(rule: Rule) -> Rule:
    if not rule.allows or rule.users is not None:
        return rule
    return rule._replace(users=frozenset(), any_user=True, text=rule.text + " user any")


def _opens_all(rule: Rule) -> bool:
    """Return whether *rule* allows addresses that it does not name: a name may have any."""
    targets = rule.targets
    return rule.allows and (
        targets is None
        or bool(targets.names)
        or not targets.has_addresses
        or targets.has_everything  # 0.0.0.0/0 is how others write "anywhere"
    )
