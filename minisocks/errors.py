"""Every exception that minisocks raises on purpose.

::

    MinisocksError
      ConfigError (also ValueError)   .option
        RuleError                     .text, .column
      ListenError (also OSError)      a listener could not be opened
      EgressError (also OSError)      cannot connect to targets as set
      ServiceError                    the process cannot run as asked
        NotRunning                    no minisocks runs there
      HandshakeError                  .rep: REP of the reply
        ProtocolError                 bytes that are not valid
        NotSocks                      another protocol
        UnsupportedCommand
        UnsupportedAddressType
        AuthFailed
          Probe                       a health check
        RefusedByRules
        NoIdentd                      no answer from identd: .cd is 92
        IdentMismatch                 identd names another user: .cd is 93
        LimitReached                  a limit of the settings
        HandshakeTimeout
        HookFailed                    a hook of the program failed
        NotChecked                    a password was not checked in time
        ProxyStops                    the proxy stopped meanwhile
      DialError                       .rep, .attempts
        ExitFailed                    an exit did not answer the request
        CannotCarry                   the protocol of an exit cannot carry it

``HandshakeError`` and ``DialError`` carry the REP for the client, so that one place can turn any
of them into a reply.
"""

from typing import Any, Optional, Sequence, Tuple

from minisocks.wire import Cd, Rep

__all__ = [
    "AuthFailed",
    "CannotCarry",
    "ConfigError",
    "DialError",
    "EgressError",
    "ExitFailed",
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
    "RuleError",
    "ServiceError",
    "UnsupportedAddressType",
    "UnsupportedCommand",
]


class MinisocksError(Exception):
    """The root of all errors, never raised itself."""


class ConfigError(MinisocksError, ValueError):
    """A setting has a value that is not valid.

    ``option`` is its name on the command line.  ``place`` is where the value stands: a file and
    a line, say; by default the option, and then ``is_placed`` is False.  ``index`` is the
    position of the value among those of a setting that may be repeated, from 0.
    """

    index = 0

    def __init__(self, option: str, message: str, place: str = "") -> None:
        super().__init__(message)
        self.option = option
        self.place = place or option
        self.is_placed = bool(place)

    @property
    def sentence(self) -> str:
        """Place and message in one line, for people."""
        return "%s: %s" % (self.place, self)

    @property
    def picture(self) -> Sequence[str]:
        """More lines to show below the sentence, where there is room."""
        return ()

    def at(self, option: str, place: str) -> "ConfigError":
        """Return the same error with another place."""
        return ConfigError(option, str(self), place)


#: The most characters of a line that ``picture`` shows.
MOST_SHOWN = 400


class RuleError(ConfigError):
    """A rule is not valid.

    ``column`` is the position of the mistake in the line, from 1.
    """

    def __init__(self, message: str, text: str, column: int, place: str = "--rule") -> None:
        super().__init__("--rule", message[:500], "%s, column %d" % (place, column))
        self.is_placed = place != "--rule"
        self.text = text
        self.column = column

    @property
    def picture(self) -> Sequence[str]:
        """The rule, and a caret below the mistake."""
        # Only the part around the mistake if the line is very long.
        cut = max(0, self.column - 1 - MOST_SHOWN // 2)
        text, column = self.text[cut : cut + MOST_SHOWN], self.column - 1 - cut
        # Wide characters, and those without width, would move the caret.
        shown = "".join(c if c.isprintable() or c == "\t" else "?" for c in text)
        gap = "".join("\t" if c == "\t" else " " for c in shown[:column])
        return (shown, gap.ljust(column) + "^")

    def at(self, option: str, place: str) -> "RuleError":
        """Return the same error with another place."""
        return RuleError(str(self), self.text, self.column, place)


class ListenError(MinisocksError, OSError):
    """A listener could not be opened; the message is one sentence for people."""


class EgressError(MinisocksError, OSError):
    """The settings of the egress can never work; the message is one sentence for people."""


#: The name that it had first.
RoadError = EgressError


class ServiceError(MinisocksError):
    """A command failed; the message is one sentence for people."""


class NotRunning(ServiceError):
    """No minisocks runs there; the message is one sentence for people."""


class HandshakeError(MinisocksError):
    """The handshake failed.  Never raised itself."""

    #: REP of the reply; None: close without a reply.
    rep: Optional[Rep] = Rep.GENERAL_FAILURE
    #: CD of a SOCKS4 reply; only errors of identd have their own.
    cd = Cd.REJECTED


class ProtocolError(HandshakeError):
    """The bytes of the client are not valid in its protocol."""


class NotSocks(HandshakeError):
    """The client speaks another protocol; the message names the likely mistake.

    ``answer`` is the answer in its own protocol, or empty.
    """

    rep = None

    def __init__(self, message: str, answer: bytes = b"") -> None:
        super().__init__(message)
        self.answer = answer


class UnsupportedCommand(HandshakeError):
    """CMD is unknown, or not available in this version of SOCKS."""

    rep = Rep.COMMAND_NOT_SUPPORTED


class UnsupportedAddressType(HandshakeError):
    """ATYP is none of IPv4, domain name and IPv6."""

    rep = Rep.ADDRESS_TYPE_NOT_SUPPORTED


class AuthFailed(HandshakeError):
    """No common method, or a wrong user name or password."""

    rep = Rep.NOT_ALLOWED


class Probe(AuthFailed):
    """The client offers no METHOD at all: a health check."""


class RefusedByRules(HandshakeError):
    """A rule denies the client, or its target."""

    rep = Rep.NOT_ALLOWED


class NoIdentd(HandshakeError):
    """The host of a SOCKS4 client has no identd that answers (RFC 1413)."""

    rep = Rep.NOT_ALLOWED
    cd = Cd.NO_IDENTD


class IdentMismatch(HandshakeError):
    """The identd of a SOCKS4 client does not name the USERID that the client sent."""

    rep = Rep.NOT_ALLOWED
    cd = Cd.IDENTD_MISMATCH


class LimitReached(HandshakeError):
    """A limit is reached; the message names the option and its value.

    The message must be the same for each refusal, so that the log can suppress repeats.
    """

    rep = Rep.NOT_ALLOWED


class HandshakeTimeout(HandshakeError):
    """The client did not complete the handshake in time."""

    rep = Rep.TTL_EXPIRED


class HookFailed(HandshakeError):
    """A hook of the embedding program raised, or returned an invalid value."""


class NotChecked(HandshakeError):
    """A password could not be checked in time."""


class ProxyStops(HandshakeError):
    """The proxy stopped during the handshake."""

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


class ExitFailed(DialError):
    """An exit did not answer the request: it cannot be reached, refuses us, or sends garbage.

    The request can be tried by another exit.
    """

    def __init__(self, message: str, rep: Rep = Rep.GENERAL_FAILURE) -> None:
        super().__init__(message, rep)


class CannotCarry(DialError):
    """The protocol of an exit cannot carry the request; nothing was sent."""
