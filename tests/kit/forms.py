"""The forms that an address or a name can have; the network of ``namespace`` has them all."""

from kit import namespace as net

#: Every form of "this host itself" that an address or a name can have; bytes
#: go as a name (SOCKS5 ATYP 3, SOCKS4a), text as an address.
THIS_HOST = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3",
    "::1", "::",
    "::ffff:127.0.0.1", "::ffff:127.1.2.3", "::ffff:0.0.0.0",
    "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1",
    b"127.0.0.1", b"127.1", b"127.0.1", b"0", b"0.0.0.0", b"0.0",
    b"2130706433", b"0x7f000001", b"0x7F.1", b"017700000001", b"0177.0.0.01",
    b"::1", b"0:0:0:0:0:0:0:1", b"::", b"::ffff:127.0.0.1", b"::ffff:7f00:1", b"::ffff:0:0",
    b"[::1]", b"[0::1]", b"[::]", b"[::ffff:127.0.0.1]",
    b"localhost", b"LOCALHOST", b"localhost.", b"LocalHost.", b"www.localhost", b"a.LOCALHOST.",
    b"loopback.test", b"loopback6.test", b"mapped.test", b"zero.test", b"all-denied.test",
]  # fmt: skip

#: Not for clients from elsewhere either.
LINK_LOCAL = [
    net.LINK_LOCAL4, *net.METADATA, net.METADATA_ON_LINK,
    "fe80::1", "::ffff:169.254.169.254", "2002:a9fe:a9fe::",
    b"169.254.169.254", b"0xa9fea9fe", b"2852039166", b"fe80::1%lo", b"metadata.test",
    "64:ff9b::a9fe:a9fe", b"fe80::a9fe:a9fe%lo",
    b"[fe80::1%lo]", b"[::ffff:169.254.169.254]",
]  # fmt: skip

PRIVATE = [
    net.PRIVATE4, net.OTHER_PRIVATE4, net.CARRIER4, net.PRIVATE6,
    "::ffff:10.0.0.1", "64:ff9b::a00:1",
    b"10.0.0.1", b"10.1", b"0xa000001", b"fd00::1", b"[fd00::1]", b"private.test", b"private6.test",
]  # fmt: skip

#: In no set that clients may be trusted for, and not to be reached by those from elsewhere.
RESERVED = [*net.RESERVED, "::ffff:240.0.0.1", b"240.1", b"198.18.1", b"0xc0000001"]

#: Forms of addresses that hand out credentials, beside those that ``LINK_LOCAL`` has.
METADATA = [
    *net.METADATA, net.METADATA_ON_LINK, b"fe80::a9fe:a9fe%lo", b"metadata.test",
    b"169.254.43518", b"0xa9feaa02", b"100.6579400", b"0xc00000c0", b"0250.63.129.16",
    b"fd00:ec2:0::0254", b"FD00:C1::169.254.169.254", b"::ffff:169.254.170.23",
]  # fmt: skip
#: The same, wrapped as gateways unwrap them; no route of the tests goes there.
WRAPPED_METADATA = [
    "::169.254.169.254", "::ffff:0:a9fe:a9fe", "64:ff9b::a9fe:aa02", "64:ff9b:1::a9fe:aa17",
    "2002:a9fe:2a2a::1", "2002:6464:64c8::", "2001:0:a83f:8110::", "2001:0:808:808:0:0:3fff:ff3f",
    "2001:db8::5efe:169.254.169.254", "fe80::200:5efe:100.100.100.200",
]  # fmt: skip

PUBLIC = [
    net.PUBLIC4,
    net.PUBLIC6,
    "::ffff:203.0.113.5",
    b"203.0.113.5",
    b"2001:db8::5",
    b"[2001:db8::5]",
    b"[::ffff:203.0.113.5]",
    b"public.test",
    b"public6.test",
]

#: Those of them that cannot be connected to, because the kernel has no such route.
NOWHERE = {
    "0.1.2.3",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::1",
    "fe80::1",
    net.METADATA_ON_LINK,
    "2002:a9fe:a9fe::",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::a00:1",
    b"fe80::1%lo",
    b"[fe80::1%lo]",
    b"fe80::a9fe:a9fe%lo",
}
#: Names that only a system's own resolver may know to be this host.
SYSTEM_NAMES = {b"localhost.", b"LocalHost.", b"www.localhost", b"a.LOCALHOST."}
