"""A client is known by its address, whichever way it came in."""

import pytest

from minisocks.client import Client


@pytest.mark.parametrize(
    "peer, ip, shown",
    [
        (("10.0.0.7", 50122), b"\x0a\0\0\7", "10.0.0.7:50122"),
        (
            ("2001:db8::7", 50122, 0, 0),
            b"\x20\x01\x0d\xb8" + bytes(11) + b"\7",
            "[2001:db8::7]:50122",
        ),
        # A dual-stack listener's way to say 10.0.0.7.
        (("::ffff:10.0.0.7", 50122, 0, 0), b"\x0a\0\0\7", "10.0.0.7:50122"),
        (("::ffff:127.0.0.1", 1, 0, 0), b"\x7f\0\0\1", "127.0.0.1:1"),
        # Python before 3.7 adds the scope to the text.
        (("fe80::7%eth0", 1, 0, 2), b"\xfe\x80" + bytes(13) + b"\7", "[fe80::7%eth0]:1"),
        # Unix sockets: unnamed, abstract, and what other systems say.
        ("", b"", "unix"),
        (b"", b"", "unix"),
        (b"\0abstract", b"", "unix"),
        ("/run/client.sock", b"", "unix"),
        (None, b"", "unix"),
    ],
)
def test_client_is_its_address(peer, ip, shown):
    """What accept returned becomes 4 or 16 bytes, or none for a unix socket."""
    client = Client(peer)

    assert (ip, shown, None) == (client.ip, str(client), client.user)


@pytest.mark.parametrize("peer", [("", 0), ("unix", 0), ("localhost", 1), ("::ffff:", 1, 0, 0)])
def test_unknown_address_does_not_pass_for_a_unix_socket(peer):
    """A client whose address cannot be read is an error, and not a local client."""
    with pytest.raises(ValueError, match="no address in"):
        Client(peer)
