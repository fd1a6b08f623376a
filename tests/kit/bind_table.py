"""The table of clients that wait for a peer (BIND): what a user types for each, by protocol.

curl is among them with socksify in front of it: by itself it listens with a socket of its own
whatever the proxy (7.88.1; ``ftp_state_use_port`` in its lib/ftp.c).  PySocks, python-socks,
proxychains4, tsocks and ncat have no BIND.

A client has ``site``, the peer that connects back; whether it ``resolves`` names even where the
others leave them to the proxy; and what it says when a BIND is ``refused``.
"""

from kit.client_table import PACKAGED, each
from kit.socks_clients import Client, NodeClient, PerlClient
from kit.udp_table import DANTE, WITH_PASSWORD

#: Not ``fake``, which leaves names to the proxy: for BIND the library takes what it has of the
#: latest CONNECT, be it an address or a name, for an address (Rbind.c, ``lastconnect``).
DANTE_FILE = """\
resolveprotocol: udp
route {
    from: 0.0.0.0/0 to: 0.0.0.0/0 via: 127.0.0.1 port = %%(proxy)s
    proxyprotocol: %s
    protocol: tcp
    command: connect bind
    method: %s
}
"""
DANTE_FILES = {
    "4": DANTE_FILE % ("socks_v4", "none"),
    "5": DANTE_FILE % ("socks_v5", "none"),
    "password": DANTE_FILE % ("socks_v5", "username"),
}
BY_DANTE = (
    "FTP in active mode, a file there and one back. The version is Dante's. It looks names up\n"
    "itself, with a password too: with ``resolveprotocol: fake`` it would take the first four\n"
    "letters of a name for the address that it waits for."
)


def by_socksify(title, download, upload, program, **others):
    """Return the client that gets a file with one line, and puts one with another."""
    lines = {}
    for protocol in DANTE_FILES:
        before = DANTE + WITH_PASSWORD * (protocol == "password") + "socksify "
        lines[protocol] = before + download + "\n" + before + upload
    return Client(
        title + " by socksify (Dante), BIND",
        lines,
        file=("socks.conf", DANTE_FILES),
        programs=("socksify", program, "vsftpd"),
        version=PACKAGED + ["dante-client"],
        example={"port": "21"},
        site="ftp",
        resolves=True,
        **others,
    )


CURL = by_socksify(
    "curl --ftp-port",
    "curl --ftp-port - ftp://%(host)s:%(port)s/file",
    "curl --ftp-port - --upload-file upload ftp://%(host)s:%(port)s/up/",
    "curl",
    package="dante-client, curl, vsftpd",
    refused="bind(port=0) failed",
    note=BY_DANTE + "\n"
    "SOCKS_AUTOADD_LANROUTES=no is needed only for servers on networks that this host is in.\n"
    "``--disable-eprt`` is for servers that know only PORT. Without socksify, by ``--proxy``,\n"
    "curl has the server connect to curl itself, past the proxy.",
)

TNFTP = by_socksify(
    "tnftp",
    "tnftp -A -o - ftp://%(host)s:%(port)s/file",
    "tnftp -A -u ftp://%(host)s:%(port)s/up/ upload",
    "tnftp",
    package="dante-client, tnftp, vsftpd",
    refused="Can't bind for data connection",
    note=BY_DANTE,
)

NODE = NodeClient(
    "node: socks",
    "const use = data => process.stdout.write(data);\n"
    "const tell = (host, port) =>\n"
    '  require("net").connect(process.env.PEER, "127.0.0.1").end(`${host} ${port}\\n`);\n',
    each(
        'const {SocksClient} = require("socks");\n\n'
        "const client = new SocksClient({\n"
        '  proxy: {host: "127.0.0.1", port: %(proxy)s, {}},\n'
        '  command: "bind",\n'
        '  destination: {host: "%(host)s", port: 0},\n'
        "});\n"
        'client.on("bound", ({remoteHost}) => tell(remoteHost.host, remoteHost.port));\n'
        'client.on("established", ({socket}) => {\n'
        '  socket.on("data", use);\n'
        '  socket.write("hello\\n");\n'
        "});\n"
        "client.connect();\n",
        {
            "4": 'type: 4, userId: "%(user)s"',
            "4a": 'type: 4, userId: "%(user)s"',
            "5": "type: 5",
            "5h": "type: 5",
            "password": 'type: 5, userId: "%(user)s", password: "%(password)s"',
        },
    ),
    literal=("4", "5"),
    site="peer",
    resolves=False,
    refused="rejected connection - NotAllowed",
    #: What it says when another peer has connected, and when none has.
    second={
        "4": ("rejected incoming bound connection - (Failed)",) * 2,
        "5": (
            "rejected incoming bound connection - NotAllowed",
            "rejected incoming bound connection - TTLExpired",
        ),
    },
    note="``tell`` is what has the peer connect. ``SocksClient.createConnection`` is for CONNECT.",
)
NODE.title += ", BIND"

PERL = PerlClient(
    "IO::Socket::Socks, BIND",
    "IO::Socket::Socks",
    'sub tell_peer { IO::Socket::INET->new("127.0.0.1:$ENV{PEER}")->print("@_\\n") }\n',
    each(
        "use IO::Socket::Socks;\n\n"
        "my $sock = IO::Socket::Socks->new(\n"
        '    ProxyAddr => "127.0.0.1", ProxyPort => %(proxy)s, {},\n'
        '    BindAddr => "%(host)s", BindPort => 0,\n'
        ") or die $SOCKS_ERROR;\n"
        "tell_peer(($sock->dst)[0, 1]);\n"
        "$sock->accept or die $SOCKS_ERROR;\n"
        'print $sock "hello\\n";\n'
        "print while <$sock>;\n",
        {
            "5": "SocksVersion => 5, SocksResolve => 0",
            "5h": "SocksVersion => 5",
            "password": 'SocksVersion => 5, AuthType => "userpass", '
            'Username => "%(user)s", Password => "%(password)s"',
        },
    ),
    package="libio-socket-socks-perl",
    site="peer",
    resolves=False,
    refused="Not allowed",
    second={"5": ("Not allowed", "TTL expired")},
    note="``tell_peer`` is what has the peer connect. It can ask by SOCKS4, but reads the second\n"
    "reply as one of SOCKS5.",
)

#: In the order of the page.
BIND_CLIENTS = [CURL, TNFTP, NODE, PERL]
