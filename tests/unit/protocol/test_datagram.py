"""The header of a datagram: golden bytes, cut anywhere, and any bytes at all."""

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from minisocks.errors import HandshakeError, ProtocolError, UnsupportedAddressType
from minisocks.protocol.datagram import Header, decode_header, encode_header
from minisocks.wire import Address, Atyp, packed_ip

GOLDEN = [
    (
        (
            b"\0\0"  # RSV
            b"\0"  # FRAG
            b"\x01"  # ATYP
            b"\xc0\0\x02\x07"  # DST.ADDR
            b"\0\x35"  # DST.PORT
        ),
        Address(b"192.0.2.7", 53, Atyp.IPV4),
    ),
    (
        b"\0\0\0\x04\x20\x01\x0d\xb8" + bytes(11) + b"\x07\xff\xff",
        Address(b"2001:db8::7", 65535, Atyp.IPV6),
    ),
    (b"\0\0\0\x03\x0bexample.org\x01\xbb", Address(b"example.org", 443, Atyp.DOMAINNAME)),
    (b"\0\0\0\x03\x05[::1]\x01\xbb", Address(b"::1", 443, Atyp.DOMAINNAME)),
    (
        b"\0\0\0\x04" + bytes(10) + b"\xff\xff\xc0\0\x02\x07\x01\xbb",
        Address(b"192.0.2.7", 443, Atyp.IPV4),
    ),
    (b"\0\0\0\x03\x01a\0\0", Address(b"a", 0, Atyp.DOMAINNAME)),
    (b"\0\0\0\x03\xff" + b"x" * 255 + b"\0\1", Address(b"x" * 255, 1, Atyp.DOMAINNAME)),
]


@pytest.mark.rfc("RFC 1928 section 5", "ATYP 01: 4 octets; ATYP 04: 16 octets.")
@pytest.mark.rfc(
    "RFC 1928 section 7",
    "Each datagram has a header: RSV 0000, FRAG, ATYP, DST.ADDR, DST.PORT, then DATA.",
)
@pytest.mark.parametrize("data, dst", GOLDEN, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("tail", [b"", b"t", b"tail" * 100])
def test_a_header_is_read(data, dst, tail):
    """Where to, and how long that was: whatever is behind it, and whatever FRAG and RSV are."""
    assert Header(0, dst, len(data)) == decode_header(data + tail)
    for frag in (1, 127, 128, 255):
        odd = b"\xff\xff" + bytes((frag,)) + data[3:] + tail
        assert Header(frag, dst, len(data)) == decode_header(odd)


@pytest.mark.rfc("RFC 1928 section 6", "Fields marked RSV \"must be set to X'00'\".")
@pytest.mark.rfc("RFC 1928 section 7", "Applications should avoid fragmentation.")
@pytest.mark.parametrize("data, dst", GOLDEN[:2], ids=["IPv4", "IPv6"])
def test_a_header_is_written(data, dst):
    """The same bytes as are read."""
    assert data == encode_header(packed_ip(dst.name), dst.port)


@pytest.mark.rfc(
    "RFC 1928 section 7",
    "Each datagram has a header: RSV 0000, FRAG, ATYP, DST.ADDR, DST.PORT, then DATA.",
)
@pytest.mark.parametrize("data, dst", GOLDEN, ids=lambda value: type(value).__name__)
def test_a_header_that_is_cut_off_is_none(data, dst):
    """No beginning of a header is taken for a header, not even an empty one."""
    for size in range(len(data)):
        with pytest.raises(ProtocolError, match=r"\b%d bytes" % size):
            decode_header(data[:size])


def test_what_cannot_be_an_address_is_none():
    """An unknown ATYP, a name that is empty or holds a NUL."""
    for atyp in (0, 2, 5, 255):
        with pytest.raises(UnsupportedAddressType):
            decode_header(bytes((0, 0, 0, atyp)) + bytes(30))
    for name in (b"\0", b"\3a\0b"):
        with pytest.raises(ProtocolError):
            decode_header(b"\0\0\0\x03" + name + b"\0\x35")


@hypothesis_settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_header_or_none(data):
    """Nothing else is raised, and what is read was there."""
    try:
        header = decode_header(data)
    except HandshakeError:
        return
    assert data[2] == header.frag
    assert 7 < header.size <= len(data)
    if header.dst.atyp != Atyp.DOMAINNAME:
        packed = packed_ip(header.dst.name)
        assert data[3 : header.size] == encode_header(packed, header.dst.port)[3:]
