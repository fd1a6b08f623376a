"""Every exception that minisocks raises on purpose.

::

    MinisocksError
      ConfigError (also ValueError)   .option
        RuleError                     .text, .column
      ListenError (also OSError)      a listener could not be opened
      RoadError (also OSError)        targets cannot be dialed as set
      ServiceError                    the process cannot run as asked
        NotRunning                    nobody is there to be spoken to
      HandshakeError                  .rep: what the client is told
        ProtocolError                 it broke the protocol
        NotSocks                      it speaks something else
        UnsupportedCommand
        UnsupportedAddressType
        AuthFailed
          Probe                       it only asks whether we live
        RefusedByRules
        NoIdentd                      who it is cannot be asked: .cd is 92
        IdentMismatch                 its identd says something else: .cd is 93
        LimitReached                  a limit of the operator's says no
        HandshakeTimeout
        HookFailed                    the embedding program's code did not say
        NotChecked                    a password could not even be checked
        ProxyStops                    the proxy ends while the client still speaks
      DialError                       .rep, .attempts

``HandshakeError`` and ``DialError`` carry the REP that the client deserves, so
that one place can turn any of them into a reply.
"""

from typing import Any, Optional, Sequence, Tuple

from minisocks.wire import Cd, Rep

__all__ = [
    "AuthFailed",
    "ConfigError",
    "DialError",
    "HandshakeError",
    "HandshakeTimeout",
    "HookFailed",
    "IdentMismatch",
    "LimitReached",
    "ListenError",
    "MinisocksError",
    "NoIdentd",
    "NotChecked",
    "NotRunning",
    "NotSocks",
    "Probe",
    "ProtocolError",
    "ProxyStops",
    "RefusedByRules",
    "RoadError",
    "RuleError",
    "ServiceError",
    "UnsupportedAddressType",
    "UnsupportedCommand",
]


class MinisocksError(Exception):
    """Never raised itself: the root, to catch all of them."""


class ConfigError(MinisocksError, ValueError):
    """A setting has a value that cannot be used.

    ``option`` is the setting's name as the command line spells it; ``place`` is
    where the value stands, which is there unless something else is said.
    """

    def __init__(self, option: str, message: str, place: str = "") -> None:
        super().__init__(message)
        self.option = option
        self.place = place or option

    @property
    def sentence(self) -> str:
        """Place and message, in one line for people."""
        return "%s: %s" % (self.place, self)

    @property
    def picture(self) -> Sequence[str]:
        """Lines to be shown below the sentence where there is room for more than one."""
        return ()

    def at(self, option: str, place: str) -> "ConfigError":
        """Return the same error with where the value stands."""
        return ConfigError(option, str(self), place)


#: Characters of a line, at most.
MOST_SHOWN = 400


class RuleError(ConfigError):
    """A rule cannot be read.

    ``column`` is where in its line, the first character being 1.
    """

    def __init__(self, message: str, text: str, column: int, place: str = "--rule") -> None:
        super().__init__("--rule", message[:500], "%s, column %d" % (place, column))
        self.text = text
        self.column = column

    @property
    def picture(self) -> Sequence[str]:
        """The rule, and a caret below what is wrong in it."""
        # Of a very long line what is around the place.
        cut = max(0, self.column - 1 - MOST_SHOWN // 2)
        text, column = self.text[cut : cut + MOST_SHOWN], self.column - 1 - cut
        # What is wide or has no width at all would move the caret.
        shown = "".join(c if c.isprintable() or c == "\t" else "?" for c in text)
        gap = "".join("\t" if c == "\t" else " " for c in shown[:column])
        return (shown, gap.ljust(column) + "^")

    def at(self, option: str, place: str) -> "RuleError":
        """Return the same error with where the rule stands."""
        return RuleError(str(self), self.text, self.column, place)


class ListenError(MinisocksError, OSError):
    """A listener could not be opened; the message is one sentence for people."""


class RoadError(MinisocksError, OSError):
    """Targets can never be dialed as the settings say; one sentence for people."""


class ServiceError(MinisocksError):
    """The command line cannot do as asked; one sentence for people."""


class NotRunning(ServiceError):
    """No minisocks runs there; one sentence for people."""


class HandshakeError(MinisocksError):
    """The handshake ended without success.  Never raised itself."""

    #: What the client is told; None: close without a word.
    rep: Optional[Rep] = Rep.GENERAL_FAILURE
    #: The CD of a SOCKS4 reply; only what identd has to do with has one of its own.
    cd = Cd.REJECTED


class ProtocolError(HandshakeError):
    """The client's bytes break the protocol that they began."""


class NotSocks(HandshakeError):
    """The client speaks another protocol; the message names the likely mistake.

    ``answer`` is what it gets in its own protocol, or nothing.
    """

    rep = None

    def __init__(self, message: str, answer: bytes = b"") -> None:
        super().__init__(message)
        self.answer = answer


class UnsupportedCommand(HandshakeError):
    """CMD is not one that this server carries out."""

    rep = Rep.COMMAND_NOT_SUPPORTED


class UnsupportedAddressType(HandshakeError):
    """ATYP is none of IPv4, domain name and IPv6."""

    rep = Rep.ADDRESS_TYPE_NOT_SUPPORTED


class AuthFailed(HandshakeError):
    """No common method, or a wrong user name or password."""

    rep = Rep.NOT_ALLOWED


class Probe(AuthFailed):
    """The client offers no METHOD at all: it only wants to know whether somebody is here."""


class RefusedByRules(HandshakeError):
    """The client may not come in, or may not go where it wants to."""

    rep = Rep.NOT_ALLOWED


class NoIdentd(HandshakeError):
    """Whether a SOCKS4 client is who it says cannot be asked: nobody answers (RFC 1413)."""

    rep = Rep.NOT_ALLOWED
    cd = Cd.NO_IDENTD


class IdentMismatch(HandshakeError):
    """A SOCKS4 client's identd does not say that it is who it says."""

    rep = Rep.NOT_ALLOWED
    cd = Cd.IDENTD_MISMATCH


class LimitReached(HandshakeError):
    """A limit keeps the client out; the message names the option and its value.

    Nothing in it may differ from one refusal to the next, so that the log can fold them.
    """

    rep = Rep.NOT_ALLOWED


class HandshakeTimeout(HandshakeError):
    """The client did not finish what it had to say in time."""

    rep = Rep.TTL_EXPIRED


class HookFailed(HandshakeError):
    """A hook of the embedding program raised, or returned what it must not."""


class NotChecked(HandshakeError):
    """A password could not be checked in time."""


class ProxyStops(HandshakeError):
    """The proxy stops while the handshake goes on."""

    rep = None


class DialError(MinisocksError):
    """The target could not be reached.

    ``attempts`` lists what was tried: ``[(sockaddr, OSError), ...]``.
    """

    def __init__(
        self, message: str, rep: Rep, attempts: Sequence[Tuple[Any, OSError]] = ()
    ) -> None:
        super().__init__(message)
        self.rep = rep
        self.attempts = list(attempts)
