"""The table of clients that send datagrams: what a user types for each, by protocol.

dig is not among them: it sends by sendmmsg, which socksify does not see, so what reaches
the proxy has no header.  Nor are python-socks and aiohttp-socks, which know the command's
number and no more; curl, whose UDP (HTTP/3) goes by no SOCKS proxy; and Chromium, whose
QUIC does not either.
"""

from kit.client_table import PACKAGED, each
from kit.socks_clients import NodeClient, PythonClient, Session, Wrapper

#: The client writes an address, or a name, into its datagrams.
UDP_PROTOCOLS = ("5", "5h", "password")

NTP = {"port": "123"}
SOCKS5 = {
    "5": 'socks.SOCKS5, "127.0.0.1", %(proxy)s',
    "5h": 'socks.SOCKS5, "127.0.0.1", %(proxy)s',
    "password": 'socks.SOCKS5, "127.0.0.1", %(proxy)s, True, "%(user)s", "%(password)s"',
}

DANTE = "SOCKS_CONF=socks.conf SOCKS_AUTOADD_LANROUTES=no "
WITH_PASSWORD = "SOCKS_USERNAME=%(user)s SOCKS_PASSWORD=%(password)s "
DANTE_FILE = """\
resolveprotocol: fake
route {
    from: 0.0.0.0/0 to: 0.0.0.0/0 via: 127.0.0.1 port = %%(proxy)s
    proxyprotocol: socks_v5
    protocol: udp
    command: udpassociate
    method: %s
}
"""


def by_socksify(title, line, program, kind=Wrapper, **others):
    """Return the client that is *line* with socksify in front of it."""
    before = others.pop("before", "")
    return kind(
        title + " by socksify (Dante), UDP",
        {
            "5": before + DANTE + "socksify " + line,
            "password": before + DANTE + WITH_PASSWORD + "socksify " + line,
        },
        file=("socks.conf", {"5": DANTE_FILE % "none", "password": DANTE_FILE % "username"}),
        programs=("socksify", program) + others.pop("servers", ()),
        literal=("5", "password"),
        **others,
    )


KDIG = by_socksify(
    "kdig",
    "kdig +short -p %(port)s @%(host)s %(query)s TXT",
    "kdig",
    servers=("dnsmasq",),
    package="dante-client, knot-dnsutils, dnsmasq-base",
    example={"port": "53", "query": "example.net"},
    version=PACKAGED + ["dante-client"],
    site="dnsmasq",
    note="The version is Dante's. Its SOCKS_AUTOADD_LANROUTES=no is needed only for servers\n"
    "on networks that this host is in. dig does not go through socksify.",
)

DTLS = by_socksify(
    "openssl s_client",
    "openssl s_client -dtls -quiet -connect %(host)s:%(port)s",
    "openssl",
    kind=Session,
    before="echo question | ",
    package="dante-client, openssl",
    example={"port": "4433"},
    version=PACKAGED + ["dante-client"],
    site="dtls",
    note="A session of DTLS, which goes on until it is interrupted. The version is Dante's.",
)

PYSOCKS = PythonClient(
    "PySocks",
    "socks",
    "sock.close()",
    each(
        "import socket\n"
        "import socks\n\n"
        "sock = socks.socksocket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "sock.set_proxy({})\n"
        'sock.sendto(b"\\x1b" + bytes(47), ("%(host)s", %(port)s))\n'
        "data, sender = sock.recvfrom(65536)\n",
        SOCKS5,
    ),
    literal=("5",),
    example=NTP,
    site="answers",
)

NODE = NodeClient(
    "node: socks",
    "const use = data => process.stdout.write(data);\n",
    each(
        'const dgram = require("dgram");\n'
        'const {SocksClient} = require("socks");\n\n'
        "const client = new SocksClient({\n"
        '  proxy: {host: "127.0.0.1", port: %(proxy)s, {}},\n'
        '  command: "associate",\n'
        '  destination: {host: "0.0.0.0", port: 0},\n'
        "});\n"
        'client.on("established", ({socket, remoteHost}) => {\n'
        '  const udp = dgram.createSocket("udp4");\n'
        '  udp.on("message", frame => {\n'
        "    use(SocksClient.parseUDPFrame(frame).data);\n"
        "    udp.close();\n"
        "    socket.destroy();\n"
        "  });\n"
        "  const frame = SocksClient.createUDPFrame({\n"
        '    remoteHost: {host: "%(host)s", port: %(port)s},\n'
        "    data: Buffer.concat([Buffer.from([0x1b]), Buffer.alloc(47)]),\n"
        "  });\n"
        "  udp.send(frame, remoteHost.port, remoteHost.host);\n"
        "});\n"
        "client.connect();\n",
        {
            "5": "type: 5",
            "5h": "type: 5",
            "password": 'type: 5, userId: "%(user)s", password: "%(password)s"',
        },
    ),
    literal=("5",),
    example=NTP,
    site="answers",
)

QUIC = PythonClient(
    "aioquic",
    "aioquic",
    "data = asyncio.run(get())",
    each(
        "import asyncio\n"
        "import socket\n"
        "import ssl\n"
        "import socks\n"
        "from aioquic.asyncio.protocol import QuicConnectionProtocol\n"
        "from aioquic.quic.configuration import QuicConfiguration\n"
        "from aioquic.quic.connection import QuicConnection\n\n"
        "class Transport(asyncio.DatagramTransport):\n"
        "    def __init__(self, sock, protocol):\n"
        "        self.sock, self.protocol = sock, protocol\n"
        "        asyncio.get_running_loop().add_reader(sock.fileno(), self.receive)\n"
        "        protocol.connection_made(self)\n\n"
        "    def receive(self):\n"
        "        self.protocol.datagram_received(*self.sock.recvfrom(65536))\n\n"
        "    def sendto(self, data, address):\n"
        "        self.sock.sendto(data, address)\n\n"
        "    def close(self):\n"
        "        asyncio.get_running_loop().remove_reader(self.sock.fileno())\n"
        "        self.sock.close()\n\n"
        "async def get():\n"
        "    sock = socks.socksocket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "    sock.set_proxy({})\n"
        '    sock.bind(("", 0))\n'
        "    configuration = QuicConfiguration(\n"
        '        alpn_protocols=["hq-interop"], server_name="%(host)s", %(trust)s\n'
        "    )\n"
        "    protocol = QuicConnectionProtocol(QuicConnection(configuration=configuration))\n"
        "    transport = Transport(sock, protocol)\n"
        '    protocol.connect(("%(host)s", %(port)s))\n'
        "    reader, writer = await protocol.create_stream()\n"
        '    writer.write(b"GET %(path)s\\r\\n")\n'
        "    writer.write_eof()\n"
        "    data = await reader.read()\n"
        "    protocol.close()\n"
        "    await protocol.wait_closed()\n"
        "    transport.close()\n"
        "    return data\n",
        SOCKS5,
    ),
    literal=("5", "5h", "password"),
    example={"port": "443", "trust": "verify_mode=ssl.CERT_REQUIRED"},
    site="quic",
    note="QUIC, through a socket of PySocks.",
)
del QUIC.lines["5h"]
for client in (PYSOCKS, NODE, QUIC):
    client.title += ", UDP"

#: In the order of the page.
UDP_CLIENTS = [KDIG, DTLS, PYSOCKS, NODE, QUIC]
