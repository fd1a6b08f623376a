"""The client side of a handshake that ends behind the login: ``minisocks check --exits``."""

import pytest

from kit.conversation import every_cut
from minisocks.errors import ExitFailed
from minisocks.protocol.clientside import ClientSide
from minisocks.wire import Cmd, Rep


def side_of(scheme, **login):
    return ClientSide(scheme, Cmd.CONNECT, None, **login)


def converse(side, data):
    """Return the reply to *data*, which comes in these pieces, and all that was sent."""
    event, sent = side.next_event(), side.data_to_send()
    for piece in data:
        assert event is None
        side.receive_data(piece)
        event, sent = side.next_event(), sent + side.data_to_send()
    return event, sent


LOGIN = {"user": b"ann", "password": b"pw"}
SAID = b"\x01\x03ann\x02pw"


@pytest.mark.parametrize(
    "login, answer, sent, has_logged_in",
    [
        ({}, b"\x05\x00", b"\x05\x01\x00", False),
        (LOGIN, b"\x05\x00", b"\x05\x02\x00\x02", False),
        (LOGIN, b"\x05\x02\x01\x00", b"\x05\x02\x00\x02" + SAID, True),
        (dict(LOGIN, must_log_in=True), b"\x05\x02\x01\x00", b"\x05\x01\x02" + SAID, True),
    ],
)
@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_socks5_ends_behind_the_login(scheme, login, answer, sent, has_logged_in):
    """No request is sent, however the answer is cut."""
    for pieces in every_cut(answer):
        side = side_of(scheme, **login)
        event, said = converse(side, pieces)
        assert (Rep.SUCCEEDED, sent) == (event.rep, said)
        assert (has_logged_in, False) == (side.has_logged_in, side.is_asked)


@pytest.mark.parametrize("scheme", ["socks4", "socks4a", "http"])
def test_others_have_nothing_to_ask_before_the_request(scheme):
    """Nothing is sent, and there is nothing to wait for."""
    event, sent = converse(side_of(scheme, user=b"ann"), [])

    assert (Rep.SUCCEEDED, b"") == (event.rep, sent)


@pytest.mark.parametrize(
    "answer, why",
    [
        (b"\x05\xff", "it takes no login by password"),
        (b"\x05\x02\x01\x01", "it refuses user and password"),
        (b"HTTP", "it is no SOCKS5 proxy"),
        (b"\x05", "it closed without a whole reply"),
    ],
)
def test_a_proxy_that_does_not_log_us_in_has_failed(answer, why):
    """With the words that a request would get."""
    with pytest.raises(ExitFailed, match=why):
        converse(side_of("socks5h", **LOGIN), [answer, b""])
